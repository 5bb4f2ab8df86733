/* Parts of a graph as graphs of their own: what happens between one value and others. */
#ifndef QB_GRAPH_EXTRACT_H
#define QB_GRAPH_EXTRACT_H

#include "graph/graph.h"

/* A clone of `source` that computes `targets` (target_count > 0, none of them `from`) from the activation `from`: its
 * one input is `from`, its nodes are those on the way. Value ids stay those of `source`, which must outlive it.
 * QB_ERROR_ARGUMENT when a target also depends on something before `from`. Free with qb_graph_free in every case. */
QB_MUST_CHECK qb_status qb_graph_extract(const qb_graph *source, qb_value_id from, const qb_value_id *targets,
                                         int32_t target_count, qb_graph *part, qb_error *error);

/* Marks in is_cut (value_count) the activations through which everything later flows: all nodes after the producer
 * need no activation made before it. The input of a network with one input is a cut. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_graph_cuts(const qb_graph *graph, bool *is_cut, qb_error *error);

#endif
