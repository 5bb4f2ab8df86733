/* Conv, ConvTranspose, Gemm, MatMul with constant weights (theory 3.1, layerwise, one number per channel).
 *
 * For output channel o, with c(i) the input channel that weight i meets:
 *   A: e <- sum |W'_i| e_c(i) + |(dW x)_o + db|,  x  in the original's range
 *   B: e <- sum |W_i|  e_c(i) + |(dW x')_o + db|, x' in the quantized one's range
 * and the smaller of the two. W x and dW x are bounded in midpoint-radius form, W x in W m +- |W| r. At a position
 * near the border taps that fall outside read 0: then every input range is widened to contain 0 first.
 *
 * All dot products are in double. A signed one is within gamma_n |W| |m| of the truth, which is put into r before
 * (r + gamma_n |m|), so that one non-negative pass covers both. No product underflows: see rounding.h. */
#include <string.h>

#include "base/error.h"
#include "bound/fault.h"
#include "bound/rule.h"

enum { WORTH_THREADS = 1000000 }; /* weights, about a millisecond: below, waiting for a busy core costs more */

/* What each weight of a row meets: (count) numbers per array. */
typedef struct vectors {
  int64_t count;
  double *e, *mid, *rad, *mid_q, *rad_q;
} vectors;

/* Dot products of one row, as computed. */
typedef struct dots {
  double e_w, e_q;                       /* |W| e, |W'| e */
  double mid, rad, mid_q, rad_q;         /* W m, |W| r, W' m', |W'| r' */
  double d_mid, d_rad, d_mid_q, d_rad_q; /* dW m, |dW| r, dW m', |dW| r' */
} dots;

static dots multiply_row(const float *restrict w, const float *restrict w_q, const vectors *v, int64_t at,
                         int64_t count) {
  const double *restrict e = v->e + at, *restrict mid = v->mid + at, *restrict rad = v->rad + at;
  const double *restrict mid_q = v->mid_q + at, *restrict rad_q = v->rad_q + at;
  double e_w = 0, e_q = 0, s0 = 0, s1 = 0, s2 = 0, s3 = 0, d0 = 0, d1 = 0, d2 = 0, d3 = 0;
#pragma omp simd reduction(+ : e_w, e_q, s0, s1, s2, s3, d0, d1, d2, d3)
  for (int64_t i = 0; i < count; i++) {
    double a = (double)w[i], b = (double)w_q[i], d = a - b;
    double abs_a = fabs(a), abs_b = fabs(b), abs_d = fabs(d);
    e_w += abs_a * e[i];
    e_q += abs_b * e[i];
    s0 += a * mid[i];
    s1 += abs_a * rad[i];
    s2 += b * mid_q[i];
    s3 += abs_b * rad_q[i];
    d0 += d * mid[i];
    d1 += abs_d * rad[i];
    d2 += d * mid_q[i];
    d3 += abs_d * rad_q[i];
  }
  return (dots){e_w, e_q, s0, s1, s2, s3, d0, d1, d2, d3};
}

/* The planted fault of float32 sums whose rounding nobody counts. */
static double float_sum(const float *w, const float *w_q, const double *v, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i < count; i++)
    sum += (float)fabs((double)w[i] - (w_q == NULL ? 0 : (double)w_q[i])) * (float)v[i];
  return (double)sum;
}

/* ---------------------------------------------------------------------------------------------- one output channel */

static double raised(double x) { return x > 0 && x < QB_SMALLEST ? QB_SMALLEST : x; }

/* The interval of sum + [-radius, radius] + b, where radius also covers the rounding of sum. */
static qb_interval around(double sum, double radius, qb_interval b) {
  return qb_interval_add(qb_interval_add(qb_interval_point(sum), b), (qb_interval){-radius, radius});
}

/* One bias entry of both networks and their difference, in units of 2^exponent. */
typedef struct bias_pair {
  qb_interval own, quantized, change;
} bias_pair;

static bias_pair read_bias(const float *bias, const float *bias_q, int64_t o, int32_t exponent) {
  qb_interval own = qb_interval_point(bias == NULL ? 0 : (double)bias[o]);
  qb_interval quantized = qb_interval_point(bias_q == NULL ? 0 : (double)bias_q[o]);
  qb_interval change = {0, 0};
  if (own.lo != quantized.lo && qb_bound_fault != QB_FAULT_NO_BIAS)
    change = qb_interval_subtract(own, quantized);
  return (bias_pair){qb_interval_scale(own, -exponent), qb_interval_scale(quantized, -exponent),
                     qb_interval_scale(change, -exponent)};
}

