/* The worst case in the certificate file: domain, bound, ranges of outputs, witness, methods that were tried. */
#include <math.h>
#include <stdio.h>

#include "base/hash.h"
#include "report/certificate_claims_json.h"
#include "report/json.h"

/* ---------------------------------------------------------------------------------------------------------- domain */

/* Runs of elements with equal limits, in row-major order: [[count, lo, hi], ..]. */
static json_t *domain_runs(const qb_domain *domain) {
  json_t *runs = json_array();
  for (int64_t first = 0, i = 0; i < domain->count; first = i) {
    while (i < domain->count && domain->lo[i] == domain->lo[first] && domain->hi[i] == domain->hi[first])
      i++;
    json_t *run = qb_json_append(json_array(), json_integer(i - first));
    run = qb_json_append(run, qb_json_real((double)domain->lo[first]));
    runs = qb_json_append(runs, qb_json_append(run, qb_json_real((double)domain->hi[first])));
  }
  return runs;
}

json_t *qb_certificate_domain(const qb_certificate *certificate, const qb_domain *domain) {
  json_t *object = qb_json_put(json_object(), "description", qb_json_text(certificate->domain));
  if (certificate->box_sha256[0] != '\0')
    object = qb_json_put(object, "box_sha256", json_string(certificate->box_sha256));
  object = qb_json_put(object, "elements", json_integer(domain->count));
  return qb_json_put(object, "runs", domain_runs(domain));
}

/* --------------------------------------------------------------------------------------------------------- witness */

static json_t *witness_norm(double sigma) { return qb_json_real(sigma * (1 + QB_MARGIN_OF_NORM)); }

static json_t *gate_norms(const qb_spectral_gate_norms *norms) {
  json_t *object = qb_json_put(json_object(), "joint", witness_norm(norms->joint));
  object = qb_json_put(object, "inner", witness_norm(norms->inner));
  return qb_json_put(object, "outer", witness_norm(norms->outer));
}

static json_t *gate_object(const qb_graph *graph, const qb_spectral_gate *gate) {
  json_t *object = qb_json_put(json_object(), "node", json_integer(gate->node));
  object = qb_json_put(object, "name", qb_json_text(graph->nodes[gate->node].name));
  json_t *side = qb_json_append(json_array(), json_integer(gate->side[0]));
  object = qb_json_put(object, "side", qb_json_append(side, json_integer(gate->side[1])));
  json_t *scaling = json_array();
  for (int64_t c = 0; c < gate->channels; c++)
    scaling = qb_json_append(scaling, qb_json_real(gate->scaling[c]));
  object = qb_json_put(object, "scaling", scaling);
  object = qb_json_put(object, "original", gate_norms(&gate->original));
  return qb_json_put(object, "quantized", gate->perturbed ? json_null() : gate_norms(&gate->quantized));
}

/* T of the outputs of nodes; tensors that are not listed have ones. */
static json_t *weights_of_tensors(const qb_worst_case *worst) {
  json_t *array = json_array();
  for (qb_node_id n = 0; n < worst->graph->node_count; n++) {
    qb_value_id output = worst->graph->nodes[n].output;
    const double *t = worst->spectral.weights[output];
    if (t == NULL)
      continue;
    json_t *object = qb_json_put(json_object(), "node", json_integer(n)), *weights = json_array();
    for (int64_t c = 0; c < worst->graph->values[output].shape.dims[1]; c++)
      weights = qb_json_append(weights, qb_json_real(t[c]));
    array = qb_json_append(array, qb_json_put(object, "weights", weights));
  }
  return array;
}

static json_t *spectral_witness(const qb_worst_case *worst) {
  json_t *layers = json_array(), *gates = json_array();
  for (qb_node_id n = 0; n < worst->graph->node_count; n++) {
    const qb_spectral_layer *layer = &worst->spectral.layers[n];
    qb_linear linear;
    if (!qb_graph_linear(worst->graph, n, &linear))
      continue;
    json_t *object = qb_json_put(json_object(), "node", json_integer(n));
    object = qb_json_put(object, "name", qb_json_text(worst->graph->nodes[n].name));
    object = qb_json_put(object, "sigma", witness_norm(layer->sigma));
    object = qb_json_put(object, "sigma_quantized", witness_norm(layer->sigma_quantized));
    layers = qb_json_append(layers, qb_json_put(object, "sigma_difference", witness_norm(layer->sigma_difference)));
  }
  for (int32_t g = 0; g < worst->spectral.gate_count; g++)
    gates = qb_json_append(gates, gate_object(worst->graph, &worst->spectral.gates[g]));
  json_t *witness = qb_json_put(qb_json_put(json_object(), "layers", layers), "gates", gates);
  return qb_json_put(witness, "weights", weights_of_tensors(worst));
}

