/* A new ONNX file for a multilayer perceptron, the one kind of network that qbound makes itself. */
#ifndef QB_ONNX_CREATE_H
#define QB_ONNX_CREATE_H

#include "onnx/onnx.h"

/* One affine layer; the arrays are borrowed for the call and hold finite little-endian float32. */
typedef struct qb_onnx_dense {
  int64_t inputs, outputs; /* at least 1; `inputs` is the `outputs` of the layer before */
  const float *weight;     /* (OUT, IN) */
  const float *bias;       /* (OUT) */
} qb_onnx_dense;

/* Writes `count` layers with ReLU between them at opset 13: Gemm with transB and Relu nodes, `input` (N, IN) to
 * `output` (N, OUT), N free. `path` is for messages. QB_ERROR_ARGUMENT (no layers, widths that do not meet),
 * QB_ERROR_IO, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_onnx_create_mlp(const qb_onnx_dense *layers, int32_t count,
                                           const qb_onnx_metadata_entry *metadata, int32_t metadata_count, FILE *file,
                                           const char *path, qb_error *error);

#endif
