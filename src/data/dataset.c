/* Datasets: which reader a path needs, which samples are in use, and reading them. */
#include "data/dataset.h"

#include <string.h>
#include <strings.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/bytes.h"
#include "data/image.h"
#include "data/preprocess.h"
#include "data/source.h"

/* ------------------------------------------------------------------------------------------------------ opening */

static bool has_ending(const char *text, const char *ending) {
  size_t length = strlen(text), tail = strlen(ending);
  return length >= tail && strcasecmp(text + length - tail, ending) == 0;
}

/* The ending decides for .npy and .bin, because a CIFAR record may begin with any bytes; else the first bytes do. */
static qb_status open_file(qb_dataset *dataset, const char *labels, qb_error *error) {
  enum { MAGIC = 16 };
  qb_bytes head;
  if (has_ending(dataset->path, ".bin"))
    return qb_source_open_cifar(dataset, error);
  if (has_ending(dataset->path, ".npy"))
    return qb_source_open_npy(dataset, labels, error);
  QB_TRY(qb_gzip_read(dataset->path, MAGIC, false, &head, error));
  bool image = qb_image_is_jpeg(head.data, head.size) || qb_image_is_png(head.data, head.size);
  bool idx = head.size >= 4 && head.data[0] == 0 && head.data[1] == 0 && head.data[3] >= 1 && head.data[3] <= 4;
  bool npy = head.size >= 6 && memcmp(head.data, "\x93NUMPY", 6) == 0;
  qb_bytes_free(&head);
  if (image)
    return qb_source_open_image(dataset, error);
  if (idx || qb_source_is_idx_name(dataset->path))
    return qb_source_open_idx(dataset, dataset->path, labels, error);
  if (npy)
    return qb_source_open_npy(dataset, labels, error);
  return qb_fail(error, QB_ERROR_UNSUPPORTED,
                 "%s: not a kind of data that is known: give a folder of JPEG or PNG files, or a .npy, MNIST idx or "
                 "CIFAR-10 .bin file",
                 dataset->path);
}

static qb_status choose_samples(qb_dataset *dataset, const qb_dataset_settings *settings, qb_error *error) {
  int64_t all = dataset->list.images != NULL ? dataset->list.count : dataset->records.count;
  if (settings->skip < 0 || settings->samples < 0)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: skip and samples must not be negative", dataset->path);
  if (all == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: holds no samples", dataset->path);
  if (settings->skip >= all)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: skipping %lld samples leaves nothing of the %lld there are",
                   dataset->path, (long long)settings->skip, (long long)all);
  dataset->first = settings->skip;
  dataset->count = all - settings->skip;
  if (settings->samples > 0 && settings->samples < dataset->count)
    dataset->count = settings->samples;
  return QB_OK;
}

static qb_status check_images(const qb_dataset *dataset, qb_error *error) {
  for (int64_t i = 0; i < dataset->count; i++) {
    const char *path = dataset->list.images[dataset->first + i].path;
    if (access(path, R_OK) != 0)
      return qb_fail(error, QB_ERROR_IO, "%s: listed in the labels of %s but cannot be read", path, dataset->path);
  }
  return QB_OK;
}

static qb_status name_records(qb_dataset *dataset, qb_error *error) {
  dataset->record_names = qb_alloc((size_t)dataset->count, QB_RECORD_NAME_BYTES);
  if (dataset->record_names == NULL)
    return qb_fail_memory(error, "names of records", (size_t)dataset->count * QB_RECORD_NAME_BYTES);
  for (int64_t i = 0; i < dataset->count; i++)
    snprintf(dataset->record_names + i * QB_RECORD_NAME_BYTES, QB_RECORD_NAME_BYTES, "record %lld",
             (long long)(dataset->first + i));
  return QB_OK;
}

/* The shape of all samples is that of the first; the first image has to be decoded for it. */
static qb_status find_shape(qb_dataset *dataset, qb_error *error) {
  if (dataset->list.images == NULL)
    return qb_preprocess_shape(&dataset->preprocess, dataset->records.dtype, &dataset->records.shape, dataset->path,
                               &dataset->shape, error);
  qb_image image;
  const char *path = dataset->list.images[dataset->first].path;
  QB_TRY(qb_image_read(path, &image, error));
  qb_shape stored = QB_SHAPE(image.channels, image.height, image.width);
  qb_image_free(&image);
  return qb_preprocess_shape(&dataset->preprocess, QB_DTYPE_U8, &stored, path, &dataset->shape, error);
}

static qb_status open_path(qb_dataset *dataset, const qb_dataset_settings *settings, qb_error *error) {
  struct stat status;
  if (qb_source_is_digits(dataset->path))
    QB_TRY(qb_source_open_digits(dataset, error));
  else if (stat(dataset->path, &status) == 0 && S_ISDIR(status.st_mode))
    QB_TRY(qb_source_open_folder(dataset, settings->labels, error));
  else
    QB_TRY(open_file(dataset, settings->labels, error));
  QB_TRY(choose_samples(dataset, settings, error));
  QB_TRY(dataset->list.images != NULL ? check_images(dataset, error) : name_records(dataset, error));
  return find_shape(dataset, error);
}

