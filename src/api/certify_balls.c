/* The balls of a certificate: for every centre of a data set and every radius, the largest change of an output and
 * whether the decision can change, from above by ball_call.c and from below by a search. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/ball_box.h"
#include "api/ball_call.h"
#include "api/ball_share.h"
#include "api/certify_claims.h"
#include "api/model.h"
#include "api/open_data.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/progress.h"
#include "base/ranks.h"

/* Of a ball's seconds: the search begins no step after so much of them and its exact proof ends after so much.
 * Intervals alone have what is left and so many at least. */
static const double SEARCH_SHARE = 0.3, PROOF_SHARE = 1.2, LEAST_INTERVAL_SECONDS = 5;

/* All balls together have slopes of at most so many elements in the file. */
enum { SEARCH_ROUNDS = 16, STORED_SLOPES = 1 << 14 };

qb_certify_fault qb_certify_fault_planted = QB_CERTIFY_FAULT_NONE;

const char *qb_decision_name(qb_decision decision) {
  return decision == QB_DECISION_PROVED ? "PROVED" : decision == QB_DECISION_REFUTED ? "REFUTED" : "UNKNOWN";
}

typedef struct balls_call {
  const qb_certifying *c;
  qb_dataset *dataset;
  qb_pair pair;
  qb_ball_call call;
  int64_t centres;
  qb_certified_ball *balls; /* (centres * radius_count) what the caller sees */
  qb_ball_details *details; /* what the file needs besides */
  float *centre, *found;    /* (elements) of the current centre; the input with the largest error so far, or NULL */
  bool has_found;
  bool late; /* what the search of this ball found was not proved in time */
  qb_domain domain;
} balls_call;

/* ------------------------------------------------------------------------------------------------------- the search */

/* Starts at the centre and at what the last radius found. */
static qb_status search_ball(balls_call *b, qb_search_result *found) {
  const qb_certify_settings *settings = b->c->settings;
  size_t elements = (size_t)b->domain.count;
  float *starts = qb_arena_alloc(&b->c->parts->scratch, 2 * elements, sizeof *starts);
  qb_search_settings how;
  if (starts == NULL)
    return qb_fail_memory(b->c->error, "the search", 2 * elements * sizeof *starts);
  memcpy(starts, b->centre, elements * sizeof *starts);
  memcpy(starts + elements, b->found, elements * sizeof *starts);
  qb_search_settings_default(&how);
  how.rounds = qb_domain_free_inputs(&b->domain) == 0 ? 1 : SEARCH_ROUNDS;
  how.macs = fmin(how.macs, 0.1 * QB_BALL_RATE * settings->timeout_seconds);
  how.seed = settings->seed;
  how.threads = settings->threads;
  how.output = settings->output;
  how.timeout_seconds = SEARCH_SHARE * settings->timeout_seconds;
  how.proof_seconds = fmax(LEAST_INTERVAL_SECONDS, PROOF_SHARE * settings->timeout_seconds);
  how.data = starts;
  how.data_count = b->has_found ? 2 : 1;
  return qb_search_lower(&b->c->model->graph, &b->c->quantized->graph, b->domain.lo, b->domain.hi, &how, NULL, found,
                         b->c->error);
}

static qb_status keep_flip(balls_call *b, const qb_search_result *found, qb_certified_ball *ball,
                           qb_ball_details *details) {
  size_t elements = (size_t)b->domain.count;
  ball->decision = QB_DECISION_REFUTED;
  ball->top = found->top;
  ball->other_top = found->other_top;
  details->flip = qb_arena_alloc(&b->c->parts->arena, elements, sizeof *details->flip);
  if (details->flip == NULL)
    return qb_fail_memory(b->c->error, "an input", elements * sizeof *details->flip);
  memcpy(details->flip, found->flip, elements * sizeof *details->flip);
  return QB_OK;
}

/* For the file, and as a start for the next radius. */
static qb_status keep_found(balls_call *b, const float *input, qb_ball_details *details) {
  size_t elements = (size_t)b->domain.count;
  memcpy(b->found, input, elements * sizeof *b->found);
  details->found = qb_arena_alloc(&b->c->parts->arena, elements, sizeof *details->found);
  if (details->found == NULL)
    return qb_fail_memory(b->c->error, "an input", elements * sizeof *details->found);
  memcpy(details->found, input, elements * sizeof *details->found);
  return QB_OK;
}

