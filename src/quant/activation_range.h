/* The range of one activation over calibration samples, and the grid of unsigned codes chosen for it. */
#ifndef QB_QUANT_ACTIVATION_RANGE_H
#define QB_QUANT_ACTIVATION_RANGE_H

#include "graph/quantizer.h"

enum { QB_RANGE_BINS = 4096 };

/* Filled by two passes over the same numbers: limits first, then, for rules other than min-max, the histogram. */
typedef struct qb_activation_range {
  float lo, hi; /* smallest and largest number seen, 0 included: a Relu gives lo = 0 */
  int64_t count, zeros;
  int64_t *bins; /* (QB_RANGE_BINS) numbers other than 0 by equal parts of [lo, hi]; NULL without histogram */
} qb_activation_range;

/* First pass: widens the limits. False when a number is NaN or infinite. */
bool qb_activation_range_widen(qb_activation_range *range, const float *x, size_t count);

/* Second pass, into `bins`. */
void qb_activation_range_count(qb_activation_range *range, const float *x, size_t count);

/* The grid for codes of `bits` bits: lo and hi are chosen by `rule` (see qb_activation_range_rule; without bins
 * min-max), the scale is (hi - lo) / (2^bits - 1) and the zero point the nearest code of 0, so that 0 is exact. With
 * lo = 0 the zero point is 0. */
qb_activation_grid qb_activation_grid_choose(const qb_activation_range *range, qb_range_rule rule, double percentile,
                                             int bits);

#endif
