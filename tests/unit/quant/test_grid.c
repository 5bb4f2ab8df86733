/* Grids: every code, every bit width, exact error limits, extreme ranges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <float.h>
#include <math.h>

#include <cmocka.h>

#include "quant/grid.h"

static qb_range range_of(const float *weights, size_t count) {
  qb_slice slice = {.data = weights, .runs = 1, .length = count, .stride = count};
  return qb_slice_range(&slice);
}

/* |value - weight|, exact for the weights used here (both within 2^29 of each other or one is zero). */
static double error_of(const qb_grid *grid, float weight) {
  return fabs((double)qb_grid_value(grid, qb_grid_nearest(grid, weight)) - (double)weight);
}

/* s/2 and the roundings of scale and value: (2^15 codes) * 2^-24 of the scale each. */
static double half_step(const qb_grid *grid, float magnitude) {
  return 0.5 * (double)grid->scale + 0x1p-23 * (double)magnitude;
}

static void check_invariants(const qb_grid *grid, int bits, bool affine) {
  int32_t half = (int32_t)1 << (bits - 1);
  assert_true(grid->scale >= FLT_MIN && isfinite(grid->scale));
  assert_true(grid->lo >= (affine ? 0 : -half) && grid->hi <= (affine ? 2 * half - 1 : half - 1));
  assert_true(grid->lo <= grid->zero_point && grid->zero_point <= grid->hi);
  assert_true(isfinite(qb_grid_value(grid, grid->lo)) && isfinite(qb_grid_value(grid, grid->hi)));
  assert_true(qb_grid_value(grid, grid->zero_point) == 0);
  assert_int_equal(qb_grid_nearest(grid, 0), grid->zero_point);
}

/* The value of every code maps back to that code. */
static void every_code_is_reached(void **state) {
  (void)state;
  const qb_range ranges[] = {{-1, 1}, {-0.3f, 1.7f}, {-2.5f, 0}, {0, 1e-3f}, {-1e30f, 3e29f}};
  for (size_t r = 0; r < sizeof ranges / sizeof ranges[0]; r++)
    for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++) {
      float magnitude = fmaxf(-ranges[r].lo, ranges[r].hi);
      qb_grid grids[3] = {qb_grid_symmetric(magnitude, bits, false), qb_grid_fixed_point(magnitude, bits),
                          qb_grid_affine(ranges[r], bits, false)};
      for (int g = 0; g < 3; g++) {
        check_invariants(&grids[g], bits, g == 2);
        assert_int_equal(grids[g].hi - grids[g].lo, ((int32_t)1 << bits) - 1);
        for (int32_t code = grids[g].lo; code <= grids[g].hi; code++)
          assert_int_equal(qb_grid_nearest(&grids[g], qb_grid_value(&grids[g], code)), code);
      }
    }
}

/* Nearest code within half a step, for random weights of one-sided, two-sided and outlier ranges. */
static void errors_stay_within_half_a_step(void **state) {
  (void)state;
  enum { COUNT = 200 };
  float weights[COUNT];
  qb_rng rng;
  qb_rng_seed(&rng, 1, 0);
  const double lows[] = {-1, 0.25, -3, -1, 1e-44, -1e38}, highs[] = {1, 2, -0.5, 1, 1e-40, 3e38};
  for (size_t r = 0; r < 6; r++)
    for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++) {
      for (int i = 0; i < COUNT; i++)
        weights[i] = (float)qb_rng_range(&rng, lows[r], highs[r]);
      if (r == 3)
        weights[17] = 1000;
      qb_range range = range_of(weights, COUNT);
      float magnitude = fmaxf(-range.lo, range.hi);
      for (int g = 0; g < 2; g++) {
        qb_grid grid = g == 0 ? qb_grid_symmetric(magnitude, bits, false) : qb_grid_affine(range, bits, false);
        check_invariants(&grid, bits, g == 1);
        for (int i = 0; i < COUNT; i++)
          assert_true(error_of(&grid, weights[i]) <= half_step(&grid, magnitude));
      }
      qb_grid grid = qb_grid_fixed_point(magnitude, bits);
      check_invariants(&grid, bits, false);
      for (int i = 0; i < COUNT; i++) {
        double error = error_of(&grid, weights[i]);
        bool clipped = qb_grid_nearest(&grid, weights[i]) == grid.hi;
        assert_true(error <= (clipped ? 1.0 : 0.5) * (double)grid.scale);
      }
    }
}

