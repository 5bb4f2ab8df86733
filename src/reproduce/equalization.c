/* Bounds before and after equalization, which leaves every network the same function. */
#include <math.h>
#include <stdio.h>

#include "api/model.h"
#include "base/error.h"
#include "graph/pass_equalize.h"
#include "reproduce/reproducing.h"

enum { KINDS = 3, WIDTHS = 2, SHOWN = 1 }; /* SHOWN: the width in the picture */
static const char *const kinds[KINDS] = {"none", "range", "l1"};
static const int widths[WIDTHS] = {4, 8};

typedef struct outcome {
  double delta, cnn, unsummed, layerwise; /* log10 of the bounds, NAN where they do not apply */
} outcome;

static double log_of(const qb_bound *bound) { return bound->applies ? qb_magnitude_log10(bound->value) : NAN; }

static qb_status bound_width(qb_reproducing *r, const qb_graph *graph, const qb_bounder *bounder, int bits,
                             outcome *result) {
  qb_graph quantized;
  qb_pair pair = {0};
  qb_bounds bounds;
  qb_status status = qb_reproduce_quantize(r, graph, bits, &quantized);
  if (status == QB_OK)
    status = qb_pair_match(graph, &quantized, &pair, r->error);
  if (status == QB_OK)
    status = qb_bounder_evaluate(bounder, &pair, &bounds, r->error);
  if (status == QB_OK)
    *result = (outcome){bounds.delta, log_of(&bounds.bound[QB_BOUND_CNN]),
                        log_of(&bounds.bound[QB_BOUND_CHAIN_UNSUMMED]), log_of(&bounds.bound[QB_BOUND_LAYERWISE])};
  qb_pair_free(&pair);
  qb_graph_free(&quantized);
  return status;
}

/* Bounds of the network behind one equalization, at every width. */
static qb_status bound_graph(qb_reproducing *r, const qb_graph *graph, const qb_domain *domain,
                             outcome results[WIDTHS]) {
  const qb_bound_conventions conventions = {.drop_bias = false};
  qb_bounder *bounder = NULL;
  QB_TRY(qb_bounder_create(graph, domain, &conventions, &bounder, r->error));
  qb_bounder_select(bounder, UINT32_C(1) << QB_BOUND_CNN | UINT32_C(1) << QB_BOUND_CHAIN_UNSUMMED |
                                 UINT32_C(1) << QB_BOUND_LAYERWISE);
  qb_status status = QB_OK;
  for (int b = 0; b < WIDTHS && status == QB_OK; b++)
    status = bound_width(r, graph, bounder, widths[b], &results[b]);
  qb_bounder_free(bounder);
  return status;
}

static qb_status bound_kind(qb_reproducing *r, const qb_model *model, const qb_domain *domain, int kind,
                            int64_t *channels, outcome results[WIDTHS]) {
  qb_graph graph = {0};
  qb_equalize_settings settings;
  qb_equalize_info info = {0};
  qb_equalize_settings_default(&settings);
  settings.kind = kind == 1 ? QB_EQUALIZE_RANGE : QB_EQUALIZE_L1;
  settings.input_magnitude = fmax(qb_domain_radius(domain), 1e-6);
  qb_status status = qb_graph_clone(&model->graph, &graph, r->error);
  if (status == QB_OK && kind > 0)
    status = qb_equalize(&graph, &settings, &info, r->error);
  if (status == QB_OK)
    status = bound_graph(r, &graph, domain, results);
  *channels = info.channels;
  qb_graph_free(&graph);
  return status;
}

static void write_rows(FILE *stream, const qb_study *study, int kind, int64_t channels, const outcome results[WIDTHS]) {
  for (int b = 0; b < WIDTHS; b++)
    fprintf(stream, "%s,%s,%lld,%d,%.9g,%.6f,%.6f,%.6f\n", study->name, kinds[kind], (long long)channels, widths[b],
            results[b].delta, results[b].cnn, results[b].unsummed, results[b].layerwise);
}

