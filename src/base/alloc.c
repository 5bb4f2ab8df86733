/* Heap blocks; see alloc.h. */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/size.h"

enum { HUGE_PAGE = 2 << 20, LARGE_BYTES = 4 << 20 };

static atomic_long allocations_left = -1;
static atomic_long live_blocks;

void qb_alloc_fail_after(long n) { atomic_store(&allocations_left, n); }

static int allocation_must_fail(void) {
  long left = atomic_load_explicit(&allocations_left, memory_order_relaxed);
  if (left < 0)
    return 0;
  if (left == 0)
    return 1;
  atomic_store(&allocations_left, left - 1);
  return 0;
}

/* Large blocks lie on whole huge pages where the system hands those out on request: otherwise touching them for the
 * first time costs as much as the work that is done in them. */
static void *system_block(size_t bytes) {
  bool large = bytes >= LARGE_BYTES;
  size_t alignment = large ? HUGE_PAGE : QB_ALIGNMENT, rounded = (bytes + alignment - 1) & ~(alignment - 1);
  void *block = aligned_alloc(alignment, rounded);
#ifdef MADV_HUGEPAGE
  if (block != NULL && large)
    (void)madvise(block, rounded, MADV_HUGEPAGE); /* a wish: errors change nothing */
#endif
  return block;
}

void *qb_alloc_uncleared(size_t count, size_t size) {
  size_t bytes, rounded;
  if (allocation_must_fail() || !qb_size_multiply(count, size, &bytes) ||
      !qb_size_add(bytes, HUGE_PAGE + QB_ALIGNMENT, &rounded) || rounded > PTRDIFF_MAX)
    return NULL;
  rounded = (bytes + QB_ALIGNMENT - 1) & ~(size_t)(QB_ALIGNMENT - 1);
  void *block = system_block(rounded == 0 ? QB_ALIGNMENT : rounded);
  if (block != NULL)
    atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
  return block;
}

void *qb_alloc(size_t count, size_t size) {
  void *block = qb_alloc_uncleared(count, size);
  size_t rounded = (count * size + QB_ALIGNMENT - 1) & ~(size_t)(QB_ALIGNMENT - 1); /* overflow has been refused */
  return block == NULL ? NULL : memset(block, 0, rounded);
}

void qb_free(void *block) {
  if (block == NULL)
    return;
  atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
  free(block);
}

long qb_alloc_live(void) { return atomic_load(&live_blocks); }
