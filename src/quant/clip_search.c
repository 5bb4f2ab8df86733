/* The clip of each grid that changes the layer's output least: candidates are tried with the rounding that will be
 * used (gptq, its restriction to neighbours for adaround, nearest otherwise), not with the mean square of weights. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/ranks.h"
#include "quant/calibrator.h"
#include "quant/gptq.h"

/* Shares of the range from 1 down, COARSE of them COARSE_STEP apart; then each grid's best is tried with one step more
 * and one less, and steps half as wide again. Powers of two have no steps between. */
enum { COARSE = 5, FINE = 2, POWERS = 8 };
static const float COARSE_STEP = 0.16f;

typedef struct clip_search {
  calibrated_layer *layer;
  float *ratios;          /* (parts) of the best grids */
  qb_grid *best, *tried;  /* (parts) */
  double *least, *losses; /* (OC) of the best grids, of those being tried */
  int32_t *codes;         /* (R, K) scratch */
  size_t parts, outputs;
} clip_search;

static qb_status search_create(calibrated_layer *layer, clip_search *s, qb_error *error) {
  const qb_gram *gram = layer->gram;
  *s = (clip_search){.layer = layer, .parts = layer->codes->cut.count, .outputs = gram->groups * gram->rows};
  if ((s->ratios = qb_alloc(s->parts, sizeof *s->ratios)) == NULL ||
      (s->best = qb_alloc(s->parts, sizeof *s->best)) == NULL ||
      (s->tried = qb_alloc(s->parts, sizeof *s->tried)) == NULL ||
      (s->least = qb_alloc(s->outputs, sizeof *s->least)) == NULL ||
      (s->losses = qb_alloc(s->outputs, sizeof *s->losses)) == NULL ||
      (s->codes = qb_alloc(gram->rows * gram->length, sizeof *s->codes)) == NULL)
    return qb_fail_memory(error, "the search for clips", gram->rows * gram->length * sizeof *s->codes);
  return QB_OK;
}

static void search_free(clip_search *s) {
  qb_free(s->ratios);
  qb_free(s->best);
  qb_free(s->tried);
  qb_free(s->least);
  qb_free(s->losses);
  qb_free(s->codes);
}

static qb_grid clipped(const clip_search *s, size_t part, float ratio) {
  const qb_layer_codes *codes = s->layer->codes;
  qb_slice slice = qb_cut_slice(&codes->cut, s->layer->weights, part);
  return qb_grid_clipped(qb_slice_range(&slice), &s->layer->calibrator->settings, codes->bits, ratio);
}

/* Losses of some rows with the grids that are tried. */
static void try_rows(clip_search *s, const qb_rounding *p, const qb_grid *grids, double *losses) {
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

/* Losses of a group's rows, which ranks share out. */
static qb_status try_group(clip_search *s, size_t group, qb_error *error) {
  const qb_rounding *p = &s->layer->problem;
  const qb_grid *grids = qb_calibrated_grids(s->layer, s->tried, group);
  double *losses = s->losses + group * p->rows;
  size_t groups = s->layer->gram->groups;
  qb_row_share own = qb_rounding_share(groups, group, p->rows, qb_rank());
  if (own.count > 0) {
    qb_rounding part = qb_rounding_rows(p, own.first, own.count);
    try_rows(s, &part, qb_rounding_grid(p, grids, own.first), losses + own.first);
  }
  for (int rank = 0; rank < qb_rank_count(); rank++) {
    qb_row_share share = qb_rounding_share(groups, group, p->rows, rank);
    QB_TRY(qb_ranks_share(losses + share.first, share.count * sizeof *losses, rank, error));
  }
  return QB_OK;
}

static double part_loss(const clip_search *s, const double *losses, size_t part) {
  double sum = 0;
  size_t first = s->parts == 1 ? 0 : part, end = s->parts == 1 ? s->outputs : part + 1;
  for (size_t o = first; o < end; o++)
    sum += losses[o];
  return sum;
}

/* The groups that are decided together, and their parts. */
typedef struct scope {
  size_t group, groups, part, parts;
} scope;

/* Tries `ratio` of the range or, where that is 0, the best one + `step` where that lies in (0, 1]; keeps what is
 * better. */
static qb_status try_ratio(clip_search *s, const scope *at, float ratio, float step, qb_error *error) {
  for (size_t part = at->part; part < at->part + at->parts; part++) {
    float wanted = ratio > 0 ? ratio : s->ratios[part] + step;
    bool same = ratio <= 0 && step == 0; /* the grid that the layer came with */
    s->tried[part] = !same && wanted > 0 && wanted <= 1 ? clipped(s, part, wanted) : s->best[part];
  }
  for (size_t g = at->group; g < at->group + at->groups; g++) {
    QB_TRY(qb_calibrated_load(s->layer, g, error));
    QB_TRY(try_group(s, g, error));
  }
  for (size_t part = at->part; part < at->part + at->parts; part++) {
    if (!(part_loss(s, s->losses, part) < part_loss(s, s->least, part)))
      continue;
    s->best[part] = s->tried[part];
    s->ratios[part] = ratio > 0 ? ratio : s->ratios[part] + step;
    size_t first = s->parts == 1 ? 0 : part, count = s->parts == 1 ? s->outputs : 1;
    memcpy(s->least + first, s->losses + first, count * sizeof *s->least);
  }
  return QB_OK;
}

/* The grid as it is counts as the whole range. */
static qb_status start_scope(clip_search *s, const scope *at, qb_error *error) {
  size_t rows = s->layer->gram->rows;
  for (size_t o = at->group * rows; o < (at->group + at->groups) * rows; o++)
    s->least[o] = INFINITY;
  for (size_t part = at->part; part < at->part + at->parts; part++) {
    s->best[part] = s->layer->codes->grids[part];
    s->ratios[part] = 1;
  }
  return try_ratio(s, at, 0, 0, error);
}

static qb_status search_scope(clip_search *s, const scope *at, qb_error *error) {
  QB_TRY(start_scope(s, at, error));
  bool powers = s->layer->calibrator->settings.scheme == QB_SCHEME_ROUND;
  for (int i = 0; i < (powers ? POWERS : COARSE); i++)
    QB_TRY(try_ratio(s, at, powers ? ldexpf(1, -i) : 1 - COARSE_STEP * (float)i, 0, error));
  float step = COARSE_STEP;
  for (int i = 0; i < FINE && !powers; i++) {
    step /= 2;
    QB_TRY(try_ratio(s, at, 0, -step, error));
    QB_TRY(try_ratio(s, at, 0, step, error));
  }
  memcpy(s->layer->codes->grids + at->part, s->best + at->part, at->parts * sizeof *s->best);
  return QB_OK;
}

/* Per channel group by group, per tensor all groups at once. */
qb_status qb_calibrated_search_clips(calibrated_layer *layer, qb_error *error) {
  clip_search s;
  qb_status status = search_create(layer, &s, error);
  size_t groups = layer->gram->groups, rows = layer->gram->rows;
  for (size_t g = 0; status == QB_OK && g < (s.parts == 1 ? 1 : groups); g++) {
    scope at = s.parts == 1 ? (scope){0, groups, 0, 1} : (scope){g, 1, g * rows, rows};
    status = search_scope(&s, &at, error);
  }
  search_free(&s);
  return status;
}
