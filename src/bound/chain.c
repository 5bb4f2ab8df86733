/* Extracting the chain of linear layers and deciding whether it is the whole network. */
#include "bound/chain.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* ----------------------------------------------------------------------------------------------------- downsamples */

/* The value before `id` on the way to the network's input, or QB_NONE. */
static qb_value_id previous(const qb_graph *graph, qb_value_id id) {
  qb_node_id producer = graph->values[id].producer;
  return producer == QB_NONE ? QB_NONE : graph->nodes[producer].inputs[0];
}

/* Number of linear layers from `from` back to `fork`; marks them when asked. */
static int32_t count_branch(const qb_graph *graph, qb_value_id from, qb_value_id fork, bool *mark) {
  qb_linear linear;
  int32_t count = 0;
  for (qb_value_id v = from; v != fork; v = previous(graph, v))
    if (qb_graph_linear(graph, graph->values[v].producer, &linear)) {
      count++;
      if (mark != NULL)
        mark[graph->values[v].producer] = true;
    }
  return count;
}

/* The first value on the path back from `b` that also lies on the path back from `a`; QB_NONE when they never meet. */
static qb_value_id find_fork(const qb_graph *graph, qb_value_id a, qb_value_id b, bool *on_path) {
  memset(on_path, 0, (size_t)graph->value_count * sizeof *on_path);
  for (qb_value_id v = a; v != QB_NONE; v = previous(graph, v))
    on_path[v] = true;
  while (b != QB_NONE && !on_path[b])
    b = previous(graph, b);
  return b;
}

qb_status qb_chain_find_downsamples(const qb_graph *graph, bool *downsample, qb_error *error) {
  bool *on_path = qb_alloc((size_t)graph->value_count, sizeof *on_path);
  if (on_path == NULL)
    return qb_fail_memory(error, "chain of layers", (size_t)graph->value_count);
  memset(downsample, 0, (size_t)graph->node_count * sizeof *downsample);
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    if (node->op != QB_OP_ADD || graph->values[node->inputs[0]].is_constant ||
        graph->values[node->inputs[1]].is_constant)
      continue;
    qb_value_id fork = find_fork(graph, node->inputs[0], node->inputs[1], on_path);
    if (fork == QB_NONE)
      continue;
    int32_t first = count_branch(graph, node->inputs[0], fork, NULL);
    int32_t second = count_branch(graph, node->inputs[1], fork, NULL);
    if (first != second)
      count_branch(graph, first < second ? node->inputs[0] : node->inputs[1], fork, downsample);
  }
  qb_free(on_path);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------ is it the network */

/* Maps phi with |phi(x) - phi(y)| <= |x - y| and phi(0) = 0 in the largest-entry norm, from one activation. */
static bool is_contraction(const qb_node *node) {
  const qb_attributes *a = &node->attributes;
  switch (node->op) {
  case QB_OP_RELU:
  case QB_OP_TANH:
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN:
  case QB_OP_TRANSPOSE: return true;
  case QB_OP_LEAKY_RELU: return a->linear.alpha >= -1 && a->linear.alpha <= 1;
  case QB_OP_CLIP: return a->clip.lo <= 0 && a->clip.hi >= 0 && a->clip.hi_channels == NULL;
  case QB_OP_PAD: return a->pad.value == 0;
  default: return qb_op_is_reshape(node->op);
  }
}

static void is_not_network(qb_chain *chain, const char *node, const char *reason) {
  chain->is_network = false;
  snprintf(chain->why_not, sizeof chain->why_not, "node '%.80s': %s", node, reason);
}

