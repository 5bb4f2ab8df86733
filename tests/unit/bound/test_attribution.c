/* Shares of the bound: by hand on two layers, and on random networks never below the layerwise bound with that one
 * layer changed, which every operator's reverse rule has to allow. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bound/attribution.h"
#include "bound/layerwise.h"
#include "support/network_builder.h"
#include "support/random_network.h"

enum { NETWORKS = 300 };

static void test_two_layers(void **state) {
  (void)state;
  const float w1[] = {1, -2, 0.5f, 4}, w2[] = {3, -0.25f};
  const float first[] = {1.5f, -2, 0.5f, 3}, second[] = {3, 0};
  network_builder net;
  qb_domain domain;
  qb_attribution *attribution;
  qb_linear linear;
  network_builder_init(&net, QB_SHAPE(1, 2));
  qb_value_id hidden = network_unary(&net, QB_OP_RELU, network_gemm(&net, net.input, 2, w1, NULL));
  qb_graph graph = network_builder_finish(&net, network_gemm(&net, hidden, 1, w2, NULL));
  assert_int_equal(qb_domain_interval(&graph, -1, 2, &domain, NULL), QB_OK);
  assert_int_equal(qb_attribution_create(&graph, &domain, &attribution, NULL), QB_OK);

  /* |W2| |dW1| max|x| = 3 * 0.5 * 2 + 0.25 * 1 * 2 */
  assert_true(qb_graph_linear(&graph, 0, &linear));
  assert_true(fabs(exp2(qb_attribution_layer(attribution, &linear, first)) - 3.5) < 1e-9);
  assert_true(isinf(qb_attribution_layer(attribution, &linear, w1)));
  /* |dW2| a: the second hidden unit is at most 0.5 * 2 + 4 * 2 */
  assert_true(qb_graph_linear(&graph, 2, &linear));
  assert_true(fabs(exp2(qb_attribution_layer(attribution, &linear, second)) - 0.25 * 9) < 1e-9);

  qb_attribution_free(attribution);
  qb_domain_free(&domain);
  qb_graph_free(&graph);
}

/* A product of two activations has a term of second order, which no linear pass can see. */
static bool has_product(const qb_graph *graph) {
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    if ((node->op == QB_OP_MUL || node->op == QB_OP_DIV) && !graph->values[node->inputs[0]].is_constant &&
        !graph->values[node->inputs[1]].is_constant)
      return true;
  }
  return false;
}

static double one_layer_bound(const qb_graph *graph, const qb_graph *changed, const qb_domain *domain) {
  qb_layerwise layerwise;
  qb_pair pair = network_pair(graph, changed);
  double bound =
      qb_layerwise_bound(&pair, domain, &layerwise, NULL) == QB_OK ? qb_magnitude_log10(layerwise.bound) : (double)NAN;
  qb_layerwise_free(&layerwise);
  network_pair_free(&pair);
  return bound;
}

/* Layers compared. */
static int check_network(const random_network *network, const qb_attribution *attribution, qb_rng *rng, int *close) {
  const qb_graph *graph = &network->original;
  int compared = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear linear;
    if (!qb_graph_linear(graph, n, &linear) || qb_graph_use_count(graph, linear.weight) != 1)
      continue;
    qb_graph changed = network_clone(graph);
    float *after = network_edit(&changed, linear.weight);
    size_t count = qb_shape_elements(&graph->values[linear.weight].shape);
    for (size_t i = 0; i < count; i++)
      after[i] += (float)(0.02 * (qb_rng_double(rng) - 0.5));
    double bound = one_layer_bound(graph, &changed, &network->domain);
    double share = qb_attribution_layer(attribution, &linear, after) * log10(2);
    char text[2000];
    if (isfinite(bound) && !(bound <= fmax(share, -12) + 1e-6)) /* a bound rounds zero up to something tiny */
      fail_msg("layer %d: bound 10^%g, attributed 10^%g\n%s", (int)n, bound, share,
               random_network_describe(network, text, sizeof text));
    compared += isfinite(bound) && bound > -12;
    *close += isfinite(bound) && bound > -12 && share - bound < 1;
    qb_graph_free(&changed);
  }
  return compared;
}

static void test_random_networks(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 11, 0);
  int compared = 0, close = 0;
  for (int i = 0; i < NETWORKS; i++) {
    random_style style = random_network_style(&rng);
    random_network network;
    qb_attribution *attribution;
    random_network_create(&rng, &style, &network);
    if (!has_product(&network.original) &&
        qb_attribution_create(&network.original, &network.domain, &attribution, NULL) == QB_OK) {
      compared += check_network(&network, attribution, &rng, &close);
      qb_attribution_free(attribution);
    }
    random_network_free(&network);
  }
  assert_true(compared > NETWORKS);
  assert_true(close > compared / 3); /* within a decade: sums over outputs, caps left out */
}

static void test_memory(void **state) {
  (void)state;
  const float w[] = {1, -2, 0.5f, 4};
  network_builder net;
  qb_domain domain;
  network_builder_init(&net, QB_SHAPE(1, 2));
  qb_graph graph = network_builder_finish(&net, network_gemm(&net, net.input, 2, w, NULL));
  assert_int_equal(qb_domain_interval(&graph, -1, 2, &domain, NULL), QB_OK);
  qb_status status = QB_ERROR_MEMORY;
  for (long n = 0; status != QB_OK && n < 100; n++) {
    qb_attribution *attribution = NULL;
    long live = qb_alloc_live();
    qb_alloc_fail_after(n);
    status = qb_attribution_create(&graph, &domain, &attribution, NULL);
    qb_alloc_fail_after(-1);
    assert_true(status == QB_OK || status == QB_ERROR_MEMORY);
    qb_attribution_free(attribution);
    assert_int_equal(qb_alloc_live(), live);
  }
  assert_int_equal(status, QB_OK);
  qb_domain_free(&domain);
  qb_graph_free(&graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_two_layers),
      cmocka_unit_test(test_random_networks),
      cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
