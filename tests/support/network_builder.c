/* Building small networks for tests. */
#include "support/network_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"

static void require(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

void network_builder_init(network_builder *builder, qb_shape input) {
  qb_error error;
  *builder = (network_builder){0};
  require(qb_graph_init(&builder->graph, "test network", &error), &error);
  require(qb_graph_add_input(&builder->graph, "input", &input, &builder->input, &error), &error);
}

qb_graph network_builder_finish(network_builder *builder, qb_value_id output) {
  qb_error error;
  require(qb_graph_add_output(&builder->graph, output, &error), &error);
  require(qb_graph_validate(&builder->graph, &error), &error);
  return builder->graph;
}

static void next_name(network_builder *builder, char name[32]) { snprintf(name, 32, "v%d", builder->names++); }

qb_value_id network_constant(network_builder *builder, qb_shape shape, const float *data) {
  qb_error error;
  char name[32];
  float *copy;
  qb_value_id id;
  next_name(builder, name);
  require(qb_graph_new_constant(&builder->graph, name, &shape, &id, &copy, &error), &error);
  memcpy(copy, data, qb_shape_elements(&shape) * sizeof *copy);
  return id;
}

qb_value_id network_node(network_builder *builder, qb_op op, const qb_value_id *inputs, int32_t count,
                         const qb_attributes *attributes, const qb_shape *shape) {
  qb_error error;
  char name[32];
  qb_node_id id;
  qb_attributes none;
  memset(&none, 0, sizeof none);
  next_name(builder, name);
  require(qb_graph_add_node(&builder->graph, op, NULL, inputs, count, attributes == NULL ? &none : attributes, name,
                            shape, &id, &error),
          &error);
  return builder->graph.nodes[id].output;
}

qb_value_id network_unary(network_builder *builder, qb_op op, qb_value_id x) {
  return network_node(builder, op, &x, 1, NULL, NULL);
}

qb_value_id network_binary(network_builder *builder, qb_op op, qb_value_id a, qb_value_id b) {
  return network_node(builder, op, (qb_value_id[]){a, b}, 2, NULL, NULL);
}

qb_value_id network_gemm(network_builder *builder, qb_value_id x, int64_t outputs, const float *weight,
                         const float *bias) {
  const qb_shape *shape = &builder->graph.values[x].shape;
  int64_t inputs = shape->dims[shape->rank - 1];
  qb_value_id ids[3] = {x, network_constant(builder, QB_SHAPE(outputs, inputs), weight), QB_NONE};
  if (bias != NULL)
    ids[2] = network_constant(builder, QB_SHAPE(outputs), bias);
  return network_node(builder, bias == NULL ? QB_OP_MATMUL : QB_OP_GEMM, ids, 3, NULL, NULL);
}

qb_window network_window(int32_t kernel, int32_t stride, int32_t pad) {
  return (qb_window){.kernel = {kernel, kernel},
                     .stride = {stride, stride},
                     .dilation = {1, 1},
                     .pad_begin = {pad, pad},
                     .pad_end = {pad, pad}};
}

qb_value_id network_conv(network_builder *builder, qb_value_id x, int64_t channels, qb_window window, int32_t group,
                         const float *weight, const float *bias) {
  qb_shape shape =
      QB_SHAPE(channels, builder->graph.values[x].shape.dims[1] / group, window.kernel[0], window.kernel[1]);
  qb_value_id ids[3] = {x, network_constant(builder, shape, weight), QB_NONE};
  if (bias != NULL)
    ids[2] = network_constant(builder, QB_SHAPE(channels), bias);
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.conv = (qb_conv_attributes){.window = window, .group = group};
  return network_node(builder, QB_OP_CONV, ids, 3, &attributes, NULL);
}

qb_value_id network_clip(network_builder *builder, qb_value_id x, float lo, float hi) {
  qb_attributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.clip = (qb_clip_attributes){.lo = lo, .hi = hi};
  return network_node(builder, QB_OP_CLIP, &x, 1, &attributes, NULL);
}

qb_graph network_clone(const qb_graph *graph) {
  qb_error error;
  qb_graph clone;
  require(qb_graph_clone(graph, &clone, &error), &error);
  return clone;
}

float *network_edit(qb_graph *graph, qb_value_id constant) {
  const float *old = qb_view_f32(&graph->values[constant].constant);
  float *data = qb_graph_replace_constant(graph, constant);
  assert_non_null(data);
  memcpy(data, old, qb_shape_elements(&graph->values[constant].shape) * sizeof *data);
  return data;
}

qb_pair network_pair(const qb_graph *original, const qb_graph *quantized) {
  assert_int_equal(original->node_count, quantized->node_count);
  assert_int_equal(original->value_count, quantized->value_count);
  qb_pair pair = {.original = original,
                  .quantized = quantized,
                  .partner = qb_alloc((size_t)quantized->node_count, sizeof *pair.partner),
                  .value = qb_alloc((size_t)quantized->value_count, sizeof *pair.value)};
  assert_non_null(pair.partner);
  assert_non_null(pair.value);
  for (int32_t n = 0; n < quantized->node_count; n++)
    pair.partner[n] = n;
  for (int32_t v = 0; v < quantized->value_count; v++)
    pair.value[v] = v;
  return pair;
}

void network_pair_free(qb_pair *pair) {
  qb_free(pair->partner);
  qb_free(pair->value);
  *pair = (qb_pair){0};
}
