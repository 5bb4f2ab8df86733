/* Every layerwise rule against values computed by hand.
 *
 * Most tests start from the same two channels: x in [-1, 2] through a 1x1 convolution with diag(2, 1) in the original
 * and diag(1.5, 1) in the quantized network. Channel 0 then has x in [-2, 4], x' in [-1.5, 3], e = 1; channel 1 has
 * [-1, 2] twice and e = 0. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bound/layerwise.h"
#include "support/faults.h"
#include "support/network_builder.h"

typedef struct fixture {
  network_builder net;
  qb_value_id base;   /* the two channels, (1, 2, 2, 2) */
  qb_value_id weight; /* of the 1x1 convolution */
  qb_graph original, quantized;
  qb_pair pair;
  qb_layerwise layerwise;
} fixture;

static void begin(fixture *f) {
  const float w[] = {2, 0, 0, 1};
  *f = (fixture){0};
  network_builder_init(&f->net, QB_SHAPE(1, 2, 2, 2));
  f->base = network_conv(&f->net, f->net.input, 2, network_window(1, 1, 0), 1, w, NULL);
  f->weight = f->net.graph.nodes[0].inputs[1];
}

/* Ends building; constants of the quantized graph may then be edited. */
static void freeze(fixture *f, qb_value_id output) {
  f->original = network_builder_finish(&f->net, output);
  f->quantized = network_clone(&f->original);
  network_edit(&f->quantized, f->weight)[0] = 1.5f;
  f->pair = network_pair(&f->original, &f->quantized);
}

static void evaluate(fixture *f) {
  qb_domain domain;
  qb_error error;
  assert_int_equal(qb_domain_interval(&f->original, -1, 2, &domain, &error), QB_OK);
  if (qb_layerwise_bound(&f->pair, &domain, &f->layerwise, &error) != QB_OK)
    fail_msg("%s", error.message);
  qb_domain_free(&domain);
}

static void end(fixture *f) {
  qb_layerwise_free(&f->layerwise);
  network_pair_free(&f->pair);
  qb_graph_free(&f->quantized);
  qb_graph_free(&f->original);
}

static void near_value(const char *what, double value, double expected, bool upper) {
  double slack = 1e-9 * (1 + fabs(expected));
  bool outwards = upper ? value >= expected - 1e-15 : value <= expected + 1e-15;
  if (!outwards || fabs(value - expected) > slack)
    fail_msg("%s is %.17g, expected %.17g", what, value, expected);
}

/* Channel c of the output: x in [lo, hi], x' in [lo_q, hi_q], |x - x'| <= e; each rounded outwards, and close. */
static void expect(const fixture *f, int64_t c, double lo, double hi, double lo_q, double hi_q, double e) {
  const qb_bound_state *state = &f->layerwise.states[f->quantized.outputs[0]];
  assert_true(c < state->channels && state->exponent == 0);
  near_value("lo", state->x[c].lo, lo, false);
  near_value("hi", state->x[c].hi, hi, true);
  near_value("lo'", state->x_q[c].lo, lo_q, false);
  near_value("hi'", state->x_q[c].hi, hi_q, true);
  near_value("e", state->e[c], e, true);
}

static void expect_unary(qb_op op, const qb_attributes *attributes, const double first[5], const double second[5]) {
  fixture f;
  begin(&f);
  freeze(&f, network_node(&f.net, op, &f.base, 1, attributes, NULL));
  evaluate(&f);
  expect(&f, 0, first[0], first[1], first[2], first[3], first[4]);
  expect(&f, 1, second[0], second[1], second[2], second[3], second[4]);
  end(&f);
}

static qb_attributes no_attributes(void) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  return attributes;
}

#define NUMBERS(...) ((const double[5]){__VA_ARGS__})

/* ---------------------------------------------------------------------------------------------------- pointwise */

