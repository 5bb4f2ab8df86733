/* The rules of the backward pass. Private to search/. */
#ifndef QB_SEARCH_GRADIENT_INTERNAL_H
#define QB_SEARCH_GRADIENT_INTERNAL_H

#include "run/run.h"

/* One value at batch one. */
typedef struct pulled_value {
  const qb_shape *shape;
  int64_t count;
  const float *x; /* activation of the last forward call, or the constant */
  float *d;       /* what arrived so far; NULL for constants */
} pulled_value;

/* A rule adds to d of its node's inputs what d of the output means for them. */
typedef struct pull_call {
  const qb_node *node;
  const pulled_value *in[QB_MAX_INPUTS]; /* NULL for a missing optional input */
  const pulled_value *y;
} pull_call;

typedef void (*pull_rule)(const pull_call *call);

#define QB_OP(ID, NAME, FAMILY) void qb_pull_##FAMILY(const pull_call *call);
#include "graph/op_list.h"

#endif
