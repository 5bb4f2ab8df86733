/* The method two_stage, for layers, Relu, sums of two tensors and global means when no weight changes its sign. With F
 * the sum over all paths of the sizes of their weights, times the size of what they start from (the input, or 1 for a
 * bias): z is the original network without the weights that are 0 in the other one, G the sum for sqrt(|w_z w'|), and
 *   |R - R'| <= (F(w) - F(w_z)) + sqrt((F(w_z) + F(w'))^2 - 4 G^2)                                (docs/bounds.md, 3b).
 * Four non-negative recurrences; the first three are rounded up and G is rounded down. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "check/check_bound.h"
#include "check/check_passes.h"

#define SMALLEST 0x1p-800 /* no product of larger numbers with weights underflows */

enum { LOST, KEPT, QUANTIZED, MEAN, TRACKS };

typedef struct tracks {
  int64_t count;
  double *at[TRACKS];
} tracks;

typedef struct paths {
  const qb_pair *pair;
  const qb_graph *graph; /* the quantized one */
  tracks *values;        /* by value */
  qb_arena arena;
  recomputed *result;
  qb_error *error;
} paths;

typedef struct step {
  paths *p;
  qb_node_id id;
  const qb_node *node, *partner; /* the latter may be NULL */
  tracks *y;
} step;

static qb_status unknown(const step *s, const char *what) {
  s->p->result->known = false;
  snprintf(s->p->result->why, sizeof s->p->result->why, "node '%s' (%s): %s", s->node->name, qb_op_name(s->node->op),
           what);
  return QB_OK;
}

static const tracks *input(const step *s, int32_t slot) { return &s->p->values[s->node->inputs[slot]]; }

static const qb_shape *shape_of(const step *s, qb_value_id id) { return &s->p->graph->values[id].shape; }

/* A computed sum of n roundings at most, moved to the side of its track. */
static double safe(int track, double sum, double n) {
  double slack = 2 * rounding_of(n), moved = track == MEAN ? mul_down(sum, 1 - slack) : mul_up(sum, 1 + slack);
  if (moved > 0 && moved < SMALLEST)
    return track == MEAN ? 0 : SMALLEST;
  return isnan(moved) ? (track == MEAN ? 0 : INFINITY) : moved;
}

/* ---------------------------------------------------------------------------------------------------------- layers */

/* sqrt(|w_z w'|) rounded down: the product of two floats is exact. */
static double root_of(double kept, double w_q) {
  double root = sqrt(kept * w_q);
  return root == 0 ? 0 : nextafter(root, 0);
}

/* lost <- |w| lost + |w - w_z| kept, kept <- |w_z| kept, quantized <- |w'| quantized, mean <- root mean. */
static void split_paths(double w, double w_q, double c[PASS_TERMS]) {
  double kept = w_q == 0 ? 0 : fabs(w);
  c[0] = fabs(w);
  c[1] = fabs(w) - kept;
  c[2] = kept;
  c[3] = fabs(w_q);
  c[4] = root_of(kept, fabs(w_q));
}

static bool keeps_signs(const float *w, const float *w_q, int64_t count) {
  for (int64_t i = 0; w != NULL && w_q != NULL && i < count; i++)
    if ((w[i] > 0 && w_q[i] < 0) || (w[i] < 0 && w_q[i] > 0))
      return false;
  return true;
}

/* What the edges from the constant 1 add, and the rounding of the sums. */
static void finish_layer(const step *s, const qb_linear *l, const float *bias, const float *bias_q) {
  const qb_shape *shape = shape_of(s, s->node->output);
  bool is_conv = s->node->op == QB_OP_CONV || s->node->op == QB_OP_CONV_TRANSPOSE;
  int64_t area = is_conv ? shape->dims[2] * shape->dims[3] : 1;
  for (int64_t i = 0; i < s->y->count; i++) {
    int64_t o = i / area % l->out_channels;
    double b[PASS_TERMS];
    split_paths(bias == NULL ? 0 : (double)bias[o], bias_q == NULL ? 0 : (double)bias_q[o], b);
    for (int t = 0; t < TRACKS; t++) {
      double terms = (t == LOST ? 2 : 1) * (double)l->row_length + 4, *y = &s->y->at[t][i];
      *y = safe(t, *y, terms);
      *y = t == MEAN ? add_down(*y, b[1 + t]) : add_up(*y, b[1 + t]); /* b[1..4]: |b - b_z|, |b_z|, |b'|, root */
    }
  }
}

