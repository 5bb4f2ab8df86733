/* The elementwise rules of everything but linear layers (theory 3.2): from the bounds of a node's inputs to those of
 * its output. The walk limits every result by the layerwise ranges afterwards, so a rule may know nothing about a
 * number (infinity); that is where caps and saturation come in. */
#include <string.h>

#include "base/error.h"
#include "bound/elementwise_internal.h"

static const qb_elementwise_state *input(const element_call *call, int32_t slot) {
  return &call->states[call->node->inputs[slot]];
}

static const qb_value *value_of(const element_call *call, int32_t slot) {
  return &call->pair->quantized->values[call->node->inputs[slot]];
}

static void fill(element_call *call, int part, float number) {
  for (int64_t i = 0; i < call->y->count; i++)
    call->y->limit[part][i] = number;
}

/* Only the layerwise ranges speak: maps that mix or saturate, quantizers. */
static qb_status nothing(element_call *call) {
  for (int part = 0; part < QB_ELEMENT_COUNT; part++)
    fill(call, part, INFINITY);
  call->from_ranges = true;
  return QB_OK;
}

/* The same numbers for every element: |f(x)| <= |x|, slopes at most 1. */
static qb_status copy(element_call *call) {
  const qb_elementwise_state *x = input(call, 0);
  if (call->last != NULL) {
    qb_elementwise_state old = *call->y;
    *call->y = *call->last;
    *call->last = old;
    return QB_OK;
  }
  call->y->exponent = x->exponent;
  for (int part = 0; part < QB_ELEMENT_COUNT; part++)
    memcpy(call->y->limit[part], x->limit[part], (size_t)x->count * sizeof(float));
  return QB_OK;
}

/* e times a slope; of the values only what layerwise knows. */
static qb_status scaled_error(element_call *call, double slope) {
  const qb_elementwise_state *x = input(call, 0);
  call->y->exponent = x->exponent;
  for (int64_t i = 0; i < x->count; i++)
    call->y->limit[QB_ELEMENT_ERROR][i] = element_up(qb_up_product(slope, (double)x->limit[QB_ELEMENT_ERROR][i]));
  fill(call, QB_ELEMENT_ORIGINAL, INFINITY);
  fill(call, QB_ELEMENT_QUANTIZED, INFINITY);
  return QB_OK;
}

static qb_status rule_conv(element_call *call) { return element_linear(call); }
static qb_status rule_conv_transpose(element_call *call) { return element_linear(call); }
static qb_status rule_gemm(element_call *call) { return element_linear(call); }
static qb_status rule_batch_norm(element_call *call) { return nothing(call); } /* fold first */
static qb_status rule_relu(element_call *call) { return copy(call); }
static qb_status rule_sigmoid(element_call *call) { return scaled_error(call, 0.25); }
static qb_status rule_tanh(element_call *call) { return copy(call); }
static qb_status rule_hard_swish(element_call *call) { return scaled_error(call, 1.5); }
static qb_status rule_softmax(element_call *call) { return nothing(call); }
static qb_status rule_reshape(element_call *call) { return copy(call); }
static qb_status rule_quantize_linear(element_call *call) { return nothing(call); }
static qb_status rule_dequantize_linear(element_call *call) { return copy(call); }

static qb_status rule_hard_sigmoid(element_call *call) {
  if (!qb_pair_same_parameters(call->pair, call->id))
    return nothing(call);
  return scaled_error(call, fabs((double)call->node->attributes.linear.alpha));
}

/* ------------------------------------------------------------------------------------------------- slopes and clips */

static qb_status times(element_call *call, int64_t i, double slope) {
  const qb_elementwise_state *x = input(call, 0);
  double f = fmax(1, fabs(slope));
  for (int part = 0; part < QB_ELEMENT_COUNT; part++)
    call->y->limit[part][i] = f == 1 ? x->limit[part][i] : element_up(qb_up_product(f, (double)x->limit[part][i]));
  return QB_OK;
}

