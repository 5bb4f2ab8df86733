/* The radii of the reference engine against ball arithmetic: random small networks are evaluated with 200 bits, and
 * the exact value of every element must lie within the radius of the computed one. Tightness: no radius may be more
 * than a stated multiple of the error that its operator can make. A planted fault (radii shrunk) must be noticed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <arb.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "run/exact.h"
#include "support/cases.h"
#include "support/run_support.h"

enum { PRECISION = 200, CASES = 400, LONGEST = 5 };

/* ------------------------------------------------------------------------------------ the network in ball arithmetic
 */

typedef struct exact_value {
  arb_ptr x; /* NULL for values that are not computed */
  slong count;
} exact_value;

typedef struct arb_call {
  const qb_graph *graph;
  const qb_node *node;
  const exact_value *values;
  exact_value *y;
} arb_call;

static const qb_shape *shape_of(const arb_call *c, int32_t slot) {
  return &c->graph->values[c->node->inputs[slot]].shape;
}

static arb_srcptr input_of(const arb_call *c, int32_t slot) { return c->values[c->node->inputs[slot]].x; }

static void exact_convolution(const arb_call *c) {
  const qb_shape *x = shape_of(c, 0), *w = shape_of(c, 1), *y = &c->graph->values[c->node->output].shape;
  const qb_window *window = &c->node->attributes.conv.window;
  int64_t per_group = y->dims[1] / c->node->attributes.conv.group;
  for (int64_t oc = 0; oc < y->dims[1]; oc++)
    for (int64_t o = 0; o < y->dims[2] * y->dims[3]; o++) {
      arb_ptr sum = c->y->x + oc * y->dims[2] * y->dims[3] + o;
      if (c->node->input_count > 2)
        arb_set(sum, input_of(c, 2) + oc);
      for (int64_t ic = 0; ic < w->dims[1]; ic++)
        for (int32_t kh = 0; kh < window->kernel[0]; kh++)
          for (int32_t kw = 0; kw < window->kernel[1]; kw++) {
            int64_t ih = o / y->dims[3] * window->stride[0] + kh * window->dilation[0] - window->pad_begin[0];
            int64_t iw = o % y->dims[3] * window->stride[1] + kw * window->dilation[1] - window->pad_begin[1];
            int64_t channel = oc / per_group * w->dims[1] + ic;
            if (ih >= 0 && ih < x->dims[2] && iw >= 0 && iw < x->dims[3])
              arb_addmul(sum, input_of(c, 1) + ((oc * w->dims[1] + ic) * w->dims[2] + kh) * w->dims[3] + kw,
                         input_of(c, 0) + (channel * x->dims[2] + ih) * x->dims[3] + iw, PRECISION);
          }
    }
}

static void exact_product(const arb_call *c) {
  const qb_shape *w = shape_of(c, 1);
  for (slong i = 0; i < c->y->count; i++) {
    slong row = i / w->dims[0], o = i % w->dims[0];
    if (c->node->input_count > 2)
      arb_set(c->y->x + i, input_of(c, 2) + o);
    arb_dot(c->y->x + i, c->y->x + i, 0, input_of(c, 1) + o * w->dims[1], 1, input_of(c, 0) + row * w->dims[1], 1,
            w->dims[1], PRECISION);
  }
}

static void exact_batch_norm(const arb_call *c) {
  const qb_shape *x = shape_of(c, 0);
  slong area = c->y->count / x->dims[1];
  arb_t scale, difference;
  arb_init(scale);
  arb_init(difference);
  for (slong i = 0; i < c->y->count; i++) {
    slong channel = i / area;
    arb_set_d(scale, (double)c->node->attributes.batch_norm.epsilon);
    arb_add(scale, scale, input_of(c, 4) + channel, PRECISION);
    arb_sqrt(scale, scale, PRECISION);
    arb_div(scale, input_of(c, 1) + channel, scale, PRECISION);
    arb_sub(difference, input_of(c, 0) + i, input_of(c, 3) + channel, PRECISION);
    arb_mul(c->y->x + i, scale, difference, PRECISION);
    arb_add(c->y->x + i, c->y->x + i, input_of(c, 2) + channel, PRECISION);
  }
  arb_clear(scale);
  arb_clear(difference);
}

