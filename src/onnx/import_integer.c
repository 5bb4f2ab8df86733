/* ConvInteger and MatMulInteger: sums of products of integer codes, which a later Mul by a constant turns into real
 * numbers:
 *
 *   codes -> ConvInteger -> [Add integers] -> Cast float -> [Add] -> Mul f -> [Add bias]
 *
 * is Conv of the dequantized codes with weights (f / input scale) x (code - zero point) and a bias, made at the Mul.
 * Until then the output is no value of the graph but a sum in a list. In exact arithmetic both forms differ by the
 * rounding of f / input scale to float32, which is none where scales are powers of two. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "onnx/import.h"

struct qb_integer_sum {
  qb_integer_sum *next;
  int32_t id;
  const char *node; /* name of the integer layer, for messages */
  qb_op op;         /* CONV, MATMUL */
  qb_value_id x;    /* the dequantized codes */
  float x_scale;
  int32_t weight, zero; /* constants; zero may be QB_NONE */
  int32_t weight_axis;  /* of output channels, before the layout of the graph */
  qb_attributes attributes;
  int64_t channels;
  const double *added; /* (channels) to the sum, NULL: nothing */
  qb_value_id output;  /* once scaled, else QB_NONE */
};

static qb_integer_sum *find_sum(const qb_import *in, size_t slot) {
  if (!qb_import_has(in, slot) || qb_import_symbol(in, slot)->binding != QB_INTEGER_SUM)
    return NULL;
  for (qb_integer_sum *sum = in->sums; sum != NULL; sum = sum->next)
    if (sum->id == qb_import_symbol(in, slot)->id)
      return sum;
  return NULL;
}

bool qb_import_reads_sum(const qb_import *in) {
  for (size_t slot = 0; slot < in->node->n_input; slot++)
    if (find_sum(in, slot) != NULL)
      return true;
  return false;
}

static void bind_sum(qb_import *in, const qb_integer_sum *sum) {
  qb_symbol *symbol = &in->symbols[qb_names_find(&in->names, in->node->output[0])];
  symbol->binding = QB_INTEGER_SUM;
  symbol->id = sum->id;
}

/* ------------------------------------------------------------------------------------------------ the integer layers
 */

/* The codes in slot 0, whose zero point is in slot 2, as real numbers. */
static qb_status read_codes(qb_import *in, qb_value_id *real, float *scale) {
  qb_value_id codes;
  qb_constant *zero;
  QB_TRY(qb_import_activation(in, 0, &codes));
  QB_TRY(qb_import_constant(in, 2, &zero));
  if (qb_import_has(in, 2) && zero == NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "the zero point of its input is computed while the network runs: "
                          "this is dynamic quantization; quantize the model statically (with calibration)");
  const qb_node *source = qb_import_code_source(in, codes);
  if (source == NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its input does not come from a QuantizeLinear");
  const qb_value *grid_scale = &in->graph->values[source->inputs[1]];
  bool has_zero = source->input_count > 2 && source->inputs[2] != QB_NONE;
  double own = has_zero ? (double)qb_view_f32(&in->graph->values[source->inputs[2]].constant)[0] : 0;
  if (qb_shape_elements(&grid_scale->shape) != 1)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its input has several scales; activations may have one");
  if (zero != NULL && (!qb_dtype_is_integer(zero->view.dtype) || qb_view_elements(&zero->view) != 1))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "the zero point of its input is not one integer");
  if ((zero == NULL ? 0 : (double)qb_view_integer(&zero->view, 0)) != own)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "its zero point is not that of the QuantizeLinear its input comes from, %g", own);
  *scale = qb_view_f32(&grid_scale->constant)[0];
  return qb_import_real_of_codes(in, source, codes, real);
}

