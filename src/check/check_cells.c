/* One rule per operator family, written for one element; see cells.h. */
#include "check/check_cells.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "check/check_evaluation.h"
#include "check/check_layout.h"
#include "check/check_quantizer.h"

typedef struct call {
  walk *w;
  qb_node_id id;
  const qb_node *node, *partner; /* of the quantized and of the original graph; the latter may be NULL */
  const qb_shape *shape;         /* of the output */
  cells *y;
} call;

typedef bool (*rule)(const call *c); /* false: unknown */

/* --------------------------------------------------------------------------------------------------------- elements */

static int64_t channel_of(const qb_shape *shape, int64_t i) {
  int64_t inner = 1;
  for (int32_t axis = 2; axis < shape->rank; axis++)
    inner *= shape->dims[axis];
  return shape->rank < 2 ? 0 : i / inner % shape->dims[1];
}

int64_t cell_of(walk_grain grain, const qb_shape *shape, int64_t i) {
  return grain != GRAIN_COARSE ? i : channel_of(shape, i);
}

static int64_t cell_count(walk_grain grain, const qb_shape *shape) {
  return grain != GRAIN_COARSE ? (int64_t)qb_shape_elements(shape) : shape->rank < 2 ? 1 : shape->dims[1];
}

static int64_t count_of(const call *c) { return (int64_t)qb_shape_elements(c->shape); }

static const qb_value *operand(const call *c, int32_t slot) {
  return &c->w->pair->quantized->values[c->node->inputs[slot]];
}

/* Element i of an activation input. */
static triple input(const call *c, int32_t slot, int64_t i) {
  return c->w->values[c->node->inputs[slot]].at[cell_of(c->w->grain, &operand(c, slot)->shape, i)];
}

static void put(const call *c, int64_t i, triple t) {
  triple *cell = &c->y->at[cell_of(c->w->grain, c->shape, i)];
  *cell = (triple){range_hull(cell->x, t.x), range_hull(cell->q, t.q), range_hull(cell->d, t.d)};
}

/* Index into a tensor of shape `part` that broadcasts to `whole`, for element i of the latter. */
static int64_t broadcast(const qb_shape *whole, const qb_shape *part, int64_t i) {
  int64_t index = 0, stride = 1;
  for (int32_t k = 1; k <= whole->rank; k++) {
    int64_t at = i % whole->dims[whole->rank - k];
    i /= whole->dims[whole->rank - k];
    if (k > part->rank)
      continue;
    index += part->dims[part->rank - k] == 1 ? 0 : at * stride;
    stride *= part->dims[part->rank - k];
  }
  return index;
}

const qb_value *constant_of_partner(const qb_pair *pair, const qb_node *partner, int32_t slot) {
  const qb_graph *graph = pair->original;
  if (slot < partner->input_count && partner->inputs[slot] != QB_NONE &&
      graph->values[partner->inputs[slot]].is_constant)
    return &graph->values[partner->inputs[slot]];
  for (int32_t k = 0; k < partner->input_count; k++)
    if (graph->values[partner->inputs[k]].is_constant)
      return &graph->values[partner->inputs[k]];
  return NULL;
}

static const qb_value *partner_constant(const call *c, int32_t slot) {
  return constant_of_partner(c->w->pair, c->partner, slot);
}

/* Element i of the broadcast operand, an activation or a constant of both networks. */
static triple operand_at(const call *c, int32_t slot, const qb_shape *whole, int64_t i) {
  const qb_value *value = operand(c, slot);
  if (!value->is_constant)
    return input(c, slot, broadcast(whole, &value->shape, i));
  const qb_value *theirs = partner_constant(c, slot);
  range q = point((double)qb_view_f32(&value->constant)[broadcast(whole, &value->shape, i)]);
  range x = point((double)qb_view_f32(&theirs->constant)[broadcast(whole, &theirs->shape, i)]);
  return (triple){x, q, range_sub(q, x)};
}

static bool has_partner_constants(const call *c) {
  for (int32_t slot = 0; slot < c->node->input_count; slot++)
    if (operand(c, slot)->is_constant && partner_constant(c, slot) == NULL)
      return false;
  return true;
}

