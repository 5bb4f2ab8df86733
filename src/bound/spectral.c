/* Propagation of centres, spreads and errors in l2; see spectral.h. */
#include "bound/spectral.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/affine.h"
#include "bound/spectral_internal.h"

/* A rule fills the centre and the state of the node's output. A missing rule is a reason, not an error: it is written
 * to result->bound.why and the rule returns true in *refused. */
typedef struct rule_call {
  spectral *s;
  qb_node_id id;
  const qb_node *node;        /* of the quantized graph */
  const qb_node *partner;     /* of the original graph */
  const qb_spectral_state *x; /* of input 0 */
  const double *c;            /* centre of input 0 */
  qb_spectral_state *y;
  double *d;               /* centre of the output, to be filled */
  int64_t inputs, outputs; /* elements of input 0 and of the output */
  bool refused;
} rule_call;

typedef qb_status (*spectral_rule)(rule_call *call);

/* ------------------------------------------------------------------------------------------------------- helpers */

const float *spectral_constant(const qb_graph *graph, qb_value_id id) {
  return id == QB_NONE ? NULL : qb_view_f32(&graph->values[id].constant);
}

/* ||v||_2 rounded up. */
static double norm_up(const double *v, int64_t count) {
  double square = 0;
  for (int64_t i = 0; i < count; i++)
    square += v[i] * v[i];
  return sqrt(square) * (1 + ((double)count + 8) * DBL_EPSILON) + (double)count * DBL_MIN;
}

static double largest(const double *v, int64_t count) {
  double result = 0;
  for (int64_t i = 0; i < count; i++)
    result = fmax(result, fabs(v[i]));
  return result;
}

static double root_up(double x) { return round_up(sqrt(x)); }

static void refuse(rule_call *call, const char *why) {
  qb_bound *bound = &call->s->result->bound;
  snprintf(bound->why, sizeof bound->why, "node '%s' (%s): %s", call->node->name, qb_op_name(call->node->op), why);
  call->refused = true;
}

/* Output state of an elementwise function with the Lipschitz constant `slope`, the same in both networks. */
static void lipschitz(rule_call *call, double slope) {
  *call->y = (qb_spectral_state){.error = multiply_up(slope, call->x->error),
                                 .spread = multiply_up(slope, call->x->spread),
                                 .peak = multiply_up(slope, call->x->peak)};
}

/* Adds the rounding of a centre that was computed with an error of at most `relative` times its size. */
static void centre_rounding(rule_call *call, double relative) {
  double size = largest(call->d, call->outputs) + DBL_MIN;
  double drift = relative * size * sqrt((double)call->outputs);
  call->s->terms[call->id].drift = round_up(drift);
  call->y->spread = add_up(call->y->spread, round_up(drift));
}

static const qb_value *input_value(const rule_call *call, int32_t slot) {
  return &call->s->pair->quantized->values[call->node->inputs[slot]];
}

/* Channel (axis 1) of element i. */
static int64_t channel_of(const qb_shape *shape, int64_t i) {
  int64_t inner = 1;
  for (int32_t axis = 2; axis < shape->rank; axis++)
    inner *= shape->dims[axis];
  return shape->rank < 2 ? 0 : i / inner % shape->dims[1];
}

/* ------------------------------------------------------------------------------------------------- linear layers */

/* Certified norms of W, W' and dW; Schur's bound where there is no torus form. */
static qb_status layer_norm(spectral *s, const qb_graph *graph, const qb_linear *linear, const float *plus,
                            const float *minus, double *sigma) {
  if (graph->nodes[linear->node].op == QB_OP_CONV_TRANSPOSE) {
    double row, column;
    qb_affine_sums(graph, linear, plus, minus, &row, &column);
    *sigma = root_up(multiply_up(row, column));
    return QB_OK;
  }
  qb_arena_mark mark = qb_arena_get_mark(&s->scratch);
  qb_kernel kernel;
  QB_TRY(qb_kernel_create(graph, linear, plus, minus, &s->scratch, &kernel, s->error));
  const qb_shape *x = &graph->values[graph->nodes[linear->node].inputs[0]].shape;
  qb_sigma_problem problem = {.inner = &kernel};
  for (int axis = 0; axis < 2; axis++) {
    int64_t n = graph->nodes[linear->node].op == QB_OP_CONV ? x->dims[2 + axis] : 1;
    int64_t side = qb_kernel_torus_side(&kernel, axis, n), stride = kernel.stride[axis];
    problem.side[axis] = (side + stride - 1) / stride * stride;
  }
  QB_TRY(qb_sigma_bound(&problem, sigma, s->error));
  qb_arena_rewind(&s->scratch, mark);
  return QB_OK;
}

