/* The kernel of two convolutions in a row and a shortcut: skip + outer inner / 2; see torus.h.
 *
 * Kernels are polynomials with matrices as coefficients. Their product is multiplied out tap by tap, or, where that
 * takes fewer products of matrices, from its values at real points (interpolation.h). */
#include <assert.h>
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/interpolation.h"
#include "bound/torus.h"

static const double UNIT = DBL_EPSILON / 2;

/* --------------------------------------------------------------------------------------------------------- lattice */

static int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a < 0 ? -a : a;
}

/* Offsets of a kernel's taps along one axis, in pixels of its input times `scale`. */
static int64_t tap_offset(const qb_kernel *k, int axis, int64_t tap, int64_t scale) {
  return scale * (tap * k->dilation[axis] - k->pad_begin[axis]);
}

/* The lattice on which all taps of the composition lie: pads and dilation of `joint`, and its size. */
static void joint_lattice(const qb_kernel *inner, const qb_kernel *outer, const qb_kernel *skip, qb_kernel *joint) {
  for (int axis = 0; axis < 2; axis++) {
    int64_t s = inner->stride[axis], lo = tap_offset(inner, axis, 0, 1) + tap_offset(outer, axis, 0, s);
    int64_t hi = tap_offset(inner, axis, inner->size[axis] - 1, 1) + tap_offset(outer, axis, outer->size[axis] - 1, s);
    int64_t step = common_divisor(inner->size[axis] > 1 ? inner->dilation[axis] : 0,
                                  outer->size[axis] > 1 ? s * outer->dilation[axis] : 0);
    if (skip != NULL) {
      int64_t first = tap_offset(skip, axis, 0, 1), last = tap_offset(skip, axis, skip->size[axis] - 1, 1);
      step = common_divisor(common_divisor(step, first - lo), last > first ? skip->dilation[axis] : 0);
      lo = first < lo ? first : lo;
      hi = last > hi ? last : hi;
    }
    step = step == 0 ? 1 : step;
    joint->stride[axis] = inner->stride[axis];
    joint->dilation[axis] = (int32_t)step;
    joint->pad_begin[axis] = (int32_t)-lo;
    joint->size[axis] = (int32_t)((hi - lo) / step + 1);
  }
}

/* The tap of `joint` at offset (y, x). */
static double *tap_at(const qb_kernel *joint, int64_t y, int64_t x) {
  int64_t a = (y + joint->pad_begin[0]) / joint->dilation[0], b = (x + joint->pad_begin[1]) / joint->dilation[1];
  return joint->taps + (a * joint->size[1] + b) * joint->rows * joint->cols;
}

/* ------------------------------------------------------------------------------------------------------ tap by tap */

/* Rows [first, first + rows) of outer inner / 2, tap by tap. */
static void add_products(const qb_kernel *inner, const qb_kernel *outer, const qb_kernel *joint, int64_t first,
                         int64_t rows) {
  int64_t outer_area = (int64_t)outer->size[0] * outer->size[1], inner_area = (int64_t)inner->size[0] * inner->size[1];
  int cols = (int)joint->cols, middle = (int)outer->cols;
  for (int64_t p = 0; p < outer_area * inner_area; p++) {
    int64_t o = p / inner_area, i = p % inner_area;
    int64_t y =
        tap_offset(outer, 0, o / outer->size[1], inner->stride[0]) + tap_offset(inner, 0, i / inner->size[1], 1);
    int64_t x =
        tap_offset(outer, 1, o % outer->size[1], inner->stride[1]) + tap_offset(inner, 1, i % inner->size[1], 1);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, cols, middle, 0.5,
                outer->taps + (o * outer->rows + first) * outer->cols, middle,
                inner->taps + i * inner->rows * inner->cols, cols, 1, tap_at(joint, y, x) + first * cols, cols);
  }
}

/* Sums of middle * area products of entries that carry up to 6 roundings each. */
static double direct_loss(const qb_kernel *inner, const qb_kernel *outer) {
  double terms = (double)(outer->cols * outer->size[0] * outer->size[1]) + 24;
  return terms * UNIT * qb_kernel_absolute_norm(inner) * qb_kernel_absolute_norm(outer);
}

static void multiply_taps(const qb_kernel *inner, const qb_kernel *outer, qb_kernel *joint) {
  enum { ROWS = 64 }; /* of one task: the result does not depend on the number of threads */
#pragma omp parallel for schedule(dynamic, 1) if (joint->rows > ROWS)
  for (int64_t first = 0; first < joint->rows; first += ROWS)
    add_products(inner, outer, joint, first, joint->rows - first < ROWS ? joint->rows - first : ROWS);
}

/* ------------------------------------------------------------------------------------------------------ real points */

/* One factor as a polynomial; tap number a of an axis belongs to the power a step. */
typedef struct factor {
  const qb_kernel *kernel;
  int64_t step[2], degree[2];
} factor;

