/* Runs two networks side by side and compares what their nodes do; see realised.h. */
#include "run/realised.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "graph/extract.h"
#include "graph/lipschitz.h"

/* The original node of a step alone, to be run on the quantized network's input. */
typedef struct realised_part {
  qb_graph graph;
  qb_run *run;
  qb_value_id output; /* of the original */
} realised_part;

struct qb_realised {
  const qb_pair *pair;
  qb_arena arena;
  qb_engine engine;
  int32_t threads;
  qb_realised_step *steps; /* (count) in topological order */
  realised_part *parts;    /* (count); run is NULL where z = y' */
  int32_t count, output;
  qb_run *original, *quantized;
  const float *sample; /* of the current call */
  double *chain;       /* (value_count of the quantized graph) G */
  double *difference;  /* likewise ||x - x'|| */
  float *scratch;      /* as many elements as the largest activation */
};

/* ---------------------------------------------------------------------------------------------------------- steps */

static bool is_activation(const qb_graph *graph, qb_value_id id) {
  return id != QB_NONE && !graph->values[id].is_constant;
}

static bool is_copy(qb_op op) {
  return op == QB_OP_FLATTEN || op == QB_OP_RESHAPE || op == QB_OP_SQUEEZE || op == QB_OP_UNSQUEEZE ||
         op == QB_OP_IDENTITY || op == QB_OP_DROPOUT;
}

static qb_status refuse(const qb_realised *r, const qb_node *node, const char *why, qb_error *error) {
  return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: node '%s' (%s) %s: layerwise statistics have no rule for it",
                 r->pair->quantized->name, node->name, qb_op_name(node->op), why);
}

static qb_status list_inputs(qb_realised *r, qb_realised_step *step, qb_error *error) {
  const qb_graph *graph = r->pair->quantized;
  const qb_node *node = &graph->nodes[step->node];
  size_t room = (size_t)node->input_count;
  qb_value_id *from = qb_arena_alloc(&r->arena, room, sizeof *from);
  double *factor = qb_arena_alloc(&r->arena, room, sizeof *factor);
  if (from == NULL || factor == NULL)
    return qb_fail_memory(error, "the steps of a network", room * sizeof *factor);
  double outputs = (double)qb_shape_elements(&graph->values[node->output].shape);
  for (int32_t i = 0; i < node->input_count; i++) {
    if (!is_activation(graph, node->inputs[i]))
      continue;
    factor[step->from_count] = sqrt(outputs / (double)qb_shape_elements(&graph->values[node->inputs[i]].shape));
    from[step->from_count++] = node->inputs[i];
  }
  step->from = from;
  step->factor = factor;
  return QB_OK;
}

static qb_value_id only_activation(const qb_graph *graph, const qb_node *node) {
  qb_value_id found = QB_NONE;
  for (int32_t i = 0; i < node->input_count; i++)
    if (is_activation(graph, node->inputs[i]))
      found = node->inputs[i];
  return found;
}

/* The original node alone, for partners that are not the same function. */
static qb_status add_part(qb_realised *r, int32_t step, qb_node_id original, qb_error *error) {
  const qb_graph *graph = r->pair->original;
  const qb_node *node = &graph->nodes[original];
  realised_part *part = &r->parts[step];
  qb_run_settings how;
  qb_run_settings_default(&how);
  how.engine = r->engine;
  how.threads = r->threads;
  part->output = node->output;
  QB_TRY(qb_graph_extract(graph, only_activation(graph, node), &node->output, 1, &part->graph, error));
  return qb_run_create(&part->graph, &how, &part->run, error);
}

static bool has_constant_operand(const qb_graph *graph, const qb_node *node) {
  bool operand = node->op == QB_OP_ADD || node->op == QB_OP_SUB || node->op == QB_OP_MUL || node->op == QB_OP_DIV ||
                 node->op == QB_OP_CONCAT;
  for (int32_t i = 0; i < node->input_count; i++)
    if (operand && !is_activation(graph, node->inputs[i]))
      return true;
  return false;
}

