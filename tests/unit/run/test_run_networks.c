/* Whole networks against outputs computed by ONNX Runtime (tests/golden/run_networks.txt): both engines, with BatchNorm
 * as it is and folded, one sample alone and in a batch.
 *
 * An interval bound on float32 rounding grows with depth beyond any use, so the comparison of deep networks is relative
 * to the largest output: 2^-24 per rounding, at most a few hundred rounding steps in a row, give 1e-4. A wrong operator
 * is off by far more. On shallow networks the radius of the reference is small, and then it decides. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "run/run.h"
#include "support/run_support.h"
#include "support/test_data.h"

enum { LARGEST_OUTPUT = 1000 };
static const double relative_limit = 1e-4;
static const int64_t reference_macs = 60000000; /* the double loops are for small networks here */

static float hashed_element(uint32_t i) {
  uint32_t h = i * 2654435761u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  return (float)(h >> 8) / 4194304.0f - 2.0f;
}

/* Two samples: zeros, then the hashed one, so that the position in the batch matters. */
static float *hashed_input(size_t elements) {
  float *input = qb_alloc(2 * elements, sizeof *input);
  assert_non_null(input);
  for (size_t i = 0; i < elements; i++)
    input[elements + i] = hashed_element((uint32_t)i);
  return input;
}

typedef struct golden {
  char name[128];
  size_t count;
  float y[LARGEST_OUTPUT];
} golden;

static bool read_golden(FILE *file, golden *g) {
  if (fscanf(file, "%127s %zu", g->name, &g->count) != 2)
    return false;
  assert_true(g->count <= LARGEST_OUTPUT);
  for (size_t i = 0; i < g->count; i++)
    assert_int_equal(fscanf(file, "%f", &g->y[i]), 1);
  return true;
}

static void check_output(const golden *g, const char *what, const double *y, const double *radius) {
  double largest = 0.0, worst = 0.0;
  for (size_t i = 0; i < g->count; i++) {
    largest = fmax(largest, fabs((double)g->y[i]));
    worst = fmax(worst, fabs(y[i] - (double)g->y[i]));
    if (radius != NULL && !(fabs(y[i] - (double)g->y[i]) <= 2.0 * radius[i]))
      fail_msg("%s, %s: output %zu is %.9g, not %.9g, radius %.3g", g->name, what, i, y[i], (double)g->y[i], radius[i]);
  }
  if (!(worst <= relative_limit * largest))
    fail_msg("%s, %s: largest difference %.3g, largest output %.3g", g->name, what, worst, largest);
}

/* The bits must not depend on batch and threads. */
static void check_fast(const qb_graph *graph, const golden *g, const float *input, size_t elements, const char *what) {
  qb_error error;
  double y[LARGEST_OUTPUT];
  float first[LARGEST_OUTPUT];
  for (int32_t variant = 0; variant < 4; variant++) {
    int32_t batch = 1 + variant % 2;
    qb_run_settings settings = {.engine = QB_ENGINE_ONEDNN, .batch = batch, .threads = 1 + variant / 2};
    qb_run *run;
    if (qb_run_create(graph, &settings, &run, &error) != QB_OK ||
        qb_run_forward(run, batch == 1 ? input + elements : input, batch, &error) != QB_OK)
      fail_msg("%s: %s", g->name, error.message);
    const float *output = qb_run_value(run, graph->outputs[0]) + (size_t)(batch - 1) * g->count;
    for (size_t i = 0; i < g->count; i++)
      y[i] = (double)output[i];
    check_output(g, what, y, NULL);
    if (variant == 0)
      memcpy(first, output, g->count * sizeof *first);
    assert_memory_equal(output, first, g->count * sizeof *first);
    qb_run_free(run);
  }
}

static void check_reference(const qb_graph *graph, const golden *g, const float *input) {
  qb_error error;
  qb_run *run;
  qb_run_settings settings = {.engine = QB_ENGINE_REFERENCE,
                              .batch = 1,
                              .threads = 2,
                              .radius = true,
                              .radius_float32 = true};
  if (qb_run_create(graph, &settings, &run, &error) != QB_OK || qb_run_forward(run, input, 1, &error) != QB_OK)
    fail_msg("%s: %s", g->name, error.message);
  check_output(g, "reference", qb_run_value_double(run, graph->outputs[0]), qb_run_radius(run, graph->outputs[0]));
  qb_run_free(run);
}

static void check_network(const char *path, const golden *g) {
  qb_error error;
  qb_onnx *document;
  qb_graph graph;
  qb_fold_bn_info folded;
  if (qb_onnx_read(path, &document, &error) != QB_OK || qb_onnx_to_graph(document, &graph, &error) != QB_OK)
    fail_msg("%s", error.message);
  size_t elements = qb_shape_elements(&graph.values[graph.inputs[0]].shape);
  int64_t macs = 0;
  assert_int_equal(qb_shape_elements(&graph.values[graph.outputs[0]].shape), g->count);
  float *input = hashed_input(elements);
  for (int32_t n = 0; n < graph.node_count; n++)
    macs += qb_graph_node_macs(&graph, n);
  if (macs <= reference_macs)
    check_reference(&graph, g, input + elements);
  check_fast(&graph, g, input, elements, "oneDNN");
  assert_int_equal(qb_fold_bn(&graph, &folded, &error), QB_OK);
  if (folded.folded_back + folded.folded_forward > 0)
    check_fast(&graph, g, input, elements, "oneDNN, BatchNorm folded");
  qb_free(input);
  qb_graph_free(&graph);
  qb_onnx_free(document);
}

static void networks_match_onnx_runtime(void **state) {
  (void)state;
  FILE *file = fopen(QB_TEST_DIR "/golden/run_networks.txt", "r");
  golden g;
  int checked = 0, missing = 0;
  assert_non_null(file);
  while (read_golden(file, &g)) {
    const char *path = test_data_or_null(g.name);
    if (path == NULL) {
      print_message("skipped: %s is not there\n", g.name);
      missing++;
      continue;
    }
    check_network(path, &g);
    checked++;
  }
  fclose(file);
  assert_int_equal(checked + missing, 12);
  if (checked == 0)
    skip();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(networks_match_onnx_runtime)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
