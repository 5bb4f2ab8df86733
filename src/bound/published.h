/* The published bounds of theory section 2 over the chain of layers: prior (Gonon et al. 2023, Theorem 3.5), general
 * (Theorem 4.1), cnn (Theorem 4.4) and the unsummed form.
 *
 * Without biases each is the theorem's plain formula. With biases the plain formulas of the last three are false
 * (theory section 2 has the counterexample) and the smallest of the forms G1, G3, G4 whose hypotheses are proved in
 * outward arithmetic takes their place. */
#ifndef QB_BOUND_PUBLISHED_H
#define QB_BOUND_PUBLISHED_H

#include "bound/bound.h"
#include "bound/chain.h"

typedef struct qb_published {
  double delta;             /* >= the largest change of one parameter over the chain; 0 when nothing changed */
  int32_t biased_layers;    /* layers with a non-zero bias in either network, dropped ones not counted */
  int32_t quantized_biases; /* layers whose bias changed */
  bool is_network;          /* the chain is this network, so the bounds hold for it */
  char why_not[QB_CHAIN_WHY];
  qb_bound prior, general, cnn, chain_unsummed;
} qb_published;

/* Bounds for the pair over inputs with |x_i| <= radius. `chain` was extracted from pair->original. One pass over the
 * quantized weights. QB_ERROR_FORMAT when a chain layer has no partner, QB_ERROR_SHAPE when weights differ in shape,
 * QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_published_bounds(const qb_chain *chain, const qb_pair *pair, double radius,
                                            qb_published *published, qb_error *error);

#endif
