/* One rank: a build without MPI. Started by mpirun it would do the whole job several times, so it refuses. */
#include <stdlib.h>

#include "base/error.h"
#include "base/ranks.h"

/* What the launchers of Open MPI, MPICH and Slurm tell a process about the number of its peers. */
static bool has_peers(void) {
  static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *text = getenv(names[i]);
    if (text != NULL && atol(text) > 1)
      return true;
  }
  return false;
}

qb_status qb_ranks_begin(int *argc, char ***argv, qb_error *error) {
  (void)argc;
  (void)argv;
  if (has_peers())
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "started with several processes, but this qbound was built without MPI; build it with "
                   "-DQBOUND_MPI=ON, or start it alone");
  return QB_OK;
}

void qb_ranks_end(void) {}
int qb_rank(void) { return 0; }
int qb_rank_count(void) { return 1; }
int qb_ranks_local(void) { return 1; }
double qb_ranks_max(double value) { return value; }

qb_status qb_ranks_agree(qb_status mine, qb_error *error) {
  (void)error;
  return mine;
}

qb_status qb_ranks_share(void *data, size_t size_bytes, int owner, qb_error *error) {
  (void)data;
  (void)size_bytes;
  (void)owner;
  (void)error;
  return QB_OK;
}