static void pointwise_maps(void **state) {
  (void)state;
  qb_attributes none = no_attributes(), leaky = none, steep = none, gate = none, softmax = none;
  expect_unary(QB_OP_IDENTITY, &none, NUMBERS(-2, 4, -1.5, 3, 1), NUMBERS(-1, 2, -1, 2, 0));
  expect_unary(QB_OP_RELU, &none, NUMBERS(0, 4, 0, 3, 1), NUMBERS(0, 2, 0, 2, 0));
  leaky.linear.alpha = 0.5f;
  expect_unary(QB_OP_LEAKY_RELU, &leaky, NUMBERS(-1, 4, -0.75, 3, 1), NUMBERS(-0.5, 2, -0.5, 2, 0));
  steep.linear.alpha = -2;
  expect_unary(QB_OP_LEAKY_RELU, &steep, NUMBERS(0, 8, 0, 6, 2), NUMBERS(0, 4, 0, 4, 0));
  double s2 = 1 / (1 + exp(2)), s4 = 1 / (1 + exp(-4)), s15 = 1 / (1 + exp(1.5)), s3 = 1 / (1 + exp(-3));
  expect_unary(QB_OP_SIGMOID, &none, NUMBERS(s2, s4, s15, s3, 0.25),
               NUMBERS(1 / (1 + exp(1)), 1 / (1 + exp(-2)), 1 / (1 + exp(1)), 1 / (1 + exp(-2)), 0));
  expect_unary(QB_OP_TANH, &none, NUMBERS(tanh(-2), tanh(4), tanh(-1.5), tanh(3), 1),
               NUMBERS(tanh(-1), tanh(2), tanh(-1), tanh(2), 0));
  gate.linear.alpha = 0.125f;
  gate.linear.beta = 0.5f;
  expect_unary(QB_OP_HARD_SIGMOID, &gate, NUMBERS(0.25, 1, 0.3125, 0.875, 0.125), NUMBERS(0.375, 0.75, 0.375, 0.75, 0));
  expect_unary(QB_OP_HARD_SWISH, &none, NUMBERS(-0.375, 4, -0.375, 3, 1.5),
               NUMBERS(-1.0 / 3, 5.0 / 3, -1.0 / 3, 5.0 / 3, 0));
  softmax.axes.axis = 1;
  softmax.axes.end_axis = 4;
  expect_unary(QB_OP_SOFTMAX, &softmax, NUMBERS(0, 1, 0, 1, 0.5), NUMBERS(0, 1, 0, 1, 0.5));
  softmax.axes.axis = 2; /* channels apart */
  expect_unary(QB_OP_SOFTMAX, &softmax, NUMBERS(0, 1, 0, 1, 0.5), NUMBERS(0, 1, 0, 1, 0));
}

static void clips_cap_the_error(void **state) {
  (void)state;
  qb_attributes clip = no_attributes();
  clip.clip = (qb_clip_attributes){.lo = 0, .hi = 0.5f};
  expect_unary(QB_OP_CLIP, &clip, NUMBERS(0, 0.5, 0, 0.5, 0.5), NUMBERS(0, 0.5, 0, 0.5, 0));
  clip.clip = (qb_clip_attributes){.lo = 1, .hi = 6}; /* 0 outside; |x| <= 6 but the ranges end at 4 and 3 */
  expect_unary(QB_OP_CLIP, &clip, NUMBERS(1, 4, 1, 3, 1), NUMBERS(1, 2, 1, 2, 0));
  const float limits[] = {1, 0.25f};
  clip.clip = (qb_clip_attributes){.lo = 0, .hi = 9, .hi_channels = limits};
  expect_unary(QB_OP_CLIP, &clip, NUMBERS(0, 1, 0, 1, 1), NUMBERS(0, 0.25, 0, 0.25, 0));
}

static void clips_that_differ_add_their_difference(void **state) {
  (void)state;
  fixture f;
  begin(&f);
  freeze(&f, network_clip(&f.net, f.base, -1, 2));
  f.quantized.nodes[1].attributes.clip.hi = 2.5f;
  evaluate(&f);
  expect(&f, 0, -1, 2, -1, 2.5, 1.5);
  expect(&f, 1, -1, 2, -1, 2, 0); /* values reach 2 only: the limits never differ */
  end(&f);
}

