/* The elementwise graph bound (theory 3.1, edge form): one number per tensor element for e >= |x - x'|, a >= |x| and
 * a' >= |x'|, in float32 with non-negative passes.
 *
 * A weight pair is split into what both share and what each has alone, |w| = m + p and |w'| = m + q, where m =
 * min(|w|, |w'|) for equal signs and 0 for opposite ones. Then |w x - w' x'| <= m e + p a + q a', and the same five
 * products give a <- (m + p) a + |b| and a' <- (m + q) a' + |b'|. Dense convolutions take (p + q) max(a, a'): four
 * products. docs/bounds.md has the proof and the rounding. */
#ifndef QB_BOUND_ELEMENTWISE_H
#define QB_BOUND_ELEMENTWISE_H

#include "bound/layerwise.h"

enum { QB_ELEMENT_ERROR, QB_ELEMENT_ORIGINAL, QB_ELEMENT_QUANTIZED, QB_ELEMENT_COUNT };

/* Upper bounds of |x - x'|, |x| and |x'| of every element of one tensor, times 2^exponent. Infinity: nothing known. */
typedef struct qb_elementwise_state {
  int64_t count, room; /* `room`: what the arrays could hold */
  int32_t exponent;
  float *limit[QB_ELEMENT_COUNT]; /* (count) each; NULL for constants, for values no output depends on, and where they
                                   * were not kept */
} qb_elementwise_state;

typedef struct qb_elementwise {
  qb_arena arena;
  qb_elementwise_state *states; /* by value of the quantized graph */
  qb_magnitude bound;           /* >= sup |R(x) - R'(x)| over the domain, over all outputs and elements */
  int32_t convolutions;         /* passes through linear layers: four or five for each */
} qb_elementwise;

/* `layerwise` holds the finished layerwise bound of the same pair and domain; its ranges and errors per channel limit
 * the numbers here, and operators without a finer rule take them as they are. The result is therefore never above
 * layerwise but for one rounding to float32. The same bits for any number of threads. Free with qb_elementwise_free in
 * every case. QB_ERROR_MEMORY, QB_ERROR_NUMERIC for an unsafe floating-point environment. */
QB_MUST_CHECK qb_status qb_elementwise_bound(const qb_pair *pair, const qb_domain *domain,
                                             const qb_layerwise *layerwise, qb_elementwise *elementwise,
                                             qb_error *error);

/* The same, and keeps the numbers of every tensor; else those of the outputs alone. */
QB_MUST_CHECK qb_status qb_elementwise_bound_kept(const qb_pair *pair, const qb_domain *domain,
                                                  const qb_layerwise *layerwise, qb_elementwise *elementwise,
                                                  qb_error *error);
void qb_elementwise_free(qb_elementwise *elementwise);

#endif