/* ---------------------------------------------------------------------------------------------------- one activation
 */

/* Values of f over a range of arguments, and of its slopes there. */
typedef struct image {
  range values, slopes;
} image;

/* d: by the mean value theorem f(q) - f(x) = s (q - x) with a slope s over the hull of both ranges. */
static triple through(triple t, image at_x, image at_q, image at_both) {
  return (triple){at_x.values, at_q.values, range_mul(at_both.slopes, t.d)};
}

static image clip_image(range x, range limits) {
  bool within = x.lo >= limits.lo && x.hi <= limits.hi, outside = x.hi <= limits.lo || x.lo >= limits.hi;
  return (image){range_clamp(x, limits), {within ? 1 : 0, outside ? 0 : 1}};
}

static bool rule_relu(const call *c) {
  const range limits = {0, INFINITY};
  for (int64_t i = 0; i < count_of(c); i++) {
    triple t = input(c, 0, i);
    put(c, i, through(t, clip_image(t.x, limits), clip_image(t.q, limits), clip_image(range_hull(t.x, t.q), limits)));
  }
  return true;
}

/* max(x, 0) + slope min(x, 0): linear on both sides of 0. */
static range leaky_at(double x, double slope) { return x >= 0 ? point(x) : range_mul(point(slope), point(x)); }

static image leaky_image(range x, double slope) {
  range values = range_hull(leaky_at(x.lo, slope), leaky_at(x.hi, slope)), slopes = {fmin(1, slope), fmax(1, slope)};
  if (x.lo < 0 && x.hi > 0)
    values = range_hull(values, point(0));
  if (x.lo >= 0 || x.hi <= 0)
    slopes = point(x.lo >= 0 ? 1 : slope);
  return (image){values, slopes};
}

static bool rule_leaky_relu(const call *c) {
  double slope = (double)c->node->attributes.linear.alpha;
  for (int64_t i = 0; i < count_of(c); i++) {
    triple t = input(c, 0, i);
    put(c, i, through(t, leaky_image(t.x, slope), leaky_image(t.q, slope), leaky_image(range_hull(t.x, t.q), slope)));
  }
  return true;
}

static bool rule_prelu(const call *c) {
  const qb_value *slopes = operand(c, 1);
  for (int64_t i = 0; slopes->is_constant && i < count_of(c); i++) {
    double slope = (double)qb_view_f32(&slopes->constant)[broadcast(c->shape, &slopes->shape, i)];
    triple t = input(c, 0, i);
    put(c, i, through(t, leaky_image(t.x, slope), leaky_image(t.q, slope), leaky_image(range_hull(t.x, t.q), slope)));
  }
  return slopes->is_constant;
}

/* sup over x of |clip(x; a) - clip(x; b)|: piecewise linear with kinks at the four limits. */
static double clip_difference(range x, range a, range b) {
  const double kinks[6] = {x.lo, x.hi, a.lo, a.hi, b.lo, b.hi};
  double largest = 0;
  for (int k = 0; k < 6; k++) {
    range p = range_clamp(point(kinks[k]), x), pa = range_clamp(p, a), pb = range_clamp(p, b);
    largest = fmax(largest, pa.lo == pb.lo ? 0 : above(fabs(pa.lo - pb.lo)));
  }
  return largest;
}

static bool rule_clip(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++) {
    range ours = clip_limits(c->node, channel_of(c->shape, i)),
          theirs = clip_limits(c->partner, channel_of(c->shape, i));
    triple t = input(c, 0, i);
    bool same = ours.lo == theirs.lo && ours.hi == theirs.hi;
    double moved = same ? 0 : fmin(clip_difference(t.x, theirs, ours), clip_difference(t.q, theirs, ours));
    image one = clip_image(range_hull(t.x, t.q), theirs), two = same ? one : clip_image(range_hull(t.x, t.q), ours);
    one.slopes = range_hull(one.slopes, two.slopes); /* either network's clip, whichever `moved` speaks of */
    triple y = through(t, clip_image(t.x, theirs), clip_image(t.q, ours), one);
    y.d = range_add(y.d, (range){-moved, moved});
    put(c, i, y);
  }
  return true;
}

