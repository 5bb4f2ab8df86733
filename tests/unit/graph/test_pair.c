/* Matching two graphs: what is tolerated, what is counted, and what is refused with both places named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "graph/pair.h"
#include "support/faults.h"
#include "support/sketch.h"

typedef struct built {
  sketch_graph sketch;
  qb_value_id marks[8]; /* values that a test asks about */
} built;

/* QuantizeLinear and DequantizeLinear with one scale; codes 0..255. */
static qb_value_id add_quantizer(sketch_graph *s, qb_value_id x, float zero_point) {
  const float scale = 0.1f;
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.quantize.hi = 255;
  qb_value_id constants[2] = {sketch_constant(s, (qb_shape){0}, &scale),
                              sketch_constant(s, (qb_shape){0}, &zero_point)};
  x = sketch_node(s, QB_OP_QUANTIZE_LINEAR, (qb_value_id[]){x, constants[0], constants[1]}, 3, &attributes, NULL);
  return sketch_node(s, QB_OP_DEQUANTIZE_LINEAR, (qb_value_id[]){x, constants[0], constants[1]}, 3, &attributes, NULL);
}

enum {
  PLAIN = 0,
  QUANTIZERS = 1,  /* on the input and behind every activation */
  COPIES = 2,      /* Identity and Dropout in places, Reshape for Flatten */
  SWAPPED = 4,     /* inputs of the Add exchanged */
  NO_BIAS = 8,     /* a Gemm without bias */
  NO_RELU = 16,    /* the clamp of a QuantizeLinear does the first Relu's work */
  OTHER_CLIP = 32, /* another upper limit */
  MATMUL = 64,     /* MatMul instead of Gemm */
  OTHER_SEED = 128
};

/* conv - Relu - (conv 3x3 | conv 1x1) - Add - Clip - Flatten - Gemm */
static built build(unsigned variation) {
  built b = {.sketch = sketch_start(variation & OTHER_SEED ? 2 : 1)};
  sketch_graph *s = &b.sketch;
  bool quantizers = (variation & QUANTIZERS) != 0;
  qb_value_id x = sketch_input(s, QB_SHAPE(1, 3, 6, 6));
  x = quantizers ? add_quantizer(s, x, 128) : x;
  x = b.marks[0] = sketch_conv(s, x, 4, 3, 1, 1, 1);
  if (!(variation & NO_RELU))
    x = b.marks[1] = sketch_unary(s, QB_OP_RELU, x);
  x = quantizers || variation & NO_RELU ? b.marks[6] = add_quantizer(s, x, 0) : x;
  x = variation & COPIES ? sketch_unary(s, QB_OP_IDENTITY, x) : x;
  qb_value_id left = b.marks[2] = sketch_conv(s, x, 4, 3, 1, 1, 1);
  qb_value_id right = b.marks[3] = sketch_conv(s, x, 4, 1, 1, 0, 1);
  right = variation & COPIES ? sketch_unary(s, QB_OP_DROPOUT, right) : right;
  x = sketch_binary(s, QB_OP_ADD, variation & SWAPPED ? right : left, variation & SWAPPED ? left : right);
  x = b.marks[4] = sketch_clip(s, x, 0, variation & OTHER_CLIP ? 5 : 6);
  x = quantizers ? add_quantizer(s, x, 0) : x;
  qb_shape flat = QB_SHAPE(1, 144);
  x = sketch_node(s, variation & COPIES ? QB_OP_RESHAPE : QB_OP_FLATTEN, &x, 1, NULL, &flat);
  x = b.marks[5] = variation & MATMUL ? sketch_matmul(s, x, 5) : sketch_gemm(s, x, 5, !(variation & NO_BIAS));
  sketch_finish(s, x);
  return b;
}

static void free_two(built *a, built *b) {
  qb_graph_free(&a->sketch.graph);
  qb_graph_free(&b->sketch.graph);
}

static qb_node_id producer_of(const built *b, int mark) { return b->sketch.graph.values[b->marks[mark]].producer; }

