/* Placing values with known lifetimes into one block of memory. */
#ifndef QB_RUN_PLAN_H
#define QB_RUN_PLAN_H

#include "graph/graph.h"

typedef struct qb_plan_item {
  size_t size;         /* in units of the caller (bytes, elements); 0: takes no room */
  int32_t first, last; /* steps during which it must hold its contents, both inclusive */
  size_t offset;       /* result */
} qb_plan_item;

/* Chooses offsets, multiples of `alignment`, such that two items share addresses only when their lifetimes do not
 * meet; *total is the size of the block. Greedy by size, which is within a few percent of optimal on networks
 * (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference"). QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_plan_place(qb_plan_item *items, int32_t count, size_t alignment, size_t *total,
                                      qb_error *error);

#endif
