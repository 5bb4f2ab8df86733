/* Reporting progress from inside the library; the type is public. */
#ifndef QB_BASE_PROGRESS_H
#define QB_BASE_PROGRESS_H

#include <qbound/qbound.h>

/* True when work may go on; `progress` may be NULL. */
static inline bool qb_progress_report(const qb_progress *progress, const char *what, int64_t done, int64_t total) {
  return progress == NULL || progress->function == NULL || progress->function(progress->context, what, done, total);
}

#endif
