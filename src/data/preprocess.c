/* Resize, centre crop, scale, normalise: in float32 and in the order of torchvision's Resize, CenterCrop, ToTensor and
 * Normalize, so that results are equal to the bit. */
#include "data/preprocess.h"

#include <float.h>
#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/image.h"

/* ------------------------------------------------------------------------------------------------------- shapes */

/* torchvision: the shorter side becomes `size`, the longer one int(size * longer / shorter). */
static void resized_sides(int32_t size, int64_t height, int64_t width, int64_t *new_height, int64_t *new_width) {
  int64_t shorter = height < width ? height : width, longer = height < width ? width : height;
  int64_t new_longer = (int64_t)((double)(size * longer) / (double)shorter);
  *new_height = height <= width ? size : new_longer;
  *new_width = width <= height ? size : new_longer;
}

static int32_t channel_count(const qb_shape *shape) { return shape->rank == 3 ? (int32_t)shape->dims[0] : 1; }

qb_status qb_preprocess_shape(const qb_preprocess *preprocess, qb_dtype dtype, const qb_shape *stored, const char *name,
                              qb_shape *shape, qb_error *error) {
  size_t count;
  char text[QB_SHAPE_TEXT];
  *shape = *stored;
  if (!qb_shape_count(stored, &count) || count == 0 || count > QB_IMAGE_MAX_PIXELS * (size_t)4)
    return qb_fail(error, QB_ERROR_SHAPE, "%s: samples of shape %s are not accepted", name,
                   qb_shape_print(stored, text));
  if (preprocess->channels > 1 && preprocess->channels != channel_count(stored))
    return qb_fail(error, QB_ERROR_SHAPE,
                   "%s: preprocessing has mean and std for %d channels, the samples (%s) have %d: give one value per "
                   "channel, or a single one",
                   name, preprocess->channels, qb_shape_print(stored, text), channel_count(stored));
  if (preprocess->resize > 0 && (dtype != QB_DTYPE_U8 || stored->rank != 3))
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "%s: only 8-bit images (C,H,W) can be resized, these are %s of shape %s: leave out resize=", name,
                   qb_dtype_name(dtype), qb_shape_print(stored, text));
  if (preprocess->crop > 0 && stored->rank != 3)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: samples of shape %s cannot be cropped: leave out crop=", name,
                   qb_shape_print(stored, text));
  if (preprocess->resize > 0)
    resized_sides(preprocess->resize, stored->dims[1], stored->dims[2], &shape->dims[1], &shape->dims[2]);
  if (shape->rank == 3 && shape->dims[1] > QB_IMAGE_MAX_PIXELS / shape->dims[2])
    return qb_fail(error, QB_ERROR_SHAPE, "%s: resizing gives more than %d pixels", name, QB_IMAGE_MAX_PIXELS);
  if (preprocess->crop > 0)
    shape->dims[1] = shape->dims[2] = preprocess->crop;
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- values */

/* Where planes, rows and columns of the source lie, and which of its rows and columns are wanted: `top` and `left`
 * are negative where zeros are added. */
typedef struct window {
  qb_dtype dtype;
  const void *data;
  size_t plane_step, row_step, column_step; /* in elements */
  int64_t height, width;                    /* of the source */
  int64_t top, left;                        /* of the first output pixel */
} window;

static float transform(const qb_preprocess *preprocess, int32_t channel, float value) {
  if (preprocess->scale > 0.0f)
    value = value / preprocess->scale;
  if (preprocess->normalize)
    value = (value - preprocess->mean[channel]) / preprocess->std[channel];
  return value;
}

/* The entry of mean and std that serves a channel. */
static int32_t statistics_index(const qb_preprocess *preprocess, int32_t channel) {
  return preprocess->channels > 1 ? channel : 0;
}

static void convert_bytes(const uint8_t *from, size_t step, int64_t count, const float table[256], float *to) {
  for (int64_t i = 0; i < count; i++)
    to[i] = table[from[(size_t)i * step]];
}

