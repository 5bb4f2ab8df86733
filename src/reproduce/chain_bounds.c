/* Published bounds for every convention, and the figure that compares two of them. */
#include "reproduce/chain_bounds.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/model.h"
#include "base/alloc.h"
#include "base/error.h"
#include "bound/published.h"

/* --------------------------------------------------------------------------------------------------- conventions */

typedef struct chains {
  qb_chain chain[QB_CHAIN_CONVENTIONS];
  int count;
} chains;

static void free_chains(chains *c) {
  for (int i = 0; i < c->count; i++)
    qb_chain_free(&c->chain[i]);
}

static bool has_batch_norm(const qb_graph *graph) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (graph->nodes[n].op == QB_OP_BATCH_NORM)
      return true;
  return false;
}

/* Every choice of the three that leaves something out only where there is something. */
static qb_status extract_chains(const qb_graph *graph, bool drop_batch_norm, chains *c, qb_error *error) {
  for (int mask = 0; mask < 8; mask++) {
    qb_bound_conventions conventions = {.drop_bias = true,
                                        .drop_batch_norm = drop_batch_norm,
                                        .drop_downsample = (mask & 1) != 0,
                                        .drop_dense = (mask & 2) != 0,
                                        .width_channels = (mask & 4) != 0};
    qb_chain *chain = &c->chain[c->count++];
    QB_TRY(qb_chain_extract(graph, &conventions, chain, error));
    if ((conventions.drop_downsample && chain->dropped_downsamples == 0) ||
        (conventions.drop_dense && chain->dropped_dense == 0) || chain->count == 0)
      qb_chain_free(&c->chain[--c->count]);
  }
  return QB_OK;
}

void qb_chain_describe(const qb_bound_conventions *c, char *text, size_t size) {
  snprintf(text, size, "BatchNorm %s, shortcut convolutions %s, classifier %s, width in %s",
           c->drop_batch_norm ? "dropped" : "folded", c->drop_downsample ? "out" : "in", c->drop_dense ? "out" : "in",
           c->width_channels ? "channels" : "units");
}

/* ---------------------------------------------------------------------------------------------------------- bounds */

static qb_status fill_row(const qb_chain *chain, const qb_pair *pair, double radius, qb_chain_row *row,
                          qb_error *error) {
  qb_published p;
  QB_TRY(qb_published_bounds(chain, pair, radius, &p, error));
  const qb_bound *bounds[QB_CHAIN_BOUNDS] = {&p.prior, &p.general, &p.cnn, &p.chain_unsummed};
  row->conventions = chain->conventions;
  row->layers = chain->count;
  row->delta = p.delta;
  for (int b = 0; b < QB_CHAIN_BOUNDS; b++)
    row->log10[b] = bounds[b]->applies ? qb_magnitude_log10(bounds[b]->value) : NAN;
  return QB_OK;
}

/* Rows of one width; row i of convention k lies at (first + k) * bits_count + i. */
static qb_status fill_width(qb_reproducing *r, const qb_graph *graph, const chains *c, double radius, int bits,
                            int index, int first, qb_chain_table *table) {
  qb_graph quantized;
  qb_pair pair = {0};
  qb_status status = qb_reproduce_quantize(r, graph, bits, &quantized);
  if (status == QB_OK)
    status = qb_pair_match(graph, &quantized, &pair, r->error);
  for (int k = 0; k < c->count && status == QB_OK; k++) {
    qb_chain_row *row = &table->rows[(first + k) * table->bits_count + index];
    row->bits = bits;
    status = fill_row(&c->chain[k], &pair, radius, row, r->error);
  }
  qb_pair_free(&pair);
  qb_graph_free(&quantized);
  return status;
}

