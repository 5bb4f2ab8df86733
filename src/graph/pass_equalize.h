/* Equalization: moving factors between neighbouring layers, channel by channel, without changing the function.
 *
 * Between a linear layer and the layers that read it, a channel may be divided by s > 0 in the first and multiplied by
 * s in the others when everything between is positively homogeneous: Relu, LeakyRelu, PRelu, copies, pools, Clip from 0
 * with its upper limit divided too (one limit per channel). theory 7; Nagel et al. 2019.
 *
 * The factors are powers of two unless asked otherwise: then every product is exact, and the equalized network is the
 * original one bit for bit in exact arithmetic. Bounds and certificates of it are bounds of the original. A channel in
 * which some product would not be exact (subnormal weights) is left alone. With other factors weights are rounded
 * again: the result is a network that differs by `largest_change`, and certificates speak about it alone. */
#ifndef QB_GRAPH_PASS_EQUALIZE_H
#define QB_GRAPH_PASS_EQUALIZE_H

#include "graph/graph.h"

typedef enum qb_equalize_kind {
  QB_EQUALIZE_RANGE, /* equal max |w| on both sides: s = sqrt(r1 / r2), and (r1 r2 r3)^(1/3) across a depthwise layer */
  QB_EQUALIZE_L1 /* every channel's magnitude bound |W| a + |b| becomes the largest a at the layer's input (with powers
                    of two: between half of it and it), so that no row of |W| sums to more than 1 */
} qb_equalize_kind;

typedef struct qb_equalize_settings {
  qb_equalize_kind kind;  /* default QB_EQUALIZE_RANGE */
  bool power_of_two;      /* default true */
  int32_t sweeps;         /* most passes over the network until nothing changes; range only, default 20, at least 1 */
  double input_magnitude; /* D of the input, for l1; default 1, positive */
} qb_equalize_settings;

typedef struct qb_equalize_left {
  const char *node; /* a layer whose output channels keep their scale */
  const char *why;  /* a static sentence */
} qb_equalize_left;

typedef struct qb_equalize_scaled {
  const char *node;    /* a layer that could be scaled */
  int64_t channels;    /* of its output */
  const double *scale; /* (channels) what its outputs were divided by; 1: left as it was */
} qb_equalize_scaled;

typedef struct qb_equalize_info {
  int32_t places;           /* layers whose output channels could be scaled */
  int64_t channels;         /* channels that were scaled in the end */
  int64_t channels_refused; /* channels left alone because a product would not be exact */
  int32_t clips;            /* Clip nodes that have a limit per channel now */
  int32_t sweeps;           /* passes made */
  double largest_scale;     /* largest of s and 1/s over all channels */
  double largest_change;    /* largest relative rounding of a weight, bias or limit: 0 with powers of two */
  int32_t left_count;
  const qb_equalize_left *left;     /* (left_count), in the graph's arena */
  const qb_equalize_scaled *scaled; /* (places), in the graph's arena */
} qb_equalize_info;

void qb_equalize_settings_default(qb_equalize_settings *settings);

/* Equalizes wherever the function stays the same, and says where it would not. Shared, computed or quantized weights
 * are not touched. QB_ERROR_ARGUMENT, QB_ERROR_MEMORY; after an error the graph must be dropped. */
QB_MUST_CHECK qb_status qb_equalize(qb_graph *graph, const qb_equalize_settings *settings, qb_equalize_info *info,
                                    qb_error *error);

#endif
