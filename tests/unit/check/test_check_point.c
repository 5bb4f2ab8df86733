/* The checker's own evaluation at a point, against the exact engine's claims on random pairs of networks with every
 * operator and quantized activations: honest claims are verified, all of them; smaller bounds, ranges that lie a little
 * beside the difference, higher lower sides and flips that are none are refuted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "api/ball_call.h"
#include "base/alloc.h"
#include "check/check_point.h"
#include "graph/pass_drop_clip.h"
#include "support/cases.h"
#include "support/network_builder.h"
#include "support/random_network.h"

enum { CASES = 400 };

typedef struct pointed {
  random_network network;
  qb_arena arena;
  qb_ball_proof proof;
  float *input;
  box_claim claim;
} pointed;

/* Inputs on a coarse grid make ties of quantizers frequent. */
static bool make_point(uint64_t seed, pointed *p) {
  qb_rng rng;
  qb_error error;
  *p = (pointed){0};
  qb_rng_seed(&rng, 79, seed);
  qb_arena_init(&p->arena);
  random_style style = random_network_style(&rng);
  style.quantized_activations = seed % 2 == 0;
  random_network_create(&rng, &style, &p->network);
  bool grid = qb_rng_below(&rng, 2) == 1;
  qb_domain *domain = &p->network.domain;
  for (int64_t i = 0; i < domain->count; i++) {
    double x = qb_rng_range(&rng, (double)domain->lo[i], (double)domain->hi[i]);
    domain->lo[i] = domain->hi[i] = (float)(grid ? rint(x * 16) / 16 : x);
  }
  p->input = domain->lo;
  qb_ball_call call = {.pair = &p->network.pair, .output = -1, .threads = 1};
  if (qb_ball_prove(&call, domain, 0, &p->arena, &p->proof, &error) != QB_OK)
    fail_msg("%s", error.message);
  return p->proof.method != NULL && strcmp(p->proof.method, "point") == 0;
}

static void make_claim(pointed *p) {
  range *outputs = qb_arena_alloc(&p->arena, (size_t)p->proof.count, sizeof *outputs);
  assert_non_null(outputs);
  p->claim = (box_claim){.method = "point", .only = -1, .keeps = p->proof.keeps_top};
  p->claim.outputs = outputs;
  p->claim.output_count = p->proof.count;
  for (int64_t k = 0; k < p->proof.count; k++) {
    outputs[k] = (range){p->proof.outputs[k].lo, p->proof.outputs[k].hi};
    p->claim.bound = fmax(p->claim.bound, range_size(outputs[k]));
  }
}

static void free_point(pointed *p) {
  qb_arena_free(&p->arena);
  random_network_free(&p->network);
}

static recomputed judge(const pointed *p, const box_claim *what) {
  recomputed own;
  qb_error error;
  if (recompute_point(what, &p->network.pair, p->input, &own, &error) != QB_OK)
    fail_msg("%s", error.message);
  return own;
}

static void expect(const pointed *p, const recomputed *own, bool refuted, uint64_t seed, const char *what) {
  char text[4000];
  if (!own->known || own->refuted != refuted)
    fail_msg("case %llu, %s: known %d, refuted %d, %.17g: %s\n%s", (unsigned long long)seed, what, own->known,
             own->refuted, own->bound, own->why, random_network_describe(&p->network, text, sizeof text));
}

/* The largest difference is at least this: less than the bound where a code is undecided. */
static double least_of(const box_claim *c) {
  double least = 0;
  for (int64_t k = 0; k < c->output_count; k++)
    least = fmax(least, fmax(c->outputs[k].lo, -c->outputs[k].hi));
  return least;
}

/* One end of one range moved past the difference by a few doubles; the bound a double below it; the other decision. */
static void forge_box(pointed *p, uint64_t seed) {
  box_claim other = p->claim;
  int64_t k = (int64_t)(seed % (uint64_t)p->claim.output_count);
  range *y = &p->claim.outputs[k], kept = *y;
  y->lo = nextafter(nextafter(kept.hi, INFINITY), INFINITY);
  y->hi = INFINITY;
  recomputed own = judge(p, &other);
  expect(p, &own, true, seed, "a range above the difference");
  *y = (range){-INFINITY, nextafter(nextafter(kept.lo, -INFINITY), -INFINITY)};
  own = judge(p, &other);
  expect(p, &own, true, seed, "a range below the difference");
  *y = kept;
  other.output_count = 0;
  other.bound = least_of(&p->claim) * (1 - 0x1p-50);
  if (other.bound == 0)
    return;
  own = judge(p, &other);
  expect(p, &own, true, seed, "a smaller bound");
}

