/* qb_quantize_auto: bits per layer so that one promise is kept.
 *
 *   average bits, size      one budget: the rule with the least output error on calibration samples, its plan
 *   flip rate, max error    networks with fewer and fewer bits, in an order fixed by weights and calibration samples;
 *                           each is tested on the verification samples until one fails, the last that passed is kept
 *   certified error         the fewest bits whose bound is small enough, by bisection over the same ladder, finer
 *
 * Scores and plans are in allocate_plan.c, samples and proofs in allocate_check.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/allocate_check.h"
#include "api/allocate_plan.h"
#include "api/input_domain.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "quant/quant.h"
#include "stats/binomial.h"

void qb_allocate_settings_default(qb_allocate_settings *settings) {
  *settings = (qb_allocate_settings){.confidence = 0.99, .domain = QB_DOMAIN_PIXELS, .samples = 256};
}

void qb_allocation_free(qb_allocation *allocation) {
  if (allocation == NULL)
    return;
  qb_free(allocation->layers);
  *allocation = (qb_allocation){0};
}

/* What one call works with. */
typedef struct allocating {
  qb_planner planner;
  qb_verifier verifier;
  qb_domain domain;
  int *bits; /* (layers) of `quantized` */
  qb_model *quantized;
  qb_quantize_info info;
} allocating;

/* -------------------------------------------------------------------------------------------------------- settings */

static qb_status check_promise(const qb_allocate_settings *how, qb_error *error) {
  bool sampled = how->promise == QB_PROMISE_FLIP_RATE || how->promise == QB_PROMISE_MAX_ERROR;
  if (how->promise < QB_PROMISE_AVERAGE_BITS || how->promise > QB_PROMISE_CERTIFIED_ERROR)
    return qb_fail(error, QB_ERROR_ARGUMENT, "promise number %d is unknown", (int)how->promise);
  if (!(how->target > 0) || !isfinite(how->target) || (how->promise == QB_PROMISE_FLIP_RATE && how->target >= 1))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the promised %s is %g; give a finite number above 0%s",
                   qb_promise_name(how->promise), how->target,
                   how->promise == QB_PROMISE_FLIP_RATE ? " and below 1" : "");
  if (!(how->confidence > 0 && how->confidence < 1))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the confidence is %g; give a number between 0 and 1", how->confidence);
  if (sampled && how->verify == NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "the promised %s needs verification samples",
                   qb_promise_name(how->promise));
  if (how->samples < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "scores need at least one sample, not %lld", (long long)how->samples);
  return QB_OK;
}

/* The asked domain; [-1, 1] where only a score needs one. */
static qb_status make_domain(const allocating *a, qb_domain *domain, qb_error *error) {
  const qb_allocate_settings *how = a->planner.how;
  qb_inputs inputs = {.kind = how->domain, .preprocess = how->preprocess, .lo = how->lo, .hi = how->hi, .box_row = -1};
  if (how->domain == QB_DOMAIN_PIXELS && how->preprocess == NULL && how->promise != QB_PROMISE_CERTIFIED_ERROR)
    inputs = (qb_inputs){.kind = QB_DOMAIN_BOX, .lo = -1, .hi = 1};
  return qb_domain_make(&a->planner.model->graph, &inputs, domain, error);
}

static qb_status prepare(allocating *a, qb_error *error) {
  qb_planner *p = &a->planner;
  QB_TRY(check_promise(p->how, error));
  a->verifier = (qb_verifier){.model = p->model, .how = p->how, .threads = p->settings->threads};
  QB_TRY(qb_verifier_open(&a->verifier, &p->settings->calibration, error));
  p->allocation->verified = a->verifier.count;
  p->allocation->flips_allowed = a->verifier.allowed;
  QB_TRY(make_domain(a, &a->domain, error));
  QB_TRY(qb_planner_create(p, &a->domain, error));
  a->bits = qb_alloc((size_t)p->layers, sizeof *a->bits);
  return a->bits != NULL ? QB_OK : qb_fail_memory(error, "the plan", (size_t)p->layers * sizeof *a->bits);
}

