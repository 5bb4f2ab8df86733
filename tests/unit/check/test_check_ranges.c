/* The checker's own recomputation of layerwise and interval against the engine and against errors that were found, on
 * random pairs of networks; smaller claims are not accepted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bound/certificate.h"
#include "check/check_bound.h"
#include "support/error_search.h"
#include "support/random_network.h"

static const struct {
  const char *name;
  qb_bound_method method;
} methods[2] = {{"layerwise", QB_BOUND_LAYERWISE}, {"interval", QB_BOUND_INTERVAL}};

static claim make_claim(const random_network *network, const char *method) {
  claim c = {.elements = network->domain.count, .output = -1};
  qb_arena_init(&c.arena);
  c.domain = qb_arena_alloc(&c.arena, (size_t)c.elements, sizeof *c.domain);
  assert_non_null(c.domain);
  for (int64_t i = 0; i < c.elements; i++)
    c.domain[i] = (range){(double)network->domain.lo[i], (double)network->domain.hi[i]};
  snprintf(c.method, sizeof c.method, "%s", method);
  return c;
}

/* The bound as a certificate claims it. */
static double engine_bound(const random_network *network, qb_bound_method method) {
  qb_worst_case worst;
  qb_error error;
  double bound = INFINITY;
  if (qb_worst_case_bound(&network->pair, &network->domain, UINT32_C(1) << method, -1, &worst, &error) == QB_OK &&
      worst.proved)
    bound = qb_worst_case_claimed(&worst, qb_magnitude_to_double(worst.bound));
  qb_worst_case_free(&worst);
  return bound;
}

static void fail_at(uint64_t seed, const char *method, const random_network *network, double engine, double own) {
  char text[4000];
  fail_msg("network %llu, %s: engine %.17g, checker %.17g\n%s", (unsigned long long)seed, method, engine, own,
           random_network_describe(network, text, sizeof text));
}

/* Slopes and statistics that differ are no pair that files can make (qb_pair_match); the checker refuses them. */
static bool same_parameters(const qb_pair *pair) {
  for (qb_node_id n = 0; n < pair->quantized->node_count; n++)
    if (pair->partner[n] != QB_NONE && !qb_pair_same_parameters(pair, n))
      return false;
  return true;
}

static void test_follows_the_engine(void **state) {
  (void)state;
  int compared = 0, unknown = 0, equal = 0;
  for (uint64_t i = 0; i < 400; i++) {
    qb_rng rng;
    random_network network;
    qb_rng_seed(&rng, 4711, i);
    random_style style = random_network_style(&rng);
    random_network_create(&rng, &style, &network);
    error_search search;
    error_search_create(&network.pair, &network.domain, &search);
    double found = error_search_run(&search, &rng, 2);
    for (int m = 0; m < 2; m++) {
      qb_error error;
      recomputed own = {0};
      claim c = make_claim(&network, methods[m].name);
      double engine = engine_bound(&network, methods[m].method);
      assert_int_equal(recompute_by_ranges(&c, &network.pair, &own, &error), QB_OK);
      unknown += !own.known && isfinite(engine) && same_parameters(&network.pair);
      if (own.known && isfinite(engine) && engine > 1e-12) { /* below, both are nothing but rounding */
        compared++;
        equal += own.bound >= engine * (1 - 3e-6);
        if (own.bound > engine || own.bound < found)
          fail_at(i, methods[m].name, &network, engine, own.bound);
      }
      claim_free(&c);
    }
    error_search_free(&search);
    random_network_free(&network);
  }
  print_message("%d compared, %d equal, %d unknown to the checker alone\n", compared, equal, unknown);
  assert_true(compared > 500);
  assert_true(equal > compared * 3 / 4);
  assert_int_equal(unknown, 0);
}

/* A claimed range that does not contain what follows is refuted. */
static void test_output_ranges(void **state) {
  (void)state;
  qb_rng rng;
  random_network network;
  qb_rng_seed(&rng, 9, 3);
  random_style style = {.nodes = 3, .vector = true, .bits = 4, .norm = 1, .biases = true};
  random_network_create(&rng, &style, &network);
  claim c = make_claim(&network, "interval");
  qb_error error;
  recomputed own = {0};
  assert_int_equal(recompute_by_ranges(&c, &network.pair, &own, &error), QB_OK);
  assert_true(own.known && !own.refuted && own.bound > 0);
  const qb_graph *graph = network.pair.quantized;
  range ranges[64];
  c.output_count = (int64_t)qb_shape_elements(&graph->values[graph->outputs[0]].shape);
  assert_true(c.output_count <= 64);
  for (int64_t k = 0; k < c.output_count; k++)
    ranges[k] = (range){-own.bound, own.bound};
  c.outputs = ranges;
  own = (recomputed){0};
  assert_int_equal(recompute_by_ranges(&c, &network.pair, &own, &error), QB_OK);
  assert_false(own.refuted);
  for (int64_t k = 0; k < c.output_count; k++)
    ranges[k] = (range){0, 0};
  own = (recomputed){0};
  assert_int_equal(recompute_by_ranges(&c, &network.pair, &own, &error), QB_OK);
  assert_true(own.refuted);
  c.output_count++;
  own = (recomputed){0};
  assert_int_equal(recompute_by_ranges(&c, &network.pair, &own, &error), QB_OK);
  assert_true(own.refuted);
  claim_free(&c);
  random_network_free(&network);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_follows_the_engine),
      cmocka_unit_test(test_output_ranges),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
