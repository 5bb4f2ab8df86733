/* Solvers of the rounding problem: gptq against OBQ with an explicit inverse, adaround against every choice, errors
 * against the definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>
#include <omp.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "quant/adaround.h"
#include "quant/gptq.h"
#include "support/cases.h"
#include "support/faults.h"

static void assert_near(double a, double b, double tolerance) { assert_true(fabs(a - b) <= tolerance); }

enum { MAX_LENGTH = 200, MAX_ROWS = 70 };

typedef struct sketch_problem {
  size_t rows, length;
  float weights[MAX_ROWS * MAX_LENGTH];
  double h[MAX_LENGTH * MAX_LENGTH], r[MAX_ROWS * MAX_LENGTH];
  qb_grid grids[MAX_ROWS];
  bool inherited;
} sketch_problem;

static sketch_problem sketch; /* large: not on the stack */

/* Correlated inputs: columns are mixtures of few sources. */
static void make_problem(uint64_t seed, size_t rows, size_t length, int bits, bool inherited) {
  qb_rng rng;
  qb_rng_seed(&rng, seed, 0);
  sketch.rows = rows;
  sketch.length = length;
  sketch.inherited = inherited;
  memset(sketch.h, 0, sizeof sketch.h);
  double column[MAX_LENGTH], mix[MAX_LENGTH];
  for (size_t k = 0; k < length; k++)
    mix[k] = qb_rng_range(&rng, -1, 1);
  for (size_t sample = 0; sample < 3 * length; sample++) {
    double source = qb_rng_normal(&rng);
    for (size_t k = 0; k < length; k++)
      column[k] = source * mix[k] + qb_rng_range(&rng, 0, 1);
    for (size_t i = 0; i < length; i++)
      for (size_t j = 0; j < length; j++)
        sketch.h[i * length + j] += column[i] * column[j] / (3.0 * (double)length);
  }
  for (size_t i = 0; i < rows * length; i++) {
    sketch.weights[i] = (float)qb_rng_normal(&rng);
    sketch.r[i] = inherited ? 0.05 * qb_rng_normal(&rng) : 0;
  }
  qb_quantize_settings settings = {.scheme = QB_SCHEME_UNIFORM, .affine = seed % 2 == 1};
  for (size_t row = 0; row < rows; row++) {
    qb_slice slice = {.data = sketch.weights + row * length, .runs = 1, .length = length};
    sketch.grids[row] = qb_grid_choose(&slice, &settings, bits);
  }
}

static qb_rounding load(double damping, bool by_size) {
  qb_rounding p;
  qb_error error;
  if (qb_rounding_create(sketch.rows, sketch.length, sketch.weights, sketch.h, sketch.r, sketch.inherited, damping,
                         by_size, &p, &error) != QB_OK)
    fail_msg("%s", error.message);
  return p;
}

/* |dW|_H^2 + 2 dW . R + damping |dW|^2 from the definition. */
static double naive_error(const qb_rounding *p, size_t row, const int32_t *codes, double damping) {
  double d[MAX_LENGTH], total = 0;
  for (size_t k = 0; k < p->length; k++)
    d[k] = (double)qb_grid_value(&sketch.grids[row], codes[k]) - (double)sketch.weights[row * p->length + k];
  for (size_t i = 0; i < p->length; i++) {
    for (size_t j = 0; j < p->length; j++)
      total += d[i] * sketch.h[i * p->length + j] * d[j];
    total += 2 * d[i] * sketch.r[row * p->length + i] + damping * d[i] * d[i];
  }
  return total;
}

static void nearest(const qb_rounding *p, int32_t *codes) {
  for (size_t row = 0; row < p->rows; row++)
    qb_grid_nearest_run(&sketch.grids[row], sketch.weights + row * p->length, p->length, codes + row * p->length);
}

