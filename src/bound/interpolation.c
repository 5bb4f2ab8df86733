/* Points and weights; see interpolation.h. */
#include "bound/interpolation.h"

#include <assert.h>
#include <float.h>
#include <math.h>

#include "bound/fault.h"

static const double UNIT = DBL_EPSILON / 2;

enum { MOST_PAIRS = 5 };

/* Alternating signs and these distances from 1 keep the weights small: times the size of the samples they grow like
 * 2.7^degree. Exact in binary. */
static const double PAIRS[MOST_PAIRS + 1][MOST_PAIRS] = {
    {0},
    {-1.8125},
    {-1.4375, 2.4375},
    {-1.3125, 1.75, -3.0625},
    {-1.21875, 1.609375, -2.09375, 3.46875},
    {-1.1875, 1.390625, -1.796875, 2.328125, -4.25},
};

/* --------------------------------------------------------------------------------------------------------- one axis */

/* The coefficients of z / p_s prod_{r != s} (z - p_r) / (p_s - p_r) over the finite points other than 0, which is 1 at
 * p_s and vanishes at the others and at 0, and in *magnitude those with |p_r| in place of -p_r. */
static void lagrange(const qb_points *p, int64_t s, double *poly, double *magnitude) {
  for (int64_t e = 0; e < p->count; e++)
    poly[e] = magnitude[e] = 0;
  poly[1] = 1 / p->at[s];
  magnitude[1] = fabs(poly[1]);
  for (int64_t r = 2; r < p->count; r++) {
    double root = p->at[r], scale = p->at[s] - root;
    if (r == s)
      continue;
    for (int64_t e = p->count - 1; e >= 1; e--) {
      poly[e] = (poly[e - 1] - root * poly[e]) / scale;
      magnitude[e] = (magnitude[e - 1] + fabs(root) * magnitude[e]) / fabs(scale);
    }
  }
}

/* The values at 0 and infinity are the outer coefficients a_0 and a_D; the rest, less a_0 + a_D z^D at the other
 * points, has the form above. A reciprocal carries one rounding, a difference of two points, which lie more than 0.15
 * apart and below 5, at most 40, so that magnitudes take up to 80 per factor. */
static void fill_coefficients(qb_points *p) {
  int64_t last = p->count - 1;
  p->coefficient[0][0] = p->coefficient[last][last == 0 ? 0 : 1] = 1;
  for (int64_t s = 2; s < p->count; s++) {
    double poly[QB_POINTS_MOST], magnitude[QB_POINTS_MOST], top = pow(p->at[s], (double)last);
    lagrange(p, s, poly, magnitude);
    for (int64_t e = 1; e < last; e++) {
      double off = 100 * (double)p->count * UNIT * magnitude[e];
      p->coefficient[e][s] = poly[e];
      p->rounding[e][s] = off;
      p->coefficient[e][0] -= poly[e];
      p->rounding[e][0] += 2 * off;
      p->coefficient[e][1] -= poly[e] * top;
      p->rounding[e][1] += 2 * off * fabs(top);
    }
  }
}

bool qb_points_create(int64_t degree, qb_points *points) {
  int64_t half = (degree + 1) / 2;
  *points = (qb_points){.count = 2 * half + 1};
  if (points->count > QB_POINTS_MOST)
    return false;
  if (half == 0) { /* one point: anything but a pole */
    points->at[0] = 1;
    points->coefficient[0][0] = 1;
    return true;
  }
  points->at[0] = 0;
  points->at[1] = INFINITY;
  for (int64_t k = 0; k < half - 1; k++) {
    points->at[2 + 2 * k] = PAIRS[half - 1][k];
    points->at[3 + 2 * k] = 1 / PAIRS[half - 1][k];
  }
  points->at[points->count - 1] = 1;
  fill_coefficients(points);
  return true;
}

int64_t qb_points_inverse(const qb_points *points, int64_t point) {
  return point == points->count - 1 ? point : point ^ 1;
}

double qb_points_power(const qb_points *points, int64_t point, int64_t e, int64_t degree) {
  double x = points->at[point], power = 1;
  if (x == 0 || isinf(x))
    return e == (x == 0 ? 0 : degree) ? 1 : 0;
  for (int64_t k = 0; k < e; k++)
    power *= x;
  return power;
}

/* --------------------------------------------------------------------------------------------------------- two axes */

/* What a point of one axis contributes at one frequency. */
typedef struct axis_weight {
  double re, im, size, off;
} axis_weight;

/* sum over e of coefficient[e][s] z^(e - degree) at z = exp(2 pi i f / n), and its error: an angle below 2 pi is off by
 * at most 4 roundings, its cosine by 16, the sum by its terms. */
static axis_weight weight_of(const qb_points *p, int64_t degree, int64_t s, int64_t f, int64_t n) {
  static const double TWO_PI = 6.28318530717958647692;
  axis_weight w = {0};
  for (int64_t e = 0; e < p->count; e++) {
    double c = p->coefficient[e][s], angle = TWO_PI * (double)(f * (((e - degree) % n + n) % n) % n) / (double)n;
    w.re += c * cos(angle);
    w.im += c * sin(angle);
    w.off += 2 * p->rounding[e][s] + fabs(c) * 2 * (32 + (double)p->count) * UNIT;
  }
  w.size = fabs(w.re) + fabs(w.im);
  return w;
}

