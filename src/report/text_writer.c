/* Growing text; see text_writer.h. */
#include "report/text_writer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

void qb_write_bytes(qb_text_writer *w, const char *bytes, size_t count) {
  if (w->size + count + 1 > w->capacity && !w->failed) {
    size_t capacity = 2 * (w->capacity + count) + 256;
    char *grown = qb_alloc(capacity, 1);
    if (grown != NULL && w->size > 0)
      memcpy(grown, w->text, w->size);
    qb_free(w->text);
    w->text = grown;
    w->capacity = capacity;
    w->failed = grown == NULL;
  }
  if (!w->failed) {
    memcpy(w->text + w->size, bytes, count);
    w->size += count;
    w->text[w->size] = '\0';
  }
}

void qb_write_text(qb_text_writer *w, const char *text) { qb_write_bytes(w, text, strlen(text)); }

void qb_write_format(qb_text_writer *w, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0 || (size_t)length >= sizeof text)
    w->failed = true; /* long text goes through qb_write_text */
  else
    qb_write_bytes(w, text, (size_t)length);
}

/* Bytes of the UTF-8 sequence at `at` (1 to 4), 0 when it is none: overlong forms and surrogates are refused. */
static size_t sequence_length(const unsigned char *at) {
  static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
  size_t length = at[0] < 0x80 ? 1 : at[0] >> 5 == 6 ? 2 : at[0] >> 4 == 14 ? 3 : at[0] >> 3 == 30 ? 4 : 0;
  uint32_t code = length < 2 ? at[0] : at[0] & (0x7fu >> length);
  for (size_t i = 1; i < length; i++) {
    if (at[i] >> 6 != 2)
      return 0;
    code = code << 6 | (at[i] & 0x3fu);
  }
  return code < least[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : length;
}

static const char *reference_of(char c) {
  switch (c) {
  case '&': return "&amp;";
  case '<': return "&lt;";
  case '>': return "&gt;";
  case '"': return "&quot;";
  case '\'': return "&#39;";
  default: return (unsigned char)c < 0x20 || c == 0x7f ? "?" : NULL;
  }
}

void qb_write_escaped(qb_text_writer *w, const char *text) {
  while (text != NULL && *text != '\0') {
    size_t length = sequence_length((const unsigned char *)text);
    const char *reference = length == 1 ? reference_of(*text) : NULL;
    if (length == 0)
      qb_write_bytes(w, "?", 1);
    else if (reference != NULL)
      qb_write_text(w, reference);
    else
      qb_write_bytes(w, text, length);
    text += length == 0 ? 1 : length;
  }
}

void qb_write_base64(qb_text_writer *w, const uint8_t *bytes, size_t count) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < count; i += 3) {
    size_t left = count - i;
    uint32_t three = (uint32_t)bytes[i] << 16;
    three |= left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0;
    three |= left > 2 ? (uint32_t)bytes[i + 2] : 0;
    char four[4] = {digits[three >> 18], digits[three >> 12 & 63], digits[three >> 6 & 63], digits[three & 63]};
    four[2] = left > 1 ? four[2] : '=';
    four[3] = left > 2 ? four[3] : '=';
    qb_write_bytes(w, four, 4);
  }
}
