/* Certified spectral norms; see sigma.h. */
#include "bound/sigma.h"

#include <assert.h>
#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/sigma_internal.h"

/* LAPACK's Cholesky factorisation, from the same OpenBLAS as cblas. */
void zpotrf_(const char *uplo, const int *n, qb_complex *a, const int *lda, int *info, size_t uplo_length);

enum { QUICK_ITERATIONS = 6, LONG_ITERATIONS = 80 };

/* ---------------------------------------------------------------------------------------------------- the plan */

/* The torus with the given input sides for p->kernel. */
static qb_status plan_torus(sigma_plan *p, const int64_t side[2], qb_error *error) {
  for (int axis = 0; axis < 2; axis++) {
    int64_t output = side[axis] / p->kernel->stride[axis];
    assert(side[axis] % p->kernel->stride[axis] == 0);
    p->frequencies[axis] = axis == 0 ? output : output / 2 + 1;
    QB_TRY(qb_twiddles_create(side[axis], &p->arena, &p->input[axis], error));
  }
  p->count = p->kernel->groups * p->frequencies[0] * p->frequencies[1];
  return QB_OK;
}

static qb_status compose(sigma_plan *p, const qb_sigma_problem *problem, double *lost, qb_error *error) {
  size_t bytes = sizeof(double) * qb_kernel_compose_values(problem->inner, problem->outer, problem->skip);
  double *values = sigma_memory_get(p->memory, QB_SIGMA_PRODUCTS, bytes);
  if (bytes > 0 && values == NULL)
    return qb_fail_memory(error, "kernel", bytes);
  return qb_kernel_compose(problem->inner, problem->outer, problem->skip, &p->arena, values, &p->joint, lost, error);
}

static qb_status plan_create(sigma_plan *p, const qb_sigma_problem *problem, int threads, qb_sigma_memory *memory,
                             qb_error *error) {
  *p = (sigma_plan){.kernel = problem->inner, .threads = threads, .memory = memory};
  double composing = 0;
  qb_arena_init(&p->arena);
  if (problem->outer != NULL) {
    QB_TRY(compose(p, problem, &composing, error));
    p->kernel = &p->joint;
  }
  p->rows = p->kernel->rows;
  p->cols = (int64_t)p->kernel->stride[0] * p->kernel->stride[1] * p->kernel->cols;
  p->size = p->rows < p->cols ? p->rows : p->cols;
  p->entries = p->size * (p->size + 1) / 2;
  p->symbol_error = qb_kernel_symbol_error(p->kernel) + composing;
  return plan_torus(p, problem->side, error);
}

/* ----------------------------------------------------------------------------------------------------- eigenvalues */

/* Rayleigh quotient after some power iterations from a fixed start: an estimate from below. */
static double gram_power(const qb_complex *gram, int64_t size, int iterations, sigma_workspace *w) {
  const qb_complex one = 1, zero = 0;
  double norm = 0;
  if (size == 1)
    return creal(gram[0]);
  for (int64_t i = 0; i < size; i++) /* a start that is orthogonal to nothing in particular */
    w->vector[i] = qb_complex_of(1 + 0.3 * (double)((i * 7919) % 101) / 101, 0.2 * (double)((i * 104729) % 97) / 97);
  for (int k = 0; k < iterations; k++) {
    double length = cblas_dznrm2((int)size, w->vector, 1);
    if (!(length > 0) || !isfinite(length))
      return length;
    cblas_zdscal((int)size, 1 / length, w->vector, 1);
    cblas_zhemv(CblasRowMajor, CblasLower, (int)size, &one, gram, (int)size, w->vector, 1, &zero, w->image, 1);
    norm = cblas_dznrm2((int)size, w->image, 1);
    memcpy(w->vector, w->image, (size_t)size * sizeof *w->vector);
  }
  return norm;
}

/* True when the floating-point Cholesky factorisation of shift I - gram runs to completion; destroys `gram`. */
static bool cholesky_completes(qb_complex *gram, int64_t size, double shift) {
  for (int64_t i = 0; i < size; i++)
    for (int64_t j = 0; j <= i; j++)
      gram[i * size + j] = (i == j ? shift : 0) - gram[i * size + j];
  int n = (int)size, info = -1;
  zpotrf_("U", &n, gram, &n, &info, 1); /* row-major lower is column-major upper of the conjugate */
  return info == 0;
}

