/* States of tensors: storage, exponents, hulls and mutual tightening. */
#include "bound/state.h"

#include <stdbool.h>

#include "base/error.h"

/* A number above 2^400 moves into the exponent: products with float32 weights and sums of them then stay finite. */
#define LARGEST 0x1p400

int64_t qb_state_channels(const qb_shape *shape) { return shape->rank < 2 ? 1 : shape->dims[1]; }

int64_t qb_state_inner(const qb_shape *shape) {
  int64_t inner = 1;
  for (int32_t i = shape->rank < 2 ? 0 : 2; i < shape->rank; i++)
    inner *= shape->dims[i];
  return inner;
}

qb_status qb_state_create(qb_arena *arena, int64_t channels, qb_bound_state *state, qb_error *error) {
  size_t count = (size_t)channels;
  *state = (qb_bound_state){.channels = channels,
                            .x = qb_arena_alloc(arena, count, sizeof *state->x),
                            .x_q = qb_arena_alloc(arena, count, sizeof *state->x_q),
                            .e = qb_arena_alloc(arena, count, sizeof *state->e)};
  if (state->x == NULL || state->x_q == NULL || state->e == NULL)
    return qb_fail_memory(error, "bounds of a tensor", count * (2 * sizeof *state->x + sizeof *state->e));
  return QB_OK;
}

static void shift_state(const qb_bound_state *source, int32_t shift, qb_bound_state *state) {
  for (int64_t c = 0; c < source->channels; c++) {
    state->x[c] = qb_interval_scale(source->x[c], shift);
    state->x_q[c] = qb_interval_scale(source->x_q[c], shift);
    state->e[c] = qb_up_scale(source->e[c], shift);
  }
  state->exponent = source->exponent - shift;
}

qb_status qb_state_rescale(qb_arena *arena, const qb_bound_state *source, int32_t exponent, qb_bound_state *state,
                           qb_error *error) {
  QB_TRY(qb_state_create(arena, source->channels, state, error));
  state->codes = source->codes;
  shift_state(source, source->exponent - exponent, state);
  return QB_OK;
}

void qb_state_include(qb_bound_state *state, int64_t c, const qb_bound_state *source, int64_t s, bool first) {
  state->x[c] = first ? source->x[s] : qb_interval_hull(state->x[c], source->x[s]);
  state->x_q[c] = first ? source->x_q[s] : qb_interval_hull(state->x_q[c], source->x_q[s]);
  state->e[c] = first ? source->e[s] : fmax(state->e[c], source->e[s]);
}

qb_status qb_state_hull(qb_arena *arena, const qb_bound_state *source, qb_bound_state *state, qb_error *error) {
  QB_TRY(qb_state_create(arena, 1, state, error));
  state->exponent = source->exponent;
  state->codes = source->codes;
  for (int64_t s = 0; s < source->channels; s++)
    qb_state_include(state, 0, source, s, s == 0);
  return QB_OK;
}

qb_status qb_state_spread(qb_arena *arena, const qb_bound_state *source, int64_t channels, qb_bound_state *state,
                          qb_error *error) {
  qb_bound_state hull;
  bool same = channels == source->channels;
  QB_TRY(qb_state_hull(arena, source, &hull, error));
  QB_TRY(qb_state_create(arena, channels, state, error));
  state->exponent = source->exponent;
  state->codes = source->codes;
  for (int64_t c = 0; c < channels; c++)
    qb_state_include(state, c, same ? source : &hull, same ? c : 0, true);
  return QB_OK;
}

static qb_interval without_nan(qb_interval a) {
  return (qb_interval){isnan(a.lo) ? -INFINITY : a.lo, isnan(a.hi) ? INFINITY : a.hi};
}

/* x lies within e of a number in `other`. */
static qb_interval near(qb_interval x, qb_interval other, double e) {
  return (qb_interval){fmax(x.lo, qb_down_sum(other.lo, -e)), fmin(x.hi, qb_up_sum(other.hi, e))};
}

void qb_state_tighten(qb_bound_state *state) {
  double largest = 0;
  for (int64_t c = 0; c < state->channels; c++) {
    qb_interval x = without_nan(state->x[c]), x_q = without_nan(state->x_q[c]);
    double spread = fmax(qb_up_sum(x_q.hi, -x.lo), qb_up_sum(x.hi, -x_q.lo));
    double e = fmin(isnan(state->e[c]) ? INFINITY : state->e[c], fmax(spread, 0));
    state->x[c] = near(x, x_q, e);
    state->x_q[c] = near(x_q, x, e);
    state->e[c] = e;
    double sizes[3] = {qb_interval_magnitude(state->x[c]), qb_interval_magnitude(state->x_q[c]), e};
    for (int i = 0; i < 3; i++)
      if (isfinite(sizes[i]))
        largest = fmax(largest, sizes[i]);
  }
  if (largest > LARGEST)
    shift_state(state, -ilogb(largest), state);
}

qb_magnitude qb_state_error(const qb_bound_state *state) {
  double largest = 0;
  for (int64_t c = 0; c < state->channels; c++)
    largest = fmax(largest, state->e[c]);
  return qb_magnitude_scale(qb_magnitude_from_double(largest), state->exponent);
}

qb_magnitude qb_state_size(const qb_bound_state *state) {
  double largest = 0;
  for (int64_t c = 0; c < state->channels; c++)
    largest = fmax(largest, fmax(qb_interval_magnitude(state->x[c]), qb_interval_magnitude(state->x_q[c])));
  return qb_magnitude_scale(qb_magnitude_from_double(largest), state->exponent);
}
