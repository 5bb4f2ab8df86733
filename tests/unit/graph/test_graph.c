/* Building, editing, cloning and validating graphs, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "graph/graph.h"
#include "support/faults.h"

static const float ones[64] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                               1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                               1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* x (1,4) -> Gemm w (3,4) -> h -> Relu -> a -> Identity -> y (1,3) */
static qb_status build(qb_graph *graph, qb_error *error) {
  qb_value_id x, w;
  qb_node_id gemm, relu, identity;
  qb_view weight = {.dtype = QB_DTYPE_F32, .shape = QB_SHAPE(3, 4), .data = ones};
  qb_attributes none = {0};
  qb_status status = qb_graph_init(graph, "net.onnx", error);
  if (status == QB_OK)
    status = qb_graph_add_input(graph, "x", &QB_SHAPE(1, 4), &x, error);
  if (status == QB_OK)
    status = qb_graph_add_constant(graph, "w", &weight, &w, error);
  if (status == QB_OK)
    status = qb_graph_add_node(graph, QB_OP_GEMM, "fc", (qb_value_id[]){x, w}, 2, &none, "h", NULL, &gemm, error);
  if (status == QB_OK)
    status = qb_graph_add_node(graph, QB_OP_RELU, "act", (qb_value_id[]){qb_graph_find(graph, "h")}, 1, &none, "a",
                               NULL, &relu, error);
  if (status == QB_OK)
    status = qb_graph_add_node(graph, QB_OP_IDENTITY, "", (qb_value_id[]){qb_graph_find(graph, "a")}, 1, &none, "y",
                               NULL, &identity, error);
  if (status == QB_OK)
    status = qb_graph_add_output(graph, qb_graph_find(graph, "y"), error);
  return status;
}

static int setup(void **state) {
  static qb_graph graph;
  *state = &graph;
  return build(&graph, NULL) == QB_OK ? 0 : -1;
}

static int teardown(void **state) {
  qb_graph_free(*state);
  return 0;
}

static void a_graph_is_what_was_added(void **state) {
  const qb_graph *graph = *state;
  assert_int_equal(qb_graph_validate(graph, NULL), QB_OK);
  assert_int_equal(graph->node_count, 3);
  assert_int_equal(graph->value_count, 5);
  assert_string_equal(graph->nodes[2].name, "y"); /* a node without a name is called after its output */
  assert_int_equal(graph->values[qb_graph_find(graph, "h")].producer, 0);
  assert_int_equal(graph->values[qb_graph_find(graph, "x")].producer, QB_NONE);
  assert_true(qb_shape_equal(&graph->values[graph->nodes[0].output].shape, &QB_SHAPE(1, 3)));
  assert_int_equal(qb_graph_find(graph, "nobody"), QB_NONE);
  assert_int_equal(qb_graph_use_count(graph, qb_graph_find(graph, "y")), 1);
  assert_int_equal(qb_graph_use_count(graph, qb_graph_find(graph, "h")), 1);
}

static void the_data_of_a_constant(void **state) {
  const qb_graph *graph = *state;
  assert_ptr_equal(qb_graph_constant(graph, qb_graph_find(graph, "w")), ones);
  assert_null(qb_graph_constant(graph, QB_NONE));
}

static void a_name_is_defined_once(void **state) {
  qb_graph *graph = *state;
  qb_error error;
  qb_value_id id;
  assert_int_equal(qb_graph_add_input(graph, "w", &QB_SHAPE(1, 4), &id, &error), QB_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "'w'"));
  qb_node_id node;
  qb_attributes none = {0};
  assert_int_equal(qb_graph_add_node(graph, QB_OP_RELU, "again", (qb_value_id[]){0}, 1, &none, "h", NULL, &node,
                                     &error),
                   QB_ERROR_FORMAT);
  assert_int_equal(qb_graph_validate(graph, NULL), QB_OK);
}

static void thousands_of_names_are_found(void **state) {
  qb_graph *graph = *state;
  char name[32];
  qb_value_id id;
  qb_view scalar = {.dtype = QB_DTYPE_F32, .data = ones};
  for (int i = 0; i < 3000; i++) {
    snprintf(name, sizeof name, "constant%d", i);
    assert_int_equal(qb_graph_add_constant(graph, name, &scalar, &id, NULL), QB_OK);
  }
  for (int i = 0; i < 3000; i++) {
    snprintf(name, sizeof name, "constant%d", i);
    assert_int_equal(qb_graph_find(graph, name), 5 + i);
  }
}

