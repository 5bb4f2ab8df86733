/* Binomial tails as sums of positive terms in ball arithmetic.
 *
 * A tail begins with its largest term T = n! / (k! (n-k)!) p^k (1-p)^(n-k), from log Gamma, and goes away from the mean
 * by the ratio of neighbours, which falls all the way. So once a term t and the next ratio r < 1 are small enough, what
 * is left is below t / (1 - r) and widens the ball. A tail that contains the mean is one minus the other tail.
 *
 * A limit is found by bisection over doubles. Only points whose tail is proved to be at most alpha move the outer end,
 * so the result is safe whatever the accuracy of the arithmetic; the accuracy decides only how tight it is. */
#include "stats/binomial.h"

#include <math.h>

#include <arb.h>

#include "base/error.h"
#include "stats/rounding_out.h"

enum { PRECISION = 128, NEGLIGIBLE_BITS = 100 };

/* The side of the distribution that a sum goes to. */
typedef enum direction { DOWNWARDS, UPWARDS } direction;

/* ------------------------------------------------------------------------------------------------- one-sided sum */

/* log(n! / (k! (n-k)!)) */
static void log_choose(arb_t result, int64_t n, int64_t k) {
  arb_t part;
  arb_init(part);
  arb_set_si(result, n + 1);
  arb_lgamma(result, result, PRECISION);
  arb_set_si(part, k + 1);
  arb_lgamma(part, part, PRECISION);
  arb_sub(result, result, part, PRECISION);
  arb_set_si(part, n - k + 1);
  arb_lgamma(part, part, PRECISION);
  arb_sub(result, result, part, PRECISION);
  arb_clear(part);
}

/* P(X = k) for 0 < p < 1. */
static void first_term(arb_t term, int64_t n, int64_t k, const arb_t p) {
  arb_t part;
  arb_init(part);
  log_choose(term, n, k);
  arb_log(part, p, PRECISION);
  arb_mul_si(part, part, k, PRECISION);
  arb_add(term, term, part, PRECISION);
  arb_neg(part, p);
  arb_log1p(part, part, PRECISION);
  arb_mul_si(part, part, n - k, PRECISION);
  arb_add(term, term, part, PRECISION);
  arb_exp(term, term, PRECISION);
  arb_clear(part);
}

/* True when `term` is negligible beside `sum`. */
static bool is_negligible(const arb_t term, const arb_t sum) {
  mag_t upper, lower;
  mag_init(upper);
  mag_init(lower);
  arb_get_mag(upper, term);
  arb_get_mag_lower(lower, sum);
  mag_mul_2exp_si(upper, upper, NEGLIGIBLE_BITS);
  bool result = mag_cmp(upper, lower) < 0;
  mag_clear(upper);
  mag_clear(lower);
  return result;
}

/* Adds the bound t / (1 - r) of all terms from t on to the ball; false when r < 1 is not proved. */
static bool add_remainder(arb_t sum, const arb_t term, const arb_t ratio) {
  arb_t rest;
  arb_init(rest);
  arb_sub_si(rest, ratio, 1, PRECISION);
  arb_neg(rest, rest);
  bool converges = arb_is_positive(rest);
  if (converges) {
    arb_div(rest, term, rest, PRECISION);
    arb_add_error(sum, rest);
  }
  arb_clear(rest);
  return converges;
}

/* Sum of P(X = i) for i = k, k-1, .., 0 or i = k, k+1, .., n, where 0 < p < 1. */
static void sum_terms(arb_t sum, int64_t n, int64_t k, const arb_t p, direction way) {
  arb_t term, ratio, odds; /* odds: what the ratio of neighbours has beside integers */
  arb_init(term);
  arb_init(ratio);
  arb_init(odds);
  arb_sub_si(odds, p, 1, PRECISION);
  arb_neg(odds, odds);
  if (way == DOWNWARDS)
    arb_div(odds, odds, p, PRECISION);
  else
    arb_div(odds, p, odds, PRECISION);
  first_term(term, n, k, p);
  arb_set(sum, term);
  int64_t terms_left = way == DOWNWARDS ? k : n - k;
  for (; terms_left > 0; terms_left--) {
    /* downwards P(i-1)/P(i) = i q / ((n-i+1) p), upwards P(i+1)/P(i) = (n-i) p / ((i+1) q) */
    arb_mul_si(ratio, odds, terms_left, PRECISION);
    arb_div_si(ratio, ratio, n - terms_left + 1, PRECISION);
    arb_mul(term, term, ratio, PRECISION);
    if (is_negligible(term, sum) && add_remainder(sum, term, ratio))
      break;
    arb_add(sum, sum, term, PRECISION);
  }
  arb_clear(term);
  arb_clear(ratio);
  arb_clear(odds);
}

/* ---------------------------------------------------------------------------------------------------------- tails */

/* P(X <= k) or P(X >= k), 0 <= k <= n, 0 <= p <= 1. */
static void tail(arb_t result, int64_t n, int64_t k, double p, direction way) {
  bool everything = way == DOWNWARDS ? k == n : k == 0;
  double mean = (double)n * p;
  if (everything || p == 0.0 || p == 1.0) {
    bool all_on_this_side = way == DOWNWARDS ? p == 0.0 : p == 1.0;
    arb_set_si(result, everything || all_on_this_side);
    return;
  }
  arb_t probability;
  arb_init(probability);
  arb_set_d(probability, p);
  bool holds_mean = way == DOWNWARDS ? (double)k > mean : (double)k < mean;
  if (!holds_mean)
    sum_terms(result, n, k, probability, way);
  else {
    sum_terms(result, n, way == DOWNWARDS ? k + 1 : k - 1, probability, way == DOWNWARDS ? UPWARDS : DOWNWARDS);
    arb_sub_si(result, result, 1, PRECISION);
    arb_neg(result, result);
  }
  arb_clear(probability);
}

