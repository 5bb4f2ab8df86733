/* Choosing values, watching them over the samples, inserting quantizers; see activations.h. */
#include "quant/activations.h"

#include "base/alloc.h"
#include "base/error.h"
#include "quant/activation_range.h"
#include "quant/samples.h"
#include "run/run.h"

enum { BATCH = 4 }; /* samples whose activations are in memory at once */

qb_status qb_activation_settings_check(const qb_quantize_settings *settings, qb_error *error) {
  if (settings->activation_bits == 0)
    return QB_OK;
  if (settings->activation_bits != 8 && settings->activation_bits != 16)
    return qb_fail(error, QB_ERROR_ARGUMENT, "activations of %d bits are not supported; use 8 or 16",
                   settings->activation_bits);
  if (settings->activation_range != QB_RANGE_MINMAX && settings->activation_range != QB_RANGE_PERCENTILE &&
      settings->activation_range != QB_RANGE_MSE)
    return qb_fail(error, QB_ERROR_ARGUMENT, "range rule number %d is unknown", (int)settings->activation_range);
  if (!(settings->activation_percentile > 0.5 && settings->activation_percentile <= 1))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the activation percentile is %g; it is a share above 0.5 and at most 1",
                   settings->activation_percentile);
  if (settings->calibration.count == 0)
    return qb_fail(error, QB_ERROR_ARGUMENT, "quantized activations need calibration data; give some");
  if (settings->affine)
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "affine weights with quantized activations are computed wrongly by ONNX Runtime; use symmetric "
                   "weights");
  bool wide = settings->bits > 8;
  for (int i = 0; i < settings->plan_count; i++)
    wide = wide || settings->plan[i].bits > 8;
  return settings->activation_bits == 16 && wide
             ? qb_fail(error, QB_ERROR_ARGUMENT,
                       "weights of more than 8 bits with activations of 16 are computed wrongly by ONNX Runtime; use "
                       "weights of at most 8 bits, or activations of 8")
             : QB_OK;
}

/* -------------------------------------------------------------------------------------------------- which values */

static bool is_rearrangement(qb_op op) { return qb_op_is_reshape(op) || op == QB_OP_TRANSPOSE || op == QB_OP_PAD; }

static bool reads(const qb_node *node, qb_value_id value) {
  for (int32_t slot = 0; slot < node->input_count; slot++)
    if (node->inputs[slot] == value)
      return true;
  return false;
}

/* needed[v]: some node that computes with numbers reads v, perhaps rearranged. Backwards over the nodes. */
static void mark_needed(const qb_graph *graph, bool *needed) {
  for (qb_node_id n = graph->node_count; n-- > 0;) {
    const qb_node *node = &graph->nodes[n];
    bool computes = !is_rearrangement(node->op) && node->op != QB_OP_SOFTMAX;
    for (int32_t slot = 0; slot < node->input_count; slot++)
      if (node->inputs[slot] != QB_NONE && (computes || (node->op != QB_OP_SOFTMAX && needed[node->output])))
        needed[node->inputs[slot]] = true;
  }
}

/* True when the only reader of the value is a Relu or Clip: the quantizer comes behind that. */
static bool is_before_gate(const qb_graph *graph, qb_value_id value) {
  if (qb_graph_use_count(graph, value) != 1)
    return false;
  for (qb_node_id n = graph->values[value].producer + 1; n < graph->node_count; n++)
    if (reads(&graph->nodes[n], value))
      return graph->nodes[n].op == QB_OP_RELU || graph->nodes[n].op == QB_OP_CLIP;
  return false;
}

typedef struct target {
  qb_value_id value;
  int32_t same_as; /* index of an earlier target whose grid it takes, QB_NONE: its own */
  qb_activation_range range;
} target;

typedef struct work {
  qb_graph *graph;
  const qb_quantize_settings *settings;
  const qb_progress *progress;
  qb_samples samples;
  target *targets; /* (count), in graph order */
  qb_value_id *keep;
  int32_t count;
  float *batch; /* (BATCH, elements) */
  qb_error *error;
} work;

/* The target whose quantizer the value passes through, on the way back over rearrangements (Pad may add another number
 * than the grid has, so it does not count). */
static int32_t grid_source(const work *w, qb_value_id value) {
  for (;;) {
    for (int32_t i = 0; i < w->count; i++)
      if (w->targets[i].value == value)
        return i;
    qb_node_id producer = w->graph->values[value].producer;
    if (producer == QB_NONE || !is_rearrangement(w->graph->nodes[producer].op) ||
        w->graph->nodes[producer].op == QB_OP_PAD)
      return QB_NONE;
    value = w->graph->nodes[producer].inputs[0];
  }
}

static void add_target(work *w, qb_value_id value, int32_t same_as) {
  int32_t source = same_as != QB_NONE && w->targets[same_as].same_as != QB_NONE ? w->targets[same_as].same_as : same_as;
  w->targets[w->count] = (target){.value = value, .same_as = source};
  w->keep[w->count++] = value;
}

static qb_status list_targets(work *w) {
  const qb_graph *graph = w->graph;
  size_t most = (size_t)graph->node_count + 1;
  bool *needed = qb_alloc((size_t)graph->value_count, sizeof *needed);
  w->targets = qb_alloc(most, sizeof *w->targets);
  w->keep = qb_alloc(most, sizeof *w->keep);
  if (needed == NULL || w->targets == NULL || w->keep == NULL) {
    qb_free(needed);
    return qb_fail_memory(w->error, "the list of activations", most * sizeof *w->targets);
  }
  mark_needed(graph, needed);
  if (needed[graph->inputs[0]])
    add_target(w, graph->inputs[0], QB_NONE);
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    if (needed[node->output] && !is_rearrangement(node->op) && !is_before_gate(graph, node->output))
      add_target(w, node->output, node->op == QB_OP_MAX_POOL ? grid_source(w, node->inputs[0]) : QB_NONE);
  }
  qb_free(needed);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ watching */

