/* Quantizing the weights of graphs: what is written, what is shared, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "quant/quant.h"
#include "support/faults.h"
#include "support/sketch.h"

static qb_quantize_settings settings_for(int bits) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = bits;
  return settings;
}

/* Conv, depthwise Conv, two ConvTransposes, Gemm, MatMul. */
static qb_graph every_layer(void) {
  sketch_graph s = sketch_start(1);
  qb_value_id x = sketch_conv(&s, sketch_input(&s, QB_SHAPE(1, 3, 6, 6)), 4, 3, 1, 1, 1);
  x = sketch_conv(&s, sketch_unary(&s, QB_OP_RELU, x), 4, 3, 1, 1, 4);
  x = sketch_conv_transpose(&s, sketch_unary(&s, QB_OP_RELU, x), 6, 2, 2, 1);
  x = sketch_conv_transpose(&s, sketch_unary(&s, QB_OP_RELU, x), 4, 2, 2, 2);
  x = sketch_gemm(&s, sketch_flatten(&s, x), 5, true);
  sketch_finish(&s, sketch_matmul(&s, x, 3));
  return s.graph;
}

static qb_graph clone(const qb_graph *graph) {
  qb_graph copy;
  qb_error error;
  assert_int_equal(qb_graph_clone(graph, &copy, &error), QB_OK);
  return copy;
}

static qb_graph quantize_clone(const qb_graph *graph, const qb_quantize_settings *settings, qb_quantize_info *info) {
  qb_graph copy = clone(graph);
  qb_error error;
  if (qb_quantize_weights(&copy, settings, NULL, info, &error) != QB_OK || qb_graph_validate(&copy, &error) != QB_OK)
    fail_msg("%s", error.message);
  return copy;
}

/* Index along `axis` of element `i`. */
static size_t part_of(const qb_shape *shape, int32_t axis, size_t i) {
  size_t inner = 1;
  if (axis == QB_NONE)
    return 0;
  for (int32_t d = axis + 1; d < shape->rank; d++)
    inner *= (size_t)shape->dims[d];
  return i / inner % (size_t)shape->dims[axis];
}

/* The float32 weights are what DequantizeLinear computes from codes, scales and zero points; delta and mean square
 * are what one finds by comparing; every code is in range. */
static void check_layer(const qb_value *before, const qb_value *after, const qb_quantize_layer *layer,
                        const qb_quantize_settings *settings) {
  const qb_codes *codes = after->codes;
  size_t count = qb_shape_elements(&after->shape);
  double delta = 0, square = 0;
  assert_int_equal(codes->bits, settings->bits);
  assert_int_equal(codes->is_signed, !settings->affine);
  assert_int_equal(codes->codes.dtype, settings->bits <= 8 ? (settings->affine ? QB_DTYPE_U8 : QB_DTYPE_I8)
                                                           : (settings->affine ? QB_DTYPE_U16 : QB_DTYPE_I16));
  assert_int_equal(codes->scale_count, codes->axis == QB_NONE ? 1 : after->shape.dims[codes->axis]);
  assert_int_equal(codes->zero_point != NULL, settings->affine);
  int64_t half = (int64_t)1 << (settings->bits - 1);
  for (size_t i = 0; i < count; i++) {
    int64_t code = qb_view_integer(&codes->codes, i);
    assert_true(settings->affine ? code >= 0 && code < 2 * half : code >= -half && code < half);
    size_t part = part_of(&after->shape, codes->axis, i);
    volatile float difference = (float)(code - (settings->affine ? codes->zero_point[part] : 0));
    volatile float product = codes->scale[part] * difference;
    float written = qb_view_f32(&after->constant)[i];
    assert_true(written == product);
    double error = fabs((double)written - (double)qb_view_f32(&before->constant)[i]);
    delta = fmax(delta, error);
    square += error * error;
  }
  assert_true(delta == layer->delta);
  assert_true(fabs(layer->mean_square - square / (double)count) <= 1e-12 * square);
  assert_int_equal(layer->weights, count);
}

