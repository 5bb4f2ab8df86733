/* The reference engine: every operator in double with plain loops, the definition that the fast engine is compared
 * with. This file owns values and memory; the rules are in reference_*.c. */
#include "run/reference.h"

#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "run/plan.h"

typedef struct reference_engine {
  const qb_graph *graph;
  int32_t batch, threads;
  bool radius;
  const rounding *units;
  bool *kept;              /* (value_count) */
  reference_value *values; /* (value_count); activations point into `block`, constants own x */
  double *block;           /* activations; then, with radii, their radii in the same layout */
  double *scratch;
} reference_engine;

static const reference_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = qb_reference_##FAMILY,
#include "graph/op_list.h"
};

static bool is_activation(const qb_graph *graph, qb_value_id id) {
  return !graph->values[id].is_constant && (graph->values[id].producer != QB_NONE || graph->inputs[0] == id);
}

/* ------------------------------------------------------------------------------------------------------- creating */

static qb_status copy_constants(reference_engine *engine, qb_error *error) {
  for (int32_t v = 0; v < engine->graph->value_count; v++) {
    const qb_value *value = &engine->graph->values[v];
    reference_value *copy = &engine->values[v];
    if (!value->is_constant || value->constant.dtype != QB_DTYPE_F32)
      continue;
    copy->is_constant = true;
    copy->shape = value->shape;
    copy->count = qb_shape_elements(&value->shape);
    copy->x = qb_alloc(copy->count, sizeof *copy->x);
    if (copy->x == NULL)
      return qb_fail_memory(error, value->name, copy->count * sizeof *copy->x);
    const float *data = qb_view_f32(&value->constant);
    for (size_t i = 0; i < copy->count; i++)
      copy->x[i] = (double)data[i];
  }
  return QB_OK;
}

/* Lifetimes in node indices, the input at -1; kept values live to the end. */
static void find_lifetimes(const reference_engine *engine, qb_plan_item *items) {
  const qb_graph *graph = engine->graph;
  for (int32_t v = 0; v < graph->value_count; v++) {
    if (!is_activation(graph, v))
      continue;
    qb_shape shape = qb_run_shape(&graph->values[v], engine->batch);
    int32_t first = graph->values[v].producer == QB_NONE ? -1 : graph->values[v].producer;
    items[v] = (qb_plan_item){qb_shape_elements(&shape), first, engine->kept[v] ? graph->node_count : first, 0};
  }
  for (int32_t n = 0; n < graph->node_count; n++)
    for (int32_t slot = 0; slot < graph->nodes[n].input_count; slot++) {
      qb_value_id id = graph->nodes[n].inputs[slot];
      if (id != QB_NONE && items[id].last < n)
        items[id].last = n;
    }
}

static qb_status place_values(reference_engine *engine, qb_plan_item *items, qb_error *error) {
  const qb_graph *graph = engine->graph;
  size_t total, largest = 0;
  find_lifetimes(engine, items);
  QB_TRY(qb_plan_place(items, graph->value_count, QB_ALIGNMENT / sizeof(double), &total, error));
  total = (total + 7) & ~(size_t)7;
  engine->block = qb_alloc(total, (engine->radius ? 2 : 1) * sizeof(double));
  if (engine->block == NULL)
    return qb_fail_memory(error, "activations", total * sizeof(double));
  for (int32_t v = 0; v < graph->value_count; v++) {
    if (!is_activation(graph, v))
      continue;
    engine->values[v].x = engine->block + items[v].offset;
    engine->values[v].r = engine->radius ? engine->block + total + items[v].offset : NULL;
    largest = items[v].size > largest ? items[v].size : largest;
  }
  if (engine->radius) {
    engine->scratch = qb_alloc(largest, sizeof(double));
    if (engine->scratch == NULL)
      return qb_fail_memory(error, "radii", largest * sizeof(double));
  }
  return QB_OK;
}

static qb_status check_sizes(const qb_graph *graph, int32_t batch, qb_error *error) {
  for (int32_t v = 0; v < graph->value_count; v++) {
    qb_shape shape = qb_run_shape(&graph->values[v], batch);
    size_t count;
    if (!qb_shape_count(&shape, &count) || count > PTRDIFF_MAX / (4 * sizeof(double)))
      return qb_fail(error, QB_ERROR_MEMORY, "%s: value '%s' is too large at batch %d", graph->name,
                     graph->values[v].name, batch);
  }
  return QB_OK;
}