typedef struct product {
  factor outer, inner;
  qb_kernel *joint;
  int64_t first[2]; /* lattice index of the product's first tap in `joint` */
  int64_t size[2];  /* taps of the product */
  qb_points points[2];
  int64_t samples;
  double *values; /* (samples, rows * cols) */
} product;

static factor describe_factor(const qb_kernel *k, const qb_kernel *joint, const int32_t scale[2]) {
  factor f = {.kernel = k};
  for (int axis = 0; axis < 2; axis++) {
    f.step[axis] = k->size[axis] > 1 ? scale[axis] * k->dilation[axis] / joint->dilation[axis] : 0;
    f.degree[axis] = f.step[axis] * (k->size[axis] - 1);
  }
  return f;
}

/* False when there is no table for the degree or nothing is saved. */
static bool describe_product(const qb_kernel *inner, const qb_kernel *outer, qb_kernel *joint, product *p) {
  static const int32_t ones[2] = {1, 1};
  *p = (product){.inner = describe_factor(inner, joint, ones),
                 .outer = describe_factor(outer, joint, inner->stride),
                 .joint = joint,
                 .samples = 1};
  for (int axis = 0; axis < 2; axis++) {
    int64_t s = inner->stride[axis], lo = tap_offset(inner, axis, 0, 1) + tap_offset(outer, axis, 0, s);
    p->first[axis] = (lo + joint->pad_begin[axis]) / joint->dilation[axis];
    int64_t degree = p->inner.degree[axis] + p->outer.degree[axis];
    p->size[axis] = degree + 1;
    if (!qb_points_create(degree, &p->points[axis]))
      return false;
    p->inner.degree[axis] = p->points[axis].count - 1 - p->outer.degree[axis]; /* one more where the sum is odd */
    p->samples *= p->points[axis].count;
  }
  int64_t pairs = (int64_t)inner->size[0] * inner->size[1] * outer->size[0] * outer->size[1];
  return 5 * p->samples < 4 * pairs;
}

/* What tap t of a factor is multiplied with at a sample. */
static double tap_factor(const product *p, const factor *f, int64_t sample, int64_t t) {
  int64_t at[2] = {sample / p->points[1].count, sample % p->points[1].count};
  int64_t tap[2] = {t / f->kernel->size[1], t % f->kernel->size[1]};
  double power = 1;
  for (int axis = 0; axis < 2; axis++)
    power *= qb_points_power(&p->points[axis], at[axis], tap[axis] * f->step[axis], f->degree[axis]);
  return power;
}

/* The value of a factor at a sample, and a bound of its Frobenius norm that counts every tap by itself. */
static double evaluate(const product *p, const factor *f, int64_t sample, double *out) {
  const qb_kernel *k = f->kernel;
  int64_t entries = k->rows * k->cols;
  double norm = 0;
  memset(out, 0, (size_t)entries * sizeof *out);
  for (int64_t t = 0; t < (int64_t)k->size[0] * k->size[1]; t++) {
    double power = tap_factor(p, f, sample, t), square = 0;
    const double *tap = k->taps + t * entries;
    if (power == 0)
      continue;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < entries; i++) {
      double part = power * tap[i];
      out[i] += part;
      square += part * part;
    }
    norm += sqrt(square);
  }
  return norm * (1 + ((double)entries + 40) * DBL_EPSILON) + DBL_MIN;
}

/* coefficient (y, x) of the product counts value j of the samples with this weight. */
static double coefficient(const product *p, int64_t tap, int64_t j, double *off) {
  int64_t ey = tap / p->size[1], ex = tap % p->size[1], sy = j / p->points[1].count, sx = j % p->points[1].count;
  double y = p->points[0].coefficient[ey][sy], x = p->points[1].coefficient[ex][sx];
  double ry = p->points[0].rounding[ey][sy], rx = p->points[1].rounding[ex][sx];
  *off = 1.01 * (fabs(y) * rx + ry * fabs(x) + ry * rx + 2 * UNIT * fabs(y * x));
  return 0.5 * y * x;
}

/* Over all taps, what is lost of sample j when its factors have these norms. */
static double sample_loss(const product *p, int64_t j, double inner, double outer) {
  double taps = (double)(p->inner.kernel->size[0] * p->inner.kernel->size[1] +
                         p->outer.kernel->size[0] * p->outer.kernel->size[1]);
  double relative = 2.1 * (taps + 80 + (double)p->outer.kernel->cols + 8 + (double)p->samples + 8) * UNIT, sum = 0;
  for (int64_t tap = 0; tap < p->size[0] * p->size[1]; tap++) {
    double off, weight = fabs(coefficient(p, tap, j, &off));
    sum += (weight + off) * relative + off;
  }
  return 1.01 * sum * inner * outer;
}

