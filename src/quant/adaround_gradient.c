/* The published soft-relaxation solver of adaround, on the quadratic form; see adaround.h. */
#include <cblas.h>
#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/adaround.h"

/* The stretch of the rectified sigmoid (Louizos et al. 2018) and Adam's constants, as published. */
static const double ZETA = 1.1, GAMMA = -0.1, BETA1 = 0.9, BETA2 = 0.999, EPSILON = 1e-8, WARM_UP = 0.2;

void qb_gradient_settings_default(qb_gradient_settings *settings) {
  *settings = (qb_gradient_settings){.steps = 10000, .regularization = 0.01, .rate = 0.01};
}

typedef struct relaxation {
  const qb_rounding *p;
  const qb_grid *grids;
  float *v, *first, *second; /* (R, K) variables and Adam's moments */
  float *h;                  /* (R, K) in [0, 1] */
  float *errors, *gradient;  /* (R, K) */
} relaxation;

static void relaxation_free(relaxation *x) {
  float *all[] = {x->v, x->first, x->second, x->h, x->errors, x->gradient};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    qb_free(all[i]);
}

static qb_status relaxation_create(const qb_rounding *p, const qb_grid *grids, relaxation *x, qb_error *error) {
  size_t count = p->rows * p->length;
  *x = (relaxation){.p = p, .grids = grids};
  if ((x->v = qb_alloc(count, sizeof(float))) == NULL || (x->first = qb_alloc(count, sizeof(float))) == NULL ||
      (x->second = qb_alloc(count, sizeof(float))) == NULL || (x->h = qb_alloc(count, sizeof(float))) == NULL ||
      (x->errors = qb_alloc(count, sizeof(float))) == NULL || (x->gradient = qb_alloc(count, sizeof(float))) == NULL) {
    relaxation_free(x);
    return qb_fail_memory(error, "the gradient solver", count * 6 * sizeof(float));
  }
  return QB_OK;
}

static double sigmoid(double v) { return 1 / (1 + exp(-v)); }

static double rectify(double v) { return fmin(fmax(sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0), 1); }

/* Starts where the relaxation equals the float weight. */
static void start(relaxation *x) {
  const qb_rounding *p = x->p;
  for (size_t row = 0; row < p->rows; row++) {
    double scale = (double)qb_rounding_grid(p, x->grids, row)->scale;
    for (size_t at = row * p->length; at < (row + 1) * p->length; at++) {
      double quotient = (double)p->weights[at] / scale, rest = quotient - floor(quotient);
      x->v[at] = (float)-log((ZETA - GAMMA) / (rest - GAMMA) - 1);
    }
  }
}

/* h, e = s (lo + h (hi - lo) - zero) - t and A e of some rows. */
static void forward(relaxation *x, size_t first, size_t rows) {
  const qb_rounding *p = x->p;
  for (size_t row = first; row < first + rows; row++) {
    const qb_grid *grid = qb_rounding_grid(p, x->grids, row);
    for (size_t at = row * p->length; at < (row + 1) * p->length; at++) {
      int32_t lo, hi;
      qb_rounding_neighbours(grid, p->weights[at], &lo, &hi);
      x->h[at] = (float)rectify((double)x->v[at]);
      x->errors[at] = grid->scale * ((float)(lo - grid->zero_point) + x->h[at] * (float)(hi - lo)) - p->target[at];
    }
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)p->length, (int)p->length, 1,
              x->errors + first * p->length, (int)p->length, p->a, (int)p->length, 0, x->gradient + first * p->length,
              (int)p->length);
}

/* The slope of regularization sum(1 - |2h - 1|^beta) in h. */
static double regularization_slope(double h, double beta) {
  double centred = 2 * h - 1;
  return -2 * beta * copysign(pow(fabs(centred), beta - 1), centred);
}

static void adam(relaxation *x, size_t row, const qb_gradient_settings *settings, int step, double weight,
                 double beta) {
  const qb_rounding *p = x->p;
  const qb_grid *grid = qb_rounding_grid(p, x->grids, row);
  double correct1 = 1 - pow(BETA1, step + 1), correct2 = 1 - pow(BETA2, step + 1);
  for (size_t at = row * p->length; at < (row + 1) * p->length; at++) {
    int32_t lo, hi;
    qb_rounding_neighbours(grid, p->weights[at], &lo, &hi);
    double s = sigmoid((double)x->v[at]), h = s * (ZETA - GAMMA) + GAMMA;
    double slope = h > 0 && h < 1 ? s * (1 - s) * (ZETA - GAMMA) : 0; /* dh/dv */
    double g = 2 * (double)x->gradient[at] * (double)grid->scale * (hi - lo);
    if (weight > 0)
      g += weight * regularization_slope((double)x->h[at], beta);
    g *= slope;
    double m = BETA1 * (double)x->first[at] + (1 - BETA1) * g, u = BETA2 * (double)x->second[at] + (1 - BETA2) * g * g;
    x->first[at] = (float)m;
    x->second[at] = (float)u;
    x->v[at] = (float)((double)x->v[at] - settings->rate * (m / correct1) / (sqrt(u / correct2) + EPSILON));
  }
}

static void take_step(relaxation *x, const qb_gradient_settings *settings, int step) {
  double done = (double)step / settings->steps, after = (done - WARM_UP) / (1 - WARM_UP);
  double weight = done < WARM_UP ? 0 : settings->regularization;
  double beta = 2 + 0.5 * (20 - 2) * (1 + cos(after * acos(-1)));
#pragma omp parallel for schedule(dynamic)
  for (size_t first = 0; first < x->p->rows; first += QB_ROUNDING_ROWS) {
    size_t left = x->p->rows - first, rows = left < QB_ROUNDING_ROWS ? left : QB_ROUNDING_ROWS;
    forward(x, first, rows);
    for (size_t row = first; row < first + rows; row++)
      adam(x, row, settings, step, weight, beta);
  }
}

static void harden(const relaxation *x, int32_t *codes) {
  const qb_rounding *p = x->p;
  for (size_t row = 0; row < p->rows; row++)
    for (size_t at = row * p->length; at < (row + 1) * p->length; at++) {
      int32_t lo, hi;
      qb_rounding_neighbours(qb_rounding_grid(p, x->grids, row), p->weights[at], &lo, &hi);
      codes[at] = rectify((double)x->v[at]) >= 0.5 ? hi : lo;
    }
}

qb_status qb_adaround_gradient(const qb_rounding *rounding, const qb_grid *grids, const qb_gradient_settings *settings,
                               const qb_progress *progress, int32_t *codes, qb_error *error) {
  relaxation x;
  QB_TRY(relaxation_create(rounding, grids, &x, error));
  qb_status status = QB_OK;
  start(&x);
  for (int step = 0; status == QB_OK && step < settings->steps; step++) {
    take_step(&x, settings, step);
    if (step % 100 == 99 && !qb_progress_report(progress, QB_GRADIENT_STAGE, step + 1, settings->steps))
      status = qb_fail(error, QB_ERROR_INTERRUPTED, "interrupted after %d gradient steps", step + 1);
  }
  harden(&x, codes);
  relaxation_free(&x);
  return status;
}
