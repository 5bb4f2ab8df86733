/* Ranges of activations, the grids chosen for them, and where quantizers go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <float.h>
#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/activation_range.h"
#include "quant/activations.h"
#include "run/run.h"
#include "support/faults.h"
#include "support/sketch.h"

/* --------------------------------------------------------------------------------------------------- ranges */

enum { NUMBERS = 20000 };

typedef struct numbers {
  float x[NUMBERS];
  qb_activation_range range;
} numbers;

static void watch(numbers *n) {
  assert_true(qb_activation_range_widen(&n->range, n->x, NUMBERS));
  n->range.bins = qb_alloc(QB_RANGE_BINS, sizeof *n->range.bins);
  assert_non_null(n->range.bins);
  qb_activation_range_count(&n->range, n->x, NUMBERS);
}

/* Normal numbers, negative ones cut to zero when `gated`, and one outlier. */
static numbers *draw(bool gated, float outlier) {
  numbers *n = qb_alloc(1, sizeof *n);
  assert_non_null(n);
  qb_rng rng;
  qb_rng_seed(&rng, 12, 0);
  for (int i = 0; i < NUMBERS; i++) {
    float x = (float)qb_rng_normal(&rng);
    n->x[i] = gated && x < 0 ? 0 : x;
  }
  n->x[17] = outlier;
  watch(n);
  return n;
}

static void release(numbers *n) {
  qb_free(n->range.bins);
  qb_free(n);
}

/* x through the codes, as QuantizeLinear and DequantizeLinear compute it. */
static float through(const qb_activation_grid *grid, float x) {
  float code = rintf(x / grid->scale) + (float)grid->zero_point, highest = (float)((1 << grid->bits) - 1);
  code = code < 0 ? 0 : code > highest ? highest : code;
  return (code - (float)grid->zero_point) * grid->scale;
}

static double mean_square(const qb_activation_grid *grid, const float *x) {
  double sum = 0;
  for (int i = 0; i < NUMBERS; i++) {
    double d = (double)through(grid, x[i]) - (double)x[i];
    sum += d * d;
  }
  return sum / NUMBERS;
}

static void min_max_holds_every_number(void **state) {
  (void)state;
  for (int gated = 0; gated < 2; gated++)
    for (int bits = 8; bits <= 16; bits += 8) {
      numbers *n = draw(gated == 1, 9);
      qb_activation_grid grid = qb_activation_grid_choose(&n->range, QB_RANGE_MINMAX, 1, bits);
      assert_int_equal(grid.bits, bits);
      assert_true(through(&grid, 0) == 0);
      assert_true(gated == 0 ? grid.zero_point > 0 : grid.zero_point == 0);
      for (int i = 0; i < NUMBERS; i++) /* half a step, one step at a limit that rounding of the zero point moved */
        assert_true(fabsf(through(&grid, n->x[i]) - n->x[i]) <= (gated == 1 ? 0.5001f : 1.0f) * grid.scale);
      release(n);
    }
}

static void one_sided_ranges_keep_zero_at_the_end(void **state) {
  (void)state;
  const float low[2] = {2, 5}, high[2] = {-3, -1}, none[2] = {0, 0}, tiny[2] = {0, 1e-44f},
              huge[2] = {-FLT_MAX, FLT_MAX};
  qb_activation_range range = {0};
  assert_true(qb_activation_range_widen(&range, low, 2));
  qb_activation_grid grid = qb_activation_grid_choose(&range, QB_RANGE_MINMAX, 1, 8);
  assert_true(grid.zero_point == 0 && grid.scale == 5.0f / 255);
  range = (qb_activation_range){0};
  assert_true(qb_activation_range_widen(&range, high, 2));
  grid = qb_activation_grid_choose(&range, QB_RANGE_MINMAX, 1, 8);
  assert_true(grid.zero_point == 255 && grid.scale == 3.0f / 255);
  range = (qb_activation_range){0};
  assert_true(qb_activation_range_widen(&range, none, 2));
  grid = qb_activation_grid_choose(&range, QB_RANGE_MINMAX, 1, 8);
  assert_true(grid.zero_point == 0 && grid.scale > 0);
  assert_true(qb_activation_range_widen(&range, tiny, 2));
  grid = qb_activation_grid_choose(&range, QB_RANGE_MINMAX, 1, 16);
  assert_true(grid.scale >= FLT_MIN && grid.zero_point == 0);
  assert_true(qb_activation_range_widen(&range, huge, 2));
  grid = qb_activation_grid_choose(&range, QB_RANGE_MINMAX, 1, 8);
  assert_true(isfinite(grid.scale) && (grid.zero_point == 127 || grid.zero_point == 128));
}

