/* Lines and planes above piecewise linear functions: never below them, and as low as they can be in known cases. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"
#include "bound/kink.h"

static const qb_kink RELU = {.lo = 0, .hi = INFINITY};

static void lines_above_and_below_relu(void **state) {
  (void)state;
  qb_line above = qb_kink_line(&RELU, (qb_interval){-1, 3}, 1), below = qb_kink_line(&RELU, (qb_interval){-1, 3}, -1);
  assert_true(fabs(above.slope - 0.75) < 1e-12 && fabs(above.constant - 0.75) < 1e-12); /* the chord */
  assert_true(fabs(below.slope + 1) < 1e-12 && fabs(below.constant) < 1e-12);           /* -relu(x) <= -x */
  qb_line stable = qb_kink_line(&RELU, (qb_interval){0.5, 3}, 1), dead = qb_kink_line(&RELU, (qb_interval){-3, 0}, 1);
  assert_true(stable.slope == 1 && stable.constant == 0 && dead.slope == 0 && dead.constant == 0);
}

static void difference_of_two_active_rectifiers_is_exact(void **state) {
  (void)state;
  qb_corners corners;
  assert_true(
      qb_kink_corners(&RELU, &RELU, (qb_interval){1, 2}, (qb_interval){0.5, 2.5}, (qb_interval){-0.5, 0.5}, &corners));
  qb_plane plane = qb_kink_plane(&corners, 0, 1);
  assert_true(fabs(plane.a) < 1e-9 && fabs(plane.d - 1) < 1e-9 && fabs(plane.constant) < 1e-9);
}

static void wide_originals_leave_the_chord_of_the_difference(void **state) {
  (void)state; /* |d| far smaller than |a|: the upper plane is (d + dmax) / 2 */
  qb_corners corners;
  assert_true(
      qb_kink_corners(&RELU, &RELU, (qb_interval){-10, 10}, (qb_interval){-11, 11}, (qb_interval){-1, 1}, &corners));
  qb_plane plane = qb_kink_plane(&corners, 0, 1);
  assert_true(fabs(plane.a) < 1e-9 && fabs(plane.d - 0.5) < 1e-9 && fabs(plane.constant - 0.5) < 1e-9);
}

/* x' is 0, but for rounding: relu(a) is bounded along a alone, as what x' is made of may be known less well. */
static void what_is_known_has_no_slope(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    double tiny = k == 0 ? 0 : 1e-300;
    qb_corners corners;
    assert_true(qb_kink_corners(&RELU, &RELU, (qb_interval){-1, 3}, (qb_interval){-tiny, tiny}, (qb_interval){-3, 1},
                                &corners));
    qb_plane above = qb_kink_plane(&corners, 0, 1), below = qb_kink_plane(&corners, 0, -1);
    assert_true(fabs(above.a) < 1e-9 || fabs(above.a + 1) < 1e-9); /* -relu(a) <= 0 or -a */
    assert_true(fabs(below.a - 0.75) < 1e-9 && fabs(below.constant - 0.75) < 1e-9);
    assert_true(above.d == 0 && below.d == 0);
  }
  qb_line level = qb_kink_level(&RELU, (qb_interval){1, 2}, -1);
  assert_true(level.slope == 0 && level.constant >= -1 && level.constant < -1 + 1e-12);
}

static qb_kink random_kink(qb_rng *rng) {
  if (qb_rng_below(rng, 3) == 0)
    return (qb_kink){.leaky = true, .alpha = qb_rng_range(rng, -0.5, 1.5)};
  double lo = qb_rng_below(rng, 2) == 0 ? 0 : qb_rng_range(rng, -1, 0.5);
  double hi = qb_rng_below(rng, 2) == 0 ? INFINITY : lo + qb_rng_range(rng, 0, 2);
  return (qb_kink){.shift = qb_rng_below(rng, 2) == 0 ? 0 : qb_rng_range(rng, -0.3, 0.3), .lo = lo, .hi = hi};
}

/* The largest amount by which the function exceeds the plane at random points of the hexagon. */
static double worst_excess(qb_rng *rng, const qb_kink *f, const qb_kink *g, const qb_interval box[3],
                           const qb_plane *plane, double on_f, double on_d) {
  double worst = -INFINITY;
  for (int k = 0; k < 200; k++) {
    double a = qb_rng_range(rng, box[0].lo, box[0].hi), d = qb_rng_range(rng, box[2].lo, box[2].hi);
    if (a + d < box[1].lo || a + d > box[1].hi)
      continue;
    double y = qb_kink_at(f, a), y2 = qb_kink_at(g, a + d);
    worst = fmax(worst, on_f * y + on_d * (y2 - y) - plane->a * a - plane->d * d - plane->constant);
  }
  return worst;
}

static void no_plane_is_ever_below(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 3, 0);
  for (int n = 0; n < 4000; n++) {
    qb_kink f = random_kink(&rng), g = qb_rng_below(&rng, 2) == 0 ? f : random_kink(&rng);
    double a = qb_rng_range(&rng, -2, 2), d = qb_rng_range(&rng, -1, 1), wide = qb_rng_range(&rng, 0, 1);
    qb_interval box[3] = {{a, a + qb_rng_range(&rng, 0, 3)}, {0, 0}, {d, d + wide * wide * wide}};
    box[1] = (qb_interval){box[0].lo + box[2].lo + qb_rng_range(&rng, 0, 0.5),
                           box[0].hi + box[2].hi - qb_rng_range(&rng, 0, 0.5)};
    double on_f = qb_rng_range(&rng, -1, 1), on_d = qb_rng_range(&rng, -1, 1);
    qb_corners corners;
    if (box[1].lo > box[1].hi || !qb_kink_corners(&f, &g, box[0], box[1], box[2], &corners))
      continue;
    qb_plane plane = qb_kink_plane(&corners, on_f, on_d);
    double excess = worst_excess(&rng, &f, &g, box, &plane, on_f, on_d);
    if (excess > 1e-13)
      fail_msg("case %d: the plane is %g too low", n, excess);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lines_above_and_below_relu),
      cmocka_unit_test(difference_of_two_active_rectifiers_is_exact),
      cmocka_unit_test(wide_originals_leave_the_chord_of_the_difference),
      cmocka_unit_test(what_is_known_has_no_slope),
      cmocka_unit_test(no_plane_is_ever_below),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
