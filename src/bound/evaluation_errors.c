/* Each network against itself, rounded on one side; see evaluation_errors.h. */
#include "bound/evaluation_errors.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/box.h"
#include "bound/fault.h"
#include "bound/rounding.h"

static qb_status keep(const qb_box_state *y, double **to, int64_t *count, qb_error *error) {
  *count = y->count;
  *to = qb_alloc((size_t)y->count, sizeof **to);
  if (*to == NULL)
    return qb_fail_memory(error, "errors of an evaluation", (size_t)y->count * sizeof **to);
  for (int64_t k = 0; k < y->count; k++)
    (*to)[k] = fmax(-y->track[QB_TRACK_DIFFERENCE].lo[k], y->track[QB_TRACK_DIFFERENCE].hi[k]);
  return QB_OK;
}

static qb_status bound_one(const qb_graph *graph, int32_t rescaled_by, const qb_domain *domain, double **to,
                           qb_evaluation_errors *errors, qb_error *error) {
  qb_pair own;
  qb_box_result box = {0};
  qb_status status = qb_pair_own(graph, &own, error);
  own.rescaled_by = rescaled_by;
  if (status == QB_OK)
    status = qb_bound_box(&own, domain, &box, error);
  errors->applies = status == QB_OK && box.applies;
  if (errors->applies)
    status = keep(&box.states[graph->outputs[0]], to, &errors->count, error);
  else
    snprintf(errors->why, sizeof errors->why, "%s", box.why);
  qb_box_result_free(&box);
  qb_pair_free(&own);
  return status;
}

qb_status qb_bound_evaluation_errors(const qb_pair *pair, const qb_domain *domain, qb_evaluation_errors *errors,
                                     qb_error *error) {
  const qb_graph *graphs[2] = {pair->original, pair->quantized};
  *errors = (qb_evaluation_errors){.applies = true};
  for (int which = 0; which < 2 && errors->applies; which++)
    QB_TRY(bound_one(graphs[which], which == 0 ? pair->rescaled_by : 0, domain, &errors->error[which], errors, error));
  return QB_OK;
}

double qb_evaluation_errors_at(const qb_evaluation_errors *errors, int64_t k) {
  double original = qb_bound_fault == QB_FAULT_ONE_EVALUATION ? 0 : errors->error[0][k];
  return qb_up_sum(original, errors->error[1][k]);
}

void qb_evaluation_errors_free(qb_evaluation_errors *errors) {
  if (errors == NULL)
    return;
  qb_free(errors->error[0]);
  qb_free(errors->error[1]);
  *errors = (qb_evaluation_errors){0};
}