/* l2 norm of row o of plus - minus (plus alone when minus is NULL), rounded up; ConvTranspose: of the whole matrix. */
static double row_norm(const qb_graph *graph, const qb_linear *linear, const float *plus, const float *minus,
                       int64_t o) {
  bool whole = graph->nodes[linear->node].op == QB_OP_CONV_TRANSPOSE;
  int64_t rows = linear->out_channels, length = linear->row_length;
  int64_t first = whole ? 0 : o * length;
  int64_t count = whole ? rows * length : length;
  double square = 0;
  for (int64_t i = first; i < first + count; i++) {
    double w = (double)plus[i] - (minus == NULL ? 0.0 : (double)minus[i]);
    square += w * w;
  }
  return sqrt(square) * (1 + ((double)count + 8) * DBL_EPSILON) + DBL_MIN;
}

typedef struct layer_pair {
  const qb_graph *graph[2]; /* original, quantized */
  qb_linear linear[2];
  const float *weight[2], *bias[2];
} layer_pair;

static bool load_layer(const rule_call *call, layer_pair *l) {
  const qb_pair *pair = call->s->pair;
  qb_node_id ids[2] = {pair->partner[call->id], call->id};
  for (int i = 0; i < 2; i++) {
    l->graph[i] = i == 0 ? pair->original : pair->quantized;
    if (!qb_graph_linear(l->graph[i], ids[i], &l->linear[i]))
      return false;
    l->weight[i] = spectral_constant(l->graph[i], l->linear[i].weight);
    l->bias[i] = spectral_constant(l->graph[i], l->linear[i].bias);
  }
  return true;
}

/* Largest |difference| of output channel o. */
static double channel_peak(const rule_call *call, const double *difference, int64_t channels, int64_t o) {
  bool is_conv = call->node->op == QB_OP_CONV || call->node->op == QB_OP_CONV_TRANSPOSE;
  int64_t count = call->outputs / channels, step = is_conv ? 1 : channels;
  const double *first = difference + (is_conv ? o * count : o);
  double peak = 0;
  for (int64_t i = 0; i < count; i++)
    peak = fmax(peak, fabs(first[i * step]));
  return peak;
}

/* max over rows of ||w'_o|| e + |(dW c + db)_o| + ||dw_o|| H: the largest single output difference. */
static double layer_peak(const rule_call *call, const layer_pair *l, const double *difference, double rounding) {
  int64_t channels = l->linear[0].out_channels;
  double peak = 0;
  for (int64_t o = 0; o < channels; o++) {
    double here = add_up(channel_peak(call, difference, channels, o), rounding);
    double moved = multiply_up(row_norm(l->graph[1], &l->linear[1], l->weight[1], NULL, o), call->x->error);
    double spread = multiply_up(row_norm(l->graph[0], &l->linear[0], l->weight[0], l->weight[1], o), call->x->spread);
    peak = fmax(peak, add_up(add_up(moved, spread), here));
  }
  return peak;
}

static qb_status linear_norms(rule_call *call, const layer_pair *l, qb_spectral_layer *norms) {
  spectral *s = call->s;
  QB_TRY(layer_norm(s, l->graph[0], &l->linear[0], l->weight[0], NULL, &norms->sigma));
  QB_TRY(layer_norm(s, l->graph[0], &l->linear[0], l->weight[0], l->weight[1], &norms->sigma_difference));
  if (norms->sigma_difference == 0) {
    norms->sigma_quantized = norms->sigma;
    return QB_OK;
  }
  return layer_norm(s, l->graph[1], &l->linear[1], l->weight[1], NULL, &norms->sigma_quantized);
}

static qb_status rule_gemm(rule_call *call) {
  spectral *s = call->s;
  layer_pair l;
  if (!load_layer(call, &l)) {
    refuse(call, "the weight is not a constant");
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
  double size = largest(call->c, call->inputs);
  double drift = qb_affine_rounding(l.graph[0], &l.linear[0], l.weight[0], NULL, l.bias[0], NULL, size);
  double rounding = qb_affine_rounding(l.graph[0], &l.linear[0], l.weight[0], l.weight[1], l.bias[0], l.bias[1], size);

  double at_centre = add_up(norm_up(difference, call->outputs), rounding);
  double injection = add_up(at_centre, multiply_up(norms->sigma_difference, call->x->spread));
  s->terms[call->id] = (spectral_terms){.drift = drift, .injection = injection};
  call->y->spread = add_up(multiply_up(norms->sigma, call->x->spread), drift);
  call->y->error = add_up(multiply_up(norms->sigma_quantized, call->x->error), injection);
  call->y->peak = layer_peak(call, &l, difference, rounding);
  return QB_OK;
}

static qb_status rule_conv(rule_call *call) { return rule_gemm(call); }
static qb_status rule_conv_transpose(rule_call *call) { return rule_gemm(call); }

/* Frozen BatchNorm is the same map s x + t in both networks (qb_pair). */
static qb_status rule_batch_norm(rule_call *call) {
  const float *p[4];
  for (int32_t i = 0; i < 4; i++)
    p[i] = spectral_constant(call->s->pair->quantized, call->node->inputs[1 + i]);
  double slope = 0, epsilon = (double)call->node->attributes.batch_norm.epsilon;
  const qb_shape *shape = &input_value(call, 0)->shape;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t c = channel_of(shape, i);
    double factor = (double)p[0][c] / sqrt((double)p[3][c] + epsilon);
    call->d[i] = factor * (call->c[i] - (double)p[2][c]) + (double)p[1][c];
    slope = fmax(slope, fabs(factor));
  }
  lipschitz(call, slope * (1 + 8 * DBL_EPSILON));
  double size = slope * (largest(call->c, call->inputs) + 1);
  for (int64_t c = 0; c < shape->dims[1]; c++)
    size = fmax(size, 4 * (fabs((double)p[1][c]) + slope * fabs((double)p[2][c])));
  double drift = round_up(16 * DBL_EPSILON * size * sqrt((double)call->outputs));
  call->s->terms[call->id].drift = drift;
  call->y->spread = add_up(call->y->spread, drift);
  return QB_OK;
}

