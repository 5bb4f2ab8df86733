/* Growing random networks: the original first, then a changed copy with its pair. */
#include "support/random_network.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "support/network_builder.h"

enum { MOST_ELEMENTS = 256, MOST_WEIGHTS = 4096 };

typedef struct grower {
  qb_rng *rng;
  const random_style *style;
  network_builder net;
} grower;

static int32_t pick(qb_rng *rng, int32_t lo, int32_t hi) {
  return lo + (int32_t)qb_rng_below(rng, (uint64_t)(hi - lo + 1));
}

static bool chance(qb_rng *rng, double p) { return qb_rng_double(rng) < p; }

static const qb_shape *shape_of(const grower *g, qb_value_id x) { return &g->net.graph.values[x].shape; }

/* ------------------------------------------------------------------------------------------------------- numbers */

/* Edge-biased: zeros, equal entries, powers of two, tiny and normal numbers. */
static float random_number(grower *g, double scale) {
  double x = qb_rng_normal(g->rng) * scale;
  int kind = pick(g->rng, 0, 15);
  if (kind == 0)
    x = 0;
  else if (kind == 1)
    x = copysign(scale, x);
  else if (kind == 2)
    x = copysign(ldexp(1, pick(g->rng, -6, 1)) * scale, x);
  else if (kind == 3)
    x = copysign(1e-30, x);
  return (float)(g->style->nonnegative ? fabs(x) : x);
}

static void random_numbers(grower *g, double scale, size_t count, float *data) {
  for (size_t i = 0; i < count; i++)
    data[i] = random_number(g, scale);
}

/* Weights (rows, length) of a typical row norm, some rows zero. */
static void random_weights(grower *g, int64_t rows, int64_t length, float *data) {
  for (int64_t o = 0; o < rows; o++) {
    bool zero = chance(g->rng, 0.05);
    for (int64_t i = 0; i < length; i++)
      data[o * length + i] = zero ? 0 : random_number(g, g->style->norm / (double)length);
  }
}

/* --------------------------------------------------------------------------------------------------------- layers */

static const float *random_bias(grower *g, int64_t count, float *data) {
  if (!g->style->biases || chance(g->rng, 0.3))
    return NULL;
  random_numbers(g, 0.5, (size_t)count, data);
  return data;
}

static qb_window random_window(grower *g, qb_value_id x, bool pool) {
  const qb_shape *shape = shape_of(g, x);
  qb_window w;
  for (int axis = 0; axis < 2; axis++) {
    int32_t length = (int32_t)shape->dims[2 + axis];
    do {
      w.kernel[axis] = pick(g->rng, 1, 3);
      w.stride[axis] = pick(g->rng, 1, 3);
      w.dilation[axis] = pick(g->rng, 1, 2);
      w.pad_begin[axis] = chance(g->rng, 0.5) ? 0 : pick(g->rng, 0, 2);
      w.pad_end[axis] = chance(g->rng, 0.5) ? w.pad_begin[axis] : pick(g->rng, 0, 2);
      int32_t extent = w.dilation[axis] * (w.kernel[axis] - 1) + 1;
      bool fits = extent <= length + w.pad_begin[axis] + w.pad_end[axis];
      /* a pooling window must see a pixel: pads shorter than the kernel, dilation 1 where there are pads */
      bool sees = !pool || ((w.pad_begin[axis] < w.kernel[axis] && w.pad_end[axis] < w.kernel[axis]) &&
                            (w.dilation[axis] == 1 || w.pad_begin[axis] + w.pad_end[axis] == 0));
      if (fits && sees)
        break;
    } while (true);
  }
  return w;
}

static qb_value_id grow_conv(grower *g, qb_value_id x) {
  float w[MOST_WEIGHTS], b[64];
  int32_t channels = (int32_t)shape_of(g, x)->dims[1], group = 1;
  if (chance(g->rng, 0.3))
    group = chance(g->rng, 0.5) ? channels : (channels % 2 == 0 ? 2 : 1);
  int32_t outputs = group * pick(g->rng, 1, group > 2 ? 1 : 3);
  qb_window window = random_window(g, x, false);
  random_weights(g, outputs, (int64_t)(channels / group) * window.kernel[0] * window.kernel[1], w);
  return network_conv(&g->net, x, outputs, window, group, w, random_bias(g, outputs, b));
}

