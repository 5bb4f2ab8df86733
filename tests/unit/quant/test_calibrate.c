/* Quantizing with calibration samples: what it gains, what it reports, what stays the same, what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>
#include <omp.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/frontier.h"
#include "quant/quant.h"
#include "run/run.h"
#include "support/faults.h"
#include "support/sketch.h"

static void assert_near(double a, double b, double tolerance) { assert_true(fabs(a - b) <= tolerance); }

enum { SAMPLES = 24, ELEMENTS = 3 * 8 * 8 };

static qb_status read_random(const void *context, int64_t index, float *sample, qb_error *error) {
  qb_rng rng;
  if (context != NULL && index == *(const int64_t *)context)
    return qb_fail(error, QB_ERROR_IO, "sample %lld is broken", (long long)index);
  qb_rng_seed(&rng, 77, (uint64_t)index);
  double low = qb_rng_range(&rng, -1, 0);
  for (int i = 0; i < ELEMENTS; i++)
    sample[i] = (float)(low + qb_rng_range(&rng, 0, 2));
  return QB_OK;
}

/* A residual block, a depthwise and a grouped convolution, two matrices. */
static qb_graph make_network(void) {
  sketch_graph s = sketch_start(21);
  qb_value_id x = sketch_unary(&s, QB_OP_RELU, sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 8, 8)), 8, 3, 1, 1, 1));
  qb_value_id y = sketch_unary(&s, QB_OP_RELU, sketch_conv(&s, x, 8, 3, 1, 1, 8));
  y = sketch_binary(&s, QB_OP_ADD, sketch_conv(&s, y, 8, 3, 1, 1, 2), x);
  y = sketch_flatten(&s, sketch_conv(&s, sketch_unary(&s, QB_OP_RELU, y), 4, 3, 2, 1, 1));
  sketch_finish(&s, sketch_matmul(&s, sketch_unary(&s, QB_OP_RELU, sketch_gemm(&s, y, 12, true)), 5));
  return s.graph;
}

static qb_quantize_settings settings_for(qb_scheme scheme, int bits) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = bits;
  settings.scheme = scheme;
  settings.calibration.read = read_random;
  settings.calibration.count = SAMPLES;
  return settings;
}

static qb_graph quantize(const qb_graph *graph, const qb_quantize_settings *settings, qb_quantize_info *info) {
  qb_graph copy;
  qb_error error;
  assert_int_equal(qb_graph_clone(graph, &copy, &error), QB_OK);
  if (qb_quantize_weights(&copy, settings, NULL, info, &error) != QB_OK || qb_graph_validate(&copy, &error) != QB_OK)
    fail_msg("%s", error.message);
  return copy;
}

static void run_both(const qb_graph *a, const qb_graph *b, float outputs[2][SAMPLES * 5]) {
  const qb_graph *graphs[2] = {a, b};
  float input[SAMPLES * ELEMENTS];
  qb_error error;
  for (int i = 0; i < SAMPLES; i++)
    assert_int_equal(read_random(NULL, i, input + i * ELEMENTS, &error), QB_OK);
  for (int i = 0; i < 2; i++) {
    qb_run_settings settings;
    qb_run_settings_default(&settings);
    settings.batch = SAMPLES;
    qb_run *run;
    assert_int_equal(qb_run_create(graphs[i], &settings, &run, &error), QB_OK);
    assert_int_equal(qb_run_forward(run, input, SAMPLES, &error), QB_OK);
    memcpy(outputs[i], qb_run_value(run, graphs[i]->outputs[0]), sizeof outputs[i]);
    qb_run_free(run);
  }
}

static double output_error(const qb_graph *a, const qb_graph *b) {
  float outputs[2][SAMPLES * 5];
  run_both(a, b, outputs);
  double sum = 0;
  for (int i = 0; i < SAMPLES * 5; i++)
    sum += pow((double)outputs[0][i] - (double)outputs[1][i], 2);
  return sum / (SAMPLES * 5);
}

