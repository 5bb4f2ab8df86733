/* Operator names. */
#include "graph/op.h"

#include <string.h>

static const char *const names[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = NAME,
#include "graph/op_list.h"
};

const char *qb_op_name(qb_op op) { return op < QB_OP_COUNT ? names[op] : "unknown"; }

qb_op qb_op_find(const char *onnx_name, size_t length) {
  for (int op = 0; op < QB_OP_COUNT; op++)
    if (strlen(names[op]) == length && memcmp(names[op], onnx_name, length) == 0)
      return (qb_op)op;
  return QB_OP_COUNT;
}

bool qb_op_is_reshape(qb_op op) {
  switch (op) {
  case QB_OP_FLATTEN:
  case QB_OP_RESHAPE:
  case QB_OP_SQUEEZE:
  case QB_OP_UNSQUEEZE:
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT: return true;
  default: return false;
  }
}
