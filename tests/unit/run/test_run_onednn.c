/* The oneDNN engine against the reference: every result must lie within the radius that the reference computes for any
 * float32 evaluation, plus the reference's own. No tolerance is chosen here. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "run/run.h"
#include "support/run_support.h"

static qb_run *create(const qb_graph *graph, qb_run_settings settings) {
  qb_error error;
  qb_run *run;
  if (qb_run_create(graph, &settings, &run, &error) != QB_OK)
    fail_msg("%s", error.message);
  return run;
}

static void forward(qb_run *run, const float *input, int32_t count) {
  qb_error error;
  if (qb_run_forward(run, input, count, &error) != QB_OK)
    fail_msg("%s", error.message);
}

static size_t elements(const qb_graph *graph, qb_value_id id) { return qb_shape_elements(&graph->values[id].shape); }

/* Runs both engines on `count` samples and compares the output and the values in `keep`. */
static void compare(const qb_graph *graph, const float *input, int32_t count, int32_t batch, int32_t threads,
                    const qb_value_id *keep, int32_t keep_count) {
  qb_run_settings settings = {.batch = batch, .threads = threads, .keep = keep, .keep_count = keep_count};
  qb_run *fast = create(graph, settings);
  settings.engine = QB_ENGINE_REFERENCE;
  settings.radius = settings.radius_float32 = true;
  qb_run *reference = create(graph, settings);
  forward(fast, input, count);
  forward(reference, input, count);
  for (int32_t k = -1; k < keep_count; k++) {
    qb_value_id id = k < 0 ? graph->outputs[0] : keep[k];
    const float *y = qb_run_value(fast, id);
    const double *expected = qb_run_value_double(reference, id), *r = qb_run_radius(reference, id);
    assert_non_null(y);
    assert_null(qb_run_value_double(fast, id));
    assert_null(qb_run_radius(fast, id));
    for (size_t i = 0; i < elements(graph, id) * (size_t)count; i++)
      if (!(fabs((double)y[i] - expected[i]) <= 2.0 * r[i]) || !isfinite(r[i]))
        fail_msg("%s: %s[%zu] is %.9g, the reference %.9g, radius %.3g", graph->name, graph->values[id].name, i,
                 (double)y[i], expected[i], r[i]);
  }
  qb_run_free(fast);
  qb_run_free(reference);
}

static void operators_match_the_reference(void **state) {
  (void)state;
  FILE *file = run_case_open(QB_TEST_DIR "/golden/run_ops.txt");
  run_case c;
  int cases = 0;
  for (; run_case_next(file, &c); cases++) {
    for (int32_t extra = 0; extra < 3; extra += 2) /* a full batch, then a part of one */
      compare(&c.graph, c.input, c.count, c.count + extra, 1 + extra / 2, c.graph.inputs, 1);
    run_case_free(&c);
  }
  run_case_free(&c);
  fclose(file);
  assert_int_equal(cases, 71);
}

static int32_t pick(qb_rng *rng, int32_t lo, int32_t hi) {
  return lo + (int32_t)qb_rng_below(rng, (uint64_t)(hi - lo + 1));
}

static qb_window random_window(qb_rng *rng, int64_t h, int64_t w, int32_t largest_kernel, bool pool) {
  const int64_t length[2] = {h, w};
  qb_window window;
  for (int axis = 0; axis < 2; axis++) {
    window.kernel[axis] = pick(rng, 1, largest_kernel);
    window.stride[axis] = pick(rng, 1, 3);
    window.dilation[axis] = pool ? 1 : pick(rng, 1, 2);
    int32_t extent = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
    int32_t limit = pool ? window.kernel[axis] - 1 : extent - 1;
    window.pad_begin[axis] = pick(rng, 0, limit);
    window.pad_end[axis] = pick(rng, 0, limit);
    while (length[axis] + window.pad_begin[axis] + window.pad_end[axis] < extent)
      window.pad_end[axis]++;
  }
  return window;
}

