/* The walk of forms back to the input, layers and activations; see check_backward.h. */
#include "check/check_backward.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "check/check_cut.h"
#include "check/check_map.h"

enum { BLOCK = 16 };

/* --------------------------------------------------------------------------------------------------- preparation */

static double at_or_zero(const float *data, int64_t i) { return data == NULL ? 0 : (double)data[i]; }

/* W' - W is off by a unit of itself, which the units of its products count. */
static qb_status prepare_layer(back_pair *b, qb_node_id id, qb_error *error) {
  const qb_pair *pair = b->pair;
  back_layer *l = &b->layers[id];
  qb_linear other;
  l->linear.node = QB_NONE;
  if (pair->partner[id] == QB_NONE || !qb_graph_linear(pair->quantized, id, &l->linear) ||
      !qb_graph_linear(pair->original, pair->partner[id], &other))
    return QB_OK;
  const float *w_q = qb_graph_constant(pair->quantized, l->linear.weight),
              *b_q = qb_graph_constant(pair->quantized, l->linear.bias);
  const float *w = qb_graph_constant(pair->original, other.weight),
              *bias = qb_graph_constant(pair->original, other.bias);
  int64_t weights = (int64_t)qb_shape_elements(&pair->quantized->values[l->linear.weight].shape);
  for (int k = 0; k < LAYER_KINDS; k++) {
    l->weight[k] = qb_arena_alloc(&b->arena, (size_t)weights, sizeof(double));
    l->bias[k] = qb_arena_alloc(&b->arena, (size_t)l->linear.out_channels, sizeof(double));
    if (l->weight[k] == NULL || l->bias[k] == NULL)
      return qb_fail_memory(error, "weights", (size_t)weights * sizeof(double));
  }
  for (int64_t i = 0; i < weights; i++) {
    l->weight[LAYER_W][i] = (double)w[i];
    l->weight[LAYER_W_Q][i] = (double)w_q[i];
    l->weight[LAYER_MOVED][i] = (double)w_q[i] - (double)w[i];
  }
  for (int64_t i = 0; i < l->linear.out_channels; i++) {
    l->bias[LAYER_W][i] = at_or_zero(bias, i);
    l->bias[LAYER_W_Q][i] = at_or_zero(b_q, i);
    l->bias[LAYER_MOVED][i] = at_or_zero(b_q, i) - at_or_zero(bias, i);
  }
  return QB_OK;
}

qb_status back_pair_make(const qb_pair *pair, back_pair *b, qb_error *error) {
  size_t nodes = (size_t)pair->quantized->node_count;
  *b = (back_pair){.pair = pair};
  qb_arena_init(&b->arena);
  b->layers = qb_arena_alloc(&b->arena, nodes, sizeof *b->layers);
  b->bent = qb_arena_alloc(&b->arena, nodes, sizeof *b->bent);
  if (b->layers == NULL || b->bent == NULL)
    return qb_fail_memory(error, "layers", nodes * sizeof *b->layers);
  for (qb_node_id id = 0; id < pair->quantized->node_count; id++) {
    if (pair->value[pair->quantized->nodes[id].output] == QB_NONE) {
      b->layers[id].linear.node = QB_NONE;
      continue;
    }
    b->bent[id] = node_is_bent(pair, id);
    QB_TRY(prepare_layer(b, id, error));
  }
  return QB_OK;
}

void back_pair_free(back_pair *b) { qb_arena_free(&b->arena); }

qb_status back_box_begin(const back_pair *pair, walk *ranges, const slope_claim *slopes, int64_t slope_count,
                         back_box *box, qb_error *error) {
  size_t nodes = (size_t)pair->pair->quantized->node_count;
  *box = (back_box){.pair = pair, .ranges = ranges, .slopes = slopes, .slope_count = slope_count};
  qb_arena_init(&box->arena);
  box->nodes = qb_arena_alloc(&box->arena, nodes, sizeof *box->nodes);
  return box->nodes == NULL ? qb_fail_memory(error, "a box", nodes * sizeof *box->nodes) : QB_OK;
}

