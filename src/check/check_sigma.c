/* A zero-padded convolution is a circular one on a torus that no tap wraps around, restricted to fewer inputs and
 * outputs, which does not raise its norm; the Fourier transform turns it into one small complex matrix per frequency
 * (with stride s, one column block for each of the s*s input frequencies that alias). See check_sigma.h. */
#include "check/check_sigma.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

static const double UNIT = DBL_EPSILON / 2;

/* A complex matrix in two parts. */
typedef struct matrix {
  int64_t rows, cols;
  double *re, *im;
} matrix;

static int64_t area_of(const kernel *k) { return (int64_t)k->size[0] * k->size[1]; }

static qb_status new_taps(kernel *k, qb_arena *arena, qb_error *error) {
  size_t count = (size_t)(k->groups * area_of(k) * k->rows * k->cols);
  k->taps = qb_arena_alloc(arena, count, sizeof *k->taps);
  return k->taps == NULL ? qb_fail_memory(error, "a kernel", count * sizeof *k->taps) : QB_OK;
}

qb_status kernel_create(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus,
                        const double *row_factor, const double *column_factor, qb_arena *arena, kernel *k,
                        qb_error *error) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_window *w = &node->attributes.conv.window;
  *k = (kernel){.rows = linear->out_channels / linear->group,
                .cols = linear->in_channels / linear->group,
                .groups = linear->group,
                .size = {1, 1},
                .stride = {1, 1},
                .dilation = {1, 1}};
  for (int axis = 0; node->op == QB_OP_CONV && axis < 2; axis++) {
    k->size[axis] = w->kernel[axis];
    k->stride[axis] = w->stride[axis];
    k->dilation[axis] = w->dilation[axis];
    k->pad_begin[axis] = w->pad_begin[axis];
    k->pad_end[axis] = w->pad_end[axis];
  }
  QB_TRY(new_taps(k, arena, error));
  int64_t area = area_of(k), entries = k->rows * k->cols;
  for (int64_t i = 0; i < k->groups * entries; i++) /* (group, row, column) of the weight, taps innermost there */
    for (int64_t t = 0; t < area; t++) {
      double factor = (row_factor == NULL ? 1 : row_factor[i / k->cols % k->rows]) *
                      (column_factor == NULL ? 1 : column_factor[i % k->cols]);
      double value = (double)plus[i * area + t] - (minus == NULL ? 0 : (double)minus[i * area + t]);
      k->taps[(i / entries * area + t) * entries + i % entries] = value * factor;
    }
  return QB_OK;
}

qb_status kernel_identity(int64_t channels, qb_arena *arena, kernel *k, qb_error *error) {
  *k = (kernel){.rows = channels, .cols = channels, .groups = 1, .size = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}};
  QB_TRY(new_taps(k, arena, error));
  for (int64_t c = 0; c < channels; c++)
    k->taps[c * channels + c] = 1;
  return QB_OK;
}

int64_t kernel_side(const kernel *k, int axis, int64_t n) {
  int64_t reach = (int64_t)k->dilation[axis] * (k->size[axis] - 1);
  reach = k->pad_begin[axis] > reach ? k->pad_begin[axis] : reach;
  reach = k->pad_end[axis] > reach ? k->pad_end[axis] : reach;
  return reach == 0 ? 1 : n + reach; /* one tap without pads: the same matrix at every frequency */
}

/* ---------------------------------------------------------------------------------------------------------- rounding
 */

/* Frobenius norm of sum over taps of |K|, the largest group's: bounds that of every symbol. */
static double absolute_norm(const kernel *k) {
  int64_t area = area_of(k), entries = k->rows * k->cols;
  double largest = 0;
  for (int32_t g = 0; g < k->groups; g++) {
    double square = 0;
    for (int64_t e = 0; e < entries; e++) {
      double sum = 0;
      for (int64_t t = 0; t < area; t++)
        sum += fabs(k->taps[(g * area + t) * entries + e]);
      square += sum * sum;
    }
    largest = fmax(largest, square);
  }
  return sqrt(largest) * (1 + (double)(entries + area + 8) * DBL_EPSILON);
}

/* Frobenius norm of computed - exact symbol: per entry at most (taps + 40) roundings of parts of sum |K| (angle and
 * root 20, phase 8, scaling and difference of weights 6, sum), twice for two parts. */
static double symbol_error(const kernel *k) {
  double norm = absolute_norm(k);
  return norm == 0 ? 0 : 2.2 * ((double)area_of(k) + 40) * UNIT * norm + DBL_MIN;
}

static double operator_error(const torus_operator *m) {
  double e = symbol_error(m->inner);
  if (m->outer == NULL)
    return e;
  double a = absolute_norm(m->inner), b = absolute_norm(m->outer), f = symbol_error(m->outer);
  double skip = m->skip == NULL ? 0 : absolute_norm(m->skip), skip_error = m->skip == NULL ? 0 : symbol_error(m->skip);
  return 1.01 *
         (skip_error + a * f + b * e + e * f + 4 * ((double)m->inner->rows + 8) * UNIT * a * b + 4 * UNIT * skip);
}