static const float *values_of(const work *w, qb_run *run, qb_value_id id) {
  return id == w->graph->inputs[0] ? w->batch : qb_run_value(run, id);
}

static qb_status look(work *w, qb_run *run, int32_t samples, bool histogram) {
  int32_t failed = w->count;
#pragma omp parallel for schedule(dynamic) reduction(min : failed)
  for (int32_t i = 0; i < w->count; i++) {
    target *t = &w->targets[i];
    const float *x = values_of(w, run, t->value);
    size_t count = qb_shape_elements(&w->graph->values[t->value].shape) * (size_t)samples;
    if (t->same_as != QB_NONE)
      continue;
    if (histogram)
      qb_activation_range_count(&t->range, x, count);
    else if (!qb_activation_range_widen(&t->range, x, count))
      failed = i < failed ? i : failed;
  }
  return failed == w->count ? QB_OK
                            : qb_fail(w->error, QB_ERROR_NUMERIC, "%s: '%s' is NaN or infinite on a calibration sample",
                                      w->graph->name, w->graph->values[w->targets[failed].value].name);
}

static qb_status pass(work *w, qb_run *run, bool histogram) {
  const char *what = histogram ? "activation histograms" : "activation ranges";
  for (int64_t first = 0; first < w->samples.count; first += BATCH) {
    int32_t count = w->samples.count - first < BATCH ? (int32_t)(w->samples.count - first) : BATCH;
    if (!qb_progress_report(w->progress, what, first, w->samples.count))
      return qb_fail(w->error, QB_ERROR_INTERRUPTED, "%s: interrupted after %lld of %lld calibration samples",
                     w->graph->name, (long long)first, (long long)w->samples.count);
    QB_TRY(qb_samples_read(&w->samples, first, count, w->batch, w->error));
    QB_TRY(qb_run_forward(run, w->batch, count, w->error));
    QB_TRY(look(w, run, count, histogram));
  }
  (void)qb_progress_report(w->progress, what, w->samples.count, w->samples.count);
  return QB_OK;
}

static qb_status watch(work *w, qb_run *run) {
  QB_TRY(pass(w, run, false));
  if (w->settings->activation_range == QB_RANGE_MINMAX)
    return QB_OK;
  for (int32_t i = 0; i < w->count; i++) {
    w->targets[i].range.bins = qb_alloc(QB_RANGE_BINS, sizeof(int64_t));
    if (w->targets[i].range.bins == NULL)
      return qb_fail_memory(w->error, "a histogram", QB_RANGE_BINS * sizeof(int64_t));
  }
  return pass(w, run, true);
}

static qb_status watch_samples(work *w) {
  qb_run_settings how;
  qb_run_settings_default(&how);
  bool input_first = w->count > 0 && w->keep[0] == w->graph->inputs[0]; /* read from the batch itself */
  how.batch = BATCH;
  how.threads = w->settings->threads;
  how.keep = w->keep + input_first;
  how.keep_count = w->count - input_first;
  qb_run *run = NULL;
  w->batch = qb_alloc(BATCH * w->samples.elements, sizeof *w->batch);
  if (w->batch == NULL)
    return qb_fail_memory(w->error, "calibration samples", BATCH * w->samples.elements * sizeof *w->batch);
  QB_TRY(qb_run_create(w->graph, &how, &run, w->error));
  qb_status status = watch(w, run);
  qb_run_free(run);
  return status;
}

/* ----------------------------------------------------------------------------------------------------- inserting */

static qb_status insert(work *w) {
  const qb_quantize_settings *settings = w->settings;
  for (int32_t i = 0; i < w->count; i++) {
    const target *t = &w->targets[i];
    const qb_activation_range *range = t->same_as != QB_NONE ? &w->targets[t->same_as].range : &t->range;
    qb_activation_grid grid = qb_activation_grid_choose(range, settings->activation_range,
                                                        settings->activation_percentile, settings->activation_bits);
    qb_value_id unused;
    QB_TRY(qb_graph_insert_quantizer(w->graph, t->value, &grid, &unused, w->error));
  }
  return QB_OK;
}

static qb_status quantize(work *w) {
  QB_TRY(list_targets(w));
  QB_TRY(watch_samples(w));
  QB_TRY(insert(w));
  return qb_graph_validate(w->graph, w->error);
}

static void release(work *w) {
  for (int32_t i = 0; w->targets != NULL && i < w->count; i++)
    qb_free(w->targets[i].range.bins);
  qb_free(w->targets);
  qb_free(w->keep);
  qb_free(w->batch);
}

qb_status qb_quantize_activations(qb_graph *graph, const qb_quantize_settings *settings, const qb_progress *progress,
                                  int32_t *count, qb_error *error) {
  *count = 0;
  if (settings->activation_bits == 0)
    return QB_OK;
  QB_TRY(qb_activation_settings_check(settings, error));
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: has %d inputs; calibration needs a network with one", graph->name,
                   graph->input_count);
  if (qb_graph_has_quantizers(graph))
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "%s: quantizes activations already; give the float network to quantize them anew", graph->name);
  work w = {.graph = graph,
            .settings = settings,
            .progress = progress,
            .samples = qb_samples_of(&settings->calibration, graph, settings->seed),
            .error = error};
  qb_status status = quantize(&w);
  *count = w.count;
  release(&w);
  return status;
}
