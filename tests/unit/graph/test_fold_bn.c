/* BatchNorm folding: the function stays, what cannot be folded stays and says why, shared weights are not folded
 * twice. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "graph/pass_fold_bn.h"
#include "support/faults.h"
#include "support/sketch.h"

static int count_op(const qb_graph *graph, qb_op op) {
  int count = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    count += graph->nodes[n].op == op;
  return count;
}

/* Folds a clone, checks that it is valid and computes the same up to float32 rounding, and returns it. */
static qb_graph fold_clone(const qb_graph *graph, qb_fold_bn_info *info) {
  qb_graph folded;
  qb_error error;
  assert_int_equal(qb_graph_clone(graph, &folded, &error), QB_OK);
  if (qb_fold_bn(&folded, info, &error) != QB_OK || qb_graph_validate(&folded, &error) != QB_OK)
    fail_msg("%s", error.message);
  double difference = sketch_relative_difference(graph, &folded, 5, 2, 7);
  if (difference > 1e-5)
    fail_msg("folding changed the function by %g", difference);
  assert_true(info->largest_change <= 0x1p-24);
  return folded;
}

static void check_counts(const qb_fold_bn_info *info, int back, int forward, int left) {
  assert_int_equal(info->folded_back, back);
  assert_int_equal(info->folded_forward, forward);
  assert_int_equal(info->left_count, left);
}

static void convolutions_of_all_kinds_fold_back(void **state) {
  (void)state;
  sketch_graph s = sketch_start(1);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 4, 6, 6));
  x = sketch_batch_norm(&s, sketch_conv(&s, x, 6, 3, 1, 1, 2), true);
  x = sketch_batch_norm(&s, sketch_conv(&s, sketch_unary(&s, QB_OP_RELU, x), 6, 3, 2, 1, 6), true);
  x = sketch_batch_norm(&s, sketch_conv_transpose(&s, sketch_unary(&s, QB_OP_RELU, x), 4, 2, 2, 2), true);
  x = sketch_flatten(&s, sketch_unary(&s, QB_OP_RELU, x));
  x = sketch_batch_norm(&s, sketch_gemm(&s, x, 5, true), true);
  x = sketch_batch_norm(&s, sketch_gemm(&s, x, 5, false), true);
  sketch_finish(&s, sketch_batch_norm(&s, sketch_matmul(&s, x, 3), true));

  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 6, 0, 0);
  assert_int_equal(count_op(&folded, QB_OP_BATCH_NORM), 0);
  assert_int_equal(count_op(&folded, QB_OP_MATMUL), 0); /* the last one got a bias and is a Gemm now */
  assert_string_equal(folded.values[folded.outputs[0]].name, s.graph.values[s.graph.outputs[0]].name);
  assert_true(info.largest_change > 0);
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

/* W <- s W, b <- s b + t in double and one rounding, number by number. */
static void weights_are_rounded_once(void **state) {
  (void)state;
  sketch_graph s = sketch_start(2);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 1, 1, 1));
  const float w[2] = {0.3f, -1.7f}, b[2] = {0.1f, 0.2f}, gamma[2] = {1.3f, -0.4f}, beta[2] = {0.5f, 0},
              mean[2] = {0.7f, -0.9f}, variance[2] = {0.2f, 4};
  x = sketch_conv_with(&s, x, sketch_constant(&s, QB_SHAPE(2, 1, 1, 1), w), sketch_constant(&s, QB_SHAPE(2), b), 1, 0,
                       1);
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.batch_norm.epsilon = 0.25f;
  const float *statistics[4] = {gamma, beta, mean, variance};
  qb_value_id inputs[5] = {x};
  for (int i = 0; i < 4; i++)
    inputs[1 + i] = sketch_constant(&s, QB_SHAPE(2), statistics[i]);
  sketch_finish(&s, sketch_node(&s, QB_OP_BATCH_NORM, inputs, 5, &attributes, NULL));
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  const float *weight = qb_view_f32(&folded.values[folded.nodes[0].inputs[1]].constant);
  const float *bias = qb_view_f32(&folded.values[folded.nodes[0].inputs[2]].constant);
  /* Independently: 1.3f / sqrt(0.2f + 0.25), ... computed with 50 digits (Python's decimal). */
  assert_true(weight[0] == 0x1.29aa56p-1f);
  assert_true(weight[1] == 0x1.51c3ccp-2f);
  assert_true(bias[0] == -0x1.5354a8p-1f);
  assert_true(bias[1] == -0x1.b51b7ep-3f);
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

