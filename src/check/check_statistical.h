/* The statistical claim of a certificate, judged from the file alone. */
#ifndef QB_CHECK_STATISTICAL_H
#define QB_CHECK_STATISTICAL_H

#include <jansson.h>
#include <qbound/qbound.h>

typedef struct statistical_verdict {
  bool present, refuted;
  bool unknown;  /* too many inputs for this checker */
  char why[200]; /* when refuted or unknown */
} statistical_verdict;

/* Whether every limit follows from the counts and ranks beside it: exact binomial tails at the shared error
 * probability, which has to fit the confidence, the candidates and the claims; ranks that were fixed before looking;
 * and counts that fit each other. The counts themselves were measured and are not looked at. QB_ERROR_FORMAT with
 * `path` for an entry that is missing or no number. */
QB_MUST_CHECK qb_status judge_statistical(const char *path, const json_t *claim, statistical_verdict *verdict,
                                          qb_error *error);

#endif
