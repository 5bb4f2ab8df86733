/* Certified spectral norms; see sigma.h. */
#include "bound/sigma.h"

#include <assert.h>
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/size.h"
#include "bound/interpolation.h"

/* LAPACK's Cholesky factorisation, from the same OpenBLAS as cblas. */
void zpotrf_(const char *uplo, const int *n, qb_complex *a, const int *lda, int *info, size_t uplo_length);

static const double UNIT = DBL_EPSILON / 2; /* u of theory section 4 */

enum {
  QUICK_ITERATIONS = 6,
  LONG_ITERATIONS = 80,
  LARGEST_STORE = 768 << 20, /* bytes of Gram matrices kept between the two passes */
  LARGEST_WEIGHTS = 1 << 22  /* interpolation weights */
};

/* Everything that is fixed for one norm: the matrices are numbered group by group, frequency by frequency. */
typedef struct plan {
  const qb_kernel *kernel;
  qb_kernel joint; /* skip + outer inner / 2, when that is wanted */
  qb_arena arena;  /* of the twiddles and `joint` */
  qb_twiddles input[2];
  int64_t rows, cols;     /* of M */
  int64_t frequencies[2]; /* of the output torus; the second halved by conjugate symmetry */
  int64_t count;          /* matrices */
  int64_t size;           /* of the smaller Gram matrix */
  int64_t entries;        /* of its lower triangle */
  double symbol_error;    /* Frobenius norm of computed - exact M */
  int threads;            /* of the loops over matrices */
} plan;

/* Working memory of one thread. */
typedef struct workspace {
  qb_complex *matrix;         /* (rows, cols) */
  qb_complex *gram;           /* (size, size) */
  qb_complex *vector, *image; /* (rows + cols) */
} workspace;

/* ---------------------------------------------------------------------------------------------------- the plan */

/* What composing the kernels in floating point adds to the error of the joint symbol: sums of middle * area products
 * of entries that carry up to 6 roundings each. */
static double composition_error(const qb_sigma_problem *problem) {
  const qb_kernel *outer = problem->outer;
  double inner = qb_kernel_absolute_norm(problem->inner), outer_norm = qb_kernel_absolute_norm(outer);
  double skip = problem->skip == NULL ? 0 : qb_kernel_absolute_norm(problem->skip);
  double terms = (double)(outer->cols * outer->size[0] * outer->size[1]) + 24;
  return 1.01 * UNIT * (terms * inner * outer_norm + 8 * skip);
}

/* The torus with the given input sides for p->kernel. */
static qb_status plan_torus(plan *p, const int64_t side[2], qb_error *error) {
  for (int axis = 0; axis < 2; axis++) {
    int64_t output = side[axis] / p->kernel->stride[axis];
    assert(side[axis] % p->kernel->stride[axis] == 0);
    p->frequencies[axis] = axis == 0 ? output : output / 2 + 1;
    QB_TRY(qb_twiddles_create(side[axis], &p->arena, &p->input[axis], error));
  }
  p->count = p->kernel->groups * p->frequencies[0] * p->frequencies[1];
  return QB_OK;
}

static qb_status plan_create(plan *p, const qb_sigma_problem *problem, int threads, qb_error *error) {
  *p = (plan){.kernel = problem->inner, .threads = threads};
  qb_arena_init(&p->arena);
  if (problem->outer != NULL) {
    QB_TRY(qb_kernel_compose(problem->inner, problem->outer, problem->skip, &p->arena, &p->joint, error));
    p->kernel = &p->joint;
  }
  p->rows = p->kernel->rows;
  p->cols = (int64_t)p->kernel->stride[0] * p->kernel->stride[1] * p->kernel->cols;
  p->size = p->rows < p->cols ? p->rows : p->cols;
  p->entries = p->size * (p->size + 1) / 2;
  p->symbol_error = qb_kernel_symbol_error(p->kernel) + (problem->outer == NULL ? 0 : composition_error(problem));
  return plan_torus(p, problem->side, error);
}

static bool workspace_create(workspace *w, const plan *p) {
  size_t rows = (size_t)p->rows, cols = (size_t)p->cols, size = (size_t)p->size;
  *w = (workspace){.matrix = qb_alloc(rows * cols, sizeof(qb_complex)),
                   .gram = qb_alloc(size * size, sizeof(qb_complex)),
                   .vector = qb_alloc(rows + cols, sizeof(qb_complex)),
                   .image = qb_alloc(rows + cols, sizeof(qb_complex))};
  return w->matrix != NULL && w->gram != NULL && w->vector != NULL && w->image != NULL;
}

