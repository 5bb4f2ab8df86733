/* The checker's own recomputation of elementwise and two_stage: against the engine and against errors that were found,
 * on random pairs; a changed weight makes an honest claim fall. */
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

typedef struct tally {
  int compared, equal, unknown, changed, noticed;
} tally;

typedef qb_status (*recompute_function)(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error);

/* Elementwise is computed in float32 by the engine and in double here. */
static const struct {
  const char *name;
  qb_bound_method method;
  recompute_function recompute;
  double tolerance;
} methods[2] = {{"elementwise", QB_BOUND_ELEMENTWISE, recompute_by_ranges, 1e-4},
                {"two_stage", QB_BOUND_TWO_STAGE, recompute_by_paths, 1e-5}};

static claim make_claim(const random_network *network, int m) {
  claim c = {.elements = network->domain.count, .output = -1};
  qb_arena_init(&c.arena);
  c.domain = qb_arena_alloc(&c.arena, (size_t)c.elements, sizeof *c.domain);
  assert_non_null(c.domain);
  for (int64_t i = 0; i < c.elements; i++)
    c.domain[i] = (range){(double)network->domain.lo[i], (double)network->domain.hi[i]};
  snprintf(c.method, sizeof c.method, "%s", methods[m].name);
  return c;
}

/* The bound as a certificate claims it; infinity without one. */
static double engine_bound(const random_network *network, int m) {
  qb_worst_case worst;
  qb_error error;
  double bound = INFINITY;
  if (qb_worst_case_bound(&network->pair, &network->domain, UINT32_C(1) << methods[m].method, -1, &worst, &error) ==
          QB_OK &&
      worst.proved)
    bound = qb_worst_case_claimed(&worst, qb_magnitude_to_double(worst.bound));
  qb_worst_case_free(&worst);
  return bound;
}

static recomputed recompute(const claim *c, const random_network *network, int m) {
  qb_error error;
  recomputed own = {0};
  if (methods[m].recompute(c, &network->pair, &own, &error) != QB_OK)
    fail_msg("%s", error.message);
  return own;
}

/* Twice the largest weight of the quantized network: where the claim counts with it, it no longer follows. */
static void change_a_weight(const claim *c, random_network *network, int m, double engine, tally *t) {
  float *largest = NULL;
  for (qb_node_id n = 0; n < network->quantized.node_count; n++) {
    qb_linear linear;
    if (!qb_graph_linear(&network->quantized, n, &linear))
      continue;
    qb_value *value = &network->quantized.values[linear.weight];
    float *data = (float *)(uintptr_t)qb_view_f32(&value->constant);
    for (size_t i = 0; i < qb_shape_elements(&value->shape); i++)
      largest = largest == NULL || fabsf(data[i]) > fabsf(*largest) ? &data[i] : largest;
  }
  if (largest == NULL || *largest == 0)
    return;
  float old = *largest;
  *largest *= 2;
  recomputed own = recompute(c, network, m);
  t->changed++;
  t->noticed += own.refuted || own.bound > engine;
  *largest = old;
}

static void compare(random_network *network, uint64_t seed, int m, double found, tally *t) {
  char text[4000];
  claim c = make_claim(network, m);
  double engine = engine_bound(network, m);
  recomputed own = recompute(&c, network, m);
  bool claimed = isfinite(engine) && engine > 1e-9;
  t->unknown += claimed && !own.known;
  if (claimed && own.known) {
    t->compared++;
    t->equal += own.bound >= engine * (1 - methods[m].tolerance);
    if (own.refuted || own.bound > engine || own.bound < found)
      fail_msg("network %llu, %s: engine %.17g, checker %.17g, found %.17g %s\n%s", (unsigned long long)seed,
               methods[m].name, engine, own.bound, found, own.why, random_network_describe(network, text, sizeof text));
    change_a_weight(&c, network, m, engine, t);
  }
  claim_free(&c);
}

static bool same_parameters(const qb_pair *pair) {
  for (qb_node_id n = 0; n < pair->quantized->node_count; n++)
    if (pair->partner[n] != QB_NONE && !qb_pair_same_parameters(pair, n))
      return false;
  return true;
}

