/* Duplicates and overlaps by content; see held_out.h. */
#include "api/held_out.h"

#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { HASH_DIGITS = 16, BLOCK = 64, NAMES = 3, NAMES_TEXT = 400 };

/* The first 64 bits of a sample's SHA-256, as the metadata keep them. */
typedef struct content {
  uint64_t hash;
  int64_t index;
} content;

typedef struct checking {
  const qb_dataset *dataset;
  const char *path;
  int threads;
  const qb_progress *progress;
  int64_t count;
  content *contents; /* (count) by hash, then index */
  qb_error *error;
} checking;

static int compare_contents(const void *a, const void *b) {
  const content *x = a, *y = b;
  if (x->hash != y->hash)
    return x->hash < y->hash ? -1 : 1;
  return (x->index > y->index) - (x->index < y->index);
}

/* -------------------------------------------------------------------------------------------------------- hashing */

static qb_status hash_sample(const checking *c, int64_t index, qb_error *error) {
  qb_hash hash;
  QB_TRY(qb_dataset_hash(c->dataset, index, &hash, error));
  uint64_t prefix = 0;
  for (int i = 0; i < HASH_DIGITS / 2; i++)
    prefix = prefix << 8 | hash.bytes[i];
  c->contents[index] = (content){prefix, index};
  return QB_OK;
}

/* Of several failures the one of the lowest index is reported. */
static qb_status hash_block(const checking *c, int64_t first, int64_t end) {
  int64_t failed_at = INT64_MAX;
  qb_error failure = {.status = QB_OK};
#pragma omp parallel for schedule(dynamic) num_threads(c->threads)
  for (int64_t i = first; i < end; i++) {
    qb_error mine = {.status = QB_OK};
    if (hash_sample(c, i, &mine) == QB_OK)
      continue;
#pragma omp critical(qb_held_out_failure)
    if (i < failed_at) {
      failed_at = i;
      failure = mine;
    }
  }
  return failed_at == INT64_MAX ? QB_OK : qb_fail(c->error, failure.status, "%s", failure.message);
}

static qb_status hash_all(const checking *c) {
  for (int64_t first = 0; first < c->count; first += BLOCK) {
    if (!qb_progress_report(c->progress, "reading", first, c->count))
      return qb_fail(c->error, QB_ERROR_INTERRUPTED, "certifying was stopped");
    QB_TRY(hash_block(c, first, first + BLOCK < c->count ? first + BLOCK : c->count));
  }
  qsort(c->contents, (size_t)c->count, sizeof *c->contents, compare_contents);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- refusing */

static qb_status refuse_duplicates(const checking *c) {
  int64_t surplus = 0, at = 0;
  for (int64_t i = 1; i < c->count; i++) {
    if (c->contents[i].hash != c->contents[i - 1].hash)
      continue;
    at = surplus == 0 ? i : at;
    surplus++;
  }
  if (surplus == 0)
    return QB_OK;
  int64_t first = c->contents[at - 1].index, second = c->contents[at].index;
  return qb_fail(c->error, QB_ERROR_ARGUMENT,
                 "%s: sample %lld (%s) has the same content as sample %lld (%s), and %lld samples in all repeat "
                 "another: they are no independent draws; remove the copies",
                 c->path, (long long)second, qb_dataset_name(c->dataset, second), (long long)first,
                 qb_dataset_name(c->dataset, first), (long long)surplus);
}

/* The sample of this content, -1 when there is none. */
static int64_t find_content(const checking *c, uint64_t hash) {
  int64_t low = 0, high = c->count;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (c->contents[middle].hash < hash)
      low = middle + 1;
    else
      high = middle;
  }
  return low < c->count && c->contents[low].hash == hash ? c->contents[low].index : -1;
}

/* Reads the next hash of the list; false when there is none or it is none. */
static bool next_hash(const char **at, uint64_t *hash) {
  char digits[HASH_DIGITS + 1];
  if (**at != ' ' || strnlen(*at, 1 + HASH_DIGITS) < 1 + HASH_DIGITS)
    return false;
  memcpy(digits, *at + 1, HASH_DIGITS);
  digits[HASH_DIGITS] = '\0';
  *at += 1 + HASH_DIGITS;
  *hash = strtoull(digits, NULL, 16);
  return strspn(digits, "0123456789abcdef") == HASH_DIGITS;
}

/* " record 4, record 9, .." */
static void name_sample(const checking *c, int64_t index, int64_t found, char names[NAMES_TEXT]) {
  size_t used = strlen(names);
  if (found < NAMES)
    snprintf(names + used, NAMES_TEXT - used, "%s%s", found > 0 ? ", " : "", qb_dataset_name(c->dataset, index));
  else if (found == NAMES)
    snprintf(names + used, NAMES_TEXT - used, ", ..");
}

/* `list` is "COUNT HASH HASH ..". */
static qb_status refuse_used(const checking *c, const char *list, const char *network, int64_t *count) {
  char *end, names[NAMES_TEXT] = "";
  uint64_t hash;
  int64_t found = 0;
  errno = 0;
  *count = strtoll(list, &end, 10);
  const char *at = end;
  bool valid = end != list && *count >= 0 && errno == 0;
  for (int64_t i = 0; valid && i < *count; i++) {
    valid = next_hash(&at, &hash);
    int64_t index = valid ? find_content(c, hash) : -1;
    if (index >= 0)
      name_sample(c, index, found++, names);
  }
  if (!valid || *at != '\0')
    return qb_fail(c->error, QB_ERROR_FORMAT, "%s: its list of used samples is damaged; quantize it again", network);
  if (found == 0)
    return QB_OK;
  return qb_fail(c->error, QB_ERROR_ARGUMENT,
                 "%s: %lld of its samples (%s) were used to make %s; a statistical claim needs inputs that took no "
                 "part in it: give other data, or leave them out with --skip and --samples",
                 c->path, (long long)found, names, network);
}

/* ------------------------------------------------------------------------------------------------------- the call */

static qb_status check(const checking *c, const qb_model *quantized, qb_held_out *facts) {
  const char *list = qb_onnx_metadata(quantized->document, "qbound.calibration");
  const char *verified = qb_onnx_metadata(quantized->document, "qbound.verification"); /* they chose among plans */
  int64_t verification_samples;
  facts->calibration_known = list != NULL || qb_onnx_metadata(quantized->document, "qbound.settings") != NULL;
  QB_TRY(hash_all(c));
  QB_TRY(refuse_duplicates(c));
  if (list != NULL)
    QB_TRY(refuse_used(c, list, quantized->path, &facts->calibration_samples));
  return verified == NULL ? QB_OK : refuse_used(c, verified, quantized->path, &verification_samples);
}

qb_status qb_held_out_check(const qb_dataset *dataset, const char *path, const qb_model *quantized, int threads,
                            const qb_progress *progress, qb_held_out *facts, qb_error *error) {
  checking c = {dataset, path, threads > 0 ? threads : omp_get_max_threads(), progress, qb_dataset_count(dataset),
                NULL,    error};
  *facts = (qb_held_out){0};
  c.contents = qb_alloc((size_t)c.count, sizeof *c.contents);
  if (c.contents == NULL)
    return qb_fail_memory(error, "hashes of samples", (size_t)c.count * sizeof *c.contents);
  qb_status status = check(&c, quantized, facts);
  qb_free(c.contents);
  return status;
}
