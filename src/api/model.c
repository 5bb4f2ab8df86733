/* Making models, naming their layers; see model.h. */
#include "api/model.h"

#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/ranks.h"

qb_status qb_model_create(const char *path, qb_model **model, qb_error *error) {
  *model = qb_alloc(1, sizeof **model);
  size_t size = strlen(path) + 1;
  char *copy = qb_alloc(size, 1);
  if (*model == NULL || copy == NULL) {
    qb_free(copy);
    qb_free(*model);
    *model = NULL;
    return qb_fail_memory(error, "a model", size + sizeof **model);
  }
  memcpy(copy, path, size);
  (*model)->path = copy;
  return QB_OK;
}

void qb_model_free(qb_model *model) {
  if (model == NULL)
    return;
  qb_free(model->layers);
  qb_free(model->calibration.text);
  qb_free(model->verification.text);
  qb_graph_free(&model->graph);
  qb_graph_free(&model->prepared);
  qb_graph_free(&model->read);
  qb_onnx_free(model->document);
  qb_free(model->path);
  qb_free(model);
}

qb_status qb_model_list_layers(qb_model *model, qb_error *error) {
  const qb_graph *graph = &model->graph;
  size_t capacity = (size_t)graph->node_count;
  model->layers = qb_alloc(capacity, sizeof *model->layers);
  if (model->layers == NULL)
    return qb_fail_memory(error, "the list of layers", capacity * sizeof *model->layers);
  qb_linear linear;
  for (qb_node_id id = 0; id < graph->node_count; id++)
    if (qb_graph_linear(graph, id, &linear))
      model->layers[model->layer_count++] = id;
  return QB_OK;
}

const char *qb_model_path(const qb_model *model) { return model->path; }

int qb_model_layer_count(const qb_model *model) { return model->layer_count; }

const char *qb_model_layer_name(const qb_model *model, int layer) {
  return model->graph.nodes[model->layers[layer]].name;
}

int qb_threads_begin(int threads) {
  int old = omp_get_max_threads();
  if (threads > 0 || qb_ranks_local() > 1)
    omp_set_num_threads(threads > 0 ? threads : qb_ranks_cores(omp_get_num_procs()));
  return old;
}

void qb_threads_end(int old) { omp_set_num_threads(old); }
