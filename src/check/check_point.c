/* One network at one input, one rule per operator family; see check_point.h. */
#include "check/check_point.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "check/check_layout.h"

typedef struct call {
  const qb_graph *graph;
  const qb_node *node;
  const qb_shape *shape; /* of the output */
  arb_ptr *values;       /* by value id; NULL for constants */
  arb_ptr y;             /* (elements of the output) */
  slong bits;
} call;

typedef bool (*rule)(const call *c); /* false: unknown */

static int64_t count_of(const call *c) { return (int64_t)qb_shape_elements(c->shape); }

static const qb_value *operand(const call *c, int32_t slot) { return &c->graph->values[c->node->inputs[slot]]; }

/* Element i of an activation. */
static arb_srcptr input(const call *c, int32_t slot, int64_t i) { return c->values[c->node->inputs[slot]] + i; }

static double constant(const call *c, int32_t slot, int64_t i) {
  return (double)qb_view_f32(&operand(c, slot)->constant)[i];
}

/* Element i of an activation or a constant. */
static void load(const call *c, int32_t slot, int64_t i, arb_t x) {
  if (operand(c, slot)->is_constant)
    arb_set_d(x, constant(c, slot, i));
  else
    arb_set(x, input(c, slot, i));
}

/* ------------------------------------------------------------------------------------------------------ activations */

/* min(max(x, lo), hi); where x reaches over a limit, so does the ball. */
static void clamp(arb_t x, double lo, double hi, slong bits) {
  arb_t limit;
  arb_init(limit);
  if (lo > -INFINITY) {
    arb_set_d(limit, lo);
    arb_max(x, x, limit, bits);
  }
  if (hi < INFINITY) {
    arb_set_d(limit, hi);
    arb_min(x, x, limit, bits);
  }
  arb_clear(limit);
}

static bool rule_relu(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++) {
    arb_set(c->y + i, input(c, 0, i));
    clamp(c->y + i, 0, INFINITY, c->bits);
  }
  return true;
}

static bool rule_clip(const call *c) {
  const qb_clip_attributes *clip = &c->node->attributes.clip;
  for (int64_t i = 0; i < count_of(c); i++) {
    arb_set(c->y + i, input(c, 0, i));
    float hi = clip->hi_channels == NULL ? clip->hi : clip->hi_channels[qb_shape_channel(c->shape, i)];
    clamp(c->y + i, (double)clip->lo, (double)hi, c->bits);
  }
  return true;
}

/* max(x, 0) + slope min(x, 0) */
static void leaky(const call *c, int64_t i, double slope) {
  arb_t below, factor;
  arb_init(below);
  arb_init(factor);
  arb_set(below, input(c, 0, i));
  arb_set(c->y + i, below);
  clamp(c->y + i, 0, INFINITY, c->bits);
  clamp(below, -INFINITY, 0, c->bits);
  arb_set_d(factor, slope);
  arb_addmul(c->y + i, below, factor, c->bits);
  arb_clear(below);
  arb_clear(factor);
}

static bool rule_leaky_relu(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++)
    leaky(c, i, (double)c->node->attributes.linear.alpha);
  return true;
}

static bool rule_prelu(const call *c) {
  const qb_value *slopes = operand(c, 1);
  for (int64_t i = 0; slopes->is_constant && i < count_of(c); i++)
    leaky(c, i, constant(c, 1, qb_shape_broadcast_index(c->shape, &slopes->shape, i)));
  return slopes->is_constant;
}

static bool rule_sigmoid(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++) { /* 1 / (1 + exp(-x)) */
    arb_neg(c->y + i, input(c, 0, i));
    arb_exp(c->y + i, c->y + i, c->bits);
    arb_add_ui(c->y + i, c->y + i, 1, c->bits);
    arb_inv(c->y + i, c->y + i, c->bits);
  }
  return true;
}

static bool rule_tanh(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++)
    arb_tanh(c->y + i, input(c, 0, i), c->bits);
  return true;
}

static bool rule_hard_sigmoid(const call *c) {
  arb_t alpha, beta;
  arb_init(alpha);
  arb_init(beta);
  arb_set_d(alpha, (double)c->node->attributes.linear.alpha);
  arb_set_d(beta, (double)c->node->attributes.linear.beta);
  for (int64_t i = 0; i < count_of(c); i++) {
    arb_mul(c->y + i, input(c, 0, i), alpha, c->bits);
    arb_add(c->y + i, c->y + i, beta, c->bits);
    clamp(c->y + i, 0, 1, c->bits);
  }
  arb_clear(alpha);
  arb_clear(beta);
  return true;
}

