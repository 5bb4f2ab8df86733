/* The exact engine on random pairs of networks with every operator and quantized activations: with few digits behind
 * the point its intervals contain what it computes with many, the reference engine's intervals agree with it, and
 * differences are enclosed to the last bits of a double. A planted mistake is noticed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "run/exact.h"
#include "support/cases.h"
#include "support/network_builder.h"
#include "support/random_network.h"

enum { CASES = 200 };

typedef struct evaluation {
  qb_run *run[2];
  int64_t count;
  double *lo, *hi; /* (count) of the difference */
} evaluation;

static qb_run *run_once(const qb_graph *graph, qb_engine engine, const float *input) {
  qb_error error = {0};
  qb_run *run = NULL;
  qb_run_settings how;
  qb_run_settings_default(&how);
  how.engine = engine;
  how.threads = 1;
  how.radius = true;
  if (qb_run_create(graph, &how, &run, &error) != QB_OK || qb_run_forward(run, input, 1, &error) != QB_OK)
    fail_msg("%s", error.message);
  return run;
}

static void evaluate(const random_network *network, qb_engine engine, const float *input, evaluation *e) {
  const qb_graph *graphs[2] = {&network->original, &network->quantized};
  for (int i = 0; i < 2; i++)
    e->run[i] = run_once(graphs[i], engine, input);
  e->count = (int64_t)qb_shape_elements(&graphs[0]->values[graphs[0]->outputs[0]].shape);
  e->lo = qb_alloc((size_t)e->count, sizeof *e->lo);
  e->hi = qb_alloc((size_t)e->count, sizeof *e->hi);
  if (engine == QB_ENGINE_EXACT) {
    qb_run_difference(e->run[0], graphs[0]->outputs[0], e->run[1], graphs[1]->outputs[0], e->lo, e->hi);
    return;
  }
  const double *y[2], *r[2];
  for (int i = 0; i < 2; i++) {
    y[i] = qb_run_value_double(e->run[i], graphs[i]->outputs[0]);
    r[i] = qb_run_radius(e->run[i], graphs[i]->outputs[0]);
  }
  for (int64_t k = 0; k < e->count; k++) {
    double reach = (r[0][k] + r[1][k] + fabs(y[1][k] - y[0][k]) * 0x1p-50) * (1 + 0x1p-40) + 0x1p-1000;
    e->lo[k] = y[1][k] - y[0][k] - reach;
    e->hi[k] = y[1][k] - y[0][k] + reach;
  }
}

static void release(evaluation *e) {
  qb_run_free(e->run[0]);
  qb_run_free(e->run[1]);
  qb_free(e->lo);
  qb_free(e->hi);
}

typedef struct tally {
  long elements, sharp, outside, apart;
} tally;

/* Inputs on a coarse grid make ties of quantizers frequent. */
static void check_network(qb_rng *rng, const random_network *network, tally *t) {
  int64_t inputs = network->domain.count;
  float *input = qb_alloc((size_t)inputs, sizeof *input);
  evaluation fine, coarse, reference;
  bool grid = qb_rng_below(rng, 2) == 1;
  for (int64_t i = 0; i < inputs; i++) {
    double x = qb_rng_range(rng, (double)network->domain.lo[i], (double)network->domain.hi[i]);
    input[i] = (float)(grid ? rint(x * 16) / 16 : x);
  }
  evaluate(network, QB_ENGINE_EXACT, input, &fine);
  evaluate(network, QB_ENGINE_REFERENCE, input, &reference);
  qb_exact_fraction = 2;
  evaluate(network, QB_ENGINE_EXACT, input, &coarse);
  qb_exact_fraction = 0;
  for (int64_t k = 0; k < fine.count; k++) {
    double size = fmax(fabs(fine.lo[k]), fabs(fine.hi[k]));
    t->elements++;
    t->sharp += fine.hi[k] - fine.lo[k] <= 0x1p-50 * size + 0x1p-100; /* equal outputs differ by 0 */
    t->outside += coarse.lo[k] > fine.hi[k] || coarse.hi[k] < fine.lo[k];
    t->apart += reference.lo[k] > fine.hi[k] || reference.hi[k] < fine.lo[k];
  }
  release(&fine);
  release(&coarse);
  release(&reference);
  qb_free(input);
}

static tally check_many(long cases, bool quantized) {
  tally t = {0};
  qb_rng rng;
  qb_rng_seed(&rng, 77, quantized);
  for (long n = 0; n < cases; n++) {
    random_network network;
    random_style style = random_network_style(&rng);
    style.quantized_activations = quantized;
    random_network_create(&rng, &style, &network);
    check_network(&rng, &network, &t);
    random_network_free(&network);
  }
  return t;
}

