/* Moments through a graph; see moments.h. */
#include "quant/moments.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* -------------------------------------------------------------------------------------------------------- normals */

static const double sqrt_half = 0.70710678118654752440, density_at_0 = 0.39894228040143267794;

static double below(double z) { return 0.5 * erfc(-z * sqrt_half); }

static double density(double z) { return isinf(z) ? 0 : density_at_0 * exp(-0.5 * z * z); }

/* a p, 0 where p is: a may be infinite. */
static double times(double a, double p) { return p == 0 ? 0 : a * p; }

void qb_clipped_normal(double mean, double deviation, double lo, double hi, double *clipped_mean,
                       double *clipped_variance) {
  if (!(deviation > 0)) {
    *clipped_mean = fmin(fmax(mean, lo), hi);
    *clipped_variance = 0;
    return;
  }
  double a = (lo - mean) / deviation, b = (hi - mean) / deviation;
  double under = isinf(lo) ? 0 : below(a), over = isinf(hi) ? 0 : below(-b), inside = 1 - under - over;
  double first = times(lo, under) + times(hi, over) + mean * inside + deviation * (density(a) - density(b));
  double second = times(lo * lo, under) + times(hi * hi, over) + (mean * mean + deviation * deviation) * inside +
                  deviation * (times(mean + lo, density(a)) - times(mean + hi, density(b)));
  *clipped_mean = first;
  *clipped_variance = fmax(0, second - first * first);
}

/* x above 0, slope x below. */
static void leaky_normal(double mean, double variance, double slope, double *out_mean, double *out_variance) {
  double up, up_variance, down, down_variance, deviation = sqrt(variance);
  qb_clipped_normal(mean, deviation, 0, INFINITY, &up, &up_variance);
  qb_clipped_normal(-mean, deviation, 0, INFINITY, &down, &down_variance);
  *out_mean = up - slope * down;
  double second = up_variance + up * up + slope * slope * (down_variance + down * down);
  *out_variance = fmax(0, second - *out_mean * *out_mean);
}

/* ------------------------------------------------------------------------------------------------------ statistics */

static bool reads_layer(const qb_graph *graph, const qb_node *node, qb_linear *linear) {
  qb_node_id producer = graph->values[node->inputs[0]].producer;
  return node->op == QB_OP_BATCH_NORM && producer != QB_NONE && qb_graph_linear(graph, producer, linear);
}

static qb_status read_layer(const qb_graph *graph, const qb_node *node, const qb_linear *linear,
                            qb_layer_statistics *layer, qb_error *error) {
  const qb_view *gamma = &graph->values[node->inputs[1]].constant, *beta = &graph->values[node->inputs[2]].constant;
  size_t channels = qb_view_elements(gamma);
  double *numbers = qb_alloc(2 * channels, sizeof *numbers);
  if (numbers == NULL)
    return qb_fail_memory(error, "statistics of a layer", 2 * channels * sizeof *numbers);
  *layer = (qb_layer_statistics){graph->nodes[linear->node].name, (int64_t)channels, numbers, numbers + channels};
  for (size_t c = 0; c < channels; c++) {
    layer->mean[c] = (double)qb_view_f32(beta)[c];
    layer->deviation[c] = fabs((double)qb_view_f32(gamma)[c]);
  }
  return QB_OK;
}

qb_status qb_statistics_read(const qb_graph *unfolded, qb_statistics *statistics, qb_error *error) {
  *statistics = (qb_statistics){0};
  statistics->layers = qb_alloc((size_t)unfolded->node_count + 1, sizeof *statistics->layers);
  if (statistics->layers == NULL)
    return qb_fail_memory(error, "statistics of layers", (size_t)unfolded->node_count * sizeof *statistics->layers);
  for (qb_node_id n = 0; n < unfolded->node_count; n++) {
    qb_linear linear;
    if (!reads_layer(unfolded, &unfolded->nodes[n], &linear))
      continue;
    QB_TRY(read_layer(unfolded, &unfolded->nodes[n], &linear, &statistics->layers[statistics->count], error));
    statistics->count++;
  }
  return QB_OK;
}

void qb_statistics_free(qb_statistics *statistics) {
  for (int32_t i = 0; i < statistics->count; i++)
    qb_free(statistics->layers[i].mean);
  qb_free(statistics->layers);
  *statistics = (qb_statistics){0};
}

qb_layer_statistics *qb_statistics_find(const qb_statistics *statistics, const char *node) {
  for (int32_t i = 0; i < statistics->count; i++)
    if (strcmp(statistics->layers[i].node, node) == 0)
      return &statistics->layers[i];
  return NULL;
}

/* --------------------------------------------------------------------------------------------------------- moments */

typedef struct moment_walk {
  const qb_graph *graph;
  const qb_statistics *statistics;
  qb_moments *moments;
} moment_walk;

static int64_t channel_count(const qb_graph *graph, qb_value_id value) {
  const qb_shape *shape = &graph->values[value].shape;
  return shape->rank >= 2 ? shape->dims[1] : 1;
}

static bool is_known(const moment_walk *walk, qb_value_id value) {
  return value != QB_NONE && walk->moments->mean[value] != NULL;
}

