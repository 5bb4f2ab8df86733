/* Plan files and rules; see plan_file.h. */
#include "cli/plan_file.h"

#include <errno.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNSET = -1, KEEP_FLOAT = 0 };

static bool fail(qb_error *error, qb_status status, const char *format, ...) QB_PRINTF(3, 4);

static bool fail(qb_error *error, qb_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  error->status = status;
  vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  return false;
}

static int find_layer(const qb_model *model, const char *name) {
  int count = qb_model_layer_count(model);
  for (int i = 0; i < count; i++)
    if (strcmp(qb_model_layer_name(model, i), name) == 0)
      return i;
  return -1;
}

/* 2..16; "float" is KEEP_FLOAT; UNSET for anything else. */
static int parse_width(const char *text) {
  if (strcmp(text, "float") == 0)
    return KEEP_FLOAT;
  char *end = NULL;
  long bits = strtol(text, &end, 10);
  return end != text && *end == '\0' && bits >= QB_MIN_BITS && bits <= QB_MAX_BITS ? (int)bits : UNSET;
}

/* One line of a plan, already without its newline. */
static bool read_line(const qb_model *model, char *line, int number, const char *path, int *bits, qb_error *error) {
  char *text = line + strspn(line, " \t");
  bool keep_float = *text == '#';
  text += keep_float ? 1 + strspn(text + 1, " \t") : 0;
  char *rest = NULL;
  const char *name = strtok_r(text, " \t\r", &rest), *width = strtok_r(NULL, " \t\r", &rest);
  const char *more = strtok_r(NULL, " \t\r", &rest);
  if (name == NULL)
    return true;
  int layer = find_layer(model, name);
  bool is_entry = width != NULL && more == NULL && parse_width(width) != UNSET;
  if (keep_float && layer < 0 && !is_entry)
    return true; /* a comment */
  if (layer < 0)
    return fail(error, QB_ERROR_ARGUMENT, "%s:%d: %s has no layer named '%s'; `qbound inspect` lists them", path,
                number, qb_model_path(model), name);
  if (!keep_float && !is_entry)
    return fail(error, QB_ERROR_ARGUMENT, "%s:%d: expected `LAYER BITS` with bits from %d to %d, or `# LAYER`", path,
                number, QB_MIN_BITS, QB_MAX_BITS);
  if (bits[layer] != UNSET)
    return fail(error, QB_ERROR_ARGUMENT, "%s:%d: layer '%s' is listed twice", path, number, name);
  bits[layer] = keep_float ? KEEP_FLOAT : parse_width(width);
  return true;
}

static bool read_file(const qb_model *model, const char *path, int *bits, qb_error *error) {
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return fail(error, QB_ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
  char *line = NULL;
  size_t capacity = 0;
  bool valid = true;
  for (int number = 1; valid && getline(&line, &capacity, file) >= 0; number++) {
    line[strcspn(line, "\n")] = '\0';
    valid = read_line(model, line, number, path, bits, error);
  }
  if (valid && ferror(file))
    valid = fail(error, QB_ERROR_IO, "%s: reading failed", path);
  free(line);
  fclose(file);
  return valid;
}

static bool apply_rule(const qb_model *model, const char *rule, int *bits, qb_error *error) {
  const char *equals = strrchr(rule, '=');
  int width = equals == NULL ? UNSET : parse_width(equals + 1);
  if (width == UNSET)
    return fail(error, QB_ERROR_ARGUMENT, "--tensor needs REGEX=BITS with bits from %d to %d or `float`, not '%s'",
                QB_MIN_BITS, QB_MAX_BITS, rule);
  char *pattern = strndup(rule, (size_t)(equals - rule));
  if (pattern == NULL)
    return fail(error, QB_ERROR_MEMORY, "not enough memory for --tensor");
  regex_t regex;
  int problem = regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB);
  free(pattern);
  if (problem != 0) {
    char why[128];
    regerror(problem, &regex, why, sizeof why);
    return fail(error, QB_ERROR_ARGUMENT, "--tensor '%s': %s", rule, why);
  }
  int matches = 0, count = qb_model_layer_count(model);
  for (int i = 0; i < count; i++)
    if (regexec(&regex, qb_model_layer_name(model, i), 0, NULL, 0) == 0) {
      bits[i] = width;
      matches++;
    }
  regfree(&regex);
  return matches > 0 ||
         fail(error, QB_ERROR_ARGUMENT, "--tensor '%s' matches no layer of %s; `qbound inspect` lists them", rule,
              qb_model_path(model));
}

bool cli_plan_make(const qb_model *model, const char *path, const char *const *rules, int rule_count, cli_plan *plan,
                   qb_error *error) {
  *plan = (cli_plan){0};
  int count = qb_model_layer_count(model);
  int *bits = calloc((size_t)count + 1, sizeof *bits);
  plan->layers = calloc((size_t)count + 1, sizeof *plan->layers);
  bool valid = bits != NULL && plan->layers != NULL;
  if (!valid)
    fail(error, QB_ERROR_MEMORY, "not enough memory for a plan of %d layers", count);
  for (int i = 0; valid && i < count; i++)
    bits[i] = UNSET;
  if (valid && path != NULL)
    valid = read_file(model, path, bits, error);
  for (int i = 0; valid && i < rule_count; i++)
    valid = apply_rule(model, rules[i], bits, error);
  for (int i = 0; valid && i < count; i++)
    if (bits[i] != UNSET)
      plan->layers[plan->count++] = (qb_layer_bits){.node = qb_model_layer_name(model, i), .bits = bits[i]};
  free(bits);
  return valid;
}

void cli_plan_free(cli_plan *plan) {
  free(plan->layers);
  *plan = (cli_plan){0};
}
