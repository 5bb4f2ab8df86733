/* The l2 constants of operators; see lipschitz.h. */
#include "graph/lipschitz.h"

#include <math.h>

static int64_t overlap(const qb_window *w, int axis) {
  int64_t a = w->stride[axis], b = w->dilation[axis];
  while (b != 0) {
    int64_t t = a % b;
    a = b;
    b = t;
  }
  int64_t k = (int64_t)w->kernel[axis] * a, s = w->stride[axis];
  return (k + s - 1) / s;
}

int64_t qb_window_overlap(const qb_window *window) { return overlap(window, 0) * overlap(window, 1); }

/* Every output is a pixel of its window or its mean, and a pixel is in so many windows. */
static double pool(const qb_window *window) {
  int64_t copies = qb_window_overlap(window);
  return copies == 1 ? 1 : nextafter(sqrt((double)copies), INFINITY);
}

static double steepest_slope(const qb_graph *graph, const qb_node *node) {
  const qb_value *slope = &graph->values[node->inputs[1]];
  double steepest = 1;
  if (!slope->is_constant)
    return INFINITY;
  for (size_t i = 0; i < qb_shape_elements(&slope->shape); i++)
    steepest = fmax(steepest, fabs((double)qb_view_f32(&slope->constant)[i]));
  return steepest;
}

double qb_node_lipschitz(const qb_graph *graph, const qb_node *node) {
  switch (node->op) {
  case QB_OP_RELU:
  case QB_OP_CLIP:
  case QB_OP_SIGMOID:
  case QB_OP_TANH:
  case QB_OP_SOFTMAX:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN:
  case QB_OP_PAD:
  case QB_OP_TRANSPOSE:
  case QB_OP_FLATTEN:
  case QB_OP_RESHAPE:
  case QB_OP_SQUEEZE:
  case QB_OP_UNSQUEEZE:
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT: return 1;
  case QB_OP_LEAKY_RELU: return fmax(1, fabs((double)node->attributes.linear.alpha));
  case QB_OP_HARD_SIGMOID: return fabs((double)node->attributes.linear.alpha);
  case QB_OP_HARD_SWISH: return 1.5;
  case QB_OP_PRELU: return steepest_slope(graph, node);
  case QB_OP_MAX_POOL:
  case QB_OP_AVERAGE_POOL: return pool(&node->attributes.pool.window);
  default: return INFINITY;
  }
}
