/* Which layer makes the bound large, before any bits are chosen (theory section 8).
 *
 * The layerwise bound of the output error is linear in what each layer adds, |dW_l| a_{l-1}: one reverse pass through
 * the network of |weights| gives the factor with which an error at every channel of every value can arrive at the
 * outputs, summed over their elements. In order B of theory 3.1 errors pass through the original weights, so the
 * factors do not depend on the bits; a is the original network's own range. Caps are left out on purpose: a bound that
 * a ReLU6 cuts off says nothing about shares.
 *
 * These are scores for choosing bits, no certificate: rounding is to nearest. */
#ifndef QB_BOUND_ATTRIBUTION_H
#define QB_BOUND_ATTRIBUTION_H

#include "bound/bound.h"

typedef struct qb_attribution qb_attribution;

/* Borrows `graph`. QB_ERROR_UNSUPPORTED where the layerwise bound has no rule, QB_ERROR_SHAPE, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_attribution_create(const qb_graph *graph, const qb_domain *domain,
                                              qb_attribution **attribution, qb_error *error);
void qb_attribution_free(qb_attribution *attribution);

/* log2 of the layer's part of the bound when its weights become `after` (same layout): the sum over output channels of
 * factor * |dW| a. -INFINITY when nothing changes. */
double qb_attribution_layer(const qb_attribution *attribution, const qb_linear *linear, const float *after);

#endif
