/* Small networks for tests, built node by node; every constant is copied into the graph. Failures end the test. */
#ifndef QB_TESTS_NETWORK_BUILDER_H
#define QB_TESTS_NETWORK_BUILDER_H

#include "graph/pair.h"

typedef struct network_builder {
  qb_graph graph;
  qb_value_id input;
  int32_t names; /* counter for unique names */
} network_builder;

/* An empty network with one input. The graph is moved out by network_builder_finish. */
void network_builder_init(network_builder *builder, qb_shape input);

/* Adds `output` as the network's output and returns the graph, which the caller frees. */
qb_graph network_builder_finish(network_builder *builder, qb_value_id output);

qb_value_id network_constant(network_builder *builder, qb_shape shape, const float *data);

/* A node with default attributes where `attributes` is NULL; `shape` as in qb_graph_add_node. */
qb_value_id network_node(network_builder *builder, qb_op op, const qb_value_id *inputs, int32_t count,
                         const qb_attributes *attributes, const qb_shape *shape);

/* One activation in, default attributes: Relu, Tanh, GlobalAveragePool, .. */
qb_value_id network_unary(network_builder *builder, qb_op op, qb_value_id x);

/* weight (outputs, inputs), bias (outputs) or NULL. */
qb_value_id network_gemm(network_builder *builder, qb_value_id x, int64_t outputs, const float *weight,
                         const float *bias);

/* Attributes of a square convolution or pool with equal pads. */
qb_window network_window(int32_t kernel, int32_t stride, int32_t pad);

/* weight (channels, IC/group, KH, KW), bias (channels) or NULL. */
qb_value_id network_conv(network_builder *builder, qb_value_id x, int64_t channels, qb_window window, int32_t group,
                         const float *weight, const float *bias);

qb_value_id network_clip(network_builder *builder, qb_value_id x, float lo, float hi);
qb_value_id network_binary(network_builder *builder, qb_op op, qb_value_id a, qb_value_id b);

/* A clone of `graph` (which must outlive it) whose constants may be changed with network_edit. */
qb_graph network_clone(const qb_graph *graph);

/* A private copy of a constant's data in the graph, to be changed in place. */
float *network_edit(qb_graph *graph, qb_value_id constant);

/* The pair of two graphs of the same structure, node by node. */
qb_pair network_pair(const qb_graph *original, const qb_graph *quantized);
void network_pair_free(qb_pair *pair);

#endif