static void workspace_free(workspace *w) {
  qb_free(w->matrix);
  qb_free(w->gram);
  qb_free(w->vector);
  qb_free(w->image);
}

/* ------------------------------------------------------------------------------------------- matrices and Gram */

/* M of matrix number `index`. */
static void fill_matrix(const plan *p, int64_t index, workspace *w) {
  int64_t fx = index % p->frequencies[1], rest = index / p->frequencies[1];
  qb_kernel_symbol(p->kernel, (int32_t)(rest / p->frequencies[0]), p->input, rest % p->frequencies[0], fx, w->matrix);
}

/* Lower triangle (row-major) of M M^H or M^H M, whichever is smaller. */
static void fill_gram(const plan *p, workspace *w) {
  bool wide = p->rows <= p->cols;
  cblas_zherk(CblasRowMajor, CblasLower, wide ? CblasNoTrans : CblasConjTrans, (int)p->size,
              (int)(wide ? p->cols : p->rows), 1, w->matrix, (int)p->cols, 0, w->gram, (int)p->size);
}

static double gram_trace(const qb_complex *gram, int64_t size) {
  double trace = 0;
  for (int64_t i = 0; i < size; i++)
    trace += creal(gram[i * size + i]);
  return trace;
}

/* Upper bound (up to rounding, which the caller adds) of the largest eigenvalue: the Frobenius norm. */
static double gram_frobenius(const qb_complex *gram, int64_t size) {
  double square = 0;
  for (int64_t i = 0; i < size; i++) {
    const double *row = (const double *)(gram + i * size);
    double off = 0;
#pragma omp simd reduction(+ : off)
    for (int64_t j = 0; j < 2 * i; j++)
      off += row[j] * row[j];
    square += 2 * off + row[2 * i] * row[2 * i];
  }
  return sqrt(square);
}

/* Rayleigh quotient after some power iterations from a fixed start: an estimate from below. */
static double gram_power(const qb_complex *gram, int64_t size, int iterations, workspace *w) {
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

/* -------------------------------------------------------------------------------------------- stored Gram matrices */

typedef struct candidates {
  double *upper;           /* (count) Frobenius bound of each Gram matrix */
  double *estimate;        /* (count) power iteration */
  double *re, *im;         /* (count, entries) lower triangles, or NULL: recompute */
  double trace;            /* largest trace of a Gram matrix that was multiplied out, = ||M||_F^2 */
  bool interpolated;       /* the matrices come from those on a grid */
  double growth, rounding; /* of the interpolation */
} candidates;

static void pack(const qb_complex *gram, int64_t size, double *re, double *im) {
  for (int64_t i = 0, at = 0; i < size; i++)
    for (int64_t j = 0; j <= i; j++, at++) {
      re[at] = creal(gram[i * size + j]);
      im[at] = cimag(gram[i * size + j]);
    }
}

static void unpack(const double *re, const double *im, int64_t size, qb_complex *gram) {
  for (int64_t i = 0, at = 0; i < size; i++)
    for (int64_t j = 0; j <= i; j++, at++)
      gram[i * size + j] = qb_complex_of(re[at], im[at]);
}

/* The Gram matrix number `index` in w->gram. */
static void obtain_gram(const plan *p, const candidates *c, int64_t index, workspace *w) {
  if (c->re != NULL) {
    unpack(c->re + index * p->entries, c->im + index * p->entries, p->size, w->gram);
    return;
  }
  fill_matrix(p, index, w);
  fill_gram(p, w);
}

static qb_status candidates_create(candidates *c, const plan *p, qb_error *error) {
  size_t bytes;
  *c = (candidates){.upper = qb_alloc((size_t)p->count, sizeof *c->upper),
                    .estimate = qb_alloc((size_t)p->count, sizeof *c->estimate)};
  if (c->upper == NULL || c->estimate == NULL)
    return qb_fail_memory(error, "spectral norm", (size_t)p->count * sizeof *c->upper);
  if (!qb_size_multiply((size_t)p->count * sizeof(qb_complex), (size_t)p->entries, &bytes) || bytes > LARGEST_STORE)
    return QB_OK;
  c->re = qb_alloc(bytes / 2, 1);
  c->im = c->re == NULL ? NULL : qb_alloc(bytes / 2, 1);
  if (c->im == NULL) {
    qb_free(c->re);
    c->re = NULL;
  }
  return QB_OK;
}

static void candidates_free(candidates *c) {
  qb_free(c->upper);
  qb_free(c->estimate);
  qb_free(c->re);
  qb_free(c->im);
}

/* Multiplies out every Gram matrix of the plan into (count, entries), and *trace is the largest trace. */
static qb_status multiply_out(const plan *p, double *re, double *im, double *trace, qb_error *error) {
  bool failed = false;
  double largest = 0;
#pragma omp parallel num_threads(p->threads) reduction(|| : failed) reduction(max : largest)
  {
    workspace w;
    failed = !workspace_create(&w, p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed)
        continue;
      fill_matrix(p, i, &w);
      fill_gram(p, &w);
      double own = gram_trace(w.gram, p->size);
      largest = fmax(largest, isfinite(own) ? own : INFINITY);
      if (re != NULL)
        pack(w.gram, p->size, re + i * p->entries, im + i * p->entries);
    }
    workspace_free(&w);
  }
  *trace = largest;
  return failed ? qb_fail_memory(error, "spectral norm", (size_t)(p->rows * p->cols) * sizeof(qb_complex)) : QB_OK;
}

