/* The claims of held-out inputs against limits computed one by one, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stats/binomial.h"
#include "stats/order_statistics.h"
#include "stats/statistical_claim.h"

enum { MOST = 10000 };

static qb_observation inputs[MOST];

/* n inputs of `classes` classes in turn: the first `flips` flip, errors 1, 2, .., n in mixed order. */
static void fill(int64_t n, int64_t flips, int32_t classes, bool labels) {
  for (int64_t i = 0; i < n; i++) {
    int32_t class = (int32_t)(i % classes), other = (class + 1) % classes;
    inputs[i] = (qb_observation){.error = (double)((i * 7919) % n + 1),
                                 .top = class,
                                 .other_top = i < flips ? other : class,
                                 .label = labels ? class : -1};
  }
}

static qb_statistical_claim make(int64_t n, double confidence, int64_t candidates, int64_t outputs, qb_arena *arena) {
  const qb_statistical_settings settings = {confidence, candidates, outputs};
  qb_statistical_claim claim;
  qb_error error;
  if (qb_statistical_claim_make(inputs, n, &settings, arena, &claim, &error) != QB_OK)
    fail_msg("%s", error.message);
  return claim;
}

static void every_limit_has_its_share(void **state) {
  (void)state;
  qb_arena arena;
  qb_arena_init(&arena);
  fill(1009, 6, 10, true);
  qb_statistical_claim claim = make(1009, 0.99, 1, 10, &arena);
  assert_int_equal(claim.claims, 8); /* the largest error, three levels, flips, accuracy, curve, classes */
  assert_true(claim.alpha <= 0.01 / 8 && claim.alpha > 0.01 / 8 * (1 - 1e-12));
  double limit;
  assert_int_equal(qb_binomial_upper(1009, 6, claim.alpha, &limit, NULL), QB_OK);
  assert_true(claim.flip_rate_upper == limit);
  assert_int_equal(qb_accuracy_loss_upper(1009, 6, 0, claim.alpha, &limit, NULL), QB_OK);
  assert_true(claim.accuracy_loss_upper == limit);
  assert_int_equal(claim.quantile_count, 4);
  for (int i = 0; i < 4; i++) {
    assert_true(claim.quantiles[i].error == (double)claim.quantiles[i].rank);
    assert_int_equal(qb_order_exceedance(1009, claim.quantiles[i].rank, claim.alpha, &limit, NULL), QB_OK);
    assert_true(claim.quantiles[i].exceedance == limit);
  }
  assert_int_equal(claim.quantiles[0].rank, 1009);
  assert_true(claim.quantiles[1].exceedance <= 0.01 && claim.quantiles[3].exceedance <= 0.1);
  assert_int_equal(claim.curve_count, 10); /* 0 1 2 5 10 20 50 100 200 500 */
  for (int i = 0; i < claim.curve_count; i++) {
    assert_int_equal(qb_order_exceedance(1009, claim.curve[i].rank, qb_bonferroni(claim.alpha, 10), &limit, NULL),
                     QB_OK);
    assert_true(claim.curve[i].exceedance == limit && claim.curve[i].error == (double)claim.curve[i].rank);
  }
  assert_int_equal(claim.curve[9].rank, 509);
  assert_int_equal(claim.class_count, 10);
  for (int i = 0; i < 10; i++) {
    const qb_class_claim *one = &claim.classes[i];
    assert_int_equal(one->index, i);
    assert_int_equal(one->inputs, i < 9 ? 101 : 100);
    assert_int_equal(one->flips, i < 6);
    assert_int_equal(qb_binomial_upper(one->inputs, one->flips, qb_bonferroni(claim.alpha, 20), &limit, NULL), QB_OK);
    assert_true(one->flip_rate_upper == limit);
  }
  qb_arena_free(&arena);
}

static void candidates_divide_the_error_probability(void **state) {
  (void)state;
  qb_arena arena;
  qb_arena_init(&arena);
  fill(1000, 3, 7, false);
  qb_statistical_claim one = make(1000, 0.95, 1, 7, &arena), five = make(1000, 0.95, 5, 7, &arena);
  assert_int_equal(one.claims, 7);
  assert_int_equal(five.claims, one.claims);
  assert_true(fabs(five.alpha * 5 / one.alpha - 1) < 1e-12 && five.alpha * 5 <= one.alpha);
  assert_true(five.flip_rate_upper > one.flip_rate_upper);
  assert_true(isnan(one.accuracy_loss_upper) && isnan(one.mcnemar_p) && isnan(one.classes[0].accuracy_loss_upper));
  assert_false(one.classes_are_labels);
  qb_arena_free(&arena);
}

/* What is claimed may depend on n and labels, never on what was measured. */
static void the_plan_does_not_see_the_measurements(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 2, 20, 50, 170, 800, 3000};
  qb_arena arena;
  qb_arena_init(&arena);
  for (int s = 0; s < 7; s++) {
    int64_t n = sizes[s];
    fill(n, 0, 5, true);
    qb_statistical_claim none = make(n, 0.99, 1, 5, &arena);
    for (int64_t i = 0; i < n; i++) {
      inputs[i].other_top = (inputs[i].top + 1) % 5;
      inputs[i].error = i % 3 == 0 ? 1e9 : 0;
    }
    qb_statistical_claim all = make(n, 0.99, 1, 5, &arena);
    assert_true(none.claims == all.claims && none.alpha == all.alpha && none.quantile_count == all.quantile_count &&
                none.curve_count == all.curve_count && none.class_count == all.class_count);
    for (int i = 0; i < none.quantile_count; i++)
      assert_true(none.quantiles[i].rank == all.quantiles[i].rank &&
                  none.quantiles[i].exceedance == all.quantiles[i].exceedance);
    assert_true(all.flip_rate_upper == 1);
  }
  qb_arena_free(&arena);
}

