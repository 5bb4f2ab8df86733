/* Finding segments and scaling their channels; see equalize_segment.h. */
#include "graph/equalize_segment.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

/* ------------------------------------------------------------------------------------------------------- finding */

static bool is_own_constant(const qb_graph *graph, qb_value_id id) {
  const qb_value *value = &graph->values[id];
  return value->is_constant && value->codes == NULL && qb_graph_use_count(graph, id) == 1;
}

/* Why the weights of a layer must not change, or NULL. */
static const char *check_layer(const qb_graph *graph, const qb_linear *linear) {
  if (!is_own_constant(graph, linear->weight) || (linear->bias != QB_NONE && !is_own_constant(graph, linear->bias)))
    return "a weight or bias is shared, computed or quantized already";
  qb_op op = graph->nodes[linear->node].op;
  if ((op == QB_OP_GEMM || op == QB_OP_MATMUL) && graph->values[graph->nodes[linear->node].output].shape.rank != 2)
    return "its channel axis is not the axis of a matrix product";
  return NULL;
}

static bool channels_align(const qb_graph *graph, qb_value_id value, int64_t channels) {
  const qb_shape *shape = &graph->values[value].shape;
  return shape->rank >= 2 && shape->dims[0] == 1 && shape->dims[1] % channels == 0;
}

typedef struct walk {
  const qb_graph *graph;
  qb_segment *segment;
  const char *why;
} segment_walk;

static void follow(segment_walk *walk, qb_value_id value);

static void reach_layer(segment_walk *walk, const qb_linear *linear) {
  qb_segment *segment = walk->segment;
  walk->why = check_layer(walk->graph, linear);
  if (walk->why != NULL)
    return;
  if (segment->consumer_count == QB_SEGMENT_CONSUMERS)
    walk->why = "its output has too many readers";
  else
    segment->consumers[segment->consumer_count++] = *linear;
}

static void reach_clip(segment_walk *walk, qb_node_id node) {
  const qb_clip_attributes *clip = &walk->graph->nodes[node].attributes.clip;
  if (clip->lo != 0 && clip->lo != -INFINITY) {
    walk->why = "a Clip that it feeds has a lower limit other than 0";
    return;
  }
  if (clip->hi_channels != NULL || clip->hi != INFINITY) {
    if (walk->segment->clip_count == QB_SEGMENT_CLIPS) {
      walk->why = "its output has too many readers";
      return;
    }
    walk->segment->clips[walk->segment->clip_count++] = node;
  }
  follow(walk, walk->graph->nodes[node].output);
}

/* f(s x) = s f(x) for s > 0, channel by channel. */
static bool is_homogeneous(const qb_node *node) {
  switch (node->op) {
  case QB_OP_RELU:
  case QB_OP_LEAKY_RELU:
  case QB_OP_PRELU:
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: return true;
  case QB_OP_PAD:
    return node->attributes.pad.value == 0 && node->attributes.pad.begin[1] == 0 && node->attributes.pad.end[1] == 0;
  default: return qb_op_is_reshape(node->op);
  }
}

static bool reads_later(const qb_node *node, qb_value_id value) {
  for (int32_t slot = 1; slot < node->input_count; slot++)
    if (node->inputs[slot] == value)
      return true;
  return false;
}

static void reach_node(segment_walk *walk, qb_node_id id, qb_value_id value) {
  const qb_node *node = &walk->graph->nodes[id];
  qb_linear linear;
  if (node->op == QB_OP_ADD || node->op == QB_OP_SUB || node->op == QB_OP_CONCAT)
    walk->why = "its output meets other values in an Add, Sub or Concat";
  else if (reads_later(node, value))
    walk->why = "it is not the first input of a node that it feeds";
  else if (qb_graph_linear(walk->graph, id, &linear))
    reach_layer(walk, &linear);
  else if (node->op == QB_OP_CLIP)
    reach_clip(walk, id);
  else if (is_homogeneous(node))
    follow(walk, node->output);
  else
    walk->why = "it feeds an operator that is not homogeneous";
}

static void follow(segment_walk *walk, qb_value_id value) {
  const qb_graph *graph = walk->graph;
  if (!channels_align(graph, value, walk->segment->channels))
    walk->why = "a reshape behind it mixes channels";
  for (int32_t i = 0; i < graph->output_count && walk->why == NULL; i++)
    if (graph->outputs[i] == value)
      walk->why = "it feeds an output of the network";
  for (qb_node_id n = 0; n < graph->node_count && walk->why == NULL; n++)
    for (int32_t slot = 0; slot < graph->nodes[n].input_count && walk->why == NULL; slot++)
      if (graph->nodes[n].inputs[slot] == value) {
        reach_node(walk, n, value);
        break;
      }
}

