/* Layers with weights, from the definition:
 *   x = W x + b,  q = W' q + b',  d = W' d + (W' - W) x + (b' - b) = W d + (W' - W) q + (b' - b)
 * Ranges are split into midpoint m and radius r; the radius is enlarged by gamma |m| first, so that one non-negative
 * sum covers both the spread and the rounding of the signed sum.
 *
 * In edge form (sizes alone): |w| = m + p and |w'| = m + p' with m = min(|w|, |w'|) for equal signs, else 0; then
 * |w' q - w x| <= m |d| + p |x| + p' |q|. */
#include "base/error.h"
#include "check/check_cells.h"
#include "check/check_evaluation.h"
#include "check/check_passes.h"

#define SMALLEST 0x1p-800 /* numbers below it become radius, so that no product underflows */

typedef struct ball {
  double mid, rad;
} ball;

/* The three tracks of one input cell. */
typedef struct balls {
  ball x, q, d;
} balls;

typedef struct sums {
  ball x, q;
  ball first, second; /* W' d + dW x, W d + dW q */
  bool sized;         /* for float32: also |W| |x|, |W'| |q| */
  double size, size_q;
} sums;

typedef struct layer {
  walk *w;
  qb_value_id output;
  qb_linear own, other; /* of the quantized and of the original graph */
  const float *weight, *weight_q, *bias, *bias_q;
  const qb_window *window;
  const qb_shape *in_shape, *out_shape;
  balls *in;    /* (input cells) */
  balls *edge;  /* the same hulled with 0 */
  double gamma; /* of twice a row and a few more roundings */
} layer;

static ball ball_of(range r, double gamma) {
  if (isinf(r.lo) || isinf(r.hi))
    return (ball){0, INFINITY};
  double mid = r.lo == r.hi ? r.lo : r.lo / 2 + r.hi / 2;
  mid = fabs(mid) < SMALLEST ? 0 : mid;
  double rad = fmax(add_up(r.hi, -mid), add_up(mid, -r.lo));
  rad = add_up(rad, mul_up(gamma, fabs(mid)));
  return (ball){mid, rad > 0 && rad < SMALLEST ? SMALLEST : rad};
}

static balls balls_of(triple t, double gamma) {
  return (balls){ball_of(t.x, gamma), ball_of(t.q, gamma), ball_of(t.d, gamma)};
}

/* One more weight of both networks. */
static inline void add_term(sums *s, double w, double w_q, const balls *in) {
  double moved = w_q - w, a = fabs(w), a_q = fabs(w_q), a_m = fabs(moved);
  s->x.mid += w * in->x.mid;
  s->q.mid += w_q * in->q.mid;
  s->first.mid += w_q * in->d.mid + moved * in->x.mid;
  s->second.mid += w * in->d.mid + moved * in->q.mid;
  if (a != 0 || a_q != 0) { /* 0 times an infinite radius is 0 */
    s->x.rad += a == 0 ? 0 : a * in->x.rad;
    s->q.rad += a_q == 0 ? 0 : a_q * in->q.rad;
    s->first.rad += (a_q == 0 ? 0 : a_q * in->d.rad) + (a_m == 0 ? 0 : a_m * in->x.rad);
    s->second.rad += (a == 0 ? 0 : a * in->d.rad) + (a_m == 0 ? 0 : a_m * in->q.rad);
  }
  if (s->sized) {
    s->size += a == 0 ? 0 : a * (fabs(in->x.mid) + in->x.rad);
    s->size_q += a_q == 0 ? 0 : a_q * (fabs(in->q.mid) + in->q.rad);
  }
}

static range range_of(ball b, double gamma, range bias) {
  double rad = mul_up(b.rad, add_up(1, 2 * gamma));
  if (isnan(b.mid) || isnan(rad))
    return (range){-INFINITY, INFINITY};
  return range_add(range_add(point(b.mid), (range){-rad, rad}), bias);
}

/* The smaller of two enclosures: in the coarse grain the one of smaller size, else what they have in common. */
static range better(walk_grain grain, range a, range b) {
  if (grain == GRAIN_FINE)
    return range_meet(a, b);
  return range_size(a) <= range_size(b) ? a : b;
}

