/* Matching with an equalized network: the original is rescaled likewise, always exactly, whatever is guessed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "graph/pair.h"
#include "graph/pass_equalize.h"
#include "quant/quant.h"
#include "support/faults.h"
#include "support/sketch.h"

static float *numbers(qb_graph *graph, qb_value_id constant) { return (float *)graph->values[constant].constant.data; }

/* conv - Clip - depthwise - Relu - conv - LeakyRelu - matrix, rows of different ranges. */
static qb_graph make(uint64_t seed, bool limits) {
  sketch_graph s = sketch_start(seed);
  qb_value_id y = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 6, 6)), 8, 3, 1, 1, 1);
  for (int k = 0; k < 3; k++) {
    qb_node *layer = sketch_producer(&s.graph, y);
    int64_t rows = s.graph.values[layer->inputs[1]].shape.dims[0];
    int64_t length = (int64_t)qb_shape_elements(&s.graph.values[layer->inputs[1]].shape) / rows;
    for (int64_t r = 0; r < rows; r++) {
      float factor = (float)exp2(qb_rng_range(&s.rng, -5, 5));
      for (int64_t i = 0; i < length; i++)
        numbers(&s.graph, layer->inputs[1])[r * length + i] *= factor;
    }
    y = k == 0 && limits ? sketch_clip(&s, y, 0, 6) : sketch_unary(&s, k == 2 ? QB_OP_LEAKY_RELU : QB_OP_RELU, y);
    if (k < 2)
      y = k == 0 ? sketch_conv(&s, y, 8, 3, 1, 1, 8) : sketch_conv(&s, y, 5, 1, 1, 0, 1);
  }
  sketch_finish(&s, sketch_gemm(&s, sketch_flatten(&s, y), 4, true));
  return s.graph;
}

static qb_graph quantized_clone(const qb_graph *graph, int bits, qb_granularity granularity) {
  qb_graph clone;
  qb_error error;
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = bits;
  settings.granularity = granularity;
  assert_int_equal(qb_graph_clone(graph, &clone, &error), QB_OK);
  assert_int_equal(qb_quantize_weights(&clone, &settings, NULL, NULL, &error), QB_OK);
  return clone;
}

static qb_graph equalized_clone(const qb_graph *graph, qb_equalize_kind kind) {
  qb_graph clone;
  qb_error error;
  qb_equalize_settings settings;
  qb_equalize_info info;
  qb_equalize_settings_default(&settings);
  settings.kind = kind;
  assert_int_equal(qb_graph_clone(graph, &clone, &error), QB_OK);
  assert_int_equal(qb_equalize(&clone, &settings, &info, &error), QB_OK);
  assert_true(info.channels > 0);
  return clone;
}

static qb_pair match(const qb_graph *original, const qb_graph *quantized) {
  qb_pair pair;
  qb_error error;
  if (qb_pair_match_any(original, quantized, &pair, &error) != QB_OK)
    fail_msg("%s", error.message);
  if (pair.rescaled != NULL) {
    assert_ptr_equal(pair.original, pair.rescaled);
    assert_true(sketch_relative_difference(original, pair.rescaled, 5, 3, 8) == 0);
  }
  return pair;
}

/* Weights of one layer after the other that differ between two graphs with the same nodes. */
static int64_t differing_weights(const qb_graph *a, const qb_graph *b) {
  int64_t count = 0;
  for (qb_node_id n = 0; n < a->node_count; n++) {
    qb_linear x, y;
    if (!qb_graph_linear(a, n, &x) || !qb_graph_linear(b, n, &y))
      continue;
    for (size_t i = 0; i < qb_shape_elements(&a->values[x.weight].shape); i++)
      count += qb_view_f32(&a->values[x.weight].constant)[i] != qb_view_f32(&b->values[y.weight].constant)[i];
  }
  return count;
}

static void the_factors_are_found(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 16; seed++) {
    qb_graph original = make(seed, seed % 2 == 0);
    qb_graph equalized = equalized_clone(&original, seed % 3 == 0 ? QB_EQUALIZE_L1 : QB_EQUALIZE_RANGE);
    qb_graph quantized =
        quantized_clone(&equalized, 2 + (int)(seed % 7), seed % 5 == 0 ? QB_PER_TENSOR : QB_PER_CHANNEL);
    qb_pair pair = match(&original, &quantized);
    assert_non_null(pair.rescaled);
    assert_int_equal(pair.clip_differences, 0);
    assert_int_equal(differing_weights(pair.rescaled, &equalized), 0);
    qb_pair_free(&pair);
    qb_graph_free(&quantized);
    qb_graph_free(&equalized);
    qb_graph_free(&original);
  }
}

