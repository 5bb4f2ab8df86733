/* Linear forms through piecewise linear activations and quantizers: lines and planes of kink.h. */
#include <string.h>

#include "base/error.h"
#include "bound/backward_internal.h"
#include "bound/node_kinks.h"

/* ------------------------------------------------------------------------------------------ preparation of a box */

static qb_interval interval_of(const qb_backward *backward, qb_value_id value, int track, int64_t i) {
  const qb_box_track *t = &backward->box->states[value].track[track];
  return (qb_interval){t->lo[i], t->hi[i]};
}

/* Element i of a kinked node: its functions and where its input lies. */
typedef struct element {
  qb_kink_pair kinks;
  qb_interval x[QB_TRACK_COUNT];
  qb_line f, upper, lower; /* the pieces when stable */
  bool f_stable, g_stable;
  bool is_known[2]; /* x, x' is a single number but for rounding */
  bool nearly;      /* the pieces are those of all but the ends of the intervals */
} element;

static element element_within(const qb_backward *backward, qb_node_id id, int64_t i,
                              const qb_interval x[QB_TRACK_COUNT]) {
  static const qb_kink rectifier = {.lo = 0, .hi = INFINITY};
  element e = {.nearly = false};
  if (backward->nodes[id].is_rectifier)
    e.kinks = (qb_kink_pair){rectifier, rectifier, rectifier};
  else
    e.kinks = qb_node_kinks(backward->pair, id, i, x[QB_TRACK_QUANTIZED]);
  memcpy(e.x, x, sizeof e.x);
  const qb_interval *q = &e.x[QB_TRACK_QUANTIZED];
  e.f_stable = qb_kink_is_linear(&e.kinks.original, e.x[QB_TRACK_ORIGINAL].lo, e.x[QB_TRACK_ORIGINAL].hi, &e.f);
  e.g_stable = qb_kink_is_linear(&e.kinks.upper, q->lo, q->hi, &e.upper);
  e.g_stable = qb_kink_is_linear(&e.kinks.lower, q->lo, q->hi, &e.lower) && e.g_stable;
  return e;
}

static element element_of(const qb_backward *backward, qb_node_id id, int64_t i) {
  qb_value_id x = backward->pair->quantized->nodes[id].inputs[0];
  qb_interval in[QB_TRACK_COUNT];
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    in[track] = interval_of(backward, x, track, i);
  return element_within(backward, id, i, in);
}

/* A kink so near to an end, as a share of the tensor's largest element, counts as outside: ends often lie exactly
 * there, and another evaluation with its own rounding is to find the same elements. */
static const double NEAR = 0x1p-30;

static qb_interval without_ends(qb_interval x, double end) {
  double middle = 0.5 * x.lo + 0.5 * x.hi;
  return x.hi - x.lo > 2 * end ? (qb_interval){x.lo + end, x.hi - end} : (qb_interval){middle, middle};
}

static bool is_point(qb_interval x) { return x.lo == x.hi; }

static double largest_of(const qb_backward *backward, qb_value_id value, int track) {
  double largest = 0;
  for (int64_t i = 0; i < backward->box->states[value].count; i++)
    largest = qb_larger(largest, qb_walk_reach(backward, value, track, i));
  return isfinite(largest) ? largest : 0;
}

/* What underflows is no end either. */
static const double UNDERFLOW = 0x1p-900;

/* Of both networks: where one has nothing but zeros, what rounding makes of them is no measure. */
double qb_walk_near(const qb_backward *backward, qb_value_id value) {
  return NEAR * fmax(largest_of(backward, value, 0), largest_of(backward, value, 1)) + UNDERFLOW;
}

static element element_inside(const qb_backward *backward, qb_node_id id, int64_t i, double end) {
  qb_value_id x = backward->pair->quantized->nodes[id].inputs[0];
  qb_interval in[QB_TRACK_COUNT];
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    in[track] = interval_of(backward, x, track, i);
  for (int track = 0; track < 2; track++)
    in[track] = without_ends(in[track], end);
  return element_within(backward, id, i, in);
}

