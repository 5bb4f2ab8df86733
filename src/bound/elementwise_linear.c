/* Five non-negative products per linear layer; see elementwise.h for the split of the weights.
 *
 * Each task owns its outputs, so the result does not depend on the number of threads. Every computed sum of n
 * non-negative terms, whatever its order, is at least the exact one times 1 / (1 + gamma_n) less n smallest subnormals
 * (products that underflow), and is raised accordingly (theory section 4). */
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/elementwise_layer.h"

enum { WORTH_THREADS = 100000 };

/* gamma_n for unit roundoff u, rounded up; infinity when n is too large for the formula. */
static double gamma_of(int64_t n, double u) {
  double nu = (double)n * u;
  return nu >= 0.5 ? INFINITY : qb_up(qb_up(nu) / qb_down(1 - nu));
}

static qb_status create_raise(element_call *call, element_layer *l, bool single, const float *bias,
                              const float *bias_q) {
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

/* In place or not. The planted fault takes the sum as it is. */
void element_raise_row(const float *sum, int64_t count, double factor, double shift, float *y) {
  if (qb_bound_fault == QB_FAULT_NO_SINGLE_GAMMA) {
    for (int64_t i = 0; i < count; i++)
      y[i] = sum[i] + (float)shift;
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < count; i++)
    y[i] = element_raised((double)sum[i], factor, shift);
}

/* --------------------------------------------------------------------------------------------------------- memory */

float *element_reserve(element_buffer *buffer, size_t count) {
  size_t needed = count + ELEMENT_LINE;
  if (buffer->count < needed) {
    qb_free(buffer->data);
    buffer->data = qb_alloc_uncleared(needed, sizeof *buffer->data);
    buffer->count = buffer->data == NULL ? 0 : needed;
  }
  if (buffer->data == NULL)
    return NULL;
  return buffer->data + (ELEMENT_LINE - (uintptr_t)buffer->data / sizeof(float) % ELEMENT_LINE) % ELEMENT_LINE;
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
void element_split_block(const element_layer *l, int64_t first, int64_t rows, int64_t offset, int64_t tile,
                         float *common, float *own, float *own_q) {
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

static sums multiply_row(const element_layer *l, int64_t o, int64_t at) {
  int64_t count = l->linear.row_length;
  const float *w = l->w + o * count, *w_q = l->w_q + o * count;
  const float *e = l->x[0] + at, *a = l->x[1] + at, *q = l->x[2] + at;
  double se = 0, sa = 0, sq = 0;
#pragma omp simd reduction(+ : se, sa, sq)
  for (int64_t i = 0; i < count; i++)
    add_term(w[i], w_q[i], (double)e[i], (double)a[i], (double)q[i], &se, &sa, &sq);
  return (sums){{se, sa, sq}};
}

static void apply_matrix(const element_layer *l, int64_t positions) {
  int64_t rows = l->linear.out_channels, work = positions * rows * l->linear.row_length;
#pragma omp parallel for schedule(static) if (work > WORTH_THREADS)
  for (int64_t o = 0; o < rows; o++)
    for (int64_t p = 0; p < positions; p++) {
      sums t = multiply_row(l, o, p * l->linear.row_length);
      for (int s = 0; s < QB_ELEMENT_COUNT; s++)
        l->y[s][p * rows + o] = element_raised(t.s[s], l->up.factor, l->up.shift[s][o]);
    }
}

/* All contributions to output pixel (y, z) of channel o: weight (IC, OC/G, KH, KW). */
static sums gather(const element_layer *l, int64_t o, int64_t y, int64_t z) {
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

static void convolve_transposed(const element_layer *l) {
  int64_t area = l->height[1] * l->width[1];
#pragma omp parallel for schedule(static) if (l->linear.out_channels * area * l->linear.row_length > WORTH_THREADS)
  for (int64_t o = 0; o < l->linear.out_channels; o++)
    for (int64_t i = 0; i < area; i++) {
      sums t = gather(l, o, i / l->width[1], i % l->width[1]);
      for (int s = 0; s < QB_ELEMENT_COUNT; s++)
        l->y[s][o * area + i] = element_raised(t.s[s], l->up.factor, l->up.shift[s][o]);
    }
}

/* ----------------------------------------------------------------------------------------------------------- rule */

static void read_geometry(const element_call *call, element_layer *l) {
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
  element_layer l = {0};
  qb_linear original;
  const qb_elementwise_state *x = &call->states[call->node->inputs[0]];
  bool is_linear = qb_graph_linear(call->pair->quantized, call->id, &l.linear) &&
                   qb_graph_linear(call->pair->original, call->pair->partner[call->id], &original);
  if (!is_linear) /* layerwise has refused it already */
    return qb_fail(call->error, QB_ERROR_UNSUPPORTED, "node '%s': the weight is not a constant", call->node->name);
  bool swapped = qb_bound_fault == QB_FAULT_EDGE_SWAPPED, single = call->node->op == QB_OP_CONV;
  call->y->exponent = x->exponent;
  call->products = 5;
  read_geometry(call, &l);
  l.w = qb_graph_constant(call->pair->original, original.weight);
  l.w_q = qb_graph_constant(call->pair->quantized, l.linear.weight);
  for (int s = 0; s < QB_ELEMENT_COUNT; s++) {
    l.x[s] = x->limit[s == 0 || !swapped ? s : 3 - s];
    l.y[s] = call->y->limit[s];
  }
  QB_TRY(create_raise(call, &l, single, qb_graph_constant(call->pair->original, original.bias),
                      qb_graph_constant(call->pair->quantized, l.linear.bias)));
  if (!single && call->node->op != QB_OP_CONV_TRANSPOSE)
    apply_matrix(&l, x->count / l.channels[0]);
  else if (!single)
    convolve_transposed(&l);
  else if (l.linear.in_channels == l.linear.group)
    return element_convolve_depthwise(call, &l);
  else
    return element_convolve(call, &l);
  return QB_OK;
}
