/* The float32 engine on oneDNN: compiling a graph into steps and running them. With onednn_*.c the only code that sees
 * oneDNN; written for the C API of 2.6.
 *
 * Convolutions use the direct algorithm (never Winograd, never a narrower type), because error bounds rely on sums of
 * products. Weights are reordered once; activations stay in the layout that a layer wrote until another needs a
 * different one; inputs, outputs and kept values are row-major. */
#include "run/onednn.h"

#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

#ifdef __FAST_MATH__
#error "qbound needs IEEE arithmetic: build without -ffast-math"
#endif

/* ------------------------------------------------------------------------------------------------------- building */

static qb_status build_reshape(onednn_engine *engine, const qb_node *node, qb_error *error) {
  qb_shape y = qb_run_shape(&engine->graph->values[node->output], engine->batch);
  dnnl_memory_desc_t md = onednn_plain_md(&y);
  int32_t plain;
  QB_TRY(onednn_plain_value(engine, node->inputs[0], &plain, error));
  return onednn_new_view(engine, plain, &md, &engine->value_place[node->output], error);
}

/* Our own loops, on row-major tensors unless the rule does not care. */
static qb_status build_rule(onednn_engine *engine, const qb_node *node, qb_error *error) {
  const qb_graph *graph = engine->graph;
  plain_rule rule = qb_plain_rule(node->op);
  int32_t places[STEP_ARGUMENTS];
  if (rule == NULL)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: node '%s' (%s): oneDNN has no implementation of this shape",
                   graph->name, node->name, qb_op_name(node->op));
  qb_shape y = qb_run_shape(&graph->values[node->output], engine->batch);
  dnnl_memory_desc_t md = onednn_plain_md(&y);
  for (int32_t slot = 0; slot < node->input_count; slot++) {
    const qb_value *value = qb_run_input(graph, node, slot);
    places[slot] = QB_NONE;
    if (value == NULL)
      continue;
    if (value->is_constant) {
      dnnl_memory_desc_t constant = onednn_plain_md(&value->shape);
      QB_TRY(onednn_new_fixed_place(engine, &constant, (void *)(uintptr_t)value->constant.data, false, &places[slot],
                                    error));
    } else if (slot == 0 && qb_plain_any_layout(graph, node)) {
      places[slot] = engine->value_place[node->inputs[slot]];
      md = engine->places[places[slot]].md;
    } else {
      QB_TRY(onednn_plain_value(engine, node->inputs[slot], &places[slot], error));
    }
  }
  QB_TRY(onednn_new_buffer_place(engine, &md, &engine->value_place[node->output], error));
  places[node->input_count] = engine->value_place[node->output];
  return onednn_add_rule(engine, rule, node, places, node->input_count + 1, error);
}

/* A kept value gets row-major memory that nothing writes later; what is in the caller's input is copied. */
static qb_status finish_value(onednn_engine *engine, qb_value_id id, qb_error *error) {
  if (!engine->kept[id])
    return QB_OK;
  int32_t at;
  QB_TRY(onednn_plain_value(engine, id, &at, error));
  if (engine->places[at].kind != PLACE_BUFFER) {
    int32_t from = at;
    place copy = engine->places[from];
    QB_TRY(onednn_new_buffer_place(engine, &copy.md, &at, error));
    QB_TRY(onednn_copy(engine, from, at, error));
  }
  engine->kept_place[id] = at;
  engine->buffers[engine->places[at].buffer].last = INT32_MAX;
  return QB_OK;
}

static qb_status build_node(onednn_engine *engine, qb_node_id id, qb_error *error) {
  const qb_node *node = &engine->graph->nodes[id];
  bool supported = false;
  if (qb_op_is_reshape(node->op)) {
    QB_TRY(build_reshape(engine, node, error));
    return finish_value(engine, node->output, error);
  }
  if (node->op == QB_OP_CONV || node->op == QB_OP_CONV_TRANSPOSE) {
    qb_chain chain = qb_fuse_chain(engine->graph, engine->kept, id);
    int32_t fused = 0;
    QB_TRY(onednn_build_layer(engine, &chain, &fused, &supported, error));
    for (int32_t i = 0; i < fused && supported; i++)
      engine->absorbed[chain.posts[i]] = true;
    if (supported && fused > 0)
      return finish_value(engine, engine->graph->nodes[chain.posts[fused - 1]].output, error);
  } else {
    QB_TRY(onednn_build_node(engine, node, &supported, error));
  }
  if (!supported)
    QB_TRY(build_rule(engine, node, error));
  return finish_value(engine, node->output, error);
}

