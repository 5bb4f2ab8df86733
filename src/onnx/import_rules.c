/* One rule per ONNX operator: normal attributes, canonical weights, nodes of the graph. The table at the end lists
 * the attributes that each rule understands; a node with any other one is refused, since ignoring it could change
 * what the network computes. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "onnx/import.h"

qb_status qb_import_emit_last(qb_import *in, qb_op op, const qb_value_id *inputs, int32_t count,
                              const qb_attributes *attributes, const qb_shape *shape) {
  qb_value_id output;
  return qb_import_emit(in, op, NULL, inputs, count, attributes, shape, &output);
}

qb_status qb_import_emit_unary(qb_import *in, qb_op op, const qb_attributes *attributes, const qb_shape *shape) {
  qb_value_id x;
  QB_TRY(qb_import_activation(in, 0, &x));
  return qb_import_emit_last(in, op, &x, 1, attributes, shape);
}

/* The constant in a slot as graph value; QB_NONE when the slot is empty. */
static qb_status weight(qb_import *in, size_t slot, const char *what, qb_form form, int64_t length, qb_value_id *id) {
  qb_constant *constant;
  *id = QB_NONE;
  if (!qb_import_has(in, slot))
    return QB_OK;
  QB_TRY(qb_import_need_constant(in, slot, what, &constant));
  return qb_import_value(in, constant, form, length, id);
}

/* ---------------------------------------------------------------------------------------------------- convolutions */

static qb_status rule_conv(qb_import *in) {
  qb_value_id inputs[3];
  qb_attributes attributes = {0};
  QB_TRY(qb_import_activation(in, 0, &inputs[0]));
  QB_TRY(weight(in, 1, "its weight", QB_FORM_PLAIN, 0, &inputs[1]));
  QB_TRY(weight(in, 2, "its bias", QB_FORM_PLAIN, 0, &inputs[2]));
  if (inputs[1] == QB_NONE)
    return qb_import_fail(in, QB_ERROR_FORMAT, "its weight is missing");
  QB_TRY(qb_import_window(in, qb_import_shape(in, inputs[0]), qb_import_shape(in, inputs[1]), &attributes.conv.window));
  int64_t group = qb_import_int(in, "group", 1);
  if (group < 1 || group > INT32_MAX)
    return qb_import_fail(in, QB_ERROR_FORMAT, "'group' is out of range");
  attributes.conv.group = (int32_t)group;
  return qb_import_emit_last(in, QB_OP_CONV, inputs, 3, &attributes, NULL);
}

/* output_padding, or an output_shape given directly, decide the pads and the result's size. */
static qb_status transpose_sizes(qb_import *in, const qb_shape *x, qb_window *window, qb_shape *output) {
  int64_t extra[2] = {0, 0}, wanted[2];
  int extra_count = qb_import_ints(in, "output_padding", extra, 2),
      given = qb_import_ints(in, "output_shape", wanted, 2);
  bool upper = qb_import_string_is(in, "auto_pad", "SAME_UPPER", "");
  bool same = upper || qb_import_string_is(in, "auto_pad", "SAME_LOWER", "");
  if ((extra_count != -1 && extra_count != 2) || (given != -1 && given != 2))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "'output_padding' or 'output_shape' does not have two entries");
  for (int axis = 0; axis < 2; axis++) {
    int64_t stride = window->stride[axis], limit = stride > window->dilation[axis] ? stride : window->dilation[axis];
    if (extra[axis] < 0 || extra[axis] >= limit || (given == 2 && (wanted[axis] < 1 || wanted[axis] > INT32_MAX)))
      return qb_import_fail(in, QB_ERROR_FORMAT, "'output_padding' or 'output_shape' is out of range");
    int64_t full = stride * (x->dims[2 + axis] - 1) + extra[axis] +
                   (int64_t)window->dilation[axis] * (window->kernel[axis] - 1) + 1;
    if (same || given == 2) {
      int64_t total = full - (given == 2 ? wanted[axis] : x->dims[2 + axis] * stride);
      if (total < 0 || total > INT32_MAX || (total % 2 != 0 && in->opset < 11))
        return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                              "'auto_pad' or 'output_shape' needs negative pads, or uneven ones before opset 11, which "
                              "runtimes treat differently; export it with explicit pads");
      int32_t small = (int32_t)(total / 2), large = (int32_t)(total - total / 2);
      window->pad_begin[axis] = upper ? small : large;
      window->pad_end[axis] = upper ? large : small;
    }
    output->dims[2 + axis] = full - window->pad_begin[axis] - window->pad_end[axis];
  }
  return QB_OK;
}

