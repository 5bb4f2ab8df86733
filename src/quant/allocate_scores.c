/* The tables from weights and from the inputs of layers; see allocate_scores.h. allocate_measured.c has the third. */
#include "quant/allocate_scores.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/attribution.h"
#include "quant/allocate_internal.h"
#include "quant/layer.h"

enum { POSITIONS = 8, STRIP = 128 };

/* ---------------------------------------------------------------------------------------------------------- tables */

qb_status qb_score_table_create(const qb_graph *graph, const int *width, int widths, qb_score_table *table,
                                qb_error *error) {
  qb_linear linear;
  *table = (qb_score_table){.widths = widths, .width = width};
  for (qb_node_id n = 0; n < graph->node_count; n++)
    table->layers += qb_graph_linear(graph, n, &linear);
  size_t count = (size_t)table->layers * (size_t)widths;
  table->score = qb_alloc(count, sizeof *table->score);
  return table->score != NULL ? QB_OK : qb_fail_memory(error, "scores of layers", count * sizeof *table->score);
}

void qb_score_table_free(qb_score_table *table) {
  qb_free(table->score);
  *table = (qb_score_table){0};
}

qb_status qb_score_round(const qb_graph *graph, const qb_linear *linear, const qb_quantize_settings *settings, int bits,
                         float *after, qb_error *error) {
  qb_quantize_settings plain = *settings;
  qb_layer_codes codes = {0};
  qb_cut cut = qb_cut_weight(graph, linear, settings->granularity);
  const float *before = qb_view_f32(&graph->values[linear->weight].constant);
  plain.grid = plain.grid == QB_GRID_OUTPUT ? QB_GRID_MSE : plain.grid;
  qb_status status = qb_layer_codes_create(&cut, before, &plain, bits, &codes, error);
  if (status == QB_OK) {
    qb_layer_codes_nearest(&codes, before);
    qb_layer_codes_values(&codes, after);
  }
  qb_layer_codes_free(&codes);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- certified */

static qb_status attribute_layer(const qb_attribution *attribution, const qb_graph *graph, const qb_linear *linear,
                                 const qb_quantize_settings *settings, const qb_score_table *table, double *row,
                                 qb_error *error) {
  size_t count = qb_shape_elements(&graph->values[linear->weight].shape);
  float *after = qb_alloc(count, sizeof *after);
  qb_status status = after != NULL ? QB_OK : qb_fail_memory(error, "rounded weights", count * sizeof *after);
  for (int w = 0; status == QB_OK && w < table->widths; w++) {
    status = qb_score_round(graph, linear, settings, table->width[w], after, error);
    row[w] = status == QB_OK ? qb_attribution_layer(attribution, linear, after) : 0;
  }
  qb_free(after);
  return status;
}

/* From logarithms to numbers, the largest of which is 1: bounds of deep networks leave the range of a double. */
static void normalize(qb_score_table *table) {
  int count = table->layers * table->widths;
  double largest = -INFINITY;
  for (int i = 0; i < count; i++)
    largest = fmax(largest, table->score[i]);
  for (int i = 0; i < count; i++)
    table->score[i] = isfinite(largest) ? exp2(table->score[i] - largest) : 0;
}

qb_status qb_score_certified(const qb_graph *graph, const qb_domain *domain, const qb_quantize_settings *settings,
                             qb_score_table *table, qb_error *error) {
  qb_attribution *attribution;
  qb_linear linear;
  QB_TRY(qb_attribution_create(graph, domain, &attribution, error));
  qb_status status = QB_OK;
  int layer = 0;
  for (qb_node_id n = 0; status == QB_OK && n < graph->node_count; n++)
    if (qb_graph_linear(graph, n, &linear))
      status =
          attribute_layer(attribution, graph, &linear, settings, table, table->score + layer++ * table->widths, error);
  qb_attribution_free(attribution);
  normalize(table);
  return status;
}

/* --------------------------------------------------------------------------------------------------------- scorer */

static qb_status read_outputs(qb_scorer *s, qb_error *error) {
  const qb_graph *graph = s->graph;
  s->output_elements = qb_shape_elements(&graph->values[graph->outputs[0]].shape);
  s->outputs = qb_alloc((size_t)s->samples.count * s->output_elements, sizeof *s->outputs);
  if (s->outputs == NULL)
    return qb_fail_memory(error, "outputs on calibration samples",
                          (size_t)s->samples.count * s->output_elements * sizeof *s->outputs);
  return qb_scorer_run(s, graph, s->outputs, INFINITY, NULL, error);
}

/* Schemes that look at samples are scored by what they do. */
static qb_status create_solver(qb_scorer *s, qb_error *error) {
  qb_linear linear;
  s->calibrated = *s->settings;
  if (s->calibrated.scheme != QB_SCHEME_GPTQ && s->calibrated.scheme != QB_SCHEME_ADAROUND)
    return QB_OK;
  s->calibrated.scheme = QB_SCHEME_GPTQ;
  s->calibrated.grid = s->calibrated.grid == QB_GRID_OUTPUT ? QB_GRID_MSE : s->calibrated.grid;
  for (qb_node_id n = 0; n < s->graph->node_count; n++)
    s->layers += qb_graph_linear(s->graph, n, &linear);
  size_t count = (size_t)s->layers * (QB_SOLVED_BITS + 1);
  s->solved = qb_alloc(count, sizeof *s->solved);
  if (s->solved == NULL)
    return qb_fail_memory(error, "rounded weights", count * sizeof *s->solved);
  return qb_calibrator_create(s->graph, &s->calibrated, &s->calibrator, error);
}

qb_status qb_scorer_create(const qb_graph *graph, const qb_quantize_settings *settings, int64_t limit,
                           const qb_progress *progress, qb_scorer **scorer, qb_error *error) {
  *scorer = NULL;
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: choosing bits needs a network with one input, this one has %d",
                   graph->name, graph->input_count);
  qb_scorer *made = qb_alloc(1, sizeof *made);
  if (made == NULL)
    return qb_fail_memory(error, "scores of layers", sizeof *made);
  *made = (qb_scorer){.graph = graph, .settings = settings, .progress = progress};
  made->samples = qb_samples_of(&settings->calibration, graph, settings->seed);
  int64_t own = settings->calibration.count < made->samples.count ? settings->calibration.count : made->samples.count;
  made->samples.count = limit < own ? limit : own; /* no varied copies: they add little to a score */
  qb_status status = read_outputs(made, error);
  if (status == QB_OK)
    status = create_solver(made, error);
  if (status != QB_OK)
    qb_scorer_free(made);
  else
    *scorer = made;
  return status;
}

