/* Row norms of linear layers. Rows are spread over threads, each summed by one thread in a fixed order. */
#include "bound/norms.h"

#include <assert.h>
#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/rounding.h"

enum { WORTH_THREADS = 1000000 }; /* weights, about a millisecond: below, waiting for a busy core costs more */

/* sum |w[i]| of one row and, when `base` is given, the largest |w[i] - base[i]|, both as computed in double. */
static double row_sum(const float *w, const float *base, int64_t count, double *largest) {
  double sum = 0, change = 0;
  if (base == NULL) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
      sum += fabs((double)w[i]);
    return sum;
  }
#pragma omp simd reduction(+ : sum) reduction(max : change)
  for (int64_t i = 0; i < count; i++) {
    double d = fabs((double)w[i] - (double)base[i]);
    sum += fabs((double)w[i]);
    change = d > change ? d : change;
  }
  *largest = fmax(*largest, change);
  return sum;
}

/* sums[o] for weights whose rows are contiguous: Conv (OC, IC/G, KH, KW), Gemm (OUT, IN). Returns max |w - base|. */
static double sum_rows(const float *w, const float *base, int64_t rows, int64_t length, double *sums) {
  double change = 0;
#pragma omp parallel for schedule(static) reduction(max : change) if (rows * length > WORTH_THREADS)
  for (int64_t o = 0; o < rows; o++) {
    double largest = 0;
    sums[o] = row_sum(w + o * length, base == NULL ? NULL : base + o * length, length, &largest);
    change = fmax(change, largest);
  }
  return change;
}

/* The same for ConvTranspose (IC, OC/G, KH, KW): filter o = g OC/G + j collects the slices [i, j] of its group. */
static double sum_transposed(const float *w, const float *base, const qb_linear *linear, double *sums) {
  int64_t per_group = linear->out_channels / linear->group, slices = linear->in_channels / linear->group;
  int64_t area = linear->kernel_area;
  double change = 0;
#pragma omp parallel for schedule(static) reduction(max : change) if (slices * area > WORTH_THREADS)
  for (int64_t o = 0; o < linear->out_channels; o++) {
    double largest = 0, sum = 0;
    for (int64_t i = o / per_group * slices; i < (o / per_group + 1) * slices; i++) {
      int64_t at = (i * per_group + o % per_group) * area;
      sum += row_sum(w + at, base == NULL ? NULL : base + at, area, &largest);
    }
    sums[o] = sum;
    change = fmax(change, largest);
  }
  return change;
}

static double bias_change(const float *bias, const float *base, int64_t count) {
  double change = 0;
  for (int64_t o = 0; o < count; o++)
    change = fmax(change, fabs((bias == NULL ? 0 : (double)bias[o]) - (base == NULL ? 0 : (double)base[o])));
  return change == 0 ? 0 : qb_up(change); /* one rounding of the difference; equal floats differ by exactly 0 */
}

/* Maxima over rows. Each sum has at most row_length - 1 roundings whatever its order, so one factor serves all. */
static void collect(const double *sums, const float *bias, const qb_linear *linear, qb_layer_norms *norms) {
  *norms = (qb_layer_norms){0};
  for (int64_t o = 0; o < linear->out_channels; o++) {
    double b = bias == NULL ? 0 : fabs((double)bias[o]), row = qb_sum_upper(sums[o], linear->row_length);
    norms->weight = fmax(norms->weight, row);
    norms->bias = fmax(norms->bias, b);
    norms->joint = fmax(norms->joint, qb_up_sum(row, b));
  }
}

qb_status qb_layer_norms_and_change(const qb_graph *graph, const qb_linear *linear, const qb_graph *base_graph,
                                    const qb_linear *base, qb_layer_norms *norms, qb_layer_change *change,
                                    qb_error *error) {
  const float *w = qb_view_f32(&graph->values[linear->weight].constant), *w_base = NULL;
  double *sums = qb_alloc((size_t)linear->out_channels, sizeof *sums);
  if (sums == NULL)
    return qb_fail_memory(error, "row sums", (size_t)linear->out_channels * sizeof *sums);
  if (base != NULL) {
    assert(qb_shape_equal(&graph->values[linear->weight].shape, &base_graph->values[base->weight].shape));
    w_base = qb_view_f32(&base_graph->values[base->weight].constant);
  }
  double largest = linear->channel_axis == 1 ? sum_transposed(w, w_base, linear, sums)
                                             : sum_rows(w, w_base, linear->out_channels, linear->row_length, sums);
  collect(sums, qb_graph_constant(graph, linear->bias), linear, norms);
  if (base != NULL)
    *change = (qb_layer_change){.weight = largest == 0 ? 0 : qb_up(largest),
                                .bias = bias_change(qb_graph_constant(graph, linear->bias),
                                                    qb_graph_constant(base_graph, base->bias), linear->out_channels)};
  qb_free(sums);
  return QB_OK;
}

qb_status qb_layer_norms_of(const qb_graph *graph, const qb_linear *linear, qb_layer_norms *norms, qb_error *error) {
  return qb_layer_norms_and_change(graph, linear, NULL, NULL, norms, NULL, error);
}
