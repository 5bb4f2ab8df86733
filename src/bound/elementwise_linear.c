/* Five non-negative products per linear layer; see elementwise.h for the split of the weights.
 *
 * Convolutions unfold a tile of the input, split a tile of the weights and multiply with sgemm; each task owns one
 * block of rows and positions, so the result does not depend on the number of threads. Every computed sum of n
 * non-negative terms, whatever its order, is at least the exact one times 1 / (1 + gamma_n) less n smallest subnormals
 * (products that underflow), and is raised accordingly (theory section 4). */
#include <cblas.h>
#include <omp.h>
#include <string.h>

#include "base/error.h"
#include "bound/elementwise_internal.h"

enum { ROW_BLOCK = 128, POSITION_BLOCK = 256, TILE = 768, WORTH_THREADS = 100000 };

/* What turns computed sums into upper bounds: y = sum factor + shift[o], shift holding the bias. */
typedef struct raising {
  double factor;
  double *shift[QB_ELEMENT_COUNT]; /* (out_channels) */
} raising;

typedef struct layer {
  qb_linear linear;
  qb_window window;
  int64_t channels[2], height[2], width[2]; /* of input (0) and output (1) */
  const float *w, *w_q;
  const float *x[QB_ELEMENT_COUNT];
  float *y[QB_ELEMENT_COUNT];
  raising up;
} layer;

/* gamma_n for unit roundoff u, rounded up; infinity when n is too large for the formula. */
static double gamma_of(int64_t n, double u) {
  double nu = (double)n * u;
  return nu >= 0.5 ? INFINITY : qb_up(qb_up(nu) / qb_down(1 - nu));
}

static qb_status create_raise(element_call *call, layer *l, bool single, const float *bias, const float *bias_q) {
  int64_t rows = l->linear.out_channels, terms = 3 * l->linear.row_length + 16;
  bool gamma = qb_bound_fault != QB_FAULT_NO_SINGLE_GAMMA;
  double lost = single && qb_bound_fault != QB_FAULT_NO_SUBNORMAL ? (double)terms * 0x1p-149 : 0;
  l->up.factor = qb_up(qb_up(1 + (gamma ? gamma_of(terms, single ? 0x1p-24 : 0x1p-53) : 0)) * (1 + 0x1p-50));
  for (int k = 0; k < QB_ELEMENT_COUNT; k++) {
    l->up.shift[k] = qb_arena_alloc(call->scratch, (size_t)rows, sizeof(double));
    if (l->up.shift[k] == NULL)
      return qb_fail_memory(call->error, call->node->name, (size_t)rows * sizeof(double));
  }
  for (int64_t o = 0; o < rows; o++) {
    double b = bias == NULL ? 0 : (double)bias[o], b_q = bias_q == NULL ? 0 : (double)bias_q[o];
    double sizes[QB_ELEMENT_COUNT] = {b == b_q ? 0 : qb_up(fabs(b - b_q)), fabs(b), fabs(b_q)};
    for (int k = 0; k < QB_ELEMENT_COUNT; k++)
      l->up.shift[k][o] = qb_up_sum(qb_up_scale(sizes[k], -call->y->exponent), lost);
  }
  return QB_OK;
}

/* One rounding of the product and one of the sum hide in the 2^-50 of the factor and in element_up. */
static inline float raised(double sum, double factor, double shift) {
  double x = sum * factor + shift;
  float y = (float)(x * (1 + 0x1p-23) + 0x1p-149);
  return x == 0 ? 0 : y == y ? y : INFINITY;
}

/* In place or not. The planted fault takes the sum as it is. */
static void raise_row(const float *sum, int64_t count, double factor, double shift, float *y) {
  if (qb_bound_fault == QB_FAULT_NO_SINGLE_GAMMA) {
    for (int64_t i = 0; i < count; i++)
      y[i] = sum[i] + (float)shift;
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < count; i++)
    y[i] = raised((double)sum[i], factor, shift);
}

/* -------------------------------------------------------------------------------------------------------- weights */

/* |w| = common + own, |w'| = common + own'; each difference is one rounding. */
static inline void split(float w, float w_q, float *common, float *own, float *own_q) {
  float a = fabsf(w), b = fabsf(w_q), less = a < b ? a : b;
  float m = (w < 0) == (w_q < 0) ? less : 0;
  *common = m;
  *own = a - m;
  *own_q = b - m;
}

