/* Matching two graphs of one network.
 *
 * Work goes from the outputs backwards over pairs of values that must be equal in meaning. A value stands for its
 * core: what is left after walking back through copies (reshape family) and, in the quantized graph, through
 * QuantizeLinear and DequantizeLinear. Producers of matched cores are matched nodes; their inputs are the next pairs.
 * Since every input of a matched node is followed, every original node that an output depends on gets a partner. */
#include "graph/pair.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

typedef struct value_pair {
  qb_value_id original, quantized;
} value_pair;

typedef struct pair_matcher {
  const qb_graph *original, *quantized;
  qb_pair *pair;
  bool absorb;
  value_pair *pending; /* stack; room for every input of every quantized node and every output */
  size_t pending_count;
  qb_value_id *core;                        /* (quantized->value_count) original core of a quantized core */
  uint64_t *original_hash, *quantized_hash; /* (value_count) structure below a value */
  qb_error *error;
} pair_matcher;

static const char *const families[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = #FAMILY,
#include "graph/op_list.h"
};

static bool is_copy(qb_op op) { return strcmp(families[op], "reshape") == 0; }

static bool is_quantizer(qb_op op) { return op == QB_OP_QUANTIZE_LINEAR || op == QB_OP_DEQUANTIZE_LINEAR; }

static const qb_node *producer(const qb_graph *graph, qb_value_id value) {
  qb_node_id node = graph->values[value].producer;
  return node == QB_NONE ? NULL : &graph->nodes[node];
}

/* --------------------------------------------------------------------------------------------------- messages */

static const char *describe(const qb_graph *graph, qb_value_id value, char text[200]) {
  const qb_node *node = producer(graph, value);
  if (node != NULL)
    snprintf(text, 200, "node '%.120s' (%s)", node->name, qb_op_name(node->op));
  else
    snprintf(text, 200, "%s '%.120s'", graph->values[value].is_constant ? "the constant" : "the input",
             graph->values[value].name);
  return text;
}

QB_PRINTF(4, 5)
static qb_status part(const pair_matcher *matcher, qb_value_id original, qb_value_id quantized, const char *format,
                      ...) {
  char a[200], b[200], why[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof why, format, arguments);
  va_end(arguments);
  return qb_fail(matcher->error, QB_ERROR_FORMAT, "%.150s and %.150s part at %s and %s: %s", matcher->original->name,
                 matcher->quantized->name, describe(matcher->original, original, a),
                 describe(matcher->quantized, quantized, b), why);
}

static qb_status shapes_part(const pair_matcher *matcher, qb_value_id original, qb_value_id quantized, const char *what,
                             const qb_shape *a, const qb_shape *b) {
  char first[QB_SHAPE_TEXT], second[QB_SHAPE_TEXT];
  return part(matcher, original, quantized, "%s %s against %s", what, qb_shape_print(a, first),
              qb_shape_print(b, second));
}

/* ------------------------------------------------------------------------------------------------------ hashes */

static uint64_t mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
  return hash ^ (hash >> 29);
}

static uint64_t node_hash(const qb_graph *graph, const qb_node *node, const uint64_t *hashes) {
  uint64_t hash = 17, sum = 0;
  for (const char *c = families[node->op]; *c != '\0'; c++)
    hash = mix(hash, (unsigned char)*c);
  for (int32_t i = 0; i < graph->values[node->output].shape.rank; i++)
    hash = mix(hash, (uint64_t)graph->values[node->output].shape.dims[i]);
  if (node->op == QB_OP_CONV)
    hash = mix(hash, (uint64_t)node->attributes.conv.window.kernel[0]);
  for (int32_t i = 0; i < node->input_count; i++)
    if (node->inputs[i] != QB_NONE && !graph->values[node->inputs[i]].is_constant)
      sum += mix(hash, hashes[node->inputs[i]]); /* in any order: Add and Mul may be swapped */
  return mix(hash, sum);
}

