/* Folding of nodes whose inputs are known: the shape arithmetic that exporters emit, and weights in several steps.
 * Integers are computed in int64, floats in float32 as a runtime would. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "graph/shape_infer.h"
#include "onnx/import.h"

static bool is_op(const qb_import *in, const char *name) {
  return in->node->op_type != NULL && strcmp(in->node->op_type, name) == 0;
}

static qb_status input(qb_import *in, size_t slot, qb_constant **constant) {
  return qb_import_need_constant(in, slot, "its operand", constant);
}

static qb_status bind_integers(qb_import *in, const int64_t *values, const qb_shape *shape) {
  const qb_view view = {.dtype = QB_DTYPE_I64, .shape = *shape, .data = values};
  return qb_import_bind_constant(in, &view, NULL, NULL);
}

/* ------------------------------------------------------------------------------------------------------- Constant */

static qb_status fold_number(qb_import *in, const Onnx__AttributeProto *a) {
  const bool list = strcmp(a->name, "value_floats") == 0 || strcmp(a->name, "value_ints") == 0;
  const bool real = strcmp(a->name, "value_floats") == 0 || strcmp(a->name, "value_float") == 0;
  const void *data = list ? (real ? (const void *)a->floats : a->ints) : (real ? (const void *)&a->f : &a->i);
  qb_view view = {.dtype = real ? QB_DTYPE_F32 : QB_DTYPE_I64, .data = data};
  if (list)
    view.shape = QB_SHAPE((int64_t)(real ? a->n_floats : a->n_ints));
  return qb_import_bind_constant(in, &view, NULL, NULL);
}

static qb_status fold_constant(qb_import *in) {
  static const char *const forms[] = {"value_float", "value_floats", "value_int", "value_ints"};
  const Onnx__AttributeProto *value = qb_import_attribute(in, "value");
  if (value != NULL && value->t != NULL) {
    qb_view view;
    QB_TRY(qb_import_decode(in, value->t, &view));
    return qb_import_bind_constant(in, &view, NULL, NULL);
  }
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    const Onnx__AttributeProto *attribute = qb_import_attribute(in, forms[i]);
    if (attribute != NULL)
      return fold_number(in, attribute);
  }
  return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                        "only dense numeric constants are supported (no strings, no sparse "
                        "tensors)");
}

/* The batch entry is 1: shapes are those of one item. */
static qb_status fold_shape(qb_import *in) {
  const qb_symbol *symbol = qb_import_symbol(in, 0);
  const qb_shape *shape = symbol->binding == QB_ACTIVATION ? qb_import_shape(in, symbol->id) : NULL;
  qb_constant *constant = NULL;
  if (shape == NULL) {
    QB_TRY(input(in, 0, &constant));
    shape = &constant->view.shape;
  }
  int64_t rank = shape->rank, start = qb_import_int(in, "start", 0), end = qb_import_int(in, "end", rank);
  start = start < 0 ? start + rank : start;
  end = end < 0 ? end + rank : end;
  start = start < 0 ? 0 : start > rank ? rank : start;
  end = end > rank ? rank : end < start ? start : end;
  int64_t *values = qb_import_alloc(in, QB_MAX_RANK + 1, sizeof *values);
  if (values == NULL)
    return QB_ERROR_MEMORY;
  for (int64_t i = start; i < end; i++)
    values[i - start] = shape->dims[i];
  return bind_integers(in, values, &QB_SHAPE(end - start));
}