void qb_segment_find(const qb_graph *graph, qb_node_id node, qb_segment *segment, const char **why) {
  *segment = (qb_segment){0};
  segment_walk walk = {.graph = graph, .segment = segment};
  if (!qb_graph_linear(graph, node, &segment->source)) {
    *why = "it is no layer with constant weights";
    return;
  }
  segment->channels = segment->source.out_channels;
  walk.why = check_layer(graph, &segment->source);
  if (walk.why == NULL)
    follow(&walk, graph->nodes[node].output);
  if (walk.why == NULL && segment->consumer_count == 0)
    walk.why = "no layer reads it";
  *why = walk.why;
}

/* ------------------------------------------------------------------------------------------------------ owning data */

static qb_status own_constant(qb_graph *graph, qb_value_id id, bool *owned, qb_error *error) {
  if (id == QB_NONE || owned[id])
    return QB_OK;
  const float *old = qb_view_f32(&graph->values[id].constant);
  size_t bytes = qb_view_elements(&graph->values[id].constant) * sizeof *old;
  float *copy = qb_graph_replace_constant(graph, id);
  if (copy == NULL)
    return qb_fail_memory(error, graph->values[id].name, bytes);
  memcpy(copy, old, bytes);
  owned[id] = true;
  return QB_OK;
}

/* One limit per entry of axis 1. */
static qb_status own_limits(qb_graph *graph, qb_node_id node, qb_error *error) {
  qb_clip_attributes *clip = &graph->nodes[node].attributes.clip;
  size_t count = (size_t)graph->values[graph->nodes[node].output].shape.dims[1];
  float *limits = qb_arena_alloc(&graph->arena, count, sizeof *limits);
  if (limits == NULL)
    return qb_fail_memory(error, graph->nodes[node].name, count * sizeof *limits);
  for (size_t c = 0; c < count; c++)
    limits[c] = clip->hi_channels != NULL ? clip->hi_channels[c] : clip->hi;
  clip->hi_channels = limits;
  return QB_OK;
}

qb_status qb_segment_own(qb_graph *graph, qb_segment *segment, bool *owned, qb_error *error) {
  QB_TRY(own_constant(graph, segment->source.weight, owned, error));
  QB_TRY(own_constant(graph, segment->source.bias, owned, error));
  for (int32_t i = 0; i < segment->consumer_count; i++)
    QB_TRY(own_constant(graph, segment->consumers[i].weight, owned, error));
  for (int32_t i = 0; i < segment->clip_count; i++)
    QB_TRY(own_limits(graph, segment->clips[i], error));
  size_t channels = (size_t)segment->channels;
  segment->scale = qb_arena_alloc(&graph->arena, channels, sizeof *segment->scale);
  segment->left_alone = qb_arena_alloc(&graph->arena, channels, sizeof *segment->left_alone);
  if (segment->scale == NULL || segment->left_alone == NULL)
    return qb_fail_memory(error, graph->nodes[segment->source.node].name, channels * sizeof *segment->scale);
  for (size_t c = 0; c < channels; c++)
    segment->scale[c] = 1;
  return QB_OK;
}

int32_t qb_segment_join_limits(qb_graph *graph, const qb_segment *segment) {
  int32_t apart = 0;
  for (int32_t i = 0; i < segment->clip_count; i++) {
    const qb_node *node = &graph->nodes[segment->clips[i]];
    qb_clip_attributes *clip = &graph->nodes[segment->clips[i]].attributes.clip;
    int64_t count = graph->values[node->output].shape.dims[1], same = 1;
    while (same < count && clip->hi_channels[same] == clip->hi_channels[0])
      same++;
    apart += same < count;
    if (same == count) {
      clip->hi = clip->hi_channels[0];
      clip->hi_channels = NULL;
    }
  }
  return apart;
}

/* ---------------------------------------------------------------------------------------------------- the channels */

/* Numbers of one channel: `runs` pieces of `length` floats, `stride` apart. */
typedef struct pieces {
  float *data;
  int64_t runs, length, stride;
} pieces;

/* Data that qb_segment_own made: the pass owns it. */
static float *own_data(const qb_graph *graph, qb_value_id id) { return (float *)graph->values[id].constant.data; }

static pieces source_row(const qb_graph *graph, const qb_linear *linear, int64_t channel) {
  float *data = own_data(graph, linear->weight);
  if (linear->channel_axis == 0)
    return (pieces){data + channel * linear->row_length, 1, linear->row_length, 0};
  int64_t part = linear->out_channels / linear->group, rows = linear->in_channels / linear->group;
  int64_t first = channel / part * rows * part + channel % part; /* (IC, OC/G, KH, KW) */
  return (pieces){data + first * linear->kernel_area, rows, linear->kernel_area, part * linear->kernel_area};
}

/* Weights of a consumer that meet `channel` out of `channels`: a matrix may have several columns for each. */
static pieces consumer_column(const qb_graph *graph, const qb_linear *linear, int64_t channel, int64_t channels) {
  float *data = own_data(graph, linear->weight);
  if (linear->channel_axis == 1) { /* ConvTranspose: one block per input channel */
    int64_t block = linear->out_channels / linear->group * linear->kernel_area;
    return (pieces){data + channel * block, 1, block, 0};
  }
  int64_t width = linear->in_channels / channels, inputs = linear->in_channels / linear->group;
  int64_t rows = linear->out_channels / linear->group, first = channel * width;
  int64_t start = first / inputs * rows * linear->row_length + first % inputs * linear->kernel_area;
  return (pieces){data + start, rows, width * linear->kernel_area, linear->row_length};
}

