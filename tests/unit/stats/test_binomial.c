/* Binomial tails and limits against exact rational sums and the values of tools/make_stats_goldens.py: never on the
 * unsafe side, and tight. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "stats/binomial.h"
#include "stats/cantelli.h"
#include "stats/order_statistics.h"

/* -------------------------------------------------------------------------------------------------------- golden */

enum { MAX_FIELDS = 8 };

/* At or above `value`, by at most `slack` of it and never by less than a subnormal step. */
static void just_above(const char *what, double given, long double value, long double slack) {
  if ((long double)given < value || (long double)given > value + slack * fabsl(value) + DBL_TRUE_MIN)
    fail_msg("%s: %.20g, true value %.22Lg", what, given, value);
}

static void just_below(const char *what, double given, long double value, long double slack) {
  if ((long double)given > value || (long double)given < value - slack * fabsl(value) - DBL_TRUE_MIN)
    fail_msg("%s: %.20g, true value %.22Lg", what, given, value);
}

static void check_tail(const char *line, bool at_most, char **f, long double value) {
  double lo, hi;
  qb_status status = at_most ? qb_binomial_at_most(atoll(f[1]), atoll(f[2]), atof(f[3]), &lo, &hi, NULL)
                             : qb_binomial_at_least(atoll(f[1]), atoll(f[2]), atof(f[3]), &lo, &hi, NULL);
  assert_int_equal(status, QB_OK);
  just_below(line, lo, value, 2 * DBL_EPSILON);
  just_above(line, hi, value, 2 * DBL_EPSILON);
}

static void check_pair(const char *line, char **f, long double value) {
  double given;
  if (strcmp(f[0], "mcnemar") == 0) {
    assert_int_equal(qb_mcnemar_p(atoll(f[1]), atoll(f[2]), &given, NULL), QB_OK);
    just_above(line, given, value, 2 * DBL_EPSILON);
  } else {
    assert_int_equal(qb_accuracy_loss_upper(atoll(f[1]), atoll(f[2]), atoll(f[3]), atof(f[4]), &given, NULL), QB_OK);
    just_above(line, given, value, 0x1p-40L);
  }
}

static void check_margin(const char *line, char **f, long double value) {
  double given;
  if (strcmp(f[0], "dkw") == 0)
    assert_int_equal(qb_dkw_margin(atoll(f[1]), atof(f[2]), &given, NULL), QB_OK);
  else if (strcmp(f[0], "cantelli") == 0)
    assert_int_equal(qb_cantelli_limit(atof(f[1]), atof(f[2]), atof(f[3]), &given, NULL), QB_OK);
  else
    assert_int_equal(qb_hoeffding_radius(atof(f[1]), atof(f[2]), atoll(f[3]), atof(f[4]), &given, NULL), QB_OK);
  just_above(line, given, value, 2 * DBL_EPSILON);
}

static void check_line(const char *line, char **f, int count) {
  long double value = strtold(f[count - 1], NULL);
  double limit;
  int64_t n;
  if (strcmp(f[0], "at_most") == 0 || strcmp(f[0], "at_least") == 0) {
    check_tail(line, strcmp(f[0], "at_most") == 0, f, value);
  } else if (strcmp(f[0], "upper") == 0) {
    assert_int_equal(qb_binomial_upper(atoll(f[1]), atoll(f[2]), atof(f[3]), &limit, NULL), QB_OK);
    just_above(line, limit, value, 0x1p-44L);
  } else if (strcmp(f[0], "lower") == 0) {
    assert_int_equal(qb_binomial_lower(atoll(f[1]), atoll(f[2]), atof(f[3]), &limit, NULL), QB_OK);
    just_below(line, limit, value, 0x1p-44L);
  } else if (strcmp(f[0], "samples") == 0) {
    assert_int_equal(qb_order_samples_needed(atoll(f[1]), atof(f[2]), atof(f[3]), &n, NULL), QB_OK);
    assert_true((long double)n == value);
  } else if (strcmp(f[0], "mcnemar") == 0 || strcmp(f[0], "loss") == 0) {
    check_pair(line, f, value);
  } else {
    check_margin(line, f, value);
  }
}

static void values_agree_with_another_method(void **state) {
  (void)state;
  char line[256], copy[256], *fields[MAX_FIELDS];
  int lines = 0;
  FILE *file = fopen(QB_TEST_DIR "/golden/stats/values.txt", "r");
  assert_non_null(file);
  for (; fgets(line, sizeof line, file) != NULL; lines++) {
    int count = 0;
    strcpy(copy, line);
    for (char *word = strtok(copy, " \n"); word != NULL && count < MAX_FIELDS; word = strtok(NULL, " \n"))
      fields[count++] = word;
    assert_true(count >= 4 || strcmp(fields[0], "dkw") == 0);
    check_line(line, fields, count);
  }
  fclose(file);
  assert_int_equal(lines, 80);
}

/* --------------------------------------------------------------------------------------------------- exact sums */

/* P(X <= k) for p = numerator / 2^8 and n <= 7 exactly, as an integer over 2^(8 n). */
static uint64_t exact_sum(int n, int k, uint64_t numerator) {
  uint64_t sum = 0;
  for (int i = 0; i <= k; i++) {
    uint64_t term = 1;
    for (int j = 0; j < i; j++)
      term = term * (uint64_t)(n - j) / (uint64_t)(j + 1);
    for (int j = 0; j < n; j++)
      term *= j < i ? numerator : 256 - numerator;
    sum += term;
  }
  return sum;
}

