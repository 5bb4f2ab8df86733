/* The writer: what is not touched survives, edits arrive, integers are packed, operators move to newer opsets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/alloc.h"
#include "support/faults.h"
#include "support/onnx_model.h"

#define DIMS(...) \
  (int64_t[]) { __VA_ARGS__ }

/* x (N, 3, 4, 4) -> Conv -> BatchNormalization -> Relu -> y; the Conv has no bias. */
static onnx_model *conv_bn_relu(int64_t opset) {
  onnx_model *m = onnx_new(opset);
  onnx_input(m, "x", 4, DIMS(0, 3, 4, 4));
  onnx_floats(m, "w", 4, DIMS(2, 3, 3, 3), NULL);
  onnx_floats(m, "gamma", 1, DIMS(2), (float[]){1, 2});
  onnx_floats(m, "beta", 1, DIMS(2), (float[]){0, 1});
  onnx_floats(m, "mean", 1, DIMS(2), (float[]){0, 1});
  onnx_floats(m, "var", 1, DIMS(2), (float[]){1, 4});
  onnx_ints_attribute(m, onnx_node(m, "Conv", "x w", "c"), "pads", 4, DIMS(1, 1, 1, 1));
  onnx_node(m, "BatchNormalization", "c gamma beta mean var", "n");
  onnx_node(m, "Relu", "n", "y");
  onnx_output(m, "y");
  return m;
}

static Onnx__GraphProto *written_graph(const onnx_model *m) { return m->document->model->graph; }

static const Onnx__TensorProto *find_initializer(const onnx_model *m, const char *name) {
  const Onnx__GraphProto *graph = written_graph(m);
  for (size_t i = 0; i < graph->n_initializer; i++)
    if (strcmp(graph->initializer[i]->name, name) == 0)
      return graph->initializer[i];
  return NULL;
}

static int count_nodes(const onnx_model *m, const char *op) {
  const Onnx__GraphProto *graph = written_graph(m);
  int count = 0;
  for (size_t i = 0; i < graph->n_node; i++)
    count += strcmp(graph->node[i]->op_type, op) == 0;
  return count;
}

static unsigned char *write_document(onnx_model *m, size_t *size) {
  qb_error error = {0};
  FILE *file = tmpfile();
  assert_non_null(file);
  if (qb_onnx_write(m->document, file, "copy.onnx", &error) != QB_OK)
    fail_msg("%s", error.message);
  *size = (size_t)ftell(file);
  unsigned char *bytes = qb_alloc(*size, 1);
  rewind(file);
  assert_int_equal(fread(bytes, 1, *size, file), *size);
  fclose(file);
  return bytes;
}

static void documents_survive_byte_for_byte(void **state) {
  (void)state;
  onnx_model *m = conv_bn_relu(13);
  qb_error error = {0};
  size_t size, copy_size;
  uint8_t unknown[] = {1, 2, 3};
  ProtobufCMessageUnknownField field = {.tag = 77,
                                        .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED,
                                        .len = sizeof unknown,
                                        .data = unknown};
  unknown[0] = 2; /* the length comes first */
  onnx_metadata(m, "author", "somebody");
  m->graph.node[0]->doc_string = (char *)"why";
  m->graph.node[0]->base.n_unknown_fields = m->graph.initializer[0]->base.n_unknown_fields = 1;
  m->graph.node[0]->base.unknown_fields = m->graph.initializer[0]->base.unknown_fields = &field;
  unsigned char *bytes = onnx_pack(m, &size);
  assert_int_equal(onnx_read(m, &error), QB_OK);
  unsigned char *copy = write_document(m, &copy_size);
  assert_int_equal(size, copy_size);
  assert_memory_equal(bytes, copy, size);
  assert_string_equal(qb_onnx_metadata(m->document, "author"), "somebody");
  qb_free(bytes);
  qb_free(copy);
  onnx_free(m);
}