/* A slope above 1 in absolute value bounds the change of the map, one below is met on the other side of 0. */
static qb_status rule_leaky_relu(element_call *call) {
  if (!qb_pair_same_parameters(call->pair, call->id))
    return nothing(call);
  call->y->exponent = input(call, 0)->exponent;
  for (int64_t i = 0; i < call->y->count; i++)
    QB_TRY(times(call, i, (double)call->node->attributes.linear.alpha));
  return QB_OK;
}

static qb_status rule_prelu(element_call *call) {
  const qb_value *slope = value_of(call, 1);
  if (!slope->is_constant || !qb_pair_same_parameters(call->pair, call->id))
    return nothing(call);
  call->y->exponent = input(call, 0)->exponent;
  for (int64_t i = 0; i < call->y->count; i++)
    QB_TRY(
        times(call, i, (double)qb_view_f32(&slope->constant)[qb_shape_broadcast_index(call->shape, &slope->shape, i)]));
  return QB_OK;
}

static double upper_limit(const qb_clip_attributes *clip, int64_t channel) {
  return (double)(clip->hi_channels == NULL ? clip->hi : clip->hi_channels[channel]);
}

/* |a - b| for limits that may both be infinite. */
static double limit_change(double a, double b) { return a == b ? 0 : qb_up(fabs(a - b)); }

/* Elements of one channel of the input's numbers; the limits have changed by at most `change` and keep |x| from falling
 * below the floors. */
static void clip_run(element_call *call, int64_t first, int64_t count, double change, float floor, float floor_q) {
  float *e = call->y->limit[QB_ELEMENT_ERROR] + first;
  float *a = call->y->limit[QB_ELEMENT_ORIGINAL] + first, *q = call->y->limit[QB_ELEMENT_QUANTIZED] + first;
  for (int64_t i = 0; change > 0 && i < count; i++)
    e[i] = element_up(qb_up_sum((double)e[i], change));
  for (int64_t i = 0; floor > 0 && i < count; i++)
    a[i] = a[i] > floor ? a[i] : floor;
  for (int64_t i = 0; floor_q > 0 && i < count; i++)
    q[i] = q[i] > floor_q ? q[i] : floor_q;
}

