/* Boxes from VNNLIB and CSV; see box_file.h. */
#include "data/box_file.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/bytes.h"

enum { FILE_LIMIT = 256 << 20, MOST_INPUTS = 1 << 26 };

/* The nearest float32 numbers around a decimal; the decimal itself lies within half a unit of its double. */
static float float_below(double x) {
  float f = (float)nextafter(x, -INFINITY);
  return (double)f > nextafter(x, -INFINITY) ? nextafterf(f, -INFINITY) : f;
}

static float float_above(double x) { return -float_below(-x); }

/* A decimal that a float32 stands for exactly stays as it is. */
static void widen(const char *text, char **end, bool lower, float *limit) {
  double x = strtod(text, end);
  bool exact = (double)(float)x == x && fabs(x) < 0x1p24 && (x == rint(x * 1024) / 1024);
  *limit = exact ? (float)x : lower ? float_below(x) : float_above(x);
}

static qb_status new_box(qb_input_box *box, int64_t count, qb_error *error) {
  box->count = count;
  box->lo = qb_alloc((size_t)count, sizeof(float));
  box->hi = qb_alloc((size_t)count, sizeof(float));
  if (box->lo == NULL || box->hi == NULL)
    return qb_fail_memory(error, "input box", (size_t)count * 2 * sizeof(float));
  for (int64_t i = 0; i < count; i++) {
    box->lo[i] = -INFINITY;
    box->hi[i] = INFINITY;
  }
  return QB_OK;
}

