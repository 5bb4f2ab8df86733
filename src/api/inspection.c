/* qb_inspect: what is in a file. Norms and ranges are of the network with BatchNorm folded; operators are counted in
 * the file as it is. */
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "api/model.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/progress.h"
#include "bound/norms.h"
#include "bound/spectral.h"
#include "graph/pass_fold_bn.h"

/* ----------------------------------------------------------------------------------------------------- one layer */

/* The largest |w| of every output channel; `largest` has out_channels entries, zeroed. */
static void scan_channels(const qb_graph *graph, const qb_linear *linear, double *largest) {
  const qb_view *view = &graph->values[linear->weight].constant;
  const float *weight = qb_view_f32(view);
  int64_t area = linear->kernel_area, count = (int64_t)qb_view_elements(view);
  int64_t out_per_group = linear->out_channels / linear->group, in_per_group = linear->in_channels / linear->group;
  for (int64_t i = 0; i < count; i++) {
    int64_t channel = i / (count / linear->out_channels);
    if (linear->channel_axis == 1) /* (IC, OC/G, KH, KW): the group comes from the input channel */
      channel = i / (area * out_per_group) / in_per_group * out_per_group + i / area % out_per_group;
    largest[channel] = fmax(largest[channel], fabs((double)weight[i]));
  }
}

static void summarize_channels(const double *largest, int64_t channels, qb_inspect_layer *layer) {
  double least = INFINITY;
  for (int64_t c = 0; c < channels; c++) {
    layer->largest = fmax(layer->largest, largest[c]);
    least = largest[c] > 0 ? fmin(least, largest[c]) : least;
    layer->zero_channels += largest[c] == 0;
  }
  layer->range_ratio = layer->largest > 0 ? layer->largest / least : 1;
}

static int copy_shape(const qb_shape *shape, int64_t dims[QB_SHAPE_RANK]) {
  for (int i = 0; i < shape->rank; i++)
    dims[i] = shape->dims[i];
  return shape->rank;
}

static qb_status describe_layer(const qb_graph *graph, const qb_linear *linear, qb_arena *arena,
                                qb_inspect_layer *layer, qb_error *error) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_value *weight = &graph->values[linear->weight];
  layer->known = true;
  layer->sigma = NAN;
  layer->node = qb_arena_string(arena, node->name, strlen(node->name));
  layer->op = qb_op_name(node->op);
  layer->weight_rank = copy_shape(&weight->shape, layer->weight_shape);
  layer->output_rank = copy_shape(&graph->values[node->output].shape, layer->output_shape);
  layer->parameters = (int64_t)qb_shape_elements(&weight->shape);
  if (linear->bias != QB_NONE)
    layer->parameters += (int64_t)qb_shape_elements(&graph->values[linear->bias].shape);
  layer->macs = qb_graph_node_macs(graph, linear->node);
  layer->row_length = linear->row_length;
  layer->bits = weight->codes != NULL ? weight->codes->bits : 0;

  qb_layer_norms norms;
  QB_TRY(qb_layer_norms_of(graph, linear, &norms, error));
  layer->radius = norms.weight;
  qb_arena_mark mark = qb_arena_get_mark(arena);
  double *largest = qb_arena_alloc(arena, (size_t)linear->out_channels, sizeof *largest);
  if (layer->node == NULL || largest == NULL)
    return qb_fail_memory(error, "the description of a layer", (size_t)linear->out_channels * sizeof *largest);
  scan_channels(graph, linear, largest);
  summarize_channels(largest, linear->out_channels, layer);
  qb_arena_rewind(arena, mark);
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------- the network */

static qb_status describe_tensors(const qb_graph *graph, const qb_value_id *ids, int32_t count, qb_arena *arena,
                                  qb_inspect_tensor **tensors, qb_error *error) {
  *tensors = qb_arena_alloc(arena, (size_t)count, sizeof **tensors);
  if (*tensors == NULL)
    return qb_fail_memory(error, "the description of inputs", (size_t)count * sizeof **tensors);
  for (int32_t i = 0; i < count; i++) {
    const qb_value *value = &graph->values[ids[i]];
    (*tensors)[i].name = qb_arena_string(arena, value->name, strlen(value->name));
    (*tensors)[i].rank = copy_shape(&value->shape, (*tensors)[i].shape);
    if ((*tensors)[i].name == NULL)
      return qb_fail_memory(error, "a name", strlen(value->name));
  }
  return QB_OK;
}

static qb_status count_operators(const qb_graph *graph, qb_arena *arena, qb_inspection *inspection, qb_error *error) {
  inspection->operators = qb_arena_alloc(arena, QB_OP_COUNT, sizeof *inspection->operators);
  if (inspection->operators == NULL)
    return qb_fail_memory(error, "operator counts", QB_OP_COUNT * sizeof *inspection->operators);
  int slot[QB_OP_COUNT] = {0}; /* 1 + index into operators */
  for (qb_node_id id = 0; id < graph->node_count; id++) {
    qb_op op = graph->nodes[id].op;
    if (slot[op] == 0) {
      slot[op] = ++inspection->operator_count;
      inspection->operators[slot[op] - 1].op = qb_op_name(op);
    }
    inspection->operators[slot[op] - 1].count++;
  }
  return QB_OK;
}

