/* Scores, budgets, plans; see allocate_plan.h. */
#include "api/allocate_plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "quant/layer.h"
#include "quant/layer_plan.h"
#include "quant/network.h"

/* ---------------------------------------------------------------------------------------------------------- layers */

static qb_status take_widths(qb_planner *p, qb_error *error) {
  const qb_allocate_settings *how = p->how;
  if (how->widths == NULL) {
    for (int bits = 2; bits <= 8; bits++)
      p->width[p->widths++] = bits;
    return QB_OK;
  }
  for (int i = 0; i < how->width_count; i++) {
    if (how->width_count > QB_WIDTHS || how->widths[i] < 2 || how->widths[i] > 8 ||
        (i > 0 && how->widths[i] <= how->widths[i - 1]))
      return qb_fail(error, QB_ERROR_ARGUMENT, "the widths to choose from are 2 to 8 bits, rising; number %d is %d",
                     i + 1, how->widths[i]);
    p->width[p->widths++] = how->widths[i];
  }
  return p->widths > 0 ? QB_OK : qb_fail(error, QB_ERROR_ARGUMENT, "there are no widths to choose from");
}

/* Bits that the caller's plan fixes; -1 elsewhere. */
static qb_status apply_fixed(qb_planner *p, qb_error *error) {
  qb_layer_plan plan;
  qb_status status = qb_layer_plan_create(&p->model->graph, -1, &plan, error);
  for (int i = 0; status == QB_OK && i < p->settings->plan_count; i++)
    status = qb_layer_plan_set(&plan, p->settings->plan[i].node, p->settings->plan[i].bits, error);
  for (int l = 0; status == QB_OK && l < p->layers; l++) {
    p->layer[l].fixed = plan.layers[l].bits >= 0;
    p->layer[l].bits = plan.layers[l].bits;
  }
  qb_layer_plan_free(&plan);
  return status;
}

static qb_status list_layers(qb_planner *p, qb_error *error) {
  const qb_graph *graph = &p->model->graph;
  size_t count = (size_t)p->model->layer_count;
  p->layers = p->model->layer_count;
  p->layer = qb_alloc(count, sizeof *p->layer);
  p->first = qb_alloc(count, sizeof *p->first);
  p->scales = qb_alloc(count, sizeof *p->scales);
  if (p->layer == NULL || p->first == NULL || p->scales == NULL)
    return qb_fail_memory(error, "the list of layers", count * sizeof *p->layer);
  for (int l = 0; l < p->layers; l++) {
    qb_linear linear, other;
    if (!qb_graph_linear(graph, p->model->layers[l], &linear))
      continue;
    p->layer[l].node = graph->nodes[linear.node].name;
    p->layer[l].weights = (int64_t)qb_shape_elements(&graph->values[linear.weight].shape);
    p->layer[l].share = NAN;
    p->scales[l] = (int64_t)qb_cut_weight(graph, &linear, p->settings->granularity).count;
    for (p->first[l] = 0; p->first[l] < l; p->first[l]++)
      if (qb_graph_linear(graph, p->model->layers[p->first[l]], &other) && other.weight == linear.weight)
        break;
  }
  return apply_fixed(p, error);
}

/* ---------------------------------------------------------------------------------------------------------- scores */

/* A layer that shares its weight adds its scores to the first such layer's. */
static void merge_tied(const qb_planner *p, qb_score_table *table) {
  for (int l = 0; l < p->layers; l++)
    for (int w = 0; p->first[l] < l && w < p->widths; w++) {
      table->score[p->first[l] * p->widths + w] += table->score[l * p->widths + w];
      table->score[l * p->widths + w] = 0;
    }
}

/* No rule fails the call by having nothing to say about a network. */
static qb_status score_certified(qb_planner *p, const qb_domain *domain, qb_error *error) {
  qb_score_table *table = &p->table[QB_RULE_CERTIFIED];
  qb_error own;
  QB_TRY(qb_score_table_create(p->graph, p->width, p->widths, table, error));
  qb_status status = qb_score_certified(p->graph, domain, p->settings, table, &own);
  if (status == QB_ERROR_UNSUPPORTED) {
    qb_score_table_free(table);
    snprintf(p->allocation->plans[QB_RULE_CERTIFIED].why, QB_ALLOCATION_WHY, "%.199s", own.message);
    return QB_OK;
  }
  return status == QB_OK ? QB_OK : qb_fail(error, status, "%s", own.message);
}

