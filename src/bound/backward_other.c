/* Linear forms through the remaining nodes: exact where these are linear, by intervals where not. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/backward_internal.h"

typedef struct other_call {
  qb_walk *walk;
  const qb_node *node, *partner;
  const qb_shape *shape; /* of the output */
  int64_t outputs;
  bool same[2]; /* operands with as many elements as the output: index by index */
} other_call;

typedef qb_status (*other_rule)(const other_call *call);

static const qb_graph *graph_of(const other_call *call) { return call->walk->backward->pair->quantized; }

static const qb_value *operand(const other_call *call, int32_t slot) {
  return &graph_of(call)->values[call->node->inputs[slot]];
}

static const double *rows_of(const other_call *call, int part) {
  return call->walk->coefficient[part][call->node->output];
}

static qb_status out_of_memory(const other_call *call) {
  return qb_fail_memory(call->walk->error, call->node->name, (size_t)(call->walk->rows * call->outputs) * 8);
}

/* ------------------------------------------------------------------------------------------------------ intervals */

/* The form stops here: its maximum over the intervals of the output. */
static qb_status by_interval(const other_call *call) {
  qb_walk *walk = call->walk;
  for (int part = 0; part < 2; part++) {
    const double *rows = rows_of(call, part);
    const qb_box_track *y = &walk->backward->box->states[call->node->output].track[qb_walk_track(walk, part)];
    for (int64_t r = 0; rows != NULL && r < walk->rows; r++) {
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < call->outputs; i++) {
        double c = rows[r * call->outputs + i], term = c == 0 ? 0 : c > 0 ? c * y->hi[i] : c * y->lo[i];
        sum += term;
        magnitude += fabs(term);
      }
      walk->lost[r] += qb_gamma(call->outputs + 4) * 1.01 * magnitude + DBL_MIN;
      qb_walk_add_constant(walk, r, sum);
    }
  }
  return QB_OK;
}

static qb_status rule_sigmoid(const other_call *call) { return by_interval(call); }
static qb_status rule_hard_sigmoid(const other_call *call) { return by_interval(call); }
static qb_status rule_hard_swish(const other_call *call) { return by_interval(call); }
static qb_status rule_tanh(const other_call *call) { return by_interval(call); }
static qb_status rule_softmax(const other_call *call) { return by_interval(call); }
/* layers and activations come here only without constants to prepare */
static qb_status rule_conv(const other_call *call) { return by_interval(call); }
static qb_status rule_conv_transpose(const other_call *call) { return by_interval(call); }
static qb_status rule_gemm(const other_call *call) { return by_interval(call); }
static qb_status rule_relu(const other_call *call) { return by_interval(call); }
static qb_status rule_leaky_relu(const other_call *call) { return by_interval(call); }
static qb_status rule_prelu(const other_call *call) { return by_interval(call); }
static qb_status rule_clip(const other_call *call) { return by_interval(call); }
static qb_status rule_quantize_linear(const other_call *call) { return by_interval(call); }

/* ------------------------------------------------------------------------------------------------ moving elements */

/* Output element i is input element from(i), or the constant `fill` of both networks where that is negative. */
typedef int64_t (*source_of)(const other_call *call, int32_t slot, int64_t i);

static int64_t from_same(const other_call *call, int32_t slot, int64_t i) {
  (void)call, (void)slot;
  return i;
}

/* What sums of coefficients lose, when several outputs meet in one input element or some came from elsewhere. */
static void account_sums(const other_call *call, int32_t slot, source_of from, int part) {
  qb_walk *walk = call->walk;
  qb_value_id x = call->node->inputs[slot];
  const double *rows = rows_of(call, part);
  double gamma = qb_gamma(call->outputs + 8) * 1.01;
  for (int64_t r = 0; r < walk->rows; r++) {
    double magnitude = 0;
    for (int64_t i = 0; i < call->outputs; i++) {
      double c = fabs(rows[r * call->outputs + i]);
      int64_t at = c == 0 ? -1 : from(call, slot, i);
      if (at >= 0)
        magnitude += c * qb_walk_reach(walk->backward, x, qb_walk_track(walk, part), at);
    }
    walk->lost[r] += gamma * magnitude + DBL_MIN;
  }
}

