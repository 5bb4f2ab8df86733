/* The choice of widths against every choice there is, and against the bound of the dual problem. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "quant/allocate.h"

enum { LAYERS = 5, WIDTHS = 4, BIG = 60, BIG_WIDTHS = 7 };

typedef struct instance {
  double score[BIG * BIG_WIDTHS];
  int64_t cost[BIG * BIG_WIDTHS];
  qb_allocation_problem problem;
} instance;

/* Scores that mostly fall, with a rise here and there; costs that never fall, equal ones among them. */
static void draw(instance *it, qb_rng *rng, int layers, int widths, int64_t scale) {
  int64_t most = 0, least = 0;
  for (int l = 0; l < layers; l++) {
    double score = 100 * qb_rng_double(rng);
    int64_t cost = (int64_t)qb_rng_below(rng, (uint64_t)scale);
    least += cost;
    for (int w = 0; w < widths; w++) {
      it->score[l * widths + w] = score;
      it->cost[l * widths + w] = cost;
      score *= qb_rng_below(rng, 8) == 0 ? 1.2 : 0.2 + 0.6 * qb_rng_double(rng);
      cost += (int64_t)qb_rng_below(rng, (uint64_t)scale);
    }
    most += it->cost[l * widths + widths - 1];
  }
  int64_t budget = least + (int64_t)qb_rng_below(rng, (uint64_t)(most - least + 1));
  it->problem = (qb_allocation_problem){layers, widths, it->score, it->cost, budget};
}

/* The least score of all choices within the budget. */
static double brute_force(const qb_allocation_problem *p) {
  int choice[LAYERS] = {0}, l = 0;
  double best = INFINITY;
  while (l < p->layers) {
    if (qb_allocation_cost(p, choice) <= p->budget)
      best = fmin(best, qb_allocation_score(p, choice));
    for (l = 0; l < p->layers && ++choice[l] == p->widths; l++)
      choice[l] = 0;
  }
  return best;
}

static void test_brute_force(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 7, 0);
  int greedy_is_worse = 0;
  for (int i = 0; i < 400; i++) {
    instance it;
    int choice[LAYERS], greedy[LAYERS];
    draw(&it, &rng, LAYERS, WIDTHS, 1 + (int64_t)qb_rng_below(&rng, 300));
    double best = brute_force(&it.problem);
    assert_int_equal(qb_allocate(&it.problem, choice, NULL), QB_OK);
    assert_true(qb_allocation_cost(&it.problem, choice) <= it.problem.budget);
    assert_true(fabs(qb_allocation_score(&it.problem, choice) - best) <= 1e-12 * best);
    assert_int_equal(qb_allocate_greedy(&it.problem, greedy, NULL), QB_OK);
    assert_true(qb_allocation_cost(&it.problem, greedy) <= it.problem.budget);
    greedy_is_worse += qb_allocation_score(&it.problem, greedy) > best * (1 + 1e-9);
  }
  assert_true(greedy_is_worse > 0); /* else the comparison sees nothing */
}

/* max over t of min over choices of score + t (cost - budget): no choice within the budget scores less. */
static double dual(const qb_allocation_problem *p, double t) {
  double total = -t * (double)p->budget;
  for (int l = 0; l < p->layers; l++) {
    double least = INFINITY;
    for (int w = 0; w < p->widths; w++)
      least = fmin(least, p->score[l * p->widths + w] + t * (double)p->cost[l * p->widths + w]);
    total += least;
  }
  return total;
}

static void test_dual(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 8, 0);
  for (int i = 0; i < 10; i++) {
    instance it;
    int choice[BIG];
    draw(&it, &rng, BIG, BIG_WIDTHS, 3000000); /* far more units than the table has */
    double bound = 0;
    for (double t = 1e-12; t < 1; t *= 1.05)
      bound = fmax(bound, dual(&it.problem, t));
    assert_int_equal(qb_allocate(&it.problem, choice, NULL), QB_OK);
    double score = qb_allocation_score(&it.problem, choice);
    assert_true(qb_allocation_cost(&it.problem, choice) <= it.problem.budget);
    assert_true(score >= bound * (1 - 1e-12));
    assert_true(score <= 1.02 * bound);
  }
}

static void test_budget(void **state) {
  (void)state;
  const double score[] = {4, 1, 9, 2};
  const int64_t cost[] = {2, 3, 5, 7};
  qb_allocation_problem p = {2, 2, score, cost, 6};
  int choice[2];
  qb_error error;
  assert_int_equal(qb_allocate(&p, choice, &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "7"));
  p.budget = 7;
  assert_int_equal(qb_allocate(&p, choice, &error), QB_OK);
  assert_int_equal(choice[0] + choice[1], 0);
  p.budget = INT64_MAX;
  assert_int_equal(qb_allocate(&p, choice, &error), QB_OK);
  assert_int_equal(choice[0] + choice[1], 2);
  p.budget = 9;
  assert_int_equal(qb_allocate(&p, choice, &error), QB_OK);
  assert_int_equal(choice[0], 0);
  assert_int_equal(choice[1], 1);
}

static void test_memory(void **state) {
  (void)state;
  const double score[] = {4, 1, 9, 2};
  const int64_t cost[] = {2, 3, 5, 7};
  const qb_allocation_problem p = {2, 2, score, cost, 9};
  int choice[2];
  for (long n = 0; n < 4; n++) {
    long live = qb_alloc_live();
    qb_alloc_fail_after(n);
    assert_int_equal(qb_allocate(&p, choice, NULL), QB_ERROR_MEMORY);
    qb_alloc_fail_after(-1);
    assert_int_equal(qb_alloc_live(), live);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_brute_force),
      cmocka_unit_test(test_dual),
      cmocka_unit_test(test_budget),
      cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
