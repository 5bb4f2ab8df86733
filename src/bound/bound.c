/* The bounds of one original network against many quantized ones. */
#include "bound/bound.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/box.h"
#include "bound/chain.h"
#include "bound/elementwise.h"
#include "bound/layerwise.h"
#include "bound/domain_product.h"
#include "bound/published.h"
#include "bound/spectral.h"
#include "bound/two_stage.h"

struct qb_bounder {
  const qb_graph *original;
  qb_domain domain;
  double radius; /* D */
  qb_chain chain;
  uint32_t methods; /* bit m: qb_bound_method m is wanted */
  char dropped[QB_BOUND_WHY];
};

const char *qb_form_name(qb_form form) {
  static const char *const names[] =
      {[QB_FORM_PLAIN] = "plain", [QB_FORM_G1] = "G1", [QB_FORM_G3] = "G3", [QB_FORM_G4] = "G4"};
  return names[form];
}

const char *qb_bound_method_name(qb_bound_method method) {
  static const char *const names[QB_BOUND_COUNT] = {
#define X(ID, NAME, IS_GRAPH) [QB_BOUND_##ID] = NAME,
      QB_BOUND_METHODS(X)
#undef X
          [QB_BOUND_BEST] = "best"};
  return names[method];
}

bool qb_bound_method_is_graph(qb_bound_method method) {
  static const bool is_graph[QB_BOUND_COUNT] = {
#define X(ID, NAME, IS_GRAPH) [QB_BOUND_##ID] = IS_GRAPH,
      QB_BOUND_METHODS(X)
#undef X
          [QB_BOUND_BEST] = true};
  return is_graph[method];
}

/* ------------------------------------------------------------------------------------------------------- bounder */

static qb_status copy_domain(const qb_domain *domain, qb_domain *copy, qb_error *error) {
  size_t count = (size_t)domain->count;
  *copy = (qb_domain){.count = domain->count,
                      .lo = qb_alloc(count, sizeof *copy->lo),
                      .hi = qb_alloc(count, sizeof *copy->hi)};
  if (copy->lo == NULL || copy->hi == NULL)
    return qb_fail_memory(error, "input domain", 2 * count * sizeof *copy->lo);
  memcpy(copy->lo, domain->lo, count * sizeof *copy->lo);
  memcpy(copy->hi, domain->hi, count * sizeof *copy->hi);
  return QB_OK;
}

static void describe_dropped(qb_bounder *bounder) {
  const struct {
    int32_t count;
    const char *one, *many;
  } parts[] = {{bounder->chain.dropped_biases, "bias", "biases"},
               {bounder->chain.dropped_batch_norms, "BatchNormalization", "BatchNormalizations"},
               {bounder->chain.dropped_downsamples, "shortcut layer", "shortcut layers"},
               {bounder->chain.dropped_dense, "matrix", "matrices"}};
  size_t used = 0;
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
    if (parts[i].count > 0)
      used += (size_t)snprintf(bounder->dropped + used, sizeof bounder->dropped - used, "%s%d %s", used > 0 ? ", " : "",
                               parts[i].count, parts[i].count == 1 ? parts[i].one : parts[i].many);
}

static qb_status prepare(qb_bounder *bounder, const qb_domain *domain, const qb_bound_conventions *conventions,
                         qb_error *error) {
  const qb_graph *graph = bounder->original;
  QB_TRY(qb_bound_check_environment(error));
  if (graph->input_count != 1 || domain->count != (int64_t)qb_shape_elements(&graph->values[graph->inputs[0]].shape))
    return qb_fail(error, QB_ERROR_SHAPE, "%s: the domain does not have the shape of the network's one input",
                   graph->name);
  QB_TRY(copy_domain(domain, &bounder->domain, error));
  bounder->radius = qb_domain_radius(domain);
  QB_TRY(qb_chain_extract(graph, conventions, &bounder->chain, error));
  describe_dropped(bounder);
  return QB_OK;
}

/* The published bounds and layerwise, and elementwise where it takes milliseconds. */
static uint32_t default_methods(const qb_graph *graph) {
  int64_t macs = 0;
  for (qb_node_id n = 0; n < graph->node_count; n++)
    macs += qb_graph_node_macs(graph, n);
  uint32_t methods = (1u << (QB_BOUND_LAYERWISE + 1)) - 1u;
  return macs <= QB_BOUND_CHEAP_MACS ? methods | 1u << QB_BOUND_ELEMENTWISE : methods;
}

