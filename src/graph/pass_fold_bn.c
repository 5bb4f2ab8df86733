/* BatchNorm folding; see pass_fold_bn.h. */
#include "graph/pass_fold_bn.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* The affine map of one BatchNorm and room for the new weights of one layer. */
typedef struct bn_fold {
  qb_graph *graph;
  qb_node_id node;       /* the BatchNorm */
  int64_t channels;      /* C */
  double *scale, *shift; /* s, t: (C) each, from qb_alloc */
  double change;         /* largest relative rounding of this fold */
  qb_fold_bn_info *info;
} bn_fold;

/* ------------------------------------------------------------------------------------------------ the affine map */

static const float *constant_input(const bn_fold *fold, int32_t slot) {
  return qb_view_f32(&fold->graph->values[fold->graph->nodes[fold->node].inputs[slot]].constant);
}

static const char *check_statistics(const bn_fold *fold) {
  const qb_node *node = &fold->graph->nodes[fold->node];
  for (int32_t slot = 1; slot < 5; slot++)
    if (!fold->graph->values[node->inputs[slot]].is_constant)
      return "its statistics are computed, not constants";
  return NULL;
}

/* s = gamma / sqrt(var + eps), t = beta - mean s; returns why not, or NULL. */
static const char *compute_map(bn_fold *fold) {
  const float *gamma = constant_input(fold, 1), *beta = constant_input(fold, 2);
  const float *mean = constant_input(fold, 3), *variance = constant_input(fold, 4);
  double epsilon = (double)fold->graph->nodes[fold->node].attributes.batch_norm.epsilon;
  for (int64_t c = 0; c < fold->channels; c++) {
    double spread = (double)variance[c] + epsilon;
    if (!(spread > 0))
      return "a variance plus epsilon is not positive";
    fold->scale[c] = (double)gamma[c] / sqrt(spread);
    fold->shift[c] = (double)beta[c] - (double)mean[c] * fold->scale[c];
  }
  return NULL;
}

static bool has_shift(const bn_fold *fold) {
  for (int64_t c = 0; c < fold->channels; c++)
    if (fold->shift[c] != 0)
      return true;
  return false;
}

/* ------------------------------------------------------------------------------------------------- new constants */

/* Rounds a new weight to float32 and records how much that changes it. */
static float round_weight(bn_fold *fold, double exact) {
  float rounded = (float)exact;
  double change = exact == 0 ? 0 : fabs((double)rounded - exact) / fabs(exact);
  fold->change = fmax(fold->change, change);
  return rounded;
}

static qb_status unused_name(qb_graph *graph, const char *base, const char *suffix, char **name, qb_error *error) {
  for (int i = 0;; i++) {
    *name = i == 0 ? qb_arena_format(&graph->arena, "%s%s", base, suffix)
                   : qb_arena_format(&graph->arena, "%s%s_%d", base, suffix, i);
    if (*name == NULL)
      return qb_fail_memory(error, base, strlen(base));
    if (qb_graph_find(graph, *name) == QB_NONE)
      return QB_OK;
  }
}

