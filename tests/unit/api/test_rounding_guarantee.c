/* The guarantee of stochastic rounding against the draws themselves: a thousand seeds for each small network. The share
 * of draws above the bound must fit the stated probability; the bound must not be far away; planted faults must show.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "api/rounding_guarantee.h"
#include "base/alloc.h"
#include "quant/quant.h"
#include "stats/binomial.h"
#include "support/network_builder.h"
#include "support/sketch.h"

enum { SEEDS = 1000 };
static const double delta = 0.05;

static qb_graph one_layer(void) {
  sketch_graph s = sketch_start(3);
  sketch_finish(&s, sketch_gemm(&s, sketch_input(&s, QB_SHAPE(1, 64)), 64, true));
  return s.graph;
}

static qb_graph three_layers(void) {
  sketch_graph s = sketch_start(4);
  qb_value_id x = sketch_gemm(&s, sketch_input(&s, QB_SHAPE(1, 20)), 24, true);
  x = sketch_gemm(&s, sketch_unary(&s, QB_OP_RELU, x), 24, true);
  sketch_finish(&s, sketch_gemm(&s, sketch_unary(&s, QB_OP_RELU, x), 10, false));
  return s.graph;
}

/* Overlapping windows, a stride, two groups, a residual sum, a flattened end. */
static qb_graph convolutions(void) {
  sketch_graph s = sketch_start(5);
  qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 2, 6, 6)), 4, 3, 1, 1, 1);
  x = sketch_unary(&s, QB_OP_RELU, x);
  qb_value_id y = sketch_unary(&s, QB_OP_RELU, sketch_conv(&s, x, 4, 3, 1, 1, 2));
  x = sketch_conv(&s, sketch_binary(&s, QB_OP_ADD, x, y), 6, 3, 2, 1, 1);
  sketch_finish(&s, sketch_gemm(&s, sketch_flatten(&s, sketch_unary(&s, QB_OP_RELU, x)), 5, true));
  return s.graph;
}

static qb_graph drawn(const qb_graph *graph, uint64_t seed, bool affine) {
  qb_quantize_settings settings;
  qb_graph copy;
  qb_error error;
  qb_quantize_settings_default(&settings);
  settings.bits = 4;
  settings.scheme = QB_SCHEME_STOCHASTIC;
  settings.affine = affine;
  settings.granularity = affine ? QB_PER_TENSOR : QB_PER_CHANNEL;
  settings.seed = seed;
  assert_int_equal(qb_graph_clone(graph, &copy, &error), QB_OK);
  if (qb_quantize_weights(&copy, &settings, NULL, NULL, &error) != QB_OK)
    fail_msg("%s", error.message);
  return copy;
}

typedef struct experiment {
  qb_graph graph;
  bool affine;
  size_t inputs, outputs;
  float input[128];
  double twice[128];
  double bound;
  double changes[SEEDS];
} experiment;

static double bound_of(const experiment *e, qb_arena *arena, qb_rounding_guarantee *guarantee) {
  qb_graph quantized = drawn(&e->graph, 1, e->affine);
  qb_pair pair = network_pair(&e->graph, &quantized);
  double *norms = qb_arena_alloc(arena, (size_t)e->graph.value_count, sizeof *norms);
  double *errors = qb_arena_alloc(arena, (size_t)quantized.value_count, sizeof *errors);
  qb_error error;
  assert_int_equal(qb_rounding_guarantee_make(&pair, delta, arena, guarantee, &error), QB_OK);
  if (!guarantee->applies)
    fail_msg("%s", guarantee->why);
  assert_int_equal(qb_rounding_guarantee_norms(&e->graph, e->input, 1, norms, &error), QB_OK);
  double bound = qb_rounding_guarantee_bound(guarantee, norms, errors);
  network_pair_free(&pair);
  qb_graph_free(&quantized);
  return bound;
}

static void draw_all(experiment *e) {
  double *before = sketch_evaluate(&e->graph, e->twice, e->graph.outputs[0]);
  for (int seed = 0; seed < SEEDS; seed++) {
    qb_graph quantized = drawn(&e->graph, (uint64_t)seed + 100, e->affine);
    double *after = sketch_evaluate(&quantized, e->twice, quantized.outputs[0]), sum = 0;
    for (size_t i = 0; i < e->outputs; i++)
      sum += (before[i] - after[i]) * (before[i] - after[i]);
    e->changes[seed] = sqrt(sum);
    qb_free(after);
    qb_graph_free(&quantized);
  }
  qb_free(before);
}

/* As many draws above `bound` as this, or more, happen with such a probability if each does with delta. */
static double probability_of(const experiment *e, double bound, int *above) {
  double lo, hi;
  *above = 0;
  for (int i = 0; i < SEEDS; i++)
    *above += e->changes[i] > bound;
  assert_int_equal(qb_binomial_at_least(SEEDS, *above, delta, &lo, &hi, NULL), QB_OK);
  return hi;
}

