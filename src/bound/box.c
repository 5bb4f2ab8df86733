/* Interval propagation of the difference; see box.h. One rule per operator family. */
#include "bound/box.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/affine.h"
#include "bound/codes.h"
#include "bound/fault.h"
#include "bound/node_kinks.h"

typedef struct box_call {
  const qb_pair *pair;
  qb_box_result *result;
  qb_arena *scratch;
  qb_error *error;
  qb_node_id id;
  const qb_node *node, *partner; /* of the quantized and of the original graph; partner may be NULL */
  const qb_shape *shape;         /* of the output */
  qb_box_state *y;
  bool refused;
} box_call;

typedef qb_status (*box_rule)(box_call *call);

/* ------------------------------------------------------------------------------------------------------- helpers */

static const qb_value *operand(const box_call *call, int32_t slot) {
  return &call->pair->quantized->values[call->node->inputs[slot]];
}

static const qb_box_state *input(const box_call *call, int32_t slot) {
  return &call->result->states[call->node->inputs[slot]];
}

static void refuse(box_call *call, const char *why) {
  snprintf(call->result->why, sizeof call->result->why, "node '%s' (%s): %s", call->node->name,
           qb_op_name(call->node->op), why);
  call->refused = true;
}

void qb_box_meet(qb_box_state *state, int64_t i) {
  double *lo = &state->track[QB_TRACK_ORIGINAL].lo[i], *hi = &state->track[QB_TRACK_ORIGINAL].hi[i];
  double *lo2 = &state->track[QB_TRACK_QUANTIZED].lo[i], *hi2 = &state->track[QB_TRACK_QUANTIZED].hi[i];
  double *dlo = &state->track[QB_TRACK_DIFFERENCE].lo[i], *dhi = &state->track[QB_TRACK_DIFFERENCE].hi[i];
  *dlo = qb_larger(*dlo, qb_subtract_down(*lo2, *hi));
  *dhi = qb_smaller(*dhi, qb_subtract_up(*hi2, *lo));
  *lo2 = qb_larger(*lo2, qb_subtract_down(*lo, -*dlo));
  *hi2 = qb_smaller(*hi2, qb_subtract_up(*hi, -*dhi));
  *lo = qb_larger(*lo, qb_subtract_down(*lo2, *dhi));
  *hi = qb_smaller(*hi, qb_subtract_up(*hi2, *dlo));
}

/* ------------------------------------------------------------------------------------------------- linear layers */

/* Intervals as midpoint and radius, with what is lost in between added to the radius. */
typedef struct ball_vector {
  double *centre, *radius;
} ball_vector;

static bool new_vector(box_call *call, int64_t count, ball_vector *v) {
  v->centre = qb_arena_alloc(call->scratch, (size_t)count, sizeof *v->centre);
  v->radius = qb_arena_alloc(call->scratch, (size_t)count, sizeof *v->radius);
  return v->centre != NULL && v->radius != NULL;
}

static void to_balls(const qb_box_track *interval, int64_t count, ball_vector *v) {
  for (int64_t i = 0; i < count; i++) {
    double lo = interval->lo[i], hi = interval->hi[i], centre = lo == hi ? lo : 0.5 * lo + 0.5 * hi;
    v->centre[i] = centre;
    v->radius[i] = lo == hi ? 0 : qb_up(fmax(qb_up(hi - centre), qb_up(centre - lo)));
  }
}

typedef struct layer {
  const qb_graph *graph;
  qb_linear linear;
  const float *plus, *minus, *bias_plus, *bias_minus;
} layer;

/* y += (plus - minus) x + bias: the centre exactly as computed, and in the radius |plus - minus| (r + gamma |c|) plus
 * gamma |bias|. gamma covers both dense products, the difference of the weights and the additions here. */
