/* Verification samples and proofs; see allocate_check.h. */
#include "api/allocate_check.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/open_data.h"
#include "base/alloc.h"
#include "base/error.h"
#include "bound/certificate.h"
#include "report/certificate_json.h"
#include "run/measure.h"
#include "stats/binomial.h"

/* ------------------------------------------------------------------------------------------------- unseen samples */

typedef struct trace_entry {
  uint64_t hash;
  int64_t index;
  bool verification;
} trace_entry;

/* Hash first, calibration before verification, then by index. */
static int compare_entries(const void *left, const void *right) {
  const trace_entry *a = left, *b = right;
  if (a->hash != b->hash)
    return a->hash < b->hash ? -1 : 1;
  if (a->verification != b->verification)
    return a->verification ? 1 : -1;
  return (a->index > b->index) - (a->index < b->index);
}

/* "COUNT HASH HASH ..", see calibration_source.h. */
static trace_entry *append_trace(const qb_calibration_trace *trace, bool verification, trace_entry *to) {
  const char *at = trace->count > 0 ? strchr(trace->text, ' ') : NULL;
  for (int64_t i = 0; i < trace->count && at != NULL; i++, at = strchr(at + 1, ' '))
    *to++ = (trace_entry){strtoull(at + 1, NULL, 16), i, verification};
  return to;
}

static qb_status refuse_known(const qb_verifier *v, const trace_entry *entries, int64_t count, qb_error *error) {
  for (int64_t i = 1; i < count; i++) {
    const trace_entry *a = &entries[i - 1], *b = &entries[i];
    if (a->hash != b->hash || !b->verification)
      continue;
    if (!a->verification)
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "%s: verification sample %" PRId64 " (%s) is calibration sample %" PRId64
                     "; a promise can only be verified on samples that nothing has seen, give others",
                     v->how->verify->path, b->index, qb_dataset_name(v->dataset, b->index), a->index);
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "%s: verification samples %" PRId64 " and %" PRId64
                   " are the same; every input may count once, leave one out",
                   v->how->verify->path, a->index, b->index);
  }
  return QB_OK;
}

static qb_status check_unseen(const qb_verifier *v, const qb_calibration_trace *seen, qb_error *error) {
  int64_t count = v->trace.count + seen->count;
  trace_entry *entries = qb_alloc((size_t)count, sizeof *entries);
  if (entries == NULL)
    return qb_fail_memory(error, "the hashes of samples", (size_t)count * sizeof *entries);
  trace_entry *end = append_trace(&v->trace, true, append_trace(seen, false, entries));
  qsort(entries, (size_t)(end - entries), sizeof *entries, compare_entries);
  qb_status status = refuse_known(v, entries, end - entries, error);
  qb_free(entries);
  return status;
}

/* ------------------------------------------------------------------------------------------------------ statistics */

/* The most flips among `count` samples whose Clopper-Pearson limit is at most the target, by bisection. */
static qb_status count_allowed(qb_verifier *v, qb_error *error) {
  double alpha = 1 - v->how->confidence, limit;
  int64_t low = -1, high = v->count; /* low keeps the promise, high does not */
  while (high - low > 1) {
    int64_t middle = low + (high - low) / 2;
    QB_TRY(qb_binomial_upper(v->count, middle, alpha, &limit, error));
    if (limit <= v->how->target)
      low = middle;
    else
      high = middle;
  }
  v->allowed = low;
  v->needed = (int64_t)ceil(log(alpha) / log1p(-v->how->target));
  QB_TRY(qb_binomial_upper(v->needed, 0, alpha, &limit, error));
  v->needed += limit > v->how->target; /* the logarithms may be off by a rounding */
  return QB_OK;
}

qb_status qb_verifier_open(qb_verifier *verifier, const qb_calibration *calibration, qb_error *error) {
  const qb_allocate_settings *how = verifier->how;
  verifier->allowed = -1;
  if (how->verify == NULL)
    return QB_OK;
  QB_TRY(qb_data_open(how->verify, "verification", &verifier->dataset, error));
  QB_TRY(qb_data_check_fit(verifier->dataset, verifier->model, "verification", error));
  verifier->count = qb_dataset_count(verifier->dataset);
  const qb_calibration own = {.read = qb_data_read_sample, .context = verifier->dataset, .count = verifier->count};
  QB_TRY(qb_calibration_record(&own, verifier->model, &verifier->trace, error));
  qb_calibration_trace seen = {0};
  qb_status status = qb_calibration_record(calibration, verifier->model, &seen, error);
  if (status == QB_OK)
    status = check_unseen(verifier, &seen, error);
  qb_free(seen.text);
  if (status == QB_OK && how->promise == QB_PROMISE_FLIP_RATE)
    status = count_allowed(verifier, error);
  return status;
}

