/* The piecewise linear functions that pointwise nodes stand for; see node_kinks.h. */
#include "bound/node_kinks.h"

#include "bound/fault.h"
#include "graph/quantizer.h"

static const qb_node *partner_of(const qb_pair *pair, qb_node_id id) {
  return pair->partner[id] == QB_NONE ? NULL : &pair->original->nodes[pair->partner[id]];
}

bool qb_node_is_kinked(const qb_pair *pair, qb_node_id id) {
  const qb_graph *graph = pair->quantized;
  const qb_node *node = &graph->nodes[id];
  if (node->op == QB_OP_PRELU)
    return graph->values[node->inputs[1]].is_constant;
  if (node->op == QB_OP_QUANTIZE_LINEAR)
    return (partner_of(pair, id) == NULL || partner_of(pair, id)->op != QB_OP_QUANTIZE_LINEAR) &&
           graph->values[node->inputs[1]].is_constant &&
           (node->input_count < 3 || graph->values[node->inputs[2]].is_constant);
  return node->op == QB_OP_RELU || node->op == QB_OP_LEAKY_RELU || node->op == QB_OP_CLIP;
}

static int64_t index_along(const qb_shape *shape, int32_t axis, int64_t i) {
  int64_t inner = 1;
  for (int32_t k = axis + 1; k < shape->rank; k++)
    inner *= shape->dims[k];
  return shape->rank <= axis ? 0 : i / inner % shape->dims[axis];
}

static qb_kink clip_kink(const qb_clip_attributes *clip, int64_t channel) {
  float cap = clip->hi_channels != NULL ? clip->hi_channels[channel] : clip->hi;
  return (qb_kink){.lo = (double)clip->lo, .hi = (double)cap};
}

/* Relu, Clip, LeakyRelu, PRelu of one network; the identity where the node is missing. */
static qb_kink function_of(const qb_graph *graph, const qb_node *node, const qb_shape *shape, int64_t i) {
  if (node == NULL)
    return (qb_kink){.lo = -INFINITY, .hi = INFINITY};
  switch (node->op) {
  case QB_OP_CLIP: return clip_kink(&node->attributes.clip, index_along(shape, 1, i));
  case QB_OP_LEAKY_RELU: return (qb_kink){.leaky = true, .alpha = (double)node->attributes.linear.alpha};
  case QB_OP_PRELU: {
    const qb_value *slope = &graph->values[node->inputs[1]];
    return (qb_kink){.leaky = true,
                     .alpha = (double)qb_view_f32(&slope->constant)[qb_shape_broadcast_index(shape, &slope->shape, i)]};
  }
  default: return (qb_kink){.lo = 0, .hi = INFINITY};
  }
}

/* A number so near to where the next code begins counts as there: it often lies exactly there, and another evaluation
 * with its own rounding is to find the same code. */
static const double NEAR = 0x1p-30;

/* The last multiple of s that x, moved by `half` >= 0 towards `direction`, reaches. */
static double code_value(double x, double s, double half, double direction) {
  if (direction > 0)
    return s * floor(qb_up(qb_up(x + half) / s) + NEAR);
  return s * ceil(qb_down(qb_down(x - half) / s) - NEAR);
}

/* x'' = clamp(s round(x' / s)) lies between clamp(x' - s/2) and clamp(x' + s/2), either rounding of ties included, and
 * rounding is monotone: it also lies between the codes of the ends of the interval. */
static void quantizer_kinks(const qb_graph *graph, qb_node_id id, int64_t i, qb_interval x, qb_kink_pair *kinks) {
  const qb_node *node = &graph->nodes[id];
  const qb_view *scale = &graph->values[node->inputs[1]].constant;
  int64_t c = index_along(&graph->values[node->output].shape, node->attributes.quantize.axis, i);
  double s = (double)qb_view_f32(scale)[qb_view_elements(scale) == 1 ? 0 : c], z = 0;
  if (node->input_count > 2) {
    const qb_view *zero = &graph->values[node->inputs[2]].constant;
    z = (double)qb_view_f32(zero)[qb_view_elements(zero) == 1 ? 0 : c];
  }
  double half = qb_quantizer_reach(node, s, z);
  /* exact: 24 bits of s times 17 of a code */
  double least = s * ((double)node->attributes.quantize.lo - z), most = s * ((double)node->attributes.quantize.hi - z);
  /* a saturated code may be off, too; exact as above */
  double off = (double)node->attributes.quantize.steps * s, high = fmax(most - off, least),
         low = fmin(least + off, most);
  double first = qb_clamp(code_value(x.lo, s, half, -1), least, high);
  double last = qb_clamp(code_value(x.hi, s, half, 1), low, most);
  if (qb_backward_fault_planted == QB_BACKWARD_FAULT_NO_HALF_STEP)
    half = 0;
  if (qb_backward_fault_planted == QB_BACKWARD_FAULT_NO_CLAMP)
    high = INFINITY;
  kinks->upper = (qb_kink){.shift = half, .lo = low, .hi = last};
  kinks->lower = (qb_kink){.shift = -half, .lo = first, .hi = high};
}

qb_kink_pair qb_node_kinks(const qb_pair *pair, qb_node_id id, int64_t i, qb_interval x) {
  const qb_node *node = &pair->quantized->nodes[id], *partner = partner_of(pair, id);
  const qb_shape *shape = &pair->quantized->values[node->output].shape;
  qb_kink_pair kinks = {.original = function_of(pair->original, partner, shape, i)};
  if (node->op == QB_OP_QUANTIZE_LINEAR) {
    quantizer_kinks(pair->quantized, id, i, x, &kinks);
  } else {
    kinks.upper = function_of(pair->quantized, node, shape, i);
    kinks.lower = kinks.upper;
  }
  return kinks;
}

void qb_node_kink_ranges(const qb_pair *pair, qb_node_id id, int64_t i, const qb_interval x[3], qb_interval y[3]) {
  qb_kink_pair k = qb_node_kinks(pair, id, i, x[1]);
  qb_corners corners;
  y[0] = (qb_interval){qb_kink_at(&k.original, x[0].lo), qb_kink_at(&k.original, x[0].hi)};
  y[1] = (qb_interval){fmax(qb_down(qb_kink_at(&k.lower, x[1].lo)), k.lower.lo),
                       fmin(qb_up(qb_kink_at(&k.upper, x[1].hi)), k.upper.hi)};
  y[2] = (qb_interval){-INFINITY, INFINITY};
  if (qb_kink_corners(&k.original, &k.upper, x[0], x[1], x[2], &corners))
    y[2].hi = qb_kink_plane_with(&corners, 0, 1, 0, 0).constant;
  if (qb_kink_corners(&k.original, &k.lower, x[0], x[1], x[2], &corners))
    y[2].lo = -qb_kink_plane_with(&corners, 0, -1, 0, 0).constant;
}
