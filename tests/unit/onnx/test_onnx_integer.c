/* Quantization written as arithmetic and integer layers: what is recognized, and what is refused with which words. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "graph/quantizer.h"
#include "support/onnx_model.h"

static onnx_model *start(void) {
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 4, (int64_t[]){0, 2, 4, 4});
  return m;
}

static void scalar(onnx_model *m, const char *name, float value) { onnx_floats(m, name, 0, NULL, &value); }

/* x -> Mul 4 -> .. -> Mul 0.25 */
static onnx_model *fixed_point(void) {
  onnx_model *m = start();
  scalar(m, "four", 4);
  scalar(m, "quarter", 0.25f);
  scalar(m, "half", 0.5f);
  scalar(m, "lo", -8);
  scalar(m, "hi", 7);
  onnx_node(m, "Mul", "x four", "scaled");
  return m;
}

static const qb_node *quantizer_of(const qb_graph *graph) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (graph->nodes[n].op == QB_OP_QUANTIZE_LINEAR)
      return &graph->nodes[n];
  fail_msg("there is no QuantizeLinear");
  return NULL;
}

static void round_clip_mul_is_a_quantizer(void **state) {
  (void)state;
  for (int clip_first = 0; clip_first < 2; clip_first++) {
    onnx_model *m = fixed_point();
    onnx_node(m, clip_first ? "Clip" : "Round", clip_first ? "scaled lo hi" : "scaled", "a");
    onnx_node(m, clip_first ? "Round" : "Clip", clip_first ? "a" : "a lo hi", "b");
    onnx_node(m, "Mul", "quarter b", "y");
    onnx_output(m, "y");
    const qb_graph *graph = onnx_graph(m);
    assert_int_equal(graph->node_count, 2);
    const qb_node *quantizer = quantizer_of(graph);
    assert_int_equal(graph->nodes[1].op, QB_OP_DEQUANTIZE_LINEAR);
    assert_int_equal(quantizer->inputs[0], graph->inputs[0]);
    assert_true(quantizer->attributes.quantize.lo == -8 && quantizer->attributes.quantize.hi == 7);
    assert_true(qb_view_f32(&graph->values[quantizer->inputs[1]].constant)[0] == 0.25f);
    assert_true(qb_quantizer_reach(quantizer, 0.25, 0) == 0.125);
    onnx_free(m);
  }
}

/* A half is added in two parts, the other way round; rounding down moves by a whole step. */
static void floor_is_a_quantizer(void **state) {
  (void)state;
  for (int half = 0; half < 2; half++) {
    onnx_model *m = fixed_point();
    if (half)
      onnx_node(m, "Add", "half scaled", "shifted");
    onnx_node(m, "Floor", half ? "shifted" : "scaled", "code");
    onnx_node(m, "Div", "code four", "y");
    onnx_output(m, "y");
    const qb_graph *graph = onnx_graph(m);
    assert_int_equal(graph->node_count, 2);
    const qb_node *quantizer = quantizer_of(graph);
    assert_int_equal(quantizer->attributes.quantize.rounding, half ? QB_ROUND_HALF_UP : QB_ROUND_DOWN);
    assert_true(isinf(quantizer->attributes.quantize.lo) && isinf(quantizer->attributes.quantize.hi));
    assert_true(qb_quantizer_reach(quantizer, 0.25, 0) == (half ? 0.125 : 0.25));
    onnx_free(m);
  }
}

/* 1/3 is no float32: the quotient is a product with 3, and the bound knows that 3 times the step is not 1. */
static void an_inexact_reciprocal_is_kept(void **state) {
  (void)state;
  onnx_model *m = start();
  scalar(m, "three", 3);
  scalar(m, "third", 1.0f / 3.0f);
  scalar(m, "lo", -8);
  scalar(m, "hi", 7);
  onnx_node(m, "Mul", "three x", "scaled");
  onnx_node(m, "Round", "scaled", "rounded");
  onnx_node(m, "Clip", "rounded lo hi", "code");
  onnx_node(m, "Mul", "code third", "y");
  onnx_output(m, "y");
  const qb_node *quantizer = quantizer_of(onnx_graph(m));
  double s = (double)(1.0f / 3.0f);
  assert_true(quantizer->attributes.quantize.factor == 3.0f);
  double reach = qb_quantizer_reach(quantizer, s, 0);
  assert_true(reach >= s / 2 + 8 * fabs(3 * s * s - s) && reach < s / 2 * (1 + 0x1p-18));
  onnx_free(m);
}

/* ------------------------------------------------------------------------------------------------ integer layers */