static void note_known(element *e, double end) {
  double step = NEAR * fabs(e->kinks.upper.shift);
  for (int track = 0; track < 2; track++)
    e->is_known[track] = e->x[track].hi - e->x[track].lo <= 2 * end + step;
}

/* The element with its pieces; those of the shortened intervals where it is linear there. Whether it is linear is
 * asked there, too, as the codes at the ends of a quantizer's interval make its pieces. */
static element classify(const qb_backward *backward, qb_node_id id, int64_t i, double end) {
  element e = element_of(backward, id, i);
  bool stable = e.f_stable && e.g_stable;
  note_known(&e, end);
  if (stable && !e.is_known[0] && !e.is_known[1] && e.kinks.upper.shift == 0)
    return e;
  element inside = element_inside(backward, id, i, end);
  e.f_stable = inside.f_stable || e.is_known[0];
  e.g_stable = inside.g_stable || e.is_known[1];
  e.nearly = e.f_stable && e.g_stable &&
             (!stable || e.is_known[0] || e.is_known[1] || inside.f.slope != e.f.slope ||
              inside.upper.slope != e.upper.slope || inside.lower.slope != e.lower.slope);
  if (e.nearly) {
    e.f = inside.f;
    e.upper = inside.upper;
    e.lower = inside.lower;
  }
  return e;
}

/* A plane above one element times +1 or -1, with what its rounding is relative to. */
typedef struct relaxed {
  double a, d, constant;
  double reach; /* >= |a| max|x| + |d| max|x' - x| + |constant| */
} relaxed;

static relaxed relax(double a, double d, double constant, const double reach[2]) {
  return (relaxed){a, d, constant,
                   fabs(a) * (a == 0 ? 0 : reach[0]) + fabs(d) * (d == 0 ? 0 : reach[1]) + fabs(constant)};
}

/* The interval of the output, where no plane is known. */
static relaxed constant_above(const qb_backward *backward, qb_node_id id, int track, int64_t i, double sign) {
  qb_interval y = interval_of(backward, backward->pair->quantized->nodes[id].output, track, i);
  double top = sign > 0 ? y.hi : -y.lo;
  return (relaxed){0, 0, top, fabs(top)};
}

static relaxed line_above(const qb_backward *backward, qb_node_id id, int track, int64_t i, const element *e,
                          double sign) {
  const qb_kink *kink = track == QB_TRACK_ORIGINAL ? &e->kinks.original : sign > 0 ? &e->kinks.upper : &e->kinks.lower;
  double reach[2] = {qb_interval_magnitude(e->x[track]), 0};
  qb_line line = {0, INFINITY};
  if (isfinite(reach[0]))
    line = e->is_known[track] ? qb_kink_level(kink, e->x[track], sign) : qb_kink_line(kink, e->x[track], sign);
  return isfinite(line.constant) ? relax(line.slope, 0, line.constant, reach)
                                 : constant_above(backward, id, track, i, sign);
}

/* sign (g(a + d) - f(a)) where both are linear: (sg - sf) a + sg d + (cg - cf). */
static relaxed stable_plane(const element *e, double sign) {
  double reach[2] = {qb_interval_magnitude(e->x[QB_TRACK_ORIGINAL]), qb_interval_magnitude(e->x[QB_TRACK_DIFFERENCE])};
  const qb_line *g = sign > 0 ? &e->upper : &e->lower;
  double constant = sign * g->constant - sign * e->f.constant, slope = g->slope - e->f.slope;
  constant = constant == 0 ? 0 : qb_up(constant);
  if (slope != 0 && fabs(slope) != 1) /* the difference of two slopes may be rounded */
    constant = qb_up(constant + DBL_EPSILON * fabs(slope) * reach[0]);
  return relax(sign * slope, sign * g->slope, constant, reach);
}