/* A node with one activation and a partner in the original. */
static qb_status classify_single(qb_realised *r, int32_t index, qb_node_id original, qb_error *error) {
  qb_realised_step *step = &r->steps[index];
  const qb_pair *pair = r->pair;
  const qb_node *node = &pair->quantized->nodes[step->node];
  qb_linear linear;
  step->kind = QB_REALISED_NODE;
  step->is_linear = qb_graph_linear(pair->quantized, step->node, &linear);
  bool differs = step->is_linear || (node->op == QB_OP_CLIP && pair->clip_differences > 0) ||
                 (has_constant_operand(pair->quantized, node) && pair->operand_differences > 0);
  step->contracts = !differs && qb_node_lipschitz(pair->quantized, node) <= 1;
  return differs ? add_part(r, index, original, error) : QB_OK;
}

/* Everything from before the QuantizeLinear to behind the DequantizeLinear is one step. */
static qb_status classify_quantizer(qb_realised *r, int32_t index, qb_error *error) {
  qb_realised_step *step = &r->steps[index];
  const qb_graph *graph = r->pair->quantized;
  qb_node_id at = graph->values[step->from[0]].producer;
  while (at != QB_NONE && is_copy(graph->nodes[at].op))
    at = graph->values[graph->nodes[at].inputs[0]].producer;
  if (at == QB_NONE || graph->nodes[at].op != QB_OP_QUANTIZE_LINEAR)
    return refuse(r, &graph->nodes[step->node], "reads codes that no QuantizeLinear made", error);
  step->kind = QB_REALISED_NODE;
  step->from = &graph->nodes[at].inputs[0];
  qb_node_id original = r->pair->partner[at];
  return original == QB_NONE ? QB_OK : add_part(r, index, original, error);
}

static qb_status classify(qb_realised *r, int32_t index, qb_error *error) {
  qb_realised_step *step = &r->steps[index];
  const qb_node *node = &r->pair->quantized->nodes[step->node];
  qb_node_id original = r->pair->partner[step->node];
  QB_TRY(list_inputs(r, step, error));
  if (node->op == QB_OP_DEQUANTIZE_LINEAR)
    return classify_quantizer(r, index, error);
  if (is_copy(node->op)) {
    step->kind = QB_REALISED_COPY;
    return QB_OK;
  }
  if (step->from_count == 1 && original != QB_NONE)
    return classify_single(r, index, original, error);
  bool sums = node->op == QB_OP_ADD || node->op == QB_OP_SUB;
  if (step->from_count == 0 || original == QB_NONE || (!sums && node->op != QB_OP_CONCAT) ||
      (r->pair->operand_differences > 0 && has_constant_operand(r->pair->quantized, node)))
    return refuse(r, node, "joins several activations", error);
  step->kind = sums ? QB_REALISED_SUM : QB_REALISED_CONCAT;
  return QB_OK;
}

/* Copies of codes stay between their QuantizeLinear and DequantizeLinear. */
static bool is_step(const qb_realised *r, qb_node_id n, const bool *is_code) {
  const qb_node *node = &r->pair->quantized->nodes[n];
  return r->pair->value[node->output] != QB_NONE && !is_code[node->output];
}

static qb_status list_steps(qb_realised *r, qb_error *error) {
  const qb_graph *graph = r->pair->quantized;
  bool *is_code = qb_arena_alloc(&r->arena, (size_t)graph->value_count, sizeof *is_code);
  r->steps = qb_arena_alloc(&r->arena, (size_t)graph->node_count, sizeof *r->steps);
  r->parts = qb_arena_alloc(&r->arena, (size_t)graph->node_count, sizeof *r->parts);
  if (is_code == NULL || r->steps == NULL || r->parts == NULL)
    return qb_fail_memory(error, "the steps of a network", (size_t)graph->node_count * sizeof *r->steps);
  for (qb_value_id v = 0; v < graph->value_count; v++)
    is_code[v] = false;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    is_code[node->output] = node->op == QB_OP_QUANTIZE_LINEAR || (is_copy(node->op) && is_code[node->inputs[0]]);
    if (!is_step(r, n, is_code))
      continue;
    r->steps[r->count] = (qb_realised_step){.node = n, .output = node->output};
    r->parts[r->count] = (realised_part){.run = NULL};
    r->count++; /* before anything that has to be freed */
    QB_TRY(classify(r, r->count - 1, error));
    if (node->output == graph->outputs[0])
      r->output = r->count - 1;
  }
  return r->output >= 0 ? QB_OK
                        : qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: its output is no result of a node", graph->name);
}

