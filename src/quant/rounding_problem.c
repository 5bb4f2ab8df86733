/* The rounding problem of one group: damping, factor, targets, errors; see rounding_problem.h. */
#include "quant/rounding_problem.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { PANEL = 128 }; /* of the factorization */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ------------------------------------------------------------------------------------------------------- factoring */

static bool factor_corner(double *a, size_t stride, size_t size) {
  for (size_t j = 0; j < size; j++) {
    double pivot = a[j * stride + j];
    for (size_t k = 0; k < j; k++)
      pivot -= a[j * stride + k] * a[j * stride + k];
    if (!(pivot > 0))
      return false;
    pivot = a[j * stride + j] = sqrt(pivot);
    for (size_t i = j + 1; i < size; i++) {
      double sum = a[i * stride + j];
      for (size_t k = 0; k < j; k++)
        sum -= a[i * stride + k] * a[j * stride + k];
      a[i * stride + j] = sum / pivot;
    }
  }
  return true;
}

/* Right-looking: the corner, the panel below it, then all tiles behind. Tiles are fixed, one thread each. */
bool qb_cholesky(double *a, size_t length) {
  for (size_t begin = 0; begin < length; begin += PANEL) {
    size_t size = least(PANEL, length - begin), behind = begin + size;
    double *corner = a + begin * length + begin;
    if (!factor_corner(corner, length, size))
      return false;
    size_t tiles = (length - behind + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(dynamic)
    for (size_t t = 0; t < tiles; t++)
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit,
                  (int)least(PANEL, length - behind - t * PANEL), (int)size, 1, corner, (int)length,
                  a + (behind + t * PANEL) * length + begin, (int)length);
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (size_t i = 0; i < tiles; i++)
      for (size_t j = 0; j < tiles; j++) {
        if (j > i)
          continue;
        size_t row = behind + i * PANEL, column = behind + j * PANEL;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)least(PANEL, length - row),
                    (int)least(PANEL, length - column), (int)size, -1, a + row * length + begin, (int)length,
                    a + column * length + begin, (int)length, 1, a + row * length + column, (int)length);
      }
  }
  return true;
}

/* ------------------------------------------------------------------------------------------------------ the problem */

typedef struct sized {
  double size;
  int32_t column;
} sized;

static int compare_sized(const void *left, const void *right) {
  const sized *a = left, *b = right;
  if (a->size != b->size)
    return a->size > b->size ? -1 : 1;
  return a->column - b->column;
}

static bool choose_order(qb_rounding *p, bool by_size) {
  sized *sorted = qb_alloc(p->length, sizeof *sorted);
  if (sorted == NULL)
    return false;
  for (size_t k = 0; k < p->length; k++)
    sorted[k] = (sized){by_size ? p->h[k * p->length + k] : 0, (int32_t)k};
  qsort(sorted, p->length, sizeof *sorted, compare_sized);
  for (size_t k = 0; k < p->length; k++)
    p->order[k] = sorted[k].column;
  qb_free(sorted);
  return true;
}

static double mean_diagonal(const qb_rounding *p) {
  double sum = 0;
  for (size_t k = 0; k < p->length; k++)
    sum += p->h[k * p->length + k];
  return sum / (double)p->length;
}

/* A in float32 and, ordered, in double for factoring. */
static void fill_matrices(qb_rounding *p) {
  size_t length = p->length;
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < length; i++) {
    size_t from = (size_t)p->order[length - 1 - i];
    for (size_t j = 0; j < length; j++)
      p->a[i * length + j] = (float)(p->h[i * length + j] + (i == j ? p->damping : 0));
    for (size_t j = 0; j <= i; j++)
      p->factor[i * length + j] = p->h[from * length + (size_t)p->order[length - 1 - j]] + (i == j ? p->damping : 0);
  }
}

