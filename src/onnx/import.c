/* Document to graph: symbols, liveness, network inputs and outputs, the walk over nodes; see import.h. */
#include "onnx/import.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/size.h"

/* ------------------------------------------------------------------------------------------------------- messages */

static const char *node_label(const Onnx__NodeProto *node) {
  if (node->name != NULL && node->name[0] != '\0')
    return node->name;
  return node->n_output > 0 ? node->output[0] : "unnamed";
}

static const char *op_type(const Onnx__NodeProto *node) { return node->op_type == NULL ? "" : node->op_type; }

qb_status qb_import_fail(qb_import *in, qb_status status, const char *format, ...) {
  char text[768];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (in->node == NULL)
    return qb_fail(in->error, status, "%s: %s", in->document->path, text);
  return qb_fail(in->error, status, "%s: node '%s' (%s, opset %lld): %s", in->document->path, node_label(in->node),
                 op_type(in->node), (long long)in->opset, text);
}

void *qb_import_alloc(qb_import *in, size_t count, size_t size) {
  size_t bytes;
  void *block = NULL;
  if (qb_size_multiply(count, size, &bytes) && bytes <= in->budget) {
    in->budget -= bytes;
    block = qb_arena_alloc(&in->graph->arena, count, size);
  }
  if (block == NULL)
    (void)qb_import_fail(in, QB_ERROR_MEMORY,
                         "its constants need more memory than a file of this size should; "
                         "fold them with an ONNX simplifier first");
  return block;
}

static qb_status out_of_memory(qb_import *in) { return qb_fail_memory(in->error, in->document->path, 0); }

/* -------------------------------------------------------------------------------------------------------- symbols */

static qb_status intern_all(qb_import *in) {
  const Onnx__GraphProto *g = in->proto;
  for (size_t i = 0; i < g->n_initializer; i++)
    if (g->initializer[i]->name != NULL && qb_names_intern(&in->names, g->initializer[i]->name) < 0)
      return out_of_memory(in);
  for (size_t i = 0; i < g->n_input; i++)
    if (g->input[i]->name != NULL && qb_names_intern(&in->names, g->input[i]->name) < 0)
      return out_of_memory(in);
  for (size_t i = 0; i < g->n_output; i++)
    if (g->output[i]->name != NULL && qb_names_intern(&in->names, g->output[i]->name) < 0)
      return out_of_memory(in);
  for (size_t i = 0; i < g->n_node; i++) {
    for (size_t k = 0; k < g->node[i]->n_input; k++)
      if (qb_names_intern(&in->names, g->node[i]->input[k]) < 0)
        return out_of_memory(in);
    for (size_t k = 0; k < g->node[i]->n_output; k++)
      if (qb_names_intern(&in->names, g->node[i]->output[k]) < 0)
        return out_of_memory(in);
  }
  in->symbols = qb_alloc((size_t)in->names.count, sizeof *in->symbols);
  if (in->symbols == NULL)
    return out_of_memory(in);
  for (int32_t i = 0; i < in->names.count; i++)
    in->symbols[i].producer = QB_NONE;
  return QB_OK;
}

static qb_symbol *find_symbol(const qb_import *in, const char *name) {
  int32_t id = qb_names_find(&in->names, name);
  return id < 0 ? NULL : &in->symbols[id];
}

static qb_status add_constant(qb_import *in, const qb_constant *constant, int32_t *id) {
  if (in->constant_count == in->constant_capacity) {
    int32_t capacity = in->constant_capacity > 0 ? 2 * in->constant_capacity : 256;
    qb_constant *grown = qb_alloc((size_t)capacity, sizeof *grown);
    if (grown == NULL)
      return out_of_memory(in);
    if (in->constant_count > 0)
      memcpy(grown, in->constants, (size_t)in->constant_count * sizeof *grown);
    qb_free(in->constants);
    in->constants = grown;
    in->constant_capacity = capacity;
  }
  *id = in->constant_count++;
  in->constants[*id] = *constant;
  for (int form = 0; form < QB_FORM_COUNT; form++)
    in->constants[*id].value[form] = QB_NONE;
  return QB_OK;
}