static void arb_clamp(arb_t y, const arb_t x, double lo, double hi) {
  arb_t limit;
  arb_init(limit);
  arb_set_d(limit, lo);
  arb_max(y, x, limit, PRECISION);
  if (isfinite(hi)) {
    arb_set_d(limit, hi);
    arb_min(y, y, limit, PRECISION);
  }
  arb_clear(limit);
}

static void exact_unary(const arb_call *c, arb_t y, const arb_t x) {
  const qb_attributes *a = &c->node->attributes;
  arb_t t;
  arb_init(t);
  switch (c->node->op) {
  case QB_OP_RELU: arb_clamp(y, x, 0.0, INFINITY); break;
  case QB_OP_CLIP: arb_clamp(y, x, (double)a->clip.lo, (double)a->clip.hi); break;
  case QB_OP_LEAKY_RELU: { /* max(x, 0) + alpha (x - max(x, 0)) */
    arb_t alpha;
    arb_init(alpha);
    arb_clamp(y, x, 0.0, INFINITY);
    arb_sub(t, x, y, PRECISION);
    arb_set_d(alpha, (double)a->linear.alpha);
    arb_addmul(y, t, alpha, PRECISION);
    arb_clear(alpha);
    break;
  }
  case QB_OP_SIGMOID:
    arb_neg(t, x);
    arb_exp(t, t, PRECISION);
    arb_add_ui(t, t, 1, PRECISION);
    arb_inv(y, t, PRECISION);
    break;
  case QB_OP_HARD_SIGMOID:
    arb_set_d(t, (double)a->linear.alpha);
    arb_mul(y, x, t, PRECISION);
    arb_set_d(t, (double)a->linear.beta);
    arb_add(y, y, t, PRECISION);
    arb_clamp(y, y, 0.0, 1.0);
    break;
  case QB_OP_HARD_SWISH:
    arb_div_ui(t, x, 6, PRECISION);
    arb_set_d(y, 0.5);
    arb_add(t, t, y, PRECISION);
    arb_clamp(t, t, 0.0, 1.0);
    arb_mul(y, x, t, PRECISION);
    break;
  default: arb_tanh(y, x, PRECISION); break;
  }
  arb_clear(t);
}

static void exact_elementwise(const arb_call *c) {
  for (slong i = 0; i < c->y->count; i++)
    exact_unary(c, c->y->x + i, input_of(c, 0) + i);
}

/* Operands of the same shape, or a second one with an entry per channel. */
static void exact_binary(const arb_call *c) {
  bool same = qb_shape_equal(shape_of(c, 0), shape_of(c, 1));
  slong area = c->y->count / shape_of(c, 0)->dims[1];
  for (slong i = 0; i < c->y->count; i++) {
    arb_srcptr a = input_of(c, 0) + i, b = input_of(c, 1) + (same ? i : i / area);
    switch (c->node->op) {
    case QB_OP_ADD: arb_add(c->y->x + i, a, b, PRECISION); break;
    case QB_OP_SUB: arb_sub(c->y->x + i, a, b, PRECISION); break;
    case QB_OP_MUL: arb_mul(c->y->x + i, a, b, PRECISION); break;
    default: arb_div(c->y->x + i, a, b, PRECISION); break;
    }
  }
}

static void exact_softmax(const arb_call *c) {
  arb_t sum;
  arb_init(sum);
  for (slong i = 0; i < c->y->count; i++) {
    arb_exp(c->y->x + i, input_of(c, 0) + i, PRECISION);
    arb_add(sum, sum, c->y->x + i, PRECISION);
  }
  for (slong i = 0; i < c->y->count; i++)
    arb_div(c->y->x + i, c->y->x + i, sum, PRECISION);
  arb_clear(sum);
}

