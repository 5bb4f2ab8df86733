/* Correcting biases; see bias_correction.h. */
#include "quant/bias_correction.h"

#include "base/error.h"
#include "graph/layer_bias.h"

/* mean(W' xh - W x) of output channel `o`: (W' - W) mean(xh) + mean(W (xh - x)). */
static double mean_error(const qb_gram *gram, const float *weights, size_t o) {
  const double *mean = gram->mean + o / gram->rows * gram->length;
  double sum = gram->shift[o];
  for (size_t k = 0; k < gram->length; k++) {
    size_t at = o * gram->length + k;
    sum += ((double)weights[at] - (double)gram->weights[at]) * mean[k];
  }
  return sum;
}

qb_status qb_bias_correct(qb_graph *graph, const qb_linear *linear, const qb_gram *gram, const float *weights,
                          qb_error *error) {
  qb_linear layer = *linear;
  float *bias;
  QB_TRY(qb_layer_bias_own(graph, &layer, &bias, error));
  for (size_t o = 0; o < gram->groups * gram->rows; o++)
    bias[o] = (float)((double)bias[o] - mean_error(gram, weights, o));
  return QB_OK;
}

/* (W' - W) E[x] of output channel `o`, a mean per input channel. */
static double expected_error(const qb_linear *linear, const float *before, const float *after, const double *mean,
                             int64_t o) {
  int64_t inputs = linear->in_channels / linear->group, rows = linear->out_channels / linear->group;
  const double *group_mean = mean + o / rows * inputs;
  double sum = 0;
  for (int64_t i = 0; i < inputs; i++) {
    double moved = 0;
    for (int64_t k = 0; k < linear->kernel_area; k++) {
      int64_t at = (o * inputs + i) * linear->kernel_area + k;
      moved += (double)after[at] - (double)before[at];
    }
    sum += moved * group_mean[i];
  }
  return sum;
}

qb_status qb_bias_correct_free(const qb_graph *original, qb_graph *graph, const qb_moments *moments, int *corrected,
                               qb_error *error) {
  *corrected = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear was, is;
    if (!qb_graph_linear(original, n, &was) || !qb_graph_linear(graph, n, &is) || !qb_layer_bias_is_free(graph, &is) ||
        graph->values[is.weight].codes == NULL)
      continue;
    const double *mean = qb_moments_of_layer(moments, original, &was);
    if (mean == NULL)
      continue;
    const float *before = qb_view_f32(&original->values[was.weight].constant);
    const float *after = qb_view_f32(&graph->values[is.weight].constant);
    float *bias;
    QB_TRY(qb_layer_bias_own(graph, &is, &bias, error));
    for (int64_t o = 0; o < is.out_channels; o++)
      bias[o] = (float)((double)bias[o] - expected_error(&was, before, after, mean, o));
    (*corrected)++;
  }
  return QB_OK;
}