/* Makes `data` the constant in `slot` of `node`: in place when nobody else uses the present one, else a new value. */
static qb_status put_constant(qb_graph *graph, qb_node_id node, int32_t slot, const qb_shape *shape, const float *data,
                              qb_error *error) {
  qb_value_id old = slot < graph->nodes[node].input_count ? graph->nodes[node].inputs[slot] : QB_NONE;
  size_t bytes = qb_shape_elements(shape) * sizeof *data;
  float *target;
  if (old != QB_NONE && qb_graph_use_count(graph, old) == 1) {
    target = qb_graph_replace_constant(graph, old);
    if (target == NULL)
      return qb_fail_memory(error, graph->values[old].name, bytes);
  } else {
    char *name;
    qb_value_id id;
    const char *base = old != QB_NONE ? graph->values[old].name : graph->nodes[node].name;
    QB_TRY(unused_name(graph, base, old != QB_NONE ? "_folded" : "_bias", &name, error));
    QB_TRY(qb_graph_new_constant(graph, name, shape, &id, &target, error));
    graph->values[id].transposed = old != QB_NONE && graph->values[old].transposed;
    QB_TRY(qb_graph_set_input(graph, node, slot, id, error));
  }
  memcpy(target, data, bytes);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- folding */

/* Output channel of weight element `i`. */
static int64_t output_channel(const qb_linear *linear, const qb_shape *weight, int64_t i) {
  if (linear->channel_axis == 0)
    return i / linear->row_length;
  int64_t part = weight->dims[1], input = i / (part * linear->kernel_area); /* ConvTranspose (IC, OC/G, KH, KW) */
  return input / (linear->in_channels / linear->group) * part + i / linear->kernel_area % part;
}

/* Input channel of weight element `i` of a Conv or Gemm. */
static int64_t input_channel(const qb_linear *linear, const qb_shape *weight, int64_t i) {
  int64_t row = i / linear->row_length, part = weight->dims[1];
  return row / (linear->out_channels / linear->group) * part + i / linear->kernel_area % part;
}

/* The new weight and bias of `linear` in float32; `bias` is (OC). */
typedef struct new_layer {
  float *weight, *bias;
  double *sum; /* (OC) scratch: W t */
} new_layer;

enum { LANES = 8 }; /* independent maxima, so that the compiler may use vectors */

/* out = float32(scale * w) for a run of weights with one scale. */
static void scale_run(bn_fold *fold, const float *w, int64_t count, double scale, float *out) {
  double largest[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int lane = 0; lane < LANES; lane++) {
      double exact = (double)w[i + lane] * scale;
      float rounded = (float)exact;
      double change = exact == 0 ? 0 : fabs((double)rounded - exact) / fabs(exact);
      largest[lane] = change > largest[lane] ? change : largest[lane];
      out[i + lane] = rounded;
    }
  for (; i < count; i++)
    out[i] = round_weight(fold, (double)w[i] * scale);
  for (int lane = 0; lane < LANES; lane++)
    fold->change = fmax(fold->change, largest[lane]);
}

static void scale_back(bn_fold *fold, const qb_linear *linear, new_layer *layer) {
  const qb_value *weight = &fold->graph->values[linear->weight];
  const float *w = qb_view_f32(&weight->constant);
  int64_t count = (int64_t)qb_shape_elements(&weight->shape);
  int64_t run = linear->channel_axis == 0 ? linear->row_length : linear->kernel_area;
  for (int64_t i = 0; i < count; i += run)
    scale_run(fold, w + i, run, fold->scale[output_channel(linear, &weight->shape, i)], layer->weight + i);
  const float *b = qb_graph_constant(fold->graph, linear->bias);
  for (int64_t o = 0; o < linear->out_channels; o++)
    layer->bias[o] = round_weight(fold, (b == NULL ? 0 : (double)b[o] * fold->scale[o]) + fold->shift[o]);
}

static void scale_forward(bn_fold *fold, const qb_linear *linear, new_layer *layer) {
  const qb_value *weight = &fold->graph->values[linear->weight];
  const float *w = qb_view_f32(&weight->constant);
  int64_t count = (int64_t)qb_shape_elements(&weight->shape), run = linear->kernel_area;
  for (int64_t i = 0; i < count; i += run) {
    int64_t channel = input_channel(linear, &weight->shape, i);
    scale_run(fold, w + i, run, fold->scale[channel], layer->weight + i);
    for (int64_t k = 0; k < run; k++)
      layer->sum[i / linear->row_length] += (double)w[i + k] * fold->shift[channel];
  }
  const float *b = qb_graph_constant(fold->graph, linear->bias);
  for (int64_t o = 0; o < linear->out_channels; o++)
    layer->bias[o] = round_weight(fold, (b == NULL ? 0 : (double)b[o]) + layer->sum[o]);
}

static bool all_finite(const float *data, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!isfinite(data[i]))
      return false;
  return true;
}

/* The integers of a quantized weight stay; each output channel gets its own scale. Needs positive factors, and one old
 * scale a tensor or output channel; otherwise *result is NULL and the weights become plain floats. */
static qb_status rescale_codes(bn_fold *fold, const qb_linear *linear, new_layer *layer, const qb_codes **result,
                               qb_error *error) {
  const qb_value *weight = &fold->graph->values[linear->weight];
  const qb_codes *old = weight->codes;
  *result = NULL;
  if (old == NULL || linear->channel_axis != 0 || (old->scale_count != 1 && old->axis != 0))
    return QB_OK;
  size_t channels = (size_t)linear->out_channels;
  float *scale = qb_arena_alloc(&fold->graph->arena, channels, sizeof *scale);
  int32_t *zero = qb_arena_alloc(&fold->graph->arena, channels, sizeof *zero);
  qb_codes *codes = qb_arena_alloc(&fold->graph->arena, 1, sizeof *codes);
  if (scale == NULL || zero == NULL || codes == NULL)
    return qb_fail_memory(error, weight->name, channels * sizeof *scale);
  for (size_t o = 0; o < channels; o++) {
    scale[o] = (float)((double)old->scale[old->scale_count == 1 ? 0 : o] * fold->scale[o]);
    zero[o] = old->zero_point == NULL ? 0 : old->zero_point[old->scale_count == 1 ? 0 : o];
    if (!(scale[o] >= 0x1p-126f) || !isfinite(scale[o]))
      return QB_OK;
  }
  for (size_t i = 0; i < qb_shape_elements(&weight->shape); i++) {
    size_t o = i / (size_t)linear->row_length;
    layer->weight[i] = (float)(qb_view_integer(&old->codes, i) - zero[o]) * scale[o];
  }
  *codes = *old;
  codes->axis = 0;
  codes->scale_count = (int32_t)channels;
  codes->scale = scale;
  codes->zero_point = old->zero_point == NULL ? NULL : zero;
  *result = codes;
  return QB_OK;
}

