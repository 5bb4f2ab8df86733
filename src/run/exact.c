/* The exact engine: real arithmetic on one sample, to far more digits than double holds. This file owns values and
 * memory; numbers are in exact_number.c, the rules in exact_*.c.
 *
 * Interval and radius arithmetic in double loses a factor of sum |w| per layer, 2^60 and more in a residual network.
 * Here the first unit that is lost is 2^-140, and where that was not small enough everything runs again with 2^-280. */
#include "run/exact.h"

#include <math.h>
#include <omp.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

int qb_exact_fraction = 0;
qb_exact_fault qb_exact_fault_planted = QB_EXACT_FAULT_NONE;

static const int fractions[] = {7, 14};
enum { TRIES = sizeof fractions / sizeof *fractions };

typedef struct exact_engine {
  const qb_graph *graph;
  int threads;
  double deadline;       /* of qb_clock_seconds, 0: none */
  bool *kept;            /* (value_count) */
  int32_t *last_use;     /* (value_count): node, -1 none */
  exact_format format;   /* of the last call */
  exact_tensor *tensors; /* (value_count) */
  double **x, **r;       /* (value_count) of kept values: the nearest double, and how far it may be off */
} exact_engine;

static const exact_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = qb_exact_##FAMILY,
#include "graph/op_list.h"
};

/* ------------------------------------------------------------------------------------------------------- creating */

static int64_t elements_of(const qb_graph *graph, qb_value_id id) {
  return (int64_t)qb_shape_elements(&graph->values[id].shape);
}

static void exact_free(void *state) {
  exact_engine *engine = state;
  if (engine == NULL)
    return;
  for (int32_t v = 0; v < engine->graph->value_count; v++) {
    if (engine->tensors != NULL) {
      qb_free(engine->tensors[v].digit);
      qb_free(engine->tensors[v].r);
    }
    if (engine->x != NULL)
      qb_free(engine->x[v]);
    if (engine->r != NULL)
      qb_free(engine->r[v]);
  }
  qb_free(engine->kept);
  qb_free(engine->last_use);
  qb_free(engine->tensors);
  qb_free(engine->x);
  qb_free(engine->r);
  qb_free(engine);
}

static qb_status allocate_kept(exact_engine *engine, qb_value_id v, qb_error *error) {
  size_t count = (size_t)elements_of(engine->graph, v);
  engine->x[v] = qb_alloc(count, sizeof(double));
  engine->r[v] = qb_alloc(count, sizeof(double));
  return engine->x[v] == NULL || engine->r[v] == NULL
             ? qb_fail_memory(error, engine->graph->values[v].name, 2 * count * sizeof(double))
             : QB_OK;
}

static qb_status prepare(exact_engine *engine, const qb_run_settings *settings, qb_error *error) {
  const qb_graph *graph = engine->graph;
  size_t values = (size_t)graph->value_count;
  engine->kept = qb_alloc(values, sizeof *engine->kept);
  engine->last_use = qb_alloc(values, sizeof *engine->last_use);
  engine->tensors = qb_alloc(values, sizeof *engine->tensors);
  engine->x = qb_alloc(values, sizeof *engine->x);
  engine->r = qb_alloc(values, sizeof *engine->r);
  if (engine->kept == NULL || engine->last_use == NULL || engine->tensors == NULL || engine->x == NULL ||
      engine->r == NULL)
    return qb_fail_memory(error, "exact engine", values * sizeof *engine->tensors);
  for (qb_value_id v = 0; v < graph->value_count; v++) {
    engine->last_use[v] = -1;
    engine->kept[v] = !graph->values[v].is_constant && qb_run_is_kept(graph, settings, v);
    if (engine->kept[v])
      QB_TRY(allocate_kept(engine, v, error));
  }
  for (qb_node_id n = 0; n < graph->node_count; n++)
    for (int32_t slot = 0; slot < graph->nodes[n].input_count; slot++)
      if (graph->nodes[n].inputs[slot] != QB_NONE)
        engine->last_use[graph->nodes[n].inputs[slot]] = n;
  return QB_OK;
}

