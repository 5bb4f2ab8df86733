/* QuantizeLinear and DequantizeLinear on activations (theory 3.2).
 *
 * Between the two a tensor holds integer codes; its state already speaks of the dequantized values
 * scale (code - zero point) and `codes` remembers the quantizer. In exact arithmetic the pair is
 *   y' = s (round(clip(x', m, M) / s + z) - z),  m = s (lo - z), M = s (hi - z),
 * within s / 2 of clip(x', m, M). The original has no such nodes, or it has a Relu or Clip in their place (a clamp
 * that took over the activation), or, when the original network is itself quantized, a quantizer of its own. */
#include <string.h>

#include "base/error.h"
#include "bound/fault.h"
#include "bound/rule.h"
#include "graph/quantizer.h"

/* What one side does at channel c: a clip, then an error of at most `step`. */
typedef struct clamp_step {
  qb_interval limits;
  double step;
} clamp_step;

static const qb_interval everything = {-INFINITY, INFINITY};

/* Entry `index` of a per-tensor (one entry) or per-axis constant; 0 for a missing zero point. */
static double entry(const qb_graph *graph, const qb_node *node, int32_t slot, int64_t index) {
  if (slot >= node->input_count || node->inputs[slot] == QB_NONE)
    return 0;
  const qb_value *value = &graph->values[node->inputs[slot]];
  return (double)qb_view_f32(&value->constant)[qb_shape_elements(&value->shape) > 1 ? index : 0];
}

/* Codes and zero points are integers of at most 17 bits and scales have 24: the limits are exact. */
static clamp_step quantizer_at(const qb_graph *graph, const qb_node *node, int64_t index) {
  double s = entry(graph, node, 1, index), z = entry(graph, node, 2, index);
  qb_interval limits = {s * ((double)node->attributes.quantize.lo - z), s * ((double)node->attributes.quantize.hi - z)};
  return (clamp_step){limits, qb_bound_fault == QB_FAULT_NO_ROUNDING_STEP ? 0 : qb_quantizer_reach(node, s, z)};
}

/* What the original network does in the quantizer's place. */
static clamp_step original_at(const qb_bound_rule_context *context, int64_t index, int64_t channel) {
  clamp_step none = {everything, 0};
  if (context->original == NULL)
    return none;
  if (context->original->op == QB_OP_QUANTIZE_LINEAR)
    return quantizer_at(context->pair->original, context->original, index);
  if (context->original->op == QB_OP_RELU)
    return (clamp_step){{0, INFINITY}, 0};
  const qb_clip_attributes *clip = &context->original->attributes.clip;
  float hi = clip->hi_channels == NULL ? clip->hi : clip->hi_channels[channel];
  return (clamp_step){{(double)clip->lo, (double)hi}, 0};
}

static qb_interval clamp(qb_interval x, qb_interval limits) {
  return (qb_interval){qb_clamp(x.lo, limits.lo, limits.hi), qb_clamp(x.hi, limits.lo, limits.hi)};
}

/* Values after the clip, moved by at most the step, and still inside the limits, which are points of the grid. */
static qb_interval quantized_range(qb_interval x, clamp_step side) {
  qb_interval moved = qb_interval_add(clamp(x, side.limits), (qb_interval){-side.step, side.step});
  return clamp(moved, side.limits);
}

static void include_quantized(qb_bound_state *output, int64_t c, const qb_bound_state *in, clamp_step own,
                              clamp_step quantized, bool first) {
  double change = fmin(qb_bound_rule_clip_difference(in->x[c], own.limits, quantized.limits),
                       qb_bound_rule_clip_difference(in->x_q[c], own.limits, quantized.limits));
  double e = qb_up_sum(qb_up_sum(in->e[c], change), qb_up_sum(own.step, quantized.step));
  qb_interval x = quantized_range(in->x[c], own), x_q = quantized_range(in->x_q[c], quantized);
  output->x[c] = first ? x : qb_interval_hull(output->x[c], x);
  output->x_q[c] = first ? x_q : qb_interval_hull(output->x_q[c], x_q);
  output->e[c] = first ? e : fmax(output->e[c], e);
}

