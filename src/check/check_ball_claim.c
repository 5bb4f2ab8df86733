/* Reading balls; nothing is believed but their form. */
#include "check/check_ball_claim.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { MOST_ELEMENTS = 1 << 28, MOST_TURNS = 256 };

typedef struct reader {
  const char *path;
  qb_arena *arena;
  qb_error *error;
} reader;

static qb_status bad(const reader *r, const char *what) {
  return qb_fail(r->error, QB_ERROR_FORMAT, "%s: %s is missing or makes no sense; not a certificate of this version",
                 r->path, what);
}

static void *reserve(const reader *r, size_t count, size_t size, qb_status *status) {
  void *block = qb_arena_alloc(r->arena, count, size);
  *status = block == NULL ? qb_fail_memory(r->error, "a certificate", count * size) : QB_OK;
  return block;
}

static bool number(const json_t *value, double *out) {
  const char *text = json_string_value(value);
  if (text != NULL && (strcmp(text, "inf") == 0 || strcmp(text, "-inf") == 0))
    *out = text[0] == '-' ? -INFINITY : INFINITY;
  else if (json_is_number(value))
    *out = json_number_value(value);
  else
    return false;
  return true;
}

static bool integer(const json_t *value, int64_t least, int64_t most, int64_t *out) {
  *out = (int64_t)json_integer_value(value);
  return json_is_integer(value) && *out >= least && *out <= most;
}

static bool text_of(const json_t *object, const char *key, char *text, size_t size) {
  const char *value = json_string_value(json_object_get(object, key));
  if (value == NULL || strlen(value) >= size)
    return false;
  memcpy(text, value, strlen(value) + 1);
  return true;
}

/* ------------------------------------------------------------------------------------------------------- witnesses */

/* An array of integers, absent or null: none. */
static qb_status read_integers(const reader *r, const json_t *array, int64_t least, const char *what, int64_t *count,
                               int32_t **list) {
  qb_status status;
  *count = 0;
  if (array == NULL || json_is_null(array))
    return QB_OK;
  if (!json_is_array(array))
    return bad(r, what);
  *list = reserve(r, json_array_size(array), sizeof **list, &status);
  QB_TRY(status);
  for (size_t i = 0; i < json_array_size(array); i++) {
    int64_t value;
    if (!integer(json_array_get(array, i), least, INT32_MAX, &value))
      return bad(r, what);
    (*list)[(*count)++] = (int32_t)value;
  }
  return QB_OK;
}

static bool read_neuron(const json_t *cut, neuron_claim *neuron) {
  const char *network = json_string_value(json_object_get(cut, "network"));
  if (!integer(json_object_get(cut, "node"), 0, INT32_MAX, &neuron->node) ||
      !integer(json_object_get(cut, "element"), 0, MOST_ELEMENTS, &neuron->element) || network == NULL ||
      !number(json_object_get(cut, "at"), &neuron->at) || !isfinite(neuron->at))
    return false;
  neuron->kind = strcmp(network, "quantized") == 0 ? 1 : 0; /* FORM_Q, FORM_X */
  return neuron->kind == 1 || strcmp(network, "original") == 0;
}

/* A tree in preorder: an input, a neuron or, for a leaf, -1; absent or null: none. */
static qb_status read_cuts(const reader *r, const json_t *array, box_claim *box) {
  qb_status status;
  if (array == NULL || json_is_null(array))
    return QB_OK;
  if (!json_is_array(array) || json_array_size(array) > INT32_MAX / 2)
    return bad(r, "'cuts'");
  box->cuts = reserve(r, json_array_size(array), sizeof *box->cuts, &status);
  QB_TRY(status);
  box->neurons = reserve(r, json_array_size(array), sizeof *box->neurons, &status);
  QB_TRY(status);
  for (size_t i = 0; i < json_array_size(array); i++) {
    const json_t *cut = json_array_get(array, i);
    int64_t axis = -2 - box->neuron_count;
    if (json_is_object(cut) ? !read_neuron(cut, &box->neurons[box->neuron_count++])
                            : !integer(cut, -1, INT32_MAX, &axis))
      return bad(r, "'cuts'");
    box->cuts[box->cut_count++] = (int32_t)axis;
  }
  return QB_OK;
}

