/* Guarantees about errors of fresh inputs from the sorted errors E_(1) <= .. <= E_(n) of n held-out ones, without any
 * assumption about their distribution (ties allowed), and the sharing of one error probability by several claims.
 *
 * Source: theory section 5. `alpha` is the probability that a claim may be wrong, in (0, 1). Limits are rounded to the
 * safe side. QB_ERROR_ARGUMENT when an argument is out of its range. */
#ifndef QB_STATS_ORDER_STATISTICS_H
#define QB_STATS_ORDER_STATISTICS_H

#include <qbound/qbound.h>

/* With confidence 1 - alpha: P(E > E_(k)) <= *p for a fresh input, 1 <= k <= n fixed before looking. The upper limit
 * of n - k exceedances in n; for k = n it is 1 - alpha^(1/n). */
QB_MUST_CHECK qb_status qb_order_exceedance(int64_t n, int64_t k, double alpha, double *p, qb_error *error);

/* The smallest k for which qb_order_exceedance gives at most p; 0 when n is too small for any. 0 < p < 1. */
QB_MUST_CHECK qb_status qb_order_index(int64_t n, double p, double alpha, int64_t *k, qb_error *error);

/* The smallest n at which `exceedances` among n are proved to give P <= p with confidence 1 - alpha: how many inputs a
 * claim needs (one more than necessary where the tail is alpha exactly). QB_ERROR_ARGUMENT when that is more than
 * QB_BINOMIAL_MAX_TRIALS. 0 < p < 1. */
QB_MUST_CHECK qb_status qb_order_samples_needed(int64_t exceedances, double p, double alpha, int64_t *n,
                                                qb_error *error);

/* With confidence 1 - alpha for all k at once: P(E > E_(k)) <= (n - k)/n + *margin, the one-sided inequality of
 * Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990), margin = sqrt(log(1/alpha) / (2 n)), alpha <= 1/2. */
QB_MUST_CHECK qb_status qb_dkw_margin(int64_t n, double alpha, double *margin, qb_error *error);

/* min(1, (n - k)/n + margin), rounded up. */
double qb_dkw_exceedance(int64_t n, int64_t k, double margin);

/* alpha / claims, rounded down: the error probability of each of `claims` >= 1 claims that all hold with 1 - alpha. */
double qb_bonferroni(double alpha, int64_t claims);

/* Fixed-sequence testing: claims are tested in an order fixed beforehand, each at the full alpha, until the first that
 * fails. Returns how many of the leading p values (upper limits of them) are at most alpha; all those claims hold
 * together with confidence 1 - alpha. */
int64_t qb_fixed_sequence(const double *p_values, int64_t count, double alpha);

#endif
