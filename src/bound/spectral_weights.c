/* One positive weight per channel for every tensor of a network: which tensors must share them, and the search.
 *
 * A tensor and what an operator that acts channel by channel makes of it (activations, pools) have the same weights,
 * and so have the two summands of an Add and their sum; only the identity of a residual block that has a gate of its
 * own may change weights on its way, since the gate's kernel does that. Inputs, outputs and everything next to an
 * operator that mixes channels otherwise keep ones. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"
#include "bound/fault.h"
#include "bound/scaling.h"
#include "bound/spectral_internal.h"

/* Union-find over the values of the quantized graph, then groups numbered from 0. */
typedef struct grouping {
  spectral *s;
  const qb_graph *graph;
  qb_arena arena; /* of everything here, kernels included */
  int32_t *parent;
  bool *pinned;   /* by root */
  int32_t *group; /* by root; -1: ones */
  qb_segment *segments;
  int64_t *channels; /* by group */
  double **scaling;
  int32_t segment_count, group_count;
  bool *used; /* by node: part of a window */
} grouping;

/* ---------------------------------------------------------------------------------------------------------- groups */

static int32_t root_of(const grouping *g, qb_value_id v) {
  while (g->parent[v] != v)
    v = g->parent[v];
  return v;
}

static void pin(grouping *g, qb_value_id v) {
  if (v != QB_NONE && !g->graph->values[v].is_constant)
    g->pinned[root_of(g, v)] = true;
}

static int64_t channels_of(const grouping *g, qb_value_id v) {
  const qb_shape *shape = &g->graph->values[v].shape;
  return shape->rank >= 2 ? shape->dims[1] : 0;
}

static void join(grouping *g, qb_value_id a, qb_value_id b) {
  int32_t from = root_of(g, a), to = root_of(g, b);
  bool differ = channels_of(g, a) != channels_of(g, b) || channels_of(g, a) == 0;
  bool pinned =
      g->pinned[from] || g->pinned[to] || differ || g->graph->values[a].is_constant || g->graph->values[b].is_constant;
  g->parent[from] = to;
  g->pinned[to] = pinned;
}

static bool is_channels_only(const qb_shape *shape) {
  return shape->rank >= 2 && (int64_t)qb_shape_elements(shape) == shape->dims[1];
}

/* Acts on every channel by itself and keeps them on axis 1. */
static bool keeps_channels(const grouping *g, const qb_node *node) {
  const qb_shape *x = &g->graph->values[node->inputs[0]].shape, *y = &g->graph->values[node->output].shape;
  switch (node->op) {
  case QB_OP_RELU:
  case QB_OP_LEAKY_RELU:
  case QB_OP_CLIP:
  case QB_OP_SIGMOID:
  case QB_OP_HARD_SIGMOID:
  case QB_OP_HARD_SWISH:
  case QB_OP_TANH:
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN:
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT: return true;
  case QB_OP_FLATTEN:
  case QB_OP_RESHAPE:
  case QB_OP_SQUEEZE:
  case QB_OP_UNSQUEEZE: return is_channels_only(x) && is_channels_only(y);
  default: return false;
  }
}

/* A layer whose matrix can be scaled by channel on both sides. */
static bool is_free_layer(const grouping *g, qb_node_id n) {
  qb_linear linear;
  const qb_node *node = &g->graph->nodes[n];
  if (node->op == QB_OP_CONV_TRANSPOSE || g->s->pair->partner[n] == QB_NONE || !qb_graph_linear(g->graph, n, &linear) ||
      linear.group != 1)
    return false;
  return node->op == QB_OP_CONV ||
         (g->graph->values[node->inputs[0]].shape.rank == 2 && g->graph->values[node->output].shape.rank == 2);
}

static void group_add(grouping *g, qb_node_id n) {
  const qb_node *node = &g->graph->nodes[n];
  gate_window w;
  bool block = spectral_window(g->s, n, &w);
  for (int32_t side = 0; side < 2; side++)
    if (!block || !w.skip_is_identity || node->inputs[side] != w.x)
      join(g, node->inputs[side], node->output);
}