void qb_scorer_free(qb_scorer *scorer) {
  if (scorer == NULL)
    return;
  for (int i = 0; scorer->solved != NULL && i < scorer->layers * (QB_SOLVED_BITS + 1); i++)
    qb_free(scorer->solved[i]);
  qb_free(scorer->solved);
  qb_calibrator_free(scorer->calibrator);
  qb_free(scorer->outputs);
  qb_free(scorer);
}

/* ---------------------------------------------------------------------------------------------------------- solving */

qb_status qb_scorer_round(const qb_scorer *scorer, int layer, const qb_linear *linear, int bits, float *after,
                          qb_error *error) {
  const float *solved =
      scorer->solved != NULL && bits <= QB_SOLVED_BITS ? scorer->solved[layer * (QB_SOLVED_BITS + 1) + bits] : NULL;
  if (solved == NULL)
    return qb_score_round(scorer->graph, linear, scorer->settings, bits, after, error);
  memcpy(after, solved, qb_shape_elements(&scorer->graph->values[linear->weight].shape) * sizeof *after);
  return QB_OK;
}

/* Codes to nearest at every narrow width, then solved together. */
static qb_status solve_widths(qb_scorer *s, const qb_linear *linear, const qb_gram *gram, const qb_score_table *table,
                              int widths, qb_layer_codes *codes, qb_error *error) {
  qb_cut cut = qb_cut_weight(s->graph, linear, s->settings->granularity);
  const float *before = qb_view_f32(&s->graph->values[linear->weight].constant);
  for (int w = 0; w < widths; w++) {
    QB_TRY(qb_layer_codes_create(&cut, before, &s->calibrated, table->width[w], &codes[w], error));
    qb_layer_codes_nearest(&codes[w], before);
  }
  return qb_calibrate_gram(s->calibrator, gram, before, codes, widths, error);
}

