/* The oneDNN engine's operators without fused neighbours: activations, pools, normalisation, sums, concatenation. */
#include <string.h>

#include "base/error.h"
#include "run/onednn.h"

qb_status onednn_attributes(onednn_engine *engine, dnnl_primitive_attr_t *attributes, qb_error *error) {
  QB_TRY(onednn_check(dnnl_primitive_attr_create(attributes), engine, "attributes", error));
  return onednn_check(dnnl_primitive_attr_set_scratchpad_mode(*attributes, dnnl_scratchpad_mode_user), engine,
                      "attributes", error);
}

qb_status onednn_describe(onednn_engine *engine, const void *operation, const_dnnl_primitive_attr_t attributes,
                          const char *what, dnnl_primitive_desc_t *description, bool *supported, qb_error *error) {
  dnnl_status_t status = dnnl_primitive_desc_create(description, operation, attributes, engine->device, NULL);
  *supported = status == dnnl_success;
  if (status == dnnl_success || status == dnnl_unimplemented || status == dnnl_invalid_arguments)
    return QB_OK;
  return onednn_check(status, engine, what, error);
}

bool onednn_is_general(const_dnnl_primitive_desc_t description) {
  const char *name = NULL;
  return dnnl_primitive_desc_query(description, dnnl_query_impl_info_str, 0, &name) == dnnl_success && name != NULL &&
         strncmp(name, "ref", 3) == 0;
}

/* Describes with the standard attributes. */
static qb_status describe(onednn_engine *engine, const void *operation, const qb_node *node,
                          dnnl_primitive_desc_t *description, bool *supported, qb_error *error) {
  dnnl_primitive_attr_t attributes;
  QB_TRY(onednn_attributes(engine, &attributes, error));
  qb_status status = onednn_describe(engine, operation, attributes, node->name, description, supported, error);
  dnnl_primitive_attr_destroy(attributes);
  return status;
}

/* Adds the step of a primitive that reads `count` arguments and writes a new place, which becomes the node's value.
 * Releases the description. */
static qb_status finish(onednn_engine *engine, const qb_node *node, dnnl_primitive_desc_t description,
                        step_argument *arguments, int32_t count, qb_error *error) {
  int32_t dst;
  qb_status status =
      onednn_new_buffer_place(engine, dnnl_primitive_desc_query_md(description, dnnl_query_dst_md, 0), &dst, error);
  if (status == QB_OK) {
    arguments[count] = (step_argument){DNNL_ARG_DST, dst};
    status = onednn_add_primitive(engine, description, arguments, count + 1, error);
  }
  dnnl_primitive_desc_destroy(description);
  if (status == QB_OK)
    engine->value_place[node->output] = dst;
  return status;
}

static const dnnl_memory_desc_t *input_md(const onednn_engine *engine, const qb_node *node, int32_t slot) {
  return &engine->places[engine->value_place[node->inputs[slot]]].md;
}

/* ---------------------------------------------------------------------------------------------------- activations */

bool onednn_eltwise(const qb_node *node, dnnl_alg_kind_t *kind, float *alpha, float *beta) {
  *alpha = *beta = 0.0f;
  *kind = dnnl_eltwise_relu;
  switch (node->op) {
  case QB_OP_RELU: return true;
  case QB_OP_LEAKY_RELU: *alpha = node->attributes.linear.alpha; return true;
  case QB_OP_CLIP:
    *kind = dnnl_eltwise_clip;
    *alpha = node->attributes.clip.lo;
    *beta = node->attributes.clip.hi;
    return node->attributes.clip.hi_channels == NULL;
  default: return false;
  }
}

static qb_status build_eltwise(onednn_engine *engine, const qb_node *node, bool *supported, qb_error *error) {
  dnnl_eltwise_desc_t operation;
  dnnl_primitive_desc_t description;
  dnnl_alg_kind_t kind;
  float alpha, beta;
  *supported = onednn_eltwise(node, &kind, &alpha, &beta) &&
               dnnl_eltwise_forward_desc_init(&operation, dnnl_forward_inference, kind, input_md(engine, node, 0),
                                              alpha, beta) == dnnl_success;
  if (!*supported)
    return QB_OK;
  QB_TRY(describe(engine, &operation, node, &description, supported, error));
  if (!*supported)
    return QB_OK;
  step_argument arguments[3] = {{DNNL_ARG_SRC, engine->value_place[node->inputs[0]]}};
  return finish(engine, node, description, arguments, 1, error);
}

