/* The method spectral from the certificate's norms, each of which is proved first. With c the original network's
 * activations at the middle of the domain, computed here with their rounding ("drift"):
 *   spread ||x - c||_2  <= H:  H <- s(W) H + drift
 *   error  ||x - x'||_2 <= e:  e <- s(W') e + ||dW c + db||_2 + s(dW) H
 * and over a pair of layers or a residual block the centred gate (docs/bounds.md). Where the certificate gives weights
 * T for a tensor, its norms are ||T^-1 .||_2 and a layer counts s(T_out^-1 W T_in).
 *
 * The method product walks through the intervals of the method interval at the same time. After every node the norms of
 * the intervals limit e and H, and |x - x'| <= t e, |x - c| <= t H and the rows of a layer limit the intervals. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "check/check_l2.h"
#include "check/check_sigma.h"

static void refute(l2 *s, qb_node_id node, const char *what) {
  s->result->refuted = true;
  snprintf(s->result->why, sizeof s->result->why, "node '%s': %s", s->graph->nodes[node].name, what);
}

static void unknown(l2 *s, qb_node_id node, const char *what) {
  s->result->known = false;
  snprintf(s->result->why, sizeof s->result->why, "node '%s' (%s): %s", s->graph->nodes[node].name,
           qb_op_name(s->graph->nodes[node].op), what);
}

/* ---------------------------------------------------------------------------------------------------------- weights */

static int64_t channels_of(const l2 *s, qb_value_id v) {
  const qb_shape *shape = &s->graph->values[v].shape;
  return shape->rank >= 2 ? shape->dims[1] : 0;
}

double l2_largest_weight(const l2 *s, qb_value_id v, bool inverse) {
  const double *t = s->weights[v];
  double largest = t == NULL ? 1 : 0;
  for (int64_t c = 0; t != NULL && c < channels_of(s, v); c++)
    largest = fmax(largest, inverse ? above(1 / t[c]) : t[c]);
  return largest;
}

double l2_conversion(const l2 *s, qb_value_id from, qb_value_id to, bool aligned) {
  const double *a = s->weights[from], *b = s->weights[to];
  double largest = 0;
  if (a == NULL && b == NULL)
    return 1;
  if (!aligned || channels_of(s, from) != channels_of(s, to))
    return mul_up(l2_largest_weight(s, from, false), l2_largest_weight(s, to, true));
  for (int64_t c = 0; c < channels_of(s, to); c++) {
    double t = a == NULL ? 1 : a[c], u = b == NULL ? 1 : b[c];
    largest = fmax(largest, t == u ? 1 : above(t / u));
  }
  return largest;
}

/* The reciprocals of weights as row factors, NULL for ones. */
static qb_status inverse_of(l2 *s, const double *t, int64_t count, double **inverse) {
  *inverse = t == NULL ? NULL : qb_arena_alloc(&s->scratch, (size_t)count, sizeof **inverse);
  if (t != NULL && *inverse == NULL)
    return qb_fail_memory(s->error, "weights", (size_t)count * sizeof **inverse);
  for (int64_t c = 0; t != NULL && c < count; c++)
    (*inverse)[c] = 1 / t[c];
  return QB_OK;
}

/* Whether the factors of a layer's kernel are its weights: one group, channels on axis 1. */
static bool can_be_weighted(const l2 *s, qb_node_id id, const qb_linear *l) {
  const qb_node *node = &s->graph->nodes[id];
  if (s->weights[node->inputs[0]] == NULL && s->weights[node->output] == NULL)
    return true;
  bool matrix = node->op != QB_OP_CONV && s->graph->values[node->inputs[0]].shape.rank == 2 &&
                s->graph->values[node->output].shape.rank == 2;
  return l->group == 1 && (node->op == QB_OP_CONV || matrix) && node->op != QB_OP_CONV_TRANSPOSE;
}

