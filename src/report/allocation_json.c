/* Chosen bits as JSON; the keys are described in docs/json.md. */
#include "report/allocation_json.h"

static json_t *bits_of(const qb_allocated_layer *layer) {
  return layer->bits > 0 ? json_integer(layer->bits) : json_string("float");
}

static json_t *layer_entry(const qb_allocated_layer *layer) {
  json_t *entry = qb_json_put(json_object(), "node", qb_json_text(layer->node));
  entry = qb_json_put(entry, "bits", bits_of(layer));
  entry = qb_json_put(entry, "fixed", json_boolean(layer->fixed));
  entry = qb_json_put(entry, "weights", json_integer(layer->weights));
  return qb_json_put(entry, "share", qb_json_real(layer->share));
}

static json_t *plan_entry(const qb_allocation_plan *plan) {
  json_t *entry = qb_json_put(json_object(), "rule", qb_json_text(qb_allocation_rule_name(plan->rule)));
  entry = qb_json_put(entry, "tried", json_boolean(plan->tried));
  entry = qb_json_put(entry, "average_bits", qb_json_real(plan->average_bits));
  entry = qb_json_put(entry, "error", qb_json_real(plan->error));
  entry = qb_json_put(entry, "complete", json_boolean(plan->complete));
  return qb_json_put(entry, "why", plan->tried ? json_null() : qb_json_text(plan->why));
}

static json_t *test_entry(const qb_allocation_test *test) {
  json_t *entry = qb_json_put(json_object(), "average_bits", qb_json_real(test->average_bits));
  entry = qb_json_put(entry, "flips", test->flips < 0 ? json_null() : json_integer(test->flips));
  entry = qb_json_put(entry, "flip_rate_upper", qb_json_real(test->flip_upper));
  entry = qb_json_put(entry, "error_max", qb_json_real(test->error_max));
  entry = qb_json_put(entry, "certified", qb_json_real(test->certified));
  return qb_json_put(entry, "passed", json_boolean(test->passed));
}

json_t *qb_json_allocation(const qb_allocation *allocation) {
  json_t *object = qb_json_put(json_object(), "promise", qb_json_text(qb_promise_name(allocation->promise)));
  object = qb_json_put(object, "target", qb_json_real(allocation->target));
  object = qb_json_put(object, "confidence", qb_json_real(allocation->confidence));
  object = qb_json_put(object, "kept", json_boolean(allocation->kept));
  object = qb_json_put(object, "reached", qb_json_real(allocation->reached));
  object = qb_json_put(object, "message", qb_json_text(allocation->message));
  object = qb_json_put(object, "rule", qb_json_text(qb_allocation_rule_name(allocation->rule)));
  object = qb_json_put(object, "average_bits", qb_json_real(allocation->average_bits));
  json_t *layers = json_array(), *plans = json_array(), *tests = json_array();
  for (int i = 0; i < allocation->layer_count; i++)
    layers = qb_json_append(layers, layer_entry(&allocation->layers[i]));
  for (int i = 0; i < QB_ALLOCATION_PLANS; i++)
    plans = qb_json_append(plans, plan_entry(&allocation->plans[i]));
  for (int i = 0; i < allocation->test_count; i++)
    tests = qb_json_append(tests, test_entry(&allocation->tests[i]));
  object = qb_json_put(object, "layers", layers);
  object = qb_json_put(object, "plans", plans);
  object = qb_json_put(object, "tests", tests);
  object = qb_json_put(object, "verified", json_integer(allocation->verified));
  object = qb_json_put(object, "flips_allowed", json_integer(allocation->flips_allowed));
  return qb_json_put(object, "exceed_rate_upper", qb_json_real(allocation->exceed_upper));
}

json_t *qb_json_allocation_timing(const qb_allocation *allocation) {
  json_t *object = qb_json_put(json_object(), "plan_seconds", qb_json_real(allocation->plan_seconds));
  return qb_json_put(object, "seconds", qb_json_real(allocation->seconds));
}
