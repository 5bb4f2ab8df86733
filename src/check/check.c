/* check_certificate: verifies a certificate without the engine that wrote it. Read this first, then
 *   check_claim.c    what the file says
 *   check_cells.c    layerwise, interval and elementwise: ranges through both networks, one rule per operator
 *   check_linear.c   the rule of layers with weights
 *   check_evaluation.c  what evaluation in float32 adds
 *   check_passes.c   products of non-negative numbers with weights
 *   check_paths.c    two_stage: sums over the paths of both networks
 *   check_quantizer.c  quantizers of activations
 *   check_l2.c       spectral: the l2 recurrences from claimed norms; product: with intervals beside them
 *   check_l2_rules.c   the same for operators without weights
 *   check_l2_evaluation.c   what evaluation in float32 adds to norms
 *   check_sigma.c    proving a claimed norm, frequency by frequency
 *   check_ball.c     balls, and what their curve says
 *   check_point.c    both networks at one input, in as many bits as it takes; check_point_linear.c: its layers
 *   check_point_claim.c  what is claimed of one input
 *   check_found.c    what a search found: `lower` and flips
 *   check_box.c      one box of inputs, cut up or not
 *   check_backward.c   linear forms carried back to the input through layers and activations
 *   check_links.c    the same through sums, copies and averages
 *   check_plane.c    planes above activations of both networks
 *   check_ball_claim.c  what the file says about balls
 *   check_statistical.c  limits of held-out inputs from the counts beside them
 * It shares the reader of ONNX files and the matching of two graphs with the engine, and nothing else. */
#include <fenv.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "check/check_ball.h"
#include "check/check_bound.h"
#include "check/check_cells.h"
#include "check/check_evaluation.h"
#include "graph/pass_fold_bn.h"
#include "graph/quantizer.h"
#include "onnx/onnx.h"

/* --------------------------------------------------------------------------------- layerwise, interval, elementwise
 */

static bool counts(const claim *c, int64_t k) { return c->output < 0 || c->output == k; }

void judge_outputs(const claim *c, const walk *w, recomputed *result) {
  const qb_value *value = &w->pair->quantized->values[w->pair->quantized->outputs[0]];
  const cells *y = &w->values[w->pair->quantized->outputs[0]];
  int64_t count = (int64_t)qb_shape_elements(&value->shape);
  if (y->codes != NULL || c->output >= count || (c->output_count != 0 && c->output_count != count)) {
    result->refuted = true;
    snprintf(result->why, sizeof result->why, "the network has %lld outputs, not those of the certificate",
             (long long)count);
    return;
  }
  for (int64_t k = 0; k < count; k++) {
    range d = y->at[cell_of(w->grain, &value->shape, k)].d;
    result->bound = counts(c, k) ? fmax(result->bound, range_size(d)) : result->bound;
    if (c->output_count != 0 && !(c->outputs[k].lo <= d.lo && c->outputs[k].hi >= d.hi) && !result->refuted) {
      result->refuted = true;
      snprintf(result->why, sizeof result->why, "output %lld: only [%.9g, %.9g] follows, not [%.9g, %.9g]",
               (long long)k, d.lo, d.hi, c->outputs[k].lo, c->outputs[k].hi);
    }
  }
}

/* Elementwise has its sizes limited by layerwise's ranges, node by node. */
static qb_status walk_both(const claim *c, walk *w, walk *limits, recomputed *result) {
  const qb_pair *pair = w->pair;
  qb_status status = QB_OK;
  result->known = true;
  for (qb_node_id n = 0; status == QB_OK && result->known && n < pair->quantized->node_count; n++) {
    if (w->limits != NULL)
      status = walk_visit(limits, n, &result->known);
    if (status == QB_OK && result->known)
      status = walk_visit(w, n, &result->known);
  }
  if (status == QB_OK && result->known)
    judge_outputs(c, w, result);
  else
    snprintf(result->why, sizeof result->why, "%s", w->why[0] != '\0' ? w->why : limits->why);
  return status;
}

