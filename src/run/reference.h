/* The reference engine's parts: values, the context of one call of an operator's rule, and the rules. Private to run/.
 *
 * A rule computes its node's output from its inputs with plain loops, in an order that does not depend on the number
 * of threads, and, when the output has a radius, the bound of radius.h. */
#ifndef QB_RUN_REFERENCE_H
#define QB_RUN_REFERENCE_H

#include "run/engine.h"
#include "run/radius.h"

typedef struct reference_value {
  qb_shape shape; /* of the current call: dims[0] times the number of samples for activations */
  size_t count;   /* elements */
  double *x;
  double *r; /* NULL: exact, or radii were not asked for */
  bool is_constant;
} reference_value;

typedef struct reference_call {
  const qb_node *node;
  const reference_value *in[QB_MAX_INPUTS]; /* NULL for a missing optional input */
  reference_value *y;
  double *scratch;       /* as many elements as the largest activation; NULL without radii */
  const rounding *units; /* what the radii cover */
} reference_call;

/* For tests: not 0, codes of quantizers are off by -1, 0 or 1, drawn from this seed, within their range. */
extern uint64_t qb_reference_code_noise;

typedef void (*reference_rule)(const reference_call *call);

#define QB_OP(ID, NAME, FAMILY) void qb_reference_##FAMILY(const reference_call *call);
#include "graph/op_list.h"

static inline ball value_ball(const reference_value *value, size_t i) {
  return (ball){value->x[i], value->r == NULL ? 0.0 : value->r[i]};
}

static inline void value_set(reference_value *value, size_t i, ball b) {
  value->x[i] = b.x;
  if (value->r != NULL)
    value->r[i] = b.r;
}

#endif
