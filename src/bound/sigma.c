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

/* LAPACK's Cholesky factorisation, from the same OpenBLAS as cblas. */
void zpotrf_(const char *uplo, const int *n, qb_complex *a, const int *lda, int *info, size_t uplo_length);

static const double UNIT = DBL_EPSILON / 2; /* u of theory section 4 */

enum {
  QUICK_ITERATIONS = 12,
  LONG_ITERATIONS = 80,
  LARGEST_STORE = 768 << 20 /* bytes of Gram matrices kept between the two passes */
};

/* Everything that is fixed for one norm: the matrices are numbered group by group, frequency by frequency. */
typedef struct plan {
  const qb_sigma_problem *problem;
  qb_arena arena; /* of the twiddles */
  qb_twiddles input[2], output[2];
  int64_t rows, cols, middle; /* of M; the inner dimension of outer * inner */
  int64_t frequencies[2];     /* of the output torus; the second halved by conjugate symmetry */
  int64_t count;              /* matrices */
  int64_t size;               /* of the smaller Gram matrix */
  double symbol_error;        /* Frobenius norm of computed - exact M */
  int threads;                /* of the loops over matrices */
} plan;

/* Working memory of one thread. */
typedef struct workspace {
  qb_complex *matrix, *inner, *outer; /* (rows, cols), (middle, cols), (rows, middle) */
  qb_complex *gram;                   /* (size, size) */
  qb_complex *vector, *image;         /* (max(rows, cols)) */
} workspace;

/* ---------------------------------------------------------------------------------------------------- the plan */

static double joint_error(const qb_sigma_problem *problem, int64_t middle) {
  double error = problem->skip == NULL ? 0 : qb_kernel_symbol_error(problem->skip);
  double inner = qb_kernel_absolute_norm(problem->inner), outer = qb_kernel_absolute_norm(problem->outer);
  double inner_error = qb_kernel_symbol_error(problem->inner), outer_error = qb_kernel_symbol_error(problem->outer);
  double skip = problem->skip == NULL ? 0 : qb_kernel_absolute_norm(problem->skip);
  double product = inner * outer_error + outer * inner_error + inner_error * outer_error;
  double rounding = 4 * ((double)middle + 6) * UNIT * inner * outer + 2 * UNIT * skip;
  return 1.001 * (error + product + rounding);
}

static qb_status plan_create(plan *p, const qb_sigma_problem *problem, int threads, qb_error *error) {
  const qb_kernel *inner = problem->inner, *last = problem->outer != NULL ? problem->outer : inner;
  *p = (plan){.problem = problem, .rows = last->rows, .middle = inner->rows};
  assert(problem->outer == NULL || (inner->groups == 1 && last->groups == 1 && last->cols == inner->rows));
  qb_arena_init(&p->arena);
  p->threads = threads;
  p->cols = (int64_t)inner->stride[0] * inner->stride[1] * inner->cols;
  p->size = p->rows < p->cols ? p->rows : p->cols;
  p->symbol_error = problem->outer == NULL ? qb_kernel_symbol_error(inner) : joint_error(problem, p->middle);
  for (int axis = 0; axis < 2; axis++) {
    int64_t side = problem->side[axis], output = side / inner->stride[axis];
    assert(side % inner->stride[axis] == 0);
    p->frequencies[axis] = axis == 0 ? output : output / 2 + 1;
    QB_TRY(qb_twiddles_create(side, &p->arena, &p->input[axis], error));
    QB_TRY(qb_twiddles_create(output, &p->arena, &p->output[axis], error));
  }
  p->count = inner->groups * p->frequencies[0] * p->frequencies[1];
  return QB_OK;
}

static bool workspace_create(workspace *w, const plan *p) {
  size_t rows = (size_t)p->rows, cols = (size_t)p->cols, middle = (size_t)p->middle, size = (size_t)p->size;
  bool joint = p->problem->outer != NULL;
  *w = (workspace){.matrix = qb_alloc(rows * cols, sizeof(qb_complex)),
                   .inner = qb_alloc(joint ? middle * cols : 0, sizeof(qb_complex)),
                   .outer = qb_alloc(joint ? rows * middle : 0, sizeof(qb_complex)),
                   .gram = qb_alloc(size * size, sizeof(qb_complex)),
                   .vector = qb_alloc(rows + cols, sizeof(qb_complex)),
                   .image = qb_alloc(rows + cols, sizeof(qb_complex))};
  return w->matrix != NULL && w->inner != NULL && w->outer != NULL && w->gram != NULL && w->vector != NULL &&
         w->image != NULL;
}

