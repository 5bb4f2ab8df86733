/* Held-out inputs: what can be checked of "independent, and never used to make the network". */
#ifndef QB_API_HELD_OUT_H
#define QB_API_HELD_OUT_H

#include "api/model.h"
#include "base/progress.h"

typedef struct qb_held_out {
  bool calibration_known;      /* the file says which samples made it, if any: qbound wrote it */
  int64_t calibration_samples; /* how many */
} qb_held_out;

/* Refuses data of which two samples have the same content, or of which one is among the samples that the metadata of
 * `quantized` names as used (calibration_source.h). Contents are compared after preprocessing: another preprocessing
 * of the same image is another content. QB_ERROR_ARGUMENT names the samples and says what to do; errors of reading;
 * QB_ERROR_FORMAT for metadata that cannot be read. `path` is that of the data, `threads` as everywhere. */
QB_MUST_CHECK qb_status qb_held_out_check(const qb_dataset *dataset, const char *path, const qb_model *quantized,
                                          int threads, const qb_progress *progress, qb_held_out *facts,
                                          qb_error *error);

#endif
