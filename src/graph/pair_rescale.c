/* qb_pair_match_any: matching a quantized network whose channels were equalized; see pair.h.
 *
 * A channel of the original is divided by 2^k in a layer and multiplied by it in the layers that read it, where k is
 * what the quantized network shows: the ratio of two limits of a Clip, or of two biases, that is a power of two
 * exactly, else the ratios of the sums of |w| on both sides, which must agree. Sums alone say nothing in a network
 * whose limits and biases say that nothing was rescaled. */
#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/equalize_segment.h"
#include "graph/pair.h"

enum { UNKNOWN = 1000, MOST = 100 };

typedef struct rescaling {
  const qb_pair *pair;
  qb_graph *graph;         /* clone of the original */
  qb_node_id *counterpart; /* (original nodes) the quantized partner, QB_NONE */
  bool *owned;
  qb_segment *segments; /* (segment_count) of the original */
  int32_t segment_count;
  int64_t moved, still; /* channels whose limits or biases say so */
  int32_t largest;      /* |k| */
} rescaling;

/* ---------------------------------------------------------------------------------------------------------- evidence
 */

/* k with a = 2^k b, UNKNOWN when there is none. */
static int exact_exponent(float a, float b) {
  int ka, kb;
  if (a == 0 || b == 0 || !isfinite(a) || !isfinite(b) || frexpf(a, &ka) != frexpf(b, &kb))
    return UNKNOWN;
  return ka - kb >= -MOST && ka - kb <= MOST ? ka - kb : UNKNOWN;
}

static float limit_at(const qb_node *node, int64_t c) {
  const qb_clip_attributes *clip = &node->attributes.clip;
  return clip->hi_channels != NULL ? clip->hi_channels[c] : clip->hi;
}

static int clip_evidence(const rescaling *r, const qb_segment *segment, int64_t c) {
  for (int32_t i = 0; i < segment->clip_count; i++) {
    const qb_node *ours = &r->pair->original->nodes[segment->clips[i]];
    qb_node_id other = r->counterpart[segment->clips[i]];
    if (other == QB_NONE || r->pair->quantized->nodes[other].op != QB_OP_CLIP)
      continue;
    int64_t width = r->pair->original->values[ours->output].shape.dims[1] / segment->channels;
    int k = exact_exponent(limit_at(ours, c * width), limit_at(&r->pair->quantized->nodes[other], c * width));
    if (k != UNKNOWN)
      return k;
  }
  return UNKNOWN;
}

static int bias_evidence(const rescaling *r, const qb_linear *ours, const qb_linear *theirs, int64_t c) {
  const qb_graph *o = r->pair->original, *q = r->pair->quantized;
  if (ours->bias == QB_NONE || theirs->bias == QB_NONE || !q->values[theirs->bias].is_constant)
    return UNKNOWN;
  return exact_exponent(qb_view_f32(&o->values[ours->bias].constant)[c],
                        qb_view_f32(&q->values[theirs->bias].constant)[c]);
}

/* Sums of |w| in a row, the layers before rescaled already: 2^k is their ratio, rounding of weights aside. */
static int weight_evidence(double ours, double theirs) {
  if (!(ours > 0 && theirs > 0))
    return 0;
  double k = rint(log2(ours) - log2(theirs));
  return fabs(k) <= MOST ? (int)k : 0;
}

/* The layer of the quantized network that stands for the segment's, with the same channels. */
static bool find_source(const rescaling *r, const qb_segment *ours, qb_segment *theirs) {
  *theirs = (qb_segment){.channels = ours->channels};
  qb_node_id source = r->counterpart[ours->source.node];
  return source != QB_NONE && qb_graph_linear(r->pair->quantized, source, &theirs->source);
}

static int sure_evidence(const rescaling *r, const qb_segment *ours, const qb_segment *theirs, int64_t c) {
  int k = clip_evidence(r, ours, c);
  return k != UNKNOWN ? k : bias_evidence(r, &ours->source, &theirs->source, c);
}

static void count_evidence(rescaling *r, const qb_segment *ours) {
  qb_segment theirs;
  for (int64_t c = 0; find_source(r, ours, &theirs) && c < ours->channels; c++) {
    int k = sure_evidence(r, ours, &theirs, c);
    r->moved += k != UNKNOWN && k != 0;
    r->still += k == 0;
  }
}

/* ----------------------------------------------------------------------------------------------------------- applying
 */

static void choose_factors(rescaling *r, const qb_segment *ours, double *sums, double *factors) {
  qb_segment theirs;
  if (!find_source(r, ours, &theirs))
    return;
  double *unused = sums + 2 * ours->channels;
  qb_segment_sums(r->graph, ours, sums, unused);
  qb_segment_sums(r->pair->quantized, &theirs, sums + ours->channels, unused);
  for (int64_t c = 0; c < ours->channels; c++) {
    int k = sure_evidence(r, ours, &theirs, c);
    k = k != UNKNOWN ? k : weight_evidence(sums[c], sums[ours->channels + c]);
    r->largest = abs(k) > r->largest ? abs(k) : r->largest;
    factors[c] = ldexp(1, k);
  }
}

