/* The walk of linear forms back to the input; see backward.h. Rules: backward_linear.c, backward_kinked.c,
 * backward_other.c. */
#include <cblas.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/backward_internal.h"
#include "bound/node_kinks.h"

enum { BLOCK_ROWS = 48 };

qb_backward_fault qb_backward_fault_planted = QB_BACKWARD_FAULT_NONE;

/* ---------------------------------------------------------------------------------------------------- preparation */

static void trace(qb_backward *backward, qb_node_id id) {
  const qb_graph *graph = backward->pair->quantized;
  const qb_node *node = &graph->nodes[id];
  static const bool plain[QB_OP_COUNT] = {
      [QB_OP_CONV] = true,
      [QB_OP_CONV_TRANSPOSE] = true,
      [QB_OP_GEMM] = true,
      [QB_OP_MATMUL] = true,
      [QB_OP_BATCH_NORM] = true,
      [QB_OP_AVERAGE_POOL] = true,
      [QB_OP_GLOBAL_AVERAGE_POOL] = true,
      [QB_OP_REDUCE_MEAN] = true,
      [QB_OP_PAD] = true,
      [QB_OP_TRANSPOSE] = true,
      [QB_OP_FLATTEN] = true,
      [QB_OP_RESHAPE] = true,
      [QB_OP_SQUEEZE] = true,
      [QB_OP_UNSQUEEZE] = true,
      [QB_OP_IDENTITY] = true,
      [QB_OP_DROPOUT] = true,
      [QB_OP_DEQUANTIZE_LINEAR] = true,
  };
  bool sum = node->op == QB_OP_ADD || node->op == QB_OP_SUB;
  double cost = (double)qb_graph_node_macs(graph, id);
  bool crosses = !plain[node->op] && !(sum && graph->values[node->inputs[1]].is_constant);
  for (int32_t i = 0; i < node->input_count; i++)
    if (node->inputs[i] != QB_NONE && !graph->values[node->inputs[i]].is_constant) {
      crosses = crosses || backward->crosses[node->inputs[i]];
      cost += backward->row_cost[node->inputs[i]];
    }
  backward->crosses[node->output] = crosses;
  backward->row_cost[node->output] = cost;
}

/* Which kinked nodes read each value. */
static qb_status list_readers(qb_backward *backward, qb_error *error) {
  const qb_graph *graph = backward->pair->quantized;
  for (int pass = 0; pass < 2; pass++)
    for (qb_node_id id = 0; id < graph->node_count; id++) {
      qb_value_id x = graph->nodes[id].inputs[0];
      if (!backward->nodes[id].is_kinked)
        continue;
      if (pass == 1) {
        if (backward->readers[x] == NULL) {
          size_t count = (size_t)backward->reader_count[x];
          backward->readers[x] = qb_arena_alloc(&backward->arena, count, sizeof(qb_node_id));
          backward->reader_count[x] = 0;
        }
        if (backward->readers[x] == NULL)
          return qb_fail_memory(error, "backward relaxation", sizeof(qb_node_id));
        backward->readers[x][backward->reader_count[x]] = id;
      }
      backward->reader_count[x]++;
    }
  return QB_OK;
}

static qb_status load(qb_backward *backward, qb_error *error) {
  const qb_graph *graph = backward->pair->quantized;
  size_t values = (size_t)graph->value_count;
  backward->nodes = qb_alloc((size_t)graph->node_count, sizeof *backward->nodes);
  backward->crosses = qb_alloc(values, sizeof *backward->crosses);
  backward->row_cost = qb_alloc(values, sizeof *backward->row_cost);
  backward->reader_count = qb_alloc(values, sizeof *backward->reader_count);
  backward->readers = qb_alloc(values, sizeof *backward->readers);
  if (backward->nodes == NULL || backward->crosses == NULL || backward->row_cost == NULL ||
      backward->reader_count == NULL || backward->readers == NULL)
    return qb_fail_memory(error, "backward relaxation", values * sizeof(double));
  for (qb_node_id id = 0; id < graph->node_count; id++) {
    if (backward->pair->value[graph->nodes[id].output] == QB_NONE)
      continue;
    trace(backward, id);
    backward->nodes[id].is_kinked = qb_node_is_kinked(backward->pair, id);
    QB_TRY(qb_backward_load_linear(backward, id, error));
  }
  return list_readers(backward, error);
}

