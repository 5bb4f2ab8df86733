/* From a centre and a radius to a box of network inputs. */
#ifndef QB_API_BALL_BOX_H
#define QB_API_BALL_BOX_H

#include "bound/bound.h"
#include "data/dataset.h"
#include "report/certificate_balls.h"

/* For samples of a shape, (C, H, W) or anything of one channel. `limited`: balls end where pixels do. Everything lives
 * in `arena`. QB_ERROR_ARGUMENT, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_ball_frame_make(const char *preprocess, bool limited, const qb_shape *sample,
                                           qb_arena *arena, qb_ball_frame *frame, qb_error *error);

/* How far element i may move. */
double qb_ball_reach(const qb_ball_frame *frame, const qb_radius *radius, int64_t i);

/* The box around `centre`, rounded outwards, into `domain`, whose arrays the caller owns. QB_ERROR_ARGUMENT when the
 * centre is no sample of pixels although the preprocessing says so; `name` is of the centre, for the message. */
QB_MUST_CHECK qb_status qb_ball_box(const qb_ball_frame *frame, const float *centre, const qb_radius *radius,
                                    const char *name, qb_domain *domain, qb_error *error);

#endif
