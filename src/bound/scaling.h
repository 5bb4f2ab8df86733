/* The search for diagonal scalings that make a product of norms small (docs/bounds.md, section 3d).
 *
 * A network is cut into segments, each a layer or a centred gate over two layers. With a positive diagonal T_g for
 * every group g of tensors the norm of a segment from group i over m to o is at most
 *   ||T_o^-1 W T_i||   or   ||T_o^-1 (A + W2 W1 / 2) T_i|| + ||T_o^-1 W2 T_m|| ||T_m^-1 W1 T_i|| / 2
 * and any T is sound. The search lowers the sum of the logarithms: its derivative in log t_c is the energy of the
 * dominant right singular vectors in channel c where T stands on the right, less that of the left ones where T^-1
 * stands on the left. Nothing here is certified, and nothing needs to be: norms are proved for the scalings that come
 * out. */
#ifndef QB_BOUND_SCALING_H
#define QB_BOUND_SCALING_H

#include "bound/torus.h"

typedef struct qb_segment {
  const qb_kernel *inner, *outer, *skip; /* one group each; outer NULL: the layer `inner` alone; skip NULL: none */
  int64_t side[2];                       /* torus of the input */
  int32_t in, middle, out;               /* groups; -1: not scaled */
} qb_segment;

typedef struct qb_scaling_problem {
  const qb_segment *segments;
  int32_t segment_count, group_count;
  const int64_t *channels; /* by group */
  int iterations;
} qb_scaling_problem;

/* `scaling` (by group, channels each) holds positive starting values and receives the best found. Deterministic,
 * independent of the number of threads. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_scaling_search(const qb_scaling_problem *problem, double *const *scaling, qb_error *error);

#endif
