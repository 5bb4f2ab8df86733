/* The published bounds: the formulas against hand computations, hypotheses, conventions, and the counterexample that
 * forbids the plain formulas with biases. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bound/published.h"
#include "support/network_builder.h"

static const qb_bound_conventions plain_conventions = {0};

static qb_published bound_pair(const qb_graph *original, const qb_graph *quantized,
                               const qb_bound_conventions *conventions, double radius) {
  qb_chain chain;
  qb_published published;
  qb_error error;
  qb_pair pair = network_pair(original, quantized);
  assert_int_equal(qb_chain_extract(original, conventions, &chain, &error), QB_OK);
  if (qb_published_bounds(&chain, &pair, radius, &published, &error) != QB_OK)
    fail_msg("%s", error.message);
  qb_chain_free(&chain);
  network_pair_free(&pair);
  return published;
}

static void is_tight_upper(qb_bound bound, qb_form form, double exact) {
  assert_true(bound.applies);
  assert_int_equal(bound.form, form);
  double value = qb_magnitude_to_double(bound.value);
  if (!(value >= exact && value <= exact * (1 + 1e-6)))
    fail_msg("bound %.12g, expected %.12g", value, exact);
}

/* A chain of scalar layers with Relu between them; biases may be NULL. */
static qb_graph scalar_chain(int count, const float *weights, const float *biases) {
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 1));
  qb_value_id x = builder.input;
  for (int l = 0; l < count; l++) {
    if (l > 0)
      x = network_unary(&builder, QB_OP_RELU, x);
    x = network_gemm(&builder, x, 1, &weights[l], biases == NULL ? NULL : &biases[l]);
  }
  return network_builder_finish(&builder, x);
}

static qb_value_id weight_of(const qb_graph *graph, int layer) {
  qb_linear linear;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (qb_graph_linear(graph, n, &linear) && layer-- == 0)
      return linear.weight;
  fail_msg("no such layer");
  return QB_NONE;
}

/* Theory section 2: L = 3, W_1 = W_2 = 0, b_2 = r = 0.1, W_3: r -> r - delta, D = 1, delta = 1e-4. True error
 * delta * b_2 = 1e-5; the plain formula gives 3 r^2 delta = 3e-6. */
static void biases_forbid_the_plain_formula(void **state) {
  (void)state;
  const float weights[] = {0, 0, 0.1f}, biases[] = {0, 0.1f, 0};
  qb_graph original = scalar_chain(3, weights, biases), quantized = network_clone(&original);
  float *w = network_edit(&quantized, weight_of(&quantized, 2));
  *w = 0.1f - 1e-4f;
  double delta = (double)0.1f - (double)*w, true_error = delta * (double)0.1f;
  qb_published p = bound_pair(&original, &quantized, &plain_conventions, 1);

  double plain = 3 * 0.1 * 0.1 * delta;
  assert_true(plain < true_error);
  assert_int_equal(p.biased_layers, 1);
  const qb_bound *bounds[] = {&p.prior, &p.general, &p.cnn, &p.chain_unsummed};
  for (int i = 0; i < 4; i++) {
    assert_true(bounds[i]->applies);
    assert_true(qb_magnitude_to_double(bounds[i]->value) >= true_error);
    assert_true(i == 0 || bounds[i]->form != QB_FORM_PLAIN);
  }

  qb_bound_conventions dropped = {.drop_bias = true};
  p = bound_pair(&original, &quantized, &dropped, 1); /* the paper's network: plain, and not this network */
  is_tight_upper(p.general, QB_FORM_PLAIN, delta * 3 * (double)0.1f * 0);
  assert_false(p.is_network);
  qb_graph_free(&quantized);
  qb_graph_free(&original);
}

static void plain_formulas_of_a_chain(void **state) {
  (void)state;
  const float weights[] = {3, -2, 0.5f};
  qb_graph original = scalar_chain(3, weights, NULL), quantized = network_clone(&original);
  *network_edit(&quantized, weight_of(&quantized, 1)) = -2.25f;
  qb_published p = bound_pair(&original, &quantized, &plain_conventions, 2);
  /* r = 3, 2.25, 0.5; r_mean^2 = 6.75; others: 1.125, 1.5, 6.75 */
  assert_true(p.delta >= 0.25 && p.delta < 0.2500001);
  assert_true(p.is_network);
  is_tight_upper(p.prior, QB_FORM_PLAIN, 3 * 1 * 9 * 9 * 0.25);
  is_tight_upper(p.general, QB_FORM_PLAIN, 2 * 6.75 * 3 * 0.25);
  is_tight_upper(p.cnn, QB_FORM_PLAIN, 2 * 6.75 * 3 * 0.25);
  is_tight_upper(p.chain_unsummed, QB_FORM_PLAIN, 2 * 0.25 * (1.125 + 1.5 + 6.75));
  qb_graph_free(&quantized);
  qb_graph_free(&original);
}

