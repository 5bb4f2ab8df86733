/* Float32 loops for rare operators; see plain.h. Every element is computed by one thread in a fixed order. */
#include "run/plain.h"

#include <math.h>
#include <string.h>

static qb_shape input_shape(const plain_call *call, int32_t slot) {
  return qb_run_shape(qb_run_input(call->graph, call->node, slot), call->batch);
}

static qb_shape output_shape(const plain_call *call) {
  return qb_run_shape(&call->graph->values[call->node->output], call->batch);
}

/* --------------------------------------------------------------------------------------------------- elementwise */

static void plain_sigmoid(const plain_call *call) {
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->count; i++)
    call->y[i] = 1.0f / (1.0f + expf(-call->in[0][i]));
}

static void plain_tanh(const plain_call *call) {
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->count; i++)
    call->y[i] = tanhf(call->in[0][i]);
}

static void plain_hard_sigmoid(const plain_call *call) {
  float alpha = call->node->attributes.linear.alpha, beta = call->node->attributes.linear.beta;
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->count; i++) {
    float y = alpha * call->in[0][i] + beta;
    call->y[i] = y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
  }
}

static void plain_hard_swish(const plain_call *call) {
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->count; i++) {
    float x = call->in[0][i], gate = x / 6.0f + 0.5f;
    call->y[i] = x * (gate < 0.0f ? 0.0f : gate > 1.0f ? 1.0f : gate);
  }
}

/* Clip with a limit per channel of axis 1. */
static void plain_clip(const plain_call *call) {
  const qb_clip_attributes *clip = &call->node->attributes.clip;
  qb_shape x = input_shape(call, 0);
  int64_t maps = x.dims[0] * x.dims[1], area = (int64_t)call->count / maps;
#pragma omp parallel for
  for (int64_t map = 0; map < maps; map++) {
    float lo = clip->lo, hi = clip->hi_channels != NULL ? clip->hi_channels[map % x.dims[1]] : clip->hi;
    for (int64_t i = map * area; i < (map + 1) * area; i++) {
      float v = call->in[0][i];
      call->y[i] = v < lo ? lo : v > hi ? hi : v;
    }
  }
}

/* -------------------------------------------------------------------------------------------------- integer codes */

typedef struct code_rule {
  float scale, zero, lo, hi, factor;
  qb_code_rounding rounding;
} code_rule;

static void quantize_run(const code_rule *rule, const float *x, float *y, size_t count) {
  for (size_t i = 0; i < count; i++) {
    float code = rintf(x[i] / rule->scale) + rule->zero;
    y[i] = code < rule->lo ? rule->lo : code > rule->hi ? rule->hi : code;
  }
}

/* The other ways of rounding and of scaling, step by step in float32 as a runtime computes them. */
static void round_run(const code_rule *rule, const float *x, float *y, size_t count) {
  for (size_t i = 0; i < count; i++) {
    float q = rule->factor != 0.0f ? x[i] * rule->factor : x[i] / rule->scale, code;
    switch (rule->rounding) {
    case QB_ROUND_EVEN: code = rintf(q) + rule->zero; break;
    case QB_ROUND_SHIFTED: code = rintf(q + rule->zero); break;
    case QB_ROUND_HALF_UP: code = floorf(q + (rule->zero + 0.5f)); break;
    default: code = floorf(q + rule->zero); break;
    }
    y[i] = code < rule->lo ? rule->lo : code > rule->hi ? rule->hi : code;
  }
}

static void dequantize_run(const code_rule *rule, const float *x, float *y, size_t count) {
  for (size_t i = 0; i < count; i++)
    y[i] = (x[i] - rule->zero) * rule->scale;
}

static bool has_scalar_scale(const qb_graph *graph, const qb_node *node) {
  const qb_value *zero = qb_run_input(graph, node, 2);
  return qb_shape_elements(&qb_run_input(graph, node, 1)->shape) == 1 &&
         (zero == NULL || qb_shape_elements(&zero->shape) == 1);
}

