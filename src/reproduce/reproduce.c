/* qb_reproduce: the figures in order, with one progress for all. */
#include "reproduce/reproducing.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/input_domain.h"
#include "api/model.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/progress.h"
#include "quant/quant.h"

/* The seconds are measured on two cores; they serve the time left alone. */
static const struct {
  const char *name;
  qb_status (*run)(qb_reproducing *r);
  double seconds;
} figures[] = {
    {"figure1", qb_reproduce_figure1, 10}, {"figure2", qb_reproduce_figure2, 3},
    {"figure3", qb_reproduce_figure3, 20}, {"figure4", qb_reproduce_figure4, 1200},
    {"figure5", qb_reproduce_figure5, 3},  {"equalization", qb_reproduce_equalization, 30},
    {"beyond", qb_reproduce_beyond, 200},
};
enum { FIGURE_COUNT = sizeof figures / sizeof *figures };

const char *qb_reproduce_name(int index) { return index >= 0 && index < FIGURE_COUNT ? figures[index].name : NULL; }

void qb_reproduce_settings_default(qb_reproduce_settings *settings) {
  *settings = (qb_reproduce_settings){.name = "all"};
}

/* -------------------------------------------------------------------------------------------------------- progress */

static bool report(qb_reproducing *r, double within) {
  double reached = r->before + r->cost * (r->step + within) / r->steps;
  if (reached > r->reached) /* stages within a step begin anew */
    r->reached = reached;
  return qb_progress_report(r->progress, "reproducing", (int64_t)(r->reached * 100), (int64_t)(r->total * 100));
}

static bool report_inner(void *context, const char *what, int64_t done, int64_t total) {
  (void)what;
  return report(context, total > 0 ? 0.9 * (double)done / (double)total : 0);
}

qb_status qb_reproduce_step(qb_reproducing *r, int step, int steps) {
  r->step = step;
  r->steps = steps;
  return report(r, 0) ? QB_OK : qb_fail(r->error, QB_ERROR_INTERRUPTED, "reproducing was stopped");
}

/* ------------------------------------------------------------------------------------------------ what is missing */

static bool readable(const char *path) { return access(path, R_OK) == 0; }

/* Notes it once. */
static qb_status note_missing(qb_reproducing *r, const qb_study *study, bool images, const char *path) {
  char how[1024];
  for (int i = 0; i < r->result->missing_count; i++)
    if (strcmp(r->missing[i].path, path) == 0)
      return QB_OK;
  if (r->result->missing_count == QB_REPRODUCE_LIMIT)
    return QB_OK;
  qb_study_how(study, images, r->settings->data, path, how, sizeof how);
  qb_reproduce_missing *missing = &r->missing[r->result->missing_count++];
  missing->path = path;
  missing->how = qb_arena_format(&r->arena, "%s", how);
  return missing->how != NULL ? QB_OK : qb_fail_memory(r->error, "the report", sizeof how);
}

qb_status qb_reproduce_model(qb_reproducing *r, qb_study_id id, const qb_model **model) {
  const qb_study *study = qb_study_get(id);
  *model = r->models[id];
  if (*model != NULL)
    return QB_OK;
  const char *path = qb_arena_format(&r->arena, "%s/%s", r->settings->data, study->file);
  if (path == NULL)
    return qb_fail_memory(r->error, "a path", strlen(study->file));
  if (!readable(path))
    return note_missing(r, study, false, path);
  QB_TRY(qb_model_load(path, &r->models[id], r->error));
  *model = r->models[id];
  return QB_OK;
}

qb_status qb_reproduce_images(qb_reproducing *r, qb_study_id id, bool calibrate, qb_data *data, bool *there) {
  enum { CALIBRATION = 64, QUICK = 100 };
  const qb_study *study = qb_study_get(id);
  const char *name = calibrate ? study->calibration : study->images;
  qb_data_default(data);
  data->path = qb_arena_format(&r->arena, "%s/%s", r->settings->data, name);
  if (data->path == NULL)
    return qb_fail_memory(r->error, "a path", strlen(name));
  data->preprocess = study->preprocess;
  data->skip = calibrate ? 0 : study->skip;
  data->samples = calibrate                  ? CALIBRATION
                  : r->settings->samples > 0 ? r->settings->samples
                  : r->settings->quick       ? QUICK
                                             : study->samples;
  *there = readable(data->path);
  return *there ? QB_OK : note_missing(r, study, true, data->path);
}

/* ---------------------------------------------------------------------------------------- tables, pictures, findings
 */

static const char *output_path(qb_reproducing *r, const char *ending) {
  return qb_arena_format(&r->arena, "%s/%s.%s", r->settings->output, r->figure, ending);
}

static void note_file(qb_reproducing *r, const char *path) {
  if (r->result->file_count < QB_REPRODUCE_LIMIT)
    r->files[r->result->file_count++] = path;
}

qb_status qb_reproduce_table(qb_reproducing *r, const char *header, qb_output_file *file) {
  *file = (qb_output_file){0};
  const char *path = output_path(r, "csv");
  if (path == NULL)
    return qb_fail_memory(r->error, "a path", 64);
  QB_TRY(qb_output_open(file, path, r->error));
  fprintf(file->stream, "%s\n", header);
  return QB_OK;
}

qb_status qb_reproduce_commit(qb_reproducing *r, qb_output_file *file) {
  const char *path = output_path(r, "csv");
  QB_TRY(qb_output_commit(file, r->error));
  if (path == NULL)
    return qb_fail_memory(r->error, "a path", 64);
  note_file(r, path);
  return QB_OK;
}