/* An increasing function from libm, with 2^-45 of its size and 2^-60 for its error, and limits that it keeps. */
static range libm_range(double (*f)(double), range x, range limits) {
  double lo = f(x.lo), hi = f(x.hi);
  return range_clamp((range){lo - fabs(lo) * 0x1p-45 - 0x1p-60, hi + fabs(hi) * 0x1p-45 + 0x1p-60}, limits);
}

static double logistic(double x) { return 1 / (1 + exp(-x)); }

static bool smooth(const call *c, double (*f)(double), range limits, range slopes) {
  for (int64_t i = 0; i < count_of(c); i++) {
    triple t = input(c, 0, i);
    image both = {{0, 0}, slopes};
    put(c, i,
        through(t, (image){libm_range(f, t.x, limits), slopes}, (image){libm_range(f, t.q, limits), slopes}, both));
  }
  return true;
}

static bool rule_sigmoid(const call *c) { return smooth(c, logistic, (range){0, 1}, (range){0, 0.25}); }
static bool rule_tanh(const call *c) { return smooth(c, tanh, (range){-1, 1}, (range){0, 1}); }

static bool rule_hard_sigmoid(const call *c) {
  double alpha = (double)c->node->attributes.linear.alpha, beta = (double)c->node->attributes.linear.beta;
  const range limits = {0, 1}, slopes = {fmin(alpha, 0), fmax(alpha, 0)};
  for (int64_t i = 0; i < count_of(c); i++) {
    triple t = input(c, 0, i);
    range x = range_add(range_mul(point(alpha), t.x), point(beta)),
          q = range_add(range_mul(point(alpha), t.q), point(beta));
    put(c, i, (triple){range_clamp(x, limits), range_clamp(q, limits), range_mul(slopes, t.d)});
  }
  return true;
}

/* x clip(x / 6 + 1/2, 0, 1): falls from 0 at -3 to -3/8 at -3/2, then rises. */
static range hard_swish(range x) {
  range ends[2], limits = {0, 1};
  for (int k = 0; k < 2; k++) {
    range p = point(k == 0 ? x.lo : x.hi);
    range gate = range_clamp(range_mul(range_add(p, point(3)), range_inverse(point(6))), limits);
    ends[k] = isinf(p.lo) ? (p.lo > 0 ? p : point(0)) : range_mul(p, gate);
  }
  range y = range_hull(ends[0], ends[1]);
  if (x.lo < -1.5 && x.hi > -1.5)
    y.lo = -0.375;
  if (x.lo < -3 && x.hi > -3)
    y.hi = fmax(y.hi, 0);
  return y;
}

static bool rule_hard_swish(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++) {
    triple t = input(c, 0, i);
    put(c, i, (triple){hard_swish(t.x), hard_swish(t.q), range_mul((range){-0.5, 1.5}, t.d)});
  }
  return true;
}

/* Frozen BatchNorm, the same in both networks: y = s (x - mean) + beta, s = gamma / sqrt(var + eps). */
static bool rule_batch_norm(const call *c) {
  double p[4];
  for (int64_t i = 0; i < count_of(c); i++) {
    for (int32_t k = 0; k < 4; k++)
      p[k] = (double)qb_view_f32(&operand(c, 1 + k)->constant)[channel_of(c->shape, i)];
    range v = range_add(point(p[3]), point((double)c->node->attributes.batch_norm.epsilon));
    if (!(v.lo > 0))
      return false;
    range root = {-above(-sqrt(v.lo)), above(sqrt(v.hi))}, s = range_mul(point(p[0]), range_inverse(root));
    range shift = range_sub(point(p[1]), range_mul(point(p[2]), s));
    triple t = input(c, 0, i);
    put(c, i, (triple){range_add(range_mul(s, t.x), shift), range_add(range_mul(s, t.q), shift), range_mul(s, t.d)});
  }
  return true;
}

/* exp(x), with 2^-45 of its size for libm's error. */
static range exponential(range x) { return (range){exp(x.lo) * (1 - 0x1p-45), exp(x.hi) * (1 + 0x1p-45) + 0x1p-1000}; }

