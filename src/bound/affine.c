/* Linear layers in double; see affine.h. */
#include "bound/affine.h"

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/error.h"
#include "bound/dense.h"

static const double UNIT = DBL_EPSILON / 2;

typedef struct geometry {
  qb_window window;
  int64_t channels[2], height[2], width[2]; /* of input (0) and output (1) */
  int64_t positions;                        /* rows of a matrix layer that is applied along the last axis */
} geometry;

static geometry layer_geometry(const qb_graph *graph, const qb_linear *linear) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_shape *shapes[2] = {&graph->values[node->inputs[0]].shape, &graph->values[node->output].shape};
  geometry g = {.window = {.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}}, .positions = 1};
  bool is_conv = node->op == QB_OP_CONV || node->op == QB_OP_CONV_TRANSPOSE;
  if (is_conv)
    g.window = node->attributes.conv.window;
  for (int side = 0; side < 2; side++) {
    const qb_shape *s = shapes[side];
    g.channels[side] = is_conv ? s->dims[1] : s->dims[s->rank - 1];
    g.height[side] = is_conv ? s->dims[2] : 1;
    g.width[side] = is_conv ? s->dims[3] : 1;
  }
  if (!is_conv)
    g.positions = (int64_t)qb_shape_elements(shapes[0]) / g.channels[0];
  return g;
}

/* The matrix plus - minus, or |plus - minus|. */
typedef struct difference {
  const float *plus, *minus; /* either may be NULL: zero */
  bool absolute;
} difference;

static double entry(const difference *d, int64_t at) {
  double value = (d->plus == NULL ? 0.0 : (double)d->plus[at]) - (d->minus == NULL ? 0.0 : (double)d->minus[at]);
  return d->absolute ? fabs(value) : value;
}

/* The weights of one group as doubles. */
static void copy_group(const qb_linear *linear, const difference *weights, int64_t group, double *w) {
  int64_t rows = linear->out_channels / linear->group, count = rows * linear->row_length, at = group * count;
  for (int64_t i = 0; i < count; i++)
    w[i] = entry(weights, at + i);
}

/* columns (channels * taps, output positions) of one group. */
static void unfold(const geometry *g, int64_t channels, const double *x, double *columns) {
  const qb_window *win = &g->window;
  int64_t area = g->height[1] * g->width[1];
  for (int64_t c = 0; c < channels; c++)
    for (int64_t a = 0; a < win->kernel[0]; a++)
      for (int64_t b = 0; b < win->kernel[1]; b++) {
        double *row = columns + ((c * win->kernel[0] + a) * win->kernel[1] + b) * area;
        for (int64_t y = 0; y < g->height[1]; y++) {
          int64_t iy = y * win->stride[0] + a * win->dilation[0] - win->pad_begin[0];
          for (int64_t z = 0; z < g->width[1]; z++) {
            int64_t iz = z * win->stride[1] + b * win->dilation[1] - win->pad_begin[1];
            bool inside = iy >= 0 && iy < g->height[0] && iz >= 0 && iz < g->width[0];
            row[y * g->width[1] + z] = inside ? x[(c * g->height[0] + iy) * g->width[0] + iz] : 0;
          }
        }
      }
}

static qb_status apply_conv(const geometry *g, const qb_linear *linear, const difference *weights, const double *x,
                            double *y, qb_arena *arena, qb_error *error) {
  int64_t rows = linear->out_channels / linear->group, channels = linear->in_channels / linear->group;
  int64_t inner = linear->row_length, area = g->height[1] * g->width[1], input_area = g->height[0] * g->width[0];
  double *w = qb_arena_alloc(arena, (size_t)(rows * inner), sizeof *w);
  double *columns = qb_arena_alloc(arena, (size_t)inner * (size_t)area, sizeof *columns);
  if (w == NULL || columns == NULL)
    return qb_fail_memory(error, "layer in double", (size_t)(inner * area) * sizeof *columns);
  for (int64_t group = 0; group < linear->group; group++) {
    copy_group(linear, weights, group, w);
    unfold(g, channels, x + group * channels * input_area, columns);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)area, (int)inner, 1, w, (int)inner, columns,
                (int)area, 0, y + group * rows * area, (int)area);
  }
  return QB_OK;
}