static bool read_weights(l2 *s) {
  for (int64_t k = 0; k < s->c->weight_count; k++) {
    const claim_weights *w = &s->c->weights[k];
    if (w->node >= s->graph->node_count || w->channels == 0 ||
        w->channels != channels_of(s, s->graph->nodes[w->node].output))
      return false;
    for (int64_t c = 0; c < w->channels; c++)
      if (!(w->weights[c] > 1e-100 && w->weights[c] < 1e100))
        return false;
    s->weights[s->graph->nodes[w->node].output] = w->weights;
  }
  return true;
}

/* ----------------------------------------------------------------------------------------------------------- linear */

typedef struct layer_pair {
  qb_linear linear[2]; /* original, quantized */
  const float *weight[2];
} layer_pair;

static bool load_layer(const l2 *s, qb_node_id id, layer_pair *l) {
  const qb_graph *graphs[2] = {s->pair->original, s->graph};
  qb_node_id ids[2] = {s->pair->partner[id], id};
  for (int i = 0; i < 2; i++) {
    if (ids[i] == QB_NONE || !qb_graph_linear(graphs[i], ids[i], &l->linear[i]))
      return false;
    l->weight[i] = qb_graph_constant(graphs[i], l->linear[i].weight);
  }
  return true;
}

/* Root of the largest row sum times the largest column sum (Schur), for transposed convolutions. */
static double schur(const qb_linear *l, const float *plus, const float *minus) {
  int64_t per_group = l->out_channels / l->group, area = l->kernel_area;
  double row = 0, column = 0, slack = 1 + 4 * rounding_of((double)(l->row_length + l->out_channels * area));
  for (int64_t o = 0; o < l->out_channels; o++) {
    double sum = 0;
    for (int64_t c = 0; c < l->in_channels / l->group; c++)
      for (int64_t t = 0; t < area; t++) {
        int64_t k = ((o / per_group * (l->in_channels / l->group) + c) * per_group + o % per_group) * area + t;
        sum += fabs((double)plus[k] - (minus == NULL ? 0 : (double)minus[k]));
      }
    row = fmax(row, sum);
  }
  for (int64_t c = 0; c < l->in_channels; c++) {
    double sum = 0;
    for (int64_t k = c * per_group * area; k < (c + 1) * per_group * area; k++)
      sum += fabs((double)plus[k] - (minus == NULL ? 0 : (double)minus[k]));
    column = fmax(column, sum);
  }
  return root_up(mul_up(row * slack, column * slack));
}

static int64_t side_of(const l2 *s, qb_value_id id, int axis) {
  const qb_shape *shape = &s->graph->values[id].shape;
  return shape->rank == 4 ? shape->dims[2 + axis] : 1;
}

/* One claimed norm of a layer. */
static qb_status prove_layer(l2 *s, qb_node_id id, const qb_linear *linear, const float *plus, const float *minus,
                             double claimed, bool *proved) {
  const qb_node *node = &s->graph->nodes[id];
  if (node->op == QB_OP_CONV_TRANSPOSE) {
    *proved = schur(linear, plus, minus) <= claimed;
    return QB_OK;
  }
  kernel k;
  torus_operator m = {.inner = &k};
  qb_linear own = *linear;
  own.node = id; /* attributes are the same in both graphs */
  double *inverse;
  QB_TRY(inverse_of(s, s->weights[node->output], linear->out_channels, &inverse));
  QB_TRY(kernel_create(s->graph, &own, plus, minus, inverse, s->weights[node->inputs[0]], &s->scratch, &k, s->error));
  for (int axis = 0; axis < 2; axis++) {
    int64_t n = node->op == QB_OP_CONV ? side_of(s, node->inputs[0], axis) : 1;
    m.side[axis] = (kernel_side(&k, axis, n) + k.stride[axis] - 1) / k.stride[axis] * k.stride[axis];
  }
  return sigma_prove(&m, claimed, proved, s->error);
}

