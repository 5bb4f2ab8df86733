/* The axes of the paper with everything on them: its bounds, the bounds of the real network, the largest error that was
 * measured on images and the largest that a search has found, which is proved from below. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/model.h"
#include "api/open_data.h"
#include "base/alloc.h"
#include "base/error.h"
#include "reproduce/reproducing.h"
#include "search/search.h"

typedef struct subject {
  qb_study_id id;
  const char *methods; /* graph bounds that take seconds on this network */
} subject;

static const subject subjects[] = {{QB_STUDY_MLP5, "all"},
                                   {QB_STUDY_RESNET20, "all"},
                                   {QB_STUDY_MOBILENETV2, "layerwise,interval"}};
static const int widths[] = {2, 3, 4, 6, 8, 12, 16};
enum {
  SUBJECTS = sizeof subjects / sizeof *subjects,
  WIDTHS = sizeof widths / sizeof *widths,
  STEPS = SUBJECTS * (WIDTHS + 1),
  STARTS = 16 /* images that the search starts from */
};

typedef struct width {
  double delta, prior, general, cnn, layerwise, best; /* log10 of bounds */
  double measured, mean, lower;
  int64_t images;
} width;

static double log_of(const qb_bound_row *row, const char *name) {
  for (int i = 0; i < row->count; i++)
    if (strcmp(row->bounds[i].name, name) == 0 && row->bounds[i].applies)
      return row->bounds[i].log10;
  return NAN;
}

static qb_status bound_widths(qb_reproducing *r, const subject *s, const qb_model *model, width results[WIDTHS]) {
  qb_bound_settings settings;
  qb_bound_report report;
  qb_bound_settings_default(&settings);
  settings.bits = widths;
  settings.bits_count = WIDTHS;
  settings.preprocess = qb_study_get(s->id)->preprocess;
  settings.methods = s->methods;
  QB_TRY(qb_bound_sweep(model, &settings, &r->inner, &report, r->error));
  for (int i = 0; i < WIDTHS; i++) {
    const qb_bound_row *row = &report.rows[i];
    results[i] = (width){.delta = row->delta,
                         .prior = log_of(row, "prior"),
                         .general = log_of(row, "general"),
                         .cnn = log_of(row, "cnn"),
                         .layerwise = log_of(row, "layerwise"),
                         .best = log_of(row, "best")};
  }
  qb_bound_report_free(&report);
  return QB_OK;
}

/* Some images in memory; the first is replaced by the one with the largest error. */
typedef struct starts {
  qb_dataset *dataset;
  float *samples;
  int64_t count;
} starts;

static qb_status read_starts(const qb_data *data, const qb_model *model, starts *s, qb_error *error) {
  QB_TRY(qb_data_open(data, "searching", &s->dataset, error));
  QB_TRY(qb_data_check_fit(s->dataset, model, "searching", error));
  qb_shape shape = qb_dataset_shape(s->dataset);
  size_t elements = qb_shape_elements(&shape);
  s->count = qb_dataset_count(s->dataset) < STARTS ? qb_dataset_count(s->dataset) : STARTS;
  s->samples = qb_alloc((size_t)s->count * elements, sizeof *s->samples);
  if (s->samples == NULL)
    return qb_fail_memory(error, data->path, (size_t)s->count * elements * sizeof *s->samples);
  for (int64_t i = 0; i < s->count; i++)
    QB_TRY(qb_dataset_read(s->dataset, i, s->samples + (size_t)i * elements, error));
  return QB_OK;
}

static void free_starts(starts *s) {
  qb_dataset_free(s->dataset);
  qb_free(s->samples);
}

static qb_status search(qb_reproducing *r, const qb_model *model, const qb_model *quantized, const qb_domain *domain,
                        const starts *s, double *lower) {
  qb_search_settings settings;
  qb_search_result result = {0};
  qb_search_settings_default(&settings);
  settings.macs = r->settings->quick ? 2e10 : 1e11;
  settings.seed = r->settings->seed;
  settings.data = s->samples;
  settings.data_count = s->count;
  qb_status status =
      qb_search_lower(&model->graph, &quantized->graph, domain->lo, domain->hi, &settings, NULL, &result, r->error);
  *lower = result.lower;
  qb_search_result_free(&result);
  return status;
}

static qb_status measure_width(qb_reproducing *r, const qb_model *model, const qb_data *data, const qb_domain *domain,
                               const starts *s, int bits, width *result) {
  qb_quantize_settings settings;
  qb_measure_settings how;
  qb_measurement measured;
  qb_model *quantized = NULL;
  qb_quantize_settings_default(&settings);
  qb_measure_settings_default(&how);
  settings.bits = bits;
  settings.granularity = QB_PER_TENSOR;
  QB_TRY(qb_quantize(model, &settings, NULL, &quantized, NULL, r->error));
  qb_status status = qb_measure(model, quantized, data, &how, &r->inner, &measured, r->error);
  if (status == QB_OK) {
    result->measured = measured.error_max;
    result->mean = measured.error_mean;
    result->images = measured.images;
    status = qb_dataset_read(s->dataset, measured.error_argmax, s->samples, r->error);
    qb_measurement_free(&measured);
  }
  if (status == QB_OK)
    status = search(r, model, quantized, domain, s, &result->lower);
  qb_model_free(quantized);
  return status;
}

