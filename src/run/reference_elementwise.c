/* Reference rules of the operators that map elements, one or two tensors at a time. Each is a function of balls. */
#include "run/reference.h"

/* The C library documents exp and tanh within 1 and 2 ulp; 4 ulp (8 unit) is assumed of any evaluation. */
enum { LIBM_UNITS = 8 };

/* ------------------------------------------------------------------------------------------------------ one tensor */

typedef ball (*unary_rule)(const reference_call *call, ball b, size_t channel);

/* Applies `rule`, which gets the index along axis 1. */
static void map_elements(const reference_call *call, unary_rule rule) {
  const reference_value *x = call->in[0];
  size_t channels = x->shape.rank > 1 ? (size_t)x->shape.dims[1] : 1, area = 1;
  for (int32_t i = x->shape.rank > 1 ? 2 : 0; i < x->shape.rank; i++)
    area *= (size_t)x->shape.dims[i];
  int64_t maps = (int64_t)(x->count / area);
#pragma omp parallel for
  for (int64_t map = 0; map < maps; map++)
    for (size_t i = (size_t)map * area; i < ((size_t)map + 1) * area; i++)
      value_set(call->y, i, rule(call, value_ball(x, i), (size_t)map % channels));
}

/* Exact and 1-Lipschitz; where every value of the ball is cut off, nothing of its radius is left. x + r <= 0 in
 * doubles implies it in the reals because rounding is monotone, but x' may be another evaluation: up to 2 r away. */
static ball clamp_ball(ball b, double lo, double hi) {
  if (b.x + 2.0 * b.r <= lo)
    return (ball){lo, 0.0};
  if (b.x - 2.0 * b.r >= hi)
    return (ball){hi, 0.0};
  b.x = b.x < lo ? lo : b.x > hi ? hi : b.x;
  return b;
}

static ball relu_rule(const reference_call *call, ball b, size_t channel) {
  (void)call, (void)channel;
  return clamp_ball(b, 0.0, INFINITY);
}

static ball clip_rule(const reference_call *call, ball b, size_t channel) {
  const qb_clip_attributes *clip = &call->node->attributes.clip;
  return clamp_ball(b, (double)clip->lo, (double)(clip->hi_channels != NULL ? clip->hi_channels[channel] : clip->hi));
}

/* max(x, 0) + slope min(x, 0), whose Lipschitz constant is max(1, |slope|). */
static ball leaky(ball b, double slope, const rounding *u) {
  if (b.x - 2.0 * b.r >= 0.0)
    return b;
  double lipschitz = b.x + 2.0 * b.r <= 0.0 ? fabs(slope) : fmax(1.0, fabs(slope));
  return ball_result(b.x >= 0.0 ? b.x : slope * b.x, lipschitz * b.r, 1, fabs(slope) * ball_magnitude(b), u);
}

static ball leaky_relu_rule(const reference_call *call, ball b, size_t channel) {
  (void)channel;
  return leaky(b, (double)call->node->attributes.linear.alpha, call->units);
}

/* 1 / (1 + e^-x), computed from e^-|x| so that nothing overflows; the derivative is at most 1/4. */
static ball sigmoid_rule(const reference_call *call, ball b, size_t channel) {
  (void)channel;
  double e = exp(-fabs(b.x)), y = (b.x < 0.0 ? e : 1.0) / (1.0 + e);
  /* A float32 evaluation may start from another x' and may form 1 - y or 1 / (1 + e^-x): errors relative to 1. */
  double spread = call->units->any_order ? 1.0 : y;
  return ball_result(y, 0.25 * b.r, LIBM_UNITS + 4, spread, call->units);
}

static ball hard_sigmoid_rule(const reference_call *call, ball b, size_t channel) {
  (void)channel;
  double alpha = (double)call->node->attributes.linear.alpha, beta = (double)call->node->attributes.linear.beta;
  double size = fabs(alpha) * ball_magnitude(b) + fabs(beta);
  return clamp_ball(ball_result(alpha * b.x + beta, fabs(alpha) * b.r, 2, size, call->units), 0.0, 1.0);
}

