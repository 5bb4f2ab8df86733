/* Piecewise linear activations of both networks at once: exact corners and best planes.
 *
 * One element of a pointwise node: y = f(a) in the original network and y' = g(a + d) in the quantized one, with
 * a, a + d and d in known intervals: a hexagon of the (a, d) plane. f and g are clips or leaky rectifiers, so any
 * combination A y + D (y' - y) is linear on the cells into which the lines a = break of f and a + d = break of g cut
 * the hexagon. A plane that lies above its values at the corners of all cells lies above it everywhere: this is what
 * the backward relaxation of the difference network substitutes (docs/bounds.md). */
#ifndef QB_BOUND_KINK_H
#define QB_BOUND_KINK_H

#include <stdbool.h>

#include "bound/interval.h"

/* clip(x + shift, lo, hi); or, when leaky, x for x >= 0 and alpha x below. */
typedef struct qb_kink {
  bool leaky;
  double shift, lo, hi, alpha;
} qb_kink;

/* One element of a pointwise node. A quantizer rounds: y' lies between lower(x') and upper(x'), which else are equal.
 */
typedef struct qb_kink_pair {
  qb_kink original, upper, lower;
} qb_kink_pair;

/* y <= slope x + constant (in exact arithmetic, for the stored doubles). */
typedef struct qb_line {
  double slope, constant;
} qb_line;

/* value <= a x + d (x' - x) + constant. */
typedef struct qb_plane {
  double a, d, constant;
} qb_plane;

enum { QB_KINK_CORNERS = 32 };

/* The corners of all cells, a superset within rounding. */
typedef struct qb_corners {
  int count;
  double a[QB_KINK_CORNERS], d[QB_KINK_CORNERS]; /* where */
  double f[QB_KINK_CORNERS], g[QB_KINK_CORNERS]; /* y and y' there */
  int knot_count;
  int8_t knot[QB_KINK_CORNERS]; /* (knot_count) indices of corners that lie apart: slopes are chosen from them */
  double least[3], most[3];     /* of a, d, a + d at the corners */
  double centre_a, centre_d;    /* a point inside: planes are lowest there */
  double magnitude;             /* of everything above, for rounding */
  double steepest;              /* largest slope of f and g */
} qb_corners;

double qb_kink_at(const qb_kink *kink, double x);

/* True when the function is slope x + constant on [lo, hi]. */
bool qb_kink_is_linear(const qb_kink *kink, double lo, double hi, qb_line *piece);

/* A line above sign * kink on [lo, hi] (finite), lowest a little above the middle, so that symmetric
 * intervals leave no tie; sign is 1 or -1. */
qb_line qb_kink_line(const qb_kink *kink, qb_interval x, double sign);

/* The lowest one with slope 0. */
qb_line qb_kink_level(const qb_kink *kink, qb_interval x, double sign);

/* Fills `corners`; false when the intervals are not finite or contradict each other. */
bool qb_kink_corners(const qb_kink *f, const qb_kink *g, qb_interval a, qb_interval a2, qb_interval d,
                     qb_corners *corners);

/* A plane above on_f f(a) + on_d (g(a + d) - f(a)) on the hexagon, lowest at the centre. */
qb_plane qb_kink_plane(const qb_corners *corners, double on_f, double on_d);

/* The same, lowest near another point of the hexagon: the middle of its cell of a grid, moved inside. */
qb_plane qb_kink_plane_near(const qb_corners *corners, double on_f, double on_d, const double at[2]);

/* The plane above with given slopes and the smallest constant. */
qb_plane qb_kink_plane_with(const qb_corners *corners, double on_f, double on_d, double slope_a, double slope_d);

#endif
