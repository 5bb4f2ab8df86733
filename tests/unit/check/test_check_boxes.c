/* The checker's own recomputation of boxes on random pairs of networks: what the engine claims follows, smaller claims
 * do not, and no found error exceeds what the checker proves, whatever slopes, cuts and nodes a claim names. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "api/ball_call.h"
#include "base/alloc.h"
#include "bound/refine.h"
#include "check/check_backward.h"
#include "check/check_ball.h"
#include "graph/pass_drop_clip.h"
#include "graph/quantizer.h"
#include "support/cases.h"
#include "support/error_search.h"
#include "support/network_builder.h"
#include "support/random_network.h"

enum { CASES = 300, ROUNDS = 3, OUTPUTS = 4096 };

/* Leaves activations to the clamps of quantizers in half of the cases; false where the two networks match no more. */
static bool merge_activations(random_network *network, qb_rng *rng) {
  if (network->style.differing_constants || qb_rng_below(rng, 2) == 0 || qb_drop_clips(&network->quantized) == 0)
    return true;
  qb_pair_free(&network->pair);
  return qb_pair_match_any(&network->original, &network->quantized, &network->pair, NULL) == QB_OK;
}

typedef struct boxed_case {
  random_network network;
  qb_arena arena;
  qb_ball_proof proof;
  box_claim claim;
  range outputs[OUTPUTS];
  slope_claim *slopes;
  neuron_claim *neurons;
  double found;
} boxed_case;

static double largest(const qb_ball_proof *proof) {
  double size = 0;
  for (int64_t k = 0; k < proof->count; k++)
    size = fmax(size, fmax(fabs(proof->outputs[k].lo), fabs(proof->outputs[k].hi)));
  return size;
}

static void copy_neurons(boxed_case *c) {
  const qb_ball_proof *p = &c->proof;
  for (int64_t i = 0; i < p->node_count; i++)
    c->claim.neuron_count += p->axis[i] < -1;
  c->neurons = qb_arena_alloc(&c->arena, (size_t)c->claim.neuron_count, sizeof *c->neurons);
  assert_non_null(c->neurons);
  for (int64_t i = 0; i < c->claim.neuron_count; i++)
    c->neurons[i] = (neuron_claim){p->neurons[i].node, p->neurons[i].element,
                                   p->neurons[i].of_quantized ? FORM_Q : FORM_X, p->neurons[i].at};
  c->claim.neurons = c->neurons;
}

/* What a certificate would say. */
static void make_claim(boxed_case *c) {
  const qb_ball_proof *p = &c->proof;
  c->claim = (box_claim){.only = -1,
                         .bound = largest(p),
                         .output_count = p->count,
                         .outputs = c->outputs,
                         .keeps = p->keeps_top,
                         .cut_count = p->node_count,
                         .cuts = p->axis,
                         .relaxed_count = p->relaxed_count,
                         .relaxed = p->relaxed,
                         .slope_count = p->slope_count,
                         .turns = p->turns};
  snprintf(c->claim.method, sizeof c->claim.method, "%s", p->method);
  assert_true(p->count <= OUTPUTS);
  for (int64_t k = 0; k < p->count; k++)
    c->outputs[k] = (range){p->outputs[k].lo, p->outputs[k].hi};
  c->slopes = qb_arena_alloc(&c->arena, (size_t)p->slope_count, sizeof *c->slopes);
  assert_non_null(c->slopes);
  for (int64_t i = 0; i < p->slope_count; i++) {
    c->slopes[i] = (slope_claim){.node = p->slopes[i].node, .element = p->slopes[i].element};
    memcpy(c->slopes[i].slope, p->slopes[i].slope, sizeof c->slopes[i].slope);
  }
  c->claim.slopes = c->slopes;
  copy_neurons(c);
}

