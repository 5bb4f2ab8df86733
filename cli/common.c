/* Options, lists and messages that the subcommands share. */
#include <errno.h>
#include <langinfo.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* ----------------------------------------------------------------------------------------------- common options */

enum { KEY_JSON = 0x1000, KEY_THREADS, KEY_SEED };

static const struct argp_option common_options[] = {
    {"json", KEY_JSON, NULL, 0, "Print one JSON object instead of a table", 0},
    {"threads", KEY_THREADS, "N", 0, "Use N threads (default: all cores)", 0},
    {"seed", KEY_SEED, "N", 0, "Seed of everything random", 0},
    {0},
};

static error_t parse_common(int key, char *text, struct argp_state *state) {
  cli_options *options = state->input;
  switch (key) {
  case KEY_JSON: options->json = true; return 0;
  case KEY_THREADS: options->threads = (int)cli_parse_integer(state, "--threads", text, 1, 4096); return 0;
  case KEY_SEED: options->seed = (uint64_t)cli_parse_integer(state, "--seed", text, 0, LLONG_MAX); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

const struct argp cli_common_argp = {.options = common_options, .parser = parse_common};
const struct argp_child cli_common[2] = {CLI_COMMON, {0}};

/* ------------------------------------------------------------------------------------------------------- parsing */

long long cli_parse_integer(struct argp_state *state, const char *option, const char *text, long long least,
                            long long most) {
  char *end = NULL;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (end == text || *end != '\0' || errno != 0 || value < least || value > most) {
    if (most == LLONG_MAX)
      argp_error(state, "%s needs an integer of at least %lld, not '%s'", option, least, text);
    else
      argp_error(state, "%s needs an integer from %lld to %lld, not '%s'", option, least, most, text);
  }
  return value;
}

double cli_parse_number(struct argp_state *state, const char *option, const char *text) {
  char *end = NULL;
  double value = strtod(text, &end);
  if (end == text || *end != '\0' || !isfinite(value))
    argp_error(state, "%s needs a finite number, not '%s'", option, text);
  return value;
}

void cli_parse_domain(struct argp_state *state, const char *text, qb_domain_kind *kind, double *lo, double *hi) {
  *kind = strcmp(text, "pixels") == 0 ? QB_DOMAIN_PIXELS : QB_DOMAIN_BOX;
  if (*kind == QB_DOMAIN_PIXELS)
    return;
  const char *comma = strchr(text, ',');
  if (comma == NULL) {
    *hi = cli_parse_number(state, "--domain", text);
    *lo = -*hi;
    if (*hi < 0)
      argp_error(state, "--domain D needs D >= 0; for a box write LO,HI");
    return;
  }
  char first[64];
  snprintf(first, sizeof first, "%.*s", (int)(comma - text), text);
  *lo = cli_parse_number(state, "--domain", first);
  *hi = cli_parse_number(state, "--domain", comma + 1);
  if (*lo > *hi)
    argp_error(state, "--domain LO,HI needs LO <= HI, not '%s'", text);
}

static void bad_bits(struct argp_state *state, const char *text) {
  argp_error(state, "--bits needs widths from %d to %d such as 8, 4,8 or 2-16, each once, not '%s'", QB_MIN_BITS,
             QB_MAX_BITS, text);
}

/* Appends first..last; false when one is out of range or already there. */
static bool append_bits(int bits[CLI_LIST], int *count, long first, long last) {
  if (first < QB_MIN_BITS || last > QB_MAX_BITS || first > last)
    return false;
  for (int value = (int)first; value <= (int)last; value++) {
    for (int i = 0; i < *count; i++)
      if (bits[i] == value)
        return false;
    bits[(*count)++] = value;
  }
  return true;
}

int cli_parse_bits(struct argp_state *state, const char *text, int bits[CLI_LIST]) {
  int count = 0;
  for (const char *at = text;; at++) {
    char *end = NULL;
    long first = strtol(at, &end, 10), last = first;
    bool valid = end != at;
    if (valid && *end == '-') {
      at = end + 1;
      last = strtol(at, &end, 10);
      valid = end != at;
    }
    if (!valid || !append_bits(bits, &count, first, last) || (*end != ',' && *end != '\0')) {
      bad_bits(state, text);
      return 0;
    }
    if (*end == '\0')
      return count;
    at = end;
  }
}

int cli_parse_choice(struct argp_state *state, const char *option, const char *text, const char *const *names) {
  char list[256] = "";
  for (int i = 0; names[i] != NULL; i++) {
    if (strcmp(text, names[i]) == 0)
      return i;
    size_t used = strlen(list);
    snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", names[i]);
  }
  argp_error(state, "%s: '%s' is not one of %s", option, text, list);
  return 0;
}

/* Splits `text` at commas and looks every part up in `names`; entries may not repeat. */
static int parse_list(struct argp_state *state, const char *option, const char *text, const char *const *names,
                      int found[CLI_LIST]) {
  char copy[256];
  if (strlen(text) >= sizeof copy)
    argp_error(state, "%s: the list is too long", option);
  snprintf(copy, sizeof copy, "%s", text);
  int count = 0;
  for (char *rest = copy, *part; (part = strsep(&rest, ",")) != NULL;) {
    int index = cli_parse_choice(state, option, part, names);
    for (int i = 0; i < count; i++)
      if (found[i] == index)
        argp_error(state, "%s: '%s' is given twice", option, part);
    found[count++] = index;
  }
  return count;
}

int cli_parse_schemes(struct argp_state *state, const char *text, qb_scheme schemes[CLI_LIST]) {
  static const char *const names[] = {"round", "uniform", NULL};
  static const qb_scheme values[] = {QB_SCHEME_ROUND, QB_SCHEME_UNIFORM};
  int found[CLI_LIST];
  int count = parse_list(state, "--scheme", text, names, found);
  for (int i = 0; i < count; i++)
    schemes[i] = values[found[i]];
  return count;
}

int cli_parse_granularities(struct argp_state *state, const char *text, qb_granularity granularities[CLI_LIST]) {
  static const char *const names[] = {"tensor", "channel", NULL};
  static const qb_granularity values[] = {QB_PER_TENSOR, QB_PER_CHANNEL};
  int found[CLI_LIST];
  int count = parse_list(state, "--granularity", text, names, found);
  for (int i = 0; i < count; i++)
    granularities[i] = values[found[i]];
  return count;
}

/* ------------------------------------------------------------------------------------------------------ messages */

int cli_fail(const qb_error *error) {
  cli_progress_end();
  fprintf(stderr, "qbound: %s\n", error->message);
  return CLI_FAILED;
}

int cli_flush(void) {
  if (fflush(stdout) == 0 && !ferror(stdout))
    return CLI_DONE;
  fprintf(stderr, "qbound: standard output cannot be written: %s\n", strerror(errno));
  return CLI_FAILED;
}

int cli_print_json(char *text) {
  cli_progress_end();
  puts(text);
  qb_text_free(text);
  return cli_flush();
}

bool cli_utf8(void) { return strcmp(nl_langinfo(CODESET), "UTF-8") == 0; }