/* ------------------------------------------------------------------------------------------------------ worst case */

static json_t *output_ranges(const qb_worst_case *worst) {
  if (worst->outputs == NULL)
    return json_null();
  json_t *array = json_array();
  for (int64_t k = 0; k < worst->output_count; k++) {
    qb_output_range claimed = qb_worst_case_claimed_range(worst, k);
    json_t *range = qb_json_append(json_array(), qb_json_real(claimed.lo));
    array = qb_json_append(array, qb_json_append(range, qb_json_real(claimed.hi)));
  }
  return array;
}

static json_t *flip_object(const qb_worst_case_claim *claim, const qb_certificate_parts *parts) {
  char text[QB_HASH_TEXT];
  qb_hash hash;
  if (!claim->flips)
    return json_null();
  if (qb_hash_bytes(parts->search.flip, (size_t)parts->domain.count * sizeof(float), &hash, NULL) != QB_OK)
    return NULL;
  json_t *object = qb_json_put(json_object(), "top", json_integer(claim->top));
  object = qb_json_put(object, "other_top", json_integer(claim->other_top));
  object = qb_json_put(object, "input_sha256", json_string(qb_hash_print(&hash, text)));
  const float *input = parts->domain.count <= QB_STORED_INPUTS ? parts->search.flip : NULL;
  return qb_json_put(object, "input", qb_certificate_floats(input, parts->domain.count));
}

static json_t *statement(const qb_worst_case_claim *claim) {
  char text[320];
  if (claim->vacuous)
    snprintf(text, sizeof text,
             "vacuous: the bound is 99 %% or more of %.9g, by which the float network's own output can move over this "
             "domain",
             claim->output_range);
  else
    snprintf(text, sizeof text, "for every input of the domain no output changes by more than the bound");
  return json_string(text);
}

json_t *qb_certificate_worst_case(const qb_certificate *certificate, const qb_certificate_parts *parts) {
  const qb_worst_case_claim *claim = &certificate->worst_case;
  json_t *object =
      qb_json_put(json_object(), "output", parts->output < 0 ? json_string("all") : json_integer(parts->output));
  object = qb_json_put(object, "method", qb_json_text(claim->method));
  object = qb_json_put(object, "bound", qb_json_real(claim->bound));
  object = qb_json_put(object, "log10", qb_json_real(claim->log10));
  object = qb_json_put(object, "lower", qb_json_real(claim->lower));
  object = qb_json_put(object, "lower_input", qb_certificate_input(parts->search.input, parts->domain.count, 1));
  object = qb_json_put(object, "looseness", qb_json_real(claim->looseness));
  object = qb_json_put(object, "statement", statement(claim));
  object = qb_json_put(object, "vacuous", json_boolean(claim->vacuous));
  object = qb_json_put(object, "output_range", qb_json_real(claim->output_range));
  object = qb_json_put(object, "flip", flip_object(claim, parts));
  object = qb_json_put(object, "outputs", output_ranges(&parts->worst));
  object = qb_json_put(object, "cuts", qb_certificate_cuts(&parts->cuts));
  object = qb_json_put(object, "relaxed", qb_certificate_relaxed(&parts->cuts));
  return qb_json_put(object, "witness", parts->worst.has_spectral ? spectral_witness(&parts->worst) : json_null());
}

json_t *qb_certificate_tried(const qb_worst_case_claim *claim) {
  json_t *array = json_array();
  for (int i = 0; i < claim->method_count; i++) {
    const qb_bound_value *value = &claim->methods[i];
    json_t *object = qb_json_put(json_object(), "method", qb_json_text(value->name));
    object = qb_json_put(object, "log10", value->applies ? qb_json_real(value->log10) : json_string("not applicable"));
    object = qb_json_put(object, "why", qb_json_text(value->applies ? NULL : value->why));
    array = qb_json_append(array, object);
  }
  return array;
}
