/* Linear layers in the l2 domain: certified norms, the change at the centre, and the largest single output. */
#include <float.h>

#include "base/error.h"
#include "bound/fault.h"
#include "bound/affine.h"
#include "bound/spectral_internal.h"

/* ||T^-1 v||_2 rounded up, T the weights of the output. */
static double norm_up(const spectral_call *call, const double *v) {
  const double *t = call->s->result->weights[call->node->output];
  const qb_shape *shape = &call->s->pair->quantized->values[call->node->output].shape;
  int64_t count = call->outputs;
  double square = 0;
  for (int64_t i = 0; i < count; i++) {
    double weighted = t == NULL ? v[i] : v[i] / t[qb_shape_channel(shape, i)];
    square += weighted * weighted;
  }
  return sqrt(square) * (1 + ((double)count + 16) * DBL_EPSILON) + (double)count * DBL_MIN;
}

void spectral_layer_torus(const qb_graph *graph, const qb_linear *linear, const qb_kernel *kernel, int64_t side[2]) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_shape *x = &graph->values[node->inputs[0]].shape;
  for (int axis = 0; axis < 2; axis++) {
    int64_t n = node->op == QB_OP_CONV ? x->dims[2 + axis] : 1, stride = kernel->stride[axis];
    side[axis] = (qb_kernel_torus_side(kernel, axis, n) + stride - 1) / stride * stride;
  }
}

/* Schur's bound, for transposed convolutions. */
static double schur(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus) {
  double row, column;
  qb_affine_sums(graph, linear, plus, minus, &row, &column);
  return root_up(multiply_up(row, column));
}

qb_status qb_layer_sigma(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus,
                         qb_arena *scratch, double *sigma, qb_error *error) {
  if (graph->nodes[linear->node].op == QB_OP_CONV_TRANSPOSE) {
    *sigma = schur(graph, linear, plus, minus);
    return QB_OK;
  }
  qb_arena_mark mark = qb_arena_get_mark(scratch);
  qb_kernel kernel;
  QB_TRY(qb_kernel_create(graph, linear, plus, minus, scratch, &kernel, error));
  qb_sigma_problem problem = {.inner = &kernel};
  spectral_layer_torus(graph, linear, &kernel, problem.side);
  QB_TRY(qb_sigma_bound(&problem, sigma, error));
  qb_arena_rewind(scratch, mark);
  return QB_OK;
}

/* Certified norm of T_out^-1 (plus - minus) T_in. */
static qb_status layer_norm(const spectral_call *call, const qb_graph *graph, const qb_linear *linear,
                            const float *plus, const float *minus, double *sigma) {
  spectral *s = call->s;
  if (call->node->op == QB_OP_CONV_TRANSPOSE) { /* never weighted */
    *sigma = schur(graph, linear, plus, minus);
    return QB_OK;
  }
  qb_arena_mark mark = qb_arena_get_mark(&s->scratch);
  qb_kernel kernel, weighted;
  QB_TRY(qb_kernel_create(graph, linear, plus, minus, &s->scratch, &kernel, s->error));
  QB_TRY(spectral_weigh(s, &kernel, s->result->weights[call->node->inputs[0]], s->result->weights[call->node->output],
                        &s->scratch, &weighted));
  qb_sigma_problem problem = {.inner = &weighted};
  spectral_layer_torus(graph, linear, &weighted, problem.side);
  QB_TRY(spectral_norm(s, &problem, sigma));
  qb_arena_rewind(&s->scratch, mark);
  return QB_OK;
}

double spectral_row_norm(const spectral_call *call, const qb_graph *graph, const qb_linear *linear, const float *plus,
                         const float *minus, int64_t o) {
  const double *t = call->s->result->weights[call->node->inputs[0]]; /* one group where there are any */
  bool whole = graph->nodes[linear->node].op == QB_OP_CONV_TRANSPOSE;
  if (qb_bound_fault == QB_FAULT_ROW_UNWEIGHTED)
    t = NULL;
  int64_t rows = linear->out_channels, length = linear->row_length;
  int64_t first = whole ? 0 : o * length;
  int64_t count = whole ? rows * length : length;
  double square = 0;
  for (int64_t i = first; i < first + count; i++) {
    double w = (double)plus[i] - (minus == NULL ? 0.0 : (double)minus[i]);
    w *= t == NULL ? 1 : t[(i - first) / (length / linear->in_channels)];
    square += w * w;
  }
  return sqrt(square) * (1 + ((double)count + 16) * DBL_EPSILON) + DBL_MIN;
}

typedef struct layer_pair {
  const qb_graph *graph[2]; /* original, quantized */
  qb_linear linear[2];
  const float *weight[2], *bias[2];
} layer_pair;

static bool load_layer(const spectral_call *call, layer_pair *l) {
  const qb_pair *pair = call->s->pair;
  qb_node_id ids[2] = {pair->partner[call->id], call->id};
  for (int i = 0; i < 2; i++) {
    l->graph[i] = i == 0 ? pair->original : pair->quantized;
    if (!qb_graph_linear(l->graph[i], ids[i], &l->linear[i]))
      return false;
    l->weight[i] = qb_graph_constant(l->graph[i], l->linear[i].weight);
    l->bias[i] = qb_graph_constant(l->graph[i], l->linear[i].bias);
  }
  return true;
}