static qb_status bind_initializers(qb_import *in) {
  const Onnx__GraphProto *g = in->proto;
  if (g->n_sparse_initializer > 0)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "sparse initializers; store the weights densely");
  for (size_t i = 0; i < g->n_initializer; i++) {
    const char *name = g->initializer[i]->name;
    if (name == NULL || name[0] == '\0')
      return qb_import_fail(in, QB_ERROR_FORMAT, "initializer %zu has no name", i);
    qb_symbol *symbol = find_symbol(in, name);
    if (symbol->binding != QB_UNBOUND)
      return qb_import_fail(in, QB_ERROR_FORMAT, "the initializer '%s' is defined twice", name);
    symbol->binding = QB_CONSTANT;
    QB_TRY(add_constant(in, &(qb_constant){.name = name, .source = name, .tensor = g->initializer[i]}, &symbol->id));
  }
  return QB_OK;
}

/* Records which node makes each name. */
static qb_status bind_producers(qb_import *in) {
  const Onnx__GraphProto *g = in->proto;
  for (size_t i = 0; i < g->n_node; i++)
    for (size_t k = 0; k < g->node[i]->n_output; k++) {
      const char *name = g->node[i]->output[k];
      qb_symbol *symbol = find_symbol(in, name);
      if (name[0] == '\0')
        continue;
      if (symbol->producer != QB_NONE || symbol->binding != QB_UNBOUND)
        return qb_import_fail(in, QB_ERROR_FORMAT, "the name '%s' is defined twice", name);
      symbol->producer = (int32_t)i;
    }
  return QB_OK;
}

static bool is_live(const qb_import *in, const Onnx__NodeProto *node) {
  for (size_t k = 0; k < node->n_output; k++)
    if (node->output[k][0] != '\0' && find_symbol(in, node->output[k])->needed)
      return true;
  return false;
}

/* Marks what the outputs need: one backward pass, since nodes are in topological order. */
static void mark_needed(qb_import *in) {
  const Onnx__GraphProto *g = in->proto;
  for (size_t i = 0; i < g->n_output; i++)
    if (g->output[i]->name != NULL) {
      qb_symbol *symbol = find_symbol(in, g->output[i]->name);
      symbol->needed = true;
      symbol->uses++;
    }
  for (size_t i = g->n_node; i-- > 0;) {
    if (!is_live(in, g->node[i]))
      continue;
    for (size_t k = 0; k < g->node[i]->n_input; k++) {
      qb_symbol *symbol = find_symbol(in, g->node[i]->input[k]);
      symbol->needed = true;
      symbol->uses++;
    }
  }
}

/* -------------------------------------------------------------------------------------------------- network inputs */

static qb_status input_dimension(qb_import *in, const char *name, const Onnx__TensorShapeProto__Dimension *dimension,
                                 int32_t axis, int64_t *length) {
  if (dimension->has_dim_value && dimension->dim_value < 0)
    return qb_import_fail(in, QB_ERROR_FORMAT, "network input '%s': dimension %d is %lld; give it a positive length",
                          name, axis, (long long)dimension->dim_value);
  bool known = dimension->has_dim_value && dimension->dim_value > 0;
  *length = known ? dimension->dim_value : 1;
  if (axis == 0) {
    if (*length != 1)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                            "network input '%s' has the fixed batch %lld; export it with batch 1 or a symbolic one",
                            name, (long long)*length);
    return QB_OK;
  }
  if (!known)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "network input '%s': dimension %d is symbolic ('%s'); only the batch may be. Fix it: python "
                          "-m onnxruntime.tools.make_dynamic_shape_fixed --dim_param %s --dim_value LENGTH",
                          name, axis, dimension->dim_param == NULL ? "unnamed" : dimension->dim_param,
                          dimension->dim_param == NULL ? "NAME" : dimension->dim_param);
  return QB_OK;
}

