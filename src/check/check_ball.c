/* Balls of a certificate, one by one; see check_ball.h. */
#include "check/check_ball.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "check/check_point.h"

/* ----------------------------------------------------------------------------------------------------- which inputs */

static float float_below(double x) { return (double)(float)x <= x ? (float)x : nextafterf((float)x, -INFINITY); }

/* [c - reach, c + reach] within the limits, each end one double and one float further out where it is rounded. */
static bool ball_box(const balls_claim *b, const float *centre, const double *reach, float *lo, float *hi) {
  for (int64_t i = 0; i < b->elements; i++) {
    double c = (double)centre[i];
    lo[i] = reach[i] == 0 ? centre[i] : float_below(-above(-(c - reach[i])));
    hi[i] = reach[i] == 0 ? centre[i] : -float_below(-above(c + reach[i]));
    if (b->limits != NULL) {
      lo[i] = fmaxf(lo[i], (float)b->limits[i].lo);
      hi[i] = fminf(hi[i], (float)b->limits[i].hi);
    }
    if (!(lo[i] <= hi[i]))
      return false;
  }
  return true;
}

static const centre_claim *centre_of(const balls_claim *b, const ball_claim *ball) {
  for (int64_t k = 0; k < b->centre_count; k++)
    if (b->centres[k].index == ball->index && strcmp(b->centres[k].sha256, ball->centre) == 0)
      return &b->centres[k];
  return NULL;
}

static const radius_claim *radius_of(const balls_claim *b, const ball_claim *ball) {
  for (int64_t k = 0; k < b->radius_count; k++)
    if (b->radii[k].radius == ball->radius && b->radii[k].pixels == ball->pixels)
      return &b->radii[k];
  return NULL;
}

/* --------------------------------------------------------------------------------------------------------- one ball */

/* All balls, one after the other. */
typedef struct balls_job {
  const balls_claim *b;
  const qb_pair *pair;
  float *lo, *hi;            /* (elements) of the current ball */
  float *read;               /* (elements) what the data gave for... */
  const centre_claim *given; /* ... this centre; NULL: none yet */
  balls_verdict *verdict;
  found_verdict *found;
  qb_error *error;
} balls_job;

static void say(recomputed *r, bool known, bool refuted, const char *why) {
  *r = (recomputed){.known = known, .refuted = refuted};
  snprintf(r->why, sizeof r->why, "%s", why);
}

/* The numbers of a centre, from the certificate or from the data; NULL: neither has them. */
static qb_status find_centre(balls_job *j, const centre_claim *centre, const float **values) {
  const balls_claim *b = j->b;
  *values = centre == NULL ? NULL : centre->values;
  if (centre == NULL || centre->values != NULL || b->source == NULL || b->preprocess == NULL)
    return QB_OK;
  if (j->given != centre)
    QB_TRY(b->source->read(b->source->context, b->preprocess, centre->index, b->elements, j->read, j->error));
  j->given = centre;
  *values = j->read;
  return QB_OK;
}

/* The inputs of a ball; where they are not known or make no sense *why says so. */
static qb_status find_box(balls_job *j, const ball_claim *ball, recomputed *why) {
  const centre_claim *centre = centre_of(j->b, ball);
  const radius_claim *radius = radius_of(j->b, ball);
  const float *values;
  QB_TRY(find_centre(j, centre, &values));
  *why = (recomputed){0};
  if (centre == NULL || radius == NULL)
    say(why, true, true, "its centre or radius is not listed");
  else if (values == NULL)
    say(why, false, false, "its centre is not stored in the certificate: give its data with --data");
  else if (!input_has_hash(values, j->b->elements, centre->sha256))
    say(why, centre->values != NULL, centre->values != NULL,
        centre->values != NULL ? "the SHA-256 of its centre is another"
                               : "the data hold another input there: its SHA-256 is not that of the centre");
  else if (!ball_box(j->b, values, radius->reach, j->lo, j->hi))
    say(why, true, true, "its centre lies outside the limits");
  return QB_OK;
}

/* What is claimed of all inputs of the ball. */
static qb_status recompute_ball(const balls_job *j, const ball_claim *ball, recomputed *result) {
  if (ball->refuted && !ball->found.flips) {
    say(result, true, true, "its decision is REFUTED without an input that flips");
  } else if (ball->box.method[0] == '\0') { /* nothing is claimed */
    say(result, true, isfinite(ball->box.bound) || ball->box.keeps, "it claims something without saying how");
  } else if (strcmp(ball->box.method, "point") != 0) {
    return recompute_box(&ball->box, j->pair, j->lo, j->hi, result, j->error);
  } else if (!box_is_point(j->lo, j->hi, j->b->elements)) {
    say(result, true, true, "its method is for a single point, but its radius is not 0");
  } else {
    return recompute_point(&ball->box, j->pair, j->lo, result, j->error);
  }
  return QB_OK;
}

static void note(balls_verdict *v, const ball_claim *ball, int64_t number, const recomputed *r) {
  bool worse = r->refuted ? !v->refuted : !r->known && !v->refuted && !v->unknown;
  v->follow += r->known && !r->refuted;
  if (worse)
    snprintf(v->why, sizeof v->why, "ball %lld (input %lld, radius %g%s): %.300s", (long long)number,
             (long long)ball->index, ball->radius, ball->pixels ? "px" : "", r->why);
  v->refuted = v->refuted || r->refuted;
  v->unknown = v->unknown || (!r->known && !r->refuted);
}

