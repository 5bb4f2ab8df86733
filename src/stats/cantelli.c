/* Concentration bounds; see cantelli.h. Evaluated in ball arithmetic and rounded up once. */
#include "stats/cantelli.h"

#include <math.h>

#include <arb.h>

#include "base/error.h"
#include "stats/rounding_out.h"

enum { PRECISION = 128 };

static bool is_probability(double d) { return d > 0.0 && d < 1.0; }

static bool is_finite_not_negative(double x) { return isfinite(x) && x >= 0.0; }

/* result = mean + sqrt(variance (1 - d) / d) */
static void cantelli(arb_t result, const arb_t mean, const arb_t variance, double d) {
  arb_t factor;
  arb_init(factor);
  arb_set_d(factor, d);
  arb_inv(factor, factor, PRECISION);
  arb_sub_si(factor, factor, 1, PRECISION);
  arb_mul(factor, factor, variance, PRECISION);
  arb_sqrt(factor, factor, PRECISION);
  arb_add(result, mean, factor, PRECISION);
  arb_clear(factor);
}

qb_status qb_cantelli_limit(double mean, double variance, double probability, double *limit, qb_error *error) {
  if (!isfinite(mean) || !is_finite_not_negative(variance) || !is_probability(probability))
    return qb_fail(error, QB_ERROR_ARGUMENT, "Cantelli: mean %g, variance %g, probability %g are out of range", mean,
                   variance, probability);
  arb_t m, v;
  arb_init(m);
  arb_init(v);
  arb_set_d(m, mean);
  arb_set_d(v, variance);
  cantelli(m, m, v, probability);
  *limit = qb_round_up(m);
  arb_clear(m);
  arb_clear(v);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ layerwise */

static qb_status check_layer(const qb_ratio_moments *layer, int64_t index, qb_error *error) {
  bool valid = is_finite_not_negative(layer->mean_x) && is_finite_not_negative(layer->mean_y) &&
               is_finite_not_negative(layer->variance_x) && is_finite_not_negative(layer->variance_y) &&
               isfinite(layer->covariance) && is_finite_not_negative(layer->state_bound) &&
               is_probability(layer->probability);
  if (!valid)
    return qb_fail(error, QB_ERROR_ARGUMENT, "the moments of layer %lld are out of range", (long long)index);
  return QB_OK;
}

/* sum += a b c^2, or a b c d in general; all doubles */
static void add_product(arb_t sum, double a, double b, double c) {
  arb_t product, factor;
  arb_init(product);
  arb_init(factor);
  arb_set_d(product, a);
  arb_set_d(factor, b);
  arb_mul(product, product, factor, PRECISION);
  arb_set_d(factor, c);
  arb_mul(product, product, factor, PRECISION);
  arb_add(sum, sum, product, PRECISION);
  arb_clear(product);
  arb_clear(factor);
}

/* v = A^2 var X + B^2 var Y + 2 A B cov; false when it is negative by more than rounding explains. */
static bool layer_variance(arb_t variance, const qb_ratio_moments *layer, double a) {
  double b = layer->state_bound;
  arb_t positive;
  arb_init(positive);
  arb_zero(variance);
  add_product(variance, a, a, layer->variance_x);
  add_product(variance, b, b, layer->variance_y);
  arb_set(positive, variance);
  add_product(variance, 2.0 * a, b, layer->covariance);
  arb_mul_si(positive, positive, -1, PRECISION);
  arb_div_si(positive, positive, 1000000000, PRECISION);
  bool valid = !arb_lt(variance, positive);
  if (!arb_is_nonnegative(variance))
    arb_nonnegative_part(variance, variance);
  arb_clear(positive);
  return valid;
}

static qb_status layer_limit(const qb_ratio_moments *layer, int64_t index, double before, double *after,
                             qb_error *error) {
  arb_t mean, variance;
  QB_TRY(check_layer(layer, index, error));
  arb_init(mean);
  arb_init(variance);
  add_product(mean, layer->mean_x, before, 1.0);
  add_product(mean, layer->mean_y, layer->state_bound, 1.0);
  bool valid = layer_variance(variance, layer, before);
  if (valid)
    cantelli(mean, mean, variance, layer->probability);
  *after = qb_round_up(mean);
  arb_clear(mean);
  arb_clear(variance);
  if (!valid)
    return qb_fail(error, QB_ERROR_ARGUMENT, "layer %lld: its covariance does not fit its variances", (long long)index);
  return QB_OK;
}

qb_status qb_cantelli_layerwise(const qb_ratio_moments *layers, int64_t count, double initial, double *limits,
                                double *probability, qb_error *error) {
  double before = initial;
  *probability = 0.0;
  if (!is_finite_not_negative(initial))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the layerwise bound starts at %g", initial);
  for (int64_t l = 0; l < count; l++) {
    QB_TRY(layer_limit(&layers[l], l, before, &limits[l], error));
    if (!isfinite(limits[l]))
      return qb_fail(error, QB_ERROR_NUMERIC, "the layerwise bound overflows at layer %lld", (long long)l);
    before = limits[l];
    *probability = nextafter(*probability + layers[l].probability, INFINITY);
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- samples */

double qb_ratio_chain(const double *ratios, const double *terms, int64_t count) {
  double bound = 0.0;
  for (int64_t l = 0; l < count; l++) {
    double product = ratios[l] > 0.0 && bound > 0.0 ? nextafter(ratios[l] * bound, INFINITY) : 0.0;
    bound = terms[l] > 0.0 && product > 0.0 ? nextafter(product + terms[l], INFINITY) : product + terms[l];
  }
  return bound;
}

qb_status qb_sample_moments(const double *values, int64_t n, double *mean, double *variance, qb_error *error) {
  double average = 0.0, squares = 0.0;
  if (n < 2)
    return qb_fail(error, QB_ERROR_ARGUMENT, "moments need at least two numbers, there are %lld", (long long)n);
  for (int64_t i = 0; i < n; i++) { /* Welford's update */
    if (!isfinite(values[i]))
      return qb_fail(error, QB_ERROR_NUMERIC, "number %lld of a sample is not finite", (long long)i);
    double distance = values[i] - average;
    average += distance / (double)(i + 1);
    squares += distance * (values[i] - average);
  }
  *mean = average;
  *variance = squares / (double)(n - 1);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------- Hoeffding */

qb_status qb_hoeffding_radius(double step, double input_norm, int64_t outputs, double probability, double *radius,
                              qb_error *error) {
  if (!is_finite_not_negative(step) || !is_finite_not_negative(input_norm) || outputs < 1 ||
      !is_probability(probability))
    return qb_fail(error, QB_ERROR_ARGUMENT, "Hoeffding: step %g, norm %g, %lld outputs, probability %g: out of range",
                   step, input_norm, (long long)outputs, probability);
  arb_t value, factor;
  arb_init(value);
  arb_init(factor);
  arb_set_si(value, outputs);
  arb_set_d(factor, probability);
  arb_mul_2exp_si(value, value, 1);
  arb_div(value, value, factor, PRECISION);
  arb_log(value, value, PRECISION);
  arb_mul_2exp_si(value, value, -1);
  arb_sqrt(value, value, PRECISION);
  arb_set_d(factor, step);
  arb_mul(value, value, factor, PRECISION);
  arb_set_d(factor, input_norm);
  arb_mul(value, value, factor, PRECISION);
  *radius = qb_round_up(value);
  arb_clear(value);
  arb_clear(factor);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------- stochastic rounding */

/* value = sqrt(number factor) */
static void root_of(arb_t value, int64_t number, double factor) {
  arb_t other;
  arb_init(other);
  arb_set_si(value, number);
  arb_set_d(other, factor);
  arb_mul(value, value, other, PRECISION);
  arb_sqrt(value, value, PRECISION);
  arb_clear(other);
}

/* value = log(number / d) */
static void log_of(arb_t value, int64_t number, double d) {
  arb_t other;
  arb_init(other);
  arb_set_si(value, number);
  arb_set_d(other, d);
  arb_div(value, value, other, PRECISION);
  arb_log(value, value, PRECISION);
  arb_clear(other);
}

/* Hoeffding at every output and a union bound: sqrt(m sum s_c^2 log(2 N / d) / 2). */
static double factor_of_union(const qb_rounded_layer *l, double d) {
  arb_t value, factor;
  arb_init(value);
  arb_init(factor);
  root_of(value, l->overlap, l->step_squares);
  log_of(factor, 2 * l->outputs, d);
  arb_mul_2exp_si(factor, factor, -1);
  arb_sqrt(factor, factor, PRECISION);
  arb_mul(value, value, factor, PRECISION);
  double result = qb_round_up(value);
  arb_clear(value);
  arb_clear(factor);
  return result;
}

/* The norm is a convex function of the draws: sqrt(m) (sqrt(sum s_c^2) / 2 + s sqrt(2 log(1 / d))). */
static double factor_of_norm(const qb_rounded_layer *l, double d) {
  arb_t mean, value, factor;
  arb_init(mean);
  arb_init(value);
  arb_init(factor);
  root_of(mean, l->overlap, l->step_squares);
  arb_mul_2exp_si(mean, mean, -1);
  log_of(value, 1, d);
  arb_mul_si(value, value, 2 * l->overlap, PRECISION);
  arb_sqrt(value, value, PRECISION);
  arb_set_d(factor, l->largest_step);
  arb_mul(value, value, factor, PRECISION);
  arb_add(value, value, mean, PRECISION);
  double result = qb_round_up(value);
  arb_clear(mean);
  arb_clear(value);
  arb_clear(factor);
  return result;
}

/* |entries| <= s, whatever is drawn (Schur): times s, the root of row times column. */
static double factor_of_size(const qb_rounded_layer *l, double size) {
  arb_t value, factor;
  arb_init(value);
  arb_init(factor);
  arb_set_si(value, l->row);
  arb_mul_si(value, value, l->column, PRECISION);
  arb_sqrt(value, value, PRECISION);
  arb_set_d(factor, size);
  arb_mul(value, value, factor, PRECISION);
  arb_set_d(factor, l->largest_step);
  arb_mul(value, value, factor, PRECISION);
  double result = qb_round_up(value);
  arb_clear(value);
  arb_clear(factor);
  return result;
}

qb_status qb_rounding_factor(const qb_rounded_layer *layer, double probability, double *factor, qb_error *error) {
  bool counts = layer->outputs > 0 && layer->outputs < INT64_MAX / 2 && layer->overlap > 0 &&
                layer->overlap < INT64_MAX / 2 && layer->row > 0 && layer->column > 0;
  if (!counts || !is_finite_not_negative(layer->step_squares) || !is_finite_not_negative(layer->largest_step) ||
      !is_finite_not_negative(layer->impurity) || !is_probability(probability))
    return qb_fail(error, QB_ERROR_ARGUMENT, "stochastic rounding: a layer's numbers are out of range");
  double drawn = fmin(factor_of_union(layer, probability), factor_of_norm(layer, probability));
  drawn = fmin(drawn, factor_of_size(layer, 1));
  *factor = layer->impurity > 0 ? nextafter(drawn + factor_of_size(layer, layer->impurity), INFINITY) : drawn;
  return QB_OK;
}
