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

qb_status spectral_visit(spectral *s, qb_node_id id, bool *refused) {
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
  if (s->centre[node->output] == NULL) /* else from the walk before this one */
    s->centre[node->output] = qb_arena_alloc(&s->arena, (size_t)call.outputs, sizeof *call.d);
  call.d = s->centre[node->output];
  if (call.d == NULL)
    return qb_fail_memory(s->error, node->name, (size_t)call.outputs * sizeof *call.d);
  *call.y = (qb_spectral_state){.peak = INFINITY};
  const char *misread = qb_codes_refusal(s->pair, node);
  if (misread != NULL)
    spectral_refuse(&call, misread);
  else if (!qb_pair_same_parameters(s->pair, id))
    spectral_refuse(&call, "slopes or statistics differ between the networks");
  else
    QB_TRY(spectral_rules[node->op](&call));
  if (!call.refused)
    spectral_evaluate(&call);
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

/* Everything that walks share: the centre of the domain and the weights. */
qb_status spectral_begin(spectral *s) {
  QB_TRY(allocate(s));
  QB_TRY(start_at_domain(s));
  if (s->given == NULL)
    return spectral_choose_weights(s);
  for (qb_value_id v = 0; v < s->pair->quantized->value_count; v++)
    s->result->weights[v] = s->given->weights[v];
  return QB_OK;
}

static qb_status walk(spectral *s, bool estimating) {
  const qb_graph *graph = s->pair->quantized;
  s->estimating = estimating;
  s->result->bound = (qb_bound){0};
  s->result->gate_count = 0;
  memset(s->result->layers, 0, (size_t)graph->node_count * sizeof *s->result->layers);
  memset(s->terms, 0, (size_t)graph->node_count * sizeof *s->terms);
  if (s->settings->weights && s->settings->drawn_weights == 0 && !has_weights(s))
    return QB_OK; /* the plain bound once more */
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    bool refused = false;
    QB_TRY(spectral_visit(s, n, &refused));
    if (refused)
      return QB_OK;
  }
  finish(s);
  return QB_OK;
}

qb_status spectral_norm(const spectral *s, qb_sigma_problem *problem, double *sigma) {
  problem->memory = s->memory;
  return s->estimating ? qb_sigma_estimate(problem, sigma, s->error) : qb_sigma_bound(problem, sigma, s->error);
}

void qb_spectral_settings_default(qb_spectral_settings *settings) {
  *settings = (qb_spectral_settings){.windows = true, .weights = true, .exact_channels = 96, .scaling_iterations = 24};
}

/* One of the two bounds that compete: with weights on every tensor, or inside windows alone. */
typedef struct contender {
  spectral s;
  qb_spectral_settings settings;
  qb_spectral_result result;
} contender;

static qb_status begin(contender *c, const qb_pair *pair, const qb_domain *domain, const qb_spectral_settings *settings,
                       bool weights, qb_sigma_memory *memory, qb_error *error) {
  c->settings = *settings;
  c->settings.weights = weights;
  c->s = (spectral){.pair = pair,
                    .domain = domain,
                    .settings = &c->settings,
                    .result = &c->result,
                    .memory = memory,
                    .error = error};
  c->result = (qb_spectral_result){0};
  qb_arena_init(&c->result.arena);
  qb_arena_init(&c->s.arena);
  qb_arena_init(&c->s.scratch);
  return spectral_begin(&c->s);
}

static void end(contender *c) {
  qb_arena_free(&c->s.scratch);
  qb_arena_free(&c->s.arena);
}

/* What a walk on estimated norms promises. */
static qb_status promise(contender *c, double *log10) {
  QB_TRY(walk(&c->s, true));
  *log10 = c->result.bound.applies ? qb_magnitude_log10(c->result.bound.value) : INFINITY;
  return QB_OK;
}

/* The contender that promises less is proved, the other one too if it comes close or the promises say nothing.
 * *winner: the one with the smaller bound. */
static qb_status compete(contender c[2], int *winner) {
  static const double CLOSE = 0.1; /* decades */
  double log10[2];
  QB_TRY(promise(&c[0], &log10[0]));
  if (c[0].result.bound.why[0] != '\0')
    return QB_OK; /* an operator without a rule */
  QB_TRY(promise(&c[1], &log10[1]));
  int first = log10[1] < log10[0], other = 1 - first;
  bool decided = log10[other] > log10[first] + CLOSE;
  *winner = first;
  QB_TRY(walk(&c[first].s, false));
  if (decided)
    return QB_OK;
  QB_TRY(walk(&c[other].s, false));
  if (!c[first].result.bound.applies ||
      (c[other].result.bound.applies &&
       qb_magnitude_compare(c[other].result.bound.value, c[first].result.bound.value) < 0))
    *winner = other;
  return QB_OK;
}

static qb_status bound_both(const qb_pair *pair, const qb_domain *domain, const qb_spectral_settings *settings,
                            qb_spectral_result *result, qb_error *error) {
  contender c[2];
  qb_sigma_memory memory = {{NULL}, {0}};
  int winner = 0;
  qb_status status = begin(&c[0], pair, domain, settings, false, &memory, error);
  qb_status other = begin(&c[1], pair, domain, settings, true, &memory, status == QB_OK ? error : NULL);
  status = status == QB_OK ? other : status;
  if (status == QB_OK)
    status = compete(c, &winner);
  end(&c[0]);
  end(&c[1]);
  qb_sigma_memory_free(&memory);
  *result = c[winner].result;
  qb_spectral_result_free(&c[1 - winner].result);
  return status;
}

/* The search lowers the product of the norms, not the bound, in which changes of late layers count as well: so the
 * bound with weights does not always win. */
qb_status qb_bound_spectral(const qb_pair *pair, const qb_domain *domain, const qb_spectral_settings *settings,
                            qb_spectral_result *result, qb_error *error) {
  contender c;
  qb_sigma_memory memory = {{NULL}, {0}};
  if (settings->windows && settings->weights && settings->drawn_weights == 0)
    return bound_both(pair, domain, settings, result, error);
  qb_status status = begin(&c, pair, domain, settings, settings->weights, &memory, error);
  if (status == QB_OK)
    status = walk(&c.s, false);
  end(&c);
  qb_sigma_memory_free(&memory);
  *result = c.result;
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
