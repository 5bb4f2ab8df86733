/* qbound certify MODEL OTHER -o CERT.json: how far OTHER can be from MODEL, proved, with what is needed to check it. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"

typedef struct certify_arguments {
  cli_options options;
  const char *model, *other, *output;
  bool has_domain;
  qb_certify_settings settings;
  qb_data data, statistical, around;
  qb_radius radii[CLI_LIST];
  bool no_flip; /* a ball without a proof that nothing flips makes the exit status 3 */
} certify_arguments;

enum {
  KEY_DOMAIN = 0x100,
  KEY_PREPROCESS,
  KEY_METHOD,
  KEY_OUTPUT,
  KEY_NO_SEARCH,
  KEY_DATA,
  KEY_STATISTICAL,
  KEY_CONFIDENCE,
  KEY_CANDIDATES,
  KEY_LAYERWISE,
  KEY_REFERENCE,
  KEY_LABELS,
  KEY_OFFSET,
  KEY_SAMPLES,
  KEY_SKIP,
  KEY_BOX,
  KEY_BOX_ROW,
  KEY_AROUND,
  KEY_RADIUS,
  KEY_TIMEOUT,
  KEY_NO_FLIP,
  KEY_LSB,
  KEY_FLOAT32,
  KEY_CUT_NEURONS
};

static const struct argp_option certify_options[] = {
    {NULL, 'o', "CERT.json", 0, "Where the certificate goes", 0},
    {"domain", KEY_DOMAIN, "DOMAIN", 0,
     "The inputs that the proof is about: pixels (all images, needs --preprocess), D for [-D,D], or LO,HI in the "
     "network's own units",
     0},
    {"preprocess", KEY_PREPROCESS, "HOW", 0,
     "How pixels become inputs: imagenet, imagenet-224, imagenet-norm, unit, raw, or key=value:key=value", 0},
    {"box", KEY_BOX, "FILE", 0,
     "The inputs are a box from a file: VNNLIB input bounds, or CSV with columns lo0.. hi0..", 0},
    {"box-row", KEY_BOX_ROW, "N", 0, "Row N, from 0, of a CSV with several boxes", 0},
    {"method", KEY_METHOD, "LIST", 0,
     "layerwise, elementwise, two_stage, interval, spectral, product, bisection, or all; the smallest bound counts "
     "(default: layerwise,interval,spectral,product, and bisection where ten inputs or fewer vary)",
     0},
    {"output", KEY_OUTPUT, "K", 0, "Only output number K counts", 0},
    {"no-search", KEY_NO_SEARCH, NULL, 0, "Do not look for inputs with a large error: no lower bound", 0},
    {"data", KEY_DATA, "DATA", 0, "Inputs that the search starts from, see `qbound measure --help`", 0},
    {"around", KEY_AROUND, "DATA", 0,
     "Balls: also prove how far outputs can change around each of these inputs, see `qbound measure --help`", 0},
    {"radius", KEY_RADIUS, "R,..", 0,
     "Radii of balls in the network's input units (0.01, 8/255), or in steps of pixels: 3px is 3/255 before mean and "
     "std. Several make a curve",
     0},
    {"timeout", KEY_TIMEOUT, "S", 0,
     "Seconds that one ball, or cutting up a box of ten inputs or fewer, may take (default 60). A larger network gets "
     "cruder bounds",
     0},
    {"cut-neurons", KEY_CUT_NEURONS, NULL, 0,
     "Spend the rest of --timeout on each ball: cut it across undecided neurons until its bound or its decision is "
     "good",
     0},
    {"lsb", KEY_LSB, NULL, 0,
     "Bounds also hold when a runtime rounds ties or requantizes one step differently: the code of every quantized "
     "activation may be off by one",
     0},
    {"float32", KEY_FLOAT32, NULL, 0,
     "Bounds also hold for both networks evaluated in float32, in any order of sums, fused or not; includes --lsb", 0},
    {"no-flip", KEY_NO_FLIP, NULL, 0, "Exit 3 unless every ball is proved not to flip", 0},
    {"statistical", KEY_STATISTICAL, "DATA", 0,
     "Held-out inputs: also claim, with a confidence, what they show about fresh ones. Data that made OTHER and "
     "repeated inputs are refused",
     0},
    {"confidence", KEY_CONFIDENCE, "C", 0, "Of all limits of --statistical together (default 0.99)", 0},
    {"candidates", KEY_CANDIDATES, "K", 0,
     "How many quantized networks were tried on these inputs, this one included (default 1); the limits allow for it",
     0},
    {"layerwise-statistics", KEY_LAYERWISE, NULL, 0,
     "With --statistical: how errors arise layer by layer, an estimate; for stochastic rounding also a guarantee "
     "before the draw",
     0},
    {"reference", KEY_REFERENCE, NULL, 0, "For --statistical run plain loops in double precision (slow)", 0},
    {"labels", KEY_LABELS, "FILE", 0, "Labels of --statistical, where they are not found beside the data", 0},
    {"label-offset", KEY_OFFSET, "N", 0, "Class of the network = label + N (1 where class 0 is the background)", 0},
    {"samples", KEY_SAMPLES, "N", 0, "Use the first N inputs of each DATA", 0},
    {"skip", KEY_SKIP, "N", 0, "Leave out the first N", 0},
    {0},
};

