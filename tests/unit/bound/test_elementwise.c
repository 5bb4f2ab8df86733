/* The elementwise bound: values computed by hand, planted faults that need extreme weights, threads, memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "base/rng.h"
#include "bound/elementwise.h"
#include "bound/fault.h"
#include "support/faults.h"
#include "support/network_builder.h"

typedef struct fixture {
  qb_graph original, quantized;
  qb_pair pair;
  qb_domain domain;
  qb_layerwise layerwise;
  qb_elementwise elementwise;
} fixture;

/* A network against its copy whose first weights are `changed` (NULL: none), inputs in [-reach, reach]. */
static void begin(fixture *f, qb_graph graph, const float *changed, int64_t count, float reach) {
  *f = (fixture){.original = graph};
  f->quantized = network_clone(&f->original);
  if (changed != NULL)
    memcpy(network_edit(&f->quantized, f->original.nodes[0].inputs[1]), changed, (size_t)count * sizeof *changed);
  f->pair = network_pair(&f->original, &f->quantized);
  assert_int_equal(qb_domain_interval(&f->original, -reach, reach, &f->domain, NULL), QB_OK);
}

static void bound(fixture *f) {
  assert_int_equal(qb_layerwise_bound(&f->pair, &f->domain, &f->layerwise, NULL), QB_OK);
  assert_int_equal(qb_elementwise_bound_kept(&f->pair, &f->domain, &f->layerwise, &f->elementwise, NULL), QB_OK);
}

static void release_bounds(fixture *f) {
  qb_elementwise_free(&f->elementwise);
  qb_layerwise_free(&f->layerwise);
}

static void end(fixture *f) {
  release_bounds(f);
  qb_domain_free(&f->domain);
  network_pair_free(&f->pair);
  qb_graph_free(&f->quantized);
  qb_graph_free(&f->original);
}

static double limit(const fixture *f, qb_value_id v, int part, int64_t i) {
  const qb_elementwise_state *state = &f->elementwise.states[v];
  return ldexp((double)state->limit[part][i], state->exponent);
}

static void assert_just_above(double value, double exact) {
  if (!(value >= exact && value <= exact * 1.0001))
    fail_msg("%.17g is not just above %.17g", value, exact);
}

/* One channel of two pixels, a 1x1 convolution. */
static qb_graph two_pixels(float weight, const float *bias) {
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 1, 1, 2));
  return network_builder_finish(&builder,
                                network_conv(&builder, builder.input, 1, network_window(1, 1, 0), 1, &weight, bias));
}

static void every_element_has_its_own_numbers(void **state) {
  (void)state;
  fixture f;
  const float bias = 0.5f, weight = 1;
  begin(&f, two_pixels(2, &bias), &weight, 1, 10);
  f.domain.lo[0] = -1;
  f.domain.hi[0] = 1;
  bound(&f);
  qb_value_id y = f.quantized.outputs[0];
  assert_just_above(limit(&f, y, QB_ELEMENT_ERROR, 0), 1);
  assert_just_above(limit(&f, y, QB_ELEMENT_ORIGINAL, 0), 2.5);
  assert_just_above(limit(&f, y, QB_ELEMENT_QUANTIZED, 0), 1.5);
  assert_just_above(limit(&f, y, QB_ELEMENT_ERROR, 1), 10);
  assert_just_above(qb_magnitude_to_double(f.elementwise.bound), 10);
  assert_int_equal(f.elementwise.convolutions, 5);
  end(&f);
}

/* -x against x: |x| + |x'|; the part both weights share is nothing. */
static void opposite_signs_share_nothing(void **state) {
  (void)state;
  fixture f;
  const float weight = -1;
  begin(&f, two_pixels(2, NULL), &weight, 1, 1);
  bound(&f);
  assert_just_above(limit(&f, f.quantized.outputs[0], QB_ELEMENT_ERROR, 0), 3);
  end(&f);
}

