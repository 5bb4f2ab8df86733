/* The fixed-point grid of the `round` scheme: q(w) = round(2^f w) / 2^f. */
#include <float.h>
#include <math.h>

#include "quant/grid.h"

/* ceil(log2 x) for x > 0, exactly: x = m 2^e with m in [1/2, 1), and only m = 1/2 is a power of two. */
static int ceil_log2(float x) {
  int exponent;
  float mantissa = frexpf(x, &exponent);
  return mantissa == 0.5f ? exponent - 1 : exponent;
}

qb_grid qb_grid_fixed_point(float magnitude, int bits) {
  const int largest_f = -FLT_MIN_EXP + 1; /* 2^-126 is the smallest normal float32 */
  int f = magnitude > 0 ? bits - 1 - ceil_log2(magnitude) : largest_f;
  if (f > largest_f)
    f = largest_f;
  int32_t half = (int32_t)1 << (bits - 1);
  qb_grid grid = {.scale = ldexpf(1, -f), .lo = -half, .hi = half - 1};
  qb_grid_keep_finite(&grid);
  return grid;
}
