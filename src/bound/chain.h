/* The network as the published theorems see it: a chain of linear layers, with the paper's conventions.
 *
 * The list is every linear layer in topological order. Only when the network really is a chain (`is_network`) do the
 * published bounds speak about it; otherwise they speak about the paper's chain, and reports have to say so. */
#ifndef QB_BOUND_CHAIN_H
#define QB_BOUND_CHAIN_H

#include "base/arena.h"
#include "bound/norms.h"

typedef struct qb_chain_layer {
  qb_linear linear;
  double inputs, outputs; /* N_{l-1}, N_l: elements of the layer's input and output, or channels (conventions) */
  double row_entries;     /* p^2 c_{l-1} / g, for matrices N_{l-1} */
  double fewest_entries;  /* entries of a row at most: the smaller of p^2 c / g and the number of input elements */
  qb_layer_norms norms;   /* of the original network */
} qb_chain_layer;

enum { QB_CHAIN_WHY = 200 };

typedef struct qb_chain {
  qb_arena arena;
  const qb_graph *graph; /* borrowed */
  qb_bound_conventions conventions;
  qb_chain_layer *layers; /* (count), in the arena */
  int32_t count;
  int32_t dropped_biases;      /* layers whose bias the conventions leave out */
  int32_t dropped_batch_norms; /* BatchNormalization nodes left out */
  int32_t dropped_downsamples; /* shortcut layers left out */
  int32_t dropped_dense;       /* matrices left out */
  const char *batch_norm;      /* a BatchNormalization that was neither folded nor dropped, or NULL */
  bool is_network;             /* nothing dropped, and the graph is a path of layers and maps phi with
                                * |phi(x) - phi(y)| <= |x - y| and phi(0) = 0 in the largest-entry norm */
  char why_not[QB_CHAIN_WHY];  /* when not */
} qb_chain;

/* Extracts the chain of `graph` and computes its norms (the one pass over the original weights). Free with
 * qb_chain_free in every case. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_chain_extract(const qb_graph *graph, const qb_bound_conventions *conventions,
                                         qb_chain *chain, qb_error *error);
void qb_chain_free(qb_chain *chain);

/* Sets downsample[n] for every linear layer n on the shorter branch of an Add: walking back from both operands along
 * first inputs to the first common value, the branch with fewer linear layers, if it has any. `downsample` has
 * node_count entries. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_chain_find_downsamples(const qb_graph *graph, bool *downsample, qb_error *error);

#endif
