/* Matrix-valued trigonometric polynomials on a torus, known from few frequencies.
 *
 * The Gram matrix of a convolution's symbol is a trigonometric polynomial in the frequency whose degree per axis is the
 * reach of the kernel, whatever the torus. With N = 2 degree + 1 samples per axis
 *   G(f) = sum over the grid of D(f - s) G(s),   D the Dirichlet kernel of N points, a product over the axes,
 * exactly. Real taps give G(-f) = conj G(f), so half of the grid suffices: the real parts take the weights
 * D(f - s) + D(f + s), the imaginary ones D(f - s) - D(f + s). */
#ifndef QB_BOUND_INTERPOLATION_H
#define QB_BOUND_INTERPOLATION_H

#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"

typedef struct qb_interpolation {
  int64_t side[2];    /* of the sampling grid, odd */
  int64_t samples;    /* side[0] * (side[1] / 2 + 1), row by row */
  int64_t count;      /* frequencies of the torus: torus[0] * (torus[1] / 2 + 1), row by row */
  double *even, *odd; /* (count, samples): weights of real and imaginary parts */
  double growth;      /* >= sum over the grid of |D(f - s)| for every f */
  double rounding;    /* >= sum over the grid of what rounding did to the weights, absolute */
} qb_interpolation;

/* Weights for a polynomial of the given degree per axis on a torus with the given sides. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_interpolation_create(const int64_t torus[2], const int64_t degree[2], qb_arena *arena,
                                                qb_interpolation *interpolation, qb_error *error);

/* The number of samples that qb_interpolation_create would ask for. */
int64_t qb_interpolation_samples(const int64_t degree[2]);

#endif
