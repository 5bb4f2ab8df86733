/* NumPy .npy files, versions 1 to 3: a Python dictionary with the element type, the memory order and the shape, then
 * the elements. Samples lie along the first axis. */
#include "data/source.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/size.h"
#include "data/bytes.h"

enum { MAX_HEADER_BYTES = 1 << 16 };

typedef struct npy_file {
  int descriptor;
  char type[8]; /* as NumPy writes it: "<f4", "|u1" */
  qb_shape shape;
  size_t elements;
  int64_t first_byte, file_bytes;
} npy_file;

/* ------------------------------------------------------------------------------------------------------- header */

/* The text after 'key': in the header dictionary, NULL when it is not there. */
static const char *find_key(const char *header, const char *key) {
  size_t length = strlen(key);
  for (const char *at = strchr(header, '\''); at != NULL; at = strchr(at + 1, '\''))
    if (strncmp(at + 1, key, length) == 0 && at[1 + length] == '\'') {
      at += length + 2;
      at += strspn(at, " \t");
      return *at == ':' ? at + 1 + strspn(at + 1, " \t") : NULL;
    }
  return NULL;
}

static bool parse_type(const char *text, npy_file *npy) {
  if (text == NULL || *text != '\'')
    return false;
  size_t length = strcspn(text + 1, "'");
  if (length == 0 || length >= sizeof npy->type || text[1 + length] != '\'')
    return false;
  memcpy(npy->type, text + 1, length);
  npy->type[length] = '\0';
  return true;
}

static bool parse_shape(const char *text, qb_shape *shape) {
  *shape = (qb_shape){0};
  if (text == NULL || *text++ != '(')
    return false;
  for (;;) {
    char *end;
    text += strspn(text, " ");
    if (*text == ')')
      return true;
    if (*text < '0' || *text > '9' || shape->rank == QB_MAX_RANK)
      return false;
    long long length = strtoll(text, &end, 10);
    text = end + strspn(end, "L ");
    shape->dims[shape->rank++] = length;
    if (*text == ',')
      text++;
    else if (*text != ')')
      return false;
  }
}

static qb_status parse_header(const char *header, const char *path, npy_file *npy, qb_error *error) {
  const char *type = find_key(header, "descr"), *order = find_key(header, "fortran_order");
  if (type != NULL && *type == '[')
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: structured elements are not supported: save a plain array", path);
  if (!parse_type(type, npy) || order == NULL || !parse_shape(find_key(header, "shape"), &npy->shape))
    return qb_fail(error, QB_ERROR_FORMAT, "%s: the .npy header cannot be read", path);
  if (strncmp(order, "True", 4) == 0 && npy->shape.rank > 1)
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "%s: Fortran order is not supported: save numpy.ascontiguousarray of the array", path);
  if (npy->shape.rank < 1 || !qb_shape_count(&npy->shape, &npy->elements))
    return qb_fail(error, QB_ERROR_FORMAT, "%s: an array of this shape is not accepted", path);
  return QB_OK;
}

static qb_status read_header(npy_file *npy, const char *path, qb_error *error) {
  uint8_t head[12] = {0};
  if (npy->file_bytes < (int64_t)sizeof head)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: too short for a .npy file", path);
  QB_TRY(qb_file_read_at(npy->descriptor, head, sizeof head, 0, path, error));
  if (memcmp(head, "\x93NUMPY", 6) != 0 || head[6] < 1 || head[6] > 3)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: not a .npy file of version 1 to 3", path);
  int64_t start = head[6] == 1 ? 10 : 12;
  uint32_t length = head[6] == 1 ? (uint32_t)(head[8] | head[9] << 8) : qb_read_le32(head + 8);
  if (length > MAX_HEADER_BYTES || start + (int64_t)length > npy->file_bytes)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: the .npy header is truncated or too long", path);
  char *header = qb_alloc((size_t)length + 1, 1);
  if (header == NULL)
    return qb_fail_memory(error, path, length);
  qb_status status = qb_file_read_at(npy->descriptor, header, length, start, path, error);
  if (status == QB_OK)
    status = parse_header(header, path, npy, error);
  qb_free(header);
  npy->first_byte = start + (int64_t)length;
  return status;
}

static qb_status check_size(const npy_file *npy, size_t element_bytes, const char *path, qb_error *error) {
  size_t bytes;
  if (!qb_size_multiply(npy->elements, element_bytes, &bytes) || bytes > INT64_MAX / 2 ||
      npy->first_byte + (int64_t)bytes != npy->file_bytes)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: the file has %lld bytes of data, its header promises %zu x %zu: %s",
                   path, (long long)(npy->file_bytes - npy->first_byte), npy->elements, element_bytes,
                   "truncated, or more than one array?");
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- labels */

static qb_status bad_label(const char *path, int64_t index, qb_error *error) {
  return qb_fail(error, QB_ERROR_FORMAT, "%s: label %lld is not a class number from 0 to 2147483647", path,
                 (long long)index);
}

