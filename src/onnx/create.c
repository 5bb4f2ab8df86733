/* Building the messages of a new perceptron file and writing them; see create.h. The weights are not copied: protobuf-c
 * packs them from where they lie straight into the stream. */
#include "onnx/create.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "onnx.pb-c.h"

enum { ONNX_FLOAT = 1, ONNX_ATTRIBUTE_INT = 2, OPSET = 13, IR_VERSION = 7, NAME_BYTES = 32 };

/* The messages of one layer; lists point into the same struct. */
typedef struct layer_messages {
  Onnx__NodeProto gemm, relu;
  Onnx__AttributeProto trans_b, *gemm_attributes[1];
  Onnx__TensorProto weight, bias;
  int64_t weight_dims[2], bias_dims[1];
  char weight_name[NAME_BYTES], bias_name[NAME_BYTES], gemm_name[NAME_BYTES], relu_name[NAME_BYTES];
  char sum_name[NAME_BYTES], active_name[NAME_BYTES]; /* outputs of Gemm and Relu */
  char *gemm_inputs[3], *gemm_outputs[1], *relu_inputs[1], *relu_outputs[1];
} layer_messages;

/* A value (N, width) of floats. */
typedef struct value_messages {
  Onnx__ValueInfoProto value;
  Onnx__TypeProto type;
  Onnx__TypeProto__Tensor tensor;
  Onnx__TensorShapeProto shape;
  Onnx__TensorShapeProto__Dimension batch, width, *dims[2];
} value_messages;

typedef struct file_messages {
  Onnx__ModelProto model;
  Onnx__GraphProto graph;
  Onnx__OperatorSetIdProto opset, *opsets[1];
  value_messages input, output;
  Onnx__ValueInfoProto *inputs[1], *outputs[1];
  layer_messages *layers;                 /* (count) */
  Onnx__NodeProto **nodes;                /* (2 count - 1) */
  Onnx__TensorProto **initializers;       /* (2 count) */
  Onnx__StringStringEntryProto *metadata; /* (metadata_count) */
  Onnx__StringStringEntryProto **metadata_list;
} file_messages;

/* protobuf-c's strings are not const, though packing only reads them. */
static char *unconst(const char *text) { return (char *)(uintptr_t)text; }

/* ------------------------------------------------------------------------------------------------------- messages */

static void make_tensor(Onnx__TensorProto *tensor, char *name, int64_t *dims, size_t rank, const float *data) {
  onnx__tensor_proto__init(tensor);
  size_t count = 1;
  for (size_t i = 0; i < rank; i++)
    count *= (size_t)dims[i];
  tensor->name = name;
  tensor->n_dims = rank;
  tensor->dims = dims;
  tensor->has_data_type = 1;
  tensor->data_type = ONNX_FLOAT;
  tensor->has_raw_data = 1;
  tensor->raw_data = (ProtobufCBinaryData){count * sizeof *data, (uint8_t *)(uintptr_t)data};
}

static void make_node(Onnx__NodeProto *node, const char *op, char *name, char **inputs, size_t input_count,
                      char **outputs) {
  onnx__node_proto__init(node);
  node->op_type = unconst(op);
  node->name = name;
  node->n_input = input_count;
  node->input = inputs;
  node->n_output = 1;
  node->output = outputs;
}

static void make_layer(layer_messages *m, const qb_onnx_dense *layer, int32_t index, char *input, char *output) {
  snprintf(m->weight_name, NAME_BYTES, "%d.weight", index);
  snprintf(m->bias_name, NAME_BYTES, "%d.bias", index);
  snprintf(m->gemm_name, NAME_BYTES, "dense_%d", index);
  snprintf(m->relu_name, NAME_BYTES, "relu_%d", index);
  snprintf(m->sum_name, NAME_BYTES, "sum_%d", index);
  snprintf(m->active_name, NAME_BYTES, "active_%d", index);
  m->weight_dims[0] = m->bias_dims[0] = layer->outputs;
  m->weight_dims[1] = layer->inputs;
  make_tensor(&m->weight, m->weight_name, m->weight_dims, 2, layer->weight);
  make_tensor(&m->bias, m->bias_name, m->bias_dims, 1, layer->bias);

  onnx__attribute_proto__init(&m->trans_b);
  m->trans_b.name = unconst("transB");
  m->trans_b.has_type = m->trans_b.has_i = 1;
  m->trans_b.type = ONNX_ATTRIBUTE_INT;
  m->trans_b.i = 1;
  m->gemm_attributes[0] = &m->trans_b;
  m->gemm_inputs[0] = input;
  m->gemm_inputs[1] = m->weight_name;
  m->gemm_inputs[2] = m->bias_name;
  m->gemm_outputs[0] = output != NULL ? output : m->sum_name;
  make_node(&m->gemm, "Gemm", m->gemm_name, m->gemm_inputs, 3, m->gemm_outputs);
  m->gemm.n_attribute = 1;
  m->gemm.attribute = m->gemm_attributes;
  m->relu_inputs[0] = m->sum_name;
  m->relu_outputs[0] = m->active_name;
  make_node(&m->relu, "Relu", m->relu_name, m->relu_inputs, 1, m->relu_outputs);
}

