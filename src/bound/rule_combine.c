/* Several inputs or constants per channel: Add, Sub, Mul, Div, Concat, BatchNormalization (theory 3.2). */
#include "base/error.h"
#include "bound/fault.h"
#include "bound/rule.h"

/* The operands of a homogeneous combination, brought to the largest of their exponents. */
static qb_status same_exponent(const qb_bound_rule_context *context, qb_bound_state *states, int32_t count) {
  int32_t exponent = states[0].exponent;
  for (int32_t i = 1; i < count; i++)
    exponent = states[i].exponent > exponent ? states[i].exponent : exponent;
  for (int32_t i = 0; i < count; i++) {
    qb_bound_state own = states[i];
    if (own.exponent != exponent)
      QB_TRY(qb_state_rescale(context->scratch, &own, exponent, &states[i], context->error));
  }
  return QB_OK;
}

qb_status qb_bound_rule_add(const qb_bound_rule_context *context, qb_bound_state *output) {
  qb_bound_state operands[2];
  for (int32_t slot = 0; slot < 2; slot++)
    QB_TRY(qb_bound_rule_operand(context, slot, qb_bound_rule_output_shape(context), false, &operands[slot]));
  QB_TRY(same_exponent(context, operands, 2));
  QB_TRY(qb_bound_rule_create_output(context, output));
  const qb_bound_state *a = &operands[0], *b = &operands[1];
  bool subtract = context->node->op == QB_OP_SUB, larger_only = qb_bound_fault == QB_FAULT_SHORT_RESIDUAL;
  output->exponent = a->exponent;
  for (int64_t c = 0; c < output->channels; c++) {
    output->x[c] = subtract ? qb_interval_subtract(a->x[c], b->x[c]) : qb_interval_add(a->x[c], b->x[c]);
    output->x_q[c] = subtract ? qb_interval_subtract(a->x_q[c], b->x_q[c]) : qb_interval_add(a->x_q[c], b->x_q[c]);
    output->e[c] = larger_only ? fmax(a->e[c], b->e[c]) : qb_up_sum(a->e[c], b->e[c]);
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ Mul, Div */

/* Reciprocals of an activation: 1/v and 1/v' differ by |v - v'| / (|v| |v'|). */
static void invert(qb_bound_state *v) {
  for (int64_t c = 0; c < v->channels; c++) {
    v->x[c] = qb_interval_inverse(v->x[c]);
    v->x_q[c] = qb_interval_inverse(v->x_q[c]);
    double scale = qb_up_product(qb_interval_magnitude(v->x[c]), qb_interval_magnitude(v->x_q[c]));
    v->e[c] = qb_up_product(v->e[c], scale);
  }
}

/* u v - u' v' = u (v - v') + v' (u - u') = u' (v - v') + v (u - u'). */
static double product_error(const qb_bound_state *u, const qb_bound_state *v, int64_t c) {
  double a_u = qb_interval_magnitude(u->x[c]), a_u_q = qb_interval_magnitude(u->x_q[c]);
  double a_v = qb_interval_magnitude(v->x[c]), a_v_q = qb_interval_magnitude(v->x_q[c]);
  double first = qb_up_sum(qb_up_product(a_u, v->e[c]), qb_up_product(a_v_q, u->e[c]));
  double second = qb_up_sum(qb_up_product(a_u_q, v->e[c]), qb_up_product(a_v, u->e[c]));
  if (qb_bound_fault == QB_FAULT_MUL_ONE_SIDED)
    return qb_up_product(a_u, v->e[c]);
  return fmin(first, second);
}

qb_status qb_bound_rule_mul(const qb_bound_rule_context *context, qb_bound_state *output) {
  qb_bound_state operands[2], u, v;
  const qb_shape *shape = qb_bound_rule_output_shape(context);
  bool divide = context->node->op == QB_OP_DIV;
  QB_TRY(qb_bound_rule_operand(context, 0, shape, false, &operands[0]));
  QB_TRY(qb_bound_rule_operand(context, 1, shape, divide, &operands[1]));
  QB_TRY(qb_state_rescale(context->scratch, &operands[0], 0, &u, context->error));
  QB_TRY(qb_state_rescale(context->scratch, &operands[1], 0, &v, context->error));
  if (divide && !qb_bound_rule_input_value(context, 1)->is_constant)
    invert(&v);
  QB_TRY(qb_bound_rule_create_output(context, output));
  for (int64_t c = 0; c < output->channels; c++) {
    output->x[c] = qb_interval_multiply(u.x[c], v.x[c]);
    output->x_q[c] = qb_interval_multiply(u.x_q[c], v.x_q[c]);
    output->e[c] = product_error(&u, &v, c);
  }
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- Concat */

/* Along the channel axis parts follow each other; along another axis a channel is the hull of the parts' channels. */
qb_status qb_bound_rule_concat(const qb_bound_rule_context *context, qb_bound_state *output) {
  qb_bound_state parts[QB_MAX_INPUTS];
  int32_t count = context->node->input_count;
  bool along_channels = context->node->attributes.axes.axis == 1;
  for (int32_t slot = 0; slot < count; slot++)
    QB_TRY(qb_bound_rule_operand(context, slot, &qb_bound_rule_input_value(context, slot)->shape, false, &parts[slot]));
  QB_TRY(same_exponent(context, parts, count));
  QB_TRY(qb_bound_rule_create_output(context, output));
  output->exponent = parts[0].exponent;
  int64_t offset = 0;
  for (int32_t slot = 0; slot < count; slot++) {
    for (int64_t c = 0; c < parts[slot].channels; c++)
      qb_state_include(output, offset + c, &parts[slot], c, along_channels || slot == 0);
    offset += along_channels ? parts[slot].channels : 0;
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- BatchNorm */

typedef struct affine {
  qb_interval scale, shift;
} affine;

/* s = gamma / sqrt(var + eps), t = beta - mean s, enclosed. */
static affine batch_norm_affine(const qb_graph *graph, const qb_node *node, int64_t c) {
  double v[5];
  for (int32_t slot = 1; slot < 5; slot++)
    v[slot] = (double)qb_view_f32(&graph->values[node->inputs[slot]].constant)[c];
  qb_interval variance =
      qb_interval_add(qb_interval_point(v[4]), qb_interval_point((double)node->attributes.batch_norm.epsilon));
  if (!(variance.lo > 0))
    return (affine){{-INFINITY, INFINITY}, {-INFINITY, INFINITY}};
  qb_interval root = {qb_down(sqrt(variance.lo)), qb_up(sqrt(variance.hi))};
  qb_interval scale = qb_interval_multiply(qb_interval_point(v[1]), qb_interval_inverse(root));
  return (affine){scale,
                  qb_interval_subtract(qb_interval_point(v[2]), qb_interval_multiply(qb_interval_point(v[3]), scale))};
}

/* Whether both nodes have equal statistics bit for bit; then their affine maps are the same real numbers. */
static bool same_batch_norm(const qb_bound_rule_context *context, int64_t c) {
  if (context->node->attributes.batch_norm.epsilon != context->original->attributes.batch_norm.epsilon)
    return false;
  for (int32_t slot = 1; slot < 5; slot++)
    if (qb_view_f32(&qb_bound_rule_constant(context, slot)->constant)[c] !=
        qb_view_f32(&qb_bound_rule_original_constant(context, slot)->constant)[c])
      return false;
  return true;
}

/* s x + t - (s' x' + t') = s' (x - x') + (s - s') x + (t - t'), or with s and x' in the first two terms. */
qb_status qb_bound_rule_batch_norm(const qb_bound_rule_context *context, qb_bound_state *output) {
  qb_bound_state in;
  QB_TRY(qb_bound_rule_plain_input(context, 0, &in));
  QB_TRY(qb_bound_rule_create_output(context, output));
  if (context->original == NULL)
    return qb_bound_rule_refuse(context, "the original network has no such node");
  for (int64_t c = 0; c < output->channels; c++) {
    affine own = batch_norm_affine(context->pair->original, context->original, c);
    affine other = batch_norm_affine(context->pair->quantized, context->node, c);
    output->x[c] = qb_interval_add(qb_interval_multiply(own.scale, in.x[c]), own.shift);
    output->x_q[c] = qb_interval_add(qb_interval_multiply(other.scale, in.x_q[c]), other.shift);
    double slope = qb_interval_magnitude(own.scale), slope_q = qb_interval_magnitude(other.scale);
    double first = qb_up_product(slope_q, in.e[c]), second = qb_up_product(slope, in.e[c]), constant = 0;
    if (!same_batch_norm(context, c)) {
      double change = qb_interval_magnitude(qb_interval_subtract(own.scale, other.scale));
      constant = qb_interval_magnitude(qb_interval_subtract(own.shift, other.shift));
      first = qb_up_sum(first, qb_up_product(change, qb_interval_magnitude(in.x[c])));
      second = qb_up_sum(second, qb_up_product(change, qb_interval_magnitude(in.x_q[c])));
    }
    output->e[c] = qb_up_sum(fmin(first, second), constant);
  }
  return QB_OK;
}
