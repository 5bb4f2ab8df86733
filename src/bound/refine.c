/* Rounds of cuts: each takes the worst parts, cuts them, and bounds the halves in parallel; see refine.h. */
#include "bound/refine.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "bound/fault.h"

enum { CUTS_A_ROUND = 16 }; /* whatever the number of threads, so that the tree does not depend on it */

static const double ROOM = 1e-6;

enum { DEEPEST = 256 }; /* parts inside one another, cut across neurons */

/* Parts cut across neurons relax hidden layers only where the timeout is enough for so many of them; threads prepare a
 * pair each up to so many bytes. */
static const double LEAST_PARTS = 64, MOST_BYTES = 1e9;

/* A node of the tree of cuts. The arrays live in the call's arena. */
typedef struct part {
  float *lo, *hi;          /* (inputs) */
  qb_interval *original;   /* (outputs) */
  qb_interval *difference; /* (outputs), met with that of the part it was cut from */
  double *influence;       /* (inputs) */
  double size;             /* largest |difference| that counts */
  bool keeps_top;
  bool *relaxed;    /* (nodes) of the quantized graph: undecided elements of its output were relaxed */
  bool late;        /* not all of it was done in time */
  bool dropped;     /* no part any more */
  bool empty;       /* no input lies in it */
  int32_t axis;     /* -1: a leaf; -2: cut across the neuron of `cut` */
  int64_t child[2]; /* indices into parts */
  /* cut across neurons */
  int64_t parent;
  int32_t depth;
  bool above;      /* which side of the parent's cut */
  bool has_cut[2]; /* of qb_ball */
  qb_ball_cut cut[2];
  int8_t which; /* of the two, once it was chosen to be cut */
} part;

typedef struct refine_call {
  const qb_pair *pair;
  const qb_refine_settings *settings;
  int64_t inputs, outputs;
  qb_backward **backward; /* (threads) */
  int32_t threads;
  qb_box_result whole; /* intervals of the whole box, where parts are cut across neurons */
  double hidden_work;  /* of such a part */
  part *parts;         /* (count) */
  int64_t count, capacity;
  double deadline;
  qb_arena arena; /* of parts */
  qb_refinement *result;
  qb_error *error;
} refine_call;

qb_refine_settings qb_refine_settings_default(void) {
  qb_refine_settings settings = {.most_parts = 20000, .ball = qb_ball_settings_default()};
  settings.ball.turns = 0; /* cuts gain more in the same time */
  return settings;
}

int64_t qb_domain_free_inputs(const qb_domain *domain) {
  int64_t count = 0;
  for (int64_t i = 0; i < domain->count; i++)
    count += domain->hi[i] > domain->lo[i];
  return count;
}

/* ----------------------------------------------------------------------------------------------------- the parts */

static bool is_cut(const part *p) { return p->axis != -1; }

static bool new_part(refine_call *call, const float *lo, const float *hi, part *p) {
  size_t inputs = (size_t)call->inputs, outputs = (size_t)call->outputs;
  *p = (part){.relaxed = qb_arena_alloc(&call->arena, (size_t)call->pair->quantized->node_count, sizeof(bool)),
              .original = qb_arena_alloc(&call->arena, outputs, sizeof(qb_interval)),
              .difference = qb_arena_alloc(&call->arena, outputs, sizeof(qb_interval)),
              .axis = -1,
              .parent = -1};
  if (p->relaxed == NULL || p->original == NULL || p->difference == NULL)
    return false;
  if (call->settings->neurons && call->count > 0) { /* the same inputs */
    p->lo = call->parts[0].lo;
    p->hi = call->parts[0].hi;
    return true;
  }
  p->lo = qb_arena_alloc(&call->arena, inputs, sizeof(float));
  p->hi = qb_arena_alloc(&call->arena, inputs, sizeof(float));
  p->influence = qb_arena_alloc(&call->arena, inputs, sizeof(double));
  if (p->lo == NULL || p->hi == NULL || p->influence == NULL)
    return false;
  memcpy(p->lo, lo, inputs * sizeof(float));
  memcpy(p->hi, hi, inputs * sizeof(float));
  return true;
}

