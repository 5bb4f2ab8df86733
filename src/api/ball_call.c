/* Three ways to bound a box, the best that the budget allows; see ball_call.h. */
#include "api/ball_call.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "bound/certificate.h"
#include "graph/quantizer.h"
#include "run/run.h"

enum { MOST_MARGINS = 4096 }; /* outputs among which a largest one is asked for */

/* -------------------------------------------------------------------------------------------------------- planning */

/* Every output in both directions on three tracks costs about ten times a row, every margin five times one. */
qb_ball_budget qb_ball_plan(const qb_pair *pair, double seconds, int64_t output) {
  const qb_graph *graph = pair->quantized;
  double row = 0, outputs = (double)qb_shape_elements(&graph->values[graph->outputs[0]].shape);
  for (qb_node_id id = 0; id < graph->node_count; id++)
    row += (double)qb_graph_node_macs(graph, id);
  double work = QB_BALL_RATE * seconds, relax = 10 * (output < 0 ? outputs : 1) * row, decide = 5 * outputs * row;
  qb_ball_budget budget = {.seconds = seconds, .relaxes = relax <= work};
  budget.decides = budget.relaxes && outputs <= MOST_MARGINS && relax + decide <= work;
  budget.hidden_work = work - relax - (budget.decides ? decide : 0);
  return budget;
}

/* Another evaluation may be off by what the largest number inside rounds by, 100 times less than an output may be. */
static qb_status copy_outputs(const qb_interval *difference, const qb_interval *original, int64_t count, double inside,
                              qb_arena *arena, qb_ball_proof *proof, qb_error *error) {
  double largest = 0.01 * inside;
  proof->count = count;
  proof->outputs = qb_arena_alloc(arena, (size_t)count, sizeof *proof->outputs);
  if (proof->outputs == NULL)
    return qb_fail_memory(error, "outputs of a ball", (size_t)count * sizeof *proof->outputs);
  for (int64_t k = 0; k < count; k++)
    largest = fmax(largest, qb_interval_magnitude(original[k]));
  for (int64_t k = 0; k < count; k++)
    proof->outputs[k] = qb_ball_claimed_range(difference[k], largest);
  return QB_OK;
}

static qb_status copy_relaxed(const qb_pair *pair, const bool *relaxed, qb_arena *arena, qb_ball_proof *proof,
                              qb_error *error) {
  int32_t nodes = pair->quantized->node_count;
  proof->relaxed = qb_arena_alloc(arena, (size_t)nodes, sizeof *proof->relaxed);
  if (proof->relaxed == NULL)
    return qb_fail_memory(error, "nodes of a ball", (size_t)nodes * sizeof *proof->relaxed);
  for (qb_node_id n = 0; n < nodes; n++)
    if (relaxed[n])
      proof->relaxed[proof->relaxed_count++] = n;
  return QB_OK;
}