/* By intervals, by one relaxation, or cut up a few times, across inputs or neurons. */
static bool make_case(uint64_t seed, bool cut_neurons, boxed_case *c) {
  qb_rng rng;
  qb_error error;
  *c = (boxed_case){0};
  qb_rng_seed(&rng, 77, seed);
  random_style style = random_network_style(&rng);
  if (seed % 4 == 0) { /* a good number of merged activations */
    style.quantized_activations = true;
    style.chain = style.differing_constants = false;
  }
  random_network_create(&rng, &style, &c->network);
  qb_arena_init(&c->arena);
  if (!merge_activations(&c->network, &rng))
    return false;
  random_network_shrink(&c->network, (const double[]){1e-6, 1e-3, 0.03, 0.2, 1}, 5, &rng);
  if (seed % 5 == 1) { /* also for evaluations in float32 */
    c->network.pair.float32 = true;
    qb_graph_allow_steps(&c->network.quantized, 1);
  }
  qb_ball_call call = {.pair = &c->network.pair,
                       .budget = qb_ball_plan(&c->network.pair, 60, -1),
                       .output = -1,
                       .keep_slopes = seed % 3 == 0 ? 0 : 1000,
                       .threads = 1};
  uint64_t how = cut_neurons ? 4 : qb_rng_below(&rng, 5);
  if (how > 0)
    assert_int_equal(qb_backward_create(&c->network.pair, &call.backward, &error), QB_OK);
  call.cut_neurons = cut_neurons;
  if (call.cut_neurons || qb_domain_free_inputs(&c->network.domain) <= QB_REFINE_INPUTS)
    call.budget.seconds = 0.01; /* an undecided tie would be cut until the time is over */
  double enough = INFINITY;
  for (int pass = 0; pass < (how == 4 ? 2 : 1); pass++) {
    if (qb_ball_prove(&call, &c->network.domain, enough, &c->arena, &c->proof, &error) != QB_OK)
      fail_msg("%s", error.message);
    enough = 0.7 * (c->proof.method == NULL ? 0 : largest(&c->proof));
    call.budget.decides = false;
  }
  qb_backward_free(call.backward);
  if (c->proof.method == NULL || strcmp(c->proof.method, "point") == 0)
    return false;
  error_search search;
  error_search_create(&c->network.pair, &c->network.domain, &search);
  c->found = error_search_run(&search, &rng, ROUNDS);
  error_search_free(&search);
  make_claim(c);
  return true;
}

static void free_case(boxed_case *c) {
  qb_arena_free(&c->arena);
  random_network_free(&c->network);
}

static recomputed check(const boxed_case *c, const box_claim *what) {
  recomputed own;
  qb_error error;
  if (recompute_box(what, &c->network.pair, c->network.domain.lo, c->network.domain.hi, &own, &error) != QB_OK)
    fail_msg("%s", error.message);
  return own;
}

static void fail_at(uint64_t seed, const boxed_case *c, const recomputed *own) {
  char text[4000];
  fail_msg("case %llu, %s (%lld cuts): claimed %.17g, checker %.17g, found %.17g: %s\n%s", (unsigned long long)seed,
           c->claim.method, (long long)c->claim.cut_count, c->claim.bound, own->bound, c->found, own->why,
           random_network_describe(&c->network, text, sizeof text));
}

/* Slopes, cuts and nodes of another claim: whatever they are, what follows is true. */
static void misguide(boxed_case *c, qb_rng *rng, box_claim *other) {
  *other = c->claim;
  other->bound = DBL_MAX; /* not infinity, which needs no bound */
  other->output_count = 0;
  other->keeps = false;
  for (int64_t i = 0; i < other->slope_count; i++)
    c->slopes[i].slope[qb_rng_below(rng, 8)] += qb_rng_range(rng, -1, 1);
  if (qb_rng_below(rng, 2) == 0)
    other->relaxed_count = 0;
  for (int64_t i = 0; i < other->neuron_count; i++)
    if (qb_rng_below(rng, 4) == 0) {
      c->neurons[i].at += qb_rng_range(rng, -1, 1);
      c->neurons[i].kind = qb_rng_below(rng, 2) == 0 ? FORM_X : FORM_Q;
      c->neurons[i].element = (int64_t)qb_rng_below(rng, 1 + (uint64_t)c->neurons[i].element);
    }
  for (int64_t i = 0; i < other->cut_count; i++)
    if (other->cuts[i] >= 0 && qb_rng_below(rng, 4) == 0)
      other->cuts[i] = (int32_t)qb_rng_below(rng, (uint64_t)c->network.domain.count);
}