static onnx_model *integer_layer(const char *op) {
  onnx_model *m = onnx_new(13);
  bool conv = op[0] == 'C';
  onnx_input(m, "x", conv ? 4 : 2, conv ? (int64_t[]){0, 2, 4, 4} : (int64_t[]){0, 3});
  scalar(m, "scale", 0.5f);
  scalar(m, "factor", 0.125f);
  onnx_tensor(m, "zero", QB_DTYPE_U8, 0, NULL, (uint8_t[]){7}, 1);
  onnx_tensor(m, "w", QB_DTYPE_I8, conv ? 4 : 2, conv ? (int64_t[]){1, 2, 1, 1} : (int64_t[]){3, 1},
              (int8_t[]){5, -3, 2}, conv ? 2 : 3);
  onnx_tensor(m, "w_zero", QB_DTYPE_I8, 0, NULL, (int8_t[]){1}, 1);
  onnx_node(m, "QuantizeLinear", "x scale zero", "codes");
  onnx_node(m, op, "codes w zero w_zero", "sum");
  return m;
}

/* factor / input scale = 1/4 times code - 1. */
static void a_scaled_sum_is_a_layer(void **state) {
  (void)state;
  for (int conv = 0; conv < 2; conv++) {
    onnx_model *m = integer_layer(conv ? "ConvInteger" : "MatMulInteger");
    onnx_floats(m, "bias", 1, (int64_t[]){1}, (float[]){3});
    onnx_int_attribute(m, onnx_node(m, "Cast", "sum", "real"), "to", QB_DTYPE_F32);
    onnx_node(m, "Mul", "real factor", "scaled");
    onnx_node(m, "Add", "scaled bias", "y");
    onnx_output(m, "y");
    const qb_graph *graph = onnx_graph(m);
    assert_int_equal(graph->node_count, 3);
    const qb_node *layer = onnx_find_node(graph, "y");
    assert_int_equal(layer->op, conv ? QB_OP_CONV : QB_OP_GEMM);
    const float *w = qb_view_f32(&graph->values[layer->inputs[1]].constant);
    assert_true(w[0] == 1 && w[1] == -1);
    assert_int_equal(graph->values[layer->inputs[1]].codes->bits, 8);
    assert_true(qb_view_f32(&graph->values[layer->inputs[2]].constant)[0] == 3);
    onnx_free(m);
  }
}

/* -------------------------------------------------------------------------------------------------------- refusals */

static void refused(onnx_model *m, const char *words) {
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, words);
  onnx_free(m);
}

static void what_is_refused_says_why(void **state) {
  (void)state;
  onnx_model *m = fixed_point();
  onnx_node(m, "Add", "scaled half", "shifted");
  onnx_node(m, "Round", "shifted", "y");
  onnx_output(m, "y");
  refused(m, "only integers may be");

  m = fixed_point();
  onnx_node(m, "Round", "scaled", "code");
  onnx_node(m, "Mul", "code half", "y");
  onnx_output(m, "y");
  refused(m, "made in steps of 0.25");

  m = fixed_point();
  onnx_node(m, "Round", "scaled", "code");
  onnx_node(m, "Clip", "code half hi", "y");
  onnx_output(m, "y");
  refused(m, "limits that are not integers");

  m = fixed_point();
  onnx_node(m, "Round", "scaled", "code");
  onnx_int_attribute(m, onnx_node(m, "Cast", "code", "y"), "to", QB_DTYPE_I8);
  onnx_output(m, "y");
  refused(m, "may not fit");

  m = integer_layer("ConvInteger");
  onnx_output(m, "sum");
  refused(m, "without a scale");

  m = integer_layer("ConvInteger");
  onnx_node(m, "Relu", "sum", "y");
  onnx_output(m, "y");
  refused(m, "may follow ConvInteger");

  m = integer_layer("MatMulInteger");
  onnx_tensor(m, "other", QB_DTYPE_U8, 0, NULL, (uint8_t[]){9}, 1);
  onnx_node(m, "MatMulInteger", "codes w other w_zero", "again");
  onnx_node(m, "Mul", "again factor", "y");
  onnx_output(m, "y");
  refused(m, "zero point is not that of the QuantizeLinear");

  m = integer_layer("MatMulInteger");
  onnx_node(m, "Relu", "x", "computed");
  onnx_node(m, "Mul", "sum computed", "y");
  onnx_output(m, "y");
  refused(m, "dynamic quantization");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(round_clip_mul_is_a_quantizer),
                                     cmocka_unit_test(floor_is_a_quantizer),
                                     cmocka_unit_test(an_inexact_reciprocal_is_kept),
                                     cmocka_unit_test(a_scaled_sum_is_a_layer),
                                     cmocka_unit_test(what_is_refused_says_why)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