/* Entry i of a softmax over `length` points in steps of `inner`, all moved by the largest. */
static range softmax_at(const call *c, int64_t first, int64_t length, int64_t inner, int64_t i) {
  double top = -INFINITY;
  range sum = {0, 0};
  for (int64_t k = 0; k < length; k++)
    top = fmax(top, input(c, 0, first + k * inner).x.hi);
  for (int64_t k = 0; k < length; k++)
    sum = range_add(sum, exponential(range_sub(input(c, 0, first + k * inner).x, point(top))));
  range p = range_mul(exponential(range_sub(input(c, 0, i).x, point(top))), range_inverse(sum));
  return range_clamp(p, (range){0, 1});
}

/* Row i of the Jacobian has the l1 norm 2 p_i (1 - p_i) <= 1/2. */
static bool rule_softmax(const call *c) {
  int64_t length = 1, inner = 1;
  for (int32_t axis = c->node->attributes.axes.axis; axis < c->shape->rank; axis++)
    *(axis < c->node->attributes.axes.end_axis ? &length : &inner) *= c->shape->dims[axis];
  for (int64_t i = 0; i < count_of(c); i++) {
    int64_t first = i / (length * inner) * length * inner + i % inner;
    double widest = 0;
    for (int64_t k = 0; k < length; k++)
      widest = fmax(widest, range_size(input(c, 0, first + k * inner).d));
    double e = fmin(1, widest / 2);
    range p = {0, 1};
    if (c->w->grain == GRAIN_FINE && widest == 0) /* a centre; else no more is needed */
      p = softmax_at(c, first, length, inner, i);
    put(c, i, (triple){p, p, {-e, e}});
  }
  return true;
}

/* ------------------------------------------------------------------------------------------------------------ windows
 */

/* What a window sees of one track. */
typedef struct view {
  range top, sum; /* maxima, sums of both ends */
  double least, size;
} view;

static void look(view *v, range r) {
  v->top = (range){fmax(v->top.lo, r.lo), fmax(v->top.hi, r.hi)};
  v->least = fmin(v->least, r.lo);
  v->sum = range_add(v->sum, r);
}

/* The window at output element i; returns the number of pixels inside the image. */
static int64_t look_window(const call *c, const qb_window *w, int64_t i, view v[3]) {
  const qb_shape *x = &operand(c, 0)->shape;
  int64_t plane = i / (c->shape->dims[2] * c->shape->dims[3]), seen = 0;
  int64_t at[2] = {i / c->shape->dims[3] % c->shape->dims[2], i % c->shape->dims[3]};
  for (int k = 0; k < 3; k++)
    v[k] = (view){.top = {-INFINITY, -INFINITY}, .least = INFINITY};
  for (int64_t a = 0; a < w->kernel[0]; a++)
    for (int64_t b = 0; b < w->kernel[1]; b++) {
      int64_t row = at[0] * w->stride[0] + a * w->dilation[0] - w->pad_begin[0];
      int64_t column = at[1] * w->stride[1] + b * w->dilation[1] - w->pad_begin[1];
      if (row < 0 || row >= x->dims[2] || column < 0 || column >= x->dims[3])
        continue;
      triple t = input(c, 0, (plane * x->dims[2] + row) * x->dims[3] + column);
      look(&v[0], t.x);
      look(&v[1], t.q);
      look(&v[2], t.d);
      seen++;
    }
  return seen;
}

/* max(q) - max(x) lies between the least and the largest d of the window. */
static bool rule_max_pool(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++) {
    view v[3];
    look_window(c, &c->node->attributes.pool.window, i, v);
    put(c, i, (triple){v[0].top, v[1].top, {v[2].least, v[2].top.hi}});
  }
  return true;
}

/* Pixels that an average divides by: those inside the padded image, or inside the image. */
static int64_t divisor_of(const call *c, const qb_window *w, int64_t i, int64_t seen) {
  const qb_shape *x = &operand(c, 0)->shape;
  int64_t at[2] = {i / c->shape->dims[3] % c->shape->dims[2], i % c->shape->dims[3]}, product = 1;
  if (!c->node->attributes.pool.count_include_pad)
    return seen;
  for (int axis = 0; axis < 2; axis++) {
    int64_t within = 0, limit = x->dims[2 + axis] + w->pad_begin[axis] + w->pad_end[axis];
    for (int64_t k = 0; k < w->kernel[axis]; k++)
      within += at[axis] * w->stride[axis] + k * w->dilation[axis] < limit;
    product *= within;
  }
  return product;
}

