/* Tabu search over the two neighbours of every weight of one row. */
#ifndef QB_QUANT_TABU_H
#define QB_QUANT_TABU_H

#include "base/rng.h"
#include "quant/rounding_problem.h"

/* Settings and room for one row of `length` weights; one per thread. */
typedef struct qb_tabu {
  size_t length;
  int64_t patience, limit; /* steps without improvement, steps in all, that end a search */
  float *cost; /* (K) change of the objective, in scale^2, when the weight goes to its other neighbour; INF: stays */
  float *direction; /* (K) +1 at the lower neighbour, -1 at the upper, 0 where there is one only */
  float *penalty;   /* (K) INF while a change would only undo an earlier one */
  int32_t *next;    /* (K) lists of the weights whose ban ends in the same step */
  int32_t *moved;   /* (patience) changes since the best choice */
} qb_tabu;

/* QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_tabu_create(size_t length, int64_t patience, int64_t limit, qb_tabu *tabu, qb_error *error);
void qb_tabu_free(qb_tabu *tabu);

/* Improves the codes (K) of row `row`, each one of the two neighbours of its weight. `gradient` (K) is A e in float32,
 * e = v(codes) - target.
 *
 * The problem is one of unconstrained binary quadratic programming, where tabu search (Glover 1989; Palubeckis 2006) is
 * the method of choice: change the weight that costs least, downhill or not, and ban it for some steps. A step reads
 * one row of A. The best choice met is returned: never worse than the start but for float32 rounding. The lengths of
 * the bans are drawn from the row's number alone, so results do not depend on threads. */
void qb_tabu_search(qb_tabu *tabu, const qb_rounding *rounding, const qb_grid *grid, size_t row, const float *gradient,
                    int32_t *codes);

#endif
