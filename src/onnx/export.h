/* Writing an edited graph back into its document: what the files of the exporter share.
 *
 * The document is imported once more. Node by node, the edited graph is compared with that fresh one. What did not
 * change is copied from the document, with the nodes and initializers that it needs; the rest is made from the graph
 * at the target opset. Constants that changed are written under their old names when nothing else needs the old
 * content. */
#ifndef QB_ONNX_EXPORT_H
#define QB_ONNX_EXPORT_H

#include "onnx/document.h"
#include "onnx/names.h"

/* An ONNX node of the document and the graph nodes that came from it. */
typedef struct qb_export_group {
  int32_t first_before, count_before; /* in the fresh graph */
  int32_t first_after, count_after;   /* in the edited graph */
  bool contiguous;                    /* those of the edited graph follow each other */
  bool copied;                        /* written as it is in the document, with other inputs at most */
  bool wanted;                        /* not in the graph, but a copied node needs its output */
} qb_export_group;

typedef enum qb_answer { QB_UNKNOWN, QB_PENDING, QB_YES, QB_NO } qb_answer;

/* A name of the document. */
typedef struct qb_export_symbol {
  int32_t producer; /* ONNX node, QB_NONE */
  Onnx__TensorProto *initializer;
  qb_answer available;        /* can be referred to in the written file with its old content */
  bool retained;              /* is referred to */
  Onnx__TensorProto *written; /* the new initializer of that name */
} qb_export_symbol;

typedef struct qb_export {
  const qb_onnx *document;
  const Onnx__GraphProto *proto;
  const qb_graph *graph;
  qb_graph before;
  const qb_onnx_write_settings *settings;
  qb_error *error;
  qb_arena arena; /* every message made here */
  bool out_of_memory;
  int64_t opset;  /* of the written file */
  qb_names names; /* of the document; numbers of `symbols` */
  qb_names taken; /* names in the written file */
  qb_export_symbol *symbols;
  qb_export_group *groups; /* (proto->n_node) */
  /* by value of the edited graph */
  bool *changed;           /* constants: not what the document holds */
  bool *stored_transposed; /* constants: the file holds (IN, OUT) where the graph has (OUT, IN) */
  bool *made;              /* constants: written anew */
  const char **written;    /* constants: the name to refer to */
  /* result */
  Onnx__NodeProto **nodes;
  size_t node_count, node_capacity;
  Onnx__TensorProto **tensors; /* new initializers */
  size_t tensor_count, tensor_capacity;
  qb_onnx_metadata_entry *bits; /* true ranges of odd widths */
  int32_t bits_count, bits_capacity;
} qb_export;

/* "file: node 'relu3' (Clip): ..." with the target opset. */
qb_status qb_export_fail(qb_export *x, const qb_node *node, const char *format, ...) QB_PRINTF(3, 4);

/* Zeroed memory of the export's arena. On failure NULL, and out_of_memory is set: callers of the builders below need
 * not look, the export fails at its end. */
void *qb_export_alloc(qb_export *x, size_t count, size_t size);

/* A name based on `base` that is not taken, and takes it; NULL when memory is short. */
const char *qb_export_name(qb_export *x, const char *base, const char *suffix);

/* Builders; NULL nodes are ignored. A NULL input name is an empty one. */
Onnx__NodeProto *qb_export_node(qb_export *x, const char *op_type, const char *name, const char *output);
void qb_export_input(qb_export *x, Onnx__NodeProto *node, const char *name);
void qb_export_int(qb_export *x, Onnx__NodeProto *node, const char *name, int64_t value);
void qb_export_ints(qb_export *x, Onnx__NodeProto *node, const char *name, const int64_t *values, size_t count);
void qb_export_float(qb_export *x, Onnx__NodeProto *node, const char *name, float value);

/* Appends an existing message to the result. */
void qb_export_push_node(qb_export *x, Onnx__NodeProto *node);

/* A new initializer that borrows `data`; returns its name. */
const char *qb_export_tensor(qb_export *x, const char *name, qb_dtype dtype, const qb_shape *shape, const void *data);

/* A new initializer "base_suffix" with a copy of the numbers, as int64 or float32. */
const char *qb_export_integers(qb_export *x, const char *base, const char *suffix, const int64_t *values, size_t count);
const char *qb_export_floats(qb_export *x, const char *base, const char *suffix, const qb_shape *shape,
                             const float *values);

/* True when the node means the same in both opsets and can be copied. */
bool qb_export_same_version(const Onnx__NodeProto *node, int64_t from, int64_t to);

/* Makes ONNX nodes from a graph node at the target opset. */
QB_MUST_CHECK qb_status qb_export_make_node(qb_export *x, const qb_node *node);

/* The smallest opset that the graph's constants and pass-made nodes need, and at least the document's. */
QB_MUST_CHECK qb_status qb_export_choose_opset(qb_export *x);

/* Writes the constants marked as made. */
QB_MUST_CHECK qb_status qb_export_make_constant(qb_export *x, qb_value_id id, const char *base);

/* Puts the result's nodes into topological order, stable otherwise. */
QB_MUST_CHECK qb_status qb_export_sort(qb_export *x);

#endif
