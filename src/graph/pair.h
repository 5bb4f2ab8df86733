/* Two graphs of one network, original and quantized, matched node by node. */
#ifndef QB_GRAPH_PAIR_H
#define QB_GRAPH_PAIR_H

#include "graph/graph.h"

/* For every node of the quantized graph its partner in the original, or QB_NONE for a node that only the quantized
 * graph has. Those without a partner are
 *   - QuantizeLinear and DequantizeLinear on activations,
 *   - nodes of the reshape family (Identity, Dropout, Flatten, ..) on either side: the same elements in the same order,
 *   - nodes that no network output depends on, which have to be skipped.
 * Every original node that an output depends on is some node's partner, except copies (reshape family).
 *
 * Partners have the same operator family and inputs that match in the same slots, or crosswise for Add and Mul of two
 * activations: look the values up in `value`, not by slot. What may differ between partners, and nothing else:
 *   - weights and biases of linear layers (equal shapes; a bias may be missing on one side),
 *   - the limits of Clip, per channel or not: `clip_differences` counts such nodes,
 *   - constant operands of Add, Sub, Mul, Div, Concat: `operand_differences` counts such nodes.
 * BatchNorm statistics, slopes and all other attributes are equal bit for bit; windows, groups and shapes agree; a
 * GlobalAveragePool may be partner of a ReduceMean, a Gemm of a MatMul.
 * A reader without a rule for one of these differences refuses when its count is not zero. */
typedef struct qb_pair {
  const qb_graph *original, *quantized; /* borrowed */
  qb_node_id *partner;                  /* (quantized->node_count), from qb_alloc */
  qb_value_id *value; /* (quantized->value_count), from qb_alloc: the original value that a value of the quantized
                         graph stands for (also behind QuantizeLinear and copies), QB_NONE for dead values and for
                         constants that only the quantized graph has */
  int32_t clip_differences, operand_differences;
  int32_t absorbed;    /* QuantizeLinear nodes with a Relu or Clip as partner; 0 from qb_pair_match */
  qb_graph *rescaled;  /* owned; where not NULL it is `original`, see qb_pair_match_any */
  int32_t rescaled_by; /* its channels were multiplied by 2^k, |k| at most this; 0 without `rescaled` */
  bool float32;        /* set by the caller: bounds also hold for every evaluation of both networks in float32 */
  bool own;            /* from qb_pair_own; 0 from all others */
} qb_pair;

/* True when the parameters of a quantized node that a bound takes for granted are those of its partner: slopes of
 * LeakyRelu, PRelu and HardSigmoid, BatchNormalization statistics and its epsilon, bit for bit. qb_pair_match refuses
 * graphs where they differ; a bound checks it once more. */
bool qb_pair_same_parameters(const qb_pair *pair, qb_node_id quantized_node);

/* Matches by structure from the outputs backwards; names do not matter. QB_ERROR_FORMAT says at which nodes the two
 * graphs part and why. Free with qb_pair_free in every case. */
QB_MUST_CHECK qb_status qb_pair_match(const qb_graph *original, const qb_graph *quantized, qb_pair *pair,
                                      qb_error *error);

/* The same, but also accepts a quantized graph without a Relu, or Clip from 0, whose work the clamp of the
 * QuantizeLinear that follows does (its lowest code stands for 0): that QuantizeLinear gets the Relu or Clip as its
 * partner. For readers that have the rule clip(relu(x), 0, M) against clip(x', 0, M). */
QB_MUST_CHECK qb_status qb_pair_match_absorbed(const qb_graph *original, const qb_graph *quantized, qb_pair *pair,
                                               qb_error *error);

/* What a bound matches with: qb_pair_match, else qb_pair_match_absorbed (the message is that of the first). Where the
 * quantized network was equalized before its weights were rounded, the channels of the original are rescaled likewise,
 * so that partners hold weights of one size: pair->original is then a clone with the same ids, of the same function in
 * exact arithmetic. The factors are guessed from limits of Clip, biases and sums of weights; whatever the guess, only
 * powers of two are used and only where every product is exact, so a wrong guess costs tightness and not truth. */
QB_MUST_CHECK qb_status qb_pair_match_any(const qb_graph *original, const qb_graph *quantized, qb_pair *pair,
                                          qb_error *error);

/* A graph with itself, to bound what float32 evaluation does to it: `quantized` is evaluated in float32, `original` is
 * exact, and its quantizers take the codes that the evaluation took. Partners and values are the same ids; copies,
 * QuantizeLinear and DequantizeLinear have no partner, as ever. QB_ERROR_MEMORY. Free with qb_pair_free in every case.
 */
QB_MUST_CHECK qb_status qb_pair_own(const qb_graph *graph, qb_pair *pair, qb_error *error);
void qb_pair_free(qb_pair *pair);

#endif
