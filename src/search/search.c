/* Starts (data, corners, random points), then projected gradient ascent (Madry et al. 2018) along our own backward
 * pass, then moves of single elements, random subsets and square patches to the limits of the box (in the spirit of
 * Andriushchenko et al. 2020, "Square attack", which needs no gradient); at last a proof at the best inputs. See
 * search.h. */
#include "search/search.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "search/gradient.h"

enum { PROVED_INPUTS = 3, CLIMBS = 3, CLIMB_STEPS = 16, LEAST_STEPS = 8 };

/* One candidate with what the fast engine says about it. */
typedef struct candidate {
  float *x;
  double value; /* difference, or for flips the smaller of the two margins; -INFINITY: none yet */
} candidate;

typedef struct search {
  const qb_graph *original, *quantized;
  const float *lo, *hi;
  const qb_search_settings *settings;
  const qb_progress *progress;
  qb_search_result *result;
  qb_error *error;
  int64_t inputs, outputs;
  int32_t batch, rounds, steps; /* inputs per run, runs, gradient steps in all */
  double deadline;              /* of qb_clock_seconds, 0: none */
  double proof_deadline;        /* the same, of exact proofs */
  qb_run *run[2];
  float *points;                 /* (batch, inputs) */
  candidate best[PROVED_INPUTS]; /* largest differences found, best first */
  candidate flip;
  qb_rng rng;
} search;

void qb_search_settings_default(qb_search_settings *settings) {
  *settings = (qb_search_settings){.macs = 1e11, .rounds = 200, .batch = 32, .output = -1};
}

void qb_search_result_free(qb_search_result *result) {
  if (result == NULL)
    return;
  qb_free(result->input);
  qb_free(result->flip);
  *result = (qb_search_result){0};
}

/* -------------------------------------------------------------------------------------------------------- setting up
 */

static bool is_late(const search *s) { return s->deadline > 0 && qb_clock_seconds() > s->deadline; }

static double macs_of(const qb_graph *graph) {
  double macs = 1;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    macs += (double)qb_graph_node_macs(graph, n);
  return macs;
}

static qb_status check(search *s) {
  const qb_graph *graphs[2] = {s->original, s->quantized};
  for (int i = 0; i < 2; i++)
    if (graphs[i]->input_count != 1 || graphs[i]->output_count < 1)
      return qb_fail(s->error, QB_ERROR_ARGUMENT, "%s: the search needs one input and an output", graphs[i]->name);
  const qb_shape *a = &s->original->values[s->original->inputs[0]].shape;
  const qb_shape *b = &s->quantized->values[s->quantized->inputs[0]].shape;
  const qb_shape *y = &s->original->values[s->original->outputs[0]].shape;
  const qb_shape *y_q = &s->quantized->values[s->quantized->outputs[0]].shape;
  s->inputs = (int64_t)qb_shape_elements(a);
  s->outputs = (int64_t)qb_shape_elements(y);
  if (s->inputs != (int64_t)qb_shape_elements(b) || s->outputs != (int64_t)qb_shape_elements(y_q))
    return qb_fail(s->error, QB_ERROR_SHAPE, "%s: inputs or outputs have other sizes than those of %s",
                   s->quantized->name, s->original->name);
  if (s->settings->output >= s->outputs)
    return qb_fail(s->error, QB_ERROR_ARGUMENT, "%s: there is no output %lld, only 0 to %lld", s->original->name,
                   (long long)s->settings->output, (long long)s->outputs - 1);
  return QB_OK;
}

