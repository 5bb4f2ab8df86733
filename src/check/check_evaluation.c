/* Errors of float32 operations. With u = 2^-24 and t = 2^-149, |fl(a op b) - (a op b)| <= u |a op b| + t, without t for
 * sums; n such operations one after the other change a term by at most gamma_n = n u / (1 - n u) of it (Higham 2002,
 * 3.1). Channels of the original that were rescaled by 2^k were evaluated without it: t and the largest number move by
 * 2^k. */
#include "check/check_evaluation.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

double evaluation_error(const qb_pair *pair, double n, double size, double lost) {
  double nu = n * 0x1p-24, gamma = nu < 0.25 ? above(nu / (1 - nu)) : INFINITY;
  if (!(size <= ldexp(1, 126 - pair->rescaled_by)) || isinf(gamma))
    return INFINITY;
  return add_up(mul_up(gamma, size), lost * ldexp(1, -149 + pair->rescaled_by));
}

static range widened(range x, double error) { return range_add(x, (range){-error, error}); }

triple evaluated(const walk *w, qb_value_id y, int64_t cell, triple t, const double errors[2]) {
  double error = w->pair->own ? 0 : errors[0]; /* one network beside its own evaluation */
  if (w->values[y].moved != NULL)
    memcpy(w->values[y].moved[cell], (const double[2]){error, errors[1]}, sizeof *w->values[y].moved);
  return (triple){widened(t.x, error), widened(t.q, errors[1]), widened(t.d, add_up(error, errors[1]))};
}

typedef struct call {
  const walk *w;
  const qb_graph *graph;
  const qb_node *node, *partner;
  const qb_shape *shape;
} call;

/* Largest sizes in both networks. */
typedef struct pair_of_sizes {
  double of[2];
} pair_of_sizes;

static pair_of_sizes sizes_of(triple t) { return (pair_of_sizes){{range_size(t.x), range_size(t.q)}}; }

static pair_of_sizes input_sizes(const call *c, int32_t slot, int64_t i) {
  qb_value_id v = c->node->inputs[slot];
  return sizes_of(c->w->values[v].at[cell_of(c->w->grain, &c->graph->values[v].shape, i)]);
}

/* ---------------------------------------------------------------------------------------------------- sizes, by node
 */

static pair_of_sizes operand_sizes(const call *c, int32_t slot, int64_t i) {
  const qb_value *value = &c->graph->values[c->node->inputs[slot]];
  if (!value->is_constant)
    return input_sizes(c, slot, qb_shape_broadcast_index(c->shape, &value->shape, i));
  const qb_value *theirs = constant_of_partner(c->w->pair, c->partner, slot);
  return (pair_of_sizes){
      {fabs((double)qb_view_f32(&theirs->constant)[qb_shape_broadcast_index(c->shape, &theirs->shape, i)]),
       fabs((double)qb_view_f32(&value->constant)[qb_shape_broadcast_index(c->shape, &value->shape, i)])}};
}

/* |scale| (|x| + |mean|) + |beta|; a subnormal scale is off by as much as 2^-120 is counted. */
static double batch_norm_size(const call *c, int64_t i, double x) {
  double p[4];
  for (int32_t k = 0; k < 4; k++)
    p[k] = fabs((double)qb_view_f32(&c->graph->values[c->node->inputs[1 + k]].constant)[qb_shape_channel(c->shape, i)]);
  double variance = p[3] + (double)c->node->attributes.batch_norm.epsilon;
  double scale = above(above(p[0] / -above(-sqrt(variance * (1 - 0x1p-50))))) + 0x1p-120;
  return add_up(mul_up(above(scale), add_up(x, p[2])), p[1]);
}

static double map_size(const call *c, int64_t i, double x) {
  double cut = fmin(x, 4); /* beyond, the factor is 0 or 1 in every evaluation */
  if (c->node->op == QB_OP_BATCH_NORM)
    return batch_norm_size(c, i, x);
  if (c->node->op == QB_OP_HARD_SWISH)
    return mul_up(cut, add_up(above(cut / 6), 0.5));
  return add_up(mul_up(fabs((double)c->node->attributes.linear.alpha), x),
                fabs((double)c->node->attributes.linear.beta));
}

