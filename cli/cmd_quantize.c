/* qbound quantize MODEL -o OUT.onnx: writes a quantized network that any ONNX runtime loads. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/plan_file.h"
#include "cli/quantize_auto.h"
#include "cli/table.h"

enum { MAX_RULES = 64 };

typedef struct quantize_arguments {
  cli_options options;
  const char *model, *output, *plan;
  const char *rules[MAX_RULES];
  int rule_count;
  qb_quantize_settings settings;
  qb_save_settings save;
  qb_data data;
  bool has_preprocess;
  cli_auto automatic;
} quantize_arguments;

enum {
  KEY_BITS = 0x100,
  KEY_SCHEME,
  KEY_GRANULARITY,
  KEY_SYMMETRIC,
  KEY_AFFINE,
  KEY_GRID,
  KEY_COMPAT,
  KEY_PLAN,
  KEY_TENSOR,
  KEY_ACTIVATIONS,
  KEY_RANGE,
  KEY_PERCENTILE,
  KEY_CALIBRATE,
  KEY_PREPROCESS,
  KEY_SAMPLES,
  KEY_SOLVER,
  KEY_BIAS_CORRECTION,
  KEY_EQUALIZE,
  KEY_BIAS_ABSORPTION,
  KEY_UNSIGNED
};

static const struct argp_option quantize_options[] = {
    {"output", 'o', "OUT.onnx", 0, "The file to write", 0},
    {"bits", KEY_BITS, "B", 0, "Bits of a weight, 2..16 (default 8), or auto: see below", 0},
    {"scheme", KEY_SCHEME, "NAME", 0,
     "uniform: nearest code (default); round: power-of-two scale; stochastic: randomised, unbiased; adaround, gptq: "
     "codes that keep the layers' outputs on --calibrate samples",
     0},
    {"granularity", KEY_GRANULARITY, "tensor|channel", 0, "One scale per tensor or per output channel (default)", 0},
    {"symmetric", KEY_SYMMETRIC, NULL, 0, "Zero is code 0 (default)", 0},
    {"affine", KEY_AFFINE, NULL, 0, "A zero point per scale", 0},
    {"unsigned-weights", KEY_UNSIGNED, NULL, 0,
     "Store codes as unsigned integers around a zero point in the middle: the same numbers, safe in ONNX Runtime on "
     "x86 without VNNI, where products with signed ones saturate",
     0},
    {"grid", KEY_GRID, "minmax|mse|output", 0,
     "Range of the codes: all weights (default), least mean square change, or least change of the layer's output on "
     "--calibrate samples",
     0},
    {"solver", KEY_SOLVER, "descent|gradient", 0,
     "How adaround is solved: tabu search (default), or the published relaxation (slow)", 0},
    {"equalize", KEY_EQUALIZE, "none|range|l1", 0,
     "Move factors between layers first, powers of two, exactly the same function: range makes ranges of weights "
     "equal, l1 makes bounds small (default: none)",
     0},
    {"bias-absorption", KEY_BIAS_ABSORPTION, NULL, 0,
     "Move biases that activations never cut into the next layer: mean - 3 deviations of BatchNorm, or the smallest "
     "value on --calibrate samples",
     0},
    {"bias-correction", KEY_BIAS_CORRECTION, "data|free", OPTION_ARG_OPTIONAL,
     "Biases take the mean error of the layers away: measured on --calibrate samples (default), or without data from "
     "BatchNorm statistics",
     0},
    {"plan", KEY_PLAN, "FILE", 0, "Bits per layer: one `LAYER BITS` a line, `# LAYER` keeps it float", 0},
    {"tensor", KEY_TENSOR, "REGEX=BITS", 0, "Bits of the layers whose names match (BITS may be `float`); repeatable",
     0},
    {"activations", KEY_ACTIVATIONS, "8|16", 0,
     "Activations become integers too, over ranges from --calibrate samples (default: they stay float)", 0},
    {"activation-range", KEY_RANGE, "minmax|percentile|mse", 0,
     "Range of an activation: all numbers seen (default), all but a share on each side, or least mean square change",
     0},
    {"activation-percentile", KEY_PERCENTILE, "P", 0,
     "Percentage up to each limit with --activation-range percentile (default 99.99)", 0},
    {"calibrate", KEY_CALIBRATE, "DATA", 0, "Samples to calibrate on: what `qbound measure --data` takes", 0},
    {"preprocess", KEY_PREPROCESS, "HOW", 0, "How samples become inputs (default raw)", 0},
    {"samples", KEY_SAMPLES, "N", 0, "Calibrate on the first N samples (default: all)", 0},
    {"compat", KEY_COMPAT, NULL, 0, "For old runtimes: opset 13 at most, int8 storage, 2 to 8 bits", 0},
    {0},
};

static qb_scheme parse_scheme(struct argp_state *state, const char *text) {
  static const char *const names[] = {"round", "uniform", "stochastic", "adaround", "gptq", NULL};
  static const qb_scheme schemes[] = {QB_SCHEME_ROUND, QB_SCHEME_UNIFORM, QB_SCHEME_STOCHASTIC, QB_SCHEME_ADAROUND,
                                      QB_SCHEME_GPTQ};
  return schemes[cli_parse_choice(state, "--scheme", text, names)];
}

static qb_granularity parse_granularity(struct argp_state *state, const char *text) {
  static const char *const names[] = {"tensor", "channel", NULL};
  return cli_parse_choice(state, "--granularity", text, names) == 0 ? QB_PER_TENSOR : QB_PER_CHANNEL;
}

static qb_grid_choice parse_grid(struct argp_state *state, const char *text) {
  static const char *const names[] = {"minmax", "mse", "output", NULL};
  static const qb_grid_choice grids[] = {QB_GRID_MINMAX, QB_GRID_MSE, QB_GRID_OUTPUT};
  return grids[cli_parse_choice(state, "--grid", text, names)];
}

static qb_solver parse_solver(struct argp_state *state, const char *text) {
  static const char *const names[] = {"descent", "gradient", NULL};
  return cli_parse_choice(state, "--solver", text, names) == 0 ? QB_SOLVER_DESCENT : QB_SOLVER_GRADIENT;
}

static qb_range_rule parse_range(struct argp_state *state, const char *text) {
  static const char *const names[] = {"minmax", "percentile", "mse", NULL};
  static const qb_range_rule rules[] = {QB_RANGE_MINMAX, QB_RANGE_PERCENTILE, QB_RANGE_MSE};
  return rules[cli_parse_choice(state, "--activation-range", text, names)];
}

static qb_equalization parse_equalization(struct argp_state *state, const char *text) {
  static const char *const names[] = {"none", "range", "l1", NULL};
  static const qb_equalization kinds[] = {QB_EQUALIZATION_NONE, QB_EQUALIZATION_RANGE, QB_EQUALIZATION_L1};
  return kinds[cli_parse_choice(state, "--equalize", text, names)];
}

static qb_bias_correction parse_bias_correction(struct argp_state *state, const char *text) {
  static const char *const names[] = {"data", "free", NULL};
  return text == NULL || cli_parse_choice(state, "--bias-correction", text, names) == 0 ? QB_BIAS_DATA : QB_BIAS_FREE;
}

static int parse_activations(struct argp_state *state, const char *text) {
  static const char *const names[] = {"8", "16", NULL};
  return cli_parse_choice(state, "--activations", text, names) == 0 ? 8 : 16;
}

/* Options that need others. */
static void check_calibration(struct argp_state *state, const quantize_arguments *arguments) {
  bool data = arguments->data.path != NULL;
  if (arguments->settings.activation_bits != 0 && !data)
    argp_error(state, "--activations needs samples: --calibrate DATA");
  const qb_quantize_settings *settings = &arguments->settings;
  if (!data && (settings->scheme == QB_SCHEME_ADAROUND || settings->scheme == QB_SCHEME_GPTQ))
    argp_error(state, "--scheme %s needs samples: --calibrate DATA", qb_scheme_name(settings->scheme));
  bool correct = settings->bias_correction == QB_BIAS_DATA;
  if (!data && (settings->grid == QB_GRID_OUTPUT || correct))
    argp_error(state, "%s needs samples: --calibrate DATA%s", correct ? "--bias-correction" : "--grid output",
               correct ? "; --bias-correction=free does without" : "");
  if (arguments->settings.activation_bits == 16 && arguments->save.compat)
    argp_error(state, "--activations 16 needs opset 21, which --compat does not write");
}

