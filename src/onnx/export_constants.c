/* Constants of a written file: float initializers, and packed integers with their DequantizeLinear. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "onnx/export.h"
#include "onnx/import.h"

/* ------------------------------------------------------------------------------------------------------- carriers */

/* The integer type that holds codes of that many bits, and the first opset whose DequantizeLinear takes it. */
static qb_dtype find_carrier(const qb_codes *codes, bool compat, int64_t *since) {
  bool s = codes->is_signed;
  *since = codes->axis == QB_NONE ? 10 : 13;
  if (codes->bits > 16)
    return QB_DTYPE_I32;
  if (codes->bits > 8) {
    *since = 21;
    return s ? QB_DTYPE_I16 : QB_DTYPE_U16;
  }
  if (codes->bits > 4 || compat)
    return s ? QB_DTYPE_I8 : QB_DTYPE_U8;
  *since = codes->bits > 2 ? 21 : 25;
  if (codes->bits > 2)
    return s ? QB_DTYPE_I4 : QB_DTYPE_U4;
  return s ? QB_DTYPE_I2 : QB_DTYPE_U2;
}

static qb_status need_opset(qb_export *x, int64_t since) {
  if (since > x->opset)
    x->opset = since;
  return QB_OK;
}

static qb_status constant_opset(qb_export *x, const qb_value *value) {
  int64_t since;
  const qb_codes *codes = value->codes;
  if (codes == NULL)
    return QB_OK;
  if (x->settings->compat && codes->bits > 8 && codes->bits <= 16)
    return qb_fail(x->error, QB_ERROR_UNSUPPORTED,
                   "%s: weight '%s' has %d bits, which needs opset 21; without newer opsets (compat) at most 8 bits "
                   "can be stored",
                   x->document->path, value->name, codes->bits);
  (void)find_carrier(codes, x->settings->compat, &since);
  return need_opset(x, since);
}

/* Nodes that passes made: caps per channel need the broadcasting Min, 16-bit activations newer quantizers. */
static int64_t node_opset(const qb_export *x, const qb_node *node) {
  if (node->op == QB_OP_CLIP && node->attributes.clip.hi_channels != NULL)
    return 8;
  if (node->origin != QB_NONE || (node->op != QB_OP_QUANTIZE_LINEAR && node->op != QB_OP_DEQUANTIZE_LINEAR))
    return 0;
  float range = node->attributes.quantize.hi - node->attributes.quantize.lo;
  if (range > 255 || range < 255)
    return range <= 3 ? 25 : 21;
  return qb_shape_elements(&x->graph->values[node->inputs[1]].shape) == 1 ? 10 : 13;
}

