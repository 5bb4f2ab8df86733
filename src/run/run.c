/* The executor's interface: checks a graph once, then hands every call to the chosen engine. */
#include "run/run.h"

#include <assert.h>
#include <fenv.h>
#include <float.h>
#include <omp.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/ranks.h"
#include "graph/shape_infer.h"
#include "run/engine.h"

enum { MAX_THREADS = 1024 };

struct qb_run {
  const qb_engine_table *table;
  const qb_graph *graph;
  int32_t batch;
  void *engine;
};

void qb_run_settings_default(qb_run_settings *settings) {
  *settings = (qb_run_settings){.engine = QB_ENGINE_ONEDNN, .batch = 1};
}

/* ------------------------------------------------------------------------------------------------ shared helpers */

bool qb_run_is_kept(const qb_graph *graph, const qb_run_settings *settings, qb_value_id id) {
  for (int32_t i = 0; i < graph->output_count; i++)
    if (graph->outputs[i] == id)
      return true;
  for (int32_t i = 0; i < settings->keep_count; i++)
    if (settings->keep[i] == id)
      return true;
  return false;
}

qb_shape qb_run_shape(const qb_value *value, int32_t count) {
  qb_shape shape = value->shape;
  if (!value->is_constant && shape.rank > 0)
    shape.dims[0] *= count;
  return shape;
}

void qb_run_broadcast_strides(const qb_shape *shape, const qb_shape *result, size_t strides[QB_MAX_RANK]) {
  size_t stride = 1;
  int32_t missing = result->rank - shape->rank;
  for (int32_t i = result->rank - 1; i >= 0; i--) {
    int64_t length = i >= missing ? shape->dims[i - missing] : 1;
    strides[i] = length == 1 ? 0 : stride;
    stride *= (size_t)length;
  }
}

void qb_run_window_taps(const qb_window *window, int axis, int64_t input_length, int64_t o, int32_t *begin,
                        int32_t *end) {
  int64_t start = o * window->stride[axis] - window->pad_begin[axis];
  *begin = window->kernel[axis];
  *end = 0;
  for (int32_t k = 0; k < window->kernel[axis]; k++) {
    int64_t i = start + (int64_t)k * window->dilation[axis];
    if (i < 0 || i >= input_length)
      continue;
    *begin = k < *begin ? k : *begin;
    *end = k + 1;
  }
  if (*end == 0)
    *begin = 0;
}

int64_t qb_run_average_divisor(const qb_pool_attributes *pool, const qb_shape *x, int64_t oh, int64_t ow) {
  const int64_t position[2] = {oh, ow};
  int64_t divisor = 1;
  for (int axis = 0; axis < 2; axis++) {
    qb_window window = pool->window;
    int64_t length = x->dims[2 + axis];
    int32_t begin, end;
    if (pool->count_include_pad) { /* the padded image, seen as an image without pads */
      length += window.pad_begin[axis] + window.pad_end[axis];
      window.pad_begin[axis] = 0;
    }
    qb_run_window_taps(&window, axis, length, position[axis], &begin, &end);
    divisor *= end - begin;
  }
  return divisor;
}

/* ------------------------------------------------------------------------------------------------------ checking */

static qb_status unsupported(const qb_graph *graph, const qb_node *node, const char *problem, qb_error *error) {
  return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: node '%s' (%s): %s", graph->name, node->name, qb_op_name(node->op),
                 problem);
}

static bool is_activation(const qb_value *value) { return value != NULL && !value->is_constant; }

/* Every input that the engines read as a parameter must be a float32 constant. */
static qb_status check_parameters(const qb_graph *graph, const qb_node *node, qb_error *error) {
  bool mixes = node->op == QB_OP_ADD || node->op == QB_OP_SUB || node->op == QB_OP_MUL || node->op == QB_OP_DIV ||
               node->op == QB_OP_CONCAT;
  bool any = false;
  for (int32_t slot = 0; slot < node->input_count; slot++) {
    const qb_value *value = qb_run_input(graph, node, slot);
    any = any || is_activation(value);
    if (value != NULL && value->is_constant && value->constant.dtype != QB_DTYPE_F32)
      return unsupported(graph, node, "a constant is not float32", error);
    if (slot > 0 && !mixes && is_activation(value))
      return unsupported(graph, node, "weights and parameters must be constants, not computed by the network", error);
  }
  if (!any)
    return unsupported(graph, node, "it depends on constants only; fold it before running", error);
  return QB_OK;
}

static qb_status check_pool(const qb_graph *graph, const qb_node *node, qb_error *error) {
  if (node->op != QB_OP_MAX_POOL && node->op != QB_OP_AVERAGE_POOL)
    return QB_OK;
  const qb_shape *x = &qb_run_input(graph, node, 0)->shape, *y = &graph->values[node->output].shape;
  for (int axis = 0; axis < 2; axis++)
    for (int64_t o = 0; o < y->dims[2 + axis]; o++) {
      int32_t begin, end;
      qb_run_window_taps(&node->attributes.pool.window, axis, x->dims[2 + axis], o, &begin, &end);
      if (begin == end)
        return unsupported(graph, node, "a pooling window sees only padding", error);
    }
  return QB_OK;
}

