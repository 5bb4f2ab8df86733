/* Where measuring gets its inputs: a dataset on disk, or digits that qbound draws. */
#ifndef QB_API_SAMPLES_H
#define QB_API_SAMPLES_H

#include "data/dataset.h"

typedef struct qb_samples {
  qb_dataset *dataset;      /* NULL: drawn digits */
  qb_preprocess preprocess; /* of the digits */
  uint64_t seed;
  int64_t skip, count;
  qb_shape shape; /* of one sample, without a batch axis */
  int label_offset;
} qb_samples;

/* Opens what `data` names; QB_ERROR_ARGUMENT when nothing is left to use, errors of the dataset. Close in every
 * case. */
QB_MUST_CHECK qb_status qb_samples_open(const qb_data *data, qb_samples *samples, qb_error *error);
void qb_samples_close(qb_samples *samples);

/* Reads samples [first, first + count) into `input`, one after the other, and their classes as the network counts
 * them (label + offset, -1 without a label) into `labels`. Decodes in parallel. */
QB_MUST_CHECK qb_status qb_samples_read(const qb_samples *samples, int64_t first, int32_t count, float *input,
                                        int32_t *labels, qb_error *error);

#endif
