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

/* ------------------------------------------------------------------------------------------------------ layerwise */

static json_t *estimated_layers(const qb_layerwise_statistics *claim) {
  json_t *array = json_array();
  for (int i = 0; i < claim->layer_count; i++) {
    const qb_layer_statistics_claim *layer = &claim->layers[i];
    json_t *object = qb_json_put(json_object(), "node", qb_json_text(layer->node));
    object = qb_json_put(object, "ratio_mean", qb_json_real(layer->ratio_mean));
    object = qb_json_put(object, "ratio_deviation", qb_json_real(layer->ratio_deviation));
    object = qb_json_put(object, "change_mean", qb_json_real(layer->change_mean));
    object = qb_json_put(object, "change_deviation", qb_json_real(layer->change_deviation));
    object = qb_json_put(object, "difference_mean", qb_json_real(layer->difference_mean));
    array = qb_json_append(array, qb_json_put(object, "limit", qb_json_real(layer->limit)));
  }
  return array;
}

static json_t *guarantee_statement(const qb_layerwise_statistics *claim) {
  char text[320];
  snprintf(text, sizeof text,
           "for each of the first %lld inputs alone: before the seed is drawn, the probability over the draw of the "
           "rounding that the l2 norm of the change of the output exceeds that input's bound is at most %.9g",
           (long long)claim->inputs, qb_certificate_round_up(claim->delta));
  return json_string(text);
}

/* What holds for stochastic rounding before the draw; null for other networks, for which `why_not` has the reason. */
static json_t *guarantee(const qb_layerwise_statistics *claim) {
  json_t *array = json_array();
  if (!claim->guaranteed) {
    json_decref(array);
    return json_null();
  }
  for (int i = 0; i < claim->rounded_count; i++) {
    const qb_rounding_claim *layer = &claim->rounded[i];
    json_t *object = qb_json_put(json_object(), "node", qb_json_text(layer->node));
    object = qb_json_put(object, "sigma", qb_json_real(layer->sigma));
    array = qb_json_append(array, qb_json_put(object, "factor", qb_json_real(layer->factor)));
  }
  json_t *object = qb_json_put(json_object(), "kind", json_string("guarantee"));
  object = qb_json_put(object, "statement", guarantee_statement(claim));
  object = qb_json_put(object, "delta", qb_json_real(qb_certificate_round_up(claim->delta)));
  object = qb_json_put(object, "inputs", json_integer(claim->inputs));
  object = qb_json_put(object, "bound_first", qb_json_real(claim->guarantee_first));
  object = qb_json_put(object, "bound", qb_json_real(claim->guarantee_largest));
  object = qb_json_put(object, "measured_first", qb_json_real(claim->first_measured));
  object = qb_json_put(object, "above", json_integer(claim->guarantee_above));
  return qb_json_put(object, "layers", array);
}

static json_t *layerwise(const qb_layerwise_statistics *claim) {
  json_t *object = qb_json_put(json_object(), "kind", json_string("estimate"));
  object = qb_json_put(object, "statement",
                       json_string("with the true moments the l2 norm of the change of the output would exceed `bound` "
                                   "with a probability of at most `delta`; these are moments of a sample: an estimate, "
                                   "not a guarantee"));
  object = qb_json_put(object, "delta", qb_json_real(claim->delta));
  object = qb_json_put(object, "bound", qb_json_real(claim->bound));
  object = qb_json_put(object, "chain_mean", qb_json_real(claim->chain_mean));
  object = qb_json_put(object, "chain_deviation", qb_json_real(claim->chain_deviation));
  object = qb_json_put(object, "recursion", qb_json_real(claim->recursion));
  object = qb_json_put(object, "measured_quantile", qb_json_real(claim->measured_quantile));
  object = qb_json_put(object, "measured_max", qb_json_real(claim->measured_max));
  object = qb_json_put(object, "above", json_integer(claim->above));
  object = qb_json_put(object, "layers", estimated_layers(claim));
  object = qb_json_put(object, "stochastic_rounding", guarantee(claim));
  return qb_json_put(object, "why_not", qb_json_text(claim->guaranteed ? NULL : claim->why_not));
}

/* ------------------------------------------------------------------------------------------------------ the object */

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
  object = qb_json_put(object, "needs", needs(claim));
  return claim->layerwise != NULL ? qb_json_put(object, "layerwise", layerwise(claim->layerwise)) : object;
}
