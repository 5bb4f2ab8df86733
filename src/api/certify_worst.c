/* The worst case of a certificate: the largest change of an output over a domain, from above by every method (bound/)
 * and from below by a search (search/). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/ball_call.h"
#include "api/certify_claims.h"
#include "api/input_domain.h"
#include "api/model.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/progress.h"
#include "data/dataset.h"
#include "graph/pair.h"
#include "graph/quantizer.h"

/* --------------------------------------------------------------------------------------------------------- methods */

static const qb_bound_method known_methods[QB_CERTIFICATE_METHODS] = {QB_BOUND_LAYERWISE, QB_BOUND_ELEMENTWISE,
                                                                      QB_BOUND_TWO_STAGE, QB_BOUND_INTERVAL,
                                                                      QB_BOUND_SPECTRAL,  QB_BOUND_PRODUCT};

/* The others are never below `interval` by much, or rarely apply. */
static const char *const default_methods = "layerwise,interval,spectral,product,bisection";

/* In large networks elementwise adds less than the others for the rounding of float32. */
static const char *const default_float32_methods = "layerwise,elementwise,interval,spectral,product,bisection";

/* Cutting up a box of few inputs is a method of certificates alone: it needs a lower side and a timeout. */
static const char *const bisection = "bisection";
#define BISECTION (UINT32_C(1) << QB_BOUND_COUNT)