static bool rule_average(const call *c) {
  const qb_shape *x = &operand(c, 0)->shape;
  bool pool = c->node->op == QB_OP_AVERAGE_POOL;
  if (x->rank != 4)
    return false;
  int64_t area = x->dims[2] * x->dims[3];
  for (int64_t i = 0; i < count_of(c); i++) {
    view v[3] = {{.least = 0}};
    int64_t divisor = area;
    if (pool) {
      divisor =
          divisor_of(c, &c->node->attributes.pool.window, i, look_window(c, &c->node->attributes.pool.window, i, v));
    } else {
      for (int64_t k = 0; k < area; k++) {
        triple t = input(c, 0, i * area + k);
        look(&v[0], t.x);
        look(&v[1], t.q);
        look(&v[2], t.d);
      }
    }
    range share = range_inverse(point((double)divisor));
    put(c, i, (triple){range_mul(share, v[0].sum), range_mul(share, v[1].sum), range_mul(share, v[2].sum)});
  }
  return true;
}

/* --------------------------------------------------------------------------------------------------------- arithmetic
 */

static bool rule_add(const call *c) {
  bool minus = c->node->op == QB_OP_SUB;
  for (int64_t i = 0; has_partner_constants(c) && i < count_of(c); i++) {
    triple a = operand_at(c, 0, c->shape, i), b = operand_at(c, 1, c->shape, i);
    if (minus)
      b = (triple){range_neg(b.x), range_neg(b.q), range_neg(b.d)};
    put(c, i, (triple){range_add(a.x, b.x), range_add(a.q, b.q), range_add(a.d, b.d)});
  }
  return has_partner_constants(c);
}

/* d = q_a d_b + x_b d_a = x_a d_b + q_b d_a; a division multiplies by 1/b, which moves by -d / (x q). */
static bool rule_mul(const call *c) {
  for (int64_t i = 0; has_partner_constants(c) && i < count_of(c); i++) {
    triple a = operand_at(c, 0, c->shape, i), b = operand_at(c, 1, c->shape, i);
    if (c->node->op == QB_OP_DIV) {
      range x = range_inverse(b.x), q = range_inverse(b.q);
      range by_values = range_sub(q, x), by_slope = range_neg(range_mul(b.d, range_mul(x, q)));
      b = (triple){x, q, range_meet(by_values, by_slope)};
    }
    range one = range_add(range_mul(a.q, b.d), range_mul(b.x, a.d));
    range two = range_add(range_mul(a.x, b.d), range_mul(b.q, a.d));
    bool fine = c->w->grain == GRAIN_FINE;
    range d = fine ? range_meet(one, two) : range_size(one) <= range_size(two) ? one : two;
    put(c, i, (triple){range_mul(a.x, b.x), range_mul(a.q, b.q), d});
  }
  return has_partner_constants(c);
}

/* ---------------------------------------------------------------------------------------------------- moving elements
 */

static bool rule_reshape(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++)
    put(c, i, input(c, 0, i));
  c->y->codes = c->w->values[c->node->inputs[0]].codes;
  return true;
}

static bool rule_concat(const call *c) {
  int64_t first = 0;
  for (int32_t slot = 0; slot < c->node->input_count; slot++) {
    const qb_shape *own = &operand(c, slot)->shape;
    for (int64_t i = 0; has_partner_constants(c) && i < (int64_t)qb_shape_elements(own); i++)
      put(c, concat_target(c->node, own, c->shape, first, i), operand_at(c, slot, own, i));
    first += own->dims[c->node->attributes.axes.axis];
  }
  return has_partner_constants(c);
}

static bool rule_pad(const call *c) {
  range q = point((double)c->node->attributes.pad.value), own = point((double)c->partner->attributes.pad.value);
  for (int64_t i = 0; i < count_of(c); i++) {
    int64_t source = pad_source(c->node, &operand(c, 0)->shape, c->shape, i);
    put(c, i, source >= 0 ? input(c, 0, source) : (triple){own, q, range_sub(q, own)});
  }
  return true;
}

