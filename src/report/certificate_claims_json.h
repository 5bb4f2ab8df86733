/* The objects of the certificate file, a file for each claim. Each function returns a new reference, or NULL when
 * memory is short, which qb_json_put passes on. */
#ifndef QB_REPORT_CERTIFICATE_CLAIMS_JSON_H
#define QB_REPORT_CERTIFICATE_CLAIMS_JSON_H

#include <jansson.h>

#include "report/certificate_json.h"

/* certificate_worst_json.c */
json_t *qb_certificate_domain(const qb_certificate *certificate, const qb_domain *domain);
json_t *qb_certificate_worst_case(const qb_certificate *certificate, const qb_certificate_parts *parts);
json_t *qb_certificate_tried(const qb_worst_case_claim *claim);

/* certificate_balls_json.c */
json_t *qb_certificate_cuts(const qb_ball_proof *proof);
json_t *qb_certificate_relaxed(const qb_ball_proof *proof);
json_t *qb_certificate_floats(const float *values, int64_t count); /* null for NULL */

/* {sha256, values} of an input, null for NULL; `inputs` of them are put into the file, with values where these are few.
 */
json_t *qb_certificate_input(const float *input, int64_t elements, int64_t inputs);
json_t *qb_certificate_around(const qb_balls_claim *claim, const qb_certificate_parts *parts);
json_t *qb_certificate_balls(const qb_balls_claim *claim, const qb_certificate_parts *parts);

/* certificate_statistical_json.c */
json_t *qb_certificate_statistical(const qb_statistical_claim *claim);

#endif
