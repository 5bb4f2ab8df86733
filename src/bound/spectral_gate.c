/* Centred gates over two layers and over residual blocks (theory section 3.1, proof in section 9).
 *
 *   u = W1 x + b1,  h = relu(u) or clip(u),  y = A x + W2 h + b2
 * For two inputs of one network h - h~ = G W1 (x - x~) with G diagonal in [0,1]. On a torus where the image is
 * embedded by zeros G is 0 outside the image, which undoes the crop between the layers, so torus norms hold in both
 * terms of sup_G ||A + W2 G W1|| <= ||A + W2 W1 / 2|| + ||W2 T|| ||T^-1 W1|| / 2. */
#include <string.h>

#include "base/error.h"
#include "bound/fault.h"
#include "bound/spectral_internal.h"

/* Every how many steps the search for T looks at all frequencies instead of the peaks: small layers can afford it. */
static int full_search(int64_t channels) { return channels <= 32 ? 1 : 4; }

/* Nodes of the quantized graph. */
typedef struct window {
  qb_linear inner, outer, skip; /* W1, W2, A */
  bool has_skip;                /* y has a branch besides W2 h */
  bool skip_is_identity;
  qb_value_id x;
} window;

typedef struct window_kernels {
  qb_kernel inner, outer, skip;
} window_kernels;

/* ---------------------------------------------------------------------------------------------- finding windows */

static qb_node_id producer_of(const qb_graph *graph, qb_value_id id) { return graph->values[id].producer; }

static bool single_group_layer(const spectral *s, qb_node_id node, qb_linear *linear) {
  const qb_graph *graph = s->pair->quantized;
  return node != QB_NONE && s->pair->partner[node] != QB_NONE && graph->nodes[node].op != QB_OP_CONV_TRANSPOSE &&
         qb_graph_linear(graph, node, linear) && linear->group == 1;
}

static bool has_stride(const qb_graph *graph, const qb_linear *linear, int32_t stride_y, int32_t stride_x) {
  const qb_node *node = &graph->nodes[linear->node];
  if (node->op != QB_OP_CONV)
    return stride_y == 1 && stride_x == 1;
  return node->attributes.conv.window.stride[0] == stride_y && node->attributes.conv.window.stride[1] == stride_x;
}

/* Limits are compared here rather than believed from pair->clip_differences: two clips are one gate only when they are
 * one function. */
static bool same_limits(const qb_clip_attributes *a, const qb_clip_attributes *b) {
  return a->lo == b->lo && a->hi == b->hi && a->hi_channels == NULL && b->hi_channels == NULL;
}

/* An elementwise function with slopes in [0,1], the same in both networks. */
static bool is_gate(const spectral *s, qb_node_id node) {
  if (node == QB_NONE || s->pair->partner[node] == QB_NONE)
    return false;
  const qb_node *ours = &s->pair->quantized->nodes[node];
  const qb_node *theirs = &s->pair->original->nodes[s->pair->partner[node]];
  if (ours->op == QB_OP_RELU)
    return theirs->op == QB_OP_RELU;
  return ours->op == QB_OP_CLIP && theirs->op == QB_OP_CLIP &&
         same_limits(&ours->attributes.clip, &theirs->attributes.clip);
}

/* W2 G W1 ending at linear node `node`. */
static bool match_chain(const spectral *s, qb_node_id node, window *w) {
  const qb_graph *graph = s->pair->quantized;
  if (!single_group_layer(s, node, &w->outer) || !has_stride(graph, &w->outer, 1, 1))
    return false;
  qb_node_id gate = producer_of(graph, graph->nodes[node].inputs[0]);
  if (!is_gate(s, gate))
    return false;
  qb_node_id inner = producer_of(graph, graph->nodes[gate].inputs[0]);
  if (!single_group_layer(s, inner, &w->inner) || graph->nodes[inner].op != graph->nodes[node].op)
    return false;
  w->x = graph->nodes[inner].inputs[0];
  return true;
}

/* The other branch of an Add: x itself, or one layer on x with the stride of W1. */
static bool match_skip(const spectral *s, qb_value_id branch, window *w) {
  const qb_graph *graph = s->pair->quantized;
  w->has_skip = true;
  w->skip_is_identity = branch == w->x;
  if (w->skip_is_identity)
    return has_stride(graph, &w->inner, 1, 1);
  qb_node_id node = producer_of(graph, branch);
  if (!single_group_layer(s, node, &w->skip) || graph->nodes[node].inputs[0] != w->x ||
      graph->nodes[node].op != QB_OP_CONV || graph->nodes[w->inner.node].op != QB_OP_CONV)
    return false;
  const int32_t *stride = graph->nodes[w->inner.node].attributes.conv.window.stride;
  return has_stride(graph, &w->skip, stride[0], stride[1]);
}