static int in_order(const void *a, const void *b) {
  const slope_claim *one = a, *two = b;
  if (one->node != two->node)
    return one->node < two->node ? -1 : 1;
  return (one->element > two->element) - (one->element < two->element);
}

static qb_status read_slopes(const reader *r, const json_t *array, box_claim *box) {
  qb_status status;
  if (array == NULL || json_is_null(array))
    return QB_OK;
  if (!json_is_array(array))
    return bad(r, "'slopes'");
  box->slopes = reserve(r, json_array_size(array), sizeof *box->slopes, &status);
  QB_TRY(status);
  for (size_t i = 0; i < json_array_size(array); i++) {
    const json_t *entry = json_array_get(array, i);
    slope_claim *s = &box->slopes[box->slope_count++];
    if (json_array_size(entry) != 10 || !integer(json_array_get(entry, 0), 0, INT32_MAX, &s->node) ||
        !integer(json_array_get(entry, 1), 0, MOST_ELEMENTS, &s->element))
      return bad(r, "'slopes'");
    for (size_t k = 0; k < 8; k++)
      if (!number(json_array_get(entry, 2 + k), &s->slope[k]) || !isfinite(s->slope[k]))
        return bad(r, "'slopes'");
  }
  qsort(box->slopes, (size_t)box->slope_count, sizeof *box->slopes, in_order);
  return QB_OK;
}

/* An input, or null: NULL. */
static qb_status read_input(const reader *r, const json_t *values, int64_t elements, const char *what, float **input) {
  qb_status status;
  if (values == NULL || json_is_null(values))
    return QB_OK;
  if ((int64_t)json_array_size(values) != elements)
    return bad(r, what);
  *input = reserve(r, (size_t)elements, sizeof **input, &status);
  QB_TRY(status);
  for (size_t i = 0; i < (size_t)elements; i++) {
    double value;
    if (!number(json_array_get(values, i), &value) || !isfinite(value) || (double)(float)value != value)
      return bad(r, what);
    (*input)[i] = (float)value;
  }
  return QB_OK;
}

static qb_status read_found(const reader *r, const json_t *object, int64_t elements, found_claim *found) {
  const json_t *lower = json_object_get(object, "lower"), *flip = json_object_get(object, "flip");
  const json_t *at = json_object_get(object, "lower_input");
  if (lower != NULL && (!number(lower, &found->lower) || !(found->lower >= 0)))
    return bad(r, "'lower'");
  if (json_is_object(at)) {
    if (!text_of(at, "sha256", found->at_lower.sha256, sizeof found->at_lower.sha256))
      return bad(r, "'lower_input'");
    QB_TRY(read_input(r, json_object_get(at, "values"), elements, "'lower_input'", &found->at_lower.values));
  }
  found->flips = json_is_object(flip);
  if (!found->flips)
    return QB_OK;
  if (!integer(json_object_get(flip, "top"), 0, INT32_MAX, &found->top) ||
      !integer(json_object_get(flip, "other_top"), 0, INT32_MAX, &found->other_top) ||
      !text_of(flip, "input_sha256", found->at_flip.sha256, sizeof found->at_flip.sha256))
    return bad(r, "'flip'");
  return read_input(r, json_object_get(flip, "input"), elements, "'flip'", &found->at_flip.values);
}

qb_status found_read(const char *path, const json_t *object, int64_t elements, found_claim *found, qb_arena *arena,
                     qb_error *error) {
  return read_found(&(reader){path, arena, error}, object, elements, found);
}

/* Without the key: once, where the box was not cut up. */
static qb_status read_turns(const reader *r, const json_t *turns, box_claim *box) {
  int64_t count = box->cut_count > 0 ? 0 : 1;
  if (turns != NULL && !integer(turns, 0, MOST_TURNS, &count))
    return bad(r, "'turns'");
  box->turns = (int32_t)count;
  return QB_OK;
}

