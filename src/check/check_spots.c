/* Both networks at a few inputs, in plain doubles: these numbers choose slopes and prove nothing. A quantizer is its
 * clamp, without the rounding, so that two evaluations that round otherwise find nearly the same. */
#include "base/alloc.h"
#include "base/error.h"
#include "check/check_backward.h"
#include "check/check_map.h"

/* One node on its way: x, d and what becomes of them, (rows, elements). */
typedef struct step {
  const carried *c;
  qb_node_id id;
  const qb_node *node;
  const spots *s;
  double *y, *y_d;
  int64_t count; /* elements of the output */
} step;

static const qb_graph *graph_of(const carried *c) { return c->box->pair->pair->quantized; }

/* y = W x + b, d' = (W' - W) x + W' d + b' - b. */
static qb_status by_layer(const step *t) {
  const back_layer *l = &t->c->box->pair->layers[t->id];
  qb_value_id x = t->node->inputs[0];
  int64_t in = t->c->box->ranges->values[x].count, rows = t->c->rows;
  map m = map_of(graph_of(t->c), &l->linear, rows);
  bool transposed = t->node->op == QB_OP_CONV_TRANSPOSE;
  double *room = qb_alloc_uncleared((size_t)((in + t->count) * rows), sizeof *room);
  if (room == NULL)
    return qb_fail_memory(t->c->error, t->node->name, (size_t)((in + t->count) * rows) * sizeof *room);
  apply_rows(&m, transposed, l->weight[LAYER_W], t->s->at[0][x], in, t->y, t->count, room);
  apply_rows(&m, transposed, l->weight[LAYER_MOVED], t->s->at[0][x], in, t->y_d, t->count, room);
  apply_rows(&m, transposed, l->weight[LAYER_W_Q], t->s->at[1][x], in, t->y_d, t->count, room);
  qb_free(room);
  for (int64_t i = 0; i < rows * t->count; i++) {
    int64_t channel = map_channel(&m, transposed, i % t->count);
    t->y[i] += l->bias[LAYER_W][channel];
    t->y_d[i] += l->bias[LAYER_MOVED][channel];
  }
  return QB_OK;
}

static void by_bends(const step *t) {
  qb_value_id x = t->node->inputs[0];
  const double *at = t->s->at[0][x], *at_d = t->s->at[1][x];
  for (int64_t i = 0; i < t->count; i++) {
    bends b = bends_of(t->c->box->pair->pair, t->id, i, t->c->box->ranges->values[x].at[i].q);
    for (int64_t k = i; k < t->c->rows * t->count; k += t->count) {
      double q = at[k] + at_d[k], f = bend_at(&b.f, at[k]), g = bends_clamp(&b, q);
      t->y[k] = f;
      t->y_d[k] = f == at[k] && g == q ? at_d[k] : g - f;
    }
  }
}

/* Every other node: what its rule for ranges makes of points, in the middle. */
static qb_status by_ranges(const step *t, int64_t row, walk *w) {
  const cells *known = t->c->box->ranges->values;
  bool has_rule;
  for (int32_t k = 0; k < t->node->input_count; k++) {
    qb_value_id x = t->node->inputs[k];
    if (x == QB_NONE || known[x].count == 0)
      continue;
    w->values[x] = known[x];
    w->values[x].at = qb_arena_alloc(&w->arena, (size_t)known[x].count, sizeof(triple));
    if (w->values[x].at == NULL)
      return qb_fail_memory(t->c->error, t->node->name, (size_t)known[x].count * sizeof(triple));
    for (int64_t i = 0; i < known[x].count; i++) {
      double at = t->s->at[0][x][row * known[x].count + i], d = t->s->at[1][x][row * known[x].count + i];
      w->values[x].at[i] = (triple){{at, at}, {at + d, at + d}, {d, d}};
    }
  }
  QB_TRY(walk_visit(w, t->id, &has_rule));
  for (int64_t i = 0; i < t->count; i++) {
    const triple *y = &w->values[t->node->output].at[i];
    t->y[row * t->count + i] = 0.5 * y->x.lo + 0.5 * y->x.hi;
    t->y_d[row * t->count + i] = 0.5 * y->d.lo + 0.5 * y->d.hi;
  }
  return QB_OK;
}

static qb_status by_rule(const step *t) {
  const cells *x = &t->c->box->ranges->values[graph_of(t->c)->inputs[0]];
  range *domain = qb_alloc((size_t)x->count, sizeof *domain);
  qb_status status =
      domain == NULL ? qb_fail_memory(t->c->error, t->node->name, (size_t)x->count * sizeof *domain) : QB_OK;
  for (int64_t i = 0; status == QB_OK && i < x->count; i++)
    domain[i] = x->at[i].x;
  for (int64_t r = 0; status == QB_OK && r < t->c->rows; r++) {
    walk w;
    status = walk_begin(&w, t->c->box->pair->pair, GRAIN_FINE, domain, t->c->error);
    if (status == QB_OK)
      status = by_ranges(t, r, &w);
    walk_free(&w);
  }
  qb_free(domain);
  return status;
}

static bool new_values(const carried *c, qb_value_id value, spots *s, qb_arena *arena) {
  size_t count = (size_t)(c->rows * c->box->ranges->values[value].count);
  for (int part = 0; part < 2; part++)
    s->at[part][value] = qb_arena_alloc(arena, count, sizeof(double));
  return s->at[0][value] != NULL && s->at[1][value] != NULL;
}

static qb_status visit(const carried *c, qb_node_id id, spots *s, qb_arena *arena) {
  const qb_node *node = &graph_of(c)->nodes[id];
  int64_t count = c->box->ranges->values[node->output].count;
  if (count == 0)
    return QB_OK;
  if (!new_values(c, node->output, s, arena))
    return qb_fail_memory(c->error, node->name, (size_t)(c->rows * count) * sizeof(double));
  step t = {c, id, node, s, s->at[0][node->output], s->at[1][node->output], count};
  if (c->box->pair->layers[id].linear.node != QB_NONE)
    return by_layer(&t);
  if (!c->box->pair->bent[id])
    return by_rule(&t);
  by_bends(&t);
  return QB_OK;
}

qb_status spots_find(const carried *c, qb_value_id value, const double *inputs, spots *s, qb_arena *arena) {
  const qb_graph *graph = graph_of(c);
  size_t values = (size_t)graph->value_count;
  qb_value_id input = graph->inputs[0];
  for (int part = 0; part < 2; part++) {
    s->at[part] = qb_arena_alloc(arena, values, sizeof(double *));
    if (s->at[part] == NULL)
      return qb_fail_memory(c->error, "points", values * sizeof(double *));
  }
  if (!new_values(c, input, s, arena))
    return qb_fail_memory(c->error, "points", (size_t)(c->rows * c->box->ranges->values[input].count) * sizeof(double));
  for (int64_t i = 0; i < c->rows * c->box->ranges->values[input].count; i++)
    s->at[0][input][i] = inputs[i];
  for (qb_node_id id = 0; id < graph->values[value].producer; id++)
    QB_TRY(visit(c, id, s, arena));
  return QB_OK;
}
