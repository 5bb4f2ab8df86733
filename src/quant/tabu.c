/* One-change tabu search; see tabu.h. */
#include "quant/tabu.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/wide.h"

/* A ban lasts between TENURE and TENURE + SPREAD - 1 steps and a share of the length; costs are searched by blocks. */
enum { TENURE = 5, SPREAD = 10, TENURE_SHARE = 100, RING = 128, BLOCK = 64, LANES = 8, NONE = -1 };

/* An improvement exceeds this share of the objective: less may be rounding. */
static const double NOISE = 1e-6;

qb_status qb_tabu_create(size_t length, int64_t patience, int64_t limit, qb_tabu *tabu, qb_error *error) {
  *tabu = (qb_tabu){.length = length, .patience = patience, .limit = limit};
  if ((tabu->cost = qb_alloc(length, sizeof *tabu->cost)) == NULL ||
      (tabu->direction = qb_alloc(length, sizeof *tabu->direction)) == NULL ||
      (tabu->penalty = qb_alloc(length, sizeof *tabu->penalty)) == NULL ||
      (tabu->next = qb_alloc(length, sizeof *tabu->next)) == NULL ||
      (tabu->moved = qb_alloc((size_t)patience, sizeof *tabu->moved)) == NULL)
    return qb_fail_memory(error, "tabu search", length * sizeof *tabu->cost);
  return QB_OK;
}

void qb_tabu_free(qb_tabu *tabu) {
  qb_free(tabu->cost);
  qb_free(tabu->direction);
  qb_free(tabu->penalty);
  qb_free(tabu->next);
  qb_free(tabu->moved);
  *tabu = (qb_tabu){0};
}

/* One search. */
typedef struct walk {
  qb_tabu *t;
  int32_t *codes;
  int64_t moved;      /* entries of t->moved */
  double total;       /* objective, in scale^2 */
  qb_rng rng;         /* for the bans */
  int32_t ring[RING]; /* heads of the lists of bans, by step modulo RING */
} walk;

/* The allowed weight that costs least, all costs moved on by `factor` direction[k] row[k] first. */
QB_WIDE static size_t update_and_choose(float *restrict cost, const float *restrict direction,
                                        const float *restrict penalty, const float *restrict row, float factor,
                                        size_t length) {
  size_t best = 0;
  float least = INFINITY;
  for (size_t begin = 0; begin < length; begin += BLOCK) {
    size_t size = length - begin < BLOCK ? length - begin : BLOCK, whole = size - size % LANES;
    float *c = cost + begin, lanes[LANES], smallest = INFINITY;
    const float *d = direction + begin, *p = penalty + begin, *r = row + begin;
    for (int l = 0; l < LANES; l++)
      lanes[l] = INFINITY;
    for (size_t k = 0; k < whole; k += LANES)
      for (size_t l = 0; l < LANES; l++) {
        c[k + l] += factor * d[k + l] * r[k + l];
        float value = c[k + l] + p[k + l];
        lanes[l] = value < lanes[l] ? value : lanes[l];
      }
    for (size_t k = whole; k < size; k++) {
      c[k] += factor * d[k] * r[k];
      smallest = c[k] + p[k] < smallest ? c[k] + p[k] : smallest;
    }
    for (int l = 0; l < LANES; l++)
      smallest = lanes[l] < smallest ? lanes[l] : smallest;
    if (smallest < least) {
      least = smallest;
      best = begin;
    }
  }
  for (size_t k = best; k < length && least < INFINITY; k++)
    if (cost[k] + penalty[k] == least)
      return k;
  return length;
}

static void start(walk *w, const qb_rounding *p, const qb_grid *grid, size_t row, const float *gradient) {
  qb_tabu *t = w->t;
  qb_rng_seed(&w->rng, p->first_row + row, t->length);
  double inverse = 1 / (double)grid->scale;
  for (size_t k = 0; k < t->length; k++) {
    int32_t lo, hi;
    double slope = (double)gradient[k] * inverse;
    qb_rounding_neighbours(grid, p->weights[row * t->length + k], &lo, &hi);
    t->direction[k] = lo == hi ? 0 : w->codes[k] == lo ? 1 : -1;
    t->cost[k] = lo == hi ? INFINITY : p->a[k * t->length + k] + 2 * t->direction[k] * (float)slope;
    t->penalty[k] = 0;
    double error = (double)qb_grid_value(grid, w->codes[k]) - (double)p->target[row * t->length + k];
    w->total += slope * error * inverse;
  }
  for (int i = 0; i < RING; i++)
    w->ring[i] = NONE;
}

/* Bans that end with `step`. */
static void lift_bans(walk *w, int64_t step) {
  int32_t *head = &w->ring[step % RING];
  for (int32_t k = *head; k != NONE; k = w->t->next[k])
    w->t->penalty[k] = 0;
  *head = NONE;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void ban(walk *w, size_t k, int64_t step) {
  int64_t length = (int64_t)w->t->length, most = length / 4;
  int64_t fixed = least(least(TENURE + length / TENURE_SHARE, RING - 1 - SPREAD), most);
  int64_t end = step + 1 + fixed + (int64_t)qb_rng_below(&w->rng, (uint64_t)least(SPREAD, most + 1));
  w->t->penalty[k] = INFINITY;
  w->t->next[k] = w->ring[end % RING];
  w->ring[end % RING] = (int32_t)k;
}

static void change(walk *w, size_t k) {
  w->codes[k] += (int32_t)w->t->direction[k];
  w->t->direction[k] = -w->t->direction[k];
}

/* Changes weight k. Returns the factor by which the row of A moves the costs, and prepares the weight's own cost, which
 * that move takes to what a change back costs. */
static float take_step(walk *w, const qb_rounding *p, size_t k, int64_t step) {
  qb_tabu *t = w->t;
  w->total += (double)t->cost[k];
  t->cost[k] = -t->cost[k] + 2 * p->a[k * t->length + k];
  change(w, k);
  ban(w, k, step);
  t->moved[w->moved++] = (int32_t)k;
  return -2 * t->direction[k];
}

void qb_tabu_search(qb_tabu *tabu, const qb_rounding *rounding, const qb_grid *grid, size_t row, const float *gradient,
                    int32_t *codes) {
  walk w = {.t = tabu, .codes = codes};
  start(&w, rounding, grid, row, gradient);
  const float *a = rounding->a;
  double best = w.total, noise = NOISE * w.total;
  float factor = 0;
  int64_t improved = 0;
  for (int64_t step = 0; step < tabu->limit && step - improved < tabu->patience; step++) {
    lift_bans(&w, step);
    size_t k = update_and_choose(tabu->cost, tabu->direction, tabu->penalty, a, factor, tabu->length);
    factor = 0;
    if (k == tabu->length) /* all are banned or fixed */
      continue;
    factor = take_step(&w, rounding, k, step);
    a = rounding->a + k * tabu->length;
    if (w.total < best - noise) {
      best = w.total;
      improved = step;
      w.moved = 0;
    }
  }
  while (w.moved > 0) /* back to the best choice */
    change(&w, (size_t)tabu->moved[--w.moved]);
}