static void forms_with_biases(void **state) {
  (void)state;
  const float weights[] = {2, 2}, biases[] = {1, 0};
  qb_graph original = scalar_chain(2, weights, biases), quantized = network_clone(&original);
  *network_edit(&quantized, weight_of(&quantized, 0)) = 2.5f;
  qb_published p = bound_pair(&original, &quantized, &plain_conventions, 1);
  /* G1: r = 3.5, 2: max(D,1) * 3.5 * 2 * 0.5 = 3.5; G3: r = 2.5, 2: 2.5 (1 + 2) 0.5 = 3.75;
   * G4: e_1 = 0.5, a_1 = 3.5, e_2 = 1 + 3.5 * 0.5 = 2.75 */
  is_tight_upper(p.general, QB_FORM_G4, 2.75);
  is_tight_upper(p.chain_unsummed, QB_FORM_G4, 2.75);
  is_tight_upper(p.prior, QB_FORM_PLAIN, 2 * 1 * 4 * 2.5 * 0.5);
  qb_graph_free(&quantized);
  qb_graph_free(&original);
}

static void identical_networks_have_bound_zero(void **state) {
  (void)state;
  const float weights[] = {3, -2, 0.5f}, biases[] = {1, 2, 3};
  qb_graph original = scalar_chain(3, weights, biases), quantized = network_clone(&original);
  qb_published p = bound_pair(&original, &quantized, &plain_conventions, 2);
  assert_true(p.delta == 0);
  assert_true(qb_magnitude_to_double(p.prior.value) == 0 && qb_magnitude_to_double(p.cnn.value) == 0);
  qb_graph_free(&quantized);
  qb_graph_free(&original);
}

/* conv 3x3 (2 -> 4) on 5x5, pad 1, pool 2x2, conv 1x1 (4 -> 1): units 50, 4 * 2 * 2; entries 18, 4. */
static qb_graph small_cnn(void) {
  network_builder builder;
  float w[4 * 2 * 9], v[4] = {1, 1, 1, 1};
  for (int i = 0; i < 72; i++)
    w[i] = 0.5f;
  network_builder_init(&builder, QB_SHAPE(1, 2, 5, 5));
  qb_value_id x = network_conv(&builder, builder.input, 4, network_window(3, 1, 1), 1, w, NULL);
  x = network_unary(&builder, QB_OP_RELU, x);
  qb_attributes pool;
  memset(&pool, 0, sizeof pool);
  pool.pool.window = network_window(2, 2, 0);
  x = network_node(&builder, QB_OP_MAX_POOL, &x, 1, &pool, NULL);
  x = network_conv(&builder, x, 1, network_window(1, 1, 0), 1, v, NULL);
  return network_builder_finish(&builder, x);
}

static void convolutions_count_taps_and_units(void **state) {
  (void)state;
  qb_graph original = small_cnn(), quantized = network_clone(&original);
  network_edit(&quantized, weight_of(&quantized, 0))[7] = 0.25f;
  qb_published p = bound_pair(&original, &quantized, &plain_conventions, 1);
  assert_true(p.is_network);
  /* r = 9, 4 */
  is_tight_upper(p.general, QB_FORM_PLAIN, 9 * (50 + 16) * 0.25);
  is_tight_upper(p.cnn, QB_FORM_PLAIN, 9 * (18 + 4) * 0.25);
  is_tight_upper(p.chain_unsummed, QB_FORM_PLAIN, 0.25 * (18 * 4 + 4 * 9));
  is_tight_upper(p.prior, QB_FORM_PLAIN, 2 * 100 * 4 * 9 * 0.25);

  qb_bound_conventions channels = {.width_channels = true};
  p = bound_pair(&original, &quantized, &channels, 1);
  assert_false(p.is_network);
  is_tight_upper(p.general, QB_FORM_PLAIN, 9 * (2 + 4) * 0.25);
  is_tight_upper(p.prior, QB_FORM_PLAIN, 2 * 4 * 4 * 9 * 0.25);
  qb_graph_free(&quantized);
  qb_graph_free(&original);
}

/* input -> conv a -> relu -> [conv b -> relu -> conv c] + [1x1 conv s] -> relu -> conv d */
static qb_graph residual(void) {
  network_builder builder;
  float w[4 * 9] = {1}, s[4] = {1, 2, 3, 4};
  network_builder_init(&builder, QB_SHAPE(1, 2, 4, 4));
  qb_value_id a = network_conv(&builder, builder.input, 2, network_window(3, 1, 1), 1, w, NULL);
  a = network_unary(&builder, QB_OP_RELU, a);
  qb_value_id b = network_conv(&builder, a, 2, network_window(3, 1, 1), 1, w, NULL);
  b = network_unary(&builder, QB_OP_RELU, b);
  qb_value_id c = network_conv(&builder, b, 2, network_window(3, 1, 1), 1, w, NULL);
  qb_value_id skip = network_conv(&builder, a, 2, network_window(1, 1, 0), 1, s, NULL);
  qb_value_id x = network_unary(&builder, QB_OP_RELU, network_binary(&builder, QB_OP_ADD, c, skip));
  return network_builder_finish(&builder, network_conv(&builder, x, 2, network_window(3, 1, 1), 1, w, NULL));
}

