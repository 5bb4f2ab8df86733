/* Opening and recording calibration samples; see calibration_source.h. */
#include "api/calibration_source.h"

#include <stdio.h>
#include <string.h>

#include "api/model.h"
#include "api/open_data.h"
#include "base/alloc.h"
#include "base/error.h"

enum { HASH_DIGITS = 16, COUNT_DIGITS = 20 };

qb_status qb_calibration_open(const qb_model *model, qb_quantize_settings *settings, qb_calibration_source *source,
                              qb_error *error) {
  *source = (qb_calibration_source){0};
  if (settings->calibration_data == NULL || settings->calibration.count > 0)
    return QB_OK;
  QB_TRY(qb_data_open(settings->calibration_data, "calibration", &source->dataset, error));
  QB_TRY(qb_data_check_fit(source->dataset, model, "calibration", error));
  settings->calibration.read = qb_data_read_sample;
  settings->calibration.context = source->dataset;
  settings->calibration.count = qb_dataset_count(source->dataset);
  return QB_OK;
}

void qb_calibration_close(qb_calibration_source *source) {
  qb_dataset_free(source->dataset);
  *source = (qb_calibration_source){0};
}

/* Appends " " and the hash of a sample of `elements` numbers at `to`; as qb_dataset_hash. */
static qb_status append_hash(float *sample, size_t elements, char *to, qb_error *error) {
  qb_hash hash;
  char text[QB_HASH_TEXT];
  for (size_t i = 0; i < elements; i++)
    sample[i] += 0.0f; /* -0 becomes 0: equal numbers, equal bytes */
  QB_TRY(qb_hash_bytes(sample, elements * sizeof *sample, &hash, error));
  to[0] = ' ';
  memcpy(to + 1, qb_hash_print(&hash, text), HASH_DIGITS);
  to[1 + HASH_DIGITS] = '\0';
  return QB_OK;
}

qb_status qb_calibration_record(const qb_calibration *calibration, const qb_model *model, qb_calibration_trace *trace,
                                qb_error *error) {
  *trace = (qb_calibration_trace){0};
  int64_t count =
      calibration->samples > 0 && calibration->samples < calibration->count ? calibration->samples : calibration->count;
  if (count == 0)
    return QB_OK;
  size_t elements = qb_shape_elements(&model->graph.values[model->graph.inputs[0]].shape);
  size_t size = COUNT_DIGITS + 1 + (size_t)count * (1 + HASH_DIGITS);
  float *sample = qb_alloc(elements, sizeof *sample);
  trace->text = qb_alloc(size, 1);
  trace->count = count;
  qb_status status =
      sample == NULL || trace->text == NULL ? qb_fail_memory(error, "the hashes of samples", size) : QB_OK;
  size_t used = 0;
  if (status == QB_OK)
    used = (size_t)snprintf(trace->text, COUNT_DIGITS + 1, "%lld", (long long)count);
  for (int64_t i = 0; status == QB_OK && i < count; i++, used += 1 + HASH_DIGITS) {
    status = calibration->read(calibration->context, i, sample, error);
    if (status == QB_OK)
      status = append_hash(sample, elements, trace->text + used, error);
  }
  qb_free(sample);
  return status;
}