/* MaxPool and AveragePool (pads not counted) without dilation. */
static void exact_pool(const arb_call *c) {
  const qb_shape *x = shape_of(c, 0), *y = &c->graph->values[c->node->output].shape;
  const qb_window *w = &c->node->attributes.pool.window;
  for (slong i = 0; i < c->y->count; i++) {
    int64_t map = i / (y->dims[2] * y->dims[3]), oh = i / y->dims[3] % y->dims[2], ow = i % y->dims[3];
    ulong taps = 0;
    for (int32_t kh = 0; kh < w->kernel[0]; kh++)
      for (int32_t kw = 0; kw < w->kernel[1]; kw++) {
        int64_t ih = oh * w->stride[0] + kh - w->pad_begin[0], iw = ow * w->stride[1] + kw - w->pad_begin[1];
        if (ih < 0 || ih >= x->dims[2] || iw < 0 || iw >= x->dims[3])
          continue;
        arb_srcptr tap = input_of(c, 0) + (map * x->dims[2] + ih) * x->dims[3] + iw;
        if (c->node->op == QB_OP_AVERAGE_POOL)
          arb_add(c->y->x + i, c->y->x + i, tap, PRECISION);
        else if (taps == 0)
          arb_set(c->y->x + i, tap);
        else
          arb_max(c->y->x + i, c->y->x + i, tap, PRECISION);
        taps++;
      }
    if (c->node->op == QB_OP_AVERAGE_POOL)
      arb_div_ui(c->y->x + i, c->y->x + i, taps, PRECISION);
  }
}

static void exact_node(const arb_call *c) {
  switch (c->node->op) {
  case QB_OP_CONV: exact_convolution(c); break;
  case QB_OP_MATMUL:
  case QB_OP_GEMM: exact_product(c); break;
  case QB_OP_BATCH_NORM: exact_batch_norm(c); break;
  case QB_OP_ADD:
  case QB_OP_SUB:
  case QB_OP_MUL:
  case QB_OP_DIV: exact_binary(c); break;
  case QB_OP_SOFTMAX: exact_softmax(c); break;
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL: exact_pool(c); break;
  default: exact_elementwise(c); break;
  }
}

static void exact_forward(const qb_graph *graph, const float *input, exact_value *values) {
  for (int32_t v = 0; v < graph->value_count; v++) {
    const qb_value *value = &graph->values[v];
    values[v].count = (slong)qb_shape_elements(&value->shape);
    values[v].x = _arb_vec_init(values[v].count);
    const float *data = value->is_constant ? qb_view_f32(&value->constant) : v == graph->inputs[0] ? input : NULL;
    for (slong i = 0; i < values[v].count && data != NULL; i++)
      arb_set_d(values[v].x + i, (double)data[i]);
  }
  for (int32_t n = 0; n < graph->node_count; n++)
    exact_node(&(arb_call){graph, &graph->nodes[n], values, &values[graph->nodes[n].output]});
}

static void free_exact(exact_value *values, int32_t count) {
  for (int32_t v = 0; v < count; v++)
    _arb_vec_clear(values[v].x, values[v].count);
  qb_free(values);
}

/* ------------------------------------------------------------------------------------------------ random networks */

static int32_t pick(qb_rng *rng, int32_t lo, int32_t hi) {
  return lo + (int32_t)qb_rng_below(rng, (uint64_t)(hi - lo + 1));
}

static qb_value_id add_batch_norm(qb_graph *graph, qb_rng *rng, qb_value_id x) {
  qb_shape channels = QB_SHAPE(graph->values[x].shape.dims[1]);
  qb_value_id inputs[5] = {x};
  for (int slot = 1; slot < 5; slot++) {
    float data[8];
    for (int i = 0; i < 8; i++)
      data[i] = (float)(slot == 4 ? qb_rng_range(rng, 1e-4, 2.0) : qb_rng_normal(rng));
    inputs[slot] = run_test_constant(graph, rng, channels, 1.0, data);
  }
  qb_attributes attributes = {.batch_norm = {1e-5f}};
  return run_test_node(graph, QB_OP_BATCH_NORM, inputs, 5, &attributes, NULL);
}

