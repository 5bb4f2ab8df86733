/* Random networks and their plain evaluation; see sketch.h. */
#include "support/sketch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"

/* --------------------------------------------------------------------------------------------------- building */

static void check(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

sketch_graph sketch_start(uint64_t seed) {
  sketch_graph made = {.names = 0};
  qb_error error;
  check(qb_graph_init(&made.graph, "sketch", &error), &error);
  qb_rng_seed(&made.rng, seed, 0);
  return made;
}

static const char *next_name(sketch_graph *sketch, const char *what, char text[64]) {
  snprintf(text, 64, "%s%d", what, sketch->names++);
  return text;
}

qb_value_id sketch_input(sketch_graph *sketch, qb_shape shape) {
  qb_error error;
  char name[64];
  qb_value_id id;
  check(qb_graph_add_input(&sketch->graph, next_name(sketch, "input", name), &shape, &id, &error), &error);
  return id;
}

void sketch_finish(sketch_graph *sketch, qb_value_id output) {
  qb_error error;
  check(qb_graph_add_output(&sketch->graph, output, &error), &error);
  check(qb_graph_validate(&sketch->graph, &error), &error);
}

static float *new_constant(sketch_graph *sketch, qb_shape shape, qb_value_id *id) {
  qb_error error;
  char name[64];
  float *data;
  check(qb_graph_new_constant(&sketch->graph, next_name(sketch, "c", name), &shape, id, &data, &error), &error);
  return data;
}

qb_value_id sketch_random(sketch_graph *sketch, qb_shape shape, double lo, double hi) {
  qb_value_id id;
  float *data = new_constant(sketch, shape, &id);
  for (size_t i = 0; i < qb_shape_elements(&shape); i++)
    data[i] = (float)qb_rng_range(&sketch->rng, lo, hi);
  return id;
}

qb_value_id sketch_constant(sketch_graph *sketch, qb_shape shape, const float *data) {
  qb_value_id id;
  memcpy(new_constant(sketch, shape, &id), data, qb_shape_elements(&shape) * sizeof *data);
  return id;
}

qb_value_id sketch_node(sketch_graph *sketch, qb_op op, const qb_value_id *inputs, int32_t count,
                        const qb_attributes *attributes, const qb_shape *shape) {
  qb_attributes none;
  memset(&none, 0, sizeof none);
  qb_error error;
  qb_node_id id;
  char name[64], output[80];
  next_name(sketch, qb_op_name(op), name);
  snprintf(output, sizeof output, "%s_out", name);
  check(qb_graph_add_node(&sketch->graph, op, name, inputs, count, attributes == NULL ? &none : attributes, output,
                          shape, &id, &error),
        &error);
  return sketch->graph.nodes[id].output;
}

qb_value_id sketch_unary(sketch_graph *sketch, qb_op op, qb_value_id x) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  if (op == QB_OP_LEAKY_RELU)
    attributes.linear.alpha = 0.1f;
  return sketch_node(sketch, op, &x, 1, &attributes, NULL);
}

qb_value_id sketch_binary(sketch_graph *sketch, qb_op op, qb_value_id a, qb_value_id b) {
  return sketch_node(sketch, op, (qb_value_id[]){a, b}, 2, NULL, NULL);
}

qb_value_id sketch_clip(sketch_graph *sketch, qb_value_id x, float lo, float hi) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.clip = (qb_clip_attributes){.lo = lo, .hi = hi};
  return sketch_node(sketch, QB_OP_CLIP, &x, 1, &attributes, NULL);
}

static qb_attributes window_attributes(const qb_shape *weight, int32_t stride, int32_t pad, int32_t group) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.conv = (qb_conv_attributes){.window = {.kernel = {(int32_t)weight->dims[2], (int32_t)weight->dims[3]},
                                                    .stride = {stride, stride},
                                                    .dilation = {1, 1},
                                                    .pad_begin = {pad, pad},
                                                    .pad_end = {pad, pad}},
                                         .group = group};
  return attributes;
}

