/* What evaluation in float32 adds to norms at one node (docs/bounds.md 3h). What its operands are evaluated to lies
 * within the spread of the centre, and of the error besides in the quantized network: ||T^-1 x|| <= ||T^-1 c|| + H, and
 * ||T^-1 x'|| <= ||T^-1 c|| + H + e. */
#include <float.h>

#include "bound/evaluation.h"
#include "bound/fault.h"
#include "bound/spectral_internal.h"

/* What a relative error of a node's output is relative to, in one network: as ||T^-1 .||_2 and as the largest element.
 */
typedef struct sizes {
  double norm, peak;
} sizes;

/* ||T^-1 x||_2 of value v in network `which`. */
static double norm_of(const spectral *s, qb_value_id v, int which) {
  const qb_shape *shape = &s->pair->quantized->values[v].shape;
  const double *t = s->result->weights[v], *c = s->centre[v];
  int64_t count = (int64_t)qb_shape_elements(shape);
  double square = 0;
  for (int64_t i = 0; i < count; i++) {
    double weighted = t == NULL ? c[i] : c[i] / t[qb_shape_channel(shape, i)];
    square += weighted * weighted;
  }
  double centre = sqrt(square) * (1 + ((double)count + 16) * DBL_EPSILON) + (double)count * DBL_MIN;
  const qb_spectral_state *x = &s->result->states[v];
  return add_up(add_up(centre, x->spread), which == 0 ? 0 : x->error);
}

static double peak_of(const spectral *s, qb_value_id v, double norm) {
  return multiply_up(spectral_largest_weight(s, v), norm);
}

/* ||T^-1 v||_2 of numbers that are at most `most`. */
static double norm_of_all(const spectral_call *call, double most) {
  return multiply_up(multiply_up(spectral_largest_inverse(call->s, call->node->output), most),
                     root_up((double)call->outputs));
}

/* Row o of |W| |x| + |b| is at most ||w_o T|| ||T^-1 patch|| + |b_o|, and an element of x lies in as many patches of a
 * channel as a kernel has taps. */
static sizes sizes_of_layer(const spectral_call *call, int which) {
  const spectral *s = call->s;
  const qb_graph *graph = which == 0 ? s->pair->original : s->pair->quantized;
  const double *t = s->result->weights[call->node->output];
  double x = norm_of(s, call->node->inputs[0], which), squares = 0, peak = 0, most = 0;
  qb_linear l;
  if (!qb_graph_linear(graph, which == 0 ? s->pair->partner[call->id] : call->id, &l))
    return (sizes){INFINITY, INFINITY};
  const float *weight = qb_graph_constant(graph, l.weight), *bias = qb_graph_constant(graph, l.bias);
  for (int64_t o = 0; o < l.out_channels; o++) {
    double row = spectral_row_norm(call, graph, &l, weight, NULL, o), b = bias == NULL ? 0 : fabs((double)bias[o]);
    double weighted = t == NULL ? row : row / t[o];
    squares += weighted * weighted;
    peak = fmax(peak, add_up(multiply_up(row, x), b));
    most = fmax(most, b);
  }
  double taps = (double)(l.kernel_area > 1 ? l.kernel_area : 1);
  double rows = root_up(taps * squares * (1 + ((double)l.out_channels + 16) * DBL_EPSILON));
  return (sizes){add_up(multiply_up(rows, x), norm_of_all(call, most)), peak};
}

static double largest_constant(const qb_graph *graph, const qb_node *node) {
  double most = 0;
  for (int32_t slot = 0; slot < node->input_count; slot++) {
    const qb_value *value = &graph->values[node->inputs[slot]];
    for (int64_t i = 0; value->is_constant && i < (int64_t)qb_shape_elements(&value->shape); i++)
      most = fmax(most, fabs((double)qb_view_f32(&value->constant)[i]));
  }
  return most;
}

/* |x_1| + |x_2|. */
static sizes sizes_of_operands(const spectral_call *call, int which) {
  const spectral *s = call->s;
  double constant = which == 0 ? largest_constant(s->pair->original, call->partner)
                               : largest_constant(s->pair->quantized, call->node);
  sizes size = {norm_of_all(call, constant), constant};
  for (int32_t slot = 0; slot < 2; slot++) {
    qb_value_id v = call->node->inputs[slot];
    if (s->pair->quantized->values[v].is_constant)
      continue;
    double norm = norm_of(s, v, which);
    size.norm = add_up(size.norm, multiply_up(spectral_ratio(s, v, call->node->output), norm));
    size.peak = add_up(size.peak, peak_of(s, v, norm));
  }
  return size;
}

/* Averages of sizes: rows of the matrix sum up to 1 and columns to at most that. */
static sizes sizes_of_mean(const spectral_call *call, int which) {
  qb_value_id x = call->node->inputs[0];
  double peak = peak_of(call->s, x, norm_of(call->s, x, which));
  return (sizes){multiply_up(spectral_largest_inverse(call->s, call->node->output), peak), peak};
}

static sizes sizes_at(const spectral_call *call, qb_evaluation_size kind, int which) {
  double norm = kind == QB_SIZE_OUTPUT ? norm_of(call->s, call->node->output, which) : 0;
  switch (kind) {
  case QB_SIZE_WEIGHTS: return sizes_of_layer(call, which);
  case QB_SIZE_OPERANDS: return sizes_of_operands(call, which);
  case QB_SIZE_MEAN: return sizes_of_mean(call, which);
  default: return (sizes){norm, peak_of(call->s, call->node->output, norm)};
  }
}

static void add(spectral_call *call, const sizes error[2]) {
  spectral *s = call->s;
  double both = add_up(error[0].norm, error[1].norm), peak = add_up(error[0].peak, error[1].peak);
  spectral_terms *terms = &s->terms[call->id];
  terms->drift = add_up(terms->drift, error[0].norm);
  terms->injection = add_up(terms->injection, both);
  call->y->spread = add_up(call->y->spread, error[0].norm);
  call->y->error = add_up(call->y->error, both);
  call->y->peak = add_up(call->y->peak, peak);
  for (int64_t i = 0; s->limits != NULL && s->limited == call->id && i < call->outputs; i++)
    s->limits[i] = add_up(s->limits[i], peak);
}

void spectral_evaluate(spectral_call *call) {
  qb_evaluation e;
  const char *why = qb_evaluation_of(call->s->pair, call->id, &e);
  sizes error[2] = {{0, 0}, {0, 0}};
  if (why == NULL && e.size == QB_SIZE_NONE)
    return;
  if (why == NULL && e.size == QB_SIZE_INPUT)
    why = "there is no l2 rule for its float32 evaluation";
  for (int which = call->partner == NULL ? 1 : 0; why == NULL && which < 2; which++) {
    sizes size = sizes_at(call, e.size, which);
    error[which].peak = qb_evaluation_error(&e, size.peak);
    error[which].norm = add_up(multiply_up(e.gamma, size.norm), norm_of_all(call, e.lost));
    if (!isfinite(error[which].peak) || !isfinite(error[which].norm))
      why = qb_evaluation_overflow;
    if (qb_bound_fault == QB_FAULT_NO_EVALUATION || (which == 0 && qb_bound_fault == QB_FAULT_ONE_EVALUATION))
      error[which] = (sizes){0, 0};
  }
  if (why == NULL) {
    add(call, error);
    return;
  }
  spectral_refuse(call, why);
  call->s->terms[call->id] = (spectral_terms){INFINITY, INFINITY}; /* nor do gates and rows know anything */
  call->s->limited = QB_NONE;
}
