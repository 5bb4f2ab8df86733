/* Measuring: decisions, ties, offsets, errors and failures on networks whose outputs are known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "run/measure.h"
#include "support/run_support.h"

enum { CLASSES = 6, SAMPLES = 7 };

/* Outputs are the inputs times `gain`, plus `shift` on class 2. */
static void make_network(qb_graph *graph, float gain, float shift) {
  qb_error error;
  float weight[CLASSES * CLASSES] = {0}, bias[CLASSES] = {0};
  for (int i = 0; i < CLASSES; i++)
    weight[i * CLASSES + i] = gain;
  bias[2] = shift;
  qb_value_id x = run_test_begin(graph, "classes", QB_SHAPE(1, CLASSES));
  qb_value_id w = run_test_constant(graph, NULL, QB_SHAPE(CLASSES, CLASSES), 0.0, weight);
  qb_value_id b = run_test_constant(graph, NULL, QB_SHAPE(CLASSES), 0.0, bias);
  qb_value_id y = run_test_node(graph, QB_OP_GEMM, (qb_value_id[]){x, w, b}, 3, NULL, NULL);
  assert_int_equal(qb_graph_add_output(graph, y, &error), QB_OK);
}

static const float data[SAMPLES][CLASSES] = {
    {5, 4, 3, 2, 1, 0}, /* decision 0 */
    {0, 1, 2, 3, 4, 5}, /* decision 5 */
    {1, 1, 1, 1, 1, 1}, /* tie: decision 0 */
    {0, 3, 3, 0, 0, 0}, /* tie of 1 and 2: decision 1 */
    {0, 0, 9, 0, 0, 0}, /* decision 2 */
    {2, 1, 0, 0, 0, 8}, /* decision 5 */
    {0, 0, 0, 0, 7, 0}, /* decision 4 */
};

typedef struct source {
  int32_t labels[SAMPLES];
  int64_t fail_at; /* and every later one */
} source;

static qb_status read_sample(const void *context, int64_t index, float *sample, qb_error *error) {
  const source *s = context;
  if (index >= s->fail_at) {
    snprintf(error->message, sizeof error->message, "sample %d is broken", (int)index);
    return QB_ERROR_FORMAT;
  }
  memcpy(sample, data[index], sizeof data[index]);
  return QB_OK;
}

static int32_t read_label(const void *context, int64_t index) { return ((const source *)context)->labels[index]; }

static qb_run_samples samples_of(const source *s) { return (qb_run_samples){s, SAMPLES, read_sample, read_label}; }

static const source ordinary = {{0, 5, 5, 2, 1, -1, 4}, SAMPLES};

static void one_network_is_measured(void **state) {
  (void)state;
  static const int32_t tops[SAMPLES] = {0, 5, 0, 1, 2, 5, 4}, ranks[SAMPLES] = {0, 0, 5, 1, 2, -1, 0};
  qb_graph graph;
  make_network(&graph, 1.0f, 0.0f);
  qb_run_samples samples = samples_of(&ordinary);
  for (int k = 0; k < 6; k++) {
    qb_run_measure_settings settings;
    qb_run_measure_info info;
    qb_error error;
    qb_run_measure_settings_default(&settings);
    settings.batch = k % 3 == 0 ? 1 : k % 3 == 1 ? 3 : 100;
    settings.engine = k < 3 ? QB_ENGINE_ONEDNN : QB_ENGINE_REFERENCE;
    if (qb_run_measure(&graph, NULL, &samples, &settings, NULL, &info, &error) != QB_OK)
      fail_msg("%s", error.message);
    assert_int_equal(info.count, SAMPLES);
    assert_int_equal(info.labelled, 6);
    assert_true(info.model.top1 == 3.0 / 6.0 && info.model.top5 == 5.0 / 6.0);
    assert_true(isnan(info.other.top1) && isnan(info.flips) && info.flip_count == 0);
    assert_true(info.images_per_second > 0.0 && info.seconds >= info.model.seconds);
    for (int i = 0; i < SAMPLES; i++) {
      assert_int_equal(info.samples[i].top, tops[i]);
      assert_int_equal(info.samples[i].rank, ranks[i]);
      assert_int_equal(info.samples[i].other_top, -1);
    }
    qb_run_measure_info_free(&info);
    qb_run_measure_info_free(&info);
  }
  qb_graph_free(&graph);
}

static void two_networks_are_compared(void **state) {
  (void)state;
  static const double errors[SAMPLES] = {4.0, 3.5, 3.0, 4.0, 7.0, 4.0, 3.5}; /* max |x / 2 + 2.5 [class 2]| */
  qb_graph graph, other;
  qb_run_measure_settings settings;
  qb_run_measure_info info;
  qb_error error;
  make_network(&graph, 1.0f, 0.0f);
  make_network(&other, 1.5f, 2.5f); /* difference: x / 2, on class 2 x / 2 + 2.5 */
  qb_run_samples samples = samples_of(&ordinary);
  qb_run_measure_settings_default(&settings);
  settings.batch = 2;
  assert_int_equal(qb_run_measure(&graph, &other, &samples, &settings, NULL, &info, &error), QB_OK);
  double sum = 0.0;
  for (int i = 0; i < SAMPLES; i++) {
    assert_true(info.samples[i].error == errors[i]);
    sum += errors[i];
  }
  /* class 2 gets 1.5 x + 2.5: it wins samples 2 and 3, not 0 (7 against 7.5) and 1 (5.5 against 7.5) */
  assert_int_equal(info.flip_count, 2);
  assert_true(info.flips == 2.0 / 7.0);
  assert_int_equal(info.samples[2].other_top, 2);
  assert_int_equal(info.samples[3].other_top, 2);
  assert_true(info.other.top1 == 4.0 / 6.0); /* sample 3 became right */
  assert_true(info.error_max == 7.0 && info.error_argmax == 4 && info.error_mean == sum / 7.0);
  assert_true(info.error_p50 == 4.0 && info.error_p90 == 7.0 && info.error_p99 == 7.0);
  qb_run_measure_info_free(&info);
  qb_graph_free(&graph);
  qb_graph_free(&other);
}