static void residual_blocks_fold_but_not_behind_the_add(void **state) {
  (void)state;
  sketch_graph s = sketch_start(3);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 3, 5, 5));
  qb_value_id a = sketch_batch_norm(&s, sketch_conv(&s, x, 4, 3, 1, 1, 1), true);
  qb_value_id b = sketch_batch_norm(&s, sketch_conv(&s, x, 4, 1, 1, 0, 1), true);
  qb_value_id sum = sketch_batch_norm(&s, sketch_binary(&s, QB_OP_ADD, a, b), true);
  sketch_finish(&s, sketch_unary(&s, QB_OP_RELU, sum));
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 2, 0, 1);
  assert_non_null(strstr(info.left[0].why, "does not come from"));
  assert_string_equal(info.left[0].node, sketch_producer(&s.graph, sum)->name);
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

static void an_output_used_twice_is_left(void **state) {
  (void)state;
  sketch_graph s = sketch_start(4);
  qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 5, 5)), 4, 3, 1, 1, 1);
  qb_value_id y = sketch_batch_norm(&s, x, true);
  sketch_finish(&s, sketch_binary(&s, QB_OP_ADD, x, y));
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 0, 0, 1);
  assert_non_null(strstr(info.left[0].why, "other uses"));
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

static void a_network_output_before_the_batch_norm_is_left(void **state) {
  (void)state;
  qb_error error;
  sketch_graph s = sketch_start(5);
  qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 5, 5)), 4, 3, 1, 1, 1);
  sketch_finish(&s, sketch_batch_norm(&s, x, true));
  assert_int_equal(qb_graph_add_output(&s.graph, x, &error), QB_OK);
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 0, 0, 1);
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

/* Pre-activation order: x -> BatchNorm -> layer. */
static void fold_forward_case(bool shift, int32_t pad, bool matrix, int forward) {
  sketch_graph s = sketch_start(6);
  qb_value_id x = sketch_input(&s, matrix ? QB_SHAPE(1, 6) : QB_SHAPE(1, 6, 5, 5));
  qb_value_id y = sketch_batch_norm(&s, x, shift);
  sketch_finish(&s, matrix ? sketch_matmul(&s, y, 4) : sketch_conv(&s, y, 4, 3, 1, pad, 2));
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 0, forward, 1 - forward);
  assert_int_equal(count_op(&folded, QB_OP_BATCH_NORM), 1 - forward);
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

static void batch_norm_folds_forward_only_where_valid(void **state) {
  (void)state;
  fold_forward_case(true, 0, false, 1);  /* unpadded */
  fold_forward_case(true, 1, false, 0);  /* zeros are padded behind the shift */
  fold_forward_case(false, 1, false, 1); /* no shift: zero stays zero */
  fold_forward_case(true, 0, true, 1);   /* the MatMul becomes a Gemm */
  fold_forward_case(false, 0, true, 1);
}

static void a_normalised_value_used_twice_does_not_fold_forward(void **state) {
  (void)state;
  sketch_graph s = sketch_start(7);
  qb_value_id y = sketch_batch_norm(&s, sketch_input(&s, QB_SHAPE(1, 4, 5, 5)), true);
  qb_value_id a = sketch_conv(&s, y, 4, 1, 1, 0, 1), b = sketch_conv(&s, y, 4, 1, 1, 0, 1);
  sketch_finish(&s, sketch_binary(&s, QB_OP_ADD, a, b));
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 0, 0, 1);
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

