/* Small pictures as PNG text for pages. */
#ifndef QB_REPORT_PNG_WRITER_H
#define QB_REPORT_PNG_WRITER_H

#include "report/text_writer.h"

/* Appends "data:image/png;base64,.." of an RGB picture, `pixels` (height, width, 3). QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_write_png(qb_text_writer *writer, const uint8_t *pixels, int32_t height, int32_t width,
                                     qb_error *error);

#endif
