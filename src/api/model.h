/* What a qb_model is made of. The files in api/ hold the parts of the public calls that would hide the story that
 * qbound.c tells. */
#ifndef QB_API_MODEL_H
#define QB_API_MODEL_H

#include "api/calibration_source.h"
#include "graph/graph.h"
#include "onnx/onnx.h"

struct qb_model {
  char *path;
  const qb_model *source; /* the model it was quantized from, which owns the document; NULL when it was read */
  qb_onnx *document;      /* NULL when quantized */
  qb_graph read;          /* the network as in the file; empty when quantized */
  qb_graph prepared;      /* when quantized: the float network, equalized, biases absorbed; else empty */
  bool exact;             /* when quantized: `prepared` is the source's network in exact arithmetic */
  qb_graph graph;         /* BatchNorm folded, and quantized weights when it was quantized */
  qb_node_id *layers;     /* (layer_count) the nodes of `graph` with constant weights, in order */
  int layer_count;
  qb_calibration_trace calibration;  /* when quantized: the samples that were used */
  qb_calibration_trace verification; /* when its bits were chosen: the samples that tested the promise */
  qb_quantize_settings settings;     /* when quantized; without its plan, whose names belong to the caller */
};

/* A cleared model with a copy of `path`. */
QB_MUST_CHECK qb_status qb_model_create(const char *path, qb_model **model, qb_error *error);

/* Fills `layers` from `graph`. */
QB_MUST_CHECK qb_status qb_model_list_layers(qb_model *model, qb_error *error);

/* Bytes of the file that qb_model_save would write. */
QB_MUST_CHECK qb_status qb_model_file_size(const qb_model *model, bool compat, int64_t *size_bytes, qb_error *error);

/* Replaces the OpenMP thread count by `threads` (0: leave) and returns the old one for qb_threads_end. */
int qb_threads_begin(int threads);
void qb_threads_end(int old);

#endif
