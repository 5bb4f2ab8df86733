/* The l2 rules of operators without weights. With f of the original and g of the other network, c the centre:
 *   f(x) - g(x') = (g(x) - g(x')) + (f - g)(c) + ((f - g)(x) - (f - g)(c)),
 * so the error is at most Lip(g) e + ||(f - g)(c)|| + Lip(f - g) H, and the spread Lip(f) H. */
#include "check/check_l2.h"
#include "check/check_quantizer.h"

typedef struct call {
  const l2 *s;
  const qb_node *node, *partner; /* the latter may be NULL */
  const qb_shape *in, *out;
  const range *change;
  int64_t count; /* of the output */
  norms *y;
} call;

static const qb_value *operand(const call *c, int32_t slot) { return &c->s->graph->values[c->node->inputs[slot]]; }

/* The norms of an input in the weights of the output. */
static norms converted(const call *c, int32_t slot, bool aligned) {
  const norms *x = &c->s->values[c->node->inputs[slot]];
  double to = l2_conversion(c->s, c->node->inputs[slot], c->node->output, aligned);
  return (norms){mul_up(to, x->error), mul_up(to, x->spread), x->peak};
}

static double change_norm(const call *c) { return l2_norm_of(c->s, c->node->output, c->change, c->count); }

static double change_peak(const call *c) {
  double largest = 0;
  for (int64_t i = 0; i < c->count; i++)
    largest = fmax(largest, range_size(c->change[i]));
  return largest;
}

static double weight_at(const call *c, int64_t i) {
  const double *t = c->s->weights[c->node->output];
  return t == NULL ? 1 : t[qb_shape_channel(c->out, i)];
}

/* Root of a sum of squares that was rounded to nearest. */
static double norm_up(const call *c, double square) {
  return square == 0 ? 0 : sqrt(square) * (1 + rounding_of((double)c->count + 32)) + DBL_MIN;
}

static bool scaled(const call *c, bool aligned, double slope) {
  norms x = converted(c, 0, aligned);
  *c->y = (norms){mul_up(slope, x.error), mul_up(slope, x.spread), mul_up(slope, x.peak)};
  return true;
}

/* -------------------------------------------------------------------------------------------------- one activation */

/* max(1, |slope|) over all slopes. */
static bool prelu(const call *c) {
  const qb_value *slopes = operand(c, 1);
  double steepest = 1;
  for (size_t k = 0; slopes->is_constant && k < qb_shape_elements(&slopes->shape); k++)
    steepest = fmax(steepest, fabs((double)qb_view_f32(&slopes->constant)[k]));
  return slopes->is_constant && scaled(c, true, steepest);
}

/* y = s x + t, s = gamma / sqrt(var + eps). */
static bool batch_norm(const call *c) {
  double steepest = 0;
  for (int64_t k = 0; k < c->in->dims[1]; k++) {
    double variance = (double)qb_view_f32(&operand(c, 4)->constant)[k];
    range v = range_add(point(variance), point((double)c->node->attributes.batch_norm.epsilon));
    if (!(v.lo > 0))
      return false;
    range root = {-above(-sqrt(v.lo)), above(sqrt(v.hi))};
    range gamma = point((double)qb_view_f32(&operand(c, 1)->constant)[k]);
    steepest = fmax(steepest, range_size(range_mul(gamma, range_inverse(root))));
  }
  return scaled(c, true, steepest);
}

/* The Jacobian diag(p) - p p^T has rows of l1 norm 2 p (1 - p) <= 1/2 and is symmetric: 1/2 in both norms. */
static bool softmax(const call *c) {
  scaled(c, false, 0.5);
  c->y->peak = fmin(c->y->peak, 1);
  return true;
}

static double limit_change(double a, double b) { return a == b ? 0 : above(fabs(a - b)); }

/* Two clips differ by at most the larger change of their limits; both outputs lie within the hull of the limits, and
 * the original's within its own. */
