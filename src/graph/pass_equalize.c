/* The equalization pass: which factors; see pass_equalize.h. */
#include "graph/pass_equalize.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/equalize_l1.h"
#include "graph/equalize_segment.h"

void qb_equalize_settings_default(qb_equalize_settings *settings) {
  *settings =
      (qb_equalize_settings){.kind = QB_EQUALIZE_RANGE, .power_of_two = true, .sweeps = 20, .input_magnitude = 1};
}

typedef struct equalizer {
  qb_graph *graph;
  const qb_equalize_settings *settings;
  qb_equalize_info *info;
  qb_segment *segments; /* (segment_count) in graph order */
  int32_t segment_count;
  bool *owned;                                                  /* (value_count) constants with data of this pass */
  double *rows, *columns, *far_columns, *factors, *far_factors; /* (most channels of a segment) */
} equalizer_state;

/* ------------------------------------------------------------------------------------------------- the segments */

static qb_status find_segments(equalizer_state *state, qb_error *error) {
  qb_graph *graph = state->graph;
  size_t count = (size_t)graph->node_count;
  qb_equalize_left *left = qb_arena_alloc(&graph->arena, count, sizeof *left);
  state->segments = qb_alloc(count, sizeof *state->segments);
  if (left == NULL || state->segments == NULL)
    return qb_fail_memory(error, "the list of layers", count * sizeof *state->segments);
  state->info->left = left;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear linear;
    const char *why;
    if (!qb_graph_linear(graph, n, &linear))
      continue;
    qb_segment_find(graph, n, &state->segments[state->segment_count], &why);
    if (why == NULL)
      state->segment_count++;
    else
      left[state->info->left_count++] = (qb_equalize_left){.node = graph->nodes[n].name, .why = why};
  }
  state->info->places = state->segment_count;
  return QB_OK;
}

