/* What evaluation in float32 adds to a bound (docs/bounds.md 3h): how far the computed output of a node can be from the
 * exact function of its computed inputs, whatever the order of sums, fused or not, with gradual underflow. */
#ifndef QB_BOUND_EVALUATION_H
#define QB_BOUND_EVALUATION_H

#include "bound/rounding.h"
#include "graph/pair.h"

/* What the relative part of the error is relative to, for one output element. */
typedef enum qb_evaluation_size {
  QB_SIZE_NONE,     /* no rounding at all: copies, maxima, limits, codes */
  QB_SIZE_OUTPUT,   /* |y| */
  QB_SIZE_OPERANDS, /* |a| + |b| */
  QB_SIZE_WEIGHTS,  /* |W| |x| + |b| */
  QB_SIZE_MEAN,     /* the mean of |x| over the window */
  QB_SIZE_INPUT     /* qb_evaluation_size_at(|x|) */
} qb_evaluation_size;

/* |computed - exact| <= gamma size + lost. */
typedef struct qb_evaluation {
  qb_evaluation_size size;
  double gamma, lost;
  double largest; /* a size above it may mean that a partial result overflows */
} qb_evaluation;

/* Of a node of the quantized graph, and its partner. NONE unless the pair asks for float32. Returns NULL, or why the
 * error of such a node is not known. */
const char *qb_evaluation_of(const qb_pair *pair, qb_node_id id, qb_evaluation *evaluation);

/* The error, rounded up; infinity where something may overflow. */
double qb_evaluation_error(const qb_evaluation *evaluation, double size);

/* QB_SIZE_INPUT: the size for |input| <= x at channel c of the node of `graph`. */
double qb_evaluation_size_at(const qb_graph *graph, const qb_node *node, int64_t c, double x);

/* Said where qb_evaluation_error is infinite. */
extern const char *const qb_evaluation_overflow;

#endif