static void errors_follow_the_definition(void **state) {
  (void)state;
  int32_t codes[MAX_ROWS * MAX_LENGTH];
  double errors[MAX_ROWS], objectives[MAX_ROWS], powers[MAX_ROWS];
  for (int inherited = 0; inherited < 2; inherited++) {
    make_problem((uint64_t)inherited, 40, 30, 3, inherited);
    qb_rounding p = load(0.01, true);
    nearest(&p, codes);
    qb_rounding_errors(&p, sketch.grids, codes, errors);
    qb_rounding_powers(&p, powers);
    qb_rounding_objectives(&p, sketch.grids, codes, objectives);
    for (size_t row = 0; row < p.rows; row++)
      assert_near(errors[row], naive_error(&p, row, codes + row * p.length, 0), 1e-9);
    /* objective = damped error + constant of the row: compare differences between two choices of codes */
    for (size_t row = 0; row < p.rows; row++) {
      double before = naive_error(&p, row, codes + row * p.length, p.damping);
      int32_t *code = &codes[row * p.length + row % p.length];
      *code += *code < sketch.grids[row].hi ? 1 : -1;
      double change = naive_error(&p, row, codes + row * p.length, p.damping) - before, was = objectives[row];
      double after[MAX_ROWS];
      qb_rounding_objectives(&p, sketch.grids, codes, after);
      assert_near(after[row] - was, change, 1e-5 * (1 + fabs(change)));
      assert_true(powers[row] > 0);
    }
    qb_rounding_free(&p);
  }
}

/* OBQ in a fixed order as published: invert, round column i, spread the error, eliminate i from the inverse. */
static void naive_obq(const qb_rounding *p, size_t row, int32_t *codes) {
  size_t n = p->length;
  static double inverse[MAX_LENGTH * MAX_LENGTH], a[MAX_LENGTH * MAX_LENGTH];
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++) {
      a[i * n + j] = sketch.h[i * n + j] + (i == j ? p->damping : 0);
      inverse[i * n + j] = i == j;
    }
  for (size_t c = 0; c < n; c++) { /* Gauss-Jordan without pivots: A is positive definite */
    double pivot = a[c * n + c];
    for (size_t j = 0; j < n; j++) {
      a[c * n + j] /= pivot;
      inverse[c * n + j] /= pivot;
    }
    for (size_t i = 0; i < n; i++) {
      double factor = a[i * n + c];
      for (size_t j = 0; i != c && j < n; j++) {
        a[i * n + j] -= factor * a[c * n + j];
        inverse[i * n + j] -= factor * inverse[c * n + j];
      }
    }
  }
  double w[MAX_LENGTH];
  for (size_t k = 0; k < n; k++)
    w[k] = (double)p->target[row * n + k];
  for (size_t step = 0; step < n; step++) {
    size_t i = (size_t)p->order[step];
    codes[i] = qb_grid_nearest(&sketch.grids[row], (float)w[i]);
    double error = (w[i] - (double)qb_grid_value(&sketch.grids[row], codes[i])) / inverse[i * n + i];
    double column[MAX_LENGTH], pivot = inverse[i * n + i];
    for (size_t j = 0; j < n; j++)
      column[j] = inverse[j * n + i];
    for (size_t later = step; later < n; later++)
      w[p->order[later]] -= error * column[p->order[later]];
    for (size_t x = 0; x < n; x++)
      for (size_t y = 0; y < n; y++)
        inverse[x * n + y] -= column[x] * column[y] / pivot;
  }
}

static void gptq_equals_obq(void **state) {
  (void)state;
  int32_t codes[MAX_ROWS * MAX_LENGTH], expected[MAX_LENGTH];
  double losses[MAX_ROWS], objectives[MAX_ROWS];
  const size_t lengths[] = {1, 5, 64, 65, 190};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
    for (int by_size = 0; by_size < 2; by_size++) {
      make_problem(i, 35, lengths[i], 3, i % 2 == 1);
      qb_rounding p = load(0.01, by_size);
      qb_gptq(&p, sketch.grids, false, codes, losses);
      qb_rounding_objectives(&p, sketch.grids, codes, objectives);
      for (size_t row = 0; row < p.rows; row += 17) {
        naive_obq(&p, row, expected);
        assert_memory_equal(codes + row * p.length, expected, p.length * sizeof *codes);
      }
      for (size_t row = 0; row < p.rows; row++)
        assert_near(losses[row], objectives[row], 1e-6 * (1 + objectives[row]));
      qb_rounding_free(&p);
    }
}

