/* Bounds that include float32 evaluation: both networks are evaluated in float32 with sums in orders of their own, and
 * no tensor may leave its ranges, tightened by forms or not, or differ by more than its bound, nor an output by more
 * than the checker recomputes or than what float32 adds to bounds of the exact functions; no decision may change.
 * In every second case both networks are the same, so that nothing but rounding makes a difference, and with the
 * rounding left out the same test must fail. In some, inputs are so small that products underflow. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "base/alloc.h"
#include "bound/ball.h"
#include "bound/certificate.h"
#include "bound/elementwise.h"
#include "bound/fault.h"
#include "bound/layerwise.h"
#include "check/check_bound.h"
#include "graph/quantizer.h"
#include "support/cases.h"
#include "support/float_run.h"
#include "support/network_builder.h"
#include "support/random_network.h"

enum { CASES = 1500, INPUTS = 12, FAULT_CASES = 200 };

typedef struct soundness {
  const qb_pair *pair;
  qb_layerwise layerwise;
  qb_elementwise elementwise;
  qb_box_result box, relaxed; /* intervals alone, and tightened by forms */
  qb_ball ball;
  double exact[3];  /* two_stage, spectral, product */
  bool below[3];    /* some of them was too small */
  long exact_known; /* how many of them apply */
  long kept;        /* 1: a decision was proved */
  float_run run[2];
  double own[3];            /* the checker's bounds, infinite where it knows none */
  double found[3];          /* |y - y'| of outputs, the largest over its bound: layerwise, elementwise, interval */
  long compared, confirmed; /* bounds that the checker knows, too, and those that it finds no larger */
  bool broken;
  char what[256];
} soundness;

static const char *const methods[3] = {"layerwise", "elementwise", "interval"};
static const qb_bound_method exact_methods[3] = {QB_BOUND_TWO_STAGE, QB_BOUND_SPECTRAL, QB_BOUND_PRODUCT};

static void require(soundness *s, qb_value_id v, const char *what, double value, double limit) {
  const qb_graph *graph = s->pair->quantized;
  qb_node_id producer = graph->values[v].producer;
  if (s->broken || value <= limit)
    return;
  s->broken = true;
  snprintf(s->what, sizeof s->what, "%s (%s): %s %.17g exceeds %.17g", graph->values[v].name,
           producer == QB_NONE ? "input" : qb_op_name(graph->nodes[producer].op), what, value, limit);
}

static void require_in(soundness *s, qb_value_id v, const char *what, double value, qb_interval limits) {
  require(s, v, what, value, limits.hi);
  require(s, v, what, -value, -limits.lo);
}

static void compare_with_box(soundness *s, const qb_box_result *box, const char *what, qb_value_id v, int64_t i,
                             double x, double x_q) {
  const qb_box_track *t = box->states[v].track;
  double d = fabs(x_q - x);
  if (!box->applies)
    return;
  require_in(s, v, what, x, (qb_interval){t[0].lo[i], t[0].hi[i]});
  require_in(s, v, what, x_q, (qb_interval){t[1].lo[i], t[1].hi[i]});
  require(s, v, what, x_q - x - d * 0x1p-52, t[2].hi[i]);
  require(s, v, what, x - x_q - d * 0x1p-52, -t[2].lo[i]);
}

