/* Weight quantization of a graph: grids, codes, information about what was done. */
#ifndef QB_QUANT_QUANT_H
#define QB_QUANT_QUANT_H

#include "base/progress.h"
#include "graph/graph.h"

/* QB_ERROR_ARGUMENT says which field is out of its documented range or does not go with another, and the valid ones. */
QB_MUST_CHECK qb_status qb_quantize_settings_check(const qb_quantize_settings *settings, qb_error *error);

/* Replaces the weight of every linear layer of `graph` (usually a clone) by its dequantized float32 values and
 * attaches the codes. Biases stay float. The recorded weights are exactly those a DequantizeLinear computes in
 * float32: scale * (code - zero_point), each operation rounded to nearest.
 *
 * A weight shared by several layers is quantized once. One that something else uses too (a Mul, a network output) is
 * copied first, so that only layers change. Layers that the plan keeps float, and a plan entry that names no layer or
 * gives tied layers different bits, are told apart: the first is done, the others are errors.
 *
 * Info: one entry per layer in graph order; release it with qb_quantize_info_free, also after an error.
 * QB_ERROR_ARGUMENT for settings out of range and for schemes that need calibration data, QB_ERROR_NUMERIC for NaN or
 * Inf weights, QB_ERROR_MEMORY, QB_ERROR_INTERRUPTED. After an error some layers may be quantized: drop the graph. */
QB_MUST_CHECK qb_status qb_quantize_weights(qb_graph *graph, const qb_quantize_settings *settings,
                                            const qb_progress *progress, qb_quantize_info *info, qb_error *error);

#endif
