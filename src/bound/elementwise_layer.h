/* Shared by elementwise_linear.c (the rule of linear layers) and elementwise_product.c and elementwise_depthwise.c
 * (convolutions). */
#ifndef QB_BOUND_ELEMENTWISE_LAYER_H
#define QB_BOUND_ELEMENTWISE_LAYER_H

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

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

/* A convolution whose groups have one input channel. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status element_convolve_depthwise(element_call *call, const element_layer *l);

/* Room for `count` floats from the beginning of a cache line on, with anything in them; NULL: memory is short. */
float *element_reserve(element_buffer *buffer, size_t count);

/* -------------------------------------------------------------------------------------------------------- vectors */

enum { ELEMENT_LANES = 8, ELEMENT_LINE = 16 }; /* floats of a vector, of a cache line */

/* Floats rounded up to whole cache lines. */
static inline size_t element_whole_lines(size_t floats) {
  return (floats + ELEMENT_LINE - 1) / ELEMENT_LINE * ELEMENT_LINE;
}

typedef float element_lanes __attribute__((vector_size(ELEMENT_LANES * sizeof(float))));

static inline element_lanes element_load(const float *at) {
  element_lanes x;
  memcpy(&x, at, sizeof x);
  return x;
}

static inline void element_store(float *at, element_lanes x) { memcpy(at, &x, sizeof x); }

/* a b + c, fused where the processor can: one rounding instead of two. */
static inline element_lanes element_multiply_add(element_lanes a, element_lanes b, element_lanes c) {
#if defined(__AVX2__) && defined(__FMA__)
  return (element_lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

#endif
