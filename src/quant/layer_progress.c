/* Shares of the work over all layers; see layer_progress.h. */
#include "quant/layer_progress.h"

#include <math.h>
#include <string.h>

#include "base/progress.h"
#include "quant/adaround.h"

/* Passes of a solver over a row's matrix, its grid search included; columns of moments that are enough. */
static const double passes = 20, enough = 16384;

double qb_layer_work(const qb_graph *graph, const qb_linear *linear, const qb_quantize_settings *settings) {
  double length = (double)linear->row_length, outputs = (double)linear->out_channels, groups = (double)linear->group;
  double weights = length * outputs;
  const qb_calibration *source = &settings->calibration;
  if (source->count == 0)
    return weights;
  double samples = (double)(source->samples > 0 ? source->samples : source->count);
  double positions = (double)qb_graph_node_macs(graph, linear->node) / fmax(1, weights);
  double columns = fmin(samples * positions, fmax(enough, 3 * length));
  return 2 * samples * positions * weights + groups * length * length * (columns / 2 + length) +
         passes * weights * length;
}

void qb_layer_progress_create(const qb_progress *outer, double total, const qb_quantize_settings *settings,
                              qb_layer_progress *progress) {
  bool slow = settings->scheme == QB_SCHEME_ADAROUND && settings->solver == QB_SOLVER_GRADIENT;
  *progress = (qb_layer_progress){.outer = outer, .total = total, .gathering = slow ? 0.02 : 0.6};
}

static bool report(qb_layer_progress *p, double at) {
  int64_t share = p->total > 0 ? (int64_t)(QB_PROGRESS_SHARES * fmin(1, at / p->total)) : 0;
  p->reported = share > p->reported ? share : p->reported;
  return qb_progress_report(p->outer, "quantizing", p->reported, QB_PROGRESS_SHARES);
}

bool qb_layer_progress_next(qb_layer_progress *progress, double work) {
  progress->done += progress->layer;
  progress->layer = work;
  return report(progress, progress->done);
}

static bool report_step(void *context, const char *what, int64_t done, int64_t total) {
  qb_layer_progress *p = context;
  double part = total > 0 ? (double)done / (double)total : 0;
  bool solving = strcmp(what, QB_GRADIENT_STAGE) == 0;
  return report(p, p->done + p->layer * (solving ? p->gathering + (1 - p->gathering) * part : p->gathering * part));
}

qb_progress qb_layer_progress_inner(qb_layer_progress *progress) {
  return (qb_progress){.function = report_step, .context = progress};
}