static void begin(experiment *e, qb_graph graph, bool affine) {
  qb_rng rng;
  qb_rng_seed(&rng, 9, 0);
  *e = (experiment){.graph = graph, .affine = affine};
  e->inputs = qb_shape_elements(&graph.values[graph.inputs[0]].shape);
  e->outputs = qb_shape_elements(&graph.values[graph.outputs[0]].shape);
  for (size_t i = 0; i < e->inputs; i++) {
    e->input[i] = (float)qb_rng_normal(&rng);
    e->twice[i] = (double)e->input[i];
  }
  draw_all(e);
}

/* Above the bound in at most a share of delta; the bound at most `most` times the largest change that was drawn. */
static void check(experiment *e, const char *name, double most) {
  qb_arena arena;
  qb_rounding_guarantee guarantee;
  int above;
  double largest = 0;
  qb_arena_init(&arena);
  e->bound = bound_of(e, &arena, &guarantee);
  for (int i = 0; i < SEEDS; i++)
    largest = fmax(largest, e->changes[i]);
  assert_true(probability_of(e, e->bound, &above) > 1e-6);
  printf("%s: bound %.4g, largest of %d draws %.4g (%.2f times), %d above\n", name, e->bound, SEEDS, largest,
         e->bound / largest, above);
  assert_true(e->bound <= most * largest);
  qb_arena_free(&arena);
}

static void draws_stay_below(void **state) {
  (void)state;
  static experiment e;
  for (int affine = 0; affine < 2; affine++) {
    begin(&e, one_layer(), affine != 0);
    check(&e, affine ? "one layer, affine" : "one layer", 3);
    qb_graph_free(&e.graph);
    begin(&e, three_layers(), affine != 0);
    check(&e, affine ? "three layers, affine" : "three layers", 40);
    qb_graph_free(&e.graph);
    begin(&e, convolutions(), affine != 0);
    check(&e, affine ? "convolutions, affine" : "convolutions", 600);
    qb_graph_free(&e.graph);
  }
}

/* The bound of one output, as if it were that of all: without sqrt(n) most draws are above it. */
static void a_missing_number_of_outputs_shows(void **state) {
  (void)state;
  static experiment e;
  int above;
  begin(&e, one_layer(), false);
  check(&e, "one layer", 3);
  assert_true(probability_of(&e, e.bound / sqrt((double)e.outputs), &above) < 1e-6);
  assert_true(above > SEEDS / 2);
  qb_graph_free(&e.graph);
}

/* --------------------------------------------------------------------------------------------------------- formulas */

/* The factor of a matrix layer with one step per row, at probability `share`, without the impurity. */
static long double factor_by_hand(const qb_codes *codes, int64_t rows, int64_t columns, long double share) {
  long double squares = 0, largest = 0;
  for (int64_t c = 0; c < rows; c++) {
    long double step = (long double)codes->scale[c];
    squares += step * step;
    largest = step > largest ? step : largest;
  }
  long double all = sqrtl(squares * logl(2 * (long double)rows / share) / 2);
  long double norm = sqrtl(squares) / 2 + largest * sqrtl(2 * logl(1 / share));
  long double size = largest * sqrtl((long double)rows * (long double)columns);
  return fminl(fminl(all, norm), size);
}

/* Every layer gets a third of delta, and the recursion is the one of the documentation. */
static void three_layers_follow_the_recursion(void **state) {
  (void)state;
  qb_arena arena;
  qb_rounding_guarantee guarantee;
  qb_graph graph = three_layers(), quantized = drawn(&graph, 1, false);
  qb_pair pair = network_pair(&graph, &quantized);
  qb_error error;
  qb_arena_init(&arena);
  double *norms = qb_arena_alloc(&arena, (size_t)graph.value_count, sizeof *norms);
  double *errors = qb_arena_alloc(&arena, (size_t)quantized.value_count, sizeof *errors);
  assert_int_equal(qb_rounding_guarantee_make(&pair, delta, &arena, &guarantee, &error), QB_OK);
  assert_int_equal(guarantee.layer_count, 3);
  long double change = 0;
  int32_t found = 0;
  for (qb_node_id n = 0; n < quantized.node_count; n++) {
    qb_linear linear;
    if (!qb_graph_linear(&quantized, n, &linear))
      continue;
    const qb_codes *codes = quantized.values[linear.weight].codes;
    long double by_hand = factor_by_hand(codes, linear.out_channels, linear.in_channels, (long double)delta / 3);
    long double whole = factor_by_hand(codes, linear.out_channels, linear.in_channels, (long double)delta);
    assert_true((long double)guarantee.factor[n] >= by_hand);
    assert_true((long double)guarantee.factor[n] <= by_hand * (1 + 1e-4L));
    assert_true(whole < by_hand * (1 - 1e-3L)); /* planted: delta not split over the layers */
    norms[graph.nodes[pair.partner[n]].inputs[0]] = 2.0 + found;
    change = (long double)guarantee.sigma[n] * change + (long double)guarantee.factor[n] * (2 + found + change);
    found++;
  }
  double bound = qb_rounding_guarantee_bound(&guarantee, norms, errors);
  assert_true((long double)bound >= change && (long double)bound <= change * (1 + 1e-12L));
  network_pair_free(&pair);
  qb_graph_free(&quantized);
  qb_graph_free(&graph);
  qb_arena_free(&arena);
}

