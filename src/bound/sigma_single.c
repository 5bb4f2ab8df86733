/* Eigenvalues that lie clearly below a shift are proved to do so in float32, in half the time.
 *
 * A = s I - G is scaled by a power of two so that s lies in [1, 2), rounded to float32 and factorised block by block,
 * L L^H = A + E. Entry (i, j) of A - sum l l^* is formed in n / b steps, each of a sum over at most b products and a
 * subtraction from what is left, and |what is left| <= sqrt(a_ii a_jj) since the remaining matrix has a decreasing
 * diagonal; so |E_ij| <= (4.1 (b + 8) + 2.1 (n / b + 2)) u sqrt(a_ii a_jj) =: eps .., ||E|| <= eps tr A <= eps n s,
 * where the plain factorisation has 4.1 (n + 8) u. Rounding to float32 adds u ||A||_F. Underflow changes an entry by
 * less than 2^-120, far below either. A factorisation that runs to completion therefore proves largest eigenvalue of G
 * <= s (1 + eps n + u sqrt(n)) + u ||G||_F. */
#include <cblas.h>
#include <complex.h>
#include <math.h>

#include "bound/fault.h"
#include "bound/sigma_internal.h"

/* LAPACK's Cholesky factorisation, from the same OpenBLAS as cblas. */
void cpotrf_(const char *uplo, const int *n, float _Complex *a, const int *lda, int *info, size_t uplo_length);

enum { BLOCK = 32 };

static const double SINGLE_UNIT = FLT_EPSILON / 2;

/* The shift that a float32 factorisation has to prove so that `shift` follows for the matrix itself; 0: none will. */
static double smaller_shift(int64_t size, double norm, double shift) {
  double n = (double)size, blocks = ceil(n / BLOCK), columns = fmin(n, BLOCK);
  double eps = (4.1 * (columns + 8) + 2.1 * (blocks + 2)) * SINGLE_UNIT;
  if (qb_bound_fault == QB_FAULT_NO_SINGLE_CHOLESKY)
    return shift;
  if (!(eps * n < 0.25) || !(norm < 1e20 * shift))
    return 0;
  double less = (shift - 1.01 * SINGLE_UNIT * norm) / (1 + 1.35 * eps * n + 1.01 * SINGLE_UNIT * sqrt(n));
  return less * (1 - 1e-12);
}

/* Lower triangle of factor (shift I - G), G packed. */
static void round_packed(const double *re, const double *im, int64_t size, double shift, double factor, float *single) {
  for (int64_t i = 0; i < size; i++, re += i, im += i) {
    float *out = single + 2 * i * size;
    for (int64_t j = 0; j < i; j++) {
      out[2 * j] = (float)(-factor * re[j]);
      out[2 * j + 1] = (float)(-factor * im[j]);
    }
    out[2 * i] = (float)(factor * (shift - re[i]));
    out[2 * i + 1] = 0;
  }
}

static void round_full(const qb_complex *gram, int64_t size, double shift, double factor, float *single) {
  for (int64_t i = 0; i < size; i++) {
    const double *row = (const double *)(gram + i * size);
    float *out = single + 2 * i * size;
    for (int64_t j = 0; j < 2 * i; j++)
      out[j] = (float)(-factor * row[j]);
    out[2 * i] = (float)(factor * (shift - row[2 * i]));
    out[2 * i + 1] = 0;
  }
}

/* Pivots must be positive numbers; NaN, which LAPACK lets pass, is none. */
static bool factorise_corner(float _Complex *corner, int64_t columns, int64_t size) {
  int n = (int)columns, stride = (int)size, info = -1;
  cpotrf_("U", &n, corner, &stride, &info, 1); /* row-major lower is column-major upper of the conjugate */
  bool positive = info == 0;
  for (int64_t i = 0; i < columns; i++)
    positive = positive && crealf(corner[i * size + i]) > 0 && isfinite(crealf(corner[i * size + i]));
  return positive;
}

static bool factorises(float _Complex *a, int64_t size) {
  const float _Complex one = 1;
  for (int64_t first = 0; first < size; first += BLOCK) {
    int64_t columns = size - first < BLOCK ? size - first : BLOCK, below = size - first - columns;
    float _Complex *corner = a + first * size + first, *panel = corner + columns * size;
    if (!factorise_corner(corner, columns, size))
      return false;
    if (below == 0)
      break;
    cblas_ctrsm(CblasRowMajor, CblasRight, CblasLower, CblasConjTrans, CblasNonUnit, (int)below, (int)columns, &one,
                corner, (int)size, panel, (int)size);
    cblas_cherk(CblasRowMajor, CblasLower, CblasNoTrans, (int)below, (int)columns, -1, panel, (int)size, 1,
                panel + columns, (int)size);
  }
  return true;
}

bool sigma_single_proves(const sigma_plan *p, const sigma_grams *g, int64_t index, double norm, double shift,
                         sigma_workspace *w) {
  double less = smaller_shift(p->size, norm, shift), factor = less > 0 ? ldexp(1, -ilogb(less)) : 0;
  if (g->re == NULL)
    sigma_gram_obtain(p, g, index, w);
  if (!(less > DBL_MIN * 0x1p100) || !(shift < DBL_MAX * 0x1p-100))
    return false;
  if (g->re != NULL)
    round_packed(g->re + index * p->entries, g->im + index * p->entries, p->size, less, factor, w->single);
  else
    round_full(w->gram, p->size, less, factor, w->single);
  return factorises((float _Complex *)(void *)w->single, p->size);
}
