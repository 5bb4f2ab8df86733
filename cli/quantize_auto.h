/* The part of `qbound quantize` behind --bits auto: its options, what it prints, the plan that it saves. */
#ifndef QBOUND_CLI_QUANTIZE_AUTO_H
#define QBOUND_CLI_QUANTIZE_AUTO_H

#include "cli/cli.h"
#include "cli/table.h"

typedef struct cli_auto {
  bool on;             /* --bits auto */
  const char *promise; /* the option that gave it, NULL: none */
  bool has_confidence, has_domain;
  qb_allocate_settings how;
  int widths[CLI_LIST];
  qb_data verify;
  const char *save_plan;
} cli_auto;

void cli_auto_default(cli_auto *automatic);

/* The child parser; its input is a cli_auto. */
extern const struct argp cli_auto_argp;

/* Usage errors of options that do not go together; completes the settings. `preprocess` is how samples become inputs,
 * NULL when not given; `data` tells that there are calibration samples. */
void cli_auto_check(struct argp_state *state, cli_auto *automatic, const char *preprocess);

/* A cell of the column "share": "12.3 %", "fixed", "-". */
void cli_auto_share(cli_table *table, const qb_allocated_layer *layer);

/* Which plans were compared, which networks were tested, and whether the promise is kept. */
void cli_auto_print(const qb_allocation *allocation);

/* Writes the plan as --plan reads it: complete or not at all. False with a message. */
bool cli_auto_save_plan(const cli_auto *automatic, const qb_allocation *allocation, const char *model, qb_error *error);

#endif
