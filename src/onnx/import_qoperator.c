/* Operators on integer codes (QLinearConv, QGemm, ..) as what they stand for: dequantized operands, the operator on
 * real numbers, QuantizeLinear. Weights become constants with codes, int32 biases get the scale (input x weight).
 *
 * In exact arithmetic both forms are the same function except that the real weights are float32 numbers, rounded from
 * scale x code. Integer runtimes also round the factor (input scale x weight scale / output scale). A code next to a
 * rounding boundary may therefore come out one step higher or lower than in the integer runtime, as it may between any
 * two runtimes of the float form. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "onnx/import.h"

/* A grid of activations: scale and zero point as graph constants, and the range of the codes. */
typedef struct code_grid {
  qb_value_id scale, zero;
  qb_attributes attributes;
} code_grid;

/* ---------------------------------------------------------------------------------------------------------- grids */

/* Scale in `slot`, zero point in the next one, both scalars. */
static qb_status read_grid(qb_import *in, size_t slot, code_grid *grid) {
  qb_constant *scale, *zero;
  *grid = (code_grid){.scale = QB_NONE, .zero = QB_NONE};
  QB_TRY(qb_import_need_constant(in, slot, "the scale of its codes", &scale));
  QB_TRY(qb_import_need_constant(in, slot + 1, "the zero point of its codes", &zero));
  if (qb_view_elements(&scale->view) != 1 || qb_view_elements(&zero->view) != 1)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its codes have several scales; activations may have one");
  if (!qb_dtype_range(zero->view.dtype, &grid->attributes.quantize.lo, &grid->attributes.quantize.hi))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "quantized type %s is not supported",
                          qb_dtype_name(zero->view.dtype));
  QB_TRY(qb_import_value(in, scale, QB_FORM_PLAIN, 0, &grid->scale));
  const float *value = qb_view_f32(&in->graph->values[grid->scale].constant);
  if (!(value[0] > 0))
    return qb_import_fail(in, QB_ERROR_NUMERIC, "a scale of its codes is %g, not positive", (double)value[0]);
  return qb_import_value(in, zero, QB_FORM_CODES, 0, &grid->zero);
}

/* The grid of a QuantizeLinear of the graph. */
static code_grid grid_of(const qb_node *quantizer) {
  code_grid grid = {.scale = quantizer->inputs[1],
                    .zero = quantizer->input_count > 2 ? quantizer->inputs[2] : QB_NONE,
                    .attributes = quantizer->attributes};
  grid.attributes.quantize.rounding = QB_ROUND_EVEN;
  grid.attributes.quantize.factor = 0;
  return grid;
}

/* A DequantizeLinear that already reads these codes, so that branches start at one value. */
static qb_value_id find_dequantized(const qb_import *in, qb_value_id codes, const code_grid *grid) {
  for (qb_node_id n = in->graph->values[codes].producer + 1; n < in->graph->node_count; n++) {
    const qb_node *node = &in->graph->nodes[n];
    if (node->op == QB_OP_DEQUANTIZE_LINEAR && node->inputs[0] == codes && node->inputs[1] == grid->scale &&
        (node->input_count > 2 ? node->inputs[2] : QB_NONE) == grid->zero)
      return node->output;
  }
  return QB_NONE;
}

static qb_status emit_dequantize(qb_import *in, qb_value_id codes, const code_grid *grid, qb_value_id *real) {
  const qb_value_id inputs[3] = {codes, grid->scale, grid->zero};
  *real = find_dequantized(in, codes, grid);
  return *real != QB_NONE
             ? QB_OK
             : qb_import_emit(in, QB_OP_DEQUANTIZE_LINEAR, "dequantized", inputs, 3, &grid->attributes, NULL, real);
}

static qb_status emit_quantize(qb_import *in, qb_value_id real, const code_grid *grid) {
  const qb_value_id inputs[3] = {real, grid->scale, grid->zero};
  return qb_import_emit_last(in, QB_OP_QUANTIZE_LINEAR, inputs, 3, &grid->attributes, NULL);
}

/* The real value of the codes in `slot`, whose scale and zero point are in the next two. */
static qb_status real_input(qb_import *in, size_t slot, qb_value_id *real) {
  qb_value_id codes;
  code_grid grid;
  QB_TRY(qb_import_activation(in, slot, &codes));
  QB_TRY(read_grid(in, slot + 1, &grid));
  return emit_dequantize(in, codes, &grid, real);
}

/* The same, or the dequantized constant when the slot holds one. */
static qb_status real_operand(qb_import *in, size_t slot, qb_value_id *real) {
  qb_constant *constant, dequantized;
  QB_TRY(qb_import_constant(in, slot, &constant));
  if (constant == NULL)
    return real_input(in, slot, real);
  QB_TRY(qb_import_dequantized(in, slot, QB_NONE, &dequantized));
  return qb_import_value(in, &dequantized, QB_FORM_PLAIN, 0, real);
}

