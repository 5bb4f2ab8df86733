/* Redundant clips in front of quantizers; see pass_drop_clip.h. */
#include "graph/pass_drop_clip.h"

#include <math.h>

/* The code of a limit in one channel: beyond the range it is the range's end, else it has to be exact. */
static bool code_of(double limit, double scale, double zero, double lo, double hi, double *code) {
  if (limit <= scale * (lo - zero) || limit >= scale * (hi - zero)) { /* scale times code is exact in double */
    *code = limit <= scale * (lo - zero) ? lo : hi;
    return true;
  }
  *code = round(limit / scale) + zero;
  return scale * (*code - zero) == limit;
}

/* The codes of [lo, hi], the same in every channel. */
static bool codes_of(const qb_graph *graph, const qb_node *quantizer, double lo, double hi, double code[2]) {
  const qb_value *scale = &graph->values[quantizer->inputs[1]];
  const qb_value *zero = quantizer->input_count > 2 ? &graph->values[quantizer->inputs[2]] : NULL;
  if (!scale->is_constant || (zero != NULL && !zero->is_constant))
    return false;
  size_t scales = qb_view_elements(&scale->constant), zeros = zero == NULL ? 1 : qb_view_elements(&zero->constant);
  if (scales != 1 && zeros != 1 && scales != zeros)
    return false;
  double least = (double)quantizer->attributes.quantize.lo, most = (double)quantizer->attributes.quantize.hi;
  for (size_t c = 0; c < (scales > zeros ? scales : zeros); c++) {
    double s = (double)qb_view_f32(&scale->constant)[scales == 1 ? 0 : c], own[2];
    double z = zero == NULL ? 0 : (double)qb_view_f32(&zero->constant)[zeros == 1 ? 0 : c];
    if (!code_of(lo, s, z, least, most, &own[0]) || !code_of(hi, s, z, least, most, &own[1]))
      return false;
    if (own[0] != z || (c > 0 && (own[0] != code[0] || own[1] != code[1])))
      return false;
    code[0] = own[0];
    code[1] = own[1];
  }
  return true;
}

static qb_node *only_reader(const qb_graph *graph, qb_value_id value) {
  if (qb_graph_use_count(graph, value) != 1)
    return NULL;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    for (int32_t i = 0; i < graph->nodes[n].input_count; i++)
      if (graph->nodes[n].inputs[i] == value)
        return &graph->nodes[n];
  return NULL;
}

/* True when the node passes on the output of a quantizer or of an activation: matching might take one for another. */
static bool follows_clamp(const qb_graph *graph, qb_node_id id) {
  static const bool copies[QB_OP_COUNT] = {[QB_OP_FLATTEN] = true,   [QB_OP_RESHAPE] = true,  [QB_OP_SQUEEZE] = true,
                                           [QB_OP_UNSQUEEZE] = true, [QB_OP_IDENTITY] = true, [QB_OP_DROPOUT] = true};
  while (id != QB_NONE && copies[graph->nodes[id].op])
    id = graph->values[graph->nodes[id].inputs[0]].producer;
  qb_op op = id == QB_NONE ? QB_OP_COUNT : graph->nodes[id].op;
  return op == QB_OP_DEQUANTIZE_LINEAR || op == QB_OP_RELU || op == QB_OP_CLIP;
}

/* Leaves the work of the node to the quantizer behind it, if that can do it. */
static bool absorb(const qb_graph *graph, const qb_node *node) {
  double code[2] = {0, 0};
  bool clip = node->op == QB_OP_CLIP && node->attributes.clip.hi_channels == NULL;
  const qb_value *x = &graph->values[node->inputs[0]];
  if ((!clip && node->op != QB_OP_RELU) || x->producer == QB_NONE || qb_graph_use_count(graph, node->inputs[0]) != 1)
    return false;
  if (follows_clamp(graph, x->producer))
    return false;
  qb_node *reader = only_reader(graph, node->output);
  double lo = clip ? (double)node->attributes.clip.lo : 0, hi = clip ? (double)node->attributes.clip.hi : INFINITY;
  if (reader != NULL && reader->op == QB_OP_QUANTIZE_LINEAR && reader->attributes.quantize.steps != 0)
    return false; /* a code that is off may lie outside the clip */
  if (lo != 0 || signbit(lo) || reader == NULL || reader->op != QB_OP_QUANTIZE_LINEAR ||
      !codes_of(graph, reader, lo, hi, code))
    return false;
  reader->attributes.quantize.lo = (float)code[0];
  reader->attributes.quantize.hi = (float)code[1];
  return true;
}

int32_t qb_drop_clips(qb_graph *graph) {
  int32_t dropped = 0;
  for (qb_node_id n = graph->node_count - 1; n >= 0; n--)
    if (absorb(graph, &graph->nodes[n])) {
      qb_graph_remove_node(graph, n);
      dropped++;
    }
  return dropped;
}
