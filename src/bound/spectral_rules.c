/* The l2 rule of every operator family without weights (theory section 3.2, column l2). */
#include <float.h>
#include <string.h>

#include "base/error.h"
#include "bound/spectral_internal.h"
#include "graph/lipschitz.h"
#include "graph/quantizer.h"

/* Output state of an elementwise function with the Lipschitz constant `slope`, the same in both networks. */
static void lipschitz(spectral_call *call, double slope) {
  *call->y = (qb_spectral_state){.error = multiply_up(slope, call->x->error),
                                 .spread = multiply_up(slope, call->x->spread),
                                 .peak = multiply_up(slope, call->x->peak)};
}

/* Adds the rounding of a centre that was computed with an error of at most `relative` times its size. */
static void centre_rounding(spectral_call *call, double relative) {
  double size = largest_entry(call->d, call->outputs) + DBL_MIN;
  double drift = multiply_up(spectral_largest_inverse(call->s, call->node->output),
                             round_up(relative * size * sqrt((double)call->outputs)));
  call->s->terms[call->id].drift = drift;
  call->y->spread = add_up(call->y->spread, drift);
}

static const qb_value *input_value(const spectral_call *call, int32_t slot) {
  return &call->s->pair->quantized->values[call->node->inputs[slot]];
}

/* Frozen BatchNorm is the same map s x + t in both networks (qb_pair). */
static qb_status rule_batch_norm(spectral_call *call) {
  const float *p[4];
  for (int32_t i = 0; i < 4; i++)
    p[i] = qb_graph_constant(call->s->pair->quantized, call->node->inputs[1 + i]);
  double slope = 0, epsilon = (double)call->node->attributes.batch_norm.epsilon;
  const qb_shape *shape = &input_value(call, 0)->shape;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t c = qb_shape_channel(shape, i);
    double factor = (double)p[0][c] / sqrt((double)p[3][c] + epsilon);
    call->d[i] = factor * (call->c[i] - (double)p[2][c]) + (double)p[1][c];
    slope = fmax(slope, fabs(factor));
  }
  lipschitz(call, slope * (1 + 8 * DBL_EPSILON));
  double size = slope * (largest_entry(call->c, call->inputs) + 1);
  for (int64_t c = 0; c < shape->dims[1]; c++)
    size = fmax(size, 4 * (fabs((double)p[1][c]) + slope * fabs((double)p[2][c])));
  double drift = round_up(16 * DBL_EPSILON * size * sqrt((double)call->outputs));
  call->s->terms[call->id].drift = drift;
  call->y->spread = add_up(call->y->spread, drift);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------- activations */

static qb_status rule_relu(spectral_call *call) {
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = fmax(call->c[i], 0);
  lipschitz(call, 1);
  return QB_OK;
}

static qb_status rule_leaky_relu(spectral_call *call) {
  double alpha = (double)call->node->attributes.linear.alpha;
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = call->c[i] > 0 ? call->c[i] : alpha * call->c[i];
  lipschitz(call, fmax(1, fabs(alpha)));
  centre_rounding(call, DBL_EPSILON);
  return QB_OK;
}

static qb_status rule_prelu(spectral_call *call) {
  const qb_value *slope = input_value(call, 1);
  if (!slope->is_constant) {
    spectral_refuse(call, "the slope is not a constant");
    return QB_OK;
  }
  const float *alpha = qb_view_f32(&slope->constant);
  double steepest = 1;
  for (int64_t i = 0; i < call->outputs; i++) {
    double a = (double)alpha[qb_shape_broadcast_index(&input_value(call, 0)->shape, &slope->shape, i)];
    call->d[i] = call->c[i] > 0 ? call->c[i] : a * call->c[i];
    steepest = fmax(steepest, fabs(a));
  }
  lipschitz(call, steepest);
  centre_rounding(call, DBL_EPSILON);
  return QB_OK;
}

static double clip_high(const qb_clip_attributes *clip, int64_t channel) {
  return (double)(clip->hi_channels != NULL ? clip->hi_channels[channel] : clip->hi);
}

