/* Limits of held-out inputs, proved again: P(X <= k) is summed term by term from P(X = 0) = (1 - p)^n, in ball
 * arithmetic, unlike the engine, which goes from the largest term outwards; see check_statistical.h. */
#include "check/check_statistical.h"

#include <arb.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum { PRECISION = 256, MOST_INPUTS = 2000000 };

typedef struct judging {
  const char *path;
  const json_t *claim;
  int64_t n, claims;
  double alpha; /* of one claim */
  statistical_verdict *verdict;
  qb_error *error;
} judging;

static qb_status bad(const judging *j, const char *what) {
  return qb_fail(j->error, QB_ERROR_FORMAT, "%s: 'statistical.%s' is missing or makes no sense", j->path, what);
}

/* The first reason stays. */
static void refute(const judging *j, const char *format, ...) {
  va_list arguments;
  if (j->verdict->refuted)
    return;
  j->verdict->refuted = true;
  va_start(arguments, format);
  vsnprintf(j->verdict->why, sizeof j->verdict->why, format, arguments);
  va_end(arguments);
}

static bool get_count(const json_t *object, const char *key, int64_t least, int64_t most, int64_t *count) {
  const json_t *value = json_object_get(object, key);
  *count = (int64_t)json_integer_value(value);
  return json_is_integer(value) && *count >= least && *count <= most;
}

static bool get_number(const json_t *object, const char *key, double *number) {
  const json_t *value = json_object_get(object, key);
  *number = json_number_value(value);
  return json_is_number(value) && isfinite(*number);
}

/* ---------------------------------------------------------------------------------------------------------- tails */

/* P(X <= k) of n trials, 0 <= k < n, 0 < p < 1. */
static void at_most(arb_t sum, int64_t n, int64_t k, double p) {
  arb_t term, odds, other;
  arb_init(term);
  arb_init(odds);
  arb_init(other);
  arb_set_d(odds, p);
  arb_sub_si(other, odds, 1, PRECISION);
  arb_neg(other, other);
  arb_div(odds, odds, other, PRECISION);
  arb_pow_ui(term, other, (unsigned long)n, PRECISION);
  arb_set(sum, term);
  for (int64_t i = 0; i < k; i++) { /* P(i + 1) = P(i) (n - i) / (i + 1) p / (1 - p) */
    arb_mul_si(term, term, n - i, PRECISION);
    arb_div_si(term, term, i + 1, PRECISION);
    arb_mul(term, term, odds, PRECISION);
    arb_add(sum, sum, term, PRECISION);
  }
  arb_clear(term);
  arb_clear(odds);
  arb_clear(other);
}

/* Proved: with at most (or at least) k of n successes a probability p is excluded at `alpha`. */
static bool excluded(int64_t n, int64_t k, double p, bool upwards, double alpha) {
  arb_t tail, bound;
  bool result;
  if (p <= 0 || p >= 1)
    return upwards ? p <= 0 && k > 0 : p >= 1 && k < n;
  arb_init(tail);
  arb_init(bound);
  if (upwards && k == 0) {
    arb_one(tail);
  } else {
    at_most(tail, n, upwards ? k - 1 : k, p);
    if (upwards) {
      arb_sub_si(tail, tail, 1, PRECISION);
      arb_neg(tail, tail);
    }
  }
  arb_set_d(bound, alpha);
  result = arb_le(tail, bound);
  arb_clear(tail);
  arb_clear(bound);
  return result;
}

/* A rate of which k of n were seen is at most `limit`. */
static bool upper_follows(int64_t n, int64_t k, double alpha, double limit) {
  return limit >= 1 || (k < n && excluded(n, k, limit, false, alpha));
}

/* The double nearest to the rate's limit on the excluded side. */
static double limit_of(int64_t n, int64_t k, bool lower, double alpha) {
  double out = lower ? 0 : 1, in = lower ? 1 : 0;
  if (lower ? k == 0 : k == n)
    return out;
  for (double middle = 0.5; middle != out && middle != in; middle = out + (in - out) / 2) {
    if (excluded(n, k, middle, lower, alpha))
      out = middle;
    else
      in = middle;
  }
  return out;
}

