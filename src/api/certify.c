/* qb_certify: every claim that the settings ask for about two networks, and what a certificate file needs. Each claim
 * has a file of its own, certify_<claim>.c. */
#include <stdio.h>
#include <string.h>

#include "api/certify_claims.h"
#include "api/model.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"

void qb_certify_settings_default(qb_certify_settings *settings) {
  *settings = (qb_certify_settings){.worst_case = true,
                                    .domain = QB_DOMAIN_PIXELS,
                                    .box_row = -1,
                                    .output = -1,
                                    .search = true,
                                    .timeout_seconds = 60,
                                    .confidence = 0.99,
                                    .candidates = 1};
}

/* -------------------------------------------------------------------------------------------------------- the call */

static qb_status name_networks(const qb_certifying *c) {
  const qb_model *models[2] = {c->model, c->quantized};
  const char **names[2] = {&c->certificate->model, &c->certificate->quantized};
  char *texts[2] = {c->certificate->model_sha256, c->certificate->quantized_sha256};
  for (int i = 0; i < 2; i++) {
    qb_hash hash;
    if (models[i]->source != NULL)
      return qb_fail(c->error, QB_ERROR_ARGUMENT,
                     "%s: certificates speak about files; save the quantized model and load it", models[i]->path);
    *names[i] = qb_arena_string(&c->parts->arena, models[i]->path, strlen(models[i]->path));
    if (*names[i] == NULL)
      return qb_fail_memory(c->error, "the certificate", strlen(models[i]->path));
    QB_TRY(qb_hash_file(models[i]->path, &hash, c->error));
    qb_hash_print(&hash, texts[i]);
  }
  return QB_OK;
}

static qb_status run_certify(const qb_certifying *c) {
  QB_TRY(name_networks(c));
  if (c->settings->worst_case)
    QB_TRY(qb_certify_worst_case(c));
  if (c->settings->around != NULL)
    QB_TRY(qb_certify_balls(c));
  if (c->settings->statistical != NULL)
    QB_TRY(qb_certify_statistical(c));
  return QB_OK;
}

qb_status qb_certify(const qb_model *model, const qb_model *quantized, const qb_certify_settings *settings,
                     const qb_progress *progress, qb_certificate *certificate, qb_error *error) {
  double start = qb_clock_seconds();
  *certificate = (qb_certificate){0};
  qb_certificate_parts *parts = qb_alloc(1, sizeof *parts);
  if (parts == NULL)
    return qb_fail_memory(error, "the certificate", sizeof *parts);
  qb_arena_init(&parts->arena);
  qb_arena_init(&parts->scratch);
  parts->output = settings->output;
  certificate->lsb = settings->lsb || settings->float32;
  certificate->float32 = settings->float32;
  certificate->storage = parts;
  qb_certifying c = {model, quantized, settings, progress, certificate, parts, error};
  int threads = qb_threads_begin(settings->threads);
  qb_status status = run_certify(&c);
  qb_threads_end(threads);
  certificate->seconds = qb_clock_seconds() - start;
  if (status != QB_OK)
    qb_certificate_free(certificate);
  return status;
}

void qb_certificate_free(qb_certificate *certificate) {
  if (certificate == NULL)
    return;
  qb_certificate_parts *parts = certificate->storage;
  if (parts != NULL) {
    qb_domain_free(&parts->domain);
    qb_worst_case_free(&parts->worst);
    qb_search_result_free(&parts->search);
    qb_graph_free(&parts->loose[0]);
    qb_graph_free(&parts->loose[1]);
    qb_arena_free(&parts->arena);
    qb_arena_free(&parts->scratch);
    qb_free(parts);
  }
  *certificate = (qb_certificate){0};
}

/* ------------------------------------------------------------------------------------------------------------ text */

qb_status qb_certificate_json(const qb_certificate *certificate, char **text, qb_error *error) {
  return qb_report_certificate(certificate, certificate->storage, text, error);
}

static qb_status write_text(qb_output_file *file, const char *text, qb_error *error) {
  if (fputs(text, file->stream) < 0 || fputc('\n', file->stream) < 0)
    return qb_fail(error, QB_ERROR_IO, "%s: cannot write", file->path);
  return QB_OK;
}

qb_status qb_certificate_save(const qb_certificate *certificate, const char *path, qb_error *error) {
  char *text = NULL;
  qb_output_file file = {0};
  if (qb_rank() > 0)
    return QB_OK;
  QB_TRY(qb_certificate_json(certificate, &text, error));
  qb_status status = qb_output_open(&file, path, error);
  if (status == QB_OK)
    status = write_text(&file, text, error);
  if (status == QB_OK)
    status = qb_output_commit(&file, error);
  else
    qb_output_discard(&file);
  qb_text_free(text);
  return status;
}
