/* Layers as sums over pairs of positions; see check_map.h. */
#include "check/check_map.h"

#include <string.h>

map map_of(const qb_graph *graph, const qb_linear *linear, int64_t width) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_shape *x = &graph->values[node->inputs[0]].shape, *y = &graph->values[node->output].shape;
  map m = {.is_matrix = node->op != QB_OP_CONV && node->op != QB_OP_CONV_TRANSPOSE,
           .width = width,
           .group = linear->group};
  if (m.is_matrix) {
    m.small[0] = linear->out_channels;
    m.large[0] = linear->in_channels;
    m.rows = (int64_t)qb_shape_elements(x) / linear->in_channels;
    return m;
  }
  m.window = &node->attributes.conv.window;
  for (int k = 0; k < 3; k++) {
    m.small[k] = node->op == QB_OP_CONV ? y->dims[k + 1] : x->dims[k + 1];
    m.large[k] = node->op == QB_OP_CONV ? x->dims[k + 1] : y->dims[k + 1];
  }
  return m;
}

static void add_multiple(double w, const double *restrict from, double *restrict to, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    to[i] += w * from[i];
}

static bool is_zero(const double *x, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (x[i] != 0)
      return false;
  return true;
}

/* to += W from or W^T from, with the weights (small, large of a group, kernel). */
static void apply_matrix(const map *m, bool to_large, const double *w, const double *from, double *to) {
  int64_t in = m->large[0], out = m->small[0], width = m->width;
  for (int64_t o = 0; o < out; o++)
    for (int64_t r = 0; r < m->rows; r++) {
      int64_t small = (r * out + o) * width, large = r * in * width;
      if (to_large && is_zero(from + small, width))
        continue;
      for (int64_t i = 0; i < in; i++, large += width)
        if (to_large)
          add_multiple(w[o * in + i], from + small, to + large, width);
        else
          add_multiple(w[o * in + i], from + large, to + small, width);
    }
}

/* The part [first, last) of positions of the small side for which a tap lies inside the large one. */
static void inside(int64_t small, int64_t large, int64_t stride, int64_t shift, int64_t *first, int64_t *last) {
  *first = shift < 0 ? (-shift + stride - 1) / stride : 0;
  *last = large - shift <= 0 ? 0 : (large - shift + stride - 1) / stride;
  *last = *last < small ? *last : small;
}

/* One tap from one small channel to one large channel or back, for some rows of the small one. */
static void apply_tap(const map *m, bool to_large, double w, int64_t a, int64_t b, const int64_t rows[2],
                      const double *from, double *to) {
  const qb_window *v = m->window;
  int64_t shift_y = a * v->dilation[0] - v->pad_begin[0], shift_x = b * v->dilation[1] - v->pad_begin[1];
  int64_t stride = v->stride[1], y0, y1, x0, x1;
  inside(m->small[1], m->large[1], v->stride[0], shift_y, &y0, &y1);
  inside(m->small[2], m->large[2], stride, shift_x, &x0, &x1);
  y0 = y0 < rows[0] ? rows[0] : y0;
  y1 = y1 > rows[1] ? rows[1] : y1;
  int64_t step = stride == 1 ? x1 - x0 : 1; /* positions that follow one another on both sides */
  for (int64_t y = y0; y < y1; y++)
    for (int64_t x = x0; x < x1; x += step) {
      int64_t large = ((y * v->stride[0] + shift_y) * m->large[2] + x * stride + shift_x) * m->width;
      int64_t small = (y * m->small[2] + x) * m->width;
      add_multiple(w, from + (to_large ? small : large), to + (to_large ? large : small), step * m->width);
    }
}

/* All taps between two channels, a few rows at a time, which stay in the processor's cache. */
static void apply_kernel(const map *m, bool to_large, const double *w, const int64_t rows[2], const double *from,
                         double *to) {
  enum { ROWS = 4 };
  int64_t kernel[2] = {m->window->kernel[0], m->window->kernel[1]};
  for (int64_t y = rows[0]; y < rows[1]; y += ROWS) {
    int64_t some[2] = {y, y + ROWS < rows[1] ? y + ROWS : rows[1]};
    for (int64_t tap = 0; tap < kernel[0] * kernel[1]; tap++)
      if (w[tap] != 0)
        apply_tap(m, to_large, w[tap], tap / kernel[1], tap % kernel[1], some, from, to);
  }
}

/* The rows of a small channel that are not zero. */
static bool rows_in_use(const map *m, const double *channel, int64_t rows[2]) {
  int64_t length = m->small[2] * m->width;
  rows[0] = 0;
  rows[1] = m->small[1];
  while (rows[0] < rows[1] && is_zero(channel + rows[0] * length, length))
    rows[0]++;
  while (rows[0] < rows[1] && is_zero(channel + (rows[1] - 1) * length, length))
    rows[1]--;
  return rows[0] < rows[1];
}

void apply_map(const map *m, bool to_large, const double *w, const double *from, double *to) {
  if (m->is_matrix) {
    apply_matrix(m, to_large, w, from, to);
    return;
  }
  int64_t small_area = m->small[1] * m->small[2] * m->width, large_area = m->large[1] * m->large[2] * m->width;
  int64_t per_group = m->large[0] / m->group, kernel = (int64_t)m->window->kernel[0] * m->window->kernel[1];
  for (int64_t s = 0; s < m->small[0]; s++) {
    int64_t first = s / (m->small[0] / m->group) * per_group, rows[2] = {0, m->small[1]};
    if (to_large && !rows_in_use(m, from + s * small_area, rows))
      continue;
    for (int64_t k = 0; k < per_group; k++) {
      int64_t small = s * small_area, large = (first + k) * large_area;
      apply_kernel(m, to_large, w + (s * per_group + k) * kernel, rows, from + (to_large ? small : large),
                   to + (to_large ? large : small));
    }
  }
}

void apply_rows(const map *m, bool to_large, const double *w, const double *from, int64_t from_count, double *to,
                int64_t to_count, double *room) {
  double *woven = room + to_count * m->width;
  memset(room, 0, (size_t)(to_count * m->width) * sizeof *room);
  for (int64_t i = 0; i < from_count; i++)
    for (int64_t r = 0; r < m->width; r++)
      woven[i * m->width + r] = from[r * from_count + i];
  apply_map(m, to_large, w, woven, room);
  for (int64_t i = 0; i < to_count; i++)
    for (int64_t r = 0; r < m->width; r++)
      to[r * to_count + i] += room[i * m->width + r];
}

int64_t map_channel(const map *m, bool transposed, int64_t i) {
  int64_t area = m->is_matrix ? 1 : transposed ? m->large[1] * m->large[2] : m->small[1] * m->small[2];
  int64_t channels = m->is_matrix ? m->small[0] : transposed ? m->large[0] : m->small[0];
  return i / area % channels;
}