static qb_value_id add_binary(qb_graph *graph, qb_rng *rng, qb_op op, qb_value_id x, qb_value_id first) {
  qb_shape channels = QB_SHAPE(graph->values[x].shape.dims[1], 1, 1);
  bool activation = pick(rng, 0, 1) == 1 && qb_shape_equal(&graph->values[x].shape, &graph->values[first].shape);
  qb_value_id other = activation ? first : run_test_constant(graph, rng, channels, 1.0, NULL);
  return run_test_node(graph, op, (qb_value_id[]){x, other}, 2, NULL, NULL);
}

static qb_value_id add_activation(qb_graph *graph, qb_rng *rng, qb_value_id x) {
  static const qb_op ops[7] = {QB_OP_RELU,         QB_OP_CLIP,       QB_OP_LEAKY_RELU, QB_OP_SIGMOID,
                               QB_OP_HARD_SIGMOID, QB_OP_HARD_SWISH, QB_OP_TANH};
  qb_op op = ops[pick(rng, 0, 6)];
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  if (op == QB_OP_CLIP)
    attributes.clip = (qb_clip_attributes){-0.25f, 1.5f, NULL};
  else
    attributes.linear.alpha = (float)qb_rng_range(rng, -0.5, 2.0), attributes.linear.beta = 0.3f;
  return run_test_node(graph, op, &x, 1, &attributes, NULL);
}

static qb_value_id add_random_node(qb_graph *graph, qb_rng *rng, qb_value_id x, qb_value_id first) {
  static const qb_op pairs[4] = {QB_OP_ADD, QB_OP_SUB, QB_OP_MUL, QB_OP_DIV};
  qb_attributes pool = {.pool = {run_test_window(2, 1, 1), false}};
  switch (pick(rng, 0, 5)) {
  case 0: return run_test_conv(graph, rng, x, 4, pick(rng, 0, 1) == 1 ? 4 : 1, run_test_window(3, 1, 1), true);
  case 1: return add_batch_norm(graph, rng, x);
  case 2: return run_test_node(graph, pick(rng, 0, 1) == 1 ? QB_OP_MAX_POOL : QB_OP_AVERAGE_POOL, &x, 1, &pool, NULL);
  case 3: return add_binary(graph, rng, pairs[pick(rng, 0, 3)], x, first);
  default: return add_activation(graph, rng, x);
  }
}

/* A chain on maps of 4 channels, in half of the cases ended by a matrix product and a softmax. */
static void make_network(qb_graph *graph, qb_rng *rng) {
  qb_error error;
  qb_value_id first = run_test_begin(graph, "random", QB_SHAPE(1, 4, 3, 3)), x = first;
  for (int32_t n = pick(rng, 1, LONGEST); n > 0; n--)
    x = add_random_node(graph, rng, x, first);
  if (pick(rng, 0, 1) == 1) {
    int64_t length = graph->values[x].shape.dims[3];
    qb_value_id weight = run_test_constant(graph, rng, QB_SHAPE(3, length), 1.0, NULL);
    qb_value_id bias = run_test_constant(graph, rng, QB_SHAPE(3), 1.0, NULL);
    qb_attributes axes = {.axes = {1, 4}};
    x = run_test_node(graph, QB_OP_GEMM, (qb_value_id[]){x, weight, bias}, 3, NULL, NULL);
    x = run_test_node(graph, QB_OP_SOFTMAX, &x, 1, &axes, NULL);
  }
  assert_int_equal(qb_graph_add_output(graph, x, &error), QB_OK);
}

/* ----------------------------------------------------------------------------------------------------- the property */

/* |x - exact| <= shrink * r, proved in ball arithmetic; *ratio collects the largest error / r. */
static bool contains(double x, double r, double shrink, const arb_t exact, double *ratio) {
  arb_t distance, radius;
  arb_init(distance);
  arb_init(radius);
  arb_set_d(distance, x);
  arb_sub(distance, distance, exact, PRECISION);
  arb_abs(distance, distance);
  arb_set_d(radius, r * shrink);
  bool inside = isinf(r) || arb_le(distance, radius);
  double d = arf_get_d(arb_midref(distance), ARF_RND_NEAR);
  if (r > 0.0 && isfinite(r) && d / r > *ratio)
    *ratio = d / r;
  arb_clear(distance);
  arb_clear(radius);
  return inside;
}

