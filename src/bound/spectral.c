/* Propagation of centres, spreads and errors in l2; see spectral.h. */
#include "bound/spectral.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/codes.h"
#include "bound/spectral_internal.h"

const float *spectral_constant(const qb_graph *graph, qb_value_id id) {
  return id == QB_NONE ? NULL : qb_view_f32(&graph->values[id].constant);
}

void spectral_refuse(spectral_call *call, const char *why) {
  qb_bound *bound = &call->s->result->bound;
  snprintf(bound->why, sizeof bound->why, "node '%s' (%s): %s", call->node->name, qb_op_name(call->node->op), why);
  call->refused = true;
}

/* ------------------------------------------------------------------------------------------------------- the walk */

static qb_status start_at_domain(spectral *s) {
  const qb_graph *graph = s->pair->quantized;
  if (graph->input_count != 1)
    return qb_fail(s->error, QB_ERROR_UNSUPPORTED, "%s: a bound needs a network with one input", graph->name);
  qb_value_id input = graph->inputs[0];
  int64_t count = s->domain->count;
  double *c = qb_arena_alloc(&s->arena, (size_t)count, sizeof *c), square = 0;
  if (c == NULL)
    return qb_fail_memory(s->error, "centre of the domain", (size_t)count * sizeof *c);
  for (int64_t i = 0; i < count; i++) {
    double lo = (double)s->domain->lo[i], hi = (double)s->domain->hi[i];
    c[i] = 0.5 * (lo + hi);
    double half = fmax(hi - c[i], c[i] - lo);
    square += half * half;
  }
  s->centre[input] = c;
  s->result->states[input].spread =
      sqrt(square) * (1 + ((double)count + 16) * DBL_EPSILON) + (square > 0 ? DBL_MIN : 0);
  return QB_OK;
}

static qb_status visit(spectral *s, qb_node_id id, bool *refused) {
  const qb_graph *graph = s->pair->quantized;
  const qb_node *node = &graph->nodes[id];
  qb_node_id partner = s->pair->partner[id];
  if (s->pair->value[node->output] == QB_NONE)
    return QB_OK; /* no output depends on it */
  spectral_call call = {.s = s, .id = id, .node = node, .y = &s->result->states[node->output]};
  call.partner = partner == QB_NONE ? NULL : &s->pair->original->nodes[partner];
  qb_value_id first = node->inputs[0];
  call.x = &s->result->states[first];
  call.c = s->centre[first];
  call.inputs = (int64_t)qb_shape_elements(&graph->values[first].shape);
  call.outputs = (int64_t)qb_shape_elements(&graph->values[node->output].shape);
  call.d = qb_arena_alloc(&s->arena, (size_t)call.outputs, sizeof *call.d);
  if (call.d == NULL)
    return qb_fail_memory(s->error, node->name, (size_t)call.outputs * sizeof *call.d);
  s->centre[node->output] = call.d;
  call.y->peak = INFINITY;
  const char *misread = qb_codes_refusal(s->pair, node);
  if (misread != NULL)
    spectral_refuse(&call, misread);
  else if (!qb_pair_same_parameters(s->pair, id))
    spectral_refuse(&call, "slopes or statistics differ between the networks");
  else
    QB_TRY(spectral_rules[node->op](&call));
  if (!call.refused)
    QB_TRY(spectral_gate(s, id));
  bool overflow = isnan(call.y->error) || isnan(call.y->spread) || isnan(call.y->peak);
  if (overflow) /* infinity minus infinity somewhere: nothing is known */
    *call.y = (qb_spectral_state){.error = INFINITY, .spread = INFINITY, .peak = INFINITY};
  call.y->peak = fmin(call.y->peak, multiply_up(spectral_largest_weight(s, node->output), call.y->error));
  qb_arena_rewind(&s->scratch, (qb_arena_mark){0});
  *refused = call.refused;
  return QB_OK;
}

static void finish(spectral *s) {
  const qb_graph *graph = s->pair->quantized;
  double bound = 0;
  for (int32_t i = 0; i < graph->output_count; i++)
    bound = fmax(bound, s->result->states[graph->outputs[i]].peak);
  s->result->bound.applies = !isnan(bound);
  s->result->bound.value = qb_magnitude_from_double(bound);
}

