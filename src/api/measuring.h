/* Running networks over samples and keeping count; the body of qb_measure. */
#ifndef QB_API_MEASURING_H
#define QB_API_MEASURING_H

#include "api/model.h"
#include "api/samples.h"

/* Fills everything of `measurement` but paths, sizes and the wall time. */
QB_MUST_CHECK qb_status qb_measure_samples(const qb_model *model, const qb_model *other, const qb_samples *samples,
                                           const qb_measure_settings *settings, const qb_progress *progress,
                                           qb_measurement *measurement, qb_error *error);

/* Seconds on a clock that never goes back. */
double qb_seconds(void);

#endif
