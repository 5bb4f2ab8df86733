/* Certified spectral norms against dense operators built from the definition of a circular convolution. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "bound/fault.h"
#include "bound/sigma.h"
#include "bound/sigma_internal.h"

/* A dense real operator (rows, cols). */
typedef struct dense {
  int64_t rows, cols;
  double *at;
} dense;

static dense dense_zeros(int64_t rows, int64_t cols) {
  dense d = {rows, cols, calloc((size_t)(rows * cols), sizeof(double))};
  assert_non_null(d.at);
  return d;
}

static dense dense_product(const dense *a, const dense *b) {
  dense c = dense_zeros(a->rows, b->cols);
  for (int64_t i = 0; i < a->rows; i++)
    for (int64_t k = 0; k < a->cols; k++)
      for (int64_t j = 0; j < b->cols; j++)
        c.at[i * c.cols + j] += a->at[i * a->cols + k] * b->at[k * b->cols + j];
  return c;
}

/* A lower bound of the norm that converges to it: power iteration from a random start. */
static double dense_norm(const dense *d, qb_rng *rng) {
  double *v = calloc((size_t)d->cols, sizeof *v), *u = calloc((size_t)d->rows, sizeof *u), norm = 0;
  for (int64_t j = 0; j < d->cols; j++)
    v[j] = qb_rng_normal(rng);
  for (int k = 0; k < 400; k++) {
    double length = 0, image = 0;
    for (int64_t j = 0; j < d->cols; j++)
      length += v[j] * v[j];
    if (length == 0)
      break;
    for (int64_t i = 0; i < d->rows; i++) {
      u[i] = 0;
      for (int64_t j = 0; j < d->cols; j++)
        u[i] += d->at[i * d->cols + j] * v[j] / sqrt(length);
      image += u[i] * u[i];
    }
    norm = sqrt(image);
    for (int64_t j = 0; j < d->cols; j++) {
      v[j] = 0;
      for (int64_t i = 0; i < d->rows; i++)
        v[j] += d->at[i * d->cols + j] * u[i];
    }
  }
  free(v);
  free(u);
  return norm;
}

/* The circular convolution of one-group kernel k on the torus `side`, subsampled by its stride. */
static dense dense_torus(const qb_kernel *k, const int64_t side[2]) {
  int64_t oh = side[0] / k->stride[0], ow = side[1] / k->stride[1];
  dense d = dense_zeros(k->rows * oh * ow, k->cols * side[0] * side[1]);
  for (int64_t o = 0; o < k->rows; o++)
    for (int64_t i = 0; i < k->cols; i++)
      for (int64_t y = 0; y < oh; y++)
        for (int64_t x = 0; x < ow; x++)
          for (int64_t a = 0; a < k->size[0]; a++)
            for (int64_t b = 0; b < k->size[1]; b++) {
              int64_t iy = y * k->stride[0] + a * k->dilation[0] - k->pad_begin[0] + 8 * side[0];
              int64_t ix = x * k->stride[1] + b * k->dilation[1] - k->pad_begin[1] + 8 * side[1];
              int64_t row = (o * oh + y) * ow + x;
              int64_t col = (i * side[0] + iy % side[0]) * side[1] + ix % side[1];
              d.at[row * d.cols + col] += k->taps[((a * k->size[1] + b) * k->rows + o) * k->cols + i];
            }
  return d;
}

static qb_kernel random_kernel(qb_rng *rng, int64_t rows, int64_t cols, int32_t h, int32_t w, int32_t stride) {
  qb_kernel k = {.rows = rows,
                 .cols = cols,
                 .groups = 1,
                 .size = {h, w},
                 .stride = {stride, stride},
                 .dilation = {1 + (int32_t)qb_rng_below(rng, 2), 1},
                 .pad_begin = {(int32_t)qb_rng_below(rng, 3), (int32_t)qb_rng_below(rng, 2)}};
  k.taps = calloc((size_t)(rows * cols * h * w), sizeof *k.taps);
  for (int64_t i = 0; i < rows * cols * h * w; i++)
    k.taps[i] = qb_rng_normal(rng);
  return k;
}

