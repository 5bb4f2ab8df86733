/* Moving kept activations through two networks; see frontier.h. */
#include "quant/frontier.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/extract.h"
#include "run/run.h"

enum { NETWORKS = 2, CODE_LIMIT = 32767 };

/* The activation of one sample: `channels` scales, then codes. */
typedef struct kept_sample {
  float *scales;
  int16_t *codes; /* behind the scales in one block */
} kept_sample;

struct qb_frontier {
  const qb_graph *graphs[NETWORKS];
  const qb_samples *samples;
  qb_frontier_settings settings;
  bool *is_cut;
  bool changed;     /* the networks differ before the next layer */
  qb_value_id kept; /* the cut whose activations are kept; the input at first, which is read again instead */
  bool kept_apart;  /* both networks' activations are kept */
  kept_sample *store[NETWORKS]; /* (samples) */
  size_t bytes;
};

/* -------------------------------------------------------------------------------------------------------- creating */

qb_status qb_frontier_create(const qb_graph *original, const qb_graph *quantized, const qb_samples *samples,
                             const qb_frontier_settings *settings, qb_frontier **frontier, qb_error *error) {
  *frontier = NULL;
  qb_frontier *made = qb_alloc(1, sizeof *made);
  if (made == NULL)
    return qb_fail_memory(error, "calibration", sizeof *made);
  *made = (qb_frontier){.graphs = {original, quantized},
                        .samples = samples,
                        .settings = *settings,
                        .kept = original->inputs[0]};
  size_t count = (size_t)samples->count;
  made->is_cut = qb_alloc((size_t)original->value_count, sizeof *made->is_cut);
  made->store[0] = qb_alloc(count, sizeof **made->store);
  made->store[1] = qb_alloc(count, sizeof **made->store);
  qb_status status = made->is_cut == NULL || made->store[0] == NULL || made->store[1] == NULL
                         ? qb_fail_memory(error, "calibration", count * sizeof **made->store)
                         : qb_graph_cuts(original, made->is_cut, error);
  if (status != QB_OK)
    qb_frontier_free(made);
  else
    *frontier = made;
  return status;
}

void qb_frontier_free(qb_frontier *frontier) {
  if (frontier == NULL)
    return;
  for (int side = 0; side < NETWORKS; side++) {
    for (int64_t i = 0; frontier->store[side] != NULL && i < frontier->samples->count; i++)
      qb_free(frontier->store[side][i].scales);
    qb_free(frontier->store[side]);
  }
  qb_free(frontier->is_cut);
  qb_free(frontier);
}

void qb_frontier_changed(qb_frontier *frontier) { frontier->changed = true; }

size_t qb_frontier_bytes(const qb_frontier *frontier) { return frontier->bytes; }

/* --------------------------------------------------------------------------------------------- packed activations */

static const qb_shape *shape_of(const qb_frontier *frontier, qb_value_id value) {
  return &frontier->graphs[0]->values[value].shape;
}

static size_t channels_of(const qb_shape *shape) { return shape->rank > 2 ? (size_t)shape->dims[1] : 1; }

static size_t kept_bytes(const qb_shape *shape) {
  return channels_of(shape) * sizeof(float) + qb_shape_elements(shape) * sizeof(int16_t);
}

static void pack(const float *values, const qb_shape *shape, kept_sample *sample) {
  size_t channels = channels_of(shape), plane = qb_shape_elements(shape) / (channels > 0 ? channels : 1);
  for (size_t c = 0; c < channels; c++) {
    const float *from = values + c * plane;
    float largest = 0;
    for (size_t i = 0; i < plane; i++)
      largest = fabsf(from[i]) > largest ? fabsf(from[i]) : largest;
    float scale = largest / CODE_LIMIT, inverse = scale > 0 && isfinite(1 / scale) ? 1 / scale : 0;
    sample->scales[c] = scale;
    for (size_t i = 0; i < plane; i++) {
      float code = rintf(from[i] * inverse); /* a product may round to just above the limit */
      code = code < -CODE_LIMIT ? -CODE_LIMIT : code;
      sample->codes[c * plane + i] = (int16_t)(code > CODE_LIMIT ? CODE_LIMIT : code);
    }
  }
}

