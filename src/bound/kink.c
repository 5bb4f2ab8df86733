/* Corners and planes of piecewise linear pairs; see kink.h. */
#include "bound/kink.h"

static const double UNIT = DBL_EPSILON / 2;

double qb_kink_at(const qb_kink *kink, double x) {
  if (kink->leaky)
    return x >= 0 ? x : kink->alpha * x;
  return qb_clamp(x + kink->shift, kink->lo, kink->hi);
}

bool qb_kink_is_linear(const qb_kink *kink, double lo, double hi, qb_line *piece) {
  if (kink->leaky) {
    *piece = (qb_line){lo >= 0 ? 1 : kink->alpha, 0};
    return lo >= 0 || hi <= 0;
  }
  *piece = (qb_line){0, kink->lo};
  if (kink->lo == kink->hi)
    return true;
  double first = qb_down(lo + kink->shift), last = qb_up(hi + kink->shift);
  if (kink->shift == 0) {
    first = lo;
    last = hi;
  }
  *piece = first >= kink->lo ? (qb_line){1, kink->shift} : (qb_line){0, kink->lo};
  if (last <= kink->lo || first >= kink->hi) {
    *piece = (qb_line){0, last <= kink->lo ? kink->lo : kink->hi};
    return true;
  }
  return first >= kink->lo && last <= kink->hi;
}

/* The breaks strictly inside (lo, hi), after lo and hi themselves; returns the number of values. */
static int values_of(const qb_kink *kink, qb_interval x, double values[4]) {
  double breaks[2] = {kink->leaky ? 0 : kink->lo - kink->shift, kink->leaky ? NAN : kink->hi - kink->shift};
  int count = 0;
  values[count++] = x.lo;
  values[count++] = x.hi;
  for (int i = 0; i < 2; i++)
    if (breaks[i] > x.lo && breaks[i] < x.hi)
      values[count++] = breaks[i];
  return count;
}

static double steepness(const qb_kink *kink) { return kink->leaky ? qb_larger(1, fabs(kink->alpha)) : 1; }

qb_line qb_kink_line(const qb_kink *kink, qb_interval x, double sign) {
  double at[4], middle = 0.49218547 * x.lo + 0.50781453 * x.hi, lowest = INFINITY;
  qb_line best = {0, INFINITY}, piece;
  if (qb_kink_is_linear(kink, x.lo, x.hi, &piece))
    return (qb_line){sign * piece.slope, sign * piece.constant};
  int count = values_of(kink, x, at);
  double magnitude = qb_larger(fabs(x.lo), fabs(x.hi)) + 2 * fabs(kink->shift);
  for (int i = 0; i < count; i++)
    for (int k = 0; k < i; k++) {
      double slope = sign * (qb_kink_at(kink, at[i]) - qb_kink_at(kink, at[k])) / (at[i] - at[k]), top = -INFINITY;
      if (!isfinite(slope) || fabs(slope) > 2 * steepness(kink))
        continue;
      for (int v = 0; v < count; v++)
        top = qb_larger(top, sign * qb_kink_at(kink, at[v]) - slope * at[v]);
      top += 32 * UNIT * (steepness(kink) + fabs(slope)) * magnitude + DBL_MIN;
      if (slope * middle + top < lowest) {
        lowest = slope * middle + top;
        best = (qb_line){slope, top};
      }
    }
  return best;
}

qb_line qb_kink_level(const qb_kink *kink, qb_interval x, double sign) {
  double at[4], top = -INFINITY, magnitude = qb_interval_magnitude(x) + 2 * fabs(kink->shift);
  int count = values_of(kink, x, at);
  for (int i = 0; i < count; i++)
    top = qb_larger(top, sign * qb_kink_at(kink, at[i]));
  return (qb_line){0, top + 32 * UNIT * steepness(kink) * magnitude + DBL_MIN};
}

/* ------------------------------------------------------------------------------------------------------- corners */

typedef struct hexagon {
  qb_interval a, a2, d;
  double tolerance;
} hexagon;

static bool is_inside(const hexagon *h, double a, double a2, double d) {
  double t = h->tolerance;
  return a >= h->a.lo - t && a <= h->a.hi + t && a2 >= h->a2.lo - t && a2 <= h->a2.hi + t && d >= h->d.lo - t &&
         d <= h->d.hi + t;
}