static void written_weights_are_what_a_runtime_computes(void **state) {
  (void)state;
  qb_graph graph = every_layer();
  for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++)
    for (int variant = 0; variant < 16; variant++) {
      qb_quantize_settings settings = settings_for(bits);
      settings.granularity = variant & 1 ? QB_PER_TENSOR : QB_PER_CHANNEL;
      settings.affine = (variant & 2) != 0;
      settings.grid = variant & 4 ? QB_GRID_MSE : QB_GRID_MINMAX;
      settings.scheme = !(variant & 8)                                    ? QB_SCHEME_UNIFORM
                        : settings.grid == QB_GRID_MSE || settings.affine ? QB_SCHEME_ROUND
                                                                          : QB_SCHEME_STOCHASTIC;
      if (settings.scheme == QB_SCHEME_ROUND)
        settings.affine = false;
      qb_quantize_info info;
      qb_graph quantized = quantize_clone(&graph, &settings, &info);
      double largest = 0;
      assert_int_equal(info.layer_count, 6);
      for (int layer = 0, n = 0; n < graph.node_count; n++) {
        qb_linear linear;
        if (!qb_graph_linear(&graph, n, &linear))
          continue;
        assert_string_equal(info.layers[layer].node, graph.nodes[n].name);
        check_layer(&graph.values[linear.weight], &quantized.values[linear.weight], &info.layers[layer], &settings);
        assert_true(linear.bias == QB_NONE || quantized.values[linear.bias].constant.data ==
                                                  graph.values[linear.bias].constant.data); /* biases stay */
        largest = fmax(largest, info.layers[layer].delta);
        layer++;
      }
      assert_true(info.delta == largest);
      qb_quantize_info_free(&info);
      qb_graph_free(&quantized);
    }
  qb_graph_free(&graph);
}

static void channel_axes_are_those_that_onnx_can_express(void **state) {
  (void)state;
  qb_graph graph = every_layer();
  qb_quantize_settings settings = settings_for(8);
  qb_graph quantized = quantize_clone(&graph, &settings, NULL);
  const int32_t axes[6] = {0, 0, 1, 0, 0, 0}; /* ConvTranspose: 1 with one group, 0 with two */
  for (int layer = 0, n = 0; n < graph.node_count; n++) {
    qb_linear linear;
    if (qb_graph_linear(&graph, n, &linear))
      assert_int_equal(quantized.values[linear.weight].codes->axis, axes[layer++]);
  }
  qb_graph_free(&quantized);
  qb_graph_free(&graph);
}

/* A row that is small, one that is zero, one with an outlier: each channel has its own scale. */
static void channels_do_not_disturb_each_other(void **state) {
  (void)state;
  sketch_graph s = sketch_start(2);
  const float weights[3 * 4] = {1e-3f, -2e-3f, 5e-4f, 0, 0, 0, 0, 0, 100, 1, -1, 0.5f};
  qb_value_id inputs[2] = {sketch_input(&s, QB_SHAPE(1, 4)), sketch_constant(&s, QB_SHAPE(3, 4), weights)};
  sketch_finish(&s, sketch_node(&s, QB_OP_MATMUL, inputs, 2, NULL, NULL));
  qb_quantize_settings settings = settings_for(8);
  qb_graph quantized = quantize_clone(&s.graph, &settings, NULL);
  const float *written = qb_view_f32(&quantized.values[inputs[1]].constant);
  for (int i = 0; i < 4; i++) {
    assert_true(fabs((double)written[i] - (double)weights[i]) <= 0.5001 * 2e-3 / 127);
    assert_true(written[4 + i] == 0);
  }
  qb_graph_free(&quantized);
  settings.granularity = QB_PER_TENSOR;
  quantized = quantize_clone(&s.graph, &settings, NULL);
  written = qb_view_f32(&quantized.values[inputs[1]].constant);
  for (int i = 0; i < 8; i++)
    assert_true(written[i] == 0); /* lost beside the outlier */
  qb_graph_free(&quantized);
  qb_graph_free(&s.graph);
}

static qb_value_id weight_of(const qb_graph *graph, int layer) {
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear linear;
    if (qb_graph_linear(graph, n, &linear) && layer-- == 0)
      return linear.weight;
  }
  return QB_NONE;
}

