/* Quantization of an activation that is written as arithmetic:
 *
 *   x -> Mul 1/s (or Div s) -> [Add z] -> Round, or Add 1/2 and Floor -> Clip -> [Sub z] -> Mul s
 *
 * becomes QuantizeLinear, made at Round or Floor from the nodes in front of it, and DequantizeLinear, made at the Mul
 * behind the codes. A Clip, in front of the rounding or behind it, gives the range of the codes. Round and Floor of
 * anything else are a quantizer of step 1. So matching, bounds and the verifier meet one form of quantization. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "onnx/import.h"

/* Codes up to here, and products of them with a float32 scale, are exact in double. */
#define LARGEST_CODE 0x1p24f
/* factor times scale may differ from 1 by this much: a reciprocal rounded to float32 differs by 2^-24. */
#define LARGEST_DEVIATION 0x1p-23

typedef struct fixed_point {
  qb_value_id x; /* what is quantized */
  float scale, factor;
  double added; /* to the quotient: the zero point, or that and 1/2 */
  float lo, hi;
} fixed_point;

static qb_node *producer_of(const qb_import *in, qb_value_id value) {
  qb_node_id node = in->graph->values[value].producer;
  return node == QB_NONE ? NULL : &in->graph->nodes[node];
}

static bool is_scalar(const qb_import *in, qb_value_id value) {
  return value != QB_NONE && in->graph->values[value].is_constant &&
         qb_shape_elements(&in->graph->values[value].shape) == 1;
}

static float scalar(const qb_import *in, qb_value_id value) {
  return qb_view_f32(&in->graph->values[value].constant)[0];
}

/* The scalar constant of a node of two inputs, with the other input in *other. */
static bool scalar_operand(const qb_import *in, const qb_node *node, bool may_swap, qb_value_id *other, float *number) {
  for (int slot = 1; node->input_count == 2 && slot >= (may_swap ? 0 : 1); slot--)
    if (is_scalar(in, node->inputs[slot]) && !in->graph->values[node->inputs[1 - slot]].is_constant) {
      *other = node->inputs[1 - slot];
      *number = scalar(in, node->inputs[slot]);
      return true;
    }
  return false;
}

/* ------------------------------------------------------------------------------------- what is in front of rounding */

static bool is_code(double x) { return isinf(x) || (fabs(x) <= (double)LARGEST_CODE && nearbyint(x) == x); }

/* Takes the Clip, Add or Sub that makes f->x into the quantizer. */
static bool step_over(const qb_import *in, fixed_point *f) {
  const qb_node *node = producer_of(in, f->x);
  float number;
  qb_value_id other;
  if (node == NULL)
    return false;
  double zero = floor(f->added);
  if (node->op == QB_OP_CLIP && node->attributes.clip.hi_channels == NULL && isinf(f->lo) && isinf(f->hi) &&
      is_code((double)node->attributes.clip.lo) && is_code((double)node->attributes.clip.hi)) {
    f->lo = (float)((double)node->attributes.clip.lo + zero);
    f->hi = (float)((double)node->attributes.clip.hi + zero);
    f->x = node->inputs[0];
    return true;
  }
  if ((node->op != QB_OP_ADD && node->op != QB_OP_SUB) ||
      !scalar_operand(in, node, node->op == QB_OP_ADD, &other, &number))
    return false;
  double added = f->added + (node->op == QB_OP_ADD ? (double)number : -(double)number);
  if (nearbyint(2 * added) != 2 * added || fabs(added) > (double)LARGEST_CODE)
    return false;
  f->added = added;
  f->x = other;
  return true;
}

/* The Mul or Div that makes f->x becomes scale and factor. A reciprocal that is no float32 keeps its factor. */
static void read_scale(const qb_import *in, fixed_point *f) {
  const qb_node *node = producer_of(in, f->x);
  float number;
  qb_value_id other;
  f->scale = 1;
  if (node == NULL || (node->op != QB_OP_MUL && node->op != QB_OP_DIV) ||
      !scalar_operand(in, node, node->op == QB_OP_MUL, &other, &number) || !(number >= 0x1p-100f && number <= 0x1p100f))
    return;
  f->x = other;
  f->scale = node->op == QB_OP_DIV ? number : 1 / number;
  f->factor = node->op == QB_OP_DIV || (double)f->scale * (double)number == 1 ? 0 : number;
}

static qb_status new_scalar(qb_import *in, const char *part, float number, qb_value_id *id) {
  const char *name = qb_arena_format(&in->graph->arena, "%s/%s", in->node->output[0], part);
  const qb_shape shape = {0};
  float *data;
  if (name == NULL)
    return qb_fail_memory(in->error, part, 0);
  QB_TRY(qb_graph_new_constant(in->graph, name, &shape, id, &data, in->error));
  *data = number;
  return QB_OK;
}

