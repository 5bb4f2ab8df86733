/* Exact rules of the operators with weights: products of matrices of digits.
 *
 * A float32 weight is a sum of digits c_k B^k with -9 <= k < 7, an activation one of digits d_p, all below B/2 = 2^19
 * in size. For one place k of the weights and one p of the activations, sum_j c_kj d_pj over at most 2^14 terms is a
 * whole number below 2^52, and so is every partial sum in whatever order and however fused: a product of double
 * matrices computes it without any error. Such sums are collected per place k + p as 64-bit integers. What is dropped
 * in the end is less than one unit; radii go through |W|, one more product of matrices. */
#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "run/exact.h"

enum {
  LEAST_PLACE = -9,
  WEIGHT_PLACES = 16,
  MOST_TERMS = 1 << 14,
  MOST_CHUNKS = 64,
  TILE_ROWS = 128,
  TILE_COLUMNS = 256
};

/* ---------------------------------------------------------------------------------------------------------- layers */

/* Every output is a row of weights times a column of inputs: `groups` matrices of `rows` by `inner`, each applied to
 * `columns` positions. */
typedef struct layer {
  const exact_call *call;
  int64_t groups, rows, inner, columns;
  bool is_conv;
  const float *weight;
  int first, places; /* of the weights' digits that are used */
} layer;

static void weight_digits(float w, int64_t digit[WEIGHT_PLACES]) {
  int exponent;
  int64_t m = (int64_t)ldexp(frexp((double)w, &exponent), 24), carry = 0;
  int shift = exponent - 24 - LEAST_PLACE * EXACT_BITS, place = shift / EXACT_BITS; /* 2^-149 has shift 8 */
  memset(digit, 0, WEIGHT_PLACES * sizeof *digit);
  if (m == 0)
    return;
  carry = m * (INT64_C(1) << shift % EXACT_BITS);
  for (int k = place; carry != 0 && k < WEIGHT_PLACES; k++) {
    int64_t v = carry;
    digit[k] = ((v + EXACT_BASE / 2) & (EXACT_BASE - 1)) - EXACT_BASE / 2;
    carry = (v - digit[k]) / EXACT_BASE;
  }
}

static void find_places(layer *l) {
  int64_t digit[WEIGHT_PLACES];
  bool used[WEIGHT_PLACES] = {false};
  int last = 0;
  for (int64_t i = 0; i < l->groups * l->rows * l->inner; i++) {
    weight_digits(l->weight[i], digit);
    for (int k = 0; k < WEIGHT_PLACES; k++)
      used[k] |= digit[k] != 0;
  }
  l->first = WEIGHT_PLACES;
  for (int k = 0; k < WEIGHT_PLACES; k++)
    if (used[k]) {
      l->first = k < l->first ? k : l->first;
      last = k + 1;
    }
  l->first = last == 0 ? 0 : l->first;
  l->places = last - l->first;
}

static layer make_layer(const exact_call *call) {
  const qb_shape *w = &call->operand[1]->shape;
  layer l = {.call = call, .groups = 1, .is_conv = call->node->op == QB_OP_CONV};
  l.weight = qb_view_f32(&call->operand[1]->constant);
  l.inner = w->dims[1];
  if (l.is_conv) {
    l.groups = call->node->attributes.conv.group;
    l.inner = w->dims[1] * w->dims[2] * w->dims[3];
  }
  l.rows = w->dims[0] / l.groups;
  l.columns = call->y->count / w->dims[0];
  find_places(&l);
  return l;
}

/* ----------------------------------------------------------------------------------------------------------- tiles */

/* Rows and columns of one group that are computed together, and memory for them. */
typedef struct tile {
  int64_t group, row, rows, column, columns;
  double *weight;  /* (places, rows, inner) digits */
  double *size;    /* (rows, inner): |w| */
  double *input;   /* (inner, columns): one plane of digits, or radii */
  double *product; /* (rows, columns) */
  int64_t *sum;    /* (places + planes - 1, rows, columns) */
  int64_t *from;   /* (inner, columns): where an input is found, -1 in the zero padding */
} tile;

static void free_tile(tile *t) {
  qb_free(t->weight);
  qb_free(t->size);
  qb_free(t->input);
  qb_free(t->product);
  qb_free(t->sum);
  qb_free(t->from);
}