static void unchanged_graphs_are_copied(void **state) {
  (void)state;
  onnx_model *m = conv_bn_relu(13);
  qb_onnx_write_info info;
  m->graph.node[2]->doc_string = (char *)"kept";
  onnx_graph(m);
  onnx_model *again = onnx_rewrite(m, NULL, &info);
  assert_int_equal(info.opset, 13);
  assert_int_equal(written_graph(again)->n_node, 3);
  assert_int_equal(written_graph(again)->n_initializer, 5);
  assert_string_equal(written_graph(again)->node[2]->doc_string, "kept");
  onnx_free(again);
  onnx_free(m);
}

static void folding_drops_nodes_and_adds_a_bias(void **state) {
  (void)state;
  onnx_model *m = conv_bn_relu(13);
  qb_onnx_write_info info;
  qb_error error;
  qb_value_id bias;
  float *data;
  qb_graph *graph = onnx_graph(m);
  qb_node_id conv = graph->values[qb_graph_find(graph, "c")].producer;
  assert_int_equal(qb_graph_new_constant(graph, "gamma", &QB_SHAPE(2), &bias, &data, &error), QB_ERROR_FORMAT);
  assert_int_equal(qb_graph_new_constant(graph, "n_bias", &QB_SHAPE(2), &bias, &data, &error), QB_OK);
  data[1] = 5;
  assert_int_equal(qb_graph_set_input(graph, conv, 2, bias, &error), QB_OK);
  float *weight = qb_graph_replace_constant(graph, qb_graph_find(graph, "w"));
  for (size_t i = 0; i < 54; i++)
    weight[i] = (float)i;
  qb_graph_remove_node(graph, graph->values[qb_graph_find(graph, "n")].producer);

  onnx_model *again = onnx_rewrite(m, NULL, &info);
  assert_int_equal(written_graph(again)->n_node, 2);
  assert_int_equal(written_graph(again)->n_initializer, 2); /* the four statistics are gone */
  assert_string_equal(written_graph(again)->node[0]->name, "node_c");
  assert_string_equal(written_graph(again)->node[0]->output[0], "n");
  const qb_node *read = onnx_find_node(&again->built, "n");
  assert_int_equal(read->attributes.conv.window.pad_begin[0], 1);
  assert_true(qb_view_f32(&again->built.values[read->inputs[2]].constant)[1] == 5);
  assert_true(qb_view_f32(&again->built.values[read->inputs[1]].constant)[53] == 53);
  assert_non_null(find_initializer(again, "w")); /* under its old name */
  onnx_free(again);
  onnx_free(m);
}

/* Gives a constant integer codes: 1, -1, 2, -2, .. within `bits`, scales 0.5, 1, 1.5, ..; a zero point when unsigned.
 */
static void set_codes(qb_graph *graph, const char *name, int bits, bool is_signed, bool per_channel) {
  qb_value *value = &graph->values[qb_graph_find(graph, name)];
  size_t count = qb_shape_elements(&value->shape), rows = (size_t)value->shape.dims[0];
  size_t scales = per_channel ? rows : 1;
  qb_codes *codes = qb_arena_alloc(&graph->arena, 1, sizeof *codes);
  int32_t *data = qb_arena_alloc(&graph->arena, count, sizeof *data);
  int32_t *zero = qb_arena_alloc(&graph->arena, scales, sizeof *zero);
  float *scale = qb_arena_alloc(&graph->arena, scales, sizeof *scale);
  float *floats = qb_graph_replace_constant(graph, qb_graph_find(graph, name));
  int32_t half = 1 << (bits - 1);
  for (size_t c = 0; c < scales; c++) {
    scale[c] = 0.5f * (float)(c + 1);
    zero[c] = is_signed ? 0 : half;
  }
  for (size_t i = 0; i < count; i++) {
    size_t c = per_channel ? i / (count / rows) : 0;
    data[i] = (int32_t)(i * 37 % (2 * (size_t)half)) - (is_signed ? half : 0);
    floats[i] = (float)(data[i] - zero[c]) * scale[c];
  }
  *codes = (qb_codes){.bits = bits,
                      .is_signed = is_signed,
                      .axis = per_channel ? 0 : QB_NONE,
                      .scale_count = (int32_t)scales,
                      .scale = scale,
                      .zero_point = is_signed ? NULL : zero,
                      .codes = {.dtype = QB_DTYPE_I32, .shape = value->shape, .data = data}};
  value->codes = codes;
}

