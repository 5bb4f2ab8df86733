/* qbound train-mlp: a perceptron to study, from labelled data. */
#include <limits.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/table.h"

typedef struct train_arguments {
  cli_options options;
  const char *output;
  qb_data data, test;
  qb_train_settings settings;
} train_arguments;

enum {
  KEY_DATA = 0x100,
  KEY_TEST,
  KEY_PREPROCESS,
  KEY_SAMPLES,
  KEY_LAYERS,
  KEY_WIDTH,
  KEY_EPOCHS,
  KEY_BATCH,
  KEY_RATE
};

static const struct argp_option train_options[] = {
    {"data", KEY_DATA, "DATA", 0,
     "Samples with labels: MNIST idx (also .gz), CIFAR-10 .bin, .npy, a folder of images, "
     "or digits[:COUNT[:SEED]], drawn by qbound",
     0},
    {"output", 'o', "OUT.onnx", 0, "The file to write", 0},
    {"test", KEY_TEST, "DATA", 0, "Samples to report the accuracy on, which training does not see", 0},
    {"preprocess", KEY_PREPROCESS, "HOW", 0,
     "How pixels become inputs: unit (default), raw, imagenet-norm, or key=value:key=value", 0},
    {"samples", KEY_SAMPLES, "N", 0, "Train on the first N (default: all)", 0},
    {"layers", KEY_LAYERS, "N", 0, "Affine layers, with ReLU between them (default 5)", 0},
    {"width", KEY_WIDTH, "N", 0, "Units of each hidden layer (default 128)", 0},
    {"epochs", KEY_EPOCHS, "N", 0, "Passes over the data (default 10)", 0},
    {"batch", KEY_BATCH, "N", 0, "Samples per step (default 128)", 0},
    {"rate", KEY_RATE, "R", 0, "First learning rate, which falls linearly to zero (default 0.001)", 0},
    {0},
};

static error_t parse_training(int key, char *text, struct argp_state *state, qb_train_settings *settings) {
  switch (key) {
  case KEY_LAYERS: settings->layers = (int)cli_parse_integer(state, "--layers", text, 1, 32); return 0;
  case KEY_WIDTH: settings->width = (int)cli_parse_integer(state, "--width", text, 1, 65536); return 0;
  case KEY_EPOCHS: settings->epochs = (int)cli_parse_integer(state, "--epochs", text, 1, 100000); return 0;
  case KEY_BATCH: settings->batch = (int)cli_parse_integer(state, "--batch", text, 1, 4096); return 0;
  case KEY_RATE:
    settings->rate = cli_parse_number(state, "--rate", text);
    if (settings->rate <= 0)
      argp_error(state, "--rate needs a number above 0, not '%s'", text);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static error_t parse(int key, char *text, struct argp_state *state) {
  train_arguments *arguments = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &arguments->options; return 0;
  case KEY_DATA: arguments->data.path = text; return 0;
  case KEY_TEST: arguments->test.path = text; return 0;
  case KEY_PREPROCESS: arguments->data.preprocess = arguments->test.preprocess = text; return 0;
  case KEY_SAMPLES: arguments->data.samples = cli_parse_integer(state, "--samples", text, 1, LLONG_MAX); return 0;
  case 'o': arguments->output = text; return 0;
  case ARGP_KEY_ARG: argp_error(state, "'%s' is too much; name the data with --data", text); return 0;
  case ARGP_KEY_END:
    if (arguments->data.path == NULL || arguments->output == NULL)
      argp_error(state, "%s",
                 arguments->output == NULL ? "which file to write? Say -o OUT.onnx" : "on which data? Say --data DATA");
    return 0;
  default: return parse_training(key, text, state, &arguments->settings);
  }
}

static const struct argp train_argp = {
    .options = train_options,
    .parser = parse,
    .doc =
        "Trains a multilayer perceptron (ReLU, cross-entropy, Adam) on labelled data and writes it as ONNX, for "
        "studies of bounds against depth.\v"
        "Example:\n  qbound train-mlp --data mnist/train-images-idx3-ubyte.gz --test mnist/t10k-images-idx3-ubyte.gz "
        "--layers 5 -o mlp5.onnx\n\n"
        "The same data, options and seed give the same file on one machine, whatever the number of threads.",
    .children = cli_common,
};

static void print_training(const train_arguments *arguments, const qb_train_info *info) {
  char text[CLI_TEXT];
  printf("%s: %d layers, %lld parameters, %d inputs, %d classes\n", arguments->output, arguments->settings.layers,
         (long long)info->parameters, info->inputs, info->classes);
  printf("  trained on %lld samples: loss %.4g, accuracy %s\n", (long long)info->samples, info->loss,
         cli_percent(info->accuracy, text));
  if (info->test_samples > 0)
    printf("  on %lld others: accuracy %s\n", (long long)info->test_samples, cli_percent(info->test_accuracy, text));
}

int cmd_train_mlp(int argc, char **argv) {
  train_arguments arguments = {0};
  qb_data_default(&arguments.data);
  qb_data_default(&arguments.test);
  arguments.data.preprocess = arguments.test.preprocess = "unit";
  qb_train_settings_default(&arguments.settings);
  argp_parse(&train_argp, argc, argv, 0, NULL, &arguments);
  arguments.settings.threads = arguments.options.threads;
  arguments.settings.seed = arguments.options.seed;

  qb_error error;
  qb_train_info info;
  const qb_data *test = arguments.test.path != NULL ? &arguments.test : NULL;
  if (qb_train_mlp(&arguments.data, test, &arguments.settings, cli_progress_begin(), arguments.output, &info, &error) !=
      QB_OK)
    return cli_fail(&error);
  if (arguments.options.json) {
    char *text = NULL;
    return qb_train_json(arguments.output, &arguments.settings, &info, &text, &error) == QB_OK ? cli_print_json(text)
                                                                                               : cli_fail(&error);
  }
  cli_progress_end();
  print_training(&arguments, &info);
  return cli_flush();
}
