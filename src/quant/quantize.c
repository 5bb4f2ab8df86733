/* Quantizing the weights of a graph, layer by layer. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/activations.h"
#include "quant/bias_correction.h"
#include "quant/calibrate.h"
#include "quant/layer.h"
#include "quant/layer_plan.h"
#include "quant/layer_progress.h"
#include "quant/quant.h"

/* ------------------------------------------------------------------------------------------------- settings */

void qb_quantize_settings_default(qb_quantize_settings *settings) {
  *settings = (qb_quantize_settings){.bits = 8,
                                     .scheme = QB_SCHEME_UNIFORM,
                                     .granularity = QB_PER_CHANNEL,
                                     .grid = QB_GRID_MINMAX,
                                     .calibration = {.positions = 32, .memory_bytes = (size_t)1 << 30},
                                     .activation_percentile = 0.9999,
                                     .damping = 0.01,
                                     .activation_order = true};
}

void qb_quantize_info_free(qb_quantize_info *info) {
  if (info == NULL)
    return;
  qb_free(info->layers);
  *info = (qb_quantize_info){0};
}

static bool valid_bits(int bits) { return bits >= QB_MIN_BITS && bits <= QB_MAX_BITS; }

static qb_status check_plan(const qb_quantize_settings *settings, qb_error *error) {
  if (settings->plan_count < 0 || (settings->plan_count > 0 && settings->plan == NULL))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the plan has %d entries but no list", settings->plan_count);
  for (int i = 0; i < settings->plan_count; i++)
    if (settings->plan[i].bits != 0 && !valid_bits(settings->plan[i].bits))
      return qb_fail(error, QB_ERROR_ARGUMENT, "the plan gives layer '%s' %d bits; use %d to %d, or 0 to keep it float",
                     settings->plan[i].node, settings->plan[i].bits, QB_MIN_BITS, QB_MAX_BITS);
  return QB_OK;
}

static qb_status check_calibration(const qb_quantize_settings *settings, qb_error *error) {
  const qb_calibration *c = &settings->calibration;
  if (c->count < 0 || c->samples < 0 || c->positions < 0 || (c->count > 0 && c->read == NULL))
    return qb_fail(error, QB_ERROR_ARGUMENT,
                   "calibration with %lld samples, %lld used, %d positions: give numbers from 0 up and a function that "
                   "reads",
                   (long long)c->count, (long long)c->samples, c->positions);
  bool correct = settings->bias_correction == QB_BIAS_DATA;
  if (c->count == 0 && (correct || settings->grid == QB_GRID_OUTPUT))
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s needs calibration data; give some, or do without",
                   correct ? "bias correction with data" : "the grid output");
  if (settings->bias_correction != QB_BIAS_KEEP && !correct && settings->bias_correction != QB_BIAS_FREE)
    return qb_fail(error, QB_ERROR_ARGUMENT, "bias correction number %d is unknown", (int)settings->bias_correction);
  if (settings->equalize != QB_EQUALIZATION_NONE && settings->equalize != QB_EQUALIZATION_RANGE &&
      settings->equalize != QB_EQUALIZATION_L1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "equalization number %d is unknown", (int)settings->equalize);
  if (!(settings->damping >= 0 && settings->damping <= 1e6))
    return qb_fail(error, QB_ERROR_ARGUMENT, "damping is %g; it is a share of the mean diagonal, 0 or more",
                   settings->damping);
  if (settings->solver != QB_SOLVER_DESCENT && settings->solver != QB_SOLVER_GRADIENT)
    return qb_fail(error, QB_ERROR_ARGUMENT, "solver number %d is unknown", (int)settings->solver);
  return QB_OK;
}