/* n products and n additions, any order: within gamma_(n+2) (|W| |x| + |b|) in float32. */
static double layer_error(const layer *l, double size, double bias) {
  double n = (double)l->own.row_length;
  return evaluation_error(l->w->pair, n + 2, add_up(mul_up(size, add_up(1, 2 * l->gamma)), fabs(bias)), n);
}

static triple finish(const layer *l, const sums *s, int64_t channel, int64_t cell) {
  range b = point(l->bias == NULL ? 0 : (double)l->bias[channel]);
  range b_q = point(l->bias_q == NULL ? 0 : (double)l->bias_q[channel]), moved = range_sub(b_q, b);
  triple t = {range_of(s->x, l->gamma, b), range_of(s->q, l->gamma, b_q),
              better(l->w->grain, range_of(s->first, l->gamma, moved), range_of(s->second, l->gamma, moved))};
  const double errors[2] = {layer_error(l, s->size, b.lo), layer_error(l, s->size_q, b_q.lo)};
  return s->sized ? evaluated(l->w, l->output, cell, t, errors) : t;
}

static triple hull(triple a, triple b) {
  return (triple){range_hull(a.x, b.x), range_hull(a.q, b.q), range_hull(a.d, b.d)};
}

/* ---------------------------------------------------------------------------------------------------------- layers */

/* Element (plane channel, y, x) of the input. */
static int64_t input_index(const layer *l, int64_t channel, int64_t y, int64_t x) {
  return (channel * l->in_shape->dims[2] + y) * l->in_shape->dims[3] + x;
}

static bool inside(const layer *l, int64_t y, int64_t x) {
  return y >= 0 && y < l->in_shape->dims[2] && x >= 0 && x < l->in_shape->dims[3];
}

/* Output channel o at (y, x) of a convolution. */
static sums conv_at(const layer *l, int64_t o, int64_t y, int64_t x) {
  const qb_window *v = l->window;
  int64_t slices = l->own.in_channels / l->own.group, first = o / (l->own.out_channels / l->own.group) * slices;
  sums s = {.sized = l->w->pair->float32};
  for (int64_t c = 0; c < slices; c++)
    for (int64_t i = 0; i < v->kernel[0]; i++)
      for (int64_t j = 0; j < v->kernel[1]; j++) {
        int64_t row = y * v->stride[0] + i * v->dilation[0] - v->pad_begin[0];
        int64_t column = x * v->stride[1] + j * v->dilation[1] - v->pad_begin[1];
        int64_t k = ((o * slices + c) * v->kernel[0] + i) * v->kernel[1] + j;
        if (inside(l, row, column))
          add_term(&s, (double)l->weight[k], (double)l->weight_q[k], &l->in[input_index(l, first + c, row, column)]);
      }
  return s;
}

/* Output channel o anywhere, from the ranges of whole channels. */
static sums conv_anywhere(const layer *l, int64_t o) {
  const qb_window *v = l->window;
  bool padded = v->pad_begin[0] > 0 || v->pad_begin[1] > 0 || v->pad_end[0] > 0 || v->pad_end[1] > 0;
  int64_t slices = l->own.in_channels / l->own.group, first = o / (l->own.out_channels / l->own.group) * slices;
  sums s = {.sized = l->w->pair->float32};
  for (int64_t k = 0; k < slices * l->own.kernel_area; k++) {
    const balls *in = (padded ? l->edge : l->in) + first + k / l->own.kernel_area;
    int64_t at = o * slices * l->own.kernel_area + k;
    add_term(&s, (double)l->weight[at], (double)l->weight_q[at], in);
  }
  return s;
}

