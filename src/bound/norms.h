/* l_inf operator norms of linear layers: largest row l1 norms, and the largest change of a parameter.
 *
 * One streaming pass over the weights, sums in double with their gamma_n, every result rounded up. A row of the matrix
 * of a convolution holds the taps of one filter that fall inside the image, so the filter's l1 norm f1 bounds it. */
#ifndef QB_BOUND_NORMS_H
#define QB_BOUND_NORMS_H

#include "graph/graph.h"

typedef struct qb_layer_norms {
  double weight; /* >= max_o sum_i |W[o, i]|: ||W_l||, f1 for convolutions */
  double bias;   /* >= max_o |b[o]|: ||b_l||; 0 without bias */
  double joint;  /* >= max_o (sum_i |W[o, i]| + |b[o]|) */
} qb_layer_norms;

typedef struct qb_layer_change {
  double weight; /* >= max |W - W'| */
  double bias;   /* >= max |b - b'|; a missing bias is zero. Exactly 0 when nothing changed */
} qb_layer_change;

/* Norms of one layer of `graph`. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_layer_norms_of(const qb_graph *graph, const qb_linear *linear, qb_layer_norms *norms,
                                          qb_error *error);

/* Norms of `linear` in `graph` and its change against `base` in `base_graph`, in the same pass. The two weights have
 * the same shape. */
QB_MUST_CHECK qb_status qb_layer_norms_and_change(const qb_graph *graph, const qb_linear *linear,
                                                  const qb_graph *base_graph, const qb_linear *base,
                                                  qb_layer_norms *norms, qb_layer_change *change, qb_error *error);

#endif