static bool rule_transpose(const call *c) {
  for (int64_t i = 0; i < count_of(c); i++)
    put(c, i, input(c, 0, transpose_source(c->node, &operand(c, 0)->shape, c->shape, i)));
  return true;
}

/* ------------------------------------------------------------------------------------------------ quantized
 * activations */

/* Constants with positive scales. */
static bool good_grid(const qb_graph *graph, const qb_node *node) {
  for (int32_t slot = 1; slot < node->input_count; slot++)
    if (node->inputs[slot] != QB_NONE && !graph->values[node->inputs[slot]].is_constant)
      return false;
  const qb_value *scale = &graph->values[node->inputs[1]];
  for (size_t k = 0; k < qb_shape_elements(&scale->shape); k++)
    if (!(qb_view_f32(&scale->constant)[k] > 0))
      return false;
  return true;
}

/* Fine and alone: q' is within half a step of q inside the limits, else the limit itself, on the side of x. */
/* A network beside its own evaluation: the exact one takes the evaluation's codes, which are off by at most one for it
 * where the two differ by at most half a step. */
static bool take_codes(const call *c) {
  if (c->node->attributes.quantize.steps < 1 || c->w->grain != GRAIN_FINE)
    return false;
  for (int64_t i = 0; i < count_of(c); i++) {
    clamp_step own = quantizer_at(c->w->pair->quantized, c->node, c->shape, i);
    triple t = input(c, 0, i);
    if (!(range_size(t.d) <= own.off / (2 * (double)c->node->attributes.quantize.steps)))
      return false;
    range codes = quantized(t.q, own);
    put(c, i, (triple){codes, codes, point(0)});
  }
  c->y->codes = c->node;
  return true;
}

static bool rule_quantize_linear(const call *c) {
  bool both = c->partner != NULL && c->partner->op == QB_OP_QUANTIZE_LINEAR;
  if (!good_grid(c->w->pair->quantized, c->node) || (both && !good_grid(c->w->pair->original, c->partner)) ||
      (c->partner != NULL && !both && c->partner->op != QB_OP_RELU && c->partner->op != QB_OP_CLIP))
    return false;
  if (c->w->pair->own)
    return take_codes(c);
  for (int64_t i = 0; i < count_of(c); i++) {
    clamp_step own = quantizer_at(c->w->pair->quantized, c->node, c->shape, i),
               theirs = replaced_at(c->w->pair, c->partner, c->shape, i);
    triple t = input(c, 0, i);
    double moved =
        fmin(clip_difference(t.x, theirs.limits, own.limits), clip_difference(t.q, theirs.limits, own.limits));
    double more = add_up(moved, add_up(own.step, theirs.step));
    /* clip(q) - clip(x) has the sign of d and at most its size, with either network's limits */
    range d = range_add(range_mul((range){0, 1}, t.d), (range){-more, more});
    if (c->w->grain == GRAIN_FINE && c->partner == NULL)
      d = range_meet(d, (range){fmin(add_down(t.d.lo, -own.step), add_down(add_down(own.limits.hi, -own.off), -t.x.hi)),
                                fmax(add_up(t.d.hi, own.step), add_up(add_up(own.limits.lo, own.off), -t.x.lo))});
    triple y = {quantized(t.x, theirs), quantized(t.q, own), d};
    if (c->w->grain == GRAIN_FINE && c->partner != NULL && !both) {
      y.q = range_meet(y.q, codes_within(t.q, own));
      y.d = range_meet(d, clamp_difference(t.x, t.q, t.d, theirs.limits, own));
    }
    put(c, i, y);
  }
  c->y->codes = c->node;
  return true;
}

/* The same scale and zero point for every element. */
static bool same_grid(const qb_graph *graph, const qb_node *a, const qb_node *b, const qb_shape *shape) {
  for (int64_t i = 0; i < (int64_t)qb_shape_elements(shape); i++) {
    clamp_step one = quantizer_at(graph, a, shape, i), two = quantizer_at(graph, b, shape, i);
    range hi = {one.limits.hi, two.limits.hi};
    if (one.step != two.step || one.limits.lo != two.limits.lo || hi.lo != hi.hi)
      return false;
  }
  return true;
}

