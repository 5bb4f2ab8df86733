/* The reverse pass of the layerwise bound; see attribution.h. */
#include "bound/attribution.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/layerwise.h"

struct qb_attribution {
  const qb_graph *graph;
  qb_layerwise ranges; /* of the network against itself: the ranges a */
  qb_arena arena;
  double **factor; /* (value_count) per channel of axis 1; NULL for constants and values no output depends on */
};

/* Factors start here instead of at 1: that leaves room for 600 decades towards the input. */
#define START 0x1p-1000
static const double start_log2 = -1000;

/* ---------------------------------------------------------------------------------------------------- one node back */

typedef struct reversing {
  qb_attribution *a;
  const qb_node *node;
  const double *from; /* factors of the output */
} reversing;

static const qb_shape *shape_of(const reversing *r, qb_value_id value) { return &r->a->graph->values[value].shape; }

static int64_t channels_of(const reversing *r, qb_value_id value) { return qb_state_channels(shape_of(r, value)); }

static double *factors_of(const reversing *r, int32_t slot) {
  return slot < r->node->input_count && r->node->inputs[slot] != QB_NONE ? r->a->factor[r->node->inputs[slot]] : NULL;
}

static double total(const double *values, int64_t count) {
  double sum = 0;
  for (int64_t c = 0; c < count; c++)
    sum += values[c];
  return sum;
}

/* An error of one channel of the input arrives at the same channel, `gain` times. Where axis 1 is not the same, at all
 * channels: more than the layerwise rule, which takes a hull. */
static void pass_channels(const reversing *r, int32_t slot, double gain) {
  double *to = factors_of(r, slot);
  if (to == NULL)
    return;
  int64_t inputs = channels_of(r, r->node->inputs[slot]), outputs = channels_of(r, r->node->output);
  double all = inputs == outputs ? 0 : total(r->from, outputs);
  for (int64_t c = 0; c < inputs; c++)
    to[c] += gain * (inputs == outputs ? r->from[c] : all);
}

/* The same elements in another shape. */
static void pass_reshaped(const reversing *r) {
  const qb_shape *in = shape_of(r, r->node->inputs[0]), *out = shape_of(r, r->node->output);
  double *to = factors_of(r, 0);
  int64_t inputs = qb_state_channels(in), outputs = qb_state_channels(out);
  int64_t inner_in = qb_state_inner(in), inner_out = qb_state_inner(out), elements = (int64_t)qb_shape_elements(in);
  if (inputs == outputs || to == NULL) {
    pass_channels(r, 0, 1);
    return;
  }
  for (int64_t i = 0; i < elements; i++) /* an output channel's factor is shared by its elements */
    to[i / inner_in % inputs] += r->from[i / inner_out % outputs] / (double)inner_out;
}

static void pass_concat(const reversing *r) {
  const qb_node *node = r->node;
  int64_t first = 0;
  for (int32_t slot = 0; slot < node->input_count; slot++) {
    double *to = factors_of(r, slot);
    int64_t count = channels_of(r, node->inputs[slot]);
    if (node->attributes.axes.axis != 1)
      pass_channels(r, slot, 1);
    for (int64_t c = 0; node->attributes.axes.axis == 1 && to != NULL && c < count; c++)
      to[c] += r->from[first + c];
    first += count;
  }
}

/* Largest |x| that the original network can have there; of a constant its largest entry, or 1 / the smallest. */
static double magnitude(const reversing *r, qb_value_id value, bool inverted) {
  const qb_value *v = &r->a->graph->values[value];
  const qb_bound_state *state = &r->a->ranges.states[value];
  double largest = 0;
  if (v->is_constant) {
    const float *data = qb_view_f32(&v->constant);
    for (size_t i = 0; i < qb_shape_elements(&v->shape); i++)
      largest = fmax(largest, inverted ? 1 / fabs((double)data[i]) : fabs((double)data[i]));
    return largest;
  }
  for (int64_t c = 0; state->x != NULL && c < state->channels; c++)
    largest = fmax(largest, qb_interval_magnitude(state->x[c]));
  return ldexp(largest, state->exponent);
}

static void pass_product(const reversing *r) {
  const qb_node *node = r->node;
  for (int32_t slot = 0; slot < 2; slot++)
    pass_channels(r, slot, magnitude(r, node->inputs[1 - slot], node->op == QB_OP_DIV && slot == 0));
}

static void pass_batch_norm(const reversing *r) {
  const float *gamma = qb_view_f32(&r->a->graph->values[r->node->inputs[1]].constant);
  const float *variance = qb_view_f32(&r->a->graph->values[r->node->inputs[4]].constant);
  double *to = factors_of(r, 0);
  for (int64_t c = 0; to != NULL && c < channels_of(r, r->node->output); c++)
    to[c] += r->from[c] * fabs((double)gamma[c]) /
             sqrt((double)variance[c] + (double)r->node->attributes.batch_norm.epsilon);
}