/* ---------------------------------------------------------------------------------------------------------- pools */

typedef struct pool_dims {
  dnnl_dims_t kernel, stride, dilation, begin, end;
  bool sticks_out; /* some window ends beyond the padded image (ceil_mode) */
} pool_dims;

/* The library derives the output length from the pads: at the end we give it what the last window needs. */
static pool_dims find_pool_dims(const qb_window *w, const qb_shape *x, const qb_shape *y) {
  pool_dims dims = {.sticks_out = false};
  for (int axis = 0; axis < 2; axis++) {
    int64_t extent = (int64_t)w->dilation[axis] * (w->kernel[axis] - 1) + 1;
    int64_t needed = (y->dims[2 + axis] - 1) * w->stride[axis] + extent - x->dims[2 + axis] - w->pad_begin[axis];
    dims.kernel[axis] = w->kernel[axis];
    dims.stride[axis] = w->stride[axis];
    dims.dilation[axis] = w->dilation[axis] - 1;
    dims.begin[axis] = w->pad_begin[axis];
    dims.end[axis] = needed > w->pad_end[axis] ? needed : w->pad_end[axis];
    dims.sticks_out = dims.sticks_out || needed > w->pad_end[axis];
  }
  return dims;
}

static qb_status add_pool(onednn_engine *engine, const qb_node *node, dnnl_alg_kind_t kind, const pool_dims *dims,
                          const qb_shape *y, bool *supported, qb_error *error) {
  dnnl_pooling_v2_desc_t operation;
  dnnl_memory_desc_t dst;
  dnnl_primitive_desc_t description;
  dnnl_dims_t dst_dims = {y->dims[0], y->dims[1], y->dims[2], y->dims[3]};
  dnnl_memory_desc_init_by_tag(&dst, 4, dst_dims, dnnl_f32, dnnl_format_tag_any);
  *supported = dnnl_pooling_v2_forward_desc_init(&operation, dnnl_forward_inference, kind, input_md(engine, node, 0),
                                                 &dst, dims->stride, dims->kernel, dims->dilation, dims->begin,
                                                 dims->end) == dnnl_success;
  if (!*supported)
    return QB_OK;
  QB_TRY(describe(engine, &operation, node, &description, supported, error));
  if (!*supported)
    return QB_OK;
  step_argument arguments[3] = {{DNNL_ARG_SRC, engine->value_place[node->inputs[0]]}};
  return finish(engine, node, description, arguments, 1, error);
}

static qb_status build_pool(onednn_engine *engine, const qb_node *node, bool *supported, qb_error *error) {
  const qb_pool_attributes *pool = &node->attributes.pool;
  const qb_shape *x = &engine->graph->values[node->inputs[0]].shape;
  qb_shape y = qb_run_shape(&engine->graph->values[node->output], engine->batch);
  pool_dims dims = find_pool_dims(&pool->window, x, &y);
  bool include = pool->count_include_pad;
  *supported = !(node->op == QB_OP_AVERAGE_POOL && include && dims.sticks_out); /* it would divide by the whole area */
  if (!*supported)
    return QB_OK;
  dnnl_alg_kind_t kind = node->op == QB_OP_MAX_POOL ? dnnl_pooling_max
                         : include                  ? dnnl_pooling_avg_include_padding
                                                    : dnnl_pooling_avg_exclude_padding;
  return add_pool(engine, node, kind, &dims, &y, supported, error);
}

