/* The demo network as ONNX Runtime's own quantizer writes it (tests/golden/quantized, made by
 * tools/make_ort_quantized.py): weights and activations of 8 bits, BatchNorm folded, Relu and Relu6 left to the clamps
 * of the quantizers, every tensor renamed. Imported, matched with the float network, run and bounded. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bound/bound.h"
#include "data/digits.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "run/run.h"

enum { IMAGES = 20, BOUND_IMAGES = 3, TEST_SEED = 2, LAYERS = 15, ACTIVATIONS = 10, CLASSES = QB_DIGITS_CLASSES };

static const char *const files[] = {"qdq_channel", "qoperator_tensor"};
enum { FILES = sizeof files / sizeof *files };

typedef struct network {
  qb_onnx *document;
  qb_graph graph;
  qb_run *run;
} network;

static void load(const char *path, network *n) {
  qb_error error = {0};
  qb_fold_bn_info info;
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.engine = QB_ENGINE_REFERENCE;
  if (qb_onnx_read(path, &n->document, &error) != QB_OK || qb_onnx_to_graph(n->document, &n->graph, &error) != QB_OK ||
      qb_fold_bn(&n->graph, &info, &error) != QB_OK || qb_graph_validate(&n->graph, &error) != QB_OK ||
      qb_run_create(&n->graph, &settings, &n->run, &error) != QB_OK)
    fail_msg("%s: %s", path, error.message);
}

static void load_golden(const char *name, network *n) {
  char path[512];
  snprintf(path, sizeof path, QB_TEST_DIR "/golden/quantized/%s.onnx", name);
  load(path, n);
}

static void load_original(network *n) { load(QB_SOURCE_DIR "/examples/demo/digits.onnx", n); }

static void unload(network *n) {
  qb_run_free(n->run);
  qb_graph_free(&n->graph);
  qb_onnx_free(n->document);
}

static const double *forward(network *n, uint64_t index) {
  uint8_t pixels[QB_DIGITS_PIXELS];
  float input[QB_DIGITS_PIXELS];
  int32_t label;
  qb_digits_image(TEST_SEED, index, pixels, &label);
  for (int i = 0; i < QB_DIGITS_PIXELS; i++)
    input[i] = (float)pixels[i] / 255.0f;
  assert_int_equal(qb_run_forward(n->run, input, 1, NULL), QB_OK);
  return qb_run_value_double(n->run, n->graph.outputs[0]);
}

/* -------------------------------------------------------------------------------------------------------- import */

static int count_op(const qb_graph *graph, qb_op op) {
  int count = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    count += graph->nodes[n].op == op;
  return count;
}

/* Both forms become the same operators. The two quantizers that Flatten needs of its own stand in the QDQ form only. */
static void both_forms_become_one(void **state) {
  (void)state;
  for (int f = 0; f < FILES; f++) {
    network n;
    load_golden(files[f], &n);
    assert_int_equal(count_op(&n.graph, QB_OP_CONV), LAYERS - 1);
    assert_int_equal(count_op(&n.graph, QB_OP_GEMM), 1);
    assert_int_equal(count_op(&n.graph, QB_OP_ADD), 3);
    assert_int_equal(count_op(&n.graph, QB_OP_GLOBAL_AVERAGE_POOL), 1);
    assert_int_equal(count_op(&n.graph, QB_OP_QUANTIZE_LINEAR), f == 0 ? 21 : 20);
    assert_int_equal(count_op(&n.graph, QB_OP_DEQUANTIZE_LINEAR), f == 0 ? 21 : 20);
    for (qb_node_id id = 0; id < n.graph.node_count; id++) {
      qb_linear linear;
      assert_int_not_equal(n.graph.nodes[id].origin, QB_NONE);
      if (!qb_graph_linear(&n.graph, id, &linear))
        continue;
      const qb_codes *weight = n.graph.values[linear.weight].codes, *bias = n.graph.values[linear.bias].codes;
      assert_non_null(weight);
      assert_non_null(bias);
      assert_int_equal(weight->bits, 8);
      assert_int_equal(bias->bits, 32);
      assert_int_equal(weight->scale_count, f == 0 ? linear.out_channels : 1);
    }
    unload(&n);
  }
}

/* ------------------------------------------------------------------------------------------------------ execution */

static float output_step(const qb_graph *graph) {
  qb_node_id last = graph->values[graph->outputs[0]].producer;
  assert_int_equal(graph->nodes[last].op, QB_OP_DEQUANTIZE_LINEAR);
  return qb_view_f32(&graph->values[graph->nodes[last].inputs[1]].constant)[0];
}