/* Rows of `tile` weights out of rows of row_length; inverted parts are the planted fault. */
static void split_block(const layer *l, int64_t first, int64_t rows, int64_t offset, int64_t tile, float *common,
                        float *own, float *own_q) {
  if (qb_bound_fault == QB_FAULT_EDGE_INVERTED) {
    float *swap = own;
    own = own_q;
    own_q = swap;
  }
  for (int64_t r = 0; r < rows; r++) {
    const float *w = l->w + (first + r) * l->linear.row_length + offset;
    const float *w_q = l->w_q + (first + r) * l->linear.row_length + offset;
    float *m = common + r * tile, *p = own + r * tile, *q = own_q + r * tile;
#pragma omp simd
    for (int64_t i = 0; i < tile; i++)
      split(w[i], w_q[i], &m[i], &p[i], &q[i]);
  }
}

/* ----------------------------------------------------------------------------------------------------- convolution */

/* The output columns [*begin, *end) within a row that a tap at offset b reads from inside the image. */
static void inside_columns(const layer *l, int64_t b, int64_t *begin, int64_t *end) {
  int64_t stride = l->window.stride[1], shift = l->window.pad_begin[1] - b * l->window.dilation[1];
  int64_t last = l->width[0] - 1 + shift; /* z stride <= last */
  *begin = shift <= 0 ? 0 : (shift + stride - 1) / stride;
  *end = last < 0 ? 0 : last / stride + 1;
  *end = *end > l->width[1] ? l->width[1] : *end;
  *begin = *begin > *end ? *end : *begin;
}

/* What one tap (a, b) reads from `plane` at the output positions [first, first + count). */
static void unfold_tap(const layer *l, const float *plane, int64_t a, int64_t b, int64_t first, int64_t count,
                       float *out) {
  int64_t width = l->width[1], stride = l->window.stride[1], begin, end;
  int64_t shift = b * l->window.dilation[1] - l->window.pad_begin[1];
  inside_columns(l, b, &begin, &end);
  memset(out, 0, (size_t)count * sizeof *out);
  for (int64_t p = first; p < first + count;) {
    int64_t z = p % width, run = width - z < first + count - p ? width - z : first + count - p;
    int64_t row = p / width * l->window.stride[0] + a * l->window.dilation[0] - l->window.pad_begin[0];
    int64_t from = z > begin ? z : begin, to = z + run < end ? z + run : end;
    if (row >= 0 && row < l->height[0]) {
      const float *in = plane + row * l->width[0];
      float *to_out = out + (p - first) - z;
      if (stride == 1 && to > from)
        memcpy(to_out + from, in + from + shift, (size_t)(to - from) * sizeof *out);
      for (int64_t x = from; stride != 1 && x < to; x++)
        to_out[x] = in[x * stride + shift];
    }
    p += run;
  }
}

/* One block of work: rows [row, row + rows) at positions [first, first + count), and its buffers. */
typedef struct block {
  int64_t row, rows, first, count, channel; /* channel: the group's first input channel */
  float *common, *own, *own_q;              /* (rows, tile) */
  float *columns;                           /* (tile, 3 count): e, a, a' side by side */
  float *shared, *alone, *alone_q;          /* (rows, 3 count), (rows, count) twice: the products */
} block;

static void unfold_tile(const layer *l, const block *b, int64_t channel, int64_t channels) {
  int64_t plane = l->height[0] * l->width[0], k = 0;
  for (int64_t c = channel; c < channel + channels; c++)
    for (int64_t u = 0; u < l->window.kernel[0]; u++)
      for (int64_t v = 0; v < l->window.kernel[1]; v++, k++)
        for (int s = 0; s < QB_ELEMENT_COUNT; s++)
          unfold_tap(l, l->x[s] + (b->channel + c) * plane, u, v, b->first, b->count,
                     b->columns + (k * QB_ELEMENT_COUNT + s) * b->count);
}

static void multiply(const float *left, const float *right, int64_t rows, int64_t count, int64_t tile, int64_t stride,
                     bool add, float *out) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)count, (int)tile, 1, left, (int)tile, right,
              (int)stride, add ? 1 : 0, out, (int)count);
}

static void finish_block(const layer *l, const block *b) {
  int64_t area = l->height[1] * l->width[1];
  for (int64_t r = 0; r < b->rows; r++) {
    float *shared = b->shared + r * QB_ELEMENT_COUNT * b->count;
    const float *alone = b->alone + r * b->count, *alone_q = b->alone_q + r * b->count;
    for (int64_t i = 0; i < b->count; i++) {
      shared[i] += alone[i] + alone_q[i];
      shared[b->count + i] += alone[i];
      shared[2 * b->count + i] += alone_q[i];
    }
    for (int s = 0; s < QB_ELEMENT_COUNT; s++)
      raise_row(shared + s * b->count, b->count, l->up.factor, l->up.shift[s][b->row + r],
                l->y[s] + (b->row + r) * area + b->first);
  }
}

