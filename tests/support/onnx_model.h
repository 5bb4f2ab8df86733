/* Small ONNX models made by tests: messages are filled in place and packed into bytes or a file.
 *
 *   onnx_model *m = onnx_new(13);
 *   onnx_input(m, "x", 4, (int64_t[]){0, 3, 8, 8});            a zero is the symbolic "N"
 *   onnx_floats(m, "w", 4, (int64_t[]){2, 3, 3, 3}, NULL);     NULL: small numbers, the same every time
 *   onnx_ints_attribute(m, onnx_node(m, "Conv", "x w", "y"), "pads", 4, (int64_t[]){1, 1, 1, 1});
 *   onnx_output(m, "y");
 *   qb_graph *graph = onnx_graph(m);
 *   onnx_free(m); */
#ifndef QB_SUPPORT_ONNX_MODEL_H
#define QB_SUPPORT_ONNX_MODEL_H

#include "onnx/document.h"

typedef struct onnx_model {
  Onnx__ModelProto proto;
  Onnx__GraphProto graph;
  Onnx__OperatorSetIdProto opset;
  qb_arena arena;
  qb_onnx *document; /* from onnx_read or onnx_graph */
  qb_graph built;
} onnx_model;

onnx_model *onnx_new(int64_t opset);
void onnx_free(onnx_model *m);

void onnx_input(onnx_model *m, const char *name, int rank, const int64_t *dims);
void onnx_output(onnx_model *m, const char *name);

/* Initializers with raw data; `values` NULL gives a fixed pattern of small numbers. */
Onnx__TensorProto *onnx_floats(onnx_model *m, const char *name, int rank, const int64_t *dims, const float *values);
Onnx__TensorProto *onnx_integers(onnx_model *m, const char *name, int rank, const int64_t *dims, const int64_t *values);
Onnx__TensorProto *onnx_tensor(onnx_model *m, const char *name, int32_t type, int rank, const int64_t *dims,
                               const void *data, size_t size);

/* Names separated by blanks; "_" is a missing input. */
Onnx__NodeProto *onnx_node(onnx_model *m, const char *op, const char *inputs, const char *outputs);
void onnx_int_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, int64_t value);
void onnx_ints_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, size_t count, const int64_t *values);
void onnx_float_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, float value);
void onnx_string_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, const char *value);
void onnx_tensor_attribute(onnx_model *m, Onnx__NodeProto *node, const char *name, Onnx__TensorProto *tensor);
void onnx_metadata(onnx_model *m, const char *key, const char *value);

/* The serialized model in a block from qb_alloc. */
unsigned char *onnx_pack(const onnx_model *m, size_t *size);

/* Reads the packed model into m->document; the status and error of qb_onnx_from_bytes. */
qb_status onnx_read(onnx_model *m, qb_error *error);

/* Reads and imports into m->built; the test fails when that fails. */
qb_graph *onnx_graph(onnx_model *m);

/* Reads and imports; asserts that one of the two fails with `status` and a message that contains `words`. */
void onnx_expect_failure(onnx_model *m, qb_status status, const char *words);

/* The only node that makes `name`. */
const qb_node *onnx_find_node(const qb_graph *graph, const char *name);

/* Writes the edited m->built with m->document and reads the result into a new model. */
onnx_model *onnx_rewrite(onnx_model *m, const qb_onnx_write_settings *settings, qb_onnx_write_info *info);

#endif
