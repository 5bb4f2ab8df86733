/* What the readers of each format fill in, and dataset.c serves samples from: either a list of image files or records
 * of one size in a file, in memory or drawn on demand. */
#ifndef QB_DATA_SOURCE_H
#define QB_DATA_SOURCE_H

#include "base/arena.h"
#include "data/dataset.h"

typedef struct qb_listed_image {
  const char *path, *name; /* name: relative to the folder */
  int32_t label;           /* -1: none */
} qb_listed_image;

/* Growing list of images; entries from qb_alloc, strings from the dataset's arena. */
typedef struct qb_image_list {
  qb_listed_image *images;
  int64_t count, capacity;
} qb_image_list;

/* Records of one size: record i begins at first_byte + i * stride of `memory` or, when that is NULL, of the file. */
typedef struct qb_records {
  uint8_t *memory; /* from qb_alloc */
  int descriptor;  /* -1: none */
  bool drawn;      /* digits of `seed`: neither memory nor file */
  uint64_t seed;
  int64_t count; /* in the file */
  int64_t first_byte, stride;
  qb_dtype dtype;
  qb_shape shape;  /* of one sample */
  int32_t *labels; /* (count), from qb_alloc, or NULL */
} qb_records;

struct qb_dataset {
  qb_arena arena;
  const char *path;
  qb_preprocess preprocess;
  int64_t first, count; /* the samples in use */
  qb_shape shape;       /* of a preprocessed sample */
  qb_image_list list;   /* in use when list.images is not NULL */
  qb_records records;
  char *record_names; /* (count, QB_RECORD_NAME_BYTES), from qb_alloc, or NULL */
};

enum { QB_RECORD_NAME_BYTES = 32 };

/* The readers: fill list or records of `dataset`, whose path is set, from all of the data; dataset.c applies skip and
 * samples. `labels` is the setting of that name. What they have filled when they fail is freed by the caller. */
QB_MUST_CHECK qb_status qb_source_open_folder(qb_dataset *dataset, const char *labels, qb_error *error);
QB_MUST_CHECK qb_status qb_source_open_image(qb_dataset *dataset, qb_error *error);
QB_MUST_CHECK qb_status qb_source_open_idx(qb_dataset *dataset, const char *path, const char *labels, qb_error *error);
QB_MUST_CHECK qb_status qb_source_open_npy(qb_dataset *dataset, const char *labels, qb_error *error);
QB_MUST_CHECK qb_status qb_source_open_cifar(qb_dataset *dataset, qb_error *error);
QB_MUST_CHECK qb_status qb_source_open_digits(qb_dataset *dataset, qb_error *error);

/* Draws record `index` of drawn records into `pixels`, which holds the elements of their shape. */
void qb_source_draw_digit(const qb_records *records, int64_t index, uint8_t *pixels);

/* True for "digits" and "digits:..". */
bool qb_source_is_digits(const char *path);

/* True for names such as t10k-images-idx3-ubyte.gz. */
bool qb_source_is_idx_name(const char *name);

#endif
