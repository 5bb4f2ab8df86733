/* Bits chosen to keep a promise, on the demo network and generated digits: kept and missed promises, each against an
 * independent measurement; samples that must be refused; plans. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <qbound/qbound.h>

#include "stats/binomial.h"
#include "support/temp_folder.h"

static const char demo_path[] = QB_SOURCE_DIR "/examples/demo/digits.onnx";

typedef struct outcome {
  qb_model *model, *quantized;
  qb_data calibration, verify;
  qb_quantize_settings settings;
  qb_allocate_settings how;
  qb_quantize_info info;
  qb_allocation allocation;
  qb_error error;
} outcome;

static void begin(outcome *o, qb_promise promise, double target) {
  *o = (outcome){0};
  assert_int_equal(qb_model_load(demo_path, &o->model, &o->error), QB_OK);
  qb_data_default(&o->calibration);
  o->calibration.path = "digits:16:5";
  o->calibration.preprocess = "unit";
  o->verify = o->calibration;
  o->verify.path = "digits:400:6";
  qb_quantize_settings_default(&o->settings);
  o->settings.grid = QB_GRID_MSE;
  o->settings.calibration_data = &o->calibration;
  qb_allocate_settings_default(&o->how);
  o->how.promise = promise;
  o->how.target = target;
  o->how.preprocess = "unit";
}

static qb_status choose(outcome *o) {
  return qb_quantize_auto(o->model, &o->settings, &o->how, NULL, &o->quantized, &o->info, &o->allocation, &o->error);
}

static void must_choose(outcome *o) {
  if (choose(o) != QB_OK)
    fail_msg("%s", o->error.message);
}

static void end(outcome *o) {
  qb_quantize_info_free(&o->info);
  qb_allocation_free(&o->allocation);
  qb_model_free(o->quantized);
  qb_model_free(o->model);
}

static double average_bits(const qb_allocation *a) {
  double bits = 0, weights = 0;
  for (int l = 0; l < a->layer_count; l++)
    if (a->layers[l].bits > 0) {
      bits += (double)a->layers[l].weights * a->layers[l].bits;
      weights += (double)a->layers[l].weights;
    }
  return bits / weights;
}

/* ------------------------------------------------------------------------------------------------------- budgets */

static void average_is_kept(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    outcome o;
    begin(&o, QB_PROMISE_AVERAGE_BITS, 3.5);
    if (i == 1)
      o.settings.calibration_data = NULL; /* the data-free rule alone */
    must_choose(&o);
    assert_true(o.allocation.kept);
    assert_true(average_bits(&o.allocation) <= 3.5);
    assert_true(fabs(average_bits(&o.allocation) - o.allocation.average_bits) < 1e-12);
    assert_true(o.allocation.average_bits > 3.4);
    assert_int_equal(o.allocation.layer_count, o.info.layer_count);
    double share = 0;
    for (int l = 0; l < o.info.layer_count; l++) {
      assert_int_equal(o.allocation.layers[l].bits, o.info.layers[l].bits);
      share += o.allocation.layers[l].share;
    }
    assert_true(fabs(share - 1) < 1e-9);
    const qb_allocation_plan *plans = o.allocation.plans;
    assert_int_equal(plans[QB_RULE_MEASURED].tried, i == 0);
    for (int rule = 0; rule < QB_ALLOCATION_PLANS && i == 0; rule++)
      assert_true(plans[o.allocation.rule].error <= plans[rule].error);
    if (i == 1)
      assert_int_equal(o.allocation.rule, QB_RULE_CERTIFIED);
    end(&o);
  }
}

static void size_is_kept(void **state) {
  const char *path = temp_path(*state, "q.onnx");
  const double targets[] = {200000, 60000, 1000};
  int64_t sizes[3];
  for (int i = 0; i < 3; i++) {
    outcome o;
    qb_save_info save;
    begin(&o, QB_PROMISE_SIZE, targets[i]);
    must_choose(&o);
    assert_int_equal(qb_model_save(o.quantized, path, NULL, &save, &o.error), QB_OK);
    assert_int_equal((int64_t)o.allocation.reached, save.size_bytes);
    assert_int_equal(o.allocation.kept, (double)save.size_bytes <= targets[i]);
    sizes[i] = save.size_bytes;
    if (!o.allocation.kept)
      for (int l = 0; l < o.allocation.layer_count; l++) /* the best there is */
        assert_int_equal(o.allocation.layers[l].bits, 2);
    end(&o);
  }
  assert_true(sizes[0] <= 200000 && sizes[2] > 1000 && sizes[1] <= sizes[0]);
}

/* ------------------------------------------------------------------------------------------------------- samples */

