/* Takes activations out whose work the clamp of the QuantizeLinear behind them does anyway. */
#ifndef QB_GRAPH_PASS_DROP_CLIP_H
#define QB_GRAPH_PASS_DROP_CLIP_H

#include "graph/graph.h"

/* Removes every Relu and Clip from 0 whose only reader is a QuantizeLinear with a code for 0 and one for the
 * upper limit (or whose range ends below it), and narrows the quantizer's range of codes to those limits: rounding is
 * monotone and leaves codes where they are, so the numbers that follow are the same. What is left matches the original
 * with qb_pair_match_absorbed, and a bound sees one function in place of two. Returns how many were removed. */
int32_t qb_drop_clips(qb_graph *graph);

#endif
