/* Spectral norms from below, by power iterations at a few frequencies: good enough to tell which of two bounds is worth
 * proving, and nothing is proved with them. */
#include <cblas.h>
#include <math.h>
#include <omp.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/sigma.h"

enum { ITERATIONS = 5, LARGE = 128 };

typedef float _Complex single;

/* One symbol in float32. */
typedef struct symbol {
  int rows, cols;
  single *at;
} symbol;

typedef struct operator_at {
  symbol inner, outer, skip; /* of the composition; outer.at NULL: inner alone, skip.at NULL: no skip */
  single *right, *middle, *left;
} operator_at;

static void apply(const symbol *m, bool adjoint, float factor, bool add, const single *x, single *y) {
  const single alpha = factor, beta = add ? 1 : 0;
  cblas_cgemv(CblasRowMajor, adjoint ? CblasConjTrans : CblasNoTrans, m->rows, m->cols, &alpha, m->at, m->cols, x, 1,
              &beta, y, 1);
}

static void forward(const operator_at *o) {
  if (o->outer.at == NULL) {
    apply(&o->inner, false, 1, false, o->right, o->left);
    return;
  }
  apply(&o->inner, false, 0.5F, false, o->right, o->middle);
  apply(&o->outer, false, 1, false, o->middle, o->left);
  if (o->skip.at != NULL)
    apply(&o->skip, false, 1, true, o->right, o->left);
}

static void backward(const operator_at *o) {
  if (o->outer.at == NULL) {
    apply(&o->inner, true, 1, false, o->left, o->right);
    return;
  }
  apply(&o->outer, true, 0.5F, false, o->left, o->middle);
  apply(&o->inner, true, 1, false, o->middle, o->right);
  if (o->skip.at != NULL)
    apply(&o->skip, true, 1, true, o->left, o->right);
}

static double normalise(single *v, int count) {
  float length = cblas_scnrm2(count, v, 1);
  if (length > 0 && isfinite(length) && isfinite(1 / length))
    cblas_csscal(count, 1 / length, v, 1);
  return (double)length;
}

static double iterate(const operator_at *o) {
  int rows = o->outer.at == NULL ? o->inner.rows : o->outer.rows;
  double norm = 0;
  for (int i = 0; i < o->inner.cols; i++) /* orthogonal to nothing in particular */
    o->right[i] =
        (single)qb_complex_of(1 + 0.3 * (double)(i * 7919 % 101) / 101, 0.2 * (double)(i * 104729L % 97) / 97);
  for (int k = 0; k < ITERATIONS; k++) {
    normalise(o->right, o->inner.cols);
    forward(o);
    norm = normalise(o->left, rows);
    if (k < ITERATIONS - 1)
      backward(o);
  }
  return norm;
}

static bool make_symbol(const qb_kernel *k, const qb_twiddles twiddles[2], int64_t fy, int64_t fx, symbol *s) {
  int64_t cols = k->cols * k->stride[0] * k->stride[1], count = k->rows * cols;
  qb_complex *exact = qb_alloc_uncleared((size_t)count, sizeof *exact);
  *s = (symbol){(int)k->rows, (int)cols, qb_alloc_uncleared((size_t)count, sizeof *s->at)};
  bool made = exact != NULL && s->at != NULL;
  if (made)
    qb_kernel_symbol(k, 0, twiddles, fy, fx, exact);
  for (int64_t i = 0; made && i < count; i++)
    s->at[i] = (single)exact[i];
  qb_free(exact);
  return made;
}

static bool norm_at(const qb_sigma_problem *problem, const qb_twiddles twiddles[4], int64_t fy, int64_t fx,
                    double *norm) {
  operator_at o = {.right = NULL};
  bool made = make_symbol(problem->inner, twiddles, fy, fx, &o.inner);
  if (made && problem->outer != NULL)
    made = make_symbol(problem->outer, twiddles + 2, fy, fx, &o.outer);
  if (made && problem->skip != NULL)
    made = make_symbol(problem->skip, twiddles, fy, fx, &o.skip);
  int64_t rows = problem->outer == NULL ? problem->inner->rows : problem->outer->rows;
  o.right = qb_alloc((size_t)o.inner.cols, sizeof *o.right);
  o.middle = qb_alloc((size_t)problem->inner->rows, sizeof *o.middle);
  o.left = qb_alloc((size_t)rows, sizeof *o.left);
  made = made && o.right != NULL && o.middle != NULL && o.left != NULL;
  *norm = made ? iterate(&o) : 0;
  qb_free(o.inner.at);
  qb_free(o.outer.at);
  qb_free(o.skip.at);
  qb_free(o.right);
  qb_free(o.middle);
  qb_free(o.left);
  return made;
}

/* A coarse grid over half of the output's torus, the origin included. */
static qb_status estimate(const qb_sigma_problem *problem, const qb_twiddles twiddles[4], double *sigma,
                          qb_error *error) {
  const qb_kernel *k = problem->inner;
  int64_t n[2] = {problem->side[0] / k->stride[0], problem->side[1] / k->stride[1] / 2 + 1};
  int64_t points[2] = {k->rows > LARGE ? 3 : 5, k->rows > LARGE ? 2 : 3};
  bool failed = false;
  double largest = 0;
  for (int axis = 0; axis < 2; axis++)
    points[axis] = points[axis] < n[axis] ? points[axis] : n[axis];
#pragma omp parallel for schedule(dynamic, 1) reduction(|| : failed) reduction(max : largest)
  for (int64_t i = 0; i < points[0] * points[1]; i++) {
    int64_t y = i / points[1], x = i % points[1];
    double norm;
    failed = !norm_at(problem, twiddles, y * n[0] / points[0], points[1] == 1 ? 0 : x * (n[1] - 1) / (points[1] - 1),
                      &norm) ||
             failed;
    largest = fmax(largest, norm);
  }
  *sigma = largest;
  return failed ? qb_fail_memory(error, "estimate of a spectral norm", (size_t)(k->rows * k->cols) * sizeof(single))
                : QB_OK;
}

qb_status qb_sigma_estimate(const qb_sigma_problem *problem, double *sigma, qb_error *error) {
  qb_twiddles twiddles[4];
  qb_arena arena;
  if (problem->inner->groups > 1) /* small matrices */
    return qb_sigma_bound(problem, sigma, error);
  qb_arena_init(&arena);
  int threads = openblas_get_num_threads(), workers = omp_get_max_threads();
  openblas_set_num_threads(1);
  omp_set_num_threads(workers);
  qb_status status = QB_OK;
  for (int i = 0; i < 4 && status == QB_OK; i++)
    status = qb_twiddles_create(i < 2 ? problem->side[i] : problem->side[i - 2] / problem->inner->stride[i - 2], &arena,
                                &twiddles[i], error);
  if (status == QB_OK)
    status = estimate(problem, twiddles, sigma, error);
  openblas_set_num_threads(threads);
  omp_set_num_threads(workers);
  qb_arena_free(&arena);
  return status;
}
