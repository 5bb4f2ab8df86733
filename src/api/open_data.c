/* Opening data sets; see open_data.h. */
#include "api/open_data.h"

#include "api/model.h"
#include "base/error.h"

qb_status qb_data_open(const qb_data *data, const char *what, qb_dataset **dataset, qb_error *error) {
  if (data->path == NULL || data->preprocess == NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s needs data: a path and a preprocessing", what);
  qb_dataset_settings settings = {.labels = data->labels, .samples = data->samples, .skip = data->skip};
  QB_TRY(qb_preprocess_parse(data->preprocess, &settings.preprocess, error));
  return qb_dataset_open(data->path, &settings, dataset, error);
}

qb_status qb_data_check_fit(const qb_dataset *dataset, const qb_model *model, const char *what, qb_error *error) {
  char wanted[QB_SHAPE_TEXT], given[QB_SHAPE_TEXT];
  const qb_graph *graph = &model->graph;
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_SHAPE, "%s: has %d inputs; %s needs a network with one", model->path,
                   graph->input_count, what);
  qb_shape sample = qb_dataset_shape(dataset);
  const qb_shape *input = &graph->values[graph->inputs[0]].shape;
  if (qb_shape_elements(input) == qb_shape_elements(&sample))
    return QB_OK;
  return qb_fail(error, QB_ERROR_SHAPE, "%s: its input is %s but a sample is %s; choose another preprocessing",
                 model->path, qb_shape_print(input, wanted), qb_shape_print(&sample, given));
}

qb_status qb_data_read_sample(const void *dataset, int64_t index, float *sample, qb_error *error) {
  return qb_dataset_read(dataset, index, sample, error);
}

int32_t qb_data_read_label(const void *dataset, int64_t index) { return qb_dataset_label(dataset, index); }