static bool match_window(const spectral *s, qb_node_id id, window *w) {
  const qb_node *node = &s->pair->quantized->nodes[id];
  *w = (window){.x = QB_NONE};
  if (node->op != QB_OP_ADD)
    return match_chain(s, id, w);
  for (int side = 0; side < 2; side++) {
    qb_node_id last = producer_of(s->pair->quantized, node->inputs[side]);
    if (last != QB_NONE && match_chain(s, last, w) && match_skip(s, node->inputs[1 - side], w))
      return true;
  }
  return false;
}

/* ------------------------------------------------------------------------------------------------------- kernels */

/* The kernels of the window in one of the two networks. */
static qb_status load_kernels(spectral *s, const window *w, bool original, window_kernels *k) {
  const qb_graph *graph = original ? s->pair->original : s->pair->quantized;
  const qb_linear *layers[3] = {&w->inner, &w->outer, w->has_skip && !w->skip_is_identity ? &w->skip : NULL};
  qb_kernel *kernels[3] = {&k->inner, &k->outer, &k->skip};
  for (int i = 0; i < 3; i++) {
    qb_linear linear;
    if (layers[i] == NULL)
      continue;
    qb_graph_linear(graph, original ? s->pair->partner[layers[i]->node] : layers[i]->node, &linear);
    QB_TRY(qb_kernel_create(graph, &linear, spectral_constant(graph, linear.weight), NULL, &s->scratch, kernels[i],
                            s->error));
  }
  return w->skip_is_identity ? qb_kernel_identity(k->inner.cols, &s->scratch, &k->skip, s->error) : QB_OK;
}

static int64_t spatial_side(const qb_graph *graph, qb_value_id id, int axis) {
  const qb_shape *shape = &graph->values[id].shape;
  return shape->rank == 4 ? shape->dims[2 + axis] : 1;
}

/* One torus for all kernels of the window. */
static void window_torus(const spectral *s, const window *w, const window_kernels *k, int64_t side[2]) {
  const qb_graph *graph = s->pair->quantized;
  qb_value_id middle = graph->nodes[w->inner.node].output;
  for (int axis = 0; axis < 2; axis++) {
    int64_t stride = k->inner.stride[axis];
    int64_t first = qb_kernel_torus_side(&k->inner, axis, spatial_side(graph, w->x, axis));
    int64_t second = stride * qb_kernel_torus_side(&k->outer, axis, spatial_side(graph, middle, axis));
    int64_t third = w->has_skip ? qb_kernel_torus_side(&k->skip, axis, spatial_side(graph, w->x, axis)) : 1;
    int64_t largest = first > second ? first : second;
    largest = largest > third ? largest : third;
    side[axis] = (largest + stride - 1) / stride * stride;
  }
}

/* ---------------------------------------------------------------------------------------------- the scaling T */

static double row_norm(const qb_kernel *k, int64_t row, bool column) {
  int64_t area = (int64_t)k->size[0] * k->size[1], length = column ? k->rows : k->cols;
  double square = 0;
  for (int64_t t = 0; t < area; t++)
    for (int64_t i = 0; i < length; i++) {
      int64_t at = column ? i * k->cols + row : row * k->cols + i;
      double entry = k->taps[t * k->rows * k->cols + at];
      square += entry * entry;
    }
  return sqrt(square);
}

/* The start of the search: equal norms of row c of W1 and column c of W2. */
static void balanced_scaling(const window_kernels *k, double *scaling) {
  double largest_row = 0, largest_column = 0;
  for (int64_t c = 0; c < k->inner.rows; c++) {
    largest_row = fmax(largest_row, row_norm(&k->inner, c, false));
    largest_column = fmax(largest_column, row_norm(&k->outer, c, true));
  }
  for (int64_t c = 0; c < k->inner.rows; c++) {
    double row = fmax(row_norm(&k->inner, c, false), 1e-3 * largest_row);
    double column = fmax(row_norm(&k->outer, c, true), 1e-3 * largest_column);
    scaling[c] = row > 0 && column > 0 ? sqrt(row / column) : 1;
  }
}

/* W2 T and T^-1 W1. */
static qb_status scale_pair(spectral *s, const window_kernels *k, const double *scaling, qb_kernel *inner,
                            qb_kernel *outer) {
  double *inverse = qb_arena_alloc(&s->scratch, (size_t)k->inner.rows, sizeof *inverse);
  if (inverse == NULL)
    return qb_fail_memory(s->error, "scaling", (size_t)k->inner.rows * sizeof *inverse);
  for (int64_t c = 0; c < k->inner.rows; c++)
    inverse[c] = 1 / scaling[c];
  QB_TRY(qb_kernel_scale(&k->inner, inverse, NULL, &s->scratch, inner, s->error));
  return qb_kernel_scale(&k->outer, NULL, scaling, &s->scratch, outer, s->error);
}

