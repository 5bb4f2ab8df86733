/* Fusion chains; see fuse.h. */
#include "run/fuse.h"

/* The only consumer of a value that nobody else may see, or QB_NONE. */
static qb_node_id sole_consumer(const qb_graph *graph, const bool *kept, qb_value_id id) {
  qb_node_id found = QB_NONE;
  if (kept[id])
    return QB_NONE;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    for (int32_t slot = 0; slot < graph->nodes[n].input_count; slot++) {
      if (graph->nodes[n].inputs[slot] != id)
        continue;
      if (found != QB_NONE)
        return QB_NONE;
      found = n;
    }
  return found;
}

static bool is_activation_function(const qb_node *node) {
  return node->op == QB_OP_RELU || node->op == QB_OP_LEAKY_RELU || node->op == QB_OP_CLIP;
}

/* The sum is written over `residual`, so it must be computed before the root, and everything else that reads it must
 * have run by then; the root itself must not read it. */
static bool may_overwrite(const qb_graph *graph, const bool *kept, qb_node_id root, qb_node_id add,
                          qb_value_id residual) {
  const qb_value *value = &graph->values[residual];
  if (value->is_constant || kept[residual] || value->producer == QB_NONE || value->producer > root)
    return false;
  for (qb_node_id n = root; n < graph->node_count; n++)
    for (int32_t slot = 0; n != add && slot < graph->nodes[n].input_count; slot++)
      if (graph->nodes[n].inputs[slot] == residual)
        return false;
  return true;
}

static qb_value_id other_operand(const qb_graph *graph, const qb_node *add, qb_value_id mine) {
  qb_value_id other = add->inputs[0] == mine ? add->inputs[1] : add->inputs[0];
  bool same = qb_shape_equal(&graph->values[other].shape, &graph->values[mine].shape);
  return same && other != mine ? other : QB_NONE;
}

qb_chain qb_fuse_chain(const qb_graph *graph, const bool *kept, qb_node_id root) {
  qb_chain chain = {.root = root, .residual = QB_NONE};
  qb_value_id tail = graph->nodes[root].output;
  while (chain.count < QB_FUSE_MAX) {
    qb_node_id next = sole_consumer(graph, kept, tail);
    if (next == QB_NONE)
      break;
    const qb_node *node = &graph->nodes[next];
    if (node->op == QB_OP_ADD && chain.residual == QB_NONE) {
      qb_value_id other = other_operand(graph, node, tail);
      if (other == QB_NONE || !may_overwrite(graph, kept, root, next, other))
        break;
      chain.residual = other;
    } else if (!is_activation_function(node)) {
      break;
    }
    chain.posts[chain.count++] = next;
    tail = node->output;
  }
  return chain;
}