static void difference_of_clips_is_exact(void **state) {
  (void)state;
  fixture f;
  begin(&f);
  freeze(&f, network_clip(&f.net, f.base, 0, 100));
  f.quantized.nodes[1].attributes.clip.lo = -0.25f;
  evaluate(&f);
  expect(&f, 0, 0, 4, -0.25, 3, 1.25);
  expect(&f, 1, 0, 2, -0.25, 2, 0.25);
  end(&f);
}

static void prelu_slopes_per_channel(void **state) {
  (void)state;
  fixture f;
  const float slopes[] = {3, 0.5f};
  begin(&f);
  qb_value_id c = network_constant(&f.net, QB_SHAPE(2, 1, 1), slopes);
  freeze(&f, network_binary(&f.net, QB_OP_PRELU, f.base, c));
  network_edit(&f.quantized, c)[1] = 0.75f;
  evaluate(&f);
  expect(&f, 0, -6, 4, -4.5, 3, 3);
  expect(&f, 1, -0.5, 2, -0.75, 2, 0.25); /* |0.5 - 0.75| times the most negative input */
  end(&f);
}

/* ------------------------------------------------------------------------------------------------------- linear */

static void both_orders_of_a_linear_layer(void **state) {
  (void)state;
  fixture f;
  const float w[] = {1, -1, 0, 2}, b[] = {0.5f, 0};
  begin(&f);
  qb_value_id y = network_conv(&f.net, f.base, 2, network_window(1, 1, 0), 1, w, b);
  freeze(&f, y);
  qb_value_id weight = f.original.nodes[1].inputs[1], bias = f.original.nodes[1].inputs[2];
  network_edit(&f.quantized, weight)[0] = 0.5f;
  network_edit(&f.quantized, bias)[0] = 0.25f;
  evaluate(&f);
  /* row 0: dW = (0.5, 0), db = 0.25.
   * A: |W'| e = 0.5; dW x + db in 0.5 [-2, 4] + 0.25 = [-0.75, 2.25]: 2.75
   * B: |W| e = 1; dW x' + db in 0.5 [-1.5, 3] + 0.25 = [-0.5, 1.75]: 2.75 */
  expect(&f, 0, -3.5, 5.5, -2.5, 2.75, 2.75);
  expect(&f, 1, -2, 4, -2, 4, 0);
  end(&f);
}

static void signed_ranges_of_the_change_are_used(void **state) {
  (void)state;
  fixture f;
  const float w[] = {1, 1, 1, 1};
  begin(&f);
  qb_value_id relu = network_unary(&f.net, QB_OP_RELU, f.base);
  freeze(&f, network_conv(&f.net, relu, 2, network_window(1, 1, 0), 1, w, NULL));
  float *changed = network_edit(&f.quantized, f.original.nodes[2].inputs[1]);
  changed[0] = 0.5f;
  changed[1] = 1.5f;
  evaluate(&f);
  /* after Relu channels in [0, 4] and [0, 2]; dW x = 0.5 x_0 - 0.5 x_1 in [-1, 2], not +-3. A: 0.5 + 2; B: 1 + 1.5 */
  expect(&f, 0, 0, 6, 0, 4.5, 2.5);
  expect(&f, 1, 0, 6, 0, 5, 1);
  end(&f);
}

static void padding_puts_zero_into_the_range(void **state) {
  (void)state;
  const float ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  for (int pad = 0; pad < 2; pad++) {
    fixture f = {0};
    network_builder_init(&f.net, QB_SHAPE(1, 1, 3, 3));
    qb_value_id y = network_conv(&f.net, f.net.input, 1, network_window(3, 1, pad), 1, ones, NULL);
    f.original = network_builder_finish(&f.net, y);
    f.quantized = network_clone(&f.original);
    f.pair = network_pair(&f.original, &f.quantized);
    network_edit(&f.quantized, f.original.nodes[0].inputs[1])[4] = 0.5f;
    qb_domain domain;
    assert_int_equal(qb_domain_interval(&f.original, 1, 2, &domain, NULL), QB_OK);
    assert_int_equal(qb_layerwise_bound(&f.pair, &domain, &f.layerwise, NULL), QB_OK);
    expect(&f, 0, pad == 0 ? 9 : 0, 18, pad == 0 ? 8.5 : 0, 17, 1);
    qb_domain_free(&domain);
    end(&f);
  }
}