/* Every node of the quantized graph has the partner it must have. */
static void check_pair(const built *o, const built *q, const qb_pair *pair) {
  const qb_graph *graph = &q->sketch.graph;
  int32_t matched = 0, original = 0;
  for (int mark = 0; mark < 6; mark++)
    if (q->marks[mark] != 0) {
      assert_int_equal(pair->partner[producer_of(q, mark)], producer_of(o, mark));
      assert_int_equal(pair->value[q->marks[mark]], o->marks[mark]);
    }
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_op op = graph->nodes[n].op;
    bool extra = op == QB_OP_QUANTIZE_LINEAR || op == QB_OP_DEQUANTIZE_LINEAR || op == QB_OP_IDENTITY ||
                 op == QB_OP_DROPOUT || op == QB_OP_FLATTEN || op == QB_OP_RESHAPE;
    matched += pair->partner[n] != QB_NONE;
    assert_true(extra || pair->partner[n] != QB_NONE);
    qb_value_id stands_for = pair->value[graph->nodes[n].output];
    assert_int_not_equal(stands_for, QB_NONE);
    assert_int_equal(qb_shape_elements(&o->sketch.graph.values[stands_for].shape),
                     qb_shape_elements(&graph->values[graph->nodes[n].output].shape));
  }
  for (qb_node_id n = 0; n < o->sketch.graph.node_count; n++) {
    qb_op op = o->sketch.graph.nodes[n].op;
    original += op != QB_OP_IDENTITY && op != QB_OP_DROPOUT && op != QB_OP_FLATTEN && op != QB_OP_RESHAPE;
  }
  assert_int_equal(matched, original);
}

static void match(unsigned original, unsigned quantized, int32_t clips) {
  built o = build(original), q = build(quantized);
  qb_pair pair;
  qb_error error;
  if (qb_pair_match(&o.sketch.graph, &q.sketch.graph, &pair, &error) != QB_OK)
    fail_msg("%u against %u: %s", original, quantized, error.message);
  check_pair(&o, &q, &pair);
  assert_int_equal(pair.clip_differences, clips);
  assert_int_equal(pair.operand_differences, 0);
  assert_int_equal(pair.absorbed, 0);
  qb_pair_free(&pair);
  free_two(&o, &q);
}

static void harmless_differences_match(void **state) {
  (void)state;
  match(PLAIN, PLAIN, 0);
  for (unsigned quantized = 0; quantized < 256; quantized++)
    if (!(quantized & NO_RELU)) {
      match(PLAIN, quantized, quantized & OTHER_CLIP ? 1 : 0);
      match(COPIES | (quantized & SWAPPED), quantized, quantized & OTHER_CLIP ? 1 : 0);
    }
}

static void refuse(const built *o, const built *q, const char *first, const char *second, const char *third) {
  qb_pair pair;
  qb_error error;
  assert_int_equal(qb_pair_match(&o->sketch.graph, &q->sketch.graph, &pair, &error), QB_ERROR_FORMAT);
  const char *words[] = {first, second, third};
  for (int i = 0; i < 3; i++)
    if (strstr(error.message, words[i]) == NULL)
      fail_msg("'%s' does not say '%s'", error.message, words[i]);
  qb_pair_free(&pair);
}

static void a_missing_relu_is_refused_or_absorbed(void **state) {
  (void)state;
  built o = build(PLAIN), q = build(NO_RELU);
  refuse(&o, &q, "(Relu)", "(Conv)", "clamp of a QuantizeLinear");
  qb_pair pair;
  qb_error error;
  assert_int_equal(qb_pair_match_absorbed(&o.sketch.graph, &q.sketch.graph, &pair, &error), QB_OK);
  assert_int_equal(pair.absorbed, 1);
  qb_node_id dequantize = producer_of(&q, 6);
  qb_value_id codes = q.sketch.graph.nodes[dequantize].inputs[0];
  assert_int_equal(pair.partner[dequantize], QB_NONE);
  assert_int_equal(pair.partner[q.sketch.graph.values[codes].producer], producer_of(&o, 1));
  assert_int_equal(pair.value[codes], o.marks[1]);
  assert_int_equal(pair.value[q.marks[6]], o.marks[1]);
  assert_int_equal(pair.value[q.marks[0]], o.marks[0]);
  check_pair(&o, &q, &pair);
  qb_pair_free(&pair);

  /* A clamp that is not at zero does not do the Relu's work. */
  qb_value_id zero_point = q.sketch.graph.nodes[dequantize].inputs[2];
  qb_graph_replace_constant(&q.sketch.graph, zero_point)[0] = 3;
  assert_int_equal(qb_pair_match_absorbed(&o.sketch.graph, &q.sketch.graph, &pair, &error), QB_ERROR_FORMAT);
  qb_pair_free(&pair);
  free_two(&o, &q);
}

/* With the Relu kept, both calls agree. */
static void absorbing_changes_nothing_where_activations_are_kept(void **state) {
  (void)state;
  built o = build(PLAIN), q = build(QUANTIZERS);
  qb_pair pair;
  qb_error error;
  assert_int_equal(qb_pair_match_absorbed(&o.sketch.graph, &q.sketch.graph, &pair, &error), QB_OK);
  assert_int_equal(pair.absorbed, 0);
  check_pair(&o, &q, &pair);
  qb_pair_free(&pair);
  free_two(&o, &q);
}

