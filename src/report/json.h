/* Building JSON in a fixed key order. Infinite and undefined numbers become strings ("inf", "not applicable"). */
#ifndef QB_REPORT_JSON_H
#define QB_REPORT_JSON_H

#include <jansson.h>
#include <qbound/qbound.h>

/* The value of a number. */
json_t *qb_json_real(double number);

/* The value of a string, invalid UTF-8 bytes replaced by '?'; null for NULL. */
json_t *qb_json_text(const char *text);

/* {"schema": name} */
json_t *qb_json_report(const char *schema);

/* Adds a member and takes over `value`; returns `object`. When one of the two is NULL or memory is short, both are
 * released and the result is NULL, so that a failure anywhere inside reaches the outermost object and qb_json_print
 * reports it: callers check nothing. */
json_t *qb_json_put(json_t *object, const char *key, json_t *value);

/* The same for arrays. */
json_t *qb_json_append(json_t *array, json_t *value);

/* Prints to one line from qb_alloc and releases `object`; QB_ERROR_MEMORY when an earlier step failed. */
QB_MUST_CHECK qb_status qb_json_print(json_t *object, char **text, qb_error *error);

#endif
