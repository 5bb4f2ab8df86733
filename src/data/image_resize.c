/* Pillow's antialiased bilinear resizing, to the bit.
 *
 * Output pixel x covers the input around (x + 1/2) s, s = input / output length, with a triangle of half width
 * max(s, 1). The weights are normalised in double, then rounded to 22 fractional bits; a pass sums them with the
 * pixels in int32 and rounds to 8 bits before the next pass sees them. The horizontal pass comes first, as in every
 * Pillow before 13; Pillow 13 turns the order round where that is cheaper (tall images). Equal lengths give the
 * identity. The sums fit: rounding at most doubles a weight, and 2 * 255 * 2^22 + 2^21 < 2^31. */
#include "data/image.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"

enum { FRACTION_BITS = 22 };

typedef struct filter {
  int32_t taps;     /* entries of `weights` per output pixel */
  int32_t *first;   /* (outputs): the input pixel of the first weight */
  int32_t *count;   /* (outputs): weights in use */
  int32_t *weights; /* (outputs, taps) */
} filter;

static void filter_free(filter *f) {
  qb_free(f->first);
  qb_free(f->count);
  qb_free(f->weights);
}

static double triangle(double x) { return fabs(x) < 1.0 ? 1.0 - fabs(x) : 0.0; }

/* Weights of the output pixel at `x`; `scratch` holds taps doubles. */
static void fill_weights(filter *f, int32_t x, int32_t inputs, double step, double half_width, double *scratch) {
  double centre = (x + 0.5) * step, total = 0.0, inverse = 1.0 / half_width;
  int32_t first = (int32_t)(centre - half_width + 0.5), end = (int32_t)(centre + half_width + 0.5);
  first = first < 0 ? 0 : first;
  end = end > inputs ? inputs : end;
  for (int32_t i = 0; i < end - first; i++) {
    scratch[i] = triangle((i + first - centre + 0.5) * inverse);
    total += scratch[i];
  }
  for (int32_t i = 0; i < end - first; i++) {
    double weight = total != 0.0 ? scratch[i] / total : scratch[i];
    f->weights[(size_t)x * (size_t)f->taps + (size_t)i] = (int32_t)(0.5 + weight * (1 << FRACTION_BITS));
  }
  f->first[x] = first;
  f->count[x] = end - first;
}

static qb_status filter_create(filter *f, int32_t inputs, int32_t outputs, const char *name, qb_error *error) {
  double step = (double)inputs / outputs, half_width = step < 1.0 ? 1.0 : step;
  f->taps = (int32_t)ceil(half_width) * 2 + 1;
  f->first = qb_alloc((size_t)outputs, sizeof *f->first);
  f->count = qb_alloc((size_t)outputs, sizeof *f->count);
  f->weights = qb_alloc((size_t)outputs * (size_t)f->taps, sizeof *f->weights);
  double *scratch = qb_alloc((size_t)f->taps, sizeof *scratch);
  qb_status status = QB_OK;
  if (f->first == NULL || f->count == NULL || f->weights == NULL || scratch == NULL)
    status = qb_fail_memory(error, name, (size_t)outputs * (size_t)f->taps * sizeof *f->weights);
  else
    for (int32_t x = 0; x < outputs; x++)
      fill_weights(f, x, inputs, step, half_width, scratch);
  qb_free(scratch);
  return status;
}