/* One step of the search: the logarithm of ||W2 T|| ||T^-1 W1|| has the gradient |v_c|^2 - |u_c|^2 in log t_c, where v
 * and u are the dominant right and left singular vectors. Returns the product at the current scaling. */
static qb_status scaling_step(spectral *s, const window_kernels *k, const int64_t side[2], double step,
                              qb_sigma_peaks peaks[2], double *scaling, double *product) {
  int64_t channels = k->inner.rows;
  qb_arena_mark mark = qb_arena_get_mark(&s->scratch);
  double *v = qb_arena_alloc(&s->scratch, (size_t)channels, sizeof *v);
  double *u = qb_arena_alloc(&s->scratch, (size_t)channels, sizeof *u);
  qb_kernel inner, outer;
  double first = 0, second = 0;
  if (v == NULL || u == NULL)
    return qb_fail_memory(s->error, "scaling", (size_t)channels * sizeof *v);
  QB_TRY(scale_pair(s, k, scaling, &inner, &outer));
  qb_sigma_problem one = {.inner = &inner, .side = {side[0], side[1]}};
  qb_sigma_problem two = {.inner = &outer, .side = {side[0] / inner.stride[0], side[1] / inner.stride[1]}};
  QB_TRY(qb_sigma_estimate(&one, &peaks[0], &first, u, NULL, s->error));
  QB_TRY(qb_sigma_estimate(&two, &peaks[1], &second, NULL, v, s->error));
  *product = first * second;
  double floor = 0.1 / (double)channels;
  for (int64_t c = 0; c < channels; c++)
    scaling[c] *= pow((u[c] + floor) / (v[c] + floor), step);
  qb_arena_rewind(&s->scratch, mark);
  return QB_OK;
}