static qb_status input_shape(qb_import *in, const Onnx__ValueInfoProto *input, qb_shape *shape) {
  const Onnx__TypeProto__Tensor *type = input->type == NULL ? NULL : input->type->tensor_type;
  if (type == NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "network input '%s' is not a tensor", input->name);
  if (type->elem_type != QB_DTYPE_F32)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "network input '%s' has type %s; only float32 networks are supported: convert the model to "
                          "float32",
                          input->name, qb_dtype_name((qb_dtype)type->elem_type));
  if (type->shape == NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "network input '%s' has no shape; export it with one", input->name);
  if (type->shape->n_dim < 1 || type->shape->n_dim > QB_MAX_RANK)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "network input '%s' has rank %zu; supported are 1 to %d, batch "
                          "first",
                          input->name, type->shape->n_dim, QB_MAX_RANK);
  shape->rank = (int32_t)type->shape->n_dim;
  for (int32_t i = 0; i < shape->rank; i++)
    QB_TRY(input_dimension(in, input->name, type->shape->dim[i], i, &shape->dims[i]));
  return QB_OK;
}

static qb_status bind_inputs(qb_import *in) {
  for (size_t i = 0; i < in->proto->n_input; i++) {
    const Onnx__ValueInfoProto *input = in->proto->input[i];
    qb_shape shape = {0};
    if (input->name == NULL || input->name[0] == '\0')
      return qb_import_fail(in, QB_ERROR_FORMAT, "network input %zu has no name", i);
    qb_symbol *symbol = find_symbol(in, input->name);
    if (symbol->binding == QB_CONSTANT || !symbol->needed)
      continue; /* an initializer listed as input (files before IR 4), or an input nobody reads */
    if (symbol->binding != QB_UNBOUND)
      return qb_import_fail(in, QB_ERROR_FORMAT, "the name '%s' is defined twice", input->name);
    QB_TRY(input_shape(in, input, &shape));
    symbol->binding = QB_ACTIVATION;
    QB_TRY(qb_graph_add_input(in->graph, input->name, &shape, &symbol->id, in->error));
  }
  return QB_OK;
}

static qb_status bind_outputs(qb_import *in) {
  for (size_t i = 0; i < in->proto->n_output; i++) {
    const char *name = in->proto->output[i]->name;
    const qb_symbol *symbol = name == NULL ? NULL : find_symbol(in, name);
    if (symbol == NULL || symbol->binding == QB_UNBOUND)
      return qb_import_fail(in, QB_ERROR_FORMAT, "no node makes the network output '%s'", name == NULL ? "" : name);
    if (symbol->binding == QB_INTEGER_SUM)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "the network output '%s' is a sum of integers without a scale",
                            name);
    if (symbol->binding != QB_ACTIVATION)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                            "the network output '%s' does not depend on the input; remove "
                            "it from the model",
                            name);
    QB_TRY(qb_graph_add_output(in->graph, symbol->id, in->error));
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------- inputs of the current node */

bool qb_import_has(const qb_import *in, size_t slot) {
  return slot < in->node->n_input && in->node->input[slot][0] != '\0';
}

qb_symbol *qb_import_symbol(const qb_import *in, size_t slot) { return find_symbol(in, in->node->input[slot]); }

qb_status qb_import_constant(qb_import *in, size_t slot, qb_constant **constant) {
  *constant = NULL;
  if (!qb_import_has(in, slot) || qb_import_symbol(in, slot)->binding != QB_CONSTANT)
    return QB_OK;
  qb_constant *found = &in->constants[qb_import_symbol(in, slot)->id];
  if (found->tensor != NULL) {
    QB_TRY(qb_import_decode(in, found->tensor, &found->view));
    found->tensor = NULL;
  }
  *constant = found;
  return QB_OK;
}

