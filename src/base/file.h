/* Files that appear whole or not at all: write under a temporary name beside the target, then rename. */
#ifndef QB_BASE_FILE_H
#define QB_BASE_FILE_H

#include <qbound/qbound.h>
#include <stdio.h>

typedef struct qb_output_file {
  FILE *stream;
  char *path, *temporary_path; /* from qb_alloc */
} qb_output_file;

/* Opens a temporary file next to `path`. QB_ERROR_IO names the path and the reason. */
QB_MUST_CHECK qb_status qb_output_open(qb_output_file *file, const char *path, qb_error *error);

/* Flushes and closes the stream but keeps the temporary file, so that it can be read back before the commit. */
QB_MUST_CHECK qb_status qb_output_close(qb_output_file *file, qb_error *error);

/* Closes where needed and renames to the final path; on failure the temporary file is removed. Releases `file`. */
QB_MUST_CHECK qb_status qb_output_commit(qb_output_file *file, qb_error *error);

/* Closes, removes the temporary file and releases `file`; a zeroed `file` is fine. */
void qb_output_discard(qb_output_file *file);

#endif