/* ------------------------------------------------------------------------------------------------- the two passes */

/* Frobenius bounds below which a matrix is not expected to hold the largest norm: an eighth lies above, a dozen at
 * least. A wrong guess costs time in the second pass, nothing else. */
static double promising(const sigma_plan *p, const sigma_grams *c) {
  int64_t wanted = p->count / 8 > 12 ? p->count / 8 : 12;
  double lo = 0, hi = 0;
  for (int64_t i = 0; i < p->count; i++)
    hi = fmax(hi, c->upper[i]);
  for (int k = 0; k < 40; k++) {
    double middle = lo / 2 + hi / 2;
    int64_t above = 0;
    for (int64_t i = 0; i < p->count; i++)
      above += c->upper[i] >= middle;
    *(above >= wanted ? &lo : &hi) = middle;
  }
  return lo;
}

/* Real taps: the matrix at the frequency -f is the conjugate of that at f, and both are numbered where the second axis
 * is its own negative. */
static bool is_mirrored(const sigma_plan *p, int64_t index) {
  int64_t height = p->frequencies[0], width = p->input[1].n / p->kernel->stride[1];
  int64_t fx = index % p->frequencies[1], fy = index / p->frequencies[1] % height;
  return (fx == 0 || 2 * fx == width) && 2 * fy > height;
}

/* First pass: the Frobenius bound of every Gram matrix, and a short power iteration where that is large. */
static qb_status first_pass(const sigma_plan *p, sigma_grams *c, qb_error *error) {
  bool failed = false;
  double limit = 0;
#pragma omp parallel num_threads(p->threads) reduction(|| : failed)
  {
    sigma_workspace w;
    failed = !sigma_workspace_create(&w, p, c);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed || is_mirrored(p, i))
        continue;
      c->upper[i] = sigma_gram_frobenius(p, c, i, &w);
    }
#pragma omp single
    limit = promising(p, c);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed || c->upper[i] < limit)
        continue;
      sigma_gram_obtain(p, c, i, &w);
      c->estimate[i] = gram_power(w.gram, p->size, QUICK_ITERATIONS, &w);
    }
    sigma_workspace_free(&w);
  }
  return failed ? qb_fail_memory(error, "spectral norm", (size_t)(p->rows * p->cols) * sizeof(qb_complex)) : QB_OK;
}

static double largest_estimate(const sigma_plan *p, const sigma_grams *c) {
  double largest = 0;
  for (int64_t i = 0; i < p->count; i++)
    largest = fmax(largest, c->estimate[i]);
  return largest;
}

/* Long power iterations on matrix `index`. */
static void refine_estimate(const sigma_plan *p, sigma_grams *c, int64_t index, sigma_workspace *w) {
  sigma_gram_obtain(p, c, index, w);
  c->estimate[index] = fmax(c->estimate[index], gram_power(w->gram, p->size, LONG_ITERATIONS, w));
}

/* lambda_max <= shift for matrix `index`; most are far below, where float32 is enough. */
static bool prove(const sigma_plan *p, const sigma_grams *c, int64_t index, double shift, sigma_workspace *w) {
  if (sigma_single_proves(p, c, index, c->upper[index] * (1 + 1e-8), shift, w))
    return true;
  sigma_gram_obtain(p, c, index, w);
  return cholesky_completes(w->gram, p->size, shift);
}

/* Second pass: proves lambda_max <= shift for every matrix whose upper bound exceeds it; refines the estimate of those
 * that fail and returns how many did. Proved matrices get upper[i] = shift. */
static qb_status second_pass(const sigma_plan *p, sigma_grams *c, double shift, int64_t *failures, qb_error *error) {
  bool failed = false;
  int64_t refused = 0;
#pragma omp parallel num_threads(p->threads) reduction(|| : failed) reduction(+ : refused)
  {
    sigma_workspace w;
    failed = !sigma_workspace_create(&w, p, c);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed || c->upper[i] <= shift)
        continue;
      bool proved = p->size > 1 && prove(p, c, i, shift, &w);
      if (proved) {
        c->upper[i] = shift;
      } else {
        refused++;
        refine_estimate(p, c, i, &w);
      }
    }
    sigma_workspace_free(&w);
  }
  *failures = refused;
  return failed ? qb_fail_memory(error, "spectral norm", (size_t)(p->size * p->size) * sizeof(qb_complex)) : QB_OK;
}

