/* qbound inspect MODEL: what is in a file and what qbound can do with it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"

typedef struct inspect_arguments {
  cli_options options;
  const char *model;
  qb_inspect_settings settings;
} inspect_arguments;

enum { KEY_SPECTRAL = 0x100 };

static const struct argp_option inspect_options[] = {
    {"spectral", KEY_SPECTRAL, NULL, 0, "Also the spectral norms of layers (seconds to minutes)", 0},
    {0},
};

static error_t parse(int key, char *text, struct argp_state *state) {
  inspect_arguments *arguments = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &arguments->options; return 0;
  case KEY_SPECTRAL: arguments->settings.spectral = true; return 0;
  case ARGP_KEY_ARG:
    if (arguments->model != NULL)
      argp_error(state, "one MODEL at a time; '%s' is too much", text);
    arguments->model = text;
    return 0;
  case ARGP_KEY_NO_ARGS: argp_error(state, "which MODEL?"); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp inspect_argp = {
    .options = inspect_options,
    .parser = parse,
    .args_doc = "MODEL",
    .doc = "Lists the layers of an ONNX file with their shapes, sizes, norms and weight ranges, and every node that "
           "qbound does not support with the reason.\v"
           "Example:\n  qbound inspect resnet18.onnx\n\n"
           "r_l is the largest l1 norm of a row of weights (a filter): how much the layer can amplify the largest "
           "input. sigma is the spectral norm, the same in the l2 norm. n_l is the number of weights in a row. The "
           "range ratio is the largest over the smallest weight "
           "range of an output channel: when it is large, quantize per channel. All are of the network with "
           "BatchNorm folded into the layers.",
    .children = cli_common,
};

static const char *print_shape(int rank, const int64_t *shape, char text[96]) {
  size_t used = 0;
  snprintf(text, 96, "scalar");
  for (int i = 0; i < rank && used < 96; i++) {
    int written = snprintf(text + used, 96 - used, i == 0 ? "%lld" : "x%lld", (long long)shape[i]);
    used += written > 0 ? (size_t)written : 0;
  }
  return text;
}

/* The end of a long name tells layers apart better than its beginning. */
static const char *shorten(const char *name, char text[64]) {
  size_t length = strlen(name), keep = 32;
  if (length <= keep)
    snprintf(text, 64, "%s", name);
  else
    snprintf(text, 64, "..%s", name + length - keep + 2);
  return text;
}

static void print_heading(const qb_inspection *inspection) {
  char parameters[CLI_TEXT], macs[CLI_TEXT], size[CLI_TEXT], shape[96];
  printf("%s: opset %lld, %s, %d layers with weights, %s parameters, %s multiply-accumulates per input%s\n",
         inspection->path, (long long)inspection->opset, cli_bytes(inspection->size_bytes, size),
         inspection->layer_count, cli_count(inspection->parameters, parameters), cli_count(inspection->macs, macs),
         inspection->supported ? "" : " (known layers only)");
  for (int i = 0; i < inspection->input_count; i++)
    printf("  input   %s %s\n", inspection->inputs[i].name,
           print_shape(inspection->inputs[i].rank, inspection->inputs[i].shape, shape));
  for (int i = 0; i < inspection->output_count; i++)
    printf("  output  %s %s\n", inspection->outputs[i].name,
           print_shape(inspection->outputs[i].rank, inspection->outputs[i].shape, shape));
  for (int i = 0; i < inspection->operator_count; i++)
    printf("%s %s %lld", i == 0 ? "  nodes  " : ",", inspection->operators[i].op,
           (long long)inspection->operators[i].count);
  printf(inspection->operator_count > 0 ? "\n\n" : "\n");
}

static void print_layer(cli_table *table, int number, const qb_inspect_layer *layer) {
  char name[64], shape[96], parameters[CLI_TEXT], macs[CLI_TEXT];
  cli_table_cell(table, "%d", number);
  cli_table_cell(table, "%s", shorten(layer->node, name));
  cli_table_cell(table, "%s", layer->op);
  cli_table_cell(table, "%s", print_shape(layer->weight_rank, layer->weight_shape, shape));
  cli_table_cell(table, "%s", layer->known ? print_shape(layer->output_rank, layer->output_shape, shape) : "-");
  cli_table_cell(table, "%s", cli_count(layer->parameters, parameters));
  cli_table_cell(table, "%s", layer->known ? cli_count(layer->macs, macs) : "-");
  if (!layer->known) {
    for (int i = 0; i < 5; i++)
      cli_table_cell(table, "-");
    return;
  }
  cli_table_cell(table, "%lld", (long long)layer->row_length);
  cli_table_cell(table, "%.4g", layer->radius);
  if (isnan(layer->sigma))
    cli_table_cell(table, "-");
  else
    cli_table_cell(table, "%.4g", layer->sigma);
  cli_table_cell(table, "%.3g", layer->range_ratio);
  if (layer->bits == 0)
    cli_table_cell(table, "float");
  else
    cli_table_cell(table, "%d bit", layer->bits);
}

static void print_layers(const qb_inspection *inspection) {
  static const char *const header[] = {"#",    "layer", "operator", "weights", "output",      "parameters",
                                       "MACs", "n_l",   "r_l",      "sigma",   "range ratio", "stored"};
  cli_table table;
  cli_table_begin(&table, "rlllrrrrrrrl");
  for (size_t i = 0; i < sizeof header / sizeof *header; i++)
    cli_table_cell(&table, "%s", header[i]);
  for (int i = 0; i < inspection->layer_count; i++)
    print_layer(&table, i + 1, &inspection->layers[i]);
  cli_table_end(&table);
}

static void print_unsupported(const qb_inspection *inspection) {
  if (inspection->supported) {
    printf("\nEvery node is supported.\n");
    return;
  }
  printf("\nNot supported, so that the file can be inspected but not bounded, quantized or measured:\n");
  for (int i = 0; i < inspection->unsupported_count; i++) {
    const qb_inspect_unsupported *node = &inspection->unsupported[i];
    printf("  %s (%s, opset %lld): %s\n", node->node, node->op, (long long)node->opset, node->why);
  }
  if (inspection->unsupported_count == 0 && inspection->reason != NULL)
    printf("  %s\n", inspection->reason);
}

void cli_print_inspection(const qb_inspection *inspection) {
  print_heading(inspection);
  if (inspection->layer_count > 0)
    print_layers(inspection);
  print_unsupported(inspection);
}

int cmd_inspect(int argc, char **argv) {
  inspect_arguments arguments = {0};
  qb_inspect_settings_default(&arguments.settings);
  argp_parse(&inspect_argp, argc, argv, 0, NULL, &arguments);
  arguments.settings.threads = arguments.options.threads;
  qb_error error;
  qb_inspection inspection;
  if (qb_inspect(arguments.model, &arguments.settings, cli_progress_begin(), &inspection, &error) != QB_OK)
    return cli_fail(&error);
  int code;
  if (arguments.options.json) {
    char *text = NULL;
    code = qb_inspection_json(&inspection, &text, &error) == QB_OK ? cli_print_json(text) : cli_fail(&error);
  } else {
    cli_progress_end();
    cli_print_inspection(&inspection);
    code = cli_flush();
  }
  qb_inspection_free(&inspection);
  return code;
}