static void nan_and_infinity_are_noticed(void **state) {
  (void)state;
  const float bad[3][2] = {{1, NAN}, {INFINITY, 0}, {0, -INFINITY}};
  for (int i = 0; i < 3; i++) {
    qb_activation_range range = {0};
    assert_false(qb_activation_range_widen(&range, bad[i], 2));
  }
}

static void a_percentile_leaves_outliers_out(void **state) {
  (void)state;
  numbers *n = draw(false, 100);
  qb_activation_grid all = qb_activation_grid_choose(&n->range, QB_RANGE_PERCENTILE, 1, 8);
  qb_activation_grid most = qb_activation_grid_choose(&n->range, QB_RANGE_PERCENTILE, 0.99, 8);
  float lo = -(float)most.zero_point * most.scale, hi = (float)(255 - most.zero_point) * most.scale;
  int below = 0, above = 0;
  for (int i = 0; i < NUMBERS; i++) {
    below += n->x[i] < lo - most.scale;
    above += n->x[i] > hi + most.scale;
  }
  assert_true(all.scale > 100.0f / 255 && most.scale < 6.0f / 255);
  assert_true(below <= NUMBERS / 100 && above <= NUMBERS / 100 && above > NUMBERS / 400);
  assert_true(through(&most, 0) == 0);
  release(n);
  n = draw(true, 100);
  most = qb_activation_grid_choose(&n->range, QB_RANGE_PERCENTILE, 0.99, 8);
  assert_true(most.zero_point == 0 && most.scale < 4.0f / 255); /* the lower limit of a Relu stays */
  release(n);
}

static void mean_square_beats_min_max_with_an_outlier_and_equals_it_without(void **state) {
  (void)state;
  for (int gated = 0; gated < 2; gated++) {
    numbers *n = draw(gated == 1, 40);
    qb_activation_grid all = qb_activation_grid_choose(&n->range, QB_RANGE_MINMAX, 1, 8);
    qb_activation_grid best = qb_activation_grid_choose(&n->range, QB_RANGE_MSE, 1, 8);
    assert_true(best.scale < all.scale);
    assert_true(mean_square(&best, n->x) < mean_square(&all, n->x));
    assert_true(through(&best, 0) == 0 && (gated == 0 || best.zero_point == 0));
    release(n);
  }
  numbers *even = qb_alloc(1, sizeof *even);
  for (int i = 0; i < NUMBERS; i++)
    even->x[i] = (float)i / (NUMBERS - 1);
  watch(even);
  assert_true(qb_activation_grid_choose(&even->range, QB_RANGE_MSE, 1, 8).scale >= 0.98f / 255);
  release(even);
}

/* --------------------------------------------------------------------------------------------------- networks */

/* input -> conv -> relu -> max pool -> [conv -> + ] -> relu6 -> global average -> flatten -> gemm -> softmax */
typedef struct network {
  sketch_graph sketch;
  qb_value_id input, conv, gate, pooled, inside, sum, clipped, mean, logits, output;
} network;

static network make_network(void) {
  network net = {.sketch = sketch_start(8)};
  sketch_graph *s = &net.sketch;
  const qb_attributes pool = {.pool = {.window = {.kernel = {2, 2}, .stride = {2, 2}, .dilation = {1, 1}}}};
  const qb_attributes softmax = {.axes = {.axis = 1, .end_axis = 2}};
  net.input = sketch_input(s, QB_SHAPE(1, 2, 8, 8));
  net.conv = sketch_conv(s, net.input, 3, 3, 1, 1, 1);
  net.gate = sketch_unary(s, QB_OP_RELU, net.conv);
  net.pooled = sketch_node(s, QB_OP_MAX_POOL, &net.gate, 1, &pool, NULL);
  net.inside = sketch_conv(s, net.pooled, 3, 3, 1, 1, 1);
  net.sum = sketch_binary(s, QB_OP_ADD, net.inside, net.pooled);
  net.clipped = sketch_clip(s, net.sum, 0, 6);
  net.mean = sketch_unary(s, QB_OP_GLOBAL_AVERAGE_POOL, net.clipped);
  net.logits = sketch_gemm(s, sketch_flatten(s, net.mean), 4, true);
  net.output = sketch_node(s, QB_OP_SOFTMAX, &net.logits, 1, &softmax, NULL);
  sketch_finish(s, net.output);
  return net;
}

