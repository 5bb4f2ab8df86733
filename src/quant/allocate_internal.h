/* What the files that score layers share. Private to quant/. */
#ifndef QB_QUANT_ALLOCATE_INTERNAL_H
#define QB_QUANT_ALLOCATE_INTERNAL_H

#include "quant/allocate_scores.h"
#include "quant/calibrate.h"
#include "quant/frontier.h"
#include "quant/gram.h"

enum { QB_SCORE_BATCH = 16 };

struct qb_scorer {
  const qb_graph *graph;
  const qb_quantize_settings *settings;
  qb_samples samples;
  const qb_progress *progress;
  size_t output_elements;
  float *outputs;            /* (samples, output_elements) of the float network */
  qb_calibrator *calibrator; /* solves layers from their moments; NULL: to nearest */
  qb_quantize_settings calibrated;
  int layers;
  float **solved; /* (layers, QB_SOLVED_BITS + 1) by bits: solved weights, NULL: to nearest */
};

enum { QB_SOLVED_BITS = 4 };

/* Q_b of a layer. */
QB_MUST_CHECK qb_status qb_scorer_round(const qb_scorer *scorer, int layer, const qb_linear *linear, int bits,
                                        float *after, qb_error *error);

/* The weights of a layer at `bits`, to nearest. */
QB_MUST_CHECK qb_status qb_score_round(const qb_graph *graph, const qb_linear *linear,
                                       const qb_quantize_settings *settings, int bits, float *after, qb_error *error);

qb_frontier_settings qb_scorer_frontier(const qb_scorer *scorer, const qb_samples *samples);

/* Runs `graph` on the samples and keeps its first output, (samples, output_elements), or sums the squares of its
 * distance from the float network's and ends once that sum exceeds `limit`; either may be NULL. */
QB_MUST_CHECK qb_status qb_scorer_run(qb_scorer *scorer, const qb_graph *graph, float *outputs, double limit,
                                      double *distance, qb_error *error);

#endif
