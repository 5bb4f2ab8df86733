/* Seconds of a clock that only goes forward, for deadlines and durations. */
#ifndef QB_BASE_CLOCK_H
#define QB_BASE_CLOCK_H

#include <time.h>

static inline double qb_clock_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
