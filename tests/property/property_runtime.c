/* Bounds that let a runtime differ from exact arithmetic: networks whose codes are off by one, all the same way or at
 * random, must stay within the bounds that allow for it, and not all within those that do not. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <omp.h>

#include "bound/ball.h"
#include "bound/certificate.h"
#include "graph/quantizer.h"
#include "run/reference.h"
#include "support/cases.h"
#include "support/error_search.h"
#include "support/random_network.h"

enum { CASES = 300, ROUNDS = 3, NOISES = 4, METHODS = 5 };

typedef struct tally {
  long bounds, broken, near;
} tally;

/* The largest error that was found with codes that are off. */
static double find_error(qb_rng *rng, const random_network *network, uint64_t seed) {
  double found = 0;
  for (uint64_t k = 0; k < NOISES; k++) {
    error_search search;
    qb_reference_code_noise = k < 2 ? k + 1 : 3 + 64 * seed + k;
    error_search_create(&network->pair, &network->domain, &search);
    found = fmax(found, error_search_run(&search, rng, ROUNDS));
    error_search_free(&search);
  }
  qb_reference_code_noise = 0;
  return found;
}

static void compare(double bound, double found, tally *t) {
  t->bounds++;
  t->broken += bound < found;
  t->near += bound <= 2 * found;
}

static void check_methods(const random_network *network, double found, tally *t) {
  static const qb_bound_method methods[METHODS] = {QB_BOUND_LAYERWISE, QB_BOUND_ELEMENTWISE, QB_BOUND_INTERVAL,
                                                   QB_BOUND_SPECTRAL, QB_BOUND_PRODUCT};
  qb_worst_case worst;
  qb_error error = {0};
  uint32_t wanted = 0;
  for (int m = 0; m < METHODS; m++)
    wanted |= UINT32_C(1) << methods[m];
  if (qb_worst_case_bound(&network->pair, &network->domain, wanted, -1, &worst, &error) != QB_OK)
    fail_msg("%s", error.message);
  for (int m = 0; m < worst.count; m++)
    if (worst.outcomes[m].bound.applies)
      compare(qb_magnitude_to_double(worst.outcomes[m].bound.value), found, t);
  qb_worst_case_free(&worst);
}

static void check_relaxation(const random_network *network, double found, tally *t) {
  qb_backward *backward = NULL;
  qb_ball box;
  qb_error error = {0};
  qb_ball_settings settings = qb_ball_settings_default();
  if (qb_backward_create(&network->pair, &backward, &error) != QB_OK ||
      qb_bound_ball(backward, &network->domain, &settings, &box, &error) != QB_OK)
    fail_msg("%s", error.message);
  if (box.applies) {
    double bound = 0;
    for (int64_t k = 0; k < box.count; k++)
      bound = fmax(bound, qb_interval_magnitude(box.difference[k]));
    compare(bound, found, t);
  }
  qb_ball_free(&box);
  qb_backward_free(backward);
}

static tally check_codes(long cases, int32_t steps) {
  tally t = {0};
  qb_rng rng;
  qb_rng_seed(&rng, 91, 0);
  for (long n = 0; n < cases; n++) {
    random_network network;
    random_style style = random_network_style(&rng);
    style.quantized_activations = true;
    style.chain = false;
    random_network_create(&rng, &style, &network);
    if (n % 2 == 1) /* a small box: errors of rounding are not hidden by those of the weights */
      for (int64_t i = 0; i < network.domain.count; i++)
        network.domain.hi[i] = network.domain.lo[i] + 0.01f * (network.domain.hi[i] - network.domain.lo[i]);
    qb_graph_allow_steps(&network.quantized, steps);
    double found = find_error(&rng, &network, (uint64_t)n);
    check_methods(&network, found, &t);
    check_relaxation(&network, found, &t);
    random_network_free(&network);
  }
  return t;
}

static void codes_that_are_off_stay_inside(void **state) {
  (void)state;
  tally t = check_codes(test_cases(CASES), 1);
  assert_int_equal(t.broken, 0);
  assert_true(t.bounds > 3 * test_cases(CASES));
  assert_true(t.near > t.bounds / 10);
}

static void bounds_that_do_not_allow_for_it_are_left(void **state) {
  (void)state;
  assert_true(check_codes(CASES, 0).broken > 20);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(codes_that_are_off_stay_inside),
      cmocka_unit_test(bounds_that_do_not_allow_for_it_are_left),
  };
  omp_set_num_threads(1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
