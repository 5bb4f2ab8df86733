/* Bias absorption: the function stays where channels are above their floors, changes where they are not, and layers
 * that cannot take a shift are named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "graph/pass_absorb_bias.h"
#include "support/sketch.h"

enum { CHANNELS = 6 };

typedef struct network {
  sketch_graph sketch;
  qb_node_id first; /* the layer whose bias moves */
} network;

static qb_node_id layer_of(qb_graph *graph, qb_value_id output) { return graph->values[output].producer; }

/* 1x1 convolution with biases far above its sums on [-1, 1], an activation, another convolution, a matrix. */
static network make(uint64_t seed, qb_op gate, int32_t pad) {
  network n = {.sketch = sketch_start(seed)};
  sketch_graph *s = &n.sketch;
  qb_value_id bias = sketch_random(s, QB_SHAPE(CHANNELS), 4, 5),
              weight = sketch_random(s, QB_SHAPE(CHANNELS, 3, 1, 1), -1, 1);
  qb_value_id y = sketch_conv_with(s, sketch_input(s, QB_SHAPE(1, 3, 4, 4)), weight, bias, 1, 0, 1);
  n.first = layer_of(&s->graph, y);
  y = gate == QB_OP_CLIP ? sketch_clip(s, y, 0, 9) : sketch_unary(s, gate, y);
  y = sketch_conv(s, y, 5, 3, 1, pad, 1);
  sketch_finish(s, sketch_gemm(s, sketch_flatten(s, sketch_unary(s, QB_OP_RELU, y)), 4, true));
  return n;
}

static qb_absorb_info absorb(const network *n, double amount, double kept[CHANNELS], qb_graph *result) {
  qb_error error;
  double numbers[CHANNELS];
  for (int c = 0; c < CHANNELS; c++)
    numbers[c] = c == 2 ? 0 : amount;
  qb_layer_floor floor = {n->sketch.graph.nodes[n->first].name, CHANNELS, numbers};
  qb_absorb_info info;
  assert_int_equal(qb_graph_clone(&n->sketch.graph, result, &error), QB_OK);
  if (qb_absorb_bias(result, &floor, 1, &info, &error) != QB_OK || qb_graph_validate(result, &error) != QB_OK)
    fail_msg("%s", error.message);
  for (int c = 0; c < CHANNELS; c++)
    kept[c] = numbers[c];
  return info;
}

static float bias_of(const qb_graph *graph, qb_node_id node, int c) {
  return qb_view_f32(&graph->values[graph->nodes[node].inputs[2]].constant)[c];
}

static void biases_move_and_the_function_stays(void **state) {
  (void)state;
  static const qb_op gates[] = {QB_OP_RELU, QB_OP_LEAKY_RELU, QB_OP_CLIP};
  for (uint64_t seed = 1; seed <= 12; seed++) {
    network n = make(seed, gates[seed % 3], 0);
    qb_graph after;
    double moved[CHANNELS];
    qb_absorb_info info = absorb(&n, 0.9, moved, &after);
    assert_int_equal(info.places, 1);
    assert_int_equal(info.channels, CHANNELS - 1);
    assert_int_equal(info.left_count, 0);
    for (int c = 0; c < CHANNELS; c++)
      assert_true(fabs((double)bias_of(&n.sketch.graph, n.first, c) - (double)bias_of(&after, n.first, c) - moved[c]) <
                  1e-6);
    assert_true(moved[2] == 0 && moved[0] == 0.9);
    assert_true(sketch_relative_difference(&n.sketch.graph, &after, 10, 1, seed) < 1e-6);
    qb_graph_free(&after);
    qb_graph_free(&n.sketch.graph);
  }
}

/* A floor that the channels do fall below: the function must change, and only there. */
static void a_wrong_floor_changes_the_function(void **state) {
  (void)state;
  network n = make(3, QB_OP_RELU, 0);
  qb_graph after;
  double moved[CHANNELS];
  (void)absorb(&n, 4.5, moved, &after);
  assert_true(sketch_relative_difference(&n.sketch.graph, &after, 10, 1, 5) > 1e-3);
  qb_graph_free(&after);
  qb_graph_free(&n.sketch.graph);
}

static void a_floor_above_the_limit_stays(void **state) {
  (void)state;
  network n = make(4, QB_OP_CLIP, 0);
  qb_graph after;
  double moved[CHANNELS];
  qb_absorb_info info = absorb(&n, 9.5, moved, &after);
  assert_int_equal(info.channels, 0);
  assert_true(moved[0] == 0);
  assert_true(sketch_relative_difference(&n.sketch.graph, &after, 5, 1, 5) == 0);
  qb_graph_free(&after);
  qb_graph_free(&n.sketch.graph);
}

static void padding_is_refused(void **state) {
  (void)state;
  network n = make(5, QB_OP_RELU, 1);
  qb_graph after;
  double moved[CHANNELS];
  qb_absorb_info info = absorb(&n, 0.9, moved, &after);
  assert_int_equal(info.places, 0);
  assert_int_equal(info.left_count, 1);
  assert_non_null(strstr(info.left[0].why, "pads"));
  assert_true(moved[0] == 0);
  assert_true(sketch_relative_difference(&n.sketch.graph, &after, 5, 1, 5) == 0);
  qb_graph_free(&after);
  qb_graph_free(&n.sketch.graph);
}

static void curves_and_matrices_without_bias_are_refused(void **state) {
  (void)state;
  qb_error error;
  for (int kind = 0; kind < 2; kind++) {
    sketch_graph s = sketch_start(6);
    qb_value_id y = sketch_gemm(&s, sketch_input(&s, QB_SHAPE(1, 4)), CHANNELS, true);
    const char *name = s.graph.nodes[s.graph.values[y].producer].name;
    y = sketch_unary(&s, kind == 0 ? QB_OP_SIGMOID : QB_OP_RELU, y);
    sketch_finish(&s, kind == 0 ? sketch_gemm(&s, y, 3, true) : sketch_matmul(&s, y, 3));
    double numbers[CHANNELS] = {1, 1, 1, 1, 1, 1};
    qb_layer_floor floor = {name, CHANNELS, numbers};
    qb_absorb_info info;
    assert_int_equal(qb_absorb_bias(&s.graph, &floor, 1, &info, &error), QB_OK);
    assert_int_equal(info.channels, 0);
    assert_int_equal(info.left_count, 1);
    qb_graph_free(&s.graph);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(biases_move_and_the_function_stays),
      cmocka_unit_test(a_wrong_floor_changes_the_function),
      cmocka_unit_test(a_floor_above_the_limit_stays),
      cmocka_unit_test(padding_is_refused),
      cmocka_unit_test(curves_and_matrices_without_bias_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
