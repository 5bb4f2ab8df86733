/* Linear forms through convolutions and matrix layers: coefficients times the transposed layer. */
#include <cblas.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/affine.h"
#include "bound/backward_internal.h"

typedef struct layer_shape {
  bool is_conv, is_transposed;
  qb_window window;
  int64_t channels[2], height[2], width[2]; /* of input (0) and output (1) */
  int64_t positions;                        /* rows that a matrix layer is applied to */
  int64_t group, inputs, outputs;           /* outputs, inputs: elements of a sample */
  int64_t terms;                            /* most output elements that one input element reaches */
} layer_shape;

static layer_shape shape_of(const qb_graph *graph, const qb_linear *linear) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_shape *shapes[2] = {&graph->values[node->inputs[0]].shape, &graph->values[node->output].shape};
  layer_shape s = {.positions = 1, .group = linear->group};
  s.is_transposed = node->op == QB_OP_CONV_TRANSPOSE;
  s.is_conv = node->op == QB_OP_CONV || s.is_transposed;
  s.inputs = (int64_t)qb_shape_elements(shapes[0]);
  s.outputs = (int64_t)qb_shape_elements(shapes[1]);
  if (s.is_conv)
    s.window = node->attributes.conv.window;
  for (int side = 0; side < 2; side++) {
    const qb_shape *x = shapes[side];
    s.channels[side] = s.is_conv ? x->dims[1] : x->dims[x->rank - 1];
    s.height[side] = s.is_conv ? x->dims[2] : 1;
    s.width[side] = s.is_conv ? x->dims[3] : 1;
  }
  if (!s.is_conv)
    s.positions = s.inputs / s.channels[0];
  s.terms = s.channels[1] / s.group * linear->kernel_area;
  return s;
}

/* ---------------------------------------------------------------------------------------------------- preparation */

static int64_t weight_count(const qb_graph *graph, const qb_linear *linear) {
  return (int64_t)qb_shape_elements(&graph->values[linear->weight].shape);
}

/* Differences are rounded: relative to themselves, which gamma counts. */
static void fill_changes(qb_backward_node *data, int64_t weights, int64_t biases) {
  for (int64_t i = 0; i < weights; i++) {
    data->weight[QB_WEIGHT_ORIGINAL][i] = (double)data->plain[0][i];
    data->weight[QB_WEIGHT_QUANTIZED][i] = (double)data->plain[1][i];
    data->weight[QB_WEIGHT_CHANGE][i] = (double)data->plain[1][i] - (double)data->plain[0][i];
  }
  for (int64_t i = 0; i < biases; i++) {
    double b = data->plain_bias[0] == NULL ? 0 : (double)data->plain_bias[0][i];
    double b2 = data->plain_bias[1] == NULL ? 0 : (double)data->plain_bias[1][i];
    data->bias[QB_WEIGHT_ORIGINAL][i] = b;
    data->bias[QB_WEIGHT_QUANTIZED][i] = b2;
    data->bias[QB_WEIGHT_CHANGE][i] = qb_backward_fault_planted == QB_BACKWARD_FAULT_NO_BIAS ? 0 : b2 - b;
  }
}

qb_status qb_backward_load_linear(qb_backward *backward, qb_node_id id, qb_error *error) {
  const qb_graph *graphs[2] = {backward->pair->original, backward->pair->quantized};
  qb_node_id ids[2] = {backward->pair->partner[id], id};
  qb_backward_node *data = &backward->nodes[id];
  for (int side = 0; side < 2; side++) {
    if (ids[side] == QB_NONE || !qb_graph_linear(graphs[side], ids[side], &data->linear))
      return QB_OK;
    data->plain[side] = qb_view_f32(&graphs[side]->values[data->linear.weight].constant);
    qb_value_id bias = data->linear.bias;
    data->plain_bias[side] = bias == QB_NONE ? NULL : qb_view_f32(&graphs[side]->values[bias].constant);
  }
  int64_t weights = weight_count(graphs[1], &data->linear), biases = data->linear.out_channels;
  for (int k = 0; k < QB_WEIGHT_COUNT; k++) {
    data->weight[k] = qb_arena_alloc(&backward->arena, (size_t)weights, sizeof(double));
    data->bias[k] = qb_arena_alloc(&backward->arena, (size_t)biases, sizeof(double));
    if (data->weight[k] == NULL || data->bias[k] == NULL)
      return qb_fail_memory(error, graphs[1]->nodes[id].name, (size_t)weights * sizeof(double));
  }
  fill_changes(data, weights, biases);
  data->is_linear = true;
  return QB_OK;
}

static double *reach_of_input(qb_backward *backward, qb_value_id value, int track) {
  int64_t n = backward->box->states[value].count;
  double *x = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof *x);
  for (int64_t i = 0; x != NULL && i < n; i++)
    x[i] = qb_walk_reach(backward, value, track, i);
  return x;
}