/* x clip((x + 3) / 6, 0, 1), exact where the quotient is. */
static bool rule_hard_swish(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++) {
    arb_add_ui(c->y + i, input(c, 0, i), 3, c->bits);
    arb_div_ui(c->y + i, c->y + i, 6, c->bits);
    clamp(c->y + i, 0, 1, c->bits);
    arb_mul(c->y + i, c->y + i, input(c, 0, i), c->bits);
  }
  return true;
}

static bool rule_softmax(const call *c) {
  int64_t length = 1, inner = 1;
  for (int32_t axis = c->node->attributes.axes.axis; axis < c->shape->rank; axis++)
    *(axis < c->node->attributes.axes.end_axis ? &length : &inner) *= c->shape->dims[axis];
  arb_t sum;
  arb_init(sum);
  for (int64_t line = 0; line < count_of(c) / length; line++) {
    int64_t first = line / inner * length * inner + line % inner;
    arb_zero(sum);
    for (int64_t i = first; i < first + length * inner; i += inner) {
      arb_exp(c->y + i, input(c, 0, i), c->bits);
      arb_add(sum, sum, c->y + i, c->bits);
    }
    for (int64_t i = first; i < first + length * inner; i += inner)
      arb_div(c->y + i, c->y + i, sum, c->bits);
  }
  arb_clear(sum);
  return true;
}

/* y = gamma / sqrt(var + eps) (x - mean) + beta */
static bool rule_batch_norm(const call *c) {
  arb_t scale, p;
  arb_init(scale);
  arb_init(p);
  for (int64_t i = 0; i < count_of(c); i++) {
    int64_t channel = qb_shape_channel(c->shape, i);
    arb_set_d(scale, constant(c, 4, channel));
    arb_set_d(p, (double)c->node->attributes.batch_norm.epsilon);
    arb_add(scale, scale, p, c->bits);
    arb_rsqrt(scale, scale, c->bits);
    arb_set_d(p, constant(c, 1, channel));
    arb_mul(scale, scale, p, c->bits);
    arb_set_d(p, constant(c, 3, channel));
    arb_sub(c->y + i, input(c, 0, i), p, c->bits);
    arb_mul(c->y + i, c->y + i, scale, c->bits);
    arb_set_d(p, constant(c, 2, channel));
    arb_add(c->y + i, c->y + i, p, c->bits);
  }
  arb_clear(scale);
  arb_clear(p);
  return true;
}

/* ------------------------------------------------------------------------------------------------------ two tensors */

static bool binary(const call *c, void (*f)(arb_t, const arb_t, const arb_t, slong)) {
  arb_t b;
  arb_init(b);
  for (int64_t i = 0; i < count_of(c); i++) {
    load(c, 0, qb_shape_broadcast_index(c->shape, &operand(c, 0)->shape, i), c->y + i);
    load(c, 1, qb_shape_broadcast_index(c->shape, &operand(c, 1)->shape, i), b);
    f(c->y + i, c->y + i, b, c->bits);
  }
  arb_clear(b);
  return true;
}

static bool rule_add(const call *c) { return binary(c, c->node->op == QB_OP_SUB ? arb_sub : arb_add); }
static bool rule_mul(const call *c) { return binary(c, c->node->op == QB_OP_DIV ? arb_div : arb_mul); }

/* --------------------------------------------------------------------------------------------------------- windows */

/* Joins what the window at output element i sees by maximum or sum into y[i]; returns the number of taps inside the
 * image and in *padded of those inside the padded image. */
static int64_t look(const call *c, const qb_window *w, int64_t i, int64_t *padded) {
  const qb_shape *x = &operand(c, 0)->shape;
  int64_t seen = 0, plane = i / (c->shape->dims[2] * c->shape->dims[3]);
  int64_t at[2] = {i / c->shape->dims[3] % c->shape->dims[2] * w->stride[0], i % c->shape->dims[3] * w->stride[1]};
  *padded = 0;
  for (int64_t tap = 0; tap < (int64_t)w->kernel[0] * w->kernel[1]; tap++) {
    int64_t row = at[0] + tap / w->kernel[1] * w->dilation[0] - w->pad_begin[0];
    int64_t column = at[1] + tap % w->kernel[1] * w->dilation[1] - w->pad_begin[1];
    *padded += row < x->dims[2] + w->pad_end[0] && column < x->dims[3] + w->pad_end[1];
    if (row < 0 || row >= x->dims[2] || column < 0 || column >= x->dims[3])
      continue;
    arb_srcptr from = input(c, 0, (plane * x->dims[2] + row) * x->dims[3] + column);
    if (seen++ == 0)
      arb_set(c->y + i, from);
    else
      (c->node->op == QB_OP_MAX_POOL ? arb_max : arb_add)(c->y + i, c->y + i, from, c->bits);
  }
  return seen;
}

