/* The order of work over a whole network; see network.h. */
#include "quant/network.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"
#include "graph/pass_equalize.h"
#include "quant/activations.h"
#include "quant/bias_correction.h"
#include "quant/calibrate.h"
#include "quant/floors.h"

enum { GUARD_SAMPLES = 256, REHEARSAL_SAMPLES = 64, RANDOM_SAMPLES = 32, RANDOM_STREAM = 77 };

typedef struct network_work {
  const qb_graph *original;
  const qb_statistics *statistics;
  qb_statistics moved; /* of the prepared network */
  const qb_quantize_settings *settings;
  const qb_progress *progress;
  qb_calibration random; /* in place of samples where there are none */
  size_t elements;       /* of the input */
  qb_quantize_info *info;
} network_work;

/* ------------------------------------------------------------------------------------------------------- samples */

/* Standard normal numbers, as preprocessed images are on average. */
static qb_status read_random(const void *context, int64_t index, float *sample, qb_error *error) {
  (void)error;
  const network_work *work = context;
  qb_rng rng;
  qb_rng_seed(&rng, work->settings->seed, RANDOM_STREAM + (uint64_t)index);
  for (size_t i = 0; i < work->elements; i++)
    sample[i] = (float)qb_rng_normal(&rng);
  return QB_OK;
}

/* Mean square error of both networks' outputs against the original's. */
static qb_status compare(const network_work *work, const qb_graph *a, const qb_graph *b, int64_t limit,
                         double errors[2], qb_error *error) {
  const qb_calibration *source = work->settings->calibration.count > 0 ? &work->settings->calibration : &work->random;
  qb_samples samples = qb_samples_of(source, work->original, work->settings->seed);
  return qb_guard_compare(work->original, &samples, a, b, limit, errors, error);
}

/* Comparing takes a network with one input. */
static bool can_compare(const network_work *work) { return work->original->input_count == 1; }

/* ------------------------------------------------------------------------------------------------------- one attempt
 */

static qb_status correct_free(const qb_graph *base, const qb_statistics *statistics, qb_graph *quantized,
                              qb_quantize_info *info, qb_error *error) {
  qb_moments moments = {0};
  int corrected = 0;
  qb_status status = qb_moments_create(base, statistics, &moments, error);
  if (status == QB_OK)
    status = qb_bias_correct_free(base, quantized, &moments, &corrected, error);
  qb_moments_free(&moments);
  info->biases_corrected = corrected;
  return status;
}

/* A clone of `base` with everything rounded as `settings` say. */
static qb_status attempt(const qb_graph *base, const qb_statistics *statistics, const qb_quantize_settings *settings,
                         const qb_progress *progress, qb_graph *quantized, qb_quantize_info *info, qb_error *error) {
  int32_t activations;
  QB_TRY(qb_graph_clone(base, quantized, error));
  QB_TRY(qb_quantize_weights(quantized, settings, progress, info, error));
  if (settings->bias_correction == QB_BIAS_FREE)
    QB_TRY(correct_free(base, statistics, quantized, info, error));
  QB_TRY(qb_quantize_activations(quantized, settings, info->interrupted ? NULL : progress, &activations, error));
  info->activation_count = activations;
  return QB_OK;
}

/* Nearest codes on the same kind of grid. */
static qb_quantize_settings plain_settings(const qb_quantize_settings *settings) {
  qb_quantize_settings plain = *settings;
  plain.bias_correction = QB_BIAS_KEEP;
  plain.keep_interrupted = false;
  plain.scheme = plain.scheme == QB_SCHEME_ROUND ? QB_SCHEME_ROUND : QB_SCHEME_UNIFORM;
  plain.grid = plain.grid == QB_GRID_MINMAX ? QB_GRID_MINMAX : QB_GRID_MSE;
  if (plain.activation_bits == 0)
    plain.calibration.count = 0;
  return plain;
}