static void group_node(grouping *g, qb_node_id n) {
  const qb_node *node = &g->graph->nodes[n];
  bool sum = node->op == QB_OP_ADD && !g->graph->values[node->inputs[0]].is_constant &&
             !g->graph->values[node->inputs[1]].is_constant;
  if (sum)
    group_add(g, n);
  else if (keeps_channels(g, node))
    join(g, node->inputs[0], node->output);
  else if (!is_free_layer(g, n)) {
    pin(g, node->output);
    for (int32_t i = 0; i < node->input_count; i++)
      pin(g, node->inputs[i]);
  }
}

static void find_groups(grouping *g) {
  for (qb_value_id v = 0; v < g->graph->value_count; v++) {
    g->parent[v] = v;
    g->group[v] = -1;
  }
  for (qb_node_id n = 0; n < g->graph->node_count; n++)
    group_node(g, n);
  pin(g, g->graph->inputs[0]);
  for (int32_t i = 0; i < g->graph->output_count; i++)
    pin(g, g->graph->outputs[i]);
}

/* -------------------------------------------------------------------------------------------------------- segments */

/* The group of a value, numbered when it is first met. */
static int32_t group_of(grouping *g, qb_value_id v, bool between) {
  int32_t root = root_of(g, v);
  if (g->pinned[root] || (!between && !g->s->settings->weights))
    return -1;
  if (g->group[root] < 0) {
    g->channels[g->group_count] = channels_of(g, v);
    g->group[root] = g->group_count++;
  }
  return g->group[root];
}

static qb_status new_kernel(grouping *g, qb_kernel **kernel) {
  *kernel = qb_arena_alloc(&g->arena, 3, sizeof **kernel);
  return *kernel == NULL ? qb_fail_memory(g->s->error, "kernels", 3 * sizeof **kernel) : QB_OK;
}

static qb_status add_window(grouping *g, qb_node_id n, const gate_window *w) {
  qb_segment *segment = &g->segments[g->segment_count++];
  window_kernels k;
  qb_kernel *kernels;
  QB_TRY(new_kernel(g, &kernels));
  QB_TRY(spectral_window_kernels(g->s, w, true, &g->arena, &k));
  memcpy(kernels, (qb_kernel[3]){k.inner, k.outer, w->has_skip ? k.skip : (qb_kernel){0}}, 3 * sizeof *kernels);
  *segment = (qb_segment){.inner = kernels, .outer = kernels + 1, .skip = w->has_skip ? kernels + 2 : NULL};
  spectral_window_torus(g->s, w, &k, segment->side);
  segment->in = group_of(g, w->x, false);
  segment->middle = group_of(g, g->graph->nodes[w->inner.node].output, true);
  segment->out = group_of(g, g->graph->nodes[n].output, false);
  g->used[w->inner.node] = g->used[w->outer.node] = true;
  if (w->has_skip && !w->skip_is_identity)
    g->used[w->skip.node] = true;
  return QB_OK;
}

static qb_status add_layer(grouping *g, qb_node_id n) {
  qb_segment *segment = &g->segments[g->segment_count++];
  const qb_graph *graph = g->s->pair->original;
  qb_kernel *kernel;
  qb_linear linear;
  QB_TRY(new_kernel(g, &kernel));
  qb_graph_linear(graph, g->s->pair->partner[n], &linear);
  QB_TRY(
      qb_kernel_create(graph, &linear, qb_graph_constant(graph, linear.weight), NULL, &g->arena, kernel, g->s->error));
  *segment = (qb_segment){.inner = kernel, .middle = -1};
  qb_graph_linear(g->graph, n, &linear);
  spectral_layer_torus(g->graph, &linear, kernel, segment->side);
  segment->in = group_of(g, g->graph->nodes[n].inputs[0], false);
  segment->out = group_of(g, g->graph->nodes[n].output, false);
  return QB_OK;
}

/* Segments that cover the network without overlap, so that the sum of their logarithms speaks about paths: residual
 * blocks, then pairs of layers from the end, then what is left. Without weights between the windows every window
 * stands for itself, and so do those that overlap. */