/* Following the advice gives the claim, and one input less does not. */
static void needs_are_exact(void **state) {
  (void)state;
  qb_arena arena;
  qb_arena_init(&arena);
  fill(800, 4, 1000, false);
  qb_statistical_claim claim = make(800, 0.99, 1, 1000, &arena);
  assert_false(claim.has_classes);
  assert_int_equal(claim.need_count, 1); /* the next flip rate below what is shown is 1 % */
  assert_string_equal(claim.needs[0].claim, "flip_rate");
  assert_true(claim.needs[0].target == 0.01 && claim.flip_rate_upper > 0.01 && claim.flip_rate_upper < 0.02);
  double limit;
  assert_int_equal(qb_binomial_upper(claim.needs[0].inputs, 4, claim.alpha, &limit, NULL), QB_OK);
  assert_true(limit <= 0.01 * (1 + 1e-12));
  assert_int_equal(qb_binomial_upper(claim.needs[0].inputs - 1, 4, claim.alpha, &limit, NULL), QB_OK);
  assert_true(limit > 0.01);
  assert_true(claim.needs[0].at_this_rate > claim.needs[0].inputs);
  int64_t more = claim.needs[0].at_this_rate;
  assert_int_equal(qb_binomial_upper(more, (int64_t)ceil(0.005 * (double)more), claim.alpha, &limit, NULL), QB_OK);
  assert_true(limit <= 0.01 * (1 + 1e-12));
  fill(800, 16, 1000, false);
  claim = make(800, 0.99, 1, 1000, &arena);
  assert_int_equal(claim.need_count, 2);
  assert_true(claim.needs[0].target == 0.02 && claim.needs[1].target == 0.01);
  assert_int_equal(claim.needs[1].at_this_rate, 0); /* 2 % flip: no number shows 1 % */
  fill(400, 0, 1000, false);
  claim = make(400, 0.99, 1, 1000, &arena);
  assert_int_equal(claim.quantile_count, 3);
  const qb_sample_need *level = &claim.needs[claim.need_count - 1];
  assert_string_equal(level->claim, "exceedance");
  int64_t enough = level->inputs;
  fill(enough, 0, 1000, false);
  claim = make(enough, 0.99, 1, 1000, &arena);
  assert_true(claim.quantile_count == 3 && claim.quantiles[0].exceedance <= 0.01); /* the largest error shows it */
  assert_true(claim.need_count == 0 || strcmp(claim.needs[claim.need_count - 1].claim, "exceedance") != 0);
  claim = make(enough - 1, 0.99, 1, 1000, &arena);
  assert_string_equal(claim.needs[claim.need_count - 1].claim, "exceedance");
  qb_arena_free(&arena);
}

/* Classes with few inputs are left out, and the larger ones share what there is. */
static void small_classes_are_left_out(void **state) {
  (void)state;
  qb_arena arena;
  qb_arena_init(&arena);
  fill(600, 0, 3, true);
  for (int64_t i = 0; i < 600; i++)
    inputs[i].label = inputs[i].top = inputs[i].other_top = i < 8 ? 2 : (int32_t)(i % 2);
  qb_statistical_claim claim = make(600, 0.99, 1, 3, &arena);
  assert_int_equal(claim.class_count, 2);
  double limit;
  assert_int_equal(qb_binomial_upper(296, 0, qb_bonferroni(claim.alpha, 4), &limit, NULL), QB_OK);
  assert_true(claim.classes[1].flip_rate_upper == limit);
  qb_arena_free(&arena);
}

static void bad_arguments_are_refused(void **state) {
  (void)state;
  static const qb_statistical_settings wrong[] = {{0, 1, 5},   {1, 1, 5},   {NAN, 1, 5},
                                                  {0.9, 0, 5}, {0.9, 1, 0}, {0.9, 1, 4}};
  const qb_statistical_settings right = {0.9, 1, 5};
  qb_statistical_claim claim;
  qb_arena arena;
  qb_arena_init(&arena);
  fill(20, 0, 5, true);
  for (int i = 0; i < 6; i++)
    assert_int_equal(qb_statistical_claim_make(inputs, 20, &wrong[i], &arena, &claim, NULL), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_statistical_claim_make(inputs, 0, &right, &arena, &claim, NULL), QB_ERROR_ARGUMENT);
  inputs[3].error = NAN;
  assert_int_equal(qb_statistical_claim_make(inputs, 20, &right, &arena, &claim, NULL), QB_ERROR_NUMERIC);
  inputs[3].error = -1;
  assert_int_equal(qb_statistical_claim_make(inputs, 20, &right, &arena, &claim, NULL), QB_ERROR_NUMERIC);
  qb_arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_limit_has_its_share),
      cmocka_unit_test(candidates_divide_the_error_probability),
      cmocka_unit_test(the_plan_does_not_see_the_measurements),
      cmocka_unit_test(needs_are_exact),
      cmocka_unit_test(small_classes_are_left_out),
      cmocka_unit_test(bad_arguments_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