static bool new_tile(const layer *l, tile *t) {
  size_t rows = TILE_ROWS < l->rows ? TILE_ROWS : (size_t)l->rows, inner = (size_t)l->inner;
  size_t columns = TILE_COLUMNS < l->columns ? TILE_COLUMNS : (size_t)l->columns;
  size_t sums = (size_t)(l->places + l->call->format->planes);
  t->weight = qb_alloc((size_t)(l->places + 1) * rows * inner, sizeof *t->weight);
  t->size = qb_alloc(rows * inner, sizeof *t->size);
  t->input = qb_alloc(inner * columns, sizeof *t->input);
  t->product = qb_alloc(rows * columns, sizeof *t->product);
  t->sum = qb_alloc(sums * rows * columns, sizeof *t->sum);
  t->from = qb_alloc(inner * columns, sizeof *t->from);
  return t->from != NULL && t->weight != NULL && t->size != NULL && t->input != NULL && t->product != NULL &&
         t->sum != NULL;
}

static void take_weights(const layer *l, tile *t) {
  int64_t count = t->rows * l->inner, digit[WEIGHT_PLACES];
  const float *w = l->weight + (t->group * l->rows + t->row) * l->inner;
  for (int64_t i = 0; i < count; i++) {
    weight_digits(w[i], digit);
    t->size[i] = fabs((double)w[i]);
    for (int k = 0; k < l->places; k++)
      t->weight[k * count + i] = (double)digit[l->first + k];
  }
}

/* Where column j of the tile finds its input k, -1 in the zero padding. */
static int64_t input_index(const layer *l, const tile *t, int64_t k, int64_t j) {
  const qb_shape *x = &l->call->operand[0]->shape, *y = l->call->shape;
  const qb_window *w = &l->call->node->attributes.conv.window;
  int64_t column = t->column + j;
  if (!l->is_conv)
    return column * l->inner + k;
  int64_t tap = k % (w->kernel[0] * w->kernel[1]), channel = k / (w->kernel[0] * w->kernel[1]);
  int64_t area = y->dims[2] * y->dims[3], sample = column / area, at = column % area;
  int64_t row = at / y->dims[3] * w->stride[0] + tap / w->kernel[1] * w->dilation[0] - w->pad_begin[0];
  int64_t col = at % y->dims[3] * w->stride[1] + tap % w->kernel[1] * w->dilation[1] - w->pad_begin[1];
  if (row < 0 || row >= x->dims[2] || col < 0 || col >= x->dims[3])
    return -1;
  channel += t->group * (x->dims[1] / l->groups) + sample * x->dims[1];
  return (channel * x->dims[2] + row) * x->dims[3] + col;
}

/* Fills `input` from plane p, or from the radii for p = -1; false when everything is 0. */
static bool take_inputs(const layer *l, tile *t, int p) {
  const exact_tensor *x = l->call->in[0];
  const int32_t *digit = p < 0 ? NULL : x->digit + p * x->count;
  bool any = false;
  for (int64_t i = 0; i < l->inner * t->columns; i++) {
    int64_t at = t->from[i];
    double v = at < 0 ? 0 : p < 0 ? x->r[at] : (double)digit[at];
    t->input[i] = v;
    any |= v != 0;
  }
  return any;
}

static void multiply(const tile *t, const double *weight, int64_t inner, int64_t first, int64_t terms) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)t->rows, (int)t->columns, (int)terms, 1, weight + first,
              (int)inner, t->input + first * t->columns, (int)t->columns, 0, t->product, (int)t->columns);
}

/* The last place of weights has few digits that are not 0. */
static void add_sparse(const layer *l, const tile *t, const double *weight, int64_t *sum) {
  for (int64_t row = 0; row < t->rows; row++)
    for (int64_t k = 0; k < l->inner; k++) {
      int64_t c = (int64_t)weight[row * l->inner + k];
      for (int64_t j = 0; c != 0 && j < t->columns; j++)
        sum[row * t->columns + j] += c * (int64_t)t->input[k * t->columns + j];
    }
}

static bool is_sparse(const double *weight, int64_t count) {
  int64_t used = 0;
  for (int64_t i = 0; i < count; i++)
    used += weight[i] != 0;
  return used < count / 32;
}

