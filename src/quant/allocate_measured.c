/* One layer rounded, the rest float: what arrives at the network's output; see allocate_scores.h. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/extract.h"
#include "quant/allocate_internal.h"
#include "run/run.h"

/* Multiply-accumulates that all measurements together may take: ten to twenty seconds on two cores. */
static const double mac_budget = 3e11;
enum { LEAST_SAMPLES = 16, MEASURED_BITS = QB_SOLVED_BITS };

static qb_status start_run(const qb_graph *graph, qb_run **run, qb_error *error) {
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.batch = QB_SCORE_BATCH;
  settings.threads = omp_get_max_threads();
  return qb_run_create(graph, &settings, run, error);
}

static double square_distance(const float *a, const float *b, size_t count) {
  double total = 0;
  for (size_t i = 0; i < count; i++)
    total += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
  return total;
}

/* ------------------------------------------------------------------------------------------------- whole networks */

static qb_status run_batches(qb_scorer *s, const qb_graph *graph, qb_run *run, float *input, float *outputs,
                             double limit, double *distance, qb_error *error) {
  for (int64_t first = 0; first < s->samples.count && (distance == NULL || *distance <= limit);
       first += QB_SCORE_BATCH) {
    int64_t left = s->samples.count - first;
    int32_t count = left < QB_SCORE_BATCH ? (int32_t)left : QB_SCORE_BATCH;
    QB_TRY(qb_samples_read(&s->samples, first, count, input, error));
    QB_TRY(qb_run_forward(run, input, count, error));
    const float *y = qb_run_value(run, graph->outputs[0]);
    size_t at = (size_t)first * s->output_elements, size = (size_t)count * s->output_elements;
    if (outputs != NULL)
      memcpy(outputs + at, y, size * sizeof *outputs);
    if (distance != NULL)
      *distance += square_distance(y, s->outputs + at, size);
  }
  return QB_OK;
}

qb_status qb_scorer_run(qb_scorer *scorer, const qb_graph *graph, float *outputs, double limit, double *distance,
                        qb_error *error) {
  qb_run *run = NULL;
  size_t size = QB_SCORE_BATCH * scorer->samples.elements;
  float *input = qb_alloc(size, sizeof *input);
  if (distance != NULL)
    *distance = 0;
  qb_status status = input == NULL ? qb_fail_memory(error, "calibration samples", size * sizeof *input)
                                   : start_run(graph, &run, error);
  if (status == QB_OK)
    status = run_batches(scorer, graph, run, input, outputs, limit, distance, error);
  qb_run_free(run);
  qb_free(input);
  return status;
}

static qb_status apply_plan(const qb_scorer *s, const int *bits, qb_graph *graph, qb_error *error) {
  qb_linear linear;
  int layer = -1;
  for (qb_node_id n = 0; n < s->graph->node_count; n++) {
    if (!qb_graph_linear(s->graph, n, &linear) || bits[++layer] == 0)
      continue;
    float *after = qb_graph_replace_constant(graph, linear.weight);
    if (after == NULL)
      return qb_fail_memory(error, s->graph->values[linear.weight].name, sizeof *after);
    QB_TRY(qb_scorer_round(s, layer, &linear, bits[layer], after, error));
  }
  return QB_OK;
}

