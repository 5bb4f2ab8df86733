/* One pass over the quantized graph; after each node the layerwise ranges limit what its rule found. */
#include "bound/elementwise.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/elementwise_internal.h"
#include "bound/evaluation.h"

/* Numbers outside [1/LARGE, LARGE] move into the exponent: products with float32 weights and their sums stay finite. */
#define LARGE 0x1p30F

enum { WORTH_THREADS = 100000 }; /* elements */

/* Numbers that no node reads any more are forgotten and their memory is used again: fresh pages cost more than most
 * rules. */
typedef struct storage {
  bool keep;                   /* everything */
  int32_t *readers;            /* (values) nodes that will still read it, and one more for an output */
  qb_elementwise_state *spare; /* (spare_count) arrays with room for `count` */
  int32_t spare_count;
} storage;

/* The smallest spare arrays with enough room. */
static bool take_spare(storage *s, qb_elementwise_state *state) {
  int32_t best = -1;
  for (int32_t i = 0; i < s->spare_count; i++)
    if (s->spare[i].room >= state->count && (best < 0 || s->spare[i].room < s->spare[best].room))
      best = i;
  if (best < 0)
    return false;
  memcpy(state->limit, s->spare[best].limit, sizeof state->limit);
  state->room = s->spare[best].room;
  s->spare[best] = s->spare[--s->spare_count];
  return true;
}

static void release_state(storage *s, qb_elementwise_state *state) {
  s->spare[s->spare_count++] = *state;
  *state = (qb_elementwise_state){0};
}

static qb_status create_state(qb_arena *arena, storage *s, int64_t count, qb_elementwise_state *state,
                              qb_error *error) {
  *state = (qb_elementwise_state){.count = count};
  if (take_spare(s, state))
    return QB_OK;
  state->room = count;
  for (int k = 0; k < QB_ELEMENT_COUNT; k++) {
    state->limit[k] = qb_arena_alloc(arena, (size_t)count, sizeof *state->limit[k]);
    if (state->limit[k] == NULL)
      return qb_fail_memory(error, "elementwise bounds of a tensor", (size_t)count * sizeof *state->limit[k]);
  }
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- limits */

/* What layerwise knows of one channel, in the units of the elementwise state, rounded outwards. */
typedef struct channel_limits {
  float lo, hi, lo_q, hi_q;
  float e, a, a_q;
} channel_limits;

static channel_limits read_limits(const qb_bound_state *range, int64_t c, int32_t exponent) {
  int32_t shift = range->exponent - exponent;
  qb_interval x = qb_interval_scale(range->x[c], shift), x_q = qb_interval_scale(range->x_q[c], shift);
  return (channel_limits){.lo = qb_float_down(x.lo),
                          .hi = qb_float_up(x.hi),
                          .lo_q = qb_float_down(x_q.lo),
                          .hi_q = qb_float_up(x_q.hi),
                          .e = element_up(qb_up_scale(range->e[c], shift)),
                          .a = element_up(qb_interval_magnitude(x)),
                          .a_q = element_up(qb_interval_magnitude(x_q))};
}

static inline float least(float a, float b) { return a < b ? a : b; }
static inline float most(float a, float b) { return a > b ? a : b; }

static inline float positive_part(float x) {
  int32_t bits = element_bits(x);
  return element_of_bits(bits > 0 ? bits : 0);
}

/* A float above the exact number that one addition and this product gave: 2^-22 pays for two roundings, 2^-149 for what
 * underflows. */
static inline float above(float x) { return x * (1 + 0x1p-22F) + 0x1p-149F; }

/* The elements of one channel: each number by the channel's, then by the two others:
 * e <= max(x.hi - x'.lo, x'.hi - x.lo) with both ranges cut at +-a, a <= a' + e, a' <= a + e. Returns the largest
 * finite number. */
static float limit_run(float *restrict e, float *restrict a, float *restrict q, int64_t count, channel_limits l) {
  int32_t largest = 0; /* numbers >= 0 are ordered as their bits */
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; i++) {
    float x = least(a[i], l.a), y = least(q[i], l.a_q), ei = least(e[i], l.e);
    float up = least(x, l.hi) - most(-y, l.lo_q), down = least(y, l.hi_q) - most(-x, l.lo);
    ei = least(above(positive_part(most(up, down))), ei);
    e[i] = ei;
    a[i] = least(x, above(y + ei));
    q[i] = least(y, above(x + ei));
    float own = most(most(x, y), ei);
    int32_t bits = element_bits(own);
    bits = bits < INFINITY_BITS ? bits : 0;
    largest = bits > largest ? bits : largest;
  }
  return element_of_bits(largest);
}

