/* Fixed-point numbers of many digits with a bound on their error: the arithmetic of the exact engine. Private to run/.
 *
 * A number is sum_p d_p B^(p - fraction), B = 2^20, with digits -B/2 <= d_p < B/2, plus a radius: the exact value lies
 * within r of it. Every real has at most one such form with a given number of digits, so numbers compare digit by
 * digit from the top, and the sign is that of the first digit that is not 0. Sums and products of digits are exact;
 * an error arises only where digits below B^-fraction are dropped, and then it is less than B^-fraction, which is
 * added to the radius. A radius that is not 0 is never less than that, so nothing underflows. What does not fit above
 * has an infinite radius. */
#ifndef QB_RUN_EXACT_NUMBER_H
#define QB_RUN_EXACT_NUMBER_H

#include <arb.h>
#include <stdbool.h>
#include <stdint.h>

enum { EXACT_BITS = 20, EXACT_BASE = 1 << EXACT_BITS, EXACT_INTEGER = 4, EXACT_MOST = 18 };

typedef struct exact_format {
  int fraction, planes; /* digits behind the point, and in all: fraction + EXACT_INTEGER <= EXACT_MOST */
  double unit;          /* B^-fraction */
  double lost;          /* the radius for dropped digits: a unit */
} exact_format;

typedef struct exact_number {
  int64_t d[EXACT_MOST];
  double r;
} exact_number;

exact_format exact_format_make(int fraction);

/* sum_k digit[k] B^(first + k), |digit[k]| < 2^62, with radius r: carries, and drops what the format does not hold. */
void exact_set(const exact_format *f, const int64_t *digit, int count, int first, double r, exact_number *y);

void exact_from_double(const exact_format *f, double x, exact_number *y);

/* The exact centre is within *error of hi + lo, hi the double next to it or its neighbour. */
void exact_to_pair(const exact_format *f, const exact_number *x, double *hi, double *lo, double *error);

/* Bounds the exact value: |x| <= magnitude; the interval of x. */
double exact_magnitude(const exact_format *f, const exact_number *x);
void exact_to_interval(const exact_format *f, const exact_number *x, double *lo, double *hi);

/* Of the centres. */
int exact_compare(const exact_format *f, const exact_number *a, const exact_number *b);
int exact_compare_double(const exact_format *f, const exact_number *a, double b);
int exact_sign(const exact_format *f, const exact_number *a);

/* Results may be one of the operands. */
void exact_add(const exact_format *f, const exact_number *a, const exact_number *b, exact_number *y);
void exact_subtract(const exact_format *f, const exact_number *a, const exact_number *b, exact_number *y);
void exact_multiply(const exact_format *f, const exact_number *a, const exact_number *b, exact_number *y);

/* min(max(x, lo), hi); limits may be infinite. */
void exact_clamp(const exact_format *f, double lo, double hi, exact_number *x);

/* sum / divisor of digit-wise sums (planes) of numbers with the sum of radii r. */
void exact_mean(const exact_format *f, const int64_t *sum, double r, int64_t divisor, exact_number *y);

/* x moved by r downwards (sign -1) or upwards (+1): an end of its interval, outwards, with radius 0; infinite when it
 * does not fit. */
void exact_end(const exact_format *f, const exact_number *x, int sign, exact_number *y);

void exact_to_arb(const exact_format *f, const exact_number *x, arb_t y);
void exact_from_arb(const exact_format *f, const arb_t x, exact_number *y);

/* An upper bound of a + b for radii. */
static inline double exact_radius_sum(double a, double b) { return a + b == 0 ? 0 : (a + b) * (1 + 0x1p-50); }

#endif
