/* The worst case of a certificate: the largest change of an output over a domain, from above by every method (bound/)
 * and from below by a search (search/). */
#include <math.h>
#include <string.h>

#include "api/certify_claims.h"
#include "api/input_domain.h"
#include "api/model.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/progress.h"
#include "data/dataset.h"
#include "graph/pair.h"

/* --------------------------------------------------------------------------------------------------------- methods */

static const qb_bound_method known_methods[QB_CERTIFICATE_METHODS] = {QB_BOUND_LAYERWISE, QB_BOUND_ELEMENTWISE,
                                                                      QB_BOUND_TWO_STAGE, QB_BOUND_INTERVAL,
                                                                      QB_BOUND_SPECTRAL};

static const char *const default_methods = "layerwise,interval,spectral"; /* what qb_check recomputes */

static qb_status parse_methods(const char *given, uint32_t *methods, qb_error *error) {
  const char *text = given == NULL ? default_methods : given;
  bool all = strcmp(text, "all") == 0;
  *methods = 0;
  for (const char *at = text; at != NULL;) {
    size_t length = strcspn(at, ",");
    uint32_t found = 0;
    for (int i = 0; i < QB_CERTIFICATE_METHODS; i++) {
      const char *name = qb_bound_method_name(known_methods[i]);
      if (all || (strlen(name) == length && strncmp(name, at, length) == 0))
        found |= UINT32_C(1) << known_methods[i];
    }
    if (found == 0)
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "'%s' is not a method or a list of methods: valid are layerwise, elementwise, two_stage, "
                     "interval, "
                     "spectral, all",
                     text);
    *methods |= found;
    at = at[length] == ',' ? at + length + 1 : NULL;
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------------- upper */

static void name_bound(const qb_method_outcome *outcome, qb_bound_value *value) {
  *value = (qb_bound_value){.name = qb_bound_method_name(outcome->method),
                            .applies = outcome->bound.applies,
                            .is_graph = true,
                            .form = qb_form_name(QB_FORM_PLAIN)};
  if (value->applies) {
    value->log10 = qb_magnitude_log10(outcome->bound.value);
    qb_magnitude_print(outcome->bound.value, value->value);
  }
  memcpy(value->why, outcome->bound.why, sizeof value->why);
}

static void claim_upper(const qb_worst_case *worst, qb_worst_case_claim *claim) {
  claim->method_count = worst->count;
  for (int i = 0; i < worst->count; i++)
    name_bound(&worst->outcomes[i], &claim->methods[i]);
  claim->proved = worst->proved;
  claim->looseness = INFINITY;
  if (!worst->proved)
    return;
  claim->method = qb_bound_method_name(worst->method);
  claim->bound = qb_certificate_round_up(qb_worst_case_claimed(worst, qb_magnitude_to_double(worst->bound)));
  qb_magnitude shown = isfinite(claim->bound) ? qb_magnitude_from_double(claim->bound) : worst->bound;
  claim->log10 = qb_magnitude_log10(shown);
  claim->output_range = worst->range_width;
  claim->vacuous = claim->output_range > 0 && claim->bound >= 0.99 * claim->output_range;
}

/* ----------------------------------------------------------------------------------------------------------- lower */

static qb_status read_data(const qb_data *data, int64_t elements, qb_arena *arena, qb_search_settings *how,
                           qb_error *error) {
  enum { MOST = 64 };
  qb_dataset *dataset = NULL;
  qb_dataset_settings settings = {.labels = data->labels, .samples = data->samples, .skip = data->skip};
  QB_TRY(qb_preprocess_parse(data->preprocess, &settings.preprocess, error));
  QB_TRY(qb_dataset_open(data->path, &settings, &dataset, error));
  int64_t count = qb_dataset_count(dataset) < MOST ? qb_dataset_count(dataset) : MOST;
  qb_shape shape = qb_dataset_shape(dataset);
  float *samples = qb_arena_alloc(arena, (size_t)(count * elements), sizeof *samples);
  qb_status status = QB_OK;
  if (samples == NULL)
    status = qb_fail_memory(error, "data of the search", (size_t)(count * elements) * sizeof *samples);
  else if ((int64_t)qb_shape_elements(&shape) != elements)
    status = qb_fail(error, QB_ERROR_SHAPE, "%s: a sample has %zu elements but the network's input %lld", data->path,
                     qb_shape_elements(&shape), (long long)elements);
  for (int64_t i = 0; status == QB_OK && i < count; i++)
    status = qb_dataset_read(dataset, i, samples + i * elements, error);
  qb_dataset_free(dataset);
  how->data = samples;
  how->data_count = count;
  return status;
}

static qb_status search_lower(const qb_certifying *c) {
  qb_search_settings how;
  qb_search_settings_default(&how);
  how.seed = c->settings->seed;
  how.threads = c->settings->threads;
  how.output = c->settings->output;
  qb_arena arena;
  qb_arena_init(&arena);
  const qb_domain *domain = &c->parts->domain;
  qb_status status = QB_OK;
  if (c->settings->data != NULL)
    status = read_data(c->settings->data, domain->count, &arena, &how, c->error);
  if (status == QB_OK)
    status = qb_search_lower(&c->model->graph, &c->quantized->graph, domain->lo, domain->hi, &how, c->progress,
                             &c->parts->search, c->error);
  qb_arena_free(&arena);
  return status;
}

static void claim_lower(const qb_search_result *found, qb_worst_case_claim *claim) {
  claim->lower = found->lower;
  claim->inputs_tried = found->inputs_tried;
  claim->flips = found->flips;
  claim->top = found->top;
  claim->other_top = found->other_top;
  if (claim->lower > 0 && isfinite(claim->log10))
    claim->looseness = claim->log10 - log10(claim->lower);
  else if (claim->bound == 0)
    claim->looseness = 0;
}

/* ------------------------------------------------------------------------------------------------------- the claim */

qb_status qb_certify_match(const qb_certifying *c, qb_pair *pair) {
  return qb_pair_match_any(&c->model->graph, &c->quantized->graph, pair, c->error);
}

static qb_status bound_worst_case(const qb_certifying *c, uint32_t methods) {
  qb_pair pair = {0};
  qb_status status = qb_certify_match(c, &pair);
  if (status == QB_OK && !qb_progress_report(c->progress, "bounding", 0, 0))
    status = qb_fail(c->error, QB_ERROR_INTERRUPTED, "certifying was stopped");
  if (status == QB_OK)
    status = qb_worst_case_bound(&pair, &c->parts->domain, methods, c->settings->output, &c->parts->worst, c->error);
  qb_pair_free(&pair);
  return status;
}

qb_status qb_certify_worst_case(const qb_certifying *c) {
  const qb_certify_settings *settings = c->settings;
  const qb_inputs inputs = {settings->domain, settings->preprocess, settings->lo,
                            settings->hi,     settings->box,        settings->box_row};
  uint32_t methods;
  QB_TRY(parse_methods(settings->methods, &methods, c->error));
  QB_TRY(qb_domain_make(&c->model->graph, &inputs, &c->parts->domain, c->error));
  if (settings->domain == QB_DOMAIN_FILE) {
    qb_hash hash;
    QB_TRY(qb_hash_file(settings->box, &hash, c->error));
    qb_hash_print(&hash, c->certificate->box_sha256);
  }
  c->certificate->has_worst_case = true;
  c->certificate->domain = qb_domain_describe(&c->parts->arena, &inputs);
  if (c->certificate->domain == NULL)
    return qb_fail_memory(c->error, "the certificate", 64);
  QB_TRY(bound_worst_case(c, methods));
  claim_upper(&c->parts->worst, &c->certificate->worst_case);
  if (!settings->search)
    return QB_OK;
  QB_TRY(search_lower(c));
  claim_lower(&c->parts->search, &c->certificate->worst_case);
  if (c->certificate->worst_case.proved && c->certificate->worst_case.lower > c->certificate->worst_case.bound)
    return qb_fail(c->error, QB_ERROR_NUMERIC,
                   "%s: an input was found whose error %.17g exceeds the bound %.17g: this is a bug in qbound, please "
                   "report it; nothing is certified",
                   c->quantized->path, c->certificate->worst_case.lower, c->certificate->worst_case.bound);
  return QB_OK;
}
