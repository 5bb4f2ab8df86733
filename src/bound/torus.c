/* Symbols of convolutions; see torus.h. */
#include "bound/torus.h"

#include <assert.h>
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "bound/fault.h"
#include "base/size.h"

static const double PI = 3.14159265358979323846;

static qb_status allocate_taps(qb_kernel *kernel, qb_arena *arena, qb_error *error) {
  size_t count;
  size_t area = (size_t)kernel->size[0] * (size_t)kernel->size[1];
  if (!qb_size_multiply((size_t)kernel->rows * (size_t)kernel->cols, area * (size_t)kernel->groups, &count))
    return qb_fail_memory(error, "kernel", SIZE_MAX);
  kernel->taps = qb_arena_alloc(arena, count, sizeof *kernel->taps);
  return kernel->taps == NULL ? qb_fail_memory(error, "kernel", count * sizeof *kernel->taps) : QB_OK;
}

qb_status qb_kernel_create(const qb_graph *graph, const qb_linear *linear, const float *a, const float *b,
                           qb_arena *arena, qb_kernel *kernel, qb_error *error) {
  const qb_node *node = &graph->nodes[linear->node];
  if (node->op == QB_OP_CONV_TRANSPOSE)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "node '%s': no torus form of a transposed convolution", node->name);
  *kernel = (qb_kernel){.rows = linear->out_channels / linear->group,
                        .cols = linear->in_channels / linear->group,
                        .groups = linear->group,
                        .size = {1, 1},
                        .stride = {1, 1},
                        .dilation = {1, 1}};
  if (node->op == QB_OP_CONV)
    for (int axis = 0; axis < 2; axis++) {
      kernel->size[axis] = node->attributes.conv.window.kernel[axis];
      kernel->stride[axis] = node->attributes.conv.window.stride[axis];
      kernel->dilation[axis] = node->attributes.conv.window.dilation[axis];
      kernel->pad_begin[axis] = node->attributes.conv.window.pad_begin[axis];
      kernel->pad_end[axis] = node->attributes.conv.window.pad_end[axis];
    }
  QB_TRY(allocate_taps(kernel, arena, error));

  int64_t area = (int64_t)kernel->size[0] * kernel->size[1], entries = kernel->rows * kernel->cols;
  for (int64_t g = 0; g < kernel->groups; g++)
    for (int64_t e = 0; e < entries; e++)
      for (int64_t t = 0; t < area; t++) {
        int64_t from = (g * entries + e) * area + t;
        double value = (double)a[from] - (b == NULL ? 0.0 : (double)b[from]);
        kernel->taps[(g * area + t) * entries + e] = value;
      }
  return QB_OK;
}

qb_status qb_kernel_identity(int64_t channels, qb_arena *arena, qb_kernel *kernel, qb_error *error) {
  *kernel = (qb_kernel){.rows = channels,
                        .cols = channels,
                        .groups = 1,
                        .size = {1, 1},
                        .stride = {1, 1},
                        .dilation = {1, 1}};
  QB_TRY(allocate_taps(kernel, arena, error));
  for (int64_t c = 0; c < channels; c++)
    kernel->taps[c * channels + c] = 1;
  return QB_OK;
}

int64_t qb_kernel_torus_side(const qb_kernel *kernel, int axis, int64_t n) {
  int64_t reach = (int64_t)kernel->dilation[axis] * (kernel->size[axis] - 1);
  if (kernel->pad_begin[axis] > reach)
    reach = kernel->pad_begin[axis];
  if (kernel->pad_end[axis] > reach)
    reach = kernel->pad_end[axis];
  if (qb_bound_fault == QB_FAULT_SHORT_TORUS)
    return n;
  return reach == 0 ? 1 : n + reach;
}

qb_status qb_twiddles_create(int64_t n, qb_arena *arena, qb_twiddles *twiddles, qb_error *error) {
  *twiddles = (qb_twiddles){.n = n, .root = qb_arena_alloc(arena, (size_t)n, sizeof *twiddles->root)};
  if (twiddles->root == NULL)
    return qb_fail_memory(error, "roots of unity", (size_t)n * sizeof *twiddles->root);
  for (int64_t t = 0; t < n; t++) {
    double angle = 2 * PI * (double)t / (double)n;
    twiddles->root[t] = qb_complex_of(cos(angle), sin(angle));
  }
  return QB_OK;
}

/* exp(2 pi i f tau / n) where tau = d a - pad is the offset of a tap. */
static qb_complex tap_phase(const qb_twiddles *twiddles, int64_t frequency, int64_t offset) {
  int64_t index = (frequency % twiddles->n) * (offset % twiddles->n) % twiddles->n;
  return twiddles->root[index < 0 ? index + twiddles->n : index];
}

/* out += phase * tap over one row: a real row of weights into a complex one. */
static void add_row(const double *tap, int64_t cols, qb_complex phase, qb_complex *out) {
  double re = creal(phase), im = cimag(phase), *parts = (double *)out;
  for (int64_t c = 0; c < cols; c++) {
    parts[2 * c] += re * tap[c];
    parts[2 * c + 1] += im * tap[c];
  }
}

/* One column block of the symbol: the taps at one input frequency. Rows go in strips that stay in the first cache
 * while all taps are added. */