static void batch_norm_on_one_side_is_refused(void **state) {
  (void)state;
  built o = {.sketch = sketch_start(3)}, q = {.sketch = sketch_start(3)};
  qb_value_id x = sketch_conv(&o.sketch, sketch_input(&o.sketch, QB_SHAPE(1, 3, 6, 6)), 4, 3, 1, 1, 1);
  sketch_finish(&o.sketch, sketch_batch_norm(&o.sketch, x, true));
  sketch_finish(&q.sketch, sketch_conv(&q.sketch, sketch_input(&q.sketch, QB_SHAPE(1, 3, 6, 6)), 4, 3, 1, 1, 1));
  refuse(&o, &q, "(BatchNormalization)", "(Conv)", "fold it in both or in neither");
  refuse(&q, &o, "(BatchNormalization)", "(Conv)", "fold it in both or in neither");
  free_two(&o, &q);
}

static void attributes_and_constants_must_agree(void **state) {
  (void)state;
  built o = build(PLAIN), q = build(PLAIN);
  qb_graph *graph = &q.sketch.graph;
  graph->nodes[producer_of(&q, 2)].attributes.conv.window.stride[0] = 2;
  refuse(&o, &q, "(Conv)", "strides", "part at");
  free_two(&o, &q);

  for (int i = 0; i < 2; i++) { /* a slope, then statistics */
    built a = {.sketch = sketch_start(4)}, b = {.sketch = sketch_start(4)};
    built *both[2] = {&a, &b};
    for (int k = 0; k < 2; k++) {
      sketch_graph *s = &both[k]->sketch;
      qb_value_id x = sketch_input(s, QB_SHAPE(1, 3, 6, 6)), slope = sketch_random(s, QB_SHAPE(3, 1, 1), 0, 1);
      x = i == 0 ? sketch_binary(s, QB_OP_PRELU, x, slope) : sketch_batch_norm(s, x, true);
      both[k]->marks[0] = sketch_producer(&s->graph, x)->inputs[i == 0 ? 1 : 3];
      sketch_finish(s, x);
    }
    qb_pair pair;
    qb_error error;
    assert_int_equal(qb_pair_match(&a.sketch.graph, &b.sketch.graph, &pair, &error), QB_OK);
    qb_pair_free(&pair);
    float *data = qb_graph_replace_constant(&b.sketch.graph, b.marks[0]);
    memcpy(data, a.sketch.graph.values[a.marks[0]].constant.data, 3 * sizeof *data);
    data[2] += 0.5f;
    refuse(&a, &b, "differ in value", "constants", "part at");
    free_two(&a, &b);
  }
}

static void operands_may_differ_and_are_counted(void **state) {
  (void)state;
  built a = {.sketch = sketch_start(5)}, b = {.sketch = sketch_start(6)};
  built *both[2] = {&a, &b};
  for (int k = 0; k < 2; k++) { /* the constant in the first slot in one, in the second in the other */
    sketch_graph *s = &both[k]->sketch;
    qb_value_id x = sketch_input(s, QB_SHAPE(1, 3, 6, 6)), c = sketch_random(s, QB_SHAPE(3, 1, 1), 0, 1);
    sketch_finish(s, k == 0 ? sketch_binary(s, QB_OP_MUL, x, c) : sketch_binary(s, QB_OP_MUL, c, x));
  }
  qb_pair pair;
  qb_error error;
  assert_int_equal(qb_pair_match(&a.sketch.graph, &b.sketch.graph, &pair, &error), QB_OK);
  assert_int_equal(pair.operand_differences, 1);
  assert_int_equal(pair.value[b.sketch.graph.nodes[0].inputs[0]], a.sketch.graph.nodes[0].inputs[1]);
  qb_pair_free(&pair);
  free_two(&a, &b);
}

static void subtraction_is_not_swapped(void **state) {
  (void)state;
  built a = {.sketch = sketch_start(7)}, b = {.sketch = sketch_start(7)};
  built *both[2] = {&a, &b};
  for (int k = 0; k < 2; k++) {
    sketch_graph *s = &both[k]->sketch;
    qb_value_id x = sketch_input(s, QB_SHAPE(1, 3)), y = sketch_unary(s, QB_OP_RELU, x);
    sketch_finish(s, k == 0 ? sketch_binary(s, QB_OP_SUB, x, y) : sketch_binary(s, QB_OP_SUB, y, x));
  }
  refuse(&a, &b, "the input", "(Relu)", "one is computed and the other is not");
  free_two(&a, &b);
}