/* Calls the loop once per index of the scale's axis, or in a few large runs for a scalar scale. */
static void run_codes(const plain_call *call, void (*loop)(const code_rule *, const float *, float *, size_t)) {
  const qb_node *node = call->node;
  qb_shape x = input_shape(call, 0);
  bool scalar = has_scalar_scale(call->graph, node);
  const qb_value *zero = qb_run_input(call->graph, node, 2);
  size_t scales = qb_shape_elements(&qb_run_input(call->graph, node, 1)->shape);
  size_t zeros = zero == NULL ? 1 : qb_shape_elements(&zero->shape), run = 4096, channels = 1;
  if (!scalar) {
    run = 1;
    for (int32_t i = node->attributes.quantize.axis + 1; i < x.rank; i++)
      run *= (size_t)x.dims[i];
    channels = (size_t)x.dims[node->attributes.quantize.axis];
  }
#pragma omp parallel for
  for (int64_t k = 0; k < (int64_t)((call->count + run - 1) / run); k++) {
    size_t channel = (size_t)k % channels, begin = (size_t)k * run;
    code_rule rule = {call->in[1][scales > 1 ? channel : 0], zero == NULL ? 0.0f : call->in[2][zeros > 1 ? channel : 0],
                      node->attributes.quantize.lo,          node->attributes.quantize.hi,
                      node->attributes.quantize.factor,      node->attributes.quantize.rounding};
    loop(&rule, call->in[0] + begin, call->y + begin, call->count - begin < run ? call->count - begin : run);
  }
}

static void plain_quantize_linear(const plain_call *call) {
  bool plain =
      call->node->attributes.quantize.rounding == QB_ROUND_EVEN && call->node->attributes.quantize.factor == 0.0f;
  run_codes(call, plain ? quantize_run : round_run);
}
static void plain_dequantize_linear(const plain_call *call) { run_codes(call, dequantize_run); }

/* ---------------------------------------------------------------------------------------------------- two tensors */

static float apply(qb_op op, float a, float b) {
  switch (op) {
  case QB_OP_ADD: return a + b;
  case QB_OP_SUB: return a - b;
  case QB_OP_MUL: return a * b;
  case QB_OP_DIV: return a / b;
  default: return a >= 0.0f ? a : a * b; /* PRelu */
  }
}

/* ONNX broadcasting: one odometer over all axes but the last. */
static void plain_binary(const plain_call *call) {
  qb_shape a = input_shape(call, 0), b = input_shape(call, 1), y = output_shape(call);
  size_t strides_a[QB_MAX_RANK], strides_b[QB_MAX_RANK];
  int32_t last = y.rank - 1;
  int64_t length = y.dims[last], rows = (int64_t)call->count / length;
  qb_run_broadcast_strides(&a, &y, strides_a);
  qb_run_broadcast_strides(&b, &y, strides_b);
#pragma omp parallel for
  for (int64_t row = 0; row < rows; row++) {
    size_t rest = (size_t)row, from_a = 0, from_b = 0;
    for (int32_t axis = last - 1; axis >= 0; axis--) {
      from_a += rest % (size_t)y.dims[axis] * strides_a[axis];
      from_b += rest % (size_t)y.dims[axis] * strides_b[axis];
      rest /= (size_t)y.dims[axis];
    }
    for (int64_t i = 0; i < length; i++)
      call->y[row * length + i] = apply(call->node->op, call->in[0][from_a + (size_t)i * strides_a[last]],
                                        call->in[1][from_b + (size_t)i * strides_b[last]]);
  }
}

/* -------------------------------------------------------------------------------------------------------- softmax */

static void softmax_line(const float *x, float *y, size_t length, size_t stride) {
  float largest = x[0], sum = 0.0f;
  for (size_t i = 1; i < length; i++)
    largest = x[i * stride] > largest ? x[i * stride] : largest;
  for (size_t i = 0; i < length; i++) {
    y[i * stride] = expf(x[i * stride] - largest);
    sum += y[i * stride];
  }
  for (size_t i = 0; i < length; i++)
    y[i * stride] /= sum;
}

