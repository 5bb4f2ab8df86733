/* What the figures share: the run they belong to, networks that are loaded once, tables, pictures and findings.
 *
 * One figure is one file and one function. What is missing is noted, and the rest still runs. */
#ifndef QB_REPRODUCE_REPRODUCING_H
#define QB_REPRODUCE_REPRODUCING_H

#include "base/arena.h"
#include "base/file.h"
#include "bound/bound.h"
#include "reproduce/drawing.h"
#include "reproduce/study.h"

enum { QB_REPRODUCE_LIMIT = 64 }; /* findings, files, missing things */

typedef struct qb_reproducing {
  const qb_reproduce_settings *settings;
  const qb_progress *progress; /* the caller's */
  qb_progress inner;           /* for calls within a step */
  const char *figure;          /* the name of the one at work */
  double before, cost, total;  /* estimated seconds: of the figures before, of this one, of all */
  double reached;              /* of `total` */
  int step, steps;
  qb_arena arena; /* of strings in the result */
  qb_reproduction *result;
  qb_reproduce_finding findings[QB_REPRODUCE_LIMIT];
  qb_reproduce_missing missing[QB_REPRODUCE_LIMIT];
  const char *files[QB_REPRODUCE_LIMIT];
  qb_model *models[QB_STUDY_COUNT];
  qb_error *error;
} qb_reproducing;

/* Step `step` of `steps` of this figure begins. QB_ERROR_INTERRUPTED. */
QB_MUST_CHECK qb_status qb_reproduce_step(qb_reproducing *r, int step, int steps);

/* The network of a study, which the run keeps; NULL and a note when its file is missing. */
QB_MUST_CHECK qb_status qb_reproduce_model(qb_reproducing *r, qb_study_id id, const qb_model **model);

/* The images to measure on or to calibrate with (`calibrate`), the strings in the arena; false and a note when missing.
 */
QB_MUST_CHECK qb_status qb_reproduce_images(qb_reproducing *r, qb_study_id id, bool calibrate, qb_data *data,
                                            bool *there);

/* FIGURE.csv; commit it with qb_reproduce_commit, or drop it with qb_output_discard after an error. */
QB_MUST_CHECK qb_status qb_reproduce_table(qb_reproducing *r, const char *header, qb_output_file *file);
QB_MUST_CHECK qb_status qb_reproduce_commit(qb_reproducing *r, qb_output_file *file);

/* FIGURE.svg and FIGURE.png, when there is something to see. */
QB_MUST_CHECK qb_status qb_reproduce_picture(qb_reproducing *r, const qb_drawing *drawing);

/* What the paper reports beside what was measured. */
QB_MUST_CHECK qb_status qb_reproduce_find(qb_reproducing *r, const char *subject, const char *paper,
                                          const char *measured, ...) QB_PRINTF(4, 5);

/* The weight widths of a sweep: 2..16, or fewer with `quick`. */
enum { QB_REPRODUCE_BITS = 15 };
int qb_reproduce_bits(const qb_reproducing *r, int bits[QB_REPRODUCE_BITS]);

/* A clone of `graph` with weights on nearest codes, symmetric, one scale per tensor. Free with qb_graph_free in every
 * case. */
QB_MUST_CHECK qb_status qb_reproduce_quantize(qb_reproducing *r, const qb_graph *graph, int bits, qb_graph *quantized);

/* Every image of the study as a box of inputs. Release with qb_domain_free. */
QB_MUST_CHECK qb_status qb_reproduce_domain(qb_reproducing *r, qb_study_id id, const qb_graph *graph,
                                            qb_domain *domain);

/* One per figure. */
qb_status qb_reproduce_figure1(qb_reproducing *r);
qb_status qb_reproduce_figure2(qb_reproducing *r);
qb_status qb_reproduce_figure3(qb_reproducing *r);
qb_status qb_reproduce_figure4(qb_reproducing *r);
qb_status qb_reproduce_figure5(qb_reproducing *r);
qb_status qb_reproduce_equalization(qb_reproducing *r);
qb_status qb_reproduce_beyond(qb_reproducing *r);

#endif