/* What the allocation says about the verification samples, measured again by the public call. */
static bool claims_hold(const outcome *o, const qb_allocation *claimed) {
  qb_measurement measured;
  qb_measure_settings settings;
  const qb_allocation_test *test = &claimed->tests[0];
  double upper;
  for (int i = 0; i < claimed->test_count && claimed->tests[i].passed; i++)
    test = &claimed->tests[i];
  qb_measure_settings_default(&settings);
  assert_int_equal(qb_measure(o->model, o->quantized, &o->verify, &settings, NULL, &measured, NULL), QB_OK);
  assert_int_equal(qb_binomial_upper(measured.images, measured.flip_count, 1 - claimed->confidence, &upper, NULL),
                   QB_OK);
  bool holds = measured.images == claimed->verified && measured.flip_count == test->flips &&
               test->flip_upper == upper && measured.error_max == test->error_max &&
               claimed->kept == (claimed->promise == QB_PROMISE_FLIP_RATE ? upper <= claimed->target
                                                                          : measured.error_max <= claimed->target);
  qb_measurement_free(&measured);
  return holds;
}

static void flips_are_kept(void **state) {
  (void)state;
  outcome o;
  begin(&o, QB_PROMISE_FLIP_RATE, 0.05);
  o.how.verify = &o.verify;
  must_choose(&o);
  assert_true(o.allocation.kept);
  assert_true(o.allocation.average_bits < 8);
  assert_int_equal(o.allocation.verified, 400);
  double at, next;
  assert_int_equal(qb_binomial_upper(400, o.allocation.flips_allowed, 0.01, &at, NULL), QB_OK);
  assert_int_equal(qb_binomial_upper(400, o.allocation.flips_allowed + 1, 0.01, &next, NULL), QB_OK);
  assert_true(at <= 0.05 && next > 0.05);
  for (int i = 1; i < o.allocation.test_count; i++) { /* a sequence fixed before: bits only fall, one failure ends it */
    assert_true(o.allocation.tests[i].average_bits < o.allocation.tests[i - 1].average_bits);
    assert_true(o.allocation.tests[i - 1].passed);
  }
  assert_true(claims_hold(&o, &o.allocation));

  /* planted: every count off by one is noticed by the same check */
  for (int fault = 0; fault < 3; fault++) {
    qb_allocation wrong = o.allocation;
    for (int i = 0; i < wrong.test_count; i++)
      wrong.tests[i].flips += fault == 0 ? 1 : 0;
    wrong.verified += fault == 1;
    for (int i = 0; i < wrong.test_count && fault == 2; i++)
      (void)!qb_binomial_upper(401, wrong.tests[i].flips, 0.01, &wrong.tests[i].flip_upper, NULL);
    assert_false(claims_hold(&o, &wrong));
  }
  end(&o);
}

static void missed_promises_return_the_best(void **state) {
  (void)state;
  const int two[] = {2};
  outcome o;
  begin(&o, QB_PROMISE_FLIP_RATE, 0.02);
  o.how.verify = &o.verify;
  o.how.widths = two;
  o.how.width_count = 1;
  o.settings.grid = QB_GRID_MINMAX;
  must_choose(&o);
  assert_false(o.allocation.kept);
  assert_non_null(o.quantized);
  assert_true(o.allocation.reached > 0.02);
  assert_non_null(strstr(o.allocation.message, "the promise allows"));
  assert_true(claims_hold(&o, &o.allocation));
  end(&o);

  begin(&o, QB_PROMISE_FLIP_RATE, 0.001); /* 400 samples cannot say that */
  o.how.verify = &o.verify;
  must_choose(&o);
  assert_false(o.allocation.kept);
  assert_int_equal(o.allocation.flips_allowed, -1);
  assert_non_null(strstr(o.allocation.message, "4603")); /* (1 - 0.001)^4603 <= 0.01 < (1 - 0.001)^4602 */
  end(&o);

  begin(&o, QB_PROMISE_MAX_ERROR, 1e-6);
  o.how.verify = &o.verify;
  must_choose(&o);
  assert_false(o.allocation.kept);
  assert_true(claims_hold(&o, &o.allocation));
  end(&o);
}

static void errors_are_kept(void **state) {
  (void)state;
  outcome o;
  begin(&o, QB_PROMISE_MAX_ERROR, 3);
  o.how.verify = &o.verify;
  must_choose(&o);
  assert_true(o.allocation.kept && o.allocation.reached <= 3);
  assert_true(o.allocation.exceed_upper > 0.011 && o.allocation.exceed_upper < 0.012); /* 1 - 0.01^(1/400) */
  assert_true(claims_hold(&o, &o.allocation));
  end(&o);
}

static void planted_overlap_is_refused(void **state) {
  (void)state;
  outcome o;
  begin(&o, QB_PROMISE_FLIP_RATE, 0.05);
  o.verify.path = "digits:100:5"; /* the calibration digits are the first 16 of them */
  o.how.verify = &o.verify;
  assert_int_equal(choose(&o), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(o.error.message, "calibration sample"));
  assert_null(o.quantized);
  end(&o);

  begin(&o, QB_PROMISE_FLIP_RATE, 0.05);
  o.verify.path = "digits:100:5";
  o.verify.skip = 16; /* what is left is unseen */
  o.how.verify = &o.verify;
  must_choose(&o);
  end(&o);
}