static qb_status build_steps(onednn_engine *engine, qb_error *error) {
  const qb_graph *graph = engine->graph;
  qb_value_id input = graph->inputs[0];
  qb_shape shape = qb_run_shape(&graph->values[input], engine->batch);
  place from_caller = {.md = onednn_plain_md(&shape), .kind = PLACE_INPUT};
  QB_TRY(onednn_new_place(engine, &from_caller, &engine->value_place[input], error));
  QB_TRY(finish_value(engine, input, error));
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (!engine->absorbed[n])
      QB_TRY(build_node(engine, n, error));
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- memory */

static void *place_pointer(const onednn_engine *engine, const worker *w, const place *p, const float *input) {
  switch (p->kind) {
  case PLACE_BUFFER: return w->block + engine->buffers[p->buffer].offset;
  case PLACE_INPUT: return (void *)(uintptr_t)input;
  case PLACE_FIXED: return p->data;
  case PLACE_SCRATCH: return w->scratch;
  }
  return NULL;
}

static size_t sample_elements(const onednn_engine *engine, qb_value_id id) {
  return qb_shape_elements(&engine->graph->values[id].shape);
}

static qb_status allocate_worker(const onednn_engine *engine, worker *w, size_t block_size, qb_error *error) {
  size_t input = sample_elements(engine, engine->graph->inputs[0]) * (size_t)engine->batch;
  w->block = qb_alloc(block_size, 1);
  w->scratch = qb_alloc(engine->scratch_size, 1);
  w->padded_input = qb_alloc(input, sizeof *w->padded_input);
  w->memories = qb_alloc((size_t)engine->place_count, sizeof *w->memories);
  w->execution = qb_alloc((size_t)engine->argument_count, sizeof *w->execution);
  if (w->block == NULL || w->scratch == NULL || w->padded_input == NULL || w->memories == NULL || w->execution == NULL)
    return qb_fail_memory(error, "activations", block_size + engine->scratch_size);
  QB_TRY(onednn_check(dnnl_stream_create(&w->stream, engine->device, dnnl_stream_default_flags), engine,
                      "the CPU's stream", error));
  for (int32_t i = 0; i < engine->place_count; i++) {
    const place *p = &engine->places[i];
    void *data = place_pointer(engine, w, p, w->padded_input);
    QB_TRY(onednn_check(dnnl_memory_create(&w->memories[i], &p->md, engine->device, data), engine, "memory", error));
  }
  for (int32_t i = 0; i < engine->argument_count; i++)
    if (engine->arguments[i].place != QB_NONE)
      w->execution[i] = (dnnl_exec_arg_t){engine->arguments[i].name, w->memories[engine->arguments[i].place]};
  return QB_OK;
}

static qb_status allocate(onednn_engine *engine, int32_t worker_count, qb_error *error) {
  size_t total;
  QB_TRY(qb_plan_place(engine->buffers, engine->buffer_count, QB_ALIGNMENT, &total, error));
  for (int32_t v = 0; v < engine->graph->value_count; v++) {
    if (engine->kept_place[v] == QB_NONE)
      continue;
    size_t count = sample_elements(engine, v) * (size_t)engine->whole_batch;
    engine->kept_data[v] = qb_alloc(count, sizeof(float));
    if (engine->kept_data[v] == NULL)
      return qb_fail_memory(error, engine->graph->values[v].name, count * sizeof(float));
  }
  engine->workers = qb_alloc((size_t)worker_count, sizeof *engine->workers);
  if (engine->workers == NULL)
    return qb_fail_memory(error, "workers", (size_t)worker_count * sizeof *engine->workers);
  engine->worker_count = worker_count;
  for (int32_t i = 0; i < worker_count; i++)
    QB_TRY(allocate_worker(engine, &engine->workers[i], total, error));
  return QB_OK;
}

static void free_worker(const onednn_engine *engine, worker *w) {
  for (int32_t i = 0; i < engine->place_count && w->memories != NULL; i++)
    dnnl_memory_destroy(w->memories[i]);
  dnnl_stream_destroy(w->stream);
  void *blocks[] = {w->memories, w->execution, w->block, w->scratch, w->padded_input};
  for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
    qb_free(blocks[i]);
}

static void onednn_destroy(void *state) {
  onednn_engine *engine = state;
  if (engine == NULL)
    return;
  for (int32_t i = 0; i < engine->worker_count; i++)
    free_worker(engine, &engine->workers[i]);
  for (int32_t i = 0; i < engine->step_count; i++)
    dnnl_primitive_destroy(engine->steps[i].primitive);
  for (int32_t i = 0; i < engine->place_count; i++)
    if (engine->places[i].owned)
      qb_free(engine->places[i].data);
  for (int32_t v = 0; v < engine->graph->value_count && engine->kept_data != NULL; v++)
    qb_free(engine->kept_data[v]);
  dnnl_stream_destroy(engine->stream);
  dnnl_engine_destroy(engine->device);
  void *blocks[] = {engine->kept,      engine->value_place, engine->plain_place, engine->kept_place,
                    engine->kept_data, engine->absorbed,    engine->places,      engine->steps,
                    engine->arguments, engine->buffers,     engine->shared,      engine->workers};
  for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
    qb_free(blocks[i]);
  qb_free(engine);
}

/* ------------------------------------------------------------------------------------------------ parts of a batch */

/* Input and output of a node that a thread should work on at a time: about a second-level cache. */
static const size_t part_bytes = (size_t)1 << 20;

/* The largest pair of input and output of a node, all activations, and the weights of matrix products, in bytes of one
 * sample. */
static void measure_graph(const qb_graph *graph, size_t *pair, size_t *activations, size_t *matrices) {
  *pair = *activations = *matrices = 0;
  for (int32_t n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    size_t out = qb_shape_elements(&graph->values[node->output].shape) * sizeof(float);
    size_t in = qb_shape_elements(&qb_run_input(graph, node, 0)->shape) * sizeof(float);
    *pair = in + out > *pair ? in + out : *pair;
    *activations += out;
    if (node->op == QB_OP_GEMM || node->op == QB_OP_MATMUL)
      *matrices += qb_shape_elements(&qb_run_input(graph, node, 1)->shape) * sizeof(float);
  }
}

/* A matrix product reads its weights once per part, a convolution reuses them within a sample. So parts are as small
 * as the caches want unless matrices outweigh the activations. */
static int32_t choose_part(const qb_graph *graph, int32_t samples) {
  size_t pair, activations, matrices;
  measure_graph(graph, &pair, &activations, &matrices);
  if (matrices > activations)
    return samples;
  size_t fitting = pair > 0 ? part_bytes / pair : (size_t)samples;
  return fitting < 1 ? 1 : fitting < (size_t)samples ? (int32_t)fitting : samples;
}

static qb_status prepare(onednn_engine *engine, const qb_run_settings *settings, int32_t worker_count,
                         qb_error *error) {
  const qb_graph *graph = engine->graph;
  size_t values = (size_t)graph->value_count;
  engine->kept = qb_alloc(values, sizeof *engine->kept);
  engine->value_place = qb_alloc(values, sizeof *engine->value_place);
  engine->plain_place = qb_alloc(values, sizeof *engine->plain_place);
  engine->kept_place = qb_alloc(values, sizeof *engine->kept_place);
  engine->kept_data = qb_alloc(values, sizeof *engine->kept_data);
  engine->absorbed = qb_alloc((size_t)graph->node_count, sizeof *engine->absorbed);
  if (engine->kept == NULL || engine->value_place == NULL || engine->plain_place == NULL ||
      engine->kept_place == NULL || engine->kept_data == NULL || engine->absorbed == NULL)
    return qb_fail_memory(error, "executor", values * sizeof *engine->value_place);
  for (int32_t v = 0; v < graph->value_count; v++) {
    engine->kept[v] = qb_run_is_kept(graph, settings, v);
    engine->value_place[v] = engine->plain_place[v] = engine->kept_place[v] = QB_NONE;
  }
  QB_TRY(onednn_check(dnnl_engine_create(&engine->device, dnnl_cpu, 0), engine, "the CPU", error));
  QB_TRY(onednn_check(dnnl_stream_create(&engine->stream, engine->device, dnnl_stream_default_flags), engine,
                      "the CPU's stream", error));
  QB_TRY(build_steps(engine, error));
  return allocate(engine, worker_count, error);
}

/* The library sizes work space by the number of threads at creation, so creation and calls set the same number. */
static qb_status onednn_create(const qb_graph *graph, const qb_run_settings *settings, void **state, qb_error *error) {
  onednn_engine *engine = qb_alloc(1, sizeof *engine);
  if (engine == NULL)
    return qb_fail_memory(error, "executor", sizeof *engine);
  int32_t worker_count = settings->batch >= settings->threads ? settings->threads : 1;
  engine->graph = graph;
  engine->whole_batch = settings->batch;
  engine->step_threads = worker_count > 1 ? 1 : settings->threads;
  engine->batch = choose_part(graph, (settings->batch + worker_count - 1) / worker_count);
  int threads = omp_get_max_threads();
  omp_set_num_threads(engine->step_threads);
  qb_status status = prepare(engine, settings, worker_count, error);
  omp_set_num_threads(threads);
  if (status != QB_OK) {
    onednn_destroy(engine);
    return status;
  }
  *state = engine;
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- running */

static void run_rule(const onednn_engine *engine, const worker *w, const step *s, const float *input) {
  const float *in[QB_MAX_INPUTS] = {NULL};
  const step_argument *arguments = &engine->arguments[s->first];
  for (int32_t i = 0; i + 1 < s->count; i++)
    if (arguments[i].place != QB_NONE)
      in[i] = place_pointer(engine, w, &engine->places[arguments[i].place], input);
  const place *y = &engine->places[arguments[s->count - 1].place];
  s->rule(&(plain_call){.graph = engine->graph,
                        .node = s->node,
                        .batch = engine->batch,
                        .in = in,
                        .y = place_pointer(engine, w, y, input),
                        .count = dnnl_memory_desc_get_size(&y->md) / sizeof(float)});
}

static qb_status run_steps(const onednn_engine *engine, const worker *w, const float *input, qb_error *error) {
  for (int32_t i = 0; i < engine->place_count; i++)
    if (engine->places[i].kind == PLACE_INPUT)
      QB_TRY(
          onednn_check(dnnl_memory_set_data_handle(w->memories[i], (void *)(uintptr_t)input), engine, "input", error));
  for (int32_t i = 0; i < engine->step_count; i++) {
    const step *s = &engine->steps[i];
    if (s->primitive == NULL)
      run_rule(engine, w, s, input);
    else
      QB_TRY(onednn_check(dnnl_primitive_execute(s->primitive, w->stream, s->count, &w->execution[s->first]), engine,
                          "running a primitive", error));
  }
  return onednn_check(dnnl_stream_wait(w->stream), engine, "waiting", error);
}

/* Samples [first, first + count) of a call; a part that is not full computes zeros in the rest. */
static qb_status run_part(const onednn_engine *engine, const worker *w, const float *input, int32_t first,
                          int32_t count, qb_error *error) {
  size_t sample = sample_elements(engine, engine->graph->inputs[0]);
  const float *from = input + (size_t)first * sample;
  if (count < engine->batch) {
    memcpy(w->padded_input, from, (size_t)count * sample * sizeof *from);
    memset(w->padded_input + (size_t)count * sample, 0, (size_t)(engine->batch - count) * sample * sizeof *from);
    from = w->padded_input;
  }
  QB_TRY(run_steps(engine, w, from, error));
  for (int32_t v = 0; v < engine->graph->value_count; v++)
    if (engine->kept_data[v] != NULL) {
      size_t elements = sample_elements(engine, v);
      memcpy(engine->kept_data[v] + (size_t)first * elements,
             place_pointer(engine, w, &engine->places[engine->kept_place[v]], NULL),
             (size_t)count * elements * sizeof(float));
    }
  return QB_OK;
}

static int32_t part_length(const onednn_engine *engine, int32_t first, int32_t count) {
  return count - first < engine->batch ? count - first : engine->batch;
}

static qb_status run_workers(onednn_engine *engine, const float *input, int32_t count, qb_error *error) {
  qb_status status = QB_OK;
  qb_error failure = {.status = QB_OK};
#pragma omp parallel for schedule(dynamic) num_threads(engine->worker_count)
  for (int32_t first = 0; first < count; first += engine->batch) {
    qb_error mine = {.status = QB_OK};
    const worker *w = &engine->workers[omp_get_thread_num()];
    qb_status part = run_part(engine, w, input, first, part_length(engine, first, count), &mine);
    if (part != QB_OK) {
#pragma omp critical(qb_onednn_failure)
      {
        status = part;
        failure = mine;
      }
    }
  }
  return status == QB_OK ? QB_OK : qb_fail(error, status, "%s", failure.message);
}

static qb_status onednn_forward(void *state, const float *input, int32_t count, qb_error *error) {
  onednn_engine *engine = state;
  qb_status status = QB_OK;
  int threads = omp_get_max_threads();
  omp_set_num_threads(engine->step_threads);
  if (engine->worker_count > 1)
    status = run_workers(engine, input, count, error);
  else
    for (int32_t first = 0; first < count && status == QB_OK; first += engine->batch)
      status = run_part(engine, &engine->workers[0], input, first, part_length(engine, first, count), error);
  omp_set_num_threads(threads);
  return status;
}

static const float *onednn_value(void *state, qb_value_id id) {
  const onednn_engine *engine = state;
  if (id < 0 || id >= engine->graph->value_count || !engine->kept[id])
    return NULL;
  const qb_value *value = &engine->graph->values[id];
  return value->is_constant ? qb_view_f32(&value->constant) : engine->kept_data[id];
}

const qb_engine_table qb_onednn_engine = {.create = onednn_create,
                                          .destroy = onednn_destroy,
                                          .forward = onednn_forward,
                                          .value = onednn_value};