static qb_status score_from_data(qb_planner *p, qb_error *error) {
  const qb_graph *graph = p->graph;
  qb_score_table power = {0};
  for (int rule = QB_RULE_ACTIVATIONS; rule <= QB_RULE_MEASURED; rule++)
    snprintf(p->allocation->plans[rule].why, QB_ALLOCATION_WHY, "there are no calibration samples");
  if (p->settings->calibration.count == 0)
    return QB_OK;
  QB_TRY(qb_scorer_create(graph, p->settings, p->how->samples, p->progress, &p->scorer, error));
  QB_TRY(qb_score_table_create(graph, p->width, p->widths, &p->table[QB_RULE_ACTIVATIONS], error));
  QB_TRY(qb_score_table_create(graph, p->width, p->widths, &p->table[QB_RULE_MEASURED], error));
  qb_status status = qb_score_table_create(graph, p->width, p->widths, &power, error);
  if (status == QB_OK)
    status = qb_score_activations(p->scorer, &p->table[QB_RULE_ACTIVATIONS], &power, error);
  if (status == QB_OK)
    status = qb_score_measured(p->scorer, &power, &p->table[QB_RULE_MEASURED], error);
  qb_score_table_free(&power);
  return status;
}

/* Weights as they will be when they are rounded. */
static qb_status prepare_graph(qb_planner *p, qb_error *error) {
  qb_statistics statistics = {0};
  p->graph = &p->model->graph;
  if (p->settings->equalize == QB_EQUALIZATION_NONE && !p->settings->bias_absorption)
    return QB_OK;
  qb_status status = qb_statistics_read(&p->model->read, &statistics, error);
  if (status == QB_OK)
    status = qb_quantize_prepare(p->graph, &statistics, p->settings, p->progress, &p->prepared, error);
  qb_statistics_free(&statistics);
  p->graph = &p->prepared;
  return status;
}

qb_status qb_planner_create(qb_planner *planner, const qb_domain *domain, qb_error *error) {
  QB_TRY(take_widths(planner, error));
  QB_TRY(list_layers(planner, error));
  QB_TRY(prepare_graph(planner, error));
  QB_TRY(score_certified(planner, domain, error));
  QB_TRY(score_from_data(planner, error));
  for (int rule = QB_RULE_CERTIFIED; rule < QB_ALLOCATION_PLANS; rule++)
    if (planner->table[rule].score != NULL)
      merge_tied(planner, &planner->table[rule]);
  return QB_OK;
}

void qb_planner_free(qb_planner *planner) {
  qb_scorer_free(planner->scorer);
  qb_graph_free(&planner->prepared);
  for (int rule = 0; rule < QB_ALLOCATION_PLANS; rule++)
    qb_score_table_free(&planner->table[rule]);
  qb_free(planner->layer);
  qb_free(planner->first);
  qb_free(planner->scales);
}

/* --------------------------------------------------------------------------------------------------------- budgets */

qb_plan_budget qb_planner_average(const qb_planner *planner, double average_bits) {
  int64_t weights = 0;
  for (int l = 0; l < planner->layers; l++)
    if (planner->first[l] == l && planner->layer[l].bits != 0)
      weights += planner->layer[l].weights;
  return (qb_plan_budget){.amount = (int64_t)floor(average_bits * (double)weights + 1e-6)};
}

qb_plan_budget qb_planner_open_average(const qb_planner *planner, double average_bits) {
  int64_t fixed = 0, open = 0;
  for (int l = 0; l < planner->layers; l++) {
    const qb_allocated_layer *layer = &planner->layer[l];
    if (planner->first[l] == l && layer->fixed)
      fixed += layer->weights * layer->bits;
    else if (planner->first[l] == l)
      open += layer->weights;
  }
  return (qb_plan_budget){.amount = fixed + (int64_t)floor(average_bits * (double)open + 1e-6)};
}