static void make_value(value_messages *m, const char *name, int64_t width) {
  onnx__value_info_proto__init(&m->value);
  onnx__type_proto__init(&m->type);
  onnx__type_proto__tensor__init(&m->tensor);
  onnx__tensor_shape_proto__init(&m->shape);
  onnx__tensor_shape_proto__dimension__init(&m->batch);
  onnx__tensor_shape_proto__dimension__init(&m->width);
  m->batch.dim_param = unconst("N");
  m->width.has_dim_value = 1;
  m->width.dim_value = width;
  m->dims[0] = &m->batch;
  m->dims[1] = &m->width;
  m->shape.n_dim = 2;
  m->shape.dim = m->dims;
  m->tensor.has_elem_type = 1;
  m->tensor.elem_type = ONNX_FLOAT;
  m->tensor.shape = &m->shape;
  m->type.tensor_type = &m->tensor;
  m->value.name = unconst(name);
  m->value.type = &m->type;
}

static void make_graph(file_messages *f, const qb_onnx_dense *layers, int32_t count) {
  onnx__graph_proto__init(&f->graph);
  f->graph.name = unconst("mlp");
  make_value(&f->input, "input", layers[0].inputs);
  make_value(&f->output, "output", layers[count - 1].outputs);
  f->inputs[0] = &f->input.value;
  f->outputs[0] = &f->output.value;
  f->graph.n_input = f->graph.n_output = 1;
  f->graph.input = f->inputs;
  f->graph.output = f->outputs;
  f->graph.node = f->nodes;
  f->graph.initializer = f->initializers;
  char *from = f->input.value.name;
  for (int32_t l = 0; l < count; l++) {
    layer_messages *m = &f->layers[l];
    bool last = l + 1 == count;
    make_layer(m, &layers[l], l, from, last ? f->output.value.name : NULL);
    f->nodes[f->graph.n_node++] = &m->gemm;
    if (!last)
      f->nodes[f->graph.n_node++] = &m->relu;
    f->initializers[f->graph.n_initializer++] = &m->weight;
    f->initializers[f->graph.n_initializer++] = &m->bias;
    from = m->active_name;
  }
}

static void make_model(file_messages *f, const qb_onnx_metadata_entry *metadata, int32_t metadata_count) {
  onnx__model_proto__init(&f->model);
  onnx__operator_set_id_proto__init(&f->opset);
  f->opset.domain = unconst("");
  f->opset.has_version = 1;
  f->opset.version = OPSET;
  f->opsets[0] = &f->opset;
  f->model.has_ir_version = 1;
  f->model.ir_version = IR_VERSION;
  f->model.producer_name = unconst("qbound");
  f->model.producer_version = unconst(qb_version());
  f->model.n_opset_import = 1;
  f->model.opset_import = f->opsets;
  f->model.graph = &f->graph;
  for (int32_t i = 0; i < metadata_count; i++) {
    onnx__string_string_entry_proto__init(&f->metadata[i]);
    f->metadata[i].key = unconst(metadata[i].key);
    f->metadata[i].value = unconst(metadata[i].value);
    f->metadata_list[i] = &f->metadata[i];
  }
  f->model.n_metadata_props = (size_t)metadata_count;
  f->model.metadata_props = f->metadata_list;
}

/* -------------------------------------------------------------------------------------------------------- writing */

typedef struct stream_buffer {
  ProtobufCBuffer base;
  FILE *file;
  bool failed;
} stream_buffer;

static void append_to_stream(ProtobufCBuffer *buffer, size_t size, const uint8_t *data) {
  stream_buffer *stream = (stream_buffer *)buffer;
  if (!stream->failed && fwrite(data, 1, size, stream->file) != size)
    stream->failed = true;
}

static qb_status write_model(const Onnx__ModelProto *model, FILE *file, const char *path, qb_error *error) {
  stream_buffer stream = {.base = {append_to_stream}, .file = file};
  onnx__model_proto__pack_to_buffer(model, &stream.base);
  if (stream.failed || fflush(file) != 0)
    return qb_fail(error, QB_ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
  return QB_OK;
}

static qb_status check_layers(const qb_onnx_dense *layers, int32_t count, const char *path, qb_error *error) {
  if (count < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: a network needs a layer", path);
  for (int32_t l = 0; l < count; l++)
    if (layers[l].inputs < 1 || layers[l].outputs < 1 || (l > 0 && layers[l].inputs != layers[l - 1].outputs))
      return qb_fail(error, QB_ERROR_ARGUMENT, "%s: layer %d maps %lld values to %lld and does not fit", path, l,
                     (long long)layers[l].inputs, (long long)layers[l].outputs);
  return QB_OK;
}

qb_status qb_onnx_create_mlp(const qb_onnx_dense *layers, int32_t count, const qb_onnx_metadata_entry *metadata,
                             int32_t metadata_count, FILE *file, const char *path, qb_error *error) {
  QB_TRY(check_layers(layers, count, path, error));
  file_messages f = {.layers = qb_alloc((size_t)count, sizeof *f.layers),
                     .nodes = qb_alloc(2 * (size_t)count, sizeof *f.nodes),
                     .initializers = qb_alloc(2 * (size_t)count, sizeof *f.initializers),
                     .metadata = qb_alloc((size_t)metadata_count, sizeof *f.metadata),
                     .metadata_list = qb_alloc((size_t)metadata_count, sizeof *f.metadata_list)};
  qb_status status;
  if (f.layers == NULL || f.nodes == NULL || f.initializers == NULL || f.metadata == NULL || f.metadata_list == NULL) {
    status = qb_fail_memory(error, path, (size_t)count * sizeof *f.layers);
  } else {
    make_graph(&f, layers, count);
    make_model(&f, metadata, metadata_count);
    status = write_model(&f.model, file, path, error);
  }
  qb_free(f.layers);
  qb_free(f.nodes);
  qb_free(f.initializers);
  qb_free(f.metadata);
  qb_free(f.metadata_list);
  return status;
}