/* Both networks clip to [lo, hi]: the error is at most hi - lo in every element, the spread at most the distance of
 * the centre to the farther limit. Limits that differ move the result by at most their difference. */
static qb_status rule_clip(spectral_call *call) {
  const qb_clip_attributes *ours = &call->node->attributes.clip, *theirs = &call->partner->attributes.clip;
  const qb_shape *shape = &input_value(call, 0)->shape;
  const double *t = call->s->result->weights[call->node->output]; /* those of the input as well */
  double error = 0, spread = 0, change = 0, widest = 0;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t c = qb_shape_channel(shape, i);
    double lo = (double)theirs->lo, hi = clip_high(theirs, c);
    double lo2 = (double)ours->lo, hi2 = clip_high(ours, c);
    call->d[i] = fmin(fmax(call->c[i], lo), hi);
    double range = fmax(hi, hi2) - fmin(lo, lo2);
    double far = fmax(hi - call->d[i], call->d[i] - lo);
    double moved = fmax(lo == lo2 ? 0 : fabs(lo - lo2), hi == hi2 ? 0 : fabs(hi - hi2));
    double weight = t == NULL ? 1 : t[c];
    error += range / weight * (range / weight);
    spread += far / weight * (far / weight);
    change = fmax(change, moved);
    widest = fmax(widest, range);
  }
  double slack = 1 + ((double)call->outputs + 16) * DBL_EPSILON;
  double moved = change == 0 ? 0 : multiply_up(change * (1 + DBL_EPSILON), root_up((double)call->outputs));
  moved = multiply_up(spectral_largest_inverse(call->s, call->node->output), moved);
  call->y->error = fmin(add_up(call->x->error, moved), sqrt(error) * slack);
  call->y->spread = fmin(call->x->spread, sqrt(spread) * slack);
  call->y->peak = fmin(add_up(call->x->peak, change), widest * slack);
  return QB_OK;
}

/* Smooth activations: the centre is computed by libm, the drift covers a relative error of 2^-48. */
static qb_status smooth(spectral_call *call, double (*function)(const spectral_call *, double), double slope) {
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = function(call, call->c[i]);
  lipschitz(call, slope);
  centre_rounding(call, 0x1p-48);
  double more =
      multiply_up(spectral_largest_inverse(call->s, call->node->output), 0x1p-48 * root_up((double)call->outputs));
  call->s->terms[call->id].drift = add_up(call->s->terms[call->id].drift, more);
  call->y->spread = add_up(call->y->spread, more);
  return QB_OK;
}

static double sigmoid(const spectral_call *call, double x) {
  (void)call;
  return 1 / (1 + exp(-x));
}

static double hard_sigmoid(const spectral_call *call, double x) {
  double alpha = (double)call->node->attributes.linear.alpha, beta = (double)call->node->attributes.linear.beta;
  return fmin(fmax(alpha * x + beta, 0), 1);
}

static double hard_swish(const spectral_call *call, double x) {
  (void)call;
  return x * fmin(fmax(x / 6 + 0.5, 0), 1);
}

static double hyperbolic_tangent(const spectral_call *call, double x) {
  (void)call;
  return tanh(x);
}

static qb_status rule_sigmoid(spectral_call *call) { return smooth(call, sigmoid, 0.25); }
static qb_status rule_tanh(spectral_call *call) { return smooth(call, hyperbolic_tangent, 1); }
static qb_status rule_hard_swish(spectral_call *call) { return smooth(call, hard_swish, 1.5); }
static qb_status rule_hard_sigmoid(spectral_call *call) {
  return smooth(call, hard_sigmoid, fabs((double)call->node->attributes.linear.alpha));
}

