/* Equalization: the function stays exactly, ranges and row sums become equal, and what must not change does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "graph/pass_equalize.h"
#include "support/faults.h"
#include "support/sketch.h"

static qb_equalize_settings settings_for(qb_equalize_kind kind) {
  qb_equalize_settings settings;
  qb_equalize_settings_default(&settings);
  settings.kind = kind;
  return settings;
}

/* Makes the ranges of a constant's first-axis blocks very different, as BatchNorm folding does. */
static void spread(sketch_graph *s, qb_value_id constant) {
  qb_value *value = &s->graph.values[constant];
  int64_t rows = value->shape.dims[0], length = (int64_t)qb_shape_elements(&value->shape) / rows;
  float *data = (float *)value->constant.data;
  for (int64_t r = 0; r < rows; r++) {
    double factor = exp2(qb_rng_range(&s->rng, -6, 6));
    for (int64_t i = 0; i < length; i++)
      data[r * length + i] *= (float)factor;
  }
}

static qb_value_id spread_layer(sketch_graph *s, qb_value_id output) {
  spread(s, sketch_producer(&s->graph, output)->inputs[1]);
  return output;
}

/* Equalizes a clone. With powers of two the outputs of random inputs are bit for bit the same: every operation of the
 * plain evaluation is scaled by a power of two, so it rounds alike. */
static qb_graph equalize_clone(const qb_graph *graph, const qb_equalize_settings *settings, qb_equalize_info *info) {
  qb_graph clone;
  qb_error error;
  assert_int_equal(qb_graph_clone(graph, &clone, &error), QB_OK);
  if (qb_equalize(&clone, settings, info, &error) != QB_OK || qb_graph_validate(&clone, &error) != QB_OK)
    fail_msg("%s", error.message);
  double difference = sketch_relative_difference(graph, &clone, 10, 3, 5);
  if (settings->power_of_two ? difference != 0 : difference > 1e-5)
    fail_msg("equalization changed the function by %g", difference);
  assert_true(settings->power_of_two ? info->largest_change == 0 : info->largest_change <= 0x1p-24);
  return clone;
}

static double row_range(const qb_graph *graph, const qb_node *node, int64_t row) {
  const qb_value *weight = &graph->values[node->inputs[1]];
  int64_t length = (int64_t)qb_shape_elements(&weight->shape) / weight->shape.dims[0];
  double largest = 0;
  for (int64_t i = 0; i < length; i++)
    largest = fmax(largest, fabs((double)qb_view_f32(&weight->constant)[row * length + i]));
  return largest;
}

/* max |W[:, channel]| of an ungrouped layer with `width` columns per channel. */
static double column_range(const qb_graph *graph, const qb_node *node, int64_t channel, int64_t width) {
  const qb_value *weight = &graph->values[node->inputs[1]];
  int64_t rows = weight->shape.dims[0], length = (int64_t)qb_shape_elements(&weight->shape) / rows;
  int64_t area = length / weight->shape.dims[1];
  double largest = 0;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = channel * width * area; i < (channel + 1) * width * area; i++)
      largest = fmax(largest, fabs((double)qb_view_f32(&weight->constant)[r * length + i]));
  return largest;
}

/* conv - Relu - conv - LeakyRelu - flatten - Gemm - Identity - MatMul */
static void pairs_get_equal_ranges(void **state) {
  (void)state;
  sketch_graph s = sketch_start(1);
  qb_value_id x = spread_layer(&s, sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 5, 5)), 6, 3, 1, 1, 1));
  qb_value_id a = x;
  qb_value_id b = spread_layer(&s, sketch_conv(&s, sketch_unary(&s, QB_OP_RELU, a), 4, 3, 2, 1, 1));
  qb_value_id c = sketch_gemm(&s, sketch_flatten(&s, sketch_unary(&s, QB_OP_LEAKY_RELU, b)), 5, true);
  qb_value_id d = sketch_matmul(&s, sketch_unary(&s, QB_OP_IDENTITY, spread_layer(&s, c)), 3);
  sketch_finish(&s, d);
  for (int exact = 0; exact < 2; exact++) {
    qb_equalize_settings settings = settings_for(QB_EQUALIZE_RANGE);
    settings.power_of_two = exact != 0;
    settings.sweeps = 200;
    qb_equalize_info info;
    qb_graph equal = equalize_clone(&s.graph, &settings, &info);
    assert_int_equal(info.places, 3);
    assert_int_equal(info.left_count, 1);
    assert_string_equal(info.left[0].node, sketch_producer(&s.graph, d)->name);
    assert_non_null(strstr(info.left[0].why, "output of the network"));
    assert_true(info.channels > 8 && info.largest_scale >= 4);
    double allowed = exact ? 2.0001 : 1.02; /* sqrt(r1/r2) within sqrt(2) of a power of two */
    const struct {
      qb_value_id layer, reader;
      int64_t channels, width;
    } pairs[3] = {{a, b, 6, 1}, {b, c, 4, 9}, {c, d, 5, 1}};
    for (int p = 0; p < 3; p++)
      for (int64_t channel = 0; channel < pairs[p].channels; channel++) {
        double r1 = row_range(&equal, sketch_producer(&equal, pairs[p].layer), channel);
        double r2 = column_range(&equal, sketch_producer(&equal, pairs[p].reader), channel, pairs[p].width);
        if (!(r1 / r2 <= allowed && r2 / r1 <= allowed))
          fail_msg("pair %d channel %d: ranges %g and %g", p, (int)channel, r1, r2);
      }
    qb_graph_free(&equal);
  }
  qb_graph_free(&s.graph);
}

