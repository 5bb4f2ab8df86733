/* Float32 loops for operators that the fast engine's library lacks or restricts. Private to run/. */
#ifndef QB_RUN_PLAIN_H
#define QB_RUN_PLAIN_H

#include "run/engine.h"

/* One call: tensors are plain row-major. Constants have their own shape, activations dims[0] samples. */
typedef struct plain_call {
  const qb_graph *graph;
  const qb_node *node;
  int32_t batch;
  const float *const *in; /* (node->input_count), NULL for a missing one */
  float *y;
  size_t count; /* elements of y; for elementwise rules, all that lie in memory, whatever the layout */
} plain_call;

typedef void (*plain_rule)(const plain_call *call);

/* The rule of an operator, or NULL. */
plain_rule qb_plain_rule(qb_op op);

/* True when the rule maps element by element and 0 to 0 (or to its code), so that it may run on a padded
 * layout. */
bool qb_plain_any_layout(const qb_graph *graph, const qb_node *node);

/* Gemm and MatMul, in product.c. */
void qb_plain_product(const plain_call *call);

#endif
