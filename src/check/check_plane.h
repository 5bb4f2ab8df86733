/* Planes above activations of both networks at once (docs/bounds.md, section 3e), written from the definition.
 *
 * One element of an activation: y = f(x) in the original network and y' in the other one, with down(q) <= y' <= up(q),
 * q = x + d. All three are clips or leaky rectifiers. What is known of x, q and d cuts a hexagon out of the (x, d)
 * plane; the lines x = break of f and x + d = break of g cut that into cells on which everything is linear. So a plane
 * that is above A f(x) + D (g(x + d) - f(x)) at all corners of cells is above it on the hexagon, whatever its slopes.
 */
#ifndef QB_CHECK_CHECK_PLANE_H
#define QB_CHECK_CHECK_PLANE_H

#include <stdbool.h>

#include "check/check_cells.h"
#include "check/check_quantizer.h"

/* clip(x + shift, lo, hi); or x above 0 and alpha x below. */
typedef struct bend {
  bool leaky;
  double shift, lo, hi, alpha;
} bend;

typedef struct bends {
  bend f, up, down;
} bends;

/* Whether the node is such an activation in both networks. */
bool node_is_bent(const qb_pair *pair, qb_node_id id);

/* The functions of element i, where the other network's input lies in q. */
bends bends_of(const qb_pair *pair, qb_node_id id, int64_t i, range q);

double bend_at(const bend *b, double x);

/* What the other network makes of q, where a quantizer is its clamp alone. */
double bends_clamp(const bends *b, double q);

/* value <= x x + d (q - x) + constant */
typedef struct plane {
  double x, d, constant;
} plane;

/* True when the function is slope x + constant on the range. */
bool bend_is_straight(const bend *b, range x, double *slope, double *constant);

/* The slope of the line above sign f that is lowest a little above the middle of the (finite) range, and the smallest
 * constant that a line of any slope needs. */
double line_slope(const bend *b, range x, double sign);
double line_constant(const bend *b, range x, double sign, double slope);

enum { MOST_CORNERS = 32 };

typedef struct corners {
  int count, knot_count;
  int knot[MOST_CORNERS]; /* (knot_count) corners that lie apart */
  double x[MOST_CORNERS], d[MOST_CORNERS], f[MOST_CORNERS], g[MOST_CORNERS];
  double centre_x, centre_d, size, steepest;
  range x_range, d_range, q_range; /* of x, d and x + d at the corners */
} corners;

/* False when something is infinite or the hexagon is empty. */
bool corners_find(const bend *f, const bend *g, const triple *t, corners *c);

/* The plane above on_f f + on_d (g - f) with these slopes, and the slopes that make it lowest at the centre. */
plane plane_above(const corners *c, double on_f, double on_d, double slope_x, double slope_d);
void lowest_slopes(const corners *c, double on_f, double on_d, double *slope_x, double *slope_d);

/* Moves the centre to the cell around (x, d). */
void corners_recentre(corners *c, double x, double d);

#endif