/* ---------------------------------------------------------------------------------------------------- linear layers */

/* Where weight entries go: the kernel at (p, q) of the two leading axes joins one input and one output channel. */
static void ends(const qb_linear *linear, int64_t p, int64_t q, int64_t *in, int64_t *out) {
  int64_t ins = linear->in_channels / linear->group, outs = linear->out_channels / linear->group;
  *out = linear->channel_axis == 0 ? p : p / ins * outs + q;
  *in = linear->channel_axis == 0 ? p / outs * ins + q : p;
}

static double kernel_sum(const float *before, const float *after, int64_t area) {
  double sum = 0;
  for (int64_t i = 0; i < area; i++)
    sum += fabs(after == NULL ? (double)before[i] : (double)before[i] - (double)after[i]);
  return sum;
}

/* Matrices on the last axis of a tensor with more axes: channels are positions, each takes the largest row. */
static bool has_positions(const qb_graph *graph, const qb_linear *linear) {
  qb_value_id output = graph->nodes[linear->node].output;
  return graph->nodes[linear->node].op != QB_OP_CONV && graph->nodes[linear->node].op != QB_OP_CONV_TRANSPOSE &&
         graph->values[output].shape.rank != 2;
}

static double largest_row(const qb_linear *linear, const float *before, const float *after) {
  double largest = 0;
  for (int64_t o = 0; o < linear->out_channels; o++)
    largest = fmax(largest, kernel_sum(before + o * linear->row_length,
                                       after == NULL ? NULL : after + o * linear->row_length, linear->row_length));
  return largest;
}

/* Calls for every kernel are summed as from[out] * |kernel| into to[in] (after == NULL), or with a[in] into a number:
 * sum of from[out] |kernel| a[in]. */
static double sweep(const qb_graph *graph, const qb_linear *linear, const float *after, const double *from, double *to,
                    const qb_bound_state *a) {
  const qb_shape *shape = &graph->values[linear->weight].shape;
  const float *before = qb_view_f32(&graph->values[linear->weight].constant);
  int64_t area = linear->kernel_area, columns = shape->dims[1];
  double sum = 0;
  for (int64_t p = 0; p < shape->dims[0]; p++)
    for (int64_t q = 0; q < columns; q++) {
      int64_t in, out, at = (p * columns + q) * area;
      ends(linear, p, q, &in, &out);
      double size = from[out] * kernel_sum(before + at, after == NULL ? NULL : after + at, area);
      if (to != NULL)
        to[in] += size;
      else if (size > 0)
        sum += size * qb_interval_magnitude(a->x[in]);
    }
  return sum;
}

static void pass_linear(const reversing *r) {
  qb_linear linear;
  double *to = factors_of(r, 0);
  if (to == NULL || !qb_graph_linear(r->a->graph, (qb_node_id)(r->node - r->a->graph->nodes), &linear))
    return;
  const float *weights = qb_view_f32(&r->a->graph->values[linear.weight].constant);
  if (has_positions(r->a->graph, &linear))
    pass_channels(r, 0, largest_row(&linear, weights, NULL));
  else
    (void)sweep(r->a->graph, &linear, NULL, r->from, to, NULL);
}

/* ---------------------------------------------------------------------------------------------------------- rules */

static double steepest(const reversing *r) {
  double slope = r->node->op == QB_OP_LEAKY_RELU ? fabs((double)r->node->attributes.linear.alpha)
                                                 : magnitude(r, r->node->inputs[1], false);
  return fmax(1, slope);
}

static void reverse_conv(const reversing *r) { pass_linear(r); }
static void reverse_conv_transpose(const reversing *r) { pass_linear(r); }
static void reverse_gemm(const reversing *r) { pass_linear(r); }
static void reverse_batch_norm(const reversing *r) { pass_batch_norm(r); }
static void reverse_relu(const reversing *r) { pass_channels(r, 0, 1); }
static void reverse_leaky_relu(const reversing *r) { pass_channels(r, 0, steepest(r)); }
static void reverse_prelu(const reversing *r) { pass_channels(r, 0, steepest(r)); }
static void reverse_clip(const reversing *r) { pass_channels(r, 0, 1); }
static void reverse_sigmoid(const reversing *r) { pass_channels(r, 0, 0.25); }
static void reverse_hard_sigmoid(const reversing *r) {
  pass_channels(r, 0, fabs((double)r->node->attributes.linear.alpha));
}
static void reverse_hard_swish(const reversing *r) { pass_channels(r, 0, 1.5); }
static void reverse_tanh(const reversing *r) { pass_channels(r, 0, 1); }
static void reverse_softmax(const reversing *r) { pass_channels(r, 0, 0.5); }
static void reverse_max_pool(const reversing *r) { pass_channels(r, 0, 1); }
static void reverse_average(const reversing *r) { pass_channels(r, 0, 1); }
static void reverse_add(const reversing *r) {
  pass_channels(r, 0, 1);
  pass_channels(r, 1, 1);
}
static void reverse_mul(const reversing *r) { pass_product(r); }
static void reverse_concat(const reversing *r) { pass_concat(r); }
static void reverse_pad(const reversing *r) { pass_channels(r, 0, 1); }
static void reverse_transpose(const reversing *r) { pass_channels(r, 0, 1); }
static void reverse_reshape(const reversing *r) { pass_reshaped(r); }
static void reverse_quantize_linear(const reversing *r) { pass_channels(r, 0, 1); }
static void reverse_dequantize_linear(const reversing *r) { pass_channels(r, 0, 1); }