/* Largest |difference| of output channel o. */
static double channel_peak(const spectral_call *call, const double *difference, int64_t channels, int64_t o) {
  bool is_conv = call->node->op == QB_OP_CONV || call->node->op == QB_OP_CONV_TRANSPOSE;
  int64_t count = call->outputs / channels, step = is_conv ? 1 : channels;
  const double *first = difference + (is_conv ? o * count : o);
  double peak = 0;
  for (int64_t i = 0; i < count; i++)
    peak = fmax(peak, fabs(first[i * step]));
  return peak;
}

/* max over rows of ||w'_o|| e + |(dW c + db)_o| + ||dw_o|| H: the largest single output difference. */
/* The same element by element, the norms of the row given. */
static void limit_channel(const spectral_call *call, const double *difference, int64_t channels, int64_t o,
                          double norms) {
  bool is_conv = call->node->op == QB_OP_CONV || call->node->op == QB_OP_CONV_TRANSPOSE;
  int64_t count = call->outputs / channels;
  for (int64_t k = 0; k < count; k++) {
    int64_t i = is_conv ? o * count + k : k * channels + o;
    call->s->limits[i] = add_up(norms, fabs(difference[i]));
  }
}

static double layer_peak(const spectral_call *call, const layer_pair *l, const double *difference, double rounding) {
  int64_t channels = l->linear[0].out_channels;
  double peak = 0;
  for (int64_t o = 0; o < channels; o++) {
    double here = add_up(channel_peak(call, difference, channels, o), rounding);
    double moved =
        multiply_up(spectral_row_norm(call, l->graph[1], &l->linear[1], l->weight[1], NULL, o), call->x->error);
    double spread = multiply_up(spectral_row_norm(call, l->graph[0], &l->linear[0], l->weight[0], l->weight[1], o),
                                call->x->spread);
    if (qb_bound_fault == QB_FAULT_ROW_NORM_OF_ORIGINAL)
      spread = 0;
    peak = fmax(peak, add_up(add_up(moved, spread), here));
    if (call->s->limits != NULL)
      limit_channel(call, difference, channels, o, add_up(add_up(moved, spread), rounding));
  }
  call->s->limited = call->id;
  return peak;
}

static qb_status linear_norms(spectral_call *call, const layer_pair *l, qb_spectral_layer *norms) {
  spectral *s = call->s;
  if (s->given != NULL) {
    *norms = s->given->layers[call->id];
    return QB_OK;
  }
  QB_TRY(layer_norm(call, l->graph[0], &l->linear[0], l->weight[0], NULL, &norms->sigma));
  QB_TRY(layer_norm(call, l->graph[0], &l->linear[0], l->weight[0], l->weight[1], &norms->sigma_difference));
  if (norms->sigma_difference == 0) {
    norms->sigma_quantized = norms->sigma;
    return QB_OK;
  }
  norms->sigma_quantized = add_up(norms->sigma, norms->sigma_difference);
  if (l->linear[0].out_channels > s->settings->exact_channels && norms->sigma_quantized <= 1.02 * norms->sigma)
    return QB_OK;
  return layer_norm(call, l->graph[1], &l->linear[1], l->weight[1], NULL, &norms->sigma_quantized);
}

qb_status spectral_linear(spectral_call *call) {
  spectral *s = call->s;
  layer_pair l;
  if (!load_layer(call, &l)) {
    spectral_refuse(call, "the weight is not a constant");
    return QB_OK;
  }
  qb_spectral_layer *norms = &s->result->layers[call->id];
  QB_TRY(linear_norms(call, &l, norms));

  double *difference = qb_arena_alloc(&s->scratch, (size_t)call->outputs, sizeof *difference);
  if (difference == NULL)
    return qb_fail_memory(s->error, call->node->name, (size_t)call->outputs * sizeof *difference);
  QB_TRY(qb_affine_apply(l.graph[0], &l.linear[0], l.weight[0], NULL, l.bias[0], NULL, call->c, call->d, &s->scratch,
                         s->error));
  QB_TRY(qb_affine_apply(l.graph[0], &l.linear[0], l.weight[0], l.weight[1], l.bias[0], l.bias[1], call->c, difference,
                         &s->scratch, s->error));
  double size = largest_entry(call->c, call->inputs);
  double largest = spectral_largest_inverse(s, call->node->output);
  double drift = qb_affine_rounding(l.graph[0], &l.linear[0], l.weight[0], NULL, l.bias[0], NULL, size);
  double rounding = qb_affine_rounding(l.graph[0], &l.linear[0], l.weight[0], l.weight[1], l.bias[0], l.bias[1], size);

  drift = multiply_up(largest, drift);
  double at_centre = add_up(norm_up(call, difference), multiply_up(largest, rounding));
  if (qb_bound_fault == QB_FAULT_NO_CENTRE_CHANGE)
    at_centre = 0;
  if (qb_bound_fault == QB_FAULT_NO_SPREAD_CHANGE)
    norms->sigma_difference = 0;
  double injection = add_up(at_centre, multiply_up(norms->sigma_difference, call->x->spread));
  s->terms[call->id] = (spectral_terms){.drift = drift, .injection = injection};
  call->y->spread = add_up(multiply_up(norms->sigma, call->x->spread), drift);
  call->y->error = add_up(multiply_up(norms->sigma_quantized, call->x->error), injection);
  call->y->peak = layer_peak(call, &l, difference, rounding);
  return QB_OK;
}
