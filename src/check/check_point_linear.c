/* Layers with weights at a point: one dot product of balls per output element, eight output channels at a time, so that
 * the inputs that an output position sees are gathered once for them. */
#include <omp.h>

#include "base/alloc.h"
#include "base/error.h"
#include "check/check_point.h"

enum { CHUNK = 8 };

typedef struct layer {
  const qb_graph *graph;
  const qb_linear *linear;
  qb_op op;
  const qb_window *window;
  const qb_shape *in, *out;
  int64_t slices, area; /* input channels of a group; positions of the output */
  arb_srcptr x;
  arb_ptr y;
  slong bits;
} layer;

/* Entry k of output channel o's row, in the order (input channel of the group, kernel row, kernel column). */
static int64_t weight_index(const layer *l, int64_t o, int64_t k) {
  int64_t per_group = l->linear->out_channels / l->linear->group, kernel = l->linear->kernel_area;
  if (l->op != QB_OP_CONV_TRANSPOSE)
    return o * l->slices * kernel + k;
  int64_t channel = o / per_group * l->slices + k / kernel;
  return (channel * per_group + o % per_group) * kernel + k % kernel;
}

/* The input element that entry k of a row meets at a position, or -1: in the padding, or between strides. */
static int64_t input_index(const layer *l, int64_t group, int64_t position, int64_t k) {
  if (l->window == NULL)
    return position * l->slices + k;
  const qb_window *w = l->window;
  int64_t tap = k % l->linear->kernel_area, at[2], width = l->out->dims[3];
  const int64_t place[2] = {position / width, position % width}, taps[2] = {tap / w->kernel[1], tap % w->kernel[1]};
  for (int a = 0; a < 2; a++) {
    bool transposed = l->op == QB_OP_CONV_TRANSPOSE;
    int64_t jump = transposed ? place[a] + w->pad_begin[a] - taps[a] * w->dilation[a]
                              : place[a] * w->stride[a] + taps[a] * w->dilation[a] - w->pad_begin[a];
    if (jump < 0 || (transposed && jump % w->stride[a] != 0))
      return -1;
    at[a] = transposed ? jump / w->stride[a] : jump;
    if (at[a] >= l->in->dims[2 + a])
      return -1;
  }
  return ((group * l->slices + k / l->linear->kernel_area) * l->in->dims[2] + at[0]) * l->in->dims[3] + at[1];
}

static int64_t output_index(const layer *l, int64_t o, int64_t position) {
  return l->window == NULL ? position * l->linear->out_channels + o : o * l->area + position;
}

/* Output channels [first, last) of one group. row (last - first, length), seen (length): copies that own nothing. */
static void apply_rows(const layer *l, int64_t first, int64_t last, arb_ptr row, arb_ptr seen) {
  static const arb_struct zero;
  const float *bias = qb_graph_constant(l->graph, l->linear->bias);
  const float *weight = qb_graph_constant(l->graph, l->linear->weight);
  int64_t length = l->slices * l->linear->kernel_area, group = first / (l->linear->out_channels / l->linear->group);
  for (int64_t i = 0; i < (last - first) * length; i++)
    arb_set_d(row + i, (double)weight[weight_index(l, first + i / length, i % length)]);
  arb_t b;
  arb_init(b);
  for (int64_t position = 0; position < l->area; position++) {
    for (int64_t k = 0; k < length; k++) {
      int64_t from = input_index(l, group, position, k);
      seen[k] = from < 0 ? zero : l->x[from];
    }
    for (int64_t o = first; o < last; o++) {
      arb_set_d(b, bias == NULL ? 0 : (double)bias[o]);
      arb_dot(l->y + output_index(l, o, position), b, 0, row + (o - first) * length, 1, seen, 1, length, l->bits);
    }
  }
  arb_clear(b);
}

static bool apply_chunk(const layer *l, int64_t group, int64_t chunk) {
  int64_t per_group = l->linear->out_channels / l->linear->group, length = l->slices * l->linear->kernel_area;
  int64_t first = group * per_group + chunk * CHUNK, end = (group + 1) * per_group;
  int64_t last = first + CHUNK < end ? first + CHUNK : end;
  arb_ptr row = qb_alloc((size_t)((last - first) * length), sizeof *row);
  arb_ptr seen = qb_alloc((size_t)length, sizeof *seen);
  bool enough = row != NULL && seen != NULL;
  if (enough)
    apply_rows(l, first, last, row, seen);
  qb_free(row); /* float32 numbers need no memory of their own */
  qb_free(seen);
  return enough;
}

qb_status point_linear(const qb_graph *graph, const qb_linear *linear, arb_srcptr x, slong bits, arb_ptr y,
                       qb_error *error) {
  const qb_node *node = &graph->nodes[linear->node];
  bool is_conv = node->op == QB_OP_CONV || node->op == QB_OP_CONV_TRANSPOSE;
  layer l = {.graph = graph,
             .linear = linear,
             .op = node->op,
             .window = is_conv ? &node->attributes.conv.window : NULL,
             .in = &graph->values[node->inputs[0]].shape,
             .out = &graph->values[node->output].shape,
             .slices = linear->in_channels / linear->group,
             .x = x,
             .y = y,
             .bits = bits};
  l.area = (int64_t)qb_shape_elements(l.out) / linear->out_channels;
  int64_t chunks = (linear->out_channels / linear->group + CHUNK - 1) / CHUNK;
  bool enough = true;
#pragma omp parallel for schedule(dynamic) reduction(&& : enough) if (!omp_in_parallel())
  for (int64_t t = 0; t < linear->group * chunks; t++)
    enough = apply_chunk(&l, t / chunks, t % chunks) && enough;
  return enough ? QB_OK : qb_fail_memory(error, node->name, (size_t)linear->row_length * CHUNK * sizeof *y);
}
