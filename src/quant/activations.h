/* Quantizing the activations of a network: which values, over which ranges. */
#ifndef QB_QUANT_ACTIVATIONS_H
#define QB_QUANT_ACTIVATIONS_H

#include "base/progress.h"
#include "graph/graph.h"

/* Fields of the settings that concern activations: QB_ERROR_ARGUMENT says what is wrong. */
QB_MUST_CHECK qb_status qb_activation_settings_check(const qb_quantize_settings *settings, qb_error *error);

/* Runs `graph`, whose weights may be quantized already, over the calibration samples of the settings, chooses a grid
 * of unsigned codes for every value that layers read, and inserts QuantizeLinear and DequantizeLinear behind it:
 *   the network's input; the outputs of layers, Add, averages and other arithmetic, behind the Relu or Clip that
 *   follows them alone; the outputs of MaxPool with the grid of its input, where they change nothing.
 * Rearranged values (Flatten, Transpose, ..) pass through, what only the network's outputs, Softmax included, read
 * stays float. *count: number of values with quantizers. Nothing to do when activation_bits is 0.
 * QB_ERROR_ARGUMENT (the network has several inputs), QB_ERROR_UNSUPPORTED (it quantizes activations already),
 * QB_ERROR_NUMERIC (NaN or infinity on a sample), QB_ERROR_MEMORY, QB_ERROR_INTERRUPTED and errors of reading and
 * running; after an error drop the graph. */
QB_MUST_CHECK qb_status qb_quantize_activations(qb_graph *graph, const qb_quantize_settings *settings,
                                                const qb_progress *progress, int32_t *count, qb_error *error);

#endif