/* Nearest codes and corrected biases on fewer samples: quick, for choosing whether to prepare. */
static qb_quantize_settings rehearsal_settings(const qb_quantize_settings *settings) {
  qb_quantize_settings quick = plain_settings(settings);
  quick.bias_correction = settings->bias_correction;
  quick.calibration = settings->calibration;
  if (quick.bias_correction != QB_BIAS_DATA && quick.activation_bits == 0)
    quick.calibration.count = 0;
  if (quick.calibration.samples == 0 || quick.calibration.samples > REHEARSAL_SAMPLES)
    quick.calibration.samples =
        quick.calibration.count < REHEARSAL_SAMPLES ? quick.calibration.count : REHEARSAL_SAMPLES;
  return quick;
}

/* ------------------------------------------------------------------------------------------------------- preparing */

static qb_status copy_statistics(const qb_statistics *from, qb_statistics *to, qb_error *error) {
  *to = (qb_statistics){0};
  to->layers = qb_alloc((size_t)from->count + 1, sizeof *to->layers);
  if (to->layers == NULL)
    return qb_fail_memory(error, "statistics of layers", (size_t)from->count * sizeof *to->layers);
  for (int32_t i = 0; i < from->count; i++) {
    size_t channels = (size_t)from->layers[i].channels;
    double *numbers = qb_alloc(2 * channels, sizeof *numbers);
    if (numbers == NULL)
      return qb_fail_memory(error, "statistics of layers", 2 * channels * sizeof *numbers);
    memcpy(numbers, from->layers[i].mean, channels * sizeof *numbers);
    memcpy(numbers + channels, from->layers[i].deviation, channels * sizeof *numbers);
    to->layers[i] = (qb_layer_statistics){from->layers[i].node, (int64_t)channels, numbers, numbers + channels};
    to->count++;
  }
  return QB_OK;
}

static void scale_statistics(qb_statistics *statistics, const qb_equalize_info *done) {
  for (int32_t i = 0; i < done->places; i++) {
    qb_layer_statistics *layer = qb_statistics_find(statistics, done->scaled[i].node);
    for (int64_t c = 0; layer != NULL && c < layer->channels && c < done->scaled[i].channels; c++) {
      layer->mean[c] /= done->scaled[i].scale[c];
      layer->deviation[c] /= done->scaled[i].scale[c];
    }
  }
}

static qb_status equalize(network_work *work, qb_graph *prepared, qb_error *error) {
  qb_preparation *p = &work->info->preparation;
  qb_equalize_settings how;
  qb_equalize_info done;
  qb_equalize_settings_default(&how);
  how.kind = work->settings->equalize == QB_EQUALIZATION_L1 ? QB_EQUALIZE_L1 : QB_EQUALIZE_RANGE;
  QB_TRY(qb_equalize(prepared, &how, &done, error));
  p->places = done.places;
  p->places_left = done.left_count;
  p->channels = done.channels;
  p->channels_refused = done.channels_refused;
  p->clips = done.clips;
  p->largest_scale = done.largest_scale;
  scale_statistics(&work->moved, &done);
  return QB_OK;
}

static qb_status absorb(network_work *work, qb_graph *prepared, qb_error *error) {
  qb_floors floors = {0};
  qb_absorb_info done = {0};
  qb_status status;
  if (work->moved.count > 0)
    status = qb_floors_from_statistics(&work->moved, &floors, error);
  else
    status = qb_floors_from_samples(prepared, work->settings, work->progress, &floors, error);
  if (status == QB_OK)
    status = qb_absorb_bias(prepared, floors.layers, floors.count, &done, error);
  for (int32_t i = 0; status == QB_OK && i < floors.count; i++) {
    qb_layer_statistics *layer = qb_statistics_find(&work->moved, floors.layers[i].node);
    for (int64_t c = 0; layer != NULL && c < layer->channels; c++)
      layer->mean[c] -= floors.layers[i].floor[c];
  }
  work->info->preparation.absorb_places = done.places;
  work->info->preparation.absorbed = done.channels;
  work->info->preparation.absorb_left = done.left_count;
  work->info->preparation.exact = work->info->preparation.exact && done.channels == 0;
  qb_floors_free(&floors);
  return status;
}

