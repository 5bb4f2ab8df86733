/* Reading and varying calibration samples; see samples.h. */
#include "quant/samples.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"

enum { SHIFT_SHARE = 8 };

qb_samples qb_samples_of(const qb_calibration *source, const qb_graph *graph, uint64_t seed) {
  const qb_shape *shape = &graph->values[graph->inputs[0]].shape;
  qb_samples samples = {.source = source,
                        .count = source->samples > 0 ? source->samples : source->count,
                        .elements = qb_shape_elements(shape),
                        .seed = seed};
  if (shape->rank == 4) {
    samples.channels = shape->dims[1];
    samples.height = shape->dims[2];
    samples.width = shape->dims[3];
  }
  return samples;
}

static int64_t clamp(int64_t value, int64_t count) { return value < 0 ? 0 : value >= count ? count - 1 : value; }

/* A whole number in [-size / SHIFT_SHARE, size / SHIFT_SHARE]. */
static int64_t draw_shift(qb_rng *rng, int64_t size) {
  int64_t most = size / SHIFT_SHARE;
  return (int64_t)qb_rng_below(rng, (uint64_t)(2 * most + 1)) - most;
}

static void vary(const qb_samples *samples, int64_t index, const float *from, float *to) {
  qb_rng rng;
  qb_rng_seed(&rng, samples->seed, (uint64_t)index);
  bool mirror = qb_rng_below(&rng, 2) == 1;
  int64_t height = samples->height, width = samples->width;
  int64_t down = draw_shift(&rng, height), right = draw_shift(&rng, width);
  for (int64_t c = 0; c < samples->channels; c++)
    for (int64_t y = 0; y < height; y++) {
      const float *row = from + (c * height + clamp(y + down, height)) * width;
      for (int64_t x = 0; x < width; x++)
        *to++ = row[clamp((mirror ? width - 1 - x : x) + right, width)];
    }
}

static qb_status read_one(const qb_samples *samples, int64_t index, float *to, qb_error *error) {
  const qb_calibration *source = samples->source;
  if (index < source->count || samples->channels == 0)
    return source->read(source->context, index % source->count, to, error);
  float *image = qb_alloc(samples->elements, sizeof *image);
  if (image == NULL)
    return qb_fail_memory(error, "a calibration sample", samples->elements * sizeof *image);
  qb_status status = source->read(source->context, index % source->count, image, error);
  if (status == QB_OK)
    vary(samples, index, image, to);
  qb_free(image);
  return status;
}

qb_status qb_samples_read(const qb_samples *samples, int64_t first, int32_t count, float *to, qb_error *error) {
  qb_status result = QB_OK;
  int32_t failed = count; /* the first that failed: the same error whatever the number of threads */
#pragma omp parallel for schedule(dynamic)
  for (int32_t i = 0; i < count; i++) {
    qb_error own = {0};
    qb_status status = read_one(samples, first + i, to + (size_t)i * samples->elements, &own);
    if (status == QB_OK)
      continue;
#pragma omp critical(qb_samples_failed)
    if (i < failed) {
      failed = i;
      result = status;
      if (error != NULL)
        *error = own;
    }
  }
  return result;
}
