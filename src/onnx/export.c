/* qb_onnx_write_graph: what changed, what is copied, what is made; see export.h. */
#include "onnx/export.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "onnx/pack.h"

/* -------------------------------------------------------------------------------------------------- what changed */

static bool same_bytes(const void *a, const void *b, size_t size) { return a == b || memcmp(a, b, size) == 0; }

static bool same_view(const qb_view *a, const qb_view *b) {
  size_t size;
  return a->dtype == b->dtype && qb_shape_equal(&a->shape, &b->shape) &&
         qb_dtype_size(a->dtype, qb_view_elements(a), &size) && same_bytes(a->data, b->data, size);
}

static bool same_codes(const qb_codes *a, const qb_codes *b) {
  if (a == b)
    return true;
  if (a == NULL || b == NULL || a->bits != b->bits || a->is_signed != b->is_signed || a->axis != b->axis ||
      a->scale_count != b->scale_count || (a->zero_point == NULL) != (b->zero_point == NULL))
    return false;
  size_t count = (size_t)a->scale_count;
  return same_bytes(a->scale, b->scale, count * sizeof *a->scale) &&
         (a->zero_point == NULL || same_bytes(a->zero_point, b->zero_point, count * sizeof *a->zero_point)) &&
         same_view(&a->codes, &b->codes);
}

/* True when the constant of the edited graph is the fresh graph's. */
static bool same_constant(const qb_export *x, qb_value_id id) {
  if (id >= x->before.value_count)
    return false;
  const qb_value *a = &x->before.values[id], *b = &x->graph->values[id];
  return a->is_constant && strcmp(a->name, b->name) == 0 && a->transposed == b->transposed &&
         same_view(&a->constant, &b->constant) && same_codes(a->codes, b->codes);
}

static bool same_window(const qb_window *a, const qb_window *b) { return memcmp(a, b, sizeof *a) == 0; }

static bool same_attributes(const qb_node *a, const qb_node *b, const qb_shape *shape) {
  const qb_attributes *p = &a->attributes, *q = &b->attributes;
  switch (a->op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE: return same_window(&p->conv.window, &q->conv.window) && p->conv.group == q->conv.group;
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL:
    return same_window(&p->pool.window, &q->pool.window) && p->pool.count_include_pad == q->pool.count_include_pad;
  case QB_OP_BATCH_NORM: return p->batch_norm.epsilon == q->batch_norm.epsilon;
  case QB_OP_LEAKY_RELU: return p->linear.alpha == q->linear.alpha;
  case QB_OP_HARD_SIGMOID: return p->linear.alpha == q->linear.alpha && p->linear.beta == q->linear.beta;
  case QB_OP_SOFTMAX: return p->axes.axis == q->axes.axis && p->axes.end_axis == q->axes.end_axis;
  case QB_OP_CONCAT: return p->axes.axis == q->axes.axis;
  case QB_OP_QUANTIZE_LINEAR:
  case QB_OP_DEQUANTIZE_LINEAR:
    return p->quantize.axis == q->quantize.axis && p->quantize.lo == q->quantize.lo &&
           p->quantize.hi == q->quantize.hi && p->quantize.rounding == q->quantize.rounding &&
           p->quantize.factor == q->quantize.factor;
  case QB_OP_TRANSPOSE:
    return memcmp(p->transpose.permutation, q->transpose.permutation, sizeof p->transpose.permutation) == 0;
  case QB_OP_PAD:
    return memcmp(p->pad.begin, q->pad.begin, sizeof p->pad.begin) == 0 &&
           memcmp(p->pad.end, q->pad.end, sizeof p->pad.end) == 0 && p->pad.value == q->pad.value;
  case QB_OP_CLIP: {
    const float *m = p->clip.hi_channels, *n = q->clip.hi_channels;
    if (p->clip.lo != q->clip.lo || (m == NULL) != (n == NULL) || (m == NULL && p->clip.hi != q->clip.hi))
      return false;
    return m == NULL || same_bytes(m, n, (size_t)shape->dims[1] * sizeof *m);
  }
  default: return true;
  }
}