static void add_digits(const layer *l, tile *t, const bool sparse[WEIGHT_PLACES]) {
  int64_t area = t->rows * t->columns, count = t->rows * l->inner;
  memset(t->sum, 0, (size_t)(l->places + l->call->format->planes) * (size_t)area * sizeof *t->sum);
  for (int p = 0; p < l->call->format->planes; p++) {
    if (!take_inputs(l, t, p))
      continue;
    for (int k = 0; k < l->places; k++) {
      int64_t *sum = t->sum + (k + p) * area;
      if (sparse[k]) {
        add_sparse(l, t, t->weight + k * count, sum);
        continue;
      }
      for (int64_t first = 0; first < l->inner; first += MOST_TERMS) {
        multiply(t, t->weight + k * count, l->inner, first,
                 l->inner - first < MOST_TERMS ? l->inner - first : MOST_TERMS);
        for (int64_t i = 0; i < area; i++)
          sum[i] += (int64_t)t->product[i];
      }
    }
  }
}

/* Leaves sum |w| r in `product`, upper bounds. An infinite radius makes everything that it meets unknown. */
static void add_radii(const layer *l, tile *t) {
  int64_t area = t->rows * t->columns;
  memset(t->product, 0, (size_t)area * sizeof *t->product);
  if (!take_inputs(l, t, -1) || qb_exact_fault_planted == QB_EXACT_FAULT_NO_RADIUS)
    return;
  multiply(t, t->size, l->inner, 0, l->inner);
  double growth = 1 + 4 * ((double)l->inner + 8) * 0x1p-53;
  for (int64_t i = 0; i < area; i++)
    t->product[i] = isnan(t->product[i]) ? INFINITY : t->product[i] * growth;
}

static int64_t output_index(const layer *l, const tile *t, int64_t row, int64_t j) {
  int64_t channel = t->group * l->rows + t->row + row, column = t->column + j, channels = l->groups * l->rows;
  if (!l->is_conv)
    return column * channels + channel;
  int64_t area = l->call->shape->dims[2] * l->call->shape->dims[3];
  return (column / area * channels + channel) * area + column % area;
}

static void finish(const layer *l, const tile *t) {
  const exact_call *call = l->call;
  int places = l->places + call->format->planes;
  int64_t area = t->rows * t->columns, digit[WEIGHT_PLACES + EXACT_MOST];
  exact_number n, bias;
  for (int64_t row = 0; row < t->rows; row++) {
    exact_from_double(call->format,
                      call->operand[2] == NULL ? 0 : exact_constant(call, 2, t->group * l->rows + t->row + row), &bias);
    for (int64_t j = 0; j < t->columns; j++) {
      int64_t i = row * t->columns + j;
      for (int k = 0; k < places; k++)
        digit[k] = t->sum[k * area + i];
      exact_set(call->format, digit, places, LEAST_PLACE + l->first - call->format->fraction, t->product[i], &n);
      exact_add(call->format, &n, &bias, &n);
      exact_store(call->format, call->y, output_index(l, t, row, j), &n);
    }
  }
}

static void run_tile(const layer *l, int64_t number, tile *t) {
  int64_t across = (l->columns + TILE_COLUMNS - 1) / TILE_COLUMNS, down = (l->rows + TILE_ROWS - 1) / TILE_ROWS;
  bool sparse[WEIGHT_PLACES];
  t->group = number / (across * down);
  t->row = number / across % down * TILE_ROWS;
  t->column = number % across * TILE_COLUMNS;
  t->rows = l->rows - t->row < TILE_ROWS ? l->rows - t->row : TILE_ROWS;
  t->columns = l->columns - t->column < TILE_COLUMNS ? l->columns - t->column : TILE_COLUMNS;
  take_weights(l, t);
  for (int64_t k = 0; k < l->inner; k++)
    for (int64_t j = 0; j < t->columns; j++)
      t->from[k * t->columns + j] = input_index(l, t, k, j);
  for (int k = 0; k < l->places; k++)
    sparse[k] = is_sparse(t->weight + k * t->rows * l->inner, t->rows * l->inner);
  add_digits(l, t, sparse);
  add_radii(l, t);
  finish(l, t);
}

static void know_nothing(const exact_call *call) {
  for (int64_t i = 0; i < call->y->count; i++)
    call->y->r[i] = INFINITY;
}

