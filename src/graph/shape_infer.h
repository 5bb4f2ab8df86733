/* Output shapes of nodes. */
#ifndef QB_GRAPH_SHAPE_INFER_H
#define QB_GRAPH_SHAPE_INFER_H

#include "graph/graph.h"

/* The output shape of `node`, whose inputs exist in `graph`. `given` is the shape that the importer computed where
 * inputs and attributes alone do not determine it (see qb_graph_add_node), or NULL. QB_ERROR_SHAPE names the node. */
QB_MUST_CHECK qb_status qb_shape_infer(const qb_graph *graph, const qb_node *node, const qb_shape *given,
                                       qb_shape *output, qb_error *error);

/* Largest number of elements of an activation: 256 GiB of float32. */
#define QB_MAX_ELEMENTS ((size_t)1 << 36)

/* True for a shape that an activation may have: not empty, at most QB_MAX_ELEMENTS, a batch axis of length one first.
 */
bool qb_shape_is_activation(const qb_shape *shape);

/* Result of ONNX (numpy) broadcasting; false when the shapes do not fit. */
bool qb_shape_broadcast(const qb_shape *a, const qb_shape *b, qb_shape *result);

/* Output length of a window along one axis; false when it is not positive. */
bool qb_window_output(const qb_window *window, int axis, int64_t input_length, int64_t *output_length);

#endif