qb_status qb_bounder_create(const qb_graph *original, const qb_domain *domain, const qb_bound_conventions *conventions,
                            qb_bounder **bounder, qb_error *error) {
  *bounder = qb_alloc(1, sizeof **bounder);
  if (*bounder == NULL)
    return qb_fail_memory(error, "bounds", sizeof **bounder);
  (*bounder)->original = original;
  (*bounder)->methods = default_methods(original);
  qb_status status = prepare(*bounder, domain, conventions, error);
  if (status != QB_OK) {
    qb_bounder_free(*bounder);
    *bounder = NULL;
  }
  return status;
}

void qb_bounder_free(qb_bounder *bounder) {
  if (bounder == NULL)
    return;
  qb_domain_free(&bounder->domain);
  qb_chain_free(&bounder->chain);
  qb_free(bounder);
}

void qb_bounder_select(qb_bounder *bounder, uint32_t methods) { bounder->methods = methods; }

int32_t qb_bounder_layers(const qb_bounder *bounder) { return bounder->chain.count; }

const char *qb_bounder_dropped(const qb_bounder *bounder) { return bounder->dropped; }

/* ----------------------------------------------------------------------------------------------------- evaluating */

static qb_status evaluate_published(const qb_bounder *bounder, const qb_pair *pair, qb_bounds *bounds,
                                    qb_error *error) {
  qb_published published;
  QB_TRY(qb_published_bounds(&bounder->chain, pair, bounder->radius, &published, error));
  bounds->delta = published.delta;
  bounds->chain_is_network = published.is_network;
  snprintf(bounds->chain_why, sizeof bounds->chain_why, "%s", published.why_not);
  bounds->bound[QB_BOUND_PRIOR] = published.prior;
  bounds->bound[QB_BOUND_GENERAL] = published.general;
  bounds->bound[QB_BOUND_CNN] = published.cnn;
  bounds->bound[QB_BOUND_CHAIN_UNSUMMED] = published.chain_unsummed;
  return QB_OK;
}

static bool wanted(const qb_bounder *bounder, qb_bound_method method) { return (bounder->methods & 1u << method) != 0; }

static void see_layerwise_range(const qb_pair *pair, const qb_layerwise *layerwise, qb_bounds *bounds) {
  const qb_graph *graph = pair->quantized;
  double widest = 0;
  for (int32_t o = 0; o < graph->output_count; o++)
    for (int64_t k = 0; k < (int64_t)qb_shape_elements(&graph->values[graph->outputs[o]].shape); k++)
      widest = fmax(widest, qb_layerwise_range(pair, layerwise, graph->outputs[o], k));
  bounds->output_range = fmin(bounds->output_range, widest);
}

/* Layerwise, and elementwise within its ranges. */
static qb_status evaluate_ranges(const qb_bounder *bounder, const qb_pair *pair, const qb_layerwise *layerwise,
                                 qb_bounds *bounds, qb_error *error) {
  qb_elementwise elementwise;
  see_layerwise_range(pair, layerwise, bounds);
  if (wanted(bounder, QB_BOUND_LAYERWISE))
    bounds->bound[QB_BOUND_LAYERWISE] = (qb_bound){.applies = true, .value = layerwise->bound};
  if (!wanted(bounder, QB_BOUND_ELEMENTWISE))
    return QB_OK;
  qb_status status = qb_elementwise_bound(pair, &bounder->domain, layerwise, &elementwise, error);
  bounds->bound[QB_BOUND_ELEMENTWISE] = (qb_bound){.applies = status == QB_OK, .value = elementwise.bound};
  qb_elementwise_free(&elementwise);
  return status;
}

static qb_status evaluate_layerwise(const qb_bounder *bounder, const qb_pair *pair, qb_bounds *bounds,
                                    qb_error *error) {
  qb_layerwise layerwise;
  qb_error own;
  if (!wanted(bounder, QB_BOUND_LAYERWISE) && !wanted(bounder, QB_BOUND_ELEMENTWISE))
    return QB_OK;
  qb_status status = qb_layerwise_bound(pair, &bounder->domain, &layerwise, &own);
  if (status == QB_OK)
    status = evaluate_ranges(bounder, pair, &layerwise, bounds, &own);
  qb_layerwise_free(&layerwise);
  if (status == QB_ERROR_UNSUPPORTED) {
    static const qb_bound_method methods[] = {QB_BOUND_LAYERWISE, QB_BOUND_ELEMENTWISE};
    for (int i = 0; i < 2; i++)
      snprintf(bounds->bound[methods[i]].why, QB_BOUND_WHY, "%s", own.message);
    return QB_OK;
  }
  return status == QB_OK ? QB_OK : qb_fail(error, status, "%s", own.message);
}