static qb_status run_layer(const layer *l) {
  int64_t tiles =
      l->groups * ((l->columns + TILE_COLUMNS - 1) / TILE_COLUMNS) * ((l->rows + TILE_ROWS - 1) / TILE_ROWS);
  bool short_memory = false;
#pragma omp parallel reduction(|| : short_memory)
  {
    tile t = {0};
    bool ready = new_tile(l, &t);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tiles; i++)
      if (ready)
        run_tile(l, i, &t);
    short_memory = short_memory || !ready;
    free_tile(&t);
  }
  return short_memory ? qb_fail_memory(l->call->error, l->call->node->name, (size_t)l->inner * sizeof(double)) : QB_OK;
}

qb_status qb_exact_conv(const exact_call *call) {
  layer l = make_layer(call);
  if (l.inner <= (int64_t)MOST_TERMS * MOST_CHUNKS)
    return run_layer(&l);
  know_nothing(call);
  return QB_OK;
}

qb_status qb_exact_gemm(const exact_call *call) { return qb_exact_conv(call); }

/* ------------------------------------------------------------------------------------------- transposed convolution
 */

/* The output position o meets the input position i through tap k when o + pad = i stride + k dilation. */
static bool meets(const qb_window *w, int axis, int64_t o, int32_t k, int64_t length, int64_t *i) {
  int64_t at = o + w->pad_begin[axis] - (int64_t)k * w->dilation[axis];
  *i = at / w->stride[axis];
  return at >= 0 && at % w->stride[axis] == 0 && *i < length;
}

/* sum += w x digit by digit: at most 2^38 per product, places and 2^16 taps stay below 2^62. */
static void add_product(const exact_call *call, float w, int64_t from, int64_t *sum, double *r) {
  int64_t digit[WEIGHT_PLACES];
  exact_number x;
  exact_load(call->format, call->in[0], from, &x);
  weight_digits(w, digit);
  for (int k = 0; k < WEIGHT_PLACES; k++)
    for (int p = 0; digit[k] != 0 && p < call->format->planes; p++)
      sum[k + p] += digit[k] * x.d[p];
  if (w != 0)
    *r = exact_radius_sum(*r, fabs((double)w) * x.r * (1 + 0x1p-50));
}

static void transpose_element(const exact_call *call, int64_t output, exact_number *n) {
  const qb_conv_attributes *conv = &call->node->attributes.conv;
  const qb_shape *x = &call->operand[0]->shape, *w = &call->operand[1]->shape, *y = call->shape;
  int64_t ow = output % y->dims[3], oh = output / y->dims[3] % y->dims[2], i, j;
  int64_t oc = output / (y->dims[2] * y->dims[3]) % y->dims[1], inputs = w->dims[0] / conv->group;
  int64_t sum[WEIGHT_PLACES + EXACT_MOST] = {0}, group = oc / w->dims[1];
  const float *weight = qb_view_f32(&call->operand[1]->constant);
  double r = 0;
  for (int64_t ic = group * inputs; ic < (group + 1) * inputs; ic++)
    for (int32_t a = 0; a < conv->window.kernel[0]; a++)
      for (int32_t b = 0; b < conv->window.kernel[1]; b++)
        if (meets(&conv->window, 0, oh, a, x->dims[2], &i) && meets(&conv->window, 1, ow, b, x->dims[3], &j))
          add_product(call, weight[((ic * w->dims[1] + oc % w->dims[1]) * w->dims[2] + a) * w->dims[3] + b],
                      (ic * x->dims[2] + i) * x->dims[3] + j, sum, &r);
  exact_set(call->format, sum, WEIGHT_PLACES + call->format->planes, LEAST_PLACE - call->format->fraction, r, n);
}

qb_status qb_exact_conv_transpose(const exact_call *call) {
  const qb_shape *w = &call->operand[1]->shape;
  if (w->dims[0] * w->dims[2] * w->dims[3] > 1 << 16) {
    know_nothing(call);
    return QB_OK;
  }
#pragma omp parallel for
  for (int64_t i = 0; i < call->y->count; i++) {
    exact_number n, bias;
    transpose_element(call, i, &n);
    exact_from_double(call->format,
                      call->operand[2] == NULL ? 0 : exact_constant(call, 2, qb_shape_channel(call->shape, i)), &bias);
    exact_add(call->format, &n, &bias, &n);
    exact_store(call->format, call->y, i, &n);
  }
  return QB_OK;
}
