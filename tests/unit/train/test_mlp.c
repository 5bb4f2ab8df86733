/* Training: the gradient against differences of a loss written again in double, the same bits for any number of
 * threads, learning what can be learnt, refusals and failed allocations. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "data/digits.h"
#include "train/mlp.h"

enum { LAYERS = 3, SAMPLES = 7 };
static const int32_t small_widths[LAYERS + 1] = {5, 6, 4, 3};

static void fill_random(float *values, size_t count, uint64_t seed) {
  qb_rng rng;
  qb_rng_seed(&rng, seed, 0);
  for (size_t i = 0; i < count; i++)
    values[i] = (float)qb_rng_normal(&rng);
}

/* Mean cross-entropy in double, from the definition. `parameters` is laid out as qb_mlp says. */
static double plain_loss(const int32_t *widths, const double *parameters, const qb_mlp_samples *samples) {
  double total = 0;
  for (int64_t n = 0; n < samples->count; n++) {
    double x[8] = {0}, z[8];
    for (int32_t i = 0; i < widths[0]; i++)
      x[i] = (double)samples->inputs[n * widths[0] + i];
    const double *p = parameters;
    for (int l = 0; l < LAYERS; l++) {
      const double *bias = p + widths[l] * widths[l + 1];
      for (int32_t o = 0; o < widths[l + 1]; o++) {
        z[o] = bias[o];
        for (int32_t i = 0; i < widths[l]; i++)
          z[o] += p[o * widths[l] + i] * x[i];
      }
      for (int32_t o = 0; o < widths[l + 1]; o++)
        x[o] = l + 1 < LAYERS ? fmax(z[o], 0) : z[o];
      p = bias + widths[l + 1];
    }
    double sum = 0;
    for (int32_t c = 0; c < widths[LAYERS]; c++)
      sum += exp(x[c]);
    total += log(sum) - x[samples->labels[n]];
  }
  return total / (double)samples->count;
}

static void gradient_is_the_slope_of_the_loss(void **state) {
  (void)state;
  float inputs[SAMPLES * 5], gradient[256];
  int32_t labels[SAMPLES];
  fill_random(inputs, SAMPLES * 5, 1);
  for (int i = 0; i < SAMPLES; i++)
    labels[i] = i % 3;
  qb_mlp_samples samples = {SAMPLES, inputs, labels};
  qb_mlp mlp;
  assert_int_equal(qb_mlp_create(&mlp, LAYERS, small_widths, 4, NULL), QB_OK);
  assert_int_equal(mlp.parameter_count, 6 * 6 + 7 * 4 + 5 * 3);
  fill_random(mlp.parameters, mlp.parameter_count, 2); /* biases too */

  double parameters[256], loss;
  for (size_t i = 0; i < mlp.parameter_count; i++)
    parameters[i] = (double)mlp.parameters[i];
  assert_int_equal(qb_mlp_gradient(&mlp, &samples, gradient, &loss, NULL), QB_OK);
  assert_true(fabs(loss - plain_loss(small_widths, parameters, &samples)) < 1e-5);
  double largest = 0;
  for (size_t i = 0; i < mlp.parameter_count; i++) {
    const double h = 1e-6, kept = parameters[i];
    parameters[i] = kept + h;
    double up = plain_loss(small_widths, parameters, &samples);
    parameters[i] = kept - h;
    double down = plain_loss(small_widths, parameters, &samples);
    parameters[i] = kept;
    double slope = (up - down) / (2 * h);
    assert_true(fabs(slope - (double)gradient[i]) < 1e-4 * (1 + fabs(slope)));
    largest = fmax(largest, fabs(slope));
  }
  assert_true(largest > 0.1); /* the comparison is not of zeros */
  qb_mlp_free(&mlp);
}

/* ------------------------------------------------------------------------------------------------ generated digits */

enum { DIGITS = 500 };

