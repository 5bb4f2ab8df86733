/* Ranks over MPI; see ranks.h. Only the main thread communicates. */
#include <limits.h>
#include <mpi.h>
#include <string.h>

#include "base/error.h"
#include "base/ranks.h"

static struct {
  bool started; /* here, so that it is ended here */
  int rank, count, local;
} state = {.count = 1, .local = 1};

static void count_local(void) {
  MPI_Comm node;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  MPI_Comm_size(node, &state.local);
  MPI_Comm_free(&node);
}

qb_status qb_ranks_begin(int *argc, char ***argv, qb_error *error) {
  int provided = 0, running = 0;
  MPI_Initialized(&running);
  if (!running && MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
    return qb_fail(error, QB_ERROR_ENGINE, "MPI could not be started");
  state.started = !running;
  MPI_Comm_rank(MPI_COMM_WORLD, &state.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &state.count);
  count_local();
  return QB_OK;
}

void qb_ranks_end(void) {
  int ended = 0;
  MPI_Finalized(&ended);
  if (state.started && !ended)
    MPI_Finalize();
  state.started = false;
  state.rank = 0;
  state.count = state.local = 1;
}

int qb_rank(void) { return state.rank; }
int qb_rank_count(void) { return state.count; }
int qb_ranks_local(void) { return state.local; }

double qb_ranks_max(double value) {
  double largest = value;
  if (state.count > 1)
    MPI_Allreduce(&value, &largest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return largest;
}

qb_status qb_ranks_share(void *data, size_t size_bytes, int owner, qb_error *error) {
  enum { PART = INT_MAX / 2 }; /* MPI counts in int */
  for (size_t done = 0; state.count > 1 && done < size_bytes; done += PART) {
    size_t left = size_bytes - done;
    int part = left < PART ? (int)left : PART;
    if (MPI_Bcast((char *)data + done, part, MPI_BYTE, owner, MPI_COMM_WORLD) != MPI_SUCCESS)
      return qb_fail(error, QB_ERROR_ENGINE, "MPI could not send %zu bytes from rank %d", size_bytes, owner);
  }
  return QB_OK;
}

qb_status qb_ranks_agree(qb_status mine, qb_error *error) {
  int failed = mine == QB_OK ? state.count : state.rank, first = failed;
  if (state.count > 1)
    MPI_Allreduce(&failed, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (first >= state.count)
    return mine;
  qb_error theirs = {.status = mine};
  if (first == state.rank && error != NULL)
    theirs = *error;
  theirs.status = first == state.rank ? mine : theirs.status;
  QB_TRY(qb_ranks_share(&theirs, sizeof theirs, first, error));
  if (error != NULL)
    *error = theirs;
  return theirs.status;
}
