/* Corners and planes; see check_plane.h. */
#include "check/check_plane.h"

#define UNIT 0x1p-53

static double between(double x, double lo, double hi) { return fmin(fmax(x, lo), hi); }

/* ------------------------------------------------------------------------------------------------------- functions */

static bool is_constant(const qb_graph *graph, const qb_node *node, int32_t slot) {
  return slot >= node->input_count || node->inputs[slot] == QB_NONE || graph->values[node->inputs[slot]].is_constant;
}

bool node_is_bent(const qb_pair *pair, qb_node_id id) {
  const qb_node *node = &pair->quantized->nodes[id];
  const qb_node *partner = pair->partner[id] == QB_NONE ? NULL : &pair->original->nodes[pair->partner[id]];
  switch (node->op) {
  case QB_OP_QUANTIZE_LINEAR:
    return is_constant(pair->quantized, node, 1) && is_constant(pair->quantized, node, 2) &&
           (partner == NULL || partner->op == QB_OP_RELU || partner->op == QB_OP_CLIP);
  case QB_OP_PRELU: return partner != NULL && partner->op == node->op && is_constant(pair->quantized, node, 1);
  case QB_OP_RELU:
  case QB_OP_CLIP:
  case QB_OP_LEAKY_RELU: return partner != NULL && partner->op == node->op;
  default: return false;
  }
}

static bend clip_bend(const qb_clip_attributes *clip, int64_t channel) {
  return (bend){.lo = (double)clip->lo,
                .hi = (double)(clip->hi_channels == NULL ? clip->hi : clip->hi_channels[channel])};
}

/* The function of a node; slopes of PRelu are the same in both networks. */
static bend bend_of(const qb_pair *pair, const qb_node *node, qb_node_id id, const qb_shape *shape, int64_t i) {
  const qb_graph *graph = pair->quantized;
  const qb_node *own = &graph->nodes[id];
  if (node == NULL)
    return (bend){.lo = -INFINITY, .hi = INFINITY};
  if (node->op == QB_OP_CLIP)
    return clip_bend(&node->attributes.clip, qb_shape_channel(shape, i));
  if (node->op == QB_OP_LEAKY_RELU)
    return (bend){.leaky = true, .alpha = (double)node->attributes.linear.alpha};
  if (node->op == QB_OP_PRELU) {
    const qb_value *slope = &graph->values[own->inputs[1]];
    return (bend){.leaky = true,
                  .alpha = (double)qb_view_f32(&slope->constant)[qb_shape_broadcast_index(shape, &slope->shape, i)]};
  }
  return (bend){.lo = 0, .hi = INFINITY};
}

/* clamp(s round(q / s)) lies within a step of q and, as rounding is monotone, between the codes of the ends of q. */
static void bend_quantizer(clamp_step s, range q, bends *b) {
  range codes = codes_within(q, s);
  b->up = (bend){.shift = s.step, .lo = upper_limits(s).lo, .hi = codes.hi};
  b->down = (bend){.shift = -s.step, .lo = codes.lo, .hi = lower_limits(s).hi};
}

bends bends_of(const qb_pair *pair, qb_node_id id, int64_t i, range q) {
  const qb_node *node = &pair->quantized->nodes[id];
  const qb_node *partner = pair->partner[id] == QB_NONE ? NULL : &pair->original->nodes[pair->partner[id]];
  const qb_shape *shape = &pair->quantized->values[node->output].shape;
  bends b = {.f = bend_of(pair, partner, id, shape, i)};
  if (node->op == QB_OP_QUANTIZE_LINEAR) {
    bend_quantizer(quantizer_at(pair->quantized, node, shape, i), q, &b);
  } else {
    b.up = b.down = bend_of(pair, node, id, shape, i);
  }
  return b;
}

double bend_at(const bend *b, double x) {
  return b->leaky ? (x >= 0 ? x : b->alpha * x) : between(x + b->shift, b->lo, b->hi);
}

double bends_clamp(const bends *b, double q) {
  if (b->up.leaky)
    return bend_at(&b->up, q);
  return between(q, fmin(b->up.lo, b->down.hi), fmax(b->up.lo, b->down.hi));
}

static double steepness(const bend *b) { return b->leaky ? fmax(1, fabs(b->alpha)) : 1; }

