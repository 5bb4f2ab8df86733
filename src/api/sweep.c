/* qb_bound_sweep: for every granularity, scheme and width, quantize the network in memory and bound the pair. The
 * norms of the original network are computed once; each width then needs one pass over the quantized weights. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/measuring.h"
#include "api/model.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/progress.h"
#include "bound/bound.h"
#include "bound/chain.h"
#include "bound/layerwise.h"
#include "bound/published.h"
#include "bound/spectral.h"
#include "data/dataset.h"
#include "quant/quant.h"

static const int default_bits = 8;
static const qb_scheme default_scheme = QB_SCHEME_UNIFORM;
static const qb_granularity default_granularity = QB_PER_TENSOR;

void qb_bound_settings_default(qb_bound_settings *settings) {
  *settings = (qb_bound_settings){.bits = &default_bits,
                                  .bits_count = 1,
                                  .schemes = &default_scheme,
                                  .scheme_count = 1,
                                  .granularities = &default_granularity,
                                  .granularity_count = 1,
                                  .domain = QB_DOMAIN_PIXELS};
}

/* What one sweep works with. */
typedef struct bound_sweep {
  const qb_bound_settings *settings;
  const qb_graph *original; /* BatchNorm folded, or as read when the conventions drop it */
  qb_domain domain;
  qb_chain chain;
} bound_sweep;

/* -------------------------------------------------------------------------------------------------------- domains */

static qb_status make_pixel_domain(const qb_graph *graph, const char *how, qb_domain *domain, qb_error *error) {
  enum { MOST_CHANNELS = 4 };
  if (how == NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "for which inputs? Name the preprocessing of pixels, or give a box");
  qb_preprocess preprocess;
  QB_TRY(qb_preprocess_parse(how, &preprocess, error));
  const qb_shape *shape = &graph->values[graph->inputs[0]].shape;
  if (shape->rank < 2 || shape->dims[1] < 1 || shape->dims[1] > MOST_CHANNELS) {
    /* a flat input: every pixel has the limits of the first channel, if all channels agree */
    float lo, hi;
    if (preprocess.normalize)
      return qb_fail(error, QB_ERROR_ARGUMENT, "the input has no channels of pixels for this mean and std; give a box");
    if (!qb_preprocess_pixel_box(&preprocess, 0, &lo, &hi))
      return qb_fail(error, QB_ERROR_ARGUMENT, "the preprocessing '%s' does not map pixels; give a box", how);
    return qb_domain_interval(graph, lo, hi, domain, error);
  }
  float lo[MOST_CHANNELS], hi[MOST_CHANNELS];
  for (int32_t c = 0; c < shape->dims[1]; c++)
    if (!qb_preprocess_pixel_box(&preprocess, c, &lo[c], &hi[c]))
      return qb_fail(error, QB_ERROR_ARGUMENT, "the preprocessing '%s' does not map pixels; give a box", how);
  return qb_domain_channels(graph, lo, hi, (int32_t)shape->dims[1], domain, error);
}

/* The float at or below, at or above x. */
static float float_down(double x) { return (double)(float)x <= x ? (float)x : nextafterf((float)x, -INFINITY); }
static float float_up(double x) { return (double)(float)x >= x ? (float)x : nextafterf((float)x, INFINITY); }

static qb_status make_domain(const qb_graph *graph, const qb_bound_settings *settings, qb_domain *domain,
                             qb_error *error) {
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: has %d inputs; bounding needs a network with one", graph->name,
                   graph->input_count);
  if (settings->domain == QB_DOMAIN_PIXELS)
    return make_pixel_domain(graph, settings->preprocess, domain, error);
  if (!isfinite(settings->lo) || !isfinite(settings->hi) || settings->lo > settings->hi)
    return qb_fail(error, QB_ERROR_ARGUMENT, "the box [%g, %g] needs finite limits in order", settings->lo,
                   settings->hi);
  return qb_domain_interval(graph, float_down(settings->lo), float_up(settings->hi), domain, error);
}

static const char *describe_domain(qb_arena *arena, const qb_bound_settings *settings) {
  if (settings->domain == QB_DOMAIN_PIXELS)
    return qb_arena_format(arena, "pixels %s", settings->preprocess);
  return qb_arena_format(arena, "[%.9g, %.9g]", settings->lo, settings->hi);
}

