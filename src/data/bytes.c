/* Input files; see bytes.h. */
#include "data/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/alloc.h"
#include "base/error.h"

qb_status qb_file_open(const char *path, int *descriptor, int64_t *size, qb_error *error) {
  struct stat status;
  *descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
  if (*descriptor < 0)
    return qb_fail(error, QB_ERROR_IO, "%s: %s", path, strerror(errno));
  if (fstat(*descriptor, &status) == 0 && S_ISREG(status.st_mode)) {
    *size = status.st_size;
    return QB_OK;
  }
  close(*descriptor);
  *descriptor = -1;
  return qb_fail(error, QB_ERROR_IO, "%s: %s", path,
                 S_ISDIR(status.st_mode) ? "is a folder where a file is expected" : "is not a regular file");
}

qb_status qb_file_read_at(int descriptor, void *buffer, size_t size, int64_t offset, const char *path,
                          qb_error *error) {
  uint8_t *next = buffer;
  while (size > 0) {
    ssize_t count = pread(descriptor, next, size, offset);
    if (count < 0 && errno == EINTR)
      continue;
    if (count < 0)
      return qb_fail(error, QB_ERROR_IO, "%s: %s", path, strerror(errno));
    if (count == 0)
      return qb_fail(error, QB_ERROR_FORMAT, "%s: ends early, at byte %lld", path, (long long)offset);
    next += count;
    size -= (size_t)count;
    offset += count;
  }
  return QB_OK;
}

static qb_status read_all(int descriptor, const char *path, int64_t size, size_t limit, qb_bytes *bytes,
                          qb_error *error) {
  if ((uint64_t)size > limit)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: %lld bytes are more than the %zu that are accepted", path,
                   (long long)size, limit);
  bytes->size = (size_t)size;
  bytes->data = qb_alloc(bytes->size + 1, 1);
  if (bytes->data == NULL)
    return qb_fail_memory(error, path, bytes->size);
  return qb_file_read_at(descriptor, bytes->data, bytes->size, 0, path, error);
}

qb_status qb_bytes_read(const char *path, size_t limit, qb_bytes *bytes, qb_error *error) {
  int descriptor;
  int64_t size;
  *bytes = (qb_bytes){0};
  QB_TRY(qb_file_open(path, &descriptor, &size, error));
  qb_status status = read_all(descriptor, path, size, limit, bytes, error);
  close(descriptor);
  if (status != QB_OK)
    qb_bytes_free(bytes);
  return status;
}

void qb_bytes_free(qb_bytes *bytes) {
  qb_free(bytes->data);
  *bytes = (qb_bytes){0};
}

/* Deflate expands at most 1032 times: a header that promises more than that is false. */
static bool can_hold(int64_t file_size, size_t size) { return size / 1032 <= (size_t)file_size; }

static qb_status fill(gzFile file, const char *path, size_t size, bool whole, qb_bytes *bytes, qb_error *error) {
  bytes->data = qb_alloc(size + 1, 1);
  if (bytes->data == NULL)
    return qb_fail_memory(error, path, size);
  while (bytes->size < size) {
    size_t room = size - bytes->size;
    int count = gzread(file, bytes->data + bytes->size, room > 1 << 30 ? 1 << 30 : (unsigned)room);
    if (count < 0)
      return qb_fail(error, QB_ERROR_FORMAT, "%s: damaged gzip data after %zu bytes", path, bytes->size);
    if (count == 0)
      break;
    bytes->size += (size_t)count;
  }
  uint8_t more;
  if (!whole)
    return QB_OK;
  if (bytes->size < size)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: holds %zu bytes, its header promises %zu: truncated?", path,
                   bytes->size, size);
  if (gzread(file, &more, 1) != 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: goes on after the %zu bytes that its header promises", path, size);
  return QB_OK;
}

qb_status qb_gzip_read(const char *path, size_t size, bool whole, qb_bytes *bytes, qb_error *error) {
  int descriptor;
  int64_t file_size;
  *bytes = (qb_bytes){0};
  QB_TRY(qb_file_open(path, &descriptor, &file_size, error));
  if (!can_hold(file_size, size)) {
    close(descriptor);
    return qb_fail(error, QB_ERROR_FORMAT, "%s: its header promises %zu bytes, more than the file can hold: truncated?",
                   path, size);
  }
  gzFile file = gzdopen(descriptor, "rb");
  if (file == NULL) {
    close(descriptor);
    return qb_fail_memory(error, path, size);
  }
  qb_status status = fill(file, path, size, whole, bytes, error);
  gzclose(file); /* and the descriptor */
  if (status != QB_OK)
    qb_bytes_free(bytes);
  return status;
}