/* A float32 array with the samples in it, the last one a copy of the first. */
static void write_twice(const char *path, int count) {
  FILE *file = fopen(path, "wb");
  char header[118];
  assert_non_null(file);
  int used =
      snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 1, 28, 28), }", count);
  memset(header + used, ' ', sizeof header - (size_t)used);
  header[sizeof header - 1] = '\n';
  fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file);
  fwrite(header, 1, sizeof header, file);
  for (int i = 0; i < count; i++)
    for (int k = 0; k < 784; k++) {
      float x = (float)((i == count - 1 ? 0 : i) * 784 + k) / 8192;
      fwrite(&x, sizeof x, 1, file);
    }
  fclose(file);
}

static void planted_duplicate_is_refused(void **state) {
  const char *path = temp_path(*state, "twice.npy");
  write_twice(path, 6);
  outcome o;
  begin(&o, QB_PROMISE_MAX_ERROR, 5);
  o.verify.path = path;
  o.verify.preprocess = "raw";
  o.how.verify = &o.verify;
  assert_int_equal(choose(&o), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(o.error.message, "samples 0 and 5 are the same"));
  end(&o);
}

/* ------------------------------------------------------------------------------------------------------- the rest */

static void proofs_are_kept(void **state) {
  const char *path = temp_path(*state, "q.onnx");
  outcome o;
  begin(&o, QB_PROMISE_CERTIFIED_ERROR, 1e6);
  must_choose(&o);
  assert_true(o.allocation.kept);
  assert_true(o.allocation.reached <= 1e6);
  assert_int_equal(o.allocation.rule, QB_RULE_CERTIFIED);

  /* a certificate of the written file says the same */
  qb_certify_settings certify;
  qb_certificate certificate;
  qb_model *read = NULL;
  qb_certify_settings_default(&certify);
  certify.preprocess = "unit";
  certify.methods = "layerwise,interval";
  certify.search = false;
  assert_int_equal(qb_model_save(o.quantized, path, NULL, NULL, &o.error), QB_OK);
  assert_int_equal(qb_model_load(path, &read, &o.error), QB_OK);
  assert_int_equal(qb_certify(o.model, read, &certify, NULL, &certificate, &o.error), QB_OK);
  assert_true(certificate.worst_case.bound == o.allocation.reached);
  qb_certificate_free(&certificate);
  qb_model_free(read);
  end(&o);

  begin(&o, QB_PROMISE_CERTIFIED_ERROR, 1e-3);
  must_choose(&o);
  assert_false(o.allocation.kept);
  assert_true(o.allocation.average_bits == 8);
  end(&o);
}

static void plans_fix_layers(void **state) {
  (void)state;
  outcome o;
  begin(&o, QB_PROMISE_AVERAGE_BITS, 4);
  const qb_layer_bits plan[] = {{qb_model_layer_name(o.model, 0), 0}, {qb_model_layer_name(o.model, 1), 7}};
  o.settings.plan = plan;
  o.settings.plan_count = 2;
  must_choose(&o);
  assert_int_equal(o.allocation.layers[0].bits, 0);
  assert_int_equal(o.allocation.layers[1].bits, 7);
  assert_true(o.allocation.layers[0].fixed && o.allocation.layers[1].fixed && !o.allocation.layers[2].fixed);
  assert_true(average_bits(&o.allocation) <= 4);
  end(&o);
}

static void settings_are_checked(void **state) {
  (void)state;
  const int falling[] = {4, 2}, wide[] = {2, 9};
  const int *const widths[] = {falling, wide};
  outcome o;
  for (int i = 0; i < 8; i++) {
    begin(&o, QB_PROMISE_AVERAGE_BITS, 4);
    o.how.target = i == 0 ? 0 : i == 1 ? 1.9 : i == 2 ? (double)NAN : 4;
    o.how.confidence = i == 3 ? 1 : 0.99;
    if (i == 4 || i == 5) {
      o.how.widths = widths[i - 4];
      o.how.width_count = 2;
    }
    if (i == 6)
      o.how.promise = QB_PROMISE_FLIP_RATE; /* of nothing */
    if (i == 7)
      o.how.samples = 0;
    assert_int_equal(choose(&o), QB_ERROR_ARGUMENT);
    assert_null(o.quantized);
    assert_null(o.allocation.layers);
    end(&o);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(average_is_kept),
      cmocka_unit_test_setup_teardown(size_is_kept, temp_folder_create, temp_folder_remove),
      cmocka_unit_test(flips_are_kept),
      cmocka_unit_test(missed_promises_return_the_best),
      cmocka_unit_test(errors_are_kept),
      cmocka_unit_test(planted_overlap_is_refused),
      cmocka_unit_test_setup_teardown(planted_duplicate_is_refused, temp_folder_create, temp_folder_remove),
      cmocka_unit_test_setup_teardown(proofs_are_kept, temp_folder_create, temp_folder_remove),
      cmocka_unit_test(plans_fix_layers),
      cmocka_unit_test(settings_are_checked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