static void unpack(const kept_sample *sample, const qb_shape *shape, float *values) {
  size_t channels = channels_of(shape), plane = qb_shape_elements(shape) / (channels > 0 ? channels : 1);
  for (size_t c = 0; c < channels; c++)
    for (size_t i = 0; i < plane; i++)
      values[c * plane + i] = sample->scales[c] * (float)sample->codes[c * plane + i];
}

/* Replaces what is kept of one sample. */
static bool replace(kept_sample *sample, const float *values, const qb_shape *shape) {
  qb_free(sample->scales);
  unsigned char *block = qb_alloc(kept_bytes(shape), 1);
  *sample = (kept_sample){.scales = (float *)(void *)block};
  if (block == NULL)
    return false;
  sample->codes = (int16_t *)(void *)(block + channels_of(shape) * sizeof(float));
  pack(values, shape, sample);
  return true;
}

/* ------------------------------------------------------------------------------------------------ running segments */

/* Both networks between the kept cut and `target`. */
typedef struct segment {
  qb_frontier *frontier;
  qb_value_id target;
  qb_graph parts[NETWORKS];
  qb_run *runs[NETWORKS];
  float *inputs[NETWORKS]; /* (batch, elements of the kept cut) */
  bool direct;             /* the target is the kept cut */
  bool apart;              /* the networks differ at the target */
} segment;

static void segment_free(segment *s) {
  for (int side = 0; side < NETWORKS; side++) {
    qb_run_free(s->runs[side]);
    qb_graph_free(&s->parts[side]);
    qb_free(s->inputs[side]);
  }
}

static qb_status segment_create(qb_frontier *frontier, qb_value_id target, segment *s, qb_error *error) {
  *s = (segment){.frontier = frontier,
                 .target = target,
                 .direct = target == frontier->kept,
                 .apart = frontier->changed || frontier->kept_apart};
  size_t size = (size_t)frontier->settings.batch * qb_shape_elements(shape_of(frontier, frontier->kept));
  for (int side = 0; side < (s->apart ? NETWORKS : 1); side++) {
    if (side == 0 || frontier->kept_apart) {
      s->inputs[side] = qb_alloc(size, sizeof **s->inputs);
      if (s->inputs[side] == NULL)
        return qb_fail_memory(error, "calibration inputs", size * sizeof **s->inputs);
    }
    if (s->direct)
      continue;
    QB_TRY(qb_graph_extract(frontier->graphs[side], frontier->kept, &target, 1, &s->parts[side], error));
    qb_run_settings settings;
    qb_run_settings_default(&settings);
    settings.batch = frontier->settings.batch;
    settings.threads = frontier->settings.threads;
    QB_TRY(qb_run_create(&s->parts[side], &settings, &s->runs[side], error));
  }
  return QB_OK;
}

/* Fills the inputs of the next batch. */
static qb_status load(segment *s, int64_t first, int32_t count, qb_error *error) {
  qb_frontier *frontier = s->frontier;
  const qb_shape *shape = shape_of(frontier, frontier->kept);
  if (frontier->kept == frontier->graphs[0]->inputs[0])
    return qb_samples_read(frontier->samples, first, count, s->inputs[0], error);
  for (int side = 0; side < NETWORKS; side++) {
    if (s->inputs[side] == NULL)
      continue;
#pragma omp parallel for schedule(static)
    for (int32_t i = 0; i < count; i++)
      unpack(&frontier->store[side][first + i], shape, s->inputs[side] + (size_t)i * qb_shape_elements(shape));
  }
  return QB_OK;
}

/* The target's activations of one batch. */
static qb_status run_batch(segment *s, int64_t first, int32_t count, const float *results[NETWORKS], qb_error *error) {
  QB_TRY(load(s, first, count, error));
  for (int side = 0; side < NETWORKS; side++) {
    const float *input = s->inputs[side] != NULL ? s->inputs[side] : s->inputs[0];
    results[side] = s->direct ? input : results[0];
    if (s->runs[side] == NULL)
      continue;
    QB_TRY(qb_run_forward(s->runs[side], input, count, error));
    results[side] = qb_run_value(s->runs[side], s->target);
  }
  return QB_OK;
}

