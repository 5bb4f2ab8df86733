/* Correcting biases; see bias_correction.h. */
#include "quant/bias_correction.h"

#include "base/error.h"

bool qb_bias_can_be_corrected(const qb_graph *graph, const qb_linear *linear) {
  qb_op op = graph->nodes[linear->node].op;
  bool constant = linear->bias == QB_NONE || graph->values[linear->bias].is_constant;
  return (op == QB_OP_CONV || op == QB_OP_GEMM) && constant;
}

static qb_status unused_name(qb_graph *graph, const char *base, char **name, qb_error *error) {
  for (int i = 0;; i++) {
    *name = i == 0 ? qb_arena_format(&graph->arena, "%s_bias", base)
                   : qb_arena_format(&graph->arena, "%s_bias_%d", base, i);
    if (*name == NULL)
      return qb_fail_memory(error, base, sizeof base);
    if (qb_graph_find(graph, *name) == QB_NONE)
      return QB_OK;
  }
}

/* mean(W' xh - W x) of output channel `o`: (W' - W) mean(xh) + mean(W (xh - x)). */
static double mean_error(const qb_gram *gram, const float *weights, size_t o) {
  const double *mean = gram->mean + o / gram->rows * gram->length;
  double sum = gram->shift[o];
  for (size_t k = 0; k < gram->length; k++) {
    size_t at = o * gram->length + k;
    sum += ((double)weights[at] - (double)gram->weights[at]) * mean[k];
  }
  return sum;
}

qb_status qb_bias_correct(qb_graph *graph, const qb_linear *linear, const qb_gram *gram, const float *weights,
                          qb_error *error) {
  const qb_node *node = &graph->nodes[linear->node];
  qb_value_id old = linear->bias, id;
  const float *before = old == QB_NONE ? NULL : qb_view_f32(&graph->values[old].constant);
  size_t outputs = gram->groups * gram->rows;
  float *data;
  if (old != QB_NONE && graph->values[old].shape.rank == 1 && (size_t)graph->values[old].shape.dims[0] == outputs &&
      qb_graph_use_count(graph, old) == 1) {
    data = qb_graph_replace_constant(graph, old);
    if (data == NULL)
      return qb_fail_memory(error, node->name, outputs * sizeof *data);
  } else {
    size_t given = old == QB_NONE ? 0 : qb_shape_elements(&graph->values[old].shape);
    if (given > 1 && given != outputs) /* cannot be: the importer has checked it */
      return qb_fail(error, QB_ERROR_SHAPE, "%s: the bias of '%s' does not fit its outputs", graph->name, node->name);
    char *name;
    QB_TRY(unused_name(graph, node->name, &name, error));
    QB_TRY(qb_graph_new_constant(graph, name, &QB_SHAPE((int64_t)outputs), &id, &data, error));
    QB_TRY(qb_graph_set_input(graph, linear->node, 2, id, error));
    before = old == QB_NONE ? NULL : qb_view_f32(&graph->values[old].constant);
  }
  for (size_t o = 0; o < outputs; o++)
    data[o] = (float)((before != NULL ? (double)before[o] : 0) - mean_error(gram, weights, o));
  return QB_OK;
}
