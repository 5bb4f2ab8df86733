/* Grids: the real numbers that the codes of one scale stand for, and the choice of scale and zero point (theory 6).
 *
 *   round    fixed point: symmetric, the scale is a power of two                       round.c
 *   uniform  symmetric (codes around 0) or affine (a zero point, 0 is on the grid)     uniform.c
 *
 * Everything is deterministic and independent of the machine: quotients in double, values in float32 as an ONNX
 * DequantizeLinear computes them. Requires rounding to nearest. */
#ifndef QB_QUANT_GRID_H
#define QB_QUANT_GRID_H

#include <qbound/qbound.h>

#include "base/rng.h"

/* The grid of one scale: value(code) = scale * (code - zero_point) for lo <= code <= hi. Every value is finite in
 * float32 and 0 is one of them. */
typedef struct qb_grid {
  float scale; /* >= FLT_MIN: no runtime flushes it to zero */
  int32_t zero_point;
  int32_t lo, hi; /* within [-2^(bits-1), 2^(bits-1) - 1] or, affine, [0, 2^bits - 1] */
} qb_grid;

/* Weights that share one scale, cut out of a dense tensor: `runs` pieces of `length` floats, `stride` apart. */
typedef struct qb_slice {
  const float *data;
  size_t runs, length, stride;
} qb_slice;

/* Smallest and largest weight of a slice, 0 included: lo <= 0 <= hi. */
typedef struct qb_range {
  float lo, hi;
} qb_range;

qb_range qb_slice_range(const qb_slice *slice);

/* The float32 value of a code: the difference is exact, the product is rounded once. */
static inline float qb_grid_value(const qb_grid *grid, int32_t code) {
  return grid->scale * (float)(code - grid->zero_point);
}

/* The code nearest to `weight`, clipped to [lo, hi]; ties go to the even quotient, as ONNX QuantizeLinear rounds. */
int32_t qb_grid_nearest(const qb_grid *grid, float weight);

/* qb_grid_nearest of `count` weights. */
void qb_grid_nearest_run(const qb_grid *grid, const float *weights, size_t count, int32_t *codes);

/* Rounds weight / scale down or up at random so that the mean is weight / scale, then clips. A `weight` on the grid
 * stays. */
int32_t qb_grid_stochastic(const qb_grid *grid, float weight, qb_rng *rng);

/* Fixed point with step 2^-f, f = bits - 1 - ceil(log2 max|w|), all 2^bits codes. The largest weight may clip:
 * |w' - w| <= scale. `magnitude` = max |w|. f stays at most 126, so that the step is a normal float. */
qb_grid qb_grid_fixed_point(float magnitude, int bits);

/* scale = magnitude / (2^(bits-1) - 1). A weight within the magnitude is at most scale / 2 from its value, but for the
 * roundings of scale and value (2^-23 of the magnitude). With `cover` the scale is rounded up, so that rounding a
 * weight up or down never clips. */
qb_grid qb_grid_symmetric(float magnitude, int bits, bool cover);

/* scale = (hi - lo) / (2^bits - 1), zero point = round(-lo / scale); the same precision. With `cover`, scale is made
 * just large enough for lo and hi to lie between the outer values. A code at an end whose value would overflow float32
 * is left out (ranges near FLT_MAX: the error may then reach scale). */
qb_grid qb_grid_affine(qb_range range, int bits, bool cover);

/* The grid of a range shrunk to `ratio` (0 < ratio <= 1) of itself: scheme (ROUND or not), affine as the settings say.
 */
qb_grid qb_grid_clipped(qb_range range, const qb_quantize_settings *settings, int bits, float ratio);

/* The grid that the settings ask for: scheme (ROUND or not), affine, min-max or mse (also where the settings want the
 * least change of outputs: that search starts from this grid). */
qb_grid qb_grid_choose(const qb_slice *slice, const qb_quantize_settings *settings, int bits);

/* Sum of (value - w)^2 over a slice rounded to nearest. Stops early, with a larger number, once above `limit`. */
double qb_grid_square_error(const qb_grid *grid, const qb_slice *slice, double limit);

/* Leaves out codes at the ends whose value would overflow float32. */
void qb_grid_keep_finite(qb_grid *grid);

#endif
