/* Output shapes of every operator family, and the shapes that are refused. Expected values are written by hand from the
 * ONNX definitions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "graph/shape_infer.h"

/* One node on inputs of the given shapes: the first is an activation, the others constants unless said. */
typedef struct node_case {
  qb_op op;
  qb_attributes attributes;
  int input_count;
  qb_shape inputs[5];
  const qb_shape *given;
  bool activations; /* every input is an activation */
} node_case;

static qb_status infer(const node_case *c, qb_shape *output, qb_error *error) {
  static const float zeros[100000];
  qb_graph graph;
  qb_value_id ids[5];
  qb_node_id node;
  char name[16];
  assert_int_equal(qb_graph_init(&graph, "net", NULL), QB_OK);
  for (int i = 0; i < c->input_count; i++) {
    snprintf(name, sizeof name, "input%d", i);
    qb_view view = {.dtype = QB_DTYPE_F32, .shape = c->inputs[i], .data = zeros};
    qb_status status = i == 0 || c->activations ? qb_graph_add_input(&graph, name, &c->inputs[i], &ids[i], error)
                                                : qb_graph_add_constant(&graph, name, &view, &ids[i], error);
    assert_int_equal(status, QB_OK);
  }
  qb_status status =
      qb_graph_add_node(&graph, c->op, "the_node", ids, c->input_count, &c->attributes, "out", c->given, &node, error);
  if (status == QB_OK)
    *output = graph.values[graph.nodes[node].output].shape;
  qb_graph_free(&graph);
  return status;
}

static void gives(node_case c, qb_shape expected) {
  qb_shape output;
  qb_error error = {.message = ""};
  char got[QB_SHAPE_TEXT], wanted[QB_SHAPE_TEXT];
  if (infer(&c, &output, &error) != QB_OK)
    fail_msg("%s: %s", qb_op_name(c.op), error.message);
  assert_string_equal(qb_shape_print(&output, got), qb_shape_print(&expected, wanted));
}

/* A refusal names the node, the operator and the input's shape. */
static void refuses(node_case c) {
  qb_shape output;
  qb_error error;
  qb_status status = infer(&c, &output, &error);
  if (status != QB_ERROR_SHAPE)
    fail_msg("%s is accepted or fails otherwise: %s", qb_op_name(c.op), qb_status_name(status));
  assert_non_null(strstr(error.message, "'the_node'"));
  assert_non_null(strstr(error.message, qb_op_name(c.op)));
}

static qb_window window(int kernel, int stride, int dilation, int begin, int end) {
  return (qb_window){.kernel = {kernel, kernel},
                     .stride = {stride, stride},
                     .dilation = {dilation, dilation},
                     .pad_begin = {begin, begin},
                     .pad_end = {end, end}};
}

static node_case conv(qb_window w, int group, qb_shape x, qb_shape weight) {
  return (node_case){QB_OP_CONV, {.conv = {w, group}}, 2, {x, weight}, NULL, false};
}

static void convolutions(void **state) {
  (void)state;
  qb_shape image = QB_SHAPE(1, 3, 224, 224);
  gives(conv(window(7, 2, 1, 3, 3), 1, image, QB_SHAPE(64, 3, 7, 7)), QB_SHAPE(1, 64, 112, 112));
  gives(conv(window(3, 2, 1, 0, 1), 1, image, QB_SHAPE(32, 3, 3, 3)), QB_SHAPE(1, 32, 112, 112));
  gives(conv(window(3, 1, 2, 2, 2), 3, image, QB_SHAPE(6, 1, 3, 3)), QB_SHAPE(1, 6, 224, 224));
  gives(conv(window(3, 1, 1, 2, 2), 1, QB_SHAPE(1, 3, 1, 1), QB_SHAPE(2, 3, 3, 3)), QB_SHAPE(1, 2, 3, 3));
  qb_window oblong = {.kernel = {1, 5}, .stride = {1, 2}, .dilation = {1, 1}, .pad_begin = {0, 2}, .pad_end = {0, 2}};
  gives(conv(oblong, 1, QB_SHAPE(1, 3, 8, 9), QB_SHAPE(4, 3, 1, 5)), QB_SHAPE(1, 4, 8, 5));

  node_case biased = conv(window(1, 1, 1, 0, 0), 1, image, QB_SHAPE(8, 3, 1, 1));
  biased.input_count = 3;
  biased.inputs[2] = QB_SHAPE(8);
  gives(biased, QB_SHAPE(1, 8, 224, 224));
  biased.inputs[2] = QB_SHAPE(7);
  refuses(biased);
  refuses(conv(window(3, 1, 1, 0, 0), 1, QB_SHAPE(1, 3, 2, 2), QB_SHAPE(2, 3, 3, 3)));
  refuses(conv(window(3, 1, 1, 0, 0), 1, image, QB_SHAPE(2, 4, 3, 3)));
  refuses(conv(window(3, 1, 1, 0, 0), 2, image, QB_SHAPE(2, 3, 3, 3)));
  refuses(conv(window(3, 1, 1, 0, 0), 3, image, QB_SHAPE(4, 1, 3, 3)));
  refuses(conv(window(5, 1, 1, 0, 0), 1, image, QB_SHAPE(2, 3, 3, 3)));
  refuses(conv(window(3, 0, 1, 0, 0), 1, image, QB_SHAPE(2, 3, 3, 3)));
  refuses(conv(window(3, 1, 1, -1, 0), 1, image, QB_SHAPE(2, 3, 3, 3)));
  refuses(conv(window(3, 1, 1, INT32_MAX, 0), 1, image, QB_SHAPE(2, 3, 3, 3)));
  refuses(conv(window(3, 1, 1, 0, 0), 1, QB_SHAPE(1, 3, 224), QB_SHAPE(2, 3, 3, 3)));
}