static qb_status keep_solved(qb_scorer *s, const qb_linear *linear, const qb_layer_codes *codes, float **solved,
                             qb_error *error) {
  size_t count = qb_shape_elements(&s->graph->values[linear->weight].shape);
  *solved = qb_alloc(count, sizeof **solved);
  if (*solved == NULL)
    return qb_fail_memory(error, "rounded weights", count * sizeof **solved);
  qb_layer_codes_values(codes, *solved);
  return QB_OK;
}

/* Solutions for every narrow width, from moments that are complete. */
static qb_status solve_gram(qb_scorer *s, const qb_linear *linear, const qb_gram *gram, int layer,
                            const qb_score_table *table, qb_error *error) {
  qb_layer_codes codes[QB_SOLVED_BITS + 1] = {0};
  int widths = 0;
  while (widths < table->widths && table->width[widths] <= QB_SOLVED_BITS)
    widths++;
  qb_status status = solve_widths(s, linear, gram, table, widths, codes, error);
  for (int w = 0; status == QB_OK && w < widths; w++)
    status = keep_solved(s, linear, &codes[w], &s->solved[layer * (QB_SOLVED_BITS + 1) + table->width[w]], error);
  for (int w = 0; w < widths; w++)
    qb_layer_codes_free(&codes[w]);
  return status;
}

static qb_status add_moments(void *context, const float *x, const float *xh, int64_t first, int32_t count,
                             qb_error *error) {
  (void)error;
  qb_gram_add(context, x, xh, first, count);
  return QB_OK;
}

/* Moments of the layer's inputs once, then a solution for every narrow width. */
static qb_status solve_layer(qb_scorer *s, qb_frontier *frontier, const qb_linear *linear, int layer,
                             const qb_score_table *table, qb_error *error) {
  if (s->calibrator == NULL || !qb_calibrate_supports(s->graph, linear))
    return QB_OK;
  qb_gram gram;
  const qb_gram_settings how = {.matrix = true,
                                .positions = s->settings->calibration.positions,
                                .seed = s->settings->seed};
  qb_status status =
      qb_gram_create(s->graph, linear, qb_view_f32(&s->graph->values[linear->weight].constant), &how, &gram, error);
  if (status == QB_OK)
    status = qb_frontier_visit(frontier, s->graph->nodes[linear->node].inputs[0], add_moments, &gram, error);
  if (status == QB_OK) {
    qb_gram_finish(&gram, false);
    status = solve_gram(s, linear, &gram, layer, table, error);
  }
  qb_gram_free(&gram);
  return status;
}

int64_t qb_scorer_samples(const qb_scorer *scorer) { return scorer->samples.count; }

qb_frontier_settings qb_scorer_frontier(const qb_scorer *scorer, const qb_samples *samples) {
  return (qb_frontier_settings){.batch = samples->count < QB_SCORE_BATCH ? (int32_t)samples->count : QB_SCORE_BATCH,
                                .threads = omp_get_max_threads(),
                                .memory_bytes = scorer->settings->calibration.memory_bytes};
}

/* ----------------------------------------------------------------------------------------------------- activations */

