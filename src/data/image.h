/* Decoded 8-bit RGB images: JPEG and PNG files as Pillow's convert("RGB") shows them, and Pillow's resizing. */
#ifndef QB_DATA_IMAGE_H
#define QB_DATA_IMAGE_H

#include <qbound/qbound.h>

enum { QB_IMAGE_MAX_PIXELS = 1 << 28 };

typedef struct qb_image {
  int32_t height, width, channels;
  uint8_t *pixels; /* (height, width, channels), from qb_alloc */
} qb_image;

/* Allocates the pixels; QB_ERROR_FORMAT when a side is not positive or there are more than QB_IMAGE_MAX_PIXELS,
 * QB_ERROR_MEMORY. `name` is the file, for errors. */
QB_MUST_CHECK qb_status qb_image_create(qb_image *image, int64_t height, int64_t width, int32_t channels,
                                        const char *name, qb_error *error);
void qb_image_free(qb_image *image);

/* Reads and decodes a file whose first bytes say JPEG or PNG. Always three channels: greyscale and palettes expand, an
 * alpha channel is dropped (not blended), 16-bit samples keep their high byte, EXIF orientation and colour profiles are
 * ignored, all as torchvision's loader does. QB_ERROR_UNSUPPORTED for CMYK and other formats. */
QB_MUST_CHECK qb_status qb_image_read(const char *path, qb_image *image, qb_error *error);

/* The decoders of one format, from memory. */
QB_MUST_CHECK qb_status qb_image_decode_jpeg(const uint8_t *data, size_t size, const char *name, qb_image *image,
                                             qb_error *error);
QB_MUST_CHECK qb_status qb_image_decode_png(const uint8_t *data, size_t size, const char *name, qb_image *image,
                                            qb_error *error);

bool qb_image_is_jpeg(const uint8_t *data, size_t size);
bool qb_image_is_png(const uint8_t *data, size_t size);

/* Antialiased bilinear resizing of `from` into a new image, with the bits of Pillow's Image.resize(BILINEAR)
 * before Pillow 13: two passes, horizontal first, weights in fixed point with 22 fractional bits, each pass rounded to
 * 8 bits. */
QB_MUST_CHECK qb_status qb_image_resize(const qb_image *from, int32_t height, int32_t width, const char *name,
                                        qb_image *image, qb_error *error);

#endif
