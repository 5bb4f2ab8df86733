/* The check after writing: a file that qbound has written computes what it should. */
#ifndef QB_API_SELF_CHECK_H
#define QB_API_SELF_CHECK_H

#include "api/model.h"

/* Reads the file at `path` back and runs it on seeded random inputs.
 *   info->output_difference  against `model`, the quantized network in memory: must be 0
 *   info->float_difference   with the original weights put back, against the original network as it was read,
 *                            relative to its largest output: below 1e-3
 * QB_ERROR_NUMERIC when one is too large; errors name `shown`, the path the user knows. */
QB_MUST_CHECK qb_status qb_self_check(const qb_model *model, const char *path, const char *shown, int threads,
                                      qb_save_info *info, qb_error *error);

#endif
