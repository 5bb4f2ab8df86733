/* Products of matrix polynomials from few real points (Toom and Cook).
 *
 * The Gram matrix of a convolution's symbol is a trigonometric polynomial in the frequency whose degree per axis is the
 * reach of the kernel, whatever the torus. Times z^degree it is the product of two polynomials with real matrices as
 * coefficients, and so is the kernel of two convolutions in a row: real products at real points determine it.
 *
 * The points of one axis are 0, infinity (where the value is the leading coefficient), 1 and pairs p, 1/p. */
#ifndef QB_BOUND_INTERPOLATION_H
#define QB_BOUND_INTERPOLATION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"

enum { QB_POINTS_MOST = 13 }; /* of one axis */

/* Points for polynomials of degree count - 1: coefficient e is the sum over points s of coefficient[e][s] value(s). */
typedef struct qb_points {
  int64_t count;             /* odd */
  double at[QB_POINTS_MOST]; /* point s and its reciprocal stand side by side: 0 and infinity first, 1 last */
  double coefficient[QB_POINTS_MOST][QB_POINTS_MOST];
  double rounding[QB_POINTS_MOST][QB_POINTS_MOST]; /* >= |coefficient - exact one for the exact reciprocals| */
} qb_points;

/* Points that determine polynomials of `degree`; false when that is more than the table holds. */
QB_MUST_CHECK bool qb_points_create(int64_t degree, qb_points *points);

/* The index of 1 / point. */
int64_t qb_points_inverse(const qb_points *points, int64_t point);

/* What the coefficient e of a polynomial of `degree` is multiplied with at a point. Up to e + 2 roundings. */
double qb_points_power(const qb_points *points, int64_t point, int64_t e, int64_t degree);

/* A trigonometric polynomial G with G(1/z) = G(z)^T of `degree` per axis, from S = z^degree G at the points of which no
 * two are each other's reciprocal: re G = sum over samples of even (S + S^T), im G = odd (S - S^T); just S for the one
 * that is its own reciprocal. */
typedef struct qb_interpolation {
  qb_points points[2];
  int64_t degree[2];
  int64_t samples, count; /* count: frequencies of the torus: torus[0] * (torus[1] / 2 + 1), row by row */
  int32_t (*sample)[2];   /* (samples): indices of the points; the last is its own reciprocal */
  double *even, *odd;     /* (count, samples) */
  double *off;            /* (count, samples): >= |even + i odd - the exact weight| */
} qb_interpolation;

/* The number of samples, 0 for degrees beyond the table. */
int64_t qb_interpolation_samples(const int64_t degree[2]);

/* Weights for a polynomial of the given degree per axis on a torus with the given sides. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_interpolation_create(const int64_t torus[2], const int64_t degree[2], qb_arena *arena,
                                                qb_interpolation *interpolation, qb_error *error);

/* Upper bound, over all frequencies, of the Frobenius norm of what computing lost, when sample j is at most size[j] in
 * that norm and off by at most relative * size[j]. */
double qb_interpolation_lost(const qb_interpolation *interpolation, const double *size, double relative);

#endif