/* skip + outer inner / 2, without a skip where that is NULL. */
static dense dense_joint(const qb_sigma_problem *p) {
  int64_t half[2] = {p->side[0] / p->inner->stride[0], p->side[1] / p->inner->stride[1]};
  dense inner = dense_torus(p->inner, p->side), outer = dense_torus(p->outer, half), m = dense_product(&outer, &inner);
  dense skip = {0};
  if (p->skip != NULL)
    skip = dense_torus(p->skip, p->side);
  for (int64_t i = 0; i < m.rows * m.cols; i++)
    m.at[i] = 0.5 * m.at[i] + (p->skip == NULL ? 0 : skip.at[i]);
  free(inner.at), free(outer.at), free(skip.at);
  return m;
}

static void check(double sigma, double truth) {
  assert_true(sigma >= truth);
  assert_true(sigma <= truth * 1.01 + 1e-12);
}

static void one_kernel_matches_the_dense_operator(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 1, 0);
  for (int test = 0; test < 40; test++) {
    int32_t stride = 1 + test % 2;
    qb_kernel k = random_kernel(&rng, 1 + test % 4, 1 + test / 4 % 3, 1 + test % 3, 1 + test / 3 % 3, stride);
    qb_sigma_problem problem = {.inner = &k, .side = {stride * (3 + test % 3), stride * (2 + test % 4)}};
    dense d = dense_torus(&k, problem.side);
    double sigma = 0;
    assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
    check(sigma, dense_norm(&d, &rng));
    free(d.at);
    free(k.taps);
  }
}

static void joint_operator_matches_the_dense_operator(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 2, 0);
  for (int test = 0; test < 30; test++) {
    int32_t stride = 1 + test % 2;
    int64_t in = 1 + test % 3, middle = 1 + test / 2 % 4, out = 1 + test % 4;
    qb_kernel inner = random_kernel(&rng, middle, in, 3, 1 + test % 3, stride);
    qb_kernel outer = random_kernel(&rng, out, middle, 1 + test % 3, 3, 1);
    qb_kernel skip = random_kernel(&rng, out, in, 1, 1, stride);
    qb_sigma_problem problem = {.inner = &inner,
                                .outer = &outer,
                                .skip = test % 5 == 0 ? NULL : &skip,
                                .side = {stride * 4, stride * 3}};
    dense m = dense_joint(&problem);
    double sigma = 0;
    assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
    check(sigma, dense_norm(&m, &rng));
    free(m.at);
    free(inner.taps), free(outer.taps), free(skip.taps);
  }
}

/* Tori with more frequencies than the grid of the interpolation. */
static void interpolated_norms_match_the_dense_operator(void **state) {
  (void)state;
  qb_rng rng;
  int noticed = 0;
  qb_rng_seed(&rng, 3, 0);
  for (int test = 0; test < 16; test++) {
    int32_t stride = 1 + test % 2, rows = 1 + test / 2 % 2, cols = rows + test % 3;
    qb_kernel k = random_kernel(&rng, rows, cols, 3, 1 + test % 3, stride);
    qb_sigma_problem problem = {.inner = &k, .side = {stride * (7 + test % 4), stride * (6 + test % 3)}};
    dense d = dense_torus(&k, problem.side);
    double sigma = 0, truth = dense_norm(&d, &rng);
    assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
    check(sigma, truth);
    qb_bound_fault = QB_FAULT_COARSE_GRID;
    assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
    qb_bound_fault = QB_FAULT_NONE;
    noticed += sigma < truth;
    free(d.at);
    free(k.taps);
  }
  print_message("the coarse grid was noticed %d times\n", noticed);
  assert_true(noticed > 0);
}

/* Taps (2, 2, -1): |K|^2 = 9 + 4 cos t - 4 cos 2t, at most 13.5, where cos t = 1/4. Three samples instead of five see
 * the constant 9. */