/* --------------------------------------------------------------------------------------------------- activations */

static qb_status rule_relu(rule_call *call) {
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = fmax(call->c[i], 0);
  lipschitz(call, 1);
  return QB_OK;
}

static qb_status rule_leaky_relu(rule_call *call) {
  double alpha = (double)call->node->attributes.linear.alpha;
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = call->c[i] > 0 ? call->c[i] : alpha * call->c[i];
  lipschitz(call, fmax(1, fabs(alpha)));
  centre_rounding(call, DBL_EPSILON);
  return QB_OK;
}

static int64_t broadcast_index(const qb_shape *whole, const qb_shape *part, int64_t i) {
  int64_t index = 0, stride = 1;
  for (int32_t k = 0; k < whole->rank; k++) {
    int32_t axis = whole->rank - 1 - k, own = part->rank - 1 - k;
    int64_t position = i % whole->dims[axis];
    i /= whole->dims[axis];
    if (own >= 0 && part->dims[own] != 1)
      index += position * stride;
    if (own >= 0)
      stride *= part->dims[own];
  }
  return index;
}

static qb_status rule_prelu(rule_call *call) {
  const qb_value *slope = input_value(call, 1);
  if (!slope->is_constant) {
    refuse(call, "the slope is not a constant");
    return QB_OK;
  }
  const float *alpha = qb_view_f32(&slope->constant);
  double steepest = 1;
  for (int64_t i = 0; i < call->outputs; i++) {
    double a = (double)alpha[broadcast_index(&input_value(call, 0)->shape, &slope->shape, i)];
    call->d[i] = call->c[i] > 0 ? call->c[i] : a * call->c[i];
    steepest = fmax(steepest, fabs(a));
  }
  lipschitz(call, steepest);
  centre_rounding(call, DBL_EPSILON);
  return QB_OK;
}

static double clip_high(const qb_clip_attributes *clip, int64_t channel) {
  return (double)(clip->hi_channels != NULL ? clip->hi_channels[channel] : clip->hi);
}

/* Both networks clip to [lo, hi]: the error is at most hi - lo in every element, the spread at most the distance of
 * the centre to the farther limit. Limits that differ move the result by at most their difference. */
static qb_status rule_clip(rule_call *call) {
  const qb_clip_attributes *ours = &call->node->attributes.clip, *theirs = &call->partner->attributes.clip;
  const qb_shape *shape = &input_value(call, 0)->shape;
  double error = 0, spread = 0, change = 0, widest = 0;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t c = channel_of(shape, i);
    double lo = (double)theirs->lo, hi = clip_high(theirs, c);
    double lo2 = (double)ours->lo, hi2 = clip_high(ours, c);
    call->d[i] = fmin(fmax(call->c[i], lo), hi);
    double range = fmax(hi, hi2) - fmin(lo, lo2);
    double far = fmax(hi - call->d[i], call->d[i] - lo);
    double moved = fmax(lo == lo2 ? 0 : fabs(lo - lo2), hi == hi2 ? 0 : fabs(hi - hi2));
    error += range * range;
    spread += far * far;
    change = fmax(change, moved);
    widest = fmax(widest, range);
  }
  double slack = 1 + ((double)call->outputs + 16) * DBL_EPSILON;
  double moved = change == 0 ? 0 : multiply_up(change * (1 + DBL_EPSILON), root_up((double)call->outputs));
  call->y->error = fmin(add_up(call->x->error, moved), sqrt(error) * slack);
  call->y->spread = fmin(call->x->spread, sqrt(spread) * slack);
  call->y->peak = fmin(add_up(call->x->peak, change), widest * slack);
  return QB_OK;
}

/* Smooth activations: the centre is computed by libm, the drift covers a relative error of 2^-48. */
static qb_status smooth(rule_call *call, double (*function)(const rule_call *, double), double slope) {
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = function(call, call->c[i]);
  lipschitz(call, slope);
  centre_rounding(call, 0x1p-48);
  call->s->terms[call->id].drift += 0x1p-48 * root_up((double)call->outputs);
  call->y->spread = add_up(call->y->spread, 0x1p-48 * root_up((double)call->outputs));
  return QB_OK;
}

