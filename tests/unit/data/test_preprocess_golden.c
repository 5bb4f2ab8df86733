/* Decoded and preprocessed samples have the very bits that torchvision and Pillow gave for tests/golden/data
 * (tools/make_data_goldens.py): fixture images always, real images where they are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/dataset.h"
#include "support/test_data.h"

typedef struct golden_line {
  char place[16], path[128], preprocess[160], shape[64], hash[QB_HASH_TEXT];
  int64_t index;
  int32_t label;
} golden_line;

static bool read_line(FILE *file, golden_line *line) {
  long long index;
  int label;
  int fields = fscanf(file, "%15s %127s %lld %159s %63s %d %64s", line->place, line->path, &index, line->preprocess,
                      line->shape, &label, line->hash);
  if (fields != 7)
    return false;
  line->index = index;
  line->label = label;
  return true;
}

static void check_line(const golden_line *line, const char *path) {
  qb_dataset *dataset;
  qb_error error = {0};
  qb_hash hash;
  char text[QB_HASH_TEXT], shape[QB_SHAPE_TEXT];
  qb_dataset_settings settings = {.samples = 1, .skip = line->index};
  assert_int_equal(qb_preprocess_parse(line->preprocess, &settings.preprocess, &error), QB_OK);
  if (qb_dataset_open(path, &settings, &dataset, &error) != QB_OK)
    fail_msg("%s", error.message);
  qb_shape dims = qb_dataset_shape(dataset);
  assert_string_equal(qb_shape_print(&dims, shape), line->shape);
  assert_int_equal(qb_dataset_label(dataset, 0), line->label);
  if (qb_dataset_hash(dataset, 0, &hash, &error) != QB_OK)
    fail_msg("%s", error.message);
  if (strcmp(qb_hash_print(&hash, text), line->hash) != 0)
    fail_msg("%s sample %lld with %s differs from torchvision", path, (long long)line->index, line->preprocess);
  qb_dataset_free(dataset);
}

/* Checks the lines of `place` whose path begins with `start`; returns how many there were. */
static int check_lines(const char *place, const char *start) {
  char path[512];
  golden_line line;
  int count = 0;
  FILE *file = fopen(QB_TEST_DIR "/golden/data/preprocess.txt", "r");
  assert_non_null(file);
  while (read_line(file, &line)) {
    if (strcmp(line.place, place) != 0 || strncmp(line.path, start, strlen(start)) != 0)
      continue;
    if (strcmp(place, "fixture") == 0)
      snprintf(path, sizeof path, QB_TEST_DIR "/golden/data/%s", line.path);
    else
      snprintf(path, sizeof path, "%s", test_data(line.path));
    check_line(&line, path);
    count++;
  }
  fclose(file);
  return count;
}

static void fixture_images_equal_torchvision(void **state) {
  (void)state;
  assert_int_equal(check_lines("fixture", ""), 96);
}

static void real_images(const char *folder) {
  test_data(folder);
  assert_true(check_lines("shared", folder) >= 9);
}

static void imagenet_validation_equals_torchvision(void **state) {
  (void)state;
  real_images("imagenet/validation");
}

static void tiny_imagenet_equals_torchvision(void **state) {
  (void)state;
  real_images("tiny-imagenet");
}

static void cifar10_equals_torchvision(void **state) {
  (void)state;
  real_images("cifar10");
}

static void mnist_equals_torchvision(void **state) {
  (void)state;
  real_images("mnist");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fixture_images_equal_torchvision), cmocka_unit_test(imagenet_validation_equals_torchvision),
      cmocka_unit_test(tiny_imagenet_equals_torchvision), cmocka_unit_test(cifar10_equals_torchvision),
      cmocka_unit_test(mnist_equals_torchvision),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
