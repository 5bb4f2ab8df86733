/* Shared by elementwise_linear.c (the rule of linear layers) and elementwise_product.c (dense convolutions). */
#ifndef QB_BOUND_ELEMENTWISE_LAYER_H
#define QB_BOUND_ELEMENTWISE_LAYER_H

#include "bound/elementwise_internal.h"

/* What turns computed sums into upper bounds: y = sum factor + shift[o], shift holding the bias. */
typedef struct element_raising {
  double factor;
  double *shift[QB_ELEMENT_COUNT]; /* (out_channels) */
} element_raising;

typedef struct element_layer {
  qb_linear linear;
  qb_window window;
  int64_t channels[2], height[2], width[2]; /* of input (0) and output (1) */
  const float *w, *w_q;
  const float *x[QB_ELEMENT_COUNT];
  float *y[QB_ELEMENT_COUNT];
  element_raising up;
} element_layer;

/* One rounding of the product and one of the sum hide in the 2^-50 of the factor and in element_up. */
static inline float element_raised(double sum, double factor, double shift) { return element_up(sum * factor + shift); }

/* In place or not. The planted fault takes the sum as it is. */
void element_raise_row(const float *sum, int64_t count, double factor, double shift, float *y);

/* `rows` rows of weights from `first` on, `tile` entries from `offset` on: |w| = common + own, |w'| = common + own'. */
void element_split_block(const element_layer *l, int64_t first, int64_t rows, int64_t offset, int64_t tile,
                         float *common, float *own, float *own_q);

/* A convolution whose groups have more than one input channel. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status element_convolve(element_call *call, const element_layer *l);

#endif
