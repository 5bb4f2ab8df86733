/* Sizes and names of element types. */
#include "tensor/dtype.h"

#include "base/size.h"

int qb_dtype_bits(qb_dtype dtype) {
  switch (dtype) {
#define X(ID, ONNX, BITS, NAME) \
  case QB_DTYPE_##ID: return BITS;
    QB_DTYPE_LIST(X)
#undef X
  case QB_DTYPE_NONE: break;
  }
  return 0;
}

const char *qb_dtype_name(qb_dtype dtype) {
  switch (dtype) {
#define X(ID, ONNX, BITS, NAME) \
  case QB_DTYPE_##ID: return NAME;
    QB_DTYPE_LIST(X)
#undef X
  case QB_DTYPE_NONE: break;
  }
  return "unknown";
}

bool qb_dtype_size(qb_dtype dtype, size_t count, size_t *size_bytes) {
  size_t bits = (size_t)qb_dtype_bits(dtype);
  size_t total, rounded;
  if (bits == 0 || !qb_size_multiply(count, bits, &total) || !qb_size_add(total, 7, &rounded))
    return false;
  *size_bytes = rounded / 8;
  return true;
}