static double sigmoid(const rule_call *call, double x) {
  (void)call;
  return 1 / (1 + exp(-x));
}

static double hard_sigmoid(const rule_call *call, double x) {
  double alpha = (double)call->node->attributes.linear.alpha, beta = (double)call->node->attributes.linear.beta;
  return fmin(fmax(alpha * x + beta, 0), 1);
}

static double hard_swish(const rule_call *call, double x) {
  (void)call;
  return x * fmin(fmax(x / 6 + 0.5, 0), 1);
}

static double hyperbolic_tangent(const rule_call *call, double x) {
  (void)call;
  return tanh(x);
}

static qb_status rule_sigmoid(rule_call *call) { return smooth(call, sigmoid, 0.25); }
static qb_status rule_tanh(rule_call *call) { return smooth(call, hyperbolic_tangent, 1); }
static qb_status rule_hard_swish(rule_call *call) { return smooth(call, hard_swish, 1.5); }
static qb_status rule_hard_sigmoid(rule_call *call) {
  return smooth(call, hard_sigmoid, fabs((double)call->node->attributes.linear.alpha));
}

/* Softmax is 1/2-Lipschitz in l2 and the largest difference of an entry at most min(e_inf / 2, 1). */
static qb_status rule_softmax(rule_call *call) {
  int32_t first = call->node->attributes.axes.axis, end = call->node->attributes.axes.end_axis;
  const qb_shape *shape = &input_value(call, 0)->shape;
  int64_t length = 1, inner = 1;
  for (int32_t axis = 0; axis < shape->rank; axis++)
    if (axis >= end)
      inner *= shape->dims[axis];
    else if (axis >= first)
      length *= shape->dims[axis];
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t start = i / (length * inner) * (length * inner) + i % inner;
    double top = -INFINITY, sum = 0;
    for (int64_t k = 0; k < length; k++)
      top = fmax(top, call->c[start + k * inner]);
    for (int64_t k = 0; k < length; k++)
      sum += exp(call->c[start + k * inner] - top);
    call->d[i] = exp(call->c[i] - top) / sum;
  }
  lipschitz(call, 0.5);
  call->y->peak = fmin(fmin(call->y->peak, call->y->error), 1);
  /* exp of a difference of doubles: a relative error of |c - top| u and a few ulp */
  double reach = 2 * largest(call->c, call->inputs) + (double)length + 16;
  double drift = round_up(4 * reach * DBL_EPSILON * sqrt((double)call->outputs));
  call->s->terms[call->id].drift = drift;
  call->y->spread = add_up(call->y->spread, drift);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- pooling */

/* Visits the pixels of one pooling window that lie inside the image; returns their number. */
static int64_t window_pixels(const qb_window *w, const qb_shape *x, int64_t y_out, int64_t x_out, int64_t *pixels) {
  int64_t count = 0;
  for (int64_t a = 0; a < w->kernel[0]; a++)
    for (int64_t b = 0; b < w->kernel[1]; b++) {
      int64_t y = y_out * w->stride[0] + a * w->dilation[0] - w->pad_begin[0];
      int64_t z = x_out * w->stride[1] + b * w->dilation[1] - w->pad_begin[1];
      if (y >= 0 && y < x->dims[2] && z >= 0 && z < x->dims[3])
        pixels[count++] = y * x->dims[3] + z;
    }
  return count;
}

/* How many windows a pixel can lie in along one axis: ceil(k gcd(s, d) / s). */
static double overlap(const qb_window *w, int axis) {
  int64_t a = w->stride[axis], b = w->dilation[axis];
  while (b != 0) {
    int64_t t = a % b;
    a = b;
    b = t;
  }
  int64_t k = (int64_t)w->kernel[axis] * a, s = w->stride[axis];
  return (double)((k + s - 1) / s);
}

static qb_status for_each_window(rule_call *call, const qb_window *window, bool average, bool include_pad) {
  const qb_shape *x = &input_value(call, 0)->shape;
  const qb_shape *y = &call->s->pair->quantized->values[call->node->output].shape;
  int64_t area = (int64_t)window->kernel[0] * window->kernel[1], image = x->dims[2] * x->dims[3];
  int64_t *pixels = qb_arena_alloc(&call->s->scratch, (size_t)area, sizeof *pixels);
  if (pixels == NULL)
    return qb_fail_memory(call->s->error, call->node->name, (size_t)area * sizeof *pixels);
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t plane = i / (y->dims[2] * y->dims[3]), y_out = i / y->dims[3] % y->dims[2], x_out = i % y->dims[3];
    int64_t count = window_pixels(window, x, y_out, x_out, pixels);
    double top = -INFINITY, sum = 0;
    for (int64_t k = 0; k < count; k++) {
      double value = call->c[plane * image + pixels[k]];
      top = fmax(top, value);
      sum += value;
    }
    call->d[i] = average ? sum / (double)(include_pad ? area : count) : top;
  }
  return QB_OK;
}

