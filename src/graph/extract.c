/* Parts of a graph; see extract.h. */
#include "graph/extract.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

static bool is_activation(const qb_graph *graph, qb_value_id id) {
  return id != QB_NONE && !graph->values[id].is_constant;
}

/* Marks the values that `targets` need, walking back from the last node; stops at `from`. */
static qb_status mark_needed(const qb_graph *source, qb_value_id from, bool *needed, qb_error *error) {
  for (qb_node_id n = source->node_count - 1; n >= 0; n--) {
    const qb_node *node = &source->nodes[n];
    if (!needed[node->output] || node->output == from)
      continue;
    for (int32_t i = 0; i < node->input_count; i++)
      if (is_activation(source, node->inputs[i]))
        needed[node->inputs[i]] = true;
  }
  for (int32_t i = 0; i < source->input_count; i++)
    if (needed[source->inputs[i]] && source->inputs[i] != from)
      return qb_fail(error, QB_ERROR_ARGUMENT, "%s: the part after '%s' also needs the input '%s'", source->name,
                     source->values[from].name, source->values[source->inputs[i]].name);
  return QB_OK;
}

/* Keeps the needed nodes and renumbers producers. */
static void drop_nodes(qb_graph *part, qb_value_id from, const bool *needed) {
  int32_t kept = 0;
  for (qb_node_id n = 0; n < part->node_count; n++) {
    qb_node node = part->nodes[n];
    bool keep = needed[node.output] && node.output != from;
    part->values[node.output].producer = keep ? kept : QB_NONE;
    if (keep)
      part->nodes[kept++] = node;
  }
  part->node_count = kept;
}

qb_status qb_graph_extract(const qb_graph *source, qb_value_id from, const qb_value_id *targets, int32_t target_count,
                           qb_graph *part, qb_error *error) {
  QB_TRY(qb_graph_clone(source, part, error));
  part->output_count = 0;
  for (int32_t i = 0; i < target_count; i++)
    QB_TRY(qb_graph_add_output(part, targets[i], error));
  bool *needed = qb_alloc((size_t)source->value_count, sizeof *needed);
  if (needed == NULL)
    return qb_fail_memory(error, "a part of a graph", (size_t)source->value_count);
  for (int32_t i = 0; i < target_count; i++)
    needed[targets[i]] = true;
  qb_status status = mark_needed(source, from, needed, error);
  if (status == QB_OK) {
    drop_nodes(part, from, needed);
    part->inputs[0] = from;
    part->input_count = 1;
  }
  qb_free(needed);
  return status;
}

/* ---------------------------------------------------------------------------------------------------------- cuts */

/* last_use[v]: the last node that reads v; node_count for network outputs, -1 when nobody does. */
static void find_last_uses(const qb_graph *graph, int32_t *last_use) {
  for (qb_value_id v = 0; v < graph->value_count; v++)
    last_use[v] = -1;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    for (int32_t i = 0; i < graph->nodes[n].input_count; i++)
      if (is_activation(graph, graph->nodes[n].inputs[i]))
        last_use[graph->nodes[n].inputs[i]] = n;
  for (int32_t i = 0; i < graph->output_count; i++)
    last_use[graph->outputs[i]] = graph->node_count;
}

qb_status qb_graph_cuts(const qb_graph *graph, bool *is_cut, qb_error *error) {
  int32_t *last_use = qb_alloc((size_t)graph->value_count, sizeof *last_use);
  if (last_use == NULL)
    return qb_fail_memory(error, "the uses of values", (size_t)graph->value_count * sizeof *last_use);
  find_last_uses(graph, last_use);
  memset(is_cut, 0, (size_t)graph->value_count * sizeof *is_cut);
  int32_t latest = -1; /* last use of any activation made so far */
  for (int32_t i = 0; i < graph->input_count; i++)
    latest = last_use[graph->inputs[i]] > latest ? last_use[graph->inputs[i]] : latest;
  if (graph->input_count == 1)
    is_cut[graph->inputs[0]] = true;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_value_id output = graph->nodes[n].output;
    is_cut[output] = latest <= n;
    latest = last_use[output] > latest ? last_use[output] : latest;
  }
  qb_free(last_use);
  return QB_OK;
}