/* `last`: nothing else reads the rows. */
static qb_status gather(const other_call *call, int32_t slot, source_of from, double sign, bool last) {
  qb_walk *walk = call->walk;
  qb_value_id x = call->node->inputs[slot];
  int64_t n = walk->backward->box->states[x].count;
  for (int part = 0; part < 2; part++) {
    const double *rows = rows_of(call, part);
    if (rows == NULL || (last && from == from_same && sign == 1 && qb_walk_rename(walk, call->node->output, x, part)))
      continue;
    if (walk->coefficient[part][x] != NULL || n < call->outputs)
      account_sums(call, slot, from, part);
    double *to = qb_walk_target(walk, x, part, call->outputs + 8);
    if (to == NULL)
      return out_of_memory(call);
    for (int64_t k = 0; from == from_same && k < walk->rows * n; k++)
      to[k] += sign * rows[k];
    for (int64_t i = 0; from != from_same && i < call->outputs; i++) {
      int64_t at = from(call, slot, i);
      for (int64_t r = 0; at >= 0 && r < walk->rows; r++)
        to[r * n + at] += sign * rows[r * call->outputs + i];
    }
  }
  return QB_OK;
}

static int64_t from_broadcast(const other_call *call, int32_t slot, int64_t i) {
  if (call->same[slot])
    return i;
  return qb_shape_broadcast_index(call->shape, &operand(call, slot)->shape, i);
}

static int64_t from_pad(const other_call *call, int32_t slot, int64_t i) {
  const qb_shape *x = &operand(call, slot)->shape;
  int64_t index = 0, stride = 1;
  for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
    int64_t at = i % call->shape->dims[axis] - call->node->attributes.pad.begin[axis];
    i /= call->shape->dims[axis];
    if (at < 0 || at >= x->dims[axis])
      return -1;
    index += at * stride;
    stride *= x->dims[axis];
  }
  return index;
}

static int64_t from_transpose(const other_call *call, int32_t slot, int64_t i) {
  qb_transposition t =
      qb_shape_transposition(&operand(call, slot)->shape, call->node->attributes.transpose.permutation);
  return qb_transposition_index(&t, i);
}

static int64_t from_concat(const other_call *call, int32_t slot, int64_t i) {
  int32_t axis = call->node->attributes.axes.axis;
  int64_t inner = 1, before = 0;
  for (int32_t k = axis + 1; k < call->shape->rank; k++)
    inner *= call->shape->dims[k];
  for (int32_t k = 0; k < slot; k++)
    before += operand(call, k)->shape.dims[axis];
  int64_t whole = call->shape->dims[axis], part = operand(call, slot)->shape.dims[axis];
  int64_t position = i / inner % whole - before;
  return position < 0 || position >= part ? -1 : (i / (whole * inner) * part + position) * inner + i % inner;
}

static qb_status rule_reshape(const other_call *call) { return gather(call, 0, from_same, 1, true); }
static qb_status rule_dequantize_linear(const other_call *call) { return gather(call, 0, from_same, 1, true); }
static qb_status rule_transpose(const other_call *call) { return gather(call, 0, from_transpose, 1, true); }

static qb_status rule_concat(const other_call *call) {
  for (int32_t slot = 0; slot < call->node->input_count; slot++)
    if (operand(call, slot)->is_constant)
      return by_interval(call);
  for (int32_t slot = 0; slot < call->node->input_count; slot++)
    QB_TRY(gather(call, slot, from_concat, 1, false));
  return QB_OK;
}

/* Elements outside are the same constant in both networks. */
static qb_status rule_pad(const other_call *call) {
  const double *rows = rows_of(call, 0);
  double value = (double)call->node->attributes.pad.value;
  for (int64_t r = 0; rows != NULL && value != 0 && r < call->walk->rows; r++) {
    double sum = 0, magnitude = 0;
    for (int64_t i = 0; i < call->outputs; i++)
      if (from_pad(call, 0, i) < 0) {
        sum += rows[r * call->outputs + i] * value;
        magnitude += fabs(rows[r * call->outputs + i] * value);
      }
    call->walk->lost[r] += qb_gamma(call->outputs + 4) * 1.01 * magnitude + DBL_MIN;
    qb_walk_add_constant(call->walk, r, sum);
  }
  return gather(call, 0, from_pad, 1, true);
}

