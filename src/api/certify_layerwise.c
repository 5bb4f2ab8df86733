/* Layerwise statistics of held-out inputs: an estimate from the moments of what every layer did (Cantelli), and what
 * holds for stochastic rounding before the draw (Hoeffding); theory section 5, docs/bounds.md section 3f. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/certify_claims.h"
#include "api/model.h"
#include "api/rounding_guarantee.h"
#include "base/alloc.h"
#include "base/error.h"
#include "report/report_json.h"
#include "run/realised.h"
#include "stats/cantelli.h"

enum { MOST_GUARANTEED = 8 };
static const double guaranteed_macs = 2e9; /* in all, of runs in double */

typedef struct layering {
  const qb_certifying *c;
  const qb_dataset *dataset;
  const qb_pair *pair;
  qb_layerwise_statistics *claim;
  qb_arena scratch;
  int64_t n;
  qb_realised *realised;
  const qb_realised_step *steps;
  int32_t count, output;
  qb_realised_numbers *numbers; /* (count, n): every input of a step side by side */
  double *values;               /* (n) one quantity at a time */
  float *sample;
  qb_error *error;
} layering;

static void *take(layering *l, size_t count, size_t size) {
  void *block = qb_arena_alloc(&l->scratch, count, size);
  if (block == NULL)
    (void)qb_fail_memory(l->error, "layerwise statistics", count * size);
  return block;
}

/* ------------------------------------------------------------------------------------------------------- measuring */

static qb_status measure(layering *l) {
  qb_realised_numbers *one = take(l, (size_t)l->count, sizeof *one);
  if (one == NULL)
    return QB_ERROR_MEMORY;
  for (int64_t i = 0; i < l->n; i++) {
    if (!qb_progress_report(l->c->progress, "layer by layer", i, l->n))
      return qb_fail(l->error, QB_ERROR_INTERRUPTED, "certifying was stopped");
    QB_TRY(qb_dataset_read(l->dataset, i, l->sample, l->error));
    QB_TRY(qb_realised_forward(l->realised, l->sample, one, l->error));
    for (int32_t s = 0; s < l->count; s++)
      l->numbers[s * l->n + i] = one[s];
  }
  return QB_OK;
}

static const qb_realised_numbers *numbers_of(const layering *l, int32_t step) { return l->numbers + step * l->n; }

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The k-th smallest ||D_L|| with (n - k) / n <= delta. */
static void claim_measured(layering *l) {
  const qb_realised_numbers *out = numbers_of(l, l->output);
  int64_t beyond = (int64_t)floor(l->claim->delta * (double)l->n);
  for (int64_t i = 0; i < l->n; i++) {
    l->values[i] = out[i].difference;
    l->claim->above += out[i].difference > l->claim->bound;
  }
  qsort(l->values, (size_t)l->n, sizeof *l->values, compare_doubles);
  l->claim->measured_max = l->values[l->n - 1];
  l->claim->measured_quantile = l->values[l->n - 1 - (beyond < l->n ? beyond : l->n - 1)];
}

/* ------------------------------------------------------------------------------------------------------ estimating */

enum { RATIO, CHANGE, TERM, DIFFERENCE, CHAIN };

static double quantity(const qb_realised_numbers *x, int which) {
  switch (which) {
  case RATIO: return x->ratio;
  case CHANGE: return x->state > 0 ? x->term / x->state : 0;
  case TERM: return x->term;
  case DIFFERENCE: return x->difference;
  default: return x->chain;
  }
}

static qb_status moments(layering *l, int32_t step, int which, double *mean, double *variance) {
  for (int64_t i = 0; i < l->n; i++)
    l->values[i] = quantity(&numbers_of(l, step)[i], which);
  return qb_sample_moments(l->values, l->n, mean, variance, l->error);
}

static double covariance(const layering *l, int32_t step, double ratio_mean, double term_mean) {
  const qb_realised_numbers *x = numbers_of(l, step);
  double sum = 0;
  for (int64_t i = 0; i < l->n; i++)
    sum += (x[i].ratio - ratio_mean) * (x[i].term - term_mean);
  return sum / (double)(l->n - 1);
}

/* A node whose ratio and term are random: it takes a share of delta. */
static bool is_random(const qb_realised_step *step) { return step->kind == QB_REALISED_NODE && !step->contracts; }

/* One step A -> A' of the recursion. The term itself stands for Y B with B = 1: no bound of the state is needed. */
static qb_status random_step(layering *l, int32_t index, double share, double before, qb_layer_statistics_claim *row) {
  qb_ratio_moments m = {.state_bound = 1, .probability = share};
  double variance, used;
  QB_TRY(moments(l, index, RATIO, &m.mean_x, &m.variance_x));
  QB_TRY(moments(l, index, TERM, &m.mean_y, &m.variance_y));
  m.covariance = covariance(l, index, m.mean_x, m.mean_y);
  QB_TRY(qb_cantelli_layerwise(&m, 1, before, &row->limit, &used, l->error));
  row->ratio_mean = m.mean_x;
  row->ratio_deviation = sqrt(m.variance_x);
  QB_TRY(moments(l, index, CHANGE, &row->change_mean, &variance));
  row->change_deviation = sqrt(variance);
  return moments(l, index, DIFFERENCE, &row->difference_mean, &variance);
}

