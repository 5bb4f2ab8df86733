/* Quantizing the weights of a graph, layer by layer. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/layer.h"
#include "quant/layer_plan.h"
#include "quant/quant.h"

/* ------------------------------------------------------------------------------------------------- settings */

void qb_quantize_settings_default(qb_quantize_settings *settings) {
  *settings = (qb_quantize_settings){.bits = 8,
                                     .scheme = QB_SCHEME_UNIFORM,
                                     .granularity = QB_PER_CHANNEL,
                                     .grid = QB_GRID_MINMAX};
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
    return qb_fail(error, QB_ERROR_ARGUMENT, "the scheme %s needs calibration data; give some, or use round or uniform",
                   settings->scheme == QB_SCHEME_GPTQ ? "gptq" : "adaround");
  default: return qb_fail(error, QB_ERROR_ARGUMENT, "scheme number %d is unknown", (int)settings->scheme);
  }
  if (settings->granularity != QB_PER_TENSOR && settings->granularity != QB_PER_CHANNEL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "granularity number %d is unknown", (int)settings->granularity);
  if (settings->grid != QB_GRID_MINMAX && settings->grid != QB_GRID_MSE)
    return qb_fail(error, QB_ERROR_ARGUMENT, "grid number %d is unknown", (int)settings->grid);
  return check_plan(settings, error);
}

/* --------------------------------------------------------------------------------------------------- layers */

typedef struct quantize_work {
  qb_graph *graph;
  const qb_quantize_settings *settings;
  qb_linear *linears; /* (info->layer_count), in graph order */
  qb_quantize_info *info;
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
                                 .weights = (int64_t)qb_shape_elements(&graph->values[linear->weight].shape)};
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
  qb_rng rng;
  qb_rng_seed(&rng, settings->seed, (uint64_t)layer);
  const qb_cut *cut = &codes->cut;
  for (size_t run = 0; run < cut->outer * cut->count; run++) {
    const qb_grid *grid = &codes->grids[run % cut->count];
    const float *from = weights + run * cut->inner;
    int32_t *to = codes->codes + run * cut->inner;
    if (settings->scheme != QB_SCHEME_STOCHASTIC)
      qb_grid_nearest_run(grid, from, cut->inner, to);
    else
      for (size_t i = 0; i < cut->inner; i++)
        to[i] = qb_grid_stochastic(grid, from[i], &rng);
  }
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

static qb_status quantize_layer(quantize_work *work, int index, qb_error *error) {
  qb_graph *graph = work->graph;
  qb_quantize_layer *layer = &work->info->layers[index];
  QB_TRY(separate_weight(work, index, error));
  const qb_linear *linear = &work->linears[index];
  const float *before = qb_view_f32(&graph->values[linear->weight].constant);
  QB_TRY(qb_view_check_finite(&graph->values[linear->weight].constant, graph->values[linear->weight].name, error));

  qb_layer_codes codes;
  qb_cut cut = qb_cut_weight(graph, linear, work->settings->granularity);
  qb_status status = qb_layer_codes_create(&cut, before, work->settings, layer->bits, &codes, error);
  if (status == QB_OK) {
    choose_codes(&codes, before, work->settings, index);
    status = qb_layer_codes_write(&codes, graph, linear->weight, error);
  }
  qb_layer_codes_free(&codes);
  if (status != QB_OK)
    return qb_fail_context(error, status, "%s: layer '%s'", graph->name, layer->node);
  compare_weights(before, qb_view_f32(&graph->values[linear->weight].constant), layer);
  return QB_OK;
}

static void copy_tied(quantize_work *work, int index) {
  qb_quantize_layer *layers = work->info->layers;
  int first = first_tied(work, index);
  layers[index].delta = layers[first].delta;
  layers[index].mean_square = layers[first].mean_square;
}

static qb_status quantize_all(quantize_work *work, const qb_progress *progress, qb_error *error) {
  qb_quantize_info *info = work->info;
  QB_TRY(list_layers(work, error));
  QB_TRY(apply_plan(work, error));
  QB_TRY(check_ties(work, error));
  for (int i = 0; i < info->layer_count; i++) {
    if (!qb_progress_report(progress, "quantizing", i, info->layer_count))
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
  (void)qb_progress_report(progress, "quantizing", info->layer_count, info->layer_count);
  return QB_OK;
}

qb_status qb_quantize_weights(qb_graph *graph, const qb_quantize_settings *settings, const qb_progress *progress,
                              qb_quantize_info *info, qb_error *error) {
  qb_quantize_info unused;
  quantize_work work = {.graph = graph, .settings = settings, .info = info != NULL ? info : &unused};
  *work.info = (qb_quantize_info){0};
  QB_TRY(qb_quantize_settings_check(settings, error));
  qb_status status = quantize_all(&work, progress, error);
  qb_free(work.linears);
  if (info == NULL)
    qb_quantize_info_free(&unused);
  return status;
}