/* The integers in slot 1 and their zero points in slot 3, one or one per output channel. */
static qb_status read_weight(qb_import *in, qb_integer_sum *sum) {
  qb_constant *weight, *zero;
  QB_TRY(qb_import_need_constant(in, 1, "its weight", &weight));
  QB_TRY(qb_import_constant(in, 3, &zero));
  if (qb_import_has(in, 3) && zero == NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "the zero point of its weight must be a constant");
  float lo, hi;
  int32_t rank = weight->view.shape.rank;
  if (!qb_dtype_range(weight->view.dtype, &lo, &hi) || rank != (sum->op == QB_OP_CONV ? 4 : 2))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its weight has rank %d and type %s; expected are 8-bit integers%s",
                          rank, qb_dtype_name(weight->view.dtype),
                          sum->op == QB_OP_CONV ? " (OC, IC, KH, KW)" : " in a matrix");
  sum->channels = weight->view.shape.dims[sum->weight_axis];
  size_t zeros = zero == NULL ? 1 : qb_view_elements(&zero->view);
  if (zero != NULL && (!qb_dtype_is_integer(zero->view.dtype) || (zeros != 1 && zeros != (size_t)sum->channels)))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "its weight has %zu zero points, neither one nor one per channel",
                          zeros);
  sum->weight = qb_import_symbol(in, 1)->id;
  sum->zero = zero == NULL ? QB_NONE : qb_import_symbol(in, 3)->id;
  return QB_OK;
}

static qb_status new_sum(qb_import *in, qb_op op, qb_integer_sum **sum) {
  const char *name = in->node->name != NULL && in->node->name[0] != '\0' ? in->node->name : in->node->output[0];
  *sum = qb_import_alloc(in, 1, sizeof **sum);
  if (*sum == NULL)
    return QB_ERROR_MEMORY;
  **sum = (qb_integer_sum){.next = in->sums,
                           .id = in->sums == NULL ? 0 : in->sums->id + 1,
                           .node = name,
                           .op = op,
                           .weight_axis = op == QB_OP_CONV ? 0 : 1,
                           .output = QB_NONE};
  QB_TRY(read_codes(in, &(*sum)->x, &(*sum)->x_scale));
  return read_weight(in, *sum);
}

qb_status qb_rule_conv_integer(qb_import *in) {
  qb_integer_sum *sum;
  QB_TRY(new_sum(in, QB_OP_CONV, &sum));
  QB_TRY(qb_import_window(in, qb_import_shape(in, sum->x), &in->constants[sum->weight].view.shape,
                          &sum->attributes.conv.window));
  int64_t group = qb_import_int(in, "group", 1);
  if (group < 1 || group > INT32_MAX)
    return qb_import_fail(in, QB_ERROR_FORMAT, "'group' is out of range");
  sum->attributes.conv.group = (int32_t)group;
  in->sums = sum;
  bind_sum(in, sum);
  return QB_OK;
}

qb_status qb_rule_matmul_integer(qb_import *in) {
  qb_integer_sum *sum;
  QB_TRY(new_sum(in, QB_OP_MATMUL, &sum));
  in->sums = sum;
  bind_sum(in, sum);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------- what is done to a sum */

/* The numbers of a constant that meet the output channels, one or one per channel, as (channels) doubles. */
static qb_status channel_numbers(qb_import *in, const qb_integer_sum *sum, const qb_constant *constant,
                                 const double **numbers) {
  const qb_shape *shape = &constant->view.shape;
  size_t count = qb_view_elements(&constant->view);
  int32_t from_end = sum->op == QB_OP_CONV ? 3 : 1; /* the axis of channels, counted from the last */
  bool fits = count == 1 || (count == (size_t)sum->channels && shape->rank >= from_end &&
                             shape->dims[shape->rank - from_end] == sum->channels);
  bool is_integer = qb_dtype_is_integer(constant->view.dtype);
  if (!fits || (!is_integer && !qb_dtype_is_real(constant->view.dtype)))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "its constant is neither one number nor one per output channel of '%s'", sum->node);
  double *made = qb_import_alloc(in, (size_t)sum->channels, sizeof *made);
  if (made == NULL)
    return QB_ERROR_MEMORY;
  for (int64_t c = 0; c < sum->channels; c++) {
    size_t i = count == 1 ? 0 : (size_t)c;
    made[c] = is_integer ? (double)qb_view_integer(&constant->view, i) : qb_view_real(&constant->view, i);
    if (!isfinite(made[c]))
      return qb_import_fail(in, QB_ERROR_NUMERIC, "its constant has an infinite or undefined entry");
  }
  *numbers = made;
  return QB_OK;
}