static qb_status create(search *s) {
  QB_TRY(check(s));
  double evaluations = s->settings->macs / (macs_of(s->original) + macs_of(s->quantized));
  s->batch = (int32_t)fmax(1, fmin(s->settings->batch, evaluations / 8));
  s->rounds = (int32_t)fmax(4, fmin(s->settings->rounds, evaluations / s->batch));
  s->steps = (int32_t)fmax(LEAST_STEPS, fmin(CLIMBS * CLIMB_STEPS, evaluations / 16)); /* a step costs about 8 runs */
  qb_run_settings how;
  qb_run_settings_default(&how);
  how.batch = s->batch;
  how.threads = s->settings->threads;
  QB_TRY(qb_run_create(s->original, &how, &s->run[0], s->error));
  QB_TRY(qb_run_create(s->quantized, &how, &s->run[1], s->error));
  size_t inputs = (size_t)s->inputs;
  bool short_memory = (s->points = qb_alloc((size_t)s->batch * inputs, sizeof(float))) == NULL;
  s->flip = (candidate){qb_alloc(inputs, sizeof(float)), -INFINITY};
  short_memory |= s->flip.x == NULL;
  for (int i = 0; i < PROVED_INPUTS; i++) {
    s->best[i] = (candidate){qb_alloc(inputs, sizeof(float)), -INFINITY};
    short_memory |= s->best[i].x == NULL;
  }
  qb_rng_seed(&s->rng, s->settings->seed, 0x10e5);
  return short_memory ? qb_fail_memory(s->error, "the search", (size_t)(s->batch + 4) * inputs * sizeof(float)) : QB_OK;
}

static void destroy(search *s) {
  qb_run_free(s->run[0]);
  qb_run_free(s->run[1]);
  qb_free(s->points);
  qb_free(s->flip.x);
  for (int i = 0; i < PROVED_INPUTS; i++)
    qb_free(s->best[i].x);
}

/* ------------------------------------------------------------------------------------------------------- evaluating */

static int64_t largest_of(const float *y, int64_t count) {
  int64_t top = 0;
  for (int64_t k = 1; k < count; k++)
    if (y[k] > y[top])
      top = k;
  return top;
}

/* How far the largest entry is above the second. */
static double margin_of(const float *y, int64_t count, int64_t top) {
  double second = -INFINITY;
  for (int64_t k = 0; k < count; k++)
    if (k != top)
      second = fmax(second, (double)y[k]);
  return (double)y[top] - second;
}

static double difference_of(const search *s, const float *y, const float *y_q) {
  double largest = 0;
  for (int64_t k = 0; k < s->outputs; k++)
    if (s->settings->output < 0 || s->settings->output == k)
      largest = fmax(largest, fabs((double)y[k] - (double)y_q[k]));
  return largest;
}

static void copy_point(const search *s, float *to, const float *from) {
  memcpy(to, from, (size_t)s->inputs * sizeof *to);
}

/* Keeps the list of best inputs in order; they differ in value. True when `x` became the first. */
static bool offer(search *s, const float *x, double value) {
  for (int i = 0; i < PROVED_INPUTS; i++) {
    if (value == s->best[i].value)
      return false;
    if (value < s->best[i].value)
      continue;
    candidate last = s->best[PROVED_INPUTS - 1];
    memmove(&s->best[i + 1], &s->best[i], (size_t)(PROVED_INPUTS - 1 - i) * sizeof *s->best);
    s->best[i] = (candidate){last.x, value};
    copy_point(s, last.x, x);
    return i == 0;
  }
  return false;
}

/* Keeps what the outputs at `x` are worth; true when its difference is the largest so far. */
static bool judge(search *s, const float *x, const float *own, const float *other) {
  bool first = offer(s, x, difference_of(s, own, other));
  int64_t top = largest_of(own, s->outputs), other_top = largest_of(other, s->outputs);
  double margin = fmin(margin_of(own, s->outputs, top), margin_of(other, s->outputs, other_top));
  if (top != other_top && margin > s->flip.value) {
    s->flip.value = margin;
    copy_point(s, s->flip.x, x);
  }
  s->result->inputs_tried++;
  return first;
}

