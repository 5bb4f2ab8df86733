/* The worst case of a certificate: one number with the method that proved it and what somebody who trusts nothing needs
 * in order to prove it again (docs/certificate.md).
 *
 * Balls around inputs will be a list of such statements over smaller domains. */
#ifndef QB_BOUND_CERTIFICATE_H
#define QB_BOUND_CERTIFICATE_H

#include "bound/bound.h"
#include "bound/interval.h"
#include "bound/spectral.h"

enum { QB_CERTIFICATE_METHODS = 6 };

typedef struct qb_method_outcome {
  qb_bound_method method;
  qb_bound bound;
} qb_method_outcome;

typedef struct qb_worst_case {
  qb_method_outcome outcomes[QB_CERTIFICATE_METHODS]; /* (count) every method that was tried */
  int32_t count;
  bool proved; /* some method applies; else nothing below is set */
  qb_bound_method method;
  qb_magnitude bound;       /* the smallest */
  int64_t output_count;     /* elements of the first output */
  qb_output_range *outputs; /* (output_count) of R' - R, NULL where the method gives none */
  double range_width;       /* the original's first output moves by at most this over the domain, the
                             * largest of all elements; infinity when unknown */
  const qb_graph *graph;    /* the quantized one, for the names of nodes in the witness */
  bool has_spectral;        /* the witness below belongs to `method` */
  qb_spectral_result spectral;
} qb_worst_case;

/* Bounds the pair with every method in `methods` (bit m is qb_bound_method m: the graph bounds) and keeps the smallest.
 * Layerwise is computed in any case, for `range_width`. `output` is the one output element that counts, or -1 for all.
 * Only networks with one output. QB_ERROR_UNSUPPORTED, QB_ERROR_NUMERIC, QB_ERROR_MEMORY. Release with
 * qb_worst_case_free in every case. */
QB_MUST_CHECK qb_status qb_worst_case_bound(const qb_pair *pair, const qb_domain *domain, uint32_t methods,
                                            int64_t output, qb_worst_case *worst, qb_error *error);

/* Whatever is claimed has a margin over what was proved, so that an independent evaluation with other rounding
 * constants can confirm it: of the number itself, of the size of the outputs that it is a difference of, and of a
 * spectral norm in a witness (far less than that of the bound, which norms multiply up to). */
#define QB_MARGIN_OF_BOUND 1e-6
#define QB_MARGIN_OF_OUTPUT 1e-12
#define QB_MARGIN_OF_NORM 1e-9

/* What a certificate claims where `x` >= 0 was proved. 0, infinity stay. */
double qb_worst_case_claimed(const qb_worst_case *worst, double x);

/* The range that is claimed of output k of R' - R. Only with `outputs`. */
qb_output_range qb_worst_case_claimed_range(const qb_worst_case *worst, int64_t k);

/* The range that is claimed of an output that proves to change by `difference`, where the outputs of R are at most
 * `largest`, which may be infinite. [0, 0] stays: equal networks. */
qb_output_range qb_ball_claimed_range(qb_interval difference, double largest);

void qb_worst_case_free(qb_worst_case *worst);

#endif
