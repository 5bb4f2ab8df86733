/* Figure 5: perceptrons on MNIST. The ratio of the two bounds against depth, both bounds against bits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/model.h"
#include "base/alloc.h"
#include "base/error.h"
#include "reproduce/chain_bounds.h"

enum { DEPTHS = 4 };
static const qb_study_id studies[DEPTHS] = {QB_STUDY_MLP5, QB_STUDY_MLP7, QB_STUDY_MLP9, QB_STUDY_MLP11};

typedef struct depth {
  bool there;
  double gap; /* decades, at 8 bits */
  qb_chain_table *table;
} depth;

static void write_rows(FILE *stream, int layers, const qb_chain_table *table) {
  for (int i = 0; i < table->bits_count; i++) {
    const qb_chain_row *row = &table->rows[i];
    fprintf(stream, "%d,%d,%.9g,%.6f,%.6f,%.6f\n", layers, row->bits, row->delta, row->log10[QB_CHAIN_PRIOR],
            row->log10[QB_CHAIN_GENERAL], row->log10[QB_CHAIN_PRIOR] - row->log10[QB_CHAIN_GENERAL]);
  }
}

static qb_status measure(qb_reproducing *r, int i, FILE *stream, depth *d) {
  int bits[QB_REPRODUCE_BITS];
  const qb_model *model;
  QB_TRY(qb_reproduce_step(r, i, DEPTHS));
  QB_TRY(qb_reproduce_model(r, studies[i], &model));
  if (model == NULL)
    return QB_OK;
  QB_TRY(qb_chain_table_fill(r, studies[i], model, bits, qb_reproduce_bits(r, bits), d->table));
  d->there = true;
  d->gap = qb_chain_gap(d->table, 0, QB_CHAIN_GENERAL);
  write_rows(stream, qb_study_get(studies[i])->depth, d->table);
  return QB_OK;
}

static void draw(qb_drawing *drawing, const depth depths[DEPTHS]) {
  char name[QB_DRAWING_NAME];
  drawing->colour = DEPTHS; /* one colour for each depth, this one for their ratio */
  qb_drawing_panel(drawing, "ratio of the bounds at 8 bits", (qb_plot_axis){.title = "layers"},
                   (qb_plot_axis){.title = "prior bound / new bound", .log = true});
  for (int i = 0; i < DEPTHS; i++)
    if (depths[i].there)
      qb_drawing_point(drawing, "ratio of the bounds", QB_LOOK_LINE, qb_study_get(studies[i])->depth, depths[i].gap);
  qb_drawing_panel(drawing, "both bounds", (qb_plot_axis){.title = "bits of a weight"},
                   (qb_plot_axis){.title = "bound of the largest output change", .log = true});
  for (int i = 0; i < DEPTHS; i++)
    for (int b = 0; depths[i].there && b < 2 * depths[i].table->bits_count; b++) {
      const qb_chain_row *row = &depths[i].table->rows[b / 2];
      drawing->colour = i;
      snprintf(name, sizeof name, "%s, %d layers", b % 2 == 0 ? "prior" : "new", qb_study_get(studies[i])->depth);
      qb_drawing_point(drawing, name, b % 2 == 0 ? QB_LOOK_DASHED : QB_LOOK_LINE, row->bits,
                       row->log10[b % 2 == 0 ? QB_CHAIN_PRIOR : QB_CHAIN_GENERAL]);
    }
}

static qb_status find(qb_reproducing *r, const depth depths[DEPTHS]) {
  char text[256] = "";
  int used = 0;
  for (int i = 0; i < DEPTHS; i++)
    if (depths[i].there)
      used += snprintf(text + used, sizeof text - (size_t)used, "%s1e%.2f for %d layers", used > 0 ? ", " : "",
                       depths[i].gap, qb_study_get(studies[i])->depth);
  return used == 0 ? QB_OK
                   : qb_reproduce_find(r, "perceptrons (MNIST)",
                                       "the ratio of the bounds against depth, no number to compare with", "%s", text);
}

static qb_status measure_depths(qb_reproducing *r, depth depths[DEPTHS], qb_drawing *drawing) {
  qb_output_file file;
  QB_TRY(qb_reproduce_table(r, "layers,bits,delta,log10_prior,log10_general,log10_ratio", &file));
  qb_status status = QB_OK;
  for (int i = 0; i < DEPTHS && status == QB_OK; i++)
    status = measure(r, i, file.stream, &depths[i]);
  if (status != QB_OK) {
    qb_output_discard(&file);
    return status;
  }
  QB_TRY(qb_reproduce_commit(r, &file));
  draw(drawing, depths);
  QB_TRY(find(r, depths));
  return qb_reproduce_picture(r, drawing);
}

qb_status qb_reproduce_figure5(qb_reproducing *r) {
  depth depths[DEPTHS] = {{0}};
  qb_drawing *drawing = qb_drawing_create("Figure 5: perceptrons on MNIST",
                                          "prior bound against the new one (Theorem 4.1), no biases", 2);
  bool allocated = drawing != NULL;
  for (int i = 0; i < DEPTHS; i++) {
    depths[i].table = qb_alloc(1, sizeof *depths[i].table);
    allocated = allocated && depths[i].table != NULL;
  }
  qb_status status =
      allocated ? measure_depths(r, depths, drawing) : qb_fail_memory(r->error, "a figure", sizeof *drawing);
  for (int i = 0; i < DEPTHS; i++)
    qb_free(depths[i].table);
  qb_drawing_free(drawing);
  return status;
}
