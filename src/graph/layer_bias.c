/* Biases that may be changed; see layer_bias.h. */
#include "graph/layer_bias.h"

#include <string.h>

#include "base/error.h"

bool qb_layer_bias_is_free(const qb_graph *graph, const qb_linear *linear) {
  qb_op op = graph->nodes[linear->node].op;
  bool constant = linear->bias == QB_NONE || graph->values[linear->bias].is_constant;
  return (op == QB_OP_CONV || op == QB_OP_GEMM) && constant;
}

static qb_status unused_name(qb_graph *graph, const char *base, char **name, qb_error *error) {
  for (int i = 0;; i++) {
    *name = i == 0 ? qb_arena_format(&graph->arena, "%s_bias", base)
                   : qb_arena_format(&graph->arena, "%s_bias_%d", base, i);
    if (*name == NULL)
      return qb_fail_memory(error, base, strlen(base));
    if (qb_graph_find(graph, *name) == QB_NONE)
      return QB_OK;
  }
}

static bool is_own(const qb_graph *graph, qb_value_id bias, size_t outputs) {
  return bias != QB_NONE && graph->values[bias].shape.rank == 1 &&
         (size_t)graph->values[bias].shape.dims[0] == outputs && qb_graph_use_count(graph, bias) == 1;
}

/* A new constant in the bias slot; the old one stays with its other users. */
static qb_status add_bias(qb_graph *graph, qb_linear *linear, float **data, qb_error *error) {
  char *name;
  qb_value_id id;
  QB_TRY(unused_name(graph, graph->nodes[linear->node].name, &name, error));
  QB_TRY(qb_graph_new_constant(graph, name, &QB_SHAPE(linear->out_channels), &id, data, error));
  QB_TRY(qb_graph_set_input(graph, linear->node, 2, id, error));
  linear->bias = id;
  return QB_OK;
}

qb_status qb_layer_bias_own(qb_graph *graph, qb_linear *linear, float **data, qb_error *error) {
  const char *node = graph->nodes[linear->node].name;
  size_t outputs = (size_t)linear->out_channels;
  const float *before = qb_graph_constant(graph, linear->bias);
  size_t given = linear->bias == QB_NONE ? 0 : qb_shape_elements(&graph->values[linear->bias].shape);
  if (given > 1 && given != outputs) /* cannot be: the importer has checked it */
    return qb_fail(error, QB_ERROR_SHAPE, "%s: the bias of '%s' does not fit its outputs", graph->name, node);
  if (is_own(graph, linear->bias, outputs)) {
    *data = qb_graph_replace_constant(graph, linear->bias);
    if (*data == NULL)
      return qb_fail_memory(error, node, outputs * sizeof **data);
  } else {
    QB_TRY(add_bias(graph, linear, data, error));
  }
  for (size_t o = 0; before != NULL && o < outputs; o++)
    (*data)[o] = before[given == 1 ? 0 : o];
  return QB_OK;
}
