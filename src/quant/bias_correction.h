/* Bias correction: the bias takes away the mean error that rounded weights, and rounded layers before, put on a layer's
 * output (Nagel et al. 2019): b' = b - mean(W' xh - W x), measured on the calibration columns. */
#ifndef QB_QUANT_BIAS_CORRECTION_H
#define QB_QUANT_BIAS_CORRECTION_H

#include "quant/gram.h"

/* True when the node can carry a bias: Conv and Gemm, not MatMul. */
bool qb_bias_can_be_corrected(const qb_graph *graph, const qb_linear *linear);

/* Replaces or adds the bias of the layer in `graph`. `weights` are the rounded ones (OC, K); the gram is finished. A
 * bias constant that others use too is copied first. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_bias_correct(qb_graph *graph, const qb_linear *linear, const qb_gram *gram,
                                        const float *weights, qb_error *error);

#endif