static qb_status rule_conv_transpose(qb_import *in) {
  qb_value_id inputs[3];
  qb_attributes attributes = {0};
  QB_TRY(qb_import_activation(in, 0, &inputs[0]));
  QB_TRY(weight(in, 1, "its weight", QB_FORM_PLAIN, 0, &inputs[1]));
  QB_TRY(weight(in, 2, "its bias", QB_FORM_PLAIN, 0, &inputs[2]));
  if (inputs[1] == QB_NONE)
    return qb_import_fail(in, QB_ERROR_FORMAT, "its weight is missing");
  const qb_shape *x = qb_import_shape(in, inputs[0]), *w = qb_import_shape(in, inputs[1]);
  QB_TRY(qb_import_window(in, x, w, &attributes.conv.window));
  int64_t group = qb_import_int(in, "group", 1);
  if (group < 1 || group > INT32_MAX)
    return qb_import_fail(in, QB_ERROR_FORMAT, "'group' is out of range");
  attributes.conv.group = (int32_t)group;
  qb_shape output = QB_SHAPE(1, 1, 0, 0);
  QB_TRY(transpose_sizes(in, x, &attributes.conv.window, &output));
  return qb_import_emit_last(in, QB_OP_CONV_TRANSPOSE, inputs, 3, &attributes, &output);
}

/* -------------------------------------------------------------------------------------------------------- matrices */

/* A new graph constant made from the current node; `part` names it after the node's output. */
static qb_status made_constant(qb_import *in, const char *part, const qb_shape *shape, qb_value_id *id, float **data) {
  const char *name = qb_arena_format(&in->graph->arena, "%s/%s", in->node->output[0], part);
  if (name == NULL)
    return qb_fail_memory(in->error, part, 0);
  return qb_graph_new_constant(in->graph, name, shape, id, data, in->error);
}

/* y + beta C. The product must be exact: anything else would change the network. */
static qb_status add_scaled(qb_import *in, qb_value_id y, qb_constant *c, float beta) {
  qb_value_id inputs[2] = {y, QB_NONE};
  int64_t out = qb_import_shape(in, y)->dims[1];
  QB_TRY(qb_import_value(in, c, QB_FORM_VECTOR, out, &inputs[1]));
  if (beta != 1.0f) {
    float *scaled;
    const qb_value_id plain = inputs[1];
    QB_TRY(made_constant(in, "beta", &QB_SHAPE(out), &inputs[1], &scaled));
    const float *values = qb_view_f32(&in->graph->values[plain].constant);
    for (int64_t i = 0; i < out; i++) {
      scaled[i] = beta * values[i];
      if ((double)scaled[i] != (double)beta * (double)values[i])
        return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                              "beta = %g times its bias is not exact in float32; export it "
                              "with beta = 1",
                              (double)beta);
    }
  }
  return qb_import_emit_last(in, QB_OP_ADD, inputs, 2, NULL, NULL);
}

/* alpha x W + beta C with alpha or beta other than one: Gemm, Mul, Add. */
static qb_status lower_gemm(qb_import *in, qb_value_id inputs[2], qb_constant *c, float alpha, float beta) {
  bool scaled = alpha != 1.0f, shifted = c != NULL && beta != 0.0f;
  qb_value_id y;
  QB_TRY(qb_import_emit(in, QB_OP_GEMM, scaled || shifted ? "gemm" : NULL, inputs, 2, NULL, NULL, &y));
  if (scaled) {
    qb_value_id product[2] = {y, QB_NONE};
    float *factor;
    QB_TRY(made_constant(in, "alpha", &(qb_shape){0}, &product[1], &factor));
    *factor = alpha;
    QB_TRY(qb_import_emit(in, QB_OP_MUL, shifted ? "scaled" : NULL, product, 2, NULL, NULL, &y));
  }
  return shifted ? add_scaled(in, y, c, beta) : QB_OK;
}

static qb_status rule_gemm(qb_import *in) {
  qb_value_id inputs[3];
  qb_constant *c = NULL;
  QB_TRY(qb_import_activation(in, 0, &inputs[0]));
  bool transposed = qb_import_int(in, "transB", 0) == 0;
  float alpha = qb_import_float(in, "alpha", 1), beta = qb_import_float(in, "beta", 1);
  if (qb_import_int(in, "transA", 0) != 0 || qb_import_shape(in, inputs[0])->rank != 2)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "only a (batch, features) input is supported; remove transA, or "
                          "flatten before it");
  if (!isfinite(alpha) || !isfinite(beta))
    return qb_import_fail(in, QB_ERROR_NUMERIC, "alpha or beta is not finite");
  QB_TRY(weight(in, 1, "its weight", transposed ? QB_FORM_TRANSPOSED : QB_FORM_PLAIN, 0, &inputs[1]));
  if (inputs[1] == QB_NONE)
    return qb_import_fail(in, QB_ERROR_FORMAT, "its weight is missing");
  if (qb_import_has(in, 2))
    QB_TRY(qb_import_need_constant(in, 2, "its bias", &c));
  const qb_shape *w = qb_import_shape(in, inputs[1]), *bias = c == NULL ? NULL : &c->view.shape;
  if (w->rank != 2)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its weight is not a matrix");
  if (bias != NULL && bias->rank > 0 && bias->dims[bias->rank - 1] != (int64_t)qb_shape_elements(bias))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its bias is not one row");
  if (alpha != 1.0f || (c != NULL && beta != 1.0f))
    return lower_gemm(in, inputs, c, alpha, beta);
  inputs[2] = QB_NONE;
  if (c != NULL)
    QB_TRY(qb_import_value(in, c, QB_FORM_VECTOR, w->dims[0], &inputs[2]));
  return qb_import_emit_last(in, QB_OP_GEMM, inputs, 3, NULL, NULL);
}

