/* The network as a graph: the one representation that every module shares.
 *
 * A graph is a list of nodes in topological order and a table of values (edges). Each node has one output value.
 * Activations are float32 or, between QuantizeLinear and DequantizeLinear, integer codes held as floats. Every
 * activation shape is stored for batch one and dims[0] == 1 is the batch axis; an executor multiplies it.
 * Constants are float32 and finite; the importer has folded shape arithmetic, Constant nodes and DequantizeLinear of
 * initializers (whose integer form is kept in `codes`).
 *
 * Ownership: the graph's arena owns nodes, names and data made by passes. Data read from a file may be borrowed from
 * the document that was read, which must outlive the graph. A clone borrows constants from its original.
 *
 * Passes are free functions: graph in, graph changed, info out. */
#ifndef QB_GRAPH_GRAPH_H
#define QB_GRAPH_GRAPH_H

#include <qbound/qbound.h>

#include "base/arena.h"
#include "graph/op.h"
#include "tensor/tensor.h"

typedef int32_t qb_value_id;
typedef int32_t qb_node_id;
enum { QB_NONE = -1 }; /* no value, no node */

/* The integer form of a constant: real value = scale[c] * (code - zero_point[c]), computed in float32 as
 * DequantizeLinear does, c the index along `axis`. Arrays live as long as the graph. */
typedef struct qb_codes {
  int32_t bits;        /* 2..16: the codes use at most this many, the carrier type may be wider; 32: int32 biases of
                          files that others quantized */
  bool is_signed;      /* codes lie in [-2^(bits-1), 2^(bits-1) - 1], else in [0, 2^bits - 1] */
  int32_t axis;        /* of the canonical layout; QB_NONE: one scale for the whole tensor */
  int32_t scale_count; /* 1 or the length of `axis` */
  const float *scale;  /* (scale_count), positive */
  const int32_t *zero_point; /* (scale_count), or NULL: all zero */
  qb_view codes;             /* integer tensor in the canonical layout of the value */
} qb_codes;

typedef struct qb_value {
  const char *name;      /* the ONNX name, unique in the graph, never NULL */
  qb_shape shape;        /* at batch one; canonical layout for weights */
  qb_node_id producer;   /* QB_NONE for the network's inputs and for constants */
  bool is_constant;      /* then `constant` holds the data */
  qb_view constant;      /* float32 (int64 only while importing) */
  const qb_codes *codes; /* integer form of a constant, NULL for plain floats */
  const char *source;    /* constants: the initializer it came from, NULL when a pass made it */
  bool transposed;       /* constants: the canonical layout is the transpose of the initializer (Gemm, MatMul) */
} qb_value;

enum { QB_MAX_INPUTS = 64 };

typedef struct qb_node {
  qb_op op;
  const char *name;          /* ONNX node name, or made from the output's name; never empty */
  int32_t input_count;       /* trailing missing inputs are not counted */
  const qb_value_id *inputs; /* (input_count); QB_NONE for a missing optional input */
  qb_value_id output;
  qb_attributes attributes;
  int32_t origin; /* index of the ONNX node it was read from, QB_NONE when a pass made it */
} qb_node;

typedef struct qb_graph {
  qb_arena arena;
  const char *name; /* the file, for messages */
  qb_node *nodes;   /* (node_count), topological order */
  int32_t node_count, node_capacity;
  qb_value *values; /* (value_count) */
  int32_t value_count, value_capacity;
  qb_value_id *inputs; /* (input_count) */
  int32_t input_count;
  qb_value_id *outputs; /* (output_count) */
  int32_t output_count;
  int32_t *index; /* open-addressing table of value ids by name, see graph.c */
  int32_t index_capacity;
} qb_graph;

/* An empty graph; `name` is copied. Free with qb_graph_free in every case. */
QB_MUST_CHECK qb_status qb_graph_init(qb_graph *graph, const char *name, qb_error *error);

/* Releases the graph's arena and tables; NULL and a zeroed graph are fine. */
void qb_graph_free(qb_graph *graph);

/* Copies structure into a new graph that borrows every constant's data and codes, names and attribute arrays from
 * `source`, which must outlive it. */
QB_MUST_CHECK qb_status qb_graph_clone(const qb_graph *source, qb_graph *clone, qb_error *error);

