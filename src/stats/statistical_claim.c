/* The claims of held-out inputs; see statistical_claim.h.
 *
 * The order is what makes the claims valid: first the plan (which claims, which ranks, which error probability), which
 * sees numbers of inputs and their classes only, then the limits at the planned places. */
#include "stats/statistical_claim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "stats/binomial.h"
#include "stats/order_statistics.h"

/* A class is shown when it has so many inputs that none flipping would prove a flip rate of at most CLASS_TARGET. */
enum { INPUTS_PER_CLASS = 40 };
static const double class_target = 0.2;

static const double quantile_levels[] = {0.1, 0.05, 0.01};
static const double flip_targets[] = {0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001};
enum {
  LEVELS = sizeof quantile_levels / sizeof *quantile_levels,
  TARGETS = sizeof flip_targets / sizeof *flip_targets
};

typedef struct claiming {
  const qb_observation *observations;
  int64_t n;
  const qb_statistical_settings *settings;
  qb_arena *arena;
  double *errors; /* (n) sorted */
  double alpha;   /* of all claims about this candidate */
  int64_t level_count;
  bool shown[LEVELS], claimed[LEVELS]; /* (level_count of them) */
  qb_statistical_claim *claim;
  qb_error *error;
} claiming;

/* ------------------------------------------------------------------------------------------------------- counting */

static qb_status check(const claiming *c) {
  const qb_statistical_settings *s = c->settings;
  if (!(s->confidence > 0.0 && s->confidence < 1.0) || s->candidates < 1 || s->outputs < 1 || c->n < 1 ||
      c->n > QB_BINOMIAL_MAX_TRIALS)
    return qb_fail(c->error, QB_ERROR_ARGUMENT,
                   "a statistical claim needs a confidence between 0 and 1, at least one candidate and one input; here "
                   "%g, %lld, %lld",
                   s->confidence, (long long)s->candidates, (long long)c->n);
  for (int64_t i = 0; i < c->n; i++) {
    const qb_observation *o = &c->observations[i];
    if (!isfinite(o->error) || o->error < 0)
      return qb_fail(c->error, QB_ERROR_NUMERIC, "the error of input %lld is %g", (long long)i, o->error);
    if (o->top < 0 || o->top >= s->outputs || o->other_top < 0 || o->other_top >= s->outputs || o->label >= s->outputs)
      return qb_fail(c->error, QB_ERROR_ARGUMENT, "input %lld: a decision or label is not among the %lld classes",
                     (long long)i, (long long)s->outputs);
  }
  return QB_OK;
}

