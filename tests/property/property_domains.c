/* The l2 domain and the interval domain, tensor by tensor: random pairs of networks and a search over inputs. No norm
 * and no interval may be escaped, and every planted mistake must be noticed by the same check. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <omp.h>

#include "bound/box.h"
#include "bound/fault.h"
#include "bound/domain_product.h"
#include "bound/spectral.h"
#include "support/cases.h"
#include "support/error_search.h"
#include "support/random_network.h"

enum { CASES = 2000, FAULT_CASES = 6000, ROUNDS = 6 }; /* QBOUND_CASES overrides CASES */

typedef struct soundness {
  const qb_pair *pair;
  qb_spectral_result spectral;
  qb_box_result box;
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

/* The codes between QuantizeLinear and DequantizeLinear are kept in real units by the bounds, not by the engine. */
static bool holds_codes(const qb_graph *graph, qb_value_id v) {
  qb_node_id producer = graph->values[v].producer;
  return producer != QB_NONE && graph->nodes[producer].op == QB_OP_QUANTIZE_LINEAR;
}

/* One element of one sample: values with radii against the three intervals. */
static void check_intervals(soundness *check, qb_value_id v, int64_t i, const double value[2], const double radius[2]) {
  const qb_box_state *state = &check->box.states[v];
  double slack = radius[0] + radius[1] + 1e-15 * (fabs(value[0]) + fabs(value[1]));
  double point[QB_TRACK_COUNT] = {value[0], value[1], value[1] - value[0]};
  static const char *const names[QB_TRACK_COUNT] = {"original", "quantized", "difference"};
  for (int track = 0; track < QB_TRACK_COUNT; track++) {
    if (point[track] - slack > state->track[track].hi[i])
      report(check, v, names[track], point[track], state->track[track].hi[i]);
    if (point[track] + slack < state->track[track].lo[i])
      report(check, v, names[track], point[track], state->track[track].lo[i]);
  }
}

static void check_value(soundness *check, const error_search *search, qb_value_id v, int32_t count) {
  qb_value_id o = check->pair->value[v];
  if (o == QB_NONE || holds_codes(check->pair->quantized, v))
    return;
  const double *y[2] = {qb_run_value_double(search->original, o), qb_run_value_double(search->quantized, v)};
  const double *r[2] = {qb_run_radius(search->original, o), qb_run_radius(search->quantized, v)};
  if (y[0] == NULL || y[1] == NULL)
    return;
  const qb_shape *shape = &check->pair->quantized->values[v].shape;
  const double *weights = check->spectral.weights == NULL ? NULL : check->spectral.weights[v];
  int64_t total = (int64_t)qb_shape_elements(shape);
  for (int32_t sample = 0; sample < count; sample++) {
    double square = 0;
    for (int64_t i = 0; i < total; i++) {
      int64_t k = sample * total + i;
      double value[2] = {y[0][k], y[1][k]}, radius[2] = {r[0][k], r[1][k]};
      double error = fmax(fabs(value[0] - value[1]) - radius[0] - radius[1], 0);
      error /= weights == NULL ? 1 : weights[qb_shape_channel(shape, i)];
      square += error * error;
      if (check->box.applies && check->box.states[v].count == total)
        check_intervals(check, v, i, value, radius);
    }
    double norm = sqrt(square) * (1 - 1e-12);
    if (check->spectral.bound.applies && norm > check->spectral.states[v].error)
      report(check, v, "l2 error", norm, check->spectral.states[v].error);
  }
}

static void visit(void *context, const error_search *search, int32_t count) {
  soundness *check = context;
  for (qb_value_id v = 0; v < check->pair->quantized->value_count; v++)
    if (!check->pair->quantized->values[v].is_constant)
      check_value(check, search, v, count);
}

static double bound_and_search(const random_network *network, qb_rng *rng, soundness *check) {
  qb_error error;
  error_search search;
  qb_spectral_settings settings;
  qb_spectral_settings_default(&settings);
  settings.scaling_iterations = 4;
  if (qb_rng_below(rng, 2) == 0) /* any weights are sound */
    settings.drawn_weights = qb_rng_u64(rng) | 1;
  qb_product product;
  *check = (soundness){.pair = &network->pair};
  if (qb_bound_spectral(&network->pair, &network->domain, &settings, &check->spectral, &error) != QB_OK ||
      qb_bound_box(&network->pair, &network->domain, &check->box, &error) != QB_OK ||
      qb_bound_product(&network->pair, &network->domain, &check->spectral, &product, &error) != QB_OK)
    fail_msg("%s", error.message);
  error_search_create(&network->pair, &network->domain, &search);
  search.visitor = visit;
  search.context = check;
  double found = error_search_run(&search, rng, ROUNDS);
  if (check->spectral.bound.applies && found > qb_magnitude_to_double(check->spectral.bound.value))
    report(check, network->quantized.outputs[0], "output error", found,
           qb_magnitude_to_double(check->spectral.bound.value));
  if (product.bound.applies && found > qb_magnitude_to_double(product.bound.value))
    report(check, network->quantized.outputs[0], "output error (product)", found,
           qb_magnitude_to_double(product.bound.value));
  qb_product_free(&product);
  error_search_free(&search);
  qb_spectral_result_free(&check->spectral);
  qb_box_result_free(&check->box);
  return found;
}

static bool run_case(uint64_t seed, uint64_t stream, soundness *check, bool loud) {
  qb_rng rng;
  random_network network;
  char text[1024];
  qb_rng_seed(&rng, seed, stream);
  random_style style = random_network_style(&rng);
  random_network_create(&rng, &style, &network);
  bound_and_search(&network, &rng, check);
  if (loud && check->broken)
    fail_msg("case %llu: %s\n%s", (unsigned long long)seed, check->what,
             random_network_describe(&network, text, sizeof text));
  random_network_free(&network);
  return check->broken;
}

static void no_tensor_escapes(void **state) {
  (void)state;
  soundness check;
  long cases = test_cases(CASES);
  for (uint64_t seed = 0; seed < (uint64_t)cases; seed++)
    run_case(seed, 2, &check, true);
}

static void every_planted_fault_is_noticed(void **state) {
  (void)state;
  for (int fault = QB_FAULT_FIRST_L2; fault < QB_FAULT_COUNT; fault++) {
    soundness check;
    uint64_t seed = 0;
    bool noticed = false;
    if (fault >= QB_FAULT_SKIP_UNWEIGHTED && fault <= QB_FAULT_NO_SINGLE_CHOLESKY)
      continue; /* rarely decide anything here: test_spectral and test_sigma have networks where they do */
    qb_bound_fault = (qb_fault)fault;
    for (; seed < FAULT_CASES && !noticed; seed++)
      noticed = run_case(seed, 3, &check, false);
    qb_bound_fault = QB_FAULT_NONE;
    if (!noticed)
      fail_msg("planted fault %d was not noticed in %d cases", fault, FAULT_CASES);
    print_message("fault %d noticed after %llu cases\n", fault, (unsigned long long)seed);
  }
}

int main(void) {
  omp_set_num_threads(1); /* the networks are tiny */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_tensor_escapes),
      cmocka_unit_test(every_planted_fault_is_noticed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
