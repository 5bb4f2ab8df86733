/* Steps, limits and codes of quantizers. */
#include "check/check_quantizer.h"

range clip_limits(const qb_node *node, int64_t channel) {
  const qb_clip_attributes *clip = &node->attributes.clip;
  return (range){(double)clip->lo, (double)(clip->hi_channels == NULL ? clip->hi : clip->hi_channels[channel])};
}

/* Scale or zero point at an index along the axis; exact products below: scales have 24 bits, codes at most 17. */
static double grid_entry(const qb_graph *graph, const qb_node *node, int32_t slot, int64_t index) {
  if (slot >= node->input_count || node->inputs[slot] == QB_NONE)
    return 0;
  const qb_value *value = &graph->values[node->inputs[slot]];
  return (double)qb_view_f32(&value->constant)[qb_shape_elements(&value->shape) == 1 ? 0 : index];
}

/* Inside the range |s k - clip(x)| is at most half a step, or a whole one for rounding down. Where the quotient is f x
 * with f s = 1 + d, another |d| / (1 - |d|) times the end of the range. */
static double step_of(const qb_node *node, double s, double z) {
  double off = (double)node->attributes.quantize.steps * s, f = (double)node->attributes.quantize.factor;
  double step = add_up(node->attributes.quantize.rounding == QB_ROUND_DOWN ? s : s / 2, off);
  double d = f == 0 ? 0 : fabs(f * s - 1); /* exact */
  double lo = fabs((double)node->attributes.quantize.lo - z), hi = fabs((double)node->attributes.quantize.hi - z);
  return d == 0 ? step : add_up(step, (lo > hi ? lo : hi) * s * d / (1 - d) * (1 + 0x1p-40));
}

clamp_step quantizer_at(const qb_graph *graph, const qb_node *node, const qb_shape *shape, int64_t i) {
  int64_t inner = 1;
  int32_t axis = node->attributes.quantize.axis;
  for (int32_t k = axis + 1; k < shape->rank; k++)
    inner *= shape->dims[k];
  int64_t index = axis < 0 || axis >= shape->rank ? 0 : i / inner % shape->dims[axis];
  double s = grid_entry(graph, node, 1, index), z = grid_entry(graph, node, 2, index);
  return (clamp_step){{s * ((double)node->attributes.quantize.lo - z), s * ((double)node->attributes.quantize.hi - z)},
                      step_of(node, s, z),
                      (double)node->attributes.quantize.steps * s,
                      z == floor(z) ? s : 0};
}

clamp_step replaced_at(const qb_pair *pair, const qb_node *partner, const qb_shape *shape, int64_t i) {
  if (partner == NULL)
    return (clamp_step){{-INFINITY, INFINITY}, 0, 0, 0};
  if (partner->op == QB_OP_QUANTIZE_LINEAR)
    return quantizer_at(pair->original, partner, shape, i);
  if (partner->op == QB_OP_RELU)
    return (clamp_step){{0, INFINITY}, 0, 0, 0};
  return (clamp_step){clip_limits(partner, qb_shape_channel(shape, i)), 0, 0, 0};
}

range lower_limits(clamp_step s) { return (range){s.limits.lo, fmax(add_down(s.limits.hi, -s.off), s.limits.lo)}; }
range upper_limits(clamp_step s) { return (range){fmin(add_up(s.limits.lo, s.off), s.limits.hi), s.limits.hi}; }

range quantized(range x, clamp_step s) {
  range moved = range_add(x, (range){-s.step, s.step}); /* rounding, then clamping */
  return (range){range_clamp(moved, lower_limits(s)).lo, range_clamp(moved, upper_limits(s)).hi};
}

range codes_within(range x, clamp_step s) {
  range y = quantized(x, s), steps = range_add(x, (range){-s.step, s.step});
  if (!(s.scale > 0))
    return y;
  /* so near to the next code counts as there: whether an end lies exactly there must not depend on rounding */
  double last = floor(above(steps.hi / s.scale) + 0x1p-30), first = ceil(-above(-steps.lo / s.scale) - 0x1p-30);
  if (fabs(last) < 0x1p24) /* the product is exact then */
    y.hi = fmin(y.hi, fmax(last * s.scale, upper_limits(s).lo));
  if (fabs(first) < 0x1p24)
    y.lo = fmax(y.lo, fmin(first * s.scale, lower_limits(s).hi));
  return y;
}

/* The largest clip(min(q, x + d) + step; to q_limits) - clip(x; f) for x in [from, to]. Both terms never fall with x
 * and are piecewise linear, so the maximum is at an end or a break; a break that was rounded lies between the
 * neighbours of what was computed. */
static double largest_difference(double from, double to, double q, double d, range f, double step, range q_limits) {
  const double breaks[7] = {from, to, f.lo, f.hi, q - d, q_limits.lo - step - d, q_limits.hi - step - d};
  double largest = -INFINITY;
  for (int k = 0; k < 7; k++) {
    double wide =
        4 * DBL_EPSILON * (fabs(breaks[k]) + fabs(q) + fabs(d) + step + fabs(q_limits.lo) + fabs(q_limits.hi));
    wide = k < 4 || !isfinite(wide) ? 0 : wide;
    double at = isnan(breaks[k]) ? to : fmin(fmax(breaks[k], from), to), least = fmax(at - wide, from);
    double moved = fmin(q, add_up(fmin(add_up(at, wide), to), d)), value = add_up(moved, step);
    range up = range_clamp(point(isnan(value) ? INFINITY : value), q_limits), own = range_clamp(point(least), f);
    largest = fmax(largest, add_up(up.hi, -own.lo));
  }
  return largest;
}

range clamp_difference(range x, range q, range d, range f, clamp_step s) {
  range codes = codes_within(q, s);
  const range above_codes = {upper_limits(s).lo, fmin(s.limits.hi, codes.hi)},
              below = {-lower_limits(s).hi, -fmax(s.limits.lo, codes.lo)};
  double from = fmax(x.lo, add_down(q.lo, -d.hi)), to = fmin(x.hi, add_up(q.hi, -d.lo));
  if (!(from <= to)) { /* empty but for rounding */
    from = x.lo;
    to = x.hi;
  }
  double hi = largest_difference(from, to, q.hi, d.hi, f, s.step, above_codes);
  double lo = largest_difference(-to, -from, -q.lo, -d.lo, range_neg(f), s.step, below); /* the mirror image */
  return (range){-lo, hi};
}