static bool clips(const call *c, bool rounds) {
  norms x = converted(c, 0, true);
  const cells *centre = &c->s->at_centre.values[c->node->output];
  const cells *before = &c->s->at_centre.values[c->node->inputs[0]];
  double moved = 0, here = 0, width = 0, far = 0, step = 0, largest = 0, widest = 0, coarsest = 0;
  for (int64_t i = 0; i < c->count; i++) {
    int64_t channel = qb_shape_channel(c->out, i);
    clamp_step theirs = replaced_at(c->s->pair, c->partner, c->out, i);
    clamp_step ours =
        rounds ? quantizer_at(c->s->graph, c->node, c->out, i) : (clamp_step){clip_limits(c->node, channel), 0, 0, 0};
    range both = range_hull(theirs.limits, ours.limits);
    double most = fmax(limit_change(theirs.limits.lo, ours.limits.lo), limit_change(theirs.limits.hi, ours.limits.hi));
    double reach = fmax(add_up(theirs.limits.hi, -centre->at[i].x.lo), add_up(centre->at[i].x.hi, -theirs.limits.lo));
    range at_ours = range_clamp(before->at[i].x, ours.limits), at_theirs = range_clamp(before->at[i].x, theirs.limits);
    double t = weight_at(c, i), size = add_up(both.hi, -both.lo), now = range_size(range_sub(at_ours, at_theirs));
    moved += most / t * (most / t);
    here += now / t * (now / t);
    width += size / t * (size / t);
    far += reach / t * (reach / t);
    step += ours.step / t * (ours.step / t);
    largest = fmax(largest, most);
    widest = fmax(widest, size);
    coarsest = fmax(coarsest, ours.step);
  }
  double least = norm_up(c, moved), rounding = norm_up(c, step);
  if (rounds) /* or their change at the centre and how far x may be from it: their difference has slopes in [-1, 1] */
    least = fmin(least, add_up(norm_up(c, here), x.spread));
  c->y->error = fmin(add_up(add_up(x.error, least), rounding), norm_up(c, width));
  c->y->spread = fmin(x.spread, norm_up(c, far));
  c->y->peak = fmin(add_up(add_up(x.peak, largest), coarsest), widest);
  return true;
}

/* ------------------------------------------------------------------------------------------------------------- pools
 */

/* How many windows see a pixel along one axis: ceil(k gcd(stride, dilation) / stride). */
static double overlap(const qb_window *w, int axis) {
  int64_t a = w->stride[axis], b = w->dilation[axis];
  while (b != 0) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return ceil((double)((int64_t)w->kernel[axis] * a) / (double)w->stride[axis]);
}

static bool max_pool(const call *c) {
  const qb_window *w = &c->node->attributes.pool.window;
  norms x = converted(c, 0, true);
  double copies = root_up(overlap(w, 0) * overlap(w, 1));
  *c->y = (norms){mul_up(copies, x.error), mul_up(copies, x.spread), x.peak};
  return true;
}

/* Taps of the window at output position `at` along an axis: those inside the image, or inside the padded image. */
static int64_t taps_inside(const call *c, int axis, int64_t at, bool padded) {
  const qb_window *w = &c->node->attributes.pool.window;
  int64_t inside = 0, length = c->in->dims[2 + axis];
  for (int64_t k = 0; k < w->kernel[axis]; k++) {
    int64_t pixel = at * w->stride[axis] + k * w->dilation[axis] - w->pad_begin[axis];
    inside += padded ? pixel < length + w->pad_end[axis] : pixel >= 0 && pixel < length;
  }
  return inside;
}