/* (frequencies, points) of one axis. */
static axis_weight *axis_weights(const qb_interpolation *in, int axis, int64_t n, int64_t frequencies,
                                 qb_arena *arena) {
  const qb_points *p = &in->points[axis];
  axis_weight *weights = qb_arena_alloc(arena, (size_t)(frequencies * p->count), sizeof *weights);
  for (int64_t f = 0; weights != NULL && f < frequencies; f++)
    for (int64_t s = 0; s < p->count; s++)
      weights[f * p->count + s] = weight_of(p, in->degree[axis], s, f, n);
  return weights;
}

static void fill_weights(const qb_interpolation *in, const axis_weight *y_weights, const axis_weight *x_weights,
                         int64_t half) {
  for (int64_t i = 0; i < in->count; i++)
    for (int64_t j = 0; j < in->samples; j++) {
      axis_weight y = y_weights[i / half * in->points[0].count + in->sample[j][0]];
      axis_weight x = x_weights[i % half * in->points[1].count + in->sample[j][1]];
      in->even[i * in->samples + j] = y.re * x.re - y.im * x.im;
      in->odd[i * in->samples + j] = y.re * x.im + y.im * x.re;
      in->off[i * in->samples + j] =
          1.01 * (y.off * x.size + y.size * x.off + y.off * x.off + 8 * UNIT * y.size * x.size);
    }
}

/* One of every two reciprocal pairs of points, the one that is its own reciprocal last. */
static void choose_samples(qb_interpolation *in) {
  int64_t count = 0;
  for (int64_t i = 0; i < in->points[0].count; i++)
    for (int64_t j = 0; j < in->points[1].count; j++) {
      int64_t y = qb_points_inverse(&in->points[0], i), x = qb_points_inverse(&in->points[1], j);
      bool first = i < y || (i == y && j <= x);
      if (first) {
        in->sample[count][0] = (int32_t)i;
        in->sample[count++][1] = (int32_t)j;
      }
    }
  assert(count == in->samples);
}

/* The planted fault takes one degree less. */
static int64_t degree_of(int64_t degree) {
  return qb_bound_fault == QB_FAULT_COARSE_GRID && degree > 0 ? degree - 1 : degree;
}

int64_t qb_interpolation_samples(const int64_t degree[2]) {
  int64_t points[2] = {2 * degree_of(degree[0]) + 1, 2 * degree_of(degree[1]) + 1};
  return points[0] > QB_POINTS_MOST || points[1] > QB_POINTS_MOST ? 0 : (points[0] * points[1] + 1) / 2;
}

qb_status qb_interpolation_create(const int64_t torus[2], const int64_t degree[2], qb_arena *arena,
                                  qb_interpolation *interpolation, qb_error *error) {
  qb_interpolation *in = interpolation;
  *in = (qb_interpolation){.samples = qb_interpolation_samples(degree), .count = torus[0] * (torus[1] / 2 + 1)};
  for (int axis = 0; axis < 2; axis++) {
    in->degree[axis] = degree_of(degree[axis]);
    bool known = qb_points_create(2 * in->degree[axis], &in->points[axis]);
    assert(known);
    (void)known;
  }
  size_t weights = (size_t)in->count * (size_t)in->samples;
  in->sample = qb_arena_alloc(arena, (size_t)in->samples, sizeof *in->sample);
  in->even = qb_arena_alloc(arena, weights, sizeof *in->even);
  in->odd = qb_arena_alloc(arena, weights, sizeof *in->odd);
  in->off = qb_arena_alloc(arena, weights, sizeof *in->off);
  if (in->sample == NULL || in->even == NULL || in->odd == NULL || in->off == NULL)
    return qb_fail_memory(error, "interpolation weights", 3 * weights * sizeof *in->even);
  choose_samples(in);
  int64_t half = torus[1] / 2 + 1;
  axis_weight *y = axis_weights(in, 0, torus[0], torus[0], arena), *x = axis_weights(in, 1, torus[1], half, arena);
  if (y == NULL || x == NULL)
    return qb_fail_memory(error, "interpolation weights", (size_t)(torus[0] + half) * QB_POINTS_MOST * sizeof *y);
  fill_weights(in, y, x, half);
  return QB_OK;
}

/* A sample enters twice, as S and S^T, with the real and the imaginary part of its weight. */
double qb_interpolation_lost(const qb_interpolation *in, const double *size, double relative) {
  double most = 0;
  for (int64_t i = 0; i < in->count; i++) {
    double lost = 0;
    for (int64_t j = 0; j < in->samples; j++) {
      double off = in->off[i * in->samples + j];
      double weight = fabs(in->even[i * in->samples + j]) + fabs(in->odd[i * in->samples + j]) + off;
      lost += 2 * (weight * relative + 1.5 * off) * size[j];
    }
    most = fmax(most, lost);
  }
  return 1.01 * most;
}
