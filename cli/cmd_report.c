/* qbound report MODEL OTHER --data DATA -o report.html: one page for people. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"

typedef struct report_arguments {
  cli_options options;
  const char *model, *other, *output;
  qb_data data;
  qb_page_settings settings;
} report_arguments;

enum { KEY_CERTIFICATE = 0x100, KEY_NAMES, KEY_LAYER, KEY_INPUTS, KEY_SENSITIVITY, KEY_BATCH };

static const struct argp_option report_options[] = {
    {NULL, 'o', "FILE.html", 0, "Where the page goes", 0},
    {"certificate", KEY_CERTIFICATE, "CERT.json", 0, "What is proved, from `qbound certify`", 0},
    {"class-names", KEY_NAMES, "FILE", 0, "Names of the classes, one a line in the order of the network's outputs", 0},
    {"layer", KEY_LAYER, "NAME", 0, "Draw the weights of this layer (default: the one that changes the output most)",
     0},
    {"inputs", KEY_INPUTS, "N", 0, "Show the N inputs that change most (default 8)", 0},
    {"sensitivity", KEY_SENSITIVITY, "N", 0,
     "Quantize layers one by one on the first N inputs (default 16; 0 leaves it out)", 0},
    {"batch", KEY_BATCH, "N", 0, "Inputs per run (default 16)", 0},
    {0},
};

static void check_arguments(struct argp_state *state, const report_arguments *arguments) {
  if (arguments->model == NULL || arguments->other == NULL)
    argp_error(state, "which MODEL and which OTHER?");
  if (arguments->output == NULL)
    argp_error(state, "where does the page go? Say -o report.html");
}

static error_t parse(int key, char *text, struct argp_state *state) {
  report_arguments *arguments = state->input;
  qb_page_settings *settings = &arguments->settings;
  switch (key) {
  case ARGP_KEY_INIT:
    state->child_inputs[0] = &arguments->options;
    state->child_inputs[1] = &arguments->data;
    return 0;
  case 'o': arguments->output = text; return 0;
  case KEY_CERTIFICATE: settings->certificate = text; return 0;
  case KEY_NAMES: settings->class_names = text; return 0;
  case KEY_LAYER: settings->layer = text; return 0;
  case KEY_INPUTS: settings->inputs = (int)cli_parse_integer(state, "--inputs", text, 0, 64); return 0;
  case KEY_SENSITIVITY:
    settings->sensitivity_samples = (int)cli_parse_integer(state, "--sensitivity", text, 0, 1000000);
    return 0;
  case KEY_BATCH: settings->batch = (int)cli_parse_integer(state, "--batch", text, 1, 4096); return 0;
  case ARGP_KEY_ARG:
    if (arguments->other != NULL)
      argp_error(state, "MODEL and OTHER, no more; '%s' is too much", text);
    if (arguments->model == NULL)
      arguments->model = text;
    else
      arguments->other = text;
    return 0;
  case ARGP_KEY_END: check_arguments(state, arguments); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp_child report_children[] = {CLI_COMMON, {&cli_data_argp, 0, NULL, 0}, {0}};

static const struct argp report_argp = {
    .options = report_options,
    .parser = parse,
    .args_doc = "MODEL OTHER",
    .doc =
        "Runs both networks on data and writes one HTML page that needs nothing else: verdict, what is proved beside "
        "what is measured, accuracy, layers, weights, the inputs that change most.\v"
        "Example:\n  qbound certify net.onnx net_w4.onnx -o net_w4.json --preprocess imagenet\n"
        "  qbound report net.onnx net_w4.onnx --data photos --preprocess imagenet \\\n"
        "    --certificate net_w4.json -o net_w4.html",
    .children = report_children,
};

/* The command line as it was typed, for the page's origin. */
static char *join(int argc, char **argv) {
  size_t size = 1;
  for (int i = 0; i < argc; i++)
    size += strlen(argv[i]) + 1;
  char *text = calloc(size, 1);
  for (int i = 0; text != NULL && i < argc; i++) {
    strcat(text, i > 0 ? " " : "");
    strcat(text, argv[i]);
  }
  return text;
}

static int finish(const report_arguments *arguments, const qb_page_info *info) {
  char size[CLI_TEXT];
  if (arguments->options.json) {
    printf("{\"schema\":\"qbound.report/1\",\"size_bytes\":%lld,\"timing\":{\"seconds\":%.3f}}\n",
           (long long)info->size_bytes, info->seconds);
    return cli_flush();
  }
  cli_progress_end();
  printf("%s: %s, one file; open it in a browser or print it\n", arguments->output, cli_bytes(info->size_bytes, size));
  return cli_flush();
}

int cmd_report(int argc, char **argv) {
  report_arguments arguments = {0};
  char *command = join(argc, argv); /* before argp permutes */
  qb_data_default(&arguments.data);
  qb_page_settings_default(&arguments.settings);
  argp_parse(&report_argp, argc, argv, 0, NULL, &arguments);
  arguments.settings.threads = arguments.options.threads;
  arguments.settings.command = command;

  qb_error error;
  qb_model *model = NULL, *other = NULL;
  qb_page_info info;
  int code;
  if (qb_model_load(arguments.model, &model, &error) != QB_OK ||
      qb_model_load(arguments.other, &other, &error) != QB_OK ||
      qb_report_page(model, other, &arguments.data, &arguments.settings, cli_progress_begin(), arguments.output, &info,
                     &error) != QB_OK)
    code = cli_fail(&error);
  else
    code = finish(&arguments, &info);
  qb_model_free(other);
  qb_model_free(model);
  free(command);
  return code;
}
