/* Convolutions as block matrices over the frequencies of a torus (theory section 3.1 and the torus proof of section 9).
 *
 * A zero-padded convolution is a circular one on a torus of side >= n + d (k - 1), restricted to inputs supported on
 * the image and to a subset of the outputs. The discrete Fourier transform turns the circular convolution into one
 * small complex matrix per frequency, its symbol. With stride s an output frequency sees the s*s input frequencies
 * that alias to it: the symbol has one column block for each. */
#ifndef QB_BOUND_TORUS_H
#define QB_BOUND_TORUS_H

#include <complex.h>

#include "graph/graph.h"

typedef double _Complex qb_complex;

/* re + i im; CMPLX is missing from some C11 compilers. */
static inline qb_complex qb_complex_of(double re, double im) {
  union {
    double parts[2]; /* a complex number has the layout of an array of two (C11 6.2.5) */
    qb_complex value;
  } z = {{re, im}};
  return z.value;
}

/* One group of a linear layer with its weights in double, taps outermost. A matrix layer is a 1x1 convolution. */
typedef struct qb_kernel {
  int64_t rows, cols; /* output and input channels of one group */
  int32_t groups;
  int32_t size[2]; /* kernel height and width */
  int32_t stride[2], dilation[2], pad_begin[2], pad_end[2];
  double *taps; /* (groups, size[0] * size[1], rows, cols), from the arena of the call */
} qb_kernel;

/* Copies the weight difference a - b (b may be NULL: just a) of layer `linear` into a kernel; exact up to one rounding
 * to double per entry. `a` and `b` are float32 arrays in the weight's layout (ConvTranspose is not supported here:
 * returns QB_ERROR_UNSUPPORTED). */
QB_MUST_CHECK qb_status qb_kernel_create(const qb_graph *graph, const qb_linear *linear, const float *a, const float *b,
                                         qb_arena *arena, qb_kernel *kernel, qb_error *error);

/* The 1x1 identity on `channels` channels, as one group. */
QB_MUST_CHECK qb_status qb_kernel_identity(int64_t channels, qb_arena *arena, qb_kernel *kernel, qb_error *error);

/* Smallest torus side on which no tap of an output inside the image wraps around to another pixel of an image of side
 * `n`: n + max(d (k - 1), pads), not yet a multiple of the stride. 1 when the kernel is one tap without padding: its
 * symbol does not depend on the frequency. */
int64_t qb_kernel_torus_side(const qb_kernel *kernel, int axis, int64_t n);

/* exp(2 pi i t / n) for t = 0..n-1. */
typedef struct qb_twiddles {
  int64_t n;
  qb_complex *root; /* (n) */
} qb_twiddles;

/* Two tables for a torus (height, width); the same one twice when the sides are equal. */
QB_MUST_CHECK qb_status qb_twiddles_create(int64_t n, qb_arena *arena, qb_twiddles *twiddles, qb_error *error);

/* Writes the symbol of group `group` at output frequency (fy, fx), 0 <= f < side / stride, as a row-major matrix of
 * `rows` rows and aliases * cols columns (aliases = stride[0] * stride[1], each block scaled by 1 / sqrt(aliases) so
 * that the transform is unitary). Every torus side must be a multiple of the stride. */
void qb_kernel_symbol(const qb_kernel *kernel, int32_t group, const qb_twiddles twiddles[2], int64_t fy, int64_t fx,
                      qb_complex *matrix);

/* A copy with rows and columns multiplied by positive factors: T1 K T2. `row_factor` (rows) and `column_factor`
 * (cols) may be NULL. One group only. Factors may carry a rounding each, entries carry two more:
 * qb_kernel_symbol_error covers that. */
QB_MUST_CHECK qb_status qb_kernel_scale(const qb_kernel *kernel, const double *row_factor, const double *column_factor,
                                        qb_arena *arena, qb_kernel *scaled, qb_error *error);

/* Zeros for the taps of a kernel whose sizes are set. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_kernel_allocate(qb_kernel *kernel, qb_arena *arena, qb_error *error);

/* skip + outer inner / 2 as one kernel with the stride of `inner`; `outer` has stride 1, skip may be NULL. One group
 * each, matching channels. The composition on a torus, without the crop between the two layers. *lost is a bound on
 * the Frobenius norm of what rounding did to any symbol, for factors whose entries carry up to 6 roundings each.
 * `values`: qb_kernel_compose_values doubles of working memory, not cleared. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_kernel_compose(const qb_kernel *inner, const qb_kernel *outer, const qb_kernel *skip,
                                          qb_arena *arena, double *values, qb_kernel *joint, double *lost,
                                          qb_error *error);
size_t qb_kernel_compose_values(const qb_kernel *inner, const qb_kernel *outer, const qb_kernel *skip);

/* Upper bound on the Frobenius norm of any symbol: that of the matrix sum over taps |K|, the largest group's. */
double qb_kernel_absolute_norm(const qb_kernel *kernel);

/* Upper bound on the Frobenius norm of (computed symbol - exact symbol), any frequency of any group. */
double qb_kernel_symbol_error(const qb_kernel *kernel);

#endif
