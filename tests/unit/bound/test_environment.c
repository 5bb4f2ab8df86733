/* The floating-point environment: planted changes in this thread or in a worker are refused. */
#include <fenv.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "bound/bound.h"

static void a_clean_environment_is_accepted(void **state) {
  (void)state;
  qb_error error;
  assert_int_equal(qb_bound_check_environment(&error), QB_OK);
}

static void other_rounding_modes_are_refused(void **state) {
  (void)state;
  const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  for (int i = 0; i < 3; i++) {
    qb_error error;
    assert_int_equal(fesetround(modes[i]), 0);
    qb_status status = qb_bound_check_environment(&error);
    fesetround(FE_TONEAREST);
    assert_int_equal(status, QB_ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "round to nearest"));
  }
  assert_int_equal(qb_bound_check_environment(NULL), QB_OK);
}

#if defined(__SSE2__)
enum { FTZ = 0x8000, DAZ = 0x0040, ROUND_UP = 0x4000 };

static void planted_control_bits_are_refused(void **state) {
  (void)state;
  const unsigned bits[] = {FTZ, DAZ, FTZ | DAZ, ROUND_UP};
  for (int i = 0; i < 4; i++) {
    unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | bits[i]);
    qb_status status = qb_bound_check_environment(NULL);
    _mm_setcsr(saved);
    assert_int_equal(status, QB_ERROR_NUMERIC);
  }
  assert_int_equal(qb_bound_check_environment(NULL), QB_OK);
}

static void a_bad_worker_is_noticed(void **state) {
  (void)state;
  omp_set_num_threads(2);
  const unsigned bits[] = {FTZ, DAZ, ROUND_UP};
  for (int i = 0; i < 3; i++) {
#pragma omp parallel
    if (omp_get_thread_num() == 1)
      _mm_setcsr(_mm_getcsr() | bits[i]);
    int still_bad = 0; /* clang's runtime gives every worker the main thread's settings again, gcc's does not */
#pragma omp parallel reduction(| : still_bad)
    still_bad |= (_mm_getcsr() & bits[i]) != 0;
    qb_status status = qb_bound_check_environment(NULL);
#pragma omp parallel
    _mm_setcsr(_mm_getcsr() & ~bits[i]);
    assert_int_equal(status, still_bad ? QB_ERROR_NUMERIC : QB_OK);
#ifndef __clang__
    assert_true(still_bad);
#endif
  }
  assert_int_equal(qb_bound_check_environment(NULL), QB_OK);
}
#endif

int main(void) {
  const struct CMUnitTest tests[] =
  { cmocka_unit_test(a_clean_environment_is_accepted),
    cmocka_unit_test(other_rounding_modes_are_refused),
#if defined(__SSE2__)
    cmocka_unit_test(planted_control_bits_are_refused),
    cmocka_unit_test(a_bad_worker_is_noticed),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