static qb_status allocate(spectral *s) {
  const qb_graph *graph = s->pair->quantized;
  qb_spectral_result *result = s->result;
  result->states = qb_alloc((size_t)graph->value_count, sizeof *result->states);
  result->layers = qb_alloc((size_t)graph->node_count, sizeof *result->layers);
  result->gates = qb_alloc((size_t)graph->node_count, sizeof *result->gates);
  result->weights = qb_arena_alloc(&result->arena, (size_t)graph->value_count, sizeof *result->weights);
  s->centre = qb_arena_alloc(&s->arena, (size_t)graph->value_count, sizeof *s->centre);
  s->between = qb_arena_alloc(&s->arena, (size_t)graph->value_count, sizeof *s->between);
  s->terms = qb_arena_alloc(&s->arena, (size_t)graph->node_count, sizeof *s->terms);
  if (result->weights == NULL || result->states == NULL || result->layers == NULL || result->gates == NULL ||
      s->centre == NULL || s->between == NULL || s->terms == NULL)
    return qb_fail_memory(s->error, "spectral bound", (size_t)graph->value_count * sizeof *result->states);
  return QB_OK;
}

static bool has_weights(const spectral *s) {
  for (qb_value_id v = 0; v < s->pair->quantized->value_count; v++)
    if (s->result->weights[v] != NULL)
      return true;
  return false;
}

static qb_status walk(spectral *s) {
  const qb_graph *graph = s->pair->quantized;
  QB_TRY(allocate(s));
  QB_TRY(start_at_domain(s));
  QB_TRY(spectral_choose_weights(s));
  if (s->settings->weights && s->settings->drawn_weights == 0 && !has_weights(s))
    return QB_OK; /* the plain bound once more */
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    bool refused = false;
    QB_TRY(visit(s, n, &refused));
    if (refused)
      return QB_OK;
  }
  finish(s);
  return QB_OK;
}

void qb_spectral_settings_default(qb_spectral_settings *settings) {
  *settings = (qb_spectral_settings){.windows = true, .weights = true, .exact_channels = 96, .scaling_iterations = 24};
}

static qb_status bound_once(const qb_pair *pair, const qb_domain *domain, const qb_spectral_settings *settings,
                            qb_spectral_result *result, qb_error *error) {
  spectral s = {.pair = pair, .domain = domain, .settings = settings, .result = result, .error = error};
  *result = (qb_spectral_result){0};
  qb_arena_init(&result->arena);
  qb_arena_init(&s.arena);
  qb_arena_init(&s.scratch);
  qb_status status = walk(&s);
  qb_arena_free(&s.scratch);
  qb_arena_free(&s.arena);
  return status;
}

/* The search lowers the product of the norms, not the bound, in which changes of late layers count as well: so the
 * bound with weights does not always win. */
qb_status qb_bound_spectral(const qb_pair *pair, const qb_domain *domain, const qb_spectral_settings *settings,
                            qb_spectral_result *result, qb_error *error) {
  qb_spectral_settings plain = *settings;
  qb_spectral_result weighted;
  plain.weights = false;
  if (!settings->windows || !settings->weights || settings->drawn_weights != 0)
    return bound_once(pair, domain, settings, result, error);
  QB_TRY(bound_once(pair, domain, &plain, result, error));
  if (!result->bound.applies)
    return QB_OK;
  qb_status status = bound_once(pair, domain, settings, &weighted, error);
  if (status == QB_OK && weighted.bound.applies &&
      qb_magnitude_compare(weighted.bound.value, result->bound.value) < 0) {
    qb_spectral_result other = *result;
    *result = weighted;
    weighted = other;
  }
  qb_spectral_result_free(&weighted);
  return status;
}

void qb_spectral_result_free(qb_spectral_result *result) {
  if (result == NULL)
    return;
  qb_free(result->states);
  qb_free(result->layers);
  qb_free(result->gates);
  qb_arena_free(&result->arena);
  *result = (qb_spectral_result){0};
}