static qb_status check_quantizer(const qb_bound_rule_context *context, const qb_graph *graph, const qb_node *node) {
  for (int32_t slot = 1; slot < node->input_count; slot++)
    if (node->inputs[slot] != QB_NONE && !graph->values[node->inputs[slot]].is_constant)
      return qb_bound_rule_refuse(context, "its scale or zero point is not a constant");
  const qb_value *scale = &graph->values[node->inputs[1]];
  for (size_t i = 0; i < qb_shape_elements(&scale->shape); i++)
    if (!(qb_view_f32(&scale->constant)[i] > 0))
      return qb_bound_rule_refuse(context, "its scale is not positive");
  return QB_OK;
}

/* Number of entries of scale and zero point, whichever varies. */
static int64_t entry_count(const qb_graph *graph, const qb_node *node) {
  int64_t count = 1;
  for (int32_t slot = 1; slot < node->input_count && slot < 3; slot++)
    if (node->inputs[slot] != QB_NONE) {
      int64_t own = (int64_t)qb_shape_elements(&graph->values[node->inputs[slot]].shape);
      count = own > count ? own : count;
    }
  return count;
}

qb_status qb_bound_rule_quantize_linear(const qb_bound_rule_context *context, qb_bound_state *output) {
  const qb_graph *graph = context->pair->quantized;
  qb_bound_state in;
  QB_TRY(qb_bound_rule_plain_input(context, 0, &in));
  QB_TRY(check_quantizer(context, graph, context->node));
  int64_t entries = entry_count(graph, context->node);
  if (context->original != NULL && context->original->op == QB_OP_QUANTIZE_LINEAR) {
    QB_TRY(check_quantizer(context, context->pair->original, context->original));
    int64_t others = entry_count(context->pair->original, context->original);
    if (context->original->attributes.quantize.axis != context->node->attributes.quantize.axis && entries * others > 1)
      return qb_bound_rule_refuse(context, "the original quantizes along another axis");
    entries = others > entries ? others : entries;
  }
  QB_TRY(qb_bound_rule_create_output(context, output));
  output->codes = context->node;
  bool by_channel = entries > 1 && context->node->attributes.quantize.axis == 1;
  for (int64_t c = 0; c < output->channels; c++)
    for (int64_t i = by_channel ? c : 0; i < (by_channel ? c + 1 : entries); i++)
      include_quantized(output, c, &in, original_at(context, i, c), quantizer_at(graph, context->node, i),
                        by_channel || i == 0);
  return QB_OK;
}

/* Whether two nodes of a graph have the same scale and zero point for every index. */
static bool same_grid(const qb_graph *graph, const qb_node *a, const qb_node *b) {
  int64_t count_a = entry_count(graph, a), count_b = entry_count(graph, b);
  int64_t count = count_a > count_b ? count_a : count_b;
  if (count > 1 && a->attributes.quantize.axis != b->attributes.quantize.axis)
    return false;
  for (int64_t i = 0; i < count; i++)
    if (entry(graph, a, 1, i) != entry(graph, b, 1, i) || entry(graph, a, 2, i) != entry(graph, b, 2, i))
      return false;
  return true;
}

qb_status qb_bound_rule_dequantize_linear(const qb_bound_rule_context *context, qb_bound_state *output) {
  const qb_pair *pair = context->pair;
  const qb_bound_state *input = &context->states[context->node->inputs[0]];
  if (input->x == NULL || input->codes == NULL)
    return qb_bound_rule_refuse(context, "its input does not come from a QuantizeLinear");
  bool same = same_grid(pair->quantized, input->codes, context->node);
  if (context->original != NULL) { /* both networks quantize here */
    qb_node_id own = pair->partner[input->codes - pair->quantized->nodes];
    same = same && own != QB_NONE && pair->original->nodes[own].op == QB_OP_QUANTIZE_LINEAR &&
           same_grid(pair->original, &pair->original->nodes[own], context->original);
  }
  if (!same)
    return qb_bound_rule_refuse(context, "its scale or zero point is not that of the QuantizeLinear before");
  QB_TRY(qb_state_spread(context->arena, input, input->channels, output, context->error));
  output->codes = NULL;
  return QB_OK;
}
