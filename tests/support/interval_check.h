/* Whether values that two networks take lie in the intervals of a box. */
#ifndef QB_TEST_INTERVAL_CHECK_H
#define QB_TEST_INTERVAL_CHECK_H

#include <stdbool.h>

#include "bound/box.h"
#include "support/error_search.h"

typedef struct interval_check {
  const qb_pair *pair;
  const qb_box_result *box;
  bool broken;
  char what[320]; /* the first value outside */
} interval_check;

/* Compares every tensor of both networks and of their difference, as the search evaluated them at one sample of its
 * batch. */
void interval_check_sample(interval_check *check, const error_search *search, int32_t sample);

#endif
