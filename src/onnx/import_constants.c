/* Tensors of the file as views: decoding, conversion to float32, transposition, dequantization. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "onnx/import.h"

/* ------------------------------------------------------------------------------------------------------- decoding */

bool qb_tensor_proto_shape(const Onnx__TensorProto *tensor, qb_shape *shape, size_t *count) {
  *shape = (qb_shape){0};
  if (tensor->n_dims > QB_MAX_RANK)
    return false;
  shape->rank = (int32_t)tensor->n_dims;
  for (int32_t i = 0; i < shape->rank; i++)
    shape->dims[i] = tensor->dims[i];
  return qb_shape_count(shape, count);
}

static const char *tensor_label(const Onnx__TensorProto *tensor) {
  return tensor->name == NULL || tensor->name[0] == '\0' ? "(unnamed)" : tensor->name;
}

/* Values of narrow types lie one per int32; packed four- and two-bit ones one byte per int32. */
static qb_status decode_int32(qb_import *in, const Onnx__TensorProto *tensor, size_t size_bytes, qb_view *view) {
  size_t width = qb_dtype_bits(view->dtype) >= 8 ? (size_t)qb_dtype_bits(view->dtype) / 8 : 1;
  if (tensor->n_int32_data * width != size_bytes)
    return qb_import_fail(in, QB_ERROR_FORMAT, "tensor '%s' holds %zu entries, which does not fit its shape",
                          tensor_label(tensor), tensor->n_int32_data);
  if (width == sizeof(int32_t)) {
    view->data = tensor->int32_data;
    return QB_OK;
  }
  unsigned char *bytes = qb_import_alloc(in, size_bytes, 1);
  if (bytes == NULL)
    return QB_ERROR_MEMORY;
  for (size_t i = 0; i < tensor->n_int32_data; i++)
    for (size_t b = 0; b < width; b++)
      bytes[i * width + b] = (unsigned char)((uint32_t)tensor->int32_data[i] >> (8 * b));
  view->data = bytes;
  return QB_OK;
}

static qb_status decode_uint64(qb_import *in, const Onnx__TensorProto *tensor, qb_view *view) {
  if (view->dtype == QB_DTYPE_U64) {
    view->data = tensor->uint64_data;
    return QB_OK;
  }
  uint32_t *words = qb_import_alloc(in, tensor->n_uint64_data, sizeof *words);
  if (words == NULL)
    return QB_ERROR_MEMORY;
  for (size_t i = 0; i < tensor->n_uint64_data; i++)
    words[i] = (uint32_t)tensor->uint64_data[i];
  view->data = words;
  return QB_OK;
}

static qb_status decode_typed(qb_import *in, const Onnx__TensorProto *tensor, size_t count, size_t size_bytes,
                              qb_view *view) {
  size_t held;
  switch (view->dtype) {
  case QB_DTYPE_F32: held = tensor->n_float_data, view->data = tensor->float_data; break;
  case QB_DTYPE_F64: held = tensor->n_double_data, view->data = tensor->double_data; break;
  case QB_DTYPE_I64: held = tensor->n_int64_data, view->data = tensor->int64_data; break;
  case QB_DTYPE_U32:
  case QB_DTYPE_U64: held = tensor->n_uint64_data; break;
  default: return decode_int32(in, tensor, size_bytes, view);
  }
  if (held != count)
    return qb_import_fail(in, QB_ERROR_FORMAT, "tensor '%s' holds %zu entries, its shape says %zu",
                          tensor_label(tensor), held, count);
  return view->dtype == QB_DTYPE_U32 || view->dtype == QB_DTYPE_U64 ? decode_uint64(in, tensor, view) : QB_OK;
}

qb_status qb_import_decode(qb_import *in, const Onnx__TensorProto *tensor, qb_view *view) {
  static const uint64_t nothing = 0;
  size_t count, size_bytes;
  *view = (qb_view){.dtype = (qb_dtype)tensor->data_type};
  if (qb_dtype_bits(view->dtype) == 0)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "tensor '%s' has the ONNX type number %d (strings, complex and "
                          "8-bit floats are not supported)",
                          tensor_label(tensor), tensor->data_type);
  if (!qb_tensor_proto_shape(tensor, &view->shape, &count) || !qb_dtype_size(view->dtype, count, &size_bytes))
    return qb_import_fail(in, QB_ERROR_SHAPE,
                          "tensor '%s' has an impossible shape (rank above %d, or a negative or "
                          "overflowing dimension)",
                          tensor_label(tensor), QB_MAX_RANK);
  if (tensor->has_segment)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "tensor '%s' is split into segments", tensor_label(tensor));
  if (count == 0) {
    view->data = &nothing;
    return QB_OK;
  }
  if (!tensor->has_raw_data)
    return decode_typed(in, tensor, count, size_bytes, view);
  if (tensor->raw_data.len != size_bytes)
    return qb_import_fail(in, QB_ERROR_FORMAT, "tensor '%s' holds %zu bytes, its shape and type need %zu",
                          tensor_label(tensor), tensor->raw_data.len, size_bytes);
  view->data = tensor->raw_data.data;
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- conversion */