static void schemes_lower_the_error_and_report_it(void **state) {
  (void)state;
  qb_graph graph = make_network();
  const qb_scheme schemes[] = {QB_SCHEME_ADAROUND, QB_SCHEME_GPTQ};
  for (int variant = 0; variant < 24; variant++) {
    qb_quantize_settings settings = settings_for(schemes[variant % 2], 4);
    settings.granularity = variant / 2 % 2 == 0 ? QB_PER_CHANNEL : QB_PER_TENSOR;
    settings.grid = (qb_grid_choice)(variant / 4 % 3);
    settings.bias_correction = variant >= 12;
    settings.affine = variant % 3 == 0;
    settings.calibration.positions = 0;
    qb_quantize_info info;
    qb_graph quantized = quantize(&graph, &settings, &info);
    for (int i = 0; i < info.layer_count; i++) {
      const qb_quantize_layer *layer = &info.layers[i];
      assert_true(layer->method == QB_METHOD_CALIBRATED || layer->method == QB_METHOD_NEAREST);
      assert_true(layer->error <= layer->error_nearest && layer->error >= 0 && layer->power > 0);
      assert_true(layer->columns >= SAMPLES && layer->seconds >= 0);
    }
    assert_true(info.error <= info.error_nearest);
    double measured = output_error(&graph, &quantized);
    assert_true(fabs(measured - info.error) <= 1e-5 * (1 + info.error));
    qb_quantize_info_free(&info);
    qb_graph_free(&quantized);
  }
  qb_graph_free(&graph);
}

/* The first layer's error, measured by running: its outputs before and after, over all positions. */
static void reported_error_is_the_measured_one(void **state) {
  (void)state;
  sketch_graph s = sketch_start(8);
  qb_value_id output = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 8, 8)), 6, 3, 1, 1, 1);
  sketch_finish(&s, output);
  qb_quantize_settings settings = settings_for(QB_SCHEME_ADAROUND, 3);
  settings.calibration.positions = 0;
  for (int correct = 0; correct < 2; correct++) {
    settings.bias_correction = correct == 1;
    qb_quantize_info info;
    qb_graph quantized = quantize(&s.graph, &settings, &info);
    /* mean over all outputs times channels = mean over positions of the sum over channels */
    assert_true(fabs(6 * info.error - info.layers[0].error) <= 1e-4 * info.layers[0].error);
    qb_quantize_info_free(&info);
    qb_graph_free(&quantized);
  }
  qb_graph_free(&s.graph);
}

/* With correction the mean of every output over the samples is that of the float network. */
static void bias_correction_takes_means_away(void **state) {
  (void)state;
  sketch_graph s = sketch_start(9);
  qb_value_id input = sketch_input(&s, QB_SHAPE(1, 3, 8, 8));
  qb_value_id output = sketch_conv_with(&s, input, sketch_random(&s, QB_SHAPE(6, 3, 3, 3), -1, 1), QB_NONE, 1, 1, 1);
  sketch_finish(&s, output);
  qb_quantize_settings settings = settings_for(QB_SCHEME_UNIFORM, 2);
  settings.calibration.positions = 0;
  settings.bias_correction = true;
  qb_quantize_info info;
  qb_graph quantized = quantize(&s.graph, &settings, &info);
  const qb_graph *graphs[2] = {&s.graph, &quantized};
  double means[2][6] = {{0}};
  for (int i = 0; i < 2; i++) {
    qb_run_settings how;
    qb_run_settings_default(&how);
    qb_run *run;
    qb_error error;
    float sample[ELEMENTS];
    assert_int_equal(qb_run_create(graphs[i], &how, &run, &error), QB_OK);
    for (int n = 0; n < SAMPLES; n++) {
      assert_int_equal(read_random(NULL, n, sample, &error), QB_OK);
      assert_int_equal(qb_run_forward(run, sample, 1, &error), QB_OK);
      for (int k = 0; k < 6 * 64; k++)
        means[i][k / 64] += (double)qb_run_value(run, output)[k] / (64.0 * SAMPLES);
    }
    qb_run_free(run);
  }
  for (int o = 0; o < 6; o++)
    assert_near(means[0][o], means[1][o], 1e-5);
  qb_linear linear;
  assert_true(qb_graph_linear(&quantized, 0, &linear) && linear.bias != QB_NONE);
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  qb_graph_free(&s.graph);
}