static void intervals_agree(void **state) {
  (void)state;
  for (int quantized = 0; quantized < 2; quantized++) {
    tally t = check_many(test_cases(CASES), quantized == 1);
    assert_int_equal(t.outside, 0);
    assert_int_equal(t.apart, 0);
    assert_true(t.sharp > 0.99 * (double)t.elements);
  }
}

/* -------------------------------------------------------------------------------------------------- decided by hand */

static double code_at(float x, float scale, float zero, qb_code_rounding rounding) {
  network_builder b;
  network_builder_init(&b, QB_SHAPE(1, 1));
  qb_value_id s = network_constant(&b, QB_SHAPE(1), &scale), z = network_constant(&b, QB_SHAPE(1), &zero);
  qb_attributes attributes = {.quantize = {.lo = 0, .hi = 255, .rounding = rounding}};
  qb_graph graph = network_builder_finish(&b, network_node(&b, QB_OP_QUANTIZE_LINEAR, (qb_value_id[]){b.input, s, z}, 3,
                                                           &attributes, NULL));
  qb_run *run = run_once(&graph, QB_ENGINE_EXACT, &x);
  double code = *qb_run_value_double(run, graph.outputs[0]);
  assert_true(*qb_run_radius(run, graph.outputs[0]) == 0);
  qb_run_free(run);
  qb_graph_free(&graph);
  return code;
}

static void ties_are_decided(void **state) {
  (void)state;
  assert_true(code_at(2.5f, 1, 10, QB_ROUND_EVEN) == 12);
  assert_true(code_at(3.5f, 1, 10, QB_ROUND_EVEN) == 14);
  assert_true(code_at(nextafterf(2.5f, 3), 1, 10, QB_ROUND_EVEN) == 13);
  assert_true(code_at(2.5f, 1, 11, QB_ROUND_EVEN) == 13);
  assert_true(code_at(2.5f, 1, 11, QB_ROUND_SHIFTED) == 14);
  assert_true(code_at(2.5f, 1, 10, QB_ROUND_HALF_UP) == 13);
  assert_true(code_at(-2.5f, 1, 10, QB_ROUND_HALF_UP) == 8);
  assert_true(code_at(2.999f, 1, 10, QB_ROUND_DOWN) == 12);
  assert_true(code_at(-2.5f, 1, 10, QB_ROUND_EVEN) == 8);
  assert_true(code_at(-1e20f, 1, 10, QB_ROUND_EVEN) == 0);
  assert_true(code_at(1e20f, 1, 10, QB_ROUND_EVEN) == 255);
}

/* 3.5 - 2^-44 rounds to 3, but with 40 bits behind the point nobody knows. */
static bool contains_the_code(void) {
  float x = 3.5f, shift = -0x1p-44f, scale = 1, zero = 0;
  network_builder b;
  network_builder_init(&b, QB_SHAPE(1, 1));
  qb_value_id c = network_constant(&b, QB_SHAPE(1, 1), &shift), s = network_constant(&b, QB_SHAPE(1), &scale);
  qb_value_id z = network_constant(&b, QB_SHAPE(1), &zero), y = network_binary(&b, QB_OP_ADD, b.input, c);
  qb_attributes attributes = {.quantize = {.lo = 0, .hi = 255}};
  qb_graph graph = network_builder_finish(&b, network_node(&b, QB_OP_QUANTIZE_LINEAR, (qb_value_id[]){y, s, z}, 3,
                                                           &attributes, NULL));
  qb_run *run = run_once(&graph, QB_ENGINE_EXACT, &x);
  assert_true(*qb_run_value_double(run, graph.outputs[0]) == 3 && *qb_run_radius(run, graph.outputs[0]) == 0);
  qb_run_free(run);
  qb_exact_fraction = 2;
  run = run_once(&graph, QB_ENGINE_EXACT, &x);
  qb_exact_fraction = 0;
  bool contained = fabs(*qb_run_value_double(run, graph.outputs[0]) - 3) <= *qb_run_radius(run, graph.outputs[0]);
  qb_run_free(run);
  qb_graph_free(&graph);
  return contained;
}

static void both_codes_of_an_undecided_tie_are_kept(void **state) {
  (void)state;
  assert_true(contains_the_code());
  qb_exact_fault_planted = QB_EXACT_FAULT_CENTRE_CODE;
  assert_false(contains_the_code());
  qb_exact_fault_planted = QB_EXACT_FAULT_NONE;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(intervals_agree),
      cmocka_unit_test(ties_are_decided),
      cmocka_unit_test(both_codes_of_an_undecided_tie_are_kept),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  flint_cleanup();
  return failed;
}