static float limit_state(const qb_bound_state *range, const qb_shape *shape, qb_elementwise_state *state) {
  int64_t inner = qb_state_inner(shape), runs = state->count / inner;
  float largest = 0;
#pragma omp parallel for schedule(static) reduction(max : largest) if (state->count > WORTH_THREADS)
  for (int64_t r = 0; r < runs; r++) {
    float *const *limit = state->limit;
    float own = limit_run(limit[QB_ELEMENT_ERROR] + r * inner, limit[QB_ELEMENT_ORIGINAL] + r * inner,
                          limit[QB_ELEMENT_QUANTIZED] + r * inner, inner,
                          read_limits(range, r % range->channels, state->exponent));
    largest = own > largest ? own : largest;
  }
  return largest;
}

/* Brings the largest number near 1; small ones may lose digits, upwards. */
static void normalize(qb_elementwise_state *state, float largest) {
  if (largest == 0 || (largest < LARGE && largest > 1 / LARGE))
    return;
  int32_t shift = ilogbf(largest);
  double factor = ldexp(1, -shift);
  for (int k = 0; k < QB_ELEMENT_COUNT; k++)
    for (int64_t i = 0; i < state->count; i++) {
      state->limit[k][i] = qb_float_up((double)state->limit[k][i] * factor);
    }
  if (qb_bound_fault != QB_FAULT_NO_EXPONENT)
    state->exponent += shift;
}

/* ------------------------------------------------------------------------------------------------------ evaluation */

/* The size of evaluation.h at element i, in units of the output. The bounds of |y| that the rules find are sums of
 * sizes themselves: sum |w| a + |b|, a_u + a_v, means of a. */
static double evaluation_size(const element_call *call, qb_evaluation_size kind, int part, int64_t i) {
  const qb_elementwise_state *x = &call->states[call->node->inputs[0]];
  if (kind != QB_SIZE_INPUT)
    return (double)call->y->limit[part][i];
  bool original = part == QB_ELEMENT_ORIGINAL && call->original != NULL;
  double size = qb_evaluation_size_at(original ? call->pair->original : call->pair->quantized,
                                      original ? call->original : call->node, qb_shape_channel(call->shape, i),
                                      qb_up_scale((double)x->limit[part][i], x->exponent));
  return qb_up_scale(size, -call->y->exponent);
}

/* What float32 evaluation adds. Layerwise has made sure that it is known and nothing overflows. */
static void evaluate(const element_call *call) {
  qb_evaluation evaluation;
  (void)qb_evaluation_of(call->pair, call->id, &evaluation);
  if (evaluation.size == QB_SIZE_NONE || qb_bound_fault == QB_FAULT_NO_EVALUATION)
    return;
  double lost = qb_up_scale(evaluation.lost, -call->y->exponent);
  for (int64_t i = 0; i < call->y->count; i++) {
    double both = 0;
    for (int part = QB_ELEMENT_ORIGINAL; part <= QB_ELEMENT_QUANTIZED; part++) {
      if (part == QB_ELEMENT_ORIGINAL && call->original == NULL)
        continue;
      double error = qb_up_sum(qb_up_product(evaluation.gamma, evaluation_size(call, evaluation.size, part, i)), lost);
      both = qb_up_sum(both, error);
      call->y->limit[part][i] = element_up(qb_up_sum((double)call->y->limit[part][i], error));
    }
    call->y->limit[QB_ELEMENT_ERROR][i] = element_up(qb_up_sum((double)call->y->limit[QB_ELEMENT_ERROR][i], both));
  }
}