bool bend_is_straight(const bend *b, range x, double *slope, double *constant) {
  *slope = *constant = 0;
  if (b->leaky) {
    *slope = x.lo >= 0 ? 1 : b->alpha;
    return x.lo >= 0 || x.hi <= 0;
  }
  if (add_up(x.hi, b->shift) <= b->lo || b->lo == b->hi) {
    *constant = b->lo;
    return true;
  }
  if (add_down(x.lo, b->shift) >= b->hi) {
    *constant = b->hi;
    return true;
  }
  *slope = 1;
  *constant = b->shift;
  return add_down(x.lo, b->shift) >= b->lo && add_up(x.hi, b->shift) <= b->hi;
}

/* --------------------------------------------------------------------------------------------------- lines (one x) */

/* The ends of a range and the breaks inside; returns their number. */
static int knots_of(const bend *b, range x, double at[4]) {
  double breaks[2] = {b->leaky ? 0 : b->lo - b->shift, b->leaky ? 0 : b->hi - b->shift};
  int count = 2;
  at[0] = x.lo;
  at[1] = x.hi;
  for (int k = 0; k < (b->leaky ? 1 : 2); k++)
    if (breaks[k] > x.lo && breaks[k] < x.hi)
      at[count++] = breaks[k];
  return count;
}

/* Values, breaks and products above are rounded: 32 units of everything involved. */
double line_constant(const bend *b, range x, double sign, double slope) {
  double at[4], top = -INFINITY, size = range_size(x) + 2 * fabs(b->shift);
  int count = knots_of(b, x, at);
  for (int k = 0; k < count; k++)
    top = fmax(top, sign * bend_at(b, at[k]) - slope * at[k]);
  return top + 32 * UNIT * (steepness(b) + fabs(slope)) * size + DBL_MIN;
}

/* Among the chords between knots. */
double line_slope(const bend *b, range x, double sign) {
  double at[4], centre = 0.49218547 * x.lo + 0.50781453 * x.hi, lowest = INFINITY, best = 0;
  int count = knots_of(b, x, at);
  for (int i = 1; i < count; i++)
    for (int k = 0; k < i; k++) {
      double slope = sign * (bend_at(b, at[i]) - bend_at(b, at[k])) / (at[i] - at[k]);
      double height = slope * centre + line_constant(b, x, sign, slope);
      if (fabs(slope) <= 2 * steepness(b) && height < lowest) {
        lowest = height;
        best = slope;
      }
    }
  return best;
}

/* --------------------------------------------------------------------------------------------------------- corners */

static void add_corner(const bend *f, const bend *g, const triple *t, double x, double q, double d, corners *c) {
  double slack = 32 * UNIT * c->size;
  if (x < t->x.lo - slack || x > t->x.hi + slack || q < t->q.lo - slack || q > t->q.hi + slack || d < t->d.lo - slack ||
      d > t->d.hi + slack)
    return;
  for (int i = 0; i < c->count; i++)
    if (c->x[i] == x && c->d[i] == d)
      return;
  int i = c->count++;
  c->x[i] = x;
  c->d[i] = d;
  c->f[i] = bend_at(f, x);
  c->g[i] = bend_at(g, q);
}

/* Middles of the six sides of the hexagon, weighted so that neither symmetry nor a grid leaves a tie between planes. */
static void find_centre(const triple *t, corners *c) {
  static const double weight[3][2] = {{0.10913687, 0.18730449}, {0.14140721, 0.17219843}, {0.15671093, 0.23324207}};
  c->centre_x = c->centre_d = 0;
  for (int end = 0; end < 2; end++) {
    double x = end == 0 ? t->x.lo : t->x.hi, d = end == 0 ? t->d.lo : t->d.hi, q = end == 0 ? t->q.lo : t->q.hi;
    double d_at_x = fmax(t->d.lo, t->q.lo - x) / 2 + fmin(t->d.hi, t->q.hi - x) / 2;
    double x_at_d = fmax(t->x.lo, t->q.lo - d) / 2 + fmin(t->x.hi, t->q.hi - d) / 2;
    double x_at_q = fmax(t->x.lo, q - t->d.hi) / 2 + fmin(t->x.hi, q - t->d.lo) / 2;
    c->centre_x += weight[0][end] * x + weight[1][end] * x_at_d + weight[2][end] * x_at_q;
    c->centre_d += weight[0][end] * d_at_x + weight[1][end] * d + weight[2][end] * (q - x_at_q);
  }
}