qb_value_id sketch_conv_with(sketch_graph *sketch, qb_value_id x, qb_value_id weight, qb_value_id bias, int32_t stride,
                             int32_t pad, int32_t group) {
  qb_attributes attributes = window_attributes(&sketch->graph.values[weight].shape, stride, pad, group);
  return sketch_node(sketch, QB_OP_CONV, (qb_value_id[]){x, weight, bias}, 3, &attributes, NULL);
}

qb_value_id sketch_conv(sketch_graph *sketch, qb_value_id x, int64_t channels, int32_t kernel, int32_t stride,
                        int32_t pad, int32_t group) {
  int64_t inputs = sketch->graph.values[x].shape.dims[1];
  qb_value_id weight = sketch_random(sketch, QB_SHAPE(channels, inputs / group, kernel, kernel), -1, 1);
  qb_value_id bias = sketch_random(sketch, QB_SHAPE(channels), -1, 1);
  return sketch_conv_with(sketch, x, weight, bias, stride, pad, group);
}

qb_value_id sketch_conv_transpose(sketch_graph *sketch, qb_value_id x, int64_t channels, int32_t kernel, int32_t stride,
                                  int32_t group) {
  int64_t inputs = sketch->graph.values[x].shape.dims[1];
  qb_value_id weight = sketch_random(sketch, QB_SHAPE(inputs, channels / group, kernel, kernel), -1, 1);
  qb_value_id bias = sketch_random(sketch, QB_SHAPE(channels), -1, 1);
  qb_attributes attributes = window_attributes(&sketch->graph.values[weight].shape, stride, 0, group);
  return sketch_node(sketch, QB_OP_CONV_TRANSPOSE, (qb_value_id[]){x, weight, bias}, 3, &attributes, NULL);
}

qb_value_id sketch_gemm(sketch_graph *sketch, qb_value_id x, int64_t outputs, bool bias) {
  const qb_shape *shape = &sketch->graph.values[x].shape;
  qb_value_id inputs[3] = {x, sketch_random(sketch, QB_SHAPE(outputs, shape->dims[shape->rank - 1]), -1, 1), QB_NONE};
  if (bias)
    inputs[2] = sketch_random(sketch, QB_SHAPE(outputs), -1, 1);
  return sketch_node(sketch, QB_OP_GEMM, inputs, 3, NULL, NULL);
}

qb_value_id sketch_matmul(sketch_graph *sketch, qb_value_id x, int64_t outputs) {
  const qb_shape *shape = &sketch->graph.values[x].shape;
  qb_value_id weight = sketch_random(sketch, QB_SHAPE(outputs, shape->dims[shape->rank - 1]), -1, 1);
  return sketch_node(sketch, QB_OP_MATMUL, (qb_value_id[]){x, weight}, 2, NULL, NULL);
}

qb_value_id sketch_batch_norm(sketch_graph *sketch, qb_value_id x, bool shift) {
  qb_shape shape = QB_SHAPE(sketch->graph.values[x].shape.dims[1]);
  qb_value_id gamma = sketch_random(sketch, shape, -2, 2);
  qb_value_id beta = sketch_random(sketch, shape, shift ? -1 : 0, shift ? 1 : 0);
  qb_value_id mean = sketch_random(sketch, shape, shift ? -1 : 0, shift ? 1 : 0);
  qb_value_id variance = sketch_random(sketch, shape, 0.1, 3);
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.batch_norm.epsilon = 1e-5f;
  return sketch_node(sketch, QB_OP_BATCH_NORM, (qb_value_id[]){x, gamma, beta, mean, variance}, 5, &attributes, NULL);
}

qb_value_id sketch_flatten(sketch_graph *sketch, qb_value_id x) {
  qb_shape shape = QB_SHAPE(1, (int64_t)qb_shape_elements(&sketch->graph.values[x].shape));
  return sketch_node(sketch, QB_OP_FLATTEN, &x, 1, NULL, &shape);
}

qb_node *sketch_producer(qb_graph *graph, qb_value_id value) { return &graph->nodes[graph->values[value].producer]; }

/* -------------------------------------------------------------------------------------------------- evaluating */

