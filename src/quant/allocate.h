/* Choosing a width for every layer under a budget: a table of scores and one of costs in, one column per layer out.
 *
 *   minimise sum of score[l][choice[l]]  subject to  sum of cost[l][choice[l]] <= budget
 *
 * Scores may mean anything that adds up over layers (allocate_scores.h makes three kinds). Costs are bits or bytes. */
#ifndef QB_QUANT_ALLOCATE_H
#define QB_QUANT_ALLOCATE_H

#include <qbound/qbound.h>

typedef struct qb_allocation_problem {
  int layers, widths;  /* columns go from few bits to many */
  const double *score; /* (layers, widths) >= 0 and finite; larger is worse */
  const int64_t *cost; /* (layers, widths) >= 0, a row never falls */
  int64_t budget;
} qb_allocation_problem;

/* Total of the chosen columns. */
int64_t qb_allocation_cost(const qb_allocation_problem *problem, const int *choice);
double qb_allocation_score(const qb_allocation_problem *problem, const int *choice);

/* Starts at the last column and lowers, step by step, the layer whose score rises least per unit of cost saved,
 * [s(b-) - s(b)]_+ / saved (theory section 5), until the budget holds. A step may skip columns that cost the same.
 * QB_ERROR_ARGUMENT when even the first columns cost more than the budget. */
QB_MUST_CHECK qb_status qb_allocate_greedy(const qb_allocation_problem *problem, int *choice, qb_error *error);

/* The smallest total score, by dynamic programming over the budget. Exact when the budget is at most QB_ALLOCATE_UNITS
 * times the greatest common divisor of the costs; else costs are rounded up to units, so that at most one unit a layer
 * stays unused, and what is left is spent layer by layer. Never worse than qb_allocate_greedy. QB_ERROR_ARGUMENT as
 * there, QB_ERROR_MEMORY. */
enum { QB_ALLOCATE_UNITS = 16384 };
QB_MUST_CHECK qb_status qb_allocate(const qb_allocation_problem *problem, int *choice, qb_error *error);

#endif