/* Factors with more and more damping: inputs that never move leave H singular. */
static qb_status factor_damped(qb_rounding *p, double damping, qb_error *error) {
  double diagonal = mean_diagonal(p);
  p->damping = damping * diagonal;
  if (!(diagonal > 0)) /* no input ever moves: every rounding is as good */
    p->damping = 1;
  for (int attempt = 0; attempt < 8; attempt++) {
    fill_matrices(p);
    if (qb_cholesky(p->factor, p->length))
      return QB_OK;
    p->damping = 10 * p->damping + 1e-8 * diagonal;
  }
  return qb_fail(error, QB_ERROR_NUMERIC, "the second moments of the inputs are not positive: NaN or Inf in the data");
}

/* t = w - A^{-1} R for `rows` rows from `first` on. */
static void make_targets(qb_rounding *p, size_t first, size_t rows) {
  size_t length = p->length;
  double *work = p->work[0] + first * length;
  for (size_t i = 0; i < rows; i++)
    for (size_t k = 0; k < length; k++)
      work[i * length + k] = p->r[(first + i) * length + (size_t)p->order[length - 1 - k]];
  /* rows times (L L^T)^{-1} */
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (int)rows, (int)length, 1, p->factor,
              (int)length, work, (int)length);
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, (int)rows, (int)length, 1, p->factor,
              (int)length, work, (int)length);
  for (size_t i = 0; i < rows; i++)
    for (size_t k = 0; k < length; k++) {
      size_t at = (first + i) * length + (size_t)p->order[length - 1 - k];
      p->target[at] = (float)((double)p->weights[at] - work[i * length + k]);
    }
}

static void fill_targets(qb_rounding *p) {
  memcpy(p->target, p->weights, p->rows * p->length * sizeof *p->target);
  if (!p->inherited)
    return;
#pragma omp parallel for schedule(dynamic)
  for (size_t first = 0; first < p->rows; first += QB_ROUNDING_ROWS)
    make_targets(p, first, least(QB_ROUNDING_ROWS, p->rows - first));
}

qb_status qb_rounding_create(size_t rows, size_t length, const float *weights, const double *h, const double *r,
                             bool inherited, double damping, bool by_size, qb_rounding *rounding, qb_error *error) {
  *rounding = (qb_rounding){.rows = rows, .length = length, .weights = weights, .h = h, .r = r, .inherited = inherited};
  qb_rounding *p = rounding;
  if ((p->a = qb_alloc(length * length, sizeof *p->a)) == NULL ||
      (p->order = qb_alloc(length, sizeof *p->order)) == NULL ||
      (p->factor = qb_alloc(length * length, sizeof *p->factor)) == NULL ||
      (p->target = qb_alloc(rows * length, sizeof *p->target)) == NULL ||
      (p->work[0] = qb_alloc(rows * length, sizeof **p->work)) == NULL ||
      (p->work[1] = qb_alloc(rows * length, sizeof **p->work)) == NULL || !choose_order(p, by_size))
    return qb_fail_memory(error, "the rounding problem of a layer", length * length * sizeof *p->factor);
  QB_TRY(factor_damped(p, damping, error));
  fill_targets(p);
  return QB_OK;
}

void qb_rounding_free(qb_rounding *rounding) {
  qb_free(rounding->a);
  qb_free(rounding->order);
  qb_free(rounding->factor);
  qb_free(rounding->target);
  qb_free(rounding->work[0]);
  qb_free(rounding->work[1]);
  *rounding = (qb_rounding){0};
}

qb_rounding qb_rounding_rows(const qb_rounding *rounding, size_t first, size_t count) {
  qb_rounding part = *rounding;
  size_t skipped = first * rounding->length;
  part.rows = count;
  part.first_row = rounding->first_row + first;
  part.weights += skipped;
  part.r += skipped;
  part.target += skipped;
  for (int i = 0; i < 2; i++)
    part.work[i] += skipped;
  return part;
}

