/* See float_run.h. Every element of a layer or an average gathers its terms and sums them in an order drawn for it. */
#include "support/float_run.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "run/engine.h"

typedef struct call {
  float_run *run;
  const qb_node *node;
  const qb_shape *x, *y;
  const float *in;
  float *out;
  qb_rng *rng;
} call;

/* ------------------------------------------------------------------------------------------------------------- sums
 */

static void shuffle(float *a, float *b, int64_t n, qb_rng *rng) {
  for (int64_t i = n - 1; i > 0; i--) {
    int64_t k = (int64_t)qb_rng_below(rng, (uint64_t)i + 1);
    float s = a[i], t = b[i];
    a[i] = a[k];
    b[i] = b[k];
    a[k] = s;
    b[k] = t;
  }
}

static float by_pairs(const float *terms, int64_t n) {
  return n == 1 ? terms[0] : by_pairs(terms, n / 2) + by_pairs(terms + n / 2, n - n / 2);
}

/* sum a b: terms are shuffled or not, then added one by one, fused or not, by pairs, or in blocks. */
static float sum_of_products(float *a, float *b, int64_t n, float *terms, qb_rng *rng) {
  uint64_t how = qb_rng_below(rng, 4);
  float sum = 0;
  if (qb_rng_below(rng, 2) == 0)
    shuffle(a, b, n, rng);
  for (int64_t i = 0; i < n; i++) {
    float product = a[i] * b[i];
    terms[i] = product;
    if (how == 1)
      sum = fmaf(a[i], b[i], sum);
    else
      sum = sum + product;
  }
  if (how == 2 && n > 0)
    return by_pairs(terms, n);
  if (how == 3) { /* eight accumulators, as vectors do it */
    float part[8] = {0};
    for (int64_t i = 0; i < n; i++)
      part[i % 8] = part[i % 8] + terms[i];
    return by_pairs(part, 8);
  }
  return sum;
}

/* ------------------------------------------------------------------------------------------------------------ layers
 */

static const float *constant(const call *c, int32_t slot) {
  bool missing = slot >= c->node->input_count || c->node->inputs[slot] == QB_NONE;
  return missing ? NULL : c->run->value[c->node->inputs[slot]];
}

static void add_tap(const call *c, int64_t *n, float weight, int64_t at) {
  c->run->left[*n] = weight;
  c->run->right[(*n)++] = c->in[at];
}

static int64_t gather_conv(const call *c, const qb_shape *w, int64_t o, int64_t y, int64_t z) {
  const qb_window *v = &c->node->attributes.conv.window;
  int64_t per_group = c->y->dims[1] / c->node->attributes.conv.group, n = 0;
  for (int64_t s = 0; s < w->dims[1]; s++)
    for (int64_t k = 0; k < w->dims[2] * w->dims[3]; k++) {
      int64_t row = y * v->stride[0] + k / w->dims[3] * v->dilation[0] - v->pad_begin[0];
      int64_t column = z * v->stride[1] + k % w->dims[3] * v->dilation[1] - v->pad_begin[1];
      int64_t channel = o / per_group * w->dims[1] + s;
      if (row >= 0 && row < c->x->dims[2] && column >= 0 && column < c->x->dims[3])
        add_tap(c, &n, constant(c, 1)[(o * w->dims[1] + s) * w->dims[2] * w->dims[3] + k],
                (channel * c->x->dims[2] + row) * c->x->dims[3] + column);
    }
  return n;
}

static int64_t gather_transposed(const call *c, const qb_shape *w, int64_t o, int64_t y, int64_t z) {
  const qb_window *v = &c->node->attributes.conv.window;
  int64_t slices = w->dims[0] / c->node->attributes.conv.group, n = 0;
  for (int64_t s = 0; s < slices; s++)
    for (int64_t k = 0; k < w->dims[2] * w->dims[3]; k++) {
      int64_t row = y + v->pad_begin[0] - k / w->dims[3] * v->dilation[0];
      int64_t column = z + v->pad_begin[1] - k % w->dims[3] * v->dilation[1];
      int64_t channel = o / w->dims[1] * slices + s;
      if (row < 0 || column < 0 || row % v->stride[0] != 0 || column % v->stride[1] != 0 ||
          row / v->stride[0] >= c->x->dims[2] || column / v->stride[1] >= c->x->dims[3])
        continue;
      add_tap(c, &n, constant(c, 1)[(channel * w->dims[1] + o % w->dims[1]) * w->dims[2] * w->dims[3] + k],
              (channel * c->x->dims[2] + row / v->stride[0]) * c->x->dims[3] + column / v->stride[1]);
    }
  return n;
}