/* ONNX Runtime sums in int32 or float32 where the reference sums in double, so a code next to a rounding boundary, in
 * any layer, may come out as its neighbour. ONNX Runtime's own two forms of one network part in 4 % of these outputs.
 */
static void outputs_are_those_of_onnx_runtime(void **state) {
  (void)state;
  for (int f = 0; f < FILES; f++) {
    char path[512];
    network n;
    load_golden(files[f], &n);
    double step = (double)output_step(&n.graph);
    snprintf(path, sizeof path, QB_TEST_DIR "/golden/quantized/%s.txt", files[f]);
    FILE *golden = fopen(path, "r");
    assert_non_null(golden);
    int apart = 0;
    for (uint64_t i = 0; i < IMAGES; i++) {
      const double *y = forward(&n, i);
      for (int c = 0; c < CLASSES; c++) {
        double expected;
        assert_int_equal(fscanf(golden, "%lf", &expected), 1);
        double steps = fabs(y[c] - expected) / step;
        if (steps > 0.001)
          apart++;
        if (steps > 1.001)
          fail_msg("%s, image %d, class %d: %g steps apart", files[f], (int)i, c, steps);
      }
    }
    print_message("%s: %d of %d outputs one step apart\n", files[f], apart, IMAGES * CLASSES);
    assert_true(apart <= IMAGES * CLASSES / 10);
    fclose(golden);
    unload(&n);
  }
}

/* ------------------------------------------------------------------------------------------------------- matching */

static void every_layer_has_its_partner(void **state) {
  (void)state;
  network original;
  load_original(&original);
  for (int f = 0; f < FILES; f++) {
    network n;
    qb_pair pair;
    qb_error error = {0};
    load_golden(files[f], &n);
    if (qb_pair_match_absorbed(&original.graph, &n.graph, &pair, &error) != QB_OK)
      fail_msg("%s", error.message);
    int layers = 0, partners = 0;
    for (qb_node_id id = 0; id < n.graph.node_count; id++) {
      qb_linear own, other;
      if (!qb_graph_linear(&n.graph, id, &own))
        continue;
      layers++;
      partners += pair.partner[id] != QB_NONE && qb_graph_linear(&original.graph, pair.partner[id], &other) &&
                  qb_shape_equal(&original.graph.values[other.weight].shape, &n.graph.values[own.weight].shape);
    }
    assert_int_equal(layers, LAYERS);
    assert_int_equal(partners, LAYERS);
    assert_int_equal(pair.absorbed, ACTIVATIONS);
    assert_int_equal(pair.operand_differences, 0);
    qb_pair_free(&pair);
    unload(&n);
  }
  unload(&original);
}

/* Without the rule for absorbed activations the message names the first place from the output backwards. */
static void a_missing_activation_is_named(void **state) {
  (void)state;
  network original, n;
  qb_pair pair;
  qb_error error = {0};
  load_original(&original);
  load_golden("qoperator_tensor", &n);
  assert_int_equal(qb_pair_match(&original.graph, &n.graph, &pair, &error), QB_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "(Clip)"));
  assert_non_null(strstr(error.message, "clamp of a QuantizeLinear"));
  qb_pair_free(&pair);
  unload(&n);
  unload(&original);
}

/* --------------------------------------------------------------------------------------------------------- bounds */

static double largest_error(network *original, network *quantized) {
  double largest = 0;
  for (uint64_t i = 0; i < BOUND_IMAGES; i++) {
    double y[CLASSES];
    memcpy(y, forward(original, i), sizeof y);
    const double *y_q = forward(quantized, i);
    for (int c = 0; c < CLASSES; c++)
      largest = fmax(largest, fabs(y[c] - y_q[c]));
  }
  return largest;
}

