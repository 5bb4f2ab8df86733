/* Realised ratios on random networks: the chain G is never below the difference, whatever the operators; forgetting
 * what a node adds is noticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "run/realised.h"
#include "support/random_network.h"

typedef struct tally {
  int networks, refused, steps, exact, broken; /* broken: below the difference when the terms are left out */
} tally;

static void fill(qb_rng *rng, const qb_domain *domain, float *sample) {
  for (int64_t i = 0; i < domain->count; i++)
    sample[i] = (float)qb_rng_range(rng, (double)domain->lo[i], (double)domain->hi[i]);
}

static void check_numbers(const random_network *network, const qb_realised *r, const qb_realised_numbers *numbers,
                          tally *seen) {
  char text[4000];
  const qb_realised_step *steps = qb_realised_steps(r);
  for (int32_t s = 0; s < qb_realised_count(r); s++) {
    double slack = 1e-5 * (numbers[s].state + numbers[s].difference) + 1e-9;
    if (numbers[s].chain < numbers[s].difference - slack)
      fail_msg("step %d, node %d: G is %.9g, the difference %.9g\n%s", s, steps[s].node, numbers[s].chain,
               numbers[s].difference, random_network_describe(network, text, sizeof text));
    if (steps[s].contracts)
      assert_true(numbers[s].ratio <= 1 + 1e-5);
    seen->steps++;
    seen->exact += numbers[s].difference > 0 && fabs(numbers[s].chain - numbers[s].difference) <= slack;
    seen->broken += steps[s].is_linear && numbers[s].chain - numbers[s].term < numbers[s].difference - slack;
  }
}

static void try_network(qb_rng *rng, tally *seen) {
  random_network network;
  random_style style = random_network_style(rng);
  qb_realised *realised = NULL;
  qb_error error = {0};
  random_network_create(rng, &style, &network);
  qb_pair pair = {0}; /* that of the network does not count what differs besides weights */
  qb_status status = qb_pair_match_absorbed(&network.original, &network.quantized, &pair, &error);
  if (status == QB_OK)
    status = qb_realised_create(&pair, QB_ENGINE_REFERENCE, 1, &realised, &error);
  seen->networks++;
  if (status == QB_ERROR_UNSUPPORTED || status == QB_ERROR_FORMAT) {
    seen->refused++;
  } else {
    if (status != QB_OK)
      fail_msg("%s", error.message);
    float *sample = qb_alloc((size_t)network.domain.count, sizeof *sample);
    qb_realised_numbers *numbers = qb_alloc((size_t)qb_realised_count(realised) + 1, sizeof *numbers);
    fill(rng, &network.domain, sample);
    assert_int_equal(qb_realised_forward(realised, sample, numbers, &error), QB_OK);
    check_numbers(&network, realised, numbers, seen);
    qb_free(numbers);
    qb_free(sample);
  }
  qb_realised_free(realised);
  qb_pair_free(&pair);
  random_network_free(&network);
}

static void chains_hold_on_random_networks(void **state) {
  (void)state;
  qb_rng rng;
  tally seen = {0};
  qb_rng_seed(&rng, 17, 0);
  for (int i = 0; i < 300; i++)
    try_network(&rng, &seen);
  print_message("%d networks, %d refused, %d steps, %d exact, %d broken without terms\n", seen.networks, seen.refused,
                seen.steps, seen.exact, seen.broken);
  assert_true(seen.refused < seen.networks / 2);
  assert_true(seen.exact > seen.steps / 10);
  assert_true(seen.broken > 50);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(chains_hold_on_random_networks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