/* Terms of output element i, the bias among them. */
static int64_t gather(const call *c, int64_t i) {
  const qb_shape *w = &c->run->graph->values[c->node->inputs[1]].shape;
  bool matrix = c->node->op == QB_OP_GEMM || c->node->op == QB_OP_MATMUL;
  int64_t area = matrix ? 1 : c->y->dims[2] * c->y->dims[3], n = 0;
  int64_t o = matrix ? i % w->dims[0] : i / area % c->y->dims[1];
  if (matrix)
    for (int64_t k = 0; k < w->dims[1]; k++)
      add_tap(c, &n, constant(c, 1)[o * w->dims[1] + k], i / w->dims[0] * w->dims[1] + k);
  else if (c->node->op == QB_OP_CONV)
    n = gather_conv(c, w, o, i % area / c->y->dims[3], i % c->y->dims[3]);
  else
    n = gather_transposed(c, w, o, i % area / c->y->dims[3], i % c->y->dims[3]);
  if (constant(c, 2) != NULL) {
    c->run->left[n] = 1;
    c->run->right[n++] = constant(c, 2)[o];
  }
  return n;
}

static float sum_terms(const call *c, int64_t n) {
  return sum_of_products(c->run->left, c->run->right, n, c->run->sums, c->rng);
}

static void run_layer(const call *c, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    c->out[i] = sum_terms(c, gather(c, i));
}

static call call_of(float_run *run, qb_node_id id, qb_rng *rng) {
  const qb_node *node = &run->graph->nodes[id];
  return (call){run,
                node,
                &run->graph->values[node->inputs[0]].shape,
                &run->graph->values[node->output].shape,
                run->value[node->inputs[0]],
                run->value[node->output],
                rng};
}

/* ------------------------------------------------------------------------------------------------------ two operands
 */

/* An Add as one more term of the layer that makes one of its operands. */
static bool add_into_layer(const call *c, int64_t count) {
  const qb_graph *graph = c->run->graph;
  for (int32_t slot = 0; slot < 2; slot++) {
    qb_linear linear;
    qb_node_id producer = graph->values[c->node->inputs[slot]].producer;
    qb_value_id other = c->node->inputs[1 - slot];
    if (c->node->op != QB_OP_ADD || producer == QB_NONE || !qb_graph_linear(graph, producer, &linear) ||
        (int64_t)qb_shape_elements(&graph->values[c->node->inputs[slot]].shape) != count)
      continue;
    call layer = call_of(c->run, producer, c->rng);
    for (int64_t i = 0; i < count; i++) {
      int64_t n = gather(&layer, i);
      c->run->left[n] = 1;
      c->run->right[n++] = c->run->value[other][qb_shape_broadcast_index(c->y, &graph->values[other].shape, i)];
      c->out[i] = sum_terms(c, n);
    }
    return true;
  }
  return false;
}

static void run_binary(const call *c, int64_t count) {
  const qb_shape *a = c->x, *b = &c->run->graph->values[c->node->inputs[1]].shape;
  const float *right = c->run->value[c->node->inputs[1]];
  if (qb_rng_below(c->rng, 2) == 0 && add_into_layer(c, count))
    return;
  for (int64_t i = 0; i < count; i++) {
    float u = c->in[qb_shape_broadcast_index(c->y, a, i)], v = right[qb_shape_broadcast_index(c->y, b, i)];
    c->out[i] = c->node->op == QB_OP_ADD   ? u + v
                : c->node->op == QB_OP_SUB ? u - v
                : c->node->op == QB_OP_MUL ? u * v
                                           : u / v;
  }
}

/* ------------------------------------------------------------------------------------------------------ one operand */

static float limit_of(const qb_clip_attributes *clip, int64_t channel) {
  return clip->hi_channels != NULL ? clip->hi_channels[channel] : clip->hi;
}

static float map_element(const call *c, int64_t i, float x) {
  const qb_attributes *a = &c->node->attributes;
  switch (c->node->op) {
  case QB_OP_RELU: return fmaxf(x, 0);
  case QB_OP_LEAKY_RELU: return x >= 0 ? x : a->linear.alpha * x;
  case QB_OP_PRELU:
    return x >= 0
               ? x
               : x * constant(c,
                              1)[qb_shape_broadcast_index(c->y, &c->run->graph->values[c->node->inputs[1]].shape, i)];
  case QB_OP_CLIP: return fminf(fmaxf(x, a->clip.lo), limit_of(&a->clip, qb_shape_channel(c->y, i)));
  case QB_OP_HARD_SIGMOID: {
    float line = a->linear.alpha * x;
    return fminf(fmaxf(line + a->linear.beta, 0), 1);
  }
  case QB_OP_HARD_SWISH: {
    float sixth = x / 6.0f;
    return x * fminf(fmaxf(sixth + 0.5f, 0), 1);
  }
  default: return x;
  }
}