static void add_block(const qb_kernel *kernel, int32_t group, const qb_twiddles twiddles[2], int64_t y, int64_t x,
                      double scale, int64_t width, qb_complex *block) {
  enum { STRIP = 8 };
  int64_t entries = kernel->rows * kernel->cols, area = (int64_t)kernel->size[0] * kernel->size[1];
  for (int64_t first = 0; first < kernel->rows; first += STRIP) {
    int64_t end = first + STRIP < kernel->rows ? first + STRIP : kernel->rows;
    for (int32_t a = 0; a < kernel->size[0]; a++)
      for (int32_t b = 0; b < kernel->size[1]; b++) {
        qb_complex phase = tap_phase(&twiddles[0], y, (int64_t)a * kernel->dilation[0] - kernel->pad_begin[0]) *
                           tap_phase(&twiddles[1], x, (int64_t)b * kernel->dilation[1] - kernel->pad_begin[1]);
        const double *tap = kernel->taps + (group * area + (int64_t)a * kernel->size[1] + b) * entries;
        for (int64_t r = first; r < end; r++)
          add_row(tap + r * kernel->cols, kernel->cols, phase * scale, block + r * width);
      }
  }
}

void qb_kernel_symbol(const qb_kernel *kernel, int32_t group, const qb_twiddles twiddles[2], int64_t fy, int64_t fx,
                      qb_complex *matrix) {
  int32_t aliases = kernel->stride[0] * kernel->stride[1];
  int64_t width = aliases * kernel->cols;
  double scale = 1 / sqrt((double)aliases);
  memset(matrix, 0, (size_t)(kernel->rows * width) * sizeof *matrix);
  for (int32_t alias = 0; alias < aliases; alias++) {
    int64_t y = fy + (alias / kernel->stride[1]) * (twiddles[0].n / kernel->stride[0]);
    int64_t x = fx + (alias % kernel->stride[1]) * (twiddles[1].n / kernel->stride[1]);
    add_block(kernel, group, twiddles, y, x, scale, width, matrix + alias * kernel->cols);
  }
}

qb_status qb_kernel_scale(const qb_kernel *kernel, const double *row_factor, const double *column_factor,
                          qb_arena *arena, qb_kernel *scaled, qb_error *error) {
  assert(kernel->groups == 1);
  *scaled = *kernel;
  QB_TRY(allocate_taps(scaled, arena, error));
  int64_t area = (int64_t)kernel->size[0] * kernel->size[1];
  for (int64_t t = 0; t < area; t++)
    for (int64_t r = 0; r < kernel->rows; r++)
      for (int64_t c = 0; c < kernel->cols; c++) {
        int64_t at = (t * kernel->rows + r) * kernel->cols + c;
        double factor = (row_factor == NULL ? 1 : row_factor[r]) * (column_factor == NULL ? 1 : column_factor[c]);
        scaled->taps[at] = kernel->taps[at] * factor;
      }
  return QB_OK;
}

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

qb_status qb_kernel_compose(const qb_kernel *inner, const qb_kernel *outer, const qb_kernel *skip, qb_arena *arena,
                            qb_kernel *joint, qb_error *error) {
  enum { ROWS = 64 }; /* of one task: the result does not depend on the number of threads */
  assert(inner->groups == 1 && outer->groups == 1 && outer->cols == inner->rows);
  *joint = (qb_kernel){.rows = outer->rows, .cols = inner->cols, .groups = 1};
  joint_lattice(inner, outer, skip, joint);
  QB_TRY(allocate_taps(joint, arena, error));
#pragma omp parallel for schedule(dynamic, 1) if (joint->rows > ROWS)
  for (int64_t first = 0; first < joint->rows; first += ROWS)
    add_products(inner, outer, joint, first, joint->rows - first < ROWS ? joint->rows - first : ROWS);
  for (int64_t t = 0; skip != NULL && t < (int64_t)skip->size[0] * skip->size[1]; t++) {
    double *tap = tap_at(joint, tap_offset(skip, 0, t / skip->size[1], 1), tap_offset(skip, 1, t % skip->size[1], 1));
    for (int64_t i = 0; i < joint->rows * joint->cols; i++)
      tap[i] += skip->taps[t * joint->rows * joint->cols + i];
  }
  return QB_OK;
}

double qb_kernel_absolute_norm(const qb_kernel *kernel) {
  int64_t area = (int64_t)kernel->size[0] * kernel->size[1], entries = kernel->rows * kernel->cols;
  double largest = 0;
  for (int32_t g = 0; g < kernel->groups; g++) {
    double square = 0;
    for (int64_t e = 0; e < entries; e++) {
      double sum = 0;
      for (int64_t t = 0; t < area; t++)
        sum += fabs(kernel->taps[(g * area + t) * entries + e]);
      square += sum * sum;
    }
    largest = fmax(largest, square);
  }
  return sqrt(largest) * (1 + (double)(entries + area + 4) * DBL_EPSILON);
}

double qb_kernel_symbol_error(const qb_kernel *kernel) {
  /* Per entry, relative to sum_t |K_t| and in units of u = 2^-53: the angle 2 pi t / n and its sine or cosine at most
   * 20, the product of two roots and of the scale 8, the sum over the taps `taps` + 2, the rounding of the entry and
   * of its weights 6; twice that for the two parts of a complex number. The blocks of all aliases have unit weight. */
  double taps = (double)kernel->size[0] * kernel->size[1], unit = DBL_EPSILON / 2;
  double norm = qb_kernel_absolute_norm(kernel);
  return norm == 0 ? 0 : 2.1 * (taps + 40) * unit * norm + DBL_MIN;
}
