/* The guard over the whole network: which of two quantized networks is nearer to the float one on the calibration
 * samples; see calibrate.h. */
#include <omp.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/calibrator.h"
#include "run/run.h"

enum { NETWORKS = 3, BATCH = 16 };

typedef struct comparison {
  const qb_graph *graphs[NETWORKS]; /* the float network first */
  qb_run *runs[NETWORKS];
  float *input; /* (BATCH, elements) */
  int64_t limit;
} comparison;

static qb_status create(const qb_samples *samples, comparison *c, qb_error *error) {
  c->input = qb_alloc(BATCH * samples->elements, sizeof *c->input);
  if (c->input == NULL)
    return qb_fail_memory(error, "calibration samples", BATCH * samples->elements * sizeof *c->input);
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.batch = BATCH;
  settings.threads = omp_get_max_threads();
  for (int i = 0; i < NETWORKS; i++)
    QB_TRY(qb_run_create(c->graphs[i], &settings, &c->runs[i], error));
  return QB_OK;
}

static double square_distance(const float *a, const float *b, size_t count) {
  double total = 0;
  for (size_t i = 0; i < count; i++)
    total += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
  return total;
}

static qb_status add_batch(comparison *c, const qb_samples *samples, int64_t first, double errors[2], qb_error *error) {
  int32_t count = c->limit - first < BATCH ? (int32_t)(c->limit - first) : BATCH;
  const float *outputs[NETWORKS];
  QB_TRY(qb_samples_read(samples, first, count, c->input, error));
  for (int i = 0; i < NETWORKS; i++) {
    QB_TRY(qb_run_forward(c->runs[i], c->input, count, error));
    outputs[i] = qb_run_value(c->runs[i], c->graphs[i]->outputs[0]);
  }
  const qb_graph *graph = c->graphs[0];
  size_t elements = (size_t)count * qb_shape_elements(&graph->values[graph->outputs[0]].shape);
  for (int i = 0; i < 2; i++)
    errors[i] += square_distance(outputs[0], outputs[i + 1], elements);
  return QB_OK;
}

qb_status qb_guard_compare(const qb_graph *graph, const qb_samples *samples, const qb_graph *a, const qb_graph *b,
                           int64_t limit, double errors[2], qb_error *error) {
  comparison c = {.graphs = {graph, a, b}, .limit = limit < samples->count ? limit : samples->count};
  errors[0] = errors[1] = 0;
  qb_status status = create(samples, &c, error);
  for (int64_t first = 0; status == QB_OK && first < c.limit; first += BATCH)
    status = add_batch(&c, samples, first, errors, error);
  double elements = (double)c.limit * (double)qb_shape_elements(&graph->values[graph->outputs[0]].shape);
  for (int i = 0; i < 2; i++)
    errors[i] /= elements;
  for (int i = 0; i < NETWORKS; i++)
    qb_run_free(c.runs[i]);
  qb_free(c.input);
  return status;
}

qb_status qb_guard_network(const qb_calibrator *calibrator, const qb_graph *a, const qb_graph *b, int64_t limit,
                           double errors[2], qb_error *error) {
  return qb_guard_compare(&calibrator->original, &calibrator->samples, a, b, limit, errors, error);
}