/* Strides, dilations, asymmetric pads, groups, depthwise, maps smaller than the kernel. */
static void random_convolutions_match(void **state) {
  (void)state;
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, 11, 0);
  for (int round = 0; round < 120; round++) {
    qb_graph graph;
    int32_t group = pick(&rng, 0, 2) == 0 ? pick(&rng, 1, 17) : 1, depthwise = pick(&rng, 0, 3) == 0;
    int32_t inputs = group * (depthwise ? 1 : pick(&rng, 1, group > 1 ? 5 : 40));
    int32_t outputs = group * pick(&rng, 1, group > 1 ? 3 : 40);
    int64_t h = pick(&rng, 1, 14), w = pick(&rng, 1, 14);
    qb_value_id x = run_test_begin(&graph, "convolution", QB_SHAPE(1, inputs, h, w));
    qb_window window = random_window(&rng, h, w, 5, false);
    qb_value_id y = run_test_conv(&graph, &rng, x, outputs, group, window, pick(&rng, 0, 1) == 1);
    if (pick(&rng, 0, 1) == 1)
      y = run_test_node(&graph, QB_OP_RELU, &y, 1, NULL, NULL);
    assert_int_equal(qb_graph_add_output(&graph, y, &error), QB_OK);
    int32_t count = pick(&rng, 1, 3);
    float *input = run_test_random(&rng, elements(&graph, x) * (size_t)count, 1.0);
    compare(&graph, input, count, count + round % 2, 1 + round % 2, NULL, 0);
    qb_free(input);
    qb_graph_free(&graph);
  }
}

static void random_transposed_convolutions_match(void **state) {
  (void)state;
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, 12, 0);
  for (int round = 0; round < 40; round++) {
    qb_graph graph;
    int32_t group = pick(&rng, 1, 3), inputs = group * pick(&rng, 1, 6), outputs = group * pick(&rng, 1, 6);
    int64_t h = pick(&rng, 2, 8), w = pick(&rng, 2, 8);
    qb_value_id x = run_test_begin(&graph, "transposed", QB_SHAPE(1, inputs, h, w));
    qb_window window = random_window(&rng, h, w, 4, true);
    qb_value_id weight =
        run_test_constant(&graph, &rng, QB_SHAPE(inputs, outputs / group, window.kernel[0], window.kernel[1]), 0.5,
                          NULL);
    qb_value_id bias = run_test_constant(&graph, &rng, QB_SHAPE(outputs), 1.0, NULL);
    qb_attributes attributes = {.conv = {window, group}};
    qb_shape given = QB_SHAPE(1, outputs, 0, 0);
    const int64_t length[2] = {h, w};
    for (int axis = 0; axis < 2; axis++) {
      given.dims[2 + axis] = (length[axis] - 1) * window.stride[axis] + window.kernel[axis] - window.pad_begin[axis] -
                             window.pad_end[axis] + pick(&rng, 0, window.stride[axis] - 1);
      if (given.dims[2 + axis] < 1)
        given.dims[2 + axis] = 0;
    }
    if (given.dims[2] > 0 && given.dims[3] > 0) {
      qb_value_id inputs_ids[3] = {x, weight, bias};
      qb_value_id y = run_test_node(&graph, QB_OP_CONV_TRANSPOSE, inputs_ids, 3, &attributes, &given);
      assert_int_equal(qb_graph_add_output(&graph, y, &error), QB_OK);
      float *input = run_test_random(&rng, elements(&graph, x) * 2, 1.0);
      compare(&graph, input, 2, 2, 2, NULL, 0);
      qb_free(input);
    }
    qb_graph_free(&graph);
  }
}

static void random_pools_match(void **state) {
  (void)state;
  static const qb_op ops[3] = {QB_OP_MAX_POOL, QB_OP_AVERAGE_POOL, QB_OP_AVERAGE_POOL};
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, 13, 0);
  for (int round = 0; round < 90; round++) {
    qb_graph graph;
    int64_t channels = pick(&rng, 1, 20), h = pick(&rng, 2, 12), w = pick(&rng, 2, 12);
    qb_value_id x = run_test_begin(&graph, "pool", QB_SHAPE(1, channels, h, w));
    qb_window window = random_window(&rng, h, w, 4, true);
    qb_attributes attributes = {.pool = {window, round % 3 == 2}};
    qb_shape given = QB_SHAPE(1, channels, 0, 0);
    const int64_t length[2] = {h, w};
    for (int axis = 0; axis < 2; axis++) {
      int64_t room = length[axis] + window.pad_begin[axis] + window.pad_end[axis] - window.kernel[axis];
      int64_t windows = room / window.stride[axis] + 1;
      bool more =
          room % window.stride[axis] != 0 && windows * window.stride[axis] < length[axis] + window.pad_begin[axis];
      given.dims[2 + axis] = windows + (more && pick(&rng, 0, 1) == 1); /* ceil_mode */
    }
    qb_value_id inner = run_test_conv(&graph, &rng, x, channels, 1, run_test_window(1, 1, 0), false);
    qb_value_id from = round % 2 == 0 ? x : inner; /* row-major or blocked input */
    qb_value_id y = run_test_node(&graph, ops[round % 3], &from, 1, &attributes, &given);
    assert_int_equal(qb_graph_add_output(&graph, y, &error), QB_OK);
    float *input = run_test_random(&rng, elements(&graph, x) * 2, 1.0);
    compare(&graph, input, 2, 2, 1, NULL, 0);
    qb_free(input);
    qb_graph_free(&graph);
  }
}

