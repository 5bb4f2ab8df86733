/* Whole statistical claims on simulated populations of known truth: a repetition fails when ANY printed claim is false,
 * and no more repetitions fail than the claim allows. The number of failures is tested exactly: were the failure
 * probability as stated, so many failures or more would have probability at most one in a million.
 *
 * What runs is the source of the claims itself, included below with its limits remembered between repetitions: they are
 * functions of their arguments alone, and the same ones come up again and again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "stats/binomial.h"
#include "stats/order_statistics.h"
#include "stats/statistical_claim.h"
#include "support/cases.h"

/* --------------------------------------------------------------------------------------------- remembered limits */

enum { MEMORY = 1 << 20 };

typedef struct remembered {
  int function; /* 0: free */
  int64_t n, k;
  double alpha, value;
} remembered;

static remembered memory[MEMORY];

/* The place of a call: its own, or a free one. */
static remembered *recall(int function, int64_t n, int64_t k, double alpha) {
  uint64_t bits, mix;
  memcpy(&bits, &alpha, sizeof bits);
  mix = (bits ^ ((uint64_t)n << 40) ^ ((uint64_t)k << 8) ^ (uint64_t)function) * UINT64_C(0x9e3779b97f4a7c15);
  for (size_t at = (size_t)(mix >> 44);; at = (at + 1) % MEMORY) {
    remembered *entry = &memory[at];
    if (entry->function == 0 || (entry->function == function && entry->n == n && entry->k == k &&
                                 memcmp(&entry->alpha, &alpha, sizeof alpha) == 0))
      return entry;
  }
}

#define REMEMBER(number, n, k, alpha, call)            \
  remembered *entry = recall(number, n, k, alpha);     \
  if (entry->function == 0) {                          \
    double value = 0;                                  \
    assert_int_equal(call, QB_OK);                     \
    *entry = (remembered){number, n, k, alpha, value}; \
  }

static qb_status quick_upper(int64_t n, int64_t k, double alpha, double *limit, qb_error *error) {
  REMEMBER(1, n, k, alpha, qb_binomial_upper(n, k, alpha, &value, error))
  *limit = entry->value;
  return QB_OK;
}

static qb_status quick_lower(int64_t n, int64_t k, double alpha, double *limit, qb_error *error) {
  REMEMBER(2, n, k, alpha, qb_binomial_lower(n, k, alpha, &value, error))
  *limit = entry->value;
  return QB_OK;
}

static qb_status quick_exceedance(int64_t n, int64_t k, double alpha, double *p, qb_error *error) {
  return quick_upper(n, n - k, alpha, p, error);
}

static qb_status quick_mcnemar(int64_t first, int64_t second, double *p, qb_error *error) {
  REMEMBER(3, first, second, 0, qb_mcnemar_p(first, second, &value, error))
  *p = entry->value;
  return QB_OK;
}

/* Two limits with half of alpha each. */
static qb_status quick_loss(int64_t n, int64_t lost, int64_t gained, double alpha, double *loss, qb_error *error) {
  double upper, lower;
  assert_int_equal(quick_upper(n, lost, alpha / 2, &upper, error), QB_OK);
  assert_int_equal(quick_lower(n, gained, alpha / 2, &lower, error), QB_OK);
  *loss = nextafter(upper - lower, INFINITY);
  return QB_OK;
}

static qb_status first_index(int64_t n, double p, double alpha, double *value, qb_error *error) {
  int64_t k;
  qb_status status = qb_order_index(n, p, alpha, &k, error);
  *value = (double)k;
  return status;
}

static qb_status quick_index(int64_t n, double p, double alpha, int64_t *k, qb_error *error) {
  int64_t level = (int64_t)(p * 1e6);
  REMEMBER(4, n, level, alpha, first_index(n, p, alpha, &value, error))
  *k = (int64_t)entry->value;
  return QB_OK;
}

static qb_status first_needed(int64_t exceedances, double p, double alpha, double *value, qb_error *error) {
  int64_t n;
  qb_status status = qb_order_samples_needed(exceedances, p, alpha, &n, error);
  *value = (double)n;
  return status;
}

static qb_status quick_needed(int64_t exceedances, double p, double alpha, int64_t *n, qb_error *error) {
  int64_t level = (int64_t)(p * 1e6);
  REMEMBER(5, exceedances, level, alpha, first_needed(exceedances, p, alpha, &value, error))
  *n = (int64_t)entry->value;
  return QB_OK;
}

/* Only asked for by the estimate of further inputs, which is no claim. */
static qb_status quick_at_most(int64_t n, int64_t k, double p, double *lo, double *hi, qb_error *error) {
  (void)n, (void)k, (void)p, (void)error;
  *lo = *hi = 0;
  return QB_OK;
}