qb_status qb_import_need_constant(qb_import *in, size_t slot, const char *what, qb_constant **constant) {
  QB_TRY(qb_import_constant(in, slot, constant));
  if (*constant == NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "%s must be a constant but %s", what,
                          qb_import_has(in, slot) ? "is computed from the network's input" : "is missing");
  return QB_OK;
}

qb_status qb_import_activation(qb_import *in, size_t slot, qb_value_id *id) {
  if (!qb_import_has(in, slot))
    return qb_import_fail(in, QB_ERROR_FORMAT, "input %zu is missing", slot);
  const qb_symbol *symbol = qb_import_symbol(in, slot);
  if (symbol->binding != QB_ACTIVATION)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "input %zu ('%s') is a constant, where only a value that depends "
                          "on the network's input is supported; rewrite it with the constant as the second operand",
                          slot, in->node->input[slot]);
  *id = symbol->id;
  return QB_OK;
}

qb_status qb_import_integers(qb_import *in, size_t slot, const char *what, int64_t *values, size_t capacity,
                             size_t *count) {
  qb_constant *constant;
  QB_TRY(qb_import_need_constant(in, slot, what, &constant));
  *count = qb_view_elements(&constant->view);
  if (!qb_dtype_is_integer(constant->view.dtype) || constant->view.shape.rank > 1)
    return qb_import_fail(in, QB_ERROR_FORMAT, "%s must be a list of integers", what);
  if (*count > capacity)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "%s has %zu entries; at most %zu are supported", what, *count,
                          capacity);
  for (size_t i = 0; i < *count; i++)
    values[i] = qb_view_integer(&constant->view, i);
  return QB_OK;
}

const qb_shape *qb_import_shape(const qb_import *in, qb_value_id id) { return &in->graph->values[id].shape; }

/* ------------------------------------------------------------------------------------ outputs of the current node */

qb_status qb_import_bind_constant(qb_import *in, const qb_view *view, const qb_codes *codes, const char *source) {
  qb_symbol *symbol = find_symbol(in, in->node->output[0]);
  const qb_constant constant = {.name = in->node->output[0], .source = source, .view = *view, .codes = codes};
  QB_TRY(add_constant(in, &constant, &symbol->id));
  symbol->binding = QB_CONSTANT;
  return QB_OK;
}

qb_status qb_import_bind_activation(qb_import *in, qb_value_id id) {
  qb_symbol *symbol = find_symbol(in, in->node->output[0]);
  symbol->binding = QB_ACTIVATION;
  symbol->id = id;
  return QB_OK;
}

/* A name that neither the file nor the graph uses. */
static const char *free_name(qb_import *in, const char *base, const char *part) {
  qb_arena *arena = &in->graph->arena;
  const char *name = qb_arena_format(arena, "%s/%s", base, part);
  for (int i = 2; name != NULL && (qb_names_find(&in->names, name) >= 0 || qb_graph_find(in->graph, name) != QB_NONE);
       i++)
    name = qb_arena_format(arena, "%s/%s%d", base, part, i);
  return name;
}

qb_status qb_import_emit(qb_import *in, qb_op op, const char *part, const qb_value_id *inputs, int32_t input_count,
                         const qb_attributes *attributes, const qb_shape *shape, qb_value_id *output) {
  const char *base = in->node->output[0];
  const char *output_name = part == NULL ? base : free_name(in, base, part);
  const char *label = in->node->name == NULL ? "" : in->node->name;
  const char *name =
      part == NULL || label[0] == '\0' ? label : qb_arena_format(&in->graph->arena, "%s/%s", label, part);
  const qb_attributes none = {0};
  qb_node_id id;
  if (output_name == NULL || name == NULL)
    return out_of_memory(in);
  QB_TRY(qb_graph_add_node(in->graph, op, name, inputs, input_count, attributes == NULL ? &none : attributes,
                           output_name, shape, &id, in->error));
  in->graph->nodes[id].origin = in->node_index;
  *output = in->graph->nodes[id].output;
  return part == NULL ? qb_import_bind_activation(in, *output) : QB_OK;
}