static qb_status read_sample(const void *context, int64_t index, float *sample, qb_error *error) {
  (void)error;
  qb_rng rng;
  qb_rng_seed(&rng, 77, (uint64_t)index);
  for (int i = 0; i < 2 * 8 * 8; i++)
    sample[i] = (float)qb_rng_normal(&rng);
  if (context != NULL && index == 5)
    sample[3] = *(const float *)context;
  return QB_OK;
}

static qb_quantize_settings settings_for(int bits, qb_range_rule rule) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.activation_bits = bits;
  settings.activation_range = rule;
  settings.calibration.read = read_sample;
  settings.calibration.count = 10;
  return settings;
}

static qb_status quantize_clone(const qb_graph *graph, const qb_quantize_settings *settings, qb_graph *clone,
                                int32_t *count, qb_error *error) {
  QB_TRY(qb_graph_clone(graph, clone, error));
  return qb_quantize_activations(clone, settings, NULL, count, error);
}

/* The QuantizeLinear behind a value, NULL without. */
static const qb_node *quantizer_of(const qb_graph *graph, qb_value_id value) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (graph->nodes[n].op == QB_OP_QUANTIZE_LINEAR && graph->nodes[n].inputs[0] == value)
      return &graph->nodes[n];
  return NULL;
}

static float scalar(const qb_graph *graph, const qb_node *node, int slot) {
  return *qb_view_f32(&graph->values[node->inputs[slot]].constant);
}

static void quantizers_stand_where_integers_are_read(void **state) {
  (void)state;
  network net = make_network();
  for (int rule = QB_RANGE_MINMAX; rule <= QB_RANGE_MSE; rule++) {
    qb_quantize_settings settings = settings_for(rule == QB_RANGE_MSE ? 16 : 8, (qb_range_rule)rule);
    qb_graph graph;
    qb_error error;
    int32_t count;
    if (quantize_clone(&net.sketch.graph, &settings, &graph, &count, &error) != QB_OK)
      fail_msg("%s", error.message);
    assert_int_equal(count, 6);
    const qb_value_id with[] = {net.input, net.gate, net.pooled, net.inside, net.clipped, net.mean};
    const qb_value_id without[] = {net.conv, net.sum, net.logits, net.output};
    for (size_t i = 0; i < sizeof with / sizeof *with; i++)
      assert_non_null(quantizer_of(&graph, with[i]));
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
      assert_null(quantizer_of(&graph, without[i]));
    const qb_node *gate = quantizer_of(&graph, net.gate), *pooled = quantizer_of(&graph, net.pooled);
    assert_true(scalar(&graph, gate, 1) == scalar(&graph, pooled, 1) && scalar(&graph, pooled, 2) == 0);
    assert_true(scalar(&graph, quantizer_of(&graph, net.input), 2) > 0);
    assert_true(scalar(&graph, quantizer_of(&graph, net.clipped), 2) == 0);
    assert_int_equal(graph.outputs[0], net.output);
    qb_graph_free(&graph);
  }
  qb_graph_free(&net.sketch.graph);
}

/* With 16 bits the outputs of the reference engine hardly move; with 8 bits more. */
static void more_bits_change_less(void **state) {
  (void)state;
  network net = make_network();
  double moved[2];
  for (int i = 0; i < 2; i++) {
    qb_quantize_settings settings = settings_for(8 + 8 * i, QB_RANGE_MINMAX);
    qb_graph graph;
    qb_error error;
    int32_t count;
    assert_int_equal(quantize_clone(&net.sketch.graph, &settings, &graph, &count, &error), QB_OK);
    float sample[128];
    assert_int_equal(read_sample(NULL, 3, sample, &error), QB_OK);
    qb_run_settings how;
    qb_run_settings_default(&how);
    qb_run *runs[2];
    assert_int_equal(qb_run_create(&net.sketch.graph, &how, &runs[0], &error), QB_OK);
    assert_int_equal(qb_run_create(&graph, &how, &runs[1], &error), QB_OK);
    moved[i] = 0;
    for (int k = 0; k < 2; k++)
      assert_int_equal(qb_run_forward(runs[k], sample, 1, &error), QB_OK);
    for (int k = 0; k < 4; k++)
      moved[i] = fmax(moved[i], fabs((double)qb_run_value(runs[0], net.output)[k] -
                                     (double)qb_run_value(runs[1], net.output)[k]));
    qb_run_free(runs[0]);
    qb_run_free(runs[1]);
    qb_graph_free(&graph);
  }
  assert_true(moved[0] > 0 && moved[0] < 0.05);
  assert_true(moved[1] > 0 && moved[1] < moved[0] / 20);
  qb_graph_free(&net.sketch.graph);
}

