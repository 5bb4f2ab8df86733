/* Holding networks against a promise: on samples that nothing has seen, and by proof. */
#ifndef QB_API_ALLOCATE_CHECK_H
#define QB_API_ALLOCATE_CHECK_H

#include "api/model.h"
#include "bound/bound.h"

/* Verification samples of a call. */
typedef struct qb_verifier {
  const qb_model *model;
  const qb_allocate_settings *how;
  int threads;
  qb_dataset *dataset;        /* NULL without */
  qb_calibration_trace trace; /* of the samples */
  int64_t count, allowed;     /* allowed: most flips that keep a promised rate, -1: not even 0 */
  int64_t needed;             /* samples with which 0 flips would do */
} qb_verifier;

/* Opens how->verify, where there is some, and refuses samples that calibration has used or that occur twice. Close in
 * every case. */
QB_MUST_CHECK qb_status qb_verifier_open(qb_verifier *verifier, const qb_calibration *calibration, qb_error *error);
void qb_verifier_close(qb_verifier *verifier);

/* Runs the network on the verification samples and fills `test`, `passed` for promises about samples. */
QB_MUST_CHECK qb_status qb_verifier_test(const qb_verifier *verifier, const qb_model *quantized,
                                         const qb_progress *progress, qb_allocation_test *test, qb_error *error);

/* True when the network keeps a promise about samples on the first `limit` calibration samples as they are, without a
 * statement about others: what fails here is not worth a test. True without calibration. */
QB_MUST_CHECK qb_status qb_verifier_promising(const qb_verifier *verifier, const qb_calibration *calibration,
                                              int64_t limit, const qb_model *quantized, bool *promising,
                                              qb_error *error);

/* test->certified: the bound that `qbound certify` would print, layerwise or interval; INFINITY when none applies. */
QB_MUST_CHECK qb_status qb_verifier_certify(const qb_verifier *verifier, const qb_domain *domain,
                                            const qb_model *quantized, qb_allocation_test *test, qb_error *error);

#endif