static void workspace_free(workspace *w) {
  qb_free(w->matrix);
  qb_free(w->inner);
  qb_free(w->outer);
  qb_free(w->gram);
  qb_free(w->vector);
  qb_free(w->image);
}

/* ------------------------------------------------------------------------------------------- matrices and Gram */

/* M of matrix number `index`. */
static void fill_matrix(const plan *p, int64_t index, workspace *w) {
  const qb_sigma_problem *problem = p->problem;
  int64_t fx = index % p->frequencies[1], rest = index / p->frequencies[1];
  int64_t fy = rest % p->frequencies[0];
  int32_t group = (int32_t)(rest / p->frequencies[0]);
  if (problem->outer == NULL) {
    qb_kernel_symbol(problem->inner, group, p->input, fy, fx, w->matrix);
    return;
  }
  if (problem->skip != NULL)
    qb_kernel_symbol(problem->skip, 0, p->input, fy, fx, w->matrix);
  else
    memset(w->matrix, 0, (size_t)(p->rows * p->cols) * sizeof *w->matrix);
  qb_kernel_symbol(problem->inner, 0, p->input, fy, fx, w->inner);
  qb_kernel_symbol(problem->outer, 0, p->output, fy, fx, w->outer);
  const qb_complex half = 0.5, one = 1;
  cblas_zgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)p->rows, (int)p->cols, (int)p->middle, &half, w->outer,
              (int)p->middle, w->inner, (int)p->cols, &one, w->matrix, (int)p->cols);
}

