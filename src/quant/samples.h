/* Calibration samples: those of the caller, and more of them by seeded flips and shifts. */
#ifndef QB_QUANT_SAMPLES_H
#define QB_QUANT_SAMPLES_H

#include "graph/graph.h"

typedef struct qb_samples {
  const qb_calibration *source;
  int64_t count;                   /* samples in all */
  size_t elements;                 /* of one */
  int64_t channels, height, width; /* 0 where a sample is no image: those repeat unchanged */
  uint64_t seed;
} qb_samples;

/* Samples for the one input of `graph`. */
qb_samples qb_samples_of(const qb_calibration *source, const qb_graph *graph, uint64_t seed);

/* Writes `count` samples from `first` on, in parallel. Sample i >= source->count is image i mod source->count, mirrored
 * with probability 1/2 and shifted by up to an eighth of its size each way, its edge repeated. What `read` returns; of
 * several failures the first sample's. */
QB_MUST_CHECK qb_status qb_samples_read(const qb_samples *samples, int64_t first, int32_t count, float *to,
                                        qb_error *error);

#endif
