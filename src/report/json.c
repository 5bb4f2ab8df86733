/* JSON values and text, through jansson; see json.h. */
#include "report/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "report/text_writer.h"

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

/* ------------------------------------------------------------------------------------------------------- printing */

/* The fewest digits that read back as the same double. */
static void write_real(qb_text_writer *w, double number) {
  char text[40];
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, number);
    if (strtod(text, NULL) == number)
      break;
  }
  for (char *at = text; *at != '\0'; at++)
    if (strchr("0123456789+-e", *at) == NULL)
      *at = '.'; /* the decimal point of the program's locale */
  qb_write_text(w, text);
  if (strpbrk(text, ".e") == NULL)
    qb_write_text(w, ".0"); /* stays a real for readers that tell integers apart */
}

/* Strings, integers, true, false, null: as jansson prints them. */
static void write_scalar(qb_text_writer *w, const json_t *value) {
  const size_t flags = JSON_ENCODE_ANY | JSON_COMPACT;
  size_t size = json_dumpb(value, NULL, 0, flags);
  char *text = size > 0 ? qb_alloc(size, 1) : NULL;
  if (text != NULL && json_dumpb(value, text, size, flags) == size)
    qb_write_bytes(w, text, size);
  else
    w->failed = true;
  qb_free(text);
}

/* Reports nest five deep, so that recursion is bounded by our own code. */
static void write_value(qb_text_writer *w, json_t *value) {
  const char *key, *separator = "";
  json_t *member;
  size_t i;
  if (json_is_object(value)) {
    qb_write_text(w, "{");
    json_object_foreach(value, key, member) {
      json_t *name = json_string(key);
      qb_write_text(w, separator);
      write_scalar(w, name);
      qb_write_text(w, ":");
      write_value(w, member);
      json_decref(name);
      separator = ",";
    }
    qb_write_text(w, "}");
  } else if (json_is_array(value)) {
    qb_write_text(w, "[");
    json_array_foreach(value, i, member) {
      qb_write_text(w, separator);
      write_value(w, member);
      separator = ",";
    }
    qb_write_text(w, "]");
  } else if (json_is_real(value)) {
    write_real(w, json_real_value(value));
  } else {
    write_scalar(w, value);
  }
}

qb_status qb_json_print(json_t *object, char **text, qb_error *error) {
  qb_text_writer w = {.failed = object == NULL};
  if (object != NULL)
    write_value(&w, object);
  json_decref(object);
  *text = w.failed ? NULL : w.text;
  if (!w.failed)
    return QB_OK;
  qb_free(w.text);
  return qb_fail_memory(error, "a JSON report", w.capacity);
}

void qb_text_free(char *text) { qb_free(text); }
