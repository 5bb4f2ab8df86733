/* From a stored sample to a network input; the settings and their text form are in dataset.h. */
#ifndef QB_DATA_PREPROCESS_H
#define QB_DATA_PREPROCESS_H

#include "data/dataset.h"

/* A sample as its file stores it. Shapes of rank 3 are (C,H,W) whatever the memory layout. */
typedef struct qb_stored_sample {
  qb_dtype dtype;   /* QB_DTYPE_U8, QB_DTYPE_F32 or QB_DTYPE_F64 */
  qb_shape shape;   /* of any rank from 1 */
  bool interleaved; /* rank 3 in memory order (H,W,C) */
  const void *data; /* borrowed */
  const char *name; /* for errors */
} qb_stored_sample;

/* The shape that qb_preprocess_apply gives for stored samples of a type and shape. QB_ERROR_UNSUPPORTED to resize
 * anything but 8-bit samples of rank 3 or to crop another rank, QB_ERROR_SHAPE when the means do not fit the channels
 * or a size is absurd. */
QB_MUST_CHECK qb_status qb_preprocess_shape(const qb_preprocess *preprocess, qb_dtype dtype, const qb_shape *stored,
                                            const char *name, qb_shape *shape, qb_error *error);

/* Resizes, crops, scales and normalises into `sample`, which holds the elements of `shape`, that of all samples.
 * QB_ERROR_SHAPE when this one comes out differently, QB_ERROR_NUMERIC when a value is not finite. */
QB_MUST_CHECK qb_status qb_preprocess_apply(const qb_preprocess *preprocess, const qb_stored_sample *stored,
                                            const qb_shape *shape, float *sample, qb_error *error);

#endif
