/* What the layerwise bound knows of one tensor: per channel (index of axis 1) the range of the original network's
 * values x, that of the quantized network's values x', and a bound e of |x - x'|.
 *
 * All numbers are multiplied by 2^exponent, so that bounds beyond the double range stay finite. Infinity means that
 * nothing is known. */
#ifndef QB_BOUND_STATE_H
#define QB_BOUND_STATE_H

#include "base/arena.h"
#include "bound/interval.h"
#include "bound/magnitude.h"
#include "graph/graph.h"

typedef struct qb_bound_state {
  int64_t channels;
  int32_t exponent;
  qb_interval *x, *x_q; /* (channels): original, quantized */
  double *e;            /* (channels) */
  const qb_node *codes; /* the QuantizeLinear whose integer codes this tensor holds (the numbers above speak of
                           their dequantized values), NULL for real values */
} qb_bound_state;

/* Length of axis 1; 1 for lower ranks. */
int64_t qb_state_channels(const qb_shape *shape);

/* Number of consecutive elements that share a channel. Element i has channel (i / inner) % channels. */
int64_t qb_state_inner(const qb_shape *shape);

/* Zeroed arrays in the arena. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_state_create(qb_arena *arena, int64_t channels, qb_bound_state *state, qb_error *error);

/* A copy with another exponent, rounded outwards. */
QB_MUST_CHECK qb_status qb_state_rescale(qb_arena *arena, const qb_bound_state *source, int32_t exponent,
                                         qb_bound_state *state, qb_error *error);

/* A copy with `channels` channels: the same ones, or every one the hull of all. */
QB_MUST_CHECK qb_status qb_state_spread(qb_arena *arena, const qb_bound_state *source, int64_t channels,
                                        qb_bound_state *state, qb_error *error);

/* One channel: the hull of all. */
QB_MUST_CHECK qb_status qb_state_hull(qb_arena *arena, const qb_bound_state *source, qb_bound_state *state,
                                      qb_error *error);

/* Widens channel c of `state` to contain channel s of `source` (same exponent); `first` overwrites instead. */
void qb_state_include(qb_bound_state *state, int64_t c, const qb_bound_state *source, int64_t s, bool first);

/* Improves each number by the others: e <= max(x'.hi - x.lo, x.hi - x'.lo), x within e of x' and the reverse. NaN
 * becomes no knowledge. Then moves large numbers into the exponent. */
void qb_state_tighten(qb_bound_state *state);

/* Largest e, times 2^exponent. */
qb_magnitude qb_state_error(const qb_bound_state *state);

/* Largest |x| of both networks, times 2^exponent. */
qb_magnitude qb_state_size(const qb_bound_state *state);

#endif