/* |dW x + db| for dW x in sum +- radius. */
static double change_term(double sum, double radius, qb_interval change) {
  if (qb_bound_fault == QB_FAULT_NO_WEIGHT_CHANGE)
    return qb_interval_magnitude(change);
  return qb_up_sum(qb_interval_magnitude(qb_interval_add(qb_interval_point(sum), change)), radius);
}

typedef struct row_result {
  qb_interval x, x_q;
  double e;
} row_result;

/* n counts roundings: the difference of weights, the product and count - 1 additions. */
static row_result finish_row(dots d, bias_pair b, int64_t n) {
  bool swapped = qb_bound_fault == QB_FAULT_SWAPPED_RANGES;
  double change = change_term(d.d_mid, qb_sum_upper(d.d_rad, n), b.change);
  double change_q = change_term(d.d_mid_q, qb_sum_upper(d.d_rad_q, n), b.change);
  double order_a = qb_up_sum(qb_sum_upper(d.e_q, n), swapped ? change_q : change);
  double order_b = qb_up_sum(qb_sum_upper(d.e_w, n), swapped ? change : change_q);
  return (row_result){.x = around(d.mid, qb_sum_upper(d.rad, n), b.own),
                      .x_q = around(d.mid_q, qb_sum_upper(d.rad_q, n), b.quantized),
                      .e = fmin(isnan(order_a) ? INFINITY : order_a, isnan(order_b) ? INFINITY : order_b)};
}

static row_result bound_row(const float *w, const float *w_q, const vectors *v, int64_t at, int64_t count,
                            bias_pair b) {
  dots d = multiply_row(w, w_q, v, at, count);
  row_result result = finish_row(d, b, count + 1);
  if (qb_bound_fault == QB_FAULT_NO_GAMMA) {
    double magnitude = float_sum(w, w_q, v->rad + at, count) + fabs(d.d_mid);
    result.e = float_sum(w_q, NULL, v->e + at, count) + magnitude + qb_interval_magnitude(b.change);
  }
  return result;
}

/* -------------------------------------------------------------------------------------------------------- vectors */

/* Midpoint and radius of [lo, hi], the radius inflated for the rounding of signed sums of n terms. */
static void centre(qb_interval x, int64_t n, double *mid, double *rad) {
  if (isinf(x.lo) || isinf(x.hi)) {
    *mid = 0;
    *rad = INFINITY;
    return;
  }
  double m = x.lo / 2 + x.hi / 2;
  *mid = fabs(m) < QB_SMALLEST ? 0 : m;
  double r = fmax(x.hi == *mid ? 0 : qb_up(x.hi - *mid), x.lo == *mid ? 0 : qb_up(*mid - x.lo));
  *rad = raised(qb_up_sum(r, qb_up_product(qb_gamma(n), fabs(*mid))));
}

static qb_interval with_zero(qb_interval x, bool zero) {
  return zero && qb_bound_fault != QB_FAULT_NO_PAD ? qb_interval_hull(x, qb_interval_point(0)) : x;
}

