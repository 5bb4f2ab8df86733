/* Writing without a second copy of the weights; see pack.h. */
#include "onnx/pack.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "onnx/document.h"

typedef struct stream {
  ProtobufCBuffer base; /* first: protobuf-c passes a pointer to it */
  FILE *file;
  bool failed;
} stream;

static void append(ProtobufCBuffer *buffer, size_t size, const uint8_t *data) {
  stream *s = (stream *)(void *)buffer;
  s->failed = s->failed || (size > 0 && fwrite(data, 1, size, s->file) != size);
}

qb_status qb_onnx_pack(const Onnx__ModelProto *model, FILE *file, const char *path, int64_t *size_bytes,
                       qb_error *error) {
  stream s = {.base = {.append = append}, .file = file};
  size_t size = onnx__model_proto__get_packed_size(model);
  if (size >= (size_t)2 << 30)
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "%s: would have %zu bytes, and an ONNX file must stay below 2 GB (external data is not written)",
                   path, size);
  onnx__model_proto__pack_to_buffer(model, &s.base);
  if (s.failed || fflush(file) != 0)
    return qb_fail(error, QB_ERROR_IO, "%s: writing failed: %s", path, strerror(errno));
  *size_bytes = (int64_t)size;
  return QB_OK;
}

qb_status qb_onnx_write(const qb_onnx *document, FILE *file, const char *path, qb_error *error) {
  int64_t size_bytes;
  return qb_onnx_pack(document->model, file, path, &size_bytes, error);
}
