/* The checker's own recomputation of spectral: against the engine on random pairs, and with planted witnesses. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bound/certificate.h"
#include "check/check_bound.h"
#include "graph/quantizer.h"
#include "support/random_network.h"

/* As the certificate file has them: with a margin for the checker's own rounding. */
static double witness(double sigma) { return sigma * (1 + 1e-9); }

static claim_norms gate_witness(const qb_spectral_gate_norms *n) {
  return (claim_norms){witness(n->joint), witness(n->inner), witness(n->outer)};
}

static claim make_claim(const random_network *network, const qb_spectral_result *spectral) {
  const qb_graph *graph = network->pair.quantized;
  claim c = {.elements = network->domain.count, .output = -1, .method = "spectral"};
  qb_arena_init(&c.arena);
  c.domain = qb_arena_alloc(&c.arena, (size_t)c.elements, sizeof *c.domain);
  c.layers = qb_arena_alloc(&c.arena, (size_t)graph->node_count, sizeof *c.layers);
  c.gates = qb_arena_alloc(&c.arena, (size_t)graph->node_count, sizeof *c.gates);
  assert_true(c.domain != NULL && c.layers != NULL && c.gates != NULL);
  for (int64_t i = 0; i < c.elements; i++)
    c.domain[i] = (range){(double)network->domain.lo[i], (double)network->domain.hi[i]};
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_spectral_layer *l = &spectral->layers[n];
    qb_linear linear;
    if (qb_graph_linear(graph, n, &linear))
      c.layers[c.layer_count++] =
          (claim_layer){n, {witness(l->sigma), witness(l->sigma_quantized), witness(l->sigma_difference)}};
  }
  for (int32_t k = 0; k < spectral->gate_count; k++) {
    const qb_spectral_gate *g = &spectral->gates[k];
    claim_gate *to = &c.gates[c.gate_count++];
    *to = (claim_gate){.node = g->node,
                       .side = {g->side[0], g->side[1]},
                       .channels = g->channels,
                       .has_quantized = !g->perturbed,
                       .norms = {gate_witness(&g->original), gate_witness(&g->quantized)}};
    to->scaling = qb_arena_alloc(&c.arena, (size_t)g->channels, sizeof *to->scaling);
    assert_non_null(to->scaling);
    memcpy(to->scaling, g->scaling, (size_t)g->channels * sizeof *to->scaling);
  }
  c.weights = qb_arena_alloc(&c.arena, (size_t)graph->node_count, sizeof *c.weights);
  assert_non_null(c.weights);
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const double *t = spectral->weights[graph->nodes[n].output];
    int64_t channels = t == NULL ? 0 : graph->values[graph->nodes[n].output].shape.dims[1];
    if (t == NULL)
      continue;
    claim_weights *to = &c.weights[c.weight_count++];
    *to = (claim_weights){n, channels, qb_arena_alloc(&c.arena, (size_t)channels, sizeof(double))};
    assert_non_null(to->weights);
    memcpy(to->weights, t, (size_t)channels * sizeof *t);
  }
  return c;
}

static recomputed recompute(const claim *c, const random_network *network) {
  qb_error error;
  recomputed own = {0};
  if (recompute_by_norms(c, &network->pair, &own, &error) != QB_OK)
    fail_msg("%s", error.message);
  return own;
}

static int planted, noticed, forgeries;

static void plant(const claim *c, const random_network *network, double *number, double factor) {
  double old = *number;
  if (old < 1e-6)
    return;
  *number *= factor;
  recomputed own = recompute(c, network);
  planted++;
  noticed += own.refuted;
  *number = old;
}

/* Every norm made smaller by a fifth, which is more than the engine's margin, and a torus too small. */
/* Weights of one layer's output that nothing else shares, with norms that fit them: no smaller bound may come of it. */
static void forge_weights(claim *c, const random_network *network) {
  double honest = recompute(c, network).bound;
  for (int64_t k = 0; k < c->layer_count; k++) {
    const qb_shape *shape = &network->quantized.values[network->quantized.nodes[c->layers[k].node].output].shape;
    double large[256];
    claim_weights *saved = c->weights, more[128];
    if (shape->rank < 2 || shape->dims[1] > 256 || c->weight_count >= 128)
      continue;
    for (int64_t i = 0; i < shape->dims[1]; i++)
      large[i] = 1e3;
    for (int64_t i = 0; i < c->weight_count; i++) {
      more[i] = c->weights[i];
      for (int64_t j = 0; c->weights[i].node == c->layers[k].node && j < shape->dims[1]; j++)
        large[j] = 1e3 * c->weights[i].weights[j];
    }
    claim_layer layer = c->layers[k];
    for (int i = 0; i < CLAIM_SIGMAS; i++)
      c->layers[k].sigma[i] *= 1e-3 * (1 + 1e-9);
    more[c->weight_count] = (claim_weights){c->layers[k].node, shape->dims[1], large};
    c->weights = more;
    c->weight_count++;
    recomputed forged = recompute(c, network);
    c->weight_count--;
    c->weights = saved;
    c->layers[k] = layer;
    assert_true(forged.refuted || !forged.known || forged.bound >= honest * (1 - 1e-6));
    forgeries += forged.known && !forged.refuted;
  }
}