/* Structure below every value, blind to weights, copies and activation quantizers. */
static void hash_values(const qb_graph *graph, uint64_t *hashes) {
  for (int32_t i = 0; i < graph->input_count; i++)
    hashes[graph->inputs[i]] = mix(1, (uint64_t)i);
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    hashes[node->output] =
        is_copy(node->op) || is_quantizer(node->op) ? hashes[node->inputs[0]] : node_hash(graph, node, hashes);
  }
}

/* True when the inputs of two commutative nodes match crosswise and not straight. */
static bool is_crosswise(const pair_matcher *matcher, const qb_node *original, const qb_node *quantized) {
  if (original->op != QB_OP_ADD && original->op != QB_OP_MUL)
    return false;
  const qb_value_id *o = original->inputs, *q = quantized->inputs;
  bool o_constant = matcher->original->values[o[0]].is_constant;
  bool q_constant = matcher->quantized->values[q[0]].is_constant;
  if (o_constant || q_constant || matcher->original->values[o[1]].is_constant)
    return o_constant != q_constant;
  const uint64_t *a = matcher->original_hash, *b = matcher->quantized_hash;
  return !(a[o[0]] == b[q[0]] && a[o[1]] == b[q[1]]) && a[o[0]] == b[q[1]] && a[o[1]] == b[q[0]];
}

/* --------------------------------------------------------------------------------------------------- attributes */

static bool same_data(const qb_view *a, const qb_view *b) {
  return a->dtype == b->dtype && qb_shape_equal(&a->shape, &b->shape) &&
         memcmp(a->data, b->data, qb_view_elements(a) * sizeof(float)) == 0;
}

static bool same_window(const qb_window *a, const qb_window *b) {
  for (int i = 0; i < 2; i++)
    if (a->kernel[i] != b->kernel[i] || a->stride[i] != b->stride[i] || a->dilation[i] != b->dilation[i] ||
        a->pad_begin[i] != b->pad_begin[i] || a->pad_end[i] != b->pad_end[i])
      return false;
  return true;
}

