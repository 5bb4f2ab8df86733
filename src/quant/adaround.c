/* Two starts and a search; see adaround.h. */
#include "quant/adaround.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/gptq.h"
#include "quant/tabu.h"

/* Steps of a search without improvement, and elements of A that a row's search reads at most: a step reads K. */
enum { PATIENCE = 1500, READS = 8000000 };

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* What the threads share. */
typedef struct search {
  const qb_rounding *p;
  const qb_grid *grids;
  int32_t *codes, *nearest;  /* (R, K) */
  float *errors, *gradients; /* (R, K) */
} search;

static void search_free(search *s) {
  qb_free(s->nearest);
  qb_free(s->errors);
  qb_free(s->gradients);
}

static qb_status search_create(const qb_rounding *p, const qb_grid *grids, int32_t *codes, search *s, qb_error *error) {
  size_t count = p->rows * p->length;
  *s = (search){.p = p, .grids = grids, .codes = codes};
  if ((s->nearest = qb_alloc(count, sizeof *s->nearest)) == NULL ||
      (s->errors = qb_alloc(count, sizeof *s->errors)) == NULL ||
      (s->gradients = qb_alloc(count, sizeof *s->gradients)) == NULL)
    return qb_fail_memory(error, "adaround", count * sizeof *s->errors);
  return QB_OK;
}

/* e and A e of some rows. */
static void start_rows(search *s, const int32_t *codes, size_t first, size_t rows) {
  const qb_rounding *p = s->p;
  size_t length = p->length;
  for (size_t row = first; row < first + rows; row++)
    for (size_t at = row * length; at < (row + 1) * length; at++)
      s->errors[at] =
          (float)((double)qb_grid_value(qb_rounding_grid(p, s->grids, row), codes[at]) - (double)p->target[at]);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)length, (int)length, 1,
              s->errors + first * length, (int)length, p->a, (int)length, 0, s->gradients + first * length,
              (int)length);
}

/* e . A e of a row. */
static double row_objective(const search *s, size_t row) {
  double sum = 0;
  for (size_t at = row * s->p->length; at < (row + 1) * s->p->length; at++)
    sum += (double)s->errors[at] * (double)s->gradients[at];
  return sum;
}

/* The better start of each row; its A e is left in `gradients`. */
static void choose_starts(search *s, size_t first, size_t rows) {
  const qb_rounding *p = s->p;
  double of_nearest[QB_ROUNDING_ROWS];
  size_t length = p->length, begin = first * length;
  for (size_t row = first; row < first + rows; row++)
    qb_grid_nearest_run(qb_rounding_grid(p, s->grids, row), p->weights + row * length, length,
                        s->nearest + row * length);
  start_rows(s, s->nearest, first, rows);
  for (size_t i = 0; i < rows; i++)
    of_nearest[i] = row_objective(s, first + i);
  start_rows(s, s->codes, first, rows);
  bool any = false;
  for (size_t i = 0; i < rows; i++)
    if (of_nearest[i] < row_objective(s, first + i)) {
      memcpy(s->codes + begin + i * length, s->nearest + begin + i * length, length * sizeof *s->codes);
      any = true;
    }
  if (any)
    start_rows(s, s->codes, first, rows);
}

static void search_rows(search *s, qb_tabu *tabu, size_t first, size_t rows) {
  choose_starts(s, first, rows);
  for (size_t row = first; row < first + rows; row++)
    qb_tabu_search(tabu, s->p, qb_rounding_grid(s->p, s->grids, row), row, s->gradients + row * s->p->length,
                   s->codes + row * s->p->length);
}

static qb_status search_all(search *s, double effort, qb_error *error) {
  const qb_rounding *p = s->p;
  int64_t patience = (int64_t)(effort * PATIENCE) + 1, limit = (int64_t)(effort * READS) / (int64_t)p->length + 1;
  bool made = true;
#pragma omp parallel reduction(&& : made)
  {
    qb_tabu tabu;
    made = qb_tabu_create(p->length, patience, limit, &tabu, NULL) == QB_OK;
#pragma omp for schedule(dynamic)
    for (size_t first = 0; first < p->rows; first += QB_ROUNDING_ROWS)
      if (made)
        search_rows(s, &tabu, first, least(QB_ROUNDING_ROWS, p->rows - first));
    qb_tabu_free(&tabu);
  }
  return made ? QB_OK : qb_fail_memory(error, "adaround", p->length * sizeof(float));
}

qb_status qb_adaround(const qb_rounding *rounding, const qb_grid *grids, double effort, int32_t *codes,
                      double *objectives, qb_error *error) {
  search s;
  qb_status status = search_create(rounding, grids, codes, &s, error);
  if (status == QB_OK) {
    qb_gptq(rounding, grids, true, codes, objectives);
    status = search_all(&s, effort, error);
  }
  if (status == QB_OK)
    qb_rounding_objectives(rounding, grids, codes, objectives);
  search_free(&s);
  return status;
}