/* The largest sum of 1 / divisor over the windows that see one pixel, along one axis: the mean is a product of both. */
static double column_sum(const call *c, int axis) {
  const qb_window *w = &c->node->attributes.pool.window;
  double largest = 0;
  for (int64_t pixel = 0; pixel < c->in->dims[2 + axis]; pixel++) {
    double sum = 0;
    for (int64_t at = 0; at < c->out->dims[2 + axis]; at++) {
      int64_t from = pixel + w->pad_begin[axis] - at * w->stride[axis];
      int64_t divisor = taps_inside(c, axis, at, c->node->attributes.pool.count_include_pad);
      if (from >= 0 && from % w->dilation[axis] == 0 && from / w->dilation[axis] < w->kernel[axis])
        sum = add_up(sum, above(1 / (double)divisor));
    }
    largest = fmax(largest, sum);
  }
  return largest;
}

/* Rows of a mean sum to at most 1, so its norm is at most the root of the largest column sum (Schur). */
static bool average_pool(const call *c) {
  norms x = converted(c, 0, true);
  double factor = root_up(mul_up(column_sum(c, 0), column_sum(c, 1)));
  *c->y = (norms){mul_up(factor, x.error), mul_up(factor, x.spread), mul_up(x.peak, 1 + 8 * DBL_EPSILON)};
  return true;
}

static bool global_average(const call *c) {
  norms x = converted(c, 0, true);
  if (c->in->rank != 4)
    return false;
  double factor = root_up(above(1 / (double)(c->in->dims[2] * c->in->dims[3])));
  *c->y = (norms){mul_up(factor, x.error), mul_up(factor, x.spread), mul_up(x.peak, 1 + 8 * DBL_EPSILON)};
  return true;
}

/* -------------------------------------------------------------------------------------------- several operands */

/* The slot of the one activation that has the shape of the output, or -1. */
static int32_t activation_slot(const call *c) {
  int32_t slot = operand(c, 0)->is_constant ? 1 : 0;
  return operand(c, 1 - slot)->is_constant && !operand(c, slot)->is_constant &&
                 qb_shape_equal(c->out, &operand(c, slot)->shape)
             ? slot
             : -1;
}

/* The constants of the two networks differ by the change at the centre, everywhere. */
static bool add(const call *c) {
  int32_t slot = activation_slot(c);
  norms a = converted(c, slot < 0 ? 0 : slot, true);
  *c->y = (norms){add_up(a.error, change_norm(c)), a.spread, add_up(a.peak, change_peak(c))};
  if (slot >= 0)
    return true;
  norms b = converted(c, 1, true);
  *c->y = (norms){add_up(a.error, b.error), add_up(a.spread, b.spread), add_up(a.peak, b.peak)};
  return !operand(c, 0)->is_constant && !operand(c, 1)->is_constant && qb_shape_equal(c->out, c->in) &&
         qb_shape_equal(c->out, &operand(c, 1)->shape);
}

/* By constants k and k' of one shape: Lip(g) = |k'|, Lip(f - g) = |k - k'|. */
static bool mul(const call *c) {
  int32_t slot = activation_slot(c);
  bool divides = c->node->op == QB_OP_DIV;
  const qb_value *ours = slot < 0 ? NULL : operand(c, 1 - slot);
  const qb_value *theirs = ours == NULL ? NULL : constant_of_partner(c->s->pair, c->partner, 1 - slot);
  if (theirs == NULL || (divides && slot == 1) || !qb_shape_equal(&ours->shape, &theirs->shape))
    return false;
  double own = 0, original = 0, moved = 0;
  for (size_t i = 0; i < qb_shape_elements(&ours->shape); i++) {
    range k = point((double)qb_view_f32(&theirs->constant)[i]), k_q = point((double)qb_view_f32(&ours->constant)[i]);
    bool same = k.lo == k_q.lo;
    k = divides ? range_inverse(k) : k;
    k_q = divides ? range_inverse(k_q) : k_q;
    original = fmax(original, range_size(k));
    own = fmax(own, range_size(k_q));
    moved = same ? moved : fmax(moved, range_size(range_sub(k_q, k)));
  }
  norms x = converted(c, slot, true);
  double spread = mul_up(moved, x.spread), at_most = mul_up(l2_largest_weight(c->s, c->node->output, false), spread);
  *c->y = (norms){add_up(add_up(mul_up(own, x.error), change_norm(c)), spread), mul_up(original, x.spread),
                  add_up(add_up(mul_up(own, x.peak), change_peak(c)), at_most)};
  return true;
}

