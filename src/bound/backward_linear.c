/* Linear forms through convolutions and matrix layers: coefficients times the transposed layer. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/affine.h"
#include "bound/backward_internal.h"

static qb_layer_shape shape_of(const qb_graph *graph, const qb_linear *linear) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_shape *shapes[2] = {&graph->values[node->inputs[0]].shape, &graph->values[node->output].shape};
  qb_layer_shape s = {.positions = 1, .group = linear->group};
  s.is_transposed = node->op == QB_OP_CONV_TRANSPOSE;
  s.is_conv = node->op == QB_OP_CONV || s.is_transposed;
  s.inputs = (int64_t)qb_shape_elements(shapes[0]);
  s.outputs = (int64_t)qb_shape_elements(shapes[1]);
  if (s.is_conv)
    s.window = node->attributes.conv.window;
  for (int side = 0; side < 2; side++) {
    const qb_shape *x = shapes[side];
    s.channels[side] = s.is_conv ? x->dims[1] : x->dims[x->rank - 1];
    s.height[side] = s.is_conv ? x->dims[2] : 1;
    s.width[side] = s.is_conv ? x->dims[3] : 1;
  }
  if (!s.is_conv)
    s.positions = s.inputs / s.channels[0];
  s.terms = s.channels[1] / s.group * linear->kernel_area;
  return s;
}

/* ---------------------------------------------------------------------------------------------------- preparation */

static int64_t weight_count(const qb_graph *graph, const qb_linear *linear) {
  return (int64_t)qb_shape_elements(&graph->values[linear->weight].shape);
}

/* Differences are rounded: relative to themselves, which gamma counts. */
static void fill_changes(qb_backward_node *data, int64_t weights, int64_t biases) {
  for (int64_t i = 0; i < weights; i++) {
    data->weight[QB_WEIGHT_ORIGINAL][i] = (double)data->plain[0][i];
    data->weight[QB_WEIGHT_QUANTIZED][i] = (double)data->plain[1][i];
    data->weight[QB_WEIGHT_CHANGE][i] = (double)data->plain[1][i] - (double)data->plain[0][i];
  }
  for (int64_t i = 0; i < biases; i++) {
    double b = data->plain_bias[0] == NULL ? 0 : (double)data->plain_bias[0][i];
    double b2 = data->plain_bias[1] == NULL ? 0 : (double)data->plain_bias[1][i];
    data->bias[QB_WEIGHT_ORIGINAL][i] = b;
    data->bias[QB_WEIGHT_QUANTIZED][i] = b2;
    data->bias[QB_WEIGHT_CHANGE][i] = qb_backward_fault_planted == QB_BACKWARD_FAULT_NO_BIAS ? 0 : b2 - b;
  }
}

qb_status qb_backward_load_linear(qb_backward *backward, qb_node_id id, qb_error *error) {
  const qb_graph *graphs[2] = {backward->pair->original, backward->pair->quantized};
  qb_node_id ids[2] = {backward->pair->partner[id], id};
  qb_backward_node *data = &backward->nodes[id];
  for (int side = 0; side < 2; side++) {
    if (ids[side] == QB_NONE || !qb_graph_linear(graphs[side], ids[side], &data->linear))
      return QB_OK;
    data->plain[side] = qb_graph_constant(graphs[side], data->linear.weight);
    data->plain_bias[side] = qb_graph_constant(graphs[side], data->linear.bias);
  }
  int64_t weights = weight_count(graphs[1], &data->linear), biases = data->linear.out_channels;
  for (int k = 0; k < QB_WEIGHT_COUNT; k++) {
    data->weight[k] = qb_arena_alloc(&backward->arena, (size_t)weights, sizeof(double));
    data->bias[k] = qb_arena_alloc(&backward->arena, (size_t)biases, sizeof(double));
    if (data->weight[k] == NULL || data->bias[k] == NULL)
      return qb_fail_memory(error, graphs[1]->nodes[id].name, (size_t)weights * sizeof(double));
  }
  fill_changes(data, weights, biases);
  data->is_linear = true;
  return QB_OK;
}

