/* Exact rules of the operators that map elements, one or two tensors at a time. */
#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "run/exact.h"

/* ------------------------------------------------------------------------------------------------------ one tensor */

qb_status qb_exact_map(const exact_call *call, exact_unary_rule rule) {
#pragma omp parallel for
  for (int64_t i = 0; i < call->y->count; i++) {
    exact_number n;
    exact_load(call->format, call->in[0], i, &n);
    rule(call, i, &n);
    exact_store(call->format, call->y, i, &n);
  }
  return QB_OK;
}

static void relu_rule(const exact_call *call, int64_t i, exact_number *x) {
  (void)i;
  exact_clamp(call->format, 0, INFINITY, x);
}

static void clip_rule(const exact_call *call, int64_t i, exact_number *x) {
  const qb_clip_attributes *clip = &call->node->attributes.clip;
  float hi = clip->hi_channels != NULL ? clip->hi_channels[qb_shape_channel(call->shape, i)] : clip->hi;
  exact_clamp(call->format, (double)clip->lo, (double)hi, x);
}

/* max(x, 0) + slope min(x, 0); where the sign is not certain the radius grows by the Lipschitz constant. */
static void leaky(const exact_format *f, double slope, exact_number *x) {
  exact_number end, factor;
  double r = x->r;
  int sign = exact_sign(f, x);
  exact_end(f, x, sign >= 0 ? -1 : 1, &end);
  bool certain = end.r == 0 && (sign >= 0 ? exact_sign(f, &end) >= 0 : exact_sign(f, &end) <= 0);
  double lipschitz = !certain ? fmax(1, fabs(slope)) : sign >= 0 ? 1 : fabs(slope);
  if (sign >= 0) {
    x->r = lipschitz == 1 ? r : lipschitz * r * (1 + 0x1p-50);
    return;
  }
  x->r = 0;
  exact_from_double(f, slope, &factor);
  exact_multiply(f, x, &factor, x);
  x->r = exact_radius_sum(x->r, lipschitz * r * (1 + 0x1p-50));
}

static void leaky_relu_rule(const exact_call *call, int64_t i, exact_number *x) {
  (void)i;
  leaky(call->format, (double)call->node->attributes.linear.alpha, x);
}

static void scale_and_shift(const exact_format *f, double scale, double shift, exact_number *x) {
  exact_number n;
  exact_from_double(f, scale, &n);
  exact_multiply(f, x, &n, x);
  exact_from_double(f, shift, &n);
  exact_add(f, x, &n, x);
}

static void hard_sigmoid_rule(const exact_call *call, int64_t i, exact_number *x) {
  (void)i;
  double alpha = (double)call->node->attributes.linear.alpha, beta = (double)call->node->attributes.linear.beta;
  scale_and_shift(call->format, alpha, beta, x);
  exact_clamp(call->format, 0, 1, x);
}

/* x clip(x / 6 + 1/2, 0, 1) */
static void hard_swish_rule(const exact_call *call, int64_t i, exact_number *x) {
  (void)i;
  exact_number gate = *x;
  exact_mean(call->format, x->d, x->r, 6, &gate);
  scale_and_shift(call->format, 1, 0.5, &gate);
  exact_clamp(call->format, 0, 1, &gate);
  exact_multiply(call->format, x, &gate, x);
}

qb_status qb_exact_relu(const exact_call *call) { return qb_exact_map(call, relu_rule); }
qb_status qb_exact_clip(const exact_call *call) { return qb_exact_map(call, clip_rule); }
qb_status qb_exact_leaky_relu(const exact_call *call) { return qb_exact_map(call, leaky_relu_rule); }
qb_status qb_exact_hard_sigmoid(const exact_call *call) { return qb_exact_map(call, hard_sigmoid_rule); }
qb_status qb_exact_hard_swish(const exact_call *call) { return qb_exact_map(call, hard_swish_rule); }

/* ----------------------------------------------------------------------------------------- transcendental functions
 */

static slong precision(const exact_call *call) { return EXACT_BITS * (call->format->planes + 1); }

/* Arb keeps caches per thread, so one thread does it all. */
static qb_status map_arb(const exact_call *call, void (*function)(arb_t, const arb_t, slong)) {
  arb_t x;
  arb_init(x);
  for (int64_t i = 0; i < call->y->count; i++) {
    exact_number n;
    exact_load(call->format, call->in[0], i, &n);
    exact_to_arb(call->format, &n, x);
    function(x, x, precision(call));
    exact_from_arb(call->format, x, &n);
    exact_store(call->format, call->y, i, &n);
  }
  arb_clear(x);
  return QB_OK;
}

static void sigmoid(arb_t y, const arb_t x, slong bits) {
  arb_neg(y, x);
  arb_exp(y, y, bits);
  arb_add_ui(y, y, 1, bits);
  arb_inv(y, y, bits);
}

qb_status qb_exact_sigmoid(const exact_call *call) { return map_arb(call, sigmoid); }
qb_status qb_exact_tanh(const exact_call *call) { return map_arb(call, arb_tanh); }

