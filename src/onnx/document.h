/* What a qb_onnx is inside this module: the unpacked messages, and the file's bytes that hold the weights. */
#ifndef QB_ONNX_DOCUMENT_H
#define QB_ONNX_DOCUMENT_H

#include "base/arena.h"
#include "onnx/onnx.h"
#include "onnx.pb-c.h"

enum { QB_OPSET_MIN = 7, QB_OPSET_MAX = 25 };
enum { QB_LOCATION_EXTERNAL = 1 };

/* Small messages packed into an arena; protobuf-c's frees are ignored. `left` caps what a file may make us allocate. */
typedef struct qb_message_pool {
  qb_arena *arena;
  char *chunk;
  size_t chunk_left, left;
  bool exhausted; /* an allocation was refused */
} qb_message_pool;

struct qb_onnx {
  qb_arena arena;       /* messages, strings, external data */
  qb_message_pool pool; /* over that arena */
  unsigned char *bytes; /* the file, decompressed, from qb_alloc; raw_data points into it */
  size_t byte_count;
  size_t weight_bytes; /* byte_count and external data */
  Onnx__ModelProto *model;
  const char *path;
  int64_t opset;
};

/* A protobuf-c allocator over the pool. */
ProtobufCAllocator qb_message_allocator(qb_message_pool *pool);

/* Makes `document` from a serialized model whose bytes (from qb_alloc) it takes over, also on failure. External data
 * is looked for beside `path`. */
QB_MUST_CHECK qb_status qb_onnx_from_bytes(unsigned char *bytes, size_t byte_count, const char *path,
                                           qb_onnx **document, qb_error *error);

/* Replaces external data by raw_data read from files in the model's folder. */
QB_MUST_CHECK qb_status qb_onnx_load_external(qb_onnx *document, qb_error *error);

/* Shape of the tensor's dims; false for a negative or overflowing shape or a rank above 8. */
bool qb_tensor_proto_shape(const Onnx__TensorProto *tensor, qb_shape *shape, size_t *count);

#endif