static qb_status rule_matmul(qb_import *in) {
  qb_value_id inputs[2];
  qb_constant *w;
  QB_TRY(qb_import_activation(in, 0, &inputs[0]));
  QB_TRY(qb_import_need_constant(in, 1, "its right operand, the weight,", &w));
  if (w->view.shape.rank != 2)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its weight has rank %d; only matrices are supported",
                          w->view.shape.rank);
  QB_TRY(qb_import_value(in, w, QB_FORM_TRANSPOSED, 0, &inputs[1]));
  return qb_import_emit_last(in, QB_OP_MATMUL, inputs, 2, NULL, NULL);
}

/* ------------------------------------------------------------------------------------------------- per channel maps */

static qb_status rule_batch_norm(qb_import *in) {
  static const char *const names[] = {"", "its scale", "its bias", "its mean", "its variance"};
  qb_value_id inputs[5];
  qb_attributes attributes = {.batch_norm.epsilon = qb_import_float(in, "epsilon", 1e-5f)};
  QB_TRY(qb_import_activation(in, 0, &inputs[0]));
  if (qb_import_int(in, "training_mode", 0) != 0 || qb_import_int(in, "spatial", 1) != 1)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "training mode and spatial = 0 are not supported; export the model "
                          "in evaluation mode");
  for (size_t slot = 1; slot < 5; slot++) {
    QB_TRY(weight(in, slot, names[slot], QB_FORM_PLAIN, 0, &inputs[slot]));
    if (inputs[slot] == QB_NONE)
      return qb_import_fail(in, QB_ERROR_FORMAT, "%s is missing", names[slot]);
  }
  const qb_view *variance = &in->graph->values[inputs[4]].constant;
  for (size_t i = 0; i < qb_view_elements(variance); i++)
    if (!(qb_view_f32(variance)[i] + attributes.batch_norm.epsilon > 0))
      return qb_import_fail(in, QB_ERROR_NUMERIC, "variance %zu is %g, not above -epsilon", i,
                            (double)qb_view_f32(variance)[i]);
  return qb_import_emit_last(in, QB_OP_BATCH_NORM, inputs, 5, &attributes, NULL);
}

/* A constant operand must not add axes in front, nor have a batch of its own. */
static qb_status check_operand(qb_import *in, const qb_shape *constant, const qb_shape *x) {
  if (constant->rank > x->rank || (constant->rank == x->rank && constant->rank > 0 && constant->dims[0] != 1))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "its constant operand spans the batch axis; give it the shape of "
                          "one item");
  return QB_OK;
}

static qb_status rule_prelu(qb_import *in) {
  qb_value_id inputs[2];
  QB_TRY(qb_import_activation(in, 0, &inputs[0]));
  QB_TRY(weight(in, 1, "its slope", QB_FORM_PLAIN, 0, &inputs[1]));
  if (inputs[1] == QB_NONE)
    return qb_import_fail(in, QB_ERROR_FORMAT, "its slope is missing");
  QB_TRY(check_operand(in, qb_import_shape(in, inputs[1]), qb_import_shape(in, inputs[0])));
  return qb_import_emit_last(in, QB_OP_PRELU, inputs, 2, NULL, NULL);
}

/* ------------------------------------------------------------------------------------------------------ arithmetic */

static qb_status operand(qb_import *in, size_t slot, qb_value_id *id, bool *is_constant) {
  qb_constant *constant;
  QB_TRY(qb_import_constant(in, slot, &constant));
  *is_constant = constant != NULL;
  return constant == NULL ? qb_import_activation(in, slot, id) : qb_import_value(in, constant, QB_FORM_PLAIN, 0, id);
}

static qb_status rule_binary(qb_import *in) {
  const char *name = in->node->op_type;
  qb_op op = qb_op_find(name, strlen(name));
  qb_value_id inputs[2];
  bool constant[2], done = false;
  QB_TRY(op == QB_OP_ADD ? qb_import_add_bias(in, &done) : qb_import_scale_codes(in, &done));
  if (done)
    return QB_OK;
  for (size_t slot = 0; slot < 2; slot++)
    QB_TRY(operand(in, slot, &inputs[slot], &constant[slot]));
  const qb_shape *a = qb_import_shape(in, inputs[0]), *b = qb_import_shape(in, inputs[1]);
  if (constant[0] || constant[1])
    QB_TRY(check_operand(in, constant[0] ? a : b, constant[0] ? b : a));
  else if (a->rank != b->rank)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "its operands have ranks %d and %d, so that their batch axes do not "
                          "meet",
                          a->rank, b->rank);
  if (op == QB_OP_DIV && constant[1]) {
    const qb_view *divisor = &in->graph->values[inputs[1]].constant;
    for (size_t i = 0; i < qb_view_elements(divisor); i++)
      if (qb_view_f32(divisor)[i] == 0)
        return qb_import_fail(in, QB_ERROR_NUMERIC, "it divides by zero");
  }
  return qb_import_emit_last(in, op, inputs, 2, NULL, NULL);
}

