/* Small graphs for the executor's tests: built node by node, or read from tests/golden/run_ops.txt. */
#ifndef QB_TEST_RUN_SUPPORT_H
#define QB_TEST_RUN_SUPPORT_H

#include <stdio.h>

#include "base/rng.h"
#include "graph/graph.h"

/* Every helper asserts on failure (cmocka). */

/* A graph with one input of the given shape (batch one). */
qb_value_id run_test_begin(qb_graph *graph, const char *name, qb_shape input);

/* A constant with the given elements, or, when `data` is NULL, normal random ones times `scale`. */
qb_value_id run_test_constant(qb_graph *graph, qb_rng *rng, qb_shape shape, double scale, const float *data);

/* A node named after its index; `given` may be NULL. Returns its output. */
qb_value_id run_test_node(qb_graph *graph, qb_op op, const qb_value_id *inputs, int32_t input_count,
                          const qb_attributes *attributes, const qb_shape *given);

/* A Conv with random weights and, when `bias`, a random bias. */
qb_value_id run_test_conv(qb_graph *graph, qb_rng *rng, qb_value_id x, int64_t out_channels, int32_t group,
                          qb_window window, bool bias);

qb_window run_test_window(int32_t kernel, int32_t stride, int32_t pad);

/* `count` normal random numbers times `scale`; release with qb_free. */
float *run_test_random(qb_rng *rng, size_t count, double scale);

/* One case of the golden file. The graph has the batch axis 1; input and expected hold `count` samples. */
typedef struct run_case {
  char name[64];
  qb_graph graph;
  int32_t count;
  float *input, *expected;
  size_t output_elements; /* of all samples */
} run_case;

FILE *run_case_open(const char *path);
bool run_case_next(FILE *file, run_case *c); /* false at the end */
void run_case_free(run_case *c);

#endif
