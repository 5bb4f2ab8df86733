/* Outward rounding in double with the hardware rounding to nearest (never fesetround).
 *
 * u = 2^-53. One operation fl(x op y) = (x op y)(1 + t) with |t| <= u, or is off by at most half the smallest
 * subnormal (2^-1075) where a product underflows; sums never underflow inexactly. Hence the two helpers:
 *   one operation: the exact result lies in [qb_down(fl), qb_up(fl)], since fl is a nearest double;
 *   a sum of non-negative terms: qb_sum_upper.
 * Underflow is kept away rather than counted: factors that meet weights are zero or at least QB_SMALLEST, so that a
 * product with a float32 (at least 2^-149) or with a difference of two stays a normal number. */
#ifndef QB_BOUND_ROUNDING_H
#define QB_BOUND_ROUNDING_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "bounds need IEEE arithmetic: compile without -ffast-math and -Ofast"
#endif

/* The smallest non-zero factor, 2^-800: smaller ones are raised to it. */
#define QB_SMALLEST 0x1p-800

/* The double whose bits, read as an integer, lie `step` away: neighbours in size are neighbours in bits. */
static inline double qb_neighbour(double x, int64_t step) {
  int64_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits += step;
  memcpy(&x, &bits, sizeof bits);
  return x;
}

/* The next double above; infinity and NaN become infinity (no information is an infinite upper bound). As nextafter,
 * without a call. */
static inline double qb_up(double x) {
  if (!(x < INFINITY))
    return INFINITY;
  return x == 0 ? DBL_TRUE_MIN : qb_neighbour(x, x > 0 ? 1 : -1);
}

/* The next double below; NaN becomes -infinity. */
static inline double qb_down(double x) {
  if (!(x > -INFINITY))
    return -INFINITY;
  return x == 0 ? -DBL_TRUE_MIN : qb_neighbour(x, x > 0 ? -1 : 1);
}

/* The float at or below x, -infinity for NaN; the one at or above, infinity for NaN. */
static inline float qb_float_down(double x) {
  float y = (float)x;
  return (double)y <= x ? y : y == y ? nextafterf(y, -INFINITY) : -INFINITY;
}
static inline float qb_float_up(double x) { return -qb_float_down(-x); }

/* An upper bound of a * b for a, b >= 0 with 0 * infinity = 0: a zero weight stops an infinite bound. Exact zeros
 * stay zero. */
static inline double qb_up_product(double a, double b) { return a == 0 || b == 0 ? 0 : qb_up(a * b); }

/* An upper bound of a + b; adding an exact zero is exact. */
static inline double qb_up_sum(double a, double b) { return a == 0 ? b : b == 0 ? a : qb_up(a + b); }

/* gamma_n = n u / (1 - n u) rounded up, for 0 <= n < 2^52. n u and 1 - n u are exact; the quotient is one rounding. */
static inline double qb_gamma(int64_t n) {
  double nu = (double)n * (DBL_EPSILON / 2);
  return n == 0 ? 0 : qb_up(nu / (1 - nu));
}

/* An upper bound of the exact sum of non-negative terms whose computed value is `sum`, where no term passed through
 * more than n roundings (those of the terms themselves counted) and no product underflowed: theory section 4. Any
 * order, fused or not: computed >= exact (1 - u)^n and 1/(1-u)^n <= 1 + gamma_n. Zero stays zero: without underflow a
 * computed sum of non-negative terms is zero only if every term is. */
static inline double qb_sum_upper(double sum, int64_t n) { return sum == 0 ? 0 : qb_up(sum * qb_up(1 + qb_gamma(n))); }

#endif
