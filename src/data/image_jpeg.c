/* JPEG through libjpeg with its defaults, which are also Pillow's: accurate integer DCT, smooth upsampling.
 *
 * libjpeg reports an error through a function that must not return: ours jumps back to decode(), whose caller then
 * releases everything. What lives across the jump is in one struct outside the jumping function. */
#include "data/image.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "base/error.h"

enum { MAX_SCANS = 1000, MAX_WORKING_BYTES = 1 << 30 };

typedef struct decoder {
  struct jpeg_error_mgr errors; /* first: libjpeg hands back a pointer to it */
  struct jpeg_progress_mgr progress;
  struct jpeg_decompress_struct info;
  jmp_buf escape;
  qb_status status; /* of a failure that is not libjpeg's own */
  char reason[JMSG_LENGTH_MAX];
} decoder;

static void fail(decoder *d, const char *reason) {
  snprintf(d->reason, sizeof d->reason, "%s", reason);
  longjmp(d->escape, 1);
}

static void on_error(j_common_ptr info) {
  decoder *d = (decoder *)(void *)info->err;
  info->err->format_message(info, d->reason);
  longjmp(d->escape, 1);
}

/* Level -1 is a warning. A file that ends early is refused; other damage is decoded as far as libjpeg and Pillow do. */
static void on_message(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF)
    fail((decoder *)(void *)info->err, "the file ends early: truncated?");
}

static void on_output(j_common_ptr info) { (void)info; }

/* A small file may ask for any number of passes over a large image. */
static void on_progress(j_common_ptr info) {
  if (info->is_decompressor && ((j_decompress_ptr)info)->input_scan_number > MAX_SCANS)
    fail((decoder *)(void *)info->err, "too many scans");
}

static void read_header(decoder *d, const uint8_t *data, size_t size) {
  jpeg_create_decompress(&d->info);
  d->info.progress = &d->progress;
  d->info.mem->max_memory_to_use = MAX_WORKING_BYTES;
  jpeg_mem_src(&d->info, data, (unsigned long)size);
  jpeg_read_header(&d->info, TRUE);
}

static qb_status decode(decoder *d, const uint8_t *data, size_t size, const char *name, qb_image *image,
                        qb_error *error) {
  if (setjmp(d->escape) != 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: cannot decode this JPEG: %s", name, d->reason);
  read_header(d, data, size);
  if (d->info.num_components != 1 && d->info.num_components != 3)
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "%s: a JPEG with %d components (CMYK?) is not supported: convert it to RGB", name,
                   d->info.num_components);
  d->info.out_color_space = JCS_RGB;
  QB_TRY(qb_image_create(image, d->info.image_height, d->info.image_width, 3, name, error));
  jpeg_start_decompress(&d->info);
  while (d->info.output_scanline < d->info.output_height) {
    JSAMPROW row = image->pixels + (size_t)d->info.output_scanline * d->info.output_width * 3;
    jpeg_read_scanlines(&d->info, &row, 1);
  }
  jpeg_finish_decompress(&d->info);
  return QB_OK;
}

qb_status qb_image_decode_jpeg(const uint8_t *data, size_t size, const char *name, qb_image *image, qb_error *error) {
  decoder d;
  memset(&d, 0, sizeof d);
  *image = (qb_image){0};
  d.info.err = jpeg_std_error(&d.errors);
  d.errors.error_exit = on_error;
  d.errors.emit_message = on_message;
  d.errors.output_message = on_output;
  d.progress.progress_monitor = on_progress;
  qb_status status = decode(&d, data, size, name, image, error);
  jpeg_destroy_decompress(&d.info);
  if (status != QB_OK)
    qb_image_free(image);
  return status;
}