static void shortcut_convolutions_are_found_by_structure(void **state) {
  (void)state;
  qb_graph graph = residual();
  bool downsample[16];
  assert_int_equal(qb_chain_find_downsamples(&graph, downsample, NULL), QB_OK);
  int found = 0;
  for (qb_node_id n = 0; n < graph.node_count; n++)
    if (downsample[n]) {
      found++;
      assert_int_equal(graph.nodes[n].attributes.conv.window.kernel[0], 1);
    }
  assert_int_equal(found, 1);

  qb_chain chain;
  qb_bound_conventions conventions = {.drop_downsample = true};
  assert_int_equal(qb_chain_extract(&graph, &plain_conventions, &chain, NULL), QB_OK);
  assert_int_equal(chain.count, 5);
  assert_false(chain.is_network);
  qb_chain_free(&chain);
  assert_int_equal(qb_chain_extract(&graph, &conventions, &chain, NULL), QB_OK);
  assert_int_equal(chain.count, 4);
  assert_int_equal(chain.dropped_downsamples, 1);
  qb_chain_free(&chain);
  qb_graph_free(&graph);
}

/* conv, then a matrix: without matrices one layer remains, whose bound is that of the convolution alone. */
static void matrices_are_left_out_when_asked(void **state) {
  (void)state;
  network_builder builder;
  const float w[] = {1, 2, 3, 4}, m[] = {100, 200, 300, 400};
  network_builder_init(&builder, QB_SHAPE(1, 2, 1, 1));
  qb_value_id x = network_conv(&builder, builder.input, 2, network_window(1, 1, 0), 1, w, NULL);
  qb_shape flat = QB_SHAPE(1, 2);
  x = network_node(&builder, QB_OP_FLATTEN, &x, 1, NULL, &flat);
  x = network_gemm(&builder, x, 2, m, NULL);
  qb_graph graph = network_builder_finish(&builder, x);
  qb_chain chain;
  qb_bound_conventions conventions = {.drop_dense = true};
  assert_int_equal(qb_chain_extract(&graph, &conventions, &chain, NULL), QB_OK);
  assert_int_equal(chain.count, 1);
  assert_int_equal(chain.dropped_dense, 1);
  assert_false(chain.is_network);
  assert_true(chain.layers[0].norms.weight >= 7 && chain.layers[0].norms.weight < 7.001);
  qb_chain_free(&chain);
  assert_int_equal(qb_chain_extract(&graph, &plain_conventions, &chain, NULL), QB_OK);
  assert_int_equal(chain.count, 2);
  assert_true(chain.is_network);
  qb_chain_free(&chain);
  qb_graph_free(&graph);
}

static void batch_norm_must_be_folded_or_dropped(void **state) {
  (void)state;
  network_builder builder;
  const float w[] = {1, 2, 3, 4}, one[] = {1, 1};
  network_builder_init(&builder, QB_SHAPE(1, 2));
  qb_value_id x = network_gemm(&builder, builder.input, 2, w, NULL);
  qb_value_id ids[5] = {x};
  for (int i = 1; i < 5; i++)
    ids[i] = network_constant(&builder, QB_SHAPE(2), one);
  x = network_node(&builder, QB_OP_BATCH_NORM, ids, 5, NULL, NULL);
  qb_graph graph = network_builder_finish(&builder, x), quantized = network_clone(&graph);
  qb_published p = bound_pair(&graph, &quantized, &plain_conventions, 1);
  assert_false(p.cnn.applies);
  assert_non_null(strstr(p.cnn.why, "BatchNormalization"));
  qb_bound_conventions drop = {.drop_batch_norm = true};
  p = bound_pair(&graph, &quantized, &drop, 1);
  assert_true(p.cnn.applies);
  assert_false(p.is_network);
  qb_graph_free(&quantized);
  qb_graph_free(&graph);
}

/* 200 layers of norm 1000: the bound is about 1e600. */
static void values_beyond_double(void **state) {
  (void)state;
  float weights[200];
  for (int l = 0; l < 200; l++)
    weights[l] = 1000;
  qb_graph original = scalar_chain(200, weights, NULL), quantized = network_clone(&original);
  *network_edit(&quantized, weight_of(&quantized, 5)) = 999;
  qb_published p = bound_pair(&original, &quantized, &plain_conventions, 1);
  double exact = 199 * 3 + log10(200);
  assert_true(qb_magnitude_log10(p.cnn.value) >= exact && qb_magnitude_log10(p.cnn.value) < exact + 1e-6);
  qb_graph_free(&quantized);
  qb_graph_free(&original);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(biases_forbid_the_plain_formula),
      cmocka_unit_test(plain_formulas_of_a_chain),
      cmocka_unit_test(forms_with_biases),
      cmocka_unit_test(identical_networks_have_bound_zero),
      cmocka_unit_test(convolutions_count_taps_and_units),
      cmocka_unit_test(shortcut_convolutions_are_found_by_structure),
      cmocka_unit_test(matrices_are_left_out_when_asked),
      cmocka_unit_test(batch_norm_must_be_folded_or_dropped),
      cmocka_unit_test(values_beyond_double),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
