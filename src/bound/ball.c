/* Boxes by intervals and backward relaxations together; see ball.h. */
#include "bound/ball.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/progress.h"

/* Of so few inputs it is remembered which of them makes which element undecided. */
enum { SMEARED_INPUTS = 16 };

/* An interval of a difference that is wider than this share of the interval of x' loses too much in x + d. */
static const double WIDE = 0.05;

typedef struct ball_call {
  qb_backward *backward;
  const qb_pair *pair;
  const qb_ball_settings *settings;
  const qb_box_result *box;
  qb_ball *ball;
  double work_left;           /* for hidden layers */
  double output_work;         /* of what comes after them */
  double work_done, work_all; /* planned, for progress and for the speed so far */
  double started, deadline;   /* deadline 0: none */
  int64_t missed;             /* rows that were not begun in time */
  qb_node_id first_cut;       /* the first node whose output is cut across, -1: none */
  qb_error *error;
} ball_call;

qb_ball_settings qb_ball_settings_default(void) {
  return (qb_ball_settings){.hidden_work = 4e11, .joint = true, .turns = 2, .output = -1};
}

/* ----------------------------------------------------------------------------------------------- time and progress */

/* Balls above so much work say how far they are; shorter ones are counted by whoever asks for many. */
static const double LONG_WORK = 1e10;

/* Rows between two looks at the progress. */
static int64_t rows_a_step(const ball_call *call, qb_value_id value) {
  double rows = LONG_WORK / fmax(1, qb_backward_row_cost(call->backward, value));
  return rows < 2 ? 2 : rows > 1e6 ? 1000000 : (int64_t)rows;
}

static qb_status report(ball_call *call, double work) {
  call->work_done += work;
  double share = fmin(1, call->work_done / fmax(1, call->work_all));
  if (call->work_all < LONG_WORK ||
      qb_progress_report(call->settings->progress, "relaxing the layers of a ball, per mille", (int64_t)(1000 * share),
                         1000))
    return QB_OK;
  return qb_fail(call->error, QB_ERROR_INTERRUPTED, "certifying was stopped");
}