/* `op` on real inputs, then QuantizeLinear with the grid whose scale is in `grid_slot`. */
static qb_status emit_quantized(qb_import *in, qb_op op, const qb_value_id *inputs, int32_t count,
                                const qb_attributes *attributes, const qb_shape *shape, size_t grid_slot) {
  code_grid grid;
  qb_value_id y;
  QB_TRY(read_grid(in, grid_slot, &grid));
  QB_TRY(qb_import_emit(in, op, "real", inputs, count, attributes, shape, &y));
  return emit_quantize(in, y, &grid);
}

/* ---------------------------------------------------------------------------------------------------- linear layers */

/* x, scale, zero, weight, scale, zero, y scale, y zero, bias. */
qb_status qb_rule_qlinear_conv(qb_import *in) {
  qb_value_id inputs[3] = {QB_NONE, QB_NONE, QB_NONE};
  qb_constant weight, bias;
  qb_attributes attributes = {0};
  QB_TRY(real_input(in, 0, &inputs[0]));
  QB_TRY(qb_import_dequantized(in, 3, 0, &weight));
  QB_TRY(qb_import_value(in, &weight, QB_FORM_PLAIN, 0, &inputs[1]));
  QB_TRY(qb_import_window(in, qb_import_shape(in, inputs[0]), qb_import_shape(in, inputs[1]), &attributes.conv.window));
  int64_t group = qb_import_int(in, "group", 1);
  if (group < 1 || group > INT32_MAX)
    return qb_import_fail(in, QB_ERROR_FORMAT, "'group' is out of range");
  attributes.conv.group = (int32_t)group;
  if (qb_import_has(in, 8)) {
    QB_TRY(qb_import_dequantized_bias(in, 8, 1, 4, &bias));
    QB_TRY(qb_import_value(in, &bias, QB_FORM_VECTOR, weight.view.shape.dims[0], &inputs[2]));
  }
  return emit_quantized(in, QB_OP_CONV, inputs, 3, &attributes, NULL, 6);
}

/* a, scale, zero, b, scale, zero, y scale, y zero. */
qb_status qb_rule_qlinear_matmul(qb_import *in) {
  qb_value_id inputs[2];
  qb_constant weight;
  QB_TRY(real_input(in, 0, &inputs[0]));
  QB_TRY(qb_import_dequantized(in, 3, 1, &weight));
  QB_TRY(qb_import_value(in, &weight, QB_FORM_TRANSPOSED, 0, &inputs[1]));
  return emit_quantized(in, QB_OP_MATMUL, inputs, 2, NULL, NULL, 6);
}

/* a, scale, zero, b, scale, zero, bias, y scale, y zero; without the last two the result is real. */
qb_status qb_rule_qgemm(qb_import *in) {
  qb_value_id inputs[3] = {QB_NONE, QB_NONE, QB_NONE};
  qb_constant weight, bias;
  bool transposed = qb_import_int(in, "transB", 0) == 0;
  QB_TRY(real_input(in, 0, &inputs[0]));
  if (qb_import_float(in, "alpha", 1) != 1.0f || qb_import_int(in, "transA", 0) != 0 ||
      qb_import_shape(in, inputs[0])->rank != 2)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only alpha = 1 and a (batch, features) input are supported");
  QB_TRY(qb_import_dequantized(in, 3, transposed ? 1 : 0, &weight));
  if (weight.view.shape.rank != 2)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its weight is not a matrix");
  QB_TRY(qb_import_value(in, &weight, transposed ? QB_FORM_TRANSPOSED : QB_FORM_PLAIN, 0, &inputs[1]));
  if (qb_import_has(in, 6)) {
    QB_TRY(qb_import_dequantized_bias(in, 6, 1, 4, &bias));
    QB_TRY(qb_import_value(in, &bias, QB_FORM_VECTOR, qb_import_shape(in, inputs[1])->dims[0], &inputs[2]));
  }
  if (!qb_import_has(in, 7))
    return qb_import_emit_last(in, QB_OP_GEMM, inputs, 3, NULL, NULL);
  return emit_quantized(in, QB_OP_GEMM, inputs, 3, NULL, NULL, 7);
}

/* ------------------------------------------------------------------------------------------------------- the others */

/* QLinearAdd, QLinearMul: a, scale, zero, b, scale, zero, y scale, y zero. */
qb_status qb_rule_qlinear_binary(qb_import *in) {
  qb_value_id inputs[2];
  QB_TRY(real_operand(in, 0, &inputs[0]));
  QB_TRY(real_operand(in, 3, &inputs[1]));
  if (in->graph->values[inputs[0]].is_constant) {
    const qb_value_id constant = inputs[0];
    inputs[0] = inputs[1];
    inputs[1] = constant;
  }
  const qb_shape *b = qb_import_shape(in, inputs[1]), *a = qb_import_shape(in, inputs[0]);
  if (in->graph->values[inputs[1]].is_constant &&
      (b->rank > a->rank || (b->rank == a->rank && b->rank > 0 && b->dims[0] != 1)))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its constant operand spans the batch axis");
  return emit_quantized(in, strcmp(in->node->op_type, "QLinearAdd") == 0 ? QB_OP_ADD : QB_OP_MUL, inputs, 2, NULL, NULL,
                        6);
}