static void transposed_convolutions(void **state) {
  (void)state;
  node_case c = {QB_OP_CONV_TRANSPOSE,
                 {.conv = {window(3, 2, 1, 1, 1), 2}},
                 2,
                 {QB_SHAPE(1, 4, 5, 5), QB_SHAPE(4, 3, 3, 3)},
                 NULL,
                 false};
  gives(c, QB_SHAPE(1, 6, 9, 9)); /* (5-1)*2 + 3 - 2 */
  c.given = &QB_SHAPE(1, 6, 10, 10);
  gives(c, QB_SHAPE(1, 6, 10, 10)); /* output_padding 1 */
  c.given = &QB_SHAPE(1, 6, 99, 99);
  refuses(c);
  c.given = NULL;
  c.inputs[1] = QB_SHAPE(5, 3, 3, 3);
  refuses(c);
}

static void matrices(void **state) {
  (void)state;
  qb_shape weight = QB_SHAPE(10, 512);
  gives((node_case){.op = QB_OP_GEMM, .input_count = 2, .inputs = {QB_SHAPE(1, 512), weight}}, QB_SHAPE(1, 10));
  gives((node_case){.op = QB_OP_MATMUL, .input_count = 2, .inputs = {QB_SHAPE(1, 7, 512), weight}}, QB_SHAPE(1, 7, 10));
  gives((node_case){.op = QB_OP_GEMM, .input_count = 3, .inputs = {QB_SHAPE(1, 512), weight, QB_SHAPE(10)}},
        QB_SHAPE(1, 10));
  refuses((node_case){.op = QB_OP_GEMM, .input_count = 2, .inputs = {QB_SHAPE(1, 511), weight}});
  refuses((node_case){.op = QB_OP_GEMM, .input_count = 3, .inputs = {QB_SHAPE(1, 512), weight, QB_SHAPE(512)}});
}

static void batch_norm_and_slopes(void **state) {
  (void)state;
  qb_shape x = QB_SHAPE(1, 8, 4, 4), channels = QB_SHAPE(8);
  gives((node_case){.op = QB_OP_BATCH_NORM, .input_count = 5, .inputs = {x, channels, channels, channels, channels}},
        x);
  refuses(
      (node_case){.op = QB_OP_BATCH_NORM, .input_count = 5, .inputs = {x, channels, channels, channels, QB_SHAPE(7)}});
  gives((node_case){.op = QB_OP_PRELU, .input_count = 2, .inputs = {x, QB_SHAPE(8, 1, 1)}}, x);
  refuses((node_case){.op = QB_OP_PRELU, .input_count = 2, .inputs = {x, QB_SHAPE(8)}});
  refuses((node_case){.op = QB_OP_PRELU, .input_count = 2, .inputs = {x, QB_SHAPE(1, 8, 4, 4, 4)}});
}

static void functions_keep_the_shape(void **state) {
  (void)state;
  const qb_op ops[] = {QB_OP_RELU,       QB_OP_LEAKY_RELU, QB_OP_CLIP,     QB_OP_SIGMOID, QB_OP_HARD_SIGMOID,
                       QB_OP_HARD_SWISH, QB_OP_TANH,       QB_OP_IDENTITY, QB_OP_DROPOUT};
  for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
    gives((node_case){.op = ops[i], .input_count = 1, .inputs = {QB_SHAPE(1, 2, 3)}}, QB_SHAPE(1, 2, 3));
  node_case softmax = {.op = QB_OP_SOFTMAX, .input_count = 1, .inputs = {QB_SHAPE(1, 10)}};
  softmax.attributes.axes.axis = 1;
  softmax.attributes.axes.end_axis = 2;
  gives(softmax, QB_SHAPE(1, 10));
  softmax.attributes.axes.axis = 0;
  refuses(softmax);
  softmax.attributes.axes.axis = 2;
  refuses(softmax);
}

