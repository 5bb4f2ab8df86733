/* Errors: names, messages, context, and messages that are too long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

static void every_status_has_its_own_name(void **state) {
  (void)state;
  for (int a = QB_OK; a <= QB_ERROR_ENGINE; a++) {
    assert_string_not_equal(qb_status_name((qb_status)a), "unknown");
    for (int b = QB_OK; b < a; b++)
      assert_string_not_equal(qb_status_name((qb_status)a), qb_status_name((qb_status)b));
  }
  assert_string_equal(qb_status_name((qb_status)99), "unknown");
}

static void fail_fills_the_error(void **state) {
  (void)state;
  qb_error error;
  assert_int_equal(qb_fail(&error, QB_ERROR_SHAPE, "node '%s': %d axes", "conv1", 3), QB_ERROR_SHAPE);
  assert_int_equal(error.status, QB_ERROR_SHAPE);
  assert_string_equal(error.message, "node 'conv1': 3 axes");
  assert_int_equal(qb_fail(NULL, QB_ERROR_IO, "nobody listens"), QB_ERROR_IO);
}

static void context_goes_in_front(void **state) {
  (void)state;
  qb_error error;
  qb_status status = qb_fail(&error, QB_ERROR_NUMERIC, "NaN at %d", 7);
  assert_int_equal(qb_fail_context(&error, status, "%s", "net.onnx"), QB_ERROR_NUMERIC);
  assert_string_equal(error.message, "net.onnx: NaN at 7");
  assert_int_equal(qb_fail_context(NULL, QB_ERROR_NUMERIC, "net.onnx"), QB_ERROR_NUMERIC);
}

static void long_messages_are_cut_and_terminated(void **state) {
  (void)state;
  qb_error error;
  char text[3000];
  memset(text, 'x', sizeof text);
  text[sizeof text - 1] = '\0';
  assert_int_equal(qb_fail(&error, QB_ERROR_IO, "%s", text), QB_ERROR_IO);
  assert_int_equal(strlen(error.message), sizeof error.message - 1);
  assert_int_equal(qb_fail_context(&error, QB_ERROR_IO, "%s", text), QB_ERROR_IO);
  assert_int_equal(strlen(error.message), sizeof error.message - 1);
}

static qb_status try_twice(int *calls, qb_status first) {
  (*calls)++;
  QB_TRY(first);
  (*calls)++;
  return QB_OK;
}

static void try_returns_at_the_first_failure(void **state) {
  (void)state;
  int calls = 0;
  assert_int_equal(try_twice(&calls, QB_ERROR_FORMAT), QB_ERROR_FORMAT);
  assert_int_equal(calls, 1);
  assert_int_equal(try_twice(&calls, QB_OK), QB_OK);
  assert_int_equal(calls, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_status_has_its_own_name),
      cmocka_unit_test(fail_fills_the_error),
      cmocka_unit_test(context_goes_in_front),
      cmocka_unit_test(long_messages_are_cut_and_terminated),
      cmocka_unit_test(try_returns_at_the_first_failure),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