/* ---------------------------------------------------------------------------------------------------- interpolation */

/* The Gram matrices as polynomials in the output frequency: their degree per axis. False when they are none (M^H M of
 * a strided layer mixes aliases) or a grid would not save anything. */
static bool gram_degree(const plan *p, int64_t degree[2]) {
  const qb_kernel *k = p->kernel;
  bool strided = k->stride[0] * k->stride[1] > 1;
  if (k->groups > 1 || (strided && p->rows > p->cols))
    return false;
  for (int axis = 0; axis < 2; axis++) /* M M^H keeps the lags that are multiples of the stride */
    degree[axis] = (int64_t)k->dilation[axis] * (k->size[axis] - 1) / k->stride[axis];
  int64_t samples = qb_interpolation_samples(degree);
  return samples < p->count && samples * p->count <= LARGEST_WEIGHTS;
}

/* Every Gram matrix as a combination of those on the grid; blocks of entries, so that the order of summation does not
 * depend on the number of threads. */
static void combine(const plan *p, const qb_interpolation *in, const double *re, const double *im, candidates *c) {
  enum { BLOCK = 2048 };
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->threads)
  for (int64_t first = 0; first < p->entries; first += BLOCK) {
    int block = (int)(p->entries - first < BLOCK ? p->entries - first : BLOCK), all = (int)p->entries;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)in->count, block, (int)in->samples, 1, in->even,
                (int)in->samples, re + first, all, 0, c->re + first, all);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)in->count, block, (int)in->samples, 1, in->odd,
                (int)in->samples, im + first, all, 0, c->im + first, all);
  }
}

static qb_status interpolate_on(plan *grid, const plan *p, const qb_interpolation *in, candidates *c, qb_error *error) {
  const qb_kernel *k = p->kernel;
  int64_t side[2] = {in->side[0] * k->stride[0], in->side[1] * k->stride[1]};
  size_t values = (size_t)in->samples * (size_t)p->entries;
  QB_TRY(plan_torus(grid, side, error));
  double *re = qb_alloc(values, sizeof *re), *im = qb_alloc(values, sizeof *im);
  qb_status status = re == NULL || im == NULL ? qb_fail_memory(error, "Gram matrices", 2 * values * sizeof *re)
                                              : multiply_out(grid, re, im, &c->trace, error);
  if (status == QB_OK)
    combine(p, in, re, im, c);
  qb_free(re);
  qb_free(im);
  return status;
}

/* All Gram matrices into the store if there is one, and the trace. */
static qb_status create_grams(plan *p, candidates *c, qb_error *error) {
  qb_interpolation in;
  int64_t degree[2], output[2];
  if (c->re == NULL || !gram_degree(p, degree))
    return multiply_out(p, c->re, c->im, &c->trace, error);
  for (int axis = 0; axis < 2; axis++)
    output[axis] = p->input[axis].n / p->kernel->stride[axis];
  QB_TRY(qb_interpolation_create(output, degree, &p->arena, &in, error));
  c->interpolated = true;
  c->growth = in.growth;
  c->rounding = in.rounding + 2 * ((double)in.samples + 8) * UNIT * in.growth; /* weights, sums of products */
  plan grid = *p;
  qb_arena_init(&grid.arena);
  qb_status status = interpolate_on(&grid, p, &in, c, error);
  qb_arena_free(&grid.arena);
  return status;
}

/* ------------------------------------------------------------------------------------------------- the two passes */

/* Frobenius bounds below which a matrix is not expected to hold the largest norm: an eighth lies above, a dozen at
 * least. A wrong guess costs time in the second pass, nothing else. */