static int64_t layer_cost(const qb_planner *p, int layer, int bits, bool bytes) {
  const qb_allocated_layer *l = &p->layer[layer];
  if (p->first[layer] != layer || (!bytes && bits == 0))
    return 0;
  const qb_quantize_layer stored = {.bits = bits,
                                    .weights = l->weights,
                                    .scales = p->scales[layer],
                                    .affine = p->settings->affine};
  return bytes ? qb_quantize_layer_bytes(&stored, p->how->compat) : l->weights * bits;
}

/* Layers with fixed bits cost what they cost and score nothing. */
static void fill_problem(const qb_planner *p, const qb_score_table *table, bool bytes, int64_t *cost, double *score) {
  for (int l = 0; l < p->layers; l++)
    for (int w = 0; w < p->widths; w++) {
      bool open = !p->layer[l].fixed;
      cost[l * p->widths + w] = layer_cost(p, l, open ? p->width[w] : p->layer[l].bits, bytes);
      score[l * p->widths + w] = open && table->score != NULL ? table->score[l * p->widths + w] : 0;
    }
}

/* ----------------------------------------------------------------------------------------------------------- plans */

/* The most bits that fit everywhere. */
static qb_status choose_uniform(const qb_allocation_problem *problem, int *choice, qb_error *error) {
  for (int w = problem->widths - 1; w >= 0; w--) {
    for (int l = 0; l < problem->layers; l++)
      choice[l] = w;
    if (qb_allocation_cost(problem, choice) <= problem->budget)
      return QB_OK;
  }
  return qb_fail(error, QB_ERROR_ARGUMENT, "even the fewest bits everywhere cost %lld, the budget is %lld",
                 (long long)qb_allocation_cost(problem, choice), (long long)problem->budget);
}

static qb_status solve(const qb_planner *p, qb_allocation_rule rule, const qb_allocation_problem *problem, int *bits,
                       qb_error *error) {
  QB_TRY(rule == QB_RULE_UNIFORM ? choose_uniform(problem, bits, error) : qb_allocate(problem, bits, error));
  for (int l = 0; l < p->layers; l++)
    bits[l] = p->layer[l].fixed ? p->layer[l].bits : p->width[bits[p->first[l]]];
  return QB_OK;
}

qb_status qb_planner_plan(const qb_planner *planner, qb_allocation_rule rule, qb_plan_budget budget, int *bits,
                          qb_error *error) {
  size_t count = (size_t)planner->layers * (size_t)planner->widths;
  int64_t *cost = qb_alloc(count, sizeof *cost);
  double *score = qb_alloc(count, sizeof *score);
  int *choice = qb_alloc((size_t)planner->layers, sizeof *choice);
  qb_status status = cost == NULL || score == NULL || choice == NULL
                         ? qb_fail_memory(error, "the allocation of bits", count * sizeof *cost)
                         : QB_OK;
  if (status == QB_OK) {
    fill_problem(planner, &planner->table[rule], budget.bytes, cost, score);
    const qb_allocation_problem problem = {planner->layers, planner->widths, score, cost, budget.amount};
    status = solve(planner, rule, &problem, choice, error);
  }
  if (status == QB_OK)
    memcpy(bits, choice, (size_t)planner->layers * sizeof *bits);
  qb_free(cost);
  qb_free(score);
  qb_free(choice);
  return status;
}

double qb_planner_average_bits(const qb_planner *planner, const int *bits) {
  double total = 0, weights = 0;
  for (int l = 0; l < planner->layers; l++)
    if (planner->first[l] == l && bits[l] != 0) {
      total += (double)planner->layer[l].weights * bits[l];
      weights += (double)planner->layer[l].weights;
    }
  return weights > 0 ? total / weights : 0;
}

static qb_layer_bits *plan_of(const qb_planner *p, const int *bits) {
  qb_layer_bits *plan = qb_alloc((size_t)p->layers, sizeof *plan);
  for (int l = 0; plan != NULL && l < p->layers; l++)
    plan[l] = (qb_layer_bits){p->layer[l].node, bits[l]};
  return plan;
}