static qb_status put_layer(bn_fold *fold, const qb_linear *linear, const new_layer *layer, const qb_codes *codes,
                           qb_error *error) {
  qb_graph *graph = fold->graph;
  qb_shape shape = graph->values[linear->weight].shape, bias = QB_SHAPE(linear->out_channels);
  QB_TRY(put_constant(graph, linear->node, 1, &shape, layer->weight, error));
  graph->values[graph->nodes[linear->node].inputs[1]].codes = codes;
  bool needed = linear->bias != QB_NONE;
  for (int64_t o = 0; o < linear->out_channels; o++)
    needed = needed || layer->bias[o] != 0;
  if (!needed)
    return QB_OK;
  if (graph->nodes[linear->node].op == QB_OP_MATMUL)
    graph->nodes[linear->node].op = QB_OP_GEMM;
  return put_constant(graph, linear->node, 2, &bias, layer->bias, error);
}

/* Computes the new weights of `linear` and puts them in place; *why is set, and nothing changed, when they overflow. */
static qb_status fold_into(bn_fold *fold, const qb_linear *linear, bool forward, const char **why, qb_error *error) {
  int64_t count = (int64_t)qb_shape_elements(&fold->graph->values[linear->weight].shape);
  new_layer layer = {.weight = qb_alloc((size_t)count, sizeof *layer.weight),
                     .bias = qb_alloc((size_t)linear->out_channels, sizeof *layer.bias),
                     .sum = qb_alloc((size_t)linear->out_channels, sizeof *layer.sum)};
  qb_status status = QB_OK;
  fold->change = 0;
  if (layer.weight == NULL || layer.bias == NULL || layer.sum == NULL) {
    status = qb_fail_memory(error, fold->graph->nodes[linear->node].name, (size_t)count * sizeof *layer.weight);
  } else {
    const qb_codes *codes = NULL;
    (forward ? scale_forward : scale_back)(fold, linear, &layer);
    if (!forward)
      status = rescale_codes(fold, linear, &layer, &codes, error);
    if (status == QB_OK && all_finite(layer.weight, count) && all_finite(layer.bias, linear->out_channels))
      status = put_layer(fold, linear, &layer, codes, error);
    else if (status == QB_OK)
      *why = "a folded weight would overflow float32";
  }
  qb_free(layer.weight);
  qb_free(layer.bias);
  qb_free(layer.sum);
  return status;
}

/* ----------------------------------------------------------------------------------------------------- decisions */

/* Fills `linear` and returns NULL when the node is a layer whose weights may change, else why not. */
static const char *foldable_layer(const qb_graph *graph, qb_node_id node, qb_linear *linear) {
  if (node == QB_NONE || !qb_graph_linear(graph, node, linear))
    return "its input does not come from a Conv, ConvTranspose, Gemm or MatMul with constant weights";
  if (linear->bias != QB_NONE && !graph->values[linear->bias].is_constant)
    return "the bias of the layer before is computed";
  bool matrix = graph->nodes[node].op == QB_OP_GEMM || graph->nodes[node].op == QB_OP_MATMUL;
  if (matrix && graph->values[graph->nodes[node].output].shape.rank != 2)
    return "its channel axis is not the axis of the matrix product";
  return NULL;
}

static qb_status try_back(bn_fold *fold, const char **why, qb_error *error) {
  qb_graph *graph = fold->graph;
  qb_value_id input = graph->nodes[fold->node].inputs[0];
  qb_linear linear;
  *why = foldable_layer(graph, graph->values[input].producer, &linear);
  if (*why == NULL && qb_graph_use_count(graph, input) != 1)
    *why = "the output of the layer before has other uses";
  if (*why != NULL)
    return QB_OK;
  QB_TRY(fold_into(fold, &linear, false, why, error));
  if (*why == NULL) {
    fold->info->folded_back++;
    qb_graph_remove_node(graph, fold->node);
  }
  return QB_OK;
}