static qb_status read_witness(const reader *r, const json_t *object, box_claim *box) {
  QB_TRY(read_cuts(r, json_object_get(object, "cuts"), box));
  QB_TRY(read_turns(r, json_object_get(object, "turns"), box));
  QB_TRY(read_integers(r, json_object_get(object, "relaxed"), 0, "'relaxed'", &box->relaxed_count, &box->relaxed));
  return read_slopes(r, json_object_get(object, "slopes"), box);
}

qb_status box_witness_read(const char *path, const json_t *object, box_claim *box, qb_arena *arena, qb_error *error) {
  return read_witness(&(reader){path, arena, error}, object, box);
}

/* --------------------------------------------------------------------------------------------------------- around */

/* [[count, r], ..] or [[count, lo, hi], ..] into `width` doubles an element. */
static qb_status read_runs(const reader *r, const json_t *runs, int64_t elements, size_t width, double **values) {
  qb_status status;
  int64_t at = 0, count = 0;
  *values = reserve(r, (size_t)elements, width * sizeof **values, &status);
  QB_TRY(status);
  for (size_t i = 0; i < json_array_size(runs); i++) {
    const json_t *run = json_array_get(runs, i);
    double v[2] = {0, 0};
    if (json_array_size(run) != width + 1 || !integer(json_array_get(run, 0), 1, elements - at, &count))
      return bad(r, "'around'");
    for (size_t k = 0; k < width; k++)
      if (!number(json_array_get(run, 1 + k), &v[k]) || !isfinite(v[k]))
        return bad(r, "'around'");
    for (int64_t k = 0; k < count; k++, at++)
      memcpy(*values + (size_t)at * width, v, width * sizeof *v);
  }
  return at == elements ? QB_OK : bad(r, "'around'");
}

static qb_status read_radius(const reader *r, const json_t *point, int64_t elements, radius_claim *radius) {
  char unit[8];
  if (!number(json_object_get(point, "radius"), &radius->radius) || !text_of(point, "unit", unit, sizeof unit) ||
      !integer(json_object_get(point, "balls"), 0, MOST_ELEMENTS, &radius->balls) ||
      !integer(json_object_get(point, "proved"), 0, MOST_ELEMENTS, &radius->proved) ||
      !integer(json_object_get(point, "refuted"), 0, MOST_ELEMENTS, &radius->refuted) ||
      !integer(json_object_get(point, "unknown"), 0, MOST_ELEMENTS, &radius->unknown) ||
      !number(json_object_get(point, "median_bound"), &radius->median) ||
      !number(json_object_get(point, "largest_bound"), &radius->largest) ||
      !number(json_object_get(point, "largest_lower"), &radius->lower))
    return bad(r, "'around.curve'");
  radius->pixels = strcmp(unit, "px") == 0;
  QB_TRY(read_runs(r, json_object_get(point, "reach"), elements, 1, &radius->reach));
  for (int64_t i = 0; i < elements; i++) /* in input units the reach is the radius */
    if (!(radius->reach[i] >= 0) || (!radius->pixels && radius->reach[i] < radius->radius))
      return bad(r, "'around.curve.reach'");
  return QB_OK;
}

static qb_status read_centre(const reader *r, const json_t *object, int64_t elements, centre_claim *centre) {
  if (!integer(json_object_get(object, "index"), 0, INT32_MAX, &centre->index) ||
      !text_of(object, "sha256", centre->sha256, sizeof centre->sha256))
    return bad(r, "'around.centres'");
  return read_input(r, json_object_get(object, "values"), elements, "'around.centres'", &centre->values);
}

