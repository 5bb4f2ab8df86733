/* See error_search.h. */
#include "support/error_search.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"

static qb_run *create_run(const qb_graph *graph) {
  qb_error error;
  qb_run *run;
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.engine = QB_ENGINE_REFERENCE;
  settings.batch = ERROR_SEARCH_BATCH;
  settings.threads = 1;
  settings.radius = true;
  qb_value_id *keep = qb_alloc((size_t)graph->value_count, sizeof *keep);
  assert_non_null(keep);
  for (qb_value_id v = 0; v < graph->value_count; v++)
    if (!graph->values[v].is_constant && graph->values[v].producer != QB_NONE)
      keep[settings.keep_count++] = v;
  settings.keep = keep;
  qb_status status = qb_run_create(graph, &settings, &run, &error);
  qb_free(keep);
  if (status != QB_OK)
    fail_msg("%s", error.message);
  return run;
}

void error_search_create(const qb_pair *pair, const qb_domain *domain, error_search *search) {
  size_t inputs = (size_t)domain->count;
  *search = (error_search){.pair = pair,
                           .domain = domain,
                           .original = create_run(pair->original),
                           .quantized = create_run(pair->quantized),
                           .batch = qb_alloc(ERROR_SEARCH_BATCH * inputs, sizeof(float)),
                           .best = qb_alloc(inputs, sizeof(float)),
                           .found = -1};
  assert_true(search->batch != NULL && search->best != NULL);
}

void error_search_free(error_search *search) {
  qb_run_free(search->original);
  qb_run_free(search->quantized);
  qb_free(search->batch);
  qb_free(search->best);
}

/* Largest certified |y - y'| of sample i over the first output. */
static double sample_error(const error_search *search, int32_t i) {
  qb_value_id v = search->pair->quantized->outputs[0], o = search->pair->original->outputs[0];
  size_t count = qb_shape_elements(&search->pair->quantized->values[v].shape);
  const double *y = qb_run_value_double(search->original, o), *y_q = qb_run_value_double(search->quantized, v);
  const double *r = qb_run_radius(search->original, o), *r_q = qb_run_radius(search->quantized, v);
  double largest = 0;
  for (size_t k = (size_t)i * count; k < ((size_t)i + 1) * count; k++) {
    double e = fabs(y[k] - y_q[k]) - r[k] - r_q[k];
    largest = fmax(largest, e * (1 - 1e-15)); /* the subtractions round, too */
  }
  return largest;
}

/* Runs the first `count` samples of the batch and keeps the best; true when it improved. */
static bool evaluate(error_search *search, int32_t count) {
  bool improved = false;
  size_t inputs = (size_t)search->domain->count;
  qb_error error;
  if (qb_run_forward(search->original, search->batch, count, &error) != QB_OK ||
      qb_run_forward(search->quantized, search->batch, count, &error) != QB_OK)
    fail_msg("%s", error.message);
  for (int32_t i = 0; i < count; i++) {
    double e = sample_error(search, i);
    if (e > search->found) {
      search->found = e;
      memcpy(search->best, search->batch + (size_t)i * inputs, inputs * sizeof(float));
      improved = true;
    }
  }
  if (search->visitor != NULL)
    search->visitor(search->context, search, count);
  return improved;
}

/* Sample 0: all low, 1: all high, then corners, then points inside. */
static void fill_start(error_search *search, qb_rng *rng) {
  for (int32_t i = 0; i < ERROR_SEARCH_BATCH; i++)
    for (int64_t k = 0; k < search->domain->count; k++) {
      float lo = search->domain->lo[k], hi = search->domain->hi[k];
      float corner = i == 0 ? lo : i == 1 ? hi : qb_rng_below(rng, 2) == 0 ? lo : hi;
      float inside = fminf(hi, lo + (float)qb_rng_double(rng) * (hi - lo));
      search->batch[i * search->domain->count + k] = i < 12 ? corner : inside;
    }
}

/* Sample i moves some coordinates of the best input to the other limit, one to start with. */
static void fill_moves(error_search *search, qb_rng *rng, int64_t first) {
  int64_t inputs = search->domain->count;
  for (int64_t i = 0; i < ERROR_SEARCH_BATCH; i++) {
    float *x = search->batch + i * inputs;
    memcpy(x, search->best, (size_t)inputs * sizeof(float));
    int64_t moves = i < 12 ? 1 : 2;
    for (int64_t m = 0; m < moves; m++) {
      int64_t k = m == 0 ? (first + i) % inputs : (int64_t)qb_rng_below(rng, (uint64_t)inputs);
      x[k] = x[k] == search->domain->lo[k] ? search->domain->hi[k] : search->domain->lo[k];
    }
  }
}

double error_search_run(error_search *search, qb_rng *rng, int rounds) {
  fill_start(search, rng);
  evaluate(search, ERROR_SEARCH_BATCH);
  int64_t first = 0, idle = 0;
  for (int round = 0; round < rounds && idle <= search->domain->count; round++) {
    fill_moves(search, rng, first);
    first = (first + ERROR_SEARCH_BATCH) % search->domain->count;
    idle = evaluate(search, ERROR_SEARCH_BATCH) ? 0 : idle + ERROR_SEARCH_BATCH;
  }
  return search->found;
}