qb_status qb_backward_create(const qb_pair *pair, qb_backward **backward, qb_error *error) {
  qb_backward *b = qb_alloc(1, sizeof *b);
  *backward = NULL;
  if (b == NULL)
    return qb_fail_memory(error, "backward relaxation", sizeof *b);
  b->pair = pair;
  qb_arena_init(&b->arena);
  qb_arena_init(&b->box_arena);
  qb_status status = load(b, error);
  if (status != QB_OK)
    qb_backward_free(b);
  else
    *backward = b;
  return status;
}

void qb_backward_free(qb_backward *backward) {
  if (backward == NULL)
    return;
  qb_arena_free(&backward->arena);
  qb_arena_free(&backward->box_arena);
  qb_free(backward->nodes);
  qb_free(backward->crosses);
  qb_free(backward->row_cost);
  qb_free(backward->reader_count);
  qb_free(backward->readers);
  qb_free(backward);
}

void qb_backward_begin(qb_backward *backward, const qb_box_result *box) {
  backward->box = box;
  qb_arena_rewind(&backward->box_arena, (qb_arena_mark){0});
  for (qb_node_id id = 0; id < backward->pair->quantized->node_count; id++)
    backward->nodes[id].ready = false;
}

const qb_pair *qb_backward_pair(const qb_backward *backward) { return backward->pair; }

bool qb_backward_crosses(const qb_backward *backward, qb_value_id value) { return backward->crosses[value]; }

double qb_backward_row_cost(const qb_backward *backward, qb_value_id value) { return backward->row_cost[value]; }

/* ------------------------------------------------------------------------------------------------------- the walk */

static int64_t elements(const qb_backward *backward, qb_value_id value) { return backward->box->states[value].count; }

int qb_walk_track(const qb_walk *walk, int part) {
  if (part == 1)
    return QB_TRACK_DIFFERENCE;
  return walk->track == QB_TRACK_QUANTIZED ? QB_TRACK_QUANTIZED : QB_TRACK_ORIGINAL;
}

double qb_walk_reach(const qb_backward *backward, qb_value_id value, int track, int64_t i) {
  const qb_box_track *t = &backward->box->states[value].track[track];
  return fmax(fabs(t->lo[i]), fabs(t->hi[i]));
}

void qb_walk_add_constant(qb_walk *walk, int64_t row, double value) {
  walk->constant[row] += value;
  walk->lost[row] += DBL_EPSILON * fabs(walk->constant[row]);
}

static void count_additions(qb_walk *walk, qb_value_id value, int part, int64_t terms) {
  int64_t n = elements(walk->backward, value);
  const double *c = walk->coefficient[part][value];
  double gamma = qb_gamma(terms + 4);
  for (int64_t r = 0; r < walk->rows; r++) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
      if (c[r * n + i] != 0)
        sum += fabs(c[r * n + i]) * qb_walk_reach(walk->backward, value, qb_walk_track(walk, part), i);
    walk->lost[r] += gamma * sum;
  }
}

double *qb_walk_target(qb_walk *walk, qb_value_id value, int part, int64_t terms) {
  if (walk->coefficient[part][value] != NULL)
    count_additions(walk, value, part, terms);
  else
    walk->coefficient[part][value] = qb_alloc((size_t)(walk->rows * elements(walk->backward, value)), sizeof(double));
  return walk->coefficient[part][value];
}

static void drop(qb_walk *walk, qb_value_id value) {
  for (int part = 0; part < 2; part++) {
    qb_free(walk->coefficient[part][value]);
    walk->coefficient[part][value] = NULL;
  }
}

static qb_status substitute(qb_walk *walk, qb_node_id id) {
  const qb_backward_node *data = &walk->backward->nodes[id];
  if (data->is_linear)
    return qb_walk_linear(walk, id);
  return data->is_kinked ? qb_walk_kinked(walk, id) : qb_walk_other(walk, id);
}

/* What is left are forms over the input, where x = x'. */
static void evaluate(qb_walk *walk, double *upper, double *influence) {
  qb_value_id input = walk->backward->pair->quantized->inputs[0];
  const qb_box_track *x = &walk->backward->box->states[input].track[QB_TRACK_ORIGINAL];
  int64_t n = elements(walk->backward, input);
  const double *c = walk->coefficient[0][input];
  double gamma = qb_gamma(n + 4);
  for (int64_t r = 0; r < walk->rows; r++) {
    double sum = 0, magnitude = fabs(walk->constant[r]);
    for (int64_t i = 0; c != NULL && i < n; i++) {
      double a = c[r * n + i], term = a > 0 ? a * x->hi[i] : a * x->lo[i];
      sum += term;
      magnitude += fabs(term);
      if (influence != NULL)
        influence[i] += fabs(a) * (x->hi[i] - x->lo[i]);
    }
    double lost = walk->lost[r] * (1 + 0x1p-20) + gamma * magnitude * (1 + 0x1p-20) + DBL_MIN;
    upper[r] = qb_up(qb_up(sum + walk->constant[r]) + lost);
  }
}

