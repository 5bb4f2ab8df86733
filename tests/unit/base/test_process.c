/* What linking did to the process: the OpenMP build of OpenBLAS was loaded, and no library has switched denormal
 * numbers off or changed the rounding mode, in the main thread or in an OpenMP worker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cblas.h>
#include <float.h>
#include <omp.h>

static void openblas_uses_openmp(void **state) {
  (void)state;
  assert_int_equal(openblas_get_parallel(), OPENBLAS_OPENMP);
}

/* True when denormals survive and 1 + tiny rounds to 1. Volatile, so that the processor computes it, not the compiler.
 */
static int environment_is_standard(void) {
  volatile double smallest = DBL_MIN, half = 0.5, one = 1, tiny = 0x1p-60, third = 1.0 / 3;
  volatile float smallest_float = FLT_MIN, half_float = 0.5f;
  volatile double denormal = smallest * half;
  volatile float denormal_float = smallest_float * half_float;
  volatile double up = one + tiny, down = -one - tiny, three = 3 * third;
  return denormal > 0 && denormal_float > 0 && denormal * 2 == smallest && up == 1 && down == -1 && three == 1;
}

static void arithmetic_is_standard_in_every_thread(void **state) {
  (void)state;
  int good = 0, threads = 0;
  double a[4] = {1, 2, 3, 4}, b[4] = {1, 0, 0, 1}, c[4] = {0};
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 2, 2, 2, 1, a, 2, b, 2, 0, c, 2);
  assert_true(c[3] == 4);
  assert_true(environment_is_standard());
#pragma omp parallel num_threads(4) reduction(+ : good, threads)
  {
    good += environment_is_standard();
    threads += 1;
  }
  assert_int_equal(good, threads);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(openblas_uses_openmp),
      cmocka_unit_test(arithmetic_is_standard_in_every_thread),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