static bool rule_max_pool(const call *c) {
  int64_t padded;
  for (int64_t i = 0; i < count_of(c); i++)
    if (look(c, &c->node->attributes.pool.window, i, &padded) == 0)
      return false;
  return true;
}

/* A window, or all of the image. */
static bool rule_average(const call *c) {
  const qb_shape *x = &operand(c, 0)->shape;
  const qb_pool_attributes *pool = c->node->op == QB_OP_AVERAGE_POOL ? &c->node->attributes.pool : NULL;
  if (x->rank != 4)
    return false;
  int64_t area = x->dims[2] * x->dims[3];
  for (int64_t i = 0; i < count_of(c); i++) {
    int64_t padded = area, divisor = area;
    if (pool != NULL)
      divisor = look(c, &pool->window, i, &padded);
    for (int64_t k = 0; pool == NULL && k < area; k++)
      arb_add(c->y + i, c->y + i, input(c, 0, i * area + k), c->bits);
    if (divisor == 0)
      return false;
    arb_div_si(c->y + i, c->y + i, pool != NULL && pool->count_include_pad ? padded : divisor, c->bits);
  }
  return true;
}

/* ---------------------------------------------------------------------------------------------------- moving elements
 */

static bool rule_reshape(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++)
    arb_set(c->y + i, input(c, 0, i));
  return true;
}

static bool rule_concat(const call *c) {
  int64_t first = 0;
  for (int32_t slot = 0; slot < c->node->input_count; slot++) {
    const qb_shape *own = &operand(c, slot)->shape;
    for (int64_t i = 0; i < (int64_t)qb_shape_elements(own); i++)
      load(c, slot, i, c->y + concat_target(c->node, own, c->shape, first, i));
    first += own->dims[c->node->attributes.axes.axis];
  }
  return true;
}

static bool rule_pad(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++) {
    int64_t source = pad_source(c->node, &operand(c, 0)->shape, c->shape, i);
    if (source >= 0)
      arb_set(c->y + i, input(c, 0, source));
    else
      arb_set_d(c->y + i, (double)c->node->attributes.pad.value);
  }
  return true;
}

static bool rule_transpose(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++)
    arb_set(c->y + i, input(c, 0, transpose_source(c->node, &operand(c, 0)->shape, c->shape, i)));
  return true;
}

/* ------------------------------------------------------------------------------------------------ quantized
 * activations */

/* code = floor(number / unit + offset) + after within limits: exact products below, as scales have 24 bits and codes at
 * most as many. */
typedef struct grid {
  double unit, zero, offset, after, lo, hi;
  bool ties_even; /* of the code before `after` */
} grid;

enum { FAR = 1 << 24 };

static double parameter(const call *c, int32_t slot, int64_t i, double missing) {
  int64_t inner = 1;
  if (slot >= c->node->input_count || c->node->inputs[slot] == QB_NONE)
    return missing;
  for (int32_t k = c->node->attributes.quantize.axis + 1; k < c->shape->rank; k++)
    inner *= c->shape->dims[k];
  bool single = qb_shape_elements(&operand(c, slot)->shape) == 1;
  return constant(c, slot, single ? 0 : i / inner % c->shape->dims[c->node->attributes.quantize.axis]);
}

