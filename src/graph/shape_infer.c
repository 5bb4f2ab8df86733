/* One shape rule per operator family. */
#include "graph/shape_infer.h"

#include "base/error.h"

typedef struct rule_context {
  const qb_graph *graph;
  const qb_node *node;
  const qb_shape *given;
  qb_error *error;
} rule_context;

typedef qb_status (*shape_rule)(const rule_context *context, qb_shape *output);

static const qb_shape *input_shape(const rule_context *context, int32_t slot) {
  return &context->graph->values[context->node->inputs[slot]].shape;
}

static bool has_input(const rule_context *context, int32_t slot) {
  return slot < context->node->input_count && context->node->inputs[slot] != QB_NONE;
}

static qb_status shape_error(const rule_context *context, const char *problem) {
  char text[QB_SHAPE_TEXT] = "nothing";
  if (has_input(context, 0))
    qb_shape_print(input_shape(context, 0), text);
  return qb_fail(context->error, QB_ERROR_SHAPE, "%s: node '%s' (%s): %s; its input has shape %s", context->graph->name,
                 context->node->name, qb_op_name(context->node->op), problem, text);
}

bool qb_shape_broadcast(const qb_shape *a, const qb_shape *b, qb_shape *result) {
  const qb_shape *longer = a->rank >= b->rank ? a : b, *shorter = longer == a ? b : a;
  int32_t offset = longer->rank - shorter->rank;
  *result = *longer;
  for (int32_t i = 0; i < shorter->rank; i++) {
    int64_t d = longer->dims[offset + i], s = shorter->dims[i];
    if (d != s && d != 1 && s != 1)
      return false;
    result->dims[offset + i] = d == 1 ? s : d;
  }
  return true;
}

bool qb_shape_is_activation(const qb_shape *shape) {
  size_t count;
  if (!qb_shape_count(shape, &count) || shape->rank < 1 || shape->dims[0] != 1)
    return false;
  return count > 0 && count <= QB_MAX_ELEMENTS;
}

/* Limits far above any real network keep the arithmetic on lengths (below 2^36 elements) inside 64 bits. */
static bool valid_window(const qb_window *window) {
  const int32_t limit = 1 << 20;
  for (int axis = 0; axis < 2; axis++)
    if (window->kernel[axis] < 1 || window->stride[axis] < 1 || window->dilation[axis] < 1 ||
        window->pad_begin[axis] < 0 || window->pad_end[axis] < 0 || window->kernel[axis] > limit ||
        window->stride[axis] > limit || window->dilation[axis] > limit || window->pad_begin[axis] > limit ||
        window->pad_end[axis] > limit)
      return false;
  return true;
}

bool qb_window_output(const qb_window *window, int axis, int64_t input_length, int64_t *output_length) {
  int64_t extent = (int64_t)window->dilation[axis] * (window->kernel[axis] - 1) + 1;
  int64_t room = input_length + window->pad_begin[axis] + window->pad_end[axis] - extent;
  *output_length = room < 0 ? 0 : room / window->stride[axis] + 1;
  return *output_length > 0;
}

static qb_status infer_window(const rule_context *context, const qb_window *window, int64_t channels,
                              qb_shape *output) {
  const qb_shape *x = input_shape(context, 0);
  *output = QB_SHAPE(x->dims[0], channels, 0, 0);
  for (int axis = 0; axis < 2; axis++)
    if (!qb_window_output(window, axis, x->dims[2 + axis], &output->dims[2 + axis]))
      return shape_error(context, "the window does not fit into the padded input");
  return QB_OK;
}

static qb_status infer_conv(const rule_context *context, qb_shape *output) {
  const qb_conv_attributes *conv = &context->node->attributes.conv;
  const qb_shape *x = input_shape(context, 0), *w = input_shape(context, 1);
  if (x->rank != 4 || w->rank != 4)
    return shape_error(context, "only convolutions over two spatial axes are supported");
  if (!valid_window(&conv->window) || w->dims[2] != conv->window.kernel[0] || w->dims[3] != conv->window.kernel[1])
    return shape_error(context, "kernel, strides, dilations or pads are out of range");
  if (conv->group < 1 || x->dims[1] != w->dims[1] * conv->group || w->dims[0] % conv->group != 0)
    return shape_error(context, "channels do not fit the weight and its groups");
  if (has_input(context, 2) && !qb_shape_equal(input_shape(context, 2), &QB_SHAPE(w->dims[0])))
    return shape_error(context, "the bias does not have one entry per output channel");
  return infer_window(context, &conv->window, w->dims[0], output);
}