/* ------------------------------------------------------------------------------------------------------ candidates */

/* Quantizes with `bits` and appends a test of the result; the network goes into `made`. */
static qb_status make_candidate(allocating *a, const int *bits, qb_model **made, qb_quantize_info *info,
                                qb_allocation_test **test, qb_error *error) {
  qb_allocation *allocation = a->planner.allocation;
  *test = &allocation->tests[allocation->test_count];
  **test = (qb_allocation_test){.average_bits = qb_planner_average_bits(&a->planner, bits),
                                .flips = -1,
                                .flip_upper = NAN,
                                .error_max = NAN,
                                .certified = NAN};
  return qb_planner_quantize(&a->planner, bits, made, info, error);
}

/* Makes the candidate the result. */
static void keep(allocating *a, const int *bits, qb_model *made, const qb_quantize_info *info) {
  qb_model_free(a->quantized);
  qb_quantize_info_free(&a->info);
  a->quantized = made;
  a->info = *info;
  memcpy(a->bits, bits, (size_t)a->planner.layers * sizeof *a->bits);
}

static void drop(qb_model *made, qb_quantize_info *info) {
  qb_model_free(made);
  qb_quantize_info_free(info);
}

/* ------------------------------------------------------------------------------------------- average bits and size */

enum { SIZE_TRIES = 4 };

/* Quantizes within the budget and tests the result, which is no promise but good to know. */
static qb_status within_budget(allocating *a, qb_plan_budget budget, int *bits, qb_error *error) {
  qb_model *made = NULL;
  qb_quantize_info info = {0};
  qb_allocation_test *test;
  QB_TRY(qb_planner_plan(&a->planner, a->planner.allocation->rule, budget, bits, error));
  QB_TRY(make_candidate(a, bits, &made, &info, &test, error));
  keep(a, bits, made, &info);
  return qb_verifier_test(&a->verifier, made, a->planner.progress, test, error);
}

static qb_status promise_average(allocating *a, int *bits, qb_error *error) {
  qb_allocation *allocation = a->planner.allocation;
  qb_plan_budget budget = qb_planner_average(&a->planner, a->planner.how->target);
  double start = qb_clock_seconds();
  QB_TRY(qb_planner_choose_rule(&a->planner, budget, error));
  allocation->plan_seconds += qb_clock_seconds() - start;
  QB_TRY(within_budget(a, budget, bits, error));
  allocation->tests[allocation->test_count++].passed = true;
  allocation->reached = qb_planner_average_bits(&a->planner, a->bits);
  allocation->kept = true;
  return QB_OK;
}

/* The smallest layers there can be; what a file holds besides, such as names and biases, is found by writing one. */
static qb_status smallest_file(allocating *a, int *bits, int64_t *other_bytes, int64_t *layer_bytes, qb_error *error) {
  const qb_planner *p = &a->planner;
  qb_model *made = NULL;
  qb_quantize_info info = {0};
  int64_t size = 0;
  for (int l = 0; l < p->layers; l++)
    bits[l] = p->layer[l].fixed ? p->layer[l].bits : p->width[0];
  qb_status status = qb_planner_quantize(p, bits, &made, &info, error);
  if (status == QB_OK)
    status = qb_model_file_size(made, p->how->compat, &size, error);
  *layer_bytes = 0;
  for (int l = 0; status == QB_OK && l < info.layer_count; l++)
    *layer_bytes += qb_quantize_layer_bytes(&info.layers[l], p->how->compat);
  *other_bytes = size - *layer_bytes;
  drop(made, &info);
  return status;
}

/* The budget shrinks by what the file was too long, until it fits. */
static qb_status fit_file(allocating *a, int *bits, int64_t amount, int64_t least, qb_error *error) {
  qb_allocation *allocation = a->planner.allocation;
  int64_t size = 0, target = (int64_t)fmin(a->planner.how->target, 9e18);
  for (int i = 0; i < SIZE_TRIES && !allocation->kept; i++) {
    amount = amount > least ? amount : least;
    QB_TRY(within_budget(a, (qb_plan_budget){.bytes = true, .amount = amount}, bits, error));
    QB_TRY(qb_model_file_size(a->quantized, a->planner.how->compat, &size, error));
    allocation->reached = (double)size;
    allocation->kept = size <= target;
    if (amount == least)
      break;
    amount -= size - target;
  }
  allocation->tests[allocation->test_count++].passed = allocation->kept;
  return QB_OK;
}

