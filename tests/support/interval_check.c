/* Values against intervals; see interval_check.h. */
#include "support/interval_check.h"

#include <math.h>
#include <stdio.h>

static void check_range(interval_check *check, qb_value_id v, const char *what, double value, double radius, double lo,
                        double hi) {
  if (check->broken || (value - radius <= hi && value + radius >= lo))
    return;
  const qb_graph *graph = check->pair->quantized;
  qb_node_id producer = graph->values[v].producer;
  check->broken = true;
  snprintf(check->what, sizeof check->what, "%s (%s): %s %.17g +- %.3g is outside [%.17g, %.17g]",
           graph->values[v].name, producer == QB_NONE ? "input" : qb_op_name(graph->nodes[producer].op), what, value,
           radius, lo, hi);
}

static void check_value(interval_check *check, const error_search *search, qb_value_id v, int32_t sample) {
  const qb_box_state *state = &check->box->states[v];
  qb_value_id o = check->pair->value[v];
  qb_node_id producer = check->pair->quantized->values[v].producer;
  if (state->count == 0 || o == QB_NONE || producer == QB_NONE ||
      check->pair->quantized->nodes[producer].op == QB_OP_QUANTIZE_LINEAR) /* codes there, real units in the state */
    return;
  const double *y = qb_run_value_double(search->original, o), *y_q = qb_run_value_double(search->quantized, v);
  const double *r = qb_run_radius(search->original, o), *r_q = qb_run_radius(search->quantized, v);
  for (int64_t i = 0; y != NULL && y_q != NULL && i < state->count; i++) {
    int64_t k = sample * state->count + i;
    double slack = 1e-15 * (fabs(y[k]) + fabs(y_q[k])); /* of the comparison itself */
    const qb_box_track *t = state->track;
    check_range(check, v, "original", y[k], r[k] + slack, t[0].lo[i], t[0].hi[i]);
    check_range(check, v, "quantized", y_q[k], r_q[k] + slack, t[1].lo[i], t[1].hi[i]);
    check_range(check, v, "difference", y_q[k] - y[k], r[k] + r_q[k] + slack, t[2].lo[i], t[2].hi[i]);
  }
}

void interval_check_sample(interval_check *check, const error_search *search, int32_t sample) {
  for (qb_value_id v = 0; v < check->pair->quantized->value_count; v++)
    check_value(check, search, v, sample);
}
