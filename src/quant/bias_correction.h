/* Bias correction: the bias takes away the mean error that rounded weights put on a layer's output (Nagel et al. 2019).
 *
 *   with data     b' = b - mean(W' xh - W x), measured on the calibration columns; errors of layers before included
 *   without       b' = b - (W' - W) E[x], E[x] per input channel from BatchNormalization statistics (moments.h) */
#ifndef QB_QUANT_BIAS_CORRECTION_H
#define QB_QUANT_BIAS_CORRECTION_H

#include "quant/gram.h"
#include "quant/moments.h"

/* Replaces or adds the bias of the layer in `graph`, which qb_layer_bias_is_free. `weights` are the rounded ones
 * (OC, K); the gram is finished. A bias constant that others use too is copied first. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_bias_correct(qb_graph *graph, const qb_linear *linear, const qb_gram *gram,
                                        const float *weights, qb_error *error);

/* Corrects every layer of `graph`, a clone of `original` with rounded weights and the same nodes, whose inputs' means
 * are known: `moments` are those of `original`. *corrected: how many. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_bias_correct_free(const qb_graph *original, qb_graph *graph, const qb_moments *moments,
                                             int *corrected, qb_error *error);

#endif