/* f = bits - 1 - ceil(log2 max|w|): exact at and beside powers of two. */
static void fixed_point_steps_are_exact(void **state) {
  (void)state;
  for (int e = -100; e <= 100; e++) {
    float power = ldexpf(1, e);
    assert_true(qb_grid_fixed_point(power, 8).scale == ldexpf(1, e - 7));
    assert_true(qb_grid_fixed_point(nextafterf(power, INFINITY), 8).scale == ldexpf(1, e - 6));
    assert_true(qb_grid_fixed_point(nextafterf(power, 0), 8).scale == ldexpf(1, e - 7));
  }
  qb_grid grid = qb_grid_fixed_point(1, 4); /* 1 = 8/8 clips to 7/8, one whole step away; -1 fits */
  assert_true(qb_grid_value(&grid, qb_grid_nearest(&grid, 1)) == 0.875f);
  assert_true(qb_grid_value(&grid, qb_grid_nearest(&grid, -1)) == -1);
}

static void zero_and_tiny_weights_get_a_normal_scale(void **state) {
  (void)state;
  const float tiny[] = {0, FLT_TRUE_MIN, 1e-42f, FLT_MIN};
  for (size_t i = 0; i < 4; i++)
    for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++) {
      qb_grid grids[3] = {qb_grid_symmetric(tiny[i], bits, i % 2 == 0), qb_grid_fixed_point(tiny[i], bits),
                          qb_grid_affine((qb_range){-tiny[i], tiny[i]}, bits, i % 2 == 0)};
      for (int g = 0; g < 3; g++) {
        check_invariants(&grids[g], bits, g == 2);
        assert_true(grids[g].scale == FLT_MIN);
        assert_true(error_of(&grids[g], tiny[i]) <= 0.5 * (double)FLT_MIN);
      }
    }
}

static void huge_weights_stay_finite(void **state) {
  (void)state;
  for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++) {
    qb_grid symmetric = qb_grid_symmetric(FLT_MAX, bits, false), round = qb_grid_fixed_point(FLT_MAX, bits);
    qb_grid affine = qb_grid_affine((qb_range){-FLT_MAX, FLT_MAX}, bits, false);
    check_invariants(&symmetric, bits, false);
    check_invariants(&round, bits, false);
    check_invariants(&affine, bits, true);
    const float weights[] = {FLT_MAX, -FLT_MAX, 1e38f, -1};
    for (int i = 0; i < 4; i++) {
      assert_true(error_of(&symmetric, weights[i]) <= half_step(&symmetric, FLT_MAX));
      assert_true(error_of(&round, weights[i]) <= (double)round.scale);
      assert_true(error_of(&affine, weights[i]) <= (double)affine.scale);
    }
  }
}

static void one_sided_ranges_hold_zero_exactly(void **state) {
  (void)state;
  for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++) {
    qb_grid positive = qb_grid_affine((qb_range){0, 3}, bits, false);
    qb_grid negative = qb_grid_affine((qb_range){-3, 0}, bits, false);
    assert_int_equal(positive.zero_point, 0);
    assert_int_equal(negative.zero_point, ((int32_t)1 << bits) - 1);
    assert_true(qb_grid_value(&negative, qb_grid_nearest(&negative, 0)) == 0);
  }
}

/* Ties to even, as numpy and ONNX round. */
static void ties_go_to_even(void **state) {
  (void)state;
  qb_grid grid = {.scale = 0.25f, .lo = -8, .hi = 7};
  const float weights[] = {0.125f, 0.375f, -0.125f, -0.375f, 0.625f};
  const int32_t codes[] = {0, 2, 0, -2, 2};
  for (int i = 0; i < 5; i++)
    assert_int_equal(qb_grid_nearest(&grid, weights[i]), codes[i]);
}

/* The two neighbours only, the mean right to five standard deviations, no clip with a covering grid. */
static void stochastic_rounding_is_unbiased(void **state) {
  (void)state;
  enum { DRAWS = 20000 };
  qb_rng rng;
  qb_rng_seed(&rng, 5, 0);
  for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++) {
    qb_range range = {(float)-qb_rng_double(&rng), (float)qb_rng_double(&rng)};
    qb_grid grids[2] = {qb_grid_symmetric(fmaxf(-range.lo, range.hi), bits, true), qb_grid_affine(range, bits, true)};
    for (int g = 0; g < 2; g++) {
      check_invariants(&grids[g], bits, g == 1);
      double scale = (double)grids[g].scale;
      assert_true(scale * (grids[g].hi - grids[g].zero_point) >= (double)range.hi);
      assert_true(scale * (grids[g].lo - grids[g].zero_point) <= (double)range.lo);
      float weight = (float)qb_rng_range(&rng, (double)range.lo, (double)range.hi);
      double quotient = (double)weight / scale, sum = 0;
      for (int i = 0; i < DRAWS; i++) {
        int32_t code = qb_grid_stochastic(&grids[g], weight, &rng) - grids[g].zero_point;
        assert_true(code == (int32_t)floor(quotient) || code == (int32_t)floor(quotient) + 1);
        sum += code;
      }
      assert_true(fabs(sum / DRAWS - quotient) <= 5 * 0.5 / sqrt(DRAWS));
    }
  }
  qb_grid grid = qb_grid_symmetric(1, 8, true);
  for (int32_t code = -127; code <= 127; code++) /* what is on the grid stays */
    assert_int_equal(qb_grid_stochastic(&grid, (float)code * grid.scale, &rng), code);
}

