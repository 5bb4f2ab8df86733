/* From what people ask for (all images, a box) to the box of network inputs. */
#ifndef QB_API_INPUT_DOMAIN_H
#define QB_API_INPUT_DOMAIN_H

#include "bound/bound.h"

/* The fields of the public settings that choose a domain. */
typedef struct qb_inputs {
  qb_domain_kind kind;
  const char *preprocess; /* QB_DOMAIN_PIXELS */
  double lo, hi;          /* QB_DOMAIN_BOX */
  const char *box;        /* QB_DOMAIN_FILE */
  int64_t box_row;        /* -1: the only one */
} qb_inputs;

/* QB_ERROR_ARGUMENT says what is missing. Release with qb_domain_free. */
QB_MUST_CHECK qb_status qb_domain_make(const qb_graph *graph, const qb_inputs *inputs, qb_domain *domain,
                                       qb_error *error);

/* "pixels imagenet", "[-1, 1]", "box prop.vnnlib"; NULL when memory is short. */
const char *qb_domain_describe(qb_arena *arena, const qb_inputs *inputs);

#endif
