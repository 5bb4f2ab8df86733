/* The guarantee of stochastic rounding; see rounding_guarantee.h. */
#include "api/rounding_guarantee.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/rounding.h"
#include "bound/spectral.h"
#include "graph/lipschitz.h"
#include "run/run.h"
#include "stats/cantelli.h"

typedef struct guaranteeing {
  qb_rounding_guarantee *guarantee;
  const qb_pair *pair;
  qb_arena *arena;
  qb_error *error;
} guaranteeing;

/* The first reason stays. */
static void refuse(const guaranteeing *g, const char *node, const char *why) {
  qb_rounding_guarantee *guarantee = g->guarantee;
  if (guarantee->applies)
    snprintf(guarantee->why, sizeof guarantee->why, "node '%.80s' %s", node, why);
  guarantee->applies = false;
}

/* -------------------------------------------------------------------------------------------------------- checking */

static bool same_constant(const qb_graph *a, qb_value_id x, const qb_graph *b, qb_value_id y) {
  if (x == QB_NONE || y == QB_NONE)
    return x == y;
  const qb_value *v = &a->values[x], *w = &b->values[y];
  return qb_shape_equal(&v->shape, &w->shape) && memcmp(qb_view_f32(&v->constant), qb_view_f32(&w->constant),
                                                        qb_shape_elements(&v->shape) * sizeof(float)) == 0;
}

/* Index along the axis of the scales. */
static size_t scale_index(const qb_codes *codes, const qb_shape *shape, size_t i) {
  size_t inner = 1;
  if (codes->scale_count == 1 || codes->axis == QB_NONE)
    return 0;
  for (int32_t d = codes->axis + 1; d < shape->rank; d++)
    inner *= (size_t)shape->dims[d];
  return i / inner % (size_t)shape->dims[codes->axis];
}

/* No weight is rounded beyond the codes, whichever way it goes: a rounded quotient is at most a code only if the exact
 * one is not above it by more than the impurity allows. Scales are far from the subnormal numbers. */
static bool never_clips(const qb_value *before, const qb_codes *codes) {
  const float *w = qb_view_f32(&before->constant);
  double most = ldexp(1, codes->bits - codes->is_signed) - 1, least = codes->is_signed ? -most : 0;
  for (size_t i = 0; i < qb_shape_elements(&before->shape); i++) {
    size_t c = scale_index(codes, &before->shape, i);
    if (w[i] == 0) /* never moves; a row of zeros has the smallest scale there is */
      continue;
    double zero = codes->zero_point != NULL ? (double)codes->zero_point[c] : 0, scale = (double)codes->scale[c];
    double code = (double)w[i] / scale + zero;
    if (!(scale >= 0x1p-100 && code <= most && code >= least))
      return false;
  }
  return true;
}

/* A weight that two nodes read is drawn once: the layers would not be independent. */
static bool is_shared(const qb_graph *graph, qb_value_id weight) { return qb_graph_use_count(graph, weight) > 1; }

static const char *why_not(const qb_pair *pair, const qb_linear *ours, const qb_linear *theirs) {
  const qb_value *before = &pair->original->values[theirs->weight], *after = &pair->quantized->values[ours->weight];
  if (!same_constant(pair->original, theirs->bias, pair->quantized, ours->bias))
    return "has another bias than the original";
  if (after->codes == NULL) /* left as it was */
    return same_constant(pair->original, theirs->weight, pair->quantized, ours->weight)
               ? NULL
               : "has changed weights without codes";
  if (ours->channel_axis != 0)
    return "is a ConvTranspose, for which there is no rule";
  if (after->codes->scale_count > 1 && after->codes->axis != 0)
    return "has scales that are not those of its output channels";
  if (is_shared(pair->quantized, ours->weight) || is_shared(pair->original, theirs->weight))
    return "shares its weights with another";
  return never_clips(before, after->codes) ? NULL : "has weights outside its grid: they were clipped";
}

static bool has_rule(const qb_graph *graph, const qb_node *node, int32_t activations) {
  bool joins = node->op == QB_OP_ADD || node->op == QB_OP_SUB || node->op == QB_OP_CONCAT;
  return joins || (activations == 1 && isfinite(qb_node_lipschitz(graph, node)));
}

static int32_t count_activations(const qb_graph *graph, const qb_node *node) {
  int32_t count = 0;
  for (int32_t i = 0; i < node->input_count; i++)
    count += node->inputs[i] != QB_NONE && !graph->values[node->inputs[i]].is_constant;
  return count;
}

/* A layer that took part in the draw. */
static bool is_rounded(const qb_pair *pair, qb_node_id n, qb_linear *linear) {
  const qb_graph *graph = pair->quantized;
  return pair->value[graph->nodes[n].output] != QB_NONE && qb_graph_linear(graph, n, linear) &&
         graph->values[linear->weight].codes != NULL;
}

