/* Progress of long work. The library reports through a callback and never prints; the command line draws it. */
#ifndef QB_BASE_PROGRESS_H
#define QB_BASE_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Called with done out of total units of the stage `what` ("calibrating layer conv1"); returns false to ask the
 * library to stop at the next safe point (the call then ends with QB_ERROR_INTERRUPTED or keeps what is finished). */
typedef bool (*qb_progress_function)(void *context, const char *what, int64_t done, int64_t total);

typedef struct qb_progress {
  qb_progress_function function; /* NULL: silent */
  void *context;
} qb_progress;

/* True when work may go on; `progress` may be NULL. */
static inline bool qb_progress_report(const qb_progress *progress, const char *what, int64_t done, int64_t total) {
  return progress == NULL || progress->function == NULL || progress->function(progress->context, what, done, total);
}

#endif
