/* Convolutions of the oneDNN engine, with what is fused behind them. Matrix products are in product.c. */
#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "run/onednn.h"

/* A layer as oneDNN sees it, before a primitive exists. */
typedef struct layer {
  const qb_node *node;
  union {
    dnnl_convolution_desc_t convolution;
    dnnl_deconvolution_desc_t deconvolution;
  } operation;
  dnnl_memory_desc_t weights; /* as the graph holds them */
  int32_t src;                /* place of the input, of the operation's rank */
  bool has_bias;
  bool described; /* false: the library refuses the geometry */
} layer;

static void any_layout(dnnl_memory_desc_t *md, int rank, const dnnl_dims_t dims) {
  dnnl_memory_desc_init_by_tag(md, rank, dims, dnnl_f32, dnnl_format_tag_any);
}

static void shape_to_dims(const qb_shape *shape, dnnl_dims_t dims) {
  for (int32_t i = 0; i < shape->rank; i++)
    dims[i] = shape->dims[i];
}

/* -------------------------------------------------------------------------------------------------- descriptions */

/* Padding at the end such that the library's output length is ours; what it reads there is zero in any case. */
static void end_padding(const qb_window *window, const qb_shape *x, const qb_shape *y, dnnl_dims_t pad_end) {
  for (int axis = 0; axis < 2; axis++) {
    int64_t extent = (int64_t)window->dilation[axis] * (window->kernel[axis] - 1) + 1;
    int64_t needed =
        (y->dims[2 + axis] - 1) * window->stride[axis] + extent - x->dims[2 + axis] - window->pad_begin[axis];
    pad_end[axis] = needed;
  }
}

/* (G, OC/G, IC/G, KH, KW), without G when it is 1. ONNX stores a ConvTranspose as (IC, OC/G, KH, KW). */
static void convolution_weights(layer *l, const qb_shape *w) {
  int32_t group = l->node->attributes.conv.group;
  int64_t area = w->dims[2] * w->dims[3];
  bool transpose = l->node->op == QB_OP_CONV_TRANSPOSE;
  int64_t oc = transpose ? w->dims[1] : w->dims[0] / group, ic = transpose ? w->dims[0] / group : w->dims[1];
  int64_t oc_stride = transpose ? area : ic * area, ic_stride = transpose ? oc * area : area;
  dnnl_dims_t dims = {group, oc, ic, w->dims[2], w->dims[3]};
  dnnl_dims_t strides = {oc * ic * area, oc_stride, ic_stride, w->dims[3], 1};
  int skip = group == 1;
  dnnl_memory_desc_init_by_strides(&l->weights, 5 - skip, dims + skip, dnnl_f32, strides + skip);
}

static void describe_convolution(const onednn_engine *engine, layer *l) {
  const qb_graph *graph = engine->graph;
  const qb_window *window = &l->node->attributes.conv.window;
  qb_shape x = qb_run_shape(&graph->values[l->node->inputs[0]], engine->batch);
  qb_shape y = qb_run_shape(&graph->values[l->node->output], engine->batch);
  const qb_shape *w = &graph->values[l->node->inputs[1]].shape;
  dnnl_memory_desc_t src, weights, bias, dst;
  dnnl_dims_t src_dims, dst_dims, strides, dilates, begin, end;
  convolution_weights(l, w);
  shape_to_dims(&x, src_dims);
  shape_to_dims(&y, dst_dims);
  any_layout(&src, 4, src_dims);
  any_layout(&dst, 4, dst_dims);
  any_layout(&weights, l->weights.ndims, l->weights.dims);
  any_layout(&bias, 1, (dnnl_dims_t){dst_dims[1]});
  for (int axis = 0; axis < 2; axis++) {
    strides[axis] = window->stride[axis];
    dilates[axis] = window->dilation[axis] - 1;
    begin[axis] = window->pad_begin[axis];
    end[axis] = window->pad_end[axis];
  }
  dnnl_status_t status;
  if (l->node->op == QB_OP_CONV_TRANSPOSE) {
    end_padding(window, &y, &x, end);
    status =
        dnnl_dilated_deconvolution_forward_desc_init(&l->operation.deconvolution, dnnl_forward_inference,
                                                     dnnl_deconvolution_direct, &src, &weights,
                                                     l->has_bias ? &bias : NULL, &dst, strides, dilates, begin, end);
  } else {
    status = dnnl_dilated_convolution_forward_desc_init(&l->operation.convolution, dnnl_forward_inference,
                                                        dnnl_convolution_direct, &src, &weights,
                                                        l->has_bias ? &bias : NULL, &dst, strides, dilates, begin, end);
  }
  l->src = engine->value_place[l->node->inputs[0]];
  l->described = status == dnnl_success;
}

/* ------------------------------------------------------------------------------------------------ fused operators */

