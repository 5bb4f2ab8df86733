/* Cantelli's and Hoeffding's bounds: values, attained cases, and the layerwise recursion against long double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <float.h>
#include <math.h>

#include <cmocka.h>

#include "base/rng.h"
#include "stats/cantelli.h"

/* The two-point distribution that attains the inequality: with probability d at mean + sigma sqrt((1-d)/d). */
static void the_limit_is_attained(void **state) {
  (void)state;
  for (double d = 0.03125; d < 1; d *= 2) {
    double limit, high = 7.0, low = -2.0, mean = d * high + (1 - d) * low;
    double variance = d * (high - mean) * (high - mean) + (1 - d) * (low - mean) * (low - mean);
    assert_int_equal(qb_cantelli_limit(mean, variance, d, &limit, NULL), QB_OK);
    assert_true(fabs(limit - high) <= 1e-14);
  }
}

static void wrong_moments_are_refused(void **state) {
  (void)state;
  double limit, probability, limits[1];
  qb_error error = {0};
  assert_int_equal(qb_cantelli_limit(0, -1, 0.5, &limit, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_cantelli_limit((double)NAN, 1, 0.5, &limit, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_cantelli_limit(0, 1, 0.0, &limit, &error), QB_ERROR_ARGUMENT);
  qb_ratio_moments layer = {1, 1, 0.1, 0.1, -0.2, 1, 0.1}; /* |covariance| beyond Cauchy-Schwarz: v < 0 at A = B */
  assert_int_equal(qb_cantelli_layerwise(&layer, 1, 1.0, limits, &probability, &error), QB_ERROR_ARGUMENT);
  layer.covariance = -0.1; /* its limit: v = 0 up to rounding */
  assert_int_equal(qb_cantelli_layerwise(&layer, 1, 1.0, limits, &probability, &error), QB_OK);
  assert_true(limits[0] >= 2.0 && limits[0] < 2.0 + 1e-7);
  layer.mean_x = 1e308;
  assert_int_equal(qb_cantelli_layerwise(&layer, 1, 1e10, limits, &probability, &error), QB_ERROR_NUMERIC);
  assert_int_equal(qb_hoeffding_radius(-1, 1, 1, 0.1, &limit, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_hoeffding_radius(1, 1, 0, 0.1, &limit, &error), QB_ERROR_ARGUMENT);
  const double one[] = {1};
  assert_int_equal(qb_sample_moments(one, 1, &limit, &probability, &error), QB_ERROR_ARGUMENT);
}

static void layers_follow_the_recursion(void **state) {
  (void)state;
  enum { LAYERS = 9 };
  qb_rng rng;
  qb_rng_seed(&rng, 5, 0);
  for (int trial = 0; trial < 200; trial++) {
    qb_ratio_moments layers[LAYERS];
    double limits[LAYERS], probability, initial = qb_rng_range(&rng, 0, 2);
    long double a = (long double)initial, total = 0;
    for (int l = 0; l < LAYERS; l++) {
      double sx = qb_rng_range(&rng, 0, 1), sy = qb_rng_range(&rng, 0, 1), correlation = qb_rng_range(&rng, -0.9, 0.9);
      layers[l] = (qb_ratio_moments){qb_rng_range(&rng, 0, 3),
                                     qb_rng_range(&rng, 0, 1),
                                     sx * sx,
                                     sy * sy,
                                     sx * sy * correlation,
                                     qb_rng_range(&rng, 0, 9),
                                     qb_rng_range(&rng, 0.001, 0.1)};
    }
    assert_int_equal(qb_cantelli_layerwise(layers, LAYERS, initial, limits, &probability, NULL), QB_OK);
    for (int l = 0; l < LAYERS; l++) {
      const qb_ratio_moments *m = &layers[l];
      long double b = (long double)m->state_bound, d = (long double)m->probability;
      long double variance = a * a * (long double)m->variance_x + b * b * (long double)m->variance_y +
                             2 * a * b * (long double)m->covariance;
      a = (long double)m->mean_x * a + (long double)m->mean_y * b + sqrtl(variance * (1 - d) / d);
      total += d;
      assert_true((long double)limits[l] >= a * (1 - 1e-17L) && (long double)limits[l] <= a * (1 + 1e-13L));
    }
    assert_true((long double)probability >= total && (long double)probability <= total * (1 + 1e-14L));
  }
}

/* The claim behind qb_cantelli_layerwise in one layer: over random X and Y with these moments, the share of
 * X A + Y B above the limit is at most d. The two-point distribution makes it nearly d. */
static void one_layer_is_not_exceeded_more_often(void **state) {
  (void)state;
  enum { TRIALS = 20000 };
  qb_rng rng;
  qb_rng_seed(&rng, 6, 0);
  double d = 0.1, probability, limit;
  qb_ratio_moments layer = {1.0 + d * 2, 0.5, 4 * d * (1 - d), 1.0 / 12, 0, 2, d};
  assert_int_equal(qb_cantelli_layerwise(&layer, 1, 1.0, &limit, &probability, NULL), QB_OK);
  int above = 0;
  for (int i = 0; i < TRIALS; i++) {
    double x = qb_rng_double(&rng) < d ? 3.0 : 1.0, y = qb_rng_double(&rng);
    above += x * 1.0 + y * 2.0 > limit;
  }
  assert_true(above <= d * TRIALS);
}

static void chains_are_rounded_up(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 7, 0);
  for (int trial = 0; trial < 500; trial++) {
    double ratios[30], terms[30];
    long double exact = 0;
    for (int l = 0; l < 30; l++) {
      ratios[l] = trial % 7 == 0 ? 1e-320 : qb_rng_range(&rng, 0, 2);
      terms[l] = qb_rng_below(&rng, 4) == 0 ? 0 : qb_rng_range(&rng, 0, 1e-3);
      exact = (long double)ratios[l] * exact + (long double)terms[l];
    }
    double bound = qb_ratio_chain(ratios, terms, 30);
    /* the reference rounds too, in its 64th bit; below the normal range a step is a subnormal */
    assert_true((long double)bound >= exact * (1 - 1e-17L));
    assert_true((long double)bound <= exact * (1 + 1e-13L) + 60 * DBL_TRUE_MIN);
  }
}

static void sample_moments_do_not_cancel(void **state) {
  (void)state;
  double mean, variance;
  const double values[] = {1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16};
  assert_int_equal(qb_sample_moments(values, 4, &mean, &variance, NULL), QB_OK);
  assert_true(mean == 1e9 + 10 && variance == 30.0);
}

/* Rounding a fixed vector stochastically: the share of radii exceeded is at most the stated one. */
static void stochastic_rounding_stays_within_hoeffding(void **state) {
  (void)state;
  enum { TRIALS = 20000, INPUTS = 24 };
  qb_rng rng;
  qb_rng_seed(&rng, 8, 0);
  double step = 0.25, norm = 0, input[INPUTS], share[INPUTS], radius;
  for (int i = 0; i < INPUTS; i++) {
    input[i] = qb_rng_normal(&rng);
    share[i] = qb_rng_double(&rng); /* where the weight lies between its two codes */
    norm += input[i] * input[i];
  }
  assert_int_equal(qb_hoeffding_radius(step, sqrt(norm), 1, 0.2, &radius, NULL), QB_OK);
  int above = 0;
  for (int t = 0; t < TRIALS; t++) {
    double sum = 0;
    for (int i = 0; i < INPUTS; i++)
      sum += step * ((qb_rng_double(&rng) < share[i] ? 1.0 : 0.0) - share[i]) * input[i];
    above += fabs(sum) >= radius;
  }
  assert_true(above <= 0.2 * TRIALS);
  assert_true(above > 0);
}

/* The least of the three bounds, each in a case where it is the least; two are checked by hand. */
static void rounding_factors_are_the_least_of_three(void **state) {
  (void)state;
  double factor;
  qb_rounded_layer layer = {1.0, 1.0, 1, 1, 1000000, 1, 0}; /* one output: Hoeffding */
  assert_int_equal(qb_rounding_factor(&layer, 0.5, &factor, NULL), QB_OK);
  assert_true(factor >= sqrt(log(4.0) / 2) && factor <= sqrt(log(4.0) / 2) * (1 + 1e-12));
  layer = (qb_rounded_layer){400.0, 1.0, 400, 1, 1000, 400, 0}; /* many: the norm */
  assert_int_equal(qb_rounding_factor(&layer, 0.01, &factor, NULL), QB_OK);
  double norm = 10 + sqrt(2 * log(100.0));
  assert_true(factor >= norm * (1 - 1e-15) && factor <= norm * (1 + 1e-12));
  layer.overlap = 9;
  assert_int_equal(qb_rounding_factor(&layer, 0.01, &factor, NULL), QB_OK);
  assert_true(factor >= 3 * norm * (1 - 1e-15) && factor <= 3 * norm * (1 + 1e-12));
  layer = (qb_rounded_layer){1.0, 1.0, 1, 1, 1, 1, 0.25}; /* one weight: its size, and what is no draw */
  assert_int_equal(qb_rounding_factor(&layer, 1e-6, &factor, NULL), QB_OK);
  assert_true(factor >= 1.25 && factor <= 1.25 + 1e-12);
  qb_error error;
  assert_int_equal(qb_rounding_factor(&layer, 0, &factor, &error), QB_ERROR_ARGUMENT);
  layer.overlap = 0;
  assert_int_equal(qb_rounding_factor(&layer, 0.1, &factor, &error), QB_ERROR_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_limit_is_attained),
      cmocka_unit_test(wrong_moments_are_refused),
      cmocka_unit_test(layers_follow_the_recursion),
      cmocka_unit_test(one_layer_is_not_exceeded_more_often),
      cmocka_unit_test(chains_are_rounded_up),
      cmocka_unit_test(sample_moments_do_not_cancel),
      cmocka_unit_test(stochastic_rounding_stays_within_hoeffding),
      cmocka_unit_test(rounding_factors_are_the_least_of_three),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
