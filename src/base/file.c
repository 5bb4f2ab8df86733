/* Temporary name, write, rename; see file.h. */
#include "base/file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

static qb_status io_error(qb_error *error, const char *what, const char *path) {
  return qb_fail(error, QB_ERROR_IO, "%s: %s: %s", path, what, strerror(errno));
}

qb_status qb_output_open(qb_output_file *file, const char *path, qb_error *error) {
  *file = (qb_output_file){0};
  size_t length = strlen(path), capacity = length + 32;
  file->path = qb_alloc(length + 1, 1);
  file->temporary_path = qb_alloc(capacity, 1);
  if (file->path == NULL || file->temporary_path == NULL) {
    qb_output_discard(file);
    return qb_fail_memory(error, path, capacity);
  }
  memcpy(file->path, path, length + 1);
  snprintf(file->temporary_path, capacity, "%s.%ld.tmp", path, (long)getpid());
  file->stream = fopen(file->temporary_path, "wb");
  if (file->stream == NULL) {
    qb_status status = io_error(error, "cannot be written", path);
    qb_output_discard(file);
    return status;
  }
  return QB_OK;
}

qb_status qb_output_close(qb_output_file *file, qb_error *error) {
  FILE *stream = file->stream;
  if (stream == NULL)
    return QB_OK;
  bool failed = fflush(stream) != 0 || ferror(stream) != 0;
  file->stream = NULL;
  failed = fclose(stream) != 0 || failed;
  return failed ? io_error(error, "writing failed", file->path) : QB_OK;
}

qb_status qb_output_commit(qb_output_file *file, qb_error *error) {
  qb_status status = qb_output_close(file, error);
  if (status == QB_OK && rename(file->temporary_path, file->path) != 0)
    status = io_error(error, "cannot be renamed into place", file->path);
  if (status != QB_OK) {
    qb_output_discard(file);
    return status;
  }
  qb_free(file->temporary_path);
  qb_free(file->path);
  *file = (qb_output_file){0};
  return QB_OK;
}

void qb_output_discard(qb_output_file *file) {
  if (file->stream != NULL)
    fclose(file->stream);
  if (file->temporary_path != NULL)
    unlink(file->temporary_path);
  qb_free(file->temporary_path);
  qb_free(file->path);
  *file = (qb_output_file){0};
}
