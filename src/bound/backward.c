/* The walk of linear forms back to the input; see backward.h. Rules: backward_linear.c, backward_kinked.c,
 * backward_other.c. */
#include <cblas.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "bound/backward_internal.h"
#include "bound/node_kinks.h"

enum { BLOCKS = 4, LEAST_ROWS = 32, MOST_ROWS = 96, BLOCK_ROWS_JOINT = 10 };

/* Multiplications of a block, at most: some tenths of a second, after which the clock is read. */
static const double BLOCK_WORK = 1e9;

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

/* The operand of a sum with a constant that has all its elements, else none. */
static qb_value_id shifted_by_constant(const qb_graph *graph, const qb_node *node) {
  if (node->op != QB_OP_ADD || graph->values[node->inputs[0]].is_constant == graph->values[node->inputs[1]].is_constant)
    return QB_NONE;
  qb_value_id x = node->inputs[graph->values[node->inputs[0]].is_constant ? 1 : 0];
  return qb_shape_equal(&graph->values[x].shape, &graph->values[node->output].shape) ? x : QB_NONE;
}

/* Sees through sums with constants, and finds the values that only kinked nodes read. */
static void look_ahead(qb_backward *backward) {
  const qb_graph *graph = backward->pair->quantized;
  for (qb_value_id v = 0; v < graph->value_count; v++) {
    int32_t readers = backward->reader_count[v];
    backward->ahead[v] = v;
    backward->read_by_kinks[v] = readers > 0 && qb_graph_use_count(graph, v) == readers;
  }
  for (qb_node_id id = graph->node_count - 1; id >= 0; id--) {
    qb_value_id y = graph->nodes[id].output, x = shifted_by_constant(graph, &graph->nodes[id]);
    if (x != QB_NONE && qb_graph_use_count(graph, x) == 1) {
      backward->ahead[x] = backward->ahead[y];
      backward->read_by_kinks[x] = backward->read_by_kinks[y];
    }
  }
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
  backward->smear = qb_alloc(values, sizeof *backward->smear);
  backward->read_by_kinks = qb_alloc(values, sizeof *backward->read_by_kinks);
  backward->ahead = qb_alloc(values, sizeof *backward->ahead);
  if (backward->nodes == NULL || backward->crosses == NULL || backward->row_cost == NULL ||
      backward->reader_count == NULL || backward->readers == NULL || backward->smear == NULL ||
      backward->read_by_kinks == NULL || backward->ahead == NULL)
    return qb_fail_memory(error, "backward relaxation", values * sizeof(double));
  for (qb_node_id id = 0; id < graph->node_count; id++) {
    if (backward->pair->value[graph->nodes[id].output] == QB_NONE)
      continue;
    trace(backward, id);
    backward->nodes[id].is_kinked = qb_node_is_kinked(backward->pair, id);
    qb_node_id partner = backward->pair->partner[id];
    backward->nodes[id].is_rectifier = graph->nodes[id].op == QB_OP_RELU && partner != QB_NONE &&
                                       backward->pair->original->nodes[partner].op == QB_OP_RELU;
    QB_TRY(qb_backward_load_linear(backward, id, error));
  }
  QB_TRY(list_readers(backward, error));
  look_ahead(backward);
  return QB_OK;
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
  qb_free(backward->smear);
  qb_free(backward->read_by_kinks);
  qb_free(backward->ahead);
  qb_free(backward);
}

void qb_backward_begin(qb_backward *backward, const qb_box_result *box) {
  backward->box = box;
  qb_arena_clear(&backward->box_arena);
  backward->half_count = 0;
  for (qb_node_id id = 0; id < backward->pair->quantized->node_count; id++) {
    backward->nodes[id].ready = false;
    backward->nodes[id].narrow = (qb_narrow_layer){0};
  }
  for (qb_value_id v = 0; v < backward->pair->quantized->value_count; v++)
    backward->smear[v] = NULL;
}

const qb_pair *qb_backward_pair(const qb_backward *backward) { return backward->pair; }

bool qb_backward_crosses(const qb_backward *backward, qb_value_id value) { return backward->crosses[value]; }

bool qb_backward_precedes_kink(const qb_backward *backward, qb_value_id value) {
  return backward->reader_count[value] > 0;
}

int64_t qb_backward_missed(const qb_backward *backward) { return backward->missed; }