/* Plans with several widths may come from a search that looked at what was drawn. */
static bool has_one_width(const qb_pair *pair) {
  const qb_graph *graph = pair->quantized;
  int32_t bits = 0;
  qb_linear linear;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    if (!is_rounded(pair, n, &linear))
      continue;
    int32_t mine = graph->values[linear.weight].codes->bits;
    if (bits != 0 && mine != bits)
      return false;
    bits = mine;
  }
  return true;
}

static void check_nodes(const guaranteeing *g) {
  const qb_pair *pair = g->pair;
  const qb_graph *graph = pair->quantized;
  if (pair->clip_differences > 0 || pair->operand_differences > 0 || pair->absorbed > 0 || pair->rescaled != NULL)
    refuse(g, graph->nodes[0].name, "and others: more than weights differs between the two networks");
  if (!has_one_width(pair))
    refuse(g, graph->nodes[0].name, "and others have several widths: which, may have been chosen after a draw");
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    qb_linear ours, theirs;
    const char *why = NULL;
    if (pair->value[node->output] == QB_NONE)
      continue;
    if (node->op == QB_OP_QUANTIZE_LINEAR || node->op == QB_OP_DEQUANTIZE_LINEAR)
      why = "rounds activations";
    else if (!qb_graph_linear(graph, n, &ours))
      why = has_rule(graph, node, count_activations(graph, node)) ? NULL : "has no rule";
    else if (pair->partner[n] == QB_NONE || !qb_graph_linear(pair->original, pair->partner[n], &theirs))
      why = "is no linear layer in the original";
    else
      why = why_not(pair, &ours, &theirs);
    if (why != NULL)
      refuse(g, node->name, why);
  }
}

/* -------------------------------------------------------------------------------------------------------- factors */

/* The sum of s_c^2 over the channels of a group, the largest group's, and the largest step. */
static void describe_steps(const qb_codes *codes, const qb_linear *linear, qb_rounded_layer *layer) {
  int64_t channels = linear->out_channels / linear->group;
  for (int32_t group = 0; group < linear->group; group++) {
    double sum = 0;
    for (int64_t c = 0; c < channels; c++) {
      double step = (double)codes->scale[codes->scale_count > 1 ? group * channels + c : 0];
      sum += step * step;
      layer->largest_step = fmax(layer->largest_step, step);
    }
    layer->step_squares = fmax(layer->step_squares, qb_sum_upper(sum, channels + 1));
  }
}

/* Beyond the draw itself: a value is rounded to float32 (2^-24 of at most 2^bits steps), a quotient to double (2^-53 of
 * as much), and the probability is a multiple of 2^-53. */
static double impurity_of(int32_t bits) { return ldexp(1, bits - 24) + 0x1p-36; }

static qb_status layer_factor(const guaranteeing *g, qb_node_id n, const qb_linear *linear) {
  const qb_graph *graph = g->pair->quantized;
  const qb_codes *codes = graph->values[linear->weight].codes;
  const qb_node *node = &graph->nodes[n];
  int64_t overlap = node->op == QB_OP_CONV ? qb_window_overlap(&node->attributes.conv.window) : 1;
  qb_rounded_layer layer = {.outputs = (int64_t)qb_shape_elements(&graph->values[node->output].shape),
                            .overlap = overlap,
                            .row = linear->row_length,
                            .column = overlap * (linear->out_channels / linear->group),
                            .impurity = impurity_of(codes->bits)};
  describe_steps(codes, linear, &layer);
  return qb_rounding_factor(&layer, g->guarantee->share, &g->guarantee->factor[n], g->error);
}

static qb_status find_factors(const guaranteeing *g, double probability) {
  const qb_graph *graph = g->pair->quantized;
  qb_linear linear;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    g->guarantee->layer_count += is_rounded(g->pair, n, &linear);
  g->guarantee->share = g->guarantee->layer_count > 0 ? nextafter(probability / g->guarantee->layer_count, 0) : 0;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (is_rounded(g->pair, n, &linear))
      QB_TRY(layer_factor(g, n, &linear));
  return QB_OK;
}

static qb_status find_norms(const guaranteeing *g) {
  const qb_pair *pair = g->pair;
  for (qb_node_id n = 0; n < pair->quantized->node_count; n++) {
    qb_linear linear;
    if (pair->partner[n] == QB_NONE || !qb_graph_linear(pair->original, pair->partner[n], &linear))
      continue;
    const float *weight = qb_view_f32(&pair->original->values[linear.weight].constant);
    QB_TRY(qb_layer_sigma(pair->original, &linear, weight, NULL, g->arena, &g->guarantee->sigma[n], g->error));
  }
  return QB_OK;
}

