/* Operators and their attributes, already normalised by the importer: pads are explicit, axes are non-negative,
 * optional inputs have become attributes. */
#ifndef QB_GRAPH_OP_H
#define QB_GRAPH_OP_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/shape.h"

typedef enum qb_op {
#define QB_OP(ID, NAME, FAMILY) QB_OP_##ID,
#include "graph/op_list.h"
  QB_OP_COUNT
} qb_op;

/* "Conv"; the ONNX name. */
const char *qb_op_name(qb_op op);

/* The operator of an ONNX name; QB_OP_COUNT when it is not supported. */
qb_op qb_op_find(const char *onnx_name, size_t length);

/* Operators that leave every element where it is: Flatten, Reshape, Squeeze, Unsqueeze, Identity, Dropout. */
bool qb_op_is_reshape(qb_op op);

/* From the quotient q of a value and its step to the code, zero point z. QuantizeLinear is the first; the others come
 * from networks that spell quantization as arithmetic (Mul, Round, Clip, Mul). */
typedef enum qb_code_rounding {
  QB_ROUND_EVEN,    /* round(q) + z, ties to even */
  QB_ROUND_SHIFTED, /* round(q + z), ties to even */
  QB_ROUND_HALF_UP, /* floor(q + z + 1/2) */
  QB_ROUND_DOWN     /* floor(q + z) */
} qb_code_rounding;

/* A spatial window, axes (height, width). */
typedef struct qb_window {
  int32_t kernel[2], stride[2], dilation[2];
  int32_t pad_begin[2], pad_end[2]; /* explicit, auto_pad resolved */
} qb_window;

/* Conv: input (N, C, H, W), weight (OC, C/group, KH, KW), bias (OC) optional.
 * ConvTranspose: weight (C, OC/group, KH, KW); the output is cropped by the pads, `output_padding` is in the shape. */
typedef struct qb_conv_attributes {
  qb_window window;
  int32_t group;
} qb_conv_attributes;

/* MaxPool, AveragePool. A ceil_mode window that sticks out beyond the pads sees only what is inside. */
typedef struct qb_pool_attributes {
  qb_window window;
  bool count_include_pad; /* AveragePool: divide by the window's area inside the padded image, else inside the image */
} qb_pool_attributes;

/* Per-element affine map of channel c: y = scale[c] x + shift[c] with scale = gamma / sqrt(var + eps). The four
 * tensors stay inputs of the node: x, gamma, beta, mean, var, each (C). */
typedef struct qb_batch_norm_attributes {
  float epsilon;
} qb_batch_norm_attributes;

/* Clip to [lo, hi]; a missing limit is -INFINITY or INFINITY. An upper limit per channel (ReLU6 after equalization) is
 * hi_channels, one float per channel of axis 1, which then replaces hi; else NULL. */
typedef struct qb_clip_attributes {
  float lo, hi;
  const float *hi_channels;
} qb_clip_attributes;

typedef struct qb_attributes {
  union {
    qb_conv_attributes conv;             /* CONV, CONV_TRANSPOSE */
    qb_pool_attributes pool;             /* MAX_POOL, AVERAGE_POOL */
    qb_batch_norm_attributes batch_norm; /* BATCH_NORM */
    qb_clip_attributes clip;             /* CLIP */
    struct {
      float alpha, beta;
    } linear; /* LEAKY_RELU (alpha); HARD_SIGMOID: clip(alpha x + beta, 0, 1) */
    struct {
      int32_t axis, end_axis; /* SOFTMAX over the axes [axis, end_axis); CONCAT, QUANTIZE_LINEAR, ..: axis alone */
    } axes;
    struct {
      int32_t axis;              /* of a scale vector; ignored for a scalar scale */
      float lo, hi;              /* range of the codes, for example 0 and 255; infinite where nothing clips */
      qb_code_rounding rounding; /* QUANTIZE_LINEAR: how a quotient becomes a code */
      float factor;  /* QUANTIZE_LINEAR: the quotient is factor x instead of x / scale; 0: it is x / scale */
      int32_t steps; /* QUANTIZE_LINEAR: bounds let the code be off by as many, within the range; executors do not */
    } quantize;      /* QUANTIZE_LINEAR, DEQUANTIZE_LINEAR */
    struct {
      int32_t permutation[QB_MAX_RANK];
    } transpose; /* TRANSPOSE */
    struct {
      int32_t begin[QB_MAX_RANK], end[QB_MAX_RANK]; /* elements added at both ends of every axis; may be negative */
      float value;
    } pad; /* PAD, constant mode */
  };
} qb_attributes;

#endif
