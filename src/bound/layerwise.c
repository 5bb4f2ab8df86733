/* One pass over the quantized graph with the rule of each node. */
#include "bound/layerwise.h"

#include <math.h>

#include "base/error.h"
#include "bound/rule.h"

static const qb_bound_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = qb_bound_rule_##FAMILY,
#include "graph/op_list.h"
};

/* The input's state: both networks read the same x, so e = 0. */
static qb_status input_state(const qb_pair *pair, const qb_domain *domain, qb_layerwise *layerwise, qb_error *error) {
  const qb_graph *graph = pair->quantized;
  if (graph->input_count != 1 || pair->original->input_count != 1)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: bounds need a network with one input", graph->name);
  const qb_shape *shape = &graph->values[graph->inputs[0]].shape;
  const qb_shape *original = &pair->original->values[pair->original->inputs[0]].shape;
  int64_t channels = qb_state_channels(shape), inner = qb_state_inner(shape);
  if (domain->count != (int64_t)qb_shape_elements(shape) || !qb_shape_equal(shape, original))
    return qb_fail(error, QB_ERROR_SHAPE, "%s: the domain has %lld elements, the network's input %zu", graph->name,
                   (long long)domain->count, qb_shape_elements(shape));
  qb_bound_state *state = &layerwise->states[graph->inputs[0]];
  QB_TRY(qb_state_create(&layerwise->arena, channels, state, error));
  for (int64_t i = 0; i < domain->count; i++) {
    int64_t c = i / inner % channels;
    qb_interval x = {(double)domain->lo[i], (double)domain->hi[i]};
    state->x[c] = i % inner == 0 && i < channels * inner ? x : qb_interval_hull(state->x[c], x);
  }
  for (int64_t c = 0; c < channels; c++)
    state->x_q[c] = state->x[c];
  return QB_OK;
}

/* Families whose members compute different functions. */
static bool same_function(qb_op a, qb_op b) {
  bool by_name = rules[a] == qb_bound_rule_add || rules[a] == qb_bound_rule_mul || a == QB_OP_AVERAGE_POOL ||
                 b == QB_OP_AVERAGE_POOL;
  return rules[a] == rules[b] && (a == b || !by_name);
}

static qb_status check_partner(const qb_bound_rule_context *context) {
  qb_bound_rule rule = rules[context->node->op];
  if (context->original == NULL) {
    if (rule == qb_bound_rule_quantize_linear || rule == qb_bound_rule_dequantize_linear ||
        rule == qb_bound_rule_reshape)
      return QB_OK;
    return qb_bound_rule_refuse(context, "the original network has no such node");
  }
  const qb_shape *other = &context->pair->original->values[context->original->output].shape;
  if (!qb_shape_equal(other, qb_bound_rule_output_shape(context)))
    return qb_bound_rule_refuse(context, "the original network has another shape here");
  bool absorbed = context->node->op == QB_OP_QUANTIZE_LINEAR &&
                  (context->original->op == QB_OP_RELU || context->original->op == QB_OP_CLIP);
  if (!same_function(context->original->op, context->node->op) && !absorbed)
    return qb_bound_rule_refuse(context, "the original network has another operator here");
  return QB_OK;
}

static qb_status bound_node(const qb_pair *pair, qb_node_id id, qb_layerwise *layerwise, qb_arena *scratch,
                            qb_error *error) {
  const qb_node *node = &pair->quantized->nodes[id];
  qb_node_id partner = pair->partner[id];
  if (pair->value[node->output] == QB_NONE)
    return QB_OK; /* no output depends on it */
  qb_bound_rule_context context = {.pair = pair,
                                   .node = node,
                                   .original = partner == QB_NONE ? NULL : &pair->original->nodes[partner],
                                   .states = layerwise->states,
                                   .arena = &layerwise->arena,
                                   .scratch = scratch,
                                   .error = error};
  qb_bound_state *output = &layerwise->states[node->output];
  qb_arena_mark mark = qb_arena_get_mark(scratch);
  QB_TRY(check_partner(&context));
  QB_TRY(rules[node->op](&context, output));
  QB_TRY(qb_bound_rule_evaluate(&context, output));
  qb_state_tighten(output);
  qb_arena_rewind(scratch, mark);
  return QB_OK;
}

static qb_status collect_outputs(const qb_pair *pair, qb_layerwise *layerwise, qb_error *error) {
  const qb_graph *graph = pair->quantized;
  layerwise->bound = qb_magnitude_zero();
  for (int32_t i = 0; i < graph->output_count; i++) {
    const qb_bound_state *state = &layerwise->states[graph->outputs[i]];
    if (state->x == NULL || state->codes != NULL)
      return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: output '%s' is a constant or integer codes", graph->name,
                     graph->values[graph->outputs[i]].name);
    layerwise->bound = qb_magnitude_max(layerwise->bound, qb_state_error(state));
  }
  return QB_OK;
}

qb_status qb_layerwise_bound(const qb_pair *pair, const qb_domain *domain, qb_layerwise *layerwise, qb_error *error) {
  const qb_graph *graph = pair->quantized;
  qb_arena scratch;
  qb_status status = QB_OK;
  *layerwise = (qb_layerwise){0};
  qb_arena_init(&layerwise->arena);
  QB_TRY(qb_bound_check_environment(error));
  layerwise->states = qb_arena_alloc(&layerwise->arena, (size_t)graph->value_count, sizeof *layerwise->states);
  if (layerwise->states == NULL)
    return qb_fail_memory(error, "layerwise bound", (size_t)graph->value_count * sizeof *layerwise->states);
  QB_TRY(input_state(pair, domain, layerwise, error));
  qb_arena_init(&scratch);
  for (qb_node_id n = 0; n < graph->node_count && status == QB_OK; n++)
    status = bound_node(pair, n, layerwise, &scratch, error);
  qb_arena_free(&scratch);
  QB_TRY(status);
  return collect_outputs(pair, layerwise, error);
}

double qb_layerwise_range(const qb_pair *pair, const qb_layerwise *layerwise, qb_value_id value, int64_t k) {
  const qb_bound_state *state = &layerwise->states[value];
  qb_interval x = state->x[k / qb_state_inner(&pair->quantized->values[value].shape) % state->channels];
  double width = ldexp(qb_up_sum(x.hi, -x.lo), state->exponent);
  return isnan(width) ? INFINITY : width;
}

void qb_layerwise_free(qb_layerwise *layerwise) {
  if (layerwise == NULL)
    return;
  qb_arena_free(&layerwise->arena);
  *layerwise = (qb_layerwise){0};
}