static qb_status prove_norms(l2 *s, qb_node_id id, const layer_pair *l) {
  const claim_layer *claimed = s->layers[id];
  bool proved[CLAIM_SIGMAS] = {false, false, false};
  if (claimed == NULL) {
    refute(s, id, "the certificate has no norms for this layer");
    return QB_OK;
  }
  for (int k = 0; k < CLAIM_SIGMAS; k++)
    s->sigma[id][k] = claimed->sigma[k];
  QB_TRY(prove_layer(s, id, &l->linear[0], l->weight[0], NULL, claimed->sigma[0], &proved[0]));
  QB_TRY(prove_layer(s, id, &l->linear[0], l->weight[0], l->weight[1], claimed->sigma[2], &proved[2]));
  double sum = add_up(claimed->sigma[0], claimed->sigma[2]); /* ||W'|| <= ||W|| + ||dW|| */
  if (sum <= claimed->sigma[1] * (1 + 1e-8)) {
    s->sigma[id][1] = sum;
    proved[1] = true;
  } else {
    QB_TRY(prove_layer(s, id, &l->linear[1], l->weight[1], NULL, claimed->sigma[1], &proved[1]));
  }
  if (!proved[0] || !proved[1] || !proved[2])
    refute(s, id, "a claimed spectral norm is too small");
  return QB_OK;
}

double l2_row_norm(const l2 *s, qb_node_id id, const qb_linear *l, const float *plus, const float *minus, int64_t o) {
  bool whole = s->graph->nodes[id].op == QB_OP_CONV_TRANSPOSE;
  int64_t first = whole ? 0 : o * l->row_length, count = whole ? l->out_channels * l->row_length : l->row_length;
  const double *t = s->weights[s->graph->nodes[id].inputs[0]];
  double square = 0;
  for (int64_t i = first; i < first + count; i++) {
    double w = (double)plus[i] - (minus == NULL ? 0 : (double)minus[i]);
    w *= t == NULL ? 1 : t[(i - first) / (l->row_length / l->in_channels)];
    square += w * w;
  }
  return sqrt(square) * (1 + rounding_of((double)count + 16)) + (square > 0 ? DBL_MIN : 0);
}

double l2_norm_of(const l2 *s, qb_value_id v, const range *d, int64_t count) {
  const double *t = s->weights[v];
  double square = 0;
  for (int64_t i = 0; i < count; i++) {
    double size = range_size(d[i]) / (t == NULL ? 1 : t[qb_shape_channel(&s->graph->values[v].shape, i)]);
    square += size * size;
  }
  return sqrt(square) * (1 + rounding_of((double)count + 16)) + (square > 0 ? DBL_MIN : 0);
}

