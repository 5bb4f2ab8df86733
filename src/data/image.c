/* Images: memory, and which decoder a file needs. */
#include "data/image.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/bytes.h"

enum { MAX_FILE_BYTES = 1 << 28 };

qb_status qb_image_create(qb_image *image, int64_t height, int64_t width, int32_t channels, const char *name,
                          qb_error *error) {
  *image = (qb_image){0};
  if (height < 1 || width < 1 || height > QB_IMAGE_MAX_PIXELS || width > QB_IMAGE_MAX_PIXELS / height)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: an image of %lldx%lld pixels is not accepted (at most %d pixels)", name,
                   (long long)width, (long long)height, QB_IMAGE_MAX_PIXELS);
  image->pixels = qb_alloc((size_t)(height * width), (size_t)channels);
  if (image->pixels == NULL)
    return qb_fail_memory(error, name, (size_t)(height * width * channels));
  image->height = (int32_t)height;
  image->width = (int32_t)width;
  image->channels = channels;
  return QB_OK;
}

void qb_image_free(qb_image *image) {
  qb_free(image->pixels);
  *image = (qb_image){0};
}

bool qb_image_is_jpeg(const uint8_t *data, size_t size) { return size >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0; }

bool qb_image_is_png(const uint8_t *data, size_t size) {
  return size >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0;
}

qb_status qb_image_read(const char *path, qb_image *image, qb_error *error) {
  qb_bytes bytes;
  qb_status status;
  *image = (qb_image){0};
  QB_TRY(qb_bytes_read(path, MAX_FILE_BYTES, &bytes, error));
  if (qb_image_is_jpeg(bytes.data, bytes.size))
    status = qb_image_decode_jpeg(bytes.data, bytes.size, path, image, error);
  else if (qb_image_is_png(bytes.data, bytes.size))
    status = qb_image_decode_png(bytes.data, bytes.size, path, image, error);
  else
    status = qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: neither JPEG nor PNG: convert it to one of them", path);
  qb_bytes_free(&bytes);
  if (status != QB_OK)
    qb_image_free(image);
  return status;
}