/* conv - ReLU6 - depthwise - ReLU6 - conv: one limit per channel, equal ranges of all three. */
static void depthwise_triples_keep_relu6(void **state) {
  (void)state;
  sketch_graph s = sketch_start(2);
  qb_value_id a = spread_layer(&s, sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 5, 5)), 6, 1, 1, 0, 1));
  qb_value_id b = spread_layer(&s, sketch_conv(&s, sketch_clip(&s, a, 0, 6), 6, 3, 1, 1, 6));
  qb_value_id clip = sketch_clip(&s, b, 0, 6);
  qb_value_id c = sketch_conv(&s, clip, 4, 1, 1, 0, 1);
  sketch_finish(&s, c);
  qb_equalize_settings settings = settings_for(QB_EQUALIZE_RANGE);
  settings.power_of_two = false;
  qb_equalize_info info;
  qb_graph equal = equalize_clone(&s.graph, &settings, &info);
  assert_int_equal(info.clips, 2);
  assert_non_null(sketch_producer(&equal, clip)->attributes.clip.hi_channels);
  assert_null(sketch_producer(&s.graph, clip)->attributes.clip.hi_channels);
  for (int64_t channel = 0; channel < 6; channel++) {
    double r1 = row_range(&equal, sketch_producer(&equal, a), channel);
    double r2 = row_range(&equal, sketch_producer(&equal, b), channel);
    double r3 = column_range(&equal, sketch_producer(&equal, c), channel, 1);
    double before = row_range(&s.graph, sketch_producer(&s.graph, a), channel) *
                    row_range(&s.graph, sketch_producer(&s.graph, b), channel) *
                    column_range(&s.graph, sketch_producer(&s.graph, c), channel, 1);
    assert_true(fabs(r1 / r2 - 1) < 0.01 && fabs(r2 / r3 - 1) < 0.01);
    assert_true(fabs(cbrt(before) / r1 - 1) < 0.01); /* g = (r1 r2 r3)^(1/3) */
  }
  qb_graph_free(&equal);
  settings.power_of_two = true;
  equal = equalize_clone(&s.graph, &settings, &info);
  assert_true(info.channels > 6 && info.sweeps < settings.sweeps);
  qb_graph_free(&equal);
  qb_graph_free(&s.graph);
}

/* |W| a + |b| stays the input's 2 in every layer; with powers of two it stays in (m/2, m], m the layer's input. */
static void l1_keeps_magnitudes(void **state) {
  (void)state;
  sketch_graph s = sketch_start(3);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 4)), layers[4];
  for (int i = 0; i < 4; i++) {
    layers[i] = spread_layer(&s, sketch_gemm(&s, x, 5, true));
    x = i < 3 ? sketch_unary(&s, QB_OP_RELU, layers[i]) : layers[i];
  }
  sketch_finish(&s, x);
  for (int exact = 0; exact < 2; exact++) {
    qb_equalize_settings settings = settings_for(QB_EQUALIZE_L1);
    settings.power_of_two = exact != 0;
    settings.input_magnitude = 2;
    qb_equalize_info info;
    qb_graph equal = equalize_clone(&s.graph, &settings, &info);
    assert_int_equal(info.places, 3);
    double a[5] = {2, 2, 2, 2, 2};
    for (int layer = 0; layer < 3; layer++) {
      const qb_node *node = sketch_producer(&equal, layers[layer]);
      const qb_shape *shape = &equal.values[node->inputs[1]].shape;
      double next[5], m = 0;
      for (int i = 0; i < 5; i++)
        m = fmax(m, a[i]);
      for (int64_t o = 0; o < 5; o++) {
        next[o] = fabs((double)qb_view_f32(&equal.values[node->inputs[2]].constant)[o]);
        for (int64_t i = 0; i < shape->dims[1]; i++)
          next[o] += fabs((double)qb_view_f32(&equal.values[node->inputs[1]].constant)[o * shape->dims[1] + i]) * a[i];
        assert_true(exact ? next[o] > 0.5 * m && next[o] <= m * (1 + 1e-12) : fabs(next[o] / m - 1) < 2e-3);
      }
      memcpy(a, next, sizeof a);
    }
    qb_graph_free(&equal);
  }
  qb_graph_free(&s.graph);
}

