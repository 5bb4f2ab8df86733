/* Maps of one activation, entry by entry: ranges by monotonicity, differences by the slope (theory 3.2). */
#include <arb.h>
#include <stdbool.h>

#include "base/error.h"
#include "bound/fault.h"
#include "bound/rule.h"

/* Each channel through `map`, which changes one channel's numbers in place. Homogeneous maps keep the exponent. */
typedef struct channel {
  qb_interval x, x_q;
  double e;
} channel;

static channel read_channel(const qb_bound_state *state, int64_t c) {
  return (channel){state->x[c], state->x_q[c], state->e[c]};
}

static void write_channel(qb_bound_state *state, int64_t c, channel v) {
  state->x[c] = v.x;
  state->x_q[c] = v.x_q;
  state->e[c] = v.e;
}

/* The output as a copy of the input, to be changed channel by channel. */
static qb_status copy_input(const qb_bound_rule_context *context, bool plain, qb_bound_state *output) {
  const qb_bound_state *input;
  QB_TRY(qb_bound_rule_input(context, 0, &input));
  return qb_state_rescale(context->arena, input, plain ? 0 : input->exponent, output, context->error);
}

static qb_interval relu(qb_interval x) { return (qb_interval){fmax(x.lo, 0), fmax(x.hi, 0)}; }

