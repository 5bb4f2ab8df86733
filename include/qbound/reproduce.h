/* qbound: the figures of the paper and what lies beyond them (docs/reproduce.md). Part of qbound.h, which includes it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QBOUND_REPRODUCE_H
#define QBOUND_REPRODUCE_H

#include <qbound/qbound.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What to compute. */
typedef struct qb_reproduce_settings {
  const char *name; /* figure1 to figure5, equalization, beyond, or all (default) */
  const char
      *output;      /* folder for NAME.csv, NAME.svg and NAME.png, made when missing; default NULL, which is an error */
  const char *data; /* folder of networks and images; default NULL, which is an error */
  int64_t samples;  /* images per network; 0 (default): 100 to 2500, by network */
  bool quick;       /* fewer widths, images and networks; default false */
  uint64_t seed;    /* of AdaRound and of the search, default 0 */
  int threads;      /* 0 (default): all cores */
} qb_reproduce_settings;

/* One number of the paper beside what was measured, as sentences. */
typedef struct qb_reproduce_finding {
  const char *figure, *subject, *paper, *measured;
} qb_reproduce_finding;

/* A network or data set that is not there, and how to get it. */
typedef struct qb_reproduce_missing {
  const char *path, *how;
} qb_reproduce_missing;

/* Everything in it lives until qb_reproduction_free. */
typedef struct qb_reproduction {
  int finding_count, file_count, missing_count;
  const qb_reproduce_finding *findings; /* (finding_count) */
  const char *const *files;             /* (file_count) written */
  const qb_reproduce_missing *missing;  /* (missing_count) what was left out for that reason */
  double seconds;                       /* wall time */
  void *storage;                        /* private */
} qb_reproduction;

/* "figure1", .., by index; NULL past the last. */
QB_API const char *qb_reproduce_name(int index);
QB_API void qb_reproduce_settings_default(qb_reproduce_settings *settings);

/* Computes and writes. Something missing is not an error: it is listed, and the rest is done. Equal networks, data and
 * settings give equal tables and pictures. QB_ERROR_ARGUMENT, QB_ERROR_IO, and what loading, quantizing, bounding and
 * measuring return. */
QB_API QB_MUST_CHECK qb_status qb_reproduce(const qb_reproduce_settings *settings, const qb_progress *progress,
                                            qb_reproduction *reproduction, qb_error *error);
QB_API void qb_reproduction_free(qb_reproduction *reproduction);

/* The report as one line of JSON; release with qb_text_free. */
QB_API QB_MUST_CHECK qb_status qb_reproduction_json(const qb_reproduction *reproduction, char **text, qb_error *error);

#ifdef __cplusplus
}
#endif

#endif
