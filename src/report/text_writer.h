/* Text that grows: the way reports build what they return. Nothing is checked until the end; when memory is short the
 * text is dropped and `failed` stays true. */
#ifndef QB_REPORT_TEXT_WRITER_H
#define QB_REPORT_TEXT_WRITER_H

#include <qbound/qbound.h>

typedef struct qb_text_writer {
  char *text; /* from qb_alloc, NUL-terminated; NULL while empty */
  size_t size, capacity;
  bool failed;
} qb_text_writer;

void qb_write_bytes(qb_text_writer *writer, const char *bytes, size_t count);
void qb_write_text(qb_text_writer *writer, const char *text);
void qb_write_format(qb_text_writer *writer, const char *format, ...) QB_PRINTF(2, 3);

/* Text from files inside HTML or an attribute in double quotes: & < > " ' become references, control characters and
 * bytes that are no UTF-8 become '?'. NULL is "". */
void qb_write_escaped(qb_text_writer *writer, const char *text);

/* The bytes in base64 (RFC 4648), padded. */
void qb_write_base64(qb_text_writer *writer, const uint8_t *bytes, size_t count);

#endif
