/* The random generator: published values, the same on every machine, and the right distributions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>

#include <cmocka.h>

#include "base/rng.h"

/* The first outputs of xoshiro256** from the state 1, 2, 3, 4, as its other implementations publish them. */
static void published_sequence(void **state) {
  (void)state;
  const uint64_t expected[] = {
      UINT64_C(11520), 0, UINT64_C(1509978240), UINT64_C(1215971899390074240), UINT64_C(1216172134540287360),
  };
  qb_rng rng = {{1, 2, 3, 4}};
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
    assert_true(qb_rng_u64(&rng) == expected[i]);
}

static void seeds_and_streams_differ(void **state) {
  (void)state;
  qb_rng a, b, c, d;
  qb_rng_seed(&a, 1, 0);
  qb_rng_seed(&b, 1, 0);
  qb_rng_seed(&c, 1, 1);
  qb_rng_seed(&d, 2, 0);
  for (int i = 0; i < 100; i++) {
    uint64_t value = qb_rng_u64(&a);
    assert_true(value == qb_rng_u64(&b));
    assert_true(value != qb_rng_u64(&c));
    assert_true(value != qb_rng_u64(&d));
  }
}

static void seeding_is_fixed(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 1, 1);
  assert_true(qb_rng_u64(&rng) == UINT64_C(0x550e4e55a37114cc));
  assert_true(qb_rng_u64(&rng) == UINT64_C(0xa645791d18940fdd));
}

/* Chi-square of 7 cells with 70,000 draws: 22.5 is exceeded with probability 0.001; the seed is fixed. */
static void below_is_uniform(void **state) {
  (void)state;
  enum { CELLS = 7, DRAWS = 70000 };
  qb_rng rng;
  int count[CELLS] = {0};
  double chi_square = 0;
  qb_rng_seed(&rng, 11, 0);
  for (int i = 0; i < DRAWS; i++)
    count[qb_rng_below(&rng, CELLS)]++;
  for (int i = 0; i < CELLS; i++)
    chi_square += (count[i] - DRAWS / CELLS) * (double)(count[i] - DRAWS / CELLS) / (DRAWS / CELLS);
  assert_true(chi_square < 22.5);
  assert_int_equal(qb_rng_below(&rng, 1), 0);
  for (int i = 0; i < 100; i++)
    assert_true(qb_rng_below(&rng, UINT64_MAX) < UINT64_MAX);
}

static void reals_stay_in_their_range(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 12, 0);
  double sum = 0;
  for (int i = 0; i < 100000; i++) {
    double unit = qb_rng_double(&rng), ranged = qb_rng_range(&rng, -3, 5);
    assert_true(unit >= 0 && unit < 1 && ranged >= -3 && ranged < 5);
    sum += ranged;
  }
  assert_true(fabs(sum / 100000 - 1) < 0.03); /* standard error 0.0073 */
}

static void normals_have_the_first_four_moments(void **state) {
  (void)state;
  enum { DRAWS = 200000 };
  qb_rng rng;
  double moment[5] = {0};
  qb_rng_seed(&rng, 13, 0);
  for (int i = 0; i < DRAWS; i++) {
    double x = qb_rng_normal(&rng), power = 1;
    for (int k = 1; k <= 4; k++)
      moment[k] += power *= x;
  }
  assert_true(fabs(moment[1] / DRAWS) < 0.01);
  assert_true(fabs(moment[2] / DRAWS - 1) < 0.015);
  assert_true(fabs(moment[3] / DRAWS) < 0.04);
  assert_true(fabs(moment[4] / DRAWS - 3) < 0.1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(published_sequence),        cmocka_unit_test(seeds_and_streams_differ),
      cmocka_unit_test(seeding_is_fixed),          cmocka_unit_test(below_is_uniform),
      cmocka_unit_test(reals_stay_in_their_range), cmocka_unit_test(normals_have_the_first_four_moments),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
