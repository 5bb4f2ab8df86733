/* CIFAR-10 binaries: records of a label byte and 3 x 32 x 32 pixels, planes in the order red, green, blue. */
#include "data/source.h"

#include "base/alloc.h"
#include "base/error.h"
#include "data/bytes.h"

enum { SIDE = 32, CLASSES = 10, RECORD_BYTES = 1 + 3 * SIDE * SIDE };

static qb_status read_labels(const qb_dataset *dataset, const qb_records *records, qb_error *error) {
  for (int64_t i = 0; i < records->count; i++) {
    uint8_t label;
    QB_TRY(qb_file_read_at(records->descriptor, &label, 1, i * RECORD_BYTES, dataset->path, error));
    if (label >= CLASSES)
      return qb_fail(error, QB_ERROR_FORMAT, "%s: record %lld has class %d: not a CIFAR-10 binary", dataset->path,
                     (long long)i, label);
    records->labels[i] = label;
  }
  return QB_OK;
}

qb_status qb_source_open_cifar(qb_dataset *dataset, qb_error *error) {
  qb_records *records = &dataset->records;
  int64_t size;
  QB_TRY(qb_file_open(dataset->path, &records->descriptor, &size, error));
  if (size == 0 || size % RECORD_BYTES != 0)
    return qb_fail(error, QB_ERROR_FORMAT,
                   "%s: %lld bytes are not a whole number of CIFAR-10 records of %d bytes: truncated?", dataset->path,
                   (long long)size, RECORD_BYTES);
  records->count = size / RECORD_BYTES;
  records->first_byte = 1;
  records->stride = RECORD_BYTES;
  records->dtype = QB_DTYPE_U8;
  records->shape = QB_SHAPE(3, SIDE, SIDE);
  records->labels = qb_alloc((size_t)records->count, sizeof *records->labels);
  if (records->labels == NULL)
    return qb_fail_memory(error, dataset->path, (size_t)records->count * sizeof *records->labels);
  return read_labels(dataset, records, error);
}