static qb_status add_product(box_call *call, const layer *l, const ball_vector *x, int64_t inputs, ball_vector *y,
                             int64_t outputs) {
  double gamma = ((double)l->linear.row_length + 16) * DBL_EPSILON;
  qb_arena_mark mark = qb_arena_get_mark(call->scratch);
  ball_vector product;
  double *reach = qb_arena_alloc(call->scratch, (size_t)inputs, sizeof *reach);
  if (reach == NULL || !new_vector(call, outputs, &product))
    return qb_fail_memory(call->error, call->node->name, (size_t)outputs * sizeof *reach);
  /* plus - minus rounds by at most u (|plus| + |minus|), which u |plus - minus| does not cover when they cancel: but
   * float32 differences are exact in double unless the exponents are over 29 bits apart, and then do not cancel. */
  for (int64_t i = 0; i < inputs; i++)
    reach[i] = qb_up(x->radius[i] + gamma * fabs(x->centre[i]));
  QB_TRY(qb_affine_apply(l->graph, &l->linear, l->plus, l->minus, l->bias_plus, l->bias_minus, x->centre,
                         product.centre, call->scratch, call->error));
  QB_TRY(qb_affine_apply_absolute(l->graph, &l->linear, l->plus, l->minus, NULL, NULL, reach, product.radius,
                                  call->scratch, call->error));
  int64_t channels = l->linear.out_channels;
  bool is_conv = call->node->op == QB_OP_CONV || call->node->op == QB_OP_CONV_TRANSPOSE;
  for (int64_t i = 0; i < outputs; i++) {
    int64_t c = is_conv ? qb_shape_channel(call->shape, i) : i % channels;
    double bias = (l->bias_plus == NULL ? 0 : fabs((double)l->bias_plus[c])) +
                  (l->bias_minus == NULL ? 0 : fabs((double)l->bias_minus[c]));
    double sum = y->centre[i] + product.centre[i];
    y->radius[i] += product.radius[i] * (1 + 2 * gamma) + gamma * bias + DBL_EPSILON * fabs(sum) + DBL_MIN;
    y->radius[i] *= 1 + 4 * DBL_EPSILON;
    y->centre[i] = sum;
  }
  qb_arena_rewind(call->scratch, mark);
  return QB_OK;
}

static void store(const ball_vector *v, int64_t count, qb_box_track *interval, bool intersect) {
  for (int64_t i = 0; i < count; i++) {
    double lo = qb_down(v->centre[i] - v->radius[i]), hi = qb_up(v->centre[i] + v->radius[i]);
    lo = isnan(lo) ? -INFINITY : lo;
    hi = isnan(hi) ? INFINITY : hi;
    interval->lo[i] = intersect ? fmax(interval->lo[i], lo) : lo;
    interval->hi[i] = intersect ? fmin(interval->hi[i], hi) : hi;
  }
}

/* d_out = W' d + (W' - W) x + (b' - b), and the same with the roles exchanged: W d + (W' - W) x' + (b' - b). */
static qb_status difference_track(box_call *call, const layer l[2], const ball_vector x[QB_TRACK_COUNT], int64_t inputs,
                                  bool first) {
  ball_vector y;
  layer moved = {l[1].graph, l[1].linear, l[1].plus, l[0].plus, l[1].bias_plus, l[0].bias_plus};
  layer carrier = l[first ? 1 : 0];
  carrier.bias_plus = NULL;
  if (!new_vector(call, call->y->count, &y))
    return qb_fail_memory(call->error, call->node->name, (size_t)call->y->count * sizeof *y.centre);
  QB_TRY(add_product(call, &carrier, &x[QB_TRACK_DIFFERENCE], inputs, &y, call->y->count));
  if (qb_bound_fault != QB_FAULT_INTERVAL_NO_WEIGHT_CHANGE)
    QB_TRY(add_product(call, &moved, &x[first ? QB_TRACK_ORIGINAL : QB_TRACK_QUANTIZED], inputs, &y, call->y->count));
  store(&y, call->y->count, &call->y->track[QB_TRACK_DIFFERENCE], !first);
  return QB_OK;
}

static qb_status rule_gemm(box_call *call) {
  layer l[2];
  const qb_graph *graphs[2] = {call->pair->original, call->pair->quantized};
  qb_node_id ids[2] = {call->pair->partner[call->id], call->id};
  const qb_box_state *in = input(call, 0);
  ball_vector x[QB_TRACK_COUNT], y;
  for (int i = 0; i < 2; i++) {
    if (!qb_graph_linear(graphs[i], ids[i], &l[i].linear)) {
      refuse(call, "the weight is not a constant");
      return QB_OK;
    }
    l[i] = (layer){graphs[i],
                   l[i].linear,
                   qb_graph_constant(graphs[i], l[i].linear.weight),
                   NULL,
                   qb_graph_constant(graphs[i], l[i].linear.bias),
                   NULL};
  }
  for (int track = 0; track < QB_TRACK_COUNT; track++) {
    if (!new_vector(call, in->count, &x[track]))
      return qb_fail_memory(call->error, call->node->name, (size_t)in->count * sizeof(double));
    to_balls(&in->track[track], in->count, &x[track]);
  }
  for (int i = 0; i < 2; i++) {
    if (!new_vector(call, call->y->count, &y))
      return qb_fail_memory(call->error, call->node->name, (size_t)call->y->count * sizeof(double));
    QB_TRY(add_product(call, &l[i], &x[i], in->count, &y, call->y->count));
    store(&y, call->y->count, &call->y->track[i], false);
  }
  QB_TRY(difference_track(call, l, x, in->count, true));
  return difference_track(call, l, x, in->count, false);
}

static qb_status rule_conv(box_call *call) { return rule_gemm(call); }
static qb_status rule_conv_transpose(box_call *call) { return rule_gemm(call); }

