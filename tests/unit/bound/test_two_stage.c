/* The two-stage path bound: sums over paths computed by hand, planted faults, refusals, memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bound/fault.h"
#include "bound/two_stage.h"
#include "support/faults.h"
#include "support/network_builder.h"

typedef struct fixture {
  qb_graph original, quantized;
  qb_pair pair;
  qb_domain domain;
} fixture;

/* A network against its copy with other weights in the first layer; inputs in [-1, 1]. */
static void begin(fixture *f, qb_graph graph, const float *changed, size_t count) {
  f->original = graph;
  f->quantized = network_clone(&f->original);
  memcpy(network_edit(&f->quantized, f->original.nodes[0].inputs[1]), changed, count * sizeof *changed);
  f->pair = network_pair(&f->original, &f->quantized);
  assert_int_equal(qb_domain_interval(&f->original, -1, 1, &f->domain, NULL), QB_OK);
}

static void end(fixture *f) {
  qb_domain_free(&f->domain);
  network_pair_free(&f->pair);
  qb_graph_free(&f->quantized);
  qb_graph_free(&f->original);
}

static double bound_with(const fixture *f, qb_fault fault) {
  qb_bound bound;
  qb_bound_fault = fault;
  assert_int_equal(qb_bound_two_stage(&f->pair, &f->domain, &bound, NULL), QB_OK);
  qb_bound_fault = QB_FAULT_NONE;
  if (!bound.applies)
    fail_msg("%s", bound.why);
  return qb_magnitude_to_double(bound.value);
}

static void assert_just_above(double value, double exact) {
  if (!(value >= exact && value <= exact * 1.000001))
    fail_msg("%.17g is not just above %.17g", value, exact);
}

/* hidden units = relu(first x), output = second hidden. */
static qb_graph two_layers(const float *first, int64_t units, const float *second) {
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 1));
  qb_value_id x = network_unary(&builder, QB_OP_RELU, network_gemm(&builder, builder.input, units, first, NULL));
  return network_builder_finish(&builder, network_gemm(&builder, x, 1, second, NULL));
}

/* One path, 6 against 3: the bound is the difference. */
static void a_single_path_is_exact(void **state) {
  (void)state;
  fixture f;
  const float first[] = {2}, changed[] = {1}, second[] = {3};
  begin(&f, two_layers(first, 1, second), changed, 1);
  assert_just_above(bound_with(&f, QB_FAULT_NONE), 3);
  assert_true(bound_with(&f, QB_FAULT_MEAN_UP) < 3);
  end(&f);
}

/* F(theta) = 11, F(theta_z) = 6, F(theta') = 3, G = sqrt 18. */
static void weights_that_vanish_are_counted_apart(void **state) {
  (void)state;
  fixture f;
  const float first[] = {2, 1}, changed[] = {1, 0}, second[] = {3, 5};
  begin(&f, two_layers(first, 2, second), changed, 2);
  assert_just_above(bound_with(&f, QB_FAULT_NONE), 8);
  end(&f);
}

/* x + relu(2 x) against x + relu(x): F = 3, F' = 2, G = 1 + sqrt 2. */
static void identity_edges_are_paths_of_weight_one(void **state) {
  (void)state;
  fixture f;
  const float first[] = {2}, changed[] = {1};
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 1));
  qb_value_id x = network_unary(&builder, QB_OP_RELU, network_gemm(&builder, builder.input, 1, first, NULL));
  begin(&f, network_builder_finish(&builder, network_binary(&builder, QB_OP_ADD, builder.input, x)), changed, 1);
  assert_just_above(bound_with(&f, QB_FAULT_NONE), sqrt(25 - 4 * (3 + 2 * sqrt(2))));
  end(&f);
}

/* x + 1 against x / 4 + 1, averaged over two pixels: F = 2, F' = 1.25, G = 1.5. */
static void biases_and_averages_are_edges_too(void **state) {
  (void)state;
  fixture f;
  const float weight = 1, bias = 1, changed = 0.25f;
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 1, 1, 2));
  qb_value_id x = network_conv(&builder, builder.input, 1, network_window(1, 1, 0), 1, &weight, &bias);
  begin(&f, network_builder_finish(&builder, network_unary(&builder, QB_OP_GLOBAL_AVERAGE_POOL, x)), &changed, 1);
  assert_just_above(bound_with(&f, QB_FAULT_NONE), sqrt(3.25 * 3.25 - 9));
  end(&f);
}

/* x against -x differ by 2, the formula without its hypothesis says 0. */
static void a_change_of_sign_is_refused(void **state) {
  (void)state;
  fixture f;
  qb_bound bound;
  const float first[] = {1}, changed[] = {-1}, second[] = {1};
  begin(&f, two_layers(first, 1, second), changed, 1);
  assert_int_equal(qb_bound_two_stage(&f.pair, &f.domain, &bound, NULL), QB_OK);
  assert_false(bound.applies);
  assert_non_null(strstr(bound.why, "sign"));
  assert_true(bound_with(&f, QB_FAULT_NO_SIGN_CHECK) < 1);
  end(&f);
}

static void caps_are_refused_by_name(void **state) {
  (void)state;
  fixture f;
  qb_bound bound;
  const float first[] = {1}, changed[] = {0.5f};
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 1));
  qb_value_id x = network_gemm(&builder, builder.input, 1, first, NULL);
  begin(&f, network_builder_finish(&builder, network_clip(&builder, x, 0, 6)), changed, 1);
  assert_int_equal(qb_bound_two_stage(&f.pair, &f.domain, &bound, NULL), QB_OK);
  assert_false(bound.applies);
  assert_non_null(strstr(bound.why, "Clip"));
  end(&f);
}

static qb_status bound_once(void *context, qb_error *error) {
  fixture *f = context;
  qb_bound bound;
  return qb_bound_two_stage(&f->pair, &f->domain, &bound, error);
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  fixture f;
  const float first[] = {2, 1}, changed[] = {1, 0}, second[] = {3, 5};
  begin(&f, two_layers(first, 2, second), changed, 2);
  fault_every_allocation(bound_once, &f, 1000);
  end(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_single_path_is_exact),
      cmocka_unit_test(weights_that_vanish_are_counted_apart),
      cmocka_unit_test(identity_edges_are_paths_of_weight_one),
      cmocka_unit_test(biases_and_averages_are_edges_too),
      cmocka_unit_test(a_change_of_sign_is_refused),
      cmocka_unit_test(caps_are_refused_by_name),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