static void assert_same_constant(const qb_graph *a, const qb_graph *b, const char *name) {
  const qb_value *x = &a->values[qb_graph_find(a, name)], *y = &b->values[qb_graph_find(b, name)];
  assert_true(qb_shape_equal(&x->shape, &y->shape));
  size_t count = qb_shape_elements(&x->shape);
  assert_memory_equal(qb_view_f32(&x->constant), qb_view_f32(&y->constant), count * sizeof(float));
  assert_non_null(y->codes);
  assert_int_equal(x->codes->bits, y->codes->bits);
  assert_int_equal(x->codes->axis, y->codes->axis);
  assert_int_equal(x->codes->is_signed, y->codes->is_signed);
  assert_memory_equal(x->codes->scale, y->codes->scale, (size_t)x->codes->scale_count * sizeof(float));
  for (size_t i = 0; i < count; i++)
    assert_int_equal(qb_view_integer(&x->codes->codes, i), qb_view_integer(&y->codes->codes, i));
}

static void every_width_has_its_carrier(void **state) {
  (void)state;
  static const int64_t opsets[17] = {0, 0, 25, 21, 21, 13, 13, 13, 13, 21, 21, 21, 21, 21, 21, 21, 21};
  static const int carrier_bits[17] = {0, 0, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16};
  for (int bits = 2; bits <= 16; bits++)
    for (int form = 0; form < 4; form++) {
      bool is_signed = form % 2 == 0, per_channel = form / 2 == 0;
      qb_onnx_write_info info;
      onnx_model *m = conv_bn_relu(11);
      qb_graph *graph = onnx_graph(m);
      set_codes(graph, "w", bits, is_signed, per_channel);
      onnx_model *again = onnx_rewrite(m, NULL, &info);
      assert_int_equal(info.opset, bits > 4 && bits <= 8 && !per_channel ? 11 : opsets[bits]);
      assert_same_constant(graph, &again->built, "w");
      const Onnx__TensorProto *q = find_initializer(again, "w_quantized"), *s = find_initializer(again, "w_scale");
      assert_int_equal(qb_dtype_bits((qb_dtype)q->data_type), carrier_bits[bits]);
      assert_int_equal(s->n_dims, per_channel ? 1 : 0);
      assert_int_equal(find_initializer(again, "w_zero_point") != NULL, !is_signed);
      assert_null(find_initializer(again, "w"));
      assert_int_equal(qb_onnx_metadata(again->document, "qbound.bits.w_quantized") != NULL,
                       bits != carrier_bits[bits]);
      assert_true(again->document->model->ir_version >= (info.opset == 25 ? 13 : info.opset == 21 ? 10 : 7));

      /* written once more without a change: the same again, and the note about the width survives */
      again->proto = *again->document->model;
      onnx_model *third = onnx_rewrite(again, NULL, &info);
      assert_same_constant(graph, &third->built, "w");
      onnx_free(third);
      onnx_free(again);
      onnx_free(m);
    }
}