/* Bit for bit: two spellings of zero count as different, which is harmless. */
static bool same_float(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

static bool same_pad(const qb_attributes *a, const qb_attributes *b, int32_t rank) {
  for (int32_t i = 0; i < rank; i++)
    if (a->pad.begin[i] != b->pad.begin[i] || a->pad.end[i] != b->pad.end[i])
      return false;
  return same_float(a->pad.value, b->pad.value);
}

static bool same_clip(const qb_clip_attributes *a, const qb_clip_attributes *b, const qb_shape *shape) {
  if (!same_float(a->lo, b->lo) || (a->hi_channels == NULL) != (b->hi_channels == NULL))
    return false;
  if (a->hi_channels == NULL)
    return same_float(a->hi, b->hi);
  return memcmp(a->hi_channels, b->hi_channels, (size_t)shape->dims[1] * sizeof *a->hi_channels) == 0;
}

static bool is_global_average(qb_op op) { return op == QB_OP_GLOBAL_AVERAGE_POOL || op == QB_OP_REDUCE_MEAN; }

/* NULL when the attributes of two nodes of one family agree, else what differs. */
static const char *compare_attributes(pair_matcher *matcher, const qb_node *o, const qb_node *q) {
  const qb_attributes *a = &o->attributes, *b = &q->attributes;
  const qb_shape *shape = &matcher->original->values[o->output].shape;
  switch (o->op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
    return same_window(&a->conv.window, &b->conv.window) && a->conv.group == b->conv.group
               ? NULL
               : "kernel, strides, pads, dilations or groups differ";
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL:
    return same_window(&a->pool.window, &b->pool.window) &&
                   (o->op == QB_OP_MAX_POOL || a->pool.count_include_pad == b->pool.count_include_pad)
               ? NULL
               : "kernel, strides, pads or dilations differ";
  case QB_OP_BATCH_NORM: return same_float(a->batch_norm.epsilon, b->batch_norm.epsilon) ? NULL : "epsilon differs";
  case QB_OP_LEAKY_RELU: return same_float(a->linear.alpha, b->linear.alpha) ? NULL : "alpha differs";
  case QB_OP_HARD_SIGMOID:
    return same_float(a->linear.alpha, b->linear.alpha) && same_float(a->linear.beta, b->linear.beta)
               ? NULL
               : "alpha or beta differs";
  case QB_OP_CLIP: matcher->pair->clip_differences += !same_clip(&a->clip, &b->clip, shape); return NULL;
  case QB_OP_SOFTMAX:
    return a->axes.axis == b->axes.axis && a->axes.end_axis == b->axes.end_axis ? NULL : "the axis differs";
  case QB_OP_CONCAT: return a->axes.axis == b->axes.axis ? NULL : "the axis differs";
  case QB_OP_TRANSPOSE:
    return memcmp(a->transpose.permutation, b->transpose.permutation, (size_t)shape->rank * sizeof(int32_t)) == 0
               ? NULL
               : "the permutation differs";
  case QB_OP_PAD: return same_pad(a, b, shape->rank) ? NULL : "the pads differ";
  default: return NULL; /* no attributes that shape the result */
  }
}

/* True when one operator can stand for the other. */
static bool same_operator(qb_op o, qb_op q) {
  if (o == q)
    return true;
  bool matrices = strcmp(families[o], "gemm") == 0 && strcmp(families[q], "gemm") == 0;
  return matrices || (is_global_average(o) && is_global_average(q));
}

static const char *operator_hint(qb_op o, qb_op q) {
  if (o == QB_OP_BATCH_NORM || q == QB_OP_BATCH_NORM)
    return "; only one of them has this BatchNormalization: fold it in both or in neither";
  if (is_quantizer(o))
    return "; the original already quantizes activations: give the float network first";
  if (o == QB_OP_RELU || o == QB_OP_CLIP)
    return "; the quantized network lacks this activation, or leaves it to the clamp of a QuantizeLinear, for which "
           "there is no rule here: quantize it again with the activation kept";
  if (o == QB_OP_ADD || q == QB_OP_ADD)
    return "; a bias added by a node of its own does not match one inside the layer";
  return "";
}

/* ------------------------------------------------------------------------------------------------------- inputs */

static void push(pair_matcher *matcher, qb_value_id original, qb_value_id quantized) {
  matcher->pending[matcher->pending_count++] = (value_pair){original, quantized};
}

/* Two constants in slot `slot` of matched nodes. */
static qb_status match_constants(pair_matcher *matcher, const qb_node *o, const qb_node *q, qb_value_id a,
                                 qb_value_id b, int32_t slot) {
  const qb_value *original = &matcher->original->values[a], *quantized = &matcher->quantized->values[b];
  if (!qb_shape_equal(&original->shape, &quantized->shape))
    return shapes_part(matcher, o->output, q->output, "a constant has shape", &original->shape, &quantized->shape);
  matcher->pair->value[b] = a;
  const char *family = families[o->op];
  bool layer = strcmp(family, "gemm") == 0 || o->op == QB_OP_CONV || o->op == QB_OP_CONV_TRANSPOSE;
  if (layer || same_data(&original->constant, &quantized->constant))
    return QB_OK;
  if (strcmp(family, "add") != 0 && strcmp(family, "mul") != 0 && o->op != QB_OP_CONCAT)
    return part(matcher, o->output, q->output, "the constants '%.100s' and '%.100s' of input %d differ in value",
                original->name, quantized->name, (int)slot);
  matcher->pair->operand_differences++;
  return QB_OK;
}

static qb_status match_input(pair_matcher *matcher, const qb_node *o, const qb_node *q, int32_t o_slot,
                             int32_t q_slot) {
  qb_value_id a = o_slot < o->input_count ? o->inputs[o_slot] : QB_NONE;
  qb_value_id b = q_slot < q->input_count ? q->inputs[q_slot] : QB_NONE;
  bool bias = o_slot == 2 &&
              (o->op == QB_OP_CONV || o->op == QB_OP_CONV_TRANSPOSE || o->op == QB_OP_GEMM || o->op == QB_OP_MATMUL);
  if (a == QB_NONE && b == QB_NONE)
    return QB_OK;
  if (a == QB_NONE || b == QB_NONE) {
    bool constant = a == QB_NONE ? matcher->quantized->values[b].is_constant : matcher->original->values[a].is_constant;
    return bias && constant ? QB_OK : part(matcher, o->output, q->output, "only one of them has input %d", (int)o_slot);
  }
  const qb_value *original = &matcher->original->values[a], *quantized = &matcher->quantized->values[b];
  if (original->is_constant && quantized->is_constant)
    return match_constants(matcher, o, q, a, b, o_slot);
  if (!qb_shape_equal(&original->shape, &quantized->shape))
    return shapes_part(matcher, o->output, q->output, "their inputs have shapes", &original->shape, &quantized->shape);
  push(matcher, a, b);
  return QB_OK;
}

static qb_status match_inputs(pair_matcher *matcher, const qb_node *o, const qb_node *q) {
  if (is_crosswise(matcher, o, q)) {
    QB_TRY(match_input(matcher, o, q, 0, 1));
    return match_input(matcher, o, q, 1, 0);
  }
  int32_t count = o->input_count > q->input_count ? o->input_count : q->input_count;
  for (int32_t slot = 0; slot < count; slot++)
    QB_TRY(match_input(matcher, o, q, slot, slot));
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- cores */

/* True when the lowest code of a QuantizeLinear stands for 0 in every channel. */
static bool clamps_at_zero(const qb_graph *graph, const qb_node *node) {
  qb_value_id zero = node->input_count > 2 ? node->inputs[2] : QB_NONE;
  float lowest = node->attributes.quantize.lo;
  if (zero == QB_NONE)
    return lowest == 0;
  if (!graph->values[zero].is_constant)
    return false;
  const float *points = qb_view_f32(&graph->values[zero].constant);
  for (size_t i = 0; i < qb_view_elements(&graph->values[zero].constant); i++)
    if (points[i] != lowest)
      return false;
  return true;
}

static qb_value_id original_core(const pair_matcher *matcher, qb_value_id value) {
  const qb_node *node = producer(matcher->original, value);
  while (node != NULL && is_copy(node->op)) {
    value = node->inputs[0];
    node = producer(matcher->original, value);
  }
  return value;
}

/* Walks back through copies and quantizers and maps them to the original core. */
static qb_value_id quantized_core(const pair_matcher *matcher, qb_value_id value, qb_value_id *clamp) {
  *clamp = QB_NONE;
  for (;;) {
    const qb_node *node = producer(matcher->quantized, value);
    if (node == NULL || (!is_copy(node->op) && !is_quantizer(node->op)))
      return value;
    if (node->op == QB_OP_QUANTIZE_LINEAR && clamps_at_zero(matcher->quantized, node))
      *clamp = value;
    value = node->inputs[0];
  }
}

/* Records what the values from `pair` back to the cores stand for: a core for a core, so that partners have partner
 * outputs, and a value behind copies for the original's value of the same shape. */
static void map_values(const pair_matcher *matcher, value_pair pair, value_pair cores) {
  qb_value_id value = pair.quantized;
  while (value != cores.quantized) {
    matcher->pair->value[value] = value == pair.quantized ? pair.original : cores.original;
    value = producer(matcher->quantized, value)->inputs[0];
  }
  matcher->pair->value[value] = cores.original;
}

static bool can_be_absorbed(const qb_node *node) {
  return node != NULL &&
         (node->op == QB_OP_RELU || (node->op == QB_OP_CLIP && same_float(node->attributes.clip.lo, 0)));
}

static qb_status match_nodes(pair_matcher *matcher, qb_value_id a, qb_value_id b) {
  const qb_node *o = producer(matcher->original, a), *q = producer(matcher->quantized, b);
  if (!same_operator(o->op, q->op))
    return part(matcher, a, b, "the operators differ%s", operator_hint(o->op, q->op));
  const char *difference = compare_attributes(matcher, o, q);
  if (difference != NULL)
    return part(matcher, a, b, "%s", difference);
  const qb_shape *original = &matcher->original->values[a].shape, *quantized = &matcher->quantized->values[b].shape;
  if (!is_global_average(o->op) && !qb_shape_equal(original, quantized))
    return shapes_part(matcher, a, b, "their outputs have shapes", original, quantized);
  matcher->pair->partner[matcher->quantized->values[b].producer] = matcher->original->values[a].producer;
  return match_inputs(matcher, o, q);
}

static int32_t input_position(const qb_graph *graph, qb_value_id value) {
  for (int32_t i = 0; i < graph->input_count; i++)
    if (graph->inputs[i] == value)
      return i;
  return -1;
}

/* Two cores at least one of which no node produces. */
static qb_status match_sources(pair_matcher *matcher, qb_value_id a, qb_value_id b) {
  const qb_value *original = &matcher->original->values[a], *quantized = &matcher->quantized->values[b];
  if (original->producer != QB_NONE || quantized->producer != QB_NONE ||
      original->is_constant != quantized->is_constant)
    return part(matcher, a, b, "one is computed and the other is not%s",
                original->producer == QB_NONE ? "" : operator_hint(producer(matcher->original, a)->op, QB_OP_COUNT));
  if (original->is_constant) {
    if (!qb_shape_equal(&original->shape, &quantized->shape))
      return shapes_part(matcher, a, b, "the shapes are", &original->shape, &quantized->shape);
    matcher->pair->operand_differences += !same_data(&original->constant, &quantized->constant);
    return QB_OK;
  }
  if (input_position(matcher->original, a) != input_position(matcher->quantized, b))
    return part(matcher, a, b, "they are different inputs of the network");
  return QB_OK;
}

/* A Relu or Clip of the original that the quantized graph leaves to the clamp of a QuantizeLinear. */
static void absorb(pair_matcher *matcher, qb_value_id a, qb_value_id clamp) {
  qb_node_id quantizer = matcher->quantized->values[clamp].producer;
  matcher->pair->partner[quantizer] = matcher->original->values[a].producer;
  matcher->pair->absorbed++;
  push(matcher, producer(matcher->original, a)->inputs[0], matcher->quantized->nodes[quantizer].inputs[0]);
}

static qb_status match_values(pair_matcher *matcher, value_pair pair) {
  qb_value_id clamp, a = original_core(matcher, pair.original);
  qb_value_id b = quantized_core(matcher, pair.quantized, &clamp);
  const qb_node *o = producer(matcher->original, a), *q = producer(matcher->quantized, b);
  bool absorbed =
      matcher->absorb && clamp != QB_NONE && can_be_absorbed(o) && (q == NULL || !same_operator(o->op, q->op));
  if (absorbed)
    b = clamp;
  map_values(matcher, pair, (value_pair){a, b});
  if (matcher->core[b] != QB_NONE) {
    char other[200];
    return matcher->core[b] == a ? QB_OK
                                 : part(matcher, a, b, "the second already stands for %s of the original",
                                        describe(matcher->original, matcher->core[b], other));
  }
  matcher->core[b] = a;
  if (absorbed) {
    absorb(matcher, a, clamp);
    return QB_OK;
  }
  return o == NULL || q == NULL ? match_sources(matcher, a, b) : match_nodes(matcher, a, b);
}

/* ---------------------------------------------------------------------------------------------------- the whole */

static qb_status match_interface(pair_matcher *matcher) {
  const qb_graph *o = matcher->original, *q = matcher->quantized;
  if (o->input_count != q->input_count || o->output_count != q->output_count)
    return qb_fail(matcher->error, QB_ERROR_FORMAT,
                   "%s has %d inputs and %d outputs but %s has %d and %d: these are not one network", o->name,
                   o->input_count, o->output_count, q->name, q->input_count, q->output_count);
  for (int32_t i = 0; i < o->input_count; i++) {
    const qb_shape *a = &o->values[o->inputs[i]].shape, *b = &q->values[q->inputs[i]].shape;
    matcher->pair->value[q->inputs[i]] = o->inputs[i];
    if (!qb_shape_equal(a, b))
      return shapes_part(matcher, o->inputs[i], q->inputs[i], "the inputs have shapes", a, b);
  }
  for (int32_t i = 0; i < o->output_count; i++) {
    const qb_shape *a = &o->values[o->outputs[i]].shape, *b = &q->values[q->outputs[i]].shape;
    if (!qb_shape_equal(a, b))
      return shapes_part(matcher, o->outputs[i], q->outputs[i], "the outputs have shapes", a, b);
    push(matcher, o->outputs[i], q->outputs[i]);
  }
  return QB_OK;
}

static qb_status match_all(pair_matcher *matcher) {
  hash_values(matcher->original, matcher->original_hash);
  hash_values(matcher->quantized, matcher->quantized_hash);
  QB_TRY(match_interface(matcher));
  while (matcher->pending_count > 0)
    QB_TRY(match_values(matcher, matcher->pending[--matcher->pending_count]));
  return QB_OK;
}

/* Every quantized node pushes at most the inputs of itself or of its partner, each node once. */
static size_t pending_limit(const qb_graph *original, const qb_graph *quantized) {
  size_t inputs = 0, most = 1;
  for (qb_node_id n = 0; n < original->node_count; n++)
    most = (size_t)original->nodes[n].input_count > most ? (size_t)original->nodes[n].input_count : most;
  for (qb_node_id n = 0; n < quantized->node_count; n++)
    inputs += (size_t)quantized->nodes[n].input_count + most;
  return inputs + (size_t)quantized->output_count;
}

static qb_status allocate(pair_matcher *matcher) {
  const qb_graph *o = matcher->original, *q = matcher->quantized;
  size_t nodes = (size_t)q->node_count, values = (size_t)q->value_count;
  matcher->pair->partner = qb_alloc(nodes, sizeof(qb_node_id));
  matcher->pair->value = qb_alloc(values, sizeof(qb_value_id));
  matcher->core = qb_alloc(values, sizeof(qb_value_id));
  matcher->original_hash = qb_alloc((size_t)o->value_count, sizeof(uint64_t));
  matcher->quantized_hash = qb_alloc(values, sizeof(uint64_t));
  matcher->pending = qb_alloc(pending_limit(o, q), sizeof(value_pair));
  if (matcher->pair->partner == NULL || matcher->pair->value == NULL || matcher->core == NULL ||
      matcher->original_hash == NULL || matcher->quantized_hash == NULL || matcher->pending == NULL)
    return qb_fail_memory(matcher->error, "matching two graphs", values * sizeof(uint64_t));
  for (size_t i = 0; i < nodes; i++)
    matcher->pair->partner[i] = QB_NONE;
  for (size_t i = 0; i < values; i++)
    matcher->pair->value[i] = matcher->core[i] = QB_NONE;
  return QB_OK;
}

static qb_status run_matcher(const qb_graph *original, const qb_graph *quantized, bool absorb_activations,
                             qb_pair *pair, qb_error *error) {
  pair_matcher matcher = {.original = original,
                          .quantized = quantized,
                          .pair = pair,
                          .absorb = absorb_activations,
                          .error = error};
  *pair = (qb_pair){.original = original, .quantized = quantized};
  qb_status status = allocate(&matcher);
  if (status == QB_OK)
    status = match_all(&matcher);
  qb_free(matcher.core);
  qb_free(matcher.original_hash);
  qb_free(matcher.quantized_hash);
  qb_free(matcher.pending);
  return status;
}

qb_status qb_pair_match(const qb_graph *original, const qb_graph *quantized, qb_pair *pair, qb_error *error) {
  return run_matcher(original, quantized, false, pair, error);
}

qb_status qb_pair_match_absorbed(const qb_graph *original, const qb_graph *quantized, qb_pair *pair, qb_error *error) {
  return run_matcher(original, quantized, true, pair, error);
}

/* From the outputs backwards: nodes come behind their inputs. */
static void match_with_itself(const qb_graph *graph, qb_pair *pair) {
  for (int32_t k = 0; k < graph->output_count; k++)
    pair->value[graph->outputs[k]] = graph->outputs[k];
  for (qb_node_id n = graph->node_count - 1; n >= 0; n--) {
    const qb_node *node = &graph->nodes[n];
    if (pair->value[node->output] == QB_NONE)
      continue;
    pair->partner[n] = is_copy(node->op) || is_quantizer(node->op) ? QB_NONE : n;
    for (int32_t i = 0; i < node->input_count; i++)
      if (node->inputs[i] != QB_NONE)
        pair->value[node->inputs[i]] = node->inputs[i];
  }
}

qb_status qb_pair_own(const qb_graph *graph, qb_pair *pair, qb_error *error) {
  size_t nodes = (size_t)graph->node_count, values = (size_t)graph->value_count;
  *pair = (qb_pair){.original = graph, .quantized = graph, .float32 = true, .own = true};
  pair->partner = qb_alloc(nodes, sizeof *pair->partner);
  pair->value = qb_alloc(values, sizeof *pair->value);
  if (pair->partner == NULL || pair->value == NULL)
    return qb_fail_memory(error, "a graph with itself", (nodes + values) * sizeof *pair->partner);
  for (size_t n = 0; n < nodes; n++)
    pair->partner[n] = QB_NONE;
  for (size_t v = 0; v < values; v++)
    pair->value[v] = QB_NONE;
  match_with_itself(graph, pair);
  return QB_OK;
}

void qb_pair_free(qb_pair *pair) {
  if (pair == NULL)
    return;
  qb_free(pair->partner);
  qb_free(pair->value);
  qb_graph_free(pair->rescaled);
  qb_free(pair->rescaled);
  *pair = (qb_pair){0};
}

static bool same_constant(const qb_value *a, const qb_value *b) {
  return a->is_constant && b->is_constant && qb_shape_equal(&a->shape, &b->shape) &&
         memcmp(a->constant.data, b->constant.data, qb_shape_elements(&a->shape) * sizeof(float)) == 0;
}

bool qb_pair_same_parameters(const qb_pair *pair, qb_node_id quantized_node) {
  const qb_node *ours = &pair->quantized->nodes[quantized_node];
  if (pair->partner[quantized_node] == QB_NONE)
    return true;
  const qb_node *theirs = &pair->original->nodes[pair->partner[quantized_node]];
  if (ours->op == QB_OP_LEAKY_RELU || ours->op == QB_OP_HARD_SIGMOID)
    return ours->attributes.linear.alpha == theirs->attributes.linear.alpha &&
           ours->attributes.linear.beta == theirs->attributes.linear.beta;
  if (ours->op != QB_OP_PRELU && ours->op != QB_OP_BATCH_NORM)
    return true;
  for (int32_t slot = 1; slot < ours->input_count; slot++)
    if (slot >= theirs->input_count ||
        !same_constant(&pair->quantized->values[ours->inputs[slot]], &pair->original->values[theirs->inputs[slot]]))
      return false;
  return ours->op == QB_OP_PRELU || ours->attributes.batch_norm.epsilon == theirs->attributes.batch_norm.epsilon;
}