/* Softmax is 1/2-Lipschitz in l2 and the largest difference of an entry at most min(e_inf / 2, 1). */
static qb_status rule_softmax(spectral_call *call) {
  int32_t first = call->node->attributes.axes.axis, end = call->node->attributes.axes.end_axis;
  const qb_shape *shape = &input_value(call, 0)->shape;
  int64_t length = 1, inner = 1;
  for (int32_t axis = 0; axis < shape->rank; axis++)
    if (axis >= end)
      inner *= shape->dims[axis];
    else if (axis >= first)
      length *= shape->dims[axis];
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t start = i / (length * inner) * (length * inner) + i % inner;
    double top = -INFINITY, sum = 0;
    for (int64_t k = 0; k < length; k++)
      top = fmax(top, call->c[start + k * inner]);
    for (int64_t k = 0; k < length; k++)
      sum += exp(call->c[start + k * inner] - top);
    call->d[i] = exp(call->c[i] - top) / sum;
  }
  lipschitz(call, 0.5);
  call->y->peak = fmin(fmin(call->y->peak, call->y->error), 1);
  /* exp of a difference of doubles: a relative error of |c - top| u and a few ulp */
  double reach = 2 * largest_entry(call->c, call->inputs) + (double)length + 16;
  double drift = round_up(4 * reach * DBL_EPSILON * sqrt((double)call->outputs));
  call->s->terms[call->id].drift = drift;
  call->y->spread = add_up(call->y->spread, drift);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- pooling */

/* Visits the pixels of one pooling window that lie inside the image; returns their number. */
static int64_t window_pixels(const qb_window *w, const qb_shape *x, int64_t y_out, int64_t x_out, int64_t *pixels) {
  int64_t count = 0;
  for (int64_t a = 0; a < w->kernel[0]; a++)
    for (int64_t b = 0; b < w->kernel[1]; b++) {
      int64_t y = y_out * w->stride[0] + a * w->dilation[0] - w->pad_begin[0];
      int64_t z = x_out * w->stride[1] + b * w->dilation[1] - w->pad_begin[1];
      if (y >= 0 && y < x->dims[2] && z >= 0 && z < x->dims[3])
        pixels[count++] = y * x->dims[3] + z;
    }
  return count;
}

/* Taps at output position `at` along an axis: those inside the image, or, where pads count, inside the padded one. */
static int64_t taps_of(const qb_pool_attributes *pool, const qb_shape *x, int axis, int64_t at) {
  const qb_window *w = &pool->window;
  int64_t inside = 0, length = x->dims[2 + axis];
  for (int64_t k = 0; k < w->kernel[axis]; k++) {
    int64_t pixel = at * w->stride[axis] + k * w->dilation[axis] - w->pad_begin[axis];
    inside += pool->count_include_pad ? pixel < length + w->pad_end[axis] : pixel >= 0 && pixel < length;
  }
  return inside;
}

static qb_status for_each_window(spectral_call *call, const qb_pool_attributes *pool, bool average) {
  const qb_window *window = &pool->window;
  const qb_shape *x = &input_value(call, 0)->shape;
  const qb_shape *y = &call->s->pair->quantized->values[call->node->output].shape;
  int64_t area = (int64_t)window->kernel[0] * window->kernel[1], image = x->dims[2] * x->dims[3];
  int64_t *pixels = qb_arena_alloc(&call->s->scratch, (size_t)area, sizeof *pixels);
  if (pixels == NULL)
    return qb_fail_memory(call->s->error, call->node->name, (size_t)area * sizeof *pixels);
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t plane = i / (y->dims[2] * y->dims[3]), y_out = i / y->dims[3] % y->dims[2], x_out = i % y->dims[3];
    int64_t count = window_pixels(window, x, y_out, x_out, pixels);
    double top = -INFINITY, sum = 0;
    for (int64_t k = 0; k < count; k++) {
      double value = call->c[plane * image + pixels[k]];
      top = fmax(top, value);
      sum += value;
    }
    call->d[i] = average ? sum / (double)(taps_of(pool, x, 0, y_out) * taps_of(pool, x, 1, x_out)) : top;
  }
  return QB_OK;
}