static void compat_stays_with_eight_bits(void **state) {
  (void)state;
  const qb_onnx_write_settings compat = {.compat = true};
  qb_onnx_write_info info;
  qb_error error;
  onnx_model *m = conv_bn_relu(11);
  set_codes(onnx_graph(m), "w", 2, true, true);
  onnx_model *again = onnx_rewrite(m, &compat, &info);
  assert_int_equal(info.opset, 13);
  assert_int_equal(find_initializer(again, "w_quantized")->data_type, QB_DTYPE_I8);
  assert_same_constant(&m->built, &again->built, "w");
  onnx_free(again);

  set_codes(&m->built, "w", 9, true, true);
  FILE *file = tmpfile();
  assert_int_equal(qb_onnx_write_graph(m->document, &m->built, &compat, file, "y.onnx", &info, &error),
                   QB_ERROR_UNSUPPORTED);
  assert_non_null(strstr(error.message, "weight 'w' has 9 bits"));
  fclose(file);
  onnx_free(m);
}

static void codes_that_do_not_give_the_weights_are_refused(void **state) {
  (void)state;
  qb_onnx_write_info info;
  qb_error error;
  onnx_model *m = conv_bn_relu(13);
  qb_graph *graph = onnx_graph(m);
  set_codes(graph, "w", 8, true, true);
  qb_value *value = &graph->values[qb_graph_find(graph, "w")];
  ((float *)(uintptr_t)value->constant.data)[7] += 0.25f;
  FILE *file = tmpfile();
  assert_int_equal(qb_onnx_write_graph(m->document, graph, NULL, file, "y.onnx", &info, &error), QB_ERROR_NUMERIC);
  assert_non_null(strstr(error.message, "'w'"));
  fclose(file);
  onnx_free(m);
}

static void tied_weights_stay_tied(void **state) {
  (void)state;
  qb_onnx_write_info info;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 4, DIMS(0, 2, 4, 4));
  onnx_floats(m, "w", 4, DIMS(2, 2, 1, 1), NULL);
  onnx_node(m, "Identity", "w", "alias");
  onnx_node(m, "Conv", "x w", "a");
  onnx_node(m, "Conv", "a alias", "y");
  onnx_output(m, "y");
  set_codes(onnx_graph(m), "w", 8, true, true);
  onnx_model *again = onnx_rewrite(m, NULL, &info);
  assert_int_equal(count_nodes(again, "DequantizeLinear"), 1);
  assert_int_equal(count_nodes(again, "Identity"), 0); /* nothing needs the alias any more */
  assert_int_equal(onnx_find_node(&again->built, "a")->inputs[1], onnx_find_node(&again->built, "y")->inputs[1]);
  onnx_free(again);
  onnx_free(m);
}

static void matrices_go_back_to_their_layout(void **state) {
  (void)state;
  qb_onnx_write_info info;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 3));
  onnx_floats(m, "w", 2, DIMS(3, 2), NULL);
  onnx_floats(m, "v", 2, DIMS(2, 2), NULL);
  onnx_node(m, "Gemm", "x w", "a");
  onnx_node(m, "MatMul", "a v", "y");
  onnx_output(m, "y");
  qb_graph *graph = onnx_graph(m);
  float *w = qb_graph_replace_constant(graph, qb_graph_find(graph, "w"));
  for (size_t i = 0; i < 6; i++)
    w[i] = (float)i; /* (OUT, IN) = (2, 3) */
  set_codes(graph, "v", 8, true, true);
  onnx_model *again = onnx_rewrite(m, NULL, &info);
  const float expected[6] = {0, 3, 1, 4, 2, 5};
  assert_memory_equal(find_initializer(again, "w")->raw_data.data, expected, sizeof expected);
  assert_int_equal(count_nodes(again, "MatMul"), 0); /* integers: a Gemm that reads (OUT, IN) */
  assert_same_constant(graph, &again->built, "v");
  assert_int_equal(onnx_find_node(&again->built, "y")->op, QB_OP_GEMM);
  onnx_free(again);
  onnx_free(m);
}