static bool reserve(refine_call *call, int64_t more) {
  if (call->count + more <= call->capacity)
    return true;
  int64_t capacity = 2 * (call->capacity + more);
  part *parts = qb_alloc((size_t)capacity, sizeof *parts);
  if (parts == NULL)
    return false;
  if (call->count > 0)
    memcpy(parts, call->parts, (size_t)call->count * sizeof *parts);
  qb_free(call->parts);
  call->parts = parts;
  call->capacity = capacity;
  return true;
}

static qb_interval meet(qb_interval a, qb_interval b) { return (qb_interval){fmax(a.lo, b.lo), fmin(a.hi, b.hi)}; }

/* What `ball` says about the part, no wider than what was known of the part around it. */
static void learn(const refine_call *call, const qb_ball *ball, const part *around, part *p) {
  int64_t only = call->settings->ball.output;
  p->empty = ball->empty;
  if (p->empty)
    return;
  memcpy(p->has_cut, ball->has_cut, sizeof p->has_cut);
  memcpy(p->cut, ball->cut, sizeof p->cut);
  for (int64_t k = 0; k < call->outputs; k++) {
    p->original[k] = ball->original[k];
    p->difference[k] = ball->difference[k];
    if (around != NULL) {
      p->original[k] = meet(p->original[k], around->original[k]);
      p->difference[k] = meet(p->difference[k], around->difference[k]);
    }
    if (only < 0 || only == k)
      p->size = fmax(p->size, qb_interval_magnitude(p->difference[k]));
  }
  if (around == NULL)
    call->result->largest = ball->largest;
  memcpy(p->relaxed, ball->relaxed, (size_t)call->pair->quantized->node_count * sizeof *p->relaxed);
  if (p->influence != NULL)
    memcpy(p->influence, ball->influence, (size_t)call->inputs * sizeof *p->influence);
#pragma omp critical(qb_refine_turns)
  call->result->turns = ball->turns > call->result->turns ? ball->turns : call->result->turns;
  p->keeps_top = ball->keeps_top || (around != NULL && around->keeps_top);
}

/* Everything that cuts say of a part, the last cut first; returns how many there are. */
static int64_t list_cuts(const refine_call *call, const part *p, qb_ball_cut cuts[DEEPEST]) {
  int64_t count = 0;
  for (; call->settings->neurons && p->parent >= 0; p = &call->parts[p->parent]) {
    const part *parent = &call->parts[p->parent];
    cuts[count] = parent->cut[parent->which];
    cuts[count++].above = p->above;
  }
  return count;
}

/* The whole box, whose intervals its parts need. */
static qb_status bound_whole(refine_call *call, const qb_domain *domain, const qb_ball_settings *settings,
                             qb_ball *ball, qb_error *error) {
  qb_ball_settings how = *settings;
  how.progress = call->settings->progress;
  double start = qb_clock_seconds(), all = call->settings->timeout_seconds;
  qb_status status = qb_bound_ball_kept(call->backward[0], domain, &how, ball, &call->whole, error);
  bool affordable = all == 0 || LEAST_PARTS * (qb_clock_seconds() - start) <= all * call->threads;
  call->hidden_work = affordable ? how.hidden_work : 0;
  call->result->hidden_skipped = ball->hidden_skipped;
  return status;
}

