/* Float32 evaluation in l2 norms: what it adds at one node. Whatever the operands of a node are evaluated to lies
 * within the norms of its state, ||T^-1 x|| <= ||T^-1 c|| + H, and e more in the other network. The errors are those of
 * check_evaluation.h with sizes as norms:
 *   layers    |w_o| |x| <= ||w_o T|| ||T^-1 patch||, an element being in at most as many patches as there are taps;
 *   sums      the norms of both operands, averages at most the largest element, others the norm of the result. */
#include "check/check_evaluation.h"
#include "check/check_l2.h"

typedef struct call {
  const l2 *s;
  qb_node_id id;
  const qb_node *node, *partner; /* the latter may be NULL */
  int64_t count;                 /* elements of the output */
} call;

/* As ||T^-1 .|| and as the largest element. */
typedef struct sizes {
  double norm, peak;
} sizes;

static double norm_of(const l2 *s, qb_value_id v, int which) {
  const cells *c = &s->at_centre.values[v];
  const double *t = s->weights[v];
  double square = 0;
  for (int64_t i = 0; i < c->count; i++) {
    double size = range_size(c->at[i].x) / (t == NULL ? 1 : t[qb_shape_channel(&s->graph->values[v].shape, i)]);
    square += size * size;
  }
  double centre = square == 0 ? 0 : sqrt(square) * (1 + rounding_of((double)c->count + 16)) + DBL_MIN;
  return add_up(add_up(centre, s->values[v].spread), which == 0 ? 0 : s->values[v].error);
}

static double peak_of(const l2 *s, qb_value_id v, double norm) { return mul_up(l2_largest_weight(s, v, false), norm); }

static double norm_of_all(const call *c, double most) {
  return mul_up(mul_up(l2_largest_weight(c->s, c->node->output, true), most), root_up((double)c->count));
}

static sizes of_layer(const call *c, int which, qb_linear *l) {
  const l2 *s = c->s;
  const qb_graph *graph = which == 0 ? s->pair->original : s->graph;
  const double *t = s->weights[c->node->output];
  if (!qb_graph_linear(graph, which == 0 ? s->pair->partner[c->id] : c->id, l))
    return (sizes){INFINITY, INFINITY};
  const float *weight = qb_graph_constant(graph, l->weight), *bias = qb_graph_constant(graph, l->bias);
  double x = norm_of(s, c->node->inputs[0], which), squares = 0, peak = 0, most = 0;
  for (int64_t o = 0; o < l->out_channels; o++) {
    double row = l2_row_norm(s, c->id, l, weight, NULL, o), b = bias == NULL ? 0 : fabs((double)bias[o]);
    squares += row / (t == NULL ? 1 : t[o]) * (row / (t == NULL ? 1 : t[o]));
    peak = fmax(peak, add_up(mul_up(row, x), b));
    most = fmax(most, b);
  }
  double rows = root_up((double)l->kernel_area * squares * (1 + rounding_of((double)l->out_channels + 16)));
  return (sizes){add_up(mul_up(rows, x), norm_of_all(c, most)), peak};
}

static sizes of_operands(const call *c, int which) {
  sizes size = {0, 0};
  for (int32_t slot = 0; slot < 2; slot++) {
    qb_value_id v = c->node->inputs[slot];
    const qb_value *value = &c->s->graph->values[v];
    double norm = 0, peak = 0;
    if (value->is_constant) {
      value = which == 0 ? constant_of_partner(c->s->pair, c->partner, slot) : value;
      for (int64_t i = 0; i < (int64_t)qb_shape_elements(&value->shape); i++)
        peak = fmax(peak, fabs((double)qb_view_f32(&value->constant)[i]));
      norm = norm_of_all(c, peak);
    } else {
      double own = norm_of(c->s, v, which);
      norm = mul_up(l2_conversion(c->s, v, c->node->output, true), own);
      peak = peak_of(c->s, v, own);
    }
    size = (sizes){add_up(size.norm, norm), add_up(size.peak, peak)};
  }
  return size;
}

static sizes of_output(const call *c, int which) {
  double norm = norm_of(c->s, c->node->output, which);
  return (sizes){norm, peak_of(c->s, c->node->output, norm)};
}

static sizes of_mean(const call *c, int which) {
  qb_value_id x = c->node->inputs[0];
  double peak = peak_of(c->s, x, norm_of(c->s, x, which));
  return (sizes){mul_up(l2_largest_weight(c->s, c->node->output, true), peak), peak};
}

/* n roundings, `lost` of which may underflow. */
static sizes errors_of(const call *c, sizes size, double n, double lost) {
  double tiny = norm_of_all(c, evaluation_error(c->s->pair, 0, 0, lost));
  return (sizes){add_up(evaluation_error(c->s->pair, n, size.norm, 0), tiny),
                 evaluation_error(c->s->pair, n, size.peak, lost)};
}

/* False: no rule. */
static bool error_in(const call *c, int which, sizes *error) {
  qb_linear l;
  double n = 0;
  *error = (sizes){0, 0};
  switch (c->node->op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
  case QB_OP_GEMM:
  case QB_OP_MATMUL: {
    sizes size = of_layer(c, which, &l);
    *error = isinf(size.peak) ? size : errors_of(c, size, (double)l.row_length + 2, (double)l.row_length);
    return true;
  }
  case QB_OP_ADD:
  case QB_OP_SUB:
    *error = errors_of(c, of_operands(c, which), evaluation_roundings_of_add(c->s->graph, c->node), 0);
    return true;
  case QB_OP_MUL:
  case QB_OP_DIV:
  case QB_OP_LEAKY_RELU:
  case QB_OP_PRELU:
  case QB_OP_DEQUANTIZE_LINEAR: *error = errors_of(c, of_output(c, which), 1, 1); return true;
  case QB_OP_AVERAGE_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: {
    sizes size = of_mean(c, which);
    n = evaluation_window(c->s->graph, c->node);
    *error = errors_of(c, size, n + 3, n + 1);
    error->peak = isinf(evaluation_error(c->s->pair, 1, n * size.peak, 0)) ? INFINITY : error->peak;
    return true;
  }
  default: return evaluation_is_exact(c->node->op);
  }
}

bool l2_evaluate(l2 *s, qb_node_id id, norms *y) {
  qb_node_id partner = s->pair->partner[id];
  const qb_node *node = &s->graph->nodes[id];
  const call c = {s, id, node, partner == QB_NONE ? NULL : &s->pair->original->nodes[partner],
                  (int64_t)qb_shape_elements(&s->graph->values[node->output].shape)};
  sizes error[2] = {{0, 0}, {0, 0}};
  for (int which = partner == QB_NONE ? 1 : 0; which < 2; which++)
    if (!error_in(&c, which, &error[which]) || !isfinite(error[which].norm) || !isfinite(error[which].peak)) {
      s->drift[id] = s->injection[id] = INFINITY; /* nor do gates and rows know anything */
      s->limited = QB_NONE;
      return false;
    }
  double both = add_up(error[0].norm, error[1].norm), peak = add_up(error[0].peak, error[1].peak);
  s->drift[id] = add_up(s->drift[id], error[0].norm);
  s->injection[id] = add_up(s->injection[id], both);
  *y = (norms){add_up(y->error, both), add_up(y->spread, error[0].norm), add_up(y->peak, peak)};
  for (int64_t i = 0; s->product && s->limited == id && i < c.count; i++)
    s->limits[i] = add_up(s->limits[i], peak);
  return true;
}