static void a_coarse_grid_is_below_the_norm(void **state) {
  (void)state;
  double taps[] = {2, 2, -1}, sigma = 0, truth = 0;
  qb_kernel k = {.rows = 1, .cols = 1, .groups = 1, .size = {1, 3}, .stride = {1, 1}, .dilation = {1, 1}, .taps = taps};
  qb_sigma_problem problem = {.inner = &k, .side = {1, 30}};
  for (int f = 0; f < 30; f++) {
    double t = 2 * acos(-1) * f / 30;
    truth = fmax(truth, sqrt(9 + 4 * cos(t) - 4 * cos(2 * t)));
  }
  assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
  assert_true(sigma >= truth * (1 - 1e-15) && sigma <= truth * (1 + 1e-9));
  qb_bound_fault = QB_FAULT_COARSE_GRID;
  assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
  qb_bound_fault = QB_FAULT_NONE;
  assert_true(sigma < 3.01 && truth > 3.6);
}

/* Compositions whose taps and Gram matrices both come from real points, on tori with more frequencies than samples. */
static void composed_norms_match_the_dense_operator(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 5, 0);
  for (int test = 0; test < 12; test++) {
    int32_t stride = 1 + test % 3 / 2;
    int64_t in = 1 + test % 3, middle = 2 + test % 2, out = 1 + test % 2;
    qb_kernel inner = random_kernel(&rng, middle, in, 3, 2 + test % 2, stride);
    qb_kernel outer = random_kernel(&rng, out, middle, 3, 2 + test / 2 % 2, 1);
    qb_kernel skip = random_kernel(&rng, out, in, 1, 1, stride);
    inner.dilation[0] = outer.dilation[0] = 1;
    qb_sigma_problem problem = {.inner = &inner,
                                .outer = &outer,
                                .skip = test % 4 == 0 ? NULL : &skip,
                                .side = {stride * 11, stride * 10}};
    dense m = dense_joint(&problem);
    double sigma = 0, guess = 0, truth = dense_norm(&m, &rng);
    assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
    check(sigma, truth);
    assert_int_equal(qb_sigma_estimate(&problem, &guess, NULL), QB_OK);
    if (!(guess <= sigma * 1.00001 && guess >= truth * 0.5))
      fail_msg("case %d: estimated %g, truth %g", test, guess, truth);
    free(m.at);
    free(inner.taps), free(outer.taps), free(skip.taps);
  }
}

/* Every degree of the table of points, both orders of the product: K of 1 to 7 taps on a long torus. */
static void every_degree_matches_the_dense_operator(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 6, 0);
  for (int test = 0; test < 28; test++) {
    int32_t taps = 1 + test % 7;
    qb_kernel k = random_kernel(&rng, 1 + test / 7 % 2, 1 + test / 14, taps, 1, 1);
    k.dilation[0] = 1;
    qb_sigma_problem problem = {.inner = &k, .side = {31, 1}};
    dense d = dense_torus(&k, problem.side);
    double sigma = 0;
    assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
    check(sigma, dense_norm(&d, &rng));
    free(d.at);
    free(k.taps);
  }
}

enum { RANK_ONE = 48 };

/* G = v v^H with |v|^2 = 1, packed. Its largest eigenvalue is 1 up to 1e-15. */
static bool single_proves(qb_rng *rng, double shift) {
  double v[RANK_ONE], length = 0, *re = calloc(RANK_ONE * (RANK_ONE + 1) / 2, sizeof *re);
  double *im = calloc(RANK_ONE * (RANK_ONE + 1) / 2, sizeof *im);
  sigma_plan plan = {.size = RANK_ONE, .entries = RANK_ONE * (RANK_ONE + 1) / 2, .count = 1};
  sigma_grams grams = {.re = re, .im = im};
  sigma_workspace w;
  for (int i = 0; i < RANK_ONE; i++) {
    v[i] = qb_rng_normal(rng);
    length += v[i] * v[i];
  }
  for (int i = 0, at = 0; i < RANK_ONE; i++)
    for (int j = 0; j <= i; j++, at++)
      re[at] = v[i] * v[j] / length;
  assert_true(sigma_workspace_create(&w, &plan, &grams));
  bool proved = sigma_single_proves(&plan, &grams, 0, 1 + 1e-9, shift, &w);
  sigma_workspace_free(&w);
  free(re);
  free(im);
  return proved;
}

