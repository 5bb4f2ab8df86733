/* Coordinate descent over codes; see adaround.h. */
#include "quant/adaround.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/gptq.h"

/* Sweeps end a descent that float32 rounding might keep alive; PARTNERS columns are tried in pairs. */
enum { SWEEPS = 30, PARTNERS = 64, PAIR_ROUNDS = 3 };

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* One row on its way down. */
typedef struct descent {
  const qb_rounding *p;
  const qb_grid *grid;
  const float *weights;
  int32_t *codes;
  float *gradient; /* (K) A e, so that a step d of column k costs d (2 gradient[k] + d A[k][k]) */
  float *cost;     /* (K) scratch: cheapest step of each column */
  int8_t *step;    /* (K) scratch: its direction, 0: none */
  bool neighbours;
} descent;

static float step_cost(const descent *d, size_t k, int direction) {
  float size = (float)direction * d->grid->scale;
  return size * (2 * d->gradient[k] + size * d->p->a[k * d->p->length + k]);
}

/* The steps that a code may take: at most down or up, or only one of the two between neighbours. */
static void allowed_steps(const descent *d, size_t k, bool *down, bool *up) {
  int32_t lo = d->grid->lo, hi = d->grid->hi;
  if (d->neighbours)
    qb_rounding_neighbours(d->grid, d->weights[k], &lo, &hi);
  *down = d->codes[k] > lo;
  *up = d->codes[k] < hi;
}

/* The cheaper allowed step; 0 when there is none. */
static int cheapest_step(const descent *d, size_t k, float *cost) {
  bool down, up;
  allowed_steps(d, k, &down, &up);
  float lower = down ? step_cost(d, k, -1) : INFINITY, upper = up ? step_cost(d, k, 1) : INFINITY;
  *cost = fminf(lower, upper);
  return !down && !up ? 0 : lower < upper ? -1 : 1;
}

static void take_step(descent *d, size_t k, int direction) {
  d->codes[k] += direction;
  cblas_saxpy((int)d->p->length, (float)direction * d->grid->scale, d->p->a + k * d->p->length, 1, d->gradient, 1);
}

/* A gain must exceed the rounding of its own computation. */
static bool is_gain(const descent *d, size_t k, float cost) {
  float scale = d->grid->scale;
  return cost < -1e-5f * scale * scale * d->p->a[k * d->p->length + k];
}

static size_t sweep(descent *d) {
  size_t steps = 0;
  for (size_t k = 0; k < d->p->length; k++) {
    float cost;
    int direction = cheapest_step(d, k, &cost);
    if (direction == 0 || !is_gain(d, k, cost))
      continue;
    take_step(d, k, direction);
    steps++;
  }
  return steps;
}

static void descend_single(descent *d) {
  for (int i = 0; i < SWEEPS && sweep(d) > 0; i++)
    ;
}

/* ------------------------------------------------------------------------------------------------------------ pairs */

/* The columns with the cheapest steps, cheapest first. */
static size_t list_partners(descent *d, size_t partners[PARTNERS]) {
  size_t count = 0;
  for (size_t k = 0; k < d->p->length; k++) {
    d->step[k] = (int8_t)cheapest_step(d, k, &d->cost[k]);
    if (d->step[k] == 0)
      continue;
    size_t at = count < PARTNERS ? count++ : d->cost[k] < d->cost[partners[PARTNERS - 1]] ? PARTNERS - 1 : PARTNERS;
    if (at == PARTNERS)
      continue;
    for (; at > 0 && d->cost[partners[at - 1]] > d->cost[k]; at--)
      partners[at] = partners[at - 1];
    partners[at] = k;
  }
  return count;
}

/* The partner that makes the step of `k` pay most, K when none does. Two steps cost the sum of their costs and twice
 * the product of the steps times A[k][j]. */
static size_t best_partner(const descent *d, size_t k) {
  size_t length = d->p->length, best = length;
  const float *row = d->p->a + k * length;
  float square = 2 * d->grid->scale * d->grid->scale * (float)d->step[k];
  float limit = -1e-4f * d->grid->scale * d->grid->scale * row[k];
  for (size_t j = 0; j < length; j++) {
    float cost = d->cost[k] + d->cost[j] + square * (float)d->step[j] * row[j];
    if (cost < limit && j != k && d->step[j] != 0) {
      limit = cost;
      best = j;
    }
  }
  return best;
}

static size_t take_pairs(descent *d) {
  size_t partners[PARTNERS], taken = 0, count = list_partners(d, partners);
  for (size_t i = 0; i < count; i++) {
    size_t k = partners[i], j = best_partner(d, k);
    if (j == d->p->length)
      continue;
    take_step(d, k, d->step[k]);
    take_step(d, j, d->step[j]);
    descend_single(d);
    for (size_t m = 0; m < d->p->length; m++) /* costs have changed */
      d->step[m] = (int8_t)cheapest_step(d, m, &d->cost[m]);
    taken++;
  }
  return taken;
}