static void inputs_need_a_batch_axis(void **state) {
  qb_graph *graph = *state;
  qb_error error;
  qb_value_id id;
  const qb_shape refused[] = {{0}, QB_SHAPE(4), QB_SHAPE(1, 0), QB_SHAPE(1, -2), QB_SHAPE(1, 1LL << 40)};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    assert_int_equal(qb_graph_add_input(graph, "bad", &refused[i], &id, &error), QB_ERROR_SHAPE);
    assert_non_null(strstr(error.message, "'bad'"));
  }
}

static void a_removed_node_passes_its_output_on(void **state) {
  qb_graph *graph = *state;
  qb_graph_remove_node(graph, 2); /* the Identity: the Relu now produces y */
  assert_int_equal(graph->node_count, 2);
  assert_int_equal(graph->nodes[1].output, qb_graph_find(graph, "y"));
  assert_int_equal(qb_graph_validate(graph, NULL), QB_OK);
  qb_graph_remove_node(graph, 1);
  assert_int_equal(graph->nodes[0].output, qb_graph_find(graph, "y"));
  assert_int_equal(qb_graph_validate(graph, NULL), QB_OK);
}

static void a_clone_is_independent(void **state) {
  qb_graph *graph = *state;
  qb_graph clone;
  assert_int_equal(qb_graph_clone(graph, &clone, NULL), QB_OK);
  qb_value_id w = qb_graph_find(&clone, "w");
  float *data = qb_graph_replace_constant(&clone, w);
  assert_non_null(data);
  data[0] = 7;
  qb_graph_remove_node(&clone, 2);
  assert_int_equal(qb_graph_validate(&clone, NULL), QB_OK);
  assert_int_equal(graph->node_count, 3);
  assert_true(qb_view_f32(&graph->values[w].constant)[0] == 1);
  assert_true(qb_view_f32(&clone.values[w].constant)[0] == 7);
  assert_ptr_equal(graph->values[w].constant.data, ones);
  qb_graph_free(&clone);
  assert_int_equal(qb_graph_validate(graph, NULL), QB_OK);
}

static void a_missing_slot_between_is_no_value(void **state) {
  qb_graph *graph = *state;
  qb_value_id bias;
  float *data;
  assert_int_equal(qb_graph_new_constant(graph, "b", &QB_SHAPE(3), &bias, &data, NULL), QB_OK);
  assert_int_equal(qb_graph_set_input(graph, 0, 2, bias, NULL), QB_OK);
  assert_int_equal(graph->nodes[0].input_count, 3);
  assert_int_equal(graph->nodes[0].inputs[2], bias);
  assert_int_equal(qb_graph_validate(graph, NULL), QB_OK);
  assert_int_equal(qb_graph_set_input(graph, 1, 2, bias, NULL), QB_OK);
  assert_int_equal(graph->nodes[1].inputs[1], QB_NONE);
}

/* Every invariant that validation names, broken one at a time. */
static void validation_notices_damage(void **state) {
  qb_graph *graph = *state;
  qb_error error;
  qb_value_id saved = graph->nodes[1].output;

  graph->values[saved].producer = 0;
  assert_int_equal(qb_graph_validate(graph, &error), QB_ERROR_FORMAT);
  graph->values[saved].producer = 1;

  ((qb_value_id *)(uintptr_t)graph->nodes[0].inputs)[0] = qb_graph_find(graph, "a"); /* a cycle */
  assert_int_equal(qb_graph_validate(graph, &error), QB_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "'fc'"));
  ((qb_value_id *)(uintptr_t)graph->nodes[0].inputs)[0] = 99;
  assert_int_equal(qb_graph_validate(graph, &error), QB_ERROR_FORMAT);
  ((qb_value_id *)(uintptr_t)graph->nodes[0].inputs)[0] = qb_graph_find(graph, "x");
  assert_int_equal(qb_graph_validate(graph, &error), QB_OK);

  graph->values[saved].shape.dims[1] = 5;
  assert_int_equal(qb_graph_validate(graph, &error), QB_ERROR_SHAPE);
  graph->values[saved].shape.dims[1] = 3;

  float *data = qb_graph_replace_constant(graph, qb_graph_find(graph, "w"));
  assert_non_null(data);
  data[5] = NAN;
  assert_int_equal(qb_graph_validate(graph, &error), QB_ERROR_NUMERIC);
  assert_non_null(strstr(error.message, "'w'"));
  data[5] = 0;

  qb_value_id removed = graph->nodes[1].output;
  qb_graph_remove_node(graph, 2);
  graph->outputs[0] = removed; /* left behind by the removal, computed by nobody */
  assert_int_equal(qb_graph_validate(graph, &error), QB_ERROR_FORMAT);
  graph->output_count = 0;
  assert_int_equal(qb_graph_validate(graph, &error), QB_ERROR_FORMAT);
}