static qb_status rule_max_pool(spectral_call *call) {
  const qb_window *window = &call->node->attributes.pool.window;
  QB_TRY(for_each_window(call, &call->node->attributes.pool, false));
  double copies = root_up((double)qb_window_overlap(window));
  *call->y = (qb_spectral_state){.error = multiply_up(copies, call->x->error),
                                 .spread = multiply_up(copies, call->x->spread),
                                 .peak = call->x->peak};
  return QB_OK;
}

/* The largest sum of 1 / taps over the windows that see one pixel, along one axis. */
static double column_sum(const qb_pool_attributes *pool, const qb_shape *x, const qb_shape *y, int axis) {
  const qb_window *w = &pool->window;
  double largest = 0;
  for (int64_t pixel = 0; pixel < x->dims[2 + axis]; pixel++) {
    double sum = 0;
    for (int64_t at = 0; at < y->dims[2 + axis]; at++) {
      int64_t offset = pixel + w->pad_begin[axis] - at * w->stride[axis];
      if (offset >= 0 && offset % w->dilation[axis] == 0 && offset / w->dilation[axis] < w->kernel[axis])
        sum = add_up(sum, round_up(1 / (double)taps_of(pool, x, axis, at)));
    }
    largest = fmax(largest, sum);
  }
  return largest;
}

/* A mean has row sums 1 (or less), so by Schur its norm is at most the root of the largest column sum, which is a
 * product over the axes. */
static qb_status rule_average(spectral_call *call) {
  const qb_shape *x = &input_value(call, 0)->shape;
  double factor;
  if (call->node->op == QB_OP_AVERAGE_POOL) {
    const qb_pool_attributes *pool = &call->node->attributes.pool;
    const qb_shape *y = &call->s->pair->quantized->values[call->node->output].shape;
    factor = root_up(multiply_up(column_sum(pool, x, y, 0), column_sum(pool, x, y, 1)));
    QB_TRY(for_each_window(call, pool, true));
  } else {
    int64_t area = x->dims[2] * x->dims[3];
    for (int64_t i = 0; i < call->outputs; i++) {
      double sum = 0;
      for (int64_t k = 0; k < area; k++)
        sum += call->c[i * area + k];
      call->d[i] = sum / (double)area;
    }
    factor = root_up(1 / (double)area);
  }
  *call->y = (qb_spectral_state){.error = multiply_up(factor, call->x->error),
                                 .spread = multiply_up(factor, call->x->spread),
                                 .peak = call->x->peak};
  double size = largest_entry(call->c, call->inputs);
  double drift = multiply_up(spectral_largest_inverse(call->s, call->node->output),
                             round_up(((double)call->inputs + 8) * DBL_EPSILON * size * sqrt((double)call->outputs)));
  call->s->terms[call->id].drift = drift;
  call->y->spread = add_up(call->y->spread, drift);
  call->y->peak = multiply_up(call->y->peak, 1 + 8 * DBL_EPSILON);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------- two tensors and constants */

/* The constant of partner `node` of the original that stands in for constant input `slot` of the quantized node: the
 * partner's only constant input. */
static const qb_value *partner_constant(const spectral_call *call) {
  const qb_graph *graph = call->s->pair->original;
  for (int32_t i = 0; i < call->partner->input_count; i++)
    if (graph->values[call->partner->inputs[i]].is_constant)
      return &graph->values[call->partner->inputs[i]];
  return NULL;
}

/* x + k, x - k, k - x with a constant k that may differ between the networks. */
static qb_status add_constant(spectral_call *call, int32_t slot) {
  const qb_value *ours = input_value(call, slot), *theirs = partner_constant(call);
  const qb_shape *shape = &call->s->pair->quantized->values[call->node->output].shape;
  qb_value_id other = call->node->inputs[1 - slot];
  const qb_spectral_state *x = &call->s->result->states[other];
  const double *c = call->s->centre[other];
  if (theirs == NULL || !qb_shape_equal(&ours->shape, &theirs->shape) ||
      !qb_shape_equal(shape, &call->s->pair->quantized->values[other].shape)) {
    spectral_refuse(call, "a constant that broadcasts the tensor has no l2 rule");
    return QB_OK;
  }
  bool subtract = call->node->op == QB_OP_SUB;
  double change = 0, widest = 0;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t at = qb_shape_broadcast_index(shape, &ours->shape, i);
    double k = (double)qb_view_f32(&theirs->constant)[at];
    double moved = fabs(k - (double)qb_view_f32(&ours->constant)[at]);
    call->d[i] = !subtract ? c[i] + k : slot == 1 ? c[i] - k : k - c[i];
    change += moved * moved;
    widest = fmax(widest, moved);
  }
  double slack = 1 + ((double)call->outputs + 16) * DBL_EPSILON;
  *call->y = (qb_spectral_state){.error = add_up(x->error, sqrt(change) * slack),
                                 .spread = x->spread,
                                 .peak = add_up(x->peak, widest * slack)};
  centre_rounding(call, DBL_EPSILON);
  return QB_OK;
}