qb_status qb_scorer_plan_error(qb_scorer *scorer, const int *bits, double limit, double *mean_square, qb_error *error) {
  qb_graph graph;
  double numbers = (double)scorer->samples.count * (double)scorer->output_elements;
  qb_status status = qb_graph_clone(scorer->graph, &graph, error);
  if (status == QB_OK)
    status = apply_plan(scorer, bits, &graph, error);
  if (status == QB_OK)
    status = qb_scorer_run(scorer, &graph, NULL, limit * numbers, mean_square, error);
  *mean_square /= numbers;
  qb_graph_free(&graph);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- one layer */

enum { PROBE_LIMIT = 8 };

/* The network behind a cut, once for every measured width of one layer. */
typedef struct probing {
  qb_scorer *scorer;
  int count; /* measured widths */
  qb_graph whole[PROBE_LIMIT], part[PROBE_LIMIT];
  qb_run *run[PROBE_LIMIT];
  double distance[PROBE_LIMIT];
} probing;

static void free_probing(probing *p) {
  for (int i = 0; i < p->count; i++) {
    qb_run_free(p->run[i]);
    qb_graph_free(&p->part[i]);
    qb_graph_free(&p->whole[i]);
  }
}

static qb_status create_probe(probing *p, int i, qb_value_id cut, int layer, const qb_linear *linear, int bits,
                              qb_error *error) {
  const qb_graph *graph = p->scorer->graph;
  qb_graph *whole = &p->whole[i];
  QB_TRY(qb_graph_clone(graph, whole, error));
  float *after = qb_graph_replace_constant(whole, linear->weight);
  if (after == NULL)
    return qb_fail_memory(error, graph->values[linear->weight].name, sizeof *after);
  QB_TRY(qb_scorer_round(p->scorer, layer, linear, bits, after, error));
  QB_TRY(qb_graph_extract(whole, cut, graph->outputs, 1, &p->part[i], error));
  return start_run(&p->part[i], &p->run[i], error);
}

static qb_status probe_batch(void *context, const float *x, const float *xh, int64_t first, int32_t count,
                             qb_error *error) {
  probing *p = context;
  const qb_scorer *s = p->scorer;
  (void)xh;
  for (int i = 0; i < p->count; i++) {
    QB_TRY(qb_run_forward(p->run[i], x, count, error));
    p->distance[i] +=
        square_distance(qb_run_value(p->run[i], s->graph->outputs[0]), s->outputs + (size_t)first * s->output_elements,
                        (size_t)count * s->output_elements);
  }
  return QB_OK;
}

/* The last value before the layer through which everything later flows. */
static qb_value_id last_cut(const qb_graph *graph, const bool *is_cut, qb_node_id layer) {
  qb_value_id cut = graph->inputs[0];
  for (qb_node_id n = 0; n < layer; n++)
    if (is_cut[graph->nodes[n].output])
      cut = graph->nodes[n].output;
  return cut;
}

static int measured_widths(const qb_score_table *table) {
  int count = 1;
  while (count < table->widths && count < PROBE_LIMIT && table->width[count] <= MEASURED_BITS)
    count++;
  return count;
}

/* Wider than measured: as the layer's own error falls. */
static void extend(const double *power, double *row, int measured, int widths) {
  for (int w = measured; w < widths; w++) {
    double base = power[measured - 1];
    row[w] = base > 0 ? row[measured - 1] * (power[w] / base) : 0;
  }
}

static qb_status measure_layer(qb_scorer *s, qb_frontier *frontier, const bool *is_cut, int layer,
                               const qb_linear *linear, const qb_score_table *table, double *row, qb_error *error) {
  qb_value_id cut = last_cut(s->graph, is_cut, linear->node);
  probing p = {.scorer = s, .count = measured_widths(table)};
  qb_status status = QB_OK;
  for (int i = 0; status == QB_OK && i < p.count; i++)
    status = create_probe(&p, i, cut, layer, linear, table->width[i], error);
  if (status == QB_OK)
    status = qb_frontier_visit(frontier, cut, probe_batch, &p, error);
  for (int i = 0; i < p.count; i++)
    row[i] = p.distance[i] / ((double)s->samples.count * (double)s->output_elements);
  free_probing(&p);
  return status;
}

/* ------------------------------------------------------------------------------------------------------ all layers */

/* Half of the network runs per layer and width in the mean. */
static int64_t affordable_samples(const qb_scorer *s, const qb_score_table *table) {
  double macs = 0;
  for (qb_node_id n = 0; n < s->graph->node_count; n++)
    macs += (double)qb_graph_node_macs(s->graph, n);
  double each = 0.5 * macs * (double)table->layers * (double)measured_widths(table);
  double count = each > 0 ? mac_budget / each : (double)s->samples.count;
  count = fmax(count, LEAST_SAMPLES);
  return count < (double)s->samples.count ? (int64_t)count : s->samples.count;
}

static qb_status measure_layers(qb_scorer *s, qb_frontier *frontier, const bool *is_cut, const qb_score_table *power,
                                qb_score_table *table, qb_error *error) {
  qb_linear linear;
  int layer = 0, measured = measured_widths(table);
  for (qb_node_id n = 0; n < s->graph->node_count; n++) {
    if (!qb_graph_linear(s->graph, n, &linear))
      continue;
    double *row = table->score + layer * table->widths;
    if (!qb_progress_report(s->progress, "measuring layers", layer, table->layers))
      return qb_fail(error, QB_ERROR_INTERRUPTED, "choosing bits was stopped");
    QB_TRY(measure_layer(s, frontier, is_cut, layer, &linear, table, row, error));
    extend(power->score + layer * table->widths, row, measured, table->widths);
    layer++;
  }
  return QB_OK;
}

qb_status qb_score_measured(qb_scorer *scorer, const qb_score_table *power, qb_score_table *table, qb_error *error) {
  qb_scorer fewer = *scorer; /* borrows the outputs */
  qb_frontier *frontier = NULL;
  fewer.samples.count = affordable_samples(scorer, table);
  bool *is_cut = qb_alloc((size_t)scorer->graph->value_count, sizeof *is_cut);
  qb_frontier_settings how = qb_scorer_frontier(&fewer, &fewer.samples);
  qb_status status = is_cut == NULL ? qb_fail_memory(error, "cuts", (size_t)scorer->graph->value_count)
                                    : qb_graph_cuts(scorer->graph, is_cut, error);
  if (status == QB_OK)
    status = qb_frontier_create(scorer->graph, scorer->graph, &fewer.samples, &how, &frontier, error);
  if (status == QB_OK)
    status = measure_layers(&fewer, frontier, is_cut, power, table, error);
  qb_frontier_free(frontier);
  qb_free(is_cut);
  return status;
}
