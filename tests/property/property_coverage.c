/* Simulated populations of known truth: the claims fail no more often than they say.
 *
 * A repetition draws n inputs and makes claims; it fails when ANY of its claims is false. The number of failures among
 * the repetitions is tested exactly: were the failure probability alpha, so many failures or more would have
 * probability at most one in a million. Seeds are fixed, so a pass stays a pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/rng.h"
#include "stats/binomial.h"
#include "stats/order_statistics.h"
#include "support/cases.h"

enum { REPETITIONS = 10000, MAX_INPUTS = 10000 };

/* P(X >= failures) where each of `repetitions` fails with probability alpha, from below. */
static double p_of_failures(long repetitions, long failures, double alpha) {
  double lo, hi;
  assert_int_equal(qb_binomial_at_least(repetitions, failures, alpha, &lo, &hi, NULL), QB_OK);
  return lo;
}

static void failures_are_as_stated(const char *what, long repetitions, long failures, double alpha) {
  if (p_of_failures(repetitions, failures, alpha) < 1e-6)
    fail_msg("%s: %ld of %ld repetitions fail, stated %g", what, failures, repetitions, alpha);
}

/* Limits after k of n, computed when they are first asked for. */
typedef qb_status (*limit_function)(int64_t n, int64_t k, double alpha, double *limit, qb_error *error);

typedef struct limit_table {
  int64_t n;
  double alpha, *limits; /* -1: not computed yet */
  limit_function function;
} limit_table;

static limit_table make_table(int64_t n, double alpha, limit_function function) {
  limit_table table = {n, alpha, malloc(((size_t)n + 1) * sizeof *table.limits), function};
  assert_non_null(table.limits);
  for (int64_t k = 0; k <= n; k++)
    table.limits[k] = -1;
  return table;
}

static double limit_after(const limit_table *table, int64_t k) {
  if (table->limits[k] < 0)
    assert_int_equal(table->function(table->n, k, table->alpha, &table->limits[k], NULL), QB_OK);
  return table->limits[k];
}

static int64_t draw_successes(qb_rng *rng, int64_t n, double p) {
  int64_t successes = 0;
  for (int64_t i = 0; i < n; i++)
    successes += qb_rng_double(rng) < p;
  return successes;
}

/* ------------------------------------------------------------------------------------------------ one probability */

/* Exactly, without simulation: the sum of P(X = k) over all k whose limit is below the truth. */
static void limits_cover_exactly(void **state) {
  (void)state;
  enum { N = 60 };
  for (double alpha = 0.3; alpha > 1e-4; alpha /= 10) {
    limit_table upper = make_table(N, alpha, qb_binomial_upper), lower = make_table(N, alpha, qb_binomial_lower);
    double worst = 0;
    for (double p = 0.001; p < 1; p += 0.00731) {
      double miss_above = 0, miss_below = 0;
      for (int k = 0; k <= N; k++) {
        double at_most, below = 0, unused, mass;
        assert_int_equal(qb_binomial_at_most(N, k, p, &unused, &at_most, NULL), QB_OK);
        if (k > 0)
          assert_int_equal(qb_binomial_at_most(N, k - 1, p, &below, &unused, NULL), QB_OK);
        mass = at_most - below;
        miss_above += limit_after(&upper, k) < p ? mass : 0;
        miss_below += limit_after(&lower, k) > p ? mass : 0;
      }
      assert_true(miss_above <= alpha * (1 + 1e-9) + 1e-13 && miss_below <= alpha * (1 + 1e-9) + 1e-13);
      worst = fmax(worst, fmax(miss_above, miss_below));
    }
    assert_true(worst > 0.5 * alpha); /* and no more than discreteness asks for */
    free(upper.limits);
    free(lower.limits);
  }
}

/* Both limits of one probability with alpha/2 each. */
static void simulated_limits_cover(void **state) {
  (void)state;
  static const double truths[] = {0.002, 0.05, 0.5, 0.97};
  long repetitions = 1 + test_cases(REPETITIONS) / 4;
  double alpha = 0.02;
  for (int64_t n = 50; n <= 800; n *= 4) {
    limit_table upper = make_table(n, alpha / 2, qb_binomial_upper);
    limit_table lower = make_table(n, alpha / 2, qb_binomial_lower);
    for (uint64_t t = 0; t < 4; t++) {
      qb_rng rng;
      long failures = 0;
      qb_rng_seed(&rng, 20, t + 10 * (uint64_t)n);
      for (long r = 0; r < repetitions; r++) {
        int64_t k = draw_successes(&rng, n, truths[t]);
        failures += limit_after(&upper, k) < truths[t] || limit_after(&lower, k) > truths[t];
      }
      failures_are_as_stated("limits", repetitions, failures, alpha);
    }
    free(upper.limits);
    free(lower.limits);
  }
}

/* The planted fault: the normal approximation p + z sqrt(p (1-p) / n), z of 1 %, must be caught by the same test. */
static void the_normal_approximation_is_caught(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 21, 0);
  long failures = 0;
  double truth = 0.01, n = 100;
  for (long r = 0; r < REPETITIONS; r++) {
    double share = (double)draw_successes(&rng, (int64_t)n, truth) / n;
    failures += share + 2.326 * sqrt(share * (1 - share) / n) < truth;
  }
  assert_true(p_of_failures(REPETITIONS, failures, 0.01) < 1e-6);
}