qb_row_share qb_rounding_share(size_t groups, size_t group, size_t rows, int rank) {
  size_t ranks = (size_t)qb_rank_count(), own = (size_t)rank;
  if (groups > 1)
    return group % ranks == own ? (qb_row_share){0, rows} : (qb_row_share){0, 0};
  size_t blocks = (rows + QB_ROUNDING_ROWS - 1) / QB_ROUNDING_ROWS;
  size_t first = blocks * own / ranks * QB_ROUNDING_ROWS, end = blocks * (own + 1) / ranks * QB_ROUNDING_ROWS;
  end = end < rows ? end : rows;
  return first < end ? (qb_row_share){first, end - first} : (qb_row_share){0, 0};
}

/* ---------------------------------------------------------------------------------------------------------- errors */

void qb_rounding_neighbours(const qb_grid *grid, float weight, int32_t *lo, int32_t *hi) {
  double below = floor((double)weight / (double)grid->scale) + grid->zero_point;
  *lo = (int32_t)fmin(fmax(below, grid->lo), grid->hi);
  *hi = (int32_t)fmin(fmax(below + 1, grid->lo), grid->hi);
}

/* d_i H d_i^T for the differences of some rows (zeros without codes) from `from`, which are left in work[0]. */
static void quadratic(const qb_rounding *p, const qb_grid *grids, const int32_t *codes, const float *from, size_t first,
                      size_t rows, double *totals) {
  size_t length = p->length;
  double *d = p->work[0] + first * length, *hd = p->work[1] + first * length;
  for (size_t i = 0; i < rows; i++) {
    for (size_t k = 0; k < length; k++) {
      size_t at = (first + i) * length + k;
      float value = codes == NULL ? 0 : qb_grid_value(qb_rounding_grid(p, grids, first + i), codes[at]);
      d[i * length + k] = (double)value - (double)from[at];
    }
  }
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)length, (int)length, 1, d, (int)length, p->h,
              (int)length, 0, hd, (int)length);
  for (size_t i = 0; i < rows; i++) {
    totals[first + i] = 0;
    for (size_t k = 0; k < length; k++)
      totals[first + i] += d[i * length + k] * hd[i * length + k];
  }
}

/* totals[row] += 2 d . r */
static void add_linear(const qb_rounding *p, size_t first, size_t rows, double *totals) {
  for (size_t row = first; row < first + rows; row++)
    for (size_t k = 0; k < p->length; k++)
      totals[row] += 2 * p->work[0][row * p->length + k] * p->r[row * p->length + k];
}

/* totals[row] += damping |d|^2 */
static void add_damping(const qb_rounding *p, size_t first, size_t rows, double *totals) {
  for (size_t row = first; row < first + rows; row++)
    for (size_t k = 0; k < p->length; k++)
      totals[row] += p->damping * p->work[0][row * p->length + k] * p->work[0][row * p->length + k];
}

void qb_rounding_errors(const qb_rounding *rounding, const qb_grid *grids, const int32_t *codes, double *errors) {
#pragma omp parallel for schedule(dynamic)
  for (size_t first = 0; first < rounding->rows; first += QB_ROUNDING_ROWS) {
    size_t rows = least(QB_ROUNDING_ROWS, rounding->rows - first);
    quadratic(rounding, grids, codes, rounding->weights, first, rows, errors);
    if (rounding->inherited)
      add_linear(rounding, first, rows, errors);
  }
}

void qb_rounding_objectives(const qb_rounding *rounding, const qb_grid *grids, const int32_t *codes,
                            double *objectives) {
#pragma omp parallel for schedule(dynamic)
  for (size_t first = 0; first < rounding->rows; first += QB_ROUNDING_ROWS) {
    size_t rows = least(QB_ROUNDING_ROWS, rounding->rows - first);
    quadratic(rounding, grids, codes, rounding->target, first, rows, objectives);
    add_damping(rounding, first, rows, objectives);
  }
}

void qb_rounding_powers(const qb_rounding *rounding, double *powers) {
#pragma omp parallel for schedule(dynamic)
  for (size_t first = 0; first < rounding->rows; first += QB_ROUNDING_ROWS)
    quadratic(rounding, NULL, NULL, rounding->weights, first, least(QB_ROUNDING_ROWS, rounding->rows - first), powers);
}
