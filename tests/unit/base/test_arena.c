/* The arena: alignment, zeroing, marks, and failure without leaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/arena.h"

static void blocks_are_aligned_and_zeroed(void **state) {
  (void)state;
  qb_arena arena;
  qb_arena_init(&arena);
  for (size_t size = 1; size < 200000; size = size * 3 + 1) {
    unsigned char *block = qb_arena_alloc(&arena, size, 1);
    assert_non_null(block);
    assert_int_equal((uintptr_t)block % QB_ALIGNMENT, 0);
    for (size_t i = 0; i < size; i++)
      assert_int_equal(block[i], 0);
    memset(block, 0xab, size);
  }
  qb_arena_free(&arena);
}

static void rewind_gives_the_same_memory_back(void **state) {
  (void)state;
  qb_arena arena;
  qb_arena_init(&arena);
  assert_non_null(qb_arena_alloc(&arena, 100, 1));
  qb_arena_mark mark = qb_arena_get_mark(&arena);
  void *first = qb_arena_alloc(&arena, 100, 8);
  assert_non_null(qb_arena_alloc(&arena, 1000000, 1)); /* a block of its own */
  qb_arena_rewind(&arena, mark);
  assert_ptr_equal(qb_arena_alloc(&arena, 100, 8), first);
  qb_arena_free(&arena);
}

static void clearing_keeps_the_memory_in_one_block(void **state) {
  (void)state;
  qb_arena arena;
  qb_arena_init(&arena);
  qb_arena_clear(&arena);
  for (int round = 0; round < 3; round++) {
    unsigned char *blocks[3];
    long live = qb_alloc_live();
    for (int i = 0; i < 3; i++) {
      blocks[i] = qb_arena_alloc(&arena, 100000, 1);
      assert_non_null(blocks[i]);
      assert_true(blocks[i][0] == 0 && blocks[i][99999] == 0);
      memset(blocks[i], 7, 100000);
    }
    if (round > 0) /* served by what was kept */
      assert_int_equal(qb_alloc_live(), live);
    qb_arena_clear(&arena);
  }
  qb_arena_free(&arena);
}

static void overflow_and_exhaustion_give_null(void **state) {
  (void)state;
  qb_arena arena;
  qb_arena_init(&arena);
  assert_null(qb_arena_alloc(&arena, SIZE_MAX / 2, 3));
  assert_null(qb_arena_alloc(&arena, SIZE_MAX, 1));
  for (long n = 0; n < 2; n++) {
    qb_alloc_fail_after(n);
    assert_null(qb_arena_alloc(&arena, 10, 1));
    qb_alloc_fail_after(-1);
  }
  assert_non_null(qb_arena_alloc(&arena, 10, 1));
  qb_arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(blocks_are_aligned_and_zeroed),
      cmocka_unit_test(rewind_gives_the_same_memory_back),
      cmocka_unit_test(clearing_keeps_the_memory_in_one_block),
      cmocka_unit_test(overflow_and_exhaustion_give_null),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