/* ----------------------------------------------------------------------------------------------------- arithmetic */

static const qb_value *constant_of_partner(const other_call *call) {
  const qb_graph *graph = call->walk->backward->pair->original;
  for (int32_t k = 0; call->partner != NULL && k < call->partner->input_count; k++)
    if (graph->values[call->partner->inputs[k]].is_constant)
      return &graph->values[call->partner->inputs[k]];
  return NULL;
}

/* The constant operand of both networks: elements c and c'. */
typedef struct constant_pair {
  const float *c[2];
} constant_pair;

static bool constants_of(const other_call *call, int32_t slot, constant_pair *pair) {
  const qb_value *ours = operand(call, slot), *theirs = constant_of_partner(call);
  if (theirs == NULL || !qb_shape_equal(&ours->shape, &theirs->shape))
    return false;
  *pair = (constant_pair){{qb_view_f32(&theirs->constant), qb_view_f32(&ours->constant)}};
  return true;
}

/* What element i of the constant adds to a form's part: c or c', or c' - c. */
static double shift_of(const other_call *call, int32_t slot, const constant_pair *pair, int part, int64_t i) {
  int64_t at = from_broadcast(call, slot, i);
  double c = (double)pair->c[0][at], c2 = (double)pair->c[1][at];
  if (part == 1)
    return qb_backward_fault_planted == QB_BACKWARD_FAULT_NO_BIAS ? 0 : c2 - c;
  return call->walk->track == QB_TRACK_QUANTIZED ? c2 : c;
}

/* Unit rows are over one element each. */
static void add_to_units(const other_call *call, int32_t slot, const constant_pair *pair, double sign) {
  qb_walk *walk = call->walk;
  for (int part = 0; part < 2; part++)
    for (int64_t r = 0; rows_of(call, part) != NULL && r < walk->rows; r++) {
      double shift = shift_of(call, slot, pair, part, walk->element[r]);
      walk->lost[r] += qb_gamma(8) * fabs(shift) + DBL_MIN;
      qb_walk_add_constant(walk, r, sign * walk->sign[r] * shift);
    }
}

/* y = x + c: k += A c + D (c' - c). */
static qb_status add_constants(const other_call *call, int32_t slot, const constant_pair *pair, double sign) {
  qb_walk *walk = call->walk;
  if (walk->element != NULL) {
    add_to_units(call, slot, pair, sign);
    return QB_OK;
  }
  double *shift = qb_alloc((size_t)(2 * call->outputs), sizeof *shift), gamma = qb_gamma(call->outputs + 8) * 1.01;
  double *size = shift + call->outputs;
  if (shift == NULL)
    return out_of_memory(call);
  for (int part = 0; part < 2; part++) {
    const double *rows = rows_of(call, part);
    for (int64_t i = 0; rows != NULL && i < call->outputs; i++)
      shift[i] = sign * shift_of(call, slot, pair, part, i);
    for (int64_t i = 0; i < call->outputs; i++)
      size[i] = fabs(shift[i]);
    for (int64_t r = 0; rows != NULL && r < walk->rows; r++) {
      double sum = 0, magnitude = 0;
      qb_dense_account(call->outputs, rows + r * call->outputs, shift, size, &sum, &magnitude);
      walk->lost[r] += gamma * magnitude + DBL_MIN;
      qb_walk_add_constant(walk, r, sum);
    }
  }
  qb_free(shift);
  return QB_OK;
}

static double sign_of(const other_call *call, int32_t slot) {
  return slot == 1 && call->node->op == QB_OP_SUB ? -1 : 1;
}

static qb_status rule_add(const other_call *call) {
  constant_pair pair;
  for (int32_t slot = 0; slot < 2; slot++)
    if (operand(call, slot)->is_constant && !constants_of(call, slot, &pair))
      return by_interval(call);
  for (int32_t slot = 0; slot < 2; slot++)
    if (operand(call, slot)->is_constant)
      QB_TRY(add_constants(call, slot, &pair, sign_of(call, slot)));
  for (int32_t slot = 0; slot < 2; slot++) {
    bool same = qb_shape_equal(&operand(call, slot)->shape, call->shape);
    if (!operand(call, slot)->is_constant)
      QB_TRY(gather(call, slot, same ? from_same : from_broadcast, sign_of(call, slot),
                    slot == 1 || operand(call, 1)->is_constant));
  }
  return QB_OK;
}

