/* qbound: choosing a width for every layer so that a promise is kept. Part of qbound.h, which includes it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QBOUND_PROMISE_H
#define QBOUND_PROMISE_H

#include <qbound/qbound.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What `qb_quantize_auto` promises about the result. Exactly one. */
typedef enum qb_promise {
  QB_PROMISE_AVERAGE_BITS,   /* mean bits of a weight at most `target` */
  QB_PROMISE_SIZE,           /* the written file takes at most `target` bytes */
  QB_PROMISE_FLIP_RATE,      /* with `confidence` at most a share `target` of inputs changes class; needs `verify` */
  QB_PROMISE_MAX_ERROR,      /* no output moves by more than `target` on the verification samples; needs `verify` */
  QB_PROMISE_CERTIFIED_ERROR /* no output moves by more than `target` over the whole domain: proved */
} qb_promise;

/* What a choice of bits minimises, summed over layers. */
typedef enum qb_allocation_rule {
  QB_RULE_UNIFORM,     /* the same bits everywhere */
  QB_RULE_CERTIFIED,   /* the layers' shares of the worst-case bound; needs no data */
  QB_RULE_ACTIVATIONS, /* mean + std / sqrt(0.05) of what rounding does to the layers' outputs; calibration samples */
  QB_RULE_MEASURED     /* the network's output error with one layer rounded at a time; calibration samples */
} qb_allocation_rule;

/* Fill with qb_allocate_settings_default, then set the promise and its target. */
typedef struct qb_allocate_settings {
  qb_promise promise;     /* default QB_PROMISE_AVERAGE_BITS */
  double target;          /* > 0; a flip rate lies in (0, 1); no default */
  double confidence;      /* of statements about samples, in (0, 1), default 0.99 */
  const int *widths;      /* (width_count) rising, each 2..8; default NULL: 2 to 8 */
  int width_count;        /* at most 7 */
  const qb_data *verify;  /* samples that no part of the choice has seen; default NULL. Refused (QB_ERROR_ARGUMENT)
                           * when they hold a calibration sample, or one sample twice */
  qb_domain_kind domain;  /* of proofs and of QB_RULE_CERTIFIED, as in qb_certify_settings */
  const char *preprocess; /* default NULL: then QB_RULE_CERTIFIED takes [-1, 1] */
  double lo, hi;
  bool compat;     /* sizes as qb_save_settings.compat makes them; default false */
  int64_t samples; /* calibration samples that scores are taken on, at most; default 256 */
} qb_allocate_settings;

typedef struct qb_allocated_layer {
  const char *node; /* lives as long as the quantized model */
  int bits;         /* 0: the caller's plan keeps it float */
  bool fixed;       /* by the caller's plan */
  int64_t weights;
  double share; /* of the plan's total score; NAN where the rule has none */
} qb_allocated_layer;

#define QB_ALLOCATION_WHY 200

/* One way to choose, tried at one budget. */
typedef struct qb_allocation_plan {
  qb_allocation_rule rule;
  bool tried;
  double average_bits;         /* of the weights of layers that are not float */
  double error;                /* mean square error of the output on calibration samples, every layer rounded by
                                * itself (docs/quantizers.md); NAN without */
  bool complete;               /* else the run ended when the error exceeded another plan's: it is at least `error` */
  char why[QB_ALLOCATION_WHY]; /* when it was not tried */
} qb_allocation_plan;

/* One network that was held against the promise. */
typedef struct qb_allocation_test {
  double average_bits;
  int64_t flips;     /* on the verification samples; -1 without */
  double flip_upper; /* Clopper-Pearson limit of the flip rate at the confidence; NAN without */
  double error_max;  /* largest change of an output on the verification samples; NAN without */
  double certified;  /* proved bound; NAN unless promised */
  bool passed;
} qb_allocation_test;

enum { QB_ALLOCATION_PLANS = 4, QB_ALLOCATION_TESTS = 32 };

/* The bits that were chosen and whether the promise is kept. Release with qb_allocation_free. */
typedef struct qb_allocation {
  qb_promise promise;
  double target, confidence;
  bool kept;
  double reached;    /* the promised quantity of the result: bits, bytes, upper limit of the rate, error */
  char message[512]; /* a sentence: what holds, or how far it is and what would help */
  qb_allocation_rule rule;
  int layer_count;
  qb_allocated_layer *layers; /* (layer_count) in graph order */
  double average_bits;
  qb_allocation_plan plans[QB_ALLOCATION_PLANS]; /* the rule was chosen among these, by `error` */
  /* Networks held against the promise, in an order fixed before the verification samples were read (most bits first).
   * Each is tested at the full confidence, the first failure ends the sequence, the last that passed is the result
   * (fixed-sequence testing: the confidence holds for the sequence). */
  int test_count;
  qb_allocation_test tests[QB_ALLOCATION_TESTS];
  int64_t verified;      /* verification samples; 0 without */
  int64_t flips_allowed; /* most flips among them that keep the promise, -1 when not even 0 would do */
  double exceed_upper;   /* QB_PROMISE_MAX_ERROR: with the confidence, at most this share of inputs exceeds `target`;
                          * NAN otherwise */
  double plan_seconds;   /* scores and choice, without the final quantization and the tests */
  double seconds;
} qb_allocation;

QB_API void qb_allocate_settings_default(qb_allocate_settings *settings);
QB_API void qb_allocation_free(qb_allocation *allocation);

/* "average bits", "size", "flip rate", "max error", "certified error"; never NULL. */
QB_API const char *qb_promise_name(qb_promise promise);

/* "uniform", "certified", "activations", "measured"; never NULL. */
QB_API const char *qb_allocation_rule_name(qb_allocation_rule rule);

/* Chooses bits layer by layer and quantizes with them as qb_quantize does. Layers that settings->plan names keep those
 * bits; settings->bits is not used. A promise that cannot be kept is no error: allocation->kept is false, the best
 * network found is returned, and the message says how far it is. Calibration samples, where the settings have some,
 * open two more rules of choice; several plans are compared on them alone. QB_ERROR_ARGUMENT also for a budget below
 * the smallest widths; else as qb_quantize. `info`, `progress` may be NULL. */
QB_API QB_MUST_CHECK qb_status qb_quantize_auto(const qb_model *model, const qb_quantize_settings *settings,
                                                const qb_allocate_settings *how, const qb_progress *progress,
                                                qb_model **quantized, qb_quantize_info *info, qb_allocation *allocation,
                                                qb_error *error);

#ifdef __cplusplus
}
#endif

#endif
