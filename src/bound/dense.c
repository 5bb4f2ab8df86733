/* Loops that compilers turn into vector instructions; see dense.h. */
#include "bound/dense.h"

#include <math.h>
#include <stddef.h>

#include "base/wide.h"

/* Functions that exist in several versions are static: the symbol that chooses among them cannot be hidden. */

QB_WIDE static void account(int64_t n, const double *c, const double *b, const double *reach, double *sum,
                            double *lost) {
  double total = 0, away = 0;
#pragma omp simd reduction(+ : total, away)
  for (int64_t i = 0; i < n; i++) {
    double part = fabs(c[i]) * reach[i];
    total += c[i] * b[i];
    away += c[i] == 0 ? 0 : part;
  }
  *sum += total;
  *lost += away;
}

QB_WIDE static void total_of(int64_t n, const double *c, const double *reach, double *sum, double *lost) {
  double total = 0, away = 0;
#pragma omp simd reduction(+ : total, away)
  for (int64_t i = 0; i < n; i++) {
    double part = fabs(c[i]) * reach[i];
    total += c[i];
    away += c[i] == 0 ? 0 : part;
  }
  *sum += total;
  *lost += away;
}

QB_WIDE static void range(int64_t n, const double *c, const double *lo, const double *hi, double *sum,
                          double *magnitude) {
  double total = 0, size = 0;
#pragma omp simd reduction(+ : total, size)
  for (int64_t i = 0; i < n; i++) {
    double low = lo[i], high = hi[i], end = c[i] > 0 ? high : low, term = c[i] * end;
    term = c[i] == 0 ? 0 : term;
    total += term;
    size += fabs(term);
  }
  *sum = total;
  *magnitude = size;
}

QB_WIDE static double at_top(int64_t n, const double *c, const double *h, const double *lo, const double *hi) {
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; i++) {
    double low = lo[i], high = hi[i];
    total += h[i] * (c[i] > 0 ? high : low);
  }
  return total;
}

QB_WIDE static void add_multiple(int64_t n, double factor, const double *restrict h, double *restrict c) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    c[i] += factor * h[i];
}

QB_WIDE static double reach_of(int64_t n, const double *c, const double *lo, const double *hi) {
  double away = 0;
#pragma omp simd reduction(+ : away)
  for (int64_t i = 0; i < n; i++) {
    double low = fabs(lo[i]), high = fabs(hi[i]), part = fabs(c[i]) * (low > high ? low : high);
    away += c[i] == 0 ? 0 : part;
  }
  return away;
}

/* Both signs are read and one is taken, so that no branch stands in the way. */
QB_WIDE static void substitute_one(int64_t n, const double *restrict c, const qb_dense_planes *planes,
                                   double *restrict to_a, double *constant, double *lost) {
  const double *a0 = planes->a[0], *a1 = planes->a[1], *k0 = planes->constant[0], *k1 = planes->constant[1];
  const double *r0 = planes->reach[0], *r1 = planes->reach[1];
  double sum = 0, away = 0;
#pragma omp simd reduction(+ : sum, away)
  for (int64_t i = 0; i < n; i++) {
    double size = fabs(c[i]), above = a0[i], below = a1[i], k_above = k0[i], k_below = k1[i], r_above = r0[i],
           r_below = r1[i];
    double k = size * (c[i] < 0 ? k_below : k_above), r = size * (c[i] < 0 ? r_below : r_above);
    to_a[i] += size * (c[i] < 0 ? below : above);
    sum += c[i] == 0 ? 0 : k;
    away += c[i] == 0 ? 0 : r;
  }
  *constant += sum;
  *lost += away;
}

QB_WIDE static void add_slopes(int64_t n, const double *restrict c, const double *above, const double *below,
                               double *restrict to) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    double up = above[i], down = below[i];
    to[i] += fabs(c[i]) * (c[i] < 0 ? down : up);
  }
}

void qb_dense_substitute(int64_t n, const double *c, const qb_dense_planes *planes, double *to_a, double *to_d,
                         double *constant, double *lost) {
  substitute_one(n, c, planes, to_a, constant, lost);
  if (to_d != NULL)
    add_slopes(n, c, planes->d[0], planes->d[1], to_d);
}

QB_WIDE static double row_alone(int64_t n, const float *w, const double *x) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++)
    sum += (double)w[i] * x[i];
  return sum;
}

QB_WIDE static double row_difference(int64_t n, const float *w, const float *minus, const double *x) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++)
    sum += ((double)w[i] - (double)minus[i]) * x[i];
  return sum;
}

QB_WIDE static double row_alone_absolute(int64_t n, const float *w, const double *x) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++)
    sum += fabs((double)w[i]) * x[i];
  return sum;
}

QB_WIDE static double row_difference_absolute(int64_t n, const float *w, const float *minus, const double *x) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++)
    sum += fabs((double)w[i] - (double)minus[i]) * x[i];
  return sum;
}

double qb_dense_row(int64_t n, const float *w, const float *minus, bool absolute, const double *x) {
  if (minus == NULL)
    return absolute ? row_alone_absolute(n, w, x) : row_alone(n, w, x);
  return absolute ? row_difference_absolute(n, w, minus, x) : row_difference(n, w, minus, x);
}

bool qb_dense_is_zero(int64_t n, const double *c) {
  bool zero = true;
  for (int64_t i = 0; zero && i < n; i++)
    zero = c[i] == 0;
  return zero;
}

void qb_dense_account(int64_t n, const double *c, const double *b, const double *reach, double *sum, double *lost) {
  account(n, c, b, reach, sum, lost);
}

void qb_dense_total(int64_t n, const double *c, const double *reach, double *sum, double *lost) {
  total_of(n, c, reach, sum, lost);
}

void qb_dense_range(int64_t n, const double *c, const double *lo, const double *hi, double *sum, double *magnitude) {
  range(n, c, lo, hi, sum, magnitude);
}

double qb_dense_at_top(int64_t n, const double *c, const double *h, const double *lo, const double *hi) {
  return at_top(n, c, h, lo, hi);
}

void qb_dense_add(int64_t n, double factor, const double *h, double *c) { add_multiple(n, factor, h, c); }

double qb_dense_reach(int64_t n, const double *c, const double *lo, const double *hi) { return reach_of(n, c, lo, hi); }
