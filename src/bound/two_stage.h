/* The two-stage path bound (theory 3.1): grows with the square root of the depth instead of the depth, for networks
 * made of linear layers, ReLU, residual Adds and averages whose weights all keep their sign.
 *
 * With F(theta) the output of the network of absolute values without ReLU, fed with max |x|, theta_z = theta with those
 * weights set to 0 that become 0, and G = F(sqrt|theta_z theta'|), every output changes by at most
 *   [F(theta) - F(theta_z)] + sqrt((F(theta_z) + F(theta'))^2 - 4 G^2).
 * docs/bounds.md has the proof. */
#ifndef QB_BOUND_TWO_STAGE_H
#define QB_BOUND_TWO_STAGE_H

#include "bound/bound.h"

/* Numbers of one tensor, per element: upper bounds of F(theta) - F(theta_z), F(theta_z), F(theta'), a lower one of G.
 */
enum { QB_PATH_LOST, QB_PATH_KEPT, QB_PATH_QUANTIZED, QB_PATH_MEAN, QB_PATH_COUNT };

typedef struct qb_path_state {
  int64_t count;
  double *part[QB_PATH_COUNT]; /* (count) each; NULL for constants and dead values */
} qb_path_state;

/* Bounds the largest output difference of the pair over the domain. A weight that changes its sign, an operator through
 * which paths cannot be followed (pools that select, caps, quantizers) or numbers beyond the double range make the
 * bound not applicable, with the reason. QB_ERROR_MEMORY, QB_ERROR_NUMERIC,
 * QB_ERROR_SHAPE when the domain does not fit, QB_ERROR_UNSUPPORTED for several inputs. */
QB_MUST_CHECK qb_status qb_bound_two_stage(const qb_pair *pair, const qb_domain *domain, qb_bound *bound,
                                           qb_error *error);

#endif
