/* What the command-line tests need to know about JSON, read from standard input.
 *
 *   json_tool check SCHEMA.json   checks it against a schema; places and broken rules go to stderr
 *   json_tool get PATH..          prints the value at each path, one a line: rows.0.bounds.prior.log10; `rows.#` is the
 *                                 number of entries
 *   json_tool drop KEY            prints it without the members called KEY, at any depth
 *
 * `check` knows the keywords that docs/schema uses and refuses a schema with any other, so that no rule is skipped
 * unseen. A `$ref` is a file beside the schema. Exit 0 done, 1 invalid or not there, 2 wrong usage or schema. */
#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[2048];
static int problems;

static void problem(const char *place, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "%s: ", *place != '\0' ? place : "(top)");
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  problems++;
}

static json_t *load(const char *path) {
  json_error_t error;
  json_t *value = path != NULL ? json_load_file(path, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error)
                               : json_loadf(stdin, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
  if (value == NULL) {
    fprintf(stderr, "%s:%d:%d: %s\n", path != NULL ? path : "stdin", error.line, error.column, error.text);
    exit(path != NULL ? 2 : 1);
  }
  return value;
}

static bool is_type(const json_t *value, const char *type) {
  if (strcmp(type, "number") == 0)
    return json_is_number(value);
  if (strcmp(type, "integer") == 0)
    return json_is_integer(value);
  if (strcmp(type, "string") == 0)
    return json_is_string(value);
  if (strcmp(type, "boolean") == 0)
    return json_is_boolean(value);
  if (strcmp(type, "null") == 0)
    return json_is_null(value);
  if (strcmp(type, "array") == 0)
    return json_is_array(value);
  if (strcmp(type, "object") == 0)
    return json_is_object(value);
  fprintf(stderr, "schema: unknown type %s\n", type);
  exit(2);
}

static bool matches_type(const json_t *value, const json_t *types) {
  if (json_is_string(types))
    return is_type(value, json_string_value(types));
  size_t i;
  json_t *type;
  json_array_foreach(types, i, type) if (is_type(value, json_string_value(type))) return true;
  return false;
}

static bool is_among(const json_t *value, const json_t *list) {
  size_t i;
  json_t *entry;
  json_array_foreach(list, i, entry) if (json_equal(value, entry)) return true;
  return false;
}

static void check(json_t *value, json_t *schema, const char *place);

static void check_object(json_t *value, json_t *schema, const char *place) {
  const json_t *properties = json_object_get(schema, "properties");
  json_t *additional = json_object_get(schema, "additionalProperties"), *member, *required;
  const char *key;
  size_t i;
  json_object_foreach(value, key, member) {
    char inner[1024];
    snprintf(inner, sizeof inner, "%s.%s", place, key);
    json_t *rule = json_object_get(properties, key);
    if (rule != NULL)
      check(member, rule, inner);
    else if (json_is_object(additional))
      check(member, additional, inner);
    else if (json_is_false(additional))
      problem(place, "the key \"%s\" is not in the schema", key);
  }
  json_array_foreach(json_object_get(schema, "required"), i, required) {
    if (json_object_get(value, json_string_value(required)) == NULL)
      problem(place, "the key \"%s\" is missing", json_string_value(required));
  }
}

static void check_array(json_t *value, const json_t *schema, const char *place) {
  json_t *items = json_object_get(schema, "items"), *entry;
  const json_t *least = json_object_get(schema, "minItems");
  size_t i;
  if (least != NULL && json_array_size(value) < (size_t)json_integer_value(least))
    problem(place, "has %zu entries, fewer than allowed", json_array_size(value));
  json_array_foreach(value, i, entry) {
    char inner[1024];
    snprintf(inner, sizeof inner, "%s[%zu]", place, i);
    if (items != NULL)
      check(entry, items, inner);
  }
}

static void check_scalar(const json_t *value, const json_t *schema, const char *place) {
  const json_t *rule = json_object_get(schema, "minimum");
  if (rule != NULL && json_is_number(value) && json_number_value(value) < json_number_value(rule))
    problem(place, "%g is below %g", json_number_value(value), json_number_value(rule));
  rule = json_object_get(schema, "maximum");
  if (rule != NULL && json_is_number(value) && json_number_value(value) > json_number_value(rule))
    problem(place, "%g is above %g", json_number_value(value), json_number_value(rule));
  rule = json_object_get(schema, "minLength");
  if (rule != NULL && json_is_string(value) && json_string_length(value) < (size_t)json_integer_value(rule))
    problem(place, "the string is too short");
  rule = json_object_get(schema, "maxLength");
  if (rule != NULL && json_is_string(value) && json_string_length(value) > (size_t)json_integer_value(rule))
    problem(place, "the string is too long");
}

static void refuse_unknown_keywords(json_t *schema) {
  static const char *const known[] = {"$schema",    "title",     "type",
                                      "properties", "required",  "additionalProperties",
                                      "items",      "minItems",  "enum",
                                      "const",      "minimum",   "maximum",
                                      "minLength",  "maxLength", "$ref",
                                      NULL};
  const char *key;
  json_t *rule;
  json_object_foreach(schema, key, rule) {
    int i = 0;
    while (known[i] != NULL && strcmp(known[i], key) != 0)
      i++;
    if (known[i] == NULL) {
      fprintf(stderr, "schema: the keyword %s is not known\n", key);
      exit(2);
    }
  }
}

static void check(json_t *value, json_t *schema, const char *place) {
  refuse_unknown_keywords(schema);
  const json_t *rule = json_object_get(schema, "$ref");
  if (rule != NULL) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, json_string_value(rule));
    json_t *other = load(path);
    check(value, other, place);
    json_decref(other);
  }
  if ((rule = json_object_get(schema, "const")) != NULL && !json_equal(value, rule))
    problem(place, "is not the constant of the schema");
  if ((rule = json_object_get(schema, "enum")) != NULL && !is_among(value, rule))
    problem(place, "is not one of the allowed values");
  if ((rule = json_object_get(schema, "type")) != NULL && !matches_type(value, rule))
    problem(place, "has the wrong type");
  check_scalar(value, schema, place);
  if (json_is_object(value))
    check_object(value, schema, place);
  if (json_is_array(value))
    check_array(value, schema, place);
}