/* y = factor x + shift per element, the same in both networks, `slack` relative error of factor and shift. */
typedef struct scaling {
  double factor, shift, lost; /* lost: absolute error of the shift */
} scaling;

static qb_status scale_back(const other_call *call, int32_t slot, scaling (*of)(const other_call *, int64_t)) {
  qb_walk *walk = call->walk;
  qb_value_id x = call->node->inputs[slot];
  int64_t n = call->outputs;
  for (int part = 0; part < 2; part++) {
    const double *rows = rows_of(call, part);
    if (rows == NULL)
      continue;
    double *to = qb_walk_target(walk, x, part, 16);
    if (to == NULL)
      return out_of_memory(call);
    for (int64_t r = 0; r < walk->rows; r++) {
      double sum = 0, magnitude = 0, lost = 0;
      for (int64_t i = 0; i < n; i++) {
        double c = rows[r * n + i];
        if (c == 0)
          continue;
        scaling s = of(call, i);
        to[r * n + i] += c * s.factor;
        sum += part == 0 ? c * s.shift : 0;
        magnitude += fabs(c * s.factor) * qb_walk_reach(walk->backward, x, qb_walk_track(walk, part), i);
        magnitude += part == 0 ? fabs(c * s.shift) : 0;
        lost += part == 0 ? fabs(c) * s.lost : 0;
      }
      walk->lost[r] += qb_gamma(n + 32) * 1.01 * magnitude + lost * 1.01 + DBL_MIN;
      qb_walk_add_constant(walk, r, sum);
    }
  }
  return QB_OK;
}

static scaling batch_norm_scaling(const other_call *call, int64_t i) {
  const float *p[4];
  int64_t inner = 1;
  for (int32_t k = 2; k < call->shape->rank; k++)
    inner *= call->shape->dims[k];
  int64_t c = i / inner % call->shape->dims[1];
  for (int32_t k = 0; k < 4; k++)
    p[k] = qb_view_f32(&operand(call, 1 + k)->constant);
  double s = (double)p[0][c] / sqrt((double)p[3][c] + (double)call->node->attributes.batch_norm.epsilon);
  double product = s * (double)p[2][c];
  return (scaling){s, (double)p[1][c] - product, 16 * DBL_EPSILON * (fabs((double)p[1][c]) + fabs(product))};
}

static qb_status rule_batch_norm(const other_call *call) { return scale_back(call, 0, batch_norm_scaling); }

static scaling constant_scaling(const other_call *call, int64_t i) {
  int32_t slot = operand(call, 1)->is_constant ? 1 : 0;
  double c = (double)qb_view_f32(&operand(call, slot)->constant)[from_broadcast(call, slot, i)];
  return (scaling){call->node->op == QB_OP_DIV ? 1 / c : c, 0, 0};
}

/* By a constant that both networks share; anything else by intervals. */
static qb_status rule_mul(const other_call *call) {
  int32_t slot = operand(call, 1)->is_constant ? 1 : 0, other = 1 - slot;
  constant_pair pair;
  if (!operand(call, slot)->is_constant || operand(call, other)->is_constant || !constants_of(call, slot, &pair) ||
      !qb_shape_equal(&operand(call, other)->shape, call->shape) || (call->node->op == QB_OP_DIV && slot == 0))
    return by_interval(call);
  if (memcmp(pair.c[0], pair.c[1], qb_shape_elements(&operand(call, slot)->shape) * sizeof(float)) != 0)
    return by_interval(call);
  return scale_back(call, other, constant_scaling);
}

/* -------------------------------------------------------------------------------------------------------- pooling */

/* The window of a pool around output element i. */
typedef struct window_walk {
  const qb_window *w;
  const qb_shape *x;
  int64_t row, column, plane;
} window_walk;

