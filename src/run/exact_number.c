/* Arithmetic of numbers in base 2^20; see exact_number.h. */
#include "run/exact_number.h"

#include <math.h>
#include <string.h>

static const int64_t HALF = EXACT_BASE / 2;

exact_format exact_format_make(int fraction) {
  double unit = ldexp(1, -EXACT_BITS * fraction);
  return (exact_format){fraction, fraction + EXACT_INTEGER, unit, unit};
}

/* Not below one unit, unless it is 0; a radius that may not fit the format is infinite. */
static double sealed(const exact_format *f, double r) {
  return r == 0 ? 0 : !(r < 0x1p70) ? INFINITY : fmax(r, f->unit);
}

static void unknown(exact_number *y) {
  memset(y->d, 0, sizeof y->d);
  y->r = INFINITY;
}

/* The balanced digit of v; what is left goes to the next place. */
static int64_t take_digit(int64_t v, int64_t *carry) {
  int64_t digit = ((v + HALF) & (EXACT_BASE - 1)) - HALF;
  *carry = (v - digit) / EXACT_BASE;
  return digit;
}

void exact_set(const exact_format *f, const int64_t *digit, int count, int first, double r, exact_number *y) {
  int64_t carry = 0, result[EXACT_MOST] = {0};
  bool dropped = false, overflows = false;
  for (int k = 0; k < count || carry != 0; k++) {
    int plane = first + k + f->fraction;
    int64_t d = take_digit((k < count ? digit[k] : 0) + carry, &carry);
    dropped |= plane < 0 && d != 0;
    overflows |= plane >= f->planes && d != 0;
    if (plane >= 0 && plane < f->planes)
      result[plane] = d;
  }
  memcpy(y->d, result, sizeof result);
  y->r = sealed(f, exact_radius_sum(r, dropped ? f->lost : 0));
  if (overflows || y->r == INFINITY)
    unknown(y);
}

