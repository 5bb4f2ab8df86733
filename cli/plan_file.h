/* Bits per layer from a plan file and from --tensor REGEX=BITS. */
#ifndef QBOUND_CLI_PLAN_FILE_H
#define QBOUND_CLI_PLAN_FILE_H

#include <qbound/qbound.h>

/* Overrides in the order of the model's layers; names belong to the model. */
typedef struct cli_plan {
  qb_layer_bits *layers; /* (count), from malloc */
  int count;
} cli_plan;

/* Reads `path` (may be NULL): one layer a line, its node name and its bits (2..16); a `#` in front keeps the layer
 * float; other lines that start with `#` are comments, empty lines are skipped. Then applies `rules` (rule_count) of
 * the form REGEX=BITS (POSIX extended, BITS 2..16 or `float`), later ones win over earlier ones and over the file.
 * False with `error` filled: an unknown layer, a bad line (with its number), a rule that matches no layer. Release
 * with cli_plan_free in every case. */
bool cli_plan_make(const qb_model *model, const char *path, const char *const *rules, int rule_count, cli_plan *plan,
                   qb_error *error);
void cli_plan_free(cli_plan *plan);

#endif