static qb_status find_scaling(spectral *s, const window_kernels *k, const int64_t side[2], double *best) {
  int64_t channels = k->inner.rows;
  double *trial = qb_arena_alloc(&s->scratch, (size_t)channels, sizeof *trial);
  double *current = qb_arena_alloc(&s->scratch, (size_t)channels, sizeof *current);
  qb_sigma_peaks peaks[2] = {{0}};
  double smallest = INFINITY;
  if (trial == NULL || current == NULL)
    return qb_fail_memory(s->error, "scaling", (size_t)channels * sizeof *trial);
  balanced_scaling(k, best);
  memcpy(trial, best, (size_t)channels * sizeof *trial);
  int iterations = s->settings->scaling_iterations;
  if (channels > 64) /* the cost grows with the cube of the channels, the gain does not */
    iterations = iterations * 64 / (int)channels;
  for (int i = 0; i < iterations; i++) {
    double product = 0;
    if (i % full_search(channels) == 0) /* the peaks move with the scaling: look at every frequency again */
      peaks[0].count = peaks[1].count = 0;
    memcpy(current, trial, (size_t)channels * sizeof *current);
    QB_TRY(scaling_step(s, k, side, (channels > 64 ? 0.4 : 0.25) / (1 + 0.15 * i), peaks, trial, &product));
    if (product < smallest) {
      smallest = product;
      memcpy(best, current, (size_t)channels * sizeof *best);
    }
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------ the gate's norm */

/* sup_G ||A + W2 G W1||, from certified norms. */
static double gate_value(const qb_spectral_gate_norms *norms) {
  return add_up(norms->joint, multiply_up(0.5, multiply_up(norms->outer, norms->inner)));
}

/* Certified, for any positive scaling. */
static qb_status gate_norms(spectral *s, const window *w, const window_kernels *k, const int64_t side[2],
                            const double *scaling, qb_spectral_gate_norms *norms) {
  qb_kernel inner, outer;
  qb_sigma_problem whole = {.inner = &k->inner,
                            .outer = &k->outer,
                            .skip = w->has_skip ? &k->skip : NULL,
                            .side = {side[0], side[1]}};
  QB_TRY(qb_sigma_bound(&whole, &norms->joint, s->error));
  QB_TRY(scale_pair(s, k, scaling, &inner, &outer));
  qb_sigma_problem one = {.inner = &inner, .side = {side[0], side[1]}};
  qb_sigma_problem two = {.inner = &outer, .side = {side[0] / inner.stride[0], side[1] / inner.stride[1]}};
  QB_TRY(qb_sigma_bound(&one, &norms->inner, s->error));
  if (qb_bound_fault == QB_FAULT_GATE_WITHOUT_SLACK)
    norms->inner = 0;
  return qb_sigma_bound(&two, &norms->outer, s->error);
}

/* ||A' + W2' G W1'|| <= ||A + W2 G W1|| + ||dA|| + ||dW2|| ||W1'|| + ||W2|| ||dW1||. */
static double perturbed_norm(const spectral *s, const window *w, double original) {
  const qb_spectral_layer *first = &s->result->layers[w->inner.node], *second = &s->result->layers[w->outer.node];
  bool has_layer = w->has_skip && !w->skip_is_identity;
  double skip = has_layer ? s->result->layers[w->skip.node].sigma_difference : 0;
  double moved = add_up(multiply_up(second->sigma_difference, first->sigma_quantized),
                        multiply_up(second->sigma, first->sigma_difference));
  return add_up(original, add_up(skip, moved));
}

static bool is_large(const spectral *s, const window_kernels *k) {
  int64_t channels = k->inner.rows > k->outer.rows ? k->inner.rows : k->outer.rows;
  return channels > s->settings->exact_channels;
}

/* Both norms of the window, and in *gate what proves them. */
static qb_status window_norms(spectral *s, const window *w, qb_node_id node, double *original, double *quantized) {
  window_kernels k[2];
  qb_spectral_gate *gate = &s->result->gates[s->result->gate_count];
  QB_TRY(load_kernels(s, w, true, &k[0]));
  QB_TRY(load_kernels(s, w, false, &k[1]));
  *gate = (qb_spectral_gate){.node = node, .channels = k[0].inner.rows};
  window_torus(s, w, &k[0], gate->side);
  double *scaling = qb_arena_alloc(&s->result->arena, (size_t)gate->channels, sizeof *scaling);
  if (scaling == NULL)
    return qb_fail_memory(s->error, "scaling", (size_t)gate->channels * sizeof *scaling);
  gate->scaling = scaling;
  s->result->gate_count++;
  QB_TRY(find_scaling(s, &k[0], gate->side, scaling));
  QB_TRY(gate_norms(s, w, &k[0], gate->side, scaling, &gate->original));
  *original = gate_value(&gate->original);
  *quantized = perturbed_norm(s, w, *original);
  gate->perturbed = is_large(s, &k[0]) && *quantized <= 1.05 * *original;
  if (gate->perturbed)
    return QB_OK;
  QB_TRY(gate_norms(s, w, &k[1], gate->side, scaling, &gate->quantized));
  *quantized = gate_value(&gate->quantized);
  return QB_OK;
}

/* A pair of layers inside a residual block, whose sum with the skip has a window of its own that serves better. */
static bool is_inside_block(const spectral *s, qb_node_id node) {
  const qb_graph *graph = s->pair->quantized;
  qb_value_id output = graph->nodes[node].output;
  window block;
  if (graph->nodes[node].op == QB_OP_ADD || qb_graph_use_count(graph, output) != 1)
    return false;
  for (qb_node_id n = node + 1; n < graph->node_count; n++)
    for (int32_t slot = 0; slot < graph->nodes[n].input_count; slot++)
      if (graph->nodes[n].inputs[slot] == output)
        return graph->nodes[n].op == QB_OP_ADD && match_window(s, n, &block) && block.outer.node == node;
  return false;
}

qb_status spectral_gate(spectral *s, qb_node_id node) {
  window w;
  double original = INFINITY, quantized = INFINITY;
  if (!s->settings->windows || !match_window(s, node, &w) || is_inside_block(s, node))
    return QB_OK;
  QB_TRY(window_norms(s, &w, node, &original, &quantized));

  const qb_graph *graph = s->pair->quantized;
  qb_spectral_state *out = &s->result->states[graph->nodes[node].output];
  const qb_spectral_state *x = &s->result->states[w.x];
  const spectral_terms *first = &s->terms[w.inner.node], *second = &s->terms[w.outer.node];
  double sigma = s->result->layers[w.outer.node].sigma;
  double sigma_quantized = s->result->layers[w.outer.node].sigma_quantized;
  double drift = add_up(multiply_up(sigma, first->drift), second->drift);
  double passed_on = qb_bound_fault == QB_FAULT_GATE_DROPS_FIRST ? 0 : first->injection;
  double injection = add_up(multiply_up(sigma_quantized, passed_on), second->injection);
  if (w.has_skip) {
    const spectral_terms *skip = w.skip_is_identity ? NULL : &s->terms[w.skip.node];
    drift = add_up(drift, add_up(skip == NULL ? 0 : skip->drift, s->terms[node].drift));
    injection = add_up(injection, skip == NULL ? 0 : skip->injection);
  }
  out->spread = fmin(out->spread, add_up(multiply_up(original, x->spread), drift));
  out->error = fmin(out->error, add_up(multiply_up(quantized, x->error), injection));
  s->result->layers[node].gate = original;
  s->result->layers[node].gate_quantized = quantized;
  return QB_OK;
}
