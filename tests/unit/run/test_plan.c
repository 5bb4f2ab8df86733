/* Memory planning: no two living items overlap, and the block is not much larger than the largest live set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"
#include "run/plan.h"

static bool collide(const qb_plan_item *a, const qb_plan_item *b) {
  bool in_time = a->first <= b->last && b->first <= a->last;
  bool in_space = a->offset < b->offset + b->size && b->offset < a->offset + a->size;
  return in_time && in_space;
}

static void living_items_never_overlap(void **state) {
  (void)state;
  qb_rng rng;
  qb_error error;
  qb_rng_seed(&rng, 1, 0);
  for (int round = 0; round < 200; round++) {
    qb_plan_item items[40];
    int32_t count = 1 + (int32_t)qb_rng_below(&rng, 40);
    size_t total, live_max = 0;
    for (int32_t i = 0; i < count; i++) {
      int32_t first = (int32_t)qb_rng_below(&rng, 30);
      items[i] = (qb_plan_item){qb_rng_below(&rng, 1000), first, first + (int32_t)qb_rng_below(&rng, 5), 0};
    }
    assert_int_equal(qb_plan_place(items, count, 16, &total, &error), QB_OK);
    for (int32_t i = 0; i < count; i++) {
      assert_int_equal(items[i].offset % 16, 0);
      assert_true(items[i].offset + items[i].size <= total);
      for (int32_t j = 0; j < i; j++)
        assert_false(collide(&items[i], &items[j]));
    }
    for (int32_t step = 0; step < 35; step++) {
      size_t live = 0;
      for (int32_t i = 0; i < count; i++)
        live += items[i].first <= step && step <= items[i].last ? items[i].size + 15 : 0;
      live_max = live > live_max ? live : live_max;
    }
    assert_true(total <= 2 * live_max + 16);
  }
}

static void a_chain_needs_two_buffers(void **state) {
  (void)state;
  qb_plan_item items[50];
  size_t total;
  qb_error error;
  for (int32_t i = 0; i < 50; i++)
    items[i] = (qb_plan_item){64, i, i + 1, 0};
  assert_int_equal(qb_plan_place(items, 50, 64, &total, &error), QB_OK);
  assert_int_equal(total, 128);
}

static void sizes_that_overflow_are_refused(void **state) {
  (void)state;
  qb_plan_item items[2] = {{PTRDIFF_MAX, 0, 1, 0}, {PTRDIFF_MAX, 0, 1, 0}};
  size_t total;
  qb_error error;
  assert_int_equal(qb_plan_place(items, 2, 64, &total, &error), QB_ERROR_MEMORY);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(living_items_never_overlap),
      cmocka_unit_test(a_chain_needs_two_buffers),
      cmocka_unit_test(sizes_that_overflow_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