qb_status qb_bound_rule_relu(const qb_bound_rule_context *context, qb_bound_state *output) {
  QB_TRY(copy_input(context, false, output));
  for (int64_t c = 0; c < output->channels; c++) {
    output->x[c] = relu(output->x[c]);
    output->x_q[c] = relu(output->x_q[c]);
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------- leaky and PRelu */

/* f(x) = max(x, 0) + s min(x, 0) for every slope s of an interval. */
static qb_interval leaky_range(qb_interval x, qb_interval slope) {
  qb_interval negative = {fmin(x.lo, 0), fmin(x.hi, 0)};
  return qb_interval_add(relu(x), qb_interval_multiply(slope, negative));
}

/* f - f' = (f(x) - f(x')) + (s - s') min(x', 0), or the same around f'. */
static channel leaky(channel v, qb_interval slope, qb_interval slope_q, double slope_change) {
  double steep = fmax(1, qb_interval_magnitude(slope)), steep_q = fmax(1, qb_interval_magnitude(slope_q));
  double first = qb_up_sum(qb_up_product(steep, v.e), qb_up_product(slope_change, fmax(0, -v.x_q.lo)));
  double second = qb_up_sum(qb_up_product(steep_q, v.e), qb_up_product(slope_change, fmax(0, -v.x.lo)));
  return (channel){leaky_range(v.x, slope), leaky_range(v.x_q, slope_q), fmin(first, second)};
}

qb_status qb_bound_rule_leaky_relu(const qb_bound_rule_context *context, qb_bound_state *output) {
  QB_TRY(copy_input(context, false, output));
  double slope_q = (double)context->node->attributes.linear.alpha;
  double slope = context->original == NULL ? slope_q : (double)context->original->attributes.linear.alpha;
  double change = slope == slope_q ? 0 : qb_up(fabs(slope - slope_q));
  for (int64_t c = 0; c < output->channels; c++)
    write_channel(output, c,
                  leaky(read_channel(output, c), qb_interval_point(slope), qb_interval_point(slope_q), change));
  return QB_OK;
}

qb_status qb_bound_rule_prelu(const qb_bound_rule_context *context, qb_bound_state *output) {
  qb_bound_state slope;
  QB_TRY(copy_input(context, false, output));
  if (!qb_bound_rule_input_value(context, 1)->is_constant)
    return qb_bound_rule_refuse(context, "the slope is not a constant");
  QB_TRY(qb_bound_rule_operand(context, 1, qb_bound_rule_output_shape(context), false, &slope));
  for (int64_t c = 0; c < output->channels; c++)
    write_channel(output, c, leaky(read_channel(output, c), slope.x[c], slope.x_q[c], slope.e[c]));
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------------ Clip */

static qb_interval clip_limits(const qb_node *node, int64_t c) {
  const qb_clip_attributes *clip = &node->attributes.clip;
  return (qb_interval){(double)clip->lo, (double)(clip->hi_channels == NULL ? clip->hi : clip->hi_channels[c])};
}

static qb_interval clamp(qb_interval x, qb_interval limits) {
  return (qb_interval){qb_clamp(x.lo, limits.lo, limits.hi), qb_clamp(x.hi, limits.lo, limits.hi)};
}

/* clip - clip' = (clip(x) - clip(x')) + (clip(x') - clip'(x')), or the same around clip'. The cap e <= C - c is part
 * of the tightening that follows every rule. */
qb_status qb_bound_rule_clip(const qb_bound_rule_context *context, qb_bound_state *output) {
  QB_TRY(copy_input(context, true, output));
  for (int64_t c = 0; c < output->channels; c++) {
    qb_interval limits_q = clip_limits(context->node, c), limits = limits_q;
    if (context->original != NULL)
      limits = clip_limits(context->original, c);
    double change = fmin(qb_bound_rule_clip_difference(output->x[c], limits, limits_q),
                         qb_bound_rule_clip_difference(output->x_q[c], limits, limits_q));
    if (qb_bound_fault != QB_FAULT_NO_CLIP_CHANGE)
      output->e[c] = qb_up_sum(output->e[c], change);
    output->x[c] = clamp(output->x[c], limits);
    output->x_q[c] = clamp(output->x_q[c], limits_q);
  }
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------- smooth maps */

enum { PRECISION = 80 };

/* An enclosure of f at a finite point, in ball arithmetic. */
static qb_interval enclose(void (*f)(arb_t, double), double x) {
  arb_t y;
  arf_t limit;
  qb_interval result;
  arb_init(y);
  arf_init(limit);
  f(y, x);
  arb_get_lbound_arf(limit, y, PRECISION);
  result.lo = arf_get_d(limit, ARF_RND_FLOOR);
  arb_get_ubound_arf(limit, y, PRECISION);
  result.hi = arf_get_d(limit, ARF_RND_CEIL);
  arf_clear(limit);
  arb_clear(y);
  return result;
}

static void arb_logistic(arb_t y, double x) { /* 1 / (1 + exp(-x)) */
  arb_set_d(y, -x);
  arb_exp(y, y, PRECISION);
  arb_add_ui(y, y, 1, PRECISION);
  arb_inv(y, y, PRECISION);
}

static void arb_tangent(arb_t y, double x) {
  arb_set_d(y, x);
  arb_tanh(y, y, PRECISION);
}

/* An increasing map with the given limits at infinity; arguments beyond +-700 give the limits. */
static qb_interval increasing(void (*f)(arb_t, double), qb_interval x, qb_interval limits) {
  double lo = x.lo > -700 ? enclose(f, fmin(x.lo, 700)).lo : limits.lo;
  double hi = x.hi < 700 ? enclose(f, fmax(x.hi, -700)).hi : limits.hi;
  return clamp((qb_interval){lo, hi}, limits);
}

qb_status qb_bound_rule_sigmoid(const qb_bound_rule_context *context, qb_bound_state *output) {
  const qb_interval limits = {0, 1};
  QB_TRY(copy_input(context, true, output));
  for (int64_t c = 0; c < output->channels; c++) {
    output->x[c] = increasing(arb_logistic, output->x[c], limits);
    output->x_q[c] = increasing(arb_logistic, output->x_q[c], limits);
    output->e[c] = qb_up_product(0.25, output->e[c]);
  }
  return QB_OK;
}

qb_status qb_bound_rule_tanh(const qb_bound_rule_context *context, qb_bound_state *output) {
  const qb_interval limits = {-1, 1};
  QB_TRY(copy_input(context, true, output));
  for (int64_t c = 0; c < output->channels; c++) {
    output->x[c] = increasing(arb_tangent, output->x[c], limits);
    output->x_q[c] = increasing(arb_tangent, output->x_q[c], limits);
  }
  return QB_OK;
}

/* clip(alpha x + beta, 0, 1) over a range, alpha of any sign. */
static qb_interval hard_sigmoid(qb_interval x, double alpha, double beta) {
  qb_interval line = qb_interval_add(qb_interval_multiply(qb_interval_point(alpha), x), qb_interval_point(beta));
  return clamp(line, (qb_interval){0, 1});
}

qb_status qb_bound_rule_hard_sigmoid(const qb_bound_rule_context *context, qb_bound_state *output) {
  QB_TRY(copy_input(context, true, output));
  const qb_attributes *own = &context->node->attributes;
  const qb_attributes *other = context->original == NULL ? own : &context->original->attributes;
  double alpha = (double)other->linear.alpha, beta = (double)other->linear.beta;
  double alpha_q = (double)own->linear.alpha, beta_q = (double)own->linear.beta;
  bool same = alpha == alpha_q && beta == beta_q; /* else only the ranges bound the difference */
  for (int64_t c = 0; c < output->channels; c++) {
    output->x[c] = hard_sigmoid(output->x[c], alpha, beta);
    output->x_q[c] = hard_sigmoid(output->x_q[c], alpha_q, beta_q);
    output->e[c] = same ? qb_up_product(fabs(alpha), output->e[c]) : INFINITY;
  }
  return QB_OK;
}

/* x clip(x / 6 + 1 / 2, 0, 1) at a point; limits 0 and infinity. */
static qb_interval hard_swish_at(double x) {
  if (isinf(x))
    return x > 0 ? (qb_interval){x, x} : (qb_interval){0, 0};
  qb_interval gate = qb_interval_multiply(qb_interval_add(qb_interval_point(x), qb_interval_point(3)),
                                          qb_interval_inverse(qb_interval_point(6)));
  return qb_interval_multiply(qb_interval_point(x), clamp(gate, (qb_interval){0, 1}));
}

/* Decreasing up to -1.5, where it is -0.375, then increasing. */
static qb_interval hard_swish(qb_interval x) {
  qb_interval range = qb_interval_hull(hard_swish_at(x.lo), hard_swish_at(x.hi));
  if (x.lo < -1.5 && x.hi > -1.5)
    range.lo = -0.375;
  if (x.lo < -3 && x.hi > -3)
    range.hi = fmax(range.hi, 0);
  return range;
}

/* The slope lies in [-1/2, 3/2]. */
qb_status qb_bound_rule_hard_swish(const qb_bound_rule_context *context, qb_bound_state *output) {
  QB_TRY(copy_input(context, true, output));
  for (int64_t c = 0; c < output->channels; c++) {
    output->x[c] = hard_swish(output->x[c]);
    output->x_q[c] = hard_swish(output->x_q[c]);
    output->e[c] = qb_up_product(1.5, output->e[c]);
  }
  return QB_OK;
}

/* Row i of the Jacobian is p_i (delta_ij - p_j), whose l1 norm is 2 p_i (1 - p_i) <= 1/2. */
qb_status qb_bound_rule_softmax(const qb_bound_rule_context *context, qb_bound_state *output) {
  QB_TRY(copy_input(context, true, output));
  double factor = qb_bound_fault == QB_FAULT_SOFTMAX_QUARTER ? 0.25 : 0.5, largest = 0;
  int32_t axis = context->node->attributes.axes.axis, end = context->node->attributes.axes.end_axis;
  bool mixes_channels = axis <= 1 && end > 1;
  for (int64_t c = 0; c < output->channels; c++)
    largest = fmax(largest, output->e[c]);
  for (int64_t c = 0; c < output->channels; c++) {
    double e = mixes_channels ? largest : output->e[c];
    write_channel(output, c, (channel){{0, 1}, {0, 1}, fmin(1, qb_up_product(factor, e))});
  }
  return QB_OK;
}
