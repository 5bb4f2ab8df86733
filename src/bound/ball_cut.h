/* Parts of a box that are cut across neurons: one element of one tensor in front of an activation lies on one side of a
 * number, in one of the two networks. */
#ifndef QB_BOUND_BALL_CUT_H
#define QB_BOUND_BALL_CUT_H

#include "bound/backward.h"

/* Meets the intervals of `value` with the cuts of it, and adds what they say of the input to `backward`. *empty: proved
 * that no input of the box lies in the part. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_ball_cuts_apply(const qb_ball_cut *cuts, int64_t count, qb_backward *backward,
                                           const qb_box_result *box, qb_value_id value, bool *empty, qb_error *error);

/* Whether intervals of the tensor contradict each other by more than rounding; where it is less they are put in order:
 * they hold nothing, so any interval is right. */
bool qb_ball_contradicts(qb_box_state *state);

/* The cut that promises most for one form, `row` (a single one): across the element whose planes cost it most. *found
 * is false where everything on its way is decided. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_ball_find_cut(qb_backward *backward, const qb_box_result *box, const qb_rows *row,
                                         qb_ball_cut *cut, bool *found, qb_error *error);

#endif