/* Slopes are chosen from corners that lie apart: those that only rounding keeps apart make no plane. */
static void list_knots(corners *c) {
  range x = {INFINITY, -INFINITY}, d = x, q = x;
  for (int i = 0; i < c->count; i++) {
    x = range_hull(x, point(c->x[i]));
    d = range_hull(d, point(c->d[i]));
    q = range_hull(q, point(c->x[i] + c->d[i]));
  }
  c->x_range = x;
  c->d_range = d;
  c->q_range = q;
  c->knot_count = 0;
  for (int i = 0; i < c->count; i++) {
    bool apart = true;
    for (int k = 0; k < c->knot_count; k++) {
      int at = c->knot[k];
      apart =
          apart && (fabs(c->x[i] - c->x[at]) > 1e-8 * (x.hi - x.lo) || fabs(c->d[i] - c->d[at]) > 1e-8 * (d.hi - d.lo));
    }
    if (apart)
      c->knot[c->knot_count++] = i;
  }
}

/* Corners are crossings of lines x = .., x + d = .., d = ..; those outside by rounding alone are kept: they only raise
 * planes. */
bool corners_find(const bend *f, const bend *g, const triple *t, corners *c) {
  double x[4], q[4], d[2] = {t->d.lo, t->d.hi};
  c->count = 0;
  c->size = fmax(range_size(t->x), fmax(range_size(t->q), range_size(t->d))) + 2 * (fabs(f->shift) + fabs(g->shift));
  c->steepest = fmax(steepness(f), steepness(g));
  if (!isfinite(c->size))
    return false;
  int n = knots_of(f, t->x, x), m = knots_of(g, t->q, q);
  for (int i = 0; i < n; i++)
    for (int k = 0; k < m; k++)
      add_corner(f, g, t, x[i], q[k], q[k] - x[i], c);
  for (int k = 0; k < 2; k++) {
    for (int i = 0; i < n; i++)
      add_corner(f, g, t, x[i], x[i] + d[k], d[k], c);
    for (int i = 0; i < m; i++)
      add_corner(f, g, t, q[i] - d[k], q[i], d[k], c);
  }
  find_centre(t, c);
  list_knots(c);
  return c->count > 0;
}

/* The middle of one of 1024 cells of a range; the borders of cells are no round parts of it, and other ones for x than
 * for d: middles on the diagonal from corner to corner would lie on two planes. */
static double cell_middle(range r, double border, double at) {
  double part = between((at - r.lo) / (r.hi - r.lo), 0, 1);
  return r.lo + (r.hi - r.lo) * (fmin(floor(1024 * part + border), 1023) + 0.5 - border) / 1024;
}

/* The largest share of the way `by` that leads from inside to the end of the range. */
static double share_inside(range r, double from, double by) {
  return by > 0 ? (r.hi - from) / by : by < 0 ? (r.lo - from) / by : INFINITY;
}

void corners_recentre(corners *c, double x, double d) {
  double by_x = c->x_range.hi > c->x_range.lo ? cell_middle(c->x_range, 0.31371, x) - c->centre_x : 0;
  double by_d = c->d_range.hi > c->d_range.lo ? cell_middle(c->d_range, 0.27183, d) - c->centre_d : 0;
  double share = fmin(share_inside(c->x_range, c->centre_x, by_x), share_inside(c->d_range, c->centre_d, by_d));
  share = fmin(share, share_inside(c->q_range, c->centre_x + c->centre_d, by_x + by_d));
  share = between(0.9973 * share, 0, 1);
  c->centre_x += share * by_x;
  c->centre_d += share * by_d;
}

/* ---------------------------------------------------------------------------------------------------------- planes */

plane plane_above(const corners *c, double on_f, double on_d, double slope_x, double slope_d) {
  double top = -INFINITY;
  for (int i = 0; i < c->count; i++)
    top = fmax(top, (on_f - on_d) * c->f[i] + on_d * c->g[i] - slope_x * c->x[i] - slope_d * c->d[i]);
  double slopes = (fabs(on_f) + 2 * fabs(on_d)) * c->steepest + fabs(slope_x) + fabs(slope_d);
  return (plane){slope_x, slope_d, top + 64 * UNIT * slopes * c->size + DBL_MIN};
}

/* A corner with its value, moved and scaled so that the centre is 0 and the hexagon has size one. */
typedef struct knot {
  double x, y, z;
} knot;

/* Twice the area of the triangle p q r. */
static double area(const knot *p, const knot *q, const knot *r) {
  return (q->x - p->x) * (r->y - p->y) - (r->x - p->x) * (q->y - p->y);
}

