/* Preparing and guarding a whole network: moments without data, what the guards keep, what is exact. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/pass_fold_bn.h"
#include "quant/bias_correction.h"
#include "quant/network.h"
#include "support/sketch.h"

/* Mean and variance of clip(x, lo, hi) by the midpoint rule. */
static void integrate(double mean, double deviation, double lo, double hi, double *first, double *variance) {
  enum { STEPS = 200000 };
  double sum = 0, square = 0, weight = 0;
  for (int i = 0; i < STEPS; i++) {
    double z = -10 + 20 * (i + 0.5) / STEPS, density = exp(-0.5 * z * z);
    double x = fmin(fmax(mean + deviation * z, lo), hi);
    sum += x * density;
    square += x * x * density;
    weight += density;
  }
  *first = sum / weight;
  *variance = square / weight - *first * *first;
}

static void clipped_normals_have_their_moments(void **state) {
  (void)state;
  static const double cases[][4] = {{0, 1, 0, INFINITY}, {-2, 0.5, 0, INFINITY}, {3, 2, 0, 6},
                                    {5.5, 1, 0, 6},      {-1, 3, 0, 0.1},        {1, 0.25, -INFINITY, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    double mean, variance, first, second;
    qb_clipped_normal(cases[i][0], cases[i][1], cases[i][2], cases[i][3], &mean, &variance);
    integrate(cases[i][0], cases[i][1], cases[i][2], cases[i][3], &first, &second);
    assert_true(fabs(mean - first) < 1e-6 && fabs(variance - second) < 1e-6);
  }
  double mean, variance;
  qb_clipped_normal(-3, 0, 0, 6, &mean, &variance);
  assert_true(mean == 0 && variance == 0);
}

/* Makes the ranges of a layer's rows very different. */
static qb_value_id spread(sketch_graph *s, qb_value_id output) {
  qb_value *weight = &s->graph.values[sketch_producer(&s->graph, output)->inputs[1]];
  int64_t rows = weight->shape.dims[0], length = (int64_t)qb_shape_elements(&weight->shape) / rows;
  for (int64_t r = 0; r < rows; r++) {
    float factor = (float)exp2(qb_rng_range(&s->rng, -6, 0));
    for (int64_t i = 0; i < length; i++)
      ((float *)weight->constant.data)[r * length + i] *= factor;
  }
  return output;
}

/* conv - clip - depthwise - relu - conv - relu - matrix, BatchNorm behind every convolution where asked. */
static qb_graph make(uint64_t seed, bool normalised) {
  sketch_graph s = sketch_start(seed);
  qb_value_id y = spread(&s, sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 6, 6)), 8, 1, 1, 0, 1));
  y = sketch_clip(&s, normalised ? sketch_batch_norm(&s, y, true) : y, 0, 6);
  y = spread(&s, sketch_conv(&s, y, 8, 3, 1, 1, 8));
  y = sketch_unary(&s, QB_OP_RELU, normalised ? sketch_batch_norm(&s, y, true) : y);
  y = sketch_conv(&s, y, 6, 1, 1, 0, 1);
  y = sketch_unary(&s, QB_OP_RELU, normalised ? sketch_batch_norm(&s, y, true) : y);
  sketch_finish(&s, sketch_gemm(&s, sketch_flatten(&s, y), 5, true));
  return s.graph;
}

typedef struct outcome {
  qb_graph original, prepared, quantized;
  qb_statistics statistics;
  qb_quantize_info info;
} outcome;

static outcome quantize(uint64_t seed, bool normalised, const qb_quantize_settings *settings) {
  outcome o = {0};
  qb_error error;
  qb_fold_bn_info folded;
  qb_graph unfolded = make(seed, normalised);
  assert_int_equal(qb_statistics_read(&unfolded, &o.statistics, &error), QB_OK);
  o.original = unfolded;
  assert_int_equal(qb_fold_bn(&o.original, &folded, &error), QB_OK);
  if (qb_quantize_network(&o.original, &o.statistics, settings, NULL, &o.prepared, &o.quantized, &o.info, &error) !=
      QB_OK)
    fail_msg("%s", error.message);
  return o;
}

static void release(outcome *o) {
  qb_quantize_info_free(&o->info);
  qb_statistics_free(&o->statistics);
  qb_graph_free(&o->quantized);
  qb_graph_free(&o->prepared);
  qb_graph_free(&o->original);
}

static qb_quantize_settings settings_for(int bits) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = bits;
  settings.granularity = QB_PER_TENSOR;
  return settings;
}

