/* Both networks at one input for each row of a block; see backward_internal.h.
 *
 * These numbers choose slopes and prove nothing, so they are plain doubles. Everything is continuous: a quantizer is
 * its clamp, without the rounding, so that another evaluation with its own order of summation finds nearly the same. */
#include <cblas.h>

#include "base/error.h"
#include "bound/affine.h"
#include "bound/backward_internal.h"
#include "bound/node_kinks.h"

static const qb_graph *graph_of(const qb_walk *walk) { return walk->backward->pair->quantized; }

static int64_t elements(const qb_walk *walk, qb_value_id value) { return walk->backward->box->states[value].count; }

static double *new_values(qb_walk *walk, qb_value_id value, int part) {
  size_t count = (size_t)(walk->rows * elements(walk, value));
  return walk->points->at[part][value] = qb_arena_alloc(&walk->points->arena, count, sizeof(double));
}

static qb_status no_memory(const qb_walk *walk, const qb_node *node) {
  size_t count = (size_t)(walk->rows * elements(walk, node->output));
  return qb_fail_memory(walk->error, node->name, count * sizeof(double));
}

/* ---------------------------------------------------------------------------------------------------------- layers */

/* y += x W^T, `rows` vectors each. */
static void add_product(int64_t rows, int64_t outs, int64_t ins, const double *x, const double *w, double *y) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)outs, (int)ins, 1, x, (int)ins, w, (int)ins, 1,
              y, (int)outs);
}

static void fill_with_bias(int64_t rows, int64_t channels, const double *bias, double *y) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < channels; c++)
      y[r * channels + c] = bias[c];
}

static void through_matrix(const qb_backward_node *data, int64_t rows, const double *const x[2], bool moves,
                           double *const y[2]) {
  int64_t outs = data->linear.out_channels, ins = data->linear.in_channels;
  fill_with_bias(rows, outs, data->bias[QB_WEIGHT_ORIGINAL], y[0]);
  fill_with_bias(rows, outs, data->bias[QB_WEIGHT_CHANGE], y[1]);
  add_product(rows, outs, ins, x[0], data->weight[QB_WEIGHT_ORIGINAL], y[0]);
  add_product(rows, outs, ins, x[0], data->weight[QB_WEIGHT_CHANGE], y[1]);
  if (moves)
    add_product(rows, outs, ins, x[1], data->weight[QB_WEIGHT_QUANTIZED], y[1]);
}

/* One row: y = W x + b, d' = (W' - W) x + b' - b + W' d. */
static qb_status through_conv(qb_walk *walk, const qb_backward_node *data, const double *const x[2], bool moves,
                              double *const y[2], int64_t outputs) {
  const qb_graph *graph = graph_of(walk);
  const float *const *w = data->plain, *const *b = data->plain_bias;
  qb_arena *scratch = &walk->points->scratch;
  double *carried = moves ? qb_arena_alloc(scratch, (size_t)outputs, sizeof *carried) : NULL;
  if (moves && carried == NULL)
    return qb_fail_memory(walk->error, graph->nodes[data->linear.node].name, (size_t)outputs * sizeof *carried);
  QB_TRY(qb_affine_apply(graph, &data->linear, w[0], NULL, b[0], NULL, x[0], y[0], scratch, walk->error));
  QB_TRY(qb_affine_apply(graph, &data->linear, w[1], w[0], b[1], b[0], x[0], y[1], scratch, walk->error));
  if (moves)
    QB_TRY(qb_affine_apply(graph, &data->linear, w[1], NULL, NULL, NULL, x[1], carried, scratch, walk->error));
  for (int64_t i = 0; moves && i < outputs; i++)
    y[1][i] += carried[i];
  return QB_OK;
}