/* How many posts can be taken: an Add only when the sum may be written over the residual's buffer. */
static int32_t usable_posts(const onednn_engine *engine, const qb_chain *chain) {
  for (int32_t i = 0; i < chain->count; i++) {
    if (engine->graph->nodes[chain->posts[i]].op != QB_OP_ADD)
      continue;
    int32_t id = engine->value_place[chain->residual];
    const place *p = id == QB_NONE ? NULL : &engine->places[id];
    if (p == NULL || p->kind != PLACE_BUFFER || engine->shared[p->buffer])
      return i;
  }
  return chain->count;
}

/* One limit per channel, as the library's second operand of a minimum: (1, C, 1, 1). */
static dnnl_memory_desc_t limits_md(const onednn_engine *engine, const qb_node *clip) {
  return onednn_plain_md(&QB_SHAPE(1, engine->graph->values[clip->output].shape.dims[1], 1, 1));
}

/* Appends the operators of one node; *entries counts them. */
static dnnl_status_t append_post(const onednn_engine *engine, const qb_node *node, dnnl_post_ops_t posts,
                                 int *entries) {
  dnnl_alg_kind_t kind;
  float alpha, beta;
  ++*entries;
  if (node->op == QB_OP_ADD)
    return dnnl_post_ops_append_sum(posts, 1.0f);
  if (onednn_eltwise(node, &kind, &alpha, &beta))
    return dnnl_post_ops_append_eltwise(posts, 1.0f, kind, alpha, beta);
  dnnl_memory_desc_t limits = limits_md(engine, node); /* a Clip with hi_channels */
  dnnl_status_t status =
      dnnl_post_ops_append_eltwise(posts, 1.0f, dnnl_eltwise_clip, node->attributes.clip.lo, INFINITY);
  ++*entries;
  return status == dnnl_success ? dnnl_post_ops_append_binary(posts, dnnl_binary_min, &limits) : status;
}

static qb_status post_attributes(onednn_engine *engine, const qb_chain *chain, int32_t count,
                                 dnnl_primitive_attr_t *attributes, qb_error *error) {
  dnnl_post_ops_t posts;
  int entries = 0;
  dnnl_status_t status = dnnl_post_ops_create(&posts);
  for (int32_t i = 0; i < count && status == dnnl_success; i++)
    status = append_post(engine, &engine->graph->nodes[chain->posts[i]], posts, &entries);
  QB_TRY(onednn_check(status, engine, "fused operators", error));
  qb_status result = onednn_attributes(engine, attributes, error);
  if (result == QB_OK)
    result = onednn_check(dnnl_primitive_attr_set_post_ops(*attributes, posts), engine, "fused operators", error);
  dnnl_post_ops_destroy(posts);
  return result;
}

/* The limits of every fused Clip with hi_channels, under the number of its entry. */
static qb_status add_limits(onednn_engine *engine, const qb_chain *chain, int32_t fused, step_argument *arguments,
                            int32_t *count, qb_error *error) {
  int entries = 0;
  for (int32_t i = 0; i < fused; i++) {
    const qb_node *node = &engine->graph->nodes[chain->posts[i]];
    entries++;
    if (node->op != QB_OP_CLIP || node->attributes.clip.hi_channels == NULL)
      continue;
    dnnl_memory_desc_t md = limits_md(engine, node);
    int32_t id;
    QB_TRY(
        onednn_new_fixed_place(engine, &md, (void *)(uintptr_t)node->attributes.clip.hi_channels, false, &id, error));
    arguments[(*count)++] = (step_argument){DNNL_ARG_ATTR_MULTIPLE_POST_OP(entries) | DNNL_ARG_SRC_1, id};
    entries++;
  }
  return QB_OK;
}

/* A description with as many posts as possible: *count is lowered to 0 when all of them are not available. */
static qb_status describe_layer(onednn_engine *engine, const qb_chain *chain, const layer *l, int32_t *count,
                                dnnl_primitive_desc_t *description, bool *supported, qb_error *error) {
  for (;;) {
    dnnl_primitive_attr_t attributes;
    QB_TRY(post_attributes(engine, chain, *count, &attributes, error));
    qb_status status = onednn_describe(engine, &l->operation, attributes, l->node->name, description, supported, error);
    dnnl_primitive_attr_destroy(attributes);
    if (status != QB_OK || *count == 0 || (*supported && !onednn_is_general(*description)))
      return status;
    if (*supported)
      dnnl_primitive_desc_destroy(*description);
    *count = 0;
  }
}

/* ------------------------------------------------------------------------------------------------------- operands */