static qb_value_id grow_conv_transpose(grower *g, qb_value_id x) {
  float w[MOST_WEIGHTS], b[64];
  int32_t channels = (int32_t)shape_of(g, x)->dims[1], group = channels % 2 == 0 && chance(g->rng, 0.3) ? 2 : 1;
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.conv.group = group;
  qb_window *window = &attributes.conv.window;
  for (int axis = 0; axis < 2; axis++) {
    window->kernel[axis] = pick(g->rng, 1, 3);
    window->stride[axis] = pick(g->rng, 1, 2);
    window->dilation[axis] = pick(g->rng, 1, 2);
    int32_t full = ((int32_t)shape_of(g, x)->dims[2 + axis] - 1) * window->stride[axis] +
                   window->dilation[axis] * (window->kernel[axis] - 1) + 1;
    window->pad_begin[axis] = full > 2 ? pick(g->rng, 0, 1) : 0;
    window->pad_end[axis] = full > 3 ? pick(g->rng, 0, 1) : 0;
  }
  int32_t per_group = pick(g->rng, 1, 2), outputs = per_group * group;
  qb_shape shape = QB_SHAPE(channels, per_group, window->kernel[0], window->kernel[1]);
  random_weights(g, channels, (int64_t)per_group * window->kernel[0] * window->kernel[1], w);
  const float *bias = random_bias(g, outputs, b);
  qb_value_id ids[3] = {x, network_constant(&g->net, shape, w),
                        bias == NULL ? QB_NONE : network_constant(&g->net, QB_SHAPE(outputs), bias)};
  return network_node(&g->net, QB_OP_CONV_TRANSPOSE, ids, 3, &attributes, NULL);
}

/* A layer without a bias may be a MatMul as well. */
static qb_value_id multiply(grower *g, qb_value_id x, int64_t outputs, const float *w, const float *bias) {
  const qb_shape *shape = shape_of(g, x);
  bool matmul = (bias == NULL && chance(g->rng, 0.3)) || (g->style->has_focus && g->style->focus == QB_OP_MATMUL);
  if (!matmul)
    return network_gemm(&g->net, x, outputs, w, bias);
  qb_value_id ids[2] = {x, network_constant(&g->net, QB_SHAPE(outputs, shape->dims[shape->rank - 1]), w)};
  return network_node(&g->net, QB_OP_MATMUL, ids, 2, NULL, NULL);
}

static qb_value_id grow_gemm(grower *g, qb_value_id x) {
  float w[MOST_WEIGHTS], b[64];
  const qb_shape *shape = shape_of(g, x);
  int64_t inputs = shape->dims[shape->rank - 1], outputs = pick(g->rng, 1, 6);
  random_weights(g, outputs, inputs, w);
  return multiply(g, x, outputs, w, random_bias(g, outputs, b));
}

static qb_value_id grow_pool(grower *g, qb_value_id x, qb_op op) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.pool.window = random_window(g, x, true);
  attributes.pool.count_include_pad = chance(g->rng, 0.5);
  return network_node(&g->net, op, &x, 1, &attributes, NULL);
}

/* ----------------------------------------------------------------------------------------------------- other nodes */

/* A constant that broadcasts to x: a scalar, one per channel, one per column, or a full tensor; away from 0 on demand.
 */
static qb_value_id random_operand(grower *g, qb_value_id x, bool nonzero) {
  float data[4 * MOST_ELEMENTS];
  const qb_shape *shape = shape_of(g, x);
  qb_shape own = *shape;
  int kind = pick(g->rng, 0, 3);
  for (int32_t i = 0; i < own.rank; i++)
    if ((kind == 0) || (kind == 1 && i != 1) || (kind == 2 && i != own.rank - 1))
      own.dims[i] = 1;
  if (kind == 2) {
    own.dims[0] = own.dims[own.rank - 1];
    own.rank = 1;
  }
  size_t count = qb_shape_elements(&own);
  for (size_t i = 0; i < count; i++) {
    data[i] = random_number(g, 1);
    if (nonzero && fabsf(data[i]) < 0.25f)
      data[i] = data[i] < 0 ? -0.5f : 0.5f;
  }
  return network_constant(&g->net, own, data);
}

static qb_value_id grow_batch_norm(grower *g, qb_value_id x) {
  float data[64];
  int64_t channels = shape_of(g, x)->dims[1];
  qb_value_id ids[5] = {x};
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.batch_norm.epsilon = 1e-5f;
  for (int i = 1; i < 5; i++) {
    for (int64_t c = 0; c < channels; c++)
      data[c] = i == 4 ? (float)(0.1 + qb_rng_double(g->rng)) : random_number(g, 1);
    ids[i] = network_constant(&g->net, QB_SHAPE(channels), data);
  }
  return network_node(&g->net, QB_OP_BATCH_NORM, ids, 5, &attributes, NULL);
}