static qb_status infer_conv_transpose(const rule_context *context, qb_shape *output) {
  const qb_conv_attributes *conv = &context->node->attributes.conv;
  const qb_shape *x = input_shape(context, 0), *w = input_shape(context, 1);
  if (x->rank != 4 || w->rank != 4)
    return shape_error(context, "only transposed convolutions over two spatial axes are supported");
  if (!valid_window(&conv->window) || w->dims[2] != conv->window.kernel[0] || w->dims[3] != conv->window.kernel[1])
    return shape_error(context, "kernel, strides, dilations or pads are out of range");
  if (conv->group < 1 || x->dims[1] != w->dims[0] || w->dims[0] % conv->group != 0)
    return shape_error(context, "channels do not fit the weight and its groups");
  int64_t channels = w->dims[1] * conv->group;
  if (has_input(context, 2) && !qb_shape_equal(input_shape(context, 2), &QB_SHAPE(channels)))
    return shape_error(context, "the bias does not have one entry per output channel");

  *output = QB_SHAPE(x->dims[0], channels, 0, 0);
  for (int axis = 0; axis < 2; axis++) {
    const qb_window *window = &conv->window;
    int64_t full = (x->dims[2 + axis] - 1) * window->stride[axis] +
                   (int64_t)window->dilation[axis] * (window->kernel[axis] - 1) + 1;
    int64_t length = full - window->pad_begin[axis] - window->pad_end[axis];
    /* output_padding adds rows past the end of the full result: bias only */
    if (context->given != NULL && context->given->rank == 4)
      length = context->given->dims[2 + axis];
    if (length < 1 || length >= full - window->pad_begin[axis] - window->pad_end[axis] + window->stride[axis] +
                                    window->dilation[axis])
      return shape_error(context, "the output would be empty or larger than output_padding allows");
    output->dims[2 + axis] = length;
  }
  return QB_OK;
}

static qb_status infer_gemm(const rule_context *context, qb_shape *output) {
  const qb_shape *x = input_shape(context, 0), *w = input_shape(context, 1);
  if (x->rank < 2 || w->rank != 2 || x->dims[x->rank - 1] != w->dims[1])
    return shape_error(context, "the last axis does not fit the weight (OUT, IN)");
  if (has_input(context, 2) && !qb_shape_equal(input_shape(context, 2), &QB_SHAPE(w->dims[0])))
    return shape_error(context, "the bias does not have one entry per output unit");
  *output = *x;
  output->dims[x->rank - 1] = w->dims[0];
  return QB_OK;
}

static qb_status infer_same(const rule_context *context, qb_shape *output) {
  *output = *input_shape(context, 0);
  return QB_OK;
}

static qb_status infer_batch_norm(const rule_context *context, qb_shape *output) {
  const qb_shape *x = input_shape(context, 0);
  if (x->rank < 2 || context->node->input_count != 5)
    return shape_error(context, "expected x, scale, bias, mean and variance");
  for (int32_t slot = 1; slot < 5; slot++)
    if (!qb_shape_equal(input_shape(context, slot), &QB_SHAPE(x->dims[1])))
      return shape_error(context, "a statistic does not have one entry per channel");
  return infer_same(context, output);
}

static qb_status infer_prelu(const rule_context *context, qb_shape *output) {
  qb_shape broadcast;
  const qb_shape *x = input_shape(context, 0);
  if (!qb_shape_broadcast(x, input_shape(context, 1), &broadcast) || !qb_shape_equal(&broadcast, x))
    return shape_error(context, "the slope does not broadcast to the input");
  return infer_same(context, output);
}

static qb_status infer_softmax(const rule_context *context, qb_shape *output) {
  const qb_shape *x = input_shape(context, 0);
  int32_t axis = context->node->attributes.axes.axis, end = context->node->attributes.axes.end_axis;
  if (axis < 1 || axis >= end || end > x->rank)
    return shape_error(context, "the axis is out of range (a softmax across the batch is not supported)");
  return infer_same(context, output);
}