/* Through several layers: each correction also takes away what the layers before left. */
static void the_last_correction_makes_the_output_unbiased(void **state) {
  (void)state;
  sketch_graph s = sketch_start(31);
  qb_value_id x = sketch_unary(&s, QB_OP_RELU, sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 8, 8)), 8, 3, 1, 1, 1));
  x = sketch_unary(&s, QB_OP_RELU, sketch_conv(&s, x, 6, 3, 2, 1, 2));
  sketch_finish(&s, sketch_gemm(&s, sketch_flatten(&s, x), 5, true));
  qb_quantize_settings settings = settings_for(QB_SCHEME_UNIFORM, 3);
  settings.calibration.positions = 0;
  settings.bias_correction = true;
  qb_quantize_info info;
  qb_graph quantized = quantize(&s.graph, &settings, &info);
  assert_false(info.kept_nearest);
  float outputs[2][SAMPLES * 5];
  run_both(&s.graph, &quantized, outputs);
  for (int o = 0; o < 5; o++) {
    double mean = 0, size = 0;
    for (int i = 0; i < SAMPLES; i++) {
      mean += ((double)outputs[1][i * 5 + o] - (double)outputs[0][i * 5 + o]) / SAMPLES;
      size += fabs((double)outputs[1][i * 5 + o] - (double)outputs[0][i * 5 + o]) / SAMPLES;
    }
    assert_true(size > 0 && fabs(mean) < 1e-2 * size);
  }
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  qb_graph_free(&s.graph);
}

static bool same_weights(const qb_graph *a, const qb_graph *b) {
  for (int32_t n = 0; n < a->node_count; n++) {
    qb_linear x, y;
    if (!qb_graph_linear(a, n, &x) || !qb_graph_linear(b, n, &y))
      continue;
    size_t count = qb_shape_elements(&a->values[x.weight].shape);
    if (memcmp(a->values[x.weight].constant.data, b->values[y.weight].constant.data, count * sizeof(float)) != 0)
      return false;
  }
  return true;
}

static void same_seed_same_weights_whatever_the_threads(void **state) {
  (void)state;
  qb_graph graph = make_network(), results[3];
  int threads = omp_get_max_threads();
  qb_quantize_settings settings = settings_for(QB_SCHEME_ADAROUND, 3);
  settings.calibration.samples = 2 * SAMPLES + 3;
  settings.calibration.positions = 20;
  for (int i = 0; i < 3; i++) {
    omp_set_num_threads(i == 1 ? 3 : 1);
    settings.seed = i == 2 ? 1 : 0;
    results[i] = quantize(&graph, &settings, NULL);
  }
  omp_set_num_threads(threads);
  assert_true(same_weights(&results[0], &results[1]));
  assert_false(same_weights(&results[0], &results[2])); /* other positions and other variants of samples */
  for (int i = 0; i < 3; i++)
    qb_graph_free(&results[i]);
  qb_graph_free(&graph);
}

/* Without room for activations everything runs from the input again: the same but for the rounding of kept ones. */
static void little_memory_costs_time_only(void **state) {
  (void)state;
  qb_graph graph = make_network(), results[2];
  qb_quantize_info info[2];
  qb_quantize_settings settings = settings_for(QB_SCHEME_GPTQ, 4);
  for (int i = 0; i < 2; i++) {
    settings.calibration.memory_bytes = i == 0 ? 0 : 1 << 30;
    results[i] = quantize(&graph, &settings, &info[i]);
  }
  for (int i = 0; i < info[0].layer_count; i++)
    assert_true(fabs(info[0].layers[i].power - info[1].layers[i].power) <= 0.1 * info[0].layers[i].power);
  assert_true(fabs(info[0].error - info[1].error) <= 0.5 * info[0].error_nearest);
  for (int i = 0; i < 2; i++) {
    qb_quantize_info_free(&info[i]);
    qb_graph_free(&results[i]);
  }
  qb_graph_free(&graph);
}

