/* Measuring one network, or comparing two, on samples that arrive through a function: accuracy, flips, output errors.
 *
 * What is measured on these samples; nothing is proved. The samples are cut into shards, which ranks (base/ranks.h)
 * deal among themselves and a checkpoint keeps. */
#ifndef QB_RUN_MEASURE_H
#define QB_RUN_MEASURE_H

#include "base/hash.h"
#include "base/progress.h"
#include "run/run.h"

/* Where samples come from. Both functions are called from several threads at once. */
typedef struct qb_run_samples {
  const void *context;
  int64_t count; /* at least 1 */
  /* Writes sample `index` (the elements of the network's input at batch one). */
  qb_status (*read)(const void *context, int64_t index, float *sample, qb_error *error);
  /* Class of a sample, -1 when it has none; NULL: no labels. */
  int32_t (*label)(const void *context, int64_t index);
} qb_run_samples;

typedef struct qb_run_measure_settings {
  qb_engine engine;       /* default QB_ENGINE_ONEDNN */
  int32_t batch;          /* samples per call, 1.., default 16 */
  int32_t threads;        /* of networks and reading; 0 (default): all cores */
  int32_t output;         /* which network output, default 0 */
  int32_t label_offset;   /* class of the network = label + offset (1 where class 0 is a background), default 0 */
  const char *checkpoint; /* folder of finished shards, see shard_file.h; default NULL */
  qb_hash identity;       /* of both networks, whatever name they have; with a checkpoint */
} qb_run_measure_settings;

/* One sample. Decisions are the position of the largest output, ties going to the lowest. */
typedef struct qb_run_sample {
  int32_t label;            /* offset included, -1 without a label */
  int32_t top, other_top;   /* other_top: -1 without a second network */
  int32_t rank, other_rank; /* outputs that come before the label's, 0 for a right decision; -1 without a label */
  double error;             /* largest |output - other output|; 0 without a second network */
} qb_run_sample;

/* Rates are fractions in [0,1], NAN where there is nothing to count. */
typedef struct qb_run_accuracy {
  double top1, top5;
  double seconds; /* in the network alone, reading not counted */
} qb_run_accuracy;

typedef struct qb_run_measure_info {
  int64_t count, labelled;
  int64_t class_count; /* elements of the output */
  qb_run_accuracy model, other;
  int64_t flip_count; /* samples with top != other_top */
  double flips;
  double error_max, error_mean, error_p50, error_p90, error_p99; /* pK: the k-th smallest, k = ceil(K n / 100) */
  int64_t error_argmax;                                          /* the first sample with error_max */
  double images_per_second;                                      /* of `model`, reading not counted */
  double seconds;                                                /* wall time of the call */
  qb_run_sample *samples;                                        /* (count), owned by the info */
} qb_run_measure_info;

void qb_run_measure_settings_default(qb_run_measure_settings *settings);

/* Runs `graph` and, when not NULL, `other` (same input and output sizes) on all samples; `progress` may be NULL.
 * Collective: every rank runs its shards and ends with the records of all.
 * QB_ERROR_ARGUMENT (settings, a label that is no class), QB_ERROR_SHAPE (the graphs do not fit each other),
 * QB_ERROR_NUMERIC (an output that is not finite), QB_ERROR_INTERRUPTED, and what `read` and the executor return. On
 * failure the info holds nothing. Release with qb_run_measure_info_free. */
QB_MUST_CHECK qb_status qb_run_measure(const qb_graph *graph, const qb_graph *other, const qb_run_samples *samples,
                                       const qb_run_measure_settings *settings, const qb_progress *progress,
                                       qb_run_measure_info *info, qb_error *error);
void qb_run_measure_info_free(qb_run_measure_info *info);

#endif
