/* The statistics of one layer's inputs from which weights are rounded (theory 6): second moments and means, accumulated
 * batch by batch with im2col folded in.
 *
 * With x a column of the layer's input in the float network (the K entries that meet one output unit) and xh the same
 * column in the network whose earlier layers are quantized already, over all columns that enter, per group:
 *   H = mean of xh xh^T            (K, K)
 *   R = mean of W (xh - x) xh^T    (OC/G, K)   = W (H - C^T), C = mean of x xh^T. Only W C is needed, which is
 *                                              cheaper than C by the ratio of OC/G to K
 *   c = mean of (W (xh - x))^2     (OC)        error that the layer inherits
 * The mean square of W' xh - W x, row by row, is then dW H dW^T + 2 dW R^T + c with dW = W' - W. Centred, all columns
 * have their mean taken off first: what is left when the bias takes the mean error away.
 *
 * Sums run in float32 over blocks of columns by matrix products of fixed tiles and in double over blocks, so the
 * result depends neither on the number of threads nor on the batches. */
#ifndef QB_QUANT_GRAM_H
#define QB_QUANT_GRAM_H

#include "graph/graph.h"

typedef struct qb_gram_settings {
  bool matrix;       /* H and R are wanted, not only means */
  int32_t positions; /* output positions of a sample that enter, drawn evenly over the map; 0: all */
  uint64_t seed;
} qb_gram_settings;

typedef struct qb_gram {
  qb_gram_settings settings;
  bool convolution;                             /* else rows of the last axis */
  qb_window window;                             /* kernel 1x1 for matrices */
  int64_t height, width, out_height, out_width; /* of the maps; 1 x rows for matrices */
  size_t channels, groups, length, rows;        /* C, G, K = C/G KH KW, OC/G */
  size_t drawn;                                 /* columns of one sample that enter */
  int64_t columns;                              /* that have entered */
  const float *weights;                         /* (OC, K) of the float network, borrowed */
  double *h;                                    /* (G, K, K); symmetric after qb_gram_finish. NULL without matrix */
  double *r;                                    /* (OC, K). NULL without matrix */
  double *c;                                    /* (OC). NULL without matrix */
  double *mean;                                 /* (G, K) of xh */
  double *shift;                                /* (OC) mean of W (xh - x) */
  float *block, *difference, *products;         /* one block: xh and xh - x (columns, G K), W (xh - x) (columns, OC) */
  size_t waiting;                               /* columns in the block that are not in the sums yet */
  bool apart;                                   /* xh - x of these is not zero */
} qb_gram;

/* True when the layer's statistics can be accumulated: convolutions and matrix layers, not transposed convolutions. */
bool qb_gram_supports(const qb_graph *graph, const qb_linear *linear);

/* Bytes that qb_gram_create allocates; SIZE_MAX when they overflow. */
size_t qb_gram_size(const qb_graph *graph, const qb_linear *linear, const qb_gram_settings *settings);

/* Sums of zero columns for a layer that qb_gram_supports; `weights` in the canonical layout outlive the gram.
 * QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_gram_create(const qb_graph *graph, const qb_linear *linear, const float *weights,
                                       const qb_gram_settings *settings, qb_gram *gram, qb_error *error);
void qb_gram_free(qb_gram *gram);

/* Adds `count` samples of the layer's input: x float, xh quantized prefix (may be the same pointer), (count, C, H, W)
 * or (count, .., IN). `first` is the number of the first sample: which positions enter depends on it and the seed
 * alone. Columns wait until a block is full, so that the sums do not depend on how samples are cut into batches. */
void qb_gram_add(qb_gram *gram, const float *x, const float *xh, int64_t first, int32_t count);

/* Columns in one block. */
enum { QB_GRAM_COLUMNS = 2048 };

/* Writes columns `begin`, .. (at most QB_GRAM_COLUMNS) of a batch of inputs x into `block`, numbered sample by sample,
 * `drawn` a sample. For readers that need columns and no moments. */
void qb_gram_gather(qb_gram *gram, const float *x, int64_t first, size_t begin, size_t count);

/* Adds what waits, turns sums into means and completes H. With `centred` the means are taken off H, R and c. At least
 * one column. */
void qb_gram_finish(qb_gram *gram, bool centred);

#endif
