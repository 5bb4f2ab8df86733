/* Reading input files: whole small files, ranges of large ones, integers of either byte order. */
#ifndef QB_DATA_BYTES_H
#define QB_DATA_BYTES_H

#include <qbound/qbound.h>

/* The bytes of a file, followed by a NUL that `size` does not count. */
typedef struct qb_bytes {
  uint8_t *data; /* from qb_alloc */
  size_t size;
} qb_bytes;

/* Reads all of a regular file of at most `limit` bytes. QB_ERROR_IO names the path and the reason, QB_ERROR_FORMAT a
 * file over the limit. */
QB_MUST_CHECK qb_status qb_bytes_read(const char *path, size_t limit, qb_bytes *bytes, qb_error *error);
void qb_bytes_free(qb_bytes *bytes);

/* Opens a regular file for qb_file_read_at and gives its size. The caller closes the descriptor. */
QB_MUST_CHECK qb_status qb_file_open(const char *path, int *descriptor, int64_t *size, qb_error *error);

/* Reads exactly `size` bytes at `offset`; safe from several threads at once. */
QB_MUST_CHECK qb_status qb_file_read_at(int descriptor, void *buffer, size_t size, int64_t offset, const char *path,
                                        qb_error *error);

/* Reads exactly `size` bytes, decompressing when the file is gzip, or all of it up to `size` when `whole` is false.
 * `bytes->size` is what was there. QB_ERROR_FORMAT when `whole` and the file holds less or more, without allocating
 * more than gzip could have expanded to. */
QB_MUST_CHECK qb_status qb_gzip_read(const char *path, size_t size, bool whole, qb_bytes *bytes, qb_error *error);

static inline uint32_t qb_read_be32(const uint8_t *b) {
  return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static inline uint32_t qb_read_le32(const uint8_t *b) {
  return (uint32_t)b[3] << 24 | (uint32_t)b[2] << 16 | (uint32_t)b[1] << 8 | b[0];
}

#endif
