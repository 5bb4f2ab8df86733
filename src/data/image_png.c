/* PNG through libpng, turned into 8-bit RGB without gamma.
 *
 * libpng reports an error through a function that must not return: ours jumps back to decode(), whose caller then
 * releases everything. What lives across the jump is in one struct outside the jumping function. */
#include "data/image.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum { MAX_CHUNK_BYTES = 1 << 24, MAX_CACHED_CHUNKS = 64 };

typedef struct decoder {
  png_structp png;
  png_infop info;
  const uint8_t *data;
  size_t size, used; /* bytes */
  jmp_buf escape;
  char reason[200];
} decoder;

static void on_error(png_structp png, png_const_charp reason) {
  decoder *d = png_get_error_ptr(png);
  snprintf(d->reason, sizeof d->reason, "%s", reason);
  longjmp(d->escape, 1);
}

static void on_warning(png_structp png, png_const_charp reason) {
  (void)png;
  (void)reason;
}

static void on_read(png_structp png, png_bytep target, size_t size) {
  decoder *d = png_get_io_ptr(png);
  if (size > d->size - d->used)
    png_error(png, "the file ends early: truncated?");
  memcpy(target, d->data + d->used, size);
  d->used += size;
}

/* Deflate expands at most 1032 times: a header that promises more would only cost memory. */
static bool plausible(const decoder *d) {
  uint64_t bits = (uint64_t)png_get_image_width(d->png, d->info) * png_get_image_height(d->png, d->info) *
                  png_get_bit_depth(d->png, d->info) * png_get_channels(d->png, d->info);
  return bits / 8 / 1032 <= d->size;
}

static void ask_for_rgb(decoder *d) {
  int colour = png_get_color_type(d->png, d->info);
  if (colour == PNG_COLOR_TYPE_PALETTE)
    png_set_palette_to_rgb(d->png);
  if ((colour & PNG_COLOR_MASK_COLOR) == 0) {
    png_set_expand_gray_1_2_4_to_8(d->png);
    png_set_gray_to_rgb(d->png);
  }
  png_set_strip_16(d->png);
  png_set_strip_alpha(d->png);
}

static qb_status decode(decoder *d, const char *name, qb_image *image, qb_error *error) {
  if (setjmp(d->escape) != 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: cannot decode this PNG: %s", name, d->reason);
  png_set_user_limits(d->png, QB_IMAGE_MAX_PIXELS, QB_IMAGE_MAX_PIXELS);
  png_set_chunk_malloc_max(d->png, MAX_CHUNK_BYTES);
  png_set_chunk_cache_max(d->png, MAX_CACHED_CHUNKS);
  png_set_read_fn(d->png, d, on_read);
  png_read_info(d->png, d->info);
  if (!plausible(d))
    png_error(d->png, "the header promises more pixels than the file can hold");
  ask_for_rgb(d);
  int passes = png_set_interlace_handling(d->png);
  png_read_update_info(d->png, d->info);
  QB_TRY(qb_image_create(image, png_get_image_height(d->png, d->info), png_get_image_width(d->png, d->info), 3, name,
                         error));
  size_t row_bytes = (size_t)image->width * 3;
  if (png_get_rowbytes(d->png, d->info) != row_bytes)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: this kind of PNG is not supported: convert it to 8-bit RGB", name);
  for (int pass = 0; pass < passes; pass++)
    for (int32_t y = 0; y < image->height; y++)
      png_read_row(d->png, image->pixels + (size_t)y * row_bytes, NULL);
  png_read_end(d->png, NULL);
  return QB_OK;
}

qb_status qb_image_decode_png(const uint8_t *data, size_t size, const char *name, qb_image *image, qb_error *error) {
  decoder d;
  memset(&d, 0, sizeof d);
  *image = (qb_image){0};
  d.data = data;
  d.size = size;
  d.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &d, on_error, on_warning);
  d.info = d.png == NULL ? NULL : png_create_info_struct(d.png);
  if (d.info == NULL) {
    png_destroy_read_struct(&d.png, NULL, NULL);
    return qb_fail_memory(error, name, sizeof d);
  }
  qb_status status = decode(&d, name, image, error);
  png_destroy_read_struct(&d.png, &d.info, NULL);
  if (status != QB_OK)
    qb_image_free(image);
  return status;
}
