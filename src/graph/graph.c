/* Building, cloning, editing and validating graphs. */
#include "graph/graph.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/size.h"
#include "graph/shape_infer.h"

/* ------------------------------------------------------------------------------------------------- growing tables */

/* Doubles *array (of *capacity entries of `size` bytes) until it holds `needed`. */
static qb_status reserve(void **array, int32_t *capacity, int32_t needed, size_t size, qb_error *error) {
  if (needed <= *capacity)
    return QB_OK;
  int64_t wanted = *capacity > 0 ? 2 * (int64_t)*capacity : 64;
  while (wanted < needed)
    wanted *= 2;
  if (wanted > INT32_MAX)
    return qb_fail_memory(error, "graph table", SIZE_MAX);
  void *grown = qb_alloc((size_t)wanted, size);
  if (grown == NULL)
    return qb_fail_memory(error, "graph table", (size_t)wanted * size);
  if (*array != NULL)
    memcpy(grown, *array, (size_t)*capacity * size);
  qb_free(*array);
  *array = grown;
  *capacity = (int32_t)wanted;
  return QB_OK;
}

static uint32_t hash_name(const char *name) {
  uint32_t hash = 2166136261u; /* FNV-1a */
  for (; *name != '\0'; name++)
    hash = (hash ^ (unsigned char)*name) * 16777619u;
  return hash;
}

/* The slot of `name` in the index: its entry, or the empty slot where it belongs. */
static int32_t *index_slot(const qb_graph *graph, const char *name) {
  uint32_t mask = (uint32_t)graph->index_capacity - 1u;
  uint32_t i = hash_name(name) & mask;
  while (graph->index[i] != QB_NONE && strcmp(graph->values[graph->index[i]].name, name) != 0)
    i = (i + 1u) & mask;
  return &graph->index[i];
}

