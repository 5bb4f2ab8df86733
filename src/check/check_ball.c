/* Balls of a certificate, one by one; see check_ball.h. */
#include "check/check_ball.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* ----------------------------------------------------------------------------------------------------- which inputs */

static float float_below(double x) { return (double)(float)x <= x ? (float)x : nextafterf((float)x, -INFINITY); }

/* [c - reach, c + reach] within the limits, each end one double and one float further out where it is rounded. */
static bool ball_box(const balls_claim *b, const centre_claim *centre, const double *reach, float *lo, float *hi) {
  for (int64_t i = 0; i < b->elements; i++) {
    double c = (double)centre->values[i];
    lo[i] = reach[i] == 0 ? centre->values[i] : float_below(-above(-(c - reach[i])));
    hi[i] = reach[i] == 0 ? centre->values[i] : -float_below(-above(c + reach[i]));
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

static bool has_hash(const centre_claim *centre, int64_t elements) {
  qb_hash hash;
  char text[QB_HASH_TEXT];
  return qb_hash_bytes(centre->values, (size_t)elements * sizeof(float), &hash, NULL) == QB_OK &&
         strcmp(qb_hash_print(&hash, text), centre->sha256) == 0;
}

/* --------------------------------------------------------------------------------------------------------- one ball */

static void say(recomputed *r, bool known, bool refuted, const char *why) {
  *r = (recomputed){.known = known, .refuted = refuted};
  snprintf(r->why, sizeof r->why, "%s", why);
}

static qb_status recompute_ball(const balls_claim *b, const ball_claim *ball, const qb_pair *pair, float *lo, float *hi,
                                recomputed *result, qb_error *error) {
  const centre_claim *centre = centre_of(b, ball);
  const radius_claim *radius = radius_of(b, ball);
  if (ball->box.method[0] == '\0') { /* nothing is claimed */
    say(result, true, isfinite(ball->box.bound) || ball->box.keeps, "it claims something without saying how");
    return QB_OK;
  }
  if (centre == NULL || radius == NULL)
    say(result, true, true, "its centre or radius is not listed");
  else if (centre->values == NULL)
    say(result, false, false, "its centre is not stored in the certificate");
  else if (!has_hash(centre, b->elements))
    say(result, true, true, "the SHA-256 of its centre is another");
  else if (!ball_box(b, centre, radius->reach, lo, hi))
    say(result, true, true, "its centre lies outside the limits");
  else
    return recompute_box(&ball->box, pair, lo, hi, result, error);
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
  for (int64_t k = 0; k < b->count; k++) {
    const ball_claim *ball = &b->balls[k];
    if (radius_of(b, ball) != radius)
      continue;
    bounds[n++] = ball->box.bound;
    proved += ball->box.keeps;
    refuted += ball->refuted;
  }
  qsort(bounds, (size_t)n, sizeof *bounds, by_size);
  return n > 0 && radius->balls == n && radius->proved == proved && radius->refuted == refuted &&
         radius->unknown == n - proved - refuted && radius->median >= bounds[n / 2] && radius->largest >= bounds[n - 1];
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

static qb_status check_all(const balls_claim *b, const qb_pair *pair, float *lo, float *hi, balls_verdict *v,
                           qb_error *error) {
  for (int64_t k = 0; k < b->count && !v->refuted; k++) {
    recomputed result;
    QB_TRY(recompute_ball(b, &b->balls[k], pair, lo, hi, &result, error));
    note(v, &b->balls[k], k, &result);
  }
  return v->refuted ? QB_OK : check_curve(b, v, error);
}

qb_status recompute_balls(const balls_claim *b, const qb_pair *pair, balls_verdict *v, qb_error *error) {
  const qb_graph *graph = pair->quantized;
  *v = (balls_verdict){.count = b->count};
  if ((int64_t)qb_shape_elements(&graph->values[graph->inputs[0]].shape) != b->elements) {
    v->refuted = true;
    snprintf(v->why, sizeof v->why, "the network's input has other elements than the centres");
    return QB_OK;
  }
  float *lo = qb_alloc((size_t)b->elements, sizeof *lo), *hi = qb_alloc((size_t)b->elements, sizeof *hi);
  qb_status status = lo == NULL || hi == NULL ? qb_fail_memory(error, "a box", (size_t)b->elements * sizeof *lo)
                                              : check_all(b, pair, lo, hi, v, error);
  qb_free(lo);
  qb_free(hi);
  return status;
}

qb_status recompute_by_cuts(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error) {
  box_claim box = c->cut_up;
  float *lo = qb_alloc((size_t)c->elements, sizeof *lo), *hi = qb_alloc((size_t)c->elements, sizeof *hi);
  qb_status status =
      lo == NULL || hi == NULL ? qb_fail_memory(error, "a box", (size_t)c->elements * sizeof *lo) : QB_OK;
  for (int64_t i = 0; status == QB_OK && i < c->elements; i++) {
    lo[i] = float_below(c->domain[i].lo); /* they are float32 numbers */
    hi[i] = -float_below(-c->domain[i].hi);
  }
  memcpy(box.method, c->method, sizeof box.method);
  box.only = c->output;
  box.bound = c->bound;
  box.output_count = c->output_count;
  box.outputs = c->outputs;
  if (status == QB_OK)
    status = recompute_box(&box, pair, lo, hi, result, error);
  qb_free(lo);
  qb_free(hi);
  return status;
}