static qb_status rule_sum(qb_import *in) {
  qb_value_id sum, inputs[2];
  QB_TRY(qb_import_activation(in, 0, &sum));
  if (in->node->n_input == 1)
    return qb_import_emit_last(in, QB_OP_IDENTITY, &sum, 1, NULL, NULL);
  for (size_t slot = 1; slot < in->node->n_input; slot++) {
    inputs[0] = sum;
    QB_TRY(qb_import_activation(in, slot, &inputs[1]));
    if (qb_import_shape(in, inputs[0])->rank != qb_import_shape(in, inputs[1])->rank)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its operands have different ranks");
    QB_TRY(qb_import_emit(in, QB_OP_ADD, slot + 1 < in->node->n_input ? "sum" : NULL, inputs, 2, NULL, NULL, &sum));
  }
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- clipping
 */

/* Integers are the limits of a Clip on codes. */
static qb_status scalar_limit(qb_import *in, size_t slot, const char *attribute, float otherwise, float *limit) {
  qb_constant *constant = NULL;
  *limit = in->opset < 11 ? qb_import_float(in, attribute, otherwise) : otherwise;
  if (in->opset >= 11 && qb_import_has(in, slot)) {
    QB_TRY(qb_import_need_constant(in, slot, "its limit", &constant));
    bool is_integer = qb_dtype_is_integer(constant->view.dtype);
    if (qb_view_elements(&constant->view) != 1 || (!is_integer && !qb_dtype_is_real(constant->view.dtype)))
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its limit is not one number");
    *limit = is_integer ? (float)qb_view_integer(&constant->view, 0) : (float)qb_view_real(&constant->view, 0);
  }
  if (isnan(*limit))
    return qb_import_fail(in, QB_ERROR_NUMERIC, "its limit is NaN");
  return QB_OK;
}

static qb_status rule_clip(qb_import *in) {
  qb_attributes attributes = {0};
  qb_value_id x;
  bool done;
  QB_TRY(scalar_limit(in, 1, "min", -INFINITY, &attributes.clip.lo));
  QB_TRY(scalar_limit(in, 2, "max", INFINITY, &attributes.clip.hi));
  if (attributes.clip.lo > attributes.clip.hi)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its lower limit %g exceeds the upper one, %g",
                          (double)attributes.clip.lo, (double)attributes.clip.hi);
  QB_TRY(qb_import_activation(in, 0, &x));
  QB_TRY(qb_import_clip_codes(in, x, &attributes.clip, &done));
  return done ? QB_OK : qb_import_emit_last(in, QB_OP_CLIP, &x, 1, &attributes, NULL);
}

/* The limits of a Min as scalar or one per channel: (C, 1, 1) and the like. */
static qb_status read_cap(qb_import *in, qb_constant *cap, const qb_shape *x, qb_clip_attributes *clip) {
  const qb_shape *shape = &cap->view.shape;
  size_t count = qb_view_elements(&cap->view);
  qb_view floats;
  QB_TRY(qb_import_floats(in, cap->name, &cap->view, false, &floats));
  QB_TRY(check_operand(in, shape, x));
  QB_TRY(qb_view_check_finite(&floats, cap->name, in->error));
  if (count == 1) {
    clip->hi = qb_view_f32(&floats)[0];
    return QB_OK;
  }
  int32_t channel = 1 - (x->rank - shape->rank); /* the axis of the constant that meets axis 1 */
  if (x->rank < 2 || channel < 0 || channel >= shape->rank || shape->dims[channel] != x->dims[1] ||
      count != (size_t)x->dims[1])
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its constant is neither one number nor one per channel");
  clip->hi_channels = qb_view_f32(&floats);
  return QB_OK;
}

/* min(max(x, lo), cap) in two nodes becomes one Clip: the form in which a cap per channel is written, and the way
 * older exporters spell ReLU6. */