static double element(const qb_view *view, size_t index) {
  return qb_dtype_is_real(view->dtype) ? qb_view_real(view, index) : (double)qb_view_integer(view, index);
}

qb_status qb_import_floats(qb_import *in, const char *name, const qb_view *view, bool integers, qb_view *result) {
  *result = *view;
  if (view->dtype == QB_DTYPE_F32)
    return QB_OK;
  if (!qb_dtype_is_real(view->dtype) && !integers)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "constant '%s' has type %s where float32 is needed", name,
                          qb_dtype_name(view->dtype));
  size_t count = qb_view_elements(view);
  float *floats = qb_import_alloc(in, count, sizeof *floats);
  if (floats == NULL)
    return QB_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++) {
    double exact = element(view, i);
    if (fabs(exact) > 3.5e38 || (exact == exact && (double)(float)exact != exact))
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                            "constant '%s' has type %s and its element %zu, %.17g, is not a float32 number; convert "
                            "the model to float32 and look at what that changes",
                            name, qb_dtype_name(view->dtype), i, exact);
    floats[i] = (float)exact;
  }
  result->dtype = QB_DTYPE_F32;
  result->data = floats;
  return QB_OK;
}

qb_status qb_import_transpose(qb_import *in, const qb_view *view, qb_view *result) {
  const qb_view source = *view;
  if (source.shape.rank != 2)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its weight has rank %d; only matrices are supported",
                          source.shape.rank);
  size_t rows = (size_t)source.shape.dims[0], columns = (size_t)source.shape.dims[1];
  int bits = qb_dtype_bits(source.dtype);
  size_t width = bits >= 8 ? (size_t)bits / 8 : 1;
  unsigned char *data = qb_import_alloc(in, rows * columns, width);
  if (data == NULL)
    return QB_ERROR_MEMORY;
  const unsigned char *bytes = source.data;
  for (size_t r = 0; r < rows; r++)
    for (size_t c = 0; c < columns; c++) {
      unsigned char *to = data + (c * rows + r) * width;
      if (bits >= 8)
        memcpy(to, bytes + (r * columns + c) * width, width);
      else
        *to = (unsigned char)qb_view_integer(&source, r * columns + c);
    }
  *result =
      (qb_view){.dtype = source.dtype, .shape = QB_SHAPE(source.shape.dims[1], source.shape.dims[0]), .data = data};
  if (source.dtype == QB_DTYPE_U4 || source.dtype == QB_DTYPE_U2)
    result->dtype = QB_DTYPE_U8;
  if (source.dtype == QB_DTYPE_I4 || source.dtype == QB_DTYPE_I2)
    result->dtype = QB_DTYPE_I8;
  return QB_OK;
}

qb_status qb_import_transpose_codes(qb_import *in, const qb_codes *codes, const qb_codes **result) {
  qb_codes *copy = qb_import_alloc(in, 1, sizeof *copy);
  if (copy == NULL)
    return QB_ERROR_MEMORY;
  *copy = *codes;
  if (codes->axis != QB_NONE)
    copy->axis = 1 - codes->axis;
  *result = copy;
  return qb_import_transpose(in, &codes->codes, &copy->codes);
}

/* --------------------------------------------------------------------------------------- DequantizeLinear, folded */

bool qb_dtype_range(qb_dtype dtype, float *lo, float *hi) {
  int bits = qb_dtype_bits(dtype);
  if (!qb_dtype_is_integer(dtype) || dtype == QB_DTYPE_BOOL || bits > 16)
    return false;
  bool is_signed = dtype == QB_DTYPE_I8 || dtype == QB_DTYPE_I16 || dtype == QB_DTYPE_I4 || dtype == QB_DTYPE_I2;
  *lo = is_signed ? -(float)(1 << (bits - 1)) : 0.0f;
  *hi = is_signed ? (float)((1 << (bits - 1)) - 1) : (float)((1 << bits) - 1);
  return true;
}