/* Adds an activation that no node produces (a network input); QB_ERROR_FORMAT when the name exists. */
QB_MUST_CHECK qb_status qb_graph_add_input(qb_graph *graph, const char *name, const qb_shape *shape, qb_value_id *id,
                                           qb_error *error);

/* Adds a constant; the view's data is borrowed. */
QB_MUST_CHECK qb_status qb_graph_add_constant(qb_graph *graph, const char *name, const qb_view *view, qb_value_id *id,
                                              qb_error *error);

/* Marks a value as a network output. */
QB_MUST_CHECK qb_status qb_graph_add_output(qb_graph *graph, qb_value_id id, qb_error *error);

/* Appends a node, infers the shape of its output and adds that value under `output_name`. Inputs must exist already,
 * so nodes arrive in topological order. `output_shape` gives the result of reshape-family nodes, of ConvTranspose
 * (output_padding) and of pools with ceil_mode; otherwise NULL, and the shape is inferred. QB_ERROR_SHAPE names the
 * node and the shapes. */
QB_MUST_CHECK qb_status qb_graph_add_node(qb_graph *graph, qb_op op, const char *name, const qb_value_id *inputs,
                                          int32_t input_count, const qb_attributes *attributes, const char *output_name,
                                          const qb_shape *output_shape, qb_node_id *id, qb_error *error);

/* The value of that name, or QB_NONE. */
qb_value_id qb_graph_find(const qb_graph *graph, const char *name);

/* The float32 data of a constant, borrowed from the graph; NULL for QB_NONE, as of a bias that is missing. */
const float *qb_graph_constant(const qb_graph *graph, qb_value_id id);

/* Replaces the constant's data by a new float32 array in the graph's arena with the same shape, which the caller
 * fills; drops `codes`. NULL when memory is short. */
float *qb_graph_replace_constant(qb_graph *graph, qb_value_id id);

/* A new float32 constant in the graph's arena, zeroed, to be filled through *data. */
QB_MUST_CHECK qb_status qb_graph_new_constant(qb_graph *graph, const char *name, const qb_shape *shape, qb_value_id *id,
                                              float **data, qb_error *error);

/* Replaces input `slot` of a node (the slot may lie past the end: missing ones between become QB_NONE). */
QB_MUST_CHECK qb_status qb_graph_set_input(qb_graph *graph, qb_node_id node, int32_t slot, qb_value_id value,
                                           qb_error *error);

/* Number of uses of a value as a node input or as a network output. */
int32_t qb_graph_use_count(const qb_graph *graph, qb_value_id id);

/* Takes `node` out where it maps its first input to its output unchanged in meaning: the producer of that input now
 * produces the removed node's output value (so consumers and network outputs keep their names). Requires that the
 * input is an activation with exactly one use and a producer. Node ids after it shift down by one. */
void qb_graph_remove_node(qb_graph *graph, qb_node_id node);

/* Deletes `node`, whose output nobody uses any more. Node ids after it shift down by one. */
void qb_graph_remove_unused_node(qb_graph *graph, qb_node_id node);

/* Checks every invariant above: topological order, ids, shapes against inference, finite float32 constants. */
QB_MUST_CHECK qb_status qb_graph_validate(const qb_graph *graph, qb_error *error);

/* ------------------------------------------------------------------------------------------------ linear layers */

/* A convolution or matrix layer seen the same way by bounds and quantizers: rows of weights, one per output unit.
 * Conv: (OC, IC/G, KH, KW). Gemm, MatMul: (OUT, IN). ConvTranspose: (IC, OC/G, KH, KW), rows are not contiguous. */
typedef struct qb_linear {
  qb_node_id node;
  qb_value_id weight, bias; /* bias may be QB_NONE */
  int64_t out_channels, in_channels;
  int32_t group;
  int64_t kernel_area;  /* KH * KW, 1 for matrices */
  int64_t row_length;   /* entries that meet one output unit at most: n_l = p^2 c / g or N_{l-1} */
  int32_t channel_axis; /* axis of the weight that indexes output channels: 0, or 1 within groups (ConvTranspose) */
} qb_linear;

/* Fills `linear` and returns true when the node is a linear layer with a constant weight. */
bool qb_graph_linear(const qb_graph *graph, qb_node_id node, qb_linear *linear);

/* Multiply-accumulates of one inference of the node at batch one; 0 for operators without weights. */
int64_t qb_graph_node_macs(const qb_graph *graph, qb_node_id node);

#endif