/* One layer: W - Q_b(W) for every width, and what it does to each sample. */
typedef struct layer_noise {
  const qb_scorer *scorer;
  qb_linear linear;
  int layer, widths;
  size_t weights;
  float *change;  /* (widths, weights) */
  double *square; /* (widths, samples): ||change x||_2^2 */
  double *column; /* (QB_GRAM_COLUMNS): of one block and width */
  double scale;   /* positions of the map over positions drawn */
  bool columns;   /* the layer's inputs can be gathered as columns; else its noise is taken as white */
  qb_gram gram;
} layer_noise;

static void free_noise(layer_noise *n) {
  qb_free(n->change);
  qb_free(n->square);
  qb_free(n->column);
  qb_gram_free(&n->gram);
}

static qb_status make_changes(layer_noise *n, const qb_score_table *table, qb_error *error) {
  const qb_graph *graph = n->scorer->graph;
  const float *before = qb_view_f32(&graph->values[n->linear.weight].constant);
  for (int w = 0; w < n->widths; w++) {
    float *change = n->change + (size_t)w * n->weights;
    QB_TRY(qb_scorer_round(n->scorer, n->layer, &n->linear, table->width[w], change, error));
    for (size_t i = 0; i < n->weights; i++)
      change[i] = before[i] - change[i];
  }
  return QB_OK;
}

static qb_status create_noise(layer_noise *n, const qb_score_table *table, qb_error *error) {
  const qb_graph *graph = n->scorer->graph;
  size_t widths = (size_t)table->widths;
  n->widths = table->widths;
  n->weights = qb_shape_elements(&graph->values[n->linear.weight].shape);
  n->change = qb_alloc(widths * n->weights, sizeof *n->change);
  n->square = qb_alloc(widths * (size_t)n->scorer->samples.count, sizeof *n->square);
  n->column = qb_alloc(QB_GRAM_COLUMNS, sizeof *n->column);
  n->columns = qb_gram_supports(graph, &n->linear);
  if (n->change == NULL || n->square == NULL || n->column == NULL)
    return qb_fail_memory(error, "rounded weights", widths * n->weights * sizeof *n->change);
  QB_TRY(make_changes(n, table, error));
  const qb_gram_settings how = {.matrix = false, .positions = POSITIONS, .seed = n->scorer->settings->seed};
  if (!n->columns)
    return QB_OK;
  QB_TRY(qb_gram_create(graph, &n->linear, n->change, &how, &n->gram, error));
  n->scale = (double)(n->gram.out_height * n->gram.out_width) / (double)n->gram.drawn;
  return QB_OK;
}

/* column[i] = ||change x_i||^2 for `count` columns of the block, strip by strip so that threads do not matter. */
static void multiply_block(layer_noise *n, const float *change, size_t count) {
  const qb_gram *gram = &n->gram;
  size_t length = gram->length, features = gram->groups * length, strips = (count + STRIP - 1) / STRIP;
#pragma omp parallel for schedule(dynamic)
  for (size_t s = 0; s < strips; s++) {
    size_t first = s * STRIP, columns = count - first < STRIP ? count - first : STRIP;
    float *product = gram->products + first * gram->groups * gram->rows;
    for (size_t i = first; i < first + columns; i++)
      n->column[i] = 0;
    for (size_t g = 0; g < gram->groups; g++) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)columns, (int)gram->rows, (int)length, 1,
                  gram->block + first * features + g * length, (int)features, change + g * gram->rows * length,
                  (int)length, 0, product, (int)gram->rows);
      for (size_t i = 0; i < columns; i++)
        for (size_t r = 0; r < gram->rows; r++)
          n->column[first + i] += (double)product[i * gram->rows + r] * (double)product[i * gram->rows + r];
    }
  }
}

static void add_columns(layer_noise *n, const float *x, int64_t first, int32_t count) {
  size_t drawn = n->gram.drawn, all = (size_t)count * drawn, samples = (size_t)n->scorer->samples.count;
  for (size_t begin = 0; begin < all; begin += QB_GRAM_COLUMNS) {
    size_t columns = all - begin < QB_GRAM_COLUMNS ? all - begin : QB_GRAM_COLUMNS;
    qb_gram_gather(&n->gram, x, first, begin, columns);
    for (int w = 0; w < n->widths; w++) {
      multiply_block(n, n->change + (size_t)w * n->weights, columns);
      for (size_t i = 0; i < columns; i++)
        n->square[(size_t)w * samples + (size_t)first + (begin + i) / drawn] += n->scale * n->column[i];
    }
  }
}

