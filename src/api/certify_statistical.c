/* The statistical claim: held-out inputs are checked, both networks run on them, and stats/ says what follows. */
#include "api/certify_claims.h"
#include "api/held_out.h"
#include "api/open_data.h"
#include "base/alloc.h"
#include "base/error.h"
#include "run/measure.h"
#include "stats/statistical_claim.h"

static qb_status claim_from(const qb_certifying *c, const qb_run_measure_info *info) {
  const qb_statistical_settings how = {c->settings->confidence, c->settings->candidates, info->class_count};
  qb_observation *observations = qb_alloc((size_t)info->count, sizeof *observations);
  if (observations == NULL)
    return qb_fail_memory(c->error, "observations", (size_t)info->count * sizeof *observations);
  for (int64_t i = 0; i < info->count; i++) {
    const qb_run_sample *sample = &info->samples[i];
    observations[i] = (qb_observation){sample->error, sample->top, sample->other_top, sample->label};
  }
  qb_status status = qb_statistical_claim_make(observations, info->count, &how, &c->parts->arena,
                                               &c->certificate->statistical, c->error);
  qb_free(observations);
  return status;
}

static qb_status run_both(const qb_certifying *c, const qb_dataset *dataset) {
  const qb_run_samples samples = {dataset, qb_dataset_count(dataset), qb_data_read_sample, qb_data_read_label};
  qb_run_measure_settings how;
  qb_run_measure_info info = {0};
  qb_run_measure_settings_default(&how);
  how.engine = c->settings->reference ? QB_ENGINE_REFERENCE : QB_ENGINE_ONEDNN;
  how.threads = c->settings->threads;
  how.label_offset = c->settings->statistical->label_offset;
  qb_status status =
      qb_run_measure(&c->model->graph, &c->quantized->graph, &samples, &how, c->progress, &info, c->error);
  if (status == QB_OK)
    status = claim_from(c, &info);
  qb_run_measure_info_free(&info);
  return status;
}

static qb_status claim_with(const qb_certifying *c, const qb_dataset *dataset) {
  qb_held_out facts;
  QB_TRY(qb_data_check_fit(dataset, c->model, "a statistical claim", c->error));
  QB_TRY(qb_held_out_check(dataset, c->settings->statistical->path, c->quantized, c->settings->threads, c->progress,
                           &facts, c->error));
  QB_TRY(run_both(c, dataset));
  qb_statistical_claim *claim = &c->certificate->statistical;
  claim->calibration_known = facts.calibration_known;
  claim->calibration_samples = facts.calibration_samples;
  claim->in_double = c->settings->reference;
  c->certificate->has_statistical = true;
  return c->settings->layerwise ? qb_certify_layerwise(c, dataset) : QB_OK;
}

qb_status qb_certify_statistical(const qb_certifying *c) {
  const qb_certify_settings *settings = c->settings;
  qb_dataset *dataset = NULL;
  if (!(settings->confidence > 0.0 && settings->confidence < 1.0) || settings->candidates < 1)
    return qb_fail(c->error, QB_ERROR_ARGUMENT,
                   "confidence %g with %lld candidates: expected a number between 0 and 1, and at least one candidate",
                   settings->confidence, (long long)settings->candidates);
  QB_TRY(qb_data_open(settings->statistical, "a statistical claim", &dataset, c->error));
  qb_status status = claim_with(c, dataset);
  qb_dataset_free(dataset);
  return status;
}