/* ------------------------------------------------------------------------------------------------ a whole report */

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Errors with P(E > e) known: continuous 1 - e^2, or three values with ties. */
static double draw_error(qb_rng *rng, int kind) {
  double u = qb_rng_double(rng);
  if (kind == 0)
    return sqrt(u);
  return u < 0.6 ? 1 : u < 0.97 ? 2 : 3;
}

static double true_exceedance(double e, int kind) {
  if (kind == 0)
    return e >= 1 ? 0 : 1 - e * e;
  return e < 1 ? 1 : e < 2 ? 0.4 : e < 3 ? 0.03 : 0;
}

/* The claims of a report of n inputs: three quantiles, the flip rate, the accuracy loss, and a band for all quantiles;
 * Bonferroni over the six. */
typedef struct report {
  int64_t n, quantiles[3];
  double alpha, exceedances[3], margin;
  limit_table flips, lost, gained;
} report;

static report make_report(int64_t n, double alpha) {
  report result = {.n = n, .alpha = alpha, .quantiles = {n, n - n / 20, n / 2}};
  double each = qb_bonferroni(alpha, 6);
  for (int i = 0; i < 3; i++)
    assert_int_equal(qb_order_exceedance(n, result.quantiles[i], each, &result.exceedances[i], NULL), QB_OK);
  assert_int_equal(qb_dkw_margin(n, each, &result.margin, NULL), QB_OK);
  result.flips = make_table(n, each, qb_binomial_upper);
  result.lost = make_table(n, each / 2, qb_binomial_upper);
  result.gained = make_table(n, each / 2, qb_binomial_lower);
  return result;
}

static void free_report(report *r) {
  free(r->flips.limits);
  free(r->lost.limits);
  free(r->gained.limits);
}

static bool errors_fail(const report *r, qb_rng *rng, int kind, double *errors) {
  bool failed = false;
  for (int64_t i = 0; i < r->n; i++)
    errors[i] = draw_error(rng, kind);
  qsort(errors, (size_t)r->n, sizeof *errors, compare_doubles);
  for (int i = 0; i < 3; i++)
    failed |= true_exceedance(errors[r->quantiles[i] - 1], kind) > r->exceedances[i];
  for (int64_t k = 1; k <= r->n; k++)
    failed |= true_exceedance(errors[k - 1], kind) > qb_dkw_exceedance(r->n, k, r->margin);
  return failed;
}

static bool rates_fail(const report *r, qb_rng *rng) {
  const double flip = 0.04, lose = 0.03, gain = 0.015;
  int64_t flips = draw_successes(rng, r->n, flip), lost = 0, gained = 0;
  for (int64_t i = 0; i < r->n; i++) {
    double u = qb_rng_double(rng);
    lost += u < lose;
    gained += u >= lose && u < lose + gain;
  }
  return limit_after(&r->flips, flips) < flip ||
         limit_after(&r->lost, lost) - limit_after(&r->gained, gained) < lose - gain;
}

static void whole_reports_hold_as_stated(void **state) {
  (void)state;
  static double errors[MAX_INPUTS];
  long repetitions = test_cases(REPETITIONS);
  for (int kind = 0; kind < 2; kind++) {
    report r = make_report(kind == 0 ? 50 : 120, 0.1);
    long failures = 0;
    qb_rng rng;
    qb_rng_seed(&rng, 22, (uint64_t)kind);
    for (long i = 0; i < repetitions; i++)
      failures += errors_fail(&r, &rng, kind, errors) || rates_fail(&r, &rng);
    failures_are_as_stated("report", repetitions, failures, r.alpha);
    free_report(&r);
  }
}

/* Without its correction the same report fails too often: the test above can fail. */
static void six_uncorrected_claims_are_caught(void **state) {
  (void)state;
  static double errors[MAX_INPUTS];
  report r = make_report(50, 0.6 - 1e-9); /* each claim at 0.1 */
  long failures = 0;
  qb_rng rng;
  qb_rng_seed(&rng, 23, 0);
  for (long i = 0; i < REPETITIONS; i++)
    failures += errors_fail(&r, &rng, 0, errors) || rates_fail(&r, &rng);
  assert_true(p_of_failures(REPETITIONS, failures, 0.1) < 1e-6);
  free_report(&r);
}

static void larger_reports_hold_as_stated(void **state) {
  (void)state;
  static double errors[MAX_INPUTS];
  report r = make_report(2000, 0.05);
  long failures = 0, repetitions = 1 + test_cases(REPETITIONS) / 50;
  qb_rng rng;
  qb_rng_seed(&rng, 24, 0);
  for (long i = 0; i < repetitions; i++)
    failures += errors_fail(&r, &rng, (int)(i % 2), errors) || rates_fail(&r, &rng);
  failures_are_as_stated("large report", repetitions, failures, r.alpha);
  free_report(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(limits_cover_exactly),
      cmocka_unit_test(simulated_limits_cover),
      cmocka_unit_test(the_normal_approximation_is_caught),
      cmocka_unit_test(whole_reports_hold_as_stated),
      cmocka_unit_test(six_uncorrected_claims_are_caught),
      cmocka_unit_test(larger_reports_hold_as_stated),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
