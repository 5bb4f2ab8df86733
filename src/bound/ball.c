/* Boxes by intervals and backward relaxations together; see ball.h. */
#include "bound/ball.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

typedef struct ball_call {
  qb_backward *backward;
  const qb_pair *pair;
  const qb_ball_settings *settings;
  const qb_box_result *box;
  qb_ball *ball;
  double work_left;
  qb_error *error;
} ball_call;

qb_ball_settings qb_ball_settings_default(void) {
  return (qb_ball_settings){.hidden_work = 4e11, .joint = true, .output = -1};
}

/* --------------------------------------------------------------------------------------------------- hidden layers */

/* Both signs of every listed element: rows 2 k (upper end) and 2 k + 1 (lower end). */
typedef struct row_buffer {
  int64_t *element;
  double *sign, *upper;
} row_buffer;

static bool new_rows(int64_t count, row_buffer *rows) {
  rows->element = qb_alloc((size_t)(2 * count), sizeof *rows->element);
  rows->sign = qb_alloc((size_t)(2 * count), sizeof *rows->sign);
  rows->upper = qb_alloc((size_t)(2 * count), sizeof *rows->upper);
  return rows->element != NULL && rows->sign != NULL && rows->upper != NULL;
}

static void free_rows(row_buffer *rows) {
  qb_free(rows->element);
  qb_free(rows->sign);
  qb_free(rows->upper);
}

/* Intersects one track of the listed elements with what a relaxation says. */
static qb_status tighten_track(ball_call *call, qb_value_id value, int track, int64_t count, bool joint,
                               row_buffer *rows, double *influence) {
  qb_rows asked = {.value = value,
                   .track = track,
                   .count = 2 * count,
                   .element = rows->element,
                   .sign = rows->sign,
                   .joint = joint};
  QB_TRY(qb_backward_upper(call->backward, &asked, rows->upper, influence, call->error));
  const qb_box_track *t = &call->box->states[value].track[track];
  for (int64_t k = 0; k < count; k++) {
    int64_t i = rows->element[2 * k];
    t->hi[i] = fmin(t->hi[i], rows->upper[2 * k]);
    t->lo[i] = fmax(t->lo[i], -rows->upper[2 * k + 1]);
  }
  return QB_OK;
}

static qb_status tighten(ball_call *call, qb_value_id value, const int64_t *element, int64_t count, int first_track,
                         bool joint, double *influence) {
  row_buffer rows;
  qb_status status = QB_OK;
  if (!new_rows(count, &rows)) {
    free_rows(&rows);
    return qb_fail_memory(call->error, "rows of a relaxation", (size_t)count * sizeof(double));
  }
  for (int64_t k = 0; k < 2 * count; k++) {
    rows.element[k] = element[k / 2];
    rows.sign[k] = k % 2 == 0 ? 1 : -1;
  }
  for (int track = first_track; track < QB_TRACK_COUNT && status == QB_OK; track++)
    status = tighten_track(call, value, track, count, joint, &rows, track == QB_TRACK_DIFFERENCE ? influence : NULL);
  for (int64_t k = 0; status == QB_OK && k < count; k++)
    qb_box_meet(&call->box->states[value], element[k]);
  free_rows(&rows);
  return status;
}

/* Undecided elements in front of an activation. */
static qb_status visit(void *context, qb_box_result *box, qb_node_id id, qb_error *error) {
  ball_call *call = context;
  qb_value_id value = call->pair->quantized->nodes[id].output;
  int64_t n = box->states[value].count;
  if (!qb_backward_crosses(call->backward, value) || call->settings->hidden_work == 0)
    return QB_OK;
  int64_t *element = qb_alloc((size_t)n, sizeof *element);
  if (element == NULL)
    return qb_fail_memory(error, "undecided elements", (size_t)n * sizeof *element);
  call->box = box;
  int64_t count = qb_backward_unstable(call->backward, value, element);
  double work = 10 * (double)count * qb_backward_row_cost(call->backward, value);
  qb_status status = QB_OK;
  if (count > 0 && work <= call->work_left) {
    call->work_left -= work;
    call->ball->relaxed[id] = true;
    status = tighten(call, value, element, count, 0, false, NULL);
  } else {
    call->ball->hidden_skipped += (double)count;
  }
  qb_free(element);
  return status;
}