static qb_status build_global_average(onednn_engine *engine, const qb_node *node, bool *supported, qb_error *error) {
  qb_shape x = qb_run_shape(&engine->graph->values[node->inputs[0]], engine->batch);
  qb_shape y = QB_SHAPE(x.dims[0], x.dims[1], 1, 1);
  pool_dims dims = {.kernel = {x.dims[2], x.dims[3]}, .stride = {1, 1}};
  QB_TRY(add_pool(engine, node, dnnl_pooling_avg_exclude_padding, &dims, &y, supported, error));
  const qb_value *output = &engine->graph->values[node->output];
  if (!*supported || output->shape.rank == 4)
    return QB_OK;
  int32_t four = engine->value_place[node->output], plain; /* ReduceMean without the axes of length one */
  dnnl_memory_desc_t plain_md = onednn_plain_md(&y), two;
  qb_shape shape = qb_run_shape(output, engine->batch);
  two = onednn_plain_md(&shape);
  plain = four;
  if (!onednn_is_plain(&engine->places[four].md))
    QB_TRY(onednn_reordered(engine, four, &plain_md, &plain, error));
  return onednn_new_view(engine, plain, &two, &engine->value_place[node->output], error);
}

/* ------------------------------------------------------------------------------------------------- normalisation */

static qb_status build_batch_norm(onednn_engine *engine, const qb_node *node, bool *supported, qb_error *error) {
  static const int names[5] = {0, DNNL_ARG_SCALE, DNNL_ARG_SHIFT, DNNL_ARG_MEAN, DNNL_ARG_VARIANCE};
  dnnl_batch_normalization_desc_t operation;
  dnnl_primitive_desc_t description;
  step_argument arguments[8] = {{DNNL_ARG_SRC, engine->value_place[node->inputs[0]]}};
  *supported = dnnl_batch_normalization_forward_desc_init(&operation, dnnl_forward_inference, input_md(engine, node, 0),
                                                          node->attributes.batch_norm.epsilon,
                                                          dnnl_use_global_stats | dnnl_use_scale | dnnl_use_shift) ==
               dnnl_success;
  if (!*supported)
    return QB_OK;
  QB_TRY(describe(engine, &operation, node, &description, supported, error));
  if (!*supported)
    return QB_OK;
  for (int32_t slot = 1; slot < 5; slot++) {
    const qb_value *value = &engine->graph->values[node->inputs[slot]];
    dnnl_memory_desc_t md = onednn_plain_md(&value->shape);
    int32_t id;
    qb_status status = onednn_new_fixed_place(engine, &md, (void *)(uintptr_t)value->constant.data, false, &id, error);
    if (status != QB_OK) {
      dnnl_primitive_desc_destroy(description);
      return status;
    }
    arguments[slot] = (step_argument){names[slot], id};
  }
  return finish(engine, node, description, arguments, 5, error);
}

/* ---------------------------------------------------------------------------------------------------- two tensors */

/* An operand with the output's rank: activations where they are, constants with axes of length one in front. */
static qb_status operand_place(onednn_engine *engine, qb_value_id id, int32_t rank, int32_t *place_id,
                               qb_error *error) {
  const qb_value *value = &engine->graph->values[id];
  *place_id = engine->value_place[id];
  if (!value->is_constant)
    return QB_OK;
  qb_shape shape = {.rank = rank};
  for (int32_t i = 0; i < rank; i++)
    shape.dims[i] = i < rank - value->shape.rank ? 1 : value->shape.dims[i - (rank - value->shape.rank)];
  dnnl_memory_desc_t md = onednn_plain_md(&shape);
  return onednn_new_fixed_place(engine, &md, (void *)(uintptr_t)value->constant.data, false, place_id, error);
}

static dnnl_alg_kind_t binary_kind(qb_op op) {
  return op == QB_OP_ADD   ? dnnl_binary_add
         : op == QB_OP_SUB ? dnnl_binary_sub
         : op == QB_OP_MUL ? dnnl_binary_mul
                           : dnnl_binary_div;
}