/* The codes are kept in real units, so this is a copy. */
static bool rule_dequantize_linear(const call *c) {
  const qb_pair *pair = c->w->pair;
  const qb_node *codes = c->w->values[c->node->inputs[0]].codes;
  qb_node copy = *c->node; /* DequantizeLinear has the same inputs; the code range is the quantizer's */
  if (codes == NULL || !good_grid(pair->quantized, c->node))
    return false;
  copy.attributes.quantize = codes->attributes.quantize;
  copy.attributes.quantize.axis = c->node->attributes.quantize.axis;
  if (!same_grid(pair->quantized, codes, &copy, &operand(c, 0)->shape))
    return false;
  if (c->partner != NULL) { /* both networks quantize here */
    qb_node_id own = pair->partner[codes - pair->quantized->nodes];
    if (own == QB_NONE || pair->original->nodes[own].op != QB_OP_QUANTIZE_LINEAR ||
        !good_grid(pair->original, c->partner))
      return false;
    copy = *c->partner;
    copy.attributes.quantize = pair->original->nodes[own].attributes.quantize;
    copy.attributes.quantize.axis = c->partner->attributes.quantize.axis;
    if (!same_grid(pair->original, &pair->original->nodes[own], &copy, &operand(c, 0)->shape))
      return false;
  }
  rule_reshape(c);
  c->y->codes = NULL;
  return true;
}

/* ----------------------------------------------------------------------------------------------------------- the walk
 */

#define rule_conv NULL /* check_linear.c */
#define rule_conv_transpose NULL
#define rule_gemm NULL
static const rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = rule_##FAMILY,
#include "graph/op_list.h"
};

static qb_status new_cells(walk *w, const qb_shape *shape, cells *y) {
  const triple empty = {{INFINITY, -INFINITY}, {INFINITY, -INFINITY}, {INFINITY, -INFINITY}};
  y->count = cell_count(w->grain, shape);
  y->at = qb_arena_alloc(&w->arena, (size_t)y->count, sizeof *y->at);
  if (y->at == NULL)
    return qb_fail_memory(w->error, "ranges", (size_t)y->count * sizeof *y->at);
  for (int64_t i = 0; i < y->count; i++)
    y->at[i] = empty;
  if (!w->pair->float32 || w->grain != GRAIN_FINE)
    return QB_OK;
  y->moved = qb_arena_alloc(&w->arena, (size_t)y->count, sizeof *y->moved);
  return y->moved != NULL ? QB_OK : qb_fail_memory(w->error, "ranges", (size_t)y->count * sizeof *y->moved);
}

qb_status walk_begin(walk *w, const qb_pair *pair, walk_grain grain, const range *domain, qb_error *error) {
  const qb_graph *graph = pair->quantized;
  *w = (walk){.pair = pair, .grain = grain, .error = error};
  qb_arena_init(&w->arena);
  qb_arena_init(&w->scratch);
  w->values = qb_arena_alloc(&w->arena, (size_t)graph->value_count, sizeof *w->values);
  if (w->values == NULL)
    return qb_fail_memory(error, "ranges", (size_t)graph->value_count * sizeof *w->values);
  cells *x = &w->values[graph->inputs[0]];
  const qb_shape *shape = &graph->values[graph->inputs[0]].shape;
  QB_TRY(new_cells(w, shape, x));
  for (int64_t i = 0; i < (int64_t)qb_shape_elements(shape); i++) {
    triple *t = &x->at[cell_of(grain, shape, i)];
    *t = (triple){range_hull(t->x, domain[i]), range_hull(t->q, domain[i]), point(0)};
  }
  return QB_OK;
}

/* x, q and d = q - x tighten each other; NaN is no knowledge; coarse differences are symmetric. */
void cells_tighten(walk_grain grain, triple *t) {
  range *ranges[3] = {&t->x, &t->q, &t->d};
  for (int k = 0; k < 3; k++)
    *ranges[k] =
        (range){isnan(ranges[k]->lo) ? -INFINITY : ranges[k]->lo, isnan(ranges[k]->hi) ? INFINITY : ranges[k]->hi};
  range by_values = range_sub(t->q, t->x);
  double e = fmin(range_size(t->d), fmax(0, fmax(by_values.hi, -by_values.lo)));
  t->d = grain == GRAIN_FINE ? range_meet(t->d, by_values) : (range){-e, e};
  t->q = range_meet(t->q, range_add(t->x, t->d));
  t->x = range_meet(t->x, range_sub(t->q, t->d));
}

