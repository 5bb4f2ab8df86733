/* Magnitudes: mag_t arithmetic, and decimals and logarithms rounded up in ball arithmetic. */
#include "bound/magnitude.h"

#include <arb.h>
#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PRINT_PRECISION = 128 }; /* bits; three digits and their logarithm need far fewer */

qb_magnitude qb_magnitude_zero(void) {
  qb_magnitude r;
  mag_init(&r.mag);
  return r;
}

qb_magnitude qb_magnitude_infinity(void) {
  qb_magnitude r = qb_magnitude_zero();
  mag_inf(&r.mag);
  return r;
}

qb_magnitude qb_magnitude_from_double(double x) {
  if (!isfinite(x))
    return qb_magnitude_infinity();
  assert(x >= 0);
  int exponent;
  double mantissa = ceil(ldexp(frexp(x, &exponent), MAG_BITS)); /* <= 2^30: exact below, unlike mag_set_d */
  qb_magnitude r = qb_magnitude_zero();
  mag_set_ui_2exp_si(&r.mag, (ulong)mantissa, exponent - MAG_BITS);
  return r;
}

qb_magnitude qb_magnitude_add(qb_magnitude a, qb_magnitude b) {
  qb_magnitude r = qb_magnitude_zero();
  mag_add(&r.mag, &a.mag, &b.mag);
  return r;
}

qb_magnitude qb_magnitude_multiply(qb_magnitude a, qb_magnitude b) {
  qb_magnitude r = qb_magnitude_zero();
  if (!mag_is_zero(&a.mag) && !mag_is_zero(&b.mag))
    mag_mul(&r.mag, &a.mag, &b.mag);
  return r;
}

qb_magnitude qb_magnitude_multiply_lower(qb_magnitude a, qb_magnitude b) {
  qb_magnitude r = qb_magnitude_zero();
  mag_mul_lower(&r.mag, &a.mag, &b.mag);
  return r;
}

qb_magnitude qb_magnitude_min(qb_magnitude a, qb_magnitude b) { return qb_magnitude_compare(a, b) <= 0 ? a : b; }

qb_magnitude qb_magnitude_max(qb_magnitude a, qb_magnitude b) { return qb_magnitude_compare(a, b) >= 0 ? a : b; }

qb_magnitude qb_magnitude_scale(qb_magnitude a, long exponent) {
  qb_magnitude r = qb_magnitude_zero();
  mag_mul_2exp_si(&r.mag, &a.mag, exponent);
  return r;
}

int qb_magnitude_compare(qb_magnitude a, qb_magnitude b) { return mag_cmp(&a.mag, &b.mag); }

bool qb_magnitude_is_finite(qb_magnitude a) { return mag_is_finite(&a.mag) != 0; }

double qb_magnitude_to_double(qb_magnitude a) {
  arf_t x;
  arf_init(x);
  arf_set_mag(x, &a.mag);
  double r = arf_get_d(x, ARF_RND_CEIL);
  arf_clear(x);
  return r;
}

/* An upper bound of log10(a) for finite a > 0. */
static double log10_upper(const mag_t a) {
  arb_t x, ten;
  arf_t upper;
  arb_init(x);
  arb_init(ten);
  arf_init(upper);
  arf_set_mag(arb_midref(x), a);
  arb_set_ui(ten, 10);
  arb_log(x, x, PRINT_PRECISION);
  arb_log(ten, ten, PRINT_PRECISION);
  arb_div(x, x, ten, PRINT_PRECISION);
  arb_get_ubound_arf(upper, x, PRINT_PRECISION);
  double r = arf_get_d(upper, ARF_RND_CEIL);
  arf_clear(upper);
  arb_clear(ten);
  arb_clear(x);
  return r;
}

double qb_magnitude_log10(qb_magnitude a) {
  if (mag_is_zero(&a.mag))
    return -INFINITY;
  return mag_is_finite(&a.mag) ? log10_upper(&a.mag) : INFINITY;
}

/* The smallest integer that is surely >= a / 10^power; far beyond 1000 when `power` is much too small. */
static long ceil_scaled(const mag_t a, long power) {
  arb_t x, scale;
  arf_t upper;
  fmpz_t digits;
  arb_init(x);
  arb_init(scale);
  arf_init(upper);
  fmpz_init(digits);
  arf_set_mag(arb_midref(x), a);
  arb_set_ui(scale, 10);
  arb_pow_ui(scale, scale, (ulong)labs(power), PRINT_PRECISION);
  if (power < 0)
    arb_mul(x, x, scale, PRINT_PRECISION);
  else
    arb_div(x, x, scale, PRINT_PRECISION);
  arb_get_ubound_arf(upper, x, PRINT_PRECISION);
  arf_get_fmpz(digits, upper, ARF_RND_CEIL);
  long r = fmpz_fits_si(digits) ? fmpz_get_si(digits) : LONG_MAX;
  fmpz_clear(digits);
  arf_clear(upper);
  arb_clear(scale);
  arb_clear(x);
  return r;
}

const char *qb_magnitude_print(qb_magnitude a, char text[QB_MAGNITUDE_TEXT]) {
  if (mag_is_zero(&a.mag) || !mag_is_finite(&a.mag)) {
    snprintf(text, QB_MAGNITUDE_TEXT, "%s", mag_is_zero(&a.mag) ? "0" : "inf");
    return text;
  }
  long power = (long)floor(log10_upper(&a.mag)) - 2;
  long digits = ceil_scaled(&a.mag, power);
  if (digits < 100) /* the logarithm was rounded up across a power of ten */
    digits = ceil_scaled(&a.mag, --power);
  if (digits > 999) /* 9.991 becomes 10.0 */
    digits = ceil_scaled(&a.mag, ++power);
  snprintf(text, QB_MAGNITUDE_TEXT, "%ld.%02lde%ld", digits / 100, digits % 100, power + 2);
  return text;
}
