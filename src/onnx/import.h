/* Turning a document's nodes into a graph: what the files of the importer share.
 *
 * Every ONNX name becomes a symbol. While nodes are visited in file order a symbol is bound to an activation of the
 * graph or to a constant. A node whose inputs are all constants is folded (import_fold.c); every other node has a rule
 * (import_rules.c) that normalises its attributes and adds nodes to the graph. */
#ifndef QB_ONNX_IMPORT_H
#define QB_ONNX_IMPORT_H

#include "onnx/document.h"
#include "onnx/names.h"

/* How a constant enters the graph. */
typedef enum qb_form {
  QB_FORM_PLAIN,      /* as it is, as float32 */
  QB_FORM_TRANSPOSED, /* rank 2, transposed */
  QB_FORM_VECTOR,     /* rank 1: one entry per channel, a scalar repeated */
  QB_FORM_CODES,      /* integers (zero points) as floats */
  QB_FORM_COUNT
} qb_form;

typedef struct qb_constant {
  const char *name;                /* first ONNX name */
  const char *source;              /* its initializer, or NULL when computed */
  const Onnx__TensorProto *tensor; /* not yet decoded when not NULL */
  qb_view view;
  const qb_codes *codes;
  qb_value_id value[QB_FORM_COUNT]; /* in the graph, QB_NONE while not needed */
} qb_constant;

typedef enum qb_binding {
  QB_UNBOUND,
  QB_ACTIVATION,
  QB_CONSTANT,
  QB_INTEGER_SUM, /* see import_integer.c */
  QB_BROKEN
} qb_binding;

typedef struct qb_symbol {
  qb_binding binding;
  int32_t id;       /* of the activation in the graph, of the constant or of the integer sum */
  int32_t producer; /* index of the ONNX node that makes it, QB_NONE */
  int32_t uses;     /* by live nodes and network outputs */
  bool needed;      /* by the network's outputs */
} qb_symbol;

typedef struct qb_integer_sum qb_integer_sum;

typedef struct qb_import {
  const qb_onnx *document;
  const Onnx__GraphProto *proto;
  qb_graph *graph;
  qb_names names;
  qb_symbol *symbols; /* (names.count) */
  qb_constant *constants;
  int32_t constant_count, constant_capacity;
  qb_integer_sum *sums;        /* newest first */
  const Onnx__NodeProto *node; /* the one being imported */
  int32_t node_index;
  int64_t opset;
  size_t budget; /* bytes that folding and conversion may still allocate */
  qb_error *error;
} qb_import;

/* "file: node 'conv1' (Conv, opset 13): ..." */
qb_status qb_import_fail(qb_import *in, qb_status status, const char *format, ...) QB_PRINTF(3, 4);

/* count * size bytes of the graph's arena within the budget; NULL after filling the error. */
void *qb_import_alloc(qb_import *in, size_t count, size_t size);

/* True when the current node has a (non-empty) input in that slot. */
bool qb_import_has(const qb_import *in, size_t slot);
qb_symbol *qb_import_symbol(const qb_import *in, size_t slot);

/* The decoded constant in a slot, or NULL in *constant when the slot holds an activation or nothing. */
QB_MUST_CHECK qb_status qb_import_constant(qb_import *in, size_t slot, qb_constant **constant);

/* The same, but anything other than a constant is QB_ERROR_UNSUPPORTED: `what` must be known before the network runs.
 */
QB_MUST_CHECK qb_status qb_import_need_constant(qb_import *in, size_t slot, const char *what, qb_constant **constant);

/* The activation in a slot; a constant there is QB_ERROR_UNSUPPORTED. */
QB_MUST_CHECK qb_status qb_import_activation(qb_import *in, size_t slot, qb_value_id *id);

/* The integers of a constant input, at most `capacity`. */
QB_MUST_CHECK qb_status qb_import_integers(qb_import *in, size_t slot, const char *what, int64_t *values,
                                           size_t capacity, size_t *count);

/* The graph value of a constant in a form. `length` is the wanted length of QB_FORM_VECTOR. */
QB_MUST_CHECK qb_status qb_import_value(qb_import *in, qb_constant *constant, qb_form form, int64_t length,
                                        qb_value_id *id);

/* Registers a constant (view, codes and source filled) as the current node's output. */
QB_MUST_CHECK qb_status qb_import_bind_constant(qb_import *in, const qb_view *view, const qb_codes *codes,
                                                const char *source);

/* Adds the graph node for the current ONNX node and binds its output. `part` names an intermediate step of a node that
 * becomes several ("gemm"), whose value is then only returned; NULL for the last one. */
