/* Random pairs on random boxes, from single points to the whole domain: no interval that the backward relaxation
 * tightened may be left by an evaluation, at any tensor of either network or of their difference, nor by the outputs;
 * planted mistakes must be noticed by the same check. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <omp.h>

#include "bound/ball.h"
#include "bound/fault.h"
#include "graph/pass_drop_clip.h"
#include "support/cases.h"
#include "support/error_search.h"
#include "support/interval_check.h"
#include "support/random_network.h"

enum { CASES = 400, FAULT_CASES = 3000, ROUNDS = 8 };

static void visit(void *context, const error_search *search, int32_t count) {
  for (int32_t sample = 0; sample < count; sample++)
    interval_check_sample(context, search, sample);
}

/* A box around a random point: of the whole domain's width, of a part of it, or a point. */
static void shrink_domain(qb_domain *domain, qb_rng *rng) {
  static const double parts[] = {0, 1e-3, 0.03, 0.2, 1};
  double part = parts[qb_rng_below(rng, 5)];
  for (int64_t i = 0; i < domain->count; i++) {
    double lo = (double)domain->lo[i], hi = (double)domain->hi[i], at = lo + qb_rng_double(rng) * (hi - lo);
    float left = (float)fmax(lo, at - 0.5 * part * (hi - lo)), right = (float)fmin(hi, at + 0.5 * part * (hi - lo));
    domain->lo[i] = part == 1 ? domain->lo[i] : fminf(left, right);
    domain->hi[i] = part == 1 ? domain->hi[i] : part == 0 ? domain->lo[i] : fmaxf(left, right);
  }
}

/* Leaves activations to the clamps of quantizers in half of the cases; false when a graph came out that is refused. */
static bool merge_activations(random_network *network, qb_rng *rng) {
  qb_error error;
  if (network->style.differing_constants || qb_rng_below(rng, 2) == 0 || qb_drop_clips(&network->quantized) == 0)
    return true;
  qb_pair_free(&network->pair);
  return qb_pair_match_absorbed(&network->original, &network->quantized, &network->pair, &error) == QB_OK;
}

typedef struct outcome {
  double found, bound;
  bool applies, absorbed;
} outcome;

static void check_outputs(interval_check *check, const qb_ball *ball, const random_network *network) {
  qb_value_id v = network->pair.quantized->outputs[0];
  const qb_box_state *state = &check->box->states[v];
  for (int64_t i = 0; i < ball->count; i++) { /* what the search has checked is what the caller gets */
    assert_true(ball->difference[i].lo == state->track[2].lo[i] && ball->difference[i].hi == state->track[2].hi[i]);
    assert_true(ball->original[i].lo == state->track[0].lo[i] && ball->quantized[i].hi == state->track[1].hi[i]);
  }
}

static outcome bound_and_search(random_network *network, qb_rng *rng, interval_check *check) {
  qb_error error;
  qb_backward *backward;
  qb_ball ball;
  qb_box_result box, around = {0};
  qb_ball_settings settings = qb_ball_settings_default();
  outcome result = {0};
  settings.joint = qb_rng_below(rng, 2) == 0;
  settings.turns = (int32_t)qb_rng_below(rng, 4);
  if (!merge_activations(network, rng)) {
    *check = (interval_check){0};
    return result;
  }
  bool inside = qb_rng_below(rng, 3) == 0; /* as a half of a box around it: with what is known there */
  if (qb_backward_create(&network->pair, &backward, &error) != QB_OK)
    fail_msg("%s", error.message);
  if (inside) {
    shrink_domain(&network->domain, rng);
    if (qb_bound_ball_kept(backward, &network->domain, &settings, &ball, &around, &error) != QB_OK)
      fail_msg("%s", error.message);
    settings.known = ball.applies ? &around : NULL;
    settings.hidden_work = qb_rng_below(rng, 2) == 0 ? 0 : settings.hidden_work;
    qb_ball_free(&ball);
  }
  shrink_domain(&network->domain, rng);
  result.absorbed = network->pair.absorbed > 0;
  if (qb_bound_ball_kept(backward, &network->domain, &settings, &ball, &box, &error) != QB_OK)
    fail_msg("%s", error.message);
  *check = (interval_check){.pair = &network->pair, .box = &box};
  result.applies = ball.applies;
  if (ball.applies) {
    error_search search;
    error_search_create(&network->pair, &network->domain, &search);
    search.visitor = visit;
    search.context = check;
    result.found = error_search_run(&search, rng, ROUNDS);
    check_outputs(check, &ball, network);
    for (int64_t i = 0; i < ball.count; i++)
      result.bound = fmax(result.bound, qb_interval_magnitude(ball.difference[i]));
    error_search_free(&search);
  }
  qb_ball_free(&ball);
  qb_box_result_free(&box);
  qb_box_result_free(&around);
  qb_backward_free(backward);
  return result;
}

static outcome run_case(uint64_t seed, interval_check *check, random_network *network) {
  qb_rng rng;
  qb_rng_seed(&rng, seed, 7);
  random_style style = random_network_style(&rng);
  if (seed % 4 == 0) { /* a good number of merged activations */
    style.quantized_activations = true;
    style.chain = style.differing_constants = false;
  }
  random_network_create(&rng, &style, network);
  return bound_and_search(network, &rng, check);
}

static void no_interval_is_ever_left(void **state) {
  (void)state;
  long cases = test_cases(CASES), tight = 0, applied = 0, absorbed = 0;
  for (uint64_t seed = 0; seed < (uint64_t)cases; seed++) {
    random_network network;
    interval_check check;
    char text[1024];
    outcome result = run_case(seed, &check, &network);
    if (check.broken)
      fail_msg("case %llu: %s\n%s", (unsigned long long)seed, check.what,
               random_network_describe(&network, text, sizeof text));
    applied += result.applies;
    absorbed += result.absorbed;
    tight += result.applies && result.bound <= 1.5 * result.found + 1e-12;
    random_network_free(&network);
  }
  print_message("%ld cases: %ld bounded, %ld tight within 1.5, %ld with merged activations\n", cases, applied, tight,
                absorbed);
  assert_true(applied >= cases * 8 / 10);
  assert_true(tight >= cases / 3);
  assert_true(absorbed >= cases / 200);
}

static void every_planted_mistake_is_noticed(void **state) {
  (void)state;
  for (int fault = QB_BACKWARD_FAULT_NONE + 1; fault < QB_BACKWARD_FAULT_COUNT; fault++) {
    bool noticed = fault == QB_BACKWARD_FAULT_EVALUATION; /* property_float32 plants it */
    uint64_t seed = 0;
    for (; seed < FAULT_CASES && !noticed; seed++) {
      random_network network;
      interval_check check;
      qb_backward_fault_planted = (qb_backward_fault)fault;
      run_case(seed, &check, &network);
      qb_backward_fault_planted = QB_BACKWARD_FAULT_NONE;
      noticed = check.broken;
      random_network_free(&network);
    }
    if (!noticed)
      fail_msg("planted mistake %d was not noticed in %d cases", fault, FAULT_CASES);
    print_message("mistake %d noticed after %llu cases\n", fault, (unsigned long long)seed);
  }
}

int main(void) {
  omp_set_num_threads(1); /* the networks are tiny */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_interval_is_ever_left),
      cmocka_unit_test(every_planted_mistake_is_noticed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
