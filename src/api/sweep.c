/* qb_bound_sweep: for every granularity, scheme and width, quantize the network in memory and bound the pair. What
 * depends on the original network alone is computed once (qb_bounder); each width then needs one pass over the
 * quantized weights. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/input_domain.h"
#include "api/model.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/progress.h"
#include "bound/bound.h"
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
                                  .domain = QB_DOMAIN_PIXELS,
                                  .box_row = -1};
}

/* What one sweep works with. */
typedef struct bound_sweep {
  const qb_bound_settings *settings;
  const qb_graph *original; /* BatchNorm folded, or as read when the conventions drop it */
  qb_domain domain;
  uint32_t methods; /* bit m: qb_bound_method m */
  qb_bounder *bounder;
  qb_arena *arena; /* of the report */
  qb_bound_report *report;
} bound_sweep;

/* What the chain bounds are about, and why not about this network. */
static const char *describe_network(qb_arena *arena, const qb_bounder *bounder, const qb_bounds *bounds) {
  const char *dropped = qb_bounder_dropped(bounder);
  if (bounds->chain_is_network)
    return qb_arena_format(arena, "this network");
  return dropped[0] == '\0' ? qb_arena_format(arena, "%s", bounds->chain_why)
                            : qb_arena_format(arena, "it is the paper's network, which leaves out %s", dropped);
}

/* -------------------------------------------------------------------------------------------------------- methods */

_Static_assert((int)QB_BOUND_COUNT <= (int)QB_BOUND_LIMIT, "a row has room for every method");

static uint32_t bit(int method) { return UINT32_C(1) << method; }

static qb_status fail_method(const char *text, qb_error *error) {
  char names[256] = "";
  for (int m = 0; m < QB_BOUND_BEST; m++)
    if (qb_bound_method_is_graph((qb_bound_method)m)) {
      size_t used = strlen(names);
      snprintf(names + used, sizeof names - used, "%s, ", qb_bound_method_name((qb_bound_method)m));
    }
  return qb_fail(error, QB_ERROR_ARGUMENT, "'%s' is not a method or a list of methods: valid are %sall", text, names);
}

/* "layerwise,spectral" as a set of methods, the published ones included; NULL is the default. */
static qb_status parse_methods(const char *text, uint32_t *methods, qb_error *error) {
  *methods = bit(QB_BOUND_BEST);
  for (int m = 0; m < QB_BOUND_BEST; m++)
    if (!qb_bound_method_is_graph((qb_bound_method)m) || (text != NULL && strcmp(text, "all") == 0) ||
        (text == NULL && m == QB_BOUND_LAYERWISE))
      *methods |= bit(m);
  if (text == NULL || strcmp(text, "all") == 0)
    return QB_OK;
  for (const char *at = text;; at++) {
    size_t length = strcspn(at, ",");
    int found = -1;
    for (int m = 0; m < QB_BOUND_BEST; m++) {
      const char *name = qb_bound_method_name((qb_bound_method)m);
      if (qb_bound_method_is_graph((qb_bound_method)m) && strlen(name) == length && strncmp(name, at, length) == 0)
        found = m;
    }
    if (found < 0)
      return fail_method(text, error);
    *methods |= bit(found);
    at += length;
    if (*at == '\0')
      return QB_OK;
  }
}

/* ----------------------------------------------------------------------------------------------------------- rows */

static void put_bound(qb_bound_method method, const qb_bound *bound, qb_bound_row *row) {
  qb_bound_value *value = &row->bounds[row->count++];
  *value = (qb_bound_value){.name = qb_bound_method_name(method),
                            .applies = bound->applies,
                            .is_graph = qb_bound_method_is_graph(method),
                            .form = qb_form_name(bound->form)};
  if (bound->applies) {
    value->log10 = qb_magnitude_log10(bound->value);
    qb_magnitude_print(bound->value, value->value);
  }
  memcpy(value->why, bound->why, sizeof value->why);
}

static qb_status bound_pair(const bound_sweep *sweep, const qb_pair *pair, qb_bound_row *row, qb_error *error) {
  qb_bounds bounds;
  QB_TRY(qb_bounder_evaluate(sweep->bounder, pair, &bounds, error));
  row->delta = bounds.delta;
  row->output_range = bounds.output_range;
  for (int m = 0; m < QB_BOUND_COUNT; m++)
    if ((sweep->methods & bit(m)) != 0)
      put_bound((qb_bound_method)m, &bounds.bound[m], row);
  if (sweep->report->network == NULL) {
    sweep->report->chain_is_network = bounds.chain_is_network;
    sweep->report->network = describe_network(sweep->arena, sweep->bounder, &bounds);
    if (sweep->report->network == NULL)
      return qb_fail_memory(error, "the report", sizeof bounds.chain_why);
  }
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

static qb_status run_sweep(const qb_model *model, bound_sweep *sweep, const qb_progress *progress, qb_error *error) {
  const qb_bound_settings *settings = sweep->settings;
  qb_bound_report *report = sweep->report;
  const qb_inputs inputs = {settings->domain, settings->preprocess, settings->lo,
                            settings->hi,     settings->box,        settings->box_row};
  QB_TRY(parse_methods(settings->methods, &sweep->methods, error));
  QB_TRY(qb_domain_make(sweep->original, &inputs, &sweep->domain, error));
  QB_TRY(qb_bounder_create(sweep->original, &sweep->domain, &settings->conventions, &sweep->bounder, error));
  qb_bounder_select(sweep->bounder, sweep->methods);
  report->model = qb_arena_string(sweep->arena, model->path, strlen(model->path));
  report->domain = qb_domain_describe(sweep->arena, &inputs);
  report->domain_radius = qb_domain_radius(&sweep->domain);
  report->layers = qb_bounder_layers(sweep->bounder);
  report->conventions = settings->conventions;
  report->row_count = settings->bits_count * settings->scheme_count * settings->granularity_count;
  report->rows = qb_arena_alloc(sweep->arena, (size_t)report->row_count, sizeof *report->rows);
  if (report->model == NULL || report->domain == NULL || report->rows == NULL)
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
  double start = qb_clock_seconds();
  qb_arena *arena = qb_alloc(1, sizeof *arena);
  if (arena == NULL)
    return qb_fail_memory(error, "the report", sizeof *arena);
  qb_arena_init(arena);
  report->storage = arena;
  bound_sweep sweep = {.settings = settings,
                       .original = settings->conventions.drop_batch_norm ? &model->read : &model->graph,
                       .arena = arena,
                       .report = report};
  int threads = qb_threads_begin(settings->threads);
  qb_status status = run_sweep(model, &sweep, progress, error);
  qb_threads_end(threads);
  qb_bounder_free(sweep.bounder);
  qb_domain_free(&sweep.domain);
  report->seconds = qb_clock_seconds() - start;
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