static qb_status check_absorption(const network_work *work, qb_error *error) {
  if (!work->settings->bias_absorption || work->statistics->count > 0 || work->settings->calibration.count > 0)
    return QB_OK;
  return qb_fail(error, QB_ERROR_ARGUMENT,
                 "%s: bias absorption needs BatchNormalization statistics, which the file does not have, or "
                 "calibration samples; give some, or do without",
                 work->original->name);
}

static qb_status prepare(network_work *work, qb_graph *prepared, qb_error *error) {
  QB_TRY(copy_statistics(work->statistics, &work->moved, error));
  QB_TRY(qb_graph_clone(work->original, prepared, error));
  if (work->settings->equalize != QB_EQUALIZATION_NONE)
    QB_TRY(equalize(work, prepared, error));
  if (work->settings->bias_absorption)
    QB_TRY(absorb(work, prepared, error));
  return QB_OK;
}

static bool is_prepared(const network_work *work) {
  return work->info->preparation.channels > 0 || work->info->preparation.absorbed > 0;
}

/* Both networks with nearest codes. */
static qb_status rehearse(network_work *work, const qb_graph *prepared, double errors[2], qb_error *error) {
  qb_quantize_settings quick = rehearsal_settings(work->settings);
  qb_graph without = {0}, with = {0};
  qb_quantize_info unused[2] = {{0}, {0}};
  qb_status status = attempt(work->original, work->statistics, &quick, work->progress, &without, &unused[0], error);
  if (status == QB_OK)
    status = attempt(prepared, &work->moved, &quick, work->progress, &with, &unused[1], error);
  if (status == QB_OK)
    status = compare(work, &without, &with, GUARD_SAMPLES, errors, error);
  qb_quantize_info_free(&unused[0]);
  qb_quantize_info_free(&unused[1]);
  qb_graph_free(&with);
  qb_graph_free(&without);
  return status;
}

static qb_status unprepare(network_work *work, qb_graph *prepared, qb_error *error) {
  work->info->preparation.dropped = true;
  qb_statistics_free(&work->moved);
  qb_graph_free(prepared);
  QB_TRY(copy_statistics(work->statistics, &work->moved, error));
  return qb_graph_clone(work->original, prepared, error);
}

static qb_status prepare_guarded(network_work *work, qb_graph *prepared, qb_error *error) {
  double errors[2];
  QB_TRY(prepare(work, prepared, error));
  if (!is_prepared(work) || !can_compare(work))
    return QB_OK;
  QB_TRY(rehearse(work, prepared, errors, error));
  work->info->preparation.error_without = errors[0];
  work->info->preparation.error_with = errors[1];
  return errors[1] <= errors[0] ? QB_OK : unprepare(work, prepared, error);
}

/* ------------------------------------------------------------------------------------------------------------- guard
 */

/* True when something beyond nearest codes and plain ranges was done that no guard has looked at yet: the one over the
 * layers compares weights alone, on the prepared network. */
static bool needs_guard(const network_work *work) {
  const qb_quantize_settings *s = work->settings;
  bool calibrated = s->scheme == QB_SCHEME_ADAROUND || s->scheme == QB_SCHEME_GPTQ || s->grid == QB_GRID_OUTPUT ||
                    s->bias_correction == QB_BIAS_DATA;
  bool prepared = is_prepared(work) && !work->info->preparation.dropped;
  return can_compare(work) && !work->info->interrupted &&
         (prepared || s->bias_correction == QB_BIAS_FREE || (calibrated && s->activation_bits != 0));
}

