/* Centred gates over two layers and over residual blocks (theory section 3.1, proof in section 9).
 *
 *   u = W1 x + b1,  h = relu(u) or clip(u),  y = A x + W2 h + b2
 * For two inputs of one network h - h~ = G W1 (x - x~) with G diagonal in [0,1]. On a torus where the image is
 * embedded by zeros G is 0 outside the image, which undoes the crop between the layers, so torus norms hold in both
 * terms of sup_G ||A + W2 G W1|| <= ||A + W2 W1 / 2|| + ||W2 T|| ||T^-1 W1|| / 2. */
#include <assert.h>

#include "base/error.h"
#include "bound/fault.h"
#include "bound/spectral_internal.h"

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
static bool match_chain(const spectral *s, qb_node_id node, gate_window *w) {
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
static bool match_skip(const spectral *s, qb_value_id branch, gate_window *w) {
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

static bool match_window(const spectral *s, qb_node_id id, gate_window *w) {
  const qb_node *node = &s->pair->quantized->nodes[id];
  *w = (gate_window){.x = QB_NONE};
  if (node->op != QB_OP_ADD)
    return match_chain(s, id, w);
  for (int side = 0; side < 2; side++) {
    qb_node_id last = producer_of(s->pair->quantized, node->inputs[side]);
    if (last != QB_NONE && match_chain(s, last, w) && match_skip(s, node->inputs[1 - side], w))
      return true;
  }
  return false;
}

/* A pair of layers inside a residual block, whose sum with the skip has a window of its own that serves better. */
static bool is_inside_block(const spectral *s, qb_node_id node) {
  const qb_graph *graph = s->pair->quantized;
  qb_value_id output = graph->nodes[node].output;
  gate_window block;
  if (graph->nodes[node].op == QB_OP_ADD || qb_graph_use_count(graph, output) != 1)
    return false;
  for (qb_node_id n = node + 1; n < graph->node_count; n++)
    for (int32_t slot = 0; slot < graph->nodes[n].input_count; slot++)
      if (graph->nodes[n].inputs[slot] == output)
        return graph->nodes[n].op == QB_OP_ADD && match_window(s, n, &block) && block.outer.node == node;
  return false;
}

bool spectral_window(const spectral *s, qb_node_id node, gate_window *w) {
  return s->settings->windows && match_window(s, node, w) && !is_inside_block(s, node);
}

/* ------------------------------------------------------------------------------------------------------- kernels */

qb_status spectral_window_kernels(const spectral *s, const gate_window *w, bool original, qb_arena *arena,
                                  window_kernels *k) {
  const qb_graph *graph = original ? s->pair->original : s->pair->quantized;
  const qb_linear *layers[3] = {&w->inner, &w->outer, w->has_skip && !w->skip_is_identity ? &w->skip : NULL};
  qb_kernel *kernels[3] = {&k->inner, &k->outer, &k->skip};
  for (int i = 0; i < 3; i++) {
    qb_linear linear;
    if (layers[i] == NULL)
      continue;
    qb_graph_linear(graph, original ? s->pair->partner[layers[i]->node] : layers[i]->node, &linear);
    QB_TRY(
        qb_kernel_create(graph, &linear, qb_graph_constant(graph, linear.weight), NULL, arena, kernels[i], s->error));
  }
  return w->skip_is_identity ? qb_kernel_identity(k->inner.cols, arena, &k->skip, s->error) : QB_OK;
}

static int64_t spatial_side(const qb_graph *graph, qb_value_id id, int axis) {
  const qb_shape *shape = &graph->values[id].shape;
  return shape->rank == 4 ? shape->dims[2 + axis] : 1;
}

void spectral_window_torus(const spectral *s, const gate_window *w, const window_kernels *k, int64_t side[2]) {
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

/* ------------------------------------------------------------------------------------------------ the gate's norm */

/* sup_G ||A + W2 G W1||, from certified norms. */
static double gate_value(const qb_spectral_gate_norms *norms) {
  return add_up(norms->joint, multiply_up(0.5, multiply_up(norms->outer, norms->inner)));
}

/* T_out^-1 A T_in, T_out^-1 W2 T_middle, T_middle^-1 W1 T_in, and W1, W2 without the middle in `joint`. */
static qb_status weigh_window(const spectral *s, const gate_window *w, qb_value_id out, const window_kernels *k,
                              qb_arena *arena, window_kernels *weighted, window_kernels *joint) {
  const double *left = s->result->weights[out], *right = s->result->weights[w->x];
  const double *middle = s->between[s->pair->quantized->nodes[w->inner.node].output];
  *weighted = *joint = *k;
  QB_TRY(spectral_weigh(s, &k->inner, right, middle, arena, &weighted->inner));
  QB_TRY(spectral_weigh(s, &k->outer, middle, left, arena, &weighted->outer));
  QB_TRY(spectral_weigh(s, &k->inner, right, NULL, arena, &joint->inner));
  QB_TRY(spectral_weigh(s, &k->outer, NULL, left, arena, &joint->outer));
  return w->has_skip && qb_bound_fault != QB_FAULT_SKIP_UNWEIGHTED
             ? spectral_weigh(s, &k->skip, right, left, arena, &joint->skip)
             : QB_OK;
}

static bool same_side(const int64_t a[2], const int64_t b[2]) { return a[0] == b[0] && a[1] == b[1]; }

/* A factor of the window. `known` is its norm on the torus of its own, which is often this one; 0: none. */
static qb_status factor_norm(const spectral *s, const qb_linear *linear, const qb_kernel *kernel, const int64_t side[2],
                             double known, double *sigma) {
  int64_t own[2];
  qb_sigma_problem problem = {.inner = kernel, .side = {side[0], side[1]}};
  spectral_layer_torus(s->pair->quantized, linear, kernel, own);
  *sigma = known;
  return known > 0 && same_side(own, side) ? QB_OK : spectral_norm(s, &problem, sigma);
}

/* Certified norms in one network: k weighted, `joint` for the sum. */
static qb_status gate_norms(spectral *s, const gate_window *w, const window_kernels *k, const window_kernels *joint,
                            const int64_t side[2], bool original, qb_spectral_gate_norms *norms) {
  const qb_spectral_layer *first = &s->result->layers[w->inner.node], *second = &s->result->layers[w->outer.node];
  qb_value_id middle = s->pair->quantized->nodes[w->inner.node].output;
  bool known = s->between[middle] == s->result->weights[middle]; /* then the layers' norms are these */
  double one = original ? first->sigma : first->sigma_quantized;
  double two = original ? second->sigma : second->sigma_quantized;
  int64_t half[2] = {side[0] / k->inner.stride[0], side[1] / k->inner.stride[1]};
  qb_sigma_problem whole = {.inner = &joint->inner,
                            .outer = &joint->outer,
                            .skip = w->has_skip ? &joint->skip : NULL,
                            .side = {side[0], side[1]}};
  QB_TRY(spectral_norm(s, &whole, &norms->joint));
  QB_TRY(factor_norm(s, &w->inner, &k->inner, side, known ? one : 0, &norms->inner));
  QB_TRY(factor_norm(s, &w->outer, &k->outer, half, known ? two : 0, &norms->outer));
  if (qb_bound_fault == QB_FAULT_GATE_WITHOUT_SLACK)
    norms->inner = 0;
  return QB_OK;
}

/* ||A' + W2' G W1'|| <= ||A + W2 G W1|| + ||dA|| + ||dW2|| ||W1'|| + ||W2|| ||dW1||. */
static double perturbed_norm(const spectral *s, const gate_window *w, double original) {
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

/* T of the tensor between the layers, ones included. */
static qb_status gate_scaling(spectral *s, const gate_window *w, qb_spectral_gate *gate) {
  const double *t = s->between[s->pair->quantized->nodes[w->inner.node].output];
  double *scaling = qb_arena_alloc(&s->result->arena, (size_t)gate->channels, sizeof *scaling);
  if (scaling == NULL)
    return qb_fail_memory(s->error, "scaling", (size_t)gate->channels * sizeof *scaling);
  for (int64_t c = 0; c < gate->channels; c++)
    scaling[c] = t == NULL ? 1 : t[c];
  gate->scaling = scaling;
  return QB_OK;
}

/* The kernels of one network and its norms. */
static qb_status network_norms(spectral *s, const gate_window *w, qb_value_id out, bool original,
                               qb_spectral_gate *gate) {
  window_kernels plain, k, joint;
  qb_arena_mark mark = qb_arena_get_mark(&s->scratch);
  QB_TRY(spectral_window_kernels(s, w, original, &s->scratch, &plain));
  QB_TRY(weigh_window(s, w, out, &plain, &s->scratch, &k, &joint));
  if (original) {
    spectral_window_torus(s, w, &k, gate->side);
    gate->channels = k.inner.rows;
    gate->perturbed = is_large(s, &k);
  }
  QB_TRY(gate_norms(s, w, &k, &joint, gate->side, original, original ? &gate->original : &gate->quantized));
  qb_arena_rewind(&s->scratch, mark);
  return QB_OK;
}

/* Both norms of the window, and in *gate what proves them. */
static qb_status window_norms(spectral *s, const gate_window *w, qb_node_id node, double *original, double *quantized) {
  qb_spectral_gate *gate = &s->result->gates[s->result->gate_count];
  qb_value_id out = s->pair->quantized->nodes[node].output;
  *gate = (qb_spectral_gate){.node = node};
  QB_TRY(network_norms(s, w, out, true, gate));
  QB_TRY(gate_scaling(s, w, gate));
  s->result->gate_count++;
  *original = gate_value(&gate->original);
  *quantized = perturbed_norm(s, w, *original);
  gate->perturbed = gate->perturbed && *quantized <= 1.05 * *original;
  if (gate->perturbed)
    return QB_OK;
  QB_TRY(network_norms(s, w, out, false, gate));
  *quantized = gate_value(&gate->quantized);
  return QB_OK;
}

/* What an earlier bound found. */
static void given_norms(const spectral *s, const gate_window *w, qb_node_id node, double *original, double *quantized) {
  for (int32_t k = 0; k < s->given->gate_count; k++) {
    const qb_spectral_gate *gate = &s->given->gates[k];
    if (gate->node != node)
      continue;
    *original = gate_value(&gate->original);
    *quantized = gate->perturbed ? perturbed_norm(s, w, *original) : gate_value(&gate->quantized);
  }
}

qb_status spectral_gate(spectral *s, qb_node_id node) {
  gate_window w;
  double original = INFINITY, quantized = INFINITY;
  if (!spectral_window(s, node, &w))
    return QB_OK;
  if (s->given != NULL)
    given_norms(s, &w, node, &original, &quantized);
  else
    QB_TRY(window_norms(s, &w, node, &original, &quantized));

  const qb_graph *graph = s->pair->quantized;
  assert(s->result->weights[graph->nodes[node].output] == s->result->weights[graph->nodes[w.outer.node].output]);
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
    injection = add_up(injection, add_up(skip == NULL ? 0 : skip->injection, s->terms[node].injection));
  }
  out->spread = fmin(out->spread, add_up(multiply_up(original, x->spread), drift));
  out->error = fmin(out->error, add_up(multiply_up(quantized, x->error), injection));
  s->result->layers[node].gate = original;
  s->result->layers[node].gate_quantized = quantized;
  return QB_OK;
}
