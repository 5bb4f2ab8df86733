/* From scores to bits: the plans of the rules under a budget, and which rule to trust. */
#ifndef QB_API_ALLOCATE_PLAN_H
#define QB_API_ALLOCATE_PLAN_H

#include "api/model.h"
#include "bound/bound.h"
#include "quant/allocate.h"
#include "quant/allocate_scores.h"

enum { QB_WIDTHS = 7 }; /* 2 to 8 */

/* What is known of the layers before any width is chosen. */
typedef struct qb_planner {
  const qb_model *model;
  const qb_quantize_settings *settings; /* calibration opened */
  const qb_allocate_settings *how;
  const qb_progress *progress;
  qb_allocation *allocation;
  qb_graph prepared;     /* channels equalized, biases absorbed, where the settings ask for it */
  const qb_graph *graph; /* that scores speak of: `prepared` or the model's */
  int width[QB_WIDTHS], widths, layers;
  qb_allocated_layer *layer;                 /* (layers) bits and fixed as the caller's plan says, weights */
  int *first;                                /* (layers) the earliest layer with the same weight */
  int64_t *scales;                           /* (layers) number of scales */
  qb_scorer *scorer;                         /* NULL without calibration */
  qb_score_table table[QB_ALLOCATION_PLANS]; /* by rule; score NULL: not available */
} qb_planner;

/* Checks the settings, lists the layers, computes the scores. `domain` for the certified rule. Free in every case. */
QB_MUST_CHECK qb_status qb_planner_create(qb_planner *planner, const qb_domain *domain, qb_error *error);
void qb_planner_free(qb_planner *planner);

/* Weight bits at `average_bits` a weight, or what the layers' data may take in a file. */
typedef struct qb_plan_budget {
  bool bytes;
  int64_t amount;
} qb_plan_budget;

/* Of the layers that are not kept float. */
qb_plan_budget qb_planner_average(const qb_planner *planner, double average_bits);

/* Layers that the caller's plan fixes as they are, the others at this mean. */
qb_plan_budget qb_planner_open_average(const qb_planner *planner, double average_bits);

/* The bits of every layer by `rule` within the budget, into `bits` (layers). QB_ERROR_ARGUMENT when none fit. */
QB_MUST_CHECK qb_status qb_planner_plan(const qb_planner *planner, qb_allocation_rule rule, qb_plan_budget budget,
                                        int *bits, qb_error *error);

/* Tries every rule at the budget and keeps the one with the least output error on calibration samples in
 * allocation->rule; without samples, certified. Fills allocation->plans. */
QB_MUST_CHECK qb_status qb_planner_choose_rule(qb_planner *planner, qb_plan_budget budget, qb_error *error);

double qb_planner_average_bits(const qb_planner *planner, const int *bits);

/* Bits, weights and shares of the final plan into allocation->layers. */
QB_MUST_CHECK qb_status qb_planner_describe(const qb_planner *planner, const int *bits, qb_error *error);

/* Quantizes with these bits and everything else as the settings say. */
QB_MUST_CHECK qb_status qb_planner_quantize(const qb_planner *planner, const int *bits, qb_model **quantized,
                                            qb_quantize_info *info, qb_error *error);

#endif