/* A sum with more added: other readers keep the one before. */
static qb_status add_to_sum(qb_import *in, const qb_integer_sum *before, const double *more) {
  qb_integer_sum *sum = qb_import_alloc(in, 1, sizeof *sum);
  double *added = qb_import_alloc(in, (size_t)before->channels, sizeof *added);
  if (sum == NULL || added == NULL)
    return QB_ERROR_MEMORY;
  for (int64_t c = 0; c < before->channels; c++)
    added[c] = more[c] + (before->added == NULL ? 0 : before->added[c]);
  *sum = *before;
  sum->next = in->sums;
  sum->id = in->sums->id + 1;
  sum->added = added;
  in->sums = sum;
  bind_sum(in, sum);
  return QB_OK;
}

/* A constant of (count) numbers that only the importer knows. */
static qb_constant made_constant(const char *name, qb_dtype dtype, int64_t count, const void *data) {
  qb_constant constant = {.name = name, .view = {.dtype = dtype, .shape = QB_SHAPE(count), .data = data}};
  for (int form = 0; form < QB_FORM_COUNT; form++)
    constant.value[form] = QB_NONE;
  return constant;
}

/* Scale and zero point of the weights, (count) each: 1, or the channels where they differ. */
static qb_status weight_grid(qb_import *in, const qb_integer_sum *sum, const double *factor, qb_constant *scale,
                             qb_constant *zero) {
  const qb_constant *given = sum->zero == QB_NONE ? NULL : &in->constants[sum->zero];
  bool varies = given != NULL && qb_view_elements(&given->view) > 1;
  for (int64_t c = 1; c < sum->channels; c++)
    varies = varies || factor[c] != factor[0];
  int64_t count = varies ? sum->channels : 1;
  float *scales = qb_import_alloc(in, (size_t)count, sizeof *scales);
  int64_t *zeros = qb_import_alloc(in, (size_t)count, sizeof *zeros);
  if (scales == NULL || zeros == NULL)
    return QB_ERROR_MEMORY;
  for (int64_t c = 0; c < count; c++) {
    size_t i = given != NULL && qb_view_elements(&given->view) > 1 ? (size_t)c : 0;
    scales[c] = (float)(factor[c] / (double)sum->x_scale);
    zeros[c] = given == NULL ? 0 : qb_view_integer(&given->view, i);
  }
  *scale = made_constant("weight scale", QB_DTYPE_F32, count, scales);
  *zero = made_constant("weight zero point", QB_DTYPE_I64, count, zeros);
  return QB_OK;
}

static qb_status bias_value(qb_import *in, const qb_integer_sum *sum, const double *numbers, qb_value_id *id) {
  const char *name = qb_arena_format(&in->graph->arena, "%s/bias", in->node->output[0]);
  const qb_shape shape = QB_SHAPE(sum->channels);
  float *data;
  if (name == NULL)
    return qb_fail_memory(in->error, "a bias", 0);
  QB_TRY(qb_graph_new_constant(in->graph, name, &shape, id, &data, in->error));
  for (int64_t c = 0; c < sum->channels; c++)
    data[c] = (float)numbers[c];
  return QB_OK;
}

