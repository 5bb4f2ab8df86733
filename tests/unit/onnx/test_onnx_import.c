/* Rules of the importer: what each ONNX operator becomes, with attributes in their normal form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "support/onnx_model.h"

#define DIMS(...) \
  (int64_t[]) { __VA_ARGS__ }

static void assert_shape(const qb_graph *graph, const char *name, qb_shape expected) {
  char text[QB_SHAPE_TEXT], wanted[QB_SHAPE_TEXT];
  qb_value_id id = qb_graph_find(graph, name);
  assert_int_not_equal(id, QB_NONE);
  assert_string_equal(qb_shape_print(&graph->values[id].shape, text), qb_shape_print(&expected, wanted));
}

/* A model with one node y = op(x, ..) over x (N, 3, 8, 8). */
static onnx_model *one_node(int64_t opset, const char *op, const char *inputs, Onnx__NodeProto **node) {
  onnx_model *m = onnx_new(opset);
  onnx_input(m, "x", 4, DIMS(0, 3, 8, 8));
  *node = onnx_node(m, op, inputs, "y");
  onnx_output(m, "y");
  return m;
}

static void auto_pad_becomes_explicit(void **state) {
  (void)state;
  static const struct {
    const char *mode;
    int32_t begin, end;
    int64_t length;
  } cases[] = {{"SAME_UPPER", 1, 2, 4}, {"SAME_LOWER", 2, 1, 4}, {"VALID", 0, 0, 2}, {"NOTSET", 0, 0, 2}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { /* extent 5 at stride 2 over 8: 3 rows of pad */
    Onnx__NodeProto *node;
    onnx_model *m = one_node(13, "Conv", "x w b", &node);
    onnx_floats(m, "w", 4, DIMS(2, 3, 3, 3), NULL);
    onnx_floats(m, "b", 1, DIMS(2), NULL);
    onnx_string_attribute(m, node, "auto_pad", cases[i].mode);
    onnx_ints_attribute(m, node, "strides", 2, DIMS(2, 2));
    onnx_ints_attribute(m, node, "dilations", 2, DIMS(2, 2));
    const qb_graph *graph = onnx_graph(m);
    const qb_window *window = &onnx_find_node(graph, "y")->attributes.conv.window;
    assert_int_equal(window->pad_begin[0], cases[i].begin);
    assert_int_equal(window->pad_end[1], cases[i].end);
    assert_shape(graph, "y", QB_SHAPE(1, 2, cases[i].length, cases[i].length));
    onnx_free(m);
  }
}

static void ceil_mode_drops_windows_outside(void **state) {
  (void)state;
  Onnx__NodeProto *node;
  onnx_model *m = one_node(13, "MaxPool", "x", &node);
  onnx_ints_attribute(m, node, "kernel_shape", 2, DIMS(2, 3));
  onnx_ints_attribute(m, node, "strides", 2, DIMS(3, 3));
  onnx_ints_attribute(m, node, "pads", 4, DIMS(1, 0, 1, 0));
  onnx_int_attribute(m, node, "ceil_mode", 1);
  assert_shape(onnx_graph(m), "y", QB_SHAPE(1, 3, 3, 3)); /* a fourth row would start in the pad; two columns fit */
  node->attribute[3]->i = 0;
  assert_shape(onnx_graph(m), "y", QB_SHAPE(1, 3, 3, 2));
  onnx_free(m);
}

static void conv_transpose_sizes(void **state) {
  (void)state;
  Onnx__NodeProto *node;
  onnx_model *m = one_node(13, "ConvTranspose", "x w", &node);
  onnx_floats(m, "w", 4, DIMS(3, 4, 3, 3), NULL);
  onnx_ints_attribute(m, node, "strides", 2, DIMS(2, 2));
  onnx_ints_attribute(m, node, "pads", 4, DIMS(1, 1, 1, 1));
  onnx_ints_attribute(m, node, "output_padding", 2, DIMS(1, 0));
  assert_shape(onnx_graph(m), "y", QB_SHAPE(1, 4, 16, 15));
  onnx_free(m);

  m = one_node(13, "ConvTranspose", "x w", &node);
  onnx_floats(m, "w", 4, DIMS(3, 4, 4, 4), NULL);
  onnx_ints_attribute(m, node, "strides", 2, DIMS(2, 2));
  onnx_string_attribute(m, node, "auto_pad", "SAME_UPPER");
  const qb_graph *graph = onnx_graph(m);
  assert_shape(graph, "y", QB_SHAPE(1, 4, 16, 16));
  assert_int_equal(onnx_find_node(graph, "y")->attributes.conv.window.pad_begin[0], 1);
  onnx_free(m);
}

static void clip_limits_come_from_anywhere(void **state) {
  (void)state;
  Onnx__NodeProto *node;
  const float six = 6;
  onnx_model *m = one_node(10, "Clip", "x", &node);
  onnx_float_attribute(m, node, "min", 0);
  onnx_float_attribute(m, node, "max", 6);
  const qb_clip_attributes *clip = &onnx_find_node(onnx_graph(m), "y")->attributes.clip;
  assert_true(clip->lo == 0 && clip->hi == 6);
  onnx_free(m);

  m = onnx_new(13); /* missing min, max from a Constant node */
  onnx_input(m, "x", 2, DIMS(1, 5));
  onnx_float_attribute(m, onnx_node(m, "Constant", "", "six"), "value_float", six);
  onnx_node(m, "Clip", "x _ six", "y");
  onnx_output(m, "y");
  clip = &onnx_find_node(onnx_graph(m), "y")->attributes.clip;
  assert_true(isinf(clip->lo) && clip->lo < 0 && clip->hi == 6);
  onnx_free(m);
}

static void relu_then_min_is_one_clip(void **state) {
  (void)state;
  onnx_model *m = onnx_new(13);
  const float caps[3] = {1, 2, 3};
  onnx_input(m, "x", 4, DIMS(0, 3, 2, 2));
  onnx_floats(m, "caps", 3, DIMS(3, 1, 1), caps);
  onnx_node(m, "Relu", "x", "r");
  onnx_node(m, "Min", "caps r", "y");
  onnx_output(m, "y");
  const qb_graph *graph = onnx_graph(m);
  const qb_node *clip = onnx_find_node(graph, "y");
  assert_int_equal(graph->node_count, 1);
  assert_int_equal(clip->op, QB_OP_CLIP);
  assert_true(clip->attributes.clip.lo == 0);
  assert_memory_equal(clip->attributes.clip.hi_channels, caps, sizeof caps);
  onnx_free(m);

  m = onnx_new(13); /* the Relu has another reader: two nodes */
  onnx_input(m, "x", 4, DIMS(0, 3, 2, 2));
  onnx_floats(m, "caps", 3, DIMS(3, 1, 1), caps);
  onnx_node(m, "Relu", "x", "r");
  onnx_node(m, "Min", "r caps", "c");
  onnx_node(m, "Add", "r c", "y");
  onnx_output(m, "y");
  assert_int_equal(onnx_graph(m)->node_count, 3);
  onnx_free(m);
}

static void gemm_weights_are_canonical(void **state) {
  (void)state;
  const float w[6] = {1, 2, 3, 4, 5, 6}; /* (3, 2): (IN, OUT) */
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 3));
  onnx_floats(m, "w", 2, DIMS(3, 2), w);
  onnx_floats(m, "b", 2, DIMS(1, 2), NULL);
  onnx_node(m, "Gemm", "x w b", "y");
  onnx_node(m, "MatMul", "x w", "z");
  onnx_output(m, "y");
  onnx_output(m, "z");
  const qb_graph *graph = onnx_graph(m);
  const qb_value *weight = &graph->values[onnx_find_node(graph, "y")->inputs[1]];
  const float transposed[6] = {1, 3, 5, 2, 4, 6};
  assert_true(qb_shape_equal(&weight->shape, &QB_SHAPE(2, 3)) && weight->transposed);
  assert_memory_equal(qb_view_f32(&weight->constant), transposed, sizeof transposed);
  assert_int_equal(onnx_find_node(graph, "y")->inputs[1], onnx_find_node(graph, "z")->inputs[1]); /* tied */
  assert_shape(graph, "b", QB_SHAPE(2));
  onnx_free(m);
}

