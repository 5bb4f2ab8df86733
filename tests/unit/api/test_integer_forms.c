/* One network in the forms in which tools write integers (tests/golden/integer, made by tools/make_integer_goldens.py):
 * quantization as arithmetic, integer layers, QLinear operators. Every form is computed bit for bit as ONNX Runtime
 * does, matched with the float network, and bounded. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bound/bound.h"
#include "data/dataset.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "run/run.h"

enum { IMAGES = 16, INPUTS = 2 * 8 * 8, CLASSES = 5 };

typedef struct form {
  const char *name, *original;
  qb_code_rounding rounding;
  int quantizers, absorbed;
  bool exact; /* every number of the network is a multiple of one power of two: the reference rounds nothing */
} form;

static const form forms[] = {
    {"fixed_point", "float", QB_ROUND_EVEN, 6, 0, true},
    {"half_up", "float", QB_ROUND_HALF_UP, 6, 0, true},
    {"round_down", "float", QB_ROUND_DOWN, 6, 0, true},
    {"reciprocal", "float", QB_ROUND_SHIFTED, 7, 0, false},
    {"cast", "float", QB_ROUND_EVEN, 7, 0, false},
    {"integer", "float", QB_ROUND_EVEN, 5, 0, true},
    {"qlinear", "qlinear_float", QB_ROUND_EVEN, 7, 2, false},
};
enum { FORMS = sizeof forms / sizeof *forms };

typedef struct network {
  qb_onnx *document;
  qb_graph graph;
  qb_run *run;
} network;

static void load(const char *name, qb_engine engine, network *n) {
  char path[512];
  qb_error error = {0};
  qb_fold_bn_info info;
  qb_run_settings settings;
  snprintf(path, sizeof path, QB_TEST_DIR "/golden/integer/%s.onnx", name);
  qb_run_settings_default(&settings);
  settings.engine = engine;
  if (qb_onnx_read(path, &n->document, &error) != QB_OK || qb_onnx_to_graph(n->document, &n->graph, &error) != QB_OK ||
      qb_fold_bn(&n->graph, &info, &error) != QB_OK || qb_graph_validate(&n->graph, &error) != QB_OK ||
      qb_run_create(&n->graph, &settings, &n->run, &error) != QB_OK)
    fail_msg("%s: %s", path, error.message);
}

static void unload(network *n) {
  qb_run_free(n->run);
  qb_graph_free(&n->graph);
  qb_onnx_free(n->document);
}

/* The stored inputs: a NumPy header of 128 bytes, then float32. */
static void read_inputs(float inputs[IMAGES * INPUTS]) {
  FILE *file = fopen(QB_TEST_DIR "/golden/integer/inputs.npy", "rb");
  assert_non_null(file);
  assert_int_equal(fseek(file, 128, SEEK_SET), 0);
  assert_int_equal(fread(inputs, sizeof *inputs, IMAGES * INPUTS, file), IMAGES * INPUTS);
  fclose(file);
}

static void read_outputs(const char *name, float outputs[IMAGES * CLASSES]) {
  char path[512], word[64];
  snprintf(path, sizeof path, QB_TEST_DIR "/golden/integer/%s.txt", name);
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  for (int i = 0; i < IMAGES * CLASSES; i++) {
    assert_int_equal(fscanf(file, "%63s", word), 1);
    outputs[i] = strtof(word, NULL);
  }
  fclose(file);
}

static double output(network *n, const float *input, double y[CLASSES]) {
  double largest = 0;
  assert_int_equal(qb_run_forward(n->run, input, 1, NULL), QB_OK);
  for (int c = 0; c < CLASSES; c++) {
    y[c] = qb_run_value_double(n->run, n->graph.outputs[0])[c];
    largest = fmax(largest, fabs(y[c]));
  }
  return largest;
}

/* -------------------------------------------------------------------------------------------------------- import */

/* Nothing of the arithmetic is left: quantizers, and the operators of the float network. */
static void quantization_is_recognized(void **state) {
  (void)state;
  for (int f = 0; f < FORMS; f++) {
    network n;
    int count[QB_OP_COUNT] = {0};
    load(forms[f].name, QB_ENGINE_REFERENCE, &n);
    for (qb_node_id id = 0; id < n.graph.node_count; id++) {
      const qb_node *node = &n.graph.nodes[id];
      count[node->op]++;
      if (node->op == QB_OP_QUANTIZE_LINEAR)
        assert_int_equal(node->attributes.quantize.rounding,
                         forms[f].rounding == QB_ROUND_SHIFTED && node->input_count < 3 ? QB_ROUND_EVEN
                                                                                        : forms[f].rounding);
    }
    assert_int_equal(count[QB_OP_QUANTIZE_LINEAR], forms[f].quantizers);
    assert_int_equal(count[QB_OP_CONV], 2);
    assert_int_equal(count[QB_OP_GEMM] + count[QB_OP_MATMUL], 1);
    assert_int_equal(count[QB_OP_MUL] + count[QB_OP_DIV] + count[QB_OP_SUB], 0);
    assert_int_equal(count[QB_OP_CLIP], 0);
    assert_int_equal(count[QB_OP_ADD], strcmp(forms[f].name, "qlinear") == 0 ? 2 : 1);
    unload(&n);
  }
}