static qb_status measure_widths(qb_reproducing *r, int index, const qb_model *model, const qb_data *data,
                                width results[WIDTHS]) {
  qb_domain domain = {0};
  starts s = {0};
  qb_status status = qb_reproduce_domain(r, subjects[index].id, &model->graph, &domain);
  if (status == QB_OK)
    status = read_starts(data, model, &s, r->error);
  for (int i = 0; i < WIDTHS && status == QB_OK; i++) {
    status = qb_reproduce_step(r, index * (WIDTHS + 1) + 1 + i, STEPS);
    if (status == QB_OK)
      status = measure_width(r, model, data, &domain, &s, widths[i], &results[i]);
  }
  free_starts(&s);
  qb_domain_free(&domain);
  return status;
}

static void write_rows(FILE *stream, const qb_study *study, const width results[WIDTHS]) {
  for (int i = 0; i < WIDTHS; i++) {
    const width *w = &results[i];
    fprintf(stream, "%s,%d,%.9g,%.6f,%.6f,%.6f,%.6f,%.6f,%lld,%.9g,%.9g,%.9g\n", study->name, widths[i], w->delta,
            w->prior, w->general, w->cnn, w->layerwise, w->best, (long long)w->images, w->measured, w->mean, w->lower);
  }
}

static void draw(qb_drawing *drawing, const qb_study *study, const width results[WIDTHS]) {
  qb_drawing_panel(drawing, study->name, (qb_plot_axis){.title = "bits of a weight"},
                   (qb_plot_axis){.title = "largest change of an output", .log = true});
  for (int i = 0; i < WIDTHS; i++) {
    const width *w = &results[i];
    qb_drawing_point(drawing, "prior bound (chain)", QB_LOOK_LINE, widths[i], w->prior);
    qb_drawing_point(drawing, "Theorem 4.1 (chain)", QB_LOOK_LINE, widths[i], w->general);
    qb_drawing_point(drawing, "Theorem 4.4 (chain)", QB_LOOK_LINE, widths[i], w->cnn);
    qb_drawing_point(drawing, "layerwise (real network)", QB_LOOK_LINE, widths[i], w->layerwise);
    qb_drawing_point(drawing, "best proof (real network)", QB_LOOK_LINE, widths[i], w->best);
    qb_drawing_point(drawing, "found by search, proved from below", QB_LOOK_DASHED, widths[i],
                     w->lower > 0 ? log10(w->lower) : NAN);
    qb_drawing_point(drawing, "measured on images", QB_LOOK_DASHED, widths[i],
                     w->measured > 0 ? log10(w->measured) : NAN);
  }
}

static qb_status find(qb_reproducing *r, const qb_study *study, const width results[WIDTHS]) {
  int i = 0;
  while (i < WIDTHS - 1 && widths[i] != 8)
    i++;
  const width *w = &results[i];
  char found[96] = "no input could be proved to err, the rounding radius is larger";
  if (w->lower > 0)
    snprintf(found, sizeof found, "some input errs by %.3g, proved", w->lower);
  return qb_reproduce_find(r, study->name, "no number to compare with",
                           "8 bits: prior 1e%.1f, Theorem 4.1 1e%.1f, Theorem 4.4 1e%.1f, best proof of the real "
                           "network %.3g; %s; %lld images err by at most %.3g",
                           w->prior, w->general, w->cnn, pow(10, w->best), found, (long long)w->images, w->measured);
}

static qb_status add_subject(qb_reproducing *r, int index, FILE *stream, qb_drawing *drawing) {
  const qb_study *study = qb_study_get(subjects[index].id);
  width results[WIDTHS];
  const qb_model *model;
  qb_data data;
  bool there;
  QB_TRY(qb_reproduce_step(r, index * (WIDTHS + 1), STEPS));
  QB_TRY(qb_reproduce_model(r, subjects[index].id, &model));
  QB_TRY(qb_reproduce_images(r, subjects[index].id, false, &data, &there));
  if (model == NULL || !there)
    return QB_OK;
  if (data.samples > 200 && r->settings->samples == 0)
    data.samples = 200; /* both networks run, at every width */
  QB_TRY(bound_widths(r, &subjects[index], model, results));
  QB_TRY(measure_widths(r, index, model, &data, results));
  write_rows(stream, study, results);
  draw(drawing, study, results);
  return find(r, study, results);
}

static qb_status add_subjects(qb_reproducing *r, qb_drawing *drawing) {
  qb_output_file file;
  QB_TRY(qb_reproduce_table(r,
                            "network,bits,delta,log10_prior,log10_general,log10_cnn,log10_layerwise,log10_best,images,"
                            "measured_max,measured_mean,search_lower",
                            &file));
  qb_status status = QB_OK;
  for (int i = 0; i < SUBJECTS && status == QB_OK; i++)
    status = add_subject(r, i, file.stream, drawing);
  if (status == QB_OK)
    return qb_reproduce_commit(r, &file);
  qb_output_discard(&file);
  return status;
}

qb_status qb_reproduce_beyond(qb_reproducing *r) {
  qb_drawing *drawing =
      qb_drawing_create("What is proved and what is true", "inputs: every image; one scale per tensor, biases kept", 3);
  if (drawing == NULL)
    return qb_fail_memory(r->error, "a figure", sizeof *drawing);
  qb_status status = add_subjects(r, drawing);
  if (status == QB_OK)
    status = qb_reproduce_picture(r, drawing);
  qb_drawing_free(drawing);
  return status;
}