static void convert_reals(const window *w, size_t first, int64_t count, const qb_preprocess *preprocess,
                          int32_t channel, float *to) {
  const float *singles = w->data;
  const double *doubles = w->data;
  for (int64_t i = 0; i < count; i++) {
    size_t at = first + (size_t)i * w->column_step;
    to[i] = transform(preprocess, channel, w->dtype == QB_DTYPE_F32 ? singles[at] : (float)doubles[at]);
  }
}

/* One output plane of height x width. */
static void convert_plane(const window *w, int32_t plane, const qb_preprocess *preprocess, int64_t height,
                          int64_t width, float *to) {
  float table[256];
  int32_t channel = statistics_index(preprocess, plane);
  for (int v = 0; v < 256; v++)
    table[v] = transform(preprocess, channel, (float)v);
  int64_t before = w->left < 0 ? -w->left : 0, end = w->width - w->left < width ? w->width - w->left : width;
  for (int64_t y = 0; y < height; y++, to += width) {
    int64_t row = w->top + y;
    bool inside = row >= 0 && row < w->height;
    int64_t from = inside ? before : 0, until = inside ? end : 0;
    for (int64_t x = 0; x < from; x++)
      to[x] = table[0];
    for (int64_t x = until; x < width; x++)
      to[x] = table[0];
    if (!inside)
      continue;
    size_t first =
        (size_t)plane * w->plane_step + (size_t)row * w->row_step + (size_t)(w->left + from) * w->column_step;
    if (w->dtype == QB_DTYPE_U8)
      convert_bytes((const uint8_t *)w->data + first, w->column_step, until - from, table, to + from);
    else
      convert_reals(w, first, until - from, preprocess, channel, to + from);
  }
}

/* torchvision's first pixel of a centre crop: round half to even of (length - crop) / 2; where zeros are added, the
 * smaller half goes in front. */
static int64_t crop_start(int64_t length, int64_t crop) {
  int64_t spare = length - crop, half = spare / 2;
  if (spare < 0)
    return -(-spare / 2);
  return spare % 2 == 0 ? half : half + half % 2;
}

static window window_of(const qb_stored_sample *stored) {
  window w = {.dtype = stored->dtype, .data = stored->data, .height = 1, .column_step = 1};
  if (stored->shape.rank != 3) {
    w.width = (int64_t)qb_shape_elements(&stored->shape);
    return w;
  }
  w.height = stored->shape.dims[1];
  w.width = stored->shape.dims[2];
  w.column_step = stored->interleaved ? (size_t)stored->shape.dims[0] : 1;
  w.row_step = (size_t)w.width * w.column_step;
  w.plane_step = stored->interleaved ? 1 : (size_t)w.height * w.row_step;
  return w;
}

static qb_status check_finite(const float *sample, size_t count, const char *name, qb_error *error) {
  bool finite = true;
  for (size_t i = 0; i < count; i++)
    finite &= fabsf(sample[i]) <= FLT_MAX;
  if (!finite)
    return qb_fail(error, QB_ERROR_NUMERIC, "%s: holds values that are NaN or too large for float32", name);
  return QB_OK;
}

static qb_status convert(const qb_preprocess *preprocess, const qb_stored_sample *stored, const qb_shape *shape,
                         float *sample, qb_error *error) {
  window w = window_of(stored);
  int64_t height = w.height, width = w.width;
  if (preprocess->crop > 0) {
    height = width = preprocess->crop;
    w.top = crop_start(w.height, height);
    w.left = crop_start(w.width, width);
  }
  for (int32_t plane = 0; plane < channel_count(&stored->shape); plane++)
    convert_plane(&w, plane, preprocess, height, width, sample + (int64_t)plane * height * width);
  return check_finite(sample, qb_shape_elements(shape), stored->name, error);
}

/* ------------------------------------------------------------------------------------------------------ resizing */

static qb_status interleave(const qb_stored_sample *stored, qb_image *image, qb_error *error) {
  const uint8_t *from = stored->data;
  int32_t channels = (int32_t)stored->shape.dims[0];
  QB_TRY(qb_image_create(image, stored->shape.dims[1], stored->shape.dims[2], channels, stored->name, error));
  size_t pixels = (size_t)image->height * (size_t)image->width;
  for (size_t c = 0; c < (size_t)channels; c++)
    for (size_t i = 0; i < pixels; i++)
      image->pixels[i * (size_t)channels + c] = from[c * pixels + i];
  return QB_OK;
}

