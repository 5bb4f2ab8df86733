/* MNIST idx files, plain or gzip: bytes 0 0 type rank, big-endian dimensions, data. Images are bytes (type 8) of shape
 * (N,H,W), which become samples (1,H,W), or (N,C,H,W). */
#include "data/source.h"

#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/size.h"
#include "data/bytes.h"

enum { TYPE_BYTES = 8, MAX_RANK = 4 };
static const size_t max_file_bytes = (size_t)1 << 33;

typedef struct idx_file {
  int32_t rank;
  int64_t dims[MAX_RANK];
  size_t header_bytes, file_bytes; /* file_bytes: what the header promises, itself included */
} idx_file;

bool qb_source_is_idx_name(const char *name) {
  const char *slash = strrchr(name, '/');
  return strstr(slash == NULL ? name : slash, "-idx") != NULL;
}

static qb_status read_header(const char *path, idx_file *idx, qb_error *error) {
  qb_bytes head;
  QB_TRY(qb_gzip_read(path, 4 + 4 * MAX_RANK, false, &head, error));
  *idx = (idx_file){0};
  size_t product = 1;
  bool valid = head.size >= 4 && head.data[0] == 0 && head.data[1] == 0 && head.data[3] >= 1 &&
               head.data[3] <= MAX_RANK && head.size >= 4 + 4 * (size_t)head.data[3];
  int type = head.size >= 4 ? head.data[2] : 0;
  if (valid) {
    idx->rank = head.data[3];
    idx->header_bytes = 4 + 4 * (size_t)idx->rank;
  }
  for (int32_t i = 0; i < idx->rank; i++) {
    idx->dims[i] = qb_read_be32(head.data + 4 + 4 * i);
    if (!qb_size_multiply(product, (size_t)idx->dims[i], &product))
      product = max_file_bytes; /* and more with the header: refused below */
  }
  qb_bytes_free(&head);
  if (!valid)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: not an MNIST idx file, or truncated in its header", path);
  if (type != TYPE_BYTES)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: idx type 0x%02x is not supported, only unsigned bytes (0x08)",
                   path, type);
  if (!qb_size_add(product, idx->header_bytes, &idx->file_bytes) || idx->file_bytes > max_file_bytes)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: its header promises more than %zu bytes", path, max_file_bytes);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- labels */

/* The usual name of the labels: "images" becomes "labels" and "idx3" or "idx4" becomes "idx1" in the file's name; with
 * and without .gz, whichever exists. NULL when there is none; *memory is false when memory was short. */
static const char *labels_beside(qb_arena *arena, const char *path, bool *memory) {
  size_t length = strlen(path);
  char *name = qb_arena_format(arena, "%s.gz", path); /* room for a longer name */
  *memory = name != NULL;
  if (name == NULL)
    return NULL;
  name[length] = '\0';
  char *base = strrchr(name, '/') == NULL ? name : strrchr(name, '/') + 1;
  char *images = strstr(base, "images"), *rank = strstr(base, "-idx");
  if (images == NULL || rank == NULL)
    return NULL;
  memcpy(images, "labels", 6);
  rank[4] = rank[4] == '\0' ? '\0' : '1';
  if (access(name, R_OK) == 0)
    return name;
  if (length > 3 && strcmp(name + length - 3, ".gz") == 0)
    name[length - 3] = '\0';
  else
    memcpy(name + length, ".gz", 4);
  return access(name, R_OK) == 0 ? name : NULL;
}

static qb_status read_labels(qb_dataset *dataset, const char *images, const char *path, qb_error *error) {
  qb_records *records = &dataset->records;
  idx_file idx;
  qb_bytes bytes;
  QB_TRY(read_header(path, &idx, error));
  if (idx.rank != 1)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: labels have one dimension, this file has %d", path, idx.rank);
  if (idx.dims[0] != records->count)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: %lld labels for the %lld images of %s", path, (long long)idx.dims[0],
                   (long long)records->count, images);
  QB_TRY(qb_gzip_read(path, idx.file_bytes, true, &bytes, error));
  records->labels = qb_alloc((size_t)records->count, sizeof *records->labels);
  for (int64_t i = 0; i < records->count && records->labels != NULL; i++)
    records->labels[i] = bytes.data[idx.header_bytes + (size_t)i];
  qb_bytes_free(&bytes);
  if (records->labels == NULL)
    return qb_fail_memory(error, path, (size_t)idx.dims[0] * sizeof *records->labels);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- images */

qb_status qb_source_open_idx(qb_dataset *dataset, const char *path, const char *labels, qb_error *error) {
  qb_records *records = &dataset->records;
  idx_file idx;
  qb_bytes bytes;
  bool memory = true;
  QB_TRY(read_header(path, &idx, error));
  if (idx.rank < 3)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: has %d dimensions: name the images file, not the labels", path,
                   idx.rank);
  QB_TRY(qb_gzip_read(path, idx.file_bytes, true, &bytes, error));
  records->memory = bytes.data;
  records->count = idx.dims[0];
  records->first_byte = (int64_t)idx.header_bytes;
  records->dtype = QB_DTYPE_U8;
  if (idx.rank == 3)
    records->shape = QB_SHAPE(1, idx.dims[1], idx.dims[2]);
  else
    records->shape = QB_SHAPE(idx.dims[1], idx.dims[2], idx.dims[3]);
  records->stride = (int64_t)qb_shape_elements(&records->shape);
  if (labels == NULL)
    labels = labels_beside(&dataset->arena, path, &memory);
  if (!memory)
    return qb_fail_memory(error, path, strlen(path));
  return labels == NULL ? QB_OK : read_labels(dataset, path, labels, error);
}