/* With the slopes of the pieces, above all corners, and without a slope along what is known: of a x + d (x' - x), a is
 * the slope along x where x' is known, d along x' where x is. */
static relaxed nearly_stable_plane(const qb_backward *backward, qb_node_id id, int64_t i, const element *e,
                                   double sign) {
  double reach[2] = {qb_interval_magnitude(e->x[QB_TRACK_ORIGINAL]), qb_interval_magnitude(e->x[QB_TRACK_DIFFERENCE])};
  const qb_line *g = sign > 0 ? &e->upper : &e->lower;
  double on_g = e->is_known[1] ? 0 : g->slope, on_a = e->is_known[0] ? 0 : on_g - e->f.slope;
  qb_corners corners;
  if (!qb_kink_corners(&e->kinks.original, sign > 0 ? &e->kinks.upper : &e->kinks.lower, e->x[QB_TRACK_ORIGINAL],
                       e->x[QB_TRACK_QUANTIZED], e->x[QB_TRACK_DIFFERENCE], &corners))
    return constant_above(backward, id, QB_TRACK_DIFFERENCE, i, sign);
  qb_plane plane = qb_kink_plane_with(&corners, 0, sign, sign * on_a, sign * on_g);
  return relax(plane.a, plane.d, plane.constant, reach);
}

static relaxed plane_above(const qb_backward *backward, qb_node_id id, int64_t i, const element *e,
                           const qb_corners *corners, double sign) {
  double reach[2] = {qb_interval_magnitude(e->x[QB_TRACK_ORIGINAL]), qb_interval_magnitude(e->x[QB_TRACK_DIFFERENCE])};
  if (corners->count == 0)
    return constant_above(backward, id, QB_TRACK_DIFFERENCE, i, sign);
  qb_plane plane = qb_kink_plane(corners, 0, sign);
  return relax(plane.a, plane.d, plane.constant, reach);
}

static bool new_planes(qb_backward *backward, int64_t n, qb_dense_planes *planes) {
  bool enough = true;
  for (int sign = 0; sign < 2; sign++)
    for (int k = 0; k < 4; k++) {
      double **array = k == 0 ? planes->a : k == 1 ? planes->d : k == 2 ? planes->constant : planes->reach;
      array[sign] = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof(double));
      enough = enough && array[sign] != NULL;
    }
  return enough;
}

static void store(const relaxed *plane, int sign, int64_t i, qb_dense_planes *planes) {
  planes->a[sign][i] = plane->a;
  planes->d[sign][i] = plane->d;
  planes->constant[sign][i] = plane->constant;
  planes->reach[sign][i] = plane->reach;
}

static qb_status allocate_planes(qb_backward *backward, qb_node_id id, int64_t n, double end, qb_error *error) {
  qb_backward_node *data = &backward->nodes[id];
  bool enough = true;
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    enough = enough && new_planes(backward, n, &data->relaxed[track]);
  data->unstable = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof(int32_t));
  data->unstable_count = 0;
  for (int64_t i = 0; data->unstable != NULL && i < n; i++) {
    element e = classify(backward, id, i, end);
    if (!e.nearly && (!e.f_stable || !e.g_stable))
      data->unstable[data->unstable_count++] = (int32_t)i;
  }
  for (int sign = 0; sign < 2; sign++) {
    data->corners[sign] = qb_arena_alloc(&backward->box_arena, (size_t)data->unstable_count, sizeof(qb_corners));
    enough = enough && data->corners[sign] != NULL;
  }
  return enough && data->unstable != NULL
             ? QB_OK
             : qb_fail_memory(error, backward->pair->quantized->nodes[id].name, (size_t)n * 6 * sizeof(relaxed));
}

