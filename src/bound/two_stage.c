/* Four non-negative recurrences in double; see two_stage.h. Each is rounded to its own side, layer by layer. */
#include "bound/two_stage.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "bound/affine.h"
#include "bound/fault.h"
#include "bound/rounding.h"

typedef struct path_walk {
  const qb_pair *pair;
  qb_path_state *states; /* by quantized value */
  qb_arena arena, scratch;
  qb_bound *bound;
  qb_error *error;
} path_walk;

typedef struct path_call {
  path_walk *walk;
  qb_node_id id;
  const qb_node *node, *original; /* of the quantized graph, its partner */
  qb_path_state *y;
  const qb_shape *shape;
} path_call;

typedef qb_status (*path_rule)(path_call *call);

/* No bound: not an error. */
static qb_status refuse(const path_call *call, const char *why) {
  snprintf(call->walk->bound->why, sizeof call->walk->bound->why, "node '%s' (%s): %s", call->node->name,
           qb_op_name(call->node->op), why);
  return QB_OK;
}

static qb_status create_state(path_walk *walk, int64_t count, qb_path_state *state) {
  *state = (qb_path_state){.count = count};
  for (int part = 0; part < QB_PATH_COUNT; part++) {
    state->part[part] = qb_arena_alloc(&walk->arena, (size_t)count, sizeof(double));
    if (state->part[part] == NULL)
      return qb_fail_memory(walk->error, "path bound of a tensor", (size_t)count * sizeof(double));
  }
  return QB_OK;
}

static const qb_path_state *input(const path_call *call, int32_t slot) {
  return &call->walk->states[call->node->inputs[slot]];
}

static const qb_value *value_of(const path_call *call, int32_t slot) {
  return &call->walk->pair->quantized->values[call->node->inputs[slot]];
}

/* A computed sum of non-negative terms with n roundings on the way, moved to the safe side of its part: up, or down for
 * G. Factors of later products stay 0 or at least QB_SMALLEST, so that none underflows. */
static double safe(int part, double sum, int64_t n) {
  bool lower = part == QB_PATH_MEAN && qb_bound_fault != QB_FAULT_MEAN_UP;
  double moved = lower ? sum * (1 - 2 * qb_gamma(n)) : qb_sum_upper(sum, n);
  if (part == QB_PATH_MEAN && !lower)
    moved *= 1 + 0x1p-20; /* the planted fault, large enough to be seen */
  if (moved > 0 && moved < QB_SMALLEST)
    return lower ? 0 : QB_SMALLEST;
  return moved;
}

/* --------------------------------------------------------------------------------------------------------- layers */

/* The matrices of a layer, or its bias, as differences of float32 arrays: |W_z| = |kept|, |W - W_z| = |w - kept|,
 * and sqrt(W_z W') >= high - low >= 0. */
typedef struct weights {
  int64_t count;
  const float *w, *w_q; /* NULL: zeros */
  float *kept, *high, *low;
} weights;

static float at(const float *data, int64_t i) { return data == NULL ? 0 : data[i]; }

/* The root of a product rounded down, as the difference of two floats: 48 bits of it. */
static void split_root(float w, float w_q, float *high, float *low) {
  double product = fabs((double)w * (double)w_q), root = sqrt(product); /* the product is exact */
  root = root == 0 ? 0 : nextafter(root, 0);
  *high = (float)root;
  if ((double)*high < root)
    *high = nextafterf(*high, INFINITY);
  double rest = (double)*high - root; /* exact: the two are neighbours */
  *low = (float)rest;
  if ((double)*low < rest)
    *low = nextafterf(*low, INFINITY);
  if (*low > *high)
    *low = *high = 0;
}

/* False when a sign changes. */
static bool fill_weights(weights *m) {
  for (int64_t i = 0; i < m->count; i++) {
    float w = at(m->w, i), w_q = at(m->w_q, i);
    if (((w > 0 && w_q < 0) || (w < 0 && w_q > 0)) && qb_bound_fault != QB_FAULT_NO_SIGN_CHECK)
      return false;
    m->kept[i] = w_q == 0 ? 0 : w;
    split_root(m->kept[i], w_q, &m->high[i], &m->low[i]);
  }
  return true;
}