static qb_status rule_max_pool(rule_call *call) {
  const qb_window *window = &call->node->attributes.pool.window;
  QB_TRY(for_each_window(call, window, false, false));
  double copies = root_up(overlap(window, 0) * overlap(window, 1));
  *call->y = (qb_spectral_state){.error = multiply_up(copies, call->x->error),
                                 .spread = multiply_up(copies, call->x->spread),
                                 .peak = call->x->peak};
  return QB_OK;
}

/* A mean has row sums 1 (or less), so by Schur its norm is at most the root of the largest column sum. */
static qb_status rule_average(rule_call *call) {
  const qb_shape *x = &input_value(call, 0)->shape;
  double factor;
  if (call->node->op == QB_OP_AVERAGE_POOL) {
    const qb_pool_attributes *pool = &call->node->attributes.pool;
    const qb_shape *y = &call->s->pair->quantized->values[call->node->output].shape;
    /* A window at the border, or past it in ceil mode, may have few pixels; then a column sum can reach the overlap. */
    bool full = pool->window.pad_begin[0] + pool->window.pad_begin[1] == 0;
    for (int axis = 0; axis < 2; axis++) {
      int64_t last = (y->dims[2 + axis] - 1) * pool->window.stride[axis] +
                     (int64_t)(pool->window.kernel[axis] - 1) * pool->window.dilation[axis];
      full = full && last < x->dims[2 + axis];
    }
    /* windows cut by the border with count_include_pad: ceil-mode windows may still divide by less, so not counted */
    double windows = overlap(&pool->window, 0) * overlap(&pool->window, 1);
    double area = full ? (double)pool->window.kernel[0] * (double)pool->window.kernel[1] : 1;
    factor = root_up(windows / area);
    if (!full && pool->count_include_pad) {
      refuse(call, "AveragePool over padding has no l2 rule");
      return QB_OK;
    }
    QB_TRY(for_each_window(call, &pool->window, true, false));
  } else {
    int64_t area = x->dims[2] * x->dims[3];
    for (int64_t i = 0; i < call->outputs; i++) {
      double sum = 0;
      for (int64_t k = 0; k < area; k++)
        sum += call->c[i * area + k];
      call->d[i] = sum / (double)area;
    }
    factor = root_up(1 / (double)area);
  }
  *call->y = (qb_spectral_state){.error = multiply_up(factor, call->x->error),
                                 .spread = multiply_up(factor, call->x->spread),
                                 .peak = call->x->peak};
  double size = largest(call->c, call->inputs);
  double drift = round_up(((double)call->inputs + 8) * DBL_EPSILON * size * sqrt((double)call->outputs));
  call->s->terms[call->id].drift = drift;
  call->y->spread = add_up(call->y->spread, drift);
  call->y->peak = multiply_up(call->y->peak, 1 + 8 * DBL_EPSILON);
  return QB_OK;
}

/* ------------------------------------------------------------------------------------- two tensors and constants */

/* The constant of partner `node` of the original that stands in for constant input `slot` of the quantized node: the
 * partner's only constant input. */
static const qb_value *partner_constant(const rule_call *call) {
  const qb_graph *graph = call->s->pair->original;
  for (int32_t i = 0; i < call->partner->input_count; i++)
    if (graph->values[call->partner->inputs[i]].is_constant)
      return &graph->values[call->partner->inputs[i]];
  return NULL;
}

/* x + k, x - k, k - x with a constant k that may differ between the networks. */
static qb_status add_constant(rule_call *call, int32_t slot) {
  const qb_value *ours = input_value(call, slot), *theirs = partner_constant(call);
  const qb_shape *shape = &call->s->pair->quantized->values[call->node->output].shape;
  qb_value_id other = call->node->inputs[1 - slot];
  const qb_spectral_state *x = &call->s->result->states[other];
  const double *c = call->s->centre[other];
  if (theirs == NULL || !qb_shape_equal(&ours->shape, &theirs->shape) ||
      !qb_shape_equal(shape, &call->s->pair->quantized->values[other].shape)) {
    refuse(call, "a constant that broadcasts the tensor has no l2 rule");
    return QB_OK;
  }
  bool subtract = call->node->op == QB_OP_SUB;
  double change = 0, widest = 0;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t at = broadcast_index(shape, &ours->shape, i);
    double k = (double)qb_view_f32(&theirs->constant)[at];
    double moved = fabs(k - (double)qb_view_f32(&ours->constant)[at]);
    call->d[i] = !subtract ? c[i] + k : slot == 1 ? c[i] - k : k - c[i];
    change += moved * moved;
    widest = fmax(widest, moved);
  }
  double slack = 1 + ((double)call->outputs + 16) * DBL_EPSILON;
  *call->y = (qb_spectral_state){.error = add_up(x->error, sqrt(change) * slack),
                                 .spread = x->spread,
                                 .peak = add_up(x->peak, widest * slack)};
  centre_rounding(call, DBL_EPSILON);
  return QB_OK;
}

