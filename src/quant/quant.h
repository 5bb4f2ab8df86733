/* Weight quantization of a graph: grids, codes, information about what was done. */
#ifndef QB_QUANT_QUANT_H
#define QB_QUANT_QUANT_H

#include "base/progress.h"
#include "graph/graph.h"

/* Replaces the weight of every linear layer of `graph` (usually a clone) by its dequantized float32 values and
 * attaches the codes. Biases stay float. The recorded weights are exactly those a DequantizeLinear computes in
 * float32: scale * (code - zero_point), each operation rounded to nearest.
 * QB_ERROR_ARGUMENT for settings out of range, QB_ERROR_NUMERIC for NaN or Inf weights, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_quantize_weights(qb_graph *graph, const qb_quantize_settings *settings,
                                            const qb_progress *progress, qb_quantize_info *info, qb_error *error);

#endif
