/* Running the methods one after the other and keeping the best; see certificate.h. */
#include "bound/certificate.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/box.h"
#include "bound/elementwise.h"
#include "bound/evaluation_errors.h"
#include "bound/layerwise.h"
#include "bound/domain_product.h"
#include "bound/two_stage.h"

/* The product is never above interval and spectral; for less than this, a certificate keeps the simpler method. */
#define WORTH_A_WITNESS 0.999

typedef struct task {
  const qb_pair *pair;
  const qb_domain *domain;
  uint32_t methods; /* bit m: qb_bound_method m */
  int64_t output;   /* -1: all */
  qb_worst_case *worst;
  qb_error *error;
} task;

static const qb_value *output_value(const task *t) {
  return &t->pair->quantized->values[t->pair->quantized->outputs[0]];
}

static bool counts(const task *t, int64_t k) { return t->output < 0 || t->output == k; }

/* Whether this method is the best so far; then its number is kept and the outputs of the earlier one are dropped. */
static bool keep_best(task *t, qb_bound_method method, const qb_bound *bound) {
  qb_worst_case *w = t->worst;
  w->outcomes[w->count++] = (qb_method_outcome){method, *bound};
  if (!bound->applies || (w->proved && qb_magnitude_compare(bound->value, w->bound) >= 0))
    return false;
  w->proved = true;
  w->method = method;
  w->bound = bound->value;
  qb_free(w->outputs);
  w->outputs = NULL;
  return true;
}

static qb_status new_outputs(task *t) {
  size_t count = (size_t)t->worst->output_count;
  t->worst->outputs = qb_alloc(count, sizeof *t->worst->outputs);
  return t->worst->outputs == NULL ? qb_fail_memory(t->error, "output ranges", count * sizeof *t->worst->outputs)
                                   : QB_OK;
}

static void see_range(task *t, double widest) {
  if (widest >= 0 && widest < t->worst->range_width)
    t->worst->range_width = widest;
}

/* ---------------------------------------------------------------------------------------------------- the methods */

static bool wanted(const task *t, qb_bound_method method) { return (t->methods & UINT32_C(1) << method) != 0; }

static void refuse(task *t, qb_bound_method method, const char *why) {
  qb_bound none = {0};
  snprintf(none.why, sizeof none.why, "%s", why);
  keep_best(t, method, &none);
}

static void see_layerwise_range(task *t, const qb_layerwise *layerwise) {
  double widest = 0;
  for (int64_t k = 0; k < t->worst->output_count; k++)
    if (counts(t, k))
      widest = fmax(widest, qb_layerwise_range(t->pair, layerwise, t->pair->quantized->outputs[0], k));
  see_range(t, widest);
}

static qb_status use_layerwise(task *t, const qb_layerwise *layerwise) {
  const qb_bound_state *state = &layerwise->states[t->pair->quantized->outputs[0]];
  int64_t inner = qb_state_inner(&output_value(t)->shape);
  double largest = 0;
  for (int64_t k = 0; k < t->worst->output_count; k++)
    largest = counts(t, k) ? fmax(largest, state->e[k / inner % state->channels]) : largest;
  qb_bound bound = {.applies = true, .value = qb_magnitude_scale(qb_magnitude_from_double(largest), state->exponent)};
  if (!keep_best(t, QB_BOUND_LAYERWISE, &bound))
    return QB_OK;
  QB_TRY(new_outputs(t));
  for (int64_t k = 0; k < t->worst->output_count; k++) {
    double e = qb_up_scale(state->e[k / inner % state->channels], state->exponent);
    t->worst->outputs[k] = (qb_output_range){-e, e};
  }
  return QB_OK;
}

static qb_status use_elementwise(task *t, const qb_elementwise *elementwise) {
  const qb_elementwise_state *state = &elementwise->states[t->pair->quantized->outputs[0]];
  const float *e = state->limit[QB_ELEMENT_ERROR];
  double largest = 0;
  for (int64_t k = 0; k < t->worst->output_count; k++)
    largest = counts(t, k) ? fmax(largest, (double)e[k]) : largest;
  qb_bound bound = {.applies = true, .value = qb_magnitude_scale(qb_magnitude_from_double(largest), state->exponent)};
  if (!keep_best(t, QB_BOUND_ELEMENTWISE, &bound))
    return QB_OK;
  QB_TRY(new_outputs(t));
  for (int64_t k = 0; k < t->worst->output_count; k++) {
    double size = qb_up_scale((double)e[k], state->exponent);
    t->worst->outputs[k] = (qb_output_range){-size, size};
  }
  return QB_OK;
}