static qb_status scale(rescaling *r, qb_segment *segment, int64_t *changed, qb_error *error) {
  size_t channels = (size_t)segment->channels;
  double unused = 0, *numbers = qb_alloc(4 * channels, sizeof *numbers), *factors = numbers + 3 * channels;
  if (numbers == NULL)
    return qb_fail_memory(error, "factors of channels", 4 * channels * sizeof *numbers);
  for (size_t c = 0; c < channels; c++)
    factors[c] = 1;
  qb_status status = qb_segment_own(r->graph, segment, r->owned, error);
  choose_factors(r, segment, numbers, factors);
  if (status == QB_OK) {
    *changed += qb_segment_scale(r->graph, segment, factors, true, &unused);
    (void)qb_segment_join_limits(r->graph, segment);
  }
  qb_free(numbers);
  return status;
}

/* Sum over layers of |w - w'|^2 / |w'|^2, w' the quantized weights. */
static double distance(const rescaling *r, const qb_graph *original) {
  double sum = 0;
  for (qb_node_id n = 0; n < original->node_count; n++) {
    qb_linear ours, theirs;
    if (r->counterpart[n] == QB_NONE || !qb_graph_linear(original, n, &ours) ||
        !qb_graph_linear(r->pair->quantized, r->counterpart[n], &theirs))
      continue;
    const float *a = qb_view_f32(&original->values[ours.weight].constant);
    const float *b = qb_view_f32(&r->pair->quantized->values[theirs.weight].constant);
    double moved = 0, size = 0;
    for (size_t i = 0; i < qb_shape_elements(&original->values[ours.weight].shape); i++) {
      moved += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
      size += (double)b[i] * (double)b[i];
    }
    sum += size > 0 ? moved / size : 0;
  }
  return sum;
}

static qb_status begin(rescaling *r, qb_error *error) {
  const qb_graph *o = r->pair->original, *q = r->pair->quantized;
  size_t nodes = (size_t)o->node_count + 1;
  r->counterpart = qb_alloc(nodes, sizeof *r->counterpart);
  r->segments = qb_alloc(nodes, sizeof *r->segments);
  r->owned = qb_alloc((size_t)o->value_count, sizeof *r->owned);
  if (r->counterpart == NULL || r->segments == NULL || r->owned == NULL)
    return qb_fail_memory(error, "matching two graphs", nodes * sizeof *r->segments);
  for (qb_node_id n = 0; n < o->node_count; n++)
    r->counterpart[n] = QB_NONE;
  for (qb_node_id n = 0; n < q->node_count; n++)
    if (r->pair->partner[n] != QB_NONE)
      r->counterpart[r->pair->partner[n]] = n;
  return QB_OK;
}

static void find(rescaling *r) {
  for (qb_node_id n = 0; n < r->graph->node_count; n++) {
    qb_linear linear;
    const char *why;
    if (!qb_graph_linear(r->graph, n, &linear))
      continue;
    qb_segment_find(r->graph, n, &r->segments[r->segment_count], &why);
    if (why == NULL)
      count_evidence(r, &r->segments[r->segment_count++]);
  }
}

/* *changed: channels of the clone that were rescaled and are nearer to the quantized network now. Without any sure sign
 * the sums of weights alone decide. */
static qb_status rescale(const qb_pair *pair, qb_graph *clone, int64_t *changed, int32_t *largest, qb_error *error) {
  rescaling r = {.pair = pair, .graph = clone};
  *changed = 0;
  qb_status status = begin(&r, error);
  if (status == QB_OK)
    find(&r);
  for (int32_t i = 0; status == QB_OK && i < r.segment_count && (r.moved > 0 || r.still == 0); i++)
    status = scale(&r, &r.segments[i], changed, error);
  if (status == QB_OK && *changed > 0 && !(distance(&r, clone) < distance(&r, pair->original)))
    *changed = 0;
  *largest = r.largest;
  qb_free(r.segments);
  qb_free(r.counterpart);
  qb_free(r.owned);
  return status;
}

/* ---------------------------------------------------------------------------------------------------------- matching
 */

static qb_status match(const qb_graph *original, const qb_graph *quantized, qb_pair *pair, qb_error *error) {
  qb_error first;
  if (qb_pair_match(original, quantized, pair, &first) == QB_OK)
    return QB_OK;
  qb_pair_free(pair);
  *pair = (qb_pair){0};
  qb_status status = qb_pair_match_absorbed(original, quantized, pair, error);
  return status == QB_OK ? QB_OK : qb_fail(error, first.status, "%s", first.message);
}

/* The pair of the rescaled clone in the place of the first one. */
static qb_status match_again(qb_graph *clone, int32_t largest, const qb_graph *quantized, qb_pair *pair,
                             qb_error *error) {
  qb_pair_free(pair);
  *pair = (qb_pair){0};
  qb_status status = match(clone, quantized, pair, error);
  pair->rescaled = clone;
  pair->rescaled_by = largest;
  return status;
}

qb_status qb_pair_match_any(const qb_graph *original, const qb_graph *quantized, qb_pair *pair, qb_error *error) {
  int64_t changed = 0;
  int32_t largest = 0;
  QB_TRY(match(original, quantized, pair, error));
  qb_graph *clone = qb_alloc(1, sizeof *clone);
  if (clone == NULL)
    return qb_fail_memory(error, "matching two graphs", sizeof *clone);
  qb_status status = qb_graph_clone(original, clone, error);
  if (status == QB_OK)
    status = rescale(pair, clone, &changed, &largest, error);
  if (status == QB_OK && changed > 0)
    return match_again(clone, largest, quantized, pair, error);
  qb_graph_free(clone);
  qb_free(clone);
  return status;
}
