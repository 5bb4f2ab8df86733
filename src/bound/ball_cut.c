/* Cuts across neurons: what they say, and which one to make; see ball_cut.h. */
#include "bound/ball_cut.h"

#include "base/alloc.h"
#include "base/error.h"
#include "bound/fault.h"
#include "bound/node_kinks.h"

/* Another evaluation, which rounds otherwise, has to find the same parts empty. */
static const double CLEARLY = 1e-9;

qb_cut_fault qb_cut_fault_planted = QB_CUT_FAULT_NONE;

/* A cut leaves at least this share of an interval on each side. */
static const double LEAST_SHARE = 1e-6;

/* -------------------------------------------------------------------------------------------------------- applying */

bool qb_ball_contradicts(qb_box_state *state) {
  for (int track = 0; track < QB_TRACK_COUNT; track++)
    for (int64_t i = 0; i < state->count; i++) {
      double *lo = &state->track[track].lo[i], *hi = &state->track[track].hi[i], swap = *lo;
      if (*lo <= *hi)
        continue;
      if (*lo - *hi > CLEARLY * (fabs(*lo) + fabs(*hi)))
        return true;
      *lo = *hi;
      *hi = swap;
    }
  return false;
}

static void meet_half_line(const qb_ball_cut *cut, qb_box_state *state) {
  const qb_box_track *t = &state->track[cut->track];
  if (cut->above)
    t->lo[cut->element] = qb_larger(t->lo[cut->element], cut->at);
  else
    t->hi[cut->element] = qb_smaller(t->hi[cut->element], cut->at);
  if (qb_cut_fault_planted == QB_CUT_FAULT_ONE_SIDED && !cut->above)
    t->hi[cut->element] -= 0.1 * qb_larger(0, t->hi[cut->element] - t->lo[cut->element]);
  qb_box_meet(state, cut->element);
}

qb_status qb_ball_cuts_apply(const qb_ball_cut *cuts, int64_t count, qb_backward *backward, const qb_box_result *box,
                             qb_value_id value, bool *empty, qb_error *error) {
  bool any = false;
  for (int64_t k = 0; k < count; k++)
    if (cuts[k].value == value) {
      meet_half_line(&cuts[k], &box->states[value]);
      any = true;
    }
  *empty = any && qb_ball_contradicts(&box->states[value]);
  for (int64_t k = 0; any && k < count && !*empty; k++)
    if (cuts[k].value == value) {
      double room;
      QB_TRY(qb_backward_restrict(backward, &cuts[k], &room, error));
      *empty = room < -CLEARLY * fabs(cuts[k].at);
    }
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- choosing */

static bool is_inside(double at, const qb_box_track *t, int64_t i) {
  double room = LEAST_SHARE * (t->hi[i] - t->lo[i]);
  return isfinite(at) && at > t->lo[i] + room && at < t->hi[i] - room;
}

/* Break number k of a function; the edges of a quantizer's clamp. */
static double original_break(const qb_kink_pair *p, int k) {
  if (p->original.leaky)
    return k == 0 ? 0 : INFINITY;
  return (k == 0 ? p->original.lo : p->original.hi) - p->original.shift;
}

static double quantized_break(const qb_kink_pair *p, int k) {
  if (p->upper.leaky)
    return k == 0 ? 0 : INFINITY;
  return k == 0 ? p->upper.lo : p->lower.hi;
}

/* First where one side decides the element in both networks; what is left then is a thin slab around the kinks. */
static bool cut_at_break(const qb_kink_pair *kinks, int k, const qb_box_state *state, qb_ball_cut *cut) {
  int64_t i = cut->element;
  const qb_box_track *x = &state->track[QB_TRACK_ORIGINAL], *q = &state->track[QB_TRACK_QUANTIZED];
  double low = state->track[QB_TRACK_DIFFERENCE].lo[i], high = state->track[QB_TRACK_DIFFERENCE].hi[i];
  double of_x = original_break(kinks, k), of_q = quantized_break(kinks, k);
  if (!isfinite(of_x) && !isfinite(of_q))
    return false;
  double above = isfinite(of_x) ? of_x : -INFINITY, below = isfinite(of_x) ? of_x : INFINITY;
  if (isfinite(of_q)) {
    above = qb_larger(above, of_q - low);
    below = qb_smaller(below, of_q - high);
  }
  const double at[4] = {above, below, of_q, of_x};
  for (int n = 0; n < 4; n++)
    if (is_inside(at[n], n == 2 ? q : x, i)) {
      cut->track = n == 2 ? QB_TRACK_QUANTIZED : QB_TRACK_ORIGINAL;
      cut->at = at[n];
      return true;
    }
  return false;
}

/* A cut of an element of a tensor, at a break of an activation that reads it. */
static bool cut_element(const qb_pair *pair, const qb_box_result *box, qb_value_id value, int64_t i, qb_ball_cut *cut) {
  const qb_graph *graph = pair->quantized;
  const qb_box_state *state = &box->states[value];
  const qb_box_track *q = &state->track[QB_TRACK_QUANTIZED];
  *cut = (qb_ball_cut){.value = value, .element = i};
  for (qb_node_id id = 0; id < graph->node_count; id++) {
    if (graph->nodes[id].inputs[0] != value || box->states[graph->nodes[id].output].count == 0 ||
        !qb_node_is_kinked(pair, id))
      continue;
    qb_kink_pair kinks = qb_node_kinks(pair, id, i, (qb_interval){q->lo[i], q->hi[i]});
    for (int k = 0; k < 2; k++)
      if (cut_at_break(&kinks, k, state, cut))
        return true;
  }
  return false;
}

static void choose(const qb_pair *pair, const qb_box_result *box, double *const *score, qb_ball_cut *cut, bool *found) {
  double most = 0;
  *found = false;
  for (qb_value_id v = 0; v < pair->quantized->value_count; v++)
    for (int64_t i = 0; score[v] != NULL && i < box->states[v].count; i++) {
      qb_ball_cut candidate;
      if (score[v][i] > most && cut_element(pair, box, v, i, &candidate)) {
        most = score[v][i];
        *cut = candidate;
        *found = true;
      }
    }
}

qb_status qb_ball_find_cut(qb_backward *backward, const qb_box_result *box, const qb_rows *row, qb_ball_cut *cut,
                           bool *found, qb_error *error) {
  const qb_pair *pair = qb_backward_pair(backward);
  size_t values = (size_t)pair->quantized->value_count;
  qb_arena arena;
  double upper;
  qb_arena_init(&arena);
  double **score = qb_arena_alloc(&arena, values, sizeof *score);
  qb_status status = score == NULL ? qb_fail_memory(error, "cuts", values * sizeof *score) : QB_OK;
  for (qb_value_id v = 0; status == QB_OK && v < (qb_value_id)values; v++)
    if (box->states[v].count > 0 && pair->quantized->values[v].producer >= 0 &&
        qb_backward_precedes_kink(backward, v)) {
      size_t count = (size_t)box->states[v].count;
      score[v] = qb_arena_alloc(&arena, count, sizeof **score);
      status = score[v] == NULL ? qb_fail_memory(error, "cuts", count * sizeof **score) : QB_OK;
    }
  qb_rows asked = *row;
  asked.score = score;
  if (status == QB_OK)
    status = qb_backward_upper(backward, &asked, &upper, NULL, error);
  if (status == QB_OK)
    choose(pair, box, score, cut, found);
  qb_arena_free(&arena);
  return status;
}