static qb_status find_lower(balls_call *b, qb_certified_ball *ball, qb_ball_details *details) {
  qb_search_result found;
  double start = qb_clock_seconds();
  qb_status status = search_ball(b, &found);
  ball->search_seconds = qb_clock_seconds() - start;
  if (status == QB_OK) {
    ball->lower = found.lower;
    b->late = found.late && found.lower == 0;
    b->has_found = b->has_found || found.input != NULL;
    if (found.input != NULL)
      status = keep_found(b, found.input, details);
    if (status == QB_OK && found.flips)
      status = keep_flip(b, &found, ball, details);
  }
  qb_search_result_free(&found);
  return status;
}

/* -------------------------------------------------------------------------------------------------------- one ball */

static qb_status claim_proof(balls_call *b, qb_ball_proof *proof, qb_certified_ball *ball, qb_ball_details *details) {
  int64_t only = b->c->settings->output;
  ball->method = proof->method;
  ball->bound = INFINITY;
  ball->why = qb_arena_string(&b->c->parts->arena, proof->why, strlen(proof->why));
  details->proof = *proof;
  if (ball->why == NULL)
    return qb_fail_memory(b->c->error, "a ball", sizeof proof->why);
  if (proof->method == NULL)
    return QB_OK;
  if (only >= proof->count)
    return qb_fail(b->c->error, QB_ERROR_ARGUMENT, "%s: there is no output %lld, only 0 to %lld", b->c->quantized->path,
                   (long long)only, (long long)proof->count - 1);
  double largest = 0;
  for (int64_t k = 0; k < proof->count; k++)
    if (only < 0 || only == k)
      largest = fmax(largest, fmax(fabs(proof->outputs[k].lo), fabs(proof->outputs[k].hi)));
  ball->output_count = proof->count;
  ball->outputs = proof->outputs;
  ball->bound = qb_certificate_round_up(largest);
  if (proof->keeps_top)
    ball->decision = QB_DECISION_PROVED;
  return QB_OK;
}

/* What must never happen. */
static qb_status check_sides(const balls_call *b, const qb_certified_ball *ball, bool proved_top) {
  if (ball->method != NULL && ball->lower > ball->bound)
    return qb_fail(b->c->error, QB_ERROR_NUMERIC,
                   "%s: input %lld, radius %g: an input was found whose error %.17g exceeds the bound %.17g: this is a "
                   "bug in qbound, please report it; nothing is certified",
                   b->c->quantized->path, (long long)ball->index, ball->radius.value, ball->lower, ball->bound);
  if (proved_top && ball->decision == QB_DECISION_REFUTED)
    return qb_fail(b->c->error, QB_ERROR_NUMERIC,
                   "%s: input %lld, radius %g: an input was found that flips although none can: this is a bug in "
                   "qbound, please report it; nothing is certified",
                   b->c->quantized->path, (long long)ball->index, ball->radius.value);
  return QB_OK;
}

static qb_status certify_ball(balls_call *b, qb_certified_ball *ball, qb_ball_details *details) {
  qb_ball_proof proof;
  ball->decision = QB_DECISION_UNKNOWN;
  ball->top = ball->other_top = -1;
  b->late = false;
  if (b->c->settings->search)
    QB_TRY(find_lower(b, ball, details));
  b->call.interval_seconds = fmax(LEAST_INTERVAL_SECONDS, b->c->settings->timeout_seconds - ball->search_seconds);
  qb_decision found = ball->decision;
  double start = qb_clock_seconds();
  QB_TRY(qb_ball_prove(&b->call, &b->domain, 1.01 * ball->lower, &b->c->parts->arena, &proof, b->c->error));
  ball->bound_seconds = qb_clock_seconds() - start;
  if (b->late && proof.why[0] == '\0')
    snprintf(proof.why, sizeof proof.why, "no lower side: out of time before what was found was proved");
  QB_TRY(claim_proof(b, &proof, ball, details));
  bool proved_top = ball->decision == QB_DECISION_PROVED;
  if (found == QB_DECISION_REFUTED)
    ball->decision = found;
  return check_sides(b, ball, proved_top);
}

