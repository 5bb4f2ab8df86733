/* An arena: many small allocations with one lifetime.
 *
 * A model owns one arena, a call owns one scratch arena. Allocation is O(1) amortized; release is one call. A mark
 * remembers a position and a rewind frees everything allocated after it (poisoned under AddressSanitizer). Blocks are
 * zeroed and aligned to QB_ALIGNMENT. Not thread-safe. */
#ifndef QB_BASE_ARENA_H
#define QB_BASE_ARENA_H

#include <stddef.h>

typedef struct qb_arena_block qb_arena_block;

typedef struct qb_arena {
  qb_arena_block *last; /* the block that serves the next allocation, NULL at first */
} qb_arena;

typedef struct qb_arena_mark {
  qb_arena_block *block;
  size_t used;
} qb_arena_mark;

/* An empty arena; allocates nothing. */
void qb_arena_init(qb_arena *arena);

/* Releases everything; the arena is empty and usable afterwards. NULL is fine. */
void qb_arena_free(qb_arena *arena);

/* count * size zeroed bytes; NULL when memory is short or the product overflows. */
void *qb_arena_alloc(qb_arena *arena, size_t count, size_t size);

/* A NUL-terminated copy of `length` bytes; NULL when memory is short. */
char *qb_arena_string(qb_arena *arena, const char *text, size_t length);

/* A formatted string; NULL when memory is short. */
char *qb_arena_format(qb_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Forgets every allocation and keeps the memory for the next ones, as one block: for arenas that are filled alike again
 * and again. */
void qb_arena_clear(qb_arena *arena);

qb_arena_mark qb_arena_get_mark(const qb_arena *arena);
void qb_arena_rewind(qb_arena *arena, qb_arena_mark mark);

#endif
