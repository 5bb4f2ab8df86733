/* Probabilistic bounds from moments (Cantelli) and from independent rounding errors (Hoeffding); theory section 5.
 *
 * With the true moments these are guarantees. With moments of a sample they are estimates and have to be called so:
 * the caller knows which it passes. All results are rounded up. QB_ERROR_ARGUMENT for a negative variance, a
 * probability outside (0, 1) or a number that is not finite. */
#ifndef QB_STATS_CANTELLI_H
#define QB_STATS_CANTELLI_H

#include <qbound/qbound.h>

/* P(X >= *limit) <= probability for every X of this mean and variance: mean + sqrt(variance (1 - d) / d). */
QB_MUST_CHECK qb_status qb_cantelli_limit(double mean, double variance, double probability, double *limit,
                                          qb_error *error);

/* One layer l of the layerwise bound: moments of the realised ratios X_l = ||W_l D_{l-1}|| / ||D_{l-1}|| and
 * Y_l = ||dW_l S'_{l-1}|| / ||S'_{l-1}||, where D is the difference of the states and S' the quantized state. */
typedef struct qb_ratio_moments {
  double mean_x, mean_y; /* >= 0 */
  double variance_x, variance_y, covariance;
  double state_bound; /* B_{l-1} >= ||S'_{l-1}|| */
  double probability; /* d_l, that this layer's step may fail */
} qb_ratio_moments;

/* A_l = m_l + sqrt(v_l (1 - d_l) / d_l) with m_l = mean_x A_{l-1} + mean_y B_{l-1} and
 * v_l = A^2 variance_x + B^2 variance_y + 2 A B covariance, from A_0 = `initial`. limits (count) receives A_1..A_L;
 * *probability the sum of d_l, by which the last limit may fail. A slightly negative v_l (rounded moments) counts as
 * 0; one below -1e-9 of its positive part is an error. */
QB_MUST_CHECK qb_status qb_cantelli_layerwise(const qb_ratio_moments *layers, int64_t count, double initial,
                                              double *limits, double *probability, qb_error *error);

/* G_l = ratio_l G_{l-1} + term_l from G_0 = 0 for one input, rounded up: ratios are X_l, terms ||dW_l S'_{l-1}||;
 * both non-negative. */
double qb_ratio_chain(const double *ratios, const double *terms, int64_t count);

/* Mean and unbiased variance of n >= 2 numbers. Sample moments: what follows from them is an estimate. */
QB_MUST_CHECK qb_status qb_sample_moments(const double *values, int64_t n, double *mean, double *variance,
                                          qb_error *error);

/* Stochastic rounding with step s: errors independent, centred, each in an interval of length s. For a fixed input x
 * and `outputs` outputs, P(some |(dW x)_o| >= *radius) <= probability over the seed, before it is drawn:
 * radius = s ||x||_2 sqrt(log(2 outputs / d) / 2) (Hoeffding with a union bound). */
QB_MUST_CHECK qb_status qb_hoeffding_radius(double step, double input_norm, int64_t outputs, double probability,
                                            double *radius, qb_error *error);

/* A layer whose weights are rounded stochastically, as seen before the draw: dW S for a fixed S, all outputs at once.
 * Every weight moves by s_c (b - p), b one of 0 and 1 with mean p, all independent, and by at most `impurity` s_c that
 * may depend on the draw. */
typedef struct qb_rounded_layer {
  double step_squares; /* >= sum of s_c^2 over the output channels of a group, the largest group's */
  double largest_step; /* >= every s_c */
  int64_t outputs;     /* elements of the output */
  int64_t overlap;     /* windows that an element of the input can lie in, at most */
  int64_t row, column; /* entries of the layer's matrix in a row, and in a column, at most */
  double impurity;     /* >= 0 */
} qb_rounded_layer;

/* *factor: P(||dW S||_2 > factor ||S||_2) <= probability over the draw, for any fixed S: the least of three bounds
 * (docs/bounds.md, section 3f), none of which depends on the draw. */
QB_MUST_CHECK qb_status qb_rounding_factor(const qb_rounded_layer *layer, double probability, double *factor,
                                           qb_error *error);

#endif