/* The only node that uses `value`, as its first input; QB_NONE when there are other uses. */
static qb_node_id only_consumer(const qb_graph *graph, qb_value_id value) {
  if (qb_graph_use_count(graph, value) != 1)
    return QB_NONE;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (graph->nodes[n].input_count > 0 && graph->nodes[n].inputs[0] == value)
      return n;
  return QB_NONE;
}

static bool is_padded(const qb_window *window) {
  return (window->pad_begin[0] | window->pad_begin[1] | window->pad_end[0] | window->pad_end[1]) != 0;
}

static bool accepts_forward(const bn_fold *fold, const qb_node *consumer) {
  switch (consumer->op) {
  case QB_OP_CONV: return !is_padded(&consumer->attributes.conv.window) || !has_shift(fold);
  case QB_OP_GEMM:
  case QB_OP_MATMUL: return fold->graph->values[consumer->inputs[0]].shape.rank == 2;
  default: return false;
  }
}

static qb_status try_forward(bn_fold *fold, bool *done, qb_error *error) {
  qb_graph *graph = fold->graph;
  qb_value_id input = graph->nodes[fold->node].inputs[0];
  qb_node_id consumer = only_consumer(graph, graph->nodes[fold->node].output);
  qb_linear linear;
  const char *why = NULL;
  *done = false;
  if (consumer == QB_NONE || !accepts_forward(fold, &graph->nodes[consumer]) ||
      foldable_layer(graph, consumer, &linear) != NULL)
    return QB_OK;
  QB_TRY(fold_into(fold, &linear, true, &why, error));
  if (why != NULL)
    return QB_OK;
  QB_TRY(qb_graph_set_input(graph, consumer, 0, input, error));
  qb_graph_remove_unused_node(graph, fold->node);
  fold->info->folded_forward++;
  *done = true;
  return QB_OK;
}

/* Folds one BatchNorm; *why says why it stays, NULL when it is gone. */
static qb_status fold_node(bn_fold *fold, const char **why, qb_error *error) {
  *why = check_statistics(fold);
  if (*why == NULL)
    *why = compute_map(fold);
  if (*why != NULL)
    return QB_OK;
  QB_TRY(try_back(fold, why, error));
  if (*why != NULL) {
    bool done;
    QB_TRY(try_forward(fold, &done, error));
    *why = done ? NULL : *why;
  }
  if (*why == NULL)
    fold->info->largest_change = fmax(fold->info->largest_change, fold->change);
  return QB_OK;
}

static qb_status fold_or_leave(qb_graph *graph, qb_node_id node, qb_fold_bn_info *info, qb_fold_bn_left *left,
                               bool *gone, qb_error *error) {
  const char *name = graph->nodes[node].name, *why = NULL;
  bn_fold fold = {.graph = graph, .node = node, .info = info};
  fold.channels = graph->values[graph->nodes[node].inputs[1]].shape.dims[0];
  fold.scale = qb_alloc((size_t)fold.channels, sizeof *fold.scale);
  fold.shift = qb_alloc((size_t)fold.channels, sizeof *fold.shift);
  qb_status status = fold.scale == NULL || fold.shift == NULL
                         ? qb_fail_memory(error, name, (size_t)fold.channels * sizeof *fold.scale)
                         : fold_node(&fold, &why, error);
  qb_free(fold.scale);
  qb_free(fold.shift);
  QB_TRY(status);
  *gone = why == NULL;
  if (why != NULL)
    left[info->left_count++] = (qb_fold_bn_left){.node = name, .why = why};
  return QB_OK;
}

qb_status qb_fold_bn(qb_graph *graph, qb_fold_bn_info *info, qb_error *error) {
  *info = (qb_fold_bn_info){0};
  size_t count = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    count += graph->nodes[n].op == QB_OP_BATCH_NORM;
  qb_fold_bn_left *left = qb_arena_alloc(&graph->arena, count, sizeof *left);
  if (left == NULL)
    return qb_fail_memory(error, "the list of BatchNormalizations", count * sizeof *left);
  info->left = left;
  for (qb_node_id n = 0; n < graph->node_count;) {
    bool gone = false;
    if (graph->nodes[n].op == QB_OP_BATCH_NORM)
      QB_TRY(fold_or_leave(graph, n, info, left, &gone, error));
    n += gone ? 0 : 1; /* the next node has moved to this index */
  }
  return QB_OK;
}