static qb_status create_weights(const path_call *call, int64_t count, weights *m) {
  qb_arena *arena = &call->walk->scratch;
  m->count = count;
  m->kept = qb_arena_alloc(arena, (size_t)count, sizeof *m->kept);
  m->high = qb_arena_alloc(arena, (size_t)count, sizeof *m->high);
  m->low = qb_arena_alloc(arena, (size_t)count, sizeof *m->low);
  if (m->kept == NULL || m->high == NULL || m->low == NULL)
    return qb_fail_memory(call->walk->error, call->node->name, 3 * (size_t)count * sizeof(float));
  return QB_OK;
}

/* y (+)= |plus - minus| x + |bias difference|. */
static qb_status apply(const path_call *call, const qb_linear *l, const float *plus, const float *minus,
                       const float *bias_plus, const float *bias_minus, const double *x, bool add, double *y) {
  path_walk *walk = call->walk;
  double *out = y;
  if (add && (out = qb_arena_alloc(&walk->scratch, (size_t)call->y->count, sizeof *out)) == NULL)
    return qb_fail_memory(walk->error, call->node->name, (size_t)call->y->count * sizeof *out);
  QB_TRY(qb_affine_apply_absolute(walk->pair->quantized, l, plus, minus, bias_plus, bias_minus, x, out, &walk->scratch,
                                  walk->error));
  for (int64_t i = 0; add && i < call->y->count; i++)
    y[i] += out[i];
  return QB_OK;
}

/* lost <- |W| lost + |W - W_z| kept, kept <- |W_z| kept, quantized <- |W'| quantized, mean <- sqrt(W_z W') mean. */
static qb_status apply_layer(const path_call *call, const qb_linear *l, const weights *m, const weights *b) {
  const qb_path_state *x = input(call, 0);
  double *const *y = call->y->part;
  QB_TRY(apply(call, l, m->w, NULL, b->w, b->kept, x->part[QB_PATH_LOST], false, y[QB_PATH_LOST]));
  QB_TRY(apply(call, l, m->w, m->kept, NULL, NULL, x->part[QB_PATH_KEPT], true, y[QB_PATH_LOST]));
  QB_TRY(apply(call, l, m->kept, NULL, b->kept, NULL, x->part[QB_PATH_KEPT], false, y[QB_PATH_KEPT]));
  QB_TRY(apply(call, l, m->w_q, NULL, b->w_q, NULL, x->part[QB_PATH_QUANTIZED], false, y[QB_PATH_QUANTIZED]));
  QB_TRY(apply(call, l, m->high, m->low, b->high, b->low, x->part[QB_PATH_MEAN], false, y[QB_PATH_MEAN]));
  for (int part = 0; part < QB_PATH_COUNT; part++)
    for (int64_t i = 0; i < call->y->count; i++)
      y[part][i] = safe(part, y[part][i], 2 * l->row_length + 16);
  return QB_OK;
}

static qb_status rule_gemm(path_call *call) {
  const qb_pair *pair = call->walk->pair;
  qb_linear own, original;
  weights m = {0}, b = {0};
  if (!qb_graph_linear(pair->quantized, call->id, &own) ||
      !qb_graph_linear(pair->original, pair->partner[call->id], &original))
    return refuse(call, "the weight is not a constant");
  m.w = qb_graph_constant(pair->original, original.weight);
  m.w_q = qb_graph_constant(pair->quantized, own.weight);
  b.w = qb_graph_constant(pair->original, original.bias);
  b.w_q = qb_graph_constant(pair->quantized, own.bias);
  QB_TRY(create_weights(call, (int64_t)qb_shape_elements(&pair->quantized->values[own.weight].shape), &m));
  QB_TRY(create_weights(call, own.out_channels, &b));
  if (!fill_weights(&m) || !fill_weights(&b))
    return refuse(call, "a weight changes its sign");
  return apply_layer(call, &own, &m, &b);
}