static qb_status grow_index(qb_graph *graph, qb_error *error) {
  if (graph->index != NULL && 2 * (int64_t)graph->value_count < graph->index_capacity)
    return QB_OK;
  int32_t capacity = graph->index_capacity > 0 ? 2 * graph->index_capacity : 256;
  int32_t *index = qb_alloc((size_t)capacity, sizeof *index);
  if (index == NULL)
    return qb_fail_memory(error, "graph index", (size_t)capacity * sizeof *index);
  memset(index, 0xff, (size_t)capacity * sizeof *index); /* every entry QB_NONE */
  qb_free(graph->index);
  graph->index = index;
  graph->index_capacity = capacity;
  for (int32_t i = 0; i < graph->value_count; i++)
    *index_slot(graph, graph->values[i].name) = i;
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- building */

qb_status qb_graph_init(qb_graph *graph, const char *name, qb_error *error) {
  *graph = (qb_graph){0};
  qb_arena_init(&graph->arena);
  graph->name = qb_arena_string(&graph->arena, name, strlen(name));
  return graph->name == NULL ? qb_fail_memory(error, "graph name", strlen(name)) : QB_OK;
}

void qb_graph_free(qb_graph *graph) {
  if (graph == NULL)
    return;
  qb_free(graph->nodes);
  qb_free(graph->values);
  qb_free(graph->inputs);
  qb_free(graph->outputs);
  qb_free(graph->index);
  qb_arena_free(&graph->arena);
  *graph = (qb_graph){0};
}

static qb_status add_value(qb_graph *graph, const char *name, const qb_shape *shape, qb_value_id *id, qb_error *error) {
  size_t count;
  if (!qb_shape_count(shape, &count))
    return qb_fail(error, QB_ERROR_SHAPE, "%s: value '%s' has a negative or overflowing shape", graph->name, name);
  QB_TRY(grow_index(graph, error));
  if (*index_slot(graph, name) != QB_NONE)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: the name '%s' is defined twice", graph->name, name);
  QB_TRY(
      reserve((void **)&graph->values, &graph->value_capacity, graph->value_count + 1, sizeof *graph->values, error));
  char *copy = qb_arena_string(&graph->arena, name, strlen(name));
  if (copy == NULL)
    return qb_fail_memory(error, name, strlen(name));
  *id = graph->value_count++;
  graph->values[*id] = (qb_value){.name = copy, .shape = *shape, .producer = QB_NONE};
  *index_slot(graph, copy) = *id;
  return QB_OK;
}

/* Appends `id` to a small list that is reallocated as a whole (inputs and outputs are few). */
static qb_status append_id(qb_value_id **list, int32_t *count, qb_value_id id, qb_error *error) {
  qb_value_id *grown = qb_alloc((size_t)*count + 1, sizeof *grown);
  if (grown == NULL)
    return qb_fail_memory(error, "network inputs or outputs", sizeof *grown);
  if (*count > 0)
    memcpy(grown, *list, (size_t)*count * sizeof *grown);
  grown[(*count)++] = id;
  qb_free(*list);
  *list = grown;
  return QB_OK;
}

qb_status qb_graph_add_input(qb_graph *graph, const char *name, const qb_shape *shape, qb_value_id *id,
                             qb_error *error) {
  char text[QB_SHAPE_TEXT];
  if (!qb_shape_is_activation(shape))
    return qb_fail(error, QB_ERROR_SHAPE,
                   "%s: input '%s' has shape %s; expected a batch axis of length one in front and no empty axis",
                   graph->name, name, qb_shape_print(shape, text));
  QB_TRY(add_value(graph, name, shape, id, error));
  return append_id(&graph->inputs, &graph->input_count, *id, error);
}

qb_status qb_graph_add_output(qb_graph *graph, qb_value_id id, qb_error *error) {
  return append_id(&graph->outputs, &graph->output_count, id, error);
}

qb_status qb_graph_add_constant(qb_graph *graph, const char *name, const qb_view *view, qb_value_id *id,
                                qb_error *error) {
  QB_TRY(add_value(graph, name, &view->shape, id, error));
  graph->values[*id].is_constant = true;
  graph->values[*id].constant = *view;
  return QB_OK;
}

qb_status qb_graph_new_constant(qb_graph *graph, const char *name, const qb_shape *shape, qb_value_id *id, float **data,
                                qb_error *error) {
  QB_TRY(add_value(graph, name, shape, id, error));
  size_t count = qb_shape_elements(shape);
  *data = qb_arena_alloc(&graph->arena, count, sizeof **data);
  if (*data == NULL)
    return qb_fail_memory(error, name, count * sizeof **data);
  graph->values[*id].is_constant = true;
  graph->values[*id].constant = (qb_view){.dtype = QB_DTYPE_F32, .shape = *shape, .data = *data};
  return QB_OK;
}

static qb_status copy_inputs(qb_graph *graph, qb_node *node, const qb_value_id *inputs, int32_t count,
                             qb_error *error) {
  while (count > 0 && inputs[count - 1] == QB_NONE)
    count--;
  if (count > QB_MAX_INPUTS)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: node '%s' has %d inputs; at most %d are supported", graph->name,
                   node->name, count, QB_MAX_INPUTS);
  qb_value_id *copy = qb_arena_alloc(&graph->arena, (size_t)count, sizeof *copy);
  if (copy == NULL)
    return qb_fail_memory(error, node->name, (size_t)count * sizeof *copy);
  if (count > 0)
    memcpy(copy, inputs, (size_t)count * sizeof *copy);
  node->inputs = copy;
  node->input_count = count;
  return QB_OK;
}

qb_status qb_graph_add_node(qb_graph *graph, qb_op op, const char *name, const qb_value_id *inputs, int32_t input_count,
                            const qb_attributes *attributes, const char *output_name, const qb_shape *output_shape,
                            qb_node_id *id, qb_error *error) {
  qb_shape shape;
  const char *label = name != NULL && name[0] != '\0' ? name : output_name;
  qb_node node = {.op = op, .attributes = *attributes, .origin = QB_NONE};
  node.name = qb_arena_string(&graph->arena, label, strlen(label));
  if (node.name == NULL)
    return qb_fail_memory(error, label, strlen(label));
  QB_TRY(copy_inputs(graph, &node, inputs, input_count, error));
  QB_TRY(qb_shape_infer(graph, &node, output_shape, &shape, error));
  QB_TRY(reserve((void **)&graph->nodes, &graph->node_capacity, graph->node_count + 1, sizeof *graph->nodes, error));
  QB_TRY(add_value(graph, output_name, &shape, &node.output, error));
  *id = graph->node_count++;
  graph->nodes[*id] = node;
  graph->values[node.output].producer = *id;
  return QB_OK;
}

