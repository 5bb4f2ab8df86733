/* What a certificate file says, as rungs of a ladder and sentences; see page.h. It reads every key as something that
 * may be missing or of another kind: certificates come from anywhere. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "report/page.h"

/* A number, also the strings "inf" and "-inf"; NAN for anything else. */
static double number_of(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  const char *text = json_string_value(value);
  if (json_is_number(value))
    return json_number_value(value);
  if (text != NULL && (strcmp(text, "inf") == 0 || strcmp(text, "-inf") == 0))
    return text[0] == '-' ? -INFINITY : INFINITY;
  return NAN;
}

static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text != NULL ? text : "";
}

static qb_page_rung *add_rung(qb_page_certificate *c, const char *kind, double log10, const char *format, ...)
    QB_PRINTF(4, 5);
static qb_page_rung *add_rung(qb_page_certificate *c, const char *kind, double log10, const char *format, ...) {
  if (c->rung_count == QB_PAGE_RUNGS || isnan(log10))
    return NULL;
  qb_page_rung *rung = &c->rungs[c->rung_count++];
  va_list arguments;
  *rung = (qb_page_rung){.kind = kind, .log10 = log10};
  va_start(arguments, format);
  vsnprintf(rung->name, sizeof rung->name, format, arguments);
  va_end(arguments);
  if (isinf(log10))
    snprintf(rung->text, sizeof rung->text, "%s", log10 > 0 ? "infinite" : "0");
  else if (fabs(log10) < 6)
    snprintf(rung->text, sizeof rung->text, "%.4g", pow(10, log10));
  else
    snprintf(rung->text, sizeof rung->text, "%.2f\302\26710^%.0f", pow(10, log10 - floor(log10)), floor(log10));
  return rung;
}

static void add_statement(qb_page_certificate *c, const char *format, ...) QB_PRINTF(2, 3);
static void add_statement(qb_page_certificate *c, const char *format, ...) {
  if (c->statement_count == QB_PAGE_STATEMENTS)
    return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->statements[c->statement_count++], sizeof *c->statements, format, arguments);
  va_end(arguments);
}

/* ------------------------------------------------------------------------------------------------------- worst case */

static void read_tried(const json_t *root, const char *best, qb_page_certificate *c) {
  const json_t *tried = json_object_get(root, "tried");
  for (size_t i = 0; i < json_array_size(tried); i++) {
    const json_t *item = json_array_get(tried, i);
    qb_page_rung *rung = add_rung(c, "proved for every input of the domain", number_of(item, "log10"), "%.40s bound",
                                  text_of(item, "method"));
    if (rung != NULL)
      rung->best = strcmp(text_of(item, "method"), best) == 0;
  }
}

static void read_worst_case(const json_t *root, qb_page_certificate *c) {
  const json_t *worst = json_object_get(root, "worst_case");
  const char *domain = text_of(json_object_get(root, "domain"), "description");
  double bound = number_of(worst, "bound"), lower = number_of(worst, "lower"), range = number_of(worst, "output_range");
  read_tried(root, text_of(worst, "method"), c);
  if (worst == NULL || isnan(bound))
    return;
  add_rung(c, "proved for the original alone", log10(range), "the original's own output moves by");
  if (lower > 0)
    add_rung(c, "proved at an input that was found", log10(lower), "some output changes by at least");
  add_statement(c, "For every input (%.80s) no output changes by more than %.6g. Proved.%s", domain, bound,
                json_is_true(json_object_get(worst, "vacuous"))
                    ? " This is vacuous: the original's own output moves by less over these inputs."
                    : "");
  if (!json_is_true(json_object_get(worst, "vacuous")) && c->headline[0] == '\0')
    snprintf(c->headline, sizeof c->headline,
             "It is proved that no output changes by more than %.4g, whatever the input.", bound);
}

/* ------------------------------------------------------------------------------------------------------------ balls */

typedef struct ball_summary {
  double radius, largest, lower;
  int64_t count, proved, refuted;
} ball_summary;