/* Parameters in the layout that the primitive wants, reordered now and once. */
static qb_status place_parameters(onednn_engine *engine, const dnnl_memory_desc_t *have, const dnnl_memory_desc_t *want,
                                  const float *data, int32_t *id, qb_error *error) {
  if (dnnl_memory_desc_equal(have, want))
    return onednn_new_fixed_place(engine, have, (void *)(uintptr_t)data, false, id, error);
  void *reordered = qb_alloc(dnnl_memory_desc_get_size(want), 1);
  if (reordered == NULL)
    return qb_fail_memory(error, "weights", dnnl_memory_desc_get_size(want));
  dnnl_primitive_desc_t description = NULL;
  dnnl_primitive_t primitive = NULL;
  dnnl_memory_t from = NULL, to = NULL;
  dnnl_status_t status =
      dnnl_reorder_primitive_desc_create(&description, have, engine->device, want, engine->device, NULL);
  if (status == dnnl_success)
    status = dnnl_primitive_create(&primitive, description);
  if (status == dnnl_success)
    status = dnnl_memory_create(&from, have, engine->device, (void *)(uintptr_t)data);
  if (status == dnnl_success)
    status = dnnl_memory_create(&to, want, engine->device, reordered);
  dnnl_exec_arg_t arguments[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  if (status == dnnl_success)
    status = dnnl_primitive_execute(primitive, engine->stream, 2, arguments);
  if (status == dnnl_success)
    status = dnnl_stream_wait(engine->stream);
  dnnl_memory_destroy(from);
  dnnl_memory_destroy(to);
  dnnl_primitive_destroy(primitive);
  dnnl_primitive_desc_destroy(description);
  if (status != dnnl_success) {
    qb_free(reordered);
    return onednn_check(status, engine, "reordering weights", error);
  }
  return onednn_new_fixed_place(engine, want, reordered, true, id, error);
}

/* The output's place: over the residual, or a new buffer. */
static qb_status place_output(onednn_engine *engine, const qb_chain *chain, int32_t fused, const dnnl_memory_desc_t *md,
                              int32_t *id, qb_error *error) {
  for (int32_t i = 0; i < fused; i++)
    if (engine->graph->nodes[chain->posts[i]].op == QB_OP_ADD) {
      int32_t residual;
      QB_TRY(onednn_reordered(engine, engine->value_place[chain->residual], md, &residual, error));
      place over = engine->places[residual];
      return onednn_new_place(engine, &over, id, error);
    }
  return onednn_new_buffer_place(engine, md, id, error);
}

static qb_status add_layer_step(onednn_engine *engine, const qb_chain *chain, const layer *l, int32_t fused,
                                dnnl_primitive_desc_t description, int32_t *dst, qb_error *error) {
  const qb_graph *graph = engine->graph;
  step_argument arguments[5 + QB_FUSE_MAX];
  int32_t count = 0, src, weights, bias;
  QB_TRY(
      onednn_reordered(engine, l->src, dnnl_primitive_desc_query_md(description, dnnl_query_src_md, 0), &src, error));
  arguments[count++] = (step_argument){DNNL_ARG_SRC, src};
  QB_TRY(place_parameters(engine, &l->weights, dnnl_primitive_desc_query_md(description, dnnl_query_weights_md, 0),
                          qb_view_f32(&graph->values[l->node->inputs[1]].constant), &weights, error));
  arguments[count++] = (step_argument){DNNL_ARG_WEIGHTS, weights};
  if (l->has_bias) {
    const qb_value *value = &graph->values[l->node->inputs[2]];
    dnnl_memory_desc_t have = onednn_plain_md(&value->shape);
    QB_TRY(place_parameters(engine, &have, dnnl_primitive_desc_query_md(description, dnnl_query_weights_md, 1),
                            qb_view_f32(&value->constant), &bias, error));
    arguments[count++] = (step_argument){DNNL_ARG_BIAS, bias};
  }
  QB_TRY(
      place_output(engine, chain, fused, dnnl_primitive_desc_query_md(description, dnnl_query_dst_md, 0), dst, error));
  arguments[count++] = (step_argument){DNNL_ARG_DST, *dst};
  QB_TRY(add_limits(engine, chain, fused, arguments, &count, error));
  return onednn_add_primitive(engine, description, arguments, count, error);
}

qb_status onednn_build_layer(onednn_engine *engine, const qb_chain *chain, int32_t *fused, bool *supported,
                             qb_error *error) {
  const qb_graph *graph = engine->graph;
  layer l = {.node = &graph->nodes[chain->root]};
  l.has_bias = qb_run_input(graph, l.node, 2) != NULL;
  describe_convolution(engine, &l);
  *supported = l.described;
  *fused = usable_posts(engine, chain);
  if (!l.described)
    return QB_OK;

  dnnl_primitive_desc_t description;
  int32_t dst = QB_NONE;
  QB_TRY(describe_layer(engine, chain, &l, fused, &description, supported, error));
  if (!*supported)
    return QB_OK;
  qb_status status = add_layer_step(engine, chain, &l, *fused, description, &dst, error);
  dnnl_primitive_desc_destroy(description);
  if (status != QB_OK)
    return status;

  qb_value_id tail = *fused > 0 ? graph->nodes[chain->posts[*fused - 1]].output : l.node->output;
  engine->value_place[tail] = dst;
  return QB_OK;
}
