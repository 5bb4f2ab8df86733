/* Shared by check_l2.c (weights, layers, gates, the walk) and check_l2_rules.c (all other operators). */
#ifndef QB_CHECK_CHECK_L2_H
#define QB_CHECK_CHECK_L2_H

#include "check/check_bound.h"
#include "check/check_cells.h"

/* ||T^-1 (x - x')||_2, ||T^-1 (x - c)||_2, max |x - x'| */
typedef struct norms {
  double error, spread, peak;
} norms;

typedef struct l2 {
  const claim *c;
  const qb_pair *pair;
  qb_pair exact;         /* the same without float32: for the centre */
  const qb_graph *graph; /* the quantized one */
  walk at_centre;        /* both networks at the centre: points, with the rounding taken off after every node */
  qb_arena arena, scratch;
  norms *values;                 /* by value */
  const double **weights;        /* by value: T, NULL for ones */
  const claim_layer **layers;    /* by node, NULL without a claim */
  double (*sigma)[CLAIM_SIGMAS]; /* by node: proved */
  double *drift, *injection;     /* by node */
  bool product;                  /* the method: intervals of every element beside the norms, each limiting the other */
  walk intervals;                /* then: */
  double *limits; /* (elements of the largest value) |x - x'| at the output of the layer that was visited last */
  qb_node_id limited;
  recomputed *result;
  qb_error *error;
} l2;

static inline double root_up(double x) { return x == 0 ? 0 : above(sqrt(x)); }

/* max t, max 1/t. */
double l2_largest_weight(const l2 *s, qb_value_id v, bool inverse);

/* What a norm in the weights of `from` is multiplied with to become one in those of `to`; `aligned` when channel c of
 * one comes from channel c of the other. */
double l2_conversion(const l2 *s, qb_value_id from, qb_value_id to, bool aligned);

/* ||T^-1 d||_2, T the weights of value v. */
double l2_norm_of(const l2 *s, qb_value_id v, const range *d, int64_t count);

/* ||row o of (plus - minus) T||_2, T the weights of the layer's input; `minus` may be NULL. Of the whole matrix for
 * transposed convolutions. */
double l2_row_norm(const l2 *s, qb_node_id id, const qb_linear *l, const float *plus, const float *minus, int64_t o);

/* Adds what float32 evaluation of the node does to its finished norms (check_l2_evaluation.c). False: it is not known.
 */
bool l2_evaluate(l2 *s, qb_node_id id, norms *y);

/* Operators without weights. `change` has, element by element, the other network's node less the original's at the
 * centre. The caller adds the rounding of the centre to the spread. False: no rule. */
bool l2_other(const l2 *s, qb_node_id id, const range *change, norms *y);

#endif