#define qb_binomial_upper quick_upper
#define qb_order_exceedance quick_exceedance
#define qb_mcnemar_p quick_mcnemar
#define qb_accuracy_loss_upper quick_loss
#define qb_order_index quick_index
#define qb_order_samples_needed quick_needed
#define qb_binomial_at_most quick_at_most
#define qb_statistical_claim_make make_claim
#include "stats/statistical_claim.c"
#undef qb_binomial_upper
#undef qb_order_exceedance
#undef qb_accuracy_loss_upper
#undef qb_statistical_claim_make

/* ----------------------------------------------------------------------------------------------------- population */

enum { CLASSES = 5, MOST = 10000 };

/* Of an input of class c (probability share[c]) the original is right with probability right[c]; the decision flips
 * with probability flip[c]: a right one becomes wrong, a wrong one right with probability repair. */
static const double share[CLASSES] = {0.3, 0.3, 0.2, 0.15, 0.05}, right[CLASSES] = {0.95, 0.9, 0.8, 0.99, 0.5};
static const double flip[CLASSES] = {0.01, 0.03, 0.002, 0.1, 0.3}, repair = 0.4;

typedef struct population {
  bool labels; /* inputs have labels */
  double grid; /* errors are multiples of it; 0: continuous */
} population;

static qb_observation inputs[MOST];

static int draw_class(qb_rng *rng) {
  double u = qb_rng_double(rng);
  int c = 0;
  while (c < CLASSES - 1 && u >= share[c])
    u -= share[c++];
  return c;
}

static void draw_input(const population *p, qb_rng *rng, qb_observation *o) {
  int c = draw_class(rng);
  bool is_right = qb_rng_double(rng) < right[c], flips = qb_rng_double(rng) < flip[c];
  double u = qb_rng_double(rng), repaired = qb_rng_double(rng);
  o->label = p->labels ? c : -1;
  o->top = is_right ? c : (c + 1) % CLASSES;
  o->other_top = !flips ? o->top : is_right ? (c + 2) % CLASSES : repaired < repair ? c : (c + 3) % CLASSES;
  o->error = flips ? 1 + u : u * u;
  if (p->grid > 0)
    o->error = ceil(o->error / p->grid) * p->grid;
}

static double flip_rate(void) {
  double rate = 0;
  for (int c = 0; c < CLASSES; c++)
    rate += share[c] * flip[c];
  return rate;
}

/* P(E > e); for errors on the grid e is one of its points. */
static double exceedance(double e) {
  double f = flip_rate();
  return e < 1 ? f + (1 - f) * (1 - sqrt(fmax(e, 0))) : e < 2 ? f * (2 - e) : 0;
}

static double class_loss(int64_t c) { return flip[c] * (right[c] - (1 - right[c]) * repair); }

static double accuracy_loss(void) {
  double loss = 0;
  for (int c = 0; c < CLASSES; c++)
    loss += share[c] * class_loss(c);
  return loss;
}

/* P(flip | label k), or P(flip | the original decides k): those that are k and right, and those of k - 1 that are not.
 */
static double class_flips(const population *p, int64_t k) {
  int64_t before = (k + CLASSES - 1) % CLASSES;
  double own = share[k] * right[k], other = share[before] * (1 - right[before]);
  return p->labels ? flip[k] : (own * flip[k] + other * flip[before]) / (own + other);
}

/* -------------------------------------------------------------------------------------------------------- judging */

enum { FAMILY_QUANTILES, FAMILY_CURVE, FAMILY_FLIPS, FAMILY_ACCURACY, FAMILY_CLASSES, FAMILIES };

typedef struct tally {
  long repetitions, any, family[FAMILIES];
} tally;

static bool errors_fail(const qb_error_exceedance *list, int count) {
  bool failed = false;
  for (int i = 0; i < count; i++)
    failed |= exceedance(list[i].error) > list[i].exceedance;
  return failed;
}

static bool classes_fail(const population *p, const qb_statistical_claim *claim) {
  bool failed = false;
  for (int64_t i = 0; i < claim->class_count; i++) {
    const qb_class_claim *one = &claim->classes[i];
    failed |= class_flips(p, one->index) > one->flip_rate_upper;
    failed |= claim->classes_are_labels && class_loss(one->index) > one->accuracy_loss_upper;
  }
  return failed;
}

static void judge(const population *p, const qb_statistical_claim *claim, tally *t) {
  const bool failed[FAMILIES] = {errors_fail(claim->quantiles, claim->quantile_count),
                                 errors_fail(claim->curve, claim->curve_count), flip_rate() > claim->flip_rate_upper,
                                 claim->labelled > 0 && accuracy_loss() > claim->accuracy_loss_upper,
                                 classes_fail(p, claim)};
  bool any = false;
  for (int f = 0; f < FAMILIES; f++) {
    t->family[f] += failed[f];
    any |= failed[f];
  }
  t->any += any;
  t->repetitions++;
}

