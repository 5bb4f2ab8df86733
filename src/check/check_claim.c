/* Reading a certificate file; nothing in it is believed but its form. */
#include "check/check_claim.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum { MOST_ELEMENTS = 1 << 28 };

typedef struct reader {
  const char *path;
  claim *c;
  qb_error *error;
} reader;

static qb_status bad(const reader *r, const char *what) {
  return qb_fail(r->error, QB_ERROR_FORMAT, "%s: %s is missing or makes no sense; not a certificate of this version",
                 r->path, what);
}

/* A number, or one of the strings that stand for infinite ones. */
static bool read_number(const json_t *value, double *number) {
  const char *text = json_string_value(value);
  if (text != NULL && strcmp(text, "inf") == 0)
    *number = INFINITY;
  else if (text != NULL && strcmp(text, "-inf") == 0)
    *number = -INFINITY;
  else if (json_is_number(value))
    *number = json_number_value(value);
  else
    return false;
  return true;
}

static bool read_integer(const json_t *object, const char *key, int64_t least, int64_t most, int64_t *number) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_integer(value))
    return false;
  *number = (int64_t)json_integer_value(value);
  return *number >= least && *number <= most;
}

static bool read_text(const json_t *object, const char *key, char *text, size_t size) {
  const char *value = json_string_value(json_object_get(object, key));
  if (value == NULL || strlen(value) >= size)
    return false;
  memcpy(text, value, strlen(value) + 1);
  return true;
}

/* ---------------------------------------------------------------------------------------------------------- domain */

/* [[count, lo, hi], ..] */
static qb_status read_domain(const reader *r, const json_t *domain) {
  const json_t *runs = json_object_get(domain, "runs"), *run;
  claim *c = r->c;
  int64_t at = 0;
  size_t i;
  if (!read_integer(domain, "elements", 1, MOST_ELEMENTS, &c->elements) || !json_is_array(runs))
    return bad(r, "'domain'");
  c->domain = qb_arena_alloc(&c->arena, (size_t)c->elements, sizeof *c->domain);
  if (c->domain == NULL)
    return qb_fail_memory(r->error, "the domain", (size_t)c->elements * sizeof *c->domain);
  json_array_foreach(runs, i, run) {
    double lo, hi;
    int64_t count = (int64_t)json_integer_value(json_array_get(run, 0));
    if (json_array_size(run) != 3 || count < 1 || count > c->elements - at ||
        !read_number(json_array_get(run, 1), &lo) || !read_number(json_array_get(run, 2), &hi) || !(lo <= hi) ||
        !isfinite(lo) || !isfinite(hi))
      return bad(r, "'domain.runs'");
    for (int64_t k = 0; k < count; k++)
      c->domain[at++] = (range){lo, hi};
  }
  return at == c->elements ? QB_OK : bad(r, "'domain.runs'");
}

/* ------------------------------------------------------------------------------------------------------- witnesses */

static bool read_norms(const json_t *object, claim_norms *norms) {
  return read_number(json_object_get(object, "joint"), &norms->joint) &&
         read_number(json_object_get(object, "inner"), &norms->inner) &&
         read_number(json_object_get(object, "outer"), &norms->outer);
}

static qb_status read_gate(const reader *r, const json_t *object, claim_gate *gate) {
  const json_t *scaling = json_object_get(object, "scaling"), *quantized = json_object_get(object, "quantized");
  const json_t *side = json_object_get(object, "side");
  if (!read_integer(object, "node", 0, INT32_MAX, &gate->node) || !json_is_array(scaling) ||
      json_array_size(side) != 2 || !read_norms(json_object_get(object, "original"), &gate->norms[0]))
    return bad(r, "a gate");
  for (size_t axis = 0; axis < 2; axis++)
    gate->side[axis] = (int64_t)json_integer_value(json_array_get(side, axis));
  gate->has_quantized = json_is_object(quantized);
  if (gate->has_quantized && !read_norms(quantized, &gate->norms[1]))
    return bad(r, "a gate");
  gate->channels = (int64_t)json_array_size(scaling);
  gate->scaling = qb_arena_alloc(&r->c->arena, (size_t)gate->channels, sizeof *gate->scaling);
  if (gate->scaling == NULL)
    return qb_fail_memory(r->error, "a scaling", (size_t)gate->channels * sizeof *gate->scaling);
  for (size_t k = 0; k < json_array_size(scaling); k++)
    if (!read_number(json_array_get(scaling, k), &gate->scaling[k]))
      return bad(r, "a gate's scaling");
  return QB_OK;
}