static const float *data_of(const qb_graph *graph, const qb_node *node, int slot) {
  return slot < node->input_count && node->inputs[slot] != QB_NONE
             ? qb_view_f32(&graph->values[node->inputs[slot]].constant)
             : NULL;
}

static void evaluate_conv(const qb_graph *graph, const qb_node *node, const double *x, double *y) {
  const qb_shape *in = &graph->values[node->inputs[0]].shape, *w = &graph->values[node->inputs[1]].shape;
  const qb_shape *out = &graph->values[node->output].shape;
  const float *weight = data_of(graph, node, 1), *bias = data_of(graph, node, 2);
  const qb_window *window = &node->attributes.conv.window;
  int64_t per_group = w->dims[0] / node->attributes.conv.group, i = 0;
  for (int64_t o = 0; o < out->dims[1]; o++)
    for (int64_t r = 0; r < out->dims[2]; r++)
      for (int64_t s = 0; s < out->dims[3]; s++, i++) {
        y[i] = bias == NULL ? 0 : (double)bias[o];
        for (int64_t c = 0; c < w->dims[1]; c++)
          for (int64_t u = 0; u < w->dims[2]; u++)
            for (int64_t v = 0; v < w->dims[3]; v++) {
              int64_t row = r * window->stride[0] + u - window->pad_begin[0];
              int64_t column = s * window->stride[1] + v - window->pad_begin[1];
              if (row < 0 || row >= in->dims[2] || column < 0 || column >= in->dims[3])
                continue;
              int64_t channel = o / per_group * w->dims[1] + c;
              y[i] += (double)weight[((o * w->dims[1] + c) * w->dims[2] + u) * w->dims[3] + v] *
                      x[(channel * in->dims[2] + row) * in->dims[3] + column];
            }
      }
}

static void evaluate_conv_transpose(const qb_graph *graph, const qb_node *node, const double *x, double *y) {
  const qb_shape *in = &graph->values[node->inputs[0]].shape, *w = &graph->values[node->inputs[1]].shape;
  const qb_shape *out = &graph->values[node->output].shape;
  const float *weight = data_of(graph, node, 1), *bias = data_of(graph, node, 2);
  int64_t group = node->attributes.conv.group, area = out->dims[2] * out->dims[3];
  int32_t stride = node->attributes.conv.window.stride[0];
  for (int64_t i = 0; i < out->dims[1] * area; i++)
    y[i] = bias == NULL ? 0 : (double)bias[i / area];
  for (int64_t c = 0; c < in->dims[1]; c++)
    for (int64_t j = 0; j < w->dims[1]; j++)
      for (int64_t p = 0; p < in->dims[2] * in->dims[3]; p++)
        for (int64_t k = 0; k < w->dims[2] * w->dims[3]; k++) {
          int64_t o = c / (in->dims[1] / group) * w->dims[1] + j;
          int64_t row = p / in->dims[3] * stride + k / w->dims[3], column = p % in->dims[3] * stride + k % w->dims[3];
          y[o * area + row * out->dims[3] + column] +=
              (double)weight[(c * w->dims[1] + j) * w->dims[2] * w->dims[3] + k] * x[c * in->dims[2] * in->dims[3] + p];
        }
}

static void evaluate_gemm(const qb_graph *graph, const qb_node *node, const double *x, double *y) {
  const qb_shape *w = &graph->values[node->inputs[1]].shape;
  const float *weight = data_of(graph, node, 1), *bias = data_of(graph, node, 2);
  int64_t rows = (int64_t)qb_shape_elements(&graph->values[node->output].shape) / w->dims[0];
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < w->dims[0]; o++) {
      double sum = bias == NULL ? 0 : (double)bias[o];
      for (int64_t i = 0; i < w->dims[1]; i++)
        sum += (double)weight[o * w->dims[1] + i] * x[r * w->dims[1] + i];
      y[r * w->dims[0] + o] = sum;
    }
}

static double batch_norm(const qb_graph *graph, const qb_node *node, double x, size_t c) {
  double scale = (double)data_of(graph, node, 1)[c] /
                 sqrt((double)data_of(graph, node, 4)[c] + (double)node->attributes.batch_norm.epsilon);
  return (x - (double)data_of(graph, node, 3)[c]) * scale + (double)data_of(graph, node, 2)[c];
}

