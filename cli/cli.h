/* What the subcommands share: common options, exit codes, parsing of lists, progress, errors.
 *
 * The command line uses the public header alone; it is the first user of the library. */
#ifndef QBOUND_CLI_H
#define QBOUND_CLI_H

#include <argp.h>
#include <qbound/qbound.h>

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_UNPROVED = 3 };

/* Options of every subcommand. */
typedef struct cli_options {
  bool json;     /* one JSON object on stdout instead of a table */
  int threads;   /* 0: all cores */
  uint64_t seed; /* of everything random */
} cli_options;

/* The child parser of the common options; its input is a cli_options. Every subcommand puts it into its own argp and
 * sets state->child_inputs[0] at ARGP_KEY_INIT. */
extern const struct argp_child cli_common[2];

/* The same as one entry of a longer list of child parsers. */
extern const struct argp cli_common_argp;
#define CLI_COMMON \
  { &cli_common_argp, 0, "Options of every command:", 10 }

/* --data, --labels, --preprocess, --samples, --skip, --label-offset, of which --data must be given; the input is a
 * qb_data. A child parser as well. */
extern const struct argp cli_data_argp;

int cmd_inspect(int argc, char **argv);
int cmd_bound(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_measure(int argc, char **argv);
int cmd_certify(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_demo(int argc, char **argv);
int cmd_train_mlp(int argc, char **argv);
int cmd_reproduce(int argc, char **argv);

/* ----------------------------------------------------------------------------------------------------- options */

/* An integer in [least, most]; a usage error naming the option otherwise. */
long long cli_parse_integer(struct argp_state *state, const char *option, const char *text, long long least,
                            long long most);

/* A finite number; a usage error otherwise. */
double cli_parse_number(struct argp_state *state, const char *option, const char *text);

/* "pixels", "D" or "LO,HI"; a usage error otherwise. */
void cli_parse_domain(struct argp_state *state, const char *text, qb_domain_kind *kind, double *lo, double *hi);

enum { CLI_LIST = 16 };

/* "2-16", "4,8" or "2-4,8": bit widths in the order given, each once. Returns their number. */
int cli_parse_bits(struct argp_state *state, const char *text, int bits[CLI_LIST]);

/* "round,uniform"; "tensor,channel". Return the number of entries. */
int cli_parse_schemes(struct argp_state *state, const char *text, qb_scheme schemes[CLI_LIST]);
int cli_parse_granularities(struct argp_state *state, const char *text, qb_granularity granularities[CLI_LIST]);

/* The index of `text` among the NULL-terminated `names`; a usage error that lists them otherwise. */
int cli_parse_choice(struct argp_state *state, const char *option, const char *text, const char *const *names);

/* ------------------------------------------------------------------------------------------- running and reporting */

/* A progress that draws one line with the time left on stderr when that is a terminal and `json` or not; silent
 * otherwise. Call cli_progress_end before printing anything else. */
const qb_progress *cli_progress_begin(void);

/* The same; and the first Ctrl-C or SIGTERM stops the call, which then leaves no temporary file. A second one ends the
 * program. */
const qb_progress *cli_progress_begin_stoppable(void);
void cli_progress_end(void);

/* Prints "qbound: message" on stderr and returns CLI_FAILED. */
int cli_fail(const qb_error *error);

/* Prints a JSON text and a newline, releases it; CLI_DONE, or CLI_FAILED when stdout cannot be written. */
int cli_print_json(char *text);

/* CLI_DONE, or CLI_FAILED with a message when writing to stdout has failed (a full disk, a closed pipe). */
int cli_flush(void);

/* ------------------------------------------------------------------------------------------------ reports for people
 */

/* Defined beside the command that prints them. */
void cli_print_inspection(const qb_inspection *inspection);
void cli_print_bounds(const qb_bound_report *report);
void cli_print_measurement(const qb_measurement *measured);
void cli_print_certificate(const qb_certificate *certificate); /* print_certificate.c */
void cli_print_balls(const qb_balls_claim *claim);             /* print_balls.c */
void cli_print_statistical(const qb_statistical_claim *claim); /* print_statistical.c */

enum { CLI_BOUND_TEXT = QB_BOUND_VALUE_TEXT };

/* A bound for people: "114" instead of "1.14e2", large ones as they are, "n/a" when it does not apply. Never less than
 * the bound. Returns `text`. */
const char *cli_bound_text(const qb_bound_value *value, char text[CLI_BOUND_TEXT]);

/* Whether the row's best bound is vacuous: 99 % or more of what the original network's outputs can move by alone. */
bool cli_is_vacuous(const qb_bound_row *row);

/* True when the locale's character set is UTF-8. */
bool cli_utf8(void);

#endif
