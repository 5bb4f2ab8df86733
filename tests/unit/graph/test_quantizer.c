/* Quantizers put in behind activations: order, readers, outputs, and the way back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "graph/pair.h"
#include "graph/quantizer.h"
#include "run/run.h"
#include "support/faults.h"
#include "support/sketch.h"

static const qb_activation_grid fine = {.bits = 16, .scale = 1e-3f, .zero_point = 30000};

/* input -> conv -> relu (two readers) -> conv -> add -> gemm, the sum is an output too */
typedef struct network {
  sketch_graph sketch;
  qb_value_id input, gate, inside, sum, output;
} network;

static network make_network(void) {
  network net = {.sketch = sketch_start(8)};
  sketch_graph *s = &net.sketch;
  net.input = sketch_input(s, QB_SHAPE(1, 2, 5, 5));
  net.gate = sketch_unary(s, QB_OP_RELU, sketch_conv(s, net.input, 3, 3, 1, 1, 1));
  net.inside = sketch_conv(s, net.gate, 3, 3, 1, 1, 1);
  net.sum = sketch_binary(s, QB_OP_ADD, net.inside, net.gate);
  net.output = sketch_gemm(s, sketch_flatten(s, net.sum), 4, true);
  qb_error error;
  assert_int_equal(qb_graph_add_output(&s->graph, net.sum, &error), QB_OK);
  sketch_finish(s, net.output);
  return net;
}

static qb_value_id insert(qb_graph *graph, qb_value_id value, const qb_activation_grid *grid) {
  qb_value_id dequantized;
  qb_error error;
  if (qb_graph_insert_quantizer(graph, value, grid, &dequantized, &error) != QB_OK ||
      qb_graph_validate(graph, &error) != QB_OK)
    fail_msg("%s", error.message);
  return dequantized;
}

static int count_readers(const qb_graph *graph, qb_value_id value) {
  int readers = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    for (int32_t i = 0; i < graph->nodes[n].input_count; i++)
      readers += graph->nodes[n].inputs[i] == value;
  return readers;
}

static void every_reader_moves_and_outputs_stay(void **state) {
  (void)state;
  network net = make_network();
  qb_graph *graph = &net.sketch.graph;
  int32_t nodes = graph->node_count;
  const qb_value_id values[] = {net.input, net.gate, net.sum};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    int readers = count_readers(graph, values[i]);
    qb_value_id after = insert(graph, values[i], &fine);
    assert_int_equal(count_readers(graph, values[i]), 1); /* the QuantizeLinear */
    assert_int_equal(count_readers(graph, after), readers);
    const qb_node *dequantize = &graph->nodes[graph->values[after].producer];
    const qb_node *quantize = dequantize - 1;
    assert_int_equal(dequantize->op, QB_OP_DEQUANTIZE_LINEAR);
    assert_int_equal(quantize->op, QB_OP_QUANTIZE_LINEAR);
    assert_int_equal(quantize->inputs[0], values[i]);
    assert_true(dequantize->attributes.quantize.lo == 0 && dequantize->attributes.quantize.hi == 65535);
    assert_true(*qb_view_f32(&graph->values[quantize->inputs[1]].constant) == fine.scale);
    assert_true(*qb_view_f32(&graph->values[quantize->inputs[2]].constant) == 30000);
  }
  assert_int_equal(graph->node_count, nodes + 6);
  assert_int_equal(graph->outputs[0], net.sum);
  assert_int_equal(graph->outputs[1], net.output);
  qb_graph_free(graph);
}

static void a_value_can_be_quantized_twice(void **state) {
  (void)state;
  network net = make_network();
  qb_graph *graph = &net.sketch.graph;
  qb_value_id first = insert(graph, net.gate, &fine), second = insert(graph, net.gate, &fine);
  assert_int_not_equal(first, second);
  assert_true(strcmp(graph->values[first].name, graph->values[second].name) != 0);
  qb_graph_free(graph);
}

/* Largest difference of the outputs number `output` of two graphs on one random input. */
static double difference(const qb_graph *a, const qb_graph *b, int output) {
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.engine = QB_ENGINE_REFERENCE;
  qb_run *runs[2];
  qb_error error;
  float input[50];
  qb_rng rng;
  qb_rng_seed(&rng, 4, 0);
  for (int i = 0; i < 50; i++)
    input[i] = (float)qb_rng_normal(&rng);
  const qb_graph *graphs[2] = {a, b};
  for (int i = 0; i < 2; i++)
    if (qb_run_create(graphs[i], &settings, &runs[i], &error) != QB_OK ||
        qb_run_forward(runs[i], input, 1, &error) != QB_OK)
      fail_msg("%s", error.message);
  double largest = 0;
  const double *x = qb_run_value_double(runs[0], a->outputs[output]);
  const double *y = qb_run_value_double(runs[1], b->outputs[output]);
  for (size_t i = 0; i < qb_shape_elements(&a->values[a->outputs[output]].shape); i++)
    largest = fmax(largest, fabs(x[i] - y[i]));
  qb_run_free(runs[0]);
  qb_run_free(runs[1]);
  return largest;
}