/* The least objective over all choices of the two neighbours. */
static double exhaustive(const qb_rounding *p, size_t row) {
  double best = INFINITY;
  for (uint32_t mask = 0; mask < 1u << p->length; mask++) {
    double d[MAX_LENGTH], total = 0;
    for (size_t k = 0; k < p->length; k++) {
      int32_t lo, hi;
      qb_rounding_neighbours(&sketch.grids[row], sketch.weights[row * p->length + k], &lo, &hi);
      d[k] =
          (double)qb_grid_value(&sketch.grids[row], mask >> k & 1 ? hi : lo) - (double)p->target[row * p->length + k];
    }
    for (size_t i = 0; i < p->length; i++)
      for (size_t j = 0; j < p->length; j++)
        total += d[i] * d[j] * (sketch.h[i * p->length + j] + (i == j ? p->damping : 0));
    best = fmin(best, total);
  }
  return best;
}

static void adaround_finds_the_best_choice_of_short_rows(void **state) {
  (void)state;
  int32_t codes[MAX_ROWS * MAX_LENGTH], plain[MAX_ROWS * MAX_LENGTH];
  double objectives[MAX_ROWS], of_nearest[MAX_ROWS];
  int tried = 0, best = 0, cases = (int)test_cases(12);
  for (int seed = 0; seed < cases; seed++) {
    make_problem((uint64_t)seed, 6, 1 + (size_t)seed % 12, 2 + seed % 3, seed % 4 >= 2);
    qb_rounding p = load(0.01, true);
    qb_error error;
    assert_int_equal(qb_adaround(&p, sketch.grids, 1, codes, objectives, &error), QB_OK);
    nearest(&p, plain);
    qb_rounding_objectives(&p, sketch.grids, plain, of_nearest);
    for (size_t row = 0; row < p.rows; row++, tried++) {
      double least = exhaustive(&p, row);
      assert_true(objectives[row] >= least - 1e-6 * (1 + least));
      assert_true(objectives[row] <= of_nearest[row] * (1 + 1e-5));
      best += objectives[row] <= least + 1e-6 * (1 + least);
      for (size_t k = 0; k < p.length; k++) {
        int32_t lo, hi, code = codes[row * p.length + k];
        qb_rounding_neighbours(&sketch.grids[row], sketch.weights[row * p.length + k], &lo, &hi);
        assert_true(code == lo || code == hi);
      }
    }
    qb_rounding_free(&p);
  }
  print_message("best choice found in %d of %d rows\n", best, tried);
  assert_true(100 * best >= 95 * tried);
}

/* Never above its starts, row by row, on grids that clip too; more effort never ends above less. */
static void adaround_never_ends_above_its_starts(void **state) {
  (void)state;
  static int32_t codes[MAX_ROWS * MAX_LENGTH], start[MAX_ROWS * MAX_LENGTH];
  double objectives[MAX_ROWS], of_gptq[MAX_ROWS], of_nearest[MAX_ROWS], of_long[MAX_ROWS], losses[MAX_ROWS];
  qb_error error;
  for (int seed = 0; seed < (int)test_cases(8); seed++) {
    make_problem((uint64_t)seed + 100, 33, 1 + (size_t)(seed * 37 % 190), 2 + seed % 3, seed % 3 == 0);
    for (size_t row = 0; row < 33; row++)
      sketch.grids[row].scale *= seed % 2 == 0 ? 1 : 0.5f;
    qb_rounding p = load(0.01, true);
    qb_gptq(&p, sketch.grids, true, start, losses);
    qb_rounding_objectives(&p, sketch.grids, start, of_gptq);
    nearest(&p, start);
    qb_rounding_objectives(&p, sketch.grids, start, of_nearest);
    assert_int_equal(qb_adaround(&p, sketch.grids, 1, codes, objectives, &error), QB_OK);
    assert_int_equal(qb_adaround(&p, sketch.grids, 3, codes, of_long, &error), QB_OK);
    for (size_t row = 0; row < p.rows; row++) {
      assert_true(objectives[row] <= fmin(of_gptq[row], of_nearest[row]) * (1 + 1e-5));
      assert_true(of_long[row] <= objectives[row] * (1 + 1e-5));
    }
    qb_rounding_free(&p);
  }
}

static double total(const double *values, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++)
    sum += values[i];
  return sum;
}

