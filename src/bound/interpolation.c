/* Weights of the trigonometric interpolation; see interpolation.h. */
#include "bound/interpolation.h"

#include <float.h>
#include <math.h>

#include "bound/fault.h"

/* D(2 pi f / n - 2 pi s / side) for f = 0..count-1, s = 0..side-1. The angle k (f side - s n) / (n side) is reduced in
 * integers. */
static void dirichlet(int64_t n, int64_t count, int64_t side, double *table, double *growth) {
  static const double TWO_PI = 6.28318530717958647692;
  *growth = 0;
  for (int64_t f = 0; f < count; f++) {
    double sum = 0;
    for (int64_t s = 0; s < side; s++) {
      double value = 1;
      for (int64_t k = 1; k <= side / 2; k++)
        value += 2 * cos(TWO_PI * (double)(k * (f * side - s * n) % (n * side)) / (double)(n * side));
      table[f * side + s] = value / (double)side;
      sum += fabs(table[f * side + s]);
    }
    *growth = fmax(*growth, sum);
  }
}

static void fill_weights(const qb_interpolation *in, const double *y, const double *x, int64_t half_torus) {
  int64_t half = in->side[1] / 2 + 1;
  for (int64_t i = 0; i < in->count; i++)
    for (int64_t j = 0; j < in->samples; j++) {
      int64_t fy = i / half_torus, fx = i % half_torus, sy = j / half, sx = j % half;
      double here = y[fy * in->side[0] + sy] * x[fx * in->side[1] + sx];
      double mirrored =
          sx == 0 ? 0 /* its mirror image is a sample of its own */
                  : y[fy * in->side[0] + (in->side[0] - sy) % in->side[0]] * x[fx * in->side[1] + in->side[1] - sx];
      in->even[i * in->samples + j] = here + mirrored;
      in->odd[i * in->samples + j] = here - mirrored;
    }
}

static int64_t grid_side(int64_t degree) {
  bool coarse = qb_bound_fault == QB_FAULT_COARSE_GRID && degree > 0;
  return 2 * degree + (coarse ? -1 : 1);
}

int64_t qb_interpolation_samples(const int64_t degree[2]) { return grid_side(degree[0]) * (degree[1] + 1); }

qb_status qb_interpolation_create(const int64_t torus[2], const int64_t degree[2], qb_arena *arena,
                                  qb_interpolation *interpolation, qb_error *error) {
  int64_t half_torus = torus[1] / 2 + 1, side[2] = {grid_side(degree[0]), grid_side(degree[1])};
  *interpolation = (qb_interpolation){.side = {side[0], side[1]},
                                      .samples = side[0] * (side[1] / 2 + 1),
                                      .count = torus[0] * half_torus};
  size_t weights = (size_t)interpolation->count * (size_t)interpolation->samples;
  double *y = qb_arena_alloc(arena, (size_t)(torus[0] * side[0]), sizeof *y), growth[2];
  double *x = qb_arena_alloc(arena, (size_t)(half_torus * side[1]), sizeof *x);
  interpolation->even = qb_arena_alloc(arena, weights, sizeof *interpolation->even);
  interpolation->odd = qb_arena_alloc(arena, weights, sizeof *interpolation->odd);
  if (y == NULL || x == NULL || interpolation->even == NULL || interpolation->odd == NULL)
    return qb_fail_memory(error, "interpolation weights", 2 * weights * sizeof *y);
  dirichlet(torus[0], torus[0], side[0], y, &growth[0]);
  dirichlet(torus[1], half_torus, side[1], x, &growth[1]);
  fill_weights(interpolation, y, x, half_torus);
  interpolation->growth = growth[0] * growth[1] * (1 + 1e-9);
  /* An angle below 2 pi is off by at most 4 roundings, so a cosine by at most 16 u, a sum of `side` of them over side
   * by (20 + side) u, all weights of an axis by side times that, and a product by growth times that of the other axis.
   */
  double unit = DBL_EPSILON / 2, off[2];
  for (int axis = 0; axis < 2; axis++)
    off[axis] = 2 * (double)side[axis] * (24 + (double)side[axis]) * unit;
  interpolation->rounding =
      1.01 * (off[0] * growth[1] + off[1] * growth[0] + off[0] * off[1] + 4 * unit * growth[0] * growth[1]);
  return QB_OK;
}