qb_status qb_import_fold_known(qb_import *in, bool *done) {
  *done = true;
  if (is_op(in, "Constant"))
    return fold_constant(in);
  if (is_op(in, "Shape") && qb_import_has(in, 0))
    return fold_shape(in);
  *done = false;
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- rearranging */

static qb_status fold_identity(qb_import *in) { /* an alias: the same constant under another name */
  qb_symbol *output = &in->symbols[qb_names_find(&in->names, in->node->output[0])];
  output->binding = QB_CONSTANT;
  output->id = qb_import_symbol(in, 0)->id;
  return QB_OK;
}

static qb_status fold_cast(qb_import *in) {
  qb_constant *x;
  QB_TRY(input(in, 0, &x));
  qb_dtype to = (qb_dtype)qb_import_int(in, "to", 0);
  size_t count = qb_view_elements(&x->view);
  qb_view view = {.dtype = to, .shape = x->view.shape};
  if (to == x->view.dtype)
    return qb_import_bind_constant(in, &x->view, x->codes, x->source);
  bool from_real = qb_dtype_is_real(x->view.dtype);
  if (to == QB_DTYPE_F32) {
    float *values = qb_import_alloc(in, count, sizeof *values);
    if (values == NULL)
      return QB_ERROR_MEMORY;
    for (size_t i = 0; i < count; i++)
      values[i] = from_real ? (float)qb_view_real(&x->view, i) : (float)qb_view_integer(&x->view, i);
    view.data = values;
  } else if ((to == QB_DTYPE_I64 || to == QB_DTYPE_I32) && !from_real) {
    int64_t *values = qb_import_alloc(in, count, sizeof *values);
    if (values == NULL)
      return QB_ERROR_MEMORY;
    for (size_t i = 0; i < count; i++)
      values[i] = qb_view_integer(&x->view, i);
    view.dtype = QB_DTYPE_I64;
    view.data = values;
  } else {
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "converting a constant from %s to %s is not supported",
                          qb_dtype_name(x->view.dtype), qb_dtype_name(to));
  }
  return qb_import_bind_constant(in, &view, NULL, NULL);
}

static qb_status bind_reshaped(qb_import *in, qb_constant *x, const qb_shape *shape) {
  size_t count;
  if (!qb_shape_count(shape, &count) || count != qb_view_elements(&x->view))
    return qb_import_fail(in, QB_ERROR_SHAPE, "the new shape has another number of elements");
  const qb_view view = {.dtype = x->view.dtype, .shape = *shape, .data = x->view.data};
  return qb_import_bind_constant(in, &view, NULL, x->source);
}

static qb_status fold_unsqueeze(qb_import *in) {
  qb_constant *x;
  int32_t axes[QB_MAX_RANK], count;
  bool added[2 * QB_MAX_RANK] = {false};
  QB_TRY(input(in, 0, &x));
  int64_t extra = 0;
  if (in->opset >= 13) {
    size_t given = 0;
    int64_t unused[QB_MAX_RANK];
    QB_TRY(qb_import_integers(in, 1, "the list of axes", unused, QB_MAX_RANK, &given));
    extra = (int64_t)given;
  } else {
    int64_t unused[QB_MAX_RANK];
    extra = qb_import_ints(in, "axes", unused, QB_MAX_RANK);
  }
  qb_shape shape = {.rank = x->view.shape.rank + (int32_t)extra};
  if (extra < 0 || shape.rank > QB_MAX_RANK)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "the result has a rank above %d, or no axes are given",
                          QB_MAX_RANK);
  QB_TRY(qb_import_axes(in, 13, shape.rank, axes, &count));
  for (int32_t i = 0; i < count; i++)
    added[axes[i]] = true;
  for (int32_t i = 0, from = 0; i < shape.rank; i++)
    shape.dims[i] = added[i] || from >= x->view.shape.rank ? 1 : x->view.shape.dims[from++];
  return bind_reshaped(in, x, &shape);
}

static qb_status fold_squeeze(qb_import *in) {
  qb_constant *x;
  int32_t axes[QB_MAX_RANK], count;
  bool removed[QB_MAX_RANK] = {false};
  QB_TRY(input(in, 0, &x));
  QB_TRY(qb_import_axes(in, 13, x->view.shape.rank, axes, &count));
  for (int32_t i = 0; i < x->view.shape.rank; i++)
    removed[i] = count < 0 && x->view.shape.dims[i] == 1;
  for (int32_t i = 0; i < count; i++)
    removed[axes[i]] = true;
  qb_shape shape = {0};
  for (int32_t i = 0; i < x->view.shape.rank; i++)
    if (!removed[i])
      shape.dims[shape.rank++] = x->view.shape.dims[i];
  return bind_reshaped(in, x, &shape);
}

