/* Rules of the operators that move elements without computing: joining, padding, permuting, reshaping. The batch must
 * stay the first axis and of its own, since shapes are those of one item. */
#include <math.h>

#include "base/error.h"
#include "onnx/import.h"

qb_status qb_rule_concat(qb_import *in) {
  qb_value_id inputs[QB_MAX_INPUTS];
  qb_attributes attributes = {0};
  if (in->node->n_input > QB_MAX_INPUTS)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it joins more than %d tensors", QB_MAX_INPUTS);
  for (size_t slot = 0; slot < in->node->n_input; slot++)
    QB_TRY(qb_import_activation(in, slot, &inputs[slot]));
  QB_TRY(qb_import_axis(in, qb_import_int(in, "axis", 1), qb_import_shape(in, inputs[0])->rank, &attributes.axes.axis));
  return qb_import_emit_last(in, QB_OP_CONCAT, inputs, (int32_t)in->node->n_input, &attributes, NULL);
}

/* The pads, one begin and one end per axis, as attribute or input, for all axes or for those listed. */
static qb_status read_pads(qb_import *in, int32_t rank, qb_attributes *attributes) {
  enum { HIGHEST = 1 << 20 };
  int64_t pads[2 * QB_MAX_RANK], listed[QB_MAX_RANK];
  size_t count, axis_count = (size_t)rank;
  for (int32_t i = 0; i < rank; i++)
    listed[i] = i;
  if (in->opset >= 11) {
    QB_TRY(qb_import_integers(in, 1, "the list of pads", pads, 2 * QB_MAX_RANK, &count));
  } else {
    int given = qb_import_ints(in, "pads", pads, 2 * QB_MAX_RANK);
    count = given < 0 ? 0 : (size_t)given;
  }
  if (in->opset >= 18 && qb_import_has(in, 3))
    QB_TRY(qb_import_integers(in, 3, "the list of axes", listed, QB_MAX_RANK, &axis_count));
  if (count != 2 * axis_count)
    return qb_import_fail(in, QB_ERROR_FORMAT, "it has %zu pads for %zu axes", count, axis_count);
  for (size_t i = 0; i < axis_count; i++) {
    int32_t axis;
    QB_TRY(qb_import_axis(in, listed[i], rank, &axis));
    int64_t begin = pads[i], end = pads[axis_count + i];
    if (begin < -HIGHEST || begin > HIGHEST || end < -HIGHEST || end > HIGHEST)
      return qb_import_fail(in, QB_ERROR_FORMAT, "a pad is out of range");
    attributes->pad.begin[axis] = (int32_t)begin;
    attributes->pad.end[axis] = (int32_t)end;
  }
  return QB_OK;
}

qb_status qb_rule_pad(qb_import *in) {
  qb_value_id x;
  qb_attributes attributes = {0};
  qb_constant *value = NULL;
  QB_TRY(qb_import_activation(in, 0, &x));
  if (!qb_import_string_is(in, "mode", "constant", "constant"))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only constant padding is supported");
  QB_TRY(read_pads(in, qb_import_shape(in, x)->rank, &attributes));
  attributes.pad.value = in->opset < 11 ? qb_import_float(in, "value", 0) : 0;
  if (in->opset >= 11 && qb_import_has(in, 2)) {
    QB_TRY(qb_import_need_constant(in, 2, "the padding value", &value));
    if (qb_view_elements(&value->view) != 1 || !qb_dtype_is_real(value->view.dtype))
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "the padding value is not one floating-point number");
    attributes.pad.value = (float)qb_view_real(&value->view, 0);
  }
  if (!isfinite(attributes.pad.value))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "the padding value is not finite");
  return qb_import_emit_last(in, QB_OP_PAD, &x, 1, &attributes, NULL);
}

qb_status qb_rule_transpose(qb_import *in) {
  qb_value_id x;
  int64_t permutation[QB_MAX_RANK];
  qb_attributes attributes = {0};
  QB_TRY(qb_import_activation(in, 0, &x));
  int32_t rank = qb_import_shape(in, x)->rank;
  int count = qb_import_ints(in, "perm", permutation, QB_MAX_RANK);
  if (count != -1 && count != rank)
    return qb_import_fail(in, QB_ERROR_FORMAT, "'perm' does not have one entry per axis");
  for (int32_t i = 0; i < rank; i++) {
    int64_t from = count == -1 ? rank - 1 - i : permutation[i];
    if (from < 0 || from >= rank)
      return qb_import_fail(in, QB_ERROR_FORMAT, "'perm' is not a permutation of the axes");
    attributes.transpose.permutation[i] = (int32_t)from;
  }
  return qb_import_emit_last(in, QB_OP_TRANSPOSE, &x, 1, &attributes, NULL);
}

qb_status qb_rule_flatten(qb_import *in) {
  qb_value_id x;
  int32_t axis;
  QB_TRY(qb_import_activation(in, 0, &x));
  const qb_shape *shape = qb_import_shape(in, x);
  int64_t given = qb_import_int(in, "axis", 1);
  axis = shape->rank;
  if (given != shape->rank)
    QB_TRY(qb_import_axis(in, given, shape->rank, &axis));
  qb_shape output = QB_SHAPE(1, 1);
  for (int32_t i = 0; i < shape->rank; i++)
    output.dims[i < axis ? 0 : 1] *= shape->dims[i];
  if (axis == 0)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it flattens the batch axis; use axis 1");
  return qb_import_emit_last(in, QB_OP_FLATTEN, &x, 1, NULL, &output);
}

