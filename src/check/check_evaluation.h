/* Evaluation in float32: how far what is computed can be from the exact function of what was computed before, whatever
 * the order of sums, fused or not, with gradual underflow. */
#ifndef QB_CHECK_EVALUATION_H
#define QB_CHECK_EVALUATION_H

#include "check/check_cells.h"

/* Of one result with n roundings on the way of each of its terms, whose sizes sum up to `size`, and `lost` of which may
 * underflow; infinity where a partial result may overflow. */
double evaluation_error(const qb_pair *pair, double n, double size, double lost);

/* `t` with errors of that size in the original and in the quantized network. */
triple evaluated(triple t, double error, double error_q);

/* Widens the cells of a node's output, layers with weights apart (check_linear.c); false where it is not known how. */
QB_MUST_CHECK qb_status cells_evaluate(walk *w, qb_node_id node, bool *known);

#endif