/* Corners where they are needed, and the planes of the difference. */
static void prepare_unstable(qb_backward *backward, qb_node_id id, int64_t i, const element *e,
                             qb_corners *corners[2]) {
  int swap = qb_backward_fault_planted == QB_BACKWARD_FAULT_SWAPPED_SIGNS;
  for (int k = 0; k < 2; k++) {
    if (k == 1 && backward->nodes[id].is_rectifier)
      *corners[1] = *corners[0];
    else if (!qb_kink_corners(&e->kinks.original, k == 0 ? &e->kinks.upper : &e->kinks.lower, e->x[QB_TRACK_ORIGINAL],
                              e->x[QB_TRACK_QUANTIZED], e->x[QB_TRACK_DIFFERENCE], corners[k]))
      corners[k]->count = 0;
    relaxed plane = plane_above(backward, id, i, e, corners[k], k == 0 ? 1 : -1);
    store(&plane, k ^ swap, i, &backward->nodes[id].relaxed[QB_TRACK_DIFFERENCE]);
  }
}

qb_status qb_backward_prepare_kinked(qb_backward *backward, qb_node_id id, qb_error *error) {
  qb_backward_node *data = &backward->nodes[id];
  int64_t n = backward->box->states[backward->pair->quantized->nodes[id].output].count;
  int swap = qb_backward_fault_planted == QB_BACKWARD_FAULT_SWAPPED_SIGNS;
  int32_t next = 0;
  double end = qb_walk_near(backward, backward->pair->quantized->nodes[id].inputs[0]);
  QB_TRY(allocate_planes(backward, id, n, end, error));
  for (int64_t i = 0; i < n; i++) {
    element e = classify(backward, id, i, end);
    bool unstable = next < data->unstable_count && data->unstable[next] == i;
    for (int k = 0; k < 2; k++) {
      double sign = k == 0 ? 1 : -1;
      for (int track = 0; track < QB_TRACK_DIFFERENCE; track++) {
        relaxed line = line_above(backward, id, track, i, &e, sign);
        store(&line, k ^ swap, i, &data->relaxed[track]);
      }
      relaxed plane = unstable   ? (relaxed){0}
                      : e.nearly ? nearly_stable_plane(backward, id, i, &e, sign)
                                 : stable_plane(&e, sign);
      if (!unstable)
        store(&plane, k, i, &data->relaxed[QB_TRACK_DIFFERENCE]);
    }
    if (unstable) {
      prepare_unstable(backward, id, i, &e, (qb_corners *[2]){&data->corners[0][next], &data->corners[1][next]});
      next++;
    }
  }
  return QB_OK;
}

void qb_backward_mark_alive(const qb_backward_node *data, int64_t n, bool constants, bool *alive) {
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    for (int sign = 0; sign < 2; sign++) {
      const double *a = data->relaxed[track].a[sign], *d = data->relaxed[track].d[sign];
      const double *k = data->relaxed[track].constant[sign], *reach = data->relaxed[track].reach[sign];
      for (int64_t i = 0; i < n; i++)
        alive[i] = alive[i] || a[i] != 0 || d[i] != 0 || (constants && (k[i] != 0 || reach[i] != 0));
    }
  for (int32_t k = 0; k < data->unstable_count; k++)
    alive[data->unstable[k]] = true;
}

static qb_slopes slopes_of(const qb_backward_node *data, qb_node_id id, int64_t i) {
  const qb_dense_planes *moved = &data->relaxed[QB_TRACK_DIFFERENCE];
  qb_slopes s = {id, i, {0, 0, 0, 0, moved->a[0][i], moved->d[0][i], moved->a[1][i], moved->d[1][i]}};
  for (int k = 0; k < 4; k++)
    s.slope[k] = data->relaxed[k / 2].a[k % 2][i];
  return s;
}

int64_t qb_backward_slopes(const qb_backward *backward, qb_slopes *list) {
  int64_t count = 0;
  for (qb_node_id id = 0; id < backward->pair->quantized->node_count; id++) {
    const qb_backward_node *data = &backward->nodes[id];
    for (int32_t k = 0; data->is_kinked && data->ready && k < data->unstable_count; k++, count++)
      if (list != NULL)
        list[count] = slopes_of(data, id, data->unstable[k]);
  }
  return count;
}

