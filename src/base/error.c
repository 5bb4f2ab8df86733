/* Status names and error messages. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *qb_status_name(qb_status status) {
  switch (status) {
  case QB_OK: return "ok";
  case QB_ERROR_ARGUMENT: return "argument";
  case QB_ERROR_IO: return "io";
  case QB_ERROR_FORMAT: return "format";
  case QB_ERROR_UNSUPPORTED: return "unsupported";
  case QB_ERROR_SHAPE: return "shape";
  case QB_ERROR_NUMERIC: return "numeric";
  case QB_ERROR_MEMORY: return "memory";
  case QB_ERROR_INTERRUPTED: return "interrupted";
  case QB_ERROR_ENGINE: return "engine";
  }
  return "unknown";
}

qb_status qb_fail(qb_error *error, qb_status status, const char *format, ...) {
  if (error == NULL)
    return status;
  error->status = status;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  return status;
}

qb_status qb_fail_context(qb_error *error, qb_status status, const char *format, ...) {
  if (error == NULL)
    return status;
  char inner[sizeof error->message];
  memcpy(inner, error->message, sizeof inner);
  inner[sizeof inner - 1] = '\0';

  va_list arguments;
  va_start(arguments, format);
  int used = vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  if (used >= 0 && (size_t)used < sizeof error->message)
    snprintf(error->message + used, sizeof error->message - (size_t)used, ": %s", inner);
  error->status = status;
  return status;
}

qb_status qb_fail_memory(qb_error *error, const char *what, size_t size_bytes) {
  return qb_fail(error, QB_ERROR_MEMORY, "not enough memory for %s (%zu bytes)", what, size_bytes);
}
