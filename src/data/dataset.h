/* Labelled inputs from image folders, .npy, MNIST idx and CIFAR-10 binaries, preprocessed to network inputs. */
#ifndef QB_DATA_DATASET_H
#define QB_DATA_DATASET_H

#include "base/hash.h"
#include "tensor/tensor.h"

/* What happens to an image, in this order: resize so that the shorter side is `resize` pixels (antialiased bilinear,
 * as Pillow and torchvision do it), centre crop, divide by `scale`, subtract mean, divide by std. */
typedef struct qb_preprocess {
  int32_t resize;        /* 0: none */
  int32_t crop;          /* 0: none */
  float scale;           /* 0: leave values as stored (pixels 0..255, npy as is) */
  float mean[4], std[4]; /* per channel; std 1 and mean 0 by default */
  bool normalize;        /* mean and std were given */
} qb_preprocess;

/* A preset (imagenet, imagenet-224, imagenet-norm, unit, raw) or `key=value` pairs joined by ':'.
 * QB_ERROR_ARGUMENT names the bad key and lists the valid ones. */
QB_MUST_CHECK qb_status qb_preprocess_parse(const char *text, qb_preprocess *preprocess, qb_error *error);

/* True when the preprocessing maps pixels (0..255) through `scale`, so that [0,1] images have a box; then *lo and *hi
 * are the limits of channel `channel`, rounded outwards: (0 - mean)/std and (1 - mean)/std. With `raw`: 0 and 255. */
bool qb_preprocess_pixel_box(const qb_preprocess *preprocess, int32_t channel, float *lo, float *hi);

typedef struct qb_dataset_settings {
  qb_preprocess preprocess;
  const char *labels; /* path of a labels file where the format needs one (npy, idx); NULL: found beside the data */
  int64_t samples;    /* use the first this many; 0: all */
  int64_t skip;       /* leave out the first this many */
} qb_dataset_settings;

typedef struct qb_dataset qb_dataset;

/* Opens and lists the data; images are decoded on demand. The format is recognised from the path and contents, see
 * the command line's DATA. QB_ERROR_IO, QB_ERROR_FORMAT, QB_ERROR_UNSUPPORTED name the file and what to do. */
QB_MUST_CHECK qb_status qb_dataset_open(const char *path, const qb_dataset_settings *settings, qb_dataset **dataset,
                                        qb_error *error);
void qb_dataset_free(qb_dataset *dataset);

/* Number of samples. */
int64_t qb_dataset_count(const qb_dataset *dataset);

/* Shape of one preprocessed sample without a batch axis, for example (3, 224, 224); all samples share it. */
qb_shape qb_dataset_shape(const qb_dataset *dataset);

/* Class index, or -1 when there are no labels. */
int32_t qb_dataset_label(const qb_dataset *dataset, int64_t index);

/* A name for people: the file, or "record 17". Lives as long as the dataset. */
const char *qb_dataset_name(const qb_dataset *dataset, int64_t index);

/* Decodes and preprocesses sample `index` into `sample` (qb_dataset_shape elements). Safe to call from several
 * threads at once. */
QB_MUST_CHECK qb_status qb_dataset_read(const qb_dataset *dataset, int64_t index, float *sample, qb_error *error);

/* SHA-256 of the sample's decoded, preprocessed content: equal images hash equally whatever file they came from. */
QB_MUST_CHECK qb_status qb_dataset_hash(const qb_dataset *dataset, int64_t index, qb_hash *hash, qb_error *error);

#endif
