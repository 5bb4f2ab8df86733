/* Exact rules of the operators that look at windows of a map or move elements. */
#include <math.h>

#include "run/exact.h"

/* --------------------------------------------------------------------------------------------------------- windows */

/* Input elements of one map that an output element sees: rows and columns of taps. */
typedef struct view {
  int32_t begin[2], end[2], dilation[2];
  int64_t start, width; /* index of tap (0, 0) and length of a row */
  int64_t divisor;
} view;

static view window_view(const exact_call *call, int64_t i) {
  const qb_pool_attributes *pool = &call->node->attributes.pool;
  const qb_window *w = &pool->window;
  const qb_shape *x = &call->operand[0]->shape, *y = call->shape;
  int64_t ow = i % y->dims[3], oh = i / y->dims[3] % y->dims[2], map = i / (y->dims[2] * y->dims[3]);
  view v = {.dilation = {w->dilation[0], w->dilation[1]}, .width = x->dims[3]};
  qb_run_window_taps(w, 0, x->dims[2], oh, &v.begin[0], &v.end[0]);
  qb_run_window_taps(w, 1, x->dims[3], ow, &v.begin[1], &v.end[1]);
  v.start = (map * x->dims[2] + oh * w->stride[0] - w->pad_begin[0]) * x->dims[3] + ow * w->stride[1] - w->pad_begin[1];
  v.divisor = call->node->op == QB_OP_AVERAGE_POOL ? qb_run_average_divisor(pool, x, oh, ow) : 1;
  return v;
}

static view whole_view(const exact_call *call, int64_t i) {
  const qb_shape *x = &call->operand[0]->shape;
  int64_t area = x->dims[2] * x->dims[3];
  return (view){.end = {(int32_t)x->dims[2], (int32_t)x->dims[3]},
                .dilation = {1, 1},
                .start = i * area,
                .width = x->dims[3],
                .divisor = area};
}

/* The largest centre; the maximum is 1-Lipschitz in the largest change of an operand. */
static void largest_of(const exact_call *call, const view *v, exact_number *y) {
  double r = 0;
  bool first = true;
  for (int32_t a = v->begin[0]; a < v->end[0]; a++)
    for (int32_t b = v->begin[1]; b < v->end[1]; b++) {
      exact_number n;
      exact_load(call->format, call->in[0],
                 v->start + (int64_t)a * v->dilation[0] * v->width + (int64_t)b * v->dilation[1], &n);
      r = fmax(r, n.r);
      if (first || exact_compare(call->format, &n, y) > 0)
        *y = n;
      first = false;
    }
  y->r = r;
}

static void mean_of(const exact_call *call, const view *v, exact_number *y) {
  int64_t sum[EXACT_MOST] = {0};
  double r = 0;
  for (int32_t a = v->begin[0]; a < v->end[0]; a++)
    for (int32_t b = v->begin[1]; b < v->end[1]; b++) {
      exact_number n;
      exact_load(call->format, call->in[0],
                 v->start + (int64_t)a * v->dilation[0] * v->width + (int64_t)b * v->dilation[1], &n);
      for (int p = 0; p < call->format->planes; p++)
        sum[p] += n.d[p];
      r = exact_radius_sum(r, n.r);
    }
  exact_mean(call->format, sum, r, v->divisor, y);
}

qb_status qb_exact_max_pool(const exact_call *call) {
#pragma omp parallel for
  for (int64_t i = 0; i < call->y->count; i++) {
    exact_number n;
    view v = window_view(call, i);
    largest_of(call, &v, &n);
    exact_store(call->format, call->y, i, &n);
  }
  return QB_OK;
}

qb_status qb_exact_average(const exact_call *call) {
#pragma omp parallel for
  for (int64_t i = 0; i < call->y->count; i++) {
    exact_number n;
    view v = call->node->op == QB_OP_AVERAGE_POOL ? window_view(call, i) : whole_view(call, i);
    mean_of(call, &v, &n);
    exact_store(call->format, call->y, i, &n);
  }
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- copying */

static void copy_element(const exact_call *call, int32_t slot, int64_t from, int64_t to) {
  exact_number n;
  qb_exact_load_operand(call, slot, from, &n);
  exact_store(call->format, call->y, to, &n);
}

qb_status qb_exact_reshape(const exact_call *call) {
  for (int64_t i = 0; i < call->y->count; i++)
    copy_element(call, 0, i, i);
  return QB_OK;
}

qb_status qb_exact_concat(const exact_call *call) {
  int32_t axis = call->node->attributes.axes.axis;
  int64_t inner = 1, offset = 0, whole;
  for (int32_t i = axis + 1; i < call->shape->rank; i++)
    inner *= call->shape->dims[i];
  whole = call->shape->dims[axis] * inner;
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    int64_t length = call->operand[slot]->shape.dims[axis] * inner;
    for (int64_t i = 0; i < call->y->count / whole * length; i++)
      copy_element(call, slot, i, i / length * whole + offset + i % length);
    offset += length;
  }
  return QB_OK;
}

/* Input element of an output element, or -1 where some coordinate lies in the pads. */
static int64_t unpadded(const exact_call *call, int64_t i) {
  const qb_shape *x = &call->operand[0]->shape;
  int64_t from = 0, stride = 1;
  for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
    int64_t at = i % call->shape->dims[axis] - call->node->attributes.pad.begin[axis];
    i /= call->shape->dims[axis];
    if (at < 0 || at >= x->dims[axis])
      return -1;
    from += at * stride;
    stride *= x->dims[axis];
  }
  return from;
}

qb_status qb_exact_pad(const exact_call *call) {
  exact_number outside;
  exact_from_double(call->format, (double)call->node->attributes.pad.value, &outside);
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t from = unpadded(call, i);
    if (from < 0)
      exact_store(call->format, call->y, i, &outside);
    else
      copy_element(call, 0, from, i);
  }
  return QB_OK;
}

qb_status qb_exact_transpose(const exact_call *call) {
  qb_transposition t = qb_shape_transposition(&call->operand[0]->shape, call->node->attributes.transpose.permutation);
  for (int64_t i = 0; i < call->y->count; i++)
    copy_element(call, 0, qb_transposition_index(&t, i), i);
  return QB_OK;
}
