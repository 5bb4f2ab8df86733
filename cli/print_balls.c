/* Certified balls for people: a line for each radius. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/table.h"

/* Four digits, never below (direction 1) or above (direction -1) the number. */
static void number_cell(cli_table *table, double number, int direction) {
  char text[32];
  double shown = number;
  for (int tries = 0; tries < 4; tries++) {
    snprintf(text, sizeof text, "%.4g", shown);
    if (direction * (strtod(text, NULL) - number) >= 0)
      break;
    shown += direction * 3e-4 * fabs(number);
  }
  cli_table_cell(table, "%s", isinf(number) ? "none" : text);
}

static void print_point(cli_table *table, const qb_ball_curve_point *point) {
  cli_table_cell(table, "%g%s", point->radius.value, point->radius.pixels ? "px" : "");
  cli_table_cell(table, "%lld", (long long)point->balls);
  cli_table_cell(table, "%lld", (long long)point->proved);
  cli_table_cell(table, "%lld", (long long)point->refuted);
  cli_table_cell(table, "%lld", (long long)point->unknown);
  number_cell(table, point->median, 1);
  number_cell(table, point->largest, 1);
  number_cell(table, point->lower, -1);
  cli_table_cell(table, "%.3f", point->seconds / (double)point->balls);
}

/* Nodes without a rule, once. */
static void print_reason(const qb_balls_claim *claim) {
  for (int64_t k = 0; k < claim->ball_count; k++)
    if (claim->balls[k].method == NULL) {
      printf("  nothing is proved: %s\n", claim->balls[k].why);
      return;
    }
}

/* Lower sides that there was no time to prove. */
static void print_late(const qb_balls_claim *claim) {
  long long late = 0;
  for (int64_t k = 0; k < claim->ball_count; k++)
    late += claim->balls[k].method != NULL && claim->balls[k].why[0] != '\0';
  if (late > 0)
    printf("  largest found: out of time for %lld of the balls\n", late);
}

void cli_print_balls(const qb_balls_claim *claim) {
  static const char *const header[] = {"radius",       "balls",         "no flip",       "flips",         "unknown",
                                       "median bound", "largest bound", "largest found", "seconds a ball"};
  cli_table table;
  printf("\nAround %s: at every input within the radius no output changes by more than the bound. No flip: the two\n"
         "networks are proved to agree on the largest output; flips: an input was found where they do not.\n\n",
         claim->centres);
  cli_table_begin(&table, "rrrrrrrrr");
  for (size_t i = 0; i < sizeof header / sizeof *header; i++)
    cli_table_cell(&table, "%s", header[i]);
  for (int r = 0; r < claim->point_count; r++)
    print_point(&table, &claim->curve[r]);
  cli_table_end(&table);
  print_reason(claim);
  print_late(claim);
  if (claim->note[0] != '\0')
    printf("  %s\n", claim->note);
}