static int floor_divide(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

void exact_from_double(const exact_format *f, double x, exact_number *y) {
  int exponent;
  int64_t digits[3] = {0};
  if (!isfinite(x)) {
    unknown(y);
    return;
  }
  int64_t m = (int64_t)ldexp(frexp(x, &exponent), 53), low = m % (1 << 26), high = m / (1 << 26);
  exponent -= 53;
  int first = floor_divide(exponent, EXACT_BITS), next = floor_divide(exponent + 26, EXACT_BITS);
  digits[0] = low * (INT64_C(1) << (exponent - first * EXACT_BITS));
  digits[next - first] += high * (INT64_C(1) << (exponent + 26 - next * EXACT_BITS));
  exact_set(f, digits, 3, first, 0, y);
}

/* ------------------------------------------------------------------------------------------------------- to doubles */

static int top_plane(const exact_format *f, const exact_number *x) {
  int p = f->planes - 1;
  while (p >= 0 && x->d[p] == 0)
    p--;
  return p;
}

static int64_t three_digits(const exact_number *x, int plane) {
  int64_t v = 0;
  for (int p = plane; p > plane - 3; p--)
    v = v * EXACT_BASE + (p >= 0 ? x->d[p] : 0);
  return v;
}

/* In units of the third digit: |v| < 2^60 is within 2^6 of its double, and that difference is exact. The next three
 * digits, |w| < 2^60, count w 2^-60; `lo` and w are rounded once each to 53 bits, and the digits behind are below
 * 2^-60: together less than 2^-45. */
void exact_to_pair(const exact_format *f, const exact_number *x, double *hi, double *lo, double *error) {
  int p = top_plane(f, x);
  if (p < 0) {
    *hi = *lo = *error = 0;
    return;
  }
  double place = ldexp(1, EXACT_BITS * (p - 2 - f->fraction));
  int64_t v = three_digits(x, p);
  double rounded = (double)v, rest = (double)(v - (int64_t)rounded) + (double)three_digits(x, p - 3) * 0x1p-60;
  *hi = rounded * place;
  *lo = rest * place;
  bool whole = true; /* then v and its rest are whole numbers, and nothing is lost */
  for (int k = p - 3; k >= 0; k--)
    whole &= x->d[k] == 0;
  *error = whole ? 0 : 0x1p-45 * place;
}

double exact_magnitude(const exact_format *f, const exact_number *x) {
  double hi, lo, error;
  exact_to_pair(f, x, &hi, &lo, &error);
  return (fabs(hi) + fabs(lo) + error + x->r) * (1 + 0x1p-50);
}

static double outwards(double hi, double lo, double slack) {
  double end = lo + slack; /* |lo| is far below hi: three roundings of the smaller numbers, then one of the sum */
  return nextafter(hi + (end + (fabs(lo) + slack) * 0x1p-50), INFINITY);
}

void exact_to_interval(const exact_format *f, const exact_number *x, double *lower, double *upper) {
  double hi, lo, error;
  exact_to_pair(f, x, &hi, &lo, &error);
  double slack = (error + x->r) * (1 + 0x1p-50);
  bool exact = lo == 0 && slack == 0;
  *upper = exact ? hi : outwards(hi, lo, slack);
  *lower = exact ? hi : -outwards(-hi, -lo, slack);
}

/* ------------------------------------------------------------------------------------------------------- comparison */

int exact_sign(const exact_format *f, const exact_number *a) {
  int p = top_plane(f, a);
  return p < 0 ? 0 : a->d[p] > 0 ? 1 : -1;
}

int exact_compare(const exact_format *f, const exact_number *a, const exact_number *b) {
  for (int p = f->planes - 1; p >= 0; p--)
    if (a->d[p] != b->d[p])
      return a->d[p] > b->d[p] ? 1 : -1;
  return 0;
}

/* A double that does not fit lies beyond every number of the format. One with digits below the format's last is between
 * two numbers: dropped digits are less than half a unit, so only equality of centres has to be told apart. */
int exact_compare_double(const exact_format *f, const exact_number *a, double b) {
  exact_number limit;
  exact_from_double(f, b, &limit);
  if (limit.r == INFINITY)
    return b > 0 ? -1 : 1;
  int order = exact_compare(f, a, &limit);
  if (order != 0 || limit.r == 0)
    return order;
  double hi, lo, error;
  exact_to_pair(f, &limit, &hi, &lo, &error); /* at most the digits of a double: hi + lo is exact */
  return b - hi - lo > 0 ? -1 : b - hi - lo < 0 ? 1 : 0;
}

/* ------------------------------------------------------------------------------------------------------- arithmetic */

static void combine(const exact_format *f, const exact_number *a, const exact_number *b, int sign, exact_number *y) {
  int64_t sum[EXACT_MOST];
  for (int p = 0; p < f->planes; p++)
    sum[p] = a->d[p] + sign * b->d[p];
  exact_set(f, sum, f->planes, -f->fraction, exact_radius_sum(a->r, b->r), y);
}

void exact_add(const exact_format *f, const exact_number *a, const exact_number *b, exact_number *y) {
  combine(f, a, b, 1, y);
}

void exact_subtract(const exact_format *f, const exact_number *a, const exact_number *b, exact_number *y) {
  combine(f, a, b, -1, y);
}

/* |a b - a* b*| <= |a| rb + |b*| ra, and |b*| <= |b| + rb, which exact_magnitude includes. */
void exact_multiply(const exact_format *f, const exact_number *a, const exact_number *b, exact_number *y) {
  int64_t product[2 * EXACT_MOST] = {0};
  double r = 0;
  for (int p = 0; p < f->planes; p++)
    for (int q = 0; a->d[p] != 0 && q < f->planes; q++)
      product[p + q] += a->d[p] * b->d[q];
  if (b->r != 0)
    r = exact_magnitude(f, a) * b->r;
  if (a->r != 0)
    r = exact_radius_sum(r, exact_magnitude(f, b) * a->r);
  exact_set(f, product, 2 * f->planes - 1, -2 * f->fraction, isnan(r) ? INFINITY : r * (1 + 0x1p-50), y);
}

/* The centre goes to the limit; the radius is kept unless the whole interval is beyond. */
static void move_to(const exact_format *f, double limit, int side, exact_number *x) {
  exact_number end;
  exact_end(f, x, -side, &end);
  double r = end.r == 0 && exact_compare_double(f, &end, limit) * side >= 0 ? 0 : x->r;
  exact_from_double(f, limit, x);
  x->r = fmax(x->r, r);
}

void exact_clamp(const exact_format *f, double lo, double hi, exact_number *x) {
  if (x->r == INFINITY)
    return;
  if (lo > -INFINITY && exact_compare_double(f, x, lo) < 0)
    move_to(f, lo, -1, x);
  if (hi < INFINITY && exact_compare_double(f, x, hi) > 0)
    move_to(f, hi, 1, x);
}

/* Long division from the top; the remainder is less than one unit. */
void exact_mean(const exact_format *f, const int64_t *sum, double r, int64_t divisor, exact_number *y) {
  int64_t quotient[EXACT_MOST], rest = 0;
  for (int p = f->planes - 1; p >= 0; p--) {
    int64_t v = rest * EXACT_BASE + sum[p];
    quotient[p] = v / divisor;
    rest = v - quotient[p] * divisor;
  }
  double radius = r / (double)divisor * (1 + 0x1p-50);
  exact_set(f, quotient, f->planes, -f->fraction, exact_radius_sum(radius, rest == 0 ? 0 : f->unit), y);
}

void exact_end(const exact_format *f, const exact_number *x, int sign, exact_number *y) {
  exact_number r;
  int64_t sum[EXACT_MOST];
  if (x->r == INFINITY) {
    unknown(y);
    return;
  }
  exact_from_double(f, x->r, &r);
  if (r.r != 0)
    r.d[0]++; /* digits were dropped */
  for (int p = 0; p < f->planes; p++)
    sum[p] = x->d[p] + sign * r.d[p];
  exact_set(f, sum, f->planes, -f->fraction, 0, y);
}

/* -------------------------------------------------------------------------------------------------------------- Arb */

void exact_to_arb(const exact_format *f, const exact_number *x, arb_t y) {
  fmpz_t n;
  mag_t r;
  fmpz_init(n);
  mag_init(r);
  for (int p = f->planes - 1; p >= 0; p--) {
    fmpz_mul_2exp(n, n, EXACT_BITS);
    fmpz_add_si(n, n, (slong)x->d[p]);
  }
  arb_set_fmpz(y, n);
  arb_mul_2exp_si(y, y, -EXACT_BITS * f->fraction);
  mag_set_d(r, x->r);
  arb_add_error_mag(y, r);
  mag_clear(r);
  fmpz_clear(n);
}

static void set_from_fmpz(const exact_format *f, fmpz_t n, double r, exact_number *y) {
  int64_t digit[EXACT_MOST + 1];
  fmpz_t low;
  fmpz_init(low);
  for (int p = 0; p <= f->planes; p++) {
    fmpz_fdiv_r_2exp(low, n, EXACT_BITS);
    fmpz_fdiv_q_2exp(n, n, EXACT_BITS);
    digit[p] = (int64_t)fmpz_get_si(low);
  }
  digit[f->planes] += fmpz_get_si(n) * EXACT_BASE; /* 0, or -1 for negative numbers */
  exact_set(f, digit, f->planes + 1, -f->fraction, r, y);
  fmpz_clear(low);
}

void exact_from_arb(const exact_format *f, const arb_t x, exact_number *y) {
  if (!arb_is_finite(x) || arf_cmpabs_2exp_si(arb_midref(x), EXACT_BITS * EXACT_INTEGER) >= 0) {
    unknown(y);
    return;
  }
  arb_t scaled;
  fmpz_t n;
  arb_init(scaled);
  fmpz_init(n);
  arb_mul_2exp_si(scaled, x, EXACT_BITS * f->fraction);
  bool exact = arf_is_int(arb_midref(scaled)) && mag_is_zero(arb_radref(x));
  arf_get_fmpz(n, arb_midref(scaled), ARF_RND_DOWN); /* within one unit */
  double r = exact ? 0 : (mag_get_d(arb_radref(x)) + f->unit) * (1 + 0x1p-50);
  set_from_fmpz(f, n, r, y);
  fmpz_clear(n);
  arb_clear(scaled);
}