/* Lower triangle (row-major) of M M^H or M^H M, whichever is smaller. */
static void fill_gram(const plan *p, const workspace *w, qb_complex *gram) {
  bool wide = p->rows <= p->cols;
  cblas_zherk(CblasRowMajor, CblasLower, wide ? CblasNoTrans : CblasConjTrans, (int)p->size,
              (int)(wide ? p->cols : p->rows), 1, w->matrix, (int)p->cols, 0, gram, (int)p->size);
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
    for (int64_t j = 0; j < i; j++) {
      qb_complex g = gram[i * size + j];
      square += 2 * (creal(g) * creal(g) + cimag(g) * cimag(g));
    }
    square += creal(gram[i * size + i]) * creal(gram[i * size + i]);
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

/* ------------------------------------------------------------------------------------------------- the two passes */

typedef struct candidates {
  double *upper;     /* (count) Frobenius bound of each Gram matrix */
  double *estimate;  /* (count) power iteration */
  qb_complex *store; /* (count, size, size) or NULL: recompute */
  double trace;      /* largest trace = ||M||_F^2 */
} candidates;

static qb_complex *stored_gram(const plan *p, const candidates *c, int64_t index) {
  return c->store == NULL ? NULL : c->store + index * p->size * p->size;
}

static qb_status candidates_create(candidates *c, const plan *p, qb_error *error) {
  size_t bytes, entries = (size_t)(p->size * p->size);
  *c = (candidates){.upper = qb_alloc((size_t)p->count, sizeof *c->upper),
                    .estimate = qb_alloc((size_t)p->count, sizeof *c->estimate)};
  if (qb_size_multiply((size_t)p->count * sizeof(qb_complex), entries, &bytes) && bytes <= LARGEST_STORE)
    c->store = qb_alloc(bytes, 1);
  if (c->upper == NULL || c->estimate == NULL)
    return qb_fail_memory(error, "spectral norm", (size_t)p->count * sizeof *c->upper);
  return QB_OK;
}

static void candidates_free(candidates *c) {
  qb_free(c->upper);
  qb_free(c->estimate);
  qb_free(c->store);
}

/* First pass: every Gram matrix, its Frobenius bound and a short power iteration. */
static qb_status first_pass(const plan *p, candidates *c, qb_error *error) {
  bool failed = false;
  double trace = 0;
#pragma omp parallel num_threads(p->threads) reduction(|| : failed) reduction(max : trace)
  {
    workspace w;
    failed = !workspace_create(&w, p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed)
        continue;
      qb_complex *gram = c->store == NULL ? w.gram : stored_gram(p, c, i);
      fill_matrix(p, i, &w);
      fill_gram(p, &w, gram);
      c->upper[i] = gram_frobenius(gram, p->size);
      c->estimate[i] = gram_power(gram, p->size, QUICK_ITERATIONS, &w);
      trace = fmax(trace, isfinite(c->upper[i]) ? gram_trace(gram, p->size) : INFINITY);
    }
    workspace_free(&w);
  }
  c->trace = trace;
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
  qb_complex *gram = stored_gram(p, c, index);
  if (gram == NULL) {
    gram = w->gram;
    fill_matrix(p, index, w);
    fill_gram(p, w, gram);
  }
  c->estimate[index] = fmax(c->estimate[index], gram_power(gram, p->size, LONG_ITERATIONS, w));
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
      const qb_complex *gram = stored_gram(p, c, i);
      if (gram != NULL) {
        memcpy(w.gram, gram, (size_t)(p->size * p->size) * sizeof *gram);
      } else {
        fill_matrix(p, i, &w);
        fill_gram(p, &w, w.gram);
      }
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

static qb_status refine_best(const plan *p, candidates *c, qb_error *error) {
  workspace w;
  int64_t best = 0;
  for (int64_t i = 1; i < p->count; i++)
    if (c->estimate[i] > c->estimate[best])
      best = i;
  bool ready = workspace_create(&w, p);
  if (ready)
    refine_estimate(p, c, best, &w);
  workspace_free(&w);
  return ready ? QB_OK : qb_fail_memory(error, "spectral norm", (size_t)(p->size * p->size) * sizeof(qb_complex));
}

/* Adds to a proved shift what floating point may have hidden, for every matrix:
 *   Gram     |G~ - M^H M| <= gamma_{4n+8} ||M||_F^2
 *   Cholesky a completed factorisation proves A + dA >= 0 with ||dA|| <= gamma_{4d+8} tr(A), tr(A) <= d shift
 * and the error of M itself. */
static double sigma_from_shift(const plan *p, double shift, double trace) {
  double terms = (double)(p->rows > p->cols ? p->rows : p->cols), size = (double)p->size;
  double gram_error = 4.1 * (terms + 8) * UNIT * trace;
  double cholesky_error = 4.1 * (size + 8) * UNIT * (size + 1) * shift;
  return sqrt(shift + gram_error + cholesky_error) * (1 + 8 * UNIT) + p->symbol_error;
}

static qb_status bound_with_plan(const plan *p, candidates *c, double *sigma, qb_error *error) {
  int64_t failures = 1;
  double slack = 1e-3;
  QB_TRY(candidates_create(c, p, error));
  QB_TRY(first_pass(p, c, error));
  if (!isfinite(c->trace))
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
  *sigma = sigma_from_shift(p, shift, c->trace);
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
  qb_status status = plan_create(&p, problem, workers, error);
  if (status == QB_OK)
    status = bound_with_plan(&p, &c, sigma, error);
  openblas_set_num_threads(threads);
  omp_set_num_threads(workers);
  candidates_free(&c);
  qb_arena_free(&p.arena);
  return status;
}

/* ------------------------------------------------------------------------------------------------------ estimates */

/* Power iteration v <- M^H M v on one symbol; leaves u = M v / |M v| in `image` and v in `vector`. */
static double symbol_power(const plan *p, int iterations, workspace *w) {
  const qb_complex one = 1, zero = 0;
  double norm = 0;
  for (int64_t i = 0; i < p->cols; i++)
    w->vector[i] = qb_complex_of(1 + 0.3 * (double)((i * 7919) % 101) / 101, 0.2 * (double)((i * 104729) % 97) / 97);
  for (int k = 0; k < iterations; k++) {
    double length = cblas_dznrm2((int)p->cols, w->vector, 1);
    if (!(length > 0) || !isfinite(length))
      return 0;
    cblas_zdscal((int)p->cols, 1 / length, w->vector, 1);
    cblas_zgemv(CblasRowMajor, CblasNoTrans, (int)p->rows, (int)p->cols, &one, w->matrix, (int)p->cols, w->vector, 1,
                &zero, w->image, 1);
    norm = cblas_dznrm2((int)p->rows, w->image, 1);
    if (!(norm > 0) || k == iterations - 1)
      break;
    cblas_zdscal((int)p->rows, 1 / norm, w->image, 1);
    cblas_zgemv(CblasRowMajor, CblasConjTrans, (int)p->rows, (int)p->cols, &one, w->matrix, (int)p->cols, w->image, 1,
                &zero, w->vector, 1);
  }
  if (norm > 0)
    cblas_zdscal((int)p->rows, 1 / norm, w->image, 1);
  return norm;
}

static void read_energy(const plan *p, const workspace *w, double *row_energy, double *column_energy) {
  int64_t cols = p->problem->inner->cols;
  for (int64_t r = 0; row_energy != NULL && r < p->rows; r++)
    row_energy[r] = creal(w->image[r] * conj(w->image[r]));
  if (column_energy != NULL) {
    memset(column_energy, 0, (size_t)cols * sizeof *column_energy);
    for (int64_t c = 0; c < p->cols; c++)
      column_energy[c % cols] += creal(w->vector[c] * conj(w->vector[c]));
  }
}

/* Norms of the matrices in `peaks`, or of all. */
static qb_status estimate_norms(const plan *p, const qb_sigma_peaks *peaks, double *norms, qb_error *error) {
  bool failed = false;
  int64_t count = peaks->count > 0 ? peaks->count : p->count;
#pragma omp parallel num_threads(p->threads) reduction(|| : failed)
  {
    workspace w;
    failed = !workspace_create(&w, p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; i++) {
      int64_t index = peaks->count > 0 ? peaks->index[i] : i;
      if (failed)
        continue;
      fill_matrix(p, index, &w);
      norms[index] = symbol_power(p, QUICK_ITERATIONS, &w);
    }
    workspace_free(&w);
  }
  return failed ? qb_fail_memory(error, "spectral norm", (size_t)(p->rows * p->cols) * sizeof(qb_complex)) : QB_OK;
}

/* Moves the largest entries of `norms` to the front of `peaks`, largest first. */
static void choose_peaks(const plan *p, const double *norms, qb_sigma_peaks *peaks) {
  for (int64_t i = 0; i < p->count; i++) {
    int32_t at = peaks->count < QB_SIGMA_PEAKS ? peaks->count++ : QB_SIGMA_PEAKS;
    for (; at > 0 && norms[i] > norms[peaks->index[at - 1]]; at--)
      if (at < QB_SIGMA_PEAKS)
        peaks->index[at] = peaks->index[at - 1];
    if (at < QB_SIGMA_PEAKS)
      peaks->index[at] = i;
  }
}

static qb_status estimate_with_plan(const plan *p, qb_sigma_peaks *peaks, double *norms, double *sigma,
                                    double *row_energy, double *column_energy, qb_error *error) {
  workspace w;
  QB_TRY(estimate_norms(p, peaks, norms, error));
  if (peaks->count == 0)
    choose_peaks(p, norms, peaks);
  int64_t best = peaks->index[0];
  for (int32_t i = 1; i < peaks->count; i++)
    if (norms[peaks->index[i]] > norms[best])
      best = peaks->index[i];
  bool ready = workspace_create(&w, p);
  if (ready) {
    fill_matrix(p, best, &w);
    *sigma = symbol_power(p, LONG_ITERATIONS, &w);
    read_energy(p, &w, row_energy, column_energy);
  }
  workspace_free(&w);
  return ready ? QB_OK : qb_fail_memory(error, "spectral norm", (size_t)(p->rows * p->cols) * sizeof(qb_complex));
}

qb_status qb_sigma_estimate(const qb_sigma_problem *problem, qb_sigma_peaks *peaks, double *sigma, double *row_energy,
                            double *column_energy, qb_error *error) {
  plan p;
  assert(problem->inner->groups == 1);
  int threads = openblas_get_num_threads(), workers = omp_get_max_threads();
  openblas_set_num_threads(1);
  qb_status status = plan_create(&p, problem, workers, error);
  double *norms = status == QB_OK ? qb_alloc((size_t)p.count, sizeof *norms) : NULL;
  if (status == QB_OK)
    status = norms == NULL ? qb_fail_memory(error, "spectral norm", (size_t)p.count * sizeof *norms)
                           : estimate_with_plan(&p, peaks, norms, sigma, row_energy, column_energy, error);
  openblas_set_num_threads(threads);
  omp_set_num_threads(workers);
  qb_free(norms);
  qb_arena_free(&p.arena);
  return status;
}
