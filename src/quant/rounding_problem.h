/* Rounding the weights of one group of a layer against the statistics of its inputs: the problem that the solvers
 * share.
 *
 * Rows are independent. For a row with weights w, codes q and dequantized weights v(q) the error on the calibration
 * columns is, with the statistics of gram.h,
 *   |dW|_H^2 + 2 dW . R + c,   dW = v(q) - w.
 * Solvers minimise it plus damping * mean(diag H) |dW|^2, which is |v(q) - t|_A^2 + constant with
 *   A = H + damping mean(diag H) I,   t = w - A^{-1} R:
 * the target t also repairs what earlier layers broke. */
#ifndef QB_QUANT_ROUNDING_PROBLEM_H
#define QB_QUANT_ROUNDING_PROBLEM_H

#include "quant/grid.h"

enum { QB_ROUNDING_ROWS = 32 }; /* that one task handles: fixed, so that threads do not change results */

typedef struct qb_rounding {
  size_t rows, length;  /* R, K */
  size_t first_row;     /* of these rows in the group, 0 unless qb_rounding_rows made it */
  const float *weights; /* (R, K) of the float network */
  const double *h, *r;  /* (K, K), (R, K) */
  double damping;       /* absolute: added to the diagonal */
  bool shared_grid;     /* one grid for all rows, else one a row */
  bool inherited;       /* r is not zero */

  float *a;        /* (K, K) A in float32, in the natural order */
  int32_t *order;  /* (K) the order in which gptq fixes the columns */
  double *factor;  /* (K, K) lower Cholesky factor of A with columns from the last of `order` to the first */
  float *target;   /* (R, K) */
  double *work[2]; /* (R, K) each: scratch of the solvers */
} qb_rounding;

/* Factors and makes targets. `damping` is relative to mean(diag H); with `by_size` columns are ordered by falling
 * diagonal of H. Borrows weights, h and r. QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_rounding_create(size_t rows, size_t length, const float *weights, const double *h,
                                           const double *r, bool inherited, double damping, bool by_size,
                                           qb_rounding *rounding, qb_error *error);
void qb_rounding_free(qb_rounding *rounding);

/* Rows [first, first + count) as a problem of their own, which borrows everything from the whole: nothing to free.
 * Solvers give them the codes that they get in the whole, bit for bit, where `first` is a multiple of QB_ROUNDING_ROWS.
 */
qb_rounding qb_rounding_rows(const qb_rounding *rounding, size_t first, size_t count);

/* What a rank of base/ranks.h does of a layer of `groups` groups with `rows` rows each: whole groups in turn where
 * there are several, else a part of the rows that starts at a multiple of QB_ROUNDING_ROWS. */
typedef struct qb_row_share {
  size_t first, count;
} qb_row_share;

qb_row_share qb_rounding_share(size_t groups, size_t group, size_t rows, int rank);

/* The grid of a row. */
static inline const qb_grid *qb_rounding_grid(const qb_rounding *rounding, const qb_grid *grids, size_t row) {
  return &grids[rounding->shared_grid ? 0 : row];
}

/* Error of a row without damping and without c: |dW|_H^2 + 2 dW . R, in double. */
void qb_rounding_errors(const qb_rounding *rounding, const qb_grid *grids, const int32_t *codes, double *errors);

/* |w|_H^2 per row: the mean square of the rows' outputs before rounding. */
void qb_rounding_powers(const qb_rounding *rounding, double *powers);

/* What the solvers minimise: |v(q) - t|_A^2 per row. */
void qb_rounding_objectives(const qb_rounding *rounding, const qb_grid *grids, const int32_t *codes,
                            double *objectives);

/* The two codes next to a weight, both inside the grid: floor(w / s) + zero point and one more. Equal where the weight
 * lies outside. */
void qb_rounding_neighbours(const qb_grid *grid, float weight, int32_t *lo, int32_t *hi);

/* A (length, length; symmetric, lower half read) becomes its lower Cholesky factor; the upper half is garbage. False
 * when it is not positive definite. The result does not depend on the number of threads. */
bool qb_cholesky(double *a, size_t length);

#endif
