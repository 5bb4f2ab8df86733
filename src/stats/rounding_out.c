/* Directed rounding of balls; see rounding_out.h. */
#include "stats/rounding_out.h"

enum { PRECISION = 64 };

double qb_round_down(const arb_t value) {
  arf_t end;
  arf_init(end);
  arb_get_lbound_arf(end, value, PRECISION);
  double result = arf_get_d(end, ARF_RND_FLOOR);
  arf_clear(end);
  return result;
}

double qb_round_up(const arb_t value) {
  arf_t end;
  arf_init(end);
  arb_get_ubound_arf(end, value, PRECISION);
  double result = arf_get_d(end, ARF_RND_CEIL);
  arf_clear(end);
  return result;
}