static bool fuse_cap(qb_import *in, qb_value_id x, qb_clip_attributes *clip) {
  qb_node_id producer = in->graph->values[x].producer;
  if (producer == QB_NONE)
    return false;
  qb_node *node = &in->graph->nodes[producer];
  const int32_t symbol = qb_names_find(&in->names, in->graph->values[x].name);
  if (symbol < 0 || in->symbols[symbol].uses != 1)
    return false;
  if (node->op == QB_OP_RELU)
    clip->lo = 0;
  else if (node->op == QB_OP_CLIP && node->attributes.clip.hi_channels == NULL && isinf(node->attributes.clip.hi))
    clip->lo = node->attributes.clip.lo;
  else
    return false;
  size_t channels = (size_t)in->graph->values[x].shape.dims[in->graph->values[x].shape.rank > 1];
  for (size_t c = 0; clip->hi_channels != NULL && c < channels; c++)
    if (clip->hi_channels[c] < clip->lo)
      return false;
  return clip->hi_channels != NULL || clip->hi >= clip->lo;
}

static qb_status replace_by_clip(qb_import *in, qb_value_id x, const qb_clip_attributes *clip) {
  qb_node_id producer = in->graph->values[x].producer, identity;
  qb_value_id output;
  in->graph->nodes[producer].op = QB_OP_CLIP;
  in->graph->nodes[producer].attributes = (qb_attributes){.clip = *clip};
  in->graph->nodes[producer].origin = in->node_index;
  QB_TRY(qb_import_emit(in, QB_OP_IDENTITY, NULL, &x, 1, NULL, NULL, &output));
  identity = in->graph->values[output].producer;
  in->graph->nodes[producer].name = in->graph->nodes[identity].name;
  qb_graph_remove_node(in->graph, identity);
  return QB_OK;
}

static qb_status rule_min_max(qb_import *in) {
  bool is_min = strcmp(in->node->op_type, "Min") == 0;
  qb_constant *constant[2];
  qb_value_id x;
  qb_attributes attributes = {.clip = {.lo = -INFINITY, .hi = INFINITY}};
  if (in->node->n_input != 2)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only two operands, one of them constant, are supported");
  QB_TRY(qb_import_constant(in, 0, &constant[0]));
  QB_TRY(qb_import_constant(in, 1, &constant[1]));
  if ((constant[0] == NULL) == (constant[1] == NULL))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only the minimum or maximum with a constant is supported");
  QB_TRY(qb_import_activation(in, constant[0] == NULL ? 0 : 1, &x));
  QB_TRY(read_cap(in, constant[0] == NULL ? constant[1] : constant[0], qb_import_shape(in, x), &attributes.clip));
  if (!is_min) {
    if (attributes.clip.hi_channels != NULL)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                            "a lower limit per channel is not supported; only Min may have "
                            "one");
    attributes.clip.lo = attributes.clip.hi;
    attributes.clip.hi = INFINITY;
  }
  bool done;
  QB_TRY(qb_import_clip_codes(in, x, &attributes.clip, &done));
  if (done)
    return QB_OK;
  if (is_min && fuse_cap(in, x, &attributes.clip))
    return replace_by_clip(in, x, &attributes.clip);
  return qb_import_emit_last(in, QB_OP_CLIP, &x, 1, &attributes, NULL);
}

/* -------------------------------------------------------------------------------------------------- other functions */

static qb_status rule_plain(qb_import *in) {
  qb_value_id x;
  QB_TRY(qb_import_activation(in, 0, &x));
  const qb_node *codes = qb_import_code_source(in, x);
  if (codes != NULL && strcmp(in->node->op_type, "Relu") == 0 && qb_import_zero_is_zero(in, codes))
    return qb_import_emit_on_codes(in, codes, QB_OP_RELU, x, NULL, NULL);
  if (codes != NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "its input holds integer codes, on which only MaxPool, Relu around the zero point 0, and "
                          "operators that move elements are supported");
  return qb_import_emit_unary(in, qb_op_find(in->node->op_type, strlen(in->node->op_type)), NULL, NULL);
}

static qb_status rule_leaky_relu(qb_import *in) {
  const qb_attributes attributes = {.linear.alpha = qb_import_float(in, "alpha", 0.01f)};
  if (!isfinite(attributes.linear.alpha))
    return qb_import_fail(in, QB_ERROR_NUMERIC, "alpha is not finite");
  return qb_import_emit_unary(in, QB_OP_LEAKY_RELU, &attributes, NULL);
}

static qb_status rule_hard_sigmoid(qb_import *in) {
  const qb_attributes attributes = {
      .linear = {.alpha = qb_import_float(in, "alpha", 0.2f), .beta = qb_import_float(in, "beta", 0.5f)}};
  if (!isfinite(attributes.linear.alpha) || !isfinite(attributes.linear.beta))
    return qb_import_fail(in, QB_ERROR_NUMERIC, "alpha or beta is not finite");
  return qb_import_emit_unary(in, QB_OP_HARD_SIGMOID, &attributes, NULL);
}

