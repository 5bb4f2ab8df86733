/* What grids have in common: values, codes, and the search for the clip with the least mean square error. */
#include "quant/grid.h"

#include <float.h>
#include <math.h>

/* Independent partial results in a fixed order: the compiler may use vectors without changing the outcome. */
enum { LANES = 8 };

static int32_t clip_code(const qb_grid *grid, double code) {
  double lo = grid->lo, hi = grid->hi;
  code = code < lo ? lo : code;
  return (int32_t)(code > hi ? hi : code);
}

/* The quotient of two float32 numbers in double has a tie only where the real quotient has one: a nearer quotient
 * differs from (k + 1/2), k below 2^17, by more than 2^-42 of it. */
int32_t qb_grid_nearest(const qb_grid *grid, float weight) {
  return clip_code(grid, rint((double)weight / (double)grid->scale) + grid->zero_point);
}

void qb_grid_nearest_run(const qb_grid *grid, const float *weights, size_t count, int32_t *codes) {
  qb_grid local = *grid; /* the compiler then knows that writing codes does not change it */
  for (size_t i = 0; i < count; i++)
    codes[i] = qb_grid_nearest(&local, weights[i]);
}

int32_t qb_grid_stochastic(const qb_grid *grid, float weight, qb_rng *rng) {
  double quotient = (double)weight / (double)grid->scale, below = floor(quotient);
  double up = qb_rng_double(rng) < quotient - below ? 1 : 0;
  return clip_code(grid, below + up + grid->zero_point);
}

void qb_grid_keep_finite(qb_grid *grid) {
  while (!isfinite(qb_grid_value(grid, grid->lo)))
    grid->lo++;
  while (!isfinite(qb_grid_value(grid, grid->hi)))
    grid->hi--;
}

qb_range qb_slice_range(const qb_slice *slice) {
  float lo[LANES] = {0}, hi[LANES] = {0};
  for (size_t r = 0; r < slice->runs; r++) {
    const float *run = slice->data + r * slice->stride;
    size_t i = 0;
    for (; i + LANES <= slice->length; i += LANES)
      for (size_t lane = 0; lane < LANES; lane++) {
        lo[lane] = run[i + lane] < lo[lane] ? run[i + lane] : lo[lane];
        hi[lane] = run[i + lane] > hi[lane] ? run[i + lane] : hi[lane];
      }
    for (; i < slice->length; i++) {
      lo[0] = run[i] < lo[0] ? run[i] : lo[0];
      hi[0] = run[i] > hi[0] ? run[i] : hi[0];
    }
  }
  qb_range range = {lo[0], hi[0]};
  for (size_t lane = 1; lane < LANES; lane++)
    range = (qb_range){fminf(range.lo, lo[lane]), fmaxf(range.hi, hi[lane])};
  return range;
}

/* ---------------------------------------------------------------------------------------------- square error */

enum { BLOCK = 1024 };

/* Sum of squared errors of `count` weights. The value is kept in double: its last rounding is far below the error. */
static double run_error(const qb_grid *grid, const float *weights, size_t count) {
  double scale = (double)grid->scale, lo = grid->lo - grid->zero_point, hi = grid->hi - grid->zero_point;
  double sums[LANES] = {0};
  size_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (size_t lane = 0; lane < LANES; lane++) {
      double w = (double)weights[i + lane], level = rint(w / scale);
      level = level < lo ? lo : level;
      level = level > hi ? hi : level;
      double error = level * scale - w;
      sums[lane] += error * error;
    }
  for (size_t lane = 0; i < count; i++, lane++) {
    double w = (double)weights[i], level = fmin(fmax(rint(w / scale), lo), hi), error = level * scale - w;
    sums[lane] += error * error;
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

double qb_grid_square_error(const qb_grid *grid, const qb_slice *slice, double limit) {
  double total = 0;
  for (size_t r = 0; r < slice->runs; r++)
    for (size_t i = 0; i < slice->length && total <= limit; i += BLOCK) {
      size_t left = slice->length - i;
      total += run_error(grid, slice->data + r * slice->stride + i, left < BLOCK ? left : BLOCK);
    }
  return total;
}

/* ------------------------------------------------------------------------------------------------- the choice */

enum { CLIP_RATIOS = 100, FIXED_POINT_STEPS = 12 };

qb_grid qb_grid_clipped(qb_range range, const qb_quantize_settings *settings, int bits, float ratio) {
  float magnitude = fmaxf(-range.lo, range.hi);
  bool cover = settings->scheme == QB_SCHEME_STOCHASTIC;
  if (settings->scheme == QB_SCHEME_ROUND)
    return qb_grid_fixed_point(ratio * magnitude, bits);
  if (!settings->affine)
    return qb_grid_symmetric(ratio * magnitude, bits, cover);
  return qb_grid_affine((qb_range){ratio * range.lo, ratio * range.hi}, bits, cover);
}

/* Candidate `i` of the clip search; candidate 0 is the min-max grid. */
static qb_grid candidate(qb_range range, const qb_quantize_settings *settings, int bits, int i) {
  bool halve = settings->scheme == QB_SCHEME_ROUND;
  return qb_grid_clipped(range, settings, bits, halve ? ldexpf(1, -i) : (float)(CLIP_RATIOS - i) / CLIP_RATIOS);
}

qb_grid qb_grid_choose(const qb_slice *slice, const qb_quantize_settings *settings, int bits) {
  qb_range range = qb_slice_range(slice);
  qb_grid best = candidate(range, settings, bits, 0);
  if (settings->grid == QB_GRID_MINMAX)
    return best;
  double best_error = qb_grid_square_error(&best, slice, INFINITY);
  int count = settings->scheme == QB_SCHEME_ROUND ? FIXED_POINT_STEPS : CLIP_RATIOS;
  for (int i = 1; i < count && best_error > 0; i++) {
    qb_grid grid = candidate(range, settings, bits, i);
    double error = qb_grid_square_error(&grid, slice, best_error);
    if (error < best_error) { /* ties keep the wider range */
      best = grid;
      best_error = error;
    }
  }
  return best;
}