/* Output channel o at (y, x) of a transposed convolution: the taps with y + pad = row stride + i dilation. */
static sums transposed_at(const layer *l, int64_t o, int64_t y, int64_t x) {
  const qb_window *v = l->window;
  int64_t slices = l->own.in_channels / l->own.group, per_group = l->own.out_channels / l->own.group;
  sums s = {.sized = l->w->pair->float32};
  for (int64_t c = o / per_group * slices; c < (o / per_group + 1) * slices; c++)
    for (int64_t i = 0; i < v->kernel[0]; i++)
      for (int64_t j = 0; j < v->kernel[1]; j++) {
        int64_t row = y + v->pad_begin[0] - i * v->dilation[0], column = x + v->pad_begin[1] - j * v->dilation[1];
        if (row < 0 || column < 0 || row % v->stride[0] != 0 || column % v->stride[1] != 0 ||
            !inside(l, row / v->stride[0], column / v->stride[1]))
          continue;
        int64_t k = ((c * per_group + o % per_group) * v->kernel[0] + i) * v->kernel[1] + j;
        int64_t from = input_index(l, c, row / v->stride[0], column / v->stride[1]);
        add_term(&s, (double)l->weight[k], (double)l->weight_q[k], &l->in[cell_of(l->w->grain, l->in_shape, from)]);
      }
  return s;
}

static void apply_conv(const layer *l, bool transposed, triple *out) {
  int64_t height = l->out_shape->dims[2], width = l->out_shape->dims[3];
  bool coarse = l->w->grain == GRAIN_COARSE;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t o = 0; o < l->own.out_channels; o++) {
    if (coarse && !transposed) {
      sums s = conv_anywhere(l, o);
      out[o] = finish(l, &s, o, o);
      continue;
    }
    for (int64_t i = 0; i < height * width; i++) {
      sums s = transposed ? transposed_at(l, o, i / width, i % width) : conv_at(l, o, i / width, i % width);
      int64_t cell = coarse ? o : o * height * width + i;
      triple t = finish(l, &s, o, cell);
      out[cell] = hull(out[cell], t);
    }
  }
}

/* Over the last axis. */
static void apply_matrix(const layer *l, triple *out) {
  int64_t length = l->own.in_channels, rows = l->own.out_channels;
  int64_t count = (int64_t)qb_shape_elements(l->in_shape) / length;
  for (int64_t i = 0; i < count * rows; i++) {
    sums s = {.sized = l->w->pair->float32};
    for (int64_t k = 0; k < length; k++)
      add_term(&s, (double)l->weight[i % rows * length + k], (double)l->weight_q[i % rows * length + k],
               &l->in[cell_of(l->w->grain, l->in_shape, i / rows * length + k)]);
    int64_t cell = cell_of(l->w->grain, l->out_shape, i);
    out[cell] = hull(out[cell], finish(l, &s, i % rows, cell));
  }
}

/* ------------------------------------------------------------------------------------------------------- edge form */

static void split_edge(double w, double w_q, double c[PASS_TERMS]) {
  double a = fabs(w), a_q = fabs(w_q), common = (w < 0) == (w_q < 0) ? fmin(a, a_q) : 0;
  c[0] = common;
  c[1] = a - common;
  c[2] = a_q - common;
  c[3] = a;
  c[4] = a_q;
}

/* Tracks 0 to 2: |d|, |x|, |q|. No product underflows, see SMALLEST. */
static void read_sizes(const cells *in, double *const track[3]) {
  for (int64_t i = 0; i < in->count; i++) {
    const double sizes[3] = {range_size(in->at[i].d), range_size(in->at[i].x), range_size(in->at[i].q)};
    for (int t = 0; t < 3; t++)
      track[t][i] = sizes[t] > 0 && sizes[t] < SMALLEST ? SMALLEST : sizes[t];
  }
}

static void put_sizes(const layer *l, bool is_conv, double *const track[3], int64_t count, triple *out) {
  int64_t area = is_conv ? l->out_shape->dims[2] * l->out_shape->dims[3] : 1;
  double slack = 1 + 2 * rounding_of(3 * (double)l->own.row_length + 8); /* three terms per weight and their factors */
  for (int64_t i = 0; i < count; i++) {
    int64_t o = i / area % l->own.out_channels;
    double b = l->bias == NULL ? 0 : (double)l->bias[o], b_q = l->bias_q == NULL ? 0 : (double)l->bias_q[o];
    const double biases[3] = {range_size(range_sub(point(b_q), point(b))), fabs(b), fabs(b_q)};
    double size[3];
    for (int t = 0; t < 3; t++)
      size[t] = add_up(mul_up(track[t][i], slack), biases[t]);
    out[i] = (triple){{-size[1], size[1]}, {-size[2], size[2]}, {-size[0], size[0]}};
    if (l->w->pair->float32) /* sizes are the sums themselves */
      out[i] = evaluated(l->w, l->output, i, out[i],
                         (const double[2]){layer_error(l, size[1], 0), layer_error(l, size[2], 0)});
  }
}

