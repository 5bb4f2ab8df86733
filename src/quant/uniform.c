/* The grids of the `uniform` scheme: evenly spaced values fitted to the range of the weights. */
#include <float.h>
#include <math.h>

#include "quant/grid.h"

/* The float32 scale for a step computed in double, rounded to nearest or up; floored where the weights are all zero or
 * so small that the scale would be subnormal. */
static float scale_from_step(double step, bool round_up) {
  float scale = (float)step;
  if (round_up && (double)scale < step)
    scale = nextafterf(scale, INFINITY);
  return scale >= FLT_MIN ? scale : FLT_MIN;
}

qb_grid qb_grid_symmetric(float magnitude, int bits, bool cover) {
  int32_t half = (int32_t)1 << (bits - 1);
  /* The lowest code lies outside min-max grids; it serves clipping (mse) ones. */
  qb_grid grid = {.scale = scale_from_step((double)magnitude / (double)(half - 1), cover), .lo = -half, .hi = half - 1};
  if (!isfinite(qb_grid_value(&grid, grid.hi))) /* only by the rounding of the scale */
    grid.scale = nextafterf(grid.scale, 0);
  qb_grid_keep_finite(&grid);
  return grid;
}

static qb_grid affine_grid(double step, double zero, int bits, bool round_up) {
  qb_grid grid = {.scale = scale_from_step(step, round_up),
                  .zero_point = (int32_t)zero,
                  .lo = 0,
                  .hi = (int32_t)(((int64_t)1 << bits) - 1)};
  qb_grid_keep_finite(&grid);
  return grid;
}

/* The smallest step with which both ends lie on or between the outer values, for a given zero point. */
static double covering_step(qb_range range, double zero, double codes) {
  double below = range.lo < 0 ? (zero > 0 ? -(double)range.lo / zero : INFINITY) : 0;
  double above = range.hi > 0 ? (zero < codes ? (double)range.hi / (codes - zero) : INFINITY) : 0;
  return fmax(below, above);
}

qb_grid qb_grid_affine(qb_range range, int bits, bool cover) {
  double codes = (double)(((int64_t)1 << bits) - 1);
  double step = ((double)range.hi - (double)range.lo) / codes;
  if (step == 0)
    return affine_grid(0, 0, bits, false);
  if (!cover) { /* the zero point belongs to the scale as it will be written */
    double scale = (double)scale_from_step(step, false);
    return affine_grid(step, fmin(rint(-(double)range.lo / scale), codes), bits, false);
  }
  double down = floor(-(double)range.lo / step), up = fmin(down + 1, codes);
  double step_down = covering_step(range, down, codes), step_up = covering_step(range, up, codes);
  return step_down <= step_up ? affine_grid(step_down, down, bits, true) : affine_grid(step_up, up, bits, true);
}