static void matrix_products_with_more_axes_keep_integers(void **state) {
  (void)state;
  qb_onnx_write_info info;
  qb_error error;
  qb_value_id bias;
  float *data;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 3, DIMS(0, 4, 3));
  onnx_floats(m, "w", 2, DIMS(3, 2), NULL);
  onnx_node(m, "MatMul", "x w", "y");
  onnx_output(m, "y");
  qb_graph *graph = onnx_graph(m);
  set_codes(graph, "w", 4, false, true);
  assert_int_equal(qb_graph_new_constant(graph, "bias", &QB_SHAPE(2), &bias, &data, &error), QB_OK);
  assert_int_equal(qb_graph_set_input(graph, 0, 2, bias, &error), QB_OK);
  onnx_model *again = onnx_rewrite(m, NULL, &info);
  assert_same_constant(graph, &again->built, "w");
  assert_int_equal(again->built.node_count, 2); /* MatMul, Add */
  onnx_free(again);
  onnx_free(m);
}

static void caps_per_channel_are_written_as_min(void **state) {
  (void)state;
  static const float caps[3] = {1, 2, 3}, lows[3] = {0, -1, -INFINITY};
  for (int64_t opset = 7; opset <= 13; opset += 3)
    for (int k = 0; k < 3; k++) {
      qb_onnx_write_info info;
      onnx_model *m = onnx_new(opset);
      onnx_input(m, "x", 4, DIMS(0, 3, 2, 2));
      onnx_node(m, "Relu", "x", "r");
      onnx_node(m, "Relu", "r", "y");
      onnx_output(m, "y");
      qb_graph *graph = onnx_graph(m);
      qb_node *node = &graph->nodes[1];
      node->op = QB_OP_CLIP;
      node->attributes.clip = (qb_clip_attributes){.lo = lows[k], .hi = INFINITY, .hi_channels = caps};
      onnx_model *again = onnx_rewrite(m, NULL, &info);
      assert_int_equal(info.opset, opset < 8 ? 8 : opset);
      const qb_clip_attributes *clip = &onnx_find_node(&again->built, "y")->attributes.clip;
      assert_memory_equal(clip->hi_channels, caps, sizeof caps);
      assert_true(clip->lo == (k == 2 ? 0 : lows[k])); /* without a lower limit it joins the Relu before it */
      onnx_free(again);
      onnx_free(m);
    }
}

static void quantized_activations_can_be_inserted(void **state) {
  (void)state;
  qb_onnx_write_info info;
  qb_error error;
  qb_value_id scale, zero, pair[3], q, dq;
  qb_node_id node;
  float *data;
  onnx_model *m = onnx_new(11);
  onnx_input(m, "x", 2, DIMS(0, 3));
  onnx_node(m, "Relu", "x", "r");
  onnx_node(m, "Tanh", "r", "y");
  onnx_output(m, "y");
  qb_graph *graph = onnx_graph(m);
  qb_attributes attributes = {.quantize = {.lo = -128, .hi = 127}};
  assert_int_equal(qb_graph_new_constant(graph, "s", &(qb_shape){0}, &scale, &data, &error), QB_OK);
  *data = 0.125f;
  assert_int_equal(qb_graph_new_constant(graph, "z", &(qb_shape){0}, &zero, &data, &error), QB_OK);
  *data = -3;
  pair[0] = qb_graph_find(graph, "r"), pair[1] = scale, pair[2] = zero;
  assert_int_equal(qb_graph_add_node(graph, QB_OP_QUANTIZE_LINEAR, "q", pair, 3, &attributes, "rq", NULL, &node,
                                     &error),
                   QB_OK);
  q = graph->nodes[node].output;
  pair[0] = q;
  assert_int_equal(qb_graph_add_node(graph, QB_OP_DEQUANTIZE_LINEAR, "d", pair, 3, &attributes, "rdq", NULL, &node,
                                     &error),
                   QB_OK);
  dq = graph->nodes[node].output;
  assert_int_equal(qb_graph_set_input(graph, 1, 0, dq, &error), QB_OK); /* the writer sorts */
  onnx_model *again = onnx_rewrite(m, NULL, &info);
  assert_int_equal(info.opset, 11);
  const qb_node *read = onnx_find_node(&again->built, "rq");
  assert_true(read->attributes.quantize.lo == -128);
  assert_true(qb_view_f32(&again->built.values[read->inputs[2]].constant)[0] == -3);
  assert_int_equal(onnx_find_node(&again->built, "y")->op, QB_OP_TANH);
  onnx_free(again);
  onnx_free(m);
}

