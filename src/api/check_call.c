/* qb_check: the verifier of check/, with data that hold the centres of balls where the certificate does not. */
#include "api/open_data.h"
#include "base/error.h"
#include "check/check.h"

void qb_check_settings_default(qb_check_settings *settings) { *settings = (qb_check_settings){0}; }

typedef struct source_data {
  const qb_check_settings *settings;
  qb_dataset *dataset; /* NULL before the first centre */
} source_data;

static qb_status open_data(source_data *source, const char *preprocess, qb_error *error) {
  qb_data data;
  qb_data_default(&data);
  data.path = source->settings->data;
  data.labels = source->settings->labels;
  data.preprocess = preprocess;
  return qb_data_open(&data, "checking balls", &source->dataset, error);
}

static qb_status read_centre(void *context, const char *preprocess, int64_t index, int64_t elements, float *values,
                             qb_error *error) {
  source_data *source = context;
  if (source->dataset == NULL)
    QB_TRY(open_data(source, preprocess, error));
  qb_shape shape = qb_dataset_shape(source->dataset);
  if (index >= qb_dataset_count(source->dataset))
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: has %lld inputs, but the certificate speaks of number %lld",
                   source->settings->data, (long long)qb_dataset_count(source->dataset), (long long)index);
  if ((int64_t)qb_shape_elements(&shape) != elements)
    return qb_fail(error, QB_ERROR_SHAPE, "%s: a sample has %zu elements, but a centre of the certificate %lld",
                   source->settings->data, qb_shape_elements(&shape), (long long)elements);
  return qb_dataset_read(source->dataset, index, values, error);
}

qb_status qb_check(const char *certificate, const char *model, const char *quantized, const qb_check_settings *settings,
                   qb_check_report *report, qb_error *error) {
  qb_check_settings plain;
  qb_check_settings_default(&plain);
  source_data data = {.settings = settings == NULL ? &plain : settings};
  const centre_source source = {&data, read_centre};
  qb_status status = check_certificate(certificate, model, quantized, data.settings->data == NULL ? NULL : &source,
                                       data.settings->threads, report, error);
  qb_dataset_free(data.dataset);
  return status;
}