static qb_status read_weights(const reader *r, const json_t *object, claim_weights *weights) {
  const json_t *numbers = json_object_get(object, "weights");
  if (!read_integer(object, "node", 0, INT32_MAX, &weights->node) || !json_is_array(numbers))
    return bad(r, "the weights of a tensor");
  weights->channels = (int64_t)json_array_size(numbers);
  weights->weights = qb_arena_alloc(&r->c->arena, (size_t)weights->channels, sizeof *weights->weights);
  if (weights->weights == NULL)
    return qb_fail_memory(r->error, "weights", (size_t)weights->channels * sizeof *weights->weights);
  for (size_t k = 0; k < json_array_size(numbers); k++)
    if (!read_number(json_array_get(numbers, k), &weights->weights[k]))
      return bad(r, "the weights of a tensor");
  return QB_OK;
}

/* Absent in certificates without weights. */
static qb_status read_all_weights(const reader *r, const json_t *array) {
  if (array == NULL)
    return QB_OK;
  if (!json_is_array(array))
    return bad(r, "the witness");
  r->c->weights = qb_arena_alloc(&r->c->arena, json_array_size(array), sizeof *r->c->weights);
  if (r->c->weights == NULL)
    return qb_fail_memory(r->error, "weights", json_array_size(array) * sizeof *r->c->weights);
  for (size_t i = 0; i < json_array_size(array); i++, r->c->weight_count++)
    QB_TRY(read_weights(r, json_array_get(array, i), &r->c->weights[i]));
  return QB_OK;
}

static qb_status read_witness(const reader *r, const json_t *witness) {
  static const char *const names[CLAIM_SIGMAS] = {"sigma", "sigma_quantized", "sigma_difference"};
  const json_t *layers = json_object_get(witness, "layers"), *gates = json_object_get(witness, "gates");
  claim *c = r->c;
  if (witness == NULL || json_is_null(witness))
    return QB_OK;
  if (!json_is_array(layers) || !json_is_array(gates))
    return bad(r, "the witness");
  c->layers = qb_arena_alloc(&c->arena, json_array_size(layers), sizeof *c->layers);
  c->gates = qb_arena_alloc(&c->arena, json_array_size(gates), sizeof *c->gates);
  if (c->layers == NULL || c->gates == NULL)
    return qb_fail_memory(r->error, "the witness", json_array_size(layers) * sizeof *c->layers);
  for (size_t i = 0; i < json_array_size(layers); i++, c->layer_count++) {
    const json_t *layer = json_array_get(layers, i);
    if (!read_integer(layer, "node", 0, INT32_MAX, &c->layers[i].node))
      return bad(r, "a layer of the witness");
    for (int k = 0; k < CLAIM_SIGMAS; k++)
      if (!read_number(json_object_get(layer, names[k]), &c->layers[i].sigma[k]))
        return bad(r, "a layer of the witness");
  }
  for (size_t i = 0; i < json_array_size(gates); i++, c->gate_count++)
    QB_TRY(read_gate(r, json_array_get(gates, i), &c->gates[i]));
  return read_all_weights(r, json_object_get(witness, "weights"));
}

/* ------------------------------------------------------------------------------------------------------ worst case */