/* ------------------------------------------------------------------------------------------------------- compiling */

static qb_status compile(const qb_realised *r, const qb_graph *graph, qb_run **run, qb_error *error) {
  qb_value_id *keep = qb_alloc((size_t)graph->node_count + 1, sizeof *keep);
  qb_run_settings how;
  if (keep == NULL)
    return qb_fail_memory(error, "kept values", (size_t)graph->node_count * sizeof *keep);
  qb_run_settings_default(&how);
  how.engine = r->engine;
  how.threads = r->threads;
  how.keep = keep;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    keep[how.keep_count++] = graph->nodes[n].output;
  qb_status status = qb_run_create(graph, &how, run, error);
  qb_free(keep);
  return status;
}

static qb_status allocate(qb_realised *r, qb_error *error) {
  const qb_graph *graph = r->pair->quantized;
  size_t values = (size_t)graph->value_count, largest = 1;
  for (qb_value_id v = 0; v < graph->value_count; v++)
    if (is_activation(graph, v) && qb_shape_elements(&graph->values[v].shape) > largest)
      largest = qb_shape_elements(&graph->values[v].shape);
  r->chain = qb_arena_alloc(&r->arena, values, sizeof *r->chain);
  r->difference = qb_arena_alloc(&r->arena, values, sizeof *r->difference);
  r->scratch = qb_arena_alloc(&r->arena, largest, sizeof *r->scratch);
  return r->chain == NULL || r->difference == NULL || r->scratch == NULL
             ? qb_fail_memory(error, "layerwise statistics", largest * sizeof *r->scratch)
             : QB_OK;
}

static qb_status build(qb_realised *r, qb_error *error) {
  QB_TRY(list_steps(r, error));
  QB_TRY(allocate(r, error));
  QB_TRY(compile(r, r->pair->original, &r->original, error));
  return compile(r, r->pair->quantized, &r->quantized, error);
}

qb_status qb_realised_create(const qb_pair *pair, qb_engine engine, int32_t threads, qb_realised **realised,
                             qb_error *error) {
  qb_realised *r = qb_alloc(1, sizeof *r);
  *realised = NULL;
  if (r == NULL)
    return qb_fail_memory(error, "layerwise statistics", sizeof *r);
  *r = (qb_realised){.pair = pair, .engine = engine, .threads = threads, .output = -1};
  qb_arena_init(&r->arena);
  qb_status status = build(r, error);
  if (status != QB_OK)
    qb_realised_free(r);
  else
    *realised = r;
  return status;
}

void qb_realised_free(qb_realised *realised) {
  if (realised == NULL)
    return;
  for (int32_t i = 0; i < realised->count; i++) {
    qb_run_free(realised->parts[i].run);
    qb_graph_free(&realised->parts[i].graph);
  }
  qb_run_free(realised->original);
  qb_run_free(realised->quantized);
  qb_arena_free(&realised->arena);
  qb_free(realised);
}

int32_t qb_realised_count(const qb_realised *realised) { return realised->count; }

const qb_realised_step *qb_realised_steps(const qb_realised *realised) { return realised->steps; }

int32_t qb_realised_output(const qb_realised *realised) { return realised->output; }

/* --------------------------------------------------------------------------------------------------------- running */

/* A value of a run in whichever precision the engine has; all zeros where both are NULL. */
typedef struct elements {
  const float *single;
  const double *twice;
} elements;

static inline double element(elements e, size_t i) {
  return e.single != NULL ? (double)e.single[i] : e.twice != NULL ? e.twice[i] : 0.0;
}

static elements value_of(const qb_realised *r, qb_run *run, const qb_graph *graph, qb_value_id id) {
  if (graph->values[id].producer == QB_NONE)
    return (elements){r->sample, NULL};
  return (elements){qb_run_value(run, id), qb_run_value_double(run, id)};
}

static double distance(elements a, elements b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    double d = element(a, i) - element(b, i);
    sum += d * d;
  }
  return sqrt(sum);
}

