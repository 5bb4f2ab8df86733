/* How large activations can be, per channel: a = |W| a + |b|, followed through the graph. Private to the equalization
 * pass, which only chooses factors with it; bounds have their own rigorous rules. */
#ifndef QB_GRAPH_EQUALIZE_L1_H
#define QB_GRAPH_EQUALIZE_L1_H

#include "graph/graph.h"

/* (value_count) pointers to one number per entry of axis 1, NULL before the value is reached; from qb_alloc. */
typedef struct qb_channel_magnitudes {
  const qb_graph *graph;
  double **values;
} qb_channel_magnitudes;

/* The network's inputs at `input_magnitude`. QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_channel_magnitudes_create(const qb_graph *graph, double input_magnitude,
                                                     qb_channel_magnitudes *magnitudes, qb_error *error);
void qb_channel_magnitudes_free(qb_channel_magnitudes *magnitudes);

/* Computes the output of `node`, whose inputs were computed before. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_channel_magnitudes_visit(qb_channel_magnitudes *magnitudes, qb_node_id node,
                                                    qb_error *error);

#endif