static double clip(const qb_clip_attributes *clip, double x, size_t c) {
  double hi = (double)(clip->hi_channels != NULL ? clip->hi_channels[c] : clip->hi);
  return fmin(fmax(x, (double)clip->lo), hi);
}

static void evaluate_elementwise(const qb_graph *graph, const qb_node *node, const double *x, double *y) {
  const qb_shape *shape = &graph->values[node->output].shape;
  size_t count = qb_shape_elements(shape), channels = shape->rank > 1 ? (size_t)shape->dims[1] : 1;
  for (size_t i = 0; i < count; i++) {
    size_t c = i / (count / channels);
    switch (node->op) {
    case QB_OP_BATCH_NORM: y[i] = batch_norm(graph, node, x[i], c); break;
    case QB_OP_RELU: y[i] = fmax(x[i], 0); break;
    case QB_OP_LEAKY_RELU: y[i] = x[i] >= 0 ? x[i] : (double)node->attributes.linear.alpha * x[i]; break;
    case QB_OP_CLIP: y[i] = clip(&node->attributes.clip, x[i], c); break;
    case QB_OP_IDENTITY:
    case QB_OP_DROPOUT:
    case QB_OP_FLATTEN:
    case QB_OP_RESHAPE: y[i] = x[i]; break;
    default: fail_msg("no rule for %s", qb_op_name(node->op));
    }
  }
}

static void evaluate_add(const double *a, const double *b, size_t count, double *y) {
  for (size_t i = 0; i < count; i++)
    y[i] = a[i] + b[i];
}

double *sketch_evaluate(const qb_graph *graph, const double *input, qb_value_id output) {
  double **values = qb_alloc((size_t)graph->value_count, sizeof *values);
  size_t size = qb_shape_elements(&graph->values[graph->inputs[0]].shape) * sizeof(double);
  values[graph->inputs[0]] = qb_alloc(size, 1);
  memcpy(values[graph->inputs[0]], input, size);
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    size_t count = qb_shape_elements(&graph->values[node->output].shape);
    double *y = qb_alloc(count, sizeof *y), *x = values[node->inputs[0]];
    values[node->output] = y;
    switch (node->op) {
    case QB_OP_CONV: evaluate_conv(graph, node, x, y); break;
    case QB_OP_CONV_TRANSPOSE: evaluate_conv_transpose(graph, node, x, y); break;
    case QB_OP_GEMM:
    case QB_OP_MATMUL: evaluate_gemm(graph, node, x, y); break;
    case QB_OP_ADD: evaluate_add(x, values[node->inputs[1]], count, y); break;
    default: evaluate_elementwise(graph, node, x, y);
    }
  }
  double *result = values[output];
  values[output] = NULL;
  for (qb_value_id v = 0; v < graph->value_count; v++)
    qb_free(values[v]);
  qb_free(values);
  return result;
}

double sketch_relative_difference(const qb_graph *a, const qb_graph *b, int samples, double range, uint64_t seed) {
  size_t inputs = qb_shape_elements(&a->values[a->inputs[0]].shape);
  size_t outputs = qb_shape_elements(&a->values[a->outputs[0]].shape);
  double *x = qb_alloc(inputs, sizeof *x), difference = 0, largest = 0;
  qb_rng rng;
  qb_rng_seed(&rng, seed, 1);
  for (int s = 0; s < samples; s++) {
    for (size_t i = 0; i < inputs; i++)
      x[i] = qb_rng_range(&rng, -range, range);
    double *y = sketch_evaluate(a, x, a->outputs[0]), *z = sketch_evaluate(b, x, b->outputs[0]);
    for (size_t i = 0; i < outputs; i++) {
      difference = fmax(difference, fabs(y[i] - z[i]));
      largest = fmax(largest, fabs(y[i]));
    }
    qb_free(y);
    qb_free(z);
  }
  qb_free(x);
  return largest > 0 ? difference / largest : difference;
}