qb_status recompute_by_ranges(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error) {
  walk w, limits = {.pair = pair};
  bool sizes = strcmp(c->method, "elementwise") == 0;
  walk_grain how = sizes ? GRAIN_SIZES : strcmp(c->method, "interval") == 0 ? GRAIN_FINE : GRAIN_COARSE;
  qb_status status = walk_begin(&w, pair, how, c->domain, error);
  if (status == QB_OK && sizes) {
    w.limits = &limits;
    status = walk_begin(&limits, pair, GRAIN_COARSE, c->domain, error);
  }
  if (status == QB_OK)
    status = walk_both(c, &w, &limits, result);
  if (sizes)
    walk_free(&limits);
  walk_free(&w);
  return status;
}

/* --------------------------------------------------------------------------------------------------------- networks */

typedef struct networks {
  qb_onnx *documents[2];
  qb_graph graphs[2];
  qb_pair pair;
} networks;

static qb_status load(const char *const paths[2], networks *n, qb_error *error) {
  for (int i = 0; i < 2; i++) {
    qb_fold_bn_info folded;
    QB_TRY(qb_onnx_read(paths[i], &n->documents[i], error));
    QB_TRY(qb_onnx_to_graph(n->documents[i], &n->graphs[i], error));
    QB_TRY(qb_fold_bn(&n->graphs[i], &folded, error));
  }
  return QB_OK;
}

/* Also graphs whose quantizers clamp in place of an activation, or whose channels were rescaled. */
static bool match(networks *n, qb_error *why) {
  return qb_pair_match_any(&n->graphs[0], &n->graphs[1], &n->pair, why) == QB_OK;
}

static void unload(networks *n) {
  qb_pair_free(&n->pair);
  for (int i = 0; i < 2; i++) {
    qb_graph_free(&n->graphs[i]);
    qb_onnx_free(n->documents[i]);
  }
}

/* ---------------------------------------------------------------------------------------------------------- verdicts
 */

static void decide(qb_check_report *report, qb_check_verdict verdict, const char *why) {
  report->verdict = verdict;
  snprintf(report->why, sizeof report->why, "%s", why);
}

/* Sums of non-negative terms and two-sums need rounding to nearest and gradual underflow. */
static bool safe_environment(void) {
  volatile double least = DBL_MIN, half = 0.5;
  volatile double subnormal = least * half;
  return fegetround() == FE_TONEAREST && subnormal > 0 && subnormal / half == DBL_MIN;
}

static bool same_files(const claim *c, const char *const paths[2], qb_check_report *report, qb_status *status,
                       qb_error *error) {
  static const char *const names[2] = {"float", "quantized"};
  for (int i = 0; i < 2; i++) {
    qb_hash hash;
    char text[QB_HASH_TEXT], why[256];
    *status = qb_hash_file(paths[i], &hash, error);
    if (*status != QB_OK)
      return false;
    if (strcmp(qb_hash_print(&hash, text), c->sha256[i]) == 0)
      continue;
    snprintf(why, sizeof why, "the %s network is another file: its SHA-256 is %.16s.., not %.16s..", names[i], text,
             c->sha256[i]);
    decide(report, QB_CHECK_REFUTED, why);
    return false;
  }
  return true;
}

/* Paths know nothing of float32: what it adds is added to what they say of the exact functions. */
static qb_status recompute_two_stage(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error) {
  evaluation_errors errors = {.known = true};
  qb_pair exact = *pair;
  exact.float32 = false;
  qb_status status = pair->float32 ? evaluation_errors_find(pair, c->domain, &errors, error) : QB_OK;
  if (status == QB_OK && !errors.known)
    snprintf(result->why, sizeof result->why, "%s", errors.why);
  else if (status == QB_OK)
    status = recompute_by_paths(c, &exact, result, error);
  if (status == QB_OK && pair->float32)
    result->bound = add_up(result->bound, evaluation_errors_most(&errors, c->output));
  evaluation_errors_free(&errors);
  return status;
}