/* x clip(x / 6 + 1/2, 0, 1): the derivative lies in [-1/2, 3/2]. Where |x| > 4 the clip is saturated in every
 * evaluation and the product exact, which the cut of |x| expresses. Roundings: 1/6, product, sum, product. */
static ball hard_swish_rule(const reference_call *call, ball b, size_t channel) {
  (void)channel;
  double gate = b.x / 6.0 + 0.5, cut = fmin(ball_magnitude(b), 4.0);
  gate = gate < 0.0 ? 0.0 : gate > 1.0 ? 1.0 : gate;
  return ball_result(b.x * gate, 1.5 * b.r, 5, cut * (cut / 6.0 + 0.5), call->units);
}

static ball tanh_rule(const reference_call *call, ball b, size_t channel) {
  (void)channel;
  double y = tanh(b.x);
  return ball_result(y, b.r, LIBM_UNITS, fabs(y) + 2.0 * b.r, call->units);
}

void qb_reference_relu(const reference_call *call) { map_elements(call, relu_rule); }
void qb_reference_clip(const reference_call *call) { map_elements(call, clip_rule); }
void qb_reference_leaky_relu(const reference_call *call) { map_elements(call, leaky_relu_rule); }
void qb_reference_sigmoid(const reference_call *call) { map_elements(call, sigmoid_rule); }
void qb_reference_hard_sigmoid(const reference_call *call) { map_elements(call, hard_sigmoid_rule); }
void qb_reference_hard_swish(const reference_call *call) { map_elements(call, hard_swish_rule); }
void qb_reference_tanh(const reference_call *call) { map_elements(call, tanh_rule); }

/* ----------------------------------------------------------------------------------------------------- two tensors */

typedef ball (*binary_rule)(ball a, ball b, const rounding *u);

static ball prelu_ball(ball a, ball slope, const rounding *u) { return leaky(a, slope.x, u); }

static size_t broadcast_offset(size_t i, const qb_shape *y, const size_t strides[QB_MAX_RANK]) {
  size_t offset = 0;
  for (int32_t axis = y->rank - 1; axis >= 0; axis--) {
    offset += i % (size_t)y->dims[axis] * strides[axis];
    i /= (size_t)y->dims[axis];
  }
  return offset;
}

static void map_pairs(const reference_call *call, binary_rule rule) {
  const reference_value *a = call->in[0], *b = call->in[1];
  const qb_shape *y = &call->y->shape;
  size_t strides_a[QB_MAX_RANK], strides_b[QB_MAX_RANK];
  bool plain = qb_shape_equal(&a->shape, y) && qb_shape_equal(&b->shape, y);
  qb_run_broadcast_strides(&a->shape, y, strides_a);
  qb_run_broadcast_strides(&b->shape, y, strides_b);
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->y->count; i++) {
    size_t from_a = plain ? (size_t)i : broadcast_offset((size_t)i, y, strides_a);
    size_t from_b = plain ? (size_t)i : broadcast_offset((size_t)i, y, strides_b);
    value_set(call->y, (size_t)i, rule(value_ball(a, from_a), value_ball(b, from_b), call->units));
  }
}

void qb_reference_prelu(const reference_call *call) { map_pairs(call, prelu_ball); }

void qb_reference_add(const reference_call *call) {
  map_pairs(call, call->node->op == QB_OP_SUB ? ball_subtract : ball_add);
}

void qb_reference_mul(const reference_call *call) {
  map_pairs(call, call->node->op == QB_OP_DIV ? ball_divide : ball_multiply);
}

/* --------------------------------------------------------------------------------------------------------- softmax */

typedef struct softmax_line {
  size_t start, length, stride;
} softmax_line;

/* y_i = e^(x_i - m) / sum_j e^(x_j - m). A change of every x_j by at most R multiplies y_i by at most e^(2R).
 * Relative rounding of one exponential: unit |x_i - m| from the difference (beyond 800 it has vanished) and the library
 * function; n + 2 more from sum and quotient; numerator and denominator count both. What underflows is below `floor`,
 * as the sum is at least 1. With total relative change t, y* <= (y + floor) (1 + t). */
