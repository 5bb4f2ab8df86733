/* Interned names: every distinct string gets a small number, in order of first appearance. */
#ifndef QB_ONNX_NAMES_H
#define QB_ONNX_NAMES_H

#include <qbound/qbound.h>

typedef struct qb_names {
  const char **text; /* (count), borrowed */
  int32_t *slots;    /* open addressing, -1 for empty */
  int32_t count, capacity, slot_count;
} qb_names;

/* Releases the tables and clears `names`; a zeroed one is fine. */
void qb_names_free(qb_names *names);

/* The number of `text`, which must outlive `names`, or -1 when memory is short. */
int32_t qb_names_intern(qb_names *names, const char *text);

/* The number of `text`, or -1 when it was never interned. */
int32_t qb_names_find(const qb_names *names, const char *text);

#endif