/* Returns the number of elements outside; the largest error / radius goes into *ratio. */
static int check_engine(qb_engine engine, uint64_t seed, double scale, bool float32, double shrink, double *ratio,
                        long *elements) {
  qb_graph graph;
  qb_rng rng;
  qb_error error;
  qb_run *run;
  int outside = 0;
  qb_rng_seed(&rng, 31, seed);
  make_network(&graph, &rng);
  float *input = run_test_random(&rng, 36, scale);
  qb_value_id *keep = qb_alloc((size_t)graph.node_count, sizeof *keep);
  exact_value *values = qb_alloc((size_t)graph.value_count, sizeof *values);
  for (int32_t n = 0; n < graph.node_count; n++)
    keep[n] = graph.nodes[n].output;
  qb_run_settings settings = {.engine = engine,
                              .batch = 1,
                              .threads = 1,
                              .radius = true,
                              .radius_float32 = float32,
                              .keep = keep,
                              .keep_count = graph.node_count};
  assert_int_equal(qb_run_create(&graph, &settings, &run, &error), QB_OK);
  assert_int_equal(qb_run_forward(run, input, 1, &error), QB_OK);
  exact_forward(&graph, input, values);
  for (int32_t n = 0; n < graph.node_count; n++) {
    const double *x = qb_run_value_double(run, keep[n]), *r = qb_run_radius(run, keep[n]);
    for (slong i = 0; i < values[keep[n]].count; i++) {
      outside += !contains(x[i], r[i], shrink, values[keep[n]].x + i, ratio);
      *elements += isfinite(r[i]);
    }
  }
  qb_run_free(run);
  free_exact(values, graph.value_count);
  qb_free(keep);
  qb_free(input);
  qb_graph_free(&graph);
  return outside;
}

static int check_case(uint64_t seed, double scale, bool float32, double shrink, double *ratio, long *elements) {
  return check_engine(QB_ENGINE_REFERENCE, seed, scale, float32, shrink, ratio, elements);
}

static void exact_values_lie_within_the_radius(void **state) {
  (void)state;
  static const double scales[6] = {1.0, 1e-3, 30.0, 1000.0, 1e-30, 1e15};
  double ratio = 0.0;
  long elements = 0;
  for (long n = 0; n < test_cases(CASES); n++)
    if (check_case((uint64_t)n, scales[n % 6], false, 1.0, &ratio, &elements) > 0)
      fail_msg("case %ld: an exact value lies outside its radius", n);
  assert_true(elements > 10000); /* most radii are finite */
  assert_true(ratio > 0.05);     /* and some errors come near them */
}

static void radii_for_float32_contain_ours(void **state) {
  (void)state;
  static const double scales[4] = {1.0, 1e-3, 30.0, 1e-38};
  double ratio = 0.0;
  long elements = 0;
  for (long n = 0; n < test_cases(CASES) / 4; n++)
    if (check_case((uint64_t)n, scales[n % 4], true, 1.0, &ratio, &elements) > 0)
      fail_msg("case %ld: an exact value lies outside its float32 radius", n);
  assert_true(elements > 2000);
}

static void radii_that_are_too_small_are_noticed(void **state) {
  (void)state;
  double ratio = 0.0;
  long elements = 0;
  int outside = 0;
  for (uint64_t n = 0; n < 100; n++)
    outside += check_case(n, 1.0, false, 0.02, &ratio, &elements);
  assert_true(outside > 0);
}

/* Float32 products summed in random orders, with and without fusing, stay within the float32 radius; and the radius is
 * at most twice the textbook bound gamma_n |w|.|x|. Scales near the subnormal range make underflow matter. */
