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

qb_status qb_kernel_allocate(qb_kernel *kernel, qb_arena *arena, qb_error *error) {
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
  QB_TRY(qb_kernel_allocate(kernel, arena, error));

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
  QB_TRY(qb_kernel_allocate(kernel, arena, error));
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

enum { LANES = 8, TAPS = 256 };

/* LANES entries of one row: sums over the taps stay in registers. `at`: the first tap's; `step`: to the next tap. */
static void add_lanes(const double *at, int64_t step, int64_t taps, const double *re, const double *im, double *out) {
  double x[LANES] = {0}, y[LANES] = {0};
  for (int64_t t = 0; t < taps; t++, at += step)
    for (int l = 0; l < LANES; l++) {
      x[l] += re[t] * at[l];
      y[l] += im[t] * at[l];
    }
  for (int l = 0; l < LANES; l++) {
    out[2 * l] += x[l];
    out[2 * l + 1] += y[l];
  }
}

/* The same for the last entries of a row. */
static void add_entries(const double *at, int64_t step, int64_t taps, const double *re, const double *im, int64_t count,
                        double *out) {
  for (int64_t c = 0; c < count; c++)
    for (int64_t t = 0; t < taps; t++) {
      out[2 * c] += re[t] * at[t * step + c];
      out[2 * c + 1] += im[t] * at[t * step + c];
    }
}

/* Adds taps [first, first + taps) at one input frequency to a column block of the symbol. */
static void add_taps(const qb_kernel *kernel, const double *tap, int64_t taps, const double *re, const double *im,
                     int64_t width, qb_complex *block) {
  int64_t entries = kernel->rows * kernel->cols, whole = kernel->cols / LANES * LANES;
  for (int64_t r = 0; r < kernel->rows; r++) {
    const double *row = tap + r * kernel->cols;
    double *out = (double *)(block + r * width);
    for (int64_t c = 0; c < whole; c += LANES)
      add_lanes(row + c, entries, taps, re, im, out + 2 * c);
    add_entries(row + whole, entries, taps, re, im, kernel->cols - whole, out + 2 * whole);
  }
}

/* One column block of the symbol: all taps at one input frequency. */
static void add_block(const qb_kernel *kernel, int32_t group, const qb_twiddles twiddles[2], int64_t y, int64_t x,
                      double scale, int64_t width, qb_complex *block) {
  int64_t entries = kernel->rows * kernel->cols, area = (int64_t)kernel->size[0] * kernel->size[1];
  for (int64_t first = 0; first < area; first += TAPS) {
    int64_t taps = area - first < TAPS ? area - first : TAPS;
    double re[TAPS], im[TAPS];
    for (int64_t t = 0; t < taps; t++) {
      int64_t a = (first + t) / kernel->size[1], b = (first + t) % kernel->size[1];
      qb_complex phase = tap_phase(&twiddles[0], y, a * kernel->dilation[0] - kernel->pad_begin[0]) *
                         tap_phase(&twiddles[1], x, b * kernel->dilation[1] - kernel->pad_begin[1]) * scale;
      re[t] = creal(phase);
      im[t] = cimag(phase);
    }
    add_taps(kernel, kernel->taps + (group * area + first) * entries, taps, re, im, width, block);
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
  QB_TRY(qb_kernel_allocate(scaled, arena, error));
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
