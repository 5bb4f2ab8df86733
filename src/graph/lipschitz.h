/* How much an operator without trained weights can enlarge the l2 norm of a difference. */
#ifndef QB_GRAPH_LIPSCHITZ_H
#define QB_GRAPH_LIPSCHITZ_H

#include "graph/graph.h"

/* L with ||f(x) - f(y)||_2 <= L ||x - y||_2 for the node's function f of one activation (theory section 3.2), rounded
 * up; INFINITY for linear layers, BatchNormalization, products and everything else that has no rule here. */
double qb_node_lipschitz(const qb_graph *graph, const qb_node *node);

/* How many windows an element of a channel's map can lie in, at most: ceil(k gcd(s, d) / s) per axis. */
int64_t qb_window_overlap(const qb_window *window);

#endif