/* Constants with a positive scale and a whole zero point. */
static bool grid_of(const call *c, int64_t i, grid *g) {
  qb_code_rounding how = c->node->attributes.quantize.rounding;
  for (int32_t slot = 1; slot < c->node->input_count; slot++)
    if (c->node->inputs[slot] != QB_NONE && !operand(c, slot)->is_constant)
      return false;
  *g = (grid){.unit = parameter(c, 1, i, 1), .zero = parameter(c, 2, i, 0)};
  bool good = g->unit > 0 && g->zero == rint(g->zero) && fabs(g->zero) < FAR;
  if (c->node->op == QB_OP_QUANTIZE_LINEAR && c->node->attributes.quantize.factor != 0)
    g->unit = 1; /* the number has been multiplied instead */
  g->after = how == QB_ROUND_EVEN ? g->zero : 0;
  g->offset = (how == QB_ROUND_EVEN ? 0 : g->zero) + (how == QB_ROUND_DOWN ? 0 : 0.5);
  g->ties_even = how == QB_ROUND_EVEN || how == QB_ROUND_SHIFTED;
  g->lo = fmax((double)c->node->attributes.quantize.lo, -FAR);
  g->hi = fmin((double)c->node->attributes.quantize.hi, FAR);
  return good;
}

/* The code of an exact number: a guess in double, then exact steps. */
static double code_of(const grid *g, const arf_t x) {
  double guess = floor(arf_get_d(x, ARF_RND_NEAR) / g->unit + g->offset), k;
  k = fmin(fmax(guess, g->lo - g->after - 1), g->hi - g->after + 1); /* further out it is clamped anyway */
  while (k <= g->hi - g->after && arf_cmp_d(x, (k + 1 - g->offset) * g->unit) >= 0)
    k++;
  while (k >= g->lo - g->after && arf_cmp_d(x, (k - g->offset) * g->unit) < 0)
    k--;
  if (g->ties_even && arf_cmp_d(x, (k - g->offset) * g->unit) == 0 && fmod(k, 2) != 0)
    k--;
  return fmin(fmax(k + g->after, g->lo), g->hi);
}

/* Where nothing clips, codes beyond FAR are not counted. */
static bool is_far(const call *c, const grid *g, const arf_t lo, const arf_t hi) {
  bool unlimited = (double)c->node->attributes.quantize.lo < g->lo || (double)c->node->attributes.quantize.hi > g->hi;
  double most = g->unit * (FAR / 2);
  return unlimited && (arf_cmp_d(lo, -most) < 0 || arf_cmp_d(hi, most) > 0);
}

static bool quantize(const call *c, int64_t i, const grid *g, arb_t x, arf_t lo, arf_t hi) {
  if (c->node->attributes.quantize.factor != 0) {
    arb_set_d(c->y + i, (double)c->node->attributes.quantize.factor);
    arb_mul(x, x, c->y + i, c->bits);
  }
  arb_get_lbound_arf(lo, x, c->bits + 64);
  arb_get_ubound_arf(hi, x, c->bits + 64);
  if (!arb_is_finite(x) || is_far(c, g, lo, hi))
    return false;
  arf_set_d(lo, code_of(g, lo));
  arf_set_d(hi, code_of(g, hi));
  arb_set_interval_arf(c->y + i, lo, hi, c->bits);
  return true;
}

static bool rule_quantize_linear(const call *c) {
  bool known = true;
  arb_t x;
  arf_t lo, hi;
  arb_init(x);
  arf_init(lo);
  arf_init(hi);
  for (int64_t i = 0; known && i < count_of(c); i++) {
    grid g;
    arb_set(x, input(c, 0, i));
    known = grid_of(c, i, &g);
    if (known && !quantize(c, i, &g, x, lo, hi))
      arb_zero_pm_inf(c->y + i);
  }
  arb_clear(x);
  arf_clear(lo);
  arf_clear(hi);
  return known;
}

/* scale (code - zero point) */
static bool rule_dequantize_linear(const call *c) {
  bool known = true;
  arb_t p;
  arb_init(p);
  for (int64_t i = 0; known && i < count_of(c); i++) {
    grid g;
    known = grid_of(c, i, &g);
    arb_set_d(p, g.zero);
    arb_sub(c->y + i, input(c, 0, i), p, c->bits);
    arb_set_d(p, g.unit);
    arb_mul(c->y + i, c->y + i, p, c->bits);
  }
  arb_clear(p);
  return known;
}

/* ----------------------------------------------------------------------------------------------------------- the walk
 */

#define rule_conv NULL /* check_point_linear.c */
#define rule_conv_transpose NULL
#define rule_gemm NULL
static const rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = rule_##FAMILY,
#include "graph/op_list.h"
};

/* Tensors by value id, and the last node that reads each: -1 nobody, node_count: the output. */
typedef struct tensors {
  const qb_graph *graph;
  arb_ptr *at;       /* (values) */
  int32_t *last_use; /* (values) */
} tensors;

