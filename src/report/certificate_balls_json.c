/* The balls in the certificate file: what they are around, the curve, and each with what was proved. */
#include <math.h>

#include "base/hash.h"
#include "report/certificate_claims_json.h"
#include "report/json.h"

enum { STORED_FLIP = 1 << 14 }; /* numbers of an input */

static json_t *radius_unit(const qb_radius *radius) { return json_string(radius->pixels ? "px" : "input"); }

/* Equal numbers in a row: [[count, a], ..] or [[count, a, b], ..]. */
static json_t *append_run(json_t *runs, int64_t count, double a, const double *b) {
  json_t *run = qb_json_append(json_array(), json_integer(count));
  run = qb_json_append(run, qb_json_real(a));
  if (b != NULL)
    run = qb_json_append(run, qb_json_real(*b));
  return qb_json_append(runs, run);
}

/* ------------------------------------------------------------------------------------------------------- around what
 */

static json_t *limits(const qb_ball_frame *frame) {
  if (frame->lo == NULL)
    return json_null();
  json_t *runs = json_array();
  for (int64_t first = 0, i = 0; i < frame->elements; first = i) {
    while (i < frame->elements && frame->lo[i] == frame->lo[first] && frame->hi[i] == frame->hi[first])
      i++;
    double hi = (double)frame->hi[first];
    runs = append_run(runs, i - first, (double)frame->lo[first], &hi);
  }
  return runs;
}

static json_t *reach_runs(const double *reach, int64_t elements) {
  json_t *runs = json_array();
  for (int64_t first = 0, i = 0; i < elements; first = i) {
    while (i < elements && reach[i] == reach[first])
      i++;
    runs = append_run(runs, i - first, reach[first], NULL);
  }
  return runs;
}

json_t *qb_certificate_floats(const float *values, int64_t count) {
  json_t *array = values == NULL ? json_null() : json_array();
  for (int64_t i = 0; values != NULL && i < count; i++)
    array = qb_json_append(array, qb_json_real((double)values[i]));
  return array;
}

json_t *qb_certificate_input(const float *input, int64_t elements, int64_t inputs) {
  char text[QB_HASH_TEXT];
  qb_hash hash;
  if (input == NULL)
    return json_null();
  if (qb_hash_bytes(input, (size_t)elements * sizeof *input, &hash, NULL) != QB_OK)
    return NULL;
  json_t *object = qb_json_put(json_object(), "sha256", json_string(qb_hash_print(&hash, text)));
  return qb_json_put(object, "values",
                     qb_certificate_floats(inputs * elements <= QB_STORED_INPUTS ? input : NULL, elements));
}

static json_t *point_object(const qb_ball_curve_point *point, const double *reach, int64_t elements) {
  json_t *object = qb_json_put(json_object(), "radius", qb_json_real(point->radius.value));
  object = qb_json_put(object, "unit", radius_unit(&point->radius));
  object = qb_json_put(object, "reach", reach_runs(reach, elements));
  object = qb_json_put(object, "balls", json_integer(point->balls));
  object = qb_json_put(object, "proved", json_integer(point->proved));
  object = qb_json_put(object, "refuted", json_integer(point->refuted));
  object = qb_json_put(object, "unknown", json_integer(point->unknown));
  object = qb_json_put(object, "median_bound", qb_json_real(point->median));
  object = qb_json_put(object, "largest_bound", qb_json_real(point->largest));
  object = qb_json_put(object, "largest_lower", qb_json_real(point->lower));
  json_t *timing = qb_json_put(json_object(), "seconds", qb_json_real(point->seconds));
  return qb_json_put(object, "timing", timing);
}

json_t *qb_certificate_around(const qb_balls_claim *claim, const qb_certificate_parts *parts) {
  const qb_ball_around *around = &parts->around;
  json_t *curve = json_array(), *centres = json_array();
  for (int r = 0; r < claim->point_count; r++)
    curve = qb_json_append(curve, point_object(&claim->curve[r], around->reach[r], around->frame.elements));
  for (int64_t i = 0; i < around->centre_count; i++) {
    const qb_ball_centre *centre = &around->centres[i];
    json_t *object = qb_json_put(json_object(), "index", json_integer(centre->index));
    object = qb_json_put(object, "sha256", json_string(centre->sha256));
    centres = qb_json_append(centres, qb_json_put(object, "values",
                                                  qb_certificate_floats(centre->values, around->frame.elements)));
  }
  json_t *object = qb_json_put(json_object(), "description", qb_json_text(claim->centres));
  object = qb_json_put(object, "preprocess", qb_json_text(around->preprocess));
  object = qb_json_put(object, "output", parts->output < 0 ? json_string("all") : json_integer(parts->output));
  object = qb_json_put(object, "note", qb_json_text(claim->note[0] == '\0' ? NULL : claim->note));
  object = qb_json_put(object, "elements", json_integer(around->frame.elements));
  object = qb_json_put(object, "limits", limits(&around->frame));
  object = qb_json_put(object, "curve", curve);
  return qb_json_put(object, "centres", centres);
}

/* -------------------------------------------------------------------------------------------------------- one ball */