static qb_status fill_graph(qb_reproducing *r, qb_study_id id, const qb_graph *graph, bool drop_batch_norm,
                            const int *bits, qb_chain_table *table) {
  chains c = {.count = 0};
  qb_domain domain = {0};
  int first = table->count / table->bits_count;
  qb_status status = qb_reproduce_domain(r, id, graph, &domain);
  double radius = status == QB_OK ? qb_domain_radius(&domain) : 0;
  qb_domain_free(&domain);
  if (status == QB_OK)
    status = extract_chains(graph, drop_batch_norm, &c, r->error);
  for (int i = 0; i < table->bits_count && status == QB_OK; i++)
    status = fill_width(r, graph, &c, radius, bits[i], i, first, table);
  table->count += c.count * table->bits_count;
  free_chains(&c);
  return status;
}

qb_status qb_chain_table_fill(qb_reproducing *r, qb_study_id id, const qb_model *model, const int *bits, int bits_count,
                              qb_chain_table *table) {
  table->count = 0;
  table->bits_count = bits_count;
  QB_TRY(fill_graph(r, id, &model->graph, false, bits, table));
  return has_batch_norm(&model->read) ? fill_graph(r, id, &model->read, true, bits, table) : QB_OK;
}

double qb_chain_gap(const qb_chain_table *table, int convention, qb_chain_bound bound) {
  const qb_chain_row *rows = &table->rows[convention * table->bits_count];
  int nearest = 0;
  for (int i = 1; i < table->bits_count; i++)
    if (abs(rows[i].bits - 8) < abs(rows[nearest].bits - 8))
      nearest = i;
  return rows[nearest].log10[QB_CHAIN_PRIOR] - rows[nearest].log10[bound];
}

/* -------------------------------------------------------------------------------------------------------- the figure
 */

static void write_rows(FILE *stream, const qb_study *study, const qb_chain_table *table, qb_chain_bound bound,
                       int closest) {
  for (int i = 0; i < table->count; i++) {
    const qb_chain_row *row = &table->rows[i];
    const qb_bound_conventions *c = &row->conventions;
    fprintf(stream, "%s,%s,%s,%s,%s,%d,%d,%.9g,%.6f,%.6f,%.6f,%.6f,%.6f,%s\n", study->name,
            c->drop_batch_norm ? "drop" : "fold", c->drop_downsample ? "out" : "in", c->drop_dense ? "out" : "in",
            c->width_channels ? "channels" : "units", row->layers, row->bits, row->delta, row->log10[QB_CHAIN_PRIOR],
            row->log10[QB_CHAIN_GENERAL], row->log10[QB_CHAIN_CNN], row->log10[QB_CHAIN_UNSUMMED],
            row->log10[QB_CHAIN_PRIOR] - row->log10[bound], i / table->bits_count == closest ? "yes" : "no");
  }
}

/* The convention whose gap is closest to the paper's. */
static int find_closest(const qb_chain_table *table, const qb_gap_study *study, qb_chain_bound bound) {
  int closest = -1;
  for (int k = 0; k < table->count / table->bits_count; k++) {
    if (study->convolutional && !table->rows[k * table->bits_count].conventions.drop_dense)
      continue;
    if (closest < 0 ||
        fabs(qb_chain_gap(table, k, bound) - study->paper) < fabs(qb_chain_gap(table, closest, bound) - study->paper))
      closest = k;
  }
  return closest < 0 ? 0 : closest;
}

static void draw_gap(qb_drawing *drawing, const qb_study *study, const qb_chain_table *table, qb_chain_bound bound,
                     const char *bound_name, int closest) {
  char plain[64];
  snprintf(plain, sizeof plain, "%s, everything in", bound_name);
  qb_drawing_panel(drawing, study->name, (qb_plot_axis){.title = "bits of a weight"},
                   (qb_plot_axis){.title = "bound of the largest output change", .log = true});
  for (int i = 0; i < table->bits_count; i++) {
    const qb_chain_row *row = &table->rows[closest * table->bits_count + i], *all = &table->rows[i];
    qb_drawing_point(drawing, "prior", QB_LOOK_LINE, row->bits, row->log10[QB_CHAIN_PRIOR]);
    qb_drawing_point(drawing, bound_name, QB_LOOK_LINE, row->bits, row->log10[bound]);
    qb_drawing_point(drawing, "prior, everything in", QB_LOOK_DASHED, all->bits, all->log10[QB_CHAIN_PRIOR]);
    qb_drawing_point(drawing, plain, QB_LOOK_DASHED, all->bits, all->log10[bound]);
  }
}

