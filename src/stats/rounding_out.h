/* From balls to doubles on a chosen side. */
#ifndef QB_STATS_ROUNDING_OUT_H
#define QB_STATS_ROUNDING_OUT_H

#include <arb.h>

/* The largest double that is not above the ball, and the smallest that is not below; infinite when the ball is. */
double qb_round_down(const arb_t value);
double qb_round_up(const arb_t value);

#endif
