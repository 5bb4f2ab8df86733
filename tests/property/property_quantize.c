/* Random layers with edge-biased weights, quantized in every way: each code is a nearest one, limits of the error
 * hold, and a wrong code is noticed. Exact: codes are compared through errors in long double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <float.h>
#include <math.h>

#include <cmocka.h>

#include "quant/grid.h"
#include "quant/quant.h"
#include "support/sketch.h"

enum { TRIALS = 400 };

/* Normal numbers, heavy tails, a constant, zeros, powers of two, subnormals, huge ones. */
static float random_weight(qb_rng *rng, int kind) {
  double normal = qb_rng_normal(rng);
  switch (kind) {
  case 0: return (float)normal;
  case 1: return (float)(normal * normal * normal * normal);
  case 2: return 0.7f;
  case 3: return qb_rng_below(rng, 4) == 0 ? 0 : (float)-fabs(normal);
  case 4: return ldexpf(qb_rng_below(rng, 2) ? 1.0f : -1.0f, (int)qb_rng_below(rng, 12) - 6);
  case 5: return (float)(normal * 1e-41);
  default: return (float)(qb_rng_range(rng, -1, 1) * 1e38);
  }
}

static qb_quantize_settings random_settings(qb_rng *rng) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = QB_MIN_BITS + (int)qb_rng_below(rng, QB_MAX_BITS - QB_MIN_BITS + 1);
  settings.granularity = qb_rng_below(rng, 2) ? QB_PER_TENSOR : QB_PER_CHANNEL;
  settings.scheme = qb_rng_below(rng, 3) == 0 ? QB_SCHEME_ROUND : QB_SCHEME_UNIFORM;
  settings.affine = settings.scheme == QB_SCHEME_UNIFORM && qb_rng_below(rng, 2);
  settings.unsigned_weights = !settings.affine && qb_rng_below(rng, 2);
  settings.grid = qb_rng_below(rng, 2) ? QB_GRID_MSE : QB_GRID_MINMAX;
  return settings;
}

/* A matrix (OUT, IN) or a ConvTranspose weight (IC, OC, 2, 2), channel axis 1. */
static sketch_graph random_layer(uint64_t seed, qb_value_id *weight) {
  sketch_graph s = sketch_start(seed);
  int64_t a = 1 + (int64_t)qb_rng_below(&s.rng, 5), b = 1 + (int64_t)qb_rng_below(&s.rng, 30);
  if (qb_rng_below(&s.rng, 3) == 0) {
    qb_value_id y = sketch_conv_transpose(&s, sketch_input(&s, QB_SHAPE(1, a, 2, 2)), b, 2, 1, 1);
    *weight = sketch_producer(&s.graph, y)->inputs[1];
    sketch_finish(&s, y);
  } else {
    qb_value_id y = sketch_gemm(&s, sketch_input(&s, QB_SHAPE(1, b)), a, true);
    *weight = sketch_producer(&s.graph, y)->inputs[1];
    sketch_finish(&s, y);
  }
  int kind = (int)qb_rng_below(&s.rng, 7);
  float *data = qb_graph_replace_constant(&s.graph, *weight);
  for (size_t i = 0; i < qb_shape_elements(&s.graph.values[*weight].shape); i++)
    data[i] = random_weight(&s.rng, kind);
  return s;
}

static size_t part_of(const qb_shape *shape, int32_t axis, size_t i) {
  size_t inner = 1;
  for (int32_t d = axis + 1; axis != QB_NONE && d < shape->rank; d++)
    inner *= (size_t)shape->dims[d];
  return axis == QB_NONE ? 0 : i / inner % (size_t)shape->dims[axis];
}

static long double distance(const qb_codes *codes, size_t part, int64_t code, float weight) {
  int64_t zero = codes->zero_point == NULL ? 0 : codes->zero_point[part];
  return fabsl((long double)codes->scale[part] * (long double)(code - zero) - (long double)weight);
}

/* True when no neighbouring code is nearer by more than the rounding of a quotient, and the written value is the
 * code's. `lo` and `hi` limit the codes. */
static bool is_nearest(const qb_codes *codes, size_t part, int64_t code, float weight, int64_t lo, int64_t hi) {
  long double here = distance(codes, part, code, weight), slack = 0x1p-50L * (long double)fabsf(weight);
  for (int64_t other = code - 1; other <= code + 1; other += 2) {
    int64_t zero = codes->zero_point == NULL ? 0 : codes->zero_point[part];
    bool exists = other >= lo && other <= hi && isfinite(codes->scale[part] * (float)(other - zero));
    if (exists && distance(codes, part, other, weight) < here - slack)
      return false;
  }
  return true;
}

static void check_trial(uint64_t seed, int *faults) {
  qb_value_id weight;
  sketch_graph s = random_layer(seed, &weight);
  qb_quantize_settings settings = random_settings(&s.rng);
  const float *before = qb_view_f32(&s.graph.values[weight].constant);
  qb_error error;
  if (qb_quantize_weights(&s.graph, &settings, NULL, NULL, &error) != QB_OK)
    fail_msg("seed %d: %s", (int)seed, error.message);
  const qb_value *value = &s.graph.values[weight];
  const float *after = qb_view_f32(&value->constant);
  int64_t half = (int64_t)1 << (settings.bits - 1);
  bool is_unsigned = settings.affine || settings.unsigned_weights;
  int64_t lo = is_unsigned ? 0 : -half, hi = is_unsigned ? 2 * half - 1 : half - 1;
  assert_int_equal(value->codes->is_signed, !is_unsigned);
  size_t count = qb_shape_elements(&value->shape);
  float magnitude = 0;
  for (size_t i = 0; i < count; i++)
    magnitude = fmaxf(magnitude, fabsf(before[i]));
  for (size_t i = 0; i < count; i++) {
    size_t part = part_of(&value->shape, value->codes->axis, i);
    int64_t code = qb_view_integer(&value->codes->codes, i);
    double scale = (double)value->codes->scale[part], moved = fabs((double)after[i] - (double)before[i]);
    if (!is_nearest(value->codes, part, code, before[i], lo, hi))
      fail_msg("seed %d: weight %d is not at its nearest code", (int)seed, (int)i);
    if (settings.grid == QB_GRID_MINMAX) {
      bool half_step = settings.scheme == QB_SCHEME_UNIFORM && magnitude < 1e37f;
      assert_true(moved <= (half_step ? 0.5 : 1) * scale + 0x1p-23 * (double)magnitude);
    }
    int64_t wrong = code < hi ? code + 1 : code - 1; /* the planted fault, where a step is not lost in the slack */
    *faults += !is_nearest(value->codes, part, wrong, before[i], lo, hi);
  }
  qb_graph_free(&s.graph);
}

static void codes_are_nearest(void **state) {
  (void)state;
  int faults = 0;
  for (uint64_t seed = 0; seed < TRIALS; seed++)
    check_trial(seed, &faults);
  assert_true(faults > 1000);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(codes_are_nearest)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