qb_status qb_graph_clone(const qb_graph *source, qb_graph *clone, qb_error *error) {
  QB_TRY(qb_graph_init(clone, source->name, error));
  QB_TRY(reserve((void **)&clone->values, &clone->value_capacity, source->value_count, sizeof *clone->values, error));
  QB_TRY(reserve((void **)&clone->nodes, &clone->node_capacity, source->node_count, sizeof *clone->nodes, error));
  if (source->value_count > 0)
    memcpy(clone->values, source->values, (size_t)source->value_count * sizeof *clone->values);
  if (source->node_count > 0)
    memcpy(clone->nodes, source->nodes, (size_t)source->node_count * sizeof *clone->nodes);
  clone->value_count = source->value_count;
  clone->node_count = source->node_count;
  for (int32_t i = 0; i < source->input_count; i++)
    QB_TRY(append_id(&clone->inputs, &clone->input_count, source->inputs[i], error));
  for (int32_t i = 0; i < source->output_count; i++)
    QB_TRY(append_id(&clone->outputs, &clone->output_count, source->outputs[i], error));
  clone->index_capacity = source->index_capacity;
  if (source->index != NULL) {
    clone->index = qb_alloc((size_t)source->index_capacity, sizeof *clone->index);
    if (clone->index == NULL)
      return qb_fail_memory(error, "graph index", (size_t)source->index_capacity * sizeof *clone->index);
    memcpy(clone->index, source->index, (size_t)source->index_capacity * sizeof *clone->index);
  }
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- editing */

qb_value_id qb_graph_find(const qb_graph *graph, const char *name) {
  return graph->index == NULL ? QB_NONE : *index_slot(graph, name);
}

const float *qb_graph_constant(const qb_graph *graph, qb_value_id id) {
  return id == QB_NONE ? NULL : qb_view_f32(&graph->values[id].constant);
}

float *qb_graph_replace_constant(qb_graph *graph, qb_value_id id) {
  qb_value *value = &graph->values[id];
  assert(value->is_constant);
  float *data = qb_arena_alloc(&graph->arena, qb_shape_elements(&value->shape), sizeof *data);
  if (data != NULL) {
    value->constant = (qb_view){.dtype = QB_DTYPE_F32, .shape = value->shape, .data = data};
    value->codes = NULL;
  }
  return data;
}

qb_status qb_graph_set_input(qb_graph *graph, qb_node_id node, int32_t slot, qb_value_id value, qb_error *error) {
  qb_node *edited = &graph->nodes[node];
  qb_value_id inputs[QB_MAX_INPUTS + 1];
  int32_t count = edited->input_count;
  assert(slot >= 0 && slot < QB_MAX_INPUTS);
  for (int32_t i = 0; i < count; i++)
    inputs[i] = edited->inputs[i];
  for (; count <= slot; count++)
    inputs[count] = QB_NONE;
  inputs[slot] = value;
  return copy_inputs(graph, edited, inputs, count, error);
}

int32_t qb_graph_use_count(const qb_graph *graph, qb_value_id id) {
  int32_t uses = 0;
  for (int32_t n = 0; n < graph->node_count; n++)
    for (int32_t i = 0; i < graph->nodes[n].input_count; i++)
      uses += graph->nodes[n].inputs[i] == id;
  for (int32_t i = 0; i < graph->output_count; i++)
    uses += graph->outputs[i] == id;
  return uses;
}

static void delete_node(qb_graph *graph, qb_node_id node) {
  memmove(&graph->nodes[node], &graph->nodes[node + 1], (size_t)(graph->node_count - node - 1) * sizeof(qb_node));
  graph->node_count--;
  for (int32_t n = node; n < graph->node_count; n++)
    graph->values[graph->nodes[n].output].producer = n;
}

void qb_graph_remove_node(qb_graph *graph, qb_node_id node) {
  qb_node removed = graph->nodes[node];
  qb_value *input = &graph->values[removed.inputs[0]];
  assert(input->producer != QB_NONE && qb_graph_use_count(graph, removed.inputs[0]) == 1);

  qb_node_id producer = input->producer;
  graph->nodes[producer].output = removed.output;
  graph->values[removed.output].producer = producer;
  input->producer = QB_NONE; /* the value stays in the table, unused */
  delete_node(graph, node);
}

void qb_graph_remove_unused_node(qb_graph *graph, qb_node_id node) {
  qb_value_id output = graph->nodes[node].output;
  assert(qb_graph_use_count(graph, output) == 0);
  graph->values[output].producer = QB_NONE; /* the value stays in the table, unused */
  delete_node(graph, node);
}

/* ----------------------------------------------------------------------------------------------------- validating */

/* True when the value is a network input, a constant or the output of a node before `id`. */
static bool is_available(const qb_graph *graph, qb_value_id value, qb_node_id id) {
  if (value < 0 || value >= graph->value_count)
    return false;
  if (graph->values[value].is_constant || graph->values[value].producer != QB_NONE)
    return graph->values[value].producer < id;
  for (int32_t i = 0; i < graph->input_count; i++)
    if (graph->inputs[i] == value)
      return true;
  return false;
}

static qb_status validate_node(const qb_graph *graph, qb_node_id id, qb_error *error) {
  const qb_node *node = &graph->nodes[id];
  qb_shape shape;
  for (int32_t i = 0; i < node->input_count; i++) {
    qb_value_id input = node->inputs[i];
    if (input == QB_NONE)
      continue;
    if (!is_available(graph, input, id))
      return qb_fail(error, QB_ERROR_FORMAT, "%s: node '%s' uses a value before it is computed", graph->name,
                     node->name);
  }
  const qb_value *output = &graph->values[node->output];
  if (output->producer != id)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: node '%s' is not the producer of its output", graph->name, node->name);
  QB_TRY(qb_shape_infer(graph, node, &output->shape, &shape, error));
  if (!qb_shape_equal(&shape, &output->shape))
    return qb_fail(error, QB_ERROR_SHAPE, "%s: node '%s' no longer gives the shape of its output", graph->name,
                   node->name);
  return QB_OK;
}

qb_status qb_graph_validate(const qb_graph *graph, qb_error *error) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    QB_TRY(validate_node(graph, n, error));
  for (qb_value_id v = 0; v < graph->value_count; v++) {
    const qb_value *value = &graph->values[v];
    if (value->is_constant)
      QB_TRY(qb_view_check_finite(&value->constant, value->name, error));
  }
  if (graph->input_count == 0 || graph->output_count == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: the network has no input or no output", graph->name);
  for (int32_t i = 0; i < graph->output_count; i++)
    if (!is_available(graph, graph->outputs[i], graph->node_count))
      return qb_fail(error, QB_ERROR_FORMAT, "%s: output %d is computed by no node", graph->name, i);
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------- linear layers */

bool qb_graph_linear(const qb_graph *graph, qb_node_id id, qb_linear *linear) {
  const qb_node *node = &graph->nodes[id];
  if (node->op != QB_OP_CONV && node->op != QB_OP_CONV_TRANSPOSE && node->op != QB_OP_GEMM && node->op != QB_OP_MATMUL)
    return false;
  const qb_value *weight = &graph->values[node->inputs[1]];
  if (!weight->is_constant)
    return false;
  const qb_shape *w = &weight->shape;
  *linear = (qb_linear){.node = id,
                        .weight = node->inputs[1],
                        .bias = node->input_count > 2 ? node->inputs[2] : QB_NONE,
                        .out_channels = w->dims[0],
                        .in_channels = w->dims[1],
                        .group = 1,
                        .kernel_area = 1,
                        .row_length = w->dims[1]};
  if (node->op == QB_OP_CONV || node->op == QB_OP_CONV_TRANSPOSE) {
    linear->group = node->attributes.conv.group;
    linear->kernel_area = w->dims[2] * w->dims[3];
    linear->in_channels = w->dims[1] * linear->group;
    linear->row_length = w->dims[1] * linear->kernel_area;
  }
  if (node->op == QB_OP_CONV_TRANSPOSE) {
    linear->in_channels = w->dims[0];
    linear->out_channels = w->dims[1] * linear->group;
    linear->row_length = w->dims[0] / linear->group * linear->kernel_area;
    linear->channel_axis = 1;
  }
  return true;
}

int64_t qb_graph_node_macs(const qb_graph *graph, qb_node_id id) {
  qb_linear linear;
  if (!qb_graph_linear(graph, id, &linear))
    return 0;
  const qb_shape *x = &graph->values[graph->nodes[id].inputs[0]].shape;
  const qb_shape *y = &graph->values[graph->nodes[id].output].shape;
  if (graph->nodes[id].op == QB_OP_CONV_TRANSPOSE) /* every input pixel meets its OC/G x KH x KW weights */
    return (int64_t)qb_shape_elements(x) * (linear.out_channels / linear.group) * linear.kernel_area;
  return (int64_t)qb_shape_elements(y) * linear.row_length;
}