int64_t qb_backward_unstable(const qb_backward *backward, qb_value_id value, int64_t *element_ids) {
  int64_t count = 0;
  double end = qb_walk_near(backward, value);
  for (int64_t i = 0; i < backward->box->states[value].count; i++) {
    bool unstable = false;
    for (int32_t k = 0; k < backward->reader_count[value] && !unstable; k++) {
      element e = element_inside(backward, backward->readers[value][k], i, end);
      unstable =
          (!e.f_stable && !is_point(e.x[QB_TRACK_ORIGINAL])) || (!e.g_stable && !is_point(e.x[QB_TRACK_QUANTIZED]));
    }
    if (unstable)
      element_ids[count++] = i;
  }
  return count;
}

/* ------------------------------------------------------------------------------------------------------- the walk */

/* One row; the outputs may be NULL where a part is absent. */
typedef struct row_view {
  double *a, *d;       /* over the output; what was substituted becomes zero */
  double *to_a, *to_d; /* over the input */
  double constant, lost;
} row_view;

/* The plane above A y + D (y' - y) of an unstable element as a whole, lowest near `at` or, without it, at the centre.
 */
static void apply_joint(row_view *row, int64_t i, const qb_corners *corners, const double *at, const double reach[2]) {
  double a = row->a == NULL ? 0 : row->a[i], d = row->d[i];
  qb_plane plane = at == NULL ? qb_kink_plane(corners, a, d) : qb_kink_plane_near(corners, a, d, at);
  if (at != NULL && qb_backward_fault_planted == QB_BACKWARD_FAULT_TANGENT)
    plane.constant = qb_kink_plane(corners, a, d).constant;
  relaxed joint = relax(plane.a, plane.d, plane.constant, reach);
  row->to_a[i] += joint.a;
  row->to_d[i] += joint.d;
  row->constant += joint.constant;
  row->lost += joint.reach;
  row->d[i] = 0;
  if (row->a != NULL)
    row->a[i] = 0;
}

/* Elements that need both parts; with a point of its own for the planes of the row, all that are unstable. */
static void substitute_joint(const qb_walk *walk, qb_node_id id, int64_t r, row_view *row) {
  const qb_backward_node *data = &walk->backward->nodes[id];
  qb_value_id x = walk->backward->pair->quantized->nodes[id].inputs[0];
  const qb_walk_points *point = walk->points;
  int64_t first = r * walk->backward->box->states[x].count;
  for (int32_t k = 0; k < data->unstable_count; k++) {
    int64_t i = data->unstable[k];
    double a = row->a == NULL ? 0 : row->a[i], d = row->d[i], at[2];
    const qb_corners *corners = &data->corners[d < 0][k];
    if (corners->count == 0 || (point == NULL ? a == 0 || d == 0 : a == 0 && d == 0))
      continue;
    for (int part = 0; part < 2 && point != NULL; part++)
      at[part] = point->at[part][x][first + i];
    double reach[2] = {qb_walk_reach(walk->backward, x, QB_TRACK_ORIGINAL, i),
                       qb_walk_reach(walk->backward, x, QB_TRACK_DIFFERENCE, i)};
    apply_joint(row, i, corners, point == NULL ? NULL : at, reach);
  }
}

static void substitute_row(const qb_walk *walk, qb_node_id id, int64_t r, row_view *row) {
  const qb_backward_node *data = &walk->backward->nodes[id];
  int64_t n = walk->backward->box->states[walk->backward->pair->quantized->nodes[id].inputs[0]].count;
  if (walk->joint && row->d != NULL && (row->a != NULL || walk->points != NULL))
    substitute_joint(walk, id, r, row);
  if (row->a != NULL)
    qb_dense_substitute(n, row->a, &data->relaxed[qb_walk_track(walk, 0)], row->to_a, NULL, &row->constant, &row->lost);
  if (row->d != NULL)
    qb_dense_substitute(n, row->d, &data->relaxed[QB_TRACK_DIFFERENCE], row->to_a, row->to_d, &row->constant,
                        &row->lost);
}