static void gemm_factors_become_nodes(void **state) {
  (void)state;
  Onnx__NodeProto *node;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 3));
  onnx_floats(m, "w", 2, DIMS(2, 3), NULL);
  onnx_floats(m, "b", 1, DIMS(2), (float[]){1, 3});
  node = onnx_node(m, "Gemm", "x w b", "y");
  onnx_int_attribute(m, node, "transB", 1);
  onnx_float_attribute(m, node, "alpha", 0.5f);
  onnx_float_attribute(m, node, "beta", 2);
  onnx_output(m, "y");
  const qb_graph *graph = onnx_graph(m);
  assert_int_equal(graph->node_count, 3);
  const qb_node *add = onnx_find_node(graph, "y");
  assert_int_equal(add->op, QB_OP_ADD);
  assert_true(qb_view_f32(&graph->values[add->inputs[1]].constant)[1] == 6);
  assert_int_equal(graph->nodes[graph->values[add->inputs[0]].producer].op, QB_OP_MUL);
  node->attribute[2]->f = 1.0f / 3; /* a third of 1 is not a float32 number */
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "not exact in float32");
  onnx_free(m);
}

static void softmax_axes_depend_on_the_opset(void **state) {
  (void)state;
  for (int64_t opset = 12; opset <= 13; opset++) {
    Onnx__NodeProto *node;
    onnx_model *m = one_node(opset, "Softmax", "x", &node);
    onnx_int_attribute(m, node, "axis", 1);
    const qb_graph *graph = onnx_graph(m);
    assert_int_equal(onnx_find_node(graph, "y")->attributes.axes.axis, 1);
    assert_int_equal(onnx_find_node(graph, "y")->attributes.axes.end_axis, opset < 13 ? 4 : 2);
    onnx_free(m);
  }
}

