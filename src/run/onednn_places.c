/* Places, layouts and steps of the oneDNN engine; see onednn.h. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "run/onednn.h"

qb_status onednn_check(dnnl_status_t status, const onednn_engine *engine, const char *what, qb_error *error) {
  if (status == dnnl_success)
    return QB_OK;
  if (status == dnnl_out_of_memory)
    return qb_fail(error, QB_ERROR_MEMORY, "%s: not enough memory for '%s'", engine->graph->name, what);
  return qb_fail(error, QB_ERROR_ENGINE, "%s: oneDNN reports error %d for '%s'", engine->graph->name, (int)status,
                 what);
}

/* Makes room for one more entry of `size` bytes in *array. */
static qb_status grow(void **array, int32_t *capacity, int32_t count, size_t size, qb_error *error) {
  if (count < *capacity)
    return QB_OK;
  int32_t wanted = *capacity > 0 ? 2 * *capacity : 64;
  void *grown = qb_alloc((size_t)wanted, size);
  if (grown == NULL)
    return qb_fail_memory(error, "executor", (size_t)wanted * size);
  if (count > 0)
    memcpy(grown, *array, (size_t)count * size);
  qb_free(*array);
  *array = grown;
  *capacity = wanted;
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- layouts */

dnnl_memory_desc_t onednn_plain_md(const qb_shape *shape) {
  dnnl_memory_desc_t md;
  dnnl_dims_t dims = {1}, strides = {1};
  int rank = shape->rank > 0 ? shape->rank : 1;
  int64_t stride = 1;
  for (int32_t i = shape->rank - 1; i >= 0; i--) {
    dims[i] = shape->dims[i];
    strides[i] = stride;
    stride *= shape->dims[i];
  }
  dnnl_memory_desc_init_by_strides(&md, rank, dims, dnnl_f32, strides);
  return md;
}

/* The elements lie in row-major order without gaps. Axes of length one may have any stride; a blocked layout counts
 * when the block is whole and nothing but axes of length one follows it (a vector of channels). */
bool onednn_is_plain(const dnnl_memory_desc_t *md) {
  if (md->format_kind != dnnl_blocked || md->offset0 != 0)
    return false;
  const dnnl_blocking_desc_t *blocking = &md->format_desc.blocking;
  for (int i = 0; i < md->ndims; i++)
    if (md->padded_dims[i] != md->dims[i])
      return false;
  int64_t expected = 1;
  if (blocking->inner_nblks > 1)
    return false;
  for (int i = md->ndims - 1; i >= 0; i--) {
    int64_t length = md->dims[i];
    if (blocking->inner_nblks == 1 && blocking->inner_idxs[0] == i) {
      if (expected != 1)
        return false;
      expected = blocking->inner_blks[0];
      length /= expected;
    }
    if (length > 1 && blocking->strides[i] != expected)
      return false;
    expected *= length;
  }
  return true;
}

/* --------------------------------------------------------------------------------------------------------- places */

qb_status onednn_new_place(onednn_engine *engine, const place *model, int32_t *id, qb_error *error) {
  QB_TRY(grow((void **)&engine->places, &engine->place_capacity, engine->place_count, sizeof *engine->places, error));
  *id = engine->place_count++;
  engine->places[*id] = *model;
  return QB_OK;
}

qb_status onednn_new_buffer_place(onednn_engine *engine, const dnnl_memory_desc_t *md, int32_t *id, qb_error *error) {
  QB_TRY(
      grow((void **)&engine->buffers, &engine->buffer_capacity, engine->buffer_count, sizeof *engine->buffers, error));
  QB_TRY(grow((void **)&engine->shared, &engine->shared_capacity, engine->buffer_count, sizeof *engine->shared, error));
  int32_t buffer = engine->buffer_count++;
  engine->shared[buffer] = false;
  engine->buffers[buffer] = (qb_plan_item){dnnl_memory_desc_get_size(md), engine->step_count, engine->step_count, 0};
  return onednn_new_place(engine, &(place){.md = *md, .kind = PLACE_BUFFER, .buffer = buffer}, id, error);
}

qb_status onednn_new_fixed_place(onednn_engine *engine, const dnnl_memory_desc_t *md, void *data, bool owned,
                                 int32_t *id, qb_error *error) {
  qb_status status =
      onednn_new_place(engine, &(place){.md = *md, .kind = PLACE_FIXED, .data = data, .owned = owned}, id, error);
  if (status != QB_OK && owned)
    qb_free(data);
  return status;
}

qb_status onednn_new_view(onednn_engine *engine, int32_t base, const dnnl_memory_desc_t *md, int32_t *id,
                          qb_error *error) {
  place view = engine->places[base];
  view.md = *md;
  view.owned = false;
  if (view.kind == PLACE_BUFFER)
    engine->shared[view.buffer] = true;
  return onednn_new_place(engine, &view, id, error);
}

/* ---------------------------------------------------------------------------------------------------------- steps */

static void touch(onednn_engine *engine, int32_t place_id, int32_t at) {
  const place *p = &engine->places[place_id];
  if (p->kind == PLACE_BUFFER && engine->buffers[p->buffer].last < at)
    engine->buffers[p->buffer].last = at;
}

static qb_status add_step(onednn_engine *engine, const step *model, const step_argument *arguments, int32_t count,
                          qb_error *error) {
  QB_TRY(grow((void **)&engine->steps, &engine->step_capacity, engine->step_count, sizeof *engine->steps, error));
  step added = *model;
  added.first = engine->argument_count;
  added.count = count;
  for (int32_t i = 0; i < count; i++) {
    QB_TRY(grow((void **)&engine->arguments, &engine->argument_capacity, engine->argument_count,
                sizeof *engine->arguments, error));
    engine->arguments[engine->argument_count++] = arguments[i];
    if (arguments[i].place != QB_NONE)
      touch(engine, arguments[i].place, engine->step_count);
  }
  engine->steps[engine->step_count++] = added;
  return QB_OK;
}

qb_status onednn_add_primitive(onednn_engine *engine, dnnl_primitive_desc_t description, step_argument *arguments,
                               int32_t count, qb_error *error) {
  step added = {0};
  int32_t scratch;
  const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
  size_t size = md == NULL ? 0 : dnnl_memory_desc_get_size(md);
  if (size > 0) {
    QB_TRY(onednn_new_place(engine, &(place){.md = *md, .kind = PLACE_SCRATCH}, &scratch, error));
    engine->scratch_size = size > engine->scratch_size ? size : engine->scratch_size;
    arguments[count++] = (step_argument){DNNL_ARG_SCRATCHPAD, scratch};
  }
  QB_TRY(onednn_check(dnnl_primitive_create(&added.primitive, description), engine, "creating a primitive", error));
  qb_status status = add_step(engine, &added, arguments, count, error);
  if (status != QB_OK)
    dnnl_primitive_destroy(added.primitive);
  return status;
}

qb_status onednn_add_rule(onednn_engine *engine, plain_rule rule, const qb_node *node, const int32_t *places,
                          int32_t count, qb_error *error) {
  step_argument arguments[STEP_ARGUMENTS];
  for (int32_t i = 0; i < count; i++)
    arguments[i] = (step_argument){0, places[i]};
  return add_step(engine, &(step){.rule = rule, .node = node}, arguments, count, error);
}

/* ------------------------------------------------------------------------------------------------------- reorders */

qb_status onednn_copy(onednn_engine *engine, int32_t from, int32_t to, qb_error *error) {
  dnnl_primitive_desc_t description;
  dnnl_primitive_attr_t attributes;
  const place *places = engine->places;
  QB_TRY(onednn_attributes(engine, &attributes, error));
  dnnl_status_t made = dnnl_reorder_primitive_desc_create(&description, &places[from].md, engine->device,
                                                          &places[to].md, engine->device, attributes);
  dnnl_primitive_attr_destroy(attributes);
  QB_TRY(onednn_check(made, engine, "reorder", error));
  step_argument arguments[3] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  qb_status status = onednn_add_primitive(engine, description, arguments, 2, error);
  dnnl_primitive_desc_destroy(description);
  return status;
}

qb_status onednn_reordered(onednn_engine *engine, int32_t from, const dnnl_memory_desc_t *md, int32_t *id,
                           qb_error *error) {
  *id = from;
  if (dnnl_memory_desc_equal(&engine->places[from].md, md))
    return QB_OK;
  QB_TRY(onednn_new_buffer_place(engine, md, id, error));
  return onednn_copy(engine, from, *id, error);
}

qb_status onednn_plain_value(onednn_engine *engine, qb_value_id id, int32_t *place_id, qb_error *error) {
  if (engine->plain_place[id] == QB_NONE) {
    const qb_value *value = &engine->graph->values[id];
    qb_shape shape = qb_run_shape(value, engine->batch);
    dnnl_memory_desc_t md = onednn_plain_md(&shape);
    int32_t from = engine->value_place[id];
    if (onednn_is_plain(&engine->places[from].md))
      engine->plain_place[id] = from;
    else
      QB_TRY(onednn_reordered(engine, from, &md, &engine->plain_place[id], error));
  }
  *place_id = engine->plain_place[id];
  return QB_OK;
}