static qb_status prepare(reference_engine *engine, const qb_run_settings *settings, qb_error *error) {
  const qb_graph *graph = engine->graph;
  size_t value_count = (size_t)graph->value_count;
  QB_TRY(check_sizes(graph, settings->batch, error));
  engine->values = qb_alloc(value_count, sizeof *engine->values);
  engine->kept = qb_alloc(value_count, sizeof *engine->kept);
  qb_plan_item *items = qb_alloc(value_count, sizeof *items);
  qb_status status = QB_OK;
  if (engine->values == NULL || engine->kept == NULL || items == NULL)
    status = qb_fail_memory(error, "values", value_count * sizeof *items);
  if (status == QB_OK) {
    for (int32_t v = 0; v < graph->value_count; v++)
      engine->kept[v] = qb_run_is_kept(graph, settings, v);
    status = copy_constants(engine, error);
  }
  if (status == QB_OK)
    status = place_values(engine, items, error);
  qb_free(items);
  return status;
}

static void reference_free(void *state) {
  reference_engine *engine = state;
  if (engine == NULL)
    return;
  if (engine->values != NULL)
    for (int32_t v = 0; v < engine->graph->value_count; v++)
      if (engine->values[v].is_constant)
        qb_free(engine->values[v].x);
  qb_free(engine->values);
  qb_free(engine->kept);
  qb_free(engine->block);
  qb_free(engine->scratch);
  qb_free(engine);
}

static qb_status reference_create(const qb_graph *graph, const qb_run_settings *settings, void **state,
                                  qb_error *error) {
  reference_engine *engine = qb_alloc(1, sizeof *engine);
  if (engine == NULL)
    return qb_fail_memory(error, "reference engine", sizeof *engine);
  engine->graph = graph;
  engine->batch = settings->batch;
  engine->threads = settings->threads;
  engine->radius = settings->radius;
  engine->units = settings->radius_float32 ? &rounding_float : &rounding_double;
  qb_status status = prepare(engine, settings, error);
  if (status != QB_OK) {
    reference_free(engine);
    return status;
  }
  *state = engine;
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- running */

/* Where an overflow cannot be excluded there is no bound. A partial sum or product of magnitude m adds at least
 * unit * m to the radius, so a radius below unit * largest excludes overflows inside the operator too. */
static void seal_radius(reference_value *y, const rounding *u) {
  double limit = u->unit * u->largest;
  for (size_t i = 0; i < y->count; i++)
    if (!(fabs(y->x[i]) + y->r[i] <= u->largest && y->r[i] < limit))
      y->r[i] = INFINITY;
}

static void run_node(reference_engine *engine, const qb_node *node) {
  reference_call call = {.node = node,
                         .y = &engine->values[node->output],
                         .scratch = engine->scratch,
                         .units = engine->units};
  for (int32_t slot = 0; slot < node->input_count; slot++)
    call.in[slot] = node->inputs[slot] == QB_NONE ? NULL : &engine->values[node->inputs[slot]];
  rules[node->op](&call);
  if (call.y->r != NULL)
    seal_radius(call.y, engine->units);
}

static qb_status reference_forward(void *state, const float *input, int32_t count, qb_error *error) {
  reference_engine *engine = state;
  const qb_graph *graph = engine->graph;
  (void)error;
  for (int32_t v = 0; v < graph->value_count; v++) {
    engine->values[v].shape = qb_run_shape(&graph->values[v], count);
    engine->values[v].count = qb_shape_elements(&engine->values[v].shape);
  }
  reference_value *x = &engine->values[graph->inputs[0]];
  for (size_t i = 0; i < x->count; i++)
    value_set(x, i, (ball){(double)input[i], 0.0});

  int threads = omp_get_max_threads();
  omp_set_num_threads(engine->threads);
  for (int32_t n = 0; n < graph->node_count; n++)
    run_node(engine, &graph->nodes[n]);
  omp_set_num_threads(threads);
  return QB_OK;
}

static const double *reference_value_double(void *state, qb_value_id id) {
  const reference_engine *engine = state;
  return id >= 0 && id < engine->graph->value_count && engine->kept[id] ? engine->values[id].x : NULL;
}

static const double *reference_radius(void *state, qb_value_id id) {
  const reference_engine *engine = state;
  return id >= 0 && id < engine->graph->value_count && engine->kept[id] ? engine->values[id].r : NULL;
}

const qb_engine_table qb_reference_engine = {.create = reference_create,
                                             .destroy = reference_free,
                                             .forward = reference_forward,
                                             .value_double = reference_value_double,
                                             .radius = reference_radius};
