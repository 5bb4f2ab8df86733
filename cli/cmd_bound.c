/* qbound bound MODEL: for many bit widths, every published bound and every certificate of the real network. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"

typedef struct bound_arguments {
  cli_options options;
  const char *model, *domain;
  qb_bound_settings settings;
  int bits[CLI_LIST];
  qb_scheme schemes[CLI_LIST];
  qb_granularity granularities[CLI_LIST];
} bound_arguments;

enum {
  KEY_BITS = 0x100,
  KEY_SCHEME,
  KEY_GRANULARITY,
  KEY_SYMMETRIC,
  KEY_AFFINE,
  KEY_DOMAIN,
  KEY_PREPROCESS,
  KEY_BOX,
  KEY_BOX_ROW,
  KEY_METHOD,
  KEY_BIAS,
  KEY_BATCHNORM,
  KEY_DOWNSAMPLE,
  KEY_DENSE,
  KEY_WIDTH
};

static const struct argp_option bound_options[] = {
    {"bits", KEY_BITS, "LIST", 0, "Bit widths 2..16: 8, 4,8 or 2-16 (default 2-16)", 0},
    {"scheme", KEY_SCHEME, "LIST", 0, "round (power-of-two scale), uniform (default)", 0},
    {"granularity", KEY_GRANULARITY, "LIST", 0, "One scale per tensor (default) or per output channel", 0},
    {"symmetric", KEY_SYMMETRIC, NULL, 0, "Zero is code 0 (default)", 0},
    {"affine", KEY_AFFINE, NULL, 0, "A zero point per scale", 0},
    {"domain", KEY_DOMAIN, "DOMAIN", 0,
     "The inputs that the bounds hold for: pixels (all images, needs --preprocess), D for [-D,D], or LO,HI in the "
     "network's own units",
     0},
    {"preprocess", KEY_PREPROCESS, "HOW", 0,
     "How pixels become inputs: imagenet, imagenet-224, imagenet-norm, unit, raw, or key=value:key=value", 0},
    {"box", KEY_BOX, "FILE", 0,
     "The inputs are a box from a file: VNNLIB input bounds, or CSV with columns lo0.. hi0..", 0},
    {"box-row", KEY_BOX_ROW, "N", 0, "Row N, from 0, of a CSV with several boxes", 0},
    {"method", KEY_METHOD, "LIST", 0,
     "Proved bounds: layerwise (default), elementwise, two_stage, interval, spectral, product, or all; spectral takes "
     "minutes for each width of a large network",
     0},
    {0, 0, NULL, 0, "Conventions of the published bounds:", 1},
    {"bias", KEY_BIAS, "keep|drop", 0, "drop: leave biases out", 1},
    {"batchnorm", KEY_BATCHNORM, "fold|drop", 0, "drop: leave BatchNorm out", 1},
    {"downsample", KEY_DOWNSAMPLE, "in|out", 0, "out: leave the 1x1 convolutions of shortcuts out", 1},
    {"dense", KEY_DENSE, "in|out", 0, "out: leave matrices out, which keeps the convolutional part", 1},
    {"width", KEY_WIDTH, "units|channels", 0, "What the width N counts", 1},
    {0},
};

/* True for the second of the two names. */
static bool second_of(struct argp_state *state, const char *option, const char *text, const char *first,
                      const char *second) {
  const char *const names[] = {first, second, NULL};
  return cli_parse_choice(state, option, text, names) == 1;
}