static qb_status copy_slopes(const qb_ball *ball, qb_arena *arena, qb_ball_proof *proof, qb_error *error) {
  proof->slope_count = ball->slope_count;
  proof->slopes = qb_arena_alloc(arena, (size_t)ball->slope_count, sizeof *proof->slopes);
  if (proof->slopes == NULL)
    return qb_fail_memory(error, "slopes of a ball", (size_t)ball->slope_count * sizeof *proof->slopes);
  for (int64_t i = 0; i < ball->slope_count; i++) {
    proof->slopes[i] = (qb_ball_slopes){.node = ball->slopes[i].node, .element = ball->slopes[i].element};
    memcpy(proof->slopes[i].slope, ball->slopes[i].slope, sizeof proof->slopes[i].slope);
  }
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- intervals */

/* By more than another evaluation may round. */
static bool clearly_above(double a, double b) { return a - b > 1e-12 * (fabs(a) + fabs(b)); }

/* One output lies above all others in x and in x'. */
static bool intervals_keep_top(const qb_box_state *y) {
  const qb_box_track *x = &y->track[QB_TRACK_ORIGINAL], *x_q = &y->track[QB_TRACK_QUANTIZED];
  int64_t top = 0;
  for (int64_t k = 1; k < y->count; k++)
    top = x->lo[k] > x->lo[top] ? k : top;
  for (int64_t k = 0; k < y->count; k++)
    if (k != top && !(clearly_above(x->lo[top], x->hi[k]) && clearly_above(x_q->lo[top], x_q->hi[k])))
      return false;
  return y->count > 1;
}

/* Between layers the clock is read: what is not finished in time proves nothing. */
typedef struct interval_time {
  double deadline;
  bool late;
} interval_time;

static qb_status look_at_clock(void *context, qb_box_result *box, qb_node_id id, qb_error *error) {
  interval_time *time = context;
  (void)box, (void)id;
  time->late = qb_clock_seconds() > time->deadline;
  return time->late ? qb_fail(error, QB_ERROR_INTERRUPTED, "out of time") : QB_OK;
}

static qb_status bound_in_time(const qb_ball_call *call, const qb_domain *domain, qb_box_result *box,
                               qb_ball_proof *proof, qb_error *error) {
  interval_time time = {qb_clock_seconds() + (call->interval_seconds > 0 ? call->interval_seconds : INFINITY), false};
  qb_status status = qb_bound_box_visited(call->pair, domain, look_at_clock, &time, box, error);
  if (time.late)
    snprintf(proof->why, sizeof proof->why, "even intervals take longer than %g s: a longer --timeout helps",
             call->interval_seconds);
  else if (status == QB_OK && !box->applies)
    snprintf(proof->why, sizeof proof->why, "%s", box->why);
  return time.late ? QB_OK : status;
}

static qb_status prove_by_intervals(const qb_ball_call *call, const qb_domain *domain, qb_arena *arena,
                                    qb_ball_proof *proof, qb_error *error) {
  qb_box_result box;
  qb_status status = bound_in_time(call, domain, &box, proof, error);
  const qb_box_state *y = status == QB_OK && box.applies ? &box.states[call->pair->quantized->outputs[0]] : NULL;
  if (y != NULL) {
    const qb_box_track *d = &y->track[QB_TRACK_DIFFERENCE], *x = &y->track[QB_TRACK_ORIGINAL];
    qb_interval *difference = qb_arena_alloc(arena, (size_t)y->count, 2 * sizeof *difference);
    qb_interval *original = difference == NULL ? NULL : difference + y->count;
    for (int64_t k = 0; difference != NULL && k < y->count; k++) {
      difference[k] = (qb_interval){d->lo[k], d->hi[k]};
      original[k] = (qb_interval){x->lo[k], x->hi[k]};
    }
    status = difference == NULL ? qb_fail_memory(error, "outputs of a ball", (size_t)y->count * sizeof *difference)
                                : copy_outputs(difference, original, y->count, 0, arena, proof, error);
    proof->method = "interval";
    proof->keeps_top = intervals_keep_top(y);
  }
  qb_box_result_free(&box);
  return status;
}

/* --------------------------------------------------------------------------------------------------------- a point */

/* One output lies above all others at the input of the last call, whatever the radii hide. */
static int64_t certain_top(qb_run *run, qb_value_id output, int64_t count) {
  const double *y = qb_run_value_double(run, output), *r = qb_run_radius(run, output);
  int64_t top = 0;
  for (int64_t k = 1; k < count; k++)
    top = y[k] > y[top] ? k : top;
  for (int64_t k = 0; k < count; k++)
    if (k != top && !(qb_down(y[top] - r[top]) > qb_up(y[k] + r[k])))
      return -1;
  return top;
}

static qb_status claim_point(const qb_graph *graphs[2], qb_run *runs[2], int64_t count, qb_arena *arena,
                             qb_ball_proof *proof, qb_error *error) {
  double *ends = qb_arena_alloc(arena, 2 * (size_t)count, sizeof *ends);
  proof->outputs = qb_arena_alloc(arena, (size_t)count, sizeof *proof->outputs);
  if (ends == NULL || proof->outputs == NULL)
    return qb_fail_memory(error, "outputs of a point", 2 * (size_t)count * sizeof *ends);
  qb_run_difference(runs[0], graphs[0]->outputs[0], runs[1], graphs[1]->outputs[0], ends, ends + count);
  for (int64_t k = 0; k < count; k++) {
    proof->outputs[k] = (qb_output_range){ends[k], ends[count + k]};
    if (!isfinite(ends[k]) || !isfinite(ends[count + k]))
      return QB_OK; /* nothing is known: another method may say something */
  }
  int64_t top = certain_top(runs[0], graphs[0]->outputs[0], count);
  proof->keeps_top = count > 1 && top >= 0 && top == certain_top(runs[1], graphs[1]->outputs[0], count);
  proof->method = "point";
  proof->count = count;
  return QB_OK;
}

/* Both networks in exact arithmetic; `method` stays NULL where that proves nothing, or takes longer than a ball may. */
static qb_status prove_at_point(const qb_ball_call *call, const qb_domain *domain, qb_arena *arena,
                                qb_ball_proof *proof, qb_error *error) {
  const qb_graph *graphs[2] = {call->pair->original, call->pair->quantized};
  qb_run *runs[2] = {NULL, NULL};
  qb_run_settings how;
  qb_status status = QB_OK;
  qb_run_settings_default(&how);
  how.engine = QB_ENGINE_EXACT;
  how.threads = call->threads;
  how.deadline = call->point_seconds > 0 ? qb_clock_seconds() + call->point_seconds : 0;
  for (int i = 0; i < 2 && status == QB_OK; i++) {
    status = qb_run_create(graphs[i], &how, &runs[i], error);
    if (status == QB_OK)
      status = qb_run_forward(runs[i], domain->lo, 1, error);
  }
  if (status == QB_OK)
    status = claim_point(graphs, runs, (int64_t)qb_shape_elements(&graphs[1]->values[graphs[1]->outputs[0]].shape),
                         arena, proof, error);
  qb_run_free(runs[0]);
  qb_run_free(runs[1]);
  if (status == QB_ERROR_INTERRUPTED && how.deadline > 0 && qb_clock_seconds() > how.deadline)
    return QB_OK;
  return status;
}

/* ------------------------------------------------------------------------------------------- relaxation, bisection */

static qb_ball_settings relaxation_settings(const qb_ball_call *call) {
  qb_ball_settings settings = qb_ball_settings_default();
  settings.hidden_work = fmin(settings.hidden_work, call->budget.hidden_work);
  settings.output = call->output;
  settings.decide = call->budget.decides;
  settings.keep_slopes = call->keep_slopes;
  settings.timeout_seconds = call->budget.seconds;
  return settings;
}

static qb_status prove_by_relaxation(const qb_ball_call *call, const qb_domain *domain, qb_arena *arena,
                                     qb_ball_proof *proof, qb_error *error) {
  qb_ball ball;
  qb_ball_settings settings = relaxation_settings(call);
  settings.progress = call->progress;
  qb_status status = qb_bound_ball(call->backward, domain, &settings, &ball, error);
  if (status == QB_OK && ball.applies) {
    proof->method = "relaxation";
    proof->keeps_top = ball.keeps_top && ball.count > 1;
    proof->hidden_skipped = ball.hidden_skipped;
    proof->turns = ball.turns;
    status = copy_outputs(ball.difference, ball.original, ball.count, ball.largest, arena, proof, error);
    if (status == QB_OK)
      status = copy_relaxed(call->pair, ball.relaxed, arena, proof, error);
    if (status == QB_OK)
      status = copy_slopes(&ball, arena, proof, error);
  } else if (status == QB_OK) {
    snprintf(proof->why, sizeof proof->why, "%s", ball.why);
  }
  qb_ball_free(&ball);
  return status;
}

static qb_status keep_neurons(const qb_pair *pair, const qb_refinement *refined, qb_arena *arena, qb_ball_proof *proof,
                              qb_error *error) {
  size_t count = (size_t)refined->neuron_count;
  proof->neurons = qb_arena_alloc(arena, count, sizeof *proof->neurons);
  if (proof->neurons == NULL)
    return qb_fail_memory(error, "cuts of a ball", count * sizeof *proof->neurons);
  for (size_t i = 0; i < count; i++) {
    const qb_ball_cut *cut = &refined->neurons[i];
    proof->neurons[i] = (qb_ball_neuron){.node = pair->quantized->values[cut->value].producer,
                                         .element = cut->element,
                                         .of_quantized = cut->track == QB_TRACK_QUANTIZED,
                                         .at = cut->at};
  }
  return QB_OK;
}

static qb_status keep_tree(const qb_pair *pair, const qb_refinement *refined, qb_arena *arena, qb_ball_proof *proof,
                           qb_error *error) {
  proof->method = refined->node_count > 1 ? "bisection" : "relaxation";
  proof->keeps_top = refined->keeps_top && refined->count > 1;
  proof->node_count = refined->node_count > 1 ? refined->node_count : 0;
  proof->axis = qb_arena_alloc(arena, (size_t)refined->node_count, sizeof *proof->axis);
  if (proof->axis == NULL)
    return qb_fail_memory(error, "cuts of a ball", (size_t)refined->node_count * sizeof *proof->axis);
  memcpy(proof->axis, refined->axis, (size_t)refined->node_count * sizeof *proof->axis);
  proof->turns = refined->turns;
  proof->hidden_skipped = refined->hidden_skipped;
  QB_TRY(keep_neurons(pair, refined, arena, proof, error));
  QB_TRY(copy_relaxed(pair, refined->relaxed, arena, proof, error));
  return copy_outputs(refined->difference, refined->original, refined->count, refined->largest, arena, proof, error);
}

/* Across inputs where few vary, else across neurons. */
static qb_status prove_by_bisection(const qb_ball_call *call, const qb_domain *domain, double enough, qb_arena *arena,
                                    qb_ball_proof *proof, qb_error *error) {
  qb_refine_settings settings = qb_refine_settings_default();
  qb_refinement refined;
  settings.ball = relaxation_settings(call);
  settings.ball.keep_slopes = 0; /* parts are many: by the rule */
  settings.neurons = qb_domain_free_inputs(domain) > QB_REFINE_INPUTS;
  if (!settings.neurons)
    settings.ball.turns = 0; /* such cuts gain more in the same time */
  settings.timeout_seconds = call->budget.seconds;
  settings.enough = enough;
  settings.threads = call->threads;
  settings.progress = call->progress;
  qb_status status = qb_bound_refined(call->pair, domain, &settings, &refined, error);
  if (status == QB_OK && refined.applies)
    status = keep_tree(call->pair, &refined, arena, proof, error);
  else if (status == QB_OK)
    snprintf(proof->why, sizeof proof->why, "%s", refined.why);
  qb_refinement_free(&refined);
  return status;
}

qb_status qb_ball_prove(const qb_ball_call *call, const qb_domain *domain, double enough, qb_arena *arena,
                        qb_ball_proof *proof, qb_error *error) {
  int64_t free_inputs = qb_domain_free_inputs(domain);
  *proof = (qb_ball_proof){0};
  if (free_inputs == 0 && !call->pair->float32 && !qb_graph_allows_steps(call->pair->original) &&
      !qb_graph_allows_steps(call->pair->quantized))
    QB_TRY(prove_at_point(call, domain, arena, proof, error));
  if (proof->method != NULL)
    return QB_OK;
  *proof = (qb_ball_proof){0};
  if (call->backward == NULL)
    return prove_by_intervals(call, domain, arena, proof, error);
  bool cut = free_inputs > 0 && (free_inputs <= QB_REFINE_INPUTS || call->cut_neurons);
  return cut ? prove_by_bisection(call, domain, enough, arena, proof, error)
             : prove_by_relaxation(call, domain, arena, proof, error);
}
