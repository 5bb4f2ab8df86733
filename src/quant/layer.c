/* Cutting weights into parts and writing codes back; see layer.h. */
#include "quant/layer.h"

#include "base/alloc.h"
#include "base/error.h"

qb_cut qb_cut_weight(const qb_graph *graph, const qb_linear *linear, qb_granularity granularity) {
  const qb_shape *shape = &graph->values[linear->weight].shape;
  qb_cut cut = {.axis = QB_NONE, .outer = 1, .count = 1, .inner = qb_shape_elements(shape)};
  if (granularity == QB_PER_TENSOR)
    return cut;
  cut.axis = linear->channel_axis == 1 && linear->group == 1 ? 1 : 0;
  cut.inner = 1;
  for (int32_t i = 0; i < shape->rank; i++) {
    size_t length = (size_t)shape->dims[i];
    if (i < cut.axis)
      cut.outer *= length;
    else if (i == cut.axis)
      cut.count = length;
    else
      cut.inner *= length;
  }
  return cut;
}

qb_slice qb_cut_slice(const qb_cut *cut, const float *weights, size_t part) {
  return (qb_slice){.data = weights + part * cut->inner,
                    .runs = cut->outer,
                    .length = cut->inner,
                    .stride = cut->count * cut->inner};
}

static size_t cut_elements(const qb_cut *cut) { return cut->outer * cut->count * cut->inner; }

qb_status qb_layer_codes_create(const qb_cut *cut, const float *weights, const qb_quantize_settings *settings, int bits,
                                qb_layer_codes *layer, qb_error *error) {
  *layer = (qb_layer_codes){.cut = *cut,
                            .bits = bits,
                            .is_signed = !settings->affine,
                            .stored_unsigned = settings->unsigned_weights && !settings->affine};
  layer->grids = qb_alloc(cut->count, sizeof *layer->grids);
  layer->codes = qb_alloc(cut_elements(cut), sizeof *layer->codes);
  if (layer->grids == NULL || layer->codes == NULL)
    return qb_fail_memory(error, "the codes of a layer", cut_elements(cut) * sizeof *layer->codes);
#pragma omp parallel for schedule(dynamic)
  for (size_t part = 0; part < cut->count; part++) {
    qb_slice slice = qb_cut_slice(cut, weights, part);
    layer->grids[part] = qb_grid_choose(&slice, settings, bits);
  }
  return QB_OK;
}

void qb_layer_codes_free(qb_layer_codes *layer) {
  qb_free(layer->grids);
  qb_free(layer->codes);
  *layer = (qb_layer_codes){0};
}

void qb_layer_codes_nearest(qb_layer_codes *layer, const float *weights) {
  const qb_cut *cut = &layer->cut;
  for (size_t run = 0; run < cut->outer * cut->count; run++)
    qb_grid_nearest_run(&layer->grids[run % cut->count], weights + run * cut->inner, cut->inner,
                        layer->codes + run * cut->inner);
}

/* ------------------------------------------------------------------------------------------------ writing back */

static qb_dtype carrier(int32_t bits, bool is_signed) {
  if (bits <= 8)
    return is_signed ? QB_DTYPE_I8 : QB_DTYPE_U8;
  return is_signed ? QB_DTYPE_I16 : QB_DTYPE_U16;
}

/* Narrows codes plus `offset` to their carrier, one loop per type. */
static void store(const int32_t *codes, size_t count, int32_t offset, qb_dtype dtype, void *data) {
  int8_t *narrow = data;
  uint8_t *narrow_unsigned = data;
  int16_t *wide = data;
  uint16_t *wide_unsigned = data;
  for (size_t i = 0; i < count && dtype == QB_DTYPE_I8; i++)
    narrow[i] = (int8_t)(codes[i] + offset);
  for (size_t i = 0; i < count && dtype == QB_DTYPE_U8; i++)
    narrow_unsigned[i] = (uint8_t)(codes[i] + offset);
  for (size_t i = 0; i < count && dtype == QB_DTYPE_I16; i++)
    wide[i] = (int16_t)(codes[i] + offset);
  for (size_t i = 0; i < count && dtype == QB_DTYPE_U16; i++)
    wide_unsigned[i] = (uint16_t)(codes[i] + offset);
}

void qb_layer_codes_values(const qb_layer_codes *layer, float *values) {
  const qb_cut *cut = &layer->cut;
  for (size_t run = 0; run < cut->outer * cut->count; run++) {
    qb_grid grid = layer->grids[run % cut->count];
    const int32_t *codes = layer->codes + run * cut->inner;
    for (size_t i = 0; i < cut->inner; i++)
      values[run * cut->inner + i] = qb_grid_value(&grid, codes[i]);
  }
}

qb_status qb_layer_codes_write(const qb_layer_codes *layer, qb_graph *graph, qb_value_id weight, qb_error *error) {
  const qb_cut *cut = &layer->cut;
  size_t elements = cut_elements(cut);
  bool is_signed = layer->is_signed && !layer->stored_unsigned;
  int32_t offset = layer->stored_unsigned ? (int32_t)1 << (layer->bits - 1) : 0;
  qb_dtype dtype = carrier(layer->bits, is_signed);
  qb_codes *codes = qb_arena_alloc(&graph->arena, 1, sizeof *codes);
  float *scale = qb_arena_alloc(&graph->arena, cut->count, sizeof *scale);
  int32_t *zero_point = qb_arena_alloc(&graph->arena, cut->count, sizeof *zero_point);
  void *packed = qb_arena_alloc(&graph->arena, elements, layer->bits <= 8 ? 1 : 2);
  float *values = codes == NULL || scale == NULL || zero_point == NULL || packed == NULL
                      ? NULL
                      : qb_graph_replace_constant(graph, weight);
  if (values == NULL)
    return qb_fail_memory(error, graph->values[weight].name, elements * sizeof *values);

  for (size_t part = 0; part < cut->count; part++) {
    scale[part] = layer->grids[part].scale;
    zero_point[part] = layer->grids[part].zero_point + offset;
  }
  qb_layer_codes_values(layer, values);
  store(layer->codes, elements, offset, dtype, packed);
  *codes = (qb_codes){.bits = layer->bits,
                      .is_signed = is_signed,
                      .axis = cut->axis,
                      .scale_count = (int32_t)cut->count,
                      .scale = scale,
                      .zero_point = is_signed ? NULL : zero_point,
                      .codes = {.dtype = dtype, .shape = graph->values[weight].shape, .data = packed}};
  graph->values[weight].codes = codes;
  return QB_OK;
}
