/* What can be said about stochastic rounding before the draw: a bound of the output error of one fixed input that
 * holds with a stated probability over the seed (theory section 5; proof in docs/bounds.md, section 3f).
 *
 * With S the original network's states for this input and D the norm of their change, layer by layer in order
 *   D_l = sigma(W_l) D_{l-1} + kappa_l (||S_{l-1}|| + D_{l-1})
 * where kappa_l fails with the layer's share of the probability. Everything is rounded up. */
#ifndef QB_API_ROUNDING_GUARANTEE_H
#define QB_API_ROUNDING_GUARANTEE_H

#include "graph/pair.h"

typedef struct qb_rounding_guarantee {
  const qb_pair *pair; /* borrowed */
  bool applies;
  char why[200];       /* where it does not */
  double *sigma;       /* (node_count of the quantized graph) of the original's layers; 0 elsewhere */
  double *factor;      /* likewise kappa; 0 where a layer was left as it is */
  int32_t layer_count; /* rounded ones, which share the probability equally */
  double share;        /* of one, rounded down */
} qb_rounding_guarantee;

/* Norms and factors of every layer, with arrays in `arena`. The caller knows that the quantized graph came about by
 * stochastic rounding of the original and nothing else; what the graphs show of that is checked: equal biases, clips
 * and operands, no rounded activations, no shared weights, scales on which rounding never clips.
 * QB_ERROR_MEMORY, QB_ERROR_NUMERIC. */
QB_MUST_CHECK qb_status qb_rounding_guarantee_make(const qb_pair *pair, double probability, qb_arena *arena,
                                                   qb_rounding_guarantee *guarantee, qb_error *error);

/* The bound of ||output - output'||_2 at output 0. norms (value_count of the original): at least ||S||_2 of the inputs
 * of its linear layers; errors (value_count of the quantized graph) is overwritten. */
double qb_rounding_guarantee_bound(const qb_rounding_guarantee *guarantee, const double *norms, double *errors);

/* Fills `norms` for one input from a run in double with rounding radii. QB_ERROR_NUMERIC, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_rounding_guarantee_norms(const qb_graph *original, const float *input, int threads,
                                                    double *norms, qb_error *error);

#endif