static qb_status promise_size(allocating *a, int *bits, qb_error *error) {
  qb_allocation *allocation = a->planner.allocation;
  int64_t other, least;
  QB_TRY(smallest_file(a, bits, &other, &least, error));
  int64_t amount = (int64_t)fmin(a->planner.how->target, 9e18) - other;
  double start = qb_clock_seconds();
  qb_plan_budget budget = {.bytes = true, .amount = amount > least ? amount : least};
  QB_TRY(qb_planner_choose_rule(&a->planner, budget, error));
  allocation->plan_seconds += qb_clock_seconds() - start;
  return fit_file(a, bits, budget.amount, least, error);
}

/* ------------------------------------------------------------------------------------------------- promised samples */

static const double rung_bits = 0.5, fine_rung_bits = 0.25;

/* Rungs of the ladder; the first has the most bits. */
static int count_rungs(const qb_planner *p, double step) {
  int count = 1 + (int)((p->width[p->widths - 1] - p->width[0]) / step + 1e-9);
  return count < QB_ALLOCATION_TESTS ? count : QB_ALLOCATION_TESTS;
}

static qb_status plan_rung(const qb_planner *p, int rung, double step, int *bits, qb_error *error) {
  double average = p->width[p->widths - 1] - rung * step;
  return qb_planner_plan(p, p->allocation->rule, qb_planner_open_average(p, average), bits, error);
}

/* One rule for the whole ladder, chosen at four bits or the nearest that the widths allow. */
static qb_status choose_ladder_rule(qb_planner *p, qb_error *error) {
  double start = qb_clock_seconds(), bits = fmin(fmax(4, p->width[0]), p->width[p->widths - 1]);
  QB_TRY(qb_planner_choose_rule(p, qb_planner_open_average(p, bits), error));
  p->allocation->plan_seconds += qb_clock_seconds() - start;
  return QB_OK;
}

/* Tests one rung; `more` tells whether the next is worth a test. The first rung is the result until another passes. */
static qb_status test_rung(allocating *a, int rung, int *bits, bool *more, qb_error *error) {
  const qb_planner *p = &a->planner;
  qb_model *made = NULL;
  qb_quantize_info info = {0};
  qb_allocation_test *test;
  QB_TRY(plan_rung(p, rung, rung_bits, bits, error));
  QB_TRY(make_candidate(a, bits, &made, &info, &test, error));
  bool promising = true;
  qb_status status = QB_OK;
  if (rung > 0)
    status = qb_verifier_promising(&a->verifier, &p->settings->calibration, p->how->samples, made, &promising, error);
  if (status == QB_OK && promising)
    status = qb_verifier_test(&a->verifier, made, p->progress, test, error);
  if (status != QB_OK || !promising || (rung > 0 && !test->passed))
    drop(made, &info);
  else
    keep(a, bits, made, &info);
  p->allocation->test_count += promising;
  *more = promising && test->passed;
  return status;
}

static qb_status promise_samples(allocating *a, int *bits, qb_error *error) {
  qb_allocation *allocation = a->planner.allocation;
  bool more = true;
  QB_TRY(choose_ladder_rule(&a->planner, error));
  for (int rung = 0; more && rung < count_rungs(&a->planner, rung_bits); rung++)
    QB_TRY(test_rung(a, rung, bits, &more, error));
  const qb_allocation_test *last = &allocation->tests[0];
  for (int i = 0; i < allocation->test_count && allocation->tests[i].passed; i++)
    last = &allocation->tests[i];
  allocation->kept = last->passed;
  allocation->reached = allocation->promise == QB_PROMISE_FLIP_RATE ? last->flip_upper : last->error_max;
  return qb_binomial_upper(a->verifier.count, 0, 1 - allocation->confidence, &allocation->exceed_upper, error);
}