static qb_status find_segments(grouping *g) {
  gate_window w;
  for (int blocks = 1; blocks >= 0; blocks--)
    for (qb_node_id n = g->graph->node_count - 1; n >= 0; n--)
      if (g->s->pair->value[g->graph->nodes[n].output] != QB_NONE && spectral_window(g->s, n, &w) &&
          w.has_skip == (blocks == 1) &&
          (!g->s->settings->weights || (!g->used[w.inner.node] && !g->used[w.outer.node])))
        QB_TRY(add_window(g, n, &w));
  for (qb_node_id n = 0; n < g->graph->node_count && g->s->settings->weights; n++)
    if (g->s->pair->value[g->graph->nodes[n].output] != QB_NONE && is_free_layer(g, n) && !g->used[n])
      QB_TRY(add_layer(g, n));
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- start */

/* Adds the squares of row (or column) c of a kernel to sum[c]. */
static void add_squares(const qb_kernel *k, bool columns, double *sum) {
  int64_t area = (int64_t)k->size[0] * k->size[1], entries = k->rows * k->cols;
  for (int64_t i = 0; i < area * entries; i++)
    sum[columns ? i % k->cols : i % entries / k->cols] += k->taps[i] * k->taps[i];
}

/* Between the layers of a window the search starts at equal norms of row c of W1 and column c of W2. */
static void balance(const qb_segment *segment, int64_t channels, double *rows, double *columns, double *scaling) {
  double largest[2] = {0, 0};
  memset(rows, 0, (size_t)channels * sizeof *rows);
  memset(columns, 0, (size_t)channels * sizeof *columns);
  add_squares(segment->inner, false, rows);
  add_squares(segment->outer, true, columns);
  for (int64_t c = 0; c < channels; c++) {
    largest[0] = fmax(largest[0], rows[c]);
    largest[1] = fmax(largest[1], columns[c]);
  }
  for (int64_t c = 0; c < channels; c++) {
    double row = fmax(rows[c], 1e-6 * largest[0]), column = fmax(columns[c], 1e-6 * largest[1]);
    double t = row > 0 && column > 0 ? pow(row / column, 0.25) : 1;
    scaling[c] = t > 1e-30 && t < 1e30 ? t : 1;
  }
}

static qb_status start(grouping *g) {
  g->scaling = qb_arena_alloc(&g->arena, (size_t)g->group_count, sizeof *g->scaling);
  for (int32_t i = 0; g->scaling != NULL && i < g->group_count; i++) {
    double *t = g->scaling[i] = qb_arena_alloc(&g->s->result->arena, (size_t)g->channels[i], sizeof *t);
    for (int64_t c = 0; t != NULL && c < g->channels[i]; c++)
      t[c] = 1;
    if (t == NULL)
      return qb_fail_memory(g->s->error, "weights", (size_t)g->channels[i] * sizeof *t);
  }
  for (int32_t i = 0; i < g->segment_count && g->scaling != NULL; i++) {
    int32_t middle = g->segments[i].middle;
    if (middle < 0)
      continue;
    double *rows = qb_arena_alloc(&g->arena, (size_t)g->channels[middle], sizeof *rows);
    double *columns = qb_arena_alloc(&g->arena, (size_t)g->channels[middle], sizeof *columns);
    if (rows == NULL || columns == NULL)
      return qb_fail_memory(g->s->error, "weights", (size_t)g->channels[middle] * sizeof *rows);
    balance(&g->segments[i], g->channels[middle], rows, columns, g->scaling[middle]);
  }
  return g->scaling == NULL ? qb_fail_memory(g->s->error, "weights", sizeof *g->scaling) : QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- the search */

/* Between 1/16 and 16, no powers of two. */
static void draw(grouping *g) {
  qb_rng rng;
  qb_rng_seed(&rng, g->s->settings->drawn_weights, 0);
  for (int32_t i = 0; i < g->group_count; i++)
    for (int64_t c = 0; c < g->channels[i]; c++)
      g->scaling[i][c] = exp2(qb_rng_range(&rng, -4, 4));
}

static qb_status choose(grouping *g) {
  size_t values = (size_t)g->graph->value_count, nodes = (size_t)g->graph->node_count;
  g->parent = qb_arena_alloc(&g->arena, values, sizeof *g->parent);
  g->pinned = qb_arena_alloc(&g->arena, values, sizeof *g->pinned);
  g->group = qb_arena_alloc(&g->arena, values, sizeof *g->group);
  g->channels = qb_arena_alloc(&g->arena, values, sizeof *g->channels);
  g->segments = qb_arena_alloc(&g->arena, nodes, sizeof *g->segments);
  g->used = qb_arena_alloc(&g->arena, nodes, sizeof *g->used);
  if (g->parent == NULL || g->pinned == NULL || g->group == NULL || g->channels == NULL || g->segments == NULL ||
      g->used == NULL)
    return qb_fail_memory(g->s->error, "weights", values * sizeof *g->channels);
  find_groups(g);
  QB_TRY(find_segments(g));
  if (g->group_count == 0)
    return QB_OK;
  QB_TRY(start(g));
  qb_scaling_problem problem = {.segments = g->segments,
                                .segment_count = g->segment_count,
                                .group_count = g->group_count,
                                .channels = g->channels,
                                .iterations = g->s->settings->scaling_iterations};
  if (g->s->settings->drawn_weights != 0)
    draw(g);
  else if (problem.iterations > 0)
    QB_TRY(qb_scaling_search(&problem, g->scaling, g->s->error));
  for (qb_value_id v = 0; v < g->graph->value_count; v++) {
    if (g->graph->values[v].is_constant || g->group[root_of(g, v)] < 0)
      continue;
    g->s->between[v] = g->scaling[g->group[root_of(g, v)]];
    if (g->s->settings->weights)
      g->s->result->weights[v] = g->s->between[v];
  }
  return QB_OK;
}

qb_status spectral_choose_weights(spectral *s) {
  grouping g = {.s = s, .graph = s->pair->quantized};
  if (!s->settings->windows)
    return QB_OK;
  qb_arena_init(&g.arena);
  qb_status status = choose(&g);
  qb_arena_free(&g.arena);
  return status;
}

/* ------------------------------------------------------------------------------------------------------------- use */

static int64_t channel_count(const spectral *s, qb_value_id v) { return s->pair->quantized->values[v].shape.dims[1]; }

double spectral_largest_inverse(const spectral *s, qb_value_id v) {
  const double *t = s->result->weights[v];
  double largest = t == NULL ? 1 : 0;
  for (int64_t c = 0; t != NULL && c < channel_count(s, v); c++)
    largest = fmax(largest, round_up(1 / t[c]));
  return largest;
}

double spectral_largest_weight(const spectral *s, qb_value_id v) {
  const double *t = s->result->weights[v];
  double largest = t == NULL ? 1 : 0;
  for (int64_t c = 0; t != NULL && c < channel_count(s, v); c++)
    largest = fmax(largest, t[c]);
  return largest;
}

double spectral_ratio(const spectral *s, qb_value_id from, qb_value_id to) {
  const double *a = s->result->weights[from], *b = s->result->weights[to];
  double largest = 0;
  if (a == b || qb_bound_fault == QB_FAULT_SUM_KEEPS_WEIGHTS)
    return 1;
  for (int64_t c = 0; c < channel_count(s, a != NULL ? from : to); c++)
    largest = fmax(largest, round_up((a == NULL ? 1 : a[c]) / (b == NULL ? 1 : b[c])));
  return largest;
}

qb_status spectral_weigh(const spectral *s, const qb_kernel *kernel, const double *right, const double *left,
                         qb_arena *arena, qb_kernel *weighted) {
  double *inverse = NULL;
  *weighted = *kernel;
  if (right == NULL && left == NULL)
    return QB_OK;
  if (left != NULL && qb_bound_fault != QB_FAULT_SCALE_WITHOUT_INVERSE) {
    inverse = qb_arena_alloc(arena, (size_t)kernel->rows, sizeof *inverse);
    if (inverse == NULL)
      return qb_fail_memory(s->error, "weights", (size_t)kernel->rows * sizeof *inverse);
    for (int64_t r = 0; r < kernel->rows; r++)
      inverse[r] = 1 / left[r];
  }
  return qb_kernel_scale(kernel, inverse, right, arena, weighted, s->error);
}