/* Runs the first `count` points. */
static qb_status evaluate(search *s, int32_t count, bool *improved) {
  QB_TRY(qb_run_forward(s->run[0], s->points, count, s->error));
  QB_TRY(qb_run_forward(s->run[1], s->points, count, s->error));
  const float *y = qb_run_value(s->run[0], s->original->outputs[0]);
  const float *y_q = qb_run_value(s->run[1], s->quantized->outputs[0]);
  *improved = false;
  for (int32_t i = 0; i < count; i++)
    *improved |= judge(s, s->points + i * s->inputs, y + i * s->outputs, y_q + i * s->outputs);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------------ points
 */

static float limit(const search *s, int64_t k, bool high) { return high ? s->hi[k] : s->lo[k]; }

static float into_box(const search *s, int64_t k, float x) { return fminf(fmaxf(x, s->lo[k]), s->hi[k]); }

/* Number 0: all low, 1: all high, 2: the middle, then each channel at a limit, corners and inner points by turns. */
static void start_point(search *s, int64_t number, float *x) {
  const qb_shape *shape = &s->original->values[s->original->inputs[0]].shape;
  int64_t inner = 1, kind = number < 3 ? number : 3 + number % 3;
  for (int32_t axis = 2; axis < shape->rank; axis++)
    inner *= shape->dims[axis];
  uint64_t channels = qb_rng_u64(&s->rng);
  for (int64_t k = 0; k < s->inputs; k++) {
    float inside = s->lo[k] + (float)qb_rng_double(&s->rng) * (s->hi[k] - s->lo[k]);
    bool coin = qb_rng_below(&s->rng, 2) == 1;
    bool channel = channels >> k / inner % 64 & 1;
    float values[6] = {s->lo[k],          s->hi[k], s->lo[k] / 2 + s->hi[k] / 2, limit(s, k, channel),
                       limit(s, k, coin), inside};
    x[k] = into_box(s, k, values[kind]);
  }
}

/* A square of the image, in every channel or in one, goes to a limit. */
static void move_patch(search *s, const qb_shape *shape, float *x) {
  int64_t height = shape->dims[2], width = shape->dims[3], channels = shape->dims[1];
  int64_t side = 1 + (int64_t)qb_rng_below(&s->rng, (uint64_t)((height > width ? height : width) / 2 + 1));
  int64_t y0 = (int64_t)qb_rng_below(&s->rng, (uint64_t)height), x0 = (int64_t)qb_rng_below(&s->rng, (uint64_t)width);
  int64_t only = (int64_t)qb_rng_below(&s->rng, (uint64_t)channels + 1) - 1;
  uint64_t high = qb_rng_u64(&s->rng);
  for (int64_t c = 0; c < channels; c++)
    for (int64_t i = y0; i < height && i < y0 + side; i++)
      for (int64_t j = x0; j < width && j < x0 + side; j++)
        if (only < 0 || only == c) {
          int64_t k = (c * height + i) * width + j;
          x[k] = limit(s, k, (high >> c % 64 & 1) != 0);
        }
}

/* Some elements go to the other limit: one (number `next`), or a random subset whose size is spread over the scales. */
static void move_elements(search *s, bool single, int64_t next, float *x) {
  double share = pow((double)s->inputs, qb_rng_double(&s->rng)) / 2;
  int64_t count = single ? 1 : 1 + (int64_t)share;
  for (int64_t m = 0; m < count; m++) {
    int64_t k = single ? next % s->inputs : (int64_t)qb_rng_below(&s->rng, (uint64_t)s->inputs);
    x[k] = x[k] == s->hi[k] ? s->lo[k] : s->hi[k];
  }
}

static void moved_point(search *s, int64_t number, int64_t next, float *x) {
  const qb_shape *shape = &s->original->values[s->original->inputs[0]].shape;
  bool image = shape->rank == 4 && shape->dims[2] > 2 && shape->dims[3] > 2;
  copy_point(s, x, s->best[0].x);
  if (image && number % 2 == 0)
    move_patch(s, shape, x);
  else
    move_elements(s, number % 4 == 1, next, x);
}

static qb_status try_starts(search *s, int32_t rounds) {
  bool improved;
  int64_t data = 0, number = 0;
  for (int32_t round = 0; round < rounds || data < s->settings->data_count; round++) {
    if (round >= s->rounds)
      return QB_OK;
    for (int32_t i = 0; i < s->batch; i++) {
      float *x = s->points + i * s->inputs;
      if (data == s->settings->data_count) {
        start_point(s, number++, x);
        continue;
      }
      for (int64_t k = 0; k < s->inputs; k++)
        x[k] = into_box(s, k, s->settings->data[data * s->inputs + k]);
      data++;
    }
    QB_TRY(evaluate(s, s->batch, &improved));
  }
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- climbing
 */

typedef struct climber {
  qb_gradient *gradient[2];
  float *x, *d[2]; /* (inputs) */
  float *weights;  /* (outputs) */
} climber;

/* The output that differs most, or the one that counts. */
static int64_t widest(const search *s, const float *y, const float *y_q) {
  int64_t best = s->settings->output < 0 ? 0 : s->settings->output;
  for (int64_t k = 0; s->settings->output < 0 && k < s->outputs; k++)
    if (fabsf(y_q[k] - y[k]) > fabsf(y_q[best] - y[best]))
      best = k;
  return best;
}

/* One step of length `rate` of the box along the sign of the gradient of |y'_k - y_k|. */
static qb_status climb_step(search *s, climber *c, float rate) {
  const float *y[2];
  for (int i = 0; i < 2; i++)
    QB_TRY(qb_gradient_forward(c->gradient[i], c->x, &y[i], s->error));
  (void)judge(s, c->x, y[0], y[1]);
  int64_t k = widest(s, y[0], y[1]);
  float sign = y[1][k] >= y[0][k] ? 1.0f : -1.0f;
  for (int i = 0; i < 2; i++) {
    memset(c->weights, 0, (size_t)s->outputs * sizeof *c->weights);
    c->weights[k] = i == 1 ? sign : -sign;
    if (!qb_gradient_pull(c->gradient[i], c->weights, s->deadline, c->d[i]))
      return QB_OK;
  }
  for (int64_t e = 0; e < s->inputs; e++) {
    float slope = c->d[0][e] + c->d[1][e], step = rate * (s->hi[e] - s->lo[e]);
    if (slope > 0 || slope < 0) /* not for NaN */
      c->x[e] = into_box(s, e, c->x[e] + (slope > 0 ? step : -step));
  }
  return QB_OK;
}

/* From the best input, then from other starts; steps shrink from a third of the box to a hundredth. */
static qb_status climb_all(search *s, climber *c) {
  int32_t steps = s->steps < CLIMB_STEPS ? s->steps : CLIMB_STEPS;
  for (int32_t done = 0; done + steps <= s->steps && !is_late(s); done += steps) {
    if (!qb_progress_report(s->progress, "climbing to large errors", done, s->steps))
      return qb_fail(s->error, QB_ERROR_INTERRUPTED, "the search was stopped");
    if (done == 0)
      copy_point(s, c->x, s->best[0].x);
    else
      start_point(s, 3 + done, c->x);
    for (int32_t i = 0; i < steps && !is_late(s); i++)
      QB_TRY(climb_step(s, c, 0.33f * powf(0.03f, (float)i / (float)steps)));
  }
  return QB_OK;
}

static qb_status climb(search *s) {
  climber c = {{NULL}, NULL, {NULL}, NULL};
  size_t inputs = (size_t)s->inputs;
  c.x = qb_alloc(inputs, sizeof *c.x);
  c.d[0] = qb_alloc(inputs, sizeof *c.x);
  c.d[1] = qb_alloc(inputs, sizeof *c.x);
  c.weights = qb_alloc((size_t)s->outputs, sizeof *c.weights);
  qb_status status = QB_OK;
  if (c.x == NULL || c.d[0] == NULL || c.d[1] == NULL || c.weights == NULL)
    status = qb_fail_memory(s->error, "the search", 3 * inputs * sizeof *c.x);
  if (status == QB_OK)
    status = qb_gradient_create(s->original, s->settings->threads, &c.gradient[0], s->error);
  if (status == QB_OK)
    status = qb_gradient_create(s->quantized, s->settings->threads, &c.gradient[1], s->error);
  if (status == QB_OK)
    status = climb_all(s, &c);
  qb_gradient_free(c.gradient[0]);
  qb_gradient_free(c.gradient[1]);
  qb_free(c.x);
  qb_free(c.d[0]);
  qb_free(c.d[1]);
  qb_free(c.weights);
  return status;
}

/* ------------------------------------------------------------------------------------------------------------- moves
 */

static qb_status ascend(search *s) {
  int64_t next = 0;
  for (int32_t round = 0; round < s->rounds && !is_late(s); round++) {
    bool improved;
    if (!qb_progress_report(s->progress, "searching for large errors", round, s->rounds))
      return qb_fail(s->error, QB_ERROR_INTERRUPTED, "the search was stopped");
    for (int32_t i = 0; i < s->batch; i++)
      moved_point(s, i, next++, s->points + i * s->inputs);
    QB_TRY(evaluate(s, s->batch, &improved));
  }
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------------- proving
 */

/* What is proved about one input: each network's outputs y within r, and lo <= y' - y <= hi. */
typedef struct proof {
  const double *y[2], *r[2];
  double *lo, *hi; /* (outputs) */
} proof;

/* The engines that prove: reference[0] is NULL where it would be slow and its radii too wide, exact[0] until it is
 * needed. */
typedef struct prover {
  qb_run *reference[2], *exact[2];
  proof p;
} prover;

static double down(double x) { return nextafter(x, -INFINITY); }

static double up(double x) { return nextafter(x, INFINITY); }

static qb_status create_engines(search *s, qb_engine engine, qb_run *runs[2]) {
  qb_run_settings how;
  qb_run_settings_default(&how);
  how.engine = engine;
  how.threads = s->settings->threads;
  how.radius = true;
  how.deadline = s->proof_deadline;
  QB_TRY(qb_run_create(s->original, &how, &runs[0], s->error));
  return qb_run_create(s->quantized, &how, &runs[1], s->error);
}

static qb_status run_both(search *s, qb_run *runs[2], const float *x, proof *p) {
  const qb_graph *graphs[2] = {s->original, s->quantized};
  for (int i = 0; i < 2; i++) {
    QB_TRY(qb_run_forward(runs[i], x, 1, s->error));
    p->y[i] = qb_run_value_double(runs[i], graphs[i]->outputs[0]);
    p->r[i] = qb_run_radius(runs[i], graphs[i]->outputs[0]);
  }
  return QB_OK;
}

/* The radii of the reference engine grow by the sum of |w| in every layer. */
static bool is_rough(const search *s, const proof *p) {
  double widest = 0, largest = 0;
  for (int64_t k = 0; k < s->outputs; k++) {
    widest = fmax(widest, isnan(p->hi[k] - p->lo[k]) ? INFINITY : p->hi[k] - p->lo[k]);
    largest = fmax(largest, fabs(p->y[1][k] - p->y[0][k]));
  }
  return widest > 0x1p-30 * largest;
}

static qb_status evaluate_proved(search *s, prover *v, const float *x) {
  proof *p = &v->p;
  if (v->reference[0] != NULL) {
    QB_TRY(run_both(s, v->reference, x, p));
    for (int64_t k = 0; k < s->outputs; k++) {
      double gap = p->y[1][k] - p->y[0][k], radius = up(p->r[0][k] + p->r[1][k]);
      p->lo[k] = down(down(gap) - radius);
      p->hi[k] = up(up(gap) + radius);
    }
    if (!is_rough(s, p))
      return QB_OK;
  }
  if (v->exact[0] == NULL)
    QB_TRY(create_engines(s, QB_ENGINE_EXACT, v->exact));
  QB_TRY(run_both(s, v->exact, x, p));
  qb_run_difference(v->exact[0], s->original->outputs[0], v->exact[1], s->quantized->outputs[0], p->lo, p->hi);
  return QB_OK;
}

static void prove_difference(search *s, const proof *p, const float *x) {
  for (int64_t k = 0; k < s->outputs; k++) {
    double proved = fmax(p->lo[k], -p->hi[k]); /* NaN for infinite radii: no improvement */
    if ((s->settings->output >= 0 && s->settings->output != k) || !(proved > s->result->lower))
      continue;
    s->result->lower = proved;
    s->result->found = k;
    copy_point(s, s->result->input, x);
  }
}

/* The element that is certainly larger than all others, or -1. */
static int64_t certain_top(const double *y, const double *r, int64_t count) {
  int64_t top = 0;
  for (int64_t k = 1; k < count; k++)
    if (y[k] > y[top])
      top = k;
  for (int64_t k = 0; k < count; k++)
    if (k != top && !(down(y[top] - r[top]) > up(y[k] + r[k])))
      return -1;
  return top;
}

static void prove_flip(search *s, const proof *p) {
  int64_t top = certain_top(p->y[0], p->r[0], s->outputs), other = certain_top(p->y[1], p->r[1], s->outputs);
  s->result->flips = top >= 0 && other >= 0 && top != other;
  s->result->top = top;
  s->result->other_top = other;
  if (s->result->flips)
    copy_point(s, s->result->flip, s->flip.x);
}

static qb_status prove_with(search *s, prover *v) {
  bool large = macs_of(s->original) > 1e8;
  int inputs = large ? 1 : PROVED_INPUTS;
  if (!large)
    QB_TRY(create_engines(s, QB_ENGINE_REFERENCE, v->reference));
  for (int i = 0; i < inputs; i++)
    if (s->best[i].value > 0) {
      QB_TRY(evaluate_proved(s, v, s->best[i].x));
      prove_difference(s, &v->p, s->best[i].x);
    }
  if (s->flip.value > -INFINITY) {
    QB_TRY(evaluate_proved(s, v, s->flip.x));
    prove_flip(s, &v->p);
    prove_difference(s, &v->p, s->flip.x);
  }
  return QB_OK;
}

/* What was not finished in time proves nothing. */
static qb_status prove_in_time(search *s, prover *v) {
  qb_status status = prove_with(s, v);
  s->result->late = status == QB_ERROR_INTERRUPTED && s->proof_deadline > 0 && qb_clock_seconds() > s->proof_deadline;
  return s->result->late ? QB_OK : status;
}

static qb_status prove(search *s) {
  prover v = {0};
  s->result->input = qb_alloc((size_t)s->inputs, sizeof(float));
  s->result->flip = qb_alloc((size_t)s->inputs, sizeof(float));
  v.p.lo = qb_alloc((size_t)s->outputs, sizeof(double));
  v.p.hi = qb_alloc((size_t)s->outputs, sizeof(double));
  qb_status status = QB_OK;
  if (s->result->input == NULL || s->result->flip == NULL || v.p.lo == NULL || v.p.hi == NULL)
    status = qb_fail_memory(s->error, "the search", 2 * (size_t)s->inputs * sizeof(float));
  if (status == QB_OK)
    status = prove_in_time(s, &v);
  for (int i = 0; i < 2; i++) {
    qb_run_free(v.reference[i]);
    qb_run_free(v.exact[i]);
  }
  qb_free(v.p.lo);
  qb_free(v.p.hi);
  return status;
}

static qb_status search_and_prove(search *s) {
  QB_TRY(create(s));
  QB_TRY(try_starts(s, s->rounds / 8 + 1));
  QB_TRY(climb(s));
  QB_TRY(ascend(s));
  QB_TRY(prove(s));
  if (s->result->lower == 0) {
    qb_free(s->result->input);
    s->result->input = NULL;
  }
  if (!s->result->flips) {
    qb_free(s->result->flip);
    s->result->flip = NULL;
  }
  return QB_OK;
}

qb_status qb_search_lower(const qb_graph *original, const qb_graph *quantized, const float *lo, const float *hi,
                          const qb_search_settings *settings, const qb_progress *progress, qb_search_result *result,
                          qb_error *error) {
  double start = qb_clock_seconds();
  *result = (qb_search_result){0};
  search s = {.original = original,
              .quantized = quantized,
              .lo = lo,
              .hi = hi,
              .settings = settings,
              .progress = progress,
              .result = result,
              .deadline = settings->timeout_seconds > 0 ? start + settings->timeout_seconds : 0,
              .proof_deadline = settings->proof_seconds > 0 ? start + settings->proof_seconds : 0,
              .error = error};
  qb_status status = search_and_prove(&s);
  destroy(&s);
  return status;
}
