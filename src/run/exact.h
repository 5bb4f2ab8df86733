/* The exact engine's parts: tensors of fixed-point numbers, the context of one call of an operator's rule, and the
 * rules. Private to run/.
 *
 * Digits lie in planes, one per place: plane p of a tensor holds digit p of every element, so that a linear layer is a
 * few products of matrices of digits. Constants have no tensor; they are read from the graph. */
#ifndef QB_RUN_EXACT_H
#define QB_RUN_EXACT_H

#include "run/engine.h"
#include "run/exact_number.h"

typedef struct exact_tensor {
  int64_t count;
  int32_t *digit; /* (planes, count) */
  double *r;      /* (count) */
} exact_tensor;

typedef struct exact_call {
  const exact_format *format;
  const qb_graph *graph;
  const qb_node *node;
  const qb_value *operand[QB_MAX_INPUTS]; /* NULL for a missing optional input */
  const exact_tensor *in[QB_MAX_INPUTS];  /* NULL for constants and missing inputs */
  const qb_shape *shape;                  /* of the output */
  exact_tensor *y;
  int threads;
  qb_error *error;
} exact_call;

/* For tests. A fraction that is not 0 replaces both formats of the engine, so that its errors can be seen; and planted
 * mistakes, none outside tests. */
typedef enum qb_exact_fault {
  QB_EXACT_FAULT_NONE,
  QB_EXACT_FAULT_NO_UNIT,     /* digits are dropped without a radius for it */
  QB_EXACT_FAULT_NO_RADIUS,   /* linear layers do not pass radii on */
  QB_EXACT_FAULT_CENTRE_CODE, /* a quantizer rounds the centre, however near a tie it is */
  QB_EXACT_FAULT_COUNT
} qb_exact_fault;

extern int qb_exact_fraction;
extern qb_exact_fault qb_exact_fault_planted;

typedef qb_status (*exact_rule)(const exact_call *call);

#define QB_OP(ID, NAME, FAMILY) qb_status qb_exact_##FAMILY(const exact_call *call);
#include "graph/op_list.h"

static inline void exact_load(const exact_format *f, const exact_tensor *x, int64_t i, exact_number *n) {
  for (int p = 0; p < f->planes; p++)
    n->d[p] = x->digit[p * x->count + i];
  n->r = x->r[i];
}

static inline void exact_store(const exact_format *f, exact_tensor *y, int64_t i, const exact_number *n) {
  for (int p = 0; p < f->planes; p++)
    y->digit[p * y->count + i] = (int32_t)n->d[p];
  y->r[i] = n->r;
}

/* Element i of an operand, activation or constant. */
void qb_exact_load_operand(const exact_call *call, int32_t slot, int64_t i, exact_number *n);

/* Applies `rule` to the elements of the first input one by one. */
typedef void (*exact_unary_rule)(const exact_call *call, int64_t i, exact_number *x);
qb_status qb_exact_map(const exact_call *call, exact_unary_rule rule);

/* Entry i of a constant operand. */
static inline double exact_constant(const exact_call *call, int32_t slot, int64_t i) {
  return (double)qb_view_f32(&call->operand[slot]->constant)[i];
}

#endif
