/* Backward rules of the operators without weights. */
#include <math.h>

#include "run/engine.h"
#include "search/gradient_internal.h"

/* ---------------------------------------------------------------------------------------------------- one by one */

/* dx += slope(x) dy */
static void pull_slopes(const pull_call *call, float (*slope)(const qb_node *node, float x, float y)) {
  for (int64_t i = 0; i < call->y->count; i++)
    call->in[0]->d[i] += call->y->d[i] * slope(call->node, call->in[0]->x[i], call->y->x[i]);
}

static float relu_slope(const qb_node *node, float x, float y) {
  (void)node, (void)y;
  return x > 0 ? 1.0f : 0.0f;
}

static float leaky_slope(const qb_node *node, float x, float y) {
  (void)y;
  return x > 0 ? 1.0f : node->attributes.linear.alpha;
}

static float sigmoid_slope(const qb_node *node, float x, float y) {
  (void)node, (void)x;
  return y * (1 - y);
}

static float tanh_slope(const qb_node *node, float x, float y) {
  (void)node, (void)x;
  return 1 - y * y;
}

static float hard_sigmoid_slope(const qb_node *node, float x, float y) {
  (void)x;
  return y > 0 && y < 1 ? node->attributes.linear.alpha : 0.0f;
}

static float hard_swish_slope(const qb_node *node, float x, float y) {
  (void)node, (void)y;
  return x <= -3 ? 0.0f : x >= 3 ? 1.0f : x / 3 + 0.5f;
}

void qb_pull_relu(const pull_call *call) { pull_slopes(call, relu_slope); }
void qb_pull_leaky_relu(const pull_call *call) { pull_slopes(call, leaky_slope); }
void qb_pull_sigmoid(const pull_call *call) { pull_slopes(call, sigmoid_slope); }
void qb_pull_tanh(const pull_call *call) { pull_slopes(call, tanh_slope); }
void qb_pull_hard_sigmoid(const pull_call *call) { pull_slopes(call, hard_sigmoid_slope); }
void qb_pull_hard_swish(const pull_call *call) { pull_slopes(call, hard_swish_slope); }

void qb_pull_prelu(const pull_call *call) {
  for (int64_t i = 0; i < call->y->count; i++) {
    float slope = call->in[1]->x[qb_shape_broadcast_index(call->y->shape, call->in[1]->shape, i)];
    call->in[0]->d[i] += call->y->d[i] * (call->in[0]->x[i] > 0 ? 1.0f : slope);
  }
}

void qb_pull_clip(const pull_call *call) {
  const qb_clip_attributes *clip = &call->node->attributes.clip;
  for (int64_t i = 0; i < call->y->count; i++) {
    float hi = clip->hi_channels != NULL ? clip->hi_channels[qb_shape_channel(call->y->shape, i)] : clip->hi;
    if (call->in[0]->x[i] > clip->lo && call->in[0]->x[i] < hi)
      call->in[0]->d[i] += call->y->d[i];
  }
}

/* dx = y (dy - sum y dy) along the axes */
void qb_pull_softmax(const pull_call *call) {
  const qb_shape *shape = call->y->shape;
  int64_t length = 1, stride = 1;
  for (int32_t i = shape->rank - 1; i >= call->node->attributes.axes.end_axis; i--)
    stride *= shape->dims[i];
  for (int32_t i = call->node->attributes.axes.axis; i < call->node->attributes.axes.end_axis; i++)
    length *= shape->dims[i];
  for (int64_t line = 0; line < call->y->count / length; line++) {
    int64_t start = line / stride * length * stride + line % stride;
    float sum = 0;
    for (int64_t i = 0; i < length; i++)
      sum += call->y->x[start + i * stride] * call->y->d[start + i * stride];
    for (int64_t i = start; i < start + length * stride; i += stride)
      call->in[0]->d[i] += call->y->x[i] * (call->y->d[i] - sum);
  }
}

/* ------------------------------------------------------------------------------------------------------ two tensors */

static void pull_add_input(const pull_call *call, int slot, float sign) {
  const pulled_value *in = call->in[slot];
  for (int64_t i = 0; in->d != NULL && i < call->y->count; i++)
    in->d[qb_shape_broadcast_index(call->y->shape, in->shape, i)] += sign * call->y->d[i];
}

void qb_pull_add(const pull_call *call) {
  pull_add_input(call, 0, 1);
  pull_add_input(call, 1, call->node->op == QB_OP_SUB ? -1.0f : 1.0f);
}

void qb_pull_mul(const pull_call *call) {
  const pulled_value *a = call->in[0], *b = call->in[1];
  bool divide = call->node->op == QB_OP_DIV;
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t at_a = qb_shape_broadcast_index(call->y->shape, a->shape, i);
    int64_t at_b = qb_shape_broadcast_index(call->y->shape, b->shape, i);
    float d = call->y->d[i], other = b->x[at_b];
    if (a->d != NULL)
      a->d[at_a] += divide ? d / other : d * other;
    if (b->d != NULL)
      b->d[at_b] += divide ? -d * call->y->x[i] / other : d * a->x[at_a];
  }
}

/* --------------------------------------------------------------------------------------------------------- windows */

typedef struct pool_place {
  int32_t begin[2], end[2]; /* taps inside the image */
  int64_t top, left;
} pool_place;

static pool_place find_place(const pull_call *call, int64_t oh, int64_t ow) {
  const qb_window *window = &call->node->attributes.pool.window;
  pool_place p;
  qb_run_window_taps(window, 0, call->in[0]->shape->dims[2], oh, &p.begin[0], &p.end[0]);
  qb_run_window_taps(window, 1, call->in[0]->shape->dims[3], ow, &p.begin[1], &p.end[1]);
  p.top = oh * window->stride[0] - window->pad_begin[0];
  p.left = ow * window->stride[1] - window->pad_begin[1];
  return p;
}