/* The prepared network is the original, bit for bit; where it helps it is kept, and what is kept is never worse. */
static void equalizing_is_exact_and_guarded(void **state) {
  (void)state;
  int kept = 0, dropped = 0;
  for (uint64_t seed = 1; seed <= 12; seed++) {
    qb_quantize_settings settings = settings_for(seed % 2 == 0 ? 4 : 8);
    settings.equalize = seed % 3 == 0 ? QB_EQUALIZATION_L1 : QB_EQUALIZATION_RANGE;
    outcome o = quantize(seed, seed % 2 == 1, &settings);
    assert_true(o.info.preparation.exact && o.info.preparation.channels > 0 && o.info.preparation.places == 3);
    assert_true(sketch_relative_difference(&o.original, &o.prepared, 5, 2, seed) == 0);
    assert_true(o.info.preparation.dropped == (o.info.preparation.error_with > o.info.preparation.error_without) ||
                o.info.kept_nearest);
    assert_true(o.info.preparation.dropped || o.info.error <= o.info.error_nearest);
    kept += !o.info.preparation.dropped;
    dropped += o.info.preparation.dropped;
    release(&o);
  }
  assert_true(kept > 0);
  print_message("equalization kept in %d networks, dropped in %d\n", kept, dropped);
}

static qb_status read_normal(const void *context, int64_t index, float *sample, qb_error *error) {
  (void)context;
  (void)error;
  qb_rng rng;
  qb_rng_seed(&rng, 99, (uint64_t)index);
  for (int i = 0; i < 3 * 6 * 6; i++)
    sample[i] = (float)qb_rng_normal(&rng);
  return QB_OK;
}

/* With quantized activations the guard compares networks that have them: the error it reports is theirs. */
static void the_guard_sees_quantized_activations(void **state) {
  (void)state;
  for (int scheme = 0; scheme < 2; scheme++) {
    qb_quantize_settings settings = settings_for(4);
    settings.scheme = scheme == 0 ? QB_SCHEME_GPTQ : QB_SCHEME_ADAROUND;
    settings.calibration.read = read_normal;
    settings.calibration.count = 32;
    settings.activation_bits = 8;
    settings.equalize = QB_EQUALIZATION_RANGE;
    settings.bias_correction = QB_BIAS_DATA;
    outcome o = quantize(5, true, &settings);
    assert_true(o.info.activation_count > 0);
    assert_true(o.info.error <= o.info.error_nearest && o.info.error > 0);
    assert_true(o.info.kept_nearest || o.info.biases_corrected == 4);
    release(&o);
  }
}

/* Mean over samples of the layer outputs' error: smaller with corrected biases. Statistics of BatchNorm describe the
 * network only roughly, so it is the sum over many networks that counts. */
static void free_correction_takes_means_away(void **state) {
  (void)state;
  double totals[2] = {0, 0};
  for (uint64_t seed = 1; seed <= 20; seed++) {
    qb_error error;
    qb_quantize_settings settings = settings_for(4);
    outcome o = quantize(seed, true, &settings);
    qb_moments moments;
    int corrected;
    qb_graph fixed;
    assert_int_equal(qb_graph_clone(&o.quantized, &fixed, &error), QB_OK);
    assert_int_equal(qb_moments_create(&o.original, &o.statistics, &moments, &error), QB_OK);
    assert_int_equal(qb_bias_correct_free(&o.original, &fixed, &moments, &corrected, &error), QB_OK);
    assert_int_equal(corrected, 4);
    const qb_node *last = &o.original.nodes[o.original.node_count - 1];
    const double *mean = moments.mean[last->inputs[0]];
    const float *was = qb_view_f32(&o.original.values[last->inputs[1]].constant);
    const float *is = qb_view_f32(&o.quantized.values[last->inputs[1]].constant);
    int64_t inputs = o.original.values[last->inputs[1]].shape.dims[1];
    for (int v = 0; v < 2; v++)
      for (int64_t k = 0; k < 5; k++) {
        const qb_graph *g = v == 0 ? &o.quantized : &fixed;
        double sum = (double)qb_view_f32(&g->values[g->nodes[g->node_count - 1].inputs[2]].constant)[k] -
                     (double)qb_view_f32(&o.original.values[last->inputs[2]].constant)[k];
        for (int64_t i = 0; i < inputs; i++)
          sum += ((double)is[k * inputs + i] - (double)was[k * inputs + i]) * mean[i];
        totals[v] += fabs(sum);
      }
    qb_moments_free(&moments);
    qb_graph_free(&fixed);
    release(&o);
  }
  assert_true(totals[1] < 1e-5 * totals[0]);
}