/* The clip that minimises the square error is never worse than min-max, and better with an outlier or few bits. */
static void mse_grids_win(void **state) {
  (void)state;
  enum { COUNT = 1000 };
  static float weights[COUNT];
  qb_rng rng;
  qb_rng_seed(&rng, 6, 0);
  qb_slice slice = {.data = weights, .runs = 10, .length = COUNT / 10, .stride = COUNT / 10};
  for (int outlier = 0; outlier < 2; outlier++)
    for (int affine = 0; affine < 2; affine++)
      for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++)
        for (int scheme = QB_SCHEME_ROUND; scheme <= QB_SCHEME_UNIFORM; scheme++) {
          if (affine && scheme == QB_SCHEME_ROUND)
            continue;
          for (int i = 0; i < COUNT; i++)
            weights[i] = (float)qb_rng_normal(&rng);
          if (outlier)
            weights[123] = 12; /* at 4 bits: clipping it at 6 costs 36, the wide step costs 100 more */
          qb_quantize_settings settings;
          qb_quantize_settings_default(&settings);
          settings.scheme = (qb_scheme)scheme;
          settings.affine = affine != 0;
          qb_grid minmax = qb_grid_choose(&slice, &settings, bits);
          settings.grid = QB_GRID_MSE;
          qb_grid mse = qb_grid_choose(&slice, &settings, bits);
          check_invariants(&mse, bits, settings.affine);
          double before = qb_grid_square_error(&minmax, &slice, INFINITY);
          double after = qb_grid_square_error(&mse, &slice, INFINITY);
          assert_true(after <= before);
          if (outlier && bits == 4 && scheme == QB_SCHEME_UNIFORM)
            assert_true(after < 0.7 * before);
          if (bits < 4 && !outlier && scheme == QB_SCHEME_UNIFORM)
            assert_true(after < 0.7 * before);
        }
}

/* The search against brute force in plain code over the same candidates. */
static void the_search_finds_its_best_candidate(void **state) {
  (void)state;
  enum { COUNT = 77 };
  float weights[COUNT];
  qb_rng rng;
  qb_rng_seed(&rng, 8, 0);
  for (int i = 0; i < COUNT; i++)
    weights[i] = (float)qb_rng_normal(&rng);
  qb_slice slice = {.data = weights, .runs = 7, .length = 11, .stride = 11};
  qb_range range = qb_slice_range(&slice);
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.grid = QB_GRID_MSE;
  qb_grid chosen = qb_grid_choose(&slice, &settings, 3);
  double best = INFINITY, found = 0;
  for (int i = 0; i < COUNT; i++)
    found += pow(error_of(&chosen, weights[i]), 2);
  for (int percent = 1; percent <= 100; percent++) {
    qb_grid grid = qb_grid_symmetric((float)percent / 100 * fmaxf(-range.lo, range.hi), 3, false);
    double sum = 0;
    for (int i = 0; i < COUNT; i++)
      sum += pow(error_of(&grid, weights[i]), 2);
    best = fmin(best, sum);
  }
  assert_true(fabs(found - best) <= 1e-6 * best);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_code_is_reached),
      cmocka_unit_test(errors_stay_within_half_a_step),
      cmocka_unit_test(fixed_point_steps_are_exact),
      cmocka_unit_test(zero_and_tiny_weights_get_a_normal_scale),
      cmocka_unit_test(huge_weights_stay_finite),
      cmocka_unit_test(one_sided_ranges_hold_zero_exactly),
      cmocka_unit_test(ties_go_to_even),
      cmocka_unit_test(stochastic_rounding_is_unbiased),
      cmocka_unit_test(mse_grids_win),
      cmocka_unit_test(the_search_finds_its_best_candidate),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