static double softmax_radius(double y, double largest_radius, double spread, double n, const rounding *u) {
  double shift = 2.0 * largest_radius, anything = 1.0 + 0x1p-10; /* both results lie in [0, 1] up to rounding */
  if (!(shift < 300.0))
    return anything;
  double distance = fmin(spread + 2.0 * shift, 800.0);
  double relative = 2.0 * u->unit * distance + gamma_n(n + 2.0 * LIBM_UNITS + 8.0, u);
  if (!(relative < 0.125))
    return anything;
  double change = expm1(shift), rounded = 2.0 * relative + 4.0 * relative * relative;
  double total = change + rounded + change * rounded, floor = (4.0 * n + 64.0) * u->tiny;
  return fmin(((y + floor) * total * (1.0 + total) + floor * (1.0 + total)) * (1.0 + 0x1p-40), anything);
}

static void run_softmax(const reference_call *call, const softmax_line *line) {
  const reference_value *x = call->in[0];
  double largest = -INFINITY, smallest = INFINITY, radius = 0.0, sum = 0.0;
  for (size_t i = 0; i < line->length; i++) {
    ball b = value_ball(x, line->start + i * line->stride);
    largest = fmax(largest, b.x);
    smallest = fmin(smallest, b.x);
    radius = fmax(radius, b.r);
  }
  for (size_t i = 0; i < line->length; i++)
    sum += exp(x->x[line->start + i * line->stride] - largest);
  for (size_t i = 0; i < line->length; i++) {
    size_t at = line->start + i * line->stride;
    double y = exp(x->x[at] - largest) / sum;
    value_set(call->y, at, (ball){y, softmax_radius(y, radius, largest - smallest, (double)line->length, call->units)});
  }
}

void qb_reference_softmax(const reference_call *call) {
  const qb_shape *shape = &call->in[0]->shape;
  size_t length = 1, stride = 1;
  for (int32_t i = shape->rank - 1; i >= call->node->attributes.axes.end_axis; i--)
    stride *= (size_t)shape->dims[i];
  for (int32_t i = call->node->attributes.axes.axis; i < call->node->attributes.axes.end_axis; i++)
    length *= (size_t)shape->dims[i];
  int64_t lines = (int64_t)(call->in[0]->count / length);
#pragma omp parallel for
  for (int64_t i = 0; i < lines; i++) {
    size_t outer = (size_t)i / stride, inner = (size_t)i % stride;
    run_softmax(call, &(softmax_line){outer * length * stride + inner, length, stride});
  }
}

/* --------------------------------------------------------------------------------------------------- integer codes */

static size_t axis_index(const qb_shape *shape, int32_t axis, size_t i) {
  for (int32_t k = shape->rank - 1; k > axis; k--)
    i /= (size_t)shape->dims[k];
  return i % (size_t)shape->dims[axis];
}

static double parameter(const reference_call *call, int32_t slot, size_t i, double missing) {
  const reference_value *value = call->in[slot];
  if (value == NULL)
    return missing;
  return value->x[value->count == 1 ? 0 : axis_index(&call->in[0]->shape, call->node->attributes.quantize.axis, i)];
}

static double clamp_code(double t, double zero, const reference_call *call) {
  double code;
  switch (call->node->attributes.quantize.rounding) {
  case QB_ROUND_EVEN: code = nearbyint(t) + zero; break;
  case QB_ROUND_SHIFTED: code = nearbyint(t + zero); break;
  case QB_ROUND_HALF_UP: code = floor(t + (zero + 0.5)); break;
  default: code = floor(t + zero); break;
  }
  double lo = (double)call->node->attributes.quantize.lo, hi = (double)call->node->attributes.quantize.hi;
  return code < lo ? lo : code > hi ? hi : code;
}