static int64_t tile_channels(const layer *l) {
  int64_t channels = TILE / l->linear.kernel_area, all = l->linear.in_channels / l->linear.group;
  channels = channels < 1 ? 1 : channels;
  return channels < all ? channels : all;
}

static void convolve_block(const layer *l, const block *b) {
  int64_t all = l->linear.in_channels / l->linear.group, step = tile_channels(l), wide = QB_ELEMENT_COUNT * b->count;
  for (int64_t c = 0; c < all; c += step) {
    int64_t channels = all - c < step ? all - c : step, tile = channels * l->linear.kernel_area;
    unfold_tile(l, b, c, channels);
    split_block(l, b->row, b->rows, c * l->linear.kernel_area, tile, b->common, b->own, b->own_q);
    multiply(b->common, b->columns, b->rows, wide, tile, wide, c > 0, b->shared);
    multiply(b->own, b->columns + b->count, b->rows, b->count, tile, wide, c > 0, b->alone);
    multiply(b->own_q, b->columns + 2 * b->count, b->rows, b->count, tile, wide, c > 0, b->alone_q);
  }
  finish_block(l, b);
}

/* How a convolution is cut into tasks; independent of the number of threads. */
typedef struct cut {
  int64_t group_rows, row_block, row_blocks, positions, position_block, position_blocks, tasks, floats;
} cut;

static int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

static cut cut_layer(const layer *l) {
  cut t = {.group_rows = l->linear.out_channels / l->linear.group, .positions = l->height[1] * l->width[1]};
  t.row_block = t.group_rows < ROW_BLOCK ? t.group_rows : ROW_BLOCK;
  t.row_blocks = blocks(t.group_rows, t.row_block);
  t.position_block = blocks(t.positions, blocks(t.positions, POSITION_BLOCK));
  t.position_blocks = blocks(t.positions, t.position_block);
  t.tasks = l->linear.group * t.row_blocks * t.position_blocks;
  int64_t tile = tile_channels(l) * l->linear.kernel_area;
  t.floats = 3 * t.row_block * tile + 3 * tile * t.position_block + 5 * t.row_block * t.position_block;
  t.floats = (t.floats + 15) / 16 * 16;
  return t;
}

static block task_block(const layer *l, const cut *t, int64_t task, float *scratch) {
  int64_t position = task % t->position_blocks, row = task / t->position_blocks % t->row_blocks;
  int64_t group = task / t->position_blocks / t->row_blocks, tile = tile_channels(l) * l->linear.kernel_area;
  int64_t first = position * t->position_block, above = row * t->row_block;
  block b = {.row = group * t->group_rows + above,
             .rows = t->group_rows - above < t->row_block ? t->group_rows - above : t->row_block,
             .first = first,
             .count = t->positions - first < t->position_block ? t->positions - first : t->position_block,
             .channel = group * (l->linear.in_channels / l->linear.group)};
  b.common = scratch;
  b.own = b.common + t->row_block * tile;
  b.own_q = b.own + t->row_block * tile;
  b.columns = b.own_q + t->row_block * tile;
  b.shared = b.columns + 3 * tile * t->position_block;
  b.alone = b.shared + 3 * t->row_block * t->position_block;
  b.alone_q = b.alone + t->row_block * t->position_block;
  return b;
}

static qb_status convolve(element_call *call, const layer *l) {
  cut t = cut_layer(l);
  int outer = omp_get_max_threads(), blas = openblas_get_num_threads();
  int threads = t.tasks < outer ? (int)t.tasks : outer;
  float *scratch = qb_arena_alloc(call->scratch, (size_t)threads * (size_t)t.floats, sizeof *scratch);
  if (scratch == NULL)
    return qb_fail_memory(call->error, call->node->name, (size_t)threads * (size_t)t.floats * sizeof *scratch);
  openblas_set_num_threads(1); /* it also sets the number of OpenMP threads */
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t task = 0; task < t.tasks; task++) {
    block b = task_block(l, &t, task, scratch + omp_get_thread_num() * t.floats);
    convolve_block(l, &b);
  }
  openblas_set_num_threads(blas);
  omp_set_num_threads(outer);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- depthwise */