static void equal_networks_have_no_error(void **state) {
  (void)state;
  fixture f;
  begin(&f, two_pixels(2, NULL), NULL, 0, 1);
  bound(&f);
  assert_true(qb_magnitude_to_double(f.elementwise.bound) == 0);
  end(&f);
}

/* Two channels, the second shrinks by 1e-20 (1e-20 / 2 in the copy) and grows by 1e60: the products in between are far
 * below the smallest float32. */
static qb_graph tiny_then_huge(void) {
  network_builder builder;
  const float first[] = {1, 0, 0, 1e-20f}, grow[] = {0, 0, 0, 1e30f};
  network_builder_init(&builder, QB_SHAPE(1, 2, 1, 1));
  qb_value_id x = network_conv(&builder, builder.input, 2, network_window(1, 1, 0), 1, first, NULL);
  x = network_conv(&builder, x, 2, network_window(1, 1, 0), 1, grow, NULL);
  return network_builder_finish(&builder, network_conv(&builder, x, 2, network_window(1, 1, 0), 1, grow, NULL));
}

static double bound_with(fixture *f, qb_fault fault) {
  qb_bound_fault = fault;
  bound(f);
  qb_bound_fault = QB_FAULT_NONE;
  double value = qb_magnitude_to_double(f->elementwise.bound);
  release_bounds(f);
  return value;
}

static void products_that_underflow_are_counted(void **state) {
  (void)state;
  fixture f;
  const float changed[] = {1, 0, 0, 0.5e-20f};
  begin(&f, tiny_then_huge(), changed, 4, 1);
  f.domain.lo[1] = -1e-30f;
  f.domain.hi[1] = 1e-30f;
  double exact = (double)(1e-20f - 0.5e-20f) * (double)1e-30f * (double)1e30f * (double)1e30f;
  assert_true(bound_with(&f, QB_FAULT_NONE) >= exact);
  assert_true(bound_with(&f, QB_FAULT_NO_SUBNORMAL) < exact);
  end(&f);
}

/* 2^40 x against 2^39 x, six layers deep: beyond float32. */
static void the_exponent_is_carried(void **state) {
  (void)state;
  fixture f;
  network_builder builder;
  const float weight = 0x1p40f, changed = 0x1p39f;
  network_builder_init(&builder, QB_SHAPE(1, 1, 1, 1));
  qb_value_id x = builder.input;
  for (int i = 0; i < 6; i++)
    x = network_conv(&builder, x, 1, network_window(1, 1, 0), 1, &weight, NULL);
  begin(&f, network_builder_finish(&builder, x), &changed, 1, 1);
  double exact = ldexp(1, 239), value = bound_with(&f, QB_FAULT_NONE);
  assert_true(value >= exact && value <= 1.0001 * exact);
  assert_true(bound_with(&f, QB_FAULT_NO_EXPONENT) < exact);
  end(&f);
}

/* A 3x3 convolution of stride 2 with two groups, a depthwise one, a matrix. */
static qb_graph convolutions(qb_rng *rng) {
  enum { LARGEST = 8 * 8 * 9 };
  float weights[LARGEST * 4];
  network_builder builder;
  for (int i = 0; i < LARGEST * 4; i++)
    weights[i] = (float)qb_rng_range(rng, -1, 1);
  network_builder_init(&builder, QB_SHAPE(1, 16, 41, 43));
  qb_value_id x = network_conv(&builder, builder.input, 8, network_window(3, 2, 1), 2, weights, weights);
  x = network_unary(&builder, QB_OP_RELU, x);
  x = network_conv(&builder, x, 8, network_window(3, 1, 1), 8, weights, NULL);
  x = network_unary(&builder, QB_OP_GLOBAL_AVERAGE_POOL, network_unary(&builder, QB_OP_RELU, x));
  x = network_unary(&builder, QB_OP_FLATTEN, x);
  return network_builder_finish(&builder, network_gemm(&builder, x, 10, weights, NULL));
}

static void quantize(fixture *f) {
  for (int32_t n = 0; n < f->quantized.node_count; n++) {
    qb_linear linear;
    if (!qb_graph_linear(&f->original, n, &linear))
      continue;
    float *w = network_edit(&f->quantized, linear.weight);
    for (size_t i = 0; i < qb_shape_elements(&f->original.values[linear.weight].shape); i++)
      w[i] = roundf(w[i] * 16) / 16;
  }
}