/* Terms of an average, or of the layer whose sum an Add may be a part of: one more rounding than the layer's. */
double evaluation_roundings_of_add(const qb_graph *graph, const qb_node *node) {
  double most = 1;
  for (int32_t slot = 0; slot < 2; slot++) {
    qb_linear linear;
    qb_node_id producer = graph->values[node->inputs[slot]].producer;
    if (producer != QB_NONE && qb_graph_linear(graph, producer, &linear))
      most = fmax(most, (double)linear.row_length + 3);
  }
  return most;
}

double evaluation_window(const qb_graph *graph, const qb_node *node) {
  const qb_shape *x = &graph->values[node->inputs[0]].shape;
  const qb_window *v = &node->attributes.pool.window;
  return node->op == QB_OP_AVERAGE_POOL ? (double)v->kernel[0] * (double)v->kernel[1]
                                        : (double)x->dims[2] * (double)x->dims[3];
}

/* The largest input of the plane that output element i lies in: no mean of sizes is above it. */
static pair_of_sizes plane_sizes(const call *c, int64_t i) {
  const qb_shape *x = &c->graph->values[c->node->inputs[0]].shape;
  int64_t planes = x->dims[0] * x->dims[1], area = x->dims[2] * x->dims[3];
  int64_t plane = i / ((int64_t)qb_shape_elements(c->shape) / planes);
  pair_of_sizes most = {{0, 0}};
  for (int64_t k = plane * area; k < (plane + 1) * area; k++) {
    pair_of_sizes own = input_sizes(c, 0, k);
    most = (pair_of_sizes){{fmax(most.of[0], own.of[0]), fmax(most.of[1], own.of[1])}};
    if (c->w->grain == GRAIN_COARSE)
      return most; /* the same cell for all */
  }
  return most;
}

/* --------------------------------------------------------------------------------------------------------- the rule */

/* Error in network k at element i, whose cell is `y`. */
static double error_at(const call *c, int64_t i, const triple *y, int k) {
  const qb_pair *pair = c->w->pair;
  switch (c->node->op) {
  case QB_OP_ADD:
  case QB_OP_SUB:
    return evaluation_error(pair, evaluation_roundings_of_add(c->graph, c->node),
                            add_up(operand_sizes(c, 0, i).of[k], operand_sizes(c, 1, i).of[k]), 0);
  case QB_OP_MUL:
  case QB_OP_DIV:
  case QB_OP_LEAKY_RELU:
  case QB_OP_PRELU:
  case QB_OP_DEQUANTIZE_LINEAR: return evaluation_error(pair, 1, sizes_of(*y).of[k], 1);
  case QB_OP_AVERAGE_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: { /* n - 1 additions, and 1 / n and a product; the sum itself is n times as large */
    bool sizes = c->w->grain == GRAIN_SIZES; /* whose average is that of the sizes */
    double n = evaluation_window(c->graph, c->node), size = sizes ? sizes_of(*y).of[k] : plane_sizes(c, i).of[k];
    double sum = evaluation_error(pair, 1, n * size, 0);
    return isinf(sum) ? INFINITY : evaluation_error(pair, n + 3, size, n + 1);
  }
  case QB_OP_HARD_SIGMOID: return evaluation_error(pair, 3, map_size(c, i, input_sizes(c, 0, i).of[k]), 2);
  case QB_OP_HARD_SWISH: return evaluation_error(pair, 5, map_size(c, i, input_sizes(c, 0, i).of[k]), 16);
  case QB_OP_BATCH_NORM: return evaluation_error(pair, 8, map_size(c, i, input_sizes(c, 0, i).of[k]), 4);
  default: return 0; /* elements move, win or are limited; codes may be off by a step */
  }
}

bool evaluation_is_exact(qb_op op) {
  switch (op) {
  case QB_OP_RELU:
  case QB_OP_CLIP:
  case QB_OP_MAX_POOL:
  case QB_OP_CONCAT:
  case QB_OP_PAD:
  case QB_OP_TRANSPOSE:
  case QB_OP_QUANTIZE_LINEAR: return true;
  default: return qb_op_is_reshape(op);
  }
}

static bool has_error(const qb_node *node) {
  switch (node->op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
  case QB_OP_GEMM:
  case QB_OP_MATMUL: return false;
  default: return !evaluation_is_exact(node->op);
  }
}

