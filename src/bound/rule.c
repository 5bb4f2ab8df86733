/* What the layerwise rules share: operands, constants of both graphs, differences of clips. */
#include "bound/rule.h"

#include "base/error.h"
#include "bound/fault.h"
#include "graph/shape_infer.h"

qb_fault qb_bound_fault = QB_FAULT_NONE;

const qb_value *qb_bound_rule_input_value(const qb_bound_rule_context *context, int32_t slot) {
  return &context->pair->quantized->values[context->node->inputs[slot]];
}

const qb_shape *qb_bound_rule_output_shape(const qb_bound_rule_context *context) {
  return &context->pair->quantized->values[context->node->output].shape;
}

bool qb_bound_rule_has_input(const qb_bound_rule_context *context, int32_t slot) {
  return slot < context->node->input_count && context->node->inputs[slot] != QB_NONE;
}

const qb_value *qb_bound_rule_constant(const qb_bound_rule_context *context, int32_t slot) {
  return qb_bound_rule_has_input(context, slot) ? qb_bound_rule_input_value(context, slot) : NULL;
}

const qb_value *qb_bound_rule_original_constant(const qb_bound_rule_context *context, int32_t slot) {
  const qb_node *original = context->original;
  if (original == NULL)
    return qb_bound_rule_constant(context, slot);
  if (slot >= original->input_count || original->inputs[slot] == QB_NONE)
    return NULL;
  return &context->pair->original->values[original->inputs[slot]];
}

qb_status qb_bound_rule_refuse(const qb_bound_rule_context *context, const char *why) {
  return qb_fail(context->error, QB_ERROR_UNSUPPORTED, "%s: node '%s' (%s): %s", context->pair->quantized->name,
                 context->node->name, qb_op_name(context->node->op), why);
}

qb_status qb_bound_rule_input(const qb_bound_rule_context *context, int32_t slot, const qb_bound_state **state) {
  *state = &context->states[context->node->inputs[slot]];
  if ((*state)->x == NULL)
    return qb_bound_rule_refuse(context, "its input is a constant or a value without bounds");
  if ((*state)->codes != NULL)
    return qb_bound_rule_refuse(context,
                                "there is no bound for an operator on integer codes; expected a DequantizeLinear");
  return QB_OK;
}

qb_status qb_bound_rule_plain_input(const qb_bound_rule_context *context, int32_t slot, qb_bound_state *state) {
  const qb_bound_state *input;
  QB_TRY(qb_bound_rule_input(context, slot, &input));
  return qb_state_rescale(context->scratch, input, 0, state, context->error);
}

qb_status qb_bound_rule_create_output(const qb_bound_rule_context *context, qb_bound_state *output) {
  return qb_state_create(context->arena, qb_state_channels(qb_bound_rule_output_shape(context)), output,
                         context->error);
}

/* ------------------------------------------------------------------------------------------------------- operands */

/* Offset of the constant's entry that meets the broadcast element `index` of shape `grid`. */
static int64_t broadcast_offset(const qb_shape *shape, const qb_shape *grid, int64_t index) {
  int64_t offset = 0, stride = 1;
  for (int32_t i = grid->rank - 1; i >= 0; i--) {
    int64_t at = index % grid->dims[i];
    int32_t own = i - (grid->rank - shape->rank);
    index /= grid->dims[i];
    if (own < 0)
      continue;
    if (shape->dims[own] != 1)
      offset += at * stride;
    stride *= shape->dims[own];
  }
  return offset;
}

/* The grid over which both constants vary: the output's shape with 1 wherever both have 1. */
static qb_shape common_grid(const qb_shape *output, const qb_shape *a, const qb_shape *b) {
  qb_shape grid = *output;
  for (int32_t i = 0; i < grid.rank; i++) {
    int32_t ia = i - (grid.rank - a->rank), ib = i - (grid.rank - b->rank);
    if ((ia < 0 || a->dims[ia] == 1) && (ib < 0 || b->dims[ib] == 1))
      grid.dims[i] = 1;
  }
  return grid;
}

