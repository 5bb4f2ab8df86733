/* Ranks: processes that share one job, started by mpirun. Rank 0 speaks; every rank has the same inputs, does its share
 * of the work and receives the shares of the others, so that all go on with the same numbers.
 *
 * Two files implement this header: ranks_single.c, one rank and nothing to send, and mpi_ranks.c, the only file that
 * sees MPI. The build chooses (QBOUND_MPI). Calls marked collective must be made by every rank in the same order. */
#ifndef QB_BASE_RANKS_H
#define QB_BASE_RANKS_H

#include <qbound/qbound.h>

/* Collective. QB_OK when `mine` is QB_OK on every rank. Otherwise the status and error of the lowest rank that failed,
 * on every rank: all end with one message. */
QB_MUST_CHECK qb_status qb_ranks_agree(qb_status mine, qb_error *error);

/* Collective. The bytes that rank `owner` has at `data` arrive at `data` on every rank. QB_ERROR_ENGINE. */
QB_MUST_CHECK qb_status qb_ranks_share(void *data, size_t size_bytes, int owner, qb_error *error);

/* Collective. The largest of `value` over the ranks. */
double qb_ranks_max(double value);

/* Ranks of this machine, at least 1. */
int qb_ranks_local(void);

/* The share of this rank in `cores` that all ranks of the machine may use, at least 1. */
static inline int qb_ranks_cores(int cores) { return cores > qb_ranks_local() ? cores / qb_ranks_local() : 1; }

/* Items are dealt one by one: is item `index` this rank's? */
static inline bool qb_ranks_owns(int64_t index) { return (int)(index % qb_rank_count()) == qb_rank(); }

#endif