static int run_check(json_t *value, const char *path) {
  const char *slash = strrchr(path, '/');
  snprintf(folder, sizeof folder, "%.*s", slash != NULL ? (int)(slash - path) : 1, slash != NULL ? path : ".");
  json_t *schema = load(path);
  check(value, schema, "");
  json_decref(schema);
  return problems == 0 ? 0 : 1;
}

/* Prints the value at `path`; false when there is none. */
static bool print_at(json_t *value, const char *path) {
  char copy[1024], *rest = copy, *part;
  snprintf(copy, sizeof copy, "%s", path);
  while (value != NULL && (part = strsep(&rest, ".")) != NULL) {
    if (strcmp(part, "#") == 0) {
      printf("%zu\n", json_is_array(value) ? json_array_size(value) : json_object_size(value));
      return true;
    }
    value = json_is_array(value) ? json_array_get(value, strtoul(part, NULL, 10)) : json_object_get(value, part);
  }
  if (json_is_string(value))
    printf("%s\n", json_string_value(value));
  else if (value != NULL) {
    json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
    putchar('\n');
  }
  return value != NULL;
}

static void drop(json_t *value, const char *key) {
  json_object_del(value, key);
  const char *name;
  json_t *member;
  size_t i;
  json_object_foreach(value, name, member) drop(member, key);
  json_array_foreach(value, i, member) drop(member, key);
}

static int run_get(json_t *value, char **paths, int count) {
  int missing = 0;
  for (int i = 0; i < count; i++)
    if (!print_at(value, paths[i])) {
      fprintf(stderr, "there is no %s\n", paths[i]);
      missing = 1;
    }
  return missing;
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fputs("usage: json_tool check SCHEMA.json | get PATH.. | drop KEY\n", stderr);
    return 2;
  }
  json_t *value = load(NULL);
  int code = 2;
  if (strcmp(argv[1], "check") == 0)
    code = run_check(value, argv[2]);
  else if (strcmp(argv[1], "get") == 0)
    code = run_get(value, argv + 2, argc - 2);
  else if (strcmp(argv[1], "drop") == 0) {
    drop(value, argv[2]);
    code = json_dumpf(value, stdout, JSON_COMPACT | JSON_REAL_PRECISION(17)) == 0 ? 0 : 1;
    putchar('\n');
  }
  json_decref(value);
  return code;
}
