/* The backward pass: values, and rules from the last node to the first; see gradient.h. */
#include "search/gradient.h"

#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "search/gradient_internal.h"

struct qb_gradient {
  const qb_graph *graph;
  qb_run *run;
  int32_t threads;
  pulled_value *values; /* (value_count) */
  float *block;         /* d of every activation */
  size_t block_count;
};

static const pull_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = qb_pull_##FAMILY,
#include "graph/op_list.h"
};

static bool is_activation(const qb_graph *graph, qb_value_id id) {
  return !graph->values[id].is_constant && (graph->values[id].producer != QB_NONE || graph->inputs[0] == id);
}

/* Shapes, constants, and room for d. */
static qb_status place_values(qb_gradient *g, qb_error *error) {
  for (qb_value_id v = 0; v < g->graph->value_count; v++) {
    const qb_value *value = &g->graph->values[v];
    pulled_value *own = &g->values[v];
    own->shape = &value->shape;
    own->count = (int64_t)qb_shape_elements(&value->shape);
    if (value->is_constant)
      own->x = value->constant.dtype == QB_DTYPE_F32 ? qb_view_f32(&value->constant) : NULL;
    else if (is_activation(g->graph, v))
      g->block_count += (size_t)own->count;
  }
  g->block = qb_alloc(g->block_count, sizeof *g->block);
  if (g->block == NULL)
    return qb_fail_memory(error, "gradients", g->block_count * sizeof *g->block);
  float *at = g->block;
  for (qb_value_id v = 0; v < g->graph->value_count; v++)
    if (is_activation(g->graph, v)) {
      g->values[v].d = at;
      at += g->values[v].count;
    }
  return QB_OK;
}

static qb_status create_run(qb_gradient *g, qb_error *error) {
  qb_run_settings how;
  qb_value_id *keep = qb_alloc((size_t)g->graph->value_count, sizeof *keep);
  if (keep == NULL)
    return qb_fail_memory(error, "gradients", (size_t)g->graph->value_count * sizeof *keep);
  qb_run_settings_default(&how);
  how.threads = g->threads;
  how.keep = keep;
  for (qb_value_id v = 0; v < g->graph->value_count; v++)
    if (is_activation(g->graph, v))
      keep[how.keep_count++] = v;
  qb_status status = qb_run_create(g->graph, &how, &g->run, error);
  qb_free(keep);
  return status;
}

qb_status qb_gradient_create(const qb_graph *graph, int32_t threads, qb_gradient **gradient, qb_error *error) {
  qb_gradient *g = qb_alloc(1, sizeof *g);
  *gradient = NULL;
  if (g == NULL)
    return qb_fail_memory(error, "gradients", sizeof *g);
  g->graph = graph;
  g->threads = threads;
  g->values = qb_alloc((size_t)graph->value_count, sizeof *g->values);
  qb_status status = g->values == NULL
                         ? qb_fail_memory(error, "gradients", (size_t)graph->value_count * sizeof *g->values)
                         : place_values(g, error);
  if (status == QB_OK)
    status = create_run(g, error);
  if (status == QB_OK)
    *gradient = g;
  else
    qb_gradient_free(g);
  return status;
}

void qb_gradient_free(qb_gradient *g) {
  if (g == NULL)
    return;
  qb_run_free(g->run);
  qb_free(g->block);
  qb_free(g->values);
  qb_free(g);
}

qb_status qb_gradient_forward(qb_gradient *g, const float *x, const float **y, qb_error *error) {
  QB_TRY(qb_run_forward(g->run, x, 1, error));
  for (qb_value_id v = 0; v < g->graph->value_count; v++)
    if (is_activation(g->graph, v))
      g->values[v].x = qb_run_value(g->run, v);
  g->values[g->graph->inputs[0]].x = x;
  *y = qb_run_value(g->run, g->graph->outputs[0]);
  return QB_OK;
}

static void pull_node(const qb_gradient *g, const qb_node *node) {
  pull_call call = {.node = node, .y = &g->values[node->output]};
  for (int32_t slot = 0; slot < node->input_count; slot++)
    call.in[slot] = node->inputs[slot] == QB_NONE ? NULL : &g->values[node->inputs[slot]];
  rules[node->op](&call);
}

bool qb_gradient_pull(qb_gradient *g, const float *weights, double deadline, float *dx) {
  const qb_graph *graph = g->graph;
  int threads = omp_get_max_threads();
  bool late = false;
  memset(g->block, 0, g->block_count * sizeof *g->block);
  memcpy(g->values[graph->outputs[0]].d, weights, (size_t)g->values[graph->outputs[0]].count * sizeof *weights);
  if (g->threads > 0)
    omp_set_num_threads(g->threads);
  for (qb_node_id n = graph->node_count; n-- > 0 && !late;) {
    pull_node(g, &graph->nodes[n]);
    late = deadline > 0 && qb_clock_seconds() > deadline;
  }
  omp_set_num_threads(threads);
  if (late)
    return false;
  memcpy(dx, g->values[graph->inputs[0]].d, (size_t)g->values[graph->inputs[0]].count * sizeof *dx);
  return true;
}
