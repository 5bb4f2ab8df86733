/* Splitting of boxes; see bisect.h. A stack of open boxes, shared by threads that own a relaxation each. */
#include "bound/bisect.h"

#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

/* A look that costs less than this share of a full one pays when it is enough that often. */
static const double WORTH = 0.15;

/* The intervals of a box, which hold on its halves as well. */
typedef struct kept_box {
  qb_box_result box;
  int32_t uses;
} kept_box;

/* An open box and what is known about the difference on it. */
typedef struct part {
  float *lo, *hi; /* (inputs), one block */
  qb_interval known;
  kept_box *around; /* of the box it was cut from, or NULL */
} part;

typedef struct bisect_call {
  const qb_pair *pair;
  const qb_ball_claim *claim;
  const qb_bisection_settings *settings;
  int64_t inputs;
  part *stack; /* (capacity) */
  int64_t count, capacity;
  int32_t busy; /* threads that are bounding a box and may still push parts */
  bool stop;    /* failed, or out of time */
  double deadline;
  qb_status status;
  qb_error *error;
  qb_bisection *result;
} bisect_call;

qb_bisection_settings qb_bisection_settings_default(void) {
  qb_bisection_settings settings = {.ball = qb_ball_settings_default()};
  settings.ball.turns = 0; /* cuts gain more in the same time */
  return settings;
}

static qb_interval meet(qb_interval a, qb_interval b) { return (qb_interval){fmax(a.lo, b.lo), fmin(a.hi, b.hi)}; }

/* ------------------------------------------------------------------------------------------------------ the stack */

static void release(kept_box *kept) {
  if (kept == NULL || --kept->uses > 0)
    return;
  qb_box_result_free(&kept->box);
  qb_free(kept);
}

static void free_part(part *p) {
  release(p->around);
  qb_free(p->lo);
  *p = (part){0};
}

static bool new_part(const bisect_call *call, const float *lo, const float *hi, qb_interval known, part *p) {
  size_t n = (size_t)call->inputs;
  *p = (part){.lo = qb_alloc(2 * n, sizeof(float)), .known = known};
  if (p->lo == NULL)
    return false;
  p->hi = p->lo + n;
  memcpy(p->lo, lo, n * sizeof(float));
  memcpy(p->hi, hi, n * sizeof(float));
  return true;
}

static bool push(bisect_call *call, part p) {
  if (call->count == call->capacity) {
    int64_t capacity = 2 * call->capacity + 64;
    part *stack = qb_alloc((size_t)capacity, sizeof *stack);
    if (stack == NULL)
      return false;
    if (call->count > 0)
      memcpy(stack, call->stack, (size_t)call->count * sizeof *stack);
    qb_free(call->stack);
    call->stack = stack;
    call->capacity = capacity;
  }
  call->stack[call->count++] = p;
  return true;
}

static void fail(bisect_call *call, qb_status status, const char *message) {
  if (call->status == QB_OK)
    call->status = qb_fail(call->error, status, "%s", message);
  call->stop = true;
}

/* ------------------------------------------------------------------------------------------------------- one part */

/* The input whose halving promises most, or -1 when the box is too thin to be cut. */
static int64_t widest(const bisect_call *call, const part *p, const double *influence) {
  int64_t best = -1;
  double most = -1;
  for (int64_t i = 0; i < call->inputs; i++) {
    float middle = 0.5F * p->lo[i] + 0.5F * p->hi[i];
    if (middle > p->lo[i] && middle < p->hi[i] && influence[i] > most) {
      most = influence[i];
      best = i;
    }
  }
  return best;
}

/* Cuts `p` across input `axis` and opens both halves, inside `kept`. */
static bool cut(bisect_call *call, const part *p, int64_t axis, kept_box *kept) {
  float middle = 0.5F * p->lo[axis] + 0.5F * p->hi[axis];
  for (int side = 0; side < 2; side++) {
    part half;
    if (!new_part(call, p->lo, p->hi, p->known, &half))
      return false;
    half.around = kept;
    kept->uses++;
    (side == 0 ? half.hi : half.lo)[axis] = middle;
    if (!push(call, half)) {
      free_part(&half);
      return false;
    }
  }
  return true;
}

static bool holds(const bisect_call *call, qb_interval range) {
  return range.hi <= call->claim->limit && range.lo >= -call->claim->limit;
}

/* What a bounded part says about the whole. Called under the lock. */
static void settle(bisect_call *call, part *p, const qb_ball *ball, kept_box *kept) {
  double limit = call->claim->limit;
  call->result->boxes++;
  if (!ball->applies) {
    call->result->applies = false;
    call->stop = true;
  }
  if (ball->applies && holds(call, p->known)) {
    call->result->range = qb_interval_hull(call->result->range, p->known);
    return;
  }
  if (p->known.lo > limit || p->known.hi < -limit) {
    call->result->refuted = true;
    call->stop = true;
  }
  int64_t axis = ball->applies && !call->stop ? widest(call, p, ball->influence) : -1;
  if (axis >= 0) {
    if (!cut(call, p, axis, kept))
      fail(call, QB_ERROR_MEMORY, "no memory for the parts of a box");
    return;
  }
  call->result->range = qb_interval_hull(call->result->range, p->known);
  call->result->open++;
  call->stop = true; /* this part stays open: the claim cannot be proved */
}

static bool out_of_budget(const bisect_call *call) {
  const qb_bisection_settings *s = call->settings;
  return (s->timeout_seconds > 0 && qb_clock_seconds() > call->deadline) ||
         (s->most_boxes > 0 && call->result->boxes >= s->most_boxes);
}

