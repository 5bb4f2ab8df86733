/* All Gram matrices of a convolution on a torus: from few real matrix products where they are polynomials of low degree
 * (interpolation.h), else frequency by frequency. */
#include <assert.h>
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/size.h"
#include "bound/interpolation.h"
#include "bound/sigma_internal.h"

enum {
  LARGEST_STORE = 768 << 20, /* bytes of Gram matrices kept between the two passes */
  LARGEST_WEIGHTS = 1 << 22, /* interpolation weights */
  MOST_TAPS = 4096
};

/* ---------------------------------------------------------------------------------------------------------- memory */

double *sigma_memory_get(qb_sigma_memory *memory, int buffer, size_t bytes) {
  if (memory->bytes[buffer] < bytes) {
    qb_free(memory->buffer[buffer]);
    memory->buffer[buffer] = qb_alloc_uncleared(bytes, 1);
    memory->bytes[buffer] = memory->buffer[buffer] == NULL ? 0 : bytes;
  }
  return memory->buffer[buffer];
}

void qb_sigma_memory_free(qb_sigma_memory *memory) {
  for (int i = 0; i < QB_SIGMA_BUFFERS; i++)
    qb_free(memory->buffer[i]);
  *memory = (qb_sigma_memory){0};
}

bool sigma_workspace_create(sigma_workspace *w, const sigma_plan *p, const sigma_grams *g) {
  size_t rows = (size_t)p->rows, cols = (size_t)p->cols, size = (size_t)p->size;
  bool stored = g != NULL && g->re != NULL;
  *w = (sigma_workspace){.matrix = stored ? NULL : qb_alloc_uncleared(rows * cols, sizeof(qb_complex)),
                         .gram = qb_alloc_uncleared(size * size, sizeof(qb_complex)),
                         .single = qb_alloc_uncleared(size * size, 2 * sizeof(float)),
                         .vector = qb_alloc(size, sizeof(qb_complex)),
                         .image = qb_alloc(size, sizeof(qb_complex))};
  return (stored || w->matrix != NULL) && w->gram != NULL && w->single != NULL && w->vector != NULL && w->image != NULL;
}

void sigma_workspace_free(sigma_workspace *w) {
  qb_free(w->matrix);
  qb_free(w->gram);
  qb_free(w->single);
  qb_free(w->vector);
  qb_free(w->image);
}

/* ------------------------------------------------------------------------------------------ frequency by frequency */

/* Lower triangle (row-major) of M M^H or M^H M, M of matrix number `index`. */
static void multiply_symbol(const sigma_plan *p, int64_t index, sigma_workspace *w) {
  int64_t fx = index % p->frequencies[1], rest = index / p->frequencies[1];
  bool wide = p->rows <= p->cols;
  qb_kernel_symbol(p->kernel, (int32_t)(rest / p->frequencies[0]), p->input, rest % p->frequencies[0], fx, w->matrix);
  cblas_zherk(CblasRowMajor, CblasLower, wide ? CblasNoTrans : CblasConjTrans, (int)p->size,
              (int)(wide ? p->cols : p->rows), 1, w->matrix, (int)p->cols, 0, w->gram, (int)p->size);
}

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

void sigma_gram_obtain(const sigma_plan *p, const sigma_grams *g, int64_t index, sigma_workspace *w) {
  if (g->re != NULL)
    unpack(g->re + index * p->entries, g->im + index * p->entries, p->size, w->gram);
  else
    multiply_symbol(p, index, w);
}

/* Upper bound (up to rounding, which the caller adds) of the largest eigenvalue. */
static double frobenius_packed(const double *re, const double *im, int64_t size) {
  double square = 0;
  for (int64_t i = 0; i < size; i++, re += i, im += i) {
    double off = 0;
#pragma omp simd reduction(+ : off)
    for (int64_t j = 0; j < i; j++)
      off += re[j] * re[j] + im[j] * im[j];
    square += 2 * off + re[i] * re[i];
  }
  return sqrt(square);
}

