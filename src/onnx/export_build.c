/* Messages of a written file: names, nodes, attributes, initializers, order. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "onnx/export.h"

qb_status qb_export_fail(qb_export *x, const qb_node *node, const char *format, ...) {
  char text[768];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return qb_fail(x->error, QB_ERROR_UNSUPPORTED, "%s: node '%s' (%s) cannot be written at opset %lld: %s",
                 x->document->path, node->name, qb_op_name(node->op), (long long)x->opset, text);
}

void *qb_export_alloc(qb_export *x, size_t count, size_t size) {
  void *block = qb_arena_alloc(&x->arena, count, size);
  x->out_of_memory = x->out_of_memory || block == NULL;
  return block;
}

const char *qb_export_name(qb_export *x, const char *base, const char *suffix) {
  const char *name = qb_arena_format(&x->arena, "%s_%s", base, suffix);
  for (int i = 2; name != NULL && qb_names_find(&x->taken, name) >= 0; i++)
    name = qb_arena_format(&x->arena, "%s_%s_%d", base, suffix, i);
  if (name == NULL || qb_names_intern(&x->taken, name) < 0) {
    x->out_of_memory = true;
    return NULL;
  }
  return name;
}

/* Doubles an array of pointers until it has room for one more. */
static bool reserve(qb_export *x, void **array, size_t *capacity, size_t count, size_t size) {
  if (count < *capacity)
    return true;
  size_t wanted = *capacity > 0 ? 2 * *capacity : 64;
  void *grown = qb_export_alloc(x, wanted, size);
  if (grown == NULL)
    return false;
  if (count > 0)
    memcpy(grown, *array, count * size);
  *array = grown;
  *capacity = wanted;
  return true;
}

void qb_export_push_node(qb_export *x, Onnx__NodeProto *node) {
  if (reserve(x, (void **)&x->nodes, &x->node_capacity, x->node_count, sizeof(Onnx__NodeProto *)))
    x->nodes[x->node_count++] = node;
}

enum { MOST_INPUTS = QB_MAX_INPUTS + 4, MOST_ATTRIBUTES = 10 };

Onnx__NodeProto *qb_export_node(qb_export *x, const char *op_type, const char *name, const char *output) {
  Onnx__NodeProto *node = qb_export_alloc(x, 1, sizeof *node);
  if (node == NULL || output == NULL)
    return NULL;
  onnx__node_proto__init(node);
  node->op_type = (char *)op_type;
  node->name = (char *)name;
  node->input = qb_export_alloc(x, MOST_INPUTS, sizeof *node->input);
  node->output = qb_export_alloc(x, 1, sizeof *node->output);
  node->attribute = qb_export_alloc(x, MOST_ATTRIBUTES, sizeof *node->attribute);
  if (x->out_of_memory)
    return NULL;
  node->output[0] = (char *)output;
  node->n_output = 1;
  qb_export_push_node(x, node);
  return node;
}

void qb_export_input(qb_export *x, Onnx__NodeProto *node, const char *name) {
  if (node == NULL || node->n_input == MOST_INPUTS) {
    x->out_of_memory = true;
    return;
  }
  node->input[node->n_input++] = (char *)(name == NULL ? "" : name);
}

/* ONNX numbers of attribute types */
enum { TYPE_FLOAT = 1, TYPE_INT = 2, TYPE_INTS = 7 };

static Onnx__AttributeProto *add_attribute(qb_export *x, Onnx__NodeProto *node, const char *name, int32_t type) {
  Onnx__AttributeProto *attribute = node == NULL ? NULL : qb_export_alloc(x, 1, sizeof *attribute);
  if (attribute == NULL || node->n_attribute == MOST_ATTRIBUTES) {
    x->out_of_memory = true;
    return NULL;
  }
  onnx__attribute_proto__init(attribute);
  attribute->name = (char *)name;
  attribute->has_type = true;
  attribute->type = type;
  node->attribute[node->n_attribute++] = attribute;
  return attribute;
}

void qb_export_int(qb_export *x, Onnx__NodeProto *node, const char *name, int64_t value) {
  Onnx__AttributeProto *attribute = add_attribute(x, node, name, TYPE_INT);
  if (attribute != NULL) {
    attribute->has_i = true;
    attribute->i = value;
  }
}

void qb_export_float(qb_export *x, Onnx__NodeProto *node, const char *name, float value) {
  Onnx__AttributeProto *attribute = add_attribute(x, node, name, TYPE_FLOAT);
  if (attribute != NULL) {
    attribute->has_f = true;
    attribute->f = value;
  }
}

