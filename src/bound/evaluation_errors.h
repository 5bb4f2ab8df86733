/* How far float32 evaluation of each network of a pair can be from its own exact function (docs/bounds.md 3h): what is
 * added to a bound of the exact functions, so that it holds for evaluations as well. */
#ifndef QB_BOUND_EVALUATION_ERRORS_H
#define QB_BOUND_EVALUATION_ERRORS_H

#include "bound/bound.h"

typedef struct qb_evaluation_errors {
  bool applies;
  char why[200];    /* the node without a rule when it does not apply */
  int64_t count;    /* elements of the first output */
  double *error[2]; /* (count) of the original, of the quantized network */
} qb_evaluation_errors;

/* By intervals over the domain, network by network. `pair` is what bounds speak of, its codes off by one; whether it
 * asks for float32 itself does not matter. No rule for a node makes it not apply, which is no error. QB_ERROR_MEMORY.
 * Release with qb_evaluation_errors_free in every case. */
QB_MUST_CHECK qb_status qb_bound_evaluation_errors(const qb_pair *pair, const qb_domain *domain,
                                                   qb_evaluation_errors *errors, qb_error *error);

/* What is added to a bound of the difference of output k, rounded up. */
double qb_evaluation_errors_at(const qb_evaluation_errors *errors, int64_t k);

void qb_evaluation_errors_free(qb_evaluation_errors *errors);

#endif