/* sum over the layer of |W| max|x| + |b| for both networks, and |W' - W| max|x| + |W'| max|d| + |b' - b|. */
qb_status qb_backward_prepare_linear(qb_backward *backward, qb_node_id id, qb_error *error) {
  const qb_graph *graph = backward->pair->quantized;
  qb_backward_node *data = &backward->nodes[id];
  qb_value_id x = graph->nodes[id].inputs[0];
  int64_t n = backward->box->states[graph->nodes[id].output].count;
  double *in[QB_TRACK_COUNT], *moved = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof *moved);
  for (int track = 0; track < QB_TRACK_COUNT; track++) {
    in[track] = reach_of_input(backward, x, track);
    data->reach[track] = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof(double));
    if (in[track] == NULL || data->reach[track] == NULL || moved == NULL)
      return qb_fail_memory(error, graph->nodes[id].name, (size_t)n * sizeof(double));
  }
  const float *const *w = data->plain, *const *b = data->plain_bias;
  for (int track = 0; track < 2; track++)
    QB_TRY(qb_affine_apply_absolute(graph, &data->linear, w[track], NULL, b[track], NULL, in[track], data->reach[track],
                                    &backward->box_arena, error));
  QB_TRY(qb_affine_apply_absolute(graph, &data->linear, w[1], NULL, NULL, NULL, in[QB_TRACK_DIFFERENCE],
                                  data->reach[QB_TRACK_DIFFERENCE], &backward->box_arena, error));
  QB_TRY(qb_affine_apply_absolute(graph, &data->linear, w[1], w[0], b[1], b[0], in[QB_TRACK_ORIGINAL], moved,
                                  &backward->box_arena, error));
  for (int64_t i = 0; i < n; i++)
    data->reach[QB_TRACK_DIFFERENCE][i] += moved[i];
  data->is_still = qb_dense_is_zero(backward->box->states[x].count, in[QB_TRACK_DIFFERENCE]);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ one layer */

/* c (rows, inputs) += y (rows * positions, out) W. */
static void matrix_back(const layer_shape *s, int64_t rows, const double *y, const double *w, double *c) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)(rows * s->positions), (int)s->channels[0],
              (int)s->channels[1], 1, y, (int)s->channels[1], w, (int)s->channels[0], 1, c, (int)s->channels[0]);
}

/* Adds columns (channels * taps, output positions) of one group to the image x. */
static void fold(const layer_shape *s, int64_t channels, const double *columns, double *x) {
  const qb_window *win = &s->window;
  int64_t area = s->height[1] * s->width[1];
  for (int64_t c = 0; c < channels; c++)
    for (int64_t a = 0; a < win->kernel[0]; a++)
      for (int64_t b = 0; b < win->kernel[1]; b++) {
        const double *row = columns + ((c * win->kernel[0] + a) * win->kernel[1] + b) * area;
        for (int64_t y = 0; y < s->height[1]; y++) {
          int64_t iy = y * win->stride[0] + a * win->dilation[0] - win->pad_begin[0];
          if (iy < 0 || iy >= s->height[0])
            continue;
          double *line = x + (c * s->height[0] + iy) * s->width[0];
          for (int64_t z = 0; z < s->width[1]; z++) {
            int64_t iz = z * win->stride[1] + b * win->dilation[1] - win->pad_begin[1];
            if (iz >= 0 && iz < s->width[0])
              line[iz] += row[y * s->width[1] + z];
          }
        }
      }
}

typedef struct product {
  const double *rows, *weight; /* NULL rows: absent */
} product;

/* c += sum of up to two products, row by row through columns. */
static void conv_back(const layer_shape *s, int64_t rows, const product parts[2], double *columns, double *c) {
  int64_t area = s->height[1] * s->width[1], outs = s->channels[1] / s->group, ins = s->channels[0] / s->group;
  int64_t taps = ins * s->window.kernel[0] * s->window.kernel[1], input_area = s->height[0] * s->width[0];
  for (int64_t r = 0; r < rows; r++)
    for (int64_t g = 0; g < s->group; g++) {
      bool first = true;
      for (int k = 0; k < 2; k++) {
        if (parts[k].rows == NULL)
          continue;
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)taps, (int)area, (int)outs, 1,
                    parts[k].weight + g * outs * taps, (int)taps, parts[k].rows + r * s->outputs + g * outs * area,
                    (int)area, first ? 0 : 1, columns, (int)area);
        first = false;
      }
      fold(s, ins, columns, c + r * s->inputs + g * ins * input_area);
    }
}

