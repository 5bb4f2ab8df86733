/* Where the elements of tensors that are laid out anew come from. */
#ifndef QB_CHECK_LAYOUT_H
#define QB_CHECK_LAYOUT_H

#include "graph/graph.h"

/* The element of `x` that becomes element i of its transpose `y`. */
static inline int64_t transpose_source(const qb_node *node, const qb_shape *x, const qb_shape *y, int64_t i) {
  int64_t strides[QB_MAX_RANK], stride = 1, source = 0;
  for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= x->dims[axis];
  }
  for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
    source += i % y->dims[axis] * strides[node->attributes.transpose.permutation[axis]];
    i /= y->dims[axis];
  }
  return source;
}

/* The element of `x` that element i of the padded `y` is, or -1: padding. */
static inline int64_t pad_source(const qb_node *node, const qb_shape *x, const qb_shape *y, int64_t i) {
  int64_t source = 0, stride = 1;
  for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
    int64_t at = i % y->dims[axis] - node->attributes.pad.begin[axis];
    i /= y->dims[axis];
    if (at < 0 || at >= x->dims[axis])
      return -1;
    source += at * stride;
    stride *= x->dims[axis];
  }
  return source;
}

/* Index in the output y of a Concat of element i of an operand of shape `part` whose first slice along the axis is
 * slice `first` of y. */
static inline int64_t concat_target(const qb_node *node, const qb_shape *part, const qb_shape *y, int64_t first,
                                    int64_t i) {
  int32_t axis = node->attributes.axes.axis;
  int64_t inner = 1;
  for (int32_t k = axis + 1; k < y->rank; k++)
    inner *= y->dims[k];
  int64_t run = part->dims[axis] * inner;
  return (i / run * y->dims[axis] + first) * inner + i % run;
}

#endif
