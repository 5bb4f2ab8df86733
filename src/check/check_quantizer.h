/* What a QuantizeLinear does to a number, in real units: clip, and an error of at most a step. */
#ifndef QB_CHECK_CHECK_QUANTIZER_H
#define QB_CHECK_CHECK_QUANTIZER_H

#include "check/check_range.h"
#include "graph/pair.h"

typedef struct clamp_step {
  range limits;
  double step;
  double off;   /* by how much a code may be off after the clip, within the limits; `step` includes it */
  double scale; /* results are multiples of it within the limits; 0: any number */
} clamp_step;

/* Element i of what `node`, a QuantizeLinear of `graph` with constants for its scale and zero point, does. */
clamp_step quantizer_at(const qb_graph *graph, const qb_node *node, const qb_shape *shape, int64_t i);

/* Element i of what the original does in the place of our quantizer: nothing, its Relu, its Clip, or its quantizer. */
clamp_step replaced_at(const qb_pair *pair, const qb_node *partner, const qb_shape *shape, int64_t i);

/* Limits of a Clip in one channel (axis 1). */
range clip_limits(const qb_node *node, int64_t channel);

/* What a number moved down or up by the step is clamped to: a saturated code may be off, too. */
range lower_limits(clamp_step s);
range upper_limits(clamp_step s);

/* Results for the arguments x. */
range quantized(range x, clamp_step s);

/* The same for one network's quantizer: rounding is monotone, so results lie between multiples of the scale. */
range codes_within(range x, clamp_step s);

/* quantizer(q) - clip(x; f) for x and q with q - x in d: exact but for rounding, and for what a step leaves open. */
range clamp_difference(range x, range q, range d, range f, clamp_step quantizer);

#endif