/* ------------------------------------------------------------------------------------------------------ the centres */

static qb_status hash_centre(const balls_call *b, char text[QB_SHA256_TEXT]) {
  qb_hash hash;
  QB_TRY(qb_hash_bytes(b->centre, (size_t)b->domain.count * sizeof *b->centre, &hash, b->c->error));
  qb_hash_print(&hash, text);
  return QB_OK;
}

static qb_status keep_centre(balls_call *b, int64_t i, const char *text) {
  qb_ball_centre *centre = &b->c->parts->around.centres[i];
  size_t elements = (size_t)b->domain.count;
  centre->index = b->c->settings->around->skip + i;
  memcpy(centre->sha256, text, sizeof centre->sha256);
  if (b->centres * b->domain.count > QB_STORED_INPUTS)
    return QB_OK;
  centre->values = qb_arena_alloc(&b->c->parts->arena, elements, sizeof *centre->values);
  if (centre->values == NULL)
    return qb_fail_memory(b->c->error, "a centre", elements * sizeof *centre->values);
  memcpy(centre->values, b->centre, elements * sizeof *centre->values);
  return QB_OK;
}

static qb_status read_centre(balls_call *b, int64_t i, char text[QB_SHA256_TEXT]) {
  QB_TRY(qb_dataset_read(b->dataset, i, b->centre, b->c->error));
  QB_TRY(hash_centre(b, text));
  if (qb_certify_fault_planted == QB_CERTIFY_FAULT_OTHER_CENTRE)
    QB_TRY(qb_dataset_read(b->dataset, (i + 1) % b->centres, b->centre, b->c->error));
  return keep_centre(b, i, text);
}

