/* The layerwise rules, one per operator family (theory 3.2): from the states of a node's inputs to its output's. */
#ifndef QB_BOUND_RULE_H
#define QB_BOUND_RULE_H

#include "bound/state.h"
#include "graph/pair.h"

typedef struct qb_bound_rule_context {
  const qb_pair *pair;
  const qb_node *node;          /* of the quantized graph */
  const qb_node *original;      /* its partner, NULL for nodes that only the quantized graph has */
  const qb_bound_state *states; /* by quantized value */
  qb_arena *arena;              /* of the output's state */
  qb_arena *scratch;            /* emptied after the rule */
  qb_error *error;
} qb_bound_rule_context;

typedef qb_status (*qb_bound_rule)(const qb_bound_rule_context *context, qb_bound_state *output);

/* Every family of op_list.h has its rule; an operator of a family without one does not link. */
#define QB_OP(ID, NAME, FAMILY) \
  qb_status qb_bound_rule_##FAMILY(const qb_bound_rule_context *context, qb_bound_state *output);
#include "graph/op_list.h"

/* Adds to a finished output what float32 evaluation does there, where the pair asks for it (evaluation.h).
 * QB_ERROR_UNSUPPORTED where that is not known or something may overflow. */
QB_MUST_CHECK qb_status qb_bound_rule_evaluate(const qb_bound_rule_context *context, qb_bound_state *output);

/* ------------------------------------------------------------------------------------------- shared by the rules */

const qb_value *qb_bound_rule_input_value(const qb_bound_rule_context *context, int32_t slot);
const qb_shape *qb_bound_rule_output_shape(const qb_bound_rule_context *context);
bool qb_bound_rule_has_input(const qb_bound_rule_context *context, int32_t slot);

/* The data of a constant input of the quantized node and of its partner (the quantized node's own when there is no
 * partner, or when the partner's is no constant). */
const qb_value *qb_bound_rule_constant(const qb_bound_rule_context *context, int32_t slot);
const qb_value *qb_bound_rule_original_constant(const qb_bound_rule_context *context, int32_t slot);

/* The state of an activation as it is, any exponent. Integer codes are refused with QB_ERROR_UNSUPPORTED. */
QB_MUST_CHECK qb_status qb_bound_rule_input(const qb_bound_rule_context *context, int32_t slot,
                                            const qb_bound_state **state);

/* The same with exponent 0: huge values become infinite. For maps that are not homogeneous. */
QB_MUST_CHECK qb_status qb_bound_rule_plain_input(const qb_bound_rule_context *context, int32_t slot,
                                                  qb_bound_state *state);

/* Activation (any exponent) or constant (exponent 0), broadcast to the channels of `shape`. A constant's range is that
 * of its entries per channel, and its e the largest difference between the two graphs' entries; with `inverted` that
 * of the entries' reciprocals (constants only). */
QB_MUST_CHECK qb_status qb_bound_rule_operand(const qb_bound_rule_context *context, int32_t slot, const qb_shape *shape,
                                              bool inverted, qb_bound_state *state);

/* The output's state, zeroed, with one entry per channel. */
QB_MUST_CHECK qb_status qb_bound_rule_create_output(const qb_bound_rule_context *context, qb_bound_state *output);

/* QB_ERROR_UNSUPPORTED naming the node, for what has no rule. */
qb_status qb_bound_rule_refuse(const qb_bound_rule_context *context, const char *why);

/* sup over x in [lo, hi] of |clip(x; a) - clip(x; b)|, rounded up. The difference is piecewise linear with kinks at
 * the four limits. */
double qb_bound_rule_clip_difference(qb_interval x, qb_interval a, qb_interval b);

#endif
