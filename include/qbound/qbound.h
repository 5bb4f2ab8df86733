/* qbound: quantize a trained network and prove how far the result can be from the original.
 *
 * This is the only header that users and bindings need. It goes from the simple to the expert:
 *   1. status and error            every fallible call returns a qb_status and fills a qb_error
 *   2. numeric limits              the few constants that appear in settings
 *
 * Ownership: an object from a qb_*_load or qb_*_create call belongs to the caller and is released with the
 * qb_*_free of the same noun; free accepts NULL. Strings inside settings are borrowed for the call.
 * Threads: distinct objects may be used from distinct threads; one object from one thread at a time.
 * The library never prints and never exits.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QBOUND_QBOUND_H
#define QBOUND_QBOUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QB_MUST_CHECK __attribute__((warn_unused_result))
#define QB_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#define QB_API __attribute__((visibility("default")))
#else
#define QB_MUST_CHECK
#define QB_PRINTF(format_index, first_argument)
#define QB_API
#endif

/* ------------------------------------------------------------------------------------------- status and error */

typedef enum qb_status {
  QB_OK = 0,
  QB_ERROR_ARGUMENT,    /* a setting or argument is out of its documented range */
  QB_ERROR_IO,          /* a file could not be opened, read, written or renamed */
  QB_ERROR_FORMAT,      /* a file is truncated, malformed or inconsistent */
  QB_ERROR_UNSUPPORTED, /* valid, but qbound has no rule for it (operator, type, opset, rank) */
  QB_ERROR_SHAPE,       /* shapes do not fit each other */
  QB_ERROR_NUMERIC,     /* NaN or Inf in weights or data, or an unsafe floating-point environment */
  QB_ERROR_MEMORY,      /* an allocation failed or a size overflows */
  QB_ERROR_INTERRUPTED, /* the caller's progress callback asked to stop */
  QB_ERROR_ENGINE       /* the execution engine (oneDNN) reported a failure */
} qb_status;

/* A caller-owned error. `message` is complete enough to print alone: it names the file, the node or tensor, and what
 * to do. Every function that takes a qb_error accepts NULL. */
typedef struct qb_error {
  qb_status status;
  char message[1024];
} qb_error;

/* The name of a status in lower case ("unsupported"); never NULL. */
QB_API const char *qb_status_name(qb_status status);

/* "0.1.0" */
QB_API const char *qb_version(void);

/* ------------------------------------------------------------------------------------------------- limits */

#define QB_MIN_BITS 2
#define QB_MAX_BITS 16

/* ---------------------------------------------------------------------------------------------- quantizing */

typedef enum qb_scheme {
  QB_SCHEME_ROUND,   /* fixed point: the scale is a power of two */
  QB_SCHEME_UNIFORM, /* nearest code of a min-max or mse grid */
  QB_SCHEME_ADAROUND,
  QB_SCHEME_GPTQ,
  QB_SCHEME_STOCHASTIC
} qb_scheme;

typedef enum qb_granularity { QB_PER_TENSOR, QB_PER_CHANNEL } qb_granularity;

/* How weights become integers. Fill with qb_quantize_settings_default, then change fields. */
typedef struct qb_quantize_settings {
  int bits;                   /* 2..16, default 8 */
  qb_scheme scheme;           /* default QB_SCHEME_UNIFORM */
  qb_granularity granularity; /* default QB_PER_CHANNEL */
  bool affine;                /* a zero point per scale; default false: symmetric */
  uint64_t seed;              /* of randomised schemes, default 0 */
} qb_quantize_settings;

/* What quantizing did to one layer. */
typedef struct qb_quantize_layer {
  const char *node;    /* lives as long as the model */
  int bits;
  int64_t weights;     /* number of weights */
  double delta;        /* max |w' - w|, computed from the written weights */
  double mean_square;  /* mean of (w' - w)^2 */
} qb_quantize_layer;

typedef struct qb_quantize_info {
  int layer_count;
  qb_quantize_layer *layers; /* (layer_count), owned by the info */
  double delta;              /* max over layers */
} qb_quantize_info;

QB_API void qb_quantize_settings_default(qb_quantize_settings *settings);
QB_API void qb_quantize_info_free(qb_quantize_info *info);

#ifdef __cplusplus
}
#endif

#endif