/* Adds what tap (u, v) of a filter reads in one row of outputs. */
static void add_tap(const layer *l, const float *const x[QB_ELEMENT_COUNT], const float weights[3], int64_t from,
                    int64_t to, int64_t shift, float *const y[QB_ELEMENT_COUNT]) {
  float m = weights[0], p = weights[1], q = weights[2];
  const float *e = x[0] + shift, *a = x[1] + shift, *a_q = x[2] + shift;
  float *restrict ye = y[0], *restrict ya = y[1], *restrict yq = y[2];
  int64_t stride = l->window.stride[1];
#pragma omp simd
  for (int64_t z = from; z < to; z++) {
    int64_t at = z * stride;
    float alone = p * a[at], alone_q = q * a_q[at];
    ye[z] += m * e[at] + (alone + alone_q);
    ya[z] += m * a[at] + alone;
    yq[z] += m * a_q[at] + alone_q;
  }
}

static void filter_channel(const layer *l, int64_t o) {
  int64_t area = l->height[1] * l->width[1], rows = l->linear.out_channels / l->linear.group;
  int64_t plane = l->height[0] * l->width[0] * (o / rows);
  for (int s = 0; s < QB_ELEMENT_COUNT; s++)
    memset(l->y[s] + o * area, 0, (size_t)area * sizeof(float));
  for (int64_t k = 0; k < l->linear.kernel_area; k++) {
    int64_t u = k / l->window.kernel[1], v = k % l->window.kernel[1], from, to;
    float weights[3];
    split_block(l, o, 1, k, 1, &weights[0], &weights[1], &weights[2]);
    inside_columns(l, v, &from, &to);
    for (int64_t y = 0; y < l->height[1]; y++) {
      int64_t row = y * l->window.stride[0] + u * l->window.dilation[0] - l->window.pad_begin[0];
      if (row < 0 || row >= l->height[0])
        continue;
      const float *in[QB_ELEMENT_COUNT];
      float *out[QB_ELEMENT_COUNT];
      for (int s = 0; s < QB_ELEMENT_COUNT; s++) {
        in[s] = l->x[s] + plane + row * l->width[0];
        out[s] = l->y[s] + o * area + y * l->width[1];
      }
      add_tap(l, in, weights, from, to, v * l->window.dilation[1] - l->window.pad_begin[1], out);
    }
  }
  for (int s = 0; s < QB_ELEMENT_COUNT; s++)
    raise_row(l->y[s] + o * area, area, l->up.factor, l->up.shift[s][o], l->y[s] + o * area);
}

static void convolve_depthwise(const layer *l) {
#pragma omp parallel for schedule(dynamic) if (l->linear.out_channels * l->height[1] * l->width[1] > WORTH_THREADS)
  for (int64_t o = 0; o < l->linear.out_channels; o++)
    filter_channel(l, o);
}

/* -------------------------------------------------------------------------------------- matrices and ConvTranspose */

/* These layers sum in double: e, a and a' of one output. */
typedef struct sums {
  double s[QB_ELEMENT_COUNT];
} sums;

static inline void add_term(float w, float w_q, double e, double a, double a_q, double *se, double *sa, double *sq) {
  double own = fabs((double)w), own_q = fabs((double)w_q), less = own < own_q ? own : own_q;
  double m = (w < 0) == (w_q < 0) ? less : 0, p = own - m, q = own_q - m;
  bool inverted = qb_bound_fault == QB_FAULT_EDGE_INVERTED;
  *se += m * e + (inverted ? q : p) * a + (inverted ? p : q) * a_q;
  *sa += own * a;
  *sq += own_q * a_q;
}

static sums multiply_row(const layer *l, int64_t o, int64_t at) {
  int64_t count = l->linear.row_length;
  const float *w = l->w + o * count, *w_q = l->w_q + o * count;
  const float *e = l->x[0] + at, *a = l->x[1] + at, *q = l->x[2] + at;
  double se = 0, sa = 0, sq = 0;
#pragma omp simd reduction(+ : se, sa, sq)
  for (int64_t i = 0; i < count; i++)
    add_term(w[i], w_q[i], (double)e[i], (double)a[i], (double)q[i], &se, &sa, &sq);
  return (sums){{se, sa, sq}};
}

static void apply_matrix(const layer *l, int64_t positions) {
  int64_t rows = l->linear.out_channels, work = positions * rows * l->linear.row_length;
#pragma omp parallel for schedule(static) if (work > WORTH_THREADS)
  for (int64_t o = 0; o < rows; o++)
    for (int64_t p = 0; p < positions; p++) {
      sums t = multiply_row(l, o, p * l->linear.row_length);
      for (int s = 0; s < QB_ELEMENT_COUNT; s++)
        l->y[s][p * rows + o] = raised(t.s[s], l->up.factor, l->up.shift[s][o]);
    }
}