/* ---------------------------------------------------------------------------------------- elementwise functions */

/* f of one element in one network: value range over [lo, hi], rounded outwards, and the range of slopes there. */
typedef struct image {
  double lo, hi;
  double slope_lo, slope_hi;
} image;

typedef image (*elementwise)(const box_call *call, const qb_node *node, int64_t i, double lo, double hi);

/* k d for an interval of slopes and one of differences. */
static void slope_times(double s_lo, double s_hi, double d_lo, double d_hi, double *lo, double *hi) {
  double p[4] = {s_lo * d_lo, s_lo * d_hi, s_hi * d_lo, s_hi * d_hi};
  *lo = INFINITY;
  *hi = -INFINITY;
  for (int k = 0; k < 4; k++) {
    double value = isnan(p[k]) ? 0 : p[k]; /* 0 * infinity: a slope of 0 moves nothing */
    *lo = fmin(*lo, value);
    *hi = fmax(*hi, value);
  }
  bool exact = (s_lo == 1 || s_lo == 0) && (s_hi == 1 || s_hi == 0);
  *lo = exact ? *lo : qb_down(*lo);
  *hi = exact ? *hi : qb_up(*hi);
}

/* x and x' by their ranges; d by the mean value theorem over the hull of both ranges, f(x + d) - f(x) = s d. When the
 * function differs between the networks `change` bounds |f' - f|. */
static qb_status apply_elementwise(box_call *call, elementwise f, double change) {
  const qb_box_state *x = input(call, 0);
  const qb_node *original = call->partner;
  for (int64_t i = 0; i < call->y->count; i++) {
    double lo = x->track[0].lo[i], hi = x->track[0].hi[i], lo2 = x->track[1].lo[i], hi2 = x->track[1].hi[i];
    image a = f(call, original, i, lo, hi), b = f(call, call->node, i, lo2, hi2);
    bool hull = qb_bound_fault != QB_FAULT_SLOPE_OF_ORIGINAL;
    image both = f(call, original, i, hull ? fmin(lo, lo2) : lo, hull ? fmax(hi, hi2) : hi);
    double dlo, dhi;
    slope_times(both.slope_lo, both.slope_hi, x->track[2].lo[i], x->track[2].hi[i], &dlo, &dhi);
    qb_box_set(call->y, QB_TRACK_ORIGINAL, i, a.lo, a.hi);
    qb_box_set(call->y, QB_TRACK_QUANTIZED, i, b.lo, b.hi);
    qb_box_set(call->y, QB_TRACK_DIFFERENCE, i, change == 0 ? dlo : qb_down(dlo - change),
               change == 0 ? dhi : qb_up(dhi + change));
  }
  return QB_OK;
}

static image clip_image(double lo, double hi, double floor, double cap) {
  bool inside = lo >= floor && hi <= cap, outside = hi <= floor || lo >= cap;
  return (image){fmin(fmax(lo, floor), cap), fmin(fmax(hi, floor), cap), inside ? 1 : 0, outside ? 0 : 1};
}

static image relu_image(const box_call *call, const qb_node *node, int64_t i, double lo, double hi) {
  (void)call, (void)node, (void)i;
  return clip_image(lo, hi, 0, INFINITY);
}

static image slope_image(double alpha, double lo, double hi) {
  double at_lo = lo > 0 ? lo : qb_down(alpha * lo), at_hi = hi > 0 ? hi : qb_up(alpha * hi);
  image r = {fmin(at_lo, hi > 0 ? hi : qb_down(alpha * hi)), fmax(at_hi, lo > 0 ? lo : qb_up(alpha * lo)),
             fmin(1, alpha), fmax(1, alpha)};
  if (lo < 0 && hi > 0) {
    r.lo = fmin(r.lo, 0);
    r.hi = fmax(r.hi, 0);
  }
  if (lo >= 0)
    r.slope_lo = r.slope_hi = 1;
  else if (hi <= 0)
    r.slope_lo = r.slope_hi = alpha;
  return r;
}

static image leaky_image(const box_call *call, const qb_node *node, int64_t i, double lo, double hi) {
  (void)call, (void)i;
  return slope_image((double)node->attributes.linear.alpha, lo, hi);
}

static image prelu_image(const box_call *call, const qb_node *node, int64_t i, double lo, double hi) {
  (void)node; /* the slopes are the same in both networks (qb_pair) */
  const qb_value *slope = operand(call, 1);
  return slope_image((double)qb_view_f32(&slope->constant)[qb_shape_broadcast_index(call->shape, &slope->shape, i)], lo,
                     hi);
}

static double clip_cap(const qb_clip_attributes *clip, int64_t channel) {
  return (double)(clip->hi_channels != NULL ? clip->hi_channels[channel] : clip->hi);
}