static qb_value_id grow_clip(grower *g, qb_value_id x) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.clip = (qb_clip_attributes){.lo = 0, .hi = (float)qb_rng_range(g->rng, 0.2, 6)};
  if (chance(g->rng, 0.3)) /* 0 outside or inside */
    attributes.clip.lo = (float)qb_rng_range(g->rng, -1, (double)attributes.clip.hi);
  if (chance(g->rng, 0.3)) {
    int64_t channels = shape_of(g, x)->dims[1];
    float *limits = qb_arena_alloc(&g->net.graph.arena, (size_t)channels, sizeof *limits);
    assert_non_null(limits);
    for (int64_t c = 0; c < channels; c++)
      limits[c] = attributes.clip.lo + (float)qb_rng_range(g->rng, 0, 3);
    attributes.clip.hi_channels = limits;
  }
  return network_node(&g->net, QB_OP_CLIP, &x, 1, &attributes, NULL);
}

static qb_value_id grow_activation(grower *g, qb_value_id x, bool any, qb_op op);

static qb_value_id grow_any_activation(grower *g, qb_value_id x) { return grow_activation(g, x, true, QB_OP_RELU); }

static qb_value_id grow_activation(grower *g, qb_value_id x, bool any, qb_op op) {
  static const qb_op ops[] = {QB_OP_RELU,         QB_OP_RELU,       QB_OP_RELU, QB_OP_LEAKY_RELU, QB_OP_PRELU,
                              QB_OP_CLIP,         QB_OP_CLIP,       QB_OP_CLIP, QB_OP_SIGMOID,    QB_OP_TANH,
                              QB_OP_HARD_SIGMOID, QB_OP_HARD_SWISH, QB_OP_RELU};
  if (any)
    op = ops[pick(g->rng, 0, (int32_t)(sizeof ops / sizeof ops[0]) - 1)];
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  if (op == QB_OP_CLIP)
    return grow_clip(g, x);
  if (op == QB_OP_PRELU)
    return network_binary(&g->net, op, x, random_operand(g, x, false));
  if (op == QB_OP_LEAKY_RELU)
    attributes.linear.alpha = (float)qb_rng_range(g->rng, -0.5, 1.5);
  if (op == QB_OP_HARD_SIGMOID) {
    attributes.linear.alpha = (float)qb_rng_range(g->rng, -0.5, 0.5);
    attributes.linear.beta = 0.5f;
  }
  return network_node(&g->net, op, &x, 1, &attributes, NULL);
}

static qb_value_id grow_pad(grower *g, qb_value_id x) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.pad.value = chance(g->rng, 0.5) ? 0 : (float)qb_rng_range(g->rng, -1, 1);
  for (int32_t i = 1; i < shape_of(g, x)->rank; i++) {
    attributes.pad.begin[i] = i == 1 ? pick(g->rng, 0, 1) : pick(g->rng, shape_of(g, x)->dims[i] > 2 ? -1 : 0, 2);
    attributes.pad.end[i] = pick(g->rng, 0, 1);
  }
  return network_node(&g->net, QB_OP_PAD, &x, 1, &attributes, NULL);
}

static qb_value_id grow_transpose(grower *g, qb_value_id x) {
  static const int32_t permutations[3][4] = {{0, 1, 3, 2}, {0, 2, 3, 1}, {0, 3, 1, 2}};
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  memcpy(attributes.transpose.permutation, permutations[pick(g->rng, 0, 2)], sizeof permutations[0]);
  return network_node(&g->net, QB_OP_TRANSPOSE, &x, 1, &attributes, NULL);
}

static qb_value_id grow_concat(grower *g, qb_value_id x, qb_value_id y) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.axes.axis = pick(g->rng, 1, shape_of(g, x)->rank - 1);
  qb_value_id ids[3] = {x, y, QB_NONE};
  if (chance(g->rng, 0.3)) {
    float data[4 * MOST_ELEMENTS];
    random_numbers(g, 1, qb_shape_elements(shape_of(g, x)), data);
    ids[2] = network_constant(&g->net, *shape_of(g, x), data);
  }
  return network_node(&g->net, QB_OP_CONCAT, ids, 3, &attributes, NULL);
}

