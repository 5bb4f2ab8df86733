/* Reading and writing plans; see layer_plan.h for the syntax. */
#include "quant/layer_plan.h"

#include <errno.h>
#include <regex.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

qb_status qb_layer_plan_create(const qb_graph *graph, int bits, qb_layer_plan *plan, qb_error *error) {
  *plan = (qb_layer_plan){.layers = qb_alloc((size_t)graph->node_count, sizeof(qb_layer_bits))};
  if (plan->layers == NULL)
    return qb_fail_memory(error, "the plan", (size_t)graph->node_count * sizeof(qb_layer_bits));
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear linear;
    if (qb_graph_linear(graph, n, &linear))
      plan->layers[plan->count++] = (qb_layer_bits){.node = graph->nodes[n].name, .bits = bits};
  }
  return QB_OK;
}

void qb_layer_plan_free(qb_layer_plan *plan) {
  if (plan == NULL)
    return;
  qb_free(plan->layers);
  *plan = (qb_layer_plan){0};
}

/* ---------------------------------------------------------------------------------------------- nearest names */

/* A piece of a text that is not terminated. */
typedef struct word {
  const char *text;
  size_t length;
} word;

enum { NAME_LIMIT = 256 };

/* Levenshtein distance of the first NAME_LIMIT bytes. */
static size_t edit_distance(word a, word b) {
  size_t row[NAME_LIMIT + 1];
  size_t rows = a.length < NAME_LIMIT ? a.length : NAME_LIMIT, columns = b.length < NAME_LIMIT ? b.length : NAME_LIMIT;
  for (size_t j = 0; j <= columns; j++)
    row[j] = j;
  for (size_t i = 1; i <= rows; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= columns; j++) {
      size_t change = diagonal + (a.text[i - 1] != b.text[j - 1]);
      size_t shift = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
      diagonal = row[j];
      row[j] = change < shift ? change : shift;
    }
  }
  return row[columns];
}

/* ". Did you mean 'conv1'?", or that there are no layers. */
static const char *suggestion(const qb_layer_plan *plan, word name, char text[NAME_LIMIT + 64]) {
  if (plan->count == 0)
    return "; this network has no layer with weights";
  int nearest = 0;
  size_t best = SIZE_MAX;
  for (int i = 0; i < plan->count; i++) {
    const char *node = plan->layers[i].node;
    size_t distance = edit_distance(name, (word){node, strlen(node)});
    if (distance < best) {
      best = distance;
      nearest = i;
    }
  }
  snprintf(text, NAME_LIMIT + 64, "; the nearest layer is '%.*s'", NAME_LIMIT, plan->layers[nearest].node);
  return text;
}

/* ---------------------------------------------------------------------------------------------------- setting */

static bool same_name(word name, const char *node) {
  return strlen(node) == name.length && memcmp(node, name.text, name.length) == 0;
}

/* Sets every layer of that name; false when there is none. */
static bool set_bits(qb_layer_plan *plan, word name, int bits) {
  bool found = false;
  for (int i = 0; i < plan->count; i++)
    if (same_name(name, plan->layers[i].node)) {
      plan->layers[i].bits = bits;
      found = true;
    }
  return found;
}

qb_status qb_layer_plan_set(qb_layer_plan *plan, const char *node, int bits, qb_error *error) {
  char text[NAME_LIMIT + 64];
  word name = {node, strlen(node)};
  if (set_bits(plan, name, bits))
    return QB_OK;
  return qb_fail(error, QB_ERROR_ARGUMENT, "there is no layer '%.*s'%s", NAME_LIMIT, node,
                 suggestion(plan, name, text));
}

/* "2".."16" as they are; "0", "float" and "#" as 0. */
static bool parse_bits(word text, int *bits) {
  if (text.length == 5 && memcmp(text.text, "float", 5) == 0) {
    *bits = 0;
    return true;
  }
  if (text.length == 1 && (text.text[0] == '#' || text.text[0] == '0')) {
    *bits = 0;
    return true;
  }
  if (text.length < 1 || text.length > 2 || text.text[0] == '0')
    return false;
  *bits = 0;
  for (size_t i = 0; i < text.length; i++) {
    if (text.text[i] < '0' || text.text[i] > '9')
      return false;
    *bits = 10 * *bits + (text.text[i] - '0');
  }
  return *bits >= QB_MIN_BITS && *bits <= QB_MAX_BITS;
}