static void groups_see_their_own_channels(void **state) {
  (void)state;
  fixture f;
  const float w[] = {3, 5};
  begin(&f);
  freeze(&f, network_conv(&f.net, f.base, 2, network_window(1, 1, 0), 2, w, NULL));
  evaluate(&f);
  expect(&f, 0, -6, 12, -4.5, 9, 3);
  expect(&f, 1, -5, 10, -5, 10, 0);
  end(&f);
}

static void transposed_convolution_by_phase(void **state) {
  (void)state;
  fixture f;
  /* (IC 2, OC 1, 2, 2), stride 2: every output pixel meets one tap of each input channel */
  const float w[] = {1, 2, 3, 4, 0, 0, 0, -1};
  begin(&f);
  qb_attributes attributes = no_attributes();
  attributes.conv = (qb_conv_attributes){.window = network_window(2, 2, 0), .group = 1};
  qb_value_id ids[2] = {f.base, network_constant(&f.net, QB_SHAPE(2, 1, 2, 2), w)};
  freeze(&f, network_node(&f.net, QB_OP_CONV_TRANSPOSE, ids, 2, &attributes, NULL));
  evaluate(&f);
  /* the widest phase: 4 [-2, 4] - [-1, 2] = [-10, 17]; 4 e = 4, not (1 + 2 + 3 + 4) e */
  expect(&f, 0, -10, 17, -8, 13, 4);
  end(&f);
}

static void matrices_over_the_last_axis(void **state) {
  (void)state;
  fixture f;
  const float w[] = {1, 1, 2, -1};
  begin(&f);
  freeze(&f, network_gemm(&f.net, f.base, 2, w, NULL)); /* (1, 2, 2, 2) x (2, 2): channels lie on axis 1 */
  evaluate(&f);
  for (int c = 0; c < 2; c++) /* hull of both rows over the hull [-2, 4] of both channels */
    expect(&f, c, -8, 10, -6, 7.5, 3);
  end(&f);
}

static void batch_norm_is_an_affine_map(void **state) {
  (void)state;
  fixture f;
  const float gamma[] = {2, 1}, beta[] = {1, 0}, mean[] = {0, 1}, variance[] = {0.25f, 4};
  begin(&f);
  qb_value_id ids[5] = {f.base, network_constant(&f.net, QB_SHAPE(2), gamma),
                        network_constant(&f.net, QB_SHAPE(2), beta), network_constant(&f.net, QB_SHAPE(2), mean),
                        network_constant(&f.net, QB_SHAPE(2), variance)};
  freeze(&f, network_node(&f.net, QB_OP_BATCH_NORM, ids, 5, NULL, NULL));
  network_edit(&f.quantized, ids[2])[1] = 0.5f;
  evaluate(&f);
  expect(&f, 0, -7, 17, -5, 13, 4);
  expect(&f, 1, -1, 0.5, -0.5, 1, 0.5);
  end(&f);
}

/* ------------------------------------------------------------------------------------------------- several inputs */