bool qb_import_is_only_reader(const qb_import *in, qb_value_id x) {
  const int32_t symbol = qb_names_find(&in->names, in->graph->values[x].name);
  return symbol >= 0 && in->symbols[symbol].uses == 1 && qb_graph_use_count(in->graph, x) == 0;
}

qb_status qb_import_take_over(qb_import *in, qb_value_id x) {
  qb_value_id output = QB_NONE;
  QB_TRY(qb_import_emit(in, QB_OP_IDENTITY, NULL, &x, 1, NULL, NULL, &output));
  qb_graph_remove_node(in->graph, in->graph->values[output].producer);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------- graph constants */

static qb_status form_view(qb_import *in, const qb_constant *constant, qb_form form, int64_t length, qb_view *view,
                           const qb_codes **codes) {
  QB_TRY(qb_import_floats(in, constant->name, &constant->view, form == QB_FORM_CODES, view));
  *codes = constant->codes;
  if (form == QB_FORM_PLAIN || form == QB_FORM_CODES)
    return QB_OK;
  if (form == QB_FORM_TRANSPOSED) {
    QB_TRY(qb_import_transpose(in, view, view));
    return constant->codes == NULL ? QB_OK : qb_import_transpose_codes(in, constant->codes, codes);
  }
  size_t count = qb_view_elements(view);
  if (view->shape.rank != 1)
    *codes = NULL;
  if (count != (size_t)length && count != 1)
    return qb_import_fail(in, QB_ERROR_SHAPE,
                          "constant '%s' has %zu entries where one per channel, %lld, was "
                          "expected",
                          constant->name, count, (long long)length);
  if (count == 1 && length != 1) {
    float *repeated = qb_import_alloc(in, (size_t)length, sizeof *repeated);
    if (repeated == NULL)
      return QB_ERROR_MEMORY;
    for (int64_t i = 0; i < length; i++)
      repeated[i] = qb_view_f32(view)[0];
    view->data = repeated;
    *codes = NULL;
  }
  view->shape = QB_SHAPE(length);
  return QB_OK;
}

qb_status qb_import_value(qb_import *in, qb_constant *constant, qb_form form, int64_t length, qb_value_id *id) {
  static const char *const suffix[QB_FORM_COUNT] = {"plain", "transposed", "vector", "codes"};
  if (form == QB_FORM_VECTOR && constant->view.shape.rank == 1 && constant->view.shape.dims[0] == length)
    form = QB_FORM_PLAIN;
  *id = constant->value[form];
  if (*id != QB_NONE && (form != QB_FORM_VECTOR || in->graph->values[*id].shape.dims[0] == length))
    return QB_OK;
  qb_view view;
  const qb_codes *codes;
  QB_TRY(form_view(in, constant, form, length, &view, &codes));
  bool taken = qb_graph_find(in->graph, constant->name) != QB_NONE;
  const char *name = taken ? free_name(in, constant->name, suffix[form]) : constant->name;
  if (name == NULL)
    return out_of_memory(in);
  QB_TRY(qb_graph_add_constant(in->graph, name, &view, id, in->error));
  constant->value[form] = *id;
  in->graph->values[*id].codes = codes;
  in->graph->values[*id].source = constant->source;
  in->graph->values[*id].transposed = form == QB_FORM_TRANSPOSED;
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- the walk */

/* Every input must be defined by now. *broken: it depends on a node that has no rule. */
static qb_status check_inputs(qb_import *in, bool *all_constant, bool *broken) {
  int32_t present = 0;
  *all_constant = true;
  *broken = false;
  for (size_t slot = 0; slot < in->node->n_input; slot++) {
    if (!qb_import_has(in, slot))
      continue;
    const qb_symbol *symbol = qb_import_symbol(in, slot);
    present++;
    if (symbol->binding == QB_UNBOUND)
      return qb_import_fail(in, QB_ERROR_FORMAT,
                            symbol->producer == QB_NONE
                                ? "its input '%s' is not defined by any node, input or initializer"
                                : "its input '%s' is used before it is computed: the graph is cyclic or its nodes are "
                                  "not in topological order",
                            in->node->input[slot]);
    *broken = *broken || symbol->binding == QB_BROKEN;
    *all_constant = *all_constant && symbol->binding == QB_CONSTANT;
  }
  *all_constant = *all_constant && present > 0;
  return QB_OK;
}

static qb_status check_node(qb_import *in) {
  const char *domain = in->node->domain;
  if (qb_import_is_contrib(in))
    QB_TRY(qb_import_check_known(in));
  else if (domain != NULL && domain[0] != '\0' && strcmp(domain, "ai.onnx") != 0)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "it belongs to the operator domain '%s'; only standard ONNX "
                          "operators are supported: export without fusion or custom operators",
                          domain);
  for (size_t i = 0; i < in->node->n_attribute; i++)
    if (in->node->attribute[i]->has_g || in->node->attribute[i]->n_graphs > 0)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                            "control flow is not supported; export the model with the "
                            "branch or loop resolved (tracing)");
  if (in->node->n_output == 0 || in->node->output[0][0] == '\0')
    return qb_import_fail(in, QB_ERROR_FORMAT, "it has no output");
  if (in->node->n_output > 1)
    QB_TRY(qb_import_check_known(in));
  for (size_t k = 1; k < in->node->n_output; k++)
    if (in->node->output[k][0] != '\0' && find_symbol(in, in->node->output[k])->needed)
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its output %zu ('%s') is used; only the first one is supported",
                            k, in->node->output[k]);
  return QB_OK;
}