static qb_status fold_reshape(qb_import *in) {
  qb_constant *x;
  int64_t target[QB_MAX_RANK], known = 1;
  size_t rank;
  int unknown = -1;
  QB_TRY(input(in, 0, &x));
  QB_TRY(qb_import_integers(in, 1, "the target shape", target, QB_MAX_RANK, &rank));
  qb_shape shape = {.rank = (int32_t)rank};
  for (int i = 0; i < shape.rank; i++) {
    bool copied = target[i] == 0 && qb_import_int(in, "allowzero", 0) == 0 && i < x->view.shape.rank;
    shape.dims[i] = copied ? x->view.shape.dims[i] : target[i];
    if (target[i] == -1)
      unknown = i;
    else if (shape.dims[i] <= 0 || __builtin_mul_overflow(known, shape.dims[i], &known))
      return qb_import_fail(in, QB_ERROR_SHAPE, "impossible target shape");
  }
  if (unknown >= 0)
    shape.dims[unknown] = (int64_t)qb_view_elements(&x->view) / known;
  return bind_reshaped(in, x, &shape);
}

static qb_status fold_transpose(qb_import *in) {
  qb_constant *x;
  int64_t permutation[2] = {1, 0};
  QB_TRY(input(in, 0, &x));
  int count = qb_import_ints(in, "perm", permutation, 2);
  if (x->view.shape.rank != 2 || (count != -1 && count != 2))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "transposing a constant that is not a matrix; fold it with an ONNX "
                          "simplifier first");
  if (permutation[0] == 0 && permutation[1] == 1)
    return fold_identity(in);
  qb_view view;
  const qb_codes *codes = NULL;
  QB_TRY(qb_import_transpose(in, &x->view, &view));
  if (x->codes != NULL)
    QB_TRY(qb_import_transpose_codes(in, x->codes, &codes));
  return qb_import_bind_constant(in, &view, codes, NULL);
}

/* ------------------------------------------------------------------------------------------------ picking, joining */

static qb_status fold_gather(qb_import *in) {
  qb_constant *x, *indices;
  QB_TRY(input(in, 0, &x));
  QB_TRY(input(in, 1, &indices));
  size_t count = qb_view_elements(&indices->view);
  int64_t length = x->view.shape.dims[0];
  if (x->view.shape.rank != 1 || indices->view.shape.rank > 1 || !qb_dtype_is_integer(x->view.dtype) ||
      !qb_dtype_is_integer(indices->view.dtype))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only picking from a list of integers is supported");
  int64_t *values = qb_import_alloc(in, count, sizeof *values);
  if (values == NULL)
    return QB_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++) {
    int64_t index = qb_view_integer(&indices->view, i);
    index = index < 0 ? index + length : index;
    if (index < 0 || index >= length)
      return qb_import_fail(in, QB_ERROR_FORMAT, "index %lld is out of range", (long long)index);
    values[i] = qb_view_integer(&x->view, (size_t)index);
  }
  return bind_integers(in, values, &indices->view.shape);
}

static qb_status fold_concat(qb_import *in) {
  size_t total = 0, at = 0;
  qb_constant *part;
  for (size_t slot = 0; slot < in->node->n_input; slot++) {
    QB_TRY(input(in, slot, &part));
    if (part->view.shape.rank != 1 || !qb_dtype_is_integer(part->view.dtype))
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only joining lists of integers is supported for constants");
    total += qb_view_elements(&part->view);
  }
  int64_t *values = qb_import_alloc(in, total, sizeof *values);
  if (values == NULL)
    return QB_ERROR_MEMORY;
  for (size_t slot = 0; slot < in->node->n_input; slot++) {
    QB_TRY(input(in, slot, &part));
    for (size_t i = 0; i < qb_view_elements(&part->view); i++)
      values[at++] = qb_view_integer(&part->view, i);
  }
  return bind_integers(in, values, &QB_SHAPE((int64_t)total));
}