static qb_status check_graph(const qb_graph *graph, qb_error *error) {
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: the network has %d inputs; exactly one is supported", graph->name,
                   graph->input_count);
  if (!qb_shape_is_activation(&graph->values[graph->inputs[0]].shape))
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: the input has no batch axis", graph->name);
  for (int32_t n = 0; n < graph->node_count; n++) {
    QB_TRY(check_parameters(graph, &graph->nodes[n], error));
    QB_TRY(check_pool(graph, &graph->nodes[n], error));
  }
  return QB_OK;
}

static qb_status check_settings(const qb_graph *graph, const qb_run_settings *settings, qb_error *error) {
  if (settings->batch < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "batch is %d; it must be at least 1", settings->batch);
  if (settings->threads < 0 || settings->threads > MAX_THREADS)
    return qb_fail(error, QB_ERROR_ARGUMENT, "threads is %d; it must be 0 (all cores) to %d", settings->threads,
                   MAX_THREADS);
  if (settings->engine != QB_ENGINE_ONEDNN && settings->engine != QB_ENGINE_REFERENCE &&
      settings->engine != QB_ENGINE_EXACT)
    return qb_fail(error, QB_ERROR_ARGUMENT, "unknown engine %d", (int)settings->engine);
  if (settings->radius && settings->engine == QB_ENGINE_ONEDNN)
    return qb_fail(error, QB_ERROR_ARGUMENT, "rounding radii need the reference or the exact engine");
  for (int32_t i = 0; i < settings->keep_count; i++)
    if (settings->keep[i] < 0 || settings->keep[i] >= graph->value_count)
      return qb_fail(error, QB_ERROR_ARGUMENT, "%s: value %d to keep does not exist", graph->name, settings->keep[i]);
  return QB_OK;
}

/* Flush-to-zero, denormals-are-zero and directed rounding would void every error bound; a library linked with
 * -ffast-math may have switched them on. Checked by arithmetic, in this thread and in the workers. */
static qb_status check_environment(int32_t threads, qb_error *error) {
  int bad = 0;
#pragma omp parallel num_threads(threads) reduction(+ : bad)
  {
    volatile float small = FLT_MIN, half = 0.5f;
    volatile float subnormal = small * half; /* 0 when results are flushed */
    volatile float back = subnormal / half;  /* 0 when subnormal operands are */
    volatile double tiny = DBL_MIN;
    volatile double tiny_half = tiny * 0.5;
    bad += back != FLT_MIN || tiny_half == 0.0 || fegetround() != FE_TONEAREST;
  }
  return bad == 0 ? QB_OK
                  : qb_fail(error, QB_ERROR_NUMERIC,
                            "the processor flushes subnormal numbers or does not round to nearest; restore the default "
                            "floating-point environment before running a network");
}

/* ----------------------------------------------------------------------------------------------------- interface */

qb_status qb_run_create(const qb_graph *graph, const qb_run_settings *settings, qb_run **run, qb_error *error) {
  *run = NULL;
  QB_TRY(check_settings(graph, settings, error));
  QB_TRY(check_graph(graph, error));
  qb_run_settings resolved = *settings;
  if (resolved.threads == 0)
    resolved.threads = qb_ranks_cores(omp_get_num_procs());
  QB_TRY(check_environment(resolved.threads, error));

  qb_run *made = qb_alloc(1, sizeof *made);
  if (made == NULL)
    return qb_fail_memory(error, "executor", sizeof *made);
  made->table = settings->engine == QB_ENGINE_REFERENCE ? &qb_reference_engine
                : settings->engine == QB_ENGINE_EXACT   ? &qb_exact_engine
                                                        : &qb_onednn_engine;
  made->graph = graph;
  made->batch = settings->batch;
  qb_status status = made->table->create(graph, &resolved, &made->engine, error);
  if (status != QB_OK) {
    qb_free(made);
    return status;
  }
  *run = made;
  return QB_OK;
}

void qb_run_free(qb_run *run) {
  if (run == NULL)
    return;
  run->table->destroy(run->engine);
  qb_free(run);
}

qb_status qb_run_forward(qb_run *run, const float *input, int32_t count, qb_error *error) {
  if (count < 1 || count > run->batch)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: %d samples in one call; the executor was made for 1 to %d",
                   run->graph->name, count, run->batch);
  return run->table->forward(run->engine, input, count, error);
}

const float *qb_run_value(qb_run *run, qb_value_id id) {
  return run->table->value == NULL ? NULL : run->table->value(run->engine, id);
}

const double *qb_run_value_double(qb_run *run, qb_value_id id) {
  return run->table->value_double == NULL ? NULL : run->table->value_double(run->engine, id);
}

const double *qb_run_radius(qb_run *run, qb_value_id id) {
  return run->table->radius == NULL ? NULL : run->table->radius(run->engine, id);
}

void qb_run_difference(qb_run *a, qb_value_id x, qb_run *b, qb_value_id y, double *lo, double *hi) {
  assert(a->table == &qb_exact_engine && b->table == &qb_exact_engine);
  qb_exact_difference(a->engine, x, b->engine, y, lo, hi);
}
