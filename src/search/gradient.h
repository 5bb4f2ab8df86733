/* How the outputs of a network change with its input: our own backward pass, one rule per operator.
 *
 * The forward pass runs on the fast engine and keeps every activation; a pull takes weights of the outputs back to the
 * input, in float32 with plain loops (reverse mode). Where an operator has a kink one of its one-sided slopes is taken;
 * a quantizer counts as the identity inside its range and as constant outside ("straight through", Bengio et al. 2013).
 * It guides a search and proves nothing. */
#ifndef QB_SEARCH_GRADIENT_H
#define QB_SEARCH_GRADIENT_H

#include "run/run.h"

typedef struct qb_gradient qb_gradient;

/* Borrows `graph`: one input, its first output counts. `threads`: 0 is all cores. QB_ERROR_MEMORY and what the executor
 * returns. */
QB_MUST_CHECK qb_status qb_gradient_create(const qb_graph *graph, int32_t threads, qb_gradient **gradient,
                                           qb_error *error);
void qb_gradient_free(qb_gradient *gradient);

/* Runs the network at `x` (the elements of the input) and returns its first output, valid until the next call. */
QB_MUST_CHECK qb_status qb_gradient_forward(qb_gradient *gradient, const float *x, const float **y, qb_error *error);

/* dx[i] = sum_k weights[k] dy_k/dx_i at the point of the last forward call. False, and dx unchanged, when `deadline`
 * (of qb_clock_seconds, 0: none) passed before all nodes were done. */
bool qb_gradient_pull(qb_gradient *gradient, const float *weights, double deadline, float *dx);

#endif
