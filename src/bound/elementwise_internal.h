/* Shared by elementwise.c (the walk), elementwise_linear.c (layers) and elementwise_rules.c (all other operators). */
#ifndef QB_BOUND_ELEMENTWISE_INTERNAL_H
#define QB_BOUND_ELEMENTWISE_INTERNAL_H

#include <string.h>

#include "bound/elementwise.h"
#include "bound/fault.h"

enum { INFINITY_BITS = 0x7f800000 };

/* Working memory that layers share: handed back and taken again it would be cleared page by page. */
typedef struct element_buffer {
  float *data;
  size_t count;
} element_buffer;

/* A rule fills y->limit and y->exponent; `limit` is allocated. Where it knows nothing it leaves infinity, which the
 * layerwise ranges then limit. */
typedef struct element_call {
  const qb_pair *pair;
  qb_node_id id;
  const qb_node *node;                /* of the quantized graph */
  const qb_node *original;            /* its partner or NULL */
  const qb_elementwise_state *states; /* by quantized value */
  qb_elementwise_state *last; /* of input 0 where nobody else will read it, else NULL: its arrays may be taken */
  qb_elementwise_state *y;
  int32_t products;      /* passes of a layer through its inputs, set by the rule of layers */
  bool from_ranges;      /* set by a rule that knows nothing: the exponent is to be that of the layerwise ranges */
  const qb_shape *shape; /* of the output */
  qb_arena *scratch;     /* emptied after the rule */
  element_buffer *buffer;
  qb_error *error;
} element_call;

typedef qb_status (*element_rule)(element_call *call);

/* By qb_op. */
extern const element_rule element_rules[QB_OP_COUNT];

/* Conv, ConvTranspose, Gemm, MatMul. */
QB_MUST_CHECK qb_status element_linear(element_call *call);

/* Numbers >= 0 are ordered as their bits are, and choices between integers are vectorized where those between floats,
 * which might trap, are not. */
static inline int32_t element_bits(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float element_of_bits(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* A float >= x for x >= 0: the relative part covers the rounding of a normal number, the absolute one that of a
 * subnormal. Zero stays zero, NaN becomes infinity. */
static inline float element_up(double x) {
  int32_t bits = element_bits((float)(x * (1 + 0x1p-23) + (x > 0 ? 0x1p-149 : 0))) & INT32_MAX;
  return element_of_bits(bits < INFINITY_BITS ? bits : INFINITY_BITS);
}

/* 2^shift, or a larger number where that would be tiny: a factor of upper bounds that never loses them. */
static inline double element_scale(int32_t shift) { return shift < -800 ? QB_SMALLEST : ldexp(1, shift); }

#endif
