/* Options and printing of --bits auto; see quantize_auto.h. */
#include "cli/quantize_auto.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  KEY_AVERAGE = 0x200,
  KEY_SIZE,
  KEY_FLIP_RATE,
  KEY_CONFIDENCE,
  KEY_MAX_ERROR,
  KEY_CERTIFIED,
  KEY_WIDTHS,
  KEY_VERIFY,
  KEY_VERIFY_SAMPLES,
  KEY_VERIFY_SKIP,
  KEY_DOMAIN,
  KEY_SAVE_PLAN
};

static const struct argp_option auto_options[] = {
    {NULL, 0, NULL, 0, "With --bits auto, exactly one promise:", 5},
    {"average-bits", KEY_AVERAGE, "B", 0, "At most B bits a weight in the mean", 5},
    {"size", KEY_SIZE, "BYTES", 0, "A file of at most BYTES", 5},
    {"max-flip-rate", KEY_FLIP_RATE, "P", 0,
     "At most a share P of inputs changes class, with --confidence, tested on --verify samples", 5},
    {"max-error", KEY_MAX_ERROR, "E", 0, "No output moves by more than E on the --verify samples", 5},
    {"certified-error", KEY_CERTIFIED, "E", 0, "Proved: no output moves by more than E over the --domain", 5},
    {NULL, 0, NULL, 0, "How it is kept:", 6},
    {"confidence", KEY_CONFIDENCE, "C", 0, "Of statements about samples (default 0.99)", 6},
    {"verify", KEY_VERIFY, "DATA", 0, "Samples to test the promise on, none of which may be used for calibration", 6},
    {"verify-samples", KEY_VERIFY_SAMPLES, "N", 0, "Use at most N of them (default: all)", 6},
    {"verify-skip", KEY_VERIFY_SKIP, "N", 0, "Leave out the first N of them", 6},
    {"widths", KEY_WIDTHS, "LIST", 0, "Bits to choose from: 2-8 (default), 2,4,8", 6},
    {"domain", KEY_DOMAIN, "DOMAIN", 0,
     "Inputs of --certified-error: pixels (default, with --preprocess), D for [-D,D], or LO,HI", 6},
    {"save-plan", KEY_SAVE_PLAN, "FILE", 0, "Write the chosen bits as --plan reads them", 6},
    {0},
};

void cli_auto_default(cli_auto *automatic) {
  *automatic = (cli_auto){0};
  qb_allocate_settings_default(&automatic->how);
  qb_data_default(&automatic->verify);
}

static void set_promise(struct argp_state *state, qb_promise promise, const char *option, const char *text) {
  cli_auto *automatic = state->input;
  if (automatic->promise != NULL)
    argp_error(state, "one promise at a time: %s or %s", automatic->promise, option);
  automatic->promise = option;
  automatic->how.promise = promise;
  automatic->how.target = cli_parse_number(state, option, text);
  if (automatic->how.target <= 0)
    argp_error(state, "%s: %s is not above 0", option, text);
}