static qb_status recursion(layering *l) {
  const qb_graph *graph = l->pair->quantized;
  qb_layerwise_statistics *claim = l->claim;
  double *limits = take(l, (size_t)graph->value_count, sizeof *limits);
  if (limits == NULL)
    return QB_ERROR_MEMORY;
  memset(limits, 0, (size_t)graph->value_count * sizeof *limits);
  for (int32_t s = 0; s < l->count; s++)
    claim->layer_count += is_random(&l->steps[s]);
  claim->layers = qb_arena_alloc(&l->c->parts->arena, (size_t)claim->layer_count + 1, sizeof *claim->layers);
  if (claim->layers == NULL)
    return qb_fail_memory(l->error, "layerwise statistics", (size_t)claim->layer_count * sizeof *claim->layers);
  double share = claim->delta / (claim->layer_count > 0 ? claim->layer_count : 1);
  for (int32_t s = 0, row = 0; s < l->count; s++) {
    const qb_realised_step *step = &l->steps[s];
    double *after = &limits[step->output];
    *after = step->kind == QB_REALISED_NODE ? limits[step->from[0]] : qb_realised_combine(step, limits);
    if (!is_random(step))
      continue;
    const char *name = graph->nodes[step->node].name;
    qb_layer_statistics_claim *layer = &claim->layers[row++];
    *layer = (qb_layer_statistics_claim){.node = qb_arena_string(&l->c->parts->arena, name, strlen(name))};
    if (layer->node == NULL)
      return qb_fail_memory(l->error, "layerwise statistics", strlen(name));
    QB_TRY(random_step(l, s, share, *after, layer));
    *after = layer->limit;
  }
  claim->recursion = limits[l->steps[l->output].output];
  return QB_OK;
}

static qb_status estimate(layering *l) {
  qb_layerwise_statistics *claim = l->claim;
  double variance;
  QB_TRY(moments(l, l->output, CHAIN, &claim->chain_mean, &variance));
  claim->chain_deviation = sqrt(variance);
  QB_TRY(qb_cantelli_limit(claim->chain_mean, variance, claim->delta, &claim->bound, l->error));
  QB_TRY(recursion(l));
  claim_measured(l);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- guaranteeing */

/* NULL when the quantized file says that it came about by stochastic rounding of this very file and nothing else. */
static const char *why_not_stochastic(const qb_certifying *c) {
  const qb_onnx *document = c->quantized->document;
  const char *settings = qb_onnx_metadata(document, "qbound.settings");
  const char *source = qb_onnx_metadata(document, "qbound.source_sha256");
  if (settings == NULL || source == NULL)
    return "the quantized file does not say how its weights were rounded";
  if (!qb_report_settings_have(settings, "scheme", "stochastic"))
    return "the weights were not rounded stochastically (quantize --scheme stochastic)";
  if (strcmp(source, c->certificate->model_sha256) != 0)
    return "the quantized file was made from another file than this original";
  if (qb_report_settings_have(settings, "equalize", NULL) ||
      qb_report_settings_have(settings, "bias_absorption", NULL) ||
      qb_report_settings_have(settings, "bias_correction", NULL) ||
      qb_report_settings_have(settings, "activation_bits", NULL) ||
      qb_onnx_metadata(document, "qbound.calibration") != NULL ||
      qb_onnx_metadata(document, "qbound.verification") != NULL)
    return "the quantized file is more than stochastically rounded weights: preparation, calibration, a promise or "
           "activations";
  return NULL;
}

static qb_status list_rounded(layering *l, const qb_rounding_guarantee *guarantee) {
  const qb_graph *graph = l->pair->quantized;
  qb_layerwise_statistics *claim = l->claim;
  claim->rounded = qb_arena_alloc(&l->c->parts->arena, (size_t)graph->node_count, sizeof *claim->rounded);
  if (claim->rounded == NULL)
    return qb_fail_memory(l->error, "rounded layers", (size_t)graph->node_count * sizeof *claim->rounded);
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear linear;
    if (!qb_graph_linear(graph, n, &linear) || l->pair->partner[n] == QB_NONE)
      continue;
    const char *name = qb_arena_string(&l->c->parts->arena, graph->nodes[n].name, strlen(graph->nodes[n].name));
    if (name == NULL)
      return qb_fail_memory(l->error, "rounded layers", strlen(graph->nodes[n].name));
    claim->rounded[claim->rounded_count++] = (qb_rounding_claim){name, guarantee->sigma[n], guarantee->factor[n]};
  }
  return QB_OK;
}

