/* Heap blocks; see alloc.h. */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

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

void *qb_alloc(size_t count, size_t size) {
  size_t bytes, rounded;
  if (allocation_must_fail() || !qb_size_multiply(count, size, &bytes) ||
      !qb_size_add(bytes, QB_ALIGNMENT - 1, &rounded) || rounded > PTRDIFF_MAX)
    return NULL;
  rounded &= ~(size_t)(QB_ALIGNMENT - 1);
  if (rounded == 0)
    rounded = QB_ALIGNMENT;
  void *block = aligned_alloc(QB_ALIGNMENT, rounded);
  if (block == NULL)
    return NULL;
  atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
  return memset(block, 0, rounded);
}

void qb_free(void *block) {
  if (block == NULL)
    return;
  atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
  free(block);
}

long qb_alloc_live(void) { return atomic_load(&live_blocks); }
