/* BatchNorm folding: a frozen BatchNormalization is an affine map per channel, y = s x + t with
 * s = gamma / sqrt(var + eps) and t = beta - mean s, which a neighbouring linear layer can take over (theory 7).
 *
 * The new weights are computed in double and rounded once to float32, so the folded network is another network in
 * exact arithmetic, equal to the one in the file up to float32 rounding (`largest_change` says how far). qbound folds
 * first, then quantizes: the folded float32 network is the original that bounds and certificates speak about. */
#ifndef QB_GRAPH_PASS_FOLD_BN_H
#define QB_GRAPH_PASS_FOLD_BN_H

#include "graph/graph.h"

typedef struct qb_fold_bn_left {
  const char *node; /* the BatchNormalization that stays */
  const char *why;  /* a static sentence */
} qb_fold_bn_left;

typedef struct qb_fold_bn_info {
  int32_t folded_back;    /* into the Conv, ConvTranspose, Gemm or MatMul before: W <- s W, b <- s b + t */
  int32_t folded_forward; /* into the layer behind: W <- W s, b <- b + W t */
  int32_t left_count;
  const qb_fold_bn_left *left; /* (left_count), in the graph's arena */
  double largest_change;       /* largest relative rounding |float32(v) - v| / |v| of a folded weight or bias v */
} qb_fold_bn_info;

/* Folds every BatchNormalization it can and leaves the others in place. Into the layer before when that layer's
 * output has no other use; else into an unpadded Conv or a Gemm behind that is the only use of the normalised value
 * (a padded Conv pads zeros after the shift: valid only when t = 0). Weights shared with another layer are copied for
 * the folded one. A MatMul that receives a shift becomes a Gemm. The codes of a
 * quantized weight stay: each output channel gets the scale times s, or, folded forward or where s is not positive, the
 * weights become plain floats.
 * QB_ERROR_MEMORY; the graph must then be dropped. */
QB_MUST_CHECK qb_status qb_fold_bn(qb_graph *graph, qb_fold_bn_info *info, qb_error *error);

#endif
