/* Exact binomial tails and the confidence limits of a probability (Clopper and Pearson 1934), from ball arithmetic: no
 * normal approximation, and every result is on the safe side of the true value.
 *
 * X is the number of successes in n independent trials of probability p, 1 <= n <= QB_BINOMIAL_MAX_TRIALS. `alpha` is
 * the probability that a limit may be wrong, in (0, 1). QB_ERROR_ARGUMENT when an argument is out of its range.
 * Cost: about 10 sqrt(n) terms for a tail, 50 to 100 tails for a limit. Safe in several threads at once. */
#ifndef QB_STATS_BINOMIAL_H
#define QB_STATS_BINOMIAL_H

#include <qbound/qbound.h>

#define QB_BINOMIAL_MAX_TRIALS 1000000000

/* *lo <= P(X <= k) <= *hi, a few units in the last place apart; 0 <= k <= n, 0 <= p <= 1. */
QB_MUST_CHECK qb_status qb_binomial_at_most(int64_t n, int64_t k, double p, double *lo, double *hi, qb_error *error);

/* *lo <= P(X >= k) <= *hi. */
QB_MUST_CHECK qb_status qb_binomial_at_least(int64_t n, int64_t k, double p, double *lo, double *hi, qb_error *error);

/* After k successes: with confidence 1 - alpha, p <= *limit. The smallest u with P(X <= k | u) <= alpha, rounded up by
 * less than 2^-44 of itself; 1 when k = n. */
QB_MUST_CHECK qb_status qb_binomial_upper(int64_t n, int64_t k, double alpha, double *limit, qb_error *error);

/* After k successes: with confidence 1 - alpha, p >= *limit; rounded down likewise; 0 when k = 0. */
QB_MUST_CHECK qb_status qb_binomial_lower(int64_t n, int64_t k, double alpha, double *limit, qb_error *error);

/* Two classifiers on the same inputs: the exact McNemar p value (two-sided, rounded up) of `first_only` inputs that
 * only the first gets right and `second_only` that only the second does: min(1, 2 P(X <= min)) for X of that many
 * trials with p = 1/2; 1 when both are 0. */
QB_MUST_CHECK qb_status qb_mcnemar_p(int64_t first_only, int64_t second_only, double *p, qb_error *error);

/* With confidence 1 - alpha the accuracy that is lost, P(float right, quantized wrong) - P(float wrong, quantized
 * right), is at most *loss: upper limit of the first minus lower limit of the second, alpha/2 each (theory section 5).
 * `lost` and `gained` count such inputs among n. */
QB_MUST_CHECK qb_status qb_accuracy_loss_upper(int64_t n, int64_t lost, int64_t gained, double alpha, double *loss,
                                               qb_error *error);

#endif