/* Shapes of residual networks: which of conv, conv and the shortcut are fused is the engine's business; the values are
 * not. `variant` bits: keep the shortcut, keep the sum, use the shortcut again later, shortcut is the network's input,
 * swap the operands, reshape the shortcut first, a limit per channel. */
static qb_value_id residual_network(qb_graph *graph, int variant, qb_value_id keep[3], int32_t *keep_count) {
  qb_rng rng;
  qb_error error;
  qb_window three = run_test_window(3, 1, 1);
  qb_rng_seed(&rng, 14, (uint64_t)variant);
  int64_t channels = (variant & 8) != 0 ? 6 : 24;
  qb_value_id x = run_test_begin(graph, "residual", QB_SHAPE(1, 6, 9, 9));
  float *limits = qb_arena_alloc(&graph->arena, 24, sizeof *limits);
  assert_non_null(limits);
  for (int i = 0; i < 24; i++)
    limits[i] = 0.25f * (float)(1 + i % 7);
  qb_attributes six = {.clip = {0.0f, 1.5f, (variant & 64) != 0 ? limits : NULL}};
  qb_value_id shortcut = (variant & 8) != 0 ? x : run_test_conv(graph, &rng, x, channels, 1, three, true);
  qb_value_id view = shortcut;
  if ((variant & 32) != 0)
    view = run_test_node(graph, QB_OP_IDENTITY, &shortcut, 1, NULL, NULL);
  qb_value_id a = run_test_conv(graph, &rng, shortcut, channels, 1, three, true);
  a = run_test_node(graph, QB_OP_CLIP, &a, 1, &six, NULL);
  qb_value_id b = run_test_conv(graph, &rng, a, channels, (int32_t)channels, three, true);
  qb_value_id operands[2] = {b, view};
  if ((variant & 16) != 0)
    operands[0] = view, operands[1] = b;
  qb_value_id sum = run_test_node(graph, QB_OP_ADD, operands, 2, NULL, NULL);
  qb_value_id y = run_test_node(graph, (variant & 64) != 0 ? QB_OP_CLIP : QB_OP_RELU, &sum, 1, &six, NULL);
  if ((variant & 4) != 0)
    y = run_test_node(graph, QB_OP_ADD, (qb_value_id[]){y, shortcut}, 2, NULL, NULL);
  qb_value_id last = run_test_conv(graph, &rng, y, 5, 1, run_test_window(1, 2, 0), true);
  qb_value_id both = run_test_conv(graph, &rng, y, 5, 1, run_test_window(1, 2, 0), true);
  last = run_test_node(graph, QB_OP_ADD, (qb_value_id[]){last, both}, 2, NULL, NULL);
  assert_int_equal(qb_graph_add_output(graph, last, &error), QB_OK);
  *keep_count = 0;
  if ((variant & 1) != 0)
    keep[(*keep_count)++] = shortcut;
  if ((variant & 2) != 0) {
    keep[(*keep_count)++] = sum;
    keep[(*keep_count)++] = b;
  }
  return x;
}

static void residual_sums_and_kept_values_match(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 15, 0);
  for (int variant = 0; variant < 128; variant++) {
    qb_graph graph;
    qb_value_id keep[3];
    int32_t keep_count;
    qb_value_id x = residual_network(&graph, variant, keep, &keep_count);
    float *input = run_test_random(&rng, elements(&graph, x) * 3, 1.0);
    compare(&graph, input, 3, 3, 1 + variant % 2, keep, keep_count);
    qb_free(input);
    qb_graph_free(&graph);
  }
}