static void axes_are_attributes_or_inputs(void **state) {
  (void)state;
  Onnx__NodeProto *node;
  onnx_model *m = one_node(13, "ReduceMean", "x", &node);
  onnx_ints_attribute(m, node, "axes", 2, DIMS(-1, -2));
  onnx_int_attribute(m, node, "keepdims", 0);
  assert_shape(onnx_graph(m), "y", QB_SHAPE(1, 3));
  onnx_free(m);

  m = one_node(18, "ReduceMean", "x axes", &node);
  onnx_integers(m, "axes", 1, DIMS(2), DIMS(2, 3));
  assert_shape(onnx_graph(m), "y", QB_SHAPE(1, 3, 1, 1));
  onnx_free(m);

  m = onnx_new(13);
  onnx_input(m, "x", 4, DIMS(0, 5, 1, 1));
  onnx_integers(m, "axes", 1, DIMS(2), DIMS(2, -1));
  onnx_integers(m, "one", 1, DIMS(1), DIMS(1));
  onnx_node(m, "Squeeze", "x axes", "s");
  onnx_node(m, "Unsqueeze", "s one", "y");
  onnx_output(m, "y");
  assert_shape(onnx_graph(m), "y", QB_SHAPE(1, 1, 5));
  onnx_free(m);
}

