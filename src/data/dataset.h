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
  int32_t channels;      /* entries in mean and std; 1 serves every channel (all four are filled), 0: none given */
  bool normalize;        /* mean or std was given */
} qb_preprocess;

/* A preset (imagenet, imagenet-224, imagenet-norm, unit, raw) or `key=value` pairs joined by ':'.
 * QB_ERROR_ARGUMENT names the bad key and lists the valid ones. */
QB_MUST_CHECK qb_status qb_preprocess_parse(const char *text, qb_preprocess *preprocess, qb_error *error);

/* The box of channel `channel` over every image with stored pixels 0..255: (0 - mean)/std and (255/scale - mean)/std
 * (with scale 255: [0,1] images), rounded outwards, so that it contains both the real interval and every sample that
 * qb_dataset_read can give. With `raw`: 0 and 255. False when the preprocessing has no entry for the channel. */
bool qb_preprocess_pixel_box(const qb_preprocess *preprocess, int32_t channel, float *lo, float *hi);

typedef struct qb_dataset_settings {
  qb_preprocess preprocess;
  const char *labels; /* path of a labels file where the format needs one (npy, idx); NULL: found beside the data */
  int64_t samples;    /* use the first this many; 0: all */
  int64_t skip;       /* leave out the first this many */
} qb_dataset_settings;

typedef struct qb_dataset qb_dataset;

/* Opens and lists the data; images are decoded on demand. The format is recognised from the path and contents:
 *   a folder with labels.txt        one "file index" a line, in that order; `labels` may name another such file
 *   a folder of class folders       class = rank of the folder's name; within a class files by name
 *   a folder of JPEG and PNG files  by name, unlabelled; also a single image file
 *   a folder with MNIST idx files   its t10k or test images, where there are none the first by name
 *   *-images-idx3-ubyte[.gz]        labels from the file with labels-idx1 in place of images-idx3
 *   *.npy                           (N, ..) float32, float64 or uint8, C order; labels <stem>_labels.npy or labels.npy
 *   *.bin                           CIFAR-10: records of a label byte and 3x32x32 pixels
 *   digits[:COUNT[:SEED]]           drawn by qbound, see digits.h; 10000 of seed 2 by default
 * Greyscale images become RGB; alpha is dropped; 16-bit PNG keeps the high byte. Images resize, arrays of real numbers
 * do not. QB_ERROR_IO, QB_ERROR_FORMAT, QB_ERROR_UNSUPPORTED name the file and what to do; QB_ERROR_ARGUMENT when skip
 * leaves nothing; QB_ERROR_SHAPE when the preprocessing does not fit the samples. */
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