static void changed_quantizers_keep_their_type(void **state) {
  (void)state;
  qb_onnx_write_info info;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 2));
  onnx_floats(m, "s", 0, NULL, (float[]){0.5f});
  onnx_tensor(m, "z", QB_DTYPE_I8, 0, NULL, "\5", 1);
  onnx_node(m, "QuantizeLinear", "x s z", "q");
  onnx_node(m, "DequantizeLinear", "q s z", "y");
  onnx_output(m, "y");
  qb_graph *graph = onnx_graph(m);
  *qb_graph_replace_constant(graph, onnx_find_node(graph, "q")->inputs[2]) = -7;
  onnx_model *again = onnx_rewrite(m, NULL, &info);
  const qb_node *read = onnx_find_node(&again->built, "y");
  assert_true(read->attributes.quantize.lo == -128);
  assert_true(qb_view_f32(&again->built.values[read->inputs[2]].constant)[0] == -7);
  onnx_free(again);
  onnx_free(m);
}

/* An opset 7 network with everything that later opsets spell differently, written at opset 25. */
static onnx_model *old_network(void) {
  onnx_model *m = onnx_new(7);
  Onnx__NodeProto *node;
  onnx_input(m, "x", 4, DIMS(0, 3, 6, 6));
  onnx_floats(m, "w", 4, DIMS(4, 3, 3, 3), NULL);
  onnx_node(m, "Conv", "x w", "c");
  for (int i = 0; i < 4; i++)
    onnx_floats(m, (const char *[]){"g", "b", "m", "v"}[i], 1, DIMS(4), (float[]){1, 2, 3, 4});
  onnx_int_attribute(m, onnx_node(m, "BatchNormalization", "c g b m v", "n"), "spatial", 1);
  node = onnx_node(m, "Clip", "n", "clip");
  onnx_float_attribute(m, node, "min", -1);
  onnx_float_attribute(m, node, "max", 6);
  node = onnx_node(m, "Pad", "clip", "p");
  onnx_ints_attribute(m, node, "pads", 8, DIMS(0, 0, 1, 1, 0, 0, 1, 1));
  onnx_float_attribute(m, node, "value", 0.5f);
  node = onnx_node(m, "ReduceMean", "p", "mean");
  onnx_ints_attribute(m, node, "axes", 2, DIMS(2, 3));
  onnx_float_attribute(m, onnx_node(m, "Dropout", "mean", "drop"), "ratio", 0.5f);
  onnx_ints_attribute(m, onnx_node(m, "Squeeze", "drop", "s"), "axes", 1, DIMS(3));
  onnx_ints_attribute(m, onnx_node(m, "Unsqueeze", "s", "u"), "axes", 1, DIMS(1));
  onnx_int_attribute(m, onnx_node(m, "Softmax", "u", "y"), "axis", 2);
  onnx_output(m, "y");
  return m;
}