/* One entry of both graphs, or its reciprocal: 1/c and 1/c' differ by |c - c'| / (|c| |c'|). */
static void include_constant(qb_bound_state *state, int64_t c, double x, double x_q, bool inverted, bool first) {
  qb_interval entry = qb_interval_point(x), entry_q = qb_interval_point(x_q);
  double e = x == x_q || qb_bound_fault == QB_FAULT_NO_OPERAND_CHANGE ? 0 : qb_up(fabs(x - x_q));
  if (inverted) {
    entry = qb_interval_inverse(entry);
    entry_q = qb_interval_inverse(entry_q);
    e = qb_up_product(e, qb_up_product(qb_interval_magnitude(entry), qb_interval_magnitude(entry_q)));
  }
  state->x[c] = first ? entry : qb_interval_hull(state->x[c], entry);
  state->x_q[c] = first ? entry_q : qb_interval_hull(state->x_q[c], entry_q);
  state->e[c] = fmax(state->e[c], e);
}

static qb_status constant_operand(const qb_bound_rule_context *context, int32_t slot, const qb_shape *output,
                                  bool inverted, qb_bound_state *state) {
  const qb_value *own = qb_bound_rule_constant(context, slot), *other = qb_bound_rule_original_constant(context, slot);
  qb_shape broadcast;
  if (other == NULL || !other->is_constant)
    return qb_bound_rule_refuse(context, "a constant operand has no counterpart in the original network");
  if (other->shape.rank > output->rank || own->shape.rank > output->rank ||
      !qb_shape_broadcast(&other->shape, output, &broadcast))
    return qb_bound_rule_refuse(context, "a constant operand has a shape that does not fit the original network's");
  const float *data = qb_view_f32(&own->constant), *original = qb_view_f32(&other->constant);
  qb_shape grid = common_grid(output, &own->shape, &other->shape);
  int64_t count = (int64_t)qb_shape_elements(&grid), inner = qb_state_inner(&grid), channels = qb_state_channels(&grid);
  QB_TRY(qb_state_create(context->scratch, channels, state, context->error));
  for (int64_t i = 0; i < count; i++)
    include_constant(state, i / inner % channels, (double)original[broadcast_offset(&other->shape, &grid, i)],
                     (double)data[broadcast_offset(&own->shape, &grid, i)], inverted,
                     i < channels * inner && i % inner == 0);
  qb_bound_state narrow = *state;
  return qb_state_spread(context->scratch, &narrow, qb_state_channels(output), state, context->error);
}

qb_status qb_bound_rule_operand(const qb_bound_rule_context *context, int32_t slot, const qb_shape *shape,
                                bool inverted, qb_bound_state *state) {
  const qb_value *value = qb_bound_rule_input_value(context, slot);
  const qb_bound_state *own;
  if (value->is_constant)
    return constant_operand(context, slot, shape, inverted, state);
  QB_TRY(qb_bound_rule_input(context, slot, &own));
  if (value->shape.rank == shape->rank)
    return qb_state_spread(context->scratch, own, qb_state_channels(shape), state, context->error);
  qb_bound_state wide; /* its channels sit on another axis: the hull of all */
  QB_TRY(qb_state_hull(context->scratch, own, &wide, context->error));
  return qb_state_spread(context->scratch, &wide, qb_state_channels(shape), state, context->error);
}

double qb_bound_rule_clip_difference(qb_interval x, qb_interval a, qb_interval b) {
  const double points[6] = {x.lo, x.hi, a.lo, a.hi, b.lo, b.hi};
  double largest = 0;
  for (int i = 0; i < 6; i++) {
    double p = qb_clamp(points[i], x.lo, x.hi), pa = qb_clamp(p, a.lo, a.hi), pb = qb_clamp(p, b.lo, b.hi);
    if (pa != pb)
      largest = fmax(largest, qb_up(fabs(pa - pb)));
  }
  return largest;
}
