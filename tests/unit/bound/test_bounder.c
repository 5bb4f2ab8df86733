/* The table of bounds of one network against many: names, selection, the best, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bound/bound.h"
#include "support/network_builder.h"

typedef struct fixture {
  qb_graph original, quantized;
  qb_pair pair;
  qb_domain domain;
} fixture;

/* x in [-1, 1]: 2 x + 1, Relu, 3 x against 1.5 x + 1, Relu, 3 x. */
static void begin(fixture *f) {
  network_builder builder;
  const float first[] = {2}, bias[] = {1}, second[] = {3};
  network_builder_init(&builder, QB_SHAPE(1, 1));
  qb_value_id x = network_unary(&builder, QB_OP_RELU, network_gemm(&builder, builder.input, 1, first, bias));
  f->original = network_builder_finish(&builder, network_gemm(&builder, x, 1, second, NULL));
  f->quantized = network_clone(&f->original);
  *network_edit(&f->quantized, f->original.nodes[0].inputs[1]) = 1.5f;
  f->pair = network_pair(&f->original, &f->quantized);
  assert_int_equal(qb_domain_interval(&f->original, -1, 1, &f->domain, NULL), QB_OK);
}

static void end(fixture *f) {
  qb_domain_free(&f->domain);
  network_pair_free(&f->pair);
  qb_graph_free(&f->quantized);
  qb_graph_free(&f->original);
}

static void the_best_is_the_smallest_graph_bound(void **state) {
  (void)state;
  fixture f;
  qb_bounder *bounder;
  qb_bounds bounds;
  const qb_bound_conventions conventions = {0};
  begin(&f);
  assert_int_equal(qb_bounder_create(&f.original, &f.domain, &conventions, &bounder, NULL), QB_OK);
  assert_int_equal(qb_bounder_layers(bounder), 2);
  assert_string_equal(qb_bounder_dropped(bounder), "");
  assert_int_equal(qb_bounder_evaluate(bounder, &f.pair, &bounds, NULL), QB_OK);
  assert_true(bounds.chain_is_network);
  assert_true(bounds.delta >= 0.5 && bounds.delta < 0.5000001);
  const qb_bound *layerwise = &bounds.bound[QB_BOUND_LAYERWISE], *best = &bounds.bound[QB_BOUND_BEST];
  double value = qb_magnitude_to_double(layerwise->value);
  assert_true(layerwise->applies && value >= 1.5 && value < 1.5000001);
  assert_true(best->applies && qb_magnitude_compare(best->value, layerwise->value) == 0);
  for (int m = 0; m < QB_BOUND_BEST; m++) {
    const qb_bound *bound = &bounds.bound[m];
    assert_true(bound->applies ? bound->why[0] == '\0' : bound->why[0] != '\0');
    assert_true(!bound->applies || qb_magnitude_to_double(bound->value) >= 1.5);
  }
  qb_bounder_free(bounder);
  end(&f);
}

static void what_conventions_drop_is_named(void **state) {
  (void)state;
  fixture f;
  qb_bounder *bounder;
  qb_bounds bounds;
  const qb_bound_conventions conventions = {.drop_bias = true};
  begin(&f);
  assert_int_equal(qb_bounder_create(&f.original, &f.domain, &conventions, &bounder, NULL), QB_OK);
  assert_string_equal(qb_bounder_dropped(bounder), "1 bias");
  assert_int_equal(qb_bounder_evaluate(bounder, &f.pair, &bounds, NULL), QB_OK);
  assert_false(bounds.chain_is_network);
  assert_int_equal(bounds.bound[QB_BOUND_CNN].form, QB_FORM_PLAIN);
  qb_bounder_free(bounder);
  end(&f);
}

static void names_are_those_of_the_reports(void **state) {
  (void)state;
  assert_string_equal(qb_bound_method_name(QB_BOUND_PRIOR), "prior");
  assert_string_equal(qb_bound_method_name(QB_BOUND_CHAIN_UNSUMMED), "chain_unsummed");
  assert_string_equal(qb_bound_method_name(QB_BOUND_LAYERWISE), "layerwise");
  assert_string_equal(qb_bound_method_name(QB_BOUND_BEST), "best");
  assert_false(qb_bound_method_is_graph(QB_BOUND_CNN));
  assert_true(qb_bound_method_is_graph(QB_BOUND_LAYERWISE) && qb_bound_method_is_graph(QB_BOUND_BEST));
  assert_string_equal(qb_form_name(QB_FORM_G3), "G3");
}

static void strangers_are_refused(void **state) {
  (void)state;
  fixture f, other;
  qb_bounder *bounder;
  qb_bounds bounds;
  qb_error error;
  const qb_bound_conventions conventions = {0};
  begin(&f);
  begin(&other);
  assert_int_equal(qb_bounder_create(&f.original, &f.domain, &conventions, &bounder, &error), QB_OK);
  assert_int_equal(qb_bounder_evaluate(bounder, &other.pair, &bounds, &error), QB_ERROR_ARGUMENT);
  qb_bounder_free(bounder);
  f.domain.count = 0;
  assert_int_equal(qb_bounder_create(&f.original, &f.domain, &conventions, &bounder, &error), QB_ERROR_SHAPE);
  assert_null(bounder);
  end(&other);
  end(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_best_is_the_smallest_graph_bound),
      cmocka_unit_test(what_conventions_drop_is_named),
      cmocka_unit_test(names_are_those_of_the_reports),
      cmocka_unit_test(strangers_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
