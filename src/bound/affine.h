/* y = W x + b of a linear layer in double, for centres of balls and boxes, with a bound on its rounding.
 *
 * Convolutions go through im2col and a dense product, so the order of summation is OpenBLAS's; every error bound here
 * holds for any order. */
#ifndef QB_BOUND_AFFINE_H
#define QB_BOUND_AFFINE_H

#include "graph/graph.h"

/* The matrix of the layer is `plus` - `minus` (float32 arrays in the weight's layout; `minus` may be NULL), the bias
 * likewise (each may be NULL). `x` holds the input elements of one sample, `y` receives the output elements. Scratch
 * memory comes from `arena` and is released again. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_affine_apply(const qb_graph *graph, const qb_linear *linear, const float *plus,
                                        const float *minus, const float *bias_plus, const float *bias_minus,
                                        const double *x, double *y, qb_arena *arena, qb_error *error);

/* y = |plus - minus| x + |bias_plus - bias_minus|, otherwise the same. For radii: x >= 0 gives y within
 * (1 +- (row_length + 4) 2^-53) of the truth. */
QB_MUST_CHECK qb_status qb_affine_apply_absolute(const qb_graph *graph, const qb_linear *linear, const float *plus,
                                                 const float *minus, const float *bias_plus, const float *bias_minus,
                                                 const double *x, double *y, qb_arena *arena, qb_error *error);

/* Upper bound on the l2 norm of (computed y - exact y) for |x_i| <= x_max: gamma_{n+4} (r max|x| + max|b|) sqrt(N),
 * with r the largest row sum of |plus| + |minus| and N the number of output elements. */
double qb_affine_rounding(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus,
                          const float *bias_plus, const float *bias_minus, double x_max);

/* The largest l1 norm of a row and of a column of the matrix plus - minus over all positions, upper bounds: sums over
 * all taps, which zero padding and stride only shorten. sqrt(row * column) bounds the spectral norm (Schur). */
void qb_affine_sums(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus, double *row,
                    double *column);

#endif