static qb_status infer_pool(const rule_context *context, qb_shape *output) {
  const qb_shape *x = input_shape(context, 0);
  const qb_window *window = &context->node->attributes.pool.window;
  if (x->rank != 4)
    return shape_error(context, "only pooling over two spatial axes is supported");
  if (!valid_window(window))
    return shape_error(context, "kernel, strides, dilations or pads are out of range");
  if (context->given == NULL)
    return infer_window(context, window, x->dims[1], output);

  *output = *context->given; /* ceil_mode: at most one more window than fits, and it must start inside */
  if (output->rank != 4 || output->dims[0] != x->dims[0] || output->dims[1] != x->dims[1])
    return shape_error(context, "the pooled shape does not fit the input");
  for (int axis = 0; axis < 2; axis++) {
    int64_t length = output->dims[2 + axis], whole = 0;
    qb_window_output(window, axis, x->dims[2 + axis], &whole);
    if (length < 1 || length < whole || length > whole + 1 ||
        (length - 1) * window->stride[axis] >= x->dims[2 + axis] + window->pad_begin[axis])
      return shape_error(context, "a pooling window starts outside the input, or windows are missing");
  }
  return QB_OK;
}

static qb_status infer_max_pool(const rule_context *context, qb_shape *output) { return infer_pool(context, output); }

static qb_status infer_average(const rule_context *context, qb_shape *output) {
  const qb_shape *x = input_shape(context, 0);
  if (context->node->op == QB_OP_AVERAGE_POOL)
    return infer_pool(context, output);
  if (x->rank != 4)
    return shape_error(context, "only a mean over two spatial axes is supported");
  *output = QB_SHAPE(x->dims[0], x->dims[1], 1, 1);
  if (context->node->op == QB_OP_REDUCE_MEAN && context->given != NULL && context->given->rank == 2)
    output->rank = 2; /* keepdims = 0 */
  return QB_OK;
}

/* Broadcasting aligns the last axes, so the batch axes meet only when both activations have the same rank; a constant
 * must not reach the batch axis. */
static bool batch_axes_meet(const rule_context *context) {
  const qb_value *a = &context->graph->values[context->node->inputs[0]];
  const qb_value *b = &context->graph->values[context->node->inputs[1]];
  if (!a->is_constant && !b->is_constant)
    return a->shape.rank == b->shape.rank;
  const qb_shape *constant = a->is_constant ? &a->shape : &b->shape;
  const qb_shape *other = a->is_constant ? &b->shape : &a->shape;
  return constant->rank < other->rank ||
         (constant->rank == other->rank && constant->rank > 0 && constant->dims[0] == 1);
}

static qb_status infer_add(const rule_context *context, qb_shape *output) {
  if (!batch_axes_meet(context))
    return shape_error(context, "broadcasting across the batch axis is not supported");
  if (!qb_shape_broadcast(input_shape(context, 0), input_shape(context, 1), output))
    return shape_error(context, "the two inputs do not broadcast");
  return QB_OK;
}

static qb_status infer_mul(const rule_context *context, qb_shape *output) { return infer_add(context, output); }

static qb_status infer_concat(const rule_context *context, qb_shape *output) {
  int32_t axis = context->node->attributes.axes.axis;
  *output = *input_shape(context, 0);
  if (axis < 1 || axis >= output->rank)
    return shape_error(context, "the axis is out of range (concatenating along the batch is not supported)");
  for (int32_t slot = 1; slot < context->node->input_count; slot++) {
    if (!has_input(context, slot))
      return shape_error(context, "a part is missing");
    qb_shape part = *input_shape(context, slot);
    if (part.rank != output->rank)
      return shape_error(context, "the parts have different ranks");
    int64_t length = part.dims[axis];
    part.dims[axis] = output->dims[axis];
    if (!qb_shape_equal(&part, output))
      return shape_error(context, "the parts differ off the axis");
    output->dims[axis] += length;
  }
  return QB_OK;
}