static void plain_softmax(const plain_call *call) {
  qb_shape x = input_shape(call, 0);
  size_t length = 1, stride = 1;
  for (int32_t i = x.rank - 1; i >= call->node->attributes.axes.end_axis; i--)
    stride *= (size_t)x.dims[i];
  for (int32_t i = call->node->attributes.axes.axis; i < call->node->attributes.axes.end_axis; i++)
    length *= (size_t)x.dims[i];
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)(call->count / length); i++) {
    size_t start = (size_t)i / stride * length * stride + (size_t)i % stride;
    softmax_line(call->in[0] + start, call->y + start, length, stride);
  }
}

/* ---------------------------------------------------------------------------------------------------- moving data */

/* A constant part has one sample and is repeated. */
static void plain_concat(const plain_call *call) {
  int32_t axis = call->node->attributes.axes.axis;
  qb_shape y = output_shape(call);
  size_t outer = 1, inner = 1, offset = 0;
  for (int32_t i = 0; i < axis; i++)
    outer *= (size_t)y.dims[i];
  for (int32_t i = axis + 1; i < y.rank; i++)
    inner *= (size_t)y.dims[i];
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    qb_shape part = input_shape(call, slot);
    size_t length = (size_t)part.dims[axis] * inner, parts = qb_shape_elements(&part) / length;
    for (size_t o = 0; o < outer; o++)
      memcpy(call->y + o * (size_t)y.dims[axis] * inner + offset, call->in[slot] + o % parts * length,
             length * sizeof *call->y);
    offset += length;
  }
}

static void plain_pad(const plain_call *call) {
  qb_shape x = input_shape(call, 0), y = output_shape(call);
  const qb_attributes *attributes = &call->node->attributes;
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->count; i++) {
    size_t rest = (size_t)i, from = 0, stride = 1;
    bool inside = true;
    for (int32_t axis = y.rank - 1; axis >= 0; axis--) {
      int64_t at = (int64_t)(rest % (size_t)y.dims[axis]) - attributes->pad.begin[axis];
      rest /= (size_t)y.dims[axis];
      inside = inside && at >= 0 && at < x.dims[axis];
      from += inside ? (size_t)at * stride : 0;
      stride *= (size_t)x.dims[axis];
    }
    call->y[i] = inside ? call->in[0][from] : attributes->pad.value;
  }
}

static void plain_transpose(const plain_call *call) {
  qb_shape x = input_shape(call, 0);
  qb_transposition t = qb_shape_transposition(&x, call->node->attributes.transpose.permutation);
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->count; i++)
    call->y[i] = call->in[0][qb_transposition_index(&t, i)];
}

/* -------------------------------------------------------------------------------------------------------- windows */

static float window_mean(const plain_call *call, const qb_shape *x, int64_t map, int64_t oh, int64_t ow) {
  const qb_pool_attributes *pool = &call->node->attributes.pool;
  const qb_window *w = &pool->window;
  int32_t begin[2], end[2];
  float sum = 0.0f;
  qb_run_window_taps(w, 0, x->dims[2], oh, &begin[0], &end[0]);
  qb_run_window_taps(w, 1, x->dims[3], ow, &begin[1], &end[1]);
  for (int32_t i = begin[0]; i < end[0]; i++)
    for (int32_t j = begin[1]; j < end[1]; j++) {
      int64_t h = oh * w->stride[0] - w->pad_begin[0] + (int64_t)i * w->dilation[0];
      int64_t v = ow * w->stride[1] - w->pad_begin[1] + (int64_t)j * w->dilation[1];
      sum += call->in[0][(map * x->dims[2] + h) * x->dims[3] + v];
    }
  return sum / (float)qb_run_average_divisor(pool, x, oh, ow);
}

static void plain_average(const plain_call *call) {
  qb_shape x = input_shape(call, 0), y = output_shape(call);
#pragma omp parallel for
  for (int64_t map = 0; map < y.dims[0] * y.dims[1]; map++)
    for (int64_t oh = 0; oh < y.dims[2]; oh++)
      for (int64_t ow = 0; ow < y.dims[3]; ow++)
        call->y[(map * y.dims[2] + oh) * y.dims[3] + ow] = window_mean(call, &x, map, oh, ow);
}

