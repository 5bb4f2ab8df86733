/* Choosing a layer's codes from calibration samples: statistics, grids, solver, guard, in one sweep over the layers.
 *
 * For every layer, in graph order: the inputs in the float network and in the network whose earlier layers are rounded
 * already (frontier.h), their second moments (gram.h), the rounding problem of each group (rounding_problem.h), a
 * solver (gptq.h, adaround.h), and nearest rounding again wherever the solver's result is worse on the same statistics.
 */
#ifndef QB_QUANT_CALIBRATE_H
#define QB_QUANT_CALIBRATE_H

#include "base/progress.h"
#include "quant/gram.h"
#include "quant/layer.h"
#include "quant/samples.h"

typedef struct qb_calibrator qb_calibrator;

/* Clones `graph`, as it is now, as the float network, and follows `graph` itself while its layers are rounded. Borrows
 * everything. QB_ERROR_ARGUMENT when the graph has several inputs, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_calibrator_create(const qb_graph *graph, const qb_quantize_settings *settings,
                                             qb_calibrator **calibrator, qb_error *error);
void qb_calibrator_free(qb_calibrator *calibrator);

/* The float network. */
const qb_graph *qb_calibrator_original(const qb_calibrator *calibrator);

/* Chooses codes and grids of the next layer; `codes` arrive with their direct choice (nearest codes) and keep it where
 * the layer is not supported. Fills the calibration fields of `info`. `gram` receives the layer's means for bias
 * correction when the settings ask for it and the layer allows it, else it is cleared; release it with qb_gram_free.
 * Errors of reading, running and memory, QB_ERROR_NUMERIC. */
QB_MUST_CHECK qb_status qb_calibrate_layer(qb_calibrator *calibrator, const qb_linear *linear, const float *weights,
                                           qb_layer_codes *codes, qb_gram *gram, qb_quantize_layer *info,
                                           const qb_progress *progress, qb_error *error);

/* The same from statistics that are complete already, with the inputs of the float network: `gram` has H, and R = 0.
 * For `count` sets of codes, of different grids on the same cut, which share the factor of H. */
QB_MUST_CHECK qb_status qb_calibrate_gram(qb_calibrator *calibrator, const qb_gram *gram, const float *weights,
                                          qb_layer_codes *codes, int count, qb_error *error);

/* True when qb_calibrate_layer has a rule for the layer and room for its statistics. */
bool qb_calibrate_supports(const qb_graph *graph, const qb_linear *linear);

/* Tells that the layer's weights in `graph` have changed. */
void qb_calibrator_changed(qb_calibrator *calibrator);

/* Guard over the whole network: mean square error of the first output of `a` and `b` against the float network's, on
 * at most `limit` calibration samples. */
QB_MUST_CHECK qb_status qb_guard_network(const qb_calibrator *calibrator, const qb_graph *a, const qb_graph *b,
                                         int64_t limit, double errors[2], qb_error *error);

/* The same for any samples and any `original` network: its own interface is that of `a` and `b`. */
QB_MUST_CHECK qb_status qb_guard_compare(const qb_graph *original, const qb_samples *samples, const qb_graph *a,
                                         const qb_graph *b, int64_t limit, double errors[2], qb_error *error);

#endif