/* Corrected biases say nothing; the sums of weights must do. */
static void sums_of_weights_are_enough(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 8; seed++) {
    qb_graph original = make(seed, false), equalized = equalized_clone(&original, QB_EQUALIZE_RANGE);
    qb_graph quantized = quantized_clone(&equalized, 8, QB_PER_CHANNEL);
    for (qb_node_id n = 0; n < quantized.node_count; n++) {
      qb_linear linear;
      if (!qb_graph_linear(&quantized, n, &linear))
        continue;
      float *bias = qb_graph_replace_constant(&quantized, linear.bias);
      for (int64_t c = 0; c < linear.out_channels; c++)
        bias[c] = 0.1f + 0.01f * (float)c;
    }
    qb_pair pair = match(&original, &quantized);
    assert_non_null(pair.rescaled);
    assert_int_equal(differing_weights(pair.rescaled, &equalized), 0);
    qb_pair_free(&pair);
    qb_graph_free(&quantized);
    qb_graph_free(&equalized);
    qb_graph_free(&original);
  }
}

static void other_networks_are_left_alone(void **state) {
  (void)state;
  for (int bits = 2; bits <= 8; bits++)
    for (int limits = 0; limits < 2; limits++) {
      qb_graph original = make((uint64_t)bits, limits == 1);
      qb_graph quantized = quantized_clone(&original, bits, limits == 1 ? QB_PER_TENSOR : QB_PER_CHANNEL);
      qb_pair pair = match(&original, &quantized);
      assert_null(pair.rescaled);
      assert_ptr_equal(pair.original, &original);
      qb_pair_free(&pair);
      qb_graph_free(&quantized);
      qb_graph_free(&original);
    }
}

/* Some biases lie about the factor of their channel. match() asserts that the function stays whatever they suggest. */
static void a_wrong_guess_is_still_exact(void **state) {
  (void)state;
  int rescaled = 0, misled = 0;
  for (uint64_t seed = 1; seed <= 30; seed++) {
    qb_graph original = make(seed, seed % 2 == 0), equalized = equalized_clone(&original, QB_EQUALIZE_RANGE);
    qb_graph liar = quantized_clone(&equalized, 8, QB_PER_CHANNEL);
    for (qb_node_id n = 0; n < liar.node_count; n++) {
      qb_linear linear;
      if (!qb_graph_linear(&liar, n, &linear))
        continue;
      const float *truth = qb_view_f32(&equalized.values[linear.bias].constant);
      float *bias = qb_graph_replace_constant(&liar, linear.bias);
      for (int64_t c = 0; c < linear.out_channels; c++)
        bias[c] = ldexpf(truth[c], c == (int64_t)(seed % 5) ? (int)(seed % 7) - 3 : 0);
    }
    qb_pair pair = match(&original, &liar);
    rescaled += pair.rescaled != NULL;
    misled += pair.rescaled != NULL && differing_weights(pair.rescaled, &equalized) > 0;
    qb_pair_free(&pair);
    qb_graph_free(&liar);
    qb_graph_free(&equalized);
    qb_graph_free(&original);
  }
  assert_true(rescaled > 0 && misled > 0);
}

static qb_graph faulty_original, faulty_quantized;

static qb_status match_once(void *context, qb_error *error) {
  (void)context;
  qb_pair pair = {0};
  qb_status status = qb_pair_match_any(&faulty_original, &faulty_quantized, &pair, error);
  qb_pair_free(&pair);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  faulty_original = make(4, true);
  qb_graph equalized = equalized_clone(&faulty_original, QB_EQUALIZE_RANGE);
  faulty_quantized = quantized_clone(&equalized, 8, QB_PER_CHANNEL);
  assert_true(fault_every_allocation(match_once, NULL, 400) >= 6);
  qb_graph_free(&faulty_quantized);
  qb_graph_free(&equalized);
  qb_graph_free(&faulty_original);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_factors_are_found),         cmocka_unit_test(sums_of_weights_are_enough),
      cmocka_unit_test(other_networks_are_left_alone), cmocka_unit_test(a_wrong_guess_is_still_exact),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