static void a_seed_decides_stochastic_rounding(void **state) {
  (void)state;
  qb_graph graph = every_layer();
  qb_quantize_settings settings = settings_for(3);
  settings.scheme = QB_SCHEME_STOCHASTIC;
  settings.seed = 4;
  qb_graph first = quantize_clone(&graph, &settings, NULL), again = quantize_clone(&graph, &settings, NULL);
  settings.seed = 5;
  qb_graph other = quantize_clone(&graph, &settings, NULL);
  settings.seed = 4;
  qb_layer_bits plan = {.node = graph.nodes[0].name, .bits = 0};
  settings.plan = &plan;
  settings.plan_count = 1;
  qb_graph without = quantize_clone(&graph, &settings, NULL);
  int differences = 0;
  for (int layer = 0; layer < 6; layer++) {
    qb_value_id weight = weight_of(&graph, layer);
    size_t bytes = qb_shape_elements(&graph.values[weight].shape) * sizeof(float);
    const void *a = first.values[weight].constant.data;
    assert_memory_equal(a, again.values[weight].constant.data, bytes);
    differences += memcmp(a, other.values[weight].constant.data, bytes) != 0;
    if (layer > 0) /* leaving a layer out does not change the draws of the others */
      assert_memory_equal(a, without.values[weight].constant.data, bytes);
  }
  assert_true(differences >= 5);
  qb_graph_free(&first);
  qb_graph_free(&again);
  qb_graph_free(&other);
  qb_graph_free(&without);
  qb_graph_free(&graph);
}

/* Two layers with one weight, which a Mul uses too. */
static void shared_weights_are_quantized_once_and_apart_from_other_uses(void **state) {
  (void)state;
  sketch_graph s = sketch_start(3);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 4, 4)), weight = sketch_random(&s, QB_SHAPE(4, 4), -1, 1);
  x = sketch_node(&s, QB_OP_GEMM, (qb_value_id[]){x, weight}, 2, NULL, NULL);
  x = sketch_node(&s, QB_OP_GEMM, (qb_value_id[]){x, weight}, 2, NULL, NULL);
  sketch_finish(&s, sketch_binary(&s, QB_OP_MUL, x, weight));
  qb_quantize_settings settings = settings_for(4);
  qb_quantize_info info;
  qb_graph quantized = quantize_clone(&s.graph, &settings, &info);
  assert_int_equal(info.layer_count, 2);
  assert_false(info.layers[0].tied);
  assert_true(info.layers[1].tied);
  assert_true(info.layers[0].delta > 0 && info.layers[1].delta == info.layers[0].delta);
  qb_value_id used = weight_of(&quantized, 0);
  assert_int_not_equal(used, weight);
  assert_int_equal(weight_of(&quantized, 1), used);
  assert_non_null(quantized.values[used].codes);
  assert_null(quantized.values[weight].codes);
  assert_int_equal(quantized.nodes[2].inputs[1], weight); /* the Mul keeps the float */
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);

  qb_graph copy = clone(&s.graph);
  qb_layer_bits plan = {.node = copy.nodes[1].name, .bits = 6};
  settings.plan = &plan;
  settings.plan_count = 1;
  qb_error error;
  assert_int_equal(qb_quantize_weights(&copy, &settings, NULL, &info, &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "share one weight"));
  qb_quantize_info_free(&info);
  qb_graph_free(&copy);
  qb_graph_free(&s.graph);
}

static void plans_override_bits(void **state) {
  (void)state;
  qb_graph graph = every_layer();
  qb_quantize_settings settings = settings_for(8);
  qb_layer_bits plan[3] = {{.node = graph.nodes[0].name, .bits = 3}, {.bits = 0}, {.bits = 12}};
  qb_quantize_info info;
  qb_graph quantized = quantize_clone(&graph, &settings, &info);
  plan[1].node = info.layers[1].node;
  plan[2].node = info.layers[1].node; /* the later entry counts */
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  settings.plan = plan;
  settings.plan_count = 2;
  quantized = quantize_clone(&graph, &settings, &info);
  assert_int_equal(info.layers[0].bits, 3);
  assert_int_equal(quantized.values[weight_of(&graph, 0)].codes->bits, 3);
  assert_int_equal(info.layers[1].bits, 0);
  assert_true(info.layers[1].delta == 0);
  assert_null(quantized.values[weight_of(&graph, 1)].codes);
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  settings.plan_count = 3;
  quantized = quantize_clone(&graph, &settings, &info);
  assert_int_equal(info.layers[1].bits, 12);
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  qb_graph_free(&graph);
}

static void check_refused(qb_quantize_settings settings, const char *what) {
  qb_graph graph = every_layer();
  qb_quantize_info info;
  qb_error error;
  assert_int_equal(qb_quantize_weights(&graph, &settings, NULL, &info, &error), QB_ERROR_ARGUMENT);
  if (strstr(error.message, what) == NULL)
    fail_msg("'%s' does not say '%s'", error.message, what);
  qb_quantize_info_free(&info);
  qb_graph_free(&graph);
}

