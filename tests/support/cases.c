/* How many random cases a property test runs; see cases.h. */
#include "support/cases.h"

#include <stdlib.h>

long test_cases(long normal) {
  const char *text = getenv("QBOUND_CASES");
  char *end = NULL;
  long cases = text == NULL ? 0 : strtol(text, &end, 10);
  return cases > 0 && *end == '\0' ? cases : normal;
}