static void compare_element(soundness *s, qb_value_id v, int64_t i, double x, double x_q) {
  const qb_shape *shape = &s->pair->quantized->values[v].shape;
  const qb_bound_state *l = &s->layerwise.states[v];
  const qb_elementwise_state *e = &s->elementwise.states[v];
  int64_t c = i / qb_state_inner(shape) % l->channels;
  double e_layerwise = ldexp(l->e[c], l->exponent),
         e_element = ldexp((double)e->limit[QB_ELEMENT_ERROR][i], e->exponent);
  double d = fabs(x_q - x); /* exact, or rounded by 2^-53 of itself */
  require_in(s, v, "layerwise original", x, qb_interval_scale(l->x[c], l->exponent));
  require_in(s, v, "layerwise quantized", x_q, qb_interval_scale(l->x_q[c], l->exponent));
  require(s, v, "layerwise error", d * (1 - 0x1p-52), e_layerwise);
  require(s, v, "elementwise original", fabs(x), ldexp((double)e->limit[QB_ELEMENT_ORIGINAL][i], e->exponent));
  require(s, v, "elementwise quantized", fabs(x_q), ldexp((double)e->limit[QB_ELEMENT_QUANTIZED][i], e->exponent));
  require(s, v, "elementwise error", d * (1 - 0x1p-52), e_element);
  if (v == s->pair->quantized->outputs[0]) {
    for (int m = 0; m < 3; m++)
      require(s, v, methods[m], d * (1 - 0x1p-52), s->own[m]);
    s->found[0] = fmax(s->found[0], e_layerwise > 0 ? d / e_layerwise : 0);
    s->found[1] = fmax(s->found[1], e_element > 0 ? d / e_element : 0);
  }
  compare_with_box(s, &s->box, "interval", v, i, x, x_q);
  compare_with_box(s, &s->relaxed, "relaxation", v, i, x, x_q);
  if (v != s->pair->quantized->outputs[0])
    return;
  for (int m = 0; m < 3; m++) {
    s->below[m] = s->below[m] || d * (1 - 0x1p-52) > s->exact[m];
    require(s, v, qb_bound_method_name(exact_methods[m]), d * (1 - 0x1p-52), s->exact[m]);
  }
  if (s->box.applies) {
    double size = fmax(-s->box.states[v].track[2].lo[i], s->box.states[v].track[2].hi[i]);
    s->found[2] = fmax(s->found[2], size > 0 ? d / size : 0);
  }
}

static bool holds_codes(const qb_graph *graph, qb_value_id v) {
  qb_node_id producer = graph->values[v].producer;
  return producer != QB_NONE && graph->nodes[producer].op == QB_OP_QUANTIZE_LINEAR;
}

static void compare(soundness *s) {
  const qb_graph *graph = s->pair->quantized;
  for (qb_value_id v = 0; v < graph->value_count; v++) {
    qb_value_id o = s->pair->value[v];
    if (s->layerwise.states[v].x == NULL || s->layerwise.states[v].codes != NULL || o == QB_NONE ||
        holds_codes(graph, v))
      continue;
    for (int64_t i = 0; i < (int64_t)qb_shape_elements(&graph->values[v].shape); i++)
      compare_element(s, v, i, (double)s->run[0].value[o][i], (double)s->run[1].value[v][i]);
  }
}

/* The largest output is the one that was proved to be. */
static void compare_decision(soundness *s) {
  const qb_graph *graphs[2] = {s->pair->original, s->pair->quantized};
  for (int which = 0; which < 2 && s->ball.keeps_top; which++) {
    const float *y = s->run[which].value[graphs[which]->outputs[0]];
    for (int64_t k = 0; k < s->ball.count; k++)
      if (k != s->ball.top && y[k] >= y[s->ball.top])
        require(s, s->pair->quantized->outputs[0], "decision", 1, 0);
  }
}

static void evaluate(soundness *s, const qb_domain *domain, qb_rng *rng) {
  float *input = qb_alloc((size_t)domain->count, sizeof *input);
  assert_non_null(input);
  for (int k = 0; k < INPUTS && !s->broken; k++) {
    for (int64_t i = 0; i < domain->count; i++) {
      float lo = domain->lo[i], hi = domain->hi[i], inside = lo + (hi - lo) * (float)qb_rng_range(rng, 0, 1);
      input[i] = k % 2 == 0 ? fminf(fmaxf(inside, lo), hi) : qb_rng_below(rng, 2) == 0 ? lo : hi;
    }
    for (int which = 0; which < 2; which++)
      float_run_forward(&s->run[which], input, rng);
    compare(s);
    compare_decision(s);
  }
  qb_free(input);
}

