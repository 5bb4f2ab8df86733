/* Shards on disk; see shard_file.h. One line a sample, in text, reals in hexadecimal so that no bit is lost. */
#include "run/shard_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"

qb_status qb_shard_folder(const char *folder, qb_error *error) {
  if (mkdir(folder, 0777) == 0 || errno == EEXIST)
    return QB_OK;
  return qb_fail(error, QB_ERROR_IO, "%s: the folder of the checkpoint cannot be made: %s", folder, strerror(errno));
}

/* "FOLDER/<64 digits>.shard" */
static qb_status find_path(const char *folder, const qb_shard_key *key, char **path, qb_error *error) {
  qb_hash hash;
  char digits[QB_HASH_TEXT];
  size_t size = strlen(folder) + QB_HASH_TEXT + 8;
  QB_TRY(qb_hash_bytes(key, sizeof *key, &hash, error));
  *path = qb_alloc(size, 1);
  if (*path == NULL)
    return qb_fail_memory(error, folder, size);
  snprintf(*path, size, "%s/%s.shard", folder, qb_hash_print(&hash, digits));
  return QB_OK;
}

#define RECORD_FORMAT "%" PRId32 " %" PRId32 " %" PRId32 " %" PRId32 " %" PRId32 " "
#define RECORD_SCAN "%" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNd32 " %la"

static bool read_records(FILE *file, qb_run_sample *samples, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    qb_run_sample *s = &samples[i];
    if (fscanf(file, RECORD_SCAN, &s->label, &s->top, &s->other_top, &s->rank, &s->other_rank, &s->error) != 6)
      return false;
  }
  char last[5] = "";
  return fscanf(file, " %4s", last) == 1 && strcmp(last, "end") == 0;
}

qb_status qb_shard_load(const char *folder, const qb_shard_key *key, qb_run_sample *samples, int64_t count, bool *found,
                        qb_error *error) {
  char *path = NULL;
  *found = false;
  QB_TRY(find_path(folder, key, &path, error));
  FILE *file = fopen(path, "r");
  qb_free(path);
  if (file == NULL)
    return QB_OK;
  *found = read_records(file, samples, count);
  fclose(file);
  return QB_OK;
}

static qb_status write_records(qb_output_file *file, const qb_run_sample *samples, int64_t count, qb_error *error) {
  for (int64_t i = 0; i < count; i++) {
    const qb_run_sample *s = &samples[i];
    if (fprintf(file->stream, RECORD_FORMAT "%a\n", s->label, s->top, s->other_top, s->rank, s->other_rank, s->error) <
        0)
      return qb_fail(error, QB_ERROR_IO, "%s: cannot write: %s", file->path, strerror(errno));
  }
  if (fputs("end\n", file->stream) < 0)
    return qb_fail(error, QB_ERROR_IO, "%s: cannot write: %s", file->path, strerror(errno));
  return QB_OK;
}

qb_status qb_shard_store(const char *folder, const qb_shard_key *key, const qb_run_sample *samples, int64_t count,
                         qb_error *error) {
  char *path = NULL;
  qb_output_file file = {0};
  QB_TRY(find_path(folder, key, &path, error));
  qb_status status = qb_output_open(&file, path, error);
  qb_free(path);
  if (status == QB_OK)
    status = write_records(&file, samples, count, error);
  if (status == QB_OK)
    return qb_output_commit(&file, error);
  qb_output_discard(&file);
  return status;
}