static void expect_refusal(const qb_graph *graph, const qb_quantize_settings *settings, qb_status expected,
                           const char *word) {
  qb_graph clone = {0};
  qb_error error = {0};
  int32_t count;
  assert_int_equal(quantize_clone(graph, settings, &clone, &count, &error), expected);
  assert_non_null(strstr(error.message, word));
  qb_graph_free(&clone);
}

static void bad_settings_and_data_are_refused(void **state) {
  (void)state;
  network net = make_network();
  qb_graph *graph = &net.sketch.graph;
  qb_quantize_settings settings = settings_for(4, QB_RANGE_MINMAX);
  expect_refusal(graph, &settings, QB_ERROR_ARGUMENT, "8 or 16");
  settings = settings_for(8, (qb_range_rule)9);
  expect_refusal(graph, &settings, QB_ERROR_ARGUMENT, "range rule");
  settings = settings_for(8, QB_RANGE_PERCENTILE);
  settings.activation_percentile = 99;
  expect_refusal(graph, &settings, QB_ERROR_ARGUMENT, "percentile");
  settings = settings_for(8, QB_RANGE_MINMAX);
  settings.affine = true;
  expect_refusal(graph, &settings, QB_ERROR_ARGUMENT, "symmetric");
  settings = settings_for(16, QB_RANGE_MINMAX);
  settings.bits = 12;
  expect_refusal(graph, &settings, QB_ERROR_ARGUMENT, "at most 8 bits");
  settings = settings_for(8, QB_RANGE_MINMAX);
  settings.calibration.count = 0;
  expect_refusal(graph, &settings, QB_ERROR_ARGUMENT, "calibration");
  const float nan = NAN;
  settings = settings_for(8, QB_RANGE_MINMAX);
  settings.calibration.context = &nan;
  expect_refusal(graph, &settings, QB_ERROR_NUMERIC, "NaN");
  qb_error error;
  int32_t count;
  settings = settings_for(8, QB_RANGE_MINMAX);
  assert_int_equal(qb_quantize_activations(graph, &settings, NULL, &count, &error), QB_OK);
  expect_refusal(graph, &settings, QB_ERROR_UNSUPPORTED, "already");
  qb_graph_free(graph);
}

static bool stop(void *context, const char *what, int64_t done, int64_t total) {
  (void)context, (void)what, (void)total;
  return done < 4;
}

static void stopping_is_reported(void **state) {
  (void)state;
  network net = make_network();
  qb_quantize_settings settings = settings_for(8, QB_RANGE_MINMAX);
  const qb_progress progress = {stop, NULL};
  qb_error error;
  int32_t count;
  assert_int_equal(qb_quantize_activations(&net.sketch.graph, &settings, &progress, &count, &error),
                   QB_ERROR_INTERRUPTED);
  qb_graph_free(&net.sketch.graph);
}

typedef struct fault_case {
  const network *net;
  qb_quantize_settings settings;
} fault_case;

static qb_status quantize_once(void *context, qb_error *error) {
  const fault_case *c = context;
  qb_graph clone = {0};
  int32_t count;
  qb_status status = quantize_clone(&c->net->sketch.graph, &c->settings, &clone, &count, error);
  qb_graph_free(&clone);
  return status;
}

static void failed_allocations_are_reported(void **state) {
  (void)state;
  network net = make_network();
  fault_case c = {&net, settings_for(8, QB_RANGE_MSE)};
  c.settings.calibration.count = 2;
  c.settings.threads = 1;
  fault_every_allocation(quantize_once, &c, 1000);
  qb_graph_free(&net.sketch.graph);
  assert_int_equal(qb_alloc_live(), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(min_max_holds_every_number),
      cmocka_unit_test(one_sided_ranges_keep_zero_at_the_end),
      cmocka_unit_test(nan_and_infinity_are_noticed),
      cmocka_unit_test(a_percentile_leaves_outliers_out),
      cmocka_unit_test(mean_square_beats_min_max_with_an_outlier_and_equals_it_without),
      cmocka_unit_test(quantizers_stand_where_integers_are_read),
      cmocka_unit_test(more_bits_change_less),
      cmocka_unit_test(bad_settings_and_data_are_refused),
      cmocka_unit_test(stopping_is_reported),
      cmocka_unit_test(failed_allocations_are_reported),
  };
  return cmocka_run_group_tests_name("activations", tests, NULL, NULL);
}