void back_box_free(back_box *box) { qb_arena_free(&box->arena); }

/* ----------------------------------------------------------------------------------------- what a node needs, layers
 */

static double size_of(const walk *ranges, qb_value_id value, int kind, int64_t i) {
  const triple *t = &ranges->values[value].at[i];
  return range_size(kind == FORM_X ? t->x : kind == FORM_Q ? t->q : t->d);
}

/* reach += |W| size + |bias| with one kind of weights (or without a bias). */
static qb_status add_reach(back_box *box, qb_node_id id, int weights, int kind, bool bias, double *reach,
                           qb_error *error) {
  const qb_graph *graph = box->pair->pair->quantized;
  const back_layer *l = &box->pair->layers[id];
  const qb_node *node = &graph->nodes[id];
  map m = map_of(graph, &l->linear, 1);
  int64_t count = (int64_t)qb_shape_elements(&graph->values[l->linear.weight].shape);
  int64_t inputs = box->ranges->values[node->inputs[0]].count, outputs = box->ranges->values[node->output].count;
  double *w = qb_alloc((size_t)count, sizeof *w), *x = qb_alloc((size_t)inputs, sizeof *x);
  qb_status status = w == NULL || x == NULL ? qb_fail_memory(error, node->name, (size_t)count * sizeof *w) : QB_OK;
  for (int64_t i = 0; status == QB_OK && i < count; i++)
    w[i] = fabs(l->weight[weights][i]);
  for (int64_t i = 0; status == QB_OK && i < inputs; i++)
    x[i] = size_of(box->ranges, node->inputs[0], kind, i);
  bool transposed = node->op == QB_OP_CONV_TRANSPOSE;
  if (status == QB_OK)
    apply_map(&m, transposed, w, x, reach);
  for (int64_t i = 0; status == QB_OK && bias && i < outputs; i++)
    reach[i] += fabs(l->bias[weights][map_channel(&m, transposed, i)]);
  qb_free(w);
  qb_free(x);
  return status;
}

static qb_status prepare_reach(back_box *box, qb_node_id id, qb_error *error) {
  back_node *n = &box->nodes[id];
  int64_t outputs = box->ranges->values[box->pair->pair->quantized->nodes[id].output].count;
  for (int kind = 0; kind < FORM_KINDS; kind++) {
    n->reach[kind] = qb_arena_alloc(&box->arena, (size_t)outputs, sizeof(double));
    if (n->reach[kind] == NULL)
      return qb_fail_memory(error, "a layer", (size_t)outputs * sizeof(double));
  }
  QB_TRY(add_reach(box, id, LAYER_W, FORM_X, true, n->reach[FORM_X], error));
  QB_TRY(add_reach(box, id, LAYER_W_Q, FORM_Q, true, n->reach[FORM_Q], error));
  QB_TRY(add_reach(box, id, LAYER_MOVED, FORM_X, true, n->reach[FORM_D], error));
  return add_reach(box, id, LAYER_W_Q, FORM_D, false, n->reach[FORM_D], error);
}

/* -------------------------------------------------------------------------------------- what a node needs, activations
 */

/* One element of an activation: its functions and what is known in front of it. */
typedef struct element {
  bends b;
  triple in, out;
  double slope[3], constant[3]; /* of f, up, down where they are straight */
  bool f_decided, q_decided, decided;
  bool fixed[2];  /* x, q is one number but for rounding */
  bool nearly;    /* not decided, but straight on all but the ends of the ranges... */
  double most[3]; /* ...with these slopes there */
} element;

static element element_in(const back_box *box, qb_node_id id, int64_t i, triple in) {
  element e = {.in = in};
  e.b = bends_of(box->pair->pair, id, i, e.in.q);
  bool f = bend_is_straight(&e.b.f, e.in.x, &e.slope[0], &e.constant[0]);
  bool up = bend_is_straight(&e.b.up, e.in.q, &e.slope[1], &e.constant[1]);
  bool down = bend_is_straight(&e.b.down, e.in.q, &e.slope[2], &e.constant[2]);
  e.f_decided = f;
  e.q_decided = up && down;
  e.decided = f && up && down;
  return e;
}