/* ---------------------------------------------------------------------------------------------------------- walk */

/* Both networks read the same x. */
static qb_status input_state(const qb_pair *pair, const qb_domain *domain, qb_elementwise *elementwise, storage *s,
                             qb_error *error) {
  qb_elementwise_state *state = &elementwise->states[pair->quantized->inputs[0]];
  QB_TRY(create_state(&elementwise->arena, s, domain->count, state, error));
  for (int64_t i = 0; i < domain->count; i++)
    state->limit[QB_ELEMENT_ORIGINAL][i] = state->limit[QB_ELEMENT_QUANTIZED][i] =
        fmaxf(fabsf(domain->lo[i]), fabsf(domain->hi[i]));
  float largest = 0;
  for (int64_t i = 0; i < domain->count; i++)
    largest = fmaxf(largest, state->limit[QB_ELEMENT_ORIGINAL][i]);
  normalize(state, largest);
  return QB_OK;
}

/* The layerwise numbers of this tensor in units in which they fit: the exponent of a state that knows nothing else. */
static void adopt_exponent(const qb_bound_state *range, qb_elementwise_state *state) {
  double largest = 0;
  for (int64_t c = 0; c < range->channels; c++) {
    double size = fmax(range->e[c], fmax(qb_interval_magnitude(range->x[c]), qb_interval_magnitude(range->x_q[c])));
    largest = isfinite(size) ? fmax(largest, size) : largest;
  }
  state->exponent = range->exponent + (largest > 0 ? ilogb(largest) : 0);
}

static qb_status bound_node(const qb_pair *pair, qb_node_id id, const qb_layerwise *layerwise,
                            qb_elementwise *elementwise, storage *s, qb_arena *scratch, element_buffer *buffer,
                            qb_error *error) {
  const qb_node *node = &pair->quantized->nodes[id];
  const qb_bound_state *range = &layerwise->states[node->output];
  qb_elementwise_state *y = &elementwise->states[node->output];
  if (pair->value[node->output] == QB_NONE)
    return QB_OK; /* no output depends on it */
  const qb_shape *shape = &pair->quantized->values[node->output].shape;
  element_call call = {.pair = pair,
                       .id = id,
                       .node = node,
                       .original = pair->partner[id] == QB_NONE ? NULL : &pair->original->nodes[pair->partner[id]],
                       .states = elementwise->states,
                       .last =
                           s->keep || s->readers[node->inputs[0]] != 1 ? NULL : &elementwise->states[node->inputs[0]],
                       .y = y,
                       .shape = shape,
                       .scratch = scratch,
                       .buffer = buffer,
                       .error = error};
  qb_arena_mark mark = qb_arena_get_mark(scratch);
  QB_TRY(create_state(&elementwise->arena, s, (int64_t)qb_shape_elements(shape), y, error));
  QB_TRY(element_rules[node->op](&call));
  if (call.from_ranges)
    adopt_exponent(range, y);
  evaluate(&call);
  elementwise->convolutions += call.products;
  normalize(y, limit_state(range, shape, y));
  qb_arena_rewind(scratch, mark);
  return QB_OK;
}

static qb_magnitude largest_error(const qb_elementwise_state *state) {
  float largest = 0;
  for (int64_t i = 0; i < state->count; i++)
    largest = fmaxf(largest, state->limit[QB_ELEMENT_ERROR][i]);
  return qb_magnitude_scale(qb_magnitude_from_double((double)largest), state->exponent);
}