static image clip_node_image(const box_call *call, const qb_node *node, int64_t i, double lo, double hi) {
  const qb_clip_attributes *clip = &node->attributes.clip;
  return clip_image(lo, hi, (double)clip->lo, clip_cap(clip, qb_shape_channel(call->shape, i)));
}

/* A monotone function evaluated by libm: 2^-48 relative and 2^-60 absolute cover its error. */
static image monotone_image(double at_lo, double at_hi, double slope_lo, double slope_hi) {
  return (image){at_lo - fabs(at_lo) * 0x1p-48 - 0x1p-60, at_hi + fabs(at_hi) * 0x1p-48 + 0x1p-60, slope_lo, slope_hi};
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static image sigmoid_image(const box_call *call, const qb_node *node, int64_t i, double lo, double hi) {
  (void)call, (void)node, (void)i;
  return monotone_image(sigmoid(lo), sigmoid(hi), 0, 0.25);
}

static image tanh_image(const box_call *call, const qb_node *node, int64_t i, double lo, double hi) {
  (void)call, (void)node, (void)i;
  return monotone_image(tanh(lo), tanh(hi), 0, 1);
}

static image hard_sigmoid_image(const box_call *call, const qb_node *node, int64_t i, double lo, double hi) {
  (void)call, (void)i;
  double alpha = (double)node->attributes.linear.alpha, beta = (double)node->attributes.linear.beta;
  double a = fmin(fmax(alpha * lo + beta, 0), 1), b = fmin(fmax(alpha * hi + beta, 0), 1);
  return monotone_image(fmin(a, b), fmax(a, b), fmin(alpha, 0), fmax(alpha, 0));
}

static double hard_swish(double x) { return x * fmin(fmax(x / 6 + 0.5, 0), 1); }

/* Falls from 0 at -3 to -3/8 at -3/2, then rises; slopes in [-1/2, 3/2]. */
static image hard_swish_image(const box_call *call, const qb_node *node, int64_t i, double lo, double hi) {
  (void)call, (void)node, (void)i;
  double a = isinf(lo) ? (lo < 0 ? 0 : lo) : hard_swish(lo), b = isinf(hi) ? (hi < 0 ? 0 : hi) : hard_swish(hi);
  double least = lo <= -1.5 && hi >= -1.5 ? -0.375 : fmin(a, b);
  return monotone_image(least, fmax(a, b), -0.5, 1.5);
}

static qb_status rule_relu(box_call *call) { return apply_elementwise(call, relu_image, 0); }
static qb_status rule_leaky_relu(box_call *call) { return apply_elementwise(call, leaky_image, 0); }
static qb_status rule_sigmoid(box_call *call) { return apply_elementwise(call, sigmoid_image, 0); }
static qb_status rule_tanh(box_call *call) { return apply_elementwise(call, tanh_image, 0); }
static qb_status rule_hard_sigmoid(box_call *call) { return apply_elementwise(call, hard_sigmoid_image, 0); }
static qb_status rule_hard_swish(box_call *call) { return apply_elementwise(call, hard_swish_image, 0); }

static qb_status rule_prelu(box_call *call) {
  if (!operand(call, 1)->is_constant) {
    refuse(call, "the slope is not a constant");
    return QB_OK;
  }
  return apply_elementwise(call, prelu_image, 0);
}

static qb_status rule_clip(box_call *call) {
  const qb_clip_attributes *ours = &call->node->attributes.clip, *theirs = &call->partner->attributes.clip;
  double change = ours->lo == theirs->lo ? 0 : fabs((double)ours->lo - (double)theirs->lo);
  bool per_channel = ours->hi_channels != NULL || theirs->hi_channels != NULL;
  for (int64_t c = 0; c < (per_channel ? call->shape->dims[1] : 1); c++)
    if (clip_cap(ours, c) != clip_cap(theirs, c))
      change = fmax(change, fabs(clip_cap(ours, c) - clip_cap(theirs, c)));
  return apply_elementwise(call, clip_node_image, change == 0 ? 0 : qb_up(change));
}

/* Frozen BatchNorm: the same y = s x + t in both networks. */
static qb_status rule_batch_norm(box_call *call) {
  const float *p[4];
  const qb_box_state *x = input(call, 0);
  for (int32_t i = 0; i < 4; i++)
    p[i] = qb_graph_constant(call->pair->quantized, call->node->inputs[1 + i]);
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t c = qb_shape_channel(call->shape, i);
    double s = (double)p[0][c] / sqrt((double)p[3][c] + (double)call->node->attributes.batch_norm.epsilon);
    double shift = (double)p[1][c] - s * (double)p[2][c];
    double lost = 8 * DBL_EPSILON * (fabs((double)p[1][c]) + 2 * fabs(s * (double)p[2][c]));
    for (int track = 0; track < QB_TRACK_COUNT; track++) {
      bool moves = track != QB_TRACK_DIFFERENCE;
      double a = s * x->track[track].lo[i], b = s * x->track[track].hi[i];
      double slack = 8 * DBL_EPSILON * fmax(fabs(a), fabs(b)) + (moves ? lost : 0) + DBL_MIN;
      qb_box_set(call->y, track, i, qb_down(fmin(a, b) + (moves ? shift : 0) - slack),
                 qb_up(fmax(a, b) + (moves ? shift : 0) + slack));
    }
  }
  return QB_OK;
}