/* Before opset 13 the input is a matrix cut at `axis`, so the sum runs over all axes from there. */
static qb_status rule_softmax(qb_import *in) {
  qb_value_id x;
  qb_attributes attributes = {0};
  QB_TRY(qb_import_activation(in, 0, &x));
  int32_t rank = qb_import_shape(in, x)->rank;
  QB_TRY(qb_import_axis(in, qb_import_int(in, "axis", in->opset < 13 ? 1 : -1), rank, &attributes.axes.axis));
  attributes.axes.end_axis = in->opset < 13 ? rank : attributes.axes.axis + 1;
  if (attributes.axes.axis == 0)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it normalises over the batch axis");
  return qb_import_emit_last(in, QB_OP_SOFTMAX, &x, 1, &attributes, NULL);
}

/* --------------------------------------------------------------------------------------------------------- pooling */

/* With ceil_mode a window may stick out, but it must start inside the image or its leading pad. */
static qb_status pooled_shape(qb_import *in, const qb_shape *x, const qb_window *window, qb_shape *output) {
  *output = *x;
  for (int axis = 0; axis < 2; axis++) {
    int64_t extent = (int64_t)window->dilation[axis] * (window->kernel[axis] - 1) + 1, stride = window->stride[axis];
    int64_t room = x->dims[2 + axis] + window->pad_begin[axis] + window->pad_end[axis] - extent;
    if (room < 0)
      return qb_import_fail(in, QB_ERROR_SHAPE, "its window does not fit into the padded input");
    int64_t length = (room + stride - 1) / stride + 1;
    if ((length - 1) * stride >= x->dims[2 + axis] + window->pad_begin[axis])
      length--;
    output->dims[2 + axis] = length;
  }
  return QB_OK;
}

qb_status qb_import_pool(qb_import *in, qb_value_id x, qb_attributes *attributes, qb_shape *output, bool *ceil_mode) {
  *attributes = (qb_attributes){.pool.count_include_pad = qb_import_int(in, "count_include_pad", 0) != 0};
  qb_window *window = &attributes->pool.window;
  QB_TRY(qb_import_window(in, qb_import_shape(in, x), NULL, window));
  if ((window->dilation[0] != 1 || window->dilation[1] != 1) && qb_import_attribute(in, "auto_pad") != NULL &&
      !qb_import_string_is(in, "auto_pad", "NOTSET", ""))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "'auto_pad' with dilations, which runtimes treat differently; export "
                          "it with explicit pads");
  *ceil_mode = qb_import_int(in, "ceil_mode", 0) != 0;
  return *ceil_mode ? pooled_shape(in, qb_import_shape(in, x), window, output) : QB_OK;
}

static qb_status rule_pool(qb_import *in) {
  qb_value_id x;
  qb_shape output;
  qb_attributes attributes;
  bool ceil_mode;
  QB_TRY(qb_import_activation(in, 0, &x));
  QB_TRY(qb_import_pool(in, x, &attributes, &output, &ceil_mode));
  qb_op op = qb_op_find(in->node->op_type, strlen(in->node->op_type));
  const qb_node *codes = op == QB_OP_MAX_POOL ? qb_import_code_source(in, x) : NULL;
  if (codes != NULL)
    return qb_import_emit_on_codes(in, codes, op, x, &attributes, ceil_mode ? &output : NULL);
  return qb_import_emit_last(in, op, &x, 1, &attributes, ceil_mode ? &output : NULL);
}

static qb_status rule_global_average(qb_import *in) {
  qb_value_id x;
  QB_TRY(qb_import_activation(in, 0, &x));
  if (qb_import_shape(in, x)->rank != 4)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only inputs (N, C, H, W) are supported");
  return qb_import_emit_last(in, QB_OP_GLOBAL_AVERAGE_POOL, &x, 1, NULL, NULL);
}

static qb_status rule_reduce_mean(qb_import *in) {
  qb_value_id x;
  int32_t axes[QB_MAX_RANK], count;
  QB_TRY(qb_import_activation(in, 0, &x));
  const qb_shape *shape = qb_import_shape(in, x);
  QB_TRY(qb_import_axes(in, 18, shape->rank, axes, &count));
  if (count <= 0 && qb_import_int(in, "noop_with_empty_axes", 0) != 0)
    return qb_import_emit_last(in, QB_OP_IDENTITY, &x, 1, NULL, NULL);
  if (shape->rank != 4 || count != 2 || axes[0] + axes[1] != 5 || (axes[0] != 2 && axes[1] != 2))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "only the mean over the two spatial axes of (N, C, H, W) is "
                          "supported");
  bool keep = qb_import_int(in, "keepdims", 1) != 0;
  qb_shape output = keep ? QB_SHAPE(1, shape->dims[1], 1, 1) : QB_SHAPE(1, shape->dims[1]);
  return qb_import_emit_last(in, QB_OP_REDUCE_MEAN, &x, 1, NULL, &output);
}

/* ----------------------------------------------------------------------------------------- quantized activations */

/* The range of the codes that reach a DequantizeLinear without zero point: that of the quantizer before it. */
static void inherit_range(const qb_import *in, qb_value_id x, qb_attributes *attributes) {
  for (qb_node_id producer = in->graph->values[x].producer; producer != QB_NONE;) {
    const qb_node *node = &in->graph->nodes[producer];
    if (node->op == QB_OP_QUANTIZE_LINEAR) {
      attributes->quantize.lo = node->attributes.quantize.lo;
      attributes->quantize.hi = node->attributes.quantize.hi;
      return;
    }
    producer = in->graph->values[node->inputs[0]].producer;
  }
}

