/* Both networks at one input, in ball arithmetic of as many bits as it takes: what is claimed of a single point.
 *
 * Weights and inputs are dyadic numbers, so that sums and products are exact as long as they fit; where they do not, a
 * ball holds the exact value. A quantizer decides its code exactly; where a ball reaches over a tie the result is a
 * ball around both codes. */
#ifndef QB_CHECK_CHECK_POINT_H
#define QB_CHECK_CHECK_POINT_H

#include <arb.h>

#include "check/check_ball_claim.h"
#include "check/check_bound.h"

/* One network at one input. */
typedef struct point_values {
  int64_t count;
  arb_ptr y;  /* (count) its first output, from qb_alloc */
  bool known; /* false: a node has no rule, `why` */
  char why[320];
} point_values;

/* Elements of `input`: those of the graph's only input. QB_ERROR_MEMORY. Release with point_free in every case. */
QB_MUST_CHECK qb_status point_evaluate(const qb_graph *graph, const float *input, slong bits, point_values *values,
                                       qb_error *error);
void point_free(point_values *values);

/* Layers with weights (check_point_linear.c): y (elements of the output) from x, ball by ball. */
QB_MUST_CHECK qb_status point_linear(const qb_graph *graph, const qb_linear *linear, arb_srcptr x, slong bits,
                                     arb_ptr y, qb_error *error);

/* What is claimed of a box that is a point: ranges of R' - R, the bound, the decision. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status recompute_point(const box_claim *c, const qb_pair *pair, const float *input, recomputed *result,
                                        qb_error *error);

/* Whether |R' - R| at the input, of output `only` or (-1) of some output, is at least `lower`. */
QB_MUST_CHECK qb_status recompute_lower(const qb_pair *pair, const float *input, int64_t only, double lower,
                                        recomputed *result, qb_error *error);

/* Whether the largest outputs at the input are `top` in the original network and `other_top` in the other one. */
QB_MUST_CHECK qb_status recompute_flip(const qb_pair *pair, const float *input, int64_t top, int64_t other_top,
                                       recomputed *result, qb_error *error);

#endif
