/* The lower side of a certificate: inputs of the domain at which two networks differ much, and inputs at which they
 * decide differently.
 *
 * The search is a heuristic on the fast engine. What it reports is proved: the networks are evaluated at the input
 * found by plain loops in double that carry their rounding radius, or exactly where those radii are too wide (run/),
 * and the radii are taken off. */
#ifndef QB_SEARCH_SEARCH_H
#define QB_SEARCH_SEARCH_H

#include "base/progress.h"
#include "run/run.h"

typedef struct qb_search_settings {
  double macs;       /* multiply-accumulates that may be spent on the fast engine, both networks; default 1e11 */
  int32_t rounds;    /* batches at most, default 200 */
  int32_t batch;     /* inputs per run, default 32; less where the budget asks for it */
  int32_t threads;   /* 0 (default): all cores */
  int64_t output;    /* the one output element that counts; -1 (default): the largest difference of any */
  uint64_t seed;     /* default 0: the same seed finds the same inputs */
  const float *data; /* (data_count, elements) inputs to start from, default NULL; moved into the box */
  int64_t data_count;
  double timeout_seconds; /* begins no further step or run after so long; what was found is proved all the same. 0
                             (default): never */
  double proof_seconds; /* gives up an exact proof once so much time is over since the call began; 0 (default): never */
} qb_search_settings;

typedef struct qb_search_result {
  double lower;  /* proved: sup |R - R'| over the box is at least this */
  float *input;  /* (elements) where; NULL when lower is 0 */
  int64_t found; /* the output element that differs so much */
  bool flips;    /* proved: there is an input at which the two networks have different unique largest outputs */
  float *flip;   /* (elements) that input, NULL without one */
  int64_t top, other_top;
  int64_t inputs_tried;
  bool late; /* something was found that there was no time to prove */
} qb_search_result;

void qb_search_settings_default(qb_search_settings *settings);

/* Searches the box lo <= x <= hi (elements of the input each). Both graphs have one input and outputs of one size; the
 * first output counts. QB_ERROR_ARGUMENT, QB_ERROR_SHAPE, QB_ERROR_MEMORY, QB_ERROR_INTERRUPTED, and what the
 * executors return. Release with qb_search_result_free in every case. */
QB_MUST_CHECK qb_status qb_search_lower(const qb_graph *original, const qb_graph *quantized, const float *lo,
                                        const float *hi, const qb_search_settings *settings,
                                        const qb_progress *progress, qb_search_result *result, qb_error *error);
void qb_search_result_free(qb_search_result *result);

#endif
