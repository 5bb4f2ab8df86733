/* Running a graph on inputs: one interface, three engines.
 *
 *   QB_ENGINE_REFERENCE  plain loops in double, the definition of every operator; can carry a rigorous rounding radius
 *   QB_ENGINE_ONEDNN     float32 on oneDNN, fast; onednn.c is the only file that sees it
 *   QB_ENGINE_EXACT      real arithmetic to 40 digits and more behind the point, one sample at a time, with a radius;
 *                        about a hundred times as long as float32
 *
 * A qb_run is a graph compiled for one batch size. It borrows the graph, which must outlive it unchanged. */
#ifndef QB_RUN_RUN_H
#define QB_RUN_RUN_H

#include "graph/graph.h"

typedef enum qb_engine { QB_ENGINE_ONEDNN, QB_ENGINE_REFERENCE, QB_ENGINE_EXACT } qb_engine;

typedef struct qb_run_settings {
  qb_engine engine;        /* default QB_ENGINE_ONEDNN */
  int32_t batch;           /* largest number of samples per call, default 1 */
  int32_t threads;         /* 0 (default): all cores */
  bool radius;             /* reference engine: also compute rounding radii; the exact one always does. Default false */
  bool radius_float32;     /* with `radius`: the radii also cover every float32 evaluation, see qb_run_radius */
  const qb_value_id *keep; /* (keep_count) values that stay readable after a call; the outputs always do */
  int32_t keep_count;
  double deadline; /* exact engine: of qb_clock_seconds, 0 (default): none. A call that sees it pass gives up between
                      two nodes with QB_ERROR_INTERRUPTED */
} qb_run_settings;

typedef struct qb_run qb_run;

void qb_run_settings_default(qb_run_settings *settings);

/* Compiles `graph` (one input). QB_ERROR_ARGUMENT (settings), QB_ERROR_UNSUPPORTED (weights that are not
 * constants, a node of constants only, a pooling window that sees only padding), QB_ERROR_NUMERIC (flush-to-zero
 * is on or rounding is not to nearest), QB_ERROR_MEMORY, QB_ERROR_ENGINE. */
QB_MUST_CHECK qb_status qb_run_create(const qb_graph *graph, const qb_run_settings *settings, qb_run **run,
                                      qb_error *error);
void qb_run_free(qb_run *run);

/* Runs `count` samples (1..batch), contiguous float32 of the graph's input shape each. */
QB_MUST_CHECK qb_status qb_run_forward(qb_run *run, const float *input, int32_t count, qb_error *error);

/* A kept value or output of the last call in plain row-major order, (count, ...) with dims[0] of the shape multiplied
 * by count; NULL when the value was not kept. Valid until the next call. The float form is not available (NULL) from
 * the other engines and the double form not from oneDNN. */
const float *qb_run_value(qb_run *run, qb_value_id id);
const double *qb_run_value_double(qb_run *run, qb_value_id id);

/* Reference engine with `radius`, and exact engine: per element, a rigorous bound on |computed - exact real arithmetic|
 * where weights and inputs are the exact reals that the float32 numbers denote. Infinity where nothing can be said
 * (overflow, a division by something that may be zero). With `radius_float32` the bound also holds for the result of
 * any evaluation in float32 with gradual underflow: every summation order, fused or not, averages times a rounded 1/n,
 * libm functions within 4 ulp. Derivation: radius.h. */
const double *qb_run_radius(qb_run *run, qb_value_id id);

/* Encloses y - x of the last calls of two exact engines, x a kept value or output of `a`, y one of `b` with as many
 * elements: lo <= y - x <= hi, nearest doubles or nearly so, infinite where nothing is known. The difference is taken
 * before anything is rounded to double. */
void qb_run_difference(qb_run *a, qb_value_id x, qb_run *b, qb_value_id y, double *lo, double *hi);

#endif
