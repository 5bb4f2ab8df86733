/* The backward pass against differences of the reference engine, on random networks of every operator. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "search/gradient.h"
#include "support/network_builder.h"
#include "support/random_network.h"

enum { MOST_INPUTS = 512, MOST_OUTPUTS = 512 };

typedef struct probe {
  qb_run *run;
  const qb_graph *graph;
  const float *x, *direction, *weights;
  int64_t inputs, outputs;
} probe;

/* weights . y(x + h direction), in double */
static double value_at(const probe *p, double h) {
  float moved[MOST_INPUTS];
  double sum = 0;
  for (int64_t i = 0; i < p->inputs; i++)
    moved[i] = p->x[i] + (float)h * p->direction[i];
  assert_int_equal(qb_run_forward(p->run, moved, 1, NULL), QB_OK);
  const double *y = qb_run_value_double(p->run, p->graph->outputs[0]);
  for (int64_t k = 0; k < p->outputs; k++)
    sum += (double)p->weights[k] * y[k];
  return sum;
}

/* Compares d/dh at 0 with the backward pass. False where a kink is at the point or near it: the two one-sided slopes,
 * or those of two step lengths, then disagree. */
static bool compare(const probe *p, const float *dx) {
  const double h = 0x1p-9;
  double here = value_at(p, 0), right = value_at(p, h / 4), left = value_at(p, -h / 4);
  double wide = (value_at(p, h) - value_at(p, -h)) / (2 * h), narrow = (right - left) / (h / 2);
  double pulled = 0, size = fabs(narrow);
  for (int64_t i = 0; i < p->inputs; i++) {
    pulled += (double)dx[i] * (double)p->direction[i];
    size += fabs((double)dx[i] * (double)p->direction[i]);
  }
  if (fabs(wide - narrow) > 1e-4 * size || fabs(right + left - 2 * here) > 1e-3 * size * h / 4)
    return false;
  if (fabs(pulled - narrow) > 2e-3 * size + 1e-9)
    fail_msg("%s: the backward pass gives %.9g, differences %.9g", p->graph->name, pulled, narrow);
  return true;
}

/* Multiples of 2^-10, so that a step of 2^-9 or 2^-11 is exact. */
static float on_grid(qb_rng *rng, float lo, float hi) {
  double inside = (double)lo + qb_rng_double(rng) * ((double)hi - (double)lo);
  return (float)(nearbyint(inside * 1024) / 1024);
}

static int compare_network(const random_network *network, qb_rng *rng) {
  const qb_graph *graph = &network->original;
  float x[MOST_INPUTS], direction[MOST_INPUTS], dx[MOST_INPUTS], weights[MOST_OUTPUTS];
  probe p = {.graph = graph, .x = x, .direction = direction, .weights = weights, .inputs = network->domain.count};
  p.outputs = (int64_t)qb_shape_elements(&graph->values[graph->outputs[0]].shape);
  if (p.inputs > MOST_INPUTS || p.outputs > MOST_OUTPUTS)
    return 0;
  for (int64_t i = 0; i < p.inputs; i++) {
    x[i] = on_grid(rng, network->domain.lo[i], network->domain.hi[i]);
    direction[i] = (float)qb_rng_below(rng, 3) - 1;
  }
  for (int64_t k = 0; k < p.outputs; k++)
    weights[k] = (float)qb_rng_below(rng, 9) - 4;
  qb_run_settings how;
  qb_error error;
  qb_gradient *gradient;
  const float *y;
  qb_run_settings_default(&how);
  how.engine = QB_ENGINE_REFERENCE;
  how.threads = 1;
  if (qb_run_create(graph, &how, &p.run, &error) != QB_OK || qb_gradient_create(graph, 1, &gradient, &error) != QB_OK ||
      qb_gradient_forward(gradient, x, &y, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_true(qb_gradient_pull(gradient, weights, 0, dx));
  int compared = compare(&p, dx);
  qb_gradient_free(gradient);
  qb_run_free(p.run);
  return compared;
}

static void the_backward_pass_is_the_derivative(void **state) {
  (void)state;
  bool seen[QB_OP_COUNT] = {false};
  int compared = 0, cases = 0;
  for (uint64_t i = 0; i < 600; i++) {
    qb_rng rng;
    qb_rng_seed(&rng, 4711, i);
    random_style style = random_network_style(&rng);
    random_network network;
    random_network_create(&rng, &style, &network);
    int one = compare_network(&network, &rng);
    for (qb_node_id n = 0; one == 1 && n < network.original.node_count; n++)
      seen[network.original.nodes[n].op] = true;
    compared += one;
    cases++;
    random_network_free(&network);
  }
  assert_true(compared > cases / 3);
  static const qb_op drawn[] = {QB_OP_CONV,         QB_OP_GEMM,     QB_OP_RELU,
                                QB_OP_CLIP,         QB_OP_MAX_POOL, QB_OP_ADD,
                                QB_OP_MUL,          QB_OP_CONCAT,   QB_OP_SIGMOID,
                                QB_OP_TANH,         QB_OP_PAD,      QB_OP_SOFTMAX,
                                QB_OP_SUB,          QB_OP_DIV,      QB_OP_TRANSPOSE,
                                QB_OP_AVERAGE_POOL, QB_OP_PRELU,    QB_OP_CONV_TRANSPOSE,
                                QB_OP_BATCH_NORM};
  for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++)
    if (!seen[drawn[i]])
      fail_msg("%s was never compared", qb_op_name(drawn[i]));
}

/* Quantizers: the identity inside their range, constant outside. */
static void quantizers_pass_straight_through(void **state) {
  (void)state;
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 3));
  const float step = 0.5f, zero = 0;
  qb_attributes codes = {.quantize = {.axis = 1, .lo = -4, .hi = 4}};
  qb_value_id scale = network_constant(&builder, (qb_shape){0}, &step),
              none = network_constant(&builder, (qb_shape){0}, &zero);
  qb_value_id down[3] = {builder.graph.inputs[0], scale, none};
  qb_value_id up[3] = {network_node(&builder, QB_OP_QUANTIZE_LINEAR, down, 3, &codes, NULL), scale, none};
  qb_graph graph =
      network_builder_finish(&builder, network_node(&builder, QB_OP_DEQUANTIZE_LINEAR, up, 3, &codes, NULL));
  const float x[3] = {0.7f, 5.0f, -5.0f}, weights[3] = {3, 3, 3};
  float dx[3];
  const float *y;
  qb_gradient *gradient;
  qb_error error = {0};
  if (qb_gradient_create(&graph, 1, &gradient, &error) != QB_OK ||
      qb_gradient_forward(gradient, x, &y, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_true(qb_gradient_pull(gradient, weights, 0, dx));
  assert_true(y[0] == 0.5f && y[1] == 2 && y[2] == -2);
  assert_true(dx[0] == 3 && dx[1] == 0 && dx[2] == 0);
  dx[0] = 7;
  assert_false(qb_gradient_pull(gradient, weights, 1e-9, dx)); /* long past */
  assert_true(dx[0] == 7);
  qb_gradient_free(gradient);
  qb_graph_free(&graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_backward_pass_is_the_derivative),
                                     cmocka_unit_test(quantizers_pass_straight_through)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