void qb_export_ints(qb_export *x, Onnx__NodeProto *node, const char *name, const int64_t *values, size_t count) {
  Onnx__AttributeProto *attribute = add_attribute(x, node, name, TYPE_INTS);
  int64_t *copy = attribute == NULL ? NULL : qb_export_alloc(x, count, sizeof *copy);
  if (copy == NULL)
    return;
  memcpy(copy, values, count * sizeof *copy);
  attribute->ints = copy;
  attribute->n_ints = count;
}

const char *qb_export_tensor(qb_export *x, const char *name, qb_dtype dtype, const qb_shape *shape, const void *data) {
  Onnx__TensorProto *tensor = qb_export_alloc(x, 1, sizeof *tensor);
  int64_t *dims = qb_export_alloc(x, QB_MAX_RANK, sizeof *dims);
  size_t size;
  if (tensor == NULL || dims == NULL || name == NULL || data == NULL ||
      !qb_dtype_size(dtype, qb_shape_elements(shape), &size) ||
      !reserve(x, (void **)&x->tensors, &x->tensor_capacity, x->tensor_count, sizeof *x->tensors)) {
    x->out_of_memory = true;
    return NULL;
  }
  onnx__tensor_proto__init(tensor);
  memcpy(dims, shape->dims, sizeof shape->dims);
  tensor->dims = dims;
  tensor->n_dims = (size_t)shape->rank;
  tensor->has_data_type = true;
  tensor->data_type = (int32_t)dtype;
  tensor->name = (char *)name;
  tensor->has_raw_data = true;
  tensor->raw_data = (ProtobufCBinaryData){.len = size, .data = (uint8_t *)data};
  x->tensors[x->tensor_count++] = tensor;
  return name;
}

const char *qb_export_integers(qb_export *x, const char *base, const char *suffix, const int64_t *values,
                               size_t count) {
  int64_t *copy = qb_export_alloc(x, count, sizeof *copy);
  if (copy == NULL)
    return NULL;
  memcpy(copy, values, count * sizeof *copy);
  return qb_export_tensor(x, qb_export_name(x, base, suffix), QB_DTYPE_I64, &QB_SHAPE((int64_t)count), copy);
}

const char *qb_export_floats(qb_export *x, const char *base, const char *suffix, const qb_shape *shape,
                             const float *values) {
  size_t count = qb_shape_elements(shape);
  float *copy = qb_export_alloc(x, count, sizeof *copy);
  if (copy == NULL)
    return NULL;
  memcpy(copy, values, count * sizeof *copy);
  return qb_export_tensor(x, qb_export_name(x, base, suffix), QB_DTYPE_F32, shape, copy);
}

/* ---------------------------------------------------------------------------------------------------------- order */

/* Emits in rounds: each pass over the nodes, in their order, places those whose inputs are placed. The nodes are nearly
 * sorted already, so that few rounds are needed; a round without progress is a cycle. */
static qb_status place_in_rounds(qb_export *x, const qb_names *outputs, bool *placed, Onnx__NodeProto **sorted) {
  size_t done = 0;
  bool *made = qb_export_alloc(x, (size_t)outputs->count, sizeof *made);
  if (made == NULL)
    return qb_fail_memory(x->error, x->document->path, (size_t)outputs->count);
  while (done < x->node_count) {
    size_t before = done;
    for (size_t i = 0; i < x->node_count; i++) {
      bool ready = !placed[i];
      for (size_t k = 0; ready && k < x->nodes[i]->n_input; k++) {
        int32_t name = qb_names_find(outputs, x->nodes[i]->input[k]);
        ready = name < 0 || made[name] || x->nodes[i]->input[k][0] == '\0';
      }
      if (!ready)
        continue;
      placed[i] = true;
      sorted[done++] = x->nodes[i];
      for (size_t k = 0; k < x->nodes[i]->n_output; k++)
        made[qb_names_find(outputs, x->nodes[i]->output[k])] = true;
    }
    if (done == before)
      return qb_fail(x->error, QB_ERROR_FORMAT, "%s: the edited graph is cyclic", x->document->path);
  }
  return QB_OK;
}

qb_status qb_export_sort(qb_export *x) {
  qb_names outputs = {0};
  qb_status status = QB_OK;
  for (size_t i = 0; i < x->node_count; i++)
    for (size_t k = 0; k < x->nodes[i]->n_output; k++)
      if (qb_names_intern(&outputs, x->nodes[i]->output[k]) < 0)
        x->out_of_memory = true;
  bool *placed = qb_export_alloc(x, x->node_count, sizeof *placed);
  Onnx__NodeProto **sorted = qb_export_alloc(x, x->node_count, sizeof(Onnx__NodeProto *));
  if (x->out_of_memory)
    status = qb_fail_memory(x->error, x->document->path, x->node_count);
  else
    status = place_in_rounds(x, &outputs, placed, sorted);
  qb_names_free(&outputs);
  if (status == QB_OK)
    x->nodes = sorted;
  return status;
}
