/* Aligned tables and numbers for people; see table.h. */
#include "cli/table.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

void cli_table_begin(cli_table *table, const char *alignment) { *table = (cli_table){.alignment = alignment}; }

static void *checked(void *block) {
  if (block == NULL) {
    fputs("qbound: not enough memory for a table\n", stderr);
    exit(CLI_FAILED);
  }
  return block;
}

void cli_table_cell(cli_table *table, const char *format, ...) {
  if (table->count == table->capacity) {
    table->capacity = table->capacity == 0 ? 64 : 2 * table->capacity;
    table->cells = checked(realloc(table->cells, table->capacity * sizeof *table->cells));
  }
  va_list arguments;
  va_start(arguments, format);
  char *text = NULL;
  if (vasprintf(&text, format, arguments) < 0)
    text = NULL;
  va_end(arguments);
  table->cells[table->count++] = checked(text);
}

/* Columns that a UTF-8 text takes: its bytes but the continuation bytes. */
static int width_of(const char *text) {
  int width = 0;
  for (; *text != '\0'; text++)
    width += ((unsigned char)*text & 0xc0u) != 0x80u;
  return width;
}

static void print_padding(int count, const char *with) {
  for (int i = 0; i < count; i++)
    fputs(with, stdout);
}

static void print_row(const cli_table *table, size_t columns, size_t row, const int *widths) {
  for (size_t c = 0; c < columns; c++) {
    const char *text = table->cells[row * columns + c];
    int padding = widths[c] - width_of(text);
    print_padding(2, " ");
    if (table->alignment[c] == 'r')
      print_padding(padding, " ");
    fputs(text, stdout);
    if (table->alignment[c] == 'l' && c + 1 < columns)
      print_padding(padding, " ");
  }
  putchar('\n');
}

void cli_table_end(cli_table *table) {
  size_t columns = strlen(table->alignment), rows = table->count / columns;
  int *widths = checked(calloc(columns, sizeof *widths));
  for (size_t i = 0; i < rows * columns; i++) {
    int width = width_of(table->cells[i]);
    if (width > widths[i % columns])
      widths[i % columns] = width;
  }
  for (size_t row = 0; row < rows; row++) {
    print_row(table, columns, row, widths);
    if (row != 0)
      continue;
    for (size_t c = 0; c < columns; c++) {
      print_padding(2, " ");
      print_padding(widths[c], cli_utf8() ? "\u2500" : "-");
    }
    putchar('\n');
  }
  for (size_t i = 0; i < table->count; i++)
    free(table->cells[i]);
  free(table->cells);
  free(widths);
  *table = (cli_table){0};
}

/* Three significant digits and a decimal prefix. */
static const char *print_scaled(double value, const char *unit, char text[CLI_TEXT]) {
  static const char *const prefixes[] = {"", "k", "M", "G", "T"};
  int prefix = 0;
  while (value >= 999.5 && prefix < 4) {
    value /= 1000;
    prefix++;
  }
  if (prefix == 0)
    snprintf(text, CLI_TEXT, "%.0f %s", value, unit);
  else
    snprintf(text, CLI_TEXT, "%.*f %s%s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, prefixes[prefix], unit);
  size_t length = strlen(text);
  if (text[length - 1] == ' ')
    text[length - 1] = '\0';
  return text;
}

const char *cli_count(int64_t count, char text[CLI_TEXT]) { return print_scaled((double)count, "", text); }

const char *cli_bytes(int64_t size_bytes, char text[CLI_TEXT]) { return print_scaled((double)size_bytes, "B", text); }

const char *cli_percent(double fraction, char text[CLI_TEXT]) {
  if (isnan(fraction))
    snprintf(text, CLI_TEXT, "-");
  else
    snprintf(text, CLI_TEXT, "%.2f %%", 100 * fraction);
  return text;
}