static void constants_may_differ(void **state) {
  (void)state;
  const float c[] = {1, 2};
  const double expected[4][5] = {
      {-1, 5, 0, 4.5, 1.5}, /* x + 1, x' + 1.5 */
      {-3, 3, -3, 1.5, 1.5},
      {-2, 4, -2.25, 4.5, 2.5}, /* A: 4 * 0.5 + 1.5; B: 3 * 0.5 + 1 */
      {-2, 4, -1, 2, 2},        /* x / 1, x' / 1.5: 1/1 - 1/1.5 = 1/3: 4/3 + 2/3 = 2, 3/3 + 1 = 2 */
  };
  const qb_op ops[4] = {QB_OP_ADD, QB_OP_SUB, QB_OP_MUL, QB_OP_DIV};
  for (int i = 0; i < 4; i++) {
    fixture f;
    begin(&f);
    qb_value_id operand = network_constant(&f.net, QB_SHAPE(2, 1, 1), c);
    freeze(&f, network_binary(&f.net, ops[i], f.base, operand));
    network_edit(&f.quantized, operand)[0] = 1.5f;
    evaluate(&f);
    const double *v = expected[i];
    expect(&f, 0, v[0], v[1], v[2], v[3], v[4]);
    end(&f);
  }
}

static void constant_minus_tensor(void **state) {
  (void)state;
  fixture f;
  const float c[] = {1, 2};
  begin(&f);
  qb_value_id operand = network_constant(&f.net, QB_SHAPE(1, 2, 1, 1), c);
  freeze(&f, network_binary(&f.net, QB_OP_SUB, operand, f.base));
  evaluate(&f);
  expect(&f, 0, -3, 3, -2, 2.5, 1);
  expect(&f, 1, 0, 3, 0, 3, 0);
  end(&f);
}

static void tensors_are_added_and_multiplied(void **state) {
  (void)state;
  fixture f;
  begin(&f);
  qb_value_id relu = network_unary(&f.net, QB_OP_RELU, f.base);
  freeze(&f, network_binary(&f.net, QB_OP_ADD, f.base, relu));
  evaluate(&f);
  expect(&f, 0, -2, 8, -1.5, 6, 2);
  expect(&f, 1, -1, 4, -1, 4, 0);
  end(&f);

  begin(&f);
  relu = network_unary(&f.net, QB_OP_RELU, f.base);
  freeze(&f, network_binary(&f.net, QB_OP_MUL, f.base, relu));
  evaluate(&f);
  expect(&f, 0, -8, 16, -4.5, 9, 7); /* 4 * 1 + 3 * 1 */
  expect(&f, 1, -2, 4, -2, 4, 0);
  end(&f);
}

static void division_by_a_tensor_away_from_zero(void **state) {
  (void)state;
  fixture f;
  const float shift[] = {6, 3};
  begin(&f);
  qb_value_id divisor = network_binary(&f.net, QB_OP_ADD, f.base, network_constant(&f.net, QB_SHAPE(2, 1, 1), shift));
  freeze(&f, network_binary(&f.net, QB_OP_DIV, f.base, divisor));
  evaluate(&f);
  /* channel 0: v in [4, 10], v' in [4.5, 9], |1/v - 1/v'| <= 1/18; 4/18 + 1/4.5 or 3/18 + 1/4 */
  expect(&f, 0, -0.5, 1, -1.0 / 3, 2.0 / 3, 5.0 / 12);
  end(&f);
}

static void concat_along_channels_and_across(void **state) {
  (void)state;
  fixture f;
  qb_attributes attributes = no_attributes();
  attributes.axes.axis = 1;
  begin(&f);
  qb_value_id ids[2] = {network_unary(&f.net, QB_OP_RELU, f.base), f.base};
  freeze(&f, network_node(&f.net, QB_OP_CONCAT, ids, 2, &attributes, NULL));
  evaluate(&f);
  expect(&f, 0, 0, 4, 0, 3, 1);
  expect(&f, 1, 0, 2, 0, 2, 0);
  expect(&f, 2, -2, 4, -1.5, 3, 1);
  expect(&f, 3, -1, 2, -1, 2, 0);
  end(&f);

  const float part[] = {9, 9, 9, 9, 8, 8, 8, 8};
  attributes.axes.axis = 3;
  begin(&f);
  qb_value_id mixed[2] = {f.base, network_constant(&f.net, QB_SHAPE(1, 2, 2, 2), part)};
  freeze(&f, network_node(&f.net, QB_OP_CONCAT, mixed, 2, &attributes, NULL));
  network_edit(&f.quantized, mixed[1])[7] = 7.5f;
  evaluate(&f);
  expect(&f, 0, -2, 9, -1.5, 9, 1);
  expect(&f, 1, -1, 8, -1, 8, 0.5);
  end(&f);
}