static void threads_do_not_change_a_bit(void **state) {
  (void)state;
  fixture f, g;
  qb_rng rng;
  qb_rng_seed(&rng, 5, 0);
  begin(&f, convolutions(&rng), NULL, 0, 1);
  quantize(&f);
  int threads = omp_get_max_threads();
  g = f;
  omp_set_num_threads(1);
  bound(&f);
  omp_set_num_threads(3);
  bound(&g);
  omp_set_num_threads(threads);
  for (qb_value_id v = 0; v < f.quantized.value_count; v++)
    for (int part = 0; part < QB_ELEMENT_COUNT && f.elementwise.states[v].limit[0] != NULL; part++)
      assert_memory_equal(f.elementwise.states[v].limit[part], g.elementwise.states[v].limit[part],
                          (size_t)f.elementwise.states[v].count * sizeof(float));
  assert_true(qb_magnitude_compare(f.elementwise.bound, f.layerwise.bound) < 0);
  release_bounds(&g);
  end(&f);
}

/* ------------------------------------------------------------------------------------------------------ geometries */

/* A convolution behind one of 1x1, which makes the two networks' inputs differ. */
typedef struct geometry {
  int32_t channels[2], group, height, width;
  qb_window window;
} geometry;

static const geometry geometries[] = {
    {{3, 7}, 1, 9, 10, {{3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}},
    {{32, 139}, 1, 7, 7, {{3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}}, /* more than one block of entries and of rows */
    {{4, 6}, 2, 13, 31, {{3, 5}, {2, 3}, {2, 1}, {0, 4}, {3, 1}}},  /* strides beside dilations, lopsided pads */
    {{5, 4}, 1, 6, 120, {{2, 1}, {1, 5}, {3, 1}, {2, 0}, {1, 0}}},  /* columns that nobody reads */
    {{2, 3}, 1, 4, 3, {{3, 3}, {1, 1}, {1, 1}, {6, 7}, {5, 8}}},    /* rows and columns of padding alone */
    {{6, 6}, 6, 11, 17, {{3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}},
    {{3, 6}, 3, 15, 14, {{5, 3}, {2, 3}, {1, 2}, {1, 3}, {2, 0}}},
    {{2, 2}, 2, 5, 4, {{1, 2}, {4, 1}, {1, 3}, {0, 5}, {0, 1}}},
};

static qb_graph two_convolutions(const geometry *g, qb_rng *rng) {
  enum { LARGEST = 139 * 32 * 9 };
  static float weights[LARGEST];
  network_builder builder;
  for (int i = 0; i < LARGEST; i++)
    weights[i] = (float)qb_rng_range(rng, -1, 1);
  network_builder_init(&builder, QB_SHAPE(1, 2, g->height, g->width));
  qb_value_id x = network_conv(&builder, builder.input, g->channels[0], network_window(1, 1, 0), 1, weights, NULL);
  return network_builder_finish(&builder,
                                network_conv(&builder, x, g->channels[1], g->window, g->group, weights, weights + 7));
}

/* What element (o, y, z) must be in exact arithmetic, from the numbers of the inputs. */
static void sum_taps(const fixture *f, const geometry *g, int64_t o, int64_t y, int64_t z, double sums[3]) {
  const qb_window *w = &g->window;
  qb_linear own, other;
  assert_true(qb_graph_linear(&f->quantized, 1, &own) && qb_graph_linear(&f->original, 1, &other));
  const float *weight = qb_graph_constant(&f->original, other.weight);
  const float *weight_q = qb_graph_constant(&f->quantized, own.weight);
  bool depthwise = g->group == g->channels[0];
  int64_t ins = g->channels[0] / g->group, first = o / (g->channels[1] / g->group) * ins;
  sums[0] = 0;
  sums[1] = sums[2] = fabs((double)qb_graph_constant(&f->original, other.bias)[o]);
  for (int64_t k = 0; k < own.row_length; k++) {
    int64_t area = own.kernel_area, a = k % area / w->kernel[1], b = k % w->kernel[1];
    int64_t row = y * w->stride[0] + a * w->dilation[0] - w->pad_begin[0];
    int64_t column = z * w->stride[1] + b * w->dilation[1] - w->pad_begin[1];
    if (row < 0 || row >= g->height || column < 0 || column >= g->width)
      continue;
    int64_t at = ((first + k / area) * g->height + row) * g->width + column;
    qb_value_id v = f->quantized.nodes[1].inputs[0];
    double e = limit(f, v, 0, at), x = limit(f, v, 1, at), x_q = limit(f, v, 2, at), larger = fmax(x, x_q);
    double u = (double)weight[o * own.row_length + k], u_q = (double)weight_q[o * own.row_length + k];
    double m = u * u_q > 0 ? fmin(fabs(u), fabs(u_q)) : 0, p = fabs(u) - m, q = fabs(u_q) - m;
    sums[0] += m * e + (depthwise ? p * x + q * x_q : (p + q) * larger);
    sums[1] += fabs(u) * x;
    sums[2] += fabs(u_q) * x_q;
  }
}

static void assert_sums(const fixture *f, const geometry *g) {
  const qb_shape *shape = &f->quantized.values[f->quantized.outputs[0]].shape;
  int64_t height = shape->dims[2], width = shape->dims[3];
  for (int64_t i = 0; i < g->channels[1] * height * width; i++) {
    double sums[QB_ELEMENT_COUNT];
    sum_taps(f, g, i / (height * width), i / width % height, i % width, sums);
    for (int part = 0; part < QB_ELEMENT_COUNT; part++) /* in the padding something for underflow is left of 0 */
      assert_just_above(limit(f, f->quantized.outputs[0], part, i) * (1 + 1e-7) + 1e-38, sums[part] + 1e-38);
  }
}

/* Every input has its own range, and one of each channel a far larger one, so that the ranges of channels limit
 * nothing. */
static void every_geometry_reads_the_right_elements(void **state) {
  (void)state;
  for (size_t n = 0; n < sizeof geometries / sizeof *geometries; n++) {
    fixture f;
    qb_rng rng;
    qb_rng_seed(&rng, 11, n);
    begin(&f, two_convolutions(&geometries[n], &rng), NULL, 0, 1);
    quantize(&f);
    for (int64_t i = 0; i < f.domain.count; i++) {
      f.domain.hi[i] = i % (f.domain.count / 2) == 0 ? 4 : (float)qb_rng_range(&rng, 0.05, 0.6);
      f.domain.lo[i] = -f.domain.hi[i];
    }
    bound(&f);
    assert_sums(&f, &geometries[n]);
    end(&f);
  }
}

/* --------------------------------------------------------------------------------------------------------- memory */

static qb_status bound_once(void *context, qb_error *error) {
  fixture *f = context;
  qb_layerwise layerwise;
  qb_elementwise elementwise = {0};
  qb_status status = qb_layerwise_bound(&f->pair, &f->domain, &layerwise, error);
  if (status == QB_OK)
    status = qb_elementwise_bound_kept(&f->pair, &f->domain, &layerwise, &elementwise, error);
  qb_elementwise_free(&elementwise);
  qb_layerwise_free(&layerwise);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  fixture f;
  qb_rng rng;
  qb_rng_seed(&rng, 5, 0);
  begin(&f, convolutions(&rng), NULL, 0, 1);
  fault_every_allocation(bound_once, &f, 1000);
  end(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_element_has_its_own_numbers),
      cmocka_unit_test(opposite_signs_share_nothing),
      cmocka_unit_test(equal_networks_have_no_error),
      cmocka_unit_test(products_that_underflow_are_counted),
      cmocka_unit_test(the_exponent_is_carried),
      cmocka_unit_test(threads_do_not_change_a_bit),
      cmocka_unit_test(every_geometry_reads_the_right_elements),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