static qb_status rule_quantize(qb_import *in) {
  bool quantizes = strcmp(in->node->op_type, "QuantizeLinear") == 0;
  qb_value_id inputs[3] = {QB_NONE, QB_NONE, QB_NONE};
  qb_constant *scale, *zero;
  qb_attributes attributes = {.quantize = {.lo = 0, .hi = 255}};
  QB_TRY(qb_import_activation(in, 0, &inputs[0]));
  QB_TRY(qb_import_need_constant(in, 1, "its scale", &scale));
  QB_TRY(qb_import_constant(in, 2, &zero));
  if (qb_import_has(in, 2) && zero == NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its zero point is computed while the network runs");
  if (qb_import_int(in, "block_size", 0) != 0)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "blocked quantization of activations is not supported");
  QB_TRY(qb_import_value(in, scale, QB_FORM_PLAIN, 0, &inputs[1]));
  for (size_t i = 0; i < qb_view_elements(&scale->view); i++)
    if (!(qb_view_f32(&in->graph->values[inputs[1]].constant)[i] > 0))
      return qb_import_fail(in, QB_ERROR_NUMERIC, "scale %zu is not positive", i);
  qb_dtype type = zero != NULL ? zero->view.dtype : (qb_dtype)qb_import_int(in, "output_dtype", 0);
  if (zero == NULL && (!quantizes || type == QB_DTYPE_NONE))
    inherit_range(in, inputs[0], &attributes);
  else if (!qb_dtype_range(type, &attributes.quantize.lo, &attributes.quantize.hi))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "quantized type %s is not supported", qb_dtype_name(type));
  if (zero != NULL)
    QB_TRY(qb_import_value(in, zero, QB_FORM_CODES, 0, &inputs[2]));
  if (qb_view_elements(&scale->view) != 1)
    QB_TRY(qb_import_axis(in, qb_import_int(in, "axis", 1), qb_import_shape(in, inputs[0])->rank,
                          &attributes.quantize.axis));
  return qb_import_emit_last(in, quantizes ? QB_OP_QUANTIZE_LINEAR : QB_OP_DEQUANTIZE_LINEAR, inputs, 3, &attributes,
                             NULL);
}

/* ------------------------------------------------------------------------------------------------------------ table */

typedef struct import_rule {
  const char *op, *attributes; /* attributes, separated and enclosed by blanks */
  int64_t since;               /* first opset that has the operator */
  qb_status (*rule)(qb_import *in);
} import_rule;

static const import_rule rules[] = {
    {"Add", " ", 7, rule_binary},
    {"AveragePool", " auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides ", 1, rule_pool},
    {"BatchNormalization", " epsilon momentum spatial training_mode ", 1, rule_batch_norm},
    {"Cast", " to saturate round_mode ", 1, qb_rule_cast},
    {"Clip", " min max ", 1, rule_clip},
    {"Concat", " axis ", 1, qb_rule_concat},
    {"Conv", " auto_pad dilations group kernel_shape pads strides ", 1, rule_conv},
    {"ConvInteger", " auto_pad dilations group kernel_shape pads strides ", 10, qb_rule_conv_integer},
    {"ConvTranspose", " auto_pad dilations group kernel_shape output_padding output_shape pads strides ", 1,
     rule_conv_transpose},
    {"DequantizeLinear", " axis block_size output_dtype ", 10, rule_quantize},
    {"Div", " ", 7, rule_binary},
    {"Dropout", " ratio seed ", 7, qb_rule_dropout},
    {"Flatten", " axis ", 1, qb_rule_flatten},
    {"Floor", " ", 1, qb_rule_round},
    {"Gemm", " alpha beta transA transB ", 7, rule_gemm},
    {"GlobalAveragePool", " ", 1, rule_global_average},
    {"HardSigmoid", " alpha beta ", 1, rule_hard_sigmoid},
    {"HardSwish", " ", 14, rule_plain},
    {"Identity", " ", 1, qb_rule_identity},
    {"LeakyRelu", " alpha ", 1, rule_leaky_relu},
    {"MatMul", " ", 1, rule_matmul},
    {"MatMulInteger", " ", 10, qb_rule_matmul_integer},
    {"Max", " ", 6, rule_min_max},
    {"MaxPool", " auto_pad ceil_mode dilations kernel_shape pads storage_order strides ", 1, rule_pool},
    {"Min", " ", 6, rule_min_max},
    {"Mul", " ", 7, rule_binary},
    {"PRelu", " ", 7, rule_prelu},
    {"Pad", " mode pads value ", 2, qb_rule_pad},
    {"QuantizeLinear", " axis block_size output_dtype precision saturate ", 10, rule_quantize},
    {"ReduceMean", " axes keepdims noop_with_empty_axes ", 1, rule_reduce_mean},
    {"Relu", " ", 6, rule_plain},
    {"Reshape", " allowzero ", 5, qb_rule_reshape},
    {"Round", " ", 11, qb_rule_round},
    {"Sigmoid", " ", 6, rule_plain},
    {"Softmax", " axis ", 1, rule_softmax},
    {"Squeeze", " axes ", 1, qb_rule_squeeze},
    {"Sub", " ", 7, rule_binary},
    {"Sum", " ", 6, rule_sum},
    {"Tanh", " ", 6, rule_plain},
    {"Transpose", " perm ", 1, qb_rule_transpose},
    {"Unsqueeze", " axes ", 1, qb_rule_unsqueeze},
    {"QLinearConv", " auto_pad dilations group kernel_shape pads strides ", 10, qb_rule_qlinear_conv},
    {"QLinearMatMul", " ", 10, qb_rule_qlinear_matmul},
};