static double p_of_failures(long repetitions, long failures, double alpha) {
  double lo, hi;
  if (alpha >= 1)
    return 1;
  assert_int_equal(qb_binomial_at_least(repetitions, failures, alpha, &lo, &hi, NULL), QB_OK);
  return lo;
}

/* All claims together at the stated probability, and each kind at its part. */
static void failures_are_as_stated(const tally *t, const qb_statistical_claim *claim, double alpha) {
  static const char *const names[FAMILIES] = {"quantiles", "curve", "flips", "accuracy", "classes"};
  print_message("n = %lld: %ld of %ld repetitions fail, stated %g; quantiles %ld, curve %ld, flips %ld, accuracy %ld, "
                "classes %ld\n",
                (long long)claim->n, t->any, t->repetitions, alpha, t->family[0], t->family[1], t->family[2],
                t->family[3], t->family[4]);
  if (p_of_failures(t->repetitions, t->any, alpha) < 1e-6)
    fail_msg("n = %lld: %ld of %ld repetitions fail, stated %g", (long long)claim->n, t->any, t->repetitions, alpha);
  for (int f = 0; f < FAMILIES; f++) {
    double part = claim->alpha * (double)claim->candidates * (f == FAMILY_QUANTILES ? claim->quantile_count : 1);
    if (p_of_failures(t->repetitions, t->family[f], part) < 1e-6)
      fail_msg("n = %lld: %s fail in %ld of %ld repetitions, stated %g", (long long)claim->n, names[f], t->family[f],
               t->repetitions, part);
  }
}

static void draw(const population *p, int64_t n, qb_rng *rng) {
  for (int64_t i = 0; i < n; i++)
    draw_input(p, rng, &inputs[i]);
}

static qb_statistical_claim claim_inputs(int64_t n, const qb_statistical_settings *settings, qb_arena *arena) {
  qb_statistical_claim claim;
  qb_error error;
  qb_arena_free(arena);
  if (make_claim(inputs, n, settings, arena, &claim, &error) != QB_OK)
    fail_msg("%s", error.message);
  return claim;
}

static void repeat(const population *p, int64_t n, long repetitions, double confidence) {
  const qb_statistical_settings settings = {confidence, 1, CLASSES};
  qb_statistical_claim claim = {0};
  tally t = {0};
  qb_arena arena;
  qb_rng rng;
  qb_arena_init(&arena);
  qb_rng_seed(&rng, 30 + p->labels, (uint64_t)n + (p->grid > 0));
  for (long r = 0; r < repetitions; r++) {
    draw(p, n, &rng);
    claim = claim_inputs(n, &settings, &arena);
    judge(p, &claim, &t);
  }
  failures_are_as_stated(&t, &claim, 1 - confidence);
  qb_arena_free(&arena);
}

/* ---------------------------------------------------------------------------------------------------------- tests */

static void claims_of_labelled_inputs_hold(void **state) {
  (void)state;
  const population continuous = {true, 0}, ties = {true, 0.25};
  long cases = test_cases(1000);
  repeat(&continuous, 50, cases, 0.9);
  repeat(&ties, 200, cases, 0.9);
  repeat(&continuous, 1000, cases / 2, 0.8);
}

static void claims_of_inputs_without_labels_hold(void **state) {
  (void)state;
  const population continuous = {false, 0}, ties = {false, 0.5};
  long cases = test_cases(1000);
  repeat(&ties, 50, cases, 0.5);
  repeat(&continuous, 300, cases, 0.9);
}

static void claims_of_many_inputs_hold(void **state) {
  (void)state;
  const population continuous = {true, 0};
  long cases = test_cases(60);
  repeat(&continuous, 3000, cases, 0.9);
  repeat(&continuous, 10000, cases, 0.9);
}

/* The best of several networks on one set: claims about it fail as stated when they are told how many were tried. */
static void repeat_best_of(int candidates, int64_t told, long repetitions, tally *t, qb_statistical_claim *claim) {
  const population p = {false, 0};
  const qb_statistical_settings settings = {0.9, told, CLASSES};
  qb_statistical_claim best = {0};
  qb_arena arena;
  qb_rng rng;
  qb_arena_init(&arena);
  qb_rng_seed(&rng, 33, 0);
  for (long r = 0; r < repetitions; r++) {
    for (int c = 0; c < candidates; c++) {
      draw(&p, 120, &rng);
      *claim = claim_inputs(120, &settings, &arena); /* too few inputs for claims by class */
      best = c == 0 || claim->flips < best.flips ? *claim : best;
    }
    judge(&p, &best, t);
  }
  *claim = best;
  qb_arena_free(&arena);
}