static int compare_widths(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static void parse_widths(struct argp_state *state, cli_auto *automatic, const char *text) {
  int count = cli_parse_bits(state, text, automatic->widths);
  qsort(automatic->widths, (size_t)count, sizeof *automatic->widths, compare_widths);
  if (automatic->widths[count - 1] > 8)
    argp_error(state, "--widths: bits are chosen from 2 to 8, not %d", automatic->widths[count - 1]);
  automatic->how.widths = automatic->widths;
  automatic->how.width_count = count;
}

static error_t parse(int key, char *text, struct argp_state *state) {
  cli_auto *automatic = state->input;
  qb_allocate_settings *how = &automatic->how;
  switch (key) {
  case KEY_AVERAGE: set_promise(state, QB_PROMISE_AVERAGE_BITS, "--average-bits", text); return 0;
  case KEY_SIZE: set_promise(state, QB_PROMISE_SIZE, "--size", text); return 0;
  case KEY_FLIP_RATE: set_promise(state, QB_PROMISE_FLIP_RATE, "--max-flip-rate", text); return 0;
  case KEY_MAX_ERROR: set_promise(state, QB_PROMISE_MAX_ERROR, "--max-error", text); return 0;
  case KEY_CERTIFIED: set_promise(state, QB_PROMISE_CERTIFIED_ERROR, "--certified-error", text); return 0;
  case KEY_CONFIDENCE:
    automatic->has_confidence = true;
    how->confidence = cli_parse_number(state, "--confidence", text);
    if (how->confidence <= 0 || how->confidence >= 1)
      argp_error(state, "--confidence: %s is not between 0 and 1", text);
    return 0;
  case KEY_WIDTHS: parse_widths(state, automatic, text); return 0;
  case KEY_VERIFY: automatic->verify.path = text; return 0;
  case KEY_VERIFY_SAMPLES:
    automatic->verify.samples = cli_parse_integer(state, "--verify-samples", text, 1, LLONG_MAX);
    return 0;
  case KEY_VERIFY_SKIP:
    automatic->verify.skip = cli_parse_integer(state, "--verify-skip", text, 0, LLONG_MAX);
    return 0;
  case KEY_DOMAIN:
    automatic->has_domain = true;
    cli_parse_domain(state, text, &how->domain, &how->lo, &how->hi);
    return 0;
  case KEY_SAVE_PLAN: automatic->save_plan = text; return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

const struct argp cli_auto_argp = {.options = auto_options, .parser = parse};

static void check_needs(struct argp_state *state, const cli_auto *automatic, const char *preprocess) {
  const qb_allocate_settings *how = &automatic->how;
  if (automatic->promise == NULL)
    argp_error(state, "--bits auto needs a promise: --average-bits, --size, --max-flip-rate, --max-error or "
                      "--certified-error");
  bool sampled = how->promise == QB_PROMISE_FLIP_RATE || how->promise == QB_PROMISE_MAX_ERROR;
  if (sampled && automatic->verify.path == NULL)
    argp_error(state, "%s needs samples to test it on: --verify DATA", automatic->promise);
  if (how->promise == QB_PROMISE_FLIP_RATE && how->target >= 1)
    argp_error(state, "--max-flip-rate is a share: a number between 0 and 1");
  if (how->promise == QB_PROMISE_CERTIFIED_ERROR && how->domain == QB_DOMAIN_PIXELS && preprocess == NULL)
    argp_error(state, "--certified-error over which inputs? Say --preprocess HOW for all images, or --domain D");
}

void cli_auto_check(struct argp_state *state, cli_auto *automatic, const char *preprocess) {
  bool own = automatic->promise != NULL || automatic->verify.path != NULL || automatic->how.widths != NULL ||
             automatic->has_domain || automatic->has_confidence || automatic->save_plan != NULL;
  if (own && !automatic->on)
    argp_error(state, "%s goes with --bits auto",
               automatic->promise != NULL       ? automatic->promise
               : automatic->verify.path != NULL ? "--verify"
                                                : "--widths, --domain, --confidence or --save-plan");
  if (!automatic->on)
    return;
  check_needs(state, automatic, preprocess);
  automatic->how.preprocess = preprocess;
  if (preprocess != NULL)
    automatic->verify.preprocess = preprocess;
  if (automatic->verify.path != NULL)
    automatic->how.verify = &automatic->verify;
}

/* ------------------------------------------------------------------------------------------------------- printing */

void cli_auto_share(cli_table *table, const qb_allocated_layer *layer) {
  if (layer->fixed)
    cli_table_cell(table, "fixed");
  else if (isnan(layer->share))
    cli_table_cell(table, "-");
  else
    cli_table_cell(table, "%.1f %%", 100 * layer->share);
}

static void print_plans(const qb_allocation *allocation) {
  bool compared = !isnan(allocation->plans[QB_RULE_UNIFORM].error);
  printf(compared
             ? "\nPlans compared by the output error on calibration samples (layers rounded one by one):\n"
             : "\nNo calibration samples: the plan with the smallest worst case is taken. On real inputs it may be "
               "worse than uniform bits; give --calibrate DATA.\n");
  for (int i = 0; i < QB_ALLOCATION_PLANS; i++) {
    const qb_allocation_plan *plan = &allocation->plans[i];
    const char *mark = plan->rule == allocation->rule ? "  <- chosen" : "";
    printf("  %-12s", qb_allocation_rule_name(plan->rule));
    if (!plan->tried)
      printf(" not tried: %s\n", plan->why);
    else if (isnan(plan->error))
      printf(" %.3f bits%s\n", plan->average_bits, mark);
    else
      printf(" %.3f bits, mean square %s%.4g%s\n", plan->average_bits, plan->complete ? "" : "at least ", plan->error,
             mark);
  }
}

static void print_test(const qb_allocation *allocation, const qb_allocation_test *test) {
  printf("  %.3f bits:", test->average_bits);
  if (!isnan(test->certified))
    printf(" proved %.6g", test->certified);
  if (test->flips >= 0)
    printf("%s %lld flips, rate at most %.3g %%; largest error %.4g", isnan(test->certified) ? "" : ",",
           (long long)test->flips, 100 * test->flip_upper, test->error_max);
  printf("  %s\n", test->passed ? "passed" : "failed");
  (void)allocation;
}

static void print_tests(const qb_allocation *allocation) {
  bool sampled = allocation->promise == QB_PROMISE_FLIP_RATE || allocation->promise == QB_PROMISE_MAX_ERROR;
  if (allocation->verified == 0 && allocation->promise != QB_PROMISE_CERTIFIED_ERROR)
    return;
  printf("\nTested");
  if (allocation->verified > 0)
    printf(" on %lld verification samples", (long long)allocation->verified);
  if (sampled)
    printf(", in an order fixed before they were read, to the first failure: each at the full confidence of %g %% "
           "(fixed-sequence testing)",
           100 * allocation->confidence);
  if (allocation->promise == QB_PROMISE_FLIP_RATE)
    printf("; %lld flips are allowed", (long long)allocation->flips_allowed);
  printf(":\n");
  for (int i = 0; i < allocation->test_count; i++)
    print_test(allocation, &allocation->tests[i]);
}

void cli_auto_print(const qb_allocation *allocation) {
  print_plans(allocation);
  print_tests(allocation);
  printf("\nPromise %s: %s.\n", allocation->kept ? "kept" : "NOT kept", allocation->message);
}

/* ----------------------------------------------------------------------------------------------------------- plan */

static bool fail_io(qb_error *error, const char *path) {
  error->status = QB_ERROR_IO;
  snprintf(error->message, sizeof error->message, "%s: cannot write the plan: %s", path, strerror(errno));
  return false;
}

static bool write_plan(FILE *file, const qb_allocation *allocation, const char *model) {
  fprintf(file, "# bits of %s: %s, %.4f on average. Edit and give back with --plan; '# LAYER' keeps a layer float.\n",
          model, qb_allocation_rule_name(allocation->rule), allocation->average_bits);
  for (int i = 0; i < allocation->layer_count; i++) {
    const qb_allocated_layer *layer = &allocation->layers[i];
    if (layer->bits == 0)
      fprintf(file, "# %s\n", layer->node);
    else
      fprintf(file, "%s %d\n", layer->node, layer->bits);
  }
  return fflush(file) == 0 && !ferror(file);
}

bool cli_auto_save_plan(const cli_auto *automatic, const qb_allocation *allocation, const char *model,
                        qb_error *error) {
  const char *path = automatic->save_plan;
  char temporary[PATH_MAX];
  if (path == NULL)
    return true;
  snprintf(temporary, sizeof temporary, "%s.part", path);
  FILE *file = fopen(temporary, "w");
  if (file == NULL)
    return fail_io(error, path);
  bool written = write_plan(file, allocation, model);
  written = fclose(file) == 0 && written && rename(temporary, path) == 0;
  if (!written) {
    fail_io(error, path);
    remove(temporary);
  }
  return written;
}