static qb_status start(qb_walk *walk, const qb_rows *rows, int64_t first) {
  int64_t n = elements(walk->backward, rows->value);
  double *c = qb_walk_target(walk, rows->value, rows->track == QB_TRACK_DIFFERENCE ? 1 : 0, 0);
  if (c == NULL)
    return qb_fail_memory(walk->error, "rows of a relaxation", (size_t)(walk->rows * n) * sizeof *c);
  if (rows->element == NULL) {
    memcpy(c, rows->dense + first * n, (size_t)(walk->rows * n) * sizeof *c);
    return QB_OK;
  }
  for (int64_t r = 0; r < walk->rows; r++)
    c[r * n + rows->element[first + r]] = rows->sign[first + r];
  return QB_OK;
}

static qb_status walk_back(qb_walk *walk, const qb_rows *rows, int64_t first) {
  const qb_graph *graph = walk->backward->pair->quantized;
  QB_TRY(start(walk, rows, first));
  for (qb_node_id id = graph->values[rows->value].producer; id >= 0; id--) {
    qb_value_id y = graph->nodes[id].output;
    if (walk->coefficient[0][y] == NULL && walk->coefficient[1][y] == NULL)
      continue;
    QB_TRY(substitute(walk, id));
    drop(walk, y);
  }
  return QB_OK;
}

static qb_status run_block(qb_backward *backward, const qb_rows *rows, int64_t first, double *upper, double *influence,
                           qb_error *error) {
  size_t values = (size_t)backward->pair->quantized->value_count;
  int64_t count = rows->count - first < BLOCK_ROWS ? rows->count - first : BLOCK_ROWS;
  qb_walk walk = {.backward = backward, .track = rows->track, .joint = rows->joint, .rows = count, .error = error};
  double **table = qb_alloc(2 * values, sizeof *table), *sums = qb_alloc((size_t)(2 * count), sizeof *sums);
  qb_status status = QB_OK;
  if (table == NULL || sums == NULL) {
    status = qb_fail_memory(error, "rows of a relaxation", 2 * values * sizeof *table);
  } else {
    walk.coefficient[0] = table;
    walk.coefficient[1] = table + values;
    walk.constant = sums;
    walk.lost = sums + count;
    status = walk_back(&walk, rows, first);
    if (status == QB_OK)
      evaluate(&walk, upper + first, influence);
  }
  for (size_t v = 0; table != NULL && v < 2 * values; v++)
    qb_free(table[v]);
  qb_free(table);
  qb_free(sums);
  return status;
}

static qb_status prepare(qb_backward *backward, qb_value_id value, qb_error *error) {
  const qb_graph *graph = backward->pair->quantized;
  for (qb_node_id id = graph->values[value].producer; id >= 0; id--) {
    qb_backward_node *data = &backward->nodes[id];
    if (data->ready || backward->box->states[graph->nodes[id].output].count == 0)
      continue;
    if (data->is_linear)
      QB_TRY(qb_backward_prepare_linear(backward, id, error));
    else if (data->is_kinked)
      QB_TRY(qb_backward_prepare_kinked(backward, id, error));
    data->ready = true;
  }
  return QB_OK;
}

qb_status qb_backward_upper(qb_backward *backward, const qb_rows *rows, double *upper, double *influence,
                            qb_error *error) {
  int64_t blocks = (rows->count + BLOCK_ROWS - 1) / BLOCK_ROWS;
  qb_status status = prepare(backward, rows->value, error);
  if (status != QB_OK)
    return status;
  bool alone = !omp_in_parallel();
  int threads = openblas_get_num_threads();
  if (alone)
    openblas_set_num_threads(1); /* one order of summation whatever the number of threads */
#pragma omp parallel for schedule(dynamic) if (influence == NULL && blocks > 1)
  for (int64_t b = 0; b < blocks; b++) {
    qb_error own;
    qb_status done = run_block(backward, rows, b * BLOCK_ROWS, upper, influence, &own);
    if (done != QB_OK) {
#pragma omp critical(qb_backward_failed)
      status = qb_fail(error, done, "%s", own.message);
    }
  }
  if (alone)
    openblas_set_num_threads(threads);
  return status;
}