/* Values lie in [0,1]; a difference of logits of at most e moves an entry by at most min(e / 2, 1). */
static qb_status rule_softmax(box_call *call) {
  const qb_box_state *x = input(call, 0);
  double widest = 0;
  for (int64_t i = 0; i < x->count; i++)
    widest = fmax(widest, fmax(fabs(x->track[2].lo[i]), fabs(x->track[2].hi[i])));
  double moved = fmin(widest / 2, 1);
  for (int64_t i = 0; i < call->y->count; i++) {
    qb_box_set(call->y, QB_TRACK_ORIGINAL, i, 0, 1);
    qb_box_set(call->y, QB_TRACK_QUANTIZED, i, 0, 1);
    qb_box_set(call->y, QB_TRACK_DIFFERENCE, i, -moved, moved);
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- pooling */

static int64_t pixel_of(const qb_window *w, const qb_shape *x, const int64_t at[2], int64_t a, int64_t b) {
  int64_t y = at[0] * w->stride[0] + a * w->dilation[0] - w->pad_begin[0];
  int64_t z = at[1] * w->stride[1] + b * w->dilation[1] - w->pad_begin[1];
  return y < 0 || y >= x->dims[2] || z < 0 || z >= x->dims[3] ? -1 : y * x->dims[3] + z;
}

/* What a window sees: largest and sum of both ends, and the number of pixels. */
typedef struct window_view {
  double top_lo, top_hi, least_lo, sum_lo, sum_hi, magnitude;
  int64_t count;
} window_view;

static window_view look(const qb_window *w, const qb_shape *x, const int64_t at[2], const qb_box_track *plane_of,
                        int64_t offset) {
  window_view v = {.top_lo = -INFINITY, .top_hi = -INFINITY, .least_lo = INFINITY};
  for (int64_t a = 0; a < w->kernel[0]; a++)
    for (int64_t b = 0; b < w->kernel[1]; b++) {
      int64_t pixel = pixel_of(w, x, at, a, b);
      if (pixel < 0)
        continue;
      double lo = plane_of->lo[offset + pixel], hi = plane_of->hi[offset + pixel];
      v.top_lo = fmax(v.top_lo, lo);
      v.top_hi = fmax(v.top_hi, hi);
      v.least_lo = fmin(v.least_lo, lo);
      v.sum_lo += lo;
      v.sum_hi += hi;
      v.magnitude += fmax(fabs(lo), fabs(hi));
      v.count++;
    }
  return v;
}

/* max(x + d) - max(x) lies between the least and the largest d of the window. */
static qb_status rule_max_pool(box_call *call) {
  const qb_window *w = &call->node->attributes.pool.window;
  const qb_shape *x = &operand(call, 0)->shape, *y = call->shape;
  const qb_box_state *in = input(call, 0);
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t at[2] = {i / y->dims[3] % y->dims[2], i % y->dims[3]};
    int64_t offset = i / (y->dims[2] * y->dims[3]) * x->dims[2] * x->dims[3];
    for (int track = 0; track < QB_TRACK_COUNT; track++) {
      window_view v = look(w, x, at, &in->track[track], offset);
      qb_box_set(call->y, track, i, track == QB_TRACK_DIFFERENCE ? v.least_lo : v.top_lo, v.top_hi);
    }
  }
  return QB_OK;
}

static void set_mean(box_call *call, int track, int64_t i, const window_view *v, double divisor) {
  double slack = ((double)v->count + 8) * DBL_EPSILON * v->magnitude / divisor + DBL_MIN;
  qb_box_set(call->y, track, i, qb_down(v->sum_lo / divisor - slack), qb_up(v->sum_hi / divisor + slack));
}

static qb_status rule_average(box_call *call) {
  const qb_shape *x = &operand(call, 0)->shape, *y = call->shape;
  const qb_box_state *in = input(call, 0);
  bool windowed = call->node->op == QB_OP_AVERAGE_POOL;
  qb_window whole = {.kernel = {(int32_t)x->dims[2], (int32_t)x->dims[3]}, .stride = {1, 1}, .dilation = {1, 1}};
  const qb_pool_attributes *pool = &call->node->attributes.pool;
  const qb_window *w = windowed ? &pool->window : &whole;
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t at[2] = {windowed ? i / y->dims[3] % y->dims[2] : 0, windowed ? i % y->dims[3] : 0};
    int64_t plane = windowed ? i / (y->dims[2] * y->dims[3]) : i, divisor = 1;
    if (windowed && pool->count_include_pad) { /* the part of the window inside the padded image */
      for (int axis = 0; axis < 2; axis++) {
        int64_t inside = 0, limit = x->dims[2 + axis] + w->pad_begin[axis] + w->pad_end[axis];
        for (int64_t k = 0; k < w->kernel[axis]; k++)
          inside += at[axis] * w->stride[axis] + k * w->dilation[axis] < limit;
        divisor *= inside;
      }
    }
    for (int track = 0; track < QB_TRACK_COUNT; track++) {
      window_view v = look(w, x, at, &in->track[track], plane * x->dims[2] * x->dims[3]);
      set_mean(call, track, i, &v, (double)(windowed && pool->count_include_pad ? divisor : v.count));
    }
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- arithmetic */

typedef struct range {
  double lo, hi;
} range;

static range range_product(range a, range b) {
  double lo, hi;
  slope_times(a.lo, a.hi, b.lo, b.hi, &lo, &hi);
  return (range){qb_down(lo), qb_up(hi)};
}

static range range_sum(range a, range b) { return (range){qb_subtract_down(a.lo, -b.lo), qb_subtract_up(a.hi, -b.hi)}; }
static range range_minus(range a) { return (range){-a.hi, -a.lo}; }
static range range_meet(range a, range b) { return (range){fmax(a.lo, b.lo), fmin(a.hi, b.hi)}; }

/* Three tracks of one operand of a binary operator at output element i. Constants are points that may differ between
 * the networks. */
typedef struct operand_ranges {
  range track[QB_TRACK_COUNT];
} operand_ranges;

static const qb_value *original_constant(const box_call *call) {
  const qb_graph *graph = call->pair->original;
  for (int32_t k = 0; k < call->partner->input_count; k++)
    if (graph->values[call->partner->inputs[k]].is_constant)
      return &graph->values[call->partner->inputs[k]];
  return NULL;
}

static operand_ranges read_operand(const box_call *call, int32_t slot, int64_t i) {
  const qb_value *value = operand(call, slot);
  operand_ranges r;
  bool same = qb_shape_equal(&value->shape, call->shape);
  int64_t at = same ? i : qb_shape_broadcast_index(call->shape, &value->shape, i);
  if (!value->is_constant) {
    for (int track = 0; track < QB_TRACK_COUNT; track++)
      r.track[track] = (range){input(call, slot)->track[track].lo[at], input(call, slot)->track[track].hi[at]};
    return r;
  }
  double quantized = (double)qb_view_f32(&value->constant)[at];
  double original = (double)qb_view_f32(&original_constant(call)->constant)[at];
  r.track[QB_TRACK_ORIGINAL] = (range){original, original};
  r.track[QB_TRACK_QUANTIZED] = (range){quantized, quantized};
  r.track[QB_TRACK_DIFFERENCE] = (range){qb_subtract_down(quantized, original), qb_subtract_up(quantized, original)};
  return r;
}

static bool constants_fit(box_call *call) {
  for (int32_t slot = 0; slot < 2; slot++)
    if (operand(call, slot)->is_constant) {
      const qb_value *theirs = original_constant(call);
      if (theirs == NULL || !qb_shape_equal(&theirs->shape, &operand(call, slot)->shape)) {
        refuse(call, "the constant operand has another shape in the other network");
        return false;
      }
    }
  return true;
}

static qb_status rule_add(box_call *call) {
  if (!constants_fit(call))
    return QB_OK;
  for (int64_t i = 0; i < call->y->count; i++) {
    operand_ranges a = read_operand(call, 0, i), b = read_operand(call, 1, i);
    for (int track = 0; track < QB_TRACK_COUNT; track++) {
      range other = call->node->op == QB_OP_SUB ? range_minus(b.track[track]) : b.track[track];
      range sum = range_sum(a.track[track], other);
      qb_box_set(call->y, track, i, sum.lo, sum.hi);
    }
  }
  return QB_OK;
}

/* 1 / b for an interval without zero. */
static bool reciprocal(range b, range *r) {
  if (b.lo <= 0 && b.hi >= 0)
    return false;
  *r = (range){qb_down(1 / b.hi), qb_up(1 / b.lo)};
  return true;
}

/* a'b' - ab = a' db + b da = a db + b' da; a division multiplies by 1 / b, which moves by -db / (b b'). */
static qb_status rule_mul(box_call *call) {
  if (!constants_fit(call))
    return QB_OK;
  for (int64_t i = 0; i < call->y->count; i++) {
    operand_ranges a = read_operand(call, 0, i), b = read_operand(call, 1, i);
    if (call->node->op == QB_OP_DIV) {
      if (!reciprocal(b.track[0], &b.track[0]) || !reciprocal(b.track[1], &b.track[1])) {
        refuse(call, "the divisor may be zero");
        return QB_OK;
      }
      range by_slope = range_minus(range_product(b.track[2], range_product(b.track[0], b.track[1])));
      b.track[2] = range_meet(range_sum(b.track[1], range_minus(b.track[0])), by_slope);
    }
    range one = range_sum(range_product(a.track[1], b.track[2]), range_product(b.track[0], a.track[2]));
    range two = range_sum(range_product(a.track[0], b.track[2]), range_product(b.track[1], a.track[2]));
    range d = range_meet(one, two), x = range_product(a.track[0], b.track[0]);
    range x2 = range_product(a.track[1], b.track[1]);
    qb_box_set(call->y, QB_TRACK_ORIGINAL, i, x.lo, x.hi);
    qb_box_set(call->y, QB_TRACK_QUANTIZED, i, x2.lo, x2.hi);
    qb_box_set(call->y, QB_TRACK_DIFFERENCE, i, d.lo, d.hi);
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------ moving elements */

static void copy_element(box_call *call, const qb_box_state *x, int64_t from, int64_t to) {
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    qb_box_set(call->y, track, to, x->track[track].lo[from], x->track[track].hi[from]);
}

static qb_status rule_reshape(box_call *call) {
  for (int64_t i = 0; i < call->y->count; i++)
    copy_element(call, input(call, 0), i, i);
  return QB_OK;
}

static qb_status rule_concat(box_call *call) {
  int32_t axis = call->node->attributes.axes.axis;
  int64_t inner = 1, position = 0;
  for (int32_t k = axis + 1; k < call->shape->rank; k++)
    inner *= call->shape->dims[k];
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    if (operand(call, slot)->is_constant) {
      refuse(call, "a constant part has no interval rule");
      return QB_OK;
    }
    int64_t part = operand(call, slot)->shape.dims[axis] * inner;
    for (int64_t i = 0; i < input(call, slot)->count; i++)
      copy_element(call, input(call, slot), i, i / part * call->shape->dims[axis] * inner + position + i % part);
    position += part;
  }
  return QB_OK;
}

static qb_status rule_pad(box_call *call) {
  const qb_shape *x = &operand(call, 0)->shape;
  double value = (double)call->node->attributes.pad.value;
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t rest = i, index = 0, stride = 1;
    bool inside = true;
    for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
      int64_t at = rest % call->shape->dims[axis] - call->node->attributes.pad.begin[axis];
      rest /= call->shape->dims[axis];
      inside = inside && at >= 0 && at < x->dims[axis];
      index += at * stride;
      stride *= x->dims[axis];
    }
    if (inside) {
      copy_element(call, input(call, 0), index, i);
    } else {
      qb_box_set(call->y, QB_TRACK_ORIGINAL, i, value, value);
      qb_box_set(call->y, QB_TRACK_QUANTIZED, i, value, value);
      qb_box_set(call->y, QB_TRACK_DIFFERENCE, i, 0, 0);
    }
  }
  return QB_OK;
}

static qb_status rule_transpose(box_call *call) {
  qb_transposition t = qb_shape_transposition(&operand(call, 0)->shape, call->node->attributes.transpose.permutation);
  for (int64_t i = 0; i < call->y->count; i++)
    copy_element(call, input(call, 0), qb_transposition_index(&t, i), i);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------- quantized activations of x' */

/* A Relu or Clip of the original whose work the clamp does. */
static qb_status absorbed_activation(box_call *call) {
  const qb_box_state *x = input(call, 0);
  for (int64_t i = 0; i < call->y->count; i++) {
    qb_interval in[QB_TRACK_COUNT], out[QB_TRACK_COUNT];
    for (int t = 0; t < QB_TRACK_COUNT; t++)
      in[t] = (qb_interval){x->track[t].lo[i], x->track[t].hi[i]};
    qb_node_kink_ranges(call->pair, call->id, i, in, out);
    for (int t = 0; t < QB_TRACK_COUNT; t++)
      qb_box_set(call->y, t, i, out[t].lo, out[t].hi);
  }
  return QB_OK;
}

static qb_status rule_quantize_linear(box_call *call) {
  const qb_value *scale = operand(call, 1), *zero = call->node->input_count > 2 ? operand(call, 2) : NULL;
  if (call->partner != NULL && qb_node_is_kinked(call->pair, call->id))
    return absorbed_activation(call);
  if (call->partner != NULL || !scale->is_constant || (zero != NULL && !zero->is_constant)) {
    refuse(call, "QuantizeLinear in both networks, or with a scale that is computed");
    return QB_OK;
  }
  const char *why = qb_box_codes(call->pair, call->id, input(call, 0), call->y);
  if (why != NULL)
    refuse(call, why);
  return QB_OK;
}

#define rule_dequantize_linear rule_reshape /* the codes are kept in real units: a copy */
static const box_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = rule_##FAMILY,
#include "graph/op_list.h"
};

/* ------------------------------------------------------------------------------------------------------- the walk */

static qb_status new_state(qb_box_result *result, qb_box_state *state, int64_t count, const char *name,
                           qb_error *error) {
  state->count = count;
  for (int track = 0; track < QB_TRACK_COUNT; track++) {
    state->track[track].lo = qb_arena_alloc(&result->arena, (size_t)count, sizeof(double));
    state->track[track].hi = qb_arena_alloc(&result->arena, (size_t)count, sizeof(double));
    if (state->track[track].lo == NULL || state->track[track].hi == NULL)
      return qb_fail_memory(error, name, (size_t)count * sizeof(double));
  }
  return QB_OK;
}

static qb_status start_at_domain(const qb_pair *pair, const qb_domain *domain, qb_box_result *result, qb_error *error) {
  const qb_graph *graph = pair->quantized;
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: a bound needs a network with one input", graph->name);
  qb_box_state *state = &result->states[graph->inputs[0]];
  QB_TRY(new_state(result, state, domain->count, "domain", error));
  for (int64_t i = 0; i < domain->count; i++) {
    qb_box_set(state, QB_TRACK_ORIGINAL, i, (double)domain->lo[i], (double)domain->hi[i]);
    qb_box_set(state, QB_TRACK_QUANTIZED, i, (double)domain->lo[i], (double)domain->hi[i]);
    qb_box_set(state, QB_TRACK_DIFFERENCE, i, 0, 0);
  }
  return QB_OK;
}

qb_status qb_bound_box_node(const qb_pair *pair, qb_node_id id, qb_box_result *result, qb_arena *scratch, bool *refused,
                            qb_error *error) {
  const qb_graph *graph = pair->quantized;
  const qb_node *node = &graph->nodes[id];
  if (pair->value[node->output] == QB_NONE)
    return QB_OK; /* no output depends on it */
  box_call call = {.pair = pair, .result = result, .scratch = scratch, .error = error, .id = id, .node = node};
  call.partner = pair->partner[id] == QB_NONE ? NULL : &pair->original->nodes[pair->partner[id]];
  call.shape = &graph->values[node->output].shape;
  call.y = &result->states[node->output];
  QB_TRY(new_state(result, call.y, (int64_t)qb_shape_elements(call.shape), node->name, error));
  const char *misread = qb_codes_refusal(pair, node);
  if (misread != NULL)
    refuse(&call, misread);
  else if (!qb_pair_same_parameters(pair, id))
    refuse(&call, "slopes or statistics differ between the networks");
  else
    QB_TRY(rules[node->op](&call));
  if (!call.refused)
    QB_TRY(qb_box_evaluate(pair, id, result, scratch, &misread, error));
  if (!call.refused && misread != NULL)
    refuse(&call, misread);
  for (int64_t i = 0; !call.refused && i < call.y->count; i++)
    qb_box_meet(call.y, i);
  qb_arena_clear(scratch);
  *refused = call.refused;
  return QB_OK;
}

qb_status qb_bound_box(const qb_pair *pair, const qb_domain *domain, qb_box_result *result, qb_error *error) {
  return qb_bound_box_visited(pair, domain, NULL, NULL, result, error);
}

qb_status qb_bound_box_visited(const qb_pair *pair, const qb_domain *domain, qb_box_visitor visitor, void *context,
                               qb_box_result *result, qb_error *error) {
  qb_arena scratch;
  *result = (qb_box_result){0};
  qb_arena_init(&result->arena);
  qb_arena_init(&scratch);
  result->states = qb_alloc((size_t)pair->quantized->value_count, sizeof *result->states);
  if (result->states == NULL)
    return qb_fail_memory(error, "intervals", (size_t)pair->quantized->value_count * sizeof *result->states);
  qb_status status = start_at_domain(pair, domain, result, error);
  bool refused = false;
  for (qb_node_id n = 0; status == QB_OK && !refused && n < pair->quantized->node_count; n++) {
    status = qb_bound_box_node(pair, n, result, &scratch, &refused, error);
    if (status == QB_OK && !refused && visitor != NULL && pair->value[pair->quantized->nodes[n].output] != QB_NONE)
      status = visitor(context, result, n, error);
  }
  result->applies = status == QB_OK && !refused;
  qb_arena_free(&scratch);
  return status;
}

void qb_box_result_free(qb_box_result *result) {
  if (result == NULL)
    return;
  qb_free(result->states);
  qb_arena_free(&result->arena);
  *result = (qb_box_result){0};
}