static double frobenius_full(const qb_complex *gram, int64_t size) {
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

double sigma_gram_frobenius(const sigma_plan *p, const sigma_grams *g, int64_t index, sigma_workspace *w) {
  if (g->re != NULL)
    return frobenius_packed(g->re + index * p->entries, g->im + index * p->entries, p->size);
  multiply_symbol(p, index, w);
  return frobenius_full(w->gram, p->size);
}

static double gram_trace(const qb_complex *gram, int64_t size) {
  double trace = 0;
  for (int64_t i = 0; i < size; i++)
    trace += creal(gram[i * size + i]);
  return trace;
}

/* Every Gram matrix into the store, if there is one, and the largest trace.
 *   |G~ - M^H M| <= gamma_{4n+8} ||M||_F^2 */
static qb_status multiply_out(const sigma_plan *p, sigma_grams *g, qb_error *error) {
  bool failed = false;
  double largest = 0;
#pragma omp parallel num_threads(p->threads) reduction(|| : failed) reduction(max : largest)
  {
    sigma_workspace w;
    failed = !sigma_workspace_create(&w, p, NULL);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p->count; i++) {
      if (failed)
        continue;
      multiply_symbol(p, i, &w);
      double own = gram_trace(w.gram, p->size);
      largest = fmax(largest, isfinite(own) ? own : INFINITY);
      if (g->re != NULL)
        pack(w.gram, p->size, g->re + i * p->entries, g->im + i * p->entries);
    }
    sigma_workspace_free(&w);
  }
  g->trace = largest;
  g->lost = 4.1 * ((double)(p->rows > p->cols ? p->rows : p->cols) + 8) * SIGMA_UNIT * largest;
  return failed ? qb_fail_memory(error, "spectral norm", (size_t)(p->rows * p->cols) * sizeof(qb_complex)) : QB_OK;
}

/* ---------------------------------------------------------------------------------------------------- real samples */

/* One axis of a kernel: a tap at offset o reads input pixel s y + o of output y, which is entry o mod s of the s pixels
 * number y + floor(o / s). */
typedef struct axis_taps {
  int64_t phases, degree; /* phases that occur; largest reach in output pixels */
  int64_t phase[64], exponent[64];
} axis_taps;

static int64_t floor_mod(int64_t a, int64_t n) { return (a % n + n) % n; }

static bool describe_axis(const qb_kernel *k, int axis, axis_taps *taps) {
  int64_t s = k->stride[axis], least[64], number[64];
  *taps = (axis_taps){0};
  if (k->size[axis] > 64 || s > 64)
    return false;
  for (int64_t r = 0; r < s; r++)
    number[r] = -1;
  for (int64_t a = 0; a < k->size[axis]; a++) { /* offsets rise, so the first of a phase is its least */
    int64_t offset = a * k->dilation[axis] - k->pad_begin[axis], r = floor_mod(offset, s);
    if (number[r] < 0) {
      number[r] = taps->phases++;
      least[r] = offset;
    }
    taps->phase[a] = number[r];
    taps->exponent[a] = (offset - least[r]) / s;
    taps->degree = taps->exponent[a] > taps->degree ? taps->exponent[a] : taps->degree;
  }
  return true;
}

typedef struct sampling {
  const sigma_plan *plan;
  const qb_kernel *kernel;
  axis_taps axis[2];
  qb_interpolation in;
  int64_t width;   /* columns of a sample's factors: of every phase those of the kernel */
  double *norm;    /* (taps) Frobenius norms, upper bounds */
  double *size;    /* (samples) bounds of the products' Frobenius norms */
  double *re, *im; /* (samples, entries): S + S^T and S - S^T */
} sampling;

/* What tap t is multiplied with at a sample, in the left factor sum K_e z^e and in the right one sum K_e z^(d - e). */
static void tap_factors(const sampling *s, int64_t sample, int64_t t, double *left, double *right) {
  *left = *right = 1;
  for (int axis = 0; axis < 2; axis++) {
    int64_t tap = axis == 0 ? t / s->kernel->size[1] : t % s->kernel->size[1], e = s->axis[axis].exponent[tap];
    int64_t point = s->in.sample[sample][axis], degree = s->in.degree[axis];
    *left *= qb_points_power(&s->in.points[axis], point, e, degree);
    *right *= qb_points_power(&s->in.points[axis], point, degree - e, degree);
  }
}

static int64_t tap_phase_number(const sampling *s, int64_t t) {
  return s->axis[0].phase[t / s->kernel->size[1]] * s->axis[1].phases + s->axis[1].phase[t % s->kernel->size[1]];
}

/* Row r of both factors, (width) each. */
static void evaluate_row(const sampling *s, double (*factors)[2], int64_t r, double *restrict left,
                         double *restrict right) {
  const qb_kernel *k = s->kernel;
  int64_t area = (int64_t)k->size[0] * k->size[1];
  memset(left, 0, (size_t)s->width * sizeof *left);
  memset(right, 0, (size_t)s->width * sizeof *right);
  for (int64_t t = 0; t < area; t++) {
    const double *tap = k->taps + (t * k->rows + r) * k->cols, f = factors[t][0], g = factors[t][1];
    double *restrict to = left + tap_phase_number(s, t) * k->cols, *restrict back = right + (to - left);
    if (f == 0 && g == 0)
      continue;
#pragma omp simd
    for (int64_t c = 0; c < k->cols; c++) {
      to[c] += f * tap[c];
      back[c] += g * tap[c];
    }
  }
}