/* The layer's statistics, unless its BatchNormalization is still a node. */
static const qb_layer_statistics *own_statistics(const moment_walk *walk, qb_node_id node) {
  const qb_graph *graph = walk->graph;
  const qb_layer_statistics *found = qb_statistics_find(walk->statistics, graph->nodes[node].name);
  for (qb_node_id n = node + 1; found != NULL && n < graph->node_count; n++)
    if (graph->nodes[n].op == QB_OP_BATCH_NORM && graph->nodes[n].inputs[0] == graph->nodes[node].output)
      return NULL;
  return found != NULL && found->channels == channel_count(graph, graph->nodes[node].output) ? found : NULL;
}

const double *qb_moments_of_layer(const qb_moments *moments, const qb_graph *graph, const qb_linear *linear) {
  const qb_node *node = &graph->nodes[linear->node];
  qb_value_id input = node->inputs[0];
  const qb_shape *shape = &graph->values[input].shape;
  bool fits = (node->op == QB_OP_CONV || shape->rank == 2) && channel_count(graph, input) == linear->in_channels &&
              linear->channel_axis == 0;
  return fits && input < moments->value_count ? moments->mean[input] : NULL;
}

/* W E[x] + b and W^2 var(x). */
static bool sum_inputs(const moment_walk *walk, const qb_linear *linear, double *mean, double *variance) {
  const qb_graph *graph = walk->graph;
  const double *x = qb_moments_of_layer(walk->moments, graph, linear);
  if (x == NULL || channel_count(graph, graph->nodes[linear->node].output) != linear->out_channels)
    return false;
  const double *spread = walk->moments->variance[graph->nodes[linear->node].inputs[0]];
  const float *w = qb_view_f32(&graph->values[linear->weight].constant);
  int64_t inputs = linear->in_channels / linear->group, rows = linear->out_channels / linear->group;
  for (int64_t o = 0; o < linear->out_channels; o++) {
    mean[o] = 0;
    variance[o] = 0;
    for (int64_t i = 0; i < inputs; i++)
      for (int64_t k = 0; k < linear->kernel_area; k++) {
        double weight = (double)w[(o * inputs + i) * linear->kernel_area + k];
        mean[o] += weight * x[o / rows * inputs + i];
        variance[o] += weight * weight * spread[o / rows * inputs + i];
      }
    if (linear->bias != QB_NONE && graph->values[linear->bias].is_constant)
      mean[o] += (double)qb_view_f32(&graph->values[linear->bias].constant)[o];
  }
  return true;
}

static bool visit_layer(const moment_walk *walk, const qb_linear *linear, double *mean, double *variance) {
  const qb_layer_statistics *own = own_statistics(walk, linear->node);
  if (own == NULL)
    return sum_inputs(walk, linear, mean, variance);
  for (int64_t c = 0; c < own->channels; c++) {
    mean[c] = own->mean[c];
    variance[c] = own->deviation[c] * own->deviation[c];
  }
  return true;
}

static bool visit_batch_norm(const moment_walk *walk, const qb_node *node, int64_t channels, double *mean,
                             double *variance) {
  const float *gamma = qb_view_f32(&walk->graph->values[node->inputs[1]].constant);
  const float *beta = qb_view_f32(&walk->graph->values[node->inputs[2]].constant);
  for (int64_t c = 0; c < channels; c++) {
    mean[c] = (double)beta[c];
    variance[c] = (double)gamma[c] * (double)gamma[c];
  }
  return true;
}

static bool visit_sum(const moment_walk *walk, const qb_node *node, int64_t channels, double *mean, double *variance) {
  double sign = node->op == QB_OP_SUB ? -1 : 1;
  for (int slot = 0; slot < 2; slot++)
    if (!is_known(walk, node->inputs[slot]) || channel_count(walk->graph, node->inputs[slot]) != channels)
      return false;
  const qb_moments *m = walk->moments;
  for (int64_t c = 0; c < channels; c++) {
    mean[c] = m->mean[node->inputs[0]][c] + sign * m->mean[node->inputs[1]][c];
    variance[c] = m->variance[node->inputs[0]][c] + m->variance[node->inputs[1]][c];
  }
  return true;
}

static bool visit_concat(const moment_walk *walk, const qb_node *node, double *mean, double *variance) {
  if (node->attributes.axes.axis != 1)
    return false;
  for (int32_t slot = 0; slot < node->input_count; slot++) {
    if (!is_known(walk, node->inputs[slot]))
      return false;
    size_t count = (size_t)channel_count(walk->graph, node->inputs[slot]);
    memcpy(mean, walk->moments->mean[node->inputs[slot]], count * sizeof *mean);
    memcpy(variance, walk->moments->variance[node->inputs[slot]], count * sizeof *variance);
    mean += count;
    variance += count;
  }
  return true;
}