static void small_tails_equal_exact_sums(void **state) {
  (void)state;
  for (int n = 1; n <= 7; n++)
    for (int k = 0; k <= n; k++)
      for (uint64_t numerator = 0; numerator <= 256; numerator++) {
        double lo, hi, p = (double)numerator / 256.0;
        long double value = ldexpl((long double)exact_sum(n, k, numerator), -8 * n);
        assert_int_equal(qb_binomial_at_most(n, k, p, &lo, &hi, NULL), QB_OK);
        just_below("at most", lo, value, 2 * DBL_EPSILON);
        just_above("at most", hi, value, 2 * DBL_EPSILON);
        long double above = k == 0 ? 1.0L : 1.0L - ldexpl((long double)exact_sum(n, k - 1, numerator), -8 * n);
        assert_int_equal(qb_binomial_at_least(n, k, p, &lo, &hi, NULL), QB_OK);
        assert_true((long double)lo <= above && (long double)hi >= above && (double)(hi - lo) <= 4e-16);
      }
}

/* What defines a limit: its tail is at most alpha, and that of a number a little inside is more. */
static void limits_are_where_the_tail_is_alpha(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 4, 0);
  for (int trial = 0; trial < 150; trial++) {
    int64_t n = 1 + (int64_t)qb_rng_below(&rng, trial % 3 == 0 ? 10 : 3000);
    int64_t k = (int64_t)qb_rng_below(&rng, (uint64_t)n + 1);
    double alpha = trial % 5 == 0 ? exp(-qb_rng_range(&rng, 0, 27)) : qb_rng_range(&rng, 0.001, 0.999);
    double lower, upper, lo, hi;
    assert_int_equal(qb_binomial_lower(n, k, alpha, &lower, NULL), QB_OK);
    assert_int_equal(qb_binomial_upper(n, k, alpha, &upper, NULL), QB_OK);
    assert_true(lower >= 0 && upper <= 1);
    if (k < n) {
      assert_int_equal(qb_binomial_at_most(n, k, upper, &lo, &hi, NULL), QB_OK);
      assert_true(lo <= alpha);
      assert_int_equal(qb_binomial_at_most(n, k, upper * (1 - 1e-12), &lo, &hi, NULL), QB_OK);
      assert_true(hi > alpha);
    }
    if (k > 0) {
      assert_int_equal(qb_binomial_at_least(n, k, lower, &lo, &hi, NULL), QB_OK);
      assert_true(lo <= alpha);
      assert_int_equal(qb_binomial_at_least(n, k, lower * (1 + 1e-12), &lo, &hi, NULL), QB_OK);
      assert_true(hi > alpha);
    }
  }
}

static void closed_forms_of_the_ends(void **state) {
  (void)state;
  double limit;
  for (int64_t n = 1; n <= 100000; n *= 10) {
    assert_int_equal(qb_binomial_upper(n, 0, 0.01, &limit, NULL), QB_OK);
    long double exact = -expm1l(logl((long double)0.01) / (long double)n); /* 1 - alpha^(1/n) */
    assert_true(fabsl((long double)limit - exact) <= 1e-13L * exact);
    assert_int_equal(qb_binomial_upper(n, n, 0.01, &limit, NULL), QB_OK);
    assert_true(limit == 1.0);
    assert_int_equal(qb_binomial_lower(n, 0, 0.01, &limit, NULL), QB_OK);
    assert_true(limit == 0.0);
    assert_int_equal(qb_binomial_lower(n, n, 0.01, &limit, NULL), QB_OK);
    exact = expl(logl((long double)0.01) / (long double)n);
    assert_true(fabsl((long double)limit - exact) <= 1e-13L * exact);
  }
}

static void arguments_out_of_range_are_refused(void **state) {
  (void)state;
  double a, b;
  qb_error error = {0};
  assert_int_equal(qb_binomial_upper(0, 0, 0.1, &a, &error), QB_ERROR_ARGUMENT);
  assert_true(error.message[0] != '\0');
  assert_int_equal(qb_binomial_upper(5, 6, 0.1, &a, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_binomial_upper(5, -1, 0.1, &a, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_binomial_upper(QB_BINOMIAL_MAX_TRIALS + 1LL, 1, 0.1, &a, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_binomial_upper(5, 1, 0.0, &a, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_binomial_lower(5, 1, 1.0, &a, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_binomial_lower(5, 1, (double)NAN, &a, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_binomial_at_most(5, 1, 1.5, &a, &b, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_binomial_at_least(5, 1, -0.1, &a, &b, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_mcnemar_p(-1, 4, &a, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_accuracy_loss_upper(10, 6, 5, 0.1, &a, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_accuracy_loss_upper(10, 5, 5, 0.0, &a, &error), QB_ERROR_ARGUMENT);
}

static void mcnemar_is_symmetric(void **state) {
  (void)state;
  double p, q;
  assert_int_equal(qb_mcnemar_p(0, 0, &p, NULL), QB_OK);
  assert_true(p == 1.0);
  assert_int_equal(qb_mcnemar_p(1, 9, &p, NULL), QB_OK); /* 2 (1 + 10) / 2^10 */
  assert_int_equal(qb_mcnemar_p(9, 1, &q, NULL), QB_OK);
  assert_true(p == q && p >= 22.0 / 1024.0 && p <= 22.0 / 1024.0 * (1 + 1e-15));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_agree_with_another_method),   cmocka_unit_test(small_tails_equal_exact_sums),
      cmocka_unit_test(limits_are_where_the_tail_is_alpha), cmocka_unit_test(closed_forms_of_the_ends),
      cmocka_unit_test(arguments_out_of_range_are_refused), cmocka_unit_test(mcnemar_is_symmetric),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
