/* Order statistics; see order_statistics.h.
 *
 * Why P(E > E_(k)) <= u holds with ties: let t be the smallest number with P(E > t) <= u. The claim fails only if
 * E_(k) < t, so only if at most n - k of the errors are >= t. Each is with probability P(E >= t) >= u, and u was chosen
 * such that n trials of probability u have at most n - k successes with probability at most alpha. */
#include "stats/order_statistics.h"

#include <math.h>

#include <arb.h>

#include "base/error.h"
#include "stats/binomial.h"
#include "stats/rounding_out.h"

enum { PRECISION = 128 };

static qb_status check_claim(double p, double alpha, qb_error *error) {
  if (!(p > 0.0 && p < 1.0) || !(alpha > 0.0 && alpha < 1.0))
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "exceedance %g with error probability %g: expected numbers between 0 and 1", p, alpha);
  return QB_OK;
}

qb_status qb_order_exceedance(int64_t n, int64_t k, double alpha, double *p, qb_error *error) {
  if (k < 1 || k > n)
    return qb_fail(error, QB_ERROR_ARGUMENT, "order statistic %lld of %lld: expected 1 to the number of inputs",
                   (long long)k, (long long)n);
  return qb_binomial_upper(n, n - k, alpha, p, error);
}

/* *supported: it is proved that `exceedances` of n give P <= p, that is P(X <= exceedances | p) <= alpha. */
static qb_status supports(int64_t n, int64_t exceedances, double p, double alpha, bool *supported, qb_error *error) {
  double lo, hi;
  QB_TRY(qb_binomial_at_most(n, exceedances, p, &lo, &hi, error));
  *supported = hi <= alpha;
  return QB_OK;
}

qb_status qb_order_index(int64_t n, double p, double alpha, int64_t *k, qb_error *error) {
  bool supported;
  *k = 0;
  QB_TRY(check_claim(p, alpha, error));
  QB_TRY(supports(n, 0, p, alpha, &supported, error));
  if (!supported)
    return QB_OK;
  int64_t possible = 0, impossible = n; /* numbers of exceedances; all n of them support nothing below 1 */
  while (impossible - possible > 1) {
    int64_t middle = possible + (impossible - possible) / 2;
    QB_TRY(supports(n, middle, p, alpha, &supported, error));
    *(supported ? &possible : &impossible) = middle;
  }
  *k = n - possible;
  return QB_OK;
}

qb_status qb_order_samples_needed(int64_t exceedances, double p, double alpha, int64_t *n, qb_error *error) {
  QB_TRY(check_claim(p, alpha, error));
  if (exceedances < 0 || exceedances >= QB_BINOMIAL_MAX_TRIALS)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%lld is not a number of exceedances", (long long)exceedances);
  int64_t too_few = exceedances, enough = exceedances + 1;
  bool supported;
  QB_TRY(supports(enough, exceedances, p, alpha, &supported, error));
  while (!supported) {
    too_few = enough;
    if (enough == QB_BINOMIAL_MAX_TRIALS)
      return qb_fail(error, QB_ERROR_ARGUMENT, "%lld exceedances show P <= %g only with more than %d inputs",
                     (long long)exceedances, p, QB_BINOMIAL_MAX_TRIALS);
    enough = enough > QB_BINOMIAL_MAX_TRIALS / 2 ? QB_BINOMIAL_MAX_TRIALS : 2 * enough;
    QB_TRY(supports(enough, exceedances, p, alpha, &supported, error));
  }
  while (enough - too_few > 1) {
    int64_t middle = too_few + (enough - too_few) / 2;
    QB_TRY(supports(middle, exceedances, p, alpha, &supported, error));
    *(supported ? &enough : &too_few) = middle;
  }
  *n = enough;
  return QB_OK;
}

qb_status qb_dkw_margin(int64_t n, double alpha, double *margin, qb_error *error) {
  if (n < 1 || !(alpha > 0.0 && alpha <= 0.5))
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "a band of %lld inputs with error probability %g: expected an input and at most one half",
                   (long long)n, alpha);
  arb_t value;
  arb_init(value);
  arb_set_d(value, alpha);
  arb_log(value, value, PRECISION);
  arb_div_si(value, value, n, PRECISION);
  arb_mul_2exp_si(value, value, -1);
  arb_neg(value, value);
  arb_sqrt(value, value, PRECISION);
  *margin = qb_round_up(value);
  arb_clear(value);
  return QB_OK;
}

double qb_dkw_exceedance(int64_t n, int64_t k, double margin) {
  double share = nextafter((double)(n - k) / (double)n, INFINITY);
  return fmin(1.0, nextafter(share + margin, INFINITY));
}

double qb_bonferroni(double alpha, int64_t claims) {
  return claims <= 1 ? alpha : fmax(0.0, nextafter(alpha / (double)claims, 0.0));
}

int64_t qb_fixed_sequence(const double *p_values, int64_t count, double alpha) {
  int64_t held = 0;
  while (held < count && p_values[held] <= alpha)
    held++;
  return held;
}