qb_status qb_quantize_settings_check(const qb_quantize_settings *settings, qb_error *error) {
  if (!valid_bits(settings->bits))
    return qb_fail(error, QB_ERROR_ARGUMENT, "%d bits are not supported; use %d to %d", settings->bits, QB_MIN_BITS,
                   QB_MAX_BITS);
  switch (settings->scheme) {
  case QB_SCHEME_ROUND:
    if (settings->affine)
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "the scheme round is fixed point without a zero point; drop affine or use the scheme uniform");
    break;
  case QB_SCHEME_UNIFORM: break;
  case QB_SCHEME_STOCHASTIC:
    if (settings->grid != QB_GRID_MINMAX)
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "stochastic rounding is unbiased only where nothing clips; use the min-max grid with it");
    break;
  case QB_SCHEME_ADAROUND:
  case QB_SCHEME_GPTQ:
    if (settings->calibration.count == 0)
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "the scheme %s needs calibration data; give some, or use round or uniform",
                     settings->scheme == QB_SCHEME_GPTQ ? "gptq" : "adaround");
    break;
  default: return qb_fail(error, QB_ERROR_ARGUMENT, "scheme number %d is unknown", (int)settings->scheme);
  }
  if (settings->granularity != QB_PER_TENSOR && settings->granularity != QB_PER_CHANNEL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "granularity number %d is unknown", (int)settings->granularity);
  if (settings->grid != QB_GRID_MINMAX && settings->grid != QB_GRID_MSE && settings->grid != QB_GRID_OUTPUT)
    return qb_fail(error, QB_ERROR_ARGUMENT, "grid number %d is unknown", (int)settings->grid);
  if (settings->unsigned_weights && settings->affine)
    return qb_fail(error, QB_ERROR_ARGUMENT, "affine codes are unsigned already; drop affine or unsigned_weights");
  QB_TRY(check_calibration(settings, error));
  QB_TRY(qb_activation_settings_check(settings, error));
  return check_plan(settings, error);
}

/* --------------------------------------------------------------------------------------------------- layers */

typedef struct quantize_work {
  qb_graph *graph;
  const qb_quantize_settings *settings;
  qb_linear *linears; /* (info->layer_count), in graph order */
  qb_quantize_info *info;
  qb_calibrator *calibrator; /* NULL: no calibration */
  int calibrated;            /* layers that are finished */
  const qb_progress *outer;
  qb_layer_progress shares;
  qb_progress progress; /* of the current layer, told as a share of all */
} quantize_work;

static qb_status list_layers(quantize_work *work, qb_error *error) {
  qb_graph *graph = work->graph;
  size_t count = (size_t)graph->node_count;
  work->linears = qb_alloc(count, sizeof *work->linears);
  work->info->layers = qb_alloc(count, sizeof *work->info->layers);
  if (work->linears == NULL || work->info->layers == NULL)
    return qb_fail_memory(error, "the list of layers", count * sizeof *work->linears);
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear *linear = &work->linears[work->info->layer_count];
    if (!qb_graph_linear(graph, n, linear))
      continue;
    qb_quantize_layer *layer = &work->info->layers[work->info->layer_count++];
    *layer = (qb_quantize_layer){.node = graph->nodes[n].name,
                                 .weights = (int64_t)qb_shape_elements(&graph->values[linear->weight].shape),
                                 .error_nearest = NAN,
                                 .error = NAN,
                                 .power = NAN};
  }
  return QB_OK;
}

/* Applies the plan; a later entry overrides an earlier one. */
static qb_status apply_plan(quantize_work *work, qb_error *error) {
  const qb_quantize_settings *settings = work->settings;
  qb_layer_plan plan;
  qb_status status = qb_layer_plan_create(work->graph, settings->bits, &plan, error);
  for (int i = 0; status == QB_OK && i < settings->plan_count; i++)
    status = qb_layer_plan_set(&plan, settings->plan[i].node, settings->plan[i].bits, error);
  for (int i = 0; status == QB_OK && i < plan.count; i++) /* both lists hold the layers in graph order */
    work->info->layers[i].bits = plan.layers[i].bits;
  qb_layer_plan_free(&plan);
  return status;
}

/* The earlier layer with the same weight, or -1. */
static int first_tied(const quantize_work *work, int layer) {
  for (int i = 0; i < layer; i++)
    if (work->linears[i].weight == work->linears[layer].weight)
      return i;
  return -1;
}

static qb_status check_ties(quantize_work *work, qb_error *error) {
  qb_quantize_layer *layers = work->info->layers;
  for (int i = 0; i < work->info->layer_count; i++) {
    int first = first_tied(work, i);
    layers[i].tied = first >= 0;
    if (first >= 0 && layers[i].bits != layers[first].bits)
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "%s: the layers '%s' and '%s' share one weight but the plan gives them %d and %d bits; give both "
                     "the same",
                     work->graph->name, layers[first].node, layers[i].node, layers[first].bits, layers[i].bits);
  }
  return QB_OK;
}

/* Uses of a weight as the weight of a layer. */
static int32_t layer_uses(const quantize_work *work, qb_value_id weight) {
  int32_t uses = 0;
  for (int i = 0; i < work->info->layer_count; i++)
    uses += work->linears[i].weight == weight;
  return uses;
}