static size_t size_of(const qb_realised *r, qb_value_id id) {
  return qb_shape_elements(&r->pair->quantized->values[id].shape);
}

/* ||x - x'|| at a value of the quantized graph. */
static double difference_at(const qb_realised *r, qb_value_id id) {
  elements theirs = value_of(r, r->original, r->pair->original, r->pair->value[id]);
  return distance(theirs, value_of(r, r->quantized, r->pair->quantized, id), size_of(r, id));
}

/* z = f(x'), the original node on the quantized network's input. */
static qb_status run_part(qb_realised *r, const realised_part *part, elements input, size_t count, elements *z,
                          qb_error *error) {
  for (size_t i = 0; i < count; i++)
    r->scratch[i] = (float)element(input, i);
  QB_TRY(qb_run_forward(part->run, r->scratch, 1, error));
  *z = (elements){qb_run_value(part->run, part->output), qb_run_value_double(part->run, part->output)};
  return QB_OK;
}

static qb_status measure_node(qb_realised *r, int32_t index, qb_realised_numbers *numbers, qb_error *error) {
  const qb_realised_step *step = &r->steps[index];
  const qb_graph *graph = r->pair->quantized;
  size_t inputs = size_of(r, step->from[0]), outputs = size_of(r, step->output);
  elements x = value_of(r, r->quantized, graph, step->from[0]);
  elements ours = value_of(r, r->quantized, graph, step->output), z = ours;
  elements theirs = value_of(r, r->original, r->pair->original, r->pair->value[step->output]);
  if (r->parts[index].run != NULL)
    QB_TRY(run_part(r, &r->parts[index], x, inputs, &z, error));
  else if (graph->nodes[step->node].op == QB_OP_DEQUANTIZE_LINEAR)
    z = x;
  double before = r->difference[step->from[0]], moved = distance(theirs, z, outputs);
  numbers->ratio = before > 0 ? moved / before : 0;
  numbers->term = distance(z, ours, outputs);
  numbers->state = distance(x, (elements){NULL, NULL}, inputs);
  numbers->chain = numbers->ratio * r->chain[step->from[0]] + numbers->term;
  return QB_OK;
}

double qb_realised_combine(const qb_realised_step *step, const double *values) {
  double sum = 0;
  if (step->kind == QB_REALISED_CONCAT) {
    for (int32_t i = 0; i < step->from_count; i++)
      sum = hypot(sum, values[step->from[i]]);
    return sum;
  }
  for (int32_t i = 0; i < step->from_count; i++)
    sum += (step->kind == QB_REALISED_SUM ? step->factor[i] : 1) * values[step->from[i]];
  return sum;
}

static qb_status measure_step(qb_realised *r, int32_t index, qb_realised_numbers *numbers, qb_error *error) {
  const qb_realised_step *step = &r->steps[index];
  *numbers = (qb_realised_numbers){.ratio = 1};
  if (step->kind == QB_REALISED_NODE)
    QB_TRY(measure_node(r, index, numbers, error));
  else
    numbers->chain = qb_realised_combine(step, r->chain);
  numbers->difference = difference_at(r, step->output);
  r->chain[step->output] = numbers->chain;
  r->difference[step->output] = numbers->difference;
  if (!isfinite(numbers->chain) || !isfinite(numbers->difference))
    return qb_fail(error, QB_ERROR_NUMERIC, "%s: something at node '%s' is not finite", r->pair->quantized->name,
                   r->pair->quantized->nodes[step->node].name);
  return QB_OK;
}

qb_status qb_realised_forward(qb_realised *r, const float *sample, qb_realised_numbers *numbers, qb_error *error) {
  const qb_graph *graph = r->pair->quantized;
  r->sample = sample;
  for (int32_t i = 0; i < graph->input_count; i++)
    r->chain[graph->inputs[i]] = r->difference[graph->inputs[i]] = 0;
  QB_TRY(qb_run_forward(r->original, sample, 1, error));
  QB_TRY(qb_run_forward(r->quantized, sample, 1, error));
  for (int32_t i = 0; i < r->count; i++)
    QB_TRY(measure_step(r, i, &numbers[i], error));
  return QB_OK;
}