/* One channel of an activation function, a pool or a copy; false: no rule. */
static bool visit_channel(const moment_walk *walk, const qb_node *node, int64_t c, double x, double spread,
                          double *mean, double *variance) {
  const qb_attributes *a = &node->attributes;
  double deviation = sqrt(spread);
  const qb_view *slope;
  switch (node->op) {
  case QB_OP_RELU: qb_clipped_normal(x, deviation, 0, INFINITY, mean, variance); return true;
  case QB_OP_CLIP:
    qb_clipped_normal(x, deviation, (double)a->clip.lo,
                      (double)(a->clip.hi_channels != NULL ? a->clip.hi_channels[c] : a->clip.hi), mean, variance);
    return true;
  case QB_OP_LEAKY_RELU: leaky_normal(x, spread, (double)a->linear.alpha, mean, variance); return true;
  case QB_OP_PRELU:
    slope = &walk->graph->values[node->inputs[1]].constant;
    leaky_normal(x, spread, (double)qb_view_f32(slope)[qb_view_elements(slope) == 1 ? 0 : c], mean, variance);
    return true;
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN:
  case QB_OP_PAD:
  case QB_OP_FLATTEN:
  case QB_OP_RESHAPE:
  case QB_OP_SQUEEZE:
  case QB_OP_UNSQUEEZE:
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT:
    *mean = x;
    *variance = spread;
    return true;
  default: return false;
  }
}

/* Channels of the output lie in the input's in order, `width` each. */
static bool visit_pointwise(const moment_walk *walk, const qb_node *node, int64_t channels, double *mean,
                            double *variance) {
  const qb_graph *graph = walk->graph;
  qb_value_id input = node->inputs[0];
  int64_t given = channel_count(graph, input), width = channels / given;
  if (!is_known(walk, input) || channels % given != 0 || graph->values[input].shape.dims[0] != 1 ||
      graph->values[node->output].shape.dims[0] != 1)
    return false;
  const qb_view *slope = node->op == QB_OP_PRELU ? &graph->values[node->inputs[1]].constant : NULL;
  if (slope != NULL && (int64_t)qb_view_elements(slope) != channels && qb_view_elements(slope) != 1)
    return false;
  for (int64_t c = 0; c < channels; c++)
    if (!visit_channel(walk, node, c, walk->moments->mean[input][c / width], walk->moments->variance[input][c / width],
                       &mean[c], &variance[c]))
      return false;
  return true;
}

static bool visit(const moment_walk *walk, qb_node_id id, int64_t channels, double *mean, double *variance) {
  const qb_node *node = &walk->graph->nodes[id];
  qb_linear linear;
  if (qb_graph_linear(walk->graph, id, &linear))
    return visit_layer(walk, &linear, mean, variance);
  switch (node->op) {
  case QB_OP_BATCH_NORM: return visit_batch_norm(walk, node, channels, mean, variance);
  case QB_OP_ADD:
  case QB_OP_SUB: return visit_sum(walk, node, channels, mean, variance);
  case QB_OP_CONCAT: return visit_concat(walk, node, mean, variance);
  default: return visit_pointwise(walk, node, channels, mean, variance);
  }
}

static bool allocate(const moment_walk *walk, qb_value_id value) {
  size_t channels = (size_t)channel_count(walk->graph, value);
  walk->moments->mean[value] = qb_alloc(channels, sizeof(double));
  walk->moments->variance[value] = qb_alloc(channels, sizeof(double));
  return walk->moments->mean[value] != NULL && walk->moments->variance[value] != NULL;
}

static void forget(const moment_walk *walk, qb_value_id value) {
  qb_free(walk->moments->mean[value]);
  qb_free(walk->moments->variance[value]);
  walk->moments->mean[value] = walk->moments->variance[value] = NULL;
}

qb_status qb_moments_create(const qb_graph *graph, const qb_statistics *statistics, qb_moments *moments,
                            qb_error *error) {
  size_t values = (size_t)graph->value_count;
  *moments = (qb_moments){.value_count = graph->value_count};
  moments->mean = qb_alloc(values, sizeof *moments->mean);
  moments->variance = qb_alloc(values, sizeof *moments->variance);
  if (moments->mean == NULL || moments->variance == NULL)
    return qb_fail_memory(error, "means of activations", values * sizeof *moments->mean);
  moment_walk walk = {graph, statistics, moments};
  for (int32_t i = 0; i < graph->input_count; i++) {
    if (!allocate(&walk, graph->inputs[i]))
      return qb_fail_memory(error, "means of activations", sizeof(double));
    for (int64_t c = 0; c < channel_count(graph, graph->inputs[i]); c++)
      moments->variance[graph->inputs[i]][c] = 1;
  }
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_value_id out = graph->nodes[n].output;
    if (!allocate(&walk, out))
      return qb_fail_memory(error, "means of activations", sizeof(double));
    if (!visit(&walk, n, channel_count(graph, out), moments->mean[out], moments->variance[out]))
      forget(&walk, out);
  }
  return QB_OK;
}

void qb_moments_free(qb_moments *moments) {
  for (int32_t v = 0; v < moments->value_count; v++) {
    if (moments->mean != NULL)
      qb_free(moments->mean[v]);
    if (moments->variance != NULL)
      qb_free(moments->variance[v]);
  }
  qb_free(moments->mean);
  qb_free(moments->variance);
  *moments = (qb_moments){0};
}