static qb_status unused_name(qb_graph *graph, const char *base, char **name, qb_error *error) {
  for (int i = 0;; i++) {
    *name = i == 0 ? qb_arena_format(&graph->arena, "%s_quantized", base)
                   : qb_arena_format(&graph->arena, "%s_quantized_%d", base, i);
    if (*name == NULL)
      return qb_fail_memory(error, base, strlen(base));
    if (qb_graph_find(graph, *name) == QB_NONE)
      return QB_OK;
  }
}

/* Gives the layers that hold a weight a copy of their own where something that is no layer uses it too. */
static qb_status separate_weight(quantize_work *work, int layer, qb_error *error) {
  qb_graph *graph = work->graph;
  qb_value_id weight = work->linears[layer].weight, copy;
  if (qb_graph_use_count(graph, weight) == layer_uses(work, weight))
    return QB_OK;
  char *name;
  float *data;
  QB_TRY(unused_name(graph, graph->values[weight].name, &name, error));
  qb_shape shape = graph->values[weight].shape;
  QB_TRY(qb_graph_new_constant(graph, name, &shape, &copy, &data, error));
  memcpy(data, qb_view_f32(&graph->values[weight].constant), qb_shape_elements(&shape) * sizeof *data);
  graph->values[copy].transposed = graph->values[weight].transposed;
  for (int i = layer; i < work->info->layer_count; i++)
    if (work->linears[i].weight == weight) {
      QB_TRY(qb_graph_set_input(graph, work->linears[i].node, 1, copy, error));
      work->linears[i].weight = copy;
    }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- codes */

/* Nearest or stochastic codes. Every layer draws from its own random stream, so that leaving one out does not change
 * the others. */
static void choose_codes(qb_layer_codes *codes, const float *weights, const qb_quantize_settings *settings, int layer) {
  const qb_cut *cut = &codes->cut;
  qb_rng rng;
  qb_rng_seed(&rng, settings->seed, (uint64_t)layer);
  if (settings->scheme != QB_SCHEME_STOCHASTIC) {
    qb_layer_codes_nearest(codes, weights);
    return;
  }
  for (size_t run = 0; run < cut->outer * cut->count; run++)
    for (size_t i = run * cut->inner; i < (run + 1) * cut->inner; i++)
      codes->codes[i] = qb_grid_stochastic(&codes->grids[run % cut->count], weights[i], &rng);
}

/* |a - b|, rounded up by one step where a double cannot hold the difference of two float32 numbers (TwoDiff, Knuth). */
static inline double distance(double a, double b) {
  double difference = a - b, virtual_b = a - difference, virtual_a = difference + virtual_b;
  double lost = (a - virtual_a) + (virtual_b - b), size = fabs(difference);
  return lost == 0 ? size : size * (1 + 0x1p-52); /* both are at least 2^-149: no underflow */
}

enum { LANES = 8 }; /* partial results in a fixed order, so that the compiler may use vectors */

static void compare_weights(const float *before, const float *after, qb_quantize_layer *layer) {
  double largest[LANES] = {0}, sums[LANES] = {0}, delta = 0, sum = 0;
  int64_t i = 0;
  for (; i + LANES <= layer->weights; i += LANES)
    for (int lane = 0; lane < LANES; lane++) {
      double moved = distance((double)after[i + lane], (double)before[i + lane]);
      largest[lane] = moved > largest[lane] ? moved : largest[lane];
      sums[lane] += moved * moved;
    }
  for (; i < layer->weights; i++) {
    double moved = distance((double)after[i], (double)before[i]);
    largest[0] = fmax(largest[0], moved);
    sums[0] += moved * moved;
  }
  for (int lane = 0; lane < LANES; lane++) {
    delta = fmax(delta, largest[lane]);
    sum += sums[lane];
  }
  layer->delta = delta;
  layer->mean_square = layer->weights > 0 ? sum / (double)layer->weights : 0;
}

/* An interruption may keep what is finished. */
static bool may_stop(const quantize_work *work) { return work->settings->keep_interrupted && work->calibrated > 0; }

/* Codes weight by weight, then from calibration where there is one. `gram` holds the layer's means when its bias shall
 * be corrected. */
static qb_status find_codes(quantize_work *work, int index, const float *before, qb_layer_codes *codes, qb_gram *gram,
                            qb_error *error) {
  qb_quantize_layer *layer = &work->info->layers[index];
  const qb_linear *linear = &work->linears[index];
  qb_cut cut = qb_cut_weight(work->graph, linear, work->settings->granularity);
  QB_TRY(qb_layer_codes_create(&cut, before, work->settings, layer->bits, codes, error));
  choose_codes(codes, before, work->settings, index);
  layer->method = work->info->interrupted ? QB_METHOD_NEAREST : QB_METHOD_DIRECT;
  if (work->calibrator == NULL || work->info->interrupted)
    return QB_OK;
  qb_status status = qb_calibrate_layer(work->calibrator, linear, before, codes, gram, layer, &work->progress, error);
  work->calibrated += status == QB_OK;
  if (status != QB_ERROR_INTERRUPTED || !may_stop(work))
    return status;
  work->info->interrupted = true; /* and once more, without calibration */
  qb_gram_free(gram);
  *gram = (qb_gram){0};
  qb_layer_codes_free(codes);
  *codes = (qb_layer_codes){0};
  return find_codes(work, index, before, codes, gram, error);
}

static qb_status write_layer(quantize_work *work, int index, const qb_layer_codes *codes, const qb_gram *gram,
                             qb_error *error) {
  qb_graph *graph = work->graph;
  qb_linear *linear = &work->linears[index];
  QB_TRY(qb_layer_codes_write(codes, graph, linear->weight, error));
  if (gram->columns > 0) {
    QB_TRY(qb_bias_correct(graph, linear, gram, qb_view_f32(&graph->values[linear->weight].constant), error));
    work->info->biases_corrected++;
  }
  if (work->calibrator != NULL)
    qb_calibrator_changed(work->calibrator);
  return QB_OK;
}

static qb_status quantize_layer(quantize_work *work, int index, qb_error *error) {
  qb_graph *graph = work->graph;
  qb_quantize_layer *layer = &work->info->layers[index];
  QB_TRY(separate_weight(work, index, error));
  qb_value_id weight = work->linears[index].weight;
  const float *before = qb_view_f32(&graph->values[weight].constant);
  QB_TRY(qb_view_check_finite(&graph->values[weight].constant, graph->values[weight].name, error));

  qb_layer_codes codes = {0};
  qb_gram gram = {0};
  qb_status status = find_codes(work, index, before, &codes, &gram, error);
  if (status == QB_OK)
    status = write_layer(work, index, &codes, &gram, error);
  qb_gram_free(&gram);
  qb_layer_codes_free(&codes);
  if (status != QB_OK)
    return qb_fail_context(error, status, "%s: layer '%s'", graph->name, layer->node);
  compare_weights(before, qb_view_f32(&graph->values[weight].constant), layer);
  return QB_OK;
}

static void copy_tied(quantize_work *work, int index) {
  qb_quantize_layer *layers = work->info->layers;
  int first = first_tied(work, index);
  layers[index].delta = layers[first].delta;
  layers[index].mean_square = layers[first].mean_square;
  layers[index].method = layers[first].method;
}

/* 0 for a layer that stays as it is. */
static double layer_work(const quantize_work *work, int index) {
  const qb_quantize_layer *layer = &work->info->layers[index];
  return layer->bits == 0 || layer->tied ? 0 : qb_layer_work(work->graph, &work->linears[index], work->settings);
}

static void start_progress(quantize_work *work) {
  double total = 0;
  for (int i = 0; i < work->info->layer_count; i++)
    total += layer_work(work, i);
  qb_layer_progress_create(work->outer, total, work->settings, &work->shares);
  work->progress = qb_layer_progress_inner(&work->shares);
}

static qb_status quantize_layers(quantize_work *work, qb_error *error) {
  qb_quantize_info *info = work->info;
  start_progress(work);
  for (int i = 0; i < info->layer_count; i++) {
    bool stop = !qb_layer_progress_next(&work->shares, layer_work(work, i)) && !info->interrupted;
    if (stop && may_stop(work))
      info->interrupted = true;
    else if (stop)
      return qb_fail(error, QB_ERROR_INTERRUPTED, "%s: interrupted after quantizing %d of %d layers", work->graph->name,
                     i, info->layer_count);
    if (info->layers[i].bits == 0)
      continue;
    if (info->layers[i].tied)
      copy_tied(work, i);
    else
      QB_TRY(quantize_layer(work, i, error));
    info->delta = fmax(info->delta, info->layers[i].delta);
  }
  (void)qb_layer_progress_next(&work->shares, 0);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------------- guard */

enum { GUARD_SAMPLES = 256, QUICK_SAMPLES = 32 };

static qb_status restore_bias(qb_graph *graph, const qb_graph *original, const qb_linear *was, qb_error *error) {
  qb_node *node = &graph->nodes[was->node];
  if (was->bias == QB_NONE && node->input_count > 2)
    node->input_count = 2; /* a trailing input is left out, not missing */
  if (was->bias == QB_NONE)
    return QB_OK;
  graph->values[was->bias].constant = original->values[was->bias].constant;
  return qb_graph_set_input(graph, was->node, 2, was->bias, error);
}

/* The weights and biases of `original` again, for layers that were quantized; then nearest codes. */
static qb_status fall_back(quantize_work *work, const qb_graph *original, qb_error *error) {
  qb_calibrator *calibrator = work->calibrator;
  work->calibrator = NULL;
  qb_status status = QB_OK;
  work->info->delta = 0;
  for (int i = 0; status == QB_OK && i < work->info->layer_count; i++) {
    qb_quantize_layer *layer = &work->info->layers[i];
    qb_linear was;
    if (layer->bits == 0 || !qb_graph_linear(original, work->linears[i].node, &was))
      continue;
    if (layer->tied) {
      copy_tied(work, i);
      continue;
    }
    work->graph->values[work->linears[i].weight].constant = original->values[was.weight].constant;
    status = restore_bias(work->graph, original, &was, error);
    if (status == QB_OK)
      status = quantize_layer(work, i, error);
    layer->method = QB_METHOD_NEAREST;
    layer->error = layer->error_nearest;
    work->info->delta = fmax(work->info->delta, layer->delta);
  }
  work->calibrator = calibrator;
  return status;
}
/* Compares with plain nearest rounding on the same kind of grid, and returns to it where that is better. */
static qb_status guard_network(quantize_work *work, qb_error *error) {
  const qb_graph *original = qb_calibrator_original(work->calibrator);
  qb_quantize_settings plain = *work->settings;
  plain.calibration.count = 0;
  plain.activation_bits = 0;
  plain.bias_correction = QB_BIAS_KEEP;
  plain.scheme = plain.scheme == QB_SCHEME_ROUND ? QB_SCHEME_ROUND : QB_SCHEME_UNIFORM;
  plain.grid = plain.grid == QB_GRID_MINMAX ? QB_GRID_MINMAX : QB_GRID_MSE;
  qb_graph nearest;
  double errors[2] = {0, 0};
  qb_status status = qb_graph_clone(original, &nearest, error);
  if (status == QB_OK)
    status = qb_quantize_weights(&nearest, &plain, NULL, NULL, error);
  if (status == QB_OK)
    status = qb_guard_network(work->calibrator, &nearest, work->graph,
                              work->info->interrupted ? QUICK_SAMPLES : GUARD_SAMPLES, errors, error);
  qb_graph_free(&nearest);
  if (status != QB_OK)
    return status;
  work->info->error_nearest = errors[0];
  work->info->kept_nearest = errors[0] < errors[1];
  work->info->error = fmin(errors[0], errors[1]);
  return work->info->kept_nearest ? fall_back(work, original, error) : QB_OK;
}

/* Samples given for activations alone leave the weights as they are without samples. */
static bool uses_calibration(const qb_quantize_settings *settings) {
  bool asked = settings->scheme == QB_SCHEME_ADAROUND || settings->scheme == QB_SCHEME_GPTQ ||
               settings->grid == QB_GRID_OUTPUT || settings->bias_correction == QB_BIAS_DATA;
  return settings->calibration.count > 0 && (asked || settings->activation_bits == 0);
}

static qb_status quantize_all(quantize_work *work, qb_error *error) {
  QB_TRY(list_layers(work, error));
  QB_TRY(apply_plan(work, error));
  QB_TRY(check_ties(work, error));
  if (!uses_calibration(work->settings))
    return quantize_layers(work, error);
  QB_TRY(qb_calibrator_create(work->graph, work->settings, &work->calibrator, error));
  QB_TRY(quantize_layers(work, error));
  return guard_network(work, error);
}

qb_status qb_quantize_weights(qb_graph *graph, const qb_quantize_settings *settings, const qb_progress *progress,
                              qb_quantize_info *info, qb_error *error) {
  qb_quantize_info unused;
  quantize_work work = {.graph = graph, .settings = settings, .info = info != NULL ? info : &unused, .outer = progress};
  *work.info = (qb_quantize_info){.error_nearest = NAN, .error = NAN};
  QB_TRY(qb_quantize_settings_check(settings, error));
  qb_status status = quantize_all(&work, error);
  qb_calibrator_free(work.calibrator);
  qb_free(work.linears);
  if (info == NULL)
    qb_quantize_info_free(&unused);
  return status;
}