/* Residual sums, network outputs, sigmoids, lower limits, shared and quantized weights stay as they are. */
static void what_would_change_the_function_is_left(void **state) {
  (void)state;
  sketch_graph s = sketch_start(4);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 4, 5, 5));
  qb_value_id a = spread_layer(&s, sketch_conv(&s, x, 4, 3, 1, 1, 1));
  qb_value_id b = spread_layer(&s, sketch_conv(&s, sketch_unary(&s, QB_OP_RELU, a), 4, 3, 1, 1, 1));
  qb_value_id sum = sketch_binary(&s, QB_OP_ADD, b, x);
  qb_value_id c = spread_layer(&s, sketch_conv(&s, sum, 4, 1, 1, 0, 1));
  qb_value_id d = sketch_conv(&s, sketch_clip(&s, c, -1, 1), 4, 1, 1, 0, 1);
  sketch_finish(&s, d);
  qb_equalize_settings settings = settings_for(QB_EQUALIZE_RANGE);
  qb_equalize_info info;
  qb_graph equal = equalize_clone(&s.graph, &settings, &info);
  assert_int_equal(info.places, 1);
  assert_int_equal(info.left_count, 3);
  assert_non_null(strstr(info.left[0].why, "meets other values"));
  assert_non_null(strstr(info.left[1].why, "lower limit"));
  assert_non_null(strstr(info.left[2].why, "output of the network"));
  qb_value_id untouched = sketch_producer(&s.graph, c)->inputs[1];
  assert_ptr_equal(equal.values[untouched].constant.data, s.graph.values[untouched].constant.data);
  qb_graph_free(&equal);
  qb_graph_free(&s.graph);

  s = sketch_start(5);
  x = sketch_input(&s, QB_SHAPE(1, 4));
  qb_value_id weight = sketch_random(&s, QB_SHAPE(4, 4), -1, 1);
  for (int i = 0; i < 2; i++)
    x = sketch_unary(&s, QB_OP_RELU, sketch_node(&s, QB_OP_GEMM, (qb_value_id[]){x, weight}, 2, NULL, NULL));
  sketch_finish(&s, x);
  equal = equalize_clone(&s.graph, &settings, &info);
  assert_int_equal(info.places, 0);
  assert_non_null(strstr(info.left[0].why, "shared"));
  qb_graph_free(&equal);
  qb_graph_free(&s.graph);

  s = sketch_start(6);
  x = sketch_gemm(&s, sketch_input(&s, QB_SHAPE(1, 4)), 4, true);
  sketch_finish(&s, sketch_gemm(&s, sketch_unary(&s, QB_OP_RELU, x), 4, true));
  s.graph.values[sketch_producer(&s.graph, x)->inputs[1]].codes = &(qb_codes){.bits = 8};
  equal = equalize_clone(&s.graph, &settings, &info);
  assert_int_equal(info.places, 0);
  assert_non_null(strstr(info.left[0].why, "quantized"));
  qb_graph_free(&equal);
  qb_graph_free(&s.graph);
}

/* One output read by two layers; grouped and transposed convolutions on both sides. */
static void several_readers_and_groups(void **state) {
  (void)state;
  sketch_graph s = sketch_start(7);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 4, 4, 4));
  qb_value_id a = spread_layer(&s, sketch_conv(&s, x, 8, 3, 1, 1, 2));
  qb_value_id relu = sketch_unary(&s, QB_OP_RELU, a);
  qb_value_id left = spread_layer(&s, sketch_conv(&s, relu, 4, 3, 1, 1, 4));
  qb_value_id right = spread_layer(&s, sketch_conv(&s, relu, 4, 1, 1, 0, 1));
  qb_value_id t = spread_layer(&s, sketch_conv_transpose(&s, sketch_binary(&s, QB_OP_ADD, left, right), 6, 2, 2, 2));
  qb_value_id u = spread_layer(&s, sketch_conv_transpose(&s, sketch_unary(&s, QB_OP_RELU, t), 3, 2, 1, 1));
  qb_value_id v = spread_layer(&s, sketch_conv_transpose(&s, sketch_unary(&s, QB_OP_RELU, u), 3, 2, 1, 3));
  sketch_finish(&s, sketch_gemm(&s, sketch_flatten(&s, sketch_unary(&s, QB_OP_RELU, v)), 2, true));
  for (int kind = 0; kind < 2; kind++)
    for (int exact = 0; exact < 2; exact++) {
      qb_equalize_settings settings = settings_for(kind == 0 ? QB_EQUALIZE_RANGE : QB_EQUALIZE_L1);
      settings.power_of_two = exact != 0;
      qb_equalize_info info;
      qb_graph equal = equalize_clone(&s.graph, &settings, &info);
      assert_int_equal(info.places, 4);
      assert_true(info.channels > 8);
      qb_graph_free(&equal);
    }
  qb_graph_free(&s.graph);
}

