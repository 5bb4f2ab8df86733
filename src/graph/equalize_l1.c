/* Channel magnitudes; see equalize_l1.h. */
#include "graph/equalize_l1.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"

static size_t channel_count(const qb_graph *graph, qb_value_id value) {
  const qb_shape *shape = &graph->values[value].shape;
  return shape->rank >= 2 ? (size_t)shape->dims[1] : 1;
}

qb_status qb_channel_magnitudes_create(const qb_graph *graph, double input_magnitude, qb_channel_magnitudes *magnitudes,
                                       qb_error *error) {
  *magnitudes = (qb_channel_magnitudes){.graph = graph};
  magnitudes->values = qb_alloc((size_t)graph->value_count, sizeof *magnitudes->values);
  if (magnitudes->values == NULL)
    return qb_fail_memory(error, "channel magnitudes", (size_t)graph->value_count * sizeof *magnitudes->values);
  for (int32_t i = 0; i < graph->input_count; i++) {
    size_t count = channel_count(graph, graph->inputs[i]);
    double *a = magnitudes->values[graph->inputs[i]] = qb_alloc(count, sizeof *a);
    if (a == NULL)
      return qb_fail_memory(error, "channel magnitudes", count * sizeof *a);
    for (size_t c = 0; c < count; c++)
      a[c] = input_magnitude;
  }
  return QB_OK;
}

void qb_channel_magnitudes_free(qb_channel_magnitudes *magnitudes) {
  for (int32_t v = 0; magnitudes->values != NULL && v < magnitudes->graph->value_count; v++)
    qb_free(magnitudes->values[v]);
  qb_free(magnitudes->values);
  *magnitudes = (qb_channel_magnitudes){0};
}

/* ------------------------------------------------------------------------------------------------------ operators */

static double constant_magnitude(const qb_graph *graph, qb_value_id value) {
  const qb_view *constant = &graph->values[value].constant;
  double largest = 0;
  for (size_t i = 0; i < qb_view_elements(constant); i++)
    largest = fmax(largest, fabs(qb_view_real(constant, i)));
  return largest;
}

/* Magnitude of channel c of `slot`; channels of values with another axis 1 (a flattening, a broadcast) correspond in
 * proportion. */
static double input_magnitude(const qb_channel_magnitudes *magnitudes, const qb_node *node, int32_t slot, size_t c,
                              size_t channels) {
  qb_value_id value = node->inputs[slot];
  if (magnitudes->values[value] == NULL)
    return constant_magnitude(magnitudes->graph, value);
  size_t count = channel_count(magnitudes->graph, value);
  return magnitudes->values[value][c * count / channels];
}

/* |W| a + |b|, one row after another. */
static void visit_linear(const qb_channel_magnitudes *magnitudes, const qb_linear *linear, double *y) {
  const qb_graph *graph = magnitudes->graph;
  const qb_node *node = &graph->nodes[linear->node];
  const qb_shape *shape = &graph->values[linear->weight].shape;
  const float *w = qb_view_f32(&graph->values[linear->weight].constant);
  int64_t count = (int64_t)qb_shape_elements(shape), part = shape->dims[1], area = linear->kernel_area;
  size_t inputs = (size_t)linear->in_channels;
  for (int64_t i = 0; i < count; i++) {
    int64_t first = i / (part * area), second = i / area % part, output, input;
    if (linear->channel_axis == 0) {
      output = first;
      input = first / (linear->out_channels / linear->group) * part + second;
    } else {
      output = first / (linear->in_channels / linear->group) * part + second;
      input = first;
    }
    y[output] += fabs((double)w[i]) * input_magnitude(magnitudes, node, 0, (size_t)input, inputs);
  }
  for (int64_t o = 0; o < linear->out_channels && linear->bias != QB_NONE; o++)
    y[o] += graph->values[linear->bias].is_constant
                ? fabs((double)qb_view_f32(&graph->values[linear->bias].constant)[o])
                : 0;
}

static double visit_channel(const qb_channel_magnitudes *magnitudes, const qb_node *node, size_t c, size_t channels) {
  double a = input_magnitude(magnitudes, node, 0, c, channels), sum = a;
  const qb_clip_attributes *clip = &node->attributes.clip;
  switch (node->op) {
  case QB_OP_CLIP: /* theory 3.2 */
    return fmin(a, fmax(fabs((double)clip->lo), fabs((double)(clip->hi_channels ? clip->hi_channels[c] : clip->hi))));
  case QB_OP_ADD:
  case QB_OP_SUB: return a + input_magnitude(magnitudes, node, 1, c, channels);
  case QB_OP_MUL: return a * input_magnitude(magnitudes, node, 1, c, channels);
  case QB_OP_CONCAT: /* an upper estimate that needs no offsets: nothing is scaled through a Concat */
    for (int32_t slot = 1; slot < node->input_count; slot++)
      sum = fmax(sum, input_magnitude(magnitudes, node, slot, c, channels));
    return sum;
  case QB_OP_SIGMOID:
  case QB_OP_HARD_SIGMOID:
  case QB_OP_SOFTMAX: return 1;
  case QB_OP_TANH: return fmin(a, 1);
  default: return a;
  }
}

qb_status qb_channel_magnitudes_visit(qb_channel_magnitudes *magnitudes, qb_node_id id, qb_error *error) {
  const qb_node *node = &magnitudes->graph->nodes[id];
  size_t channels = channel_count(magnitudes->graph, node->output);
  double *y = magnitudes->values[node->output] = qb_alloc(channels, sizeof *y);
  qb_linear linear;
  if (y == NULL)
    return qb_fail_memory(error, node->name, channels * sizeof *y);
  if (qb_graph_linear(magnitudes->graph, id, &linear) && channels == (size_t)linear.out_channels)
    visit_linear(magnitudes, &linear, y);
  else
    for (size_t c = 0; c < channels; c++)
      y[c] = visit_channel(magnitudes, node, c, channels);
  return QB_OK;
}
