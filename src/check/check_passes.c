/* From the definition of each layer, one weight pair after the other. */
#include "check/check_passes.h"

#include <string.h>

/* The positions z of [0, count) with 0 <= z step + shift < size. */
static void within(int64_t count, int64_t step, int64_t shift, int64_t size, int64_t *begin, int64_t *end) {
  int64_t last = size - 1 - shift;
  *begin = shift >= 0 ? 0 : (step - 1 - shift) / step;
  *end = last < 0 ? 0 : last / step + 1;
  *end = *end > count ? count : *end;
}

/* out[z out_step] += c in[z in_step] for z in [0, count). */
static void add_multiple(double c, const double *restrict in, int64_t in_step, int64_t count, double *restrict out,
                         int64_t out_step) {
  if (in_step == 1 && out_step == 1)
    for (int64_t z = 0; z < count; z++)
      out[z] += c * in[z];
  else
    for (int64_t z = 0; z < count; z++)
      out[z * out_step] += c * in[z * in_step];
}

static void add_terms(const passes *p, const double c[PASS_TERMS], int64_t in, int64_t in_step, int64_t count,
                      int64_t out, int64_t out_step) {
  for (int k = 0; k < PASS_TERMS; k++)
    if (c[k] != 0)
      add_multiple(c[k], p->in[p->terms[k].from] + in, in_step, count, p->out[p->terms[k].to] + out, out_step);
}

/* One tap (i, j) between a plane of the input and one of the output. A convolution reads input z stride + shift for
 * output z; a transposed one writes output z stride - shift for input z. */
static void add_tap(const passes *p, int64_t weight, int64_t in_plane, int64_t out_plane, int64_t i, int64_t j) {
  const qb_window *w = &p->window;
  bool transposed = p->op == QB_OP_CONV_TRANSPOSE;
  const int64_t *in = p->in_shape->dims + 2, *out = p->out_shape->dims + 2;
  const int64_t *walks = transposed ? in : out, *jumps = transposed ? out : in;
  int64_t shift[2] = {i * w->dilation[0] - w->pad_begin[0], j * w->dilation[1] - w->pad_begin[1]}, from[2], to[2];
  double c[PASS_TERMS];
  p->split((double)p->weight[weight], (double)p->weight_q[weight], c);
  for (int axis = 0; axis < 2; axis++)
    within(walks[axis], w->stride[axis], shift[axis], jumps[axis], &from[axis], &to[axis]);
  bool whole = w->stride[0] == 1 && w->stride[1] == 1 && from[1] == 0 && to[1] == walks[1] && walks[1] == jumps[1];
  int64_t rows = whole ? to[0] - from[0] : 1; /* rows that follow one another count as one */
  for (int64_t y = from[0]; y < to[0] && from[1] < to[1]; y += rows) {
    int64_t far = (y * w->stride[0] + shift[0]) * jumps[1] + from[1] * w->stride[1] + shift[1];
    int64_t near = y * walks[1] + from[1];
    if (transposed)
      add_terms(p, c, in_plane + near, 1, rows * (to[1] - from[1]), out_plane + far, w->stride[1]);
    else
      add_terms(p, c, in_plane + far, w->stride[1], rows * (to[1] - from[1]), out_plane + near, 1);
  }
}

static void convolve(const passes *p) {
  const qb_linear *l = &p->linear;
  bool transposed = p->op == QB_OP_CONV_TRANSPOSE;
  int64_t slices = l->in_channels / l->group, per_group = l->out_channels / l->group, area = l->kernel_area;
  int64_t in_area = p->in_shape->dims[2] * p->in_shape->dims[3],
          out_area = p->out_shape->dims[2] * p->out_shape->dims[3];
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t o = 0; o < l->out_channels; o++) {
    for (int t = 0; t < p->tracks; t++)
      memset(p->out[t] + o * out_area, 0, (size_t)out_area * sizeof(double));
    for (int64_t s = 0; s < slices; s++)
      for (int64_t k = 0; k < area; k++) {
        int64_t channel = o / per_group * slices + s;
        int64_t weight = transposed ? (channel * per_group + o % per_group) * area + k : (o * slices + s) * area + k;
        add_tap(p, weight, channel * in_area, o * out_area, k / p->window.kernel[1], k % p->window.kernel[1]);
      }
  }
}

/* Over the last axis. */
static void multiply(const passes *p) {
  int64_t length = p->linear.in_channels, rows = p->linear.out_channels;
  int64_t positions = (int64_t)qb_shape_elements(p->in_shape) / length;
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < rows; o++) {
    double c[PASS_TERMS];
    for (int t = 0; t < p->tracks; t++)
      for (int64_t i = 0; i < positions; i++)
        p->out[t][i * rows + o] = 0;
    for (int64_t k = 0; k < length; k++) {
      p->split((double)p->weight[o * length + k], (double)p->weight_q[o * length + k], c);
      add_terms(p, c, k, length, positions, o, rows);
    }
  }
}

void passes_apply(const passes *p) {
  if (p->op == QB_OP_CONV || p->op == QB_OP_CONV_TRANSPOSE)
    convolve(p);
  else
    multiply(p);
}