static bool loss_follows(int64_t n, int64_t lost, int64_t gained, double alpha, double loss) {
  double upper = limit_of(n, lost, false, alpha / 2), lower = limit_of(n, gained, true, alpha / 2);
  return nextafter(upper - lower, INFINITY) <= loss;
}

/* --------------------------------------------------------------------------------------------------------- sharing */

/* alpha x claims x candidates <= 1 - confidence, exactly. */
static bool sharing_holds(double alpha, int64_t claims, int64_t candidates, double confidence) {
  arb_t used, whole;
  arb_init(used);
  arb_init(whole);
  arb_set_d(used, alpha);
  arb_mul_si(used, used, claims, PRECISION);
  arb_mul_si(used, used, candidates, PRECISION);
  arb_set_d(whole, confidence);
  arb_sub_si(whole, whole, 1, PRECISION);
  arb_neg(whole, whole);
  bool result = arb_le(used, whole);
  arb_clear(used);
  arb_clear(whole);
  return result;
}

/* alpha / parts, rounded down. */
static double share(double alpha, size_t parts) { return parts <= 1 ? alpha : nextafter(alpha / (double)parts, 0); }

/* How many claims the file makes. */
static int64_t claims_made(const judging *j, int64_t labelled) {
  return (int64_t)json_array_size(json_object_get(j->claim, "error_quantiles")) + 1 + (labelled > 0) +
         (json_array_size(json_object_get(j->claim, "curve")) > 0) +
         json_is_array(json_object_get(j->claim, "classes"));
}