static qb_status recompute(const claim *c, const networks *n, qb_check_report *report, qb_error *error) {
  recomputed result = {0};
  char why[sizeof report->why];
  static const char *const by_ranges[] = {"layerwise", "interval", "elementwise"};
  bool ranges = false, norms = strcmp(c->method, "spectral") == 0 || strcmp(c->method, "product") == 0;
  for (int k = 0; k < 3; k++)
    ranges = ranges || strcmp(c->method, by_ranges[k]) == 0;
  if (ranges)
    QB_TRY(recompute_by_ranges(c, &n->pair, &result, error));
  else if (strcmp(c->method, "two_stage") == 0)
    QB_TRY(recompute_two_stage(c, &n->pair, &result, error));
  else if (norms)
    QB_TRY(recompute_by_norms(c, &n->pair, &result, error));
  else if (strcmp(c->method, "bisection") == 0 || strcmp(c->method, "relaxation") == 0)
    QB_TRY(recompute_by_cuts(c, &n->pair, &result, error));
  else
    snprintf(result.why, sizeof result.why, "the method '%s' is not known here", c->method);
  report->recomputed = result.known && !result.refuted ? result.bound : INFINITY;
  if (!result.known) {
    decide(report, QB_CHECK_UNKNOWN, result.why);
  } else if (result.refuted) {
    decide(report, QB_CHECK_REFUTED, result.why);
  } else if (!(result.bound <= c->bound) || isinf(result.bound)) {
    snprintf(why, sizeof why, "only the bound %.9g follows, not %.9g", result.bound, c->bound);
    decide(report, QB_CHECK_REFUTED, why);
  } else {
    decide(report, QB_CHECK_VERIFIED, "the bound follows");
  }
  return QB_OK;
}

/* What the balls add: the weakest verdict counts. */
static void add_balls(const balls_verdict *v, bool has_worst_case, qb_check_report *report) {
  char before[sizeof report->why], why[sizeof report->why];
  snprintf(before, sizeof before, "%s", has_worst_case ? report->why : "");
  if (v->refuted)
    snprintf(why, sizeof why, "%s", v->why);
  else if (v->unknown)
    snprintf(why, sizeof why, "%.100s%s%s", before, has_worst_case ? "; " : "", v->why);
  else
    snprintf(why, sizeof why, "%.300s%sthe bounds and decisions of all balls follow (%lld)", before,
             has_worst_case ? "; " : "", (long long)v->count);
  qb_check_verdict rest = has_worst_case ? report->verdict : QB_CHECK_VERIFIED;
  decide(report, v->refuted ? QB_CHECK_REFUTED : v->unknown ? QB_CHECK_UNKNOWN : rest, why);
}

/* What searches found makes no promise: where it cannot be verified the verdict stays. */
static void add_found(const found_verdict *v, qb_check_report *report) {
  char before[sizeof report->why], why[sizeof report->why];
  report->lower = found_verdict_name(v);
  if (v->refuted) {
    decide(report, QB_CHECK_REFUTED, v->why);
  } else if (v->verified < v->claims) {
    snprintf(before, sizeof before, "%s", report->why);
    snprintf(why, sizeof why, "%.300s; %.180s", before, v->unknown);
    decide(report, report->verdict, why);
  }
}

static qb_status recompute_all(const claim *c, const networks *n, qb_check_report *report, qb_error *error) {
  bool has_worst_case = c->method[0] != '\0';
  balls_verdict balls = {0};
  found_verdict found = {0};
  if (has_worst_case)
    QB_TRY(recompute(c, n, report, error));
  if (has_worst_case && report->verdict != QB_CHECK_REFUTED)
    QB_TRY(judge_domain(c, &n->pair, &found, error));
  if (c->has_balls && !found.refuted && (!has_worst_case || report->verdict != QB_CHECK_REFUTED)) {
    QB_TRY(recompute_balls(&c->balls, &n->pair, &balls, &found, error));
    add_balls(&balls, has_worst_case, report);
  }
  if (report->verdict != QB_CHECK_REFUTED)
    add_found(&found, report);
  return QB_OK;
}

