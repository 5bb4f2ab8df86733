/* qbound measure MODEL [OTHER] --data DATA: what happens on real inputs. Measured, never proved. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"

typedef struct measure_arguments {
  cli_options options;
  const char *model, *other;
  qb_data data;
  qb_measure_settings settings;
} measure_arguments;

enum { KEY_BATCH = 0x100, KEY_REFERENCE, KEY_CHECKPOINT };

static const struct argp_option measure_options[] = {
    {"batch", KEY_BATCH, "N", 0, "Images per run (default 16)", 0},
    {"checkpoint", KEY_CHECKPOINT, "FOLDER", 0,
     "Keep finished parts there; the same command, stopped and started again, goes on where it was", 0},
    {"reference", KEY_REFERENCE, NULL, 0, "Run plain loops in double precision (slow)", 0},
    {0},
};

static error_t parse(int key, char *text, struct argp_state *state) {
  measure_arguments *arguments = state->input;
  switch (key) {
  case ARGP_KEY_INIT:
    state->child_inputs[0] = &arguments->options;
    state->child_inputs[1] = &arguments->data;
    return 0;
  case KEY_BATCH: arguments->settings.batch = (int)cli_parse_integer(state, "--batch", text, 1, 4096); return 0;
  case KEY_CHECKPOINT: arguments->settings.checkpoint = text; return 0;
  case KEY_REFERENCE: arguments->settings.reference = true; return 0;
  case ARGP_KEY_ARG:
    if (arguments->other != NULL)
      argp_error(state, "at most MODEL and OTHER; '%s' is too much", text);
    if (arguments->model == NULL)
      arguments->model = text;
    else
      arguments->other = text;
    return 0;
  case ARGP_KEY_END:
    if (arguments->model == NULL)
      argp_error(state, "which MODEL?");
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp_child measure_children[] = {CLI_COMMON, {&cli_data_argp, 0, NULL, 0}, {0}};

static const struct argp measure_argp = {
    .options = measure_options,
    .parser = parse,
    .args_doc = "MODEL [OTHER]",
    .doc = "Runs a network, and a quantized one beside it, on data: accuracy, flips of the first class, error of the "
           "outputs, images per second, sizes.\v"
           "Example:\n  qbound measure net.onnx net_w4.onnx --data photos --preprocess imagenet\n\n"
           "The numbers are measured on these images; for a guarantee see `qbound bound`. The error of an image is "
           "the largest difference of an output.",
    .children = measure_children,
};

static void print_network(cli_table *table, const qb_measure_network *network, int64_t images) {
  char top1[CLI_TEXT], top5[CLI_TEXT], size[CLI_TEXT];
  cli_table_cell(table, "%s", network->path);
  cli_table_cell(table, "%s", cli_percent(network->top1, top1));
  cli_table_cell(table, "%s", cli_percent(network->top5, top5));
  cli_table_cell(table, "%s", cli_bytes(network->size_bytes, size));
  cli_table_cell(table, "%.1f", network->seconds > 0 ? (double)images / network->seconds : 0.0);
}

void cli_print_measurement(const qb_measurement *measured) {
  cli_table table;
  char flips[CLI_TEXT];
  printf("Measured on %lld images (%lld with labels):\n\n", (long long)measured->images, (long long)measured->labelled);
  cli_table_begin(&table, "lrrrr");
  cli_table_cell(&table, "network");
  cli_table_cell(&table, "top-1");
  cli_table_cell(&table, "top-5");
  cli_table_cell(&table, "file");
  cli_table_cell(&table, "images/s");
  print_network(&table, &measured->model, measured->images);
  if (measured->has_other)
    print_network(&table, &measured->other, measured->images);
  cli_table_end(&table);
  if (!measured->has_other)
    return;
  printf("\n  first class flips  %s (%lld of %lld images)\n", cli_percent(measured->flips, flips),
         (long long)measured->flip_count, (long long)measured->images);
  printf("  output error       max %.4g (image %lld), mean %.4g, median %.4g, 90 %% %.4g, 99 %% %.4g\n",
         measured->error_max, (long long)measured->error_argmax, measured->error_mean, measured->error_p50,
         measured->error_p90, measured->error_p99);
}

int cmd_measure(int argc, char **argv) {
  measure_arguments arguments = {0};
  qb_data_default(&arguments.data);
  qb_measure_settings_default(&arguments.settings);
  argp_parse(&measure_argp, argc, argv, 0, NULL, &arguments);
  arguments.settings.threads = arguments.options.threads;

  qb_error error;
  qb_model *model = NULL, *other = NULL;
  qb_measurement measured = {0};
  int code;
  char *text = NULL;
  if (qb_model_load(arguments.model, &model, &error) != QB_OK ||
      (arguments.other != NULL && qb_model_load(arguments.other, &other, &error) != QB_OK) ||
      qb_measure(model, other, &arguments.data, &arguments.settings, cli_progress_begin(), &measured, &error) !=
          QB_OK) {
    code = cli_fail(&error);
  } else if (arguments.options.json) {
    code = qb_measurement_json(&measured, &text, &error) == QB_OK ? cli_print_json(text) : cli_fail(&error);
  } else {
    cli_progress_end();
    cli_print_measurement(&measured);
    code = cli_flush();
  }
  qb_measurement_free(&measured);
  qb_model_free(other);
  qb_model_free(model);
  return code;
}