static void pads_are_attributes_or_inputs(void **state) {
  (void)state;
  Onnx__NodeProto *node;
  onnx_model *m = one_node(10, "Pad", "x", &node);
  onnx_ints_attribute(m, node, "pads", 8, DIMS(0, 0, 1, 2, 0, 0, 3, -4));
  onnx_float_attribute(m, node, "value", 1.5f);
  const qb_graph *graph = onnx_graph(m);
  assert_shape(graph, "y", QB_SHAPE(1, 3, 12, 6));
  assert_true(onnx_find_node(graph, "y")->attributes.pad.value == 1.5f);
  onnx_free(m);

  m = one_node(18, "Pad", "x pads _ axes", &node);
  onnx_integers(m, "pads", 1, DIMS(2), DIMS(1, 2));
  onnx_integers(m, "axes", 1, DIMS(1), DIMS(-1));
  assert_shape(onnx_graph(m), "y", QB_SHAPE(1, 3, 8, 11));
  onnx_free(m);
}

/* Reshape(x, Concat(Unsqueeze(Gather(Shape(x), 0)), [-1])) as PyTorch exports x.view(x.size(0), -1). */
static void shape_arithmetic_is_folded(void **state) {
  (void)state;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 4, DIMS(0, 3, 4, 5));
  onnx_integers(m, "zero", 0, NULL, DIMS(0));
  onnx_integers(m, "axis", 1, DIMS(1), DIMS(0));
  onnx_integers(m, "rest", 1, DIMS(1), DIMS(-1));
  onnx_node(m, "Shape", "x", "shape");
  onnx_int_attribute(m, onnx_node(m, "Gather", "shape zero", "batch"), "axis", 0);
  onnx_node(m, "Unsqueeze", "batch axis", "batch1");
  onnx_int_attribute(m, onnx_node(m, "Concat", "batch1 rest", "target"), "axis", 0);
  onnx_node(m, "Reshape", "x target", "y");
  onnx_output(m, "y");
  const qb_graph *graph = onnx_graph(m);
  assert_int_equal(graph->node_count, 1);
  assert_shape(graph, "y", QB_SHAPE(1, 60));
  onnx_free(m);

  m = onnx_new(11); /* Slice, Cast, Mul, Div, Sub, ConstantOfShape of shapes: (N, 3, 4, 5) -> (N, 3 * 4, 5) */
  onnx_input(m, "x", 4, DIMS(0, 3, 4, 5));
  onnx_integers(m, "one", 1, DIMS(1), DIMS(1));
  onnx_integers(m, "two", 1, DIMS(1), DIMS(2));
  onnx_integers(m, "three", 1, DIMS(1), DIMS(3));
  onnx_integers(m, "huge", 1, DIMS(1), DIMS(INT64_MAX));
  onnx_node(m, "Shape", "x", "s");
  onnx_int_attribute(m, onnx_node(m, "Cast", "s", "shape"), "to", QB_DTYPE_I64);
  onnx_node(m, "Slice", "shape one two", "c");
  onnx_node(m, "Slice", "shape two three", "h");
  onnx_node(m, "Slice", "shape three huge", "w");
  onnx_node(m, "Mul", "c h", "ch");
  onnx_node(m, "Mul", "ch two", "twice");
  onnx_node(m, "Div", "twice two", "again");
  onnx_node(m, "ConstantOfShape", "one", "zeros");
  onnx_int_attribute(m, onnx_node(m, "Cast", "zeros", "zeros64"), "to", QB_DTYPE_F32);
  onnx_node(m, "Sub", "two one", "first");
  onnx_int_attribute(m, onnx_node(m, "Concat", "first again w", "target"), "axis", 0);
  onnx_node(m, "Reshape", "x target", "y");
  onnx_output(m, "y");
  assert_shape(onnx_graph(m), "y", QB_SHAPE(1, 12, 5));
  onnx_free(m);
}