static element element_of(const back_box *box, qb_node_id id, int64_t i) {
  const qb_node *node = &box->pair->pair->quantized->nodes[id];
  return element_in(box, id, i, box->ranges->values[node->inputs[0]].at[i]);
}

/* A range less its ends. */
static range shortened(range r, double end) {
  return r.hi - r.lo > 2 * end ? (range){r.lo + end, r.hi - end} : point(0.5 * r.lo + 0.5 * r.hi);
}

double near_of(const cells *x) {
  double largest[2] = {0, 0};
  for (int64_t i = 0; i < x->count; i++) {
    largest[0] = fmax(largest[0], range_size(x->at[i].x));
    largest[1] = fmax(largest[1], range_size(x->at[i].q));
  }
  for (int k = 0; k < 2; k++)
    largest[k] = isfinite(largest[k]) ? largest[k] : 0;
  return 0x1p-30 * fmax(largest[0], largest[1]) + 0x1p-900; /* nor on what underflows */
}

/* Points leave nothing open. */
static bool leaves_undecided(const back_box *box, qb_node_id id, int64_t i, triple t) {
  element e = element_in(box, id, i, t);
  return (!e.f_decided && t.x.lo < t.x.hi) || (!e.q_decided && t.q.lo < t.q.hi);
}

int64_t undecided_of(const back_box *box, qb_value_id value, int64_t *list) {
  const qb_graph *graph = box->pair->pair->quantized;
  const cells *x = &box->ranges->values[value];
  double end = near_of(x);
  int64_t count = 0;
  for (int64_t i = 0; i < x->count; i++) {
    triple t = {shortened(x->at[i].x, end), shortened(x->at[i].q, end), x->at[i].d};
    bool undecided = false;
    for (qb_node_id id = 0; !undecided && id < graph->node_count; id++)
      if (box->pair->bent[id] && graph->nodes[id].inputs[0] == value)
        undecided = leaves_undecided(box, id, i, t);
    if (undecided)
      list[count++] = i;
  }
  return count;
}

static int compare_claims(const void *a, const void *b) {
  const slope_claim *one = a, *two = b;
  if (one->node != two->node)
    return one->node < two->node ? -1 : 1;
  return (one->element > two->element) - (one->element < two->element);
}

static const double *claimed_slopes(const back_box *box, qb_node_id id, int64_t i) {
  slope_claim key = {.node = id, .element = i};
  const slope_claim *found =
      box->slope_count == 0 ? NULL : bsearch(&key, box->slopes, (size_t)box->slope_count, sizeof key, compare_claims);
  return found == NULL ? NULL : found->slope;
}

static plane range_above(range y, double sign) { return (plane){0, 0, sign > 0 ? y.hi : -y.lo}; }

/* Above sign y or sign y' over x or q alone. */
static plane line_above(const element *e, int kind, double sign, const triple *out, const double *claimed) {
  const bend *b = kind == FORM_X ? &e->b.f : sign > 0 ? &e->b.up : &e->b.down;
  range x = kind == FORM_X ? e->in.x : e->in.q;
  int piece = kind == FORM_X ? 0 : sign > 0 ? 1 : 2;
  double slope, constant;
  if (!isfinite(x.lo) || !isfinite(x.hi))
    return range_above(kind == FORM_X ? out->x : out->q, sign);
  if (e->fixed[kind])
    return (plane){0, 0, line_constant(b, x, sign, 0)};
  if (bend_is_straight(b, x, &slope, &constant))
    return (plane){sign * e->slope[piece], 0, sign * e->constant[piece]};
  slope = claimed != NULL ? claimed[2 * kind + (sign < 0)] : line_slope(b, x, sign);
  return (plane){slope, 0, line_constant(b, x, sign, slope)};
}

