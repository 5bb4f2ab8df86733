/* The bits of every layer: from a text that people edit, from overrides on the command line, back to text.
 *
 *   # anything                 a comment
 *   conv1 8                    node name, then bits 2..16
 *   # layer1.0.conv1 8         a layer's line behind '#': that layer stays float (bits are optional here)
 *   fc float                   the same; also 'fc #' and 'fc 0'
 *
 * Layers without a line keep the bits they had. Names may hold spaces, the last word is the bits. */
#ifndef QB_QUANT_LAYER_PLAN_H
#define QB_QUANT_LAYER_PLAN_H

#include <stdio.h>

#include "graph/graph.h"

/* One entry per layer of a graph, in graph order; usable as `plan` of qb_quantize_settings. */
typedef struct qb_layer_plan {
  int count;
  qb_layer_bits *layers; /* (count), from qb_alloc; names borrowed from the graph */
} qb_layer_plan;

/* Every layer of `graph` with `bits` (0: float). QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_layer_plan_create(const qb_graph *graph, int bits, qb_layer_plan *plan, qb_error *error);
void qb_layer_plan_free(qb_layer_plan *plan);

/* Sets the bits of the layer `node`. QB_ERROR_ARGUMENT when there is none: the message names the nearest. */
QB_MUST_CHECK qb_status qb_layer_plan_set(qb_layer_plan *plan, const char *node, int bits, qb_error *error);

/* Applies a text. QB_ERROR_FORMAT gives file and line and, for an unknown layer, the nearest name; a layer on two
 * lines is an error. `path` is for messages. */
QB_MUST_CHECK qb_status qb_layer_plan_parse(qb_layer_plan *plan, const char *text, size_t length, const char *path,
                                            qb_error *error);

/* qb_layer_plan_parse of a file of at most 1 MiB; also QB_ERROR_IO, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_layer_plan_read(qb_layer_plan *plan, const char *path, qb_error *error);

/* Applies `REGEX=BITS`: a POSIX extended expression, searched in the node names; BITS is 2..16, 0 or float.
 * QB_ERROR_ARGUMENT when it does not parse or matches no layer. */
QB_MUST_CHECK qb_status qb_layer_plan_override(qb_layer_plan *plan, const char *assignment, qb_error *error);

/* Writes the text that qb_layer_plan_parse reads back; a float layer becomes `# name`. QB_ERROR_IO. */
QB_MUST_CHECK qb_status qb_layer_plan_write(const qb_layer_plan *plan, FILE *file, const char *path, qb_error *error);

#endif
