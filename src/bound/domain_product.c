/* Intervals and l2 norms side by side; see domain_product.h. */
#include "bound/domain_product.h"

#include <float.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/fault.h"
#include "bound/spectral_internal.h"

static double weight_of(const spectral *s, qb_value_id v, int64_t i) {
  const double *t = s->result->weights[v];
  return t == NULL ? 1 : t[qb_shape_channel(&s->pair->quantized->values[v].shape, i)];
}

/* Root of a sum of squares that was rounded to nearest. */
static double norm_up(double square, int64_t count) {
  return sqrt(square) * (1 + ((double)count + 32) * DBL_EPSILON) + (square > 0 ? DBL_MIN : 0);
}

/* Norms of the intervals: of d, and of x around the centre. */
static qb_spectral_state norms_of(const spectral *s, qb_value_id v, const qb_box_state *box) {
  const qb_box_track *x = &box->track[QB_TRACK_ORIGINAL], *d = &box->track[QB_TRACK_DIFFERENCE];
  const double *c = s->centre[v];
  double error = 0, spread = 0, peak = 0;
  for (int64_t i = 0; i < box->count; i++) {
    double t = weight_of(s, v, i), size = fmax(fmax(-d->lo[i], d->hi[i]), 0);
    double far = fmax(fmax(x->hi[i] - c[i], c[i] - x->lo[i]), 0);
    if (qb_bound_fault == QB_FAULT_PRODUCT_OTHER_CENTRE)
      far = 0.5 * (x->hi[i] - x->lo[i]);
    error += size / t * (size / t);
    spread += far / t * (far / t);
    peak = fmax(peak, size);
  }
  return (qb_spectral_state){.error = norm_up(error, box->count), .spread = norm_up(spread, box->count), .peak = peak};
}

/* |d_i| <= min(peak, t_i e), |x_i - c_i| <= t_i H; behind a layer also what its rows say. */
static void limit_intervals(const spectral *s, qb_value_id v, qb_box_state *box) {
  const qb_spectral_state *y = &s->result->states[v];
  qb_box_track *x = &box->track[QB_TRACK_ORIGINAL], *d = &box->track[QB_TRACK_DIFFERENCE];
  const double *c = s->centre[v];
  bool rows = s->limited != QB_NONE && s->pair->quantized->nodes[s->limited].output == v;
  for (int64_t i = 0; i < box->count; i++) {
    double t = weight_of(s, v, i), far = multiply_up(t, y->spread);
    double size = fmin(fmin(y->peak, multiply_up(t, y->error)), rows ? s->limits[i] : INFINITY);
    d->lo[i] = qb_larger(d->lo[i], -size);
    d->hi[i] = qb_smaller(d->hi[i], size);
    x->lo[i] = qb_larger(x->lo[i], qb_down(c[i] - far));
    x->hi[i] = qb_smaller(x->hi[i], qb_up(c[i] + far));
    qb_box_meet(box, i);
  }
}

/* Where there is no l2 rule any centre will do: the middle of the intervals. */
static void start_again(spectral *s, qb_value_id v, const qb_box_state *box) {
  const qb_box_track *x = &box->track[QB_TRACK_ORIGINAL];
  for (int64_t i = 0; i < box->count; i++) {
    double middle = 0.5 * x->lo[i] + 0.5 * x->hi[i];
    s->centre[v][i] = isfinite(middle) ? middle : 0;
  }
  s->result->states[v] = (qb_spectral_state){INFINITY, INFINITY, INFINITY};
}

static qb_status exchange(void *context, qb_box_result *result, qb_node_id id, qb_error *error) {
  spectral *s = context;
  qb_value_id v = s->pair->quantized->nodes[id].output;
  qb_box_state *box = &result->states[v];
  bool refused = false;
  (void)error; /* s has it */
  QB_TRY(spectral_visit(s, id, &refused));
  if (refused)
    start_again(s, v, box);
  qb_spectral_state *y = &s->result->states[v], other = norms_of(s, v, box);
  y->error = fmin(y->error, other.error);
  y->spread = fmin(y->spread, other.spread);
  y->peak = fmin(y->peak, other.peak);
  limit_intervals(s, v, box);
  return QB_OK;
}

