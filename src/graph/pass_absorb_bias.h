/* Bias absorption (theory 7; Nagel et al. 2019): where a channel is hardly ever below c > 0 in front of its activation,
 * c moves out of the layer's bias and, times the weights that read it, into the biases of the next layers. Activations
 * get smaller ranges. The function stays where the channel is at least c, since relu(x) - c = relu(x - c) there, and
 * changes where it is not: this is no exact pass, and bounds count what it moves as an error. */
#ifndef QB_GRAPH_PASS_ABSORB_BIAS_H
#define QB_GRAPH_PASS_ABSORB_BIAS_H

#include "graph/graph.h"

/* Of one layer: what its output channels are hardly ever below. */
typedef struct qb_layer_floor {
  const char *node;
  int64_t channels;
  double *floor; /* (channels); 0 or less: nothing moves. Afterwards what has moved */
} qb_layer_floor;

typedef struct qb_absorb_left {
  const char *node; /* a layer that has positive floors and keeps its bias */
  const char *why;  /* a static sentence */
} qb_absorb_left;

typedef struct qb_absorb_info {
  int32_t places;   /* layers with channels that moved */
  int64_t channels; /* that moved */
  int32_t left_count;
  const qb_absorb_left *left; /* (left_count), in the graph's arena */
} qb_absorb_info;

/* Absorbs what the floors allow. A layer is left alone where one of the next layers pads (its zeros would have to
 * become -c), has no bias that may change, or where an operator between is no shift. Clip limits move too, a channel
 * whose limit is not above its floor stays. QB_ERROR_MEMORY; after an error the graph must be dropped. */
QB_MUST_CHECK qb_status qb_absorb_bias(qb_graph *graph, qb_layer_floor *floors, int32_t count, qb_absorb_info *info,
                                       qb_error *error);

#endif
