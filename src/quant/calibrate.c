/* The sweep over layers: statistics, solver, guard per layer; see calibrate.h. */
#include "quant/calibrate.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/ranks.h"
#include "graph/layer_bias.h"
#include "quant/adaround.h"
#include "quant/bias_correction.h"
#include "quant/calibrator.h"
#include "quant/gptq.h"

/* Layers with longer rows would need more than MATRIX_LIMIT bytes of statistics. */
enum { BATCH = 16 };
static const double scarcity = 50; /* of samples, see damping_of */
static const size_t matrix_limit = (size_t)6 << 30;

/* ------------------------------------------------------------------------------------------------------- calibrator */

static qb_status prepare(qb_calibrator *calibrator, qb_error *error) {
  const qb_graph *graph = calibrator->quantized;
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: calibration needs a network with one input, this one has %d",
                   graph->name, graph->input_count);
  QB_TRY(qb_graph_clone(graph, &calibrator->original, error));
  const qb_calibration *source = &calibrator->settings.calibration;
  calibrator->samples = qb_samples_of(source, graph, calibrator->settings.seed);
  qb_frontier_settings how = {.batch = calibrator->samples.count < BATCH ? (int32_t)calibrator->samples.count : BATCH,
                              .threads = omp_get_max_threads(),
                              .memory_bytes = source->memory_bytes};
  return qb_frontier_create(&calibrator->original, graph, &calibrator->samples, &how, &calibrator->frontier, error);
}

qb_status qb_calibrator_create(const qb_graph *graph, const qb_quantize_settings *settings, qb_calibrator **calibrator,
                               qb_error *error) {
  *calibrator = qb_alloc(1, sizeof **calibrator);
  if (*calibrator == NULL)
    return qb_fail_memory(error, "calibration", sizeof **calibrator);
  (*calibrator)->quantized = graph;
  (*calibrator)->settings = *settings;
  qb_status status = prepare(*calibrator, error);
  if (status != QB_OK) {
    qb_calibrator_free(*calibrator);
    *calibrator = NULL;
  }
  return status;
}

void qb_calibrator_free(qb_calibrator *calibrator) {
  if (calibrator == NULL)
    return;
  qb_frontier_free(calibrator->frontier);
  qb_graph_free(&calibrator->original);
  qb_free(calibrator);
}

const qb_graph *qb_calibrator_original(const qb_calibrator *calibrator) { return &calibrator->original; }

void qb_calibrator_changed(qb_calibrator *calibrator) { qb_frontier_changed(calibrator->frontier); }

/* ------------------------------------------------------------------------------------------------------- statistics */

typedef struct gathering {
  qb_gram *gram;
  const qb_progress *progress;
  const char *what;
  int64_t total;
  bool apart;
} gathering;

static qb_status gather_batch(void *context, const float *x, const float *xh, int64_t first, int32_t count,
                              qb_error *error) {
  gathering *g = context;
  qb_gram_add(g->gram, x, xh, first, count);
  g->apart = g->apart || x != xh;
  if (!qb_progress_report(g->progress, g->what, first + count, g->total))
    return qb_fail(error, QB_ERROR_INTERRUPTED, "interrupted while calibrating %s", g->what);
  return QB_OK;
}

/* Columns beyond which more of the same samples cost time and tell little: ENOUGH, and a multiple of a row's length. */
enum { ENOUGH = 16384, ENOUGH_A_WEIGHT = 3, LONG_ROW = 1024 };

/* How many positions of a sample and which batches enter. Where the layer's input is kept every sample does, with fewer
 * positions when rows are long (statistics cost their square); where it must be computed, every stride-th batch does.
 */
static void choose_share(const qb_calibrator *calibrator, const qb_linear *linear, bool is_kept,
                         qb_gram_settings *settings, int32_t *stride) {
  const qb_node *node = &calibrator->quantized->nodes[linear->node];
  const qb_shape *y = &calibrator->quantized->values[node->output].shape;
  int64_t samples = calibrator->samples.count, length = linear->row_length;
  int64_t enough = ENOUGH_A_WEIGHT * length > ENOUGH ? ENOUGH_A_WEIGHT * length : ENOUGH;
  int64_t positions = (int64_t)qb_shape_elements(y) / linear->out_channels;
  *stride = 1;
  if (settings->positions == 0 || samples == 0)
    return;
  positions = positions < settings->positions ? positions : settings->positions;
  if (is_kept && length >= LONG_ROW && samples * positions > enough)
    settings->positions = (int32_t)((enough + samples - 1) / samples);
  else if (!is_kept && samples * positions > enough)
    *stride = (int32_t)(samples * positions / enough);
}