static double largest_of(pieces numbers) {
  float largest = 0;
  for (int64_t r = 0; r < numbers.runs; r++)
    for (int64_t i = 0; i < numbers.length; i++)
      largest = fmaxf(largest, fabsf(numbers.data[r * numbers.stride + i]));
  return (double)largest;
}

void qb_segment_ranges(const qb_graph *graph, const qb_segment *segment, double *rows, double *columns) {
  for (int64_t c = 0; c < segment->channels; c++) {
    rows[c] = largest_of(source_row(graph, &segment->source, c));
    columns[c] = 0;
    for (int32_t i = 0; i < segment->consumer_count; i++)
      columns[c] = fmax(columns[c], largest_of(consumer_column(graph, &segment->consumers[i], c, segment->channels)));
  }
}

static double sum_of(pieces numbers) {
  double sum = 0;
  for (int64_t r = 0; r < numbers.runs; r++)
    for (int64_t i = 0; i < numbers.length; i++)
      sum += fabs((double)numbers.data[r * numbers.stride + i]);
  return sum;
}

void qb_segment_sums(const qb_graph *graph, const qb_segment *segment, double *rows, double *columns) {
  for (int64_t c = 0; c < segment->channels; c++) {
    rows[c] = sum_of(source_row(graph, &segment->source, c));
    columns[c] = 0;
    for (int32_t i = 0; i < segment->consumer_count; i++)
      columns[c] += sum_of(consumer_column(graph, &segment->consumers[i], c, segment->channels));
  }
}

/* ------------------------------------------------------------------------------------------------------- scaling */

/* True when every product stays finite and, with `exact`, is a float32 number. */
static bool can_scale(pieces numbers, double factor, bool exact) {
  for (int64_t r = 0; r < numbers.runs; r++)
    for (int64_t i = 0; i < numbers.length; i++) {
      float number = numbers.data[r * numbers.stride + i];
      double product = (double)number * factor; /* exact in double when the factor is a power of two */
      float rounded = (float)product;
      if (isinf(number))
        continue; /* a missing limit */
      if (!isfinite(rounded) || (exact && (double)rounded != product))
        return false;
    }
  return true;
}

static void multiply(pieces numbers, double factor, double *change) {
  for (int64_t r = 0; r < numbers.runs; r++)
    for (int64_t i = 0; i < numbers.length; i++) {
      float *number = &numbers.data[r * numbers.stride + i];
      double product = (double)*number * factor;
      *number = (float)product;
      if (product != 0 && isfinite(product))
        *change = fmax(*change, fabs((double)*number - product) / fabs(product));
    }
}

enum { PIECES_LIMIT = 2 + QB_SEGMENT_CLIPS + QB_SEGMENT_CONSUMERS };

/* Everything that channel `c` touches: first what is divided (*divided of them), then what is multiplied. */
static int32_t channel_pieces(const qb_graph *graph, const qb_segment *segment, int64_t c, pieces list[PIECES_LIMIT],
                              int32_t *divided) {
  int32_t count = 0;
  list[count++] = source_row(graph, &segment->source, c);
  if (segment->source.bias != QB_NONE)
    list[count++] = (pieces){own_data(graph, segment->source.bias) + c, 1, 1, 0};
  for (int32_t i = 0; i < segment->clip_count; i++) {
    const qb_node *node = &graph->nodes[segment->clips[i]];
    int64_t width = graph->values[node->output].shape.dims[1] / segment->channels;
    list[count++] = (pieces){(float *)node->attributes.clip.hi_channels + c * width, 1, width, 0};
  }
  *divided = count;
  for (int32_t i = 0; i < segment->consumer_count; i++)
    list[count++] = consumer_column(graph, &segment->consumers[i], c, segment->channels);
  return count;
}

static bool scale_channel(qb_graph *graph, qb_segment *segment, int64_t c, double factor, bool exact, double *change) {
  pieces list[PIECES_LIMIT];
  int32_t divided, count = channel_pieces(graph, segment, c, list, &divided);
  for (int32_t i = 0; i < count; i++)
    if (!can_scale(list[i], i < divided ? 1 / factor : factor, exact)) {
      segment->left_alone[c] = true;
      return false;
    }
  for (int32_t i = 0; i < count; i++)
    multiply(list[i], i < divided ? 1 / factor : factor, change);
  segment->scale[c] *= factor;
  return true;
}

int64_t qb_segment_scale(qb_graph *graph, qb_segment *segment, const double *factors, bool exact, double *change) {
  int64_t changed = 0;
  for (int64_t c = 0; c < segment->channels; c++)
    if (factors[c] != 1)
      changed += scale_channel(graph, segment, c, factors[c], exact, change);
  return changed;
}