/* ----------------------------------------------------------------------------------------------------- certificate */

static qb_status certify_rung(allocating *a, int rung, int *bits, bool *passed, qb_error *error) {
  const qb_planner *p = &a->planner;
  qb_model *made = NULL;
  qb_quantize_info info = {0};
  qb_allocation_test *test;
  QB_TRY(plan_rung(p, rung, fine_rung_bits, bits, error));
  QB_TRY(make_candidate(a, bits, &made, &info, &test, error));
  qb_status status = qb_verifier_certify(&a->verifier, &a->domain, made, test, error);
  *passed = test->passed;
  if (status == QB_OK && (rung == 0 || test->passed)) {
    keep(a, bits, made, &info);
    p->allocation->reached = test->certified;
    p->allocation->test_count++;
    return qb_verifier_test(&a->verifier, made, p->progress, test, error);
  }
  drop(made, &info);
  p->allocation->test_count++;
  return status;
}

/* The rule that lowers the bound. Nothing is sampled, so any number of networks may be tried. */
static qb_status promise_certified(allocating *a, int *bits, qb_error *error) {
  qb_allocation *allocation = a->planner.allocation;
  QB_TRY(choose_ladder_rule(&a->planner, error));
  if (a->planner.table[QB_RULE_CERTIFIED].score != NULL)
    allocation->rule = QB_RULE_CERTIFIED;
  QB_TRY(certify_rung(a, 0, bits, &allocation->kept, error));
  int low = 0, high = allocation->kept ? count_rungs(&a->planner, fine_rung_bits) : 1;
  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    bool passed;
    QB_TRY(certify_rung(a, middle, bits, &passed, error));
    if (passed)
      low = middle;
    else
      high = middle;
  }
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- message */

static void say_flips(const allocating *a, const qb_allocation_test *test, qb_allocation *out) {
  double percent = 100 * out->confidence;
  if (out->kept)
    snprintf(out->message, sizeof out->message,
             "with %g %% confidence at most %.3g %% of inputs change class: %lld of %lld verification samples did, the "
             "promise is %g %%",
             percent, 100 * out->reached, (long long)test->flips, (long long)out->verified, 100 * out->target);
  else if (out->flips_allowed < 0)
    snprintf(out->message, sizeof out->message,
             "%lld verification samples are too few for %g %% with %g %% confidence: even without a flip it takes %lld",
             (long long)out->verified, 100 * out->target, percent, (long long)a->verifier.needed);
  else
    snprintf(out->message, sizeof out->message,
             "%lld of %lld verification samples change class, the promise allows %lld: with %g %% confidence at most "
             "%.3g %%, not %g %%; allow wider widths, use another scheme, or promise less",
             (long long)test->flips, (long long)out->verified, (long long)out->flips_allowed, percent,
             100 * out->reached, 100 * out->target);
}

static void say_error(qb_allocation *out) {
  if (out->kept)
    snprintf(out->message, sizeof out->message,
             "no output moved by more than %.4g on %lld verification samples, the promise is %g; with %g %% confidence "
             "at most %.3g %% of inputs move one further",
             out->reached, (long long)out->verified, out->target, 100 * out->confidence, 100 * out->exceed_upper);
  else
    snprintf(out->message, sizeof out->message,
             "an output moved by %.4g on a verification sample, %.3g times the promised %g; allow wider widths, use "
             "another scheme, or promise less",
             out->reached, out->reached / out->target, out->target);
}

