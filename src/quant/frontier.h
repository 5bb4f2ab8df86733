/* Activations of the float and the partly quantized network at one value after another, over all calibration samples.
 *
 * Layers are quantized in graph order, and each needs its inputs from both networks. Running both from the start for
 * every layer would cost as much as L/2 passes over the data; instead the activations at a cut of the graph (one value
 * through which everything flows: between residual blocks) are kept, and only what lies between that cut and the
 * wanted value runs again. The kept cut moves on with the layers. Kept activations are 16-bit codes with a scale per
 * sample and channel (error 2^-16 of the channel's largest). A cut that would take more memory than allowed is passed
 * over: then the next one's prefix is longer, the result the same but for those roundings. */
#ifndef QB_QUANT_FRONTIER_H
#define QB_QUANT_FRONTIER_H

#include "quant/samples.h"

typedef struct qb_frontier qb_frontier;

typedef struct qb_frontier_settings {
  int32_t batch;       /* samples per run */
  int32_t threads;     /* 0: all cores */
  size_t memory_bytes; /* of kept activations */
} qb_frontier_settings;

/* Borrows everything; `quantized` is a clone of `original` whose weights change between visits, its structure but for
 * weights and biases does not. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_frontier_create(const qb_graph *original, const qb_graph *quantized,
                                           const qb_samples *samples, const qb_frontier_settings *settings,
                                           qb_frontier **frontier, qb_error *error);
void qb_frontier_free(qb_frontier *frontier);

/* Tells that a layer of the quantized network has changed: until then both are one. */
void qb_frontier_changed(qb_frontier *frontier);

/* One batch of activations, (count, ...) from sample `first` on; x == xh as long as nothing has changed. */
typedef qb_status (*qb_frontier_visitor)(void *context, const float *x, const float *xh, int64_t first, int32_t count,
                                         qb_error *error);

/* Calls `visit` with the activations of `value` over all samples in order. Values are visited in graph order, and every
 * layer before `value` has its last weights. Errors of reading, of the executor, of `visit`. */
QB_MUST_CHECK qb_status qb_frontier_visit(qb_frontier *frontier, qb_value_id value, qb_frontier_visitor visit,
                                          void *context, qb_error *error);

/* Moves the kept cut on to the last one up to `value`, which qb_frontier_visit does too, and tells whether `value` is
 * the kept cut: then a visit reads memory, else it runs what lies between. Errors of reading and of the executor. */
QB_MUST_CHECK qb_status qb_frontier_prepare(qb_frontier *frontier, qb_value_id value, bool *is_kept, qb_error *error);

/* qb_frontier_visit of every `stride`-th batch only. */
QB_MUST_CHECK qb_status qb_frontier_visit_some(qb_frontier *frontier, qb_value_id value, int32_t stride,
                                               qb_frontier_visitor visit, void *context, qb_error *error);

/* Bytes kept now. */
size_t qb_frontier_bytes(const qb_frontier *frontier);

#endif