int32_t qb_backward_turns(const qb_backward *backward) { return backward->turns; }

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
  const qb_box_track *x = &walk->backward->box->states[value].track[qb_walk_track(walk, part)];
  double gamma = qb_gamma(terms + 4);
  for (int64_t r = 0; r < walk->rows; r++)
    walk->lost[r] += gamma * qb_dense_reach(n, c + r * n, x->lo, x->hi);
}

/* Zeroed memory for `count` coefficients, from what was left behind where that is large enough. */
static double *take_memory(qb_walk *walk, size_t count, size_t *capacity) {
  for (int k = 0; k < QB_WALK_SPARES; k++)
    if (walk->spare[k] != NULL && walk->spare_capacity[k] >= count && walk->spare_capacity[k] <= 4 * count + 4096) {
      double *memory = walk->spare[k];
      *capacity = walk->spare_capacity[k];
      walk->spare[k] = NULL;
      return memset(memory, 0, count * sizeof *memory);
    }
  *capacity = count;
  return qb_alloc(count, sizeof(double));
}

double *qb_walk_target(qb_walk *walk, qb_value_id value, int part, int64_t terms) {
  size_t count = (size_t)(walk->rows * elements(walk->backward, value));
  if (walk->coefficient[part][value] != NULL)
    count_additions(walk, value, part, terms);
  else
    walk->coefficient[part][value] = take_memory(walk, count, &walk->capacity[part][value]);
  return walk->coefficient[part][value];
}

bool qb_walk_rename(qb_walk *walk, qb_value_id y, qb_value_id x, int part) {
  if (walk->coefficient[part][x] != NULL)
    return false;
  walk->coefficient[part][x] = walk->coefficient[part][y];
  walk->capacity[part][x] = walk->capacity[part][y];
  walk->coefficient[part][y] = NULL;
  walk->renamed = true;
  return true;
}