static double own_bound(const qb_pair *pair, const qb_domain *domain, const char *method) {
  claim c = {.elements = domain->count, .output = -1};
  recomputed own = {0};
  qb_error error;
  qb_arena_init(&c.arena);
  c.domain = qb_arena_alloc(&c.arena, (size_t)c.elements, sizeof *c.domain);
  assert_non_null(c.domain);
  for (int64_t i = 0; i < c.elements; i++)
    c.domain[i] = (range){(double)domain->lo[i], (double)domain->hi[i]};
  snprintf(c.method, sizeof c.method, "%s", method);
  if (recompute_by_ranges(&c, pair, &own, &error) != QB_OK)
    fail_msg("%s", error.message);
  qb_arena_free(&c.arena);
  return own.known ? own.bound : INFINITY;
}

/* The checker confirms what the engine claims. */
static void compare_with_checker(const qb_pair *pair, const qb_domain *domain, soundness *s) {
  qb_worst_case worst;
  qb_error error;
  const uint32_t all =
      UINT32_C(1) << QB_BOUND_LAYERWISE | UINT32_C(1) << QB_BOUND_ELEMENTWISE | UINT32_C(1) << QB_BOUND_INTERVAL;
  if (qb_worst_case_bound(pair, domain, all, -1, &worst, &error) != QB_OK)
    fail_msg("%s", error.message);
  for (int m = 0; m < 3; m++) {
    s->own[m] = own_bound(pair, domain, methods[m]);
    for (int32_t k = 0; k < worst.count; k++)
      if (strcmp(qb_bound_method_name(worst.outcomes[k].method), methods[m]) == 0 && worst.outcomes[k].bound.applies) {
        s->compared += isfinite(s->own[m]);
        double engine = qb_worst_case_claimed(&worst, qb_magnitude_to_double(worst.outcomes[k].bound.value));
        s->confirmed += isfinite(s->own[m]) && s->own[m] <= engine;
      }
  }
  qb_worst_case_free(&worst);
}