static error_t parse_calibration(int key, char *text, struct argp_state *state) {
  quantize_arguments *arguments = state->input;
  qb_quantize_settings *settings = &arguments->settings;
  switch (key) {
  case KEY_ACTIVATIONS: settings->activation_bits = parse_activations(state, text); return 0;
  case KEY_RANGE: settings->activation_range = parse_range(state, text); return 0;
  case KEY_PERCENTILE:
    settings->activation_percentile = cli_parse_number(state, "--activation-percentile", text) / 100;
    return 0;
  case KEY_SOLVER: settings->solver = parse_solver(state, text); return 0;
  case KEY_BIAS_CORRECTION: settings->bias_correction = parse_bias_correction(state, text); return 0;
  case KEY_EQUALIZE: settings->equalize = parse_equalization(state, text); return 0;
  case KEY_BIAS_ABSORPTION: settings->bias_absorption = true; return 0;
  case KEY_CALIBRATE: arguments->data.path = text; return 0;
  case KEY_PREPROCESS:
    arguments->data.preprocess = text;
    arguments->has_preprocess = true;
    return 0;
  case KEY_SAMPLES: arguments->data.samples = cli_parse_integer(state, "--samples", text, 1, LLONG_MAX); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static void add_rule(struct argp_state *state, quantize_arguments *arguments, const char *text) {
  if (arguments->rule_count == MAX_RULES)
    argp_error(state, "--tensor: at most %d rules; a --plan FILE has no limit", MAX_RULES);
  arguments->rules[arguments->rule_count++] = text;
}

static void parse_width(struct argp_state *state, quantize_arguments *arguments, const char *text) {
  arguments->automatic.on = strcmp(text, "auto") == 0;
  if (!arguments->automatic.on)
    arguments->settings.bits = (int)cli_parse_integer(state, "--bits", text, QB_MIN_BITS, QB_MAX_BITS);
}

static error_t parse(int key, char *text, struct argp_state *state) {
  quantize_arguments *arguments = state->input;
  qb_quantize_settings *settings = &arguments->settings;
  switch (key) {
  case ARGP_KEY_INIT:
    state->child_inputs[0] = &arguments->options;
    state->child_inputs[1] = &arguments->automatic;
    return 0;
  case 'o': arguments->output = text; return 0;
  case KEY_BITS: parse_width(state, arguments, text); return 0;
  case KEY_SCHEME: settings->scheme = parse_scheme(state, text); return 0;
  case KEY_GRANULARITY: settings->granularity = parse_granularity(state, text); return 0;
  case KEY_SYMMETRIC: settings->affine = false; return 0;
  case KEY_AFFINE: settings->affine = true; return 0;
  case KEY_UNSIGNED: settings->unsigned_weights = true; return 0;
  case KEY_GRID: settings->grid = parse_grid(state, text); return 0;
  case KEY_COMPAT: arguments->save.compat = true; return 0;
  case KEY_PLAN: arguments->plan = text; return 0;
  case KEY_TENSOR: add_rule(state, arguments, text); return 0;
  case ARGP_KEY_ARG:
    if (arguments->model != NULL)
      argp_error(state, "one MODEL at a time; '%s' is too much", text);
    arguments->model = text;
    return 0;
  case ARGP_KEY_END:
    if (arguments->model == NULL || arguments->output == NULL)
      argp_error(state, "%s", arguments->model == NULL ? "which MODEL?" : "where to? Say -o OUT.onnx");
    check_calibration(state, arguments);
    cli_auto_check(state, &arguments->automatic, arguments->has_preprocess ? arguments->data.preprocess : NULL);
    return 0;
  default: return parse_calibration(key, text, state);
  }
}

static const struct argp_child quantize_children[] = {CLI_COMMON, {&cli_auto_argp, 0, NULL, 5}, {0}};

static const struct argp quantize_argp = {
    .options = quantize_options,
    .parser = parse,
    .args_doc = "MODEL -o OUT.onnx",
    .doc = "Rounds the weights of every layer to integers and writes them packed into an ONNX file with "
           "DequantizeLinear nodes. The file is read back and checked before it appears under its name.\v"
           "Example:\n  qbound quantize resnet18.onnx -o resnet18_w4.onnx --bits 4 --tensor 'fc=8'\n"
           "  qbound quantize net.onnx -o net_w4.onnx --bits 4 --scheme adaround --grid output --bias-correction \\\n"
           "    --calibrate images/ --preprocess imagenet\n"
           "  qbound quantize net.onnx -o net_small.onnx --bits auto --average-bits 4 --scheme gptq \\\n"
           "    --calibrate images/ --preprocess imagenet --save-plan net.plan\n\n"
           "Biases stay float. delta is the largest change of a weight, computed from the written weights. "
           "Exit 3: the network was written, but the promise of --bits auto is not kept.",
    .children = quantize_children,
};

static void print_layer(cli_table *table, int number, const qb_quantize_layer *layer, const qb_allocation *allocation,
                        int64_t size_after_bytes) {
  char before[CLI_TEXT], after[CLI_TEXT];
  cli_table_cell(table, "%d", number);
  cli_table_cell(table, "%s", layer->node);
  if (layer->bits == 0)
    cli_table_cell(table, "float");
  else
    cli_table_cell(table, "%d", layer->bits);
  cli_table_cell(table, "%lld", (long long)layer->weights);
  if (allocation->layer_count > 0)
    cli_auto_share(table, &allocation->layers[number - 1]);
  cli_table_cell(table, "%.3g", layer->delta);
  cli_table_cell(table, "%.3g", layer->mean_square);
  cli_table_cell(table, "%s", cli_bytes(4 * layer->weights, before));
  cli_table_cell(table, "%s", cli_bytes(size_after_bytes, after));
}

static void print_scaling(const qb_preparation *p) {
  printf("Equalization: %lld channels of %d layers scaled, by powers of two up to %g", (long long)p->channels,
         p->places, p->largest_scale);
  if (p->clips > 0)
    printf(", %d Clip nodes with a limit per channel", p->clips);
  printf("; %d layers cannot be scaled without changing the function.\n", p->places_left);
}

static void print_absorption(const qb_preparation *p) {
  printf("Bias absorption: %lld biases of %d layers moved into the next layer, %d layers left alone",
         (long long)p->absorbed, p->absorb_places, p->absorb_left);
  printf(p->absorbed > 0 ? "; the function changes where such a channel falls below what was moved.\n" : ".\n");
}

/* What was done to the float network, and whether it was kept. */
static void print_preparation(const quantize_arguments *arguments, const qb_quantize_info *info) {
  const qb_quantize_settings *settings = &arguments->settings;
  const qb_preparation *p = &info->preparation;
  if (settings->equalize != QB_EQUALIZATION_NONE || settings->bias_absorption)
    printf("\n");
  if (settings->equalize != QB_EQUALIZATION_NONE)
    print_scaling(p);
  if (settings->bias_absorption)
    print_absorption(p);
  if (isnan(p->error_with))
    return;
  printf("With nearest codes the mean square error of the output on %s is %.3g, without this %.3g%s.\n",
         arguments->data.path != NULL ? "calibration samples" : "random inputs", p->error_with, p->error_without,
         p->dropped ? ": it was dropped" : "");
}

/* What the calibration samples say: the whole network's error with nearest codes and with those that were kept. */
static void print_calibration(const qb_quantize_info *info, bool calibrated) {
  int nearest = 0, unsupported = 0;
  for (int i = 0; i < info->layer_count; i++) {
    nearest += info->layers[i].method == QB_METHOD_NEAREST;
    unsupported += info->layers[i].method == QB_METHOD_UNSUPPORTED;
  }
  if (isnan(info->error))
    return;
  printf("\nOn %s the mean square error of the output is %.3g, with nearest codes %.3g.\n",
         calibrated ? "the calibration samples" : "random inputs", info->error, info->error_nearest);
  if (info->kept_nearest)
    printf("Nearest codes were better for the whole network and were kept.\n");
  else if (nearest > 0)
    printf("%d layers kept nearest codes, which were better there.\n", nearest);
  if (unsupported > 0)
    printf("%d layers have nearest codes because the scheme has no rule for them.\n", unsupported);
}

/* Says which widths the file cannot hold as they are. ONNX has integers of 2, 4, 8 and 16 bits. */
static void print_carriers(const qb_quantize_info *info, bool compat) {
  for (int bits = QB_MIN_BITS; bits <= QB_MAX_BITS; bits++) {
    int carrier = bits <= 2 && !compat ? 2 : bits <= 4 && !compat ? 4 : bits <= 8 ? 8 : 16;
    bool used = false;
    for (int i = 0; i < info->layer_count; i++)
      used |= info->layers[i].bits == bits;
    if (used && carrier != bits)
      printf("Weights of %d bits are stored as %d bits each%s.\n", bits, carrier,
             compat ? ", the smallest that old runtimes read" : ": the file is as large as with that width");
  }
}

/* With --bits auto one column more, each layer's share of what the choice minimises. */
static void begin_table(const qb_allocation *allocation, cli_table *table) {
  static const char *const header[] = {"#",     "layer",       "bits",   "weights", "share",
                                       "delta", "mean square", "before", "after"};
  bool shares = allocation->layer_count > 0;
  cli_table_begin(table, shares ? "rlrrrrrrr" : "rlrrrrrr");
  for (size_t i = 0; i < sizeof header / sizeof *header; i++)
    if (shares || strcmp(header[i], "share") != 0)
      cli_table_cell(table, "%s", header[i]);
}

static void print_table(const quantize_arguments *arguments, const qb_quantize_info *info,
                        const qb_allocation *allocation, const qb_save_info *save) {
  cli_table table;
  begin_table(allocation, &table);
  int64_t before = 0, after = 0;
  for (int i = 0; i < info->layer_count; i++) {
    int64_t stored = qb_quantize_layer_bytes(&info->layers[i], arguments->save.compat);
    print_layer(&table, i + 1, &info->layers[i], allocation, stored);
    before += info->layers[i].tied ? 0 : 4 * info->layers[i].weights;
    after += stored;
  }
  cli_table_end(&table);
  if (allocation->layer_count > 0)
    cli_auto_print(allocation);
  print_preparation(arguments, info);
  print_calibration(info, arguments->data.path != NULL);
  if (info->activation_count > 0)
    printf("\n%d activations of %d bits, ranges (%s) from %lld samples\n", info->activation_count,
           arguments->settings.activation_bits, qb_range_rule_name(arguments->settings.activation_range),
           (long long)info->calibration_samples);
  char texts[3][CLI_TEXT];
  printf("\n%s: opset %lld, %s; weights %s before, %s after; largest change of a weight %.4g\n", arguments->output,
         (long long)save->opset, cli_bytes(save->size_bytes, texts[0]), cli_bytes(before, texts[1]),
         cli_bytes(after, texts[2]), info->delta);
  print_carriers(info, arguments->save.compat);
  bool moved = info->preparation.absorbed > 0 && !info->preparation.dropped;
  printf("Read back and run: largest output difference from the network in memory %.3g; with the %s weights put back, "
         "%.2g of the largest output from %s (rounding of folded BatchNorm).\n",
         save->output_difference, moved ? "float" : "original", save->float_difference,
         moved ? "the network whose biases moved" : "the original");
}

/* ------------------------------------------------------------------------------------------------------ interruption
 */

static int say_interrupted(const quantize_arguments *arguments, const qb_quantize_info *info) {
  int finished = 0, nearest = 0;
  for (int i = 0; i < info->layer_count; i++) {
    finished += info->layers[i].method == QB_METHOD_CALIBRATED;
    nearest += info->layers[i].method == QB_METHOD_NEAREST;
  }
  fprintf(stderr, "qbound: interrupted: %s holds what was finished: %d layers as asked, %d with nearest codes\n",
          arguments->output, finished, nearest);
  return CLI_UNPROVED;
}

typedef struct quantize_result {
  qb_model *model;
  qb_quantize_info info;
  qb_allocation allocation; /* no layers without --bits auto */
  qb_save_info save;
} quantize_result;

static bool quantize(quantize_arguments *arguments, const qb_model *model, quantize_result *r, qb_error *error) {
  const qb_quantize_settings *settings = &arguments->settings;
  const cli_auto *automatic = &arguments->automatic;
  const qb_progress *progress = cli_progress_begin_stoppable(); /* ends with what is finished */
  qb_status status = automatic->on ? qb_quantize_auto(model, settings, &automatic->how, progress, &r->model, &r->info,
                                                      &r->allocation, error)
                                   : qb_quantize(model, settings, progress, &r->model, &r->info, error);
  return status == QB_OK && cli_auto_save_plan(automatic, &r->allocation, arguments->model, error) &&
         qb_model_save(r->model, arguments->output, &arguments->save, &r->save, error) == QB_OK;
}

static int report(const quantize_arguments *arguments, const quantize_result *r) {
  qb_error error;
  char *text = NULL;
  const qb_allocation *allocation = arguments->automatic.on ? &r->allocation : NULL;
  if (!arguments->options.json) {
    cli_progress_end();
    print_table(arguments, &r->info, &r->allocation, &r->save);
    return cli_flush();
  }
  if (qb_quantize_json(r->model, &r->info, allocation, arguments->output, &r->save, arguments->save.compat, &text,
                       &error) != QB_OK)
    return cli_fail(&error);
  return cli_print_json(text);
}

static int run(quantize_arguments *arguments, qb_model *model, const cli_plan *plan) {
  qb_error error;
  quantize_result result = {0};
  arguments->settings.plan = plan->layers;
  arguments->settings.plan_count = plan->count;
  arguments->settings.keep_interrupted = !arguments->automatic.on; /* a promise is not kept by half a network */
  int code = quantize(arguments, model, &result, &error) ? report(arguments, &result) : cli_fail(&error);
  if (code == CLI_DONE && arguments->automatic.on && !result.allocation.kept)
    code = CLI_UNPROVED;
  if (code == CLI_DONE && result.info.interrupted)
    code = say_interrupted(arguments, &result.info);
  qb_quantize_info_free(&result.info);
  qb_allocation_free(&result.allocation);
  qb_model_free(result.model);
  return code;
}

int cmd_quantize(int argc, char **argv) {
  quantize_arguments arguments = {0};
  qb_quantize_settings_default(&arguments.settings);
  qb_save_settings_default(&arguments.save);
  qb_data_default(&arguments.data);
  cli_auto_default(&arguments.automatic);
  argp_parse(&quantize_argp, argc, argv, 0, NULL, &arguments);
  arguments.settings.seed = arguments.options.seed;
  arguments.settings.calibration_data = arguments.data.path != NULL ? &arguments.data : NULL;
  arguments.settings.threads = arguments.save.threads = arguments.options.threads;
  arguments.automatic.how.compat = arguments.save.compat;

  qb_error error;
  qb_model *model = NULL;
  cli_plan plan = {0};
  int code;
  if (qb_model_load(arguments.model, &model, &error) != QB_OK ||
      !cli_plan_make(model, arguments.plan, arguments.rules, arguments.rule_count, &plan, &error))
    code = cli_fail(&error);
  else
    code = run(&arguments, model, &plan);
  cli_plan_free(&plan);
  qb_model_free(model);
  return code;
}