static void float32_sums_in_any_order_lie_within(void **state) {
  (void)state;
  static const double scales[4] = {1.0, 1e-20, 1e-22, 1e10};
  enum { LENGTH = 50 };
  qb_rng rng;
  qb_rng_seed(&rng, 32, 0);
  for (long n = 0; n < test_cases(CASES); n++) {
    qb_graph graph;
    qb_error error;
    qb_run *run;
    double scale = scales[n % 4];
    qb_value_id x = run_test_begin(&graph, "sum", QB_SHAPE(1, LENGTH));
    qb_value_id w = run_test_constant(&graph, &rng, QB_SHAPE(1, LENGTH), scale, NULL);
    qb_value_id y = run_test_node(&graph, QB_OP_MATMUL, (qb_value_id[]){x, w}, 2, NULL, NULL);
    assert_int_equal(qb_graph_add_output(&graph, y, &error), QB_OK);
    float *input = run_test_random(&rng, LENGTH, scale);
    const float *weight = qb_view_f32(&graph.values[w].constant);
    qb_run_settings settings = {.engine = QB_ENGINE_REFERENCE,
                                .batch = 1,
                                .threads = 1,
                                .radius = true,
                                .radius_float32 = true};
    assert_int_equal(qb_run_create(&graph, &settings, &run, &error), QB_OK);
    assert_int_equal(qb_run_forward(run, input, 1, &error), QB_OK);
    int order[LENGTH];
    for (int i = 0; i < LENGTH; i++)
      order[i] = i;
    for (int i = LENGTH - 1; i > 0; i--) {
      int j = pick(&rng, 0, i), swapped = order[i];
      order[i] = order[j];
      order[j] = swapped;
    }
    float sum = 0.0f, fused = 0.0f;
    double magnitude = 0.0;
    for (int i = 0; i < LENGTH; i++) {
      sum += weight[order[i]] * input[order[i]];
      fused = fmaf(weight[order[i]], input[order[i]], fused);
      magnitude += fabs((double)weight[i] * (double)input[i]);
    }
    double center = *qb_run_value_double(run, y), radius = *qb_run_radius(run, y);
    assert_true(fabs((double)sum - center) <= radius * (1.0 + 0x1p-20));
    assert_true(fabs((double)fused - center) <= radius * (1.0 + 0x1p-20));
    assert_true(radius <= 2.0 * (LENGTH + 2) * 0x1p-24 * magnitude + 16.0 * LENGTH * 0x1p-149);
    qb_run_free(run);
    qb_free(input);
    qb_graph_free(&graph);
  }
}

/* The exact engine's radius is the rounding to double; with two digits behind the point it is that of dropped digits.
 */
static void the_exact_engine_is_right(void **state) {
  (void)state;
  static const double scales[6] = {1.0, 1e-3, 30.0, 1000.0, 1e-30, 1e15};
  for (int fraction = 0; fraction < 4; fraction += 2) {
    double ratio = 0.0;
    long elements = 0;
    qb_exact_fraction = fraction;
    for (long n = 0; n < test_cases(CASES); n++)
      if (check_engine(QB_ENGINE_EXACT, (uint64_t)n, scales[n % 6], false, 1.0, &ratio, &elements) > 0)
        fail_msg("case %ld, fraction %d: an exact value lies outside its radius", n, fraction);
    qb_exact_fraction = 0;
    assert_true(elements > 10000);
    assert_true(ratio > 0.5);
  }
}

static void mistakes_of_the_exact_engine_are_noticed(void **state) {
  (void)state;
  static const qb_exact_fault faults[2] = {QB_EXACT_FAULT_NO_UNIT, QB_EXACT_FAULT_NO_RADIUS};
  for (int f = 0; f < 2; f++) {
    double ratio = 0.0;
    long elements = 0;
    int outside = 0;
    qb_exact_fraction = 2;
    qb_exact_fault_planted = faults[f];
    for (uint64_t n = 0; n < 100; n++)
      outside += check_engine(QB_ENGINE_EXACT, n, 1.0, false, 1.0, &ratio, &elements);
    qb_exact_fraction = 0;
    qb_exact_fault_planted = QB_EXACT_FAULT_NONE;
    assert_true(outside > 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(exact_values_lie_within_the_radius),
      cmocka_unit_test(radii_for_float32_contain_ours),
      cmocka_unit_test(radii_that_are_too_small_are_noticed),
      cmocka_unit_test(float32_sums_in_any_order_lie_within),
      cmocka_unit_test(the_exact_engine_is_right),
      cmocka_unit_test(mistakes_of_the_exact_engine_are_noticed),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  flint_cleanup();
  return failed;
}