/* Nothing but sizes stays of what a rule found; the coarse walk adds the ranges that it knows. */
static void forget_signs(const triple *coarse, triple *t) {
  const range *limits[3] = {&coarse->x, &coarse->q, &coarse->d};
  range *ranges[3] = {&t->x, &t->q, &t->d};
  for (int k = 0; k < 3; k++) {
    double size = isnan(ranges[k]->lo) || isnan(ranges[k]->hi) ? INFINITY : range_size(*ranges[k]);
    *ranges[k] = range_meet((range){-size, size}, *limits[k]);
  }
}

static bool is_linear(qb_op op) { return rules[op] == NULL; }

/* Copies and quantizers may stand alone; integer codes may only be moved and dequantized. */
static bool fits(const call *c) {
  rule r = rules[c->node->op];
  bool moves = r == rule_reshape, quantizes = r == rule_quantize_linear || r == rule_dequantize_linear;
  for (int32_t slot = 0; slot < c->node->input_count; slot++)
    if (c->node->inputs[slot] != QB_NONE && c->w->values[c->node->inputs[slot]].codes != NULL && !moves &&
        r != rule_dequantize_linear)
      return false;
  if (c->partner == NULL)
    return moves || quantizes;
  bool same = r == rules[c->partner->op] && !(is_linear(c->node->op) && !is_linear(c->partner->op));
  bool named =
      r == rule_add || r == rule_mul || c->node->op == QB_OP_AVERAGE_POOL || c->partner->op == QB_OP_AVERAGE_POOL;
  if (r == rule_quantize_linear)
    return true;
  return same && (!named || c->node->op == c->partner->op) && qb_pair_same_parameters(c->w->pair, c->id) &&
         qb_shape_equal(c->shape, &c->w->pair->original->values[c->partner->output].shape);
}

static qb_status apply(const call *c, bool *known) {
  *known = fits(c);
  if (!*known)
    return QB_OK;
  if (is_linear(c->node->op))
    return cells_linear(c->w, c->id, c->y->at, known);
  *known = rules[c->node->op](c);
  return QB_OK;
}

qb_status walk_visit(walk *w, qb_node_id id, bool *known) {
  const qb_graph *graph = w->pair->quantized;
  const qb_node *node = &graph->nodes[id];
  qb_node_id partner = w->pair->partner[id];
  call c = {w,
            id,
            node,
            partner == QB_NONE ? NULL : &w->pair->original->nodes[partner],
            &graph->values[node->output].shape,
            &w->values[node->output]};
  *known = true;
  if (w->pair->value[node->output] == QB_NONE)
    return QB_OK; /* no output depends on it */
  QB_TRY(new_cells(w, c.shape, c.y));
  QB_TRY(apply(&c, known));
  bool evaluates = !w->pair->float32;
  if (*known && w->pair->float32)
    QB_TRY(cells_evaluate(w, id, &evaluates));
  qb_arena_free(&w->scratch);
  qb_arena_init(&w->scratch);
  if (!*known || !evaluates)
    snprintf(w->why, sizeof w->why, "node '%s' (%s) %s", node->name, qb_op_name(node->op),
             *known ? "is not bounded in float32: how it is evaluated is not known, or something may overflow"
                    : "has no rule here");
  *known = *known && evaluates;
  for (int64_t i = 0; *known && i < c.y->count; i++) {
    if (w->grain == GRAIN_SIZES)
      forget_signs(&w->limits->values[node->output].at[channel_of(c.shape, i)], &c.y->at[i]);
    cells_tighten(w->grain, &c.y->at[i]);
  }
  return QB_OK;
}

void walk_free(walk *w) {
  qb_arena_free(&w->scratch);
  qb_arena_free(&w->arena);
  *w = (walk){0};
}
