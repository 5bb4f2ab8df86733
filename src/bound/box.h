/* Intervals for both networks and for their signed difference around an input box (theory section 3.3).
 *
 * Per tensor element three intervals: x of the original network, x' of the quantized one, and d = x' - x. The
 * difference is propagated on its own, so a box of radius 0 encloses the exact difference to rounding, and each of
 * the three tightens the others. Everything is rounded outwards. */
#ifndef QB_BOUND_BOX_H
#define QB_BOUND_BOX_H

#include <math.h>

#include "bound/bound.h"
#include "bound/rounding.h"

typedef struct qb_box_track {
  double *lo, *hi; /* (elements) */
} qb_box_track;

enum { QB_TRACK_ORIGINAL, QB_TRACK_QUANTIZED, QB_TRACK_DIFFERENCE, QB_TRACK_COUNT };

/* The intervals of one tensor. */
typedef struct qb_box_state {
  int64_t count;
  qb_box_track track[QB_TRACK_COUNT];
  double *evaluation[2]; /* (elements) by how much float32 evaluation of the node alone moves x, x'; NULL: not at all */
} qb_box_state;

typedef struct qb_box_result {
  qb_box_state *states; /* by value id of the quantized graph; empty for constants and dead values */
  qb_arena arena;       /* owns the arrays */
  bool applies;
  char why[200]; /* the node without a rule when it does not apply */
} qb_box_result;

/* Propagates the domain through the pair. An operator without a rule is "not applicable", not an error.
 * QB_ERROR_MEMORY. Release with qb_box_result_free in every case. */
QB_MUST_CHECK qb_status qb_bound_box(const qb_pair *pair, const qb_domain *domain, qb_box_result *result,
                                     qb_error *error);

/* The same, calling `visit` after every node with the states so far, whose intervals it may tighten. */
typedef qb_status (*qb_box_visitor)(void *context, qb_box_result *result, qb_node_id node, qb_error *error);
QB_MUST_CHECK qb_status qb_bound_box_visited(const qb_pair *pair, const qb_domain *domain, qb_box_visitor visit,
                                             void *context, qb_box_result *result, qb_error *error);
/* The intervals of one node's output from those of its inputs; sets *refused, and result->why, without a rule.
 * `scratch` is emptied. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_bound_box_node(const qb_pair *pair, qb_node_id node, qb_box_result *result,
                                          qb_arena *scratch, bool *refused, qb_error *error);
void qb_box_result_free(qb_box_result *result);

/* Adds to the intervals of the node's output what float32 evaluation does there, where the pair asks for it
 * (evaluation.h). *why is set where that is not known or something may overflow, else NULL. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_box_evaluate(const qb_pair *pair, qb_node_id node, qb_box_result *result, qb_arena *scratch,
                                        const char **why, qb_error *error);

/* The intervals of the codes, in real units, of a QuantizeLinear without a partner and with constants for its scale and
 * zero point, from those of its input. Returns NULL, or why there are none. */
const char *qb_box_codes(const qb_pair *pair, qb_node_id node, const qb_box_state *x, qb_box_state *y);

/* a - b with the unknown infinity minus infinity on the safe side. */
static inline double qb_subtract_down(double a, double b) {
  double r = a - b;
  return isnan(r) ? -INFINITY : a == b ? 0 : qb_down(r);
}

static inline double qb_subtract_up(double a, double b) {
  double r = a - b;
  return isnan(r) ? INFINITY : a == b ? 0 : qb_up(r);
}

/* What is not a number is not known. */
static inline void qb_box_set(qb_box_state *y, int track, int64_t i, double lo, double hi) {
  y->track[track].lo[i] = isnan(lo) ? -INFINITY : lo;
  y->track[track].hi[i] = isnan(hi) ? INFINITY : hi;
}

/* Makes the three intervals of element i consistent: x' = x + d, each way round, outwards. */
void qb_box_meet(qb_box_state *state, int64_t i);

#endif
