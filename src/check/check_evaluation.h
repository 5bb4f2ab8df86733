/* Evaluation in float32: how far what is computed can be from the exact function of what was computed before, whatever
 * the order of sums, fused or not, with gradual underflow. */
#ifndef QB_CHECK_EVALUATION_H
#define QB_CHECK_EVALUATION_H

#include "check/check_cells.h"

/* Of one result with n roundings on the way of each of its terms, whose sizes sum up to `size`, and `lost` of which may
 * underflow; infinity where a partial result may overflow. */
double evaluation_error(const qb_pair *pair, double n, double size, double lost);

/* `t`, cell number `cell` of y, with errors of that size in the original and in the quantized network. */
triple evaluated(const walk *w, qb_value_id y, int64_t cell, triple t, const double errors[2]);

/* How many roundings an Add or Sub has: one, or as part of the sum of a layer in front of it one more than that. */
double evaluation_roundings_of_add(const qb_graph *graph, const qb_node *node);

/* Terms of an average. */
double evaluation_window(const qb_graph *graph, const qb_node *node);

/* Widens the cells of a node's output, layers with weights apart (check_linear.c); false where it is not known how. */
QB_MUST_CHECK qb_status cells_evaluate(walk *w, qb_node_id node, bool *known);

/* How far evaluations of the first output are from the exact functions, network by network: for claims that follow from
 * the exact functions and this. */
typedef struct evaluation_errors {
  bool known; /* false: a node has no rule, `why` says which */
  char why[320];
  int64_t count;
  double *of[2]; /* (count) of the original, of the quantized network; NULL: none was asked for */
} evaluation_errors;

/* Over the domain (elements of the input). QB_ERROR_MEMORY. Release with evaluation_errors_free in every case. */
QB_MUST_CHECK qb_status evaluation_errors_find(const qb_pair *pair, const range *domain, evaluation_errors *e,
                                               qb_error *error);

/* What both add to the difference of the output that counts, or the largest of all (-1). */
double evaluation_errors_most(const evaluation_errors *e, int64_t output);
void evaluation_errors_free(evaluation_errors *e);

/* Operators that move or compare numbers and round none. */
bool evaluation_is_exact(qb_op op);

#endif
