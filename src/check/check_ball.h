/* Balls, and boxes that were cut up: recomputing what is claimed of them. */
#ifndef QB_CHECK_CHECK_BALL_H
#define QB_CHECK_CHECK_BALL_H

#include "check/check_ball_claim.h"
#include "check/check_bound.h"
#include "check/check_found.h"

/* Of all balls together. */
typedef struct balls_verdict {
  bool refuted, unknown; /* some ball is; `why` names the first one */
  int64_t count, follow; /* balls; those whose claims follow */
  char why[RECOMPUTED_WHY];
} balls_verdict;

/* What a box claims: by `interval`, `relaxation` or `bisection`. result->bound is what was proved, result->refuted says
 * that some claim does not follow. lo, hi: (elements of the input). QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status recompute_box(const box_claim *c, const qb_pair *pair, const float *lo, const float *hi,
                                      recomputed *result, qb_error *error);

/* The worst case of a certificate by relaxation or bisection. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status recompute_by_cuts(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error);

/* What a search found in the domain of the worst case. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status judge_domain(const claim *c, const qb_pair *pair, found_verdict *found, qb_error *error);

/* All balls, and what the curve says about them; adds to `found` what was found in them. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status recompute_balls(const balls_claim *b, const qb_pair *pair, balls_verdict *verdict,
                                        found_verdict *found, qb_error *error);

#endif