/* ------------------------------------------------------------------------------------------------------ the threads */

typedef enum take { TAKE_PART, TAKE_WAIT, TAKE_DONE } take;

static take take_part(bisect_call *call, part *p) {
  take outcome = TAKE_WAIT;
#pragma omp critical(qb_bisect)
  {
    if (out_of_budget(call))
      call->stop = true;
    if (call->stop || (call->count == 0 && call->busy == 0)) {
      outcome = TAKE_DONE;
    } else if (call->count > 0) {
      *p = call->stack[--call->count];
      call->busy++;
      outcome = TAKE_PART;
    }
  }
  return outcome;
}

/* A thread: its relaxation, and how often the intervals of the box around were enough. */
typedef struct worker {
  bisect_call *call;
  qb_backward *backward;
  qb_ball_settings settings;
  int64_t tried, enough;
  qb_error error;
} worker;

static qb_status bound_once(worker *w, part *p, double hidden_work, qb_ball *ball, kept_box *kept) {
  qb_domain domain = {w->call->inputs, p->lo, p->hi};
  qb_ball_settings settings = w->settings;
  settings.hidden_work = hidden_work;
  settings.known = p->around == NULL ? NULL : &p->around->box;
  qb_status status = qb_bound_ball_kept(w->backward, &domain, &settings, ball, &kept->box, &w->error);
  if (status == QB_OK && ball->applies)
    p->known = meet(p->known, ball->difference[w->call->claim->output]);
  return status;
}

/* Hidden layers cost most of the time. Where the intervals of the box around, and those of its own, often do without,
 * that is tried first. */
static qb_status bound_part(worker *w, part *p, qb_ball *ball, kept_box *kept) {
  bool quick = p->around != NULL && (w->tried % 16 == 0 || (double)w->enough > WORTH * (double)w->tried);
  if (p->around != NULL)
    w->tried++;
  if (quick) {
    qb_status status = bound_once(w, p, 0, ball, kept);
    bool enough = status == QB_OK && ball->applies && holds(w->call, p->known);
    w->enough += enough;
    if (enough || status != QB_OK)
      return status;
    qb_ball_free(ball);
    qb_box_result_free(&kept->box);
  }
  return bound_once(w, p, w->settings.hidden_work, ball, kept);
}

static void settle_part(worker *w, part *p) {
  bisect_call *call = w->call;
  qb_ball ball = {0};
  kept_box *kept = qb_alloc(1, sizeof *kept);
  qb_status status = kept == NULL ? qb_fail_memory(&w->error, "a box", sizeof *kept) : bound_part(w, p, &ball, kept);
#pragma omp critical(qb_bisect)
  {
    call->busy--;
    if (kept != NULL)
      kept->uses = 1;
    if (status == QB_OK)
      settle(call, p, &ball, kept);
    else
      fail(call, status, w->error.message);
    free_part(p);
    release(kept);
  }
  qb_ball_free(&ball);
}

/* `alone`: the first box and no more, so that all threads share its rows. */
static void work(bisect_call *call, bool alone) {
  worker w = {.call = call, .settings = call->settings->ball};
  qb_status status = qb_backward_create(call->pair, &w.backward, &w.error);
  part p;
  take next;
  w.settings.output = call->claim->output;
  if (status != QB_OK) {
#pragma omp critical(qb_bisect)
    fail(call, status, w.error.message);
  }
  while (status == QB_OK && (next = take_part(call, &p)) != TAKE_DONE) {
    const struct timespec moment = {.tv_nsec = 20000};
    if (next == TAKE_PART)
      settle_part(&w, &p);
    else
      nanosleep(&moment, NULL);
    if (alone)
      break;
  }
  qb_backward_free(w.backward);
}

static void close_stack(bisect_call *call) {
  for (int64_t i = 0; i < call->count; i++) {
    call->result->range = qb_interval_hull(call->result->range, call->stack[i].known);
    call->result->open++;
    free_part(&call->stack[i]);
  }
  qb_free(call->stack);
}

qb_status qb_ball_bisect(const qb_pair *pair, const qb_domain *domain, const qb_ball_claim *claim,
                         const qb_bisection_settings *settings, qb_bisection *bisection, qb_error *error) {
  *bisection = (qb_bisection){.applies = true, .range = {INFINITY, -INFINITY}};
  bisect_call call = {.pair = pair,
                      .claim = claim,
                      .settings = settings,
                      .inputs = domain->count,
                      .deadline = qb_clock_seconds() + settings->timeout_seconds,
                      .error = error,
                      .result = bisection};
  const qb_value *output = &pair->quantized->values[pair->quantized->outputs[0]];
  if (claim->output < 0 || claim->output >= (int64_t)qb_shape_elements(&output->shape))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the network has no output %lld", (long long)claim->output);
  part whole;
  const qb_interval unknown = {-INFINITY, INFINITY};
  if (!new_part(&call, domain->lo, domain->hi, unknown, &whole) || !push(&call, whole)) {
    free_part(&whole);
    return qb_fail_memory(error, "parts of a box", (size_t)call.inputs * sizeof(float));
  }
  int threads = settings->threads > 0 ? settings->threads : omp_get_max_threads();
  if (threads > 1)
    work(&call, true);
#pragma omp parallel num_threads(threads) if (call.count > 0 && !call.stop)
  work(&call, false);
  close_stack(&call);
  bisection->proved = call.status == QB_OK && bisection->applies && bisection->open == 0;
  return call.status;
}
