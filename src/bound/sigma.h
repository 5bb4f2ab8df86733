/* Certified upper bounds on spectral norms (theory sections 3.1 and 4).
 *
 * sigma_max of a circular convolution is the largest sigma_max of its symbols. A power iteration finds a candidate s;
 * a floating-point Cholesky factorisation of s^2 I - M^H M that runs to completion proves sigma_max(M) <= s up to a
 * known backward error (Rump, "Verification of positive definiteness", BIT 2006), which is added. Nothing about the
 * power iteration needs to be trusted. */
#ifndef QB_BOUND_SIGMA_H
#define QB_BOUND_SIGMA_H

#include "bound/torus.h"

/* The operator whose norm is wanted, on one torus:
 *   inner                       when `outer` is NULL
 *   skip + outer inner / 2      otherwise (the linear part of the centred gate); skip may be NULL
 * `inner` and `skip` map the torus `side` to side / stride, `outer` keeps that one (stride 1). With `outer` all kernels
 * have one group. */
typedef struct qb_sigma_problem {
  const qb_kernel *inner, *outer, *skip;
  int64_t side[2];                /* torus of the input, a multiple of the stride of `inner` */
  struct qb_sigma_memory *memory; /* kept between norms, which saves much of their time; NULL: none */
} qb_sigma_problem;

enum { QB_SIGMA_GRAMS, QB_SIGMA_SAMPLES, QB_SIGMA_PRODUCTS, QB_SIGMA_BUFFERS };

/* Large buffers; empty when all zero. Release with qb_sigma_memory_free. */
typedef struct qb_sigma_memory {
  double *buffer[QB_SIGMA_BUFFERS];
  size_t bytes[QB_SIGMA_BUFFERS];
} qb_sigma_memory;

void qb_sigma_memory_free(qb_sigma_memory *memory);

/* *sigma >= the operator norm from l2 to l2. Deterministic, independent of the number of threads.
 * QB_ERROR_MEMORY; QB_ERROR_NUMERIC when the weights overflow. */
QB_MUST_CHECK qb_status qb_sigma_bound(const qb_sigma_problem *problem, double *sigma, qb_error *error);

/* About as much, usually a few percent less: proves nothing. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_sigma_estimate(const qb_sigma_problem *problem, double *sigma, qb_error *error);

#endif