static void bound_by_forms(const qb_pair *pair, const qb_domain *domain, soundness *s) {
  qb_backward *backward;
  qb_error error;
  qb_ball_settings settings = qb_ball_settings_default();
  settings.decide = true;
  if (qb_backward_create(pair, &backward, &error) != QB_OK ||
      qb_bound_ball_kept(backward, domain, &settings, &s->ball, &s->relaxed, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_true(s->ball.applies == s->box.applies);
  s->kept = s->ball.keeps_top && s->ball.count > 1;
  qb_backward_free(backward);
}

static void bound_exact_functions(const qb_pair *pair, const qb_domain *domain, soundness *s) {
  qb_worst_case worst;
  qb_error error;
  const uint32_t all =
      UINT32_C(1) << QB_BOUND_TWO_STAGE | UINT32_C(1) << QB_BOUND_SPECTRAL | UINT32_C(1) << QB_BOUND_PRODUCT;
  if (qb_worst_case_bound(pair, domain, all, -1, &worst, &error) != QB_OK)
    fail_msg("%s", error.message);
  for (int m = 0; m < 3; m++) {
    s->exact[m] = INFINITY;
    for (int32_t k = 0; k < worst.count; k++)
      if (worst.outcomes[k].method == exact_methods[m] && worst.outcomes[k].bound.applies)
        s->exact[m] = qb_magnitude_to_double(worst.outcomes[k].bound.value);
    s->exact_known += isfinite(s->exact[m]);
  }
  qb_worst_case_free(&worst);
}

/* False where the bound is not known for the network. */
static bool check_pair(const qb_pair *pair, const qb_domain *domain, qb_rng *rng, soundness *s) {
  qb_error error;
  *s = (soundness){.pair = pair};
  qb_status status = qb_layerwise_bound(pair, domain, &s->layerwise, &error);
  bool known = status == QB_OK;
  if (known && (qb_elementwise_bound_kept(pair, domain, &s->layerwise, &s->elementwise, &error) != QB_OK ||
                qb_bound_box(pair, domain, &s->box, &error) != QB_OK))
    fail_msg("%s", error.message);
  if (!known && status != QB_ERROR_UNSUPPORTED)
    fail_msg("%s", error.message);
  if (known) {
    compare_with_checker(pair, domain, s);
    bound_by_forms(pair, domain, s);
    bound_exact_functions(pair, domain, s);
    float_run_create(pair->original, &s->run[0]);
    float_run_create(pair->quantized, &s->run[1]);
    evaluate(s, domain, rng);
    float_run_free(&s->run[0]);
    float_run_free(&s->run[1]);
    qb_box_result_free(&s->box);
    qb_box_result_free(&s->relaxed);
    qb_ball_free(&s->ball);
    qb_elementwise_free(&s->elementwise);
  }
  qb_layerwise_free(&s->layerwise);
  return known;
}

/* A box around a random point, for forms to be tight on and outputs to keep their order. */
static void shrink_domain(qb_domain *domain, qb_rng *rng) {
  static const float parts[] = {0, 1e-4F, 0.01F, 0.1F};
  float part = parts[qb_rng_below(rng, 4)];
  for (int64_t i = 0; i < domain->count; i++) {
    float lo = domain->lo[i], hi = domain->hi[i], at = lo + (hi - lo) * (float)qb_rng_range(rng, 0, 1);
    at = fminf(fmaxf(at, lo), hi);
    domain->lo[i] = fmaxf(lo, at - part * (hi - lo));
    domain->hi[i] = fminf(hi, at + part * (hi - lo));
  }
}

/* With `same` the network against itself. */
static bool run_case(uint64_t seed, bool same, soundness *s, char *text, size_t size) {
  qb_rng rng;
  random_network network;
  qb_rng_seed(&rng, seed, 7);
  random_style style = random_network_style(&rng);
  random_network_create(&rng, &style, &network);
  const qb_graph *graph = &network.quantized;
  qb_pair twins = {0}, *pair = &network.pair;
  qb_graph clone = {0};
  if (same) {
    clone = network_clone(graph);
    twins = network_pair(&clone, graph);
    pair = &twins;
    qb_graph_allow_steps(&clone, 1);
  }
  pair->float32 = true;
  if (seed % 16 < 2)
    for (int64_t i = 0; i < network.domain.count; i++) {
      network.domain.lo[i] *= 0x1p-135F;
      network.domain.hi[i] *= 0x1p-135F;
    }
  if (seed % 6 >= 4)
    shrink_domain(&network.domain, &rng);
  qb_graph_allow_steps(&network.quantized, 1);
  *s = (soundness){.broken = false};
  bool known = float_run_supports(graph) && check_pair(pair, &network.domain, &rng, s);
  random_network_describe(&network, text, size);
  network_pair_free(&twins);
  qb_graph_free(&clone);
  random_network_free(&network);
  return known;
}

static void no_order_of_summation_escapes(void **state) {
  (void)state;
  soundness s;
  char text[1024];
  long known = 0, cases = test_cases(CASES), near[3] = {0}, compared = 0, confirmed = 0, kept = 0, exact = 0;
  for (long n = 0; n < cases; n++) {
    known += run_case((uint64_t)n, n % 2 == 1, &s, text, sizeof text);
    if (s.broken)
      fail_msg("case %ld: %s\n%s", n, s.what, text);
    compared += s.compared;
    confirmed += s.confirmed;
    kept += s.kept;
    exact += s.exact_known;
    for (int m = 0; m < 3; m++)
      near[m] += s.found[m] > 0.02;
  }
  print_message("%ld of %ld networks; above a fiftieth of the bound: %ld, %ld, %ld; the checker confirms %ld of %ld\n",
                known, cases, near[0], near[1], near[2], confirmed, compared);
  print_message("%ld decisions, %ld bounds of two_stage, spectral and product\n", kept, exact);
  assert_true(kept > known / 10 && exact > known / 2);
  assert_true(confirmed > 0.99 * (double)compared && compared > known);
  assert_true(known > cases / 3);
  for (int m = 0; m < 3; m++)
    assert_true(near[m] > known / 20);
}

static void rounding_that_is_left_out_is_noticed(void **state) {
  (void)state;
  soundness s;
  char text[1024];
  long noticed = 0;
  qb_bound_fault = QB_FAULT_NO_EVALUATION;
  for (uint64_t n = 0; n < FAULT_CASES; n++) {
    run_case(n, true, &s, text, sizeof text);
    noticed += s.broken;
  }
  qb_bound_fault = QB_FAULT_NONE;
  print_message("noticed in %ld of %d cases\n", noticed, FAULT_CASES);
  assert_true(noticed > FAULT_CASES / 5);
}

/* Two layers of positive weights, of which the quantized network has lost the second: it is 0, exactly so in float32,
 * and the difference is the original's output, all rounding upwards of which leaves a bound that does not know of it.
 */
static void build_lost_layer(qb_rng *rng, qb_graph graphs[2]) {
  enum { WIDTH = 16 };
  float weights[WIDTH * WIDTH], last[WIDTH], lost[WIDTH] = {0};
  for (int i = 0; i < WIDTH * WIDTH; i++)
    weights[i] = (float)qb_rng_range(rng, 0.1, 1);
  for (int i = 0; i < WIDTH; i++)
    last[i] = (float)qb_rng_range(rng, 0.1, 1);
  for (int which = 0; which < 2; which++) {
    network_builder builder;
    network_builder_init(&builder, (qb_shape){.rank = 2, .dims = {1, WIDTH}});
    qb_value_id x = network_gemm(&builder, builder.input, WIDTH, weights, NULL);
    x = network_unary(&builder, QB_OP_RELU, x);
    x = network_gemm(&builder, x, 1, which == 0 ? last : lost, NULL);
    graphs[which] = network_builder_finish(&builder, x);
  }
}

/* At one input; false: not broken. Counts the methods of exact_methods that were too small. */
static bool lost_layer_breaks(uint64_t seed, long below[3]) {
  qb_rng rng;
  qb_graph graphs[2];
  float at[16];
  qb_domain domain = {16, at, at};
  soundness s;
  qb_rng_seed(&rng, seed, 8);
  build_lost_layer(&rng, graphs);
  qb_pair pair = network_pair(&graphs[0], &graphs[1]);
  pair.float32 = true;
  for (int i = 0; i < 16; i++)
    at[i] = (float)qb_rng_range(&rng, 0.1, 1);
  assert_true(check_pair(&pair, &domain, &rng, &s));
  network_pair_free(&pair);
  qb_graph_free(&graphs[0]);
  qb_graph_free(&graphs[1]);
  for (int m = 0; m < 3; m++)
    below[m] += s.below[m];
  return s.broken;
}

static void errors_of_one_network_that_are_left_out_are_noticed(void **state) {
  (void)state;
  enum { LOST = 50 };
  long noticed[3] = {0}, below[3] = {0};
  for (int fault = 0; fault < 3; fault++) {
    qb_bound_fault = fault == 1 ? QB_FAULT_ONE_EVALUATION : QB_FAULT_NONE;
    qb_backward_fault_planted = fault == 2 ? QB_BACKWARD_FAULT_EVALUATION : QB_BACKWARD_FAULT_NONE;
    for (uint64_t seed = 0; seed < LOST; seed++)
      noticed[fault] += lost_layer_breaks(seed, below);
  }
  qb_bound_fault = QB_FAULT_NONE;
  qb_backward_fault_planted = QB_BACKWARD_FAULT_NONE;
  print_message("noticed in %ld of two_stage, %ld of spectral, %ld of product, %ld of forms of %d\n", below[0],
                below[1], below[2], noticed[2], LOST);
  assert_int_equal(noticed[0], 0);
  assert_true(noticed[2] > LOST / 2);
  for (int m = 0; m < 3; m++)
    assert_true(below[m] > LOST / 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_order_of_summation_escapes),
      cmocka_unit_test(rounding_that_is_left_out_is_noticed),
      cmocka_unit_test(errors_of_one_network_that_are_left_out_are_noticed),
  };
  omp_set_num_threads(1); /* the networks are tiny */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