static qb_status judge_sharing(judging *j) {
  int64_t candidates, labelled;
  double confidence;
  if (!get_number(j->claim, "confidence", &confidence) || !(confidence > 0 && confidence < 1))
    return bad(j, "confidence");
  if (!get_count(j->claim, "n", 1, INT64_MAX / 4, &j->n) || !get_count(j->claim, "labelled", 0, j->n, &labelled) ||
      !get_count(j->claim, "candidates", 1, INT64_MAX / 4, &candidates) ||
      !get_count(j->claim, "claims", 1, INT64_MAX / 4, &j->claims))
    return bad(j, "n, labelled, candidates or claims");
  if (!get_number(j->claim, "alpha", &j->alpha) || !(j->alpha > 0 && j->alpha < 1))
    return bad(j, "alpha");
  if (claims_made(j, labelled) > j->claims)
    refute(j, "there are %lld claims, not %lld", (long long)claims_made(j, labelled), (long long)j->claims);
  if (!sharing_holds(j->alpha, j->claims, candidates, confidence))
    refute(j, "%lld claims about %lld candidates at %.9g each are more than a confidence of %.9g leaves",
           (long long)j->claims, (long long)candidates, j->alpha, confidence);
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- errors */

typedef struct exceedance_entry {
  int64_t rank;
  double error, exceedance;
} exceedance_entry;

static bool get_entry(const judging *j, const json_t *list, size_t i, exceedance_entry *entry) {
  const json_t *object = json_array_get(list, i);
  return get_count(object, "rank", 1, j->n, &entry->rank) && get_number(object, "error", &entry->error) &&
         get_number(object, "exceedance", &entry->exceedance) && entry->error >= 0 && entry->exceedance >= 0;
}

/* The smallest rank that shows one of the levels at alpha, or the largest error: no rank was chosen after looking. */
static bool rank_was_planned(const judging *j, size_t index, int64_t rank) {
  static const double levels[] = {0.01, 0.05, 0.1};
  if (index == 0)
    return rank == j->n;
  for (int i = 0; i < 3; i++)
    if (upper_follows(j->n, j->n - rank, j->alpha, levels[i]) &&
        (rank == 1 || !upper_follows(j->n, j->n - rank + 1, j->alpha, levels[i])))
      return true;
  return false;
}

/* n - 0, n - 1, n - 2, n - 5, n - 10, .. */
static int64_t planned_curve_rank(const judging *j, size_t index) {
  static const int64_t steps[] = {1, 2, 5};
  int64_t above = index == 0 ? 0 : steps[(index - 1) % 3];
  for (size_t i = 1; i + 3 <= index && above < j->n; i += 3)
    above *= 10;
  return j->n - above;
}

static qb_status judge_exceedances(const judging *j, const char *key, bool curve) {
  const json_t *list = json_object_get(j->claim, key);
  size_t count = json_array_size(list);
  exceedance_entry before = {0}, entry;
  if (!json_is_array(list) || count == 0 || count > 64)
    return bad(j, key);
  double alpha = curve ? share(j->alpha, count) : j->alpha;
  for (size_t i = 0; i < count; i++, before = entry) {
    if (!get_entry(j, list, i, &entry))
      return bad(j, key);
    if (curve ? entry.rank != planned_curve_rank(j, i) : !rank_was_planned(j, i, entry.rank))
      refute(j, "%s: rank %lld is none that is fixed before looking", key, (long long)entry.rank);
    if (i > 0 && (entry.error > before.error || entry.rank >= before.rank))
      refute(j, "%s: errors and ranks do not fall together", key);
    if (!upper_follows(j->n, j->n - entry.rank, alpha, entry.exceedance))
      refute(j, "%s: rank %lld of %lld does not show an exceedance of %.9g", key, (long long)entry.rank,
             (long long)j->n, entry.exceedance);
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------------- rates */

/* Flip rate and accuracy loss of n inputs of which `labelled` have labels. */
static qb_status judge_rates(const judging *j, const json_t *object, const char *what, int64_t n, int64_t labelled,
                             double alpha) {
  int64_t flips, lost, gained;
  double rate, loss;
  if (!get_count(object, "flips", 0, n, &flips) || !get_number(object, "flip_rate_upper", &rate) ||
      !get_count(object, "lost", 0, labelled, &lost) || !get_count(object, "gained", 0, labelled, &gained))
    return bad(j, what);
  if (lost + gained > flips)
    refute(j, "%s: %lld inputs cannot be lost or gained when %lld flip", what, (long long)(lost + gained),
           (long long)flips);
  if (!upper_follows(n, flips, alpha, rate))
    refute(j, "%s: %lld flips of %lld do not show a rate of %.9g", what, (long long)flips, (long long)n, rate);
  if (labelled == 0)
    return QB_OK;
  if (!get_number(object, "accuracy_loss_upper", &loss))
    return bad(j, what);
  if (!loss_follows(labelled, lost, gained, alpha, loss))
    refute(j, "%s: %lld lost and %lld gained of %lld do not show a loss of %.9g", what, (long long)lost,
           (long long)gained, (long long)labelled, loss);
  return QB_OK;
}

static qb_status judge_classes(const judging *j) {
  const json_t *list = json_object_get(j->claim, "classes");
  const char *class_of = json_string_value(json_object_get(j->claim, "class_of"));
  int64_t total = 0, last = -1, n, index;
  if (json_is_null(list))
    return QB_OK;
  if (!json_is_array(list) || class_of == NULL)
    return bad(j, "classes");
  bool labels = strcmp(class_of, "label") == 0;
  double alpha = share(j->alpha, json_array_size(list) * (labels ? 2 : 1));
  for (size_t i = 0; i < json_array_size(list); i++, last = index, total += n) {
    const json_t *object = json_array_get(list, i);
    if (!get_count(object, "n", 1, j->n - total, &n) || !get_count(object, "class", last + 1, INT64_MAX / 4, &index))
      return bad(j, "classes");
    QB_TRY(judge_rates(j, object, "classes", n, labels ? n : 0, alpha));
  }
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- the call */

qb_status judge_statistical(const char *path, const json_t *claim, statistical_verdict *verdict, qb_error *error) {
  judging j = {path, claim, 0, 0, 0, verdict, error};
  *verdict = (statistical_verdict){.present = true};
  int64_t labelled = (int64_t)json_integer_value(json_object_get(claim, "labelled"));
  QB_TRY(judge_sharing(&j));
  if (j.n > MOST_INPUTS) {
    verdict->unknown = true;
    snprintf(verdict->why, sizeof verdict->why, "more than %d inputs are not summed here", MOST_INPUTS);
    return QB_OK;
  }
  QB_TRY(judge_exceedances(&j, "error_quantiles", false));
  QB_TRY(judge_exceedances(&j, "curve", true));
  QB_TRY(judge_rates(&j, claim, "flip_rate_upper", j.n, labelled, j.alpha));
  return judge_classes(&j);
}
