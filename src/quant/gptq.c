/* Column by column with compensation; see gptq.h. */
#include "quant/gptq.h"

#include <cblas.h>

enum { BLOCK = 64 }; /* columns whose effect on the rest is applied by one matrix product */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static int32_t clamp(int32_t code, int32_t lo, int32_t hi) { return code < lo ? lo : code > hi ? hi : code; }

typedef struct gptq_row {
  const qb_rounding *p;
  const qb_grid *grid;
  const float *weights, *target;
  int32_t *codes;
  bool neighbours;
  double *errors, *sums; /* (K) in factor order: e, and what earlier columns add to component a */
  double loss;
} gptq_row;

/* Fixes the column at factor position `a`, and adds its error to positions [begin, a). */
static void fix_column(gptq_row *row, size_t a, size_t begin) {
  const qb_rounding *p = row->p;
  const double *factor = p->factor + a * p->length;
  size_t column = (size_t)p->order[p->length - 1 - a];
  double target = (double)row->target[column], wanted = target - row->sums[a] / factor[a];
  int32_t code = qb_grid_nearest(row->grid, (float)wanted), lo, hi;
  if (row->neighbours) {
    qb_rounding_neighbours(row->grid, row->weights[column], &lo, &hi);
    code = clamp(code, lo, hi);
  }
  double error = (double)qb_grid_value(row->grid, code) - target, component = factor[a] * error + row->sums[a];
  row->codes[column] = code;
  row->errors[a] = error;
  row->loss += component * component;
  for (size_t b = begin; b < a; b++)
    row->sums[b] += factor[b] * error;
}

/* Rows [first, first + rows), which share the pass over the factor. */
static void fix_rows(const qb_rounding *p, const qb_grid *grids, bool neighbours, size_t first, size_t rows,
                     int32_t *codes, double *losses) {
  size_t length = p->length;
  double *errors = p->work[0] + first * length, *sums = p->work[1] + first * length;
  for (size_t i = 0; i < rows * length; i++)
    sums[i] = 0;
  for (size_t i = 0; i < rows; i++)
    losses[first + i] = 0;
  for (size_t end = length; end > 0; end -= least(BLOCK, end)) {
    size_t begin = end - least(BLOCK, end);
    for (size_t i = 0; i < rows; i++) {
      size_t at = (first + i) * length;
      gptq_row row = {p,
                      qb_rounding_grid(p, grids, first + i),
                      p->weights + at,
                      p->target + at,
                      codes + at,
                      neighbours,
                      errors + i * length,
                      sums + i * length,
                      0};
      for (size_t a = end; a > begin; a--)
        fix_column(&row, a - 1, begin);
      losses[first + i] += row.loss;
    }
    if (begin > 0)
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)begin, (int)(end - begin), 1,
                  errors + begin, (int)length, p->factor + begin * length, (int)length, 1, sums, (int)length);
  }
}

void qb_gptq(const qb_rounding *rounding, const qb_grid *grids, bool neighbours, int32_t *codes, double *losses) {
#pragma omp parallel for schedule(dynamic)
  for (size_t first = 0; first < rounding->rows; first += QB_ROUNDING_ROWS)
    fix_rows(rounding, grids, neighbours, first, least(QB_ROUNDING_ROWS, rounding->rows - first), codes, losses);
}