static void drop(qb_walk *walk, qb_value_id value) {
  for (int part = 0; part < 2; part++) {
    double *memory = walk->coefficient[part][value];
    for (int k = 0; memory != NULL && k < QB_WALK_SPARES; k++)
      if (walk->spare[k] == NULL) {
        walk->spare[k] = memory;
        walk->spare_capacity[k] = walk->capacity[part][value];
        memory = NULL;
      }
    qb_free(memory);
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
void qb_walk_upper(const qb_walk *walk, double *upper) {
  qb_value_id input = walk->backward->pair->quantized->inputs[0];
  const qb_box_track *x = &walk->backward->box->states[input].track[QB_TRACK_ORIGINAL];
  int64_t n = elements(walk->backward, input);
  const double *c = walk->coefficient[0][input];
  double gamma = qb_gamma(n + 4);
  for (int64_t r = 0; r < walk->rows; r++) {
    double sum = 0, magnitude = 0;
    if (c != NULL)
      qb_dense_range(n, c + r * n, x->lo, x->hi, &sum, &magnitude);
    magnitude += fabs(walk->constant[r]);
    double lost = walk->lost[r] * (1 + 0x1p-20) + gamma * magnitude * (1 + 0x1p-20) + DBL_MIN;
    upper[r] = qb_up(qb_up(sum + walk->constant[r]) + lost);
  }
}

static void add_influence(const qb_walk *walk) {
  qb_value_id input = walk->backward->pair->quantized->inputs[0];
  const qb_box_track *x = &walk->backward->box->states[input].track[QB_TRACK_ORIGINAL];
  const double *c = walk->coefficient[0][input];
  int64_t n = elements(walk->backward, input);
  for (int64_t r = 0; c != NULL && r < walk->rows; r++)
    for (int64_t i = 0; i < n; i++)
      walk->influence[i] += fabs(c[r * n + i]) * (x->hi[i] - x->lo[i]);
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
  walk->element = rows->element + first;
  walk->sign = rows->sign + first;
  for (int64_t r = 0; r < walk->rows; r++)
    c[r * n + rows->element[first + r]] = rows->sign[first + r];
  return QB_OK;
}

qb_status qb_walk_back(qb_walk *walk, const qb_rows *rows, int64_t first) {
  const qb_graph *graph = walk->backward->pair->quantized;
  walk->start = rows->value;
  walk->element = NULL;
  QB_TRY(start(walk, rows, first));
  for (qb_node_id id = graph->values[rows->value].producer; id >= 0; id--) {
    qb_value_id y = graph->nodes[id].output;
    if (walk->coefficient[0][y] == NULL && walk->coefficient[1][y] == NULL)
      continue;
    walk->renamed = false;
    qb_walk_evaluation(walk, y);
    QB_TRY(substitute(walk, id));
    drop(walk, y);
    walk->element = walk->renamed ? walk->element : NULL;
  }
  return qb_walk_press(walk);
}

/* |coefficient| times width of every input, as shares of their sum. */
static void remember_smear(const qb_walk *walk, const qb_rows *rows, int64_t first) {
  qb_value_id input = walk->backward->pair->quantized->inputs[0];
  const qb_box_track *x = &walk->backward->box->states[input].track[QB_TRACK_ORIGINAL];
  int64_t n = elements(walk->backward, input);
  for (int64_t r = 0; walk->coefficient[0][input] != NULL && r < walk->rows; r++) {
    const double *c = walk->coefficient[0][input] + r * n;
    double *smear = walk->backward->smear[rows->value] + rows->element[first + r] * n, sum = 0;
    for (int64_t i = 0; i < n; i++)
      sum += smear[i] = fabs(c[i]) * (x->hi[i] - x->lo[i]);
    for (int64_t i = 0; sum > 0 && i < n; i++)
      smear[i] /= sum;
  }
}

void qb_walk_empty(qb_walk *walk) {
  for (qb_value_id v = 0; v < walk->backward->pair->quantized->value_count; v++)
    drop(walk, v);
  for (int64_t r = 0; r < walk->rows; r++)
    walk->constant[r] = walk->lost[r] = 0;
}

static void end_walk(qb_walk *walk) {
  if (walk->coefficient[0] != NULL && walk->capacity[0] != NULL)
    qb_walk_empty(walk);
  for (int k = 0; k < QB_WALK_SPARES; k++)
    qb_free(walk->spare[k]);
  qb_free(walk->coefficient[0]);
  qb_free(walk->capacity[0]);
  qb_free(walk->constant);
}

static qb_status begin_walk(qb_backward *backward, const qb_rows *rows, int64_t most_rows, qb_walk *walk,
                            qb_error *error) {
  size_t values = (size_t)backward->pair->quantized->value_count;
  *walk = (qb_walk){.backward = backward, .track = rows->track, .joint = rows->joint, .error = error};
  walk->score = rows->score;
  walk->coefficient[0] = qb_alloc(2 * values, sizeof(double *));
  walk->capacity[0] = qb_alloc(2 * values, sizeof(size_t));
  walk->constant = qb_alloc((size_t)(2 * most_rows), sizeof(double));
  if (walk->coefficient[0] == NULL || walk->capacity[0] == NULL || walk->constant == NULL)
    return qb_fail_memory(error, "rows of a relaxation", 2 * values * sizeof(double *));
  walk->coefficient[1] = walk->coefficient[0] + values;
  walk->capacity[1] = walk->capacity[0] + values;
  walk->lost = walk->constant + most_rows;
  return QB_OK;
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
  for (qb_node_id id = graph->values[value].producer; id >= 0; id--)
    if (backward->nodes[id].is_linear && backward->nodes[id].ready)
      QB_TRY(qb_backward_narrow(backward, id, error));
  return QB_OK;
}

/* Rows that are walked together: as many as make good use of a matrix product, few where one is long or where threads
 * would have none. Whatever their number, so that rounding does not depend on it. */
static int64_t rows_a_block(const qb_backward *backward, const qb_rows *rows) {
  double many = BLOCK_WORK / fmax(1, backward->row_cost[rows->value]);
  int64_t share = (rows->count / BLOCKS + 7) / 8 * 8;
  int64_t most = rows->joint          ? BLOCK_ROWS_JOINT
                 : share < LEAST_ROWS ? LEAST_ROWS
                 : share > MOST_ROWS  ? MOST_ROWS
                                      : share;
  return many < 1 ? 1 : many < (double)most ? (int64_t)many : most;
}

/* One call of qb_backward_upper, which threads share. */
typedef struct upper_call {
  qb_backward *backward;
  const qb_rows *rows;
  int64_t block, blocks;     /* rows a block, number of blocks */
  double *upper, *influence; /* influence: (blocks, inputs) or NULL */
  int64_t missed;            /* rows */
  int32_t turns;
  qb_status status;
  qb_error *error;
} upper_call;

static void copy_forms(const qb_walk *walk, double *to) {
  qb_value_id input = walk->backward->pair->quantized->inputs[0];
  int64_t n = elements(walk->backward, input);
  const double *c = walk->coefficient[0][input];
  for (int64_t r = 0; r < walk->rows; r++, to += n + 1) {
    for (int64_t i = 0; i < n; i++)
      to[i] = c == NULL ? 0 : c[r * n + i];
    to[n] = qb_up(walk->constant[r] + walk->lost[r] * (1 + 0x1p-20) + DBL_MIN);
  }
}

static qb_status turn_block(upper_call *call, qb_walk *walk, int64_t first) {
  int32_t turns = 0;
  walk->influence = NULL; /* of the first forms alone */
  qb_status status = qb_walk_turn(walk, call->rows, first, call->upper + first, &turns);
#pragma omp critical(qb_backward_turn)
  call->turns = turns > call->turns ? turns : call->turns;
  return status;
}

static qb_status run_block(upper_call *call, qb_walk *walk, int64_t b) {
  int64_t first = b * call->block, left = call->rows->count - first;
  int64_t n = elements(call->backward, call->backward->pair->quantized->inputs[0]);
  walk->rows = left < call->block ? left : call->block;
  if (call->rows->deadline > 0 && qb_clock_seconds() > call->rows->deadline) {
    for (int64_t r = 0; r < walk->rows; r++)
      call->upper[first + r] = INFINITY;
#pragma omp atomic
    call->missed += walk->rows;
    return QB_OK;
  }
  walk->influence = call->influence == NULL ? NULL : call->influence + b * n;
  qb_status status = qb_walk_back(walk, call->rows, first);
  if (status == QB_OK)
    qb_walk_upper(walk, call->upper + first);
  if (status == QB_OK && walk->influence != NULL)
    add_influence(walk);
  if (status == QB_OK && call->rows->smear)
    remember_smear(walk, call->rows, first);
  if (status == QB_OK && call->rows->at_input != NULL)
    copy_forms(walk, call->rows->at_input + first * (n + 1));
  if (status == QB_OK && call->rows->turns > 0)
    status = turn_block(call, walk, first);
  qb_walk_empty(walk);
  return status;
}

static void run_blocks(upper_call *call) {
  qb_walk walk;
  qb_error own;
  qb_status status = begin_walk(call->backward, call->rows, call->block, &walk, &own);
#pragma omp for schedule(dynamic)
  for (int64_t b = 0; b < call->blocks; b++)
    if (status == QB_OK)
      status = run_block(call, &walk, b);
  end_walk(&walk);
  if (status != QB_OK) {
#pragma omp critical(qb_backward_failed)
    call->status = qb_fail(call->error, status, "%s", own.message);
  }
}

/* In the order of the blocks, whichever thread ran them. */
static void add_influences(const upper_call *call, double *influence) {
  int64_t n = elements(call->backward, call->backward->pair->quantized->inputs[0]);
  for (int64_t b = 0; b < call->blocks; b++)
    for (int64_t i = 0; i < n; i++)
      influence[i] += call->influence[b * n + i];
}

qb_status qb_backward_upper(qb_backward *backward, const qb_rows *rows, double *upper, double *influence,
                            qb_error *error) {
  int64_t block = rows_a_block(backward, rows), blocks = (rows->count + block - 1) / block;
  upper_call call =
      {.backward = backward, .rows = rows, .block = block, .blocks = blocks, .upper = upper, .error = error};
  QB_TRY(prepare(backward, rows->value, error));
  if (rows->smear && backward->smear[rows->value] == NULL) {
    size_t size = (size_t)(elements(backward, rows->value) * elements(backward, backward->pair->quantized->inputs[0]));
    backward->smear[rows->value] = qb_arena_alloc(&backward->box_arena, size, sizeof(double));
    if (backward->smear[rows->value] == NULL)
      return qb_fail_memory(error, "rows of a relaxation", size * sizeof(double));
  }
  if (influence != NULL) {
    size_t size = (size_t)(blocks * elements(backward, backward->pair->quantized->inputs[0]));
    call.influence = qb_alloc(size, sizeof *influence);
    if (call.influence == NULL)
      return qb_fail_memory(error, "rows of a relaxation", size * sizeof *influence);
  }
  bool alone = !omp_in_parallel();
  int threads = openblas_get_num_threads();
  if (alone)
    openblas_set_num_threads(1); /* one order of summation whatever the number of threads */
#pragma omp parallel if (blocks > 1)
  run_blocks(&call);
  if (alone)
    openblas_set_num_threads(threads);
  if (influence != NULL)
    add_influences(&call, influence);
  qb_free(call.influence);
  backward->missed = call.missed;
  backward->turns = call.turns;
  return call.status;
}
