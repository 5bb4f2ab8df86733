/* What run.c asks of an engine, and what engines share. Private to run/. */
#ifndef QB_RUN_ENGINE_H
#define QB_RUN_ENGINE_H

#include "run/run.h"

#ifdef __FAST_MATH__
#error "qbound needs IEEE arithmetic: build without -ffast-math"
#endif

typedef struct qb_engine_table {
  qb_status (*create)(const qb_graph *graph, const qb_run_settings *settings, void **engine, qb_error *error);
  void (*destroy)(void *engine); /* accepts NULL */
  qb_status (*forward)(void *engine, const float *input, int32_t count, qb_error *error);
  /* Each may be NULL in the table, and returns NULL for a value that was not kept. */
  const float *(*value)(void *engine, qb_value_id id);
  const double *(*value_double)(void *engine, qb_value_id id);
  const double *(*radius)(void *engine, qb_value_id id);
} qb_engine_table;

extern const qb_engine_table qb_reference_engine;
extern const qb_engine_table qb_onednn_engine;
extern const qb_engine_table qb_exact_engine;

/* qb_run_difference on the states of two exact engines. */
void qb_exact_difference(const void *original, qb_value_id x, const void *other, qb_value_id y, double *lo, double *hi);

/* True when the caller may read `id` after a call: an output or a kept value. */
bool qb_run_is_kept(const qb_graph *graph, const qb_run_settings *settings, qb_value_id id);

/* The shape of a value when `count` samples run: dims[0] * count for activations, unchanged for constants. */
qb_shape qb_run_shape(const qb_value *value, int32_t count);

static inline const qb_value *qb_run_input(const qb_graph *graph, const qb_node *node, int32_t slot) {
  return slot < node->input_count && node->inputs[slot] != QB_NONE ? &graph->values[node->inputs[slot]] : NULL;
}

/* Row-major element strides of `shape` seen under `result` by ONNX broadcasting: 0 along every repeated axis. */
void qb_run_broadcast_strides(const qb_shape *shape, const qb_shape *result, size_t strides[QB_MAX_RANK]);

/* The taps [*begin, *end) of a pooling window at output position `o` along `axis` that fall inside the input. */
void qb_run_window_taps(const qb_window *window, int axis, int64_t input_length, int64_t o, int32_t *begin,
                        int32_t *end);

/* The divisor of an AveragePool at output (oh, ow): taps inside the padded image or inside the image. */
int64_t qb_run_average_divisor(const qb_pool_attributes *pool, const qb_shape *x, int64_t oh, int64_t ow);

#endif