static qb_status find_gap(qb_reproducing *r, const qb_gap_study *gap, const qb_chain_table *table, qb_chain_bound bound,
                          int closest) {
  char text[160];
  double least = INFINITY, most = -INFINITY;
  for (int k = 0; k < table->count / table->bits_count; k++) {
    least = fmin(least, qb_chain_gap(table, k, bound));
    most = fmax(most, qb_chain_gap(table, k, bound));
  }
  qb_chain_describe(&table->rows[closest * table->bits_count].conventions, text, sizeof text);
  const char *paper = qb_arena_format(&r->arena, "prior over new bound: about 1e%.0f%s", gap->paper,
                                      gap->convolutional ? ", convolutional part" : "");
  if (paper == NULL)
    return qb_fail_memory(r->error, "the report", 64);
  return qb_reproduce_find(r, qb_study_get(gap->id)->name, paper,
                           "1e%.1f at 8 bits with %s; the other conventions give 1e%.1f to 1e%.1f",
                           qb_chain_gap(table, closest, bound), text, least, most);
}

static qb_status add_study(qb_reproducing *r, const qb_gap_study *gap, qb_chain_bound bound, const char *bound_name,
                           qb_chain_table *table, FILE *stream, qb_drawing *drawing) {
  int bits[QB_REPRODUCE_BITS];
  const qb_model *model;
  QB_TRY(qb_reproduce_model(r, gap->id, &model));
  if (model == NULL)
    return QB_OK;
  QB_TRY(qb_chain_table_fill(r, gap->id, model, bits, qb_reproduce_bits(r, bits), table));
  int closest = find_closest(table, gap, bound);
  write_rows(stream, qb_study_get(gap->id), table, bound, closest);
  draw_gap(drawing, qb_study_get(gap->id), table, bound, bound_name, closest);
  return find_gap(r, gap, table, bound, closest);
}

static qb_status add_studies(qb_reproducing *r, const qb_gap_study *studies, int count, qb_chain_bound bound,
                             const char *bound_name, qb_chain_table *table, qb_drawing *drawing) {
  qb_output_file file;
  QB_TRY(qb_reproduce_table(r,
                            "network,batchnorm,downsample,classifier,width,layers,bits,delta,log10_prior,"
                            "log10_general,log10_cnn,log10_chain_unsummed,log10_gap,closest",
                            &file));
  qb_status status = QB_OK;
  for (int i = 0; i < count && status == QB_OK; i++) {
    status = qb_reproduce_step(r, i, count);
    if (status == QB_OK)
      status = add_study(r, &studies[i], bound, bound_name, table, file.stream, drawing);
  }
  if (status == QB_OK)
    return qb_reproduce_commit(r, &file);
  qb_output_discard(&file);
  return status;
}

qb_status qb_gap_figure(qb_reproducing *r, const qb_gap_study *studies, int count, qb_chain_bound bound,
                        const char *bound_name, const char *title) {
  qb_chain_table *table = qb_alloc(1, sizeof *table);
  qb_drawing *drawing = qb_drawing_create(title, "solid: the conventions closest to the paper's gap; no biases", 2);
  qb_status status = table == NULL || drawing == NULL
                         ? qb_fail_memory(r->error, "a figure", sizeof *drawing)
                         : add_studies(r, studies, count, bound, bound_name, table, drawing);
  if (status == QB_OK)
    status = qb_reproduce_picture(r, drawing);
  qb_drawing_free(drawing);
  qb_free(table);
  return status;
}