/* The grid of a QuantizeLinear or DequantizeLinear of a constant. The scale of element (outer, a, inner) with `a`
 * along the axis is number (outer * blocks + a / block) * inner_count + inner when blocked, a when per axis, else 0. */
typedef struct grid {
  qb_constant *x, *scale, *zero; /* zero may be NULL */
  int32_t axis;                  /* QB_NONE: one scale */
  size_t block;                  /* 0: not blocked */
  size_t length, inner_count;    /* of the axis; elements behind it */
} grid;

static size_t grid_index(const grid *g, size_t element_index) {
  if (g->axis == QB_NONE)
    return 0;
  size_t inner = element_index % g->inner_count, row = element_index / g->inner_count;
  size_t a = row % g->length, outer = row / g->length;
  if (g->block == 0)
    return a;
  size_t blocks = (g->length + g->block - 1) / g->block;
  return (outer * blocks + a / g->block) * g->inner_count + inner;
}

static qb_status grid_axis(qb_import *in, grid *g) {
  const qb_shape *x = &g->x->view.shape, *scale = &g->scale->view.shape;
  int64_t block = qb_import_int(in, "block_size", 0);
  if (qb_shape_elements(scale) == 1 && block == 0)
    return QB_OK;
  QB_TRY(qb_import_axis(in, qb_import_int(in, "axis", 1), x->rank, &g->axis));
  g->length = (size_t)x->dims[g->axis];
  g->inner_count = 1;
  for (int32_t i = g->axis + 1; i < x->rank; i++)
    g->inner_count *= (size_t)x->dims[i];
  qb_shape expected = QB_SHAPE(x->dims[g->axis]);
  if (block > 0) {
    g->block = (size_t)block;
    expected = *x;
    expected.dims[g->axis] = (int64_t)((g->length + g->block - 1) / g->block);
  }
  if (block < 0 || !qb_shape_equal(scale, &expected))
    return qb_import_fail(in, QB_ERROR_SHAPE, "the scale fits neither the tensor, one axis, nor blocks along one");
  return QB_OK;
}

/* `slot`: that of the tensor; scale and zero point follow it. */
static qb_status read_constants(qb_import *in, size_t slot, grid *g) {
  *g = (grid){.axis = QB_NONE};
  QB_TRY(qb_import_need_constant(in, slot, "the tensor", &g->x));
  QB_TRY(qb_import_need_constant(in, slot + 1, "the scale", &g->scale));
  /* decoding may have moved no table: constants are only appended when outputs are bound */
  return qb_import_constant(in, slot + 2, &g->zero);
}

static qb_status check_scales(qb_import *in, const grid *g) {
  if (g->scale->view.dtype != QB_DTYPE_F32)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its scale has type %s; only float32 is supported",
                          qb_dtype_name(g->scale->view.dtype));
  for (size_t i = 0; i < qb_view_elements(&g->scale->view); i++)
    if (!(qb_view_f32(&g->scale->view)[i] > 0) || !isfinite(qb_view_f32(&g->scale->view)[i]))
      return qb_import_fail(in, QB_ERROR_NUMERIC, "scale %zu is %g; scales must be positive and finite", i,
                            (double)qb_view_f32(&g->scale->view)[i]);
  return QB_OK;
}

static qb_status check_zero_points(qb_import *in, const grid *g) {
  if (g->zero != NULL && (!qb_dtype_is_integer(g->zero->view.dtype) ||
                          qb_view_elements(&g->zero->view) != qb_view_elements(&g->scale->view)))
    return qb_import_fail(in, QB_ERROR_FORMAT, "the zero point does not fit the scale, or is not an integer");
  return QB_OK;
}

static qb_status read_grid(qb_import *in, grid *g) {
  QB_TRY(read_constants(in, 0, g));
  QB_TRY(check_scales(in, g));
  QB_TRY(grid_axis(in, g));
  return check_zero_points(in, g);
}

static int64_t zero_point(const grid *g, size_t index) {
  return g->zero == NULL ? 0 : qb_view_integer(&g->zero->view, index);
}

/* True when every code lies in the range of `bits`. */
static bool codes_fit(const qb_view *view, bool is_signed, int bits) {
  int64_t lo = is_signed ? -((int64_t)1 << (bits - 1)) : 0, hi = lo + ((int64_t)1 << bits) - 1;
  for (size_t i = 0; i < qb_view_elements(view); i++)
    if (qb_view_integer(view, i) < lo || qb_view_integer(view, i) > hi)
      return false;
  return true;
}