/* Nodes that only led to the quantizer, from `value` back to its input. */
static void remove_unread(qb_import *in, qb_value_id value, qb_value_id end) {
  while (value != end) {
    const qb_node *node = producer_of(in, value);
    const int32_t symbol = qb_names_find(&in->names, in->graph->values[value].name);
    if (node == NULL || symbol < 0 || in->symbols[symbol].uses != 1 || qb_graph_use_count(in->graph, value) != 0)
      return;
    qb_value_id before = in->graph->values[node->inputs[0]].is_constant ? node->inputs[1] : node->inputs[0];
    qb_graph_remove_unused_node(in->graph, in->graph->values[value].producer);
    value = before;
  }
}

qb_status qb_rule_round(qb_import *in) {
  bool down = strcmp(in->node->op_type, "Floor") == 0;
  fixed_point f = {.lo = -INFINITY, .hi = INFINITY};
  qb_value_id inputs[3] = {QB_NONE, QB_NONE, QB_NONE}, start;
  QB_TRY(qb_import_activation(in, 0, &start));
  if (qb_import_code_source(in, start) != NULL)
    return qb_import_emit_last(in, QB_OP_IDENTITY, &start, 1, NULL, NULL); /* codes are integers already */
  f.x = start;
  while (step_over(in, &f))
    ;
  double zero = floor(f.added);
  bool half = f.added != zero;
  if (half && !down)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "it rounds a number to which %g was added; only integers may be",
                          f.added);
  read_scale(in, &f);
  const qb_attributes attributes = {.quantize = {.lo = f.lo,
                                                 .hi = f.hi,
                                                 .factor = f.factor,
                                                 .rounding = half        ? QB_ROUND_HALF_UP
                                                             : down      ? QB_ROUND_DOWN
                                                             : zero != 0 ? QB_ROUND_SHIFTED
                                                                         : QB_ROUND_EVEN}};
  inputs[0] = f.x;
  QB_TRY(new_scalar(in, "scale", f.scale, &inputs[1]));
  if (zero != 0)
    QB_TRY(new_scalar(in, "zero_point", (float)zero, &inputs[2]));
  QB_TRY(qb_import_emit_last(in, QB_OP_QUANTIZE_LINEAR, inputs, 3, &attributes, NULL));
  remove_unread(in, start, f.x);
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------- behind rounding
 */

qb_status qb_import_clip_codes(qb_import *in, qb_value_id x, const qb_clip_attributes *clip, bool *done) {
  const qb_node *source = qb_import_code_source(in, x);
  *done = source != NULL;
  if (source == NULL)
    return QB_OK;
  if (clip->hi_channels != NULL || !is_code((double)clip->lo) || !is_code((double)clip->hi))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "it clips integer codes to limits that are not integers, or not the same for all channels");
  qb_node *quantizer = producer_of(in, x);
  if (quantizer != source || !qb_import_is_only_reader(in, x))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "it clips integer codes that other nodes read unclipped; put it directly behind the "
                          "rounding");
  float lo = fminf(fmaxf(quantizer->attributes.quantize.lo, clip->lo), clip->hi);
  float hi = fminf(fmaxf(quantizer->attributes.quantize.hi, clip->lo), clip->hi);
  quantizer->attributes.quantize.lo = lo;
  quantizer->attributes.quantize.hi = hi;
  return qb_import_take_over(in, x);
}

qb_status qb_import_cast_codes(qb_import *in, bool *done) {
  qb_value_id x;
  float lo, hi;
  qb_dtype to = (qb_dtype)qb_import_int(in, "to", 0);
  QB_TRY(qb_import_activation(in, 0, &x));
  const qb_node *source = qb_import_code_source(in, x);
  *done = source != NULL;
  if (source == NULL)
    return QB_OK;
  if (to == QB_DTYPE_I32 || to == QB_DTYPE_I64 || to == QB_DTYPE_F32) {
    lo = -LARGEST_CODE;
    hi = LARGEST_CODE;
  } else if (!qb_dtype_range(to, &lo, &hi)) {
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "converting integer codes to %s is not supported",
                          qb_dtype_name(to));
  }
  if (to != QB_DTYPE_F32 && (source->attributes.quantize.lo < lo || source->attributes.quantize.hi > hi))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED, "codes from %g to %g may not fit %s; clip them before it",
                          (double)source->attributes.quantize.lo, (double)source->attributes.quantize.hi,
                          qb_dtype_name(to));
  return qb_import_emit_last(in, QB_OP_IDENTITY, &x, 1, NULL, NULL);
}