static void pools(void **state) {
  (void)state;
  node_case pool = {.op = QB_OP_MAX_POOL,
                    .attributes = {.pool = {window(3, 2, 1, 0, 0), false}},
                    .input_count = 1,
                    .inputs = {QB_SHAPE(1, 8, 6, 6)}};
  gives(pool, QB_SHAPE(1, 8, 2, 2));
  pool.given = &QB_SHAPE(1, 8, 3, 3); /* ceil_mode */
  gives(pool, QB_SHAPE(1, 8, 3, 3));
  pool.given = &QB_SHAPE(1, 8, 4, 4);
  refuses(pool);
  pool.given = &QB_SHAPE(1, 8, 1, 1);
  refuses(pool);
  pool.given = &QB_SHAPE(1, 7, 2, 2);
  refuses(pool);
  pool.given = NULL;
  pool.op = QB_OP_AVERAGE_POOL;
  pool.attributes.pool.window = window(2, 2, 1, 1, 1);
  gives(pool, QB_SHAPE(1, 8, 4, 4));
  pool.attributes.pool.window = window(9, 1, 1, 1, 1);
  refuses(pool);

  node_case mean = {.op = QB_OP_GLOBAL_AVERAGE_POOL, .input_count = 1, .inputs = {QB_SHAPE(1, 8, 6, 6)}};
  gives(mean, QB_SHAPE(1, 8, 1, 1));
  mean.op = QB_OP_REDUCE_MEAN;
  gives(mean, QB_SHAPE(1, 8, 1, 1));
  mean.given = &QB_SHAPE(1, 8);
  gives(mean, QB_SHAPE(1, 8));
  mean.inputs[0] = QB_SHAPE(1, 8);
  refuses(mean);
}

static void sums_and_products_broadcast_within_a_sample(void **state) {
  (void)state;
  qb_shape x = QB_SHAPE(1, 8, 4, 4);
  for (int op = QB_OP_ADD; op <= QB_OP_DIV; op++) {
    node_case c = {.op = (qb_op)op, .input_count = 2, .inputs = {x, x}, .activations = true};
    gives(c, x);
    c.inputs[1] = QB_SHAPE(1, 8, 1, 1); /* squeeze and excite */
    gives(c, x);
    c.inputs[1] = QB_SHAPE(1, 4, 4); /* would meet the batch axis of larger batches */
    refuses(c);
    c.activations = false;
    gives(c, x);
    c.inputs[1] = QB_SHAPE(8, 1, 1);
    gives(c, x);
    c.inputs[1] = (qb_shape){0};
    gives(c, x);
    c.inputs[1] = QB_SHAPE(3, 8, 4, 4); /* a constant with several samples */
    refuses(c);
    c.inputs[1] = QB_SHAPE(1, 1, 8, 4, 4);
    refuses(c);
    c.inputs[1] = QB_SHAPE(5, 1, 1);
    refuses(c);
  }
}

static void concatenations(void **state) {
  (void)state;
  node_case c = {.op = QB_OP_CONCAT,
                 .input_count = 3,
                 .inputs = {QB_SHAPE(1, 8, 4, 4), QB_SHAPE(1, 2, 4, 4), QB_SHAPE(1, 1, 4, 4)},
                 .activations = true};
  c.attributes.axes.axis = 1;
  gives(c, QB_SHAPE(1, 11, 4, 4));
  c.attributes.axes.axis = 2;
  refuses(c);
  c.attributes.axes.axis = 0;
  refuses(c);
  c.attributes.axes.axis = 4;
  refuses(c);
  c.attributes.axes.axis = 1;
  c.inputs[2] = QB_SHAPE(1, 1, 4);
  refuses(c);
}