static void add_corner(const hexagon *h, const qb_kink *f, const qb_kink *g, double a, double a2, double d,
                       qb_corners *corners) {
  if (!is_inside(h, a, a2, d))
    return;
  for (int i = 0; i < corners->count; i++)
    if (corners->a[i] == a && corners->d[i] == d)
      return;
  int i = corners->count++;
  corners->a[i] = a;
  corners->d[i] = d;
  corners->f[i] = qb_kink_at(f, a);
  corners->g[i] = qb_kink_at(g, a2);
}

/* Where planes are lowest: the mean of the middles of the hexagon's six sides, with odd weights, so that neither
 * symmetry nor a grid of codes leaves a tie between planes and another evaluation, rounded otherwise, chooses the same
 * one. */
static void find_centre(const hexagon *h, qb_corners *corners) {
  static const double weight[6] = {0.10913687, 0.14140721, 0.15671093, 0.18730449, 0.17219843, 0.23324207};
  double side[6][2];
  int k = 0;
  for (int end = 0; end < 2; end++) {
    double a = end == 0 ? h->a.lo : h->a.hi, a2 = end == 0 ? h->a2.lo : h->a2.hi, d = end == 0 ? h->d.lo : h->d.hi;
    side[k][0] = a;
    side[k++][1] = 0.5 * fmax(h->d.lo, h->a2.lo - a) + 0.5 * fmin(h->d.hi, h->a2.hi - a);
    side[k][0] = 0.5 * fmax(h->a.lo, h->a2.lo - d) + 0.5 * fmin(h->a.hi, h->a2.hi - d);
    side[k++][1] = d;
    side[k][0] = 0.5 * fmax(h->a.lo, a2 - h->d.hi) + 0.5 * fmin(h->a.hi, a2 - h->d.lo);
    side[k][1] = a2 - side[k][0];
    k++;
  }
  corners->centre_a = corners->centre_d = 0;
  for (k = 0; k < 6; k++) {
    corners->centre_a += weight[k] * side[k][0];
    corners->centre_d += weight[k] * side[k][1];
  }
}

static void find_extent(qb_corners *corners) {
  for (int k = 0; k < 3; k++) {
    corners->least[k] = INFINITY;
    corners->most[k] = -INFINITY;
  }
  for (int i = 0; i < corners->count; i++) {
    double at[3] = {corners->a[i], corners->d[i], corners->a[i] + corners->d[i]};
    for (int k = 0; k < 3; k++) {
      corners->least[k] = qb_smaller(corners->least[k], at[k]);
      corners->most[k] = qb_larger(corners->most[k], at[k]);
    }
  }
}

/* Slopes are chosen from corners that lie apart: those that only rounding keeps apart make no plane. */
static void list_knots(qb_corners *corners) {
  double wide_a = corners->most[0] - corners->least[0], wide_d = corners->most[1] - corners->least[1];
  corners->knot_count = 0;
  for (int i = 0; i < corners->count; i++) {
    bool apart = true;
    for (int k = 0; k < corners->knot_count && apart; k++) {
      int at = corners->knot[k];
      apart =
          fabs(corners->a[i] - corners->a[at]) > 1e-8 * wide_a || fabs(corners->d[i] - corners->d[at]) > 1e-8 * wide_d;
    }
    if (apart)
      corners->knot[corners->knot_count++] = (int8_t)i;
  }
}

bool qb_kink_corners(const qb_kink *f, const qb_kink *g, qb_interval a, qb_interval a2, qb_interval d,
                     qb_corners *corners) {
  hexagon h = {a, a2, d, 0};
  double first[4], second[4], third[2] = {d.lo, d.hi};
  double reach = qb_larger(qb_interval_magnitude(a), qb_larger(qb_interval_magnitude(a2), qb_interval_magnitude(d)));
  corners->count = 0;
  if (!isfinite(reach))
    return false;
  corners->magnitude = reach + 2 * (fabs(f->shift) + fabs(g->shift));
  corners->steepest = qb_larger(steepness(f), steepness(g));
  h.tolerance = 32 * UNIT * corners->magnitude;
  int n = values_of(f, a, first), m = values_of(g, a2, second);
  for (int i = 0; i < n; i++)
    for (int k = 0; k < m; k++)
      add_corner(&h, f, g, first[i], second[k], second[k] - first[i], corners);
  for (int k = 0; k < 2; k++) {
    for (int i = 0; i < n; i++)
      add_corner(&h, f, g, first[i], first[i] + third[k], third[k], corners);
    for (int i = 0; i < m; i++)
      add_corner(&h, f, g, second[i] - third[k], second[i], third[k], corners);
  }
  find_extent(corners);
  find_centre(&h, corners);
  list_knots(corners);
  return corners->count > 0;
}

