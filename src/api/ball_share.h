/* Balls that another rank has certified. */
#ifndef QB_API_BALL_SHARE_H
#define QB_API_BALL_SHARE_H

#include "api/certify_claims.h"

/* Collective (base/ranks.h). What rank `owner` knows about a ball arrives on every rank, which keeps it in the arena of
 * the certificate's parts; `elements` are those of an input. QB_ERROR_MEMORY, QB_ERROR_ENGINE. */
QB_MUST_CHECK qb_status qb_ball_share(const qb_certifying *c, int64_t elements, int owner, qb_certified_ball *ball,
                                      qb_ball_details *details);

#endif
