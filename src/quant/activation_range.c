/* Limits, histogram and choice of activation grids; see activation_range.h. */
#include "quant/activation_range.h"

#include <float.h>
#include <math.h>

typedef struct limits {
  double lo, hi;
} limits;

bool qb_activation_range_widen(qb_activation_range *range, const float *x, size_t count) {
  float lo = range->lo, hi = range->hi;
  bool finite = true;
  for (size_t i = 0; i < count; i++) {
    finite = finite && isfinite(x[i]);
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
  }
  range->lo = lo;
  range->hi = hi;
  return finite;
}

void qb_activation_range_count(qb_activation_range *range, const float *x, size_t count) {
  double lo = range->lo, width = (double)range->hi - lo;
  double per_unit = width > 0 ? QB_RANGE_BINS / width : 0;
  for (size_t i = 0; i < count; i++) {
    if (x[i] == 0) {
      range->zeros++;
      continue;
    }
    double bin = ((double)x[i] - lo) * per_unit;
    range->bins[bin < QB_RANGE_BINS - 1 ? (bin > 0 ? (int)bin : 0) : QB_RANGE_BINS - 1]++;
  }
  range->count += (int64_t)count;
}

static double bin_width(const qb_activation_range *range) {
  return ((double)range->hi - (double)range->lo) / QB_RANGE_BINS;
}

/* The limits outside which at most a share 1 - percentile of all numbers lies on each side; 0 stays inside. */
static limits percentile_limits(const qb_activation_range *range, double percentile) {
  int64_t allowed = (int64_t)floor((1 - percentile) * (double)range->count);
  double width = bin_width(range);
  limits result = {range->lo, range->hi};
  int64_t below = 0, above = 0;
  int first = 0, last = QB_RANGE_BINS - 1;
  while (first < QB_RANGE_BINS && (below += range->bins[first]) <= allowed)
    first++;
  while (last >= 0 && (above += range->bins[last]) <= allowed)
    last--;
  if (first > 0)
    result.lo = fmin(0, range->lo + first * width);
  if (last < QB_RANGE_BINS - 1)
    result.hi = fmax(0, range->lo + (last + 1) * width);
  return result;
}

/* Sum over all numbers of the expected (x' - x)^2: step^2 / 12 inside the limits (0 itself is exact), the distance to
 * the nearest limit outside. */
static double expected_error(const qb_activation_range *range, limits at, int bits) {
  double step = (at.hi - at.lo) / (double)((1 << bits) - 1), width = bin_width(range), sum = 0;
  for (int i = 0; i < QB_RANGE_BINS; i++) {
    double centre = range->lo + (i + 0.5) * width;
    double outside = centre < at.lo ? at.lo - centre : centre > at.hi ? centre - at.hi : 0;
    sum += (double)range->bins[i] * (outside > 0 ? outside * outside : step * step / 12);
  }
  return sum;
}

/* Tries shares of one limit, the other fixed. */
static void improve_limit(const qb_activation_range *range, limits *best, double *error, bool upper, int bits) {
  enum { SHARES = 100 };
  for (int k = 1; k <= SHARES; k++) {
    limits candidate = *best;
    if (upper)
      candidate.hi = range->hi * (double)k / SHARES;
    else
      candidate.lo = range->lo * (double)k / SHARES;
    double found = expected_error(range, candidate, bits);
    if (found < *error) {
      *error = found;
      *best = candidate;
    }
  }
}

/* One limit after the other, twice, from min-max on: never worse than that. */
static limits mean_square_limits(const qb_activation_range *range, int bits) {
  limits best = {range->lo, range->hi};
  double error = expected_error(range, best, bits);
  for (int round = 0; round < 2; round++) {
    if (range->hi > 0)
      improve_limit(range, &best, &error, true, bits);
    if (range->lo < 0)
      improve_limit(range, &best, &error, false, bits);
  }
  return best;
}

qb_activation_grid qb_activation_grid_choose(const qb_activation_range *range, qb_range_rule rule, double percentile,
                                             int bits) {
  limits at = {range->lo, range->hi};
  if (range->bins != NULL && rule == QB_RANGE_PERCENTILE)
    at = percentile_limits(range, percentile);
  else if (range->bins != NULL && rule == QB_RANGE_MSE)
    at = mean_square_limits(range, bits);
  double levels = (double)((1 << bits) - 1);
  qb_activation_grid grid = {.bits = bits, .scale = (float)((at.hi - at.lo) / levels)};
  if (!(grid.scale >= FLT_MIN)) /* nothing but zeros, or so small that division would lose it */
    grid.scale = at.hi > at.lo ? FLT_MIN : 1;
  grid.zero_point = (int32_t)fmin(levels, fmax(0, rint(-at.lo / (double)grid.scale)));
  return grid;
}
