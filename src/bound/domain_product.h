/* The product of the domains: one walk in which every tensor carries intervals of each element (box.h) and l2 norms of
 * the whole (spectral.h), and each improves the other after every node (docs/bounds.md). */
#ifndef QB_BOUND_DOMAIN_PRODUCT_H
#define QB_BOUND_DOMAIN_PRODUCT_H

#include "bound/box.h"
#include "bound/interval.h"
#include "bound/spectral.h"

typedef struct qb_product {
  qb_bound bound; /* on the largest |output difference| */
  int64_t count;
  qb_interval *difference; /* (count) of x' - x at the first output; NULL when the bound does not apply */
  qb_arena arena;
} qb_product;

/* `spectral` is the finished bound of the pair and domain, whose weights and norms are used again. Where it does not
 * apply it is replaced by what this walk finds: a node without an l2 rule goes on from the norms of its intervals. One
 * without an interval rule makes the product "not applicable". QB_ERROR_MEMORY, QB_ERROR_NUMERIC. Release with
 * qb_product_free in every case. */
QB_MUST_CHECK qb_status qb_bound_product(const qb_pair *pair, const qb_domain *domain, qb_spectral_result *spectral,
                                         qb_product *product, qb_error *error);
void qb_product_free(qb_product *product);

#endif