static qb_status apply_edge(const layer *l, const qb_node *node, triple *out) {
  const cells *in = &l->w->values[node->inputs[0]];
  int64_t count = (int64_t)qb_shape_elements(l->out_shape);
  passes p = {.op = node->op,
              .linear = l->own,
              .window = *l->window,
              .in_shape = l->in_shape,
              .out_shape = l->out_shape,
              .weight = l->weight,
              .weight_q = l->weight_q,
              .split = split_edge,
              .terms = {{0, 0}, {0, 1}, {0, 2}, {1, 1}, {2, 2}},
              .tracks = 3};
  double *track[3], *block = qb_arena_alloc(&l->w->scratch, 3 * (size_t)(in->count + count), sizeof *block);
  if (block == NULL)
    return qb_fail_memory(l->w->error, "a layer", 3 * (size_t)(in->count + count) * sizeof *block);
  for (int t = 0; t < 3; t++) {
    track[t] = block + t * in->count;
    p.in[t] = track[t];
    p.out[t] = block + 3 * in->count + t * count;
  }
  read_sizes(in, track);
  passes_apply(&p);
  put_sizes(l, node->op == QB_OP_CONV || node->op == QB_OP_CONV_TRANSPOSE, p.out, count, out);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- the rule */

static qb_status prepare(layer *l, qb_node_id id) {
  const cells *in = &l->w->values[l->w->pair->quantized->nodes[id].inputs[0]];
  l->gamma = rounding_of(2 * (double)l->own.row_length + 16);
  l->in = qb_arena_alloc(&l->w->scratch, (size_t)in->count, sizeof *l->in);
  l->edge = qb_arena_alloc(&l->w->scratch, (size_t)in->count, sizeof *l->edge);
  if (l->in == NULL || l->edge == NULL)
    return qb_fail_memory(l->w->error, "a layer", 2 * (size_t)in->count * sizeof *l->in);
  const triple zero = {{0, 0}, {0, 0}, {0, 0}};
  for (int64_t i = 0; i < in->count; i++) {
    l->in[i] = balls_of(in->at[i], l->gamma);
    l->edge[i] = balls_of(hull(in->at[i], zero), l->gamma);
  }
  return QB_OK;
}

qb_status cells_linear(walk *w, qb_node_id id, triple *out, bool *known) {
  const qb_graph *graph = w->pair->quantized, *original = w->pair->original;
  const qb_node *node = &graph->nodes[id];
  layer l = {.w = w, .output = node->output, .window = &node->attributes.conv.window};
  *known = qb_graph_linear(graph, id, &l.own) && w->pair->partner[id] != QB_NONE &&
           qb_graph_linear(original, w->pair->partner[id], &l.other) && l.own.group == l.other.group &&
           qb_shape_equal(&graph->values[l.own.weight].shape, &original->values[l.other.weight].shape);
  if (!*known)
    return QB_OK;
  l.weight = qb_graph_constant(original, l.other.weight);
  l.weight_q = qb_graph_constant(graph, l.own.weight);
  l.bias = qb_graph_constant(original, l.other.bias);
  l.bias_q = qb_graph_constant(graph, l.own.bias);
  l.in_shape = &graph->values[node->inputs[0]].shape;
  l.out_shape = &graph->values[node->output].shape;
  if (w->grain == GRAIN_SIZES)
    return apply_edge(&l, node, out);
  QB_TRY(prepare(&l, id));
  if (node->op == QB_OP_CONV || node->op == QB_OP_CONV_TRANSPOSE)
    apply_conv(&l, node->op == QB_OP_CONV_TRANSPOSE, out);
  else
    apply_matrix(&l, out);
  return QB_OK;
}
