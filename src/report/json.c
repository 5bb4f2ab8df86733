/* JSON values and text, through jansson; see json.h. */
#include "report/json.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

json_t *qb_json_real(double number) {
  if (isnan(number))
    return json_string("not applicable");
  if (isinf(number))
    return json_string(number > 0 ? "inf" : "-inf");
  return json_real(number);
}

/* Names come from files, and file names from anywhere: keep what is ASCII. */
static json_t *ascii_text(const char *text) {
  size_t length = strlen(text);
  char *copy = qb_alloc(length + 1, 1);
  if (copy == NULL)
    return NULL;
  for (size_t i = 0; i < length; i++)
    copy[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
  json_t *value = json_string(copy);
  qb_free(copy);
  return value;
}

json_t *qb_json_text(const char *text) {
  if (text == NULL)
    return json_null();
  json_t *value = json_string(text); /* NULL for invalid UTF-8 */
  return value != NULL ? value : ascii_text(text);
}

json_t *qb_json_report(const char *schema) { return qb_json_put(json_object(), "schema", json_string(schema)); }

json_t *qb_json_put(json_t *object, const char *key, json_t *value) {
  if (object == NULL || value == NULL) {
    json_decref(object);
    json_decref(value);
    return NULL;
  }
  if (json_object_set_new(object, key, value) == 0)
    return object;
  json_decref(object);
  return NULL;
}

json_t *qb_json_append(json_t *array, json_t *value) {
  if (array == NULL || value == NULL) {
    json_decref(array);
    json_decref(value);
    return NULL;
  }
  if (json_array_append_new(array, value) == 0)
    return array;
  json_decref(array);
  return NULL;
}

qb_status qb_json_print(json_t *object, char **text, qb_error *error) {
  const size_t flags = JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17);
  *text = NULL;
  size_t size = object != NULL ? json_dumpb(object, NULL, 0, flags) : 0;
  if (size > 0)
    *text = qb_alloc(size + 1, 1);
  if (*text != NULL)
    json_dumpb(object, *text, size, flags);
  json_decref(object);
  return *text != NULL ? QB_OK : qb_fail_memory(error, "a JSON report", size);
}

void qb_text_free(char *text) { qb_free(text); }