QB_MUST_CHECK qb_status qb_import_emit(qb_import *in, qb_op op, const char *part, const qb_value_id *inputs,
                                       int32_t input_count, const qb_attributes *attributes, const qb_shape *shape,
                                       qb_value_id *output);

/* qb_import_emit for the last step, and for the last step with the activation in slot 0 as only input. */
QB_MUST_CHECK qb_status qb_import_emit_last(qb_import *in, qb_op op, const qb_value_id *inputs, int32_t count,
                                            const qb_attributes *attributes, const qb_shape *shape);
QB_MUST_CHECK qb_status qb_import_emit_unary(qb_import *in, qb_op op, const qb_attributes *attributes,
                                             const qb_shape *shape);

/* Binds the current node's first output to an activation. */
QB_MUST_CHECK qb_status qb_import_bind_activation(qb_import *in, qb_value_id id);

const qb_shape *qb_import_shape(const qb_import *in, qb_value_id id);

/* ---------------------------------------------------------------------------------------- attributes (of in->node) */

const Onnx__AttributeProto *qb_import_attribute(const qb_import *in, const char *name);
int64_t qb_import_int(const qb_import *in, const char *name, int64_t otherwise);
float qb_import_float(const qb_import *in, const char *name, float otherwise);
/* True when the string attribute equals `text`; an absent one equals `otherwise`. */
bool qb_import_string_is(const qb_import *in, const char *name, const char *text, const char *otherwise);
/* Fills `values` (capacity) and returns the count, or -1 when absent, -2 when there are more. */
int qb_import_ints(const qb_import *in, const char *name, int64_t *values, size_t capacity);

/* kernel, strides, dilations and explicit pads of a window over x (N, C, H, W); auto_pad is resolved. `weight` gives
 * the kernel where the attribute is absent, or is NULL. */
QB_MUST_CHECK qb_status qb_import_window(qb_import *in, const qb_shape *x, const qb_shape *weight, qb_window *window);

/* Non-negative axis; QB_ERROR_FORMAT outside [-rank, rank). */
QB_MUST_CHECK qb_status qb_import_axis(qb_import *in, int64_t axis, int32_t rank, int32_t *result);

/* axes of Squeeze, Unsqueeze, ReduceMean: an attribute before opset `input_since`, then input 1. *count is -1 when
 * absent. Each is made non-negative against `rank`. */
QB_MUST_CHECK qb_status qb_import_axes(qb_import *in, int64_t input_since, int32_t rank, int32_t axes[QB_MAX_RANK],
                                       int32_t *count);

/* ---------------------------------------------------------------------------------------------------- the big steps */