static qb_status gather(qb_calibrator *calibrator, const qb_linear *linear, int32_t stride, qb_gram *gram, bool centred,
                        const qb_progress *progress, bool *inherited, qb_error *error) {
  const qb_node *node = &calibrator->quantized->nodes[linear->node];
  gathering g = {gram, progress, node->name, calibrator->samples.count, false};
  QB_TRY(qb_frontier_visit_some(calibrator->frontier, node->inputs[0], stride, gather_batch, &g, error));
  qb_gram_finish(gram, centred);
  *inherited = g.apart;
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- solving */

qb_grid *qb_calibrated_grids(const calibrated_layer *layer, qb_grid *grids, size_t group) {
  return grids + (layer->codes->cut.count == 1 ? 0 : group * layer->gram->rows);
}

/* Damping as a share of the mean diagonal: more where few samples stand against many weights. Their moments fit
 * themselves and not the inputs to come: ResNet-18 at 4 bits, 300 images, changes other images' outputs 16 % less with
 * a share of 0.3 than with 0.01; ResNet-20 with 30 times more samples than weights gains nothing. */
static double damping_of(const calibrated_layer *layer) {
  const qb_gram *gram = layer->gram;
  double weights_a_sample = gram->columns > 0 ? (double)gram->length / (double)gram->columns : 0;
  return layer->calibrator->settings.damping * (1 + scarcity * weights_a_sample);
}

qb_status qb_calibrated_load(calibrated_layer *layer, size_t group, qb_error *error) {
  if (layer->loaded == (int64_t)group)
    return QB_OK;
  const qb_gram *gram = layer->gram;
  const qb_quantize_settings *settings = &layer->calibrator->settings;
  size_t rows = group * gram->rows * gram->length;
  qb_rounding_free(&layer->problem);
  layer->loaded = -1;
  QB_TRY(qb_rounding_create(gram->rows, gram->length, layer->weights + rows,
                            gram->h + group * gram->length * gram->length, gram->r + rows, layer->inherited,
                            damping_of(layer), settings->activation_order, &layer->problem, error));
  layer->problem.shared_grid = layer->codes->cut.count == 1;
  layer->loaded = (int64_t)group;
  return QB_OK;
}

/* Codes of some rows on the final grids. */
static qb_status solve_rows(const calibrated_layer *layer, const qb_rounding *p, const qb_grid *grids, int32_t *codes,
                            double *errors, qb_error *error) {
  const qb_quantize_settings *settings = &layer->calibrator->settings;
  if (settings->scheme == QB_SCHEME_GPTQ) {
    qb_gptq(p, grids, false, codes, errors);
    return QB_OK;
  }
  if (settings->scheme == QB_SCHEME_ADAROUND && settings->solver == QB_SOLVER_DESCENT)
    return qb_adaround(p, grids, 1, codes, errors, error);
  if (settings->scheme == QB_SCHEME_ADAROUND) {
    qb_gradient_settings gradient;
    qb_gradient_settings_default(&gradient);
    return qb_adaround_gradient(p, grids, &gradient, layer->progress, codes, error);
  }
  for (size_t row = 0; settings->grid == QB_GRID_OUTPUT && row < p->rows; row++)
    qb_grid_nearest_run(qb_rounding_grid(p, grids, row), p->weights + row * p->length, p->length,
                        codes + row * p->length);
  return QB_OK;
}

/* Codes of the current group. Layers follow each other, since each is solved on what the rounded ones before it give;
 * within a layer rows are independent, so ranks share them out and exchange the codes. */
static qb_status solve_group(calibrated_layer *layer, size_t group, qb_error *error) {
  const qb_rounding *p = &layer->problem;
  const qb_grid *grids = qb_calibrated_grids(layer, layer->codes->grids, group);
  int32_t *codes = layer->codes->codes + group * p->rows * p->length;
  qb_row_share own = qb_rounding_share(layer->gram->groups, group, p->rows, qb_rank());
  qb_status status = QB_OK;
  if (own.count > 0) {
    qb_rounding part = qb_rounding_rows(p, own.first, own.count);
    status = solve_rows(layer, &part, qb_rounding_grid(p, grids, own.first), codes + own.first * p->length,
                        layer->errors + own.first, error);
  }
  QB_TRY(qb_ranks_agree(status, error));
  for (int rank = 0; rank < qb_rank_count(); rank++) {
    qb_row_share share = qb_rounding_share(layer->gram->groups, group, p->rows, rank);
    QB_TRY(qb_ranks_share(codes + share.first * p->length, share.count * p->length * sizeof *codes, rank, error));
  }
  return QB_OK;
}

/* The choice that a layer came with, and errors row by row. */
typedef struct guard {
  qb_grid *grids;
  int32_t *codes;
  double *nearest, *solved; /* (OC) */
  double power;
} guard;

static void guard_free(guard *g) {
  qb_free(g->grids);
  qb_free(g->codes);
  qb_free(g->nearest);
  qb_free(g->solved);
}

static qb_status guard_create(const calibrated_layer *layer, guard *g, qb_error *error) {
  const qb_gram *gram = layer->gram;
  size_t parts = layer->codes->cut.count, outputs = gram->groups * gram->rows, count = outputs * gram->length;
  *g = (guard){0};
  if ((g->grids = qb_alloc(parts, sizeof *g->grids)) == NULL ||
      (g->codes = qb_alloc(count, sizeof *g->codes)) == NULL ||
      (g->nearest = qb_alloc(outputs, sizeof *g->nearest)) == NULL ||
      (g->solved = qb_alloc(outputs, sizeof *g->solved)) == NULL)
    return qb_fail_memory(error, "codes to compare with", count * sizeof *g->codes);
  memcpy(g->grids, layer->codes->grids, parts * sizeof *g->grids);
  memcpy(g->codes, layer->codes->codes, count * sizeof *g->codes);
  return QB_OK;
}

static double sum(const double *values, size_t count) {
  double total = 0;
  for (size_t i = 0; i < count; i++)
    total += values[i];
  return total;
}

static qb_status solve_groups(calibrated_layer *layer, guard *g, qb_error *error) {
  const qb_gram *gram = layer->gram;
  for (size_t group = 0; group < gram->groups; group++) {
    size_t first = group * gram->rows;
    QB_TRY(qb_calibrated_load(layer, group, error));
    const qb_rounding *p = &layer->problem;
    qb_rounding_errors(p, qb_calibrated_grids(layer, g->grids, group), g->codes + first * gram->length,
                       g->nearest + first);
    qb_rounding_powers(p, layer->errors);
    g->power += sum(layer->errors, gram->rows);
    QB_TRY(solve_group(layer, group, error));
    qb_rounding_errors(p, qb_calibrated_grids(layer, layer->codes->grids, group),
                       layer->codes->codes + first * gram->length, g->solved + first);
  }
  return QB_OK;
}

/* Puts the codes of output `o` back. */
static void keep_nearest(calibrated_layer *layer, guard *g, size_t o) {
  size_t length = layer->gram->length;
  memcpy(layer->codes->codes + o * length, g->codes + o * length, length * sizeof *g->codes);
  if (layer->codes->cut.count > 1)
    layer->codes->grids[o] = g->grids[o];
  g->solved[o] = g->nearest[o];
}

/* Never worse than nearest: output by output where each has a grid of its own, else the layer as a whole. */
static void apply_guard(calibrated_layer *layer, guard *g, qb_quantize_layer *info) {
  size_t outputs = layer->gram->groups * layer->gram->rows, kept = 0;
  bool apart = layer->codes->cut.count > 1, worse = sum(g->solved, outputs) > sum(g->nearest, outputs);
  for (size_t o = 0; o < outputs; o++)
    if (apart ? g->solved[o] > g->nearest[o] : worse) {
      keep_nearest(layer, g, o);
      kept++;
    }
  if (!apart && worse)
    layer->codes->grids[0] = g->grids[0];
  double inherited = sum(layer->gram->c, outputs);
  info->method = kept == outputs ? QB_METHOD_NEAREST : QB_METHOD_CALIBRATED;
  info->error_nearest = sum(g->nearest, outputs) + inherited;
  info->error = sum(g->solved, outputs) + inherited;
  info->power = g->power;
}

static qb_status choose_codes(calibrated_layer *layer, qb_quantize_layer *info, qb_error *error) {
  guard g;
  size_t outputs = layer->gram->groups * layer->gram->rows;
  layer->errors = qb_alloc(outputs, sizeof *layer->errors);
  qb_status status = guard_create(layer, &g, error);
  if (status == QB_OK && layer->errors == NULL)
    status = qb_fail_memory(error, "errors of a layer", outputs * sizeof *layer->errors);
  if (status == QB_OK && layer->calibrator->settings.grid == QB_GRID_OUTPUT)
    status = qb_calibrated_search_clips(layer, error);
  if (status == QB_OK)
    status = solve_groups(layer, &g, error);
  if (status == QB_OK)
    apply_guard(layer, &g, info);
  guard_free(&g);
  qb_free(layer->errors);
  return status;
}

/* --------------------------------------------------------------------------------------------------------- a layer */

static qb_status calibrate(calibrated_layer *layer, const qb_linear *linear, qb_calibrator *calibrator, qb_gram *gram,
                           qb_quantize_layer *info, qb_error *error) {
  const qb_graph *graph = calibrator->quantized;
  const qb_quantize_settings *settings = &calibrator->settings;
  qb_gram_settings how = {.matrix = true, .positions = settings->calibration.positions, .seed = settings->seed};
  bool correct = settings->bias_correction == QB_BIAS_DATA && qb_layer_bias_is_free(graph, linear);
  bool is_kept;
  int32_t stride;
  QB_TRY(qb_frontier_prepare(calibrator->frontier, graph->nodes[linear->node].inputs[0], &is_kept, error));
  choose_share(calibrator, linear, is_kept, &how, &stride);
  QB_TRY(qb_gram_create(graph, linear, layer->weights, &how, gram, error));
  QB_TRY(gather(calibrator, linear, stride, gram, correct, layer->progress, &layer->inherited, error));
  info->columns = gram->columns;
  layer->gram = gram;
  QB_TRY(choose_codes(layer, info, error));
  if (!correct)
    qb_gram_free(gram);
  return QB_OK;
}

bool qb_calibrate_supports(const qb_graph *graph, const qb_linear *linear) {
  qb_gram_settings how = {.matrix = true};
  return qb_gram_supports(graph, linear) &&
         qb_gram_size(graph, linear, &how) <= matrix_limit / 3; /* the solver needs as much twice more */
}

qb_status qb_calibrate_gram(qb_calibrator *calibrator, const qb_gram *gram, const float *weights, qb_layer_codes *codes,
                            int count, qb_error *error) {
  calibrated_layer layer = {.calibrator = calibrator, .weights = weights, .gram = gram, .loaded = -1};
  qb_status status = QB_OK;
  for (int i = 0; status == QB_OK && i < count; i++) {
    qb_quantize_layer info;
    layer.codes = &codes[i];
    status = choose_codes(&layer, &info, error);
  }
  qb_rounding_free(&layer.problem);
  return status;
}

qb_status qb_calibrate_layer(qb_calibrator *calibrator, const qb_linear *linear, const float *weights,
                             qb_layer_codes *codes, qb_gram *gram, qb_quantize_layer *info, const qb_progress *progress,
                             qb_error *error) {
  *gram = (qb_gram){0};
  if (!qb_calibrate_supports(calibrator->quantized, linear)) {
    info->method = QB_METHOD_UNSUPPORTED;
    return QB_OK;
  }
  double start = qb_clock_seconds();
  calibrated_layer layer = {.calibrator = calibrator,
                            .weights = weights,
                            .codes = codes,
                            .progress = progress,
                            .loaded = -1};
  qb_status status = calibrate(&layer, linear, calibrator, gram, info, error);
  qb_rounding_free(&layer.problem);
  info->seconds = qb_clock_seconds() - start;
  return status;
}