/* Odd widths are stored in the next carrier; the file's metadata tells the true one. It is believed only if it fits. */
static int32_t true_bits(const qb_import *in, const qb_constant *x, bool is_signed) {
  char key[512];
  int carrier = qb_dtype_bits(x->view.dtype);
  const char *text = NULL;
  if (x->source != NULL && snprintf(key, sizeof key, "qbound.bits.%s", x->source) < (int)sizeof key)
    text = qb_onnx_metadata(in->document, key);
  long bits = text == NULL ? 0 : strtol(text, NULL, 10);
  if (bits < QB_MIN_BITS || bits >= carrier || !codes_fit(&x->view, is_signed, (int)bits))
    return carrier;
  return (int32_t)bits;
}

static qb_status make_codes(qb_import *in, const grid *g, const qb_codes **result) {
  size_t scale_count = qb_view_elements(&g->scale->view);
  qb_dtype dtype = g->x->view.dtype;
  qb_codes *codes = qb_import_alloc(in, 1, sizeof *codes);
  int32_t *zero = g->zero == NULL ? NULL : qb_import_alloc(in, scale_count, sizeof *zero);
  bool any_zero = false;
  if (codes == NULL || (zero == NULL && g->zero != NULL))
    return QB_ERROR_MEMORY;
  for (size_t i = 0; zero != NULL && i < scale_count; i++) {
    zero[i] = (int32_t)zero_point(g, i);
    any_zero = any_zero || zero[i] != 0;
  }
  bool is_signed = dtype == QB_DTYPE_I8 || dtype == QB_DTYPE_I16 || dtype == QB_DTYPE_I32 || dtype == QB_DTYPE_I4 ||
                   dtype == QB_DTYPE_I2;
  *codes = (qb_codes){.bits = true_bits(in, g->x, is_signed),
                      .is_signed = is_signed,
                      .axis = g->axis,
                      .scale_count = (int32_t)scale_count,
                      .scale = qb_view_f32(&g->scale->view),
                      .zero_point = any_zero ? zero : NULL,
                      .codes = g->x->view};
  *result = codes;
  return QB_OK;
}

/* The real values of the codes of `g`, as DequantizeLinear computes them. */
static qb_status dequantize_grid(qb_import *in, const grid *g, qb_constant *result) {
  float lo, hi;
  if (!qb_dtype_range(g->x->view.dtype, &lo, &hi) && g->x->view.dtype != QB_DTYPE_I32)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "dequantizing type %s is not supported",
                          qb_dtype_name(g->x->view.dtype));
  size_t count = qb_view_elements(&g->x->view);
  float *floats = qb_import_alloc(in, count, sizeof *floats);
  if (floats == NULL)
    return QB_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++) {
    size_t c = grid_index(g, i);
    floats[i] = (float)(qb_view_integer(&g->x->view, i) - zero_point(g, c)) * qb_view_f32(&g->scale->view)[c];
  }
  *result = (qb_constant){.name = g->x->name, .source = g->x->source};
  for (int form = 0; form < QB_FORM_COUNT; form++)
    result->value[form] = QB_NONE;
  result->view = (qb_view){.dtype = QB_DTYPE_F32, .shape = g->x->view.shape, .data = floats};
  return g->block == 0 ? make_codes(in, g, &result->codes) : QB_OK;
}

qb_status qb_import_dequantize(qb_import *in) {
  grid g;
  qb_constant result;
  QB_TRY(read_grid(in, &g));
  QB_TRY(dequantize_grid(in, &g, &result));
  return qb_import_bind_constant(in, &result.view, result.codes, result.source);
}

/* Sets the axis of a scale of one entry per index along `axis`; one entry in all needs none. */
static qb_status fix_axis(qb_import *in, grid *g, int32_t axis) {
  size_t scales = qb_view_elements(&g->scale->view);
  const qb_shape *x = &g->x->view.shape;
  if (scales == 1)
    return QB_OK;
  if (axis < 0 || axis >= x->rank || (size_t)x->dims[axis] != scales)
    return qb_import_fail(in, QB_ERROR_SHAPE, "the scale of '%s' has %zu entries, neither one nor one per channel",
                          g->x->name, scales);
  g->axis = axis;
  g->length = scales;
  g->inner_count = 1;
  for (int32_t i = axis + 1; i < x->rank; i++)
    g->inner_count *= (size_t)x->dims[i];
  return QB_OK;
}