/* Walks from the output back to the input and stops at the first node that is not part of a chain. */
static void decide_is_network(qb_chain *chain) {
  const qb_graph *graph = chain->graph;
  qb_linear linear;
  int32_t layers = 0;
  chain->is_network = true;
  if (graph->input_count != 1 || graph->output_count != 1) {
    is_not_network(chain, graph->name, "more than one input or output");
    return;
  }
  qb_value_id v = graph->outputs[0];
  for (; v != QB_NONE && chain->is_network; v = previous(graph, v)) {
    qb_node_id producer = graph->values[v].producer;
    if (producer == QB_NONE)
      break;
    if (qb_graph_linear(graph, producer, &linear))
      layers++;
    else if (!is_contraction(&graph->nodes[producer]))
      is_not_network(chain, graph->nodes[producer].name,
                     "the network is not a chain of layers and maps that do not expand");
  }
  if (chain->is_network && v != graph->inputs[0])
    is_not_network(chain, graph->name, "the output does not depend on the input");
  if (chain->is_network && layers != chain->count) /* a layer off the path may have a norm below 1 */
    is_not_network(chain, graph->name, "some layers do not lie on the path from input to output");
  if (chain->is_network && (chain->dropped_biases || chain->dropped_downsamples || chain->dropped_dense ||
                            chain->conventions.width_channels))
    is_not_network(chain, graph->name, "the conventions leave a part out");
}

/* ----------------------------------------------------------------------------------------------------- extraction */

static double units(const qb_graph *graph, qb_value_id value, bool channels) {
  const qb_shape *shape = &graph->values[value].shape;
  if (channels)
    return (double)shape->dims[shape->rank == 4 ? 1 : shape->rank - 1];
  return (double)qb_shape_elements(shape);
}

static bool has_nonzero_bias(const qb_graph *graph, const qb_linear *linear) {
  if (linear->bias == QB_NONE)
    return false;
  const float *bias = qb_view_f32(&graph->values[linear->bias].constant);
  for (int64_t o = 0; o < linear->out_channels; o++)
    if (bias[o] != 0)
      return true;
  return false;
}

static qb_status add_layer(qb_chain *chain, const qb_linear *linear, qb_error *error) {
  const qb_graph *graph = chain->graph;
  bool channels = chain->conventions.width_channels;
  qb_chain_layer *layer = &chain->layers[chain->count++];
  layer->linear = *linear;
  if (chain->conventions.drop_bias) {
    chain->dropped_biases += has_nonzero_bias(graph, linear);
    layer->linear.bias = QB_NONE;
  }
  layer->inputs = units(graph, graph->nodes[linear->node].inputs[0], channels);
  layer->outputs = units(graph, graph->nodes[linear->node].output, channels);
  layer->row_entries = (double)linear->row_length;
  layer->fewest_entries = fmin(layer->row_entries, units(graph, graph->nodes[linear->node].inputs[0], false));
  return qb_layer_norms_of(graph, &layer->linear, &layer->norms, error);
}

static qb_status collect_layers(qb_chain *chain, const bool *downsample, qb_error *error) {
  const qb_graph *graph = chain->graph;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear linear;
    if (graph->nodes[n].op == QB_OP_BATCH_NORM && chain->conventions.drop_batch_norm)
      chain->dropped_batch_norms++;
    else if (graph->nodes[n].op == QB_OP_BATCH_NORM)
      chain->batch_norm = graph->nodes[n].name;
    if (!qb_graph_linear(graph, n, &linear))
      continue;
    if (chain->conventions.drop_downsample && downsample[n])
      chain->dropped_downsamples++;
    else if (chain->conventions.drop_dense && (graph->nodes[n].op == QB_OP_GEMM || graph->nodes[n].op == QB_OP_MATMUL))
      chain->dropped_dense++;
    else
      QB_TRY(add_layer(chain, &linear, error));
  }
  return QB_OK;
}

qb_status qb_chain_extract(const qb_graph *graph, const qb_bound_conventions *conventions, qb_chain *chain,
                           qb_error *error) {
  *chain = (qb_chain){.graph = graph, .conventions = *conventions};
  qb_arena_init(&chain->arena);
  chain->layers = qb_arena_alloc(&chain->arena, (size_t)graph->node_count, sizeof *chain->layers);
  bool *downsample = qb_arena_alloc(&chain->arena, (size_t)graph->node_count, sizeof *downsample);
  if (chain->layers == NULL || downsample == NULL)
    return qb_fail_memory(error, "chain of layers", (size_t)graph->node_count * sizeof *chain->layers);
  QB_TRY(qb_chain_find_downsamples(graph, downsample, error));
  QB_TRY(collect_layers(chain, downsample, error));
  decide_is_network(chain);
  return QB_OK;
}

void qb_chain_free(qb_chain *chain) {
  if (chain == NULL)
    return;
  qb_arena_free(&chain->arena);
  *chain = (qb_chain){0};
}
