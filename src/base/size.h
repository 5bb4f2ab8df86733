/* Checked size arithmetic: every product of untrusted dimensions goes through here. */
#ifndef QB_BASE_SIZE_H
#define QB_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>

/* *result = a * b; false when the product overflows (then *result is unspecified). */
static inline bool qb_size_multiply(size_t a, size_t b, size_t *result) {
  return !__builtin_mul_overflow(a, b, result);
}

/* *result = a + b; false when the sum overflows (then *result is unspecified). */
static inline bool qb_size_add(size_t a, size_t b, size_t *result) { return !__builtin_add_overflow(a, b, result); }

#endif