static void old_operators_are_converted(void **state) {
  (void)state;
  qb_onnx_write_info info;
  onnx_model *m = old_network();
  set_codes(onnx_graph(m), "w", 2, true, true);
  onnx_model *again = onnx_rewrite(m, NULL, &info);
  const qb_graph *graph = &again->built;
  assert_int_equal(info.opset, 25);
  assert_int_equal(again->document->model->ir_version, 13);
  const qb_attributes *clip = &onnx_find_node(graph, "clip")->attributes;
  assert_true(clip->clip.lo == -1 && clip->clip.hi == 6);
  const qb_node *pad = onnx_find_node(graph, "p");
  assert_int_equal(pad->attributes.pad.end[3], 1);
  assert_true(pad->attributes.pad.value == 0.5f);
  assert_int_equal(onnx_find_node(graph, "mean")->op, QB_OP_REDUCE_MEAN);
  assert_int_equal(onnx_find_node(graph, "s")->op, QB_OP_SQUEEZE);
  assert_int_equal(onnx_find_node(graph, "u")->op, QB_OP_UNSQUEEZE);
  assert_int_equal(onnx_find_node(graph, "n")->op, QB_OP_BATCH_NORM);
  /* the sum over two axes runs over their flattening: Reshape, Softmax, Reshape */
  const qb_node *restored = onnx_find_node(graph, "y");
  assert_int_equal(restored->op, QB_OP_RESHAPE);
  const qb_node *softmax = &graph->nodes[graph->values[restored->inputs[0]].producer];
  assert_int_equal(softmax->op, QB_OP_SOFTMAX);
  assert_true(qb_shape_equal(&graph->values[softmax->output].shape, &QB_SHAPE(1, 1, 4)));
  assert_true(qb_shape_equal(&graph->values[restored->output].shape, &QB_SHAPE(1, 1, 4, 1)));
  onnx_free(again);
  onnx_free(m);
}

/* Reshape by folded shape arithmetic: kept while the opset stays, made anew when its nodes cannot be copied. */
static void shape_arithmetic_survives_or_is_replaced(void **state) {
  (void)state;
  for (int convert = 0; convert < 2; convert++) {
    qb_onnx_write_info info;
    onnx_model *m = onnx_new(11);
    onnx_input(m, "x", 4, DIMS(0, 3, 4, 4));
    onnx_floats(m, "w", 4, DIMS(2, 3, 1, 1), NULL);
    onnx_integers(m, "zero", 0, NULL, DIMS(0));
    onnx_integers(m, "rest", 1, DIMS(1), DIMS(-1));
    onnx_node(m, "Conv", "x w", "c");
    onnx_node(m, "Shape", "c", "shape");
    onnx_int_attribute(m, onnx_node(m, "Gather", "shape zero", "batch"), "axis", 0);
    onnx_ints_attribute(m, onnx_node(m, "Unsqueeze", "batch", "batch1"), "axes", 1, DIMS(0));
    onnx_int_attribute(m, onnx_node(m, "Concat", "batch1 rest", "target"), "axis", 0);
    onnx_node(m, "Reshape", "c target", "y");
    onnx_output(m, "y");
    set_codes(onnx_graph(m), "w", 8, true, convert == 1); /* per channel needs opset 13 */
    onnx_model *again = onnx_rewrite(m, NULL, &info);
    assert_int_equal(info.opset, convert ? 13 : 11);
    assert_int_equal(count_nodes(again, "Gather"), convert ? 0 : 1);
    assert_true(qb_shape_equal(&again->built.values[again->built.outputs[0]].shape, &QB_SHAPE(1, 32)));
    onnx_free(again);
    onnx_free(m);
  }
}

static void other_uses_keep_the_old_content(void **state) {
  (void)state;
  qb_onnx_write_info info;
  onnx_model *m = onnx_new(13); /* w as (IN, OUT) and as (OUT, IN): two constants of the graph, one initializer */
  onnx_input(m, "x", 2, DIMS(0, 2));
  onnx_floats(m, "w", 2, DIMS(2, 2), (float[]){1, 2, 3, 4});
  onnx_node(m, "Gemm", "x w", "a");
  onnx_int_attribute(m, onnx_node(m, "Gemm", "a w", "y"), "transB", 1);
  onnx_output(m, "y");
  qb_graph *graph = onnx_graph(m);
  qb_graph_replace_constant(graph, onnx_find_node(graph, "a")->inputs[1])[0] = 9;
  onnx_model *again = onnx_rewrite(m, NULL, &info);
  const qb_graph *read = &again->built;
  assert_true(qb_view_f32(&read->values[onnx_find_node(read, "a")->inputs[1]].constant)[0] == 9);
  assert_true(qb_view_f32(&read->values[onnx_find_node(read, "y")->inputs[1]].constant)[0] == 1);
  onnx_free(again);
  onnx_free(m);
}

