/* qbound: how errors arise layer by layer on held-out inputs. Part of qbound.h, which includes it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QBOUND_LAYER_STATISTICS_H
#define QBOUND_LAYER_STATISTICS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a layer, or another node that can enlarge a difference, did on the held-out inputs: D is the difference of the
 * two networks' states, S' the quantized network's state in front of it. Means and standard deviations over inputs. */
typedef struct qb_layer_statistics_claim {
  const char *node;
  double ratio_mean, ratio_deviation;   /* X = ||W D||_2 / ||D||_2 */
  double change_mean, change_deviation; /* Y = ||dW S' + db||_2 / ||S'||_2 */
  double difference_mean;               /* ||D||_2 behind it */
  double limit;                         /* A, of the layerwise recursion */
} qb_layer_statistics_claim;

/* A layer that was rounded stochastically, as seen before the draw. */
typedef struct qb_rounding_claim {
  const char *node;
  double sigma;  /* >= the l2 operator norm of W */
  double factor; /* P(||dW S||_2 > factor ||S||_2) is at most delta / layers, for any fixed S */
} qb_rounding_claim;

/* Layerwise statements about ||D_L||_2, the l2 norm of the change of the first output (docs/bounds.md, section 3f).
 *
 * Estimate: with the true moments of G, P(||D_L|| > mean + deviation sqrt((1 - delta) / delta)) <= delta (Cantelli).
 * The moments are those of the held-out inputs, so nothing here is guaranteed.
 *
 * Guarantee: for each of the first `inputs` inputs alone, over the draw of the seed and before it,
 * P(||D_L|| > bound) <= delta. It says nothing once the seed has been chosen with a view to its result. */
typedef struct qb_layerwise_statistics {
  double delta;                           /* 1 - confidence */
  double chain_mean, chain_deviation;     /* of G_L, which is at least ||D_L|| on every input */
  double bound;                           /* end to end */
  double recursion;                       /* A_L, with delta split over the layers */
  double measured_quantile, measured_max; /* of ||D_L||: the smallest rank with a share of at most delta above it */
  int64_t above;                          /* inputs whose ||D_L|| is above `bound` */
  int layer_count;
  qb_layer_statistics_claim *layers; /* (layer_count) */
  bool guaranteed;                   /* the quantized file came about by stochastic rounding, and the rest is set */
  char why_not[200];                 /* otherwise */
  int64_t inputs;
  double guarantee_first, guarantee_largest; /* of the bounds of these inputs */
  double first_measured;                     /* ||D_L|| of the first, with the seed that was drawn */
  int64_t guarantee_above;                   /* of these inputs, those that exceed their bound */
  int rounded_count;
  qb_rounding_claim *rounded; /* (rounded_count) */
} qb_layerwise_statistics;

#ifdef __cplusplus
}
#endif

#endif