/* Long power iterations on the few matrices that look largest. */
static qb_status refine_best(const sigma_plan *p, sigma_grams *c, qb_error *error) {
  enum { BEST = 4 };
  sigma_workspace w;
  bool ready = sigma_workspace_create(&w, p, c);
  double limit = INFINITY;
  for (int k = 0; ready && k < BEST && k < p->count; k++) {
    int64_t best = -1;
    for (int64_t i = 0; i < p->count; i++)
      if (c->estimate[i] < limit && (best < 0 || c->estimate[i] > c->estimate[best]))
        best = i;
    if (best < 0)
      break;
    limit = c->estimate[best];
    refine_estimate(p, c, best, &w);
  }
  sigma_workspace_free(&w);
  return ready ? QB_OK : qb_fail_memory(error, "spectral norm", (size_t)(p->size * p->size) * sizeof(qb_complex));
}

/* Adds to a proved shift what floating point may have hidden, for every matrix: a completed factorisation in double
 * proves A + dA >= 0 with ||dA|| <= gamma_{4d+8} tr(A), tr(A) <= d shift (Rump 2006; float32 takes off its own,
 * sigma_single.c); the Gram matrices are off by `lost`, the symbol by its own error. */
static double sigma_from_shift(const sigma_plan *p, const sigma_grams *c, double shift) {
  double size = (double)p->size, cholesky_error = 4.1 * (size + 8) * SIGMA_UNIT * (size + 1) * shift;
  return sqrt(shift + 1.01 * c->lost + cholesky_error) * (1 + 8 * SIGMA_UNIT) + p->symbol_error;
}

static qb_status bound_with_plan(sigma_plan *p, sigma_grams *c, double *sigma, qb_error *error) {
  int64_t failures = 1;
  double slack = 1e-3;
  QB_TRY(sigma_grams_create(p, c, error));
  if (!isfinite(c->trace))
    return qb_fail(error, QB_ERROR_NUMERIC, "a spectral norm overflows: the weights are too large");
  QB_TRY(first_pass(p, c, error));
  if (!isfinite(largest_estimate(p, c)))
    return qb_fail(error, QB_ERROR_NUMERIC, "a spectral norm overflows: the weights are too large");
  QB_TRY(refine_best(p, c, error));
  double shift = largest_estimate(p, c) * (1 + (p->size > 1 ? slack : 0));
  while (failures > 0) {
    QB_TRY(second_pass(p, c, shift, &failures, error));
    if (failures > 0) {
      shift = fmax(shift, largest_estimate(p, c)) * (1 + slack) + DBL_MIN;
      slack *= 2; /* termination: the shift passes the Frobenius bound after a few dozen rounds */
    }
  }
  *sigma = sigma_from_shift(p, c, shift);
  return QB_OK;
}

static bool kernel_is_zero(const qb_kernel *kernel) { return kernel == NULL || qb_kernel_absolute_norm(kernel) == 0; }

qb_status qb_sigma_bound(const qb_sigma_problem *problem, double *sigma, qb_error *error) {
  sigma_plan p;
  sigma_grams c = {0};
  *sigma = INFINITY;
  if (problem->outer == NULL && kernel_is_zero(problem->inner)) {
    *sigma = 0;
    return QB_OK;
  }
  /* The loops over frequencies are the parallel ones, which also fixes the summation order. OpenBLAS on OpenMP changes
   * OpenMP's own number of threads with its own, so that one is remembered first. */
  int threads = openblas_get_num_threads(), workers = omp_get_max_threads();
  openblas_set_num_threads(1);
  omp_set_num_threads(workers);
  qb_sigma_memory own = {{NULL}, {0}}, *memory = problem->memory == NULL ? &own : problem->memory;
  qb_status status = plan_create(&p, problem, workers, memory, error);
  if (status == QB_OK)
    status = bound_with_plan(&p, &c, sigma, error);
  openblas_set_num_threads(threads);
  omp_set_num_threads(workers);
  sigma_grams_free(&c);
  qb_sigma_memory_free(&own);
  qb_arena_free(&p.arena);
  return status;
}