typedef void (*reverse_rule)(const reversing *r);

static const reverse_rule rules[QB_OP_COUNT] = {
#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = reverse_##FAMILY,
#include "graph/op_list.h"
};

/* ------------------------------------------------------------------------------------------------------- whole pass */

static qb_status start(qb_attribution *a, qb_error *error) {
  const qb_graph *graph = a->graph;
  a->factor = qb_arena_alloc(&a->arena, (size_t)graph->value_count, sizeof *a->factor);
  if (a->factor == NULL)
    return qb_fail_memory(error, "the attribution", (size_t)graph->value_count * sizeof *a->factor);
  for (qb_value_id v = 0; v < graph->value_count; v++) {
    if (graph->values[v].is_constant || a->ranges.states[v].x == NULL)
      continue;
    size_t count = (size_t)qb_state_channels(&graph->values[v].shape);
    a->factor[v] = qb_arena_alloc(&a->arena, count, sizeof **a->factor);
    if (a->factor[v] == NULL)
      return qb_fail_memory(error, "the attribution", count * sizeof **a->factor);
  }
  for (int32_t k = 0; k < graph->output_count; k++) {
    qb_value_id output = graph->outputs[k];
    for (int64_t c = 0; a->factor[output] != NULL && c < qb_state_channels(&graph->values[output].shape); c++)
      a->factor[output][c] += START;
  }
  return QB_OK;
}

static qb_status walk(qb_attribution *a, const qb_domain *domain, qb_error *error) {
  qb_pair pair = {0};
  qb_status status = qb_pair_match(a->graph, a->graph, &pair, error);
  if (status == QB_OK)
    status = qb_layerwise_bound(&pair, domain, &a->ranges, error);
  qb_pair_free(&pair);
  if (status == QB_OK)
    status = start(a, error);
  for (qb_node_id n = a->graph->node_count - 1; status == QB_OK && n >= 0; n--) {
    const qb_node *node = &a->graph->nodes[n];
    const reversing r = {a, node, a->factor[node->output]};
    if (r.from != NULL)
      rules[node->op](&r);
  }
  return status;
}

qb_status qb_attribution_create(const qb_graph *graph, const qb_domain *domain, qb_attribution **attribution,
                                qb_error *error) {
  qb_attribution *made = qb_alloc(1, sizeof *made);
  *attribution = NULL;
  if (made == NULL)
    return qb_fail_memory(error, "the attribution", sizeof *made);
  made->graph = graph;
  qb_arena_init(&made->arena);
  qb_status status = walk(made, domain, error);
  if (status != QB_OK)
    qb_attribution_free(made);
  else
    *attribution = made;
  return status;
}

void qb_attribution_free(qb_attribution *attribution) {
  if (attribution == NULL)
    return;
  qb_layerwise_free(&attribution->ranges);
  qb_arena_free(&attribution->arena);
  qb_free(attribution);
}

static double positions_term(const qb_attribution *a, const qb_linear *linear, const float *after, const double *factor,
                             const qb_bound_state *state) {
  const qb_value *weight = &a->graph->values[linear->weight];
  double row = largest_row(linear, qb_view_f32(&weight->constant), after), sum = 0;
  for (int64_t c = 0; c < state->channels; c++)
    sum += factor[c] * row * qb_interval_magnitude(state->x[c]);
  return sum;
}

double qb_attribution_layer(const qb_attribution *attribution, const qb_linear *linear, const float *after) {
  const qb_graph *graph = attribution->graph;
  const qb_node *node = &graph->nodes[linear->node];
  const double *factor = attribution->factor[node->output];
  const qb_bound_state *a = &attribution->ranges.states[node->inputs[0]];
  if (factor == NULL || a->x == NULL)
    return -INFINITY;
  double sum = has_positions(graph, linear) ? positions_term(attribution, linear, after, factor, a)
                                            : sweep(graph, linear, after, factor, NULL, a);
  return log2(sum) + a->exponent - start_log2;
}
