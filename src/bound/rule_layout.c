/* Operators that move, select or average elements: pools, reshapes, transposes, pads (theory 3.2). */
#include <string.h>

#include "base/error.h"
#include "bound/fault.h"
#include "bound/rule.h"

/* The input's state with codes allowed: the same numbers under another layout. */
static const qb_bound_state *any_input(const qb_bound_rule_context *context) {
  return &context->states[context->node->inputs[0]];
}

static qb_status copy_state(const qb_bound_rule_context *context, const qb_bound_state *source,
                            qb_bound_state *output) {
  return qb_state_spread(context->arena, source, source->channels, output, context->error);
}

/* --------------------------------------------------------------------------------------------------------- pools */

static bool has_pads(const qb_window *window) {
  return window->pad_begin[0] > 0 || window->pad_begin[1] > 0 || window->pad_end[0] > 0 || window->pad_end[1] > 0;
}

/* The two networks must look through the same window. */
static qb_status check_window(const qb_bound_rule_context *context) {
  if (context->original == NULL || memcmp(&context->node->attributes.pool.window,
                                          &context->original->attributes.pool.window, sizeof(qb_window)) != 0)
    return qb_bound_rule_refuse(context, "the original network has another window");
  return QB_OK;
}

/* A maximum of values that are each within e moves by at most e; pads never win. */
qb_status qb_bound_rule_max_pool(const qb_bound_rule_context *context, qb_bound_state *output) {
  const qb_bound_state *input;
  QB_TRY(qb_bound_rule_input(context, 0, &input));
  QB_TRY(check_window(context));
  return copy_state(context, input, output);
}

/* A mean of values of one channel; with count_include_pad zeros take part. */
qb_status qb_bound_rule_average(const qb_bound_rule_context *context, qb_bound_state *output) {
  const qb_bound_state *input;
  const qb_pool_attributes *pool = &context->node->attributes.pool;
  QB_TRY(qb_bound_rule_input(context, 0, &input));
  if (context->node->op == QB_OP_AVERAGE_POOL)
    QB_TRY(check_window(context));
  QB_TRY(copy_state(context, input, output));
  bool zeros = context->node->op == QB_OP_AVERAGE_POOL && pool->count_include_pad && has_pads(&pool->window);
  for (int64_t c = 0; c < output->channels && zeros && qb_bound_fault != QB_FAULT_NO_PAD; c++) {
    output->x[c] = qb_interval_hull(output->x[c], qb_interval_point(0));
    output->x_q[c] = qb_interval_hull(output->x_q[c], qb_interval_point(0));
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------- reshape, transpose */

/* Element i keeps its place in row-major order, but may belong to another channel. */
qb_status qb_bound_rule_reshape(const qb_bound_rule_context *context, qb_bound_state *output) {
  const qb_bound_state *input = any_input(context);
  const qb_shape *from = &qb_bound_rule_input_value(context, 0)->shape, *to = qb_bound_rule_output_shape(context);
  if (input->x == NULL)
    return qb_bound_rule_refuse(context, "its input is a constant or a value without bounds");
  int64_t inner_from = qb_state_inner(from), inner_to = qb_state_inner(to);
  int64_t channels = qb_state_channels(to), count = (int64_t)qb_shape_elements(to);
  if (channels == input->channels && inner_from == inner_to)
    return copy_state(context, input, output);
  QB_TRY(qb_bound_rule_create_output(context, output));
  output->exponent = input->exponent;
  output->codes = input->codes;
  for (int64_t i = 0; i < count;) {
    int64_t c = i / inner_to % channels, run = inner_to - i % inner_to, run_from = inner_from - i % inner_from;
    qb_state_include(output, c, input, i / inner_from % input->channels, i < channels * inner_to && i % inner_to == 0);
    i += run < run_from ? run : run_from; /* both channels stay the same until one run ends */
  }
  return QB_OK;
}

qb_status qb_bound_rule_transpose(const qb_bound_rule_context *context, qb_bound_state *output) {
  const qb_bound_state *input = any_input(context);
  const qb_shape *shape = qb_bound_rule_output_shape(context);
  const int32_t *permutation = context->node->attributes.transpose.permutation;
  if (input->x == NULL)
    return qb_bound_rule_refuse(context, "its input is a constant or a value without bounds");
  if (shape->rank < 2 || permutation[1] == 1)
    return copy_state(context, input, output);
  qb_bound_state hull;
  QB_TRY(qb_state_hull(context->scratch, input, &hull, context->error));
  return qb_state_spread(context->arena, &hull, qb_state_channels(shape), output, context->error);
}

/* ------------------------------------------------------------------------------------------------------------- Pad */

/* A state of one channel that holds the pad value of both networks. */
static qb_status pad_state(const qb_bound_rule_context *context, qb_bound_state *state) {
  double value_q = (double)context->node->attributes.pad.value;
  double value = context->original == NULL ? value_q : (double)context->original->attributes.pad.value;
  QB_TRY(qb_state_create(context->scratch, 1, state, context->error));
  state->x[0] = qb_interval_point(value);
  state->x_q[0] = qb_interval_point(value_q);
  state->e[0] = value == value_q ? 0 : qb_up(fabs(value - value_q));
  return QB_OK;
}

/* Whether an axis other than the channels' gains elements. */
static bool pads_within_channels(const qb_bound_rule_context *context) {
  const qb_shape *shape = qb_bound_rule_output_shape(context);
  for (int32_t i = 0; i < shape->rank; i++)
    if ((i != 1 || shape->rank < 2) &&
        (context->node->attributes.pad.begin[i] > 0 || context->node->attributes.pad.end[i] > 0))
      return true;
  return false;
}

qb_status qb_bound_rule_pad(const qb_bound_rule_context *context, qb_bound_state *output) {
  qb_bound_state input, value;
  QB_TRY(qb_bound_rule_plain_input(context, 0, &input));
  QB_TRY(pad_state(context, &value));
  QB_TRY(qb_bound_rule_create_output(context, output));
  bool within = pads_within_channels(context) && qb_bound_fault != QB_FAULT_NO_PAD;
  int64_t begin = qb_bound_rule_output_shape(context)->rank < 2 ? 0 : context->node->attributes.pad.begin[1];
  for (int64_t c = 0; c < output->channels; c++) {
    bool copied = c >= begin && c - begin < input.channels;
    qb_state_include(output, c, copied ? &input : &value, copied ? c - begin : 0, true);
    if (copied && within)
      qb_state_include(output, c, &value, 0, false);
  }
  return QB_OK;
}