/* z = slope[0] x + slope[1] y + slope[2] through three knots. */
static bool plane_through(const knot k[3], double slope[3]) {
  double whole = area(&k[0], &k[1], &k[2]), z1 = k[1].z - k[0].z, z2 = k[2].z - k[0].z;
  if (fabs(whole) < 1e-12)
    return false;
  slope[0] = (z1 * (k[2].y - k[0].y) - z2 * (k[1].y - k[0].y)) / whole;
  slope[1] = (z2 * (k[1].x - k[0].x) - z1 * (k[2].x - k[0].x)) / whole;
  slope[2] = k[0].z - slope[0] * k[0].x - slope[1] * k[0].y;
  return true;
}

/* Puts a knot in place of that one of a triangle around the origin which keeps the origin inside. */
static bool exchange(knot k[3], const knot *enter) {
  const knot origin = {0, 0, 0};
  double whole = area(&k[0], &k[1], &k[2]), least = INFINITY;
  int leave = -1;
  for (int i = 0; i < 3; i++) {
    const knot *a = &k[(i + 1) % 3], *b = &k[(i + 2) % 3];
    double have = area(&origin, a, b) / whole, want = area(enter, a, b) / whole;
    if (want > 1e-12 && have / want < least) {
      least = have / want;
      leave = i;
    }
  }
  if (leave >= 0)
    k[leave] = *enter;
  return leave >= 0;
}

/* The plane above all knots that is lowest at the origin: the dual simplex method from three distant, low knots. */
static void lowest_plane(const knot *knots, int count, double slope[3]) {
  double low = INFINITY, high = -INFINITY;
  for (int i = 0; i < count; i++) {
    low = fmin(low, knots[i].z);
    high = fmax(high, knots[i].z);
  }
  double far_below = low - 4096 * (high - low); /* below any plane worth having */
  knot basis[3] = {{-8, -8, far_below}, {16, 0, far_below}, {0, 16, far_below}};
  slope[0] = slope[1] = 0;
  for (int step = 0; step < 24 && plane_through(basis, slope); step++) {
    double most = 1e-11 * (high - low);
    const knot *enter = NULL;
    for (int i = 0; i < count; i++) {
      double excess = knots[i].z - slope[0] * knots[i].x - slope[1] * knots[i].y - slope[2];
      if (excess > most) {
        most = excess;
        enter = &knots[i];
      }
    }
    if (enter == NULL || !exchange(basis, enter))
      return;
  }
}

/* The same where all knots have y = 0 (or x = 0, `along_y`): the highest chord across the origin. */
static double lowest_line(const knot *knots, int count, bool along_y) {
  double highest = -INFINITY, best = 0;
  for (int i = 0; i < count; i++)
    for (int k = 0; k < count; k++) {
      double left = along_y ? knots[i].y : knots[i].x, right = along_y ? knots[k].y : knots[k].x;
      double slope = (knots[k].z - knots[i].z) / (right - left), height = knots[i].z - slope * left;
      if (left <= 0 && right > 0 && height > highest) {
        highest = height;
        best = slope;
      }
    }
  return best;
}

void lowest_slopes(const corners *c, double on_f, double on_d, double *slope_x, double *slope_d) {
  knot knots[MOST_CORNERS];
  double wide_x = 0, wide_d = 0, wide_q = 0, slope[3];
  for (int i = 0; i < c->count; i++) {
    wide_x = fmax(wide_x, fabs(c->x[i] - c->centre_x));
    wide_d = fmax(wide_d, fabs(c->d[i] - c->centre_d));
    wide_q = fmax(wide_q, fabs(c->x[i] + c->d[i] - c->centre_x - c->centre_d));
  }
  /* far more than what rounding makes of a single number */
  bool flat_x = wide_x <= 1e-11 * c->size, flat_d = fmin(wide_d, wide_q) <= 1e-11 * c->size; /* then along x */
  for (int k = 0; k < c->knot_count; k++) {
    int i = c->knot[k];
    knots[k] = (knot){flat_x ? 0 : (c->x[i] - c->centre_x) / wide_x, flat_d ? 0 : (c->d[i] - c->centre_d) / wide_d,
                      (on_f - on_d) * c->f[i] + on_d * c->g[i]};
  }
  if (flat_x || flat_d)
    slope[0] = slope[1] = lowest_line(knots, c->knot_count, flat_x);
  else
    lowest_plane(knots, c->knot_count, slope);
  double limit = 4 * (fabs(on_f) + 2 * fabs(on_d)) * c->steepest; /* steeper ones come from slivers */
  *slope_x = flat_x ? 0 : between(slope[0] / wide_x, -limit, limit);
  *slope_d = flat_d ? 0 : between(slope[1] / wide_d, -limit, limit);
}
