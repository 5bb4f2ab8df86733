/* The reference engine against ONNX Runtime on every operator, and the executor's interface. */
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
  settings.engine = QB_ENGINE_REFERENCE;
  if (qb_run_create(graph, &settings, &run, &error) != QB_OK)
    fail_msg("%s", error.message);
  return run;
}

static void forward(qb_run *run, const float *input, int32_t count) {
  qb_error error;
  if (qb_run_forward(run, input, count, &error) != QB_OK)
    fail_msg("%s", error.message);
}

/* ONNX Runtime computes in float32, so it must lie within the radius that covers every float32 evaluation. */
static void operators_match_onnx_runtime(void **state) {
  (void)state;
  FILE *file = run_case_open(QB_TEST_DIR "/golden/run_ops.txt");
  run_case c;
  int cases = 0;
  bool seen[QB_OP_COUNT] = {false};
  while (run_case_next(file, &c)) {
    qb_run *run =
        create(&c.graph, (qb_run_settings){.batch = c.count, .threads = 2, .radius = true, .radius_float32 = true});
    forward(run, c.input, c.count);
    const double *y = qb_run_value_double(run, c.graph.outputs[0]), *r = qb_run_radius(run, c.graph.outputs[0]);
    assert_non_null(y);
    assert_null(qb_run_value(run, c.graph.outputs[0]));
    for (size_t i = 0; i < c.output_elements; i++) {
      if (!(fabs(y[i] - (double)c.expected[i]) <= 2.0 * r[i]))
        fail_msg("%s[%zu]: %.9g, expected %.9g, radius %.3g", c.name, i, y[i], (double)c.expected[i], r[i]);
      if (!(r[i] <= 1e-4 * (1.0 + fabs(y[i]))) && c.graph.nodes[0].op != QB_OP_QUANTIZE_LINEAR)
        fail_msg("%s[%zu]: the radius %.3g is useless", c.name, i, r[i]);
    }
    seen[c.graph.nodes[0].op] = true;
    cases++;
    qb_run_free(run);
    run_case_free(&c);
  }
  run_case_free(&c);
  fclose(file);
  assert_int_equal(cases, 71);
  for (int op = 0; op < QB_OP_COUNT; op++)
    if (!seen[op])
      fail_msg("no golden case for %s", qb_op_name((qb_op)op));
}

/* conv -> relu -> add of the input -> global average: two samples of a batch do not touch each other. */
static void make_network(qb_graph *graph, qb_value_id *kept) {
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, 3, 0);
  qb_value_id x = run_test_begin(graph, "small", QB_SHAPE(1, 3, 7, 6));
  qb_value_id conv = run_test_conv(graph, &rng, x, 3, 1, run_test_window(3, 1, 1), true);
  *kept = run_test_node(graph, QB_OP_RELU, (qb_value_id[]){conv}, 1, NULL, NULL);
  qb_value_id sum = run_test_node(graph, QB_OP_ADD, (qb_value_id[]){*kept, x}, 2, NULL, NULL);
  qb_value_id y = run_test_node(graph, QB_OP_GLOBAL_AVERAGE_POOL, (qb_value_id[]){sum}, 1, NULL, NULL);
  assert_int_equal(qb_graph_add_output(graph, y, &error), QB_OK);
}

static void batch_and_threads_change_no_bit(void **state) {
  (void)state;
  enum { SAMPLES = 16, SAMPLE = 3 * 7 * 6 };
  qb_graph graph;
  qb_value_id kept;
  qb_rng rng;
  make_network(&graph, &kept);
  qb_rng_seed(&rng, 4, 0);
  float *input = run_test_random(&rng, SAMPLES * SAMPLE, 1.0);
  double expected[SAMPLES * 3], radius[SAMPLES * 3];
  qb_run *one = create(&graph, (qb_run_settings){.batch = 1, .threads = 1, .radius = true});
  for (int i = 0; i < SAMPLES; i++) {
    forward(one, input + i * SAMPLE, 1);
    memcpy(expected + 3 * i, qb_run_value_double(one, graph.outputs[0]), 3 * sizeof(double));
    memcpy(radius + 3 * i, qb_run_radius(one, graph.outputs[0]), 3 * sizeof(double));
  }
  qb_run_free(one);
  for (int32_t threads = 1; threads <= 3; threads++)
    for (int32_t count = 3; count <= SAMPLES; count += 13) { /* 3 of 16, then all */
      qb_run *run =
          create(&graph,
                 (qb_run_settings){.batch = 16, .threads = threads, .radius = true, .keep = &kept, .keep_count = 1});
      forward(run, input, count);
      assert_memory_equal(qb_run_value_double(run, graph.outputs[0]), expected, (size_t)count * 3 * sizeof(double));
      assert_memory_equal(qb_run_radius(run, graph.outputs[0]), radius, (size_t)count * 3 * sizeof(double));
      assert_non_null(qb_run_value_double(run, kept));
      assert_null(qb_run_value_double(run, graph.inputs[0]));
      qb_run_free(run);
    }
  qb_free(input);
  qb_graph_free(&graph);
}