/* What layers need of their centre: the change there, element by element. */
static qb_status linear(l2 *s, qb_node_id id, const norms *x, const range *change, int64_t count, norms *y) {
  layer_pair l;
  if (!load_layer(s, id, &l)) {
    unknown(s, id, "the weight is not a constant");
    return QB_OK;
  }
  if (!can_be_weighted(s, id, &l.linear[0])) {
    refute(s, id, "weights next to a layer that mixes channels in groups");
    return QB_OK;
  }
  QB_TRY(prove_norms(s, id, &l));
  const double *sigma = s->sigma[id];
  s->injection[id] = add_up(l2_norm_of(s, s->graph->nodes[id].output, change, count), mul_up(sigma[2], x->spread));
  y->spread = add_up(mul_up(sigma[0], x->spread), s->drift[id]);
  y->error = add_up(mul_up(sigma[1], x->error), s->injection[id]);
  bool is_conv = s->graph->nodes[id].op == QB_OP_CONV || s->graph->nodes[id].op == QB_OP_CONV_TRANSPOSE;
  int64_t channels = l.linear[0].out_channels, area = count / channels;
  y->peak = 0;
  for (int64_t o = 0; o < channels; o++) {
    double here = 0;
    for (int64_t i = 0; i < area; i++)
      here = fmax(here, range_size(change[is_conv ? o * area + i : i * channels + o]));
    double moved = mul_up(l2_row_norm(s, id, &l.linear[1], l.weight[1], NULL, o), x->error);
    double spread = mul_up(l2_row_norm(s, id, &l.linear[0], l.weight[0], l.weight[1], o), x->spread);
    y->peak = fmax(y->peak, add_up(add_up(moved, spread), here));
    for (int64_t i = 0; s->product && i < area; i++) {
      int64_t at = is_conv ? o * area + i : i * channels + o;
      s->limits[at] = add_up(add_up(moved, spread), range_size(change[at]));
    }
  }
  s->limited = id;
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------------ gates */

typedef struct window {
  qb_node_id inner, outer, skip; /* W1, W2, A; skip is QB_NONE for the identity */
  bool has_skip;
  qb_value_id x;
} window;

static bool is_layer(const l2 *s, qb_node_id id) {
  layer_pair l;
  return id != QB_NONE && s->graph->nodes[id].op != QB_OP_CONV_TRANSPOSE && load_layer(s, id, &l) &&
         l.linear[0].group == 1 && l.linear[1].group == 1;
}

static int32_t stride_of(const l2 *s, qb_node_id id, int axis) {
  const qb_node *node = &s->graph->nodes[id];
  return node->op == QB_OP_CONV ? node->attributes.conv.window.stride[axis] : 1;
}

/* The same function with slopes in [0,1] in both networks. */
static bool is_gate(const l2 *s, qb_node_id id) {
  if (id == QB_NONE || s->pair->partner[id] == QB_NONE)
    return false;
  const qb_node *a = &s->graph->nodes[id], *b = &s->pair->original->nodes[s->pair->partner[id]];
  const qb_clip_attributes *p = &a->attributes.clip, *q = &b->attributes.clip;
  return (a->op == QB_OP_RELU && b->op == QB_OP_RELU) ||
         (a->op == QB_OP_CLIP && b->op == QB_OP_CLIP && p->lo == q->lo && p->hi == q->hi && p->hi_channels == NULL &&
          q->hi_channels == NULL);
}

static bool match_chain(const l2 *s, qb_node_id outer, window *w) {
  if (!is_layer(s, outer) || stride_of(s, outer, 0) != 1 || stride_of(s, outer, 1) != 1)
    return false;
  qb_node_id gate = s->graph->values[s->graph->nodes[outer].inputs[0]].producer;
  if (!is_gate(s, gate))
    return false;
  qb_node_id inner = s->graph->values[s->graph->nodes[gate].inputs[0]].producer;
  if (!is_layer(s, inner) || s->graph->nodes[inner].op != s->graph->nodes[outer].op)
    return false;
  *w = (window){inner, outer, QB_NONE, false, s->graph->nodes[inner].inputs[0]};
  return true;
}

static bool match_skip(const l2 *s, qb_value_id branch, window *w) {
  bool strided = stride_of(s, w->inner, 0) != 1 || stride_of(s, w->inner, 1) != 1;
  w->has_skip = true;
  if (branch == w->x)
    return !strided;
  w->skip = s->graph->values[branch].producer;
  return is_layer(s, w->skip) && s->graph->nodes[w->skip].inputs[0] == w->x &&
         s->graph->nodes[w->skip].op == QB_OP_CONV && s->graph->nodes[w->inner].op == QB_OP_CONV &&
         stride_of(s, w->skip, 0) == stride_of(s, w->inner, 0) && stride_of(s, w->skip, 1) == stride_of(s, w->inner, 1);
}

static bool match_window(const l2 *s, qb_node_id id, window *w) {
  const qb_node *node = &s->graph->nodes[id];
  if (node->op != QB_OP_ADD)
    return match_chain(s, id, w);
  for (int k = 0; k < 2; k++)
    if (match_chain(s, s->graph->values[node->inputs[k]].producer, w) && match_skip(s, node->inputs[1 - k], w))
      return true;
  return false;
}

static qb_status load_kernel(l2 *s, qb_node_id id, int network, const double *rows, const double *columns, kernel *k) {
  layer_pair l;
  if (!load_layer(s, id, &l))
    return qb_fail(s->error, QB_ERROR_FORMAT, "a layer of a gate has no weights");
  qb_linear own = l.linear[network];
  own.node = id;
  return kernel_create(s->graph, &own, l.weight[network], NULL, rows, columns, &s->scratch, k, s->error);
}

/* ||A + W2 W1 / 2||, ||T^-1 W1||, ||W2 T|| of one network, on a torus that no kernel wraps around. */
static qb_status prove_gate(l2 *s, const claim_gate *g, const window *w, int network, bool *proved) {
  kernel inner, outer, skip, scaled_inner, scaled_outer;
  qb_value_id out = s->graph->nodes[g->node].output;
  const double *in = s->weights[w->x];
  double *left;
  double *inverse = qb_arena_alloc(&s->scratch, (size_t)g->channels, sizeof *inverse);
  if (inverse == NULL)
    return qb_fail_memory(s->error, "a scaling", (size_t)g->channels * sizeof *inverse);
  *proved = false;
  QB_TRY(inverse_of(s, s->weights[out], channels_of(s, out), &left));
  QB_TRY(load_kernel(s, w->inner, network, NULL, in, &inner));
  QB_TRY(load_kernel(s, w->outer, network, left, NULL, &outer));
  if (inner.rows != g->channels || outer.cols != g->channels)
    return QB_OK;
  for (int64_t c = 0; c < g->channels; c++) {
    if (!(g->scaling[c] > 1e-100 && g->scaling[c] < 1e100))
      return QB_OK;
    inverse[c] = 1 / g->scaling[c];
  }
  if (w->has_skip && w->skip == QB_NONE)
    QB_TRY(kernel_identity(inner.cols, &s->scratch, &skip, s->error));
  else if (w->has_skip)
    QB_TRY(load_kernel(s, w->skip, network, left, in, &skip));
  for (int64_t c = 0; w->has_skip && w->skip == QB_NONE && c < inner.cols; c++)
    skip.taps[c * inner.cols + c] = (left == NULL ? 1 : left[c]) * (in == NULL ? 1 : in[c]);
  if (w->has_skip && (skip.rows != outer.rows || skip.cols != inner.cols))
    return QB_OK;
  int64_t middle[2];
  for (int axis = 0; axis < 2; axis++) {
    int64_t n = side_of(s, w->x, axis), m = side_of(s, s->graph->nodes[w->inner].output, axis);
    middle[axis] = g->side[axis] / inner.stride[axis];
    if (g->side[axis] < kernel_side(&inner, axis, n) || middle[axis] < kernel_side(&outer, axis, m) ||
        g->side[axis] > (1 << 20) || g->side[axis] % inner.stride[axis] != 0 ||
        (w->has_skip && g->side[axis] < kernel_side(&skip, axis, n)))
      return QB_OK;
  }
  QB_TRY(load_kernel(s, w->inner, network, inverse, in, &scaled_inner));
  QB_TRY(load_kernel(s, w->outer, network, left, g->scaling, &scaled_outer));
  const claim_norms *claimed = &g->norms[network];
  torus_operator whole = {&inner, &outer, w->has_skip ? &skip : NULL, {g->side[0], g->side[1]}};
  torus_operator first = {&scaled_inner, NULL, NULL, {g->side[0], g->side[1]}};
  torus_operator second = {&scaled_outer, NULL, NULL, {middle[0], middle[1]}};
  QB_TRY(sigma_prove(&whole, claimed->joint, proved, s->error));
  if (*proved)
    QB_TRY(sigma_prove(&first, claimed->inner, proved, s->error));
  return *proved ? sigma_prove(&second, claimed->outer, proved, s->error) : QB_OK;
}

static double gate_value(const claim_norms *n) { return add_up(n->joint, mul_up(0.5, mul_up(n->inner, n->outer))); }

static qb_status gate(l2 *s, qb_node_id id, norms *y) {
  const claim_gate *g = NULL;
  window w;
  bool proved = true;
  for (int64_t k = 0; k < s->c->gate_count; k++)
    if (s->c->gates[k].node == id)
      g = &s->c->gates[k];
  if (g == NULL)
    return QB_OK;
  if (!match_window(s, id, &w)) {
    refute(s, id, "no centred gate can end here");
    return QB_OK;
  }
  QB_TRY(prove_gate(s, g, &w, 0, &proved));
  if (proved && g->has_quantized)
    QB_TRY(prove_gate(s, g, &w, 1, &proved));
  if (!proved) {
    refute(s, id, "a claimed norm of the gate is too small, its scaling or its torus is wrong");
    return QB_OK;
  }
  const double *one = s->sigma[w.inner], *two = s->sigma[w.outer];
  double original = gate_value(&g->norms[0]), quantized = g->has_quantized ? gate_value(&g->norms[1]) : INFINITY;
  qb_value_id sum = s->graph->nodes[id].output;
  double to = l2_conversion(s, s->graph->nodes[w.outer].output, sum, true); /* from the weights of W2's output */
  /* G stands between two tensors, whose weights a certificate may give differently */
  double through = l2_conversion(s, s->graph->nodes[w.inner].output, s->graph->nodes[w.outer].inputs[0], true);
  double first[2] = {mul_up(through, one[1]), mul_up(through, one[2])};
  double skip_to = w.skip == QB_NONE ? 1 : l2_conversion(s, s->graph->nodes[w.skip].output, sum, true);
  double skip_change = w.skip == QB_NONE ? 0 : mul_up(skip_to, s->sigma[w.skip][2]);
  if (!g->has_quantized) /* ||A' + W2' G W1'|| <= ||A + W2 G W1|| + ||dA|| + ||dW2|| ||W1'|| + ||W2|| ||dW1|| */
    quantized =
        add_up(original, add_up(skip_change, mul_up(to, add_up(mul_up(two[2], first[0]), mul_up(two[0], first[1])))));
  double drift = mul_up(to, add_up(mul_up(two[0], mul_up(through, s->drift[w.inner])), s->drift[w.outer]));
  double injection = mul_up(to, add_up(mul_up(two[1], mul_up(through, s->injection[w.inner])), s->injection[w.outer]));
  if (w.has_skip) {
    drift = add_up(drift, add_up(s->drift[id], w.skip == QB_NONE ? 0 : mul_up(skip_to, s->drift[w.skip])));
    injection = add_up(injection, w.skip == QB_NONE ? 0 : mul_up(skip_to, s->injection[w.skip]));
    injection = add_up(injection, s->injection[id]);
  }
  const norms *x = &s->values[w.x];
  y->spread = fmin(y->spread, add_up(mul_up(original, x->spread), drift));
  y->error = fmin(y->error, add_up(mul_up(quantized, x->error), injection));
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- the walk */

/* Makes the computed centre a point again: returns the norm of what rounding took, and the change in `change`. */
static double collapse(const l2 *s, qb_value_id v, cells *y, range *change) {
  const double *t = s->weights[v];
  double square = 0;
  for (int64_t i = 0; i < y->count; i++) {
    range x = y->at[i].x;
    double mid = x.lo == x.hi ? x.lo : x.lo / 2 + x.hi / 2, rad = fmax(add_up(x.hi, -mid), add_up(mid, -x.lo));
    change[i] = y->at[i].d;
    rad /= t == NULL ? 1 : t[qb_shape_channel(&s->graph->values[v].shape, i)];
    square += rad * rad;
    y->at[i] = (triple){point(mid), point(mid), point(0)};
  }
  return square == 0 ? 0 : sqrt(square) * (1 + rounding_of((double)y->count + 16)) + DBL_MIN;
}

/* Norms of the intervals, and intervals from the norms. */
static void exchange(l2 *s, qb_value_id v, norms *y) {
  cells *box = &s->intervals.values[v];
  const double *t = s->weights[v];
  const triple *centre = s->at_centre.values[v].at;
  double error = 0, spread = 0, slack = 1 + rounding_of((double)box->count + 32);
  bool rows = s->limited != QB_NONE && s->graph->nodes[s->limited].output == v;
  for (int64_t i = 0; i < box->count; i++) {
    double weight = t == NULL ? 1 : t[qb_shape_channel(&s->graph->values[v].shape, i)], c = centre[i].x.lo;
    double size = range_size(box->at[i].d) / weight;
    double far = fmax(add_up(box->at[i].x.hi, -c), add_up(c, -box->at[i].x.lo)) / weight;
    error += size * size;
    spread += far * far;
  }
  y->error = fmin(y->error, sqrt(error) * slack + (error > 0 ? DBL_MIN : 0));
  y->spread = fmin(y->spread, sqrt(spread) * slack + (spread > 0 ? DBL_MIN : 0));
  for (int64_t i = 0; i < box->count; i++) {
    double weight = t == NULL ? 1 : t[qb_shape_channel(&s->graph->values[v].shape, i)], far = mul_up(weight, y->spread);
    double size = fmin(fmin(y->peak, mul_up(weight, y->error)), rows ? s->limits[i] : INFINITY);
    triple *at = &box->at[i];
    at->d = range_meet(at->d, (range){-size, size});
    at->x = range_meet(at->x, range_add(point(centre[i].x.lo), (range){-far, far}));
    cells_tighten(GRAIN_FINE, at);
  }
}

/* Any centre will do where there is no l2 rule: the middle of the intervals. */
static void start_again(l2 *s, qb_value_id v, norms *y) {
  cells *centre = &s->at_centre.values[v];
  for (int64_t i = 0; i < centre->count; i++) {
    range x = s->intervals.values[v].at[i].x;
    double middle = x.lo / 2 + x.hi / 2;
    centre->at[i] = (triple){point(isfinite(middle) ? middle : 0), point(isfinite(middle) ? middle : 0), point(0)};
  }
  *y = (norms){INFINITY, INFINITY, INFINITY};
}

/* The intervals of the node, before the norms. */
static qb_status visit_intervals(l2 *s, qb_node_id id, bool *known) {
  *known = true;
  return s->product ? walk_visit(&s->intervals, id, known) : QB_OK;
}

static qb_status visit(l2 *s, qb_node_id id) {
  const qb_node *node = &s->graph->nodes[id];
  norms *y = &s->values[node->output];
  bool known, known_too;
  if (s->pair->value[node->output] == QB_NONE)
    return QB_OK;
  QB_TRY(walk_visit(&s->at_centre, id, &known));
  QB_TRY(visit_intervals(s, id, &known_too));
  cells *centre = &s->at_centre.values[node->output];
  range *change = qb_arena_alloc(&s->scratch, (size_t)centre->count + 1, sizeof *change);
  if (change == NULL)
    return qb_fail_memory(s->error, "a centre", (size_t)centre->count * sizeof *change);
  const norms *x = &s->values[node->inputs[0]];
  qb_linear ignored;
  if (!known || !known_too) {
    unknown(s, id, "there is no rule for it");
    return QB_OK;
  }
  s->drift[id] = collapse(s, node->output, centre, change);
  if (qb_graph_linear(s->graph, id, &ignored)) {
    QB_TRY(linear(s, id, x, change, centre->count, y));
  } else {
    known = l2_other(s, id, change, y);
    y->spread = add_up(y->spread, s->drift[id]);
    if (!known && s->product)
      start_again(s, node->output, y);
    else if (!known)
      unknown(s, id, "there is no l2 rule for it here");
  }
  if (s->pair->float32 && s->result->known && !s->result->refuted && !l2_evaluate(s, id, y)) {
    if (s->product)
      start_again(s, node->output, y);
    else
      unknown(s, id, "there is no l2 rule for its float32 evaluation here");
  }
  if (s->result->known && !s->result->refuted)
    QB_TRY(gate(s, id, y));
  double *numbers[3] = {&y->error, &y->spread, &y->peak};
  for (int k = 0; k < 3; k++)
    *numbers[k] = isnan(*numbers[k]) ? INFINITY : *numbers[k];
  y->peak = fmin(y->peak, mul_up(l2_largest_weight(s, node->output, false), y->error));
  if (s->product && s->result->known && !s->result->refuted)
    exchange(s, node->output, y);
  qb_arena_free(&s->scratch);
  qb_arena_init(&s->scratch);
  return QB_OK;
}

static qb_status allocate_limits(l2 *s) {
  size_t most = 1;
  for (qb_value_id v = 0; v < s->graph->value_count; v++) {
    size_t count = qb_shape_elements(&s->graph->values[v].shape);
    most = count > most && !s->graph->values[v].is_constant ? count : most;
  }
  s->limits = qb_arena_alloc(&s->arena, most, sizeof *s->limits);
  return s->limits == NULL ? qb_fail_memory(s->error, "limits of a layer", most * sizeof *s->limits) : QB_OK;
}

static qb_status allocate(l2 *s) {
  size_t nodes = (size_t)s->graph->node_count;
  s->values = qb_arena_alloc(&s->arena, (size_t)s->graph->value_count, sizeof *s->values);
  s->weights = qb_arena_alloc(&s->arena, (size_t)s->graph->value_count, sizeof *s->weights);
  s->layers = qb_arena_alloc(&s->arena, nodes, sizeof *s->layers);
  s->sigma = qb_arena_alloc(&s->arena, nodes, sizeof *s->sigma);
  s->drift = qb_arena_alloc(&s->arena, nodes, sizeof *s->drift);
  s->injection = qb_arena_alloc(&s->arena, nodes, sizeof *s->injection);
  if (s->values == NULL || s->weights == NULL || s->layers == NULL || s->sigma == NULL || s->drift == NULL ||
      s->injection == NULL)
    return qb_fail_memory(s->error, "l2 norms", nodes * sizeof *s->sigma);
  for (int64_t k = 0; k < s->c->layer_count; k++)
    if (s->c->layers[k].node < s->graph->node_count)
      s->layers[s->c->layers[k].node] = &s->c->layers[k];
  return QB_OK;
}

static qb_status run(l2 *s) {
  const claim *c = s->c;
  range *middle = qb_arena_alloc(&s->arena, (size_t)c->elements, sizeof *middle);
  double square = 0;
  if (middle == NULL)
    return qb_fail_memory(s->error, "the middle of the domain", (size_t)c->elements * sizeof *middle);
  QB_TRY(allocate(s));
  if (!read_weights(s)) {
    s->result->refuted = true;
    snprintf(s->result->why, sizeof s->result->why, "weights that are not positive or do not fit their tensor");
    return QB_OK;
  }
  for (int64_t i = 0; i < c->elements; i++) {
    middle[i] = point(c->domain[i].lo / 2 + c->domain[i].hi / 2);
    double half = fmax(add_up(c->domain[i].hi, -middle[i].lo), add_up(middle[i].lo, -c->domain[i].lo));
    square += half * half;
  }
  s->values[s->graph->inputs[0]].spread =
      sqrt(square) * (1 + rounding_of((double)c->elements + 16)) + (square > 0 ? DBL_MIN : 0);
  qb_status status = walk_begin(&s->at_centre, &s->exact, GRAIN_FINE, middle, s->error);
  if (status == QB_OK && s->product)
    status = walk_begin(&s->intervals, s->pair, GRAIN_FINE, c->domain, s->error);
  if (status == QB_OK && s->product)
    status = allocate_limits(s);
  for (qb_node_id n = 0; status == QB_OK && s->result->known && !s->result->refuted && n < s->graph->node_count; n++)
    status = visit(s, n);
  walk_free(&s->at_centre);
  if (s->product && status == QB_OK && s->result->known && !s->result->refuted)
    judge_outputs(c, &s->intervals, s->result);
  else
    s->result->bound = s->values[s->graph->outputs[0]].peak;
  walk_free(&s->intervals);
  return status;
}

qb_status recompute_by_norms(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error) {
  l2 s = {.c = c, .pair = pair, .graph = pair->quantized, .limited = QB_NONE, .result = result, .error = error};
  s.exact = *pair;
  s.exact.float32 = false;
  s.product = strcmp(c->method, "product") == 0;
  result->known = s.product || c->output_count == 0;
  if (!result->known) {
    snprintf(result->why, sizeof result->why, "the method spectral gives no ranges of single outputs");
    return QB_OK;
  }
  qb_arena_init(&s.arena);
  qb_arena_init(&s.scratch);
  qb_status status = run(&s);
  qb_arena_free(&s.scratch);
  qb_arena_free(&s.arena);
  return status;
}