static void run_batch_norm(const call *c, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    int64_t k = qb_shape_channel(c->y, i);
    float variance = constant(c, 4)[k] + c->node->attributes.batch_norm.epsilon;
    float scale = constant(c, 1)[k] / sqrtf(variance), mean = constant(c, 3)[k], beta = constant(c, 2)[k];
    float moved = scale * mean, scaled = scale * c->in[i], centred = (c->in[i] - mean) * scale;
    float shift = beta - moved;
    c->out[i] = qb_rng_below(c->rng, 2) == 0 ? scaled + shift : centred + beta;
  }
}

static float parameter(const call *c, int32_t slot, int64_t i) {
  const qb_value *value = constant(c, slot) == NULL ? NULL : &c->run->graph->values[c->node->inputs[slot]];
  if (value == NULL)
    return 0;
  for (int32_t k = c->x->rank - 1; k > c->node->attributes.quantize.axis; k--)
    i /= c->x->dims[k];
  return constant(c,
                  slot)[qb_shape_elements(&value->shape) == 1 ? 0 : i % c->x->dims[c->node->attributes.quantize.axis]];
}

static void run_quantizer(const call *c, int64_t count) {
  const qb_attributes *a = &c->node->attributes;
  for (int64_t i = 0; i < count; i++) {
    float s = parameter(c, 1, i), z = parameter(c, 2, i), f = a->quantize.factor;
    if (c->node->op == QB_OP_DEQUANTIZE_LINEAR) {
      c->out[i] = s * (c->in[i] - z);
      continue;
    }
    float t = f != 0 ? c->in[i] * f : c->in[i] / s, code;
    switch (a->quantize.rounding) {
    case QB_ROUND_EVEN: code = nearbyintf(t) + z; break;
    case QB_ROUND_SHIFTED: code = nearbyintf(t + z); break;
    case QB_ROUND_HALF_UP: code = floorf(t + (z + 0.5f)); break;
    default: code = floorf(t + z); break;
    }
    c->out[i] = fminf(fmaxf(code, (float)a->quantize.lo), (float)a->quantize.hi);
  }
}

/* ----------------------------------------------------------------------------------------------------------- windows
 */

static void run_pool(const call *c, int64_t count) {
  const qb_window *w = &c->node->attributes.pool.window;
  for (int64_t i = 0; i < count; i++) {
    int64_t y = i / c->y->dims[3] % c->y->dims[2], z = i % c->y->dims[3], n = 0;
    int64_t plane = i / (c->y->dims[2] * c->y->dims[3]);
    float top = -INFINITY;
    for (int32_t k = 0; k < w->kernel[0] * w->kernel[1]; k++) {
      int64_t row = y * w->stride[0] + k / w->kernel[1] * w->dilation[0] - w->pad_begin[0];
      int64_t column = z * w->stride[1] + k % w->kernel[1] * w->dilation[1] - w->pad_begin[1];
      if (row < 0 || row >= c->x->dims[2] || column < 0 || column >= c->x->dims[3])
        continue;
      float x = c->in[(plane * c->x->dims[2] + row) * c->x->dims[3] + column];
      top = fmaxf(top, x);
      c->run->left[n] = 1;
      c->run->right[n++] = x;
    }
    float divisor = (float)qb_run_average_divisor(&c->node->attributes.pool, c->x, y, z);
    c->out[i] = c->node->op == QB_OP_MAX_POOL ? top : sum_terms(c, n) / divisor;
  }
}

static void run_global_average(const call *c, int64_t count) {
  int64_t area = (int64_t)qb_shape_elements(c->x) / count;
  for (int64_t i = 0; i < count; i++) {
    for (int64_t k = 0; k < area; k++) {
      c->run->left[k] = 1;
      c->run->right[k] = c->in[i * area + k];
    }
    float sum = sum_terms(c, area), reciprocal = 1.0f / (float)area;
    c->out[i] = qb_rng_below(c->rng, 2) == 0 ? sum / (float)area : sum * reciprocal;
  }
}

/* ------------------------------------------------------------------------------------------------- moving elements */

