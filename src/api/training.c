/* The public call that trains a perceptron: data into memory, training, a file. */
#include <math.h>
#include <qbound/qbound.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/size.h"
#include "data/dataset.h"
#include "onnx/create.h"
#include "train/mlp.h"

enum { MAX_CLASSES = 65536 };

void qb_train_settings_default(qb_train_settings *settings) {
  *settings = (qb_train_settings){.layers = 5, .width = 128, .epochs = 10, .batch = 128, .rate = 1e-3};
}

/* ---------------------------------------------------------------------------------------------------------- data */

/* Every sample of a dataset in memory. */
typedef struct loaded {
  int64_t count;
  size_t elements; /* of one sample */
  int32_t classes; /* largest label + 1 */
  float *inputs;   /* (count, elements) */
  int32_t *labels; /* (count) */
} loaded;

static void loaded_free(loaded *l) {
  qb_free(l->inputs);
  qb_free(l->labels);
}

static qb_status read_labels(const qb_dataset *dataset, const qb_data *data, loaded *l, qb_error *error) {
  for (int64_t i = 0; i < l->count; i++) {
    int64_t label = qb_dataset_label(dataset, i);
    if (label < 0)
      return qb_fail(error, QB_ERROR_ARGUMENT, "%s: %s has no label; training and testing need one for every sample",
                     data->path, qb_dataset_name(dataset, i));
    label += data->label_offset;
    if (label < 0 || label >= MAX_CLASSES)
      return qb_fail(error, QB_ERROR_ARGUMENT, "%s: the class %lld of %s is outside 0 to %d", data->path,
                     (long long)label, qb_dataset_name(dataset, i), MAX_CLASSES - 1);
    l->labels[i] = (int32_t)label;
    if (label >= l->classes)
      l->classes = (int32_t)label + 1;
  }
  return QB_OK;
}

static qb_status read_inputs(const qb_dataset *dataset, loaded *l, qb_error *error) {
  qb_status result = QB_OK;
  int64_t failed = l->count; /* the first sample that failed: the same error whatever the number of threads */
#pragma omp parallel for schedule(dynamic, 64)
  for (int64_t i = 0; i < l->count; i++) {
    qb_error own = {0};
    qb_status status = qb_dataset_read(dataset, i, l->inputs + (size_t)i * l->elements, &own);
    if (status == QB_OK)
      continue;
#pragma omp critical(qb_training_read)
    if (i < failed) {
      failed = i;
      result = status;
      if (error != NULL)
        *error = own;
    }
  }
  return result;
}

static qb_status load_samples(const qb_dataset *dataset, const qb_data *data, loaded *l, qb_error *error) {
  qb_shape shape = qb_dataset_shape(dataset);
  size_t total;
  l->count = qb_dataset_count(dataset);
  l->elements = qb_shape_elements(&shape);
  if (!qb_size_multiply((size_t)l->count, l->elements, &total))
    return qb_fail_memory(error, data->path, SIZE_MAX);
  l->inputs = qb_alloc(total, sizeof *l->inputs);
  l->labels = qb_alloc((size_t)l->count, sizeof *l->labels);
  if (l->inputs == NULL || l->labels == NULL)
    return qb_fail_memory(error, data->path, total * sizeof *l->inputs);
  QB_TRY(read_labels(dataset, data, l, error));
  return read_inputs(dataset, l, error);
}

/* Free with loaded_free in every case. */
static qb_status load(const qb_data *data, loaded *l, qb_error *error) {
  *l = (loaded){0};
  qb_dataset_settings settings = {.labels = data->labels, .samples = data->samples, .skip = data->skip};
  qb_dataset *dataset;
  QB_TRY(qb_preprocess_parse(data->preprocess, &settings.preprocess, error));
  QB_TRY(qb_dataset_open(data->path, &settings, &dataset, error));
  qb_status status = load_samples(dataset, data, l, error);
  qb_dataset_free(dataset);
  return status;
}

/* ------------------------------------------------------------------------------------------------------ training */