static void bad_settings_are_refused(void **state) {
  (void)state;
  check_refused(settings_for(1), "2 to 16");
  check_refused(settings_for(17), "2 to 16");
  qb_quantize_settings settings = settings_for(8);
  settings.scheme = QB_SCHEME_ADAROUND;
  check_refused(settings, "calibration data");
  settings.scheme = QB_SCHEME_GPTQ;
  check_refused(settings, "calibration data");
  settings.scheme = QB_SCHEME_ROUND;
  settings.affine = true;
  check_refused(settings, "zero point");
  settings.scheme = QB_SCHEME_STOCHASTIC;
  settings.grid = QB_GRID_MSE;
  check_refused(settings, "min-max");
  settings = settings_for(8);
  settings.plan = &(qb_layer_bits){.node = "Gemm", .bits = 8};
  settings.plan_count = 1;
  check_refused(settings, "the nearest layer is 'Gemm");
  settings.plan = &(qb_layer_bits){.node = "Gemm", .bits = 1};
  check_refused(settings, "2 to 16");
}

static void weights_that_are_no_numbers_are_refused(void **state) {
  (void)state;
  qb_graph graph = every_layer();
  float *data = qb_graph_replace_constant(&graph, weight_of(&graph, 2));
  data[3] = NAN;
  qb_quantize_settings settings = settings_for(8);
  qb_quantize_info info;
  qb_error error;
  assert_int_equal(qb_quantize_weights(&graph, &settings, NULL, &info, &error), QB_ERROR_NUMERIC);
  qb_quantize_info_free(&info);
  qb_graph_free(&graph);
}

static bool stop_after_two(void *context, const char *what, int64_t done, int64_t total) {
  int *calls = context;
  assert_non_null(what);
  assert_int_equal(total, QB_PROGRESS_SHARES);
  assert_true(done >= 0 && done <= total);
  return (*calls)++ < 2;
}

static void progress_can_stop_the_work(void **state) {
  (void)state;
  qb_graph graph = every_layer();
  qb_quantize_settings settings = settings_for(8);
  int calls = 0;
  qb_progress progress = {.function = stop_after_two, .context = &calls};
  qb_quantize_info info;
  qb_error error;
  assert_int_equal(qb_quantize_weights(&graph, &settings, &progress, &info, &error), QB_ERROR_INTERRUPTED);
  assert_non_null(graph.values[weight_of(&graph, 1)].codes);
  assert_null(graph.values[weight_of(&graph, 2)].codes);
  qb_quantize_info_free(&info);
  qb_graph_free(&graph);
}

static qb_status quantize_work(void *context, qb_error *error) {
  qb_graph copy;
  qb_quantize_info info = {0};
  qb_quantize_settings settings = settings_for(4);
  settings.affine = true;
  qb_status status = qb_graph_clone(context, &copy, error);
  if (status == QB_OK)
    status = qb_quantize_weights(&copy, &settings, NULL, &info, error);
  qb_quantize_info_free(&info);
  qb_graph_free(&copy);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  sketch_graph s = sketch_start(4);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 4)), weight = sketch_random(&s, QB_SHAPE(4, 4), -1, 1);
  x = sketch_node(&s, QB_OP_GEMM, (qb_value_id[]){x, weight}, 2, NULL, NULL);
  x = sketch_gemm(&s, x, 20000, true); /* too large for the arena's first block */
  qb_error error;
  assert_int_equal(qb_graph_add_output(&s.graph, weight, &error), QB_OK);
  sketch_finish(&s, x);
  assert_true(fault_every_allocation(quantize_work, &s.graph, 200) > 8);
  qb_graph_free(&s.graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(written_weights_are_what_a_runtime_computes),
      cmocka_unit_test(channel_axes_are_those_that_onnx_can_express),
      cmocka_unit_test(channels_do_not_disturb_each_other),
      cmocka_unit_test(a_seed_decides_stochastic_rounding),
      cmocka_unit_test(shared_weights_are_quantized_once_and_apart_from_other_uses),
      cmocka_unit_test(plans_override_bits),
      cmocka_unit_test(bad_settings_are_refused),
      cmocka_unit_test(weights_that_are_no_numbers_are_refused),
      cmocka_unit_test(progress_can_stop_the_work),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