static void check_arguments(struct argp_state *state, certify_arguments *arguments) {
  qb_certify_settings *settings = &arguments->settings;
  if (arguments->model == NULL || arguments->other == NULL)
    argp_error(state, "which MODEL and which OTHER?");
  if (arguments->output == NULL)
    argp_error(state, "where does the certificate go? Say -o CERT.json");
  if (settings->layerwise && arguments->statistical.path == NULL)
    argp_error(state, "--layerwise-statistics of which inputs? Say --statistical DATA");
  settings->worst_case =
      arguments->has_domain || (arguments->statistical.path == NULL && arguments->around.path == NULL);
  if (arguments->around.path != NULL && settings->radius_count == 0)
    argp_error(state, "how far around them? Say --radius R, for example --radius 1px or --radius 0.01");
  if (arguments->around.path == NULL && settings->radius_count > 0)
    argp_error(state, "around which inputs? Say --around DATA");
  if (arguments->around.path == NULL && arguments->no_flip)
    argp_error(state, "--no-flip is about balls: say --around DATA --radius R");
  if (arguments->around.path == NULL && settings->cut_neurons)
    argp_error(state, "--cut-neurons is about balls: say --around DATA --radius R");
  if (settings->worst_case && settings->domain == QB_DOMAIN_PIXELS && settings->preprocess == NULL)
    argp_error(state, "for which inputs? Say --preprocess imagenet (or another) for all images, or --domain D, "
                      "--domain LO,HI or --box FILE");
  arguments->data.preprocess = arguments->settings.preprocess != NULL ? arguments->settings.preprocess : "raw";
  arguments->statistical.preprocess = arguments->data.preprocess;
  arguments->statistical.samples = arguments->data.samples;
  arguments->statistical.skip = arguments->data.skip;
  arguments->around.preprocess = arguments->data.preprocess;
  arguments->around.samples = arguments->data.samples;
  arguments->around.skip = arguments->data.skip;
  settings->around = arguments->around.path != NULL ? &arguments->around : NULL;
  settings->data = arguments->data.path != NULL ? &arguments->data : NULL;
  settings->statistical = arguments->statistical.path != NULL ? &arguments->statistical : NULL;
}

static double parse_confidence(struct argp_state *state, const char *text) {
  double confidence = cli_parse_number(state, "--confidence", text);
  if (!(confidence > 0 && confidence < 1))
    argp_error(state, "--confidence %s: expected a number between 0 and 1, such as 0.99", text);
  return confidence;
}

/* A number or a quotient of two, "8/255". */
static double parse_quotient(struct argp_state *state, char *text) {
  char *slash = strchr(text, '/');
  if (slash == NULL)
    return cli_parse_number(state, "--radius", text);
  *slash = 0;
  double above = cli_parse_number(state, "--radius", text), below = cli_parse_number(state, "--radius", slash + 1);
  if (!(below > 0))
    argp_error(state, "--radius: '%s/%s' divides by a number that is not positive", text, slash + 1);
  return above / below;
}