/* |clip(x)| <= max(|x|, c, -C); two clips differ by at most the larger difference of their limits. */
static qb_status rule_clip(element_call *call) {
  const qb_clip_attributes *own = &call->node->attributes.clip, *other;
  if (call->original == NULL || call->original->op != QB_OP_CLIP)
    return nothing(call);
  other = &call->original->attributes.clip;
  int64_t channels = qb_state_channels(call->shape), inner = qb_state_inner(call->shape);
  QB_TRY(copy(call));
  int32_t unit = -call->y->exponent;
  for (int64_t run = 0; run < call->y->count / inner; run++) {
    int64_t c = run % channels;
    double hi = upper_limit(other, c), hi_q = upper_limit(own, c);
    double change = fmax(limit_change((double)own->lo, (double)other->lo), limit_change(hi, hi_q));
    double floor = fmax(fmax((double)other->lo, -hi), 0), floor_q = fmax(fmax((double)own->lo, -hi_q), 0);
    clip_run(call, run * inner, inner, qb_up_scale(change, unit), element_up(qb_up_scale(floor, unit)),
             element_up(qb_up_scale(floor_q, unit)));
  }
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- windows */

/* The input pixel of tap (a, b) at an output position, or -1 outside the image. */
static int64_t pixel_of(const qb_window *w, const qb_shape *x, int64_t y, int64_t z, int64_t a, int64_t b) {
  int64_t row = y * w->stride[0] + a * w->dilation[0] - w->pad_begin[0];
  int64_t column = z * w->stride[1] + b * w->dilation[1] - w->pad_begin[1];
  bool inside = row >= 0 && row < x->dims[2] && column >= 0 && column < x->dims[3];
  return inside ? row * x->dims[3] + column : -1;
}

typedef struct window_sum {
  double sum;
  float top;
  int64_t count;
} window_sum;

static window_sum look(const qb_window *w, const qb_shape *x, int64_t y, int64_t z, const float *plane) {
  window_sum s = {0};
  for (int64_t a = 0; a < w->kernel[0]; a++)
    for (int64_t b = 0; b < w->kernel[1]; b++) {
      int64_t pixel = pixel_of(w, x, y, z, a, b);
      if (pixel < 0)
        continue;
      s.sum += (double)plane[pixel];
      s.top = plane[pixel] > s.top ? plane[pixel] : s.top;
      s.count++;
    }
  return s;
}

static qb_status rule_max_pool(element_call *call) {
  const qb_shape *x = &value_of(call, 0)->shape, *y = call->shape;
  const qb_window *w = &call->node->attributes.pool.window;
  int64_t area = y->dims[2] * y->dims[3], area_in = x->dims[2] * x->dims[3];
  call->y->exponent = input(call, 0)->exponent;
#pragma omp parallel for schedule(static) if (call->y->count > 100000)
  for (int64_t plane = 0; plane < call->y->count / area; plane++)
    for (int part = 0; part < QB_ELEMENT_COUNT; part++)
      for (int64_t i = 0; i < area; i++)
        call->y->limit[part][plane * area + i] =
            look(w, x, i / y->dims[3], i % y->dims[3], input(call, 0)->limit[part] + plane * area_in).top;
  return QB_OK;
}

/* What a mean divides by: the taps inside the image, or inside the padded image where pads count as zeros. */
static int64_t divisor(const qb_pool_attributes *pool, const qb_shape *x, int64_t y, int64_t z, int64_t count) {
  int64_t product = 1, at[2] = {y, z};
  if (!pool->count_include_pad)
    return count;
  for (int axis = 0; axis < 2; axis++) {
    const qb_window *w = &pool->window;
    int64_t inside = 0, end = x->dims[2 + axis] + w->pad_begin[axis] + w->pad_end[axis];
    for (int64_t k = 0; k < w->kernel[axis]; k++)
      inside += at[axis] * w->stride[axis] + k * w->dilation[axis] < end;
    product *= inside;
  }
  return product;
}

static qb_status rule_average(element_call *call) {
  const qb_shape *x = &value_of(call, 0)->shape, *y = call->shape;
  if (x->rank != 4)
    return nothing(call);
  const qb_window whole = {.kernel = {(int32_t)x->dims[2], (int32_t)x->dims[3]}, .stride = {1, 1}, .dilation = {1, 1}};
  const qb_pool_attributes global = {.window = whole};
  const qb_pool_attributes *pool = call->node->op == QB_OP_AVERAGE_POOL ? &call->node->attributes.pool : &global;
  bool windowed = pool != &global;
  int64_t width = windowed ? y->dims[3] : 1, area = windowed ? y->dims[2] * width : 1,
          area_in = x->dims[2] * x->dims[3];
  call->y->exponent = input(call, 0)->exponent;
  for (int64_t i = 0; i < call->y->count; i++)
    for (int part = 0; part < QB_ELEMENT_COUNT; part++) {
      int64_t at = i % area, row = at / width, column = at % width;
      window_sum s = look(&pool->window, x, row, column, input(call, 0)->limit[part] + i / area * area_in);
      int64_t parts = divisor(pool, x, row, column, s.count);
      call->y->limit[part][i] = s.count == 0 ? 0 : element_up(qb_up(qb_sum_upper(s.sum, s.count + 1) / (double)parts));
    }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ two inputs */

/* The three numbers of operand `slot` at output element i in units of 2^exponent; a constant has its own values. */
typedef struct triple {
  double part[QB_ELEMENT_COUNT];
} triple;

/* The partner's constant in the same slot, or NULL. */
static const qb_value *partner_constant(const element_call *call, int32_t slot) {
  if (call->original == NULL || slot >= call->original->input_count || call->original->inputs[slot] == QB_NONE)
    return NULL;
  const qb_value *value = &call->pair->original->values[call->original->inputs[slot]];
  return value->is_constant ? value : NULL;
}

/* Whether every constant operand has its counterpart of the same shape. */
static bool operands_fit(const element_call *call) {
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    const qb_value *other = value_of(call, slot)->is_constant ? partner_constant(call, slot) : NULL;
    if (value_of(call, slot)->is_constant &&
        (other == NULL || !qb_shape_equal(&other->shape, &value_of(call, slot)->shape)))
      return false;
  }
  return true;
}

static int32_t largest_exponent(const element_call *call) {
  int32_t exponent = INT32_MIN;
  for (int32_t slot = 0; slot < call->node->input_count; slot++)
    if (!value_of(call, slot)->is_constant && input(call, slot)->exponent > exponent)
      exponent = input(call, slot)->exponent;
  return exponent == INT32_MIN ? 0 : exponent;
}

static triple constant_at(const element_call *call, int32_t slot, int64_t at, bool inverted) {
  double own = (double)qb_view_f32(&partner_constant(call, slot)->constant)[at];
  double quantized = (double)qb_view_f32(&value_of(call, slot)->constant)[at];
  double change = own == quantized ? 0 : qb_up(fabs(own - quantized)), a = fabs(own), q = fabs(quantized);
  if (inverted) {
    a = qb_up(1 / a);
    q = qb_up(1 / q);
    change = qb_up_product(change, qb_up_product(a, q));
  }
  return (triple){{change, a, q}};
}

static triple operand_at(const element_call *call, int32_t slot, int64_t i, int32_t exponent, bool inverted) {
  int64_t at = qb_shape_broadcast_index(call->shape, &value_of(call, slot)->shape, i);
  triple t;
  if (value_of(call, slot)->is_constant) {
    t = constant_at(call, slot, at, inverted);
    for (int part = 0; part < QB_ELEMENT_COUNT; part++)
      t.part[part] = qb_up_scale(t.part[part], -exponent);
    return t;
  }
  double factor = element_scale(input(call, slot)->exponent - exponent);
  for (int part = 0; part < QB_ELEMENT_COUNT; part++)
    t.part[part] = qb_up_product((double)input(call, slot)->limit[part][at], factor);
  return t;
}

/* Two activations of one shape and exponent: the usual residual Add. */
static bool add_directly(element_call *call) {
  if (value_of(call, 0)->is_constant || value_of(call, 1)->is_constant)
    return false;
  const qb_elementwise_state *u = input(call, 0), *v = input(call, 1);
  if (u->count != call->y->count || v->count != call->y->count)
    return false;
  call->y->exponent = u->exponent > v->exponent ? u->exponent : v->exponent;
  double fu = element_scale(u->exponent - call->y->exponent), fv = element_scale(v->exponent - call->y->exponent);
  for (int part = 0; part < QB_ELEMENT_COUNT; part++) {
    const float *a = u->limit[part], *b = v->limit[part];
    float *y = call->y->limit[part];
#pragma omp simd
    for (int64_t i = 0; i < call->y->count; i++) {
      double sum = (double)a[i] * fu + (double)b[i] * fv;
      y[i] = element_up(sum);
    }
  }
  return true;
}

static qb_status rule_add(element_call *call) {
  if (!operands_fit(call))
    return nothing(call);
  if (add_directly(call))
    return QB_OK;
  int32_t exponent = largest_exponent(call);
  call->y->exponent = exponent;
  for (int64_t i = 0; i < call->y->count; i++) {
    triple u = operand_at(call, 0, i, exponent, false), v = operand_at(call, 1, i, exponent, false);
    for (int part = 0; part < QB_ELEMENT_COUNT; part++)
      call->y->limit[part][i] = element_up(qb_up_sum(u.part[part], v.part[part]));
  }
  return QB_OK;
}

/* u v - u' v' = u (v - v') + v' (u - u') = u' (v - v') + v (u - u'). */
static double product_error(const triple *u, const triple *v) {
  enum { E, A, Q };
  double first = qb_up_sum(qb_up_product(u->part[A], v->part[E]), qb_up_product(v->part[Q], u->part[E]));
  double second = qb_up_sum(qb_up_product(u->part[Q], v->part[E]), qb_up_product(v->part[A], u->part[E]));
  return fmin(first, second);
}

/* Each operand keeps its own exponent; the result has their sum. */
static qb_status rule_mul(element_call *call) {
  bool divide = call->node->op == QB_OP_DIV;
  if (!operands_fit(call) || (divide && !value_of(call, 1)->is_constant))
    return nothing(call);
  int32_t exponents[2];
  for (int32_t slot = 0; slot < 2; slot++)
    exponents[slot] = value_of(call, slot)->is_constant ? 0 : input(call, slot)->exponent;
  call->y->exponent = exponents[0] + exponents[1];
  for (int64_t i = 0; i < call->y->count; i++) {
    triple u = operand_at(call, 0, i, exponents[0], false), v = operand_at(call, 1, i, exponents[1], divide);
    call->y->limit[QB_ELEMENT_ERROR][i] = element_up(product_error(&u, &v));
    for (int part = QB_ELEMENT_ORIGINAL; part <= QB_ELEMENT_QUANTIZED; part++)
      call->y->limit[part][i] = element_up(qb_up_product(u.part[part], v.part[part]));
  }
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------- moving elements
 */

static qb_status rule_concat(element_call *call) {
  int32_t axis = call->node->attributes.axes.axis, exponent = largest_exponent(call);
  int64_t inner = 1, position = 0;
  if (!operands_fit(call))
    return nothing(call);
  for (int32_t k = axis + 1; k < call->shape->rank; k++)
    inner *= call->shape->dims[k];
  call->y->exponent = exponent;
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    const qb_value *value = value_of(call, slot);
    int64_t part = value->shape.dims[axis] * inner, whole = call->shape->dims[axis] * inner;
    double factor = value->is_constant ? 1 : element_scale(input(call, slot)->exponent - exponent);
    for (int64_t i = 0; i < (int64_t)qb_shape_elements(&value->shape); i++)
      for (int k = 0; k < QB_ELEMENT_COUNT; k++) {
        double entry = value->is_constant ? qb_up_scale(constant_at(call, slot, i, false).part[k], -exponent)
                                          : qb_up_product((double)input(call, slot)->limit[k][i], factor);
        call->y->limit[k][i / part * whole + position + i % part] = element_up(entry);
      }
    position += part;
  }
  return QB_OK;
}

/* Input index of output element i, or -1 in the padding. */
static int64_t padded_index(const element_call *call, const qb_shape *x, int64_t i) {
  int64_t index = 0, stride = 1;
  for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
    int64_t at = i % call->shape->dims[axis] - call->node->attributes.pad.begin[axis];
    i /= call->shape->dims[axis];
    if (at < 0 || at >= x->dims[axis])
      return -1;
    index += at * stride;
    stride *= x->dims[axis];
  }
  return index;
}