/* One vector: straight from the stored weights. */
static void apply_row_by_row(const qb_linear *linear, const difference *weights, const double *x, double *y) {
  int64_t cols = linear->in_channels;
  for (int64_t o = 0; o < linear->out_channels; o++) {
    const float *minus = weights->minus == NULL ? NULL : weights->minus + o * cols;
    y[o] = qb_dense_row(cols, weights->plus + o * cols, minus, weights->absolute, x);
  }
}

static qb_status apply_matrix(const geometry *g, const qb_linear *linear, const difference *weights, const double *x,
                              double *y, qb_arena *arena, qb_error *error) {
  int64_t rows = linear->out_channels, cols = linear->in_channels;
  if (g->positions == 1 && weights->plus != NULL) {
    apply_row_by_row(linear, weights, x, y);
    return QB_OK;
  }
  double *w = qb_arena_alloc(arena, (size_t)(rows * cols), sizeof *w);
  if (w == NULL)
    return qb_fail_memory(error, "layer in double", (size_t)(rows * cols) * sizeof *w);
  copy_group(linear, weights, 0, w);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)g->positions, (int)rows, (int)cols, 1, x, (int)cols, w,
              (int)cols, 0, y, (int)rows);
  return QB_OK;
}

/* Scatter form: weight (IC, OC/G, KH, KW). */
static void apply_transpose(const geometry *g, const qb_linear *linear, const difference *weights, const double *x,
                            double *y) {
  const qb_window *win = &g->window;
  int64_t per_group = linear->out_channels / linear->group, in_per_group = linear->in_channels / linear->group;
  memset(y, 0, (size_t)(g->channels[1] * g->height[1] * g->width[1]) * sizeof *y);
  for (int64_t i = 0; i < linear->in_channels; i++)
    for (int64_t o = 0; o < per_group; o++)
      for (int64_t a = 0; a < win->kernel[0]; a++)
        for (int64_t b = 0; b < win->kernel[1]; b++) {
          int64_t at = ((i * per_group + o) * win->kernel[0] + a) * win->kernel[1] + b;
          double w = entry(weights, at);
          int64_t channel = i / in_per_group * per_group + o;
          for (int64_t u = 0; u < g->height[0]; u++)
            for (int64_t v = 0; v < g->width[0]; v++) {
              int64_t oy = u * win->stride[0] + a * win->dilation[0] - win->pad_begin[0];
              int64_t ox = v * win->stride[1] + b * win->dilation[1] - win->pad_begin[1];
              if (oy >= 0 && oy < g->height[1] && ox >= 0 && ox < g->width[1])
                y[(channel * g->height[1] + oy) * g->width[1] + ox] += w * x[(i * g->height[0] + u) * g->width[0] + v];
            }
        }
}

static void add_bias(const geometry *g, bool is_conv, const difference *bias, double *y) {
  int64_t channels = g->channels[1], area = is_conv ? g->height[1] * g->width[1] : 1;
  for (int64_t p = 0; p < g->positions; p++)
    for (int64_t c = 0; c < channels; c++) {
      double shift = entry(bias, c);
      for (int64_t i = 0; i < area; i++)
        y[(p * channels + c) * area + i] += shift;
    }
}

static qb_status apply(const qb_graph *graph, const qb_linear *linear, const difference *weights,
                       const difference *bias, const double *x, double *y, qb_arena *arena, qb_error *error) {
  geometry g = layer_geometry(graph, linear);
  qb_op op = graph->nodes[linear->node].op;
  qb_arena_mark mark = qb_arena_get_mark(arena);
  qb_status status = QB_OK;
  bool alone = !omp_in_parallel();
  int threads = openblas_get_num_threads();
  if (alone)
    openblas_set_num_threads(1); /* one order of summation whatever the number of threads */
  if (op == QB_OP_CONV)
    status = apply_conv(&g, linear, weights, x, y, arena, error);
  else if (op == QB_OP_CONV_TRANSPOSE)
    apply_transpose(&g, linear, weights, x, y);
  else
    status = apply_matrix(&g, linear, weights, x, y, arena, error);
  if (alone)
    openblas_set_num_threads(threads);
  qb_arena_rewind(arena, mark);
  if (status == QB_OK && (bias->plus != NULL || bias->minus != NULL))
    add_bias(&g, op == QB_OP_CONV || op == QB_OP_CONV_TRANSPOSE, bias, y);
  return status;
}