/* Exponentials have no error that every library keeps. */
static bool is_known(const qb_node *node) {
  return node->op != QB_OP_SIGMOID && node->op != QB_OP_TANH && node->op != QB_OP_SOFTMAX;
}

static qb_status widen(walk *w, const call *c, cells *y) {
  pair_of_sizes *errors = qb_arena_alloc(&w->scratch, (size_t)y->count, sizeof *errors);
  if (errors == NULL)
    return qb_fail_memory(w->error, "errors of an evaluation", (size_t)y->count * sizeof *errors);
  for (int64_t i = 0; i < (int64_t)qb_shape_elements(c->shape); i++) {
    int64_t cell = cell_of(w->grain, c->shape, i);
    for (int k = c->partner == NULL ? 1 : 0; k < 2; k++)
      errors[cell].of[k] = fmax(errors[cell].of[k], error_at(c, i, &y->at[cell], k));
  }
  for (int64_t k = 0; k < y->count; k++)
    y->at[k] = evaluated(w, c->node->output, k, y->at[k], errors[k].of);
  return QB_OK;
}

/* Also in a walk of sizes, which knows no more of what overflows than the coarse one ahead of it. */
static bool all_finite(const cells *y) {
  for (int64_t k = 0; k < y->count; k++)
    if (!isfinite(range_size(y->at[k].x)) || !isfinite(range_size(y->at[k].q)))
      return false;
  return true;
}

qb_status cells_evaluate(walk *w, qb_node_id id, bool *known) {
  const qb_pair *pair = w->pair;
  const qb_node *node = &pair->quantized->nodes[id];
  qb_node_id partner = pair->partner[id];
  const call c = {w, pair->quantized, node, partner == QB_NONE ? NULL : &pair->original->nodes[partner],
                  &pair->quantized->values[node->output].shape};
  cells *y = &w->values[node->output];
  *known = is_known(node);
  if (*known && has_error(node))
    QB_TRY(widen(w, &c, y));
  *known = *known && (w->grain == GRAIN_SIZES || all_finite(y));
  return QB_OK;
}

/* ------------------------------------------------------------------------------------- networks beside themselves */

static qb_status walk_own(const qb_graph *graph, const qb_pair *own, const range *domain, double **errors,
                          evaluation_errors *e, qb_error *error) {
  walk w;
  qb_status status = walk_begin(&w, own, GRAIN_FINE, domain, error);
  for (qb_node_id n = 0; status == QB_OK && e->known && n < graph->node_count; n++)
    status = walk_visit(&w, n, &e->known);
  if (status == QB_OK && e->known) {
    const cells *y = &w.values[graph->outputs[0]];
    *errors = qb_alloc((size_t)y->count, sizeof **errors);
    if (*errors == NULL)
      status = qb_fail_memory(error, "errors of an evaluation", (size_t)y->count * sizeof **errors);
    for (int64_t k = 0; *errors != NULL && k < y->count; k++)
      (*errors)[k] = range_size(y->at[k].d);
    e->count = y->count;
  }
  snprintf(e->why, sizeof e->why, "%s", w.why);
  walk_free(&w);
  return status;
}

qb_status evaluation_errors_find(const qb_pair *pair, const range *domain, evaluation_errors *e, qb_error *error) {
  const qb_graph *graphs[2] = {pair->original, pair->quantized};
  *e = (evaluation_errors){.known = true};
  for (int k = 0; k < 2 && e->known; k++) {
    qb_pair own;
    qb_status status = qb_pair_own(graphs[k], &own, error);
    own.rescaled_by = k == 0 ? pair->rescaled_by : 0;
    if (status == QB_OK)
      status = walk_own(graphs[k], &own, domain, &e->of[k], e, error);
    qb_pair_free(&own);
    QB_TRY(status);
  }
  return QB_OK;
}

double evaluation_errors_most(const evaluation_errors *e, int64_t output) {
  double most = 0;
  for (int64_t k = 0; k < e->count; k++)
    most = output < 0 || output == k ? fmax(most, add_up(e->of[0][k], e->of[1][k])) : most;
  return most;
}

void evaluation_errors_free(evaluation_errors *e) {
  qb_free(e->of[0]);
  qb_free(e->of[1]);
  *e = (evaluation_errors){0};
}
