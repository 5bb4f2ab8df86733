/* QuantizeLinear and DequantizeLinear on activations: put in behind a value, and bypassed again. */
#ifndef QB_GRAPH_QUANTIZER_H
#define QB_GRAPH_QUANTIZER_H

#include "graph/graph.h"

/* The unsigned codes of an activation: real value = scale * (code - zero_point). */
typedef struct qb_activation_grid {
  int32_t bits;       /* 8 or 16: codes 0 .. 2^bits - 1 */
  float scale;        /* positive and finite */
  int32_t zero_point; /* one of the codes, so 0 is exact */
} qb_activation_grid;

/* Lets the code of every QuantizeLinear be off by `steps`, within its range, for bounds and the verifier. */
void qb_graph_allow_steps(qb_graph *graph, int32_t steps);

/* True when some code may be off. */
bool qb_graph_allows_steps(const qb_graph *graph);

/* How far a QuantizeLinear of scale `s` and zero point `z` moves a number inside its range, rounded up, whichever way
 * it rounds ties, with the steps by which it may be off. Half a step, a whole one for rounding down, and where factor
 * times s = 1 + d is not exactly 1 another |d| / (1 - |d|) of the range's end: clip((1 + d) x, m, M) is that near to
 * clip(x, m, M). */
double qb_quantizer_reach(const qb_node *node, double s, double z);

/* Puts a QuantizeLinear and a DequantizeLinear directly behind the producer of `value` (an activation; a network input
 * has them in front of all nodes). Every node that read `value` reads *dequantized from now on; network outputs keep
 * the float value. Node ids behind the producer go up by two. QB_ERROR_ARGUMENT for a grid out of range or a constant,
 * QB_ERROR_MEMORY; after an error the graph is to be dropped. */
QB_MUST_CHECK qb_status qb_graph_insert_quantizer(qb_graph *graph, qb_value_id value, const qb_activation_grid *grid,
                                                  qb_value_id *dequantized, qb_error *error);

/* Makes every reader of a DequantizeLinear of a QuantizeLinear read the float value in front of both: the network
 * without quantized activations. The bypassed nodes stay, without readers. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_graph_bypass_quantizers(qb_graph *graph, qb_error *error);

/* True when some activation of the graph goes through a QuantizeLinear. */
bool qb_graph_has_quantizers(const qb_graph *graph);

#endif