static qb_status exact_create(const qb_graph *graph, const qb_run_settings *settings, void **state, qb_error *error) {
  if (settings->batch != 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "the exact engine runs one sample at a time, not %d", settings->batch);
  exact_engine *engine = qb_alloc(1, sizeof *engine);
  if (engine == NULL)
    return qb_fail_memory(error, "exact engine", sizeof *engine);
  engine->graph = graph;
  engine->threads = settings->threads;
  engine->deadline = settings->deadline;
  qb_status status = prepare(engine, settings, error);
  if (status != QB_OK) {
    exact_free(engine);
    return status;
  }
  *state = engine;
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- tensors */

void qb_exact_load_operand(const exact_call *call, int32_t slot, int64_t i, exact_number *n) {
  if (call->in[slot] != NULL)
    exact_load(call->format, call->in[slot], i, n);
  else
    exact_from_double(call->format, exact_constant(call, slot, i), n);
}

static void drop_tensor(exact_tensor *tensor) {
  qb_free(tensor->digit);
  qb_free(tensor->r);
  *tensor = (exact_tensor){0};
}

static qb_status new_tensor(exact_engine *engine, qb_value_id v, qb_error *error) {
  exact_tensor *tensor = &engine->tensors[v];
  drop_tensor(tensor);
  tensor->count = elements_of(engine->graph, v);
  size_t digits = (size_t)tensor->count * (size_t)engine->format.planes;
  tensor->digit = qb_alloc(digits, sizeof *tensor->digit);
  tensor->r = qb_alloc((size_t)tensor->count, sizeof *tensor->r);
  return tensor->digit == NULL || tensor->r == NULL
             ? qb_fail_memory(error, engine->graph->values[v].name, digits * sizeof *tensor->digit)
             : QB_OK;
}

static void drop_dead(exact_engine *engine, qb_node_id n) {
  const qb_node *node = &engine->graph->nodes[n];
  for (int32_t slot = 0; slot < node->input_count; slot++)
    if (node->inputs[slot] != QB_NONE && engine->last_use[node->inputs[slot]] == n && !engine->kept[node->inputs[slot]])
      drop_tensor(&engine->tensors[node->inputs[slot]]);
}

/* --------------------------------------------------------------------------------------------------------- running */

static qb_status run_node(exact_engine *engine, qb_node_id n, qb_error *error) {
  const qb_graph *graph = engine->graph;
  const qb_node *node = &graph->nodes[n];
  exact_call call = {.format = &engine->format,
                     .graph = graph,
                     .node = node,
                     .shape = &graph->values[node->output].shape,
                     .y = &engine->tensors[node->output],
                     .threads = engine->threads,
                     .error = error};
  for (int32_t slot = 0; slot < node->input_count; slot++) {
    call.operand[slot] = qb_run_input(graph, node, slot);
    if (call.operand[slot] != NULL && !call.operand[slot]->is_constant)
      call.in[slot] = &engine->tensors[node->inputs[slot]];
  }
  if (engine->deadline > 0 && qb_clock_seconds() > engine->deadline)
    return qb_fail(error, QB_ERROR_INTERRUPTED, "%s: out of time at node '%s'", graph->name, node->name);
  QB_TRY(new_tensor(engine, node->output, error));
  QB_TRY(rules[node->op](&call));
  drop_dead(engine, n);
  return QB_OK;
}

static qb_status run_all(exact_engine *engine, const float *input, qb_error *error) {
  const qb_graph *graph = engine->graph;
  exact_tensor *x = &engine->tensors[graph->inputs[0]];
  exact_number number;
  QB_TRY(new_tensor(engine, graph->inputs[0], error));
  for (int64_t i = 0; i < x->count; i++) {
    exact_from_double(&engine->format, (double)input[i], &number);
    exact_store(&engine->format, x, i, &number);
  }
  for (qb_node_id n = 0; n < graph->node_count; n++)
    QB_TRY(run_node(engine, n, error));
  return QB_OK;
}

/* Whether every output is known to about as many digits as two doubles hold. */
static bool is_sharp(const exact_engine *engine) {
  for (int32_t k = 0; k < engine->graph->output_count; k++) {
    const exact_tensor *y = &engine->tensors[engine->graph->outputs[k]];
    double largest = 0, radius = 0;
    for (int64_t i = 0; i < y->count; i++) {
      exact_number n;
      exact_load(&engine->format, y, i, &n);
      largest = fmax(largest, exact_magnitude(&engine->format, &n));
      radius = fmax(radius, n.r);
    }
    if (radius > 0x1p-80 * largest)
      return false;
  }
  return true;
}

static void round_kept(exact_engine *engine) {
  for (qb_value_id v = 0; v < engine->graph->value_count; v++) {
    const exact_tensor *y = &engine->tensors[v];
    for (int64_t i = 0; engine->kept[v] && y->digit != NULL && i < y->count; i++) {
      exact_number n;
      double lo, error;
      exact_load(&engine->format, y, i, &n);
      exact_to_pair(&engine->format, &n, &engine->x[v][i], &lo, &error);
      engine->r[v][i] = (fabs(lo) + error + n.r) * (1 + 0x1p-50);
    }
  }
}

static qb_status exact_forward(void *state, const float *input, int32_t count, qb_error *error) {
  exact_engine *engine = state;
  (void)count;
  int threads = omp_get_max_threads();
  omp_set_num_threads(engine->threads);
  qb_status status = QB_OK;
  for (int t = 0; t < TRIES && status == QB_OK; t++) {
    engine->format = exact_format_make(qb_exact_fraction != 0 ? qb_exact_fraction : fractions[t]);
    if (qb_exact_fault_planted == QB_EXACT_FAULT_NO_UNIT)
      engine->format.lost = 0;
    status = run_all(engine, input, error);
    if (status == QB_OK && (qb_exact_fraction != 0 || is_sharp(engine)))
      break;
  }
  omp_set_num_threads(threads);
  if (status == QB_OK)
    round_kept(engine);
  return status;
}

/* --------------------------------------------------------------------------------------------------------- reading */

static bool is_kept(const exact_engine *engine, qb_value_id id) {
  return id >= 0 && id < engine->graph->value_count && engine->kept[id];
}

static const double *exact_value_double(void *state, qb_value_id id) {
  const exact_engine *engine = state;
  return is_kept(engine, id) ? engine->x[id] : NULL;
}

static const double *exact_radius(void *state, qb_value_id id) {
  const exact_engine *engine = state;
  return is_kept(engine, id) ? engine->r[id] : NULL;
}

/* Digits of the coarser format are the upper ones of the finer. */
static void load_as(const exact_format *from, const exact_format *to, const exact_tensor *x, int64_t i,
                    exact_number *n) {
  exact_number own;
  exact_load(from, x, i, &own);
  exact_set(to, own.d, from->planes, -from->fraction, own.r, n);
}

void qb_exact_difference(const void *original, qb_value_id x, const void *other, qb_value_id y, double *lo,
                         double *hi) {
  const exact_engine *a = original, *b = other;
  const exact_format *f = a->format.fraction > b->format.fraction ? &a->format : &b->format;
  for (int64_t i = 0; i < a->tensors[x].count; i++) {
    exact_number u, v;
    load_as(&a->format, f, &a->tensors[x], i, &u);
    load_as(&b->format, f, &b->tensors[y], i, &v);
    exact_subtract(f, &v, &u, &v);
    exact_to_interval(f, &v, &lo[i], &hi[i]);
  }
}

const qb_engine_table qb_exact_engine = {.create = exact_create,
                                         .destroy = exact_free,
                                         .forward = exact_forward,
                                         .value_double = exact_value_double,
                                         .radius = exact_radius};