/* A branch from x that keeps its shape: a square convolution, or a square matrix, or an activation. */
static qb_value_id grow_same_shape(grower *g, qb_value_id x) {
  float w[MOST_WEIGHTS], b[64];
  const qb_shape *shape = shape_of(g, x);
  if (shape->rank == 4) {
    int32_t channels = (int32_t)shape->dims[1], kernel = chance(g->rng, 0.5) ? 3 : 1;
    random_weights(g, channels, (int64_t)channels * kernel * kernel, w);
    return network_conv(&g->net, x, channels, network_window(kernel, 1, kernel / 2), 1, w, random_bias(g, channels, b));
  }
  int64_t width = shape->dims[shape->rank - 1];
  random_weights(g, width, width, w);
  return multiply(g, x, width, w, random_bias(g, width, b));
}

static qb_value_id grow_join(grower *g, qb_value_id x) {
  qb_value_id y = grow_same_shape(g, x);
  if (chance(g->rng, 0.5))
    y = grow_any_activation(g, y);
  switch (pick(g->rng, 0, 5)) {
  case 0: return network_binary(&g->net, QB_OP_MUL, x, network_unary(&g->net, QB_OP_SIGMOID, y));
  case 1: return network_binary(&g->net, QB_OP_SUB, x, y);
  case 2: return grow_concat(g, x, y);
  case 3: return network_binary(&g->net, QB_OP_MUL, x, y);
  case 4: {
    const float one = 1.5f; /* a divisor between 1.5 and 2.5 */
    y = network_unary(&g->net, QB_OP_SIGMOID, y);
    y = network_binary(&g->net, QB_OP_ADD, y, network_constant(&g->net, QB_SHAPE(1), &one));
    return network_binary(&g->net, QB_OP_DIV, x, y);
  }
  default: return network_binary(&g->net, QB_OP_ADD, x, y);
  }
}

static qb_value_id combine_with_constant(grower *g, qb_value_id x, qb_op op) {
  qb_value_id c = random_operand(g, x, op == QB_OP_DIV);
  bool constant_first = op != QB_OP_DIV && shape_of(g, c)->rank == shape_of(g, x)->rank && chance(g->rng, 0.3);
  return constant_first ? network_binary(&g->net, op, c, x) : network_binary(&g->net, op, x, c);
}

static qb_value_id grow_constant_arithmetic(grower *g, qb_value_id x) {
  static const qb_op ops[] = {QB_OP_ADD, QB_OP_SUB, QB_OP_MUL, QB_OP_DIV};
  return combine_with_constant(g, x, ops[pick(g->rng, 0, 3)]);
}

static qb_value_id grow_softmax(grower *g, qb_value_id x) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.axes.axis = pick(g->rng, 1, shape_of(g, x)->rank - 1);
  attributes.axes.end_axis = pick(g->rng, attributes.axes.axis + 1, shape_of(g, x)->rank);
  return network_node(&g->net, QB_OP_SOFTMAX, &x, 1, &attributes, NULL);
}

/* The same elements as a vector. */
static qb_value_id flatten(grower *g, qb_value_id x) {
  const qb_shape *from = shape_of(g, x);
  qb_shape shape = QB_SHAPE(1, (int64_t)qb_shape_elements(from));
  bool squeezes = from->rank == 4 && from->dims[2] * from->dims[3] == 1 && chance(g->rng, 0.5);
  qb_op op = squeezes ? QB_OP_SQUEEZE : chance(g->rng, 0.3) ? QB_OP_RESHAPE : QB_OP_FLATTEN;
  return network_node(&g->net, op, &x, 1, NULL, &shape);
}

/* The same elements, a vector as an image of single pixels. */
static qb_value_id copy(grower *g, qb_value_id x) {
  const qb_shape *from = shape_of(g, x);
  qb_shape shape = *from;
  qb_op op = chance(g->rng, 0.5) ? QB_OP_IDENTITY : QB_OP_DROPOUT;
  if (from->rank == 2 && from->dims[1] <= 8 && chance(g->rng, 0.5)) {
    shape = QB_SHAPE(1, from->dims[1], 1, 1);
    op = QB_OP_UNSQUEEZE;
  }
  return network_node(&g->net, op, &x, 1, NULL, &shape);
}

/* ----------------------------------------------------------------------------------------------------------- growth */

static qb_value_id grow_chain_image(grower *g, qb_value_id x) {
  int kind = pick(g->rng, 0, 9);
  if (kind < 5)
    return grow_conv(g, x);
  if (kind < 7)
    return network_unary(&g->net, QB_OP_RELU, x);
  return kind == 7 ? grow_conv_transpose(g, x) : grow_pool(g, x, kind == 8 ? QB_OP_MAX_POOL : QB_OP_AVERAGE_POOL);
}

