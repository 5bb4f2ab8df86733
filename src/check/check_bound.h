/* Recomputing the number of a certificate. */
#ifndef QB_CHECK_CHECK_BOUND_H
#define QB_CHECK_CHECK_BOUND_H

#include "check/check_cells.h"
#include "check/check_claim.h"
#include "graph/pair.h"

enum { RECOMPUTED_WHY = 400 };

/* What the checker itself can prove about the claim's pair, domain and output. */
typedef struct recomputed {
  bool known;   /* false: a method or a node without a rule, `why` says which */
  bool refuted; /* a witness is wrong or a claimed output range does not follow, `why` says which */
  double bound; /* when neither: sup of the largest |R' - R| is at most this */
  char why[RECOMPUTED_WHY];
} recomputed;

/* The largest |d| of the outputs of a finished walk, and whether the claimed ranges contain d. */
void judge_outputs(const claim *c, const walk *w, recomputed *result);

/* layerwise, interval and elementwise. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status recompute_by_ranges(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error);

/* two_stage (check_paths.c), of exact functions. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status recompute_by_paths(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error);

/* spectral and product (check_l2.c). QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status recompute_by_norms(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error);

#endif
