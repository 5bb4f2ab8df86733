/* What held-out inputs say about fresh ones: the claims of one certificate, which all hold together with its
 * confidence.
 *
 * The inputs are independent draws of what the network will see and took no part in making the quantized network; the
 * caller has checked what can be checked of that. No other assumption: limits are exact binomial ones, rounded to the
 * safe side.
 *
 * alpha = 1 - confidence is shared in three steps, each by Bonferroni (theory section 5):
 *   over `candidates`, the networks that were tried on these inputs, whichever of them is kept
 *   over the claims that are printed; which those are follows from n, the number of outputs and whether there are
 * labels, never from what was measured: so many error quantiles, the flip rate, the accuracy loss, the curve, the
 * classes within the curve over its points, within the classes over all their limits. Which classes are large enough
 * follows from the classes of the inputs alone; given those, the inputs of a class are independent draws of that class
 */
#ifndef QB_STATS_STATISTICAL_CLAIM_H
#define QB_STATS_STATISTICAL_CLAIM_H

#include <qbound/qbound.h>

#include "base/arena.h"

/* Both networks on one input. */
typedef struct qb_observation {
  double error;           /* largest |difference of an output|, >= 0 */
  int32_t top, other_top; /* decisions, 0 .. outputs - 1 */
  int32_t label;          /* -1: none */
} qb_observation;

typedef struct qb_statistical_settings {
  double confidence;  /* in (0, 1) */
  int64_t candidates; /* networks tried on these inputs, this one included, >= 1 */
  int64_t outputs;    /* classes of the network, >= 1 */
} qb_statistical_settings;

/* Fills all of `claim` but its calibration fields; arrays lie in `arena`. `n` is 1 .. QB_BINOMIAL_MAX_TRIALS.
 * QB_ERROR_ARGUMENT (a setting or an observation out of its range), QB_ERROR_NUMERIC (an error that is not finite),
 * QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_statistical_claim_make(const qb_observation *observations, int64_t n,
                                                  const qb_statistical_settings *settings, qb_arena *arena,
                                                  qb_statistical_claim *claim, qb_error *error);

#endif
