/* qb_report_page: run both networks, gather what a page shows, write it. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "api/open_data.h"
#include "api/page_parts.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/progress.h"
#include "stats/binomial.h"

void qb_page_settings_default(qb_page_settings *settings) {
  *settings = (qb_page_settings){.inputs = 8, .sensitivity_samples = 16, .batch = 16};
}

static qb_status check(const qb_page_work *work) {
  enum { MOST_INPUTS = 64 };
  const qb_page_settings *s = work->settings;
  if (s->inputs < 0 || s->inputs > MOST_INPUTS || s->sensitivity_samples < 0 || s->batch < 1)
    return qb_fail(work->error, QB_ERROR_ARGUMENT,
                   "a report shows 0 to %d inputs (not %d), with 0 or more samples for sensitivity (not %d) in batches "
                   "of 1 or more (not %d)",
                   MOST_INPUTS, s->inputs, s->sensitivity_samples, s->batch);
  if (work->model->source != NULL || work->other->source != NULL)
    return qb_fail(work->error, QB_ERROR_ARGUMENT,
                   "%s: a report speaks about files; save the quantized model and load it", work->other->path);
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- measured
 */

static void count_errors(const qb_run_measure_info *measured, qb_page_histogram *h) {
  *h = (qb_page_histogram){.title = "Errors of the outputs", .hi = measured->error_max > 0 ? measured->error_max : 1};
  for (int64_t i = 0; i < measured->count; i++) {
    int bin = (int)(measured->samples[i].error / h->hi * QB_PAGE_BINS);
    h->first[bin < QB_PAGE_BINS ? bin : QB_PAGE_BINS - 1]++;
  }
}

static qb_status compare_decisions(qb_page_work *work) {
  qb_page *page = &work->page;
  for (int64_t i = 0; i < work->measured.count; i++) {
    const qb_run_sample *sample = &work->measured.samples[i];
    page->lost += sample->rank == 0 && sample->other_rank != 0;
    page->gained += sample->rank != 0 && sample->other_rank == 0;
  }
  page->mcnemar_p = NAN;
  return work->measured.labelled > 0 ? qb_mcnemar_p(page->lost, page->gained, &page->mcnemar_p, work->error) : QB_OK;
}

static qb_status measure(qb_page_work *work) {
  qb_run_measure_settings how;
  qb_run_measure_info *measured = &work->measured;
  const qb_run_samples samples = {work->dataset, qb_dataset_count(work->dataset), qb_data_read_sample,
                                  qb_data_read_label};
  qb_run_measure_settings_default(&how);
  how.batch = work->settings->batch;
  how.threads = work->settings->threads;
  how.label_offset = work->data->label_offset;
  QB_TRY(
      qb_run_measure(&work->model->graph, &work->other->graph, &samples, &how, work->progress, measured, work->error));
  qb_page *page = &work->page;
  page->images = measured->count;
  page->labelled = measured->labelled;
  page->flips = measured->flip_count;
  page->error_max = measured->error_max;
  page->error_mean = measured->error_mean;
  page->error_p99 = measured->error_p99;
  page->model.top1 = measured->model.top1;
  page->model.top5 = measured->model.top5;
  page->other.top1 = measured->other.top1;
  page->other.top5 = measured->other.top5;
  count_errors(measured, &page->errors);
  return compare_decisions(work);
}

/* ---------------------------------------------------------------------------------------------------------- networks
 */

static int64_t weight_bytes(const qb_model *model) {
  int64_t bytes = 0;
  for (int i = 0; i < model->layer_count; i++) {
    qb_linear linear;
    if (!qb_graph_linear(&model->graph, model->layers[i], &linear))
      continue;
    const qb_value *weight = &model->graph.values[linear.weight];
    int64_t count = (int64_t)qb_shape_elements(&weight->shape), bits = weight->codes != NULL ? weight->codes->bits : 32;
    bytes += (count * bits + 7) / 8;
  }
  return bytes;
}

static qb_status describe_network(const qb_model *model, qb_page_network *network, qb_error *error) {
  qb_hash hash;
  struct stat status;
  const char *slash = strrchr(model->path, '/');
  QB_TRY(qb_hash_file(model->path, &hash, error));
  qb_hash_print(&hash, network->sha256);
  network->file = slash == NULL ? model->path : slash + 1;
  network->size_bytes = stat(model->path, &status) == 0 ? (int64_t)status.st_size : 0;
  network->weight_bytes = weight_bytes(model);
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- the call
 */

static qb_status gather(qb_page_work *work) {
  qb_page *page = &work->page;
  QB_TRY(check(work));
  QB_TRY(qb_data_open(work->data, "a report", &work->dataset, work->error));
  QB_TRY(qb_preprocess_parse(work->data->preprocess, &work->preprocess, work->error));
  QB_TRY(qb_data_check_fit(work->dataset, work->model, "a report", work->error));
  QB_TRY(qb_pair_match_any(&work->model->graph, &work->other->graph, &work->pair, work->error));
  QB_TRY(describe_network(work->model, &page->model, work->error));
  QB_TRY(describe_network(work->other, &page->other, work->error));
  page->data = work->data->path;
  page->preprocess = work->data->preprocess;
  page->command = work->settings->command;
  if (work->settings->certificate != NULL)
    QB_TRY(qb_page_read_certificate(work->settings->certificate, page->model.sha256, page->other.sha256,
                                    &page->certificate, work->error));
  QB_TRY(measure(work));
  QB_TRY(qb_page_list_layers(work));
  return qb_page_list_inputs(work);
}

static qb_status write_page(const qb_page *page, const char *path, qb_page_info *info, qb_error *error) {
  qb_text_writer writer;
  qb_output_file file = {0};
  QB_TRY(qb_page_write(page, &writer, error));
  info->size_bytes = (int64_t)writer.size;
  qb_status status = qb_output_open(&file, path, error);
  if (status == QB_OK && fwrite(writer.text, 1, writer.size, file.stream) != writer.size)
    status = qb_fail(error, QB_ERROR_IO, "%s: cannot write", path);
  qb_free(writer.text);
  if (status == QB_OK)
    return qb_output_commit(&file, error);
  qb_output_discard(&file);
  return status;
}

qb_status qb_report_page(const qb_model *model, const qb_model *other, const qb_data *data,
                         const qb_page_settings *settings, const qb_progress *progress, const char *path,
                         qb_page_info *info, qb_error *error) {
  qb_page_settings defaults;
  qb_page_info own = {0};
  double start = qb_clock_seconds();
  qb_page_settings_default(&defaults);
  qb_page_work work = {.model = model,
                       .other = other,
                       .data = data,
                       .settings = settings != NULL ? settings : &defaults,
                       .progress = progress,
                       .error = error};
  qb_arena_init(&work.arena);
  int threads = qb_threads_begin(work.settings->threads);
  qb_status status = gather(&work);
  if (status == QB_OK)
    status = write_page(&work.page, path, &own, error);
  qb_threads_end(threads);
  qb_run_measure_info_free(&work.measured);
  qb_pair_free(&work.pair);
  qb_dataset_free(work.dataset);
  qb_arena_free(&work.arena);
  own.seconds = qb_clock_seconds() - start;
  if (status == QB_OK && info != NULL)
    *info = own;
  return status;
}
