/* Measuring networks on samples; see measure.h. */
#include "run/measure.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/ranks.h"
#include "run/shard_file.h"

enum { NETWORKS = 2, SHARD = 64 }; /* samples of a shard: what a rank takes at once and a checkpoint keeps */

typedef struct measuring {
  const qb_graph *graphs[NETWORKS]; /* the second may be NULL */
  const qb_run_samples *samples;
  qb_run_measure_settings settings;
  qb_run *runs[NETWORKS];
  size_t sample_elements, output_elements;
  float *input;              /* (SHARD, sample_elements) */
  double *outputs[NETWORKS]; /* (batch, output_elements) */
  double seconds[NETWORKS];
  const qb_progress *progress;
  int64_t done; /* samples of the rounds before this one */
  qb_run_measure_info *info;
} measuring;

void qb_run_measure_settings_default(qb_run_measure_settings *settings) {
  *settings = (qb_run_measure_settings){.engine = QB_ENGINE_ONEDNN, .batch = 16};
}

void qb_run_measure_info_free(qb_run_measure_info *info) {
  if (info == NULL)
    return;
  qb_free(info->samples);
  *info = (qb_run_measure_info){0};
}

/* ------------------------------------------------------------------------------------------------------- checking */

static size_t output_elements(const qb_graph *graph, int32_t output) {
  return qb_shape_elements(&graph->values[graph->outputs[output]].shape);
}

static size_t input_elements(const qb_graph *graph) {
  return qb_shape_elements(&graph->values[graph->inputs[0]].shape);
}

static qb_status check(const qb_graph *graph, const qb_graph *other, const qb_run_samples *samples,
                       const qb_run_measure_settings *settings, qb_error *error) {
  if (settings->batch < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "batch is %d; it must be at least 1", settings->batch);
  if (samples->count < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "there are no samples to measure on");
  const qb_graph *graphs[NETWORKS] = {graph, other};
  for (int i = 0; i < NETWORKS && graphs[i] != NULL; i++) {
    if (settings->output < 0 || settings->output >= graphs[i]->output_count)
      return qb_fail(error, QB_ERROR_ARGUMENT, "%s: output %d does not exist; the network has %d", graphs[i]->name,
                     settings->output, graphs[i]->output_count);
    if (graphs[i]->input_count != 1)
      return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: the network has %d inputs; exactly one is supported",
                     graphs[i]->name, graphs[i]->input_count);
  }
  if (other != NULL && (input_elements(graph) != input_elements(other) ||
                        output_elements(graph, settings->output) != output_elements(other, settings->output)))
    return qb_fail(error, QB_ERROR_SHAPE, "%s and %s have inputs or outputs of different sizes", graph->name,
                   other->name);
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- running */

/* Reads `count` samples in parallel. Of several failures the one of the lowest index is reported. */
static qb_status read_samples(measuring *m, int64_t first, int32_t count, qb_error *error) {
  int64_t failed_at = INT64_MAX;
  qb_error failure = {.status = QB_OK};
#pragma omp parallel for schedule(dynamic) num_threads(m->settings.threads)
  for (int32_t i = 0; i < count; i++) {
    qb_error mine = {.status = QB_OK};
    qb_status status =
        m->samples->read(m->samples->context, first + i, m->input + (size_t)i * m->sample_elements, &mine);
    if (status == QB_OK)
      continue;
#pragma omp critical(qb_measure_failure)
    if (first + i < failed_at) {
      failed_at = first + i;
      failure = mine;
      failure.status = status;
    }
  }
  return failed_at == INT64_MAX ? QB_OK : qb_fail(error, failure.status, "%s", failure.message);
}