/* ----------------------------------------------------------------------------------------------------------- symbols
 */

/* exp(2 pi i t / n), the phase of a tap at offset t = frequency * (d a - pad). */
static void phase_of(int64_t t, int64_t n, double *re, double *im) {
  t = (t % n + n) % n;
  double angle = 2 * 3.14159265358979323846 * (double)t / (double)n;
  *re = cos(angle);
  *im = sin(angle);
}

/* The symbol of a group at output frequency (fy, fx) on a torus with the given input side. */
static void fill_symbol(const kernel *k, int64_t group, const int64_t side[2], int64_t fy, int64_t fx, matrix *m) {
  int64_t aliases = (int64_t)k->stride[0] * k->stride[1], entries = k->rows * k->cols;
  m->rows = k->rows;
  m->cols = aliases * k->cols;
  memset(m->re, 0, (size_t)(m->rows * m->cols) * sizeof *m->re);
  memset(m->im, 0, (size_t)(m->rows * m->cols) * sizeof *m->im);
  double scale = 1 / sqrt((double)aliases);
  for (int64_t alias = 0; alias < aliases; alias++)
    for (int64_t tap = 0; tap < area_of(k); tap++) {
      int64_t y = fy + alias / k->stride[1] * (side[0] / k->stride[0]);
      int64_t x = fx + alias % k->stride[1] * (side[1] / k->stride[1]);
      double yr, yi, xr, xi;
      phase_of(y * (tap / k->size[1] * k->dilation[0] - k->pad_begin[0]), side[0], &yr, &yi);
      phase_of(x * (tap % k->size[1] * k->dilation[1] - k->pad_begin[1]), side[1], &xr, &xi);
      double re = (yr * xr - yi * xi) * scale, im = (yr * xi + yi * xr) * scale;
      const double *from = k->taps + (group * area_of(k) + tap) * entries;
      for (int64_t r = 0; r < k->rows; r++)
        for (int64_t c = 0; c < k->cols; c++) {
          m->re[r * m->cols + alias * k->cols + c] += re * from[r * k->cols + c];
          m->im[r * m->cols + alias * k->cols + c] += im * from[r * k->cols + c];
        }
    }
}

/* m += a b / 2 */
static void add_half_product(const matrix *a, const matrix *b, matrix *m) {
  for (int64_t r = 0; r < a->rows; r++)
    for (int64_t k = 0; k < a->cols; k++) {
      double re = a->re[r * a->cols + k] / 2, im = a->im[r * a->cols + k] / 2;
      for (int64_t c = 0; c < b->cols; c++) {
        m->re[r * m->cols + c] += re * b->re[k * b->cols + c] - im * b->im[k * b->cols + c];
        m->im[r * m->cols + c] += re * b->im[k * b->cols + c] + im * b->re[k * b->cols + c];
      }
    }
}

/* ---------------------------------------------------------------------------------------------------------- Cholesky
 */

/* sum_k x_k conj(y_k) */
static void dot(const matrix *m, int64_t i, int64_t j, int64_t count, double *re, double *im) {
  const double *a = m->re + i * m->cols, *b = m->im + i * m->cols, *c = m->re + j * m->cols, *d = m->im + j * m->cols;
  double x = 0, y = 0;
#pragma omp simd reduction(+ : x, y)
  for (int64_t k = 0; k < count; k++) {
    x += a[k] * c[k] + b[k] * d[k];
    y += b[k] * c[k] - a[k] * d[k];
  }
  *re = x;
  *im = y;
}

/* True when shift I - M M^H has a floating-point Cholesky factorisation; `l` receives it. */
static bool factorises(const matrix *m, double shift, matrix *l) {
  int64_t n = m->rows;
  l->rows = l->cols = n;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j <= i; j++) {
      double re, im, own_re, own_im;
      dot(m, i, j, m->cols, &re, &im);
      dot(l, i, j, j, &own_re, &own_im);
      re = (i == j ? shift - re : -re) - own_re;
      im = -im - own_im;
      if (i == j && !(re > 0))
        return false;
      double pivot = i == j ? sqrt(re) : l->re[j * n + j];
      l->re[i * n + j] = i == j ? pivot : re / pivot;
      l->im[i * n + j] = i == j ? 0 : im / pivot;
    }
  return true;
}

/* Both orders of a product have the same largest eigenvalue: make M wide. M^T (M^T)^H = conj(M^H M). */
static void make_wide(matrix *m, matrix *spare) {
  if (m->rows <= m->cols)
    return;
  for (int64_t r = 0; r < m->rows; r++)
    for (int64_t c = 0; c < m->cols; c++) {
      spare->re[c * m->rows + r] = m->re[r * m->cols + c];
      spare->im[c * m->rows + r] = m->im[r * m->cols + c];
    }
  matrix wide = {m->cols, m->rows, spare->re, spare->im};
  *spare = *m;
  *m = wide;
}

