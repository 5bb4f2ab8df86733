/* The public calls on the demo network and a small chain: what they give, what they refuse, and every allocation
 * failing once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <qbound/qbound.h>

#include "support/faults.h"

static const char demo_path[] = QB_SOURCE_DIR "/examples/demo/digits.onnx";
static const char chain_path[] = QB_TEST_DIR "/cli/files/chain.onnx";

static qb_model *load(const char *path) {
  qb_error error = {0};
  qb_model *model = NULL;
  if (qb_model_load(path, &model, &error) != QB_OK)
    fail_msg("%s", error.message);
  return model;
}

static void missing_files_are_named(void **state) {
  (void)state;
  qb_error error = {0};
  qb_model *model = (qb_model *)&error;
  assert_int_equal(qb_model_load("no/such.onnx", &model, &error), QB_ERROR_IO);
  assert_null(model);
  assert_non_null(strstr(error.message, "no/such.onnx"));
  assert_int_equal(qb_model_load("no/such.onnx", &model, NULL), QB_ERROR_IO);
  qb_model_free(NULL);
}

static void inspection_describes_the_demo(void **state) {
  (void)state;
  qb_error error = {0};
  qb_inspection inspection;
  assert_int_equal(qb_inspect(demo_path, NULL, NULL, &inspection, &error), QB_OK);
  assert_true(inspection.supported);
  assert_int_equal(inspection.layer_count, 15);
  assert_int_equal(inspection.opset, 13);
  assert_int_equal(inspection.layers[0].weight_shape[0], 16);
  assert_int_equal(inspection.layers[0].row_length, 9);
  assert_true(inspection.layers[0].radius >= inspection.layers[0].largest);
  qb_inspection_free(&inspection);
  qb_inspection_free(&inspection);
  qb_inspection_free(NULL);
}

/* The weights of the chain are k/4 with k = i % 7 - 3, so that its norms are known. */
static void norms_of_the_chain_are_exact(void **state) {
  (void)state;
  qb_error error = {0};
  qb_inspection inspection;
  const qb_inspect_settings spectral = {.spectral = true};
  assert_int_equal(qb_inspect(chain_path, &spectral, NULL, &inspection, &error), QB_OK);
  double largest = 0;
  for (int row = 0; row < 2; row++) {
    double sum = 0;
    for (int i = 36 * row; i < 36 * row + 36; i++)
      sum += fabs((double)(i % 7 - 3)) / 4;
    largest = fmax(largest, sum);
  }
  const qb_inspect_layer *layer = &inspection.layers[1];
  assert_true(layer->radius >= largest && layer->radius <= largest * (1 + 1e-12));
  assert_true(layer->range_ratio == 1 && layer->largest == 0.75 && layer->zero_channels == 0);
  assert_int_equal(layer->macs, 2 * 36 * 36);

  /* sigma lies between the l2 norm of a row and Frobenius' norm; the last layer is a plain matrix */
  layer = &inspection.layers[2];
  double row = 0, all = 0;
  for (int i = 0; i < 3 * 72; i++) {
    double square = (double)((i % 7 - 3) * (i % 7 - 3)) / 16;
    all += square;
    row += i < 72 ? square : 0;
  }
  assert_true(layer->sigma >= sqrt(row) && layer->sigma <= sqrt(all) * (1 + 1e-6));
  qb_inspection_free(&inspection);
}

static void quantizing_fills_the_info(void **state) {
  (void)state;
  qb_error error = {0};
  qb_model *model = load(demo_path), *quantized = NULL, *again = NULL;
  qb_quantize_settings settings;
  qb_quantize_info info;
  qb_quantize_settings_default(&settings);
  settings.bits = 3;
  assert_int_equal(qb_quantize(model, &settings, NULL, &quantized, &info, &error), QB_OK);
  assert_int_equal(info.layer_count, 15);
  assert_int_equal(info.layers[0].scales, 16);
  assert_int_equal(qb_quantize_layer_bytes(&info.layers[0], false), 16 * 9 / 2 + 4 * 16);
  assert_int_equal(qb_quantize_layer_bytes(&info.layers[0], true), 16 * 9 + 4 * 16);
  assert_string_equal(qb_model_path(quantized), demo_path);
  assert_string_equal(qb_model_layer_name(quantized, 14), "/12/Gemm");
  assert_int_equal(qb_quantize(quantized, &settings, NULL, &again, NULL, &error), QB_ERROR_ARGUMENT);
  assert_null(again);
  settings.bits = 1;
  assert_int_equal(qb_quantize(model, &settings, NULL, &again, NULL, &error), QB_ERROR_ARGUMENT);
  qb_quantize_info_free(&info);
  qb_model_free(quantized);
  qb_model_free(model);
}