/* sign (y' - y) where nothing is bent: (sg - sf) x + sg d + cg - cf. */
static plane moved_above(const element *e, double sign) {
  int g = sign > 0 ? 1 : 2;
  double slope = e->slope[g] - e->slope[0], constant = add_up(sign * e->constant[g], -sign * e->constant[0]);
  if (slope != 0 && fabs(slope) != 1) /* may be rounded */
    constant = add_up(constant, mul_up(0x1p-52 * fabs(slope), range_size(e->in.x)));
  return (plane){sign * slope, sign * e->slope[g], constant};
}

static element classify(const back_box *box, qb_node_id id, int64_t i, double end) {
  element e = element_of(box, id, i);
  triple inside = {shortened(e.in.x, end), shortened(e.in.q, end), e.in.d};
  double near = 2 * end + 0x1p-30 * fabs(e.b.up.shift);
  e.fixed[0] = e.in.x.hi - e.in.x.lo <= near;
  e.fixed[1] = e.in.q.hi - e.in.q.lo <= near;
  /* codes at the ends make the pieces of a quantizer: it is asked inside, whatever it is on the whole */
  element most = element_in(box, id, i, inside);
  bool settled = (most.f_decided || e.fixed[0]) && (most.q_decided || e.fixed[1]);
  e.decided = e.decided && settled && !e.fixed[0] && !e.fixed[1] && memcmp(e.slope, most.slope, sizeof e.slope) == 0;
  e.nearly = settled && !e.decided;
  memcpy(e.most, most.slope, sizeof e.most);
  return e;
}

/* With the slopes of the pieces, above all corners; none along x or q where that is fixed. */
static plane nearly_moved_above(const element *e, range out, double sign) {
  double g = e->fixed[1] ? 0 : e->most[sign > 0 ? 1 : 2], x = e->fixed[0] ? 0 : g - e->most[0];
  corners c;
  if (!corners_find(&e->b.f, sign > 0 ? &e->b.up : &e->b.down, &e->in, &c))
    return range_above(out, sign);
  return plane_above(&c, 0, sign, sign * x, sign * g);
}

static void prepare_element(back_box *box, qb_node_id id, int64_t i, double end, const triple *out) {
  back_node *n = &box->nodes[id];
  element e = classify(box, id, i, end);
  const double *claimed = e.decided || e.nearly ? NULL : claimed_slopes(box, id, i);
  for (int side = 0; side < 2; side++) {
    double sign = side == 0 ? 1 : -1, slope[2];
    for (int kind = 0; kind < FORM_D; kind++)
      n->line[kind][side][i] = line_above(&e, kind, sign, out, claimed);
    if (e.decided) {
      n->moved[side][i] = moved_above(&e, sign);
      continue;
    }
    if (e.nearly) {
      n->moved[side][i] = nearly_moved_above(&e, out->d, sign);
      continue;
    }
    corners *c = &n->corners[side][n->undecided[i]];
    if (!corners_find(&e.b.f, side == 0 ? &e.b.up : &e.b.down, &e.in, c)) {
      c->count = 0;
      n->moved[side][i] = range_above(out->d, sign);
      continue;
    }
    lowest_slopes(c, 0, sign, &slope[0], &slope[1]);
    if (claimed != NULL)
      memcpy(slope, claimed + 4 + 2 * side, sizeof slope);
    n->moved[side][i] = plane_above(c, 0, sign, slope[0], slope[1]);
  }
}