static void metadata_is_added_and_stale_notes_go(void **state) {
  (void)state;
  const qb_onnx_metadata_entry entries[] = {{"author", "other"}, {"qbound.version", "1"}};
  const qb_onnx_write_settings settings = {.metadata = entries, .metadata_count = 2};
  qb_onnx_write_info info;
  onnx_model *m = conv_bn_relu(13);
  onnx_metadata(m, "author", "somebody");
  onnx_metadata(m, "kept", "yes");
  onnx_metadata(m, "qbound.bits.gone", "3");
  onnx_graph(m);
  onnx_model *again = onnx_rewrite(m, &settings, &info);
  assert_int_equal(again->document->model->n_metadata_props, 3);
  assert_string_equal(qb_onnx_metadata(again->document, "author"), "other");
  assert_string_equal(qb_onnx_metadata(again->document, "kept"), "yes");
  onnx_free(again);
  onnx_free(m);
}

static void full_disks_are_noticed(void **state) {
  (void)state;
  qb_error error;
  onnx_model *m = conv_bn_relu(13);
  onnx_graph(m);
  FILE *file = fault_full_disk();
  if (file == NULL)
    skip();
  assert_int_equal(qb_onnx_write(m->document, file, "full.onnx", &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, "full.onnx"));
  fclose(file);
  onnx_free(m);
}

typedef struct fault_context {
  const unsigned char *bytes;
  size_t size;
} fault_context;

static qb_status read_import_write(void *context, qb_error *error) {
  const fault_context *c = context;
  qb_onnx *document;
  qb_graph graph;
  qb_onnx_write_info info;
  unsigned char *bytes = qb_alloc(c->size, 1);
  if (bytes == NULL) {
    error->status = QB_ERROR_MEMORY;
    error->message[0] = '-';
    return QB_ERROR_MEMORY;
  }
  memcpy(bytes, c->bytes, c->size);
  qb_status status = qb_onnx_from_bytes(bytes, c->size, "test.onnx", &document, error);
  if (status != QB_OK)
    return status;
  FILE *file = tmpfile();
  status = qb_onnx_to_graph(document, &graph, error);
  if (status == QB_OK) {
    set_codes(&graph, "w", 3, true, true);
    status = qb_onnx_write_graph(document, &graph, NULL, file, "y.onnx", &info, error);
  }
  qb_graph_free(&graph);
  qb_onnx_free(document);
  fclose(file);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  onnx_model *m = old_network();
  fault_context context = {0};
  context.bytes = onnx_pack(m, &context.size);
  fault_every_allocation(read_import_write, &context, 500);
  qb_free((unsigned char *)(uintptr_t)context.bytes);
  onnx_free(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(documents_survive_byte_for_byte),
      cmocka_unit_test(unchanged_graphs_are_copied),
      cmocka_unit_test(folding_drops_nodes_and_adds_a_bias),
      cmocka_unit_test(every_width_has_its_carrier),
      cmocka_unit_test(compat_stays_with_eight_bits),
      cmocka_unit_test(codes_that_do_not_give_the_weights_are_refused),
      cmocka_unit_test(tied_weights_stay_tied),
      cmocka_unit_test(matrices_go_back_to_their_layout),
      cmocka_unit_test(matrix_products_with_more_axes_keep_integers),
      cmocka_unit_test(caps_per_channel_are_written_as_min),
      cmocka_unit_test(quantized_activations_can_be_inserted),
      cmocka_unit_test(changed_quantizers_keep_their_type),
      cmocka_unit_test(old_operators_are_converted),
      cmocka_unit_test(shape_arithmetic_survives_or_is_replaced),
      cmocka_unit_test(other_uses_keep_the_old_content),
      cmocka_unit_test(metadata_is_added_and_stale_notes_go),
      cmocka_unit_test(full_disks_are_noticed),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