/* What a walk that does not stop at a node without a rule notes down. */
typedef struct unsupported_list {
  qb_onnx_unsupported *entries; /* may be NULL */
  int32_t capacity, count;
  qb_onnx_orphan *orphans; /* may be NULL */
  int32_t orphan_capacity, orphan_count;
} unsupported_list;

/* Keeps a layer whose input is unknown. */
static qb_status list_orphan(qb_import *in, unsupported_list *list) {
  static const char *const layers[] = {"Conv", "ConvTranspose", "Gemm", "MatMul"};
  bool is_layer = false;
  for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
    is_layer = is_layer || strcmp(op_type(in->node), layers[i]) == 0;
  if (!is_layer || in->node->n_input < 2 || qb_import_symbol(in, 1)->binding != QB_CONSTANT)
    return QB_OK;
  qb_constant *weight;
  QB_TRY(qb_import_constant(in, 1, &weight));
  if (list->orphan_count < list->orphan_capacity)
    list->orphans[list->orphan_count] =
        (qb_onnx_orphan){.node = node_label(in->node), .op = op_type(in->node), .weight_shape = weight->view.shape};
  list->orphan_count++;
  return QB_OK;
}

static qb_status import_node(qb_import *in, unsupported_list *list) {
  bool all_constant, broken, done = false;
  QB_TRY(check_inputs(in, &all_constant, &broken));
  QB_TRY(check_node(in));
  if (broken) { /* only while listing: the shape of its input is unknown, but its operator may be */
    find_symbol(in, in->node->output[0])->binding = QB_BROKEN;
    QB_TRY(list_orphan(in, list));
    return qb_import_check_known(in);
  }
  QB_TRY(qb_import_fold_known(in, &done));
  if (done)
    return QB_OK;
  if (qb_import_reads_sum(in))
    return qb_rule_integer_sum(in);
  return all_constant ? qb_import_fold(in) : qb_import_rule(in);
}