static void linear_layers_are_seen_alike(void **state) {
  qb_graph *graph = *state;
  qb_linear linear;
  qb_value_id image, weight;
  qb_node_id node;
  assert_true(qb_graph_linear(graph, 0, &linear));
  assert_int_equal(linear.out_channels, 3);
  assert_int_equal(linear.row_length, 4);
  assert_int_equal(linear.bias, QB_NONE);
  assert_int_equal(qb_graph_node_macs(graph, 0), 12);
  assert_false(qb_graph_linear(graph, 1, &linear));
  assert_int_equal(qb_graph_node_macs(graph, 1), 0);

  qb_attributes attributes = {.conv = {.window = {.kernel = {2, 2}, .stride = {1, 1}, .dilation = {1, 1}}, .group = 2}};
  qb_view view = {.dtype = QB_DTYPE_F32, .shape = QB_SHAPE(4, 2, 2, 2), .data = ones};
  assert_int_equal(qb_graph_add_input(graph, "image", &QB_SHAPE(1, 4, 3, 3), &image, NULL), QB_OK);
  assert_int_equal(qb_graph_add_constant(graph, "kernel", &view, &weight, NULL), QB_OK);
  qb_value_id inputs[] = {image, weight};
  assert_int_equal(qb_graph_add_node(graph, QB_OP_CONV, "conv", inputs, 2, &attributes, "c", NULL, &node, NULL), QB_OK);
  assert_true(qb_graph_linear(graph, node, &linear));
  assert_int_equal(linear.out_channels, 4);
  assert_int_equal(linear.in_channels, 4);
  assert_int_equal(linear.row_length, 8);
  assert_int_equal(qb_graph_node_macs(graph, node), 4 * 2 * 2 * 8);

  assert_int_equal(qb_graph_add_node(graph, QB_OP_CONV_TRANSPOSE, "up", inputs, 2, &attributes, "u", NULL, &node, NULL),
                   QB_OK);
  assert_true(qb_graph_linear(graph, node, &linear));
  assert_int_equal(linear.out_channels, 4); /* OC/G = 2 times G = 2 */
  assert_int_equal(linear.in_channels, 4);
  assert_int_equal(linear.channel_axis, 1);
  assert_int_equal(linear.row_length, 2 * 4);
  assert_int_equal(qb_graph_node_macs(graph, node), 4 * 3 * 3 * 2 * 4);
}

static qb_status build_clone_and_free(void *context, qb_error *error) {
  (void)context;
  qb_graph graph = {0}, clone = {0};
  qb_status status = build(&graph, error);
  if (status == QB_OK)
    status = qb_graph_clone(&graph, &clone, error);
  qb_graph_free(&clone);
  qb_graph_free(&graph);
  return status;
}

static void failed_allocations_are_errors(void **state) {
  (void)state;
  assert_true(fault_every_allocation(build_clone_and_free, NULL, 100) > 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(a_graph_is_what_was_added, setup, teardown),
      cmocka_unit_test_setup_teardown(the_data_of_a_constant, setup, teardown),
      cmocka_unit_test_setup_teardown(a_name_is_defined_once, setup, teardown),
      cmocka_unit_test_setup_teardown(thousands_of_names_are_found, setup, teardown),
      cmocka_unit_test_setup_teardown(inputs_need_a_batch_axis, setup, teardown),
      cmocka_unit_test_setup_teardown(a_removed_node_passes_its_output_on, setup, teardown),
      cmocka_unit_test_setup_teardown(a_clone_is_independent, setup, teardown),
      cmocka_unit_test_setup_teardown(a_missing_slot_between_is_no_value, setup, teardown),
      cmocka_unit_test_setup_teardown(validation_notices_damage, setup, teardown),
      cmocka_unit_test_setup_teardown(linear_layers_are_seen_alike, setup, teardown),
      cmocka_unit_test(failed_allocations_are_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
