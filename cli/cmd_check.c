/* qbound check CERT.json MODEL OTHER: verifies a certificate with code that shares nothing with the engine. */
#include <stdio.h>

#include "cli/cli.h"

typedef struct check_arguments {
  cli_options options;
  qb_check_settings settings;
  const char *files[3]; /* certificate, model, other */
  int count;
} check_arguments;

enum { KEY_DATA = 0x100, KEY_LABELS };

static const struct argp_option options[] = {
    {"data", KEY_DATA, "DATA", 0,
     "Where centres of balls are read that the certificate holds only hashes of, see `qbound measure --help`; "
     "preprocessing is that of the certificate",
     0},
    {"labels", KEY_LABELS, "FILE", 0, "Labels of DATA, where `certify` had them", 0},
    {0},
};

static error_t parse(int key, char *text, struct argp_state *state) {
  check_arguments *arguments = state->input;
  switch (key) {
  case KEY_DATA: arguments->settings.data = text; return 0;
  case KEY_LABELS: arguments->settings.labels = text; return 0;
  case ARGP_KEY_INIT: state->child_inputs[0] = &arguments->options; return 0;
  case ARGP_KEY_ARG:
    if (arguments->count == 3)
      argp_error(state, "CERT.json, MODEL and OTHER, no more; '%s' is too much", text);
    arguments->files[arguments->count++] = text;
    return 0;
  case ARGP_KEY_END:
    if (arguments->count < 3)
      argp_error(state, "which CERT.json, which MODEL and which OTHER?");
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp check_argp = {
    .options = options,
    .parser = parse,
    .args_doc = "CERT.json MODEL OTHER",
    .doc = "Recomputes what a certificate claims from the two networks, with code that shares only the reader of ONNX "
           "files with the engine that wrote it.\v"
           "Example:\n  qbound check net_w8.json net.onnx net_w8.onnx\n\n"
           "Exit status: 0 the claim follows; 3 it does not, or it cannot be recomputed; 1 a file cannot be read.",
    .children = cli_common,
};

int cmd_check(int argc, char **argv) {
  check_arguments arguments = {0};
  argp_parse(&check_argp, argc, argv, 0, NULL, &arguments);
  qb_error error;
  qb_check_report report;
  char *text = NULL;
  arguments.settings.threads = arguments.options.threads;
  if (qb_check(arguments.files[0], arguments.files[1], arguments.files[2], &arguments.settings, &report, &error) !=
      QB_OK)
    return cli_fail(&error);
  int code = report.verdict == QB_CHECK_VERIFIED ? CLI_DONE : CLI_UNPROVED, printed;
  if (arguments.options.json) {
    printed = qb_check_json(&report, &text, &error) == QB_OK ? cli_print_json(text) : cli_fail(&error);
  } else {
    printf("%s: %s\n", qb_check_verdict_name(report.verdict), report.why);
    if (report.verdict == QB_CHECK_VERIFIED && report.method[0] != '\0')
      printf("  no output changes by more than %.9g over the domain (claimed, %s); recomputed: %.9g\n", report.claimed,
             report.method, report.recomputed);
    printed = cli_flush();
  }
  return printed == CLI_DONE ? code : printed;
}