static qb_status run_all(segment *s, int32_t stride, qb_frontier_visitor visit, void *context, qb_error *error) {
  int32_t batch = s->frontier->settings.batch;
  for (int64_t first = 0; first < s->frontier->samples->count; first += (int64_t)batch * stride) {
    int64_t left = s->frontier->samples->count - first;
    int32_t count = left < batch ? (int32_t)left : batch;
    const float *results[NETWORKS];
    QB_TRY(run_batch(s, first, count, results, error));
    QB_TRY(visit(context, results[0], s->apart ? results[1] : results[0], first, count, error));
  }
  return QB_OK;
}

static qb_status visit_segment(qb_frontier *frontier, qb_value_id target, int32_t stride, qb_frontier_visitor visit,
                               void *context, bool *apart, qb_error *error) {
  segment s;
  qb_status status = segment_create(frontier, target, &s, error);
  if (status == QB_OK)
    status = run_all(&s, stride, visit, context, error);
  *apart = s.apart;
  segment_free(&s);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- advancing */

typedef struct keeping {
  qb_frontier *frontier;
  qb_value_id target;
} keeping;

static qb_status keep_batch(void *context, const float *x, const float *xh, int64_t first, int32_t count,
                            qb_error *error) {
  const keeping *k = context;
  const qb_shape *shape = shape_of(k->frontier, k->target);
  size_t elements = qb_shape_elements(shape);
  bool made = true;
#pragma omp parallel for schedule(static) reduction(&& : made)
  for (int32_t i = 0; i < count; i++) {
    made = made && replace(&k->frontier->store[0][first + i], x + (size_t)i * elements, shape);
    if (xh != x)
      made = made && replace(&k->frontier->store[1][first + i], xh + (size_t)i * elements, shape);
  }
  return made ? QB_OK : qb_fail_memory(error, "kept activations", (size_t)count * kept_bytes(shape));
}

/* The last cut after the kept one and up to `value` that fits in memory and has a layer before it; else the kept one.
 */
static qb_value_id next_cut(const qb_frontier *frontier, qb_value_id value) {
  const qb_graph *graph = frontier->graphs[0];
  qb_value_id best = frontier->kept;
  bool layer_since = false, layer_before = false;
  size_t networks = frontier->changed ? NETWORKS : 1;
  for (qb_node_id n = graph->values[best].producer + 1; n <= graph->values[value].producer; n++) {
    qb_linear linear;
    layer_since = layer_since || qb_graph_linear(graph, n, &linear);
    qb_value_id output = graph->nodes[n].output;
    if (!frontier->is_cut[output] || !layer_since)
      continue;
    size_t each = kept_bytes(&graph->values[output].shape) * networks;
    if (each <= frontier->settings.memory_bytes / (size_t)frontier->samples->count) {
      best = output;
      layer_before = true;
    }
  }
  return layer_before ? best : frontier->kept;
}

static qb_status advance(qb_frontier *frontier, qb_value_id value, qb_error *error) {
  qb_value_id target = next_cut(frontier, value);
  if (target == frontier->kept)
    return QB_OK;
  keeping k = {frontier, target};
  bool apart;
  QB_TRY(visit_segment(frontier, target, 1, keep_batch, &k, &apart, error));
  frontier->kept = target;
  frontier->kept_apart = apart;
  frontier->bytes = kept_bytes(shape_of(frontier, target)) * (apart ? NETWORKS : 1) * (size_t)frontier->samples->count;
  return QB_OK;
}

qb_status qb_frontier_prepare(qb_frontier *frontier, qb_value_id value, bool *is_kept, qb_error *error) {
  QB_TRY(advance(frontier, value, error));
  *is_kept = frontier->kept == value;
  return QB_OK;
}

qb_status qb_frontier_visit_some(qb_frontier *frontier, qb_value_id value, int32_t stride, qb_frontier_visitor visit,
                                 void *context, qb_error *error) {
  bool apart;
  QB_TRY(advance(frontier, value, error));
  return visit_segment(frontier, value, stride, visit, context, &apart, error);
}

qb_status qb_frontier_visit(qb_frontier *frontier, qb_value_id value, qb_frontier_visitor visit, void *context,
                            qb_error *error) {
  return qb_frontier_visit_some(frontier, value, 1, visit, context, error);
}
