/* The layerwise graph bound (theory 3.1): sound for any graph of the supported operators.
 *
 * Nodes are evaluated in topological order on states of one number per channel; docs/bounds.md has the theorem and
 * the rules with proofs. */
#ifndef QB_BOUND_LAYERWISE_H
#define QB_BOUND_LAYERWISE_H

#include "bound/bound.h"
#include "bound/state.h"

typedef struct qb_layerwise {
  qb_arena arena;
  qb_bound_state *states; /* (quantized->value_count); `x` is NULL for constants and values no output depends on */
  qb_magnitude bound;     /* >= sup |R(x) - R'(x)| over the domain, over all outputs and elements */
} qb_layerwise;

/* Free with qb_layerwise_free in every case. QB_ERROR_UNSUPPORTED names a node without a rule for what it does,
 * QB_ERROR_SHAPE when the domain does not fit the input, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_layerwise_bound(const qb_pair *pair, const qb_domain *domain, qb_layerwise *layerwise,
                                           qb_error *error);

/* The original's value at element k of `value` (of the quantized graph) moves over the domain by at most this. */
double qb_layerwise_range(const qb_pair *pair, const qb_layerwise *layerwise, qb_value_id value, int64_t k);
void qb_layerwise_free(qb_layerwise *layerwise);

#endif