/* Keeps the reason of a failed node and lets the walk go on. */
static void list_failure(qb_import *in, unsupported_list *list) {
  if (list->count < list->capacity) {
    qb_onnx_unsupported *entry = &list->entries[list->count];
    *entry = (qb_onnx_unsupported){.node = node_label(in->node), .op = op_type(in->node), .opset = in->opset};
    const char *why = in->error == NULL ? "" : strstr(in->error->message, "): ");
    snprintf(entry->why, sizeof entry->why, "%s", why == NULL ? in->error->message : why + 3);
  }
  list->count++;
  for (size_t k = 0; k < in->node->n_output; k++)
    if (in->node->output[k][0] != '\0')
      find_symbol(in, in->node->output[k])->binding = QB_BROKEN;
}

static qb_status import_nodes(qb_import *in, unsupported_list *list) {
  for (size_t i = 0; i < in->proto->n_node; i++) {
    in->node = in->proto->node[i];
    in->node_index = (int32_t)i;
    if (!is_live(in, in->node))
      continue;
    qb_status status = import_node(in, list);
    if ((status == QB_ERROR_UNSUPPORTED || status == QB_ERROR_SHAPE) && list != NULL)
      list_failure(in, list);
    else if (status != QB_OK)
      return status;
  }
  in->node = NULL;
  return QB_OK;
}

static qb_status import_all(qb_import *in, unsupported_list *list) {
  QB_TRY(intern_all(in));
  QB_TRY(bind_initializers(in));
  QB_TRY(bind_producers(in));
  mark_needed(in);
  QB_TRY(bind_inputs(in));
  QB_TRY(import_nodes(in, list));
  if (list != NULL)
    return QB_OK;
  QB_TRY(bind_outputs(in));
  return qb_graph_validate(in->graph, in->error);
}

static qb_status run_import(const qb_onnx *document, qb_graph *graph, unsupported_list *list, qb_error *error) {
  qb_error own = {0};
  qb_import in = {.document = document,
                  .proto = document->model->graph,
                  .graph = graph,
                  .opset = document->opset,
                  .budget = ((size_t)64 << 20) + 32 * document->weight_bytes,
                  .error = error == NULL ? &own : error};
  *graph = (qb_graph){0};
  if (in.proto->n_node > INT32_MAX / 2)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: too many nodes", document->path);
  qb_status status = qb_graph_init(graph, document->path, in.error);
  if (status == QB_OK)
    status = import_all(&in, list);
  if (status != QB_OK && strstr(in.error->message, document->path) == NULL)
    status = qb_fail_context(in.error, status, "%s", document->path);
  qb_names_free(&in.names);
  qb_free(in.symbols);
  qb_free(in.constants);
  return status;
}

qb_status qb_onnx_to_graph(const qb_onnx *document, qb_graph *graph, qb_error *error) {
  qb_status status = run_import(document, graph, NULL, error);
  if (status != QB_OK)
    qb_graph_free(graph);
  return status;
}

qb_status qb_onnx_list_unsupported(const qb_onnx *document, qb_onnx_unsupported *list, int32_t capacity, int32_t *count,
                                   qb_error *error) {
  qb_graph graph;
  unsupported_list found = {.entries = list, .capacity = capacity};
  qb_status status = run_import(document, &graph, &found, error);
  qb_graph_free(&graph);
  *count = found.count;
  return status;
}

qb_status qb_onnx_to_partial_graph(const qb_onnx *document, qb_graph *graph, qb_onnx_orphan *orphans, int32_t capacity,
                                   int32_t *count, qb_error *error) {
  unsupported_list found = {.orphans = orphans, .orphan_capacity = capacity};
  qb_status status = run_import(document, graph, &found, error);
  if (status != QB_OK)
    qb_graph_free(graph);
  *count = found.orphan_count;
  return status;
}
