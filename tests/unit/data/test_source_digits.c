/* Generated digits as a dataset: the images of the generator, preprocessed and labelled; specifications that are wrong
 * say how to write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "data/dataset.h"
#include "data/digits.h"
#include "support/faults.h"

static qb_dataset *opened(const char *path, const char *preprocess, int64_t skip, int64_t samples) {
  qb_dataset *dataset;
  qb_error error = {0};
  qb_dataset_settings settings = {.samples = samples, .skip = skip};
  assert_int_equal(qb_preprocess_parse(preprocess, &settings.preprocess, &error), QB_OK);
  if (qb_dataset_open(path, &settings, &dataset, &error) != QB_OK)
    fail_msg("%s", error.message);
  return dataset;
}

static void assert_sample(const qb_dataset *dataset, int64_t index, uint64_t seed, uint64_t drawn) {
  uint8_t pixels[QB_DIGITS_PIXELS];
  float sample[QB_DIGITS_PIXELS];
  int32_t label;
  qb_digits_image(seed, drawn, pixels, &label);
  assert_int_equal(qb_dataset_read(dataset, index, sample, NULL), QB_OK);
  assert_int_equal(qb_dataset_label(dataset, index), label);
  for (int i = 0; i < QB_DIGITS_PIXELS; i++)
    assert_true(sample[i] == (float)pixels[i] / 255.0f);
}

static void samples_are_the_generator_s(void **state) {
  (void)state;
  qb_dataset *dataset = opened("digits:50:7", "unit", 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 50);
  qb_shape shape = qb_dataset_shape(dataset);
  assert_int_equal(shape.rank, 3);
  assert_int_equal(shape.dims[0], 1);
  assert_int_equal(shape.dims[1], 28);
  assert_int_equal(shape.dims[2], 28);
  for (int64_t i = 0; i < 50; i += 7)
    assert_sample(dataset, i, 7, (uint64_t)i);
  assert_string_equal(qb_dataset_name(dataset, 3), "record 3");
  float sample[QB_DIGITS_PIXELS];
  assert_int_equal(qb_dataset_read(dataset, 50, sample, NULL), QB_ERROR_ARGUMENT);
  qb_dataset_free(dataset);
}

static void skip_and_samples_choose(void **state) {
  (void)state;
  qb_dataset *dataset = opened("digits:50:7", "unit", 20, 12);
  assert_int_equal(qb_dataset_count(dataset), 12);
  for (int64_t i = 0; i < 12; i++)
    assert_sample(dataset, i, 7, 20 + (uint64_t)i);
  assert_string_equal(qb_dataset_name(dataset, 3), "record 23");
  qb_dataset_free(dataset);
}

static void defaults_are_test_images(void **state) {
  (void)state;
  qb_dataset *dataset = opened("digits", "unit", 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 10000);
  assert_sample(dataset, 9999, 2, 9999);
  qb_dataset_free(dataset);
  dataset = opened("digits:3", "unit", 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 3);
  assert_sample(dataset, 2, 2, 2);
  qb_dataset_free(dataset);
  dataset = opened("digits:1:18446744073709551615", "unit", 0, 0);
  assert_sample(dataset, 0, UINT64_MAX, 0);
  qb_dataset_free(dataset);
}

static void the_hash_is_of_the_content(void **state) {
  (void)state;
  qb_dataset *all = opened("digits:20:3", "unit", 0, 0), *part = opened("digits:900:3", "unit", 5, 2);
  qb_hash first, second, other;
  assert_int_equal(qb_dataset_hash(all, 5, &first, NULL), QB_OK);
  assert_int_equal(qb_dataset_hash(part, 0, &second, NULL), QB_OK);
  assert_int_equal(qb_dataset_hash(part, 1, &other, NULL), QB_OK);
  assert_memory_equal(&first, &second, sizeof first);
  assert_int_not_equal(memcmp(&first, &other, sizeof first), 0);
  qb_dataset_free(all);
  qb_dataset_free(part);
}

static void wrong_specifications_say_how(void **state) {
  (void)state;
  static const char *const wrong[] = {"digits:",
                                      "digits:0",
                                      "digits:-1",
                                      "digits: 5",
                                      "digits:5:",
                                      "digits:5:x",
                                      "digits:5:1:",
                                      "digits:5x",
                                      "digits:1e3",
                                      "digits:1000001",
                                      "digits:99999999999999999999",
                                      "digits:5:99999999999999999999"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    qb_dataset *dataset;
    qb_error error = {0};
    qb_dataset_settings settings = {0};
    assert_int_equal(qb_dataset_open(wrong[i], &settings, &dataset, &error), QB_ERROR_ARGUMENT);
    assert_null(dataset);
    assert_non_null(strstr(error.message, wrong[i]));
    assert_non_null(strstr(error.message, "digits:COUNT:SEED"));
  }
}

/* Only the word alone means generated digits. */
static void other_names_are_files(void **state) {
  (void)state;
  static const char *const files[] = {"digits.onnx", "./digits", "digitsx", "digit"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    qb_dataset *dataset;
    qb_dataset_settings settings = {0};
    assert_int_equal(qb_dataset_open(files[i], &settings, &dataset, NULL), QB_ERROR_IO);
  }
}

static qb_status open_and_read(void *context, qb_error *error) {
  (void)context;
  float sample[QB_DIGITS_PIXELS];
  qb_dataset *dataset;
  qb_dataset_settings settings = {0};
  qb_status status = qb_dataset_open("digits:5", &settings, &dataset, error);
  if (status == QB_OK)
    status = qb_dataset_read(dataset, 4, sample, error);
  qb_dataset_free(dataset);
  return status;
}

static void failed_allocations_are_reported(void **state) {
  (void)state;
  assert_in_range(fault_every_allocation(open_and_read, NULL, 20), 4, 20);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(samples_are_the_generator_s),     cmocka_unit_test(skip_and_samples_choose),
      cmocka_unit_test(defaults_are_test_images),        cmocka_unit_test(the_hash_is_of_the_content),
      cmocka_unit_test(wrong_specifications_say_how),    cmocka_unit_test(other_names_are_files),
      cmocka_unit_test(failed_allocations_are_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