static qb_status rule_add(rule_call *call) {
  for (int32_t slot = 0; slot < 2; slot++)
    if (input_value(call, slot)->is_constant)
      return add_constant(call, slot);
  const qb_shape *shape = &call->s->pair->quantized->values[call->node->output].shape;
  if (!qb_shape_equal(shape, &input_value(call, 0)->shape) || !qb_shape_equal(shape, &input_value(call, 1)->shape)) {
    refuse(call, "two tensors that broadcast have no l2 rule");
    return QB_OK;
  }
  const qb_spectral_state *other = &call->s->result->states[call->node->inputs[1]];
  const double *c = call->s->centre[call->node->inputs[1]];
  double sign = call->node->op == QB_OP_SUB ? -1 : 1;
  for (int64_t i = 0; i < call->outputs; i++)
    call->d[i] = call->c[i] + sign * c[i];
  *call->y = (qb_spectral_state){.error = add_up(call->x->error, other->error),
                                 .spread = add_up(call->x->spread, other->spread),
                                 .peak = add_up(call->x->peak, other->peak)};
  centre_rounding(call, DBL_EPSILON);
  return QB_OK;
}

/* k x or x / k. */
static qb_status rule_mul(rule_call *call) {
  const qb_value *ours = input_value(call, 1), *theirs = partner_constant(call);
  int32_t slot = ours->is_constant ? 1 : 0;
  qb_value_id other = call->node->inputs[1 - slot];
  const qb_shape *shape = &call->s->pair->quantized->values[call->node->output].shape;
  ours = input_value(call, slot);
  bool divide = call->node->op == QB_OP_DIV;
  if (!ours->is_constant || theirs == NULL || (divide && slot == 0) || input_value(call, 1 - slot)->is_constant ||
      !qb_shape_equal(&ours->shape, &theirs->shape) ||
      !qb_shape_equal(shape, &call->s->pair->quantized->values[other].shape)) {
    refuse(call, "only a product with a constant that keeps the tensor's shape has an l2 rule");
    return QB_OK;
  }
  const qb_spectral_state *x = &call->s->result->states[other];
  const double *c = call->s->centre[other];
  double factor = 0, change = 0, widest = 0, at_centre = 0;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t at = broadcast_index(shape, &ours->shape, i);
    double k = (double)qb_view_f32(&theirs->constant)[at], k2 = (double)qb_view_f32(&ours->constant)[at];
    if (divide) {
      k = 1 / k;
      k2 = 1 / k2;
    }
    double moved = fabs(k - k2) + 4 * DBL_EPSILON * (fabs(k) + fabs(k2)) * (ours == theirs || k == k2 ? 0 : 1);
    call->d[i] = k * c[i];
    factor = fmax(factor, fmax(fabs(k), fabs(k2)));
    change = fmax(change, moved);
    at_centre += moved * c[i] * moved * c[i];
    widest = fmax(widest, moved * fabs(c[i]));
  }
  if (!isfinite(factor)) {
    refuse(call, "a division by zero");
    return QB_OK;
  }
  double slack = 1 + ((double)call->outputs + 16) * DBL_EPSILON;
  factor *= slack;
  double moved = add_up(sqrt(at_centre) * slack, multiply_up(change * slack, x->spread));
  call->y->error = add_up(multiply_up(factor, x->error), moved);
  call->y->spread = multiply_up(factor, x->spread);
  call->y->peak = add_up(multiply_up(factor, x->peak), add_up(widest * slack, multiply_up(change * slack, x->spread)));
  centre_rounding(call, 4 * DBL_EPSILON);
  return QB_OK;
}

static qb_status rule_concat(rule_call *call) {
  const qb_graph *graph = call->s->pair->quantized;
  const qb_shape *shape = &graph->values[call->node->output].shape;
  int32_t axis = call->node->attributes.axes.axis;
  int64_t inner = 1, position = 0;
  double error = 0, spread = 0, peak = 0;
  for (int32_t k = axis + 1; k < shape->rank; k++)
    inner *= shape->dims[k];
  int64_t row = shape->dims[axis] * inner;
  for (int32_t slot = 0; slot < call->node->input_count; slot++) {
    qb_value_id id = call->node->inputs[slot];
    if (graph->values[id].is_constant) {
      refuse(call, "a constant part has no l2 rule");
      return QB_OK;
    }
    const qb_spectral_state *x = &call->s->result->states[id];
    int64_t part = graph->values[id].shape.dims[axis] * inner,
            count = (int64_t)qb_shape_elements(&graph->values[id].shape);
    for (int64_t i = 0; i < count; i++)
      call->d[i / part * row + position + i % part] = call->s->centre[id][i];
    position += part;
    error = add_up(error, multiply_up(x->error, x->error));
    spread = add_up(spread, multiply_up(x->spread, x->spread));
    peak = fmax(peak, x->peak);
  }
  *call->y = (qb_spectral_state){.error = root_up(error), .spread = root_up(spread), .peak = peak};
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------ moving elements */

static qb_status rule_reshape(rule_call *call) {
  memcpy(call->d, call->c, (size_t)call->outputs * sizeof *call->d);
  *call->y = *call->x;
  return QB_OK;
}

static qb_status rule_pad(rule_call *call) {
  const qb_shape *x = &input_value(call, 0)->shape;
  const qb_shape *y = &call->s->pair->quantized->values[call->node->output].shape;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t rest = i, index = 0, stride = 1;
    bool inside = true;
    for (int32_t axis = y->rank - 1; axis >= 0; axis--) {
      int64_t at = rest % y->dims[axis] - call->node->attributes.pad.begin[axis];
      rest /= y->dims[axis];
      inside = inside && at >= 0 && at < x->dims[axis];
      index += at * stride;
      stride *= x->dims[axis];
    }
    call->d[i] = inside ? call->c[index] : (double)call->node->attributes.pad.value;
  }
  *call->y = *call->x;
  return QB_OK;
}

