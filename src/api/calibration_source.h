/* Calibration samples of a call: where they come from, and the trace of them that goes into written files. */
#ifndef QB_API_CALIBRATION_SOURCE_H
#define QB_API_CALIBRATION_SOURCE_H

#include "data/dataset.h"

typedef struct qb_calibration_source {
  qb_dataset *dataset; /* NULL: the caller's own function, or no samples */
} qb_calibration_source;

/* Which samples were used: file metadata `qbound.calibration`. The text is "COUNT HASH HASH ..", one HASH a sample: the
 * first 16 hexadecimal digits of the SHA-256 that qb_dataset_hash gives, so that a reader can refuse to test a network
 * on the samples that made it. */
typedef struct qb_calibration_trace {
  int64_t count;
  char *text; /* from qb_alloc, NULL without samples */
} qb_calibration_trace;

/* Opens settings->calibration_data when it is needed and makes settings->calibration read from it. Close in every
 * case, after the last use of the settings. QB_ERROR_SHAPE when samples and network do not fit; errors of opening. */
QB_MUST_CHECK qb_status qb_calibration_open(const qb_model *model, qb_quantize_settings *settings,
                                            qb_calibration_source *source, qb_error *error);
void qb_calibration_close(qb_calibration_source *source);

/* Reads the samples once more for their hashes. */
QB_MUST_CHECK qb_status qb_calibration_record(const qb_calibration *calibration, const qb_model *model,
                                              qb_calibration_trace *trace, qb_error *error);

#endif
