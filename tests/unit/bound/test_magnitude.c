/* Magnitudes: every operation is an upper bound and a close one; decimals and logarithms round up. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "bound/magnitude.h"

static const double slack = 1e-8; /* 30 bits of mantissa */

static void conversions_round_up_and_stay_close(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 1, 0);
  for (int i = 0; i < 2000; i++) {
    double x = ldexp(qb_rng_double(&rng), (int)qb_rng_below(&rng, 2000) - 1050);
    double y = qb_magnitude_to_double(qb_magnitude_from_double(x));
    assert_true(y >= x);
    assert_true(y <= x * (1 + slack) || y <= 0x1p-1040);
  }
  assert_true(qb_magnitude_to_double(qb_magnitude_from_double(0)) == 0);
  assert_true(isinf(qb_magnitude_to_double(qb_magnitude_from_double(INFINITY))));
  assert_true(isinf(qb_magnitude_to_double(qb_magnitude_from_double(NAN))));
}

static void extreme_exponents_still_bound(void **state) {
  (void)state;
  qb_magnitude tiny = qb_magnitude_scale(qb_magnitude_from_double(1), -5000);
  assert_true(qb_magnitude_to_double(tiny) > 0);
  qb_magnitude huge = qb_magnitude_scale(qb_magnitude_from_double(1), 5000);
  assert_true(isinf(qb_magnitude_to_double(huge)) && qb_magnitude_is_finite(huge));
  double exact = 5000 * 0.30102999566398119521;
  assert_true(qb_magnitude_log10(huge) >= exact && qb_magnitude_log10(huge) < exact + 1e-9);
  assert_true(qb_magnitude_log10(tiny) >= -exact && qb_magnitude_log10(tiny) < -exact + 1e-9);
}

static void sums_and_products_are_upper_bounds(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 2, 0);
  for (int i = 0; i < 2000; i++) {
    double a = qb_rng_range(&rng, 0, 10), b = qb_rng_range(&rng, 0, 10);
    qb_magnitude ma = qb_magnitude_from_double(a), mb = qb_magnitude_from_double(b);
    long double sum = (long double)a + b, product = (long double)a * b;
    double up_sum = qb_magnitude_to_double(qb_magnitude_add(ma, mb));
    double up_product = qb_magnitude_to_double(qb_magnitude_multiply(ma, mb));
    assert_true(up_sum >= sum && up_sum <= sum * (1 + slack));
    assert_true(up_product >= product && up_product <= product * (1 + slack));
    assert_true(qb_magnitude_compare(qb_magnitude_multiply_lower(ma, mb), qb_magnitude_multiply(ma, mb)) <= 0);
    assert_int_equal(qb_magnitude_compare(ma, mb) < 0, a < b);
    assert_true(qb_magnitude_to_double(qb_magnitude_max(ma, mb)) >= fmax(a, b));
    assert_true(qb_magnitude_to_double(qb_magnitude_min(ma, mb)) <= fmin(a, b) * (1 + slack));
  }
}

static void infinity_is_absorbing_but_for_zero(void **state) {
  (void)state;
  qb_magnitude inf = qb_magnitude_infinity(), zero = qb_magnitude_zero(), one = qb_magnitude_from_double(1);
  assert_false(qb_magnitude_is_finite(qb_magnitude_add(inf, one)));
  assert_false(qb_magnitude_is_finite(qb_magnitude_multiply(inf, one)));
  assert_true(qb_magnitude_to_double(qb_magnitude_multiply(inf, zero)) == 0);
  assert_true(isinf(qb_magnitude_log10(inf)) && qb_magnitude_log10(zero) == -INFINITY);
}

static void prints(double x, const char *expected) {
  char text[QB_MAGNITUDE_TEXT];
  assert_string_equal(qb_magnitude_print(qb_magnitude_from_double(x), text), expected);
}

static void decimals_round_up(void **state) {
  (void)state;
  prints(0, "0");
  prints(INFINITY, "inf");
  prints(1, "1.00e0");
  prints(100, "1.00e2");
  prints(1.001, "1.01e0");
  prints(9.99, "1.00e1"); /* 9.99 is not a double; the nearest one lies above it */
  prints(9.98, "9.99e0"); /* 30 bits: rounded up before printing */
  prints(9.995, "1.00e1");
  prints(0.5, "5.00e-1");
  prints(1e-300, "1.01e-300");
  prints(1.24e37, "1.25e37");
  prints(1000000, "1.00e6");
}

static void printed_decimals_bound_random_numbers(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 3, 0);
  char text[QB_MAGNITUDE_TEXT];
  for (int i = 0; i < 2000; i++) {
    double x = pow(10, qb_rng_range(&rng, -290, 290));
    double printed = strtod(qb_magnitude_print(qb_magnitude_from_double(x), text), NULL);
    assert_true(printed >= x * (1 - 1e-15)); /* strtod rounds to nearest */
    assert_true(printed <= x * 1.0101);
    assert_int_equal(text[1], '.');
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(conversions_round_up_and_stay_close),
      cmocka_unit_test(extreme_exponents_still_bound),
      cmocka_unit_test(sums_and_products_are_upper_bounds),
      cmocka_unit_test(infinity_is_absorbing_but_for_zero),
      cmocka_unit_test(decimals_round_up),
      cmocka_unit_test(printed_decimals_bound_random_numbers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
