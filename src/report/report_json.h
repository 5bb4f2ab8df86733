/* Pieces of the reports that the public calls put together. */
#ifndef QB_REPORT_REPORT_JSON_H
#define QB_REPORT_REPORT_JSON_H

#include "report/json.h"

/* {"bits", "scheme", "granularity", "affine", "grid", "seed"} */
json_t *qb_json_quantize_settings(const qb_quantize_settings *settings);

/* One object per layer; sizes as `compat` stores them. */
json_t *qb_json_quantize_layers(const qb_quantize_info *info, bool compat);

#endif