static qb_status read_outputs(const reader *r, const json_t *outputs) {
  claim *c = r->c;
  if (json_is_null(outputs))
    return QB_OK;
  c->output_count = (int64_t)json_array_size(outputs);
  c->outputs = qb_arena_alloc(&c->arena, (size_t)c->output_count, sizeof *c->outputs);
  if (c->outputs == NULL)
    return qb_fail_memory(r->error, "output ranges", (size_t)c->output_count * sizeof *c->outputs);
  for (size_t k = 0; k < json_array_size(outputs); k++) {
    const json_t *pair = json_array_get(outputs, k);
    if (json_array_size(pair) != 2 || !read_number(json_array_get(pair, 0), &c->outputs[k].lo) ||
        !read_number(json_array_get(pair, 1), &c->outputs[k].hi))
      return bad(r, "'worst_case.outputs'");
  }
  return c->output_count > 0 ? QB_OK : bad(r, "'worst_case.outputs'");
}

static qb_status read_worst_case(const reader *r, const json_t *worst) {
  const json_t *output = json_object_get(worst, "output");
  claim *c = r->c;
  if (!read_text(worst, "method", c->method, sizeof c->method))
    return bad(r, "'worst_case.method'");
  if (!read_number(json_object_get(worst, "bound"), &c->bound) || !(c->bound >= 0))
    return bad(r, "'worst_case.bound'");
  c->output = json_is_integer(output) ? (int64_t)json_integer_value(output) : -1;
  if (c->output < -1 || (c->output == -1 && !json_is_string(output)))
    return bad(r, "'worst_case.output'");
  QB_TRY(read_outputs(r, json_object_get(worst, "outputs")));
  QB_TRY(box_witness_read(r->path, worst, &c->cut_up, &c->arena, r->error));
  QB_TRY(found_read(r->path, worst, c->elements, &c->found, &c->arena, r->error));
  return read_witness(r, json_object_get(worst, "witness"));
}

/* Certificates from before there was a choice speak of exact arithmetic. */
static qb_status read_evaluation(const reader *r, const json_t *value) {
  const char *text = value == NULL ? "exact" : json_string_value(value);
  r->c->float32 = text != NULL && strcmp(text, "float32") == 0;
  return text != NULL && (r->c->float32 || strcmp(text, "exact") == 0) ? QB_OK : bad(r, "'evaluation'");
}

static qb_status read_root(const reader *r, const json_t *root) {
  static const char *const names[2] = {"float", "quantized"};
  const char *schema = json_string_value(json_object_get(root, "schema"));
  if (schema == NULL || strcmp(schema, "qbound.certificate/1") != 0)
    return bad(r, "the schema qbound.certificate/1");
  for (int i = 0; i < 2; i++)
    if (!read_text(json_object_get(json_object_get(root, "models"), names[i]), "sha256", r->c->sha256[i],
                   sizeof r->c->sha256[i]))
      return bad(r, "'models'");
  if (json_object_get(root, "statistical") != NULL)
    QB_TRY(judge_statistical(r->path, json_object_get(root, "statistical"), &r->c->statistical, r->error));
  r->c->lsb = json_is_true(json_object_get(root, "lsb"));
  QB_TRY(read_evaluation(r, json_object_get(root, "evaluation")));
  r->c->has_balls = json_object_get(root, "balls") != NULL;
  if (r->c->has_balls)
    QB_TRY(balls_read(r->path, root, &r->c->balls, &r->c->arena, r->error));
  if (json_object_get(root, "worst_case") == NULL)
    return QB_OK;
  QB_TRY(read_domain(r, json_object_get(root, "domain")));
  return read_worst_case(r, json_object_get(root, "worst_case"));
}

qb_status claim_read(const char *path, claim *c, qb_error *error) {
  reader r = {path, c, error};
  json_error_t why;
  *c = (claim){.output = -1};
  qb_arena_init(&c->arena);
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return qb_fail(error, QB_ERROR_IO, "%s: cannot be opened", path);
  json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &why);
  fclose(file);
  if (root == NULL)
    return qb_fail(error, QB_ERROR_FORMAT, "%s:%d:%d: %s", path, why.line, why.column, why.text);
  qb_status status = read_root(&r, root);
  json_decref(root);
  return status;
}

void claim_free(claim *c) {
  qb_arena_free(&c->arena);
  *c = (claim){0};
}