/* -------------------------------------------------------------------------------------------------------- outputs */

static qb_status allocate(qb_ball *ball, int64_t count, int64_t inputs, qb_error *error) {
  ball->count = count;
  ball->input_count = inputs;
  ball->original = qb_arena_alloc(&ball->arena, (size_t)count, sizeof *ball->original);
  ball->quantized = qb_arena_alloc(&ball->arena, (size_t)count, sizeof *ball->quantized);
  ball->difference = qb_arena_alloc(&ball->arena, (size_t)count, sizeof *ball->difference);
  ball->influence = qb_arena_alloc(&ball->arena, (size_t)inputs, sizeof *ball->influence);
  if (ball->original == NULL || ball->quantized == NULL || ball->difference == NULL || ball->influence == NULL)
    return qb_fail_memory(error, "outputs of a ball", (size_t)count * 3 * sizeof *ball->original);
  return QB_OK;
}

static void copy_track(const qb_box_state *state, int track, qb_interval *to) {
  for (int64_t i = 0; i < state->count; i++)
    to[i] = (qb_interval){state->track[track].lo[i], state->track[track].hi[i]};
}

static qb_status bound_outputs(ball_call *call, qb_value_id output) {
  qb_ball *ball = call->ball;
  const qb_box_state *state = &call->box->states[output];
  int64_t *element = qb_alloc((size_t)state->count, sizeof *element);
  qb_status status = QB_OK;
  if (element == NULL)
    return qb_fail_memory(call->error, "outputs of a ball", (size_t)state->count * sizeof *element);
  copy_track(state, QB_TRACK_DIFFERENCE, ball->difference);
  bool one = call->settings->output >= 0 && call->settings->output < state->count;
  int64_t count = one ? 1 : state->count;
  for (int64_t i = 0; i < count; i++)
    element[i] = one ? call->settings->output : i;
  if (qb_backward_crosses(call->backward, output))
    status =
        tighten(call, output, element, count, one ? QB_TRACK_DIFFERENCE : 0, call->settings->joint, ball->influence);
  for (int64_t i = 0; i < state->count; i++)
    ball->from_interval += ball->difference[i].lo == state->track[QB_TRACK_DIFFERENCE].lo[i] ||
                           ball->difference[i].hi == state->track[QB_TRACK_DIFFERENCE].hi[i];
  qb_free(element);
  copy_track(state, QB_TRACK_ORIGINAL, ball->original);
  copy_track(state, QB_TRACK_QUANTIZED, ball->quantized);
  copy_track(state, QB_TRACK_DIFFERENCE, ball->difference);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- decisions */

static void find_top(qb_ball *ball) {
  double best = -INFINITY;
  for (int64_t i = 0; i < ball->count; i++) {
    double middle = 0.5 * ball->original[i].lo + 0.5 * ball->original[i].hi;
    if (middle > best) {
      best = middle;
      ball->top = i;
    }
  }
}

/* Proved when out_j - out_top < 0 for every j, in x, and in x' directly or as x plus the difference. */
static bool is_kept(const double *over[QB_TRACK_COUNT], int64_t rows) {
  for (int64_t j = 0; j < rows; j++) {
    double moved = qb_up_sum(over[QB_TRACK_ORIGINAL][j], over[QB_TRACK_DIFFERENCE][j]);
    if (!(over[QB_TRACK_ORIGINAL][j] < 0) || !(fmin(over[QB_TRACK_QUANTIZED][j], moved) < 0))
      return false;
  }
  return true;
}

static qb_status decide(ball_call *call, qb_value_id output) {
  qb_ball *ball = call->ball;
  int64_t n = ball->count, rows = n - 1;
  double *dense = qb_alloc((size_t)(rows * n), sizeof *dense);
  double *upper = qb_alloc((size_t)(3 * rows), sizeof *upper);
  qb_status status = dense == NULL || upper == NULL
                         ? qb_fail_memory(call->error, "margins", (size_t)(rows * n) * sizeof *dense)
                         : QB_OK;
  const double *over[QB_TRACK_COUNT] = {upper, upper + rows, upper + 2 * rows};
  for (int64_t j = 0; status == QB_OK && j < rows; j++) {
    dense[j * n + (j < ball->top ? j : j + 1)] = 1;
    dense[j * n + ball->top] = -1;
  }
  for (int track = 0; track < QB_TRACK_COUNT && status == QB_OK; track++) {
    qb_rows asked = {.value = output, .track = track, .count = rows, .dense = dense, .joint = call->settings->joint};
    status = qb_backward_upper(call->backward, &asked, upper + track * rows, NULL, call->error);
  }
  ball->keeps_top = status == QB_OK && is_kept(over, rows);
  qb_free(dense);
  qb_free(upper);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- the whole */

static qb_status keep_slopes(ball_call *call) {
  qb_ball *ball = call->ball;
  int64_t count = call->settings->keep_slopes == 0 ? 0 : qb_backward_slopes(call->backward, NULL);
  if (count == 0 || count > call->settings->keep_slopes)
    return QB_OK;
  ball->slopes = qb_arena_alloc(&ball->arena, (size_t)count, sizeof *ball->slopes);
  if (ball->slopes == NULL)
    return qb_fail_memory(call->error, "slopes of a ball", (size_t)count * sizeof *ball->slopes);
  ball->slope_count = qb_backward_slopes(call->backward, ball->slopes);
  return QB_OK;
}

static qb_status bound(ball_call *call, const qb_domain *domain, qb_box_result *box) {
  qb_value_id output = call->pair->quantized->outputs[0];
  size_t nodes = (size_t)call->pair->quantized->node_count;
  QB_TRY(qb_bound_check_environment(call->error));
  call->ball->relaxed = qb_arena_alloc(&call->ball->arena, nodes, sizeof *call->ball->relaxed);
  if (call->ball->relaxed == NULL)
    return qb_fail_memory(call->error, "a ball", nodes);
  qb_backward_begin(call->backward, box);
  QB_TRY(qb_bound_box_visited(call->pair, domain, visit, call, box, call->error));
  if (!box->applies) {
    snprintf(call->ball->why, sizeof call->ball->why, "%s", box->why);
    return QB_OK;
  }
  call->box = box;
  QB_TRY(allocate(call->ball, box->states[output].count, domain->count, call->error));
  QB_TRY(bound_outputs(call, output));
  find_top(call->ball);
  call->ball->applies = true;
  if (call->settings->decide)
    QB_TRY(decide(call, output));
  return keep_slopes(call);
}

qb_status qb_bound_ball(qb_backward *backward, const qb_domain *domain, const qb_ball_settings *settings, qb_ball *ball,
                        qb_error *error) {
  qb_box_result box;
  qb_status status = qb_bound_ball_kept(backward, domain, settings, ball, &box, error);
  qb_box_result_free(&box);
  return status;
}

qb_status qb_bound_ball_kept(qb_backward *backward, const qb_domain *domain, const qb_ball_settings *settings,
                             qb_ball *ball, qb_box_result *box, qb_error *error) {
  *box = (qb_box_result){0};
  *ball = (qb_ball){0};
  qb_arena_init(&ball->arena);
  ball_call call = {.backward = backward,
                    .pair = qb_backward_pair(backward),
                    .settings = settings,
                    .ball = ball,
                    .work_left = settings->hidden_work,
                    .error = error};
  const qb_graph *graph = call.pair->quantized;
  if (graph->input_count != 1 || domain->count != (int64_t)qb_shape_elements(&graph->values[graph->inputs[0]].shape))
    return qb_fail(error, QB_ERROR_SHAPE, "%s: the box does not fit the network's one input", graph->name);
  return bound(&call, domain, box);
}

void qb_ball_free(qb_ball *ball) {
  if (ball == NULL)
    return;
  qb_arena_free(&ball->arena);
  *ball = (qb_ball){0};
}