/* Each picture with mean 0 and deviation 1: without it their levels and polarity drown the strokes. */
static void standardise(const uint8_t *pixels, float *input) {
  double sum = 0, squares = 0;
  for (int p = 0; p < QB_DIGITS_PIXELS; p++)
    sum += pixels[p];
  double mean = sum / QB_DIGITS_PIXELS;
  for (int p = 0; p < QB_DIGITS_PIXELS; p++)
    squares += (pixels[p] - mean) * (pixels[p] - mean);
  double deviation = sqrt(squares / QB_DIGITS_PIXELS);
  for (int p = 0; p < QB_DIGITS_PIXELS; p++)
    input[p] = (float)((pixels[p] - mean) / deviation);
}

static qb_mlp_samples draw_digits(uint64_t seed) {
  float *inputs = malloc(sizeof(float) * DIGITS * QB_DIGITS_PIXELS);
  int32_t *labels = malloc(sizeof(int32_t) * DIGITS);
  assert_non_null(inputs);
  assert_non_null(labels);
  for (uint64_t i = 0; i < DIGITS; i++) {
    uint8_t pixels[QB_DIGITS_PIXELS];
    qb_digits_image(seed, i, pixels, &labels[i]);
    standardise(pixels, inputs + i * QB_DIGITS_PIXELS);
  }
  return (qb_mlp_samples){DIGITS, inputs, labels};
}

static void free_digits(qb_mlp_samples *samples) {
  free((void *)(uintptr_t)samples->inputs);
  free((void *)(uintptr_t)samples->labels);
}

static void train_on(const qb_mlp_samples *samples, int32_t epochs, int32_t batch, int32_t threads, qb_mlp *mlp,
                     double *loss) {
  const int32_t widths[] = {QB_DIGITS_PIXELS, 64, 32, QB_DIGITS_CLASSES};
  qb_mlp_settings settings;
  qb_mlp_settings_default(&settings);
  settings.epochs = epochs;
  settings.batch = batch;
  settings.threads = threads;
  assert_int_equal(qb_mlp_create(mlp, 3, widths, 9, NULL), QB_OK);
  assert_int_equal(qb_mlp_train(mlp, samples, &settings, NULL, loss, NULL), QB_OK);
}

/* A few pictures can be learnt by heart; what is learnt from many carries over to others, far above chance (0.1). */
static void it_learns_digits(void **state) {
  (void)state;
  qb_mlp_samples samples = draw_digits(1), others = draw_digits(2), few = samples;
  few.count = 100;
  qb_mlp mlp;
  double loss, own, unseen;
  train_on(&few, 50, 10, 1, &mlp, &loss);
  assert_int_equal(qb_mlp_accuracy(&mlp, &few, &own, NULL), QB_OK);
  assert_true(own == 1.0);
  assert_true(loss < 0.1);
  qb_mlp_free(&mlp);
  train_on(&samples, 10, 20, 1, &mlp, &loss);
  assert_int_equal(qb_mlp_accuracy(&mlp, &others, &unseen, NULL), QB_OK);
  assert_true(unseen > 0.2);
  qb_mlp_free(&mlp);
  free_digits(&samples);
  free_digits(&others);
}

static void threads_do_not_change_a_bit(void **state) {
  (void)state;
  qb_mlp_samples samples = draw_digits(1);
  samples.count = 301; /* the last batch has one sample, fewer than shards */
  qb_mlp first, other;
  double first_loss, other_loss;
  train_on(&samples, 2, 50, 1, &first, &first_loss);
  for (int32_t threads = 2; threads <= 5; threads++) {
    train_on(&samples, 2, 50, threads, &other, &other_loss);
    assert_memory_equal(first.parameters, other.parameters, first.parameter_count * sizeof(float));
    assert_true(first_loss == other_loss);
    qb_mlp_free(&other);
  }
  train_on(&samples, 2, 49, 1, &other, &other_loss); /* another batch size must: the comparison sees differences */
  assert_int_not_equal(memcmp(first.parameters, other.parameters, first.parameter_count * sizeof(float)), 0);
  qb_mlp_free(&other);
  qb_mlp_free(&first);
  free_digits(&samples);
}

/* -------------------------------------------------------------------------------------------------------- refusals */

static bool stop_at_three(void *context, const char *what, int64_t done, int64_t total) {
  (void)context;
  assert_string_equal(what, "training");
  assert_true(done <= total);
  return done < 3;
}

