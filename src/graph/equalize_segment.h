/* A segment: a linear layer, the homogeneous operators behind it, and the linear layers that read them. Its channels
 * can be scaled without changing the network's function. Private to the equalization pass. */
#ifndef QB_GRAPH_EQUALIZE_SEGMENT_H
#define QB_GRAPH_EQUALIZE_SEGMENT_H

#include "graph/graph.h"

enum { QB_SEGMENT_CONSUMERS = 16, QB_SEGMENT_CLIPS = 16 };

typedef struct qb_segment {
  qb_linear source;
  int64_t channels;
  qb_linear consumers[QB_SEGMENT_CONSUMERS];
  int32_t consumer_count;
  qb_node_id clips[QB_SEGMENT_CLIPS]; /* with a finite upper limit */
  int32_t clip_count;
  bool had_its_turn; /* in this sweep, as the second half of a triple */
  double *scale;     /* (channels) product of all factors applied, in the graph's arena */
  bool *left_alone;  /* (channels) a product was not exact, in the graph's arena */
} qb_segment;

/* Finds the segment behind layer `node`. *why is NULL when it can be scaled, else the reason why not. */
void qb_segment_find(const qb_graph *graph, qb_node_id node, qb_segment *segment, const char **why);

/* Gives the segment's weights, biases and Clip limits data of their own that may be changed, and its arrays. `owned`
 * (value_count) tells which constants have it already. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_segment_own(qb_graph *graph, qb_segment *segment, bool *owned, qb_error *error);

/* Writes Clip limits that are the same in every channel as one number again; returns how many are not. */
int32_t qb_segment_join_limits(qb_graph *graph, const qb_segment *segment);

/* max |w| per channel: of the source's rows into `rows`, of all consumers' columns into `columns`. */
void qb_segment_ranges(const qb_graph *graph, const qb_segment *segment, double *rows, double *columns);

/* Sum of |w| per channel, likewise. */
void qb_segment_sums(const qb_graph *graph, const qb_segment *segment, double *rows, double *columns);

/* Divides channel c by factors[c] > 0 in the source and the limits, multiplies it in the consumers. A channel in which
 * a product would overflow, or with `exact` be rounded, is skipped and marked. *change grows to the largest relative
 * rounding. Returns the number of channels changed. */
int64_t qb_segment_scale(qb_graph *graph, qb_segment *segment, const double *factors, bool exact, double *change);

#endif