/* What the planes of an undecided element are away from the function, about: for a rectifier the height of the triangle
 * over its interval, which the difference behind it pays for more than once, for the difference its size. A guess,
 * which only chooses cuts. */
static double gap_of(const qb_walk *walk, qb_value_id x, const double *a, const double *d, int64_t i) {
  const qb_box_track *t = &walk->backward->box->states[x].track[qb_walk_track(walk, 0)];
  double width = t->hi[i] - t->lo[i], triangle = width > 0 ? fmax(0, -t->lo[i] * t->hi[i] / width) : 0;
  return (a == NULL ? 0 : 4 * fabs(a[i]) * triangle) +
         (d == NULL ? 0 : fabs(d[i]) * qb_walk_reach(walk->backward, x, QB_TRACK_DIFFERENCE, i));
}

static void add_score(const qb_walk *walk, qb_node_id id, const double *a, const double *d) {
  const qb_backward_node *data = &walk->backward->nodes[id];
  qb_value_id x = walk->backward->pair->quantized->nodes[id].inputs[0];
  for (int32_t k = 0; k < data->unstable_count && walk->score[x] != NULL; k++)
    walk->score[x][data->unstable[k]] += gap_of(walk, x, a, d, data->unstable[k]);
}

static void add_influence(const qb_walk *walk, qb_node_id id, const double *a, const double *d) {
  const qb_backward *backward = walk->backward;
  const qb_backward_node *data = &backward->nodes[id];
  qb_value_id x = backward->pair->quantized->nodes[id].inputs[0];
  int64_t inputs = backward->box->states[backward->pair->quantized->inputs[0]].count;
  for (int32_t k = 0; k < data->unstable_count; k++) {
    int64_t i = data->unstable[k];
    const double *smear = backward->smear[x] + i * inputs;
    double gap = gap_of(walk, x, a, d, i);
    for (int64_t j = 0; j < inputs; j++)
      walk->influence[j] += gap * smear[j];
  }
}

qb_status qb_walk_kinked(qb_walk *walk, qb_node_id id) {
  const qb_node *node = &walk->backward->pair->quantized->nodes[id];
  qb_value_id x = node->inputs[0], y = node->output;
  int64_t n = walk->backward->box->states[x].count;
  double *to_a = qb_walk_target(walk, x, 0, 8), *to_d = NULL;
  if (walk->coefficient[1][y] != NULL)
    to_d = qb_walk_target(walk, x, 1, 8);
  if (to_a == NULL || (to_d == NULL && walk->coefficient[1][y] != NULL))
    return qb_fail_memory(walk->error, node->name, (size_t)(walk->rows * n) * sizeof *to_a);
  double gamma = qb_gamma(2 * n + 16) * 1.01;
  for (int64_t r = 0; r < walk->rows; r++) {
    double *a = walk->coefficient[0][y], *d = walk->coefficient[1][y];
    row_view row = {.a = a == NULL ? NULL : a + r * n,
                    .d = d == NULL ? NULL : d + r * n,
                    .to_a = to_a + r * n,
                    .to_d = to_d == NULL ? NULL : to_d + r * n};
    if (walk->influence != NULL && walk->backward->smear[x] != NULL)
      add_influence(walk, id, row.a, row.d);
    if (walk->score != NULL)
      add_score(walk, id, row.a, row.d);
    substitute_row(walk, id, r, &row);
    walk->lost[r] += gamma * row.lost + DBL_MIN;
    qb_walk_add_constant(walk, r, row.constant);
  }
  return QB_OK;
}