/* Row-major S = left right^T for M M^H, right^T left for M^H M. */
static void multiply_sample(const sampling *s, bool symmetric, const double *left, const double *right, double *out) {
  bool wide = s->plan->rows <= s->plan->cols;
  int rows = (int)s->kernel->rows, width = (int)s->width, size = (int)s->plan->size;
  if (symmetric) /* left = right */
    cblas_dsyrk(CblasRowMajor, CblasLower, wide ? CblasNoTrans : CblasTrans, size, wide ? width : rows, 1, left, width,
                0, out, size);
  else if (wide)
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size, size, width, 1, left, width, right, width, 0, out, size);
  else
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, size, size, rows, 1, right, width, left, width, 0, out, size);
}

/* Tiles keep the transposed reads in the cache. */
static void pack_sample(const double *s, int64_t size, bool symmetric, double *re, double *im) {
  enum { EDGE = 32 };
  for (int64_t row = 0; row < size; row += EDGE)
    for (int64_t column = 0; column <= row; column += EDGE)
      for (int64_t i = row; i < size && i < row + EDGE; i++)
        for (int64_t j = column; j <= i && j < column + EDGE; j++) {
          int64_t at = i * (i + 1) / 2 + j;
          double below = s[i * size + j], above = symmetric ? 0 : s[j * size + i];
          re[at] = below + above;
          im[at] = symmetric ? 0 : below - above;
        }
}

/* Sample j with all that is stored of it. `space`: (2 rows width + size^2). */
static void take_sample(const sampling *s, int64_t j, double *space) {
  const qb_kernel *k = s->kernel;
  int64_t area = (int64_t)k->size[0] * k->size[1];
  bool symmetric = j == s->in.samples - 1;
  double factors[MOST_TAPS][2], left_norm = 0, right_norm = 0;
  double *left = space, *right = left + k->rows * s->width, *product = right + k->rows * s->width;
  for (int64_t t = 0; t < area; t++) {
    tap_factors(s, j, t, &factors[t][0], &factors[t][1]);
    left_norm += fabs(factors[t][0]) * s->norm[t];
    right_norm += fabs(factors[t][1]) * s->norm[t];
  }
  s->size[j] = left_norm * right_norm * (1 + 1e-9);
  for (int64_t r = 0; r < k->rows; r++)
    evaluate_row(s, factors, r, left + r * s->width, right + r * s->width);
  multiply_sample(s, symmetric, left, right, product);
  pack_sample(product, s->plan->size, symmetric, s->re + j * s->plan->entries, s->im + j * s->plan->entries);
}

static double frobenius_up(const double *values, int64_t count) {
  double square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < count; i++)
    square += values[i] * values[i];
  return sqrt(square) * (1 + ((double)count + 8) * DBL_EPSILON) + DBL_MIN;
}

static qb_status take_samples(sampling *s, qb_error *error) {
  const qb_kernel *k = s->kernel;
  int64_t area = (int64_t)k->size[0] * k->size[1], entries = k->rows * k->cols, size = s->plan->size;
  size_t space = (size_t)(2 * k->rows * s->width + size * size);
  bool failed = false;
  for (int64_t t = 0; t < area; t++)
    s->norm[t] = frobenius_up(k->taps + t * entries, entries);
#pragma omp parallel num_threads(s->plan->threads) reduction(|| : failed)
  {
    double *own = qb_alloc_uncleared(space, sizeof *own);
    failed = own == NULL;
#pragma omp for schedule(dynamic, 1)
    for (int64_t j = 0; j < s->in.samples; j++)
      if (!failed)
        take_sample(s, j, own);
    qb_free(own);
  }
  return failed ? qb_fail_memory(error, "Gram matrices", space * sizeof(double)) : QB_OK;
}

/* Every Gram matrix as a combination of the samples; blocks of entries, so that the order of summation does not depend
 * on the number of threads. */
static void combine(const sampling *s, sigma_grams *g) {
  enum { BLOCK = 2048 };
  const qb_interpolation *in = &s->in;
  int64_t entries = s->plan->entries;
#pragma omp parallel for schedule(dynamic, 1) num_threads(s->plan->threads)
  for (int64_t first = 0; first < entries; first += BLOCK) {
    int block = (int)(entries - first < BLOCK ? entries - first : BLOCK), all = (int)entries;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)in->count, block, (int)in->samples, 1, in->even,
                (int)in->samples, s->re + first, all, 0, g->re + first, all);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)in->count, block, (int)in->samples, 1, in->odd,
                (int)in->samples, s->im + first, all, 0, g->im + first, all);
  }
}

