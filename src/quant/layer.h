/* One layer's weight on its way to integers: cut into the parts that share a scale, a grid per part, a code per
 * weight, and written back into the graph. Every scheme goes through here; they differ in how codes are chosen. */
#ifndef QB_QUANT_LAYER_H
#define QB_QUANT_LAYER_H

#include "graph/graph.h"
#include "quant/grid.h"

/* A dense weight seen as (outer, count, inner): element (o, part, i) lies at (o * count + part) * inner + i and has
 * the scale of `part`. */
typedef struct qb_cut {
  int32_t axis; /* of the canonical layout, QB_NONE for one scale */
  size_t outer, count, inner;
} qb_cut;

/* How a layer's weight is cut. Per channel is an axis, because that is what DequantizeLinear can express:
 *   Conv (OC, IC/G, KH, KW), Gemm and MatMul (OUT, IN)   axis 0: one scale per output channel
 *   ConvTranspose (IC, OC/G, KH, KW), one group          axis 1: one scale per output channel
 *   ConvTranspose, several groups                        axis 0: one scale per input channel; axis 1 would share a
 *                                                        scale between unrelated channels of all groups */
qb_cut qb_cut_weight(const qb_graph *graph, const qb_linear *linear, qb_granularity granularity);

/* The weights of one part. */
qb_slice qb_cut_slice(const qb_cut *cut, const float *weights, size_t part);

/* Grids and codes of a layer. */
typedef struct qb_layer_codes {
  qb_cut cut;
  int32_t bits;
  bool is_signed;
  bool stored_unsigned; /* written plus 2^(bits-1), the zero point */
  qb_grid *grids;       /* (cut.count) */
  int32_t *codes;       /* (outer * count * inner), canonical layout */
} qb_layer_codes;

/* Makes room and chooses the grids for `weights`; codes are left 0. QB_ERROR_MEMORY. Free in every case. */
QB_MUST_CHECK qb_status qb_layer_codes_create(const qb_cut *cut, const float *weights,
                                              const qb_quantize_settings *settings, int bits, qb_layer_codes *layer,
                                              qb_error *error);
void qb_layer_codes_free(qb_layer_codes *layer);

/* The nearest code of every weight. */
void qb_layer_codes_nearest(qb_layer_codes *layer, const float *weights);

/* The float32 numbers that the codes stand for, in the layout of the weight. */
void qb_layer_codes_values(const qb_layer_codes *layer, float *values);

/* Replaces the constant by the values of its codes, and attaches the codes in the smallest carrier that holds them:
 * int8 or uint8 up to 8 bits, int16 or uint16 above. QB_ERROR_MEMORY leaves the constant as it was. */
QB_MUST_CHECK qb_status qb_layer_codes_write(const qb_layer_codes *layer, qb_graph *graph, qb_value_id weight,
                                             qb_error *error);

#endif