static qb_status check_counts(int64_t n, int64_t k, qb_error *error) {
  if (n < 1 || n > QB_BINOMIAL_MAX_TRIALS || k < 0 || k > n)
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "%lld of %lld trials: expected 1 to %d trials and at most as many successes", (long long)k,
                   (long long)n, QB_BINOMIAL_MAX_TRIALS);
  return QB_OK;
}

static qb_status tail_limits(int64_t n, int64_t k, double p, direction way, double *lo, double *hi, qb_error *error) {
  QB_TRY(check_counts(n, k, error));
  if (!(p >= 0.0 && p <= 1.0))
    return qb_fail(error, QB_ERROR_ARGUMENT, "%g is not a probability", p);
  arb_t value;
  arb_init(value);
  tail(value, n, k, p, way);
  *lo = fmax(0.0, qb_round_down(value));
  *hi = fmin(1.0, qb_round_up(value));
  arb_clear(value);
  return QB_OK;
}

qb_status qb_binomial_at_most(int64_t n, int64_t k, double p, double *lo, double *hi, qb_error *error) {
  return tail_limits(n, k, p, DOWNWARDS, lo, hi, error);
}

qb_status qb_binomial_at_least(int64_t n, int64_t k, double p, double *lo, double *hi, qb_error *error) {
  return tail_limits(n, k, p, UPWARDS, lo, hi, error);
}

/* --------------------------------------------------------------------------------------------------------- limits */

/* True when the tail is proved to be at most alpha. */
static bool is_excluded(int64_t n, int64_t k, double p, direction way, double alpha) {
  arb_t value, bound;
  arb_init(value);
  arb_init(bound);
  tail(value, n, k, p, way);
  arb_set_d(bound, alpha);
  bool result = arb_le(value, bound);
  arb_clear(value);
  arb_clear(bound);
  return result;
}

static bool is_tight(double inner, double outer) {
  return fabs(outer - inner) <= ldexp(outer, -45) || nextafter(inner, outer) == outer;
}

/* A double between 0 and 1 that lies between a and b, by halves, or by ratios where one is much smaller. */
static double between(double a, double b) {
  double small = fmin(a, b), large = fmax(a, b);
  if (small == 0.0 || large < 4.0 * small)
    return small + (large - small) / 2.0;
  return sqrt(small) * sqrt(large);
}

/* Moves `outer`, which is excluded, towards `inner`, which need not be, as far as exclusion can be proved. */
static double bisect(int64_t n, int64_t k, direction way, double alpha, double inner, double outer) {
  while (!is_tight(inner, outer)) {
    double middle = between(inner, outer);
    if (middle == inner || middle == outer)
      break;
    if (is_excluded(n, k, middle, way, alpha))
      outer = middle;
    else
      inner = middle;
  }
  return outer;
}

static qb_status check_alpha(double alpha, qb_error *error) {
  if (!(alpha > 0.0 && alpha < 1.0))
    return qb_fail(error, QB_ERROR_ARGUMENT, "an error probability of %g: expected a number between 0 and 1", alpha);
  return QB_OK;
}

qb_status qb_binomial_upper(int64_t n, int64_t k, double alpha, double *limit, qb_error *error) {
  QB_TRY(check_counts(n, k, error));
  QB_TRY(check_alpha(alpha, error));
  *limit = k == n ? 1.0 : bisect(n, k, DOWNWARDS, alpha, 0.0, 1.0);
  return QB_OK;
}

/* The smallest lower limit, for k = 1, is 1 - (1 - alpha)^(1/n) > alpha / n: the search begins below it, at a point
 * that is excluded because P(X >= k) <= P(X >= 1) <= n p. */
qb_status qb_binomial_lower(int64_t n, int64_t k, double alpha, double *limit, qb_error *error) {
  QB_TRY(check_counts(n, k, error));
  QB_TRY(check_alpha(alpha, error));
  double start = alpha / (2.0 * (double)n);
  *limit = k == 0 || start <= 0.0 ? 0.0 : bisect(n, k, UPWARDS, alpha, 1.0, start);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------- paired comparisons */

qb_status qb_mcnemar_p(int64_t first_only, int64_t second_only, double *p, qb_error *error) {
  double lo, hi;
  int64_t smaller = first_only < second_only ? first_only : second_only;
  *p = 1.0;
  if (first_only == 0 && second_only == 0)
    return QB_OK;
  if (smaller < 0 || first_only > QB_BINOMIAL_MAX_TRIALS || second_only > QB_BINOMIAL_MAX_TRIALS)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%lld and %lld are not counts of inputs", (long long)first_only,
                   (long long)second_only);
  QB_TRY(qb_binomial_at_most(first_only + second_only, smaller, 0.5, &lo, &hi, error));
  *p = fmin(1.0, 2.0 * hi);
  return QB_OK;
}

qb_status qb_accuracy_loss_upper(int64_t n, int64_t lost, int64_t gained, double alpha, double *loss, qb_error *error) {
  double upper, lower;
  if (lost < 0 || gained < 0 || lost > n - gained)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%lld lost and %lld gained do not fit into %lld inputs", (long long)lost,
                   (long long)gained, (long long)n);
  QB_TRY(check_alpha(alpha, error));
  double half = alpha > 0x1p-1021 ? alpha / 2.0 : 0.0; /* exact */
  QB_TRY(qb_binomial_upper(n, lost, half, &upper, error));
  QB_TRY(qb_binomial_lower(n, gained, half, &lower, error));
  *loss = nextafter(upper - lower, INFINITY);
  return QB_OK;
}