/* One of starts, ends, axes, steps: an attribute before opset 10, then an input. */
static qb_status slice_number(qb_import *in, const char *name, size_t slot, int64_t otherwise, int64_t *value) {
  size_t count;
  *value = otherwise;
  if (in->opset < 10) {
    int given = qb_import_ints(in, name, value, 1);
    return given == -2 ? qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only slicing a list is supported") : QB_OK;
  }
  return qb_import_has(in, slot) ? qb_import_integers(in, slot, name, value, 1, &count) : QB_OK;
}

static qb_status fold_slice(qb_import *in) {
  qb_constant *x;
  int64_t start, end, axis, step;
  QB_TRY(input(in, 0, &x));
  if (x->view.shape.rank != 1 || !qb_dtype_is_integer(x->view.dtype))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only slicing a list of integers is supported for constants");
  int64_t length = x->view.shape.dims[0];
  QB_TRY(slice_number(in, "starts", 1, 0, &start));
  QB_TRY(slice_number(in, "ends", 2, length, &end));
  QB_TRY(slice_number(in, "axes", 3, 0, &axis));
  QB_TRY(slice_number(in, "steps", 4, 1, &step));
  if (step < 1 || (axis != 0 && axis != -1))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only slices that run forward along axis 0 are supported");
  start = start < 0 ? start + length : start;
  end = end < 0 ? end + length : end;
  start = start < 0 ? 0 : start;
  end = end > length ? length : end;
  int64_t count = end > start ? (end - start - 1) / step + 1 : 0;
  int64_t *values = qb_import_alloc(in, (size_t)count, sizeof *values);
  if (values == NULL)
    return QB_ERROR_MEMORY;
  for (int64_t i = 0; i < count; i++)
    values[i] = qb_view_integer(&x->view, (size_t)(start + i * step));
  return bind_integers(in, values, &QB_SHAPE(count));
}

static qb_status fold_constant_of_shape(qb_import *in) {
  const Onnx__AttributeProto *value = qb_import_attribute(in, "value");
  qb_view fill = {.dtype = QB_DTYPE_F32, .data = &(const float){0}};
  qb_shape shape = {0};
  size_t rank, count;
  QB_TRY(qb_import_integers(in, 0, "the shape", shape.dims, QB_MAX_RANK, &rank));
  shape.rank = (int32_t)rank;
  if (value != NULL && value->t != NULL)
    QB_TRY(qb_import_decode(in, value->t, &fill));
  if (!qb_shape_count(&shape, &count) || qb_view_elements(&fill) != 1)
    return qb_import_fail(in, QB_ERROR_SHAPE, "impossible shape or fill value");
  if (qb_dtype_is_integer(fill.dtype)) {
    int64_t *values = qb_import_alloc(in, count, sizeof *values);
    if (values == NULL)
      return QB_ERROR_MEMORY;
    for (size_t i = 0; i < count; i++)
      values[i] = qb_view_integer(&fill, 0);
    return bind_integers(in, values, &shape);
  }
  float *values = qb_import_alloc(in, count, sizeof *values);
  if (values == NULL)
    return QB_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++)
    values[i] = (float)qb_view_real(&fill, 0);
  const qb_view view = {.dtype = QB_DTYPE_F32, .shape = shape, .data = values};
  return qb_import_bind_constant(in, &view, NULL, NULL);
}

/* ----------------------------------------------------------------------------------------------------- arithmetic */

/* Index into an operand of the element that meets element `index` of the broadcast result. */
static size_t broadcast_index(const qb_shape *operand, const qb_shape *result, size_t index) {
  size_t at = 0, stride = 1;
  for (int32_t i = result->rank - 1; i >= 0; i--) {
    size_t coordinate = index % (size_t)result->dims[i];
    index /= (size_t)result->dims[i];
    int32_t own = i - (result->rank - operand->rank);
    if (own < 0)
      continue;
    if (operand->dims[own] != 1)
      at += coordinate * stride;
    stride *= (size_t)operand->dims[own];
  }
  return at;
}

