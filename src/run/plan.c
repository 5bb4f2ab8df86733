/* Memory planning; see plan.h. */
#include "run/plan.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/size.h"

/* Larger first; ties by position, so that the plan does not depend on the sort. */
static int compare_items(const void *left, const void *right) {
  const qb_plan_item *a = *(qb_plan_item *const *)left, *b = *(qb_plan_item *const *)right;
  if (a->size != b->size)
    return a->size > b->size ? -1 : 1;
  return a < b ? -1 : a > b;
}

static bool lifetimes_meet(const qb_plan_item *a, const qb_plan_item *b) {
  return a->first <= b->last && b->first <= a->last;
}

/* The placed item that overlaps [offset, offset + item->size) while `item` lives, or NULL. */
static const qb_plan_item *find_obstacle(qb_plan_item *const *placed, int32_t count, const qb_plan_item *item,
                                         size_t offset) {
  for (int32_t i = 0; i < count; i++)
    if (lifetimes_meet(placed[i], item) && placed[i]->offset < offset + item->size &&
        offset < placed[i]->offset + placed[i]->size)
      return placed[i];
  return NULL;
}

static bool round_up(size_t value, size_t alignment, size_t *result) {
  if (!qb_size_add(value, alignment - 1, result))
    return false;
  *result -= *result % alignment;
  return true;
}

static bool place(qb_plan_item **order, int32_t count, size_t alignment, size_t *total) {
  *total = 0;
  for (int32_t i = 0; i < count; i++) {
    size_t offset = 0, end;
    const qb_plan_item *obstacle;
    if (order[i]->size > PTRDIFF_MAX)
      return false;
    while ((obstacle = find_obstacle(order, i, order[i], offset)) != NULL)
      if (!round_up(obstacle->offset + obstacle->size, alignment, &offset))
        return false;
    if (!qb_size_add(offset, order[i]->size, &end) || end > PTRDIFF_MAX)
      return false;
    order[i]->offset = offset;
    *total = end > *total ? end : *total;
  }
  return true;
}

qb_status qb_plan_place(qb_plan_item *items, int32_t count, size_t alignment, size_t *total, qb_error *error) {
  qb_plan_item **order = qb_alloc((size_t)count, sizeof *order);
  if (order == NULL)
    return qb_fail_memory(error, "memory plan", (size_t)count * sizeof *order);
  for (int32_t i = 0; i < count; i++)
    order[i] = &items[i];
  qsort(order, (size_t)count, sizeof *order, compare_items);
  bool fits = place(order, count, alignment, total);
  qb_free(order);
  return fits ? QB_OK : qb_fail_memory(error, "activations", SIZE_MAX);
}