/* Layerwise gives the range of the outputs whether it is wanted or not, and limits elementwise. */
static qb_status use_ranges(task *t, const qb_layerwise *layerwise, qb_error *error) {
  see_layerwise_range(t, layerwise);
  if (wanted(t, QB_BOUND_LAYERWISE))
    QB_TRY(use_layerwise(t, layerwise));
  if (!wanted(t, QB_BOUND_ELEMENTWISE))
    return QB_OK;
  qb_elementwise elementwise;
  qb_status status = qb_elementwise_bound(t->pair, t->domain, layerwise, &elementwise, error);
  if (status == QB_OK)
    status = use_elementwise(t, &elementwise);
  qb_elementwise_free(&elementwise);
  return status;
}

static qb_status try_ranges(task *t) {
  qb_layerwise layerwise;
  qb_error own;
  qb_status status = qb_layerwise_bound(t->pair, t->domain, &layerwise, &own);
  if (status == QB_OK) {
    status = use_ranges(t, &layerwise, t->error);
  } else if (status == QB_ERROR_UNSUPPORTED) {
    static const qb_bound_method methods[] = {QB_BOUND_LAYERWISE, QB_BOUND_ELEMENTWISE};
    for (int i = 0; i < 2; i++)
      if (wanted(t, methods[i]))
        refuse(t, methods[i], own.message);
    status = QB_OK;
  } else {
    status = qb_fail(t->error, status, "%s", own.message);
  }
  qb_layerwise_free(&layerwise);
  return status;
}

/* Paths have no rule for the rounding of float32 evaluation: it is added to what they say of the exact functions. */
static qb_status add_evaluation(task *t, qb_bound *bound) {
  qb_evaluation_errors errors;
  double most = 0;
  qb_status status = qb_bound_evaluation_errors(t->pair, t->domain, &errors, t->error);
  for (int64_t k = 0; status == QB_OK && errors.applies && k < t->worst->output_count; k++)
    most = counts(t, k) ? fmax(most, qb_evaluation_errors_at(&errors, k)) : most;
  bound->applies = errors.applies;
  bound->value = qb_magnitude_add(bound->value, qb_magnitude_from_double(most));
  snprintf(bound->why, sizeof bound->why, "%s", errors.why);
  qb_evaluation_errors_free(&errors);
  return status;
}

/* One number for all outputs, which holds for each. */
static qb_status try_two_stage(task *t) {
  qb_bound bound;
  qb_pair exact = *t->pair;
  exact.float32 = false;
  QB_TRY(qb_bound_two_stage(&exact, t->domain, &bound, t->error));
  if (bound.applies && t->pair->float32)
    QB_TRY(add_evaluation(t, &bound));
  keep_best(t, QB_BOUND_TWO_STAGE, &bound);
  return QB_OK;
}

static qb_status use_interval(task *t, const qb_box_result *box) {
  const qb_box_state *y = &box->states[t->pair->quantized->outputs[0]];
  const qb_box_track *d = &y->track[QB_TRACK_DIFFERENCE], *x = &y->track[QB_TRACK_ORIGINAL];
  double largest = 0, widest = 0;
  for (int64_t k = 0; k < y->count; k++)
    if (counts(t, k)) {
      largest = fmax(largest, fmax(-d->lo[k], d->hi[k]));
      widest = fmax(widest, qb_up(x->hi[k] - x->lo[k]));
    }
  see_range(t, widest);
  qb_bound bound = {.applies = true, .value = qb_magnitude_from_double(largest)};
  if (!keep_best(t, QB_BOUND_INTERVAL, &bound))
    return QB_OK;
  QB_TRY(new_outputs(t));
  for (int64_t k = 0; k < y->count; k++)
    t->worst->outputs[k] = (qb_output_range){d->lo[k], d->hi[k]};
  return QB_OK;
}

static qb_status try_interval(task *t) {
  qb_box_result box;
  qb_status status = qb_bound_box(t->pair, t->domain, &box, t->error);
  if (status == QB_OK && box.applies) {
    status = use_interval(t, &box);
  } else if (status == QB_OK) {
    refuse(t, QB_BOUND_INTERVAL, box.why);
  }
  qb_box_result_free(&box);
  return status;
}