static qb_status rule_conv(path_call *call) { return rule_gemm(call); }
static qb_status rule_conv_transpose(path_call *call) { return rule_gemm(call); }

/* ----------------------------------------------------------------------------------------- edges of fixed weight */

/* ReLU opens or closes paths; a reshape renames them. */
static qb_status rule_reshape(path_call *call) {
  for (int part = 0; part < QB_PATH_COUNT; part++)
    memcpy(call->y->part[part], input(call, 0)->part[part], (size_t)call->y->count * sizeof(double));
  return QB_OK;
}

static qb_status rule_relu(path_call *call) { return rule_reshape(call); }

/* The paths of both operands. Sub gives them weight -1, which the absolute values do not see. */
static qb_status rule_add(path_call *call) {
  for (int32_t slot = 0; slot < 2; slot++)
    if (value_of(call, slot)->is_constant || input(call, slot)->count != call->y->count)
      return refuse(call, "paths are followed through sums of two activations of one shape only");
  for (int part = 0; part < QB_PATH_COUNT; part++)
    for (int64_t i = 0; i < call->y->count; i++)
      call->y->part[part][i] = safe(part, input(call, 0)->part[part][i] + input(call, 1)->part[part][i], 1);
  return QB_OK;
}

/* The mean over all positions: every path gets the weight 1 / area in both networks. */
static qb_status rule_average(path_call *call) {
  const qb_shape *x = &value_of(call, 0)->shape;
  if (call->node->op == QB_OP_AVERAGE_POOL || x->rank != 4)
    return refuse(call, "paths are followed through global averages only");
  int64_t area = x->dims[2] * x->dims[3];
  for (int part = 0; part < QB_PATH_COUNT; part++)
    for (int64_t i = 0; i < call->y->count; i++) {
      double sum = 0;
      for (int64_t k = 0; k < area; k++)
        sum += input(call, 0)->part[part][i * area + k];
      call->y->part[part][i] = safe(part, sum / (double)area, area + 2);
    }
  return QB_OK;
}

/* Everything else: slopes other than 0 and 1, selections, caps, products, quantizers. */
static qb_status rule_other(path_call *call) { return refuse(call, "paths cannot be followed through this operator"); }

#define rule_batch_norm rule_other
#define rule_leaky_relu rule_other
#define rule_prelu rule_other
#define rule_clip rule_other
#define rule_sigmoid rule_other
#define rule_hard_sigmoid rule_other
#define rule_hard_swish rule_other
#define rule_tanh rule_other
#define rule_softmax rule_other
#define rule_max_pool rule_other
#define rule_mul rule_other
#define rule_concat rule_other
#define rule_pad rule_other
#define rule_transpose rule_other
#define rule_quantize_linear rule_other
#define rule_dequantize_linear rule_other

static const path_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = rule_##FAMILY,
#include "graph/op_list.h"
};

/* ----------------------------------------------------------------------------------------------------------- walk */

static qb_status input_state(path_walk *walk, const qb_domain *domain) {
  const qb_graph *graph = walk->pair->quantized;
  if (graph->input_count != 1)
    return qb_fail(walk->error, QB_ERROR_UNSUPPORTED, "%s: a bound needs a network with one input", graph->name);
  if (domain->count != (int64_t)qb_shape_elements(&graph->values[graph->inputs[0]].shape))
    return qb_fail(walk->error, QB_ERROR_SHAPE, "%s: the domain does not fit the network's input", graph->name);
  qb_path_state *state = &walk->states[graph->inputs[0]];
  QB_TRY(create_state(walk, domain->count, state));
  for (int64_t i = 0; i < domain->count; i++) {
    double size = fmax(fabs((double)domain->lo[i]), fabs((double)domain->hi[i]));
    for (int part = QB_PATH_KEPT; part < QB_PATH_COUNT; part++)
      state->part[part][i] = size;
  }
  return QB_OK;
}

