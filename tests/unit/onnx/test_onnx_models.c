/* Every network of the test data becomes a valid graph, with the operations that its architecture has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <glob.h>

#include "onnx/onnx.h"
#include "support/test_data.h"

static void load(const char *path, qb_onnx **document, qb_graph *graph) {
  qb_error error = {0};
  if (qb_onnx_read(path, document, &error) != QB_OK || qb_onnx_to_graph(*document, graph, &error) != QB_OK ||
      qb_graph_validate(graph, &error) != QB_OK)
    fail_msg("%s", error.message);
}

static int load_folder(const char *pattern) {
  char full[1200];
  const char *readme = test_data("README.md");
  snprintf(full, sizeof full, "%.*s/%s", (int)(strrchr(readme, '/') - readme), readme, pattern);
  glob_t found;
  int loaded = 0;
  if (glob(full, 0, NULL, &found) != 0)
    return 0;
  for (size_t i = 0; i < found.gl_pathc; i++, loaded++) {
    qb_onnx *document;
    qb_graph graph;
    qb_error error;
    int32_t unsupported = -1;
    load(found.gl_pathv[i], &document, &graph);
    assert_int_equal(qb_onnx_list_unsupported(document, NULL, 0, &unsupported, &error), QB_OK);
    assert_int_equal(unsupported, 0);
    qb_graph_free(&graph);
    qb_onnx_free(document);
  }
  globfree(&found);
  return loaded;
}

static void every_model_loads(void **state) {
  (void)state;
  assert_int_equal(load_folder("*/*.onnx") + load_folder("*/*.onnx.gz"), 16);
  assert_int_equal(load_folder("peers/*/*.onnx"), 25);
  assert_int_equal(load_folder("peers/acas/*/*.onnx"), 95);
}

/* Multiply-accumulates and parameters as published for the architectures. */
static void assert_architecture(const char *name, int linear_layers, int64_t macs, int64_t weights) {
  qb_onnx *document;
  qb_graph graph;
  qb_linear linear;
  int layers = 0;
  int64_t total = 0, parameters = 0;
  load(test_data(name), &document, &graph);
  for (qb_node_id n = 0; n < graph.node_count; n++) {
    total += qb_graph_node_macs(&graph, n);
    if (qb_graph_linear(&graph, n, &linear)) {
      layers++;
      parameters += (int64_t)qb_shape_elements(&graph.values[linear.weight].shape);
    }
  }
  assert_int_equal(layers, linear_layers);
  assert_int_equal(total, macs);
  assert_int_equal(parameters, weights);
  qb_graph_free(&graph);
  qb_onnx_free(document);
}

static void architectures_have_their_published_sizes(void **state) {
  (void)state;
  assert_architecture("imagenet/resnet18_pqf_imagenet_bn.onnx.gz", 21, 1814073344, 11678912);
  assert_architecture("imagenet/mobilenetv2_imagenet_folded.onnx", 53, 300774272, 3469760);
  assert_architecture("cifar10/resnet20_cifar10_bn.onnx", 22, 40813184, 270896);
}

static void quantized_weights_keep_their_codes(void **state) {
  (void)state;
  qb_onnx *document;
  qb_graph graph;
  int with_codes = 0;
  load(test_data("peers/qebverif/p2_q10.onnx"), &document, &graph);
  for (qb_value_id v = 0; v < graph.value_count; v++) {
    const qb_value *value = &graph.values[v];
    if (value->codes == NULL)
      continue;
    with_codes++;
    assert_true(qb_shape_equal(&value->codes->codes.shape, &value->shape));
    for (size_t i = 0; i < qb_shape_elements(&value->shape); i++) {
      float scale = value->codes->scale[0];
      assert_true(qb_view_f32(&value->constant)[i] == scale * (float)qb_view_integer(&value->codes->codes, i));
    }
  }
  assert_int_equal(with_codes, 6); /* three weights, three biases */
  qb_graph_free(&graph);
  qb_onnx_free(document);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_model_loads),
      cmocka_unit_test(architectures_have_their_published_sizes),
      cmocka_unit_test(quantized_weights_keep_their_codes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