static qb_status rule_transpose(rule_call *call) {
  const qb_shape *x = &input_value(call, 0)->shape;
  const qb_shape *y = &call->s->pair->quantized->values[call->node->output].shape;
  const int32_t *permutation = call->node->attributes.transpose.permutation;
  int64_t strides[QB_MAX_RANK], stride = 1;
  for (int32_t axis = x->rank - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= x->dims[axis];
  }
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t rest = i, index = 0;
    for (int32_t axis = y->rank - 1; axis >= 0; axis--) {
      index += rest % y->dims[axis] * strides[permutation[axis]];
      rest /= y->dims[axis];
    }
    call->d[i] = call->c[index];
  }
  *call->y = *call->x;
  return QB_OK;
}

/* ------------------------------------------------------------------------------------- quantized activations of x' */

/* x -> clamp(round(x / s)) of the quantized network alone. With P the projection to the representable range,
 * ||q(x') - x|| <= s/2 sqrt(n) + ||P x' - P x|| + ||P x - x|| and ||P x - x|| <= ||P c - c|| + H. */
static qb_status rule_quantize_linear(rule_call *call) {
  const qb_value *scale = input_value(call, 1);
  const qb_value *zero = call->node->input_count > 2 ? input_value(call, 2) : NULL;
  const qb_shape *shape = &input_value(call, 0)->shape;
  if (call->partner != NULL || !scale->is_constant || (zero != NULL && !zero->is_constant)) {
    refuse(call, "QuantizeLinear in both networks, or with a scale that is computed");
    return QB_OK;
  }
  double step = 0, outside = 0, widest = 0;
  int32_t axis = call->node->attributes.quantize.axis;
  int64_t inner = 1;
  for (int32_t k = axis + 1; k < shape->rank; k++)
    inner *= shape->dims[k];
  bool scalar = qb_view_elements(&scale->constant) == 1;
  for (int64_t i = 0; i < call->outputs; i++) {
    int64_t channel = scalar ? 0 : i / inner % shape->dims[axis];
    double s = (double)qb_view_f32(&scale->constant)[channel];
    double z =
        zero == NULL ? 0 : (double)qb_view_f32(&zero->constant)[qb_view_elements(&zero->constant) == 1 ? 0 : channel];
    double lo = s * ((double)call->node->attributes.quantize.lo - z);
    double hi = s * ((double)call->node->attributes.quantize.hi - z);
    double past = fmax(fmax(lo - call->c[i], call->c[i] - hi), 0);
    call->d[i] = call->c[i];
    step += s * s / 4;
    outside += past * past;
    widest = fmax(widest, s);
  }
  /* the division x / s is rounded: a tie may go either way, at most one unit in the last place of the quotient */
  double slack = 1 + ((double)call->outputs + 64) * DBL_EPSILON;
  double rounding = add_up(sqrt(step) * slack * (1 + 0x1p-7), sqrt(outside) * slack);
  call->y->error = add_up(call->x->error, add_up(rounding, call->x->spread));
  call->y->spread = call->x->spread;
  call->y->peak = INFINITY;
  return QB_OK;
}

/* The codes of a QuantizeLinear are kept in real units, so this is a copy. */
static qb_status rule_dequantize_linear(rule_call *call) {
  qb_node_id producer = input_value(call, 0)->producer;
  if (producer == QB_NONE || call->s->pair->quantized->nodes[producer].op != QB_OP_QUANTIZE_LINEAR) {
    refuse(call, "DequantizeLinear of something else than a QuantizeLinear");
    return QB_OK;
  }
  return rule_reshape(call);
}

static const spectral_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = rule_##FAMILY,
#include "graph/op_list.h"
};

/* ------------------------------------------------------------------------------------------------------- the walk */

