/* Two graphs of one network, original and quantized, matched node by node. */
#ifndef QB_GRAPH_PAIR_H
#define QB_GRAPH_PAIR_H

#include "graph/graph.h"

/* For every node of the quantized graph its partner in the original, or QB_NONE for a node that only the quantized
 * graph has: QuantizeLinear, DequantizeLinear on activations. Every original node is some node's partner. Partners
 * have the same operator family, the same attributes that shape the result, and matching inputs. */
typedef struct qb_pair {
  const qb_graph *original, *quantized; /* borrowed */
  qb_node_id *partner;                  /* (quantized->node_count), from qb_alloc */
} qb_pair;

/* Matches by structure from the outputs backwards; names do not matter. QB_ERROR_FORMAT says at which nodes the two
 * graphs part and why. Free with qb_pair_free in every case. */
QB_MUST_CHECK qb_status qb_pair_match(const qb_graph *original, const qb_graph *quantized, qb_pair *pair,
                                      qb_error *error);
void qb_pair_free(qb_pair *pair);

#endif