/* 8 bits for weights and activations: calibrated on drawn digits, written, read back, measured on others. */
static void activations_survive_the_file(void **state) {
  (void)state;
  static const char path[] = "/tmp/qbound_test_public_api_activations.onnx";
  qb_error error = {0};
  qb_model *model = load(demo_path), *quantized = NULL, *written = NULL;
  qb_data data;
  qb_data_default(&data);
  data.path = "digits:40:3";
  data.preprocess = "unit";
  qb_quantize_settings settings;
  qb_quantize_info info;
  qb_save_info save;
  qb_quantize_settings_default(&settings);
  settings.activation_bits = 8;
  settings.activation_range = QB_RANGE_MSE;
  assert_int_equal(qb_quantize(model, &settings, NULL, &quantized, &info, &error), QB_ERROR_ARGUMENT);
  settings.calibration_data = &data;
  if (qb_quantize(model, &settings, NULL, &quantized, &info, &error) != QB_OK ||
      qb_model_save(quantized, path, NULL, &save, &error) != QB_OK || qb_model_load(path, &written, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_int_equal(info.calibration_samples, 40);
  assert_true(info.activation_count > 10);
  assert_true(save.output_difference == 0 && save.float_difference < 1e-5);
  qb_measure_settings how;
  qb_measure_settings_default(&how);
  qb_measurement measurement;
  data.path = "digits:200:9";
  assert_int_equal(qb_measure(model, written, &data, &how, NULL, &measurement, &error), QB_OK);
  assert_true(measurement.model.top1 > 0.95 && measurement.other.top1 >= measurement.model.top1 - 0.01);
  assert_true(measurement.error_max > 0);
  qb_measurement_free(&measurement);
  data.path = "digits:40:3";
  data.preprocess = "resize=14:scale=255";
  qb_model *none = NULL;
  assert_int_equal(qb_quantize(model, &settings, NULL, &none, NULL, &error), QB_ERROR_SHAPE);
  assert_null(none);
  qb_quantize_info_free(&info);
  qb_model_free(written);
  qb_model_free(quantized);
  qb_model_free(model);
  unlink(path);
}

static void only_quantized_models_are_saved(void **state) {
  (void)state;
  qb_error error = {0};
  qb_model *model = load(chain_path);
  assert_int_equal(qb_model_save(model, "no.onnx", NULL, NULL, &error), QB_ERROR_ARGUMENT);
  assert_int_not_equal(access("no.onnx", F_OK), 0);
  qb_model_free(model);
}

static bool stop(void *context, const char *what, int64_t done, int64_t total) {
  (void)what;
  assert_true(done <= total);
  return --*(int *)context > 0;
}

static void sweeps_refuse_bad_settings_and_stop(void **state) {
  (void)state;
  qb_error error = {0};
  qb_model *model = load(chain_path);
  qb_bound_settings settings;
  qb_bound_report report;
  qb_bound_settings_default(&settings);
  assert_int_equal(qb_bound_sweep(model, &settings, NULL, &report, &error), QB_ERROR_ARGUMENT);
  settings.domain = QB_DOMAIN_BOX;
  settings.lo = 1;
  settings.hi = -1;
  assert_int_equal(qb_bound_sweep(model, &settings, NULL, &report, &error), QB_ERROR_ARGUMENT);
  settings.hi = INFINITY;
  assert_int_equal(qb_bound_sweep(model, &settings, NULL, &report, &error), QB_ERROR_ARGUMENT);
  settings.hi = 2;
  const int widths[] = {2, 3, 4};
  settings.bits = widths;
  settings.bits_count = 3;
  int left = 2;
  const qb_progress progress = {stop, &left};
  assert_int_equal(qb_bound_sweep(model, &settings, &progress, &report, &error), QB_ERROR_INTERRUPTED);
  assert_null(report.rows);
  qb_bound_report_free(&report);
  qb_bound_report_free(NULL);
  qb_model_free(model);
}

static void best_is_the_smallest_graph_bound(void **state) {
  (void)state;
  qb_error error = {0};
  qb_model *model = load(chain_path);
  qb_bound_settings settings;
  qb_bound_report report;
  qb_bound_settings_default(&settings);
  settings.domain = QB_DOMAIN_BOX;
  settings.lo = -1;
  settings.hi = 1;
  assert_int_equal(qb_bound_sweep(model, &settings, NULL, &report, &error), QB_OK);
  assert_true(report.chain_is_network);
  const qb_bound_row *row = &report.rows[0];
  double smallest = INFINITY;
  for (int i = 0; i + 1 < row->count; i++)
    if (row->bounds[i].is_graph && row->bounds[i].applies)
      smallest = fmin(smallest, row->bounds[i].log10);
  assert_string_equal(row->bounds[row->count - 1].name, "best");
  assert_true(row->bounds[row->count - 1].log10 == smallest && isfinite(smallest));
  qb_bound_report_free(&report);
  qb_model_free(model);
}

static void measuring_needs_data_that_fits(void **state) {
  (void)state;
  qb_error error = {0};
  qb_model *model = load(chain_path);
  qb_data data;
  qb_measure_settings settings;
  qb_measurement measurement;
  qb_data_default(&data);
  qb_measure_settings_default(&settings);
  assert_int_equal(qb_measure(model, NULL, &data, &settings, NULL, &measurement, &error), QB_ERROR_ARGUMENT);
  data.path = "digits";
  assert_int_equal(qb_measure(model, NULL, &data, &settings, NULL, &measurement, &error), QB_ERROR_SHAPE);
  qb_measurement_free(&measurement);
  qb_model_free(model);
}

static void measuring_counts_and_stops(void **state) {
  (void)state;
  qb_error error = {0};
  qb_model *model = load(demo_path);
  qb_data data;
  qb_measure_settings settings;
  qb_measurement measurement;
  qb_data_default(&data);
  qb_measure_settings_default(&settings);
  data.path = "digits:40:2";
  data.preprocess = "unit";
  settings.batch = 0;
  assert_int_equal(qb_measure(model, model, &data, &settings, NULL, &measurement, &error), QB_ERROR_ARGUMENT);
  settings.batch = 15;
  assert_int_equal(qb_measure(model, model, &data, &settings, NULL, &measurement, &error), QB_OK);
  assert_int_equal(measurement.images, 40);
  assert_int_equal(measurement.flip_count, 0);
  assert_true(measurement.error_max == 0 && measurement.model.top1 >= 0.9);
  assert_true(measurement.model.top1 == measurement.other.top1);
  qb_measurement_free(&measurement);
  int left = 2;
  const qb_progress progress = {stop, &left};
  assert_int_equal(qb_measure(model, NULL, &data, &settings, &progress, &measurement, &error), QB_ERROR_INTERRUPTED);
  qb_measurement_free(&measurement);
  qb_model_free(model);
}

static void json_survives_odd_names_and_numbers(void **state) {
  (void)state;
  qb_error error = {0};
  qb_measurement measurement = {.images = 1,
                                .has_other = true,
                                .model = {.path = "a\xff\"b", .top1 = NAN, .top5 = NAN},
                                .other = {.path = "\xc3\xa4", .top1 = 0.1},
                                .error_max = INFINITY,
                                .error_mean = 0.1 + 0.2,
                                .error_p50 = 1e300};
  char *text = NULL;
  assert_int_equal(qb_measurement_json(&measurement, &text, &error), QB_OK);
  assert_non_null(strstr(text, "\"a?\\\"b\""));
  assert_non_null(strstr(text, "\"\xc3\xa4\""));
  assert_non_null(strstr(text, "\"top1\":\"not applicable\""));
  assert_non_null(strstr(text, "\"max\":\"inf\""));
  assert_non_null(strstr(text, "\"top1\":0.1,")); /* the fewest digits that read back as the same double */
  assert_non_null(strstr(text, "\"mean\":0.30000000000000004,"));
  assert_non_null(strstr(text, "\"p50\":1e+300,"));
  qb_text_free(text);
  qb_text_free(NULL);
}

/* ------------------------------------------------------------------------------------------------------- no memory */

static qb_status inspect_work(void *context, qb_error *error) {
  qb_inspection inspection;
  const qb_inspect_settings settings = {.spectral = true, .threads = 1};
  qb_status status = qb_inspect(context, &settings, NULL, &inspection, error);
  qb_inspection_free(&inspection);
  return status;
}

static qb_status bound_work(void *context, qb_error *error) {
  qb_model *model = NULL;
  qb_bound_report report = {0};
  qb_bound_settings settings;
  qb_bound_settings_default(&settings);
  settings.domain = QB_DOMAIN_BOX;
  settings.hi = 1;
  settings.threads = 1;
  qb_status status = qb_model_load(context, &model, error);
  if (status == QB_OK)
    status = qb_bound_sweep(model, &settings, NULL, &report, error);
  qb_bound_report_free(&report);
  qb_model_free(model);
  return status;
}

static qb_status save_work(void *context, qb_error *error) {
  qb_model *model = NULL, *quantized = NULL;
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.threads = 1;
  qb_status status = qb_model_load(context, &model, error);
  if (status == QB_OK)
    status = qb_quantize(model, &settings, NULL, &quantized, NULL, error);
  if (status == QB_OK)
    status = qb_model_save(quantized, "/tmp/qbound_test_public_api.onnx", NULL, NULL, error);
  qb_model_free(quantized);
  qb_model_free(model);
  return status;
}

static qb_status read_ones(const void *context, int64_t index, float *sample, qb_error *error) {
  (void)error;
  for (int i = 0; i < *(const int *)context; i++)
    sample[i] = (float)(index + 1);
  return QB_OK;
}

static qb_status activations_work(void *context, qb_error *error) {
  qb_model *model = NULL, *quantized = NULL;
  qb_quantize_settings settings;
  const int inputs = 1; /* the rest of a sample stays as it is */
  qb_quantize_settings_default(&settings);
  settings.threads = 1;
  settings.activation_bits = 8;
  settings.calibration.read = read_ones;
  settings.calibration.context = &inputs;
  settings.calibration.count = 2;
  qb_status status = qb_model_load(context, &model, error);
  if (status == QB_OK)
    status = qb_quantize(model, &settings, NULL, &quantized, NULL, error);
  if (status == QB_OK)
    status = qb_model_save(quantized, "/tmp/qbound_test_public_api.onnx", NULL, NULL, error);
  qb_model_free(quantized);
  qb_model_free(model);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  enum { LIMIT = 5000 };
  char path[sizeof chain_path];
  memcpy(path, chain_path, sizeof path);
  fault_every_allocation(inspect_work, path, LIMIT);
  fault_every_allocation(bound_work, path, LIMIT);
  fault_every_allocation(save_work, path, LIMIT);
  fault_every_allocation(activations_work, path, LIMIT);
  unlink("/tmp/qbound_test_public_api.onnx");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(missing_files_are_named),          cmocka_unit_test(inspection_describes_the_demo),
      cmocka_unit_test(norms_of_the_chain_are_exact),     cmocka_unit_test(quantizing_fills_the_info),
      cmocka_unit_test(only_quantized_models_are_saved),  cmocka_unit_test(sweeps_refuse_bad_settings_and_stop),
      cmocka_unit_test(best_is_the_smallest_graph_bound), cmocka_unit_test(measuring_needs_data_that_fits),
      cmocka_unit_test(measuring_counts_and_stops),       cmocka_unit_test(json_survives_odd_names_and_numbers),
      cmocka_unit_test(activations_survive_the_file),     cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