/* All contributions to output pixel (y, z) of channel o: weight (IC, OC/G, KH, KW). */
static sums gather(const layer *l, int64_t o, int64_t y, int64_t z) {
  const qb_window *win = &l->window;
  int64_t per_group = l->linear.out_channels / l->linear.group, ins = l->linear.in_channels / l->linear.group;
  double se = 0, sa = 0, sq = 0;
  for (int64_t i = o / per_group * ins; i < (o / per_group + 1) * ins; i++)
    for (int64_t k = 0; k < l->linear.kernel_area; k++) {
      int64_t u = y + win->pad_begin[0] - k / win->kernel[1] * win->dilation[0];
      int64_t v = z + win->pad_begin[1] - k % win->kernel[1] * win->dilation[1];
      if (u < 0 || v < 0 || u % win->stride[0] != 0 || v % win->stride[1] != 0)
        continue;
      u /= win->stride[0];
      v /= win->stride[1];
      if (u >= l->height[0] || v >= l->width[0])
        continue;
      int64_t w = (i * per_group + o % per_group) * l->linear.kernel_area + k;
      int64_t at = (i * l->height[0] + u) * l->width[0] + v;
      add_term(l->w[w], l->w_q[w], (double)l->x[0][at], (double)l->x[1][at], (double)l->x[2][at], &se, &sa, &sq);
    }
  return (sums){{se, sa, sq}};
}

static void convolve_transposed(const layer *l) {
  int64_t area = l->height[1] * l->width[1];
#pragma omp parallel for schedule(static) if (l->linear.out_channels * area * l->linear.row_length > WORTH_THREADS)
  for (int64_t o = 0; o < l->linear.out_channels; o++)
    for (int64_t i = 0; i < area; i++) {
      sums t = gather(l, o, i / l->width[1], i % l->width[1]);
      for (int s = 0; s < QB_ELEMENT_COUNT; s++)
        l->y[s][o * area + i] = raised(t.s[s], l->up.factor, l->up.shift[s][o]);
    }
}

/* ----------------------------------------------------------------------------------------------------------- rule */

static const float *constant_data(const qb_graph *graph, qb_value_id id) {
  return id == QB_NONE ? NULL : qb_view_f32(&graph->values[id].constant);
}

static void read_geometry(const element_call *call, layer *l) {
  const qb_graph *graph = call->pair->quantized;
  const qb_shape *shapes[2] = {&graph->values[call->node->inputs[0]].shape, call->shape};
  bool is_conv = call->node->op == QB_OP_CONV || call->node->op == QB_OP_CONV_TRANSPOSE;
  l->window = is_conv ? call->node->attributes.conv.window : (qb_window){.kernel = {1, 1}};
  for (int side = 0; side < 2; side++) {
    const qb_shape *s = shapes[side];
    l->channels[side] = is_conv ? s->dims[1] : s->dims[s->rank - 1];
    l->height[side] = is_conv ? s->dims[2] : 1;
    l->width[side] = is_conv ? s->dims[3] : 1;
  }
}

qb_status element_linear(element_call *call) {
  layer l = {0};
  qb_linear original;
  const qb_elementwise_state *x = &call->states[call->node->inputs[0]];
  bool is_linear = qb_graph_linear(call->pair->quantized, call->id, &l.linear) &&
                   qb_graph_linear(call->pair->original, call->pair->partner[call->id], &original);
  if (!is_linear) /* layerwise has refused it already */
    return qb_fail(call->error, QB_ERROR_UNSUPPORTED, "node '%s': the weight is not a constant", call->node->name);
  bool swapped = qb_bound_fault == QB_FAULT_EDGE_SWAPPED, single = call->node->op == QB_OP_CONV;
  call->y->exponent = x->exponent;
  read_geometry(call, &l);
  l.w = constant_data(call->pair->original, original.weight);
  l.w_q = constant_data(call->pair->quantized, l.linear.weight);
  for (int s = 0; s < QB_ELEMENT_COUNT; s++) {
    l.x[s] = x->limit[s == 0 || !swapped ? s : 3 - s];
    l.y[s] = call->y->limit[s];
  }
  QB_TRY(create_raise(call, &l, single, constant_data(call->pair->original, original.bias),
                      constant_data(call->pair->quantized, l.linear.bias)));
  if (!single && call->node->op != QB_OP_CONV_TRANSPOSE)
    apply_matrix(&l, x->count / l.channels[0]);
  else if (!single)
    convolve_transposed(&l);
  else if (l.linear.in_channels == l.linear.group)
    convolve_depthwise(&l);
  else
    return convolve(call, &l);
  return QB_OK;
}