/* ------------------------------------------------------------------------------------------------------------- rows */

typedef struct descent_scratch {
  float *errors, *gradients, *cost; /* (R, K) each */
  int8_t *step;
} descent_scratch;

static void scratch_free(descent_scratch *s) {
  qb_free(s->errors);
  qb_free(s->gradients);
  qb_free(s->cost);
  qb_free(s->step);
}

static qb_status scratch_create(const qb_rounding *p, descent_scratch *s, qb_error *error) {
  size_t count = p->rows * p->length;
  *s = (descent_scratch){0};
  if ((s->errors = qb_alloc(count, sizeof *s->errors)) == NULL ||
      (s->gradients = qb_alloc(count, sizeof *s->gradients)) == NULL ||
      (s->cost = qb_alloc(count, sizeof *s->cost)) == NULL || (s->step = qb_alloc(count, sizeof *s->step)) == NULL) {
    scratch_free(s);
    return qb_fail_memory(error, "coordinate descent", count * sizeof *s->errors);
  }
  return QB_OK;
}

/* e and A e of some rows. */
static void start_rows(const qb_rounding *p, const qb_grid *grids, const int32_t *codes, descent_scratch *s,
                       size_t first, size_t rows) {
  size_t length = p->length;
  for (size_t row = first; row < first + rows; row++)
    for (size_t at = row * length; at < (row + 1) * length; at++)
      s->errors[at] =
          (float)((double)qb_grid_value(qb_rounding_grid(p, grids, row), codes[at]) - (double)p->target[at]);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)length, (int)length, 1,
              s->errors + first * length, (int)length, p->a, (int)length, 0, s->gradients + first * length,
              (int)length);
}

static void descend_rows(const qb_rounding *p, const qb_grid *grids, bool neighbours, int32_t *codes,
                         descent_scratch *s, size_t first, size_t rows) {
  start_rows(p, grids, codes, s, first, rows);
  for (size_t row = first; row < first + rows; row++) {
    size_t at = row * p->length;
    descent d = {p,
                 qb_rounding_grid(p, grids, row),
                 p->weights + at,
                 codes + at,
                 s->gradients + at,
                 s->cost + at,
                 s->step + at,
                 neighbours};
    descend_single(&d);
    for (int i = 0; i < PAIR_ROUNDS && take_pairs(&d) > 0; i++)
      ;
  }
}

qb_status qb_descend(const qb_rounding *rounding, const qb_grid *grids, bool neighbours, int32_t *codes,
                     qb_error *error) {
  descent_scratch scratch;
  QB_TRY(scratch_create(rounding, &scratch, error));
#pragma omp parallel for schedule(dynamic)
  for (size_t first = 0; first < rounding->rows; first += QB_ROUNDING_ROWS)
    descend_rows(rounding, grids, neighbours, codes, &scratch, first, least(QB_ROUNDING_ROWS, rounding->rows - first));
  scratch_free(&scratch);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- adaround */

/* Nearest among the two neighbours: plain nearest but for weights that clip. */
static void nearest_codes(const qb_rounding *p, const qb_grid *grids, int32_t *codes) {
  for (size_t row = 0; row < p->rows; row++)
    qb_grid_nearest_run(qb_rounding_grid(p, grids, row), p->weights + row * p->length, p->length,
                        codes + row * p->length);
}

static qb_status better_start(const qb_rounding *p, const qb_grid *grids, int32_t *other, double *costs, int32_t *codes,
                              double *objectives, qb_error *error) {
  nearest_codes(p, grids, other);
  QB_TRY(qb_descend(p, grids, true, other, error));
  qb_gptq(p, grids, true, codes, objectives);
  QB_TRY(qb_descend(p, grids, true, codes, error));
  qb_rounding_objectives(p, grids, other, costs);
  qb_rounding_objectives(p, grids, codes, objectives);
  for (size_t row = 0; row < p->rows; row++)
    if (costs[row] < objectives[row]) {
      objectives[row] = costs[row];
      memcpy(codes + row * p->length, other + row * p->length, p->length * sizeof *codes);
    }
  return QB_OK;
}

qb_status qb_adaround(const qb_rounding *rounding, const qb_grid *grids, int32_t *codes, double *objectives,
                      qb_error *error) {
  int32_t *other = qb_alloc(rounding->rows * rounding->length, sizeof *other);
  double *costs = qb_alloc(rounding->rows, sizeof *costs);
  qb_status status = other == NULL || costs == NULL
                         ? qb_fail_memory(error, "adaround", rounding->rows * rounding->length * sizeof *other)
                         : better_start(rounding, grids, other, costs, codes, objectives, error);
  qb_free(other);
  qb_free(costs);
  return status;
}