qb_status qb_rule_reshape(qb_import *in) {
  qb_value_id x;
  int64_t target[QB_MAX_RANK], known = 1;
  size_t rank;
  int32_t unknown = QB_NONE;
  QB_TRY(qb_import_activation(in, 0, &x));
  QB_TRY(qb_import_integers(in, 1, "the target shape", target, QB_MAX_RANK, &rank));
  const qb_shape *shape = qb_import_shape(in, x);
  qb_shape output = {.rank = (int32_t)rank};
  for (int32_t i = 0; i < output.rank; i++) {
    bool copied = target[i] == 0 && qb_import_int(in, "allowzero", 0) == 0 && i < shape->rank;
    output.dims[i] = copied ? shape->dims[i] : target[i];
    if (target[i] == -1 && unknown == QB_NONE)
      unknown = i;
    else if (output.dims[i] <= 0 || __builtin_mul_overflow(known, output.dims[i], &known))
      return qb_import_fail(in, QB_ERROR_SHAPE, "impossible target shape");
  }
  if (unknown != QB_NONE)
    output.dims[unknown] = (int64_t)qb_shape_elements(shape) / known;
  if (output.rank > 0 && output.dims[0] != 1)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "it mixes the batch axis with others; keep the batch first and of "
                          "its own");
  return qb_import_emit_last(in, QB_OP_RESHAPE, &x, 1, NULL, &output);
}

qb_status qb_rule_squeeze(qb_import *in) {
  qb_value_id x;
  int32_t axes[QB_MAX_RANK], count;
  bool removed[QB_MAX_RANK] = {false};
  QB_TRY(qb_import_activation(in, 0, &x));
  const qb_shape *shape = qb_import_shape(in, x);
  QB_TRY(qb_import_axes(in, 13, shape->rank, axes, &count));
  for (int32_t i = 0; i < count; i++)
    removed[axes[i]] = true;
  if (count < 0 || removed[0])
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it removes the batch axis, or does not list its axes");
  qb_shape output = {0};
  for (int32_t i = 0; i < shape->rank; i++) {
    if (removed[i] && shape->dims[i] != 1)
      return qb_import_fail(in, QB_ERROR_SHAPE, "axis %d has length %lld, not 1", i, (long long)shape->dims[i]);
    if (!removed[i])
      output.dims[output.rank++] = shape->dims[i];
  }
  return qb_import_emit_last(in, QB_OP_SQUEEZE, &x, 1, NULL, &output);
}

qb_status qb_rule_unsqueeze(qb_import *in) {
  qb_value_id x;
  int32_t axes[QB_MAX_RANK], count;
  bool added[QB_MAX_RANK] = {false};
  int64_t values[QB_MAX_RANK];
  size_t given = 0;
  QB_TRY(qb_import_activation(in, 0, &x));
  const qb_shape *shape = qb_import_shape(in, x);
  if (in->opset >= 13) {
    QB_TRY(qb_import_integers(in, 1, "the list of axes", values, QB_MAX_RANK, &given));
  } else {
    int listed = qb_import_ints(in, "axes", values, QB_MAX_RANK);
    given = listed < 0 ? 0 : (size_t)listed;
  }
  qb_shape output = {.rank = shape->rank + (int32_t)given};
  if (given == 0 || output.rank > QB_MAX_RANK)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it lists no axes, or its output has a rank above %d", QB_MAX_RANK);
  QB_TRY(qb_import_axes(in, 13, output.rank, axes, &count));
  for (int32_t i = 0; i < count; i++) {
    if (axes[i] == 0 || added[axes[i]])
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it puts an axis before the batch, or lists one twice");
    added[axes[i]] = true;
  }
  for (int32_t i = 0, from = 0; i < output.rank; i++)
    output.dims[i] = added[i] ? 1 : shape->dims[from++];
  return qb_import_emit_last(in, QB_OP_UNSQUEEZE, &x, 1, NULL, &output);
}

qb_status qb_rule_identity(qb_import *in) { return qb_import_emit_unary(in, QB_OP_IDENTITY, NULL, NULL); }

qb_status qb_rule_cast(qb_import *in) {
  bool done;
  QB_TRY(qb_import_cast_codes(in, &done));
  if (done)
    return QB_OK;
  if (qb_import_int(in, "to", 0) != QB_DTYPE_F32)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "only a conversion to float32 is supported; convert the model to "
                          "float32");
  return qb_rule_identity(in);
}

qb_status qb_rule_dropout(qb_import *in) {
  qb_constant *training = NULL;
  QB_TRY(qb_import_constant(in, 2, &training));
  if (qb_import_has(in, 2) && (training == NULL || !qb_dtype_is_integer(training->view.dtype) ||
                               qb_view_elements(&training->view) != 1 || qb_view_integer(&training->view, 0) != 0))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it may run in training mode; export the model in evaluation mode");
  return qb_import_emit_unary(in, QB_OP_DROPOUT, NULL, NULL);
}
