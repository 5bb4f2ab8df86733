/* The start-up check of the floating-point environment: every error argument of this module assumes gradual underflow
 * and rounding to nearest. Merely linking a library built with -Ofast can turn both off for the whole process. */
#include <fenv.h>
#include <float.h>
#include <stdbool.h>

#include "base/error.h"
#include "bound/bound.h"
#include "bound/rounding.h"

enum { FLUSHES = 1, NOT_NEAREST = 2 };

/* What is wrong in the calling thread, found by computing: works whatever instruction set is used. The operands are
 * volatile so that nothing is folded at compile time. */
static int probe(void) {
  volatile double d = DBL_MIN, half = 0.5, one = 1, quarter = DBL_EPSILON / 4;
  volatile float f = FLT_MIN, fhalf = 0.5f, fone = 1, fquarter = FLT_EPSILON / 4;
  int problems = 0;
  volatile double subnormal = d * half;       /* 0 when results are flushed */
  volatile double doubled = subnormal / half; /* 0 when operands are taken as zero */
  volatile float fsubnormal = f * fhalf, fdoubled = fsubnormal / fhalf;
  if (doubled != DBL_MIN || fdoubled != FLT_MIN)
    problems |= FLUSHES;

  /* of 1 + eps/4 and 1 + 3 eps/4 the nearest are 1 and 1 + eps; every other mode differs in one, or below zero */
  volatile double three = 3 * quarter;
  volatile float fthree = 3 * fquarter;
  bool nearest =
      one + quarter == 1 && one + three == 1 + DBL_EPSILON && -one - quarter == -1 && -one - three == -1 - DBL_EPSILON;
  bool fnearest = fone + fquarter == 1 && fone + fthree == 1 + FLT_EPSILON && -fone - fquarter == -1 &&
                  -fone - fthree == -1 - FLT_EPSILON;
  if (!nearest || !fnearest || fegetround() != FE_TONEAREST)
    problems |= NOT_NEAREST;
  return problems;
}

qb_status qb_bound_check_environment(qb_error *error) {
  int problems = probe();
#pragma omp parallel reduction(| : problems)
  problems |= probe();
  if (problems & FLUSHES)
    return qb_fail(error, QB_ERROR_NUMERIC,
                   "the floating-point unit flushes subnormal numbers to zero in some thread, so no bound would be "
                   "rigorous; a library built with -Ofast or -ffast-math may have switched this on");
  if (problems & NOT_NEAREST)
    return qb_fail(error, QB_ERROR_NUMERIC,
                   "the floating-point unit does not round to nearest in some thread, so no bound would be rigorous; "
                   "call fesetround(FE_TONEAREST) first");
  return QB_OK;
}
