/* Owning tensors and element access. */
#include "tensor/tensor.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

qb_status qb_tensor_create(qb_tensor *tensor, qb_dtype dtype, const qb_shape *shape, const char *what,
                           qb_error *error) {
  char text[QB_SHAPE_TEXT];
  size_t count, size_bytes;
  *tensor = (qb_tensor){0};
  if (!qb_shape_count(shape, &count) || !qb_dtype_size(dtype, count, &size_bytes))
    return qb_fail(error, QB_ERROR_SHAPE, "%s: impossible %s tensor of shape %s", what, qb_dtype_name(dtype),
                   qb_shape_print(shape, text));
  void *data = qb_alloc(size_bytes, 1);
  if (data == NULL)
    return qb_fail_memory(error, what, size_bytes);
  *tensor = (qb_tensor){.dtype = dtype, .shape = *shape, .data = data};
  return QB_OK;
}

void qb_tensor_free(qb_tensor *tensor) {
  if (tensor == NULL)
    return;
  qb_free(tensor->data);
  *tensor = (qb_tensor){0};
}

qb_view qb_tensor_view(const qb_tensor *tensor) {
  return (qb_view){.dtype = tensor->dtype, .shape = tensor->shape, .data = tensor->data};
}

size_t qb_view_elements(const qb_view *view) { return qb_shape_elements(&view->shape); }

bool qb_dtype_is_real(qb_dtype dtype) {
  return dtype == QB_DTYPE_F32 || dtype == QB_DTYPE_F64 || dtype == QB_DTYPE_F16 || dtype == QB_DTYPE_BF16;
}

bool qb_dtype_is_integer(qb_dtype dtype) { return qb_dtype_bits(dtype) > 0 && !qb_dtype_is_real(dtype); }

/* Field `index` of width `bits` (2 or 4) in a packed array, lowest bits first. */
static unsigned packed_field(const uint8_t *bytes, size_t index, unsigned bits) {
  size_t per_byte = 8 / bits;
  unsigned shift = (unsigned)(index % per_byte) * bits;
  return (unsigned)(bytes[index / per_byte] >> shift) & ((1u << bits) - 1u);
}

static int64_t sign_extend(unsigned field, unsigned bits) {
  unsigned sign = 1u << (bits - 1u);
  return (int64_t)(field ^ sign) - (int64_t)sign;
}

int64_t qb_view_integer(const qb_view *view, size_t index) {
  switch (view->dtype) {
  case QB_DTYPE_U8:
  case QB_DTYPE_BOOL: return ((const uint8_t *)view->data)[index];
  case QB_DTYPE_I8: return ((const int8_t *)view->data)[index];
  case QB_DTYPE_U16: return ((const uint16_t *)view->data)[index];
  case QB_DTYPE_I16: return ((const int16_t *)view->data)[index];
  case QB_DTYPE_U32: return ((const uint32_t *)view->data)[index];
  case QB_DTYPE_I32: return ((const int32_t *)view->data)[index];
  case QB_DTYPE_U64:
  case QB_DTYPE_I64: return ((const int64_t *)view->data)[index];
  case QB_DTYPE_U4: return packed_field(view->data, index, 4);
  case QB_DTYPE_I4: return sign_extend(packed_field(view->data, index, 4), 4);
  case QB_DTYPE_U2: return packed_field(view->data, index, 2);
  case QB_DTYPE_I2: return sign_extend(packed_field(view->data, index, 2), 2);
  case QB_DTYPE_NONE:
  case QB_DTYPE_F32:
  case QB_DTYPE_F64:
  case QB_DTYPE_F16:
  case QB_DTYPE_BF16: break;
  }
  assert(!"not an integer tensor");
  return 0;
}

static double half_to_double(uint16_t half) {
  unsigned exponent = (half >> 10) & 31u, fraction = half & 1023u;
  double sign = (half & 0x8000u) != 0 ? -1 : 1;
  if (exponent == 31)
    return fraction == 0 ? sign * (double)INFINITY : (double)NAN;
  if (exponent == 0)
    return sign * ldexp(fraction, -24);
  return sign * ldexp(1024 + fraction, (int)exponent - 25);
}

static double bfloat_to_double(uint16_t bfloat) {
  uint32_t word = (uint32_t)bfloat << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return (double)value;
}

double qb_view_real(const qb_view *view, size_t index) {
  switch (view->dtype) {
  case QB_DTYPE_F32: return (double)((const float *)view->data)[index];
  case QB_DTYPE_F64: return ((const double *)view->data)[index];
  case QB_DTYPE_F16: return half_to_double(((const uint16_t *)view->data)[index]);
  case QB_DTYPE_BF16: return bfloat_to_double(((const uint16_t *)view->data)[index]);
  default: break;
  }
  assert(!"not a floating-point tensor");
  return 0;
}

const float *qb_view_f32(const qb_view *view) {
  assert(view->dtype == QB_DTYPE_F32);
  return view->data;
}

qb_status qb_view_check_finite(const qb_view *view, const char *name, qb_error *error) {
  if (!qb_dtype_is_real(view->dtype))
    return QB_OK;
  size_t count = qb_view_elements(view);
  for (size_t i = 0; i < count; i++)
    if (!isfinite(qb_view_real(view, i)))
      return qb_fail(error, QB_ERROR_NUMERIC,
                     "tensor '%s' holds %s at element %zu: a network with NaN or Inf weights cannot be quantized or "
                     "bounded; export it again",
                     name, isnan(qb_view_real(view, i)) ? "NaN" : "Inf", i);
  return QB_OK;
}
