/* ONNX nodes made from graph nodes, one rule per operator family, at any opset. Shapes keep the batch open: axis 0 is
 * copied, never written as 1. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "onnx/export.h"
#include "onnx/import.h"

typedef qb_status (*make_rule)(qb_export *x, const qb_node *node);

static const qb_value *input_value(const qb_export *x, const qb_node *node, int32_t slot) {
  return &x->graph->values[node->inputs[slot]];
}

static const qb_shape *output_shape(const qb_export *x, const qb_node *node) {
  return &x->graph->values[node->output].shape;
}

/* The name under which a node's input is known in the written file; NULL when missing. */
static const char *input_name(const qb_export *x, const qb_node *node, int32_t slot) {
  if (slot >= node->input_count || node->inputs[slot] == QB_NONE)
    return NULL;
  const char *written = x->written[node->inputs[slot]];
  return written != NULL ? written : input_value(x, node, slot)->name;
}

static const char *output_name(const qb_export *x, const qb_node *node) { return x->graph->values[node->output].name; }

/* The ONNX node with its name, output and the first `count` inputs. */
static Onnx__NodeProto *start(qb_export *x, const qb_node *node, const char *op_type, int32_t count) {
  Onnx__NodeProto *made = qb_export_node(x, op_type, node->name, output_name(x, node));
  for (int32_t slot = 0; slot < count && slot < node->input_count; slot++)
    qb_export_input(x, made, input_name(x, node, slot));
  return made;
}