/* --------------------------------------------------------------------------------------------------------- layout */

static void pools_keep_channels(void **state) {
  (void)state;
  qb_attributes pool = no_attributes();
  pool.pool.window = network_window(2, 1, 1);
  expect_unary(QB_OP_MAX_POOL, &pool, NUMBERS(-2, 4, -1.5, 3, 1), NUMBERS(-1, 2, -1, 2, 0));
  expect_unary(QB_OP_AVERAGE_POOL, &pool, NUMBERS(-2, 4, -1.5, 3, 1), NUMBERS(-1, 2, -1, 2, 0));
  qb_attributes none = no_attributes();
  expect_unary(QB_OP_GLOBAL_AVERAGE_POOL, &none, NUMBERS(-2, 4, -1.5, 3, 1), NUMBERS(-1, 2, -1, 2, 0));
}

static void average_over_pads_sees_zeros(void **state) {
  (void)state;
  fixture f;
  const float clip_lo = 1;
  qb_attributes pool = no_attributes();
  pool.pool.window = network_window(2, 1, 1);
  for (int include = 0; include < 2; include++) {
    pool.pool.count_include_pad = include == 1;
    begin(&f);
    qb_value_id x = network_clip(&f.net, f.base, clip_lo, 6);
    freeze(&f, network_node(&f.net, QB_OP_AVERAGE_POOL, &x, 1, &pool, NULL));
    evaluate(&f);
    expect(&f, 0, include ? 0 : 1, 4, include ? 0 : 1, 3, 1);
    end(&f);
  }
}

static void pads_bring_their_value(void **state) {
  (void)state;
  fixture f;
  qb_attributes pad = no_attributes();
  pad.pad.value = 7;
  pad.pad.begin[1] = 1; /* a new channel in front */
  pad.pad.end[3] = 1;
  begin(&f);
  freeze(&f, network_node(&f.net, QB_OP_PAD, &f.base, 1, &pad, NULL));
  evaluate(&f);
  expect(&f, 0, 7, 7, 7, 7, 0);
  expect(&f, 1, -2, 7, -1.5, 7, 1);
  expect(&f, 2, -1, 7, -1, 7, 0);
  end(&f);
}

static void layout_changes_move_channels(void **state) {
  (void)state;
  fixture f;
  qb_attributes transpose = no_attributes();
  const int32_t permutation[4] = {0, 2, 3, 1};
  memcpy(transpose.transpose.permutation, permutation, sizeof permutation);
  begin(&f);
  freeze(&f, network_node(&f.net, QB_OP_TRANSPOSE, &f.base, 1, &transpose, NULL));
  evaluate(&f);
  expect(&f, 0, -2, 4, -1.5, 3, 1);
  expect(&f, 1, -2, 4, -1.5, 3, 1);
  end(&f);

  begin(&f);
  qb_shape flat = QB_SHAPE(1, 8);
  freeze(&f, network_node(&f.net, QB_OP_FLATTEN, &f.base, 1, NULL, &flat));
  evaluate(&f);
  expect(&f, 3, -2, 4, -1.5, 3, 1);
  expect(&f, 4, -1, 2, -1, 2, 0);
  end(&f);

  begin(&f);
  qb_shape merged = QB_SHAPE(1, 1, 8);
  freeze(&f, network_node(&f.net, QB_OP_RESHAPE, &f.base, 1, NULL, &merged));
  evaluate(&f);
  expect(&f, 0, -2, 4, -1.5, 3, 1);
  end(&f);
}

/* ----------------------------------------------------------------------------------------- quantized activations */

static int32_t *no_ids(int32_t count) {
  int32_t *ids = qb_alloc((size_t)count, sizeof *ids);
  assert_non_null(ids);
  for (int32_t i = 0; i < count; i++)
    ids[i] = QB_NONE;
  return ids;
}

