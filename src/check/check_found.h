/* What a search found in a box: an input at which outputs change by `lower`, and one that flips. */
#ifndef QB_CHECK_CHECK_FOUND_H
#define QB_CHECK_CHECK_FOUND_H

#include "check/check_ball_claim.h"
#include "check/check_bound.h"

/* Of everything judged so far. */
typedef struct found_verdict {
  int64_t claims, verified;
  bool refuted; /* some claim is, `why` says which; the others then do not count */
  char why[RECOMPUTED_WHY];
  char unknown[RECOMPUTED_WHY]; /* why the first claim that is neither could not be verified */
} found_verdict;

/* Adds one box: lo, hi (elements), NULL when nobody knows them. `only` as in box_claim; `where` names the box in
 * messages. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status judge_found(const found_claim *found, int64_t only, const qb_pair *pair, int64_t elements,
                                    const float *lo, const float *hi, const char *where, found_verdict *verdict,
                                    qb_error *error);

/* Whether all its inputs are one; whether an input has the hash of a certificate. */
bool box_is_point(const float *lo, const float *hi, int64_t elements);
bool input_has_hash(const float *input, int64_t elements, const char *sha256);

/* "verified", "refuted", "unknown"; NULL when nothing was claimed. */
const char *found_verdict_name(const found_verdict *verdict);

#endif
