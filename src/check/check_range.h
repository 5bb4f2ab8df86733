/* Closed ranges of doubles with every operation rounded outwards. The checker's own: it shares no arithmetic with the
 * engine. Exact results stay exact, so that equal networks differ by exactly 0. */
#ifndef QB_CHECK_RANGE_H
#define QB_CHECK_RANGE_H

#include <float.h>
#include <math.h>

typedef struct range {
  double lo, hi;
} range;

/* The next double above; no knowledge (NaN) becomes infinity. */
static inline double above(double x) { return isnan(x) ? INFINITY : nextafter(x, INFINITY); }

/* a + b rounded up: the rounding error of a sum is a double (Knuth's two-sum) and says in which direction it went. */
static inline double add_up(double a, double b) {
  double s = a + b, t = s - a, lost = (a - (s - t)) + (b - t);
  if (isnan(s))
    return INFINITY;
  if (isinf(s))
    return s > 0 || isinf(a) || isinf(b) ? s : -DBL_MAX;
  return lost > 0 ? nextafter(s, INFINITY) : s;
}
static inline double add_down(double a, double b) { return -add_up(-a, -b); }

/* a b rounded up with 0 * infinity = 0. */
static inline double mul_up(double a, double b) {
  return a == 0 || b == 0 ? 0 : a == 1 ? b : b == 1 ? a : above(a * b);
}
static inline double mul_down(double a, double b) { return -mul_up(-a, b); }

static inline range point(double x) { return (range){x, x}; }
static inline range range_add(range a, range b) { return (range){add_down(a.lo, b.lo), add_up(a.hi, b.hi)}; }
static inline range range_neg(range a) { return (range){-a.hi, -a.lo}; }
static inline range range_sub(range a, range b) { return range_add(a, range_neg(b)); }
static inline range range_hull(range a, range b) { return (range){fmin(a.lo, b.lo), fmax(a.hi, b.hi)}; }
static inline range range_meet(range a, range b) { return (range){fmax(a.lo, b.lo), fmin(a.hi, b.hi)}; }
static inline double range_size(range a) { return fmax(fabs(a.lo), fabs(a.hi)); }

static inline range range_mul(range a, range b) {
  return (
      range){fmin(fmin(mul_down(a.lo, b.lo), mul_down(a.lo, b.hi)), fmin(mul_down(a.hi, b.lo), mul_down(a.hi, b.hi))),
             fmax(fmax(mul_up(a.lo, b.lo), mul_up(a.lo, b.hi)), fmax(mul_up(a.hi, b.lo), mul_up(a.hi, b.hi)))};
}

/* 1 / a; everything when a contains 0. */
static inline range range_inverse(range a) {
  if (!(a.lo > 0 || a.hi < 0))
    return (range){-INFINITY, INFINITY};
  return (range){-above(-1 / a.hi), above(1 / a.lo)};
}

static inline range range_clamp(range x, range limits) {
  return (range){fmin(fmax(x.lo, limits.lo), limits.hi), fmin(fmax(x.hi, limits.lo), limits.hi)};
}

/* gamma_n = n u / (1 - n u), u = 2^-53: n roundings change a number by at most this factor of it (Higham 2002, 3.1). */
static inline double rounding_of(double n) { return above(n * 0x1p-53 / (1 - n * 0x1p-53)); }

#endif
