/* What the outputs of layers are hardly ever below, per channel: for bias absorption. */
#ifndef QB_QUANT_FLOORS_H
#define QB_QUANT_FLOORS_H

#include "base/progress.h"
#include "graph/pass_absorb_bias.h"
#include "quant/moments.h"

typedef struct qb_floors {
  qb_layer_floor *layers; /* (count), from qb_alloc; the numbers of each layer too */
  int32_t count;
} qb_floors;

/* Mean - 3 deviations of BatchNormalization (theory 7), for the layers that have it. QB_ERROR_MEMORY. Free in every
 * case. */
QB_MUST_CHECK qb_status qb_floors_from_statistics(const qb_statistics *statistics, qb_floors *floors, qb_error *error);

/* The smallest number of each channel on the calibration samples of the settings, for every layer of `graph` whose
 * output has channels at axis 1. Errors of reading and running, QB_ERROR_INTERRUPTED, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_floors_from_samples(const qb_graph *graph, const qb_quantize_settings *settings,
                                               const qb_progress *progress, qb_floors *floors, qb_error *error);
void qb_floors_free(qb_floors *floors);

#endif