static qb_status through_layer(qb_walk *walk, qb_node_id id, double *const y[2]) {
  const qb_node *node = &graph_of(walk)->nodes[id];
  const qb_backward_node *data = &walk->backward->nodes[id];
  int64_t n = elements(walk, node->inputs[0]), outputs = elements(walk, node->output);
  const double *const x[2] = {walk->points->at[0][node->inputs[0]], walk->points->at[1][node->inputs[0]]};
  bool moves = !qb_dense_is_zero(walk->rows * n, x[1]);
  if (node->op != QB_OP_CONV && node->op != QB_OP_CONV_TRANSPOSE) {
    through_matrix(data, walk->rows * (n / data->linear.in_channels), x, moves, y);
    return QB_OK;
  }
  for (int64_t r = 0; r < walk->rows; r++) {
    QB_TRY(through_conv(walk, data, (const double *[2]){x[0] + r * n, x[1] + r * n}, moves,
                        (double *[2]){y[0] + r * outputs, y[1] + r * outputs}, outputs));
    qb_arena_clear(&walk->points->scratch);
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- activations */

/* The function of the quantized network, with a quantizer's clamp alone. */
static double at_second(const qb_kink_pair *k, double x) {
  if (k->upper.leaky)
    return qb_kink_at(&k->upper, x);
  return qb_clamp(x, qb_smaller(k->upper.lo, k->lower.hi), qb_larger(k->upper.lo, k->lower.hi));
}

static void through_kinks(qb_walk *walk, qb_node_id id, double *const y[2]) {
  static const qb_kink rectifier = {.lo = 0, .hi = INFINITY};
  const qb_node *node = &graph_of(walk)->nodes[id];
  int64_t n = elements(walk, node->output);
  const double *const *at[2] = {(const double *const *)walk->points->at[0], (const double *const *)walk->points->at[1]};
  const double *x = at[0][node->inputs[0]], *d = at[1][node->inputs[0]];
  const qb_box_track *t = &walk->backward->box->states[node->inputs[0]].track[QB_TRACK_QUANTIZED];
  qb_kink_pair kinks = {rectifier, rectifier, rectifier};
  for (int64_t i = 0; i < n; i++) {
    if (!walk->backward->nodes[id].is_rectifier)
      kinks = qb_node_kinks(walk->backward->pair, id, i, (qb_interval){t->lo[i], t->hi[i]});
    for (int64_t k = i; k < walk->rows * n; k += n) {
      double second = x[k] + d[k], first_y = qb_kink_at(&kinks.original, x[k]), second_y = at_second(&kinks, second);
      y[0][k] = first_y;
      y[1][k] = first_y == x[k] && second_y == second ? d[k] : second_y - first_y;
    }
  }
}

/* ------------------------------------------------------------------------------------------------- everything else */

static bool new_state(qb_arena *arena, int64_t count, qb_box_state *state) {
  bool enough = true;
  state->count = count;
  for (int track = 0; track < QB_TRACK_COUNT; track++) {
    state->track[track].lo = qb_arena_alloc(arena, (size_t)count, sizeof(double));
    state->track[track].hi = qb_arena_alloc(arena, (size_t)count, sizeof(double));
    enough = enough && state->track[track].lo != NULL && state->track[track].hi != NULL;
  }
  return enough;
}

static void put_point(const double *x, const double *d, qb_box_state *state) {
  for (int64_t i = 0; i < state->count; i++) {
    const double value[QB_TRACK_COUNT] = {x[i], x[i] + d[i], d[i]};
    for (int track = 0; track < QB_TRACK_COUNT; track++)
      state->track[track].lo[i] = state->track[track].hi[i] = value[track];
  }
}

static double middle_of(const qb_box_track *t, int64_t i) { return 0.5 * t->lo[i] + 0.5 * t->hi[i]; }

/* One row, by the rule for intervals: what it makes of points. */
static qb_status through_rule(qb_walk *walk, qb_node_id id, int64_t row, qb_box_result *box, double *const y[2]) {
  const qb_node *node = &graph_of(walk)->nodes[id];
  bool refused = false;
  qb_arena_clear(&box->arena);
  for (int32_t k = 0; k < node->input_count; k++) {
    qb_value_id x = node->inputs[k];
    int64_t n = x == QB_NONE ? 0 : elements(walk, x);
    if (n == 0)
      continue;
    if (!new_state(&box->arena, n, &box->states[x]))
      return no_memory(walk, node);
    put_point(walk->points->at[0][x] + row * n, walk->points->at[1][x] + row * n, &box->states[x]);
  }
  QB_TRY(qb_bound_box_node(walk->backward->pair, id, box, &walk->points->scratch, &refused, walk->error));
  const qb_box_state *out = &box->states[node->output];
  for (int64_t i = 0; i < out->count; i++) {
    y[0][row * out->count + i] = middle_of(&out->track[QB_TRACK_ORIGINAL], i);
    y[1][row * out->count + i] = middle_of(&out->track[QB_TRACK_DIFFERENCE], i);
  }
  return QB_OK;
}

static qb_status through_rules(qb_walk *walk, qb_node_id id, double *const y[2]) {
  size_t values = (size_t)graph_of(walk)->value_count;
  qb_box_result box = {.states = qb_arena_alloc(&walk->points->arena, values, sizeof *box.states)};
  qb_status status = box.states == NULL ? no_memory(walk, &graph_of(walk)->nodes[id]) : QB_OK;
  qb_arena_init(&box.arena);
  for (int64_t r = 0; status == QB_OK && r < walk->rows; r++)
    status = through_rule(walk, id, r, &box, y);
  qb_arena_free(&box.arena);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- the block */

static qb_status through_node(qb_walk *walk, qb_node_id id) {
  const qb_node *node = &graph_of(walk)->nodes[id];
  const qb_backward_node *data = &walk->backward->nodes[id];
  double *const y[2] = {new_values(walk, node->output, 0), new_values(walk, node->output, 1)};
  if (y[0] == NULL || y[1] == NULL)
    return no_memory(walk, node);
  if (data->is_linear)
    return through_layer(walk, id, y);
  if (data->is_kinked) {
    through_kinks(walk, id, y);
    return QB_OK;
  }
  return through_rules(walk, id, y);
}

qb_status qb_walk_evaluate(qb_walk *walk, const double *inputs) {
  const qb_graph *graph = graph_of(walk);
  qb_value_id input = graph->inputs[0];
  qb_walk_points *points = walk->points;
  size_t values = (size_t)graph->value_count;
  qb_arena_clear(&points->arena);
  for (int part = 0; part < 2; part++) {
    points->at[part] = qb_arena_alloc(&points->arena, values, sizeof(double *));
    if (points->at[part] == NULL || new_values(walk, input, part) == NULL)
      return qb_fail_memory(walk->error, "points of a relaxation", values * sizeof(double *));
  }
  for (int64_t i = 0; i < walk->rows * elements(walk, input); i++)
    points->at[0][input][i] = inputs[i];
  for (qb_node_id id = 0; id < graph->values[walk->start].producer; id++)
    if (elements(walk, graph->nodes[id].output) > 0)
      QB_TRY(through_node(walk, id));
  return QB_OK;
}