static void the_best_of_several_candidates_holds(void **state) {
  (void)state;
  qb_statistical_claim claim;
  tally t = {0};
  repeat_best_of(8, 8, test_cases(1000), &t, &claim);
  failures_are_as_stated(&t, &claim, 0.1);
}

/* ------------------------------------------------------------------------------------------------- planted faults */

static void an_untold_choice_is_caught(void **state) {
  (void)state;
  qb_statistical_claim claim;
  tally t = {0};
  repeat_best_of(8, 1, 1000, &t, &claim);
  assert_true(p_of_failures(t.repetitions, t.family[FAMILY_FLIPS], claim.alpha) < 1e-6);
}

/* Every claim at the whole error probability, as without Bonferroni. */
static void a_missing_correction_is_caught(void **state) {
  (void)state;
  const population p = {true, 0};
  const qb_statistical_settings settings = {1 - 0.08 * 8, 1, CLASSES};
  tally t = {0};
  qb_arena arena;
  qb_rng rng;
  qb_arena_init(&arena);
  qb_rng_seed(&rng, 34, 0);
  for (long r = 0; r < 1000; r++) {
    draw(&p, 500, &rng);
    qb_statistical_claim claim = claim_inputs(500, &settings, &arena);
    assert_int_equal(claim.claims, 8);
    judge(&p, &claim, &t);
  }
  assert_true(p_of_failures(t.repetitions, t.any, 0.08) < 1e-6);
  qb_arena_free(&arena);
}

/* The limit of n - k exceedances beside E_(k-1), which one more input exceeds. */
static void a_rank_off_by_one_is_caught(void **state) {
  (void)state;
  const population p = {true, 0};
  const qb_statistical_settings settings = {0.9, 1, CLASSES};
  qb_statistical_claim claim = {0};
  qb_arena arena;
  qb_rng rng;
  long failures = 0, sound = 0;
  qb_arena_init(&arena);
  qb_rng_seed(&rng, 35, 0);
  for (long r = 0; r < 3000; r++) {
    draw(&p, 500, &rng);
    claim = claim_inputs(500, &settings, &arena);
    double next = -1; /* E_(n-1) */
    for (int i = 0; i < 500; i++)
      if (inputs[i].error < claim.quantiles[0].error)
        next = fmax(next, inputs[i].error);
    failures += exceedance(next) > claim.quantiles[0].exceedance;
    sound += exceedance(claim.quantiles[0].error) > claim.quantiles[0].exceedance;
  }
  assert_true(p_of_failures(3000, failures, claim.alpha) < 1e-6);
  assert_true(p_of_failures(3000, sound, claim.alpha) >= 1e-6);
  qb_arena_free(&arena);
}

/* The remembered limits are the real ones. */
static void remembered_limits_are_the_real_ones(void **state) {
  (void)state;
  const population p = {true, 0};
  const qb_statistical_settings settings = {0.97, 2, CLASSES};
  qb_statistical_claim quick, real;
  qb_arena arena, other;
  qb_rng rng;
  qb_arena_init(&arena);
  qb_arena_init(&other);
  qb_rng_seed(&rng, 36, 0);
  draw(&p, 700, &rng);
  quick = claim_inputs(700, &settings, &arena);
  assert_int_equal(qb_statistical_claim_make(inputs, 700, &settings, &other, &real, NULL), QB_OK);
  assert_true(quick.flip_rate_upper == real.flip_rate_upper && quick.accuracy_loss_upper == real.accuracy_loss_upper);
  assert_int_equal(quick.class_count, real.class_count);
  for (int64_t k = 0; k < real.class_count; k++)
    assert_true(quick.classes[k].flip_rate_upper == real.classes[k].flip_rate_upper &&
                quick.classes[k].accuracy_loss_upper == real.classes[k].accuracy_loss_upper);
  assert_memory_equal(quick.quantiles, real.quantiles, sizeof real.quantiles);
  assert_memory_equal(quick.curve, real.curve, sizeof real.curve);
  qb_arena_free(&arena);
  qb_arena_free(&other);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(remembered_limits_are_the_real_ones),  cmocka_unit_test(claims_of_labelled_inputs_hold),
      cmocka_unit_test(claims_of_inputs_without_labels_hold), cmocka_unit_test(claims_of_many_inputs_hold),
      cmocka_unit_test(the_best_of_several_candidates_holds), cmocka_unit_test(an_untold_choice_is_caught),
      cmocka_unit_test(a_missing_correction_is_caught),       cmocka_unit_test(a_rank_off_by_one_is_caught),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