/* Those of the operator domain com.microsoft. */
static const import_rule contrib_rules[] = {
    {"DequantizeLinear", " axis ", 1, rule_quantize},
    {"QGemm", " alpha transA transB ", 1, qb_rule_qgemm},
    {"QLinearAdd", " ", 1, qb_rule_qlinear_binary},
    {"QLinearAveragePool", " auto_pad ceil_mode channels_last count_include_pad dilations kernel_shape pads strides ",
     1, qb_rule_qlinear_pool},
    {"QLinearConcat", " axis ", 1, qb_rule_qlinear_concat},
    {"QLinearGlobalAveragePool", " channels_last ", 1, qb_rule_qlinear_pool},
    {"QLinearLeakyRelu", " alpha ", 1, qb_rule_qlinear_function},
    {"QLinearMul", " ", 1, qb_rule_qlinear_binary},
    {"QLinearSigmoid", " ", 1, qb_rule_qlinear_function},
    {"QuantizeLinear", " axis ", 1, rule_quantize},
};

static bool lists_word(const char *list, const char *word) {
  size_t length = strlen(word);
  for (const char *at = strstr(list, word); length > 0 && at != NULL; at = strstr(at + 1, word))
    if (at > list && at[-1] == ' ' && at[length] == ' ')
      return true;
  return false;
}

static qb_status check_attributes(qb_import *in, const char *known) {
  for (size_t i = 0; i < in->node->n_attribute; i++) {
    const Onnx__AttributeProto *attribute = in->node->attribute[i];
    const char *name = attribute->name == NULL ? "" : attribute->name;
    if (!lists_word(known, name) || attribute->ref_attr_name != NULL)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its attribute '%s' is not known", name);
  }
  return QB_OK;
}

bool qb_import_is_contrib(const qb_import *in) {
  return in->node->domain != NULL && strcmp(in->node->domain, "com.microsoft") == 0;
}

static const import_rule *find_rule(const qb_import *in) {
  bool contrib = qb_import_is_contrib(in);
  const import_rule *table = contrib ? contrib_rules : rules;
  size_t count = contrib ? sizeof contrib_rules / sizeof *contrib_rules : sizeof rules / sizeof *rules;
  for (size_t i = 0; in->node->op_type != NULL && i < count; i++)
    if (strcmp(table[i].op, in->node->op_type) == 0)
      return &table[i];
  return NULL;
}

/* Operators that quantize each input by its own range. */
static bool is_dynamic(const char *op) {
  static const char *const names[] = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM",
                                      "MatMulIntegerToFloat"};
  for (size_t i = 0; op != NULL && i < sizeof names / sizeof *names; i++)
    if (strcmp(op, names[i]) == 0)
      return true;
  return false;
}

static qb_status unknown_operator(qb_import *in) {
  if (is_dynamic(in->node->op_type))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "dynamic quantization, whose scales change with every input, is not supported; quantize the "
                          "model statically (with calibration)");
  if (qb_import_is_contrib(in))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "it belongs to the operator domain 'com.microsoft', of which only QGemm, the QLinear "
                          "operators, QuantizeLinear and DequantizeLinear are supported: export without fusion or "
                          "custom operators");
  return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                        "this operator is not supported; see the list of operators in the manual, or rewrite the model "
                        "with supported ones");
}

qb_status qb_import_check_known(qb_import *in) {
  bool folds = in->node->op_type != NULL && !qb_import_is_contrib(in) && qb_import_can_fold(in->node->op_type);
  return find_rule(in) != NULL || folds ? QB_OK : unknown_operator(in);
}

qb_status qb_import_rule(qb_import *in) {
  const import_rule *rule = find_rule(in);
  if (rule == NULL)
    return unknown_operator(in);
  if (in->opset < rule->since)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "this operator exists from opset %lld on", (long long)rule->since);
  QB_TRY(check_attributes(in, rule->attributes));
  return rule->rule(in);
}
