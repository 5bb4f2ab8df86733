/* What a report page shows, gathered before anything is drawn, and the page itself: one HTML file that needs nothing
 * else. Strings are borrowed; NAN and NULL mean that something is not known, and the page leaves it out. */
#ifndef QB_REPORT_PAGE_H
#define QB_REPORT_PAGE_H

#include <qbound/qbound.h>

#include "report/text_writer.h"

typedef struct qb_page_network {
  const char *file;
  char sha256[QB_SHA256_TEXT];
  int64_t size_bytes;
  int64_t weight_bytes; /* of the linear layers, as their bits need them */
  double top1, top5;    /* NAN without labels */
} qb_page_network;

typedef struct qb_page_layer {
  const char *name, *op;
  int bits; /* 0: float */
  int64_t weights;
  double radius;      /* r_l of the original: largest row l1 norm */
  double delta;       /* largest change of a weight */
  double share;       /* of the layerwise bound without caps, sums to 1; NAN without a pixel domain */
  double sensitivity; /* mean output error when this layer alone is quantized; NAN when not measured */
} qb_page_layer;

/* A number on the ladder from proved to measured. */
typedef struct qb_page_rung {
  char name[80];
  const char *kind; /* "proved for every input", "proved on balls", "99 % confidence", "measured", "found" */
  double log10;     /* of the value; -INFINITY for zero */
  char text[48];    /* the value for people */
  bool best;
} qb_page_rung;

enum { QB_PAGE_RUNGS = 32, QB_PAGE_STATEMENTS = 8, QB_PAGE_BINS = 40 };

/* What a certificate says, in sentences. */
typedef struct qb_page_certificate {
  const char *file; /* NULL: no certificate */
  qb_page_rung rungs[QB_PAGE_RUNGS];
  int rung_count;
  char statements[QB_PAGE_STATEMENTS][320];
  int statement_count;
  char headline[320]; /* the strongest statement for the verdict, "" when there is none */
} qb_page_certificate;

typedef struct qb_page_input {
  const char *name; /* of the sample */
  int64_t index;
  int32_t label, top, other_top;
  double error;
  int32_t height, width;
  uint8_t *pixels; /* (height, width, 3); NULL when the input is no picture */
} qb_page_input;

/* Counts over [lo, hi], equal bins; `other` NULL-like (all zero) when there is one series. */
typedef struct qb_page_histogram {
  const char *title;
  double lo, hi;
  int64_t first[QB_PAGE_BINS], other[QB_PAGE_BINS];
} qb_page_histogram;

typedef struct qb_page {
  qb_page_network model, other;
  const char *data, *preprocess, *command;
  int64_t images, labelled, flips;
  int64_t lost, gained; /* right only before, right only after */
  double mcnemar_p;     /* NAN without labels */
  double error_max, error_mean, error_p99;
  int64_t sensitivity_images;
  qb_page_histogram errors;
  qb_page_histogram weights; /* of the layer `weights.title`; title NULL: none */
  qb_page_layer *layers;
  int layer_count;
  qb_page_input *inputs;
  int input_count;
  const char *const *class_names; /* (class_count), NULL: numbers */
  int class_count;
  qb_page_certificate certificate;
} qb_page;

/* The page as HTML; release writer->text with qb_free. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_page_write(const qb_page *page, qb_text_writer *writer, qb_error *error);

/* Reads what a certificate file says into `certificate`. QB_ERROR_IO, QB_ERROR_FORMAT (not a certificate, or one of
 * other networks: the hashes are those of the page). */
QB_MUST_CHECK qb_status qb_page_read_certificate(const char *path, const char *model_sha256, const char *other_sha256,
                                                 qb_page_certificate *certificate, qb_error *error);

/* Charts, page_charts.c. */
void qb_page_draw_histogram(qb_text_writer *writer, const qb_page_histogram *histogram, const char *first,
                            const char *other, const char *unit);
void qb_page_draw_ladder(qb_text_writer *writer, const qb_page_rung *rungs, int count);

/* The style sheet in parts, NULL at the end; page_style.c. */
extern const char *const qb_page_style[];

#endif