static int64_t tap_index(const pull_call *call, const pool_place *p, int64_t map, int32_t i, int32_t j) {
  const int32_t *dilation = call->node->attributes.pool.window.dilation;
  const qb_shape *x = call->in[0]->shape;
  return (map * x->dims[2] + p->top + (int64_t)i * dilation[0]) * x->dims[3] + p->left + (int64_t)j * dilation[1];
}

/* The first largest tap receives everything. */
static void pull_largest(const pull_call *call, const pool_place *p, int64_t map, float d) {
  int64_t best = -1;
  for (int32_t i = p->begin[0]; i < p->end[0]; i++)
    for (int32_t j = p->begin[1]; j < p->end[1]; j++) {
      int64_t at = tap_index(call, p, map, i, j);
      best = best < 0 || call->in[0]->x[at] > call->in[0]->x[best] ? at : best;
    }
  if (best >= 0)
    call->in[0]->d[best] += d;
}

static void pull_mean(const pull_call *call, const pool_place *p, int64_t map, float d) {
  for (int32_t i = p->begin[0]; i < p->end[0]; i++)
    for (int32_t j = p->begin[1]; j < p->end[1]; j++)
      call->in[0]->d[tap_index(call, p, map, i, j)] += d;
}

static void pull_pool(const pull_call *call, bool mean) {
  const qb_shape *y = call->y->shape;
  const qb_pool_attributes *pool = &call->node->attributes.pool;
#pragma omp parallel for
  for (int64_t map = 0; map < y->dims[0] * y->dims[1]; map++)
    for (int64_t oh = 0; oh < y->dims[2]; oh++)
      for (int64_t ow = 0; ow < y->dims[3]; ow++) {
        pool_place p = find_place(call, oh, ow);
        float d = call->y->d[(map * y->dims[2] + oh) * y->dims[3] + ow];
        if (mean)
          pull_mean(call, &p, map, d / (float)qb_run_average_divisor(pool, call->in[0]->shape, oh, ow));
        else
          pull_largest(call, &p, map, d);
      }
}

void qb_pull_max_pool(const pull_call *call) { pull_pool(call, false); }

void qb_pull_average(const pull_call *call) {
  if (call->node->op == QB_OP_AVERAGE_POOL) {
    pull_pool(call, true);
    return;
  }
  int64_t area = call->in[0]->count / call->y->count;
  for (int64_t i = 0; i < call->in[0]->count; i++)
    call->in[0]->d[i] += call->y->d[i / area] / (float)area;
}

/* -------------------------------------------------------------------------------------------------------- moving */

void qb_pull_reshape(const pull_call *call) {
  for (int64_t i = 0; i < call->y->count; i++)
    call->in[0]->d[i] += call->y->d[i];
}

void qb_pull_concat(const pull_call *call) {
  int32_t axis = call->node->attributes.axes.axis;
  int64_t inner = 1, offset = 0;
  for (int32_t i = axis + 1; i < call->y->shape->rank; i++)
    inner *= call->y->shape->dims[i];
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    const pulled_value *part = call->in[slot];
    int64_t length = part->shape->dims[axis] * inner, whole = call->y->shape->dims[axis] * inner;
    for (int64_t i = 0; part->d != NULL && i < part->count; i++)
      part->d[i] += call->y->d[i / length * whole + offset + i % length];
    offset += length;
  }
}

void qb_pull_pad(const pull_call *call) {
  const qb_shape *x = call->in[0]->shape, *y = call->y->shape;
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t rest = i, to = 0, stride = 1;
    bool inside = true;
    for (int32_t axis = y->rank - 1; axis >= 0; axis--) {
      int64_t at = rest % y->dims[axis] - call->node->attributes.pad.begin[axis];
      rest /= y->dims[axis];
      inside = inside && at >= 0 && at < x->dims[axis];
      to += inside ? at * stride : 0;
      stride *= x->dims[axis];
    }
    if (inside)
      call->in[0]->d[to] += call->y->d[i];
  }
}

void qb_pull_transpose(const pull_call *call) {
  qb_transposition t = qb_shape_transposition(call->in[0]->shape, call->node->attributes.transpose.permutation);
  for (int64_t i = 0; i < call->y->count; i++)
    call->in[0]->d[qb_transposition_index(&t, i)] += call->y->d[i];
}

/* --------------------------------------------------------------------------------------------------- integer codes */

static float scale_of(const pull_call *call, int64_t i) {
  const pulled_value *scale = call->in[1];
  int64_t at = 0, rest = i;
  if (scale->count == 1)
    return scale->x[0];
  for (int32_t axis = call->y->shape->rank - 1; axis >= call->node->attributes.quantize.axis; axis--) {
    at = rest % call->y->shape->dims[axis];
    rest /= call->y->shape->dims[axis];
  }
  return scale->x[at];
}

void qb_pull_quantize_linear(const pull_call *call) {
  for (int64_t i = 0; i < call->y->count; i++)
    if (call->y->x[i] > call->node->attributes.quantize.lo && call->y->x[i] < call->node->attributes.quantize.hi)
      call->in[0]->d[i] += call->y->d[i] / scale_of(call, i);
}

void qb_pull_dequantize_linear(const pull_call *call) {
  for (int64_t i = 0; call->in[0]->d != NULL && i < call->y->count; i++)
    call->in[0]->d[i] += call->y->d[i] * scale_of(call, i);
}