/* Two convolutions with one weight and one bias, each with its own BatchNorm. */
static void shared_weights_are_copied(void **state) {
  (void)state;
  sketch_graph s = sketch_start(8);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 4, 5, 5));
  qb_value_id weight = sketch_random(&s, QB_SHAPE(4, 4, 3, 3), -1, 1), bias = sketch_random(&s, QB_SHAPE(4), -1, 1);
  x = sketch_batch_norm(&s, sketch_conv_with(&s, x, weight, bias, 1, 1, 1), true);
  x = sketch_batch_norm(&s, sketch_conv_with(&s, x, weight, bias, 1, 1, 1), true);
  sketch_finish(&s, sketch_conv_with(&s, x, weight, bias, 1, 1, 1));
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 2, 0, 0);
  assert_int_equal(folded.nodes[2].inputs[1], weight); /* the layer without BatchNorm keeps the original */
  assert_int_not_equal(folded.nodes[0].inputs[1], folded.nodes[1].inputs[1]);
  assert_memory_equal(folded.values[weight].constant.data, s.graph.values[weight].constant.data, 4 * 4 * 9 * 4);
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

static void chains_of_batch_norms_fold(void **state) {
  (void)state;
  sketch_graph s = sketch_start(9);
  qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 4, 4)), 3, 1, 1, 0, 1);
  sketch_finish(&s, sketch_batch_norm(&s, sketch_batch_norm(&s, x, true), true));
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 2, 0, 0);
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

static void sequences_are_left(void **state) {
  (void)state;
  sketch_graph s = sketch_start(10);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 3, 4)); /* Gemm over the last axis, channels are axis 1 */
  x = sketch_batch_norm(&s, sketch_gemm(&s, x, 4, true), true);
  sketch_finish(&s, x);
  qb_fold_bn_info info;
  qb_graph folded = fold_clone(&s.graph, &info);
  check_counts(&info, 0, 0, 1);
  assert_non_null(strstr(info.left[0].why, "channel axis"));
  qb_graph_free(&folded);
  qb_graph_free(&s.graph);
}

/* A quantized weight keeps its integers: every output channel gets the old scale times s. A channel whose s is negative
 * makes the whole weight plain floats. */
static void codes_stay(void **state) {
  (void)state;
  for (int negative = 0; negative < 2; negative++) {
    sketch_graph s = sketch_start(11);
    qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 2, 4, 4)), 3, 1, 1, 0, 1);
    qb_value *weight = &s.graph.values[sketch_producer(&s.graph, x)->inputs[1]];
    static const int8_t integers[6] = {3, -2, 7, 0, -5, 1};
    const float scale = 0.37f;
    const int32_t zero = 1;
    const qb_codes codes = {.bits = 8,
                            .is_signed = true,
                            .axis = QB_NONE,
                            .scale_count = 1,
                            .scale = &scale,
                            .zero_point = &zero,
                            .codes = {.dtype = QB_DTYPE_I8, .shape = weight->shape, .data = integers}};
    weight->codes = &codes;
    float *data = qb_graph_replace_constant(&s.graph, sketch_producer(&s.graph, x)->inputs[1]);
    weight = &s.graph.values[sketch_producer(&s.graph, x)->inputs[1]];
    weight->codes = &codes;
    for (int i = 0; i < 6; i++)
      data[i] = (float)(integers[i] - zero) * scale;
    qb_value_id y = sketch_batch_norm(&s, x, true);
    float *gamma = qb_graph_replace_constant(&s.graph, sketch_producer(&s.graph, y)->inputs[1]);
    for (int c = 0; c < 3; c++)
      gamma[c] = negative && c == 1 ? -0.5f : 0.5f + (float)c;
    sketch_finish(&s, y);
    qb_fold_bn_info info;
    qb_graph folded = fold_clone(&s.graph, &info);
    check_counts(&info, 1, 0, 0);
    qb_linear linear;
    assert_true(qb_graph_linear(&folded, 0, &linear));
    const qb_value *result = &folded.values[linear.weight];
    const float *variance = qb_view_f32(&s.graph.values[sketch_producer(&s.graph, y)->inputs[4]].constant);
    const double epsilon = (double)sketch_producer(&s.graph, y)->attributes.batch_norm.epsilon;
    assert_true((result->codes == NULL) == (negative == 1));
    for (int i = 0; i < 6; i++) {
      double factor = (double)gamma[i / 2] / sqrt((double)variance[i / 2] + epsilon);
      double exact = factor * (double)scale * (integers[i] - zero);
      assert_true(fabs((double)qb_view_f32(&result->constant)[i] - exact) <= 3 * 0x1p-24 * fabs(exact));
      if (result->codes == NULL)
        continue;
      assert_int_equal(result->codes->scale_count, 3);
      assert_true(qb_view_f32(&result->constant)[i] == (float)(integers[i] - zero) * result->codes->scale[i / 2]);
    }
    qb_graph_free(&folded);
    qb_graph_free(&s.graph);
  }
}