static int64_t elements_of(const qb_graph *graph, qb_value_id v) {
  return (int64_t)qb_shape_elements(&graph->values[v].shape);
}

/* A zeroed block is a vector of zeros. */
static qb_status new_tensor(tensors *t, qb_value_id v, qb_error *error) {
  size_t count = (size_t)elements_of(t->graph, v);
  t->at[v] = qb_alloc(count, sizeof *t->at[v]);
  return t->at[v] == NULL ? qb_fail_memory(error, t->graph->values[v].name, count * sizeof *t->at[v]) : QB_OK;
}

static void free_vector(arb_ptr x, int64_t count) {
  for (int64_t i = 0; x != NULL && i < count; i++)
    arb_clear(x + i);
  qb_free(x);
}

static void drop(tensors *t, qb_value_id v) {
  free_vector(t->at[v], elements_of(t->graph, v));
  t->at[v] = NULL;
}

static qb_status visit(tensors *t, qb_node_id n, slong bits, point_values *values, qb_error *error) {
  const qb_graph *graph = t->graph;
  const qb_node *node = &graph->nodes[n];
  qb_linear linear;
  QB_TRY(new_tensor(t, node->output, error));
  call c = {graph, node, &graph->values[node->output].shape, t->at, t->at[node->output], bits};
  bool weighted = qb_graph_linear(graph, n, &linear);
  if (weighted)
    QB_TRY(point_linear(graph, &linear, input(&c, 0, 0), bits, c.y, error));
  values->known = weighted || (rules[node->op] != NULL && rules[node->op](&c));
  if (!values->known)
    snprintf(values->why, sizeof values->why, "node '%s' (%s) has no rule here", node->name, qb_op_name(node->op));
  for (int32_t slot = 0; slot < node->input_count; slot++)
    if (node->inputs[slot] != QB_NONE && t->last_use[node->inputs[slot]] == n)
      drop(t, node->inputs[slot]);
  return QB_OK;
}

/* Backwards from the output, so that nodes that nothing depends on are left out. */
static void find_uses(tensors *t) {
  const qb_graph *graph = t->graph;
  for (qb_value_id v = 0; v < graph->value_count; v++)
    t->last_use[v] = -1;
  t->last_use[graph->outputs[0]] = graph->node_count;
  for (qb_node_id n = graph->node_count - 1; n >= 0; n--)
    for (int32_t slot = 0; t->last_use[graph->nodes[n].output] >= 0 && slot < graph->nodes[n].input_count; slot++) {
      qb_value_id v = graph->nodes[n].inputs[slot];
      if (v != QB_NONE && t->last_use[v] < 0)
        t->last_use[v] = n;
    }
}

static qb_status walk_graph(tensors *t, const float *from, slong bits, point_values *values, qb_error *error) {
  const qb_graph *graph = t->graph;
  qb_value_id x = graph->inputs[0], y = graph->outputs[0];
  QB_TRY(new_tensor(t, x, error));
  for (int64_t i = 0; i < elements_of(graph, x); i++)
    arb_set_d(t->at[x] + i, (double)from[i]);
  for (qb_node_id n = 0; values->known && n < graph->node_count; n++)
    if (t->last_use[graph->nodes[n].output] >= 0)
      QB_TRY(visit(t, n, bits, values, error));
  if (!values->known)
    return QB_OK;
  values->count = elements_of(graph, y);
  values->y = t->at[y];
  t->at[y] = NULL;
  return QB_OK;
}

qb_status point_evaluate(const qb_graph *graph, const float *from, slong bits, point_values *values, qb_error *error) {
  size_t count = (size_t)graph->value_count;
  tensors t = {graph, qb_alloc(count, sizeof *t.at), qb_alloc(count, sizeof *t.last_use)};
  qb_status status = QB_OK;
  *values = (point_values){.known = true};
  if (t.at == NULL || t.last_use == NULL) {
    status = qb_fail_memory(error, "a point", count * sizeof *t.at);
  } else {
    find_uses(&t);
    status = walk_graph(&t, from, bits, values, error);
  }
  for (qb_value_id v = 0; t.at != NULL && v < graph->value_count; v++)
    drop(&t, v);
  qb_free(t.at);
  qb_free(t.last_use);
  return status;
}

void point_free(point_values *values) {
  free_vector(values->y, values->count);
  *values = (point_values){0};
}
