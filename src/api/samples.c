/* Inputs for measuring; see samples.h. */
#include "api/samples.h"

#include <string.h>

#include "base/error.h"
#include "data/digits.h"

enum { DEFAULT_DIGITS = 1000 };

static qb_status open_digits(const qb_data *data, qb_samples *samples, qb_error *error) {
  const qb_preprocess *how = &samples->preprocess;
  if (how->resize != 0 || how->crop != 0)
    return qb_fail(error, QB_ERROR_ARGUMENT, "digits are drawn at %dx%d: leave resize and crop out", QB_DIGITS_HEIGHT,
                   QB_DIGITS_WIDTH);
  samples->seed = data->seed;
  samples->skip = data->skip;
  samples->count = data->samples > 0 ? data->samples : DEFAULT_DIGITS;
  samples->shape = QB_SHAPE(QB_DIGITS_CHANNELS, QB_DIGITS_HEIGHT, QB_DIGITS_WIDTH);
  return QB_OK;
}

qb_status qb_samples_open(const qb_data *data, qb_samples *samples, qb_error *error) {
  *samples = (qb_samples){.label_offset = data->label_offset};
  if (data->path == NULL || data->samples < 0 || data->skip < 0)
    return qb_fail(error, QB_ERROR_ARGUMENT, "data needs a path, and samples and skip that are not negative");
  QB_TRY(qb_preprocess_parse(data->preprocess, &samples->preprocess, error));
  if (strcmp(data->path, "digits") == 0)
    return open_digits(data, samples, error);
  qb_dataset_settings settings = {.preprocess = samples->preprocess,
                                  .labels = data->labels,
                                  .samples = data->samples,
                                  .skip = data->skip};
  QB_TRY(qb_dataset_open(data->path, &settings, &samples->dataset, error));
  samples->count = qb_dataset_count(samples->dataset);
  samples->shape = qb_dataset_shape(samples->dataset);
  if (samples->count == 0)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: no samples are left to use", data->path);
  return QB_OK;
}

void qb_samples_close(qb_samples *samples) {
  qb_dataset_free(samples->dataset);
  *samples = (qb_samples){0};
}

static void read_digit(const qb_samples *samples, int64_t index, float *sample, int32_t *label) {
  const qb_preprocess *how = &samples->preprocess;
  uint8_t pixels[QB_DIGITS_PIXELS];
  qb_digits_image(samples->seed, (uint64_t)(samples->skip + index), pixels, label);
  for (int i = 0; i < QB_DIGITS_PIXELS; i++) {
    float value = how->scale > 0 ? (float)pixels[i] / how->scale : (float)pixels[i];
    sample[i] = how->normalize ? (value - how->mean[0]) / how->std[0] : value;
  }
}

static qb_status read_sample(const qb_samples *samples, int64_t index, float *sample, int32_t *label, qb_error *error) {
  if (samples->dataset == NULL) {
    read_digit(samples, index, sample, label);
  } else {
    *label = qb_dataset_label(samples->dataset, index);
    QB_TRY(qb_dataset_read(samples->dataset, index, sample, error));
  }
  if (*label >= 0)
    *label += samples->label_offset;
  return QB_OK;
}

qb_status qb_samples_read(const qb_samples *samples, int64_t first, int32_t count, float *input, int32_t *labels,
                          qb_error *error) {
  size_t elements = qb_shape_elements(&samples->shape);
  qb_status result = QB_OK;
  int32_t failed = count; /* the first sample that failed: the same error whatever the number of threads */
#pragma omp parallel for schedule(dynamic)
  for (int32_t i = 0; i < count; i++) {
    qb_error own = {0};
    qb_status status = read_sample(samples, first + i, input + (size_t)i * elements, &labels[i], &own);
    if (status == QB_OK)
      continue;
#pragma omp critical
    if (i < failed) {
      failed = i;
      result = status;
      if (error != NULL)
        *error = own;
    }
  }
  return result;
}
