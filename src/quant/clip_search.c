/* The clip of each grid that changes the layer's output least: candidates are tried with the rounding that will be
 * used (gptq, its restriction to neighbours for adaround, nearest otherwise), not with the mean square of weights. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/calibrator.h"
#include "quant/gptq.h"

enum { CANDIDATES = 18 };
static const float ratio_step = 0.04f; /* 1, 0.96, .. 0.32 of the range; the first candidate is the grid as it is */

typedef struct clip_search {
  calibrated_layer *layer;
  qb_grid *grids; /* (CANDIDATES, parts) */
  double *losses; /* (CANDIDATES, OC) */
  int32_t *codes; /* (R, K) scratch */
  size_t parts, outputs;
} clip_search;

static qb_status search_create(calibrated_layer *layer, clip_search *s, qb_error *error) {
  const qb_gram *gram = layer->gram;
  *s = (clip_search){.layer = layer, .parts = layer->codes->cut.count, .outputs = gram->groups * gram->rows};
  s->grids = qb_alloc(CANDIDATES * s->parts, sizeof *s->grids);
  s->losses = qb_alloc(CANDIDATES * s->outputs, sizeof *s->losses);
  s->codes = qb_alloc(gram->rows * gram->length, sizeof *s->codes);
  if (s->grids == NULL || s->losses == NULL || s->codes == NULL)
    return qb_fail_memory(error, "the search for clips", CANDIDATES * s->outputs * sizeof *s->losses);
  return QB_OK;
}

static void search_free(clip_search *s) {
  qb_free(s->grids);
  qb_free(s->losses);
  qb_free(s->codes);
}

static void make_candidates(clip_search *s) {
  const qb_quantize_settings *settings = &s->layer->calibrator->settings;
  qb_layer_codes *codes = s->layer->codes;
  for (size_t part = 0; part < s->parts; part++) {
    qb_slice slice = qb_cut_slice(&codes->cut, s->layer->weights, part);
    qb_range range = qb_slice_range(&slice);
    s->grids[part] = codes->grids[part];
    for (int c = 1; c < CANDIDATES; c++) {
      float ratio = settings->scheme == QB_SCHEME_ROUND ? ldexpf(1, 1 - c) : 1 - ratio_step * (float)(c - 1);
      s->grids[(size_t)c * s->parts + part] = qb_grid_clipped(range, settings, codes->bits, ratio);
    }
  }
}

static void try_candidate(clip_search *s, size_t group, size_t candidate) {
  const qb_rounding *p = &s->layer->problem;
  const qb_grid *grids = qb_calibrated_grids(s->layer, s->grids + candidate * s->parts, group);
  double *losses = s->losses + candidate * s->outputs + group * p->rows;
  qb_scheme scheme = s->layer->calibrator->settings.scheme;
  if (scheme == QB_SCHEME_GPTQ || scheme == QB_SCHEME_ADAROUND) {
    qb_gptq(p, grids, scheme == QB_SCHEME_ADAROUND, s->codes, losses);
    return;
  }
  for (size_t row = 0; row < p->rows; row++)
    qb_grid_nearest_run(qb_rounding_grid(p, grids, row), p->weights + row * p->length, p->length,
                        s->codes + row * p->length);
  qb_rounding_errors(p, grids, s->codes, losses);
}

/* Losses of the rows of a part with a candidate. */
static double part_loss(const clip_search *s, size_t candidate, size_t part) {
  double sum = 0;
  size_t first = s->parts == 1 ? 0 : part, end = s->parts == 1 ? s->outputs : part + 1;
  for (size_t o = first; o < end; o++)
    sum += s->losses[candidate * s->outputs + o];
  return sum;
}

static void choose(clip_search *s) {
  for (size_t part = 0; part < s->parts; part++) {
    size_t best = 0;
    for (size_t c = 1; c < CANDIDATES; c++)
      if (part_loss(s, c, part) < part_loss(s, best, part))
        best = c;
    s->layer->codes->grids[part] = s->grids[best * s->parts + part];
  }
}

qb_status qb_calibrated_search_clips(calibrated_layer *layer, qb_error *error) {
  clip_search s;
  qb_status status = search_create(layer, &s, error);
  if (status == QB_OK)
    make_candidates(&s);
  for (size_t g = 0; status == QB_OK && g < layer->gram->groups; g++) {
    status = qb_calibrated_load(layer, g, error);
    for (size_t c = 0; status == QB_OK && c < CANDIDATES; c++)
      try_candidate(&s, g, c);
  }
  if (status == QB_OK)
    choose(&s);
  search_free(&s);
  return status;
}