/* One row through a transposed convolution, weight (IC, OC/G, KH, KW): a plain convolution of the coefficients. */
static void transpose_back_row(const layer_shape *s, const double *y, const double *w, double *c) {
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

static qb_status layer_back(qb_walk *walk, const layer_shape *s, const product parts[2], double *c) {
  if (!s->is_conv || s->is_transposed) {
    for (int k = 0; k < 2; k++)
      for (int64_t r = 0; parts[k].rows != NULL && r < (s->is_transposed ? walk->rows : 1); r++) {
        if (s->is_transposed)
          transpose_back_row(s, parts[k].rows + r * s->outputs, parts[k].weight, c + r * s->inputs);
        else
          matrix_back(s, walk->rows, parts[k].rows, parts[k].weight, c);
      }
    return QB_OK;
  }
  size_t size =
      (size_t)(s->channels[0] / s->group * s->window.kernel[0] * s->window.kernel[1] * s->height[1] * s->width[1]);
  double *columns = qb_alloc(size, sizeof *columns);
  if (columns == NULL)
    return qb_fail_memory(walk->error, "columns of a convolution", size * sizeof *columns);
  conv_back(s, walk->rows, parts, columns, c);
  qb_free(columns);
  return QB_OK;
}

/* k += rows . bias, and what this layer loses to rounding. */
static void account(qb_walk *walk, const layer_shape *s, const double *rows, const double *bias, const double *reach,
                    double gamma) {
  int64_t area = s->is_conv ? s->height[1] * s->width[1] : 1, channels = s->channels[1];
  for (int64_t r = 0; r < walk->rows; r++) {
    const double *c = rows + r * s->outputs;
    double shift = 0, lost = 0;
    for (int64_t p = 0; !s->is_conv && p < s->positions; p++)
      qb_dense_account(channels, c + p * channels, bias, reach + p * channels, &shift, &lost);
    for (int64_t o = 0; s->is_conv && o < channels; o++) {
      double sum = 0;
      qb_dense_total(area, c + o * area, reach + o * area, &sum, &lost);
      shift += sum * bias[o];
    }
    walk->lost[r] += gamma * lost + DBL_MIN;
    qb_walk_add_constant(walk, r, shift);
  }
}

/* Coefficients with a precision of float32, unaccounted for: a planted mistake. */
static void round_to_float(double *c, int64_t count) {
  for (int64_t i = 0; qb_backward_fault_planted == QB_BACKWARD_FAULT_FLOAT && i < count; i++)
    c[i] = (double)(float)(c[i] * 0.99999);
}

qb_status qb_walk_linear(qb_walk *walk, qb_node_id id) {
  const qb_graph *graph = walk->backward->pair->quantized;
  const qb_backward_node *data = &walk->backward->nodes[id];
  layer_shape s = shape_of(graph, &data->linear);
  qb_value_id x = graph->nodes[id].inputs[0], y = graph->nodes[id].output;
  const double *a = walk->coefficient[0][y], *d = walk->coefficient[1][y];
  int base = walk->track == QB_TRACK_QUANTIZED ? QB_WEIGHT_QUANTIZED : QB_WEIGHT_ORIGINAL;
  qb_backward_fault fault = qb_backward_fault_planted;
  int64_t terms = 2 * s.terms + s.outputs + 16;
  double gamma = qb_gamma(terms) * 1.01; /* the reaches are rounded, too */
  double *c = qb_walk_target(walk, x, 0, terms);
  if (c == NULL)
    return qb_fail_memory(walk->error, graph->nodes[id].name, (size_t)(walk->rows * s.inputs) * sizeof *c);
  const product parts[2] = {{a, data->weight[base]},
                            {fault == QB_BACKWARD_FAULT_NO_CHANGE ? NULL : d, data->weight[QB_WEIGHT_CHANGE]}};
  QB_TRY(layer_back(walk, &s, parts, c));
  round_to_float(c, walk->rows * s.inputs);
  if (a != NULL)
    account(walk, &s, a, data->bias[base], data->reach[base], gamma);
  if (d == NULL)
    return QB_OK;
  account(walk, &s, d, data->bias[QB_WEIGHT_CHANGE], data->reach[QB_TRACK_DIFFERENCE], gamma);
  if (data->is_still)
    return QB_OK;
  double *carried = qb_walk_target(walk, x, 1, terms);
  if (carried == NULL)
    return qb_fail_memory(walk->error, graph->nodes[id].name, (size_t)(walk->rows * s.inputs) * sizeof *c);
  int carrier = fault == QB_BACKWARD_FAULT_OLD_WEIGHTS ? QB_WEIGHT_ORIGINAL : QB_WEIGHT_QUANTIZED;
  const product moved[2] = {{d, data->weight[carrier]}, {NULL, NULL}};
  return layer_back(walk, &s, moved, carried);
}