/* Subnormal weights cannot be halved exactly: their channel stays, the others change. Zero channels stay too. */
static void channels_that_would_round_are_left(void **state) {
  (void)state;
  sketch_graph s = sketch_start(8);
  const float first[3 * 2] = {64, 0x1p-149f, 64, 1, 0, 0}, second[3] = {1, 1, 1};
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 2)), w1 = sketch_constant(&s, QB_SHAPE(3, 2), first);
  qb_value_id w2 = sketch_constant(&s, QB_SHAPE(1, 3), second);
  x = sketch_unary(&s, QB_OP_RELU, sketch_node(&s, QB_OP_MATMUL, (qb_value_id[]){x, w1}, 2, NULL, NULL));
  sketch_finish(&s, sketch_node(&s, QB_OP_MATMUL, (qb_value_id[]){x, w2}, 2, NULL, NULL));
  qb_equalize_settings settings = settings_for(QB_EQUALIZE_RANGE);
  qb_equalize_info info;
  qb_graph equal = equalize_clone(&s.graph, &settings, &info);
  const float expected_first[6] = {64, 0x1p-149f, 8, 0.125f, 0, 0}, expected_second[3] = {1, 8, 1};
  assert_memory_equal(equal.values[w1].constant.data, expected_first, sizeof expected_first);
  assert_memory_equal(equal.values[w2].constant.data, expected_second, sizeof expected_second);
  assert_int_equal(info.channels, 1);
  assert_int_equal(info.channels_refused, 1);
  assert_true(info.largest_scale == 8);
  qb_graph_free(&equal);
  qb_graph_free(&s.graph);
}

static void bad_settings_are_refused(void **state) {
  (void)state;
  sketch_graph s = sketch_start(9);
  sketch_finish(&s, sketch_gemm(&s, sketch_input(&s, QB_SHAPE(1, 2)), 2, true));
  qb_equalize_info info;
  qb_error error;
  qb_equalize_settings settings = settings_for(QB_EQUALIZE_RANGE);
  settings.sweeps = 0;
  assert_int_equal(qb_equalize(&s.graph, &settings, &info, &error), QB_ERROR_ARGUMENT);
  settings = settings_for(QB_EQUALIZE_L1);
  settings.input_magnitude = NAN;
  assert_int_equal(qb_equalize(&s.graph, &settings, &info, &error), QB_ERROR_ARGUMENT);
  settings = settings_for((qb_equalize_kind)7);
  assert_int_equal(qb_equalize(&s.graph, &settings, &info, &error), QB_ERROR_ARGUMENT);
  qb_graph_free(&s.graph);
}

static qb_status equalize_work(void *context, qb_error *error) {
  for (int kind = 0; kind < 2; kind++) {
    qb_graph clone;
    qb_equalize_info info;
    qb_equalize_settings settings = settings_for(kind == 0 ? QB_EQUALIZE_RANGE : QB_EQUALIZE_L1);
    qb_status status = qb_graph_clone(context, &clone, error);
    if (status == QB_OK)
      status = qb_equalize(&clone, &settings, &info, error);
    qb_graph_free(&clone);
    if (status != QB_OK)
      return status;
  }
  return QB_OK;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  sketch_graph s = sketch_start(10);
  qb_value_id x = spread_layer(&s, sketch_gemm(&s, sketch_input(&s, QB_SHAPE(1, 200)), 200, true));
  sketch_finish(&s, sketch_gemm(&s, sketch_clip(&s, x, 0, 6), 100, true));
  assert_true(fault_every_allocation(equalize_work, &s.graph, 200) > 20);
  qb_graph_free(&s.graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pairs_get_equal_ranges),     cmocka_unit_test(depthwise_triples_keep_relu6),
      cmocka_unit_test(l1_keeps_magnitudes),        cmocka_unit_test(what_would_change_the_function_is_left),
      cmocka_unit_test(several_readers_and_groups), cmocka_unit_test(channels_that_would_round_are_left),
      cmocka_unit_test(bad_settings_are_refused),   cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