static int64_t inputs_to_guarantee(const layering *l) {
  int64_t macs = 1, most = l->n < MOST_GUARANTEED ? l->n : MOST_GUARANTEED;
  for (qb_node_id n = 0; n < l->pair->original->node_count; n++)
    macs += qb_graph_node_macs(l->pair->original, n);
  int64_t affordable = (int64_t)(guaranteed_macs / (double)macs);
  return affordable < 1 ? 1 : affordable < most ? affordable : most;
}

static qb_status guarantee_inputs(layering *l, const qb_rounding_guarantee *guarantee) {
  qb_layerwise_statistics *claim = l->claim;
  double *norms = take(l, (size_t)l->pair->original->value_count, sizeof *norms);
  double *errors = take(l, (size_t)l->pair->quantized->value_count, sizeof *errors);
  if (norms == NULL || errors == NULL)
    return QB_ERROR_MEMORY;
  claim->inputs = inputs_to_guarantee(l);
  claim->first_measured = numbers_of(l, l->output)[0].difference;
  for (int64_t i = 0; i < claim->inputs; i++) {
    if (!qb_progress_report(l->c->progress, "guaranteeing", i, claim->inputs))
      return qb_fail(l->error, QB_ERROR_INTERRUPTED, "certifying was stopped");
    QB_TRY(qb_dataset_read(l->dataset, i, l->sample, l->error));
    QB_TRY(qb_rounding_guarantee_norms(l->pair->original, l->sample, l->c->settings->threads, norms, l->error));
    double bound = qb_rounding_guarantee_bound(guarantee, norms, errors);
    claim->guarantee_first = i == 0 ? bound : claim->guarantee_first;
    claim->guarantee_largest = fmax(claim->guarantee_largest, bound);
    claim->guarantee_above += numbers_of(l, l->output)[i].difference > bound;
  }
  return list_rounded(l, guarantee);
}

static qb_status guarantee(layering *l) {
  qb_layerwise_statistics *claim = l->claim;
  const char *why = why_not_stochastic(l->c);
  qb_rounding_guarantee made = {.applies = false};
  if (why == NULL)
    QB_TRY(qb_rounding_guarantee_make(l->pair, claim->delta, &l->scratch, &made, l->error));
  claim->guaranteed = why == NULL && made.applies;
  if (claim->guaranteed)
    return guarantee_inputs(l, &made);
  why = why != NULL ? why : made.why;
  size_t length = strnlen(why, sizeof claim->why_not - 1);
  memcpy(claim->why_not, why, length);
  claim->why_not[length] = '\0';
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- the claim */

static qb_status allocate(layering *l) {
  const qb_shape shape = qb_dataset_shape(l->dataset);
  l->count = qb_realised_count(l->realised);
  l->steps = qb_realised_steps(l->realised);
  l->output = qb_realised_output(l->realised);
  l->numbers = take(l, (size_t)l->count * (size_t)l->n, sizeof *l->numbers);
  l->values = take(l, (size_t)l->n, sizeof *l->values);
  l->sample = take(l, qb_shape_elements(&shape), sizeof *l->sample);
  return l->numbers == NULL || l->values == NULL || l->sample == NULL ? QB_ERROR_MEMORY : QB_OK;
}

static qb_status claim_all(layering *l) {
  qb_engine engine = l->c->settings->reference ? QB_ENGINE_REFERENCE : QB_ENGINE_ONEDNN;
  QB_TRY(qb_realised_create(l->pair, engine, l->c->settings->threads, &l->realised, l->error));
  QB_TRY(allocate(l));
  QB_TRY(measure(l));
  QB_TRY(estimate(l));
  return guarantee(l);
}

static qb_status match_and_claim(layering *l) {
  qb_pair pair = {0};
  l->pair = &pair;
  qb_status status = qb_certify_match(l->c, &pair);
  if (status == QB_OK)
    status = claim_all(l);
  qb_realised_free(l->realised);
  qb_pair_free(&pair);
  return status;
}

qb_status qb_certify_layerwise(const qb_certifying *c, const qb_dataset *dataset) {
  qb_statistical_claim *claim = &c->certificate->statistical;
  layering l = {.c = c, .dataset = dataset, .n = qb_dataset_count(dataset), .error = c->error};
  if (l.n < 2)
    return qb_fail(c->error, QB_ERROR_ARGUMENT, "layerwise statistics need at least two inputs, there is one");
  l.claim = qb_arena_alloc(&c->parts->arena, 1, sizeof *l.claim);
  if (l.claim == NULL)
    return qb_fail_memory(c->error, "layerwise statistics", sizeof *l.claim);
  *l.claim = (qb_layerwise_statistics){.delta = 1 - claim->confidence};
  qb_arena_init(&l.scratch);
  qb_status status = match_and_claim(&l);
  qb_arena_free(&l.scratch);
  claim->layerwise = status == QB_OK ? l.claim : NULL;
  return status;
}
