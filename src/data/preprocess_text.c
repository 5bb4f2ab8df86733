/* Presets and key=value pairs of preprocessing. */
#include "data/preprocess.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { MAX_SIDE = 16384, MAX_TEXT = 512 };

#define IMAGENET_NORM "scale=255:mean=0.485,0.456,0.406:std=0.229,0.224,0.225"

static const struct {
  const char *name, *pairs;
} presets[] = {
    {"imagenet", "resize=256:crop=224:" IMAGENET_NORM},
    {"imagenet-224", "crop=224:" IMAGENET_NORM},
    {"imagenet-norm", IMAGENET_NORM},
    {"unit", "scale=255"},
};

static qb_status bad_value(const char *pair, const char *wanted, qb_error *error) {
  return qb_fail(error, QB_ERROR_ARGUMENT, "preprocess: '%s': expected %s", pair, wanted);
}

static qb_status parse_side(const char *pair, const char *value, int32_t *side, qb_error *error) {
  char *end;
  long number = strtol(value, &end, 10);
  if (end == value || *end != '\0' || number < 1 || number > MAX_SIDE)
    return bad_value(pair, "a number of pixels from 1 to 16384", error);
  *side = (int32_t)number;
  return QB_OK;
}

/* Reads up to `room` finite numbers joined by commas; 0 when the text is anything else. */
static int32_t parse_numbers(const char *text, float *numbers, int32_t room) {
  for (int32_t count = 0; count < room;) {
    char *end;
    numbers[count] = strtof(text, &end);
    if (end == text || !isfinite(numbers[count]))
      return 0;
    count++;
    if (*end == '\0')
      return count;
    if (*end != ',')
      return 0;
    text = end + 1;
  }
  return 0;
}

static qb_status parse_list(const char *pair, const char *value, bool positive, float list[4],
                            qb_preprocess *preprocess, qb_error *error) {
  int32_t count = parse_numbers(value, list, 4);
  for (int32_t i = 0; i < count; i++)
    if (positive && !(list[i] > 0.0f))
      return bad_value(pair, "positive numbers", error);
  if (count == 0)
    return bad_value(pair, "one number, or one per channel (at most 4) joined by ','", error);
  if (preprocess->channels != 0 && preprocess->channels != count)
    return bad_value(pair, "as many numbers in mean as in std", error);
  for (int32_t i = count; i < 4 && count == 1; i++)
    list[i] = list[0];
  preprocess->channels = count;
  preprocess->normalize = true;
  return QB_OK;
}

static qb_status parse_pair(const char *pair, uint32_t *seen, qb_preprocess *preprocess, qb_error *error) {
  static const char *const keys[] = {"resize", "crop", "scale", "mean", "std", "layout"};
  const char *equals = strchr(pair, '=');
  size_t length = equals == NULL ? strlen(pair) : (size_t)(equals - pair), key = 0;
  while (key < 6 && (strlen(keys[key]) != length || strncmp(keys[key], pair, length) != 0))
    key++;
  if (key == 6 || equals == NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "preprocess: '%s' is not known: valid are resize=, crop=, scale=, mean=, std=, layout= joined by "
                   "':', or one of imagenet, imagenet-224, imagenet-norm, unit, raw",
                   pair);
  if ((*seen & 1u << key) != 0)
    return qb_fail(error, QB_ERROR_ARGUMENT, "preprocess: '%s=' is given twice", keys[key]);
  *seen |= 1u << key;
  const char *value = equals + 1;
  switch (key) {
  case 0: return parse_side(pair, value, &preprocess->resize, error);
  case 1: return parse_side(pair, value, &preprocess->crop, error);
  case 2:
    if (parse_numbers(value, &preprocess->scale, 1) != 1 || !(preprocess->scale > 0.0f))
      return bad_value(pair, "a positive number", error);
    return QB_OK;
  case 3: return parse_list(pair, value, false, preprocess->mean, preprocess, error);
  case 4: return parse_list(pair, value, true, preprocess->std, preprocess, error);
  default: return strcmp(value, "nchw") == 0 ? QB_OK : bad_value(pair, "layout=nchw, the only layout", error);
  }
}

static qb_status parse_pairs(const char *text, qb_preprocess *preprocess, qb_error *error) {
  char copy[MAX_TEXT], *pair = copy;
  uint32_t seen = 0;
  if (strlen(text) >= sizeof copy)
    return qb_fail(error, QB_ERROR_ARGUMENT, "preprocess: the text is longer than %d characters", MAX_TEXT - 1);
  strcpy(copy, text);
  while (pair != NULL) {
    char *colon = strchr(pair, ':');
    if (colon != NULL)
      *colon++ = '\0';
    QB_TRY(parse_pair(pair, &seen, preprocess, error));
    pair = colon;
  }
  return QB_OK;
}

qb_status qb_preprocess_parse(const char *text, qb_preprocess *preprocess, qb_error *error) {
  *preprocess = (qb_preprocess){.std = {1.0f, 1.0f, 1.0f, 1.0f}};
  if (strcmp(text, "raw") == 0)
    return QB_OK;
  for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
    if (strcmp(text, presets[i].name) == 0)
      return parse_pairs(presets[i].pairs, preprocess, error);
  return parse_pairs(text, preprocess, error);
}