static qb_status check_networks(const claim *c, const char *const paths[2], qb_check_report *report, qb_error *error) {
  networks n = {0};
  qb_error why;
  qb_status status = load(paths, &n, error);
  for (int i = 0; status == QB_OK && (c->lsb || c->float32) && i < 2; i++)
    qb_graph_allow_steps(&n.graphs[i], 1);
  const qb_graph *own = &n.graphs[0], *other = &n.graphs[1];
  bool matches = status == QB_OK && match(&n, &why);
  n.pair.float32 = c->float32;
  if (status == QB_OK && !matches)
    decide(report, QB_CHECK_REFUTED, why.message);
  else if (status == QB_OK && (own->input_count != 1 || other->input_count != 1 || other->output_count != 1 ||
                               (c->method[0] != '\0' &&
                                (int64_t)qb_shape_elements(&other->values[other->inputs[0]].shape) != c->elements)))
    decide(report, QB_CHECK_REFUTED, "the networks do not have the one input of the domain and one output");
  else if (status == QB_OK)
    status = recompute_all(c, &n, report, error);
  unload(&n);
  return status;
}

static qb_status check_claim(const claim *c, const char *const paths[2], qb_check_report *report, qb_error *error) {
  qb_status status = QB_OK;
  report->claimed = c->bound;
  snprintf(report->method, sizeof report->method, "%s", c->method);
  if (!safe_environment())
    return qb_fail(error, QB_ERROR_NUMERIC, "the floating-point unit flushes subnormals or does not round to nearest");
  if (!same_files(c, paths, report, &status, error))
    return status;
  report->files_match = true;
  if (c->method[0] == '\0' && !c->has_balls) {
    decide(report, QB_CHECK_UNKNOWN, "the certificate claims no worst case");
    return QB_OK;
  }
  return check_networks(c, paths, report, error);
}

/* What the statistical claim adds: the weakest verdict counts, and what was measured is never verified. */
static void add_statistical(const statistical_verdict *verdict, bool has_worst_case, qb_check_report *report) {
  char before[sizeof report->why], why[sizeof report->why];
  if (!verdict->present || (has_worst_case && report->verdict == QB_CHECK_REFUTED))
    return;
  snprintf(before, sizeof before, "%s", has_worst_case ? report->why : "");
  report->statistical = verdict->refuted ? "refuted" : verdict->unknown ? "unknown" : "limits follow";
  if (verdict->refuted)
    snprintf(why, sizeof why, "the statistical claim: %s", verdict->why);
  else if (verdict->unknown)
    snprintf(why, sizeof why, "%.300s%sthe statistical claim: %.150s", before, has_worst_case ? "; " : "",
             verdict->why);
  else
    snprintf(why, sizeof why,
             "%.250s%sthe statistical limits follow from the counts and errors in the file, which were measured and "
             "are not recomputed",
             before, has_worst_case ? "; " : "");
  decide(report, verdict->refuted ? QB_CHECK_REFUTED : QB_CHECK_UNKNOWN, why);
}

qb_status check_certificate(const char *certificate, const char *model, const char *quantized,
                            const centre_source *source, int threads, qb_check_report *report, qb_error *error) {
  double start = qb_clock_seconds();
  const char *const paths[2] = {model, quantized};
  claim c;
  int old = omp_get_max_threads();
  *report = (qb_check_report){.verdict = QB_CHECK_UNKNOWN, .recomputed = INFINITY};
  if (threads > 0)
    omp_set_num_threads(threads);
  qb_status status = claim_read(certificate, &c, error);
  c.balls.source = source;
  if (status == QB_OK)
    status = check_claim(&c, paths, report, error);
  if (status == QB_OK && report->files_match)
    add_statistical(&c.statistical, c.method[0] != '\0' || c.has_balls, report);
  claim_free(&c);
  omp_set_num_threads(old);
  report->seconds = qb_clock_seconds() - start;
  return status;
}

const char *qb_check_verdict_name(qb_check_verdict verdict) {
  return verdict == QB_CHECK_VERIFIED ? "VERIFIED" : verdict == QB_CHECK_REFUTED ? "REFUTED" : "UNKNOWN";
}
