/* One progress over all layers of a calibrated network: shares of the estimated work, so that the time left is that of
 * the whole call. The estimate counts what the layers' sizes tell: runs of both networks, second moments, the solver.
 */
#ifndef QB_QUANT_LAYER_PROGRESS_H
#define QB_QUANT_LAYER_PROGRESS_H

#include "graph/graph.h"
#include "quant/quant.h"

typedef struct qb_layer_progress {
  const qb_progress *outer;
  double done, layer, total; /* multiply-adds: of finished layers, of the current one, of all */
  double gathering;          /* share of a layer's work until its solver starts */
  int64_t reported;          /* what is told never falls */
} qb_layer_progress;

/* Multiply-adds to quantize one layer with these settings. */
double qb_layer_work(const qb_graph *graph, const qb_linear *linear, const qb_quantize_settings *settings);

/* `total` is the sum of all layers' work; borrows `outer`, which may be NULL. */
void qb_layer_progress_create(const qb_progress *outer, double total, const qb_quantize_settings *settings,
                              qb_layer_progress *progress);

/* The layer before is finished, one of `work` begins; 0 at the end. False: stop. */
bool qb_layer_progress_next(qb_layer_progress *progress, double work);

/* What the steps of the current layer report to; borrows `progress`. */
qb_progress qb_layer_progress_inner(qb_layer_progress *progress);

#endif