static qb_status rule_pad(element_call *call) {
  const qb_elementwise_state *x = input(call, 0);
  double own = (double)call->node->attributes.pad.value;
  double other = call->original == NULL ? own : (double)call->original->attributes.pad.value;
  double value[QB_ELEMENT_COUNT] = {own == other ? 0 : qb_up(fabs(own - other)), fabs(other), fabs(own)};
  call->y->exponent = x->exponent;
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t at = padded_index(call, &value_of(call, 0)->shape, i);
    for (int part = 0; part < QB_ELEMENT_COUNT; part++)
      call->y->limit[part][i] = at < 0 ? element_up(qb_up_scale(value[part], -x->exponent)) : x->limit[part][at];
  }
  return QB_OK;
}

static qb_status rule_transpose(element_call *call) {
  qb_transposition t = qb_shape_transposition(&value_of(call, 0)->shape, call->node->attributes.transpose.permutation);
  call->y->exponent = input(call, 0)->exponent;
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t index = qb_transposition_index(&t, i);
    for (int part = 0; part < QB_ELEMENT_COUNT; part++)
      call->y->limit[part][i] = input(call, 0)->limit[part][index];
  }
  return QB_OK;
}

const element_rule element_rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = rule_##FAMILY,
#include "graph/op_list.h"
};
