/* Linear forms back through convolutions: each row on its own, by the rectangle of positions where it is not zero. A
 * form over one element covers the element's receptive field alone, also some layers further back. */
#include <cblas.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/backward_internal.h"

/* Output positions, and output channels of a group. */
typedef struct patch {
  int64_t y[2], x[2]; /* from, to */
} patch;

static bool is_empty(const patch *p) { return p->y[0] >= p->y[1]; }

static int64_t area_of(const patch *p) { return (p->y[1] - p->y[0]) * (p->x[1] - p->x[0]); }

/* Widens `p` by where a row is not zero, in one group. */
static void cover(const qb_layer_shape *s, int64_t channels, const double *row, patch *p) {
  int64_t h = s->height[1], w = s->width[1];
  for (int64_t c = 0; c < channels; c++)
    for (int64_t y = 0; y < h; y++) {
      const double *line = row + (c * h + y) * w;
      int64_t first = 0, last = w;
      while (first < w && line[first] == 0)
        first++;
      if (first == w)
        continue;
      while (line[last - 1] == 0)
        last--;
      p->y[0] = y < p->y[0] ? y : p->y[0];
      p->y[1] = y + 1 > p->y[1] ? y + 1 : p->y[1];
      p->x[0] = first < p->x[0] ? first : p->x[0];
      p->x[1] = last > p->x[1] ? last : p->x[1];
    }
}

/* The patch of all channels, one behind the other. */
static void cut_out(const qb_layer_shape *s, int64_t channels, const patch *p, const double *row, double *to) {
  int64_t width = p->x[1] - p->x[0];
  for (int64_t c = 0; c < channels; c++)
    for (int64_t y = p->y[0]; y < p->y[1]; y++, to += width)
      memcpy(to, row + (c * s->height[1] + y) * s->width[1] + p->x[0], (size_t)width * sizeof *to);
}

/* Adds columns (channels * taps, positions of the patch) of one group to the image x. */
static void fold(const qb_layer_shape *s, int64_t channels, const patch *p, const double *columns, double *x) {
  const qb_window *win = &s->window;
  int64_t width = p->x[1] - p->x[0], area = area_of(p);
  for (int64_t c = 0; c < channels; c++)
    for (int64_t a = 0; a < win->kernel[0]; a++)
      for (int64_t b = 0; b < win->kernel[1]; b++) {
        const double *from = columns + ((c * win->kernel[0] + a) * win->kernel[1] + b) * area;
        for (int64_t y = p->y[0]; y < p->y[1]; y++, from += width) {
          int64_t iy = y * win->stride[0] + a * win->dilation[0] - win->pad_begin[0];
          if (iy < 0 || iy >= s->height[0])
            continue;
          double *line = x + (c * s->height[0] + iy) * s->width[0];
          int64_t shift = b * win->dilation[1] - win->pad_begin[1];
          for (int64_t z = 0; z < width; z++) {
            int64_t iz = (p->x[0] + z) * win->stride[1] + shift;
            if (iz >= 0 && iz < s->width[0])
              line[iz] += from[z];
          }
        }
      }
}

/* c += sum of up to two products for one row and group. */
static void conv_group(const qb_backward_node *data, const qb_layer_shape *s, const qb_walk_product parts[2],
                       int64_t row, int64_t group, double *workspace, double *c) {
  int64_t area = s->height[1] * s->width[1], outs = s->channels[1] / s->group, ins = s->channels[0] / s->group;
  int64_t taps = ins * s->window.kernel[0] * s->window.kernel[1], offset = row * s->outputs + group * outs * area;
  patch p = {{s->height[1], 0}, {s->width[1], 0}};
  double *columns = workspace, *cut = workspace + taps * area;
  bool first = true;
  for (int k = 0; k < 2; k++)
    if (parts[k].rows != NULL)
      cover(s, outs, parts[k].rows + offset, &p);
  if (qb_backward_fault_planted == QB_BACKWARD_FAULT_PATCH && p.x[1] - p.x[0] > 1)
    p.x[1]--;
  for (int k = 0; k < 2 && !is_empty(&p); k++) {
    const double *from = parts[k].rows == NULL ? NULL : parts[k].rows + offset;
    if (from == NULL)
      continue;
    if (area_of(&p) < area) {
      cut_out(s, outs, &p, from, cut);
      from = cut;
    }
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)taps, (int)area_of(&p), (int)outs, 1,
                data->weight[parts[k].weight] + group * outs * taps, (int)taps, from, (int)area_of(&p), first ? 0 : 1,
                columns, (int)area_of(&p));
    first = false;
  }
  if (!is_empty(&p))
    fold(s, ins, &p, columns, c + row * s->inputs + group * ins * s->height[0] * s->width[0]);
}