static void say(const allocating *a, qb_allocation *out) {
  const qb_allocation_test *test = &out->tests[0];
  for (int i = 0; i < out->test_count && out->tests[i].passed; i++)
    test = &out->tests[i];
  switch (out->promise) {
  case QB_PROMISE_AVERAGE_BITS:
    snprintf(out->message, sizeof out->message, "%.4f bits a weight in the mean, the promise is %g", out->reached,
             out->target);
    break;
  case QB_PROMISE_SIZE:
    snprintf(out->message, sizeof out->message, "the file takes %.0f bytes, %s%.0f", out->reached,
             out->kept ? "the promise is " : "more than the promised ", out->target);
    break;
  case QB_PROMISE_FLIP_RATE: say_flips(a, test, out); break;
  case QB_PROMISE_MAX_ERROR: say_error(out); break;
  case QB_PROMISE_CERTIFIED_ERROR:
    snprintf(out->message, sizeof out->message,
             out->kept
                 ? "proved: no output moves by more than %.9g over the whole domain, the promise is %g"
                 : "with the most bits the proved bound is %.9g, not %g; allow wider widths, a smaller domain, or "
                   "promise less",
             out->reached, out->target);
    break;
  }
}

/* ------------------------------------------------------------------------------------------------------------ call */

static qb_status keep_promise(allocating *a, qb_error *error) {
  int *bits = qb_alloc((size_t)a->planner.layers, sizeof *bits);
  if (bits == NULL)
    return qb_fail_memory(error, "the plan", (size_t)a->planner.layers * sizeof *bits);
  qb_status status = QB_OK;
  switch (a->planner.how->promise) {
  case QB_PROMISE_AVERAGE_BITS: status = promise_average(a, bits, error); break;
  case QB_PROMISE_SIZE: status = promise_size(a, bits, error); break;
  case QB_PROMISE_FLIP_RATE:
  case QB_PROMISE_MAX_ERROR: status = promise_samples(a, bits, error); break;
  case QB_PROMISE_CERTIFIED_ERROR: status = promise_certified(a, bits, error); break;
  }
  qb_free(bits);
  return status;
}

static qb_status run(allocating *a, qb_error *error) {
  qb_allocation *allocation = a->planner.allocation;
  double start = qb_clock_seconds();
  QB_TRY(prepare(a, error));
  allocation->plan_seconds = qb_clock_seconds() - start;
  QB_TRY(keep_promise(a, error));
  QB_TRY(qb_planner_describe(&a->planner, a->bits, error));
  say(a, allocation);
  a->quantized->verification = a->verifier.trace;
  a->verifier.trace = (qb_calibration_trace){0};
  allocation->seconds = qb_clock_seconds() - start;
  return QB_OK;
}

static void start_report(const qb_allocate_settings *how, qb_allocation *allocation) {
  *allocation = (qb_allocation){.promise = how->promise,
                                .target = how->target,
                                .confidence = how->confidence,
                                .reached = NAN,
                                .exceed_upper = NAN,
                                .flips_allowed = -1};
  for (int rule = 0; rule < QB_ALLOCATION_PLANS; rule++)
    allocation->plans[rule] = (qb_allocation_plan){.rule = (qb_allocation_rule)rule, .error = NAN};
}

qb_status qb_quantize_auto(const qb_model *model, const qb_quantize_settings *settings, const qb_allocate_settings *how,
                           const qb_progress *progress, qb_model **quantized, qb_quantize_info *info,
                           qb_allocation *allocation, qb_error *error) {
  qb_quantize_settings open = *settings;
  qb_calibration_source source = {0};
  allocating a = {
      .planner = {.model = model, .settings = &open, .how = how, .progress = progress, .allocation = allocation}};
  *quantized = NULL;
  start_report(how, allocation);
  if (model->source != NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: is quantized already; quantize the original", model->path);
  int threads = qb_threads_begin(settings->threads);
  qb_status status = qb_calibration_open(model, &open, &source, error);
  if (status == QB_OK)
    status = qb_quantize_settings_check(&open, error);
  if (status == QB_OK)
    status = run(&a, error);
  qb_calibration_close(&source);
  qb_threads_end(threads);
  qb_verifier_close(&a.verifier);
  qb_domain_free(&a.domain);
  qb_planner_free(&a.planner);
  qb_free(a.bits);
  if (status == QB_OK)
    *quantized = a.quantized;
  if (status == QB_OK && info != NULL)
    *info = a.info;
  else
    qb_quantize_info_free(&a.info);
  if (status != QB_OK) {
    qb_model_free(a.quantized);
    qb_allocation_free(allocation);
  }
  return status;
}
