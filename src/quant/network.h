/* Quantizing a whole network: what is done before its weights are rounded, the weights, the biases, the activations,
 * and a guard over all of it. */
#ifndef QB_QUANT_NETWORK_H
#define QB_QUANT_NETWORK_H

#include "quant/moments.h"
#include "quant/quant.h"

/* From `original`, BatchNorm folded, makes two clones:
 *   prepared    the float network with channels equalized and biases absorbed where the settings ask for it
 *   quantized   a clone of it with rounded weights, corrected biases, quantizers on activations
 * `statistics` are those of its BatchNormalizations before folding.
 *
 * Preparing is first tried with nearest codes, on calibration samples or, without any, on random inputs, and dropped
 * where the network's output is nearer to the original's without it. The finished network is compared with plain
 * nearest rounding of the original, activations quantized as asked, and plain rounding kept where that is better: info
 * says both. QB_ERROR_ARGUMENT, QB_ERROR_MEMORY, QB_ERROR_INTERRUPTED, errors of reading and running samples. Free both
 * graphs in every case; `quantized` borrows from `prepared`, that from `original`. */
QB_MUST_CHECK qb_status qb_quantize_network(const qb_graph *original, const qb_statistics *statistics,
                                            const qb_quantize_settings *settings, const qb_progress *progress,
                                            qb_graph *prepared, qb_graph *quantized, qb_quantize_info *info,
                                            qb_error *error);

/* The prepared network alone, without trying whether it helps: for plans that are made before any rounding. Errors as
 * above; free it in every case, it borrows from `original`. */
QB_MUST_CHECK qb_status qb_quantize_prepare(const qb_graph *original, const qb_statistics *statistics,
                                            const qb_quantize_settings *settings, const qb_progress *progress,
                                            qb_graph *prepared, qb_error *error);

#endif