static qb_status rule_add(spectral_call *call) {
  for (int32_t slot = 0; slot < 2; slot++)
    if (input_value(call, slot)->is_constant)
      return add_constant(call, slot);
  const qb_shape *shape = &call->s->pair->quantized->values[call->node->output].shape;
  if (!qb_shape_equal(shape, &input_value(call, 0)->shape) || !qb_shape_equal(shape, &input_value(call, 1)->shape)) {
    spectral_refuse(call, "two tensors that broadcast have no l2 rule");
    return QB_OK;
  }
  const qb_spectral_state *other = &call->s->result->states[call->node->inputs[1]];
  const double *c = call->s->centre[call->node->inputs[1]];
  double sign = call->node->op == QB_OP_SUB ? -1 : 1;
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = call->c[i] + sign * c[i];
  double one = spectral_ratio(call->s, call->node->inputs[0], call->node->output); /* to the weights of the sum */
  double two = spectral_ratio(call->s, call->node->inputs[1], call->node->output);
  *call->y = (qb_spectral_state){.error = add_up(multiply_up(one, call->x->error), multiply_up(two, other->error)),
                                 .spread = add_up(multiply_up(one, call->x->spread), multiply_up(two, other->spread)),
                                 .peak = add_up(call->x->peak, other->peak)};
  centre_rounding(call, DBL_EPSILON);
  return QB_OK;
}

/* k x or x / k. */
static qb_status rule_mul(spectral_call *call) {
  const qb_value *ours = input_value(call, 1), *theirs = partner_constant(call);
  int32_t slot = ours->is_constant ? 1 : 0;
  qb_value_id other = call->node->inputs[1 - slot];
  const qb_shape *shape = &call->s->pair->quantized->values[call->node->output].shape;
  ours = input_value(call, slot);
  bool divide = call->node->op == QB_OP_DIV;
  if (!ours->is_constant || theirs == NULL || (divide && slot == 0) || input_value(call, 1 - slot)->is_constant ||
      !qb_shape_equal(&ours->shape, &theirs->shape) ||
      !qb_shape_equal(shape, &call->s->pair->quantized->values[other].shape)) {
    spectral_refuse(call, "only a product with a constant that keeps the tensor's shape has an l2 rule");
    return QB_OK;
  }
  const qb_spectral_state *x = &call->s->result->states[other];
  const double *c = call->s->centre[other];
  double factor = 0, change = 0, widest = 0, at_centre = 0;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t at = qb_shape_broadcast_index(shape, &ours->shape, i);
    double k = (double)qb_view_f32(&theirs->constant)[at], k2 = (double)qb_view_f32(&ours->constant)[at];
    if (divide) {
      k = 1 / k;
      k2 = 1 / k2;
    }
    double moved = fabs(k - k2) + 4 * DBL_EPSILON * (fabs(k) + fabs(k2)) * (ours == theirs || k == k2 ? 0 : 1);
    call->d[i] = k * c[i];
    factor = fmax(factor, fmax(fabs(k), fabs(k2)));
    change = fmax(change, moved);
    at_centre += moved * c[i] * moved * c[i];
    widest = fmax(widest, moved * fabs(c[i]));
  }
  if (!isfinite(factor)) {
    spectral_refuse(call, "a division by zero");
    return QB_OK;
  }
  double slack = 1 + ((double)call->outputs + 16) * DBL_EPSILON;
  factor *= slack;
  double moved = add_up(sqrt(at_centre) * slack, multiply_up(change * slack, x->spread));
  call->y->error = add_up(multiply_up(factor, x->error), moved);
  call->y->spread = multiply_up(factor, x->spread);
  call->y->peak = add_up(multiply_up(factor, x->peak), add_up(widest * slack, multiply_up(change * slack, x->spread)));
  centre_rounding(call, 4 * DBL_EPSILON);
  return QB_OK;
}