static qb_status sample_product(const product *p, double *loss, qb_error *error) {
  const qb_kernel *a = p->outer.kernel, *b = p->inner.kernel;
  size_t space = (size_t)(a->rows * a->cols + b->rows * b->cols);
  bool failed = false;
#pragma omp parallel reduction(|| : failed)
  {
    double *outer = qb_alloc_uncleared(space, sizeof *outer), *inner = outer == NULL ? NULL : outer + a->rows * a->cols;
    failed = outer == NULL;
#pragma omp for schedule(dynamic, 1)
    for (int64_t j = 0; j < p->samples; j++) {
      if (failed)
        continue;
      double outer_norm = evaluate(p, &p->outer, j, outer), inner_norm = evaluate(p, &p->inner, j, inner);
      loss[j] = sample_loss(p, j, inner_norm, outer_norm);
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)a->rows, (int)b->cols, (int)a->cols, 1, outer,
                  (int)a->cols, inner, (int)b->cols, 0, p->values + j * a->rows * b->cols, (int)b->cols);
    }
    qb_free(outer);
  }
  return failed ? qb_fail_memory(error, "kernel", space * sizeof(double)) : QB_OK;
}

/* The taps from the values, blocks of entries at a time so that the order of summation does not depend on the number of
 * threads. weights: (taps, samples). */
static void combine(const product *p, const double *weights) {
  enum { BLOCK = 512, MOST = QB_POINTS_MOST * QB_POINTS_MOST };
  int64_t entries = p->joint->rows * p->joint->cols, taps = p->size[0] * p->size[1];
#pragma omp parallel for schedule(dynamic, 4)
  for (int64_t first = 0; first < entries; first += BLOCK) {
    double out[MOST * BLOCK];
    int block = (int)(entries - first < BLOCK ? entries - first : BLOCK);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)taps, block, (int)p->samples, 1, weights,
                (int)p->samples, p->values + first, (int)entries, 0, out, block);
    for (int64_t t = 0; t < taps; t++) {
      int64_t y = p->first[0] + t / p->size[1], x = p->first[1] + t % p->size[1];
      memcpy(p->joint->taps + (y * p->joint->size[1] + x) * entries + first, out + t * block,
             (size_t)block * sizeof *out);
    }
  }
}

static qb_status multiply_at_points(product *p, double *lost, qb_error *error) {
  size_t taps = (size_t)(p->size[0] * p->size[1]);
  size_t samples = (size_t)p->samples;
  double *weights = qb_alloc(taps * samples, sizeof *weights), *loss = qb_alloc(samples, sizeof *loss), off;
  qb_status status = weights == NULL || loss == NULL ? qb_fail_memory(error, "kernel", taps * samples * sizeof *weights)
                                                     : sample_product(p, loss, error);
  if (status == QB_OK) {
    for (size_t i = 0; i < taps * samples; i++)
      weights[i] = coefficient(p, (int64_t)(i / samples), (int64_t)(i % samples), &off);
    combine(p, weights);
    for (size_t j = 0; j < samples; j++)
      *lost += loss[j];
  }
  qb_free(weights);
  qb_free(loss);
  return status;
}

/* ------------------------------------------------------------------------------------------------------------- both */

static void add_skip(const qb_kernel *skip, const qb_kernel *joint) {
  for (int64_t t = 0; t < (int64_t)skip->size[0] * skip->size[1]; t++) {
    double *tap = tap_at(joint, tap_offset(skip, 0, t / skip->size[1], 1), tap_offset(skip, 1, t % skip->size[1], 1));
    for (int64_t i = 0; i < joint->rows * joint->cols; i++)
      tap[i] += skip->taps[t * joint->rows * joint->cols + i];
  }
}

static qb_kernel describe_joint(const qb_kernel *inner, const qb_kernel *outer, const qb_kernel *skip) {
  assert(inner->groups == 1 && outer->groups == 1 && outer->cols == inner->rows);
  qb_kernel joint = {.rows = outer->rows, .cols = inner->cols, .groups = 1};
  joint_lattice(inner, outer, skip, &joint);
  return joint;
}

size_t qb_kernel_compose_values(const qb_kernel *inner, const qb_kernel *outer, const qb_kernel *skip) {
  product p;
  qb_kernel joint = describe_joint(inner, outer, skip);
  return describe_product(inner, outer, &joint, &p) ? (size_t)(p.samples * joint.rows * joint.cols) : 0;
}

qb_status qb_kernel_compose(const qb_kernel *inner, const qb_kernel *outer, const qb_kernel *skip, qb_arena *arena,
                            double *values, qb_kernel *joint, double *lost, qb_error *error) {
  product p;
  *joint = describe_joint(inner, outer, skip);
  *lost = 0;
  QB_TRY(qb_kernel_allocate(joint, arena, error));
  if (describe_product(inner, outer, joint, &p)) {
    p.values = values;
    QB_TRY(multiply_at_points(&p, lost, error));
  } else {
    multiply_taps(inner, outer, joint);
    *lost = direct_loss(inner, outer);
  }
  double size = qb_kernel_absolute_norm(inner) * qb_kernel_absolute_norm(outer);
  size += skip == NULL ? 0 : qb_kernel_absolute_norm(skip);
  *lost = 1.01 * (*lost + 8 * UNIT * size);
  if (skip != NULL)
    add_skip(skip, joint);
  return QB_OK;
}