static qb_status parse_methods(const qb_certify_settings *settings, uint32_t *methods, qb_error *error) {
  const char *text = settings->methods != NULL ? settings->methods
                     : settings->float32       ? default_float32_methods
                                               : default_methods;
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
    if (all || (strlen(bisection) == length && strncmp(bisection, at, length) == 0))
      found |= BISECTION;
    if (found == 0)
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "'%s' is not a method or a list of methods: valid are layerwise, elementwise, two_stage, "
                     "interval, spectral, product, bisection, all",
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

static void claim_bound(const qb_worst_case *worst, qb_worst_case_claim *claim) {
  claim->proved = worst->proved;
  claim->looseness = INFINITY;
  if (!worst->proved)
    return;
  claim->bound = qb_certificate_round_up(qb_worst_case_claimed(worst, qb_magnitude_to_double(worst->bound)));
  qb_magnitude shown = isfinite(claim->bound) ? qb_magnitude_from_double(claim->bound) : worst->bound;
  claim->log10 = qb_magnitude_log10(shown);
  claim->output_range = worst->range_width;
  claim->vacuous = claim->output_range > 0 && claim->bound >= 0.99 * claim->output_range;
}

static void claim_upper(const qb_worst_case *worst, qb_worst_case_claim *claim) {
  claim->method_count = worst->count;
  for (int i = 0; i < worst->count; i++)
    name_bound(&worst->outcomes[i], &claim->methods[i]);
  claim_bound(worst, claim);
  claim->method = worst->proved ? qb_bound_method_name(worst->method) : NULL;
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

/* ------------------------------------------------------------------------------------------------------- bisection */

static void add_method(qb_worst_case_claim *claim, const char *why, double bound) {
  qb_bound_value *value = &claim->methods[claim->method_count++];
  *value = (qb_bound_value){.name = bisection,
                            .applies = why == NULL,
                            .is_graph = true,
                            .form = qb_form_name(QB_FORM_PLAIN)};
  snprintf(value->why, sizeof value->why, "%s", why == NULL ? "" : why);
  if (why == NULL) {
    qb_magnitude shown = qb_magnitude_from_double(bound);
    value->log10 = qb_magnitude_log10(shown);
    qb_magnitude_print(shown, value->value);
  }
}

/* Replaces what the other methods gave. */
static qb_status adopt(const qb_certifying *c, const qb_ball_proof *proof, double bound) {
  qb_worst_case *worst = &c->parts->worst;
  qb_output_range *outputs = qb_alloc((size_t)proof->count, sizeof *outputs);
  if (outputs == NULL)
    return qb_fail_memory(c->error, "output ranges", (size_t)proof->count * sizeof *outputs);
  memcpy(outputs, proof->outputs, (size_t)proof->count * sizeof *outputs);
  qb_free(worst->outputs);
  worst->outputs = outputs;
  worst->bound = qb_magnitude_from_double(bound);
  worst->proved = true;
  worst->has_spectral = false;
  c->parts->cuts = *proof;
  claim_bound(worst, &c->certificate->worst_case);
  c->certificate->worst_case.method = proof->node_count > 0 ? bisection : proof->method;
  return QB_OK;
}

static qb_status use_proof(const qb_certifying *c, const qb_ball_proof *proof) {
  qb_worst_case_claim *claim = &c->certificate->worst_case;
  int64_t only = c->settings->output;
  double largest = 0;
  if (proof->method == NULL) {
    add_method(claim, proof->why, INFINITY);
    return QB_OK;
  }
  for (int64_t k = 0; k < proof->count; k++)
    if (only < 0 || only == k)
      largest = fmax(largest, fmax(fabs(proof->outputs[k].lo), fabs(proof->outputs[k].hi)));
  add_method(claim, NULL, largest);
  bool better = !claim->proved || qb_magnitude_compare(qb_magnitude_from_double(largest), c->parts->worst.bound) < 0;
  return better ? adopt(c, proof, largest) : QB_OK;
}

static qb_status bisect_pair(const qb_certifying *c, const qb_pair *pair) {
  const qb_domain *domain = &c->parts->domain;
  qb_ball_call call = {.pair = pair,
                       .budget = qb_ball_plan(pair, c->settings->timeout_seconds, c->settings->output),
                       .output = c->settings->output,
                       .threads = c->settings->threads,
                       .progress = c->progress};
  qb_ball_proof proof;
  call.budget.decides = false;
  if (!call.budget.relaxes) {
    add_method(&c->certificate->worst_case, "the network is too large for the timeout", INFINITY);
    return QB_OK;
  }
  if (!qb_progress_report(c->progress, "cutting up the box", 0, 0))
    return qb_fail(c->error, QB_ERROR_INTERRUPTED, "certifying was stopped");
  qb_status status = qb_backward_create(pair, &call.backward, c->error);
  if (status == QB_OK)
    status = qb_ball_prove(&call, domain, 1.01 * c->parts->search.lower, &c->parts->arena, &proof, c->error);
  if (status == QB_OK)
    status = use_proof(c, &proof);
  qb_backward_free(call.backward);
  return status;
}

/* Named in a list it says why it does not apply; by default it is silent then. */
static qb_status try_bisection(const qb_certifying *c, uint32_t methods) {
  int64_t inputs = qb_domain_free_inputs(&c->parts->domain);
  const qb_graph *graph = &c->quantized->graph;
  if ((methods & BISECTION) == 0)
    return QB_OK;
  if (inputs == 0 || inputs > QB_REFINE_INPUTS || graph->output_count != 1) {
    if (c->settings->methods != NULL)
      add_method(&c->certificate->worst_case, "it is for domains in which one to ten inputs vary", INFINITY);
    return QB_OK;
  }
  qb_pair pair = {0};
  qb_status status = qb_certify_match(c, &pair);
  if (status == QB_OK)
    status = bisect_pair(c, &pair);
  qb_pair_free(&pair);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- the claim */

/* Clones of both networks whose codes may be off by one; made once. */
static qb_status loosen(const qb_certifying *c) {
  const qb_graph *graphs[2] = {&c->model->graph, &c->quantized->graph};
  for (int i = 0; i < 2; i++) {
    if (c->parts->loose[i].node_count > 0)
      continue;
    QB_TRY(qb_graph_clone(graphs[i], &c->parts->loose[i], c->error));
    qb_graph_allow_steps(&c->parts->loose[i], 1);
  }
  return QB_OK;
}

qb_status qb_certify_match(const qb_certifying *c, qb_pair *pair) {
  if (!c->certificate->lsb)
    return qb_pair_match_any(&c->model->graph, &c->quantized->graph, pair, c->error);
  QB_TRY(loosen(c));
  QB_TRY(qb_pair_match_any(&c->parts->loose[0], &c->parts->loose[1], pair, c->error));
  pair->float32 = c->settings->float32;
  return QB_OK;
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
  QB_TRY(parse_methods(settings, &methods, c->error));
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
  if (settings->search)
    QB_TRY(search_lower(c));
  QB_TRY(try_bisection(c, methods));
  if (settings->search)
    claim_lower(&c->parts->search, &c->certificate->worst_case);
  if (c->certificate->worst_case.proved && c->certificate->worst_case.lower > c->certificate->worst_case.bound)
    return qb_fail(c->error, QB_ERROR_NUMERIC,
                   "%s: an input was found whose error %.17g exceeds the bound %.17g: this is a bug in qbound, please "
                   "report it; nothing is certified",
                   c->quantized->path, c->certificate->worst_case.lower, c->certificate->worst_case.bound);
  return QB_OK;
}
