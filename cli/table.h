/* Tables for people: columns aligned by display width, a rule under the header. */
#ifndef QBOUND_CLI_TABLE_H
#define QBOUND_CLI_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* Grows as cells are added; cells are copied. Memory failure ends the program with exit code 1. */
typedef struct cli_table {
  const char *alignment; /* one of 'l', 'r' per column */
  char **cells;
  size_t count, capacity;
} cli_table;

void cli_table_begin(cli_table *table, const char *alignment);

/* The next cell, row by row; the first row is the header. */
void cli_table_cell(cli_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints to stdout, every line behind two spaces, and releases the table. */
void cli_table_end(cli_table *table);

enum { CLI_TEXT = 32 };

/* Numbers for people; return `text`. "11.7 M"; "44.6 MB" (10^6 bytes); "79.62 %"; "79.62 %" of NAN is "-". */
const char *cli_count(int64_t count, char text[CLI_TEXT]);
const char *cli_bytes(int64_t size_bytes, char text[CLI_TEXT]);
const char *cli_percent(double fraction, char text[CLI_TEXT]);

#endif