/* A layer that cannot be calibrated keeps nearest codes and says so; one without bits stays float. */
static void unsupported_layers_say_so(void **state) {
  (void)state;
  sketch_graph s = sketch_start(2);
  qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 8, 8)), 4, 3, 1, 1, 1);
  x = sketch_conv_transpose(&s, sketch_unary(&s, QB_OP_RELU, x), 4, 2, 2, 1);
  sketch_finish(&s, sketch_conv(&s, sketch_unary(&s, QB_OP_RELU, x), 2, 1, 1, 0, 1));
  qb_quantize_settings settings = settings_for(QB_SCHEME_ADAROUND, 4);
  qb_layer_bits plan = {.node = s.graph.nodes[s.graph.node_count - 1].name, .bits = 0};
  settings.plan = &plan;
  settings.plan_count = 1;
  qb_quantize_info info;
  qb_graph quantized = quantize(&s.graph, &settings, &info);
  assert_int_equal(info.layer_count, 3);
  assert_int_equal(info.layers[0].method, QB_METHOD_CALIBRATED);
  assert_int_equal(info.layers[1].method, QB_METHOD_UNSUPPORTED);
  assert_true(isnan(info.layers[1].error));
  assert_int_equal(info.layers[2].method, QB_METHOD_FLOAT);
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  qb_graph_free(&s.graph);
}

static void bad_settings_and_samples_are_refused(void **state) {
  (void)state;
  qb_graph graph = make_network(), copy;
  qb_error error;
  const int64_t broken = 5;
  for (int i = 0; i < 7; i++) {
    qb_quantize_settings settings = settings_for(QB_SCHEME_ADAROUND, 4);
    settings.calibration.count = i == 0 || i == 1 || i == 2 ? 0 : SAMPLES;
    settings.scheme = i == 1 || i == 2 ? QB_SCHEME_UNIFORM : QB_SCHEME_ADAROUND;
    settings.bias_correction = i == 1;
    settings.grid = i == 2 ? QB_GRID_OUTPUT : QB_GRID_MINMAX;
    settings.calibration.positions = i == 3 ? -1 : 8;
    settings.damping = i == 4 ? (double)NAN : 0.01;
    settings.calibration.read = i == 5 ? NULL : read_random;
    settings.calibration.context = i == 6 ? &broken : NULL;
    assert_int_equal(qb_graph_clone(&graph, &copy, &error), QB_OK);
    assert_int_equal(qb_quantize_weights(&copy, &settings, NULL, NULL, &error),
                     i == 6 ? QB_ERROR_IO : QB_ERROR_ARGUMENT);
    assert_true(strlen(error.message) > 10);
    qb_graph_free(&copy);
  }
  qb_graph_free(&graph);
}

static bool stop_soon(void *context, const char *what, int64_t done, int64_t total) {
  (void)what, (void)done, (void)total;
  return --*(int *)context > 0;
}

static void progress_can_stop_it(void **state) {
  (void)state;
  qb_graph graph = make_network(), copy;
  qb_error error;
  for (int left = 1; left < 8; left += 3) {
    int calls = left;
    qb_progress progress = {stop_soon, &calls};
    qb_quantize_settings settings = settings_for(QB_SCHEME_GPTQ, 4);
    assert_int_equal(qb_graph_clone(&graph, &copy, &error), QB_OK);
    assert_int_equal(qb_quantize_weights(&copy, &settings, &progress, NULL, &error), QB_ERROR_INTERRUPTED);
    qb_graph_free(&copy);
  }
  qb_graph_free(&graph);
}

typedef struct told {
  int64_t last;
  int calls;
} told;

static bool listen(void *context, const char *what, int64_t done, int64_t total) {
  told *t = context;
  assert_string_equal(what, "quantizing");
  assert_int_equal(total, QB_PROGRESS_SHARES);
  assert_true(done >= t->last && done <= total);
  t->last = done;
  t->calls++;
  return true;
}