qb_status qb_export_choose_opset(qb_export *x) {
  x->opset = x->document->opset;
  for (qb_value_id v = 0; v < x->graph->value_count; v++)
    if (x->changed[v] && qb_graph_use_count(x->graph, v) > 0)
      QB_TRY(constant_opset(x, &x->graph->values[v]));
  for (qb_node_id n = 0; n < x->graph->node_count; n++)
    QB_TRY(need_opset(x, node_opset(x, &x->graph->nodes[n])));
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- packing */

/* Index into a (rows, columns) tensor of the element that lies at `index` in its transpose. */
static size_t transposed_index(const qb_shape *shape, size_t index) {
  size_t rows = (size_t)shape->dims[0], columns = (size_t)shape->dims[1];
  return index % rows * columns + index / rows;
}

static qb_shape stored_shape(const qb_export *x, qb_value_id id) {
  qb_shape shape = x->graph->values[id].shape;
  return x->stored_transposed[id] ? QB_SHAPE(shape.dims[1], shape.dims[0]) : shape;
}

/* Writes `code` as element `index` of a packed array of `bits` per element, lowest bits first. */
static void pack(unsigned char *bytes, size_t index, int bits, int64_t code) {
  if (bits >= 8) {
    memcpy(bytes + index * (size_t)bits / 8, &code, (size_t)bits / 8); /* little-endian: the low bytes */
    return;
  }
  size_t per_byte = 8 / (size_t)bits;
  unsigned field = (unsigned)code & ((1u << bits) - 1u);
  bytes[index / per_byte] = (unsigned char)(bytes[index / per_byte] | field << (index % per_byte * (size_t)bits));
}

/* A written file must mean what the graph means: every value is its code's, and every code fits its width. */
static qb_status check_codes(qb_export *x, const qb_value *value) {
  const qb_codes *codes = value->codes;
  int64_t lo = codes->is_signed ? -((int64_t)1 << (codes->bits - 1)) : 0, hi = lo + ((int64_t)1 << codes->bits) - 1;
  size_t inner = 1, length = 1, count = qb_shape_elements(&value->shape);
  if (codes->axis != QB_NONE) {
    length = (size_t)value->shape.dims[codes->axis];
    for (int32_t i = codes->axis + 1; i < value->shape.rank; i++)
      inner *= (size_t)value->shape.dims[i];
  }
  if (!qb_shape_equal(&codes->codes.shape, &value->shape) ||
      (codes->scale_count != 1 && (size_t)codes->scale_count != length))
    return qb_fail(x->error, QB_ERROR_SHAPE, "%s: weight '%s' and its codes have different shapes", x->document->path,
                   value->name);
  for (size_t i = 0; i < count; i++) {
    size_t c = codes->scale_count == 1 ? 0 : i / inner % length;
    int64_t code = qb_view_integer(&codes->codes, i), zero = codes->zero_point == NULL ? 0 : codes->zero_point[c];
    if (code < lo || code > hi || zero < lo || zero > hi)
      return qb_fail(x->error, QB_ERROR_NUMERIC, "%s: weight '%s': code %lld at element %zu does not fit into %d bits",
                     x->document->path, value->name, (long long)code, i, codes->bits);
    if ((float)(code - zero) * codes->scale[c] != qb_view_f32(&value->constant)[i])
      return qb_fail(x->error, QB_ERROR_NUMERIC, "%s: weight '%s': element %zu is %g, but its code stands for %g",
                     x->document->path, value->name, i, (double)qb_view_f32(&value->constant)[i],
                     (double)((float)(code - zero) * codes->scale[c]));
  }
  return QB_OK;
}

static const char *write_codes(qb_export *x, qb_value_id id, const char *name, qb_dtype carrier) {
  const qb_view *codes = &x->graph->values[id].codes->codes;
  const qb_shape shape = stored_shape(x, id);
  size_t count = qb_shape_elements(&shape), size;
  if (!qb_dtype_size(carrier, count, &size))
    return NULL;
  unsigned char *bytes = qb_export_alloc(x, size, 1);
  if (bytes == NULL)
    return NULL;
  for (size_t i = 0; i < count; i++) {
    size_t from = x->stored_transposed[id] ? transposed_index(&codes->shape, i) : i;
    pack(bytes, i, qb_dtype_bits(carrier), qb_view_integer(codes, from));
  }
  return qb_export_tensor(x, name, carrier, &shape, bytes);
}

static const char *write_zero_points(qb_export *x, const qb_codes *codes, const char *base, qb_dtype carrier,
                                     const qb_shape *shape) {
  size_t size, count = (size_t)codes->scale_count;
  bool any = false;
  for (size_t i = 0; codes->zero_point != NULL && i < count; i++)
    any = any || codes->zero_point[i] != 0;
  if (!any || !qb_dtype_size(carrier, count, &size))
    return NULL;
  unsigned char *bytes = qb_export_alloc(x, size, 1);
  if (bytes == NULL)
    return NULL;
  for (size_t i = 0; i < count; i++)
    pack(bytes, i, qb_dtype_bits(carrier), codes->zero_point[i]);
  return qb_export_tensor(x, qb_export_name(x, base, "zero_point"), carrier, shape, bytes);
}

/* Odd widths lie in the next carrier; the metadata tell the true range. */
static void note_bits(qb_export *x, const char *tensor, int32_t bits) {
  if (x->bits_count == x->bits_capacity) {
    int32_t capacity = x->bits_capacity > 0 ? 2 * x->bits_capacity : 64;
    qb_onnx_metadata_entry *grown = qb_export_alloc(x, (size_t)capacity, sizeof *grown);
    if (grown == NULL)
      return;
    if (x->bits_count > 0)
      memcpy(grown, x->bits, (size_t)x->bits_count * sizeof *grown);
    x->bits = grown;
    x->bits_capacity = capacity;
  }
  const char *key = qb_arena_format(&x->arena, "qbound.bits.%s", tensor);
  const char *value = qb_arena_format(&x->arena, "%d", bits);
  x->out_of_memory = x->out_of_memory || key == NULL || value == NULL;
  x->bits[x->bits_count++] = (qb_onnx_metadata_entry){.key = key, .value = value};
}

/* base_quantized, base_scale, base_zero_point -> DequantizeLinear -> base */
static qb_status write_quantized(qb_export *x, qb_value_id id, const char *base) {
  const qb_value *value = &x->graph->values[id];
  const qb_codes *codes = value->codes;
  int64_t since;
  QB_TRY(check_codes(x, value));
  qb_dtype carrier = find_carrier(codes, x->settings->compat, &since);
  const qb_shape scale_shape = codes->axis == QB_NONE ? (qb_shape){0} : QB_SHAPE(codes->scale_count);
  const char *tensor = write_codes(x, id, qb_export_name(x, base, "quantized"), carrier);
  const char *scale = qb_export_tensor(x, qb_export_name(x, base, "scale"), QB_DTYPE_F32, &scale_shape, codes->scale);
  const char *zero = write_zero_points(x, codes, base, carrier, &scale_shape);
  const char *label = qb_arena_format(&x->arena, "%s_dequantize", base);
  Onnx__NodeProto *node = qb_export_node(x, "DequantizeLinear", label, base);
  qb_export_input(x, node, tensor);
  qb_export_input(x, node, scale);
  if (zero != NULL)
    qb_export_input(x, node, zero);
  if (codes->axis != QB_NONE)
    qb_export_int(x, node, "axis", x->stored_transposed[id] ? 1 - codes->axis : codes->axis);
  if (codes->bits < qb_dtype_bits(carrier) && tensor != NULL)
    note_bits(x, tensor, codes->bits);
  return QB_OK;
}

static void write_floats(qb_export *x, qb_value_id id, const char *base) {
  const qb_view *view = &x->graph->values[id].constant;
  const float *data = qb_view_f32(view);
  const qb_shape shape = stored_shape(x, id);
  size_t count = qb_shape_elements(&shape);
  if (x->stored_transposed[id]) {
    float *copy = qb_export_alloc(x, count, sizeof *copy);
    if (copy == NULL)
      return;
    for (size_t i = 0; i < count; i++)
      copy[i] = data[transposed_index(&view->shape, i)];
    data = copy;
  }
  qb_export_tensor(x, base, QB_DTYPE_F32, &shape, data);
}

qb_status qb_export_make_constant(qb_export *x, qb_value_id id, const char *base) {
  if (x->graph->values[id].codes != NULL)
    return write_quantized(x, id, base);
  write_floats(x, id, base);
  return QB_OK;
}