static void initializers_of_other_types(void **state) {
  (void)state;
  const uint16_t half[2] = {0x3c00, 0xc100}; /* 1, -2.5 */
  const double exact[2] = {0.5, -3}, inexact[2] = {0.1, 1};
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 2));
  onnx_tensor(m, "h", QB_DTYPE_F16, 1, DIMS(2), half, sizeof half);
  onnx_tensor(m, "d", QB_DTYPE_F64, 1, DIMS(2), exact, sizeof exact);
  onnx_node(m, "Add", "x h", "a");
  onnx_node(m, "Identity", "d", "alias");
  onnx_node(m, "Add", "a alias", "y");
  onnx_output(m, "y");
  const qb_graph *graph = onnx_graph(m);
  assert_true(qb_view_f32(&graph->values[qb_graph_find(graph, "h")].constant)[1] == -2.5f);
  assert_true(qb_view_f32(&graph->values[qb_graph_find(graph, "d")].constant)[1] == -3);
  memcpy(m->graph.initializer[1]->raw_data.data, inexact, sizeof inexact);
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "not a float32 number");
  onnx_free(m);
}

static void typed_data_is_read(void **state) {
  (void)state;
  onnx_model *m = onnx_new(13);
  float values[20];
  int32_t codes[20];
  onnx_input(m, "x", 2, DIMS(0, 20));
  Onnx__TensorProto *b = onnx_floats(m, "b", 1, DIMS(20), NULL),
                    *q = onnx_tensor(m, "q", QB_DTYPE_I8, 1, DIMS(20), "", 0);
  for (int i = 0; i < 20; i++) {
    values[i] = (float)i / 8;
    codes[i] = i - 10;
  }
  b->has_raw_data = q->has_raw_data = false;
  b->float_data = values;
  b->n_float_data = 20;
  q->int32_data = codes;
  q->n_int32_data = 20;
  onnx_floats(m, "s", 0, NULL, (float[]){0.25f});
  onnx_node(m, "Add", "x b", "a");
  onnx_node(m, "DequantizeLinear", "q s", "c");
  onnx_node(m, "Add", "a c", "y");
  onnx_output(m, "y");
  const qb_graph *graph = onnx_graph(m);
  assert_memory_equal(qb_view_f32(&graph->values[qb_graph_find(graph, "b")].constant), values, sizeof values);
  assert_true(qb_view_f32(&graph->values[qb_graph_find(graph, "c")].constant)[3] == -7 * 0.25f);
  onnx_free(m);
}

/* Every integer type, per axis with zero points, against the formula in float32. */
static void dequantized_initializers_keep_codes(void **state) {
  (void)state;
  static const struct {
    int32_t type;
    unsigned char data[4];
    int codes[4];
    int bits;
    int64_t opset;
  } cases[] = {{QB_DTYPE_I8, {0xff, 2, 0x80, 7}, {-1, 2, -128, 7}, 8, 13},
               {QB_DTYPE_U8, {0xff, 2, 0x80, 7}, {255, 2, 128, 7}, 8, 13},
               {QB_DTYPE_I4, {0x2f, 0x78}, {-1, 2, -8, 7}, 4, 21},
               {QB_DTYPE_U4, {0x2f, 0x78}, {15, 2, 8, 7}, 4, 21},
               {QB_DTYPE_I2, {0x6c}, {0, -1, -2, 1}, 2, 25},
               {QB_DTYPE_U2, {0x6c}, {0, 3, 2, 1}, 2, 25}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    onnx_model *m = onnx_new(cases[i].opset);
    const unsigned char one[2] = {cases[i].bits == 8 ? 1 : cases[i].bits == 4 ? 0x11 : 0x05, 1};
    size_t size = 4 * (size_t)cases[i].bits / 8;
    onnx_input(m, "x", 2, DIMS(0, 2));
    onnx_tensor(m, "q", cases[i].type, 2, DIMS(2, 2), cases[i].data, size);
    onnx_tensor(m, "z", cases[i].type, 1, DIMS(2), one, cases[i].bits == 8 ? 2 : 1);
    onnx_floats(m, "s", 1, DIMS(2), (float[]){0.1f, 0.7f});
    onnx_int_attribute(m, onnx_node(m, "DequantizeLinear", "q s z", "w"), "axis", 0);
    onnx_int_attribute(m, onnx_node(m, "Gemm", "x w", "y"), "transB", 1);
    onnx_output(m, "y");
    const qb_graph *graph = onnx_graph(m);
    const qb_value *w = &graph->values[qb_graph_find(graph, "w")];
    assert_non_null(w->codes);
    assert_string_equal(w->source, "q");
    assert_int_equal(w->codes->bits, cases[i].bits);
    assert_int_equal(w->codes->axis, 0);
    for (size_t k = 0; k < 4; k++) {
      assert_int_equal(qb_view_integer(&w->codes->codes, k), cases[i].codes[k]);
      assert_int_equal(w->codes->zero_point[k / 2], 1);
      assert_true(qb_view_f32(&w->constant)[k] == (float)(cases[i].codes[k] - 1) * (k < 2 ? 0.1f : 0.7f));
    }
    onnx_free(m);
  }
}