/* y scale, y zero, then x, scale, zero of every operand. */
qb_status qb_rule_qlinear_concat(qb_import *in) {
  qb_value_id inputs[QB_MAX_INPUTS];
  qb_attributes attributes = {0};
  size_t count = in->node->n_input < 5 ? 0 : (in->node->n_input - 2) / 3;
  if (count == 0 || in->node->n_input != 2 + 3 * count || count > QB_MAX_INPUTS)
    return qb_import_fail(in, QB_ERROR_FORMAT, "it has %zu inputs, where two and three per operand are expected",
                          in->node->n_input);
  for (size_t i = 0; i < count; i++)
    QB_TRY(real_input(in, 2 + 3 * i, &inputs[i]));
  QB_TRY(qb_import_axis(in, qb_import_int(in, "axis", 0), qb_import_shape(in, inputs[0])->rank, &attributes.axes.axis));
  if (attributes.axes.axis == 0)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it joins along the batch axis");
  return emit_quantized(in, QB_OP_CONCAT, inputs, (int32_t)count, &attributes, NULL, 0);
}

/* x, scale, zero, y scale, y zero. */
qb_status qb_rule_qlinear_pool(qb_import *in) {
  qb_value_id x;
  qb_shape shape;
  qb_attributes attributes;
  bool ceil_mode;
  QB_TRY(real_input(in, 0, &x));
  if (qb_import_int(in, "channels_last", 0) != 0 || qb_import_shape(in, x)->rank != 4)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "only inputs (N, C, H, W) are supported");
  if (strcmp(in->node->op_type, "QLinearGlobalAveragePool") == 0)
    return emit_quantized(in, QB_OP_GLOBAL_AVERAGE_POOL, &x, 1, NULL, NULL, 3);
  QB_TRY(qb_import_pool(in, x, &attributes, &shape, &ceil_mode));
  return emit_quantized(in, QB_OP_AVERAGE_POOL, &x, 1, &attributes, ceil_mode ? &shape : NULL, 3);
}

/* QLinearLeakyRelu, QLinearSigmoid: x, scale, zero, y scale, y zero. */
qb_status qb_rule_qlinear_function(qb_import *in) {
  qb_value_id x;
  bool leaky = strcmp(in->node->op_type, "QLinearLeakyRelu") == 0;
  qb_attributes attributes = {.linear.alpha = leaky ? qb_import_float(in, "alpha", 0.01f) : 0};
  QB_TRY(real_input(in, 0, &x));
  if (!isfinite(attributes.linear.alpha))
    return qb_import_fail(in, QB_ERROR_NUMERIC, "alpha is not finite");
  return emit_quantized(in, leaky ? QB_OP_LEAKY_RELU : QB_OP_SIGMOID, &x, 1, &attributes, NULL, 3);
}

/* --------------------------------------------------------------------------------------- standard operators on codes
 */

static bool moves_elements(qb_op op) { return qb_op_is_reshape(op) || op == QB_OP_TRANSPOSE; }

const qb_node *qb_import_code_source(const qb_import *in, qb_value_id value) {
  for (qb_node_id n = in->graph->values[value].producer; n != QB_NONE;) {
    const qb_node *node = &in->graph->nodes[n];
    if (node->op == QB_OP_QUANTIZE_LINEAR)
      return node;
    if (!moves_elements(node->op))
      return NULL;
    n = in->graph->values[node->inputs[0]].producer;
  }
  return NULL;
}

bool qb_import_zero_is_zero(const qb_import *in, const qb_node *quantizer) {
  if (quantizer->input_count < 3 || quantizer->inputs[2] == QB_NONE)
    return true;
  const qb_view *zero = &in->graph->values[quantizer->inputs[2]].constant;
  for (size_t i = 0; i < qb_view_elements(zero); i++)
    if (qb_view_f32(zero)[i] != 0)
      return false;
  return true;
}

qb_status qb_import_emit_on_codes(qb_import *in, const qb_node *source, qb_op op, qb_value_id x,
                                  const qb_attributes *attributes, const qb_shape *shape) {
  const code_grid grid = grid_of(source);
  qb_value_id real, y;
  if (qb_shape_elements(qb_import_shape(in, grid.scale)) != 1)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its codes have several scales; dequantize them before it");
  QB_TRY(emit_dequantize(in, x, &grid, &real));
  QB_TRY(qb_import_emit(in, op, "real", &real, 1, attributes, shape, &y));
  return emit_quantize(in, y, &grid);
}

qb_status qb_import_real_of_codes(qb_import *in, const qb_node *source, qb_value_id codes, qb_value_id *real) {
  const code_grid grid = grid_of(source);
  return emit_dequantize(in, codes, &grid, real);
}