static uint8_t round_sum(int32_t sum) {
  int32_t value = sum >> FRACTION_BITS; /* the sum began with one half */
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void resize_row_rgb(const filter *f, const uint8_t *from, int32_t width, uint8_t *to) {
  for (int32_t x = 0; x < width; x++, to += 3) {
    const int32_t *weights = f->weights + (size_t)x * (size_t)f->taps;
    const uint8_t *pixel = from + (size_t)f->first[x] * 3;
    int32_t r = 1 << (FRACTION_BITS - 1), g = r, b = r;
    for (int32_t i = 0; i < f->count[x]; i++, pixel += 3) {
      r += pixel[0] * weights[i];
      g += pixel[1] * weights[i];
      b += pixel[2] * weights[i];
    }
    to[0] = round_sum(r);
    to[1] = round_sum(g);
    to[2] = round_sum(b);
  }
}

static void resize_row(const filter *f, const uint8_t *from, int32_t width, int32_t channels, uint8_t *to) {
  for (int32_t x = 0; x < width; x++)
    for (int32_t c = 0; c < channels; c++) {
      const int32_t *weights = f->weights + (size_t)x * (size_t)f->taps;
      int32_t sum = 1 << (FRACTION_BITS - 1);
      for (int32_t i = 0; i < f->count[x]; i++)
        sum += from[(f->first[x] + i) * channels + c] * weights[i];
      *to++ = round_sum(sum);
    }
}

static void resize_horizontally(const filter *f, const qb_image *from, qb_image *to) {
  size_t from_row = (size_t)from->width * (size_t)from->channels, to_row = (size_t)to->width * (size_t)to->channels;
  for (size_t y = 0; y < (size_t)to->height; y++)
    if (to->channels == 3)
      resize_row_rgb(f, from->pixels + y * from_row, to->width, to->pixels + y * to_row);
    else
      resize_row(f, from->pixels + y * from_row, to->width, to->channels, to->pixels + y * to_row);
}

/* `sums` holds one row of int32. */
static void resize_vertically(const filter *f, const qb_image *from, qb_image *to, int32_t *sums) {
  size_t row = (size_t)to->width * (size_t)to->channels;
  for (size_t y = 0; y < (size_t)to->height; y++) {
    for (size_t x = 0; x < row; x++)
      sums[x] = 1 << (FRACTION_BITS - 1);
    for (int32_t i = 0; i < f->count[y]; i++) {
      const uint8_t *source = from->pixels + (size_t)(f->first[y] + i) * row;
      int32_t weight = f->weights[y * (size_t)f->taps + (size_t)i];
      for (size_t x = 0; x < row; x++)
        sums[x] += source[x] * weight;
    }
    for (size_t x = 0; x < row; x++)
      to->pixels[y * row + x] = round_sum(sums[x]);
  }
}

static qb_status horizontal_pass(const qb_image *from, int32_t width, const char *name, qb_image *to, qb_error *error) {
  filter f = {0};
  qb_status status = qb_image_create(to, from->height, width, from->channels, name, error);
  if (status == QB_OK)
    status = filter_create(&f, from->width, width, name, error);
  if (status == QB_OK)
    resize_horizontally(&f, from, to);
  filter_free(&f);
  return status;
}

static qb_status vertical_pass(const qb_image *from, int32_t height, const char *name, qb_image *to, qb_error *error) {
  filter f = {0};
  int32_t *sums = NULL;
  qb_status status = qb_image_create(to, height, from->width, from->channels, name, error);
  if (status == QB_OK)
    status = filter_create(&f, from->height, height, name, error);
  if (status == QB_OK) {
    sums = qb_alloc((size_t)from->width * (size_t)from->channels, sizeof *sums);
    if (sums == NULL)
      status = qb_fail_memory(error, name, (size_t)from->width * sizeof *sums);
    else
      resize_vertically(&f, from, to, sums);
  }
  qb_free(sums);
  filter_free(&f);
  return status;
}

qb_status qb_image_resize(const qb_image *from, int32_t height, int32_t width, const char *name, qb_image *image,
                          qb_error *error) {
  qb_image middle = {0};
  *image = (qb_image){0};
  qb_status status = horizontal_pass(from, width, name, &middle, error);
  if (status == QB_OK)
    status = vertical_pass(&middle, height, name, image, error);
  qb_image_free(&middle);
  if (status != QB_OK)
    qb_image_free(image);
  return status;
}
