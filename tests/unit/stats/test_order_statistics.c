/* Order statistics, bands and the sharing of an error probability. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>

#include <cmocka.h>

#include "stats/binomial.h"
#include "stats/order_statistics.h"

static void the_maximum_has_the_closed_form(void **state) {
  (void)state;
  double p;
  assert_int_equal(qb_order_exceedance(800, 800, 0.01, &p, NULL), QB_OK);
  long double exact = -expm1l(logl((long double)0.01) / 800);
  assert_true((long double)p >= exact && (long double)p <= exact * (1 + 1e-13L));
}

static void the_index_is_the_smallest_that_works(void **state) {
  (void)state;
  static const double claims[][2] = {{0.05, 0.01}, {0.5, 0.05}, {0.01, 0.2}, {0.9, 1e-6}};
  for (int i = 0; i < 4; i++)
    for (int64_t n = 1; n < 2000; n = n * 2 + 1) {
      int64_t k;
      double p;
      assert_int_equal(qb_order_index(n, claims[i][0], claims[i][1], &k, NULL), QB_OK);
      if (k == 0) { /* not even the maximum */
        assert_int_equal(qb_order_exceedance(n, n, claims[i][1], &p, NULL), QB_OK);
        assert_true(p > claims[i][0]);
        continue;
      }
      assert_int_equal(qb_order_exceedance(n, k, claims[i][1], &p, NULL), QB_OK);
      assert_true(p <= claims[i][0] * (1 + 1e-12));
      if (k > 1) {
        assert_int_equal(qb_order_exceedance(n, k - 1, claims[i][1], &p, NULL), QB_OK);
        assert_true(p > claims[i][0]);
      }
    }
}

static void samples_needed_agree_with_the_index(void **state) {
  (void)state;
  for (int64_t exceedances = 0; exceedances < 40; exceedances = exceedances * 3 + 1) {
    int64_t n, k;
    assert_int_equal(qb_order_samples_needed(exceedances, 0.03, 0.01, &n, NULL), QB_OK);
    assert_int_equal(qb_order_index(n, 0.03, 0.01, &k, NULL), QB_OK);
    assert_int_equal(n - k, exceedances);
    assert_int_equal(qb_order_index(n - 1, 0.03, 0.01, &k, NULL), QB_OK);
    assert_true(k == 0 ? exceedances == 0 : n - 1 - k == exceedances - 1);
  }
  int64_t n;
  assert_int_equal(qb_order_samples_needed(0, 0.05, 0.01, &n, NULL), QB_OK);
  assert_int_equal(n, 90); /* 0.95^90 = 0.00989 */
  assert_int_equal(qb_order_samples_needed(0, 0.5, 0.25, &n, NULL), QB_OK);
  assert_true(n == 2 || n == 3); /* the tail at 2 is alpha exactly, which balls cannot prove */
}

static void bad_arguments_are_refused(void **state) {
  (void)state;
  double p;
  int64_t k;
  qb_error error = {0};
  assert_int_equal(qb_order_exceedance(10, 0, 0.1, &p, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_order_exceedance(10, 11, 0.1, &p, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_order_exceedance(10, 3, 0.0, &p, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_order_index(10, 1.0, 0.1, &k, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_order_index(0, 0.5, 0.1, &k, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_order_samples_needed(-1, 0.5, 0.1, &k, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_order_samples_needed(5, 1e-300, 0.1, &k, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_dkw_margin(10, 0.6, &p, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_dkw_margin(0, 0.1, &p, &error), QB_ERROR_ARGUMENT);
  assert_true(error.message[0] != '\0');
}

static void the_band_is_wider_than_each_single_claim(void **state) {
  (void)state;
  double margin, single;
  assert_int_equal(qb_dkw_margin(500, 0.05, &margin, NULL), QB_OK);
  for (int64_t k = 1; k <= 500; k += 7) {
    assert_int_equal(qb_order_exceedance(500, k, 0.05, &single, NULL), QB_OK);
    assert_true(qb_dkw_exceedance(500, k, margin) >= single);
  }
  assert_true(qb_dkw_exceedance(500, 1, margin) == 1.0);
  assert_true(qb_dkw_exceedance(500, 500, margin) >= margin);
}

static void corrections_share_the_error_probability(void **state) {
  (void)state;
  assert_true(qb_bonferroni(0.05, 1) == 0.05);
  for (int64_t claims = 2; claims < 100; claims++) {
    double each = qb_bonferroni(0.05, claims);
    assert_true((long double)each * (long double)claims <= 0.05L && each > 0.05 / (double)claims * (1 - 1e-15));
  }
  assert_true(qb_bonferroni(5e-324, 3) == 0.0); /* too small to share: no claim is possible */
  const double p_values[] = {0.001, 0.05, 0.2, 0.001};
  assert_int_equal(qb_fixed_sequence(p_values, 4, 0.05), 2); /* what follows the first failure does not count */
  assert_int_equal(qb_fixed_sequence(p_values, 4, 0.0005), 0);
  assert_int_equal(qb_fixed_sequence(p_values, 4, 0.5), 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_maximum_has_the_closed_form),
      cmocka_unit_test(the_index_is_the_smallest_that_works),
      cmocka_unit_test(samples_needed_agree_with_the_index),
      cmocka_unit_test(bad_arguments_are_refused),
      cmocka_unit_test(the_band_is_wider_than_each_single_claim),
      cmocka_unit_test(corrections_share_the_error_probability),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