/* Inputs, outputs and operators of the network as read; layers of its folded form. `room` more layers may follow. */
static qb_status describe_graphs(const qb_graph *read, const qb_graph *folded, int32_t room, qb_arena *arena,
                                 qb_inspection *inspection, qb_error *error) {
  inspection->input_count = read->input_count;
  inspection->output_count = read->output_count;
  QB_TRY(describe_tensors(read, read->inputs, read->input_count, arena, &inspection->inputs, error));
  QB_TRY(describe_tensors(read, read->outputs, read->output_count, arena, &inspection->outputs, error));
  QB_TRY(count_operators(read, arena, inspection, error));
  size_t capacity = (size_t)folded->node_count + (size_t)room;
  inspection->layers = qb_arena_alloc(arena, capacity, sizeof *inspection->layers);
  if (inspection->layers == NULL)
    return qb_fail_memory(error, "the list of layers", capacity * sizeof *inspection->layers);
  for (qb_node_id id = 0; id < folded->node_count; id++) {
    qb_linear linear;
    if (!qb_graph_linear(folded, id, &linear))
      continue;
    qb_inspect_layer *layer = &inspection->layers[inspection->layer_count++];
    QB_TRY(describe_layer(folded, &linear, arena, layer, error));
    inspection->parameters += layer->parameters;
    inspection->macs += layer->macs;
  }
  return QB_OK;
}

