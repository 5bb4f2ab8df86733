/* Backward rules of the operators with weights: the transposed layer. */
#include <math.h>

#include "search/gradient_internal.h"

/* Output positions o with 0 <= o * stride + shift < length. */
static void valid_range(int64_t shift, int64_t stride, int64_t length, int64_t outputs, int64_t *lo, int64_t *hi) {
  *lo = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
  *hi = shift >= length ? 0 : (length - 1 - shift) / stride + 1;
  *hi = *hi < outputs ? *hi : outputs;
}

/* A large map (h, w) and a small one (oh, ow), tied by large = small * stride + shift: input and output of a Conv,
 * output and input of a ConvTranspose. */
typedef struct map_pair {
  const qb_window *window;
  int64_t h, w, oh, ow;
} map_pair;

static int64_t shift_of(const map_pair *m, int axis, int32_t k) {
  return (int64_t)k * m->window->dilation[axis] - m->window->pad_begin[axis];
}

/* large[o * stride + shift] += weight * small[o] */
static void spread_tap(const map_pair *m, int32_t i, int32_t j, float weight, const float *small, float *large) {
  int64_t sh = m->window->stride[0], sw = m->window->stride[1], top = shift_of(m, 0, i), left = shift_of(m, 1, j);
  int64_t row_lo, row_hi, lo, hi;
  valid_range(top, sh, m->h, m->oh, &row_lo, &row_hi);
  valid_range(left, sw, m->w, m->ow, &lo, &hi);
  for (int64_t oh = row_lo; oh < row_hi; oh++) {
    const float *from = small + oh * m->ow;
    float *to = large + (oh * sh + top) * m->w + left;
    if (sw == 1)
      for (int64_t ow = lo; ow < hi; ow++)
        to[ow] += weight * from[ow];
    else
      for (int64_t ow = lo; ow < hi; ow++)
        to[ow * sw] += weight * from[ow];
  }
}

/* small[o] += weight * large[o * stride + shift] */
static void collect_tap(const map_pair *m, int32_t i, int32_t j, float weight, const float *large, float *small) {
  int64_t sh = m->window->stride[0], sw = m->window->stride[1], top = shift_of(m, 0, i), left = shift_of(m, 1, j);
  int64_t row_lo, row_hi, lo, hi;
  valid_range(top, sh, m->h, m->oh, &row_lo, &row_hi);
  valid_range(left, sw, m->w, m->ow, &lo, &hi);
  for (int64_t oh = row_lo; oh < row_hi; oh++)
    for (int64_t ow = lo; ow < hi; ow++)
      small[oh * m->ow + ow] += weight * large[(oh * sh + top) * m->w + ow * sw + left];
}

/* dx of input channel `ic` of a Conv: weight (OC, IC/G, KH, KW). */
static void pull_conv_channel(const pull_call *call, const map_pair *m, int64_t ic) {
  const float *w = call->in[1]->x;
  int64_t channels_in = call->in[1]->shape->dims[1],
          per_group = call->y->shape->dims[1] / call->node->attributes.conv.group;
  int64_t group = ic / channels_in, area = m->window->kernel[0] * m->window->kernel[1];
  for (int64_t oc = group * per_group; oc < (group + 1) * per_group; oc++)
    for (int32_t i = 0; i < m->window->kernel[0]; i++)
      for (int32_t j = 0; j < m->window->kernel[1]; j++) {
        float weight = w[(oc * channels_in + ic % channels_in) * area + i * m->window->kernel[1] + j];
        if (weight != 0)
          spread_tap(m, i, j, weight, call->y->d + oc * m->oh * m->ow, call->in[0]->d + ic * m->h * m->w);
      }
}

void qb_pull_conv(const pull_call *call) {
  const qb_shape *x = call->in[0]->shape, *y = call->y->shape;
  map_pair m = {&call->node->attributes.conv.window, x->dims[2], x->dims[3], y->dims[2], y->dims[3]};
#pragma omp parallel for schedule(dynamic)
  for (int64_t ic = 0; ic < x->dims[1]; ic++)
    pull_conv_channel(call, &m, ic);
}

/* Weight (IC, OC/G, KH, KW). */
void qb_pull_conv_transpose(const pull_call *call) {
  const qb_shape *x = call->in[0]->shape, *y = call->y->shape;
  map_pair m = {&call->node->attributes.conv.window, y->dims[2], y->dims[3], x->dims[2], x->dims[3]};
  int64_t per_group = call->in[1]->shape->dims[1], in_per_group = x->dims[1] / call->node->attributes.conv.group;
  int64_t area = m.window->kernel[0] * m.window->kernel[1];
#pragma omp parallel for schedule(dynamic)
  for (int64_t ic = 0; ic < x->dims[1]; ic++)
    for (int64_t o = 0; o < per_group; o++)
      for (int32_t i = 0; i < m.window->kernel[0]; i++)
        for (int32_t j = 0; j < m.window->kernel[1]; j++)
          collect_tap(&m, i, j, call->in[1]->x[(ic * per_group + o) * area + i * m.window->kernel[1] + j],
                      call->y->d + (ic / in_per_group * per_group + o) * m.h * m.w, call->in[0]->d + ic * m.oh * m.ow);
}

/* Weight (OUT, IN) on the last axis. */
void qb_pull_gemm(const pull_call *call) {
  int64_t outputs = call->in[1]->shape->dims[0], length = call->in[1]->shape->dims[1];
  for (int64_t i = 0; i < call->y->count; i++) {
    const float *row = call->in[1]->x + i % outputs * length;
    float *to = call->in[0]->d + i / outputs * length, d = call->y->d[i];
    for (int64_t k = 0; d != 0 && k < length; k++)
      to[k] += d * row[k];
  }
}

void qb_pull_batch_norm(const pull_call *call) {
  float epsilon = call->node->attributes.batch_norm.epsilon;
  for (int64_t i = 0; i < call->y->count; i++) {
    int64_t c = qb_shape_channel(call->y->shape, i);
    call->in[0]->d[i] += call->y->d[i] * call->in[1]->x[c] / sqrtf(call->in[4]->x[c] + epsilon);
  }
}