static void kept_values_survive_the_whole_call(void **state) {
  (void)state;
  qb_graph graph;
  qb_value_id kept;
  make_network(&graph, &kept);
  qb_value_id keep[2] = {kept, graph.inputs[0]};
  qb_run *run = create(&graph, (qb_run_settings){.batch = 1, .keep = keep, .keep_count = 2});
  float input[3 * 7 * 6];
  for (int i = 0; i < 3 * 7 * 6; i++)
    input[i] = (float)(i % 11) - 5.0f;
  forward(run, input, 1);
  const double *x = qb_run_value_double(run, graph.inputs[0]), *relu = qb_run_value_double(run, kept);
  const double *y = qb_run_value_double(run, graph.outputs[0]);
  for (int c = 0; c < 3; c++) {
    double sum = 0.0;
    for (int i = 42 * c; i < 42 * (c + 1); i++) {
      assert_true(x[i] == (double)input[i] && relu[i] >= 0.0);
      sum += x[i] + relu[i];
    }
    assert_true(sum / 42.0 == y[c]);
  }
  assert_null(qb_run_radius(run, graph.outputs[0])); /* not asked for */
  qb_run_free(run);
  qb_graph_free(&graph);
}

static void expect(const qb_graph *graph, qb_run_settings settings, qb_status status, const char *needle) {
  qb_error error;
  qb_run *run;
  settings.engine = QB_ENGINE_REFERENCE;
  assert_int_equal(qb_run_create(graph, &settings, &run, &error), status);
  assert_null(run);
  if (strstr(error.message, needle) == NULL)
    fail_msg("'%s' does not mention '%s'", error.message, needle);
}

static void bad_settings_and_graphs_are_refused(void **state) {
  (void)state;
  qb_graph graph, windows;
  qb_value_id kept, missing = 1000;
  qb_error error;
  make_network(&graph, &kept);
  expect(&graph, (qb_run_settings){.batch = 0}, QB_ERROR_ARGUMENT, "batch is 0");
  expect(&graph, (qb_run_settings){.batch = 1, .threads = -1}, QB_ERROR_ARGUMENT, "threads is -1");
  expect(&graph, (qb_run_settings){.batch = 1, .keep = &missing, .keep_count = 1}, QB_ERROR_ARGUMENT, "1000");

  qb_run *run = create(&graph, (qb_run_settings){.batch = 2});
  float input[3 * 7 * 6 * 2] = {0};
  assert_int_equal(qb_run_forward(run, input, 3, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_run_forward(run, input, 0, &error), QB_ERROR_ARGUMENT);
  qb_run_free(run);
  qb_graph_free(&graph);

  qb_value_id x = run_test_begin(&windows, "windows", QB_SHAPE(1, 1, 2, 2));
  qb_attributes pool = {.pool = {run_test_window(2, 1, 2), false}};
  qb_value_id y = run_test_node(&windows, QB_OP_MAX_POOL, &x, 1, &pool, NULL);
  assert_int_equal(qb_graph_add_output(&windows, y, &error), QB_OK);
  expect(&windows, (qb_run_settings){.batch = 1}, QB_ERROR_UNSUPPORTED, "sees only padding");
  qb_graph_free(&windows);
}

/* Every allocation in turn fails: the status is QB_ERROR_MEMORY and nothing leaks (seen by the sanitizer). */
static void failed_allocations_are_reported(void **state) {
  (void)state;
  qb_graph graph;
  qb_value_id kept;
  make_network(&graph, &kept);
  for (long n = 0;; n++) {
    qb_run_settings settings = {.engine = QB_ENGINE_REFERENCE, .batch = 2, .radius = true};
    qb_error error;
    qb_run *run;
    qb_alloc_fail_after(n);
    qb_status status = qb_run_create(&graph, &settings, &run, &error);
    qb_alloc_fail_after(-1);
    if (status == QB_OK) {
      assert_true(n > 5);
      qb_run_free(run);
      break;
    }
    assert_int_equal(status, QB_ERROR_MEMORY);
  }
  qb_graph_free(&graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(operators_match_onnx_runtime),       cmocka_unit_test(batch_and_threads_change_no_bit),
      cmocka_unit_test(kept_values_survive_the_whole_call), cmocka_unit_test(bad_settings_and_graphs_are_refused),
      cmocka_unit_test(failed_allocations_are_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