/* The output position o meets the input position i through kernel position k when o + pad = i * stride + k * dilation.
 */
static bool meets(const qb_window *w, int axis, int64_t o, int32_t k, int64_t length, int64_t *i) {
  int64_t at = o + w->pad_begin[axis] - (int64_t)k * w->dilation[axis];
  *i = at / w->stride[axis];
  return at >= 0 && at % w->stride[axis] == 0 && *i < length;
}

static float transpose_sum(const plain_call *call, const qb_shape *x, int64_t n, int64_t oc, int64_t oh, int64_t ow) {
  const qb_conv_attributes *conv = &call->node->attributes.conv;
  qb_shape w = input_shape(call, 1);
  int64_t inputs = w.dims[0] / conv->group, group = oc / w.dims[1], i, j;
  float sum = call->node->input_count > 2 && call->in[2] != NULL ? call->in[2][oc] : 0.0f;
  for (int64_t ic = group * inputs; ic < (group + 1) * inputs; ic++)
    for (int32_t kh = 0; kh < conv->window.kernel[0]; kh++)
      for (int32_t kw = 0; kw < conv->window.kernel[1]; kw++)
        if (meets(&conv->window, 0, oh, kh, x->dims[2], &i) && meets(&conv->window, 1, ow, kw, x->dims[3], &j))
          sum += call->in[1][((ic * w.dims[1] + oc % w.dims[1]) * w.dims[2] + kh) * w.dims[3] + kw] *
                 call->in[0][((n * x->dims[1] + ic) * x->dims[2] + i) * x->dims[3] + j];
  return sum;
}

static void plain_conv_transpose(const plain_call *call) {
  qb_shape x = input_shape(call, 0), y = output_shape(call);
#pragma omp parallel for
  for (int64_t map = 0; map < y.dims[0] * y.dims[1]; map++)
    for (int64_t oh = 0; oh < y.dims[2]; oh++)
      for (int64_t ow = 0; ow < y.dims[3]; ow++)
        call->y[(map * y.dims[2] + oh) * y.dims[3] + ow] =
            transpose_sum(call, &x, map / y.dims[1], map % y.dims[1], oh, ow);
}

/* --------------------------------------------------------------------------------------------------------- choice */

plain_rule qb_plain_rule(qb_op op) {
  switch (op) {
  case QB_OP_SIGMOID: return plain_sigmoid;
  case QB_OP_TANH: return plain_tanh;
  case QB_OP_HARD_SIGMOID: return plain_hard_sigmoid;
  case QB_OP_HARD_SWISH: return plain_hard_swish;
  case QB_OP_CLIP: return plain_clip;
  case QB_OP_QUANTIZE_LINEAR: return plain_quantize_linear;
  case QB_OP_DEQUANTIZE_LINEAR: return plain_dequantize_linear;
  case QB_OP_PRELU:
  case QB_OP_ADD:
  case QB_OP_SUB:
  case QB_OP_MUL:
  case QB_OP_DIV: return plain_binary;
  case QB_OP_SOFTMAX: return plain_softmax;
  case QB_OP_CONCAT: return plain_concat;
  case QB_OP_PAD: return plain_pad;
  case QB_OP_TRANSPOSE: return plain_transpose;
  case QB_OP_AVERAGE_POOL: return plain_average;
  case QB_OP_CONV_TRANSPOSE: return plain_conv_transpose;
  case QB_OP_GEMM:
  case QB_OP_MATMUL: return qb_plain_product;
  default: return NULL;
  }
}

bool qb_plain_any_layout(const qb_graph *graph, const qb_node *node) {
  switch (node->op) {
  case QB_OP_TANH:
  case QB_OP_HARD_SWISH: return true;
  case QB_OP_QUANTIZE_LINEAR:
  case QB_OP_DEQUANTIZE_LINEAR: return has_scalar_scale(graph, node);
  default: return false;
  }
}
