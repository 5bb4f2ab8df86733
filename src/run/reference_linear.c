/* Reference rules of the operators with weights: sums of products.
 *
 * With |x - y*| <= r and |x'| <= |x| + 2 r for every covered evaluation x' of an input, a sum of n products and a bias
 * is within
 *     sum_j |w_j| r_j + gamma_{n+2} (sum_j |w_j| (|x_j| + 2 r_j) + |b|) + n tiny
 * of the exact sum, whatever the order and whether fused or not (Higham 2002, section 3.1). Both sums are one:
 * sum_j |w_j| e_j with e_j = r_j + gamma_{n+2} (|x_j| + 2 r_j), prepared once per input element. */
#include "run/reference.h"

/* The sum of n non-negative terms computed in double, made an upper bound of the exact one: gamma_{n+8} of the sum and
 * n underflows, both doubled. */
static double seal_sum(double sum, double n, const rounding *u) {
  return sum * (1.0 + 2.0 * gamma_n(n + 8.0, &rounding_double)) + 4.0 * (n + 8.0) * u->tiny;
}

/* e_j of the file comment for every input element, into the scratch buffer. The smallest number is added because an
 * underflow here would be multiplied by a weight. */
static void prepare_errors(const reference_call *call, double n) {
  const reference_value *x = call->in[0];
  double gamma = gamma_n(n + 2.0, call->units);
  for (size_t i = 0; i < x->count; i++) {
    double magnitude = ball_magnitude(value_ball(x, i));
    call->scratch[i] = magnitude > 0.0 ? x->r[i] + gamma * magnitude + 0x1p-1073 : 0.0;
  }
}

/* ---------------------------------------------------------------------------------------------------- convolution */

/* The part of an output row that a kernel column meets: positions [lo, hi) with 0 <= o * stride + shift < length. */
static void valid_range(int64_t shift, int64_t stride, int64_t length, int64_t outputs, int64_t *lo, int64_t *hi) {
  *lo = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
  *hi = shift >= length ? 0 : (length - 1 - shift) / stride + 1;
  *hi = *hi < outputs ? *hi : outputs;
}

typedef struct conv_geometry {
  const qb_window *window;
  int64_t h, w, oh, ow; /* input and output maps; swapped roles for ConvTranspose */
  int64_t channels_in;  /* of one group: terms per kernel position */
} conv_geometry;

/* out[o] += weight * in[o * stride + shift] over the whole map for kernel position (kh, kw). */
static void add_tap(const conv_geometry *g, int32_t kh, int32_t kw, double weight, const double *in, double *out) {
  int64_t sh = g->window->stride[0], sw = g->window->stride[1];
  int64_t top = (int64_t)kh * g->window->dilation[0] - g->window->pad_begin[0];
  int64_t left = (int64_t)kw * g->window->dilation[1] - g->window->pad_begin[1];
  int64_t row_lo, row_hi, lo, hi;
  valid_range(top, sh, g->h, g->oh, &row_lo, &row_hi);
  valid_range(left, sw, g->w, g->ow, &lo, &hi);
  for (int64_t oh = row_lo; oh < row_hi; oh++) {
    const double *row = in + (oh * sh + top) * g->w;
    double *result = out + oh * g->ow;
    if (sw == 1)
      for (int64_t ow = lo; ow < hi; ow++)
        result[ow] += weight * row[ow + left];
    else
      for (int64_t ow = lo; ow < hi; ow++)
        result[ow] += weight * row[ow * sw + left];
  }
}

/* The transpose of add_tap: out[i * stride + shift] += weight * in[i]. */
static void scatter_tap(const conv_geometry *g, int32_t kh, int32_t kw, double weight, const double *in, double *out) {
  int64_t sh = g->window->stride[0], sw = g->window->stride[1];
  int64_t top = (int64_t)kh * g->window->dilation[0] - g->window->pad_begin[0];
  int64_t left = (int64_t)kw * g->window->dilation[1] - g->window->pad_begin[1];
  int64_t row_lo, row_hi, lo, hi;
  valid_range(top, sh, g->oh, g->h, &row_lo, &row_hi);
  valid_range(left, sw, g->ow, g->w, &lo, &hi);
  for (int64_t ih = row_lo; ih < row_hi; ih++)
    for (int64_t iw = lo; iw < hi; iw++)
      out[(ih * sh + top) * g->ow + iw * sw + left] += weight * in[ih * g->w + iw];
}

static conv_geometry make_geometry(const reference_call *call, int64_t channels_in) {
  const qb_shape *x = &call->in[0]->shape, *y = &call->y->shape;
  return (
      conv_geometry){&call->node->attributes.conv.window, x->dims[2], x->dims[3], y->dims[2], y->dims[3], channels_in};
}