static qb_status infer_pad(const rule_context *context, qb_shape *output) {
  *output = *input_shape(context, 0);
  for (int32_t i = 0; i < output->rank; i++) {
    output->dims[i] += (int64_t)context->node->attributes.pad.begin[i] + context->node->attributes.pad.end[i];
    if (output->dims[i] < 1 || (i == 0 && output->dims[0] != 1))
      return shape_error(context, "the pads leave nothing, or touch the batch axis");
  }
  return QB_OK;
}

static qb_status infer_transpose(const rule_context *context, qb_shape *output) {
  const qb_shape *x = input_shape(context, 0);
  const int32_t *permutation = context->node->attributes.transpose.permutation;
  bool seen[QB_MAX_RANK] = {false};
  *output = *x;
  for (int32_t i = 0; i < x->rank; i++) {
    if (permutation[i] < 0 || permutation[i] >= x->rank || seen[permutation[i]])
      return shape_error(context, "perm is not a permutation of the axes");
    seen[permutation[i]] = true;
    output->dims[i] = x->dims[permutation[i]];
  }
  if (x->rank > 0 && permutation[0] != 0)
    return shape_error(context, "moving the batch axis is not supported");
  return QB_OK;
}

static qb_status infer_reshape(const rule_context *context, qb_shape *output) {
  const qb_shape *x = input_shape(context, 0);
  size_t count;
  if (context->given == NULL)
    return infer_same(context, output);
  if (!qb_shape_count(context->given, &count) || count != qb_shape_elements(x))
    return shape_error(context, "the new shape has another number of elements");
  *output = *context->given;
  return QB_OK;
}

static qb_status check_scale(const rule_context *context, int32_t slot) {
  const qb_shape *x = input_shape(context, 0), *scale = input_shape(context, slot);
  int32_t axis = context->node->attributes.quantize.axis;
  if (scale->rank == 0 || (scale->rank == 1 && scale->dims[0] == 1))
    return QB_OK;
  if (scale->rank != 1 || axis < 0 || axis >= x->rank || scale->dims[0] != x->dims[axis])
    return shape_error(context, "the scale is neither a scalar nor one entry per channel of its axis");
  return QB_OK;
}

static qb_status infer_quantize_linear(const rule_context *context, qb_shape *output) {
  QB_TRY(check_scale(context, 1));
  if (has_input(context, 2))
    QB_TRY(check_scale(context, 2));
  return infer_same(context, output);
}

static qb_status infer_dequantize_linear(const rule_context *context, qb_shape *output) {
  return infer_quantize_linear(context, output);
}

#define infer_relu infer_same
#define infer_leaky_relu infer_same
#define infer_sigmoid infer_same
#define infer_hard_sigmoid infer_same
#define infer_hard_swish infer_same
#define infer_tanh infer_same

static qb_status infer_clip(const rule_context *context, qb_shape *output) {
  const qb_clip_attributes *clip = &context->node->attributes.clip;
  if (clip->hi_channels != NULL && input_shape(context, 0)->rank < 2)
    return shape_error(context, "a limit per channel needs a channel axis");
  return infer_same(context, output);
}

static const shape_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = infer_##FAMILY,
#include "graph/op_list.h"
};

static int32_t required_inputs(qb_op op) {
  switch (op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
  case QB_OP_GEMM:
  case QB_OP_MATMUL:
  case QB_OP_PRELU:
  case QB_OP_ADD:
  case QB_OP_SUB:
  case QB_OP_MUL:
  case QB_OP_DIV:
  case QB_OP_QUANTIZE_LINEAR:
  case QB_OP_DEQUANTIZE_LINEAR: return 2;
  case QB_OP_BATCH_NORM: return 5;
  default: return 1;
  }
}

qb_status qb_shape_infer(const qb_graph *graph, const qb_node *node, const qb_shape *given, qb_shape *output,
                         qb_error *error) {
  rule_context context = {.graph = graph, .node = node, .given = given, .error = error};
  for (int32_t slot = 0; slot < required_inputs(node->op); slot++)
    if (!has_input(&context, slot))
      return qb_fail(error, QB_ERROR_FORMAT, "%s: node '%s' (%s): input %d is missing", graph->name, node->name,
                     qb_op_name(node->op), slot);
  QB_TRY(rules[node->op](&context, output));
  if (!qb_shape_is_activation(output))
    return shape_error(&context, "the output is empty, too large or has no batch axis of length one in front");
  return QB_OK;
}