static void labels_are_shifted_and_checked(void **state) {
  (void)state;
  static const source background = {{4, 4, 4, 0, 1, 4, 3}, SAMPLES};
  qb_graph graph;
  qb_run_measure_settings settings;
  qb_run_measure_info info;
  qb_error error;
  make_network(&graph, 1.0f, 0.0f);
  qb_run_samples samples = samples_of(&background);
  qb_run_measure_settings_default(&settings);
  settings.label_offset = 1;
  assert_int_equal(qb_run_measure(&graph, NULL, &samples, &settings, NULL, &info, &error), QB_OK);
  assert_true(info.model.top1 == 5.0 / 7.0);
  qb_run_measure_info_free(&info);
  settings.label_offset = 2;
  assert_int_equal(qb_run_measure(&graph, NULL, &samples, &settings, NULL, &info, &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "label offset"));
  assert_null(info.samples);
  qb_graph_free(&graph);
}

static bool stop_at_four(void *context, const char *what, int64_t done, int64_t total) {
  assert_string_equal(what, "measuring");
  assert_int_equal(total, SAMPLES);
  *(int64_t *)context = done;
  return done < 4;
}

static void failures_are_reported(void **state) {
  (void)state;
  static const source broken = {{0}, 3};
  qb_graph graph, large;
  qb_run_measure_settings settings;
  qb_run_measure_info info;
  qb_error error;
  int64_t done = -1;
  make_network(&graph, 1.0f, 0.0f);
  make_network(&large, 3e38f, 0.0f);
  qb_run_measure_settings_default(&settings);
  settings.threads = 2;
  qb_run_samples samples = samples_of(&broken);
  assert_int_equal(qb_run_measure(&graph, NULL, &samples, &settings, NULL, &info, &error), QB_ERROR_FORMAT);
  assert_string_equal(error.message, "sample 3 is broken");

  samples = samples_of(&ordinary);
  settings.batch = 2;
  qb_progress progress = {stop_at_four, &done};
  assert_int_equal(qb_run_measure(&graph, NULL, &samples, &settings, &progress, &info, &error), QB_ERROR_INTERRUPTED);
  assert_int_equal(done, 4);

  assert_int_equal(qb_run_measure(&graph, &large, &samples, &settings, NULL, &info, &error), QB_ERROR_NUMERIC);
  settings.output = 1;
  assert_int_equal(qb_run_measure(&graph, NULL, &samples, &settings, NULL, &info, &error), QB_ERROR_ARGUMENT);
  settings.output = 0;
  settings.batch = 0;
  assert_int_equal(qb_run_measure(&graph, NULL, &samples, &settings, NULL, &info, &error), QB_ERROR_ARGUMENT);
  settings.batch = 1;
  samples.count = 0;
  assert_int_equal(qb_run_measure(&graph, NULL, &samples, &settings, NULL, &info, &error), QB_ERROR_ARGUMENT);
  qb_graph_free(&graph);
  qb_graph_free(&large);
}

static void networks_of_other_sizes_are_refused(void **state) {
  (void)state;
  qb_graph graph, other;
  qb_run_measure_settings settings;
  qb_run_measure_info info;
  qb_error error;
  make_network(&graph, 1.0f, 0.0f);
  qb_value_id x = run_test_begin(&other, "wide", QB_SHAPE(1, 5));
  qb_value_id y = run_test_node(&other, QB_OP_RELU, &x, 1, NULL, NULL);
  assert_int_equal(qb_graph_add_output(&other, y, &error), QB_OK);
  qb_run_samples samples = samples_of(&ordinary);
  qb_run_measure_settings_default(&settings);
  assert_int_equal(qb_run_measure(&graph, &other, &samples, &settings, NULL, &info, &error), QB_ERROR_SHAPE);
  qb_graph_free(&graph);
  qb_graph_free(&other);
}

static void failed_allocations_are_reported(void **state) {
  (void)state;
  qb_graph graph;
  make_network(&graph, 1.0f, 0.0f);
  qb_run_samples samples = samples_of(&ordinary);
  for (long n = 0;; n++) {
    qb_run_measure_settings settings;
    qb_run_measure_info info;
    qb_error error;
    qb_run_measure_settings_default(&settings);
    settings.engine = QB_ENGINE_REFERENCE;
    qb_alloc_fail_after(n);
    qb_status status = qb_run_measure(&graph, &graph, &samples, &settings, NULL, &info, &error);
    qb_alloc_fail_after(-1);
    if (status == QB_OK) {
      assert_true(n > 10 && info.flip_count == 0 && info.error_max == 0.0);
      qb_run_measure_info_free(&info);
      break;
    }
    assert_int_equal(status, QB_ERROR_MEMORY);
  }
  qb_graph_free(&graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_network_is_measured),
      cmocka_unit_test(two_networks_are_compared),
      cmocka_unit_test(labels_are_shifted_and_checked),
      cmocka_unit_test(failures_are_reported),
      cmocka_unit_test(networks_of_other_sizes_are_refused),
      cmocka_unit_test(failed_allocations_are_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