static json_t *outputs(const qb_certified_ball *ball) {
  json_t *array = ball->outputs == NULL ? json_null() : json_array();
  for (int64_t k = 0; ball->outputs != NULL && k < ball->output_count; k++) {
    json_t *range = qb_json_append(json_array(), qb_json_real(ball->outputs[k].lo));
    array = qb_json_append(array, qb_json_append(range, qb_json_real(ball->outputs[k].hi)));
  }
  return array;
}

static json_t *flip(const qb_certified_ball *ball, const qb_ball_details *details, int64_t elements) {
  char text[QB_HASH_TEXT];
  qb_hash hash;
  if (details->flip == NULL)
    return json_null();
  if (qb_hash_bytes(details->flip, (size_t)elements * sizeof(float), &hash, NULL) != QB_OK)
    return NULL;
  json_t *object = qb_json_put(json_object(), "top", json_integer(ball->top));
  object = qb_json_put(object, "other_top", json_integer(ball->other_top));
  object = qb_json_put(object, "input_sha256", json_string(qb_hash_print(&hash, text)));
  return qb_json_put(object, "input",
                     elements <= STORED_FLIP ? qb_certificate_floats(details->flip, elements) : json_null());
}

static json_t *neuron(const qb_ball_neuron *n) {
  json_t *object = qb_json_put(json_object(), "node", json_integer(n->node));
  object = qb_json_put(object, "element", json_integer(n->element));
  object = qb_json_put(object, "network", json_string(n->of_quantized ? "quantized" : "original"));
  return qb_json_put(object, "at", qb_json_real(n->at));
}

json_t *qb_certificate_cuts(const qb_ball_proof *proof) {
  json_t *array = proof->node_count == 0 ? json_null() : json_array();
  for (int64_t i = 0; i < proof->node_count; i++)
    array = qb_json_append(array, proof->axis[i] < -1 ? neuron(&proof->neurons[-2 - proof->axis[i]])
                                                      : json_integer(proof->axis[i]));
  return array;
}

json_t *qb_certificate_relaxed(const qb_ball_proof *proof) {
  json_t *array = json_array();
  for (int64_t i = 0; i < proof->relaxed_count; i++)
    array = qb_json_append(array, json_integer(proof->relaxed[i]));
  return array;
}

/* [node, element, eight slopes] */
static json_t *slopes(const qb_ball_proof *proof) {
  json_t *array = proof->slope_count == 0 ? json_null() : json_array();
  for (int64_t i = 0; i < proof->slope_count; i++) {
    const qb_ball_slopes *s = &proof->slopes[i];
    json_t *entry = qb_json_append(qb_json_append(json_array(), json_integer(s->node)), json_integer(s->element));
    for (int k = 0; k < 8; k++)
      entry = qb_json_append(entry, qb_json_real(s->slope[k]));
    array = qb_json_append(array, entry);
  }
  return array;
}

static json_t *timing(const qb_certified_ball *ball) {
  json_t *object = qb_json_put(json_object(), "seconds", qb_json_real(ball->bound_seconds + ball->search_seconds));
  object = qb_json_put(object, "bound_seconds", qb_json_real(ball->bound_seconds));
  return qb_json_put(object, "search_seconds", qb_json_real(ball->search_seconds));
}

static json_t *ball_object(const qb_certified_ball *ball, const qb_ball_details *details, int64_t elements,
                           int64_t balls) {
  json_t *object = qb_json_put(json_object(), "index", json_integer(ball->index));
  object = qb_json_put(object, "radius", qb_json_real(ball->radius.value));
  object = qb_json_put(object, "unit", radius_unit(&ball->radius));
  object = qb_json_put(object, "centre_sha256", json_string(ball->centre_sha256));
  object = qb_json_put(object, "outputs", outputs(ball));
  object = qb_json_put(object, "bound", qb_json_real(ball->bound));
  object = qb_json_put(object, "lower", qb_json_real(ball->lower));
  object = qb_json_put(object, "lower_input", qb_certificate_input(details->found, elements, balls));
  object = qb_json_put(object, "decision", json_string(qb_decision_name(ball->decision)));
  object = qb_json_put(object, "method", qb_json_text(ball->method));
  object = qb_json_put(object, "why", qb_json_text(ball->why[0] == '\0' ? NULL : ball->why));
  object = qb_json_put(object, "flip", flip(ball, details, elements));
  object = qb_json_put(object, "cuts", qb_certificate_cuts(&details->proof));
  object = qb_json_put(object, "relaxed", qb_certificate_relaxed(&details->proof));
  object = qb_json_put(object, "slopes", slopes(&details->proof));
  object = qb_json_put(object, "turns", json_integer(details->proof.turns));
  return qb_json_put(object, "timing", timing(ball));
}

json_t *qb_certificate_balls(const qb_balls_claim *claim, const qb_certificate_parts *parts) {
  int64_t elements = parts->around.frame.elements, count = claim->ball_count;
  json_t *array = json_array();
  for (int64_t k = 0; k < count; k++)
    array = qb_json_append(array, ball_object(&claim->balls[k], &parts->around.details[k], elements, count));
  return array;
}
