/* Reference rules of the operators that move elements; radii move along. */
#include <string.h>

#include "run/reference.h"

static void copy_block(reference_value *y, size_t to, const reference_value *x, size_t from, size_t count) {
  memcpy(y->x + to, x->x + from, count * sizeof *y->x);
  if (y->r == NULL)
    return;
  if (x->r != NULL)
    memcpy(y->r + to, x->r + from, count * sizeof *y->r);
  else
    memset(y->r + to, 0, count * sizeof *y->r);
}

void qb_reference_reshape(const reference_call *call) { copy_block(call->y, 0, call->in[0], 0, call->y->count); }

/* A constant part has one sample and is repeated. */
void qb_reference_concat(const reference_call *call) {
  int32_t axis = call->node->attributes.axes.axis;
  const qb_shape *y = &call->y->shape;
  size_t outer = 1, inner = 1, offset = 0;
  for (int32_t i = 0; i < axis; i++)
    outer *= (size_t)y->dims[i];
  for (int32_t i = axis + 1; i < y->rank; i++)
    inner *= (size_t)y->dims[i];
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    const reference_value *part = call->in[slot];
    size_t length = (size_t)part->shape.dims[axis] * inner, parts = part->count / length;
    for (size_t o = 0; o < outer; o++)
      copy_block(call->y, o * (size_t)y->dims[axis] * inner + offset, part, o % parts * length, length);
    offset += length;
  }
}

/* Output element -> input element, or the pad value where some coordinate is outside. */
void qb_reference_pad(const reference_call *call) {
  const reference_value *x = call->in[0];
  const qb_shape *y = &call->y->shape;
  const qb_attributes *attributes = &call->node->attributes;
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->y->count; i++) {
    size_t rest = (size_t)i, from = 0, stride = 1;
    bool inside = true;
    for (int32_t axis = y->rank - 1; axis >= 0; axis--) {
      int64_t at = (int64_t)(rest % (size_t)y->dims[axis]) - attributes->pad.begin[axis];
      rest /= (size_t)y->dims[axis];
      inside = inside && at >= 0 && at < x->shape.dims[axis];
      from += inside ? (size_t)at * stride : 0;
      stride *= (size_t)x->shape.dims[axis];
    }
    ball outside = {(double)attributes->pad.value, 0.0};
    value_set(call->y, (size_t)i, inside ? value_ball(x, from) : outside);
  }
}

void qb_reference_transpose(const reference_call *call) {
  const reference_value *x = call->in[0];
  qb_transposition t = qb_shape_transposition(&x->shape, call->node->attributes.transpose.permutation);
#pragma omp parallel for
  for (int64_t i = 0; i < (int64_t)call->y->count; i++)
    value_set(call->y, (size_t)i, value_ball(x, (size_t)qb_transposition_index(&t, i)));
}
