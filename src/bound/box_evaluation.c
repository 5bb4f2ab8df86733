/* Intervals: what evaluation in float32 adds to the output of a node, element by element. */
#include "bound/box.h"

#include <string.h>

#include "base/error.h"
#include "bound/affine.h"
#include "bound/evaluation.h"
#include "bound/interval.h"

typedef struct call {
  const qb_pair *pair;
  const qb_box_result *result;
  qb_arena *scratch;
  qb_error *error;
  const qb_graph *graph; /* of network `which` */
  const qb_node *node;   /* of the quantized graph */
  const qb_node *own;    /* of `graph` */
  const qb_shape *shape;
  int which;    /* QB_TRACK_ORIGINAL or QB_TRACK_QUANTIZED */
  double *size; /* (elements of the output) to be filled */
  int64_t count;
} call;

static double magnitude(const qb_box_track *track, int64_t i) { return fmax(fabs(track->lo[i]), fabs(track->hi[i])); }

static const qb_box_track *track_of(const call *c, qb_value_id v) { return &c->result->states[v].track[c->which]; }

/* |W| |x| + |b|. */
static qb_status measure_layer(const call *c) {
  qb_linear l;
  int64_t inputs = c->result->states[c->node->inputs[0]].count;
  double *x = qb_arena_alloc(c->scratch, (size_t)inputs, sizeof *x);
  if (x == NULL || !qb_graph_linear(c->graph, (qb_node_id)(c->own - c->graph->nodes), &l))
    return qb_fail_memory(c->error, c->node->name, (size_t)inputs * sizeof *x);
  for (int64_t i = 0; i < inputs; i++)
    x[i] = magnitude(track_of(c, c->node->inputs[0]), i);
  QB_TRY(qb_affine_apply_absolute(c->graph, &l, qb_graph_constant(c->graph, l.weight), NULL,
                                  qb_graph_constant(c->graph, l.bias), NULL, x, c->size, c->scratch, c->error));
  for (int64_t i = 0; i < c->count; i++) /* also the bias, and products that underflow */
    c->size[i] = c->size[i] * (1 + ((double)l.row_length + 8) * DBL_EPSILON) + 0x1p-1000;
  return QB_OK;
}

static void measure_operands(const call *c) {
  for (int32_t slot = 0; slot < 2; slot++) {
    const qb_value *value = &c->pair->quantized->values[c->node->inputs[slot]], *constant = value;
    for (int32_t k = 0; value->is_constant && c->which == QB_TRACK_ORIGINAL && k < c->own->input_count; k++)
      if (c->graph->values[c->own->inputs[k]].is_constant)
        constant = &c->graph->values[c->own->inputs[k]];
    for (int64_t i = 0; i < c->count; i++) {
      int64_t at = qb_shape_broadcast_index(c->shape, value->is_constant ? &constant->shape : &value->shape, i);
      double size = value->is_constant ? fabs((double)qb_view_f32(&constant->constant)[at])
                                       : magnitude(track_of(c, c->node->inputs[slot]), at);
      c->size[i] = qb_up_sum(c->size[i], size);
    }
  }
}

/* The mean of |x| is at most the largest of the channel. */
static void measure_mean(const call *c) {
  const qb_box_state *x = &c->result->states[c->node->inputs[0]];
  int64_t maps = 1;
  for (int32_t axis = 0; axis < 2 && axis < c->shape->rank; axis++)
    maps *= c->shape->dims[axis];
  for (int64_t i = 0; i < x->count; i++) {
    double *first = c->size + i / (x->count / maps) * (c->count / maps);
    *first = fmax(*first, magnitude(&x->track[c->which], i));
  }
  for (int64_t i = 0; i < c->count; i++)
    c->size[i] = c->size[i / (c->count / maps) * (c->count / maps)];
}

static qb_status measure(const call *c, qb_evaluation_size kind) {
  const qb_box_track *y = track_of(c, c->node->output), *x = track_of(c, c->node->inputs[0]);
  if (kind == QB_SIZE_WEIGHTS)
    return measure_layer(c);
  if (kind == QB_SIZE_OPERANDS)
    measure_operands(c);
  else if (kind == QB_SIZE_MEAN)
    measure_mean(c);
  else
    for (int64_t i = 0; i < c->count; i++)
      c->size[i] = kind == QB_SIZE_OUTPUT
                       ? magnitude(y, i)
                       : qb_evaluation_size_at(c->graph, c->own, qb_shape_channel(c->shape, i), magnitude(x, i));
  return QB_OK;
}

/* Sizes become errors. False where something may overflow. */
static bool widen(const qb_evaluation *evaluation, double *const size[2], qb_box_state *y) {
  for (int64_t i = 0; i < y->count; i++) {
    double error[QB_TRACK_COUNT] = {0};
    for (int t = 0; t < 2; t++)
      if (size[t] != NULL)
        error[t] = size[t][i] = qb_evaluation_error(evaluation, size[t][i]);
    error[QB_TRACK_DIFFERENCE] = qb_up_sum(error[0], error[1]);
    if (isinf(error[QB_TRACK_DIFFERENCE]))
      return false;
    for (int t = 0; t < QB_TRACK_COUNT; t++) {
      y->track[t].lo[i] = qb_down_sum(y->track[t].lo[i], -error[t]);
      y->track[t].hi[i] = qb_up_sum(y->track[t].hi[i], error[t]);
    }
  }
  return true;
}

qb_status qb_box_evaluate(const qb_pair *pair, qb_node_id id, qb_box_result *result, qb_arena *scratch,
                          const char **why, qb_error *error) {
  const qb_node *node = &pair->quantized->nodes[id];
  qb_box_state *y = &result->states[node->output];
  qb_evaluation evaluation;
  double *size[2] = {NULL, NULL};
  *why = qb_evaluation_of(pair, id, &evaluation);
  if (*why != NULL || evaluation.size == QB_SIZE_NONE)
    return QB_OK;
  for (int which = pair->partner[id] == QB_NONE || pair->own ? 1 : 0; which < 2; which++) {
    size[which] = qb_arena_alloc(&result->arena, (size_t)y->count, sizeof *size[which]);
    if (size[which] == NULL)
      return qb_fail_memory(error, node->name, (size_t)y->count * sizeof *size[which]);
    const call c = {.pair = pair,
                    .result = result,
                    .scratch = scratch,
                    .error = error,
                    .graph = which == 0 ? pair->original : pair->quantized,
                    .node = node,
                    .own = which == 0 ? &pair->original->nodes[pair->partner[id]] : node,
                    .shape = &pair->quantized->values[node->output].shape,
                    .which = which,
                    .size = size[which],
                    .count = y->count};
    QB_TRY(measure(&c, evaluation.size));
  }
  if (!widen(&evaluation, size, y))
    *why = qb_evaluation_overflow;
  memcpy(y->evaluation, size, sizeof size);
  return QB_OK;
}
