/* Claims on boxes of few inputs, by cutting the box in two again and again. */
#ifndef QB_BOUND_BISECT_H
#define QB_BOUND_BISECT_H

#include "bound/ball.h"

/* |x'_output - x_output| <= limit on the whole box. */
typedef struct qb_ball_claim {
  int64_t output;
  double limit;
} qb_ball_claim;

typedef struct qb_bisection_settings {
  double timeout_seconds; /* gives up after about so long; 0: never */
  int64_t most_boxes;     /* gives up after bounding so many; 0: never */
  int32_t threads;        /* 0: all of OpenMP's. They share the boxes; the verdict may depend on them only through the
                             timeout */
  qb_ball_settings ball;
} qb_bisection_settings;

qb_bisection_settings qb_bisection_settings_default(void);

typedef struct qb_bisection {
  bool proved;
  bool applies;
  int64_t boxes;     /* bounded */
  bool refuted;      /* somewhere the difference is larger than the limit on a whole part */
  int64_t open;      /* left over when it gave up */
  qb_interval range; /* encloses the difference of that output on the whole box, proved or not */
} qb_bisection;

/* Tries to prove the claim. A part of the box that is not proved is cut in two across the input that contributes most
 * to its bound. Best for at most ten inputs of positive width. */
QB_MUST_CHECK qb_status qb_ball_bisect(const qb_pair *pair, const qb_domain *domain, const qb_ball_claim *claim,
                                       const qb_bisection_settings *settings, qb_bisection *bisection, qb_error *error);

#endif
