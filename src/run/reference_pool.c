/* Reference rules of the operators that look at windows of a map. */
#include "run/reference.h"

typedef struct pool_window {
  int32_t begin[2], end[2]; /* taps inside the image */
  int64_t top, left;        /* input position of tap (0, 0) */
} pool_window;

static pool_window find_window(const reference_call *call, int64_t oh, int64_t ow) {
  const qb_window *window = &call->node->attributes.pool.window;
  const qb_shape *x = &call->in[0]->shape;
  pool_window found;
  qb_run_window_taps(window, 0, x->dims[2], oh, &found.begin[0], &found.end[0]);
  qb_run_window_taps(window, 1, x->dims[3], ow, &found.begin[1], &found.end[1]);
  found.top = oh * window->stride[0] - window->pad_begin[0];
  found.left = ow * window->stride[1] - window->pad_begin[1];
  return found;
}

static size_t tap_index(const reference_call *call, const pool_window *w, int64_t map, int32_t i, int32_t j) {
  const int32_t *dilation = call->node->attributes.pool.window.dilation;
  const qb_shape *x = &call->in[0]->shape;
  return (size_t)((map * x->dims[2] + w->top + (int64_t)i * dilation[0]) * x->dims[3] + w->left +
                  (int64_t)j * dilation[1]);
}

/* The maximum is 1-Lipschitz in the largest change of an operand, and exact. */
static ball window_max(const reference_call *call, const pool_window *w, int64_t map) {
  ball result = {-INFINITY, 0.0};
  for (int32_t i = w->begin[0]; i < w->end[0]; i++)
    for (int32_t j = w->begin[1]; j < w->end[1]; j++) {
      ball b = value_ball(call->in[0], tap_index(call, w, map, i, j));
      result.x = b.x > result.x ? b.x : result.x;
      result.r = b.r > result.r ? b.r : result.r;
    }
  return result;
}

/* A mean of n terms with divisor d >= n: n additions and at most two more roundings (1/d, product). */
static ball mean_result(double sum, double radius, double magnitude, double n, double divisor, const rounding *u) {
  double growth = 1.0 + 2.0 * gamma_n(n + 8.0, &rounding_double);
  ball b = ball_result(sum / divisor, radius * growth / divisor, n + 2.0, magnitude * growth / divisor, u);
  return b;
}

static ball window_mean(const reference_call *call, const pool_window *w, int64_t map, int64_t divisor) {
  double sum = 0.0, radius = 0.0, magnitude = 0.0, n = 0.0;
  for (int32_t i = w->begin[0]; i < w->end[0]; i++)
    for (int32_t j = w->begin[1]; j < w->end[1]; j++) {
      ball b = value_ball(call->in[0], tap_index(call, w, map, i, j));
      sum += b.x;
      radius += b.r;
      magnitude += ball_magnitude(b);
      n += 1.0;
    }
  return mean_result(sum, radius, magnitude, n, (double)divisor, call->units);
}

static void run_pool(const reference_call *call, bool mean) {
  const qb_shape *y = &call->y->shape, *x = &call->in[0]->shape;
  const qb_pool_attributes *pool = &call->node->attributes.pool;
#pragma omp parallel for
  for (int64_t map = 0; map < y->dims[0] * y->dims[1]; map++)
    for (int64_t oh = 0; oh < y->dims[2]; oh++)
      for (int64_t ow = 0; ow < y->dims[3]; ow++) {
        pool_window w = find_window(call, oh, ow);
        ball b = mean ? window_mean(call, &w, map, qb_run_average_divisor(pool, x, oh, ow)) : window_max(call, &w, map);
        value_set(call->y, (size_t)((map * y->dims[2] + oh) * y->dims[3] + ow), b);
      }
}

void qb_reference_max_pool(const reference_call *call) { run_pool(call, false); }

static void run_global_average(const reference_call *call) {
  const qb_shape *x = &call->in[0]->shape;
  int64_t maps = x->dims[0] * x->dims[1], area = x->dims[2] * x->dims[3];
#pragma omp parallel for
  for (int64_t map = 0; map < maps; map++) {
    double sum = 0.0, radius = 0.0, magnitude = 0.0;
    for (int64_t i = map * area; i < (map + 1) * area; i++) {
      ball b = value_ball(call->in[0], (size_t)i);
      sum += b.x;
      radius += b.r;
      magnitude += ball_magnitude(b);
    }
    value_set(call->y, (size_t)map, mean_result(sum, radius, magnitude, (double)area, (double)area, call->units));
  }
}

void qb_reference_average(const reference_call *call) {
  if (call->node->op == QB_OP_AVERAGE_POOL)
    run_pool(call, true);
  else
    run_global_average(call);
}