qb_status qb_import_dequantized(qb_import *in, size_t slot, int32_t axis, qb_constant *result) {
  grid g;
  QB_TRY(read_constants(in, slot, &g));
  QB_TRY(check_scales(in, &g));
  QB_TRY(fix_axis(in, &g, axis));
  if (g.zero != NULL && qb_view_elements(&g.zero->view) == 1 && qb_view_elements(&g.scale->view) > 1) {
    if (!qb_dtype_is_integer(g.zero->view.dtype) || qb_view_integer(&g.zero->view, 0) != 0)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "one zero point other than 0 for several scales");
    g.zero = NULL;
  }
  QB_TRY(check_zero_points(in, &g));
  return dequantize_grid(in, &g, result);
}

qb_status qb_import_dequantized_by(qb_import *in, qb_constant *integers, qb_constant *scale, qb_constant *zero,
                                   int32_t axis, qb_constant *result) {
  grid g = {.x = integers, .scale = scale, .zero = zero, .axis = QB_NONE};
  QB_TRY(check_scales(in, &g));
  QB_TRY(fix_axis(in, &g, axis));
  QB_TRY(check_zero_points(in, &g));
  return dequantize_grid(in, &g, result);
}

qb_status qb_import_dequantized_bias(qb_import *in, size_t slot, size_t x_scale_slot, size_t weight_scale_slot,
                                     qb_constant *result) {
  qb_constant *bias, *x_scale, *weight_scale;
  QB_TRY(qb_import_need_constant(in, slot, "its bias", &bias));
  QB_TRY(qb_import_need_constant(in, x_scale_slot, "the scale of its input", &x_scale));
  QB_TRY(qb_import_need_constant(in, weight_scale_slot, "the scale of its weight", &weight_scale));
  size_t count = qb_view_elements(&weight_scale->view);
  if (bias->view.dtype != QB_DTYPE_I32 || x_scale->view.dtype != QB_DTYPE_F32 || qb_view_elements(&x_scale->view) != 1)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its bias is not int32, or its input has several scales");
  float *products = qb_import_alloc(in, count, sizeof *products);
  if (products == NULL)
    return QB_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++)
    products[i] = qb_view_f32(&x_scale->view)[0] * qb_view_f32(&weight_scale->view)[i];
  qb_constant scale = {.name = weight_scale->name,
                       .view = {.dtype = QB_DTYPE_F32, .shape = QB_SHAPE((int64_t)count), .data = products}};
  grid g = {.x = bias, .scale = &scale, .axis = QB_NONE};
  QB_TRY(check_scales(in, &g)); /* a product may have underflowed */
  QB_TRY(fix_axis(in, &g, bias->view.shape.rank - 1));
  return dequantize_grid(in, &g, result);
}

/* round-half-even(x / scale) + zero point, saturated; in float32 as the operator is defined. */
qb_status qb_import_quantize(qb_import *in) {
  grid g;
  float lo, hi;
  QB_TRY(read_grid(in, &g));
  qb_dtype dtype = g.zero != NULL ? g.zero->view.dtype : (qb_dtype)qb_import_int(in, "output_dtype", QB_DTYPE_U8);
  if (g.x->view.dtype != QB_DTYPE_F32 || !qb_dtype_range(dtype, &lo, &hi) || qb_dtype_bits(dtype) < 8)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "quantizing a constant of type %s to %s is not supported; store "
                          "the integers as initializer",
                          qb_dtype_name(g.x->view.dtype), qb_dtype_name(dtype));
  size_t count = qb_view_elements(&g.x->view), width = (size_t)qb_dtype_bits(dtype) / 8;
  unsigned char *data = qb_import_alloc(in, count, width);
  if (data == NULL)
    return QB_ERROR_MEMORY;
  QB_TRY(qb_view_check_finite(&g.x->view, g.x->name, in->error));
  for (size_t i = 0; i < count; i++) {
    size_t c = grid_index(&g, i);
    float code = rintf(qb_view_f32(&g.x->view)[i] / qb_view_f32(&g.scale->view)[c]) + (float)zero_point(&g, c);
    int32_t saturated = (int32_t)fminf(fmaxf(code, lo), hi);
    memcpy(data + i * width, &saturated, width); /* little-endian: the low bytes */
  }
  const qb_view view = {.dtype = dtype, .shape = g.x->view.shape, .data = data};
  return qb_import_bind_constant(in, &view, NULL, g.x->source);
}