static qb_status rule_concat(spectral_call *call) {
  const qb_graph *graph = call->s->pair->quantized;
  const qb_shape *shape = &graph->values[call->node->output].shape;
  int32_t axis = call->node->attributes.axes.axis;
  int64_t inner = 1, position = 0;
  double error = 0, spread = 0, peak = 0;
  for (int32_t k = axis + 1; k < shape->rank; k++)
    inner *= shape->dims[k];
  int64_t row = shape->dims[axis] * inner;
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    qb_value_id id = call->node->inputs[slot];
    if (graph->values[id].is_constant) {
      spectral_refuse(call, "a constant part has no l2 rule");
      return QB_OK;
    }
    const qb_spectral_state *x = &call->s->result->states[id];
    int64_t part = graph->values[id].shape.dims[axis] * inner,
            count = (int64_t)qb_shape_elements(&graph->values[id].shape);
    for (int64_t i = 0; i < count; i++)
      call->d[i / part * row + position + i % part] = call->s->centre[id][i];
    position += part;
    error = add_up(error, multiply_up(x->error, x->error));
    spread = add_up(spread, multiply_up(x->spread, x->spread));
    peak = fmax(peak, x->peak);
  }
  *call->y = (qb_spectral_state){.error = root_up(error), .spread = root_up(spread), .peak = peak};
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------ moving elements */

static qb_status rule_reshape(spectral_call *call) {
  memcpy(call->d, call->c, (size_t)call->outputs * sizeof *call->d);
  *call->y = *call->x;
  return QB_OK;
}

static qb_status rule_pad(spectral_call *call) {
  const qb_shape *x = &input_value(call, 0)->shape;
  const qb_shape *y = &call->s->pair->quantized->values[call->node->output].shape;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t rest = i, index = 0, stride = 1;
    bool inside = true;
    for (int32_t axis = y->rank - 1; axis >= 0; axis--) {
      int64_t at = rest % y->dims[axis] - call->node->attributes.pad.begin[axis];
      rest /= y->dims[axis];
      inside = inside && at >= 0 && at < x->dims[axis];
      index += at * stride;
      stride *= x->dims[axis];
    }
    call->d[i] = inside ? call->c[index] : (double)call->node->attributes.pad.value;
  }
  *call->y = *call->x;
  return QB_OK;
}

static qb_status rule_transpose(spectral_call *call) {
  qb_transposition t =
      qb_shape_transposition(&input_value(call, 0)->shape, call->node->attributes.transpose.permutation);
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = call->c[qb_transposition_index(&t, i)];
  *call->y = *call->x;
  return QB_OK;
}

/* ------------------------------------------------------------------------------------- quantized activations of x' */

/* What the original does in the place of a quantizer, which may be the work of the quantizer's clamp: its limits. */
static void replaced_limits(const spectral_call *call, int64_t i, double *lo, double *hi) {
  *lo = call->partner == NULL ? -INFINITY : 0;
  *hi = INFINITY;
  if (call->partner == NULL || call->partner->op == QB_OP_RELU)
    return;
  *lo = (double)call->partner->attributes.clip.lo;
  *hi = clip_high(&call->partner->attributes.clip, qb_shape_channel(&input_value(call, 0)->shape, i));
}

static double limit_change(double a, double b) { return a == b ? 0 : round_up(fabs(a - b)); }

