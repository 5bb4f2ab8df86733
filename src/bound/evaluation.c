/* Errors of single operations in float32; see evaluation.h. u = 2^-24 is half the distance from 1 to the next number.
 */
#include "bound/evaluation.h"

#include "bound/fault.h"

const char *const qb_evaluation_overflow = "numbers may leave the range of float32, so its evaluation has no bound";

/* gamma_n of float32, rounded up; infinity where the formula has no meaning. */
static double gamma_of(int64_t n) {
  double nu = (double)n * 0x1p-24;
  return nu < 0.5 ? qb_up(qb_up(nu) / qb_down(1 - nu)) : INFINITY;
}

/* Products and additions on the way of one term of a layer: n products, n additions with the bias, one to spare. */
static int64_t roundings_of_layer(const qb_linear *linear) { return linear->row_length + 2; }

/* An Add is one rounding, or part of the sum of a layer in front of it, which then has one more term. */
static int64_t roundings_of_add(const qb_graph *graph, const qb_node *node) {
  int64_t most = 1;
  for (int32_t slot = 0; slot < node->input_count; slot++) {
    qb_linear linear;
    qb_node_id producer = graph->values[node->inputs[slot]].producer;
    if (producer != QB_NONE && qb_graph_linear(graph, producer, &linear) && roundings_of_layer(&linear) >= most)
      most = roundings_of_layer(&linear) + 1;
  }
  return most;
}

static int64_t window_area(const qb_graph *graph, const qb_node *node) {
  const qb_shape *x = &graph->values[node->inputs[0]].shape;
  const qb_window *w = &node->attributes.pool.window;
  if (node->op == QB_OP_AVERAGE_POOL)
    return (int64_t)w->kernel[0] * w->kernel[1];
  return x->rank == 4 ? x->dims[2] * x->dims[3] : (int64_t)qb_shape_elements(x);
}

typedef struct rounding_count {
  qb_evaluation_size size;
  int64_t roundings;
  int64_t lost; /* results that may underflow, each by at most the smallest subnormal */
  int64_t terms;
} rounding_count;

/* Roundings with factors that depend on nothing: HardSigmoid product and sum; HardSwish 1/6, product, sum, product, of
 * which the first ones may underflow and are multiplied by at most 4; BatchNormalization 3 in the scale, then product,
 * difference, product, sum (docs/bounds.md). */
static bool count_roundings(const qb_graph *graph, qb_node_id id, rounding_count *c) {
  const qb_node *node = &graph->nodes[id];
  qb_linear linear;
  *c = (rounding_count){QB_SIZE_NONE, 0, 0, 1};
  switch (node->op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
  case QB_OP_GEMM:
  case QB_OP_MATMUL:
    if (!qb_graph_linear(graph, id, &linear))
      return false;
    *c = (rounding_count){QB_SIZE_WEIGHTS, roundings_of_layer(&linear), linear.row_length, 1};
    return true;
  case QB_OP_ADD:
  case QB_OP_SUB: *c = (rounding_count){QB_SIZE_OPERANDS, roundings_of_add(graph, node), 0, 1}; return true;
  case QB_OP_MUL:
  case QB_OP_DIV:
  case QB_OP_LEAKY_RELU:
  case QB_OP_PRELU:
  case QB_OP_DEQUANTIZE_LINEAR: *c = (rounding_count){QB_SIZE_OUTPUT, 1, 1, 1}; return true;
  case QB_OP_AVERAGE_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN:
    c->terms = window_area(graph, node);
    *c = (rounding_count){QB_SIZE_MEAN, c->terms + 3, c->terms + 1, c->terms};
    return true;
  case QB_OP_HARD_SIGMOID: *c = (rounding_count){QB_SIZE_INPUT, 3, 2, 1}; return true;
  case QB_OP_HARD_SWISH: *c = (rounding_count){QB_SIZE_INPUT, 5, 16, 1}; return true;
  case QB_OP_BATCH_NORM: *c = (rounding_count){QB_SIZE_INPUT, 8, 4, 1}; return true;
  case QB_OP_SIGMOID:
  case QB_OP_TANH:
  case QB_OP_SOFTMAX: return false;
  default: return true; /* elements move, win or are limited; what a quantizer may do is in its steps */
  }
}

const char *qb_evaluation_of(const qb_pair *pair, qb_node_id id, qb_evaluation *evaluation) {
  rounding_count count;
  double tiny = ldexp(1, -149 + pair->rescaled_by), largest = ldexp(1, 126 - pair->rescaled_by);
  *evaluation = (qb_evaluation){.size = QB_SIZE_NONE};
  if (!pair->float32)
    return NULL;
  if (!count_roundings(pair->quantized, id, &count))
    return "how far its float32 evaluation is from the exact function is not known";
  *evaluation = (qb_evaluation){.size = count.size,
                                .gamma = gamma_of(count.roundings),
                                .lost = (double)count.lost * tiny,
                                .largest = largest / (double)count.terms};
  return NULL;
}

double qb_evaluation_error(const qb_evaluation *evaluation, double size) {
  if (!(size <= evaluation->largest))
    return INFINITY;
  if (qb_bound_fault == QB_FAULT_NO_EVALUATION)
    return 0;
  return qb_up_sum(qb_up_product(evaluation->gamma, size), evaluation->lost);
}

/* |scale| (|x| + |mean|) + |beta|, and for a scale that is subnormal its own underflow. */
static double size_of_batch_norm(const qb_graph *graph, const qb_node *node, int64_t c, double x) {
  double p[4];
  for (int32_t k = 0; k < 4; k++)
    p[k] = fabs((double)qb_view_f32(&graph->values[node->inputs[1 + k]].constant)[c]);
  double scale = p[0] / sqrt(p[3] + (double)node->attributes.batch_norm.epsilon) + 0x1p-120;
  return (scale * (x + p[2]) + p[1]) * (1 + 0x1p-48);
}

double qb_evaluation_size_at(const qb_graph *graph, const qb_node *node, int64_t c, double x) {
  double alpha = fabs((double)node->attributes.linear.alpha), beta = fabs((double)node->attributes.linear.beta);
  double cut = fmin(x, 4); /* from 4 on the factor is 0 or 1 in every evaluation, and the product exact */
  if (node->op == QB_OP_BATCH_NORM)
    return size_of_batch_norm(graph, node, c, x);
  return (node->op == QB_OP_HARD_SWISH ? cut * (cut / 6 + 0.5) : alpha * x + beta) * (1 + 0x1p-48);
}
