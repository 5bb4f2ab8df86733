/* The network inside the command is byte for byte the file in examples/demo, and it is small. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cli/demo_model.h"

enum { LARGEST = 1000000 }; /* the example is promised to stay below 1 MB */

static void embedded_bytes_are_the_example_file(void **state) {
  (void)state;
  static unsigned char expected[LARGEST];
  FILE *file = fopen(QB_SOURCE_DIR "/examples/demo/digits.onnx", "rb");
  assert_non_null(file);
  size_t length = fread(expected, 1, sizeof expected, file);
  assert_int_equal(fclose(file), 0);
  assert_in_range(length, 1, LARGEST - 1);

  const void *bytes;
  size_t size_bytes;
  qb_demo_model(&bytes, &size_bytes);
  assert_int_equal(size_bytes, length);
  assert_memory_equal(bytes, expected, length);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(embedded_bytes_are_the_example_file)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
