/* Finished shards of a measurement on disk, so that one that was stopped goes on where it was. A shard is a file of its
 * own in the folder, which appears complete or not at all; its name is the SHA-256 of everything that its records
 * follow from: networks, settings, the samples themselves and their labels. So a file of another run is never used,
 * whatever the number of ranks, threads or samples to a batch. */
#ifndef QB_RUN_SHARD_FILE_H
#define QB_RUN_SHARD_FILE_H

#include "base/hash.h"
#include "run/measure.h"

typedef struct qb_shard_key {
  qb_hash identity; /* of networks and settings */
  qb_hash inputs;   /* of the samples */
  qb_hash labels;
} qb_shard_key;

/* Makes the folder where it is missing. QB_ERROR_IO. */
QB_MUST_CHECK qb_status qb_shard_folder(const char *folder, qb_error *error);

/* Reads the records of a shard; `found` is false when it is not there or not whole. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_shard_load(const char *folder, const qb_shard_key *key, qb_run_sample *samples,
                                      int64_t count, bool *found, qb_error *error);

/* Writes them. QB_ERROR_IO, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_shard_store(const char *folder, const qb_shard_key *key, const qb_run_sample *samples,
                                       int64_t count, qb_error *error);

#endif
