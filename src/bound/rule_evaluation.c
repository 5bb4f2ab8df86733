/* Layerwise: what evaluation in float32 adds to the output of a node, per channel. */
#include "bound/evaluation.h"

#include "base/error.h"
#include "bound/rule.h"

/* (channels of the output) sizes in the original and in the quantized network. */
typedef struct sizes {
  double *of[2];
} sizes;

static double magnitude(const qb_bound_state *state, int64_t c, int which) {
  return qb_interval_magnitude(which == 0 ? state->x[c] : state->x_q[c]);
}

/* --------------------------------------------------------------------------------------------------------- layers */

/* sum |w| |x| + |b| of output channel o over all its taps, those that fall outside the image included. */
static double size_of_row(const qb_graph *graph, const qb_linear *l, int64_t o, const qb_bound_state *input,
                          int which) {
  int64_t slices = l->in_channels / l->group, per_group = l->out_channels / l->group;
  const float *weight = qb_graph_constant(graph, l->weight), *bias = qb_graph_constant(graph, l->bias);
  double sum = bias == NULL ? 0 : fabs((double)bias[o]);
  for (int64_t s = 0; s < slices; s++) {
    int64_t channel = o / per_group * slices + s;
    const float *w = l->channel_axis == 0 ? weight + (o * slices + s) * l->kernel_area
                                          : weight + (channel * per_group + o % per_group) * l->kernel_area;
    double x = magnitude(input, input->channels == l->in_channels ? channel : 0, which), taps = 0;
    for (int64_t k = 0; k < l->kernel_area; k++)
      taps += fabs((double)w[k]);
    sum += taps == 0 ? 0 : taps * x;
  }
  return qb_sum_upper(sum, l->row_length + 4) + 0x1p-1000;
}

static qb_status measure_layer(const qb_bound_rule_context *context, const qb_bound_state *output, sizes *size) {
  const qb_graph *graphs[2] = {context->pair->original, context->pair->quantized};
  qb_node_id ids[2] = {(qb_node_id)(context->original - graphs[0]->nodes),
                       (qb_node_id)(context->node - graphs[1]->nodes)};
  const qb_bound_state *input;
  qb_bound_state hull;
  QB_TRY(qb_bound_rule_input(context, 0, &input));
  for (int which = 0; which < 2; which++) {
    qb_linear l;
    if (!qb_graph_linear(graphs[which], ids[which], &l))
      return qb_bound_rule_refuse(context, "the weights are no constants in both networks");
    bool is_conv = context->node->op == QB_OP_CONV || context->node->op == QB_OP_CONV_TRANSPOSE;
    bool by_channel = is_conv || qb_bound_rule_output_shape(context)->rank == 2;
    if (!by_channel)
      QB_TRY(qb_state_hull(context->scratch, input, &hull, context->error));
    for (int64_t o = 0; o < l.out_channels; o++) {
      double row = size_of_row(graphs[which], &l, o, by_channel ? input : &hull, which);
      for (int64_t c = by_channel ? o : 0; c < (by_channel ? o + 1 : output->channels); c++)
        size->of[which][c] = fmax(size->of[which][c], row);
    }
  }
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------- other nodes */

static qb_status measure_operands(const qb_bound_rule_context *context, const qb_bound_state *output, sizes *size) {
  qb_bound_state operand;
  for (int32_t slot = 0; slot < 2; slot++) {
    QB_TRY(qb_bound_rule_operand(context, slot, qb_bound_rule_output_shape(context), false, &operand));
    for (int which = 0; which < 2; which++)
      for (int64_t c = 0; c < output->channels; c++)
        size->of[which][c] =
            qb_up_sum(size->of[which][c], qb_up_scale(magnitude(&operand, c, which), operand.exponent));
  }
  return QB_OK;
}

/* From the input, channel by channel. */
static qb_status measure_input(const qb_bound_rule_context *context, const qb_bound_state *output,
                               qb_evaluation_size kind, sizes *size) {
  const qb_graph *graphs[2] = {context->pair->original, context->pair->quantized};
  const qb_node *nodes[2] = {context->original, context->node};
  qb_bound_state input;
  QB_TRY(qb_bound_rule_plain_input(context, 0, &input));
  for (int which = 0; which < 2; which++)
    for (int64_t c = 0; c < output->channels; c++) {
      double x = magnitude(&input, c, which);
      size->of[which][c] = kind == QB_SIZE_MEAN ? x : qb_evaluation_size_at(graphs[which], nodes[which], c, x);
    }
  return QB_OK;
}

static qb_status measure(const qb_bound_rule_context *context, const qb_bound_state *output, qb_evaluation_size kind,
                         sizes *size) {
  switch (kind) {
  case QB_SIZE_WEIGHTS: return measure_layer(context, output, size);
  case QB_SIZE_OPERANDS: return measure_operands(context, output, size);
  case QB_SIZE_MEAN:
  case QB_SIZE_INPUT: return measure_input(context, output, kind, size);
  default:
    for (int which = 0; which < 2; which++)
      for (int64_t c = 0; c < output->channels; c++)
        size->of[which][c] = qb_up_scale(magnitude(output, c, which), output->exponent);
    return QB_OK;
  }
}

static qb_interval widened(qb_interval x, double error) { return qb_interval_add(x, (qb_interval){-error, error}); }

/* Sizes that float32 can hold are far below the numbers that move into an exponent: the state has exponent 0. */
static qb_status widen(const qb_bound_rule_context *context, const qb_evaluation *evaluation, const sizes *size,
                       qb_bound_state *output) {
  for (int64_t c = 0; c < output->channels; c++) {
    double error = context->original == NULL ? 0 : qb_evaluation_error(evaluation, size->of[0][c]);
    double error_q = qb_evaluation_error(evaluation, size->of[1][c]);
    if (output->exponent != 0 || isinf(error) || isinf(error_q))
      return qb_bound_rule_refuse(context, qb_evaluation_overflow);
    output->x[c] = widened(output->x[c], error);
    output->x_q[c] = widened(output->x_q[c], error_q);
    output->e[c] = qb_up_sum(output->e[c], qb_up_sum(error, error_q));
  }
  return QB_OK;
}

qb_status qb_bound_rule_evaluate(const qb_bound_rule_context *context, qb_bound_state *output) {
  qb_evaluation evaluation;
  const char *why =
      qb_evaluation_of(context->pair, (qb_node_id)(context->node - context->pair->quantized->nodes), &evaluation);
  if (why != NULL)
    return qb_bound_rule_refuse(context, why);
  if (evaluation.size == QB_SIZE_NONE)
    return QB_OK;
  size_t channels = (size_t)output->channels;
  sizes size = {{qb_arena_alloc(context->scratch, channels, sizeof(double)),
                 qb_arena_alloc(context->scratch, channels, sizeof(double))}};
  if (size.of[0] == NULL || size.of[1] == NULL)
    return qb_fail_memory(context->error, context->node->name, 2 * channels * sizeof(double));
  QB_TRY(measure(context, output, evaluation.size, &size));
  return widen(context, &evaluation, &size, output);
}
