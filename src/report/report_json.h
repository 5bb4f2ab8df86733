/* Reports that need to know more than one public struct says. */
#ifndef QB_REPORT_REPORT_JSON_H
#define QB_REPORT_REPORT_JSON_H

#include <qbound/qbound.h>

/* {"bits", "scheme", "granularity", "affine", "grid", "seed"} as text; release with qb_text_free. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_report_settings(const qb_quantize_settings *settings, char **text, qb_error *error);

/* True when such a text has `key`, with `value` unless that is NULL. A text that is no JSON has nothing. */
bool qb_report_settings_have(const char *text, const char *key, const char *value);

/* The report of `qbound quantize`: `model` became `output`. `allocation` may be NULL. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_report_quantize(const char *model, const qb_quantize_settings *settings,
                                           const qb_quantize_info *info, const qb_allocation *allocation,
                                           const char *output, const qb_save_info *save, bool compat, char **text,
                                           qb_error *error);

#endif