static void fake_quantized_initializers_are_folded(void **state) {
  (void)state;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 4));
  onnx_floats(m, "w", 2, DIMS(1, 4), (float[]){0.05f, 0.15f, -9, 9}); /* ties to even, saturation */
  onnx_floats(m, "s", 0, NULL, (float[]){0.1f});
  onnx_tensor(m, "z", QB_DTYPE_I8, 0, NULL, "\0", 1);
  onnx_node(m, "QuantizeLinear", "w s z", "q");
  onnx_node(m, "DequantizeLinear", "q s z", "dq");
  onnx_int_attribute(m, onnx_node(m, "Gemm", "x dq", "y"), "transB", 1);
  onnx_output(m, "y");
  const qb_graph *graph = onnx_graph(m);
  const qb_value *w = &graph->values[qb_graph_find(graph, "dq")];
  const int64_t expected[4] = {0, 2, -90, 90};
  for (size_t i = 0; i < 4; i++)
    assert_int_equal(qb_view_integer(&w->codes->codes, i), expected[i]);
  onnx_free(m);
}

static void blocks_are_dequantized_without_codes(void **state) {
  (void)state;
  Onnx__NodeProto *node;
  onnx_model *m = onnx_new(21);
  onnx_input(m, "x", 2, DIMS(0, 4));
  onnx_tensor(m, "q", QB_DTYPE_I8, 2, DIMS(2, 4), "\1\2\3\4\5\6\7\10", 8);
  onnx_floats(m, "s", 2, DIMS(2, 2), (float[]){1, 10, 100, 1000});
  node = onnx_node(m, "DequantizeLinear", "q s", "w");
  onnx_int_attribute(m, node, "axis", 1);
  onnx_int_attribute(m, node, "block_size", 2);
  onnx_int_attribute(m, onnx_node(m, "Gemm", "x w", "y"), "transB", 1);
  onnx_output(m, "y");
  const qb_graph *graph = onnx_graph(m);
  const qb_value *w = &graph->values[qb_graph_find(graph, "w")];
  const float expected[8] = {1, 2, 30, 40, 500, 600, 7000, 8000};
  assert_memory_equal(qb_view_f32(&w->constant), expected, sizeof expected);
  assert_null(w->codes);
  onnx_free(m);
}

static void odd_widths_are_believed_only_if_they_fit(void **state) {
  (void)state;
  for (int bits = 2; bits <= 3; bits++) {
    onnx_model *m = onnx_new(13);
    onnx_input(m, "x", 2, DIMS(0, 2));
    onnx_tensor(m, "q", QB_DTYPE_I8, 2, DIMS(1, 2), "\3\375", 2); /* 3, -3 */
    onnx_floats(m, "s", 0, NULL, (float[]){0.5f});
    onnx_node(m, "DequantizeLinear", "q s", "w");
    onnx_int_attribute(m, onnx_node(m, "Gemm", "x w", "y"), "transB", 1);
    onnx_output(m, "y");
    onnx_metadata(m, "qbound.bits.q", bits == 2 ? "2" : "3");
    const qb_graph *graph = onnx_graph(m);
    assert_int_equal(graph->values[qb_graph_find(graph, "w")].codes->bits, bits == 2 ? 8 : 3);
    onnx_free(m);
  }
}