/* The largest |d| of an output and the widest range of x. */
static qb_status evaluate_interval(const qb_bounder *bounder, const qb_pair *pair, qb_bounds *bounds, qb_error *error) {
  qb_bound *bound = &bounds->bound[QB_BOUND_INTERVAL];
  qb_box_result box;
  qb_status status = qb_bound_box(pair, &bounder->domain, &box, error);
  double largest = 0, widest = 0;
  bound->applies = status == QB_OK && box.applies;
  for (int32_t k = 0; bound->applies && k < pair->quantized->output_count; k++) {
    const qb_box_state *y = &box.states[pair->quantized->outputs[k]];
    const qb_box_track *x = &y->track[QB_TRACK_ORIGINAL], *d = &y->track[QB_TRACK_DIFFERENCE];
    for (int64_t i = 0; i < y->count; i++) {
      largest = fmax(largest, fmax(-d->lo[i], d->hi[i]));
      widest = fmax(widest, qb_up(x->hi[i] - x->lo[i]));
    }
  }
  bound->value = qb_magnitude_from_double(largest);
  bounds->output_range = bound->applies ? fmin(bounds->output_range, widest) : bounds->output_range;
  snprintf(bound->why, sizeof bound->why, "%s", bound->applies ? "" : box.why);
  qb_box_result_free(&box);
  return status;
}

/* Spectral, and the product with its norms. */
static qb_status evaluate_norms(const qb_bounder *bounder, const qb_pair *pair, qb_bounds *bounds, qb_error *error) {
  qb_spectral_settings settings;
  qb_spectral_result result;
  qb_spectral_settings_default(&settings);
  qb_status status = qb_bound_spectral(pair, &bounder->domain, &settings, &result, error);
  if (wanted(bounder, QB_BOUND_SPECTRAL))
    bounds->bound[QB_BOUND_SPECTRAL] = result.bound;
  if (status == QB_OK && wanted(bounder, QB_BOUND_PRODUCT)) {
    qb_product product;
    status = qb_bound_product(pair, &bounder->domain, &result, &product, error);
    bounds->bound[QB_BOUND_PRODUCT] = product.bound;
    qb_product_free(&product);
  }
  qb_spectral_result_free(&result);
  return status;
}

static qb_status evaluate_two_stage(const qb_bounder *bounder, const qb_pair *pair, qb_bounds *bounds,
                                    qb_error *error) {
  return qb_bound_two_stage(pair, &bounder->domain, &bounds->bound[QB_BOUND_TWO_STAGE], error);
}

typedef qb_status (*evaluate_function)(const qb_bounder *bounder, const qb_pair *pair, qb_bounds *bounds,
                                       qb_error *error);

/* The graph bounds; the published ones come together, and so do layerwise and elementwise, spectral and product. */
static const evaluate_function evaluators[QB_BOUND_COUNT] =
    {[QB_BOUND_TWO_STAGE] = evaluate_two_stage, [QB_BOUND_INTERVAL] = evaluate_interval};

static void choose_best(qb_bounds *bounds) {
  qb_bound *best = &bounds->bound[QB_BOUND_BEST];
  snprintf(best->why, sizeof best->why, "no graph bound applies");
  for (int m = 0; m < QB_BOUND_BEST; m++) {
    const qb_bound *bound = &bounds->bound[m];
    if (qb_bound_method_is_graph((qb_bound_method)m) && bound->applies &&
        (!best->applies || qb_magnitude_compare(bound->value, best->value) < 0))
      *best = *bound;
  }
}

qb_status qb_bounder_evaluate(const qb_bounder *bounder, const qb_pair *pair, qb_bounds *bounds, qb_error *error) {
  *bounds = (qb_bounds){.output_range = INFINITY};
  if (pair->original != bounder->original)
    return qb_fail(error, QB_ERROR_ARGUMENT, "the pair's original network is not the one that was prepared");
  QB_TRY(evaluate_published(bounder, pair, bounds, error));
  QB_TRY(evaluate_layerwise(bounder, pair, bounds, error));
  for (int m = 0; m < QB_BOUND_BEST; m++) {
    if (!wanted(bounder, (qb_bound_method)m) && qb_bound_method_is_graph((qb_bound_method)m))
      snprintf(bounds->bound[m].why, sizeof bounds->bound[m].why, "not asked for");
    else if (evaluators[m] != NULL)
      QB_TRY(evaluators[m](bounder, pair, bounds, error));
  }
  if (wanted(bounder, QB_BOUND_SPECTRAL) || wanted(bounder, QB_BOUND_PRODUCT))
    QB_TRY(evaluate_norms(bounder, pair, bounds, error));
  choose_best(bounds);
  return QB_OK;
}