static qb_status certify_centre(balls_call *b, int64_t i) {
  const qb_certify_settings *settings = b->c->settings;
  char text[QB_SHA256_TEXT];
  QB_TRY(read_centre(b, i, text));
  b->has_found = false;
  for (int r = 0; r < settings->radius_count; r++) {
    int64_t number = i * settings->radius_count + r;
    qb_certified_ball *ball = &b->balls[number];
    qb_radius radius = settings->radii[r];
    if (!qb_progress_report(b->c->progress, "certifying balls", number, b->centres * settings->radius_count))
      return qb_fail(b->c->error, QB_ERROR_INTERRUPTED, "certifying was stopped");
    ball->index = settings->around->skip + i;
    ball->radius = radius;
    memcpy(ball->centre_sha256, text, sizeof ball->centre_sha256);
    if (qb_certify_fault_planted == QB_CERTIFY_FAULT_PIXELS_AS_UNITS)
      radius.pixels = false;
    QB_TRY(qb_ball_box(&b->c->parts->around.frame, b->centre, &radius, qb_dataset_name(b->dataset, i), &b->domain,
                       b->c->error));
    QB_TRY(certify_ball(b, ball, &b->details[number]));
    qb_arena_free(&b->c->parts->scratch);
  }
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- the curve */

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void fill_point(const balls_call *b, int r, double *bounds, qb_ball_curve_point *point) {
  int count = b->c->settings->radius_count;
  point->radius = b->c->settings->radii[r];
  point->balls = b->centres;
  for (int64_t i = 0; i < b->centres; i++) {
    const qb_certified_ball *ball = &b->balls[i * count + r];
    bounds[i] = ball->bound;
    point->proved += ball->decision == QB_DECISION_PROVED;
    point->refuted += ball->decision == QB_DECISION_REFUTED;
    point->unknown += ball->decision == QB_DECISION_UNKNOWN;
    point->lower = fmax(point->lower, ball->lower);
    point->seconds += ball->bound_seconds + ball->search_seconds;
  }
  qsort(bounds, (size_t)b->centres, sizeof *bounds, compare_doubles);
  point->median = bounds[b->centres / 2]; /* of an even number the upper one */
  point->largest = bounds[b->centres - 1];
}

static qb_status keep_reach(balls_call *b) {
  qb_ball_around *around = &b->c->parts->around;
  const qb_certify_settings *settings = b->c->settings;
  size_t elements = (size_t)around->frame.elements;
  around->reach = qb_arena_alloc(&b->c->parts->arena, (size_t)settings->radius_count, sizeof *around->reach);
  for (int r = 0; around->reach != NULL && r < settings->radius_count; r++) {
    around->reach[r] = qb_arena_alloc(&b->c->parts->arena, elements, sizeof **around->reach);
    if (around->reach[r] == NULL)
      return qb_fail_memory(b->c->error, "radii", elements * sizeof **around->reach);
    for (size_t i = 0; i < elements; i++)
      around->reach[r][i] = qb_ball_reach(&around->frame, &settings->radii[r], (int64_t)i);
  }
  return around->reach != NULL ? QB_OK : qb_fail_memory(b->c->error, "radii", elements * sizeof **around->reach);
}

static qb_status draw_curve(balls_call *b) {
  qb_balls_claim *claim = &b->c->certificate->balls;
  size_t points = (size_t)b->c->settings->radius_count;
  qb_ball_curve_point *curve = qb_arena_alloc(&b->c->parts->arena, points, sizeof *curve);
  double *bounds = qb_arena_alloc(&b->c->parts->scratch, (size_t)b->centres, sizeof *bounds);
  if (curve == NULL || bounds == NULL)
    return qb_fail_memory(b->c->error, "the curve", (size_t)b->centres * sizeof *bounds);
  for (int r = 0; r < (int)points; r++)
    fill_point(b, r, bounds, &curve[r]);
  claim->curve = curve;
  claim->point_count = (int)points;
  return QB_OK;
}

/* What a person should know about how it was done. */
static const char *make_note(const balls_call *b) {
  double skipped = 0;
  for (int64_t k = 0; k < b->c->certificate->balls.ball_count; k++)
    skipped = fmax(skipped, b->details[k].proof.hidden_skipped);
  if (!b->call.budget.relaxes)
    return qb_arena_format(&b->c->parts->arena,
                           "the network is too large for the relaxation in %g s a ball: intervals alone",
                           b->c->settings->timeout_seconds);
  if (skipped > 0)
    return qb_arena_format(&b->c->parts->arena,
                           "in %g s a ball up to %.0f neurons of hidden layers were left to intervals",
                           b->c->settings->timeout_seconds, skipped);
  return qb_arena_format(&b->c->parts->arena, "%s", "");
}

/* ---------------------------------------------------------------------------------------------------------- the call
 */

static qb_status check_settings(const qb_certifying *c) {
  const qb_certify_settings *settings = c->settings;
  if (settings->radius_count < 1 || settings->radii == NULL)
    return qb_fail(c->error, QB_ERROR_ARGUMENT, "balls need a radius");
  for (int r = 0; r < settings->radius_count; r++)
    if (!isfinite(settings->radii[r].value) || settings->radii[r].value < 0)
      return qb_fail(c->error, QB_ERROR_ARGUMENT, "a radius is a finite number from 0, not %g",
                     settings->radii[r].value);
  if (!isfinite(settings->timeout_seconds) || !(settings->timeout_seconds > 0))
    return qb_fail(c->error, QB_ERROR_ARGUMENT, "a timeout is a positive number of seconds, not %g",
                   settings->timeout_seconds);
  return QB_OK;
}

static qb_status prepare_pair(balls_call *b) {
  const qb_certifying *c = b->c;
  QB_TRY(qb_certify_match(c, &b->pair));
  if (b->pair.quantized->output_count != 1)
    return qb_fail(c->error, QB_ERROR_UNSUPPORTED, "%s: has %d outputs; a certificate speaks of one",
                   c->quantized->path, b->pair.quantized->output_count);
  b->call = (qb_ball_call){.pair = &b->pair,
                           .budget = qb_ball_plan(&b->pair, c->settings->timeout_seconds, c->settings->output),
                           .output = c->settings->output,
                           .cut_neurons = c->settings->cut_neurons,
                           .interval_seconds = fmax(LEAST_INTERVAL_SECONDS, c->settings->timeout_seconds),
                           .point_seconds = fmax(LEAST_INTERVAL_SECONDS, PROOF_SHARE * c->settings->timeout_seconds),
                           .keep_slopes = STORED_SLOPES / (b->centres * c->settings->radius_count),
                           .threads = c->settings->threads,
                           .progress = c->progress};
  return b->call.budget.relaxes ? qb_backward_create(&b->pair, &b->call.backward, c->error) : QB_OK;
}

static qb_status allocate(balls_call *b) {
  qb_arena *arena = &b->c->parts->arena;
  qb_ball_around *around = &b->c->parts->around;
  size_t elements = (size_t)around->frame.elements, balls = (size_t)(b->centres * b->c->settings->radius_count);
  b->domain.count = around->frame.elements;
  b->domain.lo = qb_arena_alloc(arena, elements, sizeof *b->domain.lo);
  b->domain.hi = qb_arena_alloc(arena, elements, sizeof *b->domain.hi);
  b->centre = qb_arena_alloc(arena, elements, sizeof *b->centre);
  b->found = qb_arena_alloc(arena, elements, sizeof *b->found);
  b->balls = qb_arena_alloc(arena, balls, sizeof *b->balls);
  b->details = around->details = qb_arena_alloc(arena, balls, sizeof *b->details);
  around->centre_count = b->centres;
  around->centres = qb_arena_alloc(arena, (size_t)b->centres, sizeof *around->centres);
  if (b->domain.lo == NULL || b->domain.hi == NULL || b->centre == NULL || b->found == NULL || b->balls == NULL ||
      b->details == NULL || around->centres == NULL)
    return qb_fail_memory(b->c->error, "balls", balls * sizeof *b->balls);
  return QB_OK;
}

static qb_status prepare(balls_call *b) {
  const qb_certifying *c = b->c;
  const qb_data *data = c->settings->around;
  bool limited = c->settings->preprocess != NULL;
  QB_TRY(qb_data_open(data, "certifying balls", &b->dataset, c->error));
  QB_TRY(qb_data_check_fit(b->dataset, c->model, "certifying balls", c->error));
  qb_shape sample = qb_dataset_shape(b->dataset);
  b->centres = qb_dataset_count(b->dataset);
  QB_TRY(qb_ball_frame_make(data->preprocess, limited, &sample, &c->parts->arena, &c->parts->around.frame, c->error));
  QB_TRY(allocate(b));
  c->certificate->balls.centres = qb_arena_format(&c->parts->arena, "%s, %s", data->path, data->preprocess);
  c->parts->around.preprocess = qb_arena_string(&c->parts->arena, data->preprocess, strlen(data->preprocess));
  if (c->certificate->balls.centres == NULL || c->parts->around.preprocess == NULL)
    return qb_fail_memory(c->error, "balls", strlen(data->path));
  return prepare_pair(b);
}

/* Centres are dealt to the ranks one by one; then every rank receives the balls of all. */
static qb_status certify_centres(balls_call *b) {
  const qb_certifying *c = b->c;
  int64_t ranks = qb_rank_count(), radii = c->settings->radius_count;
  for (int64_t first = 0; first < b->centres; first += ranks) {
    qb_status status = QB_OK;
    for (int64_t i = first; status == QB_OK && i < first + ranks && i < b->centres; i++) {
      char text[QB_SHA256_TEXT];
      status = qb_ranks_owns(i) ? certify_centre(b, i) : read_centre(b, i, text);
    }
    QB_TRY(qb_ranks_agree(status, c->error));
  }
  for (int64_t k = 0; k < b->centres * radii; k++)
    QB_TRY(qb_ball_share(c, b->domain.count, (int)(k / radii % ranks), &b->balls[k], &b->details[k]));
  return QB_OK;
}

static qb_status certify_all(balls_call *b) {
  qb_balls_claim *claim = &b->c->certificate->balls;
  QB_TRY(qb_ranks_agree(prepare(b), b->c->error));
  QB_TRY(certify_centres(b));
  claim->balls = b->balls;
  claim->ball_count = b->centres * b->c->settings->radius_count;
  claim->note = make_note(b);
  if (claim->note == NULL)
    return qb_fail_memory(b->c->error, "balls", 64);
  QB_TRY(keep_reach(b));
  return draw_curve(b);
}

qb_status qb_certify_balls(const qb_certifying *c) {
  balls_call b = {.c = c};
  QB_TRY(check_settings(c));
  c->certificate->has_balls = true;
  qb_status status = certify_all(&b);
  qb_backward_free(b.call.backward);
  qb_pair_free(&b.pair);
  qb_dataset_free(b.dataset);
  return status;
}