static qb_status bound_part(refine_call *call, int32_t thread, const part *around, part *p, bool *applies,
                            qb_error *error) {
  qb_domain domain = {call->inputs, p->lo, p->hi};
  qb_ball_settings how = call->settings->ball;
  qb_ball_cut cuts[DEEPEST];
  qb_ball ball;
  if (call->settings->timeout_seconds > 0)
    how.timeout_seconds = fmax(1e-3, call->deadline - qb_clock_seconds());
  how.find_cuts = call->settings->neurons && p->depth + 1 < DEEPEST;
  how.cuts = cuts;
  how.cut_count = list_cuts(call, p, cuts);
  if (how.cut_count > 0) {
    how.known = &call->whole;
    how.hidden_work = call->hidden_work;
  }
  qb_status status = call->settings->neurons && around == NULL
                         ? bound_whole(call, &domain, &how, &ball, error)
                         : qb_bound_ball(call->backward[thread], &domain, &how, &ball, error);
  *applies = status == QB_OK && ball.applies;
  p->late = *applies && ball.late;
  if (*applies && (around == NULL || !p->late))
    learn(call, &ball, around, p);
  else if (status == QB_OK)
    snprintf(call->result->why, sizeof call->result->why, "%s", ball.why); /* the same whichever thread writes it */
  qb_ball_free(&ball);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- choosing */

/* The input whose halving promises most, or -1 when the part is too thin to be cut. */
static int32_t best_axis(const refine_call *call, const part *p) {
  int32_t best = -1;
  double most = -1;
  for (int64_t i = 0; i < call->inputs; i++) {
    float middle = 0.5F * p->lo[i] + 0.5F * p->hi[i];
    double gain = p->influence[i] > 0 ? p->influence[i] : 1e-300 * ((double)p->hi[i] - (double)p->lo[i]);
    if (middle > p->lo[i] && middle < p->hi[i] && gain > most) {
      most = gain;
      best = (int32_t)i;
    }
  }
  return best;
}

/* Inserts a part into the list of the worst so far, which is in order. */
static void insert(const refine_call *call, int64_t *chosen, int32_t *count, int32_t most, int64_t candidate) {
  int32_t at = *count;
  while (at > 0 && call->parts[chosen[at - 1]].size < call->parts[candidate].size)
    at--;
  if (at == most)
    return;
  *count += *count < most;
  memmove(chosen + at + 1, chosen + at, (size_t)(*count - at - 1) * sizeof *chosen);
  chosen[at] = candidate;
}

/* Cut across neurons a part may be wanted for both reasons: then the cut that its difference needs is made. */
static bool choose_neuron(const refine_call *call, int64_t *chosen, int32_t *large, int64_t *open, int32_t *undecided) {
  int32_t most = call->settings->ball.decide ? CUTS_A_ROUND / 2 : CUTS_A_ROUND;
  for (int64_t i = 0; i < call->count; i++) {
    const part *p = &call->parts[i];
    if (is_cut(p) || p->empty || p->dropped)
      continue;
    if (p->has_cut[0] && p->size > call->settings->enough)
      insert(call, chosen, large, most, i);
    if (p->has_cut[1] && call->settings->ball.decide && !p->keeps_top)
      insert(call, open, undecided, CUTS_A_ROUND - most, i);
  }
  return *large + *undecided > 0;
}

static int32_t choose_neurons(refine_call *call, int64_t chosen[2 * CUTS_A_ROUND]) {
  int32_t large = 0, undecided = 0, count;
  int64_t open[CUTS_A_ROUND];
  if (!choose_neuron(call, chosen, &large, open, &undecided))
    return 0;
  for (int32_t i = 0; i < large; i++)
    call->parts[chosen[i]].which = 0;
  count = large;
  for (int32_t i = 0; i < undecided; i++) {
    bool twice = false;
    for (int32_t k = 0; k < large; k++)
      twice = twice || chosen[k] == open[i];
    if (!twice) {
      call->parts[open[i]].which = 1;
      chosen[count++] = open[i];
    }
  }
  return count;
}

/* The leaves to be cut: half of them those with the largest differences, as long as these are not enough, the others
 * those without a decision. */
static int32_t choose(const refine_call *call, int64_t chosen[2 * CUTS_A_ROUND]) {
  int32_t large = 0, undecided = 0, most = call->settings->ball.decide ? CUTS_A_ROUND / 2 : CUTS_A_ROUND;
  int64_t open[CUTS_A_ROUND];
  for (int64_t i = 0; i < call->count; i++) {
    const part *p = &call->parts[i];
    if (is_cut(p) || p->dropped || best_axis(call, p) < 0)
      continue;
    if (call->settings->ball.decide && !p->keeps_top)
      insert(call, open, &undecided, CUTS_A_ROUND - most, i);
    else if (p->size > call->settings->enough)
      insert(call, chosen, &large, most, i);
  }
  memcpy(chosen + large, open, (size_t)undecided * sizeof *open);
  return large + undecided;
}

/* ------------------------------------------------------------------------------------------------------- cutting */

/* Makes two sides, the lower one first, as empty parts of the tree. */
static bool cut_neuron(refine_call *call, int64_t index) {
  part *p = &call->parts[index];
  for (int side = 0; side < 2; side++) {
    part *half = &call->parts[call->count];
    if (!new_part(call, p->lo, p->hi, half))
      return false;
    half->parent = index;
    half->depth = p->depth + 1;
    half->above = side == 1;
    p->child[side] = call->count++;
  }
  p->axis = -2;
  return true;
}

static bool cut(refine_call *call, int64_t index) {
  if (call->settings->neurons)
    return cut_neuron(call, index);
  part halves[2], *p = &call->parts[index];
  int32_t axis = best_axis(call, p);
  float middle = 0.5F * p->lo[axis] + 0.5F * p->hi[axis];
  for (int side = 0; side < 2; side++) {
    if (!new_part(call, p->lo, p->hi, &halves[side]))
      return false;
    (side == 0 ? halves[side].hi : halves[side].lo)[axis] = middle;
    p->child[side] = call->count;
    call->parts[call->count++] = halves[side];
  }
  p->axis = axis;
  return true;
}

static qb_status bound_halves(refine_call *call, const int64_t *chosen, int32_t count) {
  qb_status status = QB_OK;
  bool applies = true;
#pragma omp parallel for schedule(dynamic) num_threads(call->threads) if (call->threads > 1)
  for (int32_t i = 0; i < 2 * count; i++) {
    qb_error own;
    bool done = false;
    part *around = &call->parts[chosen[i / 2]], *half = &call->parts[around->child[i % 2]];
    qb_status outcome = bound_part(call, omp_get_thread_num(), around, half, &done, &own);
    if (outcome != QB_OK || !done) {
#pragma omp critical(qb_refine)
      {
        applies = applies && done;
        status = outcome == QB_OK ? status : qb_fail(call->error, outcome, "%s", own.message);
      }
    }
  }
  call->result->applies = applies;
  call->result->parts += 2 * count;
  return status;
}

/* Takes back cuts of which a half was not done in time, because who repeats the bound has to know what was done. False
 * when there were any. */
static bool undo_late_cuts(refine_call *call, const int64_t *chosen, int32_t count) {
  bool in_time = true;
  for (int32_t i = 0; i < count; i++) {
    part *p = &call->parts[chosen[i]], *halves[2] = {&call->parts[p->child[0]], &call->parts[p->child[1]]};
    if (!halves[0]->late && !halves[1]->late)
      continue;
    p->axis = -1;
    halves[0]->dropped = halves[1]->dropped = true;
    in_time = false;
  }
  return in_time;
}

static bool out_of_budget(const refine_call *call) {
  const qb_refine_settings *s = call->settings;
  return (s->timeout_seconds > 0 && qb_clock_seconds() > call->deadline) ||
         (s->most_parts > 0 && call->result->parts >= s->most_parts);
}

/* The first one is there already. */
static qb_status prepare_threads(refine_call *call) {
  for (int32_t t = 1; t < call->threads; t++)
    if (call->backward[t] == NULL)
      QB_TRY(qb_backward_create(call->pair, &call->backward[t], call->error));
  return QB_OK;
}

/* One after the other, with the threads inside of each, where the networks are large. */
static int32_t affordable_threads(const refine_call *call) {
  const qb_graph *graph = call->pair->quantized;
  double bytes = 0;
  for (qb_value_id v = 0; v < graph->value_count; v++)
    if (graph->values[v].is_constant)
      bytes += 3 * sizeof(double) * (double)qb_shape_elements(&graph->values[v].shape);
  return bytes * call->threads > MOST_BYTES ? 1 : call->threads;
}

static qb_status refine(refine_call *call) {
  const qb_refine_settings *settings = call->settings;
  int64_t chosen[2 * CUTS_A_ROUND];
  while (call->result->applies && !out_of_budget(call)) {
    double spent = settings->timeout_seconds - (call->deadline - qb_clock_seconds());
    if (!qb_progress_report(settings->progress, "cutting up a box, seconds at most", (int64_t)spent,
                            (int64_t)settings->timeout_seconds))
      return qb_fail(call->error, QB_ERROR_INTERRUPTED, "certifying was stopped");
    int32_t count = settings->neurons ? choose_neurons(call, chosen) : choose(call, chosen);
    if (count == 0)
      return QB_OK;
    QB_TRY(prepare_threads(call));
    if (!reserve(call, 2 * count))
      return qb_fail_memory(call->error, "parts of a box", (size_t)call->count * sizeof(part));
    for (int32_t i = 0; i < count; i++)
      if (!cut(call, chosen[i]))
        return qb_fail_memory(call->error, "parts of a box", (size_t)call->inputs * sizeof(float));
    QB_TRY(bound_halves(call, chosen, count));
    if (!undo_late_cuts(call, chosen, count))
      return QB_OK;
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ the result */

/* Neurons are numbered as they come. */
static void write_tree(const refine_call *call, int64_t index, qb_refinement *r, int64_t *at) {
  const part *p = &call->parts[index];
  r->axis[(*at)++] = p->axis < -1 ? (int32_t)(-2 - r->neuron_count) : p->axis;
  if (p->axis < -1)
    r->neurons[r->neuron_count++] = p->cut[p->which];
  for (int side = 0; is_cut(p) && side < 2; side++)
    write_tree(call, p->child[side], r, at); /* as deep as float32 can be halved: bounded by most_parts */
}

/* What was done in the parts that are left, cut or not: their bounds hold for the halves as well. */
static void collect_relaxed(refine_call *call) {
  for (int64_t i = 0; i < call->count; i++)
    for (qb_node_id n = 0; !call->parts[i].dropped && n < call->pair->quantized->node_count; n++)
      call->result->relaxed[n] = call->result->relaxed[n] || call->parts[i].relaxed[n];
}

static bool is_leaf(const refine_call *call, int64_t i) {
  if (qb_cut_fault_planted == QB_CUT_FAULT_DROPPED_LEAF && i > 0 && i == call->count - 1)
    return false;
  return !is_cut(&call->parts[i]) && !call->parts[i].dropped && !call->parts[i].empty;
}

/* Another evaluation, which rounds otherwise, chooses other planes and multipliers in some of many parts: what these
 * gained is claimed but for this share of the bound, and never more than the whole box gives. */
static void leave_room(const part *whole, int64_t outputs, qb_interval *difference) {
  for (int64_t k = 0; k < outputs; k++) {
    double room = ROOM * qb_interval_magnitude(difference[k]);
    qb_interval wider = {qb_down(difference[k].lo - room), qb_up(difference[k].hi + room)};
    difference[k] = meet(wider, whole->difference[k]);
  }
}

static qb_status collect(refine_call *call) {
  qb_refinement *r = call->result;
  size_t outputs = (size_t)call->outputs;
  int64_t at = 0;
  r->count = call->outputs;
  r->node_count = call->count;
  r->original = qb_arena_alloc(&r->arena, outputs, sizeof *r->original);
  r->difference = qb_arena_alloc(&r->arena, outputs, sizeof *r->difference);
  r->axis = qb_arena_alloc(&r->arena, (size_t)call->count, sizeof *r->axis);
  r->neurons = qb_arena_alloc(&r->arena, (size_t)call->count, sizeof *r->neurons);
  if (r->original == NULL || r->difference == NULL || r->axis == NULL || r->neurons == NULL)
    return qb_fail_memory(call->error, "the result of refinement", outputs * sizeof *r->original);
  for (int64_t k = 0; k < call->outputs; k++)
    r->original[k] = r->difference[k] = (qb_interval){INFINITY, -INFINITY};
  r->keeps_top = call->settings->ball.decide;
  for (int64_t i = 0; i < call->count; i++) {
    const part *p = &call->parts[i];
    if (!is_leaf(call, i))
      continue;
    r->keeps_top = r->keeps_top && p->keeps_top;
    for (int64_t k = 0; k < call->outputs; k++) {
      r->original[k] = qb_interval_hull(r->original[k], p->original[k]);
      r->difference[k] = qb_interval_hull(r->difference[k], p->difference[k]);
    }
  }
  if (!(r->difference[0].lo <= r->difference[0].hi))
    return qb_fail(call->error, QB_ERROR_NUMERIC, "every part of a box was found empty: this is a bug in qbound");
  if (call->settings->neurons)
    leave_room(&call->parts[0], call->outputs, r->difference);
  collect_relaxed(call);
  write_tree(call, 0, r, &at);
  r->node_count = at;
  return QB_OK;
}

static qb_status prepare(refine_call *call, const qb_domain *domain) {
  call->threads = call->settings->threads > 0 ? call->settings->threads : omp_get_max_threads();
  if (call->settings->neurons)
    call->threads = affordable_threads(call);
  call->backward = qb_alloc((size_t)call->threads, sizeof(qb_backward *));
  call->result->relaxed = qb_arena_alloc(&call->result->arena, (size_t)call->pair->quantized->node_count, sizeof(bool));
  if (call->backward == NULL || call->result->relaxed == NULL || !reserve(call, 1) ||
      !new_part(call, domain->lo, domain->hi, &call->parts[0]))
    return qb_fail_memory(call->error, "parts of a box", (size_t)call->inputs * sizeof(float));
  call->count = 1;
  QB_TRY(qb_backward_create(call->pair, &call->backward[0], call->error));
  QB_TRY(bound_part(call, 0, NULL, &call->parts[0], &call->result->applies, call->error));
  call->result->parts = 1;
  return QB_OK;
}

qb_status qb_bound_refined(const qb_pair *pair, const qb_domain *domain, const qb_refine_settings *settings,
                           qb_refinement *refinement, qb_error *error) {
  *refinement = (qb_refinement){0};
  qb_arena_init(&refinement->arena);
  const qb_value *output = &pair->quantized->values[pair->quantized->outputs[0]];
  refine_call call = {.pair = pair,
                      .settings = settings,
                      .inputs = domain->count,
                      .outputs = (int64_t)qb_shape_elements(&output->shape),
                      .deadline = qb_clock_seconds() + settings->timeout_seconds,
                      .result = refinement,
                      .error = error};
  qb_arena_init(&call.arena);
  qb_status status = prepare(&call, domain);
  if (status == QB_OK)
    status = refine(&call);
  if (status == QB_OK && refinement->applies)
    status = collect(&call);
  for (int32_t t = 0; call.backward != NULL && t < call.threads; t++)
    qb_backward_free(call.backward[t]);
  qb_free(call.backward);
  qb_free(call.parts);
  qb_box_result_free(&call.whole);
  qb_arena_free(&call.arena);
  return status;
}

void qb_refinement_free(qb_refinement *refinement) {
  if (refinement == NULL)
    return;
  qb_arena_free(&refinement->arena);
  *refinement = (qb_refinement){0};
}