/* True when the constant is stored in the file exactly as the graph has it, under its own name. */
static bool is_original(const qb_export *x, qb_value_id id) {
  const qb_value *value = &x->graph->values[id];
  qb_shape shape;
  size_t count;
  if (x->changed[id] || x->stored_transposed[id] || value->source == NULL || strcmp(value->source, value->name) != 0)
    return false;
  int32_t name = qb_names_find(&x->names, value->name);
  const Onnx__TensorProto *tensor = name < 0 ? NULL : x->symbols[name].initializer;
  return tensor != NULL && tensor->data_type == QB_DTYPE_F32 && qb_tensor_proto_shape(tensor, &shape, &count) &&
         qb_shape_equal(&shape, &value->shape);
}

/* ---------------------------------------------------------------------------------------------------------- set-up */

static qb_status out_of_memory(const qb_export *x) {
  return qb_fail(x->error, QB_ERROR_MEMORY, "%s: not enough memory to write the network", x->document->path);
}

static qb_status intern(qb_export *x, const char *name) {
  return name != NULL && qb_names_intern(&x->names, name) < 0 ? out_of_memory(x) : QB_OK;
}

static qb_status intern_document(qb_export *x) {
  const Onnx__GraphProto *g = x->proto;
  for (size_t i = 0; i < g->n_initializer; i++)
    QB_TRY(intern(x, g->initializer[i]->name));
  for (size_t i = 0; i < g->n_input; i++)
    QB_TRY(intern(x, g->input[i]->name));
  for (size_t i = 0; i < g->n_node; i++) {
    for (size_t k = 0; k < g->node[i]->n_input; k++)
      QB_TRY(intern(x, g->node[i]->input[k]));
    for (size_t k = 0; k < g->node[i]->n_output; k++)
      QB_TRY(intern(x, g->node[i]->output[k]));
  }
  x->symbols = qb_export_alloc(x, (size_t)x->names.count, sizeof *x->symbols);
  x->groups = qb_export_alloc(x, g->n_node, sizeof *x->groups);
  if (x->out_of_memory)
    return out_of_memory(x);
  for (int32_t i = 0; i < x->names.count; i++)
    x->symbols[i].producer = QB_NONE;
  for (size_t i = 0; i < g->n_initializer; i++)
    x->symbols[qb_names_find(&x->names, g->initializer[i]->name)].initializer = g->initializer[i];
  for (size_t i = 0; i < g->n_node; i++)
    for (size_t k = 0; k < g->node[i]->n_output; k++)
      x->symbols[qb_names_find(&x->names, g->node[i]->output[k])].producer = (int32_t)i;
  return QB_OK;
}

static void group_nodes(qb_export *x) {
  for (int32_t n = 0; n < x->before.node_count; n++) {
    qb_export_group *group = &x->groups[x->before.nodes[n].origin];
    if (group->count_before++ == 0)
      group->first_before = n;
  }
  for (int32_t n = 0; n < x->graph->node_count; n++) {
    if (x->graph->nodes[n].origin == QB_NONE)
      continue;
    qb_export_group *group = &x->groups[x->graph->nodes[n].origin];
    if (group->count_after == 0)
      group->first_after = n;
    group->contiguous = group->first_after + group->count_after++ == n;
  }
}

/* How matrices lie in the file. A MatMul reads (IN, OUT). Integer weights are stored as (OUT, IN) and read by a Gemm
 * with transB wherever the input has two axes: ONNX Runtime turns a matrix product with dequantized (IN, OUT) weights
 * into a kernel that also quantizes the activations. */
static void choose_layouts(qb_export *x) {
  for (qb_value_id v = 0; v < x->graph->value_count; v++)
    x->stored_transposed[v] = x->graph->values[v].transposed && !(x->changed[v] && x->graph->values[v].codes != NULL);
  for (qb_node_id n = 0; n < x->graph->node_count; n++) {
    const qb_node *node = &x->graph->nodes[n];
    if ((node->op != QB_OP_MATMUL && node->op != QB_OP_GEMM) || !x->graph->values[node->inputs[1]].is_constant)
      continue;
    bool is_matrix = x->graph->values[node->inputs[0]].shape.rank == 2;
    bool integers = x->changed[node->inputs[1]] && x->graph->values[node->inputs[1]].codes != NULL;
    if (!is_matrix || (node->op == QB_OP_MATMUL && !integers))
      x->stored_transposed[node->inputs[1]] = true;
  }
}

