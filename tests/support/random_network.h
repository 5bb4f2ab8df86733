/* Random pairs of networks, original and changed, for tests that try to break bounds: every operator, chains and
 * residual graphs, odd strides, asymmetric pads, dilation, groups, zero channels, 2 to 16 bits, clips that exclude 0.
 *
 * Maps are tiny (a few channels of a few pixels), so that a search over inputs comes close to the worst case. */
#ifndef QB_TESTS_RANDOM_NETWORK_H
#define QB_TESTS_RANDOM_NETWORK_H

#include "base/rng.h"
#include "bound/bound.h"
#include "graph/pair.h"

typedef struct random_style {
  int32_t nodes;  /* about this many operators, at least one with weights */
  bool vector;    /* input (1, N) instead of (1, C, H, W) */
  bool chain;     /* layers, Relu and pools only: the published bounds speak about the network */
  bool paths;     /* what the two-stage bound has rules for, and nothing else */
  bool small;     /* at most ten inputs */
  bool has_focus; /* one node at least of the operator `focus` where the shapes allow it */
  qb_op focus;
  bool biases;                /* layers may have biases */
  bool nonnegative;           /* weights, biases and inputs >= 0, and the change keeps that */
  bool shrinking;             /* weights only lose absolute value: with `nonnegative` bounds can be met exactly */
  bool differing_constants;   /* biases, clip limits and constant operands differ as in anybody's file */
  bool quantized_activations; /* the quantized graph has QuantizeLinear/DequantizeLinear on activations */
  int32_t bits;               /* 2..16: weights of the quantized network lie on such a grid */
  double norm;                /* typical row norm of the layers */
} random_style;

typedef struct random_network {
  random_style style;
  qb_graph original, quantized;
  qb_pair pair;
  qb_domain domain;
} random_network;

/* A style with every option drawn at random. */
random_style random_network_style(qb_rng *rng);

/* Builds the two networks, their pair and a domain. Free with random_network_free. */
void random_network_create(qb_rng *rng, const random_style *style, random_network *network);
void random_network_free(random_network *network);

/* Makes the domain a box around a random point in it, of one of the (count) parts of its width; 1 leaves it alone. */
void random_network_shrink(random_network *network, const double *parts, int count, qb_rng *rng);

/* One line per node, for a failure message; truncated to fit. Returns `text`. */
const char *random_network_describe(const random_network *network, char *text, size_t size);

#endif
