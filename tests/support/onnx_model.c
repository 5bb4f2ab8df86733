/* Filling ONNX messages; see onnx_model.h. */
#include "support/onnx_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"

enum { MOST = 64 };

static void *take(onnx_model *m, size_t count, size_t size) {
  void *block = qb_arena_alloc(&m->arena, count, size);
  assert_non_null(block);
  return block;
}

static char *text(onnx_model *m, const char *string) {
  char *copy = qb_arena_string(&m->arena, string, strlen(string));
  assert_non_null(copy);
  return copy;
}

onnx_model *onnx_new(int64_t opset) {
  onnx_model *m = qb_alloc(1, sizeof *m);
  assert_non_null(m);
  qb_arena_init(&m->arena);
  onnx__model_proto__init(&m->proto);
  onnx__graph_proto__init(&m->graph);
  onnx__operator_set_id_proto__init(&m->opset);
  m->opset.has_version = true;
  m->opset.version = opset;
  m->proto.has_ir_version = true;
  m->proto.ir_version = opset >= 25 ? 13 : opset >= 21 ? 10 : 7;
  m->proto.graph = &m->graph;
  m->proto.n_opset_import = 1;
  m->proto.opset_import = take(m, 1, sizeof *m->proto.opset_import);
  m->proto.opset_import[0] = &m->opset;
  m->proto.metadata_props = take(m, MOST, sizeof *m->proto.metadata_props);
  m->graph.name = text(m, "test");
  m->graph.node = take(m, MOST, sizeof *m->graph.node);
  m->graph.initializer = take(m, MOST, sizeof *m->graph.initializer);
  m->graph.input = take(m, MOST, sizeof *m->graph.input);
  m->graph.output = take(m, MOST, sizeof *m->graph.output);
  return m;
}

void onnx_free(onnx_model *m) {
  if (m == NULL)
    return;
  qb_graph_free(&m->built);
  qb_onnx_free(m->document);
  qb_arena_free(&m->arena);
  qb_free(m);
}

static Onnx__ValueInfoProto *value_info(onnx_model *m, const char *name, int rank, const int64_t *dims) {
  Onnx__ValueInfoProto *info = take(m, 1, sizeof *info);
  onnx__value_info_proto__init(info);
  info->name = text(m, name);
  info->type = take(m, 1, sizeof *info->type);
  onnx__type_proto__init(info->type);
  info->type->tensor_type = take(m, 1, sizeof *info->type->tensor_type);
  onnx__type_proto__tensor__init(info->type->tensor_type);
  info->type->tensor_type->has_elem_type = true;
  info->type->tensor_type->elem_type = QB_DTYPE_F32;
  if (rank < 0)
    return info;
  Onnx__TensorShapeProto *shape = take(m, 1, sizeof *shape);
  onnx__tensor_shape_proto__init(shape);
  shape->n_dim = (size_t)rank;
  shape->dim = take(m, (size_t)rank, sizeof *shape->dim);
  for (int i = 0; i < rank; i++) {
    shape->dim[i] = take(m, 1, sizeof **shape->dim);
    onnx__tensor_shape_proto__dimension__init(shape->dim[i]);
    shape->dim[i]->has_dim_value = dims[i] != 0;
    shape->dim[i]->dim_value = dims[i];
    if (dims[i] == 0)
      shape->dim[i]->dim_param = text(m, i == 0 ? "N" : "side");
  }
  info->type->tensor_type->shape = shape;
  return info;
}

void onnx_input(onnx_model *m, const char *name, int rank, const int64_t *dims) {
  m->graph.input[m->graph.n_input++] = value_info(m, name, rank, dims);
}

void onnx_output(onnx_model *m, const char *name) {
  m->graph.output[m->graph.n_output++] = value_info(m, name, -1, NULL);
}

Onnx__TensorProto *onnx_tensor(onnx_model *m, const char *name, int32_t type, int rank, const int64_t *dims,
                               const void *data, size_t size) {
  Onnx__TensorProto *tensor = take(m, 1, sizeof *tensor);
  onnx__tensor_proto__init(tensor);
  tensor->name = text(m, name);
  tensor->has_data_type = true;
  tensor->data_type = type;
  tensor->n_dims = (size_t)rank;
  tensor->dims = take(m, (size_t)rank, sizeof *tensor->dims);
  for (int i = 0; i < rank; i++)
    tensor->dims[i] = dims[i];
  tensor->has_raw_data = true;
  tensor->raw_data.len = size;
  tensor->raw_data.data = take(m, size, 1);
  memcpy(tensor->raw_data.data, data, size);
  m->graph.initializer[m->graph.n_initializer++] = tensor;
  return tensor;
}

static size_t count_of(int rank, const int64_t *dims) {
  size_t count = 1;
  for (int i = 0; i < rank; i++)
    count *= (size_t)dims[i];
  return count;
}

Onnx__TensorProto *onnx_floats(onnx_model *m, const char *name, int rank, const int64_t *dims, const float *values) {
  size_t count = count_of(rank, dims);
  float *pattern = take(m, count, sizeof *pattern);
  for (size_t i = 0; i < count; i++)
    pattern[i] = values != NULL ? values[i] : (float)((int)(i * 7 % 23) - 11) / 16.0f + 0.03125f;
  return onnx_tensor(m, name, QB_DTYPE_F32, rank, dims, pattern, count * sizeof *pattern);
}

Onnx__TensorProto *onnx_integers(onnx_model *m, const char *name, int rank, const int64_t *dims,
                                 const int64_t *values) {
  return onnx_tensor(m, name, QB_DTYPE_I64, rank, dims, values, count_of(rank, dims) * sizeof *values);
}