static bool integer_arithmetic(char op, int64_t a, int64_t b, int64_t *result) {
  switch (op) {
  case '+': return !__builtin_add_overflow(a, b, result);
  case '-': return !__builtin_sub_overflow(a, b, result);
  case '*': return !__builtin_mul_overflow(a, b, result);
  default:
    if (b == 0 || (a == INT64_MIN && b == -1))
      return false;
    *result = a / b;
    return true;
  }
}

static float float_arithmetic(char op, float a, float b) {
  return op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b;
}

static qb_status fold_arithmetic(qb_import *in) {
  const char op = is_op(in, "Add") ? '+' : is_op(in, "Sub") ? '-' : is_op(in, "Mul") ? '*' : '/';
  qb_constant *a, *b;
  qb_shape shape;
  size_t count;
  QB_TRY(input(in, 0, &a));
  QB_TRY(input(in, 1, &b));
  bool real = a->view.dtype == QB_DTYPE_F32 && b->view.dtype == QB_DTYPE_F32;
  if (!real && (!qb_dtype_is_integer(a->view.dtype) || !qb_dtype_is_integer(b->view.dtype)))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "arithmetic on constants of types %s and %s is not supported",
                          qb_dtype_name(a->view.dtype), qb_dtype_name(b->view.dtype));
  if (!qb_shape_broadcast(&a->view.shape, &b->view.shape, &shape) || !qb_shape_count(&shape, &count))
    return qb_import_fail(in, QB_ERROR_SHAPE, "the two constants do not broadcast");
  void *data = qb_import_alloc(in, count, real ? sizeof(float) : sizeof(int64_t));
  if (data == NULL)
    return QB_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++) {
    size_t ia = broadcast_index(&a->view.shape, &shape, i), ib = broadcast_index(&b->view.shape, &shape, i);
    if (real)
      ((float *)data)[i] = float_arithmetic(op, qb_view_f32(&a->view)[ia], qb_view_f32(&b->view)[ib]);
    else if (!integer_arithmetic(op, qb_view_integer(&a->view, ia), qb_view_integer(&b->view, ib),
                                 &((int64_t *)data)[i]))
      return qb_import_fail(in, QB_ERROR_NUMERIC, "integer overflow or division by zero in a constant");
  }
  const qb_view view = {.dtype = real ? QB_DTYPE_F32 : QB_DTYPE_I64, .shape = shape, .data = data};
  return qb_import_bind_constant(in, &view, NULL, NULL);
}

static const struct {
  const char *op;
  qb_status (*fold)(qb_import *in);
} folds[] = {
    {"Add", fold_arithmetic},      {"Cast", fold_cast},
    {"Concat", fold_concat},       {"ConstantOfShape", fold_constant_of_shape},
    {"Div", fold_arithmetic},      {"DequantizeLinear", qb_import_dequantize},
    {"Gather", fold_gather},       {"Identity", fold_identity},
    {"Mul", fold_arithmetic},      {"QuantizeLinear", qb_import_quantize},
    {"Reshape", fold_reshape},     {"Slice", fold_slice},
    {"Squeeze", fold_squeeze},     {"Sub", fold_arithmetic},
    {"Transpose", fold_transpose}, {"Unsqueeze", fold_unsqueeze},
};

bool qb_import_can_fold(const char *op) {
  if (strcmp(op, "Constant") == 0 || strcmp(op, "Shape") == 0)
    return true;
  for (size_t i = 0; i < sizeof folds / sizeof *folds; i++)
    if (strcmp(folds[i].op, op) == 0)
      return true;
  return false;
}

qb_status qb_import_fold(qb_import *in) {
  for (size_t i = 0; i < sizeof folds / sizeof *folds; i++)
    if (is_op(in, folds[i].op))
      return folds[i].fold(in);
  return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                        "all its inputs are constants and this operator is not folded; fold "
                        "it with an ONNX simplifier first");
}