/* Bad statistics and weights that would overflow leave the node in place. */
static void statistics_out_of_range_are_left(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    sketch_graph s = sketch_start(12);
    qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 4, 4)), 3, 1, 1, 0, 1);
    qb_value_id y = sketch_batch_norm(&s, x, true);
    float *gamma = qb_graph_replace_constant(&s.graph, sketch_producer(&s.graph, y)->inputs[1]);
    float *variance = qb_graph_replace_constant(&s.graph, sketch_producer(&s.graph, y)->inputs[4]);
    for (int c = 0; c < 3; c++) {
      gamma[c] = 3e38f;
      variance[c] = i == 0 ? -1 : 1e-4f;
    }
    sketch_finish(&s, y);
    qb_fold_bn_info info;
    qb_error error;
    assert_int_equal(qb_fold_bn(&s.graph, &info, &error), QB_OK);
    check_counts(&info, 0, 0, 1);
    assert_non_null(strstr(info.left[0].why, i == 0 ? "not positive" : "overflow"));
    qb_graph_free(&s.graph);
  }
}

static qb_status fold_work(void *context, qb_error *error) {
  qb_graph folded;
  qb_fold_bn_info info;
  qb_status status = qb_graph_clone(context, &folded, error);
  if (status == QB_OK)
    status = qb_fold_bn(&folded, &info, error);
  qb_graph_free(&folded);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  sketch_graph s = sketch_start(13);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 64, 5, 5));
  x = sketch_batch_norm(&s, sketch_conv(&s, x, 64, 3, 1, 1, 1), true); /* 36864 weights: an arena block of their own */
  x = sketch_batch_norm(&s, sketch_unary(&s, QB_OP_RELU, x), true);
  x = sketch_conv(&s, x, 4, 1, 1, 0, 1);
  sketch_finish(&s, x);
  assert_true(fault_every_allocation(fold_work, &s.graph, 200) > 5);
  qb_graph_free(&s.graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(convolutions_of_all_kinds_fold_back),
      cmocka_unit_test(weights_are_rounded_once),
      cmocka_unit_test(residual_blocks_fold_but_not_behind_the_add),
      cmocka_unit_test(an_output_used_twice_is_left),
      cmocka_unit_test(a_network_output_before_the_batch_norm_is_left),
      cmocka_unit_test(batch_norm_folds_forward_only_where_valid),
      cmocka_unit_test(a_normalised_value_used_twice_does_not_fold_forward),
      cmocka_unit_test(shared_weights_are_copied),
      cmocka_unit_test(chains_of_batch_norms_fold),
      cmocka_unit_test(sequences_are_left),
      cmocka_unit_test(codes_stay),
      cmocka_unit_test(statistics_out_of_range_are_left),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