qb_status qb_dataset_open(const char *path, const qb_dataset_settings *settings, qb_dataset **dataset,
                          qb_error *error) {
  *dataset = NULL;
  qb_dataset *opened = qb_alloc(1, sizeof *opened);
  if (opened == NULL)
    return qb_fail_memory(error, path, sizeof *opened);
  qb_arena_init(&opened->arena);
  opened->records.descriptor = -1;
  opened->preprocess = settings->preprocess;
  opened->path = qb_arena_string(&opened->arena, path, strlen(path));
  qb_status status = opened->path == NULL ? qb_fail_memory(error, path, strlen(path)) : QB_OK;
  if (status == QB_OK)
    status = open_path(opened, settings, error);
  if (status != QB_OK) {
    qb_dataset_free(opened);
    return status;
  }
  *dataset = opened;
  return QB_OK;
}

void qb_dataset_free(qb_dataset *dataset) {
  if (dataset == NULL)
    return;
  if (dataset->records.descriptor >= 0)
    close(dataset->records.descriptor);
  qb_free(dataset->records.memory);
  qb_free(dataset->records.labels);
  qb_free(dataset->record_names);
  qb_free(dataset->list.images);
  qb_arena_free(&dataset->arena);
  qb_free(dataset);
}

/* ------------------------------------------------------------------------------------------------------ reading */

int64_t qb_dataset_count(const qb_dataset *dataset) { return dataset->count; }

qb_shape qb_dataset_shape(const qb_dataset *dataset) { return dataset->shape; }

int32_t qb_dataset_label(const qb_dataset *dataset, int64_t index) {
  if (dataset->list.images != NULL)
    return dataset->list.images[dataset->first + index].label;
  return dataset->records.labels == NULL ? -1 : dataset->records.labels[dataset->first + index];
}

const char *qb_dataset_name(const qb_dataset *dataset, int64_t index) {
  if (dataset->list.images != NULL)
    return dataset->list.images[dataset->first + index].name;
  return dataset->record_names + index * QB_RECORD_NAME_BYTES;
}

static qb_status read_image(const qb_dataset *dataset, int64_t index, float *sample, qb_error *error) {
  const char *path = dataset->list.images[dataset->first + index].path;
  qb_image image;
  QB_TRY(qb_image_read(path, &image, error));
  qb_stored_sample stored = {QB_DTYPE_U8, QB_SHAPE(image.channels, image.height, image.width), true, image.pixels,
                             path};
  qb_status status = qb_preprocess_apply(&dataset->preprocess, &stored, &dataset->shape, sample, error);
  qb_image_free(&image);
  return status;
}

/* `buffer` holds one record, or is NULL when the records are in memory. */
static qb_status read_record(const qb_dataset *dataset, int64_t index, uint8_t *buffer, size_t size, float *sample,
                             qb_error *error) {
  const qb_records *records = &dataset->records;
  int64_t offset = records->first_byte + (dataset->first + index) * records->stride;
  const uint8_t *data = buffer;
  if (records->memory != NULL)
    data = records->memory + offset;
  else if (records->drawn)
    qb_source_draw_digit(records, dataset->first + index, buffer);
  else
    QB_TRY(qb_file_read_at(records->descriptor, buffer, size, offset, dataset->path, error));
  qb_stored_sample stored = {records->dtype, records->shape, false, data, qb_dataset_name(dataset, index)};
  qb_status status = qb_preprocess_apply(&dataset->preprocess, &stored, &dataset->shape, sample, error);
  return status == QB_OK ? QB_OK : qb_fail_context(error, status, "%s", dataset->path);
}

qb_status qb_dataset_read(const qb_dataset *dataset, int64_t index, float *sample, qb_error *error) {
  if (index < 0 || index >= dataset->count)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: there is no sample %lld, only %lld", dataset->path, (long long)index,
                   (long long)dataset->count);
  if (dataset->list.images != NULL)
    return read_image(dataset, index, sample, error);
  size_t size = 0;
  uint8_t *buffer = NULL;
  if (dataset->records.memory == NULL) {
    if (!qb_dtype_size(dataset->records.dtype, qb_shape_elements(&dataset->records.shape), &size) ||
        (buffer = qb_alloc(size, 1)) == NULL)
      return qb_fail_memory(error, dataset->path, size);
  }
  qb_status status = read_record(dataset, index, buffer, size, sample, error);
  qb_free(buffer);
  return status;
}

qb_status qb_dataset_hash(const qb_dataset *dataset, int64_t index, qb_hash *hash, qb_error *error) {
  size_t count = qb_shape_elements(&dataset->shape);
  float *sample = qb_alloc(count, sizeof *sample);
  if (sample == NULL)
    return qb_fail_memory(error, dataset->path, count * sizeof *sample);
  qb_status status = qb_dataset_read(dataset, index, sample, error);
  for (size_t i = 0; status == QB_OK && i < count; i++)
    sample[i] += 0.0f; /* -0 becomes 0: equal numbers, equal bytes */
  if (status == QB_OK)
    status = qb_hash_bytes(sample, count * sizeof *sample, hash, error);
  qb_free(sample);
  return status;
}