static const qb_window *window_of(const other_call *call, qb_window *whole) {
  const qb_shape *x = &operand(call, 0)->shape;
  *whole = (qb_window){.kernel = {(int32_t)x->dims[2], (int32_t)x->dims[3]}, .stride = {1, 1}, .dilation = {1, 1}};
  bool windowed = call->node->op == QB_OP_AVERAGE_POOL || call->node->op == QB_OP_MAX_POOL;
  return windowed ? &call->node->attributes.pool.window : whole;
}

static window_walk look_at(const other_call *call, const qb_window *w, int64_t i) {
  const qb_shape *x = &operand(call, 0)->shape, *y = call->shape;
  bool windowed = call->node->op == QB_OP_AVERAGE_POOL || call->node->op == QB_OP_MAX_POOL;
  if (!windowed)
    return (window_walk){w, x, 0, 0, i * x->dims[2] * x->dims[3]};
  return (window_walk){w, x, i / y->dims[3] % y->dims[2], i % y->dims[3],
                       i / (y->dims[2] * y->dims[3]) * x->dims[2] * x->dims[3]};
}

/* Input element under tap k of the window, or -1 outside the image. */
static int64_t under(const window_walk *v, int64_t k) {
  int64_t a = k / v->w->kernel[1], b = k % v->w->kernel[1];
  int64_t y = v->row * v->w->stride[0] + a * v->w->dilation[0] - v->w->pad_begin[0];
  int64_t z = v->column * v->w->stride[1] + b * v->w->dilation[1] - v->w->pad_begin[1];
  return y < 0 || y >= v->x->dims[2] || z < 0 || z >= v->x->dims[3] ? -1 : v->plane + y * v->x->dims[3] + z;
}

static int64_t taps_of(const window_walk *v) { return (int64_t)v->w->kernel[0] * v->w->kernel[1]; }

static double divisor_of(const other_call *call, const window_walk *v) {
  int64_t count = 0;
  if (call->node->op == QB_OP_AVERAGE_POOL && call->node->attributes.pool.count_include_pad) {
    int64_t at[2] = {v->row, v->column}, product = 1;
    for (int axis = 0; axis < 2; axis++) { /* the part of the window inside the padded image */
      int64_t limit = v->x->dims[2 + axis] + v->w->pad_begin[axis] + v->w->pad_end[axis], inside = 0;
      for (int64_t k = 0; k < v->w->kernel[axis]; k++)
        inside += at[axis] * v->w->stride[axis] + k * v->w->dilation[axis] < limit;
      product *= inside;
    }
    return (double)product;
  }
  for (int64_t k = 0; k < taps_of(v); k++)
    count += under(v, k) >= 0;
  return (double)(count == 0 ? 1 : count);
}

static qb_status rule_average(const other_call *call) {
  qb_walk *walk = call->walk;
  qb_window whole;
  const qb_window *w = window_of(call, &whole);
  qb_value_id x = call->node->inputs[0];
  int64_t n = walk->backward->box->states[x].count;
  for (int part = 0; part < 2; part++) {
    const double *rows = rows_of(call, part);
    double *to = rows == NULL ? NULL : qb_walk_target(walk, x, part, n);
    if (rows == NULL)
      continue;
    if (to == NULL)
      return out_of_memory(call);
    double gamma = qb_gamma((int64_t)w->kernel[0] * w->kernel[1] + call->outputs + 8) * 1.01;
    for (int64_t i = 0; i < call->outputs; i++) {
      window_walk v = look_at(call, w, i);
      double divisor = divisor_of(call, &v), reach = 0;
      for (int64_t k = 0; k < taps_of(&v); k++) {
        int64_t at = under(&v, k);
        for (int64_t r = 0; at >= 0 && r < walk->rows; r++)
          to[r * n + at] += rows[r * call->outputs + i] / divisor;
        reach += at < 0 ? 0 : qb_walk_reach(walk->backward, x, qb_walk_track(walk, part), at) / divisor;
      }
      for (int64_t r = 0; r < walk->rows; r++)
        if (rows[r * call->outputs + i] != 0)
          walk->lost[r] += gamma * fabs(rows[r * call->outputs + i]) * reach + DBL_MIN;
    }
  }
  return QB_OK;
}

/* The element of a window that is the largest, but for up to over[track] by which another may exceed it. */
typedef struct winner {
  int64_t at; /* -1: none */
  double over[2];
} winner;