static double *reach_of_input(qb_backward *backward, qb_value_id value, int track) {
  int64_t n = backward->box->states[value].count;
  double *x = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof *x);
  for (int64_t i = 0; x != NULL && i < n; i++)
    x[i] = qb_walk_reach(backward, value, track, i);
  return x;
}

/* Differences of this share of the largest value are what rounding makes of none. They are left out, so that forms do
 * not depend on it, and counted. */
static const double STILL = 0x1p-200;

/* sum over the layer of |W| max|x| + |b| for both networks, and |W' - W| max|x| + |W'| max|d| + |b' - b|. */
qb_status qb_backward_prepare_linear(qb_backward *backward, qb_node_id id, qb_error *error) {
  const qb_graph *graph = backward->pair->quantized;
  qb_backward_node *data = &backward->nodes[id];
  qb_value_id x = graph->nodes[id].inputs[0];
  int64_t n = backward->box->states[graph->nodes[id].output].count;
  double *in[QB_TRACK_COUNT], *moved = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof *moved);
  for (int track = 0; track < QB_TRACK_COUNT; track++) {
    in[track] = reach_of_input(backward, x, track);
    data->reach[track] = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof(double));
    if (in[track] == NULL || data->reach[track] == NULL || moved == NULL)
      return qb_fail_memory(error, graph->nodes[id].name, (size_t)n * sizeof(double));
  }
  const float *const *w = data->plain, *const *b = data->plain_bias;
  double most[QB_TRACK_COUNT] = {0};
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    for (int64_t i = 0; i < backward->box->states[x].count; i++)
      most[track] = qb_larger(most[track], in[track][i]);
  data->is_still = most[QB_TRACK_DIFFERENCE] <= STILL * most[QB_TRACK_ORIGINAL];
  for (int track = 0; track < 2; track++)
    QB_TRY(qb_affine_apply_absolute(graph, &data->linear, w[track], NULL, b[track], NULL, in[track], data->reach[track],
                                    &backward->box_arena, error));
  QB_TRY(qb_affine_apply_absolute(graph, &data->linear, w[1], NULL, NULL, NULL, in[QB_TRACK_DIFFERENCE],
                                  data->reach[QB_TRACK_DIFFERENCE], &backward->box_arena, error));
  QB_TRY(qb_affine_apply_absolute(graph, &data->linear, w[1], w[0], b[1], b[0], in[QB_TRACK_ORIGINAL], moved,
                                  &backward->box_arena, error));
  data->left_out = 0;
  for (int64_t i = 0; i < n; i++) {
    data->left_out = qb_larger(data->left_out, data->reach[QB_TRACK_DIFFERENCE][i]);
    data->reach[QB_TRACK_DIFFERENCE][i] += moved[i];
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ one layer */

/* Unit rows are over one element each. */
static void account_units(qb_walk *walk, const qb_layer_shape *s, const double *bias, const double *reach,
                          double gamma) {
  int64_t area = s->is_conv ? s->height[1] * s->width[1] : 1;
  for (int64_t r = 0; r < walk->rows; r++) {
    int64_t i = walk->element[r];
    walk->lost[r] += gamma * reach[i] + DBL_MIN;
    qb_walk_add_constant(walk, r, walk->sign[r] * bias[i / area % s->channels[1]]);
  }
}

/* k += rows . bias, and what this layer loses to rounding. */
static void account(qb_walk *walk, const qb_layer_shape *s, const double *rows, const double *bias, const double *reach,
                    double gamma) {
  int64_t area = s->is_conv ? s->height[1] * s->width[1] : 1, channels = s->channels[1];
  if (walk->element != NULL) {
    account_units(walk, s, bias, reach, gamma);
    return;
  }
  for (int64_t r = 0; r < walk->rows; r++) {
    const double *c = rows + r * s->outputs;
    double shift = 0, lost = 0;
    for (int64_t p = 0; !s->is_conv && p < s->positions; p++)
      qb_dense_account(channels, c + p * channels, bias, reach + p * channels, &shift, &lost);
    for (int64_t o = 0; s->is_conv && o < channels; o++) {
      double sum = 0;
      qb_dense_total(area, c + o * area, reach + o * area, &sum, &lost);
      shift += sum * bias[o];
    }
    walk->lost[r] += gamma * lost + DBL_MIN;
    qb_walk_add_constant(walk, r, shift);
  }
}

/* Coefficients with a precision of float32, unaccounted for: a planted mistake. */
static void round_to_float(double *c, int64_t count) {
  for (int64_t i = 0; qb_backward_fault_planted == QB_BACKWARD_FAULT_FLOAT && i < count; i++)
    c[i] = (double)(float)(c[i] * 0.99999);
}

/* D d for differences d of which W' d has no element above `most`. */
static void leave_out(qb_walk *walk, const double *rows, int64_t outputs, double most) {
  for (int64_t r = 0; most > 0 && r < walk->rows; r++) {
    double sum = 0;
    for (int64_t i = 0; i < outputs; i++)
      sum += fabs(rows[r * outputs + i]);
    walk->lost[r] += 1.01 * sum * most + DBL_MIN;
  }
}

qb_status qb_walk_linear(qb_walk *walk, qb_node_id id) {
  const qb_graph *graph = walk->backward->pair->quantized;
  const qb_backward_node *data = &walk->backward->nodes[id];
  qb_layer_shape s = shape_of(graph, &data->linear);
  qb_value_id x = graph->nodes[id].inputs[0], y = graph->nodes[id].output;
  const double *a = walk->coefficient[0][y], *d = walk->coefficient[1][y];
  int base = walk->track == QB_TRACK_QUANTIZED ? QB_WEIGHT_QUANTIZED : QB_WEIGHT_ORIGINAL;
  qb_backward_fault fault = qb_backward_fault_planted;
  int64_t terms = 2 * s.terms + s.outputs + 16;
  double gamma = qb_gamma(terms) * 1.01; /* the reaches are rounded, too */
  double *c = qb_walk_target(walk, x, 0, terms);
  if (c == NULL)
    return qb_fail_memory(walk->error, graph->nodes[id].name, (size_t)(walk->rows * s.inputs) * sizeof *c);
  const qb_walk_product parts[2] = {{a, base}, {fault == QB_BACKWARD_FAULT_NO_CHANGE ? NULL : d, QB_WEIGHT_CHANGE}};
  QB_TRY((s.is_conv ? qb_walk_conv : qb_walk_matrix)(walk, id, &s, parts, c));
  round_to_float(c, walk->rows * s.inputs);
  if (a != NULL)
    account(walk, &s, a, data->bias[base], data->reach[base], gamma);
  if (d == NULL)
    return QB_OK;
  account(walk, &s, d, data->bias[QB_WEIGHT_CHANGE], data->reach[QB_TRACK_DIFFERENCE], gamma);
  if (data->is_still) {
    leave_out(walk, d, s.outputs, data->left_out);
    return QB_OK;
  }
  double *carried = qb_walk_target(walk, x, 1, terms);
  if (carried == NULL)
    return qb_fail_memory(walk->error, graph->nodes[id].name, (size_t)(walk->rows * s.inputs) * sizeof *c);
  int carrier = fault == QB_BACKWARD_FAULT_OLD_WEIGHTS ? QB_WEIGHT_ORIGINAL : QB_WEIGHT_QUANTIZED;
  const qb_walk_product moved[2] = {{d, carrier}, {NULL, 0}};
  return (s.is_conv ? qb_walk_conv : qb_walk_matrix)(walk, id, &s, moved, carried);
}
