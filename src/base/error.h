/* Filling a caller-owned qb_error. A status is always returned so that `return qb_fail(...)` is one line. */
#ifndef QB_BASE_ERROR_H
#define QB_BASE_ERROR_H

#include <qbound/qbound.h>

/* Sets `error` (may be NULL) to `status` and the formatted message, and returns `status`. Messages name file, node
 * and tensor and say what to do. */
qb_status qb_fail(qb_error *error, qb_status status, const char *format, ...) QB_PRINTF(3, 4);

/* Puts "context: " in front of the message of an error that a callee has filled; returns its status. */
qb_status qb_fail_context(qb_error *error, qb_status status, const char *format, ...) QB_PRINTF(3, 4);

/* The message for a failed allocation of `size_bytes` for `what` ("weights of node conv1"). */
qb_status qb_fail_memory(qb_error *error, const char *what, size_t size_bytes);

/* Evaluates a call and returns its status from the enclosing function when it is not QB_OK. */
#define QB_TRY(call)                  \
  do {                                \
    qb_status qb_try_status = (call); \
    if (qb_try_status != QB_OK)       \
      return qb_try_status;           \
  } while (0)

#endif