/* Codes, or codes from which a zero point was taken by Sub or Add: *codes and *zero. */
static const qb_node *shifted_codes(const qb_import *in, qb_value_id x, qb_value_id *codes, double *zero) {
  const qb_node *source = qb_import_code_source(in, x), *node = producer_of(in, x);
  float number;
  *codes = x;
  *zero = 0;
  if (source != NULL || node == NULL || (node->op != QB_OP_SUB && node->op != QB_OP_ADD) ||
      !scalar_operand(in, node, node->op == QB_OP_ADD, codes, &number) || !is_code((double)number))
    return source;
  *zero = node->op == QB_OP_SUB ? (double)number : -(double)number;
  return qb_import_code_source(in, *codes);
}

static double zero_of(const qb_import *in, const qb_node *quantizer) {
  bool has = quantizer->input_count > 2 && quantizer->inputs[2] != QB_NONE;
  return has ? (double)scalar(in, quantizer->inputs[2]) : 0;
}

/* Makes `scale` that of the quantizer where the factor in front of the rounding is its reciprocal. */
static qb_status settle_scale(qb_import *in, qb_node_id quantizer, float scale) {
  const qb_node *node = &in->graph->nodes[quantizer];
  double factor = (double)node->attributes.quantize.factor;
  qb_value_id id;
  if (factor == 0 || scalar(in, node->inputs[1]) == scale || fabs(factor * (double)scale - 1) > LARGEST_DEVIATION)
    return QB_OK;
  QB_TRY(new_scalar(in, "scale", scale, &id));
  return qb_graph_set_input(in->graph, quantizer, 1, id, in->error);
}

/* The number by which the current Mul or Div scales an activation. */
static qb_status read_number(qb_import *in, qb_value_id *x, float *number, bool *found) {
  bool is_mul = strcmp(in->node->op_type, "Mul") == 0;
  *found = false;
  for (size_t slot = is_mul ? 0 : 1; slot < 2 && !*found; slot++) {
    qb_constant *constant;
    qb_view floats;
    QB_TRY(qb_import_constant(in, slot, &constant));
    if (constant == NULL || qb_view_elements(&constant->view) != 1 || !qb_dtype_is_real(constant->view.dtype) ||
        !qb_import_has(in, 1 - slot) || qb_import_symbol(in, 1 - slot)->binding != QB_ACTIVATION)
      continue;
    QB_TRY(qb_import_floats(in, constant->name, &constant->view, false, &floats));
    *number = is_mul ? qb_view_f32(&floats)[0] : 1 / qb_view_f32(&floats)[0];
    *found = is_mul || (double)*number * (double)qb_view_f32(&floats)[0] == 1;
    *x = qb_import_symbol(in, 1 - slot)->id;
  }
  return QB_OK;
}

qb_status qb_import_scale_codes(qb_import *in, bool *done) {
  qb_value_id x, codes, inputs[3] = {QB_NONE, QB_NONE, QB_NONE};
  double zero;
  float scale;
  bool found = false;
  *done = false;
  if (strcmp(in->node->op_type, "Sub") != 0)
    QB_TRY(read_number(in, &x, &scale, &found));
  const qb_node *source = found ? shifted_codes(in, x, &codes, &zero) : NULL;
  if (source == NULL || !(scale > 0) || !isfinite(scale) || !is_scalar(in, source->inputs[1]))
    return QB_OK;
  qb_node_id quantizer = (qb_node_id)(source - in->graph->nodes);
  if (zero != zero_of(in, source))
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "it scales codes of zero point %g from which %g was subtracted; both must be the same",
                          zero_of(in, source), zero);
  QB_TRY(settle_scale(in, quantizer, scale));
  source = &in->graph->nodes[quantizer];
  inputs[0] = codes;
  inputs[1] = source->inputs[1];
  inputs[2] = source->input_count > 2 ? source->inputs[2] : QB_NONE;
  if (scalar(in, inputs[1]) != scale)
    return qb_import_fail(in, QB_ERROR_UNSUPPORTED,
                          "it scales codes by %.9g, but they were made in steps of %.9g; a bound needs the same step",
                          (double)scale, (double)scalar(in, inputs[1]));
  const qb_attributes attributes = {
      .quantize = {.lo = source->attributes.quantize.lo, .hi = source->attributes.quantize.hi}};
  QB_TRY(qb_import_emit_last(in, QB_OP_DEQUANTIZE_LINEAR, inputs, 3, &attributes, NULL));
  remove_unread(in, x, codes);
  *done = true;
  return QB_OK;
}
