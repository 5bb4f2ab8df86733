/* The certificate file; docs/certificate.md says what each number means. */
#include "report/certificate_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report/certificate_claims_json.h"
#include "report/json.h"

static const char *const arithmetic =
    "exact real arithmetic of both networks: weights, biases and inputs are the real numbers that the float32 numbers "
    "of the files denote, BatchNormalization folded into float32 weights first; the rounding of a runtime is not "
    "included";
static const char *const float32_arithmetic =
    "real arithmetic, and float32 arithmetic with gradual underflow in any order of sums, fused or not, of both "
    "networks: weights, biases and inputs are the real numbers that the float32 numbers of the files denote, "
    "BatchNormalization folded into float32 weights first";

double qb_certificate_round_up(double wanted) {
  char text[32];
  if (wanted == 0 || isinf(wanted))
    return wanted;
  double digit = pow(10, floor(log10(wanted)) - 8), up = wanted;
  for (int i = 0; i < 4; i++) {
    snprintf(text, sizeof text, "%.8e", up);
    double result = strtod(text, NULL);
    if (result >= wanted)
      return result;
    up += digit;
  }
  return wanted;
}

/* -------------------------------------------------------------------------------------------------------- the file */

static json_t *network(const char *path, const char *sha256) {
  const char *slash = strrchr(path, '/');
  json_t *object = qb_json_put(json_object(), "file", qb_json_text(slash == NULL ? path : slash + 1));
  return qb_json_put(object, "sha256", json_string(sha256));
}

qb_status qb_report_certificate(const qb_certificate *certificate, const qb_certificate_parts *parts, char **text,
                                qb_error *error) {
  json_t *object = qb_json_report("qbound.certificate/1");
  object = qb_json_put(object, "version", json_string(qb_version()));
  json_t *models = qb_json_put(json_object(), "float", network(certificate->model, certificate->model_sha256));
  models = qb_json_put(models, "quantized", network(certificate->quantized, certificate->quantized_sha256));
  object = qb_json_put(object, "models", models);
  object = qb_json_put(object, "arithmetic", json_string(certificate->float32 ? float32_arithmetic : arithmetic));
  object = qb_json_put(object, "evaluation", json_string(certificate->float32 ? "float32" : "exact"));
  object = qb_json_put(object, "lsb", json_boolean(certificate->lsb));
  if (certificate->has_worst_case) {
    object = qb_json_put(object, "domain", qb_certificate_domain(certificate, &parts->domain));
    if (certificate->worst_case.proved)
      object = qb_json_put(object, "worst_case", qb_certificate_worst_case(certificate, parts));
    object = qb_json_put(object, "tried", qb_certificate_tried(&certificate->worst_case));
  }
  if (certificate->has_balls) {
    object = qb_json_put(object, "around", qb_certificate_around(&certificate->balls, parts));
    object = qb_json_put(object, "balls", qb_certificate_balls(&certificate->balls, parts));
  }
  if (certificate->has_statistical)
    object = qb_json_put(object, "statistical", qb_certificate_statistical(&certificate->statistical));
  json_t *timing = qb_json_put(json_object(), "seconds", qb_json_real(certificate->seconds));
  return qb_json_print(qb_json_put(object, "timing", timing), text, error);
}

qb_status qb_check_json(const qb_check_report *report, char **text, qb_error *error) {
  json_t *object = qb_json_report("qbound.check/1");
  object = qb_json_put(object, "verdict", json_string(qb_check_verdict_name(report->verdict)));
  object = qb_json_put(object, "why", qb_json_text(report->why));
  object = qb_json_put(object, "method", qb_json_text(report->method));
  object = qb_json_put(object, "claimed", qb_json_real(report->claimed));
  object = qb_json_put(object, "recomputed", qb_json_real(report->recomputed));
  object = qb_json_put(object, "statistical", qb_json_text(report->statistical));
  object = qb_json_put(object, "lower", qb_json_text(report->lower));
  json_t *timing = qb_json_put(json_object(), "seconds", qb_json_real(report->seconds));
  return qb_json_print(qb_json_put(object, "timing", timing), text, error);
}