static void refusals_name_their_reason(void **state) {
  (void)state;
  float inputs[4 * 5] = {0};
  int32_t labels[4] = {0, 1, 2, 0};
  qb_mlp_samples samples = {4, inputs, labels};
  qb_mlp mlp;
  qb_error error;
  const int32_t bad[] = {5, 0, 3};
  assert_int_equal(qb_mlp_create(&mlp, 2, bad, 0, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_mlp_create(&mlp, 0, small_widths, 0, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_mlp_create(&mlp, QB_MLP_MAX_LAYERS + 1, small_widths, 0, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_mlp_create(&mlp, LAYERS, small_widths, 0, &error), QB_OK);

  qb_mlp_settings settings, good;
  qb_mlp_settings_default(&good);
  settings = good, settings.epochs = 0;
  assert_int_equal(qb_mlp_train(&mlp, &samples, &settings, NULL, NULL, &error), QB_ERROR_ARGUMENT);
  settings = good, settings.batch = 0;
  assert_int_equal(qb_mlp_train(&mlp, &samples, &settings, NULL, NULL, &error), QB_ERROR_ARGUMENT);
  settings = good, settings.rate = NAN;
  assert_int_equal(qb_mlp_train(&mlp, &samples, &settings, NULL, NULL, &error), QB_ERROR_ARGUMENT);
  settings = good, settings.threads = -1;
  assert_int_equal(qb_mlp_train(&mlp, &samples, &settings, NULL, NULL, &error), QB_ERROR_ARGUMENT);
  labels[2] = 3;
  assert_int_equal(qb_mlp_train(&mlp, &samples, &good, NULL, NULL, &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "sample 2 has label 3"));
  labels[2] = 2;
  inputs[7] = INFINITY;
  assert_int_equal(qb_mlp_train(&mlp, &samples, &good, NULL, NULL, &error), QB_ERROR_NUMERIC);
  assert_non_null(strstr(error.message, "sample 1 holds"));
  inputs[7] = 0;
  mlp.parameters[0] = INFINITY; /* as after steps that were too large */
  inputs[0] = 1;
  assert_int_equal(qb_mlp_train(&mlp, &samples, &good, NULL, NULL, &error), QB_ERROR_NUMERIC);
  assert_non_null(strstr(error.message, "learning rate"));
  mlp.parameters[0] = 0;
  samples.count = 0;
  assert_int_equal(qb_mlp_train(&mlp, &samples, &good, NULL, NULL, &error), QB_ERROR_ARGUMENT);
  samples.count = 4;
  const qb_progress progress = {stop_at_three, NULL};
  assert_int_equal(qb_mlp_train(&mlp, &samples, &good, &progress, NULL, &error), QB_ERROR_INTERRUPTED);
  qb_mlp_free(&mlp);
}

/* Every allocation in turn fails; nothing leaks (the sanitizer build sees to that) and the status says why. */
static void failed_allocations_are_reported(void **state) {
  (void)state;
  float inputs[4 * 5] = {0};
  int32_t labels[4] = {0, 1, 2, 0};
  qb_mlp_samples samples = {4, inputs, labels};
  qb_mlp_settings settings;
  qb_mlp_settings_default(&settings);
  settings.epochs = 1;
  long failures = 0;
  for (qb_status status = QB_ERROR_MEMORY; status != QB_OK; failures++) {
    qb_mlp mlp;
    double accuracy;
    qb_alloc_fail_after(failures);
    status = qb_mlp_create(&mlp, LAYERS, small_widths, 0, NULL);
    if (status == QB_OK)
      status = qb_mlp_train(&mlp, &samples, &settings, NULL, NULL, NULL);
    if (status == QB_OK)
      status = qb_mlp_accuracy(&mlp, &samples, &accuracy, NULL);
    qb_alloc_fail_after(-1);
    qb_mlp_free(&mlp);
    assert_true(status == QB_OK || status == QB_ERROR_MEMORY);
    assert_true(failures < 200);
  }
  assert_true(failures > 30);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gradient_is_the_slope_of_the_loss), cmocka_unit_test(it_learns_digits),
      cmocka_unit_test(threads_do_not_change_a_bit),       cmocka_unit_test(refusals_name_their_reason),
      cmocka_unit_test(failed_allocations_are_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