/* How often every value will be read. */
static qb_status count_readers(const qb_pair *pair, qb_elementwise *elementwise, storage *s, qb_error *error) {
  const qb_graph *graph = pair->quantized;
  size_t values = (size_t)graph->value_count;
  s->readers = qb_arena_alloc(&elementwise->arena, values, sizeof *s->readers);
  s->spare = qb_arena_alloc(&elementwise->arena, values, sizeof *s->spare);
  if (s->readers == NULL || s->spare == NULL)
    return qb_fail_memory(error, "elementwise bound", values * sizeof *s->spare);
  for (qb_node_id id = 0; id < graph->node_count; id++)
    for (int32_t slot = 0; pair->value[graph->nodes[id].output] != QB_NONE && slot < graph->nodes[id].input_count;
         slot++)
      if (graph->nodes[id].inputs[slot] != QB_NONE)
        s->readers[graph->nodes[id].inputs[slot]]++;
  for (int32_t k = 0; k < graph->output_count; k++)
    s->readers[graph->outputs[k]]++;
  return QB_OK;
}

/* What the node was the last one to read. */
static void release_inputs(const qb_pair *pair, const qb_node *node, qb_elementwise *elementwise, storage *s) {
  for (int32_t slot = 0; pair->value[node->output] != QB_NONE && slot < node->input_count; slot++) {
    qb_value_id v = node->inputs[slot];
    if (v != QB_NONE && --s->readers[v] == 0 && !s->keep && elementwise->states[v].limit[0] != NULL)
      release_state(s, &elementwise->states[v]);
  }
}

static qb_status walk(const qb_pair *pair, const qb_domain *domain, const qb_layerwise *layerwise,
                      qb_elementwise *elementwise, storage *s, qb_arena *scratch, element_buffer *buffer,
                      qb_error *error) {
  const qb_graph *graph = pair->quantized;
  QB_TRY(qb_bound_check_environment(error));
  elementwise->states = qb_arena_alloc(&elementwise->arena, (size_t)graph->value_count, sizeof *elementwise->states);
  if (elementwise->states == NULL)
    return qb_fail_memory(error, "elementwise bound", (size_t)graph->value_count * sizeof *elementwise->states);
  QB_TRY(count_readers(pair, elementwise, s, error));
  QB_TRY(input_state(pair, domain, elementwise, s, error));
  for (qb_node_id id = 0; id < graph->node_count; id++) {
    QB_TRY(bound_node(pair, id, layerwise, elementwise, s, scratch, buffer, error));
    release_inputs(pair, &graph->nodes[id], elementwise, s);
  }
  elementwise->bound = qb_magnitude_zero();
  for (int32_t k = 0; k < graph->output_count; k++)
    elementwise->bound = qb_magnitude_max(elementwise->bound, largest_error(&elementwise->states[graph->outputs[k]]));
  return QB_OK;
}

static qb_status bound(const qb_pair *pair, const qb_domain *domain, const qb_layerwise *layerwise, bool keep,
                       qb_elementwise *elementwise, qb_error *error) {
  qb_arena scratch;
  storage s = {.keep = keep};
  *elementwise = (qb_elementwise){0};
  qb_arena_init(&elementwise->arena);
  qb_arena_init(&scratch);
  element_buffer buffer = {NULL, 0};
  qb_status status = walk(pair, domain, layerwise, elementwise, &s, &scratch, &buffer, error);
  qb_free(buffer.data);
  qb_arena_free(&scratch);
  return status;
}

qb_status qb_elementwise_bound(const qb_pair *pair, const qb_domain *domain, const qb_layerwise *layerwise,
                               qb_elementwise *elementwise, qb_error *error) {
  return bound(pair, domain, layerwise, false, elementwise, error);
}

qb_status qb_elementwise_bound_kept(const qb_pair *pair, const qb_domain *domain, const qb_layerwise *layerwise,
                                    qb_elementwise *elementwise, qb_error *error) {
  return bound(pair, domain, layerwise, true, elementwise, error);
}

void qb_elementwise_free(qb_elementwise *elementwise) {
  if (elementwise == NULL)
    return;
  qb_arena_free(&elementwise->arena);
  *elementwise = (qb_elementwise){0};
}
