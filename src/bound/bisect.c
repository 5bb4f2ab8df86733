/* Splitting of boxes; see bisect.h. A stack of open boxes, shared by threads that own a relaxation each. */
#include "bound/bisect.h"

#include <omp.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"

/* An open box and what is known about the difference on it. */
typedef struct part {
  float *lo, *hi; /* (inputs), one block */
  qb_interval known;
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
  return (qb_bisection_settings){.ball = qb_ball_settings_default()};
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static qb_interval meet(qb_interval a, qb_interval b) { return (qb_interval){fmax(a.lo, b.lo), fmin(a.hi, b.hi)}; }

/* ------------------------------------------------------------------------------------------------------ the stack */

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

/* Cuts `p` across input `axis` and opens both halves; p is released. */
static bool cut(bisect_call *call, part *p, int64_t axis) {
  part halves[2] = {{0}, {0}};
  float middle = 0.5F * p->lo[axis] + 0.5F * p->hi[axis];
  bool enough = true;
  for (int side = 0; side < 2; side++) {
    enough = enough && new_part(call, p->lo, p->hi, p->known, &halves[side]);
    if (enough)
      (side == 0 ? halves[side].hi : halves[side].lo)[axis] = middle;
  }
  for (int side = 0; side < 2; side++) {
    enough = enough && push(call, halves[side]);
    if (!enough)
      qb_free(halves[side].lo);
  }
  qb_free(p->lo);
  p->lo = NULL;
  return enough;
}

/* What a bounded part says about the whole. Called under the lock. */
static void settle(bisect_call *call, part *p, const qb_ball *ball) {
  double limit = call->claim->limit;
  call->result->boxes++;
  if (!ball->applies) {
    call->result->applies = false;
    call->stop = true;
  } else {
    p->known = meet(p->known, ball->difference[call->claim->output]);
  }
  if (ball->applies && p->known.hi <= limit && p->known.lo >= -limit) {
    call->result->range = qb_interval_hull(call->result->range, p->known);
    qb_free(p->lo);
    return;
  }
  int64_t axis = ball->applies ? widest(call, p, ball->influence) : -1;
  if (axis >= 0 && !call->stop) {
    if (!cut(call, p, axis))
      fail(call, QB_ERROR_MEMORY, "no memory for the parts of a box");
    return;
  }
  call->result->range = qb_interval_hull(call->result->range, p->known);
  call->result->open++;
  call->stop = true; /* this part stays open: the claim cannot be proved */
  qb_free(p->lo);
}

static bool out_of_budget(const bisect_call *call) {
  const qb_bisection_settings *s = call->settings;
  return (s->timeout_seconds > 0 && now() > call->deadline) ||
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

static void work(bisect_call *call) {
  qb_backward *backward = NULL;
  qb_error error = {0};
  qb_status status = qb_backward_create(call->pair, &backward, &error);
  part p;
  take next = TAKE_DONE;
  if (status != QB_OK) {
#pragma omp critical(qb_bisect)
    fail(call, status, error.message);
  }
  qb_ball_settings settings = call->settings->ball;
  settings.output = call->claim->output;
  while (status == QB_OK && (next = take_part(call, &p)) != TAKE_DONE) {
    if (next == TAKE_WAIT)
      continue;
    qb_domain domain = {call->inputs, p.lo, p.hi};
    qb_ball ball;
    status = qb_bound_ball(backward, &domain, &settings, &ball, &error);
#pragma omp critical(qb_bisect)
    {
      call->busy--;
      if (status == QB_OK) {
        settle(call, &p, &ball);
      } else {
        fail(call, status, error.message);
        qb_free(p.lo);
      }
    }
    qb_ball_free(&ball);
  }
  qb_backward_free(backward);
}

static void close_stack(bisect_call *call) {
  for (int64_t i = 0; i < call->count; i++) {
    call->result->range = qb_interval_hull(call->result->range, call->stack[i].known);
    call->result->open++;
    qb_free(call->stack[i].lo);
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
                      .deadline = now() + settings->timeout_seconds,
                      .error = error,
                      .result = bisection};
  const qb_value *output = &pair->quantized->values[pair->quantized->outputs[0]];
  if (claim->output < 0 || claim->output >= (int64_t)qb_shape_elements(&output->shape))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the network has no output %lld", (long long)claim->output);
  part whole;
  const qb_interval unknown = {-INFINITY, INFINITY};
  if (!new_part(&call, domain->lo, domain->hi, unknown, &whole) || !push(&call, whole)) {
    qb_free(whole.lo);
    return qb_fail_memory(error, "parts of a box", (size_t)call.inputs * sizeof(float));
  }
  int threads = settings->threads > 0 ? settings->threads : omp_get_max_threads();
#pragma omp parallel num_threads(threads)
  work(&call);
  close_stack(&call);
  bisection->proved = call.status == QB_OK && bisection->applies && bisection->open == 0;
  return call.status;
}
