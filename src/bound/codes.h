/* Integer codes between QuantizeLinear and DequantizeLinear, for the bounds that carry them in real units,
 * scale x (code - zero point). That is sound only while nothing reads the codes as numbers. */
#ifndef QB_BOUND_CODES_H
#define QB_BOUND_CODES_H

#include "graph/pair.h"

/* The QuantizeLinear whose codes a value holds, seen through operators that only move elements; NULL when the value
 * is real. */
const qb_node *qb_codes_source(const qb_graph *graph, qb_value_id value);

/* NULL when `node` of the quantized graph reads no codes, moves them, or turns them back into the real values of the
 * grid they were made on; else why a bound in real units must refuse. A network output that holds codes is refused. */
const char *qb_codes_refusal(const qb_pair *pair, const qb_node *node);

#endif