/* What the chain bounds are about, and why not about this network. */
static const char *describe_network(qb_arena *arena, const qb_chain *chain) {
  if (chain->is_network)
    return qb_arena_format(arena, "this network");
  int dropped = chain->dropped_biases + chain->dropped_batch_norms + chain->dropped_downsamples;
  if (dropped == 0)
    return qb_arena_format(arena, "%s", chain->why_not);
  return qb_arena_format(arena,
                         "the paper's network, which leaves out %d biases, %d BatchNormalization nodes and %d shortcut "
                         "layers of this one",
                         chain->dropped_biases, chain->dropped_batch_norms, chain->dropped_downsamples);
}

/* ----------------------------------------------------------------------------------------------------------- rows */

static void put_bound(qb_bound_row *row, const char *name, bool is_graph, const qb_bound *bound) {
  qb_bound_value *value = &row->bounds[row->count++];
  *value = (qb_bound_value){.name = name,
                            .applies = bound->applies,
                            .is_graph = is_graph,
                            .form = qb_form_name(bound->form)};
  if (bound->applies) {
    value->log10 = qb_magnitude_log10(bound->value);
    qb_magnitude_print(bound->value, value->value);
  }
  memcpy(value->why, bound->why, sizeof value->why);
}

/* The smallest of the sound bounds of the real network, as the last entry. */
static void put_best(qb_bound_row *row, const qb_bound *graph_bounds, int count) {
  qb_bound best = {.why = "no graph bound applies"};
  for (int i = 0; i < count; i++)
    if (graph_bounds[i].applies && (!best.applies || qb_magnitude_compare(graph_bounds[i].value, best.value) < 0))
      best = graph_bounds[i];
  put_bound(row, "best", true, &best);
}

/* A graph bound that has no rule for some operator is a result, not a failure: "not applicable" with the reason. */
static qb_status absorb_unsupported(qb_status status, const qb_error *refusal, qb_bound *bound, qb_error *error) {
  if (status == QB_ERROR_UNSUPPORTED) {
    *bound = (qb_bound){0};
    snprintf(bound->why, sizeof bound->why, "%s", refusal->message);
    return QB_OK;
  }
  if (status != QB_OK && error != NULL)
    *error = *refusal;
  return status;
}

static qb_status layerwise_bound(const qb_pair *pair, const qb_domain *domain, qb_bound *bound, qb_error *error) {
  qb_error own = {0};
  qb_layerwise layerwise = {0};
  qb_status status = qb_layerwise_bound(pair, domain, &layerwise, &own);
  *bound = (qb_bound){.applies = status == QB_OK, .value = layerwise.bound};
  qb_layerwise_free(&layerwise);
  return absorb_unsupported(status, &own, bound, error);
}

static qb_status spectral_bound(const qb_pair *pair, const qb_domain *domain, qb_bound *bound, qb_error *error) {
  qb_error own = {0};
  qb_spectral_settings settings;
  qb_spectral_result result = {0};
  qb_spectral_settings_default(&settings);
  qb_status status = qb_bound_spectral(pair, domain, &settings, &result, &own);
  *bound = result.bound;
  qb_spectral_result_free(&result);
  return absorb_unsupported(status, &own, bound, error);
}

static qb_status bound_pair(const bound_sweep *sweep, const qb_pair *pair, qb_bound_row *row, qb_error *error) {
  qb_published published;
  QB_TRY(qb_published_bounds(&sweep->chain, pair, qb_domain_radius(&sweep->domain), &published, error));
  row->delta = published.delta;
  put_bound(row, "prior", false, &published.prior);
  put_bound(row, "general", false, &published.general);
  put_bound(row, "cnn", false, &published.cnn);
  put_bound(row, "chain_unsummed", false, &published.chain_unsummed);
  qb_bound graph_bounds[2];
  int count = 0;
  QB_TRY(layerwise_bound(pair, &sweep->domain, &graph_bounds[count], error));
  put_bound(row, "layerwise", true, &graph_bounds[count++]);
  if (sweep->settings->spectral) {
    QB_TRY(spectral_bound(pair, &sweep->domain, &graph_bounds[count], error));
    put_bound(row, "spectral", true, &graph_bounds[count++]);
  }
  put_best(row, graph_bounds, count);
  return QB_OK;
}

static qb_status bound_quantized(const bound_sweep *sweep, qb_graph *quantized, qb_bound_row *row, qb_error *error) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = row->bits;
  settings.scheme = row->scheme;
  settings.granularity = row->granularity;
  settings.affine = sweep->settings->affine;
  settings.seed = sweep->settings->seed;
  qb_quantize_info info = {0};
  qb_status status = qb_quantize_weights(quantized, &settings, NULL, &info, error);
  qb_quantize_info_free(&info);
  QB_TRY(status);
  qb_pair pair = {0};
  status = qb_pair_match(sweep->original, quantized, &pair, error);
  if (status == QB_OK)
    status = bound_pair(sweep, &pair, row, error);
  qb_pair_free(&pair);
  return status;
}

