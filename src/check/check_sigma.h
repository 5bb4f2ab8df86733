/* Proving a claimed spectral norm: sigma_max(M) <= s for the operator M of a layer or of a pair of layers on a torus.
 */
#ifndef QB_CHECK_CHECK_SIGMA_H
#define QB_CHECK_CHECK_SIGMA_H

#include "base/arena.h"
#include "graph/graph.h"

/* A convolution, or a matrix as a 1x1 one. Weights in double, taps outermost. */
typedef struct kernel {
  int64_t rows, cols; /* of one group */
  int32_t groups, size[2], stride[2], dilation[2], pad_begin[2], pad_end[2];
  double *taps; /* (groups, size[0] * size[1], rows, cols) */
} kernel;

/* plus - minus (float32 in the weight's layout; minus may be NULL), rows and columns multiplied by factors (one group
 * only) or NULL. QB_ERROR_MEMORY. Not for ConvTranspose. */
QB_MUST_CHECK qb_status kernel_create(const qb_graph *graph, const qb_linear *linear, const float *plus,
                                      const float *minus, const double *row_factor, const double *column_factor,
                                      qb_arena *arena, kernel *k, qb_error *error);
QB_MUST_CHECK qb_status kernel_identity(int64_t channels, qb_arena *arena, kernel *k, qb_error *error);

/* The least torus side for an image of side n on which no tap wraps around to another pixel. */
int64_t kernel_side(const kernel *k, int axis, int64_t n);

/* inner, or skip + outer inner / 2 when `outer` is given (skip may be NULL). */
typedef struct torus_operator {
  const kernel *inner, *outer, *skip;
  int64_t side[2]; /* of the input's torus, multiples of the stride */
} torus_operator;

/* *proved: the norm is at most `claimed`, by a Cholesky factorisation of s^2 I - M M^H for every frequency, all
 * roundings counted. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status sigma_prove(const torus_operator *m, double claimed, bool *proved, qb_error *error);

#endif
