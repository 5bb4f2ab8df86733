/* The heap door: overflow, alignment, the failure switch, the count of live blocks; and checked sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/size.h"

static void blocks_are_aligned_zeroed_and_counted(void **state) {
  (void)state;
  long live = qb_alloc_live();
  unsigned char *a = qb_alloc(3, 7), *b = qb_alloc(0, 8);
  assert_non_null(a);
  assert_non_null(b);
  assert_ptr_not_equal(a, b);
  assert_int_equal((uintptr_t)a % QB_ALIGNMENT, 0);
  for (int i = 0; i < 21; i++)
    assert_int_equal(a[i], 0);
  assert_int_equal(qb_alloc_live(), live + 2);
  qb_free(a);
  qb_free(b);
  qb_free(NULL);
  assert_int_equal(qb_alloc_live(), live);
}

static void overflowing_products_give_null(void **state) {
  (void)state;
  long live = qb_alloc_live();
  assert_null(qb_alloc(SIZE_MAX, 2));
  assert_null(qb_alloc(SIZE_MAX / 8 + 1, 8));
  assert_null(qb_alloc(SIZE_MAX, 1));
  assert_null(qb_alloc((size_t)PTRDIFF_MAX + 1, 1));
  assert_int_equal(qb_alloc_live(), live);
}

static void the_switch_fails_from_the_nth_on(void **state) {
  (void)state;
  qb_alloc_fail_after(1);
  void *first = qb_alloc(1, 1);
  assert_non_null(first);
  assert_null(qb_alloc(1, 1));
  assert_null(qb_alloc(1, 1));
  qb_alloc_fail_after(-1);
  void *second = qb_alloc(1, 1);
  assert_non_null(second);
  qb_free(first);
  qb_free(second);
}

static void checked_sizes(void **state) {
  (void)state;
  size_t result;
  assert_true(qb_size_multiply(SIZE_MAX / 3, 3, &result) && result == SIZE_MAX / 3 * 3);
  assert_false(qb_size_multiply(SIZE_MAX / 3 + 1, 3, &result));
  assert_true(qb_size_multiply(0, SIZE_MAX, &result) && result == 0);
  assert_true(qb_size_add(SIZE_MAX - 1, 1, &result) && result == SIZE_MAX);
  assert_false(qb_size_add(SIZE_MAX, 1, &result));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(blocks_are_aligned_zeroed_and_counted),
      cmocka_unit_test(overflowing_products_give_null),
      cmocka_unit_test(the_switch_fails_from_the_nth_on),
      cmocka_unit_test(checked_sizes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