/* ---------------------------------------------------------------------------------------------------- parsing */

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static word trim(word text) {
  while (text.length > 0 && is_blank(text.text[text.length - 1]))
    text.length--;
  while (text.length > 0 && is_blank(text.text[0])) {
    text.text++;
    text.length--;
  }
  return text;
}

/* Cuts the last word off `text`; what is left is trimmed and may be empty. */
static word cut_last_word(word *text) {
  size_t start = text->length;
  while (start > 0 && !is_blank(text->text[start - 1]))
    start--;
  word last = {text->text + start, text->length - start};
  *text = trim((word){text->text, start});
  return last;
}

typedef struct plan_parser {
  qb_layer_plan *plan;
  const char *path;
  int line;
  int *seen; /* (plan->count) the line that set a layer, 0: none */
  qb_error *error;
} plan_parser;

static qb_status unknown_layer(const plan_parser *parser, word name) {
  char text[NAME_LIMIT + 64];
  int shown = name.length < NAME_LIMIT ? (int)name.length : NAME_LIMIT;
  return qb_fail(parser->error, QB_ERROR_FORMAT, "%s: line %d: there is no layer '%.*s'%s", parser->path, parser->line,
                 shown, name.text, suggestion(parser->plan, name, text));
}

static qb_status set_line(plan_parser *parser, word name, int bits) {
  if (!set_bits(parser->plan, name, bits))
    return unknown_layer(parser, name);
  for (int i = 0; i < parser->plan->count; i++) {
    if (!same_name(name, parser->plan->layers[i].node))
      continue;
    if (parser->seen[i] != 0 && parser->seen[i] != parser->line)
      return qb_fail(parser->error, QB_ERROR_FORMAT, "%s: line %d: layer '%s' is on line %d already; keep one of them",
                     parser->path, parser->line, parser->plan->layers[i].node, parser->seen[i]);
    parser->seen[i] = parser->line;
  }
  return QB_OK;
}

static bool has_blank(word text) {
  for (size_t i = 0; i < text.length; i++)
    if (is_blank(text.text[i]))
      return true;
  return false;
}

/* Behind '#': a layer's name, with bits or without, keeps that layer float; any other text is a comment. One word and
 * bits that name no layer are taken for a misspelt layer. */
static qb_status parse_comment(plan_parser *parser, word text) {
  word name = text;
  int bits;
  for (int i = 0; i < parser->plan->count; i++)
    if (same_name(text, parser->plan->layers[i].node))
      return set_line(parser, text, 0);
  word last = cut_last_word(&name);
  if (!parse_bits(last, &bits) || name.length == 0)
    return QB_OK;
  for (int i = 0; i < parser->plan->count; i++)
    if (same_name(name, parser->plan->layers[i].node))
      return set_line(parser, name, 0);
  return has_blank(name) ? QB_OK : unknown_layer(parser, name);
}

static qb_status parse_line(plan_parser *parser, word text) {
  int bits;
  text = trim(text);
  if (text.length == 0)
    return QB_OK;
  if (memchr(text.text, '\0', text.length) != NULL)
    return qb_fail(parser->error, QB_ERROR_FORMAT, "%s: line %d: not a text file", parser->path, parser->line);
  if (text.text[0] == '#')
    return parse_comment(parser, trim((word){text.text + 1, text.length - 1}));
  word name = text, last = cut_last_word(&name);
  if (name.length == 0 || !parse_bits(last, &bits))
    return qb_fail(parser->error, QB_ERROR_FORMAT,
                   "%s: line %d: expected a layer's name and its bits (%d to %d, or float) but found '%.*s'",
                   parser->path, parser->line, QB_MIN_BITS, QB_MAX_BITS,
                   text.length < NAME_LIMIT ? (int)text.length : NAME_LIMIT, text.text);
  return set_line(parser, name, bits);
}