static double promising(const plan *p, const candidates *c) {
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

/* First pass: the Frobenius bound of every Gram matrix, and a short power iteration where that is large. */
static qb_status first_pass(const plan *p, candidates *c, qb_error *error) {
  bool failed = false;
  double limit = 0;
#pragma omp parallel num_threads(p->threads) reduction(|| : failed)
  {
    workspace w;
    failed = !workspace_create(&w, p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed)
        continue;
      obtain_gram(p, c, i, &w);
      c->upper[i] = gram_frobenius(w.gram, p->size);
    }
#pragma omp single
    limit = promising(p, c);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed || c->upper[i] < limit)
        continue;
      obtain_gram(p, c, i, &w);
      c->estimate[i] = gram_power(w.gram, p->size, QUICK_ITERATIONS, &w);
    }
    workspace_free(&w);
  }
  return failed ? qb_fail_memory(error, "spectral norm", (size_t)(p->rows * p->cols) * sizeof(qb_complex)) : QB_OK;
}

static double largest_estimate(const plan *p, const candidates *c) {
  double largest = 0;
  for (int64_t i = 0; i < p->count; i++)
    largest = fmax(largest, c->estimate[i]);
  return largest;
}

/* Long power iterations on matrix `index`. */
static void refine_estimate(const plan *p, candidates *c, int64_t index, workspace *w) {
  obtain_gram(p, c, index, w);
  c->estimate[index] = fmax(c->estimate[index], gram_power(w->gram, p->size, LONG_ITERATIONS, w));
}

/* Second pass: proves lambda_max <= shift for every matrix whose upper bound exceeds it; refines the estimate of those
 * that fail and returns how many did. Proved matrices get upper[i] = shift. */
static qb_status second_pass(const plan *p, candidates *c, double shift, int64_t *failures, qb_error *error) {
  bool failed = false;
  int64_t refused = 0;
#pragma omp parallel num_threads(p->threads) reduction(|| : failed) reduction(+ : refused)
  {
    workspace w;
    failed = !workspace_create(&w, p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed || c->upper[i] <= shift)
        continue;
      obtain_gram(p, c, i, &w);
      if (p->size > 1 && cholesky_completes(w.gram, p->size, shift)) {
        c->upper[i] = shift;
      } else {
        refused++;
        refine_estimate(p, c, i, &w);
      }
    }
    workspace_free(&w);
  }
  *failures = refused;
  return failed ? qb_fail_memory(error, "spectral norm", (size_t)(p->size * p->size) * sizeof(qb_complex)) : QB_OK;
}

/* Long power iterations on the few matrices that look largest. */
static qb_status refine_best(const plan *p, candidates *c, qb_error *error) {
  enum { BEST = 4 };
  workspace w;
  bool ready = workspace_create(&w, p);
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
  workspace_free(&w);
  return ready ? QB_OK : qb_fail_memory(error, "spectral norm", (size_t)(p->size * p->size) * sizeof(qb_complex));
}

/* Adds to a proved shift what floating point may have hidden, for every matrix:
 *   Gram     |G~ - M^H M| <= gamma_{4n+8} ||M||_F^2
 *   Cholesky a completed factorisation proves A + dA >= 0 with ||dA|| <= gamma_{4d+8} tr(A), tr(A) <= d shift
 * and the error of M itself; for interpolated matrices all errors on the grid times the growth of the interpolation,
 * and its own. */
static double sigma_from_shift(const plan *p, const candidates *c, double shift) {
  double terms = (double)(p->rows > p->cols ? p->rows : p->cols), size = (double)p->size, e = p->symbol_error;
  double gram_error = 4.1 * (terms + 8) * UNIT * c->trace;
  double cholesky_error = 4.1 * (size + 8) * UNIT * (size + 1) * shift;
  if (!c->interpolated)
    return sqrt(shift + gram_error + cholesky_error) * (1 + 8 * UNIT) + e;
  double on_grid = gram_error + 2.01 * e * sqrt(c->trace) + 1.01 * e * e;
  double hidden = c->growth * on_grid + 2.01 * c->rounding * (c->trace + on_grid);
  return sqrt(shift + 1.01 * hidden + cholesky_error) * (1 + 8 * UNIT);
}

static qb_status bound_with_plan(plan *p, candidates *c, double *sigma, qb_error *error) {
  int64_t failures = 1;
  double slack = 1e-3;
  QB_TRY(candidates_create(c, p, error));
  QB_TRY(create_grams(p, c, error));
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
  plan p;
  candidates c = {0};
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
  qb_status status = plan_create(&p, problem, workers, error);
  if (status == QB_OK)
    status = bound_with_plan(&p, &c, sigma, error);
  openblas_set_num_threads(threads);
  omp_set_num_threads(workers);
  candidates_free(&c);
  qb_arena_free(&p.arena);
  return status;
}
