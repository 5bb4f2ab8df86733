/* Biases of linear layers that a pass may change. */
#ifndef QB_GRAPH_LAYER_BIAS_H
#define QB_GRAPH_LAYER_BIAS_H

#include "graph/graph.h"

/* True when the node can carry a bias and has none or a constant one: Conv and Gemm, not MatMul. */
bool qb_layer_bias_is_free(const qb_graph *graph, const qb_linear *linear);

/* Gives the layer a bias (out_channels) of its own in the graph's arena, with the numbers it had, zeros without: copied
 * where others use it too, made and joined to the node where there is none. linear->bias follows. Requires
 * qb_layer_bias_is_free. QB_ERROR_MEMORY, QB_ERROR_SHAPE. */
QB_MUST_CHECK qb_status qb_layer_bias_own(qb_graph *graph, qb_linear *linear, float **data, qb_error *error);

#endif