/* Every channel's numbers repeated `area` times, the layout of a weight row. */
static qb_status expand(const qb_bound_rule_context *context, const qb_bound_state *input, int64_t area,
                        int64_t row_length, bool zero, vectors *v) {
  size_t count = (size_t)(input->channels * area);
  double *block = qb_arena_alloc(context->scratch, 5 * count, sizeof *block);
  if (block == NULL)
    return qb_fail_memory(context->error, context->node->name, 5 * count * sizeof *block);
  *v = (vectors){(int64_t)count, block, block + count, block + 2 * count, block + 3 * count, block + 4 * count};
  for (int64_t c = 0; c < input->channels; c++) {
    double mid, rad, mid_q, rad_q;
    centre(with_zero(input->x[c], zero), row_length + 1, &mid, &rad);
    centre(with_zero(input->x_q[c], zero), row_length + 1, &mid_q, &rad_q);
    for (int64_t i = c * area; i < (c + 1) * area; i++) {
      v->e[i] = raised(input->e[c]);
      v->mid[i] = mid;
      v->rad[i] = rad;
      v->mid_q[i] = mid_q;
      v->rad_q[i] = rad_q;
    }
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- the layers */

/* A layer of both networks. Biases may be NULL. */
typedef struct layer {
  qb_linear linear;
  const float *w, *w_q, *bias, *bias_q;
  const qb_window *window; /* convolutions */
  const qb_bound_state *input;
} layer;

static qb_status read_layer(const qb_bound_rule_context *context, layer *l) {
  const qb_graph *graph = context->pair->quantized, *original = context->pair->original;
  qb_linear other;
  *l = (layer){0};
  if (!qb_graph_linear(graph, (qb_node_id)(context->node - graph->nodes), &l->linear) || context->original == NULL ||
      !qb_graph_linear(original, (qb_node_id)(context->original - original->nodes), &other))
    return qb_bound_rule_refuse(context, "the weights are no constants in both networks");
  if (!qb_shape_equal(&graph->values[l->linear.weight].shape, &original->values[other.weight].shape) ||
      l->linear.group != other.group)
    return qb_bound_rule_refuse(context, "the two networks' weights differ in shape");
  l->w = qb_graph_constant(original, other.weight);
  l->w_q = qb_graph_constant(graph, l->linear.weight);
  l->bias = qb_graph_constant(original, other.bias);
  l->bias_q = qb_graph_constant(graph, l->linear.bias);
  l->window = &context->node->attributes.conv.window;
  return qb_bound_rule_input(context, 0, &l->input);
}

/* Rows of weights are contiguous: Conv and matrices. result[o] for every output channel. */
static void bound_rows(const layer *l, const vectors *v, row_result *results) {
  int64_t length = l->linear.row_length, per_group = l->linear.out_channels / l->linear.group;
#pragma omp parallel for schedule(static) if (l->linear.out_channels * length > WORTH_THREADS)
  for (int64_t o = 0; o < l->linear.out_channels; o++) {
    bias_pair b = read_bias(l->bias, l->bias_q, o, l->input->exponent);
    results[o] = bound_row(l->w + o * length, l->w_q + o * length, v, o / per_group * length, length, b);
  }
}

static void include_result(qb_bound_state *output, int64_t c, row_result r, bool first) {
  output->x[c] = first ? r.x : qb_interval_hull(output->x[c], r.x);
  output->x_q[c] = first ? r.x_q : qb_interval_hull(output->x_q[c], r.x_q);
  output->e[c] = first ? r.e : fmax(output->e[c], r.e);
}

static qb_status allocate_results(const qb_bound_rule_context *context, int64_t count, row_result **results) {
  *results = qb_arena_alloc(context->scratch, (size_t)count, sizeof **results);
  return *results == NULL ? qb_fail_memory(context->error, context->node->name, (size_t)count * sizeof **results)
                          : QB_OK;
}

static bool has_pads(const qb_window *window) {
  return window->pad_begin[0] > 0 || window->pad_begin[1] > 0 || window->pad_end[0] > 0 || window->pad_end[1] > 0;
}

qb_status qb_bound_rule_conv(const qb_bound_rule_context *context, qb_bound_state *output) {
  layer l;
  vectors v;
  row_result *results;
  QB_TRY(read_layer(context, &l));
  QB_TRY(expand(context, l.input, l.linear.kernel_area, l.linear.row_length, has_pads(l.window), &v));
  QB_TRY(allocate_results(context, l.linear.out_channels, &results));
  QB_TRY(qb_bound_rule_create_output(context, output));
  bound_rows(&l, &v, results);
  for (int64_t o = 0; o < l.linear.out_channels; o++)
    include_result(output, o, results[o], true);
  output->exponent = l.input->exponent;
  return QB_OK;
}

/* Over the last axis. With rank 2 that is the channel axis; else channels lie elsewhere, and every output channel is
 * bounded by the hull of all rows over the hull of all inputs. */
qb_status qb_bound_rule_gemm(const qb_bound_rule_context *context, qb_bound_state *output) {
  layer l;
  vectors v;
  row_result *results;
  qb_bound_state input;
  QB_TRY(read_layer(context, &l));
  bool by_channel = qb_bound_rule_input_value(context, 0)->shape.rank == 2;
  if (by_channel)
    input = *l.input;
  else
    QB_TRY(qb_state_hull(context->scratch, l.input, &input, context->error));
  QB_TRY(expand(context, &input, by_channel ? 1 : l.linear.row_length, l.linear.row_length, false, &v));
  QB_TRY(allocate_results(context, l.linear.out_channels, &results));
  QB_TRY(qb_bound_rule_create_output(context, output));
  bound_rows(&l, &v, results);
  for (int64_t c = 0; c < output->channels; c++)
    for (int64_t o = by_channel ? c : 0; o < (by_channel ? c + 1 : l.linear.out_channels); o++)
      include_result(output, c, results[o], by_channel || o == 0);
  output->exponent = l.input->exponent;
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------- ConvTranspose */

/* Output position y along an axis meets the taps k with k dilation = y + pad (mod stride): one residue, a phase, at a
 * time. taps[0..count) lists the kernel offsets of phase (py, px). */
static int64_t phase_taps(const qb_window *window, int32_t py, int32_t px, int64_t *taps) {
  int64_t count = 0;
  for (int32_t i = 0; i < window->kernel[0]; i++)
    for (int32_t j = 0; j < window->kernel[1]; j++)
      if ((int64_t)i * window->dilation[0] % window->stride[0] == py &&
          (int64_t)j * window->dilation[1] % window->stride[1] == px)
        taps[count++] = (int64_t)i * window->kernel[1] + j;
  return count;
}

/* The weights that output channel o meets in a phase: (slices, taps) of (IC, OC/G, KH, KW). */
static void gather(const qb_linear *linear, const float *w, int64_t o, const int64_t *taps, int64_t tap_count,
                   float *row) {
  int64_t per_group = linear->out_channels / linear->group, slices = linear->in_channels / linear->group;
  for (int64_t i = 0; i < slices; i++) {
    const float *kernel = w + ((o / per_group * slices + i) * per_group + o % per_group) * linear->kernel_area;
    for (int64_t k = 0; k < tap_count; k++)
      row[i * tap_count + k] = kernel[taps[k]];
  }
}

static qb_status bound_phase(const qb_bound_rule_context *context, const layer *l, const int64_t *taps,
                             int64_t tap_count, float *rows, bool first, qb_bound_state *output) {
  vectors v;
  int64_t slices = l->linear.in_channels / l->linear.group, length = slices * tap_count;
  int64_t per_group = l->linear.out_channels / l->linear.group;
  QB_TRY(expand(context, l->input, tap_count, length, true, &v)); /* borders: some inputs are missing */
  for (int64_t o = 0; o < l->linear.out_channels; o++) {
    bias_pair b = read_bias(l->bias, l->bias_q, o, l->input->exponent);
    gather(&l->linear, l->w, o, taps, tap_count, rows);
    gather(&l->linear, l->w_q, o, taps, tap_count, rows + length);
    include_result(output, o, bound_row(rows, rows + length, &v, o / per_group * length, length, b), first);
  }
  return QB_OK;
}

qb_status qb_bound_rule_conv_transpose(const qb_bound_rule_context *context, qb_bound_state *output) {
  layer l;
  QB_TRY(read_layer(context, &l));
  size_t length = (size_t)l.linear.row_length, area = (size_t)l.linear.kernel_area;
  float *rows = qb_arena_alloc(context->scratch, 2 * length, sizeof *rows);
  int64_t *taps = qb_arena_alloc(context->scratch, area, sizeof *taps);
  if (rows == NULL || taps == NULL)
    return qb_fail_memory(context->error, context->node->name, 2 * length * sizeof *rows);
  QB_TRY(qb_bound_rule_create_output(context, output));
  output->exponent = l.input->exponent;
  for (int32_t py = 0; py < l.window->stride[0]; py++)
    for (int32_t px = 0; px < l.window->stride[1]; px++) {
      qb_arena_mark mark = qb_arena_get_mark(context->scratch);
      int64_t count = phase_taps(l.window, py, px, taps);
      QB_TRY(bound_phase(context, &l, taps, count, rows, py == 0 && px == 0, output));
      qb_arena_rewind(context->scratch, mark);
    }
  return QB_OK;
}
