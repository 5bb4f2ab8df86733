/* Two networks on one input at a time: how much of a difference every node passes on, and how much it adds.
 *
 * For a node f of the original with partner f', inputs x and x', outputs y = f(x) and y' = f'(x'), let z = f(x'), the
 * original node on the quantized network's input. Then
 *   ratio = ||y - z||_2 / ||x - x'||_2       what becomes of the difference D = x - x' (W D of a linear layer)
 *   term  = ||z - y'||_2                     what this node adds (dW S' + db of a linear layer)
 * so that G(y) = ratio G(x) + term is at least ||y - y'||_2 wherever G(x) is at least ||x - x'||_2 (theory section 5).
 * Sums and concatenations of several activations have the rule of their norm instead. What is reported was computed in
 * the engine's precision: numbers of a run, no bounds. */
#ifndef QB_RUN_REALISED_H
#define QB_RUN_REALISED_H

#include "graph/pair.h"
#include "run/run.h"

typedef enum qb_realised_kind {
  QB_REALISED_COPY,   /* the elements of its one input */
  QB_REALISED_NODE,   /* one activation: ratio and term */
  QB_REALISED_SUM,    /* Add, Sub of activations: the sum of factor G */
  QB_REALISED_CONCAT, /* the root of the sum of squares */
} qb_realised_kind;

/* One live node of the quantized graph; a QuantizeLinear belongs to the DequantizeLinear behind it. */
typedef struct qb_realised_step {
  qb_realised_kind kind;
  qb_node_id node;
  qb_value_id output;
  const qb_value_id *from; /* (from_count) activations of the quantized graph */
  const double *factor;    /* (from_count) of SUM: how often broadcasting repeats an operand, as a norm */
  int32_t from_count;
  bool is_linear;
  bool contracts; /* NODE: both networks have the same function here and it enlarges no difference: ratio <= 1 */
} qb_realised_step;

typedef struct qb_realised_numbers {
  double ratio, term; /* NODE; else 1 and 0 */
  double state;       /* NODE: ||x'||_2 */
  double difference;  /* ||y - y'||_2 */
  double chain;       /* G(y) */
} qb_realised_numbers;

typedef struct qb_realised qb_realised;

/* Compiles both graphs of the pair and every node that has to run on another input. QB_ERROR_UNSUPPORTED names a node
 * that multiplies activations or reads codes as numbers; errors of qb_run_create. Borrows the pair. */
QB_MUST_CHECK qb_status qb_realised_create(const qb_pair *pair, qb_engine engine, int32_t threads,
                                           qb_realised **realised, qb_error *error);
void qb_realised_free(qb_realised *realised);

int32_t qb_realised_count(const qb_realised *realised);
const qb_realised_step *qb_realised_steps(const qb_realised *realised);

/* The step of the first network output. */
int32_t qb_realised_output(const qb_realised *realised);

/* Runs one sample; `numbers` (qb_realised_count) receives what happened. QB_ERROR_NUMERIC when something is not finite.
 */
QB_MUST_CHECK qb_status qb_realised_forward(qb_realised *realised, const float *sample, qb_realised_numbers *numbers,
                                            qb_error *error);

/* G or a bound like it at the output of a step that is no NODE, from those of its inputs: values is indexed by value
 * id of the quantized graph. */
double qb_realised_combine(const qb_realised_step *step, const double *values);

#endif
