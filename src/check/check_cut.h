/* Parts of a box that were cut across neurons: what their cuts say of ranges and of the input. */
#ifndef QB_CHECK_CHECK_CUT_H
#define QB_CHECK_CHECK_CUT_H

#include "check/check_backward.h"

/* One side of a cut, closed. */
typedef struct cut_side {
  neuron_claim cut;
  bool above;
} cut_side;

/* Ranges of the node's output meet the (count) sides that are of it, and the box learns the half spaces of the input
 * that these lie in. *empty: proved that no input of the box lies in the part. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status sides_apply(back_box *box, qb_node_id node, const cut_side *sides, int64_t count, bool *empty,
                                    qb_error *error);

/* Whether ranges contradict each other. */
bool cells_contradict(const cells *c);

/* Adds half spaces to the forms over the input, each as often as makes the largest value over the box smallest. */
QB_MUST_CHECK qb_status press_forms(carried *c);

#endif
