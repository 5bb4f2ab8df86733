/* Random pairs of networks and a search over inputs: no bound printed as sound may be exceeded, at any tensor; a good
 * part of the cases must be tight; and every planted mistake must be noticed by the same check. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <omp.h>

#include "bound/bound.h"
#include "bound/elementwise.h"
#include "bound/fault.h"
#include "bound/layerwise.h"
#include "support/cases.h"
#include "support/error_search.h"
#include "support/random_network.h"

enum { CASES = 1000, FAULT_CASES = 4000, ROUNDS = 12 }; /* QBOUND_CASES overrides CASES */

typedef struct soundness {
  const qb_pair *pair;
  const qb_layerwise *layerwise;
  const qb_elementwise *elementwise;
  bool broken;
  char what[256];
} soundness;

static void report(soundness *check, qb_value_id v, const char *what, double value, double limit) {
  if (check->broken)
    return;
  check->broken = true;
  const qb_graph *graph = check->pair->quantized;
  qb_node_id producer = graph->values[v].producer;
  snprintf(check->what, sizeof check->what, "%s (%s): %s %.17g exceeds %.17g", graph->values[v].name,
           producer == QB_NONE ? "input" : qb_op_name(graph->nodes[producer].op), what, value, limit);
}

/* One tensor of one evaluation against its state: both ranges and the difference, element by element. */
static void check_value(soundness *check, const error_search *search, qb_value_id v, int32_t count) {
  const qb_bound_state *state = &check->layerwise->states[v];
  qb_value_id o = check->pair->value[v];
  if (state->x == NULL || state->codes != NULL || o == QB_NONE)
    return;
  const double *y = qb_run_value_double(search->original, o), *y_q = qb_run_value_double(search->quantized, v);
  const double *r = qb_run_radius(search->original, o), *r_q = qb_run_radius(search->quantized, v);
  if (y == NULL || y_q == NULL)
    return;
  const qb_shape *shape = &check->pair->quantized->values[v].shape;
  int64_t total = (int64_t)qb_shape_elements(shape), inner = qb_state_inner(shape);
  for (int64_t k = 0; k < count * total; k++) {
    int64_t c = k % total / inner % state->channels;
    double slack = 1e-15 * (fabs(y[k]) + fabs(y_q[k])); /* of the comparison itself */
    double e = fabs(y[k] - y_q[k]) - r[k] - r_q[k] - slack;
    qb_interval x = qb_interval_scale(state->x[c], state->exponent),
                x_q = qb_interval_scale(state->x_q[c], state->exponent);
    if (e > ldexp(state->e[c], state->exponent))
      report(check, v, "error", e, ldexp(state->e[c], state->exponent));
    if (y[k] - r[k] - slack > x.hi || y[k] + r[k] + slack < x.lo)
      report(check, v, "original", y[k], y[k] > x.hi ? x.hi : x.lo);
    if (y_q[k] - r_q[k] - slack > x_q.hi || y_q[k] + r_q[k] + slack < x_q.lo)
      report(check, v, "quantized", y_q[k], y_q[k] > x_q.hi ? x_q.hi : x_q.lo);
  }
}

/* The same against the numbers of each element. */
static void check_elements(soundness *check, const error_search *search, qb_value_id v, int32_t count) {
  const qb_elementwise_state *state = &check->elementwise->states[v];
  qb_value_id o = check->pair->value[v];
  if (state->limit[0] == NULL || check->layerwise->states[v].codes != NULL || o == QB_NONE)
    return;
  const double *y = qb_run_value_double(search->original, o), *y_q = qb_run_value_double(search->quantized, v);
  const double *r = qb_run_radius(search->original, o), *r_q = qb_run_radius(search->quantized, v);
  if (y == NULL || y_q == NULL)
    return;
  for (int64_t k = 0; k < count * state->count; k++) {
    int64_t i = k % state->count;
    double slack = 1e-15 * (fabs(y[k]) + fabs(y_q[k])), limit[QB_ELEMENT_COUNT];
    for (int part = 0; part < QB_ELEMENT_COUNT; part++)
      limit[part] = ldexp((double)state->limit[part][i], state->exponent);
    double e = fabs(y[k] - y_q[k]) - r[k] - r_q[k] - slack;
    if (e > limit[QB_ELEMENT_ERROR])
      report(check, v, "elementwise error", e, limit[QB_ELEMENT_ERROR]);
    if (fabs(y[k]) - r[k] - slack > limit[QB_ELEMENT_ORIGINAL])
      report(check, v, "elementwise original", y[k], limit[QB_ELEMENT_ORIGINAL]);
    if (fabs(y_q[k]) - r_q[k] - slack > limit[QB_ELEMENT_QUANTIZED])
      report(check, v, "elementwise quantized", y_q[k], limit[QB_ELEMENT_QUANTIZED]);
  }
}

static void visit(void *context, const error_search *search, int32_t count) {
  soundness *check = context;
  for (qb_value_id v = 0; v < check->pair->quantized->value_count; v++)
    check_value(check, search, v, count), check_elements(check, search, v, count);
}