/* As large as the engine allows, and a little larger than it says the difference is. */
static void forge_lower(const pointed *p, uint64_t seed) {
  recomputed own;
  qb_error error;
  assert_int_equal(recompute_lower(&p->network.pair, p->input, -1, least_of(&p->claim), &own, &error), QB_OK);
  expect(p, &own, false, seed, "a lower side");
  double more = nextafter(p->claim.bound * (1 + 0x1p-50), INFINITY);
  assert_int_equal(recompute_lower(&p->network.pair, p->input, -1, more, &own, &error), QB_OK);
  expect(p, &own, true, seed, "a higher lower side");
}

static void forge_flip(const pointed *p, uint64_t seed) {
  recomputed own;
  qb_error error;
  for (int64_t a = 0; a < p->claim.output_count && a < 3; a++)
    for (int64_t b = 0; p->claim.keeps && b < p->claim.output_count && b < 3; b++) {
      assert_int_equal(recompute_flip(&p->network.pair, p->input, a, b, &own, &error), QB_OK);
      expect(p, &own, true, seed, "a flip where the decision is kept");
    }
}

static void claims_about_points_are_verified_and_forged_ones_refuted(void **state) {
  (void)state;
  long cases = test_cases(CASES), judged = 0, kept = 0, exact = 0;
  for (uint64_t seed = 0; seed < (uint64_t)cases; seed++) {
    pointed p;
    if (make_point(seed, &p)) {
      make_claim(&p);
      recomputed own = judge(&p, &p.claim);
      expect(&p, &own, false, seed, "an honest claim");
      judged++;
      kept += p.claim.keeps;
      exact += p.claim.bound > 0 && p.claim.outputs[0].lo == p.claim.outputs[0].hi;
      forge_box(&p, seed);
      forge_lower(&p, seed);
      forge_flip(&p, seed);
    }
    free_point(&p);
  }
  print_message("%ld points, %ld decisions, %ld exact differences\n", judged, kept, exact);
  assert_true(judged > cases * 9 / 10 && kept > cases / 20 && exact > cases / 50);
}

/* y = (x, 1 - x) against (x, c - x): at 0.5 a tie, left and right of it decisions and flips. */
static void flips_and_ties_are_told_apart(void **state) {
  (void)state;
  const float weight[2] = {1, -1}, bias[2] = {0, 1}, other[2] = {0, 0.5F};
  qb_graph graphs[2];
  recomputed own;
  qb_error error;
  for (int i = 0; i < 2; i++) {
    network_builder b;
    network_builder_init(&b, QB_SHAPE(1, 1));
    graphs[i] = network_builder_finish(&b, network_gemm(&b, b.input, 2, weight, i == 0 ? bias : other));
  }
  qb_pair pair = network_pair(&graphs[0], &graphs[1]);
  static const struct {
    float x;
    bool flips, keeps;
  } at[] = {{0.5F, false, false}, {0.4F, true, false}, {0.25F, false, false}, {0.2F, false, true}, {0.6F, false, true}};
  for (int k = 0; k < 5; k++) {
    assert_int_equal(recompute_flip(&pair, &at[k].x, 1, 0, &own, &error), QB_OK);
    assert_true(own.known && own.refuted == !at[k].flips);
    assert_int_equal(recompute_flip(&pair, &at[k].x, 0, 1, &own, &error), QB_OK);
    assert_true(own.refuted);
    assert_int_equal(recompute_lower(&pair, &at[k].x, -1, 0.5, &own, &error), QB_OK);
    assert_true(own.known && !own.refuted && own.bound == 0.5);
    assert_int_equal(recompute_lower(&pair, &at[k].x, 0, 0x1p-1000, &own, &error), QB_OK);
    assert_true(own.refuted); /* output 0 does not change */
    box_claim claimed = {.method = "point", .only = -1, .bound = 0.5, .keeps = true};
    assert_int_equal(recompute_point(&claimed, &pair, &at[k].x, &own, &error), QB_OK);
    assert_true(own.known && own.refuted == !at[k].keeps);
  }
  network_pair_free(&pair);
  for (int i = 0; i < 2; i++)
    qb_graph_free(&graphs[i]);
}

int main(void) {
  omp_set_num_threads(1); /* the networks are tiny */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(claims_about_points_are_verified_and_forged_ones_refuted),
      cmocka_unit_test(flips_and_ties_are_told_apart),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  flint_cleanup();
  return failed;
}
