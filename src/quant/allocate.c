/* Greedy descent and dynamic programming for the choice of widths; see allocate.h. */
#include "quant/allocate.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

static int64_t cost_of(const qb_allocation_problem *p, int layer, int column) {
  return p->cost[layer * p->widths + column];
}

static double score_of(const qb_allocation_problem *p, int layer, int column) {
  return p->score[layer * p->widths + column];
}

int64_t qb_allocation_cost(const qb_allocation_problem *problem, const int *choice) {
  int64_t total = 0;
  for (int l = 0; l < problem->layers; l++)
    total += cost_of(problem, l, choice[l]);
  return total;
}

double qb_allocation_score(const qb_allocation_problem *problem, const int *choice) {
  double total = 0;
  for (int l = 0; l < problem->layers; l++)
    total += score_of(problem, l, choice[l]);
  return total;
}

/* ---------------------------------------------------------------------------------------------------------- greedy */

/* The nearest column on the left that costs less, or -1. */
static int cheaper(const qb_allocation_problem *p, int layer, int column) {
  int left = column - 1;
  while (left >= 0 && cost_of(p, layer, left) == cost_of(p, layer, column))
    left--;
  return left;
}

qb_status qb_allocate_greedy(const qb_allocation_problem *problem, int *choice, qb_error *error) {
  const qb_allocation_problem *p = problem;
  for (int l = 0; l < p->layers; l++)
    choice[l] = p->widths - 1;
  while (qb_allocation_cost(p, choice) > p->budget) {
    int best = -1;
    double least = INFINITY;
    for (int l = 0; l < p->layers; l++) {
      int left = cheaper(p, l, choice[l]);
      if (left < 0)
        continue;
      double rise = fmax(0, score_of(p, l, left) - score_of(p, l, choice[l]));
      double rate = rise / (double)(cost_of(p, l, choice[l]) - cost_of(p, l, left));
      if (best < 0 || rate < least) {
        best = l;
        least = rate;
      }
    }
    if (best < 0)
      return qb_fail(error, QB_ERROR_ARGUMENT, "even the fewest bits everywhere cost %lld, the budget is %lld",
                     (long long)qb_allocation_cost(p, choice), (long long)p->budget);
    choice[best] = cheaper(p, best, choice[best]);
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------------ exact */

static int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* The unit in which the table counts what lies above the cheapest choice. */
static int64_t unit_of(const qb_allocation_problem *p, int64_t budget) {
  int64_t unit = 0;
  for (int l = 0; l < p->layers; l++)
    for (int w = 1; w < p->widths; w++)
      unit = common_divisor(unit, cost_of(p, l, w) - cost_of(p, l, 0));
  if (unit == 0)
    return 1;
  int64_t least = (budget + QB_ALLOCATE_UNITS - 1) / QB_ALLOCATE_UNITS;
  return unit >= least ? unit : least;
}

/* best[u]: least score of the layers so far within u units above their cheapest columns; from[l][u]: the column that
 * layer l takes there. */
typedef struct table {
  int64_t unit, units;
  double *best, *next;
  unsigned char *from; /* (layers, units + 1) */
} table;

static void add_layer(const qb_allocation_problem *p, int layer, table *t) {
  unsigned char *from = t->from + (size_t)layer * (size_t)(t->units + 1);
  for (int64_t u = 0; u <= t->units; u++) {
    t->next[u] = INFINITY;
    for (int w = 0; w < p->widths; w++) {
      int64_t extra = (cost_of(p, layer, w) - cost_of(p, layer, 0) + t->unit - 1) / t->unit;
      if (extra > u || !(t->best[u - extra] + score_of(p, layer, w) < t->next[u]))
        continue;
      t->next[u] = t->best[u - extra] + score_of(p, layer, w);
      from[u] = (unsigned char)w;
    }
  }
  double *swap = t->best;
  t->best = t->next;
  t->next = swap;
}

static void read_back(const qb_allocation_problem *p, const table *t, int *choice) {
  int64_t u = t->units;
  for (int l = p->layers - 1; l >= 0; l--) {
    choice[l] = t->from[(size_t)l * (size_t)(t->units + 1) + (size_t)u];
    u -= (cost_of(p, l, choice[l]) - cost_of(p, l, 0) + t->unit - 1) / t->unit;
  }
}

/* Spends what rounding to units has left: the step that lowers the score most per cost, while one fits. */
static void spend_rest(const qb_allocation_problem *p, int *choice) {
  for (;;) {
    int64_t left = p->budget - qb_allocation_cost(p, choice);
    int best = -1, column = 0;
    double most = 0;
    for (int l = 0; l < p->layers; l++)
      for (int w = choice[l] + 1; w < p->widths; w++) {
        int64_t more = cost_of(p, l, w) - cost_of(p, l, choice[l]);
        double gain = score_of(p, l, choice[l]) - score_of(p, l, w);
        double rate = gain / fmax((double)more, 0.5);
        if (more <= left && gain > 0 && rate > most) {
          best = l;
          column = w;
          most = rate;
        }
      }
    if (best < 0)
      return;
    choice[best] = column;
  }
}

static qb_status solve(const qb_allocation_problem *p, table *t, int *choice, qb_error *error) {
  int64_t rest = p->budget;
  for (int l = 0; l < p->layers; l++)
    rest -= cost_of(p, l, 0);
  t->unit = unit_of(p, rest);
  t->units = rest / t->unit;
  size_t row = (size_t)t->units + 1;
  t->best = qb_alloc(row, sizeof *t->best); /* zero: no layer yet */
  t->next = qb_alloc(row, sizeof *t->next);
  t->from = qb_alloc(row * (size_t)p->layers, 1);
  if (t->best == NULL || t->next == NULL || t->from == NULL)
    return qb_fail_memory(error, "the allocation of bits", row * (size_t)p->layers);
  for (int l = 0; l < p->layers; l++)
    add_layer(p, l, t);
  read_back(p, t, choice);
  spend_rest(p, choice);
  return QB_OK;
}

/* More units than this are never worth a step: beyond the last columns nothing can be spent. */
static qb_allocation_problem capped(const qb_allocation_problem *problem) {
  qb_allocation_problem p = *problem;
  int64_t most = 0;
  for (int l = 0; l < p.layers; l++)
    most += cost_of(&p, l, p.widths - 1);
  p.budget = p.budget < most ? p.budget : most;
  return p;
}

qb_status qb_allocate(const qb_allocation_problem *problem, int *choice, qb_error *error) {
  qb_allocation_problem p = capped(problem);
  table t = {0};
  QB_TRY(qb_allocate_greedy(&p, choice, error));
  int *exact = qb_alloc((size_t)p.layers, sizeof *exact);
  qb_status status =
      exact == NULL ? qb_fail_memory(error, "the allocation of bits", sizeof *exact) : solve(&p, &t, exact, error);
  if (status == QB_OK && qb_allocation_score(&p, exact) < qb_allocation_score(&p, choice))
    memcpy(choice, exact, (size_t)p.layers * sizeof *choice);
  qb_free(exact);
  qb_free(t.best);
  qb_free(t.next);
  qb_free(t.from);
  return status;
}
