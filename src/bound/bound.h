/* Certified bounds on sup over the domain of ||R_theta(x) - R_theta'(x)||_inf, one file per theorem.
 *
 * This module is the trusted core: it sees graphs and tensors only, no parser, no engine, no quantizer. Every number
 * that leaves it is an upper bound in exact arithmetic of both networks; all roundings are outward (docs/bounds.md). */
#ifndef QB_BOUND_BOUND_H
#define QB_BOUND_BOUND_H

#include "bound/magnitude.h"
#include "graph/pair.h"

/* A box of inputs: lo[i] <= x[i] <= hi[i] for every element of one sample. */
typedef struct qb_domain {
  int64_t count;
  float *lo, *hi; /* (count), from qb_alloc */
} qb_domain;

/* [lo, hi] for every element of the graph's input. */
QB_MUST_CHECK qb_status qb_domain_interval(const qb_graph *graph, float lo, float hi, qb_domain *domain,
                                           qb_error *error);

/* [lo[c], hi[c]] for every element of channel c (axis 1 of the graph's input); `channels` must match. */
QB_MUST_CHECK qb_status qb_domain_channels(const qb_graph *graph, const float *lo, const float *hi, int32_t channels,
                                           qb_domain *domain, qb_error *error);
void qb_domain_free(qb_domain *domain);

/* max |x_i| over the domain: the paper's D. */
double qb_domain_radius(const qb_domain *domain);

/* The shapes of the published formulas when biases exist (theory section 2, docs/bounds.md). */
typedef enum qb_form { QB_FORM_PLAIN, QB_FORM_G1, QB_FORM_G3, QB_FORM_G4 } qb_form;

/* "plain", "G1", "G3", "G4" */
const char *qb_form_name(qb_form form);

enum { QB_BOUND_WHY = QB_BOUND_WHY_TEXT };

/* One bound: a number of any exponent, or the reason why there is none. */
typedef struct qb_bound {
  bool applies;
  qb_form form;
  qb_magnitude value;     /* meaningful when `applies` */
  char why[QB_BOUND_WHY]; /* the failed hypothesis when not, else "" */
} qb_bound;

/* The program refuses to bound anything in an unsafe floating-point environment: QB_ERROR_NUMERIC when flush-to-zero
 * or denormals-are-zero is on or rounding is not to nearest, in this thread or an OpenMP worker. */
QB_MUST_CHECK qb_status qb_bound_check_environment(qb_error *error);

#endif
