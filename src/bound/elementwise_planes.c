/* Padding and phases of the inputs of a convolution; see elementwise_planes.h. */
#include "bound/elementwise_planes.h"

#include <string.h>

element_planes element_planes_of(const element_layer *l) {
  element_planes planes = {0};
  int64_t reach[2];
  for (int axis = 0; axis < 2; axis++) {
    reach[axis] = (l->window.kernel[axis] - 1) * l->window.dilation[axis];
    planes.phases[axis] = reach[axis] + 1 < l->window.stride[axis] ? reach[axis] + 1 : l->window.stride[axis];
  }
  planes.rows = l->height[1] + reach[0] / l->window.stride[0];
  planes.row_length = l->width[1] + reach[1] / l->window.stride[1];
  planes.channel = planes.phases[0] * planes.phases[1] * planes.rows * planes.row_length;
  planes.set = planes.channel * l->channels[0];
  return planes;
}

size_t element_planes_size(const element_planes *planes) {
  return (size_t)(ELEMENT_SETS * planes->set) + ELEMENT_PLANES_SLACK;
}

int64_t element_planes_tap(const element_layer *l, const element_planes *planes, int64_t a, int64_t b) {
  int64_t row = a * l->window.dilation[0], column = b * l->window.dilation[1];
  int64_t phase = row % l->window.stride[0] * planes->phases[1] + column % l->window.stride[1];
  return (phase * planes->rows + row / l->window.stride[0]) * planes->row_length + column / l->window.stride[1];
}

/* Columns `phase`, `phase` + stride, .. of one padded row of the image; `in` is NULL in the padding above and below. */
static void fill_row(const element_layer *l, const element_planes *planes, const float *in, int64_t phase,
                     float *restrict out) {
  int64_t stride = l->window.stride[1], shift = l->window.pad_begin[1] - phase, length = planes->row_length;
  int64_t from = shift <= 0 ? 0 : (shift + stride - 1) / stride; /* the first column inside the image */
  int64_t to = l->width[0] - 1 + shift < 0 ? 0 : (l->width[0] - 1 + shift) / stride + 1;
  to = in == NULL ? 0 : to > length ? length : to;
  from = from > to ? to : from;
  for (int64_t z = 0; z < from; z++)
    out[z] = 0;
  if (stride == 1 && to > from)
    memcpy(out + from, in + from - shift, (size_t)(to - from) * sizeof *out);
  for (int64_t z = from; stride != 1 && z < to; z++)
    out[z] = in[z * stride - shift];
  for (int64_t z = to; z < length; z++)
    out[z] = 0;
}

void element_planes_fill_channel(const element_layer *l, const element_planes *planes, int set, int64_t c, float *out) {
  const float *in = l->x[set] + c * l->height[0] * l->width[0];
  for (int64_t f = 0; f < planes->phases[0]; f++)
    for (int64_t g = 0; g < planes->phases[1]; g++)
      for (int64_t y = 0; y < planes->rows; y++, out += planes->row_length) {
        int64_t row = y * l->window.stride[0] + f - l->window.pad_begin[0];
        fill_row(l, planes, row < 0 || row >= l->height[0] ? NULL : in + row * l->width[0], g, out);
      }
}

static void fill_larger(const element_planes *planes, int64_t c) {
  const float *a = planes->data + QB_ELEMENT_ORIGINAL * planes->set + c * planes->channel;
  const float *q = planes->data + QB_ELEMENT_QUANTIZED * planes->set + c * planes->channel;
  float *restrict out = planes->data + ELEMENT_LARGER * planes->set + c * planes->channel;
#pragma omp simd
  for (int64_t i = 0; i < planes->channel; i++)
    out[i] = a[i] > q[i] ? a[i] : q[i];
}

void element_planes_fill(const element_layer *l, const element_planes *planes) {
  enum { WORTH_THREADS = 20000 };
  memset(planes->data + ELEMENT_SETS * planes->set, 0, ELEMENT_PLANES_SLACK * sizeof *planes->data);
  if (planes->exact)
    memset(planes->data + (QB_ELEMENT_ORIGINAL + 1) * planes->set, 0, ELEMENT_PLANES_SLACK * sizeof *planes->data);
#pragma omp parallel for schedule(static) if (planes->set > WORTH_THREADS)
  for (int64_t c = 0; c < l->channels[0]; c++) {
    for (int set = 0; set < QB_ELEMENT_COUNT; set++)
      if (set == QB_ELEMENT_ORIGINAL || !planes->exact)
        element_planes_fill_channel(l, planes, set, c, planes->data + set * planes->set + c * planes->channel);
    if (!planes->exact)
      fill_larger(planes, c);
  }
}