static void claims_follow_and_smaller_ones_do_not(void **state) {
  (void)state;
  long cases = test_cases(CASES), compared = 0, missed = 0, forged = 0, refuted = 0, cut = 0, kept = 0, sloped = 0,
       unknown = 0, same = 0;
  for (uint64_t seed = 0; seed < (uint64_t)cases; seed++) {
    boxed_case c;
    qb_rng rng;
    qb_rng_seed(&rng, 78, seed);
    if (make_case(seed, false, &c)) {
      recomputed own = check(&c, &c.claim);
      box_claim other = c.claim;
      unknown += !own.known;
      if (own.known && c.claim.bound > 1e-10) { /* below, it is the margin alone */
        compared++;
        cut += c.claim.cut_count > 0;
        kept += c.claim.keeps;
        sloped += c.claim.slope_count > 0;
        same += own.bound >= c.claim.bound * (1 - 1e-5);
        missed += own.refuted;
        if (!own.refuted && (own.bound > c.claim.bound || own.bound < c.found))
          fail_at(seed, &c, &own);
        other.output_count = 0;
        for (int again = 0; again < 2 && !own.refuted; again++) { /* turned planes may prove less, and no more */
          other.bound = own.bound * (1 - 1e-12);
          own = check(&c, &other);
        }
        bool smaller = c.claim.cut_count == 0 && other.bound > 0;
        forged += smaller;
        refuted += smaller && own.refuted; /* else it is proved with other undecided elements */
        if (smaller && !own.refuted && (own.bound > other.bound || own.bound < c.found))
          fail_at(seed, &c, &own);
        misguide(&c, &rng, &other);
        own = check(&c, &other);
        if (!own.refuted && own.bound < c.found) /* refuted: the cuts are no tree any more */
          fail_at(seed, &c, &own);
      }
    }
    free_case(&c);
  }
  print_message("%ld compared: %ld cut up, %ld decisions, %ld with slopes, %ld the same number; "
                "%ld missed, %ld "
                "unknown; %ld of %ld smaller bounds refuted\n",
                compared, cut, kept, sloped, same, missed, unknown, refuted, forged);
  assert_true(compared > cases / 2);
  assert_true(cut > cases / 100 && kept > cases / 50 && sloped > cases / 20);
  assert_true(same > compared / 2);
  assert_int_equal(unknown, 0);
  assert_true(missed <= compared / 20000);
  assert_true(forged > 0 && refuted >= forged * 95 / 100);
}

/* Cases in which engine and checker once made different planes: quantized values that are one number, +-1e-308 here and
 * 0 there (1030 while it was cut up, 7632, 9472, 27028, 32644), searches for the lowest plane that ended early (4185,
 * 5472), all values of a tensor 0 in one network and 1e-18 in the other program (9708, 15016). */
static void rounding_chooses_no_planes(void **state) {
  (void)state;
  static const uint64_t seeds[] = {1030, 4185, 5472, 7632, 9472, 9708, 15016, 27028, 32644};
  for (size_t k = 0; k < sizeof seeds / sizeof *seeds; k++) {
    boxed_case c;
    assert_true(make_case(seeds[k], false, &c));
    recomputed own = check(&c, &c.claim);
    if (!own.known || own.refuted)
      fail_at(seeds[k], &c, &own);
    free_case(&c);
  }
}

/* w max(x0, x1) - w x0, and the same of x2 and x3. */
static qb_graph pooled_excess(float w) {
  network_builder net;
  qb_attributes pool = {.pool.window = {.kernel = {1, 2}, .stride = {1, 2}, .dilation = {1, 1}}};
  const float first[2] = {w, 0};
  network_builder_init(&net, QB_SHAPE(1, 1, 1, 4));
  qb_value_id most = network_node(&net, QB_OP_MAX_POOL, &net.input, 1, &pool, &QB_SHAPE(1, 1, 1, 2));
  most = network_conv(&net, most, 1, network_window(1, 1, 0), 1, &w, NULL);
  qb_value_id x0 = network_conv(&net, net.input, 1, pool.pool.window, 1, first, NULL);
  return network_builder_finish(&net, network_binary(&net, QB_OP_SUB, most, x0));
}