/* Branches that meet in Concat, a gate of squeeze-and-excitation, a matrix product at the end. */
static qb_value_id branching_network(qb_graph *graph, int32_t width) {
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, 16, (uint64_t)width);
  qb_value_id x = run_test_begin(graph, "branches", QB_SHAPE(1, 3, 12, 10));
  qb_value_id stem = run_test_conv(graph, &rng, x, width, 1, run_test_window(3, 2, 1), true);
  stem = run_test_node(graph, QB_OP_HARD_SWISH, &stem, 1, NULL, NULL);
  qb_value_id parts[3] = {run_test_conv(graph, &rng, stem, width, 1, run_test_window(1, 1, 0), true),
                          run_test_conv(graph, &rng, stem, width + 3, 1, run_test_window(3, 1, 1), false), stem};
  qb_attributes axis = {.axes = {1, 2}};
  qb_value_id joined = run_test_node(graph, QB_OP_CONCAT, parts, 3, &axis, NULL);
  int64_t channels = graph->values[joined].shape.dims[1];
  qb_value_id gate = run_test_node(graph, QB_OP_GLOBAL_AVERAGE_POOL, &joined, 1, NULL, NULL);
  gate = run_test_conv(graph, &rng, gate, channels, 1, run_test_window(1, 1, 0), true);
  gate = run_test_node(graph, QB_OP_SIGMOID, &gate, 1, NULL, NULL);
  qb_value_id gated = run_test_node(graph, QB_OP_MUL, (qb_value_id[]){joined, gate}, 2, NULL, NULL);
  qb_value_id mean = run_test_node(graph, QB_OP_GLOBAL_AVERAGE_POOL, &gated, 1, NULL, NULL);
  qb_value_id flat = run_test_node(graph, QB_OP_FLATTEN, &mean, 1, NULL, &QB_SHAPE(1, channels));
  qb_value_id weight = run_test_constant(graph, &rng, QB_SHAPE(10, channels), 0.3, NULL);
  qb_value_id bias = run_test_constant(graph, &rng, QB_SHAPE(10), 1.0, NULL);
  qb_value_id y = run_test_node(graph, QB_OP_GEMM, (qb_value_id[]){flat, weight, bias}, 3, NULL, NULL);
  y = run_test_node(graph, QB_OP_SOFTMAX, &y, 1, &axis, NULL);
  assert_int_equal(qb_graph_add_output(graph, y, &error), QB_OK);
  return x;
}

static void branches_match(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 17, 0);
  for (int32_t width = 5; width <= 16; width += 11) {
    qb_graph graph;
    qb_value_id x = branching_network(&graph, width);
    qb_value_id *keep = qb_alloc((size_t)graph.node_count, sizeof *keep);
    float *input = run_test_random(&rng, elements(&graph, x) * 2, 1.0);
    for (int32_t n = 0; n < graph.node_count; n++)
      keep[n] = graph.nodes[n].output;
    compare(&graph, input, 2, 2, 2, NULL, 0);
    compare(&graph, input, 2, 2, 2, keep, graph.node_count); /* everything is kept: nothing fused */
    qb_free(keep);
    qb_free(input);
    qb_graph_free(&graph);
  }
}

/* The bits of a sample depend neither on the batch nor on the threads. */
static void batch_and_threads_change_no_bit(const qb_graph *graph, qb_value_id x) {
  enum { SAMPLES = 16 };
  static const int32_t batches[3] = {1, 3, 16};
  qb_rng rng;
  qb_rng_seed(&rng, 18, 0);
  size_t sample = elements(graph, x), output = elements(graph, graph->outputs[0]);
  float *input = run_test_random(&rng, sample * SAMPLES, 1.0);
  float *expected = qb_alloc(output * SAMPLES, sizeof *expected);
  assert_non_null(expected);
  for (int k = 0; k < 6; k++) {
    int32_t batch = batches[k % 3], threads = 1 + k / 3;
    qb_run *run = create(graph, (qb_run_settings){.batch = batch, .threads = threads});
    for (int32_t i = 0; i < SAMPLES; i += batch) {
      int32_t count = i + batch <= SAMPLES ? batch : SAMPLES - i;
      forward(run, input + (size_t)i * sample, count);
      const float *y = qb_run_value(run, graph->outputs[0]);
      if (k == 0)
        memcpy(expected + (size_t)i * output, y, output * sizeof *y);
      else
        assert_memory_equal(expected + (size_t)i * output, y, output * (size_t)count * sizeof *y);
    }
    qb_run_free(run);
  }
  qb_free(input);
  qb_free(expected);
}

