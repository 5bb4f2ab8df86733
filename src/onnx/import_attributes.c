/* Attributes of the node that is being imported, and their normal forms. */
#include <string.h>

#include "base/error.h"
#include "onnx/import.h"

const Onnx__AttributeProto *qb_import_attribute(const qb_import *in, const char *name) {
  for (size_t i = 0; i < in->node->n_attribute; i++)
    if (in->node->attribute[i]->name != NULL && strcmp(in->node->attribute[i]->name, name) == 0)
      return in->node->attribute[i];
  return NULL;
}

int64_t qb_import_int(const qb_import *in, const char *name, int64_t otherwise) {
  const Onnx__AttributeProto *attribute = qb_import_attribute(in, name);
  return attribute == NULL || !attribute->has_i ? otherwise : attribute->i;
}

float qb_import_float(const qb_import *in, const char *name, float otherwise) {
  const Onnx__AttributeProto *attribute = qb_import_attribute(in, name);
  return attribute == NULL || !attribute->has_f ? otherwise : attribute->f;
}

bool qb_import_string_is(const qb_import *in, const char *name, const char *text, const char *otherwise) {
  const Onnx__AttributeProto *attribute = qb_import_attribute(in, name);
  if (attribute == NULL || !attribute->has_s)
    return strcmp(otherwise, text) == 0;
  return attribute->s.len == strlen(text) && memcmp(attribute->s.data, text, attribute->s.len) == 0;
}

int qb_import_ints(const qb_import *in, const char *name, int64_t *values, size_t capacity) {
  const Onnx__AttributeProto *attribute = qb_import_attribute(in, name);
  if (attribute == NULL)
    return -1;
  if (attribute->n_ints > capacity)
    return -2;
  for (size_t i = 0; i < attribute->n_ints; i++)
    values[i] = attribute->ints[i];
  return (int)attribute->n_ints;
}

qb_status qb_import_axis(qb_import *in, int64_t axis, int32_t rank, int32_t *result) {
  if (axis < -rank || axis >= rank)
    return qb_import_fail(in, QB_ERROR_FORMAT, "axis %lld is out of range for a tensor of rank %d", (long long)axis,
                          rank);
  *result = (int32_t)(axis < 0 ? axis + rank : axis);
  return QB_OK;
}

qb_status qb_import_axes(qb_import *in, int64_t input_since, int32_t rank, int32_t axes[QB_MAX_RANK], int32_t *count) {
  int64_t values[QB_MAX_RANK];
  *count = -1;
  if (in->opset >= input_since) {
    size_t given;
    if (!qb_import_has(in, 1))
      return QB_OK;
    QB_TRY(qb_import_integers(in, 1, "the list of axes", values, QB_MAX_RANK, &given));
    *count = (int32_t)given;
  } else {
    int given = qb_import_ints(in, "axes", values, QB_MAX_RANK);
    if (given == -2)
      return qb_import_fail(in, QB_ERROR_FORMAT, "more axes than a tensor has");
    *count = given;
  }
  for (int32_t i = 0; i < *count; i++)
    QB_TRY(qb_import_axis(in, values[i], rank, &axes[i]));
  return QB_OK;
}

/* Two numbers for the two spatial axes, within [lo, hi]; `otherwise` twice when the attribute is absent. */
static qb_status spatial_pair(qb_import *in, const char *name, int64_t lo, int32_t otherwise, int32_t pair[2]) {
  enum { HIGHEST = 1 << 20 };
  int64_t values[2];
  int count = qb_import_ints(in, name, values, 2);
  pair[0] = pair[1] = otherwise;
  if (count == -1)
    return QB_OK;
  if (count != 2)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "'%s' does not have two entries; only two spatial axes are "
                          "supported",
                          name);
  for (int axis = 0; axis < 2; axis++) {
    if (values[axis] < lo || values[axis] > HIGHEST)
      return qb_import_fail(in, QB_ERROR_FORMAT, "'%s' holds %lld, which is out of range", name,
                            (long long)values[axis]);
    pair[axis] = (int32_t)values[axis];
  }
  return QB_OK;
}

/* SAME: the output has ceil(length / stride) entries; an odd pad goes to the end (upper) or the beginning (lower). */
static void same_pads(const qb_shape *x, bool lower, qb_window *window) {
  for (int axis = 0; axis < 2; axis++) {
    int64_t length = x->dims[2 + axis], stride = window->stride[axis];
    int64_t extent = (int64_t)window->dilation[axis] * (window->kernel[axis] - 1) + 1;
    int64_t total = ((length + stride - 1) / stride - 1) * stride + extent - length;
    if (total < 0)
      total = 0;
    int32_t small = (int32_t)(total / 2), large = (int32_t)(total - total / 2);
    window->pad_begin[axis] = lower ? large : small;
    window->pad_end[axis] = lower ? small : large;
  }
}

static qb_status explicit_pads(qb_import *in, qb_window *window) {
  enum { HIGHEST = 1 << 20 };
  int64_t pads[4] = {0};
  int count = qb_import_ints(in, "pads", pads, 4);
  if (count != -1 && count != 4)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "'pads' does not have four entries; only two spatial axes are "
                          "supported");
  for (int i = 0; i < 4; i++)
    if (pads[i] < 0 || pads[i] > HIGHEST)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "'pads' holds %lld; only pads of zero or more are supported",
                            (long long)pads[i]);
  for (int axis = 0; axis < 2; axis++) {
    window->pad_begin[axis] = (int32_t)pads[axis];
    window->pad_end[axis] = (int32_t)pads[2 + axis];
  }
  return QB_OK;
}

qb_status qb_import_window(qb_import *in, const qb_shape *x, const qb_shape *weight, qb_window *window) {
  *window = (qb_window){0};
  if (x->rank != 4 || (weight != NULL && weight->rank != 4))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "its input has rank %d; only two spatial axes, (N, C, H, W), are "
                          "supported: reshape a 1-D signal to height 1",
                          x->rank);
  QB_TRY(spatial_pair(in, "kernel_shape", 1, 0, window->kernel));
  QB_TRY(spatial_pair(in, "strides", 1, 1, window->stride));
  QB_TRY(spatial_pair(in, "dilations", 1, 1, window->dilation));
  for (int axis = 0; axis < 2; axis++) {
    if (window->kernel[axis] == 0 && weight == NULL)
      return qb_import_fail(in, QB_ERROR_FORMAT, "'kernel_shape' is missing");
    if (window->kernel[axis] == 0)
      window->kernel[axis] = (int32_t)weight->dims[2 + axis];
  }
  if (qb_import_string_is(in, "auto_pad", "NOTSET", "NOTSET") || qb_import_string_is(in, "auto_pad", "", "NOTSET"))
    return explicit_pads(in, window);
  bool lower = qb_import_string_is(in, "auto_pad", "SAME_LOWER", "");
  if (lower || qb_import_string_is(in, "auto_pad", "SAME_UPPER", "")) {
    same_pads(x, lower, window);
    return QB_OK;
  }
  if (!qb_import_string_is(in, "auto_pad", "VALID", ""))
    return qb_import_fail(in, QB_ERROR_FORMAT, "'auto_pad' has an unknown value");
  return QB_OK;
}
