/* Separates a serialized model into a small skeleton and its tensor data, so that the weights exist once in memory.
 *
 * protobuf-c copies every bytes field it unpacks. Before unpacking, the data of every tensor (`raw_data`, and packed
 * `float_data`) is therefore replaced by a stub that tells where the data lies in the file's bytes; after unpacking,
 * the stubs are replaced by pointers. Nesting is bounded: only model, graph, node, attribute and tensor are entered. */
#ifndef QB_ONNX_WIRE_H
#define QB_ONNX_WIRE_H

#include <qbound/qbound.h>

typedef struct qb_wire_stub {
  uint64_t offset, length; /* of the data in the file's bytes */
  uint32_t slack;          /* bytes before the data that may be overwritten (its tag and length) */
  uint32_t is_float_data;  /* the field was float_data, not raw_data */
} qb_wire_stub;

/* The skeleton of `bytes` in a block from qb_alloc. Every tensor's raw_data in it is one qb_wire_stub. QB_ERROR_FORMAT
 * tells the byte at which the file is not well formed. */
QB_MUST_CHECK qb_status qb_wire_skeleton(const unsigned char *bytes, size_t byte_count, const char *path,
                                         unsigned char **skeleton, size_t *skeleton_size, qb_error *error);

#endif
