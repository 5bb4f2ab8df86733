/* How many random cases a property test runs. */
#ifndef QB_SUPPORT_CASES_H
#define QB_SUPPORT_CASES_H

/* The number in the environment variable QBOUND_CASES (./dev soak sets it), else `normal`. */
long test_cases(long normal);

#endif