/* Fills the spectral norms of the layers that describe_graphs has listed. */
static qb_status describe_norms(const qb_graph *folded, const qb_progress *progress, qb_arena *arena,
                                qb_inspection *inspection, qb_error *error) {
  int done = 0;
  qb_linear linear;
  for (qb_node_id id = 0; id < folded->node_count; id++) {
    if (!qb_graph_linear(folded, id, &linear))
      continue;
    if (!qb_progress_report(progress, "spectral norms", done, inspection->layer_count))
      return qb_fail(error, QB_ERROR_INTERRUPTED, "inspecting was stopped");
    const float *weight = qb_view_f32(&folded->values[linear.weight].constant);
    QB_TRY(qb_layer_sigma(folded, &linear, weight, NULL, arena, &inspection->layers[done++].sigma, error));
  }
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------- unsupported nodes */

/* Lists the nodes without a rule; their number into inspection->unsupported_count. */
static qb_status list_unsupported(const qb_onnx *document, qb_arena *arena, qb_inspection *inspection,
                                  qb_error *error) {
  int32_t count = 0, listed = 0;
  QB_TRY(qb_onnx_list_unsupported(document, NULL, 0, &count, error));
  if (count == 0)
    return QB_OK;
  qb_onnx_unsupported *list = qb_arena_alloc(arena, (size_t)count, sizeof *list);
  inspection->unsupported = qb_arena_alloc(arena, (size_t)count, sizeof *inspection->unsupported);
  if (list == NULL || inspection->unsupported == NULL)
    return qb_fail_memory(error, "unsupported nodes", (size_t)count * sizeof *list);
  QB_TRY(qb_onnx_list_unsupported(document, list, count, &listed, error));
  for (int32_t i = 0; i < count; i++) {
    qb_inspect_unsupported *node = &inspection->unsupported[i];
    node->node = qb_arena_string(arena, list[i].node, strlen(list[i].node));
    node->op = qb_arena_string(arena, list[i].op, strlen(list[i].op));
    node->opset = list[i].opset;
    node->why = list[i].why;
    if (node->node == NULL || node->op == NULL)
      return qb_fail_memory(error, "unsupported nodes", (size_t)count * sizeof *list);
  }
  inspection->unsupported_count = count;
  return QB_OK;
}

/* Layers behind an unsupported node. */
static qb_status describe_orphans(const qb_onnx_orphan *orphans, int32_t count, qb_arena *arena,
                                  qb_inspection *inspection, qb_error *error) {
  for (int32_t i = 0; i < count; i++) {
    qb_inspect_layer *layer = &inspection->layers[inspection->layer_count++];
    layer->node = qb_arena_string(arena, orphans[i].node, strlen(orphans[i].node));
    layer->op = qb_arena_string(arena, orphans[i].op, strlen(orphans[i].op));
    layer->weight_rank = copy_shape(&orphans[i].weight_shape, layer->weight_shape);
    layer->parameters = (int64_t)qb_shape_elements(&orphans[i].weight_shape);
    if (layer->node == NULL || layer->op == NULL)
      return qb_fail_memory(error, "the description of a layer", strlen(orphans[i].node));
  }
  return QB_OK;
}

/* The part in front of unsupported nodes, then the layers behind them. */
static qb_status describe_part(const qb_onnx *document, qb_arena *arena, qb_inspection *inspection, qb_error *error) {
  enum { MOST_ORPHANS = 1 << 16 };
  int32_t count = 0;
  qb_graph read = {0}, folded = {0};
  qb_fold_bn_info info;
  qb_onnx_orphan *orphans = qb_alloc(MOST_ORPHANS, sizeof *orphans);
  if (orphans == NULL)
    return qb_fail_memory(error, "the list of layers", MOST_ORPHANS * sizeof *orphans);
  qb_status status = qb_onnx_to_partial_graph(document, &read, orphans, MOST_ORPHANS, &count, error);
  count = count < MOST_ORPHANS ? count : MOST_ORPHANS;
  if (status == QB_OK)
    status = qb_graph_clone(&read, &folded, error);
  if (status == QB_OK)
    status = qb_fold_bn(&folded, &info, error);
  if (status == QB_OK)
    status = describe_graphs(&read, &folded, count, arena, inspection, error);
  if (status == QB_OK)
    status = describe_orphans(orphans, count, arena, inspection, error);
  qb_graph_free(&folded);
  qb_graph_free(&read);
  qb_free(orphans);
  return status;
}

/* Describes what can be described of a file that qb_model_load refused as unsupported. */
static qb_status describe_document(const char *path, const qb_error *refusal, qb_arena *arena,
                                   qb_inspection *inspection, qb_error *error) {
  inspection->reason = qb_arena_string(arena, refusal->message, strlen(refusal->message));
  if (inspection->reason == NULL)
    return qb_fail_memory(error, "a message", strlen(refusal->message));
  qb_onnx *document = NULL;
  qb_status status = qb_onnx_read(path, &document, error);
  if (status == QB_OK) {
    inspection->opset = qb_onnx_opset(document);
    status = list_unsupported(document, arena, inspection, error);
    if (status == QB_OK)
      status = describe_part(document, arena, inspection, error);
  }
  qb_onnx_free(document);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- the call */

static qb_status describe_file(const char *path, qb_arena *arena, qb_inspection *inspection, qb_error *error) {
  qb_hash hash;
  struct stat status;
  inspection->path = qb_arena_string(arena, path, strlen(path));
  if (inspection->path == NULL)
    return qb_fail_memory(error, path, strlen(path));
  QB_TRY(qb_hash_file(path, &hash, error));
  qb_hash_print(&hash, inspection->sha256);
  inspection->size_bytes = stat(path, &status) == 0 ? (int64_t)status.st_size : 0;
  return QB_OK;
}

void qb_inspect_settings_default(qb_inspect_settings *settings) { *settings = (qb_inspect_settings){0}; }

static qb_status describe_model(const qb_model *model, const qb_inspect_settings *settings, const qb_progress *progress,
                                qb_arena *arena, qb_inspection *inspection, qb_error *error) {
  inspection->opset = qb_onnx_opset(model->document);
  inspection->supported = true;
  QB_TRY(describe_graphs(&model->read, &model->graph, 0, arena, inspection, error));
  if (!settings->spectral)
    return QB_OK;
  int threads = qb_threads_begin(settings->threads);
  qb_status status = describe_norms(&model->graph, progress, arena, inspection, error);
  qb_threads_end(threads);
  return status;
}

static qb_status inspect(const char *path, const qb_inspect_settings *settings, const qb_progress *progress,
                         qb_arena *arena, qb_inspection *inspection, qb_error *error) {
  qb_model *model = NULL;
  qb_error refusal = {0};
  qb_status status = qb_model_load(path, &model, &refusal);
  if (status == QB_OK)
    status = describe_model(model, settings, progress, arena, inspection, error);
  else if (status == QB_ERROR_UNSUPPORTED)
    status = describe_document(path, &refusal, arena, inspection, error);
  else if (error != NULL)
    *error = refusal;
  qb_model_free(model);
  return status == QB_OK ? describe_file(path, arena, inspection, error) : status;
}

qb_status qb_inspect(const char *path, const qb_inspect_settings *settings, const qb_progress *progress,
                     qb_inspection *inspection, qb_error *error) {
  *inspection = (qb_inspection){0};
  qb_inspect_settings defaults;
  qb_inspect_settings_default(&defaults);
  qb_arena *arena = qb_alloc(1, sizeof *arena);
  if (arena == NULL)
    return qb_fail_memory(error, path, sizeof *arena);
  qb_arena_init(arena);
  inspection->storage = arena;
  qb_status status = inspect(path, settings != NULL ? settings : &defaults, progress, arena, inspection, error);
  if (status != QB_OK)
    qb_inspection_free(inspection);
  return status;
}

void qb_inspection_free(qb_inspection *inspection) {
  if (inspection == NULL)
    return;
  qb_arena_free(inspection->storage);
  qb_free(inspection->storage);
  *inspection = (qb_inspection){0};
}