/* ------------------------------------------------------------------------------------------------------ execution */

/* The float engine: every output has the bits that ONNX Runtime gave. */
static void outputs_are_those_of_onnx_runtime(void **state) {
  (void)state;
  float inputs[IMAGES * INPUTS], expected[IMAGES * CLASSES];
  read_inputs(inputs);
  for (int f = 0; f < FORMS; f++) {
    network fast, reference;
    load(forms[f].name, QB_ENGINE_ONEDNN, &fast);
    load(forms[f].name, QB_ENGINE_REFERENCE, &reference);
    read_outputs(forms[f].name, expected);
    for (int i = 0; i < IMAGES; i++) {
      double y[CLASSES], exact[CLASSES];
      assert_int_equal(qb_run_forward(fast.run, inputs + i * INPUTS, 1, NULL), QB_OK);
      const float *values = qb_run_value(fast.run, fast.graph.outputs[0]);
      for (int c = 0; c < CLASSES; c++)
        y[c] = (double)values[c];
      output(&reference, inputs + i * INPUTS, exact);
      for (int c = 0; c < CLASSES; c++) {
        double wanted = (double)expected[i * CLASSES + c];
        if (y[c] != wanted)
          fail_msg("%s, input %d, output %d: %.9g where ONNX Runtime has %.9g", forms[f].name, i, c, y[c], wanted);
        if (forms[f].exact && exact[c] != wanted)
          fail_msg("%s, input %d, output %d: the reference has %.17g, not %.9g", forms[f].name, i, c, exact[c], wanted);
      }
    }
    unload(&fast);
    unload(&reference);
  }
}

/* --------------------------------------------------------------------------------------------------------- bounds */

static void match(network *original, network *n, const form *f, qb_pair *pair) {
  qb_error error = {0};
  if (qb_pair_match_absorbed(&original->graph, &n->graph, pair, &error) != QB_OK)
    fail_msg("%s: %s", f->name, error.message);
  assert_int_equal(pair->absorbed, f->absorbed);
}

static double largest_error(network *original, network *n) {
  float inputs[IMAGES * INPUTS];
  double largest = 0, y[CLASSES], y_q[CLASSES];
  read_inputs(inputs);
  for (int i = 0; i < IMAGES; i++) {
    output(original, inputs + i * INPUTS, y);
    output(n, inputs + i * INPUTS, y_q);
    for (int c = 0; c < CLASSES; c++)
      largest = fmax(largest, fabs(y[c] - y_q[c]));
  }
  return largest;
}

static void bounds_contain_the_measured_error(void **state) {
  (void)state;
  for (int f = 0; f < FORMS; f++) {
    network original, n;
    qb_domain domain;
    qb_bounder *bounder;
    qb_pair pair;
    qb_bounds bounds;
    const qb_bound_conventions conventions = {0};
    load(forms[f].original, QB_ENGINE_REFERENCE, &original);
    load(forms[f].name, QB_ENGINE_REFERENCE, &n);
    assert_int_equal(qb_domain_interval(&original.graph, -1, 1, &domain, NULL), QB_OK);
    assert_int_equal(qb_bounder_create(&original.graph, &domain, &conventions, &bounder, NULL), QB_OK);
    qb_bounder_select(bounder, 1u << QB_BOUND_LAYERWISE | 1u << QB_BOUND_INTERVAL | 1u << QB_BOUND_SPECTRAL);
    double measured = largest_error(&original, &n);
    match(&original, &n, &forms[f], &pair);
    assert_int_equal(qb_bounder_evaluate(bounder, &pair, &bounds, NULL), QB_OK);
    const int names[] = {QB_BOUND_LAYERWISE, QB_BOUND_INTERVAL, QB_BOUND_SPECTRAL};
    for (int b = 0; b < 3; b++) {
      const qb_bound *bound = &bounds.bound[names[b]];
      if (names[b] == QB_BOUND_SPECTRAL && forms[f].absorbed > 0)
        continue;
      if (!bound->applies)
        fail_msg("%s: %s", forms[f].name, bound->why);
      double log10_bound = qb_magnitude_log10(bound->value);
      print_message("%s: measured %.4g, bound %d 10^%.3f\n", forms[f].name, measured, b, log10_bound);
      assert_true(measured > 0 && isfinite(log10_bound) && log10_bound >= log10(measured));
    }
    qb_pair_free(&pair);
    qb_bounder_free(bounder);
    qb_domain_free(&domain);
    unload(&n);
    unload(&original);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(quantization_is_recognized),
                                     cmocka_unit_test(outputs_are_those_of_onnx_runtime),
                                     cmocka_unit_test(bounds_contain_the_measured_error)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