static qb_status finish(const spectral *s, const qb_box_result *box, qb_product *product) {
  const qb_graph *graph = s->pair->quantized;
  double largest = 0;
  for (int32_t k = 0; k < graph->output_count; k++) {
    const qb_box_state *y = &box->states[graph->outputs[k]];
    const qb_box_track *d = &y->track[QB_TRACK_DIFFERENCE];
    for (int64_t i = 0; i < y->count; i++)
      largest = fmax(largest, fmax(-d->lo[i], d->hi[i]));
  }
  product->bound = (qb_bound){.applies = true, .value = qb_magnitude_from_double(largest)};
  const qb_box_state *y = &box->states[graph->outputs[0]];
  product->count = y->count;
  product->difference = qb_arena_alloc(&product->arena, (size_t)y->count, sizeof *product->difference);
  if (product->difference == NULL)
    return qb_fail_memory(s->error, "output ranges", (size_t)y->count * sizeof *product->difference);
  for (int64_t i = 0; i < y->count; i++)
    product->difference[i] = (qb_interval){y->track[QB_TRACK_DIFFERENCE].lo[i], y->track[QB_TRACK_DIFFERENCE].hi[i]};
  return QB_OK;
}

static qb_status walk(spectral *s, qb_product *product) {
  size_t most = 1;
  for (qb_value_id v = 0; v < s->pair->quantized->value_count; v++) {
    size_t count = qb_shape_elements(&s->pair->quantized->values[v].shape);
    most = count > most && !s->pair->quantized->values[v].is_constant ? count : most;
  }
  s->limits = qb_arena_alloc(&s->arena, most, sizeof *s->limits);
  if (s->limits == NULL)
    return qb_fail_memory(s->error, "limits of a layer", most * sizeof *s->limits);
  QB_TRY(spectral_begin(s));
  qb_box_result box;
  qb_status status = qb_bound_box_visited(s->pair, s->domain, exchange, s, &box, s->error);
  if (status == QB_OK && box.applies)
    status = finish(s, &box, product);
  else
    snprintf(product->bound.why, sizeof product->bound.why, "%s", box.why);
  qb_box_result_free(&box);
  return status;
}

qb_status qb_bound_product(const qb_pair *pair, const qb_domain *domain, qb_spectral_result *spectral_bound,
                           qb_product *product, qb_error *error) {
  qb_spectral_settings settings;
  qb_spectral_result result = {0};
  qb_sigma_memory memory = {{NULL}, {0}};
  qb_spectral_settings_default(&settings);
  settings.weights = false; /* without a bound to take them from */
  spectral s = {.pair = pair,
                .domain = domain,
                .settings = &settings,
                .result = &result,
                .limited = QB_NONE,
                .given = spectral_bound->bound.applies ? spectral_bound : NULL,
                .error = error,
                .memory = &memory};
  *product = (qb_product){0};
  qb_arena_init(&product->arena);
  qb_arena_init(&result.arena);
  qb_arena_init(&s.arena);
  qb_arena_init(&s.scratch);
  qb_status status = walk(&s, product);
  if (s.given == NULL) { /* these norms prove it */
    qb_spectral_result old = *spectral_bound;
    result.bound = old.bound;
    *spectral_bound = result;
    result = old;
  }
  qb_spectral_result_free(&result);
  qb_sigma_memory_free(&memory);
  qb_arena_free(&s.scratch);
  qb_arena_free(&s.arena);
  return status;
}

void qb_product_free(qb_product *product) {
  if (product == NULL)
    return;
  qb_arena_free(&product->arena);
  *product = (qb_product){0};
}