static qb_value_id grow_image(grower *g, qb_value_id x) {
  switch (pick(g->rng, 0, 17)) {
  case 0: return grow_conv_transpose(g, x);
  case 1: return grow_batch_norm(g, x);
  case 2: return grow_pool(g, x, QB_OP_MAX_POOL);
  case 3: return grow_pool(g, x, QB_OP_AVERAGE_POOL);
  case 4: return grow_pad(g, x);
  case 5: return grow_transpose(g, x);
  case 6:
  case 7: return grow_constant_arithmetic(g, x);
  case 8:
  case 9: return grow_join(g, x);
  case 10: return copy(g, x);
  case 11:
  case 12:
  case 13: return grow_any_activation(g, x);
  default: return grow_conv(g, x);
  }
}

static qb_value_id grow_vector(grower *g, qb_value_id x) {
  int kind = pick(g->rng, 0, 9);
  if (g->style->chain)
    return kind < 6 ? grow_gemm(g, x) : network_unary(&g->net, QB_OP_RELU, x);
  switch (kind) {
  case 0: return grow_constant_arithmetic(g, x);
  case 1: return grow_join(g, x);
  case 2:
  case 3:
  case 4: return grow_any_activation(g, x);
  case 5: return grow_pad(g, x);
  case 6: return copy(g, x);
  default: return grow_gemm(g, x);
  }
}

/* Layers, Relu, sums and differences, copies; means and vectors come by to_vector. */
static qb_value_id grow_paths(grower *g, qb_value_id x) {
  bool image = shape_of(g, x)->rank == 4;
  int kind = pick(g->rng, 0, 9);
  if (kind < 4)
    return image ? (kind == 0 ? grow_conv_transpose(g, x) : grow_conv(g, x)) : grow_gemm(g, x);
  if (kind < 6)
    return network_unary(&g->net, QB_OP_RELU, x);
  return kind < 8 ? copy(g, x) : network_binary(&g->net, kind == 8 ? QB_OP_ADD : QB_OP_SUB, x, grow_same_shape(g, x));
}

/* A node of one operator; x itself where the shape does not allow it. */
static qb_value_id grow_focus(grower *g, qb_value_id x, qb_op op) {
  bool image = shape_of(g, x)->rank == 4;
  switch (op) {
  case QB_OP_CONV: return image ? grow_conv(g, x) : x;
  case QB_OP_CONV_TRANSPOSE: return image ? grow_conv_transpose(g, x) : x;
  case QB_OP_GEMM:
  case QB_OP_MATMUL: return grow_gemm(g, x);
  case QB_OP_BATCH_NORM: return image ? grow_batch_norm(g, x) : x;
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL: return image ? grow_pool(g, x, op) : x;
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: return image ? network_unary(&g->net, op, x) : x;
  case QB_OP_SOFTMAX: return grow_softmax(g, x);
  case QB_OP_CONCAT: return grow_concat(g, x, grow_same_shape(g, x));
  case QB_OP_PAD: return grow_pad(g, x);
  case QB_OP_TRANSPOSE: return image ? grow_transpose(g, x) : x;
  case QB_OP_ADD:
  case QB_OP_SUB:
  case QB_OP_MUL:
  case QB_OP_DIV: return combine_with_constant(g, x, op);
  case QB_OP_FLATTEN:
  case QB_OP_RESHAPE:
  case QB_OP_SQUEEZE: return flatten(g, x);
  case QB_OP_UNSQUEEZE:
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT: return copy(g, x);
  case QB_OP_QUANTIZE_LINEAR:
  case QB_OP_DEQUANTIZE_LINEAR: return x; /* style.quantized_activations */
  default: return grow_activation(g, x, false, op);
  }
}

static qb_value_id to_vector(grower *g, qb_value_id x) {
  static const qb_op ops[] = {QB_OP_GLOBAL_AVERAGE_POOL, QB_OP_REDUCE_MEAN, QB_OP_FLATTEN, QB_OP_FLATTEN};
  qb_op op = ops[pick(g->rng, 0, 3)];
  if (op != QB_OP_FLATTEN)
    x = network_unary(&g->net, op, x);
  return flatten(g, x);
}

static bool too_large(const grower *g, qb_value_id x) {
  const qb_shape *shape = shape_of(g, x);
  return qb_shape_elements(shape) > MOST_ELEMENTS / 4 || (shape->rank > 1 && shape->dims[1] > 8);
}

static qb_value_id grow_step(grower *g, qb_value_id x) {
  bool image = shape_of(g, x)->rank == 4;
  if (image && (too_large(g, x) || chance(g->rng, 0.1)))
    return to_vector(g, x);
  if (g->style->paths)
    return !image && too_large(g, x) ? grow_gemm(g, x) : grow_paths(g, x);
  if (image)
    return g->style->chain ? grow_chain_image(g, x) : grow_image(g, x);
  return too_large(g, x) ? grow_gemm(g, x) : grow_vector(g, x);
}

