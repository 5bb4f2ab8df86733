/* The one way to the heap: checked element counts, 64-byte alignment (a cache line, an AVX-512 register) and a switch
 * that tests use to make the n-th allocation fail. */
#ifndef QB_BASE_ALLOC_H
#define QB_BASE_ALLOC_H

#include <stddef.h>

#define QB_ALIGNMENT 64

/* count * size bytes, zeroed and aligned to QB_ALIGNMENT; NULL when memory is short or the product overflows. A zero
 * size gives a valid pointer. Release with qb_free. */
void *qb_alloc(size_t count, size_t size);

/* The same with whatever was in memory, for large buffers that are written before they are read. */
void *qb_alloc_uncleared(size_t count, size_t size);

/* Releases a block from qb_alloc; NULL is fine. */
void qb_free(void *block);

/* Test hook: the allocation that is `n` calls ahead (0 = the next one) and every later one fail. Negative: off. */
void qb_alloc_fail_after(long n);

/* Test hook: number of blocks from qb_alloc that are not released yet. */
long qb_alloc_live(void);

#endif
