/* Weighted norms: networks whose largest error is known, under weights drawn at random, and planted faults. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <omp.h>

#include "bound/fault.h"
#include "bound/spectral.h"
#include "support/network_builder.h"

enum { SEEDS = 32 };

typedef struct fixture {
  qb_graph original, quantized;
  qb_pair pair;
  qb_domain domain;
} fixture;

static qb_value_id scalar_conv(network_builder *builder, qb_value_id x, float weight, float bias) {
  return network_conv(builder, x, 1, network_window(1, 1, 0), 1, &weight, &bias);
}

/* y = 2 (A u + 0.5 relu(3 u + 100)), u = 2 x for |x| <= 1, so the ReLU is linear; the network changes 2 to 2.25 in the
 * first layer. With A = 1 the gain from u to y is 5, with A = 4 11: the errors are 1.25 and 2.75. One channel
 * everywhere, so no inequality of the theory loses anything, whatever the weights. */
static void begin(fixture *f, bool identity) {
  network_builder builder;
  network_builder_init(&builder, QB_SHAPE(1, 1, 1, 1));
  qb_value_id u = scalar_conv(&builder, builder.input, 2, 0);
  qb_value_id h = network_unary(&builder, QB_OP_RELU, scalar_conv(&builder, u, 3, 100));
  qb_value_id branch = scalar_conv(&builder, h, 0.5F, 0), skip = identity ? u : scalar_conv(&builder, u, 4, 0);
  qb_value_id sum = network_binary(&builder, QB_OP_ADD, branch, skip);
  f->original = network_builder_finish(&builder, scalar_conv(&builder, sum, 2, 0));
  f->quantized = network_clone(&f->original);
  network_edit(&f->quantized, f->original.nodes[0].inputs[1])[0] = 2.25F;
  f->pair = network_pair(&f->original, &f->quantized);
  assert_int_equal(qb_domain_interval(&f->original, -1, 1, &f->domain, NULL), QB_OK);
}

static void end(fixture *f) {
  qb_domain_free(&f->domain);
  network_pair_free(&f->pair);
  qb_graph_free(&f->quantized);
  qb_graph_free(&f->original);
}

static double bound_with(const fixture *f, uint64_t drawn, qb_fault fault, int *weighted) {
  qb_spectral_settings settings;
  qb_spectral_result result;
  qb_spectral_settings_default(&settings);
  settings.drawn_weights = drawn;
  qb_bound_fault = fault;
  assert_int_equal(qb_bound_spectral(&f->pair, &f->domain, &settings, &result, NULL), QB_OK);
  qb_bound_fault = QB_FAULT_NONE;
  assert_true(result.bound.applies);
  for (qb_value_id v = 0; v < f->quantized.value_count; v++)
    *weighted += result.weights[v] != NULL;
  double value = qb_magnitude_to_double(result.bound.value);
  qb_spectral_result_free(&result);
  return value;
}

static void any_weights_give_the_exact_error(void **state) {
  (void)state;
  for (int identity = 0; identity < 2; identity++) {
    fixture f;
    int weighted = 0;
    double truth = identity ? 1.25 : 2.75;
    begin(&f, identity);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
      double value = bound_with(&f, seed, QB_FAULT_NONE, &weighted);
      if (!(value >= truth && value <= truth * 1.000001))
        fail_msg("weights %d: %.17g is not just above %.17g", (int)seed, value, truth);
    }
    assert_true(weighted >= 4 * (SEEDS - 1));
    end(&f);
  }
}

/* How many draws of the weights make a bound with the planted fault too small. */
static int count_noticed(bool identity, qb_fault fault) {
  fixture f;
  int noticed = 0, ignored = 0;
  begin(&f, identity);
  for (uint64_t seed = 1; seed < SEEDS; seed++)
    noticed += bound_with(&f, seed, fault, &ignored) < (identity ? 1.25 : 2.75) * 0.99;
  end(&f);
  return noticed;
}

static void forgotten_weights_are_noticed(void **state) {
  (void)state;
  assert_true(count_noticed(true, QB_FAULT_SCALE_WITHOUT_INVERSE) >= 4);
  assert_true(count_noticed(false, QB_FAULT_SCALE_WITHOUT_INVERSE) >= 4);
  assert_true(count_noticed(true, QB_FAULT_SKIP_UNWEIGHTED) >= 4);
  assert_true(count_noticed(false, QB_FAULT_SKIP_UNWEIGHTED) >= 4);
  assert_true(count_noticed(true, QB_FAULT_SUM_KEEPS_WEIGHTS) >= 4);
  assert_true(count_noticed(true, QB_FAULT_ROW_UNWEIGHTED) >= 4);
  assert_true(count_noticed(false, QB_FAULT_ROW_UNWEIGHTED) >= 4);
}

int main(void) {
  omp_set_num_threads(1); /* the networks are tiny */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(any_weights_give_the_exact_error),
      cmocka_unit_test(forgotten_weights_are_noticed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