/* Without columns: every input number meets the kernels of its channel, sum of change^2 times mean of x^2 each. */
static void add_white(layer_noise *n, const float *x, int64_t first, int32_t count) {
  const qb_graph *graph = n->scorer->graph;
  size_t elements = qb_shape_elements(&graph->values[graph->nodes[n->linear.node].inputs[0]].shape);
  for (int32_t i = 0; i < count; i++) {
    double power = 0;
    for (size_t k = 0; k < elements; k++)
      power += (double)x[(size_t)i * elements + k] * (double)x[(size_t)i * elements + k];
    for (int w = 0; w < n->widths; w++) {
      const float *change = n->change + (size_t)w * n->weights;
      double size = 0;
      for (size_t k = 0; k < n->weights; k++)
        size += (double)change[k] * (double)change[k];
      n->square[(size_t)w * (size_t)n->scorer->samples.count + (size_t)(first + i)] =
          size * power / (double)n->linear.in_channels;
    }
  }
}

static qb_status visit_batch(void *context, const float *x, const float *xh, int64_t first, int32_t count,
                             qb_error *error) {
  layer_noise *n = context;
  (void)xh;
  (void)error;
  if (n->columns)
    add_columns(n, x, first, count);
  else
    add_white(n, x, first, count);
  return QB_OK;
}

/* mean + std / sqrt(0.05) of the norms, and the mean of their squares. */
static void summarize(const double *square, int64_t count, double *score, double *power) {
  double mean = 0, mean_square = 0;
  for (int64_t i = 0; i < count; i++) {
    mean += sqrt(square[i]) / (double)count;
    mean_square += square[i] / (double)count;
  }
  *score = mean + sqrt(fmax(0, mean_square - mean * mean) / 0.05);
  *power = mean_square;
}

static qb_status score_layer(qb_scorer *s, qb_frontier *frontier, const qb_linear *linear, int layer,
                             qb_score_table *table, qb_score_table *power, qb_error *error) {
  layer_noise n = {.scorer = s, .linear = *linear, .layer = layer};
  qb_status status = solve_layer(s, frontier, linear, layer, table, error);
  if (status == QB_OK)
    status = create_noise(&n, table, error);
  if (status == QB_OK)
    status = qb_frontier_visit(frontier, s->graph->nodes[linear->node].inputs[0], visit_batch, &n, error);
  for (int w = 0; status == QB_OK && w < table->widths; w++) {
    int at = layer * table->widths + w;
    summarize(n.square + (size_t)w * (size_t)s->samples.count, s->samples.count, &table->score[at], &power->score[at]);
  }
  free_noise(&n);
  return status;
}

qb_status qb_score_activations(qb_scorer *scorer, qb_score_table *table, qb_score_table *power, qb_error *error) {
  qb_frontier *frontier;
  qb_linear linear;
  qb_frontier_settings how = qb_scorer_frontier(scorer, &scorer->samples);
  QB_TRY(qb_frontier_create(scorer->graph, scorer->graph, &scorer->samples, &how, &frontier, error));
  qb_status status = QB_OK;
  int layer = 0;
  for (qb_node_id n = 0; status == QB_OK && n < scorer->graph->node_count; n++) {
    if (!qb_graph_linear(scorer->graph, n, &linear))
      continue;
    status = qb_progress_report(scorer->progress, "scoring layers", layer, table->layers)
                 ? score_layer(scorer, frontier, &linear, layer, table, power, error)
                 : qb_fail(error, QB_ERROR_INTERRUPTED, "choosing bits was stopped");
    layer++;
  }
  qb_frontier_free(frontier);
  return status;
}