static qb_status check_box(const qb_input_box *box, const char *path, int64_t row, qb_error *error) {
  for (int64_t i = 0; i < box->count; i++)
    if (!isfinite(box->lo[i]) || !isfinite(box->hi[i]) || box->lo[i] > box->hi[i])
      return qb_fail(error, QB_ERROR_FORMAT, "%s: box %lld: input %lld has no finite interval (lo %g, hi %g)", path,
                     (long long)row, (long long)i, (double)box->lo[i], (double)box->hi[i]);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- VNNLIB */

typedef struct reader {
  const char *path, *at;
  int64_t line;
  qb_input_box *box; /* NULL while counting */
  int64_t inputs;    /* highest index of X plus one */
  qb_error *error;
} reader;

static void skip_space(reader *r) {
  for (; *r->at != '\0'; r->at++) {
    if (*r->at == ';')
      while (r->at[1] != '\0' && r->at[1] != '\n')
        r->at++;
    else if (!isspace((unsigned char)*r->at))
      return;
    r->line += *r->at == '\n';
  }
}

static qb_status complain(const reader *r, const char *what) {
  return qb_fail(r->error, QB_ERROR_FORMAT, "%s:%lld: %s", r->path, (long long)r->line, what);
}

/* True and past it when the next word is `word`. */
static bool take(reader *r, const char *word) {
  size_t length = strlen(word);
  skip_space(r);
  bool is_symbol = word[0] == '(' || word[0] == ')';
  if (strncmp(r->at, word, length) != 0 ||
      (!is_symbol && r->at[length] != '\0' && !isspace((unsigned char)r->at[length]) &&
       strchr("()", r->at[length]) == NULL))
    return false;
  r->at += length;
  return true;
}

/* Skips to behind the parenthesis that closes the expression whose '(' was taken; tells whether it mentions X_. */
static qb_status skip_expression(reader *r, bool *inputs) {
  int depth = 1;
  while (depth > 0) {
    skip_space(r);
    if (*r->at == '\0')
      return complain(r, "a parenthesis is not closed");
    if (r->at[0] == 'X' && r->at[1] == '_')
      *inputs = true;
    depth += *r->at == '(' ? 1 : *r->at == ')' ? -1 : 0;
    r->at++;
  }
  return QB_OK;
}

/* X_12 -> 12; -1 when the next word is none. */
static int64_t take_input(reader *r) {
  skip_space(r);
  if (r->at[0] != 'X' || r->at[1] != '_' || !isdigit((unsigned char)r->at[2]))
    return -1;
  char *end;
  long long index = strtoll(r->at + 2, &end, 10);
  r->at = end;
  return index < MOST_INPUTS ? index : -1;
}

/* (<= X_i number) or (>= X_i number), the operands in either order, after the '('. */
static qb_status take_limit(reader *r) {
  const char *begin = r->at;
  int64_t line = r->line;
  bool upper = take(r, "<="), inputs = false;
  char *end = NULL;
  float limit[2];
  if (!upper && !take(r, ">="))
    return complain(r, "an assertion about inputs that is no interval: only >= and <= of one input and a number");
  int64_t index = take_input(r);
  skip_space(r);
  const char *number = r->at;
  for (int side = 0; side < 2; side++)
    widen(number, &end, side == 0, &limit[side]);
  if (end != number)
    r->at = end;
  if (index < 0 && end != number) { /* number first: the relation turns round */
    upper = !upper;
    index = take_input(r);
  }
  if (index < 0 || end == number || !take(r, ")")) {
    r->at = begin;
    r->line = line;
    QB_TRY(skip_expression(r, &inputs));
    return inputs ? complain(r, "an assertion about inputs that is no interval") : QB_OK;
  }
  r->inputs = index >= r->inputs ? index + 1 : r->inputs;
  if (r->box != NULL && upper)
    r->box->hi[index] = fminf(r->box->hi[index], limit[1]);
  else if (r->box != NULL)
    r->box->lo[index] = fmaxf(r->box->lo[index], limit[0]);
  return QB_OK;
}

static qb_status take_assertion(reader *r) {
  bool inputs = false;
  if (!take(r, "("))
    return complain(r, "an assertion without an expression");
  if (take(r, "and")) {
    while (take(r, "("))
      QB_TRY(take_limit(r));
    return take(r, ")") ? QB_OK : complain(r, "an 'and' that is not closed");
  }
  if (take(r, "or")) {
    QB_TRY(skip_expression(r, &inputs));
    return inputs ? complain(r, "a disjunction over inputs is several boxes: give one file each") : QB_OK;
  }
  return take_limit(r);
}

static qb_status read_statements(reader *r) {
  bool ignored = false;
  while (take(r, "(")) {
    if (take(r, "assert")) {
      QB_TRY(take_assertion(r));
      if (!take(r, ")"))
        return complain(r, "an assertion that is not closed");
      continue;
    }
    if (take(r, "declare-const") || take(r, "declare-fun")) {
      int64_t index = take_input(r);
      r->inputs = index >= r->inputs ? index + 1 : r->inputs;
    }
    QB_TRY(skip_expression(r, &ignored));
  }
  return *r->at == '\0' ? QB_OK : complain(r, "text outside of parentheses");
}

static qb_status read_vnnlib(const char *path, const char *text, qb_input_boxes *boxes, qb_error *error) {
  reader counting = {.path = path, .at = text, .line = 1, .error = error};
  QB_TRY(read_statements(&counting));
  if (counting.inputs == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: no input X_0 is bounded", path);
  boxes->boxes = qb_alloc(1, sizeof *boxes->boxes);
  if (boxes->boxes == NULL)
    return qb_fail_memory(error, "input box", sizeof *boxes->boxes);
  boxes->count = 1;
  QB_TRY(new_box(boxes->boxes, counting.inputs, error));
  reader filling = {.path = path, .at = text, .line = 1, .box = boxes->boxes, .error = error};
  QB_TRY(read_statements(&filling));
  return check_box(boxes->boxes, path, 0, error);
}

/* ------------------------------------------------------------------------------------------------------------ CSV */

/* Column of a header field: 2 i for "lo<i>", 2 i + 1 for "hi<i>", -1 for anything else. */
static int64_t column_of(const char *field, size_t length) {
  char *end;
  if (length < 3 || (strncmp(field, "lo", 2) != 0 && strncmp(field, "hi", 2) != 0) || !isdigit((unsigned char)field[2]))
    return -1;
  long long index = strtoll(field + 2, &end, 10);
  return end == field + length && index < MOST_INPUTS ? 2 * index + (field[0] == 'h') : -1;
}

static const char *field_end(const char *at) { return at + strcspn(at, ",\r\n"); }

static const char *next_line(const char *at) {
  at += strcspn(at, "\n");
  return *at == '\n' ? at + 1 : at;
}

static int64_t count_inputs(const char *header) {
  int64_t inputs = 0;
  for (const char *at = header;; at++) {
    const char *end = field_end(at);
    int64_t column = column_of(at, (size_t)(end - at));
    inputs = column / 2 + 1 > inputs && column >= 0 ? column / 2 + 1 : inputs;
    at = end;
    if (*at != ',')
      return inputs;
  }
}

static qb_status read_row(const char *path, const char *header, const char *line, int64_t row, qb_input_box *box,
                          qb_error *error) {
  for (;; header++, line++) {
    const char *name_end = field_end(header), *value_end = field_end(line);
    int64_t column = column_of(header, (size_t)(name_end - header));
    char *end = NULL;
    if (column >= 0) {
      widen(line, &end, column % 2 == 0, (column % 2 == 0 ? box->lo : box->hi) + column / 2);
      if (end == line || end != value_end)
        return qb_fail(error, QB_ERROR_FORMAT, "%s: data row %lld: column %.*s is not a number", path, (long long)row,
                       (int)(name_end - header), header);
    }
    header = name_end;
    line = value_end;
    if (*header != ',')
      return check_box(box, path, row, error);
    if (*line != ',')
      return qb_fail(error, QB_ERROR_FORMAT, "%s: data row %lld has fewer fields than the header", path,
                     (long long)row);
  }
}

static qb_status read_csv(const char *path, const char *text, qb_input_boxes *boxes, qb_error *error) {
  int64_t inputs = count_inputs(text), rows = 0;
  if (inputs == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: neither VNNLIB nor a CSV header with columns lo0, hi0, ..", path);
  for (const char *at = next_line(text); *at != '\0'; at = next_line(at))
    rows += *at != '\n' && *at != '\r';
  boxes->boxes = qb_alloc((size_t)rows, sizeof *boxes->boxes);
  if (boxes->boxes == NULL)
    return qb_fail_memory(error, "input boxes", (size_t)rows * sizeof *boxes->boxes);
  for (const char *at = next_line(text); *at != '\0'; at = next_line(at)) {
    if (*at == '\n' || *at == '\r')
      continue;
    int64_t row = boxes->count++;
    QB_TRY(new_box(&boxes->boxes[row], inputs, error));
    QB_TRY(read_row(path, text, at, row, &boxes->boxes[row], error));
  }
  return rows > 0 ? QB_OK : qb_fail(error, QB_ERROR_FORMAT, "%s: a header but no box", path);
}

/* ------------------------------------------------------------------------------------------------------ the whole */

qb_status qb_input_boxes_read(const char *path, qb_input_boxes *boxes, qb_error *error) {
  qb_bytes bytes;
  *boxes = (qb_input_boxes){0};
  QB_TRY(qb_bytes_read(path, FILE_LIMIT, &bytes, error));
  const char *text = (const char *)bytes.data;
  qb_status status = QB_OK;
  if (strlen(text) != bytes.size)
    status = qb_fail(error, QB_ERROR_FORMAT, "%s: not a text file", path);
  else if (text[strspn(text, " \t\r\n")] == '(' || text[strspn(text, " \t\r\n")] == ';')
    status = read_vnnlib(path, text, boxes, error);
  else
    status = read_csv(path, text, boxes, error);
  qb_bytes_free(&bytes);
  return status;
}

void qb_input_boxes_free(qb_input_boxes *boxes) {
  if (boxes == NULL)
    return;
  for (int64_t i = 0; i < boxes->count; i++) {
    qb_free(boxes->boxes[i].lo);
    qb_free(boxes->boxes[i].hi);
  }
  qb_free(boxes->boxes);
  *boxes = (qb_input_boxes){0};
}
