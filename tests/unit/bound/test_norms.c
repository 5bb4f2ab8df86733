/* Row norms and changes of layers against sums done by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bound/norms.h"
#include "support/network_builder.h"

static void is_tight_upper(double computed, double exact) {
  assert_true(computed >= exact);
  assert_true(computed <= exact * (1 + 1e-12));
}

static void rows_of_a_matrix(void **state) {
  (void)state;
  network_builder builder;
  const float w[] = {1, -2, 3, 0.5f, 0.25f, -7}, b[] = {-4, 1};
  network_builder_init(&builder, QB_SHAPE(1, 3));
  qb_graph graph = network_builder_finish(&builder, network_gemm(&builder, builder.input, 2, w, b));
  qb_graph other = network_clone(&graph);
  qb_linear linear, changed;
  assert_true(qb_graph_linear(&graph, 0, &linear));
  network_edit(&other, linear.weight)[1] = -2.5f;
  network_edit(&other, linear.bias)[0] = -4.25f;
  assert_true(qb_graph_linear(&other, 0, &changed));

  qb_layer_norms norms;
  qb_layer_change change;
  assert_int_equal(qb_layer_norms_of(&graph, &linear, &norms, NULL), QB_OK);
  is_tight_upper(norms.weight, 7.75);
  is_tight_upper(norms.bias, 4);
  is_tight_upper(norms.joint, 10);
  assert_int_equal(qb_layer_norms_and_change(&other, &changed, &graph, &linear, &norms, &change, NULL), QB_OK);
  is_tight_upper(norms.joint, 10.75);
  is_tight_upper(change.weight, 0.5);
  is_tight_upper(change.bias, 0.25);

  assert_int_equal(qb_layer_norms_and_change(&graph, &linear, &graph, &linear, &norms, &change, NULL), QB_OK);
  assert_true(change.weight == 0 && change.bias == 0);
  qb_graph_free(&other);
  qb_graph_free(&graph);
}

static void filters_of_a_grouped_convolution(void **state) {
  (void)state;
  network_builder builder;
  float w[2 * 4]; /* (2, 1, 2, 2), two groups */
  for (int i = 0; i < 8; i++)
    w[i] = (float)(i - 4);
  network_builder_init(&builder, QB_SHAPE(1, 2, 3, 3));
  qb_graph graph =
      network_builder_finish(&builder, network_conv(&builder, builder.input, 2, network_window(2, 1, 0), 2, w, NULL));
  qb_linear linear;
  qb_layer_norms norms;
  assert_true(qb_graph_linear(&graph, 0, &linear));
  assert_int_equal(qb_layer_norms_of(&graph, &linear, &norms, NULL), QB_OK);
  is_tight_upper(norms.weight, 10); /* 4 + 3 + 2 + 1 */
  assert_true(norms.bias == 0);
  qb_graph_free(&graph);
}

static void filters_of_a_transposed_convolution(void **state) {
  (void)state;
  network_builder builder;
  const float w[] = {1, 2, -3, 4}; /* (IC 2, OC 2, 1, 1): output 0 meets 1, -3; output 1 meets 2, 4 */
  network_builder_init(&builder, QB_SHAPE(1, 2, 1, 1));
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.conv = (qb_conv_attributes){.window = network_window(1, 1, 0), .group = 1};
  qb_value_id ids[2] = {builder.input, network_constant(&builder, QB_SHAPE(2, 2, 1, 1), w)};
  qb_graph graph =
      network_builder_finish(&builder, network_node(&builder, QB_OP_CONV_TRANSPOSE, ids, 2, &attributes, NULL));
  qb_linear linear;
  qb_layer_norms norms;
  assert_true(qb_graph_linear(&graph, 0, &linear));
  assert_int_equal(qb_layer_norms_of(&graph, &linear, &norms, NULL), QB_OK);
  is_tight_upper(norms.weight, 6);
  qb_graph_free(&graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_of_a_matrix),
      cmocka_unit_test(filters_of_a_grouped_convolution),
      cmocka_unit_test(filters_of_a_transposed_convolution),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
