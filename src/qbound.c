/* The public calls as one page: read, prepare, quantize, write, bound, run, report. Read this first.
 *
 *   qb_model_load    file -> document -> graph -> BatchNorm folded
 *   qb_quantize      a copy of that graph with rounded weights
 *   qb_quantize_auto bits per layer first, so that a promise is kept                (api/promise.c)
 *   qb_model_save    graph -> file, read back and checked before it appears
 *   qb_bound_sweep   for each width: quantize in memory, bound the pair of graphs   (api/sweep.c)
 *   qb_measure       both graphs over samples                                       (run/measure.c)
 *   qb_inspect       what is in a file                                              (api/inspection.c)
 *   qb_*_json        reports as text                                                (report/) */
#include <qbound/qbound.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "api/calibration_source.h"
#include "api/open_data.h"
#include "api/model.h"
#include "api/self_check.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "data/dataset.h"
#include "graph/pass_fold_bn.h"
#include "quant/network.h"
#include "report/report_json.h"
#include "run/measure.h"

/* ------------------------------------------------------------------------------------------------------- loading */

static qb_status load(qb_model *model, qb_error *error) {
  qb_fold_bn_info folded;
  QB_TRY(qb_onnx_read(model->path, &model->document, error));
  QB_TRY(qb_onnx_to_graph(model->document, &model->read, error));
  QB_TRY(qb_graph_clone(&model->read, &model->graph, error));
  QB_TRY(qb_fold_bn(&model->graph, &folded, error));
  return qb_model_list_layers(model, error);
}

qb_status qb_model_load(const char *path, qb_model **model, qb_error *error) {
  QB_TRY(qb_model_create(path, model, error));
  qb_status status = load(*model, error);
  if (status != QB_OK) {
    qb_model_free(*model);
    *model = NULL;
  }
  return status;
}

/* ---------------------------------------------------------------------------------------------------- quantizing */

/* Storage facts that only the graph knows: number of scales, zero points. */
static void describe_storage(const qb_model *quantized, qb_quantize_info *info) {
  for (int i = 0; i < info->layer_count && i < quantized->layer_count; i++) {
    qb_linear linear;
    if (!qb_graph_linear(&quantized->graph, quantized->layers[i], &linear))
      continue;
    const qb_codes *codes = quantized->graph.values[linear.weight].codes;
    info->layers[i].scales = codes != NULL ? codes->scale_count : 0;
    info->layers[i].affine = codes != NULL && codes->zero_point != NULL;
  }
}

static qb_status quantize(const qb_model *model, const qb_quantize_settings *settings, const qb_progress *progress,
                          qb_model *quantized, qb_quantize_info *info, qb_error *error) {
  quantized->source = model;
  quantized->settings = *settings;
  quantized->settings.plan = NULL;
  quantized->settings.plan_count = 0;
  quantized->settings.calibration_data = NULL;
  qb_statistics statistics = {0};
  qb_status status = qb_statistics_read(&model->read, &statistics, error);
  if (status == QB_OK)
    status = qb_quantize_network(&model->graph, &statistics, settings, progress, &quantized->prepared,
                                 &quantized->graph, info, error);
  qb_statistics_free(&statistics);
  QB_TRY(status);
  quantized->exact = info->preparation.exact || info->preparation.dropped;
  QB_TRY(qb_calibration_record(&settings->calibration, model, &quantized->calibration, error));
  info->calibration_samples = quantized->calibration.count;
  QB_TRY(qb_model_list_layers(quantized, error));
  describe_storage(quantized, info);
  return QB_OK;
}