static void quantized_activations_stay_nodes(void **state) {
  (void)state;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 2));
  onnx_floats(m, "s", 0, NULL, (float[]){0.5f});
  onnx_tensor(m, "z", QB_DTYPE_I8, 0, NULL, "\5", 1);
  onnx_node(m, "QuantizeLinear", "x s z", "q");
  onnx_node(m, "DequantizeLinear", "q s", "y");
  onnx_output(m, "y");
  const qb_graph *graph = onnx_graph(m);
  const qb_node *quantize = onnx_find_node(graph, "q"), *dequantize = onnx_find_node(graph, "y");
  assert_true(quantize->attributes.quantize.lo == -128 && quantize->attributes.quantize.hi == 127);
  assert_true(qb_view_f32(&graph->values[quantize->inputs[2]].constant)[0] == 5);
  assert_true(dequantize->attributes.quantize.lo == -128); /* from the quantizer before it */
  onnx_free(m);
}

static void dead_parts_are_ignored(void **state) {
  (void)state;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 2));
  onnx_input(m, "w", 2, DIMS(2, 2)); /* an initializer listed as input, as old files do */
  onnx_floats(m, "w", 2, DIMS(2, 2), NULL);
  onnx_floats(m, "unused", 1, DIMS(1), (float[]){NAN});
  onnx_node(m, "Gemm", "x w", "y");
  onnx_node(m, "FancyOp", "y", "dead");
  onnx_node(m, "Dropout", "y", "z mask");
  onnx_output(m, "z");
  const qb_graph *graph = onnx_graph(m);
  assert_int_equal(graph->input_count, 1);
  assert_int_equal(graph->node_count, 2);
  onnx_free(m);
}

static void unsupported_nodes_are_listed(void **state) {
  (void)state;
  qb_onnx_unsupported list[4];
  qb_error error;
  int32_t count;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 2));
  onnx_node(m, "Erf", "x", "a");
  onnx_node(m, "Relu", "a", "b");
  onnx_node(m, "Det", "b", "c");
  onnx_output(m, "c");
  assert_int_equal(onnx_read(m, &error), QB_OK);
  assert_int_equal(qb_onnx_list_unsupported(m->document, list, 4, &count, &error), QB_OK);
  assert_int_equal(count, 2);
  assert_string_equal(list[0].op, "Erf");
  assert_string_equal(list[1].node, "node_c");
  assert_int_equal(list[1].opset, 13);
  assert_non_null(strstr(list[1].why, "not supported"));
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "node 'node_a' (Erf, opset 13)");
  onnx_free(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(auto_pad_becomes_explicit),
      cmocka_unit_test(ceil_mode_drops_windows_outside),
      cmocka_unit_test(conv_transpose_sizes),
      cmocka_unit_test(clip_limits_come_from_anywhere),
      cmocka_unit_test(relu_then_min_is_one_clip),
      cmocka_unit_test(gemm_weights_are_canonical),
      cmocka_unit_test(gemm_factors_become_nodes),
      cmocka_unit_test(softmax_axes_depend_on_the_opset),
      cmocka_unit_test(axes_are_attributes_or_inputs),
      cmocka_unit_test(pads_are_attributes_or_inputs),
      cmocka_unit_test(shape_arithmetic_is_folded),
      cmocka_unit_test(initializers_of_other_types),
      cmocka_unit_test(typed_data_is_read),
      cmocka_unit_test(dequantized_initializers_keep_codes),
      cmocka_unit_test(fake_quantized_initializers_are_folded),
      cmocka_unit_test(blocks_are_dequantized_without_codes),
      cmocka_unit_test(odd_widths_are_believed_only_if_they_fit),
      cmocka_unit_test(quantized_activations_stay_nodes),
      cmocka_unit_test(dead_parts_are_ignored),
      cmocka_unit_test(unsupported_nodes_are_listed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