static qb_status start_at_domain(spectral *s) {
  const qb_graph *graph = s->pair->quantized;
  if (graph->input_count != 1)
    return qb_fail(s->error, QB_ERROR_UNSUPPORTED, "%s: a bound needs a network with one input", graph->name);
  qb_value_id input = graph->inputs[0];
  int64_t count = s->domain->count;
  double *c = qb_arena_alloc(&s->arena, (size_t)count, sizeof *c), square = 0;
  if (c == NULL)
    return qb_fail_memory(s->error, "centre of the domain", (size_t)count * sizeof *c);
  for (int64_t i = 0; i < count; i++) {
    double lo = (double)s->domain->lo[i], hi = (double)s->domain->hi[i];
    c[i] = 0.5 * (lo + hi);
    double half = fmax(hi - c[i], c[i] - lo);
    square += half * half;
  }
  s->centre[input] = c;
  s->result->states[input].spread =
      sqrt(square) * (1 + ((double)count + 16) * DBL_EPSILON) + (square > 0 ? DBL_MIN : 0);
  return QB_OK;
}

static qb_status visit(spectral *s, qb_node_id id, bool *refused) {
  const qb_graph *graph = s->pair->quantized;
  const qb_node *node = &graph->nodes[id];
  qb_node_id partner = s->pair->partner[id];
  if (s->pair->value[node->output] == QB_NONE)
    return QB_OK; /* no output depends on it */
  rule_call call = {.s = s, .id = id, .node = node, .y = &s->result->states[node->output]};
  call.partner = partner == QB_NONE ? NULL : &s->pair->original->nodes[partner];
  qb_value_id first = node->inputs[0];
  call.x = &s->result->states[first];
  call.c = s->centre[first];
  call.inputs = (int64_t)qb_shape_elements(&graph->values[first].shape);
  call.outputs = (int64_t)qb_shape_elements(&graph->values[node->output].shape);
  call.d = qb_arena_alloc(&s->arena, (size_t)call.outputs, sizeof *call.d);
  if (call.d == NULL)
    return qb_fail_memory(s->error, node->name, (size_t)call.outputs * sizeof *call.d);
  s->centre[node->output] = call.d;
  call.y->peak = INFINITY;
  QB_TRY(rules[node->op](&call));
  if (!call.refused)
    QB_TRY(spectral_gate(s, id));
  bool overflow = isnan(call.y->error) || isnan(call.y->spread) || isnan(call.y->peak);
  if (overflow) /* infinity minus infinity somewhere: nothing is known */
    *call.y = (qb_spectral_state){.error = INFINITY, .spread = INFINITY, .peak = INFINITY};
  call.y->peak = fmin(call.y->peak, call.y->error);
  qb_arena_rewind(&s->scratch, (qb_arena_mark){0});
  *refused = call.refused;
  return QB_OK;
}

static void finish(spectral *s) {
  const qb_graph *graph = s->pair->quantized;
  double bound = 0;
  for (int32_t i = 0; i < graph->output_count; i++)
    bound = fmax(bound, s->result->states[graph->outputs[i]].peak);
  s->result->bound.applies = !isnan(bound);
  s->result->bound.value = qb_magnitude_from_double(bound);
}

static qb_status allocate(spectral *s) {
  const qb_graph *graph = s->pair->quantized;
  qb_spectral_result *result = s->result;
  result->states = qb_alloc((size_t)graph->value_count, sizeof *result->states);
  result->layers = qb_alloc((size_t)graph->node_count, sizeof *result->layers);
  s->centre = qb_arena_alloc(&s->arena, (size_t)graph->value_count, sizeof *s->centre);
  s->terms = qb_arena_alloc(&s->arena, (size_t)graph->node_count, sizeof *s->terms);
  if (result->states == NULL || result->layers == NULL || s->centre == NULL || s->terms == NULL)
    return qb_fail_memory(s->error, "spectral bound", (size_t)graph->value_count * sizeof *result->states);
  return QB_OK;
}

static qb_status walk(spectral *s) {
  const qb_graph *graph = s->pair->quantized;
  QB_TRY(allocate(s));
  QB_TRY(start_at_domain(s));
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    bool refused = false;
    QB_TRY(visit(s, n, &refused));
    if (refused)
      return QB_OK;
  }
  finish(s);
  return QB_OK;
}

void qb_spectral_settings_default(qb_spectral_settings *settings) {
  *settings = (qb_spectral_settings){.windows = true, .scaling_iterations = 24};
}

qb_status qb_bound_spectral(const qb_pair *pair, const qb_domain *domain, const qb_spectral_settings *settings,
                            qb_spectral_result *result, qb_error *error) {
  spectral s = {.pair = pair, .domain = domain, .settings = settings, .result = result, .error = error};
  *result = (qb_spectral_result){0};
  qb_arena_init(&s.arena);
  qb_arena_init(&s.scratch);
  qb_status status = walk(&s);
  qb_arena_free(&s.scratch);
  qb_arena_free(&s.arena);
  return status;
}

void qb_spectral_result_free(qb_spectral_result *result) {
  if (result == NULL)
    return;
  qb_free(result->states);
  qb_free(result->layers);
  *result = (qb_spectral_result){0};
}
