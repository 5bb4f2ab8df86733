/* The demo network from its file to its outputs: layers, size, and the reference engine against what ONNX Runtime
 * computed on generated test images (tests/golden/demo_outputs.txt, written by tools/demo_golden.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "data/digits.h"
#include "onnx/onnx.h"
#include "run/run.h"

enum { IMAGES = 20, TEST_SEED = 2 };

typedef struct network {
  qb_onnx *document;
  qb_graph graph;
} network;

static void load(network *n) {
  qb_error error = {0};
  if (qb_onnx_read(QB_SOURCE_DIR "/examples/demo/digits.onnx", &n->document, &error) != QB_OK ||
      qb_onnx_to_graph(n->document, &n->graph, &error) != QB_OK || qb_graph_validate(&n->graph, &error) != QB_OK)
    fail_msg("%s", error.message);
}

static void unload(network *n) {
  qb_graph_free(&n->graph);
  qb_onnx_free(n->document);
}

static int count_op(const qb_graph *graph, qb_op op) {
  int count = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    count += graph->nodes[n].op == op;
  return count;
}

static void it_has_the_promised_parts(void **state) {
  (void)state;
  network n;
  load(&n);
  int linear_layers = 0, depthwise = 0;
  for (qb_node_id id = 0; id < n.graph.node_count; id++) {
    qb_linear linear;
    if (!qb_graph_linear(&n.graph, id, &linear))
      continue;
    linear_layers++;
    depthwise += linear.group > 1 && linear.group == linear.in_channels;
  }
  assert_int_equal(linear_layers, 15);
  assert_int_equal(depthwise, 3);
  assert_int_equal(count_op(&n.graph, QB_OP_BATCH_NORM), 14);
  assert_int_equal(count_op(&n.graph, QB_OP_ADD), 3);
  assert_int_equal(count_op(&n.graph, QB_OP_CLIP), 7);
  assert_int_equal(count_op(&n.graph, QB_OP_RELU), 3);
  for (qb_node_id id = 0; id < n.graph.node_count; id++)
    if (n.graph.nodes[id].op == QB_OP_CLIP) {
      assert_true(n.graph.nodes[id].attributes.clip.lo == 0.0f);
      assert_true(n.graph.nodes[id].attributes.clip.hi == 6.0f);
    }
  unload(&n);
}

static void forward(qb_run *run, uint64_t index) {
  uint8_t pixels[QB_DIGITS_PIXELS];
  float input[QB_DIGITS_PIXELS];
  int32_t label;
  qb_digits_image(TEST_SEED, index, pixels, &label);
  for (int i = 0; i < QB_DIGITS_PIXELS; i++)
    input[i] = (float)pixels[i] / 255.0f;
  assert_int_equal(qb_run_forward(run, input, 1, NULL), QB_OK);
}

/* Scores are below 10 and float32 rounding moves them by about 1e-5; a wrong rule for any operator is far above. */
static void outputs_are_those_of_onnx_runtime(void **state) {
  (void)state;
  network n;
  load(&n);
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.engine = QB_ENGINE_REFERENCE;
  qb_run *run;
  assert_int_equal(qb_run_create(&n.graph, &settings, &run, NULL), QB_OK);
  FILE *golden = fopen(QB_TEST_DIR "/golden/demo_outputs.txt", "r");
  assert_non_null(golden);
  int correct = 0;
  for (uint64_t i = 0; i < IMAGES; i++) {
    int label, best = 0;
    assert_int_equal(fscanf(golden, "%d", &label), 1);
    forward(run, i);
    const double *output = qb_run_value_double(run, n.graph.outputs[0]);
    for (int c = 0; c < QB_DIGITS_CLASSES; c++) {
      double expected;
      assert_int_equal(fscanf(golden, "%lf", &expected), 1);
      assert_true(fabs(output[c] - expected) < 1e-4);
      best = output[c] > output[best] ? c : best;
    }
    correct += best == label;
  }
  assert_int_equal(fclose(golden), 0);
  assert_true(correct >= 19);
  qb_run_free(run);
  unload(&n);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(it_has_the_promised_parts),
      cmocka_unit_test(outputs_are_those_of_onnx_runtime),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
