/* Which nodes are piecewise linear functions of one element, and which functions they are in both networks. */
#ifndef QB_BOUND_NODE_KINKS_H
#define QB_BOUND_NODE_KINKS_H

#include "bound/kink.h"
#include "graph/pair.h"

/* Relu, LeakyRelu, PRelu with constant slopes, Clip and QuantizeLinear with a constant scale. */
bool qb_node_is_kinked(const qb_pair *pair, qb_node_id id);

/* The functions of element i of such a node of the quantized graph. A QuantizeLinear has for partner nothing (the
 * original is the identity) or the Relu or Clip that its clamp replaces. `x` is the interval of its input in the
 * quantized network: the functions hold there. */
qb_kink_pair qb_node_kinks(const qb_pair *pair, qb_node_id id, int64_t i, qb_interval x);

/* Ranges of y, y' and y' - y for those of x, x' and x' - x (in this order): the difference over the corners of the
 * hexagon of a, a + d and d, on whose cells it is linear. */
void qb_node_kink_ranges(const qb_pair *pair, qb_node_id id, int64_t i, const qb_interval x[3], qb_interval y[3]);

#endif