static void rearrangements(void **state) {
  (void)state;
  node_case c = {.op = QB_OP_TRANSPOSE, .input_count = 1, .inputs = {QB_SHAPE(1, 2, 3, 4)}};
  memcpy(c.attributes.transpose.permutation, (int32_t[]){0, 3, 1, 2}, 4 * sizeof(int32_t));
  gives(c, QB_SHAPE(1, 4, 2, 3));
  memcpy(c.attributes.transpose.permutation, (int32_t[]){1, 0, 2, 3}, 4 * sizeof(int32_t));
  refuses(c);
  memcpy(c.attributes.transpose.permutation, (int32_t[]){0, 1, 1, 3}, 4 * sizeof(int32_t));
  refuses(c);

  node_case pad = {.op = QB_OP_PAD, .input_count = 1, .inputs = {QB_SHAPE(1, 2, 3, 4)}};
  pad.attributes.pad.begin[2] = 1;
  pad.attributes.pad.end[3] = -2;
  gives(pad, QB_SHAPE(1, 2, 4, 2));
  pad.attributes.pad.end[3] = -4;
  refuses(pad);
  pad.attributes.pad.end[3] = 0;
  pad.attributes.pad.begin[0] = 1;
  refuses(pad);

  const qb_op reshapes[] = {QB_OP_FLATTEN, QB_OP_RESHAPE, QB_OP_SQUEEZE, QB_OP_UNSQUEEZE};
  for (size_t i = 0; i < 4; i++) {
    node_case reshape = {.op = reshapes[i], .input_count = 1, .inputs = {QB_SHAPE(1, 2, 3, 4)}};
    reshape.given = &QB_SHAPE(1, 24);
    gives(reshape, QB_SHAPE(1, 24));
    reshape.given = &QB_SHAPE(1, 25);
    refuses(reshape);
    reshape.given = &QB_SHAPE(24); /* the batch axis is gone */
    refuses(reshape);
    reshape.given = &QB_SHAPE(2, 12);
    refuses(reshape);
  }
}

static void quantizers(void **state) {
  (void)state;
  qb_shape x = QB_SHAPE(1, 8, 4, 4);
  for (int op = QB_OP_QUANTIZE_LINEAR; op <= QB_OP_DEQUANTIZE_LINEAR; op++) {
    node_case c = {.op = (qb_op)op, .input_count = 3, .inputs = {x, {0}, {0}}};
    gives(c, x);
    c.attributes.quantize.axis = 1;
    c.inputs[1] = c.inputs[2] = QB_SHAPE(8);
    gives(c, x);
    c.inputs[2] = QB_SHAPE(7);
    refuses(c);
    c.inputs[2] = QB_SHAPE(8);
    c.attributes.quantize.axis = 2;
    refuses(c);
  }
}

static void missing_inputs_are_named(void **state) {
  (void)state;
  qb_graph graph;
  qb_value_id x;
  qb_node_id node;
  qb_error error;
  qb_attributes none = {0};
  none.axes.axis = 1;
  assert_int_equal(qb_graph_init(&graph, "net", NULL), QB_OK);
  assert_int_equal(qb_graph_add_input(&graph, "x", &QB_SHAPE(1, 2), &x, NULL), QB_OK);
  qb_value_id hole[] = {x, QB_NONE, x};
  assert_int_equal(qb_graph_add_node(&graph, QB_OP_CONCAT, "n", hole, 3, &none, "y", NULL, &node, &error),
                   QB_ERROR_SHAPE);
  assert_int_equal(qb_graph_add_node(&graph, QB_OP_ADD, "n", hole, 1, &none, "y", NULL, &node, &error),
                   QB_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "input 1"));
  assert_int_equal(qb_graph_add_node(&graph, QB_OP_RELU, "n", &hole[1], 1, &none, "y", NULL, &node, &error),
                   QB_ERROR_FORMAT);
  qb_graph_free(&graph);
}

static void names_of_operators(void **state) {
  (void)state;
  for (int op = 0; op < QB_OP_COUNT; op++) {
    const char *name = qb_op_name((qb_op)op);
    assert_int_equal(qb_op_find(name, strlen(name)), op);
    assert_int_equal(qb_op_find(name, strlen(name) - 1), QB_OP_COUNT);
  }
  assert_int_equal(qb_op_find("Einsum", 6), QB_OP_COUNT);
  assert_string_equal(qb_op_name(QB_OP_COUNT), "unknown");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(convolutions),
      cmocka_unit_test(transposed_convolutions),
      cmocka_unit_test(matrices),
      cmocka_unit_test(batch_norm_and_slopes),
      cmocka_unit_test(functions_keep_the_shape),
      cmocka_unit_test(pools),
      cmocka_unit_test(sums_and_products_broadcast_within_a_sample),
      cmocka_unit_test(concatenations),
      cmocka_unit_test(rearrangements),
      cmocka_unit_test(quantizers),
      cmocka_unit_test(missing_inputs_are_named),
      cmocka_unit_test(names_of_operators),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
