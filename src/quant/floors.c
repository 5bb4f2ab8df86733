/* Floors of layers; see floors.h. */
#include "quant/floors.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/samples.h"
#include "run/run.h"

enum { BATCH = 4, DEVIATIONS = 3 };

static qb_status add_layer(qb_floors *floors, const char *node, int64_t channels, double **numbers, qb_error *error) {
  *numbers = qb_alloc((size_t)channels, sizeof **numbers);
  if (*numbers == NULL)
    return qb_fail_memory(error, "floors of a layer", (size_t)channels * sizeof **numbers);
  floors->layers[floors->count++] = (qb_layer_floor){node, channels, *numbers};
  return QB_OK;
}

static qb_status make_room(qb_floors *floors, int32_t most, qb_error *error) {
  *floors = (qb_floors){0};
  floors->layers = qb_alloc((size_t)most + 1, sizeof *floors->layers);
  return floors->layers != NULL ? QB_OK
                                : qb_fail_memory(error, "floors of layers", (size_t)most * sizeof *floors->layers);
}

void qb_floors_free(qb_floors *floors) {
  for (int32_t i = 0; i < floors->count; i++)
    qb_free(floors->layers[i].floor);
  qb_free(floors->layers);
  *floors = (qb_floors){0};
}

qb_status qb_floors_from_statistics(const qb_statistics *statistics, qb_floors *floors, qb_error *error) {
  QB_TRY(make_room(floors, statistics->count, error));
  for (int32_t i = 0; i < statistics->count; i++) {
    const qb_layer_statistics *layer = &statistics->layers[i];
    double *numbers;
    QB_TRY(add_layer(floors, layer->node, layer->channels, &numbers, error));
    for (int64_t c = 0; c < layer->channels; c++)
      numbers[c] = fmax(0, layer->mean[c] - DEVIATIONS * layer->deviation[c]);
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- from samples */

typedef struct floor_watch {
  const qb_graph *graph;
  qb_samples samples;
  qb_floors *floors;
  double **numbers;  /* (count) of each layer, writable */
  qb_value_id *keep; /* (count) */
  float *batch;
} floor_watch;

static qb_status list_layers(floor_watch *w, qb_error *error) {
  const qb_graph *graph = w->graph;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_shape *shape = &graph->values[graph->nodes[n].output].shape;
    qb_linear linear;
    if (!qb_graph_linear(graph, n, &linear) || shape->rank < 2 || shape->dims[1] != linear.out_channels)
      continue;
    double **numbers = &w->numbers[w->floors->count];
    w->keep[w->floors->count] = graph->nodes[n].output;
    QB_TRY(add_layer(w->floors, graph->nodes[n].name, linear.out_channels, numbers, error));
    for (int64_t c = 0; c < linear.out_channels; c++)
      (*numbers)[c] = INFINITY;
  }
  return QB_OK;
}

static void look(floor_watch *w, qb_run *run, int32_t samples) {
  for (int32_t i = 0; i < w->floors->count; i++) {
    const float *x = qb_run_value(run, w->keep[i]);
    int64_t channels = w->floors->layers[i].channels;
    int64_t elements = (int64_t)qb_shape_elements(&w->graph->values[w->keep[i]].shape) / channels;
    for (int64_t at = 0; at < samples * channels; at++) {
      float least = INFINITY;
      for (int64_t k = 0; k < elements; k++)
        least = fminf(least, x[at * elements + k]);
      w->numbers[i][at % channels] = fmin(w->numbers[i][at % channels], (double)least);
    }
  }
}

static qb_status watch(floor_watch *w, qb_run *run, const qb_progress *progress, qb_error *error) {
  for (int64_t first = 0; first < w->samples.count; first += BATCH) {
    int32_t count = w->samples.count - first < BATCH ? (int32_t)(w->samples.count - first) : BATCH;
    if (!qb_progress_report(progress, "smallest activations", first, w->samples.count))
      return qb_fail(error, QB_ERROR_INTERRUPTED, "%s: interrupted after %lld of %lld calibration samples",
                     w->graph->name, (long long)first, (long long)w->samples.count);
    QB_TRY(qb_samples_read(&w->samples, first, count, w->batch, error));
    QB_TRY(qb_run_forward(run, w->batch, count, error));
    look(w, run, count);
  }
  return QB_OK;
}

static qb_status run_samples(floor_watch *w, const qb_quantize_settings *settings, const qb_progress *progress,
                             qb_error *error) {
  QB_TRY(list_layers(w, error));
  qb_run_settings how;
  qb_run_settings_default(&how);
  how.batch = BATCH;
  how.threads = settings->threads;
  how.keep = w->keep;
  how.keep_count = w->floors->count;
  qb_run *run = NULL;
  QB_TRY(qb_run_create(w->graph, &how, &run, error));
  qb_status status = watch(w, run, progress, error);
  qb_run_free(run);
  return status;
}

qb_status qb_floors_from_samples(const qb_graph *graph, const qb_quantize_settings *settings,
                                 const qb_progress *progress, qb_floors *floors, qb_error *error) {
  QB_TRY(make_room(floors, graph->node_count, error));
  size_t most = (size_t)graph->node_count + 1;
  floor_watch w = {.graph = graph,
                   .floors = floors,
                   .samples = qb_samples_of(&settings->calibration, graph, settings->seed)};
  w.numbers = qb_alloc(most, sizeof *w.numbers);
  w.keep = qb_alloc(most, sizeof *w.keep);
  w.batch = qb_alloc(BATCH * w.samples.elements, sizeof *w.batch);
  qb_status status = w.numbers == NULL || w.keep == NULL || w.batch == NULL
                         ? qb_fail_memory(error, "calibration samples", BATCH * w.samples.elements * sizeof *w.batch)
                         : run_samples(&w, settings, progress, error);
  qb_free(w.numbers);
  qb_free(w.keep);
  qb_free(w.batch);
  return status;
}