/* True when a float32 evaluation of the quotient, and of what is added to it before it is rounded, is exact. */
static bool is_exact_quotient(const reference_call *call, double x, double t, double scale, double zero) {
  double factor = (double)call->node->attributes.quantize.factor;
  bool divided = factor != 0 ? fma(x, factor, -t) == 0.0 : fma(t, scale, -x) == 0.0;
  qb_code_rounding how = call->node->attributes.quantize.rounding;
  double shifted = how == QB_ROUND_EVEN ? t : t + zero + (how == QB_ROUND_HALF_UP ? 0.5 : 0.0);
  return divided && fabs(t) >= 0x1p-100 && (double)(float)t == t && (double)(float)shifted == shifted;
}

/* The rounded code of x / scale. The code grows with x, so the codes at both ends of what x / scale may be bound it;
 * a quotient that is exact in every evaluation needs no widening, which keeps true ties certain. */
static ball quantize_ball(const reference_call *call, ball b, double scale, double zero) {
  double factor = (double)call->node->attributes.quantize.factor, t = factor != 0 ? b.x * factor : b.x / scale;
  ball result = {clamp_code(t, zero, call), 0.0};
  if (b.r == 0.0 && (b.x == 0.0 || is_exact_quotient(call, b.x, t, scale, zero)))
    return result;
  double shift = call->node->attributes.quantize.rounding == QB_ROUND_EVEN ? 0.0 : fabs(zero) + 0.5;
  double wide = 2.0 * b.r / (factor != 0 ? 1.0 / factor : scale) * (1.0 + 0x1p-40);
  double slack = (fabs(t) + wide + shift) * 4.0 * call->units->unit + 4.0 * call->units->tiny;
  double reach = (wide + slack) * (1.0 + 0x1p-40);
  double lo = clamp_code(nextafter(t - reach, -INFINITY), zero, call);
  double hi = clamp_code(nextafter(t + reach, INFINITY), zero, call);
  /* Ours against the exact code; any evaluation against any exact code may differ by the whole range. */
  result.r = call->units->any_order ? hi - lo : fmax(result.x - lo, hi - result.x);
  return result;
}

uint64_t qb_reference_code_noise = 0;

/* -1, 0 or 1 from the seed, the quantizer and the element; seeds below 3 are the same for all elements. */
static double code_noise(const reference_call *call, size_t i) {
  uint64_t x = qb_reference_code_noise;
  if (x < 3)
    return x == 0 ? 0 : x == 1 ? 1 : -1;
  x = (x + (uint64_t)call->node->output * 0x9e3779b97f4a7c15u + i) * 0xbf58476d1ce4e5b9u;
  return (double)((x ^ x >> 29) * 0x94d049bb133111ebu >> 33) / 0x1p31 * 3 < 1 ? -1 : x >> 40 & 1 ? 1 : 0;
}

static ball disturb(const reference_call *call, ball code, size_t i) {
  double lo = (double)call->node->attributes.quantize.lo, hi = (double)call->node->attributes.quantize.hi;
  code.x += code_noise(call, i);
  code.x = code.x < lo ? lo : code.x > hi ? hi : code.x;
  return code;
}

void qb_reference_quantize_linear(const reference_call *call) {
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->y->count; i++) {
    double scale = parameter(call, 1, (size_t)i, 1.0), zero = parameter(call, 2, (size_t)i, 0.0);
    ball code = quantize_ball(call, value_ball(call->in[0], (size_t)i), scale, zero);
    value_set(call->y, (size_t)i, qb_reference_code_noise == 0 ? code : disturb(call, code, (size_t)i));
  }
}

/* scale (code - zero point); the difference of codes is exact. */
void qb_reference_dequantize_linear(const reference_call *call) {
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->y->count; i++) {
    double scale = parameter(call, 1, (size_t)i, 1.0), zero = parameter(call, 2, (size_t)i, 0.0);
    ball code = value_ball(call->in[0], (size_t)i);
    ball shifted = {code.x - zero, code.r};
    value_set(call->y, (size_t)i,
              ball_result(scale * shifted.x, fabs(scale) * code.r, 2, fabs(scale) * ball_magnitude(shifted),
                          call->units));
  }
}