static qb_status visit(path_walk *walk, qb_node_id id) {
  const qb_pair *pair = walk->pair;
  const qb_node *node = &pair->quantized->nodes[id];
  qb_node_id partner = pair->partner[id];
  if (pair->value[node->output] == QB_NONE)
    return QB_OK; /* no output depends on it */
  path_call call = {.walk = walk,
                    .id = id,
                    .node = node,
                    .original = partner == QB_NONE ? NULL : &pair->original->nodes[partner],
                    .y = &walk->states[node->output],
                    .shape = &pair->quantized->values[node->output].shape};
  bool copies = rules[node->op] == rule_reshape, sums = rules[node->op] == rule_add; /* Add is not Sub */
  if (!copies &&
      (call.original == NULL || rules[call.original->op] != rules[node->op] || (sums && call.original->op != node->op)))
    return refuse(&call, "the original network has another operator here");
  QB_TRY(create_state(walk, (int64_t)qb_shape_elements(call.shape), call.y));
  qb_arena_mark mark = qb_arena_get_mark(&walk->scratch);
  QB_TRY(rules[node->op](&call));
  qb_arena_rewind(&walk->scratch, mark);
  return QB_OK;
}

/* lost + sqrt((kept + quantized - 2 mean) (kept + quantized + 2 mean)), rounded up. */
static double element_bound(const qb_path_state *state, int64_t i) {
  double sum = qb_up_sum(state->part[QB_PATH_KEPT][i], state->part[QB_PATH_QUANTIZED][i]);
  double twice = 2 * state->part[QB_PATH_MEAN][i], less = sum - twice;
  less = less <= 0 ? 0 : qb_up(less);
  double root = less == 0 ? 0 : qb_up(sqrt(qb_up_product(less, qb_up_sum(sum, twice))));
  return qb_up_sum(state->part[QB_PATH_LOST][i], root);
}

static void collect(path_walk *walk) {
  double largest = 0;
  const qb_graph *graph = walk->pair->quantized;
  for (int32_t k = 0; k < graph->output_count; k++) {
    const qb_path_state *state = &walk->states[graph->outputs[k]];
    for (int64_t i = 0; i < state->count; i++) {
      double value = element_bound(state, i);
      largest = value <= largest ? largest : value; /* NaN stays */
    }
  }
  walk->bound->applies = isfinite(largest);
  if (isfinite(largest))
    walk->bound->value = qb_magnitude_from_double(largest);
  else
    snprintf(walk->bound->why, sizeof walk->bound->why, "sums over paths exceed the range of double");
}

static qb_status run(path_walk *walk, const qb_domain *domain) {
  const qb_graph *graph = walk->pair->quantized;
  QB_TRY(qb_bound_check_environment(walk->error));
  walk->states = qb_arena_alloc(&walk->arena, (size_t)graph->value_count, sizeof *walk->states);
  if (walk->states == NULL)
    return qb_fail_memory(walk->error, "path bound", (size_t)graph->value_count * sizeof *walk->states);
  QB_TRY(input_state(walk, domain));
  for (qb_node_id id = 0; id < graph->node_count && walk->bound->why[0] == '\0'; id++)
    QB_TRY(visit(walk, id));
  if (walk->bound->why[0] == '\0')
    collect(walk);
  return QB_OK;
}

qb_status qb_bound_two_stage(const qb_pair *pair, const qb_domain *domain, qb_bound *bound, qb_error *error) {
  *bound = (qb_bound){0};
  path_walk walk = {.pair = pair, .bound = bound, .error = error};
  qb_arena_init(&walk.arena);
  qb_arena_init(&walk.scratch);
  qb_status status = run(&walk, domain);
  qb_arena_free(&walk.arena);
  qb_arena_free(&walk.scratch);
  return status;
}