qb_status qb_planner_quantize(const qb_planner *planner, const int *bits, qb_model **quantized, qb_quantize_info *info,
                              qb_error *error) {
  qb_quantize_settings settings = *planner->settings;
  qb_layer_bits *plan = plan_of(planner, bits);
  if (plan == NULL)
    return qb_fail_memory(error, "the plan", (size_t)planner->layers * sizeof *plan);
  settings.bits = planner->width[planner->widths - 1];
  settings.plan = plan;
  settings.plan_count = planner->layers;
  qb_status status = qb_quantize(planner->model, &settings, planner->progress, quantized, info, error);
  qb_free(plan);
  return status;
}

/* ------------------------------------------------------------------------------------------------------------ rule */

/* A plan is run no further once its error exceeds `best`, the least so far, which it then updates. */
static qb_status try_rule(qb_planner *p, qb_allocation_rule rule, qb_plan_budget budget, double *best, int *bits,
                          qb_error *error) {
  qb_allocation_plan *plan = &p->allocation->plans[rule];
  QB_TRY(qb_planner_plan(p, rule, budget, bits, error));
  plan->tried = plan->complete = true;
  plan->average_bits = qb_planner_average_bits(p, bits);
  if (p->scorer == NULL)
    return QB_OK;
  QB_TRY(qb_scorer_plan_error(p->scorer, bits, *best, &plan->error, error));
  plan->complete = plan->error <= *best;
  *best = fmin(*best, plan->error);
  return QB_OK;
}

/* Without samples there is nothing to compare by: the data-free rule, or uniform where it has no rule either. */
static qb_allocation_rule best_rule(const qb_planner *p) {
  const qb_allocation_plan *plans = p->allocation->plans;
  qb_allocation_rule best = plans[QB_RULE_CERTIFIED].tried ? QB_RULE_CERTIFIED : QB_RULE_UNIFORM;
  for (int rule = 0; rule < QB_ALLOCATION_PLANS; rule++)
    if (plans[rule].tried && plans[rule].error < plans[best].error)
      best = (qb_allocation_rule)rule;
  return best;
}

/* Those that usually win come first: the others are then soon known to have lost. */
static const qb_allocation_rule order[QB_ALLOCATION_PLANS] = {QB_RULE_UNIFORM, QB_RULE_MEASURED, QB_RULE_ACTIVATIONS,
                                                              QB_RULE_CERTIFIED};

qb_status qb_planner_choose_rule(qb_planner *planner, qb_plan_budget budget, qb_error *error) {
  double best = INFINITY;
  int *bits = qb_alloc((size_t)planner->layers, sizeof *bits);
  qb_status status = bits != NULL ? QB_OK : qb_fail_memory(error, "the plan", sizeof *bits);
  for (int i = 0; status == QB_OK && i < QB_ALLOCATION_PLANS; i++)
    if (order[i] == QB_RULE_UNIFORM || planner->table[order[i]].score != NULL)
      status = try_rule(planner, order[i], budget, &best, bits, error);
  qb_free(bits);
  planner->allocation->rule = best_rule(planner);
  return status;
}

qb_status qb_planner_describe(const qb_planner *planner, const int *bits, qb_error *error) {
  qb_allocation *a = planner->allocation;
  const qb_score_table *table = &planner->table[a->rule];
  double total = 0;
  a->layers = qb_alloc((size_t)planner->layers, sizeof *a->layers);
  if (a->layers == NULL)
    return qb_fail_memory(error, "the plan", (size_t)planner->layers * sizeof *a->layers);
  a->layer_count = planner->layers;
  a->average_bits = qb_planner_average_bits(planner, bits);
  for (int l = 0; l < planner->layers; l++) {
    a->layers[l] = planner->layer[l];
    a->layers[l].bits = bits[l];
    for (int w = 0; table->score != NULL && !planner->layer[l].fixed && w < planner->widths; w++)
      if (planner->width[w] == bits[l]) {
        a->layers[l].share = table->score[l * planner->widths + w];
        total += a->layers[l].share;
      }
  }
  for (int l = 0; l < planner->layers && total > 0; l++)
    a->layers[l].share /= total;
  return QB_OK;
}
