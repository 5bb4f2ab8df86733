/* Closed intervals of doubles, every operation rounded outwards; limits may be infinite, 0 * infinity is 0. */
#ifndef QB_BOUND_INTERVAL_H
#define QB_BOUND_INTERVAL_H

#include "bound/rounding.h"

typedef struct qb_interval {
  double lo, hi;
} qb_interval;

static inline qb_interval qb_interval_point(double x) { return (qb_interval){x, x}; }

static inline double qb_down_sum(double a, double b) { return a == 0 ? b : b == 0 ? a : qb_down(a + b); }

static inline qb_interval qb_interval_add(qb_interval a, qb_interval b) {
  return (qb_interval){qb_down_sum(a.lo, b.lo), qb_up_sum(a.hi, b.hi)};
}

static inline qb_interval qb_interval_negate(qb_interval a) { return (qb_interval){-a.hi, -a.lo}; }

static inline qb_interval qb_interval_subtract(qb_interval a, qb_interval b) {
  return qb_interval_add(a, qb_interval_negate(b));
}

static inline double qb_down_product(double a, double b) { return a == 0 || b == 0 ? 0 : qb_down(a * b); }

static inline qb_interval qb_interval_multiply(qb_interval a, qb_interval b) {
  double lo = fmin(fmin(qb_down_product(a.lo, b.lo), qb_down_product(a.lo, b.hi)),
                   fmin(qb_down_product(a.hi, b.lo), qb_down_product(a.hi, b.hi)));
  double hi = fmax(fmax(qb_up_product(a.lo, b.lo), qb_up_product(a.lo, b.hi)),
                   fmax(qb_up_product(a.hi, b.lo), qb_up_product(a.hi, b.hi)));
  return (qb_interval){lo, hi};
}

/* 1 / a; all numbers when a contains 0. */
static inline qb_interval qb_interval_inverse(qb_interval a) {
  if (!(a.lo > 0 || a.hi < 0))
    return (qb_interval){-INFINITY, INFINITY};
  return (qb_interval){qb_down(1 / a.hi), qb_up(1 / a.lo)};
}

static inline qb_interval qb_interval_hull(qb_interval a, qb_interval b) {
  return (qb_interval){fmin(a.lo, b.lo), fmax(a.hi, b.hi)};
}

/* max |x| over the interval. */
static inline double qb_interval_magnitude(qb_interval a) { return fmax(fabs(a.lo), fabs(a.hi)); }

/* x 2^shift rounded up: exact but for subnormal results and overflow. */
static inline double qb_up_scale(double x, int32_t shift) {
  double y = ldexp(x, shift);
  return ldexp(y, -shift) == x ? y : qb_up(y);
}

static inline qb_interval qb_interval_scale(qb_interval a, int32_t shift) {
  return (qb_interval){-qb_up_scale(-a.lo, shift), qb_up_scale(a.hi, shift)};
}

/* Of two numbers that are not NaN; fmin and fmax are calls. */
static inline double qb_smaller(double a, double b) { return a < b ? a : b; }
static inline double qb_larger(double a, double b) { return a > b ? a : b; }

static inline double qb_clamp(double x, double lo, double hi) { return qb_smaller(qb_larger(x, lo), hi); }

#endif