/* When hidden layers must stop, so that the outputs still have their time at the speed so far. */
static double hidden_deadline(const ball_call *call) {
  if (call->deadline == 0)
    return 0;
  double seconds = qb_clock_seconds() - call->started;
  double speed = call->work_done > 0 ? seconds / call->work_done : 1e-9;
  return fmax(call->started, call->deadline - fmin(speed * call->output_work, 0.8 * call->settings->timeout_seconds));
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

/* What of one track is asked for. */
typedef struct request {
  qb_value_id value;
  int track;
  bool joint;
  int32_t turns;
  double deadline;
  double *influence;
  bool smear;
} request;

static qb_status ask(ball_call *call, const request *what, int64_t count, row_buffer *rows) {
  int64_t step = rows_a_step(call, what->value);
  double cost = qb_backward_row_cost(call->backward, what->value);
  for (int64_t first = 0; first < count; first += step) {
    qb_rows asked = {.value = what->value,
                     .track = what->track,
                     .count = count - first < step ? count - first : step,
                     .element = rows->element + first,
                     .sign = rows->sign + first,
                     .joint = what->joint,
                     .smear = what->smear,
                     .turns = what->turns,
                     .deadline = what->deadline};
    QB_TRY(qb_backward_upper(call->backward, &asked, rows->upper + first, what->influence, call->error));
    int32_t turns = qb_backward_turns(call->backward);
    call->ball->turns = turns > call->ball->turns ? turns : call->ball->turns;
    call->missed += qb_backward_missed(call->backward);
    QB_TRY(report(call, (what->track == QB_TRACK_DIFFERENCE ? 3 : 1) * cost * (double)asked.count));
  }
  return QB_OK;
}

/* A part of a box may hold no input at all: then there is nothing to be bounded. */
static qb_status stop_if_empty(ball_call *call, qb_box_state *state) {
  if (call->settings->cut_count == 0 || !qb_ball_contradicts(state))
    return QB_OK;
  call->ball->empty = true;
  return qb_fail(call->error, QB_ERROR_INTERRUPTED, "no input lies in the part");
}

/* Intersects one track of the listed elements with what a relaxation says, and the other tracks with that. */
static qb_status tighten(ball_call *call, const request *what, const int64_t *element, int64_t count) {
  const qb_box_track *t = &call->box->states[what->value].track[what->track];
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
  if (count > 0)
    status = ask(call, what, 2 * count, &rows);
  for (int64_t k = 0; status == QB_OK && k < count; k++) {
    int64_t i = element[k];
    t->hi[i] = fmin(t->hi[i], rows.upper[2 * k]);
    t->lo[i] = fmax(t->lo[i], -rows.upper[2 * k + 1]);
    qb_box_meet(&call->box->states[what->value], i);
  }
  free_rows(&rows);
  return status == QB_OK ? stop_if_empty(call, &call->box->states[what->value]) : status;
}

/* The elements whose x' is not known well enough as x plus the difference: what this loses is at most the width of the
 * difference. Returns their number, in place. */
static int64_t keep_wide(const qb_box_state *state, int64_t *element, int64_t count) {
  int64_t kept = 0;
  for (int64_t k = 0; k < count; k++) {
    int64_t i = element[k];
    const qb_box_track *x = &state->track[QB_TRACK_QUANTIZED], *d = &state->track[QB_TRACK_DIFFERENCE];
    if (d->hi[i] - d->lo[i] > WIDE * (x->hi[i] - x->lo[i]))
      element[kept++] = i;
  }
  return kept;
}

/* The intervals of the listed elements, to be put back: six numbers each. */
static void copy_intervals(const qb_box_state *state, const int64_t *element, int64_t count, double *kept, bool back) {
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    for (int64_t k = 0; k < count; k++) {
      double *lo = &state->track[track].lo[element[k]], *hi = &state->track[track].hi[element[k]];
      double *to = kept + 2 * (track * count + k);
      if (back) {
        *lo = to[0];
        *hi = to[1];
      } else {
        to[0] = *lo;
        to[1] = *hi;
      }
    }
}

/* Undecided elements alone: what is decided on the way drops out. */
static qb_status tighten_tracks(ball_call *call, qb_value_id value, int64_t *element, int64_t count) {
  request what = {.value = value, .track = QB_TRACK_ORIGINAL, .deadline = hidden_deadline(call)};
  what.smear = call->box->states[call->pair->quantized->inputs[0]].count <= SMEARED_INPUTS;
  QB_TRY(tighten(call, &what, element, count));
  count = qb_backward_unstable(call->backward, value, element);
  what.track = QB_TRACK_DIFFERENCE;
  what.smear = false;
  QB_TRY(tighten(call, &what, element, count));
  count = qb_backward_unstable(call->backward, value, element);
  what.track = QB_TRACK_QUANTIZED;
  return tighten(call, &what, element, keep_wide(&call->box->states[value], element, count));
}

/* All of a tensor or, when time runs out, nothing of it: so that whoever repeats the bound knows what was done. */
static qb_status tighten_hidden(ball_call *call, qb_node_id id, int64_t *element, int64_t count) {
  qb_value_id value = call->pair->quantized->nodes[id].output;
  double *kept = qb_alloc((size_t)(6 * count), sizeof *kept);
  int64_t *again = qb_alloc((size_t)count, sizeof *again);
  qb_status status = kept == NULL || again == NULL
                         ? qb_fail_memory(call->error, "intervals of a tensor", (size_t)(6 * count) * sizeof *kept)
                         : QB_OK;
  if (status == QB_OK) {
    memcpy(again, element, (size_t)count * sizeof *again);
    copy_intervals(&call->box->states[value], again, count, kept, false);
    call->missed = 0;
    status = tighten_tracks(call, value, element, count);
  }
  if (status == QB_OK && call->missed > 0) {
    copy_intervals(&call->box->states[value], again, count, kept, true);
    call->ball->hidden_skipped += (double)count;
    call->ball->late = true;
  }
  call->ball->relaxed[id] = call->missed == 0;
  qb_free(kept);
  qb_free(again);
  return status;
}

static void meet_known(const qb_box_state *known, qb_box_state *state) {
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    for (int64_t i = 0; i < state->count; i++) {
      state->track[track].lo[i] = qb_larger(state->track[track].lo[i], known->track[track].lo[i]);
      state->track[track].hi[i] = qb_smaller(state->track[track].hi[i], known->track[track].hi[i]);
    }
}

/* Cuts across the tensor; *done: it is left as it is. */
static qb_status apply_cuts(ball_call *call, qb_box_result *box, qb_node_id id, bool *done) {
  const qb_ball_settings *settings = call->settings;
  qb_value_id value = call->pair->quantized->nodes[id].output;
  call->box = box;
  QB_TRY(qb_ball_cuts_apply(settings->cuts, settings->cut_count, call->backward, box, value, &call->ball->empty,
                            call->error));
  if (call->ball->empty)
    return qb_fail(call->error, QB_ERROR_INTERRUPTED, "no input lies in the part");
  *done = settings->hidden_work == 0 || !qb_backward_crosses(call->backward, value) ||
          (settings->cut_count > 0 && settings->known != NULL && id < call->first_cut);
  return settings->cut_count == 0 ? QB_OK : stop_if_empty(call, &box->states[value]);
}

/* Undecided elements in front of an activation. */
static qb_status visit(void *context, qb_box_result *box, qb_node_id id, qb_error *error) {
  ball_call *call = context;
  qb_value_id value = call->pair->quantized->nodes[id].output;
  int64_t n = box->states[value].count;
  if (call->settings->known != NULL)
    meet_known(&call->settings->known->states[value], &box->states[value]);
  bool done = false;
  QB_TRY(apply_cuts(call, box, id, &done));
  if (done)
    return QB_OK;
  int64_t *element = qb_alloc((size_t)n, sizeof *element);
  if (element == NULL)
    return qb_fail_memory(error, "undecided elements", (size_t)n * sizeof *element);
  int64_t count = qb_backward_unstable(call->backward, value, element);
  double work = 10 * (double)count * qb_backward_row_cost(call->backward, value);
  qb_status status = QB_OK;
  if (count > 0 && work <= call->work_left && !call->ball->late) { /* once late, for good: the first tensors are done */
    call->work_left -= work;
    call->ball->hidden_work += work;
    status = tighten_hidden(call, id, element, count);
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

/* Turning planes costs both networks once more and two more rows per output, each time: within what hidden layers left.
 */
static int32_t affordable_turns(const ball_call *call, qb_value_id output, int64_t count) {
  double work = 20 * (double)count * qb_backward_row_cost(call->backward, output);
  double most = call->settings->joint ? floor(call->work_left / fmax(1, work)) : 0;
  return most < call->settings->turns ? (int32_t)most : call->settings->turns;
}

/* The listed outputs on all tracks, or the difference alone. */
static qb_status tighten_outputs(ball_call *call, qb_value_id output, int64_t *element, int64_t count, bool all) {
  request what = {.value = output, .joint = call->settings->joint, .deadline = call->deadline};
  if (all)
    QB_TRY(tighten(call, &what, element, count));
  what.track = QB_TRACK_DIFFERENCE;
  what.influence = call->ball->influence;
  what.turns = affordable_turns(call, output, count);
  QB_TRY(tighten(call, &what, element, count));
  what.turns = 0;
  what.track = QB_TRACK_QUANTIZED;
  what.influence = NULL;
  return all ? tighten(call, &what, element, keep_wide(&call->box->states[output], element, count)) : QB_OK;
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
  call->missed = 0;
  if (qb_backward_crosses(call->backward, output))
    status = tighten_outputs(call, output, element, count, !one);
  ball->late = ball->late || call->missed > 0;
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

/* Margins out_j - out_top of one track, from above. */
typedef struct margins {
  int64_t rows;
  double *dense;                /* (rows, outputs) the forms */
  double *over[QB_TRACK_COUNT]; /* (rows) */
} margins;

static qb_status bound_margins(ball_call *call, qb_value_id output, int track, margins *m) {
  qb_rows asked = {.value = output,
                   .track = track,
                   .count = m->rows,
                   .dense = m->dense,
                   .joint = call->settings->joint,
                   .deadline = call->deadline};
  return qb_backward_upper(call->backward, &asked, m->over[track], NULL, call->error);
}

static bool all_negative(const double *over, int64_t rows) {
  bool negative = true;
  for (int64_t j = 0; j < rows; j++)
    negative = negative && over[j] < 0;
  return negative;
}

/* What the largest margin costs most. */
static qb_status find_margin_cut(ball_call *call, qb_value_id output, const margins *m) {
  bool clear = all_negative(m->over[QB_TRACK_ORIGINAL], m->rows);
  int track = clear ? QB_TRACK_QUANTIZED : QB_TRACK_ORIGINAL;
  const double *over = m->over[clear ? QB_TRACK_DIFFERENCE : QB_TRACK_ORIGINAL];
  int64_t worst = 0;
  for (int64_t j = 1; j < m->rows; j++)
    worst = over[j] > over[worst] ? j : worst;
  qb_rows row = {.value = output,
                 .track = track,
                 .count = 1,
                 .dense = m->dense + worst * call->ball->count,
                 .deadline = call->deadline};
  return qb_ball_find_cut(call->backward, call->box, &row, &call->ball->cut[1], &call->ball->has_cut[1], call->error);
}

/* Proved when out_j - out_top < 0 for every j, in x, and in x' as x plus the difference or directly; the last only
 * where it is needed. */
static qb_status prove_kept(ball_call *call, qb_value_id output, margins *m, bool *kept) {
  *kept = false;
  QB_TRY(bound_margins(call, output, QB_TRACK_ORIGINAL, m));
  if (!all_negative(m->over[QB_TRACK_ORIGINAL], m->rows))
    return QB_OK;
  QB_TRY(bound_margins(call, output, QB_TRACK_DIFFERENCE, m));
  double *moved = m->over[QB_TRACK_DIFFERENCE];
  for (int64_t j = 0; j < m->rows; j++)
    moved[j] = qb_up_sum(m->over[QB_TRACK_ORIGINAL][j], moved[j]);
  *kept = all_negative(moved, m->rows);
  if (*kept)
    return QB_OK;
  QB_TRY(bound_margins(call, output, QB_TRACK_QUANTIZED, m));
  for (int64_t j = 0; j < m->rows; j++)
    moved[j] = fmin(moved[j], m->over[QB_TRACK_QUANTIZED][j]);
  *kept = all_negative(moved, m->rows);
  return QB_OK;
}

static qb_status decide(ball_call *call, qb_value_id output) {
  qb_ball *ball = call->ball;
  int64_t n = ball->count, rows = n - 1;
  double *dense = qb_alloc((size_t)(rows * n), sizeof *dense);
  double *upper = qb_alloc((size_t)(3 * rows), sizeof *upper);
  qb_status status = dense == NULL || upper == NULL
                         ? qb_fail_memory(call->error, "margins", (size_t)(rows * n) * sizeof *dense)
                         : QB_OK;
  margins m = {rows, dense, {upper, upper + rows, upper + 2 * rows}};
  for (int64_t j = 0; status == QB_OK && j < rows; j++) {
    dense[j * n + (j < ball->top ? j : j + 1)] = 1;
    dense[j * n + ball->top] = -1;
  }
  if (status == QB_OK)
    status = prove_kept(call, output, &m, &ball->keeps_top);
  if (status == QB_OK && call->settings->find_cuts && !ball->keeps_top && rows > 0)
    status = find_margin_cut(call, output, &m);
  qb_free(dense);
  qb_free(upper);
  return status;
}

/* What the largest difference costs most. */
static qb_status find_difference_cut(ball_call *call, qb_value_id output) {
  const qb_ball *ball = call->ball;
  int64_t only = call->settings->output, worst = only >= 0 && only < ball->count ? only : 0;
  for (int64_t k = 0; k < ball->count && only < 0; k++)
    if (qb_interval_magnitude(ball->difference[k]) > qb_interval_magnitude(ball->difference[worst]))
      worst = k;
  double sign = ball->difference[worst].hi >= -ball->difference[worst].lo ? 1 : -1;
  qb_rows row = {.value = output,
                 .track = QB_TRACK_DIFFERENCE,
                 .count = 1,
                 .element = &worst,
                 .sign = &sign,
                 .joint = call->settings->joint,
                 .deadline = call->deadline};
  return qb_ball_find_cut(call->backward, call->box, &row, &call->ball->cut[0], &call->ball->has_cut[0], call->error);
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

static double largest_of(const qb_box_result *box, int32_t values) {
  double largest = 0;
  for (qb_value_id v = 0; v < values; v++)
    for (int64_t i = 0; i < box->states[v].count; i++) {
      const qb_box_track *x = &box->states[v].track[QB_TRACK_ORIGINAL];
      double size = fmax(fabs(x->lo[i]), fabs(x->hi[i]));
      largest = size > largest && isfinite(size) ? size : largest;
    }
  return largest;
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
  call->ball->largest = largest_of(box, call->pair->quantized->value_count);
  call->ball->applies = true;
  if (call->settings->decide)
    QB_TRY(decide(call, output));
  if (call->settings->find_cuts && qb_backward_crosses(call->backward, output))
    QB_TRY(find_difference_cut(call, output));
  return keep_slopes(call);
}

/* What hidden layers may cost at most and what follows them. */
static void plan_work(ball_call *call) {
  const qb_graph *graph = call->pair->quantized;
  qb_value_id output = graph->outputs[0];
  double outputs = call->settings->output >= 0 ? 1 : (double)qb_shape_elements(&graph->values[output].shape);
  double row = qb_backward_row_cost(call->backward, output), hidden = 0;
  for (qb_node_id id = 0; id < graph->node_count; id++) {
    qb_value_id y = graph->nodes[id].output;
    if (call->pair->value[y] != QB_NONE && y != output && qb_backward_crosses(call->backward, y) &&
        qb_backward_precedes_kink(call->backward, y))
      hidden += 10 * (double)qb_shape_elements(&graph->values[y].shape) * qb_backward_row_cost(call->backward, y);
  }
  call->output_work = (10 + (call->settings->decide ? 5 : 0)) * outputs * row;
  call->work_all = fmin(hidden, call->settings->hidden_work) + call->output_work;
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
                    .started = qb_clock_seconds(),
                    .error = error};
  call.deadline = settings->timeout_seconds > 0 ? call.started + settings->timeout_seconds : 0;
  const qb_graph *graph = call.pair->quantized;
  qb_status status;
  if (graph->input_count != 1 || domain->count != (int64_t)qb_shape_elements(&graph->values[graph->inputs[0]].shape))
    return qb_fail(error, QB_ERROR_SHAPE, "%s: the box does not fit the network's one input", graph->name);
  plan_work(&call);
  call.first_cut = graph->node_count;
  for (int64_t k = 0; k < settings->cut_count; k++) {
    qb_node_id producer = graph->values[settings->cuts[k].value].producer;
    call.first_cut = producer < call.first_cut ? producer : call.first_cut;
  }
  status = bound(&call, domain, box);
  ball->applies = ball->applies || ball->empty;
  return ball->empty ? QB_OK : status;
}

void qb_ball_free(qb_ball *ball) {
  if (ball == NULL)
    return;
  qb_arena_free(&ball->arena);
  *ball = (qb_ball){0};
}