/* sign times the weights of one output element, where they lie over the image. */
static void add_element(const qb_layer_shape *s, const double *weight, int64_t element, double sign, double *c) {
  const qb_window *win = &s->window;
  int64_t area = s->height[1] * s->width[1], ins = s->channels[0] / s->group, o = element / area;
  int64_t y = element % area / s->width[1], x = element % s->width[1], group = o / (s->channels[1] / s->group);
  for (int64_t i = 0; i < ins; i++)
    for (int64_t a = 0; a < win->kernel[0]; a++)
      for (int64_t b = 0; b < win->kernel[1]; b++) {
        int64_t iy = y * win->stride[0] + a * win->dilation[0] - win->pad_begin[0];
        int64_t ix = x * win->stride[1] + b * win->dilation[1] - win->pad_begin[1];
        if (iy >= 0 && iy < s->height[0] && ix >= 0 && ix < s->width[0])
          c[((group * ins + i) * s->height[0] + iy) * s->width[0] + ix] +=
              sign * weight[((o * ins + i) * win->kernel[0] + a) * win->kernel[1] + b];
      }
}

static void conv_units(const qb_walk *walk, const qb_backward_node *data, const qb_layer_shape *s,
                       const qb_walk_product parts[2], double *c) {
  for (int k = 0; k < 2; k++)
    for (int64_t r = 0; parts[k].rows != NULL && r < walk->rows; r++)
      add_element(s, data->weight[parts[k].weight], walk->element[r], walk->sign[r], c + r * s->inputs);
}

/* One row through a transposed convolution, weight (IC, OC/G, KH, KW): a plain convolution of the coefficients. */
static void transpose_back_row(const qb_layer_shape *s, const double *y, const double *w, double *c) {
  const qb_window *win = &s->window;
  int64_t outs = s->channels[1] / s->group, ins = s->channels[0] / s->group;
  for (int64_t i = 0; i < s->channels[0]; i++)
    for (int64_t u = 0; u < s->height[0]; u++)
      for (int64_t v = 0; v < s->width[0]; v++) {
        double sum = 0;
        for (int64_t o = 0; o < outs; o++)
          for (int64_t a = 0; a < win->kernel[0]; a++)
            for (int64_t b = 0; b < win->kernel[1]; b++) {
              int64_t oy = u * win->stride[0] + a * win->dilation[0] - win->pad_begin[0];
              int64_t ox = v * win->stride[1] + b * win->dilation[1] - win->pad_begin[1];
              if (oy < 0 || oy >= s->height[1] || ox < 0 || ox >= s->width[1])
                continue;
              sum += w[((i * outs + o) * win->kernel[0] + a) * win->kernel[1] + b] *
                     y[((i / ins * outs + o) * s->height[1] + oy) * s->width[1] + ox];
            }
        c[(i * s->height[0] + u) * s->width[0] + v] += sum;
      }
}

static void transposed(const qb_walk *walk, const qb_backward_node *data, const qb_layer_shape *s,
                       const qb_walk_product parts[2], double *c) {
  for (int k = 0; k < 2; k++)
    for (int64_t r = 0; parts[k].rows != NULL && r < walk->rows; r++)
      transpose_back_row(s, parts[k].rows + r * s->outputs, data->weight[parts[k].weight], c + r * s->inputs);
}

qb_status qb_walk_conv(const qb_walk *walk, qb_node_id id, const qb_layer_shape *s, const qb_walk_product parts[2],
                       double *c) {
  const qb_backward_node *data = &walk->backward->nodes[id];
  if (s->is_transposed || walk->element != NULL) {
    (s->is_transposed ? transposed : conv_units)(walk, data, s, parts, c);
    return QB_OK;
  }
  int64_t taps = s->channels[0] / s->group * s->window.kernel[0] * s->window.kernel[1];
  size_t size = (size_t)((taps + s->channels[1] / s->group) * s->height[1] * s->width[1]);
  double *workspace = qb_alloc(size, sizeof *workspace);
  if (workspace == NULL)
    return qb_fail_memory(walk->error, "columns of a convolution", size * sizeof *workspace);
  for (int64_t r = 0; r < walk->rows; r++)
    for (int64_t g = 0; g < s->group; g++)
      conv_group(data, s, parts, r, g, workspace, c);
  qb_free(workspace);
  return QB_OK;
}