void qb_verifier_close(qb_verifier *verifier) {
  qb_dataset_free(verifier->dataset);
  qb_free(verifier->trace.text);
  *verifier = (qb_verifier){0};
}

/* --------------------------------------------------------------------------------------------------------- running */

static qb_status compare(const qb_verifier *v, const qb_model *quantized, const qb_run_samples *samples,
                         const qb_progress *progress, int64_t *flips, double *error_max, qb_error *error) {
  qb_run_measure_settings settings;
  qb_run_measure_info info;
  qb_run_measure_settings_default(&settings);
  settings.threads = v->threads;
  QB_TRY(qb_run_measure(&v->model->graph, &quantized->graph, samples, &settings, progress, &info, error));
  *flips = info.flip_count;
  *error_max = info.error_max;
  qb_run_measure_info_free(&info);
  return QB_OK;
}

qb_status qb_verifier_test(const qb_verifier *verifier, const qb_model *quantized, const qb_progress *progress,
                           qb_allocation_test *test, qb_error *error) {
  const qb_allocate_settings *how = verifier->how;
  if (verifier->dataset == NULL)
    return QB_OK;
  const qb_run_samples samples = {verifier->dataset, verifier->count, qb_data_read_sample, NULL};
  QB_TRY(compare(verifier, quantized, &samples, progress, &test->flips, &test->error_max, error));
  QB_TRY(qb_binomial_upper(verifier->count, test->flips, 1 - how->confidence, &test->flip_upper, error));
  if (how->promise == QB_PROMISE_FLIP_RATE)
    test->passed = test->flip_upper <= how->target;
  if (how->promise == QB_PROMISE_MAX_ERROR)
    test->passed = test->error_max <= how->target;
  return QB_OK;
}

qb_status qb_verifier_promising(const qb_verifier *verifier, const qb_calibration *calibration, int64_t limit,
                                const qb_model *quantized, bool *promising, qb_error *error) {
  const qb_allocate_settings *how = verifier->how;
  int64_t flips, count = calibration->samples > 0 && calibration->samples < calibration->count ? calibration->samples
                                                                                               : calibration->count;
  double error_max;
  *promising = true;
  count = count < limit ? count : limit;
  if (count == 0)
    return QB_OK;
  const qb_run_samples samples = {calibration->context, count, calibration->read, NULL};
  QB_TRY(compare(verifier, quantized, &samples, NULL, &flips, &error_max, error));
  *promising =
      how->promise == QB_PROMISE_FLIP_RATE ? (double)flips <= how->target * (double)count : error_max <= how->target;
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- proving */

/* The pair as it is, or with activations that a quantizer's clamp has absorbed. */
static qb_status match(const qb_verifier *v, const qb_model *quantized, qb_pair *pair, qb_error *error) {
  if (qb_pair_match(&v->model->graph, &quantized->graph, pair, NULL) == QB_OK)
    return QB_OK;
  qb_pair_free(pair);
  *pair = (qb_pair){0};
  return qb_pair_match_absorbed(&v->model->graph, &quantized->graph, pair, error);
}

qb_status qb_verifier_certify(const qb_verifier *verifier, const qb_domain *domain, const qb_model *quantized,
                              qb_allocation_test *test, qb_error *error) {
  const uint32_t methods = (UINT32_C(1) << QB_BOUND_LAYERWISE) | (UINT32_C(1) << QB_BOUND_INTERVAL);
  qb_pair pair = {0};
  qb_worst_case worst = {0};
  qb_status status = match(verifier, quantized, &pair, error);
  if (status == QB_OK)
    status = qb_worst_case_bound(&pair, domain, methods, -1, &worst, error);
  if (status == QB_OK)
    test->certified = worst.proved
                          ? qb_certificate_round_up(qb_worst_case_claimed(&worst, qb_magnitude_to_double(worst.bound)))
                          : (double)INFINITY;
  test->passed = status == QB_OK && test->certified <= verifier->how->target;
  qb_worst_case_free(&worst);
  qb_pair_free(&pair);
  return status;
}
