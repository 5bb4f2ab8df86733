/* Moving biases into the next layers; see pass_absorb_bias.h. */
#include "graph/pass_absorb_bias.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "graph/equalize_segment.h"
#include "graph/layer_bias.h"

/* ------------------------------------------------------------------------------------------------- what is a shift */

static const char *check_reader(const qb_graph *graph, const qb_linear *linear) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_window *window = &node->attributes.conv.window;
  if (!qb_layer_bias_is_free(graph, linear))
    return "a layer that reads it cannot take a bias";
  if (node->op == QB_OP_CONV &&
      (window->pad_begin[0] != 0 || window->pad_begin[1] != 0 || window->pad_end[0] != 0 || window->pad_end[1] != 0))
    return "a convolution that reads it pads with zeros";
  return NULL;
}

/* f(x - c) = f(x) - c for x >= c >= 0. */
static bool is_shift(const qb_node *node) {
  const qb_window *window = &node->attributes.pool.window;
  switch (node->op) {
  case QB_OP_RELU:
  case QB_OP_LEAKY_RELU:
  case QB_OP_PRELU:
  case QB_OP_CLIP:
  case QB_OP_MAX_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: return true;
  case QB_OP_AVERAGE_POOL: /* padding zeros count in the mean, or a ceil window's rest */
    return window->pad_begin[0] == 0 && window->pad_begin[1] == 0 && window->pad_end[0] == 0 &&
           window->pad_end[1] == 0 && !node->attributes.pool.count_include_pad;
  default: return qb_op_is_reshape(node->op);
  }
}

/* Why the readers of a value cannot take a shift, or NULL. The segment has been found: the walk ends. */
static const char *check_readers(const qb_graph *graph, qb_value_id value) {
  const char *why = NULL;
  for (qb_node_id n = 0; n < graph->node_count && why == NULL; n++) {
    const qb_node *node = &graph->nodes[n];
    qb_linear linear;
    if (node->input_count == 0 || node->inputs[0] != value)
      continue;
    if (qb_graph_linear(graph, n, &linear))
      why = check_reader(graph, &linear);
    else
      why = is_shift(node) ? check_readers(graph, node->output) : "an operator behind it is no shift";
  }
  return why;
}

/* ------------------------------------------------------------------------------------------------------ moving */

/* Sum of the weights of output `o` that meet `channel` out of `channels`. */
static double weight_sum(const qb_graph *graph, const qb_linear *linear, int64_t o, int64_t channel, int64_t channels) {
  const float *w = qb_view_f32(&graph->values[linear->weight].constant) + o * linear->row_length;
  int64_t width = linear->in_channels / channels, inputs = linear->in_channels / linear->group;
  int64_t first = channel * width - o / (linear->out_channels / linear->group) * inputs;
  double sum = 0;
  if (first < 0 || first >= inputs)
    return 0;
  for (int64_t i = first * linear->kernel_area; i < (first + width) * linear->kernel_area; i++)
    sum += (double)w[i];
  return sum;
}

static qb_status move_to_readers(qb_graph *graph, qb_segment *segment, const double *moved, qb_error *error) {
  for (int32_t i = 0; i < segment->consumer_count; i++) {
    qb_linear *linear = &segment->consumers[i];
    float *bias;
    QB_TRY(qb_layer_bias_own(graph, linear, &bias, error));
    for (int64_t o = 0; o < linear->out_channels; o++) {
      double sum = (double)bias[o];
      for (int64_t c = 0; c < segment->channels; c++)
        if (moved[c] > 0)
          sum += moved[c] * weight_sum(graph, linear, o, c, segment->channels);
      bias[o] = (float)sum;
    }
  }
  return QB_OK;
}