/* base -> QuantizeLinear -> DequantizeLinear in the quantized graph only; scale 1/2, zero point 4, codes 0..hi. */
static void add_quantizer(fixture *f, float hi, bool absorb_relu) {
  begin(f);
  qb_graph *graph = &f->quantized;
  qb_error error;
  freeze(f, absorb_relu ? network_unary(&f->net, QB_OP_RELU, f->base) : f->base);
  network_pair_free(&f->pair);
  if (absorb_relu)
    graph->node_count = 1; /* the clamp takes the Relu's place */
  qb_shape scalar = {.rank = 0};
  float *scale, *zero;
  qb_value_id ids[3] = {f->base, QB_NONE, QB_NONE};
  qb_node_id quantize, dequantize;
  qb_attributes attributes = no_attributes();
  attributes.quantize.hi = hi;
  assert_int_equal(qb_graph_new_constant(graph, "scale", &scalar, &ids[1], &scale, &error), QB_OK);
  assert_int_equal(qb_graph_new_constant(graph, "zero", &scalar, &ids[2], &zero, &error), QB_OK);
  *scale = 0.5f;
  *zero = absorb_relu ? 0 : 4;
  assert_int_equal(qb_graph_add_node(graph, QB_OP_QUANTIZE_LINEAR, NULL, ids, 3, &attributes, "codes", NULL, &quantize,
                                     &error),
                   QB_OK);
  ids[0] = graph->nodes[quantize].output;
  assert_int_equal(qb_graph_add_node(graph, QB_OP_DEQUANTIZE_LINEAR, NULL, ids, 3, &attributes, "real", NULL,
                                     &dequantize, &error),
                   QB_OK);
  graph->outputs[0] = graph->nodes[dequantize].output;
  f->pair = (qb_pair){.original = &f->original,
                      .quantized = graph,
                      .partner = no_ids(graph->node_count),
                      .value = no_ids(graph->value_count)};
  f->pair.partner[0] = 0;
  f->pair.partner[quantize] = absorb_relu ? 1 : QB_NONE;
  for (qb_value_id v = 0; v <= f->base; v++)
    f->pair.value[v] = v;
  f->pair.value[graph->nodes[quantize].output] = f->original.outputs[0];
  f->pair.value[graph->nodes[dequantize].output] = f->original.outputs[0];
}

static void quantized_activations(void **state) {
  (void)state;
  fixture f;
  add_quantizer(&f, 15, false); /* [-2, 5.5]: nothing is cut off */
  evaluate(&f);
  expect(&f, 0, -2, 4, -1.75, 3.25, 1.25);
  expect(&f, 1, -1, 2, -1.25, 2.25, 0.25);
  end(&f);

  add_quantizer(&f, 7, false); /* [-2, 1.5]: x' is cut off by 1.5, x would be by 2.5 */
  evaluate(&f);
  expect(&f, 0, -2, 4, -1.75, 1.5, 2.75);
  expect(&f, 1, -1, 2, -1.25, 1.5, 0.75);
  end(&f);
}

static void a_clamp_in_the_place_of_relu_costs_nothing(void **state) {
  (void)state;
  fixture f;
  add_quantizer(&f, 15, true); /* [0, 7.5] against relu */
  evaluate(&f);
  expect(&f, 0, 0, 4, 0, 3.25, 1.25);
  expect(&f, 1, 0, 2, 0, 2.25, 0.25);
  end(&f);
}

static void operators_on_codes_are_refused(void **state) {
  (void)state;
  fixture f;
  add_quantizer(&f, 15, false);
  f.quantized.outputs[0] = f.quantized.nodes[1].output; /* the codes themselves */
  qb_domain domain;
  qb_error error;
  assert_int_equal(qb_domain_interval(&f.original, -1, 2, &domain, NULL), QB_OK);
  assert_int_equal(qb_layerwise_bound(&f.pair, &domain, &f.layerwise, &error), QB_ERROR_UNSUPPORTED);
  qb_domain_free(&domain);
  end(&f);
}