/* Bounds, then searches. Returns the found error, fills the layerwise bound; `broken` when a tensor escapes. */
static double bound_and_search(const random_network *network, qb_rng *rng, soundness *check, double *bound) {
  qb_error error;
  qb_layerwise layerwise;
  qb_elementwise elementwise;
  error_search search;
  if (qb_layerwise_bound(&network->pair, &network->domain, &layerwise, &error) != QB_OK ||
      qb_elementwise_bound_kept(&network->pair, &network->domain, &layerwise, &elementwise, &error) != QB_OK)
    fail_msg("%s", error.message);
  *bound = qb_magnitude_to_double(layerwise.bound);
  *check = (soundness){.pair = &network->pair, .layerwise = &layerwise, .elementwise = &elementwise};
  error_search_create(&network->pair, &network->domain, &search);
  search.visitor = visit;
  search.context = check;
  double found = error_search_run(&search, rng, ROUNDS);
  error_search_free(&search);
  qb_elementwise_free(&elementwise);
  qb_layerwise_free(&layerwise);
  return found;
}

static void fail_case(const random_network *network, uint64_t seed, const char *what) {
  char text[1024];
  fail_msg("case %llu: %s\n%s", (unsigned long long)seed, what, random_network_describe(network, text, sizeof text));
}

/* The published bounds where the chain is the network, and the table of all. */
static void check_all_bounds(const random_network *network, uint64_t seed, double found, int *published) {
  const qb_bound_conventions conventions = {0};
  qb_bounder *bounder;
  qb_bounds bounds;
  qb_error error;
  char what[256];
  if (qb_bounder_create(&network->original, &network->domain, &conventions, &bounder, &error) != QB_OK ||
      (qb_bounder_select(bounder, UINT32_MAX), qb_bounder_evaluate(bounder, &network->pair, &bounds, &error)) != QB_OK)
    fail_msg("%s", error.message);
  for (int m = 0; m < QB_BOUND_COUNT; m++) {
    const qb_bound *bound = &bounds.bound[m];
    bool claimed = bound->applies && (qb_bound_method_is_graph((qb_bound_method)m) || bounds.chain_is_network);
    double value = qb_magnitude_to_double(bound->value);
    *published += claimed && m == QB_BOUND_CNN;
    snprintf(what, sizeof what, "%s bound %.17g (%s) is below the found error %.17g",
             qb_bound_method_name((qb_bound_method)m), value, qb_form_name(bound->form), found);
    if (claimed && found > value)
      fail_case(network, seed, what);
  }
  qb_bounder_free(bounder);
}

static void no_bound_is_ever_exceeded(void **state) {
  (void)state;
  int tight = 0, nonzero = 0, published = 0;
  long cases = test_cases(CASES);
  for (uint64_t seed = 0; seed < (uint64_t)cases; seed++) {
    qb_rng rng;
    random_network network;
    soundness check;
    double bound;
    qb_rng_seed(&rng, seed, 0);
    random_style style = random_network_style(&rng);
    random_network_create(&rng, &style, &network);
    double found = bound_and_search(&network, &rng, &check, &bound);
    if (check.broken)
      fail_case(&network, seed, check.what);
    check_all_bounds(&network, seed, found, &published);
    nonzero += found > 0;
    tight += found > 0 && bound <= 1.5 * found;
    random_network_free(&network);
  }
  print_message("%ld cases: %d with a difference, %d tight within 1.5, %d chains\n", cases, nonzero, tight, published);
  assert_true(tight >= cases / 5);
  assert_true(nonzero >= cases / 2);
  assert_true(published >= cases / 10);
}

/* Whether the check notices the fault within FAULT_CASES cases. */
static bool is_noticed(qb_fault fault, uint64_t *seed) {
  bool noticed = false;
  for (*seed = 0; *seed < FAULT_CASES && !noticed; ++*seed) {
    qb_rng rng;
    random_network network;
    soundness check;
    double bound;
    qb_rng_seed(&rng, *seed, 1);
    random_style style = random_network_style(&rng);
    random_network_create(&rng, &style, &network);
    qb_bound_fault = fault;
    bound_and_search(&network, &rng, &check, &bound);
    qb_bound_fault = QB_FAULT_NONE;
    noticed = check.broken;
    random_network_free(&network);
  }
  return noticed;
}

static void every_planted_fault_is_noticed(void **state) {
  (void)state;
  for (int fault = QB_FAULT_NONE + 1; fault < QB_FAULT_FIRST_L2; fault++) {
    uint64_t cases;
    if (fault == QB_FAULT_NO_SUBNORMAL || fault >= QB_FAULT_NO_EVALUATION)
      continue; /* those that need extreme weights: test_elementwise; float32: property_float32; test_two_stage */
    if (!is_noticed((qb_fault)fault, &cases))
      fail_msg("planted fault %d was not noticed in %d cases", fault, FAULT_CASES);
    print_message("fault %d noticed after %llu cases\n", fault, (unsigned long long)cases);
  }
}

int main(void) {
  omp_set_num_threads(1); /* the networks are tiny */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_bound_is_ever_exceeded),
      cmocka_unit_test(every_planted_fault_is_noticed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
