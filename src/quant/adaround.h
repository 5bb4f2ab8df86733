/* Rounding every weight up or down so that the layer's output changes least (Nagel et al. 2020), on the quadratic form
 * of rounding_problem.h: no pass over data, whatever the number of steps. */
#ifndef QB_QUANT_ADAROUND_H
#define QB_QUANT_ADAROUND_H

#include "base/progress.h"
#include "quant/rounding_problem.h"

/* Among the two neighbours of every weight, by tabu search (tabu.h) from nearest or gptq's choice among neighbours,
 * whichever is better: never worse than either but for float32 rounding. `effort` multiplies the length of the search;
 * 1 is what quantizing uses. objectives (R): of the result. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_adaround(const qb_rounding *rounding, const qb_grid *grids, double effort, int32_t *codes,
                                    double *objectives, qb_error *error);

/* The published solver: h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1), objective + 0.01 sum(1 - |2h - 1|^beta), no
 * regularization in the first fifth of the steps, then beta from 20 to 2 (cosine), Adam with rate 0.01. */
typedef struct qb_gradient_settings {
  int steps; /* 10000 */
  double regularization, rate;
} qb_gradient_settings;

void qb_gradient_settings_default(qb_gradient_settings *settings);

/* What it reports its steps as. */
#define QB_GRADIENT_STAGE "gradient steps"

/* Codes (R, K) by the published solver on the same quadratic form, so that the two can be compared. QB_ERROR_MEMORY,
 * QB_ERROR_INTERRUPTED. */
QB_MUST_CHECK qb_status qb_adaround_gradient(const qb_rounding *rounding, const qb_grid *grids,
                                             const qb_gradient_settings *settings, const qb_progress *progress,
                                             int32_t *codes, qb_error *error);

#endif
