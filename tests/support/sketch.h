/* Small random networks for tests of passes and quantizers, and a plain evaluation of them in double that shares
 * nothing with the library's engines. Failures end the test. */
#ifndef QB_SUPPORT_SKETCH_H
#define QB_SUPPORT_SKETCH_H

#include "base/rng.h"
#include "graph/graph.h"

typedef struct sketch_graph {
  qb_graph graph;
  qb_rng rng;
  int names;
} sketch_graph;

/* An empty network; the same seed gives the same weights. The caller frees `graph`. */
sketch_graph sketch_start(uint64_t seed);
qb_value_id sketch_input(sketch_graph *sketch, qb_shape shape);

/* Validates the finished network with one output. */
void sketch_finish(sketch_graph *sketch, qb_value_id output);

/* A constant of uniform numbers in [lo, hi). */
qb_value_id sketch_random(sketch_graph *sketch, qb_shape shape, double lo, double hi);
qb_value_id sketch_constant(sketch_graph *sketch, qb_shape shape, const float *data);

/* A node; `attributes` and `shape` may be NULL. Returns its output. */
qb_value_id sketch_node(sketch_graph *sketch, qb_op op, const qb_value_id *inputs, int32_t count,
                        const qb_attributes *attributes, const qb_shape *shape);
qb_value_id sketch_unary(sketch_graph *sketch, qb_op op, qb_value_id x);
qb_value_id sketch_binary(sketch_graph *sketch, qb_op op, qb_value_id a, qb_value_id b);
qb_value_id sketch_clip(sketch_graph *sketch, qb_value_id x, float lo, float hi);

/* Conv with a given weight; bias may be QB_NONE. Square stride and pads. */
qb_value_id sketch_conv_with(sketch_graph *sketch, qb_value_id x, qb_value_id weight, qb_value_id bias, int32_t stride,
                             int32_t pad, int32_t group);

/* Conv with random weights and bias. */
qb_value_id sketch_conv(sketch_graph *sketch, qb_value_id x, int64_t channels, int32_t kernel, int32_t stride,
                        int32_t pad, int32_t group);
qb_value_id sketch_conv_transpose(sketch_graph *sketch, qb_value_id x, int64_t channels, int32_t kernel, int32_t stride,
                                  int32_t group);

/* Gemm with random weights, bias where asked. */
qb_value_id sketch_gemm(sketch_graph *sketch, qb_value_id x, int64_t outputs, bool bias);
qb_value_id sketch_matmul(sketch_graph *sketch, qb_value_id x, int64_t outputs);

/* BatchNormalization with random statistics; without shift t = 0 in every channel. */
qb_value_id sketch_batch_norm(sketch_graph *sketch, qb_value_id x, bool shift);

qb_value_id sketch_flatten(sketch_graph *sketch, qb_value_id x);

/* The node that produces a value. */
qb_node *sketch_producer(qb_graph *graph, qb_value_id value);

/* Evaluates the graph with one input on `input`; returns the elements of `output`, to be released with qb_free.
 * Supports the operators above, Relu, LeakyRelu, Clip, Add, Identity, Dropout, MaxPool is not among them. */
double *sketch_evaluate(const qb_graph *graph, const double *input, qb_value_id output);

/* Largest |a - b| of the two graphs' first outputs over `samples` random inputs in [-range, range), divided by the
 * largest |a|; the graphs have inputs of one shape. */
double sketch_relative_difference(const qb_graph *a, const qb_graph *b, int samples, double range, uint64_t seed);

#endif