static qb_status create(const qb_train_settings *settings, const loaded *l, qb_mlp *mlp, qb_error *error) {
  int32_t widths[QB_MLP_MAX_LAYERS + 1];
  *mlp = (qb_mlp){0};
  if (settings->layers < 1 || settings->layers > QB_MLP_MAX_LAYERS)
    return qb_fail(error, QB_ERROR_ARGUMENT, "a network of %d layers: choose 1 to %d", settings->layers,
                   QB_MLP_MAX_LAYERS);
  if (l->elements > QB_MLP_MAX_WIDTH)
    return qb_fail(error, QB_ERROR_ARGUMENT, "samples of %zu elements: a perceptron takes %d at most", l->elements,
                   QB_MLP_MAX_WIDTH);
  widths[0] = (int32_t)l->elements;
  for (int i = 1; i < settings->layers; i++)
    widths[i] = settings->width;
  widths[settings->layers] = l->classes;
  return qb_mlp_create(mlp, settings->layers, widths, settings->seed, error);
}

static qb_status train(const qb_train_settings *settings, const loaded *l, const qb_progress *progress, qb_mlp *mlp,
                       qb_train_info *info, qb_error *error) {
  qb_mlp_samples samples = {l->count, l->inputs, l->labels};
  qb_mlp_settings how = {.epochs = settings->epochs,
                         .batch = settings->batch,
                         .rate = (float)settings->rate,
                         .seed = settings->seed,
                         .threads = settings->threads};
  double start = qb_clock_seconds();
  QB_TRY(qb_mlp_train(mlp, &samples, &how, progress, &info->loss, error));
  info->seconds = qb_clock_seconds() - start;
  info->samples = l->count;
  info->inputs = (int)l->elements;
  info->classes = l->classes;
  info->parameters = (int64_t)mlp->parameter_count;
  return qb_mlp_accuracy(mlp, &samples, &info->accuracy, error);
}

static qb_status test_accuracy(const qb_mlp *mlp, const qb_data *data, qb_train_info *info, qb_error *error) {
  loaded l;
  qb_status status = load(data, &l, error);
  if (status == QB_OK && (int32_t)l.elements != mlp->widths[0])
    status = qb_fail(error, QB_ERROR_ARGUMENT, "%s: samples of %zu elements, but the network was trained on %d",
                     data->path, l.elements, mlp->widths[0]);
  if (status == QB_OK) {
    qb_mlp_samples samples = {l.count, l.inputs, l.labels};
    status = qb_mlp_accuracy(mlp, &samples, &info->test_accuracy, error);
    info->test_samples = l.count;
  }
  loaded_free(&l);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- writing */

static qb_status write_file(const qb_mlp *mlp, const qb_train_settings *settings, const qb_train_info *info,
                            const char *path, qb_error *error) {
  char how[256];
  snprintf(how, sizeof how, "layers=%d width=%d epochs=%d batch=%d rate=%.9g seed=%llu samples=%lld", settings->layers,
           settings->width, settings->epochs, settings->batch, settings->rate, (unsigned long long)settings->seed,
           (long long)info->samples);
  const qb_onnx_metadata_entry metadata[] = {{"qbound.version", qb_version()}, {"qbound.training", how}};
  qb_onnx_dense layers[QB_MLP_MAX_LAYERS];
  for (int32_t l = 0; l < mlp->layers; l++)
    layers[l] = (qb_onnx_dense){mlp->widths[l], mlp->widths[l + 1], qb_mlp_weight(mlp, l), qb_mlp_bias(mlp, l)};
  qb_output_file file = {0};
  QB_TRY(qb_output_open(&file, path, error));
  qb_status status = qb_onnx_create_mlp(layers, mlp->layers, metadata, 2, file.stream, path, error);
  if (status == QB_OK)
    return qb_output_commit(&file, error);
  qb_output_discard(&file);
  return status;
}

qb_status qb_train_mlp(const qb_data *data, const qb_data *test, const qb_train_settings *settings,
                       const qb_progress *progress, const char *path, qb_train_info *info, qb_error *error) {
  qb_train_info own = {.test_accuracy = NAN};
  loaded l;
  qb_mlp mlp = {0};
  qb_status status = load(data, &l, error);
  if (status == QB_OK)
    status = create(settings, &l, &mlp, error);
  if (status == QB_OK)
    status = train(settings, &l, progress, &mlp, &own, error);
  loaded_free(&l); /* before the test data come in */
  if (status == QB_OK && test != NULL)
    status = test_accuracy(&mlp, test, &own, error);
  if (status == QB_OK)
    status = write_file(&mlp, settings, &own, path, error);
  qb_mlp_free(&mlp);
  if (status == QB_OK && info != NULL)
    *info = own;
  return status;
}
