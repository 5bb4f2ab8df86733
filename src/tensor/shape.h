/* Shapes: a rank and up to eight dimensions, outermost first. */
#ifndef QB_TENSOR_SHAPE_H
#define QB_TENSOR_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { QB_MAX_RANK = 8, QB_SHAPE_TEXT = 192 };

typedef struct qb_shape {
  int32_t rank;
  int64_t dims[QB_MAX_RANK];
} qb_shape;

/* QB_SHAPE(1, 3, 224, 224) */
#define QB_SHAPE(...) \
  ((qb_shape){.rank = (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), .dims = {__VA_ARGS__}})

/* Number of elements; false when a dimension is negative or the product overflows size_t. Rank 0 has one element. */
bool qb_shape_count(const qb_shape *shape, size_t *count);

/* Number of elements of a shape already validated with qb_shape_count. */
size_t qb_shape_elements(const qb_shape *shape);

bool qb_shape_equal(const qb_shape *a, const qb_shape *b);

/* Index into a tensor of shape `part` that broadcasts to `whole` (ONNX rules), for element `index` of the latter. */
int64_t qb_shape_broadcast_index(const qb_shape *whole, const qb_shape *part, int64_t index);

/* Position along axis 1 of element `index` in row-major order; 0 for ranks below two. */
int64_t qb_shape_channel(const qb_shape *shape, int64_t index);

/* A transpose: its shape, and the steps in the tensor it is made from. */
typedef struct qb_transposition {
  qb_shape shape;
  int64_t step[QB_MAX_RANK];
} qb_transposition;

/* Axis k of the result is axis permutation[k] of `x`. */
qb_transposition qb_shape_transposition(const qb_shape *x, const int32_t *permutation);

/* Where element `index` of the result comes from. */
int64_t qb_transposition_index(const qb_transposition *transposition, int64_t index);

/* "1x3x224x224", "scalar" for rank 0; returns `text`. */
const char *qb_shape_print(const qb_shape *shape, char text[QB_SHAPE_TEXT]);

#endif