qb_status qb_quantize(const qb_model *model, const qb_quantize_settings *settings, const qb_progress *progress,
                      qb_model **quantized, qb_quantize_info *info, qb_error *error) {
  *quantized = NULL;
  if (model->source != NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: is quantized already; quantize the original", model->path);
  qb_quantize_info own = {0};
  qb_calibration_source source = {0};
  qb_quantize_settings how = *settings;
  QB_TRY(qb_model_create(model->path, quantized, error));
  int threads = qb_threads_begin(settings->threads);
  qb_status status = qb_calibration_open(model, &how, &source, error);
  if (status == QB_OK)
    status = quantize(model, &how, progress, *quantized, &own, error);
  qb_calibration_close(&source);
  qb_threads_end(threads);
  if (status == QB_OK && info != NULL) {
    *info = own;
    return QB_OK;
  }
  qb_quantize_info_free(&own);
  if (status != QB_OK) {
    qb_model_free(*quantized);
    *quantized = NULL;
  }
  return status;
}

int64_t qb_quantize_layer_bytes(const qb_quantize_layer *layer, bool compat) {
  if (layer->tied)
    return 0;
  if (layer->bits == 0)
    return 4 * layer->weights;
  int64_t carrier = layer->bits <= 2 && !compat ? 2 : layer->bits <= 4 && !compat ? 4 : layer->bits <= 8 ? 8 : 16;
  int64_t zero_points = layer->affine ? layer->scales : 0;
  return (layer->weights * carrier + 7) / 8 + 4 * layer->scales + (zero_points * carrier + 7) / 8;
}

/* -------------------------------------------------------------------------------------------------------- saving */

void qb_save_settings_default(qb_save_settings *settings) { *settings = (qb_save_settings){0}; }

/* Writes, reads back, checks; the file stays under its temporary name. */
static qb_status write_checked(const qb_model *model, qb_output_file *file, const qb_onnx_write_settings *how,
                               int threads, qb_save_info *info, qb_error *error) {
  qb_onnx_write_info written = {0};
  QB_TRY(qb_onnx_write_graph(model->source->document, &model->graph, how, file->stream, file->path, &written, error));
  QB_TRY(qb_output_close(file, error));
  info->opset = written.opset;
  info->size_bytes = written.size_bytes;
  return qb_self_check(model, file->temporary_path, file->path, threads, info, error);
}

enum { METADATA = 5 };

/* What a written file says about its making. `how` and `source` outlive the entries. */
static int32_t list_metadata(const qb_model *model, const char *how, const char *source,
                             qb_onnx_metadata_entry entries[METADATA]) {
  int32_t count = 0;
  entries[count++] = (qb_onnx_metadata_entry){"qbound.version", qb_version()};
  entries[count++] = (qb_onnx_metadata_entry){"qbound.settings", how};
  entries[count++] = (qb_onnx_metadata_entry){"qbound.source_sha256", source};
  if (model->calibration.count > 0)
    entries[count++] = (qb_onnx_metadata_entry){"qbound.calibration", model->calibration.text};
  if (model->verification.count > 0)
    entries[count++] = (qb_onnx_metadata_entry){"qbound.verification", model->verification.text};
  return count;
}

static qb_status write_file(const qb_model *model, const char *path, const qb_onnx_write_settings *how, int threads,
                            qb_save_info *info, qb_error *error) {
  qb_output_file file = {0};
  qb_status status = qb_output_open(&file, path, error);
  if (status == QB_OK)
    status = write_checked(model, &file, how, threads, info, error);
  if (status == QB_OK)
    status = qb_output_commit(&file, error);
  else
    qb_output_discard(&file);
  return status;
}

/* With `stream` only the bytes count: they go there, unchecked. */
static qb_status save(const qb_model *model, const char *path, const qb_save_settings *settings, FILE *stream,
                      qb_save_info *info, qb_error *error) {
  qb_hash hash;
  char source[QB_HASH_TEXT], *how = NULL;
  qb_onnx_metadata_entry metadata[METADATA];
  qb_onnx_write_info written = {0};
  QB_TRY(qb_hash_file(model->path, &hash, error));
  QB_TRY(qb_report_settings(&model->settings, &how, error));
  int32_t count = list_metadata(model, how, qb_hash_print(&hash, source), metadata);
  qb_onnx_write_settings write = {.compat = settings->compat, .metadata = metadata, .metadata_count = count};
  qb_status status = stream == NULL ? write_file(model, path, &write, settings->threads, info, error)
                                    : qb_onnx_write_graph(model->source->document, &model->graph, &write, stream, path,
                                                          &written, error);
  if (stream != NULL)
    info->size_bytes = written.size_bytes;
  qb_text_free(how);
  return status;
}

qb_status qb_model_file_size(const qb_model *model, bool compat, int64_t *size_bytes, qb_error *error) {
  qb_save_settings settings = {.compat = compat};
  qb_save_info info = {0};
  FILE *nowhere = fopen("/dev/null", "wb");
  if (nowhere == NULL)
    return qb_fail(error, QB_ERROR_IO, "/dev/null: cannot be opened");
  qb_status status = save(model, "/dev/null", &settings, nowhere, &info, error);
  fclose(nowhere);
  *size_bytes = info.size_bytes;
  return status;
}

qb_status qb_model_save(const qb_model *model, const char *path, const qb_save_settings *settings, qb_save_info *info,
                        qb_error *error) {
  qb_save_settings defaults;
  qb_save_settings_default(&defaults);
  qb_save_info own = {0};
  if (model->source == NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: only a quantized model can be saved", model->path);
  if (qb_rank() > 0)
    return QB_OK;
  QB_TRY(save(model, path, settings != NULL ? settings : &defaults, NULL, &own, error));
  if (info != NULL)
    *info = own;
  return QB_OK;
}

qb_status qb_quantize_json(const qb_model *quantized, const qb_quantize_info *info, const qb_allocation *allocation,
                           const char *output, const qb_save_info *save_info, bool compat, char **text,
                           qb_error *error) {
  return qb_report_quantize(quantized->path, &quantized->settings, info, allocation, output, save_info, compat, text,
                            error);
}

/* ----------------------------------------------------------------------------------------------------- measuring */

void qb_data_default(qb_data *data) { *data = (qb_data){.preprocess = "raw"}; }

void qb_measure_settings_default(qb_measure_settings *settings) { *settings = (qb_measure_settings){.batch = 16}; }

static void copy_measured(const qb_run_measure_info *info, qb_measurement *measurement) {
  measurement->images = info->count;
  measurement->labelled = info->labelled;
  measurement->model.top1 = info->model.top1;
  measurement->model.top5 = info->model.top5;
  measurement->model.seconds = info->model.seconds;
  measurement->other.top1 = info->other.top1;
  measurement->other.top5 = info->other.top5;
  measurement->other.seconds = info->other.seconds;
  measurement->flip_count = info->flip_count;
  measurement->flips = info->flips;
  measurement->error_max = info->error_max;
  measurement->error_mean = info->error_mean;
  measurement->error_p50 = info->error_p50;
  measurement->error_p90 = info->error_p90;
  measurement->error_p99 = info->error_p99;
  measurement->error_argmax = info->error_argmax;
  measurement->seconds = info->seconds;
}

/* What the records of a shard follow from besides its samples: both files, the engine and this program. */
static qb_status identify(const qb_model *model, const qb_model *other, const qb_measure_settings *settings,
                          qb_hash *identity, qb_error *error) {
  qb_hash parts[3] = {{{0}}};
  char how[64];
  const qb_model *models[2] = {model, other};
  snprintf(how, sizeof how, "measure %s %d", qb_version(), settings->reference);
  QB_TRY(qb_hash_bytes(how, strlen(how), &parts[2], error));
  for (int i = 0; i < 2 && models[i] != NULL; i++) {
    if (models[i]->source != NULL)
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "%s: a checkpoint speaks about files; save the quantized model and load it", models[i]->path);
    QB_TRY(qb_hash_file(models[i]->path, &parts[i], error));
  }
  return qb_hash_bytes(parts, sizeof parts, identity, error);
}

static qb_status run_samples(const qb_model *model, const qb_model *other, const qb_data *data,
                             const qb_dataset *dataset, const qb_measure_settings *settings,
                             const qb_progress *progress, qb_measurement *measurement, qb_error *error) {
  QB_TRY(qb_data_check_fit(dataset, model, "measuring", error));
  if (other != NULL)
    QB_TRY(qb_data_check_fit(dataset, other, "measuring", error));
  const qb_run_samples samples = {dataset, qb_dataset_count(dataset), qb_data_read_sample, qb_data_read_label};
  qb_run_measure_settings how;
  qb_run_measure_info info = {0};
  qb_run_measure_settings_default(&how);
  how.engine = settings->reference ? QB_ENGINE_REFERENCE : QB_ENGINE_ONEDNN;
  how.batch = settings->batch;
  how.threads = settings->threads;
  how.label_offset = data->label_offset;
  how.checkpoint = settings->checkpoint;
  if (settings->checkpoint != NULL)
    QB_TRY(identify(model, other, settings, &how.identity, error));
  qb_status status =
      qb_run_measure(&model->graph, other != NULL ? &other->graph : NULL, &samples, &how, progress, &info, error);
  copy_measured(&info, measurement);
  qb_run_measure_info_free(&info);
  return status;
}

static int64_t file_size(const char *path) {
  struct stat status;
  return stat(path, &status) == 0 ? (int64_t)status.st_size : 0;
}

/* Copies both paths into one block, which the measurement owns. */
static qb_status name_networks(const qb_model *model, const qb_model *other, qb_measurement *measurement,
                               qb_error *error) {
  size_t first = strlen(model->path) + 1, second = other != NULL ? strlen(other->path) + 1 : 0;
  char *names = qb_alloc(first + second, 1);
  if (names == NULL)
    return qb_fail_memory(error, "the names of the networks", first + second);
  memcpy(names, model->path, first);
  measurement->storage = names;
  measurement->model.path = names;
  measurement->model.size_bytes = file_size(model->path);
  measurement->has_other = other != NULL;
  if (other == NULL)
    return QB_OK;
  memcpy(names + first, other->path, second);
  measurement->other.path = names + first;
  measurement->other.size_bytes = file_size(other->path);
  return QB_OK;
}

qb_status qb_measure(const qb_model *model, const qb_model *other, const qb_data *data,
                     const qb_measure_settings *settings, const qb_progress *progress, qb_measurement *measurement,
                     qb_error *error) {
  *measurement = (qb_measurement){0};
  qb_dataset *dataset = NULL;
  QB_TRY(qb_data_open(data, "measuring", &dataset, error));
  qb_status status = run_samples(model, other, data, dataset, settings, progress, measurement, error);
  qb_dataset_free(dataset);
  return status == QB_OK ? name_networks(model, other, measurement, error) : status;
}

void qb_measurement_free(qb_measurement *measurement) {
  if (measurement == NULL)
    return;
  qb_free(measurement->storage);
  *measurement = (qb_measurement){0};
}