/* One output map: bias, then input channels and kernel positions in order. `absolute` takes |w| and |b|. */
static void conv_map(const reference_call *call, const conv_geometry *g, int64_t n, int64_t oc, const double *input,
                     bool absolute, double bias, double *out) {
  const reference_value *w = call->in[1];
  bool transpose = call->node->op == QB_OP_CONV_TRANSPOSE;
  int32_t kh = g->window->kernel[0], kw = g->window->kernel[1];
  int64_t outputs_per_group = call->y->shape.dims[1] / call->node->attributes.conv.group;
  int64_t group = oc / outputs_per_group;
  for (int64_t i = 0; i < g->oh * g->ow; i++)
    out[i] = bias;
  for (int64_t c = 0; c < g->channels_in; c++) {
    int64_t ic = group * g->channels_in + c;
    const double *map = input + (n * call->in[0]->shape.dims[1] + ic) * g->h * g->w;
    const double *kernel = transpose ? w->x + (ic * outputs_per_group + oc % outputs_per_group) * kh * kw
                                     : w->x + (oc * g->channels_in + c) * kh * kw;
    for (int32_t i = 0; i < kh; i++)
      for (int32_t j = 0; j < kw; j++) {
        double weight = absolute ? fabs(kernel[i * kw + j]) : kernel[i * kw + j];
        (transpose ? scatter_tap : add_tap)(g, i, j, weight, map, out);
      }
  }
}

static void run_convolution(const reference_call *call, int64_t channels_in) {
  conv_geometry g = make_geometry(call, channels_in);
  reference_value *y = call->y;
  int64_t channels = y->shape.dims[1], maps = y->shape.dims[0] * channels, area = g.oh * g.ow;
  double terms = (double)channels_in * g.window->kernel[0] * g.window->kernel[1];
  if (y->r != NULL)
    prepare_errors(call, terms);
#pragma omp parallel for schedule(dynamic)
  for (int64_t map = 0; map < maps; map++) {
    int64_t n = map / channels, oc = map % channels;
    double bias = call->in[2] == NULL ? 0.0 : call->in[2]->x[oc];
    conv_map(call, &g, n, oc, call->in[0]->x, false, bias, y->x + map * area);
    if (y->r == NULL)
      continue;
    double *r = y->r + map * area;
    conv_map(call, &g, n, oc, call->scratch, true, gamma_n(terms + 2.0, call->units) * fabs(bias), r);
    for (int64_t i = 0; i < area; i++)
      r[i] = seal_sum(r[i], terms, call->units);
  }
}

void qb_reference_conv(const reference_call *call) { run_convolution(call, call->in[1]->shape.dims[1]); }

void qb_reference_conv_transpose(const reference_call *call) {
  run_convolution(call, call->in[1]->shape.dims[0] / call->node->attributes.conv.group);
}

/* ------------------------------------------------------------------------------------------------------- matrices */

void qb_reference_gemm(const reference_call *call) {
  const reference_value *x = call->in[0], *w = call->in[1], *bias = call->in[2];
  reference_value *y = call->y;
  int64_t outputs = w->shape.dims[0], length = w->shape.dims[1];
  double gamma = gamma_n((double)length + 2.0, call->units);
  if (y->r != NULL)
    prepare_errors(call, (double)length);
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)y->count; i++) {
    const double *row = w->x + i % outputs * length, *input = x->x + i / outputs * length;
    double b = bias == NULL ? 0.0 : bias->x[i % outputs], sum = b;
    for (int64_t k = 0; k < length; k++)
      sum += row[k] * input[k];
    y->x[i] = sum;
    if (y->r == NULL)
      continue;
    const double *e = call->scratch + i / outputs * length;
    double error = gamma * fabs(b);
    for (int64_t k = 0; k < length; k++)
      error += fabs(row[k]) * e[k];
    y->r[i] = seal_sum(error, (double)length, call->units);
  }
}

/* y = gamma / sqrt(var + eps) * (x - mean) + beta. As an evaluation may also precompute scale * x + shift, the
 * rounding term takes |scale| (|x| + |mean|) + |beta| with 8 roundings: 3 in the scale (the half error of the root
 * counted whole), and product, difference, product, sum; a subnormal scale has an absolute error of `tiny`. */
void qb_reference_batch_norm(const reference_call *call) {
  const reference_value *x = call->in[0];
  int64_t channels = x->shape.dims[1], area = (int64_t)x->count / (x->shape.dims[0] * channels);
  double epsilon = (double)call->node->attributes.batch_norm.epsilon;
#pragma omp parallel for
  for (int64_t map = 0; map < x->shape.dims[0] * channels; map++) {
    int64_t c = map % channels;
    double mean = call->in[3]->x[c], beta = call->in[2]->x[c];
    double scale = call->in[1]->x[c] / sqrt(call->in[4]->x[c] + epsilon);
    for (int64_t i = map * area; i < (map + 1) * area; i++) {
      ball b = value_ball(x, (size_t)i);
      double distance = ball_magnitude(b) + fabs(mean);
      double propagated = fabs(scale) * b.r + 2.0 * call->units->tiny * distance;
      value_set(call->y, (size_t)i,
                ball_result(scale * (b.x - mean) + beta, propagated, 8, fabs(scale) * distance + fabs(beta),
                            call->units));
    }
  }
}
