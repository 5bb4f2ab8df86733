/* Intervals of quantizers that only the quantized network has; see box.h. */
#include <math.h>

#include "bound/box.h"
#include "bound/fault.h"
#include "bound/interval.h"
#include "graph/quantizer.h"

/* Of one element. */
typedef struct quantizer {
  double scale, least, most; /* the ends of its range */
  double reach;              /* how far a code may be from what it stands for */
  double low, high;          /* saturated codes may be off, too: they lie in [least, low] and [high, most] */
} quantizer;

static quantizer quantizer_of(const qb_graph *graph, const qb_node *node, int64_t i) {
  const qb_value *scale = &graph->values[node->inputs[1]],
                 *zero = node->input_count > 2 ? &graph->values[node->inputs[2]] : NULL;
  const qb_shape *shape = &graph->values[node->output].shape;
  int32_t axis = node->attributes.quantize.axis;
  int64_t inner = 1, channels = (int64_t)qb_view_elements(&scale->constant);
  for (int32_t k = axis + 1; k < shape->rank; k++)
    inner *= shape->dims[k];
  int64_t c = channels == 1 ? 0 : i / inner % shape->dims[axis];
  double s = (double)qb_view_f32(&scale->constant)[c];
  double z = zero == NULL ? 0 : (double)qb_view_f32(&zero->constant)[qb_view_elements(&zero->constant) == 1 ? 0 : c];
  quantizer q = {.scale = s,
                 .least = qb_down(s * ((double)node->attributes.quantize.lo - z)),
                 .most = qb_up(s * ((double)node->attributes.quantize.hi - z)),
                 .reach = qb_quantizer_reach(node, s, z)};
  double off = (double)node->attributes.quantize.steps * s;
  q.reach = qb_bound_fault == QB_FAULT_INTERVAL_HALF_STEP ? 0 : q.reach;
  q.high = fmax(qb_down(q.most - off), q.least);
  q.low = fmin(qb_up(q.least + off), q.most);
  return q;
}

static void set_codes(const quantizer *q, const qb_box_track *x, qb_box_state *y, int track, int64_t i) {
  qb_box_set(y, track, i, fmin(fmax(qb_down(x->lo[i] - q->reach), q->least), q->high),
             fmax(fmin(qb_up(x->hi[i] + q->reach), q->most), q->low));
}

/* A network against its own evaluation: the exact one takes the same codes. It may, being off by at most one code, if
 * x' - x is at most half a step. */
static const char *take_same_codes(const qb_graph *graph, const qb_node *node, const qb_box_state *x, qb_box_state *y) {
  const qb_box_track *d = &x->track[QB_TRACK_DIFFERENCE];
  for (int64_t i = 0; i < y->count; i++) {
    quantizer q = quantizer_of(graph, node, i);
    if (!(fmax(-d->lo[i], d->hi[i]) <= q.scale / 2) || node->attributes.quantize.steps < 1)
      return "what float32 rounds in front of it may be more than half a step";
    set_codes(&q, &x->track[QB_TRACK_QUANTIZED], y, QB_TRACK_ORIGINAL, i);
    set_codes(&q, &x->track[QB_TRACK_QUANTIZED], y, QB_TRACK_QUANTIZED, i);
    qb_box_set(y, QB_TRACK_DIFFERENCE, i, 0, 0);
  }
  return NULL;
}

/* x'' = clamp(s round(x' / s)) of the quantized network alone. Rounding is monotone; x'' - x' is within s/2 inside the
 * range, and past the range the clamp moves x'' towards it. */
const char *qb_box_codes(const qb_pair *pair, qb_node_id id, const qb_box_state *x, qb_box_state *y) {
  const qb_graph *graph = pair->quantized;
  const qb_node *node = &graph->nodes[id];
  if (pair->own)
    return take_same_codes(graph, node, x, y);
  for (int64_t i = 0; i < y->count; i++) {
    quantizer q = quantizer_of(graph, node, i);
    qb_interval own = {x->track[QB_TRACK_ORIGINAL].lo[i], x->track[QB_TRACK_ORIGINAL].hi[i]};
    qb_interval d = {x->track[QB_TRACK_DIFFERENCE].lo[i], x->track[QB_TRACK_DIFFERENCE].hi[i]};
    qb_box_set(y, QB_TRACK_ORIGINAL, i, own.lo, own.hi);
    set_codes(&q, &x->track[QB_TRACK_QUANTIZED], y, QB_TRACK_QUANTIZED, i);
    qb_box_set(y, QB_TRACK_DIFFERENCE, i, fmin(qb_down(d.lo - q.reach), qb_subtract_down(q.high, own.hi)),
               fmax(qb_up(d.hi + q.reach), qb_subtract_up(q.low, own.lo)));
  }
  return NULL;
}
