/* What the checker knows of a tensor: ranges of the original network's values x, of the other network's values q, and
 * of the difference d = q - x, carried through both networks node by node.
 *
 * Three grains. FINE keeps one triple per element and signed differences: the method `interval`. COARSE keeps one
 * triple per channel (axis 1) and differences symmetric about 0: the method `layerwise`. Every rule is written once,
 * element by element; in the coarse grain elements of a channel are joined. SIZES keeps sizes alone, [-s, s] per
 * element, within what a coarse walk knows, and counts layers in edge form: the method `elementwise`. */
#ifndef QB_CHECK_CELLS_H
#define QB_CHECK_CELLS_H

#include "base/arena.h"
#include "check/check_range.h"
#include "graph/pair.h"

typedef enum walk_grain { GRAIN_FINE, GRAIN_COARSE, GRAIN_SIZES } walk_grain;

typedef struct triple {
  range x, q, d;
} triple;

typedef struct cells {
  int64_t count; /* 0: constants and values that no output depends on */
  triple *at;
  double (*moved)[2]; /* (count) by how much float32 evaluation of the node alone moves x, q; NULL: coarse, or exact */
  const qb_node *codes; /* the QuantizeLinear whose integer codes these are (in real units), NULL for real values */
} cells;

typedef struct walk {
  const qb_pair *pair;
  walk_grain grain;
  const struct walk *limits; /* SIZES: a coarse walk that is one node ahead, set after walk_begin */
  cells *values;             /* by quantized value id */
  qb_arena arena;            /* owns all cells */
  qb_arena scratch;          /* emptied after every node */
  char why[320];             /* set when a node has no rule: the certificate cannot be recomputed */
  qb_error *error;
} walk;

/* A walk whose input lies in `domain` (elements of the input). QB_ERROR_MEMORY. Release with walk_free in every case.
 */
QB_MUST_CHECK qb_status walk_begin(walk *w, const qb_pair *pair, walk_grain grain, const range *domain,
                                   qb_error *error);

/* Computes the cells of the node's output from those of its inputs; false in *known, and `why`, without a rule. */
QB_MUST_CHECK qb_status walk_visit(walk *w, qb_node_id node, bool *known);
void walk_free(walk *w);

/* x, q and d = q - x tighten each other. */
void cells_tighten(walk_grain grain, triple *t);

/* Index of the cell of element i. */
int64_t cell_of(walk_grain grain, const qb_shape *shape, int64_t i);

/* The original's constant in the place of a constant in `slot` of our node: the same slot, or its only constant; NULL
 * without one. */
const qb_value *constant_of_partner(const qb_pair *pair, const qb_node *partner, int32_t slot);

/* Conv, ConvTranspose, Gemm, MatMul (check_linear.c): joins its results with `out`, one triple per cell of the
 * output, empty at first. */
QB_MUST_CHECK qb_status cells_linear(walk *w, qb_node_id node, triple *out, bool *known);

#endif