static qb_status read_around(const reader *r, const json_t *around, balls_claim *b) {
  const json_t *curve = json_object_get(around, "curve"), *centres = json_object_get(around, "centres");
  const json_t *limits = json_object_get(around, "limits"), *how = json_object_get(around, "preprocess");
  double *ends;
  qb_status status;
  if (!integer(json_object_get(around, "elements"), 1, MOST_ELEMENTS, &b->elements) || !json_is_array(curve) ||
      !json_is_array(centres))
    return bad(r, "'around'");
  if (json_is_string(how) &&
      (b->preprocess = qb_arena_string(r->arena, json_string_value(how), json_string_length(how))) == NULL)
    return qb_fail_memory(r->error, "a certificate", json_string_length(how));
  b->radii = reserve(r, json_array_size(curve), sizeof *b->radii, &status);
  QB_TRY(status);
  b->centres = reserve(r, json_array_size(centres), sizeof *b->centres, &status);
  QB_TRY(status);
  for (size_t i = 0; i < json_array_size(curve); i++, b->radius_count++)
    QB_TRY(read_radius(r, json_array_get(curve, i), b->elements, &b->radii[i]));
  for (size_t i = 0; i < json_array_size(centres); i++, b->centre_count++)
    QB_TRY(read_centre(r, json_array_get(centres, i), b->elements, &b->centres[i]));
  if (limits == NULL || json_is_null(limits))
    return QB_OK;
  QB_TRY(read_runs(r, limits, b->elements, 2, &ends));
  b->limits = reserve(r, (size_t)b->elements, sizeof *b->limits, &status);
  for (int64_t i = 0; status == QB_OK && i < b->elements; i++)
    b->limits[i] = (range){ends[2 * i], ends[2 * i + 1]};
  return status;
}

/* ----------------------------------------------------------------------------------------------------------- balls */

static qb_status read_outputs(const reader *r, const json_t *outputs, box_claim *box) {
  qb_status status;
  if (json_is_null(outputs))
    return QB_OK;
  box->outputs = reserve(r, json_array_size(outputs), sizeof *box->outputs, &status);
  QB_TRY(status);
  for (size_t k = 0; k < json_array_size(outputs); k++) {
    const json_t *pair = json_array_get(outputs, k);
    range *y = &box->outputs[box->output_count++];
    if (json_array_size(pair) != 2 || !number(json_array_get(pair, 0), &y->lo) ||
        !number(json_array_get(pair, 1), &y->hi))
      return bad(r, "'balls.outputs'");
  }
  return box->output_count > 0 ? QB_OK : bad(r, "'balls.outputs'");
}

static qb_status read_ball(const reader *r, const json_t *object, int64_t only, int64_t elements, ball_claim *ball) {
  char unit[8], decision[16];
  const json_t *method = json_object_get(object, "method");
  if (!integer(json_object_get(object, "index"), 0, INT32_MAX, &ball->index) ||
      !number(json_object_get(object, "radius"), &ball->radius) || !text_of(object, "unit", unit, sizeof unit) ||
      !text_of(object, "centre_sha256", ball->centre, sizeof ball->centre) ||
      !number(json_object_get(object, "bound"), &ball->box.bound) || !(ball->box.bound >= 0) ||
      !text_of(object, "decision", decision, sizeof decision) ||
      (!json_is_null(method) && !text_of(object, "method", ball->box.method, sizeof ball->box.method)))
    return bad(r, "a ball");
  ball->pixels = strcmp(unit, "px") == 0;
  ball->refuted = strcmp(decision, "REFUTED") == 0;
  ball->box.keeps = strcmp(decision, "PROVED") == 0;
  ball->box.only = only;
  QB_TRY(read_outputs(r, json_object_get(object, "outputs"), &ball->box));
  QB_TRY(read_found(r, object, elements, &ball->found));
  return read_witness(r, object, &ball->box);
}

qb_status balls_read(const char *path, const json_t *root, balls_claim *b, qb_arena *arena, qb_error *error) {
  reader r = {path, arena, error};
  const json_t *around = json_object_get(root, "around"), *balls = json_object_get(root, "balls");
  const json_t *output = json_object_get(around, "output");
  int64_t only = -1;
  qb_status status;
  if (!json_is_array(balls) || (!json_is_string(output) && !integer(output, 0, INT32_MAX, &only)))
    return bad(&r, "'balls'");
  QB_TRY(read_around(&r, around, b));
  b->balls = reserve(&r, json_array_size(balls), sizeof *b->balls, &status);
  QB_TRY(status);
  for (size_t i = 0; i < json_array_size(balls); i++, b->count++)
    QB_TRY(read_ball(&r, json_array_get(balls, i), only, b->elements, &b->balls[i]));
  return QB_OK;
}