static qb_status prepare(equalizer_state *state, qb_error *error) {
  QB_TRY(find_segments(state, error));
  size_t values = (size_t)state->graph->value_count;
  state->owned = qb_alloc(values, sizeof *state->owned);
  if (state->owned == NULL)
    return qb_fail_memory(error, "a mark per value", values);
  int64_t most = 1;
  for (int32_t i = 0; i < state->segment_count; i++) {
    QB_TRY(qb_segment_own(state->graph, &state->segments[i], state->owned, error));
    most = state->segments[i].channels > most ? state->segments[i].channels : most;
  }
  double **arrays[5] = {&state->rows, &state->columns, &state->far_columns, &state->factors, &state->far_factors};
  for (int i = 0; i < 5; i++) {
    *arrays[i] = qb_alloc((size_t)most, sizeof(double));
    if (*arrays[i] == NULL)
      return qb_fail_memory(error, "ranges of channels", (size_t)most * sizeof(double));
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- range */

/* The nearest power of two in ratio, where asked; for l1 the next one up, so that row sums end below 1. Other factors
 * within a thousandth of 1 are not worth rounding every weight again: without this limit they would creep for ever. 1
 * for what is no factor. */
static double admissible(const equalizer_state *state, double factor) {
  if (!isfinite(factor) || factor <= 0)
    return 1;
  if (state->settings->power_of_two)
    return exp2(state->settings->kind == QB_EQUALIZE_L1 ? ceil(log2(factor)) : rint(log2(factor)));
  return fabs(factor - 1) < 1e-3 ? 1 : factor;
}

/* The segment behind a depthwise layer that alone reads `segment`, or NULL. */
static qb_segment *depthwise_segment(const equalizer_state *state, const qb_segment *segment) {
  const qb_linear *middle = &segment->consumers[0];
  if (segment->consumer_count != 1 || middle->group != segment->channels || middle->out_channels != segment->channels)
    return NULL;
  for (int32_t i = 0; i < state->segment_count; i++)
    if (state->segments[i].source.node == middle->node)
      return &state->segments[i];
  return NULL;
}

/* conv - depthwise - conv at once: with g = (r1 r2 r3)^(1/3) the ranges become g by s12 = r1 / g, s23 = g / r3. */
static void triple_factors(equalizer_state *state, const qb_segment *segment, const qb_segment *far) {
  qb_segment_ranges(state->graph, segment, state->rows, state->columns);
  qb_segment_ranges(state->graph, far, state->far_factors, state->far_columns); /* its rows are r2 again */
  for (int64_t c = 0; c < segment->channels; c++) {
    double r1 = state->rows[c], r2 = state->columns[c], r3 = state->far_columns[c];
    double g = cbrt(r1) * cbrt(r2) * cbrt(r3);
    bool empty = r1 == 0 || r2 == 0 || r3 == 0;
    state->factors[c] = empty ? 1 : admissible(state, r1 / g);
    state->far_factors[c] = empty ? 1 : admissible(state, g / r3);
  }
}

static void pair_factors(equalizer_state *state, const qb_segment *segment) {
  qb_segment_ranges(state->graph, segment, state->rows, state->columns);
  for (int64_t c = 0; c < segment->channels; c++) {
    double r1 = state->rows[c], r2 = state->columns[c];
    state->factors[c] = r1 == 0 || r2 == 0 ? 1 : admissible(state, sqrt(r1) / sqrt(r2));
  }
}

static int64_t scale(equalizer_state *state, qb_segment *segment, const double *factors) {
  return qb_segment_scale(state->graph, segment, factors, state->settings->power_of_two, &state->info->largest_change);
}

/* One pass over the network; returns the number of channels changed. The second half of a triple has no turn of its
 * own: rounded to powers of two, the best triple and the best pair would take turns undoing each other. */
static int64_t range_sweep(equalizer_state *state) {
  int64_t changed = 0;
  for (int32_t i = 0; i < state->segment_count; i++)
    state->segments[i].had_its_turn = false;
  for (int32_t i = 0; i < state->segment_count; i++) {
    qb_segment *segment = &state->segments[i], *far = depthwise_segment(state, segment);
    if (segment->had_its_turn)
      continue;
    if (far == NULL) {
      pair_factors(state, segment);
      changed += scale(state, segment, state->factors);
    } else {
      triple_factors(state, segment, far);
      changed += scale(state, segment, state->factors);
      changed += scale(state, far, state->far_factors);
      far->had_its_turn = true;
    }
  }
  return changed;
}

static void equalize_ranges(equalizer_state *state) {
  for (int32_t sweep = 0; sweep < state->settings->sweeps; sweep++) {
    int64_t changed = range_sweep(state);
    state->info->sweeps++;
    if (changed == 0)
      break;
  }
}

/* -------------------------------------------------------------------------------------------------------- l1 */

/* Smallest of the magnitude and the limits of the segment's Clips: what the readers see. */
static double seen_magnitude(const equalizer_state *state, const qb_segment *segment, int64_t c, double magnitude) {
  for (int32_t i = 0; i < segment->clip_count; i++) {
    const qb_node *node = &state->graph->nodes[segment->clips[i]];
    int64_t width = state->graph->values[node->output].shape.dims[1] / segment->channels;
    magnitude = fmin(magnitude, fabs((double)node->attributes.clip.hi_channels[c * width]));
  }
  return magnitude;
}

static double largest(const double *numbers, size_t count) {
  double result = 0;
  for (size_t i = 0; i < count; i++)
    result = fmax(result, numbers[i]);
  return result;
}

/* Largest magnitude among the channels that layer `n` reads. */
static double input_magnitude(const equalizer_state *state, const qb_channel_magnitudes *magnitudes, qb_node_id n) {
  qb_value_id input = state->graph->nodes[n].inputs[0];
  const qb_shape *shape = &state->graph->values[input].shape;
  return magnitudes->values[input] == NULL
             ? 1
             : largest(magnitudes->values[input], shape->rank >= 2 ? (size_t)shape->dims[1] : 1);
}

/* S_l = diag(a_l) / m from the input on, m the largest magnitude at the layer's input: rows of a scaled layer then sum
 * to at most 1 (up to the power of two). Dividing by m keeps numbers in range where residual sums let a grow. */
static qb_status equalize_magnitudes(equalizer_state *state, qb_error *error) {
  qb_channel_magnitudes magnitudes;
  qb_status status = qb_channel_magnitudes_create(state->graph, state->settings->input_magnitude, &magnitudes, error);
  int32_t next = 0;
  for (qb_node_id n = 0; status == QB_OK && n < state->graph->node_count; n++) {
    status = qb_channel_magnitudes_visit(&magnitudes, n, error);
    if (status != QB_OK || next == state->segment_count || state->segments[next].source.node != n)
      continue;
    qb_segment *segment = &state->segments[next++];
    double *a = magnitudes.values[state->graph->nodes[n].output], m = input_magnitude(state, &magnitudes, n);
    for (int64_t c = 0; c < segment->channels; c++)
      state->factors[c] = admissible(state, seen_magnitude(state, segment, c, a[c]) / m);
    (void)scale(state, segment, state->factors);
    for (int64_t c = 0; c < segment->channels; c++)
      a[c] /= segment->scale[c];
  }
  state->info->sweeps = 1;
  qb_channel_magnitudes_free(&magnitudes);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- the pass */

static qb_status summarize(equalizer_state *state, qb_error *error) {
  qb_equalize_info *info = state->info;
  size_t count = (size_t)state->segment_count + 1;
  qb_equalize_scaled *scaled = qb_arena_alloc(&state->graph->arena, count, sizeof *scaled);
  if (scaled == NULL)
    return qb_fail_memory(error, "the list of layers", count * sizeof *scaled);
  info->scaled = scaled;
  info->largest_scale = 1;
  for (int32_t i = 0; i < state->segment_count; i++) {
    const qb_segment *segment = &state->segments[i];
    scaled[i] = (qb_equalize_scaled){state->graph->nodes[segment->source.node].name, segment->channels, segment->scale};
    info->clips += qb_segment_join_limits(state->graph, &state->segments[i]);
    for (int64_t c = 0; c < state->segments[i].channels; c++) {
      double factor = state->segments[i].scale[c];
      info->channels += factor != 1;
      info->channels_refused += state->segments[i].left_alone[c];
      info->largest_scale = fmax(info->largest_scale, fmax(factor, 1 / factor));
    }
  }
  return QB_OK;
}

static qb_status check_settings(const qb_equalize_settings *settings, qb_error *error) {
  if (settings->kind != QB_EQUALIZE_RANGE && settings->kind != QB_EQUALIZE_L1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "equalization number %d is unknown", (int)settings->kind);
  if (settings->sweeps < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "equalization needs at least one sweep, not %d", settings->sweeps);
  if (!(settings->input_magnitude > 0) || !isfinite(settings->input_magnitude))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the magnitude of the input must be positive, not %g",
                   settings->input_magnitude);
  return QB_OK;
}

qb_status qb_equalize(qb_graph *graph, const qb_equalize_settings *settings, qb_equalize_info *info, qb_error *error) {
  equalizer_state state = {.graph = graph, .settings = settings, .info = info};
  *info = (qb_equalize_info){.largest_scale = 1};
  QB_TRY(check_settings(settings, error));
  qb_status status = prepare(&state, error);
  if (status == QB_OK && settings->kind == QB_EQUALIZE_L1)
    status = equalize_magnitudes(&state, error);
  else if (status == QB_OK)
    equalize_ranges(&state);
  if (status == QB_OK)
    status = summarize(&state, error);
  double *arrays[5] = {state.rows, state.columns, state.far_columns, state.factors, state.far_factors};
  for (int i = 0; i < 5; i++)
    qb_free(arrays[i]);
  qb_free(state.segments);
  qb_free(state.owned);
  return status;
}