/* "1px,3px,0.01,8/255" */
static void parse_radii(struct argp_state *state, const char *list, certify_arguments *arguments) {
  int count = 0;
  for (const char *at = list; at != NULL; count++) {
    char text[64];
    size_t length = strcspn(at, ",");
    bool pixels = length > 2 && strncmp(at + length - 2, "px", 2) == 0;
    if (count == CLI_LIST)
      argp_error(state, "--radius: at most %d radii at once", CLI_LIST);
    snprintf(text, sizeof text, "%.*s", (int)(pixels ? length - 2 : length), at);
    arguments->radii[count] = (qb_radius){parse_quotient(state, text), pixels};
    if (arguments->radii[count].value < 0)
      argp_error(state, "--radius needs numbers from 0, not '%s'", text);
    at = at[length] == ',' ? at + length + 1 : NULL;
  }
  arguments->settings.radii = arguments->radii;
  arguments->settings.radius_count = count;
}

/* Options of balls. */
static error_t parse_balls(int key, char *text, struct argp_state *state, certify_arguments *arguments) {
  qb_certify_settings *settings = &arguments->settings;
  switch (key) {
  case KEY_AROUND: arguments->around.path = text; return 0;
  case KEY_RADIUS: parse_radii(state, text, arguments); return 0;
  case KEY_NO_FLIP: arguments->no_flip = true; return 0;
  case KEY_TIMEOUT:
    settings->timeout_seconds = cli_parse_number(state, "--timeout", text);
    if (!(settings->timeout_seconds > 0))
      argp_error(state, "--timeout needs a positive number of seconds, not '%s'", text);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

/* Options of data and of the statistical claim. */
static error_t parse_statistical(int key, char *text, struct argp_state *state, certify_arguments *arguments) {
  qb_certify_settings *settings = &arguments->settings;
  qb_data *data = &arguments->data, *statistical = &arguments->statistical;
  switch (key) {
  case KEY_STATISTICAL: statistical->path = text; return 0;
  case KEY_CONFIDENCE: settings->confidence = parse_confidence(state, text); return 0;
  case KEY_CANDIDATES: settings->candidates = cli_parse_integer(state, "--candidates", text, 1, LLONG_MAX); return 0;
  case KEY_LAYERWISE: settings->layerwise = true; return 0;
  case KEY_REFERENCE: settings->reference = true; return 0;
  case KEY_LABELS: statistical->labels = text; return 0;
  case KEY_OFFSET:
    statistical->label_offset = (int)cli_parse_integer(state, "--label-offset", text, -1000, 1000);
    return 0;
  case KEY_SAMPLES: data->samples = cli_parse_integer(state, "--samples", text, 1, LLONG_MAX); return 0;
  case KEY_SKIP: data->skip = cli_parse_integer(state, "--skip", text, 0, LLONG_MAX); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static error_t parse(int key, char *text, struct argp_state *state) {
  certify_arguments *arguments = state->input;
  qb_certify_settings *settings = &arguments->settings;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &arguments->options; return 0;
  case 'o': arguments->output = text; return 0;
  case KEY_DOMAIN:
    arguments->has_domain = true;
    cli_parse_domain(state, text, &settings->domain, &settings->lo, &settings->hi);
    return 0;
  case KEY_PREPROCESS: settings->preprocess = text; return 0;
  case KEY_BOX:
    arguments->has_domain = true;
    settings->domain = QB_DOMAIN_FILE;
    settings->box = text;
    return 0;
  case KEY_BOX_ROW: settings->box_row = cli_parse_integer(state, "--box-row", text, 0, LLONG_MAX); return 0;
  case KEY_METHOD: settings->methods = text; return 0;
  case KEY_OUTPUT: settings->output = cli_parse_integer(state, "--output", text, 0, LLONG_MAX); return 0;
  case KEY_LSB: settings->lsb = true; return 0;
  case KEY_FLOAT32: settings->float32 = true; return 0;
  case KEY_CUT_NEURONS: settings->cut_neurons = true; return 0;
  case KEY_NO_SEARCH: settings->search = false; return 0;
  case KEY_DATA: arguments->data.path = text; return 0;
  case ARGP_KEY_ARG:
    if (arguments->other != NULL)
      argp_error(state, "MODEL and OTHER, no more; '%s' is too much", text);
    if (arguments->model == NULL)
      arguments->model = text;
    else
      arguments->other = text;
    return 0;
  case ARGP_KEY_END: check_arguments(state, arguments); return 0;
  default: return parse_balls(key, text, state, arguments) == 0 ? 0 : parse_statistical(key, text, state, arguments);
  }
}

static const struct argp certify_argp = {
    .options = certify_options,
    .parser = parse,
    .args_doc = "MODEL OTHER",
    .doc = "Proves how far the outputs of OTHER, a quantized file of the same network whoever wrote it, can be from "
           "those of MODEL, and writes the proof to a file that `qbound check` verifies on its own.\v"
           "Example:\n  qbound certify net.onnx net_w8.onnx -o net_w8.json --preprocess imagenet\n\n"
           "The bound holds for every input of the domain in exact arithmetic, with --float32 in float32 as well. A "
           "lower bound comes from an input that "
           "was found and evaluated rigorously. Exit 3: no method has a rule for everything in this network.\n\n"
           "  qbound certify net.onnx net_w8.onnx -o net_w8.json --around photos --samples 10 --radius 1px,3px "
           "--preprocess imagenet\n\n"
           "This is about every input within 1 and 3 pixel steps of ten photos. A bound is proved always (exit 3 where "
           "an operator has no rule); that a decision cannot flip is asked for with --no-flip.\n\n"
           "  qbound certify net.onnx net_w8.onnx -o net_w8.json --statistical photos --preprocess imagenet\n\n"
           "This proves nothing about the worst input, but bounds, with a confidence, how many fresh inputs like the "
           "photos change class and how large their errors are. With --domain the worst case goes into the same "
           "certificate.",
    .children = cli_common,
};

/* ------------------------------------------------------------------------------------------------------- the call */

/* Whether everything that was asked for is proved. Balls ask for bounds, and for decisions only with --no-flip. */
static bool is_reached(const qb_certificate *certificate, const certify_arguments *arguments) {
  bool reached = !certificate->has_worst_case || certificate->worst_case.proved;
  for (int64_t k = 0; certificate->has_balls && k < certificate->balls.ball_count; k++) {
    const qb_certified_ball *ball = &certificate->balls.balls[k];
    reached = reached && ball->method != NULL && (!arguments->no_flip || ball->decision == QB_DECISION_PROVED);
  }
  return reached;
}

static const char *what_check_does(const qb_certificate *certificate) {
  return certificate->has_statistical ? "verifies what does not rest on running the networks" : "verifies it";
}

static int report(const qb_certificate *certificate, const certify_arguments *arguments) {
  char *text = NULL;
  qb_error error;
  int code;
  if (arguments->options.json) {
    code = qb_certificate_json(certificate, &text, &error) == QB_OK ? cli_print_json(text) : cli_fail(&error);
  } else {
    cli_progress_end();
    cli_print_certificate(certificate);
    printf("\n%s is written; `qbound check %s %s %s` %s\n", arguments->output, arguments->output, certificate->model,
           certificate->quantized, what_check_does(certificate));
    code = cli_flush();
  }
  return code == CLI_DONE && !is_reached(certificate, arguments) ? CLI_UNPROVED : code;
}

int cmd_certify(int argc, char **argv) {
  certify_arguments arguments = {0};
  qb_certify_settings_default(&arguments.settings);
  qb_data_default(&arguments.data);
  qb_data_default(&arguments.statistical);
  qb_data_default(&arguments.around);
  argp_parse(&certify_argp, argc, argv, 0, NULL, &arguments);
  arguments.settings.threads = arguments.options.threads;
  arguments.settings.seed = arguments.options.seed;

  qb_error error;
  qb_model *model = NULL, *other = NULL;
  qb_certificate certificate = {0};
  int code;
  if (qb_model_load(arguments.model, &model, &error) != QB_OK ||
      qb_model_load(arguments.other, &other, &error) != QB_OK ||
      qb_certify(model, other, &arguments.settings, cli_progress_begin(), &certificate, &error) != QB_OK ||
      qb_certificate_save(&certificate, arguments.output, &error) != QB_OK)
    code = cli_fail(&error);
  else
    code = report(&certificate, &arguments);
  qb_certificate_free(&certificate);
  qb_model_free(other);
  qb_model_free(model);
  return code;
}