static void bits_are_reproducible(void **state) {
  (void)state;
  qb_graph graph;
  qb_value_id keep[3];
  int32_t keep_count;
  qb_value_id x = residual_network(&graph, 0, keep, &keep_count);
  batch_and_threads_change_no_bit(&graph, x);
  qb_graph_free(&graph);
  for (int32_t width = 5; width <= 16; width += 11) {
    x = branching_network(&graph, width);
    batch_and_threads_change_no_bit(&graph, x);
    qb_graph_free(&graph);
  }
}

/* Shapes for which a library might split sums by batch or threads: many input channels, small maps. */
static void convolutions_are_reproducible(void **state) {
  (void)state;
  static const int32_t shapes[8][5] = {{256, 64, 7, 1, 1}, {512, 32, 4, 3, 1}, {160, 160, 7, 3, 2}, {320, 40, 14, 1, 1},
                                       {96, 24, 14, 1, 1}, {3, 32, 33, 3, 2},  {130, 70, 1, 1, 1},  {64, 512, 3, 3, 1}};
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, 20, 0);
  for (int k = 0; k < 8; k++) {
    qb_graph graph;
    const int32_t *s = shapes[k];
    qb_value_id x = run_test_begin(&graph, "sums", QB_SHAPE(1, s[0], s[2], s[2]));
    qb_value_id y = run_test_conv(&graph, &rng, x, s[1], 1, run_test_window(s[3], s[4], s[3] / 2), true);
    assert_int_equal(qb_graph_add_output(&graph, y, &error), QB_OK);
    batch_and_threads_change_no_bit(&graph, x);
    qb_graph_free(&graph);
  }
}

/* A long row makes every summation order visible. */
static void matrix_products_are_reproducible(void **state) {
  (void)state;
  static const int64_t lengths[4] = {37, 512, 1280, 4100};
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, 19, 0);
  for (int k = 0; k < 4; k++) {
    qb_graph graph;
    qb_value_id x = run_test_begin(&graph, "product", QB_SHAPE(1, lengths[k]));
    qb_value_id weight = run_test_constant(&graph, &rng, QB_SHAPE(101, lengths[k]), 1.0, NULL);
    qb_value_id y = run_test_node(&graph, QB_OP_MATMUL, (qb_value_id[]){x, weight}, 2, NULL, NULL);
    assert_int_equal(qb_graph_add_output(&graph, y, &error), QB_OK);
    float *input = run_test_random(&rng, elements(&graph, x) * 5, 1.0);
    compare(&graph, input, 5, 5, 2, NULL, 0);
    batch_and_threads_change_no_bit(&graph, x);
    qb_free(input);
    qb_graph_free(&graph);
  }
}

static void failed_allocations_are_reported(void **state) {
  (void)state;
  qb_graph graph;
  branching_network(&graph, 5);
  for (long n = 0;; n++) {
    qb_run_settings settings = {.batch = 2, .threads = 1};
    qb_error error;
    qb_run *run;
    qb_alloc_fail_after(n);
    qb_status status = qb_run_create(&graph, &settings, &run, &error);
    qb_alloc_fail_after(-1);
    if (status == QB_OK) {
      assert_true(n > 10);
      qb_run_free(run);
      break;
    }
    assert_int_equal(status, QB_ERROR_MEMORY);
  }
  qb_graph_free(&graph);
}

static void radii_need_the_reference(void **state) {
  (void)state;
  qb_graph graph;
  qb_run *run;
  qb_error error;
  branching_network(&graph, 5);
  qb_run_settings settings = {.batch = 1, .radius = true};
  assert_int_equal(qb_run_create(&graph, &settings, &run, &error), QB_ERROR_ARGUMENT);
  qb_graph_free(&graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(operators_match_the_reference),
      cmocka_unit_test(random_convolutions_match),
      cmocka_unit_test(random_transposed_convolutions_match),
      cmocka_unit_test(random_pools_match),
      cmocka_unit_test(residual_sums_and_kept_values_match),
      cmocka_unit_test(branches_match),
      cmocka_unit_test(bits_are_reproducible),
      cmocka_unit_test(convolutions_are_reproducible),
      cmocka_unit_test(matrix_products_are_reproducible),
      cmocka_unit_test(failed_allocations_are_reported),
      cmocka_unit_test(radii_need_the_reference),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
