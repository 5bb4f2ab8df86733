/* Means and variances of activations, channel by channel, without data (Nagel et al. 2019).
 *
 * Behind a BatchNormalization a channel has mean beta and deviation |gamma|, taken as normal; Relu, LeakyRelu and Clip
 * make a clipped normal of it, Add adds, averages and MaxPool keep the mean (an estimate from below for the latter).
 * Layers without statistics of their own sum up their inputs' as if these were independent. The network's input counts
 * as mean 0 and variance 1, as preprocessing makes it. Estimates, for choosing biases and factors: never for a bound.
 */
#ifndef QB_QUANT_MOMENTS_H
#define QB_QUANT_MOMENTS_H

#include "graph/graph.h"

/* Of the output of a layer. */
typedef struct qb_layer_statistics {
  const char *node; /* borrowed from the graph */
  int64_t channels;
  double *mean, *deviation; /* (channels) each, from qb_alloc in one block at `mean` */
} qb_layer_statistics;

typedef struct qb_statistics {
  qb_layer_statistics *layers; /* (count), from qb_alloc */
  int32_t count;
} qb_statistics;

/* The BatchNormalizations of `unfolded`, by the layer in front of each. QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_statistics_read(const qb_graph *unfolded, qb_statistics *statistics, qb_error *error);
void qb_statistics_free(qb_statistics *statistics);

/* Those of the node's layer, or NULL. */
qb_layer_statistics *qb_statistics_find(const qb_statistics *statistics, const char *node);

typedef struct qb_moments {
  double **mean, **variance; /* (value_count) arrays of one number per entry of axis 1, NULL where nothing is known */
  int32_t value_count;
} qb_moments;

/* Follows moments through `graph`, BatchNormalization folded: statistics of layers before a BatchNormalization that is
 * still a node are passed over. QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_moments_create(const qb_graph *graph, const qb_statistics *statistics, qb_moments *moments,
                                          qb_error *error);
void qb_moments_free(qb_moments *moments);

/* Mean of every input channel of the layer (in_channels), or NULL when it is not known. */
const double *qb_moments_of_layer(const qb_moments *moments, const qb_graph *graph, const qb_linear *linear);

/* Mean and variance of clip(x, lo, hi), x normal; lo and hi may be infinite. */
void qb_clipped_normal(double mean, double deviation, double lo, double hi, double *clipped_mean,
                       double *clipped_variance);

#endif