/* The parts have no element in common, and the change at the centre is that of constant parts. */
static bool concat(const call *c) {
  double moved = change_norm(c), error = mul_up(moved, moved), spread = 0, peak = change_peak(c);
  for (int32_t slot = 0; slot < c->node->input_count; slot++) {
    if (operand(c, slot)->is_constant)
      continue;
    norms x = converted(c, slot, false);
    error = add_up(error, mul_up(x.error, x.error));
    spread = add_up(spread, mul_up(x.spread, x.spread));
    peak = fmax(peak, x.peak);
  }
  *c->y = (norms){root_up(error), root_up(spread), peak};
  return true;
}

/* Elements are copied or left out; the change at the centre is that of the value around them. */
static bool pad(const call *c) {
  norms x = converted(c, 0, false);
  *c->y = (norms){add_up(x.error, change_norm(c)), x.spread, fmax(x.peak, change_peak(c))};
  return true;
}

/* ------------------------------------------------------------------------------------------------------- the table */

static bool moves_channels(const call *c) {
  bool only_channels = c->in->rank >= 2 && c->out->rank >= 2 && (int64_t)qb_shape_elements(c->in) == c->in->dims[1] &&
                       (int64_t)qb_shape_elements(c->out) == c->out->dims[1];
  return !only_channels;
}

bool l2_other(const l2 *s, qb_node_id id, const range *change, norms *y) {
  const qb_node *node = &s->graph->nodes[id];
  qb_node_id partner = s->pair->partner[id];
  const call c = {.s = s,
                  .node = node,
                  .partner = partner == QB_NONE ? NULL : &s->pair->original->nodes[partner],
                  .in = &s->graph->values[node->inputs[0]].shape,
                  .out = &s->graph->values[node->output].shape,
                  .change = change,
                  .count = s->at_centre.values[node->output].count,
                  .y = y};
  double alpha = (double)node->attributes.linear.alpha;
  switch (node->op) {
  case QB_OP_RELU:
  case QB_OP_TANH:
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT:
  case QB_OP_DEQUANTIZE_LINEAR: return scaled(&c, true, 1);
  case QB_OP_FLATTEN:
  case QB_OP_RESHAPE:
  case QB_OP_SQUEEZE:
  case QB_OP_UNSQUEEZE: return scaled(&c, !moves_channels(&c), 1);
  case QB_OP_TRANSPOSE: return scaled(&c, false, 1);
  case QB_OP_SIGMOID: return scaled(&c, true, 0.25);
  case QB_OP_HARD_SWISH: return scaled(&c, true, 1.5);
  case QB_OP_LEAKY_RELU: return scaled(&c, true, fmax(1, fabs(alpha)));
  case QB_OP_HARD_SIGMOID: return scaled(&c, true, fabs(alpha));
  case QB_OP_PRELU: return prelu(&c);
  case QB_OP_BATCH_NORM: return batch_norm(&c);
  case QB_OP_SOFTMAX: return softmax(&c);
  case QB_OP_CLIP: return c.partner != NULL && clips(&c, false);
  case QB_OP_QUANTIZE_LINEAR: return (c.partner == NULL || c.partner->op != QB_OP_QUANTIZE_LINEAR) && clips(&c, true);
  case QB_OP_MAX_POOL: return max_pool(&c);
  case QB_OP_AVERAGE_POOL: return average_pool(&c);
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: return global_average(&c);
  case QB_OP_ADD:
  case QB_OP_SUB: return add(&c);
  case QB_OP_MUL:
  case QB_OP_DIV: return mul(&c);
  case QB_OP_CONCAT: return concat(&c);
  case QB_OP_PAD: return pad(&c);
  default: return false;
  }
}
