/* What the files of the calibrator share. Private to quant/. */
#ifndef QB_QUANT_CALIBRATOR_H
#define QB_QUANT_CALIBRATOR_H

#include "quant/calibrate.h"
#include "quant/frontier.h"
#include "quant/rounding_problem.h"

struct qb_calibrator {
  const qb_graph *quantized;
  qb_graph original;
  qb_quantize_settings settings;
  qb_samples samples;
  qb_frontier *frontier;
};

/* A layer with its statistics, on its way to codes. */
typedef struct calibrated_layer {
  const qb_calibrator *calibrator;
  const qb_gram *gram;
  const float *weights; /* (OC, K) */
  qb_layer_codes *codes;
  const qb_progress *progress;
  bool inherited;      /* earlier layers have changed the inputs */
  qb_rounding problem; /* of group `loaded`, -1: none */
  int64_t loaded;
  double *errors; /* (OC) scratch */
} calibrated_layer;

/* Makes the rounding problem of a group the current one. */
qb_status qb_calibrated_load(calibrated_layer *layer, size_t group, qb_error *error);

/* The grids of the current group's rows, and its codes (R, K). */
qb_grid *qb_calibrated_grids(const calibrated_layer *layer, qb_grid *grids, size_t group);

/* Replaces the grids by clipped ones that give the smallest losses with the scheme's quick solver: per channel each
 * row's best, per tensor the best of all (clip_search.c). */
qb_status qb_calibrated_search_clips(calibrated_layer *layer, qb_error *error);

#endif
