/* Parts of random boxes that lie on one side of some elements' values: no input whose values lie there, at every cut,
 * may leave an interval of any tensor of either network or of their difference, and no part that holds an input may be
 * called empty; planted mistakes must be noticed by the same check, or by that of whole trees. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <omp.h>

#include "bound/fault.h"
#include "bound/refine.h"
#include "graph/pass_drop_clip.h"
#include "support/cases.h"
#include "support/error_search.h"
#include "support/interval_check.h"
#include "support/random_network.h"

enum { CASES = 400, FAULT_CASES = 3000, ROUNDS = 6, DEPTH = 3, PARTS = 40 };

typedef struct part_check {
  interval_check intervals; /* of the part */
  const qb_ball *ball;
  const qb_ball_cut *cuts; /* (cut_count) */
  int64_t cut_count;
  long inside; /* evaluations that surely lie in the part */
} part_check;

/* ------------------------------------------------------------------------------------------------------ comparing */

static bool lies_inside(const part_check *check, const error_search *search, int32_t sample) {
  for (int64_t k = 0; k < check->cut_count; k++) {
    const qb_ball_cut *cut = &check->cuts[k];
    bool second = cut->track == QB_TRACK_QUANTIZED;
    qb_value_id v = second ? cut->value : check->intervals.pair->value[cut->value];
    qb_run *run = second ? search->quantized : search->original;
    int64_t at = sample * check->intervals.box->states[cut->value].count + cut->element;
    if (check->intervals.box->states[cut->value].count == 0) /* the part was found empty before it came there */
      at = sample * (int64_t)qb_shape_elements(&check->intervals.pair->quantized->values[cut->value].shape) +
           cut->element;
    const double *y = qb_run_value_double(run, v), *r = qb_run_radius(run, v);
    if (y == NULL || !(cut->above ? y[at] - r[at] >= cut->at : y[at] + r[at] <= cut->at))
      return false;
  }
  return true;
}

static void visit(void *context, const error_search *search, int32_t count) {
  part_check *check = context;
  for (int32_t sample = 0; sample < count && !check->intervals.broken; sample++) {
    if (!lies_inside(check, search, sample))
      continue;
    check->inside++;
    if (check->ball->empty) {
      check->intervals.broken = true;
      snprintf(check->intervals.what, sizeof check->intervals.what, "an input lies in a part that was called empty");
    }
    if (!check->intervals.broken)
      interval_check_sample(&check->intervals, search, sample);
  }
}

/* --------------------------------------------------------------------------------------------------------- a case */

static const double parts[] = {0.03, 0.2, 1}; /* of a domain's width */

/* Any element of a tensor that both networks have, at any of its values. False where a random one is decided. */
static bool draw_cut(const random_network *network, const qb_box_result *box, qb_rng *rng, qb_ball_cut *cut) {
  const qb_graph *graph = network->pair.quantized;
  const qb_node *node = &graph->nodes[qb_rng_below(rng, (uint64_t)graph->node_count)];
  qb_value_id v = node->output, o = network->pair.value[v];
  const qb_box_state *state = &box->states[v];
  if (state->count == 0 || o == QB_NONE || node->op == QB_OP_QUANTIZE_LINEAR)
    return false;
  *cut = (qb_ball_cut){.value = v, .element = (int64_t)qb_rng_below(rng, (uint64_t)state->count)};
  cut->track = qb_rng_below(rng, 2) == 0 ? QB_TRACK_ORIGINAL : QB_TRACK_QUANTIZED;
  const qb_box_track *t = &state->track[cut->track];
  double lo = t->lo[cut->element], hi = t->hi[cut->element];
  cut->at = qb_rng_below(rng, 2) == 0 && lo < 0 && hi > 0 ? 0 : lo + qb_rng_range(rng, 0.2, 0.8) * (hi - lo);
  return isfinite(lo) && isfinite(hi) && lo < hi;
}