/* x0 is in [1, 2] and x1 a little more than 1, by less than counts beside the 1000 of the other window: x0 wins, and
 * what x1 may exceed it by is paid for. */
static void winners_by_a_hair_pay_for_it(void **state) {
  (void)state;
  float lo[4] = {1, 1 + 0x1p-21F, 1000, 0}, hi[4] = {2, 1 + 0x1p-21F, 1000, 0};
  qb_graph original = pooled_excess(0), quantized = pooled_excess(1);
  qb_pair pair = network_pair(&original, &quantized);
  qb_domain domain = {4, lo, hi};
  qb_ball_settings settings = qb_ball_settings_default();
  qb_backward *backward;
  qb_ball ball;
  assert_int_equal(qb_backward_create(&pair, &backward, NULL), QB_OK);
  assert_int_equal(qb_bound_ball(backward, &domain, &settings, &ball, NULL), QB_OK);
  assert_true(ball.applies && ball.difference[0].hi >= 0x1p-21 && ball.difference[0].hi < 0x1p-19);
  assert_true(ball.difference[0].lo <= 0 && ball.difference[0].lo > -0x1p-19);
  box_claim unbounded = {.only = 0, .method = "relaxation", .bound = DBL_MAX};
  recomputed own;
  assert_int_equal(recompute_box(&unbounded, &pair, lo, hi, &own, NULL), QB_OK);
  assert_true(own.known && !own.refuted && own.bound >= 0x1p-21 && own.bound < 0x1p-19);
  qb_ball_free(&ball);
  qb_backward_free(backward);
  network_pair_free(&pair);
  qb_graph_free(&original);
  qb_graph_free(&quantized);
}

/* A tree that is none, or that names what the network does not have. */
static void refuse_hostile_trees(const boxed_case *c) {
  neuron_claim *n = &c->neurons[0];
  const neuron_claim honest = *n;
  box_claim other = c->claim;
  n->node = c->network.quantized.node_count;
  assert_true(check(c, &other).refuted);
  *n = honest;
  n->element = 1 << 27;
  assert_true(check(c, &other).refuted);
  *n = honest;
  other.cut_count--;
  assert_true(check(c, &other).refuted);
  other = c->claim;
  other.neuron_count = 0;
  assert_true(check(c, &other).refuted);
  other = c->claim;
  int32_t root = other.cuts[0];
  other.cuts[0] = 0; /* across an input, the others across neurons */
  assert_true(other.neuron_count == 1 || check(c, &other).refuted);
  other.cuts[0] = root;
}

/* Without one side, or with a side that is moved, the numbers do not follow unless they are true. */
static void trees_across_neurons_follow(void **state) {
  (void)state;
  long cases = 2 * test_cases(CASES), across = 0, missed = 0;
  for (uint64_t seed = 0; seed < (uint64_t)cases; seed++) {
    boxed_case c;
    qb_rng rng;
    qb_rng_seed(&rng, 79, seed);
    if (make_case(seed, true, &c) && c.claim.neuron_count > 0 && c.claim.bound > 1e-10) {
      recomputed own = check(&c, &c.claim);
      box_claim other = c.claim;
      across++;
      missed += own.refuted;
      if (!own.known || (!own.refuted && (own.bound > c.claim.bound || own.bound < c.found)))
        fail_at(seed, &c, &own);
      refuse_hostile_trees(&c);
      other.output_count = 0;
      other.bound = c.found * (1 - 1e-12);
      if (c.found > 0 && !check(&c, &other).refuted)
        fail_at(seed, &c, &own);
      misguide(&c, &rng, &other);
      own = check(&c, &other);
      if (!own.refuted && own.bound < c.found)
        fail_at(seed, &c, &own);
    }
    free_case(&c);
  }
  print_message("%ld cut across neurons; %ld missed\n", across, missed);
  assert_true(across > cases / 100);
  assert_true(missed <= across / 500);
}

int main(void) {
  omp_set_num_threads(1); /* the networks are tiny */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(claims_follow_and_smaller_ones_do_not),
      cmocka_unit_test(trees_across_neurons_follow),
      cmocka_unit_test(rounding_chooses_no_planes),
      cmocka_unit_test(winners_by_a_hair_pay_for_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