/* -------------------------------------------------------------------------------------------------------- planes */

qb_plane qb_kink_plane_with(const qb_corners *corners, double on_f, double on_d, double slope_a, double slope_d) {
  double top = -INFINITY;
  for (int i = 0; i < corners->count; i++) {
    double value = (on_f - on_d) * corners->f[i] + on_d * corners->g[i];
    top = qb_larger(top, value - slope_a * corners->a[i] - slope_d * corners->d[i]);
  }
  double slopes = (fabs(on_f) + 2 * fabs(on_d)) * corners->steepest + fabs(slope_a) + fabs(slope_d);
  return (qb_plane){slope_a, slope_d, top + 64 * UNIT * slopes * corners->magnitude + DBL_MIN};
}

/* A point of the graph of the function over the (a, d) plane, in coordinates where the hexagon has size one. */
typedef struct knot {
  double x, y, z;
} knot;

/* z = p x + q y + r through three knots; false when they lie on a line. */
static bool through(const knot k[3], double *p, double *q, double *r) {
  double x1 = k[1].x - k[0].x, y1 = k[1].y - k[0].y, z1 = k[1].z - k[0].z;
  double x2 = k[2].x - k[0].x, y2 = k[2].y - k[0].y, z2 = k[2].z - k[0].z;
  double det = x1 * y2 - x2 * y1;
  if (fabs(det) < 1e-12)
    return false;
  *p = (z1 * y2 - z2 * y1) / det;
  *q = (x1 * z2 - x2 * z1) / det;
  *r = k[0].z - *p * k[0].x - *q * k[0].y;
  return true;
}

/* Barycentric coordinates of (x, y) in the triangle. */
static void barycentric(const knot k[3], double x, double y, double weight[3]) {
  double x1 = k[1].x - k[0].x, y1 = k[1].y - k[0].y, x2 = k[2].x - k[0].x, y2 = k[2].y - k[0].y;
  double det = x1 * y2 - x2 * y1;
  weight[1] = ((x - k[0].x) * y2 - (y - k[0].y) * x2) / det;
  weight[2] = (x1 * (y - k[0].y) - y1 * (x - k[0].x)) / det;
  weight[0] = 1 - weight[1] - weight[2];
}

/* Which knot of the basis leaves when `enter` comes in, so that the origin stays inside the triangle. */
static int leaving(const knot basis[3], const knot *enter) {
  double have[3], want[3], least = INFINITY;
  int leave = -1;
  barycentric(basis, 0, 0, have);
  barycentric(basis, enter->x, enter->y, want);
  for (int i = 0; i < 3; i++)
    if (want[i] > 1e-12 && have[i] / want[i] < least) {
      least = have[i] / want[i];
      leave = i;
    }
  return leave;
}

/* Distant knots are so many times the spread of the others below them: no plane worth having goes through one. */
static const double FAR_BELOW = 4096;

/* The plane above all knots that is lowest at the origin: the dual simplex method on triangles that contain the
 * origin, from one of three distant, low knots. Only its slopes are used, so rounding here is harmless. */
static void lowest_plane(const knot *knots, int count, double *p, double *q) {
  double low = INFINITY, high = -INFINITY, r = 0;
  for (int i = 0; i < count; i++) {
    low = qb_smaller(low, knots[i].z);
    high = qb_larger(high, knots[i].z);
  }
  double floor = low - FAR_BELOW * (high - low);
  knot basis[3] = {{-8, -8, floor}, {16, 0, floor}, {0, 16, floor}};
  *p = *q = 0;
  for (int step = 0; step < 24; step++) {
    double worst = 1e-11 * (high - low);
    int enter = -1;
    if (!through(basis, p, q, &r))
      return;
    for (int i = 0; i < count; i++) {
      double above = knots[i].z - *p * knots[i].x - *q * knots[i].y - r;
      if (above > worst) {
        worst = above;
        enter = i;
      }
    }
    int leave = enter < 0 ? -1 : leaving(basis, &knots[enter]);
    if (leave < 0)
      return;
    basis[leave] = knots[enter];
  }
}

/* The same over one variable: the steepness of the highest chord across the origin. */
static double lowest_line(const double *x, const knot *knots, int count) {
  double highest = -INFINITY, slope = 0;
  for (int i = 0; i < count; i++)
    for (int k = 0; k < count; k++) {
      if (!(x[i] <= 0 && x[k] > 0))
        continue;
      double chord = (knots[k].z - knots[i].z) / (x[k] - x[i]), height = knots[i].z - chord * x[i];
      if (height > highest) {
        highest = height;
        slope = chord;
      }
    }
  return slope;
}