qb_status qb_reproduce_picture(qb_reproducing *r, const qb_drawing *drawing) {
  if (!qb_drawing_has_points(drawing))
    return QB_OK;
  const char *svg = output_path(r, "svg"), *png = output_path(r, "png");
  if (svg == NULL || png == NULL)
    return qb_fail_memory(r->error, "a path", 64);
  QB_TRY(qb_drawing_save(drawing, svg, png, r->error));
  note_file(r, svg);
  note_file(r, png);
  return QB_OK;
}

qb_status qb_reproduce_find(qb_reproducing *r, const char *subject, const char *paper, const char *measured, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, measured);
  vsnprintf(text, sizeof text, measured, arguments);
  va_end(arguments);
  if (r->result->finding_count == QB_REPRODUCE_LIMIT)
    return QB_OK;
  const char *copy = qb_arena_format(&r->arena, "%s", text);
  if (copy == NULL)
    return qb_fail_memory(r->error, "the report", sizeof text);
  r->findings[r->result->finding_count++] = (qb_reproduce_finding){r->figure, subject, paper, copy};
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------ networks for the figures
 */

int qb_reproduce_bits(const qb_reproducing *r, int bits[QB_REPRODUCE_BITS]) {
  int count = 0;
  for (int b = QB_MIN_BITS; b <= QB_MAX_BITS; b++)
    if (!r->settings->quick || b == 2 || b == 4 || b == 8 || b == 16)
      bits[count++] = b;
  return count;
}

qb_status qb_reproduce_quantize(qb_reproducing *r, const qb_graph *graph, int bits, qb_graph *quantized) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = bits;
  settings.granularity = QB_PER_TENSOR;
  qb_quantize_info info = {0};
  *quantized = (qb_graph){0};
  QB_TRY(qb_graph_clone(graph, quantized, r->error));
  qb_status status = qb_quantize_weights(quantized, &settings, NULL, &info, r->error);
  qb_quantize_info_free(&info);
  return status;
}

qb_status qb_reproduce_domain(qb_reproducing *r, qb_study_id id, const qb_graph *graph, qb_domain *domain) {
  const qb_inputs inputs = {.kind = QB_DOMAIN_PIXELS, .preprocess = qb_study_get(id)->preprocess};
  return qb_domain_make(graph, &inputs, domain, r->error);
}

/* --------------------------------------------------------------------------------------------------------- the call */

static bool chosen(const qb_reproduce_settings *settings, int figure) {
  return strcmp(settings->name, "all") == 0 || strcmp(settings->name, figures[figure].name) == 0;
}

static qb_status check_settings(const qb_reproduce_settings *settings, qb_error *error) {
  struct stat status;
  bool known = settings->name != NULL && strcmp(settings->name, "all") == 0;
  for (int i = 0; i < FIGURE_COUNT && settings->name != NULL; i++)
    known = known || strcmp(settings->name, figures[i].name) == 0;
  if (!known)
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "there is no figure '%s': choose figure1 to figure5, equalization, beyond or all",
                   settings->name != NULL ? settings->name : "");
  if (settings->output == NULL || settings->data == NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "reproducing needs a folder to write to and one with networks and data");
  if (settings->samples < 0)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%lld samples: choose at least 1", (long long)settings->samples);
  if (stat(settings->data, &status) != 0 || !S_ISDIR(status.st_mode))
    return qb_fail(error, QB_ERROR_IO,
                   "%s: is not a folder of networks and data (docs/reproduce.md says what belongs there)",
                   settings->data);
  if (mkdir(settings->output, 0777) != 0 && errno != EEXIST)
    return qb_fail(error, QB_ERROR_IO, "%s: the folder cannot be made: %s", settings->output, strerror(errno));
  return QB_OK;
}

static qb_status run_figures(qb_reproducing *r) {
  for (int i = 0; i < FIGURE_COUNT; i++)
    r->total += chosen(r->settings, i) ? figures[i].seconds : 0;
  for (int i = 0; i < FIGURE_COUNT; i++) {
    if (!chosen(r->settings, i))
      continue;
    r->figure = figures[i].name;
    r->cost = figures[i].seconds;
    QB_TRY(qb_reproduce_step(r, 0, 1));
    QB_TRY(figures[i].run(r));
    r->before += r->cost;
  }
  return QB_OK;
}

qb_status qb_reproduce(const qb_reproduce_settings *settings, const qb_progress *progress,
                       qb_reproduction *reproduction, qb_error *error) {
  *reproduction = (qb_reproduction){0};
  QB_TRY(check_settings(settings, error));
  double start = qb_clock_seconds();
  qb_reproducing *r = qb_alloc(1, sizeof *r);
  if (r == NULL)
    return qb_fail_memory(error, "the report", sizeof *r);
  r->settings = settings;
  r->progress = progress;
  r->inner = (qb_progress){report_inner, r};
  r->result = reproduction;
  r->error = error;
  qb_arena_init(&r->arena);
  *reproduction = (qb_reproduction){.findings = r->findings, .files = r->files, .missing = r->missing, .storage = r};
  int threads = qb_threads_begin(settings->threads);
  qb_status status = run_figures(r);
  qb_threads_end(threads);
  for (int i = 0; i < QB_STUDY_COUNT; i++) {
    qb_model_free(r->models[i]);
    r->models[i] = NULL;
  }
  reproduction->seconds = qb_clock_seconds() - start;
  if (status != QB_OK)
    qb_reproduction_free(reproduction);
  return status;
}

void qb_reproduction_free(qb_reproduction *reproduction) {
  if (reproduction == NULL || reproduction->storage == NULL)
    return;
  qb_reproducing *r = reproduction->storage;
  qb_arena_free(&r->arena);
  qb_free(r);
  *reproduction = (qb_reproduction){0};
}
