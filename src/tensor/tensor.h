/* Tensors: dense, row-major, contiguous.
 *
 * A qb_tensor owns its data and is freed by its holder; a qb_view borrows data that outlives it (an arena, a file
 * mapping, a tensor). Functions take views and return tensors. */
#ifndef QB_TENSOR_TENSOR_H
#define QB_TENSOR_TENSOR_H

#include <qbound/qbound.h>

#include "base/arena.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

typedef struct qb_view {
  qb_dtype dtype;
  qb_shape shape;
  const void *data; /* packed, little-endian, aligned to the element size */
} qb_view;

typedef struct qb_tensor {
  qb_dtype dtype;
  qb_shape shape;
  void *data; /* from qb_alloc */
} qb_tensor;

/* A zeroed tensor; QB_ERROR_SHAPE for a negative or overflowing shape, QB_ERROR_MEMORY. `what` names it in errors. */
QB_MUST_CHECK qb_status qb_tensor_create(qb_tensor *tensor, qb_dtype dtype, const qb_shape *shape, const char *what,
                                         qb_error *error);

/* Releases the data and clears the tensor; NULL and a cleared tensor are fine. */
void qb_tensor_free(qb_tensor *tensor);

qb_view qb_tensor_view(const qb_tensor *tensor);

/* Number of elements. */
size_t qb_view_elements(const qb_view *view);

/* Element `index` of an integer tensor of any width (packed ones included), sign-extended. Asserts an integer type. */
int64_t qb_view_integer(const qb_view *view, size_t index);

/* Element `index` of a floating-point tensor (float16 and bfloat16 included), exactly. Asserts a float type. */
double qb_view_real(const qb_view *view, size_t index);

/* The float32 elements. Asserts QB_DTYPE_F32. */
const float *qb_view_f32(const qb_view *view);

/* QB_ERROR_NUMERIC naming the tensor when a floating-point element is NaN or Inf. */
QB_MUST_CHECK qb_status qb_view_check_finite(const qb_view *view, const char *name, qb_error *error);

bool qb_dtype_is_integer(qb_dtype dtype);
bool qb_dtype_is_real(qb_dtype dtype);

#endif