static void plant_all(claim *c, const random_network *network) {
  for (int64_t k = 0; k < c->layer_count; k++)
    for (int i = 0; i < CLAIM_SIGMAS; i++)
      plant(c, network, &c->layers[k].sigma[i], 0.8);
  for (int64_t k = 0; k < c->weight_count; k++) {
    double weight = c->weights[k].weights[0];
    c->weights[k].weights[0] = -weight;
    assert_true(recompute(c, network).refuted);
    c->weights[k].weights[0] = weight;
    c->weights[k].channels++;
    assert_true(recompute(c, network).refuted);
    c->weights[k].channels--;
  }
  forge_weights(c, network);
  for (int64_t k = 0; k < c->gate_count; k++) {
    claim_gate *g = &c->gates[k];
    plant(c, network, &g->norms[0].joint, 0.8);
    plant(c, network, &g->norms[0].inner, 0.8);
    plant(c, network, &g->norms[0].outer, 0.8);
    int64_t side = g->side[0];
    g->side[0] = side > 1 ? side - 1 : 0;
    assert_true(recompute(c, network).refuted);
    g->side[0] = side;
    double scaling = g->scaling[0];
    g->scaling[0] = -scaling;
    assert_true(recompute(c, network).refuted);
    g->scaling[0] = scaling;
    int64_t node = g->node;
    g->node = 0;
    assert_true(recompute(c, network).refuted || recompute(c, network).bound > 0);
    g->node = node;
  }
}

/* Random network number i, and what the engine proves by `method`; infinite where it does not apply. */
static double bound_case(uint64_t stream, uint64_t i, qb_bound_method method, random_network *network,
                         qb_worst_case *worst) {
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, stream, i);
  random_style style = random_network_style(&rng);
  random_network_create(&rng, &style, network);
  if (i % 3 == 1) { /* also for evaluations in float32 */
    network->pair.float32 = true;
    qb_graph_allow_steps(&network->quantized, 1);
  }
  qb_status status = qb_worst_case_bound(&network->pair, &network->domain, UINT32_C(1) << method, -1, worst, &error);
  return status == QB_OK && worst->proved ? qb_magnitude_to_double(worst->bound) : INFINITY;
}

/* What the checker says, which must not be above `limit`. */
static recomputed confirm(const claim *c, const random_network *network, uint64_t i, double limit) {
  char text[4000];
  recomputed own = recompute(c, network);
  if (own.refuted || (own.known && own.bound > limit))
    fail_msg("network %llu: at most %.17g, checker %.17g %s\n%s", (unsigned long long)i, limit, own.bound, own.why,
             random_network_describe(network, text, sizeof text));
  return own;
}

/* The product needs the same witness, and intervals beside it. */
static void test_product_follows_the_engine(void **state) {
  (void)state;
  int compared = 0, equal = 0, smaller = 0, unknown = 0, noticed_here = 0, changed = 0;
  for (uint64_t i = 0; i < 600; i++) {
    random_network network;
    qb_worst_case worst;
    double proved = bound_case(1214, i, QB_BOUND_PRODUCT, &network, &worst);
    double engine = isfinite(proved) ? qb_worst_case_claimed(&worst, proved) : INFINITY;
    if (isfinite(engine) && proved > 1e-10) {
      claim c = make_claim(&network, &worst.spectral);
      snprintf(c.method, sizeof c.method, "product");
      recomputed own = confirm(&c, &network, i, engine);
      compared += own.known;
      unknown += !own.known;
      equal += own.known && own.bound > proved * (1 - 1e-5);
      snprintf(c.method, sizeof c.method, "spectral");
      recomputed alone = recompute(&c, &network);
      smaller += alone.known && !alone.refuted && own.bound < 0.99 * alone.bound;
      snprintf(c.method, sizeof c.method, "product");
      if (c.layer_count > 0 && c.layers[0].sigma[0] > 1e-6) {
        c.layers[0].sigma[0] *= 0.8;
        changed++;
        noticed_here += recompute(&c, &network).refuted;
      }
      claim_free(&c);
    }
    qb_worst_case_free(&worst);
    random_network_free(&network);
  }
  print_message("product: %d compared, %d equal, %d smaller than spectral, %d unknown; %d norms planted, %d noticed\n",
                compared, equal, smaller, unknown, changed, noticed_here);
  assert_int_equal(unknown, 0);
  assert_true(compared >= 300 && smaller >= 100);
  assert_true(equal > compared * 8 / 10);
  assert_true(noticed_here == changed && changed >= 100);
}

static void test_follows_the_engine(void **state) {
  (void)state;
  int compared = 0, equal = 0, unknown = 0, gates = 0, weighted = 0;
  for (uint64_t i = 0; i < 600; i++) {
    random_network network;
    qb_worst_case worst;
    double engine = bound_case(1213, i, QB_BOUND_SPECTRAL, &network, &worst);
    if (isfinite(engine) && engine > 1e-10) {
      claim c = make_claim(&network, &worst.spectral);
      recomputed own = confirm(&c, &network, i, engine * (1 + 1e-6));
      compared += own.known;
      unknown += !own.known;
      equal += own.known && own.bound > engine * (1 - 1e-6);
      gates += c.gate_count > 0;
      weighted += c.weight_count > 0;
      if (own.known && i % 4 == 0)
        plant_all(&c, &network);
      claim_free(&c);
    }
    qb_worst_case_free(&worst);
    random_network_free(&network);
  }
  print_message("%d forgeries of weights\n", forgeries);
  print_message("%d compared, %d equal, %d with gates, %d with weights, %d unknown; %d norms planted, %d noticed\n",
                compared, equal, gates, weighted, unknown, planted, noticed);
  assert_true(forgeries >= 10);
  assert_int_equal(unknown, 0);
  assert_true(compared >= 200 && gates >= 10 && weighted >= 10);
  assert_true(equal > compared * 8 / 10); /* the engine also counts float32 ties of quantizers */
  assert_true(planted >= 50 && noticed > planted * 9 / 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_follows_the_engine),
      cmocka_unit_test(test_product_follows_the_engine),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