static void add_ball(const json_t *ball, ball_summary *summary) {
  const char *decision = text_of(ball, "decision");
  summary->count++;
  summary->proved += strcmp(decision, "PROVED") == 0;
  summary->refuted += strcmp(decision, "REFUTED") == 0;
  summary->largest = fmax(summary->largest, number_of(ball, "bound"));
  summary->lower = fmax(summary->lower, number_of(ball, "lower"));
}

static void read_balls(const json_t *root, qb_page_certificate *c) {
  enum { RADII = 6 };
  ball_summary radii[RADII] = {{0}};
  int count = 0;
  const json_t *balls = json_object_get(root, "balls");
  for (size_t i = 0; i < json_array_size(balls); i++) {
    const json_t *ball = json_array_get(balls, i);
    double radius = number_of(ball, "radius");
    int at = 0;
    while (at < count && radii[at].radius != radius)
      at++;
    if (at == RADII || isnan(radius))
      continue;
    if (at == count)
      radii[count++] = (ball_summary){.radius = radius};
    add_ball(ball, &radii[at]);
  }
  for (int i = 0; i < count; i++) {
    const ball_summary *s = &radii[i];
    add_rung(c, "proved on balls around inputs", log10(s->largest), "%lld balls of radius %.4g", (long long)s->count,
             s->radius);
    add_statement(c,
                  "On %lld balls of radius %.4g no output changes by more than %.6g. Proved. On %lld of them the first "
                  "class cannot change, on %lld it does somewhere.",
                  (long long)s->count, s->radius, s->largest, (long long)s->proved, (long long)s->refuted);
  }
}

/* ------------------------------------------------------------------------------------------------------- statistics */

static void read_statistical(const json_t *root, qb_page_certificate *c) {
  const json_t *statistics = json_object_get(root, "statistical");
  double confidence = number_of(statistics, "confidence"), flips = number_of(statistics, "flip_rate_upper");
  double n = number_of(statistics, "n");
  if (statistics == NULL || isnan(confidence) || isnan(flips) || isnan(n))
    return;
  add_statement(c, "With %.4g %% confidence at most %.3g %% of inputs drawn like the %.0f held-out ones change class.",
                100 * confidence, 100 * flips, n);
  snprintf(c->headline, sizeof c->headline,
           "With %.4g %% confidence at most %.2f %% of inputs like these change class.", 100 * confidence,
           ceil(1e4 * flips) / 100);
}

/* --------------------------------------------------------------------------------------------------------- the file */

static qb_status check_networks(const json_t *root, const char *path, const char *model_sha256,
                                const char *other_sha256, qb_error *error) {
  const json_t *models = json_object_get(root, "models");
  static const char *const keys[2] = {"float", "quantized"};
  const char *wanted[2] = {model_sha256, other_sha256};
  if (strncmp(text_of(root, "schema"), "qbound.certificate/", 19) != 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: is no certificate of qbound; `qbound certify` writes one", path);
  for (int i = 0; i < 2; i++)
    if (strcmp(text_of(json_object_get(models, keys[i]), "sha256"), wanted[i]) != 0)
      return qb_fail(error, QB_ERROR_FORMAT,
                     "%s: speaks of another %s network than the one given: the hashes differ; certify this pair", path,
                     keys[i]);
  return QB_OK;
}

qb_status qb_page_read_certificate(const char *path, const char *model_sha256, const char *other_sha256,
                                   qb_page_certificate *certificate, qb_error *error) {
  json_error_t why;
  *certificate = (qb_page_certificate){.file = path};
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return qb_fail(error, QB_ERROR_IO, "%s: %s", path, strerror(errno));
  json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &why);
  fclose(file);
  if (root == NULL)
    return qb_fail(error, QB_ERROR_FORMAT, "%s:%d: %s", path, why.line, why.text);
  qb_status status = check_networks(root, path, model_sha256, other_sha256, error);
  if (status == QB_OK) {
    read_worst_case(root, certificate);
    read_balls(root, certificate);
    read_statistical(root, certificate);
  }
  json_decref(root);
  return status;
}
