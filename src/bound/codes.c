/* Where integer codes come from and what may read them; see codes.h. */
#include "bound/codes.h"

/* ------------------------------------------------------------------------------------------------------- readers */

static bool moves_elements(qb_op op) { return qb_op_is_reshape(op) || op == QB_OP_TRANSPOSE; }

const qb_node *qb_codes_source(const qb_graph *graph, qb_value_id value) {
  for (qb_node_id id = graph->values[value].producer; id != QB_NONE;) {
    const qb_node *node = &graph->nodes[id];
    if (node->op == QB_OP_QUANTIZE_LINEAR)
      return node;
    if (!moves_elements(node->op))
      return NULL;
    id = graph->values[node->inputs[0]].producer;
  }
  return NULL;
}

static const qb_value *parameter(const qb_graph *graph, const qb_node *node, int32_t slot) {
  return slot < node->input_count && node->inputs[slot] != QB_NONE ? &graph->values[node->inputs[slot]] : NULL;
}

static size_t entries(const qb_value *value) { return value == NULL ? 1 : qb_view_elements(&value->constant); }

/* Entry i of a scale or zero point of one or more entries; 0 for a missing zero point. */
static float entry(const qb_value *value, size_t i) {
  return value == NULL ? 0 : qb_view_f32(&value->constant)[entries(value) == 1 ? 0 : i];
}

/* Several scales lie along an axis, which keeps its meaning only when nothing was moved in between. */
static bool same_grid(const qb_graph *graph, const qb_node *a, const qb_node *b) {
  size_t count = 1;
  for (int32_t slot = 1; slot < 3; slot++) {
    const qb_value *p = parameter(graph, a, slot), *q = parameter(graph, b, slot);
    if ((p != NULL && !p->is_constant) || (q != NULL && !q->is_constant))
      return false;
    count = entries(p) > count ? entries(p) : count;
    count = entries(q) > count ? entries(q) : count;
  }
  if (count > 1 && (a->attributes.quantize.axis != b->attributes.quantize.axis || b->inputs[0] != a->output))
    return false;
  for (int32_t slot = 1; slot < 3; slot++) {
    const qb_value *p = parameter(graph, a, slot), *q = parameter(graph, b, slot);
    for (size_t i = 0; i < count; i++)
      if ((entries(p) > 1 && entries(p) != count) || (entries(q) > 1 && entries(q) != count) ||
          entry(p, i) != entry(q, i))
        return false;
  }
  return true;
}

static bool is_output(const qb_graph *graph, qb_value_id value) {
  for (int32_t i = 0; i < graph->output_count; i++)
    if (graph->outputs[i] == value)
      return true;
  return false;
}

const char *qb_codes_refusal(const qb_pair *pair, const qb_node *node) {
  const qb_graph *graph = pair->quantized;
  if (is_output(graph, node->output) && qb_codes_source(graph, node->output) != NULL)
    return "the network's output holds integer codes";
  if (node->op == QB_OP_DEQUANTIZE_LINEAR) {
    const qb_node *source = qb_codes_source(graph, node->inputs[0]);
    if (source == NULL)
      return "its input does not come from a QuantizeLinear";
    return same_grid(graph, source, node) ? NULL : "its scale or zero point is not that of the QuantizeLinear before";
  }
  for (int32_t i = 0; i < node->input_count && !moves_elements(node->op); i++)
    if (node->inputs[i] != QB_NONE && qb_codes_source(graph, node->inputs[i]) != NULL)
      return "there is no bound for an operator on integer codes; expected a DequantizeLinear";
  return NULL;
}