static qb_status prepare_planes(back_box *box, qb_node_id id, qb_error *error) {
  back_node *n = &box->nodes[id];
  const cells *y = &box->ranges->values[box->pair->pair->quantized->nodes[id].output];
  double end = near_of(&box->ranges->values[box->pair->pair->quantized->nodes[id].inputs[0]]);
  int32_t undecided = 0;
  bool enough = (n->undecided = qb_arena_alloc(&box->arena, (size_t)y->count, sizeof *n->undecided)) != NULL;
  for (int64_t i = 0; enough && i < y->count; i++) {
    element e = classify(box, id, i, end);
    n->undecided[i] = e.decided || e.nearly ? -1 : undecided++;
  }
  for (int side = 0; side < 2; side++) {
    for (int kind = 0; kind < FORM_D; kind++)
      enough = (n->line[kind][side] = qb_arena_alloc(&box->arena, (size_t)y->count, sizeof(plane))) != NULL && enough;
    enough = (n->moved[side] = qb_arena_alloc(&box->arena, (size_t)y->count, sizeof(plane))) != NULL && enough;
    n->corners[side] = qb_arena_alloc(&box->arena, (size_t)undecided, sizeof(corners));
    enough = enough && n->corners[side] != NULL;
  }
  if (!enough)
    return qb_fail_memory(error, "planes", (size_t)y->count * 6 * sizeof(plane));
#pragma omp parallel for schedule(static) if (!omp_in_parallel())
  for (int64_t i = 0; i < y->count; i++)
    prepare_element(box, id, i, end, &y->at[i]);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- the walk */

static int kind_of(const carried *c, int part) { return part == 1 ? FORM_D : c->kind == FORM_Q ? FORM_Q : FORM_X; }

double carried_reach(const carried *c, qb_value_id value, int part, int64_t i) {
  return size_of(c->box->ranges, value, kind_of(c, part), i);
}

void settle(carried *c, int64_t row, const tally *t) {
  c->constant[row] += t->sum;
  c->lost[row] +=
      1.01 * (rounding_of((double)t->terms + 32) * t->size + t->lost) + 0x1p-52 * fabs(c->constant[row]) + DBL_MIN;
}

double *carry_to(carried *c, qb_value_id value, int part, int64_t terms, bool *fresh) {
  int64_t n = c->box->ranges->values[value].count;
  double *coefficients = c->at[part][value];
  *fresh = coefficients == NULL;
  if (*fresh)
    return c->at[part][value] = qb_alloc((size_t)(c->rows * n), sizeof *coefficients);
  for (int64_t r = 0; r < c->rows; r++) {
    tally t = {.terms = terms};
    for (int64_t i = 0; i < n; i++)
      if (coefficients[r * n + i] != 0)
        t.size += fabs(coefficients[r * n + i]) * carried_reach(c, value, part, i);
    settle(c, r, &t);
  }
  return coefficients;
}

/* Constants of a layer and what its sums lose: every coefficient over the input is a sum of at most `terms`. */
static void settle_layer(carried *c, const map *m, bool transposed, const double *rows, const double *bias,
                         const double *reach, int64_t outputs, int64_t terms) {
  for (int64_t r = 0; r < c->rows; r++) {
    tally t = {.terms = terms};
    for (int64_t i = 0; i < outputs; i++) {
      double factor = rows[r * outputs + i];
      if (factor == 0)
        continue;
      t.sum += factor * bias[map_channel(m, transposed, i)];
      t.size += fabs(factor) * reach[i];
    }
    t.terms += outputs;
    settle(c, r, &t);
  }
}

/* Both networks have the same values there, but for the smallest numbers: *most is the largest difference. */
static bool is_still(const carried *c, qb_value_id value, double *most) {
  const cells *x = &c->box->ranges->values[value];
  double largest = 0;
  *most = 0;
  for (int64_t i = 0; i < x->count; i++) {
    *most = fmax(*most, range_size(x->at[i].d));
    largest = fmax(largest, range_size(x->at[i].x));
  }
  return *most <= 0x1p-200 * largest;
}

/* Forms over the output that leave out what W' makes of differences up to `most`. */
static void leave_still(carried *c, const back_layer *l, qb_node_id id, double most) {
  const qb_graph *graph = c->box->pair->pair->quantized;
  qb_value_id y = graph->nodes[id].output;
  int64_t count = c->box->ranges->values[y].count,
          weights = (int64_t)qb_shape_elements(&graph->values[l->linear.weight].shape);
  double all = 0;
  for (int64_t i = 0; i < weights; i++)
    all += fabs(l->weight[LAYER_W_Q][i]); /* no element of the output has more */
  for (int64_t r = 0; r < c->rows && most > 0; r++)
    for (int64_t i = 0; i < count; i++)
      c->lost[r] += 1.01 * fabs(c->at[1][y][r * count + i]) * (all * most);
}

static qb_status carry_layer(carried *c, qb_node_id id) {
  const qb_graph *graph = c->box->pair->pair->quantized;
  const back_layer *l = &c->box->pair->layers[id];
  const back_node *n = &c->box->nodes[id];
  qb_value_id x = graph->nodes[id].inputs[0], y = graph->nodes[id].output;
  map m = map_of(graph, &l->linear, c->rows);
  bool transposed = graph->nodes[id].op == QB_OP_CONV_TRANSPOSE, fresh;
  int64_t in = c->box->ranges->values[x].count, out = c->box->ranges->values[y].count;
  int64_t terms = 2 * (transposed ? m.large[0] : m.small[0]) / m.group * l->linear.kernel_area;
  int base = c->kind == FORM_Q ? LAYER_W_Q : LAYER_W;
  const double *a = c->at[0][y], *d = c->at[1][y];
  double most = 0;
  bool moves = d != NULL && !is_still(c, x, &most);
  double *to = carry_to(c, x, 0, terms, &fresh), *to_d = moves ? carry_to(c, x, 1, terms, &fresh) : NULL;
  if (to == NULL || (moves && to_d == NULL))
    return qb_fail_memory(c->error, graph->nodes[id].name, (size_t)(c->rows * in) * sizeof *to);
  double *room = qb_alloc_uncleared((size_t)((in + out) * c->rows), sizeof *room);
  if (room == NULL)
    return qb_fail_memory(c->error, graph->nodes[id].name, (size_t)((in + out) * c->rows) * sizeof *room);
  if (a != NULL)
    apply_rows(&m, !transposed, l->weight[base], a, out, to, in, room);
  if (d != NULL)
    apply_rows(&m, !transposed, l->weight[LAYER_MOVED], d, out, to, in, room);
  if (moves)
    apply_rows(&m, !transposed, l->weight[LAYER_W_Q], d, out, to_d, in, room);
  qb_free(room);
  if (a != NULL)
    settle_layer(c, &m, transposed, a, l->bias[base], n->reach[base], out, terms);
  if (d != NULL && !moves)
    leave_still(c, l, id, most);
  if (d != NULL)
    settle_layer(c, &m, transposed, d, l->bias[LAYER_MOVED], n->reach[FORM_D], out, terms);
  return QB_OK;
}

/* Adds factor times a plane at element i of one row. */
static void take_plane(const plane *p, double factor, double *to, double *to_d, const double reach[2], tally *t) {
  *to += factor * p->x;
  if (to_d != NULL)
    *to_d += factor * p->d;
  t->sum += factor * p->constant;
  t->size +=
      factor * (fabs(p->x) * (p->x == 0 ? 0 : reach[0]) + fabs(p->d) * (p->d == 0 ? 0 : reach[1]) + fabs(p->constant));
  t->terms += 3;
}

static void bend_row(const carried *c, qb_node_id id, int64_t r, double *to, double *to_d, tally *t) {
  const back_node *n = &c->box->nodes[id];
  const qb_node *node = &c->box->pair->pair->quantized->nodes[id];
  int64_t count = c->box->ranges->values[node->output].count;
  const double *rows = c->at[0][node->output], *rows_d = c->at[1][node->output];
  for (int64_t i = 0; i < count; i++) {
    double a = rows == NULL ? 0 : rows[r * count + i], d = rows_d == NULL ? 0 : rows_d[r * count + i];
    double *at = &to[r * count + i], *at_d = to_d == NULL ? NULL : &to_d[r * count + i];
    if (a == 0 && d == 0)
      continue;
    double reach[2] = {carried_reach(c, node->inputs[0], 0, i), carried_reach(c, node->inputs[0], 1, i)};
    const corners *k = n->undecided[i] < 0 ? NULL : &n->corners[d < 0][n->undecided[i]];
    bool turned = c->spots != NULL && at_d != NULL;
    if (c->joint && (turned || (a != 0 && d != 0)) && k != NULL && k->count > 0) {
      double slope_x, slope_d;
      corners here = *k;
      if (turned) {
        corners_recentre(&here, c->spots->at[0][node->inputs[0]][r * count + i],
                         c->spots->at[1][node->inputs[0]][r * count + i]);
      }
      lowest_slopes(&here, a, d, &slope_x, &slope_d);
      plane p = plane_above(k, a, d, slope_x, slope_d);
      take_plane(&p, 1, at, at_d, reach, t);
      continue;
    }
    if (a != 0)
      take_plane(&n->line[c->kind == FORM_Q][a < 0][i], fabs(a), at, at_d, reach, t);
    if (d != 0)
      take_plane(&n->moved[d < 0][i], fabs(d), at, at_d, reach, t);
  }
}

static qb_status carry_bent(carried *c, qb_node_id id) {
  const qb_node *node = &c->box->pair->pair->quantized->nodes[id];
  bool fresh;
  double *to = carry_to(c, node->inputs[0], 0, 2, &fresh), *to_d = NULL;
  if (c->at[1][node->output] != NULL)
    to_d = carry_to(c, node->inputs[0], 1, 2, &fresh);
  if (to == NULL || (to_d == NULL && c->at[1][node->output] != NULL))
    return qb_fail_memory(c->error, node->name, (size_t)c->rows * sizeof *to);
  for (int64_t r = 0; r < c->rows; r++) {
    tally t = {0};
    bend_row(c, id, r, to, to_d, &t);
    settle(c, r, &t);
  }
  return QB_OK;
}

/* What is left are forms over the input, where x = q. */
void carried_top(const carried *c, double *top) {
  qb_value_id input = c->box->pair->pair->quantized->inputs[0];
  const cells *x = &c->box->ranges->values[input];
  for (int64_t r = 0; r < c->rows; r++) {
    double sum = 0, size = fabs(c->constant[r]);
    for (int64_t i = 0; c->at[0][input] != NULL && i < x->count; i++) {
      double a = c->at[0][input][r * x->count + i], term = a == 0 ? 0 : a > 0 ? a * x->at[i].x.hi : a * x->at[i].x.lo;
      sum += term;
      size += fabs(term);
    }
    double lost = 1.01 * (c->lost[r] + rounding_of((double)x->count + 8) * size) + DBL_MIN;
    top[r] = add_up(add_up(sum, c->constant[r]), lost);
    top[r] = isnan(top[r]) ? INFINITY : top[r];
  }
}

/* What float32 evaluation of a node alone does to forms over its output: with y + v and y' + v' in place of y and y' it
 * is (A - D) v + D v'. */
static void move_by_evaluation(carried *c, qb_value_id y) {
  const cells *cell = &c->box->ranges->values[y];
  for (int64_t r = 0; r < c->rows && cell->moved != NULL; r++) {
    tally t = {.terms = cell->count};
    for (int64_t i = 0; i < cell->count; i++) {
      double a = c->at[0][y] == NULL ? 0 : c->at[0][y][r * cell->count + i];
      double d = c->at[1][y] == NULL ? 0 : c->at[1][y][r * cell->count + i];
      const double *e = cell->moved[i];
      if (a != 0 || d != 0)
        t.size += c->kind == FORM_Q ? fabs(a) * e[1] : fabs(a - d) * e[0] + fabs(d) * e[1];
    }
    t.sum = t.size;
    if (t.sum > 0)
      settle(c, r, &t);
  }
}

qb_status carry_back(carried *c, const forms *f, int64_t first) {
  const qb_graph *graph = c->box->pair->pair->quantized;
  int64_t n = c->box->ranges->values[f->value].count;
  bool fresh;
  double *rows = carry_to(c, f->value, f->kind == FORM_D ? 1 : 0, 0, &fresh);
  if (rows == NULL)
    return qb_fail_memory(c->error, "forms", (size_t)(c->rows * n) * sizeof *rows);
  for (int64_t r = 0; r < c->rows; r++) {
    rows[r * n + f->element[first + r]] = f->sign[first + r];
    if (f->minus != NULL)
      rows[r * n + f->minus[first + r]] = -f->sign[first + r];
  }
  for (qb_node_id id = graph->values[f->value].producer; id >= 0; id--) {
    qb_value_id y = graph->nodes[id].output;
    if (c->at[0][y] == NULL && c->at[1][y] == NULL)
      continue;
    move_by_evaluation(c, y);
    QB_TRY(c->box->pair->layers[id].linear.node != QB_NONE ? carry_layer(c, id)
           : c->box->pair->bent[id]                        ? carry_bent(c, id)
                                                           : carry_links(c, id));
    for (int part = 0; part < 2; part++) {
      qb_free(c->at[part][y]);
      c->at[part][y] = NULL;
    }
  }
  return press_forms(c);
}

static void copy_forms(const carried *c, double *to) {
  qb_value_id input = c->box->pair->pair->quantized->inputs[0];
  int64_t n = c->box->ranges->values[input].count;
  for (int64_t r = 0; r < c->rows; r++, to += n + 1) {
    for (int64_t i = 0; i < n; i++)
      to[i] = c->at[0][input] == NULL ? 0 : c->at[0][input][r * n + i];
    to[n] = add_up(c->constant[r], 1.01 * c->lost[r] + DBL_MIN);
  }
}

void carried_empty(carried *c) {
  for (int part = 0; part < 2; part++)
    for (qb_value_id v = 0; v < c->box->pair->pair->quantized->value_count; v++) {
      qb_free(c->at[part][v]);
      c->at[part][v] = NULL;
    }
  for (int64_t r = 0; r < c->rows; r++)
    c->constant[r] = c->lost[r] = 0;
}

static qb_status top_of_block(back_box *box, const forms *f, int64_t first, double *top, qb_error *error) {
  size_t values = (size_t)box->pair->pair->quantized->value_count;
  carried c = {.box = box, .kind = f->kind, .joint = f->joint, .error = error};
  c.rows = f->count - first < BLOCK ? f->count - first : BLOCK;
  double **table = qb_alloc(2 * values, sizeof *table), *sums = qb_alloc(2 * BLOCK, sizeof *sums);
  qb_status status = QB_OK;
  if (table == NULL || sums == NULL) {
    status = qb_fail_memory(error, "forms", 2 * values * sizeof *table);
  } else {
    c.at[0] = table;
    c.at[1] = table + values;
    c.constant = sums;
    c.lost = sums + BLOCK;
    status = carry_back(&c, f, first);
  }
  if (status == QB_OK)
    carried_top(&c, top + first);
  if (status == QB_OK && f->at_input != NULL)
    copy_forms(&c, f->at_input + first * (box->ranges->values[box->pair->pair->quantized->inputs[0]].count + 1));
  if (status == QB_OK && f->turns > 0)
    status = turn_forms(&c, f, first, top + first);
  if (table != NULL && sums != NULL)
    carried_empty(&c);
  qb_free(table);
  qb_free(sums);
  return status;
}

static qb_status prepare_behind(back_box *box, qb_value_id value, qb_error *error) {
  const qb_graph *graph = box->pair->pair->quantized;
  for (qb_node_id id = graph->values[value].producer; id >= 0; id--) {
    if (box->nodes[id].ready || box->ranges->values[graph->nodes[id].output].count == 0)
      continue;
    if (box->pair->layers[id].linear.node != QB_NONE)
      QB_TRY(prepare_reach(box, id, error));
    else if (box->pair->bent[id])
      QB_TRY(prepare_planes(box, id, error));
    box->nodes[id].ready = true;
  }
  return QB_OK;
}

qb_status forms_top(back_box *box, const forms *f, double *top, qb_error *error) {
  qb_status status = prepare_behind(box, f->value, error);
  if (status != QB_OK)
    return status;
#pragma omp parallel for schedule(dynamic) if (!omp_in_parallel())
  for (int64_t first = 0; first < f->count; first += BLOCK) {
    qb_error own;
    qb_status done = top_of_block(box, f, first, top, &own);
    if (done != QB_OK) {
#pragma omp critical(qb_check_forms)
      status = qb_fail(error, done, "%s", own.message);
    }
  }
  return status;
}