/* --------------------------------------------------------------------------------------------------------- the curve
 */

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Counts, the median and the largest bound of the balls of one radius. */
static bool curve_holds(const balls_claim *b, const radius_claim *radius, double *bounds) {
  int64_t n = 0, proved = 0, refuted = 0;
  double lower = 0;
  for (int64_t k = 0; k < b->count; k++) {
    const ball_claim *ball = &b->balls[k];
    if (radius_of(b, ball) != radius)
      continue;
    bounds[n++] = ball->box.bound;
    proved += ball->box.keeps;
    refuted += ball->refuted;
    lower = fmax(lower, ball->found.lower);
  }
  qsort(bounds, (size_t)n, sizeof *bounds, by_size);
  return n > 0 && radius->balls == n && radius->proved == proved && radius->refuted == refuted &&
         radius->unknown == n - proved - refuted && radius->median >= bounds[n / 2] &&
         radius->largest >= bounds[n - 1] && radius->lower <= lower;
}

static qb_status check_curve(const balls_claim *b, balls_verdict *v, qb_error *error) {
  double *bounds = qb_alloc((size_t)b->count, sizeof *bounds);
  if (bounds == NULL)
    return qb_fail_memory(error, "the curve", (size_t)b->count * sizeof *bounds);
  for (int64_t k = 0; k < b->radius_count && !v->refuted; k++)
    if (!curve_holds(b, &b->radii[k], bounds)) {
      v->refuted = true;
      snprintf(v->why, sizeof v->why, "the curve does not agree with the balls of radius %g", b->radii[k].radius);
    }
  qb_free(bounds);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------------- the calls
 */

static qb_status judge_ball(balls_job *j, int64_t number) {
  const ball_claim *ball = &j->b->balls[number];
  recomputed result;
  char where[80];
  QB_TRY(find_box(j, ball, &result));
  bool has_box = result.why[0] == '\0';
  if (has_box || ball->box.method[0] == '\0')
    QB_TRY(recompute_ball(j, ball, &result));
  note(j->verdict, ball, number, &result);
  snprintf(where, sizeof where, "ball %lld (input %lld): ", (long long)number, (long long)ball->index);
  if (j->verdict->refuted)
    return QB_OK;
  return judge_found(&ball->found, ball->box.only, j->pair, j->b->elements, has_box ? j->lo : NULL, j->hi, where,
                     j->found, j->error);
}

static qb_status judge_balls(balls_job *j) {
  for (int64_t k = 0; k < j->b->count && !j->verdict->refuted && !j->found->refuted; k++)
    QB_TRY(judge_ball(j, k));
  return j->verdict->refuted ? QB_OK : check_curve(j->b, j->verdict, j->error);
}

typedef struct box {
  float *lo, *hi; /* (elements) */
} box;

static qb_status new_box(int64_t elements, box *b, qb_error *error) {
  b->lo = qb_alloc((size_t)elements, sizeof *b->lo);
  b->hi = qb_alloc((size_t)elements, sizeof *b->hi);
  return b->lo == NULL || b->hi == NULL ? qb_fail_memory(error, "a box", (size_t)elements * sizeof *b->lo) : QB_OK;
}

static void free_box(box *b) {
  qb_free(b->lo);
  qb_free(b->hi);
}

qb_status recompute_balls(const balls_claim *b, const qb_pair *pair, balls_verdict *v, found_verdict *found,
                          qb_error *error) {
  const qb_graph *graph = pair->quantized;
  box ball;
  *v = (balls_verdict){.count = b->count};
  if ((int64_t)qb_shape_elements(&graph->values[graph->inputs[0]].shape) != b->elements) {
    v->refuted = true;
    snprintf(v->why, sizeof v->why, "the network's input has other elements than the centres");
    return QB_OK;
  }
  float *read = qb_alloc((size_t)b->elements, sizeof *read);
  qb_status status = new_box(b->elements, &ball, error);
  if (status == QB_OK && read == NULL)
    status = qb_fail_memory(error, "a centre", (size_t)b->elements * sizeof *read);
  balls_job j = {b, pair, ball.lo, ball.hi, read, NULL, v, found, error};
  if (status == QB_OK)
    status = judge_balls(&j);
  free_box(&ball);
  qb_free(read);
  return status;
}

/* The domain; its ends are float32 numbers. */
static qb_status domain_box(const claim *c, box *b, qb_error *error) {
  QB_TRY(new_box(c->elements, b, error));
  for (int64_t i = 0; i < c->elements; i++) {
    b->lo[i] = float_below(c->domain[i].lo);
    b->hi[i] = -float_below(-c->domain[i].hi);
  }
  return QB_OK;
}

qb_status recompute_by_cuts(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error) {
  box_claim what = c->cut_up;
  box domain;
  qb_status status = domain_box(c, &domain, error);
  memcpy(what.method, c->method, sizeof what.method);
  what.only = c->output;
  what.bound = c->bound;
  what.output_count = c->output_count;
  what.outputs = c->outputs;
  if (status == QB_OK)
    status = recompute_box(&what, pair, domain.lo, domain.hi, result, error);
  free_box(&domain);
  return status;
}

qb_status judge_domain(const claim *c, const qb_pair *pair, found_verdict *found, qb_error *error) {
  box domain;
  qb_status status = domain_box(c, &domain, error);
  if (status == QB_OK)
    status = judge_found(&c->found, c->output, pair, c->elements, domain.lo, domain.hi, "", found, error);
  free_box(&domain);
  return status;
}