static qb_status resize_and_convert(const qb_preprocess *preprocess, const qb_stored_sample *stored,
                                    const qb_shape *shape, float *sample, qb_error *error) {
  int64_t height, width;
  qb_image planes = {0}, resized = {0};
  qb_image source = {.channels = (int32_t)stored->shape.dims[0],
                     .height = (int32_t)stored->shape.dims[1],
                     .width = (int32_t)stored->shape.dims[2]};
  if (!stored->interleaved)
    QB_TRY(interleave(stored, &planes, error));
  source.pixels = stored->interleaved ? (uint8_t *)(uintptr_t)stored->data : planes.pixels; /* only read */
  resized_sides(preprocess->resize, source.height, source.width, &height, &width);
  qb_status status = qb_image_resize(&source, (int32_t)height, (int32_t)width, stored->name, &resized, error);
  if (status == QB_OK) {
    qb_stored_sample result = {QB_DTYPE_U8, QB_SHAPE(source.channels, height, width), true, resized.pixels,
                               stored->name};
    status = convert(preprocess, &result, shape, sample, error);
  }
  qb_image_free(&planes);
  qb_image_free(&resized);
  return status;
}

static bool needs_resize(const qb_preprocess *preprocess, const qb_shape *stored) {
  int64_t shorter = stored->dims[1] < stored->dims[2] ? stored->dims[1] : stored->dims[2];
  return preprocess->resize > 0 && shorter != preprocess->resize;
}

qb_status qb_preprocess_apply(const qb_preprocess *preprocess, const qb_stored_sample *stored, const qb_shape *shape,
                              float *sample, qb_error *error) {
  qb_shape result;
  char text[QB_SHAPE_TEXT], wanted[QB_SHAPE_TEXT];
  QB_TRY(qb_preprocess_shape(preprocess, stored->dtype, &stored->shape, stored->name, &result, error));
  if (!qb_shape_equal(&result, shape))
    return qb_fail(error, QB_ERROR_SHAPE,
                   "%s: has shape %s after preprocessing, the first sample has %s: add resize= and crop=", stored->name,
                   qb_shape_print(&result, text), qb_shape_print(shape, wanted));
  if (needs_resize(preprocess, &stored->shape))
    return resize_and_convert(preprocess, stored, shape, sample, error);
  return convert(preprocess, stored, shape, sample, error);
}

/* ----------------------------------------------------------------------------------------------------- pixel box */

/* Limits of (value - mean) / std over the reals and over its float32 evaluation, moved outwards by more than the error
 * of the double evaluation. */
static void outward_limits(const qb_preprocess *preprocess, int32_t channel, float pixel, float *lo, float *hi) {
  double scale = preprocess->scale > 0.0f ? (double)preprocess->scale : 1.0, value = (double)pixel / scale;
  double mean = preprocess->normalize ? (double)preprocess->mean[channel] : 0.0;
  double std = preprocess->normalize ? (double)preprocess->std[channel] : 1.0;
  double exact = (value - mean) / std, radius = 4.0 * DBL_EPSILON * (fabs(value) + fabs(mean)) / std;
  float evaluated = transform(preprocess, channel, pixel);
  *lo = *hi = evaluated;
  if (!preprocess->normalize && (double)evaluated * scale == (double)pixel)
    return; /* the division was exact */
  *lo = nextafterf(fminf(evaluated, (float)(exact - radius)), -INFINITY);
  *hi = nextafterf(fmaxf(evaluated, (float)(exact + radius)), INFINITY);
}

bool qb_preprocess_pixel_box(const qb_preprocess *preprocess, int32_t channel, float *lo, float *hi) {
  float unused;
  if (channel < 0 || (preprocess->channels > 1 && channel >= preprocess->channels))
    return false;
  int32_t index = statistics_index(preprocess, channel);
  outward_limits(preprocess, index, 0.0f, lo, &unused);
  outward_limits(preprocess, index, 255.0f, &unused, hi);
  return true;
}
