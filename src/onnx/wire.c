/* A walk over protobuf's wire format; see wire.h. */
#include "onnx/wire.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { FIELD_FLOAT_DATA = 4, FIELD_RAW_DATA = 9 };
enum { LENGTH_BYTES = 5, STUB_BYTES = 2 + sizeof(qb_wire_stub) };

typedef enum level { MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, OPAQUE } level;

typedef struct field {
  uint64_t number;
  unsigned wire;
  size_t start, value, end; /* offsets of tag, value and what follows */
} field;

typedef struct walk {
  const unsigned char *bytes;
  unsigned char *out; /* NULL: only count */
  size_t used;        /* bytes written or counted */
} walk;

/* The message type of a field, OPAQUE when it is not entered. */
static level child_of(level parent, uint64_t number) {
  switch (parent) {
  case MODEL: return number == 7 ? GRAPH : OPAQUE;
  case GRAPH: return number == 1 ? NODE : number == 5 ? TENSOR : OPAQUE;
  case NODE: return number == 5 ? ATTRIBUTE : OPAQUE;
  case ATTRIBUTE: return number == 5 ? TENSOR : OPAQUE;
  default: return OPAQUE;
  }
}

static bool read_varint(const unsigned char *bytes, size_t *at, size_t end, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64 && *at < end; shift += 7) {
    unsigned char byte = bytes[(*at)++];
    *value |= (uint64_t)(byte & 0x7fu) << shift;
    if (byte < 0x80u)
      return true;
  }
  return false;
}

/* Reads the field at `at`; false when it is malformed or runs past `end`. */
static bool read_field(const unsigned char *bytes, size_t at, size_t end, field *f) {
  uint64_t tag, length;
  f->start = at;
  if (!read_varint(bytes, &at, end, &tag) || tag >> 3 == 0)
    return false;
  f->number = tag >> 3;
  f->wire = (unsigned)(tag & 7u);
  switch (f->wire) {
  case WIRE_VARINT:
    f->value = at;
    if (!read_varint(bytes, &at, end, &length))
      return false;
    f->end = at;
    return true;
  case WIRE_64: length = 8; break;
  case WIRE_32: length = 4; break;
  case WIRE_BYTES:
    if (!read_varint(bytes, &at, end, &length))
      return false;
    break;
  default: return false;
  }
  if (length > end - at)
    return false;
  f->value = at;
  f->end = at + (size_t)length;
  return true;
}

static void put(walk *w, const void *data, size_t size) {
  if (w->out != NULL)
    memcpy(w->out + w->used, data, size);
  w->used += size;
}

/* A length in five bytes, padded with continuation bits: legal, and known before the content is. */
static void patch_length(walk *w, size_t position, size_t length) {
  if (w->out == NULL)
    return;
  for (int i = 0; i < LENGTH_BYTES; i++)
    w->out[position + (size_t)i] = (unsigned char)(((length >> (7 * i)) & 0x7fu) | (i + 1 < LENGTH_BYTES ? 0x80u : 0));
}

static void put_stub(walk *w, const field *f) {
  qb_wire_stub stub = {.offset = f->value,
                       .length = f->end - f->value,
                       .slack = (uint32_t)(f->value - f->start),
                       .is_float_data = f->number == FIELD_FLOAT_DATA};
  const unsigned char tag[2] = {FIELD_RAW_DATA << 3 | WIRE_BYTES, sizeof stub};
  put(w, tag, sizeof tag);
  put(w, &stub, sizeof stub);
}

/* True when the tensor's only data is one packed run of floats. */
static bool has_single_float_run(const unsigned char *bytes, size_t at, size_t end) {
  int runs = 0;
  field f;
  for (; at < end; at = f.end) {
    if (!read_field(bytes, at, end, &f))
      return false;
    if (f.number == FIELD_RAW_DATA || (f.number == FIELD_FLOAT_DATA && f.wire != WIRE_BYTES))
      return false;
    if (f.number == FIELD_FLOAT_DATA && ((f.end - f.value) % sizeof(float) != 0 || ++runs > 1))
      return false;
  }
  return runs == 1;
}

/* Copies the message in [at, end) without tensor data; on failure *at_error is the offending byte. */
static bool copy_message(walk *w, level here, size_t at, size_t end, size_t *at_error) {
  bool lift_floats = here == TENSOR && has_single_float_run(w->bytes, at, end);
  field f;
  for (; at < end; at = f.end) {
    *at_error = at;
    if (!read_field(w->bytes, at, end, &f))
      return false;
    level inner = child_of(here, f.number);
    if (f.wire == WIRE_BYTES && inner != OPAQUE) {
      const unsigned char tag = (unsigned char)(f.number << 3 | WIRE_BYTES);
      put(w, &tag, 1);
      size_t position = w->used;
      w->used += LENGTH_BYTES;
      if (!copy_message(w, inner, f.value, f.end, at_error))
        return false;
      patch_length(w, position, w->used - position - LENGTH_BYTES);
    } else if (here == TENSOR && f.wire == WIRE_BYTES &&
               (f.number == FIELD_RAW_DATA || (f.number == FIELD_FLOAT_DATA && lift_floats))) {
      put_stub(w, &f);
    } else {
      put(w, w->bytes + f.start, f.end - f.start);
    }
  }
  return true;
}

qb_status qb_wire_skeleton(const unsigned char *bytes, size_t byte_count, const char *path, unsigned char **skeleton,
                           size_t *skeleton_size, qb_error *error) {
  walk count = {.bytes = bytes};
  size_t at_error = 0;
  if (!copy_message(&count, MODEL, 0, byte_count, &at_error))
    return qb_fail(error, QB_ERROR_FORMAT,
                   "%s: not an ONNX model, or truncated: the field at byte %zu of %zu is malformed or runs past the "
                   "end; export or download it again",
                   path, at_error, byte_count);
  walk write = {.bytes = bytes, .out = qb_alloc(count.used, 1)};
  if (write.out == NULL)
    return qb_fail_memory(error, path, count.used);
  (void)copy_message(&write, MODEL, 0, byte_count, &at_error); /* succeeded a moment ago */
  *skeleton = write.out;
  *skeleton_size = write.used;
  return QB_OK;
}
