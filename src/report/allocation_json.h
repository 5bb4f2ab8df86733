/* The part of the report of `qbound quantize` that tells which bits were chosen and why. */
#ifndef QB_REPORT_ALLOCATION_JSON_H
#define QB_REPORT_ALLOCATION_JSON_H

#include "report/json.h"

/* The value of "allocation"; NULL when memory is short. */
json_t *qb_json_allocation(const qb_allocation *allocation);

/* The value of "timing". */
json_t *qb_json_allocation_timing(const qb_allocation *allocation);

#endif