static bool has_layer(const qb_graph *graph) {
  qb_linear linear;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (qb_graph_linear(graph, n, &linear))
      return true;
  return false;
}

static qb_value_id grow(grower *g) {
  qb_value_id x = g->net.input;
  if (g->style->has_focus && chance(g->rng, 0.5))
    x = grow_focus(g, x, g->style->focus);
  for (int32_t i = 0; i < g->style->nodes; i++)
    x = grow_step(g, x);
  if (!has_layer(&g->net.graph))
    x = shape_of(g, x)->rank == 4 ? grow_conv(g, x) : grow_gemm(g, x);
  if (g->style->has_focus && !too_large(g, x) && chance(g->rng, 0.5))
    x = grow_focus(g, x, g->style->focus);
  return !g->style->chain && !g->style->paths && chance(g->rng, 0.15) ? grow_softmax(g, x) : x;
}

/* ----------------------------------------------------------------------------------------------- the changed copy */

typedef struct changer {
  qb_rng *rng;
  const random_style *style;
  const qb_graph *from;
  qb_graph *to;
  qb_node_id *partner;
  qb_value_id *map;   /* from original values to those of the copy */
  qb_value_id *value; /* and back */
  int32_t names, absorbed;
} changer;

static void require(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

/* Weights on a grid of `bits` bits, rounded to nearest, downwards, towards zero or at random. */
static void change_weights(changer *c, const float *data, size_t count, float *changed) {
  double largest = 0;
  for (size_t i = 0; i < count; i++)
    largest = fmax(largest, fabs((double)data[i]));
  double step = largest / ldexp(1, c->style->bits - 1);
  int mode = c->style->shrinking ? 2 : pick(c->rng, 0, 3);
  for (size_t i = 0; i < count; i++) {
    double q = step == 0 ? 0 : (double)data[i] / step;
    double rounded = mode == 0   ? nearbyint(q)
                     : mode == 1 ? floor(q)
                     : mode == 2 ? trunc(q)
                                 : floor(q + qb_rng_double(c->rng));
    if (c->style->nonnegative)
      rounded = fmax(rounded, 0);
    changed[i] = (float)(rounded * step);
  }
}

/* Another constant close to the first; divisors stay away from 0 and slopes and biases keep their meaning. */
static void change_constant(changer *c, const float *data, size_t count, float *changed) {
  for (size_t i = 0; i < count; i++)
    changed[i] = chance(c->rng, 0.5) ? data[i] : data[i] * (float)qb_rng_range(c->rng, 0.8, 1.2);
}

static bool is_weight(const qb_graph *graph, const qb_node *node, int32_t slot) {
  qb_linear linear;
  return slot == 1 && qb_graph_linear(graph, (qb_node_id)(node - graph->nodes), &linear);
}

static qb_value_id copy_constant(changer *c, const qb_node *node, int32_t slot) {
  qb_error error;
  char name[32];
  float *data;
  qb_value_id id, old = node->inputs[slot];
  const qb_value *value = &c->from->values[old];
  size_t count = qb_shape_elements(&value->shape);
  snprintf(name, sizeof name, "c%d", c->names++);
  require(qb_graph_new_constant(c->to, name, &value->shape, &id, &data, &error), &error);
  const float *original = qb_view_f32(&value->constant);
  if (is_weight(c->from, node, slot))
    change_weights(c, original, count, data);
  else if (c->style->differing_constants)
    change_constant(c, original, count, data);
  else
    memcpy(data, original, count * sizeof *data);
  c->value[id] = old;
  return id;
}

static qb_value_id add_copy(changer *c, qb_op op, const qb_value_id *inputs, int32_t count,
                            const qb_attributes *attributes, const qb_shape *shape, qb_node_id partner,
                            qb_value_id stands_for) {
  qb_error error;
  char name[32];
  qb_node_id id;
  snprintf(name, sizeof name, "q%d", c->names++);
  require(qb_graph_add_node(c->to, op, NULL, inputs, count, attributes, name, shape, &id, &error), &error);
  c->partner[id] = partner;
  c->value[c->to->nodes[id].output] = stands_for;
  return c->to->nodes[id].output;
}

/* x -> QuantizeLinear -> DequantizeLinear, per tensor or per channel, with a range that may cut values off, and any way
 * of rounding and of scaling. With a partner it does the work of that activation, so its lowest code stands for 0. */
static qb_value_id add_quantizer(changer *c, qb_value_id x, qb_node_id partner, qb_value_id stands_for) {
  qb_error error;
  const qb_shape shape = c->to->values[x].shape;
  bool by_channel = shape.rank > 1 && chance(c->rng, 0.3);
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.quantize.axis = 1;
  attributes.quantize.hi = chance(c->rng, 0.5) ? 255 : 15;
  qb_value_id ids[3] = {x, QB_NONE, QB_NONE};
  float *scale, *zero, lowest = partner != QB_NONE || chance(c->rng, 0.5) ? 0 : attributes.quantize.hi / 2;
  qb_shape own = by_channel ? QB_SHAPE(shape.dims[1]) : (qb_shape){.rank = 0};
  char name[32];
  snprintf(name, sizeof name, "s%d", c->names++);
  require(qb_graph_new_constant(c->to, name, &own, &ids[1], &scale, &error), &error);
  snprintf(name, sizeof name, "z%d", c->names++);
  require(qb_graph_new_constant(c->to, name, &own, &ids[2], &zero, &error), &error);
  for (size_t i = 0; i < qb_shape_elements(&own); i++) {
    scale[i] = (float)(qb_rng_range(c->rng, 0.5, 4) / (double)attributes.quantize.hi);
    zero[i] = floorf(lowest);
  }
  attributes.quantize.rounding = (qb_code_rounding)(c->names / 2 % 4);
  attributes.quantize.factor = !by_channel && c->names % 3 == 0 ? 1 / scale[0] : 0;
  c->value[ids[1]] = c->value[ids[2]] = QB_NONE;
  ids[0] = add_copy(c, QB_OP_QUANTIZE_LINEAR, ids, 3, &attributes, NULL, partner, stands_for);
  return add_copy(c, QB_OP_DEQUANTIZE_LINEAR, ids, 3, &attributes, NULL, QB_NONE, stands_for);
}

static qb_attributes change_attributes(changer *c, const qb_node *node) {
  qb_attributes attributes = node->attributes;
  if (!c->style->differing_constants || chance(c->rng, 0.5))
    return attributes;
  if (node->op == QB_OP_CLIP && attributes.clip.hi_channels == NULL) {
    attributes.clip.lo -= (float)qb_rng_range(c->rng, 0, 0.1);
    attributes.clip.hi += (float)qb_rng_range(c->rng, -0.05, 0.2) * (attributes.clip.hi - attributes.clip.lo);
  }
  return attributes;
}

static bool cuts_at_zero(const qb_node *node) {
  const qb_clip_attributes *clip = &node->attributes.clip;
  return node->op == QB_OP_RELU || (node->op == QB_OP_CLIP && clip->lo == 0);
}

static void copy_node(changer *c, qb_node_id n) {
  const qb_node *node = &c->from->nodes[n];
  qb_value_id inputs[QB_MAX_INPUTS];
  if (c->style->quantized_activations && cuts_at_zero(node) && chance(c->rng, 0.3)) {
    c->map[node->output] = add_quantizer(c, c->map[node->inputs[0]], n, node->output);
    c->absorbed++;
    return;
  }
  for (int32_t i = 0; i < node->input_count; i++) {
    qb_value_id v = node->inputs[i];
    inputs[i] = v == QB_NONE ? QB_NONE : c->from->values[v].is_constant ? copy_constant(c, node, i) : c->map[v];
  }
  qb_attributes attributes = change_attributes(c, node);
  qb_value_id output = add_copy(c, node->op, inputs, node->input_count, &attributes,
                                &c->from->values[node->output].shape, n, node->output);
  if (c->style->quantized_activations && chance(c->rng, 0.4))
    output = add_quantizer(c, output, QB_NONE, node->output);
  c->map[node->output] = output;
}

static void create_changed(qb_rng *rng, random_network *network) {
  qb_error error;
  const qb_graph *from = &network->original;
  size_t nodes = 4 * (size_t)from->node_count + 4, values = 12 * ((size_t)from->value_count + 4);
  changer c = {.rng = rng,
               .style = &network->style,
               .from = from,
               .to = &network->quantized,
               .partner = qb_alloc(nodes, sizeof *c.partner),
               .value = qb_alloc(values, sizeof *c.value),
               .map = qb_alloc((size_t)from->value_count, sizeof *c.map)};
  assert_true(c.partner != NULL && c.value != NULL && c.map != NULL);
  require(qb_graph_init(c.to, "changed network", &error), &error);
  qb_value_id input;
  require(qb_graph_add_input(c.to, "input", &from->values[from->inputs[0]].shape, &input, &error), &error);
  c.map[from->inputs[0]] = input;
  c.value[input] = from->inputs[0];
  if (network->style.quantized_activations && chance(rng, 0.3))
    c.map[from->inputs[0]] = add_quantizer(&c, input, QB_NONE, from->inputs[0]);
  for (qb_node_id n = 0; n < from->node_count; n++)
    copy_node(&c, n);
  require(qb_graph_add_output(c.to, c.map[from->outputs[0]], &error), &error);
  require(qb_graph_validate(c.to, &error), &error);
  network->pair =
      (qb_pair){.original = from, .quantized = c.to, .partner = c.partner, .value = c.value, .absorbed = c.absorbed};
  qb_free(c.map);
}

/* ----------------------------------------------------------------------------------------------------- the whole */

static void create_domain(qb_rng *rng, random_network *network) {
  const qb_shape *shape = &network->original.values[network->original.inputs[0]].shape;
  float lo[8], hi[8];
  int32_t channels = shape->rank > 1 ? (int32_t)shape->dims[1] : 1;
  for (int32_t c = 0; c < channels; c++) {
    lo[c] = network->style.nonnegative ? 0 : (float)qb_rng_range(rng, -2, 0.5);
    hi[c] = lo[c] + (chance(rng, 0.1) ? 0 : (float)qb_rng_range(rng, 0.1, 2));
  }
  qb_error error;
  require(qb_domain_channels(&network->original, lo, hi, channels, &network->domain, &error), &error);
}

random_style random_network_style(qb_rng *rng) {
  static const int32_t bits[] = {2, 2, 3, 4, 4, 6, 8, 8, 12, 16};
  random_style style = {.nodes = chance(rng, 0.3) ? 1 : pick(rng, 2, 8),
                        .vector = chance(rng, 0.35),
                        .chain = chance(rng, 0.35),
                        .biases = chance(rng, 0.6),
                        .nonnegative = chance(rng, 0.25),
                        .differing_constants = chance(rng, 0.3),
                        .bits = bits[qb_rng_below(rng, 10)],
                        .norm = qb_rng_range(rng, 0.2, 3)};
  style.shrinking = style.nonnegative && chance(rng, 0.6);
  style.quantized_activations = !style.chain && chance(rng, 0.25);
  return style;
}

void random_network_create(qb_rng *rng, const random_style *style, random_network *network) {
  *network = (random_network){.style = *style};
  grower g = {.rng = rng, .style = style};
  if (style->vector)
    network_builder_init(&g.net, QB_SHAPE(1, pick(rng, 1, 6)));
  else if (style->small)
    network_builder_init(&g.net, QB_SHAPE(1, pick(rng, 1, 2), pick(rng, 1, 2), pick(rng, 1, 2)));
  else
    network_builder_init(&g.net, QB_SHAPE(1, pick(rng, 1, 4), pick(rng, 1, 5), pick(rng, 1, 5)));
  qb_value_id output = grow(&g);
  network->original = network_builder_finish(&g.net, output);
  create_changed(rng, network);
  create_domain(rng, network);
}

void random_network_free(random_network *network) {
  network_pair_free(&network->pair);
  qb_domain_free(&network->domain);
  qb_graph_free(&network->quantized);
  qb_graph_free(&network->original);
}

void random_network_shrink(random_network *network, const double *parts, int count, qb_rng *rng) {
  qb_domain *domain = &network->domain;
  double part = parts[qb_rng_below(rng, (uint64_t)count)];
  for (int64_t i = 0; i < domain->count && part < 1; i++) {
    double lo = (double)domain->lo[i], hi = (double)domain->hi[i], at = lo + qb_rng_double(rng) * (hi - lo);
    float left = (float)fmax(lo, at - 0.5 * part * (hi - lo)), right = (float)fmin(hi, at + 0.5 * part * (hi - lo));
    domain->lo[i] = left;
    domain->hi[i] = fmaxf(left, right);
  }
}

const char *random_network_describe(const random_network *network, char *text, size_t size) {
  const qb_graph *graph = &network->quantized;
  size_t used = 0;
  char shape[QB_SHAPE_TEXT];
  text[0] = '\0';
  for (qb_node_id n = 0; n < graph->node_count && used + 1 < size; n++)
    used += (size_t)snprintf(text + used, size - used, "%s %s; ", qb_op_name(graph->nodes[n].op),
                             qb_shape_print(&graph->values[graph->nodes[n].output].shape, shape));
  return text;
}
