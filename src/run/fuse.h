/* Which nodes a convolution can take along in one pass over its output. Private to run/. */
#ifndef QB_RUN_FUSE_H
#define QB_RUN_FUSE_H

#include "run/engine.h"

enum { QB_FUSE_MAX = 4 };

/* A root node and the nodes that follow it directly: activations, and at most one Add of another tensor whose memory
 * the result may overwrite. The whole chain runs at the root's position. */
typedef struct qb_chain {
  qb_node_id root;
  int32_t count;
  qb_node_id posts[QB_FUSE_MAX]; /* in order */
  qb_value_id residual;          /* the other operand of the Add, or QB_NONE */
} qb_chain;

/* The longest legal chain from `root`. Values that stay readable are never inside a chain, only at its end. */
qb_chain qb_fuse_chain(const qb_graph *graph, const bool *kept, qb_node_id root);

#endif