/* One stage from 0 to all of the work, whatever the solver reports on its way. */
static void progress_is_a_share_of_all_layers(void **state) {
  (void)state;
  qb_graph graph = make_network(), copy;
  qb_error error;
  for (int solver = QB_SOLVER_DESCENT; solver <= QB_SOLVER_GRADIENT; solver++) {
    told t = {0};
    qb_progress progress = {listen, &t};
    qb_quantize_settings settings = settings_for(QB_SCHEME_ADAROUND, 4);
    qb_quantize_info info;
    settings.solver = (qb_solver)solver;
    assert_int_equal(qb_graph_clone(&graph, &copy, &error), QB_OK);
    assert_int_equal(qb_quantize_weights(&copy, &settings, &progress, &info, &error), QB_OK);
    assert_int_equal(t.last, QB_PROGRESS_SHARES);
    assert_true(t.calls > info.layer_count + 1); /* within layers too */
    qb_quantize_info_free(&info);
    qb_graph_free(&copy);
  }
  qb_graph_free(&graph);
}

/* Samples beyond those given are mirrored and shifted ones: the same pixels' range, another image. */
static void more_samples_are_variants(void **state) {
  (void)state;
  qb_graph graph = make_network();
  qb_calibration source = {.read = read_random, .count = 3, .samples = 12};
  qb_samples samples = qb_samples_of(&source, &graph, 1);
  float all[12 * ELEMENTS], again[ELEMENTS];
  qb_error error;
  assert_int_equal(samples.count, 12);
  assert_int_equal(qb_samples_read(&samples, 0, 12, all, &error), QB_OK);
  assert_int_equal(qb_samples_read(&samples, 7, 1, again, &error), QB_OK);
  assert_memory_equal(again, all + 7 * ELEMENTS, sizeof again);
  int different = 0;
  for (int i = 3; i < 12; i++) {
    const float *base = all + i % 3 * ELEMENTS, *variant = all + i * ELEMENTS;
    different += memcmp(base, variant, sizeof again) != 0;
    for (int k = 0; k < ELEMENTS; k++) { /* every pixel is one of the same channel and a neighbouring row */
      bool found = false;
      for (int m = 0; m < 64 && !found; m++)
        found = variant[k] == base[k / 64 * 64 + m];
      assert_true(found);
    }
  }
  assert_true(different >= 6);
  qb_graph_free(&graph);
}

static qb_status quantize_work(void *context, qb_error *error) {
  qb_quantize_settings settings = settings_for(QB_SCHEME_ADAROUND, 3);
  settings.calibration.count = 2;
  settings.grid = QB_GRID_OUTPUT;
  settings.bias_correction = true;
  qb_graph copy;
  qb_quantize_info info = {0};
  qb_status status = qb_graph_clone(context, &copy, error);
  if (status == QB_OK)
    status = qb_quantize_weights(&copy, &settings, NULL, &info, error);
  qb_quantize_info_free(&info);
  qb_graph_free(&copy);
  return status;
}

static void failed_allocations_leave_nothing(void **state) {
  (void)state;
  sketch_graph s = sketch_start(4);
  qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 8, 8)), 2, 3, 1, 1, 1);
  sketch_finish(&s, sketch_conv(&s, sketch_unary(&s, QB_OP_RELU, x), 2, 1, 1, 0, 1));
  int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  fault_every_allocation(quantize_work, &s.graph, 2000);
  omp_set_num_threads(threads);
  qb_graph_free(&s.graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(schemes_lower_the_error_and_report_it),
      cmocka_unit_test(reported_error_is_the_measured_one),
      cmocka_unit_test(bias_correction_takes_means_away),
      cmocka_unit_test(the_last_correction_makes_the_output_unbiased),
      cmocka_unit_test(same_seed_same_weights_whatever_the_threads),
      cmocka_unit_test(little_memory_costs_time_only),
      cmocka_unit_test(unsupported_layers_say_so),
      cmocka_unit_test(bad_settings_and_samples_are_refused),
      cmocka_unit_test(progress_can_stop_it),
      cmocka_unit_test(progress_is_a_share_of_all_layers),
      cmocka_unit_test(more_samples_are_variants),
      cmocka_unit_test(failed_allocations_leave_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