static void find_excess(const qb_box_state *x, const window_walk *v, winner *w) {
  for (int track = 0; track < QB_TRACK_DIFFERENCE; track++) {
    const qb_box_track *t = &x->track[track];
    double most = 0;
    for (int64_t k = 0; k < taps_of(v); k++) {
      int64_t at = under(v, k);
      if (at >= 0 && at != w->at && t->hi[at] > t->lo[w->at])
        most = qb_larger(most, qb_up(t->hi[at] - t->lo[w->at]));
    }
    w->over[track] = most;
  }
}

/* The first that no other exceeds by more than `near` in either network: which of two that are equal but for rounding
 * is taken, and whether one is, is not to depend on it. */
static winner find_winner(const qb_box_state *x, const window_walk *v, double near) {
  double most = -INFINITY;
  for (int64_t k = 0; k < taps_of(v); k++)
    most = under(v, k) < 0 ? most : qb_larger(most, x->track[0].lo[under(v, k)]);
  for (int64_t k = 0; k < taps_of(v); k++) {
    winner w = {.at = under(v, k)};
    if (w.at < 0 || x->track[0].lo[w.at] < most - near)
      continue;
    find_excess(x, v, &w);
    if (w.over[0] <= near && w.over[1] <= near)
      return w;
  }
  return (winner){.at = -1};
}

/* max - winner is in [0, over] in each network. */
static double top_above_winner(const qb_walk *walk, const winner *w, int part, double c) {
  if (part == 0)
    return c > 0 ? c * w->over[walk->track == QB_TRACK_QUANTIZED] : 0;
  return c > 0 ? c * w->over[1] : -c * w->over[0];
}

/* The element that wins where there is one; else the interval of the output. */
static qb_status rule_max_pool(const other_call *call) {
  qb_walk *walk = call->walk;
  qb_window whole;
  const qb_window *w = window_of(call, &whole);
  qb_value_id x = call->node->inputs[0];
  int64_t n = walk->backward->box->states[x].count;
  double near = qb_walk_near(walk->backward, x);
  for (int part = 0; part < 2; part++) {
    const double *rows = rows_of(call, part);
    double *to = rows == NULL ? NULL : qb_walk_target(walk, x, part, call->outputs + 8);
    const qb_box_track *y = &walk->backward->box->states[call->node->output].track[qb_walk_track(walk, part)];
    if (rows != NULL && to == NULL)
      return out_of_memory(call);
    for (int64_t i = 0; rows != NULL && i < call->outputs; i++) {
      window_walk v = look_at(call, w, i);
      winner best = find_winner(&walk->backward->box->states[x], &v, near);
      double reach = best.at < 0 ? 0 : qb_walk_reach(walk->backward, x, qb_walk_track(walk, part), best.at);
      for (int64_t r = 0; r < walk->rows; r++) {
        double c = rows[r * call->outputs + i];
        if (c == 0)
          continue;
        double top = best.at >= 0 ? top_above_winner(walk, &best, part, c) : c > 0 ? c * y->hi[i] : c * y->lo[i];
        if (best.at >= 0) {
          to[r * n + best.at] += c;
          walk->lost[r] += qb_gamma(call->outputs + 8) * 1.01 * fabs(c) * reach;
        }
        walk->lost[r] += DBL_EPSILON * fabs(top) + DBL_MIN;
        qb_walk_add_constant(walk, r, top);
      }
    }
  }
  return QB_OK;
}

static const other_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = rule_##FAMILY,
#include "graph/op_list.h"
};

qb_status qb_walk_other(qb_walk *walk, qb_node_id id) {
  const qb_pair *pair = walk->backward->pair;
  const qb_node *node = &pair->quantized->nodes[id];
  other_call call = {.walk = walk, .node = node, .shape = &pair->quantized->values[node->output].shape};
  call.partner = pair->partner[id] == QB_NONE ? NULL : &pair->original->nodes[pair->partner[id]];
  call.outputs = walk->backward->box->states[node->output].count;
  for (int32_t slot = 0; slot < 2 && slot < node->input_count; slot++)
    call.same[slot] = node->inputs[slot] != QB_NONE &&
                      (int64_t)qb_shape_elements(&pair->quantized->values[node->inputs[slot]].shape) == call.outputs;
  return rules[node->op](&call);
}