static error_t parse_convention(int key, char *text, struct argp_state *state, qb_bound_conventions *conventions) {
  switch (key) {
  case KEY_BIAS: conventions->drop_bias = second_of(state, "--bias", text, "keep", "drop"); return 0;
  case KEY_BATCHNORM: conventions->drop_batch_norm = second_of(state, "--batchnorm", text, "fold", "drop"); return 0;
  case KEY_DOWNSAMPLE: conventions->drop_downsample = second_of(state, "--downsample", text, "in", "out"); return 0;
  case KEY_DENSE: conventions->drop_dense = second_of(state, "--dense", text, "in", "out"); return 0;
  case KEY_WIDTH: conventions->width_channels = second_of(state, "--width", text, "units", "channels"); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static void check_arguments(struct argp_state *state, const bound_arguments *arguments) {
  if (arguments->model == NULL)
    argp_error(state, "which MODEL?");
  if (arguments->settings.domain == QB_DOMAIN_PIXELS && arguments->settings.preprocess == NULL)
    argp_error(state, "for which inputs? Say --preprocess imagenet (or another) for all images, or --domain D, "
                      "--domain LO,HI or --box FILE");
}

static error_t parse(int key, char *text, struct argp_state *state) {
  bound_arguments *arguments = state->input;
  qb_bound_settings *settings = &arguments->settings;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &arguments->options; return 0;
  case KEY_BITS: settings->bits_count = cli_parse_bits(state, text, arguments->bits); return 0;
  case KEY_SCHEME: settings->scheme_count = cli_parse_schemes(state, text, arguments->schemes); return 0;
  case KEY_GRANULARITY:
    settings->granularity_count = cli_parse_granularities(state, text, arguments->granularities);
    return 0;
  case KEY_SYMMETRIC: settings->affine = false; return 0;
  case KEY_AFFINE: settings->affine = true; return 0;
  case KEY_DOMAIN: cli_parse_domain(state, text, &settings->domain, &settings->lo, &settings->hi); return 0;
  case KEY_PREPROCESS: settings->preprocess = text; return 0;
  case KEY_BOX:
    settings->domain = QB_DOMAIN_FILE;
    settings->box = text;
    return 0;
  case KEY_BOX_ROW: settings->box_row = cli_parse_integer(state, "--box-row", text, 0, LLONG_MAX); return 0;
  case KEY_METHOD: settings->methods = text; return 0;
  case ARGP_KEY_ARG:
    if (arguments->model != NULL)
      argp_error(state, "one MODEL at a time; '%s' is too much", text);
    arguments->model = text;
    return 0;
  case ARGP_KEY_END: check_arguments(state, arguments); return 0;
  default: return parse_convention(key, text, state, &settings->conventions);
  }
}

static const struct argp bound_argp = {
    .options = bound_options,
    .parser = parse,
    .args_doc = "MODEL",
    .doc = "Quantizes a network in memory at every bit width and scheme asked for and bounds the largest change of "
           "any output over every input of the domain.\v"
           "Example:\n  qbound bound resnet18.onnx --bits 2-16 --preprocess imagenet\n\n"
           "The bounds prior, general, cnn and chain_unsummed are published theorems about the layers as a chain; the "
           "others are proved for the network as it is, branches and caps included. All hold in exact arithmetic of "
           "both networks, rounded up.",
    .children = cli_common,
};

/* ------------------------------------------------------------------------------------------------------ printing */

static const qb_bound_value *find(const qb_bound_row *row, const char *name) {
  for (int i = 0; i < row->count; i++)
    if (strcmp(row->bounds[i].name, name) == 0)
      return &row->bounds[i];
  return NULL;
}

static void print_rows(const qb_bound_report *report) {
  const qb_bound_row *first = &report->rows[0];
  char text[CLI_BOUND_TEXT];
  char alignment[8 + QB_BOUND_LIMIT] = "rllr";
  for (int i = 0; i < first->count; i++)
    strcat(alignment, "r");
  cli_table table;
  cli_table_begin(&table, alignment);
  cli_table_cell(&table, "bits");
  cli_table_cell(&table, "scheme");
  cli_table_cell(&table, "scale per");
  cli_table_cell(&table, "delta");
  for (int i = 0; i < first->count; i++)
    cli_table_cell(&table, "%s", first->bounds[i].name);
  for (int r = 0; r < report->row_count; r++) {
    const qb_bound_row *row = &report->rows[r];
    cli_table_cell(&table, "%d", row->bits);
    cli_table_cell(&table, "%s", qb_scheme_name(row->scheme));
    cli_table_cell(&table, "%s", qb_granularity_name(row->granularity));
    cli_table_cell(&table, "%.3g", row->delta);
    for (int i = 0; i < first->count; i++) {
      const qb_bound_value *value = find(row, first->bounds[i].name);
      cli_table_cell(&table, "%s", value != NULL ? cli_bound_text(value, text) : "n/a");
    }
  }
  cli_table_end(&table);
}

/* The decimal has three digits, so that six print it unchanged. */
const char *cli_bound_text(const qb_bound_value *value, char text[CLI_BOUND_TEXT]) {
  double number = value->applies ? strtod(value->value, NULL) : NAN;
  if (!value->applies)
    snprintf(text, CLI_BOUND_TEXT, "n/a");
  else if (number >= 1e-3 && number < 1e5)
    snprintf(text, CLI_BOUND_TEXT, "%.6g", number);
  else
    snprintf(text, CLI_BOUND_TEXT, "%s", value->value);
  return text;
}

/* Every reason once, with the first width it was met at. */
static void print_reasons(const qb_bound_report *report) {
  for (int i = 0; i < report->rows[0].count; i++) {
    const char *name = report->rows[0].bounds[i].name, *said = "";
    for (int r = 0; r < report->row_count; r++) {
      const qb_bound_value *value = find(&report->rows[r], name);
      if (value == NULL || value->applies || strcmp(value->why, said) == 0)
        continue;
      said = value->why;
      printf("  %s is not applicable at %d bits: %s\n", name, report->rows[r].bits, value->why);
    }
  }
}

/* The forms that biases force upon the published theorems. */
static void print_forms(const qb_bound_report *report) {
  const qb_bound_row *row = &report->rows[0];
  for (int i = 0; i < row->count; i++)
    if (row->bounds[i].applies && !row->bounds[i].is_graph && strcmp(row->bounds[i].form, "plain") != 0)
      printf("  %s has the form %s, because the network has biases (docs/bounds.md)\n", row->bounds[i].name,
             row->bounds[i].form);
}

/* True when, at one scheme and granularity, some bound of that name is not below the one with fewer bits. */
static bool rises_somewhere(const qb_bound_report *report, const char *name) {
  for (int r = 1; r < report->row_count; r++) {
    const qb_bound_row *before = &report->rows[r - 1], *row = &report->rows[r];
    const qb_bound_value *a = find(before, name), *b = find(row, name);
    if (before->scheme == row->scheme && before->granularity == row->granularity && before->bits < row->bits &&
        a != NULL && b != NULL && a->applies && b->applies && b->log10 >= a->log10)
      return true;
  }
  return false;
}

/* A graph bound need not fall with every bit; say why instead of hiding it. */
static void print_rises(const qb_bound_report *report) {
  for (int i = 0; i < report->rows[0].count; i++) {
    const qb_bound_value *value = &report->rows[0].bounds[i];
    if (value->is_graph && strcmp(value->name, "best") != 0 && rises_somewhere(report, value->name))
      printf("  %s does not fall with every bit: where errors exceed what activations can differ by at all (their\n"
             "    ranges, caps such as ReLU6), it follows those ranges, which depend on the grid, instead of delta\n",
             value->name);
  }
}

bool cli_is_vacuous(const qb_bound_row *row) {
  const qb_bound_value *best = find(row, "best");
  return best != NULL && best->applies && row->output_range > 0 && best->log10 >= log10(0.99 * row->output_range);
}

static void print_vacuous(const qb_bound_report *report) {
  int vacuous = 0;
  for (int r = 0; r < report->row_count; r++)
    vacuous += cli_is_vacuous(&report->rows[r]);
  if (vacuous > 0)
    printf("  vacuous in %d of %d rows: best is 99 %% or more of %.4g, by which the outputs of the float network "
           "itself\n"
           "    can move over these inputs, and says no more than that\n",
           vacuous, report->row_count, report->rows[0].output_range);
}

/* The names of the bounds of one kind, joined by commas. */
static void print_names(const qb_bound_row *row, bool is_graph) {
  const char *separator = "";
  for (int i = 0; i < row->count; i++)
    if (row->bounds[i].is_graph == is_graph) {
      printf("%s%s", separator, row->bounds[i].name);
      separator = ", ";
    }
}

void cli_print_bounds(const qb_bound_report *report) {
  printf("%s: %d layers in the chain, inputs %s (largest |input| D = %.4g)\n", report->model, report->layers,
         report->domain, report->domain_radius);
  printf("Upper bounds of the largest |change of an output| over all these inputs:\n");
  printf("  proved for this network: ");
  print_names(&report->rows[0], true);
  printf("\n  published theorems for a chain of layers: ");
  print_names(&report->rows[0], false);
  if (!report->chain_is_network)
    printf("\n    (the chain is not this network, so that these numbers do not hold for it: %s)", report->network);
  printf("\n\n");
  print_rows(report);
  print_forms(report);
  print_reasons(report);
  print_rises(report);
  print_vacuous(report);
}

int cmd_bound(int argc, char **argv) {
  bound_arguments arguments = {0};
  qb_bound_settings_default(&arguments.settings);
  for (int b = QB_MIN_BITS; b <= QB_MAX_BITS; b++)
    arguments.bits[b - QB_MIN_BITS] = b;
  arguments.settings.bits_count = QB_MAX_BITS - QB_MIN_BITS + 1;
  arguments.schemes[0] = QB_SCHEME_UNIFORM;
  arguments.granularities[0] = QB_PER_TENSOR;
  arguments.settings.bits = arguments.bits;
  arguments.settings.schemes = arguments.schemes;
  arguments.settings.granularities = arguments.granularities;
  argp_parse(&bound_argp, argc, argv, 0, NULL, &arguments);
  arguments.settings.threads = arguments.options.threads;
  arguments.settings.seed = arguments.options.seed;

  qb_error error;
  qb_model *model = NULL;
  qb_bound_report report = {0};
  int code = CLI_DONE;
  if (qb_model_load(arguments.model, &model, &error) != QB_OK ||
      qb_bound_sweep(model, &arguments.settings, cli_progress_begin(), &report, &error) != QB_OK) {
    code = cli_fail(&error);
  } else if (arguments.options.json) {
    char *text = NULL;
    code = qb_bound_report_json(&report, &text, &error) == QB_OK ? cli_print_json(text) : cli_fail(&error);
  } else {
    cli_progress_end();
    cli_print_bounds(&report);
    code = cli_flush();
  }
  qb_bound_report_free(&report);
  qb_model_free(model);
  return code;
}