/* e^x_i / sum_j e^x_j over one line of elements. */
static void softmax_line(const exact_call *call, int64_t start, int64_t length, int64_t stride, arb_ptr e) {
  slong bits = precision(call);
  arb_t sum;
  exact_number n;
  arb_init(sum);
  for (int64_t k = 0; k < length; k++) {
    exact_load(call->format, call->in[0], start + k * stride, &n);
    exact_to_arb(call->format, &n, e + k);
    arb_exp(e + k, e + k, bits);
    arb_add(sum, sum, e + k, bits);
  }
  for (int64_t k = 0; k < length; k++) {
    arb_div(e + k, e + k, sum, bits);
    exact_from_arb(call->format, e + k, &n);
    exact_store(call->format, call->y, start + k * stride, &n);
  }
  arb_clear(sum);
}

qb_status qb_exact_softmax(const exact_call *call) {
  int64_t length = 1, stride = 1;
  for (int32_t i = call->shape->rank - 1; i >= call->node->attributes.axes.end_axis; i--)
    stride *= call->shape->dims[i];
  for (int32_t i = call->node->attributes.axes.axis; i < call->node->attributes.axes.end_axis; i++)
    length *= call->shape->dims[i];
  arb_ptr e = _arb_vec_init((slong)length);
  for (int64_t i = 0; i < call->y->count / length; i++)
    softmax_line(call, i / stride * length * stride + i % stride, length, stride, e);
  _arb_vec_clear(e, (slong)length);
  return QB_OK;
}

/* y = gamma / sqrt(var + eps) (x - mean) + beta of channel c as factor and shift. */
static void batch_norm_map(const exact_call *call, int64_t c, exact_number *factor, exact_number *shift) {
  arb_t scale, t;
  arb_init(scale);
  arb_init(t);
  arb_set_d(scale, exact_constant(call, 4, c));
  arb_set_d(t, (double)call->node->attributes.batch_norm.epsilon);
  arb_add(scale, scale, t, precision(call));
  arb_rsqrt(scale, scale, precision(call));
  arb_set_d(t, exact_constant(call, 1, c));
  arb_mul(scale, scale, t, precision(call));
  exact_from_arb(call->format, scale, factor);
  arb_set_d(t, -exact_constant(call, 3, c));
  arb_mul(t, t, scale, precision(call));
  arb_set_d(scale, exact_constant(call, 2, c));
  arb_add(t, t, scale, precision(call));
  exact_from_arb(call->format, t, shift);
  arb_clear(scale);
  arb_clear(t);
}

qb_status qb_exact_batch_norm(const exact_call *call) {
  int64_t channels = call->shape->dims[1], area = call->y->count / (call->shape->dims[0] * channels);
  for (int64_t map = 0; map < call->y->count / area; map++) {
    exact_number factor, shift;
    batch_norm_map(call, map % channels, &factor, &shift);
#pragma omp parallel for
    for (int64_t i = map * area; i < (map + 1) * area; i++) {
      exact_number n;
      exact_load(call->format, call->in[0], i, &n);
      exact_multiply(call->format, &n, &factor, &n);
      exact_add(call->format, &n, &shift, &n);
      exact_store(call->format, call->y, i, &n);
    }
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- two tensors */

typedef void (*binary_rule)(const exact_call *call, exact_number *a, const exact_number *b);

static void map_pair(const exact_call *call, int64_t i, binary_rule rule) {
  exact_number operand[2];
  for (int32_t slot = 0; slot < 2; slot++)
    qb_exact_load_operand(call, slot, qb_shape_broadcast_index(call->shape, &call->operand[slot]->shape, i),
                          &operand[slot]);
  rule(call, &operand[0], &operand[1]);
  exact_store(call->format, call->y, i, &operand[0]);
}

static qb_status map_pairs(const exact_call *call, binary_rule rule) {
#pragma omp parallel for
  for (int64_t i = 0; i < call->y->count; i++)
    map_pair(call, i, rule);
  return QB_OK;
}

static void add_rule(const exact_call *call, exact_number *a, const exact_number *b) {
  (call->node->op == QB_OP_SUB ? exact_subtract : exact_add)(call->format, a, b, a);
}

static void multiply_rule(const exact_call *call, exact_number *a, const exact_number *b) {
  exact_multiply(call->format, a, b, a);
}

static void divide_rule(const exact_call *call, exact_number *a, const exact_number *b) {
  arb_t x, y;
  arb_init(x);
  arb_init(y);
  exact_to_arb(call->format, a, x);
  exact_to_arb(call->format, b, y);
  arb_div(x, x, y, precision(call));
  exact_from_arb(call->format, x, a);
  arb_clear(x);
  arb_clear(y);
}

qb_status qb_exact_add(const exact_call *call) { return map_pairs(call, add_rule); }

qb_status qb_exact_mul(const exact_call *call) {
  if (call->node->op != QB_OP_DIV)
    return map_pairs(call, multiply_rule);
  for (int64_t i = 0; i < call->y->count; i++)
    map_pair(call, i, divide_rule);
  return QB_OK;
}

static void prelu_element(const exact_call *call, int64_t i, exact_number *x) {
  leaky(call->format, exact_constant(call, 1, qb_shape_broadcast_index(call->shape, &call->operand[1]->shape, i)), x);
}

qb_status qb_exact_prelu(const exact_call *call) { return qb_exact_map(call, prelu_element); }
