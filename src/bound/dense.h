/* The inner loops of the relaxation over contiguous doubles. Sums may be taken in any order: whoever calls bounds their
 * rounding by gamma of the number of terms, which holds for every order. A coefficient of 0 takes nothing from an
 * infinite factor. */
#ifndef QB_BOUND_DENSE_H
#define QB_BOUND_DENSE_H

#include <stdbool.h>
#include <stdint.h>

/* *sum += c . b and *lost += |c| . reach. */
void qb_dense_account(int64_t n, const double *c, const double *b, const double *reach, double *sum, double *lost);

/* *sum += the sum of c and *lost += |c| . reach. */
void qb_dense_total(int64_t n, const double *c, const double *reach, double *sum, double *lost);

/* The maximum of c . x over lo <= x <= hi, and the sum of the terms' sizes. */
void qb_dense_range(int64_t n, const double *c, const double *lo, const double *hi, double *sum, double *magnitude);

/* h . x where c . x is largest over lo <= x <= hi (at lo where c is 0). */
double qb_dense_at_top(int64_t n, const double *c, const double *h, const double *lo, const double *hi);

/* c += factor h. */
void qb_dense_add(int64_t n, double factor, const double *h, double *c);

/* |c| . max(|lo|, |hi|). */
double qb_dense_reach(int64_t n, const double *c, const double *lo, const double *hi);

/* Planes above y_i and above -y_i, one array per number: p a + r d + constant. reach bounds the terms' sizes. */
typedef struct qb_dense_planes {
  double *a[2], *d[2], *constant[2], *reach[2];
} qb_dense_planes;

/* c . y is at most to_a . a + to_d . d + constant by the planes; all of these are added to. to_d may be NULL: no
 * plane has a slope in d. */
void qb_dense_substitute(int64_t n, const double *c, const qb_dense_planes *planes, double *to_a, double *to_d,
                         double *constant, double *lost);

/* sum over the columns of a row of float32 weights: (w - minus) x, or |w - minus| x; minus may be NULL. */
double qb_dense_row(int64_t n, const float *w, const float *minus, bool absolute, const double *x);

bool qb_dense_is_zero(int64_t n, const double *c);

#endif