/* -------------------------------------------------------------------------------------------------------- refusals */

static void expect_refusal(const qb_graph *graph, const qb_graph *quantized, const char *why) {
  qb_arena arena;
  qb_rounding_guarantee guarantee;
  qb_pair pair = network_pair(graph, quantized);
  qb_error error;
  qb_arena_init(&arena);
  assert_int_equal(qb_rounding_guarantee_make(&pair, delta, &arena, &guarantee, &error), QB_OK);
  assert_false(guarantee.applies);
  if (strstr(guarantee.why, why) == NULL)
    fail_msg("'%s' is not in '%s'", why, guarantee.why);
  network_pair_free(&pair);
  qb_arena_free(&arena);
}

static qb_linear linear_of(const qb_graph *graph, qb_node_id node) {
  qb_linear linear;
  assert_true(qb_graph_linear(graph, node, &linear));
  return linear;
}

static void other_changes_are_refused(void **state) {
  (void)state;
  qb_graph graph = three_layers(), quantized = drawn(&graph, 1, false);
  qb_linear last = linear_of(&quantized, quantized.node_count - 1);
  network_edit(&quantized, linear_of(&quantized, 0).bias)[3] += 0.5f;
  expect_refusal(&graph, &quantized, "another bias");
  qb_graph_free(&quantized);

  quantized = drawn(&graph, 1, false);
  network_edit(&quantized, last.weight)[0] += 0.5f; /* drops the codes */
  expect_refusal(&graph, &quantized, "without codes");
  qb_graph_free(&quantized);

  quantized = drawn(&graph, 1, false);
  qb_graph larger;
  assert_int_equal(qb_graph_clone(&graph, &larger, NULL), QB_OK);
  float *weights = network_edit(&larger, linear_of(&larger, 0).weight);
  weights[0] = 50; /* no code reaches it */
  expect_refusal(&larger, &quantized, "outside its grid");
  qb_graph_free(&larger);
  qb_graph_free(&quantized);
  qb_graph_free(&graph);
}

/* A row of zeros, as a padding shortcut has them, never moves and is no reason to refuse. */
static void rows_of_zeros_are_accepted(void **state) {
  (void)state;
  qb_arena arena;
  qb_rounding_guarantee guarantee;
  qb_graph graph = three_layers();
  qb_linear first = linear_of(&graph, 0);
  memset(network_edit(&graph, first.weight), 0, (size_t)first.in_channels * sizeof(float));
  qb_graph quantized = drawn(&graph, 1, false);
  qb_pair pair = network_pair(&graph, &quantized);
  qb_arena_init(&arena);
  assert_int_equal(qb_rounding_guarantee_make(&pair, delta, &arena, &guarantee, NULL), QB_OK);
  assert_true(guarantee.applies);
  network_pair_free(&pair);
  qb_arena_free(&arena);
  qb_graph_free(&quantized);
  qb_graph_free(&graph);
}

/* Which layer has how many bits may be the outcome of a search that looked at draws. */
static void several_widths_are_refused(void **state) {
  (void)state;
  qb_graph graph = three_layers(), quantized;
  qb_quantize_settings settings;
  qb_error error;
  qb_quantize_settings_default(&settings);
  settings.scheme = QB_SCHEME_STOCHASTIC;
  const qb_layer_bits plan = {graph.nodes[0].name, 5};
  settings.plan = &plan;
  settings.plan_count = 1;
  assert_int_equal(qb_graph_clone(&graph, &quantized, &error), QB_OK);
  if (qb_quantize_weights(&quantized, &settings, NULL, NULL, &error) != QB_OK)
    fail_msg("%s", error.message);
  expect_refusal(&graph, &quantized, "several widths");
  qb_graph_free(&quantized);
  qb_graph_free(&graph);
}

static void nodes_without_a_rule_are_refused(void **state) {
  (void)state;
  sketch_graph s = sketch_start(6);
  qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 2, 4, 4)), 2, 3, 1, 1, 1);
  sketch_finish(&s, sketch_conv_transpose(&s, x, 2, 2, 2, 1));
  qb_graph quantized = drawn(&s.graph, 1, false);
  expect_refusal(&s.graph, &quantized, "ConvTranspose");
  qb_graph_free(&quantized);
  qb_graph_free(&s.graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(draws_stay_below),
      cmocka_unit_test(a_missing_number_of_outputs_shows),
      cmocka_unit_test(three_layers_follow_the_recursion),
      cmocka_unit_test(other_changes_are_refused),
      cmocka_unit_test(rows_of_zeros_are_accepted),
      cmocka_unit_test(several_widths_are_refused),
      cmocka_unit_test(nodes_without_a_rule_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