static qb_status layer(const step *s) {
  const qb_graph *original = s->p->pair->original;
  qb_linear own, other;
  if (!qb_graph_linear(s->p->graph, s->id, &own) || !qb_graph_linear(original, s->p->pair->partner[s->id], &other) ||
      own.group != other.group || !qb_shape_equal(shape_of(s, own.weight), &original->values[other.weight].shape))
    return unknown(s, "the weights are no constants alike in both networks");
  passes p = {.op = s->node->op,
              .linear = own,
              .window = s->node->attributes.conv.window,
              .in_shape = shape_of(s, s->node->inputs[0]),
              .out_shape = shape_of(s, s->node->output),
              .weight = qb_graph_constant(original, other.weight),
              .weight_q = qb_graph_constant(s->p->graph, own.weight),
              .split = split_paths,
              .terms = {{LOST, LOST}, {LOST, KEPT}, {KEPT, KEPT}, {QUANTIZED, QUANTIZED}, {MEAN, MEAN}},
              .tracks = TRACKS};
  const float *bias = qb_graph_constant(original, other.bias), *bias_q = qb_graph_constant(s->p->graph, own.bias);
  if (!keeps_signs(p.weight, p.weight_q, (int64_t)qb_shape_elements(shape_of(s, own.weight))) ||
      !keeps_signs(bias, bias_q, own.out_channels)) {
    s->p->result->refuted = true;
    snprintf(s->p->result->why, sizeof s->p->result->why,
             "node '%s': a weight changes its sign, so sums over paths prove nothing", s->node->name);
    return QB_OK;
  }
  for (int t = 0; t < TRACKS; t++) {
    p.in[t] = input(s, 0)->at[t];
    p.out[t] = s->y->at[t];
  }
  passes_apply(&p);
  finish_layer(s, &own, bias, bias_q);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------- edges of the same weight */

static qb_status copy(const step *s) {
  for (int t = 0; t < TRACKS; t++)
    memcpy(s->y->at[t], input(s, 0)->at[t], (size_t)s->y->count * sizeof(double));
  return QB_OK;
}

static qb_status sum(const step *s) {
  for (int32_t slot = 0; slot < 2; slot++)
    if (s->p->graph->values[s->node->inputs[slot]].is_constant || input(s, slot)->count != s->y->count)
      return unknown(s, "paths lead through sums of two tensors of one shape only");
  for (int t = 0; t < TRACKS; t++)
    for (int64_t i = 0; i < s->y->count; i++)
      s->y->at[t][i] = safe(t, input(s, 0)->at[t][i] + input(s, 1)->at[t][i], 2);
  return QB_OK;
}

/* Each path gets the weight 1 / area. */
static qb_status mean(const step *s) {
  const qb_shape *x = shape_of(s, s->node->inputs[0]);
  int64_t area = x->rank == 4 ? x->dims[2] * x->dims[3] : 0;
  if (area == 0 || input(s, 0)->count != s->y->count * area)
    return unknown(s, "paths lead through means of whole planes only");
  for (int t = 0; t < TRACKS; t++)
    for (int64_t i = 0; i < s->y->count; i++) {
      double total = 0;
      for (int64_t k = 0; k < area; k++)
        total += input(s, 0)->at[t][i * area + k];
      s->y->at[t][i] = safe(t, total / (double)area, (double)area + 2);
    }
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------------- the walk
 */

typedef enum edge_kind { EDGE_OTHER, EDGE_LAYER, EDGE_RELU, EDGE_COPY, EDGE_SUM, EDGE_DIFFERENCE, EDGE_MEAN } edge_kind;

static edge_kind kind_of(const qb_node *node) {
  switch (node->op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
  case QB_OP_GEMM:
  case QB_OP_MATMUL: return EDGE_LAYER;
  case QB_OP_RELU: return EDGE_RELU;
  case QB_OP_FLATTEN:
  case QB_OP_RESHAPE:
  case QB_OP_SQUEEZE:
  case QB_OP_UNSQUEEZE:
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT: return EDGE_COPY;
  case QB_OP_ADD: return EDGE_SUM;
  case QB_OP_SUB: return EDGE_DIFFERENCE;
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: return EDGE_MEAN;
  default: return EDGE_OTHER;
  }
}

static qb_status new_tracks(paths *p, int64_t count, tracks *y) {
  y->count = count;
  for (int t = 0; t < TRACKS; t++) {
    y->at[t] = qb_arena_alloc(&p->arena, (size_t)count, sizeof *y->at[t]);
    if (y->at[t] == NULL)
      return qb_fail_memory(p->error, "sums over paths", (size_t)count * sizeof *y->at[t]);
  }
  return QB_OK;
}

static qb_status visit(paths *p, qb_node_id id) {
  const qb_node *node = &p->graph->nodes[id];
  qb_node_id partner = p->pair->partner[id];
  step s = {p, id, node, partner == QB_NONE ? NULL : &p->pair->original->nodes[partner], &p->values[node->output]};
  edge_kind kind = kind_of(node);
  if (p->pair->value[node->output] == QB_NONE)
    return QB_OK; /* no output depends on it */
  if (kind == EDGE_OTHER || (s.partner == NULL ? kind != EDGE_COPY : kind_of(s.partner) != kind))
    return unknown(&s, "paths do not lead through it");
  QB_TRY(new_tracks(p, (int64_t)qb_shape_elements(shape_of(&s, node->output)), s.y));
  switch (kind) {
  case EDGE_LAYER: return layer(&s);
  case EDGE_SUM:
  case EDGE_DIFFERENCE: return sum(&s);
  case EDGE_MEAN: return mean(&s);
  default: return copy(&s);
  }
}

/* lost + sqrt((kept + quantized - 2 mean) (kept + quantized + 2 mean)), which falls with mean. */
static double bound_of(const tracks *y, int64_t i) {
  double sum = add_up(y->at[KEPT][i], y->at[QUANTIZED][i]), twice = 2 * y->at[MEAN][i];
  double less = fmax(0, add_up(sum, -twice)), square = mul_up(less, add_up(sum, twice));
  return add_up(y->at[LOST][i], square == 0 ? 0 : above(sqrt(square)));
}

static void judge(const claim *c, const paths *p) {
  const tracks *y = &p->values[p->graph->outputs[0]];
  recomputed *result = p->result;
  if (c->output >= y->count) {
    result->refuted = true;
    snprintf(result->why, sizeof result->why, "the network has %lld outputs, not those of the certificate",
             (long long)y->count);
  }
  for (int64_t i = 0; i < y->count; i++) {
    double bound = bound_of(y, i);
    if (c->output < 0 || c->output == i)
      result->bound = isnan(bound) ? INFINITY : fmax(result->bound, bound);
  }
}

static qb_status run(const claim *c, paths *p) {
  p->values = qb_arena_alloc(&p->arena, (size_t)p->graph->value_count, sizeof *p->values);
  if (p->values == NULL)
    return qb_fail_memory(p->error, "sums over paths", (size_t)p->graph->value_count * sizeof *p->values);
  tracks *x = &p->values[p->graph->inputs[0]];
  QB_TRY(new_tracks(p, c->elements, x));
  for (int64_t i = 0; i < c->elements; i++) {
    x->at[LOST][i] = 0;
    for (int t = KEPT; t < TRACKS; t++)
      x->at[t][i] = safe(t, range_size(c->domain[i]), 0);
  }
  for (qb_node_id n = 0; p->result->known && !p->result->refuted && n < p->graph->node_count; n++)
    QB_TRY(visit(p, n));
  if (p->result->known && !p->result->refuted)
    judge(c, p);
  return QB_OK;
}

qb_status recompute_by_paths(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error) {
  paths p = {.pair = pair, .graph = pair->quantized, .result = result, .error = error};
  result->known = c->output_count == 0;
  if (!result->known) {
    snprintf(result->why, sizeof result->why, "the method two_stage gives no ranges of single outputs");
    return QB_OK;
  }
  qb_arena_init(&p.arena);
  qb_status status = run(c, &p);
  qb_arena_free(&p.arena);
  return status;
}
