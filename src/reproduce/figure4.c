/* Figure 4: top-1 against bits and against the size of the weights, for every way of rounding. */
#include <math.h>
#include <stdio.h>

#include "api/model.h"
#include "base/error.h"
#include "reproduce/reproducing.h"

typedef struct way {
  const char *name, *scheme, *granularity; /* the first in the legend, the others in the table */
  qb_scheme how;
  qb_granularity scales;
  qb_grid_choice grid;
} way;

/* The paper's three, one scale per tensor each; the last is what one would use. */
static const way ways[] = {
    {"round (power-of-two scale)", "round", "tensor", QB_SCHEME_ROUND, QB_PER_TENSOR, QB_GRID_MINMAX},
    {"uniform", "uniform", "tensor", QB_SCHEME_UNIFORM, QB_PER_TENSOR, QB_GRID_MINMAX},
    {"AdaRound", "adaround", "tensor", QB_SCHEME_ADAROUND, QB_PER_TENSOR, QB_GRID_MSE},
    {"AdaRound, a scale per channel", "adaround", "channel", QB_SCHEME_ADAROUND, QB_PER_CHANNEL, QB_GRID_MSE},
};
static const int widths[] = {2, 3, 4, 6, 8};
static const qb_study_id studies[] = {QB_STUDY_TINY_MOBILENETV2, QB_STUDY_TINY_RESNET18, QB_STUDY_MOBILENETV2,
                                      QB_STUDY_RESNET18,         QB_STUDY_SQUEEZENET,    QB_STUDY_RESNET20,
                                      QB_STUDY_RESNET56};
enum {
  WAYS = sizeof ways / sizeof *ways,
  WIDTHS = sizeof widths / sizeof *widths,
  STUDIES = sizeof studies / sizeof *studies,
  STEPS = STUDIES * (WAYS * WIDTHS + 1)
};

typedef struct figure4 {
  qb_reproducing *r;
  qb_study_id id;
  const qb_model *model;
  qb_data data, calibration;
  bool calibrated;
  double accuracy;            /* of the float network */
  double top1[WAYS][WIDTHS];  /* NAN: not measured */
  double bytes[WAYS][WIDTHS]; /* weights, scales and biases */
  double float_bytes;
  FILE *stream;
} figure4;

static double bias_bytes(const qb_model *model) {
  double bytes = 0;
  for (int i = 0; i < model->layer_count; i++) {
    qb_linear linear;
    if (qb_graph_linear(&model->graph, model->layers[i], &linear) && linear.bias != QB_NONE)
      bytes += 4.0 * (double)linear.out_channels;
  }
  return bytes;
}

static double weight_bytes(const qb_quantize_info *info, bool quantized) {
  double bytes = 0;
  for (int i = 0; i < info->layer_count; i++)
    bytes += quantized              ? (double)qb_quantize_layer_bytes(&info->layers[i], false)
             : info->layers[i].tied ? 0
                                    : 4.0 * (double)info->layers[i].weights;
  return bytes;
}

static qb_status accuracy(const figure4 *f, const qb_model *model, double *top1) {
  qb_measure_settings settings;
  qb_measurement measured;
  qb_measure_settings_default(&settings);
  QB_TRY(qb_measure(model, NULL, &f->data, &settings, &f->r->inner, &measured, f->r->error));
  *top1 = measured.model.top1;
  qb_measurement_free(&measured);
  return QB_OK;
}

static qb_status measure_one(figure4 *f, int w, int b) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = widths[b];
  settings.scheme = ways[w].how;
  settings.granularity = ways[w].scales;
  settings.grid = ways[w].grid;
  settings.seed = f->r->settings->seed;
  if (ways[w].how == QB_SCHEME_ADAROUND)
    settings.calibration_data = &f->calibration;
  qb_model *quantized = NULL;
  qb_quantize_info info = {0};
  QB_TRY(qb_quantize(f->model, &settings, &f->r->inner, &quantized, &info, f->r->error));
  f->bytes[w][b] = weight_bytes(&info, true) + bias_bytes(f->model);
  f->float_bytes = weight_bytes(&info, false) + bias_bytes(f->model);
  qb_quantize_info_free(&info);
  qb_status status = accuracy(f, quantized, &f->top1[w][b]);
  qb_model_free(quantized);
  return status;
}

/* AdaRound takes minutes on a large network: where it and the nearest codes agree it is left out, and more so there. */
static bool left_out(const figure4 *f, int w, int bits) {
  bool large = f->id == QB_STUDY_RESNET18 || f->id == QB_STUDY_TINY_RESNET18;
  if (f->r->settings->quick && (bits == 3 || bits == 6 || w == WAYS - 1))
    return true;
  if (ways[w].how != QB_SCHEME_ADAROUND)
    return false;
  return !f->calibrated || (large && (ways[w].scales == QB_PER_CHANNEL || bits < 3 || bits > 4)) ||
         (ways[w].scales == QB_PER_CHANNEL && bits > 4);
}

static qb_status measure_all(figure4 *f, int first_step) {
  QB_TRY(qb_reproduce_step(f->r, first_step, STEPS));
  QB_TRY(accuracy(f, f->model, &f->accuracy));
  for (int w = 0; w < WAYS; w++)
    for (int b = 0; b < WIDTHS; b++) {
      f->top1[w][b] = NAN;
      QB_TRY(qb_reproduce_step(f->r, first_step + 1 + w * WIDTHS + b, STEPS));
      if (!left_out(f, w, widths[b]))
        QB_TRY(measure_one(f, w, b));
    }
  return QB_OK;
}