/* False when the Gram matrices are no polynomials (M^H M of a strided layer mixes aliases), their degree is too high,
 * or sampling would not save anything. */
static bool can_sample(const sigma_plan *p, const sigma_grams *g, sampling *s) {
  const qb_kernel *k = p->kernel;
  bool strided = k->stride[0] * k->stride[1] > 1;
  if (g->re == NULL || k->groups > 1 || (strided && p->rows > p->cols) ||
      (int64_t)k->size[0] * k->size[1] > MOST_TAPS || !describe_axis(k, 0, &s->axis[0]) ||
      !describe_axis(k, 1, &s->axis[1]))
    return false;
  s->width = s->axis[0].phases * s->axis[1].phases * k->cols;
  int64_t degree[2] = {s->axis[0].degree, s->axis[1].degree}, samples = qb_interpolation_samples(degree);
  return samples > 0 && samples < p->count && samples * p->count <= LARGEST_WEIGHTS;
}

/* Relative to the norms of the factors: each tap in a factor up to taps + 40 roundings, its own and those of its
 * weights included, a product gamma of its terms, a combination gamma of the samples. */
static double relative_loss(const sampling *s) {
  double taps = (double)s->kernel->size[0] * s->kernel->size[1];
  double terms = (double)(s->width > s->kernel->rows ? s->width : s->kernel->rows);
  return (2.1 * (taps + 40) + 2.1 * (terms + 8) + 2.1 * ((double)s->in.samples + 8)) * SIGMA_UNIT;
}

static qb_status sample_and_combine(sampling *s, sigma_grams *g, qb_error *error) {
  const sigma_plan *p = s->plan;
  size_t values = (size_t)s->in.samples * (size_t)p->entries,
         area = (size_t)s->kernel->size[0] * (size_t)s->kernel->size[1];
  s->norm = qb_alloc(area, sizeof *s->norm);
  s->size = qb_alloc((size_t)s->in.samples, sizeof *s->size);
  s->re = sigma_memory_get(p->memory, QB_SIGMA_SAMPLES, 2 * values * sizeof *s->re);
  s->im = s->re == NULL ? NULL : s->re + values;
  qb_status status = s->norm == NULL || s->size == NULL || s->re == NULL
                         ? qb_fail_memory(error, "Gram matrices", 2 * values * sizeof *s->re)
                         : take_samples(s, error);
  if (status == QB_OK) {
    combine(s, g);
    g->lost = qb_interpolation_lost(&s->in, s->size, relative_loss(s));
    for (int64_t j = 0; j < s->in.samples; j++)
      g->trace = fmax(g->trace, isfinite(s->size[j]) ? s->size[j] : INFINITY);
  }
  qb_free(s->norm);
  qb_free(s->size);
  return status;
}

/* ----------------------------------------------------------------------------------------------------------- store */

static qb_status create_store(const sigma_plan *p, sigma_grams *g, qb_error *error) {
  size_t bytes;
  g->upper = qb_alloc((size_t)p->count, sizeof *g->upper);
  g->estimate = qb_alloc((size_t)p->count, sizeof *g->estimate);
  if (g->upper == NULL || g->estimate == NULL)
    return qb_fail_memory(error, "spectral norm", (size_t)p->count * sizeof *g->upper);
  if (!qb_size_multiply((size_t)p->count * sizeof(qb_complex), (size_t)p->entries, &bytes) || bytes > LARGEST_STORE)
    return QB_OK;
  g->re = sigma_memory_get(p->memory, QB_SIGMA_GRAMS, bytes);
  g->im = g->re == NULL ? NULL : g->re + (size_t)p->count * (size_t)p->entries;
  return QB_OK;
}

qb_status sigma_grams_create(sigma_plan *p, sigma_grams *g, qb_error *error) {
  sampling s = {.plan = p, .kernel = p->kernel};
  *g = (sigma_grams){0};
  QB_TRY(create_store(p, g, error));
  if (!can_sample(p, g, &s))
    return multiply_out(p, g, error);
  int64_t output[2], degree[2] = {s.axis[0].degree, s.axis[1].degree};
  for (int axis = 0; axis < 2; axis++)
    output[axis] = p->input[axis].n / p->kernel->stride[axis];
  QB_TRY(qb_interpolation_create(output, degree, &p->arena, &s.in, error));
  return sample_and_combine(&s, g, error);
}

void sigma_grams_free(sigma_grams *g) {
  qb_free(g->upper);
  qb_free(g->estimate);
}