/* sigma_max(computed M) <= t. What floating point may hide is taken off the shift: the Gram matrix is off by at most
 * gamma_{4n+8} ||M||_F^2, a completed factorisation proves A + dA >= 0 with ||dA|| <= gamma_{4d+8} tr(A) (Rump 2006).
 */
static bool proves(matrix *m, double t, matrix *l, matrix *spare) {
  double square = 0;
  for (int64_t i = 0; i < m->rows * m->cols; i++)
    square += m->re[i] * m->re[i] + m->im[i] * m->im[i];
  square *= 1 + ((double)(m->rows * m->cols) + 8) * 2 * UNIT;
  double limit = t * t * (1 - 8 * UNIT);
  if (!(t >= 0) || !isfinite(square))
    return false;
  if (square <= limit)
    return true;
  make_wide(m, spare);
  double n = (double)m->rows, terms = (double)m->cols;
  double hidden = 4.2 * (terms + 8) * UNIT * square + 4.2 * (n + 8) * UNIT * (n + 1) * t * t;
  return limit > hidden && factorises(m, limit - hidden, l);
}

/* --------------------------------------------------------------------------------------------------- all frequencies
 */

typedef struct workspace {
  matrix m, inner, outer, l, spare;
  void *blocks[10];
} workspace;

static bool workspace_create(workspace *w, const torus_operator *o) {
  const kernel *inner = o->inner, *last = o->outer == NULL ? inner : o->outer;
  int64_t cols = inner->cols * inner->stride[0] * inner->stride[1], rows = last->rows;
  int64_t least = rows < cols ? rows : cols;
  int64_t sizes[5] = {rows * cols, inner->rows * cols, rows * inner->rows, least * least, rows * cols};
  matrix *all[5] = {&w->m, &w->inner, &w->outer, &w->l, &w->spare};
  bool ready = true;
  for (int i = 0; i < 5; i++) {
    w->blocks[2 * i] = all[i]->re = qb_alloc((size_t)sizes[i], sizeof(double));
    w->blocks[2 * i + 1] = all[i]->im = qb_alloc((size_t)sizes[i], sizeof(double));
    ready = ready && all[i]->re != NULL && all[i]->im != NULL;
  }
  return ready;
}

static void workspace_free(workspace *w) {
  for (int i = 0; i < 10; i++)
    qb_free(w->blocks[i]);
}

static bool prove_frequency(const torus_operator *o, int64_t group, int64_t fy, int64_t fx, double t, workspace *w) {
  matrix m = w->m, spare = w->spare;
  if (o->outer == NULL) {
    fill_symbol(o->inner, group, o->side, fy, fx, &m);
    return proves(&m, t, &w->l, &spare);
  }
  int64_t middle[2] = {o->side[0] / o->inner->stride[0], o->side[1] / o->inner->stride[1]};
  fill_symbol(o->inner, 0, o->side, fy, fx, &w->inner);
  fill_symbol(o->outer, 0, middle, fy, fx, &w->outer);
  m.rows = w->outer.rows;
  m.cols = w->inner.cols;
  memset(m.re, 0, (size_t)(m.rows * m.cols) * sizeof *m.re);
  memset(m.im, 0, (size_t)(m.rows * m.cols) * sizeof *m.im);
  if (o->skip != NULL)
    fill_symbol(o->skip, 0, o->side, fy, fx, &m);
  add_half_product(&w->outer, &w->inner, &m);
  return proves(&m, t, &w->l, &spare);
}

qb_status sigma_prove(const torus_operator *o, double claimed, bool *proved, qb_error *error) {
  const kernel *k = o->inner;
  int64_t height = o->side[0] / k->stride[0], width = o->side[1] / k->stride[1] / 2 + 1; /* conjugates: half of them */
  double t = claimed - operator_error(o);
  bool refused = false, failed = false;
  *proved = claimed == 0 && o->outer == NULL && absolute_norm(k) == 0;
  if (*proved || !(t > 0) || isinf(t))
    return QB_OK;
  t = t * (1 - 4 * UNIT);
#pragma omp parallel reduction(|| : refused, failed)
  {
    workspace w = {.blocks = {NULL}};
    failed = !workspace_create(&w, o);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < k->groups * height * width; i++)
      if (!failed && !refused)
        refused = !prove_frequency(o, i / (height * width), i / width % height, i % width, t, &w);
    workspace_free(&w);
  }
  *proved = !refused && !failed;
  return failed ? qb_fail_memory(error, "a spectral norm", (size_t)(k->rows * k->cols) * sizeof(double)) : QB_OK;
}
