/* Networks evaluated in float32, every sum in an order of its own: forwards, backwards, shuffled, by pairs, in blocks,
 * with fused operations, an Add sometimes as one more term of the layer in front of it. What a bound says of "any
 * evaluation in float32" must hold for all of them. Failures end the test. */
#ifndef QB_SUPPORT_FLOAT_RUN_H
#define QB_SUPPORT_FLOAT_RUN_H

#include "base/rng.h"
#include "graph/graph.h"

typedef struct float_run {
  const qb_graph *graph;
  float **value; /* (value_count) of every activation and constant; those of codes hold codes */
  float *left, *right, *sums;
} float_run;

void float_run_create(const qb_graph *graph, float_run *run);
void float_run_free(float_run *run);

/* Whether all operators are there: all but Sigmoid, Tanh, Softmax. */
bool float_run_supports(const qb_graph *graph);

/* One sample; orders are drawn from `rng`. */
void float_run_forward(float_run *run, const float *input, qb_rng *rng);

#endif