/* Estimated means are near those of samples: layers, Relu and Clip in a row. */
static void moments_follow_the_network(void **state) {
  (void)state;
  double off = 0, size = 0;
  for (uint64_t seed = 1; seed <= 4; seed++) {
    qb_error error;
    qb_statistics none = {0};
    qb_moments moments;
    qb_graph graph = make(seed, false);
    assert_int_equal(qb_moments_create(&graph, &none, &moments, &error), QB_OK);
    enum { RUNS = 60, ELEMENTS = 3 * 6 * 6 };
    qb_value_id relu = graph.nodes[graph.node_count - 3].output;
    int64_t channels = graph.values[relu].shape.dims[1];
    double sums[16] = {0};
    for (int i = 0; i < RUNS; i++) {
      float sample[ELEMENTS];
      double input[ELEMENTS];
      assert_int_equal(read_normal(NULL, i, sample, NULL), QB_OK);
      for (int k = 0; k < ELEMENTS; k++)
        input[k] = (double)sample[k];
      double *y = sketch_evaluate(&graph, input, relu);
      for (int64_t k = 0; k < channels * 36; k++)
        sums[k / 36] += y[k] / (RUNS * 36);
      qb_free(y);
    }
    for (int64_t c = 0; c < channels; c++) {
      off += fabs(moments.mean[relu][c] - sums[c]);
      size += fabs(sums[c]);
    }
    qb_moments_free(&moments);
    qb_graph_free(&graph);
  }
  assert_true(off < 0.2 * size);
}

static void absorption_says_that_the_function_changes(void **state) {
  (void)state;
  qb_quantize_settings settings = settings_for(8);
  settings.bias_absorption = true;
  settings.calibration.read = read_normal;
  settings.calibration.count = 16;
  int moved = 0;
  for (uint64_t seed = 1; seed <= 8; seed++) {
    outcome o = quantize(seed, seed % 2 == 0, &settings);
    assert_true(o.info.preparation.exact == (o.info.preparation.absorbed == 0));
    moved += o.info.preparation.absorbed > 0;
    release(&o);
  }
  settings.calibration.count = 0;
  qb_graph prepared, quantized, graph = make(1, false);
  qb_statistics none = {0};
  qb_quantize_info info;
  qb_error error;
  assert_int_equal(qb_quantize_network(&graph, &none, &settings, NULL, &prepared, &quantized, &info, &error),
                   QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "statistics"));
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  qb_graph_free(&prepared);
  qb_graph_free(&graph);
  print_message("biases moved in %d networks\n", moved);
}

static bool stop_after(void *context, const char *what, int64_t done, int64_t total) {
  (void)what;
  (void)done;
  (void)total;
  int *left = context;
  return (*left)-- > 0;
}

/* Wherever it is interrupted: an error before anything is finished, else a complete network and the truth about it. */
static void an_interruption_keeps_what_is_finished(void **state) {
  (void)state;
  qb_quantize_settings settings = settings_for(4);
  settings.scheme = QB_SCHEME_ADAROUND;
  settings.calibration.read = read_normal;
  settings.calibration.count = 32;
  settings.keep_interrupted = true;
  int failed = 0, kept = 0, finished = 0;
  for (int calls = 0; finished == 0 && calls < 200; calls++) {
    int left = calls;
    const qb_progress progress = {stop_after, &left};
    qb_graph prepared, quantized, graph = make(3, false);
    qb_statistics none = {0};
    qb_quantize_info info;
    qb_error error;
    qb_status status = qb_quantize_network(&graph, &none, &settings, &progress, &prepared, &quantized, &info, &error);
    assert_true(status == QB_OK || status == QB_ERROR_INTERRUPTED);
    failed += status != QB_OK;
    kept += status == QB_OK && info.interrupted;
    finished += status == QB_OK && !info.interrupted;
    int calibrated = 0, nearest = 0;
    for (int i = 0; status == QB_OK && i < info.layer_count; i++) {
      qb_linear linear;
      assert_true(info.layers[i].bits == 4);
      calibrated += info.layers[i].method == QB_METHOD_CALIBRATED;
      nearest += info.layers[i].method == QB_METHOD_NEAREST;
      for (qb_node_id n = 0; n < quantized.node_count; n++)
        assert_true(!qb_graph_linear(&quantized, n, &linear) || quantized.values[linear.weight].codes != NULL);
    }
    if (status == QB_OK && info.interrupted)
      assert_true(nearest > 0 && (calibrated > 0 || info.kept_nearest));
    qb_quantize_info_free(&info);
    qb_graph_free(&quantized);
    qb_graph_free(&prepared);
    qb_graph_free(&graph);
  }
  assert_true(failed > 0 && kept > 0 && finished == 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(clipped_normals_have_their_moments),
      cmocka_unit_test(equalizing_is_exact_and_guarded),
      cmocka_unit_test(the_guard_sees_quantized_activations),
      cmocka_unit_test(free_correction_takes_means_away),
      cmocka_unit_test(moments_follow_the_network),
      cmocka_unit_test(absorption_says_that_the_function_changes),
      cmocka_unit_test(an_interruption_keeps_what_is_finished),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