static void count(claiming *c) {
  qb_statistical_claim *claim = c->claim;
  for (int64_t i = 0; i < c->n; i++) {
    const qb_observation *o = &c->observations[i];
    claim->flips += o->top != o->other_top;
    claim->labelled += o->label >= 0;
    claim->lost += o->label >= 0 && o->top == o->label && o->other_top != o->label;
    claim->gained += o->label >= 0 && o->top != o->label && o->other_top == o->label;
  }
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static qb_status sort_errors(claiming *c) {
  c->errors = qb_arena_alloc(c->arena, (size_t)c->n, sizeof *c->errors);
  if (c->errors == NULL)
    return qb_fail_memory(c->error, "sorted errors", (size_t)c->n * sizeof *c->errors);
  for (int64_t i = 0; i < c->n; i++)
    c->errors[i] = c->observations[i].error;
  qsort(c->errors, (size_t)c->n, sizeof *c->errors, compare_doubles);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- the plan */

/* Below 1 - confidence, also where the decimal that the user meant is a little larger than its double. */
static double whole_alpha(double confidence) { return fmax(nextafter(1.0 - confidence - 0x1p-53, 0.0), 0.0); }

/* The number of claims beside the quantiles. */
static int64_t other_claims(const qb_statistical_claim *claim) {
  return 2 + (claim->labelled > 0) + claim->has_classes;
}

/* Which levels n inputs show when all are claimed; fewer claims leave more for each. Where only the largest error shows
 * a level its own claim is enough. */
static qb_status plan_levels(claiming *c) {
  double alpha = qb_bonferroni(c->alpha, 1 + LEVELS + other_claims(c->claim));
  c->level_count = 0;
  for (int i = 0; i < LEVELS; i++) {
    int64_t rank;
    QB_TRY(qb_order_index(c->n, quantile_levels[i], alpha, &rank, c->error));
    c->shown[i] = rank > 0;
    c->claimed[i] = rank > 0 && rank < c->n;
    c->level_count += c->claimed[i];
  }
  return QB_OK;
}

static qb_status plan(claiming *c) {
  qb_statistical_claim *claim = c->claim;
  claim->n = c->n;
  claim->confidence = c->settings->confidence;
  claim->candidates = c->settings->candidates;
  claim->classes_are_labels = claim->labelled == c->n;
  claim->has_classes = c->settings->outputs >= 2 && c->n / INPUTS_PER_CLASS >= c->settings->outputs;
  c->alpha = qb_bonferroni(whole_alpha(claim->confidence), claim->candidates);
  if (!(c->alpha > 0x1p-900))
    return qb_fail(c->error, QB_ERROR_ARGUMENT, "a confidence of %.17g for %lld candidates leaves no error probability",
                   claim->confidence, (long long)claim->candidates);
  QB_TRY(plan_levels(c));
  claim->claims = 1 + c->level_count + other_claims(claim);
  claim->alpha = qb_bonferroni(c->alpha, claim->claims);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- errors */

static qb_status claim_rank(const claiming *c, int64_t rank, double alpha, qb_error_exceedance *result) {
  result->rank = rank;
  result->error = c->errors[rank - 1];
  return qb_order_exceedance(c->n, rank, alpha, &result->exceedance, c->error);
}

static qb_status claim_quantiles(claiming *c) {
  qb_statistical_claim *claim = c->claim;
  QB_TRY(claim_rank(c, c->n, claim->alpha, &claim->quantiles[claim->quantile_count++]));
  for (int i = LEVELS - 1; i >= 0; i--) {
    int64_t rank;
    if (!c->claimed[i])
      continue;
    QB_TRY(qb_order_index(c->n, quantile_levels[i], claim->alpha, &rank, c->error));
    QB_TRY(claim_rank(c, rank, claim->alpha, &claim->quantiles[claim->quantile_count++]));
  }
  return QB_OK;
}

/* The next of 0, 1, 2, 5, 10, 20, 50, .. */
static int64_t next_step(int64_t step) {
  if (step == 0)
    return 1;
  int64_t power = 1;
  while (power <= step / 10)
    power *= 10;
  return step / power == 2 ? 5 * power : 2 * step;
}

/* Ranks n - 0, n - 1, n - 2, n - 5, .. down to the median. */
static qb_status claim_curve(claiming *c) {
  qb_statistical_claim *claim = c->claim;
  int points = 0;
  for (int64_t above = 0; above <= c->n / 2 && above < c->n && points < QB_CURVE_LIMIT; above = next_step(above))
    points++;
  double alpha = qb_bonferroni(claim->alpha, points);
  for (int64_t above = 0; claim->curve_count < points; above = next_step(above))
    QB_TRY(claim_rank(c, c->n - above, alpha, &claim->curve[claim->curve_count++]));
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- rates */

static qb_status claim_rates(const claiming *c) {
  qb_statistical_claim *claim = c->claim;
  claim->accuracy_loss_upper = claim->mcnemar_p = NAN;
  QB_TRY(qb_binomial_upper(c->n, claim->flips, claim->alpha, &claim->flip_rate_upper, c->error));
  if (claim->labelled == 0)
    return QB_OK;
  QB_TRY(qb_mcnemar_p(claim->lost, claim->gained, &claim->mcnemar_p, c->error));
  return qb_accuracy_loss_upper(claim->labelled, claim->lost, claim->gained, claim->alpha, &claim->accuracy_loss_upper,
                                c->error);
}

/* -------------------------------------------------------------------------------------------------------- classes */

static int32_t class_of(const claiming *c, const qb_observation *o) {
  return c->claim->classes_are_labels ? o->label : o->top;
}

static void count_classes(const claiming *c, qb_class_claim *classes) {
  for (int64_t k = 0; k < c->settings->outputs; k++)
    classes[k] = (qb_class_claim){.index = k, .accuracy_loss_upper = NAN};
  for (int64_t i = 0; i < c->n; i++) {
    const qb_observation *o = &c->observations[i];
    qb_class_claim *in = &classes[class_of(c, o)];
    in->inputs++;
    in->flips += o->top != o->other_top;
    in->lost += c->claim->classes_are_labels && o->top == o->label && o->other_top != o->label;
    in->gained += c->claim->classes_are_labels && o->top != o->label && o->other_top == o->label;
  }
}

static int largest_first(const void *a, const void *b) {
  const qb_class_claim *x = a, *y = b;
  if (x->inputs != y->inputs)
    return x->inputs < y->inputs ? 1 : -1;
  return x->index < y->index ? -1 : 1;
}

static int by_index(const void *a, const void *b) {
  const qb_class_claim *x = a, *y = b;
  return x->index < y->index ? -1 : 1;
}

/* Each class has a limit of its flip rate and, with labels, one of its accuracy loss. */
static double class_alpha(const claiming *c, int64_t classes) {
  return qb_bonferroni(c->claim->alpha, classes * (c->claim->classes_are_labels ? 2 : 1));
}

/* The most classes, the largest first, that all have enough inputs for so many limits. */
static qb_status choose_classes(const claiming *c, const qb_class_claim *classes, int64_t *chosen) {
  int64_t needed;
  *chosen = 0;
  for (int64_t k = 1; k <= c->settings->outputs; k++) {
    QB_TRY(qb_order_samples_needed(0, class_target, class_alpha(c, k), &needed, c->error));
    if (classes[k - 1].inputs < needed)
      break;
    *chosen = k;
  }
  return QB_OK;
}

static qb_status claim_classes(const claiming *c) {
  qb_statistical_claim *claim = c->claim;
  size_t outputs = (size_t)c->settings->outputs;
  if (!claim->has_classes)
    return QB_OK;
  claim->classes = qb_arena_alloc(c->arena, outputs, sizeof *claim->classes);
  if (claim->classes == NULL)
    return qb_fail_memory(c->error, "claims by class", outputs * sizeof *claim->classes);
  count_classes(c, claim->classes);
  qsort(claim->classes, outputs, sizeof *claim->classes, largest_first);
  QB_TRY(choose_classes(c, claim->classes, &claim->class_count));
  qsort(claim->classes, (size_t)claim->class_count, sizeof *claim->classes, by_index);
  double alpha = class_alpha(c, claim->class_count);
  for (int64_t k = 0; k < claim->class_count; k++) {
    qb_class_claim *one = &claim->classes[k];
    QB_TRY(qb_binomial_upper(one->inputs, one->flips, alpha, &one->flip_rate_upper, c->error));
    if (claim->classes_are_labels)
      QB_TRY(qb_accuracy_loss_upper(one->inputs, one->lost, one->gained, alpha, &one->accuracy_loss_upper, c->error));
  }
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- needs */

static qb_status shows(const claiming *c, int64_t inputs, double target, bool *shown) {
  double rate = (double)c->claim->flips / (double)c->n, lo, hi;
  double flips = fmin(ceil(rate * (double)inputs), (double)inputs);
  QB_TRY(qb_binomial_at_most(inputs, (int64_t)flips, target, &lo, &hi, c->error));
  *shown = hi <= c->claim->alpha;
  return QB_OK;
}

/* About the least number of inputs that shows the target when as many of them flip as before; 0: none does. */
static qb_status inputs_at_this_rate(const claiming *c, double target, int64_t *inputs) {
  int64_t too_few = c->n, enough = c->n;
  bool shown = false;
  *inputs = 0;
  while (!shown) {
    too_few = enough;
    if (enough > QB_BINOMIAL_MAX_TRIALS / 2)
      return QB_OK;
    enough *= 2;
    QB_TRY(shows(c, enough, target, &shown));
  }
  while (enough - too_few > 1) {
    int64_t middle = too_few + (enough - too_few) / 2;
    QB_TRY(shows(c, middle, target, &shown));
    *(shown ? &enough : &too_few) = middle;
  }
  *inputs = enough;
  return QB_OK;
}

static qb_status need_flips(const claiming *c, double target) {
  qb_statistical_claim *claim = c->claim;
  qb_sample_need *need = &claim->needs[claim->need_count++];
  *need = (qb_sample_need){.claim = "flip_rate", .target = target};
  QB_TRY(qb_order_samples_needed(claim->flips, target, claim->alpha, &need->inputs, c->error));
  if ((double)claim->flips >= target * (double)c->n)
    return QB_OK;
  return inputs_at_this_rate(c, target, &need->at_this_rate);
}

/* The next flip rate below what is shown, and 1 %; the error levels that n is too small for. */
static qb_status claim_needs(const claiming *c) {
  qb_statistical_claim *claim = c->claim;
  bool next = true;
  for (int i = 0; i < TARGETS; i++) {
    bool below = flip_targets[i] < claim->flip_rate_upper;
    if (below && (next || flip_targets[i] == 0.01))
      QB_TRY(need_flips(c, flip_targets[i]));
    next = next && !below;
  }
  for (int i = 0; i < LEVELS; i++) {
    if (c->shown[i])
      continue;
    qb_sample_need *need = &claim->needs[claim->need_count++];
    *need = (qb_sample_need){.claim = "exceedance", .target = quantile_levels[i]};
    double alpha = qb_bonferroni(c->alpha, 1 + LEVELS + other_claims(claim));
    QB_TRY(qb_order_samples_needed(0, need->target, alpha, &need->inputs, c->error));
    need->at_this_rate = need->inputs;
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- the call */

qb_status qb_statistical_claim_make(const qb_observation *observations, int64_t n,
                                    const qb_statistical_settings *settings, qb_arena *arena,
                                    qb_statistical_claim *claim, qb_error *error) {
  claiming c =
      {.observations = observations, .n = n, .settings = settings, .arena = arena, .claim = claim, .error = error};
  *claim = (qb_statistical_claim){0};
  QB_TRY(check(&c));
  count(&c);
  QB_TRY(sort_errors(&c));
  QB_TRY(plan(&c));
  QB_TRY(claim_quantiles(&c));
  QB_TRY(claim_curve(&c));
  QB_TRY(claim_rates(&c));
  QB_TRY(claim_classes(&c));
  return claim_needs(&c);
}