static qb_status add_study(qb_reproducing *r, qb_study_id id, const qb_model *model, FILE *stream,
                           outcome shown[KINDS]) {
  qb_domain domain = {0};
  outcome results[WIDTHS];
  int64_t channels;
  qb_status status = qb_reproduce_domain(r, id, &model->graph, &domain);
  for (int k = 0; k < KINDS && status == QB_OK; k++) {
    status = bound_kind(r, model, &domain, k, &channels, results);
    if (status == QB_OK) {
      write_rows(stream, qb_study_get(id), k, channels, results);
      shown[k] = results[SHOWN];
    }
  }
  qb_domain_free(&domain);
  if (status != QB_OK)
    return status;
  return qb_reproduce_find(r, qb_study_get(id)->name, "no number to compare with",
                           "8 bits, none / range / l1: Theorem 4.4 1e%.1f / 1e%.1f / 1e%.1f, layerwise 1e%.1f / 1e%.1f "
                           "/ 1e%.1f",
                           shown[0].cnn, shown[1].cnn, shown[2].cnn, shown[0].layerwise, shown[1].layerwise,
                           shown[2].layerwise);
}

typedef struct equalization {
  outcome shown[QB_STUDY_COUNT][KINDS];
  const char *names[QB_STUDY_COUNT];
  int count;
} equalization;

static void draw(qb_drawing *drawing, const equalization *e) {
  static const char *const looks[KINDS] = {"as trained", "range equalization", "l1 equalization"};
  const qb_plot_axis across = {.names = e->names, .name_count = e->count, .lo = -0.5, .hi = e->count - 0.5};
  for (int panel = 0; panel < 2; panel++) {
    qb_drawing_panel(drawing, panel == 0 ? "Theorem 4.4 (layers as a chain)" : "layerwise bound of the real network",
                     across, (qb_plot_axis){.title = "bound at 8 bits", .log = true});
    for (int k = 0; k < KINDS; k++)
      for (int i = 0; i < e->count; i++)
        qb_drawing_point(drawing, looks[k], QB_LOOK_POINTS, i + 0.18 * (k - 1),
                         panel == 0 ? e->shown[i][k].cnn : e->shown[i][k].layerwise);
  }
}

static qb_status add_studies(qb_reproducing *r, equalization *e) {
  qb_output_file file;
  QB_TRY(qb_reproduce_table(r,
                            "network,equalization,channels,bits,delta,log10_cnn,log10_chain_unsummed,log10_layerwise",
                            &file));
  qb_status status = QB_OK;
  for (int id = 0; id < QB_STUDY_COUNT && status == QB_OK; id++) {
    const qb_model *model = NULL;
    status = qb_reproduce_step(r, id, QB_STUDY_COUNT);
    if (status == QB_OK)
      status = qb_reproduce_model(r, (qb_study_id)id, &model);
    if (status != QB_OK || model == NULL)
      continue;
    status = add_study(r, (qb_study_id)id, model, file.stream, e->shown[e->count]);
    e->names[e->count++] = qb_study_get((qb_study_id)id)->brief;
  }
  if (status == QB_OK)
    return qb_reproduce_commit(r, &file);
  qb_output_discard(&file);
  return status;
}

qb_status qb_reproduce_equalization(qb_reproducing *r) {
  equalization e = {.count = 0};
  qb_drawing *drawing = qb_drawing_create("Bounds before and after equalization",
                                          "8 bits, one scale per tensor, factors that are powers of two", 1);
  if (drawing == NULL)
    return qb_fail_memory(r->error, "a figure", sizeof *drawing);
  qb_status status = add_studies(r, &e);
  if (status == QB_OK && e.count > 0) {
    draw(drawing, &e);
    drawing->figure.panel_width = 120 + 82 * e.count;
    status = qb_reproduce_picture(r, drawing);
  }
  qb_drawing_free(drawing);
  return status;
}