static qb_status find_changes(qb_export *x) {
  size_t count = (size_t)x->graph->value_count;
  x->changed = qb_export_alloc(x, count, sizeof *x->changed);
  x->stored_transposed = qb_export_alloc(x, count, sizeof *x->stored_transposed);
  x->made = qb_export_alloc(x, count, sizeof *x->made);
  x->written = qb_export_alloc(x, count, sizeof *x->written);
  if (x->out_of_memory)
    return out_of_memory(x);
  for (qb_value_id v = 0; v < x->graph->value_count; v++) {
    const qb_value *value = &x->graph->values[v];
    x->changed[v] = value->is_constant && !same_constant(x, v);
  }
  choose_layouts(x);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- decisions
 */

/* A live activation of the edited graph: a network input or something a node makes. */
static bool is_live_activation(const qb_export *x, const char *name) {
  qb_value_id id = qb_graph_find(x->graph, name);
  if (id == QB_NONE || x->graph->values[id].is_constant)
    return false;
  if (x->graph->values[id].producer != QB_NONE)
    return true;
  for (int32_t i = 0; i < x->graph->input_count; i++)
    if (x->graph->inputs[i] == id)
      return true;
  return false;
}

/* Can a copied node refer to this name and find there what the document has? Initializers, live activations, and what
 * nodes outside the graph (Constant, shape arithmetic) make from such. */
static bool is_available(qb_export *x, const char *name, int depth) {
  enum { DEEPEST = 256 };
  int32_t id = qb_names_find(&x->names, name);
  if (name[0] == '\0' || is_live_activation(x, name))
    return true;
  if (id < 0 || depth > DEEPEST)
    return false;
  qb_export_symbol *symbol = &x->symbols[id];
  if (symbol->available == QB_YES || symbol->available == QB_NO)
    return symbol->available == QB_YES;
  if (symbol->available == QB_PENDING)
    return false;
  symbol->available = QB_PENDING;
  bool yes = symbol->initializer != NULL;
  if (!yes && symbol->producer != QB_NONE && x->groups[symbol->producer].count_after == 0) {
    const Onnx__NodeProto *node = x->proto->node[symbol->producer];
    yes = qb_export_same_version(node, x->document->opset, x->opset);
    for (size_t k = 0; yes && k < node->n_input; k++)
      yes = is_available(x, node->input[k], depth + 1);
  }
  symbol->available = yes ? QB_YES : QB_NO;
  return yes;
}

/* Records that the written file needs an available name. */
static void retain(qb_export *x, const char *name) {
  int32_t id = qb_names_find(&x->names, name);
  if (name[0] == '\0' || is_live_activation(x, name) || id < 0)
    return;
  qb_export_symbol *symbol = &x->symbols[id];
  symbol->retained = true;
  if (symbol->initializer == NULL && symbol->producer != QB_NONE)
    x->groups[symbol->producer].wanted = true;
}

/* Operators whose inputs lie in the same slots in the graph and in ONNX. */
static bool has_slots(const Onnx__NodeProto *proto, qb_op op) {
  switch (op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
  case QB_OP_GEMM:
  case QB_OP_MATMUL:
  case QB_OP_BATCH_NORM:
  case QB_OP_PRELU:
  case QB_OP_ADD:
  case QB_OP_SUB:
  case QB_OP_MUL:
  case QB_OP_DIV:
  case QB_OP_CONCAT:
  case QB_OP_QUANTIZE_LINEAR:
  case QB_OP_DEQUANTIZE_LINEAR: return strcmp(proto->op_type, qb_op_name(op)) == 0;
  default: return false;
  }
}

static qb_value_id input_of(const qb_node *node, int32_t slot) {
  return slot < node->input_count ? node->inputs[slot] : QB_NONE;
}

/* True when both nodes read the same, unchanged thing there. */
static bool same_input(const qb_export *x, const qb_node *before, const qb_node *after, int32_t slot) {
  qb_value_id a = input_of(before, slot), b = input_of(after, slot);
  if (a != b || a == QB_NONE)
    return a == b;
  return strcmp(x->before.values[a].name, x->graph->values[b].name) == 0 &&
         !(x->graph->values[b].is_constant && x->changed[b]);
}

static bool same_node(const qb_export *x, const qb_node *before, const qb_node *after) {
  return before->op == after->op &&
         qb_shape_equal(&x->before.values[before->output].shape, &x->graph->values[after->output].shape) &&
         same_attributes(before, after, &x->graph->values[after->output].shape);
}

static bool is_one(const Onnx__NodeProto *proto, const char *attribute) {
  for (size_t i = 0; i < proto->n_attribute; i++)
    if (strcmp(proto->attribute[i]->name, attribute) == 0)
      return proto->attribute[i]->f == 1.0f;
  return true;
}

/* The ONNX input that the graph node's slot stands for, or -1. */
static int32_t onnx_slot(const qb_export *x, const Onnx__NodeProto *proto, const qb_node *before, int32_t slot) {
  if (has_slots(proto, before->op))
    return slot;
  for (size_t k = 0; slot == 0 && k < proto->n_input; k++)
    if (strcmp(proto->input[k], x->before.values[before->inputs[0]].name) == 0)
      return (int32_t)k;
  return -1;
}

/* A bias may be added to the ONNX node; not where beta would scale it. */
static bool may_gain_bias(const Onnx__NodeProto *proto, const qb_node *node, int32_t slot) {
  return slot == 2 && (node->op == QB_OP_CONV || node->op == QB_OP_CONV_TRANSPOSE ||
                       (node->op == QB_OP_GEMM && is_one(proto, "beta")));
}

/* True when the value holds the codes of a quantizer, perhaps copied. */
static bool holds_codes(const qb_graph *graph, qb_value_id value) {
  qb_node_id n = graph->values[value].producer;
  while (n != QB_NONE && graph->nodes[n].op == QB_OP_IDENTITY)
    n = graph->values[graph->nodes[n].inputs[0]].producer;
  return n != QB_NONE && graph->nodes[n].op == QB_OP_QUANTIZE_LINEAR;
}

/* Quantizers and layers that were read from arithmetic on codes, and the Cast between such: their ONNX node is only one
 * of several. */
static bool stands_for_others(const qb_export *x, const Onnx__NodeProto *proto, const qb_node *node) {
  qb_op op = node->op;
  if (op == QB_OP_IDENTITY)
    return strcmp(proto->op_type, "Identity") != 0 && holds_codes(&x->before, node->inputs[0]);
  bool whole = op == QB_OP_QUANTIZE_LINEAR || op == QB_OP_DEQUANTIZE_LINEAR || op == QB_OP_CONV || op == QB_OP_GEMM ||
               op == QB_OP_MATMUL;
  return whole && strcmp(proto->op_type, qb_op_name(op)) != 0;
}

/* May the ONNX node be written as it is, with the inputs of `after` where they differ? */
static bool may_copy_single(qb_export *x, const Onnx__NodeProto *proto, const qb_node *before, const qb_node *after) {
  bool replaced[QB_MAX_INPUTS + 4] = {false};
  if (!same_node(x, before, after) || proto->n_input > QB_MAX_INPUTS || stands_for_others(x, proto, before))
    return false;
  int32_t slots = before->input_count > after->input_count ? before->input_count : after->input_count;
  for (int32_t slot = 0; slot < slots; slot++) {
    qb_value_id a = input_of(before, slot), b = input_of(after, slot);
    if (same_input(x, before, after, slot))
      continue;
    int32_t k = onnx_slot(x, proto, before, slot);
    bool quantizer = before->op == QB_OP_QUANTIZE_LINEAR || before->op == QB_OP_DEQUANTIZE_LINEAR;
    if (k < 0 || b == QB_NONE || (quantizer && slot > 0) || (a == QB_NONE && !may_gain_bias(proto, before, slot)))
      return false;
    if (slot == 1 && (before->op == QB_OP_GEMM || before->op == QB_OP_MATMUL) &&
        (a == QB_NONE || x->before.values[a].transposed != x->stored_transposed[b]))
      return false;
    replaced[k] = true;
  }
  for (size_t k = 0; k < proto->n_input; k++)
    if (!replaced[k] && !is_available(x, proto->input[k], 0))
      return false;
  return true;
}

static bool may_copy(qb_export *x, int32_t origin) {
  const qb_export_group *group = &x->groups[origin];
  const Onnx__NodeProto *proto = x->proto->node[origin];
  if (group->count_after == 0 || group->count_after != group->count_before || !group->contiguous ||
      !qb_export_same_version(proto, x->document->opset, x->opset))
    return false;
  if (group->count_after == 1)
    return may_copy_single(x, proto, &x->before.nodes[group->first_before], &x->graph->nodes[group->first_after]);
  for (int32_t i = 0; i < group->count_after; i++) {
    const qb_node *before = &x->before.nodes[group->first_before + i],
                  *after = &x->graph->nodes[group->first_after + i];
    if (!same_node(x, before, after) || before->input_count != after->input_count)
      return false;
    for (int32_t slot = 0; slot < after->input_count; slot++)
      if (!same_input(x, before, after, slot))
        return false;
  }
  for (size_t k = 0; k < proto->n_input; k++)
    if (!is_available(x, proto->input[k], 0))
      return false;
  return true;
}

/* A constant that a made node, or a replaced input, refers to. */
static void plan_constant(qb_export *x, qb_value_id id) {
  if (id == QB_NONE || !x->graph->values[id].is_constant || x->made[id] || x->written[id] != NULL)
    return;
  if (is_original(x, id)) {
    x->written[id] = x->graph->values[id].name;
    retain(x, x->written[id]);
  } else {
    x->made[id] = true;
  }
}

/* The zero point of a made quantizer is written by its own rule. */
static bool is_own_zero_point(const qb_node *node, int32_t slot) {
  return slot == 2 && (node->op == QB_OP_QUANTIZE_LINEAR || node->op == QB_OP_DEQUANTIZE_LINEAR);
}

static void plan_copy(qb_export *x, const Onnx__NodeProto *proto, const qb_node *before, const qb_node *after) {
  bool replaced[QB_MAX_INPUTS + 4] = {false};
  for (int32_t slot = 0; slot < after->input_count; slot++) {
    if (same_input(x, before, after, slot))
      continue;
    replaced[onnx_slot(x, proto, before, slot)] = true;
    plan_constant(x, after->inputs[slot]);
  }
  for (size_t k = 0; k < proto->n_input; k++)
    if (!replaced[k])
      retain(x, proto->input[k]);
}

static void plan(qb_export *x) {
  for (size_t o = 0; o < x->proto->n_node; o++) {
    qb_export_group *group = &x->groups[o];
    group->copied = may_copy(x, (int32_t)o);
    if (group->copied && group->count_after == 1)
      plan_copy(x, x->proto->node[o], &x->before.nodes[group->first_before], &x->graph->nodes[group->first_after]);
    else if (group->copied)
      for (size_t k = 0; k < x->proto->node[o]->n_input; k++)
        retain(x, x->proto->node[o]->input[k]);
  }
  for (size_t o = x->proto->n_node; o-- > 0;) /* what wanted nodes need in turn: nodes are in topological order */
    for (size_t k = 0; x->groups[o].wanted && k < x->proto->node[o]->n_input; k++)
      retain(x, x->proto->node[o]->input[k]);
  for (qb_node_id n = 0; n < x->graph->node_count; n++) {
    const qb_node *node = &x->graph->nodes[n];
    if (node->origin != QB_NONE && x->groups[node->origin].copied)
      continue;
    for (int32_t slot = 0; slot < node->input_count; slot++)
      if (!is_own_zero_point(node, slot))
        plan_constant(x, node->inputs[slot]);
  }
}

/* ---------------------------------------------------------------------------------------------------------- writing */

static void take(qb_export *x, const char *name) {
  if (name != NULL && qb_names_intern(&x->taken, name) < 0)
    x->out_of_memory = true;
}

/* Names that exist in the written file whatever constants are called. */
static void take_names(qb_export *x) {
  for (size_t i = 0; i < x->proto->n_node; i++)
    for (size_t k = 0; k < x->proto->node[i]->n_output; k++)
      take(x, x->proto->node[i]->output[k]);
  for (size_t i = 0; i < x->proto->n_input; i++)
    take(x, x->proto->input[i]->name);
  for (qb_value_id v = 0; v < x->graph->value_count; v++)
    if (!x->graph->values[v].is_constant)
      take(x, x->graph->values[v].name);
  for (int32_t i = 0; i < x->names.count; i++)
    if (x->symbols[i].retained)
      take(x, x->names.text[i]);
}

/* A changed constant keeps its name unless the document's content is still needed under it. */
static const char *constant_name(qb_export *x, qb_value_id id) {
  const char *name = x->graph->values[id].name;
  int32_t symbol = qb_names_find(&x->names, name);
  bool own = id < x->before.value_count && symbol >= 0 && !x->symbols[symbol].retained;
  if (!own && qb_names_find(&x->taken, name) >= 0)
    return qb_export_name(x, name, "changed");
  take(x, name);
  return name;
}

static qb_status make_constants(qb_export *x) {
  for (qb_value_id v = 0; v < x->graph->value_count; v++)
    if (x->made[v])
      x->written[v] = constant_name(x, v);
  for (qb_value_id v = 0; v < x->graph->value_count; v++)
    if (x->made[v] && x->written[v] != NULL)
      QB_TRY(qb_export_make_constant(x, v, x->written[v]));
  return QB_OK;
}

static const char *reference(const qb_export *x, qb_value_id id) {
  return x->written[id] != NULL ? x->written[id] : x->graph->values[id].name;
}

/* The document's node with its changed inputs and its output. */
static void copy_node(qb_export *x, int32_t origin) {
  const Onnx__NodeProto *proto = x->proto->node[origin];
  const qb_export_group *group = &x->groups[origin];
  const qb_node *last = &x->graph->nodes[group->first_after + group->count_after - 1];
  Onnx__NodeProto *copy = qb_export_alloc(x, 1, sizeof *copy);
  char **inputs = qb_export_alloc(x, QB_MAX_INPUTS + proto->n_input, sizeof *inputs);
  char **outputs = qb_export_alloc(x, proto->n_output, sizeof *outputs);
  if (copy == NULL || inputs == NULL || outputs == NULL)
    return;
  *copy = *proto;
  memcpy(inputs, proto->input, proto->n_input * sizeof *inputs);
  memcpy(outputs, proto->output, proto->n_output * sizeof *outputs);
  outputs[0] = (char *)x->graph->values[last->output].name;
  copy->input = inputs;
  copy->output = outputs;
  if (group->count_after == 1) {
    const qb_node *before = &x->before.nodes[group->first_before];
    for (int32_t slot = 0; slot < last->input_count; slot++) {
      if (same_input(x, before, last, slot))
        continue;
      size_t k = (size_t)onnx_slot(x, proto, before, slot);
      for (; copy->n_input <= k; copy->n_input++)
        inputs[copy->n_input] = (char *)"";
      inputs[k] = (char *)reference(x, last->inputs[slot]);
    }
  }
  qb_export_push_node(x, copy);
}

static qb_status make_nodes(qb_export *x) {
  for (size_t o = 0; o < x->proto->n_node; o++)
    if (x->groups[o].wanted)
      qb_export_push_node(x, x->proto->node[o]);
  for (qb_node_id n = 0; n < x->graph->node_count; n++) {
    const qb_node *node = &x->graph->nodes[n];
    bool copied = node->origin != QB_NONE && x->groups[node->origin].copied;
    if (!copied)
      QB_TRY(qb_export_make_node(x, node));
    else if (n == x->groups[node->origin].first_after)
      copy_node(x, node->origin);
  }
  return qb_export_sort(x);
}

/* ------------------------------------------------------------------------------------------------------- the message
 */

/* What the written file defines: number of a name in `taken` -> defined. */
static bool *defined_names(qb_export *x, const Onnx__GraphProto *g) {
  for (size_t i = 0; i < g->n_initializer; i++)
    take(x, g->initializer[i]->name);
  for (size_t i = 0; i < g->n_node; i++)
    for (size_t k = 0; k < g->node[i]->n_output; k++)
      take(x, g->node[i]->output[k]);
  bool *defined = qb_export_alloc(x, (size_t)x->taken.count, sizeof *defined);
  if (defined == NULL)
    return NULL;
  for (size_t i = 0; i < g->n_initializer; i++)
    defined[qb_names_find(&x->taken, g->initializer[i]->name)] = true;
  for (size_t i = 0; i < g->n_node; i++)
    for (size_t k = 0; k < g->node[i]->n_output; k++)
      defined[qb_names_find(&x->taken, g->node[i]->output[k])] = true;
  return defined;
}

static bool is_defined(const qb_export *x, const bool *defined, const char *name) {
  int32_t id = name == NULL ? -1 : qb_names_find(&x->taken, name);
  return id >= 0 && defined[id];
}

/* Initializers in the document's order, changed ones in the place of the old, new ones behind. */
static void list_initializers(qb_export *x, Onnx__GraphProto *g) {
  const Onnx__GraphProto *old = x->proto;
  g->initializer = qb_export_alloc(x, old->n_initializer + x->tensor_count, sizeof *g->initializer);
  g->n_initializer = 0;
  if (g->initializer == NULL)
    return;
  for (size_t i = 0; i < x->tensor_count; i++) {
    int32_t id = qb_names_find(&x->names, x->tensors[i]->name);
    if (id >= 0 && x->symbols[id].initializer != NULL)
      x->symbols[id].written = x->tensors[i];
  }
  for (size_t i = 0; i < old->n_initializer; i++) {
    const qb_export_symbol *symbol = &x->symbols[qb_names_find(&x->names, old->initializer[i]->name)];
    if (symbol->written != NULL)
      g->initializer[g->n_initializer++] = symbol->written;
    else if (symbol->retained)
      g->initializer[g->n_initializer++] = old->initializer[i];
  }
  for (size_t i = 0; i < x->tensor_count; i++) {
    int32_t id = qb_names_find(&x->names, x->tensors[i]->name);
    if (id < 0 || x->symbols[id].written != x->tensors[i])
      g->initializer[g->n_initializer++] = x->tensors[i];
  }
}

/* Keeps network inputs; of initializers that files before IR 4 list as inputs, those that are still initializers. */
static void list_inputs(qb_export *x, Onnx__GraphProto *g) {
  const Onnx__GraphProto *old = x->proto;
  g->input = qb_export_alloc(x, old->n_input, sizeof *g->input);
  g->n_input = 0;
  for (size_t i = 0; g->input != NULL && i < old->n_input; i++) {
    const qb_export_symbol *symbol = &x->symbols[qb_names_find(&x->names, old->input[i]->name)];
    if (symbol->initializer == NULL || symbol->retained || symbol->written != NULL)
      g->input[g->n_input++] = old->input[i];
  }
}

static void list_annotations(qb_export *x, Onnx__GraphProto *g, const bool *defined) {
  const Onnx__GraphProto *old = x->proto;
  g->value_info = qb_export_alloc(x, old->n_value_info, sizeof *g->value_info);
  g->quantization_annotation = qb_export_alloc(x, old->n_quantization_annotation, sizeof *g->quantization_annotation);
  g->n_value_info = g->n_quantization_annotation = 0;
  if (x->out_of_memory)
    return;
  for (size_t i = 0; i < old->n_value_info; i++)
    if (is_defined(x, defined, old->value_info[i]->name))
      g->value_info[g->n_value_info++] = old->value_info[i];
  for (size_t i = 0; i < old->n_quantization_annotation; i++)
    if (is_defined(x, defined, old->quantization_annotation[i]->tensor_name))
      g->quantization_annotation[g->n_quantization_annotation++] = old->quantization_annotation[i];
}

static const char bits_prefix[] = "qbound.bits.";

static bool is_replaced(const qb_export *x, const char *key, const bool *defined) {
  if (key == NULL)
    return false;
  for (int32_t i = 0; i < x->settings->metadata_count; i++)
    if (strcmp(key, x->settings->metadata[i].key) == 0)
      return true;
  for (int32_t i = 0; i < x->bits_count; i++)
    if (strcmp(key, x->bits[i].key) == 0)
      return true;
  size_t prefix = sizeof bits_prefix - 1;
  if (strncmp(key, bits_prefix, prefix) != 0)
    return false;
  int32_t id = qb_names_find(&x->names, key + prefix); /* a width noted for a tensor that is gone or rewritten */
  return !is_defined(x, defined, key + prefix) || id < 0 || !x->symbols[id].retained;
}

static void add_metadata(qb_export *x, Onnx__ModelProto *model, const qb_onnx_metadata_entry *entries, int32_t count) {
  for (int32_t i = 0; i < count; i++) {
    Onnx__StringStringEntryProto *entry = qb_export_alloc(x, 1, sizeof *entry);
    if (entry == NULL)
      return;
    onnx__string_string_entry_proto__init(entry);
    entry->key = (char *)entries[i].key;
    entry->value = (char *)entries[i].value;
    model->metadata_props[model->n_metadata_props++] = entry;
  }
}

static void list_metadata(qb_export *x, Onnx__ModelProto *model, const bool *defined) {
  const Onnx__ModelProto *old = x->document->model;
  size_t most = old->n_metadata_props + (size_t)x->settings->metadata_count + (size_t)x->bits_count;
  model->metadata_props = qb_export_alloc(x, most, sizeof *model->metadata_props);
  model->n_metadata_props = 0;
  if (x->out_of_memory)
    return;
  for (size_t i = 0; i < old->n_metadata_props; i++)
    if (!is_replaced(x, old->metadata_props[i]->key, defined))
      model->metadata_props[model->n_metadata_props++] = old->metadata_props[i];
  add_metadata(x, model, x->settings->metadata, x->settings->metadata_count);
  add_metadata(x, model, x->bits, x->bits_count);
}

/* The IR version that came with an operator set; from version 4 on, initializers need not be inputs. */
static int64_t ir_version(int64_t opset) {
  static const unsigned char versions[] = {3, 3, 4, 5, 6, 7, 7, 7, 8, 8, 8, 8, 9, 9, 10, 10, 11, 12, 13};
  return versions[opset - QB_OPSET_MIN];
}

static void set_versions(qb_export *x, Onnx__ModelProto *model) {
  const Onnx__ModelProto *old = x->document->model;
  model->opset_import = qb_export_alloc(x, old->n_opset_import, sizeof *model->opset_import);
  for (size_t i = 0; model->opset_import != NULL && i < old->n_opset_import; i++) {
    Onnx__OperatorSetIdProto *entry = qb_export_alloc(x, 1, sizeof *entry);
    if (entry == NULL)
      return;
    *entry = *old->opset_import[i];
    if (entry->domain == NULL || entry->domain[0] == '\0' || strcmp(entry->domain, "ai.onnx") == 0)
      entry->version = x->opset;
    model->opset_import[i] = entry;
  }
  int64_t version = x->opset != x->document->opset ? ir_version(x->opset) : 0;
  if (x->tensor_count > 0 && version < 4)
    version = 4;
  if (model->ir_version < version) {
    model->has_ir_version = true;
    model->ir_version = version;
  }
}

static qb_status check_outputs(const qb_export *x, const Onnx__GraphProto *g, const bool *defined) {
  for (size_t i = 0; i < g->n_output; i++) {
    const char *name = g->output[i]->name;
    bool is_input = false;
    for (size_t k = 0; k < g->n_input; k++)
      is_input = is_input || strcmp(name, g->input[k]->name) == 0;
    if (!is_input && !is_defined(x, defined, name))
      return qb_fail(x->error, QB_ERROR_FORMAT, "%s: no node of the edited graph makes the output '%s'",
                     x->document->path, name);
  }
  return QB_OK;
}

static qb_status write_model(qb_export *x, FILE *file, const char *path, qb_onnx_write_info *info) {
  Onnx__ModelProto model = *x->document->model;
  Onnx__GraphProto g = *x->proto;
  model.graph = &g;
  g.node = x->nodes;
  g.n_node = x->node_count;
  list_initializers(x, &g);
  list_inputs(x, &g);
  const bool *defined = defined_names(x, &g);
  if (x->out_of_memory || defined == NULL)
    return out_of_memory(x);
  list_annotations(x, &g, defined);
  list_metadata(x, &model, defined);
  set_versions(x, &model);
  if (x->out_of_memory)
    return out_of_memory(x);
  QB_TRY(check_outputs(x, &g, defined));
  info->opset = x->opset;
  return qb_onnx_pack(&model, file, path, &info->size_bytes, x->error);
}

static qb_status run_export(qb_export *x, FILE *file, const char *path, qb_onnx_write_info *info) {
  QB_TRY(qb_onnx_to_graph(x->document, &x->before, x->error));
  QB_TRY(intern_document(x));
  group_nodes(x);
  QB_TRY(find_changes(x));
  QB_TRY(qb_export_choose_opset(x));
  plan(x);
  take_names(x);
  QB_TRY(make_constants(x));
  QB_TRY(make_nodes(x));
  if (x->out_of_memory)
    return out_of_memory(x);
  return write_model(x, file, path, info);
}

qb_status qb_onnx_write_graph(const qb_onnx *document, const qb_graph *graph, const qb_onnx_write_settings *settings,
                              FILE *file, const char *path, qb_onnx_write_info *info, qb_error *error) {
  const qb_onnx_write_settings none = {0};
  qb_onnx_write_info unused;
  qb_export x = {.document = document,
                 .proto = document->model->graph,
                 .graph = graph,
                 .settings = settings == NULL ? &none : settings,
                 .error = error};
  qb_arena_init(&x.arena);
  qb_status status = run_export(&x, file, path, info == NULL ? &unused : info);
  qb_names_free(&x.names);
  qb_names_free(&x.taken);
  qb_graph_free(&x.before);
  qb_arena_free(&x.arena);
  return status;
}