static qb_status use_product(task *t, const qb_product *product) {
  qb_bound bound = product->bound;
  double largest = 0;
  for (int64_t k = 0; bound.applies && k < product->count; k++)
    largest = counts(t, k) ? fmax(largest, qb_interval_magnitude(product->difference[k])) : largest;
  bound.value = qb_magnitude_from_double(largest);
  double best = t->worst->proved ? qb_magnitude_to_double(t->worst->bound) : INFINITY;
  if (bound.applies && largest > WORTH_A_WITNESS * best) {
    t->worst->outcomes[t->worst->count++] = (qb_method_outcome){QB_BOUND_PRODUCT, bound};
    return QB_OK;
  }
  if (!keep_best(t, QB_BOUND_PRODUCT, &bound))
    return QB_OK;
  t->worst->has_spectral = true;
  QB_TRY(new_outputs(t));
  for (int64_t k = 0; k < product->count; k++)
    t->worst->outputs[k] = (qb_output_range){product->difference[k].lo, product->difference[k].hi};
  return QB_OK;
}

/* The product takes the norms of spectral, which are therefore its witness as well. */
static qb_status try_norms(task *t) {
  qb_spectral_settings settings;
  qb_product product;
  qb_spectral_settings_default(&settings);
  QB_TRY(qb_bound_spectral(t->pair, t->domain, &settings, &t->worst->spectral, t->error));
  if (wanted(t, QB_BOUND_SPECTRAL))
    t->worst->has_spectral = keep_best(t, QB_BOUND_SPECTRAL, &t->worst->spectral.bound);
  if (!wanted(t, QB_BOUND_PRODUCT))
    return QB_OK;
  qb_status status = qb_bound_product(t->pair, t->domain, &t->worst->spectral, &product, t->error);
  if (status == QB_OK)
    status = use_product(t, &product);
  qb_product_free(&product);
  return status;
}

/* -------------------------------------------------------------------------------------------------------- the call */

qb_status qb_worst_case_bound(const qb_pair *pair, const qb_domain *domain, uint32_t methods, int64_t output,
                              qb_worst_case *worst, qb_error *error) {
  task t = {.pair = pair, .domain = domain, .methods = methods, .output = output, .worst = worst, .error = error};
  *worst = (qb_worst_case){.range_width = INFINITY, .graph = pair->quantized};
  QB_TRY(qb_bound_check_environment(error));
  if (pair->quantized->output_count != 1)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: has %d outputs; a certificate speaks of one",
                   pair->quantized->name, pair->quantized->output_count);
  worst->output_count = (int64_t)qb_shape_elements(&output_value(&t)->shape);
  if (output >= worst->output_count)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: there is no output %lld, only 0 to %lld", pair->quantized->name,
                   (long long)output, (long long)worst->output_count - 1);
  QB_TRY(try_ranges(&t));
  if (wanted(&t, QB_BOUND_TWO_STAGE))
    QB_TRY(try_two_stage(&t));
  if (wanted(&t, QB_BOUND_INTERVAL))
    QB_TRY(try_interval(&t));
  if (wanted(&t, QB_BOUND_SPECTRAL) || wanted(&t, QB_BOUND_PRODUCT))
    QB_TRY(try_norms(&t));
  return QB_OK;
}

double qb_worst_case_claimed(const qb_worst_case *worst, double x) {
  double range = isfinite(worst->range_width) ? worst->range_width : 0;
  return x == 0 || isinf(x) ? x : x * (1 + QB_MARGIN_OF_BOUND) + QB_MARGIN_OF_OUTPUT * range;
}

qb_output_range qb_worst_case_claimed_range(const qb_worst_case *worst, int64_t k) {
  double lo = worst->outputs[k].lo, hi = worst->outputs[k].hi, size = fmax(fabs(lo), fabs(hi));
  double margin = qb_worst_case_claimed(worst, size) - size;
  margin = isfinite(margin) ? margin : 0;
  return (qb_output_range){nextafter(lo - margin, -INFINITY), nextafter(hi + margin, INFINITY)};
}

/* 2^-960 pays for what underflows. */
qb_output_range qb_ball_claimed_range(qb_interval difference, double largest) {
  double size = qb_interval_magnitude(difference);
  double margin = QB_MARGIN_OF_BOUND * size + (isfinite(largest) ? QB_MARGIN_OF_OUTPUT * largest : 0) + 0x1p-960;
  if (size == 0)
    return (qb_output_range){difference.lo, difference.hi};
  return (qb_output_range){qb_down(difference.lo - margin), qb_up(difference.hi + margin)};
}

void qb_worst_case_free(qb_worst_case *worst) {
  if (worst == NULL)
    return;
  qb_free(worst->outputs);
  qb_spectral_result_free(&worst->spectral);
  *worst = (qb_worst_case){0};
}