qb_status qb_affine_apply(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus,
                          const float *bias_plus, const float *bias_minus, const double *x, double *y, qb_arena *arena,
                          qb_error *error) {
  difference weights = {plus, minus, false}, bias = {bias_plus, bias_minus, false};
  return apply(graph, linear, &weights, &bias, x, y, arena, error);
}

qb_status qb_affine_apply_absolute(const qb_graph *graph, const qb_linear *linear, const float *plus,
                                   const float *minus, const float *bias_plus, const float *bias_minus, const double *x,
                                   double *y, qb_arena *arena, qb_error *error) {
  difference weights = {plus, minus, true}, bias = {bias_plus, bias_minus, true};
  return apply(graph, linear, &weights, &bias, x, y, arena, error);
}

/* ------------------------------------------------------------------------------------------------------------ sums */

static double largest_magnitude(const float *values, int64_t count) {
  double largest = 0;
  for (int64_t i = 0; values != NULL && i < count; i++)
    largest = fmax(largest, fabs((double)values[i]));
  return largest;
}

static double entry_magnitude(const float *plus, const float *minus, int64_t at, bool apart) {
  double a = (double)plus[at], b = minus == NULL ? 0.0 : (double)minus[at];
  return apart ? fabs(a) + fabs(b) : fabs(a - b);
}

/* Largest sum of |entries| over one output channel, or over one input channel. `apart`: of |plus| + |minus|. */
static double largest_sum(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus,
                          bool by_row, bool apart) {
  bool transposed = graph->nodes[linear->node].op == QB_OP_CONV_TRANSPOSE;
  int64_t channels = by_row ? linear->out_channels : linear->in_channels;
  int64_t count = linear->out_channels * (linear->in_channels / linear->group) * linear->kernel_area;
  double largest = 0;
  for (int64_t c = 0; c < channels; c++) {
    /* walk the entries of channel c: contiguous when it is the leading axis of the layout */
    bool leading = by_row != transposed;
    int64_t per = count / channels, outs = linear->out_channels / linear->group;
    int64_t ins = linear->in_channels / linear->group, minor = transposed ? outs : ins;
    int64_t major = transposed ? ins : outs, group = c / minor;
    double sum = 0;
    for (int64_t k = 0; k < per; k++) {
      int64_t at = c * per + k;
      if (!leading)
        at = ((group * major + k / linear->kernel_area) * minor + c % minor) * linear->kernel_area +
             k % linear->kernel_area;
      sum += entry_magnitude(plus, minus, at, apart);
    }
    largest = fmax(largest, sum);
  }
  return largest * (1 + ((double)count / (double)channels + 4) * 2 * UNIT);
}

void qb_affine_sums(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus, double *row,
                    double *column) {
  *row = largest_sum(graph, linear, plus, minus, true, false);
  *column = largest_sum(graph, linear, plus, minus, false, false);
}

double qb_affine_rounding(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus,
                          const float *bias_plus, const float *bias_minus, double x_max) {
  double row = largest_sum(graph, linear, plus, minus, true, true);
  double bias =
      largest_magnitude(bias_plus, linear->out_channels) + largest_magnitude(bias_minus, linear->out_channels);
  double outputs = (double)qb_shape_elements(&graph->values[graph->nodes[linear->node].output].shape);
  double terms = (double)linear->row_length + 4;
  return 1.01 * (terms * UNIT * (row * x_max + bias) + terms * DBL_MIN) * sqrt(outputs);
}