static void quantizing_moves_by_half_a_step_and_bypassing_restores(void **state) {
  (void)state;
  network net = make_network();
  const qb_graph *original = &net.sketch.graph;
  qb_graph graph;
  qb_error error;
  assert_int_equal(qb_graph_clone(original, &graph, &error), QB_OK);
  assert_false(qb_graph_has_quantizers(&graph));
  insert(&graph, net.inside, &fine);
  assert_true(qb_graph_has_quantizers(&graph));
  double moved = difference(original, &graph, 0);
  assert_true(moved > 0 && moved <= 0.5001e-3); /* sum = gate + inside, and only inside was rounded */
  insert(&graph, net.input, &fine);
  insert(&graph, net.gate, &fine);
  assert_true(difference(original, &graph, 1) > 0);

  qb_pair pair;
  assert_int_equal(qb_pair_match(original, &graph, &pair, &error), QB_OK);
  qb_pair_free(&pair);
  assert_int_equal(qb_graph_bypass_quantizers(&graph, &error), QB_OK);
  assert_int_equal(qb_graph_validate(&graph, &error), QB_OK);
  assert_true(difference(original, &graph, 0) == 0 && difference(original, &graph, 1) == 0);
  qb_graph_free(&graph);
  qb_graph_free(&net.sketch.graph);
}

static void bad_grids_are_refused(void **state) {
  (void)state;
  network net = make_network();
  qb_graph *graph = &net.sketch.graph;
  const qb_activation_grid bad[] = {{.bits = 4, .scale = 1},
                                    {.bits = 8, .scale = 0},
                                    {.bits = 8, .scale = NAN},
                                    {.bits = 8, .scale = INFINITY},
                                    {.bits = 8, .scale = 1, .zero_point = 256},
                                    {.bits = 16, .scale = 1, .zero_point = -1}};
  qb_value_id unused;
  qb_error error;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(qb_graph_insert_quantizer(graph, net.gate, &bad[i], &unused, &error), QB_ERROR_ARGUMENT);
  qb_value_id weight = graph->nodes[graph->values[net.inside].producer].inputs[1];
  assert_int_equal(qb_graph_insert_quantizer(graph, weight, &fine, &unused, &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "constant"));
  assert_int_equal(qb_graph_validate(graph, &error), QB_OK);
  qb_graph_free(graph);
}

static qb_status insert_into_clone(void *context, qb_error *error) {
  const network *net = context;
  qb_graph graph = {0};
  qb_value_id unused;
  qb_status status = qb_graph_clone(&net->sketch.graph, &graph, error);
  if (status == QB_OK)
    status = qb_graph_insert_quantizer(&graph, net->gate, &fine, &unused, error);
  if (status == QB_OK)
    status = qb_graph_bypass_quantizers(&graph, error);
  qb_graph_free(&graph);
  return status;
}

static void failed_allocations_are_reported(void **state) {
  (void)state;
  network net = make_network();
  fault_every_allocation(insert_into_clone, &net, 100);
  qb_graph_free(&net.sketch.graph);
  assert_int_equal(qb_alloc_live(), 0);
}

/* How far numbers really move, over grids whose factor is an exact or a rounded reciprocal, against what is promised:
 * contained, and reached to 1 % by some number. Half a step for rounding down, or no allowance for the factor, would be
 * found. */
static void reach_is_true_and_tight(void **state) {
  (void)state;
  uint64_t seed = 5;
  for (int trial = 0; trial < 400; trial++) {
    double draw[4];
    for (int i = 0; i < 4; i++) {
      seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407U;
      draw[i] = (double)(seed >> 11) * 0x1p-53;
    }
    float s = (float)ldexp(1 + draw[0], (int)(8 * draw[1]) - 4);
    float z = (float)floor(256 * draw[2]), lo = trial % 2 ? 0.0f : -65536.0f, hi = trial % 2 ? 255.0f : 65535.0f;
    qb_node node = {.op = QB_OP_QUANTIZE_LINEAR};
    node.attributes.quantize.lo = lo;
    node.attributes.quantize.hi = hi;
    node.attributes.quantize.rounding = (qb_code_rounding)(trial / 2 % 4);
    node.attributes.quantize.factor = trial / 8 % 2 ? 1 / s : 0;
    double reach = qb_quantizer_reach(&node, (double)s, (double)z), worst = 0;
    for (int k = 0; k < 4000; k++) { /* next to boundaries, near both ends */
      double code = k % 2 ? (double)hi - k % 50 : (double)lo + k % 50;
      double x = (double)s *
                 (code - (double)z + (k % 3 - 1) * (k % 7 ? 0.5 : 1) * (1 - 0x1p-30) + (k % 5 ? 0 : draw[3] - 0.5));
      double q = node.attributes.quantize.factor != 0 ? x * (double)node.attributes.quantize.factor : x / (double)s;
      double rounded = node.attributes.quantize.rounding == QB_ROUND_DOWN      ? floor(q + (double)z)
                       : node.attributes.quantize.rounding == QB_ROUND_HALF_UP ? floor(q + (double)z + 0.5)
                                                                               : nearbyint(q + (double)z);
      double y = (double)s * (fmin(fmax(rounded, (double)lo), (double)hi) - (double)z);
      double clipped = fmin(fmax(x, (double)s * (double)(lo - z)), (double)s * (double)(hi - z));
      worst = fmax(worst, fabs(y - clipped));
    }
    assert_true(worst <= reach * (1 + 0x1p-40));
    assert_true(worst >= 0.98 * reach);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reach_is_true_and_tight),

      cmocka_unit_test(every_reader_moves_and_outputs_stay),
      cmocka_unit_test(a_value_can_be_quantized_twice),
      cmocka_unit_test(quantizing_moves_by_half_a_step_and_bypassing_restores),
      cmocka_unit_test(bad_grids_are_refused),
      cmocka_unit_test(failed_allocations_are_reported),
  };
  return cmocka_run_group_tests_name("quantizer", tests, NULL, NULL);
}