/* Converts `count` little-endian integers of `width` bytes; a signed one is negative when its top bit is set. */
static qb_status convert_labels(const uint8_t *bytes, int width, bool is_signed, int32_t *labels, int64_t count,
                                const char *path, qb_error *error) {
  for (int64_t i = 0; i < count; i++, bytes += width) {
    uint64_t value = 0;
    for (int b = width - 1; b >= 0; b--)
      value = value << 8 | bytes[b];
    if (value > INT32_MAX || (is_signed && value >> (8 * width - 1) != 0))
      return bad_label(path, i, error);
    labels[i] = (int32_t)value;
  }
  return QB_OK;
}

static qb_status read_labels(npy_file *npy, qb_records *records, const char *path, const char *data_path,
                             qb_error *error) {
  QB_TRY(read_header(npy, path, error));
  char kind = npy->type[1];
  int width = npy->type[1] == '\0' ? 0 : npy->type[2] - '0';
  bool integer = (npy->type[0] == '<' || npy->type[0] == '|') && (kind == 'i' || kind == 'u') &&
                 (width == 1 || width == 2 || width == 4 || width == 8) && npy->type[3] == '\0';
  if (!integer)
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "%s: labels of type '%s' are not supported: save little-endian integers", path, npy->type);
  if (npy->shape.dims[0] != records->count || npy->elements != (size_t)records->count)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: %zu labels for the %lld samples of %s", path, npy->elements,
                   (long long)records->count, data_path);
  QB_TRY(check_size(npy, (size_t)width, path, error));
  size_t size = npy->elements * (size_t)width;
  uint8_t *bytes = qb_alloc(size, 1);
  records->labels = qb_alloc(npy->elements, sizeof *records->labels);
  qb_status status = bytes == NULL || records->labels == NULL ? qb_fail_memory(error, path, size) : QB_OK;
  if (status == QB_OK)
    status = qb_file_read_at(npy->descriptor, bytes, size, npy->first_byte, path, error);
  if (status == QB_OK)
    status = convert_labels(bytes, width, kind == 'i', records->labels, records->count, path, error);
  qb_free(bytes);
  return status;
}

static qb_status open_labels(qb_records *records, const char *path, const char *data_path, qb_error *error) {
  npy_file npy = {0};
  QB_TRY(qb_file_open(path, &npy.descriptor, &npy.file_bytes, error));
  qb_status status = read_labels(&npy, records, path, data_path, error);
  close(npy.descriptor);
  return status;
}

/* <stem>_labels.npy or labels.npy beside the data; *labels is NULL when there is neither. */
static qb_status find_labels(qb_dataset *dataset, const char **labels, qb_error *error) {
  const char *path = dataset->path, *slash = strrchr(path, '/');
  size_t length = strlen(path), stem = length > 4 && strcmp(path + length - 4, ".npy") == 0 ? length - 4 : length;
  int folder = slash == NULL ? 0 : (int)(slash - path) + 1;
  const char *named = qb_arena_format(&dataset->arena, "%.*s_labels.npy", (int)stem, path);
  const char *common = qb_arena_format(&dataset->arena, "%.*slabels.npy", folder, path);
  if (named == NULL || common == NULL)
    return qb_fail_memory(error, path, length);
  *labels = access(named, R_OK) == 0 ? named : NULL;
  if (*labels == NULL && strcmp(common, path) != 0 && access(common, R_OK) == 0)
    *labels = common;
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ samples */

static qb_dtype dtype_of(const char *type) {
  if (strcmp(type, "<f4") == 0)
    return QB_DTYPE_F32;
  if (strcmp(type, "<f8") == 0)
    return QB_DTYPE_F64;
  return strcmp(type, "|u1") == 0 ? QB_DTYPE_U8 : QB_DTYPE_NONE;
}

static qb_status use_as_records(const npy_file *npy, const char *path, qb_records *records, qb_error *error) {
  records->dtype = dtype_of(npy->type);
  if (records->dtype == QB_DTYPE_NONE)
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "%s: elements of type '%s' are not supported: save little-endian float32, float64 or uint8", path,
                   npy->type);
  QB_TRY(check_size(npy, (size_t)qb_dtype_bits(records->dtype) / 8, path, error));
  if (npy->shape.rank < 2)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: needs at least two axes, samples along the first", path);
  records->count = npy->shape.dims[0];
  records->first_byte = npy->first_byte;
  records->shape.rank = npy->shape.rank - 1;
  memcpy(records->shape.dims, npy->shape.dims + 1, (size_t)records->shape.rank * sizeof npy->shape.dims[0]);
  records->stride = (int64_t)qb_shape_elements(&records->shape) * (qb_dtype_bits(records->dtype) / 8);
  return QB_OK;
}

qb_status qb_source_open_npy(qb_dataset *dataset, const char *labels, qb_error *error) {
  npy_file npy = {0};
  QB_TRY(qb_file_open(dataset->path, &npy.descriptor, &npy.file_bytes, error));
  dataset->records.descriptor = npy.descriptor; /* the dataset closes it */
  QB_TRY(read_header(&npy, dataset->path, error));
  QB_TRY(use_as_records(&npy, dataset->path, &dataset->records, error));
  if (labels == NULL)
    QB_TRY(find_labels(dataset, &labels, error));
  return labels == NULL ? QB_OK : open_labels(&dataset->records, labels, dataset->path, error);
}
