/* The inner loops against plain ones, zeros beside infinities included; neighbours of doubles against nextafter. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"
#include "bound/dense.h"
#include "bound/rounding.h"

enum { MOST = 67 };

static void neighbours_are_those_of_nextafter(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 3, 1);
  const double special[] = {0.0, -0.0, DBL_TRUE_MIN, -DBL_TRUE_MIN, DBL_MIN,  -DBL_MIN,
                            1,   -1,   DBL_MAX,      -DBL_MAX,      INFINITY, -INFINITY};
  for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
    assert_true(qb_up(special[i]) == nextafter(special[i], INFINITY));
    assert_true(qb_down(special[i]) == nextafter(special[i], -INFINITY));
  }
  for (int i = 0; i < 10000; i++) {
    double x = ldexp(qb_rng_range(&rng, -1, 1), (int)qb_rng_below(&rng, 2000) - 1000);
    assert_true(qb_up(x) == nextafter(x, INFINITY) && qb_down(x) == nextafter(x, -INFINITY));
  }
  assert_true(qb_up(NAN) == INFINITY && qb_down(NAN) == -INFINITY);
}

static void floats_around_a_double(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 3, 2);
  for (int i = 0; i < 10000; i++) {
    double x = ldexp(qb_rng_range(&rng, -1, 1), (int)qb_rng_below(&rng, 320) - 170);
    float below = qb_float_down(x), above = qb_float_up(x);
    assert_true((double)below <= x && x <= (double)above);
    assert_true(above == below || above == nextafterf(below, INFINITY));
    assert_true(qb_float_down((double)below) == below && qb_float_up((double)below) == below);
  }
  assert_true(qb_float_up(1e300) == INFINITY && qb_float_down(1e300) == FLT_MAX);
  assert_true(qb_float_up(-1e300) == -FLT_MAX && qb_float_down(-1e300) == -INFINITY);
  assert_true(qb_float_up(NAN) == INFINITY && qb_float_down(NAN) == -INFINITY);
}

/* A vector with zeros; where it is zero, the factor may be infinite. */
static void draw(qb_rng *rng, int n, double *c, double *factor) {
  for (int i = 0; i < n; i++) {
    c[i] = qb_rng_below(rng, 4) == 0 ? 0 : qb_rng_range(rng, -2, 2);
    factor[i] = c[i] == 0 && qb_rng_below(rng, 2) == 0 ? INFINITY : qb_rng_range(rng, 0, 3);
  }
}

static void close_to(double found, double wanted) { assert_true(fabs(found - wanted) <= 1e-12 * (1 + fabs(wanted))); }

static void sums_skip_zeros(void **state) {
  (void)state;
  double c[MOST], b[MOST], reach[MOST], lo[MOST];
  qb_rng rng;
  qb_rng_seed(&rng, 4, 1);
  for (int n = 0; n <= MOST; n++) {
    double dot = 0, total = 0, away = 0, top = 0, size = 0, got[6] = {0}, range[2];
    draw(&rng, n, c, reach);
    for (int i = 0; i < n; i++) {
      b[i] = qb_rng_range(&rng, -1, 1);
      lo[i] = -qb_rng_range(&rng, 0, 1);
      dot += c[i] * b[i];
      total += c[i];
      away += c[i] == 0 ? 0 : fabs(c[i]) * reach[i];
      double term = c[i] == 0 ? 0 : c[i] > 0 ? c[i] * reach[i] : c[i] * lo[i];
      top += term;
      size += fabs(term);
    }
    qb_dense_account(n, c, b, reach, &got[0], &got[1]);
    qb_dense_total(n, c, reach, &got[2], &got[3]);
    qb_dense_range(n, c, lo, reach, &range[0], &range[1]);
    close_to(got[0], dot);
    close_to(got[1], away);
    close_to(got[2], total);
    close_to(got[3], away);
    close_to(range[0], top);
    close_to(range[1], size);
    close_to(qb_dense_reach(n, c, reach, reach), away);
  }
}

static void planes_are_taken_by_sign(void **state) {
  (void)state;
  double c[MOST], numbers[8][MOST], to_a[MOST] = {0}, to_d[MOST] = {0}, constant = 0, lost = 0, wanted[2] = {0};
  qb_dense_planes planes = {{numbers[0], numbers[1]},
                            {numbers[2], numbers[3]},
                            {numbers[4], numbers[5]},
                            {numbers[6], numbers[7]}};
  qb_rng rng;
  qb_rng_seed(&rng, 5, 1);
  for (int k = 0; k < 8; k++)
    for (int i = 0; i < MOST; i++)
      numbers[k][i] = qb_rng_range(&rng, -1, 1);
  draw(&rng, MOST, c, numbers[4]); /* infinite only beside zeros */
  qb_dense_substitute(MOST, c, &planes, to_a, to_d, &constant, &lost);
  for (int i = 0; i < MOST; i++) {
    int k = c[i] < 0;
    close_to(to_a[i], fabs(c[i]) * numbers[k][i]);
    close_to(to_d[i], fabs(c[i]) * numbers[2 + k][i]);
    wanted[0] += c[i] == 0 ? 0 : fabs(c[i]) * numbers[4 + k][i];
    wanted[1] += fabs(c[i]) * numbers[6 + k][i];
  }
  close_to(constant, wanted[0]);
  close_to(lost, wanted[1]);
}

static void rows_of_weights(void **state) {
  (void)state;
  float w[MOST], minus[MOST];
  double x[MOST], sum[4] = {0};
  qb_rng rng;
  qb_rng_seed(&rng, 6, 1);
  for (int i = 0; i < MOST; i++) {
    w[i] = (float)qb_rng_range(&rng, -1, 1);
    minus[i] = (float)qb_rng_range(&rng, -1, 1);
    x[i] = qb_rng_range(&rng, -1, 1);
    double d = (double)w[i] - (double)minus[i];
    sum[0] += (double)w[i] * x[i];
    sum[1] += fabs((double)w[i]) * x[i];
    sum[2] += d * x[i];
    sum[3] += fabs(d) * x[i];
  }
  for (int k = 0; k < 4; k++)
    close_to(qb_dense_row(MOST, w, k < 2 ? NULL : minus, k % 2 == 1, x), sum[k]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(neighbours_are_those_of_nextafter),
      cmocka_unit_test(floats_around_a_double),
      cmocka_unit_test(sums_skip_zeros),
      cmocka_unit_test(planes_are_taken_by_sign),
      cmocka_unit_test(rows_of_weights),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
