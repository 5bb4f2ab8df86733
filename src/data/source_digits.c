/* Generated digits as a dataset: "digits", "digits:COUNT" or "digits:COUNT:SEED". Samples are drawn when they are read.
 */
#include "data/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/digits.h"

enum { DEFAULT_COUNT = 10000, MAX_COUNT = 1000000 };
static const uint64_t default_seed = 2; /* the demo network was trained on images of seed 1 */

static const char prefix[] = "digits";

bool qb_source_is_digits(const char *path) {
  size_t length = sizeof prefix - 1;
  return strncmp(path, prefix, length) == 0 && (path[length] == '\0' || path[length] == ':');
}

/* Reads a decimal number at *text, which moves behind it; false when there is none or it is too large. */
static bool parse_number(const char **text, uint64_t *number) {
  if (**text < '0' || **text > '9')
    return false;
  char *end;
  errno = 0;
  *number = strtoull(*text, &end, 10);
  *text = end;
  return errno == 0;
}

static qb_status parse(const char *path, uint64_t *count, uint64_t *seed, qb_error *error) {
  const char *text = path + sizeof prefix - 1;
  *count = DEFAULT_COUNT;
  *seed = default_seed;
  bool good = true;
  if (*text == ':')
    good = (text++, parse_number(&text, count));
  if (good && *text == ':')
    good = (text++, parse_number(&text, seed));
  if (!good || *text != '\0' || *count < 1 || *count > MAX_COUNT)
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "%s: write digits, digits:COUNT or digits:COUNT:SEED with a count of 1 to %d; for a file of that "
                   "name write ./%s",
                   path, MAX_COUNT, path);
  return QB_OK;
}

qb_status qb_source_open_digits(qb_dataset *dataset, qb_error *error) {
  qb_records *records = &dataset->records;
  uint64_t count;
  QB_TRY(parse(dataset->path, &count, &records->seed, error));
  records->drawn = true;
  records->count = (int64_t)count;
  records->dtype = QB_DTYPE_U8;
  records->shape = QB_SHAPE(QB_DIGITS_CHANNELS, QB_DIGITS_HEIGHT, QB_DIGITS_WIDTH);
  records->labels = qb_alloc((size_t)count, sizeof *records->labels);
  if (records->labels == NULL)
    return qb_fail_memory(error, dataset->path, (size_t)count * sizeof *records->labels);
  for (int64_t i = 0; i < records->count; i++)
    records->labels[i] = qb_digits_label(records->seed, (uint64_t)i);
  return QB_OK;
}

void qb_source_draw_digit(const qb_records *records, int64_t index, uint8_t *pixels) {
  int32_t label;
  qb_digits_image(records->seed, (uint64_t)index, pixels, &label);
}