qb_status qb_rounding_guarantee_make(const qb_pair *pair, double probability, qb_arena *arena,
                                     qb_rounding_guarantee *guarantee, qb_error *error) {
  size_t nodes = (size_t)pair->quantized->node_count;
  guaranteeing g = {guarantee, pair, arena, error};
  *guarantee = (qb_rounding_guarantee){.pair = pair, .applies = true};
  guarantee->sigma = qb_arena_alloc(arena, nodes, sizeof *guarantee->sigma);
  guarantee->factor = qb_arena_alloc(arena, nodes, sizeof *guarantee->factor);
  if (guarantee->sigma == NULL || guarantee->factor == NULL)
    return qb_fail_memory(error, "the guarantee of stochastic rounding", nodes * sizeof *guarantee->sigma);
  memset(guarantee->sigma, 0, nodes * sizeof *guarantee->sigma);
  memset(guarantee->factor, 0, nodes * sizeof *guarantee->factor);
  check_nodes(&g);
  if (!guarantee->applies)
    return QB_OK;
  QB_TRY(find_factors(&g, probability));
  return find_norms(&g);
}

/* -------------------------------------------------------------------------------------------------- one fixed input */

/* D behind a node that is no layer: sums of operands (repeated where they are broadcast), else the node's constant. */
static double pass_on(const qb_graph *graph, const qb_node *node, const double *errors) {
  bool joins = node->op == QB_OP_ADD || node->op == QB_OP_SUB;
  double sum = 0, outputs = (double)qb_shape_elements(&graph->values[node->output].shape);
  for (int32_t i = 0; i < node->input_count; i++) {
    qb_value_id id = node->inputs[i];
    if (id == QB_NONE || graph->values[id].is_constant)
      continue;
    double repeats = joins ? outputs / (double)qb_shape_elements(&graph->values[id].shape) : 1;
    double root = repeats == 1 ? 1 : qb_up(sqrt(qb_up(repeats)));
    sum = qb_up_sum(sum, qb_up_product(root, errors[id]));
  }
  return joins || node->op == QB_OP_CONCAT ? sum : qb_up_product(qb_node_lipschitz(graph, node), sum);
}

double qb_rounding_guarantee_bound(const qb_rounding_guarantee *guarantee, const double *norms, double *errors) {
  const qb_pair *pair = guarantee->pair;
  const qb_graph *graph = pair->quantized;
  for (qb_value_id v = 0; v < graph->value_count; v++)
    errors[v] = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    qb_linear linear;
    if (pair->value[node->output] == QB_NONE)
      continue;
    if (!qb_graph_linear(graph, n, &linear)) {
      errors[node->output] = pass_on(graph, node, errors);
      continue;
    }
    double before = errors[node->inputs[0]];
    double state = qb_up_sum(norms[pair->original->nodes[pair->partner[n]].inputs[0]], before);
    errors[node->output] =
        qb_up_sum(qb_up_product(guarantee->sigma[n], before), qb_up_product(guarantee->factor[n], state));
  }
  return errors[graph->outputs[0]];
}

/* ||S||_2 with radii, rounded up: n + 3 roundings of each square; tiny squares may vanish, which the last term covers.
 */
static double norm_above(const double *x, const double *radius, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    double size = fabs(x[i]) + (radius != NULL ? radius[i] : 0);
    sum += size * size;
  }
  return qb_up(qb_up(sqrt(qb_up(qb_sum_upper(sum, (int64_t)count + 3)))) + (double)count * 0x1p-500);
}

static qb_status norms_of_run(const qb_graph *graph, qb_run *run, const float *input, double *norms, qb_error *error) {
  QB_TRY(qb_run_forward(run, input, 1, error));
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear linear;
    qb_value_id id = graph->nodes[n].inputs[0];
    if (!qb_graph_linear(graph, n, &linear))
      continue;
    size_t count = qb_shape_elements(&graph->values[id].shape);
    norms[id] = norm_above(qb_run_value_double(run, id), qb_run_radius(run, id), count);
    if (!isfinite(norms[id]))
      return qb_fail(error, QB_ERROR_NUMERIC, "%s: the norm before node '%s' is not finite", graph->name,
                     graph->nodes[n].name);
  }
  return QB_OK;
}

qb_status qb_rounding_guarantee_norms(const qb_graph *original, const float *input, int threads, double *norms,
                                      qb_error *error) {
  qb_value_id *keep = qb_alloc((size_t)original->node_count + 1, sizeof *keep);
  qb_run *run = NULL;
  qb_run_settings how;
  if (keep == NULL)
    return qb_fail_memory(error, "kept values", (size_t)original->node_count * sizeof *keep);
  qb_run_settings_default(&how);
  how.engine = QB_ENGINE_REFERENCE;
  how.threads = threads;
  how.radius = true;
  how.keep = keep;
  for (qb_node_id n = 0; n < original->node_count; n++) {
    qb_linear linear;
    if (qb_graph_linear(original, n, &linear))
      keep[how.keep_count++] = original->nodes[n].inputs[0];
  }
  qb_status status = qb_run_create(original, &how, &run, error);
  if (status == QB_OK)
    status = norms_of_run(original, run, input, norms, error);
  qb_run_free(run);
  qb_free(keep);
  return status;
}
