/* The method spectral: not recomputed yet, so that its certificates are UNKNOWN to the checker. */
#include <stdio.h>

#include "check/check_bound.h"

qb_status recompute_by_norms(const claim *c, const qb_pair *pair, recomputed *result, qb_error *error) {
  (void)pair, (void)error;
  snprintf(result->why, sizeof result->why, "the method '%s' cannot be recomputed yet", c->method);
  return QB_OK;
}