static void run_concat(const call *c) {
  int32_t axis = c->node->attributes.axes.axis;
  int64_t inner = 1, position = 0;
  for (int32_t k = axis + 1; k < c->y->rank; k++)
    inner *= c->y->dims[k];
  for (int32_t slot = 0; slot < c->node->input_count; slot++) {
    const qb_shape *own = &c->run->graph->values[c->node->inputs[slot]].shape;
    int64_t part = own->dims[axis] * inner, whole = c->y->dims[axis] * inner;
    for (int64_t i = 0; i < (int64_t)qb_shape_elements(own); i++)
      c->out[i / part * whole + position + i % part] = c->run->value[c->node->inputs[slot]][i];
    position += part;
  }
}

static void run_pad(const call *c, int64_t count) {
  const qb_attributes *attributes = &c->node->attributes;
  for (int64_t i = 0; i < count; i++) {
    int64_t rest = i, from = 0, stride = 1;
    bool inside = true;
    for (int32_t axis = c->y->rank - 1; axis >= 0; axis--) {
      int64_t at = rest % c->y->dims[axis] - attributes->pad.begin[axis];
      rest /= c->y->dims[axis];
      inside = inside && at >= 0 && at < c->x->dims[axis];
      from += at * stride;
      stride *= c->x->dims[axis];
    }
    c->out[i] = inside ? c->in[from] : attributes->pad.value;
  }
}

static void run_transpose(const call *c, int64_t count) {
  qb_transposition t = qb_shape_transposition(c->x, c->node->attributes.transpose.permutation);
  for (int64_t i = 0; i < count; i++)
    c->out[i] = c->in[qb_transposition_index(&t, i)];
}

/* -------------------------------------------------------------------------------------------------------------- runs
 */

static void run_node(const call *c) {
  int64_t count = (int64_t)qb_shape_elements(c->y);
  switch (c->node->op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
  case QB_OP_GEMM:
  case QB_OP_MATMUL: run_layer(c, count); break;
  case QB_OP_BATCH_NORM: run_batch_norm(c, count); break;
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL: run_pool(c, count); break;
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: run_global_average(c, count); break;
  case QB_OP_ADD:
  case QB_OP_SUB:
  case QB_OP_MUL:
  case QB_OP_DIV: run_binary(c, count); break;
  case QB_OP_CONCAT: run_concat(c); break;
  case QB_OP_PAD: run_pad(c, count); break;
  case QB_OP_TRANSPOSE: run_transpose(c, count); break;
  case QB_OP_QUANTIZE_LINEAR:
  case QB_OP_DEQUANTIZE_LINEAR: run_quantizer(c, count); break;
  default:
    for (int64_t i = 0; i < count; i++)
      c->out[i] = map_element(c, i, c->in[i]);
  }
}

bool float_run_supports(const qb_graph *graph) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (graph->nodes[n].op == QB_OP_SIGMOID || graph->nodes[n].op == QB_OP_TANH || graph->nodes[n].op == QB_OP_SOFTMAX)
      return false;
  return true;
}

void float_run_create(const qb_graph *graph, float_run *run) {
  size_t most = 1;
  *run = (float_run){.graph = graph, .value = qb_alloc((size_t)graph->value_count, sizeof *run->value)};
  assert_non_null(run->value);
  for (qb_value_id v = 0; v < graph->value_count; v++) {
    const qb_value *value = &graph->values[v];
    size_t count = qb_shape_elements(&value->shape);
    run->value[v] = qb_alloc(count, sizeof **run->value);
    assert_non_null(run->value[v]);
    most = count > most ? count : most;
    if (value->is_constant)
      memcpy(run->value[v], qb_view_f32(&value->constant), count * sizeof **run->value);
  }
  most += 2; /* a bias and an operand of Add */
  run->left = qb_alloc(most, sizeof *run->left);
  run->right = qb_alloc(most, sizeof *run->right);
  run->sums = qb_alloc(most, sizeof *run->sums);
  assert_true(run->left != NULL && run->right != NULL && run->sums != NULL);
}

void float_run_free(float_run *run) {
  for (qb_value_id v = 0; v < run->graph->value_count; v++)
    qb_free(run->value[v]);
  qb_free(run->value);
  qb_free(run->left);
  qb_free(run->right);
  qb_free(run->sums);
  *run = (float_run){0};
}

void float_run_forward(float_run *run, const float *input, qb_rng *rng) {
  qb_value_id x = run->graph->inputs[0];
  memcpy(run->value[x], input, qb_shape_elements(&run->graph->values[x].shape) * sizeof *input);
  for (qb_node_id n = 0; n < run->graph->node_count; n++) {
    call c = call_of(run, n, rng);
    run_node(&c);
  }
}