/* ------------------------------------------------------------------------------------------------------ the whole */

static void equal_networks_have_no_error(void **state) {
  (void)state;
  fixture f;
  const float w[] = {1, 2, 3, 4};
  begin(&f);
  qb_value_id y =
      network_conv(&f.net, network_unary(&f.net, QB_OP_SIGMOID, f.base), 2, network_window(1, 1, 0), 1, w, NULL);
  freeze(&f, y);
  network_edit(&f.quantized, f.weight)[0] = 2;
  evaluate(&f);
  assert_true(qb_magnitude_to_double(f.layerwise.bound) == 0);
  end(&f);
}

/* 400 layers of norm 1000 on both sides of a change: about 1e1200, far beyond double. */
static void deep_networks_keep_finite_bounds(void **state) {
  (void)state;
  fixture f;
  const float w[] = {1000, 0, 0, 1};
  begin(&f);
  qb_value_id x = f.base;
  for (int l = 0; l < 400; l++)
    x = network_unary(&f.net, QB_OP_RELU, network_conv(&f.net, x, 2, network_window(1, 1, 0), 1, w, NULL));
  freeze(&f, x);
  evaluate(&f);
  double log10_bound = qb_magnitude_log10(f.layerwise.bound);
  assert_true(log10_bound >= 1200 && log10_bound < 1200 + 1e-6);
  end(&f);
}

static qb_status bound_with_faults(void *context, qb_error *error) {
  fixture *f = context;
  qb_domain domain;
  qb_status status = qb_domain_interval(&f->original, -1, 2, &domain, error);
  if (status == QB_OK)
    status = qb_layerwise_bound(&f->pair, &domain, &f->layerwise, error);
  qb_domain_free(&domain);
  qb_layerwise_free(&f->layerwise);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  fixture f;
  const float w[] = {1, 2, 3, 4}, c[] = {1, 2};
  begin(&f);
  qb_value_id x = network_conv(&f.net, f.base, 2, network_window(1, 1, 0), 1, w, NULL);
  freeze(&f, network_binary(&f.net, QB_OP_ADD, x, network_constant(&f.net, QB_SHAPE(2, 1, 1), c)));
  assert_true(fault_every_allocation(bound_with_faults, &f, 1000) >= 1);
  end(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pointwise_maps),
      cmocka_unit_test(clips_cap_the_error),
      cmocka_unit_test(clips_that_differ_add_their_difference),
      cmocka_unit_test(difference_of_clips_is_exact),
      cmocka_unit_test(prelu_slopes_per_channel),
      cmocka_unit_test(both_orders_of_a_linear_layer),
      cmocka_unit_test(signed_ranges_of_the_change_are_used),
      cmocka_unit_test(padding_puts_zero_into_the_range),
      cmocka_unit_test(groups_see_their_own_channels),
      cmocka_unit_test(transposed_convolution_by_phase),
      cmocka_unit_test(matrices_over_the_last_axis),
      cmocka_unit_test(batch_norm_is_an_affine_map),
      cmocka_unit_test(constants_may_differ),
      cmocka_unit_test(constant_minus_tensor),
      cmocka_unit_test(tensors_are_added_and_multiplied),
      cmocka_unit_test(division_by_a_tensor_away_from_zero),
      cmocka_unit_test(concat_along_channels_and_across),
      cmocka_unit_test(pools_keep_channels),
      cmocka_unit_test(average_over_pads_sees_zeros),
      cmocka_unit_test(pads_bring_their_value),
      cmocka_unit_test(layout_changes_move_channels),
      cmocka_unit_test(quantized_activations),
      cmocka_unit_test(a_clamp_in_the_place_of_relu_costs_nothing),
      cmocka_unit_test(operators_on_codes_are_refused),
      cmocka_unit_test(equal_networks_have_no_error),
      cmocka_unit_test(deep_networks_keep_finite_bounds),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
