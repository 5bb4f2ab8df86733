/* The search finds what it must on networks whose worst case is known, and never claims more than a proved bound. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bound/layerwise.h"
#include "search/search.h"
#include "support/network_builder.h"
#include "support/random_network.h"

static qb_graph two_rows(const float *weight) {
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 3));
  return network_builder_finish(&builder, network_gemm(&builder, builder.graph.inputs[0], 2, weight, NULL));
}

static void run_search(const qb_graph *a, const qb_graph *b, const float *lo, const float *hi, int64_t output,
                       qb_search_result *result) {
  qb_error error;
  qb_search_settings settings;
  qb_search_settings_default(&settings);
  settings.threads = 1;
  settings.rounds = 12;
  settings.output = output;
  if (qb_search_lower(a, b, lo, hi, &settings, NULL, result, &error) != QB_OK)
    fail_msg("%s", error.message);
}

/* d = (x0 - x1 + x2, x2): the worst case over [-1,1]^3 is 3, at a corner. */
static void test_finds_the_corner(void **state) {
  (void)state;
  const float w[6] = {1, 0, 0, 0, 1, 0}, w_q[6] = {2, -1, 1, 0, 1, 1};
  const float lo[3] = {-1, -1, -1}, hi[3] = {1, 1, 1};
  qb_graph a = two_rows(w), b = two_rows(w_q);
  qb_search_result result;
  run_search(&a, &b, lo, hi, -1, &result);
  assert_true(result.lower > 3 - 1e-12 && result.lower <= 3);
  assert_int_equal(result.found, 0);
  assert_false(result.late);
  assert_non_null(result.input);
  qb_search_result_free(&result);
  run_search(&a, &b, lo, hi, 1, &result);
  assert_true(result.lower > 1 - 1e-12 && result.lower <= 1);
  assert_int_equal(result.found, 1);
  qb_search_result_free(&result);
  qb_graph_free(&a);
  qb_graph_free(&b);
}

/* Rows exchanged: wherever x0 != x1 the decisions differ. Equal networks: nothing is found. */
static void test_proves_flips_and_nothing_else(void **state) {
  (void)state;
  const float w[6] = {1, 0, 0, 0, 1, 0}, w_q[6] = {0, 1, 0, 1, 0, 0};
  const float lo[3] = {0, 0, 0}, hi[3] = {1, 1, 1};
  qb_graph a = two_rows(w), b = two_rows(w_q);
  qb_search_result result;
  run_search(&a, &b, lo, hi, -1, &result);
  assert_true(result.flips);
  assert_int_equal(result.top, 1 - result.other_top);
  int larger = result.flip[1] > result.flip[0];
  assert_int_equal(result.top, larger);
  qb_search_result_free(&result);
  run_search(&a, &a, lo, hi, -1, &result);
  assert_false(result.flips);
  assert_true(result.lower == 0);
  assert_null(result.input);
  qb_search_result_free(&result);
  qb_graph_free(&a);
  qb_graph_free(&b);
}

/* Start from given data: the only input with a difference is where the search begins. */
static void test_starts_from_data(void **state) {
  (void)state;
  const float w[6] = {1, 0, 0, 0, 1, 0}, w_q[6] = {1.5f, 0, 0, 0, 1, 0};
  const float lo[3] = {-1, -1, -1}, hi[3] = {1, 1, 1}, data[3] = {9, 0, 0};
  qb_graph a = two_rows(w), b = two_rows(w_q);
  qb_error error;
  qb_search_result result;
  qb_search_settings settings;
  qb_search_settings_default(&settings);
  settings.rounds = 4;
  settings.data = data;
  settings.data_count = 1;
  assert_int_equal(qb_search_lower(&a, &b, lo, hi, &settings, NULL, &result, &error), QB_OK);
  assert_true(result.lower > 0.5 - 1e-12 && result.lower <= 0.5); /* the data are moved into the box first */
  qb_search_result_free(&result);
  settings.output = 2;
  assert_int_equal(qb_search_lower(&a, &b, lo, hi, &settings, NULL, &result, &error), QB_ERROR_ARGUMENT);
  qb_search_result_free(&result);
  qb_graph_free(&a);
  qb_graph_free(&b);
}

static void test_never_above_a_bound(void **state) {
  (void)state;
  int compared = 0;
  for (uint64_t i = 0; i < 30; i++) {
    qb_rng rng;
    qb_rng_seed(&rng, 77, i);
    random_style style = random_network_style(&rng);
    random_network network;
    random_network_create(&rng, &style, &network);
    qb_layerwise layerwise;
    qb_search_result result;
    qb_error error;
    if (qb_layerwise_bound(&network.pair, &network.domain, &layerwise, &error) == QB_OK) {
      run_search(&network.original, &network.quantized, network.domain.lo, network.domain.hi, -1, &result);
      assert_true(result.lower <= qb_magnitude_to_double(layerwise.bound));
      for (int64_t k = 0; result.input != NULL && k < network.domain.count; k++)
        assert_true(result.input[k] >= network.domain.lo[k] && result.input[k] <= network.domain.hi[k]);
      compared++;
      qb_search_result_free(&result);
    }
    qb_layerwise_free(&layerwise);
    random_network_free(&network);
  }
  assert_true(compared >= 20);
}

/* A network whose proof needs the exact engine: without time for it nothing is claimed, and it says so. */
static void test_says_what_it_had_no_time_to_prove(void **state) {
  (void)state;
  enum { SIDE = 56, CHANNELS = 64, INPUTS = CHANNELS * SIDE * SIDE };
  static float w[2][CHANNELS * CHANNELS * 9], lo[INPUTS], hi[INPUTS];
  qb_graph graphs[2];
  for (int i = 0; i < CHANNELS * CHANNELS * 9; i++) {
    w[0][i] = (float)(i % 7 - 3) / 64;
    w[1][i] = w[0][i] + (float)(i % 5 - 2) / 4096;
  }
  for (int g = 0; g < 2; g++) {
    network_builder builder;
    network_builder_init(&builder, QB_SHAPE(1, CHANNELS, SIDE, SIDE));
    graphs[g] = network_builder_finish(&builder, network_conv(&builder, builder.graph.inputs[0], CHANNELS,
                                                              network_window(3, 1, 1), 1, w[g], NULL));
  }
  for (int i = 0; i < INPUTS; i++) {
    lo[i] = (float)(i % 11) / 64;
    hi[i] = 1;
  }
  qb_search_result result;
  qb_search_settings settings;
  qb_error error;
  qb_search_settings_default(&settings);
  settings.macs = 1e8;
  settings.timeout_seconds = settings.proof_seconds = 1e-9;
  if (qb_search_lower(&graphs[0], &graphs[1], lo, hi, &settings, NULL, &result, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_true(result.late && result.lower == 0 && result.input == NULL && !result.flips);
  assert_true(result.inputs_tried > 0);
  qb_search_result_free(&result);
  qb_graph_free(&graphs[0]);
  qb_graph_free(&graphs[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_finds_the_corner),
      cmocka_unit_test(test_proves_flips_and_nothing_else),
      cmocka_unit_test(test_starts_from_data),
      cmocka_unit_test(test_never_above_a_bound),
      cmocka_unit_test(test_says_what_it_had_no_time_to_prove),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