static void move_limits(qb_graph *graph, const qb_segment *segment, const double *moved) {
  for (int32_t i = 0; i < segment->clip_count; i++) {
    const qb_node *node = &graph->nodes[segment->clips[i]];
    float *limits = (float *)node->attributes.clip.hi_channels; /* qb_segment_own made them */
    int64_t width = graph->values[node->output].shape.dims[1] / segment->channels;
    for (int64_t c = 0; c < segment->channels * width; c++)
      if (moved[c / width] > 0)
        limits[c] = (float)((double)limits[c] - moved[c / width]);
  }
}

/* Smallest upper limit of the channel. */
static double limit_of(const qb_graph *graph, const qb_segment *segment, int64_t c) {
  double least = INFINITY;
  for (int32_t i = 0; i < segment->clip_count; i++) {
    const qb_node *node = &graph->nodes[segment->clips[i]];
    int64_t width = graph->values[node->output].shape.dims[1] / segment->channels;
    for (int64_t k = 0; k < width; k++)
      least = fmin(least, (double)node->attributes.clip.hi_channels[c * width + k]);
  }
  return least;
}

static qb_status absorb(qb_graph *graph, qb_segment *segment, double *moved, bool *owned, qb_absorb_info *info,
                        qb_error *error) {
  float *bias;
  QB_TRY(qb_segment_own(graph, segment, owned, error));
  QB_TRY(qb_layer_bias_own(graph, &segment->source, &bias, error));
  int64_t before = info->channels;
  for (int64_t c = 0; c < segment->channels; c++)
    if (moved[c] > 0 && isfinite(moved[c]) && limit_of(graph, segment, c) > moved[c]) {
      bias[c] = (float)((double)bias[c] - moved[c]);
      info->channels++;
    } else {
      moved[c] = 0;
    }
  info->places += info->channels > before;
  move_limits(graph, segment, moved);
  QB_TRY(move_to_readers(graph, segment, moved, error));
  (void)qb_segment_join_limits(graph, segment);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------------- the pass
 */

static bool has_floor(const qb_layer_floor *floor) {
  for (int64_t c = 0; c < floor->channels; c++)
    if (floor->floor[c] > 0)
      return true;
  return false;
}

static void clear_floor(qb_layer_floor *floor) {
  for (int64_t c = 0; c < floor->channels; c++)
    floor->floor[c] = 0;
}

static qb_layer_floor *find_floor(qb_layer_floor *floors, int32_t count, const char *node) {
  for (int32_t i = 0; i < count; i++)
    if (strcmp(floors[i].node, node) == 0)
      return has_floor(&floors[i]) ? &floors[i] : NULL;
  return NULL;
}

qb_status qb_absorb_bias(qb_graph *graph, qb_layer_floor *floors, int32_t count, qb_absorb_info *info,
                         qb_error *error) {
  *info = (qb_absorb_info){0};
  qb_absorb_left *left = qb_arena_alloc(&graph->arena, (size_t)graph->node_count + 1, sizeof *left);
  /* new biases add values: one per layer at most */
  bool *owned = qb_arena_alloc(&graph->arena, (size_t)graph->value_count + (size_t)graph->node_count, sizeof *owned);
  if (left == NULL || owned == NULL)
    return qb_fail_memory(error, "the list of layers", (size_t)graph->node_count * sizeof *left);
  info->left = left;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_layer_floor *floor = find_floor(floors, count, graph->nodes[n].name);
    qb_segment segment;
    const char *why;
    if (floor == NULL)
      continue;
    qb_segment_find(graph, n, &segment, &why);
    if (why == NULL && floor->channels != segment.channels)
      why = "its floors are for another number of channels";
    if (why == NULL && !qb_layer_bias_is_free(graph, &segment.source))
      why = "it cannot take a bias";
    if (why == NULL)
      why = check_readers(graph, graph->nodes[n].output);
    if (why == NULL) {
      QB_TRY(absorb(graph, &segment, floor->floor, owned, info, error));
      continue;
    }
    left[info->left_count++] = (qb_absorb_left){.node = graph->nodes[n].name, .why = why};
    clear_floor(floor);
  }
  return QB_OK;
}