static void bounds_contain_the_measured_error(void **state) {
  (void)state;
  network original;
  qb_domain domain;
  qb_bounder *bounder;
  const qb_bound_conventions conventions = {0};
  load_original(&original);
  assert_int_equal(qb_domain_interval(&original.graph, 0, 1, &domain, NULL), QB_OK);
  assert_int_equal(qb_bounder_create(&original.graph, &domain, &conventions, &bounder, NULL), QB_OK);
  qb_bounder_select(bounder, 1u << QB_BOUND_LAYERWISE | 1u << QB_BOUND_INTERVAL);
  for (int f = 0; f < FILES; f++) {
    network n;
    qb_pair pair;
    qb_bounds bounds;
    load_golden(files[f], &n);
    double measured = largest_error(&original, &n);
    assert_true(measured > 0);
    assert_int_equal(qb_pair_match_absorbed(&original.graph, &n.graph, &pair, NULL), QB_OK);
    assert_int_equal(qb_bounder_evaluate(bounder, &pair, &bounds, NULL), QB_OK);
    const qb_bound *both[] = {&bounds.bound[QB_BOUND_LAYERWISE], &bounds.bound[QB_BOUND_INTERVAL]};
    for (int b = 0; b < 2; b++) {
      if (!both[b]->applies)
        fail_msg("%s: %s", files[f], both[b]->why);
      double log10_bound = qb_magnitude_log10(both[b]->value);
      print_message("%s: measured %.4g, bound 10^%.3f\n", files[f], measured, log10_bound);
      assert_true(isfinite(log10_bound) && log10_bound >= log10(measured));
    }
    qb_pair_free(&pair);
    unload(&n);
  }
  qb_bounder_free(bounder);
  qb_domain_free(&domain);
  unload(&original);
}

/* ----------------------------------------------------------------------------------------------------------- NNCF */

/* A file by another tool (tools/make_nncf_quantized.py): its BatchNormalizations stay behind the quantized
 * convolutions. They are folded here, and the integers of the weights stay. */
static void another_tool_keeps_batch_norm(void **state) {
  (void)state;
  network n;
  load_golden("nncf", &n);
  assert_int_equal(count_op(&n.graph, QB_OP_BATCH_NORM), 0);
  assert_int_equal(count_op(&n.graph, QB_OP_CONV), LAYERS - 1);
  for (qb_node_id id = 0; id < n.graph.node_count; id++) {
    qb_linear linear;
    if (qb_graph_linear(&n.graph, id, &linear)) {
      assert_non_null(n.graph.values[linear.weight].codes);
      assert_int_equal(n.graph.values[linear.weight].codes->bits, 8);
    }
  }
  unload(&n);
}

/* What ONNX Runtime computes with the file, against the float network: below the bound. Ours is near to it; a code next
 * to a rounding boundary may differ. */
static void bounds_contain_what_onnx_runtime_computes(void **state) {
  (void)state;
  network original, n;
  qb_domain domain;
  qb_bounder *bounder;
  qb_pair pair;
  qb_bounds bounds;
  qb_error error = {0};
  const qb_bound_conventions conventions = {0};
  double measured = 0, apart = 0;
  load_original(&original);
  load_golden("nncf", &n);
  FILE *golden = fopen(QB_TEST_DIR "/golden/quantized/nncf.txt", "r");
  assert_non_null(golden);
  for (uint64_t i = 0; i < IMAGES; i++) {
    double y[CLASSES];
    memcpy(y, forward(&original, i), sizeof y);
    const double *y_q = forward(&n, i);
    for (int c = 0; c < CLASSES; c++) {
      double expected;
      assert_int_equal(fscanf(golden, "%lf", &expected), 1);
      measured = fmax(measured, fabs(y[c] - expected));
      apart = fmax(apart, fabs(y_q[c] - expected));
    }
  }
  fclose(golden);
  if (qb_pair_match_absorbed(&original.graph, &n.graph, &pair, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_int_equal(qb_domain_interval(&original.graph, 0, 1, &domain, NULL), QB_OK);
  assert_int_equal(qb_bounder_create(&original.graph, &domain, &conventions, &bounder, NULL), QB_OK);
  qb_bounder_select(bounder, 1u << QB_BOUND_LAYERWISE);
  assert_int_equal(qb_bounder_evaluate(bounder, &pair, &bounds, NULL), QB_OK);
  assert_true(bounds.bound[QB_BOUND_LAYERWISE].applies);
  double log10_bound = qb_magnitude_log10(bounds.bound[QB_BOUND_LAYERWISE].value);
  print_message("nncf: measured %.4g, bound 10^%.3f; ours within %.4g of ONNX Runtime\n", measured, log10_bound, apart);
  assert_true(measured > 0 && log10_bound >= log10(measured));
  assert_true(apart < 0.1 * measured);
  qb_pair_free(&pair);
  qb_bounder_free(bounder);
  qb_domain_free(&domain);
  unload(&n);
  unload(&original);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(both_forms_become_one),
                                     cmocka_unit_test(outputs_are_those_of_onnx_runtime),
                                     cmocka_unit_test(every_layer_has_its_partner),
                                     cmocka_unit_test(a_missing_activation_is_named),
                                     cmocka_unit_test(bounds_contain_the_measured_error),
                                     cmocka_unit_test(another_tool_keeps_batch_norm),
                                     cmocka_unit_test(bounds_contain_what_onnx_runtime_computes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
