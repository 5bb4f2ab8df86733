/* Inserting and bypassing quantizers of activations; see quantizer.h. */
#include "graph/quantizer.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

void qb_graph_allow_steps(qb_graph *graph, int32_t steps) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (graph->nodes[n].op == QB_OP_QUANTIZE_LINEAR)
      graph->nodes[n].attributes.quantize.steps = steps;
}

bool qb_graph_allows_steps(const qb_graph *graph) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (graph->nodes[n].op == QB_OP_QUANTIZE_LINEAR && graph->nodes[n].attributes.quantize.steps != 0)
      return true;
  return false;
}

double qb_quantizer_reach(const qb_node *node, double s, double z) {
  double reach = (node->attributes.quantize.rounding == QB_ROUND_DOWN ? s : s / 2) +
                 (double)node->attributes.quantize.steps * s; /* exact: few steps of 24 bits */
  /* exact: 24 bits times 24, and 1 is near */
  double deviation = node->attributes.quantize.factor == 0 ? 0 : fabs((double)node->attributes.quantize.factor * s - 1);
  if (deviation == 0)
    return reach;
  double end = fmax(fabs((double)node->attributes.quantize.lo - z), fabs((double)node->attributes.quantize.hi - z)) * s;
  return (reach + deviation / (1 - deviation) * end) * (1 + 0x1p-40);
}

static qb_status check_grid(const qb_graph *graph, qb_value_id value, const qb_activation_grid *grid, qb_error *error) {
  const char *name = graph->values[value].name;
  if (graph->values[value].is_constant)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: '%s' is a constant, not an activation", graph->name, name);
  if (grid->bits != 8 && grid->bits != 16)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: activation '%s' with %d bits; use 8 or 16", graph->name, name,
                   grid->bits);
  if (!(grid->scale > 0) || !isfinite(grid->scale) || grid->zero_point < 0 || grid->zero_point >= 1 << grid->bits)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: activation '%s': scale %g with zero point %d is no grid of %d bits",
                   graph->name, name, (double)grid->scale, grid->zero_point, grid->bits);
  return QB_OK;
}

/* "base_suffix", with a number behind it where that is taken. */
static const char *free_name(qb_graph *graph, const char *base, const char *suffix) {
  const char *name = qb_arena_format(&graph->arena, "%s_%s", base, suffix);
  for (int i = 2; name != NULL && qb_graph_find(graph, name) != QB_NONE; i++)
    name = qb_arena_format(&graph->arena, "%s_%s_%d", base, suffix, i);
  return name;
}

static qb_status add_scalar(qb_graph *graph, const char *base, const char *suffix, float number, qb_value_id *id,
                            qb_error *error) {
  const qb_shape scalar = {0};
  float *data;
  const char *name = free_name(graph, base, suffix);
  if (name == NULL)
    return qb_fail_memory(error, base, strlen(base));
  QB_TRY(qb_graph_new_constant(graph, name, &scalar, id, &data, error));
  *data = number;
  return QB_OK;
}

/* Appends the node behind all others; qb_graph_insert_quantizer moves it. */
static qb_status append(qb_graph *graph, qb_op op, const qb_value_id inputs[3], const qb_activation_grid *grid,
                        const char *base, const char *suffix, qb_value_id *output, qb_error *error) {
  const qb_attributes attributes = {.quantize = {.lo = 0, .hi = (float)((1 << grid->bits) - 1)}};
  const char *name = free_name(graph, base, suffix);
  qb_node_id id;
  if (name == NULL)
    return qb_fail_memory(error, base, strlen(base));
  QB_TRY(qb_graph_add_node(graph, op, name, inputs, 3, &attributes, name, NULL, &id, error));
  *output = graph->nodes[id].output;
  return QB_OK;
}

/* Moves the last two nodes to position `to`. */
static void move_last_two(qb_graph *graph, qb_node_id to) {
  qb_node pair[2];
  int32_t old = graph->node_count - 2;
  memcpy(pair, &graph->nodes[old], sizeof pair);
  memmove(&graph->nodes[to + 2], &graph->nodes[to], (size_t)(old - to) * sizeof *graph->nodes);
  memcpy(&graph->nodes[to], pair, sizeof pair);
  for (qb_node_id n = to; n < graph->node_count; n++)
    graph->values[graph->nodes[n].output].producer = n;
}

/* Nodes from `first` on that read `from` read `to`. */
static qb_status rewire(qb_graph *graph, qb_node_id first, qb_value_id from, qb_value_id to, qb_error *error) {
  for (qb_node_id n = first; n < graph->node_count; n++)
    for (int32_t slot = 0; slot < graph->nodes[n].input_count; slot++)
      if (graph->nodes[n].inputs[slot] == from)
        QB_TRY(qb_graph_set_input(graph, n, slot, to, error));
  return QB_OK;
}

qb_status qb_graph_insert_quantizer(qb_graph *graph, qb_value_id value, const qb_activation_grid *grid,
                                    qb_value_id *dequantized, qb_error *error) {
  QB_TRY(check_grid(graph, value, grid, error));
  const char *base = graph->values[value].name;
  qb_value_id inputs[3] = {value, QB_NONE, QB_NONE};
  QB_TRY(add_scalar(graph, base, "activation_scale", grid->scale, &inputs[1], error));
  QB_TRY(add_scalar(graph, base, "activation_zero_point", (float)grid->zero_point, &inputs[2], error));
  QB_TRY(append(graph, QB_OP_QUANTIZE_LINEAR, inputs, grid, base, "codes", &inputs[0], error));
  QB_TRY(append(graph, QB_OP_DEQUANTIZE_LINEAR, inputs, grid, base, "dequantized", dequantized, error));
  qb_node_id to = graph->values[value].producer == QB_NONE ? 0 : graph->values[value].producer + 1;
  move_last_two(graph, to);
  return rewire(graph, to + 2, value, *dequantized, error);
}

/* The QuantizeLinear in front of a DequantizeLinear, else NULL. */
static const qb_node *quantizer_before(const qb_graph *graph, const qb_node *node) {
  if (node->op != QB_OP_DEQUANTIZE_LINEAR)
    return NULL;
  qb_node_id producer = graph->values[node->inputs[0]].producer;
  return producer != QB_NONE && graph->nodes[producer].op == QB_OP_QUANTIZE_LINEAR ? &graph->nodes[producer] : NULL;
}

qb_status qb_graph_bypass_quantizers(qb_graph *graph, qb_error *error) {
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *quantizer = quantizer_before(graph, &graph->nodes[n]);
    if (quantizer == NULL)
      continue;
    qb_value_id before = quantizer->inputs[0], after = graph->nodes[n].output;
    QB_TRY(rewire(graph, n + 1, after, before, error));
    for (int32_t i = 0; i < graph->output_count; i++)
      if (graph->outputs[i] == after)
        graph->outputs[i] = before;
  }
  return QB_OK;
}

bool qb_graph_has_quantizers(const qb_graph *graph) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (graph->nodes[n].op == QB_OP_QUANTIZE_LINEAR)
      return true;
  return false;
}