static void require(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

/* Up to DEPTH cuts, the engine's own choice or any, each on a random side. */
static void choose_cuts(const random_network *network, const qb_box_result *whole, const qb_ball *ball, qb_rng *rng,
                        part_check *check, qb_ball_cut cuts[DEPTH]) {
  check->cuts = cuts;
  for (int tries = 0; tries < 4 * DEPTH && check->cut_count < DEPTH; tries++) {
    qb_ball_cut *cut = &cuts[check->cut_count];
    if (check->cut_count == 0 && ball->has_cut[0] && qb_rng_below(rng, 2) == 0)
      *cut = ball->cut[0];
    else if (!draw_cut(network, whole, rng, cut))
      continue;
    cut->above = qb_rng_below(rng, 2) == 0;
    check->cut_count++;
    if (qb_rng_below(rng, 2) == 0)
      break;
  }
}

static void search_part(random_network *network, qb_rng *rng, part_check *check) {
  error_search search;
  error_search_create(&network->pair, &network->domain, &search);
  search.visitor = visit;
  search.context = check;
  error_search_run(&search, rng, ROUNDS);
  error_search_free(&search);
}

/* One part of the box of one network; false where there is none to be bounded. */
static bool bound_and_search(random_network *network, qb_rng *rng, part_check *check) {
  qb_error error;
  qb_backward *backward;
  qb_ball whole_ball, ball;
  qb_box_result whole, box;
  qb_ball_cut cuts[DEPTH];
  qb_ball_settings settings = qb_ball_settings_default();
  *check = (part_check){.intervals.pair = &network->pair};
  settings.turns = (int32_t)qb_rng_below(rng, 3);
  settings.find_cuts = true;
  random_network_shrink(network, parts, 3, rng);
  require(qb_backward_create(&network->pair, &backward, &error), &error);
  require(qb_bound_ball_kept(backward, &network->domain, &settings, &whole_ball, &whole, &error), &error);
  if (whole_ball.applies) {
    choose_cuts(network, &whole, &whole_ball, rng, check, cuts);
    settings.cuts = cuts;
    settings.cut_count = check->cut_count;
    settings.known = qb_rng_below(rng, 4) == 0 ? NULL : &whole;
    settings.hidden_work = qb_rng_below(rng, 2) == 0 ? 0 : settings.hidden_work;
  }
  bool cut = check->cut_count > 0;
  if (cut) {
    require(qb_bound_ball_kept(backward, &network->domain, &settings, &ball, &box, &error), &error);
    check->intervals.box = &box;
    check->ball = &ball;
    search_part(network, rng, check);
    qb_ball_free(&ball);
    qb_box_result_free(&box);
  }
  qb_ball_free(&whole_ball);
  qb_box_result_free(&whole);
  qb_backward_free(backward);
  return cut;
}

static bool run_case(uint64_t seed, part_check *check, random_network *network) {
  qb_rng rng;
  qb_rng_seed(&rng, seed, 9);
  random_style style = random_network_style(&rng);
  style.quantized_activations = style.quantized_activations && seed % 2 == 0;
  random_network_create(&rng, &style, network);
  return bound_and_search(network, &rng, check);
}

/* ---------------------------------------------------------------------------------------------------- whole trees */

/* The largest error that was found, and what a tree of cuts across neurons proves. */
static bool tree_is_sound(uint64_t seed, double *bound, double *found, bool *cut) {
  random_network network;
  qb_refinement refined;
  qb_refine_settings settings = qb_refine_settings_default();
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, seed, 10);
  random_style style = random_network_style(&rng);
  random_network_create(&rng, &style, &network);
  random_network_shrink(&network, parts, 3, &rng);
  settings.neurons = true;
  settings.most_parts = PARTS;
  settings.threads = 1;
  require(qb_bound_refined(&network.pair, &network.domain, &settings, &refined, &error), &error);
  error_search search;
  error_search_create(&network.pair, &network.domain, &search);
  *found = error_search_run(&search, &rng, ROUNDS);
  error_search_free(&search);
  *bound = refined.applies ? 0 : INFINITY;
  for (int64_t k = 0; refined.applies && k < refined.count; k++)
    *bound = fmax(*bound, qb_interval_magnitude(refined.difference[k]));
  *cut = refined.neuron_count > 0;
  qb_refinement_free(&refined);
  random_network_free(&network);
  return *found <= *bound;
}

/* ------------------------------------------------------------------------------------------------------- the tests */

static void no_interval_of_a_part_is_ever_left(void **state) {
  (void)state;
  long cases = test_cases(CASES), cut = 0, visited = 0, empty = 0;
  for (uint64_t seed = 0; seed < (uint64_t)cases; seed++) {
    random_network network;
    part_check check;
    char text[1024];
    bool any = run_case(seed, &check, &network);
    if (check.intervals.broken)
      fail_msg("case %llu: %s\n%s", (unsigned long long)seed, check.intervals.what,
               random_network_describe(&network, text, sizeof text));
    cut += any;
    visited += check.inside > 0;
    empty += any && check.inside == 0;
    random_network_free(&network);
  }
  print_message("%ld cases: %ld cut, %ld with an input in the part, %ld without\n", cases, cut, visited, empty);
  assert_true(cut >= cases / 2);
  assert_true(visited >= cases / 3);
}

static void no_error_exceeds_what_a_tree_proves(void **state) {
  (void)state;
  long cases = 2 * test_cases(CASES), trees = 0;
  for (uint64_t seed = 0; seed < (uint64_t)cases; seed++) {
    double bound, found;
    bool cut;
    if (!tree_is_sound(seed, &bound, &found, &cut))
      fail_msg("case %llu: %.17g is claimed, %.17g was found", (unsigned long long)seed, bound, found);
    trees += cut;
  }
  print_message("%ld cases: %ld cut up\n", cases, trees);
  assert_true(trees >= cases / 20);
}

static bool is_noticed(qb_cut_fault fault, uint64_t seed) {
  random_network network;
  part_check check = {0};
  double bound, found;
  bool cut;
  qb_cut_fault_planted = fault;
  bool noticed = !tree_is_sound(seed, &bound, &found, &cut);
  run_case(seed, &check, &network);
  qb_cut_fault_planted = QB_CUT_FAULT_NONE;
  random_network_free(&network);
  return noticed || check.intervals.broken;
}

static void every_planted_mistake_is_noticed(void **state) {
  (void)state;
  for (int fault = QB_CUT_FAULT_NONE + 1; fault < QB_CUT_FAULT_COUNT; fault++) {
    bool noticed = false;
    uint64_t seed = 0;
    for (; seed < FAULT_CASES && !noticed; seed++)
      noticed = is_noticed((qb_cut_fault)fault, seed);
    if (!noticed)
      fail_msg("planted mistake %d was not noticed in %d cases", fault, FAULT_CASES);
    print_message("mistake %d noticed after %llu cases\n", fault, (unsigned long long)seed);
  }
}

int main(void) {
  omp_set_num_threads(1); /* the networks are tiny */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_interval_of_a_part_is_ever_left),
      cmocka_unit_test(no_error_exceeds_what_a_tree_proves),
      cmocka_unit_test(every_planted_mistake_is_noticed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