static void write_rows(const figure4 *f) {
  const qb_study *study = qb_study_get(f->id);
  fprintf(f->stream, "%s,float,none,32,%.0f,%.6f,0\n", study->name, f->float_bytes, f->accuracy);
  for (int w = 0; w < WAYS; w++)
    for (int b = 0; b < WIDTHS; b++)
      if (!isnan(f->top1[w][b]))
        fprintf(f->stream, "%s,%s,%s,%d,%.0f,%.6f,%.6f\n", study->name, ways[w].scheme, ways[w].granularity, widths[b],
                f->bytes[w][b], f->top1[w][b], f->top1[w][b] - f->accuracy);
}

static void draw(const figure4 *f, qb_drawing *drawing, bool by_size) {
  static const qb_plot_axis share = {.title = "top-1 (%)"};
  qb_drawing_panel(drawing, qb_study_get(f->id)->name,
                   (qb_plot_axis){.title = by_size ? "size of the weights (MB)" : "bits of a weight"}, share);
  for (int w = 0; w < WAYS; w++)
    for (int b = 0; b < WIDTHS; b++)
      if (!isnan(f->top1[w][b]))
        qb_drawing_point(drawing, ways[w].name, QB_LOOK_LINE, by_size ? f->bytes[w][b] / 1e6 : widths[b],
                         100 * f->top1[w][b]);
  double from = by_size ? f->bytes[1][0] / 1e6 : widths[0], to = by_size ? f->bytes[1][WIDTHS - 1] / 1e6 : 8;
  qb_drawing_point(drawing, "float", QB_LOOK_PLAIN_LINE, from, 100 * f->accuracy);
  qb_drawing_point(drawing, "float", QB_LOOK_PLAIN_LINE, to, 100 * f->accuracy);
}

/* The fewest bits at which a way loses at most one point; 0: none of them. */
static int enough(const figure4 *f, int w) {
  for (int b = 0; b < WIDTHS; b++)
    if (f->top1[w][b] >= f->accuracy - 0.01)
      return widths[b];
  return 0;
}

static qb_status find(const figure4 *f) {
  static const char paper[] = "top-1 of round, uniform and AdaRound, other weights: no number to compare with";
  char parts[WAYS][16];
  for (int w = 0; w < WAYS; w++) {
    if (enough(f, w) > 0)
      snprintf(parts[w], sizeof parts[w], "%d", enough(f, w));
    else
      snprintf(parts[w], sizeof parts[w],
               isnan(f->top1[w][2])            ? "not run"
               : isnan(f->top1[w][WIDTHS - 1]) ? "more than 4"
                                               : "more than 8");
  }
  return qb_reproduce_find(f->r, qb_study_get(f->id)->name, paper,
                           "float %.2f %%; bits that lose at most one point: round %s, uniform %s, AdaRound %s, with a "
                           "scale per channel %s",
                           100 * f->accuracy, parts[0], parts[1], parts[2], parts[3]);
}

static qb_status add_study(figure4 *f, int index, qb_drawing *drawing) {
  bool there, calibration;
  f->id = studies[index];
  QB_TRY(qb_reproduce_model(f->r, f->id, &f->model));
  QB_TRY(qb_reproduce_images(f->r, f->id, false, &f->data, &there));
  QB_TRY(qb_reproduce_images(f->r, f->id, true, &f->calibration, &calibration));
  if (f->model == NULL || !there)
    return QB_OK;
  f->calibrated = calibration;
  QB_TRY(measure_all(f, index * (WAYS * WIDTHS + 1)));
  write_rows(f);
  draw(f, drawing, false);
  draw(f, drawing, true);
  return find(f);
}

static qb_status add_studies(qb_reproducing *r, qb_drawing *drawing) {
  qb_output_file file;
  figure4 f = {.r = r};
  QB_TRY(qb_reproduce_table(r, "network,scheme,granularity,bits,bytes,top1,change", &file));
  f.stream = file.stream;
  qb_status status = QB_OK;
  for (int i = 0; i < STUDIES && status == QB_OK; i++) {
    bool skipped = r->settings->quick && (studies[i] == QB_STUDY_RESNET18 || studies[i] == QB_STUDY_TINY_RESNET18);
    status = skipped ? QB_OK : add_study(&f, i, drawing);
  }
  if (status == QB_OK)
    return qb_reproduce_commit(r, &file);
  qb_output_discard(&file);
  return status;
}

qb_status qb_reproduce_figure4(qb_reproducing *r) {
  qb_drawing *drawing = qb_drawing_create("Figure 4: accuracy of quantized networks",
                                          "weights only; one scale per tensor where nothing else is said", 4);
  if (drawing == NULL)
    return qb_fail_memory(r->error, "a figure", sizeof *drawing);
  drawing->figure.panel_width = 330;
  drawing->figure.panel_height = 270;
  qb_status status = add_studies(r, drawing);
  if (status == QB_OK)
    status = qb_reproduce_picture(r, drawing);
  qb_drawing_free(drawing);
  return status;
}