/* Chains of equal signs, which two_stage is about, and everything else. */
static void test_follows_the_engine(void **state) {
  (void)state;
  tally t[2] = {{0}, {0}};
  for (uint64_t i = 0; i < 600; i++) {
    qb_rng rng;
    random_network network;
    error_search search;
    qb_rng_seed(&rng, 812, i);
    random_style style = random_network_style(&rng);
    style.chain = style.chain || i % 2 == 0;
    style.shrinking = style.shrinking || i % 4 == 0;
    style.quantized_activations = style.quantized_activations && !style.chain;
    random_network_create(&rng, &style, &network);
    error_search_create(&network.pair, &network.domain, &search);
    double found = error_search_run(&search, &rng, 2);
    for (int m = 0; m < 2; m++)
      if (same_parameters(&network.pair))
        compare(&network, i, m, found, &t[m]);
    error_search_free(&search);
    random_network_free(&network);
  }
  for (int m = 0; m < 2; m++) {
    print_message("%s: %d compared, %d equal, %d unknown to the checker alone; %d weights changed, %d noticed\n",
                  methods[m].name, t[m].compared, t[m].equal, t[m].unknown, t[m].changed, t[m].noticed);
    assert_true(t[m].compared > 100);
    assert_true(t[m].equal > t[m].compared / 2);
    assert_int_equal(t[m].unknown, 0);
    assert_true(t[m].noticed > t[m].changed / 2);
  }
}

static qb_rng seeded(uint64_t stream) {
  qb_rng rng;
  qb_rng_seed(&rng, 5, stream);
  return rng;
}

/* A weight of another sign is no matter of size: the path bound is false then. */
static void test_changed_sign(void **state) {
  (void)state;
  qb_rng rng = seeded(1);
  random_network network;
  const random_style style = {.nodes = 3, .vector = true, .chain = true, .shrinking = true, .bits = 4, .norm = 1};
  random_network_create(&rng, &style, &network);
  claim c = make_claim(&network, 1);
  recomputed own = recompute(&c, &network, 1);
  assert_true(own.known && !own.refuted && own.bound > 0);
  for (qb_node_id n = 0; n < network.quantized.node_count; n++) {
    qb_linear linear;
    if (!qb_graph_linear(&network.quantized, n, &linear))
      continue;
    const qb_value *value = &network.quantized.values[linear.weight];
    float *data = (float *)(uintptr_t)qb_view_f32(&value->constant);
    for (size_t i = 0; i < qb_shape_elements(&value->shape); i++)
      data[i] = -data[i];
  }
  assert_true(recompute(&c, &network, 1).refuted);
  c.output_count = 1; /* the method has no ranges of single outputs */
  assert_false(recompute(&c, &network, 1).known);
  claim_free(&c);
  random_network_free(&network);
}

/* A claimed range that does not contain what follows is refuted. */
static void test_output_ranges(void **state) {
  (void)state;
  qb_rng rng = seeded(2);
  random_network network;
  const random_style style = {.nodes = 3, .vector = true, .bits = 4, .norm = 1, .biases = true};
  random_network_create(&rng, &style, &network);
  claim c = make_claim(&network, 0);
  recomputed own = recompute(&c, &network, 0);
  assert_true(own.known && !own.refuted && own.bound > 0);
  range ranges[64];
  c.output_count = (int64_t)qb_shape_elements(&network.quantized.values[network.quantized.outputs[0]].shape);
  assert_true(c.output_count <= 64);
  c.outputs = ranges;
  for (int64_t k = 0; k < c.output_count; k++)
    ranges[k] = (range){-own.bound, own.bound};
  assert_false(recompute(&c, &network, 0).refuted);
  for (int64_t k = 0; k < c.output_count; k++)
    ranges[k] = (range){-own.bound / 2, own.bound / 2};
  assert_true(recompute(&c, &network, 0).refuted);
  claim_free(&c);
  random_network_free(&network);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_follows_the_engine),
      cmocka_unit_test(test_changed_sign),
      cmocka_unit_test(test_output_ranges),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
