/* PNG through libpng's simplified interface; see png_writer.h. */
#include "report/png_writer.h"

#include <png.h>

#include "base/alloc.h"
#include "base/error.h"

qb_status qb_write_png(qb_text_writer *writer, const uint8_t *pixels, int32_t height, int32_t width, qb_error *error) {
  png_image image = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)width,
                     .height = (png_uint_32)height,
                     .format = PNG_FORMAT_RGB};
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  uint8_t *bytes = qb_alloc(size, 1);
  if (bytes == NULL || png_image_write_to_memory(&image, bytes, &size, 0, pixels, 0, NULL) == 0) {
    qb_free(bytes);
    return qb_fail(error, QB_ERROR_MEMORY, "a picture of %dx%d pixels cannot be encoded: %s", width, height,
                   bytes == NULL ? "not enough memory" : image.message);
  }
  qb_write_text(writer, "data:image/png;base64,");
  qb_write_base64(writer, bytes, size);
  qb_free(bytes);
  return QB_OK;
}