static qb_status fill_row(const bound_sweep *sweep, qb_bound_row *row, qb_error *error) {
  qb_graph quantized = {0};
  qb_status status = qb_graph_clone(sweep->original, &quantized, error);
  if (status == QB_OK)
    status = bound_quantized(sweep, &quantized, row, error);
  qb_graph_free(&quantized);
  return status;
}

static qb_status fill_rows(const bound_sweep *sweep, const qb_progress *progress, qb_bound_report *report,
                           qb_error *error) {
  const qb_bound_settings *settings = sweep->settings;
  for (int i = 0; i < report->row_count; i++) {
    if (!qb_progress_report(progress, "bounding", i, report->row_count))
      return qb_fail(error, QB_ERROR_INTERRUPTED, "bounding was stopped");
    qb_bound_row *row = &report->rows[i];
    row->bits = settings->bits[i % settings->bits_count];
    row->scheme = settings->schemes[i / settings->bits_count % settings->scheme_count];
    row->granularity = settings->granularities[i / settings->bits_count / settings->scheme_count];
    QB_TRY(fill_row(sweep, row, error));
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- the call */

static qb_status run_sweep(const qb_model *model, bound_sweep *sweep, qb_arena *arena, const qb_progress *progress,
                           qb_bound_report *report, qb_error *error) {
  const qb_bound_settings *settings = sweep->settings;
  QB_TRY(qb_bound_check_environment(error));
  QB_TRY(make_domain(sweep->original, settings, &sweep->domain, error));
  QB_TRY(qb_chain_extract(sweep->original, &settings->conventions, &sweep->chain, error));
  report->model = qb_arena_string(arena, model->path, strlen(model->path));
  report->domain = describe_domain(arena, settings);
  report->network = describe_network(arena, &sweep->chain);
  report->chain_is_network = sweep->chain.is_network;
  report->domain_radius = qb_domain_radius(&sweep->domain);
  report->layers = model->layer_count;
  report->conventions = settings->conventions;
  report->row_count = settings->bits_count * settings->scheme_count * settings->granularity_count;
  report->rows = qb_arena_alloc(arena, (size_t)report->row_count, sizeof *report->rows);
  if (report->model == NULL || report->domain == NULL || report->network == NULL || report->rows == NULL)
    return qb_fail_memory(error, "the report", (size_t)report->row_count * sizeof *report->rows);
  return fill_rows(sweep, progress, report, error);
}

static qb_status check_settings(const qb_model *model, const qb_bound_settings *settings, qb_error *error) {
  enum { MOST = 64 };
  if (model->source != NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: the sweep quantizes by itself; give it the original", model->path);
  if (settings->bits_count < 1 || settings->bits_count > MOST || settings->scheme_count < 1 ||
      settings->scheme_count > MOST || settings->granularity_count < 1 || settings->granularity_count > MOST)
    return qb_fail(error, QB_ERROR_ARGUMENT, "a sweep needs 1 to %d widths, schemes and granularities", MOST);
  return QB_OK;
}

qb_status qb_bound_sweep(const qb_model *model, const qb_bound_settings *settings, const qb_progress *progress,
                         qb_bound_report *report, qb_error *error) {
  *report = (qb_bound_report){0};
  QB_TRY(check_settings(model, settings, error));
  double start = qb_seconds();
  qb_arena *arena = qb_alloc(1, sizeof *arena);
  if (arena == NULL)
    return qb_fail_memory(error, "the report", sizeof *arena);
  qb_arena_init(arena);
  report->storage = arena;
  bound_sweep sweep = {.settings = settings,
                       .original = settings->conventions.drop_batch_norm ? &model->read : &model->graph};
  int threads = qb_threads_begin(settings->threads);
  qb_status status = run_sweep(model, &sweep, arena, progress, report, error);
  qb_threads_end(threads);
  qb_chain_free(&sweep.chain);
  qb_domain_free(&sweep.domain);
  report->seconds = qb_seconds() - start;
  if (status != QB_OK)
    qb_bound_report_free(report);
  return status;
}

void qb_bound_report_free(qb_bound_report *report) {
  if (report == NULL)
    return;
  qb_arena_free(report->storage);
  qb_free(report->storage);
  *report = (qb_bound_report){0};
}