static qb_status make_same(qb_export *x, const qb_node *node) {
  (void)start(x, node, qb_op_name(node->op), node->input_count);
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------- linear layers */

static void add_window(qb_export *x, Onnx__NodeProto *made, const qb_window *w, bool dilations) {
  const int64_t kernel[2] = {w->kernel[0], w->kernel[1]}, stride[2] = {w->stride[0], w->stride[1]};
  const int64_t dilation[2] = {w->dilation[0], w->dilation[1]};
  const int64_t pads[4] = {w->pad_begin[0], w->pad_begin[1], w->pad_end[0], w->pad_end[1]};
  if (dilations)
    qb_export_ints(x, made, "dilations", dilation, 2);
  qb_export_ints(x, made, "kernel_shape", kernel, 2);
  qb_export_ints(x, made, "pads", pads, 4);
  qb_export_ints(x, made, "strides", stride, 2);
}

static qb_status make_conv(qb_export *x, const qb_node *node) {
  Onnx__NodeProto *made = start(x, node, "Conv", 3);
  add_window(x, made, &node->attributes.conv.window, true);
  qb_export_int(x, made, "group", node->attributes.conv.group);
  return QB_OK;
}

static qb_status make_conv_transpose(qb_export *x, const qb_node *node) {
  const qb_window *w = &node->attributes.conv.window;
  Onnx__NodeProto *made = start(x, node, "ConvTranspose", 3);
  int64_t extra[2];
  for (int axis = 0; axis < 2; axis++)
    extra[axis] = output_shape(x, node)->dims[2 + axis] -
                  ((input_value(x, node, 0)->shape.dims[2 + axis] - 1) * w->stride[axis] +
                   (int64_t)w->dilation[axis] * (w->kernel[axis] - 1) + 1 - w->pad_begin[axis] - w->pad_end[axis]);
  add_window(x, made, w, true);
  qb_export_int(x, made, "group", node->attributes.conv.group);
  qb_export_ints(x, made, "output_padding", extra, 2);
  return QB_OK;
}

/* (batch, features) -> Gemm; more axes -> MatMul and, with a bias, Add. The weight is stored as x->stored_transposed
 * says: (OUT, IN) only where a Gemm can read it. */
static qb_status make_gemm(qb_export *x, const qb_node *node) {
  bool has_bias = node->input_count > 2 && node->inputs[2] != QB_NONE;
  bool stored_transposed = x->stored_transposed[node->inputs[1]];
  if (input_value(x, node, 0)->shape.rank == 2 && (node->op == QB_OP_GEMM || has_bias || !stored_transposed)) {
    const float zero = 0;
    Onnx__NodeProto *made = start(x, node, "Gemm", 3);
    if (!has_bias && x->opset < 11) /* the bias was not optional then */
      qb_export_input(x, made, qb_export_floats(x, output_name(x, node), "zero", &(qb_shape){0}, &zero));
    qb_export_int(x, made, "transB", stored_transposed ? 0 : 1);
    return QB_OK;
  }
  if (!stored_transposed)
    return qb_export_fail(x, node, "its weight is shared with a layer that stores it the other way round");
  if (!has_bias)
    return (void)start(x, node, "MatMul", 2), QB_OK;
  const char *product = qb_export_name(x, output_name(x, node), "product");
  Onnx__NodeProto *made = qb_export_node(x, "MatMul", node->name, product);
  qb_export_input(x, made, input_name(x, node, 0));
  qb_export_input(x, made, input_name(x, node, 1));
  made = qb_export_node(x, "Add", qb_arena_format(&x->arena, "%s_bias", node->name), output_name(x, node));
  qb_export_input(x, made, product);
  qb_export_input(x, made, input_name(x, node, 2));
  return QB_OK;
}

static qb_status make_batch_norm(qb_export *x, const qb_node *node) {
  qb_export_float(x, start(x, node, "BatchNormalization", 5), "epsilon", node->attributes.batch_norm.epsilon);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- activations */

static qb_status make_leaky_relu(qb_export *x, const qb_node *node) {
  qb_export_float(x, start(x, node, "LeakyRelu", 1), "alpha", node->attributes.linear.alpha);
  return QB_OK;
}

static qb_status make_hard_sigmoid(qb_export *x, const qb_node *node) {
  Onnx__NodeProto *made = start(x, node, "HardSigmoid", 1);
  qb_export_float(x, made, "alpha", node->attributes.linear.alpha);
  qb_export_float(x, made, "beta", node->attributes.linear.beta);
  return QB_OK;
}

static qb_status make_hard_swish(qb_export *x, const qb_node *node) {
  return x->opset < 14 ? qb_export_fail(x, node, "this operator exists from opset 14 on") : make_same(x, node);
}

/* Clip to [lo, hi] of `from` under the name `output`. */
static void clip(qb_export *x, const char *label, const char *from, const char *output, float lo, float hi) {
  Onnx__NodeProto *made = qb_export_node(x, "Clip", label, output);
  qb_export_input(x, made, from);
  if (x->opset < 11) {
    if (!isinf(lo))
      qb_export_float(x, made, "min", lo);
    if (!isinf(hi))
      qb_export_float(x, made, "max", hi);
    return;
  }
  if (!isinf(lo) || !isinf(hi))
    qb_export_input(x, made, isinf(lo) ? NULL : qb_export_floats(x, output, "min", &(qb_shape){0}, &lo));
  if (!isinf(hi))
    qb_export_input(x, made, qb_export_floats(x, output, "max", &(qb_shape){0}, &hi));
}

/* A cap per channel is a Min with a (C, 1, 1) constant, after a Relu or Clip where there is a lower limit. */
static qb_status make_clip(qb_export *x, const qb_node *node) {
  const qb_clip_attributes *limits = &node->attributes.clip;
  const char *from = input_name(x, node, 0), *output = output_name(x, node);
  if (limits->hi_channels == NULL) {
    clip(x, node->name, from, output, limits->lo, limits->hi);
    return QB_OK;
  }
  const qb_shape *shape = output_shape(x, node);
  qb_shape cap = {.rank = shape->rank - 1, .dims = {shape->dims[1], 1, 1, 1, 1, 1, 1}};
  const char *capped = qb_export_floats(x, output, "cap", &cap, limits->hi_channels);
  if (!isinf(limits->lo)) {
    const char *clipped = qb_export_name(x, output, "uncapped"),
               *label = qb_arena_format(&x->arena, "%s_lower", node->name);
    if (limits->lo == 0)
      qb_export_input(x, qb_export_node(x, "Relu", label, clipped), from);
    else
      clip(x, label, from, clipped, limits->lo, INFINITY);
    from = clipped;
  }
  Onnx__NodeProto *made = qb_export_node(x, "Min", node->name, output);
  qb_export_input(x, made, from);
  qb_export_input(x, made, capped);
  return QB_OK;
}

/* dims[0] stays the batch: 0 copies it from the input. */
static void reshape(qb_export *x, const char *label, const char *from, const char *output, const qb_shape *shape) {
  int64_t target[QB_MAX_RANK] = {0};
  for (int32_t i = 1; i < shape->rank; i++)
    target[i] = shape->dims[i];
  Onnx__NodeProto *made = qb_export_node(x, "Reshape", label, output);
  qb_export_input(x, made, from);
  qb_export_input(x, made, qb_export_integers(x, output, "shape", target, (size_t)shape->rank));
}

/* A sum over several axes at opset 13 and later: flattened into one axis and back. */
static qb_status make_softmax(qb_export *x, const qb_node *node) {
  int32_t axis = node->attributes.axes.axis, end = node->attributes.axes.end_axis;
  const qb_shape *shape = output_shape(x, node);
  if (x->opset < 13 && end != shape->rank)
    return qb_export_fail(x, node, "a softmax over one axis that is not the last needs opset 13");
  if (x->opset < 13 || end == axis + 1) {
    qb_export_int(x, start(x, node, "Softmax", 1), "axis", axis);
    return QB_OK;
  }
  qb_shape flat = {.rank = axis + 1};
  flat.dims[axis] = 1;
  for (int32_t i = 0; i < shape->rank; i++)
    if (i < axis)
      flat.dims[i] = shape->dims[i];
    else
      flat.dims[axis] *= shape->dims[i];
  const char *output = output_name(x, node);
  const char *flattened = qb_export_name(x, output, "flat"), *result = qb_export_name(x, output, "softmax");
  reshape(x, qb_arena_format(&x->arena, "%s_flatten", node->name), input_name(x, node, 0), flattened, &flat);
  Onnx__NodeProto *made = qb_export_node(x, "Softmax", node->name, result);
  qb_export_input(x, made, flattened);
  qb_export_int(x, made, "axis", axis);
  reshape(x, qb_arena_format(&x->arena, "%s_restore", node->name), result, output, shape);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- pooling */

static qb_status make_max_pool(qb_export *x, const qb_node *node) {
  const qb_window *w = &node->attributes.pool.window;
  bool average = node->op == QB_OP_AVERAGE_POOL, dilated = w->dilation[0] != 1 || w->dilation[1] != 1;
  if (dilated && x->opset < (average ? 19 : 10))
    return qb_export_fail(x, node, "dilated pooling needs a newer opset");
  bool ceil_mode = false;
  for (int axis = 0; axis < 2; axis++) {
    int64_t extent = (int64_t)w->dilation[axis] * (w->kernel[axis] - 1) + 1;
    int64_t room = input_value(x, node, 0)->shape.dims[2 + axis] + w->pad_begin[axis] + w->pad_end[axis] - extent;
    ceil_mode = ceil_mode || output_shape(x, node)->dims[2 + axis] > room / w->stride[axis] + 1;
  }
  Onnx__NodeProto *made = start(x, node, qb_op_name(node->op), 1);
  add_window(x, made, w, dilated);
  if (ceil_mode)
    qb_export_int(x, made, "ceil_mode", 1);
  if (average && node->attributes.pool.count_include_pad)
    qb_export_int(x, made, "count_include_pad", 1);
  return QB_OK;
}

static qb_status make_average(qb_export *x, const qb_node *node) {
  static const int64_t axes[2] = {2, 3};
  if (node->op == QB_OP_AVERAGE_POOL)
    return make_max_pool(x, node);
  if (node->op == QB_OP_GLOBAL_AVERAGE_POOL)
    return make_same(x, node);
  Onnx__NodeProto *made = start(x, node, "ReduceMean", 1);
  if (x->opset < 18)
    qb_export_ints(x, made, "axes", axes, 2);
  else
    qb_export_input(x, made, qb_export_integers(x, output_name(x, node), "axes", axes, 2));
  qb_export_int(x, made, "keepdims", output_shape(x, node)->rank == 4);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- rearranging */

static qb_status make_concat(qb_export *x, const qb_node *node) {
  qb_export_int(x, start(x, node, "Concat", node->input_count), "axis", node->attributes.axes.axis);
  return QB_OK;
}

static qb_status make_pad(qb_export *x, const qb_node *node) {
  int32_t rank = output_shape(x, node)->rank;
  int64_t pads[2 * QB_MAX_RANK];
  for (int32_t i = 0; i < rank; i++) {
    pads[i] = node->attributes.pad.begin[i];
    pads[rank + i] = node->attributes.pad.end[i];
  }
  Onnx__NodeProto *made = start(x, node, "Pad", 1);
  if (x->opset < 11) {
    qb_export_ints(x, made, "pads", pads, 2 * (size_t)rank);
    qb_export_float(x, made, "value", node->attributes.pad.value);
    return QB_OK;
  }
  qb_export_input(x, made, qb_export_integers(x, output_name(x, node), "pads", pads, 2 * (size_t)rank));
  qb_export_input(x, made,
                  qb_export_floats(x, output_name(x, node), "value", &(qb_shape){0}, &node->attributes.pad.value));
  return QB_OK;
}

static qb_status make_transpose(qb_export *x, const qb_node *node) {
  int64_t permutation[QB_MAX_RANK];
  int32_t rank = output_shape(x, node)->rank;
  for (int32_t i = 0; i < rank; i++)
    permutation[i] = node->attributes.transpose.permutation[i];
  qb_export_ints(x, start(x, node, "Transpose", 1), "perm", permutation, (size_t)rank);
  return QB_OK;
}

/* axes of a Squeeze or Unsqueeze that its ONNX node gives as attribute. */
static const Onnx__AttributeProto *axes_attribute(const qb_export *x, const qb_node *node) {
  if (node->origin == QB_NONE)
    return NULL;
  const Onnx__NodeProto *proto = x->proto->node[node->origin];
  for (size_t i = 0; i < proto->n_attribute; i++)
    if (proto->attribute[i]->name != NULL && strcmp(proto->attribute[i]->name, "axes") == 0)
      return proto->attribute[i];
  return NULL;
}

static qb_status make_reshape(qb_export *x, const qb_node *node) {
  const char *output = output_name(x, node);
  switch (node->op) {
  case QB_OP_FLATTEN: qb_export_int(x, start(x, node, "Flatten", 1), "axis", 1); return QB_OK;
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT: (void)start(x, node, "Identity", 1); return QB_OK;
  case QB_OP_SQUEEZE:
  case QB_OP_UNSQUEEZE: {
    const Onnx__AttributeProto *axes = axes_attribute(x, node);
    if (axes == NULL)
      break;
    Onnx__NodeProto *made = start(x, node, qb_op_name(node->op), 1);
    if (x->opset < 13)
      qb_export_ints(x, made, "axes", axes->ints, axes->n_ints);
    else
      qb_export_input(x, made, qb_export_integers(x, output, "axes", axes->ints, axes->n_ints));
    return QB_OK;
  }
  default: break;
  }
  reshape(x, node->name, input_name(x, node, 0), output, output_shape(x, node));
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------ quantized activations */

/* The integer type with exactly that range. */
static qb_dtype range_type(float lo, float hi) {
  static const qb_dtype types[] = {QB_DTYPE_U8, QB_DTYPE_I8, QB_DTYPE_U16, QB_DTYPE_I16,
                                   QB_DTYPE_U4, QB_DTYPE_I4, QB_DTYPE_U2,  QB_DTYPE_I2};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    float type_lo, type_hi;
    if (qb_dtype_range(types[i], &type_lo, &type_hi) && type_lo == lo && type_hi == hi)
      return types[i];
  }
  return QB_DTYPE_NONE;
}

/* The zero point decides the type, so it is written even when zero, unless the type is the default one, uint8. */
static qb_status make_zero_point(qb_export *x, const qb_node *node, qb_dtype type, const char **name) {
  const qb_value *zero = node->input_count > 2 && node->inputs[2] != QB_NONE ? input_value(x, node, 2) : NULL;
  const qb_shape *shape = &input_value(x, node, 1)->shape;
  size_t count = qb_shape_elements(shape);
  *name = NULL;
  if (zero == NULL && type == QB_DTYPE_U8)
    return QB_OK;
  if (qb_dtype_bits(type) < 8)
    return qb_export_fail(x, node, "activations of less than 8 bits are not written");
  if (zero != NULL && !zero->is_constant)
    return qb_export_fail(x, node, "its zero point is not a constant");
  size_t width = (size_t)qb_dtype_bits(type) / 8;
  unsigned char *bytes = qb_export_alloc(x, count, width);
  for (size_t i = 0; bytes != NULL && zero != NULL && i < count; i++) {
    int32_t code = (int32_t)qb_view_f32(&zero->constant)[qb_shape_elements(&zero->shape) == 1 ? 0 : i];
    memcpy(bytes + i * width, &code, width);
  }
  *name = qb_export_tensor(x, qb_export_name(x, output_name(x, node), "zero_point"), type, shape, bytes);
  return QB_OK;
}

static qb_status make_quantize_linear(qb_export *x, const qb_node *node) {
  qb_dtype type = range_type(node->attributes.quantize.lo, node->attributes.quantize.hi);
  const char *zero;
  if (node->attributes.quantize.rounding != QB_ROUND_EVEN || node->attributes.quantize.factor != 0)
    return qb_export_fail(x, node,
                          "it rounds in another way than QuantizeLinear, the only form it could be written in");
  if (type == QB_DTYPE_NONE)
    return qb_export_fail(x, node, "no integer type has the range %g to %g", (double)node->attributes.quantize.lo,
                          (double)node->attributes.quantize.hi);
  if (x->opset < 10 || (x->opset < 21 && qb_dtype_bits(type) == 16))
    return qb_export_fail(x, node, "type %s needs a newer opset", qb_dtype_name(type));
  QB_TRY(make_zero_point(x, node, type, &zero));
  Onnx__NodeProto *made = start(x, node, qb_op_name(node->op), 2);
  if (zero != NULL)
    qb_export_input(x, made, zero);
  if (qb_shape_elements(&input_value(x, node, 1)->shape) != 1)
    qb_export_int(x, made, "axis", node->attributes.quantize.axis);
  return QB_OK;
}

#define make_relu make_same
#define make_prelu make_same
#define make_sigmoid make_same
#define make_tanh make_same
#define make_add make_same
#define make_mul make_same
#define make_dequantize_linear make_quantize_linear

static const make_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = make_##FAMILY,
#include "graph/op_list.h"
};

qb_status qb_export_make_node(qb_export *x, const qb_node *node) { return rules[node->op](x, node); }

/* -------------------------------------------------------------------------------------------- operator versions */

static bool has_attribute(const Onnx__NodeProto *node, const char *name) {
  for (size_t i = 0; i < node->n_attribute; i++)
    if (node->attribute[i]->name != NULL && strcmp(node->attribute[i]->name, name) == 0)
      return true;
  return false;
}

bool qb_export_same_version(const Onnx__NodeProto *node, int64_t from, int64_t to) {
  /* operators whose attributes became inputs or whose meaning changed, and when; others only gained types */
  static const struct {
    const char *op;
    int64_t since;
  } breaks[] = {{"Clip", 11},    {"Dropout", 12},    {"Pad", 11},      {"ReduceMean", 18},
                {"Slice", 10},   {"Softmax", 13},    {"Squeeze", 13},  {"Unsqueeze", 13},
                {"Upsample", 9}, {"LogSoftmax", 13}, {"ReduceSum", 13}};
  const char *op = node->op_type == NULL ? "" : node->op_type;
  for (size_t i = 0; i < sizeof breaks / sizeof *breaks; i++)
    if (strcmp(op, breaks[i].op) == 0 && from < breaks[i].since && to >= breaks[i].since)
      return false;
  if (from != to && strcmp(op, "BatchNormalization") == 0)
    return !has_attribute(node, "spatial") && node->n_output == 1;
  if (from != to && strcmp(op, "ConvTranspose") == 0)
    return !has_attribute(node, "output_shape") && !has_attribute(node, "auto_pad");
  return true;
}