static qb_status add_binary(onednn_engine *engine, const qb_node *node, int32_t a, int32_t b, bool *supported,
                            qb_error *error) {
  dnnl_binary_desc_t operation;
  dnnl_primitive_desc_t description;
  const dnnl_memory_desc_t *md = &engine->places[a].md;
  *supported = dnnl_binary_desc_init(&operation, binary_kind(node->op), md, &engine->places[b].md, md) == dnnl_success;
  if (!*supported)
    return QB_OK;
  QB_TRY(describe(engine, &operation, node, &description, supported, error));
  if (*supported && onednn_is_general(description)) { /* slower than our loops */
    dnnl_primitive_desc_destroy(description);
    *supported = false;
  }
  if (!*supported)
    return QB_OK;
  step_argument arguments[4] = {{DNNL_ARG_SRC_0, a}, {DNNL_ARG_SRC_1, b}};
  return finish(engine, node, description, arguments, 2, error);
}

/* The first operand must have the output's shape; Add and Mul may swap. */
static qb_status build_binary(onednn_engine *engine, const qb_node *node, bool *supported, qb_error *error) {
  const qb_graph *graph = engine->graph;
  qb_value_id first = node->inputs[0], second = node->inputs[1];
  const qb_shape *y = &graph->values[node->output].shape;
  bool commutes = node->op == QB_OP_ADD || node->op == QB_OP_MUL;
  if (commutes && (graph->values[first].is_constant || !qb_shape_equal(&graph->values[first].shape, y))) {
    first = node->inputs[1];
    second = node->inputs[0];
  }
  *supported = !graph->values[first].is_constant && qb_shape_equal(&graph->values[first].shape, y);
  if (!*supported)
    return QB_OK;
  int32_t a = engine->value_place[first], b;
  QB_TRY(operand_place(engine, second, y->rank, &b, error));
  if (!graph->values[second].is_constant && qb_shape_equal(&graph->values[second].shape, y)) {
    dnnl_memory_desc_t md = engine->places[a].md;
    QB_TRY(onednn_reordered(engine, b, &md, &b, error));
  }
  return add_binary(engine, node, a, b, supported, error);
}

/* -------------------------------------------------------------------------------------------------- concatenation */

static qb_status build_concat(onednn_engine *engine, const qb_node *node, bool *supported, qb_error *error) {
  dnnl_memory_desc_t parts[QB_MAX_INPUTS];
  step_argument arguments[STEP_ARGUMENTS];
  *supported = true;
  for (int32_t slot = 0; slot < node->input_count; slot++) {
    if (engine->graph->values[node->inputs[slot]].is_constant) {
      *supported = false;
      return QB_OK;
    }
    parts[slot] = *input_md(engine, node, slot);
    arguments[slot] = (step_argument){DNNL_ARG_MULTIPLE_SRC + slot, engine->value_place[node->inputs[slot]]};
  }
  dnnl_primitive_attr_t attributes;
  dnnl_primitive_desc_t description;
  QB_TRY(onednn_attributes(engine, &attributes, error));
  dnnl_status_t status =
      dnnl_concat_primitive_desc_create(&description, NULL, node->input_count, node->attributes.axes.axis, parts,
                                        attributes, engine->device);
  dnnl_primitive_attr_destroy(attributes);
  *supported = status == dnnl_success;
  if (!*supported)
    return status == dnnl_unimplemented ? QB_OK : onednn_check(status, engine, node->name, error);
  return finish(engine, node, description, arguments, node->input_count, error);
}

/* --------------------------------------------------------------------------------------------------------- choice */

qb_status onednn_build_node(onednn_engine *engine, const qb_node *node, bool *supported, qb_error *error) {
  switch (node->op) {
  case QB_OP_RELU:
  case QB_OP_LEAKY_RELU:
  case QB_OP_CLIP: return build_eltwise(engine, node, supported, error);
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL: return build_pool(engine, node, supported, error);
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: return build_global_average(engine, node, supported, error);
  case QB_OP_BATCH_NORM: return build_batch_norm(engine, node, supported, error);
  case QB_OP_ADD:
  case QB_OP_SUB:
  case QB_OP_MUL:
  case QB_OP_DIV: return build_binary(engine, node, supported, error);
  case QB_OP_CONCAT: return build_concat(engine, node, supported, error);
  default: *supported = false; return QB_OK;
  }
}
