/* The key `statistical` of a certificate. */
#include <stdio.h>

#include "report/certificate_claims_json.h"
#include "report/json.h"

static json_t *statement(const qb_statistical_claim *claim) {
  char text[200];
  snprintf(text, sizeof text,
           "with confidence %.15g at most a share of %.9g of inputs like these changes its decision, and every other "
           "limit here holds too",
           claim->confidence, qb_certificate_round_up(claim->flip_rate_upper));
  return json_string(text);
}

static json_t *correction(const qb_statistical_claim *claim) {
  char text[320];
  snprintf(text, sizeof text,
           "Bonferroni: 1 - confidence is shared by %lld candidates and %lld claims (%d error exceedances, the flip "
           "rate, %sthe curve%s); the curve shares its part over its points%s",
           (long long)claim->candidates, (long long)claim->claims, claim->quantile_count,
           claim->labelled > 0 ? "the accuracy loss, " : "", claim->has_classes ? ", the classes" : "",
           claim->has_classes ? ", the classes theirs over all their limits" : "");
  return json_string(text);
}

static json_t *exceedances(const qb_error_exceedance *list, int count) {
  json_t *array = json_array();
  for (int i = 0; i < count; i++) {
    json_t *object = qb_json_put(json_object(), "rank", json_integer(list[i].rank));
    object = qb_json_put(object, "error", qb_json_real(list[i].error));
    array = qb_json_append(array, qb_json_put(object, "exceedance", qb_json_real(list[i].exceedance)));
  }
  return array;
}

static json_t *classes(const qb_statistical_claim *claim) {
  json_t *array = json_array();
  if (!claim->has_classes) {
    json_decref(array);
    return json_null();
  }
  for (int64_t k = 0; k < claim->class_count; k++) {
    const qb_class_claim *one = &claim->classes[k];
    json_t *object = qb_json_put(json_object(), "class", json_integer(one->index));
    object = qb_json_put(object, "n", json_integer(one->inputs));
    object = qb_json_put(object, "flips", json_integer(one->flips));
    object = qb_json_put(object, "flip_rate_upper", qb_json_real(one->flip_rate_upper));
    object = qb_json_put(object, "lost", json_integer(one->lost));
    object = qb_json_put(object, "gained", json_integer(one->gained));
    array = qb_json_append(array, qb_json_put(object, "accuracy_loss_upper", qb_json_real(one->accuracy_loss_upper)));
  }
  return array;
}

static json_t *needs(const qb_statistical_claim *claim) {
  json_t *array = json_array();
  for (int i = 0; i < claim->need_count; i++) {
    const qb_sample_need *need = &claim->needs[i];
    json_t *object = qb_json_put(json_object(), "claim", json_string(need->claim));
    object = qb_json_put(object, "target", qb_json_real(need->target));
    object = qb_json_put(object, "n", json_integer(need->inputs));
    json_t *steady = need->at_this_rate > 0 ? json_integer(need->at_this_rate) : json_null();
    array = qb_json_append(array, qb_json_put(object, "n_at_this_rate", steady));
  }
  return array;
}

json_t *qb_certificate_statistical(const qb_statistical_claim *claim) {
  json_t *object = qb_json_put(json_object(), "confidence", qb_json_real(claim->confidence));
  object = qb_json_put(object, "n", json_integer(claim->n));
  object = qb_json_put(object, "statement", statement(claim));
  object = qb_json_put(object, "candidates", json_integer(claim->candidates));
  object = qb_json_put(object, "claims", json_integer(claim->claims));
  object = qb_json_put(object, "alpha", qb_json_real(claim->alpha));
  object = qb_json_put(object, "correction", correction(claim));
  object = qb_json_put(object, "calibration_samples",
                       claim->calibration_known ? json_integer(claim->calibration_samples) : json_null());
  object = qb_json_put(object, "evaluation", json_string(claim->in_double ? "double" : "float32"));
  object = qb_json_put(object, "error_quantiles", exceedances(claim->quantiles, claim->quantile_count));
  object = qb_json_put(object, "flips", json_integer(claim->flips));
  object = qb_json_put(object, "flip_rate_upper", qb_json_real(claim->flip_rate_upper));
  object = qb_json_put(object, "labelled", json_integer(claim->labelled));
  object = qb_json_put(object, "lost", json_integer(claim->lost));
  object = qb_json_put(object, "gained", json_integer(claim->gained));
  object = qb_json_put(object, "accuracy_loss_upper", qb_json_real(claim->accuracy_loss_upper));
  object = qb_json_put(object, "mcnemar_p", qb_json_real(claim->mcnemar_p));
  object = qb_json_put(object, "curve", exceedances(claim->curve, claim->curve_count));
  object = qb_json_put(object, "class_of",
                       claim->has_classes ? json_string(claim->classes_are_labels ? "label" : "float decision")
                                          : json_null());
  object = qb_json_put(object, "classes", classes(claim));
  return qb_json_put(object, "needs", needs(claim));
}