/* Rules of import_rearrange.c. */
QB_MUST_CHECK qb_status qb_rule_concat(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_pad(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_transpose(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_flatten(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_reshape(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_squeeze(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_unsqueeze(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_identity(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_cast(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_dropout(qb_import *in);

/* Rules of import_qoperator.c: operators on integer codes. */
QB_MUST_CHECK qb_status qb_rule_qlinear_conv(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_qlinear_matmul(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_qgemm(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_qlinear_binary(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_qlinear_concat(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_qlinear_pool(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_qlinear_function(qb_import *in);

/* The QuantizeLinear whose codes a value holds, seen through copies and Transpose, or NULL: it is real-valued. */
const qb_node *qb_import_code_source(const qb_import *in, qb_value_id value);

/* True when every zero point of a quantizer is 0. */
bool qb_import_zero_is_zero(const qb_import *in, const qb_node *quantizer);

/* The dequantized value of the codes of `source`, one scale; a DequantizeLinear that is there already is used again. */
QB_MUST_CHECK qb_status qb_import_real_of_codes(qb_import *in, const qb_node *source, qb_value_id codes,
                                                qb_value_id *real);

/* Rules of import_fixed_point.c: quantization written as arithmetic, Mul (or Div), Round or Floor, Clip, Mul.
 * Round and Floor become a QuantizeLinear. The others set *done when they were about codes: Clip narrows the range of
 * the QuantizeLinear, Cast keeps the codes, and Mul by the scale becomes the DequantizeLinear. */
QB_MUST_CHECK qb_status qb_rule_round(qb_import *in);
QB_MUST_CHECK qb_status qb_import_clip_codes(qb_import *in, qb_value_id x, const qb_clip_attributes *clip, bool *done);
QB_MUST_CHECK qb_status qb_import_scale_codes(qb_import *in, bool *done);
QB_MUST_CHECK qb_status qb_import_cast_codes(qb_import *in, bool *done);

/* Rules of import_integer.c. ConvInteger and MatMulInteger have no node in the graph: their output is a sum of
 * products of codes that waits for its scale. qb_import_reads_sum is true when the current node reads one;
 * qb_rule_integer_sum then lets it through Cast and Add of a constant, and turns it into Conv or MatMul at the Mul by a
 * constant. qb_import_add_bias makes a constant that is added to such a layer its bias. */
QB_MUST_CHECK qb_status qb_rule_conv_integer(qb_import *in);
QB_MUST_CHECK qb_status qb_rule_matmul_integer(qb_import *in);
bool qb_import_reads_sum(const qb_import *in);
QB_MUST_CHECK qb_status qb_rule_integer_sum(qb_import *in);
QB_MUST_CHECK qb_status qb_import_add_bias(qb_import *in, bool *done);

/* Binds the current node's output to `x`, whose only reader it is: the producer of x makes that output instead. */
QB_MUST_CHECK qb_status qb_import_take_over(qb_import *in, qb_value_id x);

/* True when only the current node reads the value. */
bool qb_import_is_only_reader(const qb_import *in, qb_value_id x);

/* dequantize -> `op` -> quantize on the grid of `source`: for an operator that maps codes to codes and commutes with
 * the monotone map from codes to real values. The last step binds the current node's output. */
QB_MUST_CHECK qb_status qb_import_emit_on_codes(qb_import *in, const qb_node *source, qb_op op, qb_value_id x,
                                                const qb_attributes *attributes, const qb_shape *shape);

/* Pads, strides and the rest of a pooling node over `x`; *output is its shape when it has ceil_mode. */
QB_MUST_CHECK qb_status qb_import_pool(qb_import *in, qb_value_id x, qb_attributes *attributes, qb_shape *output,
                                       bool *ceil_mode);

/* True when the current node belongs to the operator domain of ONNX Runtime. */
bool qb_import_is_contrib(const qb_import *in);

/* Runs the rule of the current node, which has at least one activation among its inputs. */
QB_MUST_CHECK qb_status qb_import_rule(qb_import *in);

/* True when a node of that operator is folded if its inputs are constants. */
bool qb_import_can_fold(const char *op);

/* QB_ERROR_UNSUPPORTED when neither a rule nor folding knows the current node's operator. */
QB_MUST_CHECK qb_status qb_import_check_known(qb_import *in);

/* Folds the current node, all of whose inputs are constants. */
QB_MUST_CHECK qb_status qb_import_fold(qb_import *in);

/* Constant, and Shape or Size of an activation, whose shape is known: sets *done when the node was one of these. */
QB_MUST_CHECK qb_status qb_import_fold_known(qb_import *in, bool *done);

/* ------------------------------------------------------------------------------------------------------- constants */

/* Decodes typed or raw data; integers and packed floats borrow the document's memory where they lie in it. */
QB_MUST_CHECK qb_status qb_import_decode(qb_import *in, const Onnx__TensorProto *tensor, qb_view *view);

/* float32 elements of a view: converts float16, bfloat16 and exactly representable doubles; integers too when
 * `integers` is set. */
QB_MUST_CHECK qb_status qb_import_floats(qb_import *in, const char *name, const qb_view *view, bool integers,
                                         qb_view *result);

/* (rows, columns) -> (columns, rows); sub-byte integers become bytes. */
QB_MUST_CHECK qb_status qb_import_transpose(qb_import *in, const qb_view *view, qb_view *result);
QB_MUST_CHECK qb_status qb_import_transpose_codes(qb_import *in, const qb_codes *codes, const qb_codes **result);

/* DequantizeLinear and QuantizeLinear of constants. */
QB_MUST_CHECK qb_status qb_import_dequantize(qb_import *in);
QB_MUST_CHECK qb_status qb_import_quantize(qb_import *in);

/* The real values and codes of the integer constant in `slot`, whose scale and zero point are in the next two; several
 * scales lie along `axis`. The constant is not registered: pass it to qb_import_value. */
QB_MUST_CHECK qb_status qb_import_dequantized(qb_import *in, size_t slot, int32_t axis, qb_constant *result);

/* The same for integers, scales and zero points (NULL: all 0) that come from elsewhere. */
QB_MUST_CHECK qb_status qb_import_dequantized_by(qb_import *in, qb_constant *integers, qb_constant *scale,
                                                 qb_constant *zero, int32_t axis, qb_constant *result);

/* The same for an int32 bias, whose scale is the product of the input's and the weight's. */
QB_MUST_CHECK qb_status qb_import_dequantized_bias(qb_import *in, size_t slot, size_t x_scale_slot,
                                                   size_t weight_scale_slot, qb_constant *result);

/* Range of an integer type as floats; false for int32 and wider and for types that are not integers. */
bool qb_dtype_range(qb_dtype dtype, float *lo, float *hi);

#endif
