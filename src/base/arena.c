/* A chain of blocks, newest first; see arena.h. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/size.h"

#if defined(__SANITIZE_ADDRESS__)
#define QB_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QB_ASAN 1
#endif
#endif

#ifdef QB_ASAN
#include <sanitizer/asan_interface.h>
#define poison(pointer, size) __asan_poison_memory_region(pointer, size)
#define unpoison(pointer, size) __asan_unpoison_memory_region(pointer, size)
#else
#define poison(pointer, size) ((void)(pointer), (void)(size))
#define unpoison(pointer, size) ((void)(pointer), (void)(size))
#endif

enum { SMALLEST_BLOCK = 64 * 1024 };

struct qb_arena_block {
  qb_arena_block *previous;
  unsigned char *data;
  size_t used, capacity; /* bytes of data */
};

void qb_arena_init(qb_arena *arena) { arena->last = NULL; }

static void drop_last(qb_arena *arena) {
  qb_arena_block *block = arena->last;
  arena->last = block->previous;
  unpoison(block->data, block->capacity);
  qb_free(block->data);
  qb_free(block);
}

void qb_arena_free(qb_arena *arena) {
  if (arena == NULL)
    return;
  while (arena->last != NULL)
    drop_last(arena);
}

static qb_arena_block *add_block(qb_arena *arena, size_t bytes) {
  size_t capacity = bytes > SMALLEST_BLOCK ? bytes : SMALLEST_BLOCK;
  qb_arena_block *block = qb_alloc(1, sizeof *block);
  if (block == NULL)
    return NULL;
  block->data = qb_alloc_uncleared(capacity, 1);
  if (block->data == NULL) {
    qb_free(block);
    return NULL;
  }
  poison(block->data, capacity);
  block->capacity = capacity;
  block->previous = arena->last;
  arena->last = block;
  return block;
}

void *qb_arena_alloc(qb_arena *arena, size_t count, size_t size) {
  size_t bytes, rounded;
  if (!qb_size_multiply(count, size, &bytes) || !qb_size_add(bytes, QB_ALIGNMENT - 1, &rounded))
    return NULL;
  rounded &= ~(size_t)(QB_ALIGNMENT - 1);
  if (rounded == 0)
    rounded = QB_ALIGNMENT;
  qb_arena_block *block = arena->last;
  if (block == NULL || block->capacity - block->used < rounded) {
    block = add_block(arena, rounded);
    if (block == NULL)
      return NULL;
  }
  void *result = block->data + block->used;
  block->used += rounded;
  unpoison(result, bytes);
  memset(result, 0, bytes);
  return result;
}

void qb_arena_clear(qb_arena *arena) {
  size_t bytes = 0;
  if (arena->last != NULL && arena->last->previous == NULL) {
    qb_arena_rewind(arena, (qb_arena_mark){arena->last, 0});
    return;
  }
  for (const qb_arena_block *block = arena->last; block != NULL; block = block->previous)
    bytes += block->capacity;
  qb_arena_free(arena);
  if (bytes > 0)
    (void)add_block(arena, bytes); /* where there is no memory for it, the next allocation says so */
}

char *qb_arena_string(qb_arena *arena, const char *text, size_t length) {
  size_t size;
  if (!qb_size_add(length, 1, &size))
    return NULL;
  char *copy = qb_arena_alloc(arena, size, 1);
  if (copy != NULL && length > 0)
    memcpy(copy, text, length);
  return copy;
}

char *qb_arena_format(qb_arena *arena, const char *format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  char *text = length < 0 ? NULL : qb_arena_alloc(arena, (size_t)length + 1, 1);
  if (text != NULL)
    vsnprintf(text, (size_t)length + 1, format, again);
  va_end(again);
  return text;
}

qb_arena_mark qb_arena_get_mark(const qb_arena *arena) {
  return (qb_arena_mark){arena->last, arena->last == NULL ? 0 : arena->last->used};
}

void qb_arena_rewind(qb_arena *arena, qb_arena_mark mark) {
  while (arena->last != mark.block)
    drop_last(arena);
  if (mark.block != NULL) {
    mark.block->used = mark.used;
    poison(mark.block->data + mark.used, mark.block->capacity - mark.used);
  }
}
