/* Element types, as ONNX names them. Four- and two-bit integers are packed, lowest bits first. */
#ifndef QB_TENSOR_DTYPE_H
#define QB_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

/* id, ONNX TensorProto.DataType number, bits per element, name */
#define QB_DTYPE_LIST(X)      \
  X(F32, 1, 32, "float32")    \
  X(U8, 2, 8, "uint8")        \
  X(I8, 3, 8, "int8")         \
  X(U16, 4, 16, "uint16")     \
  X(I16, 5, 16, "int16")      \
  X(I32, 6, 32, "int32")      \
  X(I64, 7, 64, "int64")      \
  X(BOOL, 9, 8, "bool")       \
  X(F16, 10, 16, "float16")   \
  X(F64, 11, 64, "float64")   \
  X(U32, 12, 32, "uint32")    \
  X(U64, 13, 64, "uint64")    \
  X(BF16, 16, 16, "bfloat16") \
  X(U4, 21, 4, "uint4")       \
  X(I4, 22, 4, "int4")        \
  X(U2, 25, 2, "uint2")       \
  X(I2, 26, 2, "int2")

typedef enum qb_dtype {
  QB_DTYPE_NONE = 0,
#define X(ID, ONNX, BITS, NAME) QB_DTYPE_##ID = ONNX,
  QB_DTYPE_LIST(X)
#undef X
} qb_dtype;

/* Bits per element; 0 for an unknown type. */
int qb_dtype_bits(qb_dtype dtype);

/* "float32"; "unknown" for an unknown type. */
const char *qb_dtype_name(qb_dtype dtype);

/* Bytes of `count` packed elements, rounded up to whole bytes; false on overflow or an unknown type. */
bool qb_dtype_size(qb_dtype dtype, size_t count, size_t *size_bytes);

#endif