/* x -> clamp(round(x / s)) of the quantized network against f, a Relu, a Clip or nothing, of the original. With P the
 * projection to the representable range, ||q(x') - f(x)|| <= s/2 sqrt(n) + ||P x' - P x|| + ||P x - f(x)||, and the
 * last is at most ||P c - f(c)|| + H because P - f has slopes in [-1, 1], and at most what the limits differ by. Both
 * also lie within the hull of the limits. */
typedef struct clamp_sums {
  double step, here, moved, width, far, widest; /* sums of squares, the last a maximum */
} clamp_sums;

/* Scale and zero point of element i. */
static void read_grid(const spectral_call *call, int64_t i, double *scale, double *zero) {
  const qb_shape *shape = &input_value(call, 0)->shape;
  int32_t axis = call->node->attributes.quantize.axis;
  int64_t inner = 1;
  for (int32_t k = axis + 1; k < shape->rank; k++)
    inner *= shape->dims[k];
  for (int32_t slot = 1; slot < 3; slot++) {
    const qb_view *view = slot < call->node->input_count ? &input_value(call, slot)->constant : NULL;
    double number = 0;
    if (view != NULL)
      number = (double)qb_view_f32(view)[qb_view_elements(view) == 1 ? 0 : i / inner % shape->dims[axis]];
    *(slot == 1 ? scale : zero) = number;
  }
}

static void clamp_element(spectral_call *call, int64_t i, clamp_sums *sums) {
  double s, z, lo, hi;
  read_grid(call, i, &s, &z);
  replaced_limits(call, i, &lo, &hi);
  double least = s * ((double)call->node->attributes.quantize.lo - z);
  double most = s * ((double)call->node->attributes.quantize.hi - z);
  double c = fmin(fmax(call->c[i], lo), hi);
  double here = c - fmin(fmax(call->c[i], least), most), reach = qb_quantizer_reach(call->node, s, z);
  double moved = fmax(limit_change(lo, least), limit_change(hi, most)), width = fmax(hi, most) - fmin(lo, least);
  double far = fmax(hi - c, c - lo);
  call->d[i] = c;
  sums->step += reach * reach;
  sums->here += here * here;
  sums->moved += moved * moved;
  sums->width += width * width;
  sums->far += far * far;
  sums->widest = fmax(sums->widest, width);
}

static qb_status rule_quantize_linear(spectral_call *call) {
  bool known = call->partner == NULL || call->partner->op == QB_OP_RELU || call->partner->op == QB_OP_CLIP;
  for (int32_t slot = 1; slot < call->node->input_count; slot++)
    known = known && input_value(call, slot)->is_constant;
  if (!known) {
    spectral_refuse(call, "QuantizeLinear in both networks, or with a scale that is computed");
    return QB_OK;
  }
  clamp_sums sums = {0};
  for (int64_t i = 0; i < call->outputs; i++)
    clamp_element(call, i, &sums);
  /* the division x / s is rounded: a tie may go either way, at most one unit in the last place of the quotient */
  double slack = 1 + ((double)call->outputs + 64) * DBL_EPSILON;
  double replaced = fmin(add_up(sqrt(sums.here) * slack, call->x->spread), sqrt(sums.moved) * slack);
  double rounding = add_up(sqrt(sums.step) * slack * (1 + 0x1p-7), replaced);
  call->y->error = fmin(add_up(call->x->error, rounding), sqrt(sums.width) * slack);
  call->y->spread = fmin(call->x->spread, sqrt(sums.far) * slack);
  call->y->peak = sums.widest * slack;
  return QB_OK;
}

/* The codes of a QuantizeLinear are kept in real units, so this is a copy. */
static qb_status rule_dequantize_linear(spectral_call *call) { return rule_reshape(call); }

#define rule_conv spectral_linear
#define rule_conv_transpose spectral_linear
#define rule_gemm spectral_linear

const spectral_rule spectral_rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = rule_##FAMILY,
#include "graph/op_list.h"
};