/* One value of the quantized graph cannot stand for two of the original. */
static void a_value_has_one_meaning(void **state) {
  (void)state;
  built a = {.sketch = sketch_start(8)}, b = {.sketch = sketch_start(8)};
  qb_value_id x = sketch_input(&a.sketch, QB_SHAPE(1, 3));
  qb_value_id y = sketch_gemm(&a.sketch, x, 3, true), z = sketch_gemm(&a.sketch, x, 3, true);
  sketch_finish(&a.sketch, sketch_binary(&a.sketch, QB_OP_ADD, y, z));
  x = sketch_input(&b.sketch, QB_SHAPE(1, 3));
  y = sketch_gemm(&b.sketch, x, 3, true);
  sketch_finish(&b.sketch, sketch_binary(&b.sketch, QB_OP_ADD, y, y));
  refuse(&a, &b, "already stands for", "(Gemm)", "part at");
  /* The other way round two quantized copies stand for one original: that is sound. */
  qb_pair pair;
  qb_error error;
  assert_int_equal(qb_pair_match(&b.sketch.graph, &a.sketch.graph, &pair, &error), QB_OK);
  assert_int_equal(pair.partner[0], 0);
  assert_int_equal(pair.partner[1], 0);
  qb_pair_free(&pair);
  free_two(&a, &b);
}

static void different_networks_are_refused(void **state) {
  (void)state;
  built a = {.sketch = sketch_start(9)}, b = {.sketch = sketch_start(9)}, c = {.sketch = sketch_start(9)};
  sketch_finish(&a.sketch, sketch_gemm(&a.sketch, sketch_input(&a.sketch, QB_SHAPE(1, 3)), 4, true));
  sketch_finish(&b.sketch, sketch_gemm(&b.sketch, sketch_input(&b.sketch, QB_SHAPE(1, 5)), 4, true));
  sketch_finish(&c.sketch, sketch_gemm(&c.sketch, sketch_input(&c.sketch, QB_SHAPE(1, 3)), 2, true));
  refuse(&a, &b, "1x3", "1x5", "inputs");
  refuse(&a, &c, "1x4", "1x2", "outputs");
  qb_error error;
  assert_int_equal(qb_graph_add_output(&c.sketch.graph, c.sketch.graph.inputs[0], &error), QB_OK);
  refuse(&a, &c, "1 outputs", "2", "not one network");
  qb_graph_free(&a.sketch.graph);
  free_two(&b, &c);
}

static void an_original_with_activation_quantizers_is_refused(void **state) {
  (void)state;
  built o = build(QUANTIZERS), q = build(PLAIN);
  refuse(&o, &q, "(DequantizeLinear)", "part at", "float network first");
  free_two(&o, &q);
}

/* Nodes that nothing depends on have no partner and no meaning. */
static void dead_nodes_are_left_out(void **state) {
  (void)state;
  built o = build(PLAIN), q = build(PLAIN);
  qb_value_id dead = sketch_unary(&q.sketch, QB_OP_TANH, q.marks[0]);
  qb_pair pair;
  qb_error error;
  assert_int_equal(qb_pair_match(&o.sketch.graph, &q.sketch.graph, &pair, &error), QB_OK);
  assert_int_equal(pair.partner[q.sketch.graph.values[dead].producer], QB_NONE);
  assert_int_equal(pair.value[dead], QB_NONE);
  qb_pair_free(&pair);
  free_two(&o, &q);
}

static qb_status match_work(void *context, qb_error *error) {
  qb_pair pair;
  built *both = context;
  qb_status status = qb_pair_match(&both[0].sketch.graph, &both[1].sketch.graph, &pair, error);
  qb_pair_free(&pair);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  built both[2] = {build(PLAIN), build(QUANTIZERS | COPIES)};
  assert_true(fault_every_allocation(match_work, both, 20) >= 6);
  free_two(&both[0], &both[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(harmless_differences_match),
      cmocka_unit_test(a_missing_relu_is_refused_or_absorbed),
      cmocka_unit_test(absorbing_changes_nothing_where_activations_are_kept),
      cmocka_unit_test(batch_norm_on_one_side_is_refused),
      cmocka_unit_test(attributes_and_constants_must_agree),
      cmocka_unit_test(operands_may_differ_and_are_counted),
      cmocka_unit_test(subtraction_is_not_swapped),
      cmocka_unit_test(a_value_has_one_meaning),
      cmocka_unit_test(different_networks_are_refused),
      cmocka_unit_test(an_original_with_activation_quantizers_is_refused),
      cmocka_unit_test(dead_nodes_are_left_out),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
