/* ONNX files: read, turned into a graph, written. Nothing else in qbound knows protobuf.
 *
 * A qb_onnx is the document exactly as it was read: whatever qbound does not touch (metadata, names, order, unknown
 * fields) survives a round trip. The graph made from it borrows the document's weights, so the document outlives it. */
#ifndef QB_ONNX_ONNX_H
#define QB_ONNX_ONNX_H

#include <stdio.h>

#include "graph/graph.h"

typedef struct qb_onnx qb_onnx;

/* Reads `.onnx` or `.onnx.gz` with external data resolved relative to the file's folder (never outside it).
 * QB_ERROR_IO, QB_ERROR_FORMAT (truncated, not protobuf, no graph, bad external data), QB_ERROR_UNSUPPORTED (opset
 * outside 7..25), QB_ERROR_MEMORY. Free with qb_onnx_free. */
QB_MUST_CHECK qb_status qb_onnx_read(const char *path, qb_onnx **document, qb_error *error);

void qb_onnx_free(qb_onnx *document);

/* Version of the default operator set, 7..25. */
int64_t qb_onnx_opset(const qb_onnx *document);

/* metadata_props: the value of `key`, or NULL. */
const char *qb_onnx_metadata(const qb_onnx *document, const char *key);

/* A node that has no rule; strings live as long as the document. */
typedef struct qb_onnx_unsupported {
  const char *node, *op; /* never NULL */
  int64_t opset;
  char why[256]; /* what is missing and what to do */
} qb_onnx_unsupported;

/* Builds the graph: constants folded, weights canonical, attributes normalised, initial shapes at batch one. Dead
 * nodes and unused initializers are ignored; Relu or Clip followed by Min with constants is one Clip; Gemm with alpha
 * or beta other than one becomes Gemm, Mul, Add. Fails at the first node without a rule with QB_ERROR_UNSUPPORTED
 * naming node, op, opset and remedy; QB_ERROR_FORMAT, QB_ERROR_SHAPE, QB_ERROR_NUMERIC (NaN weights),
 * QB_ERROR_MEMORY. Free with qb_graph_free; after a failure there is nothing to free. */
QB_MUST_CHECK qb_status qb_onnx_to_graph(const qb_onnx *document, qb_graph *graph, qb_error *error);

/* Lists every node without a rule into `list` (capacity entries) and their number into *count, for `inspect`. */
QB_MUST_CHECK qb_status qb_onnx_list_unsupported(const qb_onnx *document, qb_onnx_unsupported *list, int32_t capacity,
                                                 int32_t *count, qb_error *error);

/* A layer with constant weights of which only the weights are known: it comes after a node without a rule. Strings and
 * data live as long as the document or the graph they came with. */
typedef struct qb_onnx_orphan {
  const char *node, *op; /* never NULL */
  qb_shape weight_shape; /* as stored in the file */
} qb_onnx_orphan;

/* The part of the network that does not depend on nodes without a rule, for `inspect`: a graph without outputs, and the
 * layers behind the gap in `orphans` (capacity entries, their number into *count). */
QB_MUST_CHECK qb_status qb_onnx_to_partial_graph(const qb_onnx *document, qb_graph *graph, qb_onnx_orphan *orphans,
                                                 int32_t capacity, int32_t *count, qb_error *error);

/* Writes the document unchanged; a read-write-read is lossless. Streams: needs no second copy of the weights. External
 * data is written into the file (QB_ERROR_UNSUPPORTED from 2 GB on). */
QB_MUST_CHECK qb_status qb_onnx_write(const qb_onnx *document, FILE *file, const char *path, qb_error *error);

typedef struct qb_onnx_metadata_entry {
  const char *key, *value;
} qb_onnx_metadata_entry;

typedef struct qb_onnx_write_settings {
  bool compat; /* int8 carriers for 2 to 8 bits, so that no more than opset 13 is needed (a newer document keeps its
                  own); wider weights are an error. Default false */
  const qb_onnx_metadata_entry *metadata; /* added to or replacing metadata_props */
  int32_t metadata_count;
} qb_onnx_write_settings;

typedef struct qb_onnx_write_info {
  int64_t opset;      /* of the written file */
  int64_t size_bytes; /* of the written file */
} qb_onnx_write_info;

/* Writes `graph`, which came from `document` and was changed by passes: nodes that passes removed are left out,
 * changed inputs, weights and biases are written, weights with `codes` become packed integers with a
 * DequantizeLinear; untouched parts are copied, and what no output needs any more is dropped. Widths that have no type
 * of their own lie in the next carrier, with metadata `qbound.bits.<tensor>`. Nodes move to a newer opset only when a
 * carrier type needs it. Weights of 2 bits need opset 25, 3 and 4 bits 21, 5 to 8 bits 13 (10 per tensor), more 21.
 * QB_ERROR_UNSUPPORTED names an operator that cannot be converted to that opset, or a result of 2 GB and more;
 * QB_ERROR_NUMERIC a weight whose codes do not give its values, or do not fit their bits; QB_ERROR_IO. */
QB_MUST_CHECK qb_status qb_onnx_write_graph(const qb_onnx *document, const qb_graph *graph,
                                            const qb_onnx_write_settings *settings, FILE *file, const char *path,
                                            qb_onnx_write_info *info, qb_error *error);

#endif
