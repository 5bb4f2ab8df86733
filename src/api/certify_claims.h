/* The claims of a certificate: what they share, and one function for each. */
#ifndef QB_API_CERTIFY_CLAIMS_H
#define QB_API_CERTIFY_CLAIMS_H

#include "data/dataset.h"
#include "graph/pair.h"
#include "report/certificate_json.h"

/* What one call of qb_certify works with. */
typedef struct qb_certifying {
  const qb_model *model, *quantized;
  const qb_certify_settings *settings;
  const qb_progress *progress;
  qb_certificate *certificate; /* what the caller sees of each claim */
  qb_certificate_parts *parts; /* what the file needs besides */
  qb_error *error;
} qb_certifying;

/* Matches the two networks as they are, or with activations that a quantizer's clamp has absorbed. Free with
 * qb_pair_free, also after an error. */
QB_MUST_CHECK qb_status qb_certify_match(const qb_certifying *c, qb_pair *pair);

/* The largest change of an output over a domain (certify_worst.c). */
QB_MUST_CHECK qb_status qb_certify_worst_case(const qb_certifying *c);

/* Balls around the samples of a data set (certify_balls.c). */
QB_MUST_CHECK qb_status qb_certify_balls(const qb_certifying *c);

/* Planted mistakes, for tests that show that their checks notice them. Always none outside tests. */
typedef enum qb_certify_fault {
  QB_CERTIFY_FAULT_NONE,
  QB_CERTIFY_FAULT_OTHER_CENTRE,    /* the ball lies around the next sample */
  QB_CERTIFY_FAULT_PIXELS_AS_UNITS, /* a radius in px counts as one in network units */
  QB_CERTIFY_FAULT_COUNT
} qb_certify_fault;

extern qb_certify_fault qb_certify_fault_planted;

/* What held-out inputs show about fresh ones, after refusing duplicates and inputs that made the quantized network
 * (certify_statistical.c). */
QB_MUST_CHECK qb_status qb_certify_statistical(const qb_certifying *c);

/* How errors arise layer by layer on the inputs of the statistical claim, which is set already
 * (certify_layerwise.c). */
QB_MUST_CHECK qb_status qb_certify_layerwise(const qb_certifying *c, const qb_dataset *dataset);

#endif
