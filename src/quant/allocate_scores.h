/* Three answers to "what does it cost to give layer l only b bits?", each a table that adds up over layers:
 *
 *   certified    its share of the worst-case bound, from the weights alone (theory section 8, bound/attribution.h)
 *   activations  mean + std / sqrt(0.05) over samples of ||(W - Q_b(W)) x||_2, x the layer's input (theory section 5)
 *   measured     mean square error of the network's output with this layer alone at b bits
 *
 * From weights alone Q_b rounds to nearest. With samples and a scheme that uses them (gptq, adaround), Q_b is gptq on
 * the layer's float inputs for widths up to 4, one factorisation of their moments a layer. The grid is that of the
 * settings, mse in place of output. */
#ifndef QB_QUANT_ALLOCATE_SCORES_H
#define QB_QUANT_ALLOCATE_SCORES_H

#include "base/progress.h"
#include "bound/bound.h"
#include "graph/graph.h"

/* Rows are the layers of a graph in graph order. */
typedef struct qb_score_table {
  int layers, widths;
  const int *width; /* (widths) rising, borrowed */
  double *score;    /* (layers, widths), from qb_alloc */
} qb_score_table;

/* Zeros. QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_score_table_create(const qb_graph *graph, const int *width, int widths,
                                              qb_score_table *table, qb_error *error);
void qb_score_table_free(qb_score_table *table);

/* Fills the table relative to its largest entry. QB_ERROR_UNSUPPORTED when the network has no layerwise bound. */
QB_MUST_CHECK qb_status qb_score_certified(const qb_graph *graph, const qb_domain *domain,
                                           const qb_quantize_settings *settings, qb_score_table *table,
                                           qb_error *error);

/* What the tables from data share: samples, the float network's outputs on them, mean squares by layer and width. */
typedef struct qb_scorer qb_scorer;

/* Borrows `graph` (float) and `settings`, whose calibration gives the samples: the first `limit` of them. */
QB_MUST_CHECK qb_status qb_scorer_create(const qb_graph *graph, const qb_quantize_settings *settings, int64_t limit,
                                         const qb_progress *progress, qb_scorer **scorer, qb_error *error);
void qb_scorer_free(qb_scorer *scorer);

/* Samples in use. */
int64_t qb_scorer_samples(const qb_scorer *scorer);

/* Fills `table` with the scores and `power` (same size) with the mean over samples of ||(W - Q_b(W)) x||_2^2. From
 * some positions of convolution maps, drawn evenly. */
QB_MUST_CHECK qb_status qb_score_activations(qb_scorer *scorer, qb_score_table *table, qb_score_table *power,
                                             qb_error *error);

/* Fills `table`. Widths up to 4 (and the smallest) are measured, wider ones follow from the last measured one by the
 * ratio of `power`: where rounding is fine, the output error grows with the layer's. As many samples as fit in a fixed
 * number of multiply-accumulates, at least 16. */
QB_MUST_CHECK qb_status qb_score_measured(qb_scorer *scorer, const qb_score_table *power, qb_score_table *table,
                                          qb_error *error);

/* Mean square of the change of the first output over the samples when every layer has Q_b of its `bits` (one entry a
 * layer, 0: float). No layer makes up for earlier ones here, so a scheme's final error is smaller. Beyond `limit` it
 * ends early: the result is then above `limit`, and the mean square at least that. */
QB_MUST_CHECK qb_status qb_scorer_plan_error(qb_scorer *scorer, const int *bits, double limit, double *mean_square,
                                             qb_error *error);

#endif