/* The layer on real numbers whose outputs are factor times the sum. */
static qb_status scale_sum(qb_import *in, qb_integer_sum *sum, const double *factor) {
  qb_value_id inputs[3] = {sum->x, QB_NONE, QB_NONE};
  qb_constant scale, zero, weight;
  for (int64_t c = 0; c < sum->channels; c++)
    if (!(factor[c] > 0))
      return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it scales the integer sums of '%s' by %g, not positive",
                            sum->node, factor[c]);
  QB_TRY(weight_grid(in, sum, factor, &scale, &zero));
  QB_TRY(qb_import_dequantized_by(in, &in->constants[sum->weight], &scale, &zero, sum->weight_axis, &weight));
  QB_TRY(qb_import_value(in, &weight, sum->op == QB_OP_CONV ? QB_FORM_PLAIN : QB_FORM_TRANSPOSED, 0, &inputs[1]));
  if (sum->added != NULL) {
    double *scaled = qb_import_alloc(in, (size_t)sum->channels, sizeof *scaled);
    if (scaled == NULL)
      return QB_ERROR_MEMORY;
    for (int64_t c = 0; c < sum->channels; c++)
      scaled[c] = factor[c] * sum->added[c];
    QB_TRY(bias_value(in, sum, scaled, &inputs[2]));
  }
  qb_op op = sum->op == QB_OP_MATMUL && qb_import_shape(in, sum->x)->rank == 2 ? QB_OP_GEMM : sum->op;
  QB_TRY(qb_import_emit(in, op, NULL, inputs, 3, &sum->attributes, NULL, &sum->output));
  return QB_OK;
}

qb_status qb_rule_integer_sum(qb_import *in) {
  const char *op = in->node->op_type;
  size_t slot = find_sum(in, 0) != NULL ? 0 : 1;
  qb_integer_sum *sum = find_sum(in, slot);
  qb_dtype to = (qb_dtype)qb_import_int(in, "to", 0);
  if (strcmp(op, "Cast") == 0 && (to == QB_DTYPE_F32 || to == QB_DTYPE_I32 || to == QB_DTYPE_I64)) {
    bind_sum(in, sum);
    return QB_OK;
  }
  bool add = strcmp(op, "Add") == 0;
  qb_constant *constant = NULL;
  if (sum != NULL && in->node->n_input == 2 && (add || strcmp(op, "Mul") == 0))
    QB_TRY(qb_import_constant(in, 1 - slot, &constant));
  if (constant == NULL)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "it reads sums of integer codes; only Cast, Add of a constant and Mul by a constant scale "
                          "may follow ConvInteger and MatMulInteger (a scale that is computed is dynamic "
                          "quantization)");
  const double *numbers;
  QB_TRY(channel_numbers(in, sum, constant, &numbers));
  return add ? add_to_sum(in, sum, numbers) : scale_sum(in, sum, numbers);
}

/* ------------------------------------------------------------------------------------------------------------- bias */

static const qb_integer_sum *sum_of_output(const qb_import *in, qb_value_id value) {
  for (const qb_integer_sum *sum = in->sums; sum != NULL; sum = sum->next)
    if (sum->output == value)
      return sum;
  return NULL;
}

qb_status qb_import_add_bias(qb_import *in, bool *done) {
  *done = false;
  for (size_t slot = 0; slot < 2; slot++) {
    qb_constant *constant;
    if (!qb_import_has(in, slot) || !qb_import_has(in, 1 - slot) ||
        qb_import_symbol(in, slot)->binding != QB_ACTIVATION)
      continue;
    qb_value_id x = qb_import_symbol(in, slot)->id, bias;
    const qb_integer_sum *sum = sum_of_output(in, x);
    QB_TRY(qb_import_constant(in, 1 - slot, &constant));
    qb_node_id layer = in->graph->values[x].producer;
    if (sum == NULL || sum->added != NULL || constant == NULL || layer == QB_NONE ||
        (sum->op == QB_OP_MATMUL && in->graph->nodes[layer].op != QB_OP_GEMM) || !qb_import_is_only_reader(in, x))
      continue;
    const double *numbers;
    QB_TRY(channel_numbers(in, sum, constant, &numbers));
    QB_TRY(bias_value(in, sum, numbers, &bias));
    QB_TRY(qb_graph_set_input(in->graph, layer, 2, bias, in->error));
    *done = true;
    return qb_import_take_over(in, x);
  }
  return QB_OK;
}
