/* A new perceptron file reads back as the network it was made from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"
#include "onnx/create.h"
#include "support/faults.h"

enum { LAYERS = 3 };
static const int64_t widths[LAYERS + 1] = {6, 5, 4, 3};
static float weights[LAYERS][30], biases[LAYERS][5];
static qb_onnx_dense layers[LAYERS];
static const qb_onnx_metadata_entry metadata[] = {{"qbound.test", "a value"}, {"empty", ""}};

static int make_layers(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 1, 2);
  for (int l = 0; l < LAYERS; l++) {
    for (int i = 0; i < 30; i++)
      weights[l][i] = (float)qb_rng_normal(&rng);
    for (int i = 0; i < 5; i++)
      biases[l][i] = (float)qb_rng_normal(&rng);
    layers[l] = (qb_onnx_dense){widths[l], widths[l + 1], weights[l], biases[l]};
  }
  return 0;
}

static FILE *open_temporary(char *path, size_t size) {
  snprintf(path, size, "/tmp/qbound_create_XXXXXX");
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  return fdopen(descriptor, "wb");
}

static void assert_constant(const qb_graph *graph, const char *name, const float *expected, size_t count) {
  qb_value_id id = qb_graph_find(graph, name);
  assert_int_not_equal(id, QB_NONE);
  assert_int_equal(qb_view_elements(&graph->values[id].constant), count);
  assert_memory_equal(graph->values[id].constant.data, expected, count * sizeof *expected);
}

static void the_file_holds_the_network(void **state) {
  (void)state;
  char path[64];
  qb_error error = {0};
  FILE *file = open_temporary(path, sizeof path);
  assert_int_equal(qb_onnx_create_mlp(layers, LAYERS, metadata, 2, file, path, &error), QB_OK);
  assert_int_equal(fclose(file), 0);

  qb_onnx *document;
  qb_graph graph;
  assert_int_equal(qb_onnx_read(path, &document, &error), QB_OK);
  assert_int_equal(qb_onnx_opset(document), 13);
  assert_string_equal(qb_onnx_metadata(document, "qbound.test"), "a value");
  assert_string_equal(qb_onnx_metadata(document, "empty"), "");
  assert_int_equal(qb_onnx_to_graph(document, &graph, &error), QB_OK);
  assert_int_equal(qb_graph_validate(&graph, &error), QB_OK);

  const qb_op expected[] = {QB_OP_GEMM, QB_OP_RELU, QB_OP_GEMM, QB_OP_RELU, QB_OP_GEMM};
  assert_int_equal(graph.node_count, 5);
  for (int n = 0; n < 5; n++) {
    assert_int_equal(graph.nodes[n].op, expected[n]);
    qb_value_id from = n == 0 ? graph.inputs[0] : graph.nodes[n - 1].output;
    assert_int_equal(graph.nodes[n].inputs[0], from);
  }
  assert_int_equal(graph.input_count, 1);
  assert_int_equal(graph.output_count, 1);
  assert_string_equal(graph.values[graph.inputs[0]].name, "input");
  assert_string_equal(graph.values[graph.outputs[0]].name, "output");
  assert_int_equal(graph.outputs[0], graph.nodes[4].output);
  assert_int_equal(graph.values[graph.inputs[0]].shape.dims[1], widths[0]);
  assert_int_equal(graph.values[graph.outputs[0]].shape.dims[1], widths[LAYERS]);
  for (int l = 0; l < LAYERS; l++) {
    char name[32];
    snprintf(name, sizeof name, "%d.weight", l);
    assert_constant(&graph, name, weights[l], (size_t)(widths[l] * widths[l + 1]));
    snprintf(name, sizeof name, "%d.bias", l);
    assert_constant(&graph, name, biases[l], (size_t)widths[l + 1]);
  }
  qb_graph_free(&graph);
  qb_onnx_free(document);
  unlink(path);
}

static void one_layer_has_no_relu(void **state) {
  (void)state;
  char path[64];
  FILE *file = open_temporary(path, sizeof path);
  assert_int_equal(qb_onnx_create_mlp(layers, 1, NULL, 0, file, path, NULL), QB_OK);
  assert_int_equal(fclose(file), 0);
  qb_onnx *document;
  qb_graph graph;
  assert_int_equal(qb_onnx_read(path, &document, NULL), QB_OK);
  assert_int_equal(qb_onnx_to_graph(document, &graph, NULL), QB_OK);
  assert_int_equal(graph.node_count, 1);
  qb_graph_free(&graph);
  qb_onnx_free(document);
  unlink(path);
}

static void bad_layers_are_refused(void **state) {
  (void)state;
  qb_error error;
  qb_onnx_dense bad[2] = {layers[0], layers[2]}; /* 5 outputs meet 4 inputs */
  assert_int_equal(qb_onnx_create_mlp(layers, 0, NULL, 0, stderr, "x.onnx", &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_onnx_create_mlp(bad, 2, NULL, 0, stderr, "x.onnx", &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "x.onnx: layer 1"));
  bad[0].inputs = 0;
  assert_int_equal(qb_onnx_create_mlp(bad, 1, NULL, 0, stderr, "x.onnx", &error), QB_ERROR_ARGUMENT);
}

static void a_full_disk_is_reported(void **state) {
  (void)state;
  qb_error error;
  FILE *file = fault_full_disk();
  if (file == NULL)
    skip();
  assert_int_equal(qb_onnx_create_mlp(layers, LAYERS, NULL, 0, file, "full.onnx", &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, "full.onnx"));
  (void)fclose(file);
}

static qb_status create_in_memory(void *context, qb_error *error) {
  FILE *file = fmemopen(context, 4096, "wb");
  assert_non_null(file);
  qb_status status = qb_onnx_create_mlp(layers, LAYERS, metadata, 2, file, "memory", error);
  assert_int_equal(fclose(file), 0);
  return status;
}

static void failed_allocations_are_reported(void **state) {
  (void)state;
  static char memory[4096];
  assert_int_equal(fault_every_allocation(create_in_memory, memory, 20), 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_file_holds_the_network),      cmocka_unit_test(one_layer_has_no_relu),
      cmocka_unit_test(bad_layers_are_refused),          cmocka_unit_test(a_full_disk_is_reported),
      cmocka_unit_test(failed_allocations_are_reported),
  };
  return cmocka_run_group_tests(tests, make_layers, NULL);
}