/* Slopes over knots that may all lie on one line: x = 0, or one that is followed along x alone. */
static void lowest_slopes(const knot *knots, int count, bool flat_x, bool flat_y, double *p, double *q) {
  double along[QB_KINK_CORNERS];
  if (!flat_x && !flat_y) {
    lowest_plane(knots, count, p, q);
    return;
  }
  for (int i = 0; i < count; i++)
    along[i] = flat_x ? knots[i].y : knots[i].x;
  double slope = lowest_line(along, knots, count);
  *p = flat_x ? 0 : slope;
  *q = flat_y ? 0 : slope;
}

static qb_plane plane_at(const qb_corners *corners, double on_f, double on_d, const double at[2]) {
  knot knots[QB_KINK_CORNERS];
  double wide_a = 0, wide_d = 0, wide_sum = 0, p, q;
  for (int i = 0; i < corners->count; i++) {
    wide_a = qb_larger(wide_a, fabs(corners->a[i] - at[0]));
    wide_d = qb_larger(wide_d, fabs(corners->d[i] - at[1]));
    wide_sum = qb_larger(wide_sum, fabs(corners->a[i] - at[0] + corners->d[i] - at[1]));
  }
  /* far more than what rounding makes of a single number, so that every evaluation finds the same ones flat */
  double flat = 1e-11 * corners->magnitude;
  bool flat_a = wide_a <= flat, flat_d = wide_d <= flat || wide_sum <= flat;
  for (int k = 0; k < corners->knot_count; k++) {
    int i = corners->knot[k];
    knots[k] = (knot){flat_a ? 0 : (corners->a[i] - at[0]) / wide_a, flat_d ? 0 : (corners->d[i] - at[1]) / wide_d,
                      (on_f - on_d) * corners->f[i] + on_d * corners->g[i]};
  }
  lowest_slopes(knots, corners->knot_count, flat_a, flat_d, &p, &q);
  /* steeper planes come from slivers of a hexagon and only magnify rounding */
  double limit = 4 * (fabs(on_f) + 2 * fabs(on_d)) * corners->steepest;
  double slope_a = flat_a ? 0 : qb_clamp(p / wide_a, -limit, limit);
  double slope_d = flat_d ? 0 : qb_clamp(q / wide_d, -limit, limit);
  return qb_kink_plane_with(corners, on_f, on_d, slope_a, slope_d);
}

qb_plane qb_kink_plane(const qb_corners *corners, double on_f, double on_d) {
  return plane_at(corners, on_f, on_d, (const double[2]){corners->centre_a, corners->centre_d});
}

/* Points often lie where two planes are equally low: at a kink, in a corner, on an edge. So that another evaluation,
 * rounded otherwise, chooses the same plane, slopes are those of the middle of a cell, whose borders no such point is
 * likely to meet. */
enum { CELLS = 1024 };
static const double BORDER[2] = {0.31371, 0.27183}; /* of a and d: two alike would put middles on the diagonal */
static const double INSIDE = 0.9973;

static double middle_of_cell(double least, double most, double border, double at) {
  double cell = floor(qb_clamp((at - least) / (most - least), 0, 1) * CELLS + border);
  return least + (most - least) * (qb_clamp(cell, 0, CELLS - 1) + 0.5 - border) / CELLS;
}

/* How far from `from`, inside, to `to` and beyond, as a multiple, a coordinate stays within its range. */
static double room(double least, double most, double from, double to) {
  return to > from ? (most - from) / (to - from) : to < from ? (from - least) / (from - to) : INFINITY;
}

qb_plane qb_kink_plane_near(const qb_corners *corners, double on_f, double on_d, const double at[2]) {
  const double *least = corners->least, *most = corners->most;
  double from[3] = {corners->centre_a, corners->centre_d, corners->centre_a + corners->centre_d}, to[3], part = 1;
  for (int k = 0; k < 2; k++)
    to[k] = most[k] > least[k] ? middle_of_cell(least[k], most[k], BORDER[k], at[k]) : from[k];
  to[2] = to[0] + to[1];
  for (int k = 0; k < 3; k++)
    part = qb_smaller(part, INSIDE * room(least[k], most[k], from[k], to[k]));
  part = qb_larger(part, 0);
  return plane_at(corners, on_f, on_d,
                  (const double[2]){from[0] + part * (to[0] - from[0]), from[1] + part * (to[1] - from[1])});
}