qb_status qb_layer_plan_parse(qb_layer_plan *plan, const char *text, size_t length, const char *path, qb_error *error) {
  plan_parser parser = {.plan = plan, .path = path, .error = error};
  parser.seen = qb_alloc((size_t)plan->count, sizeof *parser.seen);
  if (parser.seen == NULL)
    return qb_fail_memory(error, path, (size_t)plan->count * sizeof *parser.seen);
  qb_status status = QB_OK;
  for (size_t start = 0; status == QB_OK && start < length;) {
    const char *end = memchr(text + start, '\n', length - start);
    size_t size = end == NULL ? length - start : (size_t)(end - (text + start));
    parser.line++;
    status = parse_line(&parser, (word){text + start, size});
    start += size + 1;
  }
  qb_free(parser.seen);
  return status;
}

enum { FILE_LIMIT = 1 << 20 };

static qb_status read_error(const char *path, qb_error *error) {
  return qb_fail(error, QB_ERROR_IO, "%s: cannot read the plan: %s", path, strerror(errno));
}

qb_status qb_layer_plan_read(qb_layer_plan *plan, const char *path, qb_error *error) {
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return read_error(path, error);
  char *text = qb_alloc(FILE_LIMIT, 1);
  size_t length = text != NULL ? fread(text, 1, FILE_LIMIT, file) : 0;
  qb_status status;
  if (text == NULL)
    status = qb_fail_memory(error, path, FILE_LIMIT);
  else if (ferror(file))
    status = read_error(path, error);
  else if (length == FILE_LIMIT)
    status = qb_fail(error, QB_ERROR_FORMAT, "%s: larger than 1 MiB; not a plan", path);
  else
    status = qb_layer_plan_parse(plan, text, length, path, error);
  qb_free(text);
  fclose(file);
  return status;
}

/* --------------------------------------------------------------------------------------- overrides and writing */

static qb_status match_layers(qb_layer_plan *plan, const regex_t *expression, int bits, const char *assignment,
                              qb_error *error) {
  bool found = false;
  for (int i = 0; i < plan->count; i++)
    if (regexec(expression, plan->layers[i].node, 0, NULL, 0) == 0) {
      plan->layers[i].bits = bits;
      found = true;
    }
  if (found)
    return QB_OK;
  char text[NAME_LIMIT + 64];
  word pattern = {assignment, (size_t)(strrchr(assignment, '=') - assignment)};
  return qb_fail(error, QB_ERROR_ARGUMENT, "'%s' matches no layer%s", assignment, suggestion(plan, pattern, text));
}

qb_status qb_layer_plan_override(qb_layer_plan *plan, const char *assignment, qb_error *error) {
  const char *equals = strrchr(assignment, '=');
  int bits;
  if (equals == NULL || equals == assignment || !parse_bits((word){equals + 1, strlen(equals + 1)}, &bits))
    return qb_fail(error, QB_ERROR_ARGUMENT, "'%s' is not REGEX=BITS with bits from %d to %d, or float", assignment,
                   QB_MIN_BITS, QB_MAX_BITS);
  size_t length = (size_t)(equals - assignment);
  char *pattern = qb_alloc(length + 1, 1);
  if (pattern == NULL)
    return qb_fail_memory(error, assignment, length);
  memcpy(pattern, assignment, length);

  regex_t expression;
  int code = regcomp(&expression, pattern, REG_EXTENDED | REG_NOSUB);
  qb_free(pattern);
  if (code != 0) {
    char reason[128];
    regerror(code, &expression, reason, sizeof reason);
    return qb_fail(error, QB_ERROR_ARGUMENT, "'%s': %s", assignment, reason);
  }
  qb_status status = match_layers(plan, &expression, bits, assignment, error);
  regfree(&expression);
  return status;
}

qb_status qb_layer_plan_write(const qb_layer_plan *plan, FILE *file, const char *path, qb_error *error) {
  bool good = fputs("# layer bits; put # in front of a line to keep that layer float\n", file) >= 0;
  for (int i = 0; good && i < plan->count; i++)
    good = plan->layers[i].bits == 0 ? fprintf(file, "# %s\n", plan->layers[i].node) >= 0
                                     : fprintf(file, "%s %d\n", plan->layers[i].node, plan->layers[i].bits) >= 0;
  if (!good || fflush(file) != 0)
    return qb_fail(error, QB_ERROR_IO, "%s: cannot write the plan: %s", path, strerror(errno));
  return QB_OK;
}