/* Runs network `k` on samples from `input` on and copies its output as doubles. */
static qb_status run_network(measuring *m, int k, const float *input, int64_t first, int32_t count, qb_error *error) {
  qb_value_id id = m->graphs[k]->outputs[m->settings.output];
  double start = qb_clock_seconds();
  QB_TRY(qb_run_forward(m->runs[k], input, count, error));
  m->seconds[k] += qb_clock_seconds() - start;
  const float *y = qb_run_value(m->runs[k], id);
  const double *exact = qb_run_value_double(m->runs[k], id);
  for (size_t i = 0; i < (size_t)count * m->output_elements; i++) {
    m->outputs[k][i] = exact != NULL ? exact[i] : (double)y[i];
    if (!isfinite(m->outputs[k][i]))
      return qb_fail(error, QB_ERROR_NUMERIC, "%s: the output of sample %lld is not finite", m->graphs[k]->name,
                     (long long)(first + (int64_t)(i / m->output_elements)));
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- deciding */

static int32_t find_top(const double *y, size_t count) {
  size_t top = 0;
  for (size_t i = 1; i < count; i++)
    if (y[i] > y[top])
      top = i;
  return (int32_t)top;
}

/* Outputs that come before `label` when sorted, equal ones by position. */
static int32_t find_rank(const double *y, size_t count, int32_t label) {
  int32_t rank = 0;
  for (size_t i = 0; i < count; i++)
    rank += y[i] > y[label] || (y[i] == y[label] && i < (size_t)label);
  return rank;
}

static qb_status find_label(const measuring *m, int64_t index, int32_t *label, qb_error *error) {
  int32_t raw = m->samples->label == NULL ? -1 : m->samples->label(m->samples->context, index);
  *label = -1;
  if (raw < 0)
    return QB_OK;
  int64_t shifted = (int64_t)raw + m->settings.label_offset;
  if (shifted < 0 || shifted >= (int64_t)m->output_elements)
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "sample %lld has label %d, with the offset class %lld, but %s has %zu classes; check the labels and "
                   "the label offset",
                   (long long)index, raw, (long long)shifted, m->graphs[0]->name, m->output_elements);
  *label = (int32_t)shifted;
  return QB_OK;
}

static qb_status decide(measuring *m, int64_t first, int32_t count, qb_error *error) {
  size_t n = m->output_elements;
  for (int32_t i = 0; i < count; i++) {
    qb_run_sample *sample = &m->info->samples[first + i];
    const double *y = m->outputs[0] + (size_t)i * n;
    *sample = (qb_run_sample){.top = find_top(y, n), .other_top = -1, .rank = -1, .other_rank = -1};
    QB_TRY(find_label(m, first + i, &sample->label, error));
    if (sample->label >= 0)
      sample->rank = find_rank(y, n, sample->label);
    if (m->graphs[1] == NULL)
      continue;
    const double *z = m->outputs[1] + (size_t)i * n;
    sample->other_top = find_top(z, n);
    if (sample->label >= 0)
      sample->other_rank = find_rank(z, n, sample->label);
    for (size_t j = 0; j < n; j++)
      sample->error = fmax(sample->error, fabs(y[j] - z[j]));
  }
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------- summarizing */

static int compare_doubles(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

static double percentile(const double *sorted, int64_t n, int64_t percent) {
  int64_t k = (percent * n + 99) / 100;
  return sorted[k > 0 ? k - 1 : 0];
}

static qb_status summarize_errors(qb_run_measure_info *info, qb_error *error) {
  double *errors = qb_alloc((size_t)info->count, sizeof *errors), sum = 0.0;
  if (errors == NULL)
    return qb_fail_memory(error, "errors", (size_t)info->count * sizeof *errors);
  for (int64_t i = 0; i < info->count; i++) {
    errors[i] = info->samples[i].error;
    sum += errors[i];
    if (errors[i] > info->error_max) {
      info->error_max = errors[i];
      info->error_argmax = i;
    }
  }
  qsort(errors, (size_t)info->count, sizeof *errors, compare_doubles);
  info->error_mean = sum / (double)info->count;
  info->error_p50 = percentile(errors, info->count, 50);
  info->error_p90 = percentile(errors, info->count, 90);
  info->error_p99 = percentile(errors, info->count, 99);
  qb_free(errors);
  return QB_OK;
}

static double fraction(int64_t part, int64_t whole) { return whole > 0 ? (double)part / (double)whole : NAN; }

static qb_status summarize(const measuring *m, qb_error *error) {
  qb_run_measure_info *info = m->info;
  int64_t right[NETWORKS] = {0}, near[NETWORKS] = {0};
  bool two = m->graphs[1] != NULL;
  for (int64_t i = 0; i < info->count; i++) {
    const qb_run_sample *sample = &info->samples[i];
    info->labelled += sample->label >= 0;
    right[0] += sample->rank == 0;
    right[1] += sample->other_rank == 0;
    near[0] += sample->rank >= 0 && sample->rank < 5;
    near[1] += sample->other_rank >= 0 && sample->other_rank < 5;
    info->flip_count += two && sample->top != sample->other_top;
  }
  info->model = (qb_run_accuracy){fraction(right[0], info->labelled), fraction(near[0], info->labelled), m->seconds[0]};
  info->other = (qb_run_accuracy){two ? fraction(right[1], info->labelled) : (double)NAN,
                                  two ? fraction(near[1], info->labelled) : (double)NAN, m->seconds[1]};
  info->flips = two ? fraction(info->flip_count, info->count) : (double)NAN;
  info->images_per_second = (double)info->count / m->seconds[0];
  return two ? summarize_errors(info, error) : QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ interface */

static qb_status prepare(measuring *m, qb_error *error) {
  size_t batch = (size_t)m->settings.batch;
  m->sample_elements = input_elements(m->graphs[0]);
  m->output_elements = output_elements(m->graphs[0], m->settings.output);
  m->info->class_count = (int64_t)m->output_elements;
  m->info->count = m->samples->count;
  m->info->samples = qb_alloc((size_t)m->samples->count, sizeof *m->info->samples);
  m->input = qb_alloc(SHARD * m->sample_elements, sizeof *m->input);
  if (m->info->samples == NULL || m->input == NULL)
    return qb_fail_memory(error, "samples", SHARD * m->sample_elements * sizeof *m->input);
  for (int k = 0; k < NETWORKS && m->graphs[k] != NULL; k++) {
    qb_run_settings settings;
    qb_run_settings_default(&settings);
    settings.engine = m->settings.engine;
    settings.batch = m->settings.batch;
    settings.threads = m->settings.threads;
    QB_TRY(qb_run_create(m->graphs[k], &settings, &m->runs[k], error));
    m->outputs[k] = qb_alloc(batch * m->output_elements, sizeof *m->outputs[k]);
    if (m->outputs[k] == NULL)
      return qb_fail_memory(error, "outputs", batch * m->output_elements * sizeof *m->outputs[k]);
  }
  return QB_OK;
}

/* Tells how far all ranks are when this one has run `count` samples of its shard. */
static qb_status report(const measuring *m, int32_t count, qb_error *error) {
  int64_t total = m->samples->count, done = m->done + (int64_t)count * qb_rank_count();
  if (qb_progress_report(m->progress, "measuring", done < total ? done : total, total))
    return QB_OK;
  return qb_fail(error, QB_ERROR_INTERRUPTED, "measuring was stopped after %lld of %lld samples%s", (long long)done,
                 (long long)total, m->settings.checkpoint != NULL ? "; the same command goes on where it was" : "");
}

/* Runs the networks on the samples of a shard, which have been read. */
static qb_status run_shard(measuring *m, int64_t first, int32_t count, qb_error *error) {
  for (int32_t at = 0; at < count; at += m->settings.batch) {
    QB_TRY(report(m, at, error));
    int32_t part = count - at < m->settings.batch ? count - at : m->settings.batch;
    const float *input = m->input + (size_t)at * m->sample_elements;
    for (int k = 0; k < NETWORKS && m->graphs[k] != NULL; k++)
      QB_TRY(run_network(m, k, input, first + at, part, error));
    QB_TRY(decide(m, first + at, part, error));
  }
  return QB_OK;
}

static qb_status make_key(const measuring *m, int64_t first, int32_t count, qb_shard_key *key, qb_error *error) {
  int32_t labels[SHARD];
  for (int32_t i = 0; i < count; i++)
    QB_TRY(find_label(m, first + i, &labels[i], error));
  key->identity = m->settings.identity;
  QB_TRY(qb_hash_bytes(m->input, (size_t)count * m->sample_elements * sizeof *m->input, &key->inputs, error));
  return qb_hash_bytes(labels, (size_t)count * sizeof *labels, &key->labels, error);
}

/* One shard, from the checkpoint where it has it. */
static qb_status measure_shard(measuring *m, int64_t first, int32_t count, qb_error *error) {
  const char *folder = m->settings.checkpoint;
  qb_shard_key key;
  bool found = false;
  QB_TRY(read_samples(m, first, count, error));
  if (folder == NULL)
    return run_shard(m, first, count, error);
  QB_TRY(make_key(m, first, count, &key, error));
  QB_TRY(qb_shard_load(folder, &key, &m->info->samples[first], count, &found, error));
  if (found)
    return QB_OK;
  QB_TRY(run_shard(m, first, count, error));
  return qb_shard_store(folder, &key, &m->info->samples[first], count, error);
}

static int32_t shard_size(const measuring *m, int64_t first) {
  return m->samples->count - first < SHARD ? (int32_t)(m->samples->count - first) : SHARD;
}

/* Every rank takes one shard, while there are any. */
static qb_status measure_round(measuring *m, int64_t round, qb_error *error) {
  m->done = round * SHARD * qb_rank_count();
  int64_t first = m->done + (int64_t)qb_rank() * SHARD;
  QB_TRY(report(m, 0, error));
  return first < m->samples->count ? measure_shard(m, first, shard_size(m, first), error) : QB_OK;
}

/* Every rank receives the records of all, and the time of the slowest. */
static qb_status share_records(measuring *m, qb_error *error) {
  for (int64_t shard = 0; shard * SHARD < m->samples->count; shard++) {
    int64_t first = shard * SHARD;
    QB_TRY(qb_ranks_share(&m->info->samples[first], (size_t)shard_size(m, first) * sizeof *m->info->samples,
                          (int)(shard % qb_rank_count()), error));
  }
  for (int k = 0; k < NETWORKS; k++)
    m->seconds[k] = qb_ranks_max(m->seconds[k]);
  return QB_OK;
}

static qb_status measure_all(measuring *m, qb_error *error) {
  int64_t total = m->samples->count, width = (int64_t)SHARD * qb_rank_count();
  qb_status status = prepare(m, error);
  if (status == QB_OK && m->settings.checkpoint != NULL)
    status = qb_shard_folder(m->settings.checkpoint, error);
  QB_TRY(qb_ranks_agree(status, error));
  for (int64_t round = 0; round * width < total; round++) {
    status = measure_round(m, round, error);
    QB_TRY(qb_ranks_agree(status, error));
  }
  QB_TRY(share_records(m, error));
  (void)qb_progress_report(m->progress, "measuring", total, total);
  return summarize(m, error);
}

qb_status qb_run_measure(const qb_graph *graph, const qb_graph *other, const qb_run_samples *samples,
                         const qb_run_measure_settings *settings, const qb_progress *progress,
                         qb_run_measure_info *info, qb_error *error) {
  *info = (qb_run_measure_info){0};
  QB_TRY(check(graph, other, samples, settings, error));
  measuring m = {.graphs = {graph, other},
                 .samples = samples,
                 .settings = *settings,
                 .progress = progress,
                 .info = info};
  if (m.settings.threads == 0)
    m.settings.threads = qb_ranks_cores(omp_get_num_procs());
  if (m.settings.batch > samples->count)
    m.settings.batch = (int32_t)samples->count;
  if (m.settings.batch > SHARD)
    m.settings.batch = SHARD;
  double start = qb_clock_seconds();
  qb_status status = measure_all(&m, error);
  for (int k = 0; k < NETWORKS; k++) {
    qb_run_free(m.runs[k]);
    qb_free(m.outputs[k]);
  }
  qb_free(m.input);
  if (status != QB_OK)
    qb_run_measure_info_free(info);
  else
    info->seconds = qb_clock_seconds() - start;
  return status;
}
