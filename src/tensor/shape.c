/* Counting and printing shapes. */
#include "tensor/shape.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"

bool qb_shape_count(const qb_shape *shape, size_t *count) {
  size_t product = 1;
  if (shape->rank < 0 || shape->rank > QB_MAX_RANK)
    return false;
  for (int32_t i = 0; i < shape->rank; i++)
    if (shape->dims[i] < 0 || !qb_size_multiply(product, (size_t)shape->dims[i], &product))
      return false;
  *count = product;
  return true;
}

size_t qb_shape_elements(const qb_shape *shape) {
  size_t count = 0;
  bool valid = qb_shape_count(shape, &count);
  assert(valid);
  (void)valid;
  return count;
}

bool qb_shape_equal(const qb_shape *a, const qb_shape *b) {
  if (a->rank != b->rank)
    return false;
  for (int32_t i = 0; i < a->rank; i++)
    if (a->dims[i] != b->dims[i])
      return false;
  return true;
}

const char *qb_shape_print(const qb_shape *shape, char text[QB_SHAPE_TEXT]) {
  size_t used = 0;
  if (shape->rank == 0)
    snprintf(text, QB_SHAPE_TEXT, "scalar");
  for (int32_t i = 0; i < shape->rank && used < QB_SHAPE_TEXT; i++)
    used += (size_t)snprintf(text + used, QB_SHAPE_TEXT - used, "%s%" PRId64, i > 0 ? "x" : "", shape->dims[i]);
  return text;
}

int64_t qb_shape_broadcast_index(const qb_shape *whole, const qb_shape *part, int64_t index) {
  int64_t at = 0, stride = 1;
  for (int32_t k = 0; k < whole->rank; k++) {
    int32_t axis = whole->rank - 1 - k, own = part->rank - 1 - k;
    int64_t position = index % whole->dims[axis];
    index /= whole->dims[axis];
    if (own < 0)
      continue;
    at += part->dims[own] == 1 ? 0 : position * stride;
    stride *= part->dims[own];
  }
  return at;
}

int64_t qb_shape_channel(const qb_shape *shape, int64_t index) {
  int64_t inner = 1;
  for (int32_t axis = 2; axis < shape->rank; axis++)
    inner *= shape->dims[axis];
  return shape->rank < 2 ? 0 : index / inner % shape->dims[1];
}

qb_transposition qb_shape_transposition(const qb_shape *x, const int32_t *permutation) {
  qb_transposition transposition = {.shape.rank = x->rank};
  int64_t steps[QB_MAX_RANK], step = 1;
  for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
    steps[axis] = step;
    step *= x->dims[axis];
  }
  for (int32_t axis = 0; axis < x->rank; axis++) {
    transposition.shape.dims[axis] = x->dims[permutation[axis]];
    transposition.step[axis] = steps[permutation[axis]];
  }
  return transposition;
}

int64_t qb_transposition_index(const qb_transposition *transposition, int64_t index) {
  int64_t from = 0;
  for (int32_t axis = transposition->shape.rank - 1; axis >= 0; axis--) {
    from += index % transposition->shape.dims[axis] * transposition->step[axis];
    index /= transposition->shape.dims[axis];
  }
  return from;
}