static void float32_proves_what_is_clear_and_no_more(void **state) {
  (void)state;
  qb_rng rng;
  int noticed = 0;
  qb_rng_seed(&rng, 7, 0);
  for (int test = 0; test < 200; test++) {
    double shift = 1 - exp2(-10 - test % 24); /* too small by 1e-3 to 1e-10 */
    assert_false(single_proves(&rng, shift));
    assert_true(single_proves(&rng, 1.01));
    qb_bound_fault = QB_FAULT_NO_SINGLE_CHOLESKY;
    noticed += single_proves(&rng, shift);
    qb_bound_fault = QB_FAULT_NONE;
  }
  print_message("a factorisation without its rounding proved %d false statements\n", noticed);
  assert_true(noticed > 0);
}

/* theory section 3.1: composing the kernels without the crop between them is not an upper bound of the zero-padded
 * product, but the torus form with the gate is. One axis, n = 3. */
static void composed_kernel_needs_the_gated_crop(void **state) {
  (void)state;
  static double first[] = {-.153, .274, -.095}, second[] = {.621, 1.111, .808};
  qb_kernel inner = {.rows = 1,
                     .cols = 1,
                     .groups = 1,
                     .size = {1, 3},
                     .stride = {1, 1},
                     .dilation = {1, 1},
                     .pad_begin = {0, 1},
                     .taps = first};
  qb_kernel outer = inner;
  outer.taps = second;
  qb_sigma_problem joint = {.inner = &inner, .outer = &outer, .side = {1, 5}};
  qb_sigma_problem norm1 = {.inner = &inner, .side = {1, 5}}, norm2 = {.inner = &outer, .side = {1, 5}};
  double half, s1, s2, exact = 0;
  assert_int_equal(qb_sigma_bound(&joint, &half, NULL), QB_OK);
  assert_int_equal(qb_sigma_bound(&norm1, &s1, NULL), QB_OK);
  assert_int_equal(qb_sigma_bound(&norm2, &s2, NULL), QB_OK);

  qb_rng rng;
  qb_rng_seed(&rng, 3, 0);
  for (int gate = 0; gate < 8; gate++) { /* the worst gate of W2 G W1 lies at a corner */
    dense a = dense_zeros(3, 3), b = dense_zeros(3, 3);
    for (int64_t y = 0; y < 3; y++)
      for (int64_t t = -1; t <= 1; t++)
        if (y + t >= 0 && y + t < 3) {
          a.at[y * 3 + y + t] = first[t + 1] * ((gate >> y) & 1);
          b.at[y * 3 + y + t] = second[t + 1];
        }
    dense c = dense_product(&b, &a);
    exact = fmax(exact, dense_norm(&c, &rng));
    free(a.at), free(b.at), free(c.at);
  }
  double composed = 2 * half;    /* norm of the composed kernel on the torus */
  assert_true(exact > composed); /* so the composed kernel alone would be unsound */
  assert_true(exact <= half + s1 * s2 / 2);
}

static void extreme_kernels_are_handled(void **state) {
  (void)state;
  double zero[4] = {0}, huge[4] = {1e200, 0, 0, 1e200}, tiny[4] = {1e-40, 0, 0, 1e-40};
  qb_kernel k = {.rows = 2, .cols = 2, .groups = 1, .size = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}};
  qb_sigma_problem problem = {.inner = &k, .side = {1, 1}};
  double sigma;
  k.taps = zero;
  assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
  assert_true(sigma == 0);
  k.taps = tiny;
  assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_OK);
  check(sigma, 1e-40);
  k.taps = huge;
  assert_int_equal(qb_sigma_bound(&problem, &sigma, NULL), QB_ERROR_NUMERIC);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_kernel_matches_the_dense_operator),
      cmocka_unit_test(joint_operator_matches_the_dense_operator),
      cmocka_unit_test(interpolated_norms_match_the_dense_operator),
      cmocka_unit_test(a_coarse_grid_is_below_the_norm),
      cmocka_unit_test(composed_norms_match_the_dense_operator),
      cmocka_unit_test(every_degree_matches_the_dense_operator),
      cmocka_unit_test(float32_proves_what_is_clear_and_no_more),
      cmocka_unit_test(composed_kernel_needs_the_gated_crop),
      cmocka_unit_test(extreme_kernels_are_handled),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