static char **split(onnx_model *m, const char *names, size_t *count) {
  char **list = take(m, MOST, sizeof *list), *rest = text(m, names);
  for (char *word = strtok(rest, " "); word != NULL; word = strtok(NULL, " "))
    list[(*count)++] = strcmp(word, "_") == 0 ? text(m, "") : word;
  return list;
}

Onnx__NodeProto *onnx_node(onnx_model *m, const char *op, const char *inputs, const char *outputs) {
  Onnx__NodeProto *node = take(m, 1, sizeof *node);
  onnx__node_proto__init(node);
  node->op_type = text(m, op);
  node->input = split(m, inputs, &node->n_input);
  node->output = split(m, outputs, &node->n_output);
  node->name = qb_arena_format(&m->arena, "node_%s", node->n_output > 0 ? node->output[0] : "");
  node->attribute = take(m, MOST, sizeof *node->attribute);
  m->graph.node[m->graph.n_node++] = node;
  return node;
}

static Onnx__AttributeProto *attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, int32_t type) {
  Onnx__AttributeProto *a = take(m, 1, sizeof *a);
  onnx__attribute_proto__init(a);
  a->name = text(m, name);
  a->has_type = true;
  a->type = type;
  node->attribute[node->n_attribute++] = a;
  return a;
}

void onnx_int_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, int64_t value) {
  Onnx__AttributeProto *a = attribute(m, node, name, 2);
  a->has_i = true;
  a->i = value;
}

void onnx_ints_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, size_t count, const int64_t *values) {
  Onnx__AttributeProto *a = attribute(m, node, name, 7);
  a->n_ints = count;
  a->ints = take(m, count, sizeof *a->ints);
  memcpy(a->ints, values, count * sizeof *values);
}

void onnx_float_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, float value) {
  Onnx__AttributeProto *a = attribute(m, node, name, 1);
  a->has_f = true;
  a->f = value;
}

void onnx_string_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, const char *value) {
  Onnx__AttributeProto *a = attribute(m, node, name, 3);
  a->has_s = true;
  a->s = (ProtobufCBinaryData){.len = strlen(value), .data = (uint8_t *)text(m, value)};
}

void onnx_tensor_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, Onnx__TensorProto *tensor) {
  attribute(m, node, name, 4)->t = tensor;
  for (size_t i = 0; i < m->graph.n_initializer; i++) /* it is no initializer then */
    if (m->graph.initializer[i] == tensor)
      m->graph.initializer[i] = m->graph.initializer[--m->graph.n_initializer];
}

void onnx_metadata(onnx_model *m, const char *key, const char *value) {
  Onnx__StringStringEntryProto *entry = take(m, 1, sizeof *entry);
  onnx__string_string_entry_proto__init(entry);
  entry->key = text(m, key);
  entry->value = text(m, value);
  m->proto.metadata_props[m->proto.n_metadata_props++] = entry;
}

unsigned char *onnx_pack(const onnx_model *m, size_t *size) {
  *size = onnx__model_proto__get_packed_size(&m->proto);
  unsigned char *bytes = qb_alloc(*size, 1);
  assert_non_null(bytes);
  assert_int_equal(onnx__model_proto__pack(&m->proto, bytes), *size);
  return bytes;
}

qb_status onnx_read(onnx_model *m, qb_error *error) {
  size_t size;
  unsigned char *bytes = onnx_pack(m, &size);
  qb_onnx_free(m->document);
  return qb_onnx_from_bytes(bytes, size, "test.onnx", &m->document, error);
}

qb_graph *onnx_graph(onnx_model *m) {
  qb_error error = {0};
  qb_graph_free(&m->built);
  if (onnx_read(m, &error) != QB_OK || qb_onnx_to_graph(m->document, &m->built, &error) != QB_OK ||
      qb_graph_validate(&m->built, &error) != QB_OK)
    fail_msg("%s", error.message);
  return &m->built;
}

void onnx_expect_failure(onnx_model *m, qb_status status, const char *words) {
  qb_error error = {0};
  qb_graph graph;
  qb_status got = onnx_read(m, &error);
  if (got == QB_OK && (got = qb_onnx_to_graph(m->document, &graph, &error)) == QB_OK) {
    qb_graph_free(&graph);
    fail_msg("the model is accepted; expected: %s", words);
  }
  if (got != status || strstr(error.message, words) == NULL)
    fail_msg("expected %s with '%s', got %s: %s", qb_status_name(status), words, qb_status_name(got), error.message);
  assert_non_null(strstr(error.message, "test.onnx"));
}

const qb_node *onnx_find_node(const qb_graph *graph, const char *name) {
  qb_value_id id = qb_graph_find(graph, name);
  if (id == QB_NONE || graph->values[id].producer == QB_NONE)
    fail_msg("no node makes '%s'", name);
  return &graph->nodes[graph->values[id].producer];
}

onnx_model *onnx_rewrite(onnx_model *m, const qb_onnx_write_settings *settings, qb_onnx_write_info *info) {
  qb_error error = {0};
  FILE *file = tmpfile();
  assert_non_null(file);
  if (qb_onnx_write_graph(m->document, &m->built, settings, file, "written.onnx", info, &error) != QB_OK)
    fail_msg("%s", error.message);
  size_t size = (size_t)info->size_bytes;
  unsigned char *bytes = qb_alloc(size, 1);
  onnx_model *again = onnx_new(info->opset);
  assert_non_null(bytes);
  rewind(file);
  assert_int_equal(fread(bytes, 1, size, file), size);
  assert_int_equal(fgetc(file), EOF);
  fclose(file);
  if (qb_onnx_from_bytes(bytes, size, "written.onnx", &again->document, &error) != QB_OK ||
      qb_onnx_to_graph(again->document, &again->built, &error) != QB_OK)
    fail_msg("%s", error.message);
  return again;
}
