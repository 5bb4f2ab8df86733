/* Faults on purpose: every allocation of a call fails once, every disk is full. */
#ifndef QB_SUPPORT_FAULTS_H
#define QB_SUPPORT_FAULTS_H

#include <qbound/qbound.h>
#include <stdio.h>

/* One complete piece of work that releases everything it made before it returns. */
typedef qb_status (*fault_work)(void *context, qb_error *error);

/* Runs `work` with its allocation number 0, 1, .. and every later one failing until it succeeds. Asserts that each
 * failure returns QB_ERROR_MEMORY with a message, that nothing from qb_alloc is left behind, and that the work makes
 * at most `limit` allocations. Returns the number of failures, which is at least 1. */
long fault_every_allocation(fault_work work, void *context, long limit);

/* A stream on which every flush fails with ENOSPC, or NULL where the system has no /dev/full. */
FILE *fault_full_disk(void);

#endif