/* On larger problems: below nearest by far, below the gradient solver, gptq below nearest. */
static void solvers_are_ordered(void **state) {
  (void)state;
  int32_t codes[MAX_ROWS * MAX_LENGTH];
  double of_nearest[MAX_ROWS], of_adaround[MAX_ROWS], of_gptq[MAX_ROWS], of_gradient[MAX_ROWS];
  qb_error error;
  make_problem(11, 33, 90, 4, true);
  qb_rounding p = load(0.01, true);
  nearest(&p, codes);
  qb_rounding_objectives(&p, sketch.grids, codes, of_nearest);
  qb_gptq(&p, sketch.grids, false, codes, of_gptq);
  assert_int_equal(qb_adaround(&p, sketch.grids, 1, codes, of_adaround, &error), QB_OK);
  qb_gradient_settings gradient;
  qb_gradient_settings_default(&gradient);
  gradient.steps = 600;
  assert_int_equal(qb_adaround_gradient(&p, sketch.grids, &gradient, NULL, codes, &error), QB_OK);
  qb_rounding_objectives(&p, sketch.grids, codes, of_gradient);
  assert_true(total(of_gptq, p.rows) < 0.7 * total(of_nearest, p.rows));
  assert_true(total(of_gradient, p.rows) < 0.9 * total(of_nearest, p.rows));
  assert_true(total(of_adaround, p.rows) < total(of_gradient, p.rows));
  qb_rounding_free(&p);
}

static void threads_do_not_change_codes(void **state) {
  (void)state;
  static int32_t codes[2][MAX_ROWS * MAX_LENGTH];
  double objectives[MAX_ROWS];
  qb_error error;
  int threads = omp_get_max_threads();
  make_problem(5, 70, 150, 3, true);
  for (int i = 0; i < 2; i++) {
    omp_set_num_threads(i == 0 ? 1 : 3);
    qb_rounding p = load(0.01, true);
    assert_int_equal(qb_adaround(&p, sketch.grids, 1, codes[i], objectives, &error), QB_OK);
    qb_rounding_free(&p);
  }
  omp_set_num_threads(threads);
  assert_memory_equal(codes[0], codes[1], 70 * 150 * sizeof(int32_t));
}

/* Inputs that are always zero, or always equal, leave H singular. */
static void singular_moments_are_damped(void **state) {
  (void)state;
  int32_t codes[4 * 20];
  double losses[4];
  for (int kind = 0; kind < 3; kind++) {
    make_problem(6, 4, 20, 4, false);
    for (size_t i = 0; i < 400; i++)
      sketch.h[i] = kind == 0 ? 0 : kind == 1 ? 1 : (i / 20 < 10 && i % 20 < 10 ? sketch.h[i] : 0);
    qb_rounding p = load(0, true);
    qb_gptq(&p, sketch.grids, false, codes, losses);
    for (size_t row = 0; row < 4; row++)
      assert_true(isfinite(losses[row]));
    qb_rounding_free(&p);
  }
}

static qb_status solve_work(void *context, qb_error *error) {
  (void)context;
  qb_rounding p;
  int32_t codes[3 * 12];
  double objectives[3];
  qb_gradient_settings gradient = {.steps = 2, .regularization = 0.01, .rate = 0.01};
  qb_status status = qb_rounding_create(3, 12, sketch.weights, sketch.h, sketch.r, true, 0.01, true, &p, error);
  if (status == QB_OK)
    status = qb_adaround(&p, sketch.grids, 1, codes, objectives, error);
  if (status == QB_OK)
    status = qb_adaround_gradient(&p, sketch.grids, &gradient, NULL, codes, error);
  qb_rounding_free(&p);
  return status;
}

static void failed_allocations_leave_nothing(void **state) {
  (void)state;
  make_problem(2, 3, 12, 4, true);
  fault_every_allocation(solve_work, NULL, 40);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(errors_follow_the_definition),
      cmocka_unit_test(gptq_equals_obq),
      cmocka_unit_test(adaround_finds_the_best_choice_of_short_rows),
      cmocka_unit_test(adaround_never_ends_above_its_starts),
      cmocka_unit_test(solvers_are_ordered),
      cmocka_unit_test(threads_do_not_change_codes),
      cmocka_unit_test(singular_moments_are_damped),
      cmocka_unit_test(failed_allocations_leave_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
