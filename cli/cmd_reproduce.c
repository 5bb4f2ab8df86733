/* qbound reproduce NAME -o DIR: the paper's figures and what lies beyond them, as tables and pictures. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

typedef struct reproduce_arguments {
  cli_options options;
  qb_reproduce_settings settings;
} reproduce_arguments;

enum { KEY_DATA = 0x100, KEY_SAMPLES, KEY_QUICK };

static const struct argp_option reproduce_options[] = {
    {"output", 'o', "DIR", 0, "The folder to write to, made when missing", 0},
    {"data", KEY_DATA, "DIR", 0, "The folder of networks and images (default: the environment variable QBOUND_DATA)",
     0},
    {"samples", KEY_SAMPLES, "N", 0, "Images per network (default: 100 to 2500, docs/reproduce.md)", 0},
    {"quick", KEY_QUICK, NULL, 0, "Fewer widths, images and networks: minutes instead of half an hour", 0},
    {0},
};

static error_t parse(int key, char *text, struct argp_state *state) {
  reproduce_arguments *arguments = state->input;
  qb_reproduce_settings *settings = &arguments->settings;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &arguments->options; return 0;
  case 'o': settings->output = text; return 0;
  case KEY_DATA: settings->data = text; return 0;
  case KEY_SAMPLES: settings->samples = cli_parse_integer(state, "--samples", text, 1, LLONG_MAX); return 0;
  case KEY_QUICK: settings->quick = true; return 0;
  case ARGP_KEY_ARG:
    if (settings->name != NULL)
      argp_error(state, "one NAME at a time; '%s' is too much", text);
    settings->name = text;
    return 0;
  case ARGP_KEY_END:
    if (settings->name == NULL)
      argp_error(state, "which NAME? Say figure1 to figure5, equalization, beyond or all");
    if (settings->output == NULL)
      argp_error(state, "where to? Say -o DIR");
    if (settings->data == NULL || settings->data[0] == '\0')
      argp_error(state, "where are networks and images? Say --data DIR or set QBOUND_DATA (docs/reproduce.md)");
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp reproduce_argp = {
    .options = reproduce_options,
    .parser = parse,
    .args_doc = "NAME",
    .doc = "Computes a figure of the paper (figure1 to figure5), bounds before and after equalization (equalization), "
           "every bound beside what is measured (beyond), or all of them. Writes NAME.csv, NAME.svg and NAME.png and "
           "prints what the paper reports beside what was measured.\v"
           "Example:\n  qbound reproduce figure1 -o figures --data networks\n\n"
           "A network that is missing is named with how to get it; the rest still runs and the exit status is 1. Equal "
           "networks, images and options give equal tables.",
    .children = cli_common,
};

static void print_reproduction(const qb_reproduction *reproduction) {
  for (int i = 0; i < reproduction->finding_count; i++) {
    const qb_reproduce_finding *finding = &reproduction->findings[i];
    printf("%s, %s\n  paper:    %s\n  measured: %s\n", finding->figure, finding->subject, finding->paper,
           finding->measured);
  }
  for (int i = 0; i < reproduction->file_count; i++)
    printf("%s%s\n", i == 0 ? "\nWritten:\n  " : "  ", reproduction->files[i]);
}

static int print_missing(const qb_reproduction *reproduction) {
  for (int i = 0; i < reproduction->missing_count; i++)
    fprintf(stderr, "qbound: %s is missing: %s\n", reproduction->missing[i].path, reproduction->missing[i].how);
  return reproduction->missing_count > 0 ? CLI_FAILED : CLI_DONE;
}

int cmd_reproduce(int argc, char **argv) {
  reproduce_arguments arguments = {0};
  qb_reproduce_settings_default(&arguments.settings);
  arguments.settings.name = NULL;
  arguments.settings.data = getenv("QBOUND_DATA");
  argp_parse(&reproduce_argp, argc, argv, 0, NULL, &arguments);
  arguments.settings.threads = arguments.options.threads;
  arguments.settings.seed = arguments.options.seed;

  qb_error error;
  qb_reproduction reproduction;
  if (qb_reproduce(&arguments.settings, cli_progress_begin_stoppable(), &reproduction, &error) != QB_OK)
    return cli_fail(&error);
  int code;
  if (arguments.options.json) {
    char *text = NULL;
    code = qb_reproduction_json(&reproduction, &text, &error) == QB_OK ? cli_print_json(text) : cli_fail(&error);
  } else {
    cli_progress_end();
    print_reproduction(&reproduction);
    code = cli_flush();
  }
  int missing = print_missing(&reproduction);
  qb_reproduction_free(&reproduction);
  return code != CLI_DONE ? code : missing;
}