/* Puts plain rounding of the original in the place of what was made. */
static qb_status keep_plain(network_work *work, qb_graph *prepared, qb_graph *quantized, qb_graph *plain,
                            qb_quantize_info *plain_info, qb_error *error) {
  plain_info->preparation = work->info->preparation;
  plain_info->kept_nearest = true;
  plain_info->error_nearest = work->info->error_nearest;
  plain_info->error = work->info->error;
  for (int i = 0; i < plain_info->layer_count; i++)
    if (plain_info->layers[i].bits > 0)
      plain_info->layers[i].method = QB_METHOD_NEAREST;
  qb_quantize_info_free(work->info);
  *work->info = *plain_info;
  *plain_info = (qb_quantize_info){0};
  qb_graph_free(quantized);
  *quantized = *plain;
  *plain = (qb_graph){0};
  return unprepare(work, prepared, error);
}

static qb_status guard(network_work *work, qb_graph *prepared, qb_graph *quantized, qb_error *error) {
  qb_quantize_settings settings = plain_settings(work->settings);
  qb_graph plain = {0};
  qb_quantize_info plain_info = {0};
  double errors[2];
  qb_status status = attempt(work->original, work->statistics, &settings, work->progress, &plain, &plain_info, error);
  if (status == QB_OK)
    status = compare(work, &plain, quantized, GUARD_SAMPLES, errors, error);
  if (status == QB_OK) {
    work->info->error_nearest = errors[0];
    work->info->error = fmin(errors[0], errors[1]);
    if (errors[0] < errors[1])
      status = keep_plain(work, prepared, quantized, &plain, &plain_info, error);
  }
  qb_quantize_info_free(&plain_info);
  qb_graph_free(&plain);
  return status;
}

/* --------------------------------------------------------------------------------------------------------- the whole
 */

static qb_status run(network_work *work, qb_graph *prepared, qb_graph *quantized, qb_error *error) {
  qb_preparation done;
  QB_TRY(check_absorption(work, error));
  QB_TRY(prepare_guarded(work, prepared, error));
  done = work->info->preparation;
  QB_TRY(attempt(prepared, &work->moved, work->settings, work->progress, quantized, work->info, error));
  work->info->preparation = done;
  return needs_guard(work) ? guard(work, prepared, quantized, error) : QB_OK;
}

/* `work` stays where it is: the samples read from it. */
static void start(network_work *work, const qb_graph *original, const qb_statistics *statistics,
                  const qb_quantize_settings *settings, const qb_progress *progress, qb_quantize_info *info) {
  *info =
      (qb_quantize_info){.error_nearest = NAN,
                         .error = NAN,
                         .preparation = {.largest_scale = 1, .exact = true, .error_without = NAN, .error_with = NAN}};
  *work = (network_work){.original = original,
                         .statistics = statistics,
                         .settings = settings,
                         .progress = progress,
                         .random = {.read = read_random, .context = work, .count = RANDOM_SAMPLES},
                         .elements = original->input_count == 1
                                         ? qb_shape_elements(&original->values[original->inputs[0]].shape)
                                         : 0,
                         .info = info};
}

qb_status qb_quantize_network(const qb_graph *original, const qb_statistics *statistics,
                              const qb_quantize_settings *settings, const qb_progress *progress, qb_graph *prepared,
                              qb_graph *quantized, qb_quantize_info *info, qb_error *error) {
  *prepared = *quantized = (qb_graph){0};
  network_work work;
  start(&work, original, statistics, settings, progress, info);
  QB_TRY(qb_quantize_settings_check(settings, error));
  qb_status status = run(&work, prepared, quantized, error);
  qb_statistics_free(&work.moved);
  return status;
}

qb_status qb_quantize_prepare(const qb_graph *original, const qb_statistics *statistics,
                              const qb_quantize_settings *settings, const qb_progress *progress, qb_graph *prepared,
                              qb_error *error) {
  *prepared = (qb_graph){0};
  qb_quantize_info info;
  network_work work;
  start(&work, original, statistics, settings, progress, &info);
  QB_TRY(check_absorption(&work, error));
  qb_status status = prepare(&work, prepared, error);
  qb_statistics_free(&work.moved);
  return status;
}
